/* The pace is room / time left, reckoned anew for each write. If the guess is right the room ends
 * when the checkpoint does, and the pace was the same all along. If the checkpoint is slower than
 * guessed, the guess grows with it and the pace sinks, but the room never quite ends; if it is
 * faster, the next one starts with more room and a higher pace. Where a checkpoint frees a
 * sixteenth of the log and a quarter lies between mark and full, that makes the pace fall in a
 * straight line, from four times what is destaged at the mark to just that three sixteenths above
 * it.
 *
 * Rejected: a delay that is a function of how full the log is, as others have it. A tail moves in
 * steps of up to a quarter of the log, and the delay would jump with it. */
#include "cache-tier/throttle.h"

/* Writes go in bursts: a wake-up for each would cost more than the write, and each batch of the log
 * has a header, as large as a small write. So much time's worth of them, or so many. */
#define BURST_NS_MIN (1 * MS)
#define BURST_NS_MAX (20 * MS)
#define BURST_BLOCKS 16
#define ON_NS (100 * MS)
#define LEFT_FRACTION 16 /* a checkpoint is taken to need a sixteenth of its time yet, at least */
#define WAIT_NS_MAX (50 * MS)  /* then look again: the guess may have changed */
#define STEP_NS_MAX (500 * MS) /* between two writes, whatever the guess */

/* ---- the checkpoint ---- */

void throttle_begin(struct throttle *throttle, uint64_t start_ns, uint64_t blocks)
{
    assert(!throttle->running);
    throttle->running = true;
    throttle->start_ns = start_ns;
    throttle->rested_ns = 0;
    throttle->blocks = blocks;
    throttle->blocks_done = 0;
    throttle->data_end_ns = 0;
}

void throttle_rested(struct throttle *throttle, uint64_t ns)
{
    throttle->rested_ns += ns;
}

static uint64_t worked_ns(const struct throttle *throttle, uint64_t now_ns)
{
    uint64_t took_ns = now_ns - throttle->start_ns;

    return took_ns > throttle->rested_ns ? took_ns - throttle->rested_ns : 0;
}

void throttle_progress(struct throttle *throttle, uint64_t now_ns, uint64_t blocks_done)
{
    assert(blocks_done <= throttle->blocks);
    throttle->blocks_done = blocks_done;
    if (blocks_done == throttle->blocks && throttle->data_end_ns == 0)
        throttle->data_end_ns = MAX(worked_ns(throttle, now_ns), 1u);
}

static uint64_t learn(uint64_t known, uint64_t now)
{
    return known == 0 ? MAX(now, 1u) : MAX((known + now) / 2, 1u);
}

void throttle_end(struct throttle *throttle, uint64_t now_ns, bool success)
{
    uint64_t worked = worked_ns(throttle, now_ns), blocks = throttle->blocks;

    if (success && blocks > 0 && throttle->data_end_ns > 0) {
        throttle->data_ns_per_block =
            learn(throttle->data_ns_per_block, throttle->data_end_ns / blocks);
        throttle->rest_ns_per_block =
            learn(throttle->rest_ns_per_block, (worked - throttle->data_end_ns) / blocks);
    }
    throttle->running = false;
}

/* How long all blocks take: as those before did, but when a quarter is done, as that quarter did.
 */
static uint64_t data_ns(const struct throttle *throttle, uint64_t worked)
{
    uint64_t known = throttle->data_ns_per_block * throttle->blocks;
    uint64_t done = throttle->blocks_done, seen, weight = MIN(done * 4, throttle->blocks);

    if (done == 0)
        return MAX(known, throttle->data_ns_per_block > 0 ? worked : 0);
    seen = worked * throttle->blocks / done;
    if (known == 0)
        return seen;
    return (seen * weight + known * (throttle->blocks - weight)) / throttle->blocks;
}

uint64_t throttle_time_left_ns(const struct throttle *throttle, uint64_t now_ns)
{
    uint64_t rest = throttle->rest_ns_per_block * throttle->blocks;
    uint64_t worked, all;

    if (!throttle->running)
        return (throttle->data_ns_per_block + throttle->rest_ns_per_block) * throttle->blocks;
    worked = worked_ns(throttle, now_ns);
    all = rest + (throttle->data_end_ns > 0 ? throttle->data_end_ns : data_ns(throttle, worked));
    if (all == 0)
        return 0;
    return MAX(all > worked ? all - worked : 0, MAX(all, worked) / LEFT_FRACTION);
}

/* ---- the writes ---- */

/* A debt is in parts of a block: at a slow pace few blocks fall due between two looks. */
#define PARTS 1024
#define LOOK_NS_MAX (1 * SEC)

static uint64_t parts_in(uint64_t ns, uint64_t left_ns, uint64_t room)
{
    return MIN(ns, LOOK_NS_MAX) * room / left_ns * PARTS +
           MIN(ns, LOOK_NS_MAX) * room % left_ns * PARTS / left_ns;
}

static uint64_t burst_ns(uint64_t left_ns, uint64_t room)
{
    return MIN(MAX(BURST_BLOCKS * left_ns / room, BURST_NS_MIN), BURST_NS_MAX);
}

uint64_t throttle_admit(struct throttle *throttle, uint64_t now_ns, bool above, uint64_t room,
                        uint64_t cost)
{
    uint64_t left_ns = above ? throttle_time_left_ns(throttle, now_ns) : 0;
    uint64_t paid, debt_ns;

    assert(room > 0);
    if (left_ns == 0) {
        throttle->debt = 0;
        return 0;
    }
    paid = parts_in(now_ns - throttle->looked_ns, left_ns, room);
    throttle->looked_ns = now_ns;
    throttle->debt -= MIN(paid, throttle->debt);
    debt_ns = throttle->debt * left_ns / PARTS / room;
    if (debt_ns > burst_ns(left_ns, room)) {
        throttle->held_ns = now_ns;
        return now_ns + MIN(debt_ns, WAIT_NS_MAX);
    }
    throttle->debt += MIN(cost * PARTS, parts_in(STEP_NS_MAX, left_ns, room));
    return 0;
}

bool throttle_is_on(const struct throttle *throttle, uint64_t now_ns)
{
    return throttle->held_ns > 0 && now_ns - throttle->held_ns < ON_NS;
}
