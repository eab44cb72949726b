/* overlay: which blocks the log holds, and in which versions. An entry belongs to the ring block
 * that holds its data, so it is found from there at once, needs no allocation, and there cannot be
 * more of them than the log has blocks: 28 bytes each, with their share of the hash table.
 *
 * Versions of a block are kept newest first. At most one is *committed*, and it is the oldest:
 * committing one removes what is below it. The others are *pending* and name their record. Trimmed
 * ranges hold no data, so they are bits: "zero as of a committed record in the log"; entries of
 * such a block are newer than its bit.
 *
 * One reactor, nothing suspends. A *key* is a block of the disk: extent * extent blocks + block. */
#ifndef S2D_CACHE_TIER_OVERLAY_H
#define S2D_CACHE_TIER_OVERLAY_H

#include "s2d/base/base.h"

struct overlay;
#define OVERLAY_NONE UINT32_MAX
#define OVERLAY_BYTES_PER_BLOCK 32 /* of RAM, with the log's own note of each block (log.c) */

struct overlay_options {
    uint32_t ring_blocks;
    uint32_t extent_count;
    uint32_t extent_blocks;   /* a power of two */
    uint32_t zero_run_blocks; /* zeros are set aside by runs of so many blocks; 0: by extents */
};
must_check int overlay_new(const struct overlay_options *options, struct overlay **ret_overlay);
void overlay_free(struct overlay *overlay);
DEFINE_CLEANUP(struct overlay, overlay_free)

/* ---- entries: `at` is a ring block ---- */

/* A pending version, newer than all that are there. at: not in use. record: > 0, below 2^31. */
void overlay_insert(struct overlay *overlay, uint32_t at, uint64_t key, uint64_t sum,
                    uint32_t record);
/* The same, just below version `above` of the same key. */
void overlay_insert_below(struct overlay *overlay, uint32_t above, uint32_t at, uint64_t key,
                          uint64_t sum, uint32_t record);
/* The version is committed; older ones and the block's zero bit go. stamp: the epoch of the message
 * that told so. */
void overlay_commit(struct overlay *overlay, uint32_t at, uint64_t stamp);
void overlay_remove(struct overlay *overlay, uint32_t at);
/* The version lives in ring block `to` from now on. */
void overlay_move(struct overlay *overlay, uint32_t from, uint32_t to);

uint32_t overlay_find(const struct overlay *overlay, uint64_t key); /* newest; OVERLAY_NONE */
uint32_t overlay_older(const struct overlay *overlay, uint32_t at); /* next version of its key */
bool overlay_in_use(const struct overlay *overlay, uint32_t at);
uint64_t overlay_key(const struct overlay *overlay, uint32_t at);
uint64_t overlay_sum(const struct overlay *overlay, uint32_t at);
uint32_t overlay_record(const struct overlay *overlay, uint32_t at); /* 0: committed */
uint64_t overlay_stamp(const struct overlay *overlay, uint32_t at);  /* of a committed one */
uint64_t overlay_count(const struct overlay *overlay);
uint32_t overlay_extent_count(const struct overlay *overlay, uint32_t extent); /* its entries */

/* ---- zeros ---- */

/* The range is zero by a record at log position `position`: committed versions in it go. */
void overlay_zero_commit(struct overlay *overlay, uint32_t extent, uint32_t block, uint32_t count,
                         uint64_t position, uint64_t stamp);
/* The range's zeros are in place already. */
void overlay_zero_forget(struct overlay *overlay, uint32_t extent, uint32_t block, uint32_t count);
bool overlay_is_zero(const struct overlay *overlay, uint64_t key);

/* Sets aside, for destaging, the zeros of every run that has some from before `position`. They go
 * on reading as zeros until overlay_zero_end(). */
void overlay_zero_begin(struct overlay *overlay, uint64_t position);
/* The next extent at or after `from` with zeros set aside: its bitmap (a bit to each block); NULL:
 * none. */
const uint64_t *overlay_zero_next(const struct overlay *overlay, uint32_t from,
                                  uint32_t *ret_extent, uint64_t *ret_stamp);
void overlay_zero_end(struct overlay *overlay);
/* Extents that have zeros here: each takes a bit to a block, and 8 bytes to a run. */
uint32_t overlay_zero_extents(const struct overlay *overlay);

/* ---- whole extents ---- */

/* Everything about the extent goes. */
void overlay_drop_extent(struct overlay *overlay, uint32_t extent);
/* Sets a bit for each block of the extent that has versions or zeros here. */
void overlay_collect(const struct overlay *overlay, uint32_t extent, uint64_t *bitmap);

#endif
