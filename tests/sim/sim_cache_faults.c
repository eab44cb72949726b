/* Faults of cache disks, in the runs that have some: the death of one, of two at once on two nodes,
 * one exchanged for an empty one while its node is off, one that shows an old state of itself after
 * a power loss, what the read cache holds gone bad; and new ones. (Half of the other faults of
 * disks hit cache disks in such runs too: sim_disk_faults.c.)
 *
 * What destroys acknowledged data hits the node that rots, as everywhere. Two deaths at once are
 * what three copies, or dual parity, bear. The read cache may lie on any node at any time: what
 * comes from there is verified, and nothing is lost with it.
 *
 * An old state is of before the last start of its node. One that goes back less far, but behind
 * what was acknowledged, is left out: nothing on that node can tell it from a log that ends there,
 * but for its checkpoints (cache-tier/README.md). */
#include <limits.h>

#include "pool/superblock.h"
#include "tests/sim/sim_disks.h"
#include "tests/sim/sim_faults_private.h"

#define PIECE_BYTES (64 * KIB) /* of a disk, copied at once */

/* A cache disk of the machine that is in use; UINT_MAX: none. */
static unsigned choose_cache(const struct machine *machine, uint64_t draw)
{
    for (unsigned i = 0; i < MACHINE_CACHES_MAX; i++) {
        unsigned disk = MACHINE_CAPACITY_MAX + (unsigned)((draw + i) % MACHINE_CACHES_MAX);

        if (machine->disks[disk].claimed && !machine->disks[disk].dead)
            return disk;
    }
    return UINT_MAX;
}

/* The cache disk that a fault may take with all that it holds, on the node that rots; UINT_MAX: not
 * now. */
static unsigned choose_cache_victim(struct world *world, const struct fault *fault)
{
    if (world->shape.nodes == 1 || !all_in_sync(world))
        return UINT_MAX;
    return choose_cache(&world->machines[world->rotten], fault->draw[0]);
}

/* ---- deaths ---- */

static void let_die(struct world *world, struct machine *machine, unsigned disk)
{
    char path[DISK_PATH_MAX];

    disk_path_of(world, disk, path);
    sim_disk_set_fault(world->sim, machine->number, path, SIM_DISK_DEAD);
    machine->disks[disk].dead = true;
    world_tell(world, "cache disk %u of node %u dies", disk, machine->number);
    world->damaged = true;
    take_room(world); /* nothing is placed on its disks until they go on */
}

static bool cache_dies(struct world *world, struct fault *fault)
{
    unsigned disk = choose_cache_victim(world, fault);

    if (disk == UINT_MAX)
        return false;
    let_die(world, &world->machines[world->rotten], disk);
    return true;
}

/* At the same instant, on the node that rots and on another one, the same in the whole run. */
static bool two_caches_die(struct world *world, struct fault *fault)
{
    unsigned disk = choose_cache_victim(world, fault), other_disk, other;

    if (disk == UINT_MAX || !bears_two(world))
        return false;
    other = choose_other_victim(world, fault);
    other_disk = choose_cache(&world->machines[other], fault->draw[2]);
    if (other_disk == UINT_MAX)
        return false;
    world->rotten_too = other;
    world->log_lost_too = true;
    let_die(world, &world->machines[world->rotten], disk);
    let_die(world, &world->machines[other], other_disk);
    return true;
}

/* ---- an empty one in its place ---- */

static bool cache_exchanged(struct world *world, struct fault *fault)
{
    unsigned disk = choose_cache_victim(world, fault);
    struct machine *machine = &world->machines[world->rotten];

    if (disk == UINT_MAX)
        return false;
    fault->machine = machine;
    machine_crash(machine, SIM_HOST_DIES);
    wipe_disk(world, machine, disk);
    machine->disks[disk].dead = true;
    world->damaged = true;
    take_room(world);
    return true;
}

/* ---- an old state ---- */

struct disk_image {
    unsigned disk, life;
    size_t count;
    uint8_t *pieces[]; /* NULL: zeros */
};

void disk_image_free(struct disk_image *image)
{
    for (size_t i = 0; image && i < image->count; i++)
        free(image->pieces[i]);
    free(image);
}

static const uint8_t zeros[PIECE_BYTES];

static struct disk_image *image_of(struct world *world, const struct machine *machine,
                                   unsigned disk)
{
    size_t count = world->shape.disk_bytes / PIECE_BYTES;
    struct disk_image *image = calloc(1, sizeof(*image) + count * sizeof(*image->pieces));
    static uint8_t bytes[PIECE_BYTES];
    char path[DISK_PATH_MAX];

    if (!image)
        abort();
    *image = (struct disk_image){.disk = disk, .life = machine->life, .count = count};
    disk_path_of(world, disk, path);
    for (size_t i = 0; i < count; i++) {
        if (sim_disk_peek(world->sim, machine->number, path, i * PIECE_BYTES, bytes, PIECE_BYTES) <
            0)
            abort();
        if (memcmp(bytes, zeros, PIECE_BYTES) == 0)
            continue;
        image->pieces[i] = malloc(PIECE_BYTES);
        if (!image->pieces[i])
            abort();
        memcpy(image->pieces[i], bytes, PIECE_BYTES);
    }
    return image;
}

static void put_back(struct world *world, const struct machine *machine,
                     const struct disk_image *image)
{
    static uint8_t bytes[PIECE_BYTES];
    char path[DISK_PATH_MAX];

    disk_path_of(world, image->disk, path);
    for (size_t i = 0; i < image->count; i++) {
        const uint8_t *is = image->pieces[i] ? image->pieces[i] : zeros;

        if (sim_disk_peek(world->sim, machine->number, path, i * PIECE_BYTES, bytes, PIECE_BYTES) <
            0)
            abort();
        if (memcmp(bytes, is, PIECE_BYTES) != 0 &&
            sim_disk_poke(world->sim, machine->number, path, i * PIECE_BYTES, is, PIECE_BYTES) < 0)
            abort();
    }
}

/* The power goes, and comes back at once: what is on the disk in that moment comes back at the end
 * of the fault, when the power goes again. */
static bool cache_gets_old(struct world *world, struct fault *fault)
{
    unsigned disk = choose_cache_victim(world, fault);
    struct machine *machine = &world->machines[world->rotten];

    if (disk == UINT_MAX)
        return false;
    fault->machine = machine;
    machine_crash(machine, SIM_HOST_DIES);
    fault->image = image_of(world, machine, disk);
    fault->for_ns += 2 * SEC; /* it is to write something */
    machine_start(machine);
    return true;
}

/* Only where it is the one copy that is old. Otherwise the disk stays as it is. */
static void cache_is_old(struct world *world, struct fault *fault)
{
    struct machine *machine = fault->machine;
    struct disk_image *image = fault->image;

    if (machine->life == image->life && !machine->disks[image->disk].dead && all_in_sync(world)) {
        machine_crash(machine, SIM_HOST_DIES);
        put_back(world, machine, image);
        world->damaged = true;
        take_room(world);
        world_tell(world, "the cache disk %u of node %u is what it was", image->disk,
                   machine->number);
        machine_start(machine);
    }
    disk_image_free(take_ptr(fault->image));
}

/* ---- the read cache ---- */

static bool read_region_of(const struct machine *machine, unsigned disk,
                           struct cache_region *ret_region)
{
    struct cache_region regions[SUPERBLOCK_CACHE_REGIONS];
    struct superblock superblock;
    size_t count;

    if (!superblock_of(machine, disk, &superblock) ||
        superblock_cache_regions(&superblock, regions, &count) < 0 || count == 0)
        return false;
    *ret_region = regions[count - 1]; /* logs come first */
    return ret_region->kind == CACHE_REGION_READ;
}

/* Every block that it holds: one gets a flipped bit, the next one what the one before it was. */
static bool read_cache_rots(struct world *world, struct fault *fault)
{
    unsigned disk = choose_cache(fault->machine, fault->draw[0]), spoilt = 0;
    uint64_t block[BLOCK_SIZE / 8], last[BLOCK_SIZE / 8];
    struct cache_region region;
    char path[DISK_PATH_MAX];

    if (disk == UINT_MAX || !read_region_of(fault->machine, disk, &region))
        return false;
    disk_path_of(world, disk, path);
    for (uint64_t at = region.offset; at < region.offset + region.bytes; at += BLOCK_SIZE) {
        if (sim_disk_peek(world->sim, fault->machine->number, path, at, block, BLOCK_SIZE) < 0)
            abort();
        if (block[0] == 0)
            continue;
        if (spoilt % 2 == 0) {
            memcpy(last, block, sizeof(last));
            block[fault->draw[1] % ARRAY_SIZE(block)] ^= UINT64_C(1) << fault->draw[2] % 64;
        } else {
            memcpy(block, last, sizeof(block));
        }
        if (sim_disk_poke(world->sim, fault->machine->number, path, at, block, BLOCK_SIZE) < 0)
            abort();
        spoilt++;
    }
    return spoilt > 0;
}

/* ---- administrators ---- */

/* The record of a cache disk of the act's node: one that failed, or else of the fault's choice. */
static uint64_t choose_cache_record(const struct act *act)
{
    const struct database *database = node_database(act->machine->node);
    uint64_t own = node_id(act->machine->node), chosen = 0;
    uint64_t skip = act->fault.draw[0] % MACHINE_CACHES_MAX;
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        if (disk->node != own || disk->role != DISK_ROLE_CACHE || disk->state == DISK_RETIRED ||
            disk->state == DISK_RETIRING)
            continue;
        if (disk->state == DISK_FAILED)
            return disk->base.id;
        if (chosen == 0 || skip-- > 0)
            chosen = disk->base.id;
    }
    return chosen;
}

static int co_replace_cache(struct act *act)
{
    uint64_t disk = choose_cache_record(act);
    int r = co_claim_next(act);

    if (r < 0 || disk == 0 || act->fault.draw[1] % 4 == 0)
        return r; /* one more */
    return co_command(act->machine->node,
                      json_pack("{s:s,s:I}", "verb", "disk.retire", "disk", (json_int_t)disk));
}

static bool cache_replaced(struct world *world, struct fault *fault)
{
    (void)world;
    if (!machine_is_up(fault->machine) || fault->machine->stopping ||
        add_cache_disk(fault->machine) < 0)
        return false;
    begin_act(fault->machine, fault, co_replace_cache);
    return true;
}

const struct fault_kind cache_faults[] = {
    {"cache disk dies", 2, cache_dies, NULL, true},
    {"two cache disks die", 2, two_caches_die, NULL, true},
    {"cache disk exchanged", 2, cache_exchanged, starts_again, true},
    {"cache disk old", 2, cache_gets_old, cache_is_old, true},
    {"read cache rots", 2, read_cache_rots, NULL, false},
    {"cache disk replaced", 2, cache_replaced, NULL, false},
    {NULL, 0, NULL, NULL, false},
};
