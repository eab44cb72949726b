/* How fast copies go next to clients (resiliency/pace.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "resiliency/pace.h"

#define FLOOR (4 * MIB)
#define PIECE (256 * KIB)
#define MOMENT (100 * US) /* a step of the world below */

/* A world of one client and copies that never end: the client's latency depends on how much was
 * copied lately. */
struct world {
    struct pace pace;
    uint64_t now_ns;
    bool client, copies;
    uint64_t base_ns;    /* the client's latency when nothing is copied */
    uint64_t harmless;   /* bytes a second that it does not notice; above them it doubles */
    uint64_t copied;     /* bytes */
    uint64_t recent;     /* of these, in the last 100 ms or so */
    uint64_t request_ns; /* ends then */
    uint64_t seen_ns, seen_count;
};

static struct world new_world(void)
{
    struct world world = {
        .now_ns = SEC, .client = true, .base_ns = 500 * US, .harmless = UINT64_MAX};

    pace_init(&world.pace, FLOOR);
    return world;
}

static void client_step(struct world *world)
{
    uint64_t latency_ns = world->base_ns << (world->recent * 10 > world->harmless);

    if (world->now_ns < world->request_ns)
        return;
    pace_note(&world->pace, world->now_ns, true, 4096, latency_ns);
    world->seen_ns += latency_ns;
    world->seen_count++;
    world->request_ns = world->now_ns + latency_ns;
}

static void copies_step(struct world *world)
{
    world->recent -= world->recent / 1000;
    /* one piece a moment at the most: what the devices can do */
    if (pace_ask(&world->pace, world->now_ns, PIECE) != world->now_ns)
        return;
    world->copied += PIECE;
    world->recent += PIECE;
}

/* Returns what was copied, in bytes a second. */
static uint64_t run(struct world *world, uint64_t duration_ns)
{
    uint64_t end_ns = world->now_ns + duration_ns, before = world->copied;

    world->seen_ns = world->seen_count = 0;
    for (; world->now_ns < end_ns; world->now_ns += MOMENT) {
        if (world->client)
            client_step(world);
        if (world->copies)
            copies_step(world);
    }
    return (world->copied - before) * SEC / duration_ns;
}

/* Nobody to spare: nothing holds a rebuild up. */
static void alone_it_is_not_slowed(void **state)
{
    struct world world = new_world();

    (void)state;
    world.client = false;
    world.copies = true;
    assert_int_equal(run(&world, SEC), PIECE * (SEC / MOMENT));
}

static void clients_who_do_not_notice_let_it_grow(void **state)
{
    struct world world = new_world();

    (void)state;
    (void)run(&world, SEC);
    world.copies = true;
    (void)run(&world, 5 * SEC);
    assert_true(run(&world, SEC) > 64 * FLOOR);
}

/* A client that suffers from more than twice the floor: the copies stay about there, and most of
 * its requests are as quick as ever. */
static void clients_who_suffer_slow_it(void **state)
{
    struct world world = new_world();
    uint64_t rate;

    (void)state;
    world.harmless = 2 * FLOOR;
    (void)run(&world, SEC);
    world.copies = true;
    rate = run(&world, 20 * SEC);
    assert_true(rate >= FLOOR);
    assert_true(rate < 3 * FLOOR);
    assert_true(world.seen_ns / world.seen_count < world.base_ns * 3 / 2);
}

/* Whatever clients feel, the floor is granted (a rebuild ends). */
static void the_floor_is_always_granted(void **state)
{
    struct world world = new_world();

    (void)state;
    world.harmless = 0;
    (void)run(&world, SEC);
    world.copies = true;
    assert_true(run(&world, 20 * SEC) >= FLOOR * 9 / 10);
}

/* A load that grew by itself, ten times slower with or without copies, must not hold them at the
 * floor for ever. */
static void a_load_of_another_kind_is_learned(void **state)
{
    struct world world = new_world();

    (void)state;
    (void)run(&world, SEC);
    world.copies = true;
    world.base_ns *= 10;
    (void)run(&world, 10 * SEC);
    assert_true(run(&world, 5 * SEC) > 4 * FLOOR);
}

/* Clients that come while copies go at full speed are not taught that this is usual. */
static void who_comes_late_is_spared_too(void **state)
{
    struct world world = new_world();
    uint64_t rate;

    (void)state;
    world.harmless = 2 * FLOOR;
    world.copies = true;
    world.client = false;
    (void)run(&world, SEC);
    world.client = true;
    (void)run(&world, SEC);
    rate = run(&world, 20 * SEC);
    assert_true(rate >= FLOOR);
    assert_true(rate < 3 * FLOOR);
}

/* Large requests are slow by nature: next to small ones they say nothing. */
static void sizes_are_told_apart(void **state)
{
    struct world world = new_world();

    (void)state;
    for (unsigned i = 0; i < 2000; i++) { /* small ones only, nothing copied */
        world.now_ns += MS;
        pace_note(&world.pace, world.now_ns, true, 4096, 500 * US);
        if (i > 1000)
            pace_note(&world.pace, world.now_ns, false, MIB, 20 * MS);
    }
    for (unsigned i = 0; i < 3000; i++) { /* then large ones, next to copies */
        world.now_ns += MS;
        pace_note(&world.pace, world.now_ns, false, MIB, 20 * MS);
        copies_step(&world);
    }
    assert_true(world.pace.rate_bytes > 8 * FLOOR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_it_is_not_slowed),
        cmocka_unit_test(clients_who_do_not_notice_let_it_grow),
        cmocka_unit_test(clients_who_suffer_slow_it),
        cmocka_unit_test(the_floor_is_always_granted),
        cmocka_unit_test(a_load_of_another_kind_is_learned),
        cmocka_unit_test(who_comes_late_is_spared_too),
        cmocka_unit_test(sizes_are_told_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
