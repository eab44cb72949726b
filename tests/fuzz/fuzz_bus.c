/* Bytes of a peer: every fixed-size piece of the wire format, decoded from anything. What decodes
 * must obey its bounds and encode to the same bytes again. */
#include "s2d/bus/bus.h"
#include "s2d/bus/frame.h"
#include "s2d/bus/handshake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_frame(const uint8_t *data)
{
    uint8_t again[FRAME_BYTES];
    struct frame frame;
    const char *why;

    if (frame_decode(data, &frame, &why) < 0) {
        assert(why);
        return;
    }
    assert(frame.header_bytes <= BUS_HEADER_MAX);
    assert(frame.data_bytes <= BUS_PAYLOAD_MAX);
    assert(frame.result <= 0);
    frame_encode(&frame, again);
    assert(memcmp(data, again, sizeof(again)) == 0);
}

static void fuzz_hello(const uint8_t *data)
{
    struct bus_hello_format format;
    struct hello hello;

    memcpy(&format, data, sizeof(format));
    if (hello_decode(&format, &hello) != REFUSAL_NONE)
        return;
    assert(handshake_version(hello.version_oldest, hello.version_newest) != 0);
    assert(hello.channel <= HELLO_GUEST);
}

static void fuzz_answers(const uint8_t *data)
{
    static const uint8_t key[BUS_KEY_BYTES];
    struct bus_challenge_format challenge_format;
    struct bus_welcome_format welcome;
    struct bus_hello_format hello;
    struct challenge challenge;

    memcpy(&hello, data, sizeof(hello));
    memcpy(&challenge_format, data, sizeof(challenge_format));
    memcpy(&welcome, data, sizeof(welcome));
    if (challenge_decode(&challenge_format, &challenge) == REFUSAL_NONE)
        assert(!challenge_verify(&challenge_format, &hello, key));
    assert(refusal_text(welcome_decode(&welcome)));
    assert(refusal_errno(welcome_decode(&welcome)) <= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < sizeof(struct bus_hello_format))
        return 0;
    fuzz_frame(data);
    fuzz_hello(data);
    fuzz_answers(data);
    return 0;
}
