#include "resiliency/column_local.h"

#include "pool/disk.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"

struct column_local {
    struct column_store base;
    struct io *io;
    struct store *store;   /* NULL: away */
    struct co_group calls; /* that are in the store */
    struct list refused;   /* appends that came while it was away, to be told at the turn's end */
    struct io_task refuse_task;
};

static struct column_local *local_of(struct column_store *column)
{
    return container_of(column, struct column_local, base);
}

/* Runs a call of the store, which stays until it has returned. -ENODEV: it is away. */
#define CALL(column, call)                                                                         \
    ({                                                                                             \
        struct column_local *local = local_of(column);                                             \
        struct store *store = local->store;                                                        \
        int result = -ENODEV;                                                                      \
                                                                                                   \
        if (store) {                                                                               \
            co_group_add(&local->calls, 1);                                                        \
            result = call;                                                                         \
            co_group_done(&local->calls);                                                          \
        }                                                                                          \
        result;                                                                                    \
    })

static int local_seal(struct column_stream *stream, uint64_t epoch, uint64_t session,
                      struct store_seal *ret_seal)
{
    int r = CALL(stream->store, co_store_seal(store, stream->vdisk, epoch, session, ret_seal));

    stream->attached = r == 0;
    stream->handle = session;
    return r;
}

static void local_append(struct column_stream *stream, struct column_append *append)
{
    struct column_local *local = local_of(stream->store);

    append->stream = stream;
    if (local->store) {
        store_append(local->store, &append->store);
        return;
    }
    list_push_back(&local->refused, &append->store.item.node);
    io_defer(local->io, &local->refuse_task);
}

static void refuse_appends(void *arg)
{
    struct column_local *local = arg;
    struct list *node;

    while ((node = list_pop_front(&local->refused))) {
        struct store_append *append = list_entry(node, struct store_append, item.node);

        append->done(append, -ENODEV);
    }
}

/* What is on its way to the device ends there, for that reads its memory; the next seal waits for
 * it. What waits for room might do so until another owner comes. */
static void local_detach(struct column_stream *stream)
{
    struct store *store = local_of(stream->store)->store;

    if (stream->attached && store)
        store_let_go(store, stream->vdisk, stream->handle);
    stream->attached = false;
}

static int local_mark(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                      struct log_position watermark, bool durable)
{
    return CALL(column, co_store_mark(store, vdisk, epoch, watermark, durable));
}

static int local_read(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                      uint32_t block, uint32_t count, uint64_t address, void *buffer,
                      uint64_t *ret_sums, struct block_set *ret_bad)
{
    return CALL(column, co_store_read(store, vdisk, where, block, count, address, buffer, ret_sums,
                                      ret_bad));
}

static int local_read_at(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                         uint32_t block, uint32_t count, uint64_t address, struct log_position at,
                         void *buffer, uint64_t *ret_sums, struct block_set *ret_bad)
{
    return CALL(column, co_store_read_at(store, vdisk, where, block, count, address, at, buffer,
                                         ret_sums, ret_bad));
}

static int local_checksums(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                           uint32_t block, uint32_t count, uint64_t *ret_sums,
                           uint64_t *ret_unknown)
{
    return CALL(column,
                co_store_checksums(store, vdisk, where, block, count, ret_sums, ret_unknown));
}

static int local_drop_tail(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                           const struct extent_ref *columns, size_t count)
{
    return CALL(column, co_store_drop_tail(store, vdisk, epoch, columns, count));
}

static int local_compare_set(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                             uint64_t since_epoch, uint32_t extent_blocks, uint64_t *bitmap)
{
    (void)extent_blocks;
    return CALL(column, co_store_compare_set(store, vdisk, where, since_epoch, bitmap));
}

static int local_clear_compare(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                               const struct extent_ref *columns, size_t count)
{
    return CALL(column, co_store_clear_compare(store, vdisk, epoch, columns, count));
}

static const struct column_store_ops local_ops = {
    .co_seal = local_seal,
    .append = local_append,
    .detach = local_detach,
    .co_mark = local_mark,
    .co_read = local_read,
    .co_read_at = local_read_at,
    .co_checksums = local_checksums,
    .co_drop_tail = local_drop_tail,
    .co_compare_set = local_compare_set,
    .co_clear_compare = local_clear_compare,
};

int column_local_new(struct store *store, uint64_t node, uint64_t disk,
                     struct column_store **ret_column)
{
    struct column_local *local = calloc(1, sizeof(*local));

    if (!local)
        return -ENOMEM;
    local->base = (struct column_store){
        .ops = &local_ops, .node = node, .disk = disk, .is_local = true, .reachable = true};
    local->io = disk_io(store_disk(store));
    local->store = store;
    co_group_init(&local->calls);
    list_init(&local->refused);
    io_task_init(&local->refuse_task, refuse_appends, local);
    *ret_column = &local->base;
    return 0;
}

void co_column_local_leave(struct column_store *column)
{
    struct column_local *local = local_of(column);

    column->reachable = false;
    local->store = NULL;
    co_group_wait(&local->calls);
}

void column_local_return(struct column_store *column, struct store *store)
{
    assert(!local_of(column)->store);
    local_of(column)->store = store;
    column->reachable = true;
}

void column_local_free(struct column_store *column)
{
    if (!column)
        return;
    io_task_cancel(&local_of(column)->refuse_task);
    refuse_appends(local_of(column));
    free(local_of(column));
}
