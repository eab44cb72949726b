/* vdisk_config: what the cluster database says of one virtual disk: who owns it, and where each
 * column of each slab lives and whether it may be counted (I3). Immutable once it is shown to a
 * mirror: every applied command that touches the vdisk makes a new one. Reference counted, because
 * several may be alive while requests that began under an older one finish. One reactor, nothing
 * suspends. */
#ifndef S2D_RESILIENCY_VDISK_CONFIG_H
#define S2D_RESILIENCY_VDISK_CONFIG_H

#include "cache-tier/store.h"

enum column_state {
    COLUMN_IN_SYNC = 1, /* holds every acknowledged write */
    COLUMN_STALE = 2,   /* missed some, or is new and empty */
};

struct column_config {
    uint64_t disk; /* 0: the slab is not allocated */
    uint64_t node; /* where the disk is now */
    struct extent_ref where;
    uint8_t state; /* enum column_state */
    /* COLUMN_STALE: the epoch that its marking made; 0: it is new and holds nothing. */
    uint64_t stale_epoch;
    /* COLUMN_IN_SYNC: the epoch that made it so; 0: since it was placed. Its pages' stamps do not
     * tell everything that changed before (resync.c). */
    uint64_t in_sync_epoch;
};

#define VDISK_COLUMNS_MAX 16 /* of a slab */

struct vdisk_config {
    unsigned references;
    uint64_t vdisk;
    uint64_t epoch;   /* raised by every command that changes the owner or any column below; a slab
                         that is added may leave it as it is */
    uint64_t session; /* the epoch in which the owner took over */
    uint64_t owner;   /* node */
    uint64_t size_bytes;
    uint32_t slab_blocks; /* blocks of a slab: data_columns × the pool's extent size */
    uint32_t slab_count;
    uint32_t data_columns; /* 1: a mirror, each column a copy; else parity (parity_layout.h) */
    uint32_t width;        /* columns of a slab: 1, 2 or 3 for a mirror; data and parity */
    struct column_config columns[]; /* slab_count × width, slab by slab */
};

/* A configuration with every slab unallocated, of a mirror; the maker fills it in before showing it
 * to anybody.
 * Returns 0, -ENOMEM, -EINVAL (width or slab_blocks 0 or too large). */
must_check int vdisk_config_new(uint32_t slab_count, uint32_t width, uint32_t slab_blocks,
                                struct vdisk_config **ret_config);
struct vdisk_config *vdisk_config_get(struct vdisk_config *config); /* one reference more */
void vdisk_config_put(struct vdisk_config *config);                 /* one less; NULL is fine */
DEFINE_CLEANUP(struct vdisk_config, vdisk_config_put)

/* The columns of a slab: `width` of them. */
static inline const struct column_config *vdisk_config_slab(const struct vdisk_config *config,
                                                            uint32_t slab)
{
    assert(slab < config->slab_count);
    return &config->columns[(size_t)slab * config->width];
}

/* Blocks of a column. */
static inline uint32_t vdisk_config_column_blocks(const struct vdisk_config *config)
{
    return config->slab_blocks / config->data_columns;
}

static inline bool vdisk_config_slab_allocated(const struct vdisk_config *config, uint32_t slab)
{
    return slab < config->slab_count && vdisk_config_slab(config, slab)[0].disk != 0;
}

/* What must hold in every configuration: an allocated slab has distinct disks and at least
 * data_columns in-sync columns. Returns 0 or -EINVAL (it comes from outside of this layer). */
must_check int vdisk_config_check(const struct vdisk_config *config);

/* The rule of I3 for a "stale" command, for the database and its fakes: marks every in-sync column
 * on `disk` stale as of new_epoch, except the last data_columns in-sync ones of its slab. Returns
 * how many. */
size_t vdisk_config_mark_stale(struct vdisk_config *config, uint64_t disk, uint64_t new_epoch);
/* And for "in-sync": every stale column on `disk`; count > 0: of these slabs. */
size_t vdisk_config_mark_in_sync(struct vdisk_config *config, uint64_t disk, const uint32_t *slabs,
                                 size_t count, uint64_t new_epoch);
/* A private copy to change, with one reference; slab_count may grow. Returns 0 or -ENOMEM. */
must_check int vdisk_config_copy(const struct vdisk_config *config, uint32_t slab_count,
                                 struct vdisk_config **ret_config);

#endif
