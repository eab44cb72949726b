/* Who may touch the disks of VMs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "s2d/node/authorize.h"
#include "tests/unit/database_commands.h"

/* ---- a cluster of one node, with the volumes v and w, and a VM with the disk v/vms/disk ---- */

struct world {
    struct database *database;
    uint64_t index, node, vm;
};

static uint64_t apply(struct world *world, json_t *command, const char *name)
{
    return must_apply(world->database, &world->index, command, name);
}

static void make_volume(struct world *world, const char *name)
{
    apply(world,
          json_pack("{s:s,s:s,s:I,s:s,s:I}", "verb", "volume.create", "name", name, "size_bytes",
                    (json_int_t)(64 * MIB), "resiliency", "simple", "owner",
                    (json_int_t)world->node),
          "");
}

static void make_cluster(struct world *world)
{
    uint64_t disk;

    world->node =
        apply(world,
              json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "verb", "cluster.create", "name", "c", "uuid",
                        "u", "key", "k", "node_name", "n1", "address", "10.0.0.1:1"),
              "node");
    apply(world,
          json_pack("{s:s,s:I}", "verb", "pool.create", "extent_bytes", (json_int_t)(16 * MIB)),
          "");
    disk = apply(world,
                 json_pack("{s:s,s:I,s:s,s:s,s:s,s:s,s:s,s:I}", "verb", "disk.claim", "node",
                           (json_int_t)world->node, "name", "d", "path", "/d", "uuid", "x", "role",
                           "capacity", "media", "ssd", "size_bytes", (json_int_t)(2 * GIB)),
                 "disk");
    apply(world,
          json_pack("{s:s,s:I,s:I,s:I}", "verb", "disk.ready", "disk", (json_int_t)disk, "extents",
                    (json_int_t)100, "log_bytes", (json_int_t)MIB),
          "");
}

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof(*world));

    assert_int_equal(database_new(&world->database), 0);
    make_cluster(world);
    make_volume(world, "v");
    make_volume(world, "w");
    world->vm = apply(world,
                      json_pack("{s:s,s:s,s:I,s:I,s:[s]}", "verb", "vm.create", "name", "vm",
                                "memory_bytes", (json_int_t)(64 * MIB), "vcpus", (json_int_t)1,
                                "disks", "v/vms/disk"),
                      "vm");
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;

    database_free(world->database);
    free(world);
    return 0;
}

static uint64_t start(struct world *world)
{
    return apply(world,
                 json_pack("{s:s,s:I,s:I,s:I}", "verb", "vm.start", "vm", (json_int_t)world->vm,
                           "node", (json_int_t)world->node, "incarnation", (json_int_t)0),
                 "incarnation");
}

static void end(struct world *world, uint64_t incarnation)
{
    apply(world,
          json_pack("{s:s,s:I,s:I}", "verb", "vm.ended", "vm", (json_int_t)world->vm, "incarnation",
                    (json_int_t)incarnation),
          "");
}

static int may_open(struct world *world, const char *volume, const char *path, uint64_t incarnation,
                    bool read_only)
{
    return authorize_open(world->database, world->index, volume, path, incarnation, read_only);
}

/* ---- tests ---- */

static void a_running_vms_disk_is_its_own(void **state)
{
    struct world *world = *state;
    uint64_t incarnation;

    assert_int_equal(may_open(world, "v", "vms/disk", 0, false), 0);
    incarnation = start(world);
    assert_int_equal(may_open(world, "v", "vms/disk", 0, false), -EPERM);
    assert_int_equal(may_open(world, "v", "vms/disk", 0, true), 0);
    assert_int_equal(may_open(world, "v", "vms/disk", incarnation - 1, false), -EPERM);
    assert_int_equal(may_open(world, "v", "vms/disk", incarnation, false), 0);
    assert_int_equal(may_open(world, "v", "vms/disk", incarnation + 1, false), 0);
    assert_int_equal(may_open(world, "v", "vms/disk2", 0, false), 0);
    assert_int_equal(may_open(world, "v", "vms/dis", 0, false), 0);
    assert_int_equal(may_open(world, "v", "vms", 0, false), 0);
    assert_int_equal(may_open(world, "w", "vms/disk", 0, false), 0);
    end(world, incarnation);
    assert_int_equal(may_open(world, "v", "vms/disk", 0, false), 0);
    assert_int_equal(may_open(world, "v", "vms/disk", incarnation, false), -EPERM);
}

/* A file has many paths: the file system passes over slashes that stand before, between and behind
 * names. */
static void a_disk_is_known_by_each_of_its_paths(void **state)
{
    static const char *const paths[] = {"/vms/disk", "vms//disk", "vms/disk/", "///vms///disk///"};
    struct world *world = *state;
    uint64_t incarnation = start(world);

    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        assert_int_equal(may_open(world, "v", paths[i], 0, false), -EPERM);
        assert_int_equal(may_open(world, "v", paths[i], incarnation, false), 0);
    }
    assert_int_equal(may_open(world, "v", "vmsdisk", 0, false), 0);
    assert_int_equal(may_open(world, "v", "", 0, false), 0);
}

/* One that was made and started at once, before the owner of its volume had heard of it. */
static void a_vm_that_is_not_known_yet_is_waited_for(void **state)
{
    struct world *world = *state;

    assert_int_equal(may_open(world, "v", "vms/new", world->index + 1, false), -EAGAIN);
    assert_int_equal(may_open(world, "v", "vms/new", world->index, false), -EPERM);
}

static void a_running_vms_disk_is_found_by_its_names(void **state)
{
    const char *const names[] = {"vms", "disk"};
    struct world *world = *state;
    uint64_t incarnation;

    assert_null(authorize_disk_with_name(world->database, "v", "disk", 0));
    incarnation = start(world);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_string_equal(authorize_disk_with_name(world->database, "v", names[i], 0),
                            "vms/disk");
        assert_null(authorize_disk_with_name(world->database, "v", names[i], 1));
    }
    assert_null(authorize_disk_with_name(world->database, "w", "disk", 0));
    assert_null(authorize_disk_with_name(world->database, "v", "vm", 0));
    assert_null(authorize_disk_with_name(world->database, "v", "disk2", 0));
    end(world, incarnation);
    assert_null(authorize_disk_with_name(world->database, "v", "disk", 0));
}

static void a_volume_has_vms_that_run_from_it(void **state)
{
    struct world *world = *state;
    uint64_t incarnation;

    assert_false(authorize_vm_runs_from(world->database, "v"));
    incarnation = start(world);
    assert_true(authorize_vm_runs_from(world->database, "v"));
    assert_false(authorize_vm_runs_from(world->database, "w"));
    end(world, incarnation);
    assert_false(authorize_vm_runs_from(world->database, "v"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_running_vms_disk_is_its_own),
        TEST(a_disk_is_known_by_each_of_its_paths),
        TEST(a_vm_that_is_not_known_yet_is_waited_for),
        TEST(a_running_vms_disk_is_found_by_its_names),
        TEST(a_volume_has_vms_that_run_from_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
