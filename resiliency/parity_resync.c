/* What resync.c does differently for parity: a column is compared with what the others decode to,
 * and what it may have missed is told by several columns.
 *
 * A write leaves its trace on the data columns that it touches and on every parity column. What a
 * stale data column missed is so told by any parity column that was in-sync all the while; what a
 * stale parity column missed by the other one, or by all data columns together. Besides, each
 * in-sync column adds what it has changed: a degraded write to a data column leaves its trace on
 * parity only, and none on another data column. */
#include "resiliency/parity_private.h"

#define SKIP_ROWS 512 /* whose checksums are asked for at once */

static bool is_source(const struct mirror *mirror, uint32_t slab, uint32_t column)
{
    return mirror_columns(mirror, slab)[column].state == COLUMN_IN_SYNC &&
           mirror_feed(mirror, slab, column)->up;
}

/* The in-sync columns that answer; *ret_knowing: those that were in-sync when the target turned
 * stale, so that their stamps tell everything since. */
static uint32_t list_sources(const struct mirror *mirror, uint32_t slab, uint64_t stale_epoch,
                             uint32_t *ret_knowing)
{
    const struct column_config *columns = mirror_columns(mirror, slab);
    uint32_t sources = 0;

    *ret_knowing = 0;
    for (uint32_t i = 0; i < mirror->config->width; i++) {
        if (!is_source(mirror, slab, i))
            continue;
        sources |= BIT(i);
        if (columns[i].in_sync_epoch < stale_epoch)
            *ret_knowing |= BIT(i);
    }
    return sources;
}

/* All that the column may have missed is told by these. */
static bool know_all(const struct mirror *mirror, uint32_t knowing, uint32_t column)
{
    if (knowing & parity_set(mirror))
        return true;
    return parity_set(mirror) & BIT(column) && (~knowing & data_set(mirror)) == 0;
}

int co_parity_compare_list(struct feed *feed, uint32_t slab, uint32_t column, uint64_t *todo)
{
    struct mirror *mirror = feed->mirror;
    uint32_t rows = vdisk_config_column_blocks(mirror->config), knowing, sources;
    struct column_config target = mirror_columns(mirror, slab)[column];
    bool knows;
    int r;

    sources = list_sources(mirror, slab, target.stale_epoch, &knowing);
    if (set_count(sources) < mirror->config->data_columns)
        return -EHOSTUNREACH;
    knows = know_all(mirror, knowing, column);
    SOMETIMES_IF(!knows, "resync: all rows are compared");
    memset(todo, knows ? 0 : 0xff, DIV_ROUND_UP(rows, 64) * 8);
    if (!knows)
        return 0;
    SOMETIMES("resync: rows that changed since the stale epoch are compared");
    for (uint32_t i = 0; i < mirror->config->width; i++) { /* the configuration may be a new one */
        struct feed *source = mirror_feed(mirror, slab, i);
        struct column_config at = mirror_columns(mirror, slab)[i];

        if (!(sources & BIT(i)))
            continue;
        if (!is_source(mirror, slab, i)) /* any more: it may even have a new place */
            return -EHOSTUNREACH;
        r = co_column_compare_set(source->store, mirror->vdisk.id, at.where,
                                  target.stale_epoch + PLANTED(RESYNC_SINCE_LATER), rows, todo);
        if (r < 0)
            return r;
        if (PLANTED(PARITY_ONE_LIST))
            break;
    }
    return co_column_compare_set(feed->store, mirror->vdisk.id, target.where, 0, rows, todo);
}

/* ---- what was never written ---- */

struct sums { /* of a few rows: a bit to each that some column has written */
    uint64_t written[SKIP_ROWS / 64];
    uint64_t of_column[SKIP_ROWS], unknown[SKIP_ROWS / 64];
};

static int co_add_written(struct mirror *mirror, uint32_t column, struct write_extent rows,
                          struct sums *sums)
{
    struct column_store *store = mirror_feed(mirror, rows.slab, column)->store;
    struct extent_ref where = mirror_columns(mirror, rows.slab)[column].where;
    int r;

    memset(sums->unknown, 0, sizeof(sums->unknown));
    r = co_column_checksums(store, mirror->vdisk.id, where, rows.block, rows.count, sums->of_column,
                            sums->unknown);
    if (r < 0 && r != -EBADMSG)
        return r;
    for (uint32_t i = 0; i < rows.count; i++)
        if (sums->of_column[i] != 0 || sums->unknown[i / 64] >> (i % 64) & 1)
            sums->written[i / 64] |= UINT64_C(1) << (i % 64);
    return 0;
}

/* k in-sync columns and the target, at one moment. */
static int co_find_written(struct feed *feed, uint32_t column, struct write_extent rows,
                           struct sums *sums)
{
    struct mirror *mirror = feed->mirror;
    uint32_t knowing, sources = list_sources(mirror, rows.slab, 0, &knowing), asked = 0;
    int r;

    if (set_count(sources) < mirror->config->data_columns)
        return -EHOSTUNREACH;
    for (uint32_t i = 0; asked < mirror->config->data_columns; i++) {
        if (!(sources & BIT(i)))
            continue;
        if (!is_source(mirror, rows.slab, i)) /* any more */
            return -EHOSTUNREACH;
        r = co_add_written(mirror, i, rows, sums);
        if (r < 0)
            return r;
        asked++;
    }
    if (PLANTED(PARITY_SKIPS_TRIMMED))
        return 0;
    return feed->up && mirror_feed(mirror, rows.slab, column) == feed
               ? co_add_written(mirror, column, rows, sums)
               : -ENOTCONN;
}

int co_parity_skip_unwritten(struct feed *feed, uint32_t column, struct write_extent rows,
                             uint64_t *todo)
{
    cleanup(freep) struct sums *sums = malloc(sizeof(*sums));
    uint32_t end = rows.block + rows.count;
    int r = sums ? 0 : -ENOMEM;

    for (uint32_t row = rows.block; r == 0 && row < end; row += SKIP_ROWS) {
        struct write_extent part = {rows.slab, row, MIN(end - row, (uint32_t)SKIP_ROWS)};
        struct range_lock_hold hold;

        memset(sums->written, 0, sizeof(sums->written));
        co_range_lock(&feed->mirror->lock, &hold, slab_address(feed->mirror, part.slab, row),
                      part.count, false);
        r = feed->mirror->stopped ? -ESTALE : co_find_written(feed, column, part, sums);
        range_unlock(&feed->mirror->lock, &hold);
        for (uint32_t i = 0; r == 0 && i < part.count; i++)
            if (!(sums->written[i / 64] >> (i % 64) & 1))
                todo[(row + i) / 64] &= ~(UINT64_C(1) << ((row + i) % 64));
    }
    return r;
}

/* ---- copying ---- */

/* Brings the runs of blocks whose checksums differ. */
static int co_copy_runs(struct feed *feed, uint32_t column, const struct stripe *stripe,
                        const uint64_t *sums, const uint64_t *theirs)
{
    struct write_extent rows = stripe->rows;
    uint32_t i = 0;
    int copied = 0;

    while (i < rows.count) {
        struct write_extent run = {rows.slab, rows.block + i, 0};
        uint32_t first = i;
        int r;

        while (i < rows.count && sums[i] != theirs[i])
            i++;
        run.count = i - first;
        if (run.count == 0) {
            i++;
            continue;
        }
        r = co_copy_blocks(feed, column, run, stripe->blocks[column] + (size_t)first * BLOCK_SIZE,
                           sums + first, 0);
        if (r < 0)
            return r;
        copied += (int)run.count;
    }
    return copied;
}

int co_parity_copy(struct feed *feed, uint32_t column, struct write_extent rows,
                   struct stripe *stripe)
{
    struct mirror *mirror = feed->mirror;
    struct extent_ref where = mirror_columns(mirror, rows.slab)[column].where;
    uint64_t sums[PIECE_BLOCKS], theirs[PIECE_BLOCKS], unknown = 0;
    int r;

    static_assert(PIECE_BLOCKS <= 64, "a bit to each in one word");
    stripe_begin(stripe, rows);
    stripe->sources &= ~BIT(column);
    r = co_stripe_fill(stripe, BIT(column));
    if (r < 0)
        return r;
    r = co_column_checksums(feed->store, mirror->vdisk.id, where, rows.block, rows.count, theirs,
                            &unknown);
    if (r < 0 && r != -EBADMSG)
        return r;
    if (!feed->up)
        return -ENOTCONN;
    parity_sums(mirror, column, rows, stripe->blocks[column], sums);
    for (uint32_t i = 0; i < rows.count; i++)
        if (unknown >> i & 1)
            theirs[i] = ~sums[i];
    return co_copy_runs(feed, column, stripe, sums, theirs);
}
