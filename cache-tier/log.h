/* log: a ring of batches with one durable write in flight: what comes while it is under way is
 * gathered into the next one; when it is idle a batch leaves at the end of the turn. log_format.h
 * has the bytes, log_replay.h reads them after a start. Space before the tail is free; who moves
 * the tail (the checkpoint) says that nothing before it is needed.
 *
 * Nothing here refuses for lack of room: an item waits until the tail moves, or until its turn at
 * the pace that log_set_pace() gives. An eighth of the ring is kept: half of it for LOG_AGAIN
 * items, which let a takeover end, and all of it for LOG_RESERVED ones, which move the tail or
 * fence a writer; nothing paces them. So whatever a takeover writes, what moves the tail finds a
 * sixteenth of the ring. Items of each of these two classes keep their order, as LOG_NORMAL items
 * of one flow do; of flows that wait each gets the same share (log_waiting.h). No item passes a
 * waiting one of a class that may fill more.
 *
 * Room is a promise as well: what a record in the log will yet make a checkpoint write into it,
 * above the record's own blocks, is *owed*. LOG_NORMAL items are let in only while
 *
 *   what is used + what is owed <= the ring - the eighth that is kept
 *
 * and LOG_AGAIN ones while that is at most the ring less a sixteenth,
 * so to put a piece of the log in its place takes no more room than the piece gives up with it, and
 * a checkpoint never waits for room that only it can make. What is owed goes with the batch that
 * owes it, when the tail passes; a replay finds the same sum.
 *
 * One reactor, nothing suspends but where said. */
#ifndef S2D_CACHE_TIER_LOG_H
#define S2D_CACHE_TIER_LOG_H

#include "cache-tier/log_format.h"
#include "s2d/base/base.h"

struct disk;
struct histogram; /* s2d/base/metrics.h */
struct io;
struct io_file;
struct log;

/* Where a log is: a region of its disk, or of a cache disk. */
struct log_region {
    struct io *io;
    struct io_file *file; /* borrowed, outlives the log */
    uint64_t offset, bytes;
    uint8_t uuid[16]; /* of this life of the log: in every header */
    bool begun;       /* by co_log_format(): without anchors it is lost; else it may be all zeros */
    uint64_t anchors; /* their generation is this at least, or it is lost: an old state */
};
/* The region that the disk's superblock names. device: the disk that it lies on; NULL: the disk
 * itself. */
struct log_region log_region_of(struct disk *disk, struct disk *device);
static inline uint64_t log_region_blocks(const struct log_region *region) /* of the ring */
{
    return region->bytes / BLOCK_SIZE - LOG_ANCHOR_BLOCKS;
}
/* Offset of a ring block in the region's file. */
static inline uint64_t log_region_offset(const struct log_region *region, uint32_t block)
{
    return region->offset + (LOG_ANCHOR_BLOCKS + (uint64_t)block) * BLOCK_SIZE;
}

enum log_class {
    LOG_NORMAL,
    LOG_AGAIN,    /* may use half of the eighth that is kept; passes waiting LOG_NORMAL items */
    LOG_RESERVED, /* may use all of it; passes all others that wait */
    LOG_CLASSES
};

struct log_item;
struct log_item_ops {
    /* Writes the record (item->header_bytes of zeroed memory) when it takes its place in the order
     * of the log. Returns false to withdraw it: done() comes all the same, with -ECANCELED. */
    bool (*encode)(struct log_item *item, void *record);
    /* 0: durable, and every item before it; else the write failed, or what log_reject() said.
     * Called in the order of the log. May queue items again, this one too. */
    void (*done)(struct log_item *item, int result);
};

/* Those who share the log: its items keep their order. Zeroed at first; outlives them. */
struct log_flow {
    uint64_t next_turn; /* private */
};

/* One record on its way: the caller's memory, with its data, from log_append() to done(). */
struct log_item {
    const struct log_item_ops *ops;
    struct log_flow *flow; /* of a LOG_NORMAL item; NULL: nobody's */
    const void *data;
    uint32_t data_blocks;
    uint32_t header_bytes; /* multiple of 8 */
    uint32_t owed_blocks;  /* what it will take to destage it, above data_blocks; at most
                              LOG_ITEM_OWED_MAX */
    /* for done(): where it is */
    uint64_t batch_position;
    uint64_t data_position;
    uint32_t header_offset; /* of the record, from the batch's start */
    /* private */
    int result;
    uint64_t turn, waits_since_ns;
    struct list node;
};

#define LOG_ITEM_OWED_MAX 2
#define LOG_ITEM_HEADER_BYTES_MAX                                                                  \
    (LOG_HEADER_BLOCKS_MAX * BLOCK_SIZE - sizeof(struct log_batch_header))

void log_append(struct log *log, struct log_item *item, enum log_class class);
/* Completes item with result, which is not 0, in the order of its flow. */
void log_reject(struct log *log, struct log_item *item, int result);
/* Rejects every waiting item that match() names. */
typedef bool log_match_fn(void *arg, const struct log_item *item);
void log_reject_waiting(struct log *log, log_match_fn *match, void *arg, int result);
/* LOG_NORMAL items wait from here on, whatever room there is, until held is false again. */
void log_hold(struct log *log, bool held);
/* Nothing is in flight or gathered; items may wait. */
bool log_quiet(const struct log *log);
/* What waits, or was turned away and not told yet, goes on in another log, in its order. Nothing is
 * in flight, nor gathered to be written. */
void log_hand_over(struct log *from, struct log *to);
/* Whether match() names a waiting LOG_NORMAL item. */
bool log_any_waiting(const struct log *log, log_match_fn *match, void *arg);

/* Asked for each LOG_NORMAL item for which there is room, with the blocks it takes: 0, it goes now;
 * or the time at which to ask again. room: blocks until the log is full, these included. fn NULL:
 * they go as they come. */
typedef uint64_t log_pace_fn(void *arg, uint64_t room, uint32_t blocks);
void log_set_pace(struct log *log, log_pace_fn *fn, void *arg);

/* ---- life ---- */

/* Where a log goes on: what log_replay.h found. */
struct log_start {
    uint64_t tail_position, tail_sequence;
    uint64_t head_position, head_sequence; /* of the next batch */
    uint64_t images_done, copies_done;     /* log_format.h */
    uint64_t anchor_generation;
    uint32_t incarnation; /* of this open; the anchors say so already */
};
/* start: copied. Batch lengths between tail and head are then given by log_note_batch(). */
must_check int log_new(const struct log_region *region, const struct log_start *start,
                       struct log **ret_log);
/* Begins again elsewhere; nothing was appended yet. */
void log_set_start(struct log *log, const struct log_start *start);
void log_free(struct log *log); /* idle; NULL is fine */
DEFINE_CLEANUP(struct log, log_free)

void log_set_error_handler(struct log *log, void (*fn)(void *arg, int error), void *arg);
/* Called after each batch that became durable, before the next one leaves. */
void log_set_progress_handler(struct log *log, void (*fn)(void *arg), void *arg);

/* From here on every item fails with error (negative); what is in flight is waited for by its
 * done(). */
void log_fail(struct log *log, int error);
int log_error(const struct log *log); /* 0: sound */
/* A write or read of the log's own region failed; with log_fail() alone it need not have. */
bool log_device_failed(const struct log *log);
void log_note_device(struct log *log,
                     int error);      /* of a read of it; 0 and -ECANCELED say nothing */
bool log_idle(const struct log *log); /* nothing in flight, gathered or waiting */
/* Suspends until idle. */
void co_log_drain(struct log *log);
/* Writes an empty batch, if a block is left: it vouches for the one before it. 0 or the log's
 * error. */
must_check int co_log_close_batch(struct log *log);

/* ---- room ---- */

uint64_t log_ring_blocks(const struct log *log);
uint64_t log_tail(const struct log *log);        /* position */
uint64_t log_head(const struct log *log);        /* position behind the last durable batch */
uint64_t log_used_blocks(const struct log *log); /* tail to head, what is in flight included */
uint64_t log_owed_blocks(const struct log *log); /* by all of that */
bool log_is_full(const struct log *log); /* a LOG_NORMAL or LOG_AGAIN item waits for the tail */
uint64_t log_last_sequence(const struct log *log); /* of the newest durable batch */
uint64_t log_anchor_generation(const struct log *log);
static inline uint32_t log_block_of(const struct log *log, uint64_t position)
{
    return position % log_ring_blocks(log);
}
/* Offset of a ring block in the region's file. */
uint64_t log_block_offset(const struct log *log, uint32_t block);

/* Walking whole batches from the tail: the length of the durable batch at a position (a boundary).
 */
uint32_t log_batch_blocks(const struct log *log, uint64_t position);
uint32_t log_batch_owed(const struct log *log, uint64_t position);
void log_note_batch(struct log *log, uint64_t position, uint32_t blocks);
void log_note_owed(struct log *log, uint64_t position,
                   uint32_t blocks); /* of a noted batch: more */

/* Moves the tail. Durable when it returns 0; room is free from then on. Returns 0, -EIO,
 * -ECANCELED. */
struct log_cut {
    uint64_t position;    /* a batch boundary */
    uint64_t batches;     /* from the old tail to there */
    uint64_t images_done; /* images up to this sequence are in place */
    uint64_t copies_done; /* position: see LOG_MOVED */
};
must_check int co_log_move_tail(struct log *log, const struct log_cut *cut);

/* ---- figures ---- */

struct log_figures {
    uint64_t batches, items, blocks;
};
/* How long batches take from leaving to being durable, and how long each LOG_NORMAL item waited
 * that had to, goes here from now on; NULL: nowhere. */
void log_set_latency(struct log *log, struct histogram *latency_ns, struct histogram *wait_ns);
struct log_figures log_figures(const struct log *log);

/* Anchors, for log_replay.h too. */
void log_anchor_finish(struct log_anchor *anchor);
must_check int log_anchor_check(const struct log_anchor *anchor, const uint8_t log_uuid[16],
                                unsigned copy); /* 0, -EBADMSG */
must_check int co_log_write_anchors(const struct log_region *region, const struct log_start *start);
/* Begins a new life of a log in a region: nothing that lies there counts. Returns 0, -EIO,
 * -ENOMEM, -ECANCELED. */
must_check int co_log_format(const struct log_region *region);
uint32_t log_header_crc(const struct log_batch_header *header); /* header_bytes must be sane */

#endif
