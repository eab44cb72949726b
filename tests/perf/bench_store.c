/* bench_store: what one store costs. Random 4 KiB records at depth 1 and 32 on a file disk whose
 * blocks were all written before, over three laps of the log, so that destage is in the figures;
 * then random reads.
 *
 *   bench_store [--path FILE] [--size BYTES] [--laps N] [--depth N] [--seconds-read N] [--keep]
 *               [--span BYTES] [--hdd] [--cache FILE [--cache-size BYTES] [--log BYTES]]
 *
 * --span: only the first BYTES of the disk are written and read. --hdd: it is as slow as a hard
 * disk. --cache: the log lies on this file, and with --hdd a read cache. --raw: no store at all,
 * only random writes of the disk itself, for --seconds-read; prints one line of JSON.
 *
 * Prints records a second, latency percentiles, and CPU per record: of this process, kernel work on
 * its behalf included. */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cache-tier/read_cache.h"
#include "cache-tier/store.h"
#include "pool/disk.h"
#include "s2d/base/checksum.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/metrics.h"

#define VDISK 1
#define EXTENT_BYTES (16 * MIB)
#define DEPTH_MAX 256

struct bench {
    struct io *io;
    const char *path;
    uint64_t size_bytes;
    unsigned laps, depth;
    uint64_t read_seconds;
    uint64_t span_bytes; /* 0: all */
    bool keep, hdd, raw;
    const char *cache_path; /* NULL: the log is on the disk */
    uint64_t cache_bytes, log_bytes;

    struct disk *disk, *cache;
    struct store *store;
    struct disk_geometry geometry;
    uint64_t random;
};

struct slot {
    struct store_append append;
    struct phase *phase;
    uint8_t *data;
    uint64_t sum, started_ns;
};

struct phase {
    struct bench *bench;
    uint64_t epoch, seq, done_seq;
    uint64_t target, submitted, finished;
    struct co *waiter;
    struct histogram latency;
    struct slot slots[DEPTH_MAX];
};

static uint64_t next_random(struct bench *bench)
{
    bench->random ^= bench->random << 13;
    bench->random ^= bench->random >> 7;
    bench->random ^= bench->random << 17;
    return bench->random;
}

static uint64_t random_place(struct bench *bench)
{
    uint64_t blocks = (uint64_t)bench->geometry.extent_count * bench->geometry.extent_blocks;

    if (bench->span_bytes > 0)
        blocks = MIN(blocks, bench->span_bytes / BLOCK_SIZE);
    return next_random(bench) % blocks;
}

struct cpu {
    double user, system, wall;
};

static struct cpu cpu_now(struct io *io)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (struct cpu){
        .user = usage.ru_utime.tv_sec + usage.ru_utime.tv_usec / 1e6,
        .system = usage.ru_stime.tv_sec + usage.ru_stime.tv_usec / 1e6,
        .wall = io_clock_ns(io) / 1e9,
    };
}

static void report(struct bench *bench, const char *what, uint64_t count,
                   const struct histogram *latency, struct cpu from)
{
    struct cpu now = cpu_now(bench->io);
    double wall = now.wall - from.wall;

    printf(
        "%-16s %9.0f/s  p50 %6.1f p99 %7.1f max %8.1f us  cpu %5.2f us (user %.2f system %.2f)\n",
        what, count / wall, histogram_percentile(latency, 0.5) / 1e3,
        histogram_percentile(latency, 0.99) / 1e3, latency->max / 1e3,
        (now.user - from.user + now.system - from.system) * 1e6 / count,
        (now.user - from.user) * 1e6 / count, (now.system - from.system) * 1e6 / count);
    fflush(stdout);
}

/* ---- writing ---- */

static void submit(struct slot *slot)
{
    struct phase *phase = slot->phase;
    struct bench *bench = phase->bench;
    struct record *record = &slot->append.record;
    uint64_t place = random_place(bench);

    *record = (struct record){
        .vdisk = VDISK,
        .where = {place / bench->geometry.extent_blocks, 1},
        .kind = RECORD_WRITE,
        .flags = RECORD_VERIFIED,
        .block = place % bench->geometry.extent_blocks,
        .count = 1,
        .address = place,
        .epoch = phase->epoch,
        .position = {phase->epoch, phase->seq + 1},
        .prev_seq = phase->seq,
        .watermark = {phase->epoch, phase->done_seq},
    };
    memcpy(slot->data, &record->position.seq, sizeof(record->position.seq));
    slot->sum = checksum_block(slot->data, VDISK, place);
    phase->seq++;
    phase->submitted++;
    slot->append.sums = &slot->sum;
    slot->append.data = slot->data;
    slot->started_ns = io_clock_ns(bench->io);
    store_append(bench->store, &slot->append);
}

static void written(struct store_append *append, int result)
{
    struct slot *slot = container_of(append, struct slot, append);
    struct phase *phase = slot->phase;

    if (result < 0) {
        fprintf(stderr, "bench_store: append failed: %s\n", strerror(-result));
        exit(1);
    }
    phase->done_seq = append->record.position.seq;
    histogram_add(&phase->latency, io_clock_ns(phase->bench->io) - slot->started_ns);
    if (phase->submitted < phase->target)
        submit(slot);
    if (++phase->finished == phase->target)
        co_wake(phase->waiter);
}

static int co_write_phase(struct bench *bench, unsigned depth, uint64_t epoch, uint64_t records,
                          const char *what)
{
    struct phase *phase = calloc(1, sizeof(*phase));
    struct cpu from = cpu_now(bench->io);
    struct store_seal seal;
    uint64_t checkpoints = store_stats(bench->store).checkpoints;
    uint64_t destaged = store_stats(bench->store).destaged_blocks;
    uint64_t writes = store_stats(bench->store).log_writes;
    int r;

    phase->bench = bench;
    phase->epoch = epoch;
    phase->target = records;
    phase->waiter = co_self();
    r = co_store_seal(bench->store, VDISK, epoch, epoch, &seal);
    if (r < 0)
        return r;
    store_seal_done(&seal);
    for (unsigned i = 0; i < depth; i++) {
        struct slot *slot = &phase->slots[i];

        slot->phase = phase;
        slot->append.done = written;
        slot->data = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
        memset(slot->data, 0x5a, BLOCK_SIZE);
        submit(slot);
    }
    co_wait();
    report(bench, what, records, &phase->latency, from);
    printf(
        "                 %.1f records a batch, %llu checkpoints, %.2f blocks destaged a record\n",
        (double)records / (store_stats(bench->store).log_writes - writes),
        (unsigned long long)(store_stats(bench->store).checkpoints - checkpoints),
        (double)(store_stats(bench->store).destaged_blocks - destaged) / records);
    for (unsigned i = 0; i < depth; i++)
        free(phase->slots[i].data);
    free(phase);
    return 0;
}

/* ---- reading ---- */

struct reader {
    struct bench *bench;
    struct co_group *group;
    uint64_t until_ns, count;
    struct histogram *latency;
};

static void read_main(void *arg)
{
    struct reader *reader = arg;
    struct bench *bench = reader->bench;
    uint8_t *data = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);

    while (io_clock_ns(bench->io) < reader->until_ns) {
        uint64_t place = random_place(bench);
        struct extent_ref where = {place / bench->geometry.extent_blocks, 1};
        uint64_t started_ns = io_clock_ns(bench->io);
        int r = co_store_read(bench->store, VDISK, where, place % bench->geometry.extent_blocks, 1,
                              place, data, NULL, NULL);

        if (r < 0) {
            fprintf(stderr, "bench_store: read failed: %s\n", strerror(-r));
            exit(1);
        }
        histogram_add(reader->latency, io_clock_ns(bench->io) - started_ns);
        reader->count++;
    }
    free(data);
}

static int co_read_phase(struct bench *bench, unsigned depth, const char *what)
{
    struct reader readers[DEPTH_MAX];
    struct histogram *latency = calloc(1, sizeof(*latency));
    struct co_group group;
    struct cpu from = cpu_now(bench->io);
    uint64_t count = 0;

    co_group_init(&group);
    for (unsigned i = 0; i < depth; i++) {
        readers[i] = (struct reader){.bench = bench,
                                     .until_ns = io_clock_ns(bench->io) + bench->read_seconds * SEC,
                                     .latency = latency};
        if (co_group_spawn(&group, bench->io, "reader", read_main, &readers[i]) < 0)
            return -ENOMEM;
    }
    co_group_wait(&group);
    for (unsigned i = 0; i < depth; i++)
        count += readers[i].count;
    report(bench, what, count, latency, from);
    free(latency);
    return 0;
}

/* ---- the disk ---- */

/* Every block of the file is written once: sparse or unwritten ones would be measured instead. */
static int make_file(const char *path, uint64_t size_bytes)
{
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    uint8_t *zeros = aligned_alloc(BLOCK_SIZE, MIB);

    if (fd < 0)
        return -errno;
    memset(zeros, 0, MIB);
    for (uint64_t at = 0; at < size_bytes; at += MIB)
        if (pwrite(fd, zeros, MIB, at) != (ssize_t)MIB)
            return -EIO;
    fsync(fd);
    close(fd);
    free(zeros);
    return 0;
}

static int co_prepare_cache(struct bench *bench, struct disk_claim *claim,
                            struct disk_message *message)
{
    int r;

    claim->role = DISK_CACHE;
    claim->disk_id = 2;
    claim->log_bytes = bench->log_bytes;
    r = co_disk_claim(bench->io, bench->cache_path, claim, message);
    claim->disk_id = 1;
    return r < 0 ? r : co_disk_open(bench->io, bench->cache_path, NULL, message, &bench->cache);
}

static int co_bind(struct bench *bench)
{
    struct disk_log log;
    int r = co_disk_cache_reserve(bench->cache, disk_identity(bench->disk)->uuid, &log);

    struct log_region region = {.io = bench->io, .file = disk_file(bench->cache)};

    if (r < 0)
        return r;
    region.offset = log.offset;
    region.bytes = log.bytes;
    memcpy(region.uuid, log.uuid.bytes, sizeof(region.uuid));
    r = co_log_format(&region);
    return r < 0 ? r : co_disk_set_log(bench->disk, &log, false);
}

static int co_add_read_cache(struct bench *bench)
{
    const struct cache_region *regions;
    size_t count = disk_cache_regions(bench->cache, &regions);
    struct read_cache_options options = {.file = disk_file(bench->cache)};

    for (size_t i = 0; i < count; i++) {
        if (regions[i].kind != CACHE_REGION_READ)
            continue;
        options.offset = regions[i].offset;
        options.bytes = regions[i].bytes;
    }
    return co_store_set_read_cache(bench->store, &options);
}

static int co_prepare(struct bench *bench)
{
    struct disk_claim claim = {
        .cluster = {{1}},
        .disk_id = 1,
        .role = DISK_CAPACITY,
        .media = DISK_SSD,
        .extent_bytes = EXTENT_BYTES,
    };
    struct store_options options = {.name = "bench"};
    struct disk_message message = {""};
    int r = 0;

    if (bench->cache_path)
        r = co_prepare_cache(bench, &claim, &message);
    claim.role = DISK_CAPACITY;
    claim.log_bytes = bench->cache_path ? DISK_LOG_BYTES_MIN : bench->log_bytes;
    if (r == 0)
        r = co_disk_claim(bench->io, bench->path, &claim, &message);
    if (r == 0)
        r = co_disk_open(bench->io, bench->path, NULL, &message, &bench->disk);
    if (r < 0) {
        fprintf(stderr, "bench_store: %s\n", message.text);
        return r;
    }
    bench->geometry = *disk_geometry(bench->disk);
    if (bench->cache_path)
        r = co_bind(bench);
    if (r == 0 && bench->hdd)
        r = io_file_make_hdd(disk_file(bench->disk), &IO_HDD_7200);
    options.log_device = bench->cache;
    if (r == 0)
        r = co_store_open(bench->io, bench->disk, &options, &bench->store);
    return r == 0 && bench->cache_path && bench->hdd ? co_add_read_cache(bench) : r;
}

static int co_bench(struct bench *bench)
{
    uint64_t lap, epoch = 1;
    int r = co_prepare(bench);

    if (r < 0)
        return r;
    lap = store_stats(bench->store).log_bytes / BLOCK_SIZE;
    printf("disk %llu MiB, log %llu MiB, %u extents\n",
           (unsigned long long)(bench->size_bytes / MIB),
           (unsigned long long)(lap * BLOCK_SIZE / MIB), bench->geometry.extent_count);
    r = co_write_phase(bench, bench->depth, epoch++, bench->laps * lap, "write depth 32");
    if (r == 0) /* a record of depth 1 takes two blocks of the log */
        r = co_write_phase(bench, 1, epoch++, bench->laps * lap / 2, "write depth 1");
    if (r == 0)
        r = co_store_checkpoint(bench->store);
    if (r == 0)
        r = co_read_phase(bench, 1, "read depth 1");
    if (r == 0)
        r = co_read_phase(bench, 32, "read depth 32");
    co_store_close(bench->store);
    disk_close(bench->disk);
    disk_close(bench->cache);
    return r;
}

/* ---- the disk alone ---- */

struct raw {
    struct bench *bench;
    struct io_file *file;
    uint64_t until_ns, count;
};

static void raw_main(void *arg)
{
    struct raw *raw = arg;
    struct bench *bench = raw->bench;
    cleanup(freep) uint8_t *data = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    uint64_t span = bench->span_bytes > 0 ? bench->span_bytes : bench->size_bytes;
    int r = 0;

    memset(data, 0x5a, BLOCK_SIZE);
    while (r == 0 && io_clock_ns(bench->io) < raw->until_ns) {
        r = co_io_write(raw->file, data, BLOCK_SIZE,
                        next_random(bench) % (span / BLOCK_SIZE) * BLOCK_SIZE, IO_WRITE_DSYNC);
        raw->count++;
    }
    if (r < 0)
        fprintf(stderr, "bench_store: %s\n", strerror(-r));
}

static int co_raw(struct bench *bench)
{
    struct raw raw = {.bench = bench};
    struct co_group group;
    uint64_t start_ns = io_clock_ns(bench->io);
    int r = co_io_open(bench->io, bench->path, IO_OPEN_DIRECT, &raw.file);

    if (r == 0 && bench->hdd)
        r = io_file_make_hdd(raw.file, &IO_HDD_7200);
    raw.until_ns = start_ns + bench->read_seconds * SEC;
    co_group_init(&group);
    for (unsigned i = 0; i < bench->depth && r == 0; i++)
        r = co_group_spawn(&group, bench->io, "raw", raw_main, &raw);
    co_group_wait(&group);
    if (r == 0)
        printf("{\"depth\": %u, \"writes_per_s\": %.1f}\n", bench->depth,
               (double)raw.count * SEC / (double)(io_clock_ns(bench->io) - start_ns));
    io_file_close(raw.file);
    return r;
}

static void bench_main(void *arg)
{
    struct bench *bench = arg;
    int r = bench->raw ? co_raw(bench) : co_bench(bench);

    if (r < 0)
        fprintf(stderr, "bench_store: %s\n", strerror(-r));
    io_stop(bench->io);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"path", required_argument, NULL, 'p'},
                                            {"size", required_argument, NULL, 's'},
                                            {"laps", required_argument, NULL, 'l'},
                                            {"depth", required_argument, NULL, 'd'},
                                            {"seconds-read", required_argument, NULL, 'r'},
                                            {"keep", no_argument, NULL, 'k'},
                                            {"span", required_argument, NULL, 'a'},
                                            {"hdd", no_argument, NULL, 'h'},
                                            {"raw", no_argument, NULL, 'w'},
                                            {"cache", required_argument, NULL, 'c'},
                                            {"cache-size", required_argument, NULL, 'z'},
                                            {"log", required_argument, NULL, 'g'},
                                            {0}};
    struct bench bench = {.path = "bench_store.disk",
                          .size_bytes = 2 * GIB,
                          .laps = 3,
                          .depth = 32,
                          .read_seconds = 3,
                          .cache_bytes = GIB,
                          .random = 88172645463325252ull};
    int option, r;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'p':
            bench.path = optarg;
            break;
        case 's':
            bench.size_bytes = ALIGN_DOWN(strtoull(optarg, NULL, 0), MIB);
            break;
        case 'l':
            bench.laps = strtoul(optarg, NULL, 0);
            break;
        case 'd':
            bench.depth = MAX(1, MIN(DEPTH_MAX, strtoul(optarg, NULL, 0)));
            break;
        case 'r':
            bench.read_seconds = strtoull(optarg, NULL, 0);
            break;
        case 'k':
            bench.keep = true;
            break;
        case 'a':
            bench.span_bytes = strtoull(optarg, NULL, 0);
            break;
        case 'h':
            bench.hdd = true;
            break;
        case 'w':
            bench.raw = true;
            break;
        case 'c':
            bench.cache_path = optarg;
            break;
        case 'z':
            bench.cache_bytes = ALIGN_DOWN(strtoull(optarg, NULL, 0), MIB);
            break;
        case 'g':
            bench.log_bytes = ALIGN_DOWN(strtoull(optarg, NULL, 0), MIB);
            break;
        default:
            return 2;
        }
    }
    r = make_file(bench.path, bench.size_bytes);
    if (r == 0 && bench.cache_path)
        r = make_file(bench.cache_path, bench.cache_bytes);
    if (r == 0)
        r = io_uring_new(NULL, &bench.io);
    if (r == 0)
        r = co_spawn(bench.io, "bench", bench_main, &bench);
    if (r < 0) {
        fprintf(stderr, "bench_store: %s: %s\n", bench.path, strerror(-r));
        return 1;
    }
    io_run(bench.io);
    io_free(bench.io);
    if (!bench.keep)
        unlink(bench.path);
    if (!bench.keep && bench.cache_path)
        unlink(bench.cache_path);
    return 0;
}
