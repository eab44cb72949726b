/* The FUSE mount's answers, asked for as the kernel asks, on a socket in the place of /dev/fuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "csv-export/fuse_internal.h"
#include "csv_world.h"

struct kernel {
    int fd;
    uint64_t unique;
    struct fuse_mount *mount;
    uint8_t answer[64 * 1024]; /* behind its header */
};

/* Asks, and waits for the answer. Returns its error, 0 or negative. */
static int co_ask(struct kernel *kernel, uint32_t opcode, uint64_t node, const void *in,
                  size_t in_bytes, const char *name)
{
    struct fuse_in_header header = {
        .opcode = opcode, .unique = ++kernel->unique, .nodeid = node, .uid = 1000, .gid = 100};
    size_t name_bytes = name ? strlen(name) + 1 : 0;
    struct fuse_out_header out;
    uint8_t bytes[512];
    ssize_t got;

    header.len = sizeof(header) + in_bytes + name_bytes;
    assert_true(header.len <= sizeof(bytes));
    memcpy(bytes, &header, sizeof(header));
    memcpy(bytes + sizeof(header), in, in_bytes);
    if (name)
        memcpy(bytes + sizeof(header) + in_bytes, name, name_bytes);
    assert_int_equal(send(kernel->fd, bytes, header.len, 0), header.len);
    do {
        struct iovec iov[] = {{.iov_base = &out, .iov_len = sizeof(out)},
                              {.iov_base = kernel->answer, .iov_len = sizeof(kernel->answer)}};

        co_sleep_ns(MS);
        got = readv(kernel->fd, iov, ARRAY_SIZE(iov));
    } while (got < 0 && errno == EAGAIN);
    assert_true(got >= (ssize_t)sizeof(out));
    assert_int_equal(out.unique, kernel->unique);
    return out.error;
}

static void co_kernel_start(struct csv_world *world, unsigned node, struct kernel *kernel)
{
    static const struct fuse_mount_options options;
    struct fuse_init_in init = {
        .major = 7, .minor = 31, .max_readahead = 65536, .flags = UINT32_MAX};
    int fds[2];

    init.flags &= ~(1u << 30); /* FUSE_INIT_EXT: more than minor 31 knows */
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    *kernel = (struct kernel){.fd = fds[0]};
    assert_int_equal(
        fuse_mount_serve(world->world->io, world->volume[node], &options, fds[1], &kernel->mount),
        0);
    assert_int_equal(co_ask(kernel, FUSE_INIT, 0, &init, 16, NULL), 0);
}

static void co_kernel_stop(struct kernel *kernel)
{
    co_fuse_mount_close(kernel->mount);
    close(kernel->fd);
}

static int co_create(struct kernel *kernel, const char *name, int flags)
{
    struct fuse_create_in create = {.flags = (uint32_t)flags, .mode = S_IFREG | 0600};

    return co_ask(kernel, FUSE_CREATE, FUSE_ROOT_ID, &create, sizeof(create), name);
}

static void co_release(struct kernel *kernel)
{
    struct fuse_release_in release = {0};
    struct fuse_open_out open;

    memcpy(&open, kernel->answer + sizeof(struct fuse_entry_out), sizeof(open));
    release.fh = open.fh;
    assert_int_equal(co_ask(kernel, FUSE_RELEASE, FUSE_ROOT_ID, &release, sizeof(release), NULL),
                     0);
}

/* A file that another node has made since the kernel looked: the kernel must look again, for it
 * would neither ask for that file's permissions nor cut it, as it does with one that was there. */
static void create_what_is_there(struct csv_world *world)
{
    static const struct fs_new new = {.mode = S_IFREG | 0600};
    static struct kernel kernel;
    struct fs_attr attr;

    co_kernel_start(world, 2, &kernel);
    assert_int_equal(co_csv_create(world->volume[3], FS_ROOT_INO, "theirs", &new, &attr), 0);
    assert_int_equal(co_create(&kernel, "theirs", O_CREAT | O_TRUNC | O_RDWR), -ESTALE);
    assert_int_equal(co_create(&kernel, "theirs", O_CREAT | O_EXCL | O_RDWR), -EEXIST);
    assert_int_equal(co_create(&kernel, "ours", O_CREAT | O_TRUNC | O_RDWR), 0);
    co_release(&kernel);
    co_kernel_stop(&kernel);
    while (csv_volume_count(world->volume[world->owner]).open_files > 0)
        co_sleep_ns(MS / 10);
}

static void test_create_what_is_there(void **state)
{
    (void)state;
    csv_world_run(create_what_is_there);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_what_is_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
