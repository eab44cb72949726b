/* What a vdisk itself costs, on columns that answer at once and do nothing: nanoseconds of CPU per
 * request at depth 32, the checksum included. A three-way mirror, with requests of 4 KiB; with
 * --data K parity K+2, with requests of a whole stripe, and then a line in JSON for tools/bench:
 * what encoding does inside the write path, and what ISA-L's own call does on the same shape right
 * after, in GB of data a second.
 *
 *   bench_mirror [--data K] [requests] */
#include <getopt.h>
#include <isa-l/erasure_code.h>
#include <stdio.h>
#include <time.h>

#include "resiliency/column_store.h"
#include "resiliency/erasure.h"
#include "resiliency/mirror.h"
#include "resiliency/parity_layout.h"
#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"

#define DEPTH 32
#define MIRROR_WIDTH 3
#define SLABS 16
#define COLUMN_BLOCKS 4096
#define ROUNDS 5 /* of encoding here and there: the median of their ratios counts */

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
    struct null_column columns[VDISK_COLUMNS_MAX];
    uint32_t width, data_columns;
    size_t request_bytes;
    struct mirror *mirror;
    struct buffer_pool *buffers;
    char *received; /* what clients copy from, as from a socket */
    uint64_t requests, left;
    bool reading;
};

static uint64_t cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * SEC + (uint64_t)now.tv_nsec;
}

/* ---- encoding, as the write path calls it (the linker sends it here: --wrap) ---- */

static uint64_t encode_ns, encode_bytes;

void __real_erasure_encode(const struct erasure *erasure, size_t length, const void *const *data,
                           void *const *parity);
void __wrap_erasure_encode(const struct erasure *erasure, size_t length, const void *const *data,
                           void *const *parity);
void __wrap_erasure_encode(const struct erasure *erasure, size_t length, const void *const *data,
                           void *const *parity)
{
    uint64_t start_ns = cpu_ns();

    __real_erasure_encode(erasure, length, data, parity);
    encode_ns += cpu_ns() - start_ns;
    encode_bytes += length;
}

/* ---- columns ---- */

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

static uint64_t vdisk_bytes(const struct bench *bench)
{
    return (uint64_t)SLABS * COLUMN_BLOCKS * bench->data_columns * BLOCK_SIZE;
}

static void bench_client(void *arg)
{
    struct bench *bench = arg;
    struct vdisk *vdisk = mirror_vdisk(bench->mirror);
    size_t bytes = bench->request_bytes;
    uint64_t places = vdisk_bytes(bench) / bytes;
    char *buffer = co_buffer_get(bench->buffers, bytes);

    while (bench->left > 0) {
        uint64_t offset = io_random(bench->io) % places * bytes;
        int r;

        bench->left--;
        if (!bench->reading && bench->data_columns > 1)
            memcpy(buffer, bench->received, bytes);
        r = bench->reading
                ? co_vdisk_read(vdisk, buffer, offset, bytes)
                : co_vdisk_write(vdisk, buffer, offset, bytes, (struct client_request){0});
        assert(r == 0);
        if (bench->reading)
            co_yield ();
    }
    buffer_put(bench->buffers, buffer, bytes);
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

/* ---- ISA-L alone ---- */

/* Nanoseconds for as many stripes, on as many buffers in turn as clients have. */
static uint64_t measure_isal(const struct bench *bench, uint64_t stripes)
{
    size_t unit = PARITY_UNIT_BLOCKS * BLOCK_SIZE, stripe = bench->width * unit;
    int k = (int)bench->data_columns;
    unsigned char matrix[ERASURE_COLUMNS_MAX * ERASURE_DATA_MAX];
    unsigned char tables[32 * ERASURE_DATA_MAX * ERASURE_PARITY_MAX];
    unsigned char *memory = aligned_alloc(BLOCK_SIZE, DEPTH * stripe);
    unsigned char *columns[VDISK_COLUMNS_MAX];
    uint64_t start_ns;

    if (!memory)
        abort();
    memset(memory, 0x5a, DEPTH * stripe);
    gf_gen_cauchy1_matrix(matrix, k + PARITY_COLUMNS, k);
    ec_init_tables(k, PARITY_COLUMNS, matrix + k * k, tables);
    start_ns = cpu_ns();
    for (uint64_t i = 0; i < stripes; i++) {
        for (uint32_t j = 0; j < bench->width; j++)
            columns[j] = memory + i % DEPTH * stripe + j * unit;
        ec_encode_data((int)unit, k, PARITY_COLUMNS, tables, columns, columns + k);
    }
    start_ns = cpu_ns() - start_ns;
    free(memory);
    return start_ns;
}

static int compare_doubles(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void co_measure_encoding(struct bench *bench)
{
    double here[ROUNDS], alone[ROUNDS], share[ROUNDS];

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t stripe_bytes = bench->request_bytes;

        encode_ns = encode_bytes = 0;
        co_measure(bench, false);
        assert(encode_bytes * bench->data_columns == bench->requests * stripe_bytes);
        here[i] = (double)bench->requests * (double)stripe_bytes / (double)encode_ns;
        alone[i] = (double)bench->requests * (double)stripe_bytes /
                   (double)measure_isal(bench, bench->requests);
        share[i] = here[i] / alone[i];
    }
    qsort(here, ROUNDS, sizeof(*here), compare_doubles);
    qsort(alone, ROUNDS, sizeof(*alone), compare_doubles);
    qsort(share, ROUNDS, sizeof(*share), compare_doubles);
    printf("{\"shape\": \"%u+%d\", \"path_gb_per_s\": %.2f, \"isal_gb_per_s\": %.2f, \"share\": "
           "%.3f}\n",
           bench->data_columns, PARITY_COLUMNS, here[ROUNDS / 2], alone[ROUNDS / 2],
           share[ROUNDS / 2]);
}

/* ---- running ---- */

static struct vdisk_config *make_config(const struct bench *bench)
{
    struct vdisk_config *config;
    uint32_t width = bench->width;

    if (vdisk_config_new(SLABS, width, COLUMN_BLOCKS * bench->data_columns, &config) < 0)
        abort();
    config->data_columns = bench->data_columns;
    config->vdisk = config->epoch = config->session = config->owner = 1;
    config->size_bytes = vdisk_bytes(bench);
    for (uint32_t i = 0; i < SLABS * width; i++)
        config->columns[i] = (struct column_config){.disk = 1 + i % width,
                                                    .node = 1 + i % width,
                                                    .where = {.extent = i / width, .generation = 1},
                                                    .state = COLUMN_IN_SYNC};
    return config;
}

static void bench_main(void *arg)
{
    struct bench *bench = arg;
    cleanup(vdisk_config_putp) struct vdisk_config *config = make_config(bench);
    struct mirror_options options = {.node = 1,
                                     .buffers = bench->buffers,
                                     .column = bench_column,
                                     .lease_held = bench_lease,
                                     .arg = bench};

    for (unsigned i = 0; i < bench->width; i++) {
        struct null_column *null = &bench->columns[i];

        null->base = (struct column_store){&null_ops, i + 1, i + 1, i == 0, true};
        null->io = bench->io;
        list_init(&null->taken);
        io_task_init(&null->task, null_answer, null);
    }
    if (mirror_new(bench->io, &options, config, &bench->mirror) < 0 ||
        co_mirror_wait_ready(bench->mirror, UINT64_MAX) < 0)
        abort();
    if (bench->data_columns > 1) {
        co_measure_encoding(bench);
    } else {
        co_measure(bench, false);
        co_measure(bench, true);
    }
    co_mirror_free(bench->mirror);
    io_stop(bench->io);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"data", required_argument, NULL, 'd'}, {0}};
    struct bench bench = {.width = MIRROR_WIDTH, .data_columns = 1, .request_bytes = BLOCK_SIZE};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) == 'd') {
        bench.data_columns = (uint32_t)strtoul(optarg, NULL, 0);
        bench.width = bench.data_columns + PARITY_COLUMNS;
        bench.request_bytes = (size_t)bench.data_columns * PARITY_UNIT_BLOCKS * BLOCK_SIZE;
    }
    if (option != -1 || bench.data_columns < 1 || bench.data_columns > ERASURE_DATA_MAX) {
        fprintf(stderr, "usage: bench_mirror [--data K] [requests]\n");
        return 2;
    }
    bench.requests = bench.data_columns > 1 ? 10000 : 1000000;
    if (optind < argc)
        bench.requests = strtoull(argv[optind], NULL, 0);
    bench.received = calloc(1, bench.request_bytes);
    if (!bench.received || io_uring_new(NULL, &bench.io) < 0 ||
        buffer_pool_new("bench", 64 * MIB, &bench.buffers) < 0 ||
        co_spawn(bench.io, "main", bench_main, &bench) < 0)
        abort();
    io_run(bench.io);
    buffer_pool_free(bench.buffers);
    io_free(bench.io);
    free(bench.received);
    return 0;
}
