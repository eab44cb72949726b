/* One server process of bench-floor: the owner or a replica. */
#ifndef BENCH_FLOOR_SERVER_H
#define BENCH_FLOOR_SERVER_H

/* Serves until the connection it serves is closed, then exits the process; errors exit it with a
 * message. log_path: written before. fds[0]: towards the client (the owner's) or the owner (a
 * replica's); an owner has its replicas behind it. Makes its own ring, so it runs in the process
 * that serves. */
_Noreturn void server_run(const char *log_path, const int *fds, unsigned fd_count);

#endif
