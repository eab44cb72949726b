/* Faults of disks. What destroys data hits one node of a run (the seed says which): see
 * sim_faults.h. In a cluster of one node it hits one of its disks.
 *
 * Rot, and writes of the log that are not there, are in sim_rot.c.
 *
 * A column on a dead disk gets a new place (repair.h), if there is room for it; what administrators
 * exchange is in sim_replace_faults.c. In a run with cache disks half of all this hits them: their
 * capacity disks go on with new logs. One that had errors works again, and what is on it is old. */
#include <limits.h>

#include "pool/disk_format.h"
#include "tests/sim/sim_disks.h"
#include "tests/sim/sim_faults_private.h"

unsigned choose_disk(const struct fault *fault, const struct machine *machine)
{
    unsigned first = (unsigned)(fault->draw[0] % MACHINE_CAPACITY_MAX);

    if (machine->world->shape.caches > 0 && fault->draw[2] % 2 == 0) /* every other time */
        first = MACHINE_CAPACITY_MAX + (unsigned)(fault->draw[0] % MACHINE_CACHES_MAX);

    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
        unsigned disk = (first + i) % MACHINE_DISKS_MAX;

        if (machine->disks[disk].claimed && !machine->disks[disk].dead)
            return disk;
    }
    return UINT_MAX;
}

unsigned choose_victim(struct world *world, const struct fault *fault, struct machine **ret_machine)
{
    struct machine *machine = &world->machines[world->rotten];

    *ret_machine = machine;
    if (!all_in_sync(world))
        return UINT_MAX;
    if (world->shape.nodes == 1)
        return machine->disks[0].dead ? UINT_MAX : 0;
    return choose_disk(fault, machine);
}

bool bears_two(const struct world *world)
{
    for (unsigned i = 0; i < world->shape.volume_count; i++) {
        if (strcmp(world->shape.volumes[i].resiliency, "mirror2") == 0)
            return false;
    }
    return world->shape.nodes >= 3;
}

unsigned choose_other_victim(const struct world *world, const struct fault *fault)
{
    unsigned nodes = world->shape.nodes;

    return world->rotten_too ?: 1 + (world->rotten + fault->draw[1] % (nodes - 1)) % nodes;
}

/* ---- slow disks and errors ---- */

static bool gets_slow(struct world *world, struct fault *fault)
{
    unsigned disk = choose_disk(fault, fault->machine);
    char path[DISK_PATH_MAX];

    if (disk == UINT_MAX)
        return false;
    disk_path_of(world, disk, path);
    sim_disk_set_slowdown(world->sim, fault->machine->number, path,
                          (double)(2 + fault->draw[1] % 200));
    return true;
}

static void gets_fast(struct world *world, struct fault *fault)
{
    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
        char path[DISK_PATH_MAX];

        disk_path_of(world, i, path);
        if (fault->machine->disks[i].exists)
            sim_disk_set_slowdown(world->sim, fault->machine->number, path, 1);
    }
}

static bool set_fault(struct world *world, struct fault *fault, enum sim_disk_fault kind)
{
    struct machine *machine;
    unsigned disk = choose_victim(world, fault, &machine);
    char path[DISK_PATH_MAX];

    if (disk == UINT_MAX)
        return false;
    world->damaged = true;
    disk_path_of(world, disk, path);
    sim_disk_set_fault(world->sim, machine->number, path, kind);
    world_tell(world, "it is disk %u of node %u", disk, machine->number);
    machine->disks[disk].dead = kind == SIM_DISK_DEAD;
    take_room(world); /* nothing is placed on it until it is taken up again */
    return true;
}

static bool reads_fail(struct world *world, struct fault *fault)
{
    return set_fault(world, fault, SIM_DISK_READ_ERRORS);
}

static bool writes_fail(struct world *world, struct fault *fault)
{
    return set_fault(world, fault, SIM_DISK_WRITE_ERRORS);
}

static bool disk_dies(struct world *world, struct fault *fault)
{
    return set_fault(world, fault, SIM_DISK_DEAD);
}

static void works_again(struct world *world, struct fault *fault)
{
    struct machine *machine = &world->machines[world->rotten];

    (void)fault;
    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
        char path[DISK_PATH_MAX];

        disk_path_of(world, i, path);
        if (machine->disks[i].exists && !machine->disks[i].dead)
            sim_disk_set_fault(world->sim, machine->number, path, SIM_DISK_OK);
    }
}

/* ---- a disk overwritten with zeros, under the daemon ---- */

#define WIPE_BYTES (64 * KIB) /* at once; what is zeros already stays unwritten */

void wipe_disk(struct world *world, const struct machine *machine, unsigned disk)
{
    static const uint8_t zeros[WIPE_BYTES];
    static uint8_t bytes[WIPE_BYTES];
    char path[DISK_PATH_MAX];

    disk_path_of(world, disk, path);
    for (uint64_t at = 0; at < world->shape.disk_bytes; at += WIPE_BYTES) {
        if (sim_disk_peek(world->sim, machine->number, path, at, bytes, WIPE_BYTES) < 0 ||
            memcmp(bytes, zeros, WIPE_BYTES) == 0)
            continue;
        if (sim_disk_poke(world->sim, machine->number, path, at, zeros, WIPE_BYTES) < 0)
            abort();
    }
}

static bool disk_is_wiped(struct world *world, struct fault *fault)
{
    struct machine *machine;
    unsigned disk = choose_victim(world, fault, &machine);

    if (disk == UINT_MAX || world->shape.nodes == 1)
        return false;
    wipe_disk(world, machine, disk);
    world_tell(world, "disk %u of node %u is wiped", disk, machine->number);
    world->damaged = true;
    machine->disks[disk].dead = true;
    take_room(world);
    return true;
}

/* ---- writes that do not do what they say ---- */

/* The next one of data in its place. */
static bool spoil_next(struct world *world, const struct machine *machine, unsigned disk,
                       enum sim_disk_spoil kind)
{
    struct disk_geometry geometry;
    char path[DISK_PATH_MAX];

    if (!disk_geometry_of(machine, disk, &geometry) || geometry.extent_count == 0)
        return false;
    disk_path_of(world, disk, path);
    world->damaged = true;
    sim_disk_spoil_write(world->sim, machine->number, path, kind, geometry.extents_offset);
    return true;
}

static bool spoil(struct world *world, struct fault *fault, enum sim_disk_spoil kind)
{
    struct machine *machine;
    unsigned disk = choose_victim(world, fault, &machine);

    if (disk == UINT_MAX)
        return false;
    if (fault->draw[2] / 2 % 3 == 0 || disk >= MACHINE_CAPACITY_MAX)
        return spoil_log_write(world, fault, machine, disk, kind);
    return spoil_next(world, machine, disk, kind);
}

static bool write_gets_lost(struct world *world, struct fault *fault)
{
    return spoil(world, fault, SIM_WRITE_LOST);
}

static bool write_goes_astray(struct world *world, struct fault *fault)
{
    return spoil(world, fault, SIM_WRITE_MISDIRECTED);
}

static void writes_are_true(struct world *world, struct fault *fault)
{
    struct machine *machine = &world->machines[world->rotten];

    (void)fault;
    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
        char path[DISK_PATH_MAX];

        disk_path_of(world, i, path);
        if (machine->disks[i].exists)
            sim_disk_spoil_write(world->sim, machine->number, path, SIM_WRITE_TRUE, 0);
    }
}

const struct fault_kind disk_faults[] = {
    {"slow disk", 3, gets_slow, gets_fast, false},
    {"read errors", 1, reads_fail, works_again, true},
    {"write errors", 1, writes_fail, works_again, true},
    {"disk dies", 1, disk_dies, NULL, true},
    {"disk wiped", 1, disk_is_wiped, NULL, true},
    {"bits rot", 3, bits_rot, NULL, true},
    {"write lost", 2, write_gets_lost, writes_are_true, true},
    {"write misdirected", 2, write_goes_astray, writes_are_true, true},
    {NULL, 0, NULL, NULL, false},
};
