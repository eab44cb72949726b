/* The part of the loop that every backend shares: timers, tasks, the ready list, and the calls of
 * io.h that only hand on. */
#include <stdio.h>

#include "s2d/base/hdd.h"
#include "s2d/base/io_backend.h"
#include "s2d/base/scratch.h"

void loop_init(struct io *io, const struct io_backend_ops *ops)
{
    io->ops = ops;
    io->log = NULL;
    io->stopping = false;
    list_init(&io->ready);
    list_init(&io->queued);
    list_init(&io->faulted);
    list_init(&io->deferred);
    list_init(&io->coroutines);
    list_init(&io->free_stacks);
    io->heap = NULL;
    io->heap_count = 0;
    io->heap_size = 0;
    io->timer_order = 0;
    io->coroutine_count = 0;
}

void loop_done(struct io *io)
{
    list_for_each (node, &io->coroutines)
        fprintf(stderr, "coroutine left: %s\n", co_alive_name(node));
    assert(io->coroutine_count == 0);
    assert(io->heap_count == 0);
    assert(list_empty(&io->queued) && list_empty(&io->deferred));
    co_pool_free(io);
    free(io->heap);
}

/* ---- timers: a binary heap that starts at 1 ---- */

static bool fires_before(const struct io_timer *a, const struct io_timer *b)
{
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : a->order < b->order;
}

static void heap_place(struct io *io, size_t index, struct io_timer *timer)
{
    io->heap[index] = timer;
    timer->heap_index = index;
}

static void heap_up(struct io *io, size_t index, struct io_timer *timer)
{
    while (index > 1 && fires_before(timer, io->heap[index / 2])) {
        heap_place(io, index, io->heap[index / 2]);
        index /= 2;
    }
    heap_place(io, index, timer);
}

static void heap_down(struct io *io, size_t index, struct io_timer *timer)
{
    for (;;) {
        size_t child = 2 * index;

        if (child > io->heap_count)
            break;
        if (child < io->heap_count && fires_before(io->heap[child + 1], io->heap[child]))
            child++;
        if (fires_before(timer, io->heap[child]))
            break;
        heap_place(io, index, io->heap[child]);
        index = child;
    }
    heap_place(io, index, timer);
}

void io_timer_init(struct io_timer *timer, io_callback *fn, void *arg)
{
    *timer = (struct io_timer){.fn = fn, .arg = arg};
}

bool io_timer_armed(const struct io_timer *timer)
{
    return timer->heap_index != 0;
}

/* Running out of memory for a timer cannot be handled by anyone: timers are few and this happens at
 * start. */
static void heap_grow(struct io *io)
{
    size_t size = io->heap_size ? 2 * io->heap_size : 64;

    io->heap = realloc(io->heap, size * sizeof(struct io_timer *));
    if (!io->heap)
        abort();
    io->heap_size = size;
}

void io_timer_arm(struct io *io, struct io_timer *timer, uint64_t deadline_ns)
{
    io_timer_disarm(io, timer);
    if (io->heap_count + 2 > io->heap_size)
        heap_grow(io);
    timer->deadline_ns = deadline_ns;
    timer->order = ++io->timer_order;
    heap_up(io, ++io->heap_count, timer);
}

void io_timer_disarm(struct io *io, struct io_timer *timer)
{
    size_t index = timer->heap_index;
    struct io_timer *last;

    if (index == 0)
        return;
    assert(io->heap[index] == timer);
    timer->heap_index = 0;
    last = io->heap[io->heap_count--];
    if (last == timer)
        return;
    if (index > 1 && fires_before(last, io->heap[index / 2]))
        heap_up(io, index, last);
    else
        heap_down(io, index, last);
}

uint64_t loop_next_deadline_ns(const struct io *io)
{
    return io->heap_count > 0 ? io->heap[1]->deadline_ns : UINT64_MAX;
}

static void fire_timers(struct io *io)
{
    while (io->heap_count > 0 && io->heap[1]->deadline_ns <= io->now_ns) {
        struct io_timer *timer = io->heap[1];

        io_timer_disarm(io, timer);
        timer->fn(timer->arg);
    }
}

/* ---- tasks ---- */

void io_task_init(struct io_task *task, io_callback *fn, void *arg)
{
    list_init(&task->node);
    task->fn = fn;
    task->arg = arg;
}

void io_queue(struct io *io, struct io_task *task)
{
    if (list_empty(&task->node))
        list_push_back(&io->queued, &task->node);
}

void io_defer(struct io *io, struct io_task *task)
{
    if (list_empty(&task->node))
        list_push_back(&io->deferred, &task->node);
}

void io_task_cancel(struct io_task *task)
{
    list_remove(&task->node);
}

/* ---- turns ---- */

bool loop_has_work(const struct io *io)
{
    return !list_empty(&io->ready) || !list_empty(&io->faulted) || !list_empty(&io->queued) ||
           !list_empty(&io->deferred);
}

static bool run_task(struct list *tasks)
{
    struct list *node = list_pop_front(tasks);
    struct io_task *task;

    if (!node)
        return false;
    task = list_entry(node, struct io_task, node);
    task->fn(task->arg);
    return true;
}

static bool end_faulted(struct io *io)
{
    struct list *node = list_pop_front(&io->faulted);
    struct io_op *op;

    if (!node)
        return false;
    op = list_entry(node, struct io_op, node);
    op->done(op, (int)op->extra[0]);
    return true;
}

static bool run_ready(struct io *io)
{
    struct list *node = list_pop_front(&io->ready);

    if (!node)
        return false;
    co_resume(co_of_node(node));
    return true;
}

void loop_turn(struct io *io)
{
    fire_timers(io);
    /* Deferred work comes when nothing else is left; what it makes ready belongs to the same turn.
     */
    while (run_ready(io) || end_faulted(io) || run_task(&io->queued) || run_task(&io->deferred))
        ;
}

void io_run(struct io *io)
{
    io->stopping = false;
    io->ops->run(io);
}

void io_stop(struct io *io)
{
    io->stopping = true;
}

uint64_t io_now_ns(const struct io *io)
{
    return io->now_ns;
}

struct log_sink *io_log_sink(struct io *io)
{
    return io->log;
}

void io_set_log_sink(struct io *io, struct log_sink *sink)
{
    io->log = sink;
}

/* ---- handing on to the backend ---- */

void io_free(struct io *io)
{
    if (io)
        io->ops->free(io);
}

uint64_t io_clock_ns(struct io *io)
{
    return io->ops->clock_ns(io);
}

uint64_t io_wall_ns(struct io *io)
{
    return io->ops->wall_ns(io);
}

uint64_t io_random(struct io *io)
{
    return io->ops->random(io);
}

void io_post(struct io *io, struct io_task *task)
{
    io->ops->post(io, task);
}

void co_offload(struct io *io, io_callback *fn, void *arg)
{
    io->ops->co_offload(io, fn, arg);
}

int co_io_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
    int r = io->ops->co_open(io, path, flags, ret_file);

    if (r < 0 || !io->keeps_writes)
        return r;
    (*ret_file)->scratch = scratch_new(*ret_file);
    if (!(*ret_file)->scratch) {
        io_file_close(take_ptr(*ret_file));
        return -ENOMEM;
    }
    return 0;
}

void io_keep_writes(struct io *io)
{
    io->keeps_writes = true;
}

void io_file_close(struct io_file *file)
{
    if (!file)
        return;
    hdd_free(take_ptr(file->hdd));
    scratch_free(take_ptr(file->scratch));
    file->io->ops->file_close(file);
}

const struct io_file_info *io_file_info(const struct io_file *file)
{
    return &file->info;
}

struct io *io_file_io(const struct io_file *file)
{
    return file->io;
}

void io_file_set_fault(struct io_file *file, int error)
{
    file->fault = error;
}

int io_file_make_hdd(struct io_file *file, const struct io_hdd_model *model)
{
    return file->hdd ? -EALREADY : hdd_new(file, model, &file->hdd);
}

/* An operation never ends inside the call that began it, not even so. */
static bool is_faulted(struct io_file *file, struct io_op *op)
{
    if (file->fault == 0)
        return false;
    op->extra[0] = (uint64_t)(int64_t)file->fault;
    list_push_back(&file->io->faulted, &op->node);
    return true;
}

void io_file_readv(struct io_file *file, struct io_op *op, const struct iovec *iov, int iov_count,
                   uint64_t offset)
{
    if (is_faulted(file, op))
        return;
    if (file->scratch)
        scratch_readv(file->scratch, op, iov, iov_count, offset);
    else if (file->hdd)
        hdd_readv(file->hdd, op, iov, iov_count, offset);
    else
        file->io->ops->file_readv(file, op, iov, iov_count, offset);
}

void io_file_writev(struct io_file *file, struct io_op *op, const struct iovec *iov, int iov_count,
                    uint64_t offset, unsigned flags)
{
    if (is_faulted(file, op))
        return;
    if (file->scratch)
        scratch_writev(file->scratch, op, iov, iov_count, offset);
    else if (file->hdd)
        hdd_writev(file->hdd, op, iov, iov_count, offset, flags);
    else
        file->io->ops->file_writev(file, op, iov, iov_count, offset, flags);
}

void io_file_sync(struct io_file *file, struct io_op *op)
{
    if (is_faulted(file, op))
        return;
    file->io->ops->file_sync(file, op);
}

void io_file_discard(struct io_file *file, struct io_op *op, uint64_t offset, uint64_t length)
{
    if (file->scratch) {
        op->extra[0] = (uint64_t)(int64_t)-EOPNOTSUPP;
        list_push_back(&file->io->faulted, &op->node);
        return;
    }
    file->io->ops->file_discard(file, op, offset, length);
}

int co_io_truncate(struct io_file *file, uint64_t size_bytes)
{
    return file->io->ops->co_truncate(file, size_bytes);
}

int io_listen(struct io *io, const char *address, struct io_listener **ret_listener)
{
    return io->ops->listen(io, address, ret_listener);
}

const char *io_listener_address(const struct io_listener *listener)
{
    return listener->address;
}

int co_io_accept(struct io_listener *listener, struct io_stream **ret_stream)
{
    return listener->io->ops->co_accept(listener, ret_stream);
}

void io_listener_shutdown(struct io_listener *listener)
{
    listener->io->ops->listener_shutdown(listener);
}

void io_listener_close(struct io_listener *listener)
{
    if (listener)
        listener->io->ops->listener_close(listener);
}

int co_io_connect(struct io *io, const char *address, uint64_t timeout_ns,
                  struct io_stream **ret_stream)
{
    return io->ops->co_connect(io, address, timeout_ns, ret_stream);
}

void io_stream_recv(struct io_stream *stream, struct io_op *op, void *buffer, size_t length)
{
    stream->io->ops->stream_recv(stream, op, buffer, length);
}

void io_stream_sendv(struct io_stream *stream, struct io_op *op, struct iovec *iov, int iov_count)
{
    stream->io->ops->stream_sendv(stream, op, iov, iov_count);
}

void io_stream_shutdown(struct io_stream *stream)
{
    stream->io->ops->stream_shutdown(stream);
}

void io_stream_close(struct io_stream *stream)
{
    if (stream)
        stream->io->ops->stream_close(stream);
}

const char *io_stream_peer(const struct io_stream *stream)
{
    return stream->peer;
}

int io_poll_new(struct io *io, int fd, struct io_poll **ret_poll)
{
    return io->ops->poll_new(io, fd, ret_poll);
}

int co_io_poll(struct io_poll *poll, unsigned events)
{
    return poll->io->ops->co_poll(poll, events);
}

void io_poll_shutdown(struct io_poll *poll)
{
    poll->io->ops->poll_shutdown(poll);
}

void io_poll_free(struct io_poll *poll)
{
    if (poll)
        poll->io->ops->poll_free(poll);
}
