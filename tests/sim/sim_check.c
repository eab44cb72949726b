/* At the end of a run. */
#include "tests/sim/sim_check.h"

#include "fs-refs-lite/fs.h"
#include "resiliency/mirror.h"
#include "s2d/base/checksum.h"
#include "tests/sim/sim_disks.h"
#include "tests/sim/sim_faults.h"
#include "tests/sim/sim_health.h"
#include "tests/sim/sim_vms.h"

#define ANSWER_NS (60 * SEC) /* for a request under way, when all is healthy */
#define AGREE_NS (20 * SEC)
#define SILENCE_NS (300 * MS)

static struct database *any_database(struct world *world)
{
    struct machine *machine = world_any_member(world, 0);

    return machine ? node_database(machine->node) : NULL;
}

uint64_t world_vdisk(struct world *world, unsigned number)
{
    struct database *database = any_database(world);
    const struct volume_record *volume =
        database ? database_find_name(database, TABLE_VOLUME, world->shape.volumes[number].name)
                 : NULL;

    return volume ? volume->vdisk : 0;
}

/* ---- every client has its answer ---- */

/* Those of a volume that lost data may wait for it. */
static unsigned clients_waiting(struct world *world)
{
    unsigned count = 0;

    for (unsigned i = 0; i < world->shape.volume_count; i++)
        count += volume_is_lost(world, i) ? 0 : workload_running(world->workload, i);
    return count;
}

static bool clients_have_stopped(void *arg)
{
    return clients_waiting(arg) == 0;
}

static void stop_clients(struct world *world)
{
    world->quiet = true;
    if (!world_run(world, world_now_ns(world) + ANSWER_NS, clients_have_stopped))
        world_fail(world, "%u clients have no answer %d s after all was healthy",
                   clients_waiting(world), (int)(ANSWER_NS / SEC));
}

/* ---- one program on one machine, and the world until it has ended ---- */

struct task {
    struct machine *machine;
    void (*co_run)(struct machine *machine);
    bool done;
};

static void task_main(void *arg)
{
    struct task *task = arg;

    task->co_run(task->machine);
    task->done = true;
}

static struct task *current; /* one at a time */

static bool task_is_done(void *arg)
{
    (void)arg;
    return current->done;
}

static void run_on(struct machine *machine, const char *what,
                   void (*co_run)(struct machine *machine))
{
    struct world *world = machine->world;
    struct task task = {.machine = machine, .co_run = co_run};

    current = &task;
    if (!machine_spawn(machine, what, task_main, &task) ||
        !world_run(world, world_now_ns(world) + ANSWER_NS, task_is_done))
        world_fail(world, "node %u: %s has not ended in %d s", machine->number, what,
                   (int)(ANSWER_NS / SEC));
}

/* ---- the file system and its accounts ---- */

/* Rot may be among them, in a run in which it was sown. */
static void report_problem(void *arg, const char *line)
{
    struct world *world = arg;

    if (!world->damaged)
        world_fail(world, "a volume is inconsistent: %s", line);
    world_tell(world, "the check says: %s", line);
}

static void co_check_volume(struct machine *machine, const char *name)
{
    struct world *world = machine->world;
    const struct volume_record *volume =
        database_find_name(node_database(machine->node), TABLE_VOLUME, name);
    struct fs_check_result result = {0};
    struct mirror_scrub scrub = {0};
    int r = volume ? co_node_check_volume(machine->node, volume->base.id, report_problem, world,
                                          &result, &scrub)
                   : -ENOENT;

    if (r == -EREMOTE || r == -ESTALE)
        return; /* another node's */
    if (r < 0)
        world_fail(world, "node %u cannot check volume %s: %s", machine->number, name,
                   strerror(-r));
    if (result.problems)
        world_fail(world, "the file system of volume %s has %llu problems", name,
                   (unsigned long long)result.problems);
    if (scrub.different)
        world_fail(world, "%llu pairs of copies match their checksums and differ",
                   (unsigned long long)scrub.different);
}

static void co_check_volumes(struct machine *machine)
{
    const struct shape *shape = &machine->world->shape;

    for (unsigned i = 0; i < shape->volume_count; i++) {
        if (!volume_is_lost(machine->world, i))
            co_check_volume(machine, shape->volumes[i].name);
    }
}

/* ---- the database: the same everywhere, and no extent unaccounted for ---- */

static uint64_t database_hash(const struct database *database)
{
    uint64_t hash = 0;

    for (enum table table = 0; table < TABLE_COUNT; table++) {
        const void *record;

        for (size_t i = 0; (record = database_at(database, table, i)); i++) {
            json_t *json = record_to_json(table, record);
            char *text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
            uint64_t words[] = {hash, table, text ? hash64(text, strlen(text)) : 0};

            hash = hash64(words, sizeof(words));
            free(text);
            json_decref(json);
        }
    }
    return hash;
}

static bool databases_agree(void *arg)
{
    struct world *world = arg;
    uint64_t applied = 0;

    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        uint64_t index = consensus_applied(node_consensus(world->machines[i].node));

        if (i > 1 && index != applied)
            return false;
        applied = index;
    }
    return true;
}

static void check_databases(struct world *world)
{
    uint64_t first;

    if (!world_run(world, world_now_ns(world) + AGREE_NS, databases_agree))
        world_fail(world, "not all nodes have applied the same commands after %d s",
                   (int)(AGREE_NS / SEC));
    first = database_hash(node_database(world->machines[1].node));
    for (unsigned i = 2; i <= world->shape.nodes; i++) {
        if (database_hash(node_database(world->machines[i].node)) != first)
            world_fail(world, "nodes 1 and %u have applied the same commands to different ends", i);
    }
    database_check(node_database(world->machines[1].node));
}

static void check_extents(struct world *world)
{
    const struct database *database = any_database(world);
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        const struct slab_record *slab;
        uint64_t used = 0;

        for (size_t j = 0; (slab = database_at(database, TABLE_SLAB, j)); j++) {
            for (uint64_t k = 0; k < slab->column_count; k++)
                used += slab->columns[k].disk == disk->base.id;
        }
        if (used != database_used_extents(database, disk->base.id))
            world_fail(world, "disk %s has %llu extents in use, but columns on %llu", disk->name,
                       (unsigned long long)database_used_extents(database, disk->base.id),
                       (unsigned long long)used);
    }
}

/* ---- a quiet moment: nothing is under way ---- */

static uint64_t writes_of_all(struct world *world)
{
    uint64_t writes = 0;

    for (unsigned i = 1; i <= world->shape.nodes; i++)
        writes += sim_write_count(world->sim, i);
    return writes;
}

/* No write has begun for so long that none can be under way: the copies must be the same now.
 * (While daemons stop they need not be: the last writes of the file system find no quorum any
 * more.) */
static void wait_for_silence(struct world *world)
{
    uint64_t deadline_ns = world_now_ns(world) + AGREE_NS, before;

    do {
        before = writes_of_all(world);
        world_run(world, world_now_ns(world) + SILENCE_NS, NULL);
        if (world_now_ns(world) > deadline_ns && world->lost_count > 0)
            return; /* who waits for what was lost tries on; the other volumes are quiet */
        if (world_now_ns(world) > deadline_ns)
            world_fail(world, "disks are written to %d s after the last client has stopped",
                       (int)(AGREE_NS / SEC));
    } while (writes_of_all(world) != before);
}

/* Returns where everything is. All daemons are killed. */
static struct placed *freeze(struct world *world)
{
    struct placed *placed;

    wait_for_silence(world);
    placed = placed_of(world, world_any_member(world, 0)->node);
    for (unsigned i = 1; i <= world->shape.nodes; i++)
        machine_crash(&world->machines[i], SIM_PROCESS_DIES);
    return placed;
}

/* ---- the daemons that lived through all of this stop in order ---- */

static bool have_left(void *arg)
{
    struct world *world = arg;

    machines_check_leaving(world);
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        if (world->machines[i].leaving && machine_is_up(&world->machines[i]))
            return false;
    }
    return true;
}

/* One after the other: the first ones hand over what they own, the last ones find no quorum. What
 * waits for nothing that will ever come, and would be cancelled by a crash, does not let them end.
 * Then all start again, from what an orderly stop has left. */
static void restart_all(struct world *world)
{
    unsigned first = (unsigned)world_draw(world, world->shape.nodes);

    for (unsigned i = 0; i < world->shape.nodes; i++) {
        machine_leave(&world->machines[1 + (first + i) % world->shape.nodes]);
        world_run(world, UINT64_MAX, have_left);
    }
    if (!world_run(world, world_now_ns(world) + HEAL_NS, all_are_members))
        world_fail(world, "not all nodes are members %d s after they were started again",
                   (int)(HEAL_NS / SEC));
    health_wait(world);
}

/* ---- all of it ---- */

static void check_history(struct world *world)
{
    char text[512];

    if (!history_check(world->history, text, sizeof(text)))
        world_fail(world, "%s", text);
}

static void co_read_all(struct machine *machine)
{
    co_workload_read_all(machine);
    co_vms_read_all(machine);
}

static void check_nodes(struct world *world)
{
    for (unsigned i = 1; i <= world->shape.nodes; i++)
        run_on(&world->machines[i], "reading everything", co_read_all);
    check_history(world);
    for (unsigned i = 1; i <= world->shape.nodes; i++)
        run_on(&world->machines[i], "checking the volumes", co_check_volumes);
    check_databases(world);
    check_extents(world);
}

void check_end(struct world *world)
{
    struct placed *placed;
    bool tidy, restart_first = world_draw(world, 2);

    world_tell(world, "faults end");
    tidy = faults_end(world);
    health_wait(world);
    if (!tidy && world->lost_count == 0 && !world->cramped)
        world_fail(world, "the administrator is not done, and nothing is in the way");
    world_tell(world, world->lost_count ? "what was destroyed is missing" : "all is healthy");
    vms_check_running(world);
    stop_clients(world);
    if (world->vms)
        run_on(world_any_member(world, 0), "stopping the VMs", co_vms_stop_all);
    if (restart_first)
        restart_all(world);
    check_nodes(world);
    if (!restart_first)
        restart_all(world);
    placed = freeze(world);
    check_disks(world, placed);
    placed_free(placed);
}
