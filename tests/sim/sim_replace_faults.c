/* What administrators exchange: a disk emptied (`s2d disk retire`), a disk replaced by a new one
 * (`s2d disk replace`), and a node that is lost with all its disks: another one joins in its place,
 * the lost one's disks are retired, which moves what they held, and it is evicted. */
#include "tests/sim/sim_faults_private.h"

#include "s2d/cluster/liveness.h"
#include "tests/sim/sim_disks.h"

/* ---- disks ---- */

/* The record of a disk of the act's node, of the fault's choice; dead ones too: those above all are
 * exchanged. 0: none. */
static uint64_t choose_disk_record(const struct act *act)
{
    const struct database *database = node_database(act->machine->node);
    uint64_t own = node_id(act->machine->node), chosen = 0;
    const struct disk_record *disk;
    uint64_t skip = act->fault.draw[0] % MACHINE_CAPACITY_MAX;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        if (disk->node != own || disk->state == DISK_RETIRED || disk->state == DISK_RETIRING)
            continue;
        if (disk->state == DISK_FAILED)
            return disk->base.id;
        if (chosen == 0 || skip-- > 0)
            chosen = disk->base.id;
    }
    return chosen;
}

/* Whether another disk of the node is left for data, as far as the node knows, which is not what it
 * was told long ago. Without one, a node that is lost besides leaves mirror3 on three nodes with
 * nowhere to go, and can never be evicted. */
static bool another_is_left(const struct act *act, uint64_t retired)
{
    const struct database *database = node_database(act->machine->node);
    uint64_t own = node_id(act->machine->node);
    struct liveness *liveness = node_liveness(act->machine->node);
    const struct disk_record *disk;

    if (!liveness || !liveness_lease_held(liveness))
        return false;
    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        if (disk->node == own && disk->base.id != retired && disk->state == DISK_OK &&
            disk->role == DISK_ROLE_CAPACITY && disk->extents > 0)
            return true;
    }
    return false;
}

static int co_retire_disk(struct act *act, uint64_t disk)
{
    return disk ? co_command(act->machine->node, json_pack("{s:s,s:I}", "verb", "disk.retire",
                                                           "disk", (json_int_t)disk))
                : -ENOENT;
}

static int co_retire_one(struct act *act, uint64_t disk)
{
    struct machine *machine = act->machine;
    int r;

    if (machine->retires || !another_is_left(act, disk))
        return -EBUSY;
    machine->retires = true; /* two at once would each count on the other's disk */
    r = co_retire_disk(act, disk);
    machine->retires = false;
    return r;
}

#define RETIRED_WAIT_NS (10 * SEC)
#define RETIRED_POLL_NS (20 * MS)

static int co_await_retired(struct act *act, uint64_t disk)
{
    uint64_t deadline_ns = io_now_ns(node_io(act->machine->node)) + RETIRED_WAIT_NS;
    const struct disk_record *record;
    int r = 0;

    while (r == 0 &&
           (record = database_find(node_database(act->machine->node), TABLE_DISK, disk)) &&
           record->state != DISK_RETIRED) {
        r = co_sleep_ns(RETIRED_POLL_NS);
        if (r == 0 && io_now_ns(node_io(act->machine->node)) >= deadline_ns)
            r = -ETIMEDOUT;
    }
    return r;
}

/* Half of the disks are wanted again, the moment they are empty. */
static int co_retire(struct act *act)
{
    struct machine *machine = act->machine;
    uint64_t disk = choose_disk_record(act);
    const struct machine_disk *of =
        machine_disk_of(machine->world, node_database(machine->node), disk, NULL);
    int r = co_retire_one(act, disk);

    if (r < 0 || !of || of->dead || act->fault.draw[1] % 2 == 0)
        return r;
    r = co_await_retired(act, disk);
    return r < 0 ? r : co_machine_claim(machine, (unsigned)(of - machine->disks));
}

static bool disk_retired(struct world *world, struct fault *fault)
{
    unsigned disks = 0;

    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++)
        disks += fault->machine->disks[i].claimed && !fault->machine->disks[i].dead;
    if (disks < 2 || !begin_act(fault->machine, fault, co_retire))
        return false;
    take_room(world);
    return true;
}

/* The new one first, as the command does: the old one's data needs the room. */
static int co_replace(struct act *act)
{
    uint64_t disk = choose_disk_record(act);
    int r = co_claim_next(act);

    return r < 0 ? r : co_retire_one(act, disk);
}

static bool disk_replaced(struct world *world, struct fault *fault)
{
    if (!machine_is_up(fault->machine) || fault->machine->stopping || add_disk(fault->machine) < 0)
        return false;
    take_room(world);
    begin_act(fault->machine, fault, co_replace);
    return true;
}

/* ---- nodes ---- */

static int co_make_token(struct act *act)
{
    struct world *world = act->machine->world;
    struct node_message message;
    int r = co_node_make_token(act->machine->node, world->token, &message);

    machine_address(act->machine, world->token_address);
    if (r == 0)
        world->token_for = act->fault.machine->number;
    return r;
}

void admin_ask_token(struct machine *machine)
{
    struct fault fault = {.machine = machine};

    begin_act(world_any_member(machine->world, machine->number), &fault, co_make_token);
}

static bool is_stranger(struct world *world, const struct node_record *node)
{
    char name[NODE_TEXT_MAX];

    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        machine_node_name(&world->machines[i], name);
        if (strcmp(node->name, name) == 0)
            return false;
    }
    return true;
}

bool has_strangers(const struct machine *machine)
{
    const struct database *database = node_database(machine->node);
    const struct node_record *node;

    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        if (is_stranger(machine->world, node))
            return true;
    }
    return false;
}

static int co_evict_node(struct act *act, uint64_t id)
{
    const struct database *database = node_database(act->machine->node);
    const struct disk_record *disk;
    int r = 0;

    for (size_t i = 0; r == 0 && (disk = database_at(database, TABLE_DISK, i)); i++) {
        if (disk->node == id && disk->state != DISK_RETIRING && disk->state != DISK_RETIRED)
            r = co_retire_disk(act, disk->base.id);
    }
    /* Refused until its disks are empty: asked for again then (admin_tidy_up()). */
    return r < 0 ? r
                 : co_command(act->machine->node,
                              json_pack("{s:s,s:I}", "verb", "node.evict", "node", (json_int_t)id));
}

int co_evict_strangers(struct act *act)
{
    const struct database *database = node_database(act->machine->node);
    const struct node_record *node;

    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        if (is_stranger(act->machine->world, node))
            return co_evict_node(act, node->base.id);
    }
    return 0;
}

/* The new one joins before the lost one is evicted: the largest cluster has no room for both. */
static bool node_is_lost(struct world *world, struct fault *fault)
{
    struct machine *machine = &world->machines[world->rotten];

    if (world->shape.nodes < 3 || world->shape.nodes == MACHINES_MAX || machine->life > 0 ||
        !all_in_sync(world) || machine->disks[MACHINE_CAPACITY_MAX - 1].exists)
        return false;
    fault->machine = machine;
    machine_crash(machine, SIM_HOST_DIES);
    machine_replace(machine);
    for (unsigned i = 0; i < world->shape.disks; i++)
        (void)add_disk(machine); /* as many as there is room for; one is */
    for (unsigned i = 0; i < world->shape.caches; i++)
        (void)add_cache_disk(machine);
    world->damaged = true;
    take_room(world);
    return true;
}

/* ---- as much as the copies bear, and more ---- */

static void let_disk_die(struct machine *machine, unsigned disk)
{
    char path[DISK_PATH_MAX];

    disk_path_of(machine->world, disk, path);
    sim_disk_set_fault(machine->world->sim, machine->number, path, SIM_DISK_DEAD);
    machine->disks[disk].dead = true;
    world_tell(machine->world, "disk %u of node %u dies", disk, machine->number);
}

static unsigned capacity_disks(const struct machine *machine)
{
    unsigned count = 0;

    for (unsigned i = 0; i < MACHINE_CAPACITY_MAX; i++)
        count += machine->disks[i].claimed && !machine->disks[i].dead;
    return count;
}

/* Every other time all of the machine's capacity disks, else one of them. */
static void let_some_die(struct machine *machine, uint64_t draw)
{
    unsigned chosen = (unsigned)(draw / 2 % capacity_disks(machine));

    for (unsigned disk = 0; disk < MACHINE_CAPACITY_MAX; disk++) {
        if (machine->disks[disk].claimed && !machine->disks[disk].dead &&
            (draw % 2 == 0 || chosen-- == 0))
            let_disk_die(machine, disk);
    }
}

/* At the same instant, where every copy is in-sync: all goes on, and no error is honest. The
 * database calls copies in-sync for a while whose disks have just died. */
static bool two_nodes_disks_die(struct world *world, struct fault *fault)
{
    struct machine *machine = &world->machines[world->rotten], *other;

    if (!bears_two(world) || !all_in_sync(world))
        return false;
    other = &world->machines[choose_other_victim(world, fault)];
    if (capacity_disks(machine) < world->shape.disks || capacity_disks(other) < world->shape.disks)
        return false;
    fault->machine = machine;
    fault->other = other;
    world->rotten_too = other->number;
    world->damaged = true;
    take_room(world);
    let_some_die(machine, fault->draw[0]);
    let_some_die(other, fault->draw[2]);
    return true;
}

/* As many as the node had at first, if there is room. What the act leaves is claimed at the end. */
static void replace_dead(struct machine *machine, const struct fault *fault)
{
    unsigned alive = 0;

    for (unsigned i = 0; i < MACHINE_CAPACITY_MAX; i++)
        alive += machine->disks[i].exists && !machine->disks[i].dead;
    while (alive++ < machine->world->shape.disks && add_disk(machine) >= 0)
        ;
    begin_act(machine, fault, co_replace);
}

static void are_replaced(struct world *world, struct fault *fault)
{
    (void)world;
    replace_dead(fault->machine, fault);
    replace_dead(fault->other, fault);
}

const struct fault_kind pair_faults[] = {
    {"two nodes' disks die", 1, two_nodes_disks_die, are_replaced, true},
    {NULL, 0, NULL, NULL, false},
};

/* So many nodes lose all their disks that no volume of the clients can be whole. What is left of
 * them must be told, and what is answered must be right. Only where the seed says so (plan). */
static bool too_much_dies(struct world *world, struct fault *fault)
{
    unsigned nodes = world->shape.nodes;
    unsigned lost = strcmp(world->shape.volumes[0].resiliency, "mirror2") == 0 ? 2 : 3;

    if (!world->too_much)
        return false;
    for (unsigned i = 0; i < MIN(lost, nodes); i++) {
        struct machine *machine = &world->machines[1 + (fault->machine->number + i) % nodes];

        for (unsigned disk = 0; disk < MACHINE_DISKS_MAX; disk++) {
            if (machine->disks[disk].exists)
                let_disk_die(machine, disk);
        }
    }
    world->damaged = world->exposed = true;
    take_room(world);
    return true;
}

const struct fault_kind replace_faults[] = {
    {"disk retired", 1, disk_retired, NULL, false},
    {"disk replaced", 1, disk_replaced, NULL, false},
    {"node lost and replaced", 2, node_is_lost, starts_again, true},
    {TOO_MUCH, 0, too_much_dies, NULL, false},
    {NULL, 0, NULL, NULL, false},
};
