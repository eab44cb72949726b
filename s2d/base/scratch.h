/* scratch: keeps what is written to a file in RAM (io_keep_writes() in io.h). Only loop.c includes
 * this. */
#ifndef S2D_BASE_SCRATCH_H
#define S2D_BASE_SCRATCH_H

#include "s2d/base/io.h"

struct scratch;

struct scratch *scratch_new(struct io_file *file); /* NULL: no memory */
void scratch_free(struct scratch *scratch);        /* nothing may be pending; NULL is fine */

/* As io_file_readv() and io_file_writev(). */
void scratch_readv(struct scratch *scratch, struct io_op *op, const struct iovec *iov,
                   int iov_count, uint64_t offset);
void scratch_writev(struct scratch *scratch, struct io_op *op, const struct iovec *iov,
                    int iov_count, uint64_t offset);

#endif
