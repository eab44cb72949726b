#include "tests/sim/sim_disks.h"

#include "cache-tier/store.h"
#include "pool/extent_table.h"
#include "pool/superblock.h"
#include "resiliency/erasure.h"
#include "resiliency/parity_layout.h"
#include "s2d/base/checksum.h"
#include "tests/sim/sim_health.h"

#define CHECK_NS (120 * SEC)

/* ---- which, and where ---- */

/* "<start><letters><number>..."; invariants ask at every step, for which sscanf() is too slow. */
static bool number_behind(const char *start, const char *text, unsigned *ret_number)
{
    size_t length = strlen(start);
    char *end;

    if (strncmp(text, start, length) != 0)
        return false;
    text += length + strspn(text + length, "abcdefghijklmnopqrstuvwxyz");
    *ret_number = (unsigned)strtoul(text, &end, 10);
    return end > text;
}

struct machine_disk *machine_disk_of(struct world *world, const struct database *database,
                                     uint64_t id, struct machine **ret_machine)
{
    const struct disk_record *disk = database_find(database, TABLE_DISK, id);
    const struct node_record *node = disk ? database_find(database, TABLE_NODE, disk->node) : NULL;
    unsigned machine, number;

    if (!node || !number_behind("node", node->name, &machine) ||
        !number_behind(DISK_FOLDER, disk->path, &number))
        return NULL;
    assert(machine >= 1 && machine <= world->shape.nodes);
    assert(number < MACHINE_DISKS_MAX);
    if (ret_machine)
        *ret_machine = &world->machines[machine];
    return &world->machines[machine].disks[number];
}

bool superblock_of(const struct machine *machine, unsigned disk, struct superblock *ret_superblock)
{
    static _Alignas(BLOCK_SIZE) struct superblock a, b;
    const struct superblock *best;
    char path[DISK_PATH_MAX];
    bool repair;

    disk_path_of(machine->world, disk, path);
    if (sim_disk_peek(machine->world->sim, machine->number, path, SUPERBLOCK_A_OFFSET, &a,
                      sizeof(a)) < 0 ||
        sim_disk_peek(machine->world->sim, machine->number, path, SUPERBLOCK_B_OFFSET, &b,
                      sizeof(b)) < 0 ||
        superblock_choose(&a, &b, &best, &repair, NULL) < 0 || best->state != SUPERBLOCK_READY)
        return false;
    *ret_superblock = *best;
    return true;
}

bool disk_geometry_of(const struct machine *machine, unsigned disk,
                      struct disk_geometry *ret_geometry)
{
    struct superblock superblock;

    return superblock_of(machine, disk, &superblock) &&
           superblock_geometry(&superblock, ret_geometry) == 0;
}

/* ---- columns ---- */

struct column { /* of a slab, on a disk that lives */
    unsigned machine, disk;
    struct extent_ref where;
    uint64_t vdisk;
    uint32_t slab, number;
    uint32_t data_columns, width; /* of its slab */
    bool counts;                  /* in-sync, of a volume that has lost nothing: it must agree */
    uint64_t *sums;               /* of its blocks, as read; UINT64_MAX: rotten; NULL: not read */
    uint8_t **blocks;             /* parity: their contents; NULL: zeros */
};

struct placed {
    struct world *world;
    struct column *columns; /* those of a slab follow each other */
    size_t count;
    uint32_t column_blocks;
    uint64_t index; /* of the database's newest entry */
};

struct placed *placed_of(struct world *world, struct node *node)
{
    const struct database *database = node_database(node);
    struct placed *placed = calloc(1, sizeof(*placed));
    const struct slab_record *slab;
    const struct disk_record *record;

    if (!placed)
        abort();
    placed->world = world;
    placed->index = consensus_applied(node_consensus(node));
    placed->column_blocks = (uint32_t)(world->shape.extent_bytes / BLOCK_SIZE);
    placed->columns =
        calloc(database_count(database, TABLE_SLAB) * COLUMNS_MAX + 1, sizeof(*placed->columns));
    if (!placed->columns)
        abort();
    for (size_t i = 0; (record = database_at(database, TABLE_DISK, i)); i++) {
        struct machine_disk *of = machine_disk_of(world, database, record->base.id, NULL);

        if (of) /* it may have been claimed again */
            of->retired = record->state == DISK_RETIRED;
    }
    for (size_t i = 0; (slab = database_at(database, TABLE_SLAB, i)); i++) {
        const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, slab->vdisk);

        for (uint32_t j = 0; vdisk && j < slab->column_count; j++) {
            const struct column_record *column = &slab->columns[j];
            struct machine *machine;
            struct machine_disk *disk = machine_disk_of(world, database, column->disk, &machine);

            if (!disk || disk->dead)
                continue;
            placed->columns[placed->count++] = (struct column){
                .machine = machine->number,
                .disk = (unsigned)(disk - machine->disks),
                .where = {.extent = (uint32_t)column->extent, .generation = column->generation},
                .vdisk = slab->vdisk,
                .slab = (uint32_t)slab->number,
                .number = j,
                .data_columns = vdisk_data_columns(vdisk),
                .width = vdisk_columns(vdisk),
                .counts =
                    column->state == COLUMN_RECORD_IN_SYNC && !vdisk_is_lost(world, slab->vdisk)};
        }
    }
    return placed;
}

void placed_free(struct placed *placed)
{
    for (size_t i = 0; i < placed->count; i++) {
        struct column *column = &placed->columns[i];

        for (uint32_t j = 0; column->blocks && j < placed->column_blocks; j++)
            free(column->blocks[j]);
        free(column->blocks);
        free(column->sums);
    }
    free(placed->columns);
    free(placed);
}

/* ---- reading what is there ---- */

struct reader {
    struct placed *placed;
    struct machine *machine;
    struct store *store;
    unsigned disk;
    bool damaged; /* that disk: not all of what it holds counts */
    struct disk *caches[MACHINE_CACHES_MAX];
    uint8_t *buffer;
};

/* A row of a column that is gone stays until its extent begins another life (I10): the database
 * says what is free. */
static void check_row(void *arg, const struct store_extent *row)
{
    struct reader *reader = arg;

    if (row->where.generation > reader->placed->index)
        world_fail(reader->machine->world,
                   "node %u: extent %u is of generation %llu, which was never given",
                   reader->machine->number, row->where.extent,
                   (unsigned long long)row->where.generation);
    for (size_t i = 0; i < reader->placed->count; i++) {
        const struct column *column = &reader->placed->columns[i];

        if (column->machine != reader->machine->number || column->disk != reader->disk ||
            column->where.extent != row->where.extent)
            continue;
        reader->damaged |= row->damaged && row->where.generation == column->where.generation;
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

/* What the checksums of a column's blocks are made with. */
static uint64_t checksum_address(const struct placed *placed, const struct column *column,
                                 uint32_t block)
{
    struct vdisk_config config = {.slab_blocks = placed->column_blocks * column->data_columns,
                                  .data_columns = column->data_columns,
                                  .width = column->width};

    return parity_address(&config, column->slab, column->data_columns > 1 ? column->number : 0,
                          block);
}

static void keep_blocks(struct reader *reader, struct column *column, uint32_t block,
                        uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t sum = column->sums[block + i];

        if (sum == 0 || sum == UINT64_MAX)
            continue;
        column->blocks[block + i] = malloc(BLOCK_SIZE);
        if (!column->blocks[block + i])
            abort();
        memcpy(column->blocks[block + i], reader->buffer + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
    }
}

/* Reads and verifies what the checksums say is there. */
static void co_read_run(struct reader *reader, struct column *column, uint32_t block,
                        uint32_t count)
{
    struct world *world = reader->machine->world;
    struct block_set bad = {{0}};
    uint64_t address = checksum_address(reader->placed, column, block);
    int r = co_store_read(reader->store, column->vdisk, column->where, block, count, address,
                          reader->buffer, column->sums + block, &bad);

    if (r == -EBADMSG && world->rotten == reader->machine->number) {
        for (uint32_t i = 0; i < count; i++) {
            if (bad.bits[i / 64] >> (i % 64) & 1)
                column->sums[block + i] = UINT64_MAX;
        }
    } else if (r < 0) {
        world_fail(world, "node %u: disk %u: slab %u of vdisk %llu cannot be read at block %u: %s",
                   reader->machine->number, reader->disk, column->slab,
                   (unsigned long long)column->vdisk, block, strerror(-r));
    }
    if (column->blocks)
        keep_blocks(reader, column, block, count);
}

static void co_read_column(struct reader *reader, struct column *column)
{
    uint32_t blocks = reader->placed->column_blocks;
    uint64_t *unknown = calloc(blocks / 64 + 1, sizeof(*unknown));
    int r;

    column->sums = calloc(blocks, sizeof(*column->sums));
    if (column->data_columns > 1)
        column->blocks = calloc(blocks, sizeof(*column->blocks));
    if (!column->sums || !unknown || (column->data_columns > 1 && !column->blocks))
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

/* A hole in its log was found at this very open: a daemon would tell the cluster before it serves
 * any of it, and what the others have is what counts. */
static void pass_over_column(struct reader *reader, struct column *column)
{
    uint32_t blocks = reader->placed->column_blocks;

    column->sums = malloc(blocks * sizeof(*column->sums));
    if (column->data_columns > 1)
        column->blocks = calloc(blocks, sizeof(*column->blocks));
    if (!column->sums || (column->data_columns > 1 && !column->blocks))
        abort();
    memset(column->sums, 0xff, blocks * sizeof(*column->sums));
}

/* The cache disk that has the disk's log; NULL: the log is on itself. */
static struct disk *log_device_of(const struct reader *reader, const struct disk *disk)
{
    if (disk_log_is_own(disk))
        return NULL;
    for (unsigned i = 0; i < MACHINE_CACHES_MAX; i++) {
        struct disk *cache = reader->caches[i];
        const struct cache_region *region =
            cache ? disk_cache_log_of(cache, disk_identity(disk)->uuid) : NULL;

        if (region && disk_uuid_equal(region->log_uuid, disk_log(disk)->uuid))
            return cache;
    }
    world_fail(reader->machine->world,
               "node %u: disk %u is bound to a cache disk that is not there",
               reader->machine->number, reader->disk);
    return NULL;
}

static struct disk *co_open_at_end(const struct reader *reader, struct io *io, unsigned number)
{
    struct disk_message message = {{0}};
    struct disk *disk = NULL;
    char path[DISK_PATH_MAX];

    disk_path_of(reader->machine->world, number, path);
    if (co_disk_open(io, path, NULL, &message, &disk) < 0)
        world_fail(reader->machine->world, "node %u: %s cannot be opened at the end: %s",
                   reader->machine->number, path, message.text);
    return disk;
}

static bool is_table_rotten(const struct reader *reader, const struct disk *disk)
{
    static _Alignas(BLOCK_SIZE) struct extent_table_block block;
    const struct disk_geometry *geometry = disk_geometry(disk);

    for (uint64_t i = 0; i < geometry->table_blocks; i++) {
        if (sim_disk_peek(reader->machine->world->sim, reader->machine->number, disk_path(disk),
                          geometry->table_offset + i * BLOCK_SIZE, &block, sizeof(block)) < 0)
            abort();
        if (extent_table_block_check(&block, i, disk_identity(disk)->uuid) < 0)
            return true;
    }
    return false;
}

/* Rot that nobody met yet: its daemon would tell at its next start. All damage that was known
 * before is to be mended by now: of a table block that could be read, too, which says of rows that
 * they had been lost. */
static bool is_found_now(const struct reader *reader, const struct disk *disk, bool was_lost,
                         bool was_rotten)
{
    return reader->machine->world->rotten == reader->machine->number && !was_lost &&
           (disk_log_lost(disk) || was_rotten);
}

static void co_read_disk(struct reader *reader, struct io *io)
{
    struct world *world = reader->machine->world;
    struct store_options options = {.name = "check"};
    struct disk *disk = co_open_at_end(reader, io, reader->disk);
    bool was_lost = disk_log_lost(disk), was_rotten = is_table_rotten(reader, disk);
    char path[DISK_PATH_MAX];
    int r;

    disk_path_of(world, reader->disk, path);
    options.log_device = log_device_of(reader, disk);
    r = co_store_open(io, disk, &options, &reader->store);
    if (r < 0)
        world_fail(world, "node %u: the store of %s cannot be opened at the end: %s",
                   reader->machine->number, path, strerror(-r));
    /* not what a deleted volume left there: the node frees that when it looks at the disk next */
    reader->damaged = disk_log_lost(disk) || store_lost_extents(reader->store) > 0;
    store_each_extent(reader->store, check_row, reader);
    if (reader->damaged && world->lost_count == 0 &&
        !is_found_now(reader, disk, was_lost, was_rotten))
        world_fail(world, "node %u: the log of %s is damaged at the end", reader->machine->number,
                   path);
    for (size_t i = 0; i < reader->placed->count; i++) {
        struct column *column = &reader->placed->columns[i];

        if (column->machine != reader->machine->number || column->disk != reader->disk ||
            !column->counts)
            continue;
        if (reader->damaged)
            pass_over_column(reader, column);
        else
            co_read_column(reader, column);
    }
    co_store_close(reader->store);
    disk_close(disk);
}

static bool is_to_be_read(const struct machine_disk *disk)
{
    return disk->claimed && !disk->dead && !disk->retired;
}

static void reader_main(struct io *io, void *arg)
{
    struct reader *reader = arg;

    reader->buffer = aligned_alloc(BLOCK_SIZE, RECORD_BLOCKS_MAX * BLOCK_SIZE);
    if (!reader->buffer)
        abort();
    for (unsigned i = 0; i < MACHINE_CACHES_MAX; i++)
        if (is_to_be_read(&reader->machine->disks[MACHINE_CAPACITY_MAX + i]))
            reader->caches[i] = co_open_at_end(reader, io, MACHINE_CAPACITY_MAX + i);
    for (reader->disk = 0; reader->disk < MACHINE_CAPACITY_MAX; reader->disk++)
        if (is_to_be_read(&reader->machine->disks[reader->disk]))
            co_read_disk(reader, io);
    for (unsigned i = 0; i < MACHINE_CACHES_MAX; i++)
        disk_close(take_ptr(reader->caches[i]));
    free(reader->buffer);
    io_stop(io);
}

/* ---- comparing: copies ---- */

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

/* ---- comparing: parity ---- */

struct row { /* of a slab, some of whose columns are here */
    const struct column *columns;
    size_t count;
    uint32_t number;
    uint8_t *blocks[ERASURE_COLUMNS_MAX]; /* as computed from k of them */
};

static bool is_all_zeros(const struct row *row)
{
    for (size_t i = 0; i < row->count; i++) {
        if (row->columns[i].sums[row->number] != 0)
            return false;
    }
    return true;
}

/* Takes the first k columns for true. Returns which they are, a bit each; fewer than k: no more are
 * to be had. */
static uint32_t take_sources(struct row *row)
{
    uint32_t have = 0, k = row->columns[0].data_columns;

    for (size_t i = 0; i < row->count && (uint32_t)__builtin_popcount(have) < k; i++) {
        const struct column *column = &row->columns[i];

        if (column->sums[row->number] == UINT64_MAX)
            continue;
        have |= BIT(column->number);
        memset(row->blocks[column->number], 0, BLOCK_SIZE);
        if (column->blocks[row->number])
            memcpy(row->blocks[column->number], column->blocks[row->number], BLOCK_SIZE);
    }
    return have;
}

static void check_against_row(struct world *world, const struct row *row,
                              const struct column *column)
{
    static const uint8_t zeros[BLOCK_SIZE];
    const uint8_t *is = column->blocks[row->number];

    if (column->sums[row->number] != UINT64_MAX &&
        memcmp(is ? is : zeros, row->blocks[column->number], BLOCK_SIZE) != 0)
        world_fail(world,
                   "vdisk %llu slab %u row %u: column %u on node %u is not what the first "
                   "%u columns make it",
                   (unsigned long long)column->vdisk, column->slab, row->number, column->number,
                   column->machine, column->data_columns);
}

/* Any k columns must give all others. */
static void check_row_code(struct world *world, struct erasure *erasure, struct row *row)
{
    const struct column *first = &row->columns[0];
    uint32_t have = take_sources(row), all = BIT(first->width) - 1;

    if ((uint32_t)__builtin_popcount(have) < first->data_columns)
        world_fail(world, "vdisk %llu slab %u row %u: only %d columns are not rotten",
                   (unsigned long long)first->vdisk, first->slab, row->number,
                   __builtin_popcount(have));
    if (erasure_decode(erasure, BLOCK_SIZE, have, all & ~have, (void *const *)row->blocks) < 0)
        abort();
    for (size_t i = 0; i < row->count; i++)
        check_against_row(world, row, &row->columns[i]);
}

static void check_parity_slab(struct placed *placed, const struct column *columns, size_t count)
{
    struct row row = {.columns = columns, .count = count};
    struct erasure *erasure;

    if (erasure_new(columns->data_columns, columns->width - columns->data_columns, &erasure) < 0)
        abort();
    for (uint32_t i = 0; i < columns->width; i++) {
        row.blocks[i] = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
        if (!row.blocks[i])
            abort();
    }
    for (row.number = 0; row.number < placed->column_blocks; row.number++) {
        if (!is_all_zeros(&row))
            check_row_code(placed->world, erasure, &row);
    }
    for (uint32_t i = 0; i < columns->width; i++)
        free(row.blocks[i]);
    erasure_free(erasure);
}

/* ---- all of it ---- */

static void check_slab(struct placed *placed, const struct column *columns, size_t count)
{
    if (columns->data_columns > 1)
        check_parity_slab(placed, columns, count);
    for (size_t i = 1; columns->data_columns == 1 && i < count; i++)
        compare(placed->world, &columns[i - 1], &columns[i], placed->column_blocks);
}

/* Those of a slab then follow each other. The others were not read. */
static void keep_those_that_count(struct placed *placed)
{
    size_t count = 0;

    for (size_t i = 0; i < placed->count; i++) {
        if (placed->columns[i].counts)
            placed->columns[count++] = placed->columns[i];
    }
    placed->count = count;
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
    keep_those_that_count(placed);
    for (size_t i = 0, count; i < placed->count; i += count) {
        const struct column *first = &placed->columns[i];

        for (count = 1; i + count < placed->count; count++) {
            if (first[count].vdisk != first->vdisk || first[count].slab != first->slab)
                break;
        }
        check_slab(placed, first, count);
    }
}
