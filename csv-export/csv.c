/* The calls of csv.h: each becomes a struct csv_request and runs where the volume is owned
 * (csv_volume.c). */
#include "csv-export/csv_internal.h"
#include "s2d/base/log.h"

#define PAGE_BYTES CSV_SMALL_BYTES /* of directory entries */
#define POOL_BYTES (4 * MIB)

/* ---- life ---- */

static int add_metrics(struct csv *csv)
{
    struct csv_counters *counters = &csv->counters;
    const struct {
        const char *name, *help, *labels;
        const struct counter *counter;
    } table[] = {
        {"s2d_csv_requests_total", "File requests of this node, by where they ran",
         "path=\"local\"", &counters->local},
        {"s2d_csv_requests_total", "File requests of this node, by where they ran",
         "path=\"redirected\"", &counters->redirected},
        {"s2d_csv_resent_total", "File requests run again, or not yet run, for want of an owner",
         "", &counters->resent},
        {"s2d_csv_served_total", "File requests of other nodes", "", &counters->served},
        {"s2d_csv_refused_total", "File requests refused: wrong session, not attached, nonsense",
         "", &counters->refused},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        int r = metrics_add_counter(csv->options.metrics, table[i].name, table[i].help,
                                    table[i].labels, table[i].counter);

        if (r < 0)
            return r;
    }
    return 0;
}

static void csv_free(struct csv *csv)
{
    struct csv_counters *counters;

    if (!csv)
        return;
    counters = &csv->counters;
    metrics_remove(csv->options.metrics, &counters->local);
    metrics_remove(csv->options.metrics, &counters->redirected);
    metrics_remove(csv->options.metrics, &counters->resent);
    metrics_remove(csv->options.metrics, &counters->served);
    metrics_remove(csv->options.metrics, &counters->refused);
    buffer_pool_free(csv->pool);
    free(csv);
}
DEFINE_CLEANUP(struct csv, csv_free)

int csv_new(struct io *io, const struct csv_options *options, struct csv **ret_csv)
{
    cleanup(csv_freep) struct csv *csv = calloc(1, sizeof(*csv));
    int r;

    if (!csv)
        return -ENOMEM;
    csv->io = io;
    csv->options = *options;
    list_init(&csv->volumes);
    co_group_init(&csv->work);
    r = buffer_pool_new("csv", POOL_BYTES, &csv->pool);
    if (r < 0)
        return r;
    r = add_metrics(csv);
    if (r < 0)
        return r;
    csv_serve_start(csv);

    *ret_csv = take_ptr(csv);
    return 0;
}

void csv_stop(struct csv *csv)
{
    csv->stopped = true;
    list_for_each (node, &csv->volumes) {
        struct csv_volume *volume = list_entry(node, struct csv_volume, node);

        csv_cancel_calls(volume);
        co_cond_broadcast(&volume->changed);
    }
}

void co_csv_close(struct csv *csv)
{
    if (!csv)
        return;
    csv_stop(csv);
    csv_serve_stop(csv);
    co_group_wait(&csv->work);
    while (!list_empty(&csv->volumes))
        co_csv_remove_volume(csv, list_first(&csv->volumes, struct csv_volume, node)->id);
    csv_free(csv);
}

void co_csv_forget_client(struct csv *csv, uint64_t node)
{
    struct csv_volume *volume = csv_volume_next(csv, NULL);

    while (volume) {
        struct csv_volume *next;

        if (csv_volume_is_local(volume)) {
            csv_volume_enter(volume);
            co_csv_close_opens(volume, node, UINT64_MAX);
            csv_volume_leave(volume);
        }
        next = csv_volume_next(csv, volume->name);
        csv_volume_put(volume);
        volume = next;
    }
}

/* ---- names and attributes ---- */

/* Runs a request that answers with attributes. */
static int co_run_attr(struct csv_volume *volume, struct csv_request *request,
                       struct fs_attr *ret_attr)
{
    struct csv_reply reply = {0};
    int r = co_csv_run(volume, request, &reply);

    if (r == 0)
        *ret_attr = reply.attr;
    return r;
}

static int co_run_plain(struct csv_volume *volume, struct csv_request *request)
{
    struct csv_reply reply = {0};

    return co_csv_run(volume, request, &reply);
}

/* The file system would say so too, but the request must be one that can be sent. */
static int check_name(const char *name)
{
    if (name[0] == 0)
        return -EINVAL;
    return strlen(name) > FS_NAME_MAX ? -ENAMETOOLONG : 0;
}

int co_csv_lookup(struct csv_volume *volume, uint64_t dir, const char *name,
                  struct fs_attr *ret_attr)
{
    struct csv_request request = {.op = CSV_LOOKUP, .ino = dir, .name = name};
    int r = check_name(name);

    return r < 0 ? r : co_run_attr(volume, &request, ret_attr);
}

int co_csv_walk(struct csv_volume *volume, const char *path, struct fs_attr *ret_attr)
{
    struct csv_request request = {.op = CSV_WALK, .bulk = path, .bulk_bytes = strlen(path)};

    return request.bulk_bytes > CSV_PATH_MAX ? -ENAMETOOLONG
                                             : co_run_attr(volume, &request, ret_attr);
}

int co_csv_getattr(struct csv_volume *volume, uint64_t ino, struct fs_attr *ret_attr)
{
    struct csv_request request = {.op = CSV_GETATTR, .ino = ino};

    return co_run_attr(volume, &request, ret_attr);
}

int co_csv_setattr(struct csv_volume *volume, uint64_t ino, const struct fs_attr *attr,
                   unsigned set, struct fs_attr *ret_attr)
{
    struct csv_request request = {.op = CSV_SETATTR, .ino = ino, .attr = *attr, .flags = set};

    return co_run_attr(volume, &request, ret_attr);
}

int co_csv_truncate(struct csv_volume *volume, uint64_t ino, uint64_t size,
                    struct fs_attr *ret_attr)
{
    struct csv_request request = {.op = CSV_TRUNCATE, .ino = ino, .length = size};

    return co_run_attr(volume, &request, ret_attr);
}

static int co_make(struct csv_volume *volume, enum csv_op op, uint64_t dir, const char *name,
                   const char *target, const struct fs_new *new, struct fs_attr *ret_attr)
{
    struct csv_request request = {
        .op = op,
        .ino = dir,
        .name = name,
        .attr = {.mode = new->mode, .uid = new->uid, .gid = new->gid, .rdev = new->rdev},
        .bulk = target,
        .bulk_bytes = target ? strlen(target) : 0,
    };
    int r = check_name(name);

    if (r == 0 && request.bulk_bytes > FS_SYMLINK_MAX)
        r = -ENAMETOOLONG;
    return r < 0 ? r : co_run_attr(volume, &request, ret_attr);
}

int co_csv_create(struct csv_volume *volume, uint64_t dir, const char *name,
                  const struct fs_new *new, struct fs_attr *ret_attr)
{
    return co_make(volume, CSV_CREATE, dir, name, NULL, new, ret_attr);
}

int co_csv_mkdir(struct csv_volume *volume, uint64_t dir, const char *name,
                 const struct fs_new *new, struct fs_attr *ret_attr)
{
    return co_make(volume, CSV_MKDIR, dir, name, NULL, new, ret_attr);
}

int co_csv_symlink(struct csv_volume *volume, uint64_t dir, const char *name, const char *target,
                   const struct fs_new *new, struct fs_attr *ret_attr)
{
    return co_make(volume, CSV_SYMLINK, dir, name, target, new, ret_attr);
}

int co_csv_readlink(struct csv_volume *volume, uint64_t ino, char ret_target[FS_SYMLINK_MAX + 1])
{
    struct buffer_pool *pool = volume->csv->pool;
    struct csv_request request = {.op = CSV_READLINK, .ino = ino};
    struct csv_reply reply = {.bulk_bytes = FS_SYMLINK_MAX + 1};
    int r;

    reply.bulk = co_buffer_get(pool, FS_SYMLINK_MAX + 1);
    r = co_csv_run(volume, &request, &reply);
    if (r == 0) {
        assert(reply.bulk_bytes <= FS_SYMLINK_MAX);
        memcpy(ret_target, reply.bulk, reply.bulk_bytes);
        ret_target[reply.bulk_bytes] = 0;
    }
    buffer_put(pool, reply.bulk, FS_SYMLINK_MAX + 1);
    return r;
}

int co_csv_link(struct csv_volume *volume, uint64_t ino, uint64_t dir, const char *name,
                struct fs_attr *ret_attr)
{
    struct csv_request request = {.op = CSV_LINK, .ino = ino, .ino2 = dir, .name = name};
    int r = check_name(name);

    return r < 0 ? r : co_run_attr(volume, &request, ret_attr);
}

int co_csv_clone_range(struct csv_volume *volume, uint64_t from_ino, uint64_t from_offset,
                       uint64_t to_ino, uint64_t to_offset, uint64_t length)
{
    struct csv_request request = {.op = CSV_CLONE_RANGE,
                                  .ino = from_ino,
                                  .offset = from_offset,
                                  .ino2 = to_ino,
                                  .offset2 = to_offset,
                                  .length = length};

    if (MAX(length, MAX(from_offset, to_offset)) > FS_FILE_SIZE_MAX)
        return -EFBIG;
    return co_run_plain(volume, &request);
}

int co_csv_clone_file(struct csv_volume *volume, uint64_t ino, uint64_t dir, const char *name,
                      struct fs_attr *ret_attr)
{
    struct csv_request request = {.op = CSV_CLONE_FILE, .ino = ino, .ino2 = dir, .name = name};
    int r = check_name(name);

    return r < 0 ? r : co_run_attr(volume, &request, ret_attr);
}

int co_csv_snapshot(struct csv_volume *volume, enum csv_snapshot_verb verb, uint64_t ino,
                    const char *name)
{
    struct csv_request request = {.op = CSV_SNAPSHOT, .ino = ino, .name = name, .flags = verb};
    int r = check_name(name);

    return r < 0 ? r : co_run_plain(volume, &request);
}

int co_csv_unlink(struct csv_volume *volume, uint64_t dir, const char *name)
{
    struct csv_request request = {.op = CSV_UNLINK, .ino = dir, .name = name};
    int r = check_name(name);

    return r < 0 ? r : co_run_plain(volume, &request);
}

int co_csv_rmdir(struct csv_volume *volume, uint64_t dir, const char *name)
{
    struct csv_request request = {.op = CSV_RMDIR, .ino = dir, .name = name};
    int r = check_name(name);

    return r < 0 ? r : co_run_plain(volume, &request);
}

int co_csv_rename(struct csv_volume *volume, uint64_t from_dir, const char *from, uint64_t to_dir,
                  const char *to, unsigned flags)
{
    struct csv_request request = {.op = CSV_RENAME,
                                  .ino = from_dir,
                                  .name = from,
                                  .ino2 = to_dir,
                                  .name2 = to,
                                  .flags = flags};
    int r = check_name(from);

    if (r == 0)
        r = check_name(to);
    return r < 0 ? r : co_run_plain(volume, &request);
}

int co_csv_readdir(struct csv_volume *volume, uint64_t dir, uint64_t cookie,
                   bool (*emit)(void *arg, const struct fs_dirent *entry), void *arg, bool *ret_end)
{
    struct buffer_pool *pool = volume->csv->pool;
    struct csv_request request = {
        .op = CSV_READDIR, .ino = dir, .offset = cookie, .length = PAGE_BYTES};
    struct csv_reply reply = {.bulk_bytes = PAGE_BYTES};
    char name[FS_NAME_MAX + 1];
    struct fs_dirent entry;
    size_t used = 0;
    int r;

    reply.bulk = co_buffer_get(pool, PAGE_BYTES);
    r = co_csv_run(volume, &request, &reply);
    *ret_end = r == 0 && reply.bulk_bytes == 0;
    while (r == 0) {
        r = csv_entry_get(reply.bulk, reply.bulk_bytes, &used, name, &entry);
        if (r <= 0)
            break;
        r = emit(arg, &entry) ? 0 : 1;
    }
    buffer_put(pool, reply.bulk, PAGE_BYTES);
    return MIN(r, 0);
}

int co_csv_statfs(struct csv_volume *volume, struct fs_statfs *ret_statfs)
{
    struct csv_request request = {.op = CSV_STATFS};
    struct csv_reply reply = {0};
    int r = co_csv_run(volume, &request, &reply);

    if (r == 0)
        *ret_statfs = reply.statfs;
    return r;
}

int co_csv_sync(struct csv_volume *volume, uint64_t ino, bool data_only)
{
    struct csv_request request = {.op = CSV_SYNC, .ino = ino, .flags = data_only};

    return co_run_plain(volume, &request);
}

/* ---- open files ---- */

static void file_free(struct csv_file *file)
{
    csv_volume_put(file->volume);
    free(file->path);
    free(file);
}

static int co_file_assert(struct csv_file *file, struct fs_attr *ret_attr)
{
    struct csv_request request = {
        .op = CSV_OPEN,
        .ino = file->ino,
        .handle = file->handle,
        .flags = file->flags,
        .incarnation = file->incarnation,
        .bulk = file->path,
        .bulk_bytes = file->path ? strlen(file->path) : 0,
    };

    return co_run_attr(file->volume, &request, ret_attr);
}

static int file_new(struct csv_volume *volume, const struct csv_open *open,
                    struct csv_file **ret_file)
{
    struct csv_file *file = calloc(1, sizeof(*file));

    if (!file)
        return -ENOMEM;
    if (open->path) {
        file->path = strdup(open->path);
        if (!file->path) {
            free(file);
            return -ENOMEM;
        }
    }
    volume->references++;
    file->volume = volume;
    file->handle = ++volume->csv->next_handle;
    file->ino = open->ino;
    file->incarnation = open->incarnation;
    file->flags = open->read_only ? CSV_OPEN_READ_ONLY : 0;
    co_group_init(&file->opening);
    list_push_back(&volume->files, &file->node); /* in the order of their handles */
    *ret_file = file;
    return 0;
}

int co_csv_open(struct csv_volume *volume, const struct csv_open *open, struct fs_attr *ret_attr,
                struct csv_file **ret_file)
{
    struct csv_file *file;
    int r;

    if (open->path && strlen(open->path) > CSV_PATH_MAX)
        return -ENAMETOOLONG;
    r = file_new(volume, open, &file);
    if (r < 0)
        return r;
    r = co_file_assert(file, ret_attr);
    if (r < 0) {
        csv_file_close(file); /* the owner may have opened it all the same */
        return r;
    }
    *ret_file = file;
    return 0;
}

/* Tells the owner, however long that takes, unless there is nothing to tell any more. */
static void close_main(void *arg)
{
    struct csv_file *file = arg;
    struct csv *csv = file->volume->csv;
    struct csv_request request = {.op = CSV_CLOSE, .handle = file->handle};

    co_group_wait(&file->opening);
    (void)!co_run_plain(file->volume, &request);
    file_free(file);
    co_group_done(&csv->work);
}

void csv_file_close(struct csv_file *file)
{
    struct csv *csv;

    if (!file)
        return;
    csv = file->volume->csv;
    list_remove(&file->node);
    if (co_spawn(csv->io, "csv close", close_main, file) == 0)
        co_group_add(&csv->work, 1);
    else
        log_error(csv->io, "csv", "no memory to close a file: it stays open at the owner",
                  "volume=%s", file->volume->name);
}

/* Runs a request on an open file; a new owner that does not know it is told. */
static int co_run_on_file(struct csv_file *file, struct csv_request *request,
                          struct csv_reply *reply)
{
    uint32_t room = reply->bulk_bytes;
    struct fs_attr attr;
    int r;

    request->handle = file->handle;
    request->ino = file->ino;
    for (;;) {
        r = co_csv_run(file->volume, request, reply);
        if (r != -EBADF)
            return r;
        r = co_file_assert(file, &attr);
        if (r < 0)
            return r;
        reply->bulk_bytes = room;
    }
}

/* Opens every file at the present owner, before it lets go of files without a name. One after the
 * other: whoever is in a hurry asserts its own file by using it. */
static struct csv_file *next_file(struct csv_volume *volume, uint64_t last_handle)
{
    list_for_each (node, &volume->files) {
        struct csv_file *file = list_entry(node, struct csv_file, node);

        if (file->handle > last_handle)
            return file;
    }
    return NULL;
}

static void assert_main(void *arg)
{
    struct csv_volume *volume = arg;
    struct csv *csv = volume->csv;
    struct csv_file *file;
    uint64_t last = 0;

    while (!csv->stopped && !volume->removed) {
        struct fs_attr attr;
        int r;

        if (volume->assert_again) { /* it moved once more */
            volume->assert_again = false;
            last = 0;
        }
        file = next_file(volume, last);
        if (!file)
            break;
        last = file->handle;
        co_group_add(&file->opening, 1);
        r = co_file_assert(file, &attr);
        co_group_done(&file->opening);
        if (r < 0 && r != -ESHUTDOWN && r != -ENODEV)
            log_warn(csv->io, "csv", "an open file was refused by the volume's new owner",
                     "volume=%s inode=%llu error=%d", volume->name, (unsigned long long)file->ino,
                     r);
    }
    volume->asserting = false;
    csv_volume_put(volume);
    co_group_done(&csv->work);
}

void csv_assert_files(struct csv_volume *volume)
{
    struct csv *csv = volume->csv;

    if (volume->asserting) {
        volume->assert_again = true;
        return;
    }
    if (list_empty(&volume->files))
        return;
    if (co_spawn(csv->io, "csv assert", assert_main, volume) < 0)
        return; /* they are asserted when they are used */
    volume->asserting = true;
    volume->assert_again = false;
    volume->references++;
    co_group_add(&csv->work, 1);
}

/* ---- data ---- */

/* The file system would say so too, but the request must be one that can be sent. */
static int check_range(uint64_t offset, uint64_t length)
{
    return length > FS_FILE_SIZE_MAX || offset > FS_FILE_SIZE_MAX - length ? -EFBIG : 0;
}

int co_csv_read(struct csv_file *file, void *buffer, uint64_t offset, uint64_t length,
                uint64_t *ret_length)
{
    uint64_t done = 0;

    if (check_range(offset, length) < 0)
        return -EFBIG;
    while (done < length) {
        uint32_t piece = MIN(length - done, CSV_DATA_MAX);
        struct csv_request request = {.op = CSV_READ, .offset = offset + done, .length = piece};
        struct csv_reply reply = {.bulk = (char *)buffer + done, .bulk_bytes = piece};
        int r = co_run_on_file(file, &request, &reply);

        if (r < 0)
            return r;
        done += reply.bulk_bytes;
        if (reply.bulk_bytes < piece)
            break;
    }
    *ret_length = done;
    return 0;
}

int co_csv_write(struct csv_file *file, const void *buffer, uint64_t offset, uint64_t length)
{
    uint64_t done = 0;

    if (check_range(offset, length) < 0)
        return -EFBIG;
    while (done < length) {
        struct csv_request request = {
            .op = CSV_WRITE,
            .offset = offset + done,
            .bulk = (const char *)buffer + done,
            .bulk_bytes = MIN(length - done, CSV_DATA_MAX),
        };
        struct csv_reply reply = {0};
        int r = co_run_on_file(file, &request, &reply);

        if (r < 0)
            return r;
        done += request.bulk_bytes;
    }
    return 0;
}

static int co_change(struct csv_file *file, enum csv_op op, uint64_t offset, uint64_t length,
                     unsigned flags)
{
    struct csv_request request = {.op = op, .offset = offset, .length = length, .flags = flags};
    struct csv_reply reply = {0};

    if (check_range(offset, length) < 0)
        return -EFBIG;
    return co_run_on_file(file, &request, &reply);
}

int co_csv_allocate(struct csv_file *file, uint64_t offset, uint64_t length, unsigned flags)
{
    return co_change(file, CSV_ALLOCATE, offset, length, flags);
}

int co_csv_punch(struct csv_file *file, uint64_t offset, uint64_t length)
{
    return co_change(file, CSV_PUNCH, offset, length, 0);
}

int co_csv_zero(struct csv_file *file, uint64_t offset, uint64_t length)
{
    return co_change(file, CSV_ZERO, offset, length, 0);
}

int co_csv_block_status(struct csv_file *file, uint64_t offset, uint64_t length, bool *ret_data,
                        uint64_t *ret_length)
{
    struct csv_request request = {
        .op = CSV_STATUS, .offset = offset, .length = MIN(length, FS_FILE_SIZE_MAX)};
    struct csv_reply reply = {0};
    int r = co_run_on_file(file, &request, &reply);

    if (r < 0)
        return r;
    *ret_data = reply.is_data;
    *ret_length = reply.value;
    return 0;
}
