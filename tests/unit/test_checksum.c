#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/checksum.h"
#include "s2d/base/checksum_xxh3.h"

#define BLOCKS 8

static void fill(uint8_t *data, size_t length, uint32_t seed)
{
    for (size_t i = 0; i < length; i++) {
        seed = seed * 1664525 + 1013904223;
        data[i] = (uint8_t)(seed >> 24);
    }
}

/* Published vectors: what is on our disks must be CRC32C to everybody. */
static void crc32c_is_the_standard_one(void **state)
{
    uint8_t zeros[32] = {0}, ones[32];

    (void)state;
    memset(ones, 0xff, sizeof(ones));
    assert_int_equal(crc32c("123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(zeros, 32), 0x8a9136aa); /* RFC 3720, B.4 */
    assert_int_equal(crc32c(ones, 32), 0x62a8ab43);
    assert_int_equal(crc32c("", 0), 0);
}

/* A plain one that is obviously right. */
static uint32_t crc32c_by_bit(const uint8_t *data, size_t length)
{
    uint32_t crc = ~0u;

    for (size_t i = 0; i < length; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

static void crc32c_goes_on_where_it_stopped(void **state)
{
    uint8_t data[300];

    (void)state;
    fill(data, sizeof(data), 1);
    for (size_t cut = 0; cut <= sizeof(data); cut++) {
        uint32_t first = crc32c(data, cut);

        assert_int_equal(first, crc32c_by_bit(data, cut));
        assert_int_equal(crc32c_more(first, data + cut, sizeof(data) - cut),
                         crc32c_by_bit(data, sizeof(data)));
    }
}

/* A node with another CPU must read what this one wrote. */
static void every_cpu_computes_the_same(void **state)
{
    const struct checksum_code *codes[3] = {&checksum_code_plain};
    size_t count = 1;
    uint8_t data[BLOCK_SIZE + 300];

    (void)state;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        codes[count++] = &checksum_code_avx2;
    if (__builtin_cpu_supports("avx512f"))
        codes[count++] = &checksum_code_avx512;
#endif
    fill(data, sizeof(data), 2);
    for (size_t i = 0; i < count; i++) {
        for (size_t length = 0; length < sizeof(data); length += 1 + length / 3)
            assert_int_equal(codes[i]->hash(data, length), checksum_code_plain.hash(data, length));
        assert_int_equal(codes[i]->hash_block(data), checksum_code_plain.hash(data, BLOCK_SIZE));
    }
}

/* Formats rest on these numbers. They may only change with a format's version. */
static void values_never_change(void **state)
{
    static uint8_t block[BLOCK_SIZE];

    (void)state;
    fill(block, sizeof(block), 3);
    assert_int_equal(hash64("", 0), 0x2d06800538d394c2); /* xxHash's own vector */
    assert_int_equal(checksum_block(block, 1, 2), 0x0bad792063859bf0);
}

/* A block that landed in the wrong place is caught, though its contents are whole. */
static void sum_depends_on_the_place(void **state)
{
    static uint8_t block[BLOCK_SIZE];
    uint64_t sum = checksum_block(block, 5, 7);

    (void)state;
    assert_int_not_equal(checksum_block(block, 5, 8), sum);
    assert_int_not_equal(checksum_block(block, 6, 7), sum);
    assert_int_not_equal(checksum_block(block, 7, 5), sum);
    assert_int_not_equal(checksum_block(block, 6, 6), sum);
    assert_int_not_equal(checksum_block(block, 5, 7 | UINT64_C(1) << 63), sum);
}

static void moved_sum_is_that_of_a_copy(void **state)
{
    static uint8_t block[BLOCK_SIZE];

    (void)state;
    fill(block, sizeof(block), 4);
    assert_int_equal(checksum_move(checksum_block(block, 5, 7), 5, 7, 9, 1000),
                     checksum_block(block, 9, 1000));
    assert_int_equal(checksum_move(0, 5, 7, 9, 1000), 0); /* unwritten stays so */
}

static void verify_finds_the_first_bad_block(void **state)
{
    static uint8_t blocks[BLOCKS * BLOCK_SIZE];
    uint64_t sums[BLOCKS];

    (void)state;
    fill(blocks, sizeof(blocks), 5);
    memset(blocks + 3 * BLOCK_SIZE, 0, BLOCK_SIZE);
    checksum_blocks(blocks, BLOCKS, 1, 100, sums);
    assert_int_equal(checksum_verify(blocks, BLOCKS, 1, 100, sums), BLOCKS);
    assert_int_equal(checksum_verify(blocks, BLOCKS, 1, 101, sums), 0);

    sums[3] = 0; /* unwritten, and zeros */
    assert_int_equal(checksum_verify(blocks, BLOCKS, 1, 100, sums), BLOCKS);
    blocks[4 * BLOCK_SIZE - 1] ^= 1;
    assert_int_equal(checksum_verify(blocks, BLOCKS, 1, 100, sums), 3);
    blocks[4 * BLOCK_SIZE - 1] ^= 1;
    for (size_t bit = 0; bit < 8 * BLOCK_SIZE; bit += 1021) {
        blocks[5 * BLOCK_SIZE + bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(checksum_verify(blocks, BLOCKS, 1, 100, sums), 5);
        blocks[5 * BLOCK_SIZE + bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc32c_is_the_standard_one),
        cmocka_unit_test(crc32c_goes_on_where_it_stopped),
        cmocka_unit_test(every_cpu_computes_the_same),
        cmocka_unit_test(values_never_change),
        cmocka_unit_test(sum_depends_on_the_place),
        cmocka_unit_test(moved_sum_is_that_of_a_copy),
        cmocka_unit_test(verify_finds_the_first_bad_block),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
