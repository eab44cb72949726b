/* rename(2) with all its cases, as one plan. */
#include "fs-refs-lite/fs_internal.h"
#include "fs-refs-lite/name.h"

struct rename {
    struct fs_inode *from_dir, *to_dir;
    const char *from, *to;
    unsigned flags;
    uint64_t later; /* the replaced inode, to be freed after the operation; 0: none */
};

/* What the plan found. The directories' items are one and the same object when the directories are.
 */
struct renaming {
    struct rename *rename;
    uint64_t from_dir_ino, to_dir_ino;
    struct fs_inode_item dirs[2];
    struct fs_inode_item *from_dir, *to_dir;
    struct name from, to;
    bool is_taken; /* there is something at the new name */
    struct fs_inode_item moved, other;
};

#define PARENTS_MAX 65536 /* deeper than any path: only a damaged volume has loops */

/* Is dir the directory ino, or below it? 0 (no), -EINVAL (yes), -EAGAIN, … */
static int refuse_below(struct fs *fs, uint64_t dir, uint64_t ino)
{
    for (unsigned i = 0; i < PARENTS_MAX; i++) {
        struct fs_inode_item item;
        int r;

        if (dir == ino)
            return -EINVAL;
        if (dir == FS_ROOT_INO)
            return 0;
        r = inode_item_get(fs, dir, &item);
        if (r < 0)
            return r == -ENOENT ? -EBADMSG : r;
        dir = item.parent;
    }
    return -EBADMSG;
}

static int rename_dir_get(struct fs *fs, uint64_t dir, struct fs_inode_item *ret_item)
{
    int r = inode_item_get(fs, dir, ret_item);

    if (r < 0)
        return r;
    if (!S_ISDIR(ret_item->mode))
        return -ENOTDIR;
    return ret_item->nlink == 0 ? -ENOENT : fs_may_change(fs, ret_item);
}

static int rename_look(struct fs *fs, struct renaming *at)
{
    const struct rename *rename = at->rename;
    int r = rename_dir_get(fs, at->from_dir_ino, &at->dirs[0]);

    at->from_dir = at->to_dir = &at->dirs[0];
    if (r == 0 && at->from_dir_ino != at->to_dir_ino) {
        at->to_dir = &at->dirs[1];
        r = rename_dir_get(fs, at->to_dir_ino, at->to_dir);
    }
    if (r == 0)
        r = name_find(fs, at->from_dir_ino, rename->from, &at->from);
    if (r == 0)
        r = inode_item_get(fs, at->from.ino, &at->moved);
    if (r < 0)
        return r;
    r = name_find(fs, at->to_dir_ino, rename->to, &at->to);
    at->is_taken = r == 0;
    if (r == -ENOENT)
        return at->to.cookie ? 0 : -ENOSPC;
    return r < 0 ? r : inode_item_get(fs, at->to.ino, &at->other);
}

static int rename_check_replace(const struct renaming *at)
{
    if (S_ISDIR(at->moved.mode)) {
        if (!S_ISDIR(at->other.mode))
            return -ENOTDIR;
        return at->other.entries ? -ENOTEMPTY : 0;
    }
    return S_ISDIR(at->other.mode) ? -EISDIR : 0;
}

static int rename_check(struct fs *fs, const struct renaming *at)
{
    unsigned flags = at->rename->flags;
    int r = fs_may_change(fs, &at->moved);

    if (at->is_taken && (flags & FS_RENAME_NOREPLACE))
        return -EEXIST;
    if (r == 0 && at->is_taken)
        r = fs_may_change(fs, &at->other);
    if (r < 0)
        return r;
    if (!at->is_taken && (flags & FS_RENAME_EXCHANGE))
        return -ENOENT;
    if (S_ISDIR(at->moved.mode))
        r = refuse_below(fs, at->to_dir_ino, at->from.ino);
    if (r == 0 && (flags & FS_RENAME_EXCHANGE) && S_ISDIR(at->other.mode))
        r = refuse_below(fs, at->from_dir_ino, at->to.ino);
    if (r == 0 && at->is_taken && !(flags & FS_RENAME_EXCHANGE) && at->from.ino != at->to.ino)
        r = rename_check_replace(at);
    return r;
}

/* An inode comes to another directory. */
static void inode_moved(struct txn *txn, uint64_t ino, struct fs_inode_item *item, uint64_t parent)
{
    if (S_ISDIR(item->mode))
        item->parent = parent;
    item->ctime_ns = (int64_t)txn->now_ns;
    inode_item_put(txn, ino, item);
}

static void dirs_put(struct txn *txn, struct renaming *at)
{
    int64_t now_ns = (int64_t)txn->now_ns;

    at->from_dir->mtime_ns = at->from_dir->ctime_ns = now_ns;
    at->to_dir->mtime_ns = at->to_dir->ctime_ns = now_ns;
    inode_item_put(txn, at->from_dir_ino, at->from_dir);
    if (at->to_dir != at->from_dir)
        inode_item_put(txn, at->to_dir_ino, at->to_dir);
}

static void name_set(struct txn *txn, uint64_t dir, const char *text, uint64_t cookie, uint64_t ino,
                     uint32_t mode)
{
    struct name name = {.cookie = cookie, .ino = ino, .type = mode & S_IFMT};

    name_put(txn, dir, text, &name);
}

static void rename_exchange(struct txn *txn, struct renaming *at)
{
    int moved_dirs = S_ISDIR(at->moved.mode) ? 1 : 0, other_dirs = S_ISDIR(at->other.mode) ? 1 : 0;

    name_set(txn, at->from_dir_ino, at->rename->from, at->from.cookie, at->to.ino, at->other.mode);
    name_set(txn, at->to_dir_ino, at->rename->to, at->to.cookie, at->from.ino, at->moved.mode);
    at->from_dir->nlink += (uint32_t)(other_dirs - moved_dirs);
    at->to_dir->nlink += (uint32_t)(moved_dirs - other_dirs);
    inode_moved(txn, at->from.ino, &at->moved, at->to_dir_ino);
    inode_moved(txn, at->to.ino, &at->other, at->from_dir_ino);
    dirs_put(txn, at);
}

static int rename_move(struct fs *fs, struct txn *txn, struct renaming *at)
{
    int r;

    if (at->is_taken) {
        if (S_ISDIR(at->other.mode))
            at->to_dir->nlink--;
        at->to_dir->entries--;
        r = inode_unname(fs, txn, at->to.ino, &at->other, &at->rename->later);
        if (r < 0)
            return r;
    }
    if (S_ISDIR(at->moved.mode)) {
        at->from_dir->nlink--;
        at->to_dir->nlink++;
    }
    at->from_dir->entries--;
    at->to_dir->entries++;
    name_delete(txn, at->from_dir_ino, at->from.cookie);
    name_set(txn, at->to_dir_ino, at->rename->to, at->to.cookie, at->from.ino, at->moved.mode);
    inode_moved(txn, at->from.ino, &at->moved, at->to_dir_ino);
    dirs_put(txn, at);
    return 0;
}

static int rename_plan(struct fs *fs, struct txn *txn, void *arg)
{
    struct rename *rename = arg;
    struct renaming at = {
        .rename = rename, .from_dir_ino = rename->from_dir->ino, .to_dir_ino = rename->to_dir->ino};
    int r = rename_look(fs, &at);

    rename->later = 0;
    if (r == 0)
        r = rename_check(fs, &at);
    if (r < 0)
        return r;
    if (at.is_taken && at.from.ino == at.to.ino) { /* two names of one file: nothing happens */
        txn->is_nothing = true;
        return 0;
    }
    if (rename->flags & FS_RENAME_EXCHANGE) {
        rename_exchange(txn, &at);
        return 0;
    }
    return rename_move(fs, txn, &at);
}

int co_fs_rename(struct fs_inode *from_dir, const char *from, struct fs_inode *to_dir,
                 const char *to, unsigned flags, struct fs_request request)
{
    struct rename rename = {
        .from_dir = from_dir, .to_dir = to_dir, .from = from, .to = to, .flags = flags};
    struct fs *fs = from_dir->fs;
    int r = name_check(from);

    if (r == 0)
        r = name_check(to);
    if (r < 0)
        return r;
    if ((flags & FS_RENAME_NOREPLACE) && (flags & FS_RENAME_EXCHANGE))
        return -EINVAL;
    r = co_txn_run(fs, TXN_SHRINKS, request, rename_plan, &rename, NULL);
    if (r == 0 && rename.later)
        co_abandoned(fs, rename.later);
    return r;
}
