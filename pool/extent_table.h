/* extent_table: which extent of a disk belongs to what, in RAM and as blocks on the medium. The
 * database is the authority; this is the disk's own memory of it, and says for each checksum page
 * whether it was ever written (disk_format.h). It changes through the log of cache-tier, which
 * decides when a block goes to its place; nothing here writes. A block that cannot be read makes
 * its rows *lost*: such a row takes the generation it is first shown (extent_table_adopt()), and
 * then trusts only pages that bear it.
 *
 * One reactor. co_ calls suspend. */
#ifndef S2D_POOL_EXTENT_TABLE_H
#define S2D_POOL_EXTENT_TABLE_H

#include "pool/disk.h"
#include "pool/disk_format.h"

struct extent_table;

/* Reads all blocks from their place. Returns 0 (also with lost rows), -EIO (nothing could be read),
 * -ENOMEM, -ECANCELED. */
must_check int co_extent_table_load(struct disk *disk, struct extent_table **ret_table);
void extent_table_free(struct extent_table *table);
DEFINE_CLEANUP(struct extent_table, extent_table_free)

uint32_t extent_table_lost_rows(const struct extent_table *table);

/* A row to read. extent < the geometry's extent_count. */
const struct extent_row *extent_table_row(const struct extent_table *table, uint32_t extent);
/* A row to change: its block becomes dirty. Keep the pointer for no longer than the change. */
struct extent_row *extent_table_change(struct extent_table *table, uint32_t extent);

/* The row belongs to a new owner from here on: nothing in it was ever written. */
void extent_table_init_row(struct extent_table *table, uint32_t extent, uint64_t generation,
                           uint64_t vdisk, uint32_t slab, uint16_t column);
/* A lost row takes what a caller says of it; every page counts as written, and the row as damaged.
 */
void extent_table_adopt(struct extent_table *table, uint32_t extent, uint64_t generation,
                        uint64_t vdisk, uint32_t slab, uint16_t column);

/* The row is free since `generation`: older requests, and those of that generation, come too late.
 */
void extent_table_free_row(struct extent_table *table, uint32_t extent, uint64_t generation);

static inline bool extent_row_has_page(const struct extent_row *row, uint32_t page)
{
    return row->pages[page / 64] >> (page % 64) & 1;
}

/* Blocks that changed since they were last cleaned. */
uint32_t extent_table_dirty_blocks(const struct extent_table *table);
/* The first dirty block at or after `from`; UINT32_MAX: none. */
uint32_t extent_table_next_dirty(const struct extent_table *table, uint32_t from);
/* Makes the image of a block as it is now, and calls it clean: the caller sees to it that it lands.
 */
void extent_table_encode(struct extent_table *table, uint32_t index,
                         struct extent_table_block *ret_block);

/* Sets magic, version, place and checksum of a block. */
void extent_table_block_finish(struct extent_table_block *block, uint64_t index,
                               struct disk_uuid disk);
/* Returns 0 or -EBADMSG. */
must_check int extent_table_block_check(const struct extent_table_block *block, uint64_t index,
                                        struct disk_uuid disk);

#endif
