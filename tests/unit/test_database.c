/* The database as a state machine: the rules of I3 under random commands, refusals that change
 * nothing, storage that gives back what was put. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "s2d/cluster/database.h"
#include "s2d/cluster/kv.h"

struct state {
    struct database *database;
    uint64_t index;
    struct command_result result;
};

static int setup(void **state)
{
    struct state *s = calloc(1, sizeof(*s));

    assert_int_equal(database_new(&s->database), 0);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct state *s = *state;

    command_result_done(&s->result);
    database_free(s->database);
    free(s);
    return 0;
}

/* Applies and frees the command; returns its code. */
static int apply(struct state *s, json_t *command)
{
    assert_non_null(command);
    command_result_done(&s->result);
    database_apply(s->database, ++s->index, command, &s->result);
    json_decref(command);
    database_check(s->database);
    return s->result.code;
}

static uint64_t reply(struct state *s, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(s->result.reply, name));
}

#define NODES 4
#define DISKS_PER_NODE 2
#define EXTENTS 40

static void make_cluster(struct state *s, uint64_t *ret_disks)
{
    char name[16], secret[65];
    size_t disks = 0;

    memset(secret, 'a', 64);
    secret[64] = '\0';
    assert_int_equal(
        apply(s, json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "verb", "cluster.create", "name", "c",
                           "uuid", "u", "key", "k", "node_name", "n1", "address", "10.0.0.1:1")),
        0);
    for (int node = 2; node <= NODES; node++) {
        uint64_t token;

        assert_int_equal(apply(s, json_pack("{s:s,s:s,s:I}", "verb", "token.create", "secret",
                                            secret, "expires_ns", (json_int_t)1)),
                         0);
        token = reply(s, "token");
        snprintf(name, sizeof(name), "n%d", node);
        assert_int_equal(
            apply(s, json_pack("{s:s,s:I,s:s,s:s}", "verb", "node.join", "token", (json_int_t)token,
                               "name", name, "address", "10.0.0.9:1")),
            0);
    }
    /* No disk can be claimed with such extents, and there is no second try. */
    assert_int_equal(apply(s, json_pack("{s:s,s:I}", "verb", "pool.create", "extent_bytes",
                                        (json_int_t)(512 * MIB))),
                     -EINVAL);
    assert_int_equal(apply(s, json_pack("{s:s,s:I}", "verb", "pool.create", "extent_bytes",
                                        (json_int_t)(16 * MIB))),
                     0);
    for (size_t i = 0; i < database_count(s->database, TABLE_NODE); i++) {
        const struct node_record *node = database_at(s->database, TABLE_NODE, i);
        uint64_t id = node->base.id;

        for (int disk = 0; disk < DISKS_PER_NODE; disk++) {
            snprintf(name, sizeof(name), "ssd%d", disk);
            assert_int_equal(apply(s, json_pack("{s:s,s:I,s:s,s:s,s:s,s:s,s:s,s:I}", "verb",
                                                "disk.claim", "node", (json_int_t)id, "name", name,
                                                "path", "/dev/x", "uuid", "u", "role", "capacity",
                                                "media", "ssd", "size_bytes", (json_int_t)GIB)),
                             0);
            ret_disks[disks++] = reply(s, "disk");
            assert_int_equal(apply(s, json_pack("{s:s,s:I,s:I,s:I}", "verb", "disk.ready", "disk",
                                                (json_int_t)ret_disks[disks - 1], "extents",
                                                (json_int_t)EXTENTS, "log_bytes", (json_int_t)MIB)),
                             0);
        }
    }
}

static uint64_t make_volume(struct state *s, const char *name, uint64_t owner)
{
    assert_int_equal(apply(s, json_pack("{s:s,s:s,s:I,s:s,s:b,s:I}", "verb", "volume.create",
                                        "name", name, "size_bytes", (json_int_t)GIB, "resiliency",
                                        "mirror3", "thin", 1, "owner", (json_int_t)owner)),
                     0);
    return reply(s, "vdisk");
}

static int add_slab(struct state *s, uint64_t vdisk, uint64_t number, const uint64_t *disks,
                    const uint64_t *extents)
{
    json_t *columns = json_array();

    for (int i = 0; i < 3; i++)
        json_array_append_new(columns, json_pack("{s:I,s:I}", "disk", (json_int_t)disks[i],
                                                 "extent", (json_int_t)extents[i]));
    return apply(s, json_pack("{s:s,s:I,s:[{s:I,s:o}]}", "verb", "slab.add", "vdisk",
                              (json_int_t)vdisk, "slabs", "number", (json_int_t)number, "columns",
                              columns));
}

static json_t *parity_volume(int data_columns)
{
    return json_pack("{s:s,s:s,s:I,s:s,s:i,s:i}", "verb", "volume.create", "name", "p",
                     "size_bytes", (json_int_t)GIB, "resiliency", "parity2", "data_columns",
                     data_columns, "owner", 1);
}

static const struct vdisk_record *vdisk_of(struct state *s, uint64_t id)
{
    return database_find(s->database, TABLE_VDISK, id);
}

static int mark_stale(struct state *s, uint64_t vdisk, uint64_t epoch, uint64_t disk)
{
    return apply(s,
                 json_pack("{s:s,s:I,s:I,s:[I]}", "verb", "vdisk.stale", "vdisk", (json_int_t)vdisk,
                           "epoch", (json_int_t)epoch, "disks", (json_int_t)disk));
}

static int mark_in_sync(struct state *s, uint64_t vdisk, uint64_t epoch, uint64_t disk)
{
    return apply(s,
                 json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.in_sync", "vdisk", (json_int_t)vdisk,
                           "epoch", (json_int_t)epoch, "disk", (json_int_t)disk));
}

static int own(struct state *s, uint64_t vdisk, uint64_t epoch, uint64_t owner)
{
    return apply(s, json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.own", "vdisk", (json_int_t)vdisk,
                              "epoch", (json_int_t)epoch, "owner", (json_int_t)owner));
}

/* I3: a command decided in an older epoch is void, whatever it says. */
static void commands_of_an_old_epoch_are_void(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vdisk, epoch, second;

    make_cluster(s, disks);
    second = ((const struct node_record *)database_at(s->database, TABLE_NODE, 1))->base.id;
    vdisk = make_volume(s, "v", 1);
    assert_int_equal(
        add_slab(s, vdisk, 0, (uint64_t[]){disks[0], disks[2], disks[4]}, (uint64_t[]){0, 0, 0}),
        0);
    epoch = vdisk_of(s, vdisk)->epoch;
    assert_int_equal(mark_stale(s, vdisk, epoch, disks[2]), 0);
    assert_int_equal(vdisk_of(s, vdisk)->epoch, epoch + 1);
    assert_int_equal(mark_stale(s, vdisk, epoch, disks[4]), -ESTALE);
    assert_int_equal(mark_in_sync(s, vdisk, epoch, disks[2]), -ESTALE);
    assert_int_equal(own(s, vdisk, epoch, second), -ESTALE);
    assert_int_equal(vdisk_of(s, vdisk)->epoch, epoch + 1);
    assert_int_equal(own(s, vdisk, epoch + 1, second), 0);
    assert_int_equal(vdisk_of(s, vdisk)->session, epoch + 2);
}

/* I3: by nothing, not by the death of its node either. */
static void the_last_in_sync_column_is_never_stale(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vdisk;
    const struct slab_record *slab;

    make_cluster(s, disks);
    vdisk = make_volume(s, "v", 1);
    assert_int_equal(
        add_slab(s, vdisk, 0, (uint64_t[]){disks[0], disks[2], disks[4]}, (uint64_t[]){0, 0, 0}),
        0);
    assert_int_equal(mark_stale(s, vdisk, vdisk_of(s, vdisk)->epoch, disks[0]), 0);
    assert_int_equal(mark_stale(s, vdisk, vdisk_of(s, vdisk)->epoch, disks[2]), 0);
    assert_int_equal(mark_stale(s, vdisk, vdisk_of(s, vdisk)->epoch, disks[4]), -EALREADY);
    for (int i = 0; i < NODES; i++) {
        const struct node_record *node = database_at(s->database, TABLE_NODE, i);

        apply(s, json_pack("{s:s,s:I,s:I}", "verb", "node.down", "node", (json_int_t)node->base.id,
                           "start_counter", (json_int_t)0));
    }
    slab = database_slab(s->database, vdisk, 0);
    assert_int_equal(slab->columns[2].state, COLUMN_RECORD_IN_SYNC);
    assert_int_equal(vdisk_of(s, vdisk)->owner, 0);
}

/* Two slabs never share an extent, and a refused command leaves no trace. */
/* Parity: as many in-sync columns as the data needs stay, and the slab waits for the others (I3).
 */
static void the_last_columns_that_data_needs_are_never_stale(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vdisk;
    const struct slab_record *slab;
    json_t *columns = json_array();

    make_cluster(s, disks);
    assert_int_equal(apply(s, parity_volume(0)), 0);
    vdisk = reply(s, "vdisk");
    assert_int_equal(vdisk_of(s, vdisk)->data_columns, 2); /* the default on four nodes */
    assert_int_equal(vdisk_of(s, vdisk)->slab_bytes, 2 * 16 * MIB);
    for (int i = 0; i < 4; i++)
        json_array_append_new(
            columns, json_pack("{s:I,s:i}", "disk", (json_int_t)disks[2 * i], "extent", 0));
    assert_int_equal(
        apply(s, json_pack("{s:s,s:I,s:[{s:i,s:o}]}", "verb", "slab.add", "vdisk",
                           (json_int_t)vdisk, "slabs", "number", 0, "columns", columns)),
        0);
    assert_int_equal(mark_stale(s, vdisk, vdisk_of(s, vdisk)->epoch, disks[0]), 0);
    assert_int_equal(mark_stale(s, vdisk, vdisk_of(s, vdisk)->epoch, disks[6]), 0);
    assert_int_equal(mark_stale(s, vdisk, vdisk_of(s, vdisk)->epoch, disks[2]), -EALREADY);
    slab = database_slab(s->database, vdisk, 0);
    assert_int_equal(slab->columns[1].state, COLUMN_RECORD_IN_SYNC);
    assert_int_equal(slab->columns[2].state, COLUMN_RECORD_IN_SYNC);
}

/* A shape needs as many nodes as it has columns, and only parity has one. */
static void parity_needs_a_node_to_each_column(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE];

    make_cluster(s, disks);
    assert_int_equal(apply(s, parity_volume(3)), -ENOSPC); /* five columns, four nodes */
    assert_int_equal(apply(s, parity_volume(1)), -EINVAL);
    assert_int_equal(apply(s, parity_volume(15)), -EINVAL);
    assert_int_equal(apply(s, parity_volume(2)), 0);
    assert_int_equal(apply(s, json_pack("{s:s,s:s,s:I,s:s,s:i}", "verb", "volume.create", "name",
                                        "m", "size_bytes", (json_int_t)GIB, "resiliency", "mirror3",
                                        "data_columns", 2)),
                     -EINVAL);
}

static void an_extent_belongs_to_one_slab(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vdisk;
    size_t changes;

    make_cluster(s, disks);
    vdisk = make_volume(s, "v", 1);
    assert_int_equal(
        add_slab(s, vdisk, 0, (uint64_t[]){disks[0], disks[2], disks[4]}, (uint64_t[]){1, 2, 3}),
        0);
    assert_int_equal(
        add_slab(s, vdisk, 1, (uint64_t[]){disks[0], disks[2], disks[4]}, (uint64_t[]){4, 2, 5}),
        -EAGAIN);
    database_changes(s->database, &changes);
    assert_int_equal(changes, 0);
    assert_true(database_extent_is_free(s->database, disks[0], 4));
    assert_int_equal(database_used_extents(s->database, disks[0]), 1);
    assert_int_equal(
        add_slab(s, vdisk, 1, (uint64_t[]){disks[0], disks[0], disks[4]}, (uint64_t[]){4, 5, 5}),
        -EINVAL);
    assert_null(database_slab(s->database, vdisk, 1));
}

static int create_vm(struct state *s, const char *name, const char *disk, const char *second)
{
    return apply(s, json_pack("{s:s,s:s,s:I,s:i,s:[s,s*]}", "verb", "vm.create", "name", name,
                              "memory_bytes", (json_int_t)(64 * MIB), "vcpus", 1, "disks", disk,
                              second));
}

/* Two guests that write to one disk spoil it. Who asked may not have known of the other VM. */
static void a_disk_is_one_vms(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vm;

    make_cluster(s, disks);
    make_volume(s, "v", 1);
    assert_int_equal(create_vm(s, "vm1", "v/a", "v/b"), 0);
    vm = reply(s, "vm");
    assert_int_equal(create_vm(s, "vm2", "v/c", "v/b"), -EBUSY);
    assert_int_equal(create_vm(s, "vm2", "v/c", "v/c"), -EINVAL);
    assert_int_equal(create_vm(s, "vm2", "v//a", NULL), -EINVAL); /* the same file */
    assert_int_equal(create_vm(s, "vm2", "v/a/", NULL), -EINVAL);
    assert_int_equal(create_vm(s, "vm2", "v/c", "v/d//a"), -EINVAL);
    assert_int_equal(create_vm(s, "vm2", "v/c", NULL), 0);
    assert_int_equal(apply(s, json_pack("{s:s,s:I}", "verb", "vm.delete", "vm", (json_int_t)vm)),
                     0);
    assert_int_equal(create_vm(s, "vm3", "v/b", NULL), 0);
}

static void two_starts_of_a_vm_cannot_both_win(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vm, first;
    json_t *start;

    make_cluster(s, disks);
    make_volume(s, "v", 1);
    assert_int_equal(apply(s, json_pack("{s:s,s:s,s:I,s:I,s:[s]}", "verb", "vm.create", "name",
                                        "vm1", "memory_bytes", (json_int_t)(64 * MIB), "vcpus",
                                        (json_int_t)1, "disks", "v/disk.raw")),
                     0);
    vm = reply(s, "vm");
    start = json_pack("{s:s,s:I,s:I,s:I}", "verb", "vm.start", "vm", (json_int_t)vm, "node",
                      (json_int_t)1, "incarnation", (json_int_t)0);
    assert_int_equal(apply(s, json_incref(start)), 0);
    first = reply(s, "incarnation");
    assert_int_equal(apply(s, json_incref(start)), -ESTALE);
    json_object_set_new(start, "incarnation", json_integer((json_int_t)first));
    assert_int_equal(apply(s, json_incref(start)), -EALREADY);
    json_object_set_new(start, "force", json_true());
    assert_int_equal(apply(s, json_incref(start)), -ESTALE); /* its host is up: two copies */
    assert_int_equal(
        apply(s, json_pack("{s:s,s:i,s:i}", "verb", "node.down", "node", 1, "start_counter", 0)),
        0);
    json_object_set_new(start, "node",
                        json_integer((json_int_t)((const struct node_record *)database_at(
                                                      s->database, TABLE_NODE, 1))
                                         ->base.id));
    assert_int_equal(apply(s, start), 0);
    /* the first incarnation's end is nobody's business any more */
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:I}", "verb", "vm.ended", "vm", (json_int_t)vm,
                                        "incarnation", (json_int_t)first)),
                     0);
    assert_true(((const struct vm_record *)database_find(s->database, TABLE_VM, vm))->ended <
                first);
}

/* Whoever joins is asked in JSON of his own making. A wrong type must be refused before anything
 * changes: a refusal after a change would end every node of the cluster, at each start again. */
static void arguments_are_read_before_anything_changes(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vdisk;
    json_t *commands[] = {
        json_pack("{s:s,s:I,s:s,s:s,s:s}", "verb", "node.join", "token", (json_int_t)0, "name",
                  "n9", "address", "10.0.0.9:1", "start_counter", "many"),
        json_pack("{s:s,s:I,s:s,s:s,s:i}", "verb", "node.join", "token", (json_int_t)0, "name",
                  "n9", "address", "10.0.0.9:1", "site", 5),
        json_pack("{s:s,s:I,s:s,s:s}", "verb", "node.join", "token", (json_int_t)0, "name", "n9",
                  "address", "somewhere"),
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "verb", "event.add", "severity", "warning", "code",
                  "heal", "subject", "d", "text", "t", "time_ns", "now"),
        json_pack("{s:s,s:s,s:s,s:s}", "verb", "job.create", "kind", "k", "target", "t", "time_ns",
                  "now"),
    };

    make_cluster(s, disks);
    vdisk = make_volume(s, "v", 1);
    assert_int_equal(apply(s, json_pack("{s:s,s:s,s:I}", "verb", "token.create", "secret",
                                        "0123456789abcdef0123456789abcdef0123456789abcdef"
                                        "0123456789abcdef",
                                        "expires_ns", (json_int_t)9)),
                     0);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (json_object_get(commands[i], "token"))
            json_object_set_new(commands[i], "token", json_integer((json_int_t)reply(s, "token")));
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        assert_int_equal(apply(s, commands[i]), -EINVAL);
    assert_int_equal(
        apply(s, json_pack("{s:s,s:I,s:I,s:I,s:s}", "verb", "vdisk.own", "vdisk", (json_int_t)vdisk,
                           "epoch", (json_int_t)vdisk_of(s, vdisk)->epoch, "owner", (json_int_t)1,
                           "preferred", "yes")),
        -EINVAL);
}

static int create_job(struct state *s, const char *target)
{
    return apply(
        s, json_pack("{s:s,s:s,s:s}", "verb", "job.create", "kind", "rebuild", "target", target));
}

/* A new leader may begin a job that the last one began; who tells progress does not undo a pause;
 * and those that have ended do not pile up. */
static void jobs_are_begun_once_and_forgotten(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], first;
    const struct job_record *job;

    make_cluster(s, disks);
    assert_int_equal(create_job(s, "v"), 0);
    first = reply(s, "job");
    assert_int_equal(create_job(s, "v"), -EEXIST);
    assert_int_equal(create_job(s, "w"), 0);
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:s}", "verb", "job.update", "job",
                                        (json_int_t)first, "state", "paused")),
                     0);
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:I}", "verb", "job.update", "job",
                                        (json_int_t)first, "done_bytes", (json_int_t)5)),
                     0);
    job = database_find(s->database, TABLE_JOB, first);
    assert_int_equal(job->state, JOB_PAUSED);
    assert_int_equal(job->done_bytes, 5);
    assert_int_equal(create_job(s, "v"), -EEXIST);
    for (unsigned i = 0; i < 2 * JOBS_KEPT; i++) {
        assert_int_equal(create_job(s, "x"), 0);
        assert_int_equal(apply(s, json_pack("{s:s,s:I,s:s}", "verb", "job.update", "job",
                                            (json_int_t)reply(s, "job"), "state", "done")),
                         0);
    }
    assert_int_equal(database_count(s->database, TABLE_JOB), JOBS_KEPT);
    assert_non_null(database_find(s->database, TABLE_JOB, first)); /* it has not ended */
}

/* A text that is cut must not end in half a character: it could not be written as JSON, and a node
 * that cannot write its state stops. */
static void long_texts_are_cut_between_characters(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE];
    const struct event_record *event;
    char text[1024], odd[] = "caf\xe9 \xf0\x9f";
    json_t *json;

    make_cluster(s, disks);
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'x', sizeof(text));
        for (size_t i = shift; i + 4 < sizeof(text); i += 4)
            memcpy(text + i, "\xf0\x9f\x92\xbe", 4);
        text[shift + 800] = '\0';
        assert_int_equal(
            apply(s, json_pack("{s:s,s:s,s:s,s:s,s:s}", "verb", "event.add", "severity", "warning",
                               "code", "heal", "subject", text, "text", text)),
            0);
        event = database_at(s->database, TABLE_EVENT, database_count(s->database, TABLE_EVENT) - 1);
        json = record_to_json(TABLE_EVENT, event);
        assert_non_null(json);
        assert_true(strlen(event->text) >= sizeof(event->text) - 4);
        json_decref(json);
    }
    text_make_valid(odd);
    assert_string_equal(odd, "caf? ??");
}

/* Commands are parsed on the small stack of a coroutine, and a guest may write one. */
static void deep_json_is_refused(void **state)
{
    char text[4096] = "{\"a\": ";
    json_t *json;

    (void)state;
    memset(text + strlen(text), '[', 2000);
    assert_null(json_parse(text, strlen(text)));
    assert_null(json_parse("[1]", 3));
    assert_null(json_parse(NULL, 0));
    strcpy(text, "{\"[[[[[[[[[[[[[[[[[[\\\"[[[\": [[[[[[[[[[[[[[[]]]]]]]]]]]]]]]}");
    json = json_parse(text, strlen(text));
    assert_non_null(json);
    json_decref(json);
}

/* The same slab twice in one command would take the place of itself. */
/* A slab is written without JSON objects in between, and must be what it is with them. */
static void a_slabs_text_is_its_json(void **state)
{
    struct slab_record slab = {.base.id = slab_id(VDISK_SLABS_MAX, 7), .vdisk = 9, .number = 7};

    (void)state;
    for (slab.column_count = 0; slab.column_count <= COLUMNS_MAX; slab.column_count++) {
        json_t *json = record_to_json(TABLE_SLAB, &slab);
        char *expected = json_dumps(json, JSON_COMPACT);
        char *text = record_to_text(TABLE_SLAB, &slab);

        assert_string_equal(text, expected);
        free(text);
        free(expected);
        json_decref(json);
        if (slab.column_count < COLUMNS_MAX)
            slab.columns[slab.column_count] = (struct column_record){
                .disk = UINT64_MAX >> slab.column_count,
                .extent = slab.column_count,
                .generation = INT64_MAX,
                .state = slab.column_count % 2,
                .stale_epoch = slab.column_count % 3 ? 0 : INT64_MAX,
                .in_sync_epoch = slab.column_count * 10,
            };
    }
}

static void a_slab_is_added_once(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vdisk;
    json_t *slabs = json_array();

    make_cluster(s, disks);
    vdisk = make_volume(s, "v", 1);
    for (int i = 0; i < 2; i++)
        json_array_append_new(slabs, json_pack("{s:i,s:[{s:I,s:i},{s:I,s:i},{s:I,s:i}]}", "number",
                                               3, "columns", "disk", (json_int_t)disks[0], "extent",
                                               i, "disk", (json_int_t)disks[2], "extent", i, "disk",
                                               (json_int_t)disks[4], "extent", i));
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:o}", "verb", "slab.add", "vdisk",
                                        (json_int_t)vdisk, "slabs", slabs)),
                     -EINVAL);
    assert_null(database_slab(s->database, vdisk, 3));
}

/* A slab that goes back to the pool frees its extents; a copy of the command that comes late must
 * not take the slab's successor with it. */
static void a_slab_is_released_once(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vdisk, epoch;
    json_t *release;

    make_cluster(s, disks);
    vdisk = make_volume(s, "v", 1);
    assert_int_equal(
        add_slab(s, vdisk, 3, (uint64_t[]){disks[0], disks[2], disks[4]}, (uint64_t[]){7, 7, 7}),
        0);
    epoch = vdisk_of(s, vdisk)->epoch;
    release = json_pack("{s:s,s:I,s:I,s:i}", "verb", "slab.release", "vdisk", (json_int_t)vdisk,
                        "epoch", (json_int_t)epoch, "number", 3);
    assert_int_equal(apply(s, json_incref(release)), 0);
    assert_null(database_slab(s->database, vdisk, 3));
    assert_true(database_extent_is_free(s->database, disks[2], 7));
    assert_true(vdisk_of(s, vdisk)->epoch > epoch);
    assert_int_equal(
        add_slab(s, vdisk, 3, (uint64_t[]){disks[0], disks[2], disks[4]}, (uint64_t[]){7, 7, 7}),
        0);
    assert_int_equal(apply(s, release), -ESTALE);
    assert_non_null(database_slab(s->database, vdisk, 3));
}

/* A volume with one slab on three nodes, the third of which has its column stale. */
struct one_stale {
    uint64_t disks[NODES * DISKS_PER_NODE];
    uint64_t vdisk;
    uint64_t disk; /* the stale one */
    json_int_t node;
};

static void make_one_stale(struct state *s, struct one_stale *made)
{
    uint64_t *disks = made->disks;

    make_cluster(s, disks);
    made->node =
        (json_int_t)((const struct node_record *)database_at(s->database, TABLE_NODE, 2))->base.id;
    made->disk = disks[4];
    made->vdisk = make_volume(s, "v", 1);
    assert_int_equal(add_slab(s, made->vdisk, 0, (uint64_t[]){disks[0], disks[2], disks[4]},
                              (uint64_t[]){0, 0, 0}),
                     0);
    assert_int_equal(mark_stale(s, made->vdisk, vdisk_of(s, made->vdisk)->epoch, made->disk), 0);
}

static void say_of_node(struct state *s, const char *verb, json_int_t node, int start_counter)
{
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:i}", "verb", verb, "node", node,
                                        "start_counter", start_counter)),
                     0);
}

/* I1: a slab that was placed while an "in-sync" for one of its disks was under way is not counted
 * by it: nobody has copied that slab. */
static void in_sync_does_not_count_a_slab_that_came_later(void **state)
{
    struct state *s = *state;
    struct one_stale made;
    uint64_t epoch;

    make_one_stale(s, &made);
    epoch = vdisk_of(s, made.vdisk)->epoch; /* its owner has copied all, and proposes */
    say_of_node(s, "node.down", made.node, 0);
    assert_int_equal(add_slab(s, made.vdisk, 1,
                              (uint64_t[]){made.disks[0], made.disks[2], made.disk},
                              (uint64_t[]){1, 1, 1}),
                     0);
    say_of_node(s, "node.started", made.node, 1);
    assert_int_equal(mark_in_sync(s, made.vdisk, epoch, made.disk), -ESTALE);
    assert_int_equal(database_slab(s->database, made.vdisk, 1)->columns[2].state,
                     COLUMN_RECORD_STALE);
}

/* I1: writes wait for a disk that was proposed in-sync until a new epoch answers. The answer is no
 * while its node is down, but it is one. */
static void in_sync_is_answered_also_by_no(void **state)
{
    struct state *s = *state;
    struct one_stale made;
    uint64_t epoch;

    make_one_stale(s, &made);
    say_of_node(s, "node.down", made.node, 0);
    epoch = vdisk_of(s, made.vdisk)->epoch;
    assert_false(database_disk_may_join(s->database, made.disk));
    assert_int_equal(mark_in_sync(s, made.vdisk, epoch, made.disk), 0);
    assert_int_equal(vdisk_of(s, made.vdisk)->epoch, epoch + 1);
    assert_int_equal(database_slab(s->database, made.vdisk, 0)->columns[2].state,
                     COLUMN_RECORD_STALE);
    say_of_node(s, "node.started", made.node, 1);
    assert_true(database_disk_may_join(s->database, made.disk));
    assert_int_equal(mark_in_sync(s, made.vdisk, epoch + 1, made.disk), 0);
    assert_int_equal(database_slab(s->database, made.vdisk, 0)->columns[2].state,
                     COLUMN_RECORD_IN_SYNC);
}

/* What has caught up need not wait for the rest of its disk. */
static void in_sync_may_name_slabs(void **state)
{
    static const char *const nonsense[] = {"[]",    "[-1]",      "[\"1\"]",     "[null]",
                                           "[1.5]", "[0, true]", "[4294967297]"};
    struct state *s = *state;
    struct one_stale made;
    uint64_t epoch;

    make_one_stale(s, &made);
    assert_int_equal(add_slab(s, made.vdisk, 1,
                              (uint64_t[]){made.disks[0], made.disks[2], made.disk},
                              (uint64_t[]){1, 1, 1}),
                     0);
    epoch = vdisk_of(s, made.vdisk)->epoch;
    assert_int_equal(mark_stale(s, made.vdisk, epoch, made.disk), 0);
    assert_int_equal(
        apply(s, json_pack("{s:s,s:I,s:I,s:I,s:[i,i]}", "verb", "vdisk.in_sync", "vdisk",
                           (json_int_t)made.vdisk, "epoch", (json_int_t)(epoch + 1), "disk",
                           (json_int_t)made.disk, "slabs", 1, 99)),
        0);
    assert_int_equal(database_slab(s->database, made.vdisk, 0)->columns[2].state,
                     COLUMN_RECORD_STALE);
    assert_int_equal(database_slab(s->database, made.vdisk, 1)->columns[2].state,
                     COLUMN_RECORD_IN_SYNC);
    assert_int_equal(database_slab(s->database, made.vdisk, 1)->columns[2].in_sync_epoch,
                     epoch + 2);
    assert_int_equal(mark_in_sync(s, made.vdisk, epoch + 2, made.disk), 0); /* the rest */
    assert_int_equal(database_slab(s->database, made.vdisk, 0)->columns[2].state,
                     COLUMN_RECORD_IN_SYNC);
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:I,s:I,s:i}", "verb", "vdisk.in_sync", "vdisk",
                                        (json_int_t)made.vdisk, "epoch", (json_int_t)(epoch + 3),
                                        "disk", (json_int_t)made.disk, "slabs", 1)),
                     -EINVAL);
    for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++) {
        json_t *command =
            json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.in_sync", "vdisk", (json_int_t)made.vdisk,
                      "epoch", (json_int_t)(epoch + 3), "disk", (json_int_t)made.disk);

        json_object_set_new(command, "slabs", json_loads(nonsense[i], 0, NULL));
        assert_int_equal(apply(s, command), -EINVAL);
    }
}

/* I9: a disk that comes back with a damaged log lacks what it was given while it was stale. An
 * "in-sync" that was proposed before is void, though nothing of it was in-sync that could turn
 * stale. */
static void in_sync_from_before_a_damage_is_void(void **state)
{
    struct state *s = *state;
    struct one_stale made;
    uint64_t epoch;

    make_one_stale(s, &made);
    epoch = vdisk_of(s, made.vdisk)->epoch; /* its owner has copied all, and proposes */
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:s,s:b}", "verb", "disk.failed", "disk",
                                        (json_int_t)made.disk, "reason", "a hole in its log",
                                        "keeps_serving", 1)),
                     0);
    assert_true(database_disk_may_join(s->database, made.disk));
    assert_int_equal(mark_in_sync(s, made.vdisk, epoch, made.disk), -ESTALE);
    assert_int_equal(database_slab(s->database, made.vdisk, 0)->columns[2].state,
                     COLUMN_RECORD_STALE);
}

/* The same for a disk that fails while it is retired: it is not called failed, and nobody would
 * tell of it again. */
static void in_sync_from_before_a_retiring_disk_failed_is_void(void **state)
{
    struct state *s = *state;
    struct one_stale made;
    uint64_t epoch;

    make_one_stale(s, &made);
    epoch = vdisk_of(s, made.vdisk)->epoch;
    assert_int_equal(
        apply(s, json_pack("{s:s,s:I}", "verb", "disk.retire", "disk", (json_int_t)made.disk)), 0);
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:s}", "verb", "disk.failed", "disk",
                                        (json_int_t)made.disk, "reason", "the medium failed")),
                     0);
    assert_int_equal(mark_in_sync(s, made.vdisk, epoch, made.disk), -ESTALE);
    assert_int_equal(database_slab(s->database, made.vdisk, 0)->columns[2].state,
                     COLUMN_RECORD_STALE);
}

/* A failover decided before the administrator stopped the VM does not start it again. */
static void a_stopped_vm_is_not_restarted(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE];
    json_int_t vm, incarnation;

    make_cluster(s, disks);
    make_volume(s, "v", 1);
    assert_int_equal(apply(s, json_pack("{s:s,s:s,s:I,s:i,s:[s]}", "verb", "vm.create", "name",
                                        "vm1", "memory_bytes", (json_int_t)(64 * MIB), "vcpus", 1,
                                        "disks", "v/disk.raw")),
                     0);
    vm = (json_int_t)reply(s, "vm");
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:i,s:i}", "verb", "vm.start", "vm", vm, "node",
                                        1, "incarnation", 0)),
                     0);
    incarnation = (json_int_t)reply(s, "incarnation");
    /* A wish from before the start, that was under way for long, is void. */
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:s,s:i}", "verb", "vm.want", "vm", vm, "wanted",
                                        "stopped", "incarnation", 0)),
                     -ESTALE);
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:s,s:I}", "verb", "vm.want", "vm", vm, "wanted",
                                        "stopped", "incarnation", incarnation)),
                     0);
    assert_int_equal(
        apply(s, json_pack("{s:s,s:I,s:i,s:i,s:b,s:b}", "verb", "vm.start", "vm", vm, "node", 1,
                           "incarnation", (int)incarnation, "force", 1, "restart", 1)),
        -ESTALE);
    /* "runs already" would promise that it is kept running */
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:i,s:i}", "verb", "vm.start", "vm", vm, "node",
                                        1, "incarnation", (int)incarnation)),
                     -EBUSY);
}

static uint64_t ended_of(struct state *s, uint64_t vm)
{
    return ((const struct vm_record *)database_find(s->database, TABLE_VM, vm))->ended;
}

static int start_vm(struct state *s, uint64_t vm, uint64_t incarnation, uint64_t ended)
{
    return apply(s, json_pack("{s:s,s:I,s:i,s:I,s:I}", "verb", "vm.start", "vm", (json_int_t)vm,
                              "node", 1, "incarnation", (json_int_t)incarnation, "ended",
                              (json_int_t)ended));
}

static int stop_vm(struct state *s, uint64_t vm, uint64_t incarnation)
{
    return apply(s, json_pack("{s:s,s:I,s:s,s:I}", "verb", "vm.want", "vm", (json_int_t)vm,
                              "wanted", "stopped", "incarnation", (json_int_t)incarnation));
}

/* Whoever asked for a start may be gone, and what he proposed still be on its way. It must not run
 * a VM that was stopped since, whether that had anything to end or not. */
static void a_late_start_does_not_undo_a_stop(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vm, ended, incarnation;

    make_cluster(s, disks);
    make_volume(s, "v", 1);
    assert_int_equal(create_vm(s, "vm1", "v/a", NULL), 0);
    vm = reply(s, "vm");
    ended = ended_of(s, vm);
    assert_int_equal(stop_vm(s, vm, 0), 0); /* "does not run" */
    assert_int_equal(start_vm(s, vm, 0, ended), -ESTALE);

    ended = ended_of(s, vm);
    assert_int_equal(start_vm(s, vm, 0, ended), 0);
    incarnation = reply(s, "incarnation");
    assert_true(incarnation > ended);
    assert_int_equal(stop_vm(s, vm, incarnation), 0);
    assert_int_equal(ended_of(s, vm), ended); /* it runs until its node says otherwise */
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:I}", "verb", "vm.ended", "vm", (json_int_t)vm,
                                        "incarnation", (json_int_t)incarnation)),
                     0);
    assert_int_equal(start_vm(s, vm, incarnation, ended), -ESTALE); /* asked for while it ran */
    assert_int_equal(start_vm(s, vm, incarnation, ended_of(s, vm)), 0);
}

/* A drain looks for VMs that run there before it begins: one that starts later would be left on it.
 */
static void a_node_that_is_drained_starts_no_vm(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vm;

    make_cluster(s, disks);
    make_volume(s, "v", 1);
    assert_int_equal(create_vm(s, "vm1", "v/a", NULL), 0);
    vm = reply(s, "vm");
    assert_int_equal(apply(s, json_pack("{s:s,s:i,s:s}", "verb", "node.set_state", "node", 1,
                                        "state", "draining")),
                     0);
    assert_int_equal(start_vm(s, vm, 0, ended_of(s, vm)), -EAGAIN);
    assert_int_equal(
        apply(s, json_pack("{s:s,s:i,s:s}", "verb", "node.set_state", "node", 1, "state", "up")),
        0);
    assert_int_equal(start_vm(s, vm, 0, ended_of(s, vm)), 0);
}

/* The disks know incarnations and no VMs: the node of a deleted one may still write to a disk that
 * another VM was made with. */
static void a_vm_made_again_has_later_incarnations(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], last = 0;

    make_cluster(s, disks);
    make_volume(s, "v", 1);
    for (int i = 0; i < 3; i++) {
        const struct vm_record *record;
        json_int_t vm;

        assert_int_equal(apply(s, json_pack("{s:s,s:s,s:I,s:i,s:[s]}", "verb", "vm.create", "name",
                                            "vm1", "memory_bytes", (json_int_t)(64 * MIB), "vcpus",
                                            1, "disks", "v/disk.raw")),
                         0);
        vm = (json_int_t)reply(s, "vm");
        /* before its first start already */
        record = database_find(s->database, TABLE_VM, (uint64_t)vm);
        assert_true(record->ended > last);
        assert_int_equal(record->incarnation, 0);
        assert_int_equal(apply(s, json_pack("{s:s,s:I,s:i,s:i}", "verb", "vm.start", "vm", vm,
                                            "node", 1, "incarnation", 0)),
                         0);
        assert_true(reply(s, "incarnation") > record->ended);
        last = reply(s, "incarnation");
        assert_int_equal(apply(s, json_pack("{s:s,s:I,s:I}", "verb", "vm.ended", "vm", vm,
                                            "incarnation", (json_int_t)last)),
                         0);
        assert_int_equal(apply(s, json_pack("{s:s,s:I}", "verb", "vm.delete", "vm", vm)), 0);
    }
}

/* Somebody ends the VM of a node that is down, and that takes its time: the node comes back, takes
 * the VM up again, and must not be told later that it has ended. */
static void a_vm_that_was_taken_up_again_has_not_ended(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE];
    json_t *ended, *start;
    json_int_t vm;
    int incarnation;

    make_cluster(s, disks);
    make_volume(s, "v", 1);
    assert_int_equal(apply(s, json_pack("{s:s,s:s,s:I,s:i,s:[s]}", "verb", "vm.create", "name",
                                        "vm1", "memory_bytes", (json_int_t)(64 * MIB), "vcpus", 1,
                                        "disks", "v/disk.raw")),
                     0);
    vm = (json_int_t)reply(s, "vm");
    assert_int_equal(apply(s, json_pack("{s:s,s:I,s:i,s:i}", "verb", "vm.start", "vm", vm, "node",
                                        1, "incarnation", 0)),
                     0);
    incarnation = (int)reply(s, "incarnation");
    ended = json_pack("{s:s,s:I,s:i,s:b,s:i}", "verb", "vm.ended", "vm", vm, "incarnation",
                      incarnation, "host_is_down", 1, "host_start_counter", 0);
    start = json_pack(
        "{s:s,s:I,s:I,s:i,s:b,s:i}", "verb", "vm.start", "vm", vm, "node",
        (json_int_t)((const struct node_record *)database_at(s->database, TABLE_NODE, 1))->base.id,
        "incarnation", incarnation, "force", 1, "host_start_counter", 0);
    assert_int_equal(apply(s, json_incref(ended)), -ESTALE); /* up */
    assert_int_equal(
        apply(s, json_pack("{s:s,s:i,s:i}", "verb", "node.down", "node", 1, "start_counter", 0)),
        0);
    assert_int_equal(
        apply(s, json_pack("{s:s,s:i,s:i}", "verb", "node.started", "node", 1, "start_counter", 1)),
        0);
    assert_int_equal(
        apply(s, json_pack("{s:s,s:i,s:i}", "verb", "node.down", "node", 1, "start_counter", 1)),
        0);
    /* the process that has just gone down may have held a lease until now */
    assert_int_equal(apply(s, json_incref(ended)), -ESTALE);
    assert_int_equal(apply(s, start), -ESTALE);
    json_object_set_new(ended, "host_start_counter", json_integer(1));
    assert_int_equal(apply(s, ended), 0);
}

/* ---- every verb, with every argument of a wrong type ---- */

/* In the order in which they succeed on make_cluster() and a volume "v". NODE_2, DISK_1 … stand for
 * ids. */
static const char *const good_commands[] = {
    "{'verb':'cluster.set','vm_restart_delay_ms':3000,'time_ns':1}",
    "{'verb':'pool.set','read_cache_limited':true,'read_cache_bytes':33554432,'time_ns':1}",
    "{'verb':'token.create','secret':"
    "'0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef',"
    "'expires_ns':9,'time_ns':2}",
    "{'verb':'node.join','token':LAST,'name':'n9','address':'10.0.0.9:1','start_counter':1,"
    "'site':'s','rack':'r','chassis':'c','time_ns':3}",
    "{'verb':'node.set_state','node':NODE,'state':'draining'}",
    "{'verb':'disk.claim','node':NODE,'name':'hdd8','path':'/dev/x','uuid':'u8','role':'capacity',"
    "'media':'hdd','size_bytes':1073741824,'time_ns':4}",
    "{'verb':'disk.unclaim','disk':LAST}",
    "{'verb':'disk.claim','node':NODE,'name':'hdd9','path':'/dev/y','uuid':'u9','role':'capacity',"
    "'media':'hdd','size_bytes':1073741824,'time_ns':4}",
    "{'verb':'disk.ready','disk':LAST,'extents':8,'log_bytes':4096}",
    "{'verb':'slab.add','vdisk':VDISK,'slabs':[{'number':0,'columns':[{'disk':DISK0,'extent':0},"
    "{'disk':DISK2,'extent':0},{'disk':DISK4,'extent':0}]}],'time_ns':5}",
    "{'verb':'volume.online','volume':VOLUME,'session':1,'time_ns':6}",
    "{'verb':'volume.resize','volume':VOLUME,'size_bytes':2147483648}",
    "{'verb':'vdisk.stale','vdisk':VDISK,'epoch':1,'disks':[DISK2,DISK4]}",
    "{'verb':'vdisk.in_sync','vdisk':VDISK,'epoch':2,'disk':DISK2}",
    "{'verb':'vdisk.replace','vdisk':VDISK,'epoch':3,'columns':[{'slab':0,'disk':DISK4,"
    "'to_disk':DISK5,'to_extent':7}]}",
    "{'verb':'vdisk.own','vdisk':VDISK,'epoch':4,'owner':NODE,'preferred':true}",
    "{'verb':'node.set_state','node':NODE,'state':'up'}",
    "{'verb':'vm.create','name':'vm1','memory_bytes':67108864,'vcpus':1,'generation':1,"
    "'disks':['v/a','v/b'],'switch_name':'br0','time_ns':7}",
    "{'verb':'vm.start','vm':LAST,'node':NODE,'incarnation':0,'ended':ENDED,'force':false,"
    "'host_start_counter':0,'restart':false,"
    "'reason':'r','time_ns':8}",
    "{'verb':'vm.want','vm':VM,'wanted':'stopped','incarnation':STARTED}",
    "{'verb':'vm.ended','vm':VM,'incarnation':STARTED,'reason':'off','stay_stopped':true,'host_is_"
    "down':"
    "false,"
    "'host_start_counter':0,'time_ns':9}",
    "{'verb':'vm.delete','vm':VM}",
    "{'verb':'job.create','kind':'k','target':'t','total_bytes':9,'time_ns':10}",
    "{'verb':'job.update','job':LAST,'state':'done','done_bytes':9,'total_bytes':9,'message':'m',"
    "'time_ns':11}",
    "{'verb':'event.add','severity':'warning','code':'heal','subject':'s','text':'t','time_ns':12}",
    "{'verb':'disk.failed','disk':DISK5,'reason':'io','keeps_serving':true,'time_ns':13}",
    "{'verb':'disk.retire','disk':DISK5}",
    "{'verb':'node.down','node':NODE,'start_counter':1,'reason':'silent','time_ns':14}",
    "{'verb':'node.started','node':NODE,'start_counter':2,'address':'10.0.0.7:1','time_ns':15}",
    "{'verb':'volume.delete','volume':VOLUME}",
    "{'verb':'slab.remove','vdisk':VDISK,'numbers':[0]}",
    "{'verb':'volume.removed','volume':VOLUME}",
};

struct ids {
    uint64_t disks[NODES * DISKS_PER_NODE];
    uint64_t vdisk, volume, node, vm, last;
    uint64_t started, ended; /* the VM's incarnation, and what had ended when it was made */
};

static uint64_t id_of_word(const struct ids *ids, const char *word)
{
    if (strncmp(word, "DISK", 4) == 0)
        return ids->disks[word[4] - '0'];
    return strcmp(word, "VDISK") == 0     ? ids->vdisk
           : strcmp(word, "VOLUME") == 0  ? ids->volume
           : strcmp(word, "NODE") == 0    ? ids->node
           : strcmp(word, "VM") == 0      ? ids->vm
           : strcmp(word, "STARTED") == 0 ? ids->started
           : strcmp(word, "ENDED") == 0   ? ids->ended
                                          : ids->last;
}

/* The command as JSON, with its words replaced by ids. */
static json_t *good_command(const struct ids *ids, size_t i)
{
    char text[1024];
    size_t length = 0;
    json_t *json;

    for (const char *at = good_commands[i]; *at;) {
        char word[16] = "";
        size_t letters = strspn(at, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");

        if (letters == 0) {
            text[length++] = (char)(*at == '\'' ? '"' : *at);
            at++;
            continue;
        }
        letters += strspn(at + letters, "0123456789");
        memcpy(word, at, letters);
        at += letters;
        length += (size_t)sprintf(text + length, "%llu", (unsigned long long)id_of_word(ids, word));
    }
    json = json_loadb(text, length, 0, NULL);
    assert_non_null(json);
    return json;
}

static void note_ids(struct state *s, struct ids *ids)
{
    static const char *const names[] = {"token", "node", "disk", "vm", "job"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (json_object_get(s->result.reply, names[i]))
            ids->last = reply(s, names[i]);
    }
    if (json_object_get(s->result.reply, "node"))
        ids->node = ids->last;
    if (json_object_get(s->result.reply, "vm")) {
        ids->vm = ids->last;
        ids->ended = ended_of(s, ids->vm);
    }
    if (json_object_get(s->result.reply, "incarnation"))
        ids->started = reply(s, "incarnation");
}

/* The first `count` commands on a new cluster: all succeed. */
static void begin_good(struct state *s, struct ids *ids, size_t count)
{
    database_clear(s->database);
    *ids = (struct ids){0};
    make_cluster(s, ids->disks);
    ids->vdisk = make_volume(s, "v", 1);
    ids->volume = reply(s, "volume");
    for (size_t i = 0; i < count; i++) {
        if (apply(s, good_command(ids, i)) != 0)
            fail_msg("%s: %s", good_commands[i], s->result.message);
        note_ids(s, ids);
    }
}

static json_t *odd_value(int i, const json_t *instead_of)
{
    switch (i) {
    case 0:
        return json_null();
    case 1:
        return json_true();
    case 2:
        return json_integer(-1);
    case 3:
        return json_integer(INT64_MAX);
    case 4:
        return json_real(1e300);
    case 5:
        return json_string("");
    case 6:
        return json_string("\xc3\xa9\xe2\x82\xac, or a text that nobody has foreseen here");
    case 7:
        return json_array();
    case 8:
        return json_pack("[[],{},i,s,n,[i]]", -1, "x", 1);
    case 9:
        return json_object();
    case 10:
        return json_is_array(instead_of) && json_array_size(instead_of) > 0
                   ? json_pack("[O,O]", json_array_get(instead_of, 0),
                               json_array_get(instead_of, 0))
                   : json_integer(0);
    default:
        return NULL;
    }
}

/* What the last command put can be written. */
static void check_written(struct state *s)
{
    size_t count;
    const struct database_change *changes = database_changes(s->database, &count);

    for (size_t i = 0; i < count; i++) {
        const void *record = database_find(s->database, changes[i].table, changes[i].id);
        json_t *json;

        assert_true(!record == changes[i].removed);
        json = record ? record_to_json(changes[i].table, record) : json_null();
        assert_non_null(json);
        json_decref(json);
    }
}

/* Whatever is proposed: it is refused and changes nothing, or it is taken and the rules hold
 * (database_apply() and database_check() assert; what was put can be written). */
static void no_argument_ends_the_node(void **state)
{
    struct state *s = *state;
    struct ids ids;

    begin_good(s, &ids, ARRAY_SIZE(good_commands));
    for (size_t i = 0; i < ARRAY_SIZE(good_commands); i++) {
        json_t *good, *value;
        const char *name;

        begin_good(s, &ids, i);
        good = good_command(&ids, i);
        json_object_foreach(good, name, value)
        {
            for (int odd = -1; odd < 11; odd++) {
                json_t *command = json_copy(good);

                if (odd < 0)
                    json_object_del(command, name);
                else
                    json_object_set_new(command, name, odd_value(odd, value));
                if (apply(s, command) == 0) { /* some are good too */
                    check_written(s);
                    begin_good(s, &ids, i); /* anew, with the same ids */
                }
            }
        }
        json_decref(good);
    }
}

/* ---- random commands ---- */

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static json_t *random_replacement(uint64_t *seed, const uint64_t *disks, json_int_t disk)
{
    return json_pack("{s:I,s:I,s:I,s:I}", "slab", (json_int_t)(next_random(seed) % 8), "disk", disk,
                     "to_disk", (json_int_t)disks[next_random(seed) % (NODES * DISKS_PER_NODE)],
                     "to_extent", (json_int_t)(next_random(seed) % EXTENTS));
}

static json_t *random_command(struct state *s, uint64_t *seed, const uint64_t *disks,
                              uint64_t vdisk)
{
    json_int_t epoch = (json_int_t)(vdisk_of(s, vdisk)->epoch - (next_random(seed) % 8 == 0));
    json_int_t disk = (json_int_t)disks[next_random(seed) % (NODES * DISKS_PER_NODE)];
    const struct node_record *node =
        database_at(s->database, TABLE_NODE, next_random(seed) % NODES);

    switch (next_random(seed) % 6) {
    case 0:
        return json_pack("{s:s,s:I,s:I,s:[I]}", "verb", "vdisk.stale", "vdisk", (json_int_t)vdisk,
                         "epoch", epoch, "disks", disk);
    case 1:
        if (next_random(seed) % 2 == 0)
            return json_pack("{s:s,s:I,s:I,s:I,s:[i]}", "verb", "vdisk.in_sync", "vdisk",
                             (json_int_t)vdisk, "epoch", epoch, "disk", disk, "slabs",
                             (int)(next_random(seed) % 3));
        return json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.in_sync", "vdisk", (json_int_t)vdisk,
                         "epoch", epoch, "disk", disk);
    case 2:
        return json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.own", "vdisk", (json_int_t)vdisk,
                         "epoch", epoch, "owner", (json_int_t)node->base.id);
    case 3:
        return json_pack("{s:s,s:I,s:I}", "verb", "node.down", "node", (json_int_t)node->base.id,
                         "start_counter", (json_int_t)node->start_counter);
    case 4:
        return json_pack("{s:s,s:I,s:I}", "verb", "node.started", "node", (json_int_t)node->base.id,
                         "start_counter", (json_int_t)(node->start_counter + 1));
    default:
        return json_pack("{s:s,s:I,s:I,s:[o,o]}", "verb", "vdisk.replace", "vdisk",
                         (json_int_t)vdisk, "epoch", epoch, "columns",
                         random_replacement(seed, disks, disk),
                         random_replacement(seed, disks, disk));
    }
}

/* The epoch rises exactly with each command that takes effect; database_check() asserts the rest
 * after each. */
static void random_commands_keep_the_rules(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE], vdisk, seed = 42;
    unsigned done = 0;

    make_cluster(s, disks);
    vdisk = make_volume(s, "v", 1);
    for (uint64_t slab = 0; slab < 8; slab++)
        assert_int_equal(add_slab(s, vdisk, slab,
                                  (uint64_t[]){disks[slab % 2], disks[2 + slab % 2], disks[4]},
                                  (uint64_t[]){slab, slab, slab}),
                         0);
    for (int i = 0; i < 20000; i++) {
        uint64_t epoch = vdisk_of(s, vdisk)->epoch;
        json_t *command = random_command(s, &seed, disks, vdisk);
        bool of_vdisk =
            strncmp(json_string_value(json_object_get(command, "verb")), "vdisk", 5) == 0;
        int r = apply(s, command);

        done += r == 0;
        if (of_vdisk)
            assert_int_equal(vdisk_of(s, vdisk)->epoch, epoch + (r == 0));
        else
            assert_true(vdisk_of(s, vdisk)->epoch <= epoch + 1);
    }
    assert_true(done > 5000);
}

/* ---- storage ---- */

/* What is stored comes back the same, and fields of a newer version are not lost by an older one.
 */
static void stored_records_come_back(void **state)
{
    struct state *s = *state;
    uint64_t disks[NODES * DISKS_PER_NODE];
    struct database *copy;

    make_cluster(s, disks);
    make_volume(s, "v", 1);
    assert_int_equal(database_new(&copy), 0);
    for (int table = 0; table < TABLE_COUNT; table++) {
        const struct record_base *record;

        for (size_t i = 0; (record = database_at(s->database, table, i)); i++) {
            json_t *json = record_to_json(table, record), *again;
            char key[DATABASE_KEY_MAX], *text;

            json_object_set_new(json, "from_the_future", json_integer(7));
            text = json_dumps(json, 0);
            database_key(table, record->id, key);
            assert_int_equal(database_load(copy, key, text, strlen(text)), 0);
            again = record_to_json(table, database_find(copy, table, record->id));
            assert_true(json_equal(json, again));
            json_decref(again);
            json_decref(json);
            free(text);
        }
        assert_int_equal(database_count(copy, table), database_count(s->database, table));
    }
    database_free(copy);
}

static void damaged_records_are_refused(void **state)
{
    struct state *s = *state;
    static const char *const bad[][2] = {
        {"node/0000000000000001", "{"},
        {"node/0000000000000001", "[]"},
        {"node/0000000000000001", "{\"id\": 2}"},
        {"node/0000000000000001", "{\"name\": 5}"},
        {"node/0000000000000001", "{\"state\": \"flying\"}"},
        {"node/1", "{}"},
        {"nothing/0000000000000001", "{}"},
        {"node", "{}"},
        {"disk/0000000000000001", "{\"size_bytes\": -1}"},
        {"disk/ffffffffffffffff", "{}"},
        {"disk/-000000000000001", "{}"},
        {"slab/0000000100000000", "{\"columns\": [{\"disk\": 1, \"extent\": 0}]}"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(database_load(s->database, bad[i][0], bad[i][1], strlen(bad[i][1])),
                         -EBADMSG);
}

/* For each file of the folder. */
static void each_file(const char *folder, void (*fn)(const char *path))
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    char path[512];

    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] != '.')
            fn(path);
    }
    closedir(dir);
}

/* In the block that says where the others are. */
static void damage_table(const char *path)
{
    FILE *file = strstr(path, ".sst") ? fopen(path, "r+") : NULL;

    if (!file)
        return;
    assert_int_equal(fseek(file, -60, SEEK_END), 0);
    assert_int_equal(fwrite("damage", 6, 1, file), 1);
    assert_int_equal(fclose(file), 0);
}

static void remove_file(const char *path)
{
    assert_int_equal(unlink(path), 0);
}

/* What to do is another matter when the store is damaged (join again) than when somebody has it. */
static void a_damaged_store_is_not_called_busy(void **state)
{
    char folder[] = "/tmp/s2d-blocks-XXXXXX", message[400];
    struct kv_batch batch;
    struct kv *kv, *other;

    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(kv_rocksdb_open(folder, message, sizeof(message), &kv), 0);
    kv_batch_init(&batch);
    kv_put(&batch, "a key", "its value", 9);
    assert_int_equal(kv_write(kv, &batch), 0);
    kv_batch_done(&batch);
    assert_int_equal(kv_rocksdb_open(folder, message, sizeof(message), &other), -EBUSY);
    kv_close(kv);
    assert_int_equal(kv_rocksdb_open(folder, message, sizeof(message), &kv), 0);
    kv_close(kv); /* this start has made a table of the log */
    each_file(folder, damage_table);
    assert_int_equal(kv_rocksdb_open(folder, message, sizeof(message), &kv), -EBADMSG);
    each_file(folder, remove_file);
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(kv_rocksdb_open("/proc/blocks", message, sizeof(message), &kv), -EIO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(commands_of_an_old_epoch_are_void),
        TEST(the_last_in_sync_column_is_never_stale),
        TEST(the_last_columns_that_data_needs_are_never_stale),
        TEST(parity_needs_a_node_to_each_column),
        TEST(an_extent_belongs_to_one_slab),
        TEST(a_disk_is_one_vms),
        TEST(two_starts_of_a_vm_cannot_both_win),
        TEST(arguments_are_read_before_anything_changes),
        TEST(jobs_are_begun_once_and_forgotten),
        TEST(long_texts_are_cut_between_characters),
        TEST(a_slabs_text_is_its_json),
        TEST(a_slab_is_added_once),
        TEST(a_slab_is_released_once),
        TEST(in_sync_does_not_count_a_slab_that_came_later),
        TEST(in_sync_is_answered_also_by_no),
        TEST(in_sync_may_name_slabs),
        TEST(in_sync_from_before_a_damage_is_void),
        TEST(in_sync_from_before_a_retiring_disk_failed_is_void),
        TEST(a_stopped_vm_is_not_restarted),
        TEST(a_late_start_does_not_undo_a_stop),
        TEST(a_node_that_is_drained_starts_no_vm),
        TEST(a_vm_that_was_taken_up_again_has_not_ended),
        TEST(a_vm_made_again_has_later_incarnations),
        TEST(deep_json_is_refused),
        TEST(no_argument_ends_the_node),
        TEST(random_commands_keep_the_rules),
        TEST(stored_records_come_back),
        TEST(damaged_records_are_refused),
        TEST(a_damaged_store_is_not_called_busy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
