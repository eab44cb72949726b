/* s2d-keeper NAME NICE PROGRAM ARGUMENT…: QEMU's parent, which outlives the daemon. It sees to it
 * that QEMU runs only while the daemon's lease allows it. Its working directory is the VM's folder,
 * descriptor 3 the shared memory (keeper_format.h). NAME is for people who look at `ps`; NICE is
 * QEMU's nice value. Its states, and what it decides in each turn: keeper_turn.h.
 *
 * Why this keeps one copy of a VM in every crash:
 *   - The daemon dies, hangs or loses its lease: the deadline stays behind, QEMU is stopped. A stop
 * ends only if the daemon names its number: an order that was given before the stop, or for an
 * earlier one, cannot end it. Each turn sends SIGSTOP anew, so nobody else continues QEMU for
 * longer than a turn.
 *   - The keeper dies: QEMU gets SIGKILL from the kernel (PR_SET_PDEATHSIG); the keeper has one
 * thread, so the parent whose death counts is the process.
 *   - QEMU inherits the lock: who gets it knows that neither keeper nor QEMU exists. The keeper
 * exits only after it has reaped QEMU.
 *   - The machine sleeps: CLOCK_BOOTTIME goes on, so the first turn after it stops QEMU.
 *   - The machine is so busy that QEMU's main thread gets no turn: a stop sent to the process alone
 * waits for one thread to take it, and the others run on. So each thread is sent its own, which it
 * meets before its next instruction.
 * It allocates nothing after start, holds its memory (mlockall) and asks for a real-time priority,
 * so that a machine short of memory or CPU does not make it late. What it cannot give is fenced by
 * the disks' incarnation. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hv/keeper_turn.h"

struct keeper {
    struct keeper_memory *memory;
    pid_t qemu;
    int threads; /* /proc/QEMU/task; -1: cannot be read */
    int wait_status;
    bool killed;
    sigset_t waiting_mask; /* signals come only while it waits */
};

static volatile sig_atomic_t terminated;

static void on_signal(int number)
{
    if (number == SIGTERM)
        terminated = 1;
}

static uint64_t now_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_BOOTTIME, &time);
    return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "s2d-keeper: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- the turn ---- */

static enum keeper_state state(const struct keeper *keeper)
{
    return (enum keeper_state)atomic_load(&keeper->memory->state);
}

static void move(struct keeper *keeper, enum keeper_state next)
{
    atomic_store(&keeper->memory->state, next);
}

/* Takes note of what became of QEMU. Returns false when it is gone. */
static bool reap(struct keeper *keeper)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(keeper->qemu, &status, WNOHANG | WUNTRACED)) > 0) {
        if (!WIFSTOPPED(status)) {
            keeper->wait_status = status;
            return false;
        }
        if (state(keeper) == KEEPER_STOPPING)
            move(keeper, KEEPER_STOPPED);
    }
    return true;
}

/* Each thread by itself (the essay says why), and the process, should its threads not be readable.
 */
static void stop_qemu(const struct keeper *keeper)
{
    static _Alignas(struct dirent64) char entries[8192];
    ssize_t length;

    kill(keeper->qemu, SIGSTOP);
    if (keeper->threads < 0 || lseek(keeper->threads, 0, SEEK_SET) < 0)
        return;
    while ((length = getdents64(keeper->threads, entries, sizeof(entries))) > 0) {
        for (ssize_t at = 0; at < length;) {
            const struct dirent64 *entry = (const struct dirent64 *)(entries + at);

            if (entry->d_name[0] != '.')
                tgkill(keeper->qemu, (pid_t)strtol(entry->d_name, NULL, 10), SIGSTOP);
            at += entry->d_reclen;
        }
    }
}

static void take_turn(struct keeper *keeper)
{
    switch (keeper_turn(keeper->memory, now_ns(), terminated)) {
    case KEEPER_NO_SIGNAL:
        break;
    case KEEPER_STOP:
        stop_qemu(keeper);
        break;
    case KEEPER_CONTINUE:
        kill(keeper->qemu, SIGCONT);
        break;
    case KEEPER_KILL:
        keeper->killed = true;
        kill(keeper->qemu, SIGKILL);
        break;
    }
}

/* Until a signal, the deadline, or the end of the turn. */
static void wait_for_news(const struct keeper *keeper)
{
    struct timespec wait = {.tv_nsec = (long)keeper_wait_ns(keeper->memory, now_ns())};

    ppoll(NULL, 0, &wait, &keeper->waiting_mask);
}

/* ---- start and end ---- */

/* Replaces the file in one step, so that a reader never sees half of it. */
static bool write_file(const char *name, const char *text)
{
    ssize_t length = (ssize_t)strlen(text);
    int fd = open("keeper.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool written = fd >= 0 && write(fd, text, (size_t)length) == length;

    if (fd >= 0)
        close(fd);
    return written && rename("keeper.new", name) == 0;
}

/* When this process started, in the kernel's ticks: with the pid it names the process for good. */
static unsigned long long start_ticks(void)
{
    unsigned long long ticks = 0;
    char text[1024];
    const char *at;
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    if (length <= 0)
        die("/proc/self/stat");
    close(fd);
    text[length] = 0;
    at = strrchr(text, ')'); /* field 2 ends there; the start is field 22 */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at || sscanf(at, "%llu", &ticks) != 1)
        die("/proc/self/stat");
    return ticks;
}

static void write_record(const struct keeper *keeper)
{
    char text[160];

    snprintf(text, sizeof(text), KEEPER_RECORD_FORMAT, getpid(), start_ticks(),
             (unsigned long long)keeper->memory->vm_id,
             (unsigned long long)keeper->memory->incarnation);
    unlink(KEEPER_ENDED_FILE);
    if (!write_file(KEEPER_RECORD_FILE, text))
        die(KEEPER_RECORD_FILE); /* no later daemon would find what it started */
    atomic_store(&keeper->memory->keeper_pid, (uint64_t)getpid());
}

static void finish(struct keeper *keeper)
{
    struct keeper_memory *memory = keeper->memory;
    char text[160];

    snprintf(text, sizeof(text), KEEPER_ENDED_FORMAT, (unsigned long long)memory->vm_id,
             (unsigned long long)memory->incarnation, keeper->wait_status, keeper->killed);
    if (!write_file(KEEPER_ENDED_FILE, text))
        perror("s2d-keeper: " KEEPER_ENDED_FILE); /* then it counts as failed */
    atomic_store(&memory->wait_status, (uint64_t)keeper->wait_status);
    atomic_store(&memory->killed, keeper->killed);
    move(keeper, KEEPER_ENDED);
}

/* Only one keeper to a folder. The descriptor is left open across exec on purpose: QEMU holds the
 * lock too. */
static void take_lock(void)
{
    int fd = open(KEEPER_LOCK_FILE, O_RDWR | O_CREAT, 0600);

    if (fd < 0)
        die(KEEPER_LOCK_FILE);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        exit(KEEPER_EXIT_LOCKED);
}

static struct keeper_memory *map_memory(void)
{
    struct keeper_memory *memory =
        mmap(NULL, sizeof(*memory), PROT_READ | PROT_WRITE, MAP_SHARED, KEEPER_MEMORY_FD, 0);

    if (memory == MAP_FAILED)
        die("shared memory");
    if (memory->magic != KEEPER_MAGIC || memory->version != KEEPER_VERSION) {
        errno = EPROTO;
        die("shared memory");
    }
    fcntl(KEEPER_MEMORY_FD, F_SETFD, FD_CLOEXEC);
    return memory;
}

/* What fails here makes the keeper less punctual, not wrong. */
static void be_punctual(void)
{
    struct sched_param priority = {.sched_priority = 1};

    mlockall(MCL_CURRENT | MCL_FUTURE);
    if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority) < 0)
        setpriority(PRIO_PROCESS, 0, -20);
}

/* After vfork(): on its parent's stack, while that waits. */
static _Noreturn void become_qemu(pid_t keeper, int nice_value, char **argv)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0); /* the daemon's, inherited */
    setpriority(PRIO_PROCESS, 0, nice_value);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != keeper)
        _exit(126); /* the keeper died before its death would have been told */
    execvp(argv[0], argv);
    fprintf(stderr, "s2d-keeper: %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static void prepare_signals(struct keeper *keeper)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t mask;

    sigemptyset(&keeper->waiting_mask);
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigaddset(&mask, SIGTERM);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    sigaction(SIGCHLD, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static int open_threads(pid_t pid)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void keep(struct keeper *keeper, int nice_value, char **argv)
{
    pid_t self = getpid();

    prepare_signals(keeper);
    be_punctual();
    write_record(keeper);
    /* vfork() returns when QEMU's program has been loaded. A child that is stopped any earlier
     * could have been so before it asked to die with us: it would stay, and hold the lock. */
    keeper->qemu = vfork();
    if (keeper->qemu < 0)
        die("vfork");
    if (keeper->qemu == 0)
        become_qemu(self, nice_value, argv);
    keeper->threads = open_threads(keeper->qemu);
    atomic_store(&keeper->memory->started_ns, now_ns());
    atomic_store(&keeper->memory->qemu_pid, (uint64_t)keeper->qemu);
    move(keeper, KEEPER_RUNNING);
    while (reap(keeper)) {
        take_turn(keeper);
        wait_for_news(keeper);
    }
    finish(keeper);
}

/* The daemon waits for the first process only: its exit status says whether the second one keeps.
 */
int main(int argc, char **argv)
{
    struct keeper keeper = {0};
    pid_t pid;

    if (argc < 4) {
        fprintf(stderr, "usage: s2d-keeper NAME NICE PROGRAM ARGUMENT...\n");
        return 2;
    }
    umask(0077);
    close_range(KEEPER_MEMORY_FD + 1, ~0u, 0);
    keeper.memory = map_memory();
    take_lock();
    pid = fork();
    if (pid < 0)
        die("fork");
    if (pid > 0)
        return 0;
    setsid();
    keep(&keeper, (int)strtol(argv[2], NULL, 10), argv + 3);
    return 0;
}
