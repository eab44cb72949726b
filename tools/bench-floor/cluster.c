#include "tools/bench-floor/cluster.h"
#include "tools/bench-floor/server.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A connected pair of TCP sockets over loopback. */
static void tcp_pair(int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    die_unless(listener >= 0 && bind(listener, (struct sockaddr *)&address, size) == 0 &&
                   listen(listener, 1) == 0 &&
                   getsockname(listener, (struct sockaddr *)&address, &size) == 0,
               "listen");
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    die_unless(pair[0] >= 0 && connect(pair[0], (struct sockaddr *)&address, size) == 0, "connect");
    pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    die_unless(pair[1] >= 0, "accept");
    for (unsigned i = 0; i < 2; i++)
        die_unless(setsockopt(pair[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0,
                   "TCP_NODELAY");
    close(listener);
}

/* Forks a server that keeps `fds` of all the sockets made so far; the parent closes them. */
static pid_t fork_server(const char *log_path, const int *fds, unsigned fd_count, int *all_fds,
                         unsigned all_count)
{
    pid_t pid = fork();

    die_unless(pid >= 0, "fork");
    for (unsigned i = 0; i < all_count; i++) {
        bool mine = false;

        for (unsigned j = 0; j < fd_count; j++)
            mine |= all_fds[i] == fds[j];
        if (all_fds[i] >= 0 && mine != (pid == 0)) {
            close(all_fds[i]);
            all_fds[i] = -1;
        }
    }
    if (pid == 0)
        server_run(log_path, fds, fd_count);
    return pid;
}

static void log_path_of(char *path, size_t size, const char *folder, unsigned store)
{
    die_unless(snprintf(path, size, "%s/floor-log%u", folder, store) < (int)size, folder);
}

/* Writes the file once, unless an earlier run has. It gets its name when all of it is there. */
static void prepare_log(const char *path, uint64_t size_bytes)
{
    const size_t piece = MIB;
    char temporary[4096];
    struct stat status;

    if (stat(path, &status) == 0 && (uint64_t)status.st_size == size_bytes)
        return;
    die_unless(snprintf(temporary, sizeof(temporary), "%s.new", path) < (int)sizeof(temporary),
               path);
    int fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
    die_unless(fd >= 0, temporary);
    uint8_t *zeros = allocate(piece);
    for (uint64_t at = 0; at < size_bytes; at += piece)
        die_unless(pwrite(fd, zeros, piece, (off_t)at) == (ssize_t)piece, temporary);
    die_unless(fsync(fd) == 0 && close(fd) == 0 && rename(temporary, path) == 0, path);
    free(zeros);
}

void cluster_start(struct cluster *cluster, const char *folder, uint64_t log_bytes)
{
    int unix_pair[2], tcp_pairs[REPLICAS][2], all[2 + 2 * REPLICAS], owner[1 + REPLICAS];
    char path[4000];

    cluster->log_bytes = log_bytes;
    for (unsigned i = 0; i < STORES; i++) {
        log_path_of(path, sizeof(path), folder, i);
        prepare_log(path, log_bytes);
    }
    die_unless(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, unix_pair) == 0, "socketpair");
    all[0] = unix_pair[0];
    all[1] = owner[0] = unix_pair[1];
    for (unsigned i = 0; i < REPLICAS; i++) {
        tcp_pair(tcp_pairs[i]);
        all[2 + 2 * i] = owner[1 + i] = tcp_pairs[i][0];
        all[3 + 2 * i] = tcp_pairs[i][1];
    }
    cluster->client_fd = unix_pair[0];
    log_path_of(path, sizeof(path), folder, 0);
    cluster->pids[0] = fork_server(path, owner, 1 + REPLICAS, all, 2 + 2 * REPLICAS);
    for (unsigned i = 0; i < REPLICAS; i++) {
        log_path_of(path, sizeof(path), folder, 1 + i);
        cluster->pids[1 + i] = fork_server(path, &tcp_pairs[i][1], 1, all, 2 + 2 * REPLICAS);
    }
}

void cluster_stop(struct cluster *cluster)
{
    close(cluster->client_fd);
    for (unsigned i = 0; i < STORES; i++) {
        int status;

        die_unless(waitpid(cluster->pids[i], &status, 0) == cluster->pids[i], "waitpid");
        if (status != 0)
            errx(EXIT_FAILURE, "server %u failed", i);
    }
}

/* All cores since boot, less idle, waiting for I/O and stolen. The busy columns of /proc/stat are
 * sampled at ticks and miss short work; the idle ones are measured. */
static void read_machine(struct usage *usage)
{
    unsigned long long idle, iowait, steal;
    uint64_t tick_ns = SEC / (uint64_t)sysconf(_SC_CLK_TCK);
    FILE *file = fopen("/proc/stat", "re");

    die_unless(file != NULL, "/proc/stat");
    if (fscanf(file, "cpu %*u %*u %*u %llu %llu %*u %*u %llu", &idle, &iowait, &steal) != 3)
        errx(EXIT_FAILURE, "/proc/stat: not understood");
    fclose(file);
    usage->machine_ns = clock_ns(CLOCK_BOOTTIME) * (uint64_t)sysconf(_SC_NPROCESSORS_ONLN) -
                        (idle + iowait + steal) * tick_ns;
    usage->stolen_ns = steal * tick_ns;
}

struct usage cluster_usage(const struct cluster *cluster)
{
    struct usage usage = {.time_ns = clock_ns(CLOCK_MONOTONIC),
                          .client_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID)};

    for (unsigned i = 0; i < STORES; i++) {
        clockid_t clock;

        if (clock_getcpuclockid(cluster->pids[i], &clock) != 0)
            errx(EXIT_FAILURE, "server %u is gone", i);
        usage.servers_ns += clock_ns(clock);
    }
    read_machine(&usage);
    return usage;
}
