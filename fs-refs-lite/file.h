/* file: data of regular files; what its two halves (file.c: reading and writing, file_space.c:
 * sizes and holes) share. */
#ifndef S2D_FS_FILE_H
#define S2D_FS_FILE_H

#include "fs-refs-lite/extent.h"

#define FILE_LOCK_END UINT64_MAX

/* 0, -EISDIR, -EINVAL: is it a regular file? And is the range one? -EFBIG */
must_check int file_check(const struct fs_inode *inode);
must_check int file_check_change(const struct fs_inode *inode); /* -EROFS, too */
must_check int file_check_range(uint64_t offset, uint64_t length);

/* CO_RETRY of extent_find(). */
must_check int co_file_extent(struct fs_inode *inode, uint64_t file_block, uint64_t blocks,
                              struct extent *ret_extent);

/* Writes bytes of an extent's blocks in place, reading first what it covers in part. buffer NULL:
 * zeros. The caller holds the range. request goes to the vdisk, which knows its repeat block by
 * block. */
must_check int co_file_overwrite(struct fs_inode *inode, const struct extent *extent,
                                 const char *buffer, uint64_t offset, uint64_t length,
                                 struct client_request request);

/* Writes at offset, in an extent that is marked as shared, as far towards end as goes at once
 * (*ret_done; perhaps nothing yet): in place where nobody shares, else to fresh blocks. buffer
 * NULL: zeros, and the size stays. unit: what the caller's lock is aligned to; what is shared is
 * replaced by so much. */
must_check int co_file_write_shared(struct fs_inode *inode, const char *buffer, uint64_t offset,
                                    uint64_t end, uint64_t unit, uint64_t *ret_done);
/* Zeros for a part of one extent. */
must_check int co_file_zero_extent(struct fs_inode *inode, const struct extent *extent,
                                   uint64_t from, uint64_t to);

/* Makes mapped parts of [from, to) read as zeros: edges are written, whole blocks trimmed. Nothing
 * is freed. */
must_check int co_file_zero_range(struct fs_inode *inode, uint64_t from, uint64_t to);
/* Bytes behind the end are undefined on disk: before the size grows from `size` to `to` they become
 * zeros. */
must_check int co_file_zero_behind_end(struct fs_inode *inode, uint64_t to);

/* Maps held blocks at file_block, which is a hole, and raises the size to size_min at least. The
 * hold is taken or released. */
must_check int co_file_map(struct fs_inode *inode, uint64_t file_block, struct alloc_hold *hold,
                           uint64_t size_min);
must_check int co_file_grow(struct fs_inode *inode, uint64_t size_min);

/* Holds blocks for a hole; waits for a checkpoint when space is about to come back. */
must_check int co_file_hold(struct fs_inode *inode, uint64_t file_block, uint64_t blocks,
                            struct alloc_hold *hold, uint64_t *ret_blocks);

/* Frees what lies behind the end of a file that was being truncated when its node died. */
must_check int co_file_finish_truncate(struct fs_inode *inode);

#endif
