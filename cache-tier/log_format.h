/* log_format: the log region of a disk, byte by byte.
 *
 *   anchor A | anchor B | ring of blocks …
 *
 * A *position* counts blocks of the ring and never goes back: block (position % ring blocks), lap
 * (position / ring blocks). A *batch* is one durable write: header pages with records, then the
 * data of the records in their order. It never wraps; what is left at the end of the ring is filled
 * by a pad batch. The chain of batches is known by (log uuid, sequence, position), and by the
 * incarnation: each open of the log is one, and along the chain incarnations only rise, so that
 * what an earlier open left behind a hole is never taken for a continuation. All little-endian, 4
 * KiB aligned. */
#ifndef S2D_CACHE_TIER_LOG_FORMAT_H
#define S2D_CACHE_TIER_LOG_FORMAT_H

#include "s2d/base/base.h"

#define LOG_FORMAT_VERSION 1
#define LOG_ANCHOR_BLOCKS 2

/* Where replay starts. Rewritten when the tail moves and at each open, A then B, each durable
 * before the other is touched; nothing before the older one's tail is overwritten until both are
 * new. */
#define LOG_ANCHOR_MAGIC 0x726f68636e613273ull
struct log_anchor {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;
    uint8_t log_uuid[16];
    uint64_t generation; /* the higher one is newer */
    uint64_t tail_position;
    uint64_t tail_sequence;
    uint64_t
        head_position; /* the next batch when this was written: images before it are all in place */
    uint64_t head_sequence;
    uint64_t images_done;
    uint64_t copies_done;
    uint32_t incarnation;
    uint32_t copy;
    uint8_t reserved[BLOCK_SIZE - 96];
};
static_assert(sizeof(struct log_anchor) == BLOCK_SIZE, "on disk");

#define LOG_BATCH_MAGIC 0x6863746162733273ull
enum log_batch_flags {
    LOG_BATCH_PAD = BIT(0), /* fills the end of the ring */
};
struct log_batch_header {
    uint64_t magic;
    uint32_t version;
    uint32_t crc; /* of header_bytes, with this field 0 */
    uint8_t log_uuid[16];
    uint64_t sequence;
    uint64_t position;
    uint64_t
        durable_through; /* every batch up to this sequence was durable when this was written */
    uint64_t tail_position;
    uint64_t tail_sequence;
    uint64_t images_done; /* images in batches up to this sequence are in place */
    uint32_t incarnation;
    uint32_t header_bytes;  /* this struct and the records */
    uint32_t header_blocks; /* ≥ 1 */
    uint32_t data_blocks;
    uint32_t record_count;
    uint32_t flags;
    uint64_t copies_done; /* see LOG_MOVED */
    uint64_t reserved[2];
};
static_assert(sizeof(struct log_batch_header) == 128, "on disk");

#define LOG_HEADER_BLOCKS_MAX 16
#define LOG_BATCH_BLOCKS_MAX (LOG_HEADER_BLOCKS_MAX + 512) /* what a reader accepts */
/* How far behind a bad batch a reader looks for one that calls it durable. */
#define LOG_LOOK_AHEAD_BLOCKS 1024
static_assert(LOG_LOOK_AHEAD_BLOCKS > LOG_BATCH_BLOCKS_MAX,
              "the batch behind a hole must be in sight");

/* ---- records: a multiple of 8 bytes each ---- */

enum log_kind {
    LOG_WRITE = 1,   /* log_data_record, sums; data */
    LOG_ZERO = 2,    /* log_data_record */
    LOG_STREAM = 3,  /* log_stream_record: seals, watermarks */
    LOG_IMAGE = 4,   /* log_image_record: a block of the disk as it is to be */
    LOG_FREE = 5,    /* log_extent_record: the extent was given back */
    LOG_DROP = 6,    /* log_drop_record: the extent's records above the watermark were dropped */
    LOG_COMPARE = 7, /* log_extent_record; data: a bitmap of its compare list */
    LOG_CLEAR = 8,   /* log_extent_record: nothing of it is to be compared any more */
    LOG_DAMAGED =
        9, /* log_extent_record: a hole was found in the log; the extent may lack records */
};

enum log_record_flags {
    /* A copy, at the log's head, of a record that was in the tail's way. At this place in the log
     * its stream's watermark is below it. It stands behind newer records of its blocks, so when
     * those were destaged and cut off it must not come back: a copy before position `copies_done`
     * that counts as committed by what stands before that position is in place, or superseded
     * there, and replay passes it over. */
    LOG_MOVED = 1u << 31,
};

struct log_record { /* begins each record */
    uint8_t kind;
    uint8_t lane;
    uint16_t column;
    uint32_t bytes; /* of this record, sums included */
    uint32_t data_blocks;
    uint32_t flags; /* enum record_flags of store.h | enum log_record_flags */
};
static_assert(sizeof(struct log_record) == 16, "on disk");

struct log_data_record {
    struct log_record head;
    uint64_t vdisk;
    uint32_t extent;
    uint32_t slab;
    uint64_t generation;
    uint64_t session, seq;
    uint64_t epoch;
    uint64_t watermark_session, watermark_seq;
    uint64_t client_session, client_number;
    uint64_t address;
    uint32_t block, count;
    uint64_t sums[];
};
static_assert(sizeof(struct log_data_record) == 112, "on disk");

struct log_stream_record {
    struct log_record head;
    uint64_t vdisk;
    uint64_t sealed_epoch;
    uint64_t session;
    uint64_t seq; /* the newest record of the session before this place in the log; 0: none */
    uint64_t watermark_session, watermark_seq;
};
static_assert(sizeof(struct log_stream_record) == 64, "on disk");

struct log_image_record {
    struct log_record head;
    uint64_t target; /* block of the disk */
    uint64_t hash;   /* hash64() of the image */
};
static_assert(sizeof(struct log_image_record) == 32, "on disk");

struct log_extent_record {
    struct log_record head;
    uint32_t extent;
    uint32_t of_adopted; /* LOG_CLEAR: 1: the row was known to have been lost; else 0 */
    uint64_t generation;
    uint64_t hash; /* hash64() of the data, if any */
};
static_assert(sizeof(struct log_extent_record) == 40, "on disk");

struct log_drop_record {
    struct log_record head;
    uint64_t vdisk;
    uint32_t extent, reserved;
    uint64_t generation;
    uint64_t watermark_session, watermark_seq; /* what is above it went */
    uint64_t sealed_epoch;
};
static_assert(sizeof(struct log_drop_record) == 64, "on disk");

#endif
