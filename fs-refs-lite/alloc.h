/* alloc: which blocks of the groups are free. One reactor.
 *
 * A block goes  free → held → taken → freed → trimmed → free.  Held: given to an operation whose
 * record is not yet in the journal, or to the pool from which tree nodes get their addresses.
 * Freed: until the checkpoint that frees it is durable and its trim was acknowledged. In RAM all
 * but the free ones have their bit set; a map that a checkpoint writes shows only what is taken, so
 * a crash leaks nothing that was held or freed.
 *
 * Reserve: data stops short of the last `reserve_blocks`, which is what tree nodes can need between
 * two checkpoints twice over, and operations that make names stop at half of it; so what frees
 * space always finds nodes to do it with. On a thin vdisk free blocks need not have a slab: there
 * the pool of addresses keeps, for the same end, some that have one. */
#ifndef S2D_FS_ALLOC_H
#define S2D_FS_ALLOC_H

#include "fs-refs-lite/fs_format.h"
#include "fs-refs-lite/run_list.h"
#include "s2d/base/base.h"
#include "s2d/base/co.h"

struct fs;

#define ALLOC_HOLD_RUNS 32

/* What an operation was given; the caller's memory. */
struct alloc_hold {
    struct list node;
    unsigned count;
    struct run runs[ALLOC_HOLD_RUNS];
};

struct group; /* one allocation map in RAM */

struct alloc {
    uint64_t total_blocks;
    uint64_t first_block;
    uint64_t group_blocks; /* of all groups but the last one */
    uint64_t group_count;
    uint64_t free_blocks;    /* bits that are clear */
    uint64_t reserve_blocks; /* see above */
    uint64_t data_cursor;    /* group */
    uint64_t metadata_cursor;
    uint16_t *free_in_group; /* GROUP_UNKNOWN until looked at */
    uint64_t look_again_ns; /* then what is GROUP_UNREADABLE becomes GROUP_UNKNOWN; 0: nothing is */

    struct group **hash; /* maps in RAM */
    size_t hash_mask;
    size_t loaded_count, loaded_max;   /* more only while none can leave */
    struct list clean, dirty, writing; /* writing: its image is on the way, it must not leave */
    size_t dirty_count;
    size_t prepared_count;     /* of these: their items are ready for the next snapshot */
    size_t prepared_addresses; /* that this took from the pool, */
    size_t prepared_nodes;     /* and that many of them for nodes that the tree did not have */

    struct list holds;
    struct run_list freed;    /* since the last snapshot */
    struct run_list trimming; /* freed by the root that is durable, or about to be */
    struct run_list waiting;  /* freed, but no checkpoint found their map: it was -EIO */
    uint64_t *touched;        /* groups to be written that are not in RAM now */
    size_t touched_count, touched_capacity;

    uint64_t *pool; /* addresses for tree nodes, taken from the end */
    size_t pool_count, pool_capacity;
    /* Until then not all groups are asked for slabs again, in vain: co_alloc_refill(). */
    uint64_t all_asked_until_ns;
    struct co_mutex refill; /* one at a time */
};

must_check int alloc_init(struct alloc *alloc, const struct fs_super *super,
                          const struct fs_root *root, size_t group_capacity, size_t pool_capacity);
void alloc_done(struct alloc *alloc);
void alloc_forget(struct alloc *alloc); /* clean maps leave RAM */
/* Only what alloc_capacity() and alloc_is_valid_run() need. */
void alloc_geometry(struct alloc *alloc, const struct fs_super *super, uint64_t total_blocks);
/* More blocks: the vdisk has grown. */
must_check int alloc_grow(struct alloc *alloc, uint64_t total_blocks);

uint64_t alloc_group_blocks(const struct alloc *alloc, uint64_t group); /* slots included */
uint64_t alloc_group_first(const struct alloc *alloc, uint64_t group);
/* May such a run be data or nodes at all? For addresses that come from the disk. */
bool alloc_is_valid_run(const struct alloc *alloc, uint64_t address, uint64_t blocks);
/* How many blocks a volume has for use, with all its groups empty. */
uint64_t alloc_capacity(const struct alloc *alloc);

/* Holds up to `blocks` for data in at most ALLOC_HOLD_RUNS runs, near goal (an address, 0: none),
 * and no fewer than one. Returns 0 (*ret_blocks: how many), -ENOSPC, or what reading the maps said.
 * hold is then in the list. */
must_check int co_alloc_hold(struct fs *fs, uint64_t goal, uint64_t blocks, struct alloc_hold *hold,
                             uint64_t *ret_blocks);
/* Holds the next free runs of a group, from block *from of it on, for a moment: to trim them. A few
 * at a time, and never what would leave too little for others. Returns 0 (*from moves on), -ENOENT
 * (no more), -EBADMSG, -ENOMEM, or the vdisk's error. */
must_check int co_alloc_hold_free(struct fs *fs, uint64_t group, uint64_t *from,
                                  struct alloc_hold *hold);
/* Holds all of a group that has no map, for a moment: to trim it, and its slots with it. Returns 0,
 * -ENOENT (it is in use, or others need the room), -EBADMSG, -ENOMEM, or the vdisk's error. */
must_check int co_alloc_hold_group(struct fs *fs, uint64_t group, struct alloc_hold *hold);
/* Blocks for data without cutting into the reserve. */
uint64_t alloc_available(const struct alloc *alloc);
void alloc_release(struct fs *fs,
                   struct alloc_hold *hold); /* nothing came of it; a released hold is fine */
void alloc_take(struct fs *fs, struct alloc_hold *hold); /* it is in the journal */

/* Makes room for so many alloc_free(). Returns 0 or -ENOMEM. */
must_check int alloc_reserve_frees(struct alloc *alloc, size_t runs);
/* The blocks are no longer used. Cannot fail: co_txn_room() has seen to memory. */
void alloc_free(struct fs *fs, uint64_t address, uint64_t blocks);
/* Replay: the operation of a record took these. -EBADMSG: there are no such blocks, or their map is
 * damaged. */
must_check int co_alloc_retake(struct fs *fs, uint64_t address, uint64_t blocks);

/* Tree nodes. co_alloc_refill() brings the pool to `count` addresses, each where a thin vdisk has
 * room for it; or to as many as there are: for fewer than `least` the search goes to the end.
 * Returns 0, -ENOSPC (fewer than least; those are in the pool), -ENOMEM, or the vdisk's error. A
 * node's address goes back by alloc_free(), whether or not it was written. */
must_check int co_alloc_refill(struct fs *fs, size_t count, size_t least);
uint64_t alloc_take_metadata(struct fs *fs);

/* ---- checkpoint ---- */

/* How many addresses a checkpoint may take for the groups tree, were it to begin when so many more
 * groups have been touched. More than the pool can hold: it should have begun. */
size_t alloc_checkpoint_addresses(const struct fs *fs, size_t more);

/* A checkpoint begins: what was freed where the map could not be read is tried again. Returns 0 or
 * -ENOMEM. */
must_check int alloc_look_again(struct fs *fs);
/* Brings the maps of all touched groups into RAM, and makes the nodes with their items dirty, which
 * may touch more of them: returns 0 when it has to be called again, 1 when all was ready without a
 * suspension: alloc_snapshot() may follow. */
must_check int co_alloc_prepare_snapshot(struct fs *fs);
/* Writes the items of the groups tree, and images of the maps into images[] (dirty_count of them)
 * with their blocks (0: this group has none any more); moves what was freed to `trimming`. Room for
 * dirty_count more was reserved in `freed`. Returns the number of free blocks in the images. */
uint64_t alloc_snapshot(struct fs *fs, struct fs_bitmap *images, uint64_t *image_blocks);
void alloc_written(struct fs *fs); /* the images are on the vdisk */
void alloc_trimmed(struct fs *fs); /* all of `trimming` is free now */

/* ---- checker, trim job ---- */

/* The map of a group as it is in RAM: a bit for each block, valid until a suspension. */
must_check int co_alloc_map(struct fs *fs, uint64_t group, const uint64_t **ret_used);

#endif
