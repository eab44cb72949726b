#include "tests/sim/sim_disks.h"

#include "cache-tier/store.h"
#include "pool/superblock.h"
#include "s2d/base/checksum.h"

#define CHECK_NS (120 * SEC)

/* ---- which, and where ---- */

struct machine_disk *machine_disk_of(struct world *world, const struct database *database,
                                     uint64_t id, struct machine **ret_machine)
{
    const struct disk_record *disk = database_find(database, TABLE_DISK, id);
    const struct node_record *node = disk ? database_find(database, TABLE_NODE, disk->node) : NULL;
    unsigned machine, number;

    if (!node || sscanf(node->name, "node%u", &machine) != 1 ||
        sscanf(disk->path, "/disks/ssd%u", &number) != 1)
        return NULL;
    assert(machine >= 1 && machine <= world->shape.nodes);
    assert(number < MACHINE_DISKS_MAX);
    if (ret_machine)
        *ret_machine = &world->machines[machine];
    return &world->machines[machine].disks[number];
}

bool disk_geometry_of(struct machine *machine, unsigned disk, struct disk_geometry *ret_geometry)
{
    static _Alignas(BLOCK_SIZE) struct superblock a, b;
    const struct superblock *best;
    char path[DISK_PATH_MAX];
    bool repair;

    disk_path_of(disk, path);
    if (sim_disk_peek(machine->world->sim, machine->number, path, SUPERBLOCK_A_OFFSET, &a,
                      sizeof(a)) < 0 ||
        sim_disk_peek(machine->world->sim, machine->number, path, SUPERBLOCK_B_OFFSET, &b,
                      sizeof(b)) < 0 ||
        superblock_choose(&a, &b, &best, &repair, NULL) < 0 || best->state != SUPERBLOCK_READY)
        return false;
    return superblock_geometry(best, ret_geometry) == 0;
}

/* ---- columns ---- */

struct column { /* of a slab, in-sync, on a disk that lives */
    unsigned machine, disk;
    struct extent_ref where;
    uint64_t vdisk;
    uint32_t slab, number;
    uint64_t *sums; /* of its blocks, as read; NULL: not read */
};

struct placed {
    struct world *world;
    struct column *columns; /* those of a slab follow each other */
    size_t count;
    uint32_t slab_blocks;
    bool done; /* a machine has read its own */
};

struct placed *placed_of(struct world *world, const struct database *database)
{
    struct placed *placed = calloc(1, sizeof(*placed));
    const struct slab_record *slab;

    if (!placed)
        abort();
    placed->world = world;
    placed->slab_blocks = (uint32_t)(world->shape.extent_bytes / BLOCK_SIZE);
    placed->columns =
        calloc(database_count(database, TABLE_SLAB) * COLUMNS_MAX + 1, sizeof(*placed->columns));
    if (!placed->columns)
        abort();
    for (size_t i = 0; (slab = database_at(database, TABLE_SLAB, i)); i++) {
        for (uint32_t j = 0; j < slab->column_count; j++) {
            const struct column_record *column = &slab->columns[j];
            struct machine *machine;
            struct machine_disk *disk = machine_disk_of(world, database, column->disk, &machine);

            if (!disk || disk->dead || column->state != COLUMN_RECORD_IN_SYNC)
                continue;
            placed->columns[placed->count++] = (struct column){
                .machine = machine->number,
                .disk = (unsigned)(disk - machine->disks),
                .where = {.extent = (uint32_t)column->extent, .generation = column->generation},
                .vdisk = slab->vdisk,
                .slab = (uint32_t)slab->number,
                .number = j};
        }
    }
    return placed;
}

void placed_free(struct placed *placed)
{
    for (size_t i = 0; i < placed->count; i++)
        free(placed->columns[i].sums);
    free(placed->columns);
    free(placed);
}

/* ---- reading what is there ---- */

struct reader {
    struct placed *placed;
    struct machine *machine;
    struct store *store;
    unsigned disk;
    uint8_t *buffer;
};

static void check_row(void *arg, const struct store_extent *row)
{
    struct reader *reader = arg;

    for (size_t i = 0; i < reader->placed->count; i++) {
        const struct column *column = &reader->placed->columns[i];

        if (column->machine != reader->machine->number || column->disk != reader->disk ||
            column->where.extent != row->where.extent)
            continue;
        if (row->where.generation > column->where.generation ||
            (row->where.generation == column->where.generation &&
             (row->vdisk != column->vdisk || row->slab != column->slab ||
              row->column != column->number)))
            world_fail(reader->machine->world,
                       "node %u: the extent table gives extent %u to vdisk %llu slab %u column %u "
                       "(generation %llu), the database to vdisk %llu slab %u column %u (%llu)",
                       reader->machine->number, row->where.extent, (unsigned long long)row->vdisk,
                       row->slab, row->column, (unsigned long long)row->where.generation,
                       (unsigned long long)column->vdisk, column->slab, column->number,
                       (unsigned long long)column->where.generation);
    }
}

/* Reads and verifies what the checksums say is there. */
static void co_read_run(struct reader *reader, struct column *column, uint32_t block,
                        uint32_t count)
{
    struct world *world = reader->machine->world;
    struct block_set bad = {{0}};
    uint64_t address = (uint64_t)column->slab * reader->placed->slab_blocks + block;
    int r = co_store_read(reader->store, column->vdisk, column->where, block, count, address,
                          reader->buffer, column->sums + block, &bad);

    if (r == -EBADMSG && world->rotten == reader->machine->number) {
        for (uint32_t i = 0; i < count; i++) {
            if (bad.bits[i / 64] >> (i % 64) & 1)
                column->sums[block + i] = UINT64_MAX;
        }
        return;
    }
    if (r < 0)
        world_fail(world, "node %u: disk %u: slab %u of vdisk %llu cannot be read at block %u: %s",
                   reader->machine->number, reader->disk, column->slab,
                   (unsigned long long)column->vdisk, block, strerror(-r));
}

static void co_read_column(struct reader *reader, struct column *column)
{
    uint32_t blocks = reader->placed->slab_blocks;
    uint64_t *unknown = calloc(blocks / 64 + 1, sizeof(*unknown));
    int r;

    column->sums = calloc(blocks, sizeof(*column->sums));
    if (!column->sums || !unknown)
        abort();
    r = co_store_checksums(reader->store, column->vdisk, column->where, 0, blocks, column->sums,
                           unknown);
    if (r < 0 && !(r == -EBADMSG && reader->machine->world->rotten == reader->machine->number))
        world_fail(reader->machine->world, "node %u: disk %u: checksums of slab %u: %s",
                   reader->machine->number, reader->disk, column->slab, strerror(-r));
    for (uint32_t at = 0; at < blocks; at += RECORD_BLOCKS_MAX) {
        uint32_t count = MIN(blocks - at, (uint32_t)RECORD_BLOCKS_MAX), used = 0;

        for (uint32_t i = 0; i < count; i++) {
            if (unknown[(at + i) / 64] >> ((at + i) % 64) & 1)
                column->sums[at + i] = UINT64_MAX;
            used += column->sums[at + i] != 0;
        }
        if (used > 0)
            co_read_run(reader, column, at, count);
    }
    free(unknown);
}

static void co_read_disk(struct reader *reader, struct io *io)
{
    struct world *world = reader->machine->world;
    struct disk_message message = {{0}};
    struct store_options options = {.name = "check"};
    struct disk *disk;
    char path[DISK_PATH_MAX];
    int r;

    disk_path_of(reader->disk, path);
    r = co_disk_open(io, path, NULL, &message, &disk);
    if (r < 0)
        world_fail(world, "node %u: %s cannot be opened at the end: %s", reader->machine->number,
                   path, message.text);
    r = co_store_open(io, disk, &options, &reader->store);
    if (r < 0)
        world_fail(world, "node %u: the store of %s cannot be opened at the end: %s",
                   reader->machine->number, path, strerror(-r));
    store_each_extent(reader->store, check_row, reader);
    for (size_t i = 0; i < reader->placed->count; i++) {
        struct column *column = &reader->placed->columns[i];

        if (column->machine == reader->machine->number && column->disk == reader->disk)
            co_read_column(reader, column);
    }
    co_store_close(reader->store);
    disk_close(disk);
}

static void reader_main(struct io *io, void *arg)
{
    struct reader *reader = arg;

    reader->buffer = aligned_alloc(BLOCK_SIZE, RECORD_BLOCKS_MAX * BLOCK_SIZE);
    if (!reader->buffer)
        abort();
    for (reader->disk = 0; reader->disk < MACHINE_DISKS_MAX; reader->disk++) {
        const struct machine_disk *disk = &reader->machine->disks[reader->disk];

        if (disk->claimed && !disk->dead)
            co_read_disk(reader, io);
    }
    free(reader->buffer);
    io_stop(io);
}

/* ---- comparing ---- */

static void compare(struct world *world, const struct column *a, const struct column *b,
                    uint32_t blocks)
{
    for (uint32_t i = 0; i < blocks; i++) {
        if (a->sums[i] != b->sums[i] && a->sums[i] != UINT64_MAX && b->sums[i] != UINT64_MAX)
            world_fail(world,
                       "vdisk %llu slab %u block %u: the copies on nodes %u and %u differ "
                       "(%016llx, %016llx)",
                       (unsigned long long)a->vdisk, a->slab, i, a->machine, b->machine,
                       (unsigned long long)a->sums[i], (unsigned long long)b->sums[i]);
        if (a->sums[i] == UINT64_MAX && b->sums[i] == UINT64_MAX)
            world_fail(world, "vdisk %llu slab %u block %u is rotten on nodes %u and %u",
                       (unsigned long long)a->vdisk, a->slab, i, a->machine, b->machine);
    }
}

static bool has_ended(void *arg)
{
    struct reader *reader = arg;

    return !machine_is_up(reader->machine);
}

void check_disks(struct world *world, struct placed *placed)
{
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct reader reader = {.placed = placed, .machine = &world->machines[i]};

        if (sim_start(world->sim, i, reader_main, &reader) < 0)
            world_fail(world, "machine %u does not start", i);
        if (!sim_run(world->sim, world_now_ns(world) + CHECK_NS, has_ended, &reader))
            world_fail(world, "node %u: its disks were not read in %d s", i, (int)(CHECK_NS / SEC));
    }
    for (size_t i = 1; i < placed->count; i++) {
        const struct column *a = &placed->columns[i - 1], *b = &placed->columns[i];

        if (a->vdisk == b->vdisk && a->slab == b->slab)
            compare(world, a, b, placed->slab_blocks);
    }
}
