#include "s2d/base/metrics.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- histograms ----
 * Values below 16 have a bucket each; above, the first bit chooses the power of two and the next
 * four the bucket in it. The last bucket takes all from 2^43 - 2^39 on (2.3 hours, for
 * nanoseconds). */

#define SUB_BITS 4
#define SUB_BUCKETS (1u << SUB_BITS)

static size_t bucket_of(uint64_t value)
{
    unsigned power, index;

    if (value < SUB_BUCKETS)
        return value;
    power = 63 - (unsigned)__builtin_clzll(value);
    index =
        (power - SUB_BITS + 1) * SUB_BUCKETS + ((value >> (power - SUB_BITS)) & (SUB_BUCKETS - 1));
    return MIN(index, HISTOGRAM_BUCKETS - 1u);
}

/* The smallest value that bucket_of() sends to a later bucket. */
static uint64_t bucket_end(size_t bucket)
{
    size_t shift;

    if (bucket < SUB_BUCKETS)
        return bucket + 1;
    shift = bucket / SUB_BUCKETS - 1;
    return (uint64_t)(SUB_BUCKETS + bucket % SUB_BUCKETS + 1) << shift;
}

void histogram_add(struct histogram *histogram, uint64_t value)
{
    histogram->buckets[bucket_of(value)]++;
    histogram->count++;
    histogram->sum += value;
    histogram->max = MAX(histogram->max, value);
}

uint64_t histogram_percentile(const struct histogram *histogram, double fraction)
{
    double exact = fraction * (double)histogram->count;
    uint64_t rank = (uint64_t)exact;
    uint64_t seen = 0;

    rank += (double)rank < exact; /* the first value that at least this many do not exceed */
    rank = MAX(rank, 1u);
    for (size_t i = 0; i < HISTOGRAM_BUCKETS - 1; i++) {
        seen += histogram->buckets[i];
        if (seen >= rank)
            return MIN(bucket_end(i) - 1, histogram->max);
    }
    return histogram->max; /* in the last bucket, which has no end; or 0: empty */
}

void histogram_reset(struct histogram *histogram)
{
    memset(histogram, 0, sizeof(*histogram));
}

/* ---- the registry: an array sorted by name, so that rendering finds each name's entries together
 * ---- */

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric {
    enum metric_kind kind;
    const char *name, *help;
    char *labels;
    const void *source; /* struct counter, struct histogram, or the gauge's arg */
    double (*read)(void *arg);
};

struct metrics {
    struct metric *entries;
    size_t count, size;
};

int metrics_new(struct metrics **ret_metrics)
{
    struct metrics *metrics = calloc(1, sizeof(*metrics));

    if (!metrics)
        return -ENOMEM;
    *ret_metrics = metrics;
    return 0;
}

void metrics_free(struct metrics *metrics)
{
    if (!metrics)
        return;
    for (size_t i = 0; i < metrics->count; i++)
        free(metrics->entries[i].labels);
    free(metrics->entries);
    free(metrics);
}

static int make_room(struct metrics *metrics)
{
    size_t size = MAX(metrics->size * 2, (size_t)32);
    struct metric *entries;

    if (metrics->count < metrics->size)
        return 0;
    entries = reallocarray(metrics->entries, size, sizeof(*entries));
    if (!entries)
        return -ENOMEM;
    metrics->entries = entries;
    metrics->size = size;
    return 0;
}

/* Behind its equals: labels are shown in the order in which they came. */
static void insert_sorted(struct metrics *metrics, const struct metric *metric)
{
    size_t at = metrics->count++;

    for (; at > 0 && strcmp(metrics->entries[at - 1].name, metric->name) > 0; at--)
        metrics->entries[at] = metrics->entries[at - 1];
    assert(at == 0 || strcmp(metrics->entries[at - 1].name, metric->name) != 0 ||
           metrics->entries[at - 1].kind == metric->kind);
    metrics->entries[at] = *metric;
}

static int add(struct metrics *metrics, struct metric metric, const char *labels)
{
    int r;

    if (!metrics)
        return 0;
    r = make_room(metrics);
    if (r < 0)
        return r;
    metric.labels = strdup(labels);
    if (!metric.labels)
        return -ENOMEM;
    insert_sorted(metrics, &metric);
    return 0;
}

int metrics_add_counter(struct metrics *metrics, const char *name, const char *help,
                        const char *labels, const struct counter *counter)
{
    return add(
        metrics,
        (struct metric){.kind = METRIC_COUNTER, .name = name, .help = help, .source = counter},
        labels);
}

int metrics_add_histogram(struct metrics *metrics, const char *name, const char *help,
                          const char *labels, const struct histogram *histogram)
{
    return add(
        metrics,
        (struct metric){.kind = METRIC_HISTOGRAM, .name = name, .help = help, .source = histogram},
        labels);
}

int metrics_add_gauge(struct metrics *metrics, const char *name, const char *help,
                      const char *labels, double (*read)(void *arg), void *arg)
{
    return add(metrics,
               (struct metric){
                   .kind = METRIC_GAUGE, .name = name, .help = help, .source = arg, .read = read},
               labels);
}

void metrics_remove(struct metrics *metrics, const void *metric_or_arg)
{
    size_t kept = 0;

    if (!metrics)
        return;
    for (size_t i = 0; i < metrics->count; i++) {
        if (metrics->entries[i].source == metric_or_arg)
            free(metrics->entries[i].labels);
        else
            metrics->entries[kept++] = metrics->entries[i];
    }
    metrics->count = kept;
}

/* ---- rendering ---- */

static void render_value(FILE *out, const struct metric *metric, const char *value)
{
    if (*metric->labels)
        fprintf(out, "%s{%s} %s\n", metric->name, metric->labels, value);
    else
        fprintf(out, "%s %s\n", metric->name, value);
}

static void render_counter(FILE *out, const struct metric *metric)
{
    const struct counter *counter = metric->source;
    char value[24];

    snprintf(value, sizeof(value), "%" PRIu64, counter->value);
    render_value(out, metric, value);
}

static void render_gauge(FILE *out, const struct metric *metric)
{
    char value[32];

    snprintf(value, sizeof(value), "%.15g", metric->read((void *)metric->source));
    render_value(out, metric, value);
}

/* Whole powers of two are enough for a chart, and 16 times shorter; `le` is inclusive. Ends behind
 * the largest value. */
static void render_buckets(FILE *out, const struct metric *metric, const char *comma)
{
    const struct histogram *histogram = metric->source;
    uint64_t seen = 0;

    for (size_t power = 0; seen < histogram->count; power += SUB_BUCKETS) {
        size_t last = power + SUB_BUCKETS - 1;

        if (last == HISTOGRAM_BUCKETS - 1)
            break; /* the last bucket has no end but infinity */
        for (size_t i = power; i <= last; i++)
            seen += histogram->buckets[i];
        fprintf(out, "%s_bucket{%s%sle=\"%" PRIu64 "\"} %" PRIu64 "\n", metric->name,
                metric->labels, comma, bucket_end(last) - 1, seen);
    }
}

static void render_sum(FILE *out, const struct metric *metric, const char *suffix, uint64_t value)
{
    fprintf(out, "%s_%s", metric->name, suffix);
    if (*metric->labels)
        fprintf(out, "{%s}", metric->labels);
    fprintf(out, " %" PRIu64 "\n", value);
}

static void render_histogram(FILE *out, const struct metric *metric)
{
    const struct histogram *histogram = metric->source;
    const char *comma = *metric->labels ? "," : "";

    render_buckets(out, metric, comma);
    fprintf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", metric->name, metric->labels, comma,
            histogram->count);
    render_sum(out, metric, "sum", histogram->sum);
    render_sum(out, metric, "count", histogram->count);
}

static void render(FILE *out, const struct metric *metric)
{
    switch (metric->kind) {
    case METRIC_COUNTER:
        render_counter(out, metric);
        break;
    case METRIC_GAUGE:
        render_gauge(out, metric);
        break;
    case METRIC_HISTOGRAM:
        render_histogram(out, metric);
        break;
    }
}

int metrics_render(const struct metrics *metrics, char **ret_text)
{
    static const char *const kind_names[] = {
        [METRIC_COUNTER] = "counter",
        [METRIC_GAUGE] = "gauge",
        [METRIC_HISTOGRAM] = "histogram",
    };
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);

    if (!out)
        return -ENOMEM;
    for (size_t i = 0; i < metrics->count; i++) {
        const struct metric *metric = &metrics->entries[i];

        if (i == 0 || strcmp(metric[-1].name, metric->name) != 0)
            fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", metric->name, metric->help, metric->name,
                    kind_names[metric->kind]);
        render(out, metric);
    }
    if (fclose(out) != 0) {
        free(text);
        return -ENOMEM;
    }
    *ret_text = text;
    return 0;
}
