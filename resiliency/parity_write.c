/* The write path of parity. A request is cut into pieces, each a run of rows in which the same data
 * columns are written, whole rows in the best case. A piece is one write in the sense of I1, I2 and
 * I6: one seq, a record to each data column that it touches and to every parity column, all with
 * absolute bytes, and each says which columns those are.
 *
 *   rows whole        encode, nothing is read
 *   part of rows      under the rows' exclusive lock read either the data columns that are not
 *                     written, and encode; or the old contents of those that are and the old
 * parity, and change it by delta; whichever reads less. What cannot be read is decoded: never taken
 * from a stale column.
 *
 * The pieces of a request are of different rows and go on side by side. */
#include "resiliency/parity_private.h"

#define BATCH_PIECES 24 /* of a request, at once: 1 MiB in any shape */

static const char zeros[PARITY_UNIT_BLOCKS * BLOCK_SIZE] __attribute__((aligned(BLOCK_SIZE)));

struct piece_write {
    struct mirror *mirror;
    uint32_t slab;
    struct parity_piece piece;
    const char *data;     /* of the request; NULL: zeros */
    uint32_t first_block; /* of the slab, where data begins */
    struct client_request request;
    int result;
};

/* The new contents of a column that the piece writes. */
static const void *new_blocks(const struct piece_write *write, uint32_t column)
{
    uint32_t block = parity_block(write->mirror->config->data_columns, column, write->piece.row);

    assert(write->piece.columns & BIT(column));
    if (!write->data)
        return zeros;
    return write->data + (size_t)(block - write->first_block) * BLOCK_SIZE;
}

/* ---- the parity to be ---- */

static void encode(const struct piece_write *write, struct stripe *stripe)
{
    struct mirror *mirror = write->mirror;
    uint32_t data_columns = mirror->config->data_columns;
    const void *data[VDISK_COLUMNS_MAX];

    for (uint32_t i = 0; i < data_columns; i++)
        data[i] = write->piece.columns & BIT(i) ? new_blocks(write, i) : stripe->blocks[i];
    erasure_encode(mirror->erasure, (size_t)write->piece.count * BLOCK_SIZE, data,
                   (void *const *)&stripe->blocks[data_columns]);
}

/* The old contents of the columns written, and the old parity, are in the stripe. */
static void update(const struct piece_write *write, struct stripe *stripe)
{
    struct mirror *mirror = write->mirror;
    uint32_t data_columns = mirror->config->data_columns;
    size_t bytes = (size_t)write->piece.count * BLOCK_SIZE;

    SOMETIMES("parity: parity is changed by delta");
    for (uint32_t i = 0; i < data_columns; i++) {
        if (!(write->piece.columns & BIT(i)))
            continue;
        erasure_xor(stripe->blocks[i], new_blocks(write, i), bytes);
        erasure_update(mirror->erasure, bytes, i, stripe->blocks[i],
                       (void *const *)&stripe->blocks[data_columns]);
    }
}

static unsigned count_local(const struct mirror *mirror, uint32_t slab, uint32_t set)
{
    unsigned count = 0;

    for (uint32_t i = 0; i < mirror->config->width; i++)
        count += set & BIT(i) && feed_is_local(mirror_feed(mirror, slab, i));
    return count;
}

static uint32_t up_set(const struct mirror *mirror, uint32_t slab, uint32_t set)
{
    for (uint32_t i = 0; i < mirror->config->width; i++)
        if (set & BIT(i) && !mirror_feed(mirror, slab, i)->up)
            set &= ~BIT(i);
    return set;
}

/* The parity columns that get a record now. */
static uint32_t wanted_parity(const struct piece_write *write)
{
    struct mirror *mirror = write->mirror;
    uint32_t wanted = 0;

    for (uint32_t i = mirror->config->data_columns; i < mirror->config->width; i++)
        wanted |= write_wants_column(mirror, write->slab, i) ? BIT(i) : 0;
    return wanted;
}

/* Which old contents to read. *ret_update: for a change by delta, else to encode. */
static uint32_t old_columns(const struct piece_write *write, const struct stripe *stripe,
                            bool *ret_update)
{
    struct mirror *mirror = write->mirror;
    uint32_t usable = up_set(mirror, write->slab, stripe->sources);
    uint32_t others = data_set(mirror) & ~write->piece.columns;
    uint32_t own = write->piece.columns | wanted_parity(write);
    unsigned cost_others, cost_own;

    *ret_update = false;
    if (own & ~usable)
        return others;
    /* with one of the others gone, k columns must be read to decode it */
    cost_others = others & ~usable ? mirror->config->data_columns : set_count(others);
    cost_own = set_count(own);
    *ret_update = cost_own < cost_others ||
                  (cost_own == cost_others && count_local(mirror, write->slab, own) >
                                                  count_local(mirror, write->slab, others));
    return *ret_update ? own : others;
}

/* Puts the new parity into the stripe. Returns as co_stripe_fill(). */
static int co_make_parity(const struct piece_write *write, struct stripe *stripe)
{
    bool by_delta;
    uint32_t wanted;
    int r;

    if (write->piece.columns == data_set(write->mirror)) {
        encode(write, stripe);
        return 0;
    }
    wanted = old_columns(write, stripe, &by_delta);
    r = co_stripe_fill(stripe, wanted);
    if (r == 0 && by_delta && (wanted_parity(write) & ~stripe->have) != 0 &&
        !PLANTED(PARITY_DELTA_ON_NOTHING)) {
        SOMETIMES("parity: a column begins to be brought up while its parity is made");
        by_delta = false; /* its old one is not here */
        r = co_stripe_fill(stripe, data_set(write->mirror) & ~write->piece.columns);
    }
    if (r < 0)
        return r;
    if (by_delta)
        update(write, stripe);
    else
        encode(write, stripe);
    return 0;
}

/* ---- one piece ---- */

static int co_write_locked(const struct piece_write *write, struct mirror_write *slot,
                           struct stripe *stripe)
{
    struct mirror *mirror = write->mirror;
    struct column_write what = {
        .rows = {write->slab, write->piece.row, write->piece.count},
        .columns = write->piece.columns | parity_set(mirror),
        .request = write->request,
    };
    bool all_zeros = !write->data && write->piece.columns == data_set(mirror);
    int r;

    if (mirror->stopped)
        return -ESTALE;
    if (!all_zeros) {
        stripe_begin(stripe, what.rows);
        if (PLANTED(PARITY_OLD_FROM_STALE))
            stripe->sources = BIT(mirror->config->width) - 1;
        r = co_make_parity(write, stripe);
        if (r < 0)
            return r;
    }
    for (uint32_t i = 0; i < mirror->config->width; i++) {
        if (parity_set(mirror) & BIT(i))
            what.data[i] = all_zeros ? NULL : stripe->blocks[i];
        else if (write->piece.columns & BIT(i))
            what.data[i] = write->data ? new_blocks(write, i) : NULL;
    }
    return co_write_commit_columns(slot, &what);
}

/* With memory and a slot, which come before the lock. */
static int co_write_once(const struct piece_write *write, struct stripe *stripe)
{
    struct mirror *mirror = write->mirror;
    struct mirror_write *slot = co_write_get(mirror);
    uint64_t address = slab_address(mirror, write->slab, write->piece.row);
    int r;

    if (!slot)
        return -ECANCELED;
    co_range_lock(&mirror->lock, &slot->hold, PLANTED(PARITY_NO_LOCK) ? (uintptr_t)slot : address,
                  write->piece.count, true);
    r = co_write_locked(write, slot, stripe);
    range_unlock(&mirror->lock, &slot->hold);
    write_put(slot);
    return r;
}

static int co_write_until_known(const struct piece_write *write)
{
    bool wide = write->piece.count > PARITY_UNIT_BLOCKS; /* zeros: needs no memory */
    struct mirror *mirror = write->mirror;
    struct stripe stripe;
    int r;

    assert(!wide || (!write->data && write->piece.columns == data_set(mirror)));
    for (;;) {
        r = co_stripe_get_bounded(&stripe, mirror, wide ? 1 : write->piece.count);
        if (r < 0)
            return r;
        r = co_write_once(write, &stripe);
        stripe_put(&stripe);
        if (r != -EHOSTUNREACH)
            return r;
        SOMETIMES("parity: a write waits for the old contents");
        r = co_wait_for_columns(mirror); /* for those who know the old contents */
        if (r < 0)
            return r;
    }
}

static int co_write_piece(const struct piece_write *write)
{
    struct mirror *mirror = write->mirror;
    int r;

    r = co_write_enter(mirror, write->slab, write->data != NULL);
    if (r <= 0)
        return r;
    r = co_write_until_known(write);
    write_leave(mirror, write->slab, !write->data);
    return r;
}

/* ---- what stands above ---- */

static void piece_run(void *arg)
{
    struct piece_write *write = arg;

    write->result = co_write_piece(write);
}

static int co_write_batch(struct mirror *mirror, struct piece_write *writes, unsigned count)
{
    int r = 0;

    co_run_each(mirror, "piece", piece_run, writes, sizeof(*writes), count);
    for (unsigned i = 0; i < count && r == 0; i++)
        r = writes[i].result;
    return r;
}

/* The first part of a run inside a slab that is one stripe or less; of whole stripes of zeros, all.
 */
static uint32_t next_part(const struct mirror *mirror, struct write_extent extent, bool is_zeros)
{
    uint32_t stripe = mirror->config->data_columns * PARITY_UNIT_BLOCKS;

    if (is_zeros && extent.block % stripe == 0 && extent.count >= stripe)
        return extent.count - extent.count % stripe;
    return MIN(extent.count, stripe - extent.block % stripe);
}

static unsigned part_pieces(const struct mirror *mirror, struct write_extent part,
                            struct parity_piece *ret_pieces)
{
    uint32_t data_columns = mirror->config->data_columns;

    if (part.count <= data_columns * PARITY_UNIT_BLOCKS)
        return parity_pieces(data_columns, part.block, part.count, ret_pieces);
    ret_pieces[0] = (struct parity_piece){
        .row = parity_row(data_columns, part.block),
        .count = part.count / data_columns,
        .columns = data_set(mirror),
    };
    return 1;
}

int co_parity_change(struct mirror *mirror, const char *data, uint64_t offset, uint64_t length,
                     struct client_request request)
{
    uint64_t address = offset / BLOCK_SIZE, end = address + length / BLOCK_SIZE;
    int r = 0;

    while (r == 0 && address < end) {
        struct piece_write writes[BATCH_PIECES];
        unsigned count = 0;

        while (address < end && count + PARITY_PIECES_MAX <= BATCH_PIECES) {
            struct write_extent part =
                mirror_next_extent(mirror, address, end - address, UINT32_MAX);
            struct parity_piece pieces[PARITY_PIECES_MAX];
            unsigned piece_count;

            part.count = next_part(mirror, part, data == NULL);
            piece_count = part_pieces(mirror, part, pieces);
            for (unsigned i = 0; i < piece_count; i++)
                writes[count++] = (struct piece_write){
                    .mirror = mirror,
                    .slab = part.slab,
                    .piece = pieces[i],
                    .data = data,
                    .first_block = part.block,
                    .request = request,
                };
            address += part.count;
            if (data)
                data += (size_t)part.count * BLOCK_SIZE;
        }
        r = co_write_batch(mirror, writes, count);
    }
    return r;
}
