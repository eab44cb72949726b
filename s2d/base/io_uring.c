/* The io_uring backend of the loop: one ring, one thread.
 *
 * A turn ends in one system call that submits what the turn queued and waits for the first
 * completion or the next timer. SINGLE_ISSUER with DEFER_TASKRUN keeps completions out of the
 * middle of our code; there is no SQPOLL (it starves the other threads of a small machine) and no
 * zero-copy send (it copies on loopback and costs more under 64 KiB).
 *
 * Every submission's user_data is a struct io_op; done() gets the raw result. What other threads
 * send comes through a list with a mutex and an eventfd that the ring reads. */
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "s2d/base/io_uring_private.h"

#define QUEUE_DEPTH 512
#define WORKERS 2
#define TURN_COMPLETIONS 8

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

struct io_uring_sqe *uring_next_sqe(struct uring *uring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

    while (!sqe) { /* the queue is full: make room; the kernel takes all of it */
        int r = io_uring_submit(&uring->ring);

        assert(r >= 0 || r == -EBUSY || r == -EAGAIN || r == -EINTR);
        sqe = io_uring_get_sqe(&uring->ring);
    }
    return sqe;
}

void uring_cancel(struct uring *uring, struct io_op *op)
{
    struct io_uring_sqe *sqe = uring_next_sqe(uring);

    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data(sqe, NULL);
}

void uring_waiting_cancel(void *arg)
{
    struct waiting_op *waiting = arg;

    uring_cancel(uring_of(waiting->op.owner), &waiting->op);
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
    struct io_uring_sqe *sqe = uring_next_sqe(uring);

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

void uring_co_offload(struct io *io, io_callback *fn, void *arg)
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
