#include "resiliency/column_local.h"

struct column_local {
    struct column_store base;
    struct store *store;
};

static struct store *store_of(struct column_store *column)
{
    return container_of(column, struct column_local, base)->store;
}

static int local_seal(struct column_stream *stream, uint64_t epoch, uint64_t session,
                      struct store_seal *ret_seal)
{
    int r = co_store_seal(store_of(stream->store), stream->vdisk, epoch, session, ret_seal);

    stream->attached = r == 0;
    return r;
}

static void local_append(struct column_stream *stream, struct column_append *append)
{
    append->stream = stream;
    store_append(store_of(stream->store), &append->store);
}

/* What the store took it finishes: the device reads its memory. The next seal waits for it. */
static void local_detach(struct column_stream *stream)
{
    stream->attached = false;
}

static int local_mark(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                      struct log_position watermark, bool durable)
{
    return co_store_mark(store_of(column), vdisk, epoch, watermark, durable);
}

static int local_read(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                      uint32_t block, uint32_t count, uint64_t address, void *buffer,
                      uint64_t *ret_sums, struct block_set *ret_bad)
{
    return co_store_read(store_of(column), vdisk, where, block, count, address, buffer, ret_sums,
                         ret_bad);
}

static int local_read_at(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                         uint32_t block, uint32_t count, uint64_t address, struct log_position at,
                         void *buffer, uint64_t *ret_sums, struct block_set *ret_bad)
{
    return co_store_read_at(store_of(column), vdisk, where, block, count, address, at, buffer,
                            ret_sums, ret_bad);
}

static int local_checksums(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                           uint32_t block, uint32_t count, uint64_t *ret_sums,
                           uint64_t *ret_unknown)
{
    return co_store_checksums(store_of(column), vdisk, where, block, count, ret_sums, ret_unknown);
}

static int local_drop_tail(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                           const struct extent_ref *columns, size_t count)
{
    return co_store_drop_tail(store_of(column), vdisk, epoch, columns, count);
}

static int local_compare_set(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                             uint64_t since_epoch, uint32_t extent_blocks, uint64_t *bitmap)
{
    (void)extent_blocks;
    return co_store_compare_set(store_of(column), vdisk, where, since_epoch, bitmap);
}

static int local_clear_compare(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                               const struct extent_ref *columns, size_t count)
{
    return co_store_clear_compare(store_of(column), vdisk, epoch, columns, count);
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
    local->store = store;
    *ret_column = &local->base;
    return 0;
}

void column_local_free(struct column_store *column)
{
    if (column)
        free(container_of(column, struct column_local, base));
}
