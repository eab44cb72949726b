/* Clones: a range of one file becomes a range of another by sharing its blocks. Both ranges are
 * locked, the source's for readers and so against writes in place; first the source's extents are
 * marked, so that a later write there looks before it writes; then, in steps, the target maps what
 * the source maps. The steps follow each other in the journal and only the last is waited for: a
 * terabyte in 8,300 extents is some 180 records. */
#include "fs-refs-lite/clone.h"
#include "fs-refs-lite/file.h"
#include "fs-refs-lite/fs_internal.h"
#include "fs-refs-lite/name.h"

struct clone {
    struct fs_inode *from, *to;
    uint64_t at, end;    /* blocks of the source */
    uint64_t file_block; /* of the target, where `at` goes */
    uint64_t next;       /* what the step did: `at` of the next one */
    uint64_t size_min;
};

static int mark_plan(struct fs *fs, struct txn *txn, void *arg)
{
    struct clone *clone = arg;

    return extent_mark_shared(fs, txn, clone->from->ino, clone->at, clone->end, &clone->next);
}

static int share_plan(struct fs *fs, struct txn *txn, void *arg)
{
    struct clone *clone = arg;
    struct fs_inode_item item;
    int r = inode_item_get(fs, clone->to->ino, &item);

    if (r == 0)
        r = extent_share(fs, txn, clone->from->ino, clone->at, clone->end, clone->to->ino, &item,
                         clone->file_block, &clone->next);
    if (r == 0)
        inode_item_put(txn, clone->to->ino, &item);
    return r;
}

static int co_steps(struct clone clone, txn_plan *plan)
{
    while (clone.at < clone.end) {
        int r = co_txn_step(clone.to->fs, TXN_GROWS, plan, &clone, NULL);

        if (r < 0)
            return r;
        assert(clone.next > clone.at);
        clone.file_block += clone.next - clone.at;
        clone.at = clone.next;
    }
    return 0;
}

int co_clone_blocks(struct fs_inode *from, uint64_t from_block, struct fs_inode *to,
                    uint64_t to_block, uint64_t blocks)
{
    struct clone clone = {.from = from,
                          .to = to,
                          .at = from_block,
                          .end = from_block + blocks,
                          .file_block = to_block};
    int r = co_steps(clone, mark_plan);

    return r < 0 ? r : co_steps(clone, share_plan);
}

/* The end of it: what holds the promise to the request. */
static int clone_done_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct clone *clone = arg;
    struct fs_inode_item item;
    int r = inode_item_get(fs, clone->to->ino, &item);

    if (r < 0)
        return r;
    item.size = MAX(item.size, clone->size_min);
    item.mtime_ns = item.ctime_ns = (int64_t)txn->now_ns;
    inode_item_put(txn, clone->to->ino, &item);
    return 0;
}

/* ---- a range ---- */

struct clone_range {
    struct fs_inode *from, *to;
    uint64_t from_offset, to_offset, length;
};

/* Whole blocks; but the last one may be cut off by the ends of both files. */
static int clone_range_check(const struct clone_range *range)
{
    uint64_t from_end = range->from_offset + range->length;
    uint64_t to_end = range->to_offset + range->length;

    if (range->from_offset % BLOCK_SIZE || range->to_offset % BLOCK_SIZE ||
        from_end > range->from->item.size)
        return -EINVAL;
    if (range->length % BLOCK_SIZE &&
        (from_end != range->from->item.size || to_end < range->to->item.size))
        return -EINVAL;
    if (range->from == range->to && range->from_offset < to_end && range->to_offset < from_end)
        return -EINVAL;
    return 0;
}

static int co_clone_locked(const struct clone_range *range, struct fs_request request)
{
    struct fs *fs = range->to->fs;
    struct clone done = {.to = range->to, .size_min = range->to_offset + range->length};
    struct txn_result result = {0};
    int r = session_look_up(fs, request, &result);

    if (r < 0)
        return r;
    if (result.is_repeat)
        return co_journal_wait(fs, result.lsn);
    r = clone_range_check(range);
    if (r == 0 && range->to_offset > range->to->item.size)
        r = co_file_zero_behind_end(range->to, range->to_offset);
    if (r == 0)
        r = co_clone_blocks(range->from, range->from_offset / BLOCK_SIZE, range->to,
                            range->to_offset / BLOCK_SIZE, DIV_ROUND_UP(range->length, BLOCK_SIZE));
    return r < 0 ? r : co_txn_run(fs, TXN_SHRINKS, request, clone_done_plan, &done, NULL);
}

/* Both files, in an order that all follow. The source is locked from its beginning: a mark is one
 * for a whole extent, and who writes to the part of it before the range would take it off again
 * (extent_claim()) before anything is shared. A target that grows is locked from its end on. */
struct clone_locks {
    struct range_lock_hold from, to;
    uint64_t to_start;
};

static void co_clone_lock(const struct clone_range *range, struct clone_locks *locks)
{
    struct fs_inode *from = range->from, *to = range->to;

    locks->to_start = from == to ? 0 : ALIGN_DOWN(MIN(range->to_offset, to->item.size), BLOCK_SIZE);
    if (from->ino < to->ino)
        co_range_lock(&from->lock, &locks->from, 0, FILE_LOCK_END, false);
    co_range_lock(&to->lock, &locks->to, locks->to_start, FILE_LOCK_END - locks->to_start, true);
    if (from->ino > to->ino)
        co_range_lock(&from->lock, &locks->from, 0, FILE_LOCK_END, false);
}

static void clone_unlock(const struct clone_range *range, struct clone_locks *locks)
{
    if (range->from != range->to)
        range_unlock(&range->from->lock, &locks->from);
    range_unlock(&range->to->lock, &locks->to);
}

static int co_clone_range(struct fs_inode *from, uint64_t from_offset, struct fs_inode *to,
                          uint64_t to_offset, uint64_t length, struct fs_request request)
{
    struct clone_range range = {.from = from,
                                .to = to,
                                .from_offset = from_offset,
                                .to_offset = to_offset,
                                .length = length};
    struct clone_locks locks;
    int r = file_check(from);

    assert(from->fs == to->fs);
    if (r == 0)
        r = file_check_change(to);
    if (r == 0)
        r = file_check_range(from_offset, length);
    if (r == 0)
        r = file_check_range(to_offset, length);
    if (r < 0 || length == 0)
        return r;
    for (;;) {
        co_clone_lock(&range, &locks);
        if (ALIGN_DOWN(MIN(to_offset, to->item.size), BLOCK_SIZE) >= locks.to_start)
            break;
        clone_unlock(&range, &locks); /* it became shorter while we waited */
    }
    r = to->fs->error;
    if (r == 0)
        r = co_clone_locked(&range, request);
    clone_unlock(&range, &locks);
    return r;
}

int co_fs_clone_range(struct fs_inode *from, uint64_t from_offset, struct fs_inode *to,
                      uint64_t to_offset, uint64_t length, struct fs_request request)
{
    struct fs *fs = to->fs;
    int r = co_change_begin(fs);

    if (r < 0)
        return r;
    r = co_clone_range(from, from_offset, to, to_offset, length, request);
    change_end(fs);
    return r;
}

/* ---- a whole file ---- */

struct clone_file {
    struct fs_inode *from, *dir;
    const char *name;
    struct fs_inode *made;
};

/* A copy of the inode, without a name yet: gone again if we do not come to the end. */
static int nameless_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct clone_file *clone = arg;
    struct fs_inode_item item;
    struct fs_key orphan;
    int r = inode_item_get(fs, clone->from->ino, &item);

    if (r < 0)
        return r;
    txn->ino = fs->next_ino;
    orphan = orphan_key(txn->ino);
    inode_item_renew(txn, &item);
    item.nlink = 0;
    inode_item_put(txn, txn->ino, &item);
    txn_put(txn, FS_TREE_FILES, &orphan, NULL, 0);
    return 0;
}

static int name_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct clone_file *clone = arg;
    struct fs_key orphan = orphan_key(clone->made->ino);
    struct fs_inode_item item;
    int r = inode_item_get(fs, clone->made->ino, &item);

    if (r < 0)
        return r;
    r = dir_enter(fs, txn, clone->dir->ino, clone->name, clone->made->ino, item.mode);
    if (r < 0)
        return r;
    txn->ino = clone->made->ino;
    item.nlink = 1;
    item.ctime_ns = (int64_t)txn->now_ns;
    inode_item_put(txn, clone->made->ino, &item);
    txn_delete(txn, FS_TREE_FILES, &orphan);
    return 0;
}

static int co_clone_contents(struct fs_inode *from, struct fs_inode *to)
{
    struct range_lock_hold hold;
    struct clone done = {.to = to};
    int r;

    /* Nobody else knows `to`. */
    co_range_lock(&from->lock, &hold, 0, FILE_LOCK_END, false);
    done.size_min = from->item.size;
    r = co_clone_blocks(from, 0, to, 0, DIV_ROUND_UP(from->item.size, BLOCK_SIZE));
    if (r == 0)
        r = co_txn_step(to->fs, TXN_SHRINKS, clone_done_plan, &done, NULL);
    range_unlock(&from->lock, &hold);
    return r;
}

static int co_clone_file(struct fs_inode *from, struct fs_inode *dir, const char *name,
                         struct fs_request request, uint64_t *ret_ino)
{
    struct fs *fs = from->fs;
    struct clone_file clone = {.from = from, .dir = dir, .name = name};
    struct txn_result result = {0};
    int r = name_check(name);

    if (r == 0)
        r = file_check(from);
    if (r == 0)
        r = session_look_up(fs, request, &result);
    if (r == 0 && !result.is_repeat) {
        r = co_dir_check_free(dir, name);
        if (r == 0) /* no suspension up to the reference: nobody reaps it */
            r = co_txn_step(fs, TXN_GROWS, nameless_plan, &clone, &result);
        if (r == 0)
            r = co_fs_inode_get(fs, result.ino, 0, &clone.made);
        if (r == 0)
            r = co_clone_contents(from, clone.made);
        if (r == 0)
            r = co_txn_run(fs, TXN_GROWS, request, name_plan, &clone, &result);
        fs_inode_put(clone.made); /* without a name: the last reference frees it */
    } else if (r == 0) {
        r = co_journal_wait(fs, result.lsn);
    }
    *ret_ino = result.ino;
    return r;
}

int co_fs_clone_file(struct fs_inode *from, struct fs_inode *dir, const char *name,
                     struct fs_request request, struct fs_inode **ret_inode)
{
    struct fs *fs = from->fs;
    uint64_t ino;
    int r = co_change_begin(fs);

    if (r < 0)
        return r;
    r = co_clone_file(from, dir, name, request, &ino);
    change_end(fs);
    if (r < 0 || !ret_inode)
        return r;
    /* Not before: it may have a truncation to finish, which is a change of its own. */
    r = co_fs_inode_get(fs, ino, 0, ret_inode);
    return r == -ESTALE && !fs->error ? -ENOENT : r;
}
