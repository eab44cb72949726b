/* fuse_mount: one volume, mounted for the programs of this node (libfuse 3, low level).
 *
 * Coherence is close-to-open and better: the kernel asks for attributes and names each time
 * (time-outs of 0), drops what it has cached of a file when it is opened or when its time or size
 * has changed, and writes through. Locks (flock, fcntl) are this node's only.
 *
 * One reactor; nothing here blocks it: mounting and unmounting run on a worker, the device is read
 * and answered without blocking, each request is a coroutine. */
#ifndef S2D_CSV_FUSE_MOUNT_H
#define S2D_CSV_FUSE_MOUNT_H

#include "csv-export/csv.h"

struct fuse_mount;

struct fuse_mount_options {
    const char *path; /* absolute; made if it is not there, with its parents */
    /* Called once if somebody else unmounts it, or the kernel ends the connection; on the loop,
     * must not suspend. The mount is still to be closed. May be NULL. */
    void (*on_end)(void *arg);
    void *arg;
};

/* Mounts. What a dead predecessor left mounted at the path is detached first. volume: a reference
 * is taken. Returns 0, -ENOMEM, or what the system says (-EPERM: not root; -ENOENT: no /dev/fuse;
 * -EBUSY). */
must_check int co_fuse_mount_open(struct io *io, struct csv_volume *volume,
                                  const struct fuse_mount_options *options,
                                  struct fuse_mount **ret_mount);

/* Unmounts (lazily: who has files open there gets errors from then on), waits for the requests
 * under way, frees. Those may wait for the volume's owner: at the end of a daemon call csv_stop()
 * first, for a volume that is deleted co_csv_remove_volume(). The directory stays. NULL is fine. */
void co_fuse_mount_close(struct fuse_mount *mount);

#endif
