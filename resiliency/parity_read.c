/* The read path of parity. A shared lock of the rows makes a read wait for writes in flight to them
 * (I7), its own block's or another's, so it may decode. A unit of the stripe is read from its
 * column; one whose column is stale, away or rotten is decoded from the others. What was rotten is
 * repaired afterwards, under an exclusive lock, by a committed record for that column alone. */
#include "resiliency/parity_private.h"

#define BATCH_BLOCKS RECORD_BLOCKS_MAX
#define RUNS_MAX (BATCH_BLOCKS / PARITY_UNIT_BLOCKS + 1) /* units that a batch touches */

/* ---- repair ---- */

static bool is_zero(const char *block)
{
    return block[0] == 0 && memcmp(block, block + 1, BLOCK_SIZE - 1) == 0;
}

void parity_sums(const struct mirror *mirror, uint32_t column, struct write_extent rows,
                 const char *blocks, uint64_t *ret_sums)
{
    checksum_blocks(blocks, rows.count, mirror->vdisk.id,
                    column_address(mirror, rows.slab, column, rows.block), ret_sums);
    for (uint32_t i = 0; i < rows.count; i++)
        if (is_zero(blocks + (size_t)i * BLOCK_SIZE))
            ret_sums[i] = 0;
}

/* One row. Returns 1 if it was rotten and is right now. */
static int co_repair_locked(struct stripe *stripe, uint32_t column, struct write_extent row)
{
    struct mirror *mirror = stripe->mirror;
    struct feed *feed = mirror_feed(mirror, row.slab, column);
    uint64_t sum;
    int r;

    stripe_begin(stripe, row);
    if (mirror->stopped || !feed->up || !(stripe->sources & BIT(column)))
        return 0; /* stale by now: resync compares it */
    r = co_read_column_at(mirror, column, row, stripe->blocks[column], NULL);
    if (r != -EBADMSG && r != -EIO)
        return 0;
    SOMETIMES("parity: read repair");
    stripe->sources &= ~BIT(column);
    r = co_stripe_fill(stripe, BIT(column));
    if (r < 0)
        return r;
    parity_sums(mirror, column, row, stripe->blocks[column], &sum);
    r = co_copy_blocks(feed, column, row, stripe->blocks[column], &sum, RECORD_REPAIR);
    return r < 0 ? r : 1;
}

static void co_repair_row(struct mirror *mirror, uint32_t column, struct write_extent row)
{
    struct range_lock_hold hold;
    struct stripe stripe;
    int r;

    co_stripe_get(&stripe, mirror, 1); /* always before a lock */
    co_range_lock(&mirror->lock, &hold, slab_address(mirror, row.slab, row.block), 1, true);
    r = co_repair_locked(&stripe, column, row);
    range_unlock(&mirror->lock, &hold);
    stripe_put(&stripe);
    if (r > 0)
        mirror_report_heal(mirror, column, row);
    else if (r < 0)
        log_warn(mirror->io, "parity", "a rotten column could not be repaired",
                 "vdisk=%llu slab=%u row=%u column=%u error=%d",
                 (unsigned long long)mirror->vdisk.id, row.slab, row.block, column, r);
}

void co_parity_repair(struct mirror *mirror, uint32_t columns, struct write_extent rows)
{
    for (uint32_t column = 0; column < mirror->config->width; column++)
        for (uint32_t i = 0; columns & BIT(column) && i < rows.count; i++)
            co_repair_row(mirror, column, (struct write_extent){rows.slab, rows.block + i, 1});
}

/* ---- one unit ---- */

struct unit_read { /* blocks side by side in one column */
    struct mirror *mirror;
    uint32_t column;
    struct write_extent rows;
    char *buffer;
    int result;
};

static void lock_rows(const struct unit_read *read, struct range_lock_hold *hold, bool forgotten)
{
    co_range_lock(&read->mirror->lock, hold,
                  forgotten ? (uintptr_t)hold
                            : slab_address(read->mirror, read->rows.slab, read->rows.block),
                  read->rows.count, false);
}

/* From its own column. Returns 0, or why it cannot be. */
static int co_read_directly(const struct unit_read *read)
{
    struct mirror *mirror = read->mirror;
    struct range_lock_hold hold;
    int r = -ENOTCONN;

    lock_rows(read, &hold, PLANTED(READ_DIRTY));
    if (mirror->stopped)
        r = -ESTALE;
    else if (in_sync_set(mirror, read->rows.slab) & BIT(read->column) &&
             mirror_feed(mirror, read->rows.slab, read->column)->up)
        r = co_read_column_at(mirror, read->column, read->rows, read->buffer, NULL);
    range_unlock(&mirror->lock, &hold);
    return r;
}

/* From the others; looks at the column itself too. Returns 0, -EIO, -EHOSTUNREACH, -ESTALE. */
static int co_read_decoded(const struct unit_read *read)
{
    struct mirror *mirror = read->mirror;
    struct range_lock_hold hold;
    struct stripe stripe;
    uint32_t rotten;
    int r;

    r = co_stripe_get_bounded(&stripe, mirror, read->rows.count);
    if (r < 0)
        return r;
    lock_rows(read, &hold, PLANTED(PARITY_DECODE_NO_LOCK));
    stripe_begin(&stripe, read->rows);
    r = mirror->stopped ? -ESTALE : co_stripe_fill(&stripe, BIT(read->column));
    range_unlock(&mirror->lock, &hold);
    if (r == 0)
        memcpy(read->buffer, stripe.blocks[read->column], (size_t)read->rows.count * BLOCK_SIZE);
    rotten = stripe.rotten;
    stripe_put(&stripe);
    SOMETIMES_IF(r == 0, "parity: a read is decoded from other columns");
    if (r == 0 && rotten != 0)
        co_parity_repair(mirror, rotten, read->rows);
    return r;
}

static int co_read_unit(const struct unit_read *read)
{
    int r = co_read_directly(read);

    if (r == 0)
        return 0;
    r = co_read_decoded(read);
    if (r != -EIO || read->rows.count == 1)
        return r;
    /* Rot on too many columns, but perhaps not in the same row. */
    for (uint32_t i = 0; i < read->rows.count; i++) {
        struct unit_read one = *read;

        one.rows.block += i;
        one.rows.count = 1;
        one.buffer += (size_t)i * BLOCK_SIZE;
        r = co_read_decoded(&one);
        if (r < 0)
            return r;
    }
    return 0;
}

static int co_read_inside(const struct unit_read *read)
{
    struct mirror *mirror = read->mirror;
    int r;

    while ((r = co_read_unit(read)) == -EHOSTUNREACH) {
        SOMETIMES("parity: a read waits for a column to come back");
        r = co_wait_for_columns(mirror);
        if (r < 0)
            return r;
    }
    if (r == -EIO) {
        SOMETIMES("parity: a read finds too many columns rotten");
        counter_add(&mirror->lost_blocks, 1);
        log_error(mirror->io, "parity", "a block can neither be read nor decoded",
                  "vdisk=%llu slab=%u row=%u count=%u column=%u",
                  (unsigned long long)mirror->vdisk.id, read->rows.slab, read->rows.block,
                  read->rows.count, read->column);
    }
    return r;
}

static int co_read_piece(const struct unit_read *read)
{
    int r = co_mirror_enter(read->mirror, read->rows.slab, false);

    if (r == 0)
        memset(read->buffer, 0, (size_t)read->rows.count * BLOCK_SIZE);
    if (r <= 0)
        return r;
    r = co_read_inside(read);
    mirror_leave(read->mirror, read->rows.slab);
    return r;
}

/* ---- a client's read ---- */

static void unit_run(void *arg)
{
    struct unit_read *read = arg;

    read->result = co_read_piece(read);
}

/* The units of a batch, in parallel: they lie on different columns, mostly. */
static int co_read_units(struct mirror *mirror, struct unit_read *units, unsigned count)
{
    int r = 0;

    co_run_each(mirror, "unit", unit_run, units, sizeof(*units), count);
    for (unsigned i = 0; i < count && r == 0; i++)
        r = units[i].result;
    return r;
}

static struct unit_read next_unit(struct mirror *mirror, uint64_t address, uint64_t blocks,
                                  char *buffer)
{
    uint32_t data_columns = mirror->config->data_columns;
    struct write_extent extent = mirror_next_extent(
        mirror, address, blocks, PARITY_UNIT_BLOCKS - address % PARITY_UNIT_BLOCKS);

    return (struct unit_read){
        .mirror = mirror,
        .column = parity_column(data_columns, extent.block),
        .rows = {extent.slab, parity_row(data_columns, extent.block), extent.count},
        .buffer = buffer,
    };
}

static int co_read_parity_pieces(struct mirror *mirror, char *buffer, uint64_t offset,
                                 uint64_t length)
{
    uint64_t address = offset / BLOCK_SIZE, end = address + length / BLOCK_SIZE;
    int r = 0;

    while (r == 0 && address < end) {
        uint64_t batch_end = MIN(end, address + BATCH_BLOCKS);
        struct unit_read units[RUNS_MAX];
        unsigned count = 0;

        while (address < batch_end) {
            units[count] = next_unit(mirror, address, batch_end - address, buffer);
            address += units[count].rows.count;
            buffer += (size_t)units[count].rows.count * BLOCK_SIZE;
            count++;
        }
        r = co_read_units(mirror, units, count);
    }
    return r;
}

static int co_parity_read(struct vdisk *vdisk, void *buffer, uint64_t offset, uint64_t length)
{
    return co_read_whole(vdisk, co_read_parity_pieces, buffer, offset, length);
}

static int co_parity_write(struct vdisk *vdisk, const void *buffer, uint64_t offset,
                           uint64_t length, struct client_request request)
{
    assert(buffer != NULL);
    return co_change(vdisk, co_parity_change, buffer, offset, length, request);
}

static int co_parity_trim(struct vdisk *vdisk, uint64_t offset, uint64_t length,
                          struct client_request request)
{
    return co_change(vdisk, co_parity_change, NULL, offset, length, request);
}

const struct vdisk_ops parity_vdisk_ops = {
    .co_read = co_parity_read,
    .co_write = co_parity_write,
    .co_trim = co_parity_trim,
};
