/* Whose vote counts: clusters that grow, lose nodes one after the other, and get them back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/node/voters.h"

#define NODES_MAX 16

struct cluster {
    size_t count;
    struct voter_candidate nodes[NODES_MAX]; /* the first leads, and never dies */
};

static unsigned votes(const struct cluster *cluster)
{
    unsigned count = 0;

    for (size_t i = 0; i < cluster->count; i++)
        count += cluster->nodes[i].role == RAFT_VOTER;
    return count;
}

/* How many of the voters are there. */
static unsigned living_votes(const struct cluster *cluster)
{
    unsigned count = 0;

    for (size_t i = 0; i < cluster->count; i++)
        count += cluster->nodes[i].role == RAFT_VOTER && !cluster->nodes[i].gone;
    return count;
}

/* Makes change after change, as a leader does, until there is none; each needs a quorum. */
static void settle(struct cluster *cluster)
{
    struct voter_change change;

    for (int i = 0; voters_next_change(cluster->nodes, cluster->count, &change); i++) {
        assert_true(i < 4 * NODES_MAX); /* it goes round in circles */
        assert_true(living_votes(cluster) > votes(cluster) / 2);
        for (size_t j = 0; j < cluster->count; j++) {
            if (cluster->nodes[j].node == change.node)
                cluster->nodes[j].role = change.role;
        }
    }
    assert_true(votes(cluster) <= VOTERS_MAX);
}

static void come(struct cluster *cluster, size_t node)
{
    cluster->nodes[node].ready = node > 0;
    cluster->nodes[node].gone = false;
    settle(cluster);
}

static void go(struct cluster *cluster, size_t node)
{
    cluster->nodes[node].ready = false;
    cluster->nodes[node].gone = true;
    settle(cluster);
}

static struct cluster cluster_of(size_t count)
{
    struct cluster cluster = {.count = count};

    for (size_t i = 0; i < count; i++)
        cluster.nodes[i] = (struct voter_candidate){.node = i + 1, .in_cluster = true};
    cluster.nodes[0].role = RAFT_VOTER;
    for (size_t i = 0; i < count; i++)
        come(&cluster, i);
    return cluster;
}

static void an_odd_number_votes(void **state)
{
    static const unsigned wanted[] = {0, 1, 2, 3, 3, 5, 5, 5};

    (void)state;
    for (size_t count = 1; count < ARRAY_SIZE(wanted); count++) {
        struct cluster cluster = cluster_of(count);

        assert_int_equal(votes(&cluster), wanted[count]);
    }
}

/* One after the other may go until two of three are left, which cannot spare another. */
static void votes_move_from_the_dead_to_the_living(void **state)
{
    (void)state;
    for (size_t count = 4; count <= 7; count++) {
        struct cluster cluster = cluster_of(count);

        for (size_t i = count - 1; i >= 2; i--) {
            go(&cluster, i);
            assert_true(living_votes(&cluster) > votes(&cluster) / 2);
        }
        assert_int_equal(votes(&cluster), VOTERS_MIN);
        for (size_t i = 2; i < count; i++)
            come(&cluster, i);
        assert_int_equal(votes(&cluster), count == 4 ? 3 : 5);
    }
}

static void who_is_only_late_keeps_its_vote(void **state)
{
    struct cluster cluster = cluster_of(5);
    struct voter_change change;

    (void)state;
    cluster.nodes[4].ready = false;
    assert_false(voters_next_change(cluster.nodes, cluster.count, &change));
}

static void who_is_not_in_the_cluster_leaves(void **state)
{
    struct cluster cluster = cluster_of(3);

    (void)state;
    cluster.nodes[2].in_cluster = false;
    settle(&cluster);
    assert_int_equal(cluster.nodes[2].role, RAFT_NO_MEMBER);
    assert_int_equal(votes(&cluster), 2);
}

/* Any order of goings and comings that leaves a quorum alive: it ends, and all votes are used. */
static void random_absences(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 300; seed++) {
        unsigned short random[3] = {(unsigned short)seed, 1, 2};
        struct cluster cluster = cluster_of(2 + seed % (NODES_MAX - 1));

        for (int step = 0; step < 40; step++) {
            size_t node = 1 + (size_t)nrand48(random) % (cluster.count - 1);
            bool spares = living_votes(&cluster) - 1 > votes(&cluster) / 2;

            if (cluster.nodes[node].gone)
                come(&cluster, node);
            else if (cluster.nodes[node].role != RAFT_VOTER || spares)
                go(&cluster, node);
            assert_true(living_votes(&cluster) > votes(&cluster) / 2);
        }
        for (size_t i = 1; i < cluster.count; i++)
            come(&cluster, i);
        assert_int_equal(living_votes(&cluster), votes(&cluster));
        assert_true(votes(&cluster) >= MIN(cluster.count, (size_t)VOTERS_MIN));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_odd_number_votes),
        cmocka_unit_test(votes_move_from_the_dead_to_the_living),
        cmocka_unit_test(who_is_only_late_keeps_its_vote),
        cmocka_unit_test(who_is_not_in_the_cluster_leaves),
        cmocka_unit_test(random_absences),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
