/* What a request does on the owner, whoever sent it. A request is carried out as fs.h says; on top
 * of that stand the open files: what a client has open keeps the inode alive, and is where writers
 * of an older incarnation of a VM are shut out.
 *
 * An open file that is in use (in_flight) stays; whoever closes or fences it waits on open_idle and
 * looks again. All other waiting is the file system's. */
#include <sys/stat.h>

#include "csv-export/csv_internal.h"

/* -ENOENT: there is no such inode any more. -ESTALE: as everywhere, this is not the owner's fs. */
static int co_inode_get(struct fs *fs, uint64_t ino, struct fs_inode **ret_inode)
{
    int r = co_fs_inode_get(fs, ino, 0, ret_inode);

    return r == -ESTALE && fs_error(fs) == 0 ? -ENOENT : r;
}

/* ---- open files ---- */

static struct list *bucket(struct csv_volume *volume, uint64_t handle)
{
    return &volume->opens[handle % CSV_OPEN_BUCKETS];
}

static struct csv_opened *find_opened(struct csv_volume *volume, const struct csv_request *request)
{
    list_for_each (node, bucket(volume, request->handle)) {
        struct csv_opened *opened = list_entry(node, struct csv_opened, node);

        if (opened->handle == request->handle && opened->client == request->client &&
            opened->client_counter == request->client_counter)
            return opened;
    }
    return NULL;
}

static struct csv_opened *opened_new(struct csv_volume *volume, const struct csv_request *request)
{
    struct csv_opened *opened = calloc(1, sizeof(*opened));

    if (!opened)
        return NULL;
    opened->client = request->client;
    opened->client_counter = request->client_counter;
    opened->handle = request->handle;
    opened->ino = request->ino;
    opened->incarnation = request->incarnation;
    opened->read_only = request->flags & CSV_OPEN_READ_ONLY;
    list_push_back(bucket(volume, request->handle), &opened->node);
    volume->open_count++;
    return opened;
}

static void opened_free(struct csv_volume *volume, struct csv_opened *opened)
{
    assert(opened->in_flight == 0);
    list_remove(&opened->node);
    volume->open_count--;
    fs_inode_put(opened->inode);
    free(opened);
}

static void opened_leave(struct csv_volume *volume, struct csv_opened *opened)
{
    assert(opened->in_flight > 0);
    if (--opened->in_flight == 0)
        co_cond_broadcast(&volume->open_idle);
}

/* A running VM writes to it. */
static bool is_vm_disk(const struct csv_opened *opened)
{
    return opened->incarnation > 0 && !opened->read_only && !opened->fenced;
}

/* Calls visit() for every open file of the inode, until it returns an error. */
static int each_opened(struct csv_volume *volume, uint64_t ino,
                       int (*visit)(struct csv_opened *opened, const struct csv_request *request),
                       const struct csv_request *request)
{
    for (size_t i = 0; i < CSV_OPEN_BUCKETS; i++) {
        list_for_each (node, &volume->opens[i]) {
            struct csv_opened *opened = list_entry(node, struct csv_opened, node);
            int r = opened->ino == ino ? visit(opened, request) : 0;

            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int check_conflict(struct csv_opened *opened, const struct csv_request *request)
{
    if ((request->flags & CSV_OPEN_READ_ONLY) || !is_vm_disk(opened))
        return 0;
    if (request->incarnation == 0)
        return -EBUSY;
    return request->incarnation < opened->incarnation ? -EPERM : 0;
}

static int fence_older(struct csv_opened *opened, const struct csv_request *request)
{
    if (opened->read_only || opened->incarnation >= request->incarnation)
        return 0;
    if (PLANTED(CSV_NOT_FENCED))
        return 0;
    opened->fenced = true;
    return opened->in_flight > 0 ? -EAGAIN : 0;
}

/* ---- what a running VM's disk is spared ---- */

/* A change of size or contents behind the back of whoever has the file open. None begins while a
 * running VM writes to it; and while one is under way, which may be long, no VM begins to. */
struct reshaping {
    struct list node; /* volume->reshapings */
    uint64_t ino;     /* 0: any file of the volume */
};

static bool is_reshaped(const struct csv_volume *volume, uint64_t ino)
{
    list_for_each (node, &volume->reshapings) {
        const struct reshaping *reshaping = list_entry(node, struct reshaping, node);

        if (reshaping->ino == 0 || reshaping->ino == ino)
            return true;
    }
    return false;
}

/* Is the request a VM's opening of its disk? */
static bool opens_vm_disk(const struct csv_request *request)
{
    return request->incarnation > 0 && !(request->flags & CSV_OPEN_READ_ONLY);
}

/* ino 0: of all files. Returns 0 (for reshaping_end()) or -EBUSY. */
static int reshaping_begin(struct csv_volume *volume, uint64_t ino, struct reshaping *reshaping)
{
    for (size_t i = 0; i < CSV_OPEN_BUCKETS; i++) {
        list_for_each (node, &volume->opens[i]) {
            const struct csv_opened *opened = list_entry(node, struct csv_opened, node);

            if ((ino == 0 || opened->ino == ino) && is_vm_disk(opened))
                return -EBUSY;
        }
    }
    reshaping->ino = ino;
    list_push_back(&volume->reshapings, &reshaping->node);
    return 0;
}

static void reshaping_end(struct reshaping *reshaping)
{
    list_remove(&reshaping->node);
}

/* ---- opening and closing ---- */

/* Shuts out every writer of an older incarnation, and waits for what it has under way. */
static void co_fence(struct csv_volume *volume, const struct csv_request *request)
{
    if (!opens_vm_disk(request))
        return;
    for (;;) {
        bool busy = false;

        for (size_t i = 0; i < CSV_OPEN_BUCKETS; i++) {
            list_for_each (node, &volume->opens[i]) {
                struct csv_opened *opened = list_entry(node, struct csv_opened, node);

                if (opened->ino == request->ino && fence_older(opened, request) < 0)
                    busy = true;
            }
        }
        if (!busy)
            return;
        SOMETIMES("csv: an older incarnation's writes are waited for");
        co_cond_wait_always(&volume->open_idle);
    }
}

static int authorize(struct csv_volume *volume, const struct csv_request *request)
{
    const struct csv_options *options = &volume->csv->options;
    char path[CSV_PATH_MAX + 1];

    if (!options->authorize || request->bulk_bytes == 0)
        return 0;
    memcpy(path, request->bulk, request->bulk_bytes);
    path[request->bulk_bytes] = 0;
    return options->authorize(options->arg, volume->name, path, request->incarnation,
                              request->flags & CSV_OPEN_READ_ONLY);
}

static int co_open(struct csv_volume *volume, const struct csv_request *request,
                   struct csv_reply *reply)
{
    struct csv_opened *opened = find_opened(volume, request);
    struct fs_inode *inode;
    int r;

    if (opened && opened->inode && !opened->fenced) { /* a repeat */
        opened->in_flight++;
        r = co_fs_getattr(opened->inode, &reply->attr);
        opened_leave(volume, opened);
        return r;
    }
    if (opened)
        return opened->fenced ? -EPERM : -EAGAIN;
    r = authorize(volume, request);
    if (r < 0)
        return r;
    r = each_opened(volume, request->ino, check_conflict, request);
    if (r < 0)
        return r;
    if (opens_vm_disk(request) && is_reshaped(volume, request->ino)) {
        SOMETIMES("csv: a VM's disk is opened while its size or contents change");
        return -EAGAIN;
    }

    /* In the table before anything suspends: nobody opens past it. */
    opened = opened_new(volume, request);
    if (!opened)
        return -ENOMEM;
    opened->in_flight = 1;
    co_fence(volume, request);
    r = opened->fenced ? -EPERM : co_inode_get(volume->fs, request->ino, &inode);
    if (r == 0) {
        r = co_fs_getattr(inode, &reply->attr);
        if (r == 0)
            opened->inode = inode;
        else
            fs_inode_put(inode);
    }
    opened_leave(volume, opened);
    if (r < 0)
        opened_free(volume, opened);
    return r;
}

static int co_close(struct csv_volume *volume, const struct csv_request *request)
{
    struct csv_opened *opened;

    while ((opened = find_opened(volume, request))) {
        if (opened->in_flight == 0) {
            opened_free(volume, opened);
            break;
        }
        co_cond_wait_always(&volume->open_idle);
    }
    return 0;
}

static struct csv_opened *find_of_client(struct csv_volume *volume, uint64_t client,
                                         uint64_t before_counter)
{
    for (size_t i = 0; i < CSV_OPEN_BUCKETS; i++) {
        list_for_each (node, &volume->opens[i]) {
            struct csv_opened *opened = list_entry(node, struct csv_opened, node);

            if (client == 0 ||
                (opened->client == client && opened->client_counter < before_counter))
                return opened;
        }
    }
    return NULL;
}

void co_csv_close_opens(struct csv_volume *volume, uint64_t client, uint64_t before_counter)
{
    struct csv_opened *opened;

    while ((opened = find_of_client(volume, client, before_counter))) {
        if (opened->in_flight == 0)
            opened_free(volume, opened);
        else
            co_cond_wait_always(&volume->open_idle);
    }
}

bool co_csv_has_nameless(struct csv_volume *volume)
{
    for (size_t i = 0; i < CSV_OPEN_BUCKETS; i++) {
        list_for_each (node, &volume->opens[i]) {
            struct csv_opened *opened = list_entry(node, struct csv_opened, node);
            struct fs_attr attr;

            if (co_fs_getattr(opened->inode, &attr) == 0 && attr.nlink == 0)
                return true;
        }
    }
    return false;
}

/* ---- data ---- */

static int co_data_on(struct fs_inode *inode, const struct csv_request *request,
                      struct csv_reply *reply)
{
    struct client_request number = {
        .session = csv_client_session(request->client, request->client_counter),
        .number = request->number,
        .is_repeat = request->op == CSV_WRITE && request->flags & CSV_WRITE_REPEAT,
    };
    uint64_t length = 0;
    int r;

    switch (request->op) {
    case CSV_READ:
        assert(reply->bulk_bytes >= request->length);
        r = co_fs_read(inode, reply->bulk, request->offset, request->length, &length);
        reply->bulk_bytes = r < 0 ? 0 : length;
        return r;
    case CSV_WRITE:
        return co_fs_write(inode, request->bulk, request->offset, request->bulk_bytes, number);
    case CSV_ALLOCATE:
        return co_fs_allocate(inode, request->offset, request->length, request->flags);
    case CSV_PUNCH:
        return co_fs_punch(inode, request->offset, request->length);
    case CSV_ZERO:
        return co_fs_zero(inode, request->offset, request->length);
    case CSV_STATUS:
        return co_fs_block_status(inode, request->offset, request->length, &reply->is_data,
                                  &reply->value);
    default:
        return -EOPNOTSUPP;
    }
}

static int co_data(struct csv_volume *volume, const struct csv_request *request,
                   struct csv_reply *reply)
{
    struct csv_opened *opened = find_opened(volume, request);
    bool changes = request->op != CSV_READ && request->op != CSV_STATUS;
    int r;

    if (!opened || !opened->inode)
        return -EBADF;
    if (opened->fenced || (changes && opened->read_only))
        return -EPERM;
    opened->in_flight++;
    r = co_data_on(opened->inode, request, reply);
    opened_leave(volume, opened);
    return r;
}

/* ---- names and attributes ---- */

static int co_make(struct fs_inode *dir, const struct csv_request *request,
                   struct fs_inode **ret_inode)
{
    struct fs_new new = {
        .mode = request->attr.mode,
        .uid = request->attr.uid,
        .gid = request->attr.gid,
        .rdev = request->attr.rdev,
    };
    char target[FS_SYMLINK_MAX + 1];

    if (fs_inode_mode(dir) & S_ISGID) { /* a directory that hands its group on */
        struct fs_attr attr;
        int r = co_fs_getattr(dir, &attr);

        if (r < 0)
            return r;
        new.gid = attr.gid;
        if (request->op == CSV_MKDIR)
            new.mode |= S_ISGID;
    }
    if (request->op == CSV_CREATE)
        return co_fs_create(dir, request->name, &new, request->name_of, ret_inode);
    if (request->op == CSV_MKDIR)
        return co_fs_mkdir(dir, request->name, &new, request->name_of, ret_inode);
    assert(request->op == CSV_SYMLINK);
    memcpy(target, request->bulk, request->bulk_bytes);
    target[request->bulk_bytes] = 0;
    return co_fs_symlink(dir, request->name, target, &new, request->name_of, ret_inode);
}

/* Those that answer with an inode's attributes, which is found or made below `inode`. */
static int co_find(struct fs_inode *inode, const struct csv_request *request,
                   struct fs_inode **ret_inode)
{
    switch (request->op) {
    case CSV_LOOKUP:
        return co_fs_lookup(inode, request->name, ret_inode);
    case CSV_CREATE:
    case CSV_MKDIR:
    case CSV_SYMLINK:
        return co_make(inode, request, ret_inode);
    default:
        return -EOPNOTSUPP;
    }
}

static int co_find_and_tell(struct fs_inode *inode, const struct csv_request *request,
                            struct csv_reply *reply)
{
    cleanup(fs_inode_putp) struct fs_inode *found = NULL;
    int r;

    r = co_find(inode, request, &found);
    return r < 0 ? r : co_fs_getattr(found, &reply->attr);
}

static int co_walk(struct csv_volume *volume, const struct csv_request *request,
                   struct csv_reply *reply)
{
    cleanup(fs_inode_putp) struct fs_inode *found = NULL;
    char path[CSV_PATH_MAX + 1];
    int r;

    memcpy(path, request->bulk, request->bulk_bytes);
    path[request->bulk_bytes] = 0;
    r = co_fs_walk(volume->fs, path, &found);
    return r < 0 ? r : co_fs_getattr(found, &reply->attr);
}

struct page {
    void *bytes;
    size_t room, used;
};

static bool page_add(void *arg, const struct fs_dirent *entry)
{
    struct page *page = arg;

    return csv_entry_put(page->bytes, page->room, &page->used, entry);
}

static int co_readdir(struct fs_inode *dir, const struct csv_request *request,
                      struct csv_reply *reply)
{
    struct page page = {.bytes = reply->bulk, .room = MIN(reply->bulk_bytes, request->length)};
    int r = co_fs_readdir(dir, request->offset, page_add, &page);

    reply->bulk_bytes = r < 0 ? 0 : page.used;
    return r;
}

static int co_readlink(struct fs_inode *inode, struct csv_reply *reply)
{
    char target[FS_SYMLINK_MAX + 1];
    int r = co_fs_readlink(inode, target);

    if (r < 0)
        return r;
    reply->bulk_bytes = strlen(target);
    memcpy(reply->bulk, target, reply->bulk_bytes);
    return 0;
}

static int co_unlink(struct csv_volume *volume, struct fs_inode *dir,
                     const struct csv_request *request)
{
    int r = co_csv_check_name(volume, request->ino, request->name);

    return r < 0 ? r : co_fs_unlink(dir, request->name, request->name_of);
}

static int co_rename(struct csv_volume *volume, struct fs_inode *from, struct fs_inode *to,
                     const struct csv_request *request)
{
    int r = co_csv_check_name(volume, request->ino, request->name);

    if (r == 0)
        r = co_csv_check_name(volume, request->ino2, request->name2);
    if (r < 0)
        return r;
    return co_fs_rename(from, request->name, to, request->name2, request->flags, request->name_of);
}

static int co_two_dirs(struct csv_volume *volume, struct fs_inode *first,
                       const struct csv_request *request, struct csv_reply *reply)
{
    cleanup(fs_inode_putp) struct fs_inode *second = NULL;
    int r;

    r = co_inode_get(volume->fs, request->ino2, &second);
    if (r < 0)
        return r;
    if (request->op == CSV_RENAME)
        return co_rename(volume, first, second, request);
    r = co_fs_link(first, second, request->name, request->name_of);
    return r < 0 ? r : co_fs_getattr(first, &reply->attr);
}

static int co_clone(struct csv_volume *volume, struct fs_inode *from,
                    const struct csv_request *request, struct csv_reply *reply)
{
    cleanup(fs_inode_putp) struct fs_inode *to = NULL, *made = NULL;
    struct reshaping reshaping;
    int r = co_inode_get(volume->fs, request->ino2, &to);

    if (r < 0)
        return r;
    if (request->op == CSV_CLONE_RANGE) {
        r = reshaping_begin(volume, request->ino2, &reshaping);
        if (r < 0)
            return r;
        r = co_fs_clone_range(from, request->offset, to, request->offset2, request->length,
                              request->name_of);
        reshaping_end(&reshaping);
        return r;
    }
    r = co_fs_clone_file(from, to, request->name, request->name_of, &made);
    return r < 0 ? r : co_fs_getattr(made, &reply->attr);
}

static int co_restore(struct csv_volume *volume, const struct csv_request *request)
{
    struct reshaping reshaping;
    int r = reshaping_begin(volume, 0, &reshaping);

    if (r < 0)
        return r;
    r = co_fs_snapshot_restore(volume->fs, request->name, request->name_of);
    reshaping_end(&reshaping);
    return r;
}

static int co_snapshot(struct csv_volume *volume, struct fs_inode *inode,
                       const struct csv_request *request)
{
    switch (request->flags) {
    case CSV_SNAPSHOT_CREATE:
        return co_fs_snapshot_create(inode, request->name, request->name_of);
    case CSV_SNAPSHOT_DELETE:
        return co_fs_snapshot_delete(volume->fs, request->name, request->name_of);
    case CSV_SNAPSHOT_RESTORE:
        return co_restore(volume, request);
    default:
        return -EOPNOTSUPP;
    }
}

static int co_truncate(struct csv_volume *volume, struct fs_inode *inode,
                       const struct csv_request *request)
{
    struct reshaping reshaping;
    int r = reshaping_begin(volume, request->ino, &reshaping);

    if (r < 0)
        return r;
    r = co_fs_truncate(inode, request->length, request->name_of);
    reshaping_end(&reshaping);
    return r;
}

static int co_change(struct csv_volume *volume, struct fs_inode *inode,
                     const struct csv_request *request, struct csv_reply *reply)
{
    int r = request->op == CSV_TRUNCATE
                ? co_truncate(volume, inode, request)
                : co_fs_setattr(inode, &request->attr, request->flags, request->name_of);

    return r < 0 ? r : co_fs_getattr(inode, &reply->attr);
}

static int co_on_inode(struct csv_volume *volume, const struct csv_request *request,
                       struct csv_reply *reply)
{
    cleanup(fs_inode_putp) struct fs_inode *inode = NULL;
    int r;

    r = co_inode_get(volume->fs, request->ino, &inode);
    if (r < 0)
        return r;
    switch (request->op) {
    case CSV_GETATTR:
        return co_fs_getattr(inode, &reply->attr);
    case CSV_SETATTR:
    case CSV_TRUNCATE:
        return co_change(volume, inode, request, reply);
    case CSV_READLINK:
        return co_readlink(inode, reply);
    case CSV_LINK:
    case CSV_RENAME:
        return co_two_dirs(volume, inode, request, reply);
    case CSV_CLONE_RANGE:
    case CSV_CLONE_FILE:
        return co_clone(volume, inode, request, reply);
    case CSV_SNAPSHOT:
        return co_snapshot(volume, inode, request);
    case CSV_UNLINK:
        return co_unlink(volume, inode, request);
    case CSV_RMDIR:
        return co_fs_rmdir(inode, request->name, request->name_of);
    case CSV_READDIR:
        return co_readdir(inode, request, reply);
    case CSV_SYNC:
        return co_fs_sync(inode, request->flags & 1);
    default:
        return co_find_and_tell(inode, request, reply);
    }
}

static int co_dispatch(struct csv_volume *volume, const struct csv_request *request,
                       struct csv_reply *reply)
{
    switch (request->op) {
    case CSV_OPEN:
        return co_open(volume, request, reply);
    case CSV_CLOSE:
        return co_close(volume, request);
    case CSV_WALK:
        return co_walk(volume, request, reply);
    case CSV_STATFS:
        return co_fs_statfs(volume->fs, &reply->statfs);
    default:
        if (csv_op_has_handle(request->op))
            return co_data(volume, request, reply);
        return co_on_inode(volume, request, reply);
    }
}

/* Opens and closes tell nothing that could be old, and repeating one would count it twice. */
static bool may_answer(const struct csv *csv, const struct csv_request *request)
{
    if (request->op == CSV_OPEN || request->op == CSV_CLOSE || !csv->options.may_answer)
        return true;
    return csv->options.may_answer(csv->options.arg);
}

int co_csv_execute(struct csv_volume *volume, const struct csv_request *request,
                   struct csv_reply *reply)
{
    uint32_t room = reply->bulk_bytes;
    int r;

    assert(volume->fs);
    assert(volume->in_flight > 0);
    reply->bulk_bytes = 0;
    if (csv_reply_room(request) > 0) {
        assert(room >= csv_reply_room(request));
        reply->bulk_bytes = room;
    }
    r = co_dispatch(volume, request, reply);
    if (!may_answer(volume->csv, request) && !PLANTED(ANSWER_NO_LEASE)) {
        SOMETIMES("csv: an answer is withheld, the lease is gone");
        r = -ESTALE; /* asked again, here or elsewhere */
    }
    if (r < 0)
        reply->bulk_bytes = 0;
    return r;
}
