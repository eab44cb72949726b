/* checkpoint: makes a new root out of what changed in RAM. Mutations stop only while the journal's
 * last batch is written and the snapshot is taken; what is written then is frozen, and what changes
 * meanwhile is copied. */
#ifndef S2D_FS_CHECKPOINT_H
#define S2D_FS_CHECKPOINT_H

#include "fs-refs-lite/fs_internal.h"

/* More changes wait for a checkpoint. */
#define CHECKPOINT_FREED_MAX 65536 /* runs */

static inline size_t checkpoint_dirty_max(const struct fs *fs)
{
    return MIN(fs->nodes.node_count / 4, fs->alloc.reserve_blocks / 3);
}

/* Addresses that the pool can hold beside those that a checkpoint may need. */
#define POOL_BESIDE_CHECKPOINT 1024

static inline size_t checkpoint_addresses_max(const struct fs *fs)
{
    return fs->alloc.pool_capacity - POOL_BESIDE_CHECKPOINT;
}

void checkpoint_init(struct checkpoint *checkpoint);
void checkpoint_done(struct checkpoint *checkpoint);

/* Starts one in the background when enough has gathered. */
void checkpoint_maybe_schedule(struct fs *fs);
/* Replay: takes one now when RAM is full of changes; -ENOSPC: it is, and the mount is sealed. */
must_check int co_checkpoint_if_full(struct fs *fs);

/* Writes a root with these flags, whether or not anything changed. */
must_check int co_checkpoint_force(struct fs *fs, uint32_t flags);

/* Stops mutations, waits until all of them are durable. Nests. */
must_check int co_gate_close(struct fs *fs);
void gate_open(struct fs *fs);

must_check int co_root_write(struct fs *fs, const struct fs_root *root);

/* For the checker: the gate is closed already, and stays so. */
must_check int co_checkpoint_gated(struct fs *fs);

#endif
