/* Faults of disks. What destroys data hits one node of a run (the seed says which): see
 * sim_faults.h. In a cluster of one node it hits one of its disks.
 *
 * Lost and misdirected writes are those of data in its place. A log write that was lost and is the
 * last before a crash looks like one that was never made; nothing on that disk could tell.
 *
 * A column on a dead disk gets a new place (repair.h), if there is room for it; what administrators
 * exchange is in sim_replace_faults.c. In a run with cache disks half of all this hits them: their
 * capacity disks go on with new logs. One that had errors works again, and what is on it is old. */
#include <limits.h>

#include "pool/disk_format.h"
#include "tests/sim/sim_disks.h"
#include "tests/sim/sim_faults_private.h"

#define TRIES 40

/* The disk that this fault is about; UINT_MAX: none is to be had. */
static unsigned choose_disk(const struct fault *fault, const struct machine *machine)
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

/* Where data may be destroyed: *ret_machine and the disk, or UINT_MAX when not now. */
static unsigned choose_victim(struct world *world, const struct fault *fault,
                              struct machine **ret_machine)
{
    struct machine *machine = &world->machines[world->rotten];

    *ret_machine = machine;
    if (!all_in_sync(world))
        return UINT_MAX;
    if (world->shape.nodes == 1)
        return machine->disks[0].dead ? UINT_MAX : 0;
    return choose_disk(fault, machine);
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
    machine->disks[disk].dead = kind == SIM_DISK_DEAD;
    world->pool_full = true; /* nothing is placed on it until it is taken up again */
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

/* ---- rot ---- */

/* A block of a column on that disk that holds something; false: none was found. */
static bool find_data(struct world *world, const struct fault *fault, struct machine *machine,
                      unsigned disk, const struct disk_geometry *geometry, uint64_t *ret_offset,
                      uint64_t *ret_page)
{
    const struct database *database = node_database(world_any_member(world, 0)->node);
    size_t slabs = database_count(database, TABLE_SLAB);
    uint64_t block[BLOCK_SIZE / 8], x = fault->draw[1];
    char path[DISK_PATH_MAX];

    disk_path_of(world, disk, path);
    for (unsigned try = 0; try < TRIES && slabs > 0; try++) {
        const struct slab_record *slab = database_at(database, TABLE_SLAB, x % slabs);

        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        for (uint64_t i = 0; i < slab->column_count; i++) {
            const struct column_record *column = &slab->columns[i];
            uint32_t at = (uint32_t)((x >> 20) % geometry->extent_blocks);

            if (machine_disk_of(world, database, column->disk, NULL) != &machine->disks[disk])
                continue;
            *ret_offset = disk_block_offset(geometry, (uint32_t)column->extent, at);
            *ret_page = disk_page_offset(geometry, column->extent * geometry->pages_per_extent +
                                                       at / CHECKSUM_PAGE_ENTRIES);
            if (sim_disk_peek(world->sim, machine->number, path, *ret_offset, block,
                              sizeof(block)) == 0 &&
                block[0] != 0)
                return true;
        }
    }
    return false;
}

static void flip_bit(struct world *world, const struct machine *machine, unsigned disk,
                     uint64_t offset, uint64_t bit)
{
    char path[DISK_PATH_MAX];
    uint8_t byte;

    disk_path_of(world, disk, path);
    offset += bit / 8 % BLOCK_SIZE;
    if (sim_disk_peek(world->sim, machine->number, path, offset, &byte, 1) < 0)
        return;
    byte ^= (uint8_t)(1u << bit % 8);
    if (sim_disk_poke(world->sim, machine->number, path, offset, &byte, 1) < 0)
        return;
    world->damaged = true;
    world_tell(world, "a bit rots on node %u, disk %u, at %llu", machine->number, disk,
               (unsigned long long)offset);
}

/* In data, now and then in a checksum page, or in one copy of the superblock. */
static bool one_bit_rots(struct world *world, const struct fault *fault, struct machine *machine,
                         unsigned disk, const struct disk_geometry *geometry)
{
    uint64_t data, page, offset;

    if (!find_data(world, fault, machine, disk, geometry, &data, &page))
        return false;
    offset = data;
    if (fault->draw[2] % 8 == 0)
        offset = page;
    else if (fault->draw[2] % 32 == 1)
        offset = 0;
    flip_bit(world, machine, disk, offset, fault->draw[2] >> 8);
    return true;
}

/* A few at once: most are in blocks that nobody reads. */
static bool bits_rot(struct world *world, struct fault *fault)
{
    struct disk_geometry geometry;
    struct fault each = *fault;
    struct machine *machine;
    unsigned disk = choose_victim(world, fault, &machine), rotten = 0;

    if (disk == UINT_MAX || !disk_geometry_of(machine, disk, &geometry) ||
        geometry.extent_count == 0)
        return false;
    for (uint64_t i = 0; i <= (fault->draw[0] >> 32 & 15); i++) {
        each.draw[1] += UINT64_C(0x9e3779b97f4a7c15);
        each.draw[2] = each.draw[2] * UINT64_C(6364136223846793005) + 1442695040888963407u;
        rotten += one_bit_rots(world, &each, machine, disk, &geometry);
    }
    return rotten > 0;
}

/* ---- a disk overwritten with zeros, under the daemon ---- */

#define WIPE_BYTES (64 * KIB) /* at once; what is zeros already stays unwritten */

static void wipe(struct world *world, const struct machine *machine, const char *path)
{
    static const uint8_t zeros[WIPE_BYTES];
    static uint8_t bytes[WIPE_BYTES];

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
    char path[DISK_PATH_MAX];

    if (disk == UINT_MAX || world->shape.nodes == 1)
        return false;
    disk_path_of(world, disk, path);
    wipe(world, machine, path);
    world->damaged = true;
    machine->disks[disk].dead = true;
    world->pool_full = true;
    return true;
}

/* ---- writes that do not do what they say ---- */

static bool spoil(struct world *world, struct fault *fault, enum sim_disk_spoil kind)
{
    struct disk_geometry geometry;
    struct machine *machine;
    unsigned disk = choose_victim(world, fault, &machine);
    char path[DISK_PATH_MAX];

    if (disk == UINT_MAX || !disk_geometry_of(machine, disk, &geometry) ||
        geometry.extent_count == 0)
        return false;
    disk_path_of(world, disk, path);
    world->damaged = true;
    sim_disk_spoil_write(world->sim, machine->number, path, kind, geometry.extents_offset);
    return true;
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
