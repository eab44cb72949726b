/* What the files of the client share: store_client.c (peers, streams, records, seals) and
 * store_client_calls.c (everything else that is asked). */
#ifndef S2D_RESILIENCY_STORE_CLIENT_PRIVATE_H
#define S2D_RESILIENCY_STORE_CLIENT_PRIVATE_H

#include "resiliency/store_client.h"
#include "resiliency/store_messages.h"
#include "s2d/base/io.h"
#include "s2d/base/sometimes.h"
#include "s2d/bus/bus.h"

#define CALL_TIMEOUT_NS (2 * SEC)
#define CALL_TIMEOUT_SLOW_NS (10 * SEC) /* what reads many pages, or waits for a log to drain */
#define TAIL_TOTAL_MAX (1u << 20)       /* records of a tail; more is nonsense */

struct client_peer {
    struct list node; /* in client->peers */
    struct store_client *client;
    uint64_t id;
    struct list columns; /* struct column_remote */
    struct list waiting; /* struct column_append: for credit, in order */
    bool sending;        /* the coroutine that waits for credit exists */
};

struct column_remote {
    struct column_store base;
    struct list node; /* in peer->columns */
    struct client_peer *peer;
};

struct client_slot {
    struct column_stream *stream; /* NULL: free */
    uint32_t generation;
};

struct store_client {
    struct io *io;
    struct bus *bus;
    struct list peers;
    struct client_slot *slots;
    uint32_t slot_count;
    struct list ended; /* struct column_stream: some appends may complete */
    struct io_task ended_task;
    struct co_group senders;
};

static inline struct column_remote *remote_of(struct column_store *column)
{
    return container_of(column, struct column_remote, base);
}

static inline struct client_peer *peer_of(const struct column_stream *stream)
{
    return remote_of(stream->store)->peer;
}

/* ---- store_client_calls.c ---- */

/* Asks the column's node. bulk: its data goes along, checksummed; may be NULL. Returns what the
 * peer's store said, or why it could not be asked. */
must_check int co_client_call(struct column_store *column, uint16_t type, enum bus_channel channel,
                              struct store_call *call, const struct bus_send *bulk,
                              uint64_t timeout_ns, struct bus_reply *reply);

/* Operations of struct column_store_ops. */
int co_client_mark(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                   struct log_position watermark, bool durable);
int co_client_read(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                   uint32_t block, uint32_t count, uint64_t address, void *buffer,
                   uint64_t *ret_sums, struct block_set *ret_bad);
int co_client_read_at(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                      uint32_t block, uint32_t count, uint64_t address, struct log_position at,
                      void *buffer, uint64_t *ret_sums, struct block_set *ret_bad);
int co_client_checksums(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                        uint32_t block, uint32_t count, uint64_t *ret_sums, uint64_t *ret_unknown);
int co_client_drop_tail(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                        const struct extent_ref *columns, size_t count);
int co_client_compare_set(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                          uint64_t since_epoch, uint32_t extent_blocks, uint64_t *bitmap);
int co_client_clear_compare(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                            const struct extent_ref *columns, size_t count);

#endif
