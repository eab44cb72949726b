/* The lease of a node and the leader's watch over it: together they are what I5 rests on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "s2d/cluster/lease.h"
#include "s2d/cluster/watch.h"

/* A slow answer must not stretch the lease: it counts from the sending. */
static void a_lease_counts_from_the_sending(void **state)
{
    struct lease lease;
    uint64_t seq;

    (void)state;
    lease_init(&lease);
    seq = lease_send(&lease, 1000 * MS);
    assert_int_equal(lease_on_answer(&lease, 2900 * MS, seq, 2000 * MS, 0), 0);
    assert_true(lease_held(&lease, 2999 * MS, 0));
    assert_false(lease_held(&lease, 3000 * MS, 0)); /* 100 ms after the answer, and over */
}

static void answers_that_come_too_late_grant_nothing(void **state)
{
    struct lease lease;
    uint64_t seq;

    (void)state;
    lease_init(&lease);
    seq = lease_send(&lease, 0);
    assert_int_equal(lease_on_answer(&lease, 1500 * MS, seq, 1500 * MS, 0), -ESTALE);
    assert_int_equal(lease_on_answer(&lease, 1, seq + 1, LEASE_NS, 0), -ESTALE);
    assert_int_equal(lease_on_answer(&lease, 1, seq, LEASE_NS + 1, 0), -EPROTO);
    assert_int_equal(lease_on_answer(&lease, 1, seq, LEASE_NS, UINT64_MAX), -EPROTO);
    assert_false(lease_held(&lease, 1, 0));
}

/* After a lapse the database may have moved on: the node owns nothing until it has applied it. */
static void after_a_lapse_the_database_comes_first(void **state)
{
    struct lease lease;

    (void)state;
    lease_init(&lease);
    assert_int_equal(lease_on_answer(&lease, 1 * MS, lease_send(&lease, 0), LEASE_NS, 70), 0);
    assert_false(lease_held(&lease, 2 * MS, 69));
    assert_true(lease_held(&lease, 2 * MS, 70));
    /* renewed in time: no new wait */
    assert_int_equal(
        lease_on_answer(&lease, 1001 * MS, lease_send(&lease, 1000 * MS), LEASE_NS, 99), 0);
    assert_true(lease_held(&lease, 1002 * MS, 70));
    /* it ran out, and came back */
    assert_int_equal(
        lease_on_answer(&lease, 9001 * MS, lease_send(&lease, 9000 * MS), LEASE_NS, 120), 0);
    assert_false(lease_held(&lease, 9002 * MS, 70));
    assert_true(lease_held(&lease, 9002 * MS, 120));
}

/* Whatever is granted and however late it arrives: by the time the watch gives a node up, its lease
 * has run out. */
static void nobody_is_given_up_under_a_lease(void **state)
{
    uint64_t seed = 99;

    (void)state;
    for (int round = 0; round < 2000; round++) {
        uint64_t now_ns = SEC, quorum_ns = SEC;
        struct lease lease;
        struct watch watch;

        lease_init(&lease);
        watch_init(&watch);
        watch_lead(&watch, now_ns, now_ns);
        for (int beat = 0; beat < 10; beat++) {
            uint64_t sent_ns = now_ns, seq = lease_send(&lease, sent_ns), remaining_ns;

            seed = seed * UINT64_C(6364136223846793005) + 1;
            now_ns += (seed >> 33) % (300 * MS); /* on its way to the leader */
            if (seed % 3)
                quorum_ns = now_ns - (seed >> 20) % MIN(now_ns - SEC + 1, 500 * MS);
            remaining_ns = watch_grant(&watch, now_ns, 5, 1, quorum_ns);
            now_ns += (seed >> 40) % (300 * MS); /* and back */
            if (remaining_ns > 0) {
                int r = lease_on_answer(&lease, now_ns, seq, remaining_ns, 0);

                assert_true(r == 0 || r == -ESTALE);
            }
        }
        while (!watch_may_declare_down(&watch, now_ns, 5, 2))
            now_ns += 10 * MS;
        assert_false(lease_held(&lease, now_ns, 0));
        assert_true(now_ns >= lease.expires_ns + LEASE_MARGIN_NS);
    }
}

/* A new leader does not know what its predecessor granted: it waits for all that could be. */
static void a_new_leader_waits_for_old_leases(void **state)
{
    struct watch watch;

    (void)state;
    watch_init(&watch);
    watch_lead(&watch, 10 * SEC, 9 * SEC);
    assert_false(watch_may_declare_down(&watch, 10 * SEC, 5, 2));
    assert_false(watch_may_declare_down(&watch, 9 * SEC + LEASE_NS + LEASE_MARGIN_NS - 1, 5, 2));
    assert_true(watch_may_declare_down(&watch, 9 * SEC + LEASE_NS + LEASE_MARGIN_NS, 5, 2));
}

/* A port that refuses two peers is proof; one peer alone is not, unless it is the only one left. */
static void two_refusals_prove_a_death(void **state)
{
    struct watch watch;

    (void)state;
    watch_init(&watch);
    watch_lead(&watch, SEC, SEC);
    assert_true(watch_grant(&watch, SEC, 5, 1, SEC) > 0);
    watch_refused(&watch, SEC + 1, 5, 1, 1);
    watch_refused(&watch, SEC + 2, 5, 1, 1);
    assert_false(watch_may_declare_down(&watch, SEC + 3, 5, 2));
    assert_true(watch_may_declare_down(&watch, SEC + 3, 5, 1));
    watch_refused(&watch, SEC + 3, 5, 1, 2);
    assert_true(watch_may_declare_down(&watch, SEC + 4, 5, 2));
    /* it speaks: it lives */
    watch_alive(&watch, 5);
    assert_false(watch_may_declare_down(&watch, SEC + 4, 5, 2));
    /* reports of long ago prove nothing */
    watch_refused(&watch, SEC + 5, 5, 1, 1);
    watch_refused(&watch, SEC + 5 + WATCH_PROOF_NS, 5, 1, 2);
    assert_false(watch_proven_dead(&watch, SEC + 6 + WATCH_PROOF_NS, 5, 2));
}

/* Late news of a process that has a successor says nothing about the successor. */
static void reports_name_the_process(void **state)
{
    struct watch watch;

    (void)state;
    watch_init(&watch);
    watch_lead(&watch, SEC, SEC);
    assert_true(watch_grant(&watch, SEC, 5, 2, SEC) > 0);
    watch_refused(&watch, SEC + 1, 5, 1, 1);
    watch_refused(&watch, SEC + 1, 5, 1, 2);
    assert_false(watch_proven_dead(&watch, SEC + 2, 5, 2));
}

/* The command that declares a node down may be committed late: from the decision on that process
 * gets no lease, or it would serve beside its successor. */
static void who_is_given_up_gets_no_lease(void **state)
{
    struct watch watch;

    (void)state;
    watch_init(&watch);
    watch_lead(&watch, SEC, SEC);
    assert_true(watch_grant(&watch, SEC, 5, 1, SEC) > 0);
    assert_true(watch_may_declare_down(&watch, 4 * SEC, 5, 2));
    watch_decide_down(&watch, 5, 1, "silent");
    assert_int_equal(watch_grant(&watch, 4 * SEC, 5, 1, 4 * SEC), 0); /* it was only slow */
    assert_true(watch_may_declare_down(&watch, 4 * SEC, 5, 2));
    /* its successor is another matter, and so is it itself once the database has said it */
    assert_true(watch_grant(&watch, 4 * SEC, 5, 2, 4 * SEC) > 0);
    watch_decide_down(&watch, 5, 2, "silent");
    watch_settle(&watch, 5 * SEC, 5);
    assert_true(watch_grant(&watch, 5 * SEC, 5, 2, 5 * SEC) > 0);
}

/* The same for a process that this leader has never granted anything: its first heartbeat comes
 * while the decision about it, or about its predecessor, is on its way to be committed. */
static void who_is_given_up_unheard_gets_no_lease(void **state)
{
    struct watch watch;

    (void)state;
    watch_init(&watch);
    watch_lead(&watch, SEC, SEC);
    assert_true(watch_may_declare_down(&watch, 4 * SEC, 5, 2));
    watch_decide_down(&watch, 5, 7, "silent");
    assert_int_equal(watch_grant(&watch, 4 * SEC, 5, 7, 4 * SEC), 0);
    assert_true(watch_grant(&watch, 4 * SEC, 5, 8, 4 * SEC) > 0);

    assert_true(watch_grant(&watch, 4 * SEC, 6, 1, 4 * SEC) > 0);
    watch_decide_down(&watch, 6, 2, "silent");
    assert_int_equal(watch_grant(&watch, 5 * SEC, 6, 2, 5 * SEC), 0);
}

/* What was decided or proven of a process is no reason to give its successor up. */
static void a_successor_begins_anew(void **state)
{
    struct watch watch;

    (void)state;
    watch_init(&watch);
    watch_lead(&watch, SEC, SEC);
    assert_true(watch_grant(&watch, SEC + 1, 5, 1, SEC) > 0);
    watch_refused(&watch, 4 * SEC, 5, 1, 1);
    watch_refused(&watch, 4 * SEC, 5, 1, 2);
    watch_decide_down(&watch, 5, 1, "silent");
    watch_started(&watch, 4 * SEC, 5, 1); /* the database names nobody else yet */
    assert_non_null(watch_down_reason(&watch, 5));
    assert_true(watch_proven_dead(&watch, 4 * SEC, 5, 2));
    watch_started(&watch, 4 * SEC, 5, 2);
    assert_null(watch_down_reason(&watch, 5));
    assert_false(watch_may_declare_down(&watch, 4 * SEC, 5, 2));
    assert_true(watch_may_declare_down(&watch, 4 * SEC + LEASE_NS + LEASE_MARGIN_NS, 5, 2));
}

/* A node that was down and is up again was silent for long, of course: that is not held against it,
 * or it would be declared down at once, over and over, before its first heartbeat. */
static void who_comes_back_has_time_to_be_heard(void **state)
{
    struct watch watch;

    (void)state;
    watch_init(&watch);
    watch_lead(&watch, SEC, SEC);
    assert_true(watch_grant(&watch, SEC, 5, 1, SEC) > 0);
    assert_true(watch_may_declare_down(&watch, 4 * SEC, 5, 2));
    watch_decide_down(&watch, 5, 1, "silent");
    watch_settle(&watch, 60 * SEC, 5); /* the last look while the database says that it is down */
    assert_false(watch_may_declare_down(&watch, 60 * SEC + 100 * MS, 5, 2));
    assert_true(watch_may_declare_down(&watch, 60 * SEC + LEASE_NS + LEASE_MARGIN_NS, 5, 2));
    watch_settle(&watch, 60 * SEC, 6); /* it went down under another leader */
    assert_false(watch_may_declare_down(&watch, 60 * SEC + 100 * MS, 6, 2));
    assert_true(watch_may_declare_down(&watch, 60 * SEC + LEASE_NS + LEASE_MARGIN_NS, 6, 2));
}

/* Whoever never spoke with a new leader gets the time to do so, however long there was none. But no
 * more than that: while a silent node's leases are waited for, it has its time already. */
static void a_new_leader_gives_strangers_time(void **state)
{
    struct watch watch;

    (void)state;
    watch_init(&watch);
    watch_lead(&watch, 100 * SEC, 20 * SEC);
    assert_int_equal(watch_down_at_ns(&watch, 5), 100 * SEC + WATCH_HEAR_NS);
    assert_false(watch_may_declare_down(&watch, 100 * SEC + WATCH_HEAR_NS - 1, 5, 2));
    assert_true(watch_may_declare_down(&watch, 100 * SEC + WATCH_HEAR_NS, 5, 2));
}

/* An earlier leadership's grants run on. */
static void a_leader_remembers_what_it_granted(void **state)
{
    struct watch watch;

    (void)state;
    watch_init(&watch);
    watch_lead(&watch, 10 * SEC, 9 * SEC);
    assert_true(watch_grant(&watch, 20 * SEC, 5, 1, 20 * SEC) > 0);
    watch_unlead(&watch);
    watch_lead(&watch, 20 * SEC + 1, 9 * SEC);
    assert_false(watch_may_declare_down(&watch, 20 * SEC + LEASE_NS + LEASE_MARGIN_NS - 1, 5, 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lease_counts_from_the_sending),
        cmocka_unit_test(answers_that_come_too_late_grant_nothing),
        cmocka_unit_test(after_a_lapse_the_database_comes_first),
        cmocka_unit_test(nobody_is_given_up_under_a_lease),
        cmocka_unit_test(a_new_leader_waits_for_old_leases),
        cmocka_unit_test(two_refusals_prove_a_death),
        cmocka_unit_test(reports_name_the_process),
        cmocka_unit_test(who_is_given_up_gets_no_lease),
        cmocka_unit_test(who_is_given_up_unheard_gets_no_lease),
        cmocka_unit_test(a_successor_begins_anew),
        cmocka_unit_test(who_comes_back_has_time_to_be_heard),
        cmocka_unit_test(a_new_leader_gives_strangers_time),
        cmocka_unit_test(a_leader_remembers_what_it_granted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
