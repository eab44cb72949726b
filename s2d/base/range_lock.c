/* Range locks. Two plain lists: what is held and who waits, in order of arrival. A request overlaps
 * few others (queue depths are in the tens to hundreds), so walking them beats a tree. A waiter
 * bars every later request that it conflicts with: no starvation. */
#include "s2d/base/co.h"

void range_lock_init(struct range_lock *lock)
{
    list_init(&lock->held);
    list_init(&lock->waiting);
}

bool range_lock_idle(const struct range_lock *lock)
{
    return list_empty(&lock->held) && list_empty(&lock->waiting);
}

static bool conflict(const struct range_lock_hold *a, const struct range_lock_hold *b)
{
    return a->start < b->end && b->start < a->end && (a->exclusive || b->exclusive);
}

/* True if hold conflicts with an entry of list before `end`. */
static bool conflicts_with(const struct list *list, const struct list *end,
                           const struct range_lock_hold *hold)
{
    for (const struct list *node = list->next; node != end; node = node->next) {
        if (conflict(list_entry(node, struct range_lock_hold, node), hold))
            return true;
    }
    return false;
}

static void hold_init(struct range_lock_hold *hold, uint64_t start, uint64_t length, bool exclusive)
{
    assert(length > 0);
    assert(start + length > start);
    *hold = (struct range_lock_hold){.start = start, .end = start + length, .exclusive = exclusive};
}

static bool try_hold(struct range_lock *lock, struct range_lock_hold *hold)
{
    if (conflicts_with(&lock->held, &lock->held, hold) ||
        conflicts_with(&lock->waiting, &lock->waiting, hold))
        return false;
    list_push_back(&lock->held, &hold->node);
    return true;
}

bool range_try_lock(struct range_lock *lock, struct range_lock_hold *hold, uint64_t start,
                    uint64_t length, bool exclusive)
{
    hold_init(hold, start, length, exclusive);
    return try_hold(lock, hold);
}

void co_range_lock(struct range_lock *lock, struct range_lock_hold *hold, uint64_t start,
                   uint64_t length, bool exclusive)
{
    hold_init(hold, start, length, exclusive);
    if (try_hold(lock, hold))
        return;
    hold->waiter = co_self();
    list_push_back(&lock->waiting, &hold->node);
    co_wait(); /* range_unlock() has moved us to `held` */
}

void range_unlock(struct range_lock *lock, struct range_lock_hold *hold)
{
    list_remove(&hold->node);
    list_for_each_safe (node, &lock->waiting) {
        struct range_lock_hold *waiting = list_entry(node, struct range_lock_hold, node);

        if (!conflict(waiting, hold) || conflicts_with(&lock->held, &lock->held, waiting) ||
            conflicts_with(&lock->waiting, node, waiting))
            continue;
        list_remove(&waiting->node);
        list_push_back(&lock->held, &waiting->node);
        co_wake(waiting->waiter);
    }
}
