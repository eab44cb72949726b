/* The io_uring backend of the loop: one ring, one thread.
 *
 * A turn ends in one system call that submits what the turn queued and waits for the first
 * completion or the next timer. SINGLE_ISSUER with DEFER_TASKRUN keeps completions out of the
 * middle of our code; there is no SQPOLL (it starves the other threads of a small machine) and no
 * zero-copy send (it copies on loopback and costs more under 64 KiB).
 *
 * Every submission's user_data is a struct io_op; done() gets the raw result. What other threads
 * send comes through a list with a mutex and an eventfd that the ring reads. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "s2d/base/io_backend.h"

#define QUEUE_DEPTH 512
#define WORKERS 2
#define WORKERS_MAX 16
#define TURN_COMPLETIONS 8
#define LISTEN_BACKLOG 128
#define RANDOM_WORDS 64

struct uring {
    struct io io;
    struct io_uring ring;
    uint64_t random[RANDOM_WORDS]; /* drawn ahead from the kernel */
    unsigned random_left;

    /* from other threads */
    pthread_mutex_t posted_lock;
    struct list posted; /* struct io_task */
    int event_fd;
    uint64_t event_value;
    struct iovec event_iov;
    struct io_op event_op;

    /* co_offload() */
    pthread_t workers[WORKERS_MAX];
    unsigned worker_count;
    pthread_mutex_t jobs_lock;
    pthread_cond_t jobs_cond;
    struct list jobs; /* struct offload_job */
    bool workers_stop;
};

struct uring_file {
    struct io_file file;
    int fd;
};

struct uring_listener {
    struct io_listener listener;
    int fd;
    struct io_op *accept; /* pending */
    bool shut;
};

struct uring_stream {
    struct io_stream stream;
    int fd;
    struct msghdr message; /* of the send under way */
};

struct uring_poll {
    struct io_poll poll;
    int fd;
    struct io_op *op; /* pending */
    bool shut;
};

static struct uring *uring_of(struct io *io)
{
    return container_of(io, struct uring, io);
}

/* ---- clock and randomness ---- */

static uint64_t clock_read(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * SEC + now.tv_nsec;
}

static uint64_t uring_clock_ns(struct io *io)
{
    (void)io;
    return clock_read(CLOCK_BOOTTIME);
}

static uint64_t uring_wall_ns(struct io *io)
{
    (void)io;
    return clock_read(CLOCK_REALTIME);
}

static uint64_t uring_random(struct io *io)
{
    struct uring *uring = uring_of(io);

    if (uring->random_left == 0) {
        ssize_t got = getrandom(uring->random, sizeof(uring->random), 0);

        assert(got ==
               (ssize_t)sizeof(uring->random)); /* up to 256 bytes cannot fail: see getrandom(2) */
        uring->random_left = RANDOM_WORDS;
    }
    return uring->random[--uring->random_left];
}

/* ---- submitting ---- */

static struct io_uring_sqe *next_sqe(struct uring *uring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

    while (!sqe) { /* the queue is full: make room; the kernel takes all of it */
        int r = io_uring_submit(&uring->ring);

        assert(r >= 0 || r == -EBUSY || r == -EAGAIN || r == -EINTR);
        sqe = io_uring_get_sqe(&uring->ring);
    }
    return sqe;
}

/* Ends a pending operation early; its done() still comes, with -ECANCELED or what it reached. */
static void submit_cancel(struct uring *uring, struct io_op *op)
{
    struct io_uring_sqe *sqe = next_sqe(uring);

    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data(sqe, NULL);
}

struct waiting_op { /* an operation that a coroutine waits for */
    struct io_op op;
    struct co *co;
    int result;
};

static void waiting_done(struct io_op *op, int result)
{
    struct waiting_op *waiting = container_of(op, struct waiting_op, op);

    waiting->result = result;
    co_wake(waiting->co);
}

static void waiting_init(struct waiting_op *waiting, struct io *io)
{
    memset(waiting, 0, sizeof(*waiting));
    waiting->op.done = waiting_done;
    waiting->op.owner = io;
    waiting->co = co_self();
}

static void waiting_cancel(void *arg)
{
    struct waiting_op *waiting = arg;

    submit_cancel(uring_of(waiting->op.owner), &waiting->op);
}

/* ---- turns ---- */

/* A few at a time: what they lead to (reads, sends) leaves at the end of the turn, and the device
 * and the peers would wait for it while we go through a long list, as we then wait for them. */
static void collect_completions(struct uring *uring)
{
    struct io_uring_cqe *cqe;
    unsigned head, seen = 0;

    io_uring_for_each_cqe(&uring->ring, head, cqe)
    {
        struct io_op *op = io_uring_cqe_get_data(cqe);

        if (op)
            op->done(op, cqe->res);
        if (++seen == TURN_COMPLETIONS)
            break;
    }
    io_uring_cq_advance(&uring->ring, seen);
}

static void submit_and_wait(struct uring *uring)
{
    uint64_t deadline_ns = loop_next_deadline_ns(&uring->io);
    struct __kernel_timespec timeout;
    struct io_uring_cqe *cqe;
    uint64_t now_ns;
    int r;

    if (io_uring_cq_ready(&uring->ring) > 0) {
        r = io_uring_submit(&uring->ring); /* more is here already */
    } else if (deadline_ns == UINT64_MAX) {
        r = io_uring_submit_and_wait(&uring->ring, 1);
    } else {
        now_ns = uring_clock_ns(&uring->io);
        deadline_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
        timeout.tv_sec = deadline_ns / SEC;
        timeout.tv_nsec = deadline_ns % SEC;
        r = io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, &timeout, NULL);
    }
    assert(r >= 0 || r == -ETIME || r == -EINTR || r == -EAGAIN || r == -EBUSY);
}

static void uring_run(struct io *io)
{
    struct uring *uring = uring_of(io);

    io->now_ns = uring_clock_ns(io);
    for (;;) {
        loop_turn(io);
        if (io->stopping)
            break;
        submit_and_wait(uring);
        io->now_ns = uring_clock_ns(io);
        collect_completions(uring);
    }
}

/* ---- other threads ---- */

static void post(struct uring *uring, struct io_task *task)
{
    uint64_t one = 1;
    ssize_t written;

    pthread_mutex_lock(&uring->posted_lock);
    list_push_back(&uring->posted, &task->node);
    pthread_mutex_unlock(&uring->posted_lock);
    written = write(uring->event_fd, &one, sizeof(one));
    assert(written == sizeof(one));
}

static void uring_post(struct io *io, struct io_task *task)
{
    post(uring_of(io), task);
}

static void event_arm(struct uring *uring)
{
    struct io_uring_sqe *sqe = next_sqe(uring);

    io_uring_prep_read(sqe, uring->event_fd, &uring->event_value, sizeof(uring->event_value), 0);
    io_uring_sqe_set_data(sqe, &uring->event_op);
}

static void event_done(struct io_op *op, int result)
{
    struct uring *uring = container_of(op, struct uring, event_op);

    if (result == -ECANCELED)
        return;
    pthread_mutex_lock(&uring->posted_lock);
    list_splice(&uring->posted, &uring->io.queued);
    pthread_mutex_unlock(&uring->posted_lock);
    event_arm(uring);
}

struct offload_job { /* on the stack of the waiting coroutine */
    struct list node;
    io_callback *fn;
    void *arg;
    struct co *co;
    struct io_task finished;
};

static void offload_finished(void *arg)
{
    co_wake(((struct offload_job *)arg)->co);
}

static void *worker_main(void *arg)
{
    struct uring *uring = arg;

    pthread_mutex_lock(&uring->jobs_lock);
    for (;;) {
        struct list *node = list_pop_front(&uring->jobs);
        struct offload_job *job;

        if (!node && uring->workers_stop)
            break;
        if (!node) {
            pthread_cond_wait(&uring->jobs_cond, &uring->jobs_lock);
            continue;
        }
        pthread_mutex_unlock(&uring->jobs_lock);
        job = list_entry(node, struct offload_job, node);
        job->fn(job->arg);
        post(uring, &job->finished);
        pthread_mutex_lock(&uring->jobs_lock);
    }
    pthread_mutex_unlock(&uring->jobs_lock);
    return NULL;
}

static void uring_co_offload(struct io *io, io_callback *fn, void *arg)
{
    struct uring *uring = uring_of(io);
    struct offload_job job = {.fn = fn, .arg = arg, .co = co_self()};

    io_task_init(&job.finished, offload_finished, &job);
    pthread_mutex_lock(&uring->jobs_lock);
    list_push_back(&uring->jobs, &job.node);
    pthread_cond_signal(&uring->jobs_cond);
    pthread_mutex_unlock(&uring->jobs_lock);
    co_wait();
}

static int workers_start(struct uring *uring, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        int r = pthread_create(&uring->workers[i], NULL, worker_main, uring);

        if (r != 0)
            return -r;
        uring->worker_count++;
    }
    return 0;
}

static void workers_stop(struct uring *uring)
{
    pthread_mutex_lock(&uring->jobs_lock);
    uring->workers_stop = true;
    pthread_cond_broadcast(&uring->jobs_cond);
    pthread_mutex_unlock(&uring->jobs_lock);
    for (unsigned i = 0; i < uring->worker_count; i++)
        pthread_join(uring->workers[i], NULL);
}

/* ---- files ---- */

static struct uring_file *file_of(struct io_file *file)
{
    return container_of(file, struct uring_file, file);
}

static bool device_is_rotational(dev_t device)
{
    char path[128], value = '0';
    int fd;

    /* a partition's queue is its disk's, one folder up */
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/queue/rotational", major(device),
             minor(device));
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../queue/rotational", major(device),
                 minor(device));
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0)
        return false;
    if (read(fd, &value, 1) != 1)
        value = '0';
    close(fd);
    return value == '1';
}

struct open_job {
    const char *path;
    unsigned flags;
    struct uring_file *file;
    int result;
};

static int file_look(struct uring_file *file)
{
    struct stat status;

    if (fstat(file->fd, &status) < 0)
        return -errno;
    if (S_ISDIR(status.st_mode))
        return -EISDIR;
    file->file.info.size_bytes = status.st_size;
    if (!S_ISBLK(status.st_mode))
        return 0;
    file->file.info.is_block_device = true;
    file->file.info.is_rotational = device_is_rotational(status.st_rdev);
    if (ioctl(file->fd, BLKGETSIZE64, &file->file.info.size_bytes) < 0)
        return -errno;
    return 0;
}

static int open_flags(const struct open_job *job)
{
    int flags = O_CLOEXEC | (job->flags & IO_OPEN_READ_ONLY ? O_RDONLY : O_RDWR);
    struct stat status;

    if (job->flags & IO_OPEN_DIRECT)
        flags |= O_DIRECT;
    if (job->flags & IO_OPEN_CREATE)
        flags |= O_CREAT;
    if (job->flags & IO_OPEN_EXCLUSIVE)
        flags |= O_EXCL;
    if ((job->flags & IO_OPEN_LOCK) && stat(job->path, &status) == 0 && S_ISBLK(status.st_mode))
        flags |= O_EXCL; /* without O_CREAT: only one opener of the device */
    return flags;
}

static int open_blocking(struct open_job *job)
{
    job->file->fd = open(job->path, open_flags(job), 0600);
    if (job->file->fd < 0)
        return -errno;
    if ((job->flags & IO_OPEN_LOCK) && flock(job->file->fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    return file_look(job->file);
}

static void open_job_run(void *arg)
{
    struct open_job *job = arg;

    job->result = open_blocking(job);
}

static void uring_file_close(struct io_file *file)
{
    struct uring_file *uring_file = file_of(file);

    if (uring_file->fd >= 0)
        close(uring_file->fd);
    free(uring_file);
}

static int uring_co_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
    struct uring_file *file = calloc(1, sizeof(*file));
    struct open_job job = {.path = path, .flags = flags, .file = file};

    if (!file)
        return -ENOMEM;
    file->file.io = io;
    file->fd = -1;
    uring_co_offload(io, open_job_run, &job);
    if (job.result < 0) {
        uring_file_close(&file->file);
        return job.result;
    }
    *ret_file = &file->file;
    return 0;
}

/* Reads and writes remember in the op what the kernel may leave undone: op->extra[0] holds the
 * caller's done(), extra[1] a private copy of the iov once a transfer came back short. */
enum file_op_kind { FILE_READ, FILE_WRITE };

static void file_submit(struct uring *uring, int fd, struct io_op *op)
{
    struct io_uring_sqe *sqe = next_sqe(uring);
    int rw_flags = op->flags & IO_WRITE_DSYNC ? RWF_DSYNC : 0;

    if (op->kind == FILE_READ)
        io_uring_prep_readv(sqe, fd, op->iov, op->iov_count, op->offset);
    else
        io_uring_prep_writev2(sqe, fd, op->iov, op->iov_count, op->offset, rw_flags);
    io_uring_sqe_set_data(sqe, op);
}

static void file_finish(struct io_op *op, int result)
{
    free((void *)(uintptr_t)op->extra[1]);
    op->done = (void (*)(struct io_op *, int))(uintptr_t)op->extra[0];
    op->done(op, result);
}

static size_t iov_bytes(const struct iovec *iov, int count)
{
    size_t bytes = 0;

    for (int i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* Makes op->iov the part after the first `done` bytes. */
static int iov_advance(struct io_op *op, size_t done)
{
    struct iovec *iov = (struct iovec *)(uintptr_t)op->extra[1];

    if (!iov) {
        iov = malloc(op->iov_count * sizeof(*iov));
        if (!iov)
            return -ENOMEM;
        memcpy(iov, op->iov, op->iov_count * sizeof(*iov));
        op->extra[1] = (uintptr_t)iov;
        op->iov = iov;
    }
    iov = (struct iovec *)op->iov;
    while (done >= iov->iov_len) {
        done -= iov->iov_len;
        iov++;
        op->iov_count--;
    }
    iov->iov_base = (char *)iov->iov_base + done;
    iov->iov_len -= done;
    op->iov = iov;
    return 0;
}

static void file_op_done(struct io_op *op, int result)
{
    struct uring_file *file = op->owner;
    size_t wanted = iov_bytes(op->iov, op->iov_count);

    if (result == -EAGAIN || result == -EINTR)
        result = 0; /* nothing moved: try the rest again, which is all */
    else if (result == 0 && wanted > 0)
        result = -EIO; /* the end of the file */
    if (result < 0 || (size_t)result == wanted) {
        file_finish(op, result);
        return;
    }
    if (result > 0) {
        int r = iov_advance(op, result);

        if (r < 0) {
            file_finish(op, r);
            return;
        }
        op->offset += result;
    }
    file_submit(uring_of(file->file.io), file->fd, op);
}

static void file_start(struct io_file *file, struct io_op *op, const struct iovec *iov,
                       int iov_count, uint64_t offset)
{
    op->owner = file_of(file);
    op->iov = iov;
    op->iov_count = iov_count;
    op->offset = offset;
    op->extra[0] = (uintptr_t)op->done;
    op->extra[1] = 0;
    op->done = file_op_done;
    file_submit(uring_of(file->io), file_of(file)->fd, op);
}

static void uring_file_readv(struct io_file *file, struct io_op *op, const struct iovec *iov,
                             int iov_count, uint64_t offset)
{
    op->kind = FILE_READ;
    op->flags = 0;
    file_start(file, op, iov, iov_count, offset);
}

static void uring_file_writev(struct io_file *file, struct io_op *op, const struct iovec *iov,
                              int iov_count, uint64_t offset, unsigned flags)
{
    op->kind = FILE_WRITE;
    op->flags = flags;
    file_start(file, op, iov, iov_count, offset);
}

static void uring_file_sync(struct io_file *file, struct io_op *op)
{
    struct io_uring_sqe *sqe = next_sqe(uring_of(file->io));

    io_uring_prep_fsync(sqe, file_of(file)->fd, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data(sqe, op);
}

static void uring_file_discard(struct io_file *file, struct io_op *op, uint64_t offset,
                               uint64_t length)
{
    struct io_uring_sqe *sqe = next_sqe(uring_of(file->io));

    io_uring_prep_fallocate(sqe, file_of(file)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            offset, length);
    io_uring_sqe_set_data(sqe, op);
}

struct truncate_job {
    int fd;
    uint64_t size_bytes;
    int result;
};

static void truncate_job_run(void *arg)
{
    struct truncate_job *job = arg;

    job->result = ftruncate(job->fd, job->size_bytes) < 0 ? -errno : 0;
}

static int uring_co_truncate(struct io_file *file, uint64_t size_bytes)
{
    struct truncate_job job = {.fd = file_of(file)->fd, .size_bytes = size_bytes};

    uring_co_offload(file->io, truncate_job_run, &job);
    if (job.result == 0)
        file->info.size_bytes = size_bytes;
    return job.result;
}

/* ---- addresses ---- */

union socket_address {
    struct sockaddr any;
    struct sockaddr_in ip4;
    struct sockaddr_in6 ip6;
    struct sockaddr_un local;
};

static int parse_unix(const char *path, union socket_address *address, socklen_t *ret_length)
{
    address->local = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (path[0] == '\0' || strlen(path) >= sizeof(address->local.sun_path))
        return -EINVAL;
    strcpy(address->local.sun_path, path);
    *ret_length = sizeof(address->local);
    return 0;
}

static int parse_port(const char *text, uint16_t *ret_port)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);

    if (text[0] < '0' || text[0] > '9' || *end || port > UINT16_MAX)
        return -EINVAL;
    *ret_port = port;
    return 0;
}

static int parse_address(const char *text, union socket_address *address, socklen_t *ret_length)
{
    char host[IO_ADDRESS_MAX];
    const char *colon = strrchr(text, ':');
    uint16_t port;
    size_t length;

    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(text + 5, address, ret_length);
    if (!colon || (size_t)(colon - text) >= sizeof(host) || parse_port(colon + 1, &port) < 0)
        return -EINVAL;
    length = colon - text;
    memcpy(host, text, length);
    host[length] = '\0';

    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, host, &address->ip4.sin_addr) == 1) {
        address->ip4.sin_family = AF_INET;
        address->ip4.sin_port = htons(port);
        *ret_length = sizeof(address->ip4);
        return 0;
    }
    if (length < 2 || host[0] != '[' || host[length - 1] != ']')
        return -EINVAL;
    host[length - 1] = '\0';
    if (inet_pton(AF_INET6, host + 1, &address->ip6.sin6_addr) != 1)
        return -EINVAL;
    address->ip6.sin6_family = AF_INET6;
    address->ip6.sin6_port = htons(port);
    *ret_length = sizeof(address->ip6);
    return 0;
}

static void format_address(const union socket_address *address, char *text)
{
    char host[INET6_ADDRSTRLEN] = "?";

    switch (address->any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &address->ip4.sin_addr, host, sizeof(host));
        snprintf(text, IO_ADDRESS_MAX, "%s:%u", host, ntohs(address->ip4.sin_port));
        break;
    case AF_INET6:
        inet_ntop(AF_INET6, &address->ip6.sin6_addr, host, sizeof(host));
        snprintf(text, IO_ADDRESS_MAX, "[%s]:%u", host, ntohs(address->ip6.sin6_port));
        break;
    default:
        snprintf(text, IO_ADDRESS_MAX, "unix:%s", address->local.sun_path);
    }
}

/* ---- streams ---- */

static struct uring_stream *stream_of(struct io_stream *stream)
{
    return container_of(stream, struct uring_stream, stream);
}

static int stream_new(struct io *io, int fd, const union socket_address *peer,
                      struct io_stream **ret_stream)
{
    struct uring_stream *stream = calloc(1, sizeof(*stream));
    int on = 1;

    if (!stream) {
        close(fd);
        return -ENOMEM;
    }
    if (peer->any.sa_family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    stream->stream.io = io;
    stream->fd = fd;
    format_address(peer, stream->stream.peer);
    *ret_stream = &stream->stream;
    return 0;
}

static void uring_stream_recv(struct io_stream *stream, struct io_op *op, void *buffer,
                              size_t length)
{
    struct io_uring_sqe *sqe = next_sqe(uring_of(stream->io));

    io_uring_prep_recv(sqe, stream_of(stream)->fd, buffer, length, 0);
    io_uring_sqe_set_data(sqe, op);
}

static void send_submit(struct uring_stream *stream, struct io_op *op)
{
    struct io_uring_sqe *sqe = next_sqe(uring_of(stream->stream.io));

    stream->message =
        (struct msghdr){.msg_iov = (struct iovec *)op->iov, .msg_iovlen = op->iov_count};
    io_uring_prep_sendmsg(sqe, stream->fd, &stream->message, MSG_NOSIGNAL | MSG_WAITALL);
    io_uring_sqe_set_data(sqe, op);
}

static void send_done(struct io_op *op, int result)
{
    struct uring_stream *stream = op->owner;
    struct iovec *iov = (struct iovec *)op->iov;
    size_t sent = MAX(result, 0);

    if (result == -EAGAIN || result == -EINTR)
        result = 0;
    while (op->iov_count > 0 && sent >= iov->iov_len) {
        sent -= iov->iov_len;
        iov++;
        op->iov_count--;
    }
    if (result < 0 || op->iov_count == 0) {
        op->done = (void (*)(struct io_op *, int))(uintptr_t)op->extra[0];
        op->done(op, MIN(result, 0));
        return;
    }
    iov->iov_base = (char *)iov->iov_base + sent;
    iov->iov_len -= sent;
    op->iov = iov;
    send_submit(stream, op);
}

static void uring_stream_sendv(struct io_stream *stream, struct io_op *op, struct iovec *iov,
                               int iov_count)
{
    op->owner = stream_of(stream);
    op->iov = iov;
    op->iov_count = iov_count;
    op->extra[0] = (uintptr_t)op->done;
    op->done = send_done;
    send_submit(stream_of(stream), op);
}

static void uring_stream_shutdown(struct io_stream *stream)
{
    shutdown(stream_of(stream)->fd, SHUT_RDWR);
}

static void uring_stream_close(struct io_stream *stream)
{
    close(stream_of(stream)->fd);
    free(stream_of(stream));
}

/* ---- listening and connecting ---- */

static struct uring_listener *listener_of(struct io_listener *listener)
{
    return container_of(listener, struct uring_listener, listener);
}

/* A socket file that nobody listens on is a dead predecessor's. */
static bool unix_path_is_dead(const union socket_address *address, socklen_t length)
{
    struct stat status;
    bool dead;
    int fd;

    if (lstat(address->local.sun_path, &status) < 0 || !S_ISSOCK(status.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    dead = connect(fd, &address->any, length) < 0 && errno == ECONNREFUSED;
    close(fd);
    return dead;
}

static int listen_on(int fd, const union socket_address *address, socklen_t length)
{
    int on = 1;

    if (address->any.sa_family == AF_UNIX) {
        if (unix_path_is_dead(address, length))
            unlink(address->local.sun_path);
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    }
    if (bind(fd, &address->any, length) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
        return -errno;
    return 0;
}

static int uring_listen(struct io *io, const char *text, struct io_listener **ret_listener)
{
    struct uring_listener *listener;
    union socket_address address;
    socklen_t length;
    int fd, r;

    r = parse_address(text, &address, &length);
    if (r < 0)
        return r;
    fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    r = listen_on(fd, &address, length);
    listener = r < 0 ? NULL : calloc(1, sizeof(*listener));
    if (!listener) {
        close(fd);
        return r < 0 ? r : -ENOMEM;
    }
    length = sizeof(address);
    if (address.any.sa_family != AF_UNIX)
        getsockname(fd, &address.any, &length);
    listener->listener.io = io;
    listener->fd = fd;
    format_address(&address, listener->listener.address);
    *ret_listener = &listener->listener;
    return 0;
}

static int uring_co_accept(struct io_listener *listener, struct io_stream **ret_stream)
{
    struct uring_listener *uring_listener = listener_of(listener);
    union socket_address peer = {.any.sa_family = AF_UNIX};
    socklen_t length = sizeof(peer);
    struct io_uring_sqe *sqe;
    struct waiting_op waiting;
    int r;

    if (uring_listener->shut)
        return -ECANCELED;
    waiting_init(&waiting, listener->io);
    r = co_set_cancel(waiting_cancel, &waiting);
    if (r < 0)
        return r;
    sqe = next_sqe(uring_of(listener->io));
    io_uring_prep_accept(sqe, uring_listener->fd, &peer.any, &length, SOCK_CLOEXEC);
    io_uring_sqe_set_data(sqe, &waiting.op);
    uring_listener->accept = &waiting.op;
    co_wait();
    uring_listener->accept = NULL;
    co_clear_cancel();
    if (waiting.result < 0)
        return waiting.result;
    return stream_new(listener->io, waiting.result, &peer, ret_stream);
}

static void uring_listener_shutdown(struct io_listener *listener)
{
    struct uring_listener *uring_listener = listener_of(listener);

    uring_listener->shut = true;
    if (uring_listener->accept)
        submit_cancel(uring_of(listener->io), uring_listener->accept);
}

static void uring_listener_close(struct io_listener *listener)
{
    struct uring_listener *uring_listener = listener_of(listener);

    assert(!uring_listener->accept);
    if (strncmp(listener->address, "unix:", 5) == 0)
        unlink(listener->address + 5);
    close(uring_listener->fd);
    free(uring_listener);
}

struct connect_timeout {
    struct waiting_op waiting;
    bool expired;
};

static void connect_expired(void *arg)
{
    struct connect_timeout *timeout = arg;

    timeout->expired = true;
    waiting_cancel(&timeout->waiting);
}

static int co_connect_fd(struct io *io, int fd, const union socket_address *address,
                         socklen_t length, uint64_t timeout_ns)
{
    struct connect_timeout timeout = {.expired = false};
    struct io_uring_sqe *sqe;
    struct io_timer timer;
    int r;

    waiting_init(&timeout.waiting, io);
    r = co_set_cancel(waiting_cancel, &timeout.waiting);
    if (r < 0)
        return r;
    io_timer_init(&timer, connect_expired, &timeout);
    io_timer_arm(io, &timer, deadline_after(io_now_ns(io), timeout_ns));
    sqe = next_sqe(uring_of(io));
    io_uring_prep_connect(sqe, fd, &address->any, length);
    io_uring_sqe_set_data(sqe, &timeout.waiting.op);
    co_wait();
    co_clear_cancel();
    io_timer_disarm(io, &timer);
    if (timeout.waiting.result < 0 && timeout.expired)
        return -ETIMEDOUT;
    return timeout.waiting.result;
}

static int uring_co_connect(struct io *io, const char *text, uint64_t timeout_ns,
                            struct io_stream **ret_stream)
{
    union socket_address address;
    socklen_t length;
    int fd, r;

    r = parse_address(text, &address, &length);
    if (r < 0)
        return r;
    fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    r = co_connect_fd(io, fd, &address, length, timeout_ns);
    if (r < 0) {
        close(fd);
        return r;
    }
    return stream_new(io, fd, &address, ret_stream);
}

/* ---- polling ---- */

static struct uring_poll *poll_of(struct io_poll *poll)
{
    return container_of(poll, struct uring_poll, poll);
}

static int uring_poll_new(struct io *io, int fd, struct io_poll **ret_poll)
{
    struct uring_poll *poll = calloc(1, sizeof(*poll));

    if (!poll)
        return -ENOMEM;
    poll->poll.io = io;
    poll->fd = fd;
    *ret_poll = &poll->poll;
    return 0;
}

static int uring_co_poll(struct io_poll *poll, unsigned events)
{
    struct uring_poll *uring_poll = poll_of(poll);
    struct io_uring_sqe *sqe;
    struct waiting_op waiting;
    int r;

    assert(!uring_poll->op);
    if (uring_poll->shut)
        return -ECANCELED;
    waiting_init(&waiting, poll->io);
    r = co_set_cancel(waiting_cancel, &waiting);
    if (r < 0)
        return r;
    sqe = next_sqe(uring_of(poll->io));
    io_uring_prep_poll_add(sqe, uring_poll->fd, events);
    io_uring_sqe_set_data(sqe, &waiting.op);
    uring_poll->op = &waiting.op;
    co_wait();
    uring_poll->op = NULL;
    co_clear_cancel();
    return waiting.result;
}

static void uring_poll_shutdown(struct io_poll *poll)
{
    struct uring_poll *uring_poll = poll_of(poll);

    uring_poll->shut = true;
    if (uring_poll->op)
        submit_cancel(uring_of(poll->io), uring_poll->op);
}

static void uring_poll_free(struct io_poll *poll)
{
    assert(!poll_of(poll)->op);
    free(poll_of(poll));
}

/* ---- life ---- */

static void uring_free(struct io *io)
{
    struct uring *uring = uring_of(io);

    workers_stop(uring);
    io_uring_queue_exit(&uring->ring); /* ends the read of the eventfd */
    close(uring->event_fd);
    pthread_mutex_destroy(&uring->posted_lock);
    pthread_mutex_destroy(&uring->jobs_lock);
    pthread_cond_destroy(&uring->jobs_cond);
    loop_done(io);
    free(uring);
}

static const struct io_backend_ops uring_ops = {
    .free = uring_free,
    .clock_ns = uring_clock_ns,
    .wall_ns = uring_wall_ns,
    .random = uring_random,
    .run = uring_run,
    .post = uring_post,
    .co_offload = uring_co_offload,
    .co_open = uring_co_open,
    .file_close = uring_file_close,
    .file_readv = uring_file_readv,
    .file_writev = uring_file_writev,
    .file_sync = uring_file_sync,
    .file_discard = uring_file_discard,
    .co_truncate = uring_co_truncate,
    .listen = uring_listen,
    .co_accept = uring_co_accept,
    .listener_shutdown = uring_listener_shutdown,
    .listener_close = uring_listener_close,
    .co_connect = uring_co_connect,
    .stream_recv = uring_stream_recv,
    .stream_sendv = uring_stream_sendv,
    .stream_shutdown = uring_stream_shutdown,
    .stream_close = uring_stream_close,
    .poll_new = uring_poll_new,
    .co_poll = uring_co_poll,
    .poll_shutdown = uring_poll_shutdown,
    .poll_free = uring_poll_free,
};

int io_uring_new(const struct io_uring_options *options, struct io **ret_io)
{
    unsigned depth = options && options->queue_depth ? options->queue_depth : QUEUE_DEPTH;
    unsigned workers = options && options->worker_threads ? options->worker_threads : WORKERS;
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = 8 * depth,
    };
    struct uring *uring = calloc(1, sizeof(*uring));
    int r;

    if (!uring)
        return -ENOMEM;
    uring->event_fd = eventfd(0, EFD_CLOEXEC);
    if (uring->event_fd < 0) {
        r = -errno;
        free(uring);
        return r;
    }
    r = io_uring_queue_init_params(depth, &uring->ring, &params);
    if (r < 0) {
        close(uring->event_fd);
        free(uring);
        return r;
    }
    loop_init(&uring->io, &uring_ops);
    uring->io.now_ns = uring_clock_ns(&uring->io);
    pthread_mutex_init(&uring->posted_lock, NULL);
    pthread_mutex_init(&uring->jobs_lock, NULL);
    pthread_cond_init(&uring->jobs_cond, NULL);
    list_init(&uring->posted);
    list_init(&uring->jobs);
    uring->event_op.done = event_done;
    event_arm(uring);
    r = workers_start(uring, MIN(workers, WORKERS_MAX));
    if (r < 0) {
        uring_free(&uring->io);
        return r;
    }
    *ret_io = &uring->io;
    return 0;
}
