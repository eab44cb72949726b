#include "tests/unit/fs_model.h"

#define ENTRIES_MAX 16
#define NAMES 4
#define GROW_BYTES (8 * MIB)

struct entry {
    char name[16];
    struct modelled *file;
};

struct modelled {
    uint64_t id;
    unsigned references; /* names and handles */
    uint32_t mode, nlink;
    struct modelled *parent; /* of a directory */
    struct entry entries[ENTRIES_MAX];
    unsigned count;
    uint8_t *data; /* MODEL_FILE_MAX, zeros behind the size */
    uint64_t size;
    char target[64];
};

struct model {
    struct modelled *root;
    struct modelled *handles[MODEL_HANDLES];
    struct modelled *snapshots[MODEL_SNAPSHOTS]; /* NULL: there is none */
    uint64_t next_id;
};

/* ---- the model itself ---- */

static struct modelled *modelled_new(struct model *model, uint32_t mode)
{
    struct modelled *file = calloc(1, sizeof(*file));

    check(file);
    file->id = ++model->next_id;
    file->mode = mode;
    file->references = 1;
    file->nlink = S_ISDIR(mode) ? 2 : 1;
    if (S_ISREG(mode)) {
        file->data = calloc(1, MODEL_FILE_MAX);
        check(file->data);
    }
    return file;
}

static void modelled_put(struct modelled *file)
{
    if (!file || --file->references > 0)
        return;
    for (unsigned i = 0; i < file->count; i++)
        modelled_put(file->entries[i].file);
    free(file->data);
    free(file);
}

struct model *model_new(void)
{
    struct model *model = calloc(1, sizeof(*model));

    check(model);
    model->root = modelled_new(model, S_IFDIR | 0755);
    return model;
}

void model_free(struct model *model)
{
    if (!model)
        return;
    for (unsigned i = 0; i < MODEL_HANDLES; i++)
        modelled_put(model->handles[i]);
    for (unsigned i = 0; i < MODEL_SNAPSHOTS; i++)
        modelled_put(model->snapshots[i]);
    modelled_put(model->root);
    free(model);
}

static struct modelled *find_id(struct modelled *dir, uint64_t id)
{
    if (dir->id == id)
        return dir;
    for (unsigned i = 0; i < dir->count; i++) {
        struct modelled *found = find_id(dir->entries[i].file, id);

        if (found)
            return found;
    }
    return NULL;
}

/* copies: by id, so that all names of a file become names of one copy. */
static struct modelled *modelled_copy(struct modelled **copies, const struct modelled *file,
                                      struct modelled *parent)
{
    struct modelled *copy = copies[file->id];

    if (copy) {
        copy->references++;
        return copy;
    }
    copy = copies[file->id] = malloc(sizeof(*copy));
    check(copy);
    *copy = *file;
    copy->references = 1;
    copy->parent = parent;
    if (file->data) {
        copy->data = malloc(MODEL_FILE_MAX);
        check(copy->data);
        memcpy(copy->data, file->data, MODEL_FILE_MAX);
    }
    for (unsigned i = 0; i < file->count; i++)
        copy->entries[i].file = modelled_copy(copies, file->entries[i].file, copy);
    return copy;
}

static struct modelled *tree_copy(const struct model *model, const struct modelled *root)
{
    struct modelled **copies = calloc(model->next_id + 1, sizeof(struct modelled *));
    struct modelled *copy;

    check(copies);
    copy = modelled_copy(copies, root, NULL);
    free(copies);
    return copy;
}

struct model *model_copy(const struct model *model)
{
    struct model *copy = calloc(1, sizeof(*copy));

    check(copy);
    copy->next_id = model->next_id;
    copy->root = tree_copy(model, model->root);
    for (unsigned i = 0; i < MODEL_SNAPSHOTS; i++)
        copy->snapshots[i] = model->snapshots[i] ? tree_copy(model, model->snapshots[i]) : NULL;
    return copy;
}

static struct entry *entry_find(struct modelled *dir, const char *name)
{
    for (unsigned i = 0; i < dir->count; i++) {
        if (strcmp(dir->entries[i].name, name) == 0)
            return &dir->entries[i];
    }
    return NULL;
}

static int model_walk(struct model *model, const char *path, size_t length,
                      struct modelled **ret_file)
{
    struct modelled *file = model->root;
    size_t at = 0;

    while (at < length) {
        size_t step = strcspn(path + at, "/");
        char name[16];
        struct entry *entry;

        step = MIN(step, length - at);
        snprintf(name, sizeof(name), "%.*s", (int)step, path + at);
        if (S_ISLNK(file->mode))
            return -ELOOP;
        if (!S_ISDIR(file->mode))
            return -ENOTDIR;
        entry = entry_find(file, name);
        if (!entry)
            return -ENOENT;
        file = entry->file;
        at += step + 1;
    }
    *ret_file = file;
    return 0;
}

static int model_parent(struct model *model, const char *path, struct modelled **ret_dir,
                        const char **ret_name)
{
    const char *slash = strrchr(path, '/');

    *ret_name = slash ? slash + 1 : path;
    return model_walk(model, path, slash ? (size_t)(slash - path) : 0, ret_dir);
}

static void entry_add(struct modelled *dir, const char *name, struct modelled *file)
{
    struct entry *entry = &dir->entries[dir->count++];

    check(dir->count <= ENTRIES_MAX);
    snprintf(entry->name, sizeof(entry->name), "%s", name);
    entry->file = file;
    if (S_ISDIR(file->mode)) {
        dir->nlink++;
        file->parent = dir;
    }
}

static struct modelled *entry_remove(struct modelled *dir, const char *name)
{
    struct entry *entry = entry_find(dir, name);
    struct modelled *file = entry->file;

    *entry = dir->entries[--dir->count];
    if (S_ISDIR(file->mode))
        dir->nlink--;
    return file;
}

static void unname(struct modelled *file)
{
    file->nlink = S_ISDIR(file->mode) ? 0 : file->nlink - 1;
    modelled_put(file);
}

static int apply_make(struct model *model, const struct op *op, uint32_t mode)
{
    struct modelled *dir, *file;
    const char *name = NULL;
    int r = model_parent(model, op->path, &dir, &name);

    if (r < 0)
        return r;
    if (!S_ISDIR(dir->mode))
        return -ENOTDIR;
    if (entry_find(dir, name))
        return -EEXIST;
    file = modelled_new(model, mode);
    if (S_ISLNK(mode))
        snprintf(file->target, sizeof(file->target), "%s", op->to);
    file->size = strlen(file->target);
    entry_add(dir, name, file);
    return 0;
}

static int apply_link(struct model *model, const struct op *op)
{
    struct modelled *file, *dir;
    const char *name = NULL;
    int r = model_walk(model, op->path, strlen(op->path), &file);

    if (r == 0)
        r = model_parent(model, op->to, &dir, &name);
    if (r < 0)
        return r;
    if (!S_ISDIR(dir->mode))
        return -ENOTDIR;
    if (S_ISDIR(file->mode))
        return -EPERM;
    if (entry_find(dir, name))
        return -EEXIST;
    file->nlink++;
    file->references++;
    entry_add(dir, name, file);
    return 0;
}

static int apply_remove(struct model *model, const struct op *op)
{
    struct modelled *dir, *file;
    struct entry *entry;
    const char *name = NULL;
    int r = model_parent(model, op->path, &dir, &name);

    if (r < 0)
        return r;
    if (!S_ISDIR(dir->mode))
        return -ENOTDIR;
    entry = entry_find(dir, name);
    if (!entry)
        return -ENOENT;
    file = entry->file;
    if (op->kind == OP_UNLINK && S_ISDIR(file->mode))
        return -EISDIR;
    if (op->kind == OP_RMDIR && !S_ISDIR(file->mode))
        return -ENOTDIR;
    if (op->kind == OP_RMDIR && file->count)
        return -ENOTEMPTY;
    unname(entry_remove(dir, name));
    return 0;
}

static bool is_below(const struct modelled *dir, const struct modelled *file)
{
    for (; dir; dir = dir->parent) {
        if (dir == file)
            return true;
    }
    return false;
}

static int check_rename(const struct op *op, const struct modelled *from_dir,
                        const struct modelled *to_dir, const struct modelled *moved,
                        const struct modelled *other)
{
    if (other && (op->flags & FS_RENAME_NOREPLACE))
        return -EEXIST;
    if (!other && (op->flags & FS_RENAME_EXCHANGE))
        return -ENOENT;
    if (S_ISDIR(moved->mode) && is_below(to_dir, moved))
        return -EINVAL;
    if (op->flags & FS_RENAME_EXCHANGE)
        return S_ISDIR(other->mode) && is_below(from_dir, other) ? -EINVAL : 0;
    if (!other || other == moved)
        return 0;
    if (S_ISDIR(moved->mode) && !S_ISDIR(other->mode))
        return -ENOTDIR;
    if (!S_ISDIR(moved->mode) && S_ISDIR(other->mode))
        return -EISDIR;
    return S_ISDIR(other->mode) && other->count ? -ENOTEMPTY : 0;
}

static int apply_rename(struct model *model, const struct op *op)
{
    struct modelled *from_dir, *to_dir, *moved, *other;
    const char *from = NULL, *to = NULL;
    int r = model_parent(model, op->path, &from_dir, &from);

    if (r == 0)
        r = model_parent(model, op->to, &to_dir, &to);
    if (r < 0)
        return r;
    if (!S_ISDIR(from_dir->mode) || !S_ISDIR(to_dir->mode))
        return -ENOTDIR;
    if (!entry_find(from_dir, from))
        return -ENOENT;
    moved = entry_find(from_dir, from)->file;
    other = entry_find(to_dir, to) ? entry_find(to_dir, to)->file : NULL;
    r = check_rename(op, from_dir, to_dir, moved, other);
    if (r < 0 || moved == other)
        return r;
    entry_remove(from_dir, from);
    if (other)
        entry_remove(to_dir, to);
    if (op->flags & FS_RENAME_EXCHANGE)
        entry_add(from_dir, from, other);
    else if (other)
        unname(other);
    entry_add(to_dir, to, moved);
    return 0;
}

/* ---- data ---- */

static int model_file(struct model *model, const struct op *op, struct modelled **ret_file)
{
    struct modelled *file;
    int r = model_walk(model, op->path, strlen(op->path), &file);

    if (r < 0)
        return r;
    *ret_file = file;
    return S_ISREG(file->mode) ? 0 : S_ISDIR(file->mode) ? -EISDIR : -EINVAL;
}

static void data_write(struct modelled *file, const struct op *op)
{
    for (uint64_t i = 0; i < op->length; i++)
        file->data[op->offset + i] = pattern_byte(op->seed, op->offset + i);
    file->size = MAX(file->size, op->offset + op->length);
}

static void data_zero(struct modelled *file, uint64_t offset, uint64_t end)
{
    if (offset < end)
        memset(file->data + offset, 0, end - offset);
}

static int apply_data(struct model *model, const struct op *op)
{
    struct modelled *file;
    uint64_t end = op->offset + op->length;
    int r = model_file(model, op, &file);

    if (r < 0)
        return r;
    switch (op->kind) {
    case OP_WRITE:
        data_write(file, op);
        break;
    case OP_TRUNCATE:
        data_zero(file, op->offset, file->size);
        file->size = op->offset;
        break;
    case OP_ALLOCATE:
        if (!(op->flags & FS_ALLOCATE_KEEP_SIZE))
            file->size = MAX(file->size, end);
        break;
    case OP_PUNCH:
    case OP_ZERO:
        data_zero(file, op->offset, MIN(end, file->size));
        break;
    default:
        check(false);
    }
    return 0;
}

static int apply_clone(struct model *model, const struct op *op)
{
    struct modelled *from, *dir, *file;
    const char *name = NULL;
    int r = model_file(model, op, &from);

    int to = model_parent(model, op->to, &dir, &name);

    if (model_walk(model, op->path, strlen(op->path), &from) < 0)
        return r;
    if (to < 0 || r < 0)
        return to < 0 ? to : r;
    if (!S_ISDIR(dir->mode))
        return -ENOTDIR;
    if (entry_find(dir, name))
        return -EEXIST;
    file = modelled_new(model, from->mode);
    memcpy(file->data, from->data, MODEL_FILE_MAX);
    file->size = from->size;
    entry_add(dir, name, file);
    return 0;
}

/* The target of a clone of a range; its errors come after those of both paths. */
static int model_clone_target(struct model *model, const struct op *op, struct modelled **ret_from,
                              struct modelled **ret_to)
{
    struct op to_op = *op;
    struct modelled *any;
    int from = model_file(model, op, ret_from), to;

    snprintf(to_op.path, sizeof(to_op.path), "%s", op->to);
    to = model_file(model, &to_op, ret_to);
    if (model_walk(model, op->path, strlen(op->path), &any) < 0)
        return from;
    if (model_walk(model, op->to, strlen(op->to), &any) < 0)
        return to;
    return from < 0 ? from : to;
}

static int apply_clone_range(struct model *model, const struct op *op)
{
    uint64_t from_end = op->offset + op->length, to_end = op->to_offset + op->length;
    struct modelled *from, *to;
    int r = model_clone_target(model, op, &from, &to);

    if (r < 0 || op->length == 0)
        return r;
    if (op->offset % BLOCK_SIZE || op->to_offset % BLOCK_SIZE || from_end > from->size)
        return -EINVAL;
    if (op->length % BLOCK_SIZE && (from_end != from->size || to_end < to->size))
        return -EINVAL;
    if (from == to && op->offset < to_end && op->to_offset < from_end)
        return -EINVAL;
    memcpy(to->data + op->to_offset, from->data + op->offset, op->length);
    to->size = MAX(to->size, to_end);
    return 0;
}

static int apply_chmod(struct model *model, const struct op *op)
{
    struct modelled *file;
    int r = model_walk(model, op->path, strlen(op->path), &file);

    if (r == 0)
        file->mode = (file->mode & S_IFMT) | (op->seed & 07777);
    return r;
}

static int apply_hold(struct model *model, const struct op *op)
{
    struct modelled *file;
    int r = model_walk(model, op->path, strlen(op->path), &file);

    if (r < 0)
        return r;
    file->references++;
    modelled_put(model->handles[op->handle]);
    model->handles[op->handle] = file;
    return 0;
}

static int apply_snapshot(struct model *model, const struct op *op)
{
    struct modelled **snapshot = &model->snapshots[op->handle % MODEL_SNAPSHOTS];

    if (op->kind == OP_SNAPSHOT) {
        if (*snapshot)
            return -EEXIST;
        *snapshot = tree_copy(model, model->root);
        return 0;
    }
    for (unsigned i = 0; op->kind == OP_RESTORE && i < MODEL_HANDLES; i++) {
        modelled_put(model->handles[i]);
        model->handles[i] = NULL;
    }
    if (!*snapshot)
        return -ENOENT;
    modelled_put(op->kind == OP_RESTORE ? model->root : *snapshot);
    if (op->kind == OP_RESTORE)
        model->root = tree_copy(model, *snapshot);
    else
        *snapshot = NULL;
    return 0;
}

int model_apply(struct model *model, const struct op *op)
{
    struct modelled *file;

    switch (op->kind) {
    case OP_CREATE:
        return apply_make(model, op, S_IFREG | 0644);
    case OP_MKDIR:
        return apply_make(model, op, S_IFDIR | 0755);
    case OP_SYMLINK:
        return apply_make(model, op, S_IFLNK | 0777);
    case OP_LINK:
        return apply_link(model, op);
    case OP_UNLINK:
    case OP_RMDIR:
        return apply_remove(model, op);
    case OP_RENAME:
        return apply_rename(model, op);
    case OP_WRITE:
    case OP_TRUNCATE:
    case OP_ALLOCATE:
    case OP_PUNCH:
    case OP_ZERO:
        return apply_data(model, op);
    case OP_WRITE_HELD:
        if (model->handles[op->handle] && S_ISREG(model->handles[op->handle]->mode))
            data_write(model->handles[op->handle], op);
        return 0;
    case OP_CLONE:
        return apply_clone(model, op);
    case OP_CLONE_RANGE:
        return apply_clone_range(model, op);
    case OP_CHMOD:
        return apply_chmod(model, op);
    case OP_HOLD:
        return apply_hold(model, op);
    case OP_DROP:
        modelled_put(model->handles[op->handle]);
        model->handles[op->handle] = NULL;
        return 0;
    case OP_SNAPSHOT:
    case OP_UNSNAPSHOT:
    case OP_RESTORE:
        return apply_snapshot(model, op);
    case OP_SYNC:
        return model_walk(model, op->path, strlen(op->path), &file);
    case OP_CHECKPOINT:
    case OP_GROW:
    case OP_TRIM:
    case OP_KINDS:
        return 0;
    }
    return 0;
}

uint64_t model_target(struct model *model, const struct op *op)
{
    struct modelled *file, *from;

    if (op->kind == OP_CLONE_RANGE)
        return model_clone_target(model, op, &from, &file) == 0 ? file->id : 0;
    if (op->kind == OP_WRITE_HELD)
        return model->handles[op->handle] ? model->handles[op->handle]->id : 0;
    if (op->kind != OP_WRITE && op->kind != OP_PUNCH && op->kind != OP_ZERO &&
        op->kind != OP_ALLOCATE)
        return 0;
    return model_file(model, op, &file) == 0 ? file->id : 0;
}

void model_write_id(struct model *model, uint64_t id, const struct op *op)
{
    struct modelled *file = find_id(model->root, id);

    if (file)
        data_write(file, op);
}

/* ---- operations ---- */

static void random_path(uint64_t (*random)(void *arg), void *arg, char *path)
{
    static const char *const shapes[] = {"%c", "%c", "%c/%c", "%c/%c", "%c/%c/%c"};
    uint64_t bits = random(arg);

    snprintf(path, sizeof(((struct op *)0)->path), shapes[bits % ARRAY_SIZE(shapes)],
             'a' + (int)(bits >> 8) % NAMES, 'a' + (int)(bits >> 16 & 0xff) % NAMES,
             'a' + (int)(bits >> 24 & 0xff) % NAMES);
}

/* Mostly small files near their beginning; some that are filled by clusters; aligned or not. */
static void random_range(uint64_t (*random)(void *arg), void *arg, struct op *op)
{
    uint64_t bits = random(arg), size = bits % 8 ? 60 * KIB : MODEL_FILE_MAX;
    uint64_t offset = random(arg) % size, length = 1 + random(arg) % (bits >> 8 & 1 ? 3000 : 70000);

    if (bits >> 9 & 1) {
        offset = ALIGN_DOWN(offset, BLOCK_SIZE);
        length = ALIGN_UP(length, (uint64_t)BLOCK_SIZE);
    }
    op->offset = offset;
    op->length = MIN(length, MODEL_FILE_MAX - offset);
}

struct op op_random(uint64_t (*random)(void *arg), void *arg)
{
    /* How often each comes, of the sum. */
    static const unsigned weights[OP_KINDS] = {
        [OP_CREATE] = 12,    [OP_MKDIR] = 6,    [OP_SYMLINK] = 2,      [OP_LINK] = 4,
        [OP_UNLINK] = 7,     [OP_RMDIR] = 3,    [OP_RENAME] = 9,       [OP_WRITE] = 24,
        [OP_WRITE_HELD] = 4, [OP_TRUNCATE] = 6, [OP_ALLOCATE] = 3,     [OP_PUNCH] = 5,
        [OP_ZERO] = 3,       [OP_CHMOD] = 2,    [OP_HOLD] = 3,         [OP_DROP] = 2,
        [OP_CHECKPOINT] = 3, [OP_CLONE] = 10,   [OP_CLONE_RANGE] = 10, [OP_SNAPSHOT] = 5,
        [OP_UNSNAPSHOT] = 3, [OP_RESTORE] = 2,  [OP_SYNC] = 3,         [OP_GROW] = 1,
        [OP_TRIM] = 1};
    struct op op = {.seed = random(arg) % 1000 + 1};
    unsigned sum = 0, pick;

    for (unsigned i = 0; i < OP_KINDS; i++)
        sum += weights[i];
    pick = random(arg) % sum;
    while (pick >= weights[op.kind])
        pick -= weights[op.kind++];
    random_path(random, arg, op.path);
    random_path(random, arg, op.to);
    random_range(random, arg, &op);
    op.handle = random(arg) % MODEL_HANDLES;
    op.flags = random(arg) % 4;
    if (op.kind == OP_RENAME)
        op.flags = op.flags == 3 ? 0 : op.flags;
    if (op.kind == OP_ALLOCATE)
        op.flags &= FS_ALLOCATE_KEEP_SIZE;
    if (op.kind == OP_CLONE_RANGE) { /* mostly such as are allowed */
        op.to_offset = random(arg) % (64 * KIB);
        if (op.flags) {
            op.offset = ALIGN_DOWN(op.offset, BLOCK_SIZE);
            op.to_offset = ALIGN_DOWN(op.to_offset, BLOCK_SIZE);
            op.length = ALIGN_UP(op.length, (uint64_t)BLOCK_SIZE);
        }
        op.length = MIN(op.length, MODEL_FILE_MAX - MAX(op.offset, op.to_offset));
    }
    return op;
}

const char *op_name(enum op_kind kind)
{
    static const char *const names[] = {"create",
                                        "mkdir",
                                        "symlink",
                                        "link",
                                        "unlink",
                                        "rmdir",
                                        "rename",
                                        "write",
                                        "write-held",
                                        "truncate",
                                        "allocate",
                                        "punch",
                                        "zero",
                                        "clone",
                                        "clone-range",
                                        "chmod",
                                        "hold",
                                        "drop",
                                        "checkpoint",
                                        "snapshot",
                                        "snapshot-delete",
                                        "snapshot-restore",
                                        "sync",
                                        "grow",
                                        "trim"};

    return names[kind];
}

static int co_data_run(struct fs_inode *inode, const struct op *op)
{
    switch (op->kind) {
    case OP_WRITE:
    case OP_WRITE_HELD:
        return co_write_pattern(inode, op->offset, op->length, op->seed);
    case OP_TRUNCATE:
        return co_fs_truncate(inode, op->offset, FS_NO_REQUEST);
    case OP_ALLOCATE:
        return co_fs_allocate(inode, op->offset, op->length, op->flags);
    case OP_PUNCH:
        return co_fs_punch(inode, op->offset, op->length);
    case OP_ZERO:
        return co_fs_zero(inode, op->offset, op->length);
    case OP_CHMOD:
        return co_fs_setattr(inode, &(struct fs_attr){.mode = op->seed & 07777}, FS_SET_MODE,
                             FS_NO_REQUEST);
    case OP_SYNC:
        return co_fs_sync(inode, op->seed % 2);
    default:
        check(false);
        return 0;
    }
}

static const char *co_compare_file(struct fs_inode *inode, const struct modelled *file,
                                   const struct modelled *other);

static int co_drop(struct op op, struct fs_inode **handles, struct model *model)
{
    struct fs_inode *inode = handles[op.handle];
    const struct modelled *file = model->handles[op.handle];

    if (inode && file && !fs_error(fs_inode_fs(inode))) {
        const char *difference = co_compare_file(inode, file, file);

        if (difference && !fs_error(fs_inode_fs(inode)))
            check_failed(difference, "a file held open", __LINE__);
    }
    fs_inode_put(inode);
    handles[op.handle] = NULL;
    return 0;
}

static int co_hold(struct world *world, const char *path, const struct op *op,
                   struct fs_inode **handles)
{
    struct fs_inode *inode;
    int r = co_open(world, path, &inode);

    if (r < 0)
        return r;
    fs_inode_put(handles[op->handle]);
    handles[op->handle] = inode;
    return 0;
}

/* Below /.snapshots: those of all workers lie there side by side. */
static void snapshot_name(const char *base, unsigned number, char ret_name[32])
{
    snprintf(ret_name, 32, "%s-%u", base, number % MODEL_SNAPSHOTS);
}

int co_op_restore(struct world *world, const char *base, const struct op *op)
{
    char name[32];

    snapshot_name(base, op->handle, name);
    return co_fs_snapshot_restore(world->fs, name, FS_NO_REQUEST);
}

static int co_snapshot_run(struct world *world, const char *base, const struct op *op,
                           struct fs_inode **handles)
{
    cleanup(fs_inode_putp) struct fs_inode *dir = NULL;
    char name[32];
    int r;

    snapshot_name(base, op->handle, name);
    if (op->kind == OP_UNSNAPSHOT)
        return co_fs_snapshot_delete(world->fs, name, FS_NO_REQUEST);
    if (op->kind == OP_RESTORE) {
        for (unsigned i = 0; i < MODEL_HANDLES; i++) {
            fs_inode_put(handles[i]);
            handles[i] = NULL;
        }
        return co_op_restore(world, base, op);
    }
    r = co_open(world, base, &dir);
    return r < 0 ? r : co_fs_snapshot_create(dir, name, FS_NO_REQUEST);
}

int co_op_run(struct world *world, const char *base, const struct op *op, struct fs_inode **handles,
              struct model *model)
{
    cleanup(fs_inode_putp) struct fs_inode *inode = NULL;
    cleanup(fs_inode_putp) struct fs_inode *dir = NULL;
    struct fs_new new = {.mode = 0777};
    char path[128], to[128];
    const char *name = NULL;
    int r;

    snprintf(path, sizeof(path), "%s/%s", base, op->path);
    snprintf(to, sizeof(to), "%s/%s", base, op->to);
    switch (op->kind) {
    case OP_CREATE:
        return co_create(world, path);
    case OP_MKDIR:
        return co_mkdir(world, path);
    case OP_SYMLINK:
        r = co_parent(world, path, &dir, &name);
        return r < 0 ? r : co_fs_symlink(dir, name, op->to, &new, FS_NO_REQUEST, NULL);
    case OP_LINK:
        r = co_open(world, path, &inode);
        if (r == 0)
            r = co_parent(world, to, &dir, &name);
        return r < 0 ? r : co_fs_link(inode, dir, name, FS_NO_REQUEST);
    case OP_UNLINK:
        return co_unlink(world, path);
    case OP_RMDIR:
        return co_rmdir(world, path);
    case OP_RENAME:
        return co_rename(world, path, to, op->flags);
    case OP_CLONE:
        r = co_open(world, path, &inode);
        if (r == 0)
            r = co_parent(world, to, &dir, &name);
        return r < 0 ? r : co_fs_clone_file(inode, dir, name, FS_NO_REQUEST, NULL);
    case OP_CLONE_RANGE:
        r = co_open(world, path, &inode);
        if (r == 0)
            r = co_open(world, to, &dir);
        return r < 0 ? r
                     : co_fs_clone_range(inode, op->offset, dir, op->to_offset, op->length,
                                         FS_NO_REQUEST);
    case OP_WRITE:
    case OP_TRUNCATE:
    case OP_ALLOCATE:
    case OP_PUNCH:
    case OP_ZERO:
    case OP_CHMOD:
    case OP_SYNC:
        r = co_open(world, path, &inode);
        return r < 0 ? r : co_data_run(inode, op);
    case OP_WRITE_HELD:
        if (!handles[op->handle] || !S_ISREG(fs_inode_mode(handles[op->handle])))
            return 0;
        return co_data_run(handles[op->handle], op);
    case OP_HOLD:
        return co_hold(world, path, op, handles);
    case OP_DROP:
        return co_drop(*op, handles, model);
    case OP_CHECKPOINT:
        return co_fs_checkpoint(world->fs);
    case OP_GROW:
        ram_vdisk_grow(&world->ram, GROW_BYTES);
        return co_fs_grow(world->fs);
    case OP_TRIM:
        return co_fs_trim_free(world->fs);
    case OP_SNAPSHOT:
    case OP_UNSNAPSHOT:
    case OP_RESTORE:
        return co_snapshot_run(world, base, op, handles);
    case OP_KINDS:
        break;
    }
    return 0;
}

/* ---- comparing ---- */

static bool same_block(const uint8_t *data, const struct modelled *file, uint64_t at,
                       uint64_t length)
{
    return memcmp(data, file->data + at, length) == 0;
}

static const char *co_compare_file(struct fs_inode *inode, const struct modelled *file,
                                   const struct modelled *other)
{
    const char *difference = NULL;
    struct fs_attr attr;
    uint8_t *data;
    uint64_t length = 0;

    if (S_ISDIR(file->mode))
        return NULL;
    if (co_fs_getattr(inode, &attr) < 0)
        return "getattr failed";
    if (attr.mode != file->mode)
        return "mode";
    if (attr.nlink != file->nlink)
        return "nlink";
    if (attr.size < MIN(file->size, other->size) || attr.size > MAX(file->size, other->size))
        return "size"; /* a write that was cut off may have come as far as it likes */
    if (S_ISLNK(file->mode)) {
        char target[FS_SYMLINK_MAX + 1];

        return co_fs_readlink(inode, target) == 0 && strcmp(target, file->target) == 0 ? NULL
                                                                                       : "target";
    }
    data = malloc(attr.size + 1);
    check(data);
    if (co_fs_read(inode, data, 0, attr.size + 1, &length) < 0 || length != attr.size)
        difference = "read failed";
    for (uint64_t at = 0; !difference && at < attr.size; at += BLOCK_SIZE) {
        uint64_t step = MIN(attr.size - at, (uint64_t)BLOCK_SIZE);

        if (!same_block(data + at, file, at, step) && !same_block(data + at, other, at, step))
            difference = "contents";
    }
    free(data);
    return difference;
}

struct compare {
    struct world *world;
    struct modelled *other_root;
    uint64_t loose_id;
};

struct names {
    char names[ENTRIES_MAX + 8][16];
    unsigned count;
};

static bool collect(void *arg, const struct fs_dirent *entry)
{
    struct names *names = arg;

    if (entry->name[0] == '.')
        return true;
    check(names->count < ARRAY_SIZE(names->names));
    snprintf(names->names[names->count++], 16, "%s", entry->name);
    return true;
}

static const char *co_compare_one(struct compare *compare, struct fs_inode *inode,
                                  struct modelled *file);

static const char *co_compare_dir(struct compare *compare, struct fs_inode *dir,
                                  struct modelled *file)
{
    struct names *names = calloc(1, sizeof(*names));
    const char *difference = NULL;
    struct fs_attr attr;

    check(names);
    if (co_fs_getattr(dir, &attr) < 0 || co_fs_readdir(dir, 0, collect, names) < 0)
        difference = "reading a directory failed";
    else if (attr.nlink != file->nlink)
        difference = "nlink of a directory";
    else if (names->count != file->count)
        difference = "number of names";
    for (unsigned i = 0; !difference && i < names->count; i++) {
        struct entry *entry = entry_find(file, names->names[i]);
        struct fs_inode *inode;

        if (!entry) {
            difference = "a name that should not be";
        } else if (co_fs_lookup(dir, entry->name, &inode) < 0) {
            difference = "a listed name is not found";
        } else {
            difference = co_compare_one(compare, inode, entry->file);
            fs_inode_put(inode);
        }
    }
    free(names);
    return difference;
}

static const char *co_compare_one(struct compare *compare, struct fs_inode *inode,
                                  struct modelled *file)
{
    struct modelled *other = file;

    if ((fs_inode_mode(inode) & S_IFMT) != (file->mode & S_IFMT))
        return "type";
    if (S_ISDIR(file->mode))
        return co_compare_dir(compare, inode, file);
    if (file->id == compare->loose_id && compare->other_root)
        other = find_id(compare->other_root, file->id);
    return co_compare_file(inode, file, other ? other : file);
}

/* Snapshots are never loose: an operation on data does not touch them. */
static const char *co_compare_snapshot(struct world *world, const char *base, unsigned number,
                                       struct modelled *root)
{
    cleanup(fs_inode_putp) struct fs_inode *dir = NULL;
    struct compare compare = {.world = world};
    char name[32], path[64];
    int r;

    snapshot_name(base, number, name);
    snprintf(path, sizeof(path), FS_SNAPSHOTS_NAME "/%s", name);
    r = co_open(world, path, &dir);
    if (r < 0)
        return root ? "a snapshot is gone" : NULL;
    if (!root)
        return "a snapshot that should not be";
    return co_compare_one(&compare, dir, root) ? "a snapshot" : NULL;
}

const char *co_model_compare(struct world *world, const char *base, const struct model *model,
                             const struct model *other, uint64_t loose_id)
{
    struct compare compare = {
        .world = world, .other_root = other ? other->root : NULL, .loose_id = loose_id};
    struct fs_inode *dir;
    const char *difference;

    if (co_open(world, base, &dir) < 0)
        return "the base directory is gone";
    difference = co_compare_one(&compare, dir, model->root);
    fs_inode_put(dir);
    for (unsigned i = 0; !difference && i < MODEL_SNAPSHOTS; i++)
        difference = co_compare_snapshot(world, base, i, model->snapshots[i]);
    return difference;
}
