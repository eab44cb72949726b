/* read_cache: copies of blocks of a slow disk on a fast one. It promises nothing but speed: what it
 * gives may be old, torn, misdirected or gone, so the store verifies each block against the
 * checksum of the place it stands for, and a block that fails is read from there. Forgetting is
 * therefore a courtesy, and the index is not kept: each open begins empty.
 *
 * A *key* is a block of the slow disk, as in overlay.h; 16 of them, aligned, are a chunk, which has
 * a slot of 64 KiB on the fast one and READ_CACHE_BYTES_PER_CHUNK of RAM. What goes first is
 * decided by S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): a
 * chunk that is read once passes through a tenth of the cache and leaves; sequential reads do not
 * come in.
 *
 * One reactor. Nothing allocates after read_cache_new(); co_ calls suspend. */
#ifndef S2D_CACHE_TIER_READ_CACHE_H
#define S2D_CACHE_TIER_READ_CACHE_H

#include "s2d/base/base.h"
#include "s2d/base/metrics.h"

struct io_file;
struct read_cache;

#define READ_CACHE_CHUNK_BLOCKS 16u
#define READ_CACHE_CHUNK_BYTES (READ_CACHE_CHUNK_BLOCKS * BLOCK_SIZE)
#define READ_CACHE_CHUNKS_MIN 64u
#define READ_CACHE_BYTES_PER_CHUNK 24u /* of RAM, at most: 384 MiB per TiB of read cache */

struct read_cache_options {
    struct io_file
        *file; /* of the fast disk, opened O_DIRECT; borrowed until co_read_cache_free() */
    uint64_t offset, bytes; /* a region of it that is the cache's alone; offset in whole blocks */
};
/* Returns 0, -EINVAL (less than READ_CACHE_CHUNKS_MIN chunks, or more than an index can hold),
 * -ENOMEM. */
must_check int read_cache_new(const struct read_cache_options *options,
                              struct read_cache **ret_cache);
/* Waits for what is under way on the device. NULL is fine. */
void co_read_cache_free(struct read_cache *cache);

/* ---- reading ---- */

/* Is the block here? Then *ret_offset is where on the device, and it counts as a use. */
bool read_cache_find(struct read_cache *cache, uint64_t key, uint64_t *ret_offset);
struct io_file *read_cache_file(const struct read_cache *cache);
/* Around a read of what read_cache_find() named, which co_read_cache_free() waits for. */
void read_cache_read_begin(struct read_cache *cache);
/* result: of the device. After READ_CACHE_ERRORS_MAX failures in a row the cache turns itself off.
 */
void read_cache_read_end(struct read_cache *cache, int result);
#define READ_CACHE_ERRORS_MAX 8
/* What was read there is not the block: its chunk goes. */
void read_cache_mismatch(struct read_cache *cache, uint64_t key);

/* ---- filling ---- */

/* Tells of a client's read, before its misses are filled. False: it is part of a sequential scan,
 * which the slow disk does well by itself. */
bool read_cache_note_read(struct read_cache *cache, uint64_t key, uint32_t count);
/* Takes a copy of verified blocks, and writes it behind the caller's back; as far as there are
 * buffers, or not at all. */
void read_cache_fill(struct read_cache *cache, uint64_t key, uint32_t count, const void *blocks);
/* The blocks change, or were given away. */
void read_cache_forget(struct read_cache *cache, uint64_t key, uint64_t count);

/* ---- figures ---- */

struct read_cache_counters {
    struct counter hits, misses; /* blocks */
    struct counter filled;       /* blocks written to the device */
    struct counter skipped;      /* blocks not filled: no buffer was free */
    struct counter bypassed;     /* blocks read in sequential scans */
    struct counter mismatches, errors;
};
/* For as long as the cache lives. */
const struct read_cache_counters *read_cache_counters(const struct read_cache *cache);

struct read_cache_stats {
    uint64_t bytes;       /* of the region in use as slots */
    uint64_t used_bytes;  /* of slots that stand for a chunk */
    uint64_t index_bytes; /* RAM of the index; buffers for fills come on top, always the same */
    bool off;             /* the device failed too often: everything is a miss */
};
struct read_cache_stats read_cache_stats(const struct read_cache *cache);

#endif
