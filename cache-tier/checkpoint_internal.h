/* What the files of the checkpoint share; checkpoint.c says what a checkpoint is.
 *
 *   checkpoint.c        the region, the order of the steps, the background
 *   checkpoint_move.c   steps 1 and 2: what must not be lost with the tail
 *   checkpoint_data.c   step 3: blocks
 *   checkpoint_pages.c  steps 4 to 6: checksum pages, the extent table, compare lists */
#ifndef S2D_CACHE_TIER_CHECKPOINT_INTERNAL_H
#define S2D_CACHE_TIER_CHECKPOINT_INTERNAL_H

#include "cache-tier/store_internal.h"
#include "cache-tier/transfer.h"

#define CHECKPOINT_WINDOW_BLOCKS 4096 /* destaged from one buffer: 16 MiB */
#define MERGE_IOVS 64                 /* blocks of one read or write */

struct destage { /* a block on its way */
    uint64_t key;
    uint64_t sum;
    uint32_t ring_block;
    uint32_t stamp;
};

struct checkpoint {
    struct store *store;
    uint64_t from, cut;     /* the region: log positions of batch boundaries */
    uint64_t batches, cost; /* of the region: see batch_cost() */
    struct destage *items;  /* all of the region */
    size_t item_count, item_size;
    uint64_t blocks_placed; /* and pages, later */
    uint8_t *window;        /* WINDOW_BLOCKS */
    struct transfer *transfers;
    struct iovec *iov;
    struct cached_page **pages; /* changed by this checkpoint, pinned; by number */
    size_t page_count, page_size;
    struct image *images;
    size_t image_count;
    uint8_t *table_blocks; /* encoded */
    uint64_t *pages_seen;  /* a bit to each checksum page, for widen_region() */
    size_t pages_seen_bytes;
    uint64_t images_done, copies_done;
};

static inline bool in_region(const struct checkpoint *work, const struct pending *pending)
{
    return pending->batch_position < work->cut;
}

static inline uint64_t key_page_number(const struct store *store, uint64_t key)
{
    uint32_t block = key & (store->geometry.extent_blocks - 1);

    return store_page_number(store, key >> store->extent_shift, block / CHECKSUM_PAGE_ENTRIES);
}

/* It goes with a drop that is under way. */
static inline bool is_being_dropped(const struct store *store, const struct pending *pending)
{
    return store->extents[pending->where.extent].drops > 0;
}

/* The extent was given away or emptied since the region was collected. */
static inline bool extent_forgotten(const struct store *store, uint32_t extent)
{
    return store->extents[extent].forgotten_in == store->checkpoint.serial;
}

/* Reads or writes all of them, leaving most of the device to clients while the log has room:
 * checkpoint.c says how. Returns 0, -ECANCELED, or the first error. */
must_check int co_checkpoint_transfer(struct checkpoint *work, enum transfer_kind kind,
                                      struct transfer *transfers, size_t count);

/* Each returns 0 or an error of the medium, the log or memory. */
must_check int co_checkpoint_move(struct checkpoint *work);
must_check int co_checkpoint_streams(struct checkpoint *work);
/* At this instant every version in the region is committed, by a watermark that is durable; notes
 * them. Does not suspend. -EAGAIN: not all are (a drop is on the way). */
must_check int checkpoint_collect(struct checkpoint *work);
must_check int co_checkpoint_data(struct checkpoint *work);
must_check int co_checkpoint_pages(struct checkpoint *work);
must_check int co_checkpoint_zeros(struct checkpoint *work);
void checkpoint_pages_unique(struct checkpoint *work);
must_check int co_checkpoint_compares(struct checkpoint *work);
must_check int co_checkpoint_images(struct checkpoint *work);
must_check int co_checkpoint_place(struct checkpoint *work);

#endif
