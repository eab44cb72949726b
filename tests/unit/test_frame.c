/* What travels on the wire: frames and handshakes survive the way there and back, and whatever else
 * arrives is refused with a reason. A peer's bytes must never stop this node (docs/protocol.md,
 * I9). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/checksum.h"
#include "s2d/bus/bus.h"
#include "s2d/bus/frame.h"
#include "s2d/bus/handshake.h"

static struct frame some_request(void)
{
    return (struct frame){
        .kind = FRAME_REQUEST,
        .version = BUS_VERSION_NEWEST,
        .type = 301,
        .header_bytes = 77,
        .data_bytes = 4096,
        .flags = BUS_CHECKSUM,
        .request = 0x1122334455667788,
        .granted = 0x8877665544332211,
        .payload_crc = 0xdeadbeef,
    };
}

/* Seals it again, so that the checks behind the checksum are reached. */
static void reseal(uint8_t bytes[FRAME_BYTES])
{
    struct bus_frame_format format;

    memcpy(&format, bytes, sizeof(format));
    format.crc = crc32c(&format, offsetof(struct bus_frame_format, crc));
    memcpy(bytes, &format, sizeof(format));
}

static void frame_survives_the_wire(void **state)
{
    struct frame frame = some_request(), back;
    uint8_t bytes[FRAME_BYTES];
    const char *why;

    (void)state;
    frame_encode(&frame, bytes);
    assert_int_equal(frame_decode(bytes, &back, &why), 0);
    assert_int_equal(back.kind, frame.kind);
    assert_int_equal(back.type, frame.type);
    assert_int_equal(back.header_bytes, frame.header_bytes);
    assert_int_equal(back.data_bytes, frame.data_bytes);
    assert_int_equal(back.flags, frame.flags);
    assert_int_equal(back.request, frame.request);
    assert_int_equal(back.granted, frame.granted);
    assert_int_equal(back.payload_crc, frame.payload_crc);

    frame = (struct frame){.kind = FRAME_REPLY, .version = 1, .request = 1, .result = -EIO};
    frame_encode(&frame, bytes);
    assert_int_equal(frame_decode(bytes, &back, &why), 0);
    assert_int_equal(back.result, -EIO);
}

/* The layout is a promise to other versions: these bytes must never change. */
static void frame_layout_is_fixed(void **state)
{
    static const uint8_t expected[FRAME_BYTES - 4] = {
        'S',  '2',  'D',  'F',  1,    2,    0x2d, 0x01, 77,   0,    0,    0,    0,    0x10, 0,
        0,    1,    0,    0,    0,    0,    0,    0,    0,    0x88, 0x77, 0x66, 0x55, 0x44, 0x33,
        0x22, 0x11, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0xef, 0xbe, 0xad, 0xde};
    struct frame frame = some_request();
    uint8_t bytes[FRAME_BYTES];

    (void)state;
    frame_encode(&frame, bytes);
    assert_memory_equal(bytes, expected, sizeof(expected));
}

static void any_flipped_bit_is_noticed(void **state)
{
    struct frame frame = some_request(), back;
    uint8_t bytes[FRAME_BYTES];
    const char *why;

    (void)state;
    frame_encode(&frame, bytes);
    for (size_t bit = 0; bit < 8 * FRAME_BYTES; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(frame_decode(bytes, &back, &why), -EPROTO);
        assert_non_null(why);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(frame_decode(bytes, &back, &why), 0);
}

static void fields_out_of_bounds_are_refused(void **state)
{
    static const struct {
        size_t offset;
        uint8_t value;
        const char *why;
    } cases[] = {
        {offsetof(struct bus_frame_format, version), 99, "unknown version"},
        {offsetof(struct bus_frame_format, kind), 0, "unknown kind of frame"},
        {offsetof(struct bus_frame_format, kind), 6, "unknown kind of frame"},
        {offsetof(struct bus_frame_format, header_bytes) + 1, 0x11, "length out of bounds"},
        {offsetof(struct bus_frame_format, data_bytes) + 2, 0x12, "length out of bounds"},
        {offsetof(struct bus_frame_format, data_bytes) + 3, 0xff, "length out of bounds"},
        {offsetof(struct bus_frame_format, flags) + 1, 1, "unknown flags"},
        {offsetof(struct bus_frame_format, kind), FRAME_MESSAGE,
         "request number does not fit the kind"},
        {offsetof(struct bus_frame_format, kind), FRAME_REPLY, "type does not fit the kind"},
        {offsetof(struct bus_frame_format, result), 1, "result is no errno"},
        {offsetof(struct bus_frame_format, result) + 3, 0x80, "result is no errno"},
    };
    struct frame frame = some_request(), back;
    const char *why;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t bytes[FRAME_BYTES];

        frame_encode(&frame, bytes);
        bytes[cases[i].offset] = cases[i].value;
        reseal(bytes);
        assert_int_equal(frame_decode(bytes, &back, &why), -EPROTO);
        assert_string_equal(why, cases[i].why);
    }
}

/* ---- handshake ---- */

static const uint8_t key[BUS_KEY_BYTES] = "thirty-two bytes of cluster key";
static const uint8_t other_key[BUS_KEY_BYTES] = "thirty-two bytes of another key";

static struct hello some_hello(void)
{
    return (struct hello){
        .version_oldest = BUS_VERSION_OLDEST,
        .version_newest = BUS_VERSION_NEWEST,
        .channel = HELLO_DATA,
        .cluster = "cluster uuid 16",
        .node = 1,
        .to_node = 2,
        .start_counter = 7,
        .to_start_counter = 8,
        .attempt = 9,
        .seen = 10,
        .nonce = "dialer's nonce",
    };
}

static struct challenge some_challenge(void)
{
    return (struct challenge){
        .version = 1, .cluster = "cluster uuid 16", .node = 2, .nonce = "acceptor's nonce"};
}

static void hello_survives_the_wire(void **state)
{
    struct hello hello = some_hello(), back;
    struct bus_hello_format format;

    (void)state;
    hello_encode(&hello, &format);
    assert_int_equal(hello_decode(&format, &back), REFUSAL_NONE);
    assert_memory_equal(&back, &hello, sizeof(hello));
    format.node ^= 1;
    assert_int_equal(hello_decode(&format, &back), REFUSAL_NONSENSE);
}

/* Two releases apart: the refusal must name the versions, not call it noise. */
static void versions_are_negotiated_or_refused(void **state)
{
    struct hello hello = some_hello(), back;
    struct bus_hello_format format;

    (void)state;
    assert_int_equal(handshake_version(BUS_VERSION_OLDEST, BUS_VERSION_NEWEST), BUS_VERSION_NEWEST);
    assert_int_equal(handshake_version(0, 100), BUS_VERSION_NEWEST);
    assert_int_equal(handshake_version(BUS_VERSION_NEWEST + 1, 100), 0);

    hello.version_oldest = BUS_VERSION_NEWEST + 1;
    hello.version_newest = BUS_VERSION_NEWEST + 1;
    hello_encode(&hello, &format);
    memset((char *)&format + 16, 0xff, sizeof(format) - 16); /* what later versions may put there */
    assert_int_equal(hello_decode(&format, &back), REFUSAL_VERSION);
}

struct exchange {
    struct bus_hello_format hello;
    struct bus_challenge_format challenge;
    struct bus_proof_format proof;
};

static struct exchange some_exchange(void)
{
    struct hello hello = some_hello();
    struct challenge challenge = some_challenge();
    struct exchange exchange;

    hello_encode(&hello, &exchange.hello);
    challenge_encode(&challenge, &exchange.hello, key, &exchange.challenge);
    proof_encode(&exchange.hello, &exchange.challenge, key, &exchange.proof);
    return exchange;
}

static void proofs_need_the_key(void **state)
{
    struct exchange exchange = some_exchange();

    (void)state;
    assert_true(challenge_verify(&exchange.challenge, &exchange.hello, key));
    assert_true(proof_verify(&exchange.proof, &exchange.hello, &exchange.challenge, key));
    assert_false(challenge_verify(&exchange.challenge, &exchange.hello, other_key));
    assert_false(proof_verify(&exchange.proof, &exchange.hello, &exchange.challenge, other_key));
}

/* A replayed proof, or one side's thrown back at it, must not open a connection. */
static void proofs_hold_for_one_exchange_and_one_side(void **state)
{
    struct exchange exchange = some_exchange(), fresh = some_exchange();
    struct challenge challenge = some_challenge();

    (void)state;
    challenge.nonce[31] ^= 1;
    challenge_encode(&challenge, &fresh.hello, key, &fresh.challenge);
    assert_false(proof_verify(&exchange.proof, &fresh.hello, &fresh.challenge, key));
    assert_memory_not_equal(exchange.proof.proof, exchange.challenge.proof, BUS_PROOF_BYTES);

    fresh = some_exchange();
    fresh.hello.version_oldest = 0; /* an attacker offers worse versions than the dialer did */
    assert_false(challenge_verify(&exchange.challenge, &fresh.hello, key));
}

static void refusals_have_names_and_errors(void **state)
{
    struct bus_welcome_format welcome;

    (void)state;
    for (enum bus_refusal refusal = REFUSAL_NONE; refusal <= REFUSAL_BUSY; refusal++) {
        assert_non_null(refusal_text(refusal));
        assert_true((refusal == REFUSAL_NONE) == (refusal_errno(refusal) == 0));
        welcome_encode(refusal, &welcome);
        assert_int_equal(welcome_decode(&welcome), refusal);
    }
    welcome.refusal ^= 1;
    assert_int_equal(welcome_decode(&welcome), REFUSAL_NONSENSE);
    assert_int_equal(refusal_errno(12345), -EPROTO); /* of a later version */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frame_survives_the_wire),
        cmocka_unit_test(frame_layout_is_fixed),
        cmocka_unit_test(any_flipped_bit_is_noticed),
        cmocka_unit_test(fields_out_of_bounds_are_refused),
        cmocka_unit_test(hello_survives_the_wire),
        cmocka_unit_test(versions_are_negotiated_or_refused),
        cmocka_unit_test(proofs_need_the_key),
        cmocka_unit_test(proofs_hold_for_one_exchange_and_one_side),
        cmocka_unit_test(refusals_have_names_and_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
