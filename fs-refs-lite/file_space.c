/* Sizes and holes. Long work goes in steps of EXTENTS_PER_TXN, each a record of its own; a
 * truncation sets the new size in its first step, marked as TRUNCATING, and whoever meets the mark
 * after a crash finishes it. */
#include "fs-refs-lite/file.h"
#include "fs-refs-lite/fs_internal.h"

#define ALLOCATE_BLOCKS_MAX (GIB / BLOCK_SIZE) /* of one record */

/* ---- zeros ---- */

static int co_zero_shared(struct fs_inode *inode, uint64_t from, uint64_t to)
{
    int r = 0;

    while (r == 0 && from < to)
        r = co_file_write_shared(inode, NULL, from, to, BLOCK_SIZE, &from);
    return r;
}

int co_file_zero_extent(struct fs_inode *inode, const struct extent *extent, uint64_t from,
                        uint64_t to)
{
    uint64_t first = ALIGN_UP(from, (uint64_t)BLOCK_SIZE), last = ALIGN_DOWN(to, BLOCK_SIZE);
    int r = 0;

    if (extent->is_shared)
        return co_zero_shared(inode, from, to);
    if (first > last) /* within one block */
        return co_file_overwrite(inode, extent, NULL, from, to - from, NO_CLIENT);
    if (from < first)
        r = co_file_overwrite(inode, extent, NULL, from, first - from, NO_CLIENT);
    if (r == 0 && last < to)
        r = co_file_overwrite(inode, extent, NULL, last, to - last, NO_CLIENT);
    if (r == 0 && first < last)
        r = co_disk_trim(inode->fs, (extent->address - extent->file_block) * BLOCK_SIZE + first,
                         last - first, NO_CLIENT);
    return r;
}

int co_file_zero_range(struct fs_inode *inode, uint64_t from, uint64_t to)
{
    while (from < to) {
        struct extent extent = {0};
        uint64_t blocks = DIV_ROUND_UP(to, BLOCK_SIZE) - from / BLOCK_SIZE, step_end;
        int r = co_file_extent(inode, from / BLOCK_SIZE, blocks, &extent);

        step_end = MIN(to, (extent.file_block + extent.blocks) * BLOCK_SIZE);
        if (r == 0)
            r = co_file_zero_extent(inode, &extent, from, step_end);
        if (r < 0 && r != -ENOENT)
            return r;
        from = step_end;
    }
    return 0;
}

int co_file_zero_behind_end(struct fs_inode *inode, uint64_t to)
{
    return co_file_zero_range(inode, inode->item.size, ALIGN_UP(to, (uint64_t)BLOCK_SIZE));
}

/* A change of the content of [from, to), whose blocks are locked. */
typedef int co_range_change(struct fs_inode *inode, uint64_t from, uint64_t to);

static int co_change_locked(struct fs_inode *inode, uint64_t offset, uint64_t length,
                            co_range_change *co_change)
{
    struct range_lock_hold hold;
    int r = file_check_change(inode);

    if (r == 0)
        r = file_check_range(offset, length);
    if (r < 0 || length == 0)
        return r;
    co_range_lock(&inode->lock, &hold, ALIGN_DOWN(offset, BLOCK_SIZE),
                  ALIGN_UP(length + offset % BLOCK_SIZE, (uint64_t)BLOCK_SIZE), true);
    r = inode->fs->error;
    if (r == 0)
        r = co_change(inode, offset, offset + length);
    if (r == 0)
        inode_touch(inode);
    range_unlock(&inode->lock, &hold);
    return r;
}

static int co_change_range(struct fs_inode *inode, uint64_t offset, uint64_t length,
                           co_range_change *co_change)
{
    struct fs *fs = inode->fs;
    int r = co_change_begin(fs);

    if (r < 0)
        return r;
    r = co_change_locked(inode, offset, length, co_change);
    change_end(fs);
    return r;
}

static int co_zero(struct fs_inode *inode, uint64_t from, uint64_t to)
{
    return co_file_zero_range(inode, from, MIN(to, inode->item.size));
}

int co_fs_zero(struct fs_inode *inode, uint64_t offset, uint64_t length)
{
    return co_change_range(inode, offset, length, co_zero);
}

/* ---- freeing ---- */

struct cut {
    struct fs_inode *inode;
    uint64_t from, to; /* blocks */
    uint64_t next;     /* where the next step begins */
    uint64_t size;     /* new one */
    bool sets_size;
};

/* One step of a truncation or of the punching of whole blocks. */
static int cut_plan(struct fs *fs, struct txn *txn, void *arg)
{
    struct cut *cut = arg;
    struct fs_inode_item item;
    int r = inode_item_get(fs, cut->inode->ino, &item);

    if (r == 0)
        r = extent_unmap(fs, txn, cut->inode->ino, &item, cut->from, cut->to, &cut->next);
    if (r < 0)
        return r;
    if (cut->sets_size) {
        item.size = cut->size;
        if (cut->next < cut->to)
            item.flags |= FS_INODE_TRUNCATING;
        else
            item.flags &= ~(uint32_t)FS_INODE_TRUNCATING;
    }
    item.mtime_ns = item.ctime_ns = (int64_t)txn->now_ns;
    inode_item_put(txn, cut->inode->ino, &item);
    return 0;
}

static int co_cut(struct fs_inode *inode, struct cut *cut, struct fs_request request)
{
    do {
        struct txn_result result;
        int r = co_txn_run(inode->fs, TXN_SHRINKS, request, cut_plan, cut, &result);

        if (r < 0 || result.is_repeat)
            return r;
        cut->from = cut->next;
        request = FS_NO_REQUEST; /* the first step holds the promise; the rest is housekeeping */
    } while (cut->from < cut->to);
    return 0;
}

static struct cut cut_behind(struct fs_inode *inode, uint64_t size)
{
    return (struct cut){.inode = inode,
                        .from = DIV_ROUND_UP(size, BLOCK_SIZE),
                        .to = UINT64_MAX,
                        .size = size,
                        .sets_size = true};
}

int co_file_finish_truncate(struct fs_inode *inode)
{
    struct range_lock_hold hold;
    int r = co_change_begin(inode->fs);

    if (r < 0)
        return r;
    co_range_lock(&inode->lock, &hold, 0, FILE_LOCK_END, true);
    if (inode->item.flags & FS_INODE_TRUNCATING) {
        struct cut cut = cut_behind(inode, inode->item.size);

        r = co_cut(inode, &cut, FS_NO_REQUEST);
    }
    range_unlock(&inode->lock, &hold);
    change_end(inode->fs);
    return r;
}

/* A repeat must not truncate what was written since: so it is asked for before anything is zeroed.
 */
static int co_truncate_locked(struct fs_inode *inode, uint64_t size, struct fs_request request)
{
    struct txn_result result = {0};
    struct cut cut = cut_behind(inode, size);
    int r = session_look_up(inode->fs, request, &result);

    if (r < 0)
        return r;
    if (result.is_repeat)
        return co_journal_wait(inode->fs, result.lsn);
    if (size > inode->item.size) {
        r = co_file_zero_behind_end(inode, size);
        if (r < 0)
            return r;
        cut.from = cut.to; /* what was preallocated behind the end stays */
    }
    return co_cut(inode, &cut, request);
}

static int co_truncate(struct fs_inode *inode, uint64_t size, struct fs_request request)
{
    struct range_lock_hold hold;
    int r = file_check_change(inode);

    if (r == 0)
        r = file_check_range(size, 0);
    if (r < 0)
        return r;
    for (;;) {
        uint64_t start = ALIGN_DOWN(MIN(size, inode->item.size), BLOCK_SIZE);

        co_range_lock(&inode->lock, &hold, start, FILE_LOCK_END - start, true);
        if (ALIGN_DOWN(MIN(size, inode->item.size), BLOCK_SIZE) >= start)
            break;
        range_unlock(&inode->lock, &hold); /* it became shorter while we waited */
    }
    r = inode->fs->error;
    if (r == 0)
        r = co_truncate_locked(inode, size, request);
    range_unlock(&inode->lock, &hold);
    return r;
}

int co_fs_truncate(struct fs_inode *inode, uint64_t size, struct fs_request request)
{
    struct fs *fs = inode->fs;
    int r = co_change_begin(fs);

    if (r < 0)
        return r;
    r = co_truncate(inode, size, request);
    change_end(fs);
    return r;
}

static int co_punch(struct fs_inode *inode, uint64_t from, uint64_t to)
{
    uint64_t first, last;
    int r = 0;

    if (to >= inode->item.size) /* the block with the end in it goes as a whole */
        to = ALIGN_UP(to, (uint64_t)BLOCK_SIZE);
    first = ALIGN_UP(from, (uint64_t)BLOCK_SIZE);
    last = ALIGN_DOWN(to, BLOCK_SIZE);
    if (first > last)
        return co_file_zero_range(inode, from, to);
    if (from < first)
        r = co_file_zero_range(inode, from, first);
    if (r == 0 && last < to)
        r = co_file_zero_range(inode, last, to);
    if (r == 0 && first < last) {
        struct cut cut = {.inode = inode, .from = first / BLOCK_SIZE, .to = last / BLOCK_SIZE};

        r = co_cut(inode, &cut, FS_NO_REQUEST);
    }
    return r;
}

int co_fs_punch(struct fs_inode *inode, uint64_t offset, uint64_t length)
{
    return co_change_range(inode, offset, length, co_punch);
}

/* ---- preallocation ---- */

/* Fills the hole, or the first part of it; *ret_blocks: how much. The blocks read as zeros before
 * they are mapped. */
static int co_allocate_hole(struct fs_inode *inode, const struct extent *hole, uint64_t size_end,
                            uint64_t *ret_blocks)
{
    struct alloc_hold hold;
    uint64_t size_min, held;
    int r =
        co_file_hold(inode, hole->file_block, MIN(hole->blocks, ALLOCATE_BLOCKS_MAX), &hold, &held);

    if (r < 0)
        return r;
    for (unsigned i = 0; r == 0 && i < hold.count; i++)
        r = co_disk_trim(inode->fs, hold.runs[i].address * BLOCK_SIZE,
                         hold.runs[i].blocks * BLOCK_SIZE, NO_CLIENT);
    if (r < 0) {
        alloc_release(inode->fs, &hold);
        return r;
    }
    size_min = MIN(size_end, (hole->file_block + held) * BLOCK_SIZE);
    *ret_blocks = held;
    return co_file_map(inode, hole->file_block, &hold, size_min);
}

/* size_end: up to where the size may grow; 0: not at all. */
static int co_allocate_locked(struct fs_inode *inode, uint64_t offset, uint64_t end,
                              uint64_t size_end)
{
    uint64_t block = offset / BLOCK_SIZE, last = DIV_ROUND_UP(end, BLOCK_SIZE);
    int r = 0;

    if (size_end > inode->item.size)
        r = co_file_zero_behind_end(inode, size_end);
    while (r == 0 && block < last) {
        struct extent extent;
        uint64_t blocks;

        r = co_file_extent(inode, block, last - block, &extent);
        blocks = extent.blocks;
        if (r == -ENOENT)
            r = co_allocate_hole(inode, &extent, size_end, &blocks);
        block += blocks;
    }
    if (r == 0 && size_end > inode->item.size)
        r = co_file_grow(inode, size_end);
    return r;
}

static int co_allocate(struct fs_inode *inode, uint64_t offset, uint64_t length, unsigned flags)
{
    struct range_lock_hold hold;
    uint64_t start = ALIGN_DOWN(offset, BLOCK_SIZE), end = offset + length;
    int r = file_check_change(inode);

    if (r == 0)
        r = file_check_range(offset, length);
    if (r < 0 || length == 0)
        return r;
    for (;;) {
        start = ALIGN_DOWN(MIN(offset, inode->item.size), BLOCK_SIZE);
        co_range_lock(&inode->lock, &hold, start, FILE_LOCK_END - start, true);
        if (ALIGN_DOWN(MIN(offset, inode->item.size), BLOCK_SIZE) >= start)
            break;
        range_unlock(&inode->lock, &hold);
    }
    r = inode->fs->error;
    if (r == 0)
        r = co_allocate_locked(inode, offset, end, flags & FS_ALLOCATE_KEEP_SIZE ? 0 : end);
    range_unlock(&inode->lock, &hold);
    return r;
}

int co_fs_allocate(struct fs_inode *inode, uint64_t offset, uint64_t length, unsigned flags)
{
    struct fs *fs = inode->fs;
    int r = co_change_begin(fs);

    if (r < 0)
        return r;
    r = co_allocate(inode, offset, length, flags);
    change_end(fs);
    return r;
}

/* ---- what is where ---- */

int co_fs_block_status(struct fs_inode *inode, uint64_t offset, uint64_t length, bool *ret_data,
                       uint64_t *ret_length)
{
    uint64_t end = offset + length, at = offset;
    bool is_data = false;
    int r = file_check(inode);

    if (r == 0)
        r = file_check_range(offset, length);
    if (r < 0)
        return r;
    while (at < end) {
        struct extent extent;
        uint64_t blocks = DIV_ROUND_UP(end, BLOCK_SIZE) - at / BLOCK_SIZE;
        bool is_here;

        if (at >= inode->item.size) {
            is_here = false;
            extent = (struct extent){.file_block = at / BLOCK_SIZE, .blocks = blocks};
        } else {
            r = co_file_extent(inode, at / BLOCK_SIZE, blocks, &extent);
            if (r < 0 && r != -ENOENT)
                return r;
            is_here = r == 0;
        }
        if (at > offset && is_here != is_data)
            break;
        is_data = is_here;
        at = MIN(end, (extent.file_block + extent.blocks) * BLOCK_SIZE);
    }
    *ret_data = is_data;
    *ret_length = at - offset;
    return co_inode_settle(inode);
}
