/* Snapshots: a copy of a tree below .snapshots, made of clones, taken while nobody changes
 * anything.
 *
 * Quiet: first no change of data begins and those under way end, then no other operation's record
 * is made; so what is copied is one moment's tree. The copy grows as `.new`, which nobody sees, and
 * gets its name in the end; what is deleted becomes `.gone` first, and goes in the background. A
 * crash leaves at most these two, and co_fs_reap_orphans() removes them.
 *
 * Trees are walked without recursion: down by a queue of pairs of directories, and removed by going
 * into the first directory that is not empty, and up again by its parent. */
#include "fs-refs-lite/snapshot.h"
#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/clone.h"
#include "fs-refs-lite/file.h"
#include "fs-refs-lite/fs_internal.h"
#include "fs-refs-lite/name.h"

#define NAME_NEW ".new"
#define NAME_GONE ".gone"

/* ---- quiet ---- */

static int co_caretaker_begin(struct fs *fs)
{
    co_mutex_lock(&fs->snapshot_mutex);
    fs->caretaker = co_self();
    return fs->error;
}

static void caretaker_end(struct fs *fs)
{
    fs->caretaker = NULL;
    co_mutex_unlock(&fs->snapshot_mutex);
}

static void quiet_end(struct fs *fs)
{
    fs->quiet = QUIET_NOT;
    co_cond_broadcast(&fs->gate);
}

static int co_quiet_begin(struct fs *fs)
{
    fs->quiet = QUIET_DATA;
    while (fs->changes_under_way > 0 && !fs->error)
        co_cond_wait_always(&fs->gate);
    fs->quiet = QUIET_ALL;
    if (fs->error)
        quiet_end(fs);
    return fs->error;
}

bool fs_must_wait(const struct fs *fs, enum quiet level)
{
    return fs->quiet >= level && fs->caretaker != co_self();
}

int co_change_begin(struct fs *fs)
{
    while (fs_must_wait(fs, QUIET_DATA)) {
        int r = fs->error ? fs->error : co_cond_wait(&fs->gate);

        if (r < 0)
            return r;
    }
    fs->changes_under_way++;
    return 0;
}

void change_end(struct fs *fs)
{
    assert(fs->changes_under_way > 0);
    if (--fs->changes_under_way == 0 && fs->quiet == QUIET_DATA)
        co_cond_broadcast(&fs->gate);
}

/* ---- the queue of directories, and files that have several names ---- */

struct pair {
    uint64_t from, to;
};

struct tree_copy {
    struct fs *fs;
    bool makes_snapshot; /* else: restores one */
    uint64_t origin;
    struct pair *dirs, *linked;
    size_t dir_count, dir_capacity, next_dir, linked_count, linked_capacity;
};

static int pair_add(struct pair **pairs, size_t *count, size_t *capacity, struct pair pair)
{
    if (*count == *capacity) {
        size_t larger = MAX(2 * *capacity, (size_t)64);
        struct pair *grown = realloc(*pairs, larger * sizeof(*grown));

        if (!grown)
            return -ENOMEM;
        *pairs = grown;
        *capacity = larger;
    }
    (*pairs)[(*count)++] = pair;
    return 0;
}

/* linked is an open hash by `from`; 0: free. Room for one more is made first. */
static struct pair *linked_slot(struct pair *table, size_t capacity, uint64_t from)
{
    size_t at = (from * 0x9e3779b97f4a7c15u >> 20) & (capacity - 1);

    while (table[at].from && table[at].from != from)
        at = (at + 1) & (capacity - 1);
    return &table[at];
}

static int linked_get(struct tree_copy *copy, uint64_t from, struct pair **ret_pair)
{
    if (copy->linked_count * 2 >= copy->linked_capacity) {
        size_t capacity = MAX(2 * copy->linked_capacity, (size_t)64);
        struct pair *table = calloc(capacity, sizeof(*table));

        if (!table)
            return -ENOMEM;
        for (size_t i = 0; i < copy->linked_capacity; i++) {
            if (copy->linked[i].from)
                *linked_slot(table, capacity, copy->linked[i].from) = copy->linked[i];
        }
        free(copy->linked);
        copy->linked = table;
        copy->linked_capacity = capacity;
    }
    *ret_pair = linked_slot(copy->linked, copy->linked_capacity, from);
    if ((*ret_pair)->from == 0) {
        (*ret_pair)->from = from;
        copy->linked_count++;
    }
    return 0;
}

/* ---- one inode ---- */

struct adopt {
    struct fs_inode *inode;
    const struct tree_copy *copy;
    struct fs_inode_item like;
};

/* Attributes and times as those of the original. */
static int adopt_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct adopt *adopt = arg;
    struct fs_inode_item item;
    int r = inode_item_get(fs, adopt->inode->ino, &item);

    if (r < 0)
        return r;
    item.mode = (item.mode & S_IFMT) | (adopt->like.mode & 07777);
    item.uid = adopt->like.uid;
    item.gid = adopt->like.gid;
    item.atime_ns = adopt->like.atime_ns;
    item.mtime_ns = adopt->like.mtime_ns;
    item.ctime_ns = (int64_t)txn->now_ns;
    if (adopt->copy->makes_snapshot) {
        item.ctime_ns = adopt->like.ctime_ns;
        item.flags |= FS_INODE_READ_ONLY;
        item.origin = adopt->copy->origin;
    }
    inode_item_put(txn, adopt->inode->ino, &item);
    return 0;
}

static int co_adopt(const struct tree_copy *copy, struct fs_inode *inode,
                    const struct fs_inode *like)
{
    struct adopt adopt = {.inode = inode, .copy = copy, .like = like->item};

    return co_txn_run(inode->fs, TXN_GROWS, FS_NO_REQUEST, adopt_plan, &adopt, NULL);
}

static struct fs_new new_like(const struct fs_inode *inode)
{
    return (struct fs_new){.mode = inode->item.mode,
                           .uid = inode->item.uid,
                           .gid = inode->item.gid,
                           .rdev = inode->item.rdev};
}

/* Makes the same kind of thing under a name that is free; nothing in it yet. */
static int co_make_like(struct fs_inode *from, struct fs_inode *dir, const char *name,
                        struct fs_inode **ret_inode)
{
    struct fs_new new = new_like(from);
    char target[FS_SYMLINK_MAX + 1];
    int r;

    if (S_ISDIR(new.mode))
        return co_fs_mkdir(dir, name, &new, FS_NO_REQUEST, ret_inode);
    if (!S_ISLNK(new.mode))
        return co_fs_create(dir, name, &new, FS_NO_REQUEST, ret_inode);
    r = co_fs_readlink(from, target);
    return r < 0 ? r : co_fs_symlink(dir, name, target, &new, FS_NO_REQUEST, ret_inode);
}

/* The file's contents become those of the other. */
static int co_fill_like(struct fs_inode *from, struct fs_inode *to)
{
    uint64_t size = from->item.size;
    int r = 0;

    if (to->item.size > size)
        r = co_fs_truncate(to, size, FS_NO_REQUEST);
    return r < 0 ? r : co_fs_clone_range(from, 0, to, 0, size, FS_NO_REQUEST);
}

/* ---- trees ---- */

static int co_remove_entry(struct fs_inode *dir, const char *name);

/* What `name` in `dir` is now, if it can become like `from`; else it goes. */
static int co_reuse(struct fs_inode *from, struct fs_inode *dir, const char *name,
                    struct fs_inode **ret_inode)
{
    struct fs_inode *found;
    uint32_t type = from->item.mode & S_IFMT;
    int r = co_fs_lookup(dir, name, &found);

    if (r < 0)
        return r;
    if ((found->item.mode & S_IFMT) == type && (S_ISDIR(type) || S_ISREG(type)) &&
        (S_ISDIR(type) || found->item.nlink == 1)) {
        *ret_inode = found;
        return 0;
    }
    fs_inode_put(found);
    r = co_remove_entry(dir, name);
    return r < 0 ? r : -ENOENT;
}

/* A further name of a file that was copied under another one. 0, -ENOENT: it was not yet. */
static int co_copy_link(struct tree_copy *copy, struct fs_inode *from, struct fs_inode *dir,
                        const char *name, struct pair **ret_pair)
{
    cleanup(fs_inode_putp) struct fs_inode *first = NULL;
    int r;

    *ret_pair = NULL;
    if (S_ISDIR(from->item.mode) || from->item.nlink < 2)
        return -ENOENT;
    r = linked_get(copy, from->ino, ret_pair);
    if (r < 0 || (*ret_pair)->to == 0)
        return r < 0 ? r : -ENOENT;
    r = co_fs_inode_get(copy->fs, (*ret_pair)->to, 0, &first);
    if (r < 0)
        return r == -ESTALE && !copy->fs->error ? -EBADMSG : r;
    r = co_fs_link(first, dir, name, FS_NO_REQUEST);
    if (r != -EEXIST)
        return r;
    r = co_remove_entry(dir, name);
    return r < 0 ? r : co_fs_link(first, dir, name, FS_NO_REQUEST);
}

static int co_copy_one(struct tree_copy *copy, struct fs_inode *from, struct fs_inode *dir,
                       const char *name)
{
    cleanup(fs_inode_putp) struct fs_inode *to = NULL;
    struct pair *pair;
    int r = co_copy_link(copy, from, dir, name, &pair);

    if (r != -ENOENT)
        return r;
    r = copy->makes_snapshot ? -ENOENT : co_reuse(from, dir, name, &to);
    if (r == -ENOENT)
        r = co_make_like(from, dir, name, &to);
    if (r < 0)
        return r;
    if (pair)
        pair->to = to->ino;
    if (S_ISDIR(from->item.mode)) /* its attributes when it is full */
        return pair_add(&copy->dirs, &copy->dir_count, &copy->dir_capacity,
                        (struct pair){.from = from->ino, .to = to->ino});
    if (S_ISREG(from->item.mode))
        r = co_fill_like(from, to);
    return r < 0 ? r : co_adopt(copy, to, from);
}

struct first_entry {
    uint64_t cookie, ino;
    char name[FS_NAME_MAX + 1];
    bool is_there;
};

static bool take_first(void *arg, const struct fs_dirent *entry)
{
    struct first_entry *first = arg;

    if (entry->cookie < FS_COOKIE_MIN)
        return true;
    if (first->is_there)
        return false;
    first->is_there = true;
    first->cookie = entry->cookie;
    first->ino = entry->ino;
    strcpy(first->name, entry->name);
    return true;
}

/* The entry behind first->cookie, or is_there false. */
static int co_next_entry(struct fs_inode *dir, struct first_entry *first)
{
    first->is_there = false;
    return co_fs_readdir(dir, first->cookie, take_first, first);
}

static int co_copy_dir(struct tree_copy *copy, struct fs_inode *from, struct fs_inode *to)
{
    struct first_entry entry = {0};

    for (;;) {
        cleanup(fs_inode_putp) struct fs_inode *inode = NULL;
        int r = co_next_entry(from, &entry);

        if (r == 0 && !entry.is_there)
            return co_adopt(copy, to, from);
        if (r == 0)
            r = co_fs_inode_get(copy->fs, entry.ino, 0, &inode);
        if (r == 0)
            r = co_copy_one(copy, inode, to, entry.name);
        if (r < 0)
            return r == -ESTALE && !copy->fs->error ? -EBADMSG : r;
    }
}

/* Names that the snapshot does not have. */
static int co_drop_others(struct fs_inode *from, struct fs_inode *to)
{
    struct first_entry entry = {0};

    for (;;) {
        struct fs_inode *twin;
        int r = co_next_entry(to, &entry);

        if (r < 0 || !entry.is_there)
            return r;
        r = co_fs_lookup(from, entry.name, &twin);
        if (r == 0)
            fs_inode_put(twin);
        else if (r == -ENOENT)
            r = co_remove_entry(to, entry.name);
        if (r < 0)
            return r;
    }
}

static int co_copy_queue(struct tree_copy *copy)
{
    while (copy->next_dir < copy->dir_count) {
        struct pair pair = copy->dirs[copy->next_dir++];
        cleanup(fs_inode_putp) struct fs_inode *from = NULL, *to = NULL;
        int r = co_fs_inode_get(copy->fs, pair.from, 0, &from);

        if (r == 0)
            r = co_fs_inode_get(copy->fs, pair.to, 0, &to);
        if (r == 0 && !copy->makes_snapshot)
            r = co_drop_others(from, to);
        if (r == 0)
            r = co_copy_dir(copy, from, to);
        if (r < 0)
            return r == -ESTALE && !copy->fs->error ? -EBADMSG : r;
    }
    return 0;
}

static void tree_copy_done(struct tree_copy *copy)
{
    free(copy->dirs);
    free(copy->linked);
}

/* ---- removing ---- */

/* Removes what is below `top`, and top's name. Stops early when the fs is unmounted. */
static int co_remove_tree(struct fs_inode *parent, const char *name, uint64_t top)
{
    struct fs *fs = parent->fs;
    uint64_t at = top;

    while (!fs->is_unmounting) {
        cleanup(fs_inode_putp) struct fs_inode *dir = NULL, *child = NULL;
        struct first_entry entry = {0};
        int r = co_fs_inode_get(fs, at, 0, &dir);

        if (r == 0)
            r = co_next_entry(dir, &entry);
        if (r < 0)
            return r == -ESTALE && !fs->error ? -EBADMSG : r;
        if (!entry.is_there && at == top)
            return co_fs_rmdir(parent, name, FS_NO_REQUEST);
        if (!entry.is_there) {
            at = dir->item.parent;
            continue;
        }
        r = co_fs_inode_get(fs, entry.ino, 0, &child);
        if (r < 0)
            return r == -ESTALE && !fs->error ? -EBADMSG : r;
        if (S_ISDIR(child->item.mode) && child->item.entries > 0) {
            at = child->ino;
            continue;
        }
        r = S_ISDIR(child->item.mode) ? co_fs_rmdir(dir, entry.name, FS_NO_REQUEST)
                                      : co_fs_unlink(dir, entry.name, FS_NO_REQUEST);
        if (r < 0)
            return r;
    }
    return -ECANCELED;
}

static int co_remove_entry(struct fs_inode *dir, const char *name)
{
    struct fs_inode *inode;
    uint64_t ino;
    bool is_dir;
    int r = co_fs_lookup(dir, name, &inode);

    if (r < 0)
        return r;
    ino = inode->ino;
    is_dir = S_ISDIR(inode->item.mode);
    fs_inode_put(inode);
    return is_dir ? co_remove_tree(dir, name, ino) : co_fs_unlink(dir, name, FS_NO_REQUEST);
}

static int co_remove_if_there(struct fs_inode *dir, const char *name)
{
    int r = co_remove_entry(dir, name);

    return r == -ENOENT ? 0 : r;
}

static int co_sweep(struct fs *fs, bool with_new)
{
    cleanup(fs_inode_putp) struct fs_inode *snapshots = NULL;
    int r = co_fs_inode_get(fs, FS_SNAPSHOTS_INO, 0, &snapshots);

    if (r == 0 && with_new)
        r = co_remove_if_there(snapshots, NAME_NEW);
    return r < 0 ? r : co_remove_if_there(snapshots, NAME_GONE);
}

int co_snapshots_sweep(struct fs *fs)
{
    int r = co_caretaker_begin(fs);

    if (r == 0)
        r = co_sweep(fs, true);
    caretaker_end(fs);
    return r == -ESTALE && !fs->error ? 0 : r; /* the directory itself is damaged */
}

/* ---- the calls ---- */

static int snapshot_name_check(const char *name)
{
    int r = name_check(name);

    return r == 0 && name[0] == '.' ? -EINVAL : r;
}

/* Common beginning. Returns 1 when the request was answered before; then, and on an error, the
 * caretaker has ended. */
static int co_snapshot_begin(struct fs *fs, const char *name, struct fs_request request,
                             struct fs_inode **ret_snapshots)
{
    struct txn_result result = {0};
    int r = snapshot_name_check(name);

    if (r < 0)
        return r;
    r = co_caretaker_begin(fs);
    if (r == 0)
        r = session_look_up(fs, request, &result);
    if (r == 0 && result.is_repeat) {
        r = co_journal_wait(fs, result.lsn);
        r = r < 0 ? r : 1;
    }
    if (r == 0)
        r = co_fs_inode_get(fs, FS_SNAPSHOTS_INO, 0, ret_snapshots);
    if (r != 0)
        caretaker_end(fs);
    return r == -ESTALE && !fs->error ? -EBADMSG : r;
}

static int co_create_quietly(struct fs_inode *from, struct fs_inode *snapshots, const char *name,
                             struct fs_request request)
{
    struct fs *fs = from->fs;
    struct tree_copy copy = {.fs = fs, .makes_snapshot = true, .origin = from->ino};
    int r = co_copy_one(&copy, from, snapshots, NAME_NEW);

    if (r == 0)
        r = co_copy_queue(&copy);
    tree_copy_done(&copy);
    if (r == 0)
        r = co_fs_rename(snapshots, NAME_NEW, snapshots, name, 0, request);
    return r;
}

int co_fs_snapshot_create(struct fs_inode *from, const char *name, struct fs_request request)
{
    cleanup(fs_inode_putp) struct fs_inode *snapshots = NULL;
    struct fs *fs = from->fs;
    int r;

    if (from->item.flags & FS_INODE_READ_ONLY)
        return -EROFS;
    r = co_snapshot_begin(fs, name, request, &snapshots);
    if (r != 0)
        return MIN(r, 0);
    r = co_sweep(fs, true);
    if (r == 0)
        r = co_dir_check_free(snapshots, name);
    if (r == 0)
        r = co_quiet_begin(fs);
    if (r == 0) {
        r = co_create_quietly(from, snapshots, name, request);
        quiet_end(fs);
        if (r < 0 && !fs->error)
            (void)!co_remove_if_there(snapshots, NAME_NEW);
    }
    caretaker_end(fs);
    return r < 0 ? r : co_journal_wait(fs, fs->journal.appended_lsn);
}

static void co_sweep_background(void *arg)
{
    /* What is left over goes at the next mount. */
    (void)!co_snapshots_sweep(arg);
}

int co_fs_snapshot_delete(struct fs *fs, const char *name, struct fs_request request)
{
    cleanup(fs_inode_putp) struct fs_inode *snapshots = NULL;
    int r = co_snapshot_begin(fs, name, request, &snapshots);

    if (r != 0)
        return MIN(r, 0);
    r = co_sweep(fs, false);
    if (r == 0)
        r = co_fs_rename(snapshots, name, snapshots, NAME_GONE, 0, request);
    caretaker_end(fs);
    if (r < 0)
        return r;
    (void)!co_group_spawn(&fs->background, fs->io, "fs-sweep", co_sweep_background, fs);
    return co_journal_wait(fs, fs->journal.appended_lsn);
}

/* The end of a restore: what holds the promise to the request. */
static int restored_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const uint64_t *ino = arg;
    struct fs_inode_item item;
    int r = inode_item_get(fs, *ino, &item);

    if (r < 0)
        return r;
    item.ctime_ns = (int64_t)txn->now_ns;
    inode_item_put(txn, *ino, &item);
    return 0;
}

static int co_restore_quietly(struct fs_inode *from, struct fs_inode *to, struct fs_request request)
{
    struct fs *fs = from->fs;
    struct tree_copy copy = {.fs = fs};
    int r = 0;

    if (S_ISDIR(from->item.mode)) {
        r = pair_add(&copy.dirs, &copy.dir_count, &copy.dir_capacity,
                     (struct pair){.from = from->ino, .to = to->ino});
        if (r == 0)
            r = co_copy_queue(&copy);
    } else {
        if (S_ISREG(from->item.mode))
            r = co_fill_like(from, to);
        if (r == 0)
            r = co_adopt(&copy, to, from);
    }
    tree_copy_done(&copy);
    return r < 0 ? r : co_txn_run(fs, TXN_SHRINKS, request, restored_plan, &to->ino, NULL);
}

int co_fs_snapshot_restore(struct fs *fs, const char *name, struct fs_request request)
{
    cleanup(fs_inode_putp) struct fs_inode *snapshots = NULL, *from = NULL, *to = NULL;
    int r = co_snapshot_begin(fs, name, request, &snapshots);

    if (r != 0)
        return MIN(r, 0);
    r = co_fs_lookup(snapshots, name, &from);
    if (r == 0) {
        r = co_fs_inode_get(fs, from->item.origin, 0, &to);
        if (r == -ESTALE && !fs->error)
            r = -ENOTDIR; /* nowhere to put it */
    }
    if (r == 0 && ((to->item.mode ^ from->item.mode) & S_IFMT || to->item.nlink == 0))
        r = -ENOTDIR;
    if (r == 0)
        r = co_quiet_begin(fs);
    if (r == 0) {
        r = co_restore_quietly(from, to, request);
        quiet_end(fs);
    }
    caretaker_end(fs);
    return r < 0 ? r : co_journal_wait(fs, fs->journal.appended_lsn);
}
