#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/sim.h"

static struct buffer_pool *new_pool(uint64_t bytes)
{
    struct buffer_pool *pool = NULL;

    assert_int_equal(buffer_pool_new("test", bytes, &pool), 0);
    return pool;
}

static void sizes_are_powers_of_two(void **state)
{
    cleanup(buffer_pool_freep) struct buffer_pool *pool = new_pool(16 * MIB);
    struct buffer_pool *none;
    void *small = buffer_try_get(pool, 1);
    void *odd = buffer_try_get(pool, 5 * 4096 + 1);

    (void)state;
    assert_int_equal((uintptr_t)small % BLOCK_SIZE, 0);
    assert_int_equal((uintptr_t)odd % BLOCK_SIZE, 0);
    assert_int_equal(buffer_pool_used_bytes(pool), 4096 + 8 * 4096);
    memset(odd, 1, 8 * 4096);
    buffer_put(pool, small, 1);
    buffer_put(pool, odd, 5 * 4096 + 1);
    buffer_put(pool, NULL, 4096);
    assert_int_equal(buffer_pool_used_bytes(pool), 0);
    assert_int_equal(buffer_pool_new("test", 100, &none), -EINVAL);
}

/* However it was cut up: what all gave back is whole again. */
static void pieces_merge(void **state)
{
    uint64_t total = 8 * MIB + 12 * KIB; /* with an incomplete rest */
    cleanup(buffer_pool_freep) struct buffer_pool *pool = new_pool(total);
    static void *pages[2051];
    void *first, *second;

    (void)state;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
            pages[i] = buffer_try_get(pool, BLOCK_SIZE);
            assert_non_null(pages[i]);
            memset(pages[i], (int)i, BLOCK_SIZE);
        }
        assert_int_equal(buffer_pool_used_bytes(pool), total);
        assert_null(buffer_try_get(pool, BLOCK_SIZE));
        for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
            size_t at = (i * 1009) % ARRAY_SIZE(pages); /* in a mixed order */

            assert_int_equal(*(uint8_t *)pages[at], (uint8_t)at);
            buffer_put(pool, pages[at], BLOCK_SIZE);
        }
        first = buffer_try_get(pool, BUFFER_MAX_BYTES);
        second = buffer_try_get(pool, BUFFER_MAX_BYTES);
        assert_non_null(first);
        assert_non_null(second);
        assert_null(buffer_try_get(pool, BUFFER_MAX_BYTES));
        buffer_put(pool, first, BUFFER_MAX_BYTES);
        buffer_put(pool, second, BUFFER_MAX_BYTES);
    }
}

/* Pieces handed out at one time never overlap. */
static void random_use_never_overlaps(void **state)
{
    cleanup(buffer_pool_freep) struct buffer_pool *pool = new_pool(4 * MIB);
    struct {
        uint32_t *memory;
        size_t length;
    } held[64] = {0};
    uint32_t draw = 1;

    (void)state;
    for (uint32_t step = 0; step < 20000; step++) {
        size_t slot = (draw = draw * 1664525 + 1013904223) >> 26;

        if (held[slot].memory) {
            size_t last = held[slot].length / 4 - 1;

            assert_int_equal(held[slot].memory[0], slot);
            assert_int_equal(held[slot].memory[last], slot);
            buffer_put(pool, held[slot].memory, held[slot].length);
            held[slot].memory = NULL;
            continue;
        }
        held[slot].length = 4096 + ((draw >> 8) % 256 * 1024);
        held[slot].memory = buffer_try_get(pool, held[slot].length);
        if (held[slot].memory) {
            held[slot].memory[0] = (uint32_t)slot;
            held[slot].memory[held[slot].length / 4 - 1] = (uint32_t)slot;
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(held); i++)
        buffer_put(pool, held[i].memory, held[i].length);
}

/* ---- waiting ---- */

struct waiting {
    struct buffer_pool *pool;
    char order[8]; /* who was served */
    unsigned served;
    void *held[4];
};

static void served(struct waiting *waiting, char who, void *buffer, size_t length)
{
    waiting->order[waiting->served++] = who;
    co_yield ();
    buffer_put(waiting->pool, buffer, length);
}

static void want_large(void *arg)
{
    struct waiting *waiting = arg;

    served(waiting, 'L', co_buffer_get(waiting->pool, MIB), MIB);
}

static void want_small(void *arg)
{
    struct waiting *waiting = arg;

    served(waiting, 's', co_buffer_get(waiting->pool, 4096), 4096);
}

static void give_back_slowly(void *arg)
{
    struct waiting *waiting = arg;

    for (size_t i = 0; i < ARRAY_SIZE(waiting->held); i++) {
        assert_int_equal(co_sleep_ns(MS), 0);
        assert_null(buffer_try_get(waiting->pool, 4096)); /* others wait */
        buffer_put(waiting->pool, waiting->held[i], 256 * KIB);
    }
}

static void waiting_main(struct io *io, void *arg)
{
    struct waiting *waiting = arg;
    struct co_group group;

    co_group_init(&group);
    for (size_t i = 0; i < ARRAY_SIZE(waiting->held); i++)
        waiting->held[i] = co_buffer_get(waiting->pool, 256 * KIB);
    assert_int_equal(co_group_spawn(&group, io, "large", want_large, arg), 0);
    assert_int_equal(co_group_spawn(&group, io, "small", want_small, arg), 0);
    assert_int_equal(co_group_spawn(&group, io, "giver", give_back_slowly, arg), 0);
    assert_int_equal(co_group_spawn(&group, io, "small", want_small, arg), 0);
    co_group_wait(&group);
    io_stop(io);
}

/* First come, first served: small requests that would fit do not starve a large one. */
static void large_request_is_not_starved(void **state)
{
    cleanup(buffer_pool_freep) struct buffer_pool *pool = new_pool(MIB);
    struct waiting waiting = {.pool = pool};
    struct sim_options options = sim_default_options(1);
    cleanup(sim_freep) struct sim *sim = NULL;

    (void)state;
    assert_int_equal(sim_new(&options, &sim), 0);
    assert_int_equal(sim_start(sim, 1, waiting_main, &waiting), 0);
    sim_run(sim, SEC, NULL, NULL);
    assert_false(sim_is_up(sim, 1));
    assert_string_equal(waiting.order, "Lss");
    assert_int_equal(buffer_pool_used_bytes(pool), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_powers_of_two),
        cmocka_unit_test(pieces_merge),
        cmocka_unit_test(random_use_never_overlaps),
        cmocka_unit_test(large_request_is_not_starved),
    };

    setenv("CMOCKA_TEST_ABORT", "1", 1); /* it could not jump out of a coroutine */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
