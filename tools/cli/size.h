/* size: how people write and read sizes, in powers of two. Pure. */
#ifndef S2D_CLI_SIZE_H
#define S2D_CLI_SIZE_H

#include "s2d/base/base.h"

/* "512M", "2G", "1.5T", "4096": K, M, G, T, with or without "iB" or "B". Returns 0, -EINVAL,
 * -ERANGE (2^63 or more). */
must_check int size_parse(const char *text, uint64_t *ret_bytes);

#define SIZE_TEXT_MAX 24
/* "1.5 GiB", "16 MiB", "812 B". Returns text. */
const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX]);

#endif
