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
    struct disk_log log;           /* of a capacity disk */
    struct cache_region regions[SUPERBLOCK_CACHE_REGIONS];
    size_t region_count; /* of a cache disk */
};

/* Waits until nobody writes the superblock; from then on the caller does, until it clears changing.
 * Returns 0 or -ECANCELED. */
must_check int co_disk_take_turn(struct disk *disk);

/* Writes one copy (0 A, 1 B) of a superblock whose other fields are set. Returns 0, -EIO,
 * -ECANCELED, … as the medium says. */
must_check int co_superblock_write(struct io_file *file, struct superblock *superblock,
                                   unsigned copy);

/* The same where the other copy is of this disk already. When somebody has overwritten it
 * meanwhile, ours is taken back: a disk that is empty must not look like one that is whole. Then
 * -ENODEV; also -ENOMEM. */
must_check int co_superblock_replace(struct io_file *file, struct superblock *superblock,
                                     unsigned copy);

#endif
