/* The rate follows what TCP does with a path: a window in which clients were slow halves it, any
 * other raises it by an eighth, and it never leaves [floor, ceiling]. "Slow" is a mean half as long
 * again as the baseline's.
 *
 * The baseline of a kind is learned while nothing is copied, and at the floor, once what was under
 * way before has ended: there what clients see is not our doing, and holding copies down for it
 * would help nobody (a load that grew, a slower device). Above the floor a baseline may only fall.
 * A baseline that was never learned, or not for a while, is looked for: the rate is held at the
 * floor for a moment, and then goes on where it was. */
#include "resiliency/pace.h"

#define WINDOW_NS (100 * MS)
#define QUIET_NS SEC        /* without a request: no client is about */
#define START_FLOORS 4      /* the first rate, as a multiple of the floor */
#define SETTLED_WINDOWS 7   /* at the floor, until what came before is over */
#define HOLD_WINDOWS 15     /* at the floor, to learn */
#define LEARN_NS (20 * SEC) /* between two holds */

static uint64_t first_rate(uint64_t floor_bytes)
{
    return MIN(START_FLOORS * floor_bytes, PACE_CEILING_BYTES);
}

void pace_init(struct pace *pace, uint64_t floor_bytes)
{
    assert(floor_bytes > 0);
    assert(floor_bytes <= PACE_CEILING_BYTES);
    *pace = (struct pace){.floor_bytes = floor_bytes, .rate_bytes = first_rate(floor_bytes)};
}

static bool clients_are_about(const struct pace *pace, uint64_t now_ns)
{
    return pace->heard_ns != 0 && now_ns - pace->heard_ns < QUIET_NS;
}

static struct pace_kind *kind_of(struct pace *pace, bool is_write, uint64_t length)
{
    unsigned size = length <= 16 * KIB ? 0 : length <= 256 * KIB ? 1 : 2;

    return &pace->kinds[is_write ? size + PACE_KINDS / 2 : size];
}

static void learn(struct pace_kind *kind, uint64_t mean_ns, bool undisturbed)
{
    uint64_t before_ns = kind->baseline_ns;

    if (before_ns == 0 && undisturbed)
        kind->baseline_ns = MAX(mean_ns, UINT64_C(1));
    else if (undisturbed || mean_ns < before_ns)
        kind->baseline_ns = MAX(before_ns - before_ns / 4 + mean_ns / 4, UINT64_C(1));
}

/* ---- the rate ---- */

static void hold(struct pace *pace)
{
    pace->resume_bytes = pace->rate_bytes;
    pace->rate_bytes = pace->floor_bytes;
    pace->hold_windows = HOLD_WINDOWS;
}

static void steer(struct pace *pace, uint64_t now_ns, bool known, bool slow)
{
    if (pace->rate_bytes == pace->floor_bytes)
        pace->learned_ns = now_ns;
    if (pace->hold_windows > 0) {
        if (--pace->hold_windows == 0)
            pace->rate_bytes = pace->resume_bytes;
    } else if (!known || now_ns - pace->learned_ns >= LEARN_NS) {
        hold(pace);
    } else if (slow) {
        pace->rate_bytes = MAX(pace->rate_bytes / 2, pace->floor_bytes);
    } else {
        pace->rate_bytes = MIN(pace->rate_bytes + pace->rate_bytes / 8, PACE_CEILING_BYTES);
    }
}

static void end_window(struct pace *pace, uint64_t now_ns, bool copying)
{
    uint64_t seen_ns = 0, usual_ns = 0;
    bool known = true;

    pace->floor_windows = pace->rate_bytes == pace->floor_bytes ? pace->floor_windows + 1 : 0;
    for (unsigned i = 0; i < PACE_KINDS; i++) {
        struct pace_kind *kind = &pace->kinds[i];

        if (kind->count == 0)
            continue;
        known &= kind->baseline_ns != 0;
        seen_ns += kind->sum_ns;
        usual_ns += kind->baseline_ns * kind->count;
        learn(kind, kind->sum_ns / kind->count, !copying || pace->floor_windows >= SETTLED_WINDOWS);
        kind->sum_ns = 0;
        kind->count = 0;
    }
    if (seen_ns > 0 && copying)
        steer(pace, now_ns, known, seen_ns > usual_ns + usual_ns / 2);
}

static void turn(struct pace *pace, uint64_t now_ns)
{
    if (now_ns - pace->window_ns < WINDOW_NS)
        return;
    end_window(pace, now_ns,
               pace->copied_ns != 0 && pace->copied_ns + WINDOW_NS >= pace->window_ns);
    pace->window_ns = now_ns;
}

/* ---- what they see and ask ---- */

void pace_note(struct pace *pace, uint64_t now_ns, bool is_write, uint64_t length,
               uint64_t latency_ns)
{
    struct pace_kind *kind = kind_of(pace, is_write, length);

    if (!clients_are_about(pace, now_ns)) { /* they come: what went as fast as it can slows down */
        pace->rate_bytes = first_rate(pace->floor_bytes);
        pace->hold_windows = 0;
    }
    turn(pace, now_ns);
    pace->heard_ns = now_ns;
    kind->sum_ns += latency_ns;
    kind->count++;
}

uint64_t pace_ask(struct pace *pace, uint64_t now_ns, uint64_t bytes)
{
    turn(pace, now_ns);
    if (clients_are_about(pace, now_ns)) {
        if (now_ns < pace->next_ns)
            return pace->next_ns;
        pace->next_ns = now_ns + bytes * SEC / pace->rate_bytes;
    }
    pace->copied_ns = now_ns;
    return now_ns;
}
