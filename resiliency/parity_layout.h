/* parity_layout: where the blocks of a parity slab are. Pure.
 *
 *            column 0    column 1   …  column k-1   column k   column k+1
 *   stripe 0 unit 0      unit 1     …  unit k-1     P          Q            rows 0 … 15
 *   stripe 1 unit k      unit k+1   …  unit 2k-1    P          Q            rows 16 … 31
 *
 * A slab's k data columns take its addresses in turn, a *unit* of 64 KiB at a time; a *stripe* is a
 * unit of each column. A *row* is one block of each column, at the same place in their extents, and
 * it is what the code works on: the parity blocks of a row encode its k data blocks and nothing
 * else. So rows are locked, written and taken over by themselves ("stripe" in I6 and I7), and a
 * 4 KiB write concerns one row.
 *
 * The unit is 64 KiB because the file system's clusters are: a read of one asks one column, and a
 * 1 MiB write has whole stripes for every shape up to 14+2. A smaller one would make more writes
 * whole stripes but every read of 64 KiB a question to several nodes; a larger one would turn most
 * sequential writes into partial ones.
 *
 * Checksum addresses go along the columns, so that a record's blocks, which follow each other in a
 * column, do so in address too. A data column's are addresses of the slab; a parity column's have
 * the top bit set. */
#ifndef S2D_RESILIENCY_PARITY_LAYOUT_H
#define S2D_RESILIENCY_PARITY_LAYOUT_H

#include "resiliency/vdisk_config.h"

#define PARITY_UNIT_BLOCKS 16 /* 64 KiB */
#define PARITY_COLUMNS 2      /* of parity: k + 2 */
#define PARITY_ADDRESS (UINT64_C(1) << 63)

static_assert(PARITY_UNIT_BLOCKS * VDISK_COLUMNS_MAX <= RECORD_BLOCKS_MAX,
              "the checksums of a stripe fit in those of a request");

/* A run of rows with the data columns, a bit each, that a request takes part in; the same ones in
 * every row. */
struct parity_piece {
    uint32_t row, count;
    uint32_t columns;
};
#define PARITY_PIECES_MAX 3 /* of one stripe */

/* Where block `block` of the slab is. */
static inline uint32_t parity_column(uint32_t data_columns, uint32_t block)
{
    return block / PARITY_UNIT_BLOCKS % data_columns;
}

static inline uint32_t parity_row(uint32_t data_columns, uint32_t block)
{
    return block / (PARITY_UNIT_BLOCKS * data_columns) * PARITY_UNIT_BLOCKS +
           block % PARITY_UNIT_BLOCKS;
}

/* And back: the block of the slab in a data column's row. */
static inline uint32_t parity_block(uint32_t data_columns, uint32_t column, uint32_t row)
{
    return (row / PARITY_UNIT_BLOCKS * data_columns + column) * PARITY_UNIT_BLOCKS +
           row % PARITY_UNIT_BLOCKS;
}

/* The checksum address of a column's row. */
static inline uint64_t parity_address(const struct vdisk_config *config, uint32_t slab,
                                      uint32_t column, uint32_t row)
{
    uint64_t rows = vdisk_config_column_blocks(config);

    if (column < config->data_columns)
        return ((uint64_t)slab * config->data_columns + column) * rows + row;
    return PARITY_ADDRESS | (((uint64_t)slab * config->width + column) * rows + row);
}

/* The pieces of [block, block + count), which must lie in one stripe: up to three, by row. Returns
 * how many. */
static inline uint32_t parity_pieces(uint32_t data_columns, uint32_t block, uint32_t count,
                                     struct parity_piece *ret_pieces)
{
    uint32_t stripe = data_columns * PARITY_UNIT_BLOCKS;
    uint32_t first = block % stripe / PARITY_UNIT_BLOCKS, from = block % PARITY_UNIT_BLOCKS;
    uint32_t last = (block + count - 1) % stripe / PARITY_UNIT_BLOCKS;
    uint32_t to = (block + count - 1) % PARITY_UNIT_BLOCKS + 1;
    uint32_t cuts[] = {0, MIN(from, to), MAX(from, to), PARITY_UNIT_BLOCKS};
    uint32_t pieces = 0;

    assert(count > 0);
    assert(block / stripe == (block + count - 1) / stripe);
    for (uint32_t i = 0; i < PARITY_PIECES_MAX; i++) {
        struct parity_piece piece = {.row = block / stripe * PARITY_UNIT_BLOCKS + cuts[i],
                                     .count = cuts[i + 1] - cuts[i]};

        for (uint32_t column = first; column <= last; column++)
            if ((column > first || cuts[i] >= from) && (column < last || cuts[i + 1] <= to))
                piece.columns |= BIT(column);
        if (piece.count > 0 && piece.columns != 0)
            ret_pieces[pieces++] = piece;
    }
    return pieces;
}

#endif
