/* Whether ENOSPC is an honest answer: where a fault took room from the pool, and for as long as it
 * is missing. What is left is counted here, from the records of disks and slabs: the product's own
 * count may be what is wrong. */
#include "s2d/cluster/schema.h"
#include "tests/sim/sim_disks.h"
#include "tests/sim/sim_faults.h"

#define LOOK_NS (20 * MS)
#define ROOM_EXTENTS 8 /* of a disk: of two volumes that grow by four slabs at once */
#define GRACE_NS (SEC) /* what was refused meanwhile may still be on its way through the layers */

static uint64_t used_extents(const struct database *database, uint64_t disk)
{
    const struct slab_record *slab;
    uint64_t used = 0;

    for (size_t i = 0; (slab = database_at(database, TABLE_SLAB, i)); i++) {
        for (uint64_t j = 0; j < slab->column_count; j++)
            used += slab->columns[j].disk == disk;
    }
    return used;
}

/* On how many nodes (in a cluster of one: disks) a column can be placed, some times; 0 too while a
 * dead disk is not known for it: room that is seen there is none. */
static unsigned count_places(struct world *world, const struct database *database)
{
    uint64_t nodes[MACHINES_MAX * 2];
    const struct disk_record *disk;
    unsigned count = 0;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        const struct machine_disk *of = machine_disk_of(world, database, disk->base.id, NULL);
        uint64_t place = world->shape.nodes == 1 ? disk->base.id : disk->node;
        unsigned j = 0;

        if (of && of->dead && disk->state == DISK_OK)
            return 0;
        if (disk->state != DISK_OK || disk->role != DISK_ROLE_CAPACITY ||
            disk->extents < used_extents(database, disk->base.id) + ROOM_EXTENTS)
            continue;
        while (j < count && nodes[j] != place)
            j++;
        assert(j < ARRAY_SIZE(nodes));
        nodes[j] = place;
        count = MAX(count, j + 1);
    }
    return count;
}

static bool sees_room(struct machine *machine)
{
    const struct database *database = node_database(machine->node);
    unsigned places = count_places(machine->world, database);
    const struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = database_at(database, TABLE_VDISK, i)); i++) {
        if (vdisk_columns(vdisk) > places)
            return false;
    }
    return true;
}

static bool has_room(struct world *world)
{
    if (world->acts > 0 || faults_take_room(world->faults))
        return false;
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct machine *machine = &world->machines[i];

        if (machine_is_up(machine) && machine->node && !machine->stopping &&
            node_is_member(machine->node) && !sees_room(machine))
            return false;
    }
    return true;
}

void take_room(struct world *world)
{
    world->room_taken = true;
    world->no_room_ns = world_now_ns(world);
}

void room_look(struct world *world)
{
    if (!world->room_taken || world_now_ns(world) < world->room_look_ns)
        return;
    world->room_look_ns = world_now_ns(world) + LOOK_NS;
    if (!has_room(world))
        world->no_room_ns = world_now_ns(world);
}

bool lacked_room(struct world *world, uint64_t since_ns)
{
    if (!world->room_taken || world->quiet)
        return false;
    world->room_look_ns = 0;
    room_look(world);
    return world->no_room_ns + GRACE_NS >= since_ns;
}
