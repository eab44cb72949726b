/* clone: sharing blocks between files; for snapshots too. co_ calls suspend. */
#ifndef S2D_FS_CLONE_H
#define S2D_FS_CLONE_H

#include "fs-refs-lite/fs.h"

/* The target's blocks become the source's. The caller holds both ranges, or nobody else knows of
 * the target. The size stays. What it did is in the journal, not yet durable; on an error any first
 * part of it. */
must_check int co_clone_blocks(struct fs_inode *from, uint64_t from_block, struct fs_inode *to,
                               uint64_t to_block, uint64_t blocks);

#endif
