/* co: stackful coroutines and what they wait on.
 *
 * A coroutine belongs to one loop (struct io) and so to one thread; nothing here is thread-safe.
 * All of them run from the loop, first in, first out: co_spawn() and every wake only queue, so a
 * caller is never interrupted by what it wakes. A switch makes no system call; stacks are pooled,
 * guarded by an unmapped page, and sanitizers are told of every switch.
 *
 * co_ in a name says: may suspend. Only a coroutine may call it.
 *
 * Cancelling: co_cancel() makes the suspension that the coroutine is in, and each later one, return
 * -ECANCELED where its contract lists that; a coroutine is never dropped half-way, so its cleanups
 * run.
 */
#ifndef S2D_BASE_CO_H
#define S2D_BASE_CO_H

#include "s2d/base/base.h"

struct io;
struct co; /* valid until its function returns */

typedef void co_fn(void *arg);

/* Queues a new coroutine that runs fn(arg). It frees itself when fn returns.
 * Returns 0, or -ENOMEM (no stack; never after the pool has grown to what is in use at once). */
must_check int co_spawn(struct io *io, const char *name, co_fn *fn, void *arg);

/* As co_spawn(); *ret_co may be given to co_cancel() and co_wake() while fn has not returned. */
must_check int co_spawn_handle(struct io *io, const char *name, co_fn *fn, void *arg,
                               struct co **ret_co);

/* The coroutine that runs now; NULL outside of one. */
struct co *co_self(void);
const char *co_name(const struct co *co);
struct io *co_io(const struct co *co);

/* Low level, for those who build things to wait on. Suspends until co_wake(co_self()); each
 * co_wait() takes exactly one co_wake(), which may come before it. Not cancellable. */
void co_wait(void);
void co_wake(struct co *co);

/* Lets everything that is ready run first. */
void co_yield (void);

/* Sleeps. Returns 0 or -ECANCELED. */
int co_sleep_ns(uint64_t duration_ns);

/* May be called once or more; from the loop's thread. */
void co_cancel(struct co *co);
bool co_cancelled(void); /* the running coroutine was cancelled */

/* ---- things to wait on: embedded, zero cost when nobody waits; order of waiters is first in,
 * first out ---- */

struct co_queue { /* who waits; private */
    struct list waiters;
};

/* Mutual exclusion over suspensions. */
struct co_mutex {
    struct co_queue queue;
    bool locked;
};
void co_mutex_init(struct co_mutex *mutex);
void co_mutex_lock(struct co_mutex *mutex); /* suspends; not cancellable */
bool co_mutex_try_lock(struct co_mutex *mutex);
void co_mutex_unlock(struct co_mutex *mutex); /* hands on to the first waiter */

/* A condition: the waiter looks at its own predicate again after each return. */
struct co_cond {
    struct co_queue queue;
};
void co_cond_init(struct co_cond *cond);
/* Suspends until signalled. Returns 0 or -ECANCELED, at once when the coroutine was cancelled
 * before: a loop around it must end then. */
must_check int co_cond_wait(struct co_cond *cond);
/* The same for what must be waited for whatever happens (others hold our memory): not cancellable.
 */
void co_cond_wait_always(struct co_cond *cond);
/* The same with a deadline on the loop's clock (UINT64_MAX: none). Returns 0, -ETIMEDOUT,
 * -ECANCELED. */
must_check int co_cond_wait_until(struct co_cond *cond, uint64_t deadline_ns);
void co_cond_signal(struct co_cond *cond);    /* wakes the first waiter, if any */
void co_cond_broadcast(struct co_cond *cond); /* wakes all that wait now */
bool co_cond_has_waiters(const struct co_cond *cond);

/* Counts work under way. One or more coroutines may wait for none to be left. */
struct co_group {
    struct co_cond idle;
    size_t pending;
};
void co_group_init(struct co_group *group);
void co_group_add(struct co_group *group, size_t count);
void co_group_done(struct co_group *group);
void co_group_wait(struct co_group *group); /* not cancellable: the work holds our memory */
/* Spawns fn(arg) counted in group. Returns as co_spawn(). */
must_check int co_group_spawn(struct co_group *group, struct io *io, const char *name, co_fn *fn,
                              void *arg);

/* A counting semaphore, for credits and bounded resources. First in, first out: a large request is
 * not starved by small ones. */
struct co_sem {
    struct co_queue queue;
    uint64_t available;
};
void co_sem_init(struct co_sem *sem, uint64_t available);
/* Takes count. Returns 0, or -ECANCELED (nothing taken). */
int co_sem_take(struct co_sem *sem, uint64_t count);
bool co_sem_try_take(struct co_sem *sem, uint64_t count);
void co_sem_give(struct co_sem *sem, uint64_t count);

/* Locks over ranges of a 64-bit space (the owner's blocks, a file's bytes). Shared locks overlap
 * each other; a waiter bars later ones that overlap it, so nobody starves. */
struct range_lock {
    struct list held;
    struct list waiting;
};
struct range_lock_hold { /* the caller's memory, from co_range_lock() to range_unlock() */
    struct list node;
    struct co *waiter;
    uint64_t start, end; /* [start, end) */
    bool exclusive;
};
void range_lock_init(struct range_lock *lock);
bool range_lock_idle(const struct range_lock *lock);
/* Suspends until [start, start + length) is ours. Not cancellable. */
void co_range_lock(struct range_lock *lock, struct range_lock_hold *hold, uint64_t start,
                   uint64_t length, bool exclusive);
bool range_try_lock(struct range_lock *lock, struct range_lock_hold *hold, uint64_t start,
                    uint64_t length, bool exclusive);
void range_unlock(struct range_lock *lock, struct range_lock_hold *hold);

#endif
