/* stream: what a store knows of one vdisk: its fence (sealed epoch), its session, how far its
 * records go, its watermark, and its *pending* records: those in the log above the watermark, in
 * their order.
 *
 * Plain data and lists; the rules are store.c's. One reactor, nothing suspends. */
#ifndef S2D_CACHE_TIER_STREAM_H
#define S2D_CACHE_TIER_STREAM_H

#include <uthash.h>

#include "cache-tier/log.h"
#include "cache-tier/recent.h"

struct stream {
    uint64_t vdisk;
    uint64_t sealed_epoch;  /* highest shown; what is lower is refused */
    uint64_t durable_epoch; /* highest that is in the log */
    uint64_t intact_since;  /* of what has this epoch or a higher one no log that was lost had
                               anything; 0: nothing is known */
    uint64_t session;
    /* seq of the newest record of the session that was accepted, has its place in the log, is
     * durable */
    uint64_t accepted_seq, placed_seq, durable_seq;
    struct log_position watermark;
    uint64_t watermark_epoch; /* of the message that told it: the stamp of what it commits */
    struct log_position durable_watermark;
    struct list pending; /* struct pending, by position */
    uint64_t pending_count;
    uint64_t older_count; /* of these: RECORD_OLDER; almost always 0 */
    struct recent recent; /* committed, as far as known here */
    struct log_flow flow; /* its records' share of a log that holds them back */
    UT_hash_handle hh;
};

struct pending {
    struct list node;      /* in stream->pending */
    struct list zero_node; /* RECORD_ZERO: in its extent's list of them, by position */
    struct stream *stream;
    struct log_position position;
    struct extent_ref where;
    uint32_t id; /* > 0 */
    uint32_t slab;
    uint16_t column;
    uint8_t kind;
    bool moved; /* what the log holds of it is a copy */
    uint32_t block, count;
    uint32_t flags;
    uint64_t address, epoch;
    uint64_t client_session, client_number;
    uint32_t ring_block;     /* of its first data block */
    uint64_t batch_position; /* the log's tail may not pass it without a copy at the head */
};

struct streams {
    struct stream *table;
    struct pending **chunks; /* pending n is chunks[n / PENDING_CHUNK] + n % PENDING_CHUNK */
    uint32_t chunk_count;
    struct list free; /* pending */
};

void streams_init(struct streams *streams);
void streams_done(struct streams *streams);

struct stream *stream_find(const struct streams *streams, uint64_t vdisk);  /* NULL: unknown */
struct stream *stream_find_or_add(struct streams *streams, uint64_t vdisk); /* NULL: no memory */

/* A pending record with the fields of `record`, in no list. Memory is kept for later ones. NULL: no
 * memory. */
struct pending *pending_get(struct streams *streams, const struct record *record);
void pending_put(struct streams *streams, struct pending *pending); /* in no stream */
struct pending *pending_by_id(const struct streams *streams, uint32_t id);
/* Puts it where its position belongs; almost always at the end. */
void stream_add_pending(struct stream *stream, struct pending *pending);
void stream_remove_pending(struct stream *stream, struct pending *pending);
/* The pending record at exactly that position; NULL: none. */
struct pending *stream_find_pending(const struct stream *stream, struct log_position position);

#endif
