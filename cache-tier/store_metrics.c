/* What a store counts, for store_stats() and /metrics. */
#include <stdio.h>

#include "cache-tier/store_internal.h"

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
        .dirty_blocks = overlay_count(store->overlay),
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

static double read_log_used(void *arg)
{
    return store_stats(arg).log_used_bytes;
}

static double read_dirty(void *arg)
{
    return (double)store_stats(arg).dirty_blocks * BLOCK_SIZE;
}

static double read_rotten(void *arg)
{
    return (double)store_stats(arg).rotten_blocks;
}

static int add_gauges(struct store *store, const char *labels)
{
    int r = metrics_add_gauge(store->metrics, "s2d_store_log_used_bytes",
                              "write-back log in use, of its eighths seven can be", labels,
                              read_log_used, store);

    if (r < 0)
        return r;
    r = metrics_add_gauge(store->metrics, "s2d_store_dirty_bytes",
                          "blocks in the log that are not yet in place", labels, read_dirty, store);
    if (r < 0)
        return r;
    return metrics_add_gauge(store->metrics, "s2d_store_rotten_blocks",
                             "blocks known not to match their checksums", labels, read_rotten,
                             store);
}

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

    log_set_latency(store->log, &store->counters.log_write_ns);
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
    return r < 0 ? r : add_gauges(store, labels);
}

void store_metrics_remove(struct store *store)
{
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        metrics_remove(store->metrics, counter_at(store, i));
    metrics_remove(store->metrics, &store->counters.log_write_ns);
    metrics_remove(store->metrics, store);
}
