/* disk_image: a simulated disk as it was once, for each input anew. Making a world takes longer
 * than all that an input does. */
#ifndef S2D_FUZZ_DISK_IMAGE_H
#define S2D_FUZZ_DISK_IMAGE_H

#include "tests/unit/store_rig.h"

#define IMAGE_LOG_BYTES DISK_LOG_BYTES_MIN
/* With RIG_EXTENT_BYTES: the tables, the log, and four extents. */
#define IMAGE_DISK_BYTES (10 * MIB)

struct disk_image {
    struct rig rig;
    struct disk_geometry geometry;
    struct disk_log log;
    uint8_t *bytes; /* IMAGE_DISK_BYTES */
};

/* Claims a disk, runs co_populate(io, NULL) on it (NULL: nothing), and remembers what it holds. */
void disk_image_new(struct disk_image *image, void (*co_populate)(struct io *io, void *arg));

/* The disk is as it was. */
void disk_image_restore(struct disk_image *image);

/* Writes to the disk, not to what is remembered. */
void disk_image_poke(struct disk_image *image, uint64_t offset, const void *bytes, size_t length);

#endif
