/* How the end of the log is told. Batches are written one at a time, each after the one before it
 * is durable, so a batch with a successor is whole. The last one is whole if its data matches its
 * records' checksums. Where the chain breaks, a batch further on that calls the missing one durable
 * makes it damage, else it is a write that a crash cut short. What earlier opens of the log left
 * there bears a lower incarnation and does not count. */
#include "cache-tier/log_replay.h"
#include "pool/disk.h"
#include "s2d/base/checksum.h"
#include "s2d/base/invariant.h"
#include "s2d/base/io.h"
#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"

#define WINDOW_BLOCKS 256       /* read ahead while batches are small */
#define WINDOW_BLOCKS_SPARSE 16 /* and when they are large, and their data is skipped */
#define LARGE_BATCH_BLOCKS 64

struct reader {
    struct log_region region;
    uint64_t ring_blocks;
    uint8_t *window; /* WINDOW_BLOCKS + LOG_BATCH_BLOCKS_MAX blocks */
    uint64_t window_position;
    uint32_t window_blocks;
    uint32_t read_ahead;
};

/* ---- judging what was read ---- */

int log_header_check(const struct log_batch_header *header, size_t available,
                     const uint8_t log_uuid[16], uint64_t position, uint64_t ring_blocks)
{
    uint64_t to_end = ring_blocks - position % ring_blocks;

    if (header->magic != LOG_BATCH_MAGIC || header->version != LOG_FORMAT_VERSION ||
        memcmp(header->log_uuid, log_uuid, sizeof(header->log_uuid)) != 0 ||
        header->position != position)
        return -EBADMSG;
    if (header->header_blocks == 0 || header->header_blocks > LOG_HEADER_BLOCKS_MAX ||
        header->data_blocks > LOG_BATCH_BLOCKS_MAX ||
        (uint64_t)header->header_blocks + header->data_blocks > to_end ||
        header->header_bytes < sizeof(*header) ||
        header->header_bytes > header->header_blocks * BLOCK_SIZE)
        return -EBADMSG;
    if (available < (size_t)header->header_blocks * BLOCK_SIZE)
        return -EAGAIN;
    return header->crc == log_header_crc(header) ? 0 : -EBADMSG;
}

static bool record_fits(const struct log_record *record, uint32_t left, uint32_t data_left)
{
    const struct log_data_record *data = (const struct log_data_record *)record;

    if (record->bytes < sizeof(*record) || record->bytes > left || record->bytes % 8 != 0 ||
        record->data_blocks > data_left)
        return false;
    switch ((enum log_kind)record->kind) {
    case LOG_WRITE:
        return record->bytes >= sizeof(*data) && data->count == record->data_blocks &&
               record->bytes == sizeof(*data) + (uint64_t)data->count * sizeof(uint64_t);
    case LOG_ZERO:
        return record->bytes == sizeof(*data) && record->data_blocks == 0;
    case LOG_STREAM:
        return record->bytes == sizeof(struct log_stream_record) && record->data_blocks == 0;
    case LOG_IMAGE:
        return record->bytes == sizeof(struct log_image_record) && record->data_blocks == 1;
    case LOG_FREE:
    case LOG_CLEAR:
    case LOG_DAMAGED:
        return record->bytes == sizeof(struct log_extent_record) && record->data_blocks == 0;
    case LOG_COMPARE:
        return record->bytes == sizeof(struct log_extent_record) && record->data_blocks > 0;
    case LOG_DROP:
        return record->bytes == sizeof(struct log_drop_record) && record->data_blocks == 0;
    }
    return false;
}

static bool batch_well_formed(const struct log_batch_header *header)
{
    uint32_t offset = sizeof(*header), data_left = header->data_blocks, records = 0;

    if (header->flags & LOG_BATCH_PAD)
        return header->record_count == 0 && header->header_bytes == sizeof(*header);
    while (offset < header->header_bytes) {
        const struct log_record *record =
            (const struct log_record *)((const char *)header + offset);

        if (header->header_bytes - offset < sizeof(*record) ||
            !record_fits(record, header->header_bytes - offset, data_left))
            return false;
        offset += record->bytes;
        data_left -= record->data_blocks;
        records++;
    }
    return data_left == 0 && records == header->record_count;
}

bool log_batch_each(const struct log_batch_header *header,
                    void (*fn)(void *arg, const struct log_record *record, uint32_t offset,
                               uint32_t data_block),
                    void *arg)
{
    uint32_t offset = sizeof(*header), data_block = 0;

    if (!batch_well_formed(header))
        return false;
    for (uint32_t i = 0; i < header->record_count; i++) {
        const struct log_record *record =
            (const struct log_record *)((const char *)header + offset);

        fn(arg, record, offset, data_block);
        offset += record->bytes;
        data_block += record->data_blocks;
    }
    return true;
}

struct data_check {
    const uint8_t *data;
    bool sound;
};

static void check_record_data(void *arg, const struct log_record *record, uint32_t offset,
                              uint32_t data_block)
{
    struct data_check *check = arg;
    const uint8_t *data = check->data + (size_t)data_block * BLOCK_SIZE;
    size_t bytes = (size_t)record->data_blocks * BLOCK_SIZE;

    (void)offset;
    if (record->data_blocks == 0)
        return;
    if (record->kind == LOG_WRITE) {
        const struct log_data_record *write = (const struct log_data_record *)record;

        check->sound &= checksum_verify(data, write->count, write->vdisk, write->address,
                                        write->sums) == write->count;
    } else if (record->kind == LOG_IMAGE) {
        check->sound &= hash64(data, bytes) == ((const struct log_image_record *)record)->hash;
    } else if (record->kind == LOG_COMPARE) {
        check->sound &= hash64(data, bytes) == ((const struct log_extent_record *)record)->hash;
    }
}

bool log_batch_data_sound(const struct log_batch_header *header, const uint8_t *data)
{
    struct data_check check = {.data = data, .sound = true};

    return log_batch_each(header, check_record_data, &check) && check.sound;
}

/* ---- reading the ring ---- */

/* Block by block, where a large read failed: what cannot be read is zeros, and so no batch. */
static int co_read_singly(struct reader *reader, uint8_t *to, uint64_t offset, uint32_t blocks)
{
    for (uint32_t i = 0; i < blocks; i++) {
        int r = co_io_read(reader->region.file, to + (size_t)i * BLOCK_SIZE, BLOCK_SIZE,
                           offset + (uint64_t)i * BLOCK_SIZE);

        if (r == -ECANCELED)
            return r;
        if (r < 0)
            memset(to + (size_t)i * BLOCK_SIZE, 0, BLOCK_SIZE);
    }
    return 0;
}

/* Makes `blocks` blocks from position on available at *ret_data. They must not wrap. */
static int co_window(struct reader *reader, uint64_t position, uint32_t blocks,
                     const uint8_t **ret_data)
{
    uint64_t ring_block = position % reader->ring_blocks;
    uint32_t count = MIN(MAX(blocks, reader->read_ahead), reader->ring_blocks - ring_block);
    uint64_t offset = reader->region.offset + (LOG_ANCHOR_BLOCKS + ring_block) * BLOCK_SIZE;

    assert(blocks <= count);
    if (position < reader->window_position ||
        position + blocks > reader->window_position + reader->window_blocks) {
        int r = co_io_read(reader->region.file, reader->window, (size_t)count * BLOCK_SIZE, offset);

        if (r < 0 && r != -ECANCELED)
            r = co_read_singly(reader, reader->window, offset, count);
        if (r < 0)
            return r;
        reader->window_position = position;
        reader->window_blocks = count;
    }
    *ret_data = reader->window + (position - reader->window_position) * BLOCK_SIZE;
    return 0;
}

/* The header at position, all its blocks in memory. Returns 0, -EBADMSG (none), -EIO, -ECANCELED.
 */
static int co_read_header(struct reader *reader, uint64_t position,
                          const struct log_batch_header **ret_header)
{
    const uint8_t *data;
    const struct log_batch_header *header;
    uint32_t blocks = 1;

    for (;;) {
        int r = co_window(reader, position, blocks, &data);

        if (r < 0)
            return r;
        header = (const struct log_batch_header *)data;
        r = log_header_check(header, (size_t)blocks * BLOCK_SIZE, reader->region.uuid, position,
                             reader->ring_blocks);
        if (r == -EAGAIN) {
            blocks = header->header_blocks;
            continue;
        }
        if (r == 0)
            *ret_header = header;
        return r;
    }
}

/* ---- where it begins ---- */

static bool all_zero(const void *data, size_t length)
{
    const uint8_t *bytes = data;

    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* Both anchors are gone: the newest batch of the whole ring knows the tail as well. */
static int co_find_tail_by_scan(struct reader *reader, struct log_start *start)
{
    struct log_batch_header best = {0};

    for (uint64_t block = 0; block < reader->ring_blocks; block++) {
        const struct log_batch_header *header;
        const uint8_t *data;
        uint64_t position;
        int r = co_window(reader, block, 1, &data);

        if (r < 0)
            return r;
        position = ((const struct log_batch_header *)data)->position;
        if (((const struct log_batch_header *)data)->magic != LOG_BATCH_MAGIC ||
            position % reader->ring_blocks != block)
            continue;
        reader->window_blocks = 0; /* it is known by position, not by block */
        r = co_read_header(reader, position, &header);
        reader->window_blocks = 0;
        if (r == -ECANCELED)
            return r;
        if (r == 0 &&
            (header->incarnation > best.incarnation ||
             (header->incarnation == best.incarnation && header->sequence > best.sequence)))
            best = *header;
    }
    if (best.sequence == 0)
        return -EBADMSG;
    start->tail_position = best.tail_position;
    start->tail_sequence = best.tail_sequence;
    start->head_position = best.tail_position;
    start->head_sequence = best.tail_sequence;
    start->images_done = best.images_done;
    start->copies_done = best.copies_done;
    start->incarnation = best.incarnation;
    start->anchor_generation = 1;
    return 0;
}

static int co_find_tail(struct reader *reader, struct log_start *start)
{
    cleanup(freep) struct log_anchor *anchors =
        aligned_alloc(BLOCK_SIZE, LOG_ANCHOR_BLOCKS * BLOCK_SIZE);
    const struct log_anchor *best = NULL;
    const uint8_t *first;
    int r;

    if (!anchors)
        return -ENOMEM;
    r = co_read_singly(reader, (uint8_t *)anchors, reader->region.offset, LOG_ANCHOR_BLOCKS);
    if (r < 0)
        return r;
    for (unsigned copy = 0; copy < LOG_ANCHOR_BLOCKS; copy++) {
        if (log_anchor_check(&anchors[copy], reader->region.uuid, copy) == 0 &&
            (!best || anchors[copy].generation > best->generation))
            best = &anchors[copy];
    }
    /* With none that can be read nothing says that what the ring holds is not old, either. */
    if ((best ? best->generation : 0) < reader->region.anchors &&
        !PLANTED(CACHE_OLD_LOG_BELIEVED)) {
        SOMETIMES("replay: a cache disk shows an old state of a log");
        return -EBADMSG;
    }
    if (best) {
        start->tail_position = best->tail_position;
        start->tail_sequence = best->tail_sequence;
        start->head_position = best->head_position;
        start->head_sequence = best->head_sequence;
        start->images_done = best->images_done;
        start->copies_done = best->copies_done;
        start->incarnation = best->incarnation;
        start->anchor_generation = best->generation;
        return 0;
    }
    r = co_window(reader, 0, 1, &first);
    if (r < 0)
        return r;
    if (!reader->region.begun && all_zero(anchors, LOG_ANCHOR_BLOCKS * BLOCK_SIZE) &&
        all_zero(first, BLOCK_SIZE)) {
        start->tail_sequence = start->head_sequence = 1; /* as it was claimed: never written */
        return 0;
    }
    SOMETIMES("replay: both anchors are gone, the ring is searched");
    return co_find_tail_by_scan(reader, start);
}

/* ---- following the chain ---- */

struct chain {
    const struct log_replay_ops *ops;
    void *arg;
    struct log_found *found;
    struct log_batch_header *last; /* its header blocks; not delivered yet. sequence 0: none */
    uint64_t position, sequence;   /* of the next batch */
    uint32_t incarnation;
    uint32_t incarnation_seen; /* anywhere, in what does not count as well */
};

static void deliver_record(void *arg, const struct log_record *record, uint32_t offset,
                           uint32_t data_block)
{
    struct chain *chain = arg;
    struct log_place place = {
        .sequence = chain->last->sequence,
        .batch_position = chain->last->position,
        .data_position = chain->last->position + chain->last->header_blocks + data_block,
        .header_offset = offset,
        .copies_done = chain->found->start.copies_done,
    };

    chain->found->records++;
    chain->ops->record(chain->arg, record, &place);
}

static void deliver_last(struct chain *chain)
{
    struct log_batch_header *last = chain->last;

    if (last->sequence == 0)
        return;
    chain->ops->batch(chain->arg, last->position, last->header_blocks + last->data_blocks);
    if (!(last->flags & LOG_BATCH_PAD))
        log_batch_each(last, deliver_record, chain);
    chain->found->batches++;
    chain->found->start.images_done = MAX(chain->found->start.images_done, last->images_done);
    chain->found->start.copies_done = MAX(chain->found->start.copies_done, last->copies_done);
    last->sequence = 0;
}

static bool continues(const struct chain *chain, const struct log_batch_header *header)
{
    bool is_ours = header->incarnation >= chain->incarnation;

    SOMETIMES_IF(!is_ours && header->sequence == chain->sequence,
                 "replay: a batch of an earlier incarnation is where the next would be");
    return header->sequence == chain->sequence && (is_ours || PLANTED(REPLAY_PREDECESSOR)) &&
           batch_well_formed(header);
}

static int co_follow(struct reader *reader, struct chain *chain)
{
    uint64_t tail = chain->found->start.tail_position;

    for (;;) {
        const struct log_batch_header *header;
        uint32_t blocks;
        int r;

        if (chain->position - tail >= reader->ring_blocks)
            return 0;
        r = co_read_header(reader, chain->position, &header);
        if (r == -EBADMSG || (r == 0 && !continues(chain, header)))
            return 0;
        if (r < 0)
            return r;
        blocks = header->header_blocks + header->data_blocks;
        if (chain->position + blocks - tail > reader->ring_blocks)
            return 0;
        deliver_last(chain);
        memcpy(chain->last, header, (size_t)header->header_blocks * BLOCK_SIZE);
        chain->incarnation = header->incarnation;
        chain->position += blocks;
        chain->sequence++;
        reader->read_ahead = blocks > LARGE_BATCH_BLOCKS ? WINDOW_BLOCKS_SPARSE : WINDOW_BLOCKS;
    }
}

/* The highest sequence that a batch behind the end of the chain calls durable; 0: none is there. */
static int co_look_ahead(struct reader *reader, struct chain *chain, uint64_t *ret_vouched)
{
    uint64_t tail = chain->found->start.tail_position;
    uint64_t limit = MIN(LOG_LOOK_AHEAD_BLOCKS, reader->ring_blocks - (chain->position - tail));

    *ret_vouched = 0;
    for (uint64_t i = 0; i < limit; i++) {
        const struct log_batch_header *header;
        int r = co_read_header(reader, chain->position + i, &header);

        if (r == -EBADMSG)
            continue;
        if (r < 0)
            return r;
        chain->incarnation_seen = MAX(chain->incarnation_seen, header->incarnation);
        if (header->incarnation >= chain->incarnation && header->sequence >= chain->sequence)
            *ret_vouched = MAX(*ret_vouched, header->durable_through);
    }
    return 0;
}

static int co_last_is_sound(struct reader *reader, struct chain *chain, bool *ret_sound)
{
    struct log_batch_header *last = chain->last;
    const uint8_t *data;
    int r;

    *ret_sound = true;
    if (last->data_blocks == 0 || last->flags & LOG_BATCH_PAD)
        return 0;
    r = co_window(reader, last->position + last->header_blocks, last->data_blocks, &data);
    if (r < 0)
        return r;
    *ret_sound = log_batch_data_sound(last, data) || PLANTED(REPLAY_TORN);
    return 0;
}

static int co_find_end(struct reader *reader, struct chain *chain)
{
    uint64_t vouched;
    bool sound;
    int r = co_look_ahead(reader, chain, &vouched);

    if (r < 0)
        return r;
    chain->found->damaged = vouched >= chain->sequence && !PLANTED(REPLAY_PAST_HOLE);
    SOMETIMES_IF(chain->found->damaged,
                 "replay: a hole in the log that a later batch calls durable");
    if (chain->last->sequence != 0 && vouched < chain->last->sequence) {
        r = co_last_is_sound(reader, chain, &sound);
        if (r < 0)
            return r;
        if (!sound || PLANTED(REPLAY_SHORT)) {
            SOMETIMES("replay: the last batch is torn, its data does not match");
            chain->found->torn = true;
            chain->position = chain->last->position;
            chain->sequence = chain->last->sequence;
            chain->last->sequence = 0;
        }
    }
    INVARIANT(I9, chain->found->damaged || vouched < chain->sequence); /* never silently short */
    deliver_last(chain);
    return 0;
}

static int co_replay(struct reader *reader, struct chain *chain, bool recent)
{
    struct log_found *found = chain->found;
    int r = co_find_tail(reader, &found->start);

    if (r < 0)
        return r;
    chain->position = recent ? found->start.head_position : found->start.tail_position;
    chain->sequence = recent ? found->start.head_sequence : found->start.tail_sequence;
    /* Anchors are written before any batch of their open, so what is behind their head is of it or
     * of a later one. (What a scan found has no head.) */
    if (recent && chain->position > found->start.tail_position)
        chain->incarnation = found->start.incarnation;
    r = co_follow(reader, chain);
    if (r < 0)
        return r;
    r = co_find_end(reader, chain);
    if (r < 0)
        return r;
    if (recent)
        return 0;
    found->start.head_position = chain->position;
    found->start.head_sequence = chain->sequence;
    /* Before a hole may lie what they spoke of: of the batches that will be there they say nothing.
     */
    found->start.images_done = MIN(found->start.images_done, chain->sequence - 1);
    found->start.copies_done = MIN(found->start.copies_done, chain->position);
    found->start.incarnation =
        MAX(MAX(found->start.incarnation, chain->incarnation), chain->incarnation_seen) + 1;
    found->start.anchor_generation++;
    return co_log_write_anchors(&reader->region, &found->start);
}

static int co_replay_from(const struct log_region *region, const struct log_replay_ops *ops,
                          void *arg, bool recent, struct log_found *ret_found)
{
    struct log_found found = {0};
    struct reader reader = {.region = *region, .read_ahead = WINDOW_BLOCKS};
    cleanup(freep) uint8_t *window =
        aligned_alloc(BLOCK_SIZE, (size_t)LOG_BATCH_BLOCKS_MAX * BLOCK_SIZE);
    cleanup(freep) struct log_batch_header *last =
        aligned_alloc(BLOCK_SIZE, LOG_HEADER_BLOCKS_MAX * BLOCK_SIZE);
    struct chain chain = {.ops = ops, .arg = arg, .found = &found, .last = last};
    int r;

    static_assert(LOG_BATCH_BLOCKS_MAX >= WINDOW_BLOCKS, "one window holds either");
    if (!window || !last)
        return -ENOMEM;
    memset(last, 0, sizeof(*last));
    reader.ring_blocks = log_region_blocks(region);
    reader.window = window;
    r = co_replay(&reader, &chain, recent);
    if (r == 0)
        *ret_found = found;
    return r;
}

int co_log_replay(const struct log_region *region, const struct log_replay_ops *ops, void *arg,
                  struct log_found *ret_found)
{
    return co_replay_from(region, ops, arg, false, ret_found);
}

int co_log_replay_recent(const struct log_region *region, const struct log_replay_ops *ops,
                         void *arg, struct log_found *ret_found)
{
    return co_replay_from(region, ops, arg, true, ret_found);
}
