/* io: the loop, and the only way to the outside world.
 *
 * No code above calls the kernel for I/O, reads a clock or draws a random number except through
 * here. Two backends: io_uring (io_uring_new(), one thread a loop) and the simulator (sim.h:
 * virtual time, disks that lose unsynced writes, an in-process network, one seed). One loop runs on
 * one thread; all calls come from that thread, but for io_post().
 *
 * A turn: completions are collected, the clock is read, timers fire, all ready coroutines and
 * callbacks run until none is ready, then the deferred tasks (io_defer()): that is where a module
 * sends in one piece what the turn gathered.
 *
 * Time is nanoseconds of CLOCK_BOOTTIME. Errors are negative errnos, each with one
 * meaning everywhere: EIO the medium failed, EBADMSG checksum or magic wrong, ESTALE old epoch,
 * generation or lease, EAGAIN try later, ETIMEDOUT no answer, EHOSTUNREACH no quorum or in-sync
 * column, EPROTO the peer spoke nonsense, EINVAL the caller's own argument. */
#ifndef S2D_BASE_IO_H
#define S2D_BASE_IO_H

#include <sys/uio.h>

#include "s2d/base/base.h"

struct io;
struct log_sink; /* log.h */

/* ---- the loop ---- */

void io_free(struct io *io); /* nothing may be pending: no coroutine, timer, open file or stream */
DEFINE_CLEANUP(struct io, io_free)

/* Runs turns until io_stop(). */
void io_run(struct io *io);
void io_stop(struct io *io);

/* The clock as read at the start of the turn: cheap, and good enough for almost everything. */
uint64_t io_now_ns(const struct io *io);
/* Reads the clock now: for leases, which a process that was stopped and woken must not trust. */
uint64_t io_clock_ns(struct io *io);
/* Wall-clock time since 1970, for people's eyes only. */
uint64_t io_wall_ns(struct io *io);
uint64_t io_random(struct io *io);

struct log_sink *io_log_sink(struct io *io);
void io_set_log_sink(struct io *io, struct log_sink *sink);

/* ---- timers, deferred and posted work; all callbacks run on the loop, outside of coroutines, and
 * do not suspend ---- */

typedef void io_callback(void *arg);

struct io_timer { /* the caller's memory; private */
    uint64_t deadline_ns, order;
    io_callback *fn;
    void *arg;
    size_t heap_index; /* 0: not armed */
};
void io_timer_init(struct io_timer *timer, io_callback *fn, void *arg);
void io_timer_arm(struct io *io, struct io_timer *timer, uint64_t deadline_ns); /* re-arms too */
void io_timer_disarm(struct io *io, struct io_timer *timer);                    /* armed or not */
bool io_timer_armed(const struct io_timer *timer);

struct io_task { /* the caller's memory; private */
    struct list node;
    io_callback *fn;
    void *arg;
};
void io_task_init(struct io_task *task, io_callback *fn, void *arg);
/* Queues task for this turn, after what is already ready; once however often it is called before it
 * ran. */
void io_queue(struct io *io, struct io_task *task);
/* Queues task for the end of this turn, when nothing is ready any more. Once, as above. */
void io_defer(struct io *io, struct io_task *task);
void io_task_cancel(struct io_task *task); /* queued or not */

/* From any thread: runs task on the loop soon. The task must not be posted again before it ran. */
void io_post(struct io *io, struct io_task *task);

/* Runs fn(arg) on a worker thread and suspends until it returned: for what blocks (RocksDB, fork,
 * directories). Calls of several coroutines may run at once. In the simulator it runs inline and
 * takes virtual time. fn must not touch the loop. */
void co_offload(struct io *io, io_callback *fn, void *arg);

/* ---- operations ---- */

/* One asynchronous operation: the caller's memory from submission to done(), which runs on the loop
 * with the result (bytes, or a negative errno) and may submit again. */
struct io_op {
    void (*done)(struct io_op *op, int result);
    /* private to the backend */
    struct list node;
    void *owner;
    const struct iovec *iov;
    int iov_count;
    uint32_t kind;
    uint32_t flags;
    uint64_t offset;
    uint64_t extra[2];
};

/* ---- files and block devices ---- */

struct io_file;

enum io_open_flags {
    IO_OPEN_READ_ONLY = BIT(0),
    IO_OPEN_DIRECT = BIT(1), /* memory, offsets and lengths in multiples of 4 KiB */
    IO_OPEN_CREATE = BIT(2),
    IO_OPEN_EXCLUSIVE = BIT(3), /* with CREATE: -EEXIST */
    IO_OPEN_LOCK = BIT(4), /* block device: O_EXCL; file: flock(); -EBUSY when somebody holds it */
};

struct io_file_info {
    uint64_t size_bytes;
    bool is_block_device;
    bool is_rotational; /* false for files */
};

enum io_write_flags {
    IO_WRITE_DSYNC = BIT(0), /* durable when done */
};

must_check int co_io_open(struct io *io, const char *path, unsigned flags,
                          struct io_file **ret_file);
void io_file_close(struct io_file *file); /* no operation may be pending; NULL is fine */
DEFINE_CLEANUP(struct io_file, io_file_close)
/* From now on reads, writes and syncs of the file end with this error and do nothing; 0: as before.
 * The fault layer of tests and development clusters. */
void io_file_set_fault(struct io_file *file, int error);

/* What is written to files opened from now on stays in RAM, and is shown to later reads of the same
 * open file; the medium is only read. For looking at disks with code that writes. */
void io_keep_writes(struct io *io);

/* How long a hard disk takes (hdd.c has the model). */
struct io_hdd_model {
    uint64_t settle_ns, stroke_ns; /* a seek: to the next track; over the whole disk on top of it */
    uint64_t turn_ns;
    uint64_t bytes_per_second; /* under the head */
};
/* 7200 turns a minute: about 86 random 4 KiB writes a second at depth 1, as such drives do. */
#define IO_HDD_7200                                                                                \
    ((struct io_hdd_model){.settle_ns = 1 * MS,                                                    \
                           .stroke_ns = 12 * MS,                                                   \
                           .turn_ns = 60 * SEC / 7200,                                             \
                           .bytes_per_second = 180 * MIB})
/* From now on reads and writes of the file take as long as on such a disk (those that are pending
 * already do not); for benchmarks and development clusters. Returns 0, -EINVAL, -ENOMEM, -EALREADY.
 */
must_check int io_file_make_hdd(struct io_file *file, const struct io_hdd_model *model);
const struct io_file_info *io_file_info(const struct io_file *file);
struct io *io_file_io(const struct io_file *file);

/* Asynchronous. iov stays valid until op->done(). A short read or write is finished inside or
 * becomes -EIO. */
void io_file_readv(struct io_file *file, struct io_op *op, const struct iovec *iov, int iov_count,
                   uint64_t offset);
void io_file_writev(struct io_file *file, struct io_op *op, const struct iovec *iov, int iov_count,
                    uint64_t offset, unsigned flags);
void io_file_sync(struct io_file *file,
                  struct io_op *op); /* fdatasync: all writes done before it */
/* Gives the range's space back if the medium can (-EOPNOTSUPP if not); reads of it return zeros
 * after. */
void io_file_discard(struct io_file *file, struct io_op *op, uint64_t offset, uint64_t length);

/* The same for coroutines: 0 or a negative errno. -EIO: the medium failed, or the file ends before.
 */
must_check int co_io_read(struct io_file *file, void *buffer, size_t length, uint64_t offset);
must_check int co_io_write(struct io_file *file, const void *buffer, size_t length, uint64_t offset,
                           unsigned flags);
must_check int co_io_readv(struct io_file *file, const struct iovec *iov, int iov_count,
                           uint64_t offset);
must_check int co_io_writev(struct io_file *file, const struct iovec *iov, int iov_count,
                            uint64_t offset, unsigned flags);
must_check int co_io_sync(struct io_file *file);
must_check int co_io_discard(struct io_file *file, uint64_t offset, uint64_t length);
/* Sets a file's size; allocates nothing. */
must_check int co_io_truncate(struct io_file *file, uint64_t size_bytes);

/* ---- byte streams ---- */

/* An address: "10.83.0.1:7800" (TCP, numeric) or "unix:/path". At most IO_ADDRESS_MAX bytes with
 * the 0. */
#define IO_ADDRESS_MAX 120

struct io_listener;
struct io_stream;

/* unix: the path is replaced when a dead predecessor left it. Returns 0, -EINVAL (address),
 * -EADDRINUSE, … */
must_check int io_listen(struct io *io, const char *address, struct io_listener **ret_listener);
/* The address bound, with the port the kernel chose if it was given as 0. */
const char *io_listener_address(const struct io_listener *listener);
/* Returns 0, or -ECANCELED (cancelled or the listener was closed). One coroutine at a time. */
must_check int co_io_accept(struct io_listener *listener, struct io_stream **ret_stream);
void io_listener_close(
    struct io_listener *listener); /* after its accepting coroutine has returned */
void io_listener_shutdown(
    struct io_listener *listener); /* makes co_io_accept() return -ECANCELED */
DEFINE_CLEANUP(struct io_listener, io_listener_close)

/* Returns 0, -ECONNREFUSED (the host answers, nobody listens), -ETIMEDOUT, -EHOSTUNREACH,
 * -ECANCELED, -EINVAL. */
must_check int co_io_connect(struct io *io, const char *address, uint64_t timeout_ns,
                             struct io_stream **ret_stream);

/* One receive and one send may be pending at a time. */
/* Asynchronous: result is the bytes received (≥ 1), 0 at the end, or an error. buffer stays valid
 * until done(). */
void io_stream_recv(struct io_stream *stream, struct io_op *op, void *buffer, size_t length);
/* Sends all of iov, however many system calls that takes. result: 0 or an error. iov is consumed
 * (changed). */
void io_stream_sendv(struct io_stream *stream, struct io_op *op, struct iovec *iov, int iov_count);

/* For coroutines. recv: bytes, 0 at the end, or an error (-ECONNRESET, -ECANCELED after shutdown).
 */
must_check int co_io_recv(struct io_stream *stream, void *buffer, size_t length);
must_check int co_io_recv_all(struct io_stream *stream, void *buffer,
                              size_t length); /* 0, -ECONNRESET at an early end */
must_check int co_io_sendv(struct io_stream *stream, struct iovec *iov,
                           int iov_count); /* 0 or an error */
must_check int co_io_send(struct io_stream *stream, const void *buffer, size_t length);
/* Ends both directions now: what is pending, and all that comes later, returns 0 or an error soon.
 * Any number of times. */
void io_stream_shutdown(struct io_stream *stream);
void io_stream_close(struct io_stream *stream); /* nothing may be pending; NULL is fine */
DEFINE_CLEANUP(struct io_stream, io_stream_close)
const char *io_stream_peer(const struct io_stream *stream); /* address, for logs */

/* ---- any pollable descriptor (FUSE, pidfd, pipes); -ENOSYS in the simulator ---- */

struct io_poll;
must_check int io_poll_new(struct io *io, int fd, struct io_poll **ret_poll); /* fd: borrowed */
/* Suspends until poll(2)'s events are there. Returns revents, or -ECANCELED (cancelled, or
 * io_poll_shutdown()). */
must_check int co_io_poll(struct io_poll *poll, unsigned events);
void io_poll_shutdown(struct io_poll *poll);
void io_poll_free(struct io_poll *poll); /* nobody may be waiting */
DEFINE_CLEANUP(struct io_poll, io_poll_free)

/* ---- backends ---- */

struct io_uring_options {
    unsigned queue_depth;    /* entries of the submission queue; 0: 512 */
    unsigned worker_threads; /* for co_offload(); 0: 2 */
};
/* options may be NULL. The calling thread is the loop's thread. Returns 0, -ENOMEM, or what the
 * kernel says. */
must_check int io_uring_new(const struct io_uring_options *options, struct io **ret_io);

#endif
