#include "tests/unit/fake_column.h"

#include "s2d/base/checksum.h"

struct fake_record {
    struct list node;
    struct record record;
    struct column_append *append; /* NULL: whoever sent it has gone */
    uint64_t due_ns;
    uint64_t sums[RECORD_BLOCKS_MAX];
    char data[]; /* of a RECORD_WRITE */
};

static struct fake_column *fake_of(struct column_store *store)
{
    return container_of(store, struct fake_column, base);
}

/* ---- contents ---- */

static struct fake_extent *extent_at(struct fake_column *fake, struct extent_ref where)
{
    struct fake_extent *extent = &fake->extents[where.extent];

    assert(where.extent < FAKE_EXTENTS);
    if (where.generation <= extent->generation)
        return extent;
    for (uint32_t i = 0; extent->blocks && i < fake->extent_blocks; i++)
        free(extent->blocks[i].data);
    free(extent->blocks);
    extent->blocks = calloc(fake->extent_blocks, sizeof(*extent->blocks));
    extent->generation = where.generation;
    assert(extent->blocks);
    return extent;
}

static bool is_of(const struct fake_record *record, struct extent_ref where, uint32_t block)
{
    return record->record.where.extent == where.extent &&
           record->record.where.generation == where.generation && block >= record->record.block &&
           block - record->record.block < record->record.count;
}

struct view {
    const char *data;
    uint64_t sum;
    struct log_position position;
};

/* As of a record; what is committed may be later. */
static struct view view_at(struct fake_column *fake, struct extent_ref where, uint32_t block,
                           struct log_position at)
{
    const struct fake_block *base = &extent_at(fake, where)->blocks[block];
    struct view view = {base->data, base->sum, base->position};

    list_for_each (node, &fake->log) {
        struct fake_record *record = list_entry(node, struct fake_record, node);
        uint32_t i = block - record->record.block;

        if (!is_of(record, where, block) || log_position_compare(record->record.position, at) > 0 ||
            log_position_compare(record->record.position, view.position) <= 0)
            continue;
        view.position = record->record.position;
        view.data = record->record.kind == RECORD_ZERO ? NULL : record->data + i * BLOCK_SIZE;
        view.sum = record->record.kind == RECORD_ZERO ? 0 : record->sums[i];
    }
    return view;
}

static struct view view_block(struct fake_column *fake, struct extent_ref where, uint32_t block)
{
    return view_at(fake, where, block, LOG_POSITION_NEWEST);
}

static void apply_record(struct fake_column *fake, struct fake_record *record, uint64_t stamp)
{
    struct fake_extent *extent = extent_at(fake, record->record.where);

    if (extent->generation != record->record.where.generation)
        return;
    for (uint32_t i = 0; i < record->record.count; i++) {
        struct fake_block *block = &extent->blocks[record->record.block + i];

        if (log_position_compare(record->record.position, block->position) <= 0)
            continue;
        free(block->data);
        block->data = NULL;
        block->sum = 0;
        if (record->record.kind == RECORD_WRITE) {
            block->data = malloc(BLOCK_SIZE);
            assert(block->data);
            memcpy(block->data, record->data + i * BLOCK_SIZE, BLOCK_SIZE);
            block->sum = record->sums[i];
        }
        block->position = record->record.position;
        block->stamp = stamp;
    }
}

/* Told with a message of `epoch`: what it covers is committed. */
static void learn(struct fake_column *fake, struct log_position watermark, uint64_t epoch)
{
    if (log_position_compare(watermark, fake->watermark) > 0) {
        fake->watermark = watermark;
        fake->told_before_drop += fake->stale_undropped;
    }
    list_for_each_safe (node, &fake->log) {
        struct fake_record *record = list_entry(node, struct fake_record, node);

        if (log_position_compare(record->record.position, fake->watermark) > 0)
            continue;
        apply_record(fake, record, epoch);
        list_remove(&record->node);
        free(record);
    }
}

/* ---- records ---- */

static void end_append(struct fake_column *fake, struct column_append *append, int result)
{
    append->result = result;
    list_push_back(&fake->ended, &append->node);
    io_queue(fake->io, &fake->ended_task);
}

static void call_ended(void *arg)
{
    struct fake_column *fake = arg;
    struct list *node;

    while ((node = list_pop_front(&fake->ended))) {
        struct column_append *append = list_entry(node, struct column_append, node);

        append->store.done(&append->store, append->result);
    }
}

static void make_durable(struct fake_column *fake, struct fake_record *record)
{
    struct log_position watermark = record->record.watermark;
    uint64_t epoch = record->record.epoch;

    list_remove(&record->node);
    fake->durable_seq = record->record.position.seq;
    (void)extent_at(fake, record->record.where);
    if (record->append)
        end_append(fake, record->append, 0);
    if (record->record.flags & RECORD_COPY) {
        apply_record(fake, record, record->record.epoch);
        free(record);
    } else {
        list_push_back(&fake->log, &record->node);
    }
    if (watermark.session != 0)
        learn(fake, watermark, epoch);
}

static void fake_tick(void *arg)
{
    struct fake_column *fake = arg;

    while (!list_empty(&fake->pending) && !fake->hang) {
        struct fake_record *first = list_first(&fake->pending, struct fake_record, node);

        if (first->due_ns > io_now_ns(fake->io)) {
            io_timer_arm(fake->io, &fake->timer, first->due_ns);
            return;
        }
        make_durable(fake, first);
    }
}

/* What is under way lands up to some record; those who wait hear `error`. */
static void settle(struct fake_column *fake, int error)
{
    while (!list_empty(&fake->pending)) {
        struct fake_record *first = list_first(&fake->pending, struct fake_record, node);

        if (first->append)
            end_append(fake, take_ptr(first->append), error);
        if (!fake->hang && io_random(fake->io) % 4 != 0) {
            make_durable(fake, first);
            continue;
        }
        while (!list_empty(&fake->pending)) {
            first = list_first(&fake->pending, struct fake_record, node);
            if (first->append)
                end_append(fake, take_ptr(first->append), error);
            list_remove(&first->node);
            free(first);
        }
    }
    fake->accepted_seq = fake->durable_seq;
}

static int judge(struct fake_column *fake, const struct store_append *append)
{
    const struct record *record = &append->record;

    if (fake->append_error)
        return fake->append_error;
    if (record->epoch < fake->sealed_epoch || record->position.session != fake->session)
        return -ESTALE;
    if (record->where.generation < fake->extents[record->where.extent].generation)
        return -ESTALE;
    if (record->prev_seq != fake->accepted_seq || record->position.seq <= record->prev_seq)
        return -EILSEQ;
    assert(record->block + record->count <= fake->extent_blocks);
    if (record->kind == RECORD_WRITE &&
        checksum_verify(append->data, record->count, record->vdisk, record->address,
                        append->sums) != record->count)
        return -EBADMSG;
    return 0;
}

static void fake_append(struct column_stream *stream, struct column_append *append)
{
    struct fake_column *fake = fake_of(stream->store);
    const struct record *from = &append->store.record;
    size_t bytes = from->kind == RECORD_WRITE ? (size_t)from->count * BLOCK_SIZE : 0;
    struct fake_record *record;
    int r = stream->attached ? judge(fake, &append->store) : -ECANCELED;

    append->stream = stream;
    if (r < 0) {
        end_append(fake, append, r);
        return;
    }
    record = malloc(sizeof(*record) + bytes);
    assert(record);
    record->record = *from;
    record->append = append;
    record->due_ns = io_now_ns(fake->io) + fake->latency_ns;
    if (bytes > 0) {
        memcpy(record->data, append->store.data, bytes);
        memcpy(record->sums, append->store.sums, from->count * sizeof(uint64_t));
    }
    fake->sealed_epoch = MAX(fake->sealed_epoch, from->epoch);
    fake->accepted_seq = from->position.seq;
    list_push_back(&fake->pending, &record->node);
    if (!io_timer_armed(&fake->timer))
        io_timer_arm(fake->io, &fake->timer, record->due_ns);
}

static void fake_detach(struct column_stream *stream)
{
    struct fake_column *fake;

    if (!stream->attached)
        return;
    fake = fake_of(stream->store);
    stream->attached = false;
    fake->stream = NULL;
    settle(fake, -ECANCELED);
}

/* ---- calls ---- */

static int co_delay(struct fake_column *fake)
{
    int r;

    if (!fake->base.reachable)
        return -ENOTCONN;
    r = co_sleep_ns(fake->latency_ns);
    if (r < 0)
        return r;
    return fake->base.reachable ? 0 : -ENOTCONN;
}

static void report_tail(struct fake_column *fake, struct store_seal *seal)
{
    size_t count = 0;

    list_for_each (node, &fake->log)
        count++;
    seal->tail = calloc(MAX(count, (size_t)1), sizeof(*seal->tail));
    assert(seal->tail);
    list_for_each (node, &fake->log) {
        const struct record *record = &list_entry(node, struct fake_record, node)->record;

        seal->tail[seal->tail_count++] = (struct store_tail_record){
            .position = record->position,
            .where = record->where,
            .slab = record->slab,
            .column = record->column,
            .kind = record->kind,
            .flags = record->flags & ~(uint32_t)RECORD_VERIFIED,
            .block = record->block,
            .count = record->count,
            .client_session = record->client_session,
            .client_number = record->client_number,
        };
    }
}

static int fake_seal(struct column_stream *stream, uint64_t epoch, uint64_t session,
                     struct store_seal *ret_seal)
{
    struct fake_column *fake = fake_of(stream->store);
    int r = co_delay(fake);

    fake->seals++;
    if (r < 0)
        return r;
    if (epoch < fake->sealed_epoch || session < fake->session) {
        ret_seal->sealed_epoch = fake->sealed_epoch;
        return -ESTALE;
    }
    if (fake->append_error == -EIO)
        return -EIO;
    if (fake->stream) { /* another owner's: fenced */
        fake->stream->attached = false;
        settle(fake, -ESTALE);
    }
    settle(fake, -ECANCELED);
    if (session > fake->session)
        fake->durable_seq = 0;
    fake->sealed_epoch = epoch;
    fake->session = session;
    fake->accepted_seq = fake->durable_seq;
    fake->stream = stream;
    stream->attached = true;
    *ret_seal = (struct store_seal){
        .sealed_epoch = epoch,
        .watermark = fake->watermark,
        .durable = {session, fake->durable_seq},
    };
    report_tail(fake, ret_seal);
    return 0;
}

static int show_epoch(struct fake_column *fake, uint64_t epoch)
{
    if (epoch < fake->sealed_epoch)
        return -ESTALE;
    fake->sealed_epoch = epoch;
    return 0;
}

static int fake_mark(struct column_store *store, uint64_t vdisk, uint64_t epoch,
                     struct log_position watermark, bool durable)
{
    struct fake_column *fake = fake_of(store);
    int r = co_delay(fake);

    (void)vdisk;
    if (r == 0)
        r = show_epoch(fake, epoch);
    if (r < 0)
        return r;
    learn(fake, watermark, epoch);
    if (durable)
        fake->marked = watermark;
    return 0;
}

static int fake_read_at(struct column_store *store, uint64_t vdisk, struct extent_ref where,
                        uint32_t block, uint32_t count, uint64_t address, struct log_position at,
                        void *buffer, uint64_t *ret_sums, struct block_set *ret_bad)
{
    struct fake_column *fake = fake_of(store);
    int r = co_delay(fake);

    if (r == 0 && fake->read_ns > 0)
        r = co_sleep_ns(fake->read_ns);
    if (r == 0 && !fake->base.reachable)
        r = -ENOTCONN;
    if (r == 0)
        r = fake->read_error;
    if (r < 0)
        return r;
    if (where.generation < fake->extents[where.extent].generation)
        return -ESTALE;
    for (uint32_t i = 0; i < count; i++) {
        struct view view = view_at(fake, where, block + i, at);
        char *to = (char *)buffer + (size_t)i * BLOCK_SIZE;

        if (view.data)
            memcpy(to, view.data, BLOCK_SIZE);
        else
            memset(to, 0, BLOCK_SIZE);
        if (ret_sums)
            ret_sums[i] = view.sum;
        if (checksum_verify(to, 1, vdisk, address + i, &view.sum) == 1)
            continue;
        r = -EBADMSG;
        if (ret_bad)
            ret_bad->bits[i / 64] |= UINT64_C(1) << (i % 64);
    }
    if (fake->garbled > 0 && fake->garbled < count)
        ((char *)buffer)[(size_t)fake->garbled * BLOCK_SIZE] ^= 1;
    return r;
}

static int fake_read(struct column_store *store, uint64_t vdisk, struct extent_ref where,
                     uint32_t block, uint32_t count, uint64_t address, void *buffer,
                     uint64_t *ret_sums, struct block_set *ret_bad)
{
    return fake_read_at(store, vdisk, where, block, count, address, LOG_POSITION_NEWEST, buffer,
                        ret_sums, ret_bad);
}

static void end_turn(void *arg)
{
    struct fake_column *fake = arg;

    fake->sums_asked = 0;
}

static int fake_checksums(struct column_store *store, uint64_t vdisk, struct extent_ref where,
                          uint32_t block, uint32_t count, uint64_t *ret_sums, uint64_t *ret_unknown)
{
    struct fake_column *fake = fake_of(store);
    int r = fake->sums_in_ram ? 0 : co_delay(fake);

    (void)vdisk;
    (void)ret_unknown;
    if (fake->sums_asked++ == 0)
        io_defer(fake->io, &fake->turn_task);
    fake->sums_asked_max = MAX(fake->sums_asked_max, fake->sums_asked);
    for (uint32_t i = 0; r == 0 && i < count; i++)
        ret_sums[i] = view_block(fake, where, block + i).sum;
    return r;
}

static bool listed(const struct fake_record *record, const struct extent_ref *columns, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (record->record.where.extent == columns[i].extent &&
            record->record.where.generation == columns[i].generation)
            return true;
    }
    return false;
}

static int fake_drop_tail(struct column_store *store, uint64_t vdisk, uint64_t epoch,
                          const struct extent_ref *columns, size_t count)
{
    struct fake_column *fake = fake_of(store);
    int r = co_delay(fake);

    (void)vdisk;
    if (r == 0)
        r = show_epoch(fake, epoch);
    if (r < 0)
        return r;
    fake->drops++;
    fake->stale_undropped = false;
    list_for_each_safe (node, &fake->log) {
        struct fake_record *record = list_entry(node, struct fake_record, node);

        if (!listed(record, columns, count))
            continue;
        for (uint32_t i = 0; i < record->record.count; i++)
            extent_at(fake, record->record.where)->blocks[record->record.block + i].compare = true;
        list_remove(&record->node);
        free(record);
    }
    return 0;
}

static int fake_compare_set(struct column_store *store, uint64_t vdisk, struct extent_ref where,
                            uint64_t since_epoch, uint32_t extent_blocks, uint64_t *bitmap)
{
    struct fake_column *fake = fake_of(store);
    int r = co_delay(fake);

    (void)vdisk;
    if (r < 0)
        return r;
    assert(extent_blocks <= fake->extent_blocks); /* a column of parity has fewer */
    for (uint32_t i = 0; i < extent_blocks; i++) {
        const struct fake_block *block = &extent_at(fake, where)->blocks[i];
        bool set = since_epoch != 0 ? block->stamp >= since_epoch : block->compare;

        list_for_each (node, &fake->log) {
            set = set || is_of(list_entry(node, struct fake_record, node), where, i);
        }
        if (set)
            bitmap[i / 64] |= UINT64_C(1) << (i % 64);
    }
    return 0;
}

static int fake_clear_compare(struct column_store *store, uint64_t vdisk, uint64_t epoch,
                              const struct extent_ref *columns, size_t count)
{
    struct fake_column *fake = fake_of(store);
    int r = co_delay(fake);

    (void)vdisk;
    if (r == 0)
        r = show_epoch(fake, epoch);
    for (size_t i = 0; r == 0 && i < count; i++) {
        for (uint32_t j = 0; j < fake->extent_blocks; j++)
            extent_at(fake, columns[i])->blocks[j].compare = false;
    }
    fake->clears += r == 0;
    return r;
}

static const struct column_store_ops fake_ops = {
    .co_seal = fake_seal,
    .append = fake_append,
    .detach = fake_detach,
    .co_mark = fake_mark,
    .co_read = fake_read,
    .co_read_at = fake_read_at,
    .co_checksums = fake_checksums,
    .co_drop_tail = fake_drop_tail,
    .co_compare_set = fake_compare_set,
    .co_clear_compare = fake_clear_compare,
};

/* ---- for tests ---- */

void fake_column_init(struct fake_column *fake, struct io *io, uint64_t node, uint64_t disk,
                      bool local, uint64_t vdisk, uint32_t extent_blocks)
{
    *fake = (struct fake_column){
        .base = {&fake_ops, node, disk, local, true},
        .io = io,
        .vdisk = vdisk,
        .extent_blocks = extent_blocks,
        .latency_ns = 100 * US,
    };
    list_init(&fake->log);
    list_init(&fake->pending);
    list_init(&fake->ended);
    io_timer_init(&fake->timer, fake_tick, fake);
    io_task_init(&fake->ended_task, call_ended, fake);
    io_task_init(&fake->turn_task, end_turn, fake);
}

void fake_column_done(struct fake_column *fake)
{
    io_task_cancel(&fake->turn_task);
    assert(list_empty(&fake->ended));
    settle(fake, -ECANCELED);
    io_timer_disarm(fake->io, &fake->timer);
    while (!list_empty(&fake->log)) {
        struct fake_record *record = list_first(&fake->log, struct fake_record, node);

        list_remove(&record->node);
        free(record);
    }
    for (uint32_t i = 0; i < FAKE_EXTENTS; i++) {
        for (uint32_t j = 0; fake->extents[i].blocks && j < fake->extent_blocks; j++)
            free(fake->extents[i].blocks[j].data);
        free(fake->extents[i].blocks);
    }
}

void fake_column_set_reachable(struct fake_column *fake, bool reachable)
{
    if (fake->base.reachable == reachable)
        return;
    fake->base.reachable = reachable;
    if (reachable)
        return;
    if (fake->stream)
        take_ptr(fake->stream)->attached = false;
    settle(fake, -ENOTCONN);
}

void fake_column_set_hang(struct fake_column *fake, bool hang)
{
    fake->hang = hang;
    if (!hang)
        io_timer_arm(fake->io, &fake->timer, io_now_ns(fake->io));
}

const char *fake_column_peek(struct fake_column *fake, struct extent_ref where, uint32_t block)
{
    return view_block(fake, where, block).data;
}

void fake_column_rot(struct fake_column *fake, struct extent_ref where, uint32_t block)
{
    char *data = (char *)view_block(fake, where, block).data;

    assert(data);
    data[100] ^= 0x10;
}

void fake_column_plant(struct fake_column *fake, struct extent_ref where, uint32_t slab,
                       uint16_t column, uint32_t block, struct log_position position, char fill,
                       uint64_t address)
{
    struct fake_record *record = calloc(1, sizeof(*record) + BLOCK_SIZE);

    assert(record);
    (void)extent_at(fake, where);
    memset(record->data, fill, BLOCK_SIZE);
    checksum_blocks(record->data, 1, fake->vdisk, address, record->sums);
    record->record = (struct record){
        .vdisk = fake->vdisk,
        .where = where,
        .slab = slab,
        .column = column,
        .kind = RECORD_WRITE,
        .block = block,
        .count = 1,
        .address = address,
        .epoch = position.session,
        .position = position,
    };
    list_push_back(&fake->log, &record->node);
    fake->sealed_epoch = MAX(fake->sealed_epoch, position.session);
    fake->session = MAX(fake->session, position.session);
    fake->durable_seq = MAX(fake->durable_seq, position.seq);
}

void fake_column_trims(struct fake_column *fake, uint32_t count)
{
    struct fake_record *last = list_entry(fake->log.prev, struct fake_record, node);

    last->record.kind = RECORD_ZERO;
    last->record.count = count;
}

void fake_column_touched(struct fake_column *fake, uint32_t touched)
{
    struct fake_record *last = list_entry(fake->log.prev, struct fake_record, node);

    last->record.flags |= touched << RECORD_TOUCHED_SHIFT;
}

void fake_column_sign(struct fake_column *fake, struct client_request request)
{
    struct fake_record *last = list_entry(fake->log.prev, struct fake_record, node);

    last->record.client_session = request.session;
    last->record.client_number = request.number;
}
