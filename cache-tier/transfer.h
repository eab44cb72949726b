/* transfer: many reads or writes, with a bounded number in flight. Suspends. */
#ifndef S2D_CACHE_TIER_TRANSFER_H
#define S2D_CACHE_TIER_TRANSFER_H

#include "s2d/base/io.h"

struct transfer {
    struct iovec *iov;
    int iov_count;
    struct io_file *file; /* NULL: that of the call */
    int result;           /* out: 0 or a negative errno */
    uint64_t offset;
};

enum transfer_kind { TRANSFER_READ, TRANSFER_WRITE };
#define TRANSFER_DEPTH_MAX 32

/* Carries out all of them, in their order as far as order is visible at the device's door, depth (≤
 * TRANSFER_DEPTH_MAX) at a time; goes on after errors, but not after -ECANCELED. Returns 0 or the
 * first error. */
must_check int co_transfer(struct io_file *file, enum transfer_kind kind,
                           struct transfer *transfers, size_t count, unsigned depth);

#endif
