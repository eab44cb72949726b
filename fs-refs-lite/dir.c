/* Operations on names. Each is a plan (txn.h): it sees both directories and all inodes at one
 * moment, so neither locks nor an order among them is needed, and a rename is as atomic as a
 * create. */
#include "fs-refs-lite/fs_internal.h"
#include "fs-refs-lite/name.h"

/* ---- looking ---- */

/* The item of a directory that still has its place. */
static int dir_item_get(struct fs *fs, uint64_t dir, struct fs_inode_item *ret_item)
{
    int r = inode_item_get(fs, dir, ret_item);

    if (r < 0)
        return r;
    if (!S_ISDIR(ret_item->mode))
        return -ENOTDIR;
    return ret_item->nlink == 0 ? -ENOENT : 0;
}

static int dir_item_get_to_change(struct fs *fs, uint64_t dir, struct fs_inode_item *ret_item)
{
    int r = dir_item_get(fs, dir, ret_item);

    return r < 0 ? r : fs_may_change(fs, ret_item);
}

static int lookup_once(struct fs *fs, struct fs_inode *dir, const char *name, struct name *ret_name)
{
    struct fs_inode_item item;
    int r = dir_item_get(fs, dir->ino, &item);

    if (r < 0)
        return r;
    *ret_name = (struct name){.ino = dir->ino};
    if (strcmp(name, ".") == 0)
        return 0;
    if (strcmp(name, "..") == 0) {
        ret_name->ino = item.parent;
        return 0;
    }
    return name_find(fs, dir->ino, name, ret_name);
}

int co_fs_lookup(struct fs_inode *dir, const char *name, struct fs_inode **ret_inode)
{
    struct fs *fs = dir->fs;
    struct name found, again;
    int r;

    if (fs->error)
        return fs->error;
    if (strlen(name) > FS_NAME_MAX)
        return -ENAMETOOLONG;
    for (;;) {
        int settled;

        r = CO_RETRY(fs, lookup_once(fs, dir, name, &found));
        settled = co_inode_settle(dir); /* also that there is no such name must be durable */
        if (settled < 0)
            return settled;
        if (r < 0)
            return r;
        r = co_fs_inode_get(fs, found.ino, 0, ret_inode);
        if (r != -ESTALE || fs->error)
            return r;
        /* Removed while we looked: look again. Or the name is all that is left of it: damage. */
        r = CO_RETRY(fs, lookup_once(fs, dir, name, &again));
        if (r == 0 && again.ino == found.ino)
            return -EBADMSG;
    }
}

int co_fs_walk(struct fs *fs, const char *path, struct fs_inode **ret_inode)
{
    cleanup(fs_inode_putp) struct fs_inode *inode = NULL;
    int r = co_fs_inode_get(fs, FS_ROOT_INO, 0, &inode);

    if (r == -ESTALE && !fs->error)
        r = -EBADMSG;
    while (r == 0) {
        char name[FS_NAME_MAX + 1];
        struct fs_inode *next;
        size_t length;

        path += strspn(path, "/");
        length = strcspn(path, "/");
        if (length == 0)
            break;
        if (length > FS_NAME_MAX)
            return -ENAMETOOLONG;
        memcpy(name, path, length);
        name[length] = 0;
        path += length;
        if (S_ISLNK(inode->item.mode))
            return -ELOOP;
        r = name_check(name);
        if (r == 0)
            r = co_fs_lookup(inode, name, &next);
        if (r == 0) {
            fs_inode_put(inode);
            inode = next;
        }
    }
    if (r == 0)
        *ret_inode = take_ptr(inode);
    return r;
}

const char *fs_path_find(const char *path, const char *name)
{
    size_t length = strlen(name);

    for (path += strspn(path, "/"); *path; path += strspn(path, "/")) {
        if (strcspn(path, "/") == length && memcmp(path, name, length) == 0)
            return path;
        path += strcspn(path, "/");
    }
    return NULL;
}

/* Gives the entries as they are now, durable or not. */
static int co_readdir(struct fs_inode *dir, uint64_t cookie,
                      bool (*emit)(void *arg, const struct fs_dirent *entry), void *arg)
{
    static const char *const dots[] = {".", ".."};
    struct fs *fs = dir->fs;

    for (;;) {
        char text[FS_NAME_MAX + 1];
        struct fs_inode_item item;
        struct name name = {.type = S_IFDIR, .cookie = cookie + 1};
        const char *shown = text;
        int r = fs->error;

        if (r == 0)
            r = CO_RETRY(fs, dir_item_get(fs, dir->ino, &item));
        if (r == -ENOENT)
            return 0; /* a removed directory is empty */
        if (r < 0)
            return r;
        if (cookie < ARRAY_SIZE(dots)) {
            shown = dots[cookie];
            name.ino = cookie == 0 ? dir->ino : item.parent;
        } else {
            r = CO_RETRY(fs, name_next(fs, dir->ino, cookie, &name, text));
        }
        if (r < 0)
            return r == -ENOENT ? 0 : r;
        if (cookie >= ARRAY_SIZE(dots) && name_is_private(fs, dir->ino, shown)) {
            cookie = name.cookie;
            continue;
        }
        if (!emit(arg,
                  &(struct fs_dirent){
                      .ino = name.ino, .cookie = name.cookie, .type = name.type, .name = shown}))
            return 0;
        cookie = name.cookie;
    }
}

/* One wait for all that was seen: to wait at each entry until nothing is about to change would be
 * to wait for ever in a directory where several are at work. */
int co_fs_readdir(struct fs_inode *dir, uint64_t cookie,
                  bool (*emit)(void *arg, const struct fs_dirent *entry), void *arg)
{
    int r = co_readdir(dir, cookie, emit, arg);

    return r < 0 ? r : co_inode_settle(dir);
}

/* ---- making ---- */

struct make {
    struct fs_inode *dir;
    const char *name;
    const char *target; /* of a symbolic link */
    const struct fs_new *new;
    uint32_t type;
};

static void dir_changed(struct fs_inode_item *item, const struct txn *txn, int entries, int links)
{
    item->entries += (uint64_t)(int64_t)entries;
    item->nlink += (uint32_t)links;
    item->mtime_ns = item->ctime_ns = (int64_t)txn->now_ns;
}

/* A new name in a directory: its place. */
static int name_find_free(struct fs *fs, uint64_t dir, const char *text, struct name *ret_name)
{
    int r = name_find(fs, dir, text, ret_name);

    if (r == 0)
        return -EEXIST;
    if (r == -ENOENT)
        return ret_name->cookie ? 0 : -ENOSPC;
    return r;
}

int dir_enter(struct fs *fs, struct txn *txn, uint64_t dir, const char *text, uint64_t ino,
              uint32_t mode)
{
    struct fs_inode_item item;
    struct name name;
    int r = dir_item_get_to_change(fs, dir, &item);

    if (r == 0)
        r = name_find_free(fs, dir, text, &name);
    if (r < 0)
        return r;
    name.ino = ino;
    name.type = mode & S_IFMT;
    name_put(txn, dir, text, &name);
    dir_changed(&item, txn, 1, 0);
    inode_item_put(txn, dir, &item);
    return 0;
}

static int dir_look_free(struct fs *fs, uint64_t dir, const char *text)
{
    struct fs_inode_item item;
    struct name name;
    int r = dir_item_get_to_change(fs, dir, &item);

    return r < 0 ? r : name_find_free(fs, dir, text, &name);
}

int co_dir_check_free(struct fs_inode *dir, const char *text)
{
    return CO_RETRY(dir->fs, dir_look_free(dir->fs, dir->ino, text));
}

static int make_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct make *make = arg;
    bool is_dir = make->type == S_IFDIR;
    int64_t now_ns = (int64_t)txn->now_ns;
    struct fs_inode_item dir, item = {.generation = txn->lsn,
                                      .atime_ns = now_ns,
                                      .mtime_ns = now_ns,
                                      .ctime_ns = now_ns,
                                      .btime_ns = now_ns,
                                      .mode = make->type | (make->new->mode & 07777),
                                      .nlink = is_dir ? 2 : 1,
                                      .uid = make->new->uid,
                                      .gid = make->new->gid,
                                      .rdev = make->new->rdev};
    struct name name;
    int r = dir_item_get_to_change(fs, make->dir->ino, &dir);

    if (r == 0)
        r = name_find_free(fs, make->dir->ino, make->name, &name);
    if (r == 0 && is_dir && dir.nlink >= FS_LINK_MAX)
        r = -EMLINK;
    if (r < 0)
        return r;
    txn->ino = name.ino = fs->next_ino;
    name.type = make->type;
    if (is_dir)
        item.parent = make->dir->ino;
    if (make->target) {
        item.size = strlen(make->target);
        symlink_put(txn, txn->ino, make->target);
    }
    inode_item_put(txn, txn->ino, &item);
    name_put(txn, make->dir->ino, make->name, &name);
    dir_changed(&dir, txn, 1, is_dir ? 1 : 0);
    inode_item_put(txn, make->dir->ino, &dir);
    return 0;
}

static int co_make(const struct make *make, struct fs_request request, struct fs_inode **ret_inode)
{
    struct fs *fs = make->dir->fs;
    struct txn_result result;
    int r = name_check(make->name);

    if (r == 0)
        r = co_txn_run(fs, TXN_GROWS, request, make_plan, (void *)make, &result);
    if (r < 0 || !ret_inode)
        return r;
    r = co_fs_inode_get(fs, result.ino, 0, ret_inode);
    return r == -ESTALE && !fs->error ? -ENOENT : r; /* somebody removed it already */
}

int co_fs_create(struct fs_inode *dir, const char *name, const struct fs_new *new,
                 struct fs_request request, struct fs_inode **ret_inode)
{
    struct make make = {.dir = dir, .name = name, .new = new, .type = new->mode &S_IFMT};

    switch (make.type) {
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK:
    case S_IFCHR:
    case S_IFBLK:
        return co_make(&make, request, ret_inode);
    default:
        return -EINVAL;
    }
}

int co_fs_mkdir(struct fs_inode *dir, const char *name, const struct fs_new *new,
                struct fs_request request, struct fs_inode **ret_inode)
{
    struct make make = {.dir = dir, .name = name, .new = new, .type = S_IFDIR};

    return co_make(&make, request, ret_inode);
}

int co_fs_symlink(struct fs_inode *dir, const char *name, const char *target,
                  const struct fs_new *new, struct fs_request request, struct fs_inode **ret_inode)
{
    struct make make = {.dir = dir, .name = name, .target = target, .new = new, .type = S_IFLNK};

    if (target[0] == 0)
        return -EINVAL;
    if (strlen(target) > FS_SYMLINK_MAX)
        return -ENAMETOOLONG;
    return co_make(&make, request, ret_inode);
}

int co_fs_readlink(struct fs_inode *inode, char *ret_target)
{
    struct fs *fs = inode->fs;

    if (fs->error)
        return fs->error;
    if (!S_ISLNK(inode->item.mode))
        return -EINVAL;
    return CO_RETRY(fs, symlink_get(fs, inode->ino, inode->item.size, ret_target));
}

struct link {
    struct fs_inode *inode, *dir;
    const char *name;
};

static int link_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct link *link = arg;
    struct fs_inode_item dir, item;
    struct name name;
    int r = inode_item_get(fs, link->inode->ino, &item);

    if (r == 0)
        r = dir_item_get_to_change(fs, link->dir->ino, &dir);
    if (r == 0)
        r = fs_may_change(fs, &item);
    if (r == 0 && S_ISDIR(item.mode))
        r = -EPERM;
    if (r == 0 && item.nlink == 0)
        r = -ENOENT;
    if (r == 0)
        r = name_find_free(fs, link->dir->ino, link->name, &name);
    if (r == 0 && item.nlink >= FS_LINK_MAX)
        r = -EMLINK;
    if (r < 0)
        return r;
    name.ino = link->inode->ino;
    name.type = item.mode & S_IFMT;
    item.nlink++;
    item.ctime_ns = (int64_t)txn->now_ns;
    name_put(txn, link->dir->ino, link->name, &name);
    inode_item_put(txn, link->inode->ino, &item);
    dir_changed(&dir, txn, 1, 0);
    inode_item_put(txn, link->dir->ino, &dir);
    return 0;
}

int co_fs_link(struct fs_inode *inode, struct fs_inode *dir, const char *name,
               struct fs_request request)
{
    struct link link = {.inode = inode, .dir = dir, .name = name};
    int r = name_check(name);

    return r < 0 ? r : co_txn_run(inode->fs, TXN_GROWS, request, link_plan, &link, NULL);
}

/* ---- removing ---- */

/* An inode that lost its last name: freed here and now when it is small and nobody has it open;
 * else an orphan. *ret_later: free it later, nobody has it open. */
static int inode_abandon(struct fs *fs, struct txn *txn, uint64_t ino, struct fs_inode_item *item,
                         bool *ret_later)
{
    const struct fs_inode *inode = inode_find(fs, ino);
    struct fs_key orphan = orphan_key(ino);
    bool is_done;
    int r;

    *ret_later = false;
    item->nlink = 0;
    item->ctime_ns = (int64_t)txn->now_ns;
    if (inode && inode->references > 0) {
        inode_item_put(txn, ino, item);
        txn_put(txn, FS_TREE_FILES, &orphan, NULL, 0);
        return 0;
    }
    r = inode_destroy_step(fs, txn, ino, item, &is_done);
    if (r == 0)
        *ret_later = !is_done;
    return r;
}

void co_abandoned(struct fs *fs, uint64_t ino)
{
    struct fs_inode *inode;

    /* The last reference to an orphan frees it; an error leaves it to co_fs_reap_orphans(). */
    if (co_fs_inode_get(fs, ino, 0, &inode) == 0)
        fs_inode_put(inode);
}

struct unname {
    struct fs_inode *dir;
    const char *name;
    bool is_rmdir;
    uint64_t later; /* inode to be freed after the operation; 0: none */
};

int inode_unname(struct fs *fs, struct txn *txn, uint64_t ino, struct fs_inode_item *item,
                 uint64_t *ret_later)
{
    bool is_later = false;
    int r = 0;

    if (S_ISDIR(item->mode) || item->nlink <= 1) {
        r = inode_abandon(fs, txn, ino, item, &is_later);
    } else {
        item->nlink--;
        item->ctime_ns = (int64_t)txn->now_ns;
        inode_item_put(txn, ino, item);
    }
    *ret_later = is_later ? ino : 0;
    return r;
}

/* May this be removed as a directory, or as something else? */
static int unname_check(const struct fs_inode_item *item, bool is_rmdir)
{
    if (!is_rmdir)
        return S_ISDIR(item->mode) ? -EISDIR : 0;
    if (!S_ISDIR(item->mode))
        return -ENOTDIR;
    return item->entries ? -ENOTEMPTY : 0;
}

static int unname_plan(struct fs *fs, struct txn *txn, void *arg)
{
    struct unname *unname = arg;
    struct fs_inode_item dir, item;
    struct name name;
    int r = dir_item_get_to_change(fs, unname->dir->ino, &dir);

    if (r == 0)
        r = name_find(fs, unname->dir->ino, unname->name, &name);
    if (r < 0)
        return r;
    r = inode_item_get(fs, name.ino, &item);
    if (r == 0)
        r = fs_may_change(fs, &item);
    if (r == 0)
        r = unname_check(&item, unname->is_rmdir);
    if (r == 0)
        r = inode_unname(fs, txn, name.ino, &item, &unname->later);
    else if (r == -ENOENT) /* a name without an inode, on a damaged volume: let it go */
        r = S_ISDIR(name.type) == unname->is_rmdir ? 0 : -EBADMSG;
    if (r < 0)
        return r;
    name_delete(txn, unname->dir->ino, name.cookie);
    dir_changed(&dir, txn, -1, unname->is_rmdir ? -1 : 0);
    inode_item_put(txn, unname->dir->ino, &dir);
    return 0;
}

static int co_unname(struct unname *unname, struct fs_request request)
{
    struct fs *fs = unname->dir->fs;
    int r = name_check(unname->name);

    if (r == 0)
        r = co_txn_run(fs, TXN_SHRINKS, request, unname_plan, unname, NULL);
    if (r == 0 && unname->later)
        co_abandoned(fs, unname->later);
    return r;
}

int co_fs_unlink(struct fs_inode *dir, const char *name, struct fs_request request)
{
    struct unname unname = {.dir = dir, .name = name};

    return co_unname(&unname, request);
}

int co_fs_rmdir(struct fs_inode *dir, const char *name, struct fs_request request)
{
    struct unname unname = {.dir = dir, .name = name, .is_rmdir = true};

    return co_unname(&unname, request);
}
