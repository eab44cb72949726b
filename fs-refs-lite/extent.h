/* extent: where a file's blocks lie. Nothing here suspends (node.h). What changes is listed in a
 * txn. */
#ifndef S2D_FS_EXTENT_H
#define S2D_FS_EXTENT_H

#include "fs-refs-lite/alloc.h"
#include "fs-refs-lite/inode.h"

/* An operation changes at most so many extents; longer work is done in steps. */
#define EXTENTS_PER_TXN 200

/* The run at file_block. Returns 0 (ret_extent covers it, cut to start there), -ENOENT (a hole:
 * ret_extent->blocks until the next extent, at most `blocks`), -EAGAIN, -EBADMSG. blocks: how far
 * the caller looks; the answer is cut to it. */
must_check int extent_find(struct fs_inode *inode, uint64_t file_block, uint64_t blocks,
                           struct extent *ret_extent);

/* Where to allocate for file_block so that it follows the block before it; 0: anywhere. 0, -EAGAIN,
 * -EBADMSG */
must_check int extent_goal(struct fs_inode *inode, uint64_t file_block, uint64_t *ret_goal);

/* Lists the hold's runs as the file's blocks from file_block on, which is a hole. item: changed,
 * put by the caller. */
must_check int extent_map(struct fs *fs, struct txn *txn, uint64_t ino, struct fs_inode_item *item,
                          uint64_t file_block, struct alloc_hold *hold);

/* Lists the freeing of the blocks in [from, to), at most EXTENTS_PER_TXN extents. *ret_next: where
 * to go on, `to` when all is listed. item: changed, put by the caller. */
must_check int extent_unmap(struct fs *fs, struct txn *txn, uint64_t ino,
                            struct fs_inode_item *item, uint64_t from, uint64_t to,
                            uint64_t *ret_next);

/* ---- sharing (refs.h). The caller holds the ranges of both files, so that nobody writes there
 * ----
 */

/* Lists the marking of the extents in [from, to) as perhaps shared, whole, at most EXTENTS_PER_TXN.
 * *ret_next: as above. */
must_check int extent_mark_shared(struct fs *fs, struct txn *txn, uint64_t ino, uint64_t from,
                                  uint64_t to, uint64_t *ret_next);

/* Takes the mark from the extent at file_block, if nobody else maps any of it. */
must_check int extent_claim(struct fs *fs, struct txn *txn, uint64_t ino, uint64_t file_block);

/* Lists that [file_block, …) of ino maps what [from, to) of from_ino maps, holes too, instead of
 * what it mapped; all of from_ino's extents there are marked. *ret_next: how far in from_ino it
 * came, at least a block. item: of ino; changed, put by the caller. */
must_check int extent_share(struct fs *fs, struct txn *txn, uint64_t from_ino, uint64_t from,
                            uint64_t to, uint64_t ino, struct fs_inode_item *item,
                            uint64_t file_block, uint64_t *ret_next);

#endif
