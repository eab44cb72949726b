/* What the files of parity share, with each other and with the session that they are the code of
 * (mirror_private.h): parity_stripe.c (rows, read or decoded), parity_read.c (and read repair),
 * parity_write.c, parity_takeover.c, parity_resync.c. One reactor. */
#ifndef S2D_RESILIENCY_PARITY_PRIVATE_H
#define S2D_RESILIENCY_PARITY_PRIVATE_H

#include "resiliency/erasure.h"
#include "resiliency/mirror_private.h"

static_assert(ERASURE_COLUMNS_MAX <= VDISK_COLUMNS_MAX, "a shape that is known has its columns");

extern const struct vdisk_ops parity_vdisk_ops;

static inline uint32_t data_set(const struct mirror *mirror)
{
    return BIT(mirror->config->data_columns) - 1;
}

static inline uint32_t parity_set(const struct mirror *mirror)
{
    return (BIT(mirror->config->width) - 1) & ~data_set(mirror);
}

static inline unsigned set_count(uint32_t set)
{
    return (unsigned)__builtin_popcount(set);
}

/* ---- rows (parity_stripe.c) ---- */

/* fn(item) for each of the items, which are `size` bytes apart, side by side; the last one, and
 * what no coroutine can be had for, by ourselves. Returns when all have ended. */
void co_run_each(struct mirror *mirror, const char *name, co_fn *fn, void *items, size_t size,
                 unsigned count);

/* A few rows of a slab with room for every column's blocks. Under a lock of the rows, or in a
 * takeover, all that is read into it belongs together: then any k columns give the others. */
struct stripe {
    struct mirror *mirror;
    struct write_extent rows;
    struct log_position at;          /* of which record; session 0: as they are */
    uint32_t sources;                /* columns that may be read, a bit each; in-sync ones */
    uint32_t have;                   /* whose blocks are here */
    uint32_t rotten;                 /* were read and do not match, or the medium failed */
    uint32_t away;                   /* did not answer */
    char *blocks[VDISK_COLUMNS_MAX]; /* rows.count blocks of each */
    void *memory;
    size_t bytes;
    bool bounded; /* it counts in mirror->stripe_room */
};

/* Takes memory for count rows from the owner's pool; before any lock. */
void co_stripe_get(struct stripe *stripe, struct mirror *mirror, uint32_t count);
/* The same for a client's request, within limits.stripe_bytes. Returns 0 or -ECANCELED. */
must_check int co_stripe_get_bounded(struct stripe *stripe, struct mirror *mirror, uint32_t count);
void stripe_put(struct stripe *stripe);
/* The rows it stands for from now on: nothing of them is here yet. sources: those in-sync now. */
void stripe_begin(struct stripe *stripe, struct write_extent rows);

/* Brings the blocks of the columns in `want`: reads them, and decodes from others what cannot be
 * read. Returns 0, -EIO (fewer than k columns are right), -EHOSTUNREACH (some that may be right did
 * not answer), -ESTALE (stopped), -ENOMEM. */
must_check int co_stripe_fill(struct stripe *stripe, uint32_t want);

/* ---- reading (parity_read.c) ---- */

/* In some rows the columns of the set are rotten, or were: looks again under the lock and repairs
 * what is. The caller holds no lock. */
void co_parity_repair(struct mirror *mirror, uint32_t columns, struct write_extent rows);

/* Checksums for a column's blocks as records carry them: 0 for zeros. */
void parity_sums(const struct mirror *mirror, uint32_t column, struct write_extent rows,
                 const char *blocks, uint64_t *ret_sums);

/* ---- writing (parity_write.c) ---- */

/* A client's write or (data NULL) trim, for co_change(). */
int co_parity_change(struct mirror *mirror, const char *data, uint64_t offset, uint64_t length,
                     struct client_request request);

/* ---- takeover (parity_takeover.c) ---- */

must_check int co_parity_rewrite_slab(struct mirror *mirror, uint32_t slab);

/* ---- resync (parity_resync.c) ---- */

/* Marks in todo the rows of which the column may lack something. Returns 0, -EHOSTUNREACH, or a
 * store's error. */
must_check int co_parity_compare_list(struct feed *feed, uint32_t slab, uint32_t column,
                                      uint64_t *todo);
/* Unmarks those of [row, row + count) that were never written, on the column nor elsewhere. */
must_check int co_parity_skip_unwritten(struct feed *feed, uint32_t column,
                                        struct write_extent rows, uint64_t *todo);
/* Under the exclusive lock of the rows: decodes them, and brings to the column what differs. The
 * stripe is the caller's, for as many rows. Returns how many were copied, or an error. */
must_check int co_parity_copy(struct feed *feed, uint32_t column, struct write_extent rows,
                              struct stripe *stripe);

#endif
