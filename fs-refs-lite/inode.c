#include "fs-refs-lite/inode.h"
#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/checkpoint.h"
#include "fs-refs-lite/extent.h"
#include "fs-refs-lite/file.h"
#include "fs-refs-lite/fs_internal.h"
#include "fs-refs-lite/name.h"

/* ---- the table ---- */

int inode_table_init(struct inode_table *table)
{
    list_init(&table->times_dirty);
    table->count = 0;
    table->buckets = calloc(INODE_BUCKETS, sizeof(*table->buckets));
    return table->buckets ? 0 : -ENOMEM;
}

static struct fs_inode **inode_bucket(struct fs *fs, uint64_t ino)
{
    return &fs->inodes.buckets[(ino * 0x9e3779b97f4a7c15u >> 32) % INODE_BUCKETS];
}

struct fs_inode *inode_find(struct fs *fs, uint64_t ino)
{
    struct fs_inode *inode = *inode_bucket(fs, ino);

    while (inode && inode->ino != ino)
        inode = inode->hash_next;
    return inode;
}

static struct fs_inode *inode_new(struct fs *fs, uint64_t ino, const struct fs_inode_item *item)
{
    struct fs_inode **bucket = inode_bucket(fs, ino), *inode = calloc(1, sizeof(*inode));

    if (!inode)
        return NULL;
    inode->fs = fs;
    inode->ino = ino;
    inode->item = *item;
    inode->lsn = fs->journal.appended_lsn; /* what we read may be that new */
    list_init(&inode->times_node);
    range_lock_init(&inode->lock);
    inode->hash_next = *bucket;
    *bucket = inode;
    fs->inodes.count++;
    return inode;
}

static void inode_free(struct fs_inode *inode)
{
    struct fs *fs = inode->fs;
    struct fs_inode **link = inode_bucket(fs, inode->ino);

    assert(range_lock_idle(&inode->lock));
    while (*link != inode)
        link = &(*link)->hash_next;
    *link = inode->hash_next;
    list_remove(&inode->times_node);
    fs->inodes.count--;
    free(inode);
}

void inode_table_done(struct inode_table *table)
{
    for (size_t i = 0; table->buckets && i < INODE_BUCKETS; i++) {
        while (table->buckets[i])
            inode_free(table->buckets[i]);
    }
    free(table->buckets);
    table->buckets = NULL;
}

/* ---- items ---- */

int inode_item_get(struct fs *fs, uint64_t ino, struct fs_inode_item *ret_item)
{
    const struct fs_inode *inode = inode_find(fs, ino);
    struct fs_key key = inode_key(ino);
    struct tree_item item;
    int r = tree_get(fs, FS_TREE_FILES, &key, &item);

    if (r < 0)
        return r;
    if (item.size != sizeof(*ret_item))
        return -EBADMSG;
    memcpy(ret_item, inode ? &inode->item : item.value, sizeof(*ret_item));
    return ret_item->size <= FS_FILE_SIZE_MAX ? 0 : -EBADMSG;
}

void inode_item_put(struct txn *txn, uint64_t ino, struct fs_inode_item *item)
{
    struct fs_key key = inode_key(ino);

    item->change++;
    txn_put(txn, FS_TREE_FILES, &key, item, sizeof(*item));
}

void inode_item_renew(const struct txn *txn, struct fs_inode_item *item)
{
    *item = (struct fs_inode_item){.generation = txn->lsn,
                                   .atime_ns = (int64_t)txn->now_ns,
                                   .mtime_ns = (int64_t)txn->now_ns,
                                   .ctime_ns = (int64_t)txn->now_ns,
                                   .btime_ns = (int64_t)txn->now_ns,
                                   .mode = item->mode,
                                   .nlink = item->nlink,
                                   .uid = item->uid,
                                   .gid = item->gid,
                                   .rdev = item->rdev};
}

void inode_changed(struct fs *fs, uint64_t ino, const struct fs_inode_item *item, uint64_t lsn)
{
    struct fs_inode *inode = inode_find(fs, ino);

    if (item && ino >= fs->next_ino && ino < FS_COUNTER_MAX / 2)
        fs->next_ino = ino + 1;
    if (!inode)
        return;
    inode->lsn = lsn;
    list_remove(&inode->times_node); /* the item has them now */
    if (item)
        memcpy(&inode->item, item, sizeof(inode->item));
    if (inode->references == 0 && !inode->is_reaping)
        inode_free(inode); /* it was here for its times only, or is gone */
}

void inode_forget_extent(struct fs_inode *inode)
{
    inode->last.blocks = 0;
}

void inode_touch(struct fs_inode *inode)
{
    inode->item.mtime_ns = inode->item.ctime_ns = io_wall_ns(inode->fs->io);
    inode->item.change++;
    if (list_empty(&inode->times_node))
        list_push_back(&inode->fs->inodes.times_dirty, &inode->times_node);
}

int co_inode_settle(struct fs_inode *inode)
{
    return co_journal_wait(inode->fs, inode->lsn);
}

#define FLUSH_ADDRESSES 64 /* more than one inode's times need */

/* One inode's times into the tree. -EAGAIN: look again. -ENOSPC: what addresses there are the
 * checkpoint needs itself. 1: its node cannot be read now, it is the last in the list. */
static int co_inode_flush_one(struct fs *fs, struct fs_inode *inode)
{
    struct fs_key key = inode_key(inode->ino);
    size_t needed = alloc_checkpoint_addresses(fs, FLUSH_ADDRESSES) + FLUSH_ADDRESSES;
    struct tree_item item;
    int r;

    if (needed > checkpoint_addresses_max(fs))
        return -ENOSPC;
    if (fs->alloc.pool_count < needed) {
        r = co_alloc_refill(fs, needed + FLUSH_ADDRESSES, needed);
        return r < 0 ? r : -EAGAIN;
    }
    r = alloc_reserve_frees(&fs->alloc, FLUSH_ADDRESSES);
    if (r < 0)
        return r;
    r = tree_get(fs, FS_TREE_FILES, &key, &item);
    if (r == 0)
        r = tree_prepare(fs, FS_TREE_FILES, &key);
    if (r == -EAGAIN) {
        uint64_t ino = inode->ino;

        r = co_node_try(fs);
        if (is_block_error(fs, r))
            r = fs->is_unmounting ? -EBADMSG : 1;
        inode = inode_find(fs, ino); /* others went on meanwhile */
        if (r < 0 && r != -EBADMSG)
            return r;
        if (r == 0 || !inode || list_empty(&inode->times_node))
            return -EAGAIN;
        if (r == 1) {
            list_remove(&inode->times_node);
            list_push_back(&fs->inodes.times_dirty, &inode->times_node);
            return r;
        }
    }
    if (r == 0)
        tree_put(fs, FS_TREE_FILES, &key, &inode->item, sizeof(inode->item));
    list_remove(
        &inode->times_node); /* also when its node is damaged: then the times are lost with it */
    if (inode->references == 0 && !inode->is_reaping)
        inode_free(inode);
    return 0;
}

int co_inode_flush_times(struct fs *fs)
{
    size_t budget =
        checkpoint_dirty_max(fs) / 4; /* nodes that this may make dirty; the rest next time */
    const struct list *times = &fs->inodes.times_dirty;
    const struct list *kept = NULL; /* the first that cannot be written now: once round is enough */

    while (!list_empty(times) && times->next != kept && budget > 0) {
        struct fs_inode *inode = list_first(times, struct fs_inode, times_node);
        int r = fs->error ? fs->error : co_inode_flush_one(fs, inode);

        if (r == -ENOSPC)
            return 0; /* another time: a crash may take them back, too */
        if (r == 1 && !kept)
            kept = times->prev;
        if (r < 0 && r != -EAGAIN)
            return r;
        budget--;
    }
    return 0;
}

/* ---- references ---- */

int co_fs_inode_get(struct fs *fs, uint64_t ino, uint64_t generation, struct fs_inode **ret_inode)
{
    struct fs_inode *inode;
    struct fs_inode_item item;
    int r = fs->error;

    if (r == 0)
        r = CO_RETRY(fs, inode_item_get(fs, ino, &item));
    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    inode = inode_find(fs, ino);
    if ((inode && inode->is_reaping) || (generation && generation != item.generation))
        return -ESTALE;
    if (!inode)
        inode = inode_new(fs, ino, &item);
    if (!inode)
        return -ENOMEM;
    inode->references++;
    if (inode->item.flags & FS_INODE_TRUNCATING) {
        r = co_file_finish_truncate(inode);
        if (r == -EROFS) /* what is behind the end is not shown, and stays */
            r = 0;
        if (r < 0) {
            fs_inode_put(inode);
            return r;
        }
    }
    *ret_inode = inode;
    return 0;
}

struct fs_inode *fs_inode_ref(struct fs_inode *inode)
{
    assert(inode->references > 0);
    inode->references++;
    return inode;
}

void fs_inode_put(struct fs_inode *inode)
{
    if (!inode)
        return;
    assert(inode->references > 0);
    if (--inode->references > 0)
        return;
    if (inode->item.nlink == 0 && !inode->fs->error)
        inode_reap_later(inode);
    else if (list_empty(&inode->times_node) || inode->fs->error)
        inode_free(inode);
}

uint64_t fs_inode_number(const struct fs_inode *inode)
{
    return inode->ino;
}

uint64_t fs_inode_generation(const struct fs_inode *inode)
{
    return inode->item.generation;
}

uint32_t fs_inode_mode(const struct fs_inode *inode)
{
    return inode->item.mode;
}

uint64_t fs_inode_size(const struct fs_inode *inode)
{
    return inode->item.size;
}

struct fs *fs_inode_fs(const struct fs_inode *inode)
{
    return inode->fs;
}

/* ---- orphans ---- */

struct reap {
    uint64_t ino;
    bool is_done;
};

int inode_destroy_step(struct fs *fs, struct txn *txn, uint64_t ino, struct fs_inode_item *item,
                       bool *ret_done)
{
    struct fs_key inode = inode_key(ino), orphan = orphan_key(ino);
    uint64_t next;
    int r = extent_unmap(fs, txn, ino, item, 0, UINT64_MAX, &next);

    if (r < 0)
        return r;
    item->nlink = 0;
    *ret_done = next == UINT64_MAX;
    if (!*ret_done) {
        inode_item_put(txn, ino, item);
        txn_put(txn, FS_TREE_FILES, &orphan, NULL, 0);
        return 0;
    }
    r = symlink_delete(fs, txn, ino);
    if (r < 0)
        return r;
    txn_delete(txn, FS_TREE_FILES, &inode);
    txn_delete(txn, FS_TREE_FILES, &orphan);
    return 0;
}

static int reap_plan(struct fs *fs, struct txn *txn, void *arg)
{
    struct reap *reap = arg;
    struct fs_key orphan = orphan_key(reap->ino);
    struct fs_inode_item item;
    int r = inode_item_get(fs, reap->ino, &item);

    if (r == -ENOENT) { /* only in a damaged volume */
        reap->is_done = true;
        txn_delete(txn, FS_TREE_FILES, &orphan);
        return 0;
    }
    return r < 0 ? r : inode_destroy_step(fs, txn, reap->ino, &item, &reap->is_done);
}

static int co_reap(struct fs *fs, uint64_t ino)
{
    struct reap reap = {.ino = ino};
    int r = 0;

    while (r == 0 && !reap.is_done)
        r = co_txn_run(fs, TXN_SHRINKS, FS_NO_REQUEST, reap_plan, &reap, NULL);
    return r;
}

static void co_reap_background(void *arg)
{
    struct fs_inode *inode = arg;

    /* An error leaves the orphan to the next co_fs_reap_orphans(). */
    (void)co_reap(inode->fs, inode->ino);
    inode_free(inode);
}

void inode_reap_later(struct fs_inode *inode)
{
    struct fs *fs = inode->fs;

    assert(inode->references == 0 && inode->item.nlink == 0);
    inode->is_reaping = true;
    if (co_group_spawn(&fs->background, fs->io, "fs-reap", co_reap_background, inode) < 0)
        inode_free(inode);
}

/* The first orphan from ino on. */
static int orphan_next(struct fs *fs, uint64_t *ino)
{
    struct fs_key key = orphan_key(*ino);
    struct tree_item item;
    int r = tree_next(fs, FS_TREE_FILES, &key, &item);

    if (r < 0)
        return r;
    if (item.key.object != 0 || item.key.kind != FS_KIND_ORPHAN)
        return -ENOENT;
    *ino = item.key.offset;
    return 0;
}

/* In steps, between which nobody may reference it: half of its blocks are holes by then. */
static int co_reap_unreferenced(struct fs *fs, uint64_t ino)
{
    struct fs_inode *inode = NULL;
    struct fs_inode_item item;
    int r = CO_RETRY(fs, inode_item_get(fs, ino, &item));

    if (r < 0 && r != -ENOENT)
        return r;
    if (inode_find(fs, ino))
        return 0; /* referenced, or being reaped */
    if (r == 0) {
        inode = inode_new(fs, ino, &item);
        if (!inode)
            return -ENOMEM;
        inode->is_reaping = true;
    }
    r = co_reap(fs, ino);
    if (inode)
        inode_free(inode);
    return r;
}

int co_fs_reap_orphans(struct fs *fs)
{
    for (uint64_t ino = 0;; ino++) {
        int r = fs->error ? fs->error : CO_RETRY(fs, orphan_next(fs, &ino));

        if (r < 0)
            return r == -ENOENT ? co_snapshots_sweep(fs) : r;
        r = co_reap_unreferenced(fs, ino);
        if (r < 0 && r != -EBADMSG)
            return r;
    }
}

/* ---- attributes ---- */

int co_fs_getattr(struct fs_inode *inode, struct fs_attr *ret_attr)
{
    const struct fs_inode_item *item = &inode->item;

    /* First, and then the wait: behind it they may be newer than what was waited for. */
    *ret_attr = (struct fs_attr){
        .ino = inode->ino,
        .generation = item->generation,
        .mode = item->mode,
        .nlink = item->nlink,
        .uid = item->uid,
        .gid = item->gid,
        .rdev = item->rdev,
        .size = item->size,
        .allocated_bytes = item->blocks * BLOCK_SIZE,
        .atime_ns = item->atime_ns,
        .mtime_ns = item->mtime_ns,
        .ctime_ns = item->ctime_ns,
        .btime_ns = item->btime_ns,
        /* Changes of the counter that a crash took back must not come again with other contents. */
        .change = item->change + (inode->fs->root.crashes << 40),
    };
    return co_inode_settle(inode);
}

struct set {
    uint64_t ino;
    const struct fs_attr *attr;
    unsigned set;
};

static int set_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct set *set = arg;
    struct fs_inode_item item;
    int r = inode_item_get(fs, set->ino, &item);

    if (r == 0)
        r = fs_may_change(fs, &item);
    if (r < 0)
        return r;
    if (set->set & FS_SET_MODE)
        item.mode = (item.mode & S_IFMT) | (set->attr->mode & 07777);
    if (set->set & FS_SET_UID)
        item.uid = set->attr->uid;
    if (set->set & FS_SET_GID)
        item.gid = set->attr->gid;
    if (set->set & FS_SET_ATIME)
        item.atime_ns = set->attr->atime_ns;
    if (set->set & FS_SET_MTIME)
        item.mtime_ns = set->attr->mtime_ns;
    if (set->set & FS_SET_ATIME_NOW)
        item.atime_ns = (int64_t)txn->now_ns;
    if (set->set & FS_SET_MTIME_NOW)
        item.mtime_ns = (int64_t)txn->now_ns;
    item.ctime_ns = (int64_t)txn->now_ns;
    inode_item_put(txn, set->ino, &item);
    return 0;
}

int co_fs_setattr(struct fs_inode *inode, const struct fs_attr *attr, unsigned set,
                  struct fs_request request)
{
    struct set arg = {.ino = inode->ino, .attr = attr, .set = set};

    return co_txn_run(inode->fs, TXN_SHRINKS, request, set_plan, &arg, NULL);
}

static int sync_plan(struct fs *fs, struct txn *txn, void *arg)
{
    struct fs_inode *inode = arg;
    struct fs_inode_item item;
    int r = inode_item_get(fs, inode->ino, &item);

    if (r < 0)
        return r;
    if (list_empty(&inode->times_node)) {
        txn->is_nothing = true;
        return 0;
    }
    inode_item_put(txn, inode->ino, &item);
    return 0;
}

int co_fs_sync(struct fs_inode *inode, bool data_only)
{
    if (data_only || list_empty(&inode->times_node))
        return co_inode_settle(inode);
    return co_txn_run(inode->fs, TXN_SHRINKS, FS_NO_REQUEST, sync_plan, inode, NULL);
}
