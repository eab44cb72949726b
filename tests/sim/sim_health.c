/* The first thing that is not well is looked for on every node, in its own database. In a run in
 * which data may have been destroyed, a thing that belongs to a volume is excused when the product
 * says of this volume that it lost data; what belongs to the cluster (a lost node that cannot be
 * evicted, since its disks have the last copies) when it says so of any. Nothing else is excused:
 * a node that is no member, without a leader, or without a lease never is. */
#include "tests/sim/sim_health.h"

#include <stdarg.h>

#include "s2d/node/health.h"
#include "s2d/node/repair.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/sim_disks.h"

#define LOST_NS (60 * SEC) /* what may have been destroyed, and is not healthy by then, is lost */

struct look {
    struct world *world;
    const struct database *database; /* of the node that is asked */
    bool excuse;                     /* what was lost, and is called so */
    char text[320];                  /* what is not well */
};

static bool sick(struct look *look, const char *format, ...) printf_like(2, 3);
static bool sick(struct look *look, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    vsnprintf(look->text, sizeof(look->text), format, list);
    va_end(list);
    return true;
}

/* ---- what was lost, and what the product says of it ---- */

/* A slab whose columns on living disks are too few. */
static bool has_lost_data(struct world *world, const struct database *database,
                          const struct vdisk_record *vdisk)
{
    bool lost = false;
    size_t count, first = database_slabs(database, vdisk->base.id, &count);

    for (size_t i = first; i < first + count; i++) {
        const struct slab_record *slab = database_at(database, TABLE_SLAB, i);
        unsigned left = 0;

        for (uint64_t j = 0; j < slab->column_count; j++) {
            const struct machine_disk *disk =
                machine_disk_of(world, database, slab->columns[j].disk, NULL);

            left += slab->columns[j].state == COLUMN_RECORD_IN_SYNC && disk && !disk->dead;
        }
        lost = lost || left < vdisk_data_columns(vdisk);
    }
    return lost;
}

static struct machine *machine_of_node(struct world *world, uint64_t node)
{
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct machine *machine = &world->machines[i];

        if (machine->node && node_is_member(machine->node) && node_id(machine->node) == node)
            return machine;
    }
    return NULL;
}

/* As api_volume_health(): of the owner's report. */
static void ask_health(struct world *world, const struct database *database,
                       const struct volume_record *volume, struct health_verdict *ret_verdict)
{
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, volume->vdisk);
    struct machine *owner = vdisk ? machine_of_node(world, vdisk->owner) : NULL;
    struct node_volume_status status = {0};
    struct health_volume report;
    bool answers =
        owner && co_node_volume_status(owner->node, volume->base.id, &status) == 0 && status.owned;

    report = (struct health_volume){.serving = status.serving,
                                    .read_only = status.read_only,
                                    .waiting = status.waiting,
                                    .stale_disks = status.stale_disks,
                                    .detached_slabs = status.detached_slabs,
                                    .detached_disk = status.detached_disk,
                                    .lost_blocks = status.lost_blocks};
    health_of_volume(database, volume, answers ? &report : NULL, ret_verdict);
}

/* Not of one that merely waits: for a lease, an owner, its mount. */
static bool says_lost(const struct health_verdict *verdict, bool is_lost)
{
    const char *state = verdict->state->state;

    if (strcmp(state, "Detached") == 0)
        return strstr(verdict->text, "that no copy gives") ||
               strstr(verdict->text, "metadata is damaged") ||
               (is_lost && strstr(verdict->text, "can be reached"));
    return strcmp(state, "Data lost") == 0 || strcmp(state, "Read-only") == 0;
}

/* ret_lost, ret_verdict: what is so, and what is said. */
static bool judge(const struct look *look, const struct volume_record *volume, bool *ret_lost,
                  struct health_verdict *ret_verdict)
{
    const struct vdisk_record *vdisk = database_find(look->database, TABLE_VDISK, volume->vdisk);

    *ret_lost = vdisk && has_lost_data(look->world, look->database, vdisk);
    ask_health(look->world, look->database, volume, ret_verdict);
    return look->excuse && says_lost(ret_verdict, *ret_lost);
}

/* As api_disk_health(): of the disk's node's report. */
static bool says_withheld(const struct look *look, const struct disk_record *disk)
{
    struct machine *machine = machine_of_node(look->world, disk->node);
    struct health_verdict verdict;
    struct node_disk_status status;
    struct health_disk report;

    if (!machine || node_disk_status(machine->node, disk->base.id, &status) < 0)
        return false;
    report = (struct health_disk){.open = status.open,
                                  .reason = status.reason,
                                  .rotten_blocks = status.rotten_blocks,
                                  .healed_blocks = status.healed_blocks,
                                  .withheld_slabs = status.withheld_slabs};
    health_of_disk(look->database, disk, &report, &verdict);
    return strcmp(verdict.state->state, "Copies withheld") == 0;
}

/* One of the last columns of a slab is on a disk that lost its log, and is not read: the health of
 * the disk says so, that of the volume when a request has met it. */
static bool is_withheld(const struct look *look, const struct slab_record *slab, unsigned needed)
{
    unsigned in_sync = 0;
    bool withheld = false;

    for (uint64_t j = 0; j < slab->column_count; j++) {
        const struct disk_record *disk =
            database_find(look->database, TABLE_DISK, slab->columns[j].disk);

        if (slab->columns[j].state != COLUMN_RECORD_IN_SYNC)
            continue;
        in_sync++;
        withheld = withheld || (disk && says_withheld(look, disk));
    }
    return in_sync <= needed && withheld;
}

static bool has_withheld(const struct look *look, const struct vdisk_record *vdisk)
{
    size_t count, first = database_slabs(look->database, vdisk->base.id, &count);

    for (size_t i = first; i < first + count; i++) {
        if (is_withheld(look, database_at(look->database, TABLE_SLAB, i),
                        vdisk_data_columns(vdisk)))
            return true;
    }
    return false;
}

static bool is_told(const struct look *look, uint64_t vdisk_id)
{
    const struct vdisk_record *vdisk = database_find(look->database, TABLE_VDISK, vdisk_id);
    const struct volume_record *volume =
        vdisk ? database_find(look->database, TABLE_VOLUME, vdisk->volume) : NULL;
    struct health_verdict verdict;
    bool lost;

    return look->excuse && volume &&
           (judge(look, volume, &lost, &verdict) || has_withheld(look, vdisk));
}

static bool any_is_told(const struct look *look)
{
    const struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = database_at(look->database, TABLE_VDISK, i)); i++) {
        if (is_told(look, vdisk->base.id))
            return true;
    }
    return false;
}

/* ---- what is not well ---- */

/* Columns of it are to move, and nowhere is room for them. */
static bool cannot_be_emptied(const struct look *look, uint64_t node)
{
    const struct slab_record *slab;

    for (size_t i = 0; (slab = database_at(look->database, TABLE_SLAB, i)); i++) {
        const struct vdisk_record *vdisk = database_find(look->database, TABLE_VDISK, slab->vdisk);

        for (uint64_t j = 0; j < slab->column_count; j++) {
            const struct disk_record *disk =
                database_find(look->database, TABLE_DISK, slab->columns[j].disk);

            if (disk && disk->node == node && repair_is_stuck(look->database, vdisk))
                return true;
        }
    }
    return false;
}

/* A node that nobody is any more stays, down, while its disks have what nobody else has, or can
 * take. */
static bool has_sick_node(struct look *look)
{
    const struct node_record *node;

    for (size_t i = 0; (node = database_at(look->database, TABLE_NODE, i)); i++) {
        bool excused = look->excuse && !machine_of_node(look->world, node->base.id) &&
                       (any_is_told(look) || cannot_be_emptied(look, node->base.id));

        if (node->state != NODE_UP && !excused)
            return sick(look, "node %s is %s", node->name, node_state_words[node->state]);
    }
    return false;
}

/* What a dead disk held has a new place, if there is room for it on another fault domain. */
static bool has_column_to_move(struct look *look)
{
    const struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = database_at(look->database, TABLE_VDISK, i)); i++) {
        json_t *command = repair_plan(look->database, vdisk);

        json_decref(command);
        if (command && !is_told(look, vdisk->base.id))
            return sick(look, "columns of vdisk %llu are to move",
                        (unsigned long long)vdisk->base.id);
    }
    return false;
}

static bool sick_slab(struct look *look, const struct slab_record *slab, uint64_t disk)
{
    const struct vdisk_record *vdisk = database_find(look->database, TABLE_VDISK, slab->vdisk);
    const struct volume_record *volume = database_find(look->database, TABLE_VOLUME, vdisk->volume);
    struct health_verdict verdict = {0};

    if (volume)
        ask_health(look->world, look->database, volume, &verdict);
    return sick(look, "vdisk %llu slab %llu is stale on disk %llu; the volume is %s: %.160s",
                (unsigned long long)slab->vdisk, (unsigned long long)slab->number,
                (unsigned long long)disk, volume ? verdict.state->state : "deleted", verdict.text);
}

/* But for columns that stay on a disk that died, for lack of room. */
static bool has_stale_column(struct look *look)
{
    const struct slab_record *slab;

    if (database_count(look->database, TABLE_SLAB) == 0)
        return sick(look, "there are no slabs");
    for (size_t i = 0; (slab = database_at(look->database, TABLE_SLAB, i)); i++) {
        for (uint64_t j = 0; j < slab->column_count; j++) {
            const struct machine_disk *disk =
                machine_disk_of(look->world, look->database, slab->columns[j].disk, NULL);

            if (slab->columns[j].state != COLUMN_RECORD_IN_SYNC && !(disk && disk->dead) &&
                !is_told(look, slab->vdisk))
                return sick_slab(look, slab, slab->columns[j].disk);
        }
    }
    return false;
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

/* A cache disk with the log of a disk that failed stays: nobody can take the log from it. So does
 * one whose log has what can never be committed. */
static bool could_be_empty(const struct look *look, const struct disk_record *disk)
{
    return disk->role == DISK_ROLE_CACHE
               ? !has_failed_disk(look->database, disk->node) && !any_is_told(look)
               : database_used_extents(look->database, disk->base.id) == 0;
}

/* A disk that died or was overwritten is known for it, and none is being emptied that could be
 * empty. */
static bool has_unknown_disk(struct look *look)
{
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(look->database, TABLE_DISK, i)); i++) {
        const struct machine_disk *of =
            machine_disk_of(look->world, look->database, disk->base.id, NULL);

        if (of && of->dead && disk->state == DISK_OK)
            return sick(look, "disk %s is dead, and not known for it", disk->name);
        if (disk->state == DISK_RETIRING && could_be_empty(look, disk))
            return sick(look, "disk %s is not empty yet", disk->name);
    }
    return false;
}

static bool has_silent_volume(struct look *look)
{
    const struct volume_record *volume;

    for (size_t i = 0; (volume = database_at(look->database, TABLE_VOLUME, i)); i++) {
        struct health_verdict verdict;
        bool served = false;

        for (unsigned j = 1; j <= look->world->shape.nodes; j++) {
            struct node *node = look->world->machines[j].node;

            served = served || (node && node_serves(node, volume->vdisk));
        }
        if ((volume->state == VOLUME_ONLINE && served) || is_told(look, volume->vdisk))
            continue;
        ask_health(look->world, look->database, volume, &verdict);
        return sick(look, "volume %s is not online or not served; it is %s: %.160s", volume->name,
                    verdict.state->state, verdict.text);
    }
    return false;
}

/* Of a volume that is served, too: a client may find out any day. */
static bool has_untold_loss(struct look *look)
{
    const struct volume_record *volume;

    for (size_t i = 0; (volume = database_at(look->database, TABLE_VOLUME, i)); i++) {
        struct health_verdict verdict;
        bool lost, told = judge(look, volume, &lost, &verdict);

        if (lost && !told)
            return sick(look, "volume %s has lost data, and is called %s: %.160s", volume->name,
                        verdict.state->state, verdict.text);
    }
    return false;
}

/* What a lost log took from a disk came back from the other copies, and the disk knows it. */
static bool has_damaged_disk(struct look *look, const struct machine *machine)
{
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(look->database, TABLE_DISK, i)); i++) {
        struct node_disk_status status;

        if (disk->node == node_id(machine->node) && disk->state == DISK_OK &&
            node_disk_status(machine->node, disk->base.id, &status) == 0 && status.open &&
            status.damaged && !any_is_told(look))
            return sick(look, "disk %s lost its log, and is not mended", disk->name);
    }
    return false;
}

static bool is_sick(struct look *look)
{
    for (unsigned i = 1; i <= look->world->shape.nodes; i++) {
        const struct machine *machine = &look->world->machines[i];

        if (!machine->node || !node_is_member(machine->node))
            return sick(look, "node %u is no member", i);
        look->database = node_database(machine->node);
        if (has_sick_node(look) || has_stale_column(look) || has_column_to_move(look) ||
            has_unknown_disk(look) || has_silent_volume(look) || has_untold_loss(look) ||
            has_damaged_disk(look, machine))
            return true;
    }
    return false;
}

static bool is_healthy(void *arg)
{
    struct look look = {.world = arg};

    return !is_sick(&look);
}

static bool is_explained(void *arg)
{
    struct look look = {.world = arg, .excuse = true};

    return !is_sick(&look);
}

/* ---- waiting ---- */

static void note_lost(struct look *look)
{
    const struct volume_record *volume;
    struct world *world = look->world;

    look->database = node_database(world_any_member(world, 0)->node);
    for (size_t i = 0; (volume = database_at(look->database, TABLE_VOLUME, i)); i++) {
        struct health_verdict verdict;

        if (!is_told(look, volume->vdisk) || vdisk_is_lost(world, volume->vdisk))
            continue;
        ask_health(world, look->database, volume, &verdict);
        world_tell(world, "volume %s has lost data, and is %s: %s", volume->name,
                   verdict.state->state, verdict.text);
        if (world->lost_count == ARRAY_SIZE(world->lost))
            abort();
        world->lost[world->lost_count++] = volume->vdisk;
    }
}

void health_wait(struct world *world)
{
    uint64_t start_ns = world_now_ns(world);
    struct look look = {.world = world};

    if (world_run(world, start_ns + (world->exposed ? LOST_NS : HEAL_NS), is_healthy))
        return;
    if (world->exposed && world_run(world, start_ns + HEAL_NS, is_explained)) {
        look.excuse = true;
        note_lost(&look);
        world->cramped = world->lost_count == 0;
        return;
    }
    look.excuse = world->exposed;
    if (is_sick(&look))
        world_fail(world, "not healthy %d s after the last fault: %s", (int)(HEAL_NS / SEC),
                   look.text);
}

bool vdisk_is_lost(const struct world *world, uint64_t vdisk)
{
    for (unsigned i = 0; i < world->lost_count; i++) {
        if (world->lost[i] == vdisk)
            return true;
    }
    return false;
}

bool volume_is_lost(struct world *world, unsigned number)
{
    return world->lost_count > 0 && vdisk_is_lost(world, world_vdisk(world, number));
}
