/* vdisk: a resilient address space, as whoever stands above it sees it. Mirror and parity implement
 * it; tests have one in RAM and one that crashes.
 *
 * Addresses and lengths are in bytes and multiples of BLOCK_SIZE; buffers are aligned to
 * BLOCK_SIZE, private to the request (no guest can change them) and left alone until the call
 * returns.
 *
 * A write that returned 0 is on stable media on every in-sync column: there is no flush. A block
 * that was never written, or was trimmed, reads as zeros. A call waits while its slab has no
 * reachable in-sync column, while an owner is being replaced underneath, or while other requests
 * hold its blocks; it does not wait for ever on an object that lost its ownership: then it returns
 * -ESTALE, what was asked may or may not have happened, and the caller turns to the new owner.
 *
 * One reactor. All co_ calls suspend. */
#ifndef S2D_RESILIENCY_VDISK_H
#define S2D_RESILIENCY_VDISK_H

#include "s2d/base/base.h"

struct vdisk;

/* What makes a repeated request the same request (docs/protocol.md, Client sessions). session 0:
 * not from a client. is_repeat: it was sent before and not answered; the blocks that it has written
 * are left alone, for somebody else may have written them since. A mirror alone knows (recent.h),
 * and only writes. */
struct client_request {
    uint64_t session;
    uint64_t number;
    bool is_repeat;
};

struct vdisk_ops {
    int (*co_read)(struct vdisk *vdisk, void *buffer, uint64_t offset, uint64_t length);
    int (*co_write)(struct vdisk *vdisk, const void *buffer, uint64_t offset, uint64_t length,
                    struct client_request request);
    int (*co_trim)(struct vdisk *vdisk, uint64_t offset, uint64_t length,
                   struct client_request request);
};

struct vdisk {
    const struct vdisk_ops *ops;
    uint64_t id;         /* never 0, never used again */
    uint64_t size_bytes; /* may grow, never shrinks, while open */
};

/* Each returns 0, -ESTALE (this object no longer owns), -EIO (no copy could be read, or the media
 * failed), -ENOSPC (a thin slab found no room in the pool; nothing was written), -EINVAL (alignment
 * or range), -ECANCELED (so was the caller: what was asked may or may not happen). */
must_check static inline int co_vdisk_read(struct vdisk *vdisk, void *buffer, uint64_t offset,
                                           uint64_t length)
{
    return vdisk->ops->co_read(vdisk, buffer, offset, length);
}

/* A write of up to 1 MiB is not split for its caller, but only each block of 4 KiB is atomic. */
must_check static inline int co_vdisk_write(struct vdisk *vdisk, const void *buffer,
                                            uint64_t offset, uint64_t length,
                                            struct client_request request)
{
    return vdisk->ops->co_write(vdisk, buffer, offset, length, request);
}

/* The range reads as zeros once this returned 0; its space may go back to the pool. Any length. */
must_check static inline int co_vdisk_trim(struct vdisk *vdisk, uint64_t offset, uint64_t length,
                                           struct client_request request)
{
    return vdisk->ops->co_trim(vdisk, offset, length, request);
}

#endif
