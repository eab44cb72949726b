/* Clones: what the two sides of one promise each other, and what they cost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <time.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "fs-refs-lite/fs_format.h"
#include "tests/unit/fs_harness.h"

#define VOLUME (64 * MIB)
#define TIB ((uint64_t)1 << 40)

static struct fs_inode *make_file(struct world *world, const char *path, uint64_t length,
                                  uint64_t seed)
{
    struct fs_inode *inode;

    check_int(co_create(world, path), 0);
    inode = co_must_open(world, path);
    check_int(co_write_pattern(inode, 0, length, seed), 0);
    return inode;
}

static struct fs_inode *clone_file(struct world *world, struct fs_inode *from, const char *name)
{
    struct fs_inode *root = co_must_open(world, ""), *inode;

    check_int(co_fs_clone_file(from, root, name, FS_NO_REQUEST, &inode), 0);
    fs_inode_put(root);
    return inode;
}

static uint64_t free_bytes(struct world *world)
{
    struct fs_statfs statfs;

    check_int(co_fs_statfs(world->fs, &statfs), 0);
    return statfs.free_bytes;
}

/* [offset, offset + length) shows the pattern of seed; 0: zeros. */
static void check_pattern(struct fs_inode *inode, uint64_t offset, uint64_t length, uint64_t seed)
{
    uint8_t *data = malloc(length);
    uint64_t got;

    check(data);
    check_int(co_fs_read(inode, data, offset, length, &got), 0);
    check_int(got, length);
    for (uint64_t i = 0; i < length; i++)
        check_int(data[i], seed ? pattern_byte(seed, offset + i) : 0);
    free(data);
}

/* ---- neither side ever sees the other's writes ---- */

static void co_sides_are_apart(struct world *world)
{
    static const uint64_t size = 2 * MIB;
    struct fs_inode *from, *to;

    co_world_fresh(world);
    from = make_file(world, "from", size, 1);
    to = clone_file(world, from, "to");
    check_pattern(to, 0, size, 1);

    /* Within a block, a whole block, across clusters, zeros, a hole, cut off and grown again. */
    check_int(co_write_pattern(to, 100, 50, 2), 0);
    check_int(co_write_pattern(to, 128 * KIB, BLOCK_SIZE, 2), 0);
    check_int(co_write_pattern(from, 250 * KIB, 300 * KIB, 3), 0);
    check_int(co_fs_zero(to, MIB, 64 * KIB), 0);
    check_int(co_fs_zero(from, MIB + 100 * KIB + 10, 9000), 0);
    check_int(co_fs_punch(from, MIB + 200 * KIB, 64 * KIB), 0);
    check_int(co_fs_truncate(to, size - 5000, FS_NO_REQUEST), 0);
    check_int(co_fs_truncate(to, size, FS_NO_REQUEST), 0);
    for (unsigned i = 0; i < 2; i++) {
        check_pattern(to, 0, 100, 1);
        check_pattern(to, 100, 50, 2);
        check_pattern(to, 150, 128 * KIB - 150, 1);
        check_pattern(to, 128 * KIB, BLOCK_SIZE, 2);
        check_pattern(to, 132 * KIB, MIB - 132 * KIB, 1);
        check_pattern(to, MIB, 64 * KIB, 0);
        check_pattern(to, MIB + 64 * KIB, MIB - 64 * KIB - 5000, 1);
        check_pattern(to, size - 5000, 5000, 0);
        check_pattern(from, 0, 250 * KIB, 1);
        check_pattern(from, 250 * KIB, 300 * KIB, 3);
        check_pattern(from, 550 * KIB, MIB + 100 * KIB + 10 - 550 * KIB, 1);
        check_pattern(from, MIB + 100 * KIB + 10, 9000, 0);
        check_pattern(from, MIB + 200 * KIB, 64 * KIB, 0);
        check_pattern(from, MIB + 264 * KIB, MIB - 264 * KIB, 1);
        fs_inode_put(from);
        fs_inode_put(to);
        if (i == 0)
            co_world_crash(world);
        if (i == 0)
            co_world_mount(world);
        co_world_check(world);
        from = co_must_open(world, "from");
        to = co_must_open(world, "to");
    }
    fs_inode_put(from);
    fs_inode_put(to);
    co_world_done(world);
}

static void sides_are_apart(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_sides_are_apart);
}

/* ---- what a first write costs: its cluster, once; and the last one alone writes in place ---- */

static void co_writes_replace_a_cluster(struct world *world)
{
    const struct fs_counters *counters;
    struct fs_inode *from, *to, *root;
    uint64_t records;

    co_world_fresh(world);
    counters = fs_counters(world->fs);
    from = make_file(world, "from", 2 * MIB, 1);
    to = clone_file(world, from, "to");
    check_int(co_write_pattern(to, 640 * KIB + 8192, BLOCK_SIZE, 2), 0);
    check_int(counters->replaced_blocks, 16);
    check_int(co_write_pattern(to, 640 * KIB, 64 * KIB, 2), 0);
    check_int(counters->replaced_blocks, 16); /* its own by now */

    root = co_must_open(world, "");
    fs_inode_put(to);
    check_int(co_fs_unlink(root, "to", FS_NO_REQUEST), 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    check_int(co_write_pattern(from, 0, BLOCK_SIZE, 3), 0); /* takes the mark off */
    records = counters->journal_records;
    for (unsigned i = 0; i < 10; i++)
        check_int(co_write_pattern(from, i * 8 * KIB, BLOCK_SIZE, 3), 0);
    check_int(counters->journal_records, records);
    check_int(counters->replaced_blocks, 16);
    fs_inode_put(root);
    fs_inode_put(from);
    co_world_done(world);
}

static void writes_replace_a_cluster(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_writes_replace_a_cluster);
}

/* ---- who is left alone with a block may write there when that is durable, not before ---- */

static void co_unlink_to(void *arg)
{
    (void)co_unlink(arg, "to"); /* the power goes meanwhile */
}

static void co_alone_is_durable(struct world *world)
{
    struct co_group group;
    struct fs_inode *from, *to;

    world->ram.delay_max = 3;
    co_world_fresh(world);
    from = make_file(world, "from", 64 * KIB, 1);
    fs_inode_put(clone_file(world, from, "to"));
    check_int(co_fs_checkpoint(world->fs), 0);
    world->ram.cut_after = world->ram.writes + world->ram.trims + 1;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "unlink", co_unlink_to, world), 0);
    co_yield ();
    (void)co_write_pattern(from, 0, BLOCK_SIZE, 2);
    co_group_wait(&group);
    fs_inode_put(from);
    co_world_crash(world);
    co_world_mount(world);
    if (co_open(world, "to", &to) == 0) {
        check_pattern(to, 0, 64 * KIB, 1);
        fs_inode_put(to);
    }
    co_world_done(world);
}

static void alone_is_durable(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++)
        world_run(VOLUME, seed, co_alone_is_durable);
}

/* ---- space: none for a clone, all of it back after the last ---- */

static void co_space_comes_back(struct world *world)
{
    static const char *const names[] = {"a", "b", "c"};
    struct fs_inode *from, *clones[ARRAY_SIZE(names)];
    uint64_t empty, before;

    co_world_fresh(world);
    check_int(co_fs_checkpoint(world->fs), 0);
    empty = free_bytes(world);
    from = make_file(world, "from", 8 * MIB, 1);
    before = free_bytes(world);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        clones[i] = clone_file(world, from, names[i]);
    check(before - free_bytes(world) < 100 * KIB); /* tree nodes */
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        check_int(co_write_pattern(clones[i], i * MIB, MIB, 2), 0);
        fs_inode_put(clones[i]);
    }
    check(before - free_bytes(world) >= 3 * MIB);
    check(before - free_bytes(world) < 3 * MIB + 100 * KIB);
    fs_inode_put(from);
    check_int(co_unlink(world, "from"), 0);
    check_int(co_unlink(world, "a"), 0);
    check_int(co_unlink(world, "b"), 0);
    co_world_check(world);
    check(empty - free_bytes(world) >= 8 * MIB); /* c has it all */
    check_int(co_unlink(world, "c"), 0);
    co_world_remount(world);
    check(empty - free_bytes(world) < 100 * KIB);
    co_world_done(world);
}

static void space_comes_back(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_space_comes_back);
}

/* ---- one block, so many times that no small counter holds it ---- */

#define MANY 70000

static void co_counts_are_large(struct world *world)
{
    struct fs_inode *from, *to, *more;

    co_world_fresh(world);
    from = make_file(world, "from", BLOCK_SIZE, 1);
    check_int(co_create(world, "to"), 0);
    to = co_must_open(world, "to");
    check_int(co_fs_clone_range(from, 0, to, 0, BLOCK_SIZE, FS_NO_REQUEST), 0);
    for (uint64_t blocks = 1; blocks < MANY; blocks *= 2) /* doubles itself */
        check_int(
            co_fs_clone_range(to, 0, to, blocks * BLOCK_SIZE, blocks * BLOCK_SIZE, FS_NO_REQUEST),
            0);
    more = clone_file(world, to, "more");
    co_world_check(world);
    fs_inode_put(more);
    fs_inode_put(to);
    check_int(co_unlink(world, "to"), 0);
    check_int(co_unlink(world, "more"), 0);
    fs_inode_put(from);
    co_world_done(world);
}

static void counts_are_large(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_counts_are_large);
}

/* ---- what is refused, and what a repeat does ---- */

static void co_rules(struct world *world)
{
    struct fs_request request = {.session = 7, .slot = 1, .sequence = 1};
    struct fs_inode *from, *to, *root;

    co_world_fresh(world);
    root = co_must_open(world, "");
    from = make_file(world, "from", 10000, 1);
    to = make_file(world, "to", 20000, 2);
    check_int(co_fs_clone_range(from, 1, to, 0, 4096, FS_NO_REQUEST), -EINVAL);
    check_int(co_fs_clone_range(from, 0, to, 5, 4096, FS_NO_REQUEST), -EINVAL);
    check_int(co_fs_clone_range(from, 0, to, 0, 5000, FS_NO_REQUEST), -EINVAL);
    check_int(co_fs_clone_range(from, 0, to, 0, 10000, FS_NO_REQUEST), -EINVAL); /* its tail */
    check_int(co_fs_clone_range(from, 4096, to, 0, 8192, FS_NO_REQUEST), -EINVAL);
    check_int(co_fs_clone_range(to, 0, to, 4096, 8192, FS_NO_REQUEST), -EINVAL);
    check_int(co_fs_clone_range(root, 0, to, 0, 4096, FS_NO_REQUEST), -EISDIR);
    check_int(co_fs_clone_file(from, root, "to", FS_NO_REQUEST, NULL), -EEXIST);
    check_pattern(to, 0, 20000, 2);

    check_int(co_fs_clone_range(from, 0, to, 20480, 10000, request), 0);
    check_pattern(to, 20000, 480, 0);
    check_int(co_write_pattern(to, 20480, 4096, 3), 0);
    check_int(co_fs_clone_range(from, 0, to, 20480, 10000, request), 0); /* answered, not run */
    check_pattern(to, 20480, 4096, 3);
    request.sequence++;
    check_int(co_fs_clone_file(from, root, "new", request, NULL), 0);
    check_int(co_fs_clone_file(from, root, "new", request, NULL), 0);
    fs_inode_put(from);
    fs_inode_put(to);
    fs_inode_put(root);
    co_world_done(world);
}

static void rules(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_rules);
}

/* ---- damage ---- */

static unsigned problems;

static void report(void *arg, const char *line)
{
    (void)arg;
    (void)line;
    problems++;
}

static struct fs_node *refs_leaf(struct world *world)
{
    struct fs_node *newest = NULL;

    for (uint64_t block = 0; block < VOLUME / BLOCK_SIZE; block++) {
        struct fs_node *node = (struct fs_node *)(world->ram.memory + block * BLOCK_SIZE);

        if (node->header.magic == FS_NODE_MAGIC && node->tree == FS_TREE_REFS && node->level == 0 &&
            (!newest || node->header.generation > newest->header.generation))
            newest = node;
    }
    check(newest);
    return newest;
}

static unsigned co_problems(struct world *world)
{
    struct fs_check_result result;

    problems = 0;
    check_int(co_fs_check(world->fs, report, NULL, &result), 0);
    check_int(problems, result.problems);
    return problems;
}

/* A wrong count is found, whichever way it is wrong. */
static void co_planted_counts(struct world *world)
{
    static const uint64_t counts[] = {2, 4};
    struct fs_inode *from;

    co_world_fresh(world);
    from = make_file(world, "from", MIB, 1);
    fs_inode_put(clone_file(world, from, "a"));
    fs_inode_put(clone_file(world, from, "b"));
    fs_inode_put(from);
    co_world_unmount(world);
    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        struct fs_node *leaf = refs_leaf(world);
        struct fs_ref_item *item = (struct fs_ref_item *)((char *)leaf + leaf->items[0].value_at);

        check_int(item->count, 3);
        item->count = counts[i];
        seal_block(leaf);
        co_world_mount(world);
        check_int(co_problems(world), 1);
        item->count = 3;
        seal_block(leaf);
        co_world_crash(world);
    }
    co_world_mount(world);
    co_world_done(world);
}

/* A damaged node of the refs tree costs space, never data: all files are read, written, removed. */
static void co_damaged_counts(struct world *world)
{
    struct fs_inode *from, *to;

    co_world_fresh(world);
    from = make_file(world, "from", 2 * MIB, 1);
    to = clone_file(world, from, "to");
    fs_inode_put(from);
    fs_inode_put(to);
    co_world_unmount(world);
    ((char *)refs_leaf(world))[100] ^= 1;
    co_world_mount(world);
    check(co_problems(world) > 0);
    from = co_must_open(world, "from");
    to = co_must_open(world, "to");
    check_pattern(to, 0, 2 * MIB, 1);
    check_int(co_write_pattern(to, 5000, 5000, 2), 0);
    check_int(co_write_pattern(from, 9000, 70000, 3), 0);
    check_pattern(to, 0, 5000, 1);
    check_pattern(to, 5000, 5000, 2);
    check_pattern(to, 10000, 2 * MIB - 10000, 1);
    check_pattern(from, 9000, 70000, 3);
    fs_inode_put(from);
    check_int(co_unlink(world, "from"), 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    check_pattern(to, 10000, 2 * MIB - 10000, 1);
    fs_inode_put(to);
    check_int(co_unlink(world, "to"), 0);
    co_world_unmount(world);
}

static void checker_counts_references(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_planted_counts);
}

static void damaged_counts_cost_space_only(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_damaged_counts);
}

/* ---- a terabyte ---- */

static void co_terabyte(struct world *world)
{
    struct fs_inode *from, *to;
    struct fs_attr attr;
    struct timespec start, end;
    uint64_t writes;
    double seconds;

    co_world_fresh(world);
    check_int(co_create(world, "from"), 0);
    from = co_must_open(world, "from");
    check_int(co_fs_allocate(from, 0, TIB, 0), 0);
    check_int(co_write_pattern(from, TIB - 10000, 10000, 1), 0);
    writes = fs_counters(world->fs)->journal_writes;
    clock_gettime(CLOCK_MONOTONIC, &start);
    to = clone_file(world, from, "to");
    clock_gettime(CLOCK_MONOTONIC, &end);
    seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    check_int(co_fs_getattr(to, &attr), 0);
    check_int(attr.allocated_bytes, TIB);
    check_pattern(to, TIB - 10000, 10000, 1);
    writes = fs_counters(world->fs)->journal_writes - writes;
    fprintf(stderr, "a terabyte cloned in %.3f s: %llu extents, %llu journal writes\n", seconds,
            (unsigned long long)fs_counters(world->fs)->cloned_extents, (unsigned long long)writes);
    /* Not a timed test: extents and writes are what it costs. */
    check(fs_counters(world->fs)->cloned_extents < 20000);
    check(writes < 200);
    fs_inode_put(from);
    fs_inode_put(to);
    check_int(co_unlink(world, "from"), 0);
    co_world_unmount(world);
}

static void terabyte_is_metadata_only(void **state)
{
    (void)state;
    world_run(TIB + TIB / 8, 1, co_terabyte);
}

/* ---- a range is cloned while somebody writes to another part of the same extent ---- */

struct clone_race {
    struct world *world;
    struct fs_inode *from, *to;
    uint64_t to_offset;
    bool is_done;
};

static void co_clone_second_half(void *arg)
{
    struct clone_race *race = arg;

    check_int(co_fs_clone_range(race->from, 512 * KIB, race->to, race->to_offset, 512 * KIB,
                                FS_NO_REQUEST),
              0);
    race->is_done = true;
}

/* The clone has marked the extent and has yet to read its target's: then a writer that finds nobody
 * else in it would take the mark off again, and what comes later would go in place, into the clone.
 */
static void co_range_and_its_extent(struct world *world)
{
    struct clone_race race = {.world = world, .to_offset = 50 * MIB};
    struct co_group group;

    co_world_fresh(world);
    race.from = make_file(world, "from", MIB, 1);
    race.to = make_file(world, "to", BLOCK_SIZE, 2);
    for (uint64_t at = 0; at <= 400; at++) /* extents of several leaves */
        check_int(co_write_pattern(race.to, MIB + at * 128 * KIB, BLOCK_SIZE, 2), 0);
    fs_inode_put(race.from);
    fs_inode_put(race.to);
    co_world_remount(world);
    race.from = co_must_open(world, "from");
    race.to = co_must_open(world, "to");

    world->ram.delay_max = 20;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "clone", co_clone_second_half, &race), 0);
    while (!race.is_done) {
        check_int(co_write_pattern(race.from, 0, BLOCK_SIZE, 3), 0);
        co_yield ();
    }
    co_group_wait(&group);
    world->ram.delay_max = 0;
    check_int(co_write_pattern(race.from, 600 * KIB, 64 * KIB, 4), 0);
    check_pattern(race.from, 600 * KIB, 64 * KIB, 4);
    for (uint64_t i = 0; i < 512 * KIB; i += BLOCK_SIZE) {
        uint8_t data[BLOCK_SIZE];
        uint64_t got;

        check_int(co_fs_read(race.to, data, race.to_offset + i, BLOCK_SIZE, &got), 0);
        check_int(data[0], pattern_byte(1, 512 * KIB + i));
    }
    fs_inode_put(race.from);
    fs_inode_put(race.to);
    co_world_done(world);
}

static void range_and_its_extent(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++)
        world_run(VOLUME, seed, co_range_and_its_extent);
}

/* ---- what others do to the counts of a run while its replacement is written is no error ---- */

struct one_write {
    struct fs_inode *inode;
    uint64_t offset, length, seed;
    int result;
};

static void co_write_one(void *arg)
{
    struct one_write *write = arg;

    write->result = co_write_pattern(write->inode, write->offset, write->length, write->seed);
}

#define HOLES 100 /* more than one record can give back */

static void co_counts_change_meanwhile(struct world *world)
{
    static const uint64_t size = 900 * KIB; /* not filled by clusters */
    struct fs_inode *from, *to;
    struct one_write writes[HOLES + 1];
    struct co_group group;

    co_world_fresh(world);
    from = make_file(world, "from", size, 1);
    to = clone_file(world, from, "to");
    world->ram.slow_from = 1;
    world->ram.slow_turns = 10;
    co_group_init(&group);
    for (unsigned i = 0; i <= HOLES; i++) {
        writes[i] = i < HOLES
                        ? (struct one_write){to, (uint64_t)i * 2 * BLOCK_SIZE, BLOCK_SIZE, 2, 0}
                        : (struct one_write){from, 0, size, 3, 0};
        check_int(co_group_spawn(&group, world->io, "write", co_write_one, &writes[i]), 0);
    }
    co_group_wait(&group);
    world->ram.slow_from = 0;
    for (unsigned i = 0; i <= HOLES; i++)
        check_int(writes[i].result, 0);
    check_pattern(from, 0, size, 3);
    for (unsigned i = 0; i < HOLES; i++) {
        check_pattern(to, (uint64_t)i * 2 * BLOCK_SIZE, BLOCK_SIZE, 2);
        check_pattern(to, (uint64_t)(i * 2 + 1) * BLOCK_SIZE, BLOCK_SIZE, 1);
    }
    fs_inode_put(from);
    fs_inode_put(to);
    co_world_done(world);
}

static void counts_change_meanwhile(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_counts_change_meanwhile);
}

/* ---- a hole is cloned over the end of an extent, and what follows lies behind that end ---- */

static void co_hole_over_an_end(struct world *world)
{
    struct fs_inode *from, *to;

    co_world_fresh(world);
    from = make_file(world, "from", 160 * KIB, 1);
    check_int(co_create(world, "to"), 0);
    to = co_must_open(world, "to");
    check_int(co_fs_clone_range(from, 0, to, 0, 92 * KIB, FS_NO_REQUEST), 0);
    check_int(co_fs_punch(from, 80 * KIB, 12 * KIB), 0);
    check_int(co_fs_clone_range(from, 80 * KIB, to, 80 * KIB, 40 * KIB, FS_NO_REQUEST), 0);
    check_pattern(to, 0, 80 * KIB, 1);
    check_pattern(to, 80 * KIB, 12 * KIB, 0);
    check_pattern(to, 92 * KIB, 28 * KIB, 1);
    fs_inode_put(from);
    fs_inode_put(to);
    co_world_done(world);
}

static void hole_over_an_end(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_hole_over_an_end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sides_are_apart),
        cmocka_unit_test(writes_replace_a_cluster),
        cmocka_unit_test(alone_is_durable),
        cmocka_unit_test(space_comes_back),
        cmocka_unit_test(counts_are_large),
        cmocka_unit_test(rules),
        cmocka_unit_test(checker_counts_references),
        cmocka_unit_test(damaged_counts_cost_space_only),
        cmocka_unit_test(terabyte_is_metadata_only),
        cmocka_unit_test(range_and_its_extent),
        cmocka_unit_test(counts_change_meanwhile),
        cmocka_unit_test(hole_over_an_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
