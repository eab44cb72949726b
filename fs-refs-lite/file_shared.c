/* Writing to blocks that may be shared. What others map too is never written: the data goes to
 * fresh blocks, with what lies around it in its cluster copied there, and then one record maps
 * these instead of the old ones, which lose a reference. A crash before the record leaves the old
 * blocks as they were; the fresh ones were only held.
 *
 * Where the last other reference has gone the block is ours alone, but perhaps only in RAM: the
 * record that took it away must be durable before we write in place, or a crash would give the
 * other file our data. */
#include "fs-refs-lite/file.h"
#include "fs-refs-lite/fs_internal.h"

#define COPY_BYTES (64 * KIB)   /* at once, through a private buffer */
#define REPLACE_BYTES (1 * MIB) /* of one record */

/* One piece of fresh blocks, at most COPY_BYTES. */
struct fill {
    struct fs_inode *inode;
    const struct extent *old, *fresh; /* both cover the file's blocks that are replaced */
    const char *buffer;               /* data for `offset`; NULL: zeros */
    uint64_t offset, end;             /* bytes of the file that it is for */
};

static uint64_t address_of(const struct extent *extent, uint64_t offset)
{
    return extent->address * BLOCK_SIZE + (offset - extent->file_block * BLOCK_SIZE);
}

static uint64_t within(uint64_t at, uint64_t low, uint64_t high)
{
    return MIN(MAX(at, low), high);
}

static int co_fill_mixed(const struct fill *fill, uint64_t from, uint64_t to)
{
    struct fs *fs = fill->inode->fs;
    uint64_t data_from = within(fill->offset, from, to), data_to = within(fill->end, from, to);
    char *bounce = co_buffer_get(fs->bounce, to - from);
    int r = co_disk_read(fs, bounce, address_of(fill->old, from), to - from);

    if (r == 0 && data_from < data_to) {
        if (fill->buffer)
            memcpy(bounce + (data_from - from), fill->buffer + (data_from - fill->offset),
                   data_to - data_from);
        else
            memset(bounce + (data_from - from), 0, data_to - data_from);
    }
    if (r == 0)
        r = co_disk_write(fs, bounce, address_of(fill->fresh, from), to - from, NO_CLIENT);
    buffer_put(fs->bounce, bounce, to - from);
    return r;
}

/* Whole blocks that are all new. */
static int co_fill_whole(const struct fill *fill, uint64_t from, uint64_t to)
{
    struct fs *fs = fill->inode->fs;
    uint64_t address = address_of(fill->fresh, from);
    const char *data = fill->buffer + (from - fill->offset);
    int r = 0;

    if (!fill->buffer)
        return co_disk_trim(fs, address, to - from, NO_CLIENT);
    if ((uintptr_t)data % BLOCK_SIZE == 0)
        return co_disk_write(fs, data, address, to - from, NO_CLIENT);
    for (uint64_t at = from, step; r == 0 && at < to; at += step) {
        char *bounce;

        step = MIN(to - at, COPY_BYTES);
        bounce = co_buffer_get(fs->bounce, step);
        memcpy(bounce, data + (at - from), step);
        r = co_disk_write(fs, bounce, address + (at - from), step, NO_CLIENT);
        buffer_put(fs->bounce, bounce, step);
    }
    return r;
}

static int co_fill_copies(const struct fill *fill, uint64_t from, uint64_t to)
{
    int r = 0;

    for (uint64_t at = from, step; r == 0 && at < to; at += step) {
        step = MIN(to - at, COPY_BYTES);
        r = co_fill_mixed(fill, at, at + step);
    }
    return r;
}

/* All of the fresh extent: copies before, what is new, copies behind. */
static int co_fill(const struct fill *fill)
{
    uint64_t first = fill->fresh->file_block * BLOCK_SIZE;
    uint64_t last = first + fill->fresh->blocks * BLOCK_SIZE;
    uint64_t from = within(ALIGN_UP(fill->offset, (uint64_t)BLOCK_SIZE), first, last);
    uint64_t to = within(ALIGN_DOWN(fill->end, BLOCK_SIZE), first, last);
    int r;

    fill->inode->fs->counters.data_writes++;
    if (from >= to) /* no block is all new */
        return co_fill_copies(fill, first, last);
    r = co_fill_copies(fill, first, from);
    if (r == 0)
        r = co_fill_whole(fill, from, to);
    if (r == 0)
        r = co_fill_copies(fill, to, last);
    return r;
}

/* ---- the record ---- */

struct replace {
    struct fs_inode *inode;
    uint64_t file_block, blocks;
    struct alloc_hold *hold;
    uint64_t size_min;
};

static int replace_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct replace *replace = arg;
    uint64_t ino = replace->inode->ino, end = replace->file_block + replace->blocks, next;
    struct fs_inode_item item;
    int r = inode_item_get(fs, ino, &item);

    if (r == 0)
        r = extent_unmap(fs, txn, ino, &item, replace->file_block, end, &next);
    if (r == 0 && next != end) /* others have cut its counts into too many pieces meanwhile */
        r = -EBUSY;
    if (r == 0)
        r = extent_map(fs, txn, ino, &item, replace->file_block, replace->hold);
    if (r < 0)
        return r;
    item.size = MAX(item.size, replace->size_min);
    item.mtime_ns = item.ctime_ns = (int64_t)txn->now_ns;
    inode_item_put(txn, ino, &item);
    return 0;
}

static int co_replace(struct fs_inode *inode, const struct extent *run, const char *buffer,
                      uint64_t offset, uint64_t end, uint64_t *ret_done)
{
    struct alloc_hold hold;
    struct replace replace = {.inode = inode, .file_block = run->file_block, .hold = &hold};
    uint64_t file_block = run->file_block, done;
    int r = co_file_hold(inode, run->file_block, run->blocks, &hold, &replace.blocks);

    if (r < 0)
        return r;
    for (unsigned i = 0; r == 0 && i < hold.count; i++) {
        struct extent fresh = {.file_block = file_block,
                               .blocks = hold.runs[i].blocks,
                               .address = hold.runs[i].address};
        struct fill fill = {.inode = inode,
                            .old = run,
                            .fresh = &fresh,
                            .buffer = buffer,
                            .offset = offset,
                            .end = end};

        r = co_fill(&fill);
        file_block += fresh.blocks;
    }
    done = MIN(end, file_block * BLOCK_SIZE); /* less than offset: only what lies before it yet */
    if (buffer && done > offset)
        replace.size_min = done;
    if (r == 0)
        r = co_txn_run(inode->fs, TXN_GROWS, FS_NO_REQUEST, replace_plan, &replace, NULL);
    if (hold.count > 0)
        alloc_release(inode->fs, &hold);
    if (r == 0) {
        inode->fs->counters.replaced_blocks += replace.blocks;
        *ret_done = MAX(done, offset);
    }
    return r == -EBUSY ? 0
                       : r; /* nothing is done yet: the caller looks at one of the pieces next */
}

/* ---- what is where ---- */

struct claim {
    uint64_t ino, file_block;
};

static int claim_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct claim *claim = arg;

    return extent_claim(fs, txn, claim->ino, claim->file_block);
}

/* Blocks that nobody shares any more, under an extent that is marked: safe to write in place when
 * this returned 0. */
static int co_claim(struct fs_inode *inode, uint64_t file_block)
{
    struct claim claim = {.ino = inode->ino, .file_block = file_block};
    int r = co_txn_run(inode->fs, TXN_SHRINKS, FS_NO_REQUEST, claim_plan, &claim, NULL);

    return r < 0 ? r : co_journal_wait(inode->fs, inode->fs->journal.appended_lsn);
}

/* Cuts an extent to the run around file_block that is as shared as that block is. */
static int co_cut_to_run(struct fs *fs, struct extent *extent, uint64_t file_block,
                         bool *ret_shared)
{
    for (;;) {
        uint64_t blocks;
        int r =
            CO_RETRY(fs, refs_look_up(fs, extent->address, extent->blocks, ret_shared, &blocks));

        if (r < 0)
            return r;
        if (extent->file_block + blocks > file_block) {
            extent->blocks = blocks;
            return 0;
        }
        extent->file_block += blocks;
        extent->address += blocks;
        extent->blocks -= blocks;
    }
}

/* The extent that covers file_block, from `from` on if it reaches so far back. */
static int co_extent_around(struct fs_inode *inode, uint64_t from, uint64_t file_block, uint64_t to,
                            struct extent *ret_extent)
{
    for (;;) {
        int r = co_file_extent(inode, from, to - from, ret_extent);

        if (r < 0 && r != -ENOENT)
            return r;
        from += ret_extent->blocks;
        if (from > file_block)
            return r == 0 ? 0 : -EBADMSG; /* the caller has seen it */
    }
}

int co_file_write_shared(struct fs_inode *inode, const char *buffer, uint64_t offset, uint64_t end,
                         uint64_t unit, uint64_t *ret_done)
{
    uint64_t file_block = offset / BLOCK_SIZE, from = ALIGN_DOWN(offset, unit) / BLOCK_SIZE;
    uint64_t to = ALIGN_UP(MIN(end, offset + REPLACE_BYTES), unit) / BLOCK_SIZE;
    struct extent run;
    bool is_shared;
    int r = co_extent_around(inode, from, file_block, to, &run);

    if (r == 0)
        r = co_cut_to_run(inode->fs, &run, file_block, &is_shared);
    if (r < 0)
        return r;
    if (is_shared)
        return co_replace(inode, &run, buffer, offset, end, ret_done);
    r = co_claim(inode, file_block);
    if (r < 0)
        return r;
    run.is_shared = false;
    end = MIN(end, (run.file_block + run.blocks) * BLOCK_SIZE);
    *ret_done = end;
    if (buffer)
        return co_file_overwrite(inode, &run, buffer, offset, end - offset, NO_CLIENT);
    return co_file_zero_extent(inode, &run, offset, end);
}
