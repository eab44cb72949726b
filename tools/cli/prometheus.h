/* prometheus: what `GET /metrics` says, taken apart: enough to tell rates and percentiles between
 * two looks. Pure. Lines that make no sense are passed over. */
#ifndef S2D_CLI_PROMETHEUS_H
#define S2D_CLI_PROMETHEUS_H

#include "s2d/base/base.h"

struct sample { /* texts point into the parsed text */
    const char *name;
    const char *labels; /* `vdisk="3",le="1023"` or "" */
    double value;
};

struct samples {
    char *text;
    struct sample *list;
    size_t count;
};

/* Returns 0 or -ENOMEM. */
must_check int samples_parse(const char *text, struct samples *ret_samples);
void samples_done(struct samples *samples);

/* The sum of all samples of that name that carry the label (`kind="read"`; NULL: all). */
double samples_sum(const struct samples *samples, const char *name, const char *label);

/* The value below which that fraction lies of what a histogram counted between two looks; 0: it
 * counted nothing. before may be NULL. Interpolated within a bucket. */
double samples_percentile(const struct samples *before, const struct samples *after,
                          const char *name, const char *label, double fraction);

#endif
