#include "hv/accel.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* Its standard output is the pipe; nothing else of ours gets into it. */
static int spawn_probe(const char *probe, int output, pid_t *ret_pid)
{
    char *argv[] = {(char *)probe, NULL};
    posix_spawn_file_actions_t actions;
    int r;

    posix_spawn_file_actions_init(&actions);
    r = posix_spawn_file_actions_adddup2(&actions, output, 1);
    if (r == 0)
        r = posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    if (r == 0)
        r = posix_spawn(ret_pid, probe, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return -r;
}

/* Returns its exit status, -ETIMEDOUT (also when it used up its CPU time) or -EIO (killed by
 * another signal). */
static int wait_probe(pid_t pid)
{
    struct pollfd ended = {.fd = pidfd_open(pid, 0), .events = POLLIN};
    int status = 0;
    int r = poll(&ended, 1, ACCEL_PROBE_TIMEOUT_MS);

    close(ended.fd);
    if (r != 1) {
        kill(pid, SIGKILL);
        /* One that hangs inside the kernel does not even die: it is left to init rather than waited
         * for. */
        for (int i = 0; i < 100 && waitpid(pid, NULL, WNOHANG) == 0; i++)
            poll(NULL, 0, 10);
        return -ETIMEDOUT;
    }
    if (waitpid(pid, &status, 0) != pid)
        return -EIO;
    if (WIFSIGNALED(status))
        return WTERMSIG(status) == SIGXCPU ? -ETIMEDOUT : -EIO;
    return WEXITSTATUS(status);
}

static void read_why(int fd, char why[ACCEL_WHY_BYTES])
{
    ssize_t length = read(fd, why, ACCEL_WHY_BYTES - 1);

    why[MAX(length, 0)] = 0;
    why[strcspn(why, "\n")] = 0;
}

int accel_probe_kvm(const char *probe, char ret_why[ACCEL_WHY_BYTES])
{
    int pipe_fds[2];
    pid_t pid;
    int r;

    if (access("/dev/kvm", F_OK) < 0) {
        snprintf(ret_why, ACCEL_WHY_BYTES, "there is no /dev/kvm");
        return -ENODEV;
    }
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return -errno;
    r = spawn_probe(probe, pipe_fds[1], &pid);
    close(pipe_fds[1]);
    if (r == 0)
        r = wait_probe(pid);
    else
        snprintf(ret_why, ACCEL_WHY_BYTES, "cannot run %.100s: %s", probe, strerror(-r));
    if (r == -ETIMEDOUT)
        snprintf(
            ret_why, ACCEL_WHY_BYTES,
            "/dev/kvm opens, but a guest that takes 50 ms is not done after seconds: it hangs or "
            "is interpreted");
    else if (r > 0)
        read_why(pipe_fds[0], ret_why);
    else if (r == -EIO)
        snprintf(ret_why, ACCEL_WHY_BYTES, "the probe was killed by a signal");
    else if (r == 0)
        snprintf(ret_why, ACCEL_WHY_BYTES, "KVM runs guests");
    close(pipe_fds[0]);
    return r > 0 ? -EIO : r;
}
