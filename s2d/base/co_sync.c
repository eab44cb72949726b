/* What coroutines wait on. Each waiter stands on its own stack in the list of what it waits for: no
 * allocation, first in, first out. */
#include "s2d/base/co.h"

#include "s2d/base/io_backend.h"

struct waiter {
    struct list node;
    struct co *co;
    struct co_sem *sem;
    uint64_t count; /* of a semaphore */
    int result;
};

static void queue_init(struct co_queue *queue)
{
    list_init(&queue->waiters);
}

static void waiter_finish(struct waiter *waiter, int result)
{
    list_remove(&waiter->node);
    waiter->result = result;
    co_wake(waiter->co);
}

static bool wake_first(struct co_queue *queue)
{
    if (list_empty(&queue->waiters))
        return false;
    waiter_finish(list_first(&queue->waiters, struct waiter, node), 0);
    return true;
}

/* ---- mutex ---- */

void co_mutex_init(struct co_mutex *mutex)
{
    queue_init(&mutex->queue);
    mutex->locked = false;
}

bool co_mutex_try_lock(struct co_mutex *mutex)
{
    if (mutex->locked)
        return false;
    mutex->locked = true;
    return true;
}

void co_mutex_lock(struct co_mutex *mutex)
{
    struct waiter waiter = {.co = co_self()};

    if (co_mutex_try_lock(mutex))
        return;
    list_push_back(&mutex->queue.waiters, &waiter.node);
    co_wait(); /* the lock is ours when we are woken */
}

void co_mutex_unlock(struct co_mutex *mutex)
{
    assert(mutex->locked);
    if (!wake_first(&mutex->queue))
        mutex->locked = false;
}

/* ---- condition ---- */

void co_cond_init(struct co_cond *cond)
{
    queue_init(&cond->queue);
}

static void waiter_cancel(void *arg)
{
    struct waiter *waiter = arg;

    if (!list_empty(&waiter->node))
        waiter_finish(waiter, -ECANCELED);
}

static void waiter_time_out(void *arg)
{
    struct waiter *waiter = arg;

    if (!list_empty(&waiter->node))
        waiter_finish(waiter, -ETIMEDOUT);
}

int co_cond_wait_until(struct co_cond *cond, uint64_t deadline_ns)
{
    struct waiter waiter = {.co = co_self()};
    struct io *io = co_io(waiter.co);
    struct io_timer timer;
    int r;

    r = co_set_cancel(waiter_cancel, &waiter);
    if (r < 0)
        return r;
    io_timer_init(&timer, waiter_time_out, &waiter);
    if (deadline_ns != UINT64_MAX)
        io_timer_arm(io, &timer, deadline_ns);
    list_push_back(&cond->queue.waiters, &waiter.node);
    co_wait();
    co_clear_cancel();
    io_timer_disarm(io, &timer);
    return waiter.result;
}

int co_cond_wait(struct co_cond *cond)
{
    return co_cond_wait_until(cond, UINT64_MAX);
}

void co_cond_wait_always(struct co_cond *cond)
{
    struct waiter waiter = {.co = co_self()};

    list_push_back(&cond->queue.waiters, &waiter.node);
    co_wait();
}

void co_cond_signal(struct co_cond *cond)
{
    wake_first(&cond->queue);
}

void co_cond_broadcast(struct co_cond *cond)
{
    while (wake_first(&cond->queue))
        ;
}

bool co_cond_has_waiters(const struct co_cond *cond)
{
    return !list_empty(&cond->queue.waiters);
}

int co_sleep_ns(uint64_t duration_ns)
{
    struct co_cond never;
    int r;

    co_cond_init(&never);
    r = co_cond_wait_until(&never, deadline_after(io_now_ns(co_io(co_self())), duration_ns));
    return r == -ETIMEDOUT ? 0 : r;
}

/* ---- group ---- */

void co_group_init(struct co_group *group)
{
    co_cond_init(&group->idle);
    group->pending = 0;
}

void co_group_add(struct co_group *group, size_t count)
{
    group->pending += count;
}

void co_group_done(struct co_group *group)
{
    assert(group->pending > 0);
    if (--group->pending == 0)
        co_cond_broadcast(&group->idle);
}

void co_group_wait(struct co_group *group)
{
    while (group->pending > 0)
        co_cond_wait_always(&group->idle);
}

struct group_start {
    struct co_group *group;
    co_fn *fn;
    void *arg;
};

static void group_main(void *arg)
{
    struct group_start start = *(struct group_start *)arg;

    free(arg);
    start.fn(start.arg);
    co_group_done(start.group);
}

int co_group_spawn(struct co_group *group, struct io *io, const char *name, co_fn *fn, void *arg)
{
    struct group_start *start = malloc(sizeof(*start));
    int r;

    if (!start)
        return -ENOMEM;
    *start = (struct group_start){.group = group, .fn = fn, .arg = arg};
    r = co_spawn(io, name, group_main, start);
    if (r < 0) {
        free(start);
        return r;
    }
    co_group_add(group, 1);
    return 0;
}

/* ---- semaphore ---- */

void co_sem_init(struct co_sem *sem, uint64_t available)
{
    queue_init(&sem->queue);
    sem->available = available;
}

bool co_sem_try_take(struct co_sem *sem, uint64_t count)
{
    if (!list_empty(&sem->queue.waiters) || sem->available < count)
        return false;
    sem->available -= count;
    return true;
}

static void sem_hand_out(struct co_sem *sem)
{
    while (!list_empty(&sem->queue.waiters)) {
        struct waiter *first = list_first(&sem->queue.waiters, struct waiter, node);

        if (sem->available < first->count)
            return;
        sem->available -= first->count;
        waiter_finish(first, 0);
    }
}

/* The one that gave up may have stood before smaller ones. */
static void sem_cancel(void *arg)
{
    struct waiter *waiter = arg;

    if (list_empty(&waiter->node))
        return;
    waiter_finish(waiter, -ECANCELED);
    sem_hand_out(waiter->sem);
}

int co_sem_take(struct co_sem *sem, uint64_t count)
{
    struct waiter waiter = {.co = co_self(), .sem = sem, .count = count};
    int r;

    if (co_sem_try_take(sem, count))
        return 0;
    r = co_set_cancel(sem_cancel, &waiter);
    if (r < 0)
        return r;
    list_push_back(&sem->queue.waiters, &waiter.node);
    co_wait();
    co_clear_cancel();
    return waiter.result;
}

void co_sem_give(struct co_sem *sem, uint64_t count)
{
    sem->available += count;
    sem_hand_out(sem);
}
