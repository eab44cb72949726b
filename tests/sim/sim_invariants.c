/* After every step. What nodes show is remembered by (vdisk, epoch, slab): the first one to show it
 * says what it is, and all others must agree. */
#include "s2d/base/checksum.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/sim_disks.h"

#define OWNER_OF_EPOCH UINT64_MAX /* in the place of a slab's number */
#define VDISKS_MAX 256            /* of a run */

struct shown {
    uint64_t vdisk, epoch, slab, state; /* vdisk 0: free */
};

struct invariants {
    struct shown *shown; /* a hash table */
    size_t count, size;
    uint64_t epochs[MACHINES_MAX + 1][VDISKS_MAX]; /* the last one shown by a node in this life */
    uint64_t vdisks[VDISKS_MAX];                   /* by number */
    size_t vdisk_count;
};

struct invariants *invariants_new(void)
{
    struct invariants *invariants = calloc(1, sizeof(*invariants));

    if (!invariants)
        abort();
    invariants->size = 1024;
    invariants->shown = calloc(invariants->size, sizeof(*invariants->shown));
    if (!invariants->shown)
        abort();
    return invariants;
}

void invariants_free(struct invariants *invariants)
{
    if (!invariants)
        return;
    free(invariants->shown);
    free(invariants);
}

/* ---- I3 ---- */

static struct shown *find_shown(struct invariants *invariants, const struct shown *key)
{
    size_t at = hash64(key, 3 * sizeof(uint64_t)) % invariants->size;

    while (invariants->shown[at].vdisk != 0 &&
           memcmp(&invariants->shown[at], key, 3 * sizeof(uint64_t)) != 0)
        at = (at + 1) % invariants->size;
    return &invariants->shown[at];
}

static void make_room(struct invariants *invariants)
{
    struct shown *old = invariants->shown;
    size_t old_size = invariants->size;

    if (2 * invariants->count < invariants->size)
        return;
    invariants->size *= 2;
    invariants->shown = calloc(invariants->size, sizeof(*invariants->shown));
    if (!invariants->shown)
        abort();
    for (size_t i = 0; i < old_size; i++) {
        if (old[i].vdisk != 0)
            *find_shown(invariants, &old[i]) = old[i];
    }
    free(old);
}

static void agree(struct machine *machine, struct shown shown)
{
    struct invariants *invariants = machine->world->invariants;
    struct shown *known;

    make_room(invariants);
    known = find_shown(invariants, &shown);
    if (known->vdisk == 0) {
        *known = shown;
        invariants->count++;
    } else if (known->state != shown.state) {
        world_fail(machine->world,
                   "I3: node %u shows another %s in epoch %llu of vdisk %llu than was shown before",
                   machine->number,
                   shown.slab == OWNER_OF_EPOCH ? "owner or session" : "set of in-sync columns",
                   (unsigned long long)shown.epoch, (unsigned long long)shown.vdisk);
    }
}

/* On a disk that is dead, or on the node whose disks have lied or failed; in a cluster of one, on
 * the disk that has. */
static bool may_be_rotten(struct machine *machine, const struct column_record *column)
{
    struct world *world = machine->world;
    struct machine *at = NULL;
    struct machine_disk *disk =
        machine_disk_of(world, node_database(machine->node), column->disk, &at);

    if (disk && (disk->dead || (world->log_lost_too && at->number == world->rotten_too)))
        return true;
    return disk && at->number == world->rotten && (world->shape.nodes > 1 || disk == &at->disks[0]);
}

/* Not enough in-sync columns are left on the other nodes. */
static void note_exposure(struct machine *machine, const struct vdisk_record *vdisk,
                          const struct slab_record *slab)
{
    struct world *world = machine->world;
    unsigned sound = 0;

    if (!world->damaged || world->exposed)
        return;
    for (uint64_t i = 0; i < slab->column_count; i++)
        sound += slab->columns[i].state == COLUMN_RECORD_IN_SYNC &&
                 !may_be_rotten(machine, &slab->columns[i]);
    if (sound < vdisk_data_columns(vdisk)) {
        world->exposed = true;
        world_tell(world, "from now on an error is an honest answer");
    }
}

static void check_slab(struct machine *machine, const struct vdisk_record *vdisk,
                       const struct slab_record *slab)
{
    struct shown shown = {vdisk->base.id, vdisk->epoch, slab->number, slab->base.id};
    uint64_t in_sync = 0;

    for (uint64_t i = 0; i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];
        uint64_t words[] = {shown.state, column->disk, column->extent, column->generation,
                            column->state};

        shown.state = hash64(words, sizeof(words));
        in_sync += column->state == COLUMN_RECORD_IN_SYNC;
    }
    if (in_sync < vdisk_data_columns(vdisk))
        world_fail(machine->world, "I3: slab %llu of vdisk %llu has %llu in-sync columns",
                   (unsigned long long)slab->number, (unsigned long long)vdisk->base.id,
                   (unsigned long long)in_sync);
    note_exposure(machine, vdisk, slab);
    agree(machine, shown);
}

static size_t vdisk_number(struct invariants *invariants, uint64_t vdisk)
{
    size_t i = 0;

    while (i < invariants->vdisk_count && invariants->vdisks[i] != vdisk)
        i++;
    assert(i < VDISKS_MAX);
    if (i == invariants->vdisk_count)
        invariants->vdisks[invariants->vdisk_count++] = vdisk;
    return i;
}

static void check_epoch(struct machine *machine, const struct vdisk_record *vdisk)
{
    struct invariants *invariants = machine->world->invariants;
    uint64_t *last = &invariants->epochs[machine->number][vdisk_number(invariants, vdisk->base.id)];

    if (vdisk->epoch < *last)
        world_fail(machine->world, "I3: node %u went from epoch %llu of vdisk %llu back to %llu",
                   machine->number, (unsigned long long)*last, (unsigned long long)vdisk->base.id,
                   (unsigned long long)vdisk->epoch);
    *last = vdisk->epoch;
}

static void check_vdisk(struct machine *machine, const struct database *database, uint64_t id)
{
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, id);
    size_t count, first;

    if (!vdisk)
        return;
    check_epoch(machine, vdisk);
    agree(machine,
          (struct shown){id, vdisk->epoch, OWNER_OF_EPOCH, vdisk->owner << 40 ^ vdisk->session});
    first = database_slabs(database, id, &count);
    for (size_t i = first; i < first + count; i++)
        check_slab(machine, vdisk, database_at(database, TABLE_SLAB, i));
}

void check_changes(struct machine *machine, const struct database_change *changes, size_t count)
{
    const struct database *database;
    const struct vdisk_record *vdisk;
    uint64_t last = 0;

    if (!machine->node || !node_database(machine->node))
        return;
    database = node_database(machine->node);
    for (size_t i = 0; i < count; i++) {
        uint64_t id = changes[i].table == TABLE_VDISK  ? changes[i].id
                      : changes[i].table == TABLE_SLAB ? changes[i].id >> 32
                                                       : 0;

        if (id == 0 || id == last)
            continue;
        last = id;
        check_vdisk(machine, database, id);
        database_check(database);
    }
    for (size_t i = 0; !changes && (vdisk = database_at(database, TABLE_VDISK, i)); i++)
        check_vdisk(machine, database, vdisk->base.id);
}

void check_node_starts(struct machine *machine)
{
    struct invariants *invariants = machine->world->invariants;

    memset(invariants->epochs[machine->number], 0, sizeof(invariants->epochs[machine->number]));
}

/* ---- I5 ---- */

void check_step(struct world *world)
{
    struct invariants *invariants = world->invariants;

    for (size_t i = 0; i < invariants->vdisk_count; i++) {
        unsigned serves = 0;

        for (unsigned j = 1; j <= world->shape.nodes; j++) {
            struct machine *machine = &world->machines[j];

            if (!machine->node || !node_serves(machine->node, invariants->vdisks[i]))
                continue;
            if (serves)
                world_fail(world, "I5: nodes %u and %u both serve vdisk %llu", serves, j,
                           (unsigned long long)invariants->vdisks[i]);
            serves = j;
        }
    }
}
