/* What the files of the store share; store.h is its contract.
 *
 *   store.c          life, errors, extents
 *   store_metrics.c  figures
 *   store_append.c   records: acceptance, placing, what becomes of a durable one, commit
 *   store_fence.c    seals and marks
 *   store_read.c     reading, checksums
 *   store_compare.c  columns that return
 *   store_replay.c   the same state again from the log
 *   store_log.c      another log for it: moving over, and what the loss of one means
 *   checkpoint*.c    destaging; the only thing that moves the tail */
#ifndef S2D_CACHE_TIER_STORE_INTERNAL_H
#define S2D_CACHE_TIER_STORE_INTERNAL_H

#include "cache-tier/log.h"
#include "cache-tier/overlay.h"
#include "cache-tier/page_cache.h"
#include "cache-tier/read_cache.h"
#include "cache-tier/rotten.h"
#include "cache-tier/store.h"
#include "cache-tier/stream.h"
#include "cache-tier/throttle.h"
#include "pool/disk.h"
#include "pool/extent_table.h"
#include "s2d/base/co.h"
#include "s2d/base/invariant.h"
#include "s2d/base/io.h"
#include "s2d/base/metrics.h"
#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"

struct extent_state {
    struct list zeros;     /* struct pending of RECORD_ZERO */
    uint64_t *compare;     /* compare list, a bit to each block; NULL: empty */
    uint64_t forgotten_in; /* the checkpoint during which it was emptied last */
    /* Drops that have their place in the log, and are not durable yet. What is uncommitted goes
     * with them, also what lands meanwhile, before them: no copy of it may follow in the log. */
    uint32_t drops;
    bool withheld; /* store_withhold() */
};

struct store_counters {
    struct counter appended_records, appended_bytes;
    struct counter read_blocks, destaged_blocks, checkpoints;
    struct counter log_read_blocks, cache_read_blocks, place_read_blocks;
    struct counter verify_errors, healed_blocks;
    struct histogram log_write_ns, log_wait_ns;
};

/* How old is what lies at the log's tail? What lies from `position` on was written at at_ns or
 * later. The first mark is the oldest. */
#define AGE_MARKS_MAX 64
struct age_marks {
    struct age_mark {
        uint64_t position, at_ns;
    } marks[AGE_MARKS_MAX];
    size_t count;
    uint64_t head; /* of the log, when it was looked at last */
};

struct checkpoint_state {
    struct co_cond wanted;   /* the log filled up, a watermark moved, or stop */
    struct co_mutex running; /* one at a time */
    struct co_group workers;
    uint64_t serial; /* of the one that runs or ran last */
    bool stop;
    bool at_any_price;       /* copies what is uncommitted, however much of a region that is */
    struct checkpoint *work; /* buffers */
};

struct store {
    struct io *io;
    struct disk *disk;
    struct disk_geometry geometry;
    uint32_t extent_shift;
    char *name;
    struct store_health health;
    struct log_region log_region; /* where the log is: on the disk, or on a cache disk */
    struct log *log;              /* NULL until replay is over */
    struct log *new_log;          /* while the log moves: it is told what RAM knows. Else NULL */
    struct overlay *overlay;
    struct extent_table *table;
    struct page_cache *pages;
    struct read_cache *read_cache; /* NULL: none, as for flash */
    struct streams streams;
    struct extent_state *extents;
    /* Committed records whose place in the log is a copy (LOG_MOVED): the next checkpoint that
     * finds the commit durable destages what of them is still live, wherever it is, so that replay
     * may pass them over. */
    struct list copies;  /* struct pending, in no stream */
    bool passing_copies; /* replay is before `copies_done` */
    struct checkpoint_state checkpoint;
    struct throttle throttle; /* of the log's intake; what checkpoints take is told it */
    /* Who puts something into the log outside of appends and checkpoints holds the gate; the log
     * moves over when nobody does. */
    struct co_cond gate;
    uint32_t gate_users;
    bool moving;
    bool closing;
    uint64_t
        settled; /* times that uncommitted records ceased to be; wakes a checkpoint that waits */
    struct store_counters counters;
    struct age_marks ages;
    struct rotten rotten;
    struct metrics *metrics;

    void (*on_error)(void *arg, int error);
    void *on_error_arg;
};

static inline uint64_t store_key(const struct store *store, uint32_t extent, uint32_t block)
{
    return ((uint64_t)extent << store->extent_shift) + block;
}

/* Where a durable record is. */
struct record_place {
    uint64_t batch_position;
    uint64_t data_position;
};

/* ---- store.c ---- */

/* The medium failed in a way after which nothing may be written: everything later fails. */
void store_fail(struct store *store, int error);
/* The medium failed, and we go on. */
void store_report(struct store *store, int error);
/* The log is the store's from now on: its errors and progress. */
void store_watch_log(struct store *store);
int store_new_overlay(struct store *store, const struct log_region *region,
                      struct overlay **ret_overlay);
/* Everything the extent held here goes: versions, pending records, compare list. Always before its
 * row gets another owner or none: the row tells whose records they are. */
void store_forget_extent(struct store *store, uint32_t extent);
/* The extent is free since that generation. */
void store_free_row(struct store *store, struct extent_ref where);
/* May a request name the extent so? Returns 0, 1 (newer than the row: nothing of it is here yet),
 * -ESTALE, -EINVAL (out of range, or it belongs to another vdisk). */
int store_check_extent(const struct store *store, uint64_t vdisk, struct extent_ref where);
/* Makes the row the record's, if it is not yet. After store_check_extent(). */
void store_own_extent(struct store *store, struct extent_ref where, uint64_t vdisk, uint32_t slab,
                      uint16_t column);

/* Log records of the store itself: written together, waited for. */
struct control_wait {
    struct co *co;
    size_t left;
    int error;
};
struct control { /* embedded first */
    struct log_item item;
    struct store *store;
    struct control_wait *wait;
};
void control_init(struct control *control, struct store *store, struct control_wait *wait,
                  const struct log_item_ops *ops, uint32_t header_bytes);
void control_append(struct control *control);           /* counts it in its wait */
void control_done(struct control *control, int result); /* for its ops->done() to call last */
int co_control_wait(struct control_wait *wait);         /* 0 or the first error */
/* Writes down every row that is marked as damaged, and waits for all of wait. */
must_check int co_store_log_damage(struct store *store, struct control_wait *wait);

/* The log is on another disk than the blocks: what reads the one does not disturb the other. */
static inline bool log_is_elsewhere(const struct store *store)
{
    return store->log_region.file != disk_file(store->disk);
}

/* ---- store_log.c ---- */

struct store *co_store_gate(struct store *store); /* for cleanup(store_gate_leave) */
void store_gate_leave(struct store **store);
/* The log's anchors were written. On a cache disk they are the other disk's word; this one keeps
 * how far they had come, so that an old state of that disk is not believed. */
must_check int co_store_note_anchors(struct store *store);
#define STORE_GATE(store)                                                                          \
    __attribute__((unused)) cleanup(store_gate_leave) struct store *gate_held = co_store_gate(store)

/* ---- store_metrics.c ---- */

must_check int store_metrics_add(struct store *store);
void store_metrics_remove(struct store *store);
/* The log is open, or elsewhere. */
void store_note_open(struct store *store);
/* A batch is durable. Cheap. */
void store_note_head(struct store *store);

/* ---- store_append.c ---- */

/* Whether the item is a record that somebody appends to this stream (struct stream *; NULL: any).
 */
bool store_is_append_of(void *stream, const struct log_item *item);

/* What a record owes the log (log.h): one block for each checksum page whose image it will take,
 * above its data. */
uint32_t store_record_owes(const struct store *store, uint8_t kind, uint32_t block, uint32_t count);
/* A record as the log has it, but for its checksums: record->count of them for a RECORD_WRITE. */
void store_encode_record(const struct record *record, uint32_t more_flags,
                         struct log_data_record *to);
/* A record is durable at place. moved: it is a copy of an older record of its stream. */
void store_apply(struct store *store, struct stream *stream, const struct record *record,
                 const uint64_t *sums, const struct record_place *place, bool moved);
/* Commits what the watermark covers; epoch: of the message that told. */
void store_learn_watermark(struct store *store, struct stream *stream,
                           struct log_position watermark, uint64_t epoch);
/* A checkpoint that uncommitted records were in the way of looks again: a watermark moved, or they
 * were dropped, or went with their extent. */
void store_settled(struct store *store);
/* Its data lives elsewhere in the log from now on. */
void store_relocate(struct store *store, struct pending *pending, const struct record_place *place);
/* The record was never written. Frees it. */
void store_drop_pending(struct store *store, struct pending *pending);

/* ---- store_fence.c ---- */

struct stream_control { /* says in the log what a stream is like where it stands */
    struct control control;
    struct stream *stream;
    uint64_t epoch;
    struct log_position watermark;
};
void stream_control_append(struct store *store, struct stream *stream,
                           struct stream_control *control, struct control_wait *wait);

/* ---- store_read.c ---- */

/* A block as the store sees it. */
struct lookup {
    enum { LOOKUP_LOG, LOOKUP_ZERO, LOOKUP_PLACE, LOOKUP_CACHE } source;
    uint32_t ring_block; /* LOOKUP_LOG; LOOKUP_CACHE (a reading view only): of the read cache */
    uint64_t sum;        /* LOOKUP_PLACE: the caller asks the page */
};
struct lookup store_lookup(const struct store *store, uint32_t extent, uint32_t block);

static inline uint64_t store_page_number(const struct store *store, uint32_t extent, uint32_t page)
{
    return (uint64_t)extent * store->geometry.pages_per_extent + page;
}

/* ---- store_compare.c ---- */

must_check int store_compare_bitmap(struct store *store, uint32_t extent, uint64_t **ret_bitmap);
void store_apply_drop(struct store *store, struct stream *stream, uint32_t extent,
                      struct log_position watermark);
void store_apply_clear(struct store *store, struct extent_ref where);
static inline size_t store_bitmap_bytes(const struct store *store)
{
    return ALIGN_UP(DIV_ROUND_UP(store->geometry.extent_blocks, 8), 8);
}

/* ---- store_replay.c ---- */

must_check int co_store_replay(struct store *store);

/* ---- checkpoint.c ---- */

must_check int checkpoint_start(struct store *store);
void co_checkpoint_stop(struct store *store); /* NULL parts are fine */
void checkpoint_poke(struct store *store);    /* something changed that it may wait for */
/* The log's pace: log_pace_fn, of a store. */
uint64_t checkpoint_pace(void *arg, uint64_t room, uint32_t blocks);

#endif
