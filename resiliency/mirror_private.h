/* What the files of the mirror share: mirror.c (life, configurations), mirror_write.c,
 * mirror_read.c, takeover.c, resync.c, evict.c, feed.c; and those of parity (parity_private.h),
 * which is a session of the same kind with another code: there, what is called a mirror here is any
 * vdisk. One reactor: between two suspensions everything here is consistent. */
#ifndef S2D_RESILIENCY_MIRROR_PRIVATE_H
#define S2D_RESILIENCY_MIRROR_PRIVATE_H

#include "cache-tier/recent.h"
#include "resiliency/feed.h"
#include "resiliency/mirror.h"
#include "resiliency/pace.h"
#include "resiliency/parity_layout.h"
#include "s2d/base/buffer.h"
#include "s2d/base/checksum.h"
#include "s2d/base/co.h"
#include "s2d/base/invariant.h"
#include "s2d/base/io.h"
#include "s2d/base/log.h"
#include "s2d/base/metrics.h"
#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"

#define MIRROR_COPIES_MAX 3
#define PIECE_BLOCKS 64 /* of a resync, repair or takeover copy: 256 KiB */

/* One record of the vdisk and its way to the columns; pooled. */
struct mirror_write {
    struct list node; /* in mirror->in_flight (by seq) or mirror->free_writes */
    struct mirror *mirror;
    uint32_t slab;
    uint32_t width;
    uint32_t columns; /* those that get a record, a bit each: in a mirror all */
    uint64_t seq;
    uint64_t bytes_before; /* mirror->issued_bytes when it began */
    bool committed;
    uint32_t pending; /* parts that somebody still holds */
    struct co *waiter;
    struct range_lock_hold hold;
    struct feed_part *parts; /* width of them, by column */
    uint64_t *disks;         /* where each part goes */
    uint64_t sums[RECORD_BLOCKS_MAX];
};

struct mirror_slab {
    bool ready;      /* taken over: may be read and written */
    bool wanted;     /* a request waits for it */
    bool requesting; /* space is being asked for */
    bool rewriting;  /* its takeover is under way: nobody has entered */
    bool closed;     /* nobody enters: it is about to go back to the pool (release.c) */
    bool maybe_empty;
    bool took_older;  /* its takeover could not read a newest record (takeover.c) */
    uint32_t entered; /* requests that are inside */
    uint64_t trimmed_ns;
};

struct mirror {
    struct vdisk vdisk; /* first: what stands above holds a pointer to it */
    struct io *io;
    struct mirror_options options;
    struct mirror_limits limits;
    struct vdisk_config *config;
    struct erasure *erasure; /* NULL: a mirror */
    uint64_t epoch, session;
    bool started; /* the feeds' coroutines exist */
    bool stopped;
    bool draining;
    bool resync_paused;

    struct list feeds; /* struct feed */
    struct mirror_slab *slabs;
    struct feed **slab_feeds; /* slab_count × width */
    uint32_t slab_count;
    uint32_t slabs_waiting; /* allocated and not ready */
    uint32_t sources_lost;  /* in-sync columns that turned stale in this session: resync.c */

    uint64_t seq;           /* the last one given */
    uint64_t issued_bytes;  /* of data, by all writes of the session */
    struct list in_flight;  /* struct mirror_write: given a seq and not committed, by seq */
    struct range_lock lock; /* blocks of the vdisk */

    struct mirror_write *writes; /* the pool */
    struct feed_part *parts;     /* theirs */
    uint64_t *disks;
    struct list free_writes;
    struct co_sem write_slots;
    struct co_sem stripe_room; /* bytes; parity */

    struct recent recent; /* committed; an empty one in parity */

    struct co_cond changed;  /* configuration, feeds, slabs, life */
    struct co_cond progress; /* in_flight shrank */
    struct co_group calls;   /* of clients */
    struct co_group coroutines;
    uint32_t writes_entered; /* client writes past the door */

    struct io_timer idle_timer;
    struct io_timer watch_timer;

    struct counter reads, writes_done, read_bytes, written_bytes;
    struct counter copied_blocks, rewritten_blocks, healed_blocks, lost_blocks, evictions;
    struct counter released_slabs;
    struct histogram write_latency;
    struct counter *metric[10]; /* those registered */
};

/* ---- shared helpers (mirror.c) ---- */

struct write_extent { /* a run of blocks inside one slab */
    uint32_t slab, block, count;
};

static inline const struct column_config *mirror_columns(const struct mirror *mirror, uint32_t slab)
{
    return vdisk_config_slab(mirror->config, slab);
}

static inline struct feed *mirror_feed(const struct mirror *mirror, uint32_t slab, uint32_t column)
{
    return mirror->slab_feeds[(size_t)slab * mirror->config->width + column];
}

/* Every record with a lower or equal seq of this session is committed. Copies and repairs are
 * committed data from the start, so their seqs never hold it up. */
static inline struct log_position mirror_watermark(const struct mirror *mirror)
{
    uint64_t seq = mirror->seq;

    if (!list_empty(&mirror->in_flight) && PLANTED(MARK_AHEAD))
        seq--;
    else if (!list_empty(&mirror->in_flight))
        seq = list_first(&mirror->in_flight, struct mirror_write, node)->seq - 1;
    return (struct log_position){.session = mirror->session, .seq = seq};
}

/* A name for the block of a slab's columns, for locks: in a mirror its address, in parity its row.
 */
static inline uint64_t slab_address(const struct mirror *mirror, uint32_t slab, uint32_t block)
{
    return (uint64_t)slab * mirror->config->slab_blocks / mirror->config->data_columns + block;
}

/* Its address in one column, for checksums. */
static inline uint64_t column_address(const struct mirror *mirror, uint32_t slab, uint32_t column,
                                      uint32_t block)
{
    return mirror->erasure ? parity_address(mirror->config, slab, column, block)
                           : slab_address(mirror, slab, block);
}

static inline uint32_t in_sync_set(const struct mirror *mirror, uint32_t slab)
{
    const struct column_config *columns = mirror_columns(mirror, slab);
    uint32_t set = 0;

    for (uint32_t i = 0; i < mirror->config->width; i++)
        set |= columns[i].state == COLUMN_IN_SYNC ? BIT(i) : 0;
    return set;
}

/* A client's range: 0, -EINVAL, -ESTALE (stopped). */
must_check int mirror_check_range(const struct mirror *mirror, uint64_t offset, uint64_t length);
/* The part of [address, address + blocks) that lies in one slab, limit blocks at most. */
struct write_extent mirror_next_extent(const struct mirror *mirror, uint64_t address,
                                       uint64_t blocks, uint32_t limit);

/* Starts a coroutine that co_mirror_free() waits for. Returns 0 or -ENOMEM. */
must_check int mirror_spawn(struct mirror *mirror, const char *name, co_fn *fn, void *arg);

/* Suspends until something changes, or deadline_ns. Returns 0, -ETIMEDOUT, -ESTALE (stopped),
 * -ECANCELED. */
must_check int co_mirror_wait(struct mirror *mirror, uint64_t deadline_ns);

/* Too few columns answered a client's request: waits until something changes, or a while. Returns 0
 * (try again), -ESTALE, -ECANCELED. */
must_check int co_wait_for_columns(struct mirror *mirror);

/* The way in for a client's request to a slab: waits until it is taken over; makes space if
 * `allocate`. Returns 1 (go on; then mirror_leave()), 0 (not allocated: it reads as zeros),
 * -ESTALE, -ENOSPC, -ECANCELED. The slab stays allocated until mirror_leave(). */
must_check int co_mirror_enter(struct mirror *mirror, uint32_t slab, bool allocate);
void mirror_leave(struct mirror *mirror, uint32_t slab);

/* ---- configurations (mirror_config.c) ---- */

/* Returns 0 or -EINVAL: not for us, older than what we have, or senseless. */
must_check int mirror_check_config(const struct mirror *mirror, const struct vdisk_config *config);
/* Takes a checked one. Returns 0, -ENOMEM, -EPROTO; then half of it is applied. */
must_check int mirror_apply_config(struct mirror *mirror, struct vdisk_config *config);

/* ---- writing (mirror_write.c) ---- */

struct mirror_write *co_write_get(struct mirror *mirror); /* from the pool; suspends for one */
void write_put(struct mirror_write *write);

/* One ordinary write under the caller's exclusive range lock. data NULL: zeros. Waits until it is
 * committed and nobody reads data any more. Returns 0 or -ESTALE (stopped). */
must_check int co_write_commit(struct mirror_write *write, struct write_extent extent,
                               const void *data, uint32_t flags, struct client_request request);

/* The same with a record of its own for each column; the caller holds the lock of the rows. Makes
 * the checksums. */
struct column_write {
    struct write_extent rows; /* PARITY_UNIT_BLOCKS at most, unless all is zeros */
    uint32_t columns;         /* that it touches, a bit each */
    uint32_t flags;
    struct client_request request;
    const void *data[VDISK_COLUMNS_MAX]; /* by column; NULL: zeros */
};
must_check int co_write_commit_columns(struct mirror_write *write, const struct column_write *what);

/* True while a new write must reach the column. */
bool write_wants_column(const struct mirror *mirror, uint32_t slab, uint32_t column);

/* Looks again whether a write is committed: what must be has changed. */
void write_look_again(struct mirror_write *write);
/* True while `part` must reach its column. */
bool write_part_wanted(const struct feed_part *part);

/* Brings committed data, with fresh seqs, to one disk only, under the caller's exclusive range
 * lock. sums: what an in-sync column says of the blocks; those of 0 become unwritten again. Returns
 * 0, or a negative errno (the feed broke). */
must_check int co_copy_blocks(struct feed *feed, uint32_t column, struct write_extent extent,
                              const void *data, const uint64_t *sums, uint32_t flags);

int co_mirror_write(struct vdisk *vdisk, const void *buffer, uint64_t offset, uint64_t length,
                    struct client_request request);
int co_mirror_trim(struct vdisk *vdisk, uint64_t offset, uint64_t length,
                   struct client_request request);

/* ---- reading (mirror_read.c) ---- */

int co_mirror_read(struct vdisk *vdisk, void *buffer, uint64_t offset, uint64_t length);

/* Reads committed contents from any in-sync column but `except` (NULL: any), under the caller's
 * range lock, which keeps writes away. sums (may be NULL): the checksums, 0 = unwritten. Returns 0,
 * -EIO (some block is right on none of them), -EHOSTUNREACH (none that may have it answers now). */
must_check int co_read_any(struct mirror *mirror, struct write_extent extent, void *buffer,
                           uint64_t *sums, const struct feed *except);

/* The way in for a client's write: its slab is taken over and not too much is unsettled. Returns as
 * co_mirror_enter(); after 1 write_leave(). */
must_check int co_write_enter(struct mirror *mirror, uint32_t slab, bool allocate);
void write_leave(struct mirror *mirror, uint32_t slab, bool trimmed);

/* The whole of a client's call that changes something, around its pieces: range, life, lease,
 * figures. data NULL: zeros. */
typedef int co_change_pieces(struct mirror *mirror, const char *data, uint64_t offset,
                             uint64_t length, struct client_request request);
int co_change(struct vdisk *vdisk, co_change_pieces *co_pieces, const void *data, uint64_t offset,
              uint64_t length, struct client_request request);

/* And of a read. */
typedef int co_read_pieces(struct mirror *mirror, char *buffer, uint64_t offset, uint64_t length);
int co_read_whole(struct vdisk *vdisk, co_read_pieces *co_pieces, void *buffer, uint64_t offset,
                  uint64_t length);

/* Reads from one column; a mismatch is looked at twice. Returns 0, -EBADMSG, -EIO, -ENOTCONN, … */
must_check int co_read_column_at(struct mirror *mirror, uint32_t column, struct write_extent extent,
                                 char *buffer, uint64_t *sums);
/* The same as of an older record (co_store_read_at()). */
must_check int co_read_column_version(struct mirror *mirror, uint32_t column,
                                      struct write_extent extent, struct log_position at,
                                      char *buffer);
/* A rotten run of a column is right again. */
void mirror_report_heal(struct mirror *mirror, uint32_t column, struct write_extent extent);

/* The same for a run of at most RECORD_BLOCKS_MAX; *bad says which blocks do not match. */
must_check int co_read_column_surely(struct mirror *mirror, uint32_t column,
                                     struct write_extent extent, char *buffer, uint64_t *sums,
                                     struct block_set *bad);
/* The same for a scrub: blocks in place come from the medium, whatever a read cache has. */
must_check int co_read_column_medium(struct mirror *mirror, uint32_t column,
                                     struct write_extent extent, char *buffer, uint64_t *sums,
                                     struct block_set *bad);
/* Writes a rotten run of at most PIECE_BLOCKS of one copy again, from another one. Without a lock.
 */
void co_repair_column(struct mirror *mirror, uint32_t column, struct write_extent extent);

/* ---- giving slabs back (release.c) ---- */

void co_release_run(void *mirror);
/* Something of the slab was trimmed: perhaps nothing is left. */
void mirror_note_trim(struct mirror *mirror, uint32_t slab);

/* ---- takeover (takeover.c), resync (resync.c), eviction (evict.c) ---- */

void co_takeover_run(void *mirror);
/* Calls fn for every record that the column's tail holds for its extent of the slab. */
void takeover_each_record(const struct mirror *mirror, uint32_t slab, uint32_t column,
                          void (*fn)(void *arg, uint32_t column,
                                     const struct store_tail_record *record),
                          void *arg);
/* A predecessor's record, of a client, that counts. */
void takeover_learn(struct mirror *mirror, const struct store_tail_record *record);
#define REWRITE_DEPTH 8 /* runs being written again at once */

/* Brings the stale columns of an open feed up to in-sync. Returns 0 when a configuration shows
 * them so, or the error that ended the attempt. */
must_check int co_resync_run(struct feed *feed);
/* The database would take the disk's columns for in-sync, as far as we know. */
bool resync_may_join(const struct feed *feed);
/* A proposal "in-sync" is out: makes it again until a configuration answers. */
void co_resync_await_answer(struct feed *feed);
/* The stale columns of the feed: fills refs (room for feed->stale_columns). */
size_t resync_list_columns(const struct feed *feed, struct extent_ref *refs);

void evict_watch(struct mirror *mirror); /* something may be late: looks now, and again later */
void evict_timer(void *mirror);

#endif
