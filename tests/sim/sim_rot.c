/* What goes bad on a disk without a word: bits that flip, and writes of a log that ended well and
 * are not there. (Lost and misdirected writes of data are the simulated disk's.)
 *
 * Bits flip in blocks that hold something: data in place, checksum pages, the extent table, the
 * superblock, records of the log and one of its anchors. Of the log, whatever has a later batch
 * behind it that calls it durable. The newest batch is left out: rot in it, or the loss of it,
 * looks like a write that the crash cut short, or that was never made, and nothing on that disk can
 * tell. So does the loss of a write of the extent table or of a checksum page: what was there
 * before is sound, and says that blocks are unwritten which are not. */
#include <limits.h>

#include "cache-tier/log_format.h"
#include "pool/superblock.h"
#include "tests/sim/sim_disks.h"
#include "tests/sim/sim_faults_private.h"

/* ---- data in place ---- */

struct place {
    unsigned disk;
    uint64_t data, page; /* offsets: of the block, of its checksum page */
};

/* From a block on, in a circle, the first one of the extent that holds something. */
static bool find_in_extent(struct world *world, const struct machine *machine,
                           const struct disk_geometry *geometry, uint32_t extent, uint32_t from,
                           struct place *place)
{
    char path[DISK_PATH_MAX];

    disk_path_of(world, place->disk, path);
    for (uint32_t i = 0; i < geometry->extent_blocks; i++) {
        uint32_t at = (from + i) % geometry->extent_blocks;
        uint64_t word;

        place->data = disk_block_offset(geometry, extent, at);
        place->page = disk_page_offset(geometry, (uint64_t)extent * geometry->pages_per_extent +
                                                     at / CHECKSUM_PAGE_ENTRIES);
        if (sim_disk_peek(world->sim, machine->number, path, place->data, &word, sizeof(word)) ==
                0 &&
            word != 0)
            return true;
    }
    return false;
}

/* A block of a column on that disk that holds something; false: nothing was destaged yet. */
static bool find_data(struct world *world, uint64_t draw, const struct machine *machine,
                      const struct disk_geometry *geometry, struct place *place)
{
    const struct database *database = node_database(world_any_member(world, 0)->node);
    size_t slabs = database_count(database, TABLE_SLAB);

    for (size_t i = 0; i < slabs; i++) {
        const struct slab_record *slab = database_at(database, TABLE_SLAB, (draw + i) % slabs);

        for (uint64_t j = 0; j < slab->column_count; j++) {
            const struct column_record *column = &slab->columns[j];

            if (machine_disk_of(world, database, column->disk, NULL) ==
                    &machine->disks[place->disk] &&
                find_in_extent(world, machine, geometry, (uint32_t)column->extent,
                               (uint32_t)(draw >> 20), place))
                return true;
        }
    }
    return false;
}

/* ---- logs ---- */

struct log_at {
    unsigned disk; /* that it lies on */
    uint64_t offset, ring_blocks;
    uint8_t uuid[16];
};

/* The log of a capacity disk, wherever it lies. */
static bool find_log(const struct machine *machine, unsigned disk, struct log_at *ret_log)
{
    struct superblock superblock, other;
    struct disk_log log;

    if (!superblock_of(machine, disk, &superblock) || superblock.role != DISK_CAPACITY ||
        superblock_log(&superblock, &log) < 0)
        return false;
    *ret_log = (struct log_at){.disk = disk,
                               .offset = log.offset,
                               .ring_blocks = log.bytes / BLOCK_SIZE - LOG_ANCHOR_BLOCKS};
    memcpy(ret_log->uuid, log.uuid.bytes, sizeof(ret_log->uuid));
    for (unsigned i = MACHINE_CAPACITY_MAX; i < MACHINE_DISKS_MAX; i++) {
        if (machine->disks[i].claimed && superblock_of(machine, i, &other) &&
            memcmp(other.disk, log.device.bytes, sizeof(other.disk)) == 0)
            ret_log->disk = i;
    }
    return ret_log->disk != disk || memcmp(superblock.disk, log.device.bytes, 16) == 0;
}

/* A log on the disk, or of it; on a cache disk any one that is there. */
static bool find_log_near(const struct machine *machine, unsigned disk, struct log_at *ret_log)
{
    if (disk < MACHINE_CAPACITY_MAX)
        return find_log(machine, disk, ret_log);
    for (unsigned i = 0; i < MACHINE_CAPACITY_MAX; i++) {
        if (machine->disks[i].claimed && !machine->disks[i].dead && find_log(machine, i, ret_log) &&
            ret_log->disk == disk)
            return true;
    }
    return false;
}

static uint64_t ring_offset(const struct log_at *log, uint64_t position)
{
    return log->offset + (LOG_ANCHOR_BLOCKS + position % log->ring_blocks) * BLOCK_SIZE;
}

static bool read_header(struct world *world, const struct machine *machine,
                        const struct log_at *log, uint64_t block, struct log_batch_header *header)
{
    char path[DISK_PATH_MAX];

    disk_path_of(world, log->disk, path);
    return sim_disk_peek(world->sim, machine->number, path, ring_offset(log, block), header,
                         sizeof(*header)) == 0 &&
           header->magic == LOG_BATCH_MAGIC && header->position % log->ring_blocks == block &&
           memcmp(header->log_uuid, log->uuid, sizeof(log->uuid)) == 0;
}

static bool is_newer(const struct log_batch_header *a, const struct log_batch_header *b)
{
    return a->incarnation != b->incarnation ? a->incarnation > b->incarnation
                                            : a->sequence > b->sequence;
}

/* A batch behind the tail that the newest one calls durable. */
static bool find_batch(struct world *world, const struct machine *machine, uint64_t draw,
                       const struct log_at *log, struct log_batch_header *ret_batch)
{
    struct log_batch_header newest = {0}, header;
    uint64_t count;

    for (uint64_t i = 0; i < log->ring_blocks; i++) {
        if (read_header(world, machine, log, i, &header) && is_newer(&header, &newest))
            newest = header;
    }
    if (newest.sequence == 0 || newest.durable_through < newest.tail_sequence)
        return false;
    count = newest.durable_through - newest.tail_sequence + 1;
    for (uint64_t i = 0; i < log->ring_blocks; i++) {
        if (read_header(world, machine, log, i, &header) &&
            header.position >= newest.tail_position &&
            header.sequence == newest.tail_sequence + draw % count &&
            header.position < newest.position) {
            *ret_batch = header;
            return true;
        }
    }
    return false;
}

static uint64_t batch_bytes(const struct log_batch_header *batch)
{
    return ((uint64_t)batch->header_blocks + batch->data_blocks) * BLOCK_SIZE;
}

static void put_block(struct world *world, const struct machine *machine, unsigned disk,
                      uint64_t offset, const void *block)
{
    char path[DISK_PATH_MAX];

    disk_path_of(world, disk, path);
    if (sim_disk_poke(world->sim, machine->number, path, offset, block, BLOCK_SIZE) < 0)
        abort();
}

/* Some blocks of data in place, of the disk whose log it is; UINT64_MAX: there are none. */
static uint64_t stray_offset(const struct machine *machine, unsigned disk, uint64_t draw,
                             uint64_t bytes)
{
    struct disk_geometry geometry;
    uint64_t room;

    if (disk >= MACHINE_CAPACITY_MAX || !disk_geometry_of(machine, disk, &geometry) ||
        geometry.extent_count == 0)
        return UINT64_MAX;
    room = geometry.extent_count * geometry.extent_bytes - bytes;
    return geometry.extents_offset + ALIGN_DOWN(draw % room, BLOCK_SIZE);
}

bool spoil_log_write(struct world *world, const struct fault *fault, struct machine *machine,
                     unsigned disk, enum sim_disk_spoil kind)
{
    static const uint8_t zeros[BLOCK_SIZE];
    static uint8_t block[BLOCK_SIZE];
    struct log_batch_header batch;
    char path[DISK_PATH_MAX];
    struct log_at log;
    uint64_t stray;

    if (!find_log_near(machine, disk, &log) ||
        !find_batch(world, machine, fault->draw[1], &log, &batch))
        return false;
    stray = kind == SIM_WRITE_MISDIRECTED
                ? stray_offset(machine, disk, fault->draw[0] >> 16, batch_bytes(&batch))
                : UINT64_MAX;
    disk_path_of(world, log.disk, path);
    for (uint64_t at = 0; at < batch_bytes(&batch); at += BLOCK_SIZE) {
        uint64_t offset = ring_offset(&log, batch.position) + at;

        if (sim_disk_peek(world->sim, machine->number, path, offset, block, BLOCK_SIZE) < 0)
            abort();
        if (stray != UINT64_MAX)
            put_block(world, machine, disk, stray + at, block);
        put_block(world, machine, log.disk, offset, zeros);
    }
    world->damaged = true;
    world_tell(world, "batch %llu of the log of disk %u on node %u is not there",
               (unsigned long long)batch.sequence, disk, machine->number);
    return true;
}

/* ---- bits ---- */

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

/* In the log that is there: mostly in what its batches hold, now and then in one of its anchors. */
static bool bit_of_log_rots(struct world *world, const struct fault *fault,
                            const struct machine *machine, unsigned disk)
{
    struct log_batch_header batch;
    struct log_at log;
    uint64_t offset;

    if (!find_log_near(machine, disk, &log))
        return false;
    if (fault->draw[2] / 64 % 8 == 0) {
        flip_bit(world, machine, log.disk, log.offset, fault->draw[2] >> 16);
        return true;
    }
    if (!find_batch(world, machine, fault->draw[1], &log, &batch))
        return false;
    offset = ALIGN_DOWN((fault->draw[1] >> 24) % batch_bytes(&batch), BLOCK_SIZE);
    flip_bit(world, machine, log.disk, ring_offset(&log, batch.position) + offset,
             fault->draw[2] >> 16);
    return true;
}

/* In data, now and then in a checksum page, in the extent table, or in one copy of the superblock.
 */
static bool bit_of_disk_rots(struct world *world, const struct fault *fault,
                             const struct machine *machine, unsigned disk,
                             const struct disk_geometry *geometry)
{
    struct place place = {.disk = disk};
    uint64_t offset;

    if (!find_data(world, fault->draw[1], machine, geometry, &place))
        return false;
    offset = place.data;
    if (fault->draw[2] % 8 == 0)
        offset = place.page;
    else if (fault->draw[2] % 32 == 1)
        offset = SUPERBLOCK_A_OFFSET;
    else if (fault->draw[2] % 32 == 2)
        offset =
            geometry->table_offset + fault->draw[1] % geometry->table_blocks * (uint64_t)BLOCK_SIZE;
    flip_bit(world, machine, disk, offset, fault->draw[2] >> 16);
    return true;
}

/* A few at once: most are in blocks that nobody reads. Of the log one: what tells of a hole is a
 * batch behind it. */
bool bits_rot(struct world *world, struct fault *fault)
{
    struct disk_geometry geometry;
    struct fault each = *fault;
    struct machine *machine;
    unsigned disk = choose_victim(world, fault, &machine), rotten = 0;

    if (disk == UINT_MAX || !disk_geometry_of(machine, disk, &geometry))
        return false;
    if (geometry.extent_count == 0 || fault->draw[2] % 3 == 0)
        rotten += bit_of_log_rots(world, fault, machine, disk);
    for (uint64_t i = 0; geometry.extent_count > 0 && i <= (fault->draw[0] >> 32 & 15); i++) {
        each.draw[1] += UINT64_C(0x9e3779b97f4a7c15);
        each.draw[2] = each.draw[2] * UINT64_C(6364136223846793005) + 1442695040888963407u;
        rotten += bit_of_disk_rots(world, &each, machine, disk, &geometry);
    }
    return rotten > 0;
}
