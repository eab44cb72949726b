/* Takeover (I6): what an earlier session may have left half done is written again.
 *
 * A slab is taken over when every in-sync column of it has been sealed in this session and so has
 * reported its records above its watermark. Of every block that these name, the newest record by
 * (session, seq), whichever column has it, is written again: an ordinary write of this session, to
 * every in-sync column, whether it has it already or not. Unless each of them has it: such a record
 * is what a committed write leaves, no later owner can miss it, and logs would fill up with copies
 * where takeovers are interrupted again and again. When all of it is committed the slab serves.
 * Nothing is dropped, nobody is told an outcome; a takeover that is interrupted is done again by
 * the next owner, and finds its predecessor's records as it finds any others.
 *
 * The contents come from the column that has the newest record: what it shows for the block is that
 * record, or a copy that was laid over it as committed data. If that column cannot read it, others
 * that have the same record may. If a column in-sync lacks the record, it was never acknowledged,
 * and the next older version is as good an answer; if all of them have it and none can read it, the
 * block is lost and stays as it is: reading it is an error, never a guess.
 *
 * Parity has the same rule for rows instead of blocks: parity_takeover.c.
 *
 * A slab whose columns are away waits by itself; the others serve. Feeds open when the slabs with
 * an in-sync column on their disk are done (feed.c): a watermark covers all earlier sessions. */
#include "resiliency/parity_private.h"

/* The newest record of a block. */
struct version {
    struct log_position position;  /* session 0: no record above the watermark */
    struct client_request request; /* whose it is, also when it is written again */
    uint8_t columns;               /* a bit to each column that has it */
    uint8_t kind;
    bool older; /* RECORD_OLDER: something below it was given up */
};

struct takeover {
    struct mirror *mirror;
    uint32_t slab;
    struct version *versions; /* by block */
    uint32_t next_block;
    bool took_older;   /* a newest record somewhere could not be read, or at an earlier attempt */
    bool older_before; /* and by an earlier takeover, which told so */
    int error;
    struct co_group workers;
};

/* ---- tails ---- */

/* The records of the slab in a tail, which is sorted by slab. */
static const struct store_tail_record *tail_begin(const struct store_seal *seal, uint32_t slab)
{
    size_t low = 0, high = seal->tail_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (seal->tail[middle].slab < slab)
            low = middle + 1;
        else
            high = middle;
    }
    return seal->tail + low;
}

static bool tail_has_slab(const struct store_seal *seal, uint32_t slab)
{
    const struct store_tail_record *record = tail_begin(seal, slab);

    return record < seal->tail + seal->tail_count && record->slab == slab;
}

static bool is_in_sync(const struct mirror *mirror, uint32_t slab, uint32_t column)
{
    return mirror_columns(mirror, slab)[column].state == COLUMN_IN_SYNC;
}

/* Records of another extent, or of an older generation of it, are of a column that is no more. */
void takeover_each_record(const struct mirror *mirror, uint32_t slab, uint32_t column,
                          void (*fn)(void *arg, uint32_t column,
                                     const struct store_tail_record *record),
                          void *arg)
{
    uint32_t blocks = vdisk_config_column_blocks(mirror->config);
    const struct store_seal *seal = &mirror_feed(mirror, slab, column)->seal;
    const struct store_tail_record *end = seal->tail + seal->tail_count;
    struct extent_ref where = mirror_columns(mirror, slab)[column].where;

    for (const struct store_tail_record *record = tail_begin(seal, slab);
         record < end && record->slab == slab; record++) {
        if (record->where.extent != where.extent || record->where.generation != where.generation)
            continue;
        /* The tail comes from another node. */
        if (record->block >= blocks || record->count > blocks - record->block)
            continue;
        fn(arg, column, record);
    }
}

static void take_version(void *arg, uint32_t column, const struct store_tail_record *record)
{
    struct takeover *takeover = arg;

    for (uint32_t block = record->block; block < record->block + record->count; block++) {
        struct version *version = &takeover->versions[block];
        int order = log_position_compare(record->position, version->position);

        if (PLANTED(TAKEOVER_WRITES_OLDEST) && version->position.session != 0)
            order = -order;
        if (order > 0)
            *version = (struct version){
                .position = record->position,
                .request = {.session = record->client_session, .number = record->client_number},
                .kind = record->kind,
                .older = record->flags & RECORD_OLDER,
            };
        /* What an attempt put in its place may be what is read there now. */
        if (order > 0 && takeover->took_older) {
            version->request = (struct client_request){0};
            version->older = true;
        }
        if (order >= 0)
            version->columns |= (uint8_t)BIT(column);
    }
    takeover->older_before = takeover->older_before || record->flags & RECORD_OLDER;
}

/* ---- one run of blocks with the same newest record ---- */

static bool same_version(const struct version *a, const struct version *b)
{
    return log_position_compare(a->position, b->position) == 0 && a->columns == b->columns;
}

/* Every in-sync column has the newest record: it is committed, and needs no other. */
static bool is_committed(const struct takeover *takeover, const struct version *version)
{
    uint32_t lacking = in_sync_set(takeover->mirror, takeover->slab) & ~(uint32_t)version->columns;

    if (PLANTED(TAKEOVER_WRITES_OLDEST))
        return false;
    if (PLANTED(AGAIN_SPARED_EARLY))
        lacking &= lacking - 1; /* one may lack it */
    SOMETIMES_IF(lacking == 0, "takeover: a record that all columns have is not written again");
    return lacking == 0;
}

/* The next run that has to be written again; false when there is none. */
static bool next_run(struct takeover *takeover, struct write_extent *ret_run)
{
    uint32_t blocks = takeover->mirror->config->slab_blocks;
    uint32_t start = takeover->next_block, end, limit;
    const struct version *first;

    while (start < blocks && (takeover->versions[start].position.session == 0 ||
                              is_committed(takeover, &takeover->versions[start])))
        start++;
    if (start == blocks)
        return false;
    first = &takeover->versions[start];
    limit = first->kind == RECORD_ZERO ? blocks : PIECE_BLOCKS;
    end = start + 1;
    while (end < blocks && end - start < limit && same_version(first, &takeover->versions[end]))
        end++;
    takeover->next_block = end;
    *ret_run = (struct write_extent){takeover->slab, start, end - start};
    return true;
}

struct older_version {
    uint32_t block;
    struct log_position below, newest;
    uint8_t columns;
};

static void take_older(void *arg, uint32_t column, const struct store_tail_record *record)
{
    struct older_version *older = arg;
    int order;

    if (older->block < record->block || older->block - record->block >= record->count)
        return;
    if (log_position_compare(record->position, older->below) >= 0)
        return;
    order = log_position_compare(record->position, older->newest);
    if (order > 0) {
        older->newest = record->position;
        older->columns = 0;
    }
    if (order >= 0)
        older->columns |= (uint8_t)BIT(column);
}

/* Reads the run from one of the columns in the set. */
static int co_read_version(struct mirror *mirror, struct write_extent run, uint32_t columns,
                           char *buffer, uint64_t *sums)
{
    int result = -EIO;

    for (uint32_t i = 0; i < mirror->config->width; i++) {
        if (!(columns & BIT(i)) || !is_in_sync(mirror, run.slab, i))
            continue;
        int r = co_read_column_at(mirror, i, run, buffer, sums);

        if (r == 0)
            return 0;
        if (r != -EBADMSG && r != -EIO)
            result = -EHOSTUNREACH; /* it may have it, but does not answer */
    }
    return result;
}

/* One block whose newest record cannot be read by any column that has it: the next older version,
 * if it may be that the newest was never acknowledged. */
static int co_read_older(struct mirror *mirror, struct write_extent one, struct version version,
                         char *buffer, uint64_t *sums)
{
    uint32_t in_sync = in_sync_set(mirror, one.slab);
    uint32_t tried = version.columns;

    if ((in_sync & ~tried) == 0)
        return -EIO; /* all have it: it may have been acknowledged */
    SOMETIMES("takeover: the newest record cannot be read, an older one is taken");
    while ((in_sync & ~tried) != 0) {
        struct older_version older = {.block = one.block, .below = version.position};
        uint32_t columns;
        int r;

        for (uint32_t i = 0; i < mirror->config->width; i++) {
            if ((in_sync & BIT(i)) && !(tried & BIT(i)))
                takeover_each_record(mirror, one.slab, i, take_older, &older);
        }
        /* Without any record in between, what the others show is the committed version. */
        columns = older.columns ? older.columns : in_sync & ~tried;
        r = co_read_version(mirror, one, columns, buffer, sums);
        if (r != -EIO)
            return r;
        tried |= columns;
        version.position = older.newest;
    }
    return -EIO;
}

/* Contents of the run into buffer. Returns 0, -EIO (lost), -EHOSTUNREACH, … */
static int co_read_newest(struct takeover *takeover, struct write_extent run, char *buffer,
                          uint64_t *sums)
{
    struct version version = takeover->versions[run.block];
    int r;

    if (PLANTED(TAKEOVER_WRITES_OLDEST) && run.count == 1 &&
        co_read_column_version(takeover->mirror, (uint32_t)__builtin_ctz(version.columns), run,
                               version.position, buffer) == 0) {
        sums[0] = 1; /* written, whatever it is */
        return 0;
    }
    r = co_read_version(takeover->mirror, run, version.columns, buffer, sums);
    if (r != -EIO)
        return r;
    takeover->took_older = true;
    if (run.count == 1) {
        takeover->versions[run.block].request = (struct client_request){0};
        takeover->versions[run.block].older = true;
        r = co_read_older(takeover->mirror, run, version, buffer, sums);
    }
    return r;
}

static bool all_unwritten(const uint64_t *sums, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (sums[i] != 0)
            return false;
    }
    return true;
}

/* ---- whose requests they were ---- */

struct given_up {
    const struct store_tail_record *record;
    bool yes;
};

static void find_older_above(void *arg, uint32_t column, const struct store_tail_record *above)
{
    struct given_up *given_up = arg;
    const struct store_tail_record *record = given_up->record;

    (void)column;
    if (above->flags & RECORD_OLDER && above->block < record->block + record->count &&
        record->block < above->block + above->count &&
        log_position_compare(above->position, record->position) > 0)
        given_up->yes = true;
}

/* An earlier takeover could not read it, and put something older over it. */
static bool is_given_up(const struct takeover *takeover, const struct store_tail_record *record)
{
    const struct mirror *mirror = takeover->mirror;
    struct given_up given_up = {.record = record};

    for (uint32_t i = 0; i < mirror->config->width; i++)
        if (is_in_sync(mirror, takeover->slab, i))
            takeover_each_record(mirror, takeover->slab, i, find_older_above, &given_up);
    return given_up.yes;
}

static void learn_request(void *arg, uint32_t column, const struct store_tail_record *record)
{
    const struct takeover *takeover = arg;

    (void)column;
    if (takeover->older_before && is_given_up(takeover, record) && !PLANTED(GIVEN_UP_COUNTS)) {
        SOMETIMES("takeover: a request that an earlier takeover gave up is not counted");
        return;
    }
    takeover_learn(takeover->mirror, record);
}

/* Each record of the slab was committed, or is by now: it was written again, or a newer one of its
 * blocks was, which began after it had been committed (I7). Unless one could not be read: then
 * nobody knows, and a repeat runs again. (And it runs again for whoever comes later: what was
 * written in its place says so, to stores and takeovers.) */
static void learn_requests(struct takeover *takeover)
{
    const struct mirror *mirror = takeover->mirror;

    for (uint32_t i = 0; i < mirror->config->width && !takeover->took_older; i++) {
        if (is_in_sync(mirror, takeover->slab, i))
            takeover_each_record(mirror, takeover->slab, i, learn_request, takeover);
    }
}

void takeover_learn(struct mirror *mirror, const struct store_tail_record *record)
{
    struct recent_piece piece = {
        .client_session = record->client_session,
        .client_number = record->client_number,
        .position = record->position,
        .slab = record->slab,
        .block = record->block,
        .count = record->count,
    };

    if (record->client_session != 0 && !mirror->erasure && !PLANTED(REQUESTS_NOT_LEARNED))
        recent_learn(&mirror->recent, &piece);
}

/* ---- writing ---- */

static int co_write_again(struct takeover *takeover, struct write_extent run, const char *buffer,
                          const uint64_t *sums)
{
    struct mirror *mirror = takeover->mirror;
    const struct version *version = &takeover->versions[run.block];
    uint64_t address = slab_address(mirror, run.slab, run.block);
    struct mirror_write *write = co_write_get(mirror);
    int r;

    if (!write)
        return -ECANCELED;
    if (buffer && all_unwritten(sums, run.count))
        buffer = NULL;
    if (buffer)
        checksum_blocks(buffer, run.count, mirror->vdisk.id, address, write->sums);
    co_range_lock(&mirror->lock, &write->hold, address, run.count, true);
    r = co_write_commit(write, run, buffer, RECORD_REWRITE | (version->older ? RECORD_OLDER : 0),
                        version->request);
    range_unlock(&mirror->lock, &write->hold);
    write_put(write);
    if (r == 0)
        counter_add(&mirror->rewritten_blocks, run.count);
    return r;
}

/* A mistake (planted.h): the record keeps its name. Who lacks it gets a copy, and each column is
 * told at once that it is committed. */
static int co_keep_name(struct takeover *takeover, struct write_extent run, const char *buffer,
                        const uint64_t *sums)
{
    struct mirror *mirror = takeover->mirror;
    uint8_t columns = takeover->versions[run.block].columns;
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < mirror->config->width; i++) {
        struct feed *feed = mirror_feed(mirror, run.slab, i);

        if (!is_in_sync(mirror, run.slab, i))
            continue;
        if (!(columns & BIT(i)))
            r = co_copy_blocks(feed, i, run, buffer, sums, 0);
        if (r == 0)
            r = co_column_mark(feed->store, mirror->vdisk.id, mirror->epoch,
                               (struct log_position){mirror->session, 0}, false);
    }
    return r;
}

/* Reads into buffer and writes again. A run that cannot be read as a whole goes block by block, and
 * a block that is lost is left as it is. */
static int co_rewrite_run(struct takeover *takeover, struct write_extent run, char *buffer)
{
    struct mirror *mirror = takeover->mirror;
    uint64_t sums[PIECE_BLOCKS];
    int r;

    SOMETIMES_IF(takeover->versions[run.block].kind == RECORD_ZERO,
                 "takeover: a trim is written again");
    if (takeover->versions[run.block].kind == RECORD_ZERO)
        return co_write_again(takeover, run, NULL, NULL);
    r = co_read_newest(takeover, run, buffer, sums);
    if (r == 0 && PLANTED(TAKEOVER_KEEPS_NAME))
        return co_keep_name(takeover, run, buffer, sums);
    if (r == 0)
        return co_write_again(takeover, run, buffer, sums);
    if (r != -EIO)
        return r;
    if (run.count == 1) {
        SOMETIMES("takeover: a block in flight is lost on every copy");
        counter_add(&mirror->lost_blocks, 1);
        log_error(mirror->io, "mirror", "a block that was in flight is lost on every copy",
                  "vdisk=%llu slab=%u block=%u", (unsigned long long)mirror->vdisk.id, run.slab,
                  run.block);
        return 0;
    }
    for (uint32_t i = 0; i < run.count; i++) {
        struct write_extent one = {run.slab, run.block + i, 1};

        r = co_rewrite_run(takeover, one, buffer);
        if (r < 0)
            return r;
    }
    return 0;
}

static void rewrite_worker(void *arg)
{
    struct takeover *takeover = arg;
    struct mirror *mirror = takeover->mirror;
    size_t bytes = (size_t)PIECE_BLOCKS * BLOCK_SIZE;
    struct write_extent run;
    void *buffer;

    buffer = co_buffer_get(mirror->options.buffers, bytes);
    while (takeover->error == 0 && next_run(takeover, &run)) {
        int r = co_rewrite_run(takeover, run, buffer);

        if (r < 0)
            takeover->error = r;
    }
    buffer_put(mirror->options.buffers, buffer, bytes);
}

/* ---- slabs ---- */

/* Every in-sync column has reported; *ret_tail: one of them has records of the slab. */
static bool slab_is_sealed(const struct mirror *mirror, uint32_t slab, bool *ret_tail)
{
    *ret_tail = false;
    for (uint32_t i = 0; i < mirror->config->width; i++) {
        const struct feed *feed = mirror_feed(mirror, slab, i);

        if (!is_in_sync(mirror, slab, i))
            continue;
        if (!feed->sealed)
            return false;
        *ret_tail = *ret_tail || tail_has_slab(&feed->seal, slab);
    }
    return true;
}

static int co_rewrite_blocks(struct mirror *mirror, uint32_t slab)
{
    struct takeover takeover = {
        .mirror = mirror, .slab = slab, .took_older = mirror->slabs[slab].took_older};
    cleanup(freep) struct version *versions =
        calloc(mirror->config->slab_blocks, sizeof(*versions));

    if (!versions)
        return -ENOMEM;
    takeover.versions = versions;
    for (uint32_t i = 0; i < mirror->config->width; i++) {
        if (is_in_sync(mirror, slab, i) &&
            (!PLANTED(TAKEOVER_OWN_LOG) || feed_is_local(mirror_feed(mirror, slab, i))))
            takeover_each_record(mirror, slab, i, take_version, &takeover);
    }
    co_group_init(&takeover.workers);
    for (int i = 0; i < REWRITE_DEPTH; i++) {
        if (co_group_spawn(&takeover.workers, mirror->io, "rewrite", rewrite_worker, &takeover) < 0)
            break;
    }
    co_group_wait(&takeover.workers);
    mirror->slabs[slab].took_older = takeover.took_older; /* if it is to be done again */
    if (takeover.error == 0 && takeover.next_block < mirror->config->slab_blocks &&
        next_run(&takeover, &(struct write_extent){0}))
        return -ENOMEM; /* no worker could be started */
    if (takeover.error == 0)
        learn_requests(&takeover);
    return takeover.error;
}

static int co_rewrite_slab(struct mirror *mirror, uint32_t slab)
{
    return mirror->erasure ? co_parity_rewrite_slab(mirror, slab) : co_rewrite_blocks(mirror, slab);
}

static void slab_done(struct mirror *mirror, uint32_t slab)
{
    assert(!mirror->slabs[slab].ready);
    assert(mirror->slabs_waiting > 0);
    mirror->slabs[slab].rewriting = false;
    mirror->slabs[slab].ready = true;
    mirror->slabs_waiting--;
    co_cond_broadcast(&mirror->progress); /* of what is above the watermark */
    co_cond_broadcast(&mirror->changed);  /* before the next one, which may take long */
}

/* Takes over what can be. Returns true if the look was worth repeating: something was done. */
static bool co_take_slabs(struct mirror *mirror)
{
    bool progress = false;

    for (uint32_t slab = 0; slab < mirror->slab_count && !mirror->stopped; slab++) {
        bool tail;

        if (mirror->slabs[slab].ready || !vdisk_config_slab_allocated(mirror->config, slab))
            continue;
        if (!slab_is_sealed(mirror, slab, &tail))
            continue;
        SOMETIMES_IF(tail, "takeover: a slab has records to write again");
        mirror->slabs[slab].rewriting = true; /* also if it fails, and is done again */
        if (tail && PLANTED(TAKEOVER_SERVES_EARLY)) {
            mirror->slabs[slab].ready = true;
            co_cond_broadcast(&mirror->changed);
        }
        if (tail && !PLANTED(TAKEOVER_WRITES_NOTHING) && co_rewrite_slab(mirror, slab) < 0) {
            SOMETIMES_IF(!mirror->stopped,
                         "takeover: writing again fails half-way and is repeated");
            continue; /* again at the next change or in a while */
        }
        if (mirror->stopped)
            return false;
        if (PLANTED(TAKEOVER_SERVES_EARLY))
            mirror->slabs[slab].ready = false;
        slab_done(mirror, slab);
        progress = true;
    }
    return progress;
}

static void forget_tails(struct mirror *mirror)
{
    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);

        store_seal_done(&feed->seal);
        feed->seal = (struct store_seal){0};
    }
}

/* Here and not in mirror_new(), which could not take back a coroutine. */
static int start_feeds(struct mirror *mirror)
{
    mirror->started = true;
    list_for_each (node, &mirror->feeds) {
        int r = feed_start(list_entry(node, struct feed, node));

        if (r < 0)
            return r;
    }
    return 0;
}

void co_takeover_run(void *arg)
{
    struct mirror *mirror = arg;

    if (start_feeds(mirror) < 0)
        mirror_stop(mirror);
    while (!mirror->stopped && mirror->slabs_waiting > 0) {
        int r;

        evict_watch(mirror);
        if (co_take_slabs(mirror))
            continue;
        SOMETIMES("takeover: a slab waits for an in-sync column");
        r = co_mirror_wait(mirror, io_now_ns(mirror->io) + mirror->limits.propose_ns);
        if (r == -ECANCELED)
            mirror_stop(mirror);
    }
    forget_tails(mirror);
    if (!mirror->stopped)
        log_info(mirror->io, "mirror", "taken over",
                 "vdisk=%llu session=%llu rewritten_blocks=%llu",
                 (unsigned long long)mirror->vdisk.id, (unsigned long long)mirror->session,
                 (unsigned long long)mirror->rewritten_blocks.value);
}
