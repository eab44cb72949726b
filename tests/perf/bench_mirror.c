/* What the mirror itself costs: 4 KiB requests on three columns that answer at once and do nothing.
 * Prints nanoseconds of CPU per request at depth 32, the checksum included.
 *
 *   bench_mirror [requests] */
#include <stdio.h>
#include <time.h>

#include "resiliency/column_store.h"
#include "resiliency/mirror.h"
#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"

#define DEPTH 32
#define SLABS 16
#define SLAB_BLOCKS 4096

/* Everything it takes is durable at the end of the turn. */
struct null_column {
    struct column_store base;
    struct io *io;
    struct list taken;
    struct io_task task;
};

static struct null_column *null_of(struct column_store *store)
{
    return container_of(store, struct null_column, base);
}

static void null_answer(void *arg)
{
    struct null_column *null = arg;
    struct list *node;

    while ((node = list_pop_front(&null->taken))) {
        struct column_append *append = list_entry(node, struct column_append, node);

        append->store.done(&append->store, 0);
    }
}

static int null_seal(struct column_stream *stream, uint64_t epoch, uint64_t session,
                     struct store_seal *ret_seal)
{
    stream->attached = true;
    *ret_seal = (struct store_seal){.sealed_epoch = epoch, .durable.session = session};
    return 0;
}

static void null_append(struct column_stream *stream, struct column_append *append)
{
    struct null_column *null = null_of(stream->store);

    list_push_back(&null->taken, &append->node);
    io_defer(null->io, &null->task);
}

static void null_detach(struct column_stream *stream)
{
    stream->attached = false;
}

static int null_mark(struct column_store *store, uint64_t vdisk, uint64_t epoch,
                     struct log_position watermark, bool durable)
{
    (void)store, (void)vdisk, (void)epoch, (void)watermark, (void)durable;
    return 0;
}

static int null_read(struct column_store *store, uint64_t vdisk, struct extent_ref where,
                     uint32_t block, uint32_t count, uint64_t address, void *buffer,
                     uint64_t *ret_sums, struct block_set *ret_bad)
{
    (void)store, (void)vdisk, (void)where, (void)block, (void)address, (void)ret_sums;
    (void)ret_bad, (void)buffer, (void)count;
    return 0;
}

static const struct column_store_ops null_ops = {
    .co_seal = null_seal,
    .append = null_append,
    .detach = null_detach,
    .co_mark = null_mark,
    .co_read = null_read,
};

struct bench {
    struct io *io;
    struct null_column columns[3];
    struct mirror *mirror;
    struct buffer_pool *buffers;
    uint64_t requests, left;
    bool reading;
};

static struct column_store *bench_column(void *arg, uint64_t node, uint64_t disk)
{
    struct bench *bench = arg;

    (void)node;
    return &bench->columns[disk - 1].base;
}

static bool bench_lease(void *arg)
{
    (void)arg;
    return true;
}

static void bench_client(void *arg)
{
    struct bench *bench = arg;
    struct vdisk *vdisk = mirror_vdisk(bench->mirror);
    void *buffer = co_buffer_get(bench->buffers, BLOCK_SIZE);

    while (bench->left > 0) {
        uint64_t offset = io_random(bench->io) % (SLABS * SLAB_BLOCKS) * BLOCK_SIZE;
        int r;

        bench->left--;
        r = bench->reading
                ? co_vdisk_read(vdisk, buffer, offset, BLOCK_SIZE)
                : co_vdisk_write(vdisk, buffer, offset, BLOCK_SIZE, (struct client_request){0});
        assert(r == 0);
        if (bench->reading)
            co_yield ();
    }
    buffer_put(bench->buffers, buffer, BLOCK_SIZE);
}

static uint64_t cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * SEC + (uint64_t)now.tv_nsec;
}

static void co_measure(struct bench *bench, bool reading)
{
    struct co_group clients;
    uint64_t start_ns = cpu_ns();

    co_group_init(&clients);
    bench->left = bench->requests;
    bench->reading = reading;
    for (int i = 0; i < DEPTH; i++) {
        if (co_group_spawn(&clients, bench->io, "client", bench_client, bench) < 0)
            abort();
    }
    co_group_wait(&clients);
    printf("%s: %.0f ns\n", reading ? "read" : "write",
           (double)(cpu_ns() - start_ns) / (double)bench->requests);
}

static struct vdisk_config *make_config(void)
{
    struct vdisk_config *config;

    if (vdisk_config_new(SLABS, 3, SLAB_BLOCKS, &config) < 0)
        abort();
    config->vdisk = config->epoch = config->session = config->owner = 1;
    config->size_bytes = (uint64_t)SLABS * SLAB_BLOCKS * BLOCK_SIZE;
    for (uint32_t i = 0; i < SLABS * 3; i++)
        config->columns[i] = (struct column_config){.disk = 1 + i % 3,
                                                    .node = 1 + i % 3,
                                                    .where = {.extent = i / 3, .generation = 1},
                                                    .state = COLUMN_IN_SYNC};
    return config;
}

static void bench_main(void *arg)
{
    struct bench *bench = arg;
    cleanup(vdisk_config_putp) struct vdisk_config *config = make_config();
    struct mirror_options options = {.node = 1,
                                     .buffers = bench->buffers,
                                     .column = bench_column,
                                     .lease_held = bench_lease,
                                     .arg = bench};

    for (unsigned i = 0; i < 3; i++) {
        struct null_column *null = &bench->columns[i];

        null->base = (struct column_store){&null_ops, i + 1, i + 1, i == 0, true};
        null->io = bench->io;
        list_init(&null->taken);
        io_task_init(&null->task, null_answer, null);
    }
    if (mirror_new(bench->io, &options, config, &bench->mirror) < 0 ||
        co_mirror_wait_ready(bench->mirror, UINT64_MAX) < 0)
        abort();
    co_measure(bench, false);
    co_measure(bench, true);
    co_mirror_free(bench->mirror);
    io_stop(bench->io);
}

int main(int argc, char **argv)
{
    struct bench bench = {.requests = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000};

    if (io_uring_new(NULL, &bench.io) < 0 || buffer_pool_new("bench", MIB, &bench.buffers) < 0 ||
        co_spawn(bench.io, "main", bench_main, &bench) < 0)
        abort();
    io_run(bench.io);
    buffer_pool_free(bench.buffers);
    io_free(bench.io);
    return 0;
}
