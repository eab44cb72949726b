/* The Raft core: what a whole cluster promises, every step of it checked (raft_harness.h). */
#include "tests/unit/raft_harness.h"
#include "tests/unit/raft_solo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct harness *cluster(unsigned nodes, const struct raft_configuration *configuration,
                               uint64_t witness)
{
    struct harness_options options = {
        .seed = 7, .nodes = nodes, .configuration = *configuration, .witness = witness};

    options.trace = getenv("RAFT_TRACE") != NULL;

    return harness_new(&options);
}

static void expect_progress(struct harness *harness)
{
    uint64_t index = 0;

    assert_int_not_equal(harness_leader(harness), 0);
    assert_int_equal(harness_propose(harness, harness_leader(harness), 77, &index), 0);
    assert_true(harness_run_until(harness, 5 * SEC, harness_applied_everywhere, index));
    assert_null(harness_violation(harness));
}

static uint64_t term_of(struct harness *harness, uint64_t id)
{
    return harness_raft(harness, id)->hard.term;
}

static void a_cluster_elects_one_and_keeps_it(void **state)
{
    struct raft_configuration configuration = voters(5);
    cleanup(harness_freep) struct harness *harness = cluster(5, &configuration, 0);
    uint64_t leader, term;

    (void)state;
    harness_run(harness, 3 * SEC);
    leader = harness_leader(harness);
    assert_int_not_equal(leader, 0);
    term = term_of(harness, leader);
    for (unsigned i = 0; i < 20; i++)
        expect_progress(harness);
    harness_run(harness, 20 * SEC);
    assert_int_equal(harness_leader(harness), leader);
    assert_int_equal(term_of(harness, leader), term);
}

/* Pre-vote and stickiness: whoever was cut off comes back without an election. */
static void a_returning_node_disturbs_nobody(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);
    uint64_t term;

    (void)state;
    assert_true(harness_elect(harness, 1));
    term = term_of(harness, 1);
    harness_isolate(harness, 3, true);
    harness_run(harness, 30 * SEC);
    assert_int_equal(term_of(harness, 3), term);
    harness_heal(harness);
    harness_run(harness, 3 * SEC);
    assert_int_equal(harness_leader(harness), 1);
    assert_int_equal(term_of(harness, 1), term);
    expect_progress(harness);
}

static void a_cut_off_leader_steps_down(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    harness_cut(harness, 2, 1, true); /* it can still send: only answers are lost */
    harness_cut(harness, 3, 1, true);
    harness_run(harness, 1500 * MS);
    assert_int_not_equal(harness_raft(harness, 1)->state, RAFT_LEADER);
    harness_run(harness, 5 * SEC);
    assert_true(harness_leader(harness) == 2 || harness_leader(harness) == 3);
    harness_heal(harness);
    harness_run(harness, 3 * SEC);
    expect_progress(harness);
}

static void dead_leader_is_replaced_at_once_when_known(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    harness_crash(harness, 1, true);
    harness_run(harness, 5 * MS); /* its last messages come in before its connections end */
    harness_peer_down(harness, 2, 1);
    harness_peer_down(harness, 3, 1);
    harness_run(harness, 300 * MS);
    assert_int_not_equal(harness_leader(harness), 0);
    expect_progress(harness);
}

static void leadership_is_handed_over(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);
    uint64_t index;

    (void)state;
    assert_true(harness_elect(harness, 1));
    assert_int_equal(harness_transfer(harness, 1, 1), -EINVAL);
    assert_int_equal(harness_transfer(harness, 2, 3), -ESTALE);
    assert_int_equal(harness_propose(harness, 1, 5, &index), 0);
    assert_int_equal(harness_transfer(harness, 1, 3), 0);
    assert_int_equal(harness_propose(harness, 1, 6, &index), -EAGAIN);
    harness_run(harness, 100 * MS); /* no time-out was waited for */
    assert_int_equal(harness_leader(harness), 3);
    expect_progress(harness);

    harness_isolate(harness, 1, true); /* a target that cannot: the leader goes on */
    assert_int_equal(harness_transfer(harness, 3, 1), 0);
    harness_run(harness, 2 * SEC);
    assert_int_equal(harness_leader(harness), 3);
    assert_int_equal(harness_propose(harness, 3, 7, &index), 0); /* and takes proposals again */
    harness_run(harness, SEC);
    assert_int_equal(harness_value_at(harness, index), 7);
}

static void members_come_and_go(void **state)
{
    struct raft_configuration configuration = voters(1);
    cleanup(harness_freep) struct harness *harness = cluster(4, &configuration, 0);

    (void)state;
    harness_run(harness, SEC);
    assert_int_equal(harness_leader(harness), 1);
    for (uint64_t id = 2; id <= 4; id++) {
        assert_int_equal(harness_change(harness, 1, id, RAFT_LEARNER), 0);
        assert_int_equal(harness_change(harness, 1, id, RAFT_VOTER), -EAGAIN); /* one at a time */
        harness_run(harness, 2 * SEC);
        assert_int_equal(harness_change(harness, 1, id, RAFT_VOTER), 0);
        expect_progress(harness);
    }
    assert_true(harness_snapshots_installed(harness) >= 3); /* joiners have no entry 1 */
    assert_int_equal(harness_change(harness, 1, 2, RAFT_VOTER), -EINVAL);
    assert_int_equal(harness_change(harness, 1, 2, RAFT_WITNESS), -EINVAL);

    assert_int_equal(harness_change(harness, 1, 1, RAFT_NO_MEMBER), 0); /* itself */
    harness_run(harness, 300 * MS);
    assert_int_not_equal(harness_leader(harness), 1);
    assert_int_not_equal(harness_leader(harness), 0); /* somebody was asked to stand */
    expect_progress(harness);
}

static void a_removed_node_disturbs_nobody(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);
    uint64_t term;

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    harness_isolate(harness, 3, true); /* it never hears of its removal */
    assert_int_equal(harness_change(harness, 1, 3, RAFT_NO_MEMBER), 0);
    harness_run(harness, 3 * SEC);
    harness_heal(harness);
    term = term_of(harness, 1);
    harness_run(harness, 20 * SEC);
    assert_int_equal(harness_leader(harness), 1);
    assert_int_equal(term_of(harness, 1), term);
    expect_progress(harness);
}

/* A change that is truncated is undone. */
static void truncated_change_is_undone(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(4, &configuration, 0);

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    harness_isolate(harness, 1, true);
    assert_int_equal(harness_change(harness, 1, 4, RAFT_VOTER), 0);
    assert_int_equal(harness_raft(harness, 1)->configuration.count, 4);
    harness_run(harness, 3 * SEC);
    assert_true(harness_leader(harness) != 1);
    harness_heal(harness);
    harness_run(harness, 3 * SEC);
    assert_int_equal(harness_raft(harness, 1)->configuration.count, 3);
    expect_progress(harness);
}

static void a_long_absence_is_mended_by_a_snapshot(void **state)
{
    struct harness_options options = {
        .seed = 3, .nodes = 3, .configuration = voters(3), .compact_every = 10};
    cleanup(harness_freep) struct harness *harness = harness_new(&options);
    uint64_t index;

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_crash(harness, 3, false);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(harness_propose(harness, 1, i, &index), 0);
        harness_run(harness, 20 * MS);
    }
    assert_true(harness_raft(harness, 1)->log.base.index > 50);
    harness_restart(harness, 3);
    harness_run(harness, 6 * SEC);
    assert_int_equal(harness_snapshots_installed(harness), 1);
    expect_progress(harness);
    harness_crash(harness, 3, false);
    harness_restart(harness, 3); /* and what it installed is there after a restart */
    harness_run(harness, SEC);
    expect_progress(harness);
    assert_int_equal(harness_snapshots_installed(harness), 1);
}

static void a_forgetful_node_is_found_out(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);
    uint64_t index;

    (void)state;
    assert_true(harness_elect(harness, 1));
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(harness_propose(harness, 1, i, &index), 0);
    harness_run(harness, SEC);
    harness_crash(harness, 3, false);
    harness_restart(harness, 3); /* an honest restart raises no alarm */
    harness_run(harness, SEC);
    assert_int_equal(harness_lost_reports(harness, 3), 0);
    harness_crash(harness, 3, false);
    harness_forget(harness, 3, index - 3);
    harness_restart(harness, 3);
    harness_run(harness, SEC);
    assert_int_equal(harness_lost_reports(harness, 3), 1);
    assert_int_equal(harness_change(harness, 1, 3, RAFT_NO_MEMBER), 0);
    harness_run(harness, SEC);
    expect_progress(harness);
}

/* Two nodes and a witness: either may die, at any time when both were level, and the other goes on.
 */
static void the_witness_carries_either_survivor(void **state)
{
    struct raft_configuration configuration = two_and_witness();

    (void)state;
    for (uint64_t dead = 1; dead <= 2; dead++) {
        cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 3);

        assert_true(harness_elect(harness, 1));
        harness_run(harness, SEC);
        expect_progress(harness);
        assert_int_equal(harness_messages(harness, RAFT_VOUCH), 0); /* nobody was away */
        harness_crash(harness, dead, false);
        harness_run(harness, 4 * SEC);
        assert_int_equal(harness_leader(harness), 3 - dead);
        expect_progress(harness);
        assert_true(harness_messages(harness, RAFT_VOUCH) > 0);
        harness_restart(harness, dead);
        harness_run(harness, 3 * SEC);
        harness_crash(harness, 3, false); /* both are back: now the witness may die */
        harness_run(harness, SEC);
        expect_progress(harness);
    }
}

/* What was committed with the witness's word alone waits for the node that has it. */
static void the_witness_refuses_the_stale_survivor(void **state)
{
    struct raft_configuration configuration = two_and_witness();
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 3);
    uint64_t index;

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    harness_crash(harness, 2, false);
    harness_run(harness, SEC);
    assert_int_equal(harness_propose(harness, 1, 55, &index), 0);
    harness_run(harness, SEC);
    assert_int_equal(harness_value_at(harness, index), 55); /* on one disk */
    harness_crash(harness, 1, false);
    harness_restart(harness, 2);
    harness_run(harness, 10 * SEC);
    assert_int_equal(harness_leader(harness), 0); /* it lacks 55 */
    harness_restart(harness, 1);
    harness_run(harness, 5 * SEC);
    expect_progress(harness);
}

static void reads_fail_with_the_leadership(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    assert_int_equal(harness_read(harness, 2), -ESTALE);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(harness_read(harness, 1), 0);
    harness_run(harness, 100 * MS);
    assert_int_equal(harness_reads_answered(harness), 10);
    harness_isolate(harness, 1, true);
    assert_int_equal(harness_read(harness, 1), 0);
    harness_run(harness, 5 * SEC);
    assert_int_equal(harness_reads_answered(harness), 10);
    assert_null(harness_violation(harness));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cluster_elects_one_and_keeps_it),
        cmocka_unit_test(a_returning_node_disturbs_nobody),
        cmocka_unit_test(a_cut_off_leader_steps_down),
        cmocka_unit_test(dead_leader_is_replaced_at_once_when_known),
        cmocka_unit_test(leadership_is_handed_over),
        cmocka_unit_test(members_come_and_go),
        cmocka_unit_test(a_removed_node_disturbs_nobody),
        cmocka_unit_test(truncated_change_is_undone),
        cmocka_unit_test(a_long_absence_is_mended_by_a_snapshot),
        cmocka_unit_test(a_forgetful_node_is_found_out),
        cmocka_unit_test(the_witness_carries_either_survivor),
        cmocka_unit_test(the_witness_refuses_the_stale_survivor),
        cmocka_unit_test(reads_fail_with_the_leadership),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
