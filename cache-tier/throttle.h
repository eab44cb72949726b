/* throttle: how fast a log that fills up takes writes, so that it never is full: below a mark as
 * fast as they come; above it so that the room there is lasts until the checkpoint under way has
 * made new room. So intake converges to what is destaged, and every write waits a little rather
 * than some of them for a whole checkpoint.
 *
 * How long the checkpoint will take is guessed from those before it, in time per block destaged,
 * and the more of its blocks are in place, from itself. What it rests to leave the device to
 * clients does not count: nobody rests while writes are held back (throttle_is_on()).
 *
 * Plain arithmetic; the caller brings the time, in nanoseconds. throttle.c has the why. */
#ifndef S2D_CACHE_TIER_THROTTLE_H
#define S2D_CACHE_TIER_THROTTLE_H

#include "s2d/base/base.h"

struct throttle { /* private; zeroed: knows nothing yet, and holds nobody back */
    /* of the checkpoints so far, each counting half of what the next counts: per destaged block */
    uint64_t data_ns_per_block; /* bringing blocks to their place */
    uint64_t rest_ns_per_block; /* everything else: checksum pages, syncs */
    /* of the one under way */
    bool running;
    uint64_t start_ns, rested_ns;
    uint64_t blocks, blocks_done;
    uint64_t data_end_ns; /* when all blocks were in place; 0: not yet */
    /* of the writes */
    uint64_t debt;      /* what went before its time, in parts of a block */
    uint64_t looked_ns; /* when it was paid last */
    uint64_t held_ns;   /* when one was told to wait last */
};

/* A checkpoint: begins to destage so many blocks; began itself at start_ns. */
void throttle_begin(struct throttle *throttle, uint64_t start_ns, uint64_t blocks);
void throttle_rested(struct throttle *throttle, uint64_t ns);
/* So many of its blocks are in place. */
void throttle_progress(struct throttle *throttle, uint64_t now_ns, uint64_t blocks_done);
/* success: the tail has moved. */
void throttle_end(struct throttle *throttle, uint64_t now_ns, bool success);

/* A write of `cost` blocks wants to go; there is room for `room` of them (> 0) before the log is
 * full. above: the log is filled above the mark. Returns 0: it goes, and is counted; else when to
 * ask again, a time after now_ns. */
uint64_t throttle_admit(struct throttle *throttle, uint64_t now_ns, bool above, uint64_t room,
                        uint64_t cost);
/* Writes are being held back, or were a moment ago. */
bool throttle_is_on(const struct throttle *throttle, uint64_t now_ns);

/* How long until there is new room, as far as one can know; 0: unknown. */
uint64_t throttle_time_left_ns(const struct throttle *throttle, uint64_t now_ns);

#endif
