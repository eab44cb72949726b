/* What the kernel asks, put to the file service. Each function runs in the coroutine of its request
 * and answers before it returns. Permissions are the kernel's (default_permissions); nothing is
 * cached here.
 *
 * Why the page cache, and not FOPEN_DIRECT_IO: programs map files (SQLite's shared memory, every
 * binary), and a shared mapping needs it. It is written through, dropped at each open (no
 * keep_cache), and dropped when the attributes, which the kernel asks for at each read, show
 * another time or size (AUTO_INVAL_DATA). */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "csv-export/fuse_internal.h"

#define COPY_BYTES_MAX (1u << 30) /* of one copy_file_range(): the answer holds 32 bits */

static struct fuse_mount *mount_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

static struct csv_volume *volume_of(fuse_req_t req)
{
    return mount_of(req)->volume;
}

static struct csv_file *file_of(const struct fuse_file_info *info)
{
    return (struct csv_file *)(uintptr_t)info->fh;
}

/* ---- answers ---- */

static void reply_error(fuse_req_t req, int r)
{
    assert(r <= 0);
    fuse_reply_err(req, -r);
}

static struct timespec timespec_of(int64_t ns)
{
    int64_t seconds = ns / (int64_t)SEC, rest = ns % (int64_t)SEC;

    if (rest < 0) {
        rest += SEC;
        seconds--;
    }
    return (struct timespec){.tv_sec = seconds, .tv_nsec = rest};
}

static struct stat stat_of(const struct fs_attr *attr)
{
    return (struct stat){
        .st_ino = attr->ino,
        .st_mode = attr->mode,
        .st_nlink = attr->nlink,
        .st_uid = attr->uid,
        .st_gid = attr->gid,
        .st_rdev = attr->rdev,
        .st_size = attr->size,
        .st_blksize = BLOCK_SIZE,
        .st_blocks = DIV_ROUND_UP(attr->allocated_bytes, 512),
        .st_atim = timespec_of(attr->atime_ns),
        .st_mtim = timespec_of(attr->mtime_ns),
        .st_ctim = timespec_of(attr->ctime_ns),
    };
}

static struct fuse_entry_param entry_of(const struct fs_attr *attr)
{
    return (struct fuse_entry_param){
        .ino = attr->ino, .generation = attr->generation, .attr = stat_of(attr)};
}

static void reply_attr(fuse_req_t req, int r, const struct fs_attr *attr)
{
    struct stat stat;

    if (r < 0) {
        reply_error(req, r);
        return;
    }
    stat = stat_of(attr);
    fuse_reply_attr(req, &stat, 0);
}

static void reply_entry(fuse_req_t req, int r, const struct fs_attr *attr)
{
    struct fuse_entry_param entry;

    if (r < 0) {
        reply_error(req, r);
        return;
    }
    entry = entry_of(attr);
    fuse_reply_entry(req, &entry);
}

/* ---- the session ---- */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    conn->want &= ~(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                    FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_HANDLE_KILLPRIV |
                    FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS);
    conn->want |=
        conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
                         FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_EXPORT_SUPPORT);
    conn->max_write = FUSE_DATA_MAX;
    conn->max_readahead = FUSE_DATA_MAX;
    conn->max_background = FUSE_SLOTS / 2;
    conn->congestion_threshold = FUSE_SLOTS / 2 - FUSE_SLOTS / 8;
    conn->time_gran = 1;
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct fs_statfs statfs;
    struct statvfs answer = {
        .f_bsize = BLOCK_SIZE, .f_frsize = BLOCK_SIZE, .f_namemax = FS_NAME_MAX};
    int r = co_csv_statfs(volume_of(req), &statfs);

    (void)ino;
    if (r < 0) {
        reply_error(req, r);
        return;
    }
    answer.f_blocks = statfs.total_bytes / BLOCK_SIZE;
    answer.f_bfree = statfs.free_bytes / BLOCK_SIZE;
    answer.f_bavail = statfs.available_bytes / BLOCK_SIZE;
    /* Inodes are made as they are needed: what fits is what the space gives. */
    answer.f_ffree = answer.f_favail = answer.f_bavail;
    answer.f_files = statfs.inodes + answer.f_ffree;
    fuse_reply_statfs(req, &answer);
}

/* ---- names ---- */

/* "." of anything, also of a file: the kernel has a handle (open_by_handle_at(), NFS) of an inode
 * that it has forgotten, and compares the generation itself. */
static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fs_attr attr;
    int r = strcmp(name, ".") == 0 ? co_csv_getattr(volume_of(req), parent, &attr)
                                   : co_csv_lookup(volume_of(req), parent, name, &attr);

    reply_entry(req, r, &attr);
}

static struct fs_new new_of(fuse_req_t req, mode_t mode, dev_t rdev)
{
    const struct fuse_ctx *context = fuse_req_ctx(req);

    return (struct fs_new){
        .mode = mode, .uid = context->uid, .gid = context->gid, .rdev = (uint32_t)rdev};
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    struct fs_new new = new_of(req, mode, rdev);
    struct fs_attr attr;
    int r = co_csv_create(volume_of(req), parent, name, &new, &attr);

    reply_entry(req, r, &attr);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct fs_new new = new_of(req, S_IFDIR | (mode & 07777), 0);
    struct fs_attr attr;
    int r = co_csv_mkdir(volume_of(req), parent, name, &new, &attr);

    reply_entry(req, r, &attr);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    struct fs_new new = new_of(req, S_IFLNK | 0777, 0);
    struct fs_attr attr;
    int r = co_csv_symlink(volume_of(req), parent, name, target, &new, &attr);

    reply_entry(req, r, &attr);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    char target[FS_SYMLINK_MAX + 1];
    int r = co_csv_readlink(volume_of(req), ino, target);

    if (r < 0)
        reply_error(req, r);
    else
        fuse_reply_readlink(req, target);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct fs_attr attr;
    int r = co_csv_link(volume_of(req), ino, parent, name, &attr);

    reply_entry(req, r, &attr);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    reply_error(req, co_csv_unlink(volume_of(req), parent, name));
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    reply_error(req, co_csv_rmdir(volume_of(req), parent, name));
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    unsigned ours = 0;

    if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) {
        reply_error(req, -EINVAL);
        return;
    }
    if (flags & RENAME_NOREPLACE)
        ours |= FS_RENAME_NOREPLACE;
    if (flags & RENAME_EXCHANGE)
        ours |= FS_RENAME_EXCHANGE;
    reply_error(req, co_csv_rename(volume_of(req), parent, name, new_parent, new_name, ours));
}

struct page {
    fuse_req_t req;
    uint8_t *bytes;
    size_t size, used;
    uint64_t cookie; /* of the last entry taken */
    bool full;
};

static bool add_entry(void *arg, const struct fs_dirent *entry)
{
    struct page *page = arg;
    struct stat stat = {.st_ino = entry->ino, .st_mode = entry->type};
    size_t room = page->size - page->used;
    size_t needed = fuse_add_direntry(page->req, (char *)page->bytes + page->used, room,
                                      entry->name, &stat, (off_t)entry->cookie);

    if (needed > room) {
        page->full = true;
        return false;
    }
    page->used += needed;
    page->cookie = entry->cookie;
    return true;
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    struct page page = {
        .req = req,
        .bytes = fuse_answer_memory(mount_of(req)),
        .size = MIN(size, (size_t)FUSE_DATA_MAX),
        .cookie = offset,
    };
    bool end = false;
    int r = 0;

    (void)info;
    while (r == 0 && !end && !page.full)
        r = co_csv_readdir(volume_of(req), ino, page.cookie, add_entry, &page, &end);
    if (r < 0)
        reply_error(req, r);
    else
        fuse_reply_buf(req, (char *)page.bytes, page.used);
}

/* ---- attributes ---- */

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct fs_attr attr;
    int r = co_csv_getattr(volume_of(req), ino, &attr);

    (void)info;
    reply_attr(req, r, &attr);
}

/* A program may set any time; what is further away than 292 years from 1970 becomes that. */
static int64_t ns_of(struct timespec time)
{
    int64_t ns;

    if (__builtin_mul_overflow((int64_t)time.tv_sec, (int64_t)SEC, &ns) ||
        __builtin_add_overflow(ns, (int64_t)time.tv_nsec, &ns))
        return time.tv_sec < 0 ? INT64_MIN : INT64_MAX;
    return ns;
}

static unsigned set_of(int to_set)
{
    static const struct {
        int fuse;
        unsigned ours;
    } table[] = {
        {FUSE_SET_ATTR_MODE, FS_SET_MODE},
        {FUSE_SET_ATTR_UID, FS_SET_UID},
        {FUSE_SET_ATTR_GID, FS_SET_GID},
        {FUSE_SET_ATTR_ATIME_NOW, FS_SET_ATIME_NOW},
        {FUSE_SET_ATTR_MTIME_NOW, FS_SET_MTIME_NOW},
    };
    unsigned set = 0;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (to_set & table[i].fuse)
            set |= table[i].ours;
    }
    if ((to_set & FUSE_SET_ATTR_ATIME) && !(to_set & FUSE_SET_ATTR_ATIME_NOW))
        set |= FS_SET_ATIME;
    if ((to_set & FUSE_SET_ATTR_MTIME) && !(to_set & FUSE_SET_ATTR_MTIME_NOW))
        set |= FS_SET_MTIME;
    return set;
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *stat, int to_set,
                       struct fuse_file_info *info)
{
    struct csv_volume *volume = volume_of(req);
    unsigned set = set_of(to_set);
    struct fs_attr attr, wanted = {
                             .mode = stat->st_mode & 07777,
                             .uid = stat->st_uid,
                             .gid = stat->st_gid,
                             .atime_ns = ns_of(stat->st_atim),
                             .mtime_ns = ns_of(stat->st_mtim),
                         };
    int r = 0;

    (void)info;
    if (to_set & FUSE_SET_ATTR_SIZE)
        r = co_csv_truncate(volume, ino, stat->st_size, &attr);
    if (r == 0 && (set != 0 || !(to_set & FUSE_SET_ATTR_SIZE)))
        r = set != 0 ? co_csv_setattr(volume, ino, &wanted, set, &attr)
                     : co_csv_getattr(volume, ino, &attr);
    reply_attr(req, r, &attr);
}

/* ---- open files ---- */

static int co_open(struct csv_volume *volume, uint64_t ino, struct fuse_file_info *info,
                   struct fs_attr *ret_attr)
{
    struct csv_open open = {.ino = ino, .read_only = (info->flags & O_ACCMODE) == O_RDONLY};
    struct csv_file *file;
    int r = co_csv_open(volume, &open, ret_attr, &file);

    if (r == 0)
        info->fh = (uintptr_t)file;
    return r;
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct fs_attr attr;
    int r = co_open(volume_of(req), ino, info, &attr);

    if (r < 0)
        reply_error(req, r);
    else if (fuse_reply_open(req, info) == -ENOENT)
        csv_file_close(file_of(info)); /* whoever opened it has been killed */
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *info)
{
    struct csv_volume *volume = volume_of(req);
    struct fs_new new = new_of(req, S_IFREG | (mode & 07777), 0);
    struct fuse_entry_param entry;
    struct fs_attr attr;
    int r;

    r = co_csv_create(volume, parent, name, &new, &attr);
    /* Another node was quicker. The kernel takes what we open here for new, and neither asks for
     * its permissions nor cuts it: told this it looks again, and opens what it finds. */
    if (r == -EEXIST && !(info->flags & O_EXCL))
        r = -ESTALE;
    if (r == 0)
        r = co_open(volume, attr.ino, info, &attr);
    if (r < 0) {
        reply_error(req, r);
        return;
    }
    entry = entry_of(&attr);
    if (fuse_reply_create(req, &entry, info) == -ENOENT)
        csv_file_close(file_of(info));
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)ino;
    csv_file_close(file_of(info));
    reply_error(req, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *info)
{
    uint8_t *data = fuse_answer_memory(mount_of(req));
    uint64_t got = 0;
    int r = co_csv_read(file_of(info), data, offset, MIN(size, (size_t)FUSE_DATA_MAX), &got);

    (void)ino;
    if (r < 0)
        reply_error(req, r);
    else
        fuse_reply_buf(req, (char *)data, got);
}

/* data stands aligned in the request's own memory (FUSE_WRITE_HEADER_BYTES). */
static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *info)
{
    int r = co_csv_write(file_of(info), data, offset, size);

    (void)ino;
    if (r < 0)
        reply_error(req, r);
    else
        fuse_reply_write(req, size);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *info)
{
    (void)info;
    reply_error(req, co_csv_sync(volume_of(req), ino, data_only));
}

/* Zeroing beyond the end makes the file longer, unless it may not. */
static int co_zero_range(struct csv_file *file, int mode, uint64_t offset, uint64_t length)
{
    int r = 0;

    if (!(mode & FALLOC_FL_KEEP_SIZE))
        r = co_csv_allocate(file, offset, length, 0);
    return r < 0 ? r : co_csv_zero(file, offset, length);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *info)
{
    struct csv_file *file = file_of(info);
    int r;

    (void)ino;
    if (mode == 0)
        r = co_csv_allocate(file, offset, length, 0);
    else if (mode == FALLOC_FL_KEEP_SIZE)
        r = co_csv_allocate(file, offset, length, FS_ALLOCATE_KEEP_SIZE);
    else if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
        r = co_csv_punch(file, offset, length);
    else if ((mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE)
        r = co_zero_range(file, mode, offset, length);
    else
        r = -EOPNOTSUPP;
    reply_error(req, r);
}

/* Where, from offset on, data (or a hole) begins; the end of the file is a hole. */
static int co_seek(struct csv_volume *volume, uint64_t ino, struct csv_file *file, uint64_t offset,
                   bool want_data, uint64_t *ret_offset)
{
    struct fs_attr attr;
    int r = co_csv_getattr(volume, ino, &attr);

    if (r < 0)
        return r;
    if (offset >= attr.size)
        return -ENXIO;
    while (offset < attr.size) {
        uint64_t length;
        bool is_data;

        r = co_csv_block_status(file, offset, attr.size - offset, &is_data, &length);
        if (r < 0)
            return r;
        if (is_data == want_data || length == 0)
            break;
        offset += length;
    }
    if (offset >= attr.size && want_data)
        return -ENXIO;
    *ret_offset = MIN(offset, attr.size);
    return 0;
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                     struct fuse_file_info *info)
{
    uint64_t found;
    int r = -EINVAL;

    if (whence == SEEK_DATA || whence == SEEK_HOLE)
        r = co_seek(volume_of(req), ino, file_of(info), offset, whence == SEEK_DATA, &found);
    if (r < 0)
        reply_error(req, r);
    else
        fuse_reply_lseek(req, (off_t)found);
}

/* ---- copy_file_range: a clone, but for edges that are no whole blocks ---- */

struct copy {
    struct csv_volume *volume;
    struct csv_file *from, *to;
    uint64_t from_ino, to_ino;
    uint64_t from_offset, to_offset, length; /* what is left to do */
    uint8_t *memory;
};

static void copy_advance(struct copy *copy, uint64_t length)
{
    copy->from_offset += length;
    copy->to_offset += length;
    copy->length -= length;
}

static int co_copy_edge(struct copy *copy, uint64_t length)
{
    uint64_t got = 0;
    int r;

    if (length == 0)
        return 0;
    r = co_csv_read(copy->from, copy->memory, copy->from_offset, length, &got);
    if (r == 0)
        r = co_csv_write(copy->to, copy->memory, copy->to_offset, got);
    if (r == 0)
        copy_advance(copy, got);
    return r;
}

/* How much can be shared: whole blocks, and the last part of a block at the ends of both files. */
static int co_copy_shared_length(const struct copy *copy, uint64_t from_size, uint64_t *ret_length)
{
    struct fs_attr to;
    int r = co_csv_getattr(copy->volume, copy->to_ino, &to);
    bool ends = copy->from_offset + copy->length == from_size;

    if (r < 0)
        return r;
    *ret_length = ends && copy->to_offset + copy->length >= to.size
                      ? copy->length
                      : ALIGN_DOWN(copy->length, BLOCK_SIZE);
    return 0;
}

static int co_copy(struct copy *copy)
{
    uint64_t within = copy->from_offset % BLOCK_SIZE, shared = 0;
    struct fs_attr from;
    int r = co_csv_getattr(copy->volume, copy->from_ino, &from);

    if (r < 0)
        return r;
    copy->length = MIN(copy->length, from.size - MIN(from.size, copy->from_offset));
    if (within > 0)
        r = co_copy_edge(copy, MIN(copy->length, BLOCK_SIZE - within));
    if (r == 0)
        r = co_copy_shared_length(copy, from.size, &shared);
    if (r == 0 && shared > 0)
        r = co_csv_clone_range(copy->volume, copy->from_ino, copy->from_offset, copy->to_ino,
                               copy->to_offset, shared);
    if (r < 0)
        return r;
    copy_advance(copy, shared);
    return co_copy_edge(copy, copy->length);
}

static void op_copy_file_range(fuse_req_t req, fuse_ino_t from_ino, off_t from_offset,
                               struct fuse_file_info *from, fuse_ino_t to_ino, off_t to_offset,
                               struct fuse_file_info *to, size_t length, int flags)
{
    uint64_t wanted = MIN(length, (size_t)COPY_BYTES_MAX);
    struct copy copy = {.volume = volume_of(req),
                        .from = file_of(from),
                        .to = file_of(to),
                        .from_ino = from_ino,
                        .to_ino = to_ino,
                        .from_offset = from_offset,
                        .to_offset = to_offset,
                        .length = wanted,
                        .memory = fuse_answer_memory(mount_of(req))};
    int r = -EOPNOTSUPP; /* the kernel reads and writes instead */

    (void)flags;
    if ((from_offset - to_offset) % BLOCK_SIZE == 0)
        r = co_copy(&copy);
    if (r == -EINVAL) /* the source became shorter meanwhile */
        r = -EOPNOTSUPP;
    if (r < 0 && copy.to_offset == (uint64_t)to_offset)
        reply_error(req, r);
    else
        fuse_reply_write(req, copy.to_offset - (uint64_t)to_offset);
}

/* Not here: extended attributes, ioctl, locks (the kernel keeps those). libfuse answers ENOSYS, and
 * the kernel does not ask again. */
const struct fuse_lowlevel_ops s2d_fuse_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .readlink = op_readlink,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .symlink = op_symlink,
    .rename = op_rename,
    .link = op_link,
    .open = op_open,
    .read = op_read,
    .write = op_write,
    .release = op_release,
    .fsync = op_fsync,
    .opendir = op_open, /* a directory that is removed meanwhile still has attributes */
    .releasedir = op_release,
    .readdir = op_readdir,
    .fsyncdir = op_fsync,
    .statfs = op_statfs,
    .create = op_create,
    .fallocate = op_fallocate,
    .lseek = op_lseek,
    .copy_file_range = op_copy_file_range,
};
