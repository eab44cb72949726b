/* metrics: counters, gauges and latency histograms with names of the Prometheus kind
 * (`s2d_<layer>_<what>_<unit>[_total]`). A metric is the memory of the object that it counts for;
 * the registry only lists it. Updates are plain additions on the loop's thread. Nothing suspends.
 */
#ifndef S2D_BASE_METRICS_H
#define S2D_BASE_METRICS_H

#include "s2d/base/base.h"

struct counter {
    uint64_t value;
};

static inline void counter_add(struct counter *counter, uint64_t amount)
{
    counter->value += amount;
}

/* Log-linear: 16 buckets to each power of two, so a percentile is off by at most 6 %. */
#define HISTOGRAM_BUCKETS 640
struct histogram {
    uint64_t buckets[HISTOGRAM_BUCKETS];
    uint64_t count, sum, max;
};
void histogram_add(struct histogram *histogram, uint64_t value);
/* fraction in [0, 1]; 0 when empty. */
uint64_t histogram_percentile(const struct histogram *histogram, double fraction);
void histogram_reset(struct histogram *histogram);

struct metrics; /* the registry of one node */

must_check int metrics_new(struct metrics **ret_metrics);
void metrics_free(struct metrics *metrics);
DEFINE_CLEANUP(struct metrics, metrics_free)

/* name and help: constants. labels: "disk=\"d1\",volume=\"v\"" or "", copied. The metric must be
 * removed before its memory goes. metrics may be NULL (tests): then nothing happens. Return 0 or
 * -ENOMEM. */
must_check int metrics_add_counter(struct metrics *metrics, const char *name, const char *help,
                                   const char *labels, const struct counter *counter);
must_check int metrics_add_histogram(struct metrics *metrics, const char *name, const char *help,
                                     const char *labels, const struct histogram *histogram);
/* read(arg) is called when the metrics are rendered. */
must_check int metrics_add_gauge(struct metrics *metrics, const char *name, const char *help,
                                 const char *labels, double (*read)(void *arg), void *arg);
void metrics_remove(struct metrics *metrics,
                    const void *metric_or_arg); /* all entries with this pointer */

/* The Prometheus text format. *ret_text is the caller's, for free(). Returns 0 or -ENOMEM. */
must_check int metrics_render(const struct metrics *metrics, char **ret_text);

#endif
