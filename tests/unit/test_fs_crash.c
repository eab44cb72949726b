/* Power cuts and random operations, against a model. Several workers run at once, each in a
 * directory of its own with a model of its own; when the power goes, each has at most one operation
 * in flight, which may have happened or not; all that was answered must be there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "tests/unit/fs_model.h"

#define VOLUME (192 * MIB)
#define VOLUME_FIRST (160 * MIB) /* before it grows */
#define WORKERS 3

static unsigned cut_in[OP_KINDS]; /* operations that a cut has ended */

struct worker {
    struct world *world;
    struct co_group *group;
    char base[16];
    uint64_t random;
    unsigned ops; /* to do */
    struct model *model;
    struct model *after; /* with the operation in flight */
    uint64_t loose_id;
    struct op op; /* the last one */
    struct fs_inode *handles[MODEL_HANDLES];
};

static uint64_t worker_random(void *arg)
{
    struct worker *worker = arg;
    uint64_t z = (worker->random += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void worker_drop_handles(struct worker *worker)
{
    for (unsigned i = 0; i < MODEL_HANDLES; i++) {
        fs_inode_put(worker->handles[i]);
        worker->handles[i] = NULL;
        (void)model_apply(worker->model, &(struct op){.kind = OP_DROP, .handle = i});
    }
}

/* Runs operations until they are done or the power is gone. */
static void co_work(void *arg)
{
    struct worker *worker = arg;

    while (worker->ops > 0) {
        int r, expected;

        worker->op = op_random(worker_random, worker);
        r = co_op_run(worker->world, worker->base, &worker->op, worker->handles, worker->model);
        if (r == -ESTALE && fs_error(worker->world->fs)) {
            cut_in[worker->op.kind]++;
            worker->loose_id = model_target(worker->model, &worker->op);
            worker->after = model_copy(worker->model);
            if (worker->op.kind != OP_WRITE_HELD) {
                (void)model_apply(worker->after, &worker->op);
            } else if (worker->loose_id) {
                /* Without its handle: the copy of the file is changed by its path, if it has one.
                 */
                model_write_id(worker->after, worker->loose_id, &worker->op);
            }
            break;
        }
        worker->world->what = op_name(worker->op.kind);
        expected = model_apply(worker->model, &worker->op);
        check_int(r, expected);
        worker->ops--;
    }
    worker_drop_handles(worker);
}

static void workers_start(struct world *world, struct worker *workers, unsigned count, unsigned ops)
{
    for (unsigned i = 0; i < count; i++) {
        workers[i] = (struct worker){
            .world = world, .random = world->seed * 1000 + i, .ops = ops, .model = model_new()};
        snprintf(workers[i].base, sizeof(workers[i].base), "w%u", i);
        check_int(co_mkdir(world, workers[i].base), 0);
    }
}

/* Other volumes need the memory, again and again. */
struct forgetter {
    struct world *world;
    struct worker self; /* for its random numbers */
    bool stopping;
};

static void co_forget(void *arg)
{
    struct forgetter *forgetter = arg;

    while (!forgetter->stopping) {
        if (worker_random(&forgetter->self) % 32 == 0)
            fs_forget(forgetter->world->fs);
        co_yield ();
    }
}

static void co_workers_run(struct world *world, struct worker *workers, unsigned count)
{
    struct forgetter forgetter = {.world = world, .self = {.random = world->seed}};
    struct co_group group, others;

    co_group_init(&group);
    co_group_init(&others);
    if (world->seed % 4 == 1)
        check_int(co_group_spawn(&others, world->io, "forgetter", co_forget, &forgetter), 0);
    for (unsigned i = 0; i < count; i++)
        check_int(co_group_spawn(&group, world->io, "worker", co_work, &workers[i]), 0);
    co_group_wait(&group);
    forgetter.stopping = true;
    co_group_wait(&others);
}

/* Each worker's directory is as before its last operation, or as after it. From then on the model
 * is what was found. */
static void co_workers_compare(struct world *world, struct worker *workers, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct worker *worker = &workers[i];
        const char *difference =
            co_model_compare(world, worker->base, worker->model, worker->after, worker->loose_id);

        if (difference && worker->after && !worker->loose_id)
            difference = co_model_compare(world, worker->base, worker->after, NULL, 0);
        if (difference && worker->after && worker->op.kind == OP_RESTORE) {
            /* Perhaps half of it was done: then it is asked for again. */
            check_int(co_op_restore(world, worker->base, &worker->op), 0);
            difference = co_model_compare(world, worker->base, worker->after, NULL, 0);
        }
        if (difference) {
            fprintf(stderr, "worker %u: %s differs after %s %s %s offset=%llu length=%llu\n", i,
                    difference, op_name(worker->op.kind), worker->op.path, worker->op.to,
                    (unsigned long long)worker->op.offset, (unsigned long long)worker->op.length);
            check_failed(difference, __FILE__, __LINE__);
        }
    }
}

static void workers_free(struct worker *workers, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        model_free(workers[i].model);
        model_free(workers[i].after);
    }
}

/* ---- the power goes after the nth write ---- */

static uint64_t cut_at;    /* 0: never */
static uint64_t cut_total; /* writes of a run without a cut */
static unsigned cut_ops;

/* The power goes; mounting writes too, and it may go again in the middle of that. */
static void co_crash_and_mount(struct world *world)
{
    if (world->which % 2) {
        co_world_crash_twice(world, world->which / 2 % 6);
        return;
    }
    co_world_crash(world);
    co_world_mount(world);
}

/* What the file system does not use, the vdisk has back, whenever the power went; but for the
 * blocks at hand for the nodes of the next checkpoint (alloc_checkpoint.c). */
#define NODES_AT_HAND 256

static void co_check_given_back(struct world *world)
{
    struct fs_statfs statfs;
    uint64_t used;

    check_int(co_fs_checkpoint(world->fs), 0);
    check_int(co_fs_trim_free(world->fs), 0);
    check_int(co_fs_statfs(world->fs, &statfs), 0);
    used = (world->ram.vdisk.size_bytes - statfs.free_bytes) / BLOCK_SIZE;
    check(ram_vdisk_blocks_in_use(&world->ram) <= used + NODES_AT_HAND);
}

static void co_cut_run(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB};
    struct worker workers[WORKERS];
    uint64_t before;

    world->which = cut_at;
    world->ram.random += cut_at;
    world->ram.delay_max = 3;
    if (world->seed % 2 == 0) { /* the journal runs ahead of everything else */
        world->ram.slow_from = 16 * BLOCK_SIZE + options.journal_bytes;
        world->ram.slow_turns = 30;
    }
    if (world->seed % 3 == 0) /* and trims come last: what they free must not be in use by then */
        world->ram.trim_turns = 60;
    world->ram.vdisk.size_bytes = VOLUME_FIRST;
    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    workers_start(world, workers, WORKERS, cut_ops);
    before = world->ram.writes + world->ram.trims;
    if (cut_at)
        world->ram.cut_after = before + cut_at - 1;
    co_workers_run(world, workers, WORKERS);
    cut_total = world->ram.writes + world->ram.trims - before;
    co_crash_and_mount(world);
    check_int(co_fs_reap_orphans(world->fs), 0);
    co_world_check(world);
    co_workers_compare(world, workers, WORKERS);
    co_check_given_back(world);
    co_world_remount(world);
    co_world_check(world);
    co_workers_compare(world, workers, WORKERS);
    co_world_unmount(world);
    workers_free(workers, WORKERS);
}

static void power_cut_at_every_write(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        cut_ops = seed <= 2 ? 60 : 120;
        cut_at = 0;
        world_run(VOLUME, seed, co_cut_run);
        for (uint64_t n = 1, total = cut_total; n <= total; n++) {
            cut_at = n;
            world_run(VOLUME, seed, co_cut_run);
        }
    }
    for (enum op_kind kind = 0; kind < OP_KINDS; kind++) {
        if (kind == OP_HOLD || kind == OP_DROP)
            continue; /* write nothing */
        if (cut_in[kind] == 0)
            fail_msg("no cut has ended a %s", op_name(kind));
    }
}

static void power_cut_in_long_runs(void **state)
{
    (void)state;
    cut_ops = 1000;
    for (uint64_t seed = 100; seed < 112; seed++) {
        cut_at = 37 + seed * 7919 % 3000;
        world_run(VOLUME, seed, co_cut_run);
    }
}

/* ---- the power goes in a batch of many blocks ---- */

#define MAKERS 24
#define MAKES_MAX 1000
#define NAME_BYTES 200

struct maker {
    struct world *world;
    unsigned number, made; /* so many were answered */
};

static void make_name(const struct maker *maker, unsigned which, char name[NAME_BYTES + 1])
{
    int length = snprintf(name, NAME_BYTES, "m%u-%u-", maker->number, which);

    memset(name + length, 'x', (size_t)(NAME_BYTES - length));
    name[NAME_BYTES] = 0;
}

static void co_make(void *arg)
{
    struct maker *maker = arg;
    char name[NAME_BYTES + 1];
    int r = 0;

    while (r == 0 && maker->made < MAKES_MAX) {
        make_name(maker, maker->made, name);
        r = co_create(maker->world, name);
        maker->made += r == 0;
    }
    check(r == 0 || r == -ESTALE);
}

/* What was answered is there, what was asked for may be. */
static void co_check_made(struct world *world, const struct maker *maker)
{
    char name[NAME_BYTES + 1];

    for (unsigned i = 0; i <= maker->made + 1; i++) {
        cleanup(fs_inode_putp) struct fs_inode *inode = NULL;
        int r;

        make_name(maker, i, name);
        r = co_open(world, name, &inode);
        check(r == 0 || (r == -ENOENT && i >= maker->made));
        check(r < 0 || i <= maker->made);
    }
}

static void co_batch_run(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB};
    struct maker makers[MAKERS];
    struct co_group group;

    world->which = cut_at;
    world->ram.random += cut_at;
    world->ram.delay_max = 3;
    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    world->ram.cut_after = world->ram.writes + world->ram.trims + cut_at;
    co_group_init(&group);
    for (unsigned i = 0; i < MAKERS; i++) {
        makers[i] = (struct maker){.world = world, .number = i};
        check_int(co_group_spawn(&group, world->io, "maker", co_make, &makers[i]), 0);
    }
    co_group_wait(&group);
    co_world_crash(world);
    co_world_mount(world);
    co_world_check(world);
    for (unsigned i = 0; i < MAKERS; i++)
        co_check_made(world, &makers[i]);
    co_world_unmount(world);
}

/* A batch of which some blocks were written is not replayed, nor is what is behind it. */
static void power_cut_in_big_batches(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        cut_at = 1 + seed * 31 % 40;
        world_run(VOLUME, seed, co_batch_run);
    }
}

/* ---- without cuts: many operations, remounts ---- */

static void co_soak(struct world *world)
{
    struct worker workers[WORKERS];

    world->ram.delay_max = 1;
    co_world_format(world);
    co_world_mount(world);
    workers_start(world, workers, WORKERS, 0);
    for (unsigned round = 0; round < 6; round++) {
        world->which = round;
        for (unsigned i = 0; i < WORKERS; i++)
            workers[i].ops = 400;
        co_workers_run(world, workers, WORKERS);
        if (round % 2)
            co_world_remount(world);
        else {
            co_world_crash(world);
            co_world_mount(world);
        }
        check_int(co_fs_reap_orphans(world->fs), 0);
        co_world_check(world);
        co_workers_compare(world, workers, WORKERS);
    }
    co_world_unmount(world);
    workers_free(workers, WORKERS);
}

static void random_operations_match_the_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++)
        world_run(VOLUME, seed, co_soak);
}

/* test_fs_crash SEEDS FROM: more of the same, for as long as one likes. */
static int campaign(uint64_t from, uint64_t seeds)
{
    for (uint64_t seed = from; seed < from + seeds; seed++) {
        cut_ops = 20 + seed * 31 % 400;
        cut_at = 0;
        if (seed % 8 == 0)
            world_run(VOLUME, seed, co_soak);
        world_run(VOLUME, seed, co_cut_run);
        for (unsigned i = 0; i < 4; i++) {
            cut_at = 1 + seed * 7919 * (i + 1) % cut_total;
            world_run(VOLUME, seed, co_cut_run);
            cut_at = 1 + (seed * 4 + i) % 40;
            world_run(VOLUME, seed, co_batch_run);
        }
    }
    printf("seeds %llu to %llu passed\n", (unsigned long long)from,
           (unsigned long long)(from + seeds - 1));
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_the_model),
        cmocka_unit_test(power_cut_at_every_write),
        cmocka_unit_test(power_cut_in_long_runs),
        cmocka_unit_test(power_cut_in_big_batches),
    };

    if (argc > 1)
        return campaign(argc > 2 ? strtoull(argv[2], NULL, 10) : 1, strtoull(argv[1], NULL, 10));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
