#include "resiliency/store_messages.h"

#include "s2d/base/checksum.h"

#define MAGIC_RECORD 0x52533253u /* "S2SR" */
#define MAGIC_ACKS 0x41533253u
#define MAGIC_BROKEN 0x42533253u
#define MAGIC_CALL 0x43533253u
#define MAGIC_SEAL_ANSWER 0x53533253u
#define MAGIC_READ_ANSWER 0x44533253u

#define RECORD_FLAGS_KNOWN                                                                         \
    (uint32_t)(RECORD_COPY | RECORD_REWRITE | RECORD_REPAIR | RECORD_OLDER | RECORD_TOUCHED_MASK)

/* What every part begins with. */
struct part_format {
    uint32_t magic, crc;
    uint16_t version;
};

static void part_seal(void *bytes, uint32_t length, uint32_t magic)
{
    struct part_format *part = bytes;

    part->magic = magic;
    part->version = STORE_MESSAGE_VERSION;
    part->crc = 0;
    part->crc = crc32c(bytes, length);
}

static bool part_is_whole(const void *bytes, uint32_t length, uint32_t magic)
{
    static const uint32_t zero;
    struct part_format part;
    uint32_t crc;

    if (length < sizeof(part))
        return false;
    memcpy(&part, bytes, sizeof(part));
    if (part.magic != magic || part.version != STORE_MESSAGE_VERSION)
        return false;
    crc = crc32c(bytes, offsetof(struct part_format, crc));
    crc = crc32c_more(crc, &zero, sizeof(zero));
    crc = crc32c_more(crc, (const char *)bytes + offsetof(struct part_format, version),
                      length - offsetof(struct part_format, version));
    return crc == part.crc;
}

/* ---- records ---- */

static uint32_t sums_bytes(uint8_t kind, uint32_t count)
{
    return kind == RECORD_WRITE ? count * (uint32_t)sizeof(uint64_t) : 0;
}

uint32_t store_record_encode(uint64_t handle, const struct record *record, const uint64_t *sums,
                             void *to)
{
    struct store_record_format *format = to;
    uint32_t bytes = sums_bytes(record->kind, record->count);

    assert(record->kind != RECORD_WRITE || record->count <= RECORD_BLOCKS_MAX);
    *format = (struct store_record_format){
        .column = record->column,
        .lane = record->lane,
        .kind = record->kind,
        .handle = handle,
        .vdisk = record->vdisk,
        .generation = record->where.generation,
        .session = record->position.session,
        .seq = record->position.seq,
        .prev_seq = record->prev_seq,
        .epoch = record->epoch,
        .watermark_session = record->watermark.session,
        .watermark_seq = record->watermark.seq,
        .client_session = record->client_session,
        .client_number = record->client_number,
        .address = record->address,
        .extent = record->where.extent,
        .slab = record->slab,
        .block = record->block,
        .count = record->count,
        .flags = record->flags & RECORD_FLAGS_KNOWN,
    };
    if (bytes > 0)
        memcpy(format + 1, sums, bytes);
    part_seal(to, (uint32_t)sizeof(*format) + bytes, MAGIC_RECORD);
    return (uint32_t)sizeof(*format) + bytes;
}

static bool record_shape_is_right(const struct store_record_format *format, uint32_t length,
                                  uint32_t data_bytes)
{
    if (format->flags & ~RECORD_FLAGS_KNOWN)
        return false;
    if (format->count == 0 || format->block + format->count < format->block)
        return false;
    switch (format->kind) {
    case RECORD_WRITE:
        return format->count <= RECORD_BLOCKS_MAX && data_bytes == format->count * BLOCK_SIZE &&
               length == sizeof(*format) + sums_bytes(RECORD_WRITE, format->count);
    case RECORD_ZERO:
        return data_bytes == 0 && length == sizeof(*format);
    }
    return false;
}

int store_record_decode(const void *bytes, uint32_t length, uint32_t data_bytes,
                        uint64_t *ret_handle, struct record *ret_record, uint64_t *ret_sums)
{
    struct store_record_format format;

    if (length < sizeof(format))
        return -EPROTO;
    memcpy(&format, bytes, sizeof(format));
    if (!part_is_whole(bytes, length, MAGIC_RECORD) ||
        !record_shape_is_right(&format, length, data_bytes))
        return -EPROTO;
    *ret_handle = format.handle;
    *ret_record = (struct record){
        .vdisk = format.vdisk,
        .where = {.extent = format.extent, .generation = format.generation},
        .slab = format.slab,
        .column = format.column,
        .lane = format.lane,
        .kind = format.kind,
        .flags = format.flags,
        .block = format.block,
        .count = format.count,
        .address = format.address,
        .epoch = format.epoch,
        .position = {format.session, format.seq},
        .prev_seq = format.prev_seq,
        .watermark = {format.watermark_session, format.watermark_seq},
        .client_session = format.client_session,
        .client_number = format.client_number,
    };
    memcpy(ret_sums, (const char *)bytes + sizeof(format), length - sizeof(format));
    return 0;
}

/* ---- what a server says by itself ---- */

struct acks_format {
    uint32_t magic, crc;
    uint16_t version, count;
    uint32_t reserved;
};
static_assert(sizeof(struct acks_format) == 16, "wire format");
static_assert(sizeof(struct store_ack) == 16, "wire format");

uint32_t store_acks_encode(const struct store_ack *acks, uint32_t count, void *to)
{
    struct acks_format *format = to;
    uint32_t length = (uint32_t)(sizeof(*format) + count * sizeof(*acks));

    assert(count <= STORE_ACKS_MAX);
    *format = (struct acks_format){.count = (uint16_t)count};
    memcpy(format + 1, acks, count * sizeof(*acks));
    part_seal(to, length, MAGIC_ACKS);
    return length;
}

int store_acks_decode(const void *bytes, uint32_t length, struct store_ack *ret_acks,
                      uint32_t *ret_count)
{
    struct acks_format format;

    if (length < sizeof(format) || !part_is_whole(bytes, length, MAGIC_ACKS))
        return -EPROTO;
    memcpy(&format, bytes, sizeof(format));
    if (format.count > STORE_ACKS_MAX ||
        length != sizeof(format) + format.count * sizeof(*ret_acks))
        return -EPROTO;
    memcpy(ret_acks, (const char *)bytes + sizeof(format), format.count * sizeof(*ret_acks));
    *ret_count = format.count;
    return 0;
}

struct broken_format {
    uint32_t magic, crc;
    uint16_t version, reserved;
    int32_t result;
    uint64_t cookie;
};
static_assert(sizeof(struct broken_format) == 24, "wire format");

uint32_t store_broken_encode(uint64_t cookie, int result, void *to)
{
    struct broken_format *format = to;

    *format = (struct broken_format){.cookie = cookie, .result = result};
    part_seal(to, sizeof(*format), MAGIC_BROKEN);
    return sizeof(*format);
}

int store_broken_decode(const void *bytes, uint32_t length, uint64_t *ret_cookie, int *ret_result)
{
    struct broken_format format;

    if (length != sizeof(format) || !part_is_whole(bytes, length, MAGIC_BROKEN))
        return -EPROTO;
    memcpy(&format, bytes, sizeof(format));
    if (format.result >= 0 || format.result < -4095)
        return -EPROTO;
    *ret_cookie = format.cookie;
    *ret_result = format.result;
    return 0;
}

/* ---- calls ---- */

enum call_flags { CALL_DURABLE = BIT(0), CALL_WANT_SUMS = BIT(1) };

struct call_format {
    uint32_t magic, crc;
    uint16_t version, reserved;
    uint32_t flags;
    uint64_t disk, vdisk, epoch, session, seq, cookie, after_session, after_seq;
    uint64_t generation, since_epoch, address;
    uint32_t extent, block, count, reserved2;
};
static_assert(sizeof(struct call_format) == 120, "wire format");

uint32_t store_call_encode(const struct store_call *call, void *to)
{
    struct call_format *format = to;

    *format = (struct call_format){
        .flags = (call->durable ? CALL_DURABLE : 0u) | (call->want_sums ? CALL_WANT_SUMS : 0u),
        .disk = call->disk,
        .vdisk = call->vdisk,
        .epoch = call->epoch,
        .session = call->position.session,
        .seq = call->position.seq,
        .cookie = call->cookie,
        .after_session = call->after.session,
        .after_seq = call->after.seq,
        .generation = call->where.generation,
        .since_epoch = call->since_epoch,
        .address = call->address,
        .extent = call->where.extent,
        .block = call->block,
        .count = call->count,
    };
    part_seal(to, sizeof(*format), MAGIC_CALL);
    return sizeof(*format);
}

static bool call_bounds_are_right(uint16_t type, const struct call_format *format)
{
    if (format->flags & ~(uint32_t)(CALL_DURABLE | CALL_WANT_SUMS))
        return false;
    if (format->block + format->count < format->block)
        return false;
    switch (type) {
    case STORE_READ:
        return format->count > 0 && format->count <= RECORD_BLOCKS_MAX;
    case STORE_CHECKSUMS:
        return format->count > 0 && format->count <= STORE_SUMS_MAX;
    case STORE_COMPARE_SET:
        return format->count > 0 && format->count <= STORE_EXTENT_BLOCKS_MAX;
    }
    return true;
}

int store_call_decode(uint16_t type, const void *bytes, uint32_t length,
                      struct store_call *ret_call)
{
    struct call_format format;

    if (length != sizeof(format) || !part_is_whole(bytes, length, MAGIC_CALL))
        return -EPROTO;
    memcpy(&format, bytes, sizeof(format));
    if (!call_bounds_are_right(type, &format))
        return -EPROTO;
    *ret_call = (struct store_call){
        .disk = format.disk,
        .vdisk = format.vdisk,
        .epoch = format.epoch,
        .position = {format.session, format.seq},
        .cookie = format.cookie,
        .after = {format.after_session, format.after_seq},
        .where = {.extent = format.extent, .generation = format.generation},
        .since_epoch = format.since_epoch,
        .address = format.address,
        .block = format.block,
        .count = format.count,
        .durable = format.flags & CALL_DURABLE,
        .want_sums = format.flags & CALL_WANT_SUMS,
    };
    return 0;
}

void store_refs_encode(const struct extent_ref *refs, uint32_t count, struct store_ref_format *to)
{
    for (uint32_t i = 0; i < count; i++)
        to[i] =
            (struct store_ref_format){.generation = refs[i].generation, .extent = refs[i].extent};
}

int store_refs_decode(const void *data, uint32_t length, struct extent_ref *ret_refs,
                      uint32_t *ret_count)
{
    uint32_t count = length / sizeof(struct store_ref_format);

    if (length % sizeof(struct store_ref_format) != 0 || count > STORE_REFS_MAX)
        return -EPROTO;
    for (uint32_t i = 0; i < count; i++) {
        struct store_ref_format format;

        memcpy(&format, (const char *)data + i * sizeof(format), sizeof(format));
        ret_refs[i] = (struct extent_ref){.extent = format.extent, .generation = format.generation};
    }
    *ret_count = count;
    return 0;
}

/* ---- answers ---- */

struct seal_answer_format {
    uint32_t magic, crc;
    uint16_t version, more;
    uint32_t tail_count;
    uint64_t sealed_epoch, handle, watermark_session, watermark_seq, durable_session, durable_seq;
};
static_assert(sizeof(struct seal_answer_format) == 64, "wire format");

uint32_t store_seal_answer_encode(const struct store_seal_answer *answer, void *to)
{
    struct seal_answer_format *format = to;

    assert(answer->tail_count <= STORE_TAIL_MAX);
    *format = (struct seal_answer_format){
        .more = answer->more,
        .tail_count = answer->tail_count,
        .sealed_epoch = answer->sealed_epoch,
        .handle = answer->handle,
        .watermark_session = answer->watermark.session,
        .watermark_seq = answer->watermark.seq,
        .durable_session = answer->durable.session,
        .durable_seq = answer->durable.seq,
    };
    part_seal(to, sizeof(*format), MAGIC_SEAL_ANSWER);
    return sizeof(*format);
}

int store_seal_answer_decode(const void *bytes, uint32_t length, uint32_t data_bytes,
                             struct store_seal_answer *ret_answer)
{
    struct seal_answer_format format;

    if (length != sizeof(format) || !part_is_whole(bytes, length, MAGIC_SEAL_ANSWER))
        return -EPROTO;
    memcpy(&format, bytes, sizeof(format));
    if (format.tail_count > STORE_TAIL_MAX || format.more > 1 ||
        (format.more && format.tail_count == 0) ||
        data_bytes != format.tail_count * sizeof(struct store_tail_format))
        return -EPROTO;
    *ret_answer = (struct store_seal_answer){
        .sealed_epoch = format.sealed_epoch,
        .handle = format.handle,
        .watermark = {format.watermark_session, format.watermark_seq},
        .durable = {format.durable_session, format.durable_seq},
        .tail_count = format.tail_count,
        .more = format.more,
    };
    return 0;
}

void store_tail_encode(const struct store_tail_record *records, uint32_t count,
                       struct store_tail_format *to)
{
    for (uint32_t i = 0; i < count; i++)
        to[i] = (struct store_tail_format){
            .session = records[i].position.session,
            .seq = records[i].position.seq,
            .generation = records[i].where.generation,
            .extent = records[i].where.extent,
            .slab = records[i].slab,
            .block = records[i].block,
            .count = records[i].count,
            .column = records[i].column,
            .kind = records[i].kind,
            .flags = records[i].flags & RECORD_FLAGS_KNOWN,
            .client_session = records[i].client_session,
            .client_number = records[i].client_number,
        };
}

int store_tail_decode(const void *data, uint32_t count, struct store_tail_record *ret_records)
{
    for (uint32_t i = 0; i < count; i++) {
        struct store_tail_format format;

        memcpy(&format, (const char *)data + i * sizeof(format), sizeof(format));
        if ((format.kind != RECORD_WRITE && format.kind != RECORD_ZERO) ||
            format.flags & ~RECORD_FLAGS_KNOWN || format.block + format.count < format.block)
            return -EPROTO;
        ret_records[i] = (struct store_tail_record){
            .position = {format.session, format.seq},
            .where = {.extent = format.extent, .generation = format.generation},
            .slab = format.slab,
            .column = format.column,
            .kind = format.kind,
            .flags = format.flags,
            .block = format.block,
            .count = format.count,
            .client_session = format.client_session,
            .client_number = format.client_number,
        };
    }
    return 0;
}

struct read_answer_format {
    uint32_t magic, crc;
    uint16_t version, has_sums;
    uint32_t count;
    uint64_t bad[RECORD_BLOCKS_MAX / 64];
};
static_assert(sizeof(struct read_answer_format) == 48, "wire format");

uint32_t store_read_answer_encode(const struct store_read_answer *answer, const uint64_t *sums,
                                  void *to)
{
    struct read_answer_format *format = to;
    uint32_t bytes = answer->has_sums ? answer->count * (uint32_t)sizeof(uint64_t) : 0;

    assert(answer->count <= RECORD_BLOCKS_MAX);
    *format = (struct read_answer_format){.has_sums = answer->has_sums, .count = answer->count};
    memcpy(format->bad, answer->bad.bits, sizeof(format->bad));
    if (bytes > 0)
        memcpy(format + 1, sums, bytes);
    part_seal(to, (uint32_t)sizeof(*format) + bytes, MAGIC_READ_ANSWER);
    return (uint32_t)sizeof(*format) + bytes;
}

int store_read_answer_decode(const void *bytes, uint32_t length,
                             struct store_read_answer *ret_answer, uint64_t *ret_sums)
{
    struct read_answer_format format;

    if (length < sizeof(format) || !part_is_whole(bytes, length, MAGIC_READ_ANSWER))
        return -EPROTO;
    memcpy(&format, bytes, sizeof(format));
    if (format.count > RECORD_BLOCKS_MAX || format.has_sums > 1 ||
        length != sizeof(format) + (format.has_sums ? format.count * sizeof(uint64_t) : 0))
        return -EPROTO;
    *ret_answer = (struct store_read_answer){.count = format.count, .has_sums = format.has_sums};
    memcpy(ret_answer->bad.bits, format.bad, sizeof(format.bad));
    memcpy(ret_sums, (const char *)bytes + sizeof(format), length - sizeof(format));
    return 0;
}
