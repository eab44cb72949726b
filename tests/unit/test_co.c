/* Coroutines and what they wait on: order, fairness, cancelling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "s2d/base/co.h"
#include "s2d/base/io.h"

struct world {
    struct io *io;
    char trace[256];
    struct co_mutex mutex;
    struct co_cond cond;
    struct co_sem sem;
    struct co_group group;
    struct range_lock ranges;
    int result;
};

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof(*world));

    assert_int_equal(io_uring_new(NULL, &world->io), 0);
    co_mutex_init(&world->mutex);
    co_cond_init(&world->cond);
    co_group_init(&world->group);
    range_lock_init(&world->ranges);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;

    io_free(world->io);
    free(world);
    return 0;
}

static void trace(struct world *world, const char *word)
{
    strcat(world->trace, word);
}

struct part {
    struct world *world;
    const char *name;
    void (*fn)(struct part *part);
    uint64_t start, length;
    bool exclusive;
};

static void part_main(void *arg)
{
    struct part *part = arg;

    part->fn(part);
    co_group_done(&part->world->group);
}

static void waiter_main(void *arg)
{
    struct world *world = arg;

    co_group_wait(&world->group);
    io_stop(world->io);
}

/* Runs all parts to their ends. */
static void run(struct world *world, struct part *parts, size_t count)
{
    co_group_add(&world->group, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(co_spawn(world->io, parts[i].name, part_main, &parts[i]), 0);
    assert_int_equal(co_spawn(world->io, "waiter", waiter_main, world), 0);
    io_run(world->io);
}

static void say_twice(struct part *part)
{
    trace(part->world, part->name);
    co_yield ();
    trace(part->world, part->name);
}

/* The order of a run is the order of the wake-ups: the simulator rests on it. */
static void coroutines_take_turns_in_order(void **state)
{
    struct world *world = *state;
    struct part parts[] = {{world, "a", say_twice, 0, 0, 0},
                           {world, "b", say_twice, 0, 0, 0},
                           {world, "c", say_twice, 0, 0, 0}};

    run(world, parts, 3);
    assert_string_equal(world->trace, "abcabc");
}

static void say_in_mutex(struct part *part)
{
    co_mutex_lock(&part->world->mutex);
    trace(part->world, part->name);
    co_yield ();
    trace(part->world, part->name);
    co_mutex_unlock(&part->world->mutex);
}

static void a_mutex_is_held_over_suspensions(void **state)
{
    struct world *world = *state;
    struct part parts[] = {{world, "a", say_in_mutex, 0, 0, 0},
                           {world, "b", say_in_mutex, 0, 0, 0}};

    run(world, parts, 2);
    assert_string_equal(world->trace, "aabb");
}

static void lock_range(struct part *part)
{
    struct range_lock_hold hold;

    co_range_lock(&part->world->ranges, &hold, part->start, part->length, part->exclusive);
    trace(part->world, part->name);
    co_yield ();
    trace(part->world, part->name);
    range_unlock(&part->world->ranges, &hold);
}

/* Two readers share; a writer waits for both, and bars the reader behind it: nobody starves. */
static void range_locks_are_fair(void **state)
{
    struct world *world = *state;
    struct part parts[] = {
        {world, "r", lock_range, 0, 8, false},  {world, "s", lock_range, 4, 8, false},
        {world, "W", lock_range, 6, 1, true},   {world, "t", lock_range, 6, 1, false},
        {world, "x", lock_range, 100, 1, true},
    };

    run(world, parts, 5);
    assert_string_equal(world->trace, "rsxrsxWWtt");
    assert_true(range_lock_idle(&world->ranges));
}

static void sleep_long(struct part *part)
{
    part->world->result = co_sleep_ns(3600 * SEC);
}

static void cancel_it(void *arg)
{
    co_cancel(*(struct co **)arg);
}

static void cancelling_ends_a_sleep(void **state)
{
    struct world *world = *state;
    struct part part = {world, "sleeper", sleep_long, 0, 0, 0};
    struct io_task task;
    struct co *sleeper;

    co_group_add(&world->group, 1);
    assert_int_equal(co_spawn_handle(world->io, "sleeper", part_main, &part, &sleeper), 0);
    assert_int_equal(co_spawn(world->io, "waiter", waiter_main, world), 0);
    io_task_init(&task, cancel_it, &sleeper);
    io_defer(world->io, &task);
    io_run(world->io);
    assert_int_equal(world->result, -ECANCELED);
}

static void wait_a_little(struct part *part)
{
    struct world *world = part->world;
    uint64_t before_ns = io_clock_ns(world->io);

    world->result = co_cond_wait_until(&world->cond, io_now_ns(world->io) + 2 * MS);
    assert_true(io_clock_ns(world->io) - before_ns >= 2 * MS);
}

static void a_condition_times_out(void **state)
{
    struct world *world = *state;
    struct part part = {world, "w", wait_a_little, 0, 0, 0};

    run(world, &part, 1);
    assert_int_equal(world->result, -ETIMEDOUT);
}

static void take_credit(struct part *part)
{
    assert_int_equal(co_sem_take(&part->world->sem, part->length), 0);
    trace(part->world, part->name);
    co_yield ();
    co_sem_give(&part->world->sem, part->length);
}

/* The large request is first in the queue: small ones behind it do not slip past. */
static void a_semaphore_serves_in_order(void **state)
{
    struct world *world = *state;
    struct part parts[] = {{world, "a", take_credit, 0, 2, 0},
                           {world, "B", take_credit, 0, 4, 0},
                           {world, "c", take_credit, 0, 1, 0}};

    co_sem_init(&world->sem, 4);
    run(world, parts, 3);
    assert_string_equal(world->trace, "aBc");
    assert_int_equal(world->sem.available, 4);
}

static void in_a_worker(void *arg)
{
    ((struct world *)arg)->result = 42;
}

static void offload(struct part *part)
{
    co_offload(part->world->io, in_a_worker, part->world);
    assert_int_equal(part->world->result, 42);
}

static void offloaded_work_returns_to_the_loop(void **state)
{
    struct world *world = *state;
    struct part part = {world, "o", offload, 0, 0, 0};

    run(world, &part, 1);
    assert_int_equal(world->result, 42);
}

static void fire(void *arg)
{
    trace(((struct part *)arg)->world, ((struct part *)arg)->name);
}

static void arm_timers(struct part *part)
{
    struct world *world = part->world;
    struct part names[] = {{world, "3", 0, 0, 0, 0},
                           {world, "1", 0, 0, 0, 0},
                           {world, "2", 0, 0, 0, 0},
                           {world, "x", 0, 0, 0, 0}};
    uint64_t after_ms[] = {3, 1, 2, 2};
    struct io_timer timers[4];

    for (int i = 0; i < 4; i++) {
        io_timer_init(&timers[i], fire, &names[i]);
        io_timer_arm(world->io, &timers[i], io_now_ns(world->io) + after_ms[i] * MS);
    }
    io_timer_disarm(world->io, &timers[3]);
    assert_int_equal(co_sleep_ns(5 * MS), 0);
}

static void timers_fire_by_deadline(void **state)
{
    struct world *world = *state;
    struct part part = {world, "t", arm_timers, 0, 0, 0};

    run(world, &part, 1);
    assert_string_equal(world->trace, "123");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(coroutines_take_turns_in_order),
        TEST(a_mutex_is_held_over_suspensions),
        TEST(range_locks_are_fair),
        TEST(cancelling_ends_a_sleep),
        TEST(a_condition_times_out),
        TEST(a_semaphore_serves_in_order),
        TEST(offloaded_work_returns_to_the_loop),
        TEST(timers_fire_by_deadline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
