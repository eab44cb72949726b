#include "s2d/bus/frame.h"

#include <endian.h>

#include "s2d/base/checksum.h"
#include "s2d/bus/bus.h"

static uint32_t format_crc(const struct bus_frame_format *format)
{
    return crc32c(format, offsetof(struct bus_frame_format, crc));
}

void frame_encode(const struct frame *frame, uint8_t ret_bytes[FRAME_BYTES])
{
    struct bus_frame_format format = {
        .magic = htole32(BUS_MAGIC_FRAME),
        .version = frame->version,
        .kind = (uint8_t)frame->kind,
        .type = htole16(frame->type),
        .header_bytes = htole32(frame->header_bytes),
        .data_bytes = htole32(frame->data_bytes),
        .flags = htole32(frame->flags),
        .result = (int32_t)htole32((uint32_t)frame->result),
        .request = htole64(frame->request),
        .granted = htole64(frame->granted),
        .payload_crc = htole32(frame->payload_crc),
    };

    assert(frame->header_bytes <= BUS_HEADER_MAX);
    assert(frame->data_bytes <= BUS_PAYLOAD_MAX);
    format.crc = htole32(format_crc(&format));
    memcpy(ret_bytes, &format, sizeof(format));
}

/* What a frame of its kind must and must not carry. NULL: all is well. */
static const char *frame_fault(const struct frame *frame)
{
    bool is_message = frame->kind == FRAME_MESSAGE || frame->kind == FRAME_REQUEST;

    if (frame->kind < FRAME_MESSAGE || frame->kind > FRAME_PING)
        return "unknown kind of frame";
    if (frame->header_bytes > BUS_HEADER_MAX || frame->data_bytes > BUS_PAYLOAD_MAX)
        return "length out of bounds";
    if (frame->flags & ~BUS_CHECKSUM)
        return "unknown flags";
    if (is_message != (frame->type != 0))
        return "type does not fit the kind";
    if ((frame->kind == FRAME_REQUEST || frame->kind == FRAME_REPLY) != (frame->request != 0))
        return "request number does not fit the kind";
    if (frame->result > 0 || frame->result < -4095)
        return "result is no errno";
    if (frame->result != 0 && frame->kind != FRAME_REPLY)
        return "result outside of a reply";
    if ((frame->kind == FRAME_GRANT || frame->kind == FRAME_PING) &&
        (frame->header_bytes > 0 || frame->data_bytes > 0))
        return "payload where none belongs";
    return NULL;
}

int frame_decode(const uint8_t bytes[FRAME_BYTES], struct frame *ret_frame, const char **ret_why)
{
    struct bus_frame_format format;

    memcpy(&format, bytes, sizeof(format));
    *ret_why = NULL;
    if (le32toh(format.magic) != BUS_MAGIC_FRAME)
        *ret_why = "no frame where one must begin";
    else if (le32toh(format.crc) != format_crc(&format))
        *ret_why = "checksum of the frame is wrong";
    else if (format.version < BUS_VERSION_OLDEST || format.version > BUS_VERSION_NEWEST)
        *ret_why = "unknown version";
    if (*ret_why)
        return -EPROTO;

    *ret_frame = (struct frame){
        .kind = format.kind,
        .version = format.version,
        .type = le16toh(format.type),
        .header_bytes = le32toh(format.header_bytes),
        .data_bytes = le32toh(format.data_bytes),
        .flags = le32toh(format.flags),
        .result = (int32_t)le32toh((uint32_t)format.result),
        .request = le64toh(format.request),
        .granted = le64toh(format.granted),
        .payload_crc = le32toh(format.payload_crc),
    };
    *ret_why = frame_fault(ret_frame);
    return *ret_why ? -EPROTO : 0;
}

uint32_t frame_payload_crc(const void *header, size_t header_bytes, const void *data,
                           size_t data_bytes)
{
    return crc32c_more(crc32c(header, header_bytes), data, data_bytes);
}
