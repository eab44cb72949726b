/* column_store: a disk's store as the owner of a vdisk sees it, wherever the disk is. The calls are
 * those of cache-tier/store.h; what is added is the *stream*: the way that the records of one vdisk
 * take to this disk, which may break and be taken up again.
 *
 *   column_local.h    the disk is in this node: direct calls
 *   store_client.h    the disk is in another node: over the bus, to its store_server
 *
 * A stream is attached by a seal. While it is attached, appends complete in their order and a 0
 * vouches for all before it. The first failure breaks it: everything in flight completes with an
 * error, in order, and nothing is accepted until it is sealed again; the seal's answer says through
 * which record the store holds it (`durable`), and the owner resends what comes after. What an
 * earlier attachment left under way is never taken after a later seal was answered.
 *
 * Besides the errors that store.h lists every co_ call may return -ENOTCONN (the node is away),
 * -ETIMEDOUT and -EPROTO. One reactor. */
#ifndef S2D_RESILIENCY_COLUMN_STORE_H
#define S2D_RESILIENCY_COLUMN_STORE_H

#include "cache-tier/store.h"
#include "s2d/base/co.h"

struct column_store;

/* One record on its way to a disk: the caller's memory until store.done(). */
struct column_append {
    struct store_append store; /* record, sums, data and done() as store_append() takes them */
    /* private to the implementation */
    struct column_stream *stream;
    struct list node;      /* stream->in_flight */
    struct list wait_node; /* for credit */
    bool sending;          /* the bus reads its data */
    bool ended;            /* `result` is known */
    int result;
};

/* One vdisk's records on their way to one disk. The owner's memory. */
struct column_stream {
    struct column_store *store;
    uint64_t vdisk;
    /* private to the implementation */
    bool attached;
    struct list in_flight; /* struct column_append, in order */
    struct list node;      /* those with something that has ended */
    uint64_t cookie;       /* names the stream to the peer's server */
    uint64_t handle;       /* names the attachment to the peer's server */
    uint64_t connection;   /* the records go by this one */
};

struct column_store_ops {
    int (*co_seal)(struct column_stream *stream, uint64_t epoch, uint64_t session,
                   struct store_seal *ret_seal);
    void (*append)(struct column_stream *stream, struct column_append *append);
    void (*detach)(struct column_stream *stream);
    int (*co_mark)(struct column_store *store, uint64_t vdisk, uint64_t epoch,
                   struct log_position watermark, bool durable);
    int (*co_read)(struct column_store *store, uint64_t vdisk, struct extent_ref where,
                   uint32_t block, uint32_t count, uint64_t address, void *buffer,
                   uint64_t *ret_sums, struct block_set *ret_bad);
    int (*co_read_at)(struct column_store *store, uint64_t vdisk, struct extent_ref where,
                      uint32_t block, uint32_t count, uint64_t address, struct log_position at,
                      void *buffer, uint64_t *ret_sums, struct block_set *ret_bad);
    int (*co_checksums)(struct column_store *store, uint64_t vdisk, struct extent_ref where,
                        uint32_t block, uint32_t count, uint64_t *ret_sums, uint64_t *ret_unknown);
    int (*co_drop_tail)(struct column_store *store, uint64_t vdisk, uint64_t epoch,
                        const struct extent_ref *columns, size_t count);
    int (*co_compare_set)(struct column_store *store, uint64_t vdisk, struct extent_ref where,
                          uint64_t since_epoch, uint32_t extent_blocks, uint64_t *bitmap);
    int (*co_clear_compare)(struct column_store *store, uint64_t vdisk, uint64_t epoch,
                            const struct extent_ref *columns, size_t count);
};

/* The base of every implementation; outlives the mirrors that use it. */
struct column_store {
    const struct column_store_ops *ops;
    uint64_t node, disk;
    bool is_local;
    bool reachable; /* as far as this side knows; a call may still fail */
};

static inline void column_stream_init(struct column_stream *stream, struct column_store *store,
                                      uint64_t vdisk)
{
    *stream = (struct column_stream){.store = store, .vdisk = vdisk};
    list_init(&stream->in_flight);
    list_init(&stream->node);
}

/* Seals the store for (vdisk, epoch, session) and attaches the stream, which must be detached. What
 * was in flight before ends with it, and must have ended (column_stream_idle()) before the first
 * append. On success *ret_seal is the caller's, for store_seal_done(). -ESTALE: fenced by a higher
 * epoch (ret_seal->sealed_epoch). */
must_check static inline int co_column_seal(struct column_stream *stream, uint64_t epoch,
                                            uint64_t session, struct store_seal *ret_seal)
{
    return stream->store->ops->co_seal(stream, epoch, session, ret_seal);
}

/* Only on an attached stream, or one that broke and was not detached yet. append->store.done() is
 * never called from inside. With a result < 0 the stream is broken. */
static inline void column_append(struct column_stream *stream, struct column_append *append)
{
    stream->store->ops->append(stream, append);
}

/* Breaks the stream from this side: what is in flight completes with -ECANCELED as soon as nobody
 * reads its memory any more (a local device must answer first); never from inside. Idempotent.
 * Once it is idle the stream may be sealed again, or freed. */
static inline void column_detach(struct column_stream *stream)
{
    stream->store->ops->detach(stream);
}

static inline bool column_stream_idle(const struct column_stream *stream)
{
    return list_empty(&stream->in_flight);
}

/* False: it has broken. Nothing else tells so when nothing was in flight. (A store of this node
 * that came back without all that it had is not noticed here; it refuses to be marked.) */
static inline bool column_stream_attached(const struct column_stream *stream)
{
    return stream->attached;
}

must_check static inline int co_column_mark(struct column_store *store, uint64_t vdisk,
                                            uint64_t epoch, struct log_position watermark,
                                            bool durable)
{
    return store->ops->co_mark(store, vdisk, epoch, watermark, durable);
}

must_check static inline int co_column_read(struct column_store *store, uint64_t vdisk,
                                            struct extent_ref where, uint32_t block, uint32_t count,
                                            uint64_t address, void *buffer, uint64_t *ret_sums,
                                            struct block_set *ret_bad)
{
    return store->ops->co_read(store, vdisk, where, block, count, address, buffer, ret_sums,
                               ret_bad);
}

must_check static inline int co_column_read_at(struct column_store *store, uint64_t vdisk,
                                               struct extent_ref where, uint32_t block,
                                               uint32_t count, uint64_t address,
                                               struct log_position at, void *buffer,
                                               uint64_t *ret_sums, struct block_set *ret_bad)
{
    return store->ops->co_read_at(store, vdisk, where, block, count, address, at, buffer, ret_sums,
                                  ret_bad);
}

must_check static inline int co_column_checksums(struct column_store *store, uint64_t vdisk,
                                                 struct extent_ref where, uint32_t block,
                                                 uint32_t count, uint64_t *ret_sums,
                                                 uint64_t *ret_unknown)
{
    return store->ops->co_checksums(store, vdisk, where, block, count, ret_sums, ret_unknown);
}

must_check static inline int co_column_drop_tail(struct column_store *store, uint64_t vdisk,
                                                 uint64_t epoch, const struct extent_ref *columns,
                                                 size_t count)
{
    return store->ops->co_drop_tail(store, vdisk, epoch, columns, count);
}

must_check static inline int co_column_compare_set(struct column_store *store, uint64_t vdisk,
                                                   struct extent_ref where, uint64_t since_epoch,
                                                   uint32_t extent_blocks, uint64_t *bitmap)
{
    return store->ops->co_compare_set(store, vdisk, where, since_epoch, extent_blocks, bitmap);
}

must_check static inline int co_column_clear_compare(struct column_store *store, uint64_t vdisk,
                                                     uint64_t epoch,
                                                     const struct extent_ref *columns, size_t count)
{
    return store->ops->co_clear_compare(store, vdisk, epoch, columns, count);
}

#endif
