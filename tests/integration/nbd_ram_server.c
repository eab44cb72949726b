/* nbd_ram_server ADDRESS SIZE_MIB: serves RAM over NBD, for the tools that speak NBD to test and
 * measure the server by. Ends at SIGTERM or SIGINT, and prints the CPU time that it used. */
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "s2d/base/io.h"
#include "tests/unit/nbd_ram.h"

struct program {
    struct io *io;
    struct nbd_ram ram;
    const char *address;
    sigset_t signals;
    int status;
};

static double seconds(struct timeval time)
{
    return time.tv_sec + time.tv_usec / 1e6;
}

static void co_wait_for_signal(struct io *io, const sigset_t *signals)
{
    struct io_poll *poll;
    int fd = signalfd(-1, signals, SFD_CLOEXEC);
    int r = io_poll_new(io, fd, &poll);

    assert(r == 0);
    r = co_io_poll(poll, 1 /* POLLIN */);
    assert(r >= 0);
    io_poll_free(poll);
    close(fd);
}

static void co_main(void *arg)
{
    struct program *program = arg;
    struct nbd_server_options options = {.address = program->address};
    struct nbd_server *server;
    struct rusage usage;
    int r;

    r = co_nbd_server_open(program->io, &program->ram.backend, &options, &server);
    if (r < 0) {
        fprintf(stderr, "nbd_ram_server: %s: %s\n", program->address, strerror(-r));
        program->status = 1;
    } else {
        co_wait_for_signal(program->io, &program->signals);
        co_nbd_server_close(server);
        getrusage(RUSAGE_SELF, &usage);
        printf("requests %llu cpu %.3f user %.3f system %.3f us/request %.2f\n",
               (unsigned long long)program->ram.requests,
               seconds(usage.ru_utime) + seconds(usage.ru_stime), seconds(usage.ru_utime),
               seconds(usage.ru_stime),
               1e6 * (seconds(usage.ru_utime) + seconds(usage.ru_stime)) /
                   MAX(program->ram.requests, (uint64_t)1));
    }
    io_stop(program->io);
}

int main(int argc, char **argv)
{
    struct program program = {0};
    struct nbd_ram_disk *disk;
    uint64_t size_bytes;

    if (argc != 3) {
        fprintf(stderr, "usage: %s unix:/PATH SIZE_MIB\n", argv[0]);
        return 2;
    }
    program.address = argv[1];
    size_bytes = strtoull(argv[2], NULL, 10) * MIB;
    /* Before the loop starts its threads, or one of them takes the signal. */
    sigemptyset(&program.signals);
    sigaddset(&program.signals, SIGTERM);
    sigaddset(&program.signals, SIGINT);
    sigprocmask(SIG_BLOCK, &program.signals, NULL);
    nbd_ram_init(&program.ram);
    disk = nbd_ram_add(&program.ram, "ram/disk", size_bytes);
    memset(disk->bytes, 0, size_bytes); /* page faults are not what we measure */
    nbd_ram_add(&program.ram, "ram/read-only", 4 * MIB)->read_only = true;
    nbd_ram_add(&program.ram, "ram/odd-size", 1000001);
    if (io_uring_new(NULL, &program.io) < 0 ||
        co_spawn(program.io, "main", co_main, &program) < 0) {
        fprintf(stderr, "nbd_ram_server: no io_uring\n");
        return 1;
    }
    io_run(program.io);
    io_free(program.io);
    nbd_ram_done(&program.ram);
    return program.status;
}
