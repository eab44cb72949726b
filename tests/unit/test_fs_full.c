/* Full pools below a thin volume: what needs a slab that nobody has is refused, cleanly; all else
 * goes on, and most of all what gives space back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs-refs-lite/alloc_private.h"
#include "fs-refs-lite/fs_internal.h"
#include "s2d/base/co.h"
#include "tests/unit/fs_harness.h"

#define WORKERS 8

/* A worker makes names one after the other, and removes them in the same order. */
struct worker {
    struct world *world;
    unsigned number;
    unsigned made, removed; /* acknowledged */
    unsigned remove_end;
    int result;
};

static struct worker workers[WORKERS];

static int co_do_to_name(const struct worker *worker, unsigned index,
                         int (*co_do)(struct world *world, const char *path))
{
    char path[80];

    snprintf(path, sizeof(path), "name-%02u-%050u", worker->number, index);
    return co_do(worker->world, path);
}

static void co_make(void *arg)
{
    struct worker *worker = arg;

    for (; (worker->result = co_do_to_name(worker, worker->made, co_create)) == 0; worker->made++)
        continue;
}

static void co_remove(void *arg)
{
    struct worker *worker = arg;

    worker->result = 0;
    for (; worker->removed < worker->remove_end && worker->result == 0; worker->removed++) {
        worker->result = co_do_to_name(worker, worker->removed, co_unlink);
        if (worker->result < 0)
            break;
    }
}

/* Returns what all of them ended with; they agree, if the power was not cut. */
static int co_all(struct world *world, void (*co_main)(void *arg))
{
    struct co_group group;

    co_group_init(&group);
    for (unsigned i = 0; i < WORKERS; i++)
        check_int(co_group_spawn(&group, world->io, "worker", co_main, &workers[i]), 0);
    co_group_wait(&group);
    for (unsigned i = 0; i < WORKERS; i++) {
        if (workers[i].result == -ESTALE)
            return -ESTALE;
    }
    for (unsigned i = 1; i < WORKERS; i++)
        check_int(workers[i].result, workers[0].result);
    return workers[0].result;
}

/* of: a part of the names that there are, 1: all. */
static int co_remove_part(struct world *world, unsigned of)
{
    for (unsigned i = 0; i < WORKERS; i++)
        workers[i].remove_end = workers[i].removed + (workers[i].made - workers[i].removed) / of;
    return co_all(world, co_remove);
}

static void workers_new(struct world *world)
{
    for (unsigned i = 0; i < WORKERS; i++)
        workers[i] = (struct worker){.world = world, .number = i};
}

/* A new file system, in a pool that has little more than it begins with. */
static void co_begin(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB};

    workers_new(world);
    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    world->ram.slabs = 4;
}

/* Tree nodes need room in a full pool, too: new names are refused before there is none for those
 * of a checkpoint, which would fail for ever then, and with it every delete and the next mount. */
static void co_names(struct world *world)
{
    unsigned made;

    co_begin(world);
    check_int(co_all(world, co_make), -ENOSPC);
    check(workers[0].made > 100);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_world_check(world);
    check_int(co_remove_part(world, 20), 0);
    co_world_crash(world);
    co_world_mount(world); /* the pool is as full as it was */
    co_world_check(world);
    check_int(co_remove_part(world, 2), 0);
    co_world_remount(world);
    made = workers[0].made;
    check_int(co_all(world, co_make), -ENOSPC); /* where nodes have gone is room for others */
    check(workers[0].made > made + 100);
    made = workers[0].made;
    world->ram.slabs = 3;
    check_int(co_all(world, co_make), -ENOSPC);
    check(workers[0].made > made + 100);
    check_int(co_remove_part(world, 1), 0);
    co_world_done(world);
}

static void names_find_a_full_pool(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++)
        world_run(12 * GIB, seed, co_names);
}

/* The power goes at a write of such a run: the volume mounts, without a slab more, and is sound;
 * what was acknowledged is there, and all of it can be deleted. */
static uint64_t cut; /* 0: never */
static uint64_t cut_total;

static int co_fill_and_free(struct world *world)
{
    int r = co_all(world, co_make);

    if (r == -ENOSPC)
        r = co_fs_checkpoint(world->fs);
    if (r == 0)
        r = co_remove_part(world, 3);
    if (r == 0)
        r = co_all(world, co_make);
    if (r == -ENOSPC)
        r = co_remove_part(world, 2);
    return r == 0 ? co_fs_checkpoint(world->fs) : r;
}

/* What was under way may have happened. */
static void co_remove_what_is_left(struct worker *worker)
{
    for (unsigned i = worker->removed; i <= worker->made; i++) {
        int r = co_do_to_name(worker, i, co_unlink);

        if (r != -ENOENT || (i != worker->removed && i != worker->made))
            check_int(r, 0);
    }
}

static void co_cut(struct world *world)
{
    int r;

    world->which = cut;
    world->ram.random += cut;
    co_begin(world);
    world->ram.delay_max = 2;
    cut_total = world->ram.writes + world->ram.trims;
    if (cut)
        world->ram.cut_after = cut_total + cut - 1;
    r = co_fill_and_free(world);
    check_int(r, world->ram.is_cut ? -ESTALE : 0); /* not all runs are of the same length */
    cut_total = world->ram.writes + world->ram.trims - cut_total;
    co_world_crash_twice(world, 1 + cut % 9);
    co_world_check(world);
    for (unsigned i = 0; i < WORKERS; i++)
        co_remove_what_is_left(&workers[i]);
    co_world_done(world);
}

static void power_cut_in_a_full_pool(void **state)
{
    (void)state;
    cut = 0;
    world_run(600 * MIB, 1, co_cut);
    for (uint64_t n = 1, total = cut_total; n <= total; n += 1 + total / 40) {
        cut = n;
        world_run(600 * MIB, n, co_cut);
    }
}

/* Names and data want the same slabs, and get those that either gives back. Whatever is full,
 * deleting and checkpoints are not refused; in the end all of it is there again. */
#define TURNS 30

struct filler {
    struct world *world;
    unsigned refused, made;
};

static void co_fill_and_truncate(void *arg)
{
    struct filler *filler = arg;
    struct ram_vdisk *ram = &filler->world->ram;
    struct fs_inode *inode;

    check_int(co_create(filler->world, "data"), 0);
    inode = co_must_open(filler->world, "data");
    for (unsigned turn = 0; turn < TURNS; turn++) {
        uint64_t bytes = ram_vdisk_random(ram) % (12 * MIB) / BLOCK_SIZE * BLOCK_SIZE;
        int r = 0;

        for (uint64_t at = 0; at < bytes && r == 0; at += 64 * KIB)
            r = co_write_pattern(inode, at, 64 * KIB, 1);
        check(r == 0 || r == -ENOSPC);
        filler->refused += r != 0;
        filler->made += r == 0;
        check_int(co_fs_truncate(inode, 0, FS_NO_REQUEST), 0);
        if (ram_vdisk_random(ram) % 2)
            check_int(co_fs_checkpoint(filler->world->fs), 0);
    }
    fs_inode_put(inode);
    check_int(co_unlink(filler->world, "data"), 0);
}

static void co_compete(struct world *world)
{
    struct filler filler = {.world = world};
    struct co_group group;

    world->ram.gives_back = true;
    co_begin(world);
    world->ram.slabs = 10;
    world->ram.delay_max = 2;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "filler", co_fill_and_truncate, &filler), 0);
    for (unsigned turn = 0; turn < 4; turn++) {
        check_int(co_all(world, co_make), -ENOSPC);
        check_int(co_remove_part(world, 1 + turn % 3), 0);
        check_int(co_fs_checkpoint(world->fs), 0);
    }
    co_group_wait(&group);
    check(filler.refused > 0);
    check_int(co_remove_part(world, 1), 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    check_int(co_fs_trim_free(world->fs), 0); /* a checkpoint leaves short runs as they are */
    check(world->ram.slabs > 3);
    co_world_done(world);
}

static void names_and_data_compete(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++)
        world_run(600 * MIB, seed, co_compete);
}

/* ---- files in very many groups, which are small here ---- */

static void co_begin_large(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = MIB,
                                        .group_blocks = FS_GROUP_BLOCKS_LEAST};
    uint64_t bytes = world->ram.vdisk.size_bytes * 5 / 8;
    struct fs_inode *inode;

    workers_new(world);
    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    check_int(co_create(world, "large"), 0);
    inode = co_must_open(world, "large");
    for (uint64_t at = 0; at < bytes; at += GIB)
        check_int(co_fs_allocate(inode, at, GIB, 0), 0);
    fs_inode_put(inode);
    check_int(co_fs_checkpoint(world->fs), 0);
}

/* Others took all of the pool but so many slabs, and those in which nothing is used. */
static void pool_is_taken(struct world *world, uint64_t slabs)
{
    uint64_t blocks = MIB / BLOCK_SIZE;

    for (uint64_t at = 0; at < world->ram.vdisk.size_bytes / BLOCK_SIZE; at += blocks)
        world->ram.slab_there[at / blocks] = memchr(world->ram.in_use + at, 1, blocks) != NULL;
    world->ram.slabs = slabs;
}

/* A step of a removal frees blocks in hundreds of groups: the addresses for their items have to be
 * there before it begins. */
static void co_free_in_many_groups(struct world *world)
{
    co_begin_large(world);
    pool_is_taken(world, 2);
    check_int(co_all(world, co_make), -ENOSPC);
    check_int(co_fs_checkpoint(world->fs), 0);
    check_int(co_unlink(world, "large"), 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_world_crash(world);
    co_world_mount(world);
    check_int(co_remove_part(world, 1), 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_world_crash(world);
}

static void a_file_in_many_groups_is_removed(void **state)
{
    (void)state;
    world_run(64 * GIB, 1, co_free_in_many_groups);
}

struct lie {
    uint64_t nodes; /* of the groups tree */
    uint64_t next_lsn;
};

/* Both roots say so. */
static void roots_lie(struct world *world, struct lie lie)
{
    for (uint64_t block = FS_ROOT_BLOCK(0); block < FS_ROOT_BLOCK(1) + FS_ROOT_COPIES; block++) {
        struct fs_root *root = (struct fs_root *)(world->ram.memory + block * BLOCK_SIZE);

        root->trees[FS_TREE_GROUPS].nodes = lie.nodes;
        root->next_lsn = lie.next_lsn;
        seal_block(root);
    }
}

/* How many addresses a checkpoint needs follows from what a root says, and so does what the next
 * record is called: what cannot be is no root, and what is not true must not end the daemon. */
static void co_believe_no_root(struct world *world)
{
    static const struct lie impossible[] = {{.nodes = 0, .next_lsn = 2},
                                            {.nodes = UINT64_MAX / 2 + 1, .next_lsn = 2},
                                            {.nodes = UINT64_MAX, .next_lsn = 2},
                                            {.nodes = 1, .next_lsn = 0},
                                            {.nodes = 1, .next_lsn = FS_COUNTER_MAX},
                                            {.nodes = 1, .next_lsn = UINT64_MAX}};

    co_begin_large(world);
    co_world_unmount(world);
    for (unsigned i = 0; i < ARRAY_SIZE(impossible); i++) {
        roots_lie(world, impossible[i]);
        check_int(co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs), -EBADMSG);
    }
    roots_lie(world, (struct lie){.nodes = 1, .next_lsn = 1000});
    co_world_mount(world);
    check_int(co_unlink(world, "large"), 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_world_crash(world);
}

static void roots_are_not_believed(void **state)
{
    (void)state;
    world_run(4 * GIB, 1, co_believe_no_root);
}

/* When a checkpoint would need more addresses than the pool can hold, it comes before that: the
 * operation that waited for so many waited for ever, and all others with it. */
static void co_outgrow_the_pool(struct world *world)
{
    struct fs_inode *inode;

    co_begin_large(world);
    world->fs->trees[FS_TREE_GROUPS].nodes = 5000; /* as of a volume of 60 TiB */
    inode = co_must_open(world, "large");
    check_int(co_fs_truncate(inode, 0, FS_NO_REQUEST), 0);
    fs_inode_put(inode);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_world_crash(world);
}

static void touched_groups_outgrow_the_pool(void **state)
{
    (void)state;
    world_run(20 * GIB, 1, co_outgrow_the_pool);
}

/* Each question is a write that waits for the pool's answer: a mount does not ask for a slab for
 * every group that is empty, nor does what is refused then. */
static void co_mount_in_a_full_pool(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB,
                                        .group_blocks = FS_GROUP_BLOCKS_LEAST};

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    pool_is_taken(world, 0);
    co_world_mount(world);
    check(world->ram.writes < 200);
    world->ram.writes = 0;
    check_int(co_create(world, "a"), -ENOSPC);
    check_int(co_create(world, "b"), -ENOSPC);
    check(world->ram.writes < 2 * world->fs->alloc.group_count); /* all of them are asked once */
    world->ram.writes = 0;
    check_int(co_create(world, "c"), -ENOSPC);
    check(world->ram.writes < 20);
    co_world_crash(world);
}

static void few_slabs_are_asked_for(void **state)
{
    (void)state;
    world_run(4 * GIB, 1, co_mount_in_a_full_pool);
}

/* Addresses that a crash took from the pool are in a group that looks empty, behind others for
 * which there is no slab. */
static void co_find_what_a_crash_left(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB,
                                        .group_blocks = FS_GROUP_BLOCKS_LEAST};
    uint64_t slabs = world->ram.vdisk.size_bytes / MIB;

    workers_new(world);
    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    pool_is_taken(world, 0);
    memset(world->ram.slab_there + slabs / 2, 1, 8);
    co_world_mount(world);
    check_int(co_create(world, "a"), 0);
    check_int(co_unlink(world, "a"), 0);
    co_world_done(world);
}

/* The same in a group that is in use, behind windows for which there is no slab. */
static void co_find_windows_of_a_group(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB};

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    pool_is_taken(world, 0);
    memset(world->ram.slab_there + 50, 1, 8);
    co_world_mount(world);
    check_int(co_create(world, "a"), 0);
    check_int(co_unlink(world, "a"), 0);
    co_world_done(world);
}

static void what_a_crash_left_is_found(void **state)
{
    (void)state;
    world_run(600 * MIB, 1, co_find_what_a_crash_left);
    world_run(600 * MIB, 1, co_find_windows_of_a_group);
}

/* ---- rows of parity that cannot be decoded: they take no write in part ---- */

/* All of a group; of the first one, a window in its middle. */
static void group_is_lost(struct world *world, uint64_t group)
{
    const struct fs_super *super = (const struct fs_super *)world->ram.memory;
    uint64_t first = super->first_group_block + group * FS_GROUP_BLOCKS_LEAST;

    world->ram.rotten_at = group > 0 ? first * BLOCK_SIZE : ALIGN_UP(first * BLOCK_SIZE, MIB);
    world->ram.rotten_bytes = group > 0 ? FS_GROUP_BLOCKS_LEAST * BLOCK_SIZE : MIB;
    world->ram.rotten_is_a_row = true;
}

/* An empty group that takes no write is passed over; so is a window of one in use (group 0). */
static void co_pass_over_lost_rows(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB,
                                        .group_blocks = FS_GROUP_BLOCKS_LEAST};
    struct fs_inode *inode;

    workers_new(world);
    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    group_is_lost(world, world->seed);
    co_world_mount(world);
    check_int(co_create(world, "data"), 0);
    inode = co_must_open(world, "data");
    for (uint64_t at = 0; world->seed > 0 && at < 16 * MIB; at += 64 * KIB)
        check_int(co_write_pattern(inode, at, 64 * KIB, 1), 0);
    for (unsigned i = 0; i < 2000; i++)
        check_int(co_do_to_name(&workers[0], i, co_create), 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    world->ram.rotten_at = 0;
    fs_inode_put(inode);
    co_world_done(world);
}

static void lost_rows_are_passed_over(void **state)
{
    (void)state;
    for (uint64_t group = 0; group < 12; group++)
        world_run(32 * MIB, group, co_pass_over_lost_rows);
}

/* In a full pool a checkpoint has what was there when it began: what its first items have got is
 * not asked for again, were it interrupted before the others. */
static void co_ask_once(struct world *world)
{
    struct alloc *alloc;
    size_t touched = 0, asked, had, paid;

    co_begin_large(world);
    alloc = &world->fs->alloc;
    check_int(alloc_reserve_frees(alloc, alloc->group_count), 0);
    for (uint64_t group = 0; group < alloc->group_count; group += 64, touched++)
        group_touch(alloc, group);
    asked = alloc_checkpoint_addresses(world->fs, 0);
    check_int(co_alloc_refill(world->fs, 2 * asked, asked), 0);
    had = alloc->pool_count;
    while (alloc->prepared_count == 0)
        check(co_alloc_prepare_snapshot(world->fs) >= 0);
    check(alloc->pool_count < had);
    paid = had - alloc->pool_count;
    check(paid > touched / 4); /* or nothing is shown */
    check(paid + alloc_checkpoint_addresses(world->fs, touched) <= asked + touched / 8);
    co_world_crash(world);
}

static void addresses_are_asked_for_once(void **state)
{
    (void)state;
    world_run(64 * GIB, 1, co_ask_once);
}

/* What a crash left is in groups that take no write for a while; others are full. Twice in vain,
 * then they do. */
static void co_find_when_it_takes_writes(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB,
                                        .group_blocks = FS_GROUP_BLOCKS_LEAST};
    uint64_t slabs = world->ram.vdisk.size_bytes / MIB;

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    pool_is_taken(world, 0);
    memset(world->ram.slab_there + slabs / 2, 1, 8);
    world->ram.rotten_at = (slabs / 2 - 4) * MIB;
    world->ram.rotten_bytes = 16 * MIB;
    world->ram.rotten_is_a_row = true;
    co_world_mount(world);
    check_int(co_create(world, "a"), -ENOSPC);
    check_int(co_sleep_ns(1 * SEC), 0);
    check_int(co_create(world, "a"), -ENOSPC);
    world->ram.rotten_at = 0;
    check_int(co_sleep_ns(60 * SEC), 0);
    check_int(co_create(world, "a"), 0);
    co_world_done(world);
}

/* One window takes no write: that is no reason to ask for all slabs at each operation. */
static void co_refuse_cheaply(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB};
    const struct fs_super *super = (const struct fs_super *)world->ram.memory;

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    pool_is_taken(world, 0);
    world->ram.rotten_at = ALIGN_UP(super->first_group_block * BLOCK_SIZE, MIB) + 8 * MIB;
    world->ram.rotten_bytes = MIB;
    world->ram.rotten_is_a_row = true;
    co_world_mount(world);
    check_int(co_create(world, "a"), -ENOSPC);
    world->ram.writes = 0;
    check_int(co_create(world, "b"), -ENOSPC);
    check(world->ram.writes < 50);
    co_world_crash(world);
}

static void slabs_are_found_when_rows_are_back(void **state)
{
    (void)state;
    world_run(600 * MIB, 1, co_find_when_it_takes_writes);
}

static void a_lost_row_in_a_full_pool_costs_little(void **state)
{
    (void)state;
    world_run(64 * GIB, 1, co_refuse_cheaply);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_find_a_full_pool),
        cmocka_unit_test(names_and_data_compete),
        cmocka_unit_test(power_cut_in_a_full_pool),
        cmocka_unit_test(a_file_in_many_groups_is_removed),
        cmocka_unit_test(touched_groups_outgrow_the_pool),
        cmocka_unit_test(roots_are_not_believed),
        cmocka_unit_test(few_slabs_are_asked_for),
        cmocka_unit_test(what_a_crash_left_is_found),
        cmocka_unit_test(lost_rows_are_passed_over),
        cmocka_unit_test(addresses_are_asked_for_once),
        cmocka_unit_test(slabs_are_found_when_rows_are_back),
        cmocka_unit_test(a_lost_row_in_a_full_pool_costs_little),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
