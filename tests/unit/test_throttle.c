/* The intake of a filling log, on virtual time: a log of LOG_BLOCKS that a checkpoint drains, and
 * writers that never rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "cache-tier/throttle.h"

#define LOG_BLOCKS 16384u /* 64 MiB */
#define SIXTEENTH (LOG_BLOCKS / 16)
#define FULL (14 * SIXTEENTH)
#define STEP_NS (100 * US) /* the writers look so often */

/* A destager: takes the oldest `region` blocks whenever more than `begin` are there. */
struct world {
    struct throttle throttle;
    uint64_t now_ns;
    uint64_t begin, mark, region;
    uint64_t data_ns_per_block, rest_ns;
    uint64_t used, intake, destaged;
    uint64_t start_ns; /* of the checkpoint; 0: none */
    uint64_t last_ns, gap_ns_max, next_look_ns;
};

static uint64_t data_ns(const struct world *world)
{
    return world->region * world->data_ns_per_block;
}

static void destage(struct world *world)
{
    uint64_t took_ns = world->now_ns - world->start_ns;

    if (world->start_ns == 0) {
        if (world->used <= world->begin || world->used < world->region)
            return;
        world->start_ns = world->now_ns;
        throttle_begin(&world->throttle, world->now_ns, world->region);
        return;
    }
    throttle_progress(&world->throttle, world->now_ns,
                      MIN(took_ns / world->data_ns_per_block, world->region));
    if (took_ns < data_ns(world) + world->rest_ns)
        return;
    throttle_end(&world->throttle, world->now_ns, true);
    world->used -= world->region;
    world->destaged += world->region;
    world->start_ns = 0;
}

/* One write after another for as long as they are let in; at most `most` blocks a step. */
static void take_in(struct world *world, uint64_t most)
{
    while (most-- > 0 && world->now_ns >= world->next_look_ns && world->used < FULL) {
        uint64_t ask_ns = throttle_admit(&world->throttle, world->now_ns, world->used > world->mark,
                                         FULL - world->used, 1);

        if (ask_ns > 0) {
            assert_true(ask_ns > world->now_ns);
            world->next_look_ns = ask_ns;
            return;
        }
        world->gap_ns_max = MAX(world->gap_ns_max, world->now_ns - world->last_ns);
        world->last_ns = world->now_ns;
        world->used++;
        world->intake++;
    }
}

static void pass(struct world *world, uint64_t ns, uint64_t most)
{
    uint64_t end_ns = world->now_ns + ns;

    world->gap_ns_max = 0;
    world->intake = world->destaged = 0;
    world->last_ns = world->now_ns;
    while (world->now_ns < end_ns) {
        world->now_ns += STEP_NS;
        destage(world);
        take_in(world, most);
    }
}

static struct world world_of(uint64_t region, uint64_t data_ns_per_block, uint64_t rest_ns)
{
    return (struct world){.now_ns = SEC,
                          .begin = 10 * SIXTEENTH,
                          .mark = 10 * SIXTEENTH,
                          .region = region,
                          .data_ns_per_block = data_ns_per_block,
                          .rest_ns = rest_ns};
}

static uint64_t checkpoint_ns(const struct world *world)
{
    return data_ns(world) + world->rest_ns;
}

/* A hard disk swept a quarter of the log at a time, four seconds each: without a pace the writers
 * would stand for all of them. */
static void intake_becomes_what_is_destaged(void **state)
{
    struct world world = world_of(4 * SIXTEENTH, 900 * US, 300 * MS);
    uint64_t rate_ns = checkpoint_ns(&world) / world.region; /* between two blocks */

    (void)state;
    pass(&world, 5 * checkpoint_ns(&world), 100);
    pass(&world, 20 * checkpoint_ns(&world), 100);
    print_message("intake %llu, destaged %llu, gap %.1f ms\n", (unsigned long long)world.intake,
                  (unsigned long long)world.destaged, (double)world.gap_ns_max / (double)MS);
    assert_in_range(world.intake, world.destaged - world.region, world.destaged + world.region);
    assert_in_range(world.destaged, 19 * world.region, 20 * world.region); /* it never starves */
    assert_in_range(world.gap_ns_max, rate_ns, 30 * MS);                   /* writes go in bursts */
}

/* The first checkpoint of all: nothing is known but its own progress. */
static void the_first_fill_is_no_stall(void **state)
{
    struct world world = world_of(4 * SIXTEENTH, 900 * US, 300 * MS);

    (void)state;
    pass(&world, 4 * checkpoint_ns(&world), 20); /* 200 blocks in a millisecond, were they let */
    assert_in_range(world.gap_ns_max, 0, 100 * MS);
}

/* A log on its own disk, a sixteenth at a time. */
static void small_steps_are_as_even(void **state)
{
    struct world world = world_of(SIXTEENTH, 40 * US, 5 * MS);
    uint64_t rate_ns = checkpoint_ns(&world) / world.region;

    (void)state;
    pass(&world, 20 * checkpoint_ns(&world), 100);
    pass(&world, 100 * checkpoint_ns(&world), 100);
    assert_in_range(world.intake, world.destaged - world.region, world.destaged + world.region);
    assert_in_range(world.destaged, 98 * world.region, 100 * world.region);
    assert_in_range(world.gap_ns_max, rate_ns, 5 * MS);
    assert_in_range(world.used, 12 * SIXTEENTH, FULL - 1);
}

/* From the next checkpoint on. */
static void change_disk(struct world *world, uint64_t data_ns_per_block)
{
    do {
        world->now_ns += STEP_NS;
        destage(world);
        take_in(world, 100);
    } while (world->start_ns != 0);
    world->data_ns_per_block = data_ns_per_block;
}

/* The disk becomes four times slower, and faster again. */
static void a_change_of_the_disk_is_followed(void **state)
{
    struct world world = world_of(4 * SIXTEENTH, 300 * US, 100 * MS);

    (void)state;
    pass(&world, 8 * checkpoint_ns(&world), 100);
    change_disk(&world, 1200 * US);
    pass(&world, 8 * checkpoint_ns(&world), 100);
    print_message("slower: gap %.1f ms\n", (double)world.gap_ns_max / (double)MS);
    assert_in_range(world.gap_ns_max, 1 * MS, 100 * MS);
    change_disk(&world, 300 * US);
    pass(&world, 8 * checkpoint_ns(&world), 100);
    assert_in_range(world.gap_ns_max, 0, 30 * MS);
    assert_in_range(world.intake, world.destaged - 2 * world.region,
                    world.destaged + 2 * world.region);
}

static void below_the_mark_nobody_waits(void **state)
{
    struct throttle throttle = {0};

    (void)state;
    throttle_begin(&throttle, SEC, 1000);
    throttle_progress(&throttle, 2 * SEC, 1000);
    throttle_end(&throttle, 3 * SEC, true);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(throttle_admit(&throttle, 3 * SEC, false, 10, 1), 0);
    assert_false(throttle_is_on(&throttle, 3 * SEC));
    for (int i = 0; i < 11; i++) /* what goes in 20 ms, and one that is over it */
        assert_int_equal(throttle_admit(&throttle, 3 * SEC, true, 1000, 1), 0);
    assert_true(throttle_admit(&throttle, 3 * SEC, true, 1000, 1) > 3 * SEC);
    assert_true(throttle_is_on(&throttle, 3 * SEC));
    assert_false(throttle_is_on(&throttle, 4 * SEC));
}

/* Writers that ask for less than is destaged are let alone, above the mark too. */
static void a_light_load_is_not_held_back(void **state)
{
    struct world world = world_of(SIXTEENTH, 40 * US, 5 * MS);

    (void)state;
    pass(&world, 20 * checkpoint_ns(&world), 100); /* filled up */
    pass(&world, 100 * checkpoint_ns(&world), 1);  /* 100 us each: half of what is destaged */
    pass(&world, 100 * checkpoint_ns(&world), 1);
    assert_int_equal(world.gap_ns_max, STEP_NS);
}

/* What a checkpoint rests to leave the disk to clients does not make it slow. */
static void rests_do_not_count(void **state)
{
    struct throttle throttle = {0};

    (void)state;
    throttle_begin(&throttle, SEC, 1000);
    throttle_rested(&throttle, 9 * SEC);
    throttle_progress(&throttle, 11 * SEC, 1000); /* one of work */
    throttle_end(&throttle, 12 * SEC, true);
    assert_in_range(throttle_time_left_ns(&throttle, 12 * SEC), 1999 * MS, 2001 * MS);
    throttle_begin(&throttle, 12 * SEC, 500);
    assert_in_range(throttle_time_left_ns(&throttle, 12 * SEC), 999 * MS, 1001 * MS);
}

/* However wrong the guess: a write waits half a second at most while there is room. */
static void no_guess_makes_a_stall(void **state)
{
    struct throttle throttle = {0};
    uint64_t now_ns = SEC, ask_ns;

    (void)state;
    throttle_begin(&throttle, now_ns, 1);
    throttle_progress(&throttle, now_ns += 3600 * SEC, 1);
    throttle_end(&throttle, now_ns, true);
    assert_int_equal(throttle_admit(&throttle, now_ns, true, 2, 1), 0);
    for (unsigned i = 0; (ask_ns = throttle_admit(&throttle, now_ns, true, 2, 1)) > 0; i++) {
        assert_true(i < 100);
        now_ns = ask_ns;
    }
    assert_in_range(now_ns, SEC + 3600 * SEC, SEC + 3600 * SEC + 510 * MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(intake_becomes_what_is_destaged),
        cmocka_unit_test(the_first_fill_is_no_stall),
        cmocka_unit_test(small_steps_are_as_even),
        cmocka_unit_test(a_change_of_the_disk_is_followed),
        cmocka_unit_test(below_the_mark_nobody_waits),
        cmocka_unit_test(a_light_load_is_not_held_back),
        cmocka_unit_test(rests_do_not_count),
        cmocka_unit_test(no_guess_makes_a_stall),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
