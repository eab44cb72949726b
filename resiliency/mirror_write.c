/* The write path: range lock → seq → one record to every in-sync column, and to those that are
 * being brought up → every in-sync column has confirmed → committed → the caller goes on.
 *
 * Commitment is a question asked of the present configuration, again whenever an answer or a new
 * configuration arrives: "is every column that counts now durable?" (I1). So an eviction commits
 * what waited only for the evicted, and a column that was proposed in-sync is waited for at once.
 * Answers that were given in an earlier epoch of this session stand.
 *
 * The caller's data is not copied: a call returns when the write is committed and no column reads
 * the data any more. A column that is being brought up is therefore waited for as well, but only
 * for as long as it keeps up (evict.c breaks its feed). */
#include "resiliency/mirror_private.h"

/* ---- the pool ---- */

struct mirror_write *co_write_get(struct mirror *mirror)
{
    while (co_sem_take(&mirror->write_slots, 1) < 0) {
        /* Cancelled. Whoever holds a slot gives it back without us, so look again in a while. */
        if (mirror->stopped || co_cancelled())
            return NULL;
    }
    return list_entry(list_pop_front(&mirror->free_writes), struct mirror_write, node);
}

void write_put(struct mirror_write *write)
{
    assert(write->pending == 0);
    assert(list_empty(&write->node));
    list_push_front(&write->mirror->free_writes, &write->node);
    co_sem_give(&write->mirror->write_slots, 1);
}

/* ---- commitment ---- */

static bool column_counts(const struct mirror *mirror, uint32_t slab, uint32_t column)
{
    if (PLANTED(ACK_BEFORE_STALE) && !mirror_feed(mirror, slab, column)->up &&
        mirror_feed(mirror, slab, column)->proposed_epoch == mirror->epoch)
        return false;
    return mirror_columns(mirror, slab)[column].state == COLUMN_IN_SYNC ||
           mirror_feed(mirror, slab, column)->counted;
}

static bool has_a_catching_column(const struct mirror_write *write)
{
    for (uint32_t i = 0; i < write->width; i++) {
        if (!column_counts(write->mirror, write->slab, i) && write->parts[i].state == PART_DURABLE)
            return true;
    }
    return false;
}

/* Only mistakes excuse a column that counts (planted.h). */
static bool is_excused(const struct mirror_write *write, uint32_t column)
{
    return (PLANTED(ACK_EARLY) && column + 1 == write->width) ||
           (PLANTED(PARITY_ACK_DATA) && column >= write->mirror->config->data_columns) ||
           (PLANTED(CATCHING_COUNTS) && has_a_catching_column(write));
}

static bool write_is_durable(const struct mirror_write *write)
{
    const struct mirror *mirror = write->mirror;
    const struct column_config *columns = mirror_columns(mirror, write->slab);

    for (uint32_t i = 0; i < write->width; i++) {
        if (!(write->columns & BIT(i)) || !column_counts(mirror, write->slab, i))
            continue;
        /* A column counts only after every write that began without it has ended (resync.c). */
        assert(write->disks[i] == columns[i].disk);
        if (write->parts[i].state != PART_DURABLE && !is_excused(write, i))
            return false;
    }
    return true;
}

/* The watermark is told when there is no next record to tell it. */
static void arm_idle_mark(struct mirror *mirror)
{
    if (!io_timer_armed(&mirror->idle_timer) && !mirror->stopped)
        io_timer_arm(mirror->io, &mirror->idle_timer,
                     io_now_ns(mirror->io) + mirror->limits.idle_mark_ns);
}

/* As the database has it: here no mistake excuses anybody (is_excused()). */
static bool in_sync_columns_have(const struct mirror_write *write)
{
    for (uint32_t i = 0; i < write->width; i++) {
        bool counts = mirror_columns(write->mirror, write->slab)[i].state == COLUMN_IN_SYNC ||
                      mirror_feed(write->mirror, write->slab, i)->counted;

        if (counts && write->columns & BIT(i) && write->parts[i].state != PART_DURABLE)
            return false;
    }
    return true;
}

static void write_commit(struct mirror_write *write)
{
    struct mirror *mirror = write->mirror;

    INVARIANT(I1, in_sync_columns_have(write));
    write->committed = true;
    list_remove(&write->node);
    if (co_cond_has_waiters(&mirror->progress))
        co_cond_broadcast(&mirror->progress);
    arm_idle_mark(mirror);
}

void write_look_again(struct mirror_write *write)
{
    if (!write->committed && !write->mirror->stopped && write_is_durable(write))
        write_commit(write);
    if (write->waiter && write->pending == 0 && (write->committed || write->mirror->stopped))
        co_wake(take_ptr(write->waiter));
}

bool write_wants_column(const struct mirror *mirror, uint32_t slab, uint32_t column)
{
    return column_counts(mirror, slab, column) || mirror_feed(mirror, slab, column)->catching;
}

bool write_part_wanted(const struct feed_part *part)
{
    const struct mirror_write *write = part->owner;
    const struct mirror *mirror = write->mirror;
    uint32_t column = part->append.store.record.column;

    if (mirror_columns(mirror, write->slab)[column].disk != write->disks[column])
        return false; /* the slab has another column in its place */
    if ((PLANTED(ACK_EARLY) || PLANTED(PARITY_ACK_DATA) || PLANTED(CATCHING_COUNTS)) &&
        write->committed)
        return false;
    return column_counts(mirror, write->slab, column) || part->feed->catching;
}

static void write_part_done(struct feed_part *part, int result)
{
    struct mirror_write *write = part->owner;

    (void)result;
    assert(write->pending > 0);
    write->pending--;
    write_look_again(write);
}

/* ---- one write ---- */

static void write_fill_part(struct mirror_write *write, uint32_t column,
                            const struct record *record, const void *data, const uint64_t *sums)
{
    const struct column_config *config = &mirror_columns(write->mirror, write->slab)[column];
    struct feed_part *part = &write->parts[column];

    write->disks[column] = config->disk;
    part->state = PART_IDLE;
    part->once = false;
    part->done = write_part_done;
    part->owner = write;
    part->append.store.record = *record;
    part->append.store.record.where = config->where;
    part->append.store.record.column = (uint16_t)column;
    part->append.store.sums = data ? sums : NULL;
    part->append.store.data = data;
}

static void write_send_parts(struct mirror_write *write, bool local)
{
    const struct mirror *mirror = write->mirror;

    for (uint32_t i = 0; i < write->width; i++) {
        struct feed *feed = mirror_feed(mirror, write->slab, i);

        if (feed_is_local(feed) != local || !(write->columns & BIT(i)) ||
            !write_wants_column(mirror, write->slab, i))
            continue;
        write->pending++;
        feed_send(feed, &write->parts[i]);
    }
}

/* No other write to these blocks (in parity: rows) is between its start and its commit. */
static bool holds_alone(const struct mirror_write *write, struct write_extent extent)
{
    uint64_t start = slab_address(write->mirror, extent.slab, extent.block);

    return !list_empty(&write->hold.node) && write->hold.exclusive && write->hold.start <= start &&
           start + extent.count <= write->hold.end;
}

/* From here to the last feed_send() nothing suspends: the order of seqs is the order in every
 * feed. Returns what the records of all columns have in common. */
static struct record write_begin(struct mirror_write *write, struct write_extent extent,
                                 uint32_t columns, uint32_t flags, struct client_request request)
{
    struct mirror *mirror = write->mirror;

    INVARIANT(I7, holds_alone(write, extent));
    write->slab = extent.slab;
    write->width = mirror->config->width;
    write->columns = columns;
    write->seq = ++mirror->seq;
    write->committed = false;
    write->pending = 0;
    write->bytes_before = mirror->issued_bytes;
    list_push_back(&mirror->in_flight, &write->node);
    return (struct record){
        .vdisk = mirror->vdisk.id,
        .slab = extent.slab,
        .flags = flags | RECORD_VERIFIED,
        .block = extent.block,
        .count = extent.count,
        .position = {.session = mirror->session, .seq = write->seq},
        .client_session = request.session,
        .client_number = request.number,
    };
}

static void write_send(struct mirror_write *write)
{
    write_send_parts(write, false); /* peers first: the local disk works while they do */
    write_send_parts(write, true);
    evict_watch(write->mirror);
}

static void write_start(struct mirror_write *write, struct write_extent extent, const void *data,
                        uint32_t flags, struct client_request request)
{
    struct mirror *mirror = write->mirror;
    struct record record =
        write_begin(write, extent, BIT(mirror->config->width) - 1, flags, request);

    record.kind = data ? RECORD_WRITE : RECORD_ZERO;
    record.address = slab_address(mirror, extent.slab, extent.block);
    mirror->issued_bytes += data ? (uint64_t)extent.count * BLOCK_SIZE : 0;
    for (uint32_t i = 0; i < write->width; i++)
        write_fill_part(write, i, &record, data, write->sums);
    write_send(write);
}

static void write_start_columns(struct mirror_write *write, const struct column_write *what)
{
    struct mirror *mirror = write->mirror;
    struct record record =
        write_begin(write, what->rows, what->columns,
                    what->flags | what->columns << RECORD_TOUCHED_SHIFT, what->request);

    for (uint32_t i = 0; i < write->width; i++) {
        uint64_t *sums = write->sums + (size_t)i * PARITY_UNIT_BLOCKS;

        if (!(what->columns & BIT(i)))
            continue;
        record.kind = what->data[i] ? RECORD_WRITE : RECORD_ZERO;
        record.address = column_address(mirror, what->rows.slab, i, what->rows.block);
        if (what->data[i]) {
            checksum_blocks(what->data[i], what->rows.count, mirror->vdisk.id, record.address,
                            sums);
            mirror->issued_bytes += (uint64_t)what->rows.count * BLOCK_SIZE;
        }
        write_fill_part(write, i, &record, what->data[i], sums);
    }
    write_send(write);
}

/* Waits for what was started. */
static int co_write_end(struct mirror_write *write)
{
    /* Mostly it waits for the last in-sync column at least. But what a takeover writes again may be
     * for columns that have turned stale while it was read. */
    if (write->pending == 0) {
        SOMETIMES("mirror: no column wants a write any more");
        write_look_again(write);
    } else {
        write->waiter = co_self();
        co_wait();
    }

    assert(write->pending == 0);
    if (write->committed)
        return 0;
    SOMETIMES("mirror: a write ends without an answer");
    list_remove(&write->node);
    return -ESTALE;
}

int co_write_commit(struct mirror_write *write, struct write_extent extent, const void *data,
                    uint32_t flags, struct client_request request)
{
    struct mirror *mirror = write->mirror;

    if (mirror->stopped)
        return -ESTALE;
    assert(extent.count > 0);
    assert(extent.block + extent.count <= mirror->config->slab_blocks);
    write_start(write, extent, data, flags, request);
    return co_write_end(write);
}

int co_write_commit_columns(struct mirror_write *write, const struct column_write *what)
{
    struct mirror *mirror = write->mirror;

    if (mirror->stopped)
        return -ESTALE;
    assert(what->rows.count > 0);
    assert(what->rows.block + what->rows.count <= vdisk_config_column_blocks(mirror->config));
    write_start_columns(write, what);
    return co_write_end(write);
}

/* ---- committed data for one column ---- */

struct copy_wait {
    struct co *co;
    int result;
};

static void copy_done(struct feed_part *part, int result)
{
    struct copy_wait *wait = part->owner;

    wait->result = result;
    co_wake(wait->co);
}

/* data NULL: zeros. */
static int co_copy_record(struct feed *feed, uint32_t column, struct write_extent extent,
                          const void *data, const uint64_t *sums, uint32_t flags)
{
    struct mirror *mirror = feed->mirror;
    const struct column_config *config = &mirror_columns(mirror, extent.slab)[column];
    struct copy_wait wait = {.co = co_self()};
    struct feed_part part = {.once = true, .done = copy_done, .owner = &wait};

    if (mirror->stopped)
        return -ESTALE;
    if (!feed->up || config->disk != feed->disk)
        return -ENOTCONN;
    part.append.store.record = (struct record){
        .vdisk = mirror->vdisk.id,
        .where = config->where,
        .slab = extent.slab,
        .column = (uint16_t)column,
        .kind = data ? RECORD_WRITE : RECORD_ZERO,
        .flags = flags | RECORD_COPY | RECORD_VERIFIED,
        .block = extent.block,
        .count = extent.count,
        .address = column_address(mirror, extent.slab, column, extent.block),
        .position = {.session = mirror->session, .seq = ++mirror->seq},
    };
    if (mirror->erasure)
        part.append.store.record.flags |= BIT(column) << RECORD_TOUCHED_SHIFT;
    part.append.store.sums = data ? sums : NULL;
    part.append.store.data = data;
    feed_send(feed, &part);
    evict_watch(mirror);
    co_wait();
    if (flags & RECORD_REPAIR) /* a resync tells it when it ends */
        arm_idle_mark(mirror);
    return wait.result;
}

int co_copy_blocks(struct feed *feed, uint32_t column, struct write_extent extent, const void *data,
                   const uint64_t *sums, uint32_t flags)
{
    uint32_t done = 0;

    while (done < extent.count) {
        struct write_extent run = {extent.slab, extent.block + done, 0};
        bool zeros = sums[done] == 0;
        int r;

        while (done + run.count < extent.count && (sums[done + run.count] == 0) == zeros)
            run.count++;
        r = co_copy_record(feed, column, run,
                           zeros ? NULL : (const char *)data + (size_t)done * BLOCK_SIZE,
                           sums + done, flags);
        if (r < 0)
            return r;
        done += run.count;
    }
    return 0;
}

/* ---- what stands above ---- */

/* What the stores cannot retire yet: all from the oldest write in flight on; and while a takeover
 * is under way all of the session, for no watermark goes to the disks of a slab that waits. */
static uint64_t unsettled_bytes(const struct mirror *mirror)
{
    if (mirror->slabs_waiting > 0)
        return mirror->issued_bytes;
    if (list_empty(&mirror->in_flight))
        return 0;
    return mirror->issued_bytes -
           list_first(&mirror->in_flight, struct mirror_write, node)->bytes_before;
}

/* Data above the watermark stays in the stores' logs, committed or not, and a takeover needs as
 * much room again: one stuck write, or a slab whose columns are away, must not let it grow without
 * bound. */
static int co_wait_for_room(struct mirror *mirror)
{
    while (unsettled_bytes(mirror) >= mirror->limits.unsettled_bytes) {
        int r;

        if (mirror->stopped)
            return -ESTALE;
        SOMETIMES("mirror: writes wait, too much is above the watermark");
        r = co_cond_wait(&mirror->progress);
        if (r < 0)
            return r;
    }
    return mirror->stopped ? -ESTALE : 0;
}

int co_write_enter(struct mirror *mirror, uint32_t slab, bool allocate)
{
    int r = co_mirror_enter(mirror, slab, allocate);

    if (r <= 0)
        return r; /* 0: zeros where nothing was ever allocated */
    r = co_wait_for_room(mirror);
    if (r < 0) {
        mirror_leave(mirror, slab);
        return r;
    }
    mirror->writes_entered++;
    return 1;
}

void write_leave(struct mirror *mirror, uint32_t slab, bool trimmed)
{
    if (trimmed)
        mirror_note_trim(mirror, slab);
    mirror_leave(mirror, slab);
    assert(mirror->writes_entered > 0);
    if (--mirror->writes_entered == 0 && mirror->draining)
        co_cond_broadcast(&mirror->progress);
}

/* ---- clients' requests (recent.h) ---- */

static struct recent_piece request_piece(struct write_extent extent, struct client_request request)
{
    return (struct recent_piece){
        .client_session = request.session,
        .client_number = request.number,
        .slab = extent.slab,
        .block = extent.block,
        .count = extent.count,
    };
}

/* A commit, remembered. data NULL: zeros. */
static int co_write_client(struct mirror_write *write, struct write_extent extent, const void *data,
                           struct client_request request)
{
    struct recent_piece piece = request_piece(extent, request);
    int r = co_write_commit(write, extent, data, 0, request);

    if (r < 0 || request.session == 0)
        return r;
    piece.position = (struct log_position){write->mirror->session, write->seq};
    recent_add(&write->mirror->recent, &piece);
    return 0;
}

/* What the request has not written yet. Under its lock: all that ran of it before has ended. */
static int co_write_repeat(struct mirror_write *write, struct write_extent extent, const char *data,
                           struct client_request request)
{
    struct mirror *mirror = write->mirror;
    struct recent_piece piece = request_piece(extent, request);
    struct block_set done = {0};
    uint32_t i = 0;
    int r = 0;

    recent_find(&mirror->recent, &piece, &done);
    while (r == 0 && i < extent.count) {
        struct write_extent run = {extent.slab, extent.block + i, 0};
        const char *from = data + (size_t)i * BLOCK_SIZE;

        while (i < extent.count && !block_set_has(&done, i)) {
            run.count++;
            i++;
        }
        if (run.count == 0) {
            SOMETIMES("mirror: a repeat is answered, it was written before");
            i++;
            continue;
        }
        checksum_blocks(from, run.count, mirror->vdisk.id,
                        slab_address(mirror, run.slab, run.block), write->sums);
        r = co_write_client(write, run, from, request);
    }
    return r;
}

/* data NULL: zeros. */
static int co_write_piece(struct mirror *mirror, struct write_extent extent, const void *data,
                          struct client_request request)
{
    uint64_t address = slab_address(mirror, extent.slab, extent.block);
    struct mirror_write *write;
    int r;

    r = co_write_enter(mirror, extent.slab, data != NULL);
    if (r <= 0)
        return r;
    write = co_write_get(mirror);
    r = write ? 0 : -ECANCELED;
    if (write) {
        if (data)
            checksum_blocks(data, extent.count, mirror->vdisk.id, address, write->sums);
        co_range_lock(&mirror->lock, &write->hold,
                      PLANTED(WRITE_NO_LOCK) ? (uintptr_t)write : address, extent.count, true);
        if (request.is_repeat && data && !PLANTED(REPEAT_RUNS))
            r = co_write_repeat(write, extent, data, request);
        else
            r = co_write_client(write, extent, data, request);
        range_unlock(&mirror->lock, &write->hold);
        write_put(write);
    }
    write_leave(mirror, extent.slab, !data);
    return r;
}

static int co_write_pieces(struct mirror *mirror, const char *data, uint64_t offset,
                           uint64_t length, struct client_request request)
{
    uint64_t address = offset / BLOCK_SIZE, blocks = length / BLOCK_SIZE;

    while (blocks > 0) {
        struct write_extent extent =
            mirror_next_extent(mirror, address, blocks, data ? RECORD_BLOCKS_MAX : UINT32_MAX);
        int r = co_write_piece(mirror, extent, data, request);

        if (r < 0)
            return r;
        address += extent.count;
        blocks -= extent.count;
        if (data)
            data += (uint64_t)extent.count * BLOCK_SIZE;
    }
    return 0;
}

int co_change(struct vdisk *vdisk, co_change_pieces *co_pieces, const void *data, uint64_t offset,
              uint64_t length, struct client_request request)
{
    struct mirror *mirror = container_of(vdisk, struct mirror, vdisk);
    uint64_t start_ns = io_now_ns(mirror->io);
    int r;

    r = mirror_check_range(mirror, offset, length);
    if (r < 0)
        return r;
    assert((uintptr_t)data % BLOCK_SIZE == 0);
    co_group_add(&mirror->calls, 1);
    r = co_pieces(mirror, data, offset, length, request);
    if (r == 0 && !mirror->options.lease_held(mirror->options.arg)) {
        SOMETIMES("mirror: the lease is lost while a write is in flight");
        r = -ESTALE;
    }
    counter_add(&mirror->writes_done, 1);
    counter_add(&mirror->written_bytes, length);
    histogram_add(&mirror->write_latency, io_now_ns(mirror->io) - start_ns);
    if (r == 0 && mirror->options.pace)
        pace_note(mirror->options.pace, io_now_ns(mirror->io), true, length,
                  io_now_ns(mirror->io) - start_ns);
    co_group_done(&mirror->calls);
    return r;
}

int co_mirror_write(struct vdisk *vdisk, const void *buffer, uint64_t offset, uint64_t length,
                    struct client_request request)
{
    assert(buffer != NULL);
    return co_change(vdisk, co_write_pieces, buffer, offset, length, request);
}

int co_mirror_trim(struct vdisk *vdisk, uint64_t offset, uint64_t length,
                   struct client_request request)
{
    return co_change(vdisk, co_write_pieces, NULL, offset, length, request);
}
