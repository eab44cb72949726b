/* The operations of io.h for coroutines: submit, suspend, return the result. Not cancellable by
 * themselves: memory is lent to the kernel until the operation ends; shutting the stream down ends
 * it. */
#include "s2d/base/io_backend.h"

static void op_done(struct io_op *op, int result)
{
    struct waiting_op *waiting = container_of(op, struct waiting_op, op);

    waiting->result = result;
    co_wake(waiting->co);
}

void waiting_op_init(struct waiting_op *waiting, struct io *io)
{
    memset(waiting, 0, sizeof(*waiting));
    waiting->op.done = op_done;
    waiting->op.owner = io;
    waiting->co = co_self();
}

/* Bytes become 0: short transfers never come up to here. */
static int wait_for(struct waiting_op *waiting)
{
    co_wait();
    return MIN(waiting->result, 0);
}

int co_io_readv(struct io_file *file, const struct iovec *iov, int iov_count, uint64_t offset)
{
    struct waiting_op waiting;

    waiting_op_init(&waiting, file->io);
    io_file_readv(file, &waiting.op, iov, iov_count, offset);
    return wait_for(&waiting);
}

int co_io_writev(struct io_file *file, const struct iovec *iov, int iov_count, uint64_t offset,
                 unsigned flags)
{
    struct waiting_op waiting;

    waiting_op_init(&waiting, file->io);
    io_file_writev(file, &waiting.op, iov, iov_count, offset, flags);
    return wait_for(&waiting);
}

int co_io_read(struct io_file *file, void *buffer, size_t length, uint64_t offset)
{
    struct iovec iov = {.iov_base = buffer, .iov_len = length};

    return co_io_readv(file, &iov, 1, offset);
}

int co_io_write(struct io_file *file, const void *buffer, size_t length, uint64_t offset,
                unsigned flags)
{
    struct iovec iov = {.iov_base = (void *)buffer, .iov_len = length};

    return co_io_writev(file, &iov, 1, offset, flags);
}

int co_io_sync(struct io_file *file)
{
    struct waiting_op waiting;

    waiting_op_init(&waiting, file->io);
    io_file_sync(file, &waiting.op);
    return wait_for(&waiting);
}

int co_io_discard(struct io_file *file, uint64_t offset, uint64_t length)
{
    struct waiting_op waiting;

    waiting_op_init(&waiting, file->io);
    io_file_discard(file, &waiting.op, offset, length);
    return wait_for(&waiting);
}

/* A cancelled coroutine ends its stream: there is no other way to get the lent buffer back. */
static void cancel_stream(void *arg)
{
    io_stream_shutdown(arg);
}

int co_io_recv(struct io_stream *stream, void *buffer, size_t length)
{
    struct waiting_op waiting;
    int r;

    r = co_set_cancel(cancel_stream, stream);
    if (r < 0)
        return r;
    waiting_op_init(&waiting, stream->io);
    io_stream_recv(stream, &waiting.op, buffer, length);
    co_wait();
    co_clear_cancel();
    return co_cancelled() ? -ECANCELED : waiting.result;
}

int co_io_recv_all(struct io_stream *stream, void *buffer, size_t length)
{
    size_t have = 0;

    while (have < length) {
        int r = co_io_recv(stream, (char *)buffer + have, length - have);

        if (r < 0)
            return r;
        if (r == 0)
            return -ECONNRESET;
        have += r;
    }
    return 0;
}

int co_io_sendv(struct io_stream *stream, struct iovec *iov, int iov_count)
{
    struct waiting_op waiting;
    int r;

    r = co_set_cancel(cancel_stream, stream);
    if (r < 0)
        return r;
    waiting_op_init(&waiting, stream->io);
    io_stream_sendv(stream, &waiting.op, iov, iov_count);
    co_wait();
    co_clear_cancel();
    return MIN(waiting.result, 0);
}

int co_io_send(struct io_stream *stream, const void *buffer, size_t length)
{
    struct iovec iov = {.iov_base = (void *)buffer, .iov_len = length};

    return co_io_sendv(stream, &iov, 1);
}
