/* Placement: properties over random clusters of up to 64 nodes, and the wishes in small ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "pool/placement.h"

#define NODES_MAX 64
#define DISKS_MAX 512

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

struct cluster {
    struct placement_disk disks[DISKS_MAX];
    size_t count;
    unsigned nodes;
};

static void make_cluster(struct cluster *cluster, uint64_t *seed)
{
    cluster->nodes = 1 + next_random(seed) % NODES_MAX;
    cluster->count = 0;
    for (unsigned node = 1; node <= cluster->nodes; node++) {
        unsigned disks = 1 + next_random(seed) % 8;

        for (unsigned i = 0; i < disks; i++) {
            cluster->disks[cluster->count] = (struct placement_disk){
                .disk = cluster->count + 1,
                .path = {.node = node, .chassis = node / 2, .rack = node / 4, .site = node / 16},
                .extents = 1 + next_random(seed) % 200,
            };
            cluster->count++;
        }
    }
}

static uint64_t domain_of(const struct placement_disk *disk, enum fault_level level)
{
    switch (level) {
    case FAULT_DISK:
        return disk->disk;
    case FAULT_NODE:
        return disk->path.node;
    case FAULT_CHASSIS:
        return disk->path.chassis;
    case FAULT_RACK:
        return disk->path.rack;
    case FAULT_SITE:
        return disk->path.site;
    }
    return 0;
}

/* Domains of the level that still have a disk with room. */
static size_t domains_with_room(const struct cluster *cluster, enum fault_level level)
{
    uint64_t seen[DISKS_MAX];
    size_t count = 0;

    for (size_t i = 0; i < cluster->count; i++) {
        const struct placement_disk *disk = &cluster->disks[i];
        size_t j = 0;

        if (disk->used >= disk->extents)
            continue;
        while (j < count && seen[j] != domain_of(disk, level))
            j++;
        if (j == count)
            seen[count++] = domain_of(disk, level);
    }
    return count;
}

static void check_slab(const struct cluster *cluster, const uint64_t *chosen, unsigned columns,
                       enum fault_level level)
{
    for (unsigned i = 0; i < columns; i++) {
        const struct placement_disk *disk = &cluster->disks[chosen[i] - 1];

        assert_true(disk->used < disk->extents);
        for (unsigned j = 0; j < i; j++)
            assert_int_not_equal(domain_of(&cluster->disks[chosen[j] - 1], level),
                                 domain_of(disk, level));
    }
}

/* A slab is placed exactly as long as enough fault domains have room, and never on two columns of
 * one domain. */
static void random_clusters_fill_up_by_the_rules(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 25; seed++) {
        uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15);
        static struct cluster cluster;
        struct placement_request request = {.columns = 1 + seed % 4, .level = seed % 5};

        make_cluster(&cluster, &random);
        for (request.spread = 0;; request.spread++) {
            uint64_t chosen[4];
            bool possible = domains_with_room(&cluster, request.level) >= request.columns;
            int r;

            request.prefer_node = next_random(&random) % (cluster.nodes + 1);
            r = placement_choose(cluster.disks, cluster.count, &request, chosen);
            assert_int_equal(r, possible ? 0 : -ENOSPC);
            if (r < 0)
                break;
            check_slab(&cluster, chosen, request.columns, request.level);
            for (unsigned i = 0; i < request.columns; i++)
                cluster.disks[chosen[i] - 1].used++;
        }
    }
}

/* Reads are local where the owner has a column. */
static void the_owner_gets_a_column_while_it_has_room(void **state)
{
    struct placement_disk disks[] = {
        {.disk = 1, .path.node = 1, .extents = 10, .used = 1},
        {.disk = 2, .path.node = 2, .extents = 10, .used = 9},
        {.disk = 3, .path.node = 3, .extents = 10, .used = 0},
    };
    struct placement_request request = {.columns = 2, .level = FAULT_NODE, .prefer_node = 2};
    uint64_t chosen[2];

    (void)state;
    assert_int_equal(placement_choose(disks, 3, &request, chosen), 0);
    assert_int_equal(chosen[0], 2);
    assert_int_equal(chosen[1], 3);
    disks[1].used = 10;
    assert_int_equal(placement_choose(disks, 3, &request, chosen), 0);
    assert_int_equal(chosen[0], 3);
    assert_int_equal(chosen[1], 1);
}

/* Disks of different sizes fill together: at any time their shares are close. */
static void disks_of_different_sizes_fill_together(void **state)
{
    struct placement_disk disks[] = {
        {.disk = 1, .path.node = 1, .extents = 100},
        {.disk = 2, .path.node = 1, .extents = 400},
        {.disk = 3, .path.node = 2, .extents = 250},
        {.disk = 4, .path.node = 2, .extents = 250},
    };
    struct placement_request request = {.columns = 2, .level = FAULT_NODE};
    uint64_t chosen[2];

    (void)state;
    for (request.spread = 0; request.spread < 250; request.spread++) {
        assert_int_equal(placement_choose(disks, 4, &request, chosen), 0);
        disks[chosen[0] - 1].used++;
        disks[chosen[1] - 1].used++;
    }
    assert_int_equal(disks[0].used, 50);
    assert_int_equal(disks[1].used, 200);
    assert_int_equal(disks[2].used + disks[3].used, 250);
}

/* A column that is replaced must not land in the domain of one that stays. */
static void columns_that_stay_bar_their_domains(void **state)
{
    struct placement_disk disks[] = {
        {.disk = 1, .path.node = 1, .extents = 10},
        {.disk = 2, .path.node = 1, .extents = 10},
        {.disk = 3, .path.node = 2, .extents = 10},
        {.disk = 4, .path.node = 3, .extents = 10},
    };
    uint64_t taken[] = {1, 3}, chosen[1];
    struct placement_request request = {
        .columns = 1, .level = FAULT_NODE, .taken = taken, .taken_count = 2, .prefer_node = 1};

    (void)state;
    assert_int_equal(placement_choose(disks, 4, &request, chosen), 0);
    assert_int_equal(chosen[0], 4);
    assert_int_equal(placement_choose(disks, 3, &request, chosen), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_clusters_fill_up_by_the_rules),
        cmocka_unit_test(the_owner_gets_a_column_while_it_has_room),
        cmocka_unit_test(disks_of_different_sizes_fill_together),
        cmocka_unit_test(columns_that_stay_bar_their_domains),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
