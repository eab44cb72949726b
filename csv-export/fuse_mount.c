/* The session: a descriptor of /dev/fuse that the loop polls, a table of requests under way,
 * mounting.
 *
 * We mount ourselves and hand libfuse the descriptor (fuse_session_custom_io()), so that no call of
 * it can block: it decodes requests and encodes answers, nothing else. */
#include "csv-export/fuse_mount.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "csv-export/fuse_internal.h"
#include "s2d/base/log.h"

#define FUSE_TYPE "fuse.s2d"
#define SLOT_BYTES (FUSE_DATA_MAX + 2 * BLOCK_SIZE)

/* ---- mounting: on a worker, for all of it may block ---- */

struct mounting {
    const char *path, *source;
    int fd; /* of /dev/fuse */
    char real_path[PATH_MAX];
    int result;
};

static int make_directories(const char *path)
{
    char part[PATH_MAX];
    size_t length = strlen(path);

    if (path[0] != '/' || length >= sizeof(part))
        return -EINVAL;
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (part[i] != '/' && part[i] != 0)
            continue;
        part[i] = 0;
        /* A dead mount at the end of the path answers this with something else than EEXIST; it is
         * dealt with later. */
        if (mkdir(part, 0755) < 0 && errno != EEXIST && i < length)
            return -errno;
        part[i] = path[i];
    }
    return 0;
}

/* The path as the mount table spells it. Its last part is not looked at: a dead mount may be there.
 */
static int resolve(const char *path, char real_path[PATH_MAX])
{
    char parent[PATH_MAX], real_parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t length = slash - path;
    int written;

    if (slash[1] == 0 || length >= sizeof(parent))
        return -EINVAL;
    memcpy(parent, path, length);
    parent[length] = 0;
    if (!realpath(length > 0 ? parent : "/", real_parent))
        return -errno;
    written = snprintf(real_path, PATH_MAX, "%s/%s", strcmp(real_parent, "/") ? real_parent : "",
                       slash + 1);
    return written < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* In the mount table blanks and such are octal. */
static void unescape(char *text)
{
    char *out = text;

    for (; *text; text++) {
        unsigned value;

        if (text[0] == '\\' && sscanf(text + 1, "%3o", &value) == 1) {
            *out++ = (char)value;
            text += 3;
        } else {
            *out++ = *text;
        }
    }
    *out = 0;
}

/* Is a file system of ours mounted just there? */
static bool is_mounted(const char *real_path)
{
    FILE *table = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t size = 0;
    bool found = false;

    while (table && !found && getline(&line, &size, table) > 0) {
        char *type = strstr(line, " - "), *point = NULL;

        if (type && sscanf(line, "%*s %*s %*s %*s %ms", &point) == 1) {
            unescape(point);
            found = strcmp(point, real_path) == 0 &&
                    strncmp(type + 3, FUSE_TYPE " ", sizeof(FUSE_TYPE)) == 0;
        }
        free(point);
    }
    free(line);
    if (table)
        fclose(table);
    return found;
}

static void detach_predecessors(const char *real_path)
{
    for (unsigned i = 0; i < 16 && is_mounted(real_path); i++) {
        if (umount2(real_path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
            return; /* mounting will say why */
    }
}

static int mount_fd(struct mounting *mounting)
{
    char options[200];

    mounting->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (mounting->fd < 0)
        return -errno;
    snprintf(options, sizeof(options),
             "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
             mounting->fd);
    if (mount(mounting->source, mounting->real_path, FUSE_TYPE, MS_NOSUID | MS_NODEV | MS_NOATIME,
              options) < 0) {
        int r = -errno;

        close(mounting->fd);
        mounting->fd = -1;
        return r;
    }
    return 0;
}

static void mount_worker(void *arg)
{
    struct mounting *mounting = arg;

    mounting->result = make_directories(mounting->path);
    if (mounting->result == 0)
        mounting->result = resolve(mounting->path, mounting->real_path);
    if (mounting->result < 0)
        return;
    detach_predecessors(mounting->real_path);
    mounting->result = make_directories(mounting->path);
    if (mounting->result == 0)
        mounting->result = mount_fd(mounting);
}

static void unmount_worker(void *arg)
{
    const struct fuse_mount *mount = arg;

    if (is_mounted(mount->path))
        (void)!umount2(mount->path, MNT_DETACH | UMOUNT_NOFOLLOW);
}

/* ---- requests ---- */

static uint8_t *slot_data(struct fuse_slot *slot)
{
    return slot->memory + BLOCK_SIZE;
}

uint8_t *fuse_answer_memory(struct fuse_mount *mount)
{
    assert(mount->entering);
    return slot_data(mount->entering);
}

static uint8_t *request_start(struct fuse_slot *slot)
{
    return slot_data(slot) - FUSE_WRITE_HEADER_BYTES;
}

static void slot_main(void *arg)
{
    struct fuse_slot *slot = arg;
    struct fuse_mount *mount = slot->mount;
    struct fuse_buf request = {.mem = request_start(slot), .size = slot->request_bytes};

    mount->entering = slot;
    fuse_session_process_buf(mount->session, &request);
    list_push_front(&mount->free_slots, &slot->node);
    co_cond_signal(&mount->slot_freed);
}

static struct fuse_slot *co_slot_get(struct fuse_mount *mount)
{
    struct list *node;

    while (!(node = list_pop_front(&mount->free_slots)))
        co_cond_wait_always(&mount->slot_freed);
    return list_entry(node, struct fuse_slot, node);
}

/* Reads one request. Returns its bytes, or a negative errno. */
static ssize_t read_request(struct fuse_mount *mount, struct fuse_slot *slot)
{
    ssize_t bytes =
        read(mount->fd, request_start(slot), SLOT_BYTES - BLOCK_SIZE + FUSE_WRITE_HEADER_BYTES);

    return bytes < 0 ? -errno : bytes;
}

static int start_request(struct fuse_mount *mount, struct fuse_slot *slot, size_t bytes)
{
    slot->request_bytes = bytes;
    return co_group_spawn(&mount->coroutines, mount->io, "fuse request", slot_main, slot);
}

/* Takes requests until there are none just now (0), or the connection has ended. */
static int co_take_requests(struct fuse_mount *mount)
{
    while (!mount->closing) {
        struct fuse_slot *slot = co_slot_get(mount);
        ssize_t bytes = read_request(mount, slot);

        if (bytes > 0 && start_request(mount, slot, bytes) == 0)
            continue;
        list_push_front(&mount->free_slots, &slot->node);
        if (bytes == -EAGAIN)
            return 0;
        if (bytes < 0 && bytes != -EINTR && bytes != -ENOENT) /* a request was taken back */
            return (int)bytes;
        if (bytes >= 0)
            co_sleep_ns(
                10 *
                MS); /* no memory for a coroutine: the kernel asks again, or the caller sees it */
    }
    return -ECANCELED;
}

static void reader_main(void *arg)
{
    struct fuse_mount *mount = arg;
    int r;

    do {
        r = co_io_poll(mount->poll, POLLIN);
        if (r >= 0)
            r = co_take_requests(mount);
    } while (r >= 0);
    if (mount->closing)
        return;
    log_warn(mount->io, "fuse", "the mount has ended", "path=%s error=%d", mount->path, r);
    if (mount->options.on_end)
        mount->options.on_end(mount->options.arg);
}

/* ---- what libfuse calls for its I/O ---- */

static ssize_t answer(int fd, struct iovec *iov, int count, void *userdata)
{
    ssize_t written = writev(fd, iov, count);

    (void)userdata;
    if (written >= 0)
        return written;
    /* Who asked has been killed, or the mount is gone: nobody waits for this answer. */
    if (errno == ENOENT || errno == ENODEV || errno == ENOTCONN || errno == EPERM) {
        written = 0;
        for (int i = 0; i < count; i++)
            written += iov[i].iov_len;
        return written;
    }
    return -1;
}

static ssize_t never_read(int fd, void *buffer, size_t length, void *userdata)
{
    (void)fd;
    (void)buffer;
    (void)length;
    (void)userdata;
    errno = ENOSYS; /* we read ourselves */
    return -1;
}

static const struct fuse_custom_io custom_io = {.writev = answer, .read = never_read};

/* ---- life ---- */

static void mount_free(struct fuse_mount *mount)
{
    if (!mount)
        return;
    io_poll_free(mount->poll);
    if (mount->session)
        fuse_session_destroy(mount->session); /* closes the descriptor, once it has it */
    else if (mount->fd >= 0)
        close(mount->fd);
    if (mount->memory)
        munmap(mount->memory, (size_t)FUSE_SLOTS * SLOT_BYTES);
    csv_volume_put(mount->volume);
    free(mount->path);
    free(mount);
}

static int make_slots(struct fuse_mount *mount)
{
    void *memory = mmap(NULL, (size_t)FUSE_SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED)
        return -ENOMEM;
    mount->memory = memory;
    for (size_t i = 0; i < FUSE_SLOTS; i++) {
        mount->slots[i].mount = mount;
        mount->slots[i].memory = mount->memory + i * SLOT_BYTES;
        list_push_back(&mount->free_slots, &mount->slots[i].node);
    }
    return 0;
}

static int make_session(struct fuse_mount *mount)
{
    char *argv[] = {(char *)"s2d", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);

    mount->session = fuse_session_new(&args, &s2d_fuse_ops, sizeof(s2d_fuse_ops), mount);
    fuse_opt_free_args(&args);
    if (!mount->session)
        return -ENOMEM;
    if (fuse_session_custom_io(mount->session, &custom_io, mount->fd) != 0)
        return -ENOMEM;
    return 0;
}

static int start(struct fuse_mount *mount)
{
    int r;

    r = make_slots(mount);
    if (r == 0)
        r = make_session(mount);
    if (r == 0)
        r = io_poll_new(mount->io, mount->fd, &mount->poll);
    if (r == 0)
        r = co_group_spawn(&mount->coroutines, mount->io, "fuse reader", reader_main, mount);
    return r;
}

static struct fuse_mount *mount_new(struct io *io, struct csv_volume *volume,
                                    const struct fuse_mount_options *options)
{
    struct fuse_mount *mount = calloc(1, sizeof(*mount));

    if (!mount)
        return NULL;
    mount->io = io;
    mount->options = *options;
    mount->volume = csv_volume_ref(volume);
    mount->fd = -1;
    list_init(&mount->free_slots);
    co_cond_init(&mount->slot_freed);
    co_group_init(&mount->coroutines);
    return mount;
}

int fuse_mount_serve(struct io *io, struct csv_volume *volume,
                     const struct fuse_mount_options *options, int fd,
                     struct fuse_mount **ret_mount)
{
    struct fuse_mount *mount = mount_new(io, volume, options);
    int r;

    if (!mount) {
        close(fd);
        return -ENOMEM;
    }
    mount->fd = fd;
    r = start(mount);
    if (r < 0) {
        mount_free(mount);
        return r;
    }
    *ret_mount = mount;
    return 0;
}

int co_fuse_mount_open(struct io *io, struct csv_volume *volume,
                       const struct fuse_mount_options *options, struct fuse_mount **ret_mount)
{
    cleanup(freep) struct mounting *mounting = calloc(1, sizeof(*mounting));
    struct fuse_mount *mount = mount_new(io, volume, options);
    char source[CSV_VOLUME_NAME_MAX + 8];
    int r;

    if (!mount || !mounting) {
        mount_free(mount);
        return -ENOMEM;
    }
    snprintf(source, sizeof(source), "s2d/%s", csv_volume_name(volume));
    mounting->path = options->path;
    mounting->source = source;
    mounting->fd = -1;
    co_offload(io, mount_worker, mounting);
    r = mounting->result;
    mount->fd = mounting->fd;
    if (r == 0)
        mount->path = strdup(mounting->real_path);
    if (r == 0)
        r = mount->path ? start(mount) : -ENOMEM;
    if (r < 0) {
        if (mount->path)
            co_offload(io, unmount_worker, mount);
        mount_free(mount);
        return r;
    }
    *ret_mount = mount;
    return 0;
}

void co_fuse_mount_close(struct fuse_mount *mount)
{
    if (!mount)
        return;
    if (mount->path) /* while requests are served: it may need some */
        co_offload(mount->io, unmount_worker, mount);
    mount->closing = true;
    io_poll_shutdown(mount->poll);
    co_group_wait(&mount->coroutines);
    mount_free(mount);
}
