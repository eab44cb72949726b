/* feed: the owner's side of one (vdisk, disk): what was sent and not yet confirmed, what must be
 * sent again after a break, and where the disk's columns stand on their way back to in-sync.
 *
 * One coroutine a feed runs through: attach (seal; resend) → drop the tail of stale columns →
 * open (watermarks may flow) → bring stale columns up (resync.c) → serve, until something breaks.
 * Everything else happens on the loop and never suspends. Private to this folder. */
#ifndef S2D_RESILIENCY_FEED_H
#define S2D_RESILIENCY_FEED_H

#include "resiliency/column_store.h"
#include "resiliency/vdisk_config.h"

struct mirror;
struct feed;

enum part_state {
    PART_IDLE,   /* not in use */
    PART_QUEUED, /* in the feed, not at the store: sent when the feed is up */
    PART_SENT,   /* at the store, which reads its memory */
    PART_DURABLE,
    PART_DROPPED, /* nobody wants it there any more */
};

/* One record on its way to one disk. The caller's memory from feed_send() to done(). */
struct feed_part {
    struct column_append append; /* the record: all but epoch, prev_seq, watermark by the caller */
    enum part_state state;
    /* A copy or a repair is for this attachment only: it fails when the feed breaks. A write
     * stays queued and is sent again for as long as its column must have it. */
    bool once;
    /* On the loop: PART_DURABLE (result 0) or PART_DROPPED (result < 0). */
    void (*done)(struct feed_part *part, int result);
    void *owner;
    /* private */
    struct feed *feed;
    struct list node;
    uint64_t since_ns; /* sent, or queued, at */
};

struct feed {
    struct list node; /* in mirror->feeds */
    struct mirror *mirror;
    uint64_t disk, node_id;
    struct column_store *store; /* NULL: the disk is gone */
    struct column_stream column;

    bool up;       /* sealed and attached: takes records */
    bool sealed;   /* at least once in this session: its tail is known */
    bool opened;   /* watermarks may go to it */
    bool catching; /* its stale columns get new writes */
    bool counted;  /* its stale columns are waited for like in-sync ones (I1) */
    bool proposed; /* … and a configuration must answer before that may end */
    bool failed;   /* the medium reported an error: no patience */
    bool fenced;   /* the store knows a higher epoch */
    bool retired;  /* no column of the vdisk is here any more */
    bool restart;  /* a new configuration asks for a new attachment */
    bool running;  /* its coroutine exists */
    bool marking;  /* a watermark is being told */
    bool has_mark; /* it holds durably the one that was told before the proposal (I8) */

    uint32_t in_sync_columns, stale_columns; /* by the present configuration */

    struct store_seal seal; /* the tail of the first seal, until the slabs are taken over */

    struct list parts;      /* struct feed_part, by seq */
    struct co_group sent;   /* those that the store still reads */
    uint64_t sent_ns;       /* a record was sent last at */
    uint64_t not_before_ns; /* pause after a failed attempt to bring it up */
    uint64_t chain_seq;     /* of the record sent last: the next one's prev_seq */
    uint64_t told_seq;      /* highest watermark sent */

    uint64_t down_since_ns;
    uint64_t proposed_ns; /* a proposal about this disk was made last at */
    uint64_t proposed_epoch;
    uint32_t *proposed_slabs; /* of these slabs; none: of all */
    size_t proposed_slab_count;

    uint64_t compare_blocks, filled_blocks; /* resync's progress (mirror_status()) */
};

/* Joins the mirror's feeds; feed_start() makes it run. Returns 0 or -ENOMEM. */
must_check int feed_new(struct mirror *mirror, uint64_t disk, uint64_t node,
                        struct feed **ret_feed);
void feed_free(struct feed *feed); /* its coroutine has ended and nothing is in flight */

/* Starts its coroutine, unless it runs. Returns 0 or -ENOMEM. */
must_check int feed_start(struct feed *feed);

/* The disk is in this node now. */
void feed_locate(struct feed *feed, uint64_t node);

static inline bool feed_is_local(const struct feed *feed)
{
    return feed->store && feed->store->is_local;
}

/* Queues part behind all before it (its seq is higher); sends it if the feed is up. */
void feed_send(struct feed *feed, struct feed_part *part);

/* Ends the attachment: what is in flight comes back. error says why, for the log and for -EIO. */
void feed_break(struct feed *feed, int error);

/* Drops what waits here and is no longer wanted (after a new configuration, or at the end). */
void feed_drop_unwanted(struct feed *feed);

/* Tells the store the watermark (or that the session has opened). Returns 0 or why it could not. */
int co_feed_tell(struct feed *feed, bool durable);

#endif
