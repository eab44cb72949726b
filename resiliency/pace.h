/* pace: how fast copies in the background may go. One to a node: every vdisk that it owns notes its
 * clients' requests here, and each resync and rebuild asks before a piece.
 *
 * While no client is about, copies go as fast as they can. With clients they have a rate, which is
 * steered by the latency that the clients see, against their own baseline: what they see while
 * nothing is copied, or no more than the floor. The floor is always granted, so that a rebuild ends
 * however busy the clients are.
 *
 * Latencies are compared with their like only: reads and writes, of three sizes each. Pure: the
 * caller tells the time (the loop's clock, in nanoseconds). Nothing suspends. */
#ifndef S2D_RESILIENCY_PACE_H
#define S2D_RESILIENCY_PACE_H

#include "s2d/base/base.h"

#define PACE_FLOOR_BYTES (8 * MIB)   /* a second, if nobody says otherwise */
#define PACE_CEILING_BYTES (4 * GIB) /* as good as unbounded */
#define PACE_KINDS 6                 /* of requests */

struct pace_kind { /* private, like all below */
    uint64_t baseline_ns;
    uint64_t sum_ns, count; /* in this window */
};

struct pace {
    uint64_t floor_bytes;
    uint64_t rate_bytes;                 /* a second, while clients are about */
    uint64_t resume_bytes, hold_windows; /* the rate after a hold; how long it still lasts */
    uint64_t floor_windows;              /* at the floor, one after another */
    uint64_t learned_ns;                 /* it was there last */
    uint64_t next_ns;                    /* no piece before */
    uint64_t heard_ns;                   /* of a client, last; 0: never */
    uint64_t window_ns;                  /* when it began */
    uint64_t copied_ns;                  /* a piece was granted last */
    struct pace_kind kinds[PACE_KINDS];
};

/* floor_bytes: a second; from 1 to PACE_CEILING_BYTES. */
void pace_init(struct pace *pace, uint64_t floor_bytes);

/* A client's request of `length` bytes was answered after latency_ns. */
void pace_note(struct pace *pace, uint64_t now_ns, bool is_write, uint64_t length,
               uint64_t latency_ns);

/* A piece of `bytes` wants to begin. Returns now_ns: it may, and counts; or a later time, to ask
 * again then. */
must_check uint64_t pace_ask(struct pace *pace, uint64_t now_ns, uint64_t bytes);

#endif
