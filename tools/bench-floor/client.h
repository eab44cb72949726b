/* The client of bench-floor: keeps `depth` I/Os in flight for a while and prints what they took.
 * Errors exit. */
#ifndef BENCH_FLOOR_CLIENT_H
#define BENCH_FLOOR_CLIENT_H

#include "tools/bench-floor/cluster.h"

struct job {
    char name[16]; /* write, read, mix (70 % reads) */
    unsigned depth;
};

/* Runs one job, after a short warm-up, and prints its line of JSON. */
void client_run_job(struct cluster *cluster, const struct job *job, uint64_t duration_ns);

#endif
