/* nbd_server: block devices for NBD clients (QEMU, nbdkit's and libnbd's tools, fio) on one stream
 * socket. What stands behind a name is a struct nbd_backend: a volume's files (nbd_files.h), RAM in
 * tests.
 *
 * Newstyle negotiation, structured replies, multi-conn, FUA, flush, trim, write-zeroes, block
 * status (base:allocation), cache. A write that the backend has answered is durable, so flush and
 * FUA cost nothing, and connections to one export see each other's writes.
 *
 * A request waits as long as its backend does: there is no time-out and no error when an owner
 * dies. When the server closes, clients see the end of the connection and none of their requests
 * fails.
 *
 * One reactor. Memory: buffer_bytes in all, and 300 KiB to a connection; none is allocated to serve
 * a request. */
#ifndef S2D_CSV_NBD_SERVER_H
#define S2D_CSV_NBD_SERVER_H

#include "s2d/base/base.h"

struct io;
struct metrics;
struct nbd_server;

/* ---- what a backend provides ---- */

/* One open export, as one connection sees it: the backend's memory, from co_open() to co_close().
 */
struct nbd_file {
    uint64_t size_bytes; /* does not change while open */
    uint32_t block_min;  /* what offsets and lengths are multiples of: 1 to BLOCK_SIZE */
    bool read_only;      /* no call below that changes the file will come */
};

enum nbd_zero_flags {
    NBD_ZERO_MAY_PUNCH = BIT(0), /* the space may be given back */
    NBD_ZERO_FAST = BIT(1),      /* -EOPNOTSUPP rather than slower than writing zeros */
};

struct nbd_backend;

/* All suspend. Requests on one file run at once and in any order. Offsets and lengths are within
 * the file; buffers are aligned to BLOCK_SIZE and private to the call. Those that change the file
 * return 0 when that is durable. Errors reach the client as NBD's EPERM, EIO, ENOMEM, EINVAL,
 * ENOSPC, EOVERFLOW, ENOTSUP or ESHUTDOWN; what has no such name as EIO. */
struct nbd_backend_ops {
    /* name: of at most NBD_NAME_MAX bytes. info_only: the client only asks what it is, and
     * co_close() follows. Returns 0, -ENOENT (no such export), -EPERM (refused now), or another
     * error. */
    int (*co_open)(struct nbd_backend *backend, const char *name, bool info_only,
                   struct nbd_file **ret_file);
    void (*co_close)(struct nbd_file *file); /* no request is under way */
    /* Gives each export's name to co_emit(), which may suspend, and stops when that returns an
     * error. */
    int (*co_list)(struct nbd_backend *backend, int (*co_emit)(void *arg, const char *name),
                   void *arg);
    int (*co_read)(struct nbd_file *file, void *buffer, uint64_t offset, uint32_t length);
    int (*co_write)(struct nbd_file *file, const void *buffer, uint64_t offset, uint32_t length);
    int (*co_zero)(struct nbd_file *file, uint64_t offset, uint32_t length, unsigned flags);
    int (*co_trim)(struct nbd_file *file, uint64_t offset, uint32_t length);
    /* The run at offset that is all data or all hole: *ret_length in [1, length]. */
    int (*co_block_status)(struct nbd_file *file, uint64_t offset, uint32_t length, bool *ret_data,
                           uint32_t *ret_length);
};

struct nbd_backend {
    const struct nbd_backend_ops *ops;
};

/* ---- the server ---- */

struct nbd_server_options {
    const char *address;      /* "unix:/path", or any other that io_listen() takes */
    uint64_t buffer_bytes;    /* for requests under way; 0: 64 MiB; at least 8 MiB */
    unsigned connections_max; /* 0: 64; what comes beyond is closed at once */
    struct metrics *metrics;  /* may be NULL; outlives the server */
};

/* Listens. backend: borrowed, outlives the server. Waits up to 10 s for an address that a dying
 * predecessor still holds (the kernel lets go of it a while after the process is gone).
 * Returns 0, -EINVAL, -ENOMEM, or as io_listen(). */
must_check int co_nbd_server_open(struct io *io, struct nbd_backend *backend,
                                  const struct nbd_server_options *options,
                                  struct nbd_server **ret_server);

/* First half of closing: no new connections, and all there are end now. Requests that the backend
 * still has go on unseen. Does not suspend; any number of times. */
void nbd_server_shutdown(struct nbd_server *server);

/* Shuts down, waits for the backend to return every request, frees. NULL is fine. */
void co_nbd_server_close(struct nbd_server *server);

unsigned nbd_server_connections(const struct nbd_server *server);

#endif
