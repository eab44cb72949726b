/* The writing half of the log. Two batches take turns: one is in flight, the other gathers. A batch
 * gets its position when it leaves; until then only its size counts. Items that fail for reasons of
 * their own travel through the same lists without taking space, so that results come in the order
 * of the calls. */
#include "cache-tier/log_waiting.h"
#include "pool/disk.h"
#include "s2d/base/checksum.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/metrics.h"
#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"

#define GATHER_BLOCKS_MAX 256 /* data of a batch; a single larger item goes alone */
#define GATHER_IOVS 512
#define RESERVE_FRACTION 8

struct batch {
    uint8_t *header; /* LOG_HEADER_BLOCKS_MAX blocks; behind header_bytes all zero */
    uint32_t header_bytes;
    uint32_t data_blocks;
    uint32_t owed_blocks;
    uint32_t record_count;
    uint32_t iov_count;
    uint64_t position;
    struct list items; /* struct log_item */
    struct iovec iov[1 + GATHER_IOVS];
};

struct length { /* of a batch */
    uint16_t blocks, owed;
};
static_assert(LOG_HEADER_BLOCKS_MAX + LOG_BATCH_BLOCKS_MAX <= UINT16_MAX, "what a reader accepts");
static_assert(LOG_ITEM_HEADER_BYTES_MAX / sizeof(struct log_data_record) * LOG_ITEM_OWED_MAX <=
                  UINT16_MAX,
              "a batch full of records that owe");

struct log {
    struct log_region region;
    struct io *io;
    uint64_t ring_blocks;
    uint32_t gather_blocks_max;
    uint32_t reserve_blocks;

    uint64_t tail_position, tail_sequence;
    uint64_t durable_head; /* behind the last durable batch */
    uint64_t next_position, next_sequence;
    uint64_t owed_blocks; /* by the batches from the tail on, what is in flight included */
    uint64_t images_done, copies_done;
    uint64_t anchor_generation;
    uint32_t incarnation;
    int error;
    bool device_failed;
    bool held;

    struct batch batches[2];
    struct batch *gather, *flight; /* flight: NULL when idle */
    bool close_batch;
    struct log_waiting waiting;
    log_pace_fn *pace;
    void *pace_arg;
    struct io_timer pace_timer;
    struct io_op write_op;
    struct io_task commit_task;
    struct co *drainer;
    struct length *lengths; /* by ring block: of the batch that begins there */
    struct log_figures figures;
    struct histogram *latency_ns, *wait_ns;
    uint64_t left_ns; /* when the batch in flight did */

    void (*on_error)(void *arg, int error);
    void *on_error_arg;
    void (*on_progress)(void *arg);
    void *on_progress_arg;
};

/* ---- accessors ---- */

uint64_t log_ring_blocks(const struct log *log)
{
    return log->ring_blocks;
}

uint64_t log_tail(const struct log *log)
{
    return log->tail_position;
}

uint64_t log_head(const struct log *log)
{
    return log->durable_head;
}

uint64_t log_used_blocks(const struct log *log)
{
    return log->next_position - log->tail_position;
}

uint64_t log_owed_blocks(const struct log *log)
{
    return log->owed_blocks;
}

uint64_t log_last_sequence(const struct log *log)
{
    return log->flight ? log->next_sequence - 2 : log->next_sequence - 1;
}

uint64_t log_anchor_generation(const struct log *log)
{
    return log->anchor_generation;
}

uint64_t log_block_offset(const struct log *log, uint32_t block)
{
    assert(block < log->ring_blocks);
    return log_region_offset(&log->region, block);
}

int log_error(const struct log *log)
{
    return log->error;
}

struct log_figures log_figures(const struct log *log)
{
    return log->figures;
}

void log_set_latency(struct log *log, struct histogram *latency_ns, struct histogram *wait_ns)
{
    log->latency_ns = latency_ns;
    log->wait_ns = wait_ns;
}

void log_set_error_handler(struct log *log, void (*fn)(void *arg, int error), void *arg)
{
    log->on_error = fn;
    log->on_error_arg = arg;
}

void log_set_progress_handler(struct log *log, void (*fn)(void *arg), void *arg)
{
    log->on_progress = fn;
    log->on_progress_arg = arg;
}

static struct length batch_length(const struct log *log, uint64_t position)
{
    struct length length = log->lengths[log_block_of(log, position)];

    assert(position >= log->tail_position && position < log->durable_head);
    assert(length.blocks > 0);
    return length;
}

uint32_t log_batch_blocks(const struct log *log, uint64_t position)
{
    return batch_length(log, position).blocks;
}

uint32_t log_batch_owed(const struct log *log, uint64_t position)
{
    return batch_length(log, position).owed;
}

void log_note_batch(struct log *log, uint64_t position, uint32_t blocks)
{
    assert(blocks <= UINT16_MAX);
    log->lengths[log_block_of(log, position)] = (struct length){.blocks = blocks};
}

void log_note_owed(struct log *log, uint64_t position, uint32_t blocks)
{
    log->lengths[log_block_of(log, position)].owed += blocks;
    log->owed_blocks += blocks;
}

void log_set_pace(struct log *log, log_pace_fn *fn, void *arg)
{
    log->pace = fn;
    log->pace_arg = arg;
}

/* ---- anchors and checksums ---- */

static uint32_t crc_without_field(const void *data, size_t length, size_t field)
{
    static const uint32_t zero;
    uint32_t crc = crc32c(data, field);

    crc = crc32c_more(crc, &zero, sizeof(zero));
    return crc32c_more(crc, (const char *)data + field + sizeof(zero),
                       length - field - sizeof(zero));
}

uint32_t log_header_crc(const struct log_batch_header *header)
{
    return crc_without_field(header, header->header_bytes, offsetof(struct log_batch_header, crc));
}

void log_anchor_finish(struct log_anchor *anchor)
{
    anchor->magic = LOG_ANCHOR_MAGIC;
    anchor->version = LOG_FORMAT_VERSION;
    anchor->crc = crc_without_field(anchor, sizeof(*anchor), offsetof(struct log_anchor, crc));
}

int log_anchor_check(const struct log_anchor *anchor, const uint8_t log_uuid[16], unsigned copy)
{
    if (anchor->magic != LOG_ANCHOR_MAGIC || anchor->version != LOG_FORMAT_VERSION ||
        anchor->crc != crc_without_field(anchor, sizeof(*anchor), offsetof(struct log_anchor, crc)))
        return -EBADMSG;
    if (memcmp(anchor->log_uuid, log_uuid, sizeof(anchor->log_uuid)) != 0 || anchor->copy != copy)
        return -EBADMSG;
    return 0;
}

int co_log_write_anchors(const struct log_region *region, const struct log_start *start)
{
    cleanup(freep) struct log_anchor *anchor = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);

    if (!anchor)
        return -ENOMEM;
    for (unsigned copy = 0; copy < LOG_ANCHOR_BLOCKS; copy++) {
        int r;

        memset(anchor, 0, sizeof(*anchor));
        memcpy(anchor->log_uuid, region->uuid, sizeof(anchor->log_uuid));
        anchor->generation = start->anchor_generation;
        anchor->tail_position = start->tail_position;
        anchor->tail_sequence = start->tail_sequence;
        anchor->head_position = start->head_position;
        anchor->head_sequence = start->head_sequence;
        anchor->images_done = start->images_done;
        anchor->copies_done = start->copies_done;
        anchor->incarnation = start->incarnation;
        anchor->copy = copy;
        log_anchor_finish(anchor);
        r = co_io_write(region->file, anchor, BLOCK_SIZE,
                        region->offset + (uint64_t)copy * BLOCK_SIZE, IO_WRITE_DSYNC);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- gathering ---- */

static uint32_t batch_blocks(const struct batch *batch, uint32_t more_header, uint32_t more_data)
{
    return DIV_ROUND_UP(batch->header_bytes + more_header, BLOCK_SIZE) + batch->data_blocks +
           more_data;
}

/* Blocks that a batch of this size takes from the ring at the present head, its pad included. */
static uint64_t room_needed(const struct log *log, uint32_t blocks)
{
    uint64_t to_end = log->ring_blocks - log->next_position % log->ring_blocks;

    return blocks <= to_end ? blocks : to_end + blocks;
}

static uint64_t room_limit(const struct log *log, enum log_class class)
{
    switch (class) {
    case LOG_NORMAL:
        return log->ring_blocks - log->reserve_blocks;
    case LOG_AGAIN:
        return log->ring_blocks - (PLANTED(AGAIN_TAKES_ALL) ? 0 : log->reserve_blocks / 2);
    default:
        return log->ring_blocks;
    }
}

/* What a batch of this size owes takes part in what others may fill; a LOG_RESERVED item may be
 * what the room is owed for. */
static bool has_room(const struct log *log, uint32_t blocks, uint32_t owed, enum log_class class)
{
    uint64_t taken = log_used_blocks(log) + room_needed(log, blocks);

    if (class != LOG_RESERVED)
        taken += log->owed_blocks + owed;
    return taken <= room_limit(log, class);
}

static bool item_has_room(const struct log *log, const struct log_item *item, enum log_class class)
{
    const struct batch *gather = log->gather;

    return has_room(log, batch_blocks(gather, item->header_bytes, item->data_blocks),
                    gather->owed_blocks + item->owed_blocks, class);
}

bool log_is_full(const struct log *log)
{
    for (int class = LOG_NORMAL; class <= LOG_AGAIN; class ++) {
        const struct log_item *first = log_waiting_first(&log->waiting, class);

        if (first && first->result == 0 && !item_has_room(log, first, class))
            return true;
    }
    return false;
}

static bool batch_accepts(const struct log *log, const struct log_item *item)
{
    const struct batch *gather = log->gather;

    if (gather->header_bytes + item->header_bytes > LOG_HEADER_BLOCKS_MAX * BLOCK_SIZE)
        return false;
    if (gather->owed_blocks > 0 && gather->owed_blocks + item->owed_blocks > log->gather_blocks_max)
        return false; /* a checkpoint takes whole batches */
    if (item->data_blocks == 0 || gather->data_blocks == 0)
        return true; /* alone it may be larger than the limit */
    return gather->iov_count < ARRAY_SIZE(gather->iov) &&
           gather->data_blocks + item->data_blocks <= log->gather_blocks_max;
}

/* Its turn has come, at the log's pace; if not, it is asked again in time. */
static bool is_its_turn(struct log *log, const struct log_item *item, enum log_class class)
{
    uint32_t gathered = batch_blocks(log->gather, 0, 0);
    uint32_t blocks = batch_blocks(log->gather, item->header_bytes, item->data_blocks);
    uint64_t taken = log_used_blocks(log) + log->owed_blocks + log->gather->owed_blocks;
    uint64_t ask_ns;

    if (log->gather->record_count == 0)
        gathered = 0; /* it pays for the header */
    blocks += item->owed_blocks;
    if (class != LOG_NORMAL || !log->pace || blocks == gathered)
        return true;
    ask_ns = log->pace(log->pace_arg, room_limit(log, class) - taken - gathered, blocks - gathered);
    if (ask_ns > 0)
        io_timer_arm(log->io, &log->pace_timer, ask_ns);
    return ask_ns == 0;
}

/* Gives the item its place in the batch that gathers. False: not now. */
static bool item_place(struct log *log, struct log_item *item, enum log_class class)
{
    struct batch *gather = log->gather;

    if (item->result == 0) {
        if (!batch_accepts(log, item) || !item_has_room(log, item, class) ||
            !is_its_turn(log, item, class))
            return false;
        if (!item->ops->encode(item, gather->header + gather->header_bytes))
            item->result = -ECANCELED;
    }
    if (item->result == 0) {
        item->header_offset = gather->header_bytes;
        gather->header_bytes += item->header_bytes;
        gather->owed_blocks += item->owed_blocks;
        gather->record_count++;
        if (item->data_blocks > 0) {
            gather->iov[gather->iov_count].iov_base = (void *)item->data;
            gather->iov[gather->iov_count++].iov_len = (size_t)item->data_blocks * BLOCK_SIZE;
            gather->data_blocks += item->data_blocks;
        }
    }
    list_push_back(&gather->items, &item->node);
    return true;
}

static void commit_soon(struct log *log)
{
    if (!log->flight)
        io_defer(log->io, &log->commit_task);
}

static void note_turn(struct log *log, const struct log_item *item)
{
    log_waiting_went(&log->waiting, item);
    if (log->wait_ns && item->result == 0)
        histogram_add(log->wait_ns, io_now_ns(log->io) - item->waits_since_ns);
}

static void admit_waiting(struct log *log, enum log_class class)
{
    struct log_item *item;

    while ((item = log_waiting_first(&log->waiting, class)) != NULL) {
        if (class == LOG_NORMAL && log->held && item->result == 0)
            return;
        list_remove(&item->node);
        if (!item_place(log, item, class)) {
            list_push_front(&log->waiting.items[class], &item->node);
            return;
        }
        if (class == LOG_NORMAL)
            note_turn(log, item);
        commit_soon(log);
    }
}

static void admit(struct log *log)
{
    for (int class = LOG_CLASSES - 1; class >= 0; class --) {
        admit_waiting(log, class);
        if (!log_waiting_empty(&log->waiting, class))
            return;
    }
}

static void pace_came(void *arg)
{
    admit(arg);
}

static bool must_wait(const struct log *log, enum log_class class)
{
    for (int above = class; above < LOG_CLASSES; above++) {
        if (!log_waiting_empty(&log->waiting, above))
            return true;
    }
    return class == LOG_NORMAL && log->held;
}

static void item_queue(struct log *log, struct log_item *item, enum log_class class)
{
    if (log->error != 0 && item->result == 0)
        item->result = log->error;
    if (must_wait(log, class) || !item_place(log, item, class)) {
        SOMETIMES_IF(!has_room(log, 1, 0, class), "log: full, appends wait");
        item->waits_since_ns = io_now_ns(log->io);
        log_waiting_push(&log->waiting, item, class);
        admit(log); /* its flow's turn may be before all that wait; and what was turned away goes by
                     */
    }
    commit_soon(log);
}

void log_append(struct log *log, struct log_item *item, enum log_class class)
{
    assert(item->header_bytes % 8 == 0);
    assert(item->header_bytes <= LOG_ITEM_HEADER_BYTES_MAX);
    assert(item->data_blocks <= LOG_BATCH_BLOCKS_MAX - LOG_HEADER_BLOCKS_MAX);
    assert(item->owed_blocks <= LOG_ITEM_OWED_MAX);
    item->result = 0;
    item_queue(log, item, class);
}

void log_reject(struct log *log, struct log_item *item, int result)
{
    assert(result != 0);
    item->result = result;
    item_queue(log, item, LOG_NORMAL);
}

static void reject_class(struct log *log, enum log_class class, log_match_fn *match, void *arg,
                         int result)
{
    list_for_each_safe (node, &log->waiting.items[class]) {
        struct log_item *item = list_entry(node, struct log_item, node);

        if (!match(arg, item))
            continue;
        if (item->result == 0)
            item->result = result;
        list_remove(&item->node);
        if (class == LOG_NORMAL)
            log_waiting_gave_up(item);
        list_push_back(&log->gather->items, &item->node);
        commit_soon(log);
    }
}

void log_reject_waiting(struct log *log, log_match_fn *match, void *arg, int result)
{
    for (int class = LOG_CLASSES - 1; class >= 0; class --)
        reject_class(log, class, match, arg, result);
    admit(log); /* what stood behind them may go now */
}

bool log_any_waiting(const struct log *log, log_match_fn *match, void *arg)
{
    list_for_each (node, &log->waiting.items[LOG_NORMAL]) {
        if (match(arg, list_entry(node, struct log_item, node)))
            return true;
    }
    return false;
}

/* ---- flying ---- */

static void batch_reset(struct batch *batch)
{
    memset(batch->header, 0, ALIGN_UP(batch->header_bytes, BLOCK_SIZE));
    batch->header_bytes = sizeof(struct log_batch_header);
    batch->data_blocks = 0;
    batch->owed_blocks = 0;
    batch->record_count = 0;
    batch->iov_count = 1;
}

static void header_fill(struct log *log, struct log_batch_header *header)
{
    header->magic = LOG_BATCH_MAGIC;
    header->version = LOG_FORMAT_VERSION;
    memcpy(header->log_uuid, log->region.uuid, sizeof(header->log_uuid));
    header->sequence = log->next_sequence;
    header->position = log->next_position;
    header->durable_through = log->next_sequence - 1;
    header->tail_position = log->tail_position;
    header->tail_sequence = log->tail_sequence;
    header->images_done = log->images_done;
    header->copies_done = log->copies_done;
    header->incarnation = log->incarnation;
    header->crc = log_header_crc(header);
}

static void batch_write(struct log *log, struct batch *batch)
{
    batch->position = log->next_position;
    log->next_sequence++;
    log->flight = batch;
    log->left_ns = io_clock_ns(log->io);
    io_file_writev(log->region.file, &log->write_op, batch->iov, batch->iov_count,
                   log_block_offset(log, log_block_of(log, batch->position)),
                   PLANTED(LOG_NOT_SYNCED) ? 0 : IO_WRITE_DSYNC);
}

/* A batch that only says: the ring goes on at its start. It borrows the header of the one that is
 * to follow: nothing gathers into it meanwhile, for pads fly alone. */
static void pad_leave(struct log *log, uint32_t to_end)
{
    struct batch *pad = log->gather == &log->batches[0] ? &log->batches[1] : &log->batches[0];
    struct log_batch_header *header = (struct log_batch_header *)pad->header;

    SOMETIMES("log: a pad ends a lap");
    assert(list_empty(&pad->items));
    batch_reset(pad);
    header->header_bytes = sizeof(*header);
    header->header_blocks = 1;
    header->data_blocks = to_end - 1;
    header->flags = LOG_BATCH_PAD;
    header_fill(log, header);
    pad->data_blocks = to_end - 1;
    pad->iov[0].iov_base = pad->header;
    pad->iov[0].iov_len = BLOCK_SIZE;
    batch_write(log, pad);
    log->next_position += to_end;
}

static void batch_leave(struct log *log)
{
    struct batch *batch = log->gather;
    struct log_batch_header *header = (struct log_batch_header *)batch->header;
    uint32_t header_blocks = DIV_ROUND_UP(batch->header_bytes, BLOCK_SIZE);

    header->header_bytes = batch->header_bytes;
    header->header_blocks = header_blocks;
    header->data_blocks = batch->data_blocks;
    header->record_count = batch->record_count;
    header_fill(log, header);
    batch->iov[0].iov_base = batch->header;
    batch->iov[0].iov_len = (size_t)header_blocks * BLOCK_SIZE;
    batch_write(log, batch);
    log->next_position += header_blocks + batch->data_blocks;
    log->owed_blocks += batch->owed_blocks;
    log->gather = batch == &log->batches[0] ? &log->batches[1] : &log->batches[0];
    batch_reset(log->gather);
    admit(log);
}

static void items_done(struct log *log, struct list *items, uint64_t batch_position,
                       uint64_t data_position, int result)
{
    struct list *node;

    while ((node = list_pop_front(items)) != NULL) {
        struct log_item *item = list_entry(node, struct log_item, node);

        if (item->result == 0) {
            item->result = result;
            item->batch_position = batch_position;
            item->data_position = data_position;
            data_position += item->data_blocks;
            log->figures.items++;
        }
        item->ops->done(item, item->result);
    }
}

bool log_idle(const struct log *log)
{
    for (int class = 0; class < LOG_CLASSES; class ++) {
        if (!log_waiting_empty(&log->waiting, class))
            return false;
    }
    return log_quiet(log);
}

static void wake_drainer(struct log *log)
{
    if (log->drainer && log_idle(log)) {
        co_wake(log->drainer);
        log->drainer = NULL;
    }
}

/* At the end of a turn, with nothing in flight. */
static void log_commit(void *arg)
{
    struct log *log = arg;
    struct batch *gather = log->gather;
    uint32_t to_end = log->ring_blocks - log->next_position % log->ring_blocks;
    struct list rejected;

    if (log->flight)
        return;
    if (gather->record_count > 0 || log->close_batch) {
        if (batch_blocks(gather, 0, 0) > to_end) {
            pad_leave(log, to_end);
            return;
        }
        log->close_batch = false;
        batch_leave(log);
        return;
    }
    /* nothing to write: only items that were turned away */
    list_init(&rejected);
    list_splice(&gather->items, &rejected);
    items_done(log, &rejected, 0, 0, 0);
    wake_drainer(log);
}

static void batch_landed(struct log *log, struct batch *batch, int result)
{
    uint32_t header_blocks = DIV_ROUND_UP(batch->header_bytes, BLOCK_SIZE);
    uint32_t blocks = header_blocks + batch->data_blocks;
    uint64_t position = batch->position;
    struct list items;

    list_init(&items);
    list_splice(&batch->items, &items);
    if (result == 0) {
        log->durable_head = position + blocks;
        log_note_batch(log, position, blocks);
        log->lengths[log_block_of(log, position)].owed = batch->owed_blocks;
        log->figures.batches++;
        log->figures.blocks += blocks;
    }
    items_done(log, &items, position, position + header_blocks, result);
    if (result == 0 && log->on_progress)
        log->on_progress(log->on_progress_arg);
}

static void write_done(struct io_op *op, int result)
{
    struct log *log = container_of(op, struct log, write_op);
    struct batch *batch = log->flight;

    log->flight = NULL;
    if (log->latency_ns)
        histogram_add(log->latency_ns, io_clock_ns(log->io) - log->left_ns);
    if (result >= 0 && log->error == 0) {
        batch_landed(log, batch, 0);
    } else {
        log_note_device(log, result);
        if (log->error == 0)
            log_fail(log, result < 0 ? result : log->error);
        batch_landed(log, batch, log->error);
    }
    admit(log);
    if (!list_empty(&log->gather->items) || log->close_batch)
        commit_soon(log);
    wake_drainer(log);
}

/* ---- failing and draining ---- */

static void fail_list(struct list *items, int error)
{
    list_for_each (node, items) {
        struct log_item *item = list_entry(node, struct log_item, node);

        if (item->result == 0)
            item->result = error;
    }
}

void log_fail(struct log *log, int error)
{
    assert(error < 0);
    if (log->error != 0)
        return;
    log->error = error;
    log->close_batch = false;
    batch_reset(log->gather);
    log_waiting_drain(&log->waiting, &log->gather->items);
    fail_list(&log->gather->items, error);
    if (!list_empty(&log->gather->items))
        commit_soon(log);
    if (log->on_error)
        log->on_error(log->on_error_arg, error);
}

void log_note_device(struct log *log, int error)
{
    log->device_failed |= error < 0 && error != -ECANCELED;
}

bool log_device_failed(const struct log *log)
{
    return log->device_failed;
}

void log_hold(struct log *log, bool held)
{
    log->held = held;
    if (!held)
        admit(log);
}

bool log_quiet(const struct log *log)
{
    return !log->flight && list_empty(&log->gather->items) && !log->close_batch;
}

void log_hand_over(struct log *from, struct log *to)
{
    assert(!from->flight);
    assert(from->gather->record_count == 0 && !from->close_batch);
    list_splice(&from->gather->items, &to->gather->items); /* turned away in this very turn */
    if (!list_empty(&to->gather->items))
        commit_soon(to);
    log_waiting_hand_over(&from->waiting, &to->waiting);
    admit(to);
}

void co_log_drain(struct log *log)
{
    while (!log_idle(log)) {
        assert(!log->drainer);
        log->drainer = co_self();
        co_wait();
    }
}

int co_log_close_batch(struct log *log)
{
    if (log->error == 0 && has_room(log, batch_blocks(log->gather, 0, 0), 0, LOG_RESERVED)) {
        log->close_batch = true;
        commit_soon(log);
        co_log_drain(log);
    }
    return log->error;
}

/* ---- the tail ---- */

static uint64_t owed_before(const struct log *log, const struct log_cut *cut)
{
    uint64_t position = log->tail_position, owed = 0;

    for (uint64_t i = 0; i < cut->batches; i++) {
        owed += log_batch_owed(log, position);
        position += log_batch_blocks(log, position);
    }
    assert(position == cut->position);
    assert(owed <= log->owed_blocks);
    return owed;
}

int co_log_move_tail(struct log *log, const struct log_cut *cut)
{
    struct log_start start = {
        .tail_position = cut->position,
        .tail_sequence = log->tail_sequence + cut->batches,
        .head_position = log->durable_head,
        .head_sequence = log_last_sequence(log) + 1,
        .images_done = cut->images_done,
        .copies_done = cut->copies_done,
        .anchor_generation = log->anchor_generation + 1,
        .incarnation = log->incarnation,
    };
    int r;

    assert(cut->position >= log->tail_position);
    assert(cut->position <= log->durable_head);
    r = co_log_write_anchors(&log->region, &start);
    log_note_device(log, r);
    if (r < 0)
        return r;
    log->owed_blocks -= owed_before(log, cut);
    log->anchor_generation = start.anchor_generation;
    log->tail_position = start.tail_position;
    log->tail_sequence = start.tail_sequence;
    log->images_done = start.images_done;
    log->copies_done = start.copies_done;
    admit(log);
    return 0;
}

/* ---- life ---- */

static int batches_new(struct log *log)
{
    for (size_t i = 0; i < ARRAY_SIZE(log->batches); i++) {
        struct batch *batch = &log->batches[i];

        list_init(&batch->items);
        batch->header = aligned_alloc(BLOCK_SIZE, LOG_HEADER_BLOCKS_MAX * BLOCK_SIZE);
        if (!batch->header)
            return -ENOMEM;
        memset(batch->header, 0, LOG_HEADER_BLOCKS_MAX * BLOCK_SIZE);
        batch_reset(batch);
    }
    return 0;
}

void log_set_start(struct log *log, const struct log_start *start)
{
    assert(log->figures.items == 0);
    log->tail_position = start->tail_position;
    log->tail_sequence = start->tail_sequence;
    log->durable_head = log->next_position = start->head_position;
    log->next_sequence = start->head_sequence;
    log->images_done = start->images_done;
    log->copies_done = start->copies_done;
    log->anchor_generation = start->anchor_generation;
    log->incarnation = start->incarnation;
}

struct log_region log_region_of(struct disk *disk, struct disk *device)
{
    const struct disk_log *at = disk_log(disk);
    struct log_region region = {.io = disk_io(disk),
                                .file = disk_file(device ? device : disk),
                                .offset = at->offset,
                                .bytes = at->bytes,
                                .begun = at->begun,
                                .anchors = at->anchors};

    memcpy(region.uuid, at->uuid.bytes, sizeof(region.uuid));
    return region;
}

int co_log_format(const struct log_region *region)
{
    struct log_start start = {
        .tail_sequence = 1, .head_sequence = 1, .anchor_generation = 1, .incarnation = 1};

    return co_log_write_anchors(region, &start);
}

int log_new(const struct log_region *region, const struct log_start *start, struct log **ret_log)
{
    cleanup(log_freep) struct log *log = calloc(1, sizeof(*log));

    if (!log)
        return -ENOMEM;
    log->region = *region;
    log->io = region->io;
    log->ring_blocks = log_region_blocks(region);
    log->gather_blocks_max = MIN(GATHER_BLOCKS_MAX, log->ring_blocks / 16);
    log->reserve_blocks = log->ring_blocks / RESERVE_FRACTION;
    log_set_start(log, start);
    log_waiting_init(&log->waiting);
    io_timer_init(&log->pace_timer, pace_came, log);
    io_task_init(&log->commit_task, log_commit, log);
    log->write_op.done = write_done;
    log->gather = &log->batches[0];
    log->lengths = calloc(log->ring_blocks, sizeof(*log->lengths));
    if (!log->lengths || batches_new(log) < 0)
        return -ENOMEM;
    *ret_log = take_ptr(log);
    return 0;
}

void log_free(struct log *log)
{
    if (!log)
        return;
    io_task_cancel(&log->commit_task);
    io_timer_disarm(log->io, &log->pace_timer);
    for (size_t i = 0; i < ARRAY_SIZE(log->batches); i++)
        free(log->batches[i].header);
    free(log->lengths);
    free(log);
}
