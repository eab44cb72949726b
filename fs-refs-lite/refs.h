/* refs: how many extents map a block. Only runs that more than one extent maps are items of the
 * refs tree; a block that is mapped and in no item has a count of one. An extent that may share its
 * blocks is marked so (FS_EXTENT_SHARED); one without the mark is known to be alone, and pays
 * nothing.
 *
 * A plan lists what it adds and takes away (txn_share(), txn_unshare()); when it is done all of
 * that is resolved together, against the tree as it was before. Nothing here suspends (node.h). */
#ifndef S2D_FS_REFS_H
#define S2D_FS_REFS_H

#include "fs-refs-lite/fs_format.h"
#include "s2d/base/base.h"

struct fs;
struct txn;

/* What one operation may look at: items of the refs tree, and one for each edit. They may lie far
 * apart, and each then costs a leaf and perhaps its parent: see POOL_MIN in txn.c. */
#define REF_BUDGET 48
#define REF_EDITS_MAX (2 * REF_BUDGET)

struct ref_edit { /* `delta` begins to hold at `address` */
    uint64_t address;
    int64_t delta;
};

struct ref_edits {
    unsigned count;
    unsigned spent; /* of the budget */
    struct ref_edit edits[REF_EDITS_MAX];
};

/* How many of the run's blocks can be edited in this operation: pays for them. *ret_blocks is 0
 * when the budget is spent, which it never is for the first run. limit: leave so much of the
 * budget. Returns 0, -EAGAIN, -EBADMSG. */
must_check int refs_reach(struct fs *fs, struct txn *txn, unsigned leave, uint64_t address,
                          uint64_t blocks, uint64_t *ret_blocks);

/* One extent more, or one less, maps these blocks; refs_reach() was asked. What nobody maps any
 * more is freed. */
void txn_share(struct txn *txn, uint64_t address, uint64_t blocks);
void txn_unshare(struct txn *txn, uint64_t address, uint64_t blocks);

/* Lists what the edits come to. Where the counts cannot be read, blocks that lose an extent are
 * left alone, used by nobody: space is lost, data is not. Returns 0, -EAGAIN, -EBADMSG. */
must_check int refs_resolve(struct fs *fs, struct txn *txn);

/* Is the first of these blocks shared, and how many are like it? What cannot be read counts as
 * shared. Returns 0 or -EAGAIN. */
must_check int refs_look_up(struct fs *fs, uint64_t address, uint64_t blocks, bool *ret_shared,
                            uint64_t *ret_blocks);

/* Of an item that comes from the disk: fits it the key, is it one? */
bool ref_item_is_valid(const struct fs *fs, const struct fs_key *key, const void *value,
                       size_t size);

#endif
