#include "pool/extent_table.h"
#include "s2d/base/checksum.h"
#include "s2d/base/io.h"

struct extent_table {
    uint32_t extent_count, pages_per_extent, block_count;
    struct disk_uuid disk;
    uint32_t dirty_count, lost_count;
    uint64_t *dirty; /* a bit to each block */
    struct extent_row *rows;
};

static bool bit_get(const uint64_t *bits, uint32_t n)
{
    return bits[n / 64] >> (n % 64) & 1;
}

static void bit_set(uint64_t *bits, uint32_t n)
{
    bits[n / 64] |= 1ull << (n % 64);
}

static void bit_clear(uint64_t *bits, uint32_t n)
{
    bits[n / 64] &= ~(1ull << (n % 64));
}

/* ---- blocks ---- */

static uint32_t block_crc(const struct extent_table_block *block)
{
    size_t after = offsetof(struct extent_table_block, index);
    uint32_t crc = crc32c(&block->magic, sizeof(block->magic));

    crc = crc32c_more(crc, &block->version, sizeof(block->version));
    return crc32c_more(crc, (const char *)block + after, sizeof(*block) - after);
}

void extent_table_block_finish(struct extent_table_block *block, uint64_t index,
                               struct disk_uuid disk)
{
    block->magic = EXTENT_TABLE_MAGIC;
    block->version = DISK_FORMAT_VERSION;
    block->index = index;
    memcpy(block->disk, disk.bytes, sizeof(block->disk));
    block->crc = block_crc(block);
}

int extent_table_block_check(const struct extent_table_block *block, uint64_t index,
                             struct disk_uuid disk)
{
    if (block->magic != EXTENT_TABLE_MAGIC || block->version != DISK_FORMAT_VERSION ||
        block->crc != block_crc(block))
        return -EBADMSG;
    if (block->index != index || memcmp(block->disk, disk.bytes, sizeof(block->disk)) != 0)
        return -EBADMSG; /* a sound block in the wrong place */
    return 0;
}

void extent_table_encode(struct extent_table *table, uint32_t index,
                         struct extent_table_block *ret_block)
{
    uint32_t first = index * EXTENT_TABLE_ROWS;
    uint32_t count = MIN(EXTENT_TABLE_ROWS, table->extent_count - first);

    assert(index < table->block_count);
    memset(ret_block, 0, sizeof(*ret_block));
    memcpy(ret_block->rows, &table->rows[first], count * sizeof(struct extent_row));
    extent_table_block_finish(ret_block, index, table->disk);
    if (bit_get(table->dirty, index)) {
        bit_clear(table->dirty, index);
        table->dirty_count--;
    }
}

static void block_take(struct extent_table *table, uint32_t index,
                       const struct extent_table_block *block)
{
    uint32_t first = index * EXTENT_TABLE_ROWS;
    uint32_t count = MIN(EXTENT_TABLE_ROWS, table->extent_count - first);

    bool sound = extent_table_block_check(block, index, table->disk) == 0;

    if (sound)
        memcpy(&table->rows[first], block->rows, count * sizeof(struct extent_row));
    for (uint32_t i = 0; i < count; i++) {
        if (!sound)
            extent_table_change(table, first + i)->flags = EXTENT_LOST;
        if (table->rows[first + i].flags & EXTENT_LOST)
            table->lost_count++;
    }
}

/* ---- rows ---- */

uint32_t extent_table_lost_rows(const struct extent_table *table)
{
    return table->lost_count;
}

const struct extent_row *extent_table_row(const struct extent_table *table, uint32_t extent)
{
    assert(extent < table->extent_count);
    return &table->rows[extent];
}

struct extent_row *extent_table_change(struct extent_table *table, uint32_t extent)
{
    uint32_t block = extent / EXTENT_TABLE_ROWS;

    assert(extent < table->extent_count);
    if (!bit_get(table->dirty, block)) {
        bit_set(table->dirty, block);
        table->dirty_count++;
    }
    return &table->rows[extent];
}

static struct extent_row *row_own(struct extent_table *table, uint32_t extent, uint64_t generation,
                                  uint64_t vdisk, uint32_t slab, uint16_t column)
{
    struct extent_row *row = extent_table_change(table, extent);

    if (row->flags & EXTENT_LOST)
        table->lost_count--;
    memset(row, 0, sizeof(*row));
    row->generation = generation;
    row->vdisk = vdisk;
    row->slab = slab;
    row->column = column;
    row->flags = EXTENT_USED;
    return row;
}

void extent_table_init_row(struct extent_table *table, uint32_t extent, uint64_t generation,
                           uint64_t vdisk, uint32_t slab, uint16_t column)
{
    row_own(table, extent, generation, vdisk, slab, column);
}

void extent_table_free_row(struct extent_table *table, uint32_t extent, uint64_t generation)
{
    row_own(table, extent, generation, 0, 0, 0)->flags = 0;
}

void extent_table_adopt(struct extent_table *table, uint32_t extent, uint64_t generation,
                        uint64_t vdisk, uint32_t slab, uint16_t column)
{
    struct extent_row *row = row_own(table, extent, generation, vdisk, slab, column);

    row->flags |= EXTENT_DAMAGED | EXTENT_ADOPTED;
    for (uint32_t i = 0; i < table->pages_per_extent; i++)
        bit_set(row->pages, i);
}

uint32_t extent_table_dirty_blocks(const struct extent_table *table)
{
    return table->dirty_count;
}

uint32_t extent_table_next_dirty(const struct extent_table *table, uint32_t from)
{
    for (uint32_t i = from; i < table->block_count && table->dirty_count > 0; i++)
        if (bit_get(table->dirty, i))
            return i;
    return UINT32_MAX;
}

/* ---- life ---- */

static int table_new(struct disk *disk, struct extent_table **ret_table)
{
    const struct disk_geometry *geometry = disk_geometry(disk);
    struct extent_table *table = calloc(1, sizeof(*table));

    if (!table)
        return -ENOMEM;
    table->extent_count = geometry->extent_count;
    table->pages_per_extent = geometry->pages_per_extent;
    table->block_count = geometry->table_blocks;
    table->disk = disk_identity(disk)->uuid;
    table->dirty = calloc(DIV_ROUND_UP(table->block_count, 64), sizeof(uint64_t));
    table->rows = calloc(table->extent_count, sizeof(*table->rows));
    if (!table->dirty || !table->rows) {
        extent_table_free(table);
        return -ENOMEM;
    }
    *ret_table = table;
    return 0;
}

void extent_table_free(struct extent_table *table)
{
    if (!table)
        return;
    free(table->dirty);
    free(table->rows);
    free(table);
}

#define LOAD_BLOCKS 256

/* One piece of the table; a piece that cannot be read is tried block by block. */
static int co_load_piece(struct disk *disk, struct extent_table *table, uint32_t first,
                         uint32_t count, struct extent_table_block *blocks)
{
    uint64_t offset = disk_geometry(disk)->table_offset + (uint64_t)first * BLOCK_SIZE;
    int r = co_io_read(disk_file(disk), blocks, (size_t)count * BLOCK_SIZE, offset);

    if (r == -ECANCELED)
        return r;
    for (uint32_t i = 0; i < count; i++) {
        if (r < 0) {
            int one = co_io_read(disk_file(disk), &blocks[i], BLOCK_SIZE,
                                 offset + (uint64_t)i * BLOCK_SIZE);

            if (one == -ECANCELED)
                return one;
            if (one < 0)
                memset(&blocks[i], 0, sizeof(blocks[i]));
        }
        block_take(table, first + i, &blocks[i]);
    }
    return 0;
}

int co_extent_table_load(struct disk *disk, struct extent_table **ret_table)
{
    cleanup(extent_table_freep) struct extent_table *table = NULL;
    cleanup(freep) struct extent_table_block *blocks =
        aligned_alloc(BLOCK_SIZE, (size_t)LOAD_BLOCKS * BLOCK_SIZE);
    int r;

    if (!blocks)
        return -ENOMEM;
    r = table_new(disk, &table);
    if (r < 0)
        return r;
    for (uint32_t first = 0; first < table->block_count; first += LOAD_BLOCKS) {
        r = co_load_piece(disk, table, first, MIN(LOAD_BLOCKS, table->block_count - first), blocks);
        if (r < 0)
            return r;
    }
    *ret_table = take_ptr(table);
    return 0;
}
