/* Thousands of random schedules (raft_schedule.h), the Raft paper's safety properties checked after
 * each step.
 *
 *     test_raft_random                  the usual number of seeds
 *     test_raft_random SEED             that one, told step by step
 *     test_raft_random FIRST COUNT      more of them, or others
 *
 * RAFT_SEEDS=COUNT in the environment changes the usual number. */
#include "tests/unit/raft_schedule.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define USUAL_SEEDS 3000

static uint64_t first_seed = 1, seed_count = USUAL_SEEDS;
static bool tell;

static void add(struct schedule_result *sum, const struct schedule_result *result)
{
    sum->steps += result->steps;
    sum->committed += result->committed;
    sum->terms += result->terms;
    sum->snapshots += result->snapshots;
    sum->reads += result->reads;
    sum->changes += result->changes;
    sum->vouched += result->vouched;
}

static void random_schedules_are_safe_and_end_well(void **state)
{
    struct schedule_result sum = {0};

    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + seed_count; seed++) {
        struct schedule_result result;

        schedule_run(seed, RAFT_RIGHT, tell, &result);
        add(&sum, &result);
        if (result.violation[0])
            fail_msg("seed %" PRIu64 " (%s): %s; tell it with: test_raft_random %" PRIu64, seed,
                     result.kind, result.violation, seed);
    }
    printf(
        "%" PRIu64 " schedules: %" PRIu64 " steps, %" PRIu64 " entries committed, %" PRIu64
        " terms, %u snapshots installed, %u reads, %u membership changes, %u requests to vouch\n",
        seed_count, sum.steps, sum.committed, sum.terms, sum.snapshots, sum.reads, sum.changes,
        sum.vouched);
    if (seed_count < USUAL_SEEDS)
        return;
    /* A test that does not do what it says would pass too. */
    assert_true(sum.committed > 20 * seed_count);
    assert_true(sum.terms > 3 * seed_count);
    assert_true(sum.snapshots > seed_count / 4);
    assert_true(sum.reads > seed_count);
    assert_true(sum.changes > seed_count / 2);
    assert_true(sum.vouched > seed_count);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_schedules_are_safe_and_end_well)};

    if (getenv("RAFT_SEEDS"))
        seed_count = strtoull(getenv("RAFT_SEEDS"), NULL, 0);
    if (argc > 1)
        first_seed = strtoull(argv[1], NULL, 0);
    if (argc > 1)
        seed_count = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    tell = argc == 2;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
