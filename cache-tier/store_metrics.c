/* What a store counts, for store_stats() and /metrics. */
#include <stdio.h>

#include "cache-tier/store_internal.h"

/* ---- how old is what is dirty ---- */

#define AGE_STEP_NS (10 * SEC)
#define AGE_STEPS 32 /* of the log */

static void age_mark(struct age_marks *ages, uint64_t position, uint64_t now_ns)
{
    if (ages->count == AGE_MARKS_MAX) { /* every second one will do */
        for (size_t i = 1; i < AGE_MARKS_MAX / 2; i++)
            ages->marks[i] = ages->marks[2 * i];
        ages->count = AGE_MARKS_MAX / 2;
    }
    ages->marks[ages->count++] = (struct age_mark){position, now_ns};
}

void store_note_open(struct store *store)
{
    store->ages.count = 0;
    store->ages.head = log_head(store->log);
    age_mark(&store->ages, log_tail(store->log), io_now_ns(store->io));
}

void store_note_head(struct store *store)
{
    struct age_marks *ages = &store->ages;
    const struct age_mark *last = &ages->marks[ages->count - 1];
    uint64_t now_ns = io_now_ns(store->io);

    if (now_ns - last->at_ns >= AGE_STEP_NS ||
        ages->head - last->position >= log_ring_blocks(store->log) / AGE_STEPS)
        age_mark(ages, ages->head, now_ns); /* from where the new batch lies on */
    ages->head = log_head(store->log);
}

#define OLDEST_LOOK_BLOCKS 4096

/* Where the oldest dirty block lies in the log, or a place before it. */
static uint64_t oldest_dirty(const struct store *store)
{
    uint64_t position = log_tail(store->log);
    uint64_t end = MIN(log_head(store->log), position + OLDEST_LOOK_BLOCKS);

    while (position < end && !overlay_in_use(store->overlay, log_block_of(store->log, position)))
        position++;
    return position;
}

/* The last mark that is not behind it is close to it. */
static uint64_t dirty_age_ns(const struct store *store)
{
    const struct age_marks *ages = &store->ages;
    uint64_t since_ns = io_now_ns(store->io), oldest;

    if (overlay_count(store->overlay) == 0)
        return 0;
    oldest = oldest_dirty(store);
    for (size_t i = 0; i < ages->count && ages->marks[i].position <= oldest; i++)
        since_ns = ages->marks[i].at_ns;
    return io_now_ns(store->io) - since_ns;
}

/* ---- all figures ---- */

struct store_stats store_stats(const struct store *store)
{
    const struct store_counters *counters = &store->counters;
    struct read_cache_stats cache = {0};
    uint64_t mismatches = 0;

    if (store->read_cache) {
        cache = read_cache_stats(store->read_cache);
        mismatches = read_cache_counters(store->read_cache)->mismatches.value;
    }
    return (struct store_stats){
        .log_bytes = log_ring_blocks(store->log) * BLOCK_SIZE,
        .log_used_bytes = log_used_blocks(store->log) * BLOCK_SIZE,
        .zero_extents = overlay_zero_extents(store->overlay),
        .dirty_blocks = overlay_count(store->overlay),
        .dirty_age_ns = dirty_age_ns(store),
        .appended_records = counters->appended_records.value,
        .appended_bytes = counters->appended_bytes.value,
        .log_writes = log_figures(store->log).batches,
        .read_blocks = counters->read_blocks.value,
        .destaged_blocks = counters->destaged_blocks.value,
        .checkpoints = counters->checkpoints.value,
        .verify_errors = counters->verify_errors.value,
        .healed_blocks = counters->healed_blocks.value,
        .rotten_blocks = store->rotten.count,
        .log_read_blocks = counters->log_read_blocks.value,
        .cache_read_blocks = counters->cache_read_blocks.value,
        .place_read_blocks = counters->place_read_blocks.value,
        .read_cache_bytes = cache.bytes,
        .read_cache_used_bytes = cache.used_bytes,
        .read_cache_mismatches = mismatches,
        .read_cache_off = cache.off,
    };
}

/* ---- gauges ---- */

static double read_log_bytes(void *arg)
{
    return (double)store_stats(arg).log_bytes;
}

static double read_log_used(void *arg)
{
    return (double)store_stats(arg).log_used_bytes;
}

static double read_dirty(void *arg)
{
    return (double)store_stats(arg).dirty_blocks * BLOCK_SIZE;
}

static double read_dirty_age(void *arg)
{
    return (double)store_stats(arg).dirty_age_ns / (double)SEC;
}

static double read_rotten(void *arg)
{
    return (double)store_stats(arg).rotten_blocks;
}

static double read_cache_bytes(void *arg)
{
    return (double)store_stats(arg).read_cache_bytes;
}

static double read_cache_used(void *arg)
{
    return (double)store_stats(arg).read_cache_used_bytes;
}

static double read_cache_off(void *arg)
{
    return store_stats(arg).read_cache_off;
}

static const struct {
    const char *name, *help;
    double (*read)(void *arg);
} gauges[] = {
    {"s2d_store_log_bytes", "size of the write-back log, of which clients fill seven eighths",
     read_log_bytes},
    {"s2d_store_log_used_bytes", "write-back log in use", read_log_used},
    {"s2d_store_dirty_bytes", "blocks in the log that are not yet in place", read_dirty},
    {"s2d_store_dirty_age_seconds", "the oldest of them is at most so old", read_dirty_age},
    {"s2d_store_rotten_blocks", "blocks known not to match their checksums", read_rotten},
    {"s2d_store_read_cache_bytes", "size of the read cache", read_cache_bytes},
    {"s2d_store_read_cache_used_bytes", "read cache that was filled", read_cache_used},
    {"s2d_store_read_cache_off", "1: its device failed too often", read_cache_off},
};

static int add_gauges(struct store *store, const char *labels)
{
    int r = 0;

    for (size_t i = 0; i < ARRAY_SIZE(gauges) && r == 0; i++)
        r = metrics_add_gauge(store->metrics, gauges[i].name, gauges[i].help, labels,
                              gauges[i].read, store);
    return r;
}

/* ---- counters ---- */

static const struct {
    const char *name, *help;
    size_t offset;
} table[] = {
#define ROW(field, help)                                                                           \
    {                                                                                              \
        "s2d_store_" #field "_total", help, offsetof(struct store_counters, field)                 \
    }
    ROW(appended_records, "records made durable in the log"),
    ROW(appended_bytes, "data of records made durable in the log"),
    ROW(read_blocks, "4 KiB blocks read"),
    ROW(log_read_blocks, "of them from the log"),
    ROW(cache_read_blocks, "of them from the read cache"),
    ROW(place_read_blocks, "of them from their place on the disk"),
    ROW(destaged_blocks, "4 KiB blocks written in place"),
    ROW(checkpoints, "times the log's tail was moved"),
    ROW(verify_errors, "reads that found a block not matching its checksum"),
    ROW(healed_blocks, "blocks repaired from another column"),
#undef ROW
};

static void *counter_at(struct store *store, size_t i)
{
    return (char *)&store->counters + table[i].offset;
}

int store_metrics_add(struct store *store)
{
    char labels[128];
    int r;

    snprintf(labels, sizeof(labels), "disk=\"%s\"", store->name);
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        r = metrics_add_counter(store->metrics, table[i].name, table[i].help, labels,
                                counter_at(store, i));
        if (r < 0)
            return r;
    }
    r = metrics_add_histogram(store->metrics, "s2d_store_log_write_latency_ns",
                              "from a batch's leaving to its being durable", labels,
                              &store->counters.log_write_ns);
    if (r == 0)
        r = metrics_add_histogram(store->metrics, "s2d_store_log_wait_latency_ns",
                                  "records that a filling log held back, how long", labels,
                                  &store->counters.log_wait_ns);
    return r < 0 ? r : add_gauges(store, labels);
}

void store_metrics_remove(struct store *store)
{
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        metrics_remove(store->metrics, counter_at(store, i));
    metrics_remove(store->metrics, &store->counters.log_write_ns);
    metrics_remove(store->metrics, &store->counters.log_wait_ns);
    metrics_remove(store->metrics, store);
}
