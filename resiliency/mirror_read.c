/* The read path. A shared range lock makes a read wait for writes in flight to its blocks (I7);
 * under it every in-sync column shows the same committed contents, so any of them will do: the
 * local one if there is one, else the peers in turn.
 *
 * Stores verify what they return, and what came over the network is verified here again. A block
 * that does not match is read once more (a destage may have passed) before it is called rotten;
 * then another column answers, and the rotten copy is repaired: under an exclusive lock, by a
 * committed record for that column alone. */
#include "resiliency/mirror_private.h"

#define ROTTEN_RUNS_MAX 8 /* repaired by one read; what is beyond waits for the next read */

struct rotten_run {
    struct feed *feed;
    uint32_t column;
    struct write_extent extent;
};

struct read_request {
    struct mirror *mirror;
    struct write_extent extent;
    char *buffer;
    struct rotten_run rotten[ROTTEN_RUNS_MAX];
    uint32_t rotten_count;
};

/* ---- one column ---- */

/* What came over the network: the peer verified it before it left. */
static int verify_received(const struct mirror *mirror, struct write_extent extent,
                           uint64_t address, const char *buffer, const uint64_t *sums,
                           struct block_set *bad)
{
    uint32_t done = 0;
    int r = 0;

    while (done < extent.count) {
        done += (uint32_t)checksum_verify(buffer + (size_t)done * BLOCK_SIZE, extent.count - done,
                                          mirror->vdisk.id, address + done, sums + done);
        if (done == extent.count)
            break;
        block_set_add(bad, done++);
        r = -EBADMSG;
    }
    return r;
}

static bool is_as_before(const struct column_config *now, const struct column_config *before)
{
    return now->state == before->state && now->disk == before->disk &&
           now->where.extent == before->where.extent &&
           now->where.generation == before->where.generation;
}

/* at: session 0 is the newest. Asked anew in each look: a column that was in-sync may have a new
 * place by now, where there are only zeros. And looked at again behind it: one that turned stale
 * may have dropped what was committed, before it came to read it. (Is it in-sync again, the blocks
 * were equal all the while: they cannot be copied to under the caller's lock.) Returns 0, -EBADMSG
 * (*bad says which blocks), -ESTALE (not in-sync), or another error of the column. */
static int co_read_column(struct mirror *mirror, uint32_t column, struct write_extent extent,
                          struct log_position at, char *buffer, uint64_t *sums,
                          struct block_set *bad)
{
    struct column_config config = mirror_columns(mirror, extent.slab)[column];
    struct column_store *store = mirror_feed(mirror, extent.slab, column)->store;
    uint64_t address = column_address(mirror, extent.slab, column, extent.block);
    uint64_t own_sums[RECORD_BLOCKS_MAX];
    int r;

    if (config.state != COLUMN_IN_SYNC && !PLANTED(STALE_IS_READ) && !PLANTED(STALE_IS_SOURCE) &&
        !PLANTED(PARITY_OLD_FROM_STALE))
        return -ESTALE;
    if (!store || !store->reachable)
        return -ENOTCONN;
    if (!sums && !store->is_local)
        sums = own_sums;
    *bad = (struct block_set){0};
    if (at.session == 0)
        r = co_column_read(store, mirror->vdisk.id, config.where, extent.block, extent.count,
                           address, buffer, sums, bad);
    else
        r = co_column_read_at(store, mirror->vdisk.id, config.where, extent.block, extent.count,
                              address, at, buffer, sums, bad);
    if (!is_as_before(&mirror_columns(mirror, extent.slab)[column], &config) &&
        !PLANTED(READ_TURNED_STALE)) {
        SOMETIMES("mirror: a column changes while it is read");
        return -ESTALE;
    }
    INVARIANT(I8, mirror_columns(mirror, extent.slab)[column].state == COLUMN_IN_SYNC);
    if ((r == 0 || r == -EBADMSG) && !store->is_local &&
        verify_received(mirror, extent, address, buffer, sums, bad) < 0)
        r = -EBADMSG;
    return r;
}

/* The same; a mismatch is looked at twice. */
static int co_read_twice(struct mirror *mirror, uint32_t column, struct write_extent extent,
                         struct log_position at, char *buffer, uint64_t *sums,
                         struct block_set *bad)
{
    int r = co_read_column(mirror, column, extent, at, buffer, sums, bad);

    if (r == -EBADMSG) {
        r = co_read_column(mirror, column, extent, at, buffer, sums, bad);
        SOMETIMES_IF(r == 0, "mirror: a mismatch is gone at the second look");
    }
    return r;
}

int co_read_column_surely(struct mirror *mirror, uint32_t column, struct write_extent extent,
                          char *buffer, uint64_t *sums, struct block_set *bad)
{
    return co_read_twice(mirror, column, extent, (struct log_position){0}, buffer, sums, bad);
}

int co_read_column_medium(struct mirror *mirror, uint32_t column, struct write_extent extent,
                          char *buffer, uint64_t *sums, struct block_set *bad)
{
    return co_read_twice(mirror, column, extent, LOG_POSITION_NEWEST, buffer, sums, bad);
}

int co_read_column_at(struct mirror *mirror, uint32_t column, struct write_extent extent,
                      char *buffer, uint64_t *sums)
{
    struct block_set bad;

    return co_read_column_surely(mirror, column, extent, buffer, sums, &bad);
}

int co_read_column_version(struct mirror *mirror, uint32_t column, struct write_extent extent,
                           struct log_position at, char *buffer)
{
    struct block_set bad;

    return co_read_twice(mirror, column, extent, at, buffer, NULL, &bad);
}

/* ---- any column ---- */

/* Never, but for a mistake (planted.h). */
static bool takes_stale(const struct feed *except)
{
    return except ? PLANTED(STALE_IS_SOURCE) : PLANTED(STALE_IS_READ);
}

/* The best in-sync column that is not in `tried` and not on the feed `except`; -1: none. A feed
 * that is up before one that is not, which may cost a time-out; then the local one; then the peers
 * in turn, by address. */
static int pick_column(const struct mirror *mirror, struct write_extent extent, uint32_t tried,
                       const struct feed *except)
{
    const struct column_config *columns = mirror_columns(mirror, extent.slab);
    uint32_t width = mirror->config->width;
    int best = -1, best_merit = -1;

    for (uint32_t i = 0; i < width; i++) {
        uint32_t column = (extent.slab + extent.block / RECORD_BLOCKS_MAX + i) % width;
        const struct feed *feed = mirror_feed(mirror, extent.slab, column);
        int merit;

        if (!feed) /* the slab was released: a resync does not keep it */
            return -1;
        merit = 2 * feed->up + feed_is_local(feed);
        if ((columns[column].state != COLUMN_IN_SYNC && !takes_stale(except)) || feed == except ||
            (tried & BIT(column)) || merit <= best_merit)
            continue;
        best = (int)column;
        best_merit = merit;
    }
    return best;
}

static int co_read_any_run(struct mirror *mirror, struct write_extent extent, char *buffer,
                           uint64_t *sums, const struct feed *except)
{
    bool all_rotten = true;
    uint32_t tried = 0;
    int column;

    while ((column = pick_column(mirror, extent, tried, except)) >= 0) {
        struct block_set bad;
        int r;

        tried |= BIT(column);
        r = co_read_column_surely(mirror, (uint32_t)column, extent, buffer, sums, &bad);
        if (r == 0)
            return 0;
        if (mirror->stopped)
            return -ESTALE;
        all_rotten = all_rotten && (r == -EBADMSG || r == -EIO);
        if (PLANTED(READ_ASKS_TWO))
            break;
    }
    return all_rotten ? -EIO : -EHOSTUNREACH;
}

int co_read_any(struct mirror *mirror, struct write_extent extent, void *buffer, uint64_t *sums,
                const struct feed *except)
{
    int r = co_read_any_run(mirror, extent, buffer, sums, except);

    if (r != -EIO || extent.count == 1)
        return r;
    SOMETIMES("mirror: rot on every copy of a run");
    /* Rot on every copy, but perhaps not of the same block. */
    for (uint32_t i = 0; i < extent.count; i++) {
        struct write_extent one = {extent.slab, extent.block + i, 1};

        r = co_read_any_run(mirror, one, (char *)buffer + (size_t)i * BLOCK_SIZE,
                            sums ? sums + i : NULL, except);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- repair ---- */

/* Is the copy still rotten, now that nothing can change it? Reads it into buffer. */
static bool co_still_rotten(struct mirror *mirror, const struct rotten_run *run, char *buffer)
{
    struct block_set bad;
    int r;

    SOMETIMES_IF(!mirror->stopped && !run->feed->up,
                 "mirror: a rotten copy goes before it is repaired");
    if (mirror->stopped || !run->feed->up)
        return false;
    if (mirror_feed(mirror, run->extent.slab, run->column) != run->feed)
        return false;
    if (mirror_columns(mirror, run->extent.slab)[run->column].state != COLUMN_IN_SYNC)
        return false; /* stale by now: resync compares it */
    r = co_read_column_surely(mirror, run->column, run->extent, buffer, NULL, &bad);
    return r == -EBADMSG || r == -EIO;
}

static int co_repair_locked(struct mirror *mirror, const struct rotten_run *run, char *buffer)
{
    uint64_t sums[PIECE_BLOCKS];
    int r;

    if (!co_still_rotten(mirror, run, buffer)) {
        SOMETIMES("mirror: a rotten copy is right again before its repair");
        return 0;
    }
    SOMETIMES("mirror: read repair");
    r = co_read_any(mirror, run->extent, buffer, sums, run->feed);
    if (r == 0)
        r = co_copy_blocks(run->feed, run->column, run->extent, buffer, sums, RECORD_REPAIR);
    return r < 0 ? r : 1;
}

void mirror_report_heal(struct mirror *mirror, uint32_t column, struct write_extent extent)
{
    const struct column_config *config = &mirror_columns(mirror, extent.slab)[column];
    struct mirror_heal heal = {
        .vdisk = mirror->vdisk.id,
        .disk = config->disk,
        .slab = extent.slab,
        .block = extent.block,
        .count = extent.count,
        .where = config->where,
    };

    counter_add(&mirror->healed_blocks, extent.count);
    if (mirror->options.on_heal)
        mirror->options.on_heal(mirror->options.arg, &heal);
}

static void co_repair(struct mirror *mirror, const struct rotten_run *run)
{
    size_t bytes = (size_t)run->extent.count * BLOCK_SIZE;
    struct range_lock_hold hold;
    void *buffer;
    int r;

    buffer = co_buffer_get(mirror->options.buffers, bytes); /* always before a lock */
    co_range_lock(&mirror->lock, &hold, slab_address(mirror, run->extent.slab, run->extent.block),
                  run->extent.count, true);
    r = co_repair_locked(mirror, run, buffer);
    range_unlock(&mirror->lock, &hold);
    buffer_put(mirror->options.buffers, buffer, bytes);
    if (r > 0)
        mirror_report_heal(mirror, run->column, run->extent);
    else if (r < 0)
        log_warn(mirror->io, "mirror", "a rotten copy could not be repaired",
                 "vdisk=%llu slab=%u block=%u disk=%llu error=%d",
                 (unsigned long long)mirror->vdisk.id, run->extent.slab, run->extent.block,
                 (unsigned long long)run->feed->disk, r);
}

void co_repair_column(struct mirror *mirror, uint32_t column, struct write_extent extent)
{
    struct rotten_run run = {mirror_feed(mirror, extent.slab, column), column, extent};

    assert(extent.count <= PIECE_BLOCKS);
    co_repair(mirror, &run);
}

/* ---- a client's read ---- */

/* The blocks in bad come from other columns; *request remembers what to repair. */
static int co_fill_bad(struct read_request *request, uint32_t column, const struct block_set *bad)
{
    struct mirror *mirror = request->mirror;
    struct feed *feed = mirror_feed(mirror, request->extent.slab, column);
    uint32_t i = 0;

    while (i < request->extent.count) {
        struct write_extent run = {request->extent.slab, request->extent.block + i, 0};
        int r;

        while (i < request->extent.count && run.count < PIECE_BLOCKS && block_set_has(bad, i)) {
            run.count++;
            i++;
        }
        if (run.count == 0) {
            i++;
            continue;
        }
        r = co_read_any(mirror, run,
                        request->buffer + (size_t)(run.block - request->extent.block) * BLOCK_SIZE,
                        NULL, feed);
        if (r < 0)
            return r;
        if (request->rotten_count < ROTTEN_RUNS_MAX)
            request->rotten[request->rotten_count++] = (struct rotten_run){feed, column, run};
    }
    return 0;
}

/* Returns 0, -EIO (a block is right on no in-sync column), -EHOSTUNREACH (none to ask), -ESTALE. */
static int co_read_locked(struct read_request *request)
{
    struct mirror *mirror = request->mirror;
    uint32_t tried = 0;
    int column;

    while ((column = pick_column(mirror, request->extent, tried, NULL)) >= 0) {
        struct block_set bad;
        int r;

        tried |= BIT(column);
        r = co_read_column_surely(mirror, (uint32_t)column, request->extent, request->buffer, NULL,
                                  &bad);
        if (mirror->stopped)
            return -ESTALE;
        if (r == 0)
            return 0;
        SOMETIMES_IF(r != -EBADMSG, "mirror: a read goes on to another column");
        if (r == -EIO) { /* the medium: nothing of it is known to be right */
            memset(&bad, 0xff, sizeof(bad));
            r = -EBADMSG;
        }
        if (r == -EBADMSG)
            return co_fill_bad(request, (uint32_t)column, &bad);
    }
    return -EHOSTUNREACH; /* those that may have it do not answer */
}

static int co_read_once(struct read_request *request)
{
    struct mirror *mirror = request->mirror;
    struct range_lock_hold hold;
    int r;

    request->rotten_count = 0;
    co_range_lock(&mirror->lock, &hold,
                  PLANTED(READ_DIRTY)
                      ? (uintptr_t)&hold
                      : slab_address(mirror, request->extent.slab, request->extent.block),
                  request->extent.count, false);
    r = mirror->stopped ? -ESTALE : co_read_locked(request);
    range_unlock(&mirror->lock, &hold);
    for (uint32_t i = 0; i < request->rotten_count; i++)
        co_repair(mirror, &request->rotten[i]);
    return r;
}

static int co_read_inside(struct mirror *mirror, struct write_extent extent, char *buffer)
{
    struct read_request request = {.mirror = mirror, .extent = extent, .buffer = buffer};
    int r;

    while ((r = co_read_once(&request)) == -EHOSTUNREACH) {
        SOMETIMES("mirror: a read waits for a column to come back");
        r = co_wait_for_columns(mirror);
        if (r < 0)
            return r;
    }
    if (r == -EIO) {
        SOMETIMES("mirror: a read finds no copy right");
        counter_add(&mirror->lost_blocks, 1);
        log_error(mirror->io, "mirror", "no in-sync copy of a block can be read",
                  "vdisk=%llu slab=%u block=%u count=%u", (unsigned long long)mirror->vdisk.id,
                  extent.slab, extent.block, extent.count);
    }
    return r;
}

static int co_read_piece(struct mirror *mirror, struct write_extent extent, char *buffer)
{
    int r = co_mirror_enter(mirror, extent.slab, false);

    if (r == 0)
        memset(buffer, 0, (size_t)extent.count * BLOCK_SIZE);
    if (r <= 0)
        return r;
    r = co_read_inside(mirror, extent, buffer);
    mirror_leave(mirror, extent.slab);
    return r;
}

static int co_read_mirror_pieces(struct mirror *mirror, char *buffer, uint64_t offset,
                                 uint64_t length)
{
    uint64_t address = offset / BLOCK_SIZE, blocks = length / BLOCK_SIZE;
    int r = 0;

    while (r == 0 && blocks > 0) {
        struct write_extent extent = mirror_next_extent(mirror, address, blocks, RECORD_BLOCKS_MAX);

        r = co_read_piece(mirror, extent, buffer);
        address += extent.count;
        blocks -= extent.count;
        buffer += (size_t)extent.count * BLOCK_SIZE;
    }
    return r;
}

int co_mirror_read(struct vdisk *vdisk, void *buffer, uint64_t offset, uint64_t length)
{
    return co_read_whole(vdisk, co_read_mirror_pieces, buffer, offset, length);
}

int co_read_whole(struct vdisk *vdisk, co_read_pieces *co_pieces, void *buffer, uint64_t offset,
                  uint64_t length)
{
    struct mirror *mirror = container_of(vdisk, struct mirror, vdisk);
    uint64_t start_ns = io_now_ns(mirror->io);
    int r;

    r = mirror_check_range(mirror, offset, length);
    if (r < 0)
        return r;
    assert((uintptr_t)buffer % BLOCK_SIZE == 0);
    co_group_add(&mirror->calls, 1);
    r = co_pieces(mirror, buffer, offset, length);
    /* The node may hold a lease again, but that one is not this session's. */
    if (r == 0 && mirror->stopped) {
        SOMETIMES("mirror: the session ends while a read is in flight");
        r = -ESTALE;
    }
    if (r == 0 && !mirror->options.lease_held(mirror->options.arg) && !PLANTED(READ_NO_LEASE)) {
        SOMETIMES("mirror: the lease is lost while a read is in flight");
        r = -ESTALE;
    }
    counter_add(&mirror->reads, 1);
    counter_add(&mirror->read_bytes, length);
    if (r == 0 && mirror->options.pace)
        pace_note(mirror->options.pace, io_now_ns(mirror->io), false, length,
                  io_now_ns(mirror->io) - start_ns);
    co_group_done(&mirror->calls);
    return r;
}
