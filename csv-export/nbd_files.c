#include "csv-export/nbd_files.h"

#include <ctype.h>
#include <stdio.h>
#include <sys/stat.h>

#include "s2d/base/co.h"
#include "s2d/base/io.h"

#define LIST_DEPTH_MAX 16 /* directories in directories that are listed */

struct nbd_files {
    struct nbd_backend backend;
    struct csv *csv;
};

struct file {
    struct nbd_file file;
    struct csv_file *csv_file;
};

static struct file *file_of(struct nbd_file *file)
{
    return container_of(file, struct file, file);
}

/* ---- names ---- */

/* Where "@digits" at the end begins; NULL: there is none. */
static const char *incarnation_suffix(const char *name)
{
    const char *at = strrchr(name, '@');

    if (!at || at[1] == 0 || strlen(at + 1) > 19)
        return NULL;
    for (const char *digit = at + 1; *digit; digit++) {
        if (!isdigit((unsigned char)*digit))
            return NULL;
    }
    return at;
}

int nbd_files_parse(const char *name, char *ret_volume, char *ret_path, uint64_t *ret_incarnation)
{
    const char *slash = strchr(name, '/'), *suffix = incarnation_suffix(name);
    size_t volume_bytes, path_bytes;

    if (!slash)
        return -ENOENT;
    if (suffix && suffix < slash)
        suffix = NULL;
    volume_bytes = slash - name;
    path_bytes = suffix ? (size_t)(suffix - slash - 1) : strlen(slash + 1);
    if (volume_bytes == 0 || volume_bytes > CSV_VOLUME_NAME_MAX || path_bytes == 0 ||
        path_bytes > CSV_PATH_MAX)
        return -ENOENT;
    memcpy(ret_volume, name, volume_bytes);
    ret_volume[volume_bytes] = 0;
    memcpy(ret_path, slash + 1, path_bytes);
    ret_path[path_bytes] = 0;
    *ret_incarnation = suffix ? strtoull(suffix + 1, NULL, 10) : 0;
    return 0;
}

/* ---- opening ---- */

static bool is_refusal(int error)
{
    return error == -EBUSY || error == -EPERM || error == -EACCES;
}

/* Whoever may not write may still read: NBD has no way to ask for that, so it is what is given. Not
 * to a VM, which would not know what to do with it. Who only asks what there is opens nothing for
 * writing: that would shut somebody out. */
static int co_open_file(struct csv_volume *volume, struct csv_open *open, bool info_only,
                        struct fs_attr *ret_attr, struct file *file)
{
    int r;

    file->file.read_only = false;
    if (!info_only || open->incarnation == 0) {
        r = co_csv_open(volume, open, ret_attr, &file->csv_file);
        if (r == 0 || open->incarnation > 0 || !is_refusal(r))
            return r;
        file->file.read_only = true;
    }
    open->read_only = true;
    return co_csv_open(volume, open, ret_attr, &file->csv_file);
}

static int co_files_open(struct nbd_backend *backend, const char *name, bool info_only,
                         struct nbd_file **ret_file)
{
    struct nbd_files *files = container_of(backend, struct nbd_files, backend);
    cleanup(csv_volume_putp) struct csv_volume *volume = NULL;
    char volume_name[CSV_VOLUME_NAME_MAX + 1], path[CSV_PATH_MAX + 1];
    struct csv_open open = {.path = path};
    struct fs_attr attr;
    struct file *file;
    int r;

    r = nbd_files_parse(name, volume_name, path, &open.incarnation);
    if (r < 0)
        return r;
    volume = csv_volume_find(files->csv, volume_name);
    if (!volume)
        return -ENOENT;
    r = co_csv_walk(volume, path, &attr);
    if (r < 0)
        return r;
    if (!S_ISREG(attr.mode))
        return -ENOENT;
    file = calloc(1, sizeof(*file));
    if (!file)
        return -ENOMEM;
    open.ino = attr.ino;
    r = co_open_file(volume, &open, info_only, &attr, file);
    if (r < 0) {
        free(file);
        return r;
    }
    file->file.size_bytes = attr.size;
    file->file.block_min = attr.size % 512 ? 1 : 512;
    *ret_file = &file->file;
    return 0;
}

static void co_files_close(struct nbd_file *file)
{
    csv_file_close(file_of(file)->csv_file);
    free(file_of(file));
}

/* ---- listing ---- */

struct child {
    struct list node;
    uint64_t ino;
    bool is_dir;
    char name[];
};

struct children {
    struct list list;
    uint64_t cookie;
    int error;
};

static bool add_child(void *arg, const struct fs_dirent *entry)
{
    struct children *children = arg;
    size_t length = strlen(entry->name);
    struct child *child;

    children->cookie = entry->cookie;
    if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0 ||
        !(S_ISDIR(entry->type) || S_ISREG(entry->type)))
        return true;
    child = malloc(sizeof(*child) + length + 1);
    if (!child) {
        children->error = -ENOMEM;
        return false;
    }
    child->ino = entry->ino;
    child->is_dir = S_ISDIR(entry->type);
    memcpy(child->name, entry->name, length + 1);
    list_push_back(&children->list, &child->node);
    return true;
}

struct listing {
    struct csv_volume *volume;
    int (*co_emit)(void *arg, const char *name);
    void *arg;
    char path[CSV_VOLUME_NAME_MAX + 1 + CSV_PATH_MAX + 1];
    size_t length; /* of path, with its slash */
};

static int co_list_dir(struct listing *listing, uint64_t ino, unsigned depth);

static int co_list_child(struct listing *listing, const struct child *child, unsigned depth)
{
    size_t length = listing->length, added = strlen(child->name);
    int r;

    if (length + added + 2 > sizeof(listing->path))
        return 0; /* too long to be asked for */
    memcpy(listing->path + length, child->name, added + 1);
    if (!child->is_dir)
        return listing->co_emit(listing->arg, listing->path);
    if (depth == LIST_DEPTH_MAX)
        return 0;
    listing->path[length + added] = '/';
    listing->length = length + added + 1;
    r = co_list_dir(listing, child->ino, depth + 1);
    listing->length = length;
    return r;
}

/* The entries of a directory are gathered before it descends: the directory may change meanwhile, a
 * page of it must not. */
static int co_list_dir(struct listing *listing, uint64_t ino, unsigned depth)
{
    struct children children = {0};
    struct list *node;
    bool end = false;
    int r = 0;

    list_init(&children.list);
    while (r == 0 && !end && children.error == 0)
        r = co_csv_readdir(listing->volume, ino, children.cookie, add_child, &children, &end);
    if (r == -ENOENT)
        r = 0; /* it was removed just now */
    if (r == 0)
        r = children.error;
    while ((node = list_pop_front(&children.list))) {
        struct child *child = list_entry(node, struct child, node);

        if (r == 0)
            r = co_list_child(listing, child, depth);
        free(child);
    }
    return r;
}

static int co_files_list(struct nbd_backend *backend, int (*co_emit)(void *arg, const char *name),
                         void *arg)
{
    struct nbd_files *files = container_of(backend, struct nbd_files, backend);
    struct csv_volume *volume = csv_volume_next(files->csv, NULL);
    struct listing *listing = calloc(1, sizeof(*listing));
    int r = listing ? 0 : -ENOMEM;

    while (volume && r == 0) {
        struct csv_volume *next;

        listing->volume = volume;
        listing->co_emit = co_emit;
        listing->arg = arg;
        listing->length =
            snprintf(listing->path, sizeof(listing->path), "%s/", csv_volume_name(volume));
        r = co_list_dir(listing, FS_ROOT_INO, 0);
        if (r == -ENODEV)
            r = 0;
        next = csv_volume_next(files->csv, csv_volume_name(volume));
        csv_volume_put(volume);
        volume = next;
    }
    csv_volume_put(volume);
    free(listing);
    return r;
}

/* ---- data ---- */

static int co_files_read(struct nbd_file *file, void *buffer, uint64_t offset, uint32_t length)
{
    uint64_t got;
    int r = co_csv_read(file_of(file)->csv_file, buffer, offset, length, &got);

    if (r < 0)
        return r;
    if (got < length) /* the file became shorter meanwhile */
        memset((char *)buffer + got, 0, length - got);
    return 0;
}

static int co_files_write(struct nbd_file *file, const void *buffer, uint64_t offset,
                          uint32_t length)
{
    return co_csv_write(file_of(file)->csv_file, buffer, offset, length);
}

/* Both ways change metadata, or little data: as fast as zeroing can be. */
static int co_files_zero(struct nbd_file *file, uint64_t offset, uint32_t length, unsigned flags)
{
    if (flags & NBD_ZERO_MAY_PUNCH)
        return co_csv_punch(file_of(file)->csv_file, offset, length);
    return co_csv_zero(file_of(file)->csv_file, offset, length);
}

static int co_files_trim(struct nbd_file *file, uint64_t offset, uint32_t length)
{
    return co_csv_punch(file_of(file)->csv_file, offset, length);
}

static int co_files_block_status(struct nbd_file *file, uint64_t offset, uint32_t length,
                                 bool *ret_data, uint32_t *ret_length)
{
    uint64_t run;
    int r = co_csv_block_status(file_of(file)->csv_file, offset, length, ret_data, &run);

    if (r < 0)
        return r;
    if (run == 0 || run > length)
        return -EIO;
    *ret_length = run;
    return 0;
}

static const struct nbd_backend_ops files_ops = {
    .co_open = co_files_open,
    .co_close = co_files_close,
    .co_list = co_files_list,
    .co_read = co_files_read,
    .co_write = co_files_write,
    .co_zero = co_files_zero,
    .co_trim = co_files_trim,
    .co_block_status = co_files_block_status,
};

int nbd_files_new(struct csv *csv, struct nbd_files **ret_files)
{
    struct nbd_files *files = calloc(1, sizeof(*files));

    if (!files)
        return -ENOMEM;
    files->backend.ops = &files_ops;
    files->csv = csv;
    *ret_files = files;
    return 0;
}

void nbd_files_free(struct nbd_files *files)
{
    free(files);
}

struct nbd_backend *nbd_files_backend(struct nbd_files *files)
{
    return &files->backend;
}
