/* What disk.c and disk_log.c share. */
#ifndef S2D_POOL_DISK_INTERNAL_H
#define S2D_POOL_DISK_INTERNAL_H

#include "pool/disk.h"
#include "pool/disk_format.h"
#include "pool/superblock.h"

struct disk {
    struct io *io;
    struct io_file *file;
    char *path;
    struct disk_identity identity;
    struct disk_geometry geometry;
    struct superblock *superblock; /* as it is on the medium, a block */
    bool changing;                 /* the superblock is being written */
    unsigned first_copy;           /* of it, to be written: the other one stays sound meanwhile */
    struct disk_log log;           /* of a capacity disk */
    struct cache_region regions[SUPERBLOCK_CACHE_REGIONS];
    size_t region_count; /* of a cache disk */
};

/* Waits until nobody writes the superblock; from then on the caller does, until it clears changing.
 * Returns 0 or -ECANCELED. */
must_check int co_disk_take_turn(struct disk *disk);

/* Which copy of the superblock is the best one now (0 A, 1 B); or as co_disk_look() says. */
must_check int co_disk_best_copy(struct disk *disk);

/* Writes one copy (0 A, 1 B) of a superblock whose other fields are set. Returns 0, -EIO,
 * -ECANCELED, … as the medium says. */
must_check int co_superblock_write(struct io_file *file, struct superblock *superblock,
                                   unsigned copy);

/* The same where the other copy was sound and of this disk when it was read last. When somebody has
 * overwritten it since, ours is taken back: a disk that is empty must not look like one that is
 * whole. Then -ENODEV; also -ENOMEM. (A wipe that has got at A and not yet at B cannot be told from
 * one copy that is somebody else's, which is mended: what is gone then is found when it is read.)
 */
must_check int co_superblock_replace(struct io_file *file, struct superblock *superblock,
                                     unsigned copy);

#endif
