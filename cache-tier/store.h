/* store: one disk's part of every vdisk that has columns on it: write-back log, overlay index,
 * checkpoint and destage, checksums. It holds extents and answers for them; it never judges itself
 * (I8) and knows neither mirror nor parity: to it a record is blocks of an extent with an order.
 *
 * Order. Records of one vdisk on one store form a *stream*. A stream is in the session of the owner
 * that sealed it last; in a session each record names the seq before it on this very stream, and a
 * gap is refused (I4). The watermark (session, seq) says which records are committed; only it
 * retires a record (I2, I6). Fence. The highest epoch shown for a vdisk, by any call, is durable
 * before that call returns 0; calls with a lower one get -ESTALE (I4). Seals are kept in the log's
 * headers. Extents. A call names an extent with its generation: older than the extent's gets
 * -ESTALE, a newer one initialises it, and then all of its blocks read as zeros (I10). Reading.
 * Overlay (the log), then the checksum page and the place on disk. Every block is verified against
 * its checksum, and -EBADMSG tells the caller to take another column.
 *
 * One reactor. co_ calls suspend. Offsets and counts are in blocks of BLOCK_SIZE, within the
 * extent. */
#ifndef S2D_CACHE_TIER_STORE_H
#define S2D_CACHE_TIER_STORE_H

#include "cache-tier/log.h"
#include "s2d/base/base.h"

struct io;
struct disk; /* pool/disk.h */
struct disk_log;
struct metrics; /* s2d/base/metrics.h */
struct store;

/* Where a column lives on this disk. */
struct extent_ref {
    uint32_t extent;     /* number on the disk */
    uint64_t generation; /* Raft index of the command that allocated it */
};

/* Order of everything in a vdisk: session first. */
struct log_position {
    uint64_t session;
    uint64_t seq;
};
static inline int log_position_compare(struct log_position a, struct log_position b)
{
    if (a.session != b.session)
        return a.session < b.session ? -1 : 1;
    return a.seq < b.seq ? -1 : a.seq > b.seq;
}

enum record_kind {
    RECORD_WRITE = 1, /* data and checksums */
    RECORD_ZERO = 2,  /* trim and write-zeroes: the range reads as zeros; no data, no checksums */
};
enum record_flags {
    RECORD_COPY = BIT(0),    /* resync: committed data brought to a column that is catching up */
    RECORD_REWRITE = BIT(1), /* written again at a takeover */
    RECORD_REPAIR = BIT(2),  /* read repair: leaves a heal record */
    RECORD_VERIFIED = BIT(
        3), /* in memory only: sums need no check (the caller computed them on this very memory) */
    /* Written again at a takeover, of an older record than the newest of its block, which nobody
     * could read. The requests of the records below are not to be remembered (recent.h): that one's
     * did not happen. */
    RECORD_OLDER = BIT(4),
    /* Parity: which columns of the slab the write has records on, a bit each; a takeover must know
     * who was not touched. 0 in a mirror. The store keeps it and makes nothing of it. */
    RECORD_TOUCHED_SHIFT = 8,
    RECORD_TOUCHED_MASK = 0xffff << RECORD_TOUCHED_SHIFT,
};
static inline uint32_t record_touched(uint32_t flags)
{
    return (flags & RECORD_TOUCHED_MASK) >> RECORD_TOUCHED_SHIFT;
}

#define RECORD_BLOCKS_MAX                                                                          \
    256 /* of a RECORD_WRITE: 1 MiB; a RECORD_ZERO may cover a whole extent                        \
         */

struct record {
    uint64_t vdisk;
    struct extent_ref where;
    uint32_t slab;
    uint16_t column;
    uint8_t lane; /* 0 */
    uint8_t kind; /* enum record_kind */
    uint32_t flags;
    uint32_t block, count; /* within the extent */
    uint64_t address;      /* of the first block, for checksums: see checksum.h */
    uint64_t epoch;
    struct log_position position; /* this record */
    uint64_t prev_seq; /* the record of this session before it on this stream; 0: the first */
    struct log_position watermark;
    uint64_t client_session, client_number;
};

/* One append under way: the caller's memory, with what sums and data point to, until done(). */
struct store_append {
    struct record record;
    const uint64_t *sums; /* count of them; NULL for RECORD_ZERO */
    const void *data;     /* count blocks, aligned to BLOCK_SIZE */
    /* On the loop; result: 0 (durable in the log), -ESTALE (epoch, session or generation:
     * store_stream_info() tells), -EILSEQ (gap or not in order), -EBADMSG (data does not match
     * sums), -EIO (the disk failed), -EINVAL, -ECANCELED (store closes). Results of one stream come
     * in the order of its records, and a 0 vouches for all records before it. */
    void (*done)(struct store_append *append, int result);
    struct list node; /* the caller's own while the store has it; never touched here */
    /* private */
    struct log_item item;
    struct store *store;
    struct stream *stream;
};

/* ---- life ---- */

struct store_options {
    uint32_t
        page_cache_pages;    /* checksum pages of 4 KiB kept in RAM, 2 MiB of data each; 0: 4096 */
    struct metrics *metrics; /* may be NULL */
    const char *name;        /* for metrics and logs: the disk's */
    struct disk *log_device; /* the cache disk that disk_log() names; NULL: the log is on the disk
                                itself. Borrowed, outlives the store */
};

/* What was found at the start that the cluster must hear of. */
struct store_health {
    /* A hole in the log or in the extent table: the columns that store_each_extent() calls damaged
     * must be stale (I9), and with lost_extents != 0 all columns of the disk. Said at every open
     * until co_store_clear_compare(). */
    bool log_damaged;
    uint64_t lost_extents;  /* rows of the extent table that could not be read, also those that the
                               log has made anew, until they were compared */
    bool torn_tail;         /* the last write was cut short by a crash; it was never acknowledged */
    uint64_t corrupt_pages; /* checksum pages unreadable: their blocks answer -EBADMSG until written
                               again */
    uint64_t replayed_records;
};

/* Opens the store of a claimed and opened disk: replays the log. disk: borrowed, outlives the
 * store. Returns 0, -ENODEV (its log is on a cache disk, and none was given), -EIO, -EBADMSG
 * (superstructure beyond repair), -ENOMEM, -ECANCELED. */
must_check int co_store_open(struct io *io, struct disk *disk, const struct store_options *options,
                             struct store **ret_store);
/* Stops checkpointing, waits for what is in flight; the log stays for the next open. After a crash
 * of a simulated machine it is called as well, and then every operation of the disk fails with
 * -ECANCELED. */
void co_store_close(struct store *store);
const struct store_health *store_health(const struct store *store);
struct disk *store_disk(struct store *store);
/* From now on reads look in a read cache first, empty yet, in a region of a faster disk that is
 * this store's alone (read_cache.h); one that was there before goes. options->bytes 0: none any
 * more, and nothing reads or writes the old one's file when this returns. The region's disk may
 * fail at any time: that costs nothing but speed. Returns 0, -EINVAL, -ENOMEM (then there is none).
 */
struct read_cache_options;
must_check int co_store_set_read_cache(struct store *store,
                                       const struct read_cache_options *options);
/* Called on the loop when the medium fails (an event, never an abort), with what failed. */
void store_set_error_handler(struct store *store, void (*fn)(void *arg, int error), void *arg);

/* ---- a log on a cache disk (pool/disk.h, disk_format.h) ---- */

/* Goes on with another log, in the region `to` of `device` (NULL: of the disk itself), which is
 * nobody's yet. Readers and writers notice a pause. The old region is free when it returns 0; its
 * device may go when what reads there has ended. Returns 0; -EAGAIN (records stayed uncommitted, so
 * it was given up: later), an error of the new region or its memory: the old log goes on; or -EIO
 * (the disk itself failed, and with it the store), -ECANCELED. */
must_check int co_store_move_log(struct store *store, struct disk *device,
                                 const struct disk_log *to);
/* For a disk whose log is lost (its device failed, or is away, or has another life of it): begins
 * an empty one, `to` on `device` (NULL: the disk itself), and says on the disk that the former one
 * is lost. The store is closed. Returns 0, -EIO, -ENOMEM, -ECANCELED. */
must_check int co_store_begin_log(struct disk *disk, struct disk *device,
                                  const struct disk_log *to);
/* The device of the log failed, if not the disk: all writing ended. What was not destaged is lost
 * here: close the store, name another log (co_disk_set_log(), lost), open it again. */
bool store_log_device_failed(const struct store *store);

/* The disk's log was lost (disk_log_lost()): what its extent table says may be old as well. Called
 * after co_store_open(), before anybody reads or writes here, with what the database says as of
 * its entry `index`: every column on the disk, and the epoch of each vdisk that has some. Extents
 * the database does not know are free; the others are damaged. Lower epochs are fenced off, though
 * the seals are lost. Durable when it returns 0. Returns 0, -EIO, -ENOMEM, -ECANCELED.
 *
 * Who saw the log fail knows up to which epoch it had taken anything (store_stream_info(), before
 * the store was closed). As a source, a column then still knows all that changed in higher ones. */
struct store_fence {
    uint64_t vdisk, epoch;
    uint64_t intact_since; /* all that was lost is of lower epochs; 0: nobody knows */
};
struct store_extent;
must_check int co_store_settle_loss(struct store *store, uint64_t index,
                                    const struct store_extent *columns, size_t column_count,
                                    const struct store_fence *fences, size_t fence_count);
/* The column is damaged, and the last in-sync one of its slab, so that nobody calls it stale (I3):
 * what was acknowledged may be gone, and no copy tells. Its blocks are not given out from now on
 * (-EBADMSG), rather than old ones. Until co_store_clear_compare(), or the store closes. */
void store_withhold(struct store *store, struct extent_ref where);

/* ---- the owner's stream ---- */

struct store_stream_info {
    uint64_t sealed_epoch;  /* the highest epoch shown */
    uint64_t durable_epoch; /* nothing of a higher one was ever confirmed here */
    uint64_t session;
    uint64_t accepted_seq; /* of the session: the next record names it as prev_seq */
    struct log_position watermark;
    uint64_t pending_records; /* above the watermark */
};
/* What the store knows of a vdisk, for whoever was refused. False: nothing. */
bool store_stream_info(const struct store *store, uint64_t vdisk,
                       struct store_stream_info *ret_info);

/* Queues a record; never suspends, never refuses for lack of room (a full log makes done() wait:
 * the caller's credit bounds what can queue). done() is never called from inside. */
void store_append(struct store *store, struct store_append *append);
/* The session's owner is gone for now: its records that wait for room get -ESTALE, and it seals
 * before it sends more. Others it has sent end by themselves. */
void store_let_go(struct store *store, uint64_t vdisk, uint64_t session);

struct store_tail_record {
    struct log_position position;
    struct extent_ref where; /* of one above the watermark */
    uint32_t slab;
    uint16_t column;
    uint8_t kind;
    uint32_t flags;
    uint32_t block, count;
    uint64_t client_session, client_number; /* session 0: not of a client */
};
struct store_seal {
    uint64_t sealed_epoch;         /* after the call */
    struct log_position watermark; /* highest known here */
    struct log_position
        durable; /* the last record of the present session that is durable here; seq 0: none */
    struct store_tail_record
        *tail; /* by position: what is remembered of clients' last requests at or below the
                  watermark (recent.h), then all records above it. Free with store_seal_done() */
    size_t tail_count;
};
/* Fences every lower epoch and enters session (>= the stream's; a new one starts at prev_seq 0);
 * waits until what was accepted before is durable or failed. The same (epoch, session) may seal
 * again after a reconnect and resend from `durable`. Returns 0, -ESTALE (epoch or session lower
 * than shown before; *ret_seal then holds sealed_epoch only), -EIO, -ECANCELED. */
must_check int co_store_seal(struct store *store, uint64_t vdisk, uint64_t epoch, uint64_t session,
                             struct store_seal *ret_seal);
void store_seal_done(struct store_seal *seal);

/* Learns a watermark outside of a record (idle lanes, "opened"). durable: also makes it durable
 * before returning. Returns 0, -ESTALE, -EIO, -ECANCELED. */
must_check int co_store_mark(struct store *store, uint64_t vdisk, uint64_t epoch,
                             struct log_position watermark, bool durable);

/* ---- reading ---- */

/* Reads count (<= RECORD_BLOCKS_MAX) blocks into buffer (aligned), zeros where unwritten. ret_sums
 * (may be NULL): their checksums, 0 = unwritten. Every block returned was verified. Returns 0,
 * -EBADMSG (at least one does not match, or the medium would not give it: ret_bad, if not NULL, has
 * a bit for each such block; the others are right; the error handler was told), -ESTALE
 * (generation; or a damaged column until it was compared: who asks does not know yet that it is
 * stale), -EINVAL (range, or another vdisk's extent), -ENOMEM, -ECANCELED. An extent that this disk
 * has not yet initialised in that generation reads as zeros. */
struct block_set { /* a bit to each block of a request of up to RECORD_BLOCKS_MAX */
    uint64_t bits[RECORD_BLOCKS_MAX / 64];
};
static inline bool block_set_has(const struct block_set *set, uint32_t i)
{
    return set->bits[i / 64] >> (i % 64) & 1;
}
static inline void block_set_add(struct block_set *set, uint32_t i)
{
    set->bits[i / 64] |= UINT64_C(1) << (i % 64);
}
must_check int co_store_read(struct store *store, uint64_t vdisk, struct extent_ref where,
                             uint32_t block, uint32_t count, uint64_t address, void *buffer,
                             uint64_t *ret_sums, struct block_set *ret_bad);

/* The same of an older version: each block as its newest record at or below `at` left it, and
 * without one, as it is in place. at: not below the stream's watermark, which retires older
 * versions. For a takeover (I6) of a vdisk that is sealed; what is above `at` stays as it is.
 * Never from the read cache: LOG_POSITION_NEWEST tells whether the medium still has the blocks. */
#define LOG_POSITION_NEWEST ((struct log_position){UINT64_MAX, UINT64_MAX})
must_check int co_store_read_at(struct store *store, uint64_t vdisk, struct extent_ref where,
                                uint32_t block, uint32_t count, uint64_t address,
                                struct log_position at, void *buffer, uint64_t *ret_sums,
                                struct block_set *ret_bad);

/* Checksums only, no data read from the place; for comparing copies. Any count within the extent. A
 * corrupt page gives -EBADMSG and ret_sums of 0 with its bits in *ret_unknown (a bitmap of count
 * bits, may be NULL). */
must_check int co_store_checksums(struct store *store, uint64_t vdisk, struct extent_ref where,
                                  uint32_t block, uint32_t count, uint64_t *ret_sums,
                                  uint64_t *ret_unknown);

/* ---- columns that are gone ---- */

/* Drops what is not committed of columns that the cluster no longer has: no owner is left who would
 * ever tell, the log would carry it for ever, and could not move. is_gone() says so of an extent
 * that has such records; it does not suspend. Durable when it returns 0. Returns 0, -ESTALE, -EIO,
 * -ENOMEM, -ECANCELED. */
typedef bool store_is_gone(void *arg, const struct store_extent *extent);
must_check int co_store_drop_gone(struct store *store, store_is_gone *is_gone, void *arg);

/* Frees damaged extents of such columns: nobody is left who would clear them, and the store would
 * be damaged at each open. is_gone(): as above, of any extent. Durable when it returns 0. Returns
 * 0, -EIO, -ECANCELED. */
must_check int co_store_free_damaged(struct store *store, store_is_gone *is_gone, void *arg);

/* Rows of the extent table that are lost and that nothing has made anew yet. */
uint32_t store_lost_extents(const struct store *store);
/* Frees those of them that are no column's: nobody is left who would say whose they are, the store
 * would be damaged at each open, and so would what is placed there next. columns: all that the
 * database has on this disk, as of its entry `index`, which is as new as any that columns were here
 * by before the store was opened. Durable when it returns 0. Returns 0, -EIO, -ENOMEM, -ECANCELED.
 */
must_check int co_store_free_lost(struct store *store, uint64_t index,
                                  const struct store_extent *columns, size_t column_count);

/* ---- columns that return (I8, "Resync" in docs/protocol.md) ---- */

/* Told by the present owner for a column that Raft holds for stale: drops its records above the
 * watermark; their blocks join its compare list. Durable when it returns 0. Returns 0, -ESTALE,
 * -EIO, -ECANCELED. */
must_check int co_store_drop_tail(struct store *store, uint64_t vdisk, uint64_t epoch,
                                  const struct extent_ref *columns, size_t count);

/* Adds to bitmap (a bit to each block of the extent, cleared by the caller) the blocks to compare.
 * As the source (since_epoch != 0): blocks of pages stamped in or after since_epoch, and all blocks
 * in the log; all there are if it is damaged, and may have lost stamps of since_epoch. As the
 * target (0): its compare list and all blocks in its log, and blocks of corrupt pages. Returns 0,
 * -ESTALE, -EIO, -ECANCELED. */
must_check int co_store_compare_set(struct store *store, uint64_t vdisk, struct extent_ref where,
                                    uint64_t since_epoch, uint64_t *bitmap);

/* Raft shows the columns as in-sync: their compare lists go. */
must_check int co_store_clear_compare(struct store *store, uint64_t vdisk, uint64_t epoch,
                                      const struct extent_ref *columns, size_t count);

/* ---- extents ---- */

/* Gives the extent back: its contents are gone. Idempotent. Returns 0, -ESTALE (a newer generation
 * lives there), -EIO, -ECANCELED. */
must_check int co_store_free_extent(struct store *store, struct extent_ref where);

struct store_extent { /* a row of the extent table */
    struct extent_ref where;
    uint64_t vdisk;
    uint32_t slab;
    uint16_t column;
    bool
        damaged; /* may lack acknowledged records: its column must be stale until it was compared */
    bool withheld; /* store_withhold() */
};
/* Calls fn for every extent in use, by number. */
void store_each_extent(struct store *store,
                       void (*fn)(void *arg, const struct store_extent *extent), void *arg);

/* ---- figures ---- */

struct store_stats {
    uint64_t log_bytes, log_used_bytes;
    uint64_t dirty_blocks; /* in the log, not yet in place */
    uint64_t zero_extents; /* with trims that are not yet in place */
    uint64_t dirty_age_ns; /* at most so old is the oldest of them; of what an earlier life of the
                              store left, since the open; 0: there is none */
    uint64_t appended_records, appended_bytes, log_writes;
    uint64_t read_blocks, destaged_blocks, checkpoints;
    uint64_t verify_errors, healed_blocks;
    uint64_t rotten_blocks; /* found so, and neither repaired nor written since */
    /* where blocks were read from: the log, the read cache, the place; the rest were zeros */
    uint64_t log_read_blocks, cache_read_blocks, place_read_blocks;
    uint64_t read_cache_bytes, read_cache_used_bytes; /* 0: there is none */
    uint64_t read_cache_mismatches; /* blocks of it that were not what they stand for */
    bool read_cache_off;            /* its device failed too often */
};
struct store_stats store_stats(const struct store *store);

/* Destages everything that is committed and moves the tail; for tests and a clean stop. 0, -EIO,
 * -ECANCELED. */
must_check int co_store_checkpoint(struct store *store);

#endif
