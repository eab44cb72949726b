/* Reading and writing. The common case, an aligned write to blocks that are mapped, is: lock the
 * range, find the extent (the inode remembers the last one), pass the caller's memory to the vdisk.
 * No metadata, no copy, no allocation.
 *
 * A hole is written in the order that makes a crash harmless: blocks are held in RAM, the data is
 * written there, and then one record maps them. In large files (disks of VMs) a hole is filled by
 * clusters of 64 KiB, the rest of which is trimmed, so that a disk that fills at random costs a
 * record for 64 KiB, not for each block. */
#include "fs-refs-lite/file.h"
#include "fs-refs-lite/checkpoint.h"
#include "fs-refs-lite/fs_internal.h"

#define BOUNCE_BYTES (64 * KIB)
#define CHUNK_BYTES (1 * MIB) /* of a write: what one lock and one hold cover */
#define CLUSTER_BYTES (64 * KIB)
#define CLUSTER_FILE_BYTES (1 * MIB) /* files from this size on are filled by clusters */

int file_check(const struct fs_inode *inode)
{
    if (inode->fs->error)
        return inode->fs->error;
    if (S_ISREG(inode->item.mode))
        return 0;
    return S_ISDIR(inode->item.mode) ? -EISDIR : -EINVAL;
}

int file_check_change(const struct fs_inode *inode)
{
    int r = file_check(inode);

    return r < 0 ? r : fs_may_change(inode->fs, &inode->item);
}

int file_check_range(uint64_t offset, uint64_t length)
{
    return length > FS_FILE_SIZE_MAX || offset > FS_FILE_SIZE_MAX - length ? -EFBIG : 0;
}

int co_file_extent(struct fs_inode *inode, uint64_t file_block, uint64_t blocks,
                   struct extent *ret_extent)
{
    return CO_RETRY(inode->fs, extent_find(inode, file_block, blocks, ret_extent));
}

static bool is_aligned(const void *buffer, uint64_t offset)
{
    return ((uintptr_t)buffer | offset) % BLOCK_SIZE == 0;
}

static uint64_t extent_address(const struct extent *extent, uint64_t offset)
{
    return extent->address * BLOCK_SIZE + (offset - extent->file_block * BLOCK_SIZE);
}

static uint64_t extent_end(const struct extent *extent)
{
    return (extent->file_block + extent->blocks) * BLOCK_SIZE;
}

/* Blocks that [offset, end) touches, from offset's on. */
static uint64_t blocks_covering(uint64_t offset, uint64_t end)
{
    return DIV_ROUND_UP(end, BLOCK_SIZE) - offset / BLOCK_SIZE;
}

/* ---- reading ---- */

/* [offset, end) of one extent, through a buffer of ours, at most BOUNCE_BYTES. */
static int co_read_bounced(struct fs_inode *inode, const struct extent *extent, char *buffer,
                           uint64_t offset, uint64_t end)
{
    struct fs *fs = inode->fs;
    uint64_t from = ALIGN_DOWN(offset, BLOCK_SIZE), to = ALIGN_UP(end, (uint64_t)BLOCK_SIZE);
    char *bounce = co_buffer_get(fs->bounce, to - from);
    int r = co_disk_read(fs, bounce, extent_address(extent, from), to - from);

    if (r == 0)
        memcpy(buffer, bounce + (offset - from), end - offset);
    buffer_put(fs->bounce, bounce, to - from);
    return r;
}

static int co_read_extent(struct fs_inode *inode, const struct extent *extent, char *buffer,
                          uint64_t offset, uint64_t end)
{
    struct fs *fs = inode->fs;

    while (offset < end) {
        uint64_t step = end - offset;
        int r;

        fs->counters.data_reads++;
        if (is_aligned(buffer, offset) && step >= BLOCK_SIZE) {
            step = ALIGN_DOWN(step, BLOCK_SIZE);
            r = co_disk_read(fs, buffer, extent_address(extent, offset), step);
        } else {
            step = MIN(step, BOUNCE_BYTES - offset % BLOCK_SIZE);
            r = co_read_bounced(inode, extent, buffer, offset, offset + step);
        }
        if (r < 0)
            return r;
        buffer += step;
        offset += step;
    }
    return 0;
}

static int co_read_range(struct fs_inode *inode, char *buffer, uint64_t offset, uint64_t end)
{
    while (offset < end) {
        struct extent extent;
        uint64_t step;
        int r = co_file_extent(inode, offset / BLOCK_SIZE, blocks_covering(offset, end), &extent);

        if (r < 0 && r != -ENOENT)
            return r;
        step = MIN(end, extent_end(&extent)) - offset;
        if (r == -ENOENT)
            memset(buffer, 0, step);
        else
            r = co_read_extent(inode, &extent, buffer, offset, offset + step);
        if (r < 0 && r != -ENOENT)
            return r;
        buffer += step;
        offset += step;
    }
    return 0;
}

int co_fs_read(struct fs_inode *inode, void *buffer, uint64_t offset, uint64_t length,
               uint64_t *ret_length)
{
    struct range_lock_hold hold;
    uint64_t end;
    int r = file_check(inode);

    if (r == 0)
        r = file_check_range(offset, length);
    if (r < 0)
        return r;
    if (length == 0) {
        *ret_length = 0;
        return 0;
    }
    co_range_lock(&inode->lock, &hold, offset, length, false);
    end = MIN(offset + length, MAX(inode->item.size, offset));
    r = inode->fs->error;
    if (r == 0)
        r = co_read_range(inode, buffer, offset, end);
    range_unlock(&inode->lock, &hold);
    if (r == 0)
        *ret_length = end - offset;
    return r;
}

/* ---- writing blocks that are mapped ---- */

/* At most BOUNCE_BYTES, of one extent: the first and last block are read if they are covered in
 * part. */
static int co_overwrite_bounced(struct fs_inode *inode, const struct extent *extent,
                                const char *buffer, uint64_t offset, uint64_t end,
                                struct client_request request)
{
    struct fs *fs = inode->fs;
    uint64_t from = ALIGN_DOWN(offset, BLOCK_SIZE), to = ALIGN_UP(end, (uint64_t)BLOCK_SIZE);
    uint64_t last = to - BLOCK_SIZE;
    char *bounce = co_buffer_get(fs->bounce, to - from);
    int r = 0;

    if (offset > from || (end < to && last == from))
        r = co_disk_read(fs, bounce, extent_address(extent, from), BLOCK_SIZE);
    if (r == 0 && end < to && last > from)
        r = co_disk_read(fs, bounce + (last - from), extent_address(extent, last), BLOCK_SIZE);
    if (r == 0) {
        if (buffer)
            memcpy(bounce + (offset - from), buffer, end - offset);
        else
            memset(bounce + (offset - from), 0, end - offset);
        r = co_disk_write(fs, bounce, extent_address(extent, from), to - from, request);
    }
    buffer_put(fs->bounce, bounce, to - from);
    return r;
}

int co_file_overwrite(struct fs_inode *inode, const struct extent *extent, const char *buffer,
                      uint64_t offset, uint64_t length, struct client_request request)
{
    struct fs *fs = inode->fs;
    uint64_t end = offset + length;

    while (offset < end) {
        uint64_t step = end - offset;
        int r;

        fs->counters.data_writes++;
        if (buffer && is_aligned(buffer, offset) && step >= BLOCK_SIZE) {
            step = ALIGN_DOWN(step, BLOCK_SIZE);
            r = co_disk_write(fs, buffer, extent_address(extent, offset), step, request);
        } else {
            step = MIN(step, BOUNCE_BYTES - offset % BLOCK_SIZE);
            r = co_overwrite_bounced(inode, extent, buffer, offset, offset + step, request);
        }
        if (r < 0)
            return r;
        if (buffer)
            buffer += step;
        offset += step;
    }
    return 0;
}

/* ---- writing holes ---- */

/* Fresh blocks [from, to) of one bounce at most: the data in the middle, zeros around. */
static int co_fill_bounced(struct fs_inode *inode, const struct extent *extent, const char *buffer,
                           uint64_t offset, uint64_t end)
{
    struct fs *fs = inode->fs;
    uint64_t from = ALIGN_DOWN(offset, BLOCK_SIZE), to = ALIGN_UP(end, (uint64_t)BLOCK_SIZE);
    char *bounce = co_buffer_get(fs->bounce, to - from);
    int r;

    memset(bounce, 0, PLANTED(FS_OLD_DATA_SHOWS) ? 0 : offset - from);
    memcpy(bounce + (offset - from), buffer, end - offset);
    memset(bounce + (end - from), 0, to - end);
    r = co_disk_write(fs, bounce, extent_address(extent, from), to - from, NO_CLIENT);
    buffer_put(fs->bounce, bounce, to - from);
    return r;
}

/* Writes [offset, end) into fresh blocks, which hold anything. */
static int co_fill_data(struct fs_inode *inode, const struct extent *extent, const char *buffer,
                        uint64_t offset, uint64_t end)
{
    struct fs *fs = inode->fs;

    while (offset < end) {
        uint64_t step = end - offset;
        int r;

        fs->counters.data_writes++;
        if (is_aligned(buffer, offset) && step >= BLOCK_SIZE) {
            step = ALIGN_DOWN(step, BLOCK_SIZE);
            r = co_disk_write(fs, buffer, extent_address(extent, offset), step, NO_CLIENT);
        } else {
            step = MIN(step, BOUNCE_BYTES - offset % BLOCK_SIZE);
            r = co_fill_bounced(inode, extent, buffer, offset, offset + step);
        }
        if (r < 0)
            return r;
        buffer += step;
        offset += step;
    }
    return 0;
}

static int co_trim_bytes(struct fs *fs, const struct extent *extent, uint64_t from, uint64_t to)
{
    if (from >= to)
        return 0;
    return co_disk_trim(fs, extent_address(extent, from), to - from, NO_CLIENT);
}

/* All of a fresh extent: trimmed before and behind the data. */
static int co_fill_extent(struct fs_inode *inode, const struct extent *extent, const char *buffer,
                          uint64_t offset, uint64_t end)
{
    uint64_t first = extent->file_block * BLOCK_SIZE, last = extent_end(extent);
    uint64_t from = MAX(offset, first), to = MIN(end, last);
    int r;

    if (from >= to)
        return co_trim_bytes(inode->fs, extent, first, last);
    r = co_trim_bytes(inode->fs, extent, first, ALIGN_DOWN(from, BLOCK_SIZE));
    if (r == 0)
        r = co_trim_bytes(inode->fs, extent, ALIGN_UP(to, (uint64_t)BLOCK_SIZE), last);
    if (r == 0)
        r = co_fill_data(inode, extent, buffer + (from - offset), from, to);
    return r;
}

static int co_fill_hold(struct fs_inode *inode, uint64_t file_block, const struct alloc_hold *hold,
                        const char *buffer, uint64_t offset, uint64_t end)
{
    for (unsigned i = 0; i < hold->count; i++) {
        struct extent extent = {.file_block = file_block,
                                .blocks = hold->runs[i].blocks,
                                .address = hold->runs[i].address};
        int r = co_fill_extent(inode, &extent, buffer, offset, end);

        if (r < 0)
            return r;
        file_block += extent.blocks;
    }
    return 0;
}

int co_file_hold(struct fs_inode *inode, uint64_t file_block, uint64_t blocks,
                 struct alloc_hold *hold, uint64_t *ret_blocks)
{
    struct fs *fs = inode->fs;
    uint64_t goal;
    int r = CO_RETRY(fs, extent_goal(inode, file_block, &goal));

    if (r < 0)
        return r;
    while (fs->gate_closed) {
        r = co_cond_wait(&fs->gate);
        if (r < 0)
            return r;
    }
    r = co_alloc_hold(fs, goal, blocks, hold, ret_blocks);
    if (r == -ENOSPC && (fs->alloc.freed.blocks || fs->alloc.trimming.blocks)) {
        SOMETIMES("fs: a write waits for freed blocks to become usable");
        r = co_fs_checkpoint(fs); /* what was freed becomes usable */
        if (r == 0)
            r = co_alloc_hold(fs, goal, blocks, hold, ret_blocks);
    }
    return r;
}

struct map {
    struct fs_inode *inode;
    struct alloc_hold *hold; /* NULL: only the size */
    uint64_t file_block;
    uint64_t size_min;
};

static int map_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct map *map = arg;
    struct fs_inode_item item;
    int r = inode_item_get(fs, map->inode->ino, &item);

    if (r == 0 && map->hold)
        r = extent_map(fs, txn, map->inode->ino, &item, map->file_block, map->hold);
    if (r < 0)
        return r;
    item.size = MAX(item.size, map->size_min);
    item.mtime_ns = item.ctime_ns = (int64_t)txn->now_ns;
    inode_item_put(txn, map->inode->ino, &item);
    return 0;
}

int co_file_map(struct fs_inode *inode, uint64_t file_block, struct alloc_hold *hold,
                uint64_t size_min)
{
    struct map map = {.inode = inode, .hold = hold, .file_block = file_block, .size_min = size_min};
    int r = co_txn_run(inode->fs, TXN_GROWS, FS_NO_REQUEST, map_plan, &map, NULL);

    if (hold->count > 0) /* it did not come to the record */
        alloc_release(inode->fs, hold);
    return r;
}

int co_file_grow(struct fs_inode *inode, uint64_t size_min)
{
    struct map map = {.inode = inode, .size_min = size_min};

    return co_txn_run(inode->fs, TXN_SHRINKS, FS_NO_REQUEST, map_plan, &map, NULL);
}

static bool file_uses_clusters(const struct fs_inode *inode)
{
    return inode->item.size >= CLUSTER_FILE_BYTES &&
           alloc_available(&inode->fs->alloc) > 64 * CLUSTER_BYTES / BLOCK_SIZE;
}

/* Writes into the hole that begins at or before offset; *ret_done: how far it came. The caller
 * holds the clusters' range. */
static int co_write_hole(struct fs_inode *inode, const struct extent *hole, const char *buffer,
                         uint64_t offset, uint64_t end, uint64_t *ret_done)
{
    struct alloc_hold hold;
    uint64_t first = hole->file_block, blocks = hole->blocks, held, done;
    int r;

    r = co_file_hold(inode, first, blocks, &hold, &held);
    if (r < 0)
        return r;
    done = MIN(end, (first + held) * BLOCK_SIZE);
    if (PLANTED(FS_MAP_BEFORE_DATA)) {
        struct alloc_hold blocks_held = hold;

        *ret_done = MAX(done, offset);
        r = co_file_map(inode, first, &hold, done > offset ? done : 0);
        return r < 0 ? r : co_fill_hold(inode, first, &blocks_held, buffer, offset, end);
    }
    r = co_fill_hold(inode, first, &hold, buffer, offset, end);
    if (r < 0) {
        alloc_release(inode->fs, &hold);
        return r;
    }
    *ret_done = MAX(done, offset);
    return co_file_map(inode, first, &hold, done > offset ? done : 0);
}

/* The hole around offset: as far as the write goes, or, by clusters, to their ends. */
static int co_find_hole(struct fs_inode *inode, uint64_t offset, uint64_t end, uint64_t unit,
                        struct extent *hole)
{
    uint64_t from = ALIGN_DOWN(offset, unit) / BLOCK_SIZE;
    uint64_t to = ALIGN_UP(MIN(end, extent_end(hole)), unit) / BLOCK_SIZE;
    struct extent extent;
    int r;

    /* Backwards over what may be mapped in the first cluster: the last mapped block before offset
     * ends it. */
    while (from < offset / BLOCK_SIZE) {
        r = co_file_extent(inode, from, offset / BLOCK_SIZE - from, &extent);
        if (r < 0 && r != -ENOENT)
            return r;
        if (r == -ENOENT && from + extent.blocks >= offset / BLOCK_SIZE)
            break;
        from += extent.blocks;
    }
    r = co_file_extent(inode, from, to - from, hole);
    return r == -ENOENT ? 0 : r < 0 ? r : -EBADMSG;
}

/* [offset, end) under its lock. unit: what the lock is aligned to. */
static int co_write_locked(struct fs_inode *inode, const char *buffer, uint64_t offset,
                           uint64_t end, uint64_t unit, struct client_request request)
{
    bool was_touched = false;

    while (offset < end) {
        struct extent extent;
        uint64_t done = offset;
        int r = co_file_extent(inode, offset / BLOCK_SIZE, blocks_covering(offset, end), &extent);

        if (r == 0 && extent.is_shared) {
            r = co_file_write_shared(inode, buffer, offset, end, unit, &done);
            was_touched = true;
        } else if (r == 0) {
            done = MIN(end, extent_end(&extent));
            r = co_file_overwrite(inode, &extent, buffer, offset, done - offset, request);
            was_touched = true;
        } else if (r == -ENOENT) {
            r = co_find_hole(inode, offset, end, unit, &extent);
            if (r == 0)
                r = co_write_hole(inode, &extent, buffer, offset, end, &done);
        }
        if (r < 0)
            return r;
        buffer += done - offset;
        offset = done;
    }
    if (end > inode->item.size)
        return co_file_grow(inode, end);
    if (was_touched)
        inode_touch(inode);
    return 0;
}

/* The range to lock for a write: its blocks; behind the end all that follows, for the size is ours
 * to change. */
struct write_range {
    uint64_t start, length;
    bool extends;
};

static struct write_range write_range(const struct fs_inode *inode, uint64_t offset, uint64_t end,
                                      uint64_t unit)
{
    struct write_range range = {.start = ALIGN_DOWN(offset, unit),
                                .extends = end > inode->item.size};

    if (range.extends) {
        range.start = ALIGN_DOWN(MIN(offset, inode->item.size), unit);
        range.length = FILE_LOCK_END - range.start;
    } else {
        range.length = ALIGN_UP(end, unit) - range.start;
    }
    return range;
}

static void co_write_lock(struct fs_inode *inode, struct range_lock_hold *hold, uint64_t offset,
                          uint64_t end, uint64_t unit, struct write_range *ret_range)
{
    for (;;) {
        struct write_range range = write_range(inode, offset, end, unit), now;

        co_range_lock(&inode->lock, hold, range.start, range.length, true);
        now = write_range(inode, offset, end, unit); /* the size may have moved while we waited */
        SOMETIMES_IF(now.extends != range.extends,
                     "fs: the size moved while a write waited for its lock");
        if (now.start >= range.start && now.length <= range.length) {
            *ret_range = now;
            return;
        }
        range_unlock(&inode->lock, hold);
    }
}

/* Does the write fill part of a hole, or replace what is shared, in a file that is filled by
 * clusters? Under the lock of its blocks. */
static int co_write_wants_clusters(struct fs_inode *inode, uint64_t offset, uint64_t end,
                                   bool *ret_wants)
{
    *ret_wants = false;
    if (!file_uses_clusters(inode))
        return 0;
    while (offset < end) {
        struct extent extent;
        int r = co_file_extent(inode, offset / BLOCK_SIZE, blocks_covering(offset, end), &extent);

        if (r == -ENOENT || (r == 0 && extent.is_shared)) {
            *ret_wants = true;
            return 0;
        }
        if (r < 0)
            return r;
        offset = extent_end(&extent);
    }
    return 0;
}

static int co_write_chunk(struct fs_inode *inode, const char *buffer, uint64_t offset, uint64_t end,
                          struct client_request request)
{
    struct range_lock_hold hold;
    struct write_range range;
    uint64_t unit = BLOCK_SIZE;
    bool wants_clusters;
    int r;

    co_write_lock(inode, &hold, offset, end, unit, &range);
    r = co_write_wants_clusters(inode, offset, end, &wants_clusters);
    if (r == 0 && wants_clusters) {
        unit = CLUSTER_BYTES;
        range_unlock(&inode->lock, &hold);
        co_write_lock(inode, &hold, offset, end, unit, &range);
    }
    if (r == 0)
        r = inode->fs->error;
    /* Behind the end it is written only when the new size is: until then zeros may go over it, and
     * the vdisk must not call its repeat done. */
    if (range.extends && !PLANTED(FS_NAMED_BEHIND_END))
        request = NO_CLIENT;
    if (r == 0 && range.extends && offset > inode->item.size)
        r = co_file_zero_behind_end(inode, offset);
    if (r == 0)
        r = co_write_locked(inode, buffer, offset, end, unit, request);
    range_unlock(&inode->lock, &hold);
    return r;
}

static int co_write(struct fs_inode *inode, const void *buffer, uint64_t offset, uint64_t length,
                    struct client_request request)
{
    const char *at = buffer;
    uint64_t end = offset + length;
    int r = file_check_change(inode);

    if (r == 0)
        r = file_check_range(offset, length);
    while (r == 0 && offset < end) {
        uint64_t step = MIN(end - offset, CHUNK_BYTES - offset % CLUSTER_BYTES);

        r = co_write_chunk(inode, at, offset, offset + step, request);
        at += step;
        offset += step;
    }
    return r;
}

int co_fs_write(struct fs_inode *inode, const void *buffer, uint64_t offset, uint64_t length,
                struct client_request request)
{
    struct fs *fs = inode->fs;
    int r = co_change_begin(fs);

    if (r < 0)
        return r;
    r = co_write(inode, buffer, offset, length, request);
    change_end(fs);
    return r;
}
