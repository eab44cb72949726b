/* Scrub: reads every copy of every block that was ever written, and compares.
 *
 * Under a shared range lock no write is in flight to a piece, so all in-sync copies must show the
 * same. A copy that does not match its own checksum is rotten, and repaired as a read repairs it.
 * Copies that match their checksums and differ from each other are what must never be: which of
 * them is right nobody can say, so they are told and left as they are. What is stale or away is
 * counted: a resync will look at it.
 *
 * Of parity each column is read and repaired likewise, and the parity of a row whose columns were
 * all read well must encode its data: else it is told as copies that differ are.
 *
 * One piece at a time: it is background work, and clients share the device with it. */
#include <stdarg.h>
#include <stdio.h>

#include "resiliency/parity_private.h"

#define CHUNK_BLOCKS 2048 /* whose checksums are asked for at once */
#define LINE_BYTES 160

struct scrub {
    struct mirror *mirror;
    void (*report)(void *arg, const char *line);
    void *arg;
    struct mirror_scrub result;
    uint64_t written[CHUNK_BLOCKS / 64]; /* on some column */
    uint64_t sums[CHUNK_BLOCKS];
};

struct scrub_piece {
    struct write_extent extent;
    struct block_set bad[VDISK_COLUMNS_MAX]; /* of each column */
    uint64_t sums[VDISK_COLUMNS_MAX][PIECE_BLOCKS];
    bool read[VDISK_COLUMNS_MAX];
};

static bool has(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static void tell(struct scrub *scrub, const char *format, ...) printf_like(2, 3);
static void tell(struct scrub *scrub, const char *format, ...)
{
    char line[LINE_BYTES];
    va_list list;

    va_start(list, format);
    vsnprintf(line, sizeof(line), format, list);
    va_end(list);
    scrub->report(scrub->arg, line);
}

/* ---- what there is to read ---- */

/* Marks the blocks of the chunk that the column holds; if it cannot say, all of them. */
static void co_mark_written(struct scrub *scrub, uint32_t column, struct write_extent chunk)
{
    struct mirror *mirror = scrub->mirror;
    struct column_config config = mirror_columns(mirror, chunk.slab)[column];
    struct column_store *store = mirror_feed(mirror, chunk.slab, column)->store;
    int r = -ENOTCONN;

    if (config.state != COLUMN_IN_SYNC)
        return;
    if (store && store->reachable)
        r = co_column_checksums(store, mirror->vdisk.id, config.where, chunk.block, chunk.count,
                                scrub->sums, NULL);
    for (uint32_t i = 0; i < chunk.count; i++) {
        if (r < 0 || scrub->sums[i] != 0)
            scrub->written[i / 64] |= UINT64_C(1) << (i % 64);
    }
}

/* ---- one piece ---- */

static void co_read_piece_of(struct scrub *scrub, struct scrub_piece *piece, uint32_t column,
                             char *buffer)
{
    struct mirror *mirror = scrub->mirror;
    int r = -ESTALE;

    if (mirror_columns(mirror, piece->extent.slab)[column].state == COLUMN_IN_SYNC)
        r = co_read_column_medium(mirror, column, piece->extent, buffer, piece->sums[column],
                                  &piece->bad[column]);
    piece->read[column] = r == 0 || r == -EBADMSG;
    if (piece->read[column])
        scrub->result.copies += piece->extent.count;
    else
        scrub->result.unread += piece->extent.count;
}

static void compare(struct scrub *scrub, const struct scrub_piece *piece, uint32_t a, uint32_t b)
{
    const struct column_config *columns = mirror_columns(scrub->mirror, piece->extent.slab);

    for (uint32_t i = 0; i < piece->extent.count; i++) {
        if (has(piece->bad[a].bits, i) || has(piece->bad[b].bits, i) ||
            piece->sums[a][i] == piece->sums[b][i])
            continue;
        scrub->result.different++;
        tell(scrub, "slab %u block %u: the copies on disks %llu and %llu differ",
             piece->extent.slab, piece->extent.block + i, (unsigned long long)columns[a].disk,
             (unsigned long long)columns[b].disk);
    }
}

/* Each copy with one before it: a block that differs from any is told once for each. */
static void compare_all(struct scrub *scrub, const struct scrub_piece *piece)
{
    int last = -1;

    for (uint32_t i = 0; i < scrub->mirror->config->width; i++) {
        if (!piece->read[i])
            continue;
        if (last >= 0)
            compare(scrub, piece, (uint32_t)last, i);
        last = (int)i;
    }
}

/* blocks: of every column, and then room for the parity to be. */
static void check_rows(struct scrub *scrub, const struct scrub_piece *piece, void **blocks)
{
    struct mirror *mirror = scrub->mirror;
    uint32_t data = mirror->config->data_columns, width = mirror->config->width;
    uint64_t bad = 0;

    for (uint32_t i = 0; i < width; i++)
        bad |= piece->read[i] ? piece->bad[i].bits[0] : UINT64_MAX;
    erasure_encode(mirror->erasure, (size_t)piece->extent.count * BLOCK_SIZE,
                   (const void *const *)blocks, &blocks[width]);
    for (uint32_t i = 0; i < piece->extent.count; i++) {
        size_t at = (size_t)i * BLOCK_SIZE;
        bool same = true;

        for (uint32_t j = 0; j < width - data; j++)
            same = same && memcmp((char *)blocks[data + j] + at, (char *)blocks[width + j] + at,
                                  BLOCK_SIZE) == 0;
        if (same || bad >> i & 1)
            continue;
        scrub->result.different++;
        tell(scrub, "slab %u row %u: the parity is not that of the data", piece->extent.slab,
             piece->extent.block + i);
    }
}

static void co_repair_bad(struct scrub *scrub, const struct scrub_piece *piece, uint32_t column)
{
    uint32_t i = 0;

    while (piece->read[column] && i < piece->extent.count) {
        struct write_extent run = {piece->extent.slab, piece->extent.block + i, 0};

        while (i < piece->extent.count && has(piece->bad[column].bits, i)) {
            run.count++;
            i++;
        }
        if (run.count == 0) {
            i++;
            continue;
        }
        scrub->result.rotten += run.count;
        tell(scrub, "slab %u block %u: %u blocks of a copy were rotten", run.slab, run.block,
             run.count);
        if (scrub->mirror->erasure)
            co_parity_repair(scrub->mirror, BIT(column), run);
        else
            co_repair_column(scrub->mirror, column, run);
    }
}

/* Nobody else has written since the lock was taken. */
static bool is_ours(const struct mirror *mirror)
{
    return !mirror->stopped && !mirror->draining && mirror->options.lease_held(mirror->options.arg);
}

static int co_scrub_piece(struct scrub *scrub, struct write_extent extent)
{
    struct mirror *mirror = scrub->mirror;
    cleanup(freep) struct scrub_piece *piece = calloc(1, sizeof(*piece));
    size_t bytes = (size_t)extent.count * BLOCK_SIZE;
    uint32_t width = mirror->config->width;
    uint32_t rooms = mirror->erasure ? width + PARITY_COLUMNS : 1; /* a mirror compares checksums */
    void *blocks[VDISK_COLUMNS_MAX + PARITY_COLUMNS];
    struct range_lock_hold hold;
    char *buffer;
    bool ours;

    if (!piece)
        return -ENOMEM;
    piece->extent = extent;
    buffer = co_buffer_get(mirror->options.buffers, rooms * bytes); /* always before a lock */
    for (uint32_t i = 0; i < rooms; i++)
        blocks[i] = buffer + i * bytes;
    co_range_lock(&mirror->lock, &hold, slab_address(mirror, extent.slab, extent.block),
                  extent.count, false);
    for (uint32_t i = 0; i < width && !mirror->stopped; i++)
        co_read_piece_of(scrub, piece, i, blocks[mirror->erasure ? i : 0]);
    ours = is_ours(mirror);
    if (ours && mirror->erasure)
        check_rows(scrub, piece, blocks);
    else if (ours)
        compare_all(scrub, piece);
    range_unlock(&mirror->lock, &hold);
    buffer_put(mirror->options.buffers, buffer, rooms * bytes);
    for (uint32_t i = 0; i < width && ours && !mirror->stopped; i++)
        co_repair_bad(scrub, piece, i);
    return ours && !mirror->stopped ? 0 : -ESTALE;
}

/* ---- all of it ---- */

static int co_scrub_chunk(struct scrub *scrub, struct write_extent chunk)
{
    struct mirror *mirror = scrub->mirror;
    int r = 0;

    memset(scrub->written, 0, sizeof(scrub->written));
    for (uint32_t i = 0; i < mirror->config->width && !mirror->stopped; i++)
        co_mark_written(scrub, i, chunk);
    for (uint32_t i = 0; r == 0 && i < chunk.count; i += PIECE_BLOCKS) {
        static_assert(PIECE_BLOCKS == 64, "a word of bits to a piece");
        struct write_extent piece = {chunk.slab, chunk.block + i,
                                     MIN(chunk.count - i, PIECE_BLOCKS)};

        if (mirror->stopped)
            r = -ESTALE;
        else if (co_cancelled())
            r = -ECANCELED;
        else if (scrub->written[i / 64])
            r = co_scrub_piece(scrub, piece);
    }
    return r;
}

static int co_scrub_all(struct scrub *scrub)
{
    struct mirror *mirror = scrub->mirror;
    uint32_t blocks = mirror->config->slab_blocks / mirror->config->data_columns; /* of a column */
    int r = 0;

    for (uint32_t slab = 0; r == 0 && slab < mirror->slab_count; slab++) {
        for (uint32_t block = 0; r == 0 && block < blocks; block += CHUNK_BLOCKS) {
            r = co_mirror_enter(mirror, slab, false);
            if (r <= 0)
                break;
            r = co_scrub_chunk(
                scrub, (struct write_extent){slab, block, MIN(blocks - block, CHUNK_BLOCKS)});
            mirror_leave(mirror, slab);
        }
    }
    return r;
}

int co_mirror_scrub(struct mirror *mirror, void (*report)(void *arg, const char *line), void *arg,
                    struct mirror_scrub *ret_result)
{
    cleanup(freep) struct scrub *scrub = calloc(1, sizeof(*scrub));
    int r;

    if (!scrub)
        return -ENOMEM;
    if (mirror->stopped)
        return -ESTALE;
    scrub->mirror = mirror;
    scrub->report = report;
    scrub->arg = arg;
    co_group_add(&mirror->calls, 1); /* co_mirror_free() waits for us */
    r = co_scrub_all(scrub);
    if (r == 0)
        *ret_result = scrub->result;
    co_group_done(&mirror->calls);
    return r;
}
