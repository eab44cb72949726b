/* mirror: a vdisk kept as one, two or three copies, or as dual parity (config->data_columns > 1),
 * as its owner runs it. One object is one session of ownership: it is made when the database names
 * this node the owner, takes over (I6), serves, and ends with mirror_stop() when the node loses the
 * ownership or its lease. The next session, here or elsewhere, is a new object.
 *
 * The database decides, the mirror proposes (I3): it acts on what mirror_configure() shows, never
 * on having proposed. A proposal names the epoch it was decided in, is void in any other, and is
 * made again after `propose_ns` until a configuration answers it; so it may get lost.
 *
 * One reactor. Functions with co_ suspend; the callbacks below run on the loop and, but for
 * co_request_slabs(), must neither suspend nor call back into the mirror. */
#ifndef S2D_RESILIENCY_MIRROR_H
#define S2D_RESILIENCY_MIRROR_H

#include "resiliency/vdisk.h"
#include "resiliency/vdisk_config.h"

struct io;
struct buffer_pool;
struct column_store;
struct metrics;
struct mirror;
struct pace;

/* Bounds and time-outs; 0 takes the default in brackets. */
struct mirror_limits {
    uint32_t writes;  /* under way at once; more wait [128] */
    uint64_t slow_ns; /* a column that has not confirmed a record for so long is evicted [2.5 s] */
    uint64_t unreachable_ns; /* a column that is away holds up a request for so long, then is
                                evicted [300 ms] */
    uint64_t propose_ns;     /* between repeats of a proposal that nothing answered [500 ms] */
    uint64_t retry_ns;       /* between attempts to reach a column, besides its `changed` [50 ms] */
    uint64_t idle_mark_ns;   /* a watermark that no record carried is told after [20 ms] */
    uint64_t unsettled_bytes; /* of data above the watermark; more waits: stores must keep it, and a
                                 takeover write it again [16 MiB] */
    uint64_t stripe_bytes; /* parity: of the buffers, held by clients' requests; more wait, so that
                              those which are stuck leave other vdisks theirs [16 MiB] */
    uint64_t release_ns;   /* a slab that was trimmed is left alone for so long before it is given
                              back to the pool, if it is empty [2 s] */
    uint32_t resync_depth; /* pieces of 256 KiB being copied to one disk at once [4] */
};

struct mirror_heal { /* one run of blocks that was rotten on one copy and is right again */
    uint64_t vdisk, disk;
    uint32_t slab, block, count; /* within the slab */
    struct extent_ref where;
};

struct mirror_options {
    uint64_t node;               /* ours */
    struct buffer_pool *buffers; /* borrowed: the owner side's, for resync, repair and takeover */
    struct metrics *metrics;     /* may be NULL */
    struct pace *pace; /* borrowed: of resyncs, next to clients; NULL: as fast as they can */
    struct mirror_limits limits;
    /* Nobody is evicted for being away before this, unless a request waits for it
     * (docs/protocol.md, I5: 30 s after the first quorum of a cold start). On the loop's clock; 0:
     * no grace. */
    uint64_t grace_until_ns;

    /* The disk's store: borrowed, outlives the mirror. NULL: no such disk (it is gone: away for
     * ever); asked again with each new configuration. */
    struct column_store *(*column)(void *arg, uint64_t node, uint64_t disk);
    /* True while this node may answer; asked right before each answer (I5). */
    bool (*lease_held)(void *arg);
    /* "All in-sync columns of vdisk on these disks are stale." The last in-sync column of a slab
     * stays (vdisk_config_mark_stale()); a command that changes nothing leaves the epoch alone. */
    void (*propose_stale)(void *arg, uint64_t vdisk, uint64_t epoch, const uint64_t *disks,
                          size_t count);
    /* "All stale columns of vdisk on this disk are in-sync"; count > 0: those of these slabs. In
     * its own epoch the command must be answered by a new one, whatever it says: until then writes
     * wait for these columns. */
    void (*propose_in_sync)(void *arg, uint64_t vdisk, uint64_t epoch, uint64_t disk,
                            const uint32_t *slabs, size_t count);
    /* False: it would be refused now (the disk failed). NULL: never. */
    bool (*may_join)(void *arg, uint64_t disk);
    /* Space for slabs that have none. Returns 0 when a configuration that has them was shown,
     * -ENOSPC, -ESTALE; anything else is tried again. */
    int (*co_request_slabs)(void *arg, uint64_t vdisk, uint64_t epoch, const uint32_t *slabs,
                            size_t count);
    /* "Nothing is written in this slab, and nothing will be before a configuration answers: drop
     * it." The command must be void in any other epoch and raise it, and must not be refused in its
     * own. NULL: slabs are kept (a fixed volume). */
    void (*propose_release)(void *arg, uint64_t vdisk, uint64_t epoch, uint32_t slab);
    void (*on_heal)(void *arg, const struct mirror_heal *heal); /* may be NULL */
    void *arg;
};

/* Begins to take over as config->owner in config->session. options: copied; config: referenced. A
 * session has one mirror, ever: records are named by (session, seq), and a second one would give
 * the same names again. Whoever lost the first (a restart, a lease that ran out) asks the database
 * for a new session (I5). Returns 0, -ENOMEM, -EINVAL (config is not for us, or makes no sense). */
must_check int mirror_new(struct io *io, const struct mirror_options *options,
                          struct vdisk_config *config, struct mirror **ret_mirror);

/* Shows a newer configuration, in the order of the log. One with another owner or session stops the
 * mirror. Returns 0; -EINVAL (older, or makes no sense: ignored); -ENOMEM or -EPROTO (a column is
 * in-sync that we never proposed), and then the mirror has stopped. */
must_check int mirror_configure(struct mirror *mirror, struct vdisk_config *config);

/* Ends the session: calls under way and later ones return -ESTALE, proposals end. Idempotent; from
 * anywhere on the loop. */
void mirror_stop(struct mirror *mirror);
bool mirror_stopped(const struct mirror *mirror);

/* Stops, waits for every call to have returned, and frees. NULL is fine. */
void co_mirror_free(struct mirror *mirror);

/* For what stands above. Calls wait until their slab has been taken over. */
struct vdisk *mirror_vdisk(struct mirror *mirror);

/* True when every allocated slab has been taken over. */
bool mirror_ready(const struct mirror *mirror);
/* Suspends until mirror_ready() or deadline_ns (UINT64_MAX: none). Returns 0, -ETIMEDOUT, -ESTALE,
 * -ECANCELED. */
must_check int co_mirror_wait_ready(struct mirror *mirror, uint64_t deadline_ns);

/* A planned move: waits for the requests under way (later ones wait until mirror_stop(), and then
 * return -ESTALE), makes the watermark durable on every in-sync column that answers, so that the
 * next owner has nothing to write again. Then the ownership may be handed on. Returns 0, -ESTALE,
 * -ETIMEDOUT (still requests under way at deadline_ns: serving again). */
must_check int co_mirror_hand_over(struct mirror *mirror, uint64_t deadline_ns);

/* Resync of stale columns may be paused; a column that is being brought up keeps getting new
 * writes. */
void mirror_pause_resync(struct mirror *mirror, bool paused);

/* limits.unsettled_bytes from now on: the vdisks of a node share the logs of its disks. */
void mirror_set_unsettled_bytes(struct mirror *mirror, uint64_t bytes);

struct mirror_scrub {
    uint64_t copies;    /* of blocks, that were read and compared */
    uint64_t rotten;    /* of these: did not match their checksums, and were repaired if possible */
    uint64_t different; /* pairs of copies that match their checksums and differ, or rows whose
                           parity is not that of their data: never */
    uint64_t unread;    /* copies that are stale or away */
};
/* Reads and compares every copy of all that was ever written, while it is in use. report(): one
 * line for each finding; must not suspend. Returns 0 when it could look, -ESTALE (stopped, or being
 * handed over), -ENOMEM, -ECANCELED. */
must_check int co_mirror_scrub(struct mirror *mirror, void (*report)(void *arg, const char *line),
                               void *arg, struct mirror_scrub *ret_result);

struct mirror_status {
    uint32_t slabs_waiting;    /* not yet taken over */
    uint32_t stale_disks;      /* disks with a stale column */
    uint32_t catching_disks;   /* of these: reachable and being brought up */
    uint64_t compare_blocks;   /* still to be compared by resyncs that run now */
    uint64_t filled_blocks;    /* of columns that lacked everything: these have got through */
    uint64_t copied_blocks;    /* by this session, so far */
    uint64_t rewritten_blocks; /* written again at the takeover */
    uint64_t healed_blocks;    /* read repairs */
    uint64_t lost_blocks;      /* found unreadable on every in-sync copy */
    uint64_t reads, writes, read_bytes, written_bytes;
};
struct mirror_status mirror_status(const struct mirror *mirror);
/* Slabs that have to wait: of their in-sync columns too few are attached. *ret_disk: one that is
 * not; 0: there is none. Looks at each slab only while there is one. */
uint32_t mirror_detached_slabs(const struct mirror *mirror, uint64_t *ret_disk);

#endif
