/* Health: the words that administrators see, from databases in known states; and that the page for
 * users says the same as the code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "s2d/node/health.h"
#include "tests/unit/database_commands.h"

/* ---- a cluster of three nodes with a disk each, and a volume of two slabs ---- */

#define NODES 3
#define EXTENTS 100

struct world {
    struct database *database;
    uint64_t index;
    uint64_t nodes[NODES], disks[NODES], volume, vdisk, vm;
};

static uint64_t apply(struct world *world, json_t *command, const char *name)
{
    return must_apply(world->database, &world->index, command, name);
}

static void make_nodes(struct world *world)
{
    char secret[65];

    memset(secret, 'a', 64);
    secret[64] = '\0';
    world->nodes[0] =
        apply(world,
              json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "verb", "cluster.create", "name", "c", "uuid",
                        "u", "key", "k", "node_name", "n1", "address", "10.0.0.1:1"),
              "node");
    for (int i = 1; i < NODES; i++) {
        char name[] = "n1", address[] = "10.0.0.1:1";
        uint64_t token = apply(world,
                               json_pack("{s:s,s:s,s:I}", "verb", "token.create", "secret", secret,
                                         "expires_ns", (json_int_t)1000),
                               "token");

        name[1] = address[7] = (char)('1' + i);
        world->nodes[i] = apply(world,
                                json_pack("{s:s,s:I,s:s,s:s}", "verb", "node.join", "token",
                                          (json_int_t)token, "name", name, "address", address),
                                "node");
    }
}

static void make_disks(struct world *world)
{
    apply(world,
          json_pack("{s:s,s:I}", "verb", "pool.create", "extent_bytes", (json_int_t)(16 * MIB)),
          "");
    for (int i = 0; i < NODES; i++) {
        world->disks[i] = apply(world,
                                json_pack("{s:s,s:I,s:s,s:s,s:s,s:s,s:s,s:I}", "verb", "disk.claim",
                                          "node", (json_int_t)world->nodes[i], "name", "d", "path",
                                          "/d", "uuid", "x", "role", "capacity", "media", "ssd",
                                          "size_bytes", (json_int_t)(2 * GIB)),
                                "disk");
        apply(world,
              json_pack("{s:s,s:I,s:I,s:I}", "verb", "disk.ready", "disk",
                        (json_int_t)world->disks[i], "extents", (json_int_t)EXTENTS, "log_bytes",
                        (json_int_t)MIB),
              "");
    }
}

static void make_volume(struct world *world)
{
    json_t *slabs = json_array();

    world->volume = apply(world,
                          json_pack("{s:s,s:s,s:I,s:s,s:I}", "verb", "volume.create", "name", "v",
                                    "size_bytes", (json_int_t)(64 * MIB), "resiliency", "mirror3",
                                    "owner", (json_int_t)world->nodes[0]),
                          "volume");
    world->vdisk =
        ((const struct volume_record *)database_find(world->database, TABLE_VOLUME, world->volume))
            ->vdisk;
    for (int number = 0; number < 2; number++) {
        json_t *columns = json_array();

        for (int i = 0; i < NODES; i++)
            json_array_append_new(columns,
                                  json_pack("{s:I,s:I}", "disk", (json_int_t)world->disks[i],
                                            "extent", (json_int_t)number));
        json_array_append_new(
            slabs, json_pack("{s:I,s:o}", "number", (json_int_t)number, "columns", columns));
    }
    apply(world,
          json_pack("{s:s,s:I,s:o}", "verb", "slab.add", "vdisk", (json_int_t)world->vdisk, "slabs",
                    slabs),
          "");
    apply(world,
          json_pack("{s:s,s:I,s:I}", "verb", "volume.online", "volume", (json_int_t)world->volume,
                    "session", (json_int_t)1),
          "");
}

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof(*world));

    assert_int_equal(database_new(&world->database), 0);
    make_nodes(world);
    make_disks(world);
    make_volume(world);
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

static void kill_node(struct world *world, int i)
{
    apply(world,
          json_pack("{s:s,s:I,s:I}", "verb", "node.down", "node", (json_int_t)world->nodes[i],
                    "start_counter", (json_int_t)0),
          "");
}

/* ---- volumes ---- */

static const struct health_volume serving = {.serving = true};

static void expect_volume(struct world *world, const struct health_volume *report,
                          const char *state, enum health health, const char *text)
{
    const struct volume_record *volume =
        database_find(world->database, TABLE_VOLUME, world->volume);
    struct health_verdict verdict;

    health_of_volume(world->database, volume, report, &verdict);
    assert_string_equal(verdict.state->state, state);
    assert_int_equal(verdict.state->health, health);
    if (!strstr(verdict.text, text))
        fail_msg("'%s' does not say '%s'", verdict.text, text);
}

static uint64_t epoch_of(struct world *world)
{
    return ((const struct vdisk_record *)database_find(world->database, TABLE_VDISK, world->vdisk))
        ->epoch;
}

static void a_volume_with_all_copies_is_healthy(void **state)
{
    expect_volume(*state, &serving, "OK", HEALTH_HEALTHY, "");
}

static void stale_copies_are_degraded(void **state)
{
    struct world *world = *state;

    kill_node(world, 2);
    expect_volume(world, &serving, "Degraded", HEALTH_WARNING, "disk d of node n3, which is down");
}

static void one_current_copy_is_no_redundancy(void **state)
{
    struct world *world = *state;

    kill_node(world, 2);
    kill_node(world, 1);
    expect_volume(world, &serving, "No redundancy", HEALTH_UNHEALTHY, "which is down");
}

/* Current copies that cannot be reached: nobody wrote without them. */
static void missing_copies_are_incomplete(void **state)
{
    struct world *world = *state;
    struct disk_record *disk =
        (struct disk_record *)database_find(world->database, TABLE_DISK, world->disks[1]);

    disk->state = DISK_FAILED;
    expect_volume(world, &serving, "Incomplete", HEALTH_WARNING, "disk d of node n2");
    disk->state = DISK_OK;
    expect_volume(world, &serving, "OK", HEALTH_HEALTHY, "");
}

static void a_waiting_volume_says_for_what(void **state)
{
    struct world *world = *state;
    const struct health_volume waiting = {.serving = true, .waiting = "a copy of slab 3"};
    const struct health_volume taking_over = {.serving = false};
    /* A disk that died while it was being retired is retiring, and nothing else, in the database.
     */
    const struct health_volume stuck = {
        .serving = true, .detached_slabs = 1, .detached_disk = world->disks[0]};

    expect_volume(world, &stuck, "Detached", HEALTH_UNHEALTHY, "1 of 2 slabs have too few");
    expect_volume(world, &waiting, "Detached", HEALTH_UNHEALTHY, "a copy of slab 3");
    expect_volume(world, &taking_over, "Detached", HEALTH_UNHEALTHY, "taking it over");
    expect_volume(world, NULL, "Detached", HEALTH_UNHEALTHY, "n1 does not answer");
    kill_node(world, 0);
    expect_volume(world, NULL, "Detached", HEALTH_UNHEALTHY, "no owner");
}

/* I3 leaves the last copy in-sync; when it is away, the volume waits for it. */
static void without_a_copy_it_is_detached(void **state)
{
    struct world *world = *state;

    kill_node(world, 2);
    kill_node(world, 1);
    apply(world,
          json_pack("{s:s,s:I,s:s}", "verb", "disk.failed", "disk", (json_int_t)world->disks[0],
                    "reason", "input/output error"),
          "");
    expect_volume(world, &serving, "Detached", HEALTH_UNHEALTHY,
                  "2 of 2 slabs have no current copy");
}

static void a_read_only_volume_says_so(void **state)
{
    const struct health_volume report = {.serving = true, .read_only = true, .lost_blocks = 5};

    expect_volume(*state, &report, "Read-only", HEALTH_UNHEALTHY, "cannot be written");
}

static void lost_blocks_are_said(void **state)
{
    const struct health_volume report = {.serving = true, .lost_blocks = 5};

    expect_volume(*state, &report, "Data lost", HEALTH_UNHEALTHY, "5");
}

static void a_healed_volume_is_healthy_again(void **state)
{
    struct world *world = *state;

    kill_node(world, 2);
    apply(world,
          json_pack("{s:s,s:I,s:I}", "verb", "node.started", "node", (json_int_t)world->nodes[2],
                    "start_counter", (json_int_t)1),
          "");
    expect_volume(world, &serving, "Degraded", HEALTH_WARNING, "disk d of node n3");
    apply(world,
          json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.in_sync", "vdisk", (json_int_t)world->vdisk,
                    "epoch", (json_int_t)epoch_of(world), "disk", (json_int_t)world->disks[2]),
          "");
    expect_volume(world, &serving, "OK", HEALTH_HEALTHY, "");
}

/* ---- the rest ---- */

static void expect_disk(struct world *world, const struct health_disk *report, const char *state)
{
    struct health_verdict verdict;

    health_of_disk(world->database, database_find(world->database, TABLE_DISK, world->disks[1]),
                   report, &verdict);
    assert_string_equal(verdict.state->state, state);
}

static void disks_say_what_is_wrong(void **state)
{
    struct world *world = *state;
    const struct health_disk fine = {.open = true};
    const struct health_disk shut = {.open = false, .reason = "device is busy"};
    const struct health_disk healed = {.open = true, .healed_blocks = 3};
    const struct health_disk rotten = {.open = true, .rotten_blocks = 1, .healed_blocks = 2};
    const struct health_disk dying = {.open = true, .healed_blocks = 500};
    const struct health_disk old = {.open = true, .rotten_blocks = 1, .withheld_slabs = 2};

    expect_disk(world, &fine, "OK");
    expect_disk(world, NULL, "OK"); /* its node says nothing now; it is not down for that */
    expect_disk(world, &shut, "Not open");
    expect_disk(world, &healed, "OK");
    expect_disk(world, &rotten, "Media errors");
    expect_disk(world, &dying, "Media errors");
    expect_disk(world, &old, "Copies withheld");
    kill_node(world, 1);
    expect_disk(world, NULL, "Node down");
    apply(world, json_pack("{s:s,s:I}", "verb", "disk.retire", "disk", (json_int_t)world->disks[1]),
          "");
    apply(world,
          json_pack("{s:s,s:I,s:I}", "verb", "node.started", "node", (json_int_t)world->nodes[1],
                    "start_counter", (json_int_t)1),
          "");
    expect_disk(world, &fine, "Retiring");
}

static void expect_quorum(unsigned votes, unsigned up, bool leader, const char *state)
{
    struct health_quorum quorum = {.votes = votes, .votes_up = up, .has_leader = leader};
    struct health_verdict verdict;

    health_of_quorum(&quorum, &verdict);
    assert_string_equal(verdict.state->state, state);
}

static void quorum_is_a_majority_with_a_leader(void **state)
{
    (void)state;
    expect_quorum(3, 3, true, "OK");
    expect_quorum(3, 2, true, "Votes missing");
    expect_quorum(3, 1, true, "No quorum");
    expect_quorum(3, 3, false, "No quorum");
    expect_quorum(2, 1, true, "No quorum");
    expect_quorum(1, 1, true, "OK");
    expect_quorum(0, 0, false, "No quorum");
}

static void set_extents(struct world *world, uint64_t extents)
{
    for (int i = 0; i < NODES; i++)
        ((struct disk_record *)database_find(world->database, TABLE_DISK, world->disks[i]))
            ->extents = extents;
}

static void the_pool_warns_before_it_is_full(void **state)
{
    struct world *world = *state;
    struct health_space space = health_space_of(world->database);
    struct vdisk_record *vdisk = (void *)database_find(world->database, TABLE_VDISK, world->vdisk);
    struct health_verdict verdict;

    assert_int_equal(space.size_bytes, NODES * EXTENTS * 16 * MIB);
    assert_int_equal(space.used_bytes, 2 * NODES * 16 * MIB);
    assert_int_equal(space.promised_bytes, NODES * 64 * MIB);
    health_of_pool(world->database, &verdict);
    assert_string_equal(verdict.state->state, "OK");
    set_extents(world, 2);
    vdisk->size_bytes = 2 * vdisk->slab_bytes; /* all of the volume has its place */
    health_of_pool(world->database, &verdict);
    assert_string_equal(verdict.state->state, "Nearly full");
}

/* What counts is not the percentage, but whether another slab finds a place: a disk on each of
 * three nodes. */
static void the_pool_says_when_a_volume_cannot_grow(void **state)
{
    struct world *world = *state;
    const struct volume_record *volume =
        database_find(world->database, TABLE_VOLUME, world->volume);
    struct health_verdict verdict;

    apply(world,
          json_pack("{s:s,s:I,s:I}", "verb", "volume.resize", "volume", (json_int_t)world->volume,
                    "size_bytes", (json_int_t)(GIB)),
          "");
    assert_true(volume->thin);
    set_extents(world, 3);
    health_of_pool(world->database, &verdict);
    assert_string_equal(verdict.state->state, "OK"); /* one more fits */
    set_extents(world, 2);
    health_of_pool(world->database, &verdict);
    assert_string_equal(verdict.state->state, "No space");
    assert_non_null(strstr(verdict.text, "volume v"));

    set_extents(world, EXTENTS);
    apply(world,
          json_pack("{s:s,s:I,s:s}", "verb", "disk.failed", "disk", (json_int_t)world->disks[2],
                    "reason", "it broke"),
          "");
    health_of_pool(world->database, &verdict);
    assert_string_equal(verdict.state->state, "No space");
}

static void a_vm_that_should_run_and_does_not_is_unhealthy(void **state)
{
    struct world *world = *state;
    static const struct health_vm runs = {.running = true}, silent = {.running = false},
                                  full = {.running = true, .no_space = true};
    const struct vm_record *vm;
    struct health_verdict verdict;

    world->vm =
        apply(world,
              json_pack("{s:s,s:s,s:I,s:I,s:[s]}", "verb", "vm.create", "name", "w", "memory_bytes",
                        (json_int_t)(64 * MIB), "vcpus", (json_int_t)1, "disks", "v/a"),
              "vm");
    vm = database_find(world->database, TABLE_VM, world->vm);
    health_of_vm(world->database, vm, &silent, &verdict);
    assert_string_equal(verdict.state->state, "OK"); /* stopped, as wanted */
    apply(world,
          json_pack("{s:s,s:I,s:I,s:I}", "verb", "vm.start", "vm", (json_int_t)world->vm, "node",
                    (json_int_t)world->nodes[1], "incarnation", (json_int_t)0),
          "");
    health_of_vm(world->database, vm, &silent, &verdict);
    assert_string_equal(verdict.state->state, "Starting");
    health_of_vm(world->database, vm, &runs, &verdict);
    assert_string_equal(verdict.state->state, "OK");
    health_of_vm(world->database, vm, &full, &verdict);
    assert_string_equal(verdict.state->state, "No space");
    kill_node(world, 1);
    health_of_vm(world->database, vm, &silent, &verdict);
    assert_string_equal(verdict.state->state, "Failed");
}

/* ---- the page for users ---- */

static char *read_file(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = calloc(1, 256 * 1024);

    if (!file || fread(text, 1, 256 * 1024 - 1, file) == 0)
        fail_msg("%s cannot be read", path);
    fclose(file);
    return text;
}

static void the_page_says_what_the_code_says(void **state)
{
    char *made, *kept = read_file(S2D_SOURCE "/docs/events.md");

    (void)state;
    assert_int_equal(health_render(&made), 0);
    if (strcmp(made, kept) != 0) {
        FILE *out = fopen("events.md.new", "w");

        if (out) {
            fputs(made, out);
            fclose(out);
        }
        fail_msg("docs/events.md is not what the tables say; events.md.new in this folder is");
    }
    free(made);
    free(kept);
}

static bool is_listed(const char *code, size_t length)
{
    for (const struct health_event *event = health_events; event->code; event++) {
        if (strlen(event->code) == length && memcmp(event->code, code, length) == 0)
            return true;
    }
    return false;
}

/* Each code that the sources give an event is in the table: the word behind `marker`. */
static void check_codes(const char *path, const char *marker, unsigned *found)
{
    char *text = read_file(path);

    for (const char *place = text; (place = strstr(place, marker));) {
        const char *code = strchr(place += strlen(marker), '"');
        size_t length;

        if (!code)
            break;
        length = strcspn(++code, "\"");
        if (!is_listed(code, length))
            fail_msg("%s: the event '%.*s' is not in health_events", path, (int)length, code);
        (*found)++;
    }
    free(text);
}

static void every_event_is_in_the_table(void **state)
{
    static const char *const files[] = {"database_cluster.c", "database_vdisk.c",
                                        "database_volume.c", "database_vm.c"};
    unsigned found = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        char path[512];

        snprintf(path, sizeof(path), S2D_SOURCE "/s2d/cluster/%s", files[i]);
        check_codes(path, "database_add_event(command, SEVERITY_", &found);
    }
    check_codes(S2D_SOURCE "/s2d/node/volumes.c", "\"code\",", &found);
    assert_true(found >= 9); /* the search itself works */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_volume_with_all_copies_is_healthy, setup, teardown),
        cmocka_unit_test_setup_teardown(stale_copies_are_degraded, setup, teardown),
        cmocka_unit_test_setup_teardown(one_current_copy_is_no_redundancy, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_copies_are_incomplete, setup, teardown),
        cmocka_unit_test_setup_teardown(a_waiting_volume_says_for_what, setup, teardown),
        cmocka_unit_test_setup_teardown(without_a_copy_it_is_detached, setup, teardown),
        cmocka_unit_test_setup_teardown(a_read_only_volume_says_so, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_blocks_are_said, setup, teardown),
        cmocka_unit_test_setup_teardown(a_healed_volume_is_healthy_again, setup, teardown),
        cmocka_unit_test_setup_teardown(disks_say_what_is_wrong, setup, teardown),
        cmocka_unit_test(quorum_is_a_majority_with_a_leader),
        cmocka_unit_test_setup_teardown(the_pool_warns_before_it_is_full, setup, teardown),
        cmocka_unit_test_setup_teardown(the_pool_says_when_a_volume_cannot_grow, setup, teardown),
        cmocka_unit_test_setup_teardown(a_vm_that_should_run_and_does_not_is_unhealthy, setup,
                                        teardown),
        cmocka_unit_test(the_page_says_what_the_code_says),
        cmocka_unit_test(every_event_is_in_the_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
