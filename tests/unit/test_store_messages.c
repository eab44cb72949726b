/* What owners and stores say to each other survives the way, and nothing else gets through. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "resiliency/store_messages.h"
#include "s2d/bus/bus.h"

static uint8_t bytes[BUS_HEADER_MAX] __attribute__((aligned(8)));

static struct record some_record(uint8_t kind, uint32_t count)
{
    return (struct record){
        .vdisk = 7,
        .where = {.extent = 9, .generation = 1ull << 40},
        .slab = 11,
        .column = 2,
        .kind = kind,
        .flags = RECORD_REWRITE | RECORD_VERIFIED,
        .block = 100,
        .count = count,
        .address = 1ull << 50,
        .epoch = 12,
        .position = {10, 77},
        .prev_seq = 70,
        .watermark = {10, 60},
        .client_session = 3,
        .client_number = 4,
    };
}

static void record_survives(uint8_t kind, uint32_t count)
{
    struct record record = some_record(kind, count), back;
    uint64_t sums[RECORD_BLOCKS_MAX], back_sums[RECORD_BLOCKS_MAX], handle;
    uint32_t data_bytes = kind == RECORD_WRITE ? count * BLOCK_SIZE : 0;
    uint32_t length;

    for (uint32_t i = 0; i < RECORD_BLOCKS_MAX; i++)
        sums[i] = i * 0x9e3779b97f4a7c15ull;
    length = store_record_encode(55, &record, sums, bytes);
    assert_true(length <= BUS_HEADER_MAX);
    assert_int_equal(store_record_decode(bytes, length, data_bytes, &handle, &back, back_sums), 0);
    assert_int_equal(handle, 55);
    assert_int_equal(back.flags, RECORD_REWRITE); /* "verified" is not for others to say */
    assert_int_equal(back.where.generation, record.where.generation);
    assert_int_equal(back.address, record.address);
    assert_int_equal(back.count, count);
    assert_int_equal(back.epoch, record.epoch);
    assert_int_equal(back.prev_seq, record.prev_seq);
    assert_int_equal(log_position_compare(back.position, record.position), 0);
    assert_int_equal(log_position_compare(back.watermark, record.watermark), 0);
    if (kind == RECORD_WRITE)
        assert_memory_equal(sums, back_sums, count * sizeof(*sums));
    assert_int_equal(
        store_record_decode(bytes, length, data_bytes + BLOCK_SIZE, &handle, &back, back_sums),
        -EPROTO);
    for (uint32_t i = 0; i < length; i++) { /* no bit may flip, nothing may be missing */
        bytes[i] ^= 4;
        assert_int_equal(store_record_decode(bytes, length, data_bytes, &handle, &back, back_sums),
                         -EPROTO);
        bytes[i] ^= 4;
        assert_int_equal(store_record_decode(bytes, i, data_bytes, &handle, &back, back_sums),
                         -EPROTO);
    }
}

static void test_records(void **state)
{
    (void)state;
    record_survives(RECORD_WRITE, 1);
    record_survives(RECORD_WRITE, RECORD_BLOCKS_MAX);
    record_survives(RECORD_ZERO, 60000);
}

static void test_acks_and_breaks(void **state)
{
    struct store_ack acks[STORE_ACKS_MAX], back[STORE_ACKS_MAX];
    uint32_t length, count;
    uint64_t cookie;
    int result;

    (void)state;
    for (uint32_t i = 0; i < STORE_ACKS_MAX; i++)
        acks[i] = (struct store_ack){i, i * i};
    length = store_acks_encode(acks, STORE_ACKS_MAX, bytes);
    assert_true(length <= BUS_HEADER_MAX);
    assert_int_equal(store_acks_decode(bytes, length, back, &count), 0);
    assert_int_equal(count, STORE_ACKS_MAX);
    assert_memory_equal(acks, back, sizeof(acks));
    assert_int_equal(store_acks_decode(bytes, length - 1, back, &count), -EPROTO);

    length = store_broken_encode(99, -ESTALE, bytes);
    assert_int_equal(store_broken_decode(bytes, length, &cookie, &result), 0);
    assert_int_equal(cookie, 99);
    assert_int_equal(result, -ESTALE);
    length = store_broken_encode(99, 0, bytes); /* a break without a reason is nonsense */
    assert_int_equal(store_broken_decode(bytes, length, &cookie, &result), -EPROTO);
}

static void test_calls_have_bounds(void **state)
{
    struct store_call call = {.disk = 3, .vdisk = 7, .block = 5, .count = RECORD_BLOCKS_MAX}, back;
    uint32_t length = store_call_encode(&call, bytes);

    (void)state;
    assert_int_equal(store_call_decode(STORE_READ, bytes, length, &back), 0);
    assert_int_equal(back.disk, 3);
    assert_int_equal(back.vdisk, 7);
    assert_int_equal(back.block, 5);
    assert_int_equal(back.count, RECORD_BLOCKS_MAX);
    call.count++;
    length = store_call_encode(&call, bytes);
    assert_int_equal(store_call_decode(STORE_READ, bytes, length, &back), -EPROTO);
    assert_int_equal(store_call_decode(STORE_CHECKSUMS, bytes, length, &back), 0);
    call.count = 0;
    length = store_call_encode(&call, bytes);
    assert_int_equal(store_call_decode(STORE_CHECKSUMS, bytes, length, &back), -EPROTO);
    assert_int_equal(store_call_decode(STORE_SEAL, bytes, length, &back), 0);
    call.count = UINT32_MAX;
    length = store_call_encode(&call, bytes);
    assert_int_equal(store_call_decode(STORE_SEAL, bytes, length, &back), -EPROTO);
}

static void test_seal_answer(void **state)
{
    struct store_seal_answer answer = {.sealed_epoch = 5,
                                       .handle = 6,
                                       .watermark = {4, 3},
                                       .durable = {4, 9},
                                       .tail_count = 2,
                                       .more = true};
    struct store_tail_record tail[2] = {
        {{4, 8}, {1, 2}, 3, 1, RECORD_WRITE, 0x800d00 | RECORD_COPY, 10, 4, 0, 0},
        {{4, 9}, {1, 2}, 3, 1, RECORD_ZERO, 0, 0, 1000, 77, 78},
    };
    struct store_tail_format wire[2];
    struct store_tail_record back_tail[2];
    struct store_seal_answer back;
    uint32_t length = store_seal_answer_encode(&answer, bytes);

    (void)state;
    assert_int_equal(store_seal_answer_decode(bytes, length, sizeof(wire), &back), 0);
    assert_int_equal(back.handle, 6);
    assert_int_equal(back.durable.seq, 9);
    assert_true(back.more);
    assert_int_equal(store_seal_answer_decode(bytes, length, sizeof(wire[0]), &back), -EPROTO);
    answer.tail_count = 0; /* more of nothing would be asked for for ever */
    length = store_seal_answer_encode(&answer, bytes);
    assert_int_equal(store_seal_answer_decode(bytes, length, 0, &back), -EPROTO);

    store_tail_encode(tail, 2, wire);
    assert_int_equal(store_tail_decode(wire, 2, back_tail), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(log_position_compare(tail[i].position, back_tail[i].position), 0);
        assert_int_equal(tail[i].count, back_tail[i].count);
        assert_int_equal(tail[i].flags, back_tail[i].flags);
        assert_int_equal(tail[i].where.generation, back_tail[i].where.generation);
        assert_int_equal(tail[i].client_session, back_tail[i].client_session);
        assert_int_equal(tail[i].client_number, back_tail[i].client_number);
    }
    wire[0].flags = RECORD_VERIFIED; /* is never sent */
    assert_int_equal(store_tail_decode(wire, 2, back_tail), -EPROTO);
    wire[0].flags = 0;
    wire[1].kind = 9;
    assert_int_equal(store_tail_decode(wire, 2, back_tail), -EPROTO);
}

static void test_read_answer(void **state)
{
    struct store_read_answer answer = {.count = 3, .has_sums = true, .bad.bits = {5}}, back;
    uint64_t sums[RECORD_BLOCKS_MAX] = {1, 2, 3}, back_sums[RECORD_BLOCKS_MAX];
    uint32_t length = store_read_answer_encode(&answer, sums, bytes);

    (void)state;
    assert_int_equal(store_read_answer_decode(bytes, length, &back, back_sums), 0);
    assert_memory_equal(sums, back_sums, 3 * sizeof(*sums));
    assert_int_equal(back.bad.bits[0], 5);
    assert_int_equal(store_read_answer_decode(bytes, length - 8, &back, back_sums), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records),           cmocka_unit_test(test_acks_and_breaks),
        cmocka_unit_test(test_calls_have_bounds), cmocka_unit_test(test_seal_answer),
        cmocka_unit_test(test_read_answer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
