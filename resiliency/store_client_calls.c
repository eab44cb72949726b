/* What is asked of another node's store, one call at a time. Answers are bytes from outside: their
 * shape and size are checked before anything of them is used. */
#include "resiliency/store_client_private.h"

int co_client_call(struct column_store *column, uint16_t type, enum bus_channel channel,
                   struct store_call *call, const struct bus_send *bulk, uint64_t timeout_ns,
                   struct bus_reply *reply)
{
    struct column_remote *remote = remote_of(column);
    uint8_t header[BUS_HEADER_MAX] __attribute__((aligned(8)));
    struct bus_send send = {
        .to = remote->peer->id,
        .channel = channel,
        .type = type,
        .header = header,
    };
    int r;

    call->disk = column->disk;
    send.header_bytes = store_call_encode(call, header);
    if (bulk) {
        send.flags = BUS_CHECKSUM;
        send.data = bulk->data;
        send.data_bytes = bulk->data_bytes;
    }
    r = co_bus_call(remote->peer->client->bus, &send, timeout_ns, reply);
    return r < 0 ? r : reply->result;
}

int co_client_mark(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                   struct log_position watermark, bool durable)
{
    struct store_call call = {
        .vdisk = vdisk, .epoch = epoch, .position = watermark, .durable = durable};
    struct bus_reply reply = {0};

    return co_client_call(column, STORE_MARK, BUS_CONTROL, &call, NULL, CALL_TIMEOUT_NS, &reply);
}

static int co_call_with_refs(struct column_store *column, uint16_t type, uint64_t vdisk,
                             uint64_t epoch, const struct extent_ref *columns, size_t count)
{
    cleanup(freep) struct store_ref_format *refs =
        aligned_alloc(BLOCK_SIZE, STORE_REFS_MAX * sizeof(*refs));
    int r = 0;

    if (!refs)
        return -ENOMEM;
    for (size_t done = 0; r == 0 && done < count; done += STORE_REFS_MAX) {
        uint32_t part = (uint32_t)MIN(count - done, (size_t)STORE_REFS_MAX);
        struct store_call call = {.vdisk = vdisk, .epoch = epoch};
        struct bus_send bulk = {.data = refs, .data_bytes = part * (uint32_t)sizeof(*refs)};
        struct bus_reply reply = {0};

        store_refs_encode(columns + done, part, refs);
        r = co_client_call(column, type, BUS_CONTROL, &call, &bulk, CALL_TIMEOUT_SLOW_NS, &reply);
    }
    return r;
}

int co_client_drop_tail(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                        const struct extent_ref *columns, size_t count)
{
    return co_call_with_refs(column, STORE_DROP_TAIL, vdisk, epoch, columns, count);
}

int co_client_clear_compare(struct column_store *column, uint64_t vdisk, uint64_t epoch,
                            const struct extent_ref *columns, size_t count)
{
    return co_call_with_refs(column, STORE_CLEAR_COMPARE, vdisk, epoch, columns, count);
}

int co_client_read(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                   uint32_t block, uint32_t count, uint64_t address, void *buffer,
                   uint64_t *ret_sums, struct block_set *ret_bad)
{
    return co_client_read_at(column, vdisk, where, block, count, address, (struct log_position){0},
                             buffer, ret_sums, ret_bad);
}

/* at: session 0 is the newest. */
int co_client_read_at(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                      uint32_t block, uint32_t count, uint64_t address, struct log_position at,
                      void *buffer, uint64_t *ret_sums, struct block_set *ret_bad)
{
    uint8_t header[BUS_HEADER_MAX] __attribute__((aligned(8)));
    uint64_t sums[RECORD_BLOCKS_MAX];
    struct store_read_answer answer;
    struct store_call call = {.vdisk = vdisk,
                              .where = where,
                              .block = block,
                              .count = count,
                              .address = address,
                              .position = at,
                              .want_sums = ret_sums != NULL};
    struct bus_reply reply = {.header = header,
                              .header_bytes = sizeof(header),
                              .data = buffer,
                              .data_bytes = count * BLOCK_SIZE};
    int r, result;

    result = co_client_call(column, STORE_READ, BUS_DATA, &call, NULL, CALL_TIMEOUT_NS, &reply);
    if (result < 0 && result != -EBADMSG)
        return result;
    r = store_read_answer_decode(header, reply.header_bytes, &answer, sums);
    if (r < 0 || answer.count != count || answer.has_sums != (ret_sums != NULL) ||
        reply.data_bytes != count * BLOCK_SIZE)
        return -EPROTO;
    if (ret_sums)
        memcpy(ret_sums, sums, count * sizeof(*sums));
    if (ret_bad)
        *ret_bad = answer.bad;
    return result;
}

/* Bits [0, count) of from into to, where bit 0 of from stands at `at`. */
static void bits_or(uint64_t *to, uint32_t at, const uint64_t *from, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (from[i / 64] >> (i % 64) & 1)
            to[(at + i) / 64] |= UINT64_C(1) << ((at + i) % 64);
    }
}

static int co_sums_part(struct column_store *column, const struct store_call *from, void *data,
                        uint64_t *sums, uint64_t *unknown, uint32_t at)
{
    struct store_call call = *from;
    uint32_t bitmap_bytes = DIV_ROUND_UP(call.count, 64) * 8;
    uint32_t bytes = call.count * 8 + bitmap_bytes;
    struct bus_reply reply = {.data = data, .data_bytes = bytes};
    int r = co_client_call(column, STORE_CHECKSUMS, BUS_DATA, &call, NULL, CALL_TIMEOUT_SLOW_NS,
                           &reply);

    if (r < 0 && r != -EBADMSG)
        return r;
    if (reply.data_bytes != bytes)
        return -EPROTO;
    memcpy(sums + at, data, call.count * 8);
    if (unknown)
        bits_or(unknown, at, (const uint64_t *)data + call.count, call.count);
    return r;
}

int co_client_checksums(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                        uint32_t block, uint32_t count, uint64_t *ret_sums, uint64_t *ret_unknown)
{
    size_t room = ALIGN_UP(STORE_SUMS_MAX * 8 + STORE_SUMS_MAX / 8, (size_t)BLOCK_SIZE);
    cleanup(freep) void *data = aligned_alloc(BLOCK_SIZE, room);
    int result = 0;

    if (!data)
        return -ENOMEM;
    for (uint32_t done = 0; done < count; done += STORE_SUMS_MAX) {
        struct store_call call = {.vdisk = vdisk,
                                  .where = where,
                                  .block = block + done,
                                  .count = MIN(count - done, (uint32_t)STORE_SUMS_MAX)};
        int r = co_sums_part(column, &call, data, ret_sums, ret_unknown, done);

        if (r == -EBADMSG)
            result = r;
        else if (r < 0)
            return r;
    }
    return result;
}

int co_client_compare_set(struct column_store *column, uint64_t vdisk, struct extent_ref where,
                          uint64_t since_epoch, uint32_t extent_blocks, uint64_t *bitmap)
{
    uint32_t bytes = DIV_ROUND_UP(extent_blocks, 64) * 8;
    cleanup(freep) uint64_t *data = aligned_alloc(BLOCK_SIZE, ALIGN_UP(bytes, BLOCK_SIZE));
    struct store_call call = {
        .vdisk = vdisk, .where = where, .since_epoch = since_epoch, .count = extent_blocks};
    struct bus_reply reply = {.data = data, .data_bytes = bytes};
    int r;

    if (!data)
        return -ENOMEM;
    r = co_client_call(column, STORE_COMPARE_SET, BUS_CONTROL, &call, NULL, CALL_TIMEOUT_SLOW_NS,
                       &reply);
    if (r < 0)
        return r;
    if (reply.data_bytes != bytes)
        return -EPROTO;
    bits_or(bitmap, 0, data, extent_blocks);
    return 0;
}
