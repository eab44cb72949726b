/* frame: one message's fixed part, to bytes and back. Pure: no state, no I/O. Decoding takes any
 * bytes: a peer may send nonsense, and the fuzzer does. */
#ifndef S2D_BUS_FRAME_H
#define S2D_BUS_FRAME_H

#include "s2d/base/base.h"
#include "s2d/bus/bus_format.h"

#define FRAME_BYTES sizeof(struct bus_frame_format)

enum frame_kind {
    FRAME_MESSAGE = 1,
    FRAME_REQUEST, /* a message that waits for a reply */
    FRAME_REPLY,
    FRAME_GRANT, /* carries `granted` alone */
    FRAME_PING,  /* says "I live" */
};

struct frame {
    enum frame_kind kind;
    uint8_t version;
    uint16_t type;
    uint32_t header_bytes;
    uint32_t data_bytes;
    uint32_t flags;
    int32_t result;
    uint64_t request;
    uint64_t granted;
    uint32_t payload_crc;
};

void frame_encode(const struct frame *frame, uint8_t ret_bytes[FRAME_BYTES]);

/* Checks everything that can be checked without state: magic, checksum, version, kind, bounds.
 * Returns 0, or -EPROTO with *ret_why naming what is wrong (a constant); ret_frame is then
 * undefined. */
must_check int frame_decode(const uint8_t bytes[FRAME_BYTES], struct frame *ret_frame,
                            const char **ret_why);

/* Of the frame and all that follows it. */
static inline size_t frame_total_bytes(const struct frame *frame)
{
    return FRAME_BYTES + frame->header_bytes + frame->data_bytes;
}

/* CRC32C of header part and data. */
uint32_t frame_payload_crc(const void *header, size_t header_bytes, const void *data,
                           size_t data_bytes);

#endif
