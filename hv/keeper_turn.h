/* keeper_turn: what a keeper decides in each of its turns. Pure, and included by keeper.c, which
 * links nothing of ours, and by the simulator's keepers: both are this code.
 *
 *                        deadline passed                     all threads have stopped
 *   STARTING ──> RUNNING ────────────────> STOPPING ────────────────────────────> STOPPED
 *                   ^                         │                                      │
 *                   └─────────────────────────┴──── the daemon names this stop, ─────┘
 *                                                   and the deadline is ahead
 *   any of them ── told to kill, SIGTERM ──> KILLING
 *   any of them ── QEMU is gone ──> ENDED, and the keeper exits
 */
#ifndef S2D_HV_KEEPER_TURN_H
#define S2D_HV_KEEPER_TURN_H

#include <stdbool.h>

#include "hv/keeper_format.h"

#define KEEPER_TURN_NS 50000000ull /* orders and deadlines are looked at at least this often */

enum keeper_signal { KEEPER_NO_SIGNAL, KEEPER_STOP, KEEPER_CONTINUE, KEEPER_KILL };

/* continue_stop is read before the deadline: the daemon writes them in the other order. */
static inline bool keeper_may_continue(struct keeper_memory *memory, uint64_t now_ns)
{
    bool named = atomic_load(&memory->continue_stop) == atomic_load(&memory->stops);

    return named && now_ns < atomic_load(&memory->deadline_ns);
}

/* Moves the state, and returns what QEMU is to be sent. Signals are sent in each turn, not once: a
 * signal to a process that has it already does nothing. terminated: the keeper was asked to end. */
static inline enum keeper_signal keeper_turn(struct keeper_memory *memory, uint64_t now_ns,
                                             bool terminated)
{
    if (terminated || atomic_load(&memory->kill) || atomic_load(&memory->state) == KEEPER_KILLING) {
        atomic_store(&memory->state, KEEPER_KILLING);
        return KEEPER_KILL;
    }
    if (atomic_load(&memory->state) == KEEPER_RUNNING) {
        if (now_ns < atomic_load(&memory->deadline_ns))
            return KEEPER_NO_SIGNAL;
        atomic_fetch_add(&memory->stops, 1);
        atomic_store(&memory->state, KEEPER_STOPPING);
        return KEEPER_STOP;
    }
    if (keeper_may_continue(memory, now_ns)) {
        atomic_store(&memory->state, KEEPER_RUNNING);
        return KEEPER_CONTINUE;
    }
    return KEEPER_STOP;
}

/* How long it may wait then. */
static inline uint64_t keeper_wait_ns(struct keeper_memory *memory, uint64_t now_ns)
{
    uint64_t deadline_ns = atomic_load(&memory->deadline_ns);

    if (atomic_load(&memory->state) != KEEPER_RUNNING || deadline_ns >= now_ns + KEEPER_TURN_NS)
        return KEEPER_TURN_NS;
    return deadline_ns > now_ns ? deadline_ns - now_ns : 0;
}

#endif
