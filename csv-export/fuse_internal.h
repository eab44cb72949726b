/* fuse_internal: what fuse_mount.c (the session) and fuse_operations.c (the file operations) share.
 */
#ifndef S2D_CSV_FUSE_INTERNAL_H
#define S2D_CSV_FUSE_INTERNAL_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "csv-export/fuse_mount.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"

#define FUSE_DATA_MAX (1024 * 1024) /* of one read or write: the kernel's limit */
/* A request is read so that a write's data begins on a page: behind fuse_in_header and
 * fuse_write_in. */
#define FUSE_WRITE_HEADER_BYTES 80
#define FUSE_SLOTS 64

/* One request under way. */
struct fuse_slot {
    struct list node; /* mount->free_slots */
    struct fuse_mount *mount;
    uint8_t *memory; /* a page, of which the end is used; then FUSE_DATA_MAX; then a page */
    size_t request_bytes;
};

struct fuse_mount {
    struct io *io;
    struct csv_volume *volume;
    struct fuse_mount_options options;
    char *path;
    struct fuse_session *session;
    int fd;
    struct io_poll *poll;
    struct fuse_slot slots[FUSE_SLOTS];
    struct list free_slots;
    struct co_cond slot_freed;
    struct co_group coroutines;
    struct fuse_slot *entering; /* whose operation is being called */
    bool closing;
    uint8_t *memory; /* the slots' */
};

extern const struct fuse_lowlevel_ops s2d_fuse_ops; /* userdata: struct fuse_mount */

/* Aligned memory for the answer of the request whose operation was just called: FUSE_DATA_MAX
 * bytes, until that operation returns. To be asked for before it suspends; the request's names are
 * gone then. */
uint8_t *fuse_answer_memory(struct fuse_mount *mount);

/* The part of co_fuse_mount_open() behind mounting: serves what comes on fd, which is taken, as
 * from /dev/fuse: a read gives one request, a writev takes one answer. For co_fuse_mount_close().
 * Returns 0, -ENOMEM. */
must_check int fuse_mount_serve(struct io *io, struct csv_volume *volume,
                                const struct fuse_mount_options *options, int fd,
                                struct fuse_mount **ret_mount);

#endif
