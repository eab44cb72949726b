/* io_backend: what a backend of the loop provides, and what loop.c gives it. Only loop.c, co.c and
 * the backends (io_uring.c, sim*.c) include this. */
#ifndef S2D_BASE_IO_BACKEND_H
#define S2D_BASE_IO_BACKEND_H

#include "s2d/base/co.h"
#include "s2d/base/io.h"

/* A file, listener or stream of a backend begins with its `io`, so that the calls of io.h find the
 * backend. */
struct io_file {
    struct io *io;
    struct io_file_info info;
    int fault;               /* 0, or what every operation ends with */
    struct hdd *hdd;         /* NULL, or what reads and writes pass through: hdd.h */
    struct scratch *scratch; /* NULL, or where writes stay: scratch.h */
};
struct io_listener {
    struct io *io;
    char address[IO_ADDRESS_MAX];
};
struct io_stream {
    struct io *io;
    char peer[IO_ADDRESS_MAX];
};
struct io_poll {
    struct io *io;
};

/* The functions of io.h with the same names are these; their contracts are there. co_ ones run in a
 * coroutine. */
struct io_backend_ops {
    void (*free)(struct io *io);
    uint64_t (*clock_ns)(struct io *io);
    uint64_t (*wall_ns)(struct io *io);
    uint64_t (*random)(struct io *io);
    void (*run)(struct io *io); /* calls loop_turn() for each turn until io->stopping */
    void (*post)(struct io *io, struct io_task *task);
    void (*co_offload)(struct io *io, io_callback *fn, void *arg);

    int (*co_open)(struct io *io, const char *path, unsigned flags, struct io_file **ret_file);
    void (*file_close)(struct io_file *file);
    void (*file_readv)(struct io_file *file, struct io_op *op, const struct iovec *iov,
                       int iov_count, uint64_t offset);
    void (*file_writev)(struct io_file *file, struct io_op *op, const struct iovec *iov,
                        int iov_count, uint64_t offset, unsigned flags);
    void (*file_sync)(struct io_file *file, struct io_op *op);
    void (*file_discard)(struct io_file *file, struct io_op *op, uint64_t offset, uint64_t length);
    int (*co_truncate)(struct io_file *file, uint64_t size_bytes);

    int (*listen)(struct io *io, const char *address, struct io_listener **ret_listener);
    int (*co_accept)(struct io_listener *listener, struct io_stream **ret_stream);
    void (*listener_shutdown)(struct io_listener *listener);
    void (*listener_close)(struct io_listener *listener);
    int (*co_connect)(struct io *io, const char *address, uint64_t timeout_ns,
                      struct io_stream **ret_stream);
    void (*stream_recv)(struct io_stream *stream, struct io_op *op, void *buffer, size_t length);
    void (*stream_sendv)(struct io_stream *stream, struct io_op *op, struct iovec *iov,
                         int iov_count);
    void (*stream_shutdown)(struct io_stream *stream);
    void (*stream_close)(struct io_stream *stream);

    int (*poll_new)(struct io *io, int fd, struct io_poll **ret_poll);
    int (*co_poll)(struct io_poll *poll, unsigned events);
    void (*poll_shutdown)(struct io_poll *poll);
    void (*poll_free)(struct io_poll *poll);
};

/* The part of a loop that is the same for every backend. A backend embeds it first. */
struct io {
    const struct io_backend_ops *ops;
    struct log_sink *log;
    uint64_t now_ns; /* this turn's clock */
    bool stopping;
    bool keeps_writes; /* of files opened from now on */

    struct list ready;    /* struct co: to be resumed */
    struct list queued;   /* struct io_task: io_queue() */
    struct list faulted;  /* struct io_op: of files with a fault, to be ended */
    struct list deferred; /* struct io_task: io_defer() */

    struct io_timer **heap; /* heap[1..heap_count]: by deadline, then by order of arming */
    size_t heap_count, heap_size;
    uint64_t timer_order; /* of the last one armed */

    struct list coroutines; /* every live struct co, for leak reports */
    struct list free_stacks;
    size_t coroutine_count;
};

void loop_init(struct io *io, const struct io_backend_ops *ops);
void loop_done(struct io *io); /* asserts that nothing is left; frees the stacks */

/* One turn, after the backend has set now_ns and delivered completions (by calling op->done() or
 * co_wake()): fires due timers, runs what is ready, then the deferred tasks, until nothing is left
 * to run. */
void loop_turn(struct io *io);
bool loop_has_work(const struct io *io);             /* something is ready, queued or deferred */
uint64_t loop_next_deadline_ns(const struct io *io); /* UINT64_MAX: no timer */

/* Runs one coroutine until it suspends or ends (co.c). */
void co_resume(struct co *co);
void co_pool_free(struct io *io);         /* unmaps the pooled stacks */
struct co *co_of_node(struct list *node); /* the coroutine whose entry of io->ready this is */
struct co *
co_of_alive(struct list *alive); /* the coroutine whose entry of io->coroutines this is */
const char *co_alive_name(const struct list *alive); /* the name of an entry of io->coroutines */

/* For suspensions that can be cancelled: cancel(arg) is called by co_cancel() and must lead to a
 * co_wake(). Set before co_wait(), cleared after. Returns -ECANCELED when the coroutine is
 * cancelled already (then do not wait). */
must_check int co_set_cancel(io_callback *cancel, void *arg);
void co_clear_cancel(void);

/* An operation that the running coroutine waits for: submit it, then co_wait(); the result is raw
 * (io_co.c). */
struct waiting_op {
    struct io_op op;
    struct co *co;
    int result;
};
void waiting_op_init(struct waiting_op *waiting, struct io *io);

#endif
