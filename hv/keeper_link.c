#include "hv/keeper_link.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_TIMEOUT_MS 5000
#define RECORD_BYTES 160

struct keeper_link {
    struct keeper_memory *memory;
    bool borrowed;
    int pidfd;
};

static struct keeper_link *link_new(void)
{
    struct keeper_link *link = calloc(1, sizeof(*link));

    if (link)
        link->pidfd = -1;
    return link;
}

struct keeper_link *keeper_link_to(struct keeper_memory *memory)
{
    struct keeper_link *link = link_new();

    if (!link)
        return NULL;
    link->memory = memory;
    link->borrowed = true;
    return link;
}

void keeper_link_free(struct keeper_link *link)
{
    if (!link)
        return;
    if (link->memory && !link->borrowed)
        munmap(link->memory, sizeof(*link->memory));
    if (link->pidfd >= 0)
        close(link->pidfd);
    free(link);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static int take_fd(int *fd)
{
    int taken = *fd;

    *fd = -1;
    return taken;
}

/* Descriptor 3 of a process that our record names may be anything: -EPROTO, rather than a SIGBUS
 * at the first look behind its end. */
static int map_memory(struct keeper_link *link, int fd)
{
    struct stat stat;
    void *memory;

    if (fstat(fd, &stat) < 0)
        return -errno;
    if (stat.st_size < (off_t)sizeof(*link->memory))
        return -EPROTO;
    memory = mmap(NULL, sizeof(*link->memory), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    link->memory = memory;
    return 0;
}

/* ---- folders ---- */

static int open_in(const char *folder, const char *name, int flags)
{
    char path[4096];
    int fd;

    if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int keeper_gone(const char *folder)
{
    cleanup(close_fd) int fd = open_in(folder, KEEPER_LOCK_FILE, O_RDWR);

    if (fd == -ENOENT)
        return true;
    if (fd < 0)
        return fd;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return true; /* closing gives it back */
    return errno == EWOULDBLOCK ? false : -errno;
}

static int read_text(const char *folder, const char *name, char text[RECORD_BYTES])
{
    cleanup(close_fd) int fd = open_in(folder, name, O_RDONLY);
    ssize_t length;

    if (fd < 0)
        return fd;
    length = read(fd, text, RECORD_BYTES - 1);
    if (length < 0)
        return -errno;
    text[length] = 0;
    return 0;
}

struct record {
    int pid;
    unsigned long long start, vm_id, incarnation;
};

/* Returns 0, -ENOENT, or -EPROTO when it is not ours or of another version. */
static int read_record(const char *folder, struct record *ret_record)
{
    struct record record;
    char text[RECORD_BYTES];
    int r = read_text(folder, KEEPER_RECORD_FILE, text);

    if (r < 0)
        return r;
    if (sscanf(text, KEEPER_RECORD_FORMAT, &record.pid, &record.start, &record.vm_id,
               &record.incarnation) != 4)
        return -EPROTO;
    *ret_record = record;
    return 0;
}

int keeper_outcome(const char *folder, struct keeper_outcome *ret_outcome)
{
    unsigned long long vm_id, incarnation;
    struct record record;
    char text[RECORD_BYTES];
    int status, killed;
    int r;

    r = read_record(folder, &record);
    if (r < 0)
        return r == -EPROTO ? -ENOENT : r;
    *ret_outcome =
        (struct keeper_outcome){.vm_id = record.vm_id, .incarnation = record.incarnation};
    r = read_text(folder, KEEPER_ENDED_FILE, text);
    if (r == 0 && sscanf(text, KEEPER_ENDED_FORMAT, &vm_id, &incarnation, &status, &killed) == 4 &&
        vm_id == record.vm_id && incarnation == record.incarnation) {
        ret_outcome->known = true;
        ret_outcome->wait_status = status;
        ret_outcome->killed = killed;
    }
    return 0;
}

void keeper_forget(const char *folder)
{
    char path[4096];

    /* In this order: an end without a record says nothing, a record without an end says "lost". */
    snprintf(path, sizeof(path), "%s/%s", folder, KEEPER_RECORD_FILE);
    unlink(path);
    snprintf(path, sizeof(path), "%s/%s", folder, KEEPER_ENDED_FILE);
    unlink(path);
}

/* ---- start ---- */

static int memory_new(const struct keeper_order *order, struct keeper_link *link, int *ret_fd)
{
    cleanup(close_fd) int fd = memfd_create("s2d-keeper", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int r;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, sizeof(struct keeper_memory)) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    r = map_memory(link, fd);
    if (r < 0)
        return r;
    link->memory->magic = KEEPER_MAGIC;
    link->memory->version = KEEPER_VERSION;
    link->memory->vm_id = order->vm_id;
    link->memory->incarnation = order->incarnation;
    atomic_store(&link->memory->deadline_ns, order->deadline_ns);
    *ret_fd = take_fd(&fd);
    return 0;
}

/* What the keeper is born with: the memory as descriptor 3, nothing else of ours, no signal blocked
 * or ignored. */
static int prepare_spawn(const struct keeper_order *order, int memory_fd,
                         posix_spawn_file_actions_t *actions, posix_spawnattr_t *attributes)
{
    sigset_t none, all;
    int r;

    sigemptyset(&none);
    sigfillset(&all);
    r = posix_spawn_file_actions_addchdir_np(actions, order->folder);
    if (r == 0)
        r = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);
    if (r == 0)
        r = posix_spawn_file_actions_addopen(actions, 1, "qemu.log",
                                             O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, 1, 2);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, memory_fd, KEEPER_MEMORY_FD);
    if (r == 0)
        r = posix_spawn_file_actions_addclosefrom_np(actions, KEEPER_MEMORY_FD + 1);
    if (r == 0)
        r = posix_spawnattr_setsigmask(attributes, &none);
    if (r == 0)
        r = posix_spawnattr_setsigdefault(attributes, &all);
    if (r == 0)
        r = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                     POSIX_SPAWN_SETSID);
    return -r;
}

static size_t count_arguments(char *const *argv)
{
    size_t count = 0;

    while (argv[count])
        count++;
    return count;
}

/* Runs the keeper's first process, which ends once the second one is under way and holds the lock.
 */
static int spawn(const struct keeper_order *order, int memory_fd)
{
    size_t count = count_arguments(order->argv);
    cleanup(freep) char **argv = calloc(count + 4, sizeof(*argv));
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    char nice_text[16];
    int status, r;
    pid_t pid;

    if (!argv)
        return -ENOMEM;
    snprintf(nice_text, sizeof(nice_text), "%d", order->nice);
    argv[0] = (char *)order->program;
    argv[1] = (char *)order->name;
    argv[2] = nice_text;
    memcpy(argv + 3, order->argv, count * sizeof(*argv));
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    r = prepare_spawn(order, memory_fd, &actions, &attributes);
    if (r == 0)
        r = -posix_spawn(&pid, order->program, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (r < 0)
        return r;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == KEEPER_EXIT_LOCKED)
        return -EBUSY;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

/* The pidfd of the process that wrote the record, -ESRCH if that is gone. The pid alone could be
 * another's by now: the start is looked at after the pidfd was opened. */
static int open_keeper(int pid, unsigned long long start)
{
    cleanup(close_fd) int fd = pidfd_open(pid, 0);
    unsigned long long ticks;
    char path[64], text[1024];
    const char *at;
    FILE *file;

    if (fd < 0)
        return -errno;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    file = fopen(path, "re");
    if (!file)
        return -ESRCH;
    at = fgets(text, sizeof(text), file) ? strrchr(text, ')') : NULL;
    fclose(file);
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at || sscanf(at, "%llu", &ticks) != 1 || ticks != start)
        return -ESRCH;
    return take_fd(&fd);
}

/* The second process says that it keeps by giving its pid, after it wrote its record. */
static int wait_started(const struct keeper_order *order, struct keeper_link *link)
{
    struct timespec pause = {.tv_nsec = 1000000};
    struct record record;
    int r;

    for (int i = 0; atomic_load(&link->memory->state) == KEEPER_STARTING; i++) {
        r = keeper_gone(order->folder);
        if (r < 0)
            return r;
        if (r || i == START_TIMEOUT_MS)
            return -EIO;
        nanosleep(&pause, NULL);
    }
    r = read_record(order->folder, &record);
    if (r < 0)
        return r;
    link->pidfd = open_keeper(record.pid, record.start);
    return link->pidfd == -ESRCH ? -EIO
                                 : MIN(link->pidfd, 0); /* -EIO: QEMU and keeper are gone already */
}

int keeper_start(const struct keeper_order *order, struct keeper_link **ret_link)
{
    cleanup(keeper_link_freep) struct keeper_link *link = link_new();
    cleanup(close_fd) int memory_fd = -1;
    int r;

    assert(order->argv[0]);
    if (!link)
        return -ENOMEM;
    r = memory_new(order, link, &memory_fd);
    if (r < 0)
        return r;
    r = spawn(order, memory_fd);
    if (r < 0)
        return r;
    r = wait_started(order, link);
    if (r < 0) {
        keeper_kill(link); /* whatever it is up to */
        return r;
    }
    *ret_link = take_ptr(link);
    return 0;
}

int keeper_adopt(const char *folder, struct keeper_link **ret_link)
{
    cleanup(keeper_link_freep) struct keeper_link *link = link_new();
    cleanup(close_fd) int memory_fd = -1;
    struct record record;
    char path[64];
    int r;

    if (!link)
        return -ENOMEM;
    r = keeper_gone(folder);
    if (r != 0)
        return r < 0 ? r : -ENOENT;
    r = read_record(folder, &record);
    if (r < 0)
        return r == -ENOENT ? -EAGAIN : r;
    link->pidfd = open_keeper(record.pid, record.start);
    if (link->pidfd < 0)
        return -EAGAIN; /* a record of one before, or QEMU is dying after its keeper */
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", record.pid, KEEPER_MEMORY_FD);
    memory_fd = open(path, O_RDWR | O_CLOEXEC);
    if (memory_fd < 0)
        return errno == ENOENT ? -EAGAIN : -errno;
    r = map_memory(link, memory_fd);
    if (r < 0)
        return r;
    if (link->memory->magic != KEEPER_MAGIC || link->memory->version != KEEPER_VERSION ||
        link->memory->vm_id != record.vm_id || link->memory->incarnation != record.incarnation)
        return -EPROTO;
    *ret_link = take_ptr(link);
    return 0;
}

void keeper_terminate(const char *folder)
{
    cleanup(close_fd) int pidfd = -1;
    unsigned long long start;
    char text[RECORD_BYTES];
    int pid;

    if (read_text(folder, KEEPER_RECORD_FILE, text) < 0 ||
        sscanf(text, KEEPER_RECORD_PREFIX, &pid, &start) != 2)
        return;
    pidfd = open_keeper(pid, start);
    if (pidfd >= 0)
        pidfd_send_signal(pidfd, SIGTERM, NULL, 0);
}

/* ---- while it keeps ---- */

int keeper_fd(const struct keeper_link *link)
{
    return link->pidfd;
}

const struct keeper_memory *keeper_memory(const struct keeper_link *link)
{
    return link->memory;
}

enum keeper_state keeper_state(const struct keeper_link *link)
{
    uint64_t state = atomic_load(&link->memory->state);

    /* A keeper that writes nonsense is as good as gone. */
    return state <= KEEPER_ENDED ? (enum keeper_state)state : KEEPER_ENDED;
}

void keeper_renew(struct keeper_link *link, uint64_t deadline_ns)
{
    atomic_store(&link->memory->deadline_ns, deadline_ns);
}

void keeper_continue(struct keeper_link *link, uint64_t deadline_ns)
{
    atomic_store(&link->memory->deadline_ns, deadline_ns);
    atomic_store(&link->memory->continue_stop, atomic_load(&link->memory->stops));
}

void keeper_kill(struct keeper_link *link)
{
    atomic_store(&link->memory->kill, 1);
}
