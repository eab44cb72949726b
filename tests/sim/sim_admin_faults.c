/* What administrators do while all of this goes on: each is a coroutine on some node that gives the
 * commands of the command line. A refusal, or a node that dies in the middle, is part of life; what
 * was left undone is done at the end (admin_tidy_up()). */
#include "tests/sim/sim_faults_private.h"

#include "tests/sim/sim_check.h"
#include "tests/sim/sim_disks.h"
#include "tests/sim/sim_vms.h"

#define VOLUME_BYTES_MAX (128 * MIB) /* that the clients' volume is grown to */
#define EXTRA_NAME "extra"           /* volumes of faults: their names begin so */
#define EXTRA_BLOCKS 24

static void act_main(void *arg)
{
    struct act *act = arg;
    int r;

    act->co = co_self();
    list_push_back(&act->machine->acts, &act->node);
    r = act->co_act(act);
    list_remove(&act->node);
    world_tell(act->machine->world, "fault %u: node %u is told: %s", act->fault.index,
               act->machine->number, r == 0 ? "done" : strerror(-r));
    act->machine->world->acts--;
    free(act);
}

void admin_cancel(struct machine *machine)
{
    list_for_each (node, &machine->acts)
        co_cancel(list_entry(node, struct act, node)->co);
}

bool begin_act(struct machine *machine, const struct fault *fault, int (*co_act)(struct act *act))
{
    struct act *act = malloc(sizeof(*act));

    if (!act)
        abort();
    *act = (struct act){.machine = machine, .fault = *fault, .co_act = co_act};
    /* One that joins in the place of a lost node has no database yet. */
    if (machine && machine->node && node_is_member(machine->node) &&
        machine_spawn(machine, "administrator", act_main, act)) {
        machine->world->acts++;
        return true;
    }
    free(act);
    return false;
}

struct machine *member_for(struct world *world, const struct fault *fault)
{
    return world_any_member(world, fault->machine->number);
}

int co_command(struct node *node, json_t *command)
{
    struct command_result result;
    int r = co_node_propose(node, command, &result);

    command_result_done(&result);
    return r;
}

static uint64_t volume_id(struct node *node, const char *name)
{
    const struct volume_record *volume =
        database_find_name(node_database(node), TABLE_VOLUME, name);

    return volume ? volume->base.id : 0;
}

/* ---- owners ---- */

static struct machine *owner_of(struct world *world, unsigned volume)
{
    uint64_t vdisk = world_vdisk(world, volume);

    for (unsigned i = 1; vdisk && i <= world->shape.nodes; i++) {
        struct machine *machine = &world->machines[i];

        if (machine->node && node_serves(machine->node, vdisk))
            return machine;
    }
    return NULL;
}

/* The one of the clients' volumes that a fault is about. */
static unsigned volume_of(const struct world *world, const struct fault *fault)
{
    return (unsigned)(fault->draw[1] % world->shape.volume_count);
}

static const struct volume_shape *volume_shape_of(const struct act *act)
{
    const struct world *world = act->machine->world;

    return &world->shape.volumes[volume_of(world, &act->fault)];
}

static int co_move(struct act *act)
{
    struct node *node = act->machine->node;
    const struct node_record *target =
        database_at(node_database(node), TABLE_NODE,
                    act->fault.draw[0] % database_count(node_database(node), TABLE_NODE));
    struct node_message message;

    return co_node_move_volume(node, volume_id(node, volume_shape_of(act)->name), target->base.id,
                               &message);
}

static bool owner_moves(struct world *world, struct fault *fault)
{
    return begin_act(owner_of(world, volume_of(world, fault)), fault, co_move);
}

/* ---- volumes ---- */

static void extra_name(const struct fault *fault, char ret_name[32])
{
    snprintf(ret_name, 32, EXTRA_NAME "%u", fault->index);
}

/* What was written into a new volume must be there: its extents were another's before. */
static int co_use(struct act *act, const char *name)
{
    struct csv_volume *volume = csv_volume_find(node_csv(act->machine->node), name);
    uint64_t *words = aligned_alloc(BLOCK_SIZE, 2 * BLOCK_SIZE);
    struct fs_new new = {.mode = 0100644};
    struct csv_file *file = NULL;
    struct csv_open open = {0};
    struct fs_attr attr;
    uint64_t length;
    int r = volume ? co_csv_create(volume, FS_ROOT_INO, "f", &new, &attr) : -ENOENT;

    if (!words)
        abort();
    open.ino = attr.ino;
    if (r == 0)
        r = co_csv_open(volume, &open, &attr, &file);
    for (uint64_t i = 0; i < EXTRA_BLOCKS && r == 0; i++) {
        for (size_t j = 0; j < BLOCK_SIZE / 8; j++)
            words[j] = act->fault.draw[0] + i;
        r = co_csv_write(file, words, i * 3 * BLOCK_SIZE, BLOCK_SIZE);
    }
    for (uint64_t i = 0; i < EXTRA_BLOCKS && r == 0; i++) {
        r = co_csv_read(file, words, (i * 3) * BLOCK_SIZE, 2 * BLOCK_SIZE, &length);
        if (r == 0 && (words[0] != act->fault.draw[0] + i ||
                       (length > BLOCK_SIZE && words[BLOCK_SIZE / 8] != 0)))
            world_fail(act->machine->world, "block %llu of the new volume %s holds %llx, %llx",
                       (unsigned long long)i, name, (unsigned long long)words[0],
                       (unsigned long long)words[BLOCK_SIZE / 8]);
    }
    csv_file_close(file);
    csv_volume_put(volume);
    free(words);
    return r;
}

static int co_create_volume(struct act *act)
{
    const struct volume_shape *shape = volume_shape_of(act);
    struct node_message message;
    char name[32];
    int r;

    extra_name(&act->fault, name);
    r = co_node_create_volume(act->machine->node, name, 64 * MIB, shape->resiliency,
                              shape->data_columns, true, 0, &message);
    return r == 0 ? co_use(act, name) : r;
}

static bool volume_created(struct world *world, struct fault *fault)
{
    return begin_act(member_for(world, fault), fault, co_create_volume);
}

static int co_delete_volume(struct act *act)
{
    uint64_t volume;
    char name[32];

    extra_name(&act->fault, name);
    volume = volume_id(act->machine->node, name);
    return volume ? co_command(act->machine->node, json_pack("{s:s,s:I}", "verb", "volume.delete",
                                                             "volume", (json_int_t)volume))
                  : -ENOENT;
}

static void volume_deleted(struct world *world, struct fault *fault)
{
    begin_act(member_for(world, fault), fault, co_delete_volume);
}

static int co_resize(struct act *act)
{
    struct node *node = act->machine->node;
    const struct volume_record *volume =
        database_find_name(node_database(node), TABLE_VOLUME, volume_shape_of(act)->name);

    if (!volume || volume->size_bytes >= VOLUME_BYTES_MAX)
        return -ENOSPC;
    return co_command(node, json_pack("{s:s,s:I,s:I}", "verb", "volume.resize", "volume",
                                      (json_int_t)volume->base.id, "size_bytes",
                                      (json_int_t)(volume->size_bytes + 16 * MIB)));
}

static bool volume_grows(struct world *world, struct fault *fault)
{
    return begin_act(member_for(world, fault), fault, co_resize);
}

#define SPREAD_BYTES (12 * MIB) /* some slabs */
#define SPREAD_NS (15 * SEC)    /* until its space has returned: the volume must not get full */

/* A file over several slabs, a block in each MiB of it, that goes again: what its slabs become is
 * theirs to decide. Others may write to the same slabs meanwhile. */
static int co_spread_file(struct csv_volume *volume, struct act *act, uint64_t *words)
{
    struct csv_file *file = NULL;
    struct fs_new new = {.mode = 0100644};
    struct csv_open open = {0};
    struct fs_attr attr;
    uint64_t length;
    char name[32];
    int r;

    snprintf(name, sizeof(name), "spread%u", act->fault.index);
    r = co_csv_create(volume, FS_ROOT_INO, name, &new, &attr);
    open.ino = attr.ino;
    if (r == 0)
        r = co_csv_open(volume, &open, &attr, &file);
    if (r == 0)
        r = co_csv_allocate(file, 0, SPREAD_BYTES, 0);
    for (uint64_t at = 0; r == 0 && at < SPREAD_BYTES; at += MIB) {
        for (size_t j = 0; j < BLOCK_SIZE / 8; j++)
            words[j] = act->fault.draw[0] + at;
        r = co_csv_write(file, words, at, BLOCK_SIZE);
    }
    for (uint64_t at = 0; r == 0 && at < SPREAD_BYTES; at += MIB) {
        r = co_csv_read(file, words, at, BLOCK_SIZE, &length);
        if (r == 0 && words[0] != act->fault.draw[0] + at)
            world_fail(act->machine->world, "byte %llu of %s shows %llx", (unsigned long long)at,
                       name, (unsigned long long)words[0]);
    }
    csv_file_close(file);
    (void)co_csv_unlink(volume, FS_ROOT_INO, name);
    return r;
}

static int co_spread(struct act *act)
{
    struct csv_volume *volume =
        csv_volume_find(node_csv(act->machine->node), volume_shape_of(act)->name);
    uint64_t *words = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    int r = volume ? 0 : -ENOENT;

    if (!words)
        abort();
    if (r == 0)
        r = co_spread_file(volume, act, words);
    csv_volume_put(volume);
    free(words);
    return r;
}

static bool slabs_emptied(struct world *world, struct fault *fault)
{
    if (world_now_ns(world) < world->spread_not_before_ns)
        return false;
    world->spread_not_before_ns = world_now_ns(world) + SPREAD_NS;
    return begin_act(member_for(world, fault), fault, co_spread);
}

/* ---- the pool ---- */

/* A volume that takes what is left, as far as that can be had: a third as much each try. */
static int co_fill(struct act *act)
{
    struct world *world = act->machine->world;
    const struct volume_shape *shape = volume_shape_of(act);
    const struct database *database = node_database(act->machine->node);
    const struct disk_record *disk;
    struct node_message message;
    uint64_t extents = 0, size_bytes;
    char name[32];
    int r = -ENOSPC;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++)
        extents += disk->extents - database_used_extents(database, disk->base.id);
    size_bytes =
        extents * world->shape.extent_bytes / (strcmp(shape->resiliency, "mirror3") == 0 ? 3 : 2);
    extra_name(&act->fault, name);
    while (r == -ENOSPC && size_bytes >= 64 * MIB) {
        r = co_node_create_volume(act->machine->node, name, size_bytes, shape->resiliency,
                                  shape->data_columns, false, 0, &message);
        size_bytes -= size_bytes / 3 / MIB * MIB;
    }
    return r;
}

static bool pool_gets_full(struct world *world, struct fault *fault)
{
    if (!begin_act(member_for(world, fault), fault, co_fill))
        return false;
    take_room(world);
    return true;
}

int co_claim_next(struct act *act)
{
    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
        if (act->machine->disks[i].exists && !act->machine->disks[i].claimed &&
            !act->machine->disks[i].dead)
            return co_machine_claim(act->machine, i);
    }
    return 0;
}

static int add_disk_between(struct machine *machine, unsigned first, unsigned end)
{
    struct world *world = machine->world;
    char path[DISK_PATH_MAX];
    unsigned disk = first;

    while (disk < end && machine->disks[disk].exists)
        disk++;
    if (disk == end)
        return -ENOSPC;
    disk_path_of(world, disk, path);
    if (sim_disk_create(world->sim, machine->number, path, world->shape.disk_bytes) < 0)
        abort();
    machine->disks[disk].exists = true;
    return (int)disk;
}

int add_disk(struct machine *machine)
{
    return add_disk_between(machine, 0, MACHINE_CAPACITY_MAX);
}

int add_cache_disk(struct machine *machine)
{
    return add_disk_between(machine, MACHINE_CAPACITY_MAX, MACHINE_DISKS_MAX);
}

static bool pool_grows(struct world *world, struct fault *fault)
{
    (void)world;
    if (!machine_is_up(fault->machine) || fault->machine->stopping || add_disk(fault->machine) < 0)
        return false;
    begin_act(fault->machine, fault, co_claim_next);
    return true;
}

/* ---- draining ---- */

static int co_set_state(struct act *act, const char *state)
{
    return co_command(act->machine->node,
                      json_pack("{s:s,s:I,s:s}", "verb", "node.set_state", "node",
                                (json_int_t)node_id(act->machine->node), "state", state));
}

static int co_move_away(struct act *act, unsigned volume)
{
    struct world *world = act->machine->world;
    struct node *node = act->machine->node;
    const char *name = world->shape.volumes[volume].name;
    const struct node_record *target;
    struct node_message message;
    int r = 0;

    for (size_t i = 0; r == 0 && owner_of(world, volume) == act->machine &&
                       (target = database_at(node_database(node), TABLE_NODE, i));
         i++) {
        if (target->state == NODE_UP)
            r = co_node_move_volume(node, volume_id(node, name), target->base.id, &message);
    }
    return r;
}

static int co_drain(struct act *act)
{
    struct world *world = act->machine->world;
    int r = co_set_state(act, "draining");

    for (unsigned i = 0; r == 0 && i < world->shape.volume_count; i++)
        r = co_move_away(act, i);
    return r;
}

static bool node_drains(struct world *world, struct fault *fault)
{
    (void)world;
    return begin_act(fault->machine, fault, co_drain);
}

static int co_resume(struct act *act)
{
    return co_set_state(act, "up");
}

static void node_resumes(struct world *world, struct fault *fault)
{
    (void)world;
    begin_act(fault->machine, fault, co_resume);
}

const struct fault_kind admin_faults[] = {
    {"owner moves", 3, owner_moves, NULL, false},
    {"volume created, deleted", 2, volume_created, volume_deleted, false},
    {"volume grows", 1, volume_grows, NULL, false},
    {"slabs filled, emptied", 2, slabs_emptied, NULL, false},
    {"pool full", 1, pool_gets_full, volume_deleted, false},
    {"pool extended", 1, pool_grows, NULL, false},
    {"node drains", 1, node_drains, node_resumes, false},
    {NULL, 0, NULL, NULL, false},
};

/* ---- at the end ---- */

static int co_tidy(struct act *act)
{
    struct node *node = act->machine->node;
    const struct volume_record *volume;
    const struct node_record *self = database_find(node_database(node), TABLE_NODE, node_id(node));
    int r = co_claim_next(act);

    if (r < 0 && r != -ECANCELED)
        world_tell(act->machine->world, "node %u: claim: %s", act->machine->number, strerror(-r));
    self = database_find(node_database(node), TABLE_NODE, node_id(node));
    if (self && self->state == NODE_DRAINING)
        co_set_state(act, "up");
    for (size_t i = 0; (volume = database_at(node_database(node), TABLE_VOLUME, i)); i++) {
        if (strncmp(volume->name, EXTRA_NAME, strlen(EXTRA_NAME)) == 0 &&
            volume->state != VOLUME_DELETING)
            r = co_command(node, json_pack("{s:s,s:I}", "verb", "volume.delete", "volume",
                                           (json_int_t)volume->base.id));
    }
    if (has_strangers(act->machine))
        r = co_evict_strangers(act);
    if (vms_are_unsure(act->machine->world->vms))
        co_vms_make_sure(act->machine);
    co_sleep_ns(SEC);
    act->machine->tidying = false;
    return r;
}

/* A node whose disk failed takes it up again when it is started again. */
static bool has_failed_disk(struct machine *machine)
{
    const struct database *database = node_database(machine->node);
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        struct machine *at = NULL;
        struct machine_disk *of = machine_disk_of(machine->world, database, disk->base.id, &at);
        struct node_disk_status status;

        if (at != machine || !of->claimed || of->dead || disk->extents == 0 ||
            disk->state == DISK_RETIRED)
            continue;
        if (node_disk_status(machine->node, disk->base.id, &status) == 0 && !status.open)
            return true;
    }
    return false;
}

static bool is_untidy(struct machine *machine)
{
    const struct database *database = node_database(machine->node);
    const struct volume_record *volume;
    const struct node_record *node;

    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
        if (machine->disks[i].exists && !machine->disks[i].claimed && !machine->disks[i].dead)
            return true;
    }
    if (machine->number == 1 && (has_strangers(machine) || vms_are_unsure(machine->world->vms)))
        return true;
    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        if (node->base.id == node_id(machine->node) && node->state == NODE_DRAINING)
            return true;
    }
    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++) {
        if (strncmp(volume->name, EXTRA_NAME, strlen(EXTRA_NAME)) == 0 || volume->name[0] == '\0')
            return true;
    }
    return false;
}

bool admin_tidy_up(struct world *world)
{
    bool tidy = world->acts == 0; /* what is under way may still change something */

    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct machine *machine = &world->machines[i];
        struct fault fault = {.machine = machine};

        if (machine->tidying || is_untidy(machine)) {
            tidy = false;
            if (!machine->tidying)
                machine->tidying = begin_act(machine, &fault, co_tidy);
        } else if (has_failed_disk(machine)) {
            tidy = false;
            machine_leave(machine);
        }
    }
    return tidy;
}
