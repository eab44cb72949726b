/* csv_cluster DIRECTORY: three nodes in one process, joined by real sockets, and a volume "v" in
 * RAM; each node has it mounted at DIRECTORY/nodeN/v and serves its files on
 * DIRECTORY/nodeN/nbd.sock. For scripts that use the exports as programs do.
 *
 * SIGUSR1 moves the volume to the next node as planned; SIGUSR2 abruptly, with connections that
 * break. SIGTERM ends: status 0 when all was let go of and the file system checks clean. Prints
 * "ready" when it is. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "csv-export/fuse_mount.h"
#include "csv-export/nbd_files.h"
#include "tests/unit/csv_world.h"

static const char *directory;
static sigset_t signals;

struct exports {
    struct fuse_mount *mount;
    struct nbd_files *files;
    struct nbd_server *server;
};

static void co_export(struct csv_world *world, unsigned node, struct exports *exports)
{
    struct fuse_mount_options fuse = {0};
    struct nbd_server_options nbd = {0};
    char path[256], address[256];
    int r;

    fuse.path = path;
    nbd.address = address;
    snprintf(path, sizeof(path), "%s/node%u/v", directory, node);
    snprintf(address, sizeof(address), "unix:%s/node%u/nbd.sock", directory, node);
    r = co_fuse_mount_open(world->world->io, world->volume[node], &fuse, &exports->mount);
    if (r < 0) {
        fprintf(stderr, "csv_cluster: %s: %s\n", path, strerror(-r));
        exit(1);
    }
    r = nbd_files_new(world->csv[node], &exports->files);
    assert(r == 0);
    r = co_nbd_server_open(world->world->io, nbd_files_backend(exports->files), &nbd,
                           &exports->server);
    assert(r == 0);
}

static void co_unexport(struct exports *exports)
{
    co_nbd_server_close(exports->server);
    nbd_files_free(exports->files);
    co_fuse_mount_close(exports->mount);
}

static int co_next_signal(struct io_poll *poll, int fd)
{
    struct signalfd_siginfo info;
    ssize_t got;
    int r = co_io_poll(poll, POLLIN);

    assert(r >= 0);
    got = read(fd, &info, sizeof(info));
    assert(got == sizeof(info));
    return (int)info.ssi_signo;
}

static void co_obey_signals(struct csv_world *world)
{
    int fd = signalfd(-1, &signals, SFD_CLOEXEC), signal;
    struct io_poll *poll;
    int r = io_poll_new(world->world->io, fd, &poll);

    assert(r == 0);
    while ((signal = co_next_signal(poll, fd)) != SIGTERM && signal != SIGINT) {
        unsigned next = 1 + world->owner % CSV_NODES;

        if (signal == SIGUSR2)
            co_csv_world_break(world, world->owner, next);
        co_csv_world_move(world, next, signal == SIGUSR2);
        printf("owner %u\n", world->owner);
        fflush(stdout);
    }
    io_poll_free(poll);
    close(fd);
}

static void body(struct csv_world *world)
{
    struct exports exports[CSV_NODES + 1];

    for (unsigned node = 1; node <= CSV_NODES; node++)
        co_export(world, node, &exports[node]);
    printf("ready\n");
    fflush(stdout);
    co_obey_signals(world);
    for (unsigned node = 1; node <= CSV_NODES; node++)
        co_unexport(&exports[node]);
    while (csv_volume_count(world->volume[world->owner]).open_files > 0)
        co_sleep_ns(MS);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    directory = argv[1];
    umask(0);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    sigprocmask(SIG_BLOCK, &signals, NULL); /* before the loop starts its threads */
    csv_world_run(body);
    return 0;
}
