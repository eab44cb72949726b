/* sim_image: the contents of a simulated file: bytes by offset, zeros where nothing was written.
 * Memory is taken by the chunk as it is written, so a large file that holds little costs little.
 * Nothing suspends; out of memory aborts. */
#ifndef S2D_BASE_SIM_IMAGE_H
#define S2D_BASE_SIM_IMAGE_H

#include "s2d/base/base.h"

struct sim_image {
    char **chunks; /* NULL: all zeros */
    size_t count;
};

void sim_image_done(struct sim_image *image); /* a zeroed one is empty, and fine */

void sim_image_read(const struct sim_image *image, uint64_t offset, void *buffer, size_t length);
/* data NULL: zeros; chunks that become all zeros by that are given back. */
void sim_image_write(struct sim_image *image, uint64_t offset, const void *data, uint64_t length);
void sim_image_copy(struct sim_image *to, const struct sim_image *from, uint64_t offset,
                    uint64_t length);

#endif
