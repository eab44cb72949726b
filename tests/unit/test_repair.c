/* What repair asks for, on a database that really applies it: every column of a disk that failed or
 * retires gets a place on another fault domain, and no slab ever has fewer copies than it must. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "s2d/node/repair.h"

#define NODES_IN_TEST 4
#define DISKS_PER_NODE 2
#define SLABS 24

struct world {
    struct database *database;
    uint64_t index;
    struct command_result result;
    uint64_t nodes[NODES_IN_TEST];
    uint64_t disks[NODES_IN_TEST * DISKS_PER_NODE]; /* of node i: 2 * i and 2 * i + 1 */
    uint64_t vdisk;
};

static void apply(struct world *world, json_t *command)
{
    assert_non_null(command);
    command_result_done(&world->result);
    database_apply(world->database, ++world->index, command, &world->result);
    json_decref(command);
    database_check(world->database);
    if (world->result.code < 0)
        fail_msg("refused: %s", world->result.message);
}

static uint64_t reply(struct world *world, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(world->result.reply, name));
}

static uint64_t claim(struct world *world, uint64_t node, const char *name)
{
    uint64_t id;

    apply(world, json_pack("{s:s,s:I,s:s,s:s,s:s,s:s,s:s,s:I}", "verb", "disk.claim", "node",
                           (json_int_t)node, "name", name, "path", "/dev/x", "uuid", name, "role",
                           "capacity", "media", "ssd", "size_bytes", (json_int_t)GIB));
    id = reply(world, "disk");
    apply(world, json_pack("{s:s,s:I,s:I,s:I}", "verb", "disk.ready", "disk", (json_int_t)id,
                           "extents", (json_int_t)40, "log_bytes", (json_int_t)MIB));
    return id;
}

static void join(struct world *world, unsigned i)
{
    char secret[65], name[16];

    memset(secret, 'a', 64);
    secret[64] = '\0';
    snprintf(name, sizeof(name), "n%u", i);
    apply(world, json_pack("{s:s,s:s,s:I}", "verb", "token.create", "secret", secret, "expires_ns",
                           (json_int_t)1));
    apply(world,
          json_pack("{s:s,s:I,s:s,s:s}", "verb", "node.join", "token",
                    (json_int_t)reply(world, "token"), "name", name, "address", "10.0.0.9:1"));
}

static void make_cluster(struct world *world, unsigned nodes)
{
    apply(world, json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "verb", "cluster.create", "name", "c",
                           "uuid", "u", "key", "k", "node_name", "n0", "address", "10.0.0.1:1"));
    for (unsigned i = 1; i < nodes; i++)
        join(world, i);
    apply(world,
          json_pack("{s:s,s:I}", "verb", "pool.create", "extent_bytes", (json_int_t)(16 * MIB)));
    for (unsigned i = 0; i < nodes; i++) {
        const struct node_record *node = database_at(world->database, TABLE_NODE, i);

        world->nodes[i] = node->base.id;
        world->disks[2 * i] = claim(world, world->nodes[i], "ssd0");
        world->disks[2 * i + 1] = claim(world, world->nodes[i], "ssd1");
    }
}

/* A volume whose slabs lie on the first disks of the first `copies` nodes. */
static void make_volume(struct world *world, const char *resiliency, unsigned copies)
{
    apply(world, json_pack("{s:s,s:s,s:I,s:s,s:b,s:I}", "verb", "volume.create", "name", "v",
                           "size_bytes", (json_int_t)GIB, "resiliency", resiliency, "thin", 1,
                           "owner", (json_int_t)world->nodes[0]));
    world->vdisk = reply(world, "vdisk");
    for (unsigned slab = 0; slab < SLABS; slab++) {
        json_t *columns = json_array();

        for (unsigned i = 0; i < copies; i++)
            json_array_append_new(columns,
                                  json_pack("{s:I,s:I}", "disk", (json_int_t)world->disks[2 * i],
                                            "extent", (json_int_t)slab));
        apply(world, json_pack("{s:s,s:I,s:[{s:I,s:o}]}", "verb", "slab.add", "vdisk",
                               (json_int_t)world->vdisk, "slabs", "number", (json_int_t)slab,
                               "columns", columns));
    }
}

static const struct vdisk_record *vdisk_of(const struct world *world)
{
    return database_find(world->database, TABLE_VDISK, world->vdisk);
}

static void fail_disk(struct world *world, uint64_t disk)
{
    apply(world, json_pack("{s:s,s:I,s:s}", "verb", "disk.failed", "disk", (json_int_t)disk,
                           "reason", "io"));
}

static void retire(struct world *world, uint64_t disk)
{
    apply(world, json_pack("{s:s,s:I}", "verb", "disk.retire", "disk", (json_int_t)disk));
}

static size_t plan(struct world *world, bool carry_out)
{
    json_t *command = repair_plan(world->database, vdisk_of(world));
    size_t columns = json_array_size(json_object_get(command, "columns"));

    assert_true(columns <= REPAIR_BATCH);
    if (carry_out && command)
        apply(world, json_incref(command));
    json_decref(command);
    return columns;
}

/* As the owner does when it has copied what is there: all that is stale on the disk is in-sync. */
static void copy_to(struct world *world, uint64_t disk)
{
    command_result_done(&world->result);
    json_t *command =
        json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.in_sync", "vdisk", (json_int_t)world->vdisk,
                  "epoch", (json_int_t)vdisk_of(world)->epoch, "disk", (json_int_t)disk);

    database_apply(world->database, ++world->index, command, &world->result);
    json_decref(command);
    database_check(world->database);
}

static unsigned least_copies(const struct world *world)
{
    unsigned least = COLUMNS_MAX;

    for (uint64_t number = 0; number < SLABS; number++) {
        const struct slab_record *slab = database_slab(world->database, world->vdisk, number);
        unsigned in_sync = 0;

        for (uint64_t i = 0; i < slab->column_count; i++)
            in_sync += slab->columns[i].state == COLUMN_RECORD_IN_SYNC;
        least = MIN(least, in_sync);
    }
    return least;
}

static void assert_nodes_are_distinct(const struct world *world)
{
    for (uint64_t number = 0; number < SLABS; number++) {
        const struct slab_record *slab = database_slab(world->database, world->vdisk, number);

        for (uint64_t i = 0; i < slab->column_count; i++) {
            for (uint64_t j = 0; j < i; j++) {
                const struct disk_record *a = database_find(world->database, TABLE_DISK,
                                                            slab->columns[i].disk),
                                         *b = database_find(world->database, TABLE_DISK,
                                                            slab->columns[j].disk);

                assert_true(a->node != b->node);
            }
        }
    }
}

/* Repairs to the end; asserts that no slab ever has fewer copies than `copies`. */
static void repair_all(struct world *world, uint64_t gone, unsigned copies)
{
    for (int round = 0; database_used_extents(world->database, gone) > 0; round++) {
        assert_true(round < 10);
        assert_true(plan(world, true) > 0);
        assert_true(least_copies(world) >= copies);
        for (unsigned i = 0; i < ARRAY_SIZE(world->disks); i++)
            copy_to(world, world->disks[i]);
    }
    assert_int_equal(least_copies(world), 3);
    assert_nodes_are_distinct(world);
}

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof(*world));

    assert_int_equal(database_new(&world->database), 0);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;

    command_result_done(&world->result);
    database_free(world->database);
    free(world);
    return 0;
}

/* On three nodes the other disk of the same node takes all. */
static void a_failed_disk_moves_to_its_neighbour(void **state)
{
    struct world *world = *state;

    make_cluster(world, 3);
    make_volume(world, "mirror3", 3);
    assert_int_equal(plan(world, false), 0); /* nothing is wrong */
    fail_disk(world, world->disks[2]);
    repair_all(world, world->disks[2], 2);
    assert_int_equal(database_used_extents(world->database, world->disks[3]), SLABS);
}

/* With a fourth node what is lost spreads over all disks that may take it. */
static void a_failed_disk_moves_to_many(void **state)
{
    struct world *world = *state;

    make_cluster(world, 4);
    make_volume(world, "mirror3", 3);
    fail_disk(world, world->disks[2]);
    repair_all(world, world->disks[2], 2);
    for (unsigned i = 0; i < 3; i++)
        assert_true(
            database_used_extents(world->database, world->disks[(const unsigned[]){3, 6, 7}[i]]) >=
            SLABS / 4);
}

/* The next batch waits until the last one is copied; what a node that is down holds does not
 * count. */
static void batches_wait_for_each_other(void **state)
{
    struct world *world = *state;

    make_cluster(world, 3);
    make_volume(world, "mirror3", 3);
    fail_disk(world, world->disks[2]);
    assert_int_equal(plan(world, true), REPAIR_BATCH);
    assert_int_equal(plan(world, true), 0);
    copy_to(world, world->disks[3]);
    assert_int_equal(plan(world, true), SLABS - REPAIR_BATCH);
}

static void without_room_nothing_moves(void **state)
{
    struct world *world = *state;

    make_cluster(world, 3);
    make_volume(world, "mirror3", 3);
    fail_disk(world, world->disks[2]);
    fail_disk(world, world->disks[3]);
    assert_int_equal(plan(world, false), 0);
    assert_true(repair_is_stuck(world->database, vdisk_of(world)));
    /* until an administrator puts a disk in */
    claim(world, world->nodes[1], "ssd9");
    assert_false(repair_is_stuck(world->database, vdisk_of(world)));
    assert_int_equal(plan(world, false), REPAIR_BATCH);
}

/* A retiring disk's columns leave it one copy at a time: three, two, three again. */
static void a_retiring_disk_is_emptied(void **state)
{
    struct world *world = *state;
    const struct disk_record *disk;

    make_cluster(world, 3);
    make_volume(world, "mirror3", 3);
    retire(world, world->disks[0]);
    repair_all(world, world->disks[0], 2);
    disk = database_find(world->database, TABLE_DISK, world->disks[0]);
    assert_int_equal(disk->state, DISK_RETIRING);
    retire(world, world->disks[0]);
    assert_int_equal(disk->state, DISK_RETIRED);
    /* its name is free for another one */
    assert_true(claim(world, world->nodes[0], "ssd0") != world->disks[0]);
    assert_null(database_find(world->database, TABLE_DISK, world->disks[0]));
}

/* A slab that lacks a copy already is not made to lack another. */
static void a_degraded_slab_keeps_its_copy_on_a_retiring_disk(void **state)
{
    struct world *world = *state;

    make_cluster(world, 3);
    make_volume(world, "mirror3", 3);
    apply(world, json_pack("{s:s,s:I,s:I,s:[I]}", "verb", "vdisk.stale", "vdisk",
                           (json_int_t)world->vdisk, "epoch", (json_int_t)vdisk_of(world)->epoch,
                           "disks", (json_int_t)world->disks[4]));
    retire(world, world->disks[0]);
    assert_int_equal(plan(world, false), 0);
    copy_to(world, world->disks[4]);
    assert_int_equal(plan(world, false), REPAIR_BATCH);
}

/* The last copy stays where it is, whatever its disk says (I3). */
static void a_last_copy_does_not_move(void **state)
{
    struct world *world = *state;

    make_cluster(world, 3);
    make_volume(world, "mirror2", 2);
    fail_disk(world, world->disks[0]);
    fail_disk(world, world->disks[2]);
    assert_int_equal(plan(world, true), REPAIR_BATCH); /* of the first: stale */
    assert_int_equal(least_copies(world), 1);
    assert_int_equal(database_used_extents(world->database, world->disks[2]), SLABS);
}

/* What is left counts whole columns, from the disk that failed to the last new one in-sync. */
static void what_is_left_falls_to_nothing(void **state)
{
    struct world *world = *state;

    make_cluster(world, 3);
    make_volume(world, "mirror3", 3);
    assert_int_equal(repair_left_bytes(world->database, world->vdisk), 0);
    fail_disk(world, world->disks[2]);
    assert_int_equal(repair_left_bytes(world->database, world->vdisk), SLABS * 16 * MIB);
    assert_int_equal(plan(world, true), REPAIR_BATCH); /* moved, and nothing is copied yet */
    assert_int_equal(repair_left_bytes(world->database, world->vdisk), SLABS * 16 * MIB);
    copy_to(world, world->disks[3]);
    assert_int_equal(repair_left_bytes(world->database, world->vdisk),
                     (SLABS - REPAIR_BATCH) * 16 * MIB);
    repair_all(world, world->disks[2], 2);
    assert_int_equal(repair_left_bytes(world->database, world->vdisk), 0);
}

/* Progress rises, also over a restart that has to begin a column anew, and over another failure. */
static void progress_never_falls(void **state)
{
    struct job_record job = {.total_bytes = 100 * MIB, .left_bytes = 100 * MIB};
    struct job_progress now = repair_progress(&job, 100 * MIB, 10 * MIB);

    (void)state;
    assert_int_equal(now.done_bytes, 10 * MIB);
    assert_int_equal(now.total_bytes, 100 * MIB);
    job.done_bytes = now.done_bytes;
    now = repair_progress(&job, 100 * MIB, 0); /* another owner has copied nothing yet */
    assert_int_equal(now.done_bytes, 10 * MIB);
    now = repair_progress(&job, 84 * MIB, 4 * MIB);
    assert_int_equal(now.done_bytes, 20 * MIB);
    job.done_bytes = now.done_bytes;
    job.left_bytes = 84 * MIB;
    now = repair_progress(&job, 184 * MIB, 0); /* a second disk fails */
    assert_int_equal(now.total_bytes, 200 * MIB);
    assert_int_equal(now.done_bytes, 20 * MIB);
    now = repair_progress(&job, 16 * MIB, GIB); /* not done before the columns are in-sync */
    assert_true(now.done_bytes < now.total_bytes);
}

/* The leader's look may be old when its command comes: it is void then, or moves nothing twice. */
static void an_old_plan_is_void(void **state)
{
    struct world *world = *state;
    json_t *command;

    make_cluster(world, 3);
    make_volume(world, "mirror3", 3);
    fail_disk(world, world->disks[2]);
    command = repair_plan(world->database, vdisk_of(world));
    apply(world, json_incref(command));
    command_result_done(&world->result);
    database_apply(world->database, ++world->index, command, &world->result);
    assert_int_equal(world->result.code, -ESTALE);
    json_decref(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_failed_disk_moves_to_its_neighbour, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failed_disk_moves_to_many, setup, teardown),
        cmocka_unit_test_setup_teardown(batches_wait_for_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(without_room_nothing_moves, setup, teardown),
        cmocka_unit_test_setup_teardown(a_retiring_disk_is_emptied, setup, teardown),
        cmocka_unit_test_setup_teardown(a_degraded_slab_keeps_its_copy_on_a_retiring_disk, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_last_copy_does_not_move, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_left_falls_to_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(progress_never_falls, setup, teardown),
        cmocka_unit_test_setup_teardown(an_old_plan_is_void, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
