/* What the files of the allocator share: alloc.c (geometry, searching, addresses for tree nodes),
 * alloc_groups.c (maps in RAM), alloc_checkpoint.c (what a checkpoint writes). */
#ifndef S2D_FS_ALLOC_PRIVATE_H
#define S2D_FS_ALLOC_PRIVATE_H

#include "fs-refs-lite/alloc.h"
#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/fs_internal.h"

#define GROUP_UNKNOWN UINT16_MAX
#define GROUP_UNREADABLE (UINT16_MAX - 1) /* not in RAM, and no copy of its map could be read */
static_assert(FS_GROUP_BLOCKS < GROUP_UNREADABLE, "free_in_group");

struct group {
    struct list list; /* clean, dirty or writing */
    struct group *hash_next;
    uint64_t index;
    uint32_t blocks;
    uint32_t free_blocks;
    unsigned pins; /* held runs and pool addresses: their bits are nowhere else */
    bool is_dirty;
    bool is_fresh;            /* no map on disk */
    bool is_backed;           /* of a fresh one: its map has room on a thin vdisk */
    bool is_trimmed_whole;    /* just now, its slots too: nobody is given anything */
    uint8_t slot;             /* of the map that the last snapshot or root named */
    uint64_t item_generation; /* of the snapshot for which its item's node is dirty */
    struct fs_bitmap *map;
    struct fs_bitmap *image; /* during alloc_snapshot() */
};

/* Nothing of it can be used before its map has a slab. */
static inline bool group_needs_slab(const struct group *group)
{
    return group->is_fresh && !group->is_backed;
}

static inline bool bit_test(const uint64_t *bits, uint64_t bit)
{
    return bits[bit / 64] >> bit % 64 & 1;
}

static inline void bit_set(uint64_t *bits, uint64_t bit)
{
    bits[bit / 64] |= (uint64_t)1 << bit % 64;
}

static inline void bit_clear(uint64_t *bits, uint64_t bit)
{
    bits[bit / 64] &= ~((uint64_t)1 << bit % 64);
}

/* ---- alloc.c ---- */

uint64_t group_of(const struct alloc *alloc, uint64_t address);
uint64_t group_count_of(const struct alloc *alloc, uint64_t total_blocks);
void group_free(struct alloc *alloc, struct group *group);

/* ---- alloc_groups.c ---- */

struct group *group_find(const struct alloc *alloc, uint64_t index); /* NULL: not in RAM */
uint32_t map_used(const struct fs_bitmap *map);
void group_count_free(struct alloc *alloc, struct group *group);
uint64_t group_mark(struct alloc *alloc, struct group *group, uint64_t address, uint64_t blocks,
                    bool used);
void group_dirty(struct alloc *alloc, struct group *group);
void group_touch(struct alloc *alloc, uint64_t index);
struct fs_key group_key(uint64_t index);
/* False: nothing is free there, or its map is damaged, or could not be read a moment ago. */
bool group_may_have_room(struct fs *fs, uint64_t index);
/* The group takes no write (-EIO: of parity, a row that cannot be decoded): for UNREADABLE_NS
 * nobody asks again. */
void group_note_refusing(struct fs *fs, const struct group *group);
/* Returns 0, -EBADMSG (nothing is allocated from this group any more; or for UNREADABLE_NS, when it
 * is GROUP_UNREADABLE now), -ENOMEM, or the vdisk's error. */
must_check int co_group_get(struct fs *fs, uint64_t index, struct group **ret_group);
/* Writes zeros there: a thin vdisk has room for this block then, and keeps it until it is trimmed.
 * Returns 0, or the vdisk's error: -ENOSPC, the pool is full. */
must_check int co_block_back(struct fs *fs, uint64_t address);
/* Before the first blocks of a group are given away: a thin vdisk finds room for its map now, or a
 * checkpoint would look for it when there may be none. Returns 0, -EBUSY (all of the group is being
 * trimmed: what may be free in it, because the volume has grown, is for later), -EIO (the group
 * takes no write now, see group_note_refusing()), or another error of the vdisk. */
must_check int co_group_back(struct fs *fs, struct group *group);

#endif
