/* io_uring_private: what the files of the io_uring backend share: io_uring.c (ring, turns, other
 * threads), io_uring_file.c, io_uring_net.c (addresses, streams, listeners, polling). */
#ifndef S2D_BASE_IO_URING_PRIVATE_H
#define S2D_BASE_IO_URING_PRIVATE_H

#include <liburing.h>
#include <pthread.h>

#include "s2d/base/io_backend.h"

#define WORKERS_MAX 16
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

static inline struct uring *uring_of(struct io *io)
{
    return container_of(io, struct uring, io);
}

/* A place in the queue; its user_data becomes a struct io_op, whose done() gets the raw result, or
 * NULL. Never fails: a full queue is submitted first. */
struct io_uring_sqe *uring_next_sqe(struct uring *uring);

/* Ends a pending operation early; its done() still comes, with -ECANCELED or what it reached. */
void uring_cancel(struct uring *uring, struct io_op *op);
/* The same for a struct waiting_op: what co_set_cancel() is given. */
void uring_waiting_cancel(void *arg);

/* The functions of struct io_backend_ops; their contracts are in io.h. */
int uring_co_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file);
void uring_file_close(struct io_file *file);
void uring_file_readv(struct io_file *file, struct io_op *op, const struct iovec *iov,
                      int iov_count, uint64_t offset);
void uring_file_writev(struct io_file *file, struct io_op *op, const struct iovec *iov,
                       int iov_count, uint64_t offset, unsigned flags);
void uring_file_sync(struct io_file *file, struct io_op *op);
void uring_file_discard(struct io_file *file, struct io_op *op, uint64_t offset, uint64_t length);
int uring_co_truncate(struct io_file *file, uint64_t size_bytes);
int uring_listen(struct io *io, const char *text, struct io_listener **ret_listener);
int uring_co_accept(struct io_listener *listener, struct io_stream **ret_stream);
void uring_listener_shutdown(struct io_listener *listener);
void uring_listener_close(struct io_listener *listener);
int uring_co_connect(struct io *io, const char *text, uint64_t timeout_ns,
                     struct io_stream **ret_stream);
void uring_stream_recv(struct io_stream *stream, struct io_op *op, void *buffer, size_t length);
void uring_stream_sendv(struct io_stream *stream, struct io_op *op, struct iovec *iov,
                        int iov_count);
void uring_stream_shutdown(struct io_stream *stream);
void uring_stream_close(struct io_stream *stream);
int uring_poll_new(struct io *io, int fd, struct io_poll **ret_poll);
int uring_co_poll(struct io_poll *poll, unsigned events);
void uring_poll_shutdown(struct io_poll *poll);
void uring_poll_free(struct io_poll *poll);
void uring_co_offload(struct io *io, io_callback *fn, void *arg);

#endif
