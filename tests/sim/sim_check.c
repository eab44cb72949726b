/* At the end of a run. */
#include "tests/sim/sim_check.h"

#include "fs-refs-lite/fs.h"
#include "resiliency/mirror.h"
#include "s2d/base/checksum.h"
#include "s2d/node/health.h"
#include "s2d/node/repair.h"
#include "tests/sim/sim_disks.h"
#include "tests/sim/sim_faults.h"
#include "tests/sim/sim_vms.h"

#define ANSWER_NS (60 * SEC) /* for a request under way, when all is healthy */
#define AGREE_NS (20 * SEC)
#define LOST_NS (60 * SEC) /* what is not healthy by then, and may have been destroyed, is lost */
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

/* ---- liveness: all is well again ---- */

static bool nodes_are_up(const struct database *database)
{
    const struct node_record *node;

    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        if (node->state != NODE_UP)
            return false;
    }
    return true;
}

/* What a dead disk held has a new place, if there is room for it on another fault domain. */
static bool nothing_is_to_move(const struct database *database)
{
    const struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = database_at(database, TABLE_VDISK, i)); i++) {
        json_t *command = repair_plan(database, vdisk);

        json_decref(command);
        if (command)
            return false;
    }
    return true;
}

/* But for columns that stay on a disk that died, for lack of room. */
static bool columns_are_in_sync(struct world *world, const struct database *database)
{
    const struct slab_record *slab;

    for (size_t i = 0; (slab = database_at(database, TABLE_SLAB, i)); i++) {
        for (uint64_t j = 0; j < slab->column_count; j++) {
            const struct machine_disk *disk =
                machine_disk_of(world, database, slab->columns[j].disk, NULL);

            if (slab->columns[j].state != COLUMN_RECORD_IN_SYNC && !(disk && disk->dead))
                return false;
        }
    }
    return true;
}

static bool has_failed_disk(const struct database *database, uint64_t node)
{
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        if (disk->node == node && disk->state == DISK_FAILED && disk->role == DISK_ROLE_CAPACITY)
            return true;
    }
    return false;
}

/* A cache disk with the log of a disk that failed stays: nobody can take the log from it. */
static bool could_be_empty(const struct database *database, const struct disk_record *disk)
{
    return disk->role == DISK_ROLE_CACHE ? !has_failed_disk(database, disk->node)
                                         : database_used_extents(database, disk->base.id) == 0;
}

/* A disk that died or was overwritten is known for it, and none is being emptied that could be
 * empty. */
static bool disks_are_known(struct world *world, const struct database *database)
{
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        const struct machine_disk *of = machine_disk_of(world, database, disk->base.id, NULL);

        if (of && of->dead && disk->state == DISK_OK)
            return false;
        if (disk->state == DISK_RETIRING && could_be_empty(database, disk))
            return false;
    }
    return true;
}

static bool volumes_are_served(struct world *world, const struct database *database)
{
    const struct volume_record *volume;

    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++) {
        bool served = false;

        for (unsigned j = 1; j <= world->shape.nodes; j++)
            served = served || node_serves(world->machines[j].node, volume->vdisk);
        if (volume->state != VOLUME_ONLINE || !served)
            return false;
    }
    return true;
}

/* What a lost log took from a disk came back from the other copies, and the disk knows it. */
static bool has_damaged_disk(const struct machine *machine)
{
    const struct database *database = node_database(machine->node);
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        struct node_disk_status status;

        if (disk->node == node_id(machine->node) && disk->state == DISK_OK &&
            node_disk_status(machine->node, disk->base.id, &status) == 0 && status.open &&
            status.damaged)
            return true;
    }
    return false;
}

static bool is_healthy(void *arg)
{
    struct world *world = arg;

    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct node *node = world->machines[i].node;
        struct database *database = node && node_is_member(node) ? node_database(node) : NULL;

        if (!database || database_count(database, TABLE_SLAB) == 0 || !nodes_are_up(database) ||
            !columns_are_in_sync(world, database) || !nothing_is_to_move(database) ||
            !disks_are_known(world, database) || !volumes_are_served(world, database) ||
            has_damaged_disk(&world->machines[i]))
            return false;
    }
    return true;
}

/* What is not well, for the report. */
static void tell_sick(struct world *world, char *text, size_t text_bytes)
{
    struct database *database = any_database(world);
    const struct slab_record *slab;
    const struct node_record *node;

    snprintf(text, text_bytes, "no node is a member");
    if (!database)
        return;
    snprintf(text, text_bytes, "a volume is not online or not served");
    for (size_t i = 0; (slab = database_at(database, TABLE_SLAB, i)); i++) {
        for (uint64_t j = 0; j < slab->column_count; j++) {
            const struct machine_disk *disk =
                machine_disk_of(world, database, slab->columns[j].disk, NULL);

            if (slab->columns[j].state != COLUMN_RECORD_IN_SYNC && !(disk && disk->dead))
                snprintf(text, text_bytes, "vdisk %llu slab %llu is stale on disk %llu",
                         (unsigned long long)slab->vdisk, (unsigned long long)slab->number,
                         (unsigned long long)slab->columns[j].disk);
        }
    }
    if (!nothing_is_to_move(database))
        snprintf(text, text_bytes, "columns are to move");
    if (!disks_are_known(world, database))
        snprintf(text, text_bytes, "a disk is dead or empty, and not known for it");
    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        if (node->state != NODE_UP)
            snprintf(text, text_bytes, "node %s is %s", node->name, node_state_words[node->state]);
    }
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        const struct machine *machine = &world->machines[i];

        if (machine->node && node_is_member(machine->node) && has_damaged_disk(machine))
            snprintf(text, text_bytes, "a disk of node %u lost its log, and is not mended", i);
    }
}

/* False: not, and rightly so: what is missing was destroyed. */
static bool wait_for_health(struct world *world)
{
    uint64_t limit_ns = world->exposed ? LOST_NS : HEAL_NS;
    char text[160];

    if (world_run(world, world_now_ns(world) + limit_ns, is_healthy))
        return true;
    if (world->exposed)
        return false;
    tell_sick(world, text, sizeof(text));
    world_fail(world, "not healthy %d s after the last fault: %s", (int)(HEAL_NS / SEC), text);
}

static bool clients_have_stopped(void *arg)
{
    struct world *world = arg;

    return workload_running(world->workload) == 0;
}

static void stop_clients(struct world *world)
{
    world->quiet = true;
    if (!world_run(world, world_now_ns(world) + ANSWER_NS, clients_have_stopped))
        world_fail(world, "%u clients have no answer %d s after all was healthy",
                   workload_running(world->workload), (int)(ANSWER_NS / SEC));
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

    for (unsigned i = 0; i < shape->volume_count; i++)
        co_check_volume(machine, shape->volumes[i].name);
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
        if (world_now_ns(world) > deadline_ns)
            world_fail(world, "disks are written to %d s after the last client has stopped",
                       (int)(AGREE_NS / SEC));
    } while (writes_of_all(world) != before);
}

static void freeze(struct world *world)
{
    wait_for_silence(world);
    for (unsigned i = 1; i <= world->shape.nodes; i++)
        machine_crash(&world->machines[i], SIM_PROCESS_DIES);
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

/* Of a volume: a slab whose columns on living disks are too few. */
static bool has_lost_data(struct world *world, const struct database *database,
                          const struct vdisk_record *vdisk)
{
    size_t count, first = database_slabs(database, vdisk->base.id, &count);

    for (size_t i = first; i < first + count; i++) {
        const struct slab_record *slab = database_at(database, TABLE_SLAB, i);
        unsigned left = 0;

        for (uint64_t j = 0; j < slab->column_count; j++) {
            const struct machine_disk *disk =
                machine_disk_of(world, database, slab->columns[j].disk, NULL);

            left += slab->columns[j].state == COLUMN_RECORD_IN_SYNC && disk && !disk->dead;
        }
        if (left < vdisk_data_columns(vdisk))
            return true;
    }
    return false;
}

/* Of a client's volume by number; NULL: its database is not to be had. */
static const struct vdisk_record *vdisk_of(struct world *world, unsigned number,
                                           const struct database *database)
{
    uint64_t id = database ? world_vdisk(world, number) : 0;

    return id ? database_find(database, TABLE_VDISK, id) : NULL;
}

static bool something_is_lost(struct world *world)
{
    const struct database *database = any_database(world);

    for (unsigned i = 0; i < world->shape.volume_count; i++) {
        const struct vdisk_record *vdisk = vdisk_of(world, i, database);

        if (vdisk && has_lost_data(world, database, vdisk))
            return true;
    }
    return false;
}

/* The same function speaks for `s2d cluster health` and `s2d volume list`. */
static bool loss_is_told(void *arg)
{
    struct world *world = arg;
    const struct database *database = any_database(world);
    const struct health_volume serving = {.serving = true};

    for (unsigned i = 0; i < world->shape.volume_count; i++) {
        const struct vdisk_record *vdisk = vdisk_of(world, i, database);
        struct health_verdict verdict;

        if (!vdisk || !has_lost_data(world, database, vdisk))
            continue;
        health_of_volume(database, database_find(database, TABLE_VOLUME, vdisk->volume), &serving,
                         &verdict);
        if (verdict.state->health != HEALTH_UNHEALTHY)
            return false;
    }
    return true;
}

void check_end(struct world *world)
{
    struct placed *placed;

    world_tell(world, "faults end");
    faults_end(world);
    world->lost = !wait_for_health(world) || (world->exposed && something_is_lost(world));
    if (world->lost) { /* but what was answered was right */
        world_tell(world, "what was destroyed is missing");
        if (!world_run(world, world_now_ns(world) + LOST_NS, loss_is_told))
            world_fail(world, "a volume has lost data, and is not called Unhealthy");
        check_history(world);
        return;
    }
    world_tell(world, "all is healthy");
    vms_check_running(world);
    stop_clients(world);
    if (world->vms)
        run_on(world_any_member(world, 0), "stopping the VMs", co_vms_stop_all);
    check_nodes(world);
    placed = placed_of(world, any_database(world));
    freeze(world);
    check_disks(world, placed);
    placed_free(placed);
}
