/* The three server processes of bench-floor, their sockets and log files, and what they cost.
 * Errors exit. */
#ifndef BENCH_FLOOR_CLUSTER_H
#define BENCH_FLOOR_CLUSTER_H

#include "tools/bench-floor/wire.h"
#include <sys/types.h>

struct cluster {
    int client_fd;
    pid_t pids[STORES];
    uint64_t log_bytes;
};

/* Starts the servers on log files in `folder`, which are written once and stay for the next run.
 * log_bytes: whole MiB. */
void cluster_start(struct cluster *cluster, const char *folder, uint64_t log_bytes);

/* Closes the client's connection and waits until all have gone. */
void cluster_stop(struct cluster *cluster);

struct usage {
    uint64_t time_ns;
    uint64_t servers_ns;
    uint64_t client_ns;
    uint64_t
        machine_ns; /* all processors, less idle, waiting for I/O and what the hypervisor stole */
    uint64_t stolen_ns;
};

/* Totals until now; the client is the calling process. */
struct usage cluster_usage(const struct cluster *cluster);

#endif
