#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "resiliency/erasure.h"

#define LENGTH 200 /* no multiple of what the kernels take at once */

/* ---- a plain GF(2^8), one bit at a time ---- */

static uint8_t plain_multiply(uint8_t a, uint8_t b)
{
    uint8_t product = 0;

    for (int bit = 0; bit < 8; bit++) {
        if (b & 1)
            product ^= a;
        a = (uint8_t)(a << 1 ^ (a & 0x80 ? 0x1d : 0)); /* x^8 + x^4 + x^3 + x^2 + 1 */
        b >>= 1;
    }
    return product;
}

static uint8_t plain_inverse(uint8_t a)
{
    for (unsigned b = 1; b < 256; b++)
        if (plain_multiply(a, (uint8_t)b) == 1)
            return (uint8_t)b;
    return 0;
}

/* Cauchy: the coefficient of data column j in the parity column that is column i of all. */
static uint8_t plain_coefficient(unsigned i, unsigned j)
{
    return plain_inverse((uint8_t)(i ^ j));
}

/* ---- a codeword ---- */

struct word {
    unsigned k, m;
    _Alignas(8) uint8_t columns[ERASURE_COLUMNS_MAX][LENGTH];
};

static void fill(uint8_t *data, uint32_t seed)
{
    for (size_t i = 0; i < LENGTH; i++) {
        seed = seed * 1664525 + 1013904223;
        data[i] = (uint8_t)(seed >> 24);
    }
}

static void plain_encode(struct word *word)
{
    for (unsigned i = word->k; i < word->k + word->m; i++)
        for (size_t at = 0; at < LENGTH; at++) {
            uint8_t sum = 0;

            for (unsigned j = 0; j < word->k; j++)
                sum ^= plain_multiply(plain_coefficient(i, j), word->columns[j][at]);
            word->columns[i][at] = sum;
        }
}

static struct word plain_word(unsigned k, unsigned m, uint32_t seed)
{
    struct word word = {.k = k, .m = m};

    for (unsigned i = 0; i < k; i++)
        fill(word.columns[i], seed + i);
    plain_encode(&word);
    return word;
}

static struct erasure *new_erasure(unsigned k, unsigned m)
{
    struct erasure *erasure = NULL;

    assert_int_equal(erasure_new(k, m, &erasure), 0);
    return erasure;
}

/* ---- promises ---- */

/* What is on disk must mean the same to every release and every CPU: the code is the plain one. */
static void encoding_is_the_plain_code(void **state)
{
    (void)state;
    for (unsigned k = 1; k <= ERASURE_DATA_MAX; k++) {
        cleanup(erasure_freep) struct erasure *erasure = new_erasure(k, 2);
        struct word word = plain_word(k, 2, k);
        uint8_t p[LENGTH], q[LENGTH];
        const void *data[ERASURE_DATA_MAX];
        void *parity[] = {p, q};

        for (unsigned i = 0; i < k; i++)
            data[i] = word.columns[i];
        erasure_encode(erasure, LENGTH, data, parity);
        assert_memory_equal(p, word.columns[k], LENGTH);
        assert_memory_equal(q, word.columns[k + 1], LENGTH);
    }
}

static void any_two_lost_columns_come_back(void **state)
{
    (void)state;
    for (unsigned k = 1; k <= ERASURE_DATA_MAX; k++) {
        cleanup(erasure_freep) struct erasure *erasure = new_erasure(k, 2);
        struct word word = plain_word(k, 2, 7 * k);

        for (unsigned a = 0; a < k + 2; a++)
            for (unsigned b = a; b < k + 2; b++) {
                uint32_t lost = BIT(a) | BIT(b);
                struct word got = word;
                void *columns[ERASURE_COLUMNS_MAX];

                for (unsigned i = 0; i < k + 2; i++)
                    columns[i] = got.columns[i];
                memset(got.columns[a], 0xee, LENGTH);
                memset(got.columns[b], 0xee, LENGTH);
                assert_int_equal(
                    erasure_decode(erasure, LENGTH, (BIT(k + 2) - 1) & ~lost, lost, columns), 0);
                assert_memory_equal(&got, &word, sizeof(word));
            }
    }
}

/* Exactly k columns, and only one of the lost is asked for: the other's pointer is never used. */
static void one_of_two_lost_columns_comes_back_alone(void **state)
{
    cleanup(erasure_freep) struct erasure *erasure = new_erasure(4, 2);
    struct word word = plain_word(4, 2, 3), got = word;
    void *columns[ERASURE_COLUMNS_MAX] = {NULL};

    (void)state;
    for (unsigned i = 0; i < 6; i++)
        columns[i] = i == 1 ? NULL : got.columns[i];
    memset(got.columns[3], 0, LENGTH);
    assert_int_equal(erasure_decode(erasure, LENGTH, 0x35, BIT(3), columns), 0);
    assert_memory_equal(got.columns[3], word.columns[3], LENGTH);
}

static void a_delta_is_as_good_as_encoding_again(void **state)
{
    cleanup(erasure_freep) struct erasure *erasure = new_erasure(6, 2);

    (void)state;
    for (unsigned index = 0; index < 6; index++) {
        struct word word = plain_word(6, 2, index);
        _Alignas(8) uint8_t fresh[LENGTH], delta[LENGTH];
        struct word after = word;
        void *parity[] = {word.columns[6], word.columns[7]};

        fill(fresh, 1000 + index);
        memcpy(delta, fresh, LENGTH);
        erasure_xor(delta, word.columns[index], LENGTH);
        erasure_update(erasure, LENGTH, index, delta, parity);
        memcpy(after.columns[index], fresh, LENGTH);
        plain_encode(&after);
        assert_memory_equal(word.columns[6], after.columns[6], LENGTH);
        assert_memory_equal(word.columns[7], after.columns[7], LENGTH);
    }
}

/* Unwritten blocks read as zeros on every column: zeros must be a codeword (I10). */
static void zeros_have_parity_zero(void **state)
{
    cleanup(erasure_freep) struct erasure *erasure = new_erasure(4, 2);
    uint8_t zeros[LENGTH] = {0}, p[LENGTH], q[LENGTH];
    const void *data[] = {zeros, zeros, zeros, zeros};
    void *parity[] = {p, q};

    (void)state;
    erasure_encode(erasure, LENGTH, data, parity);
    assert_memory_equal(p, zeros, LENGTH);
    assert_memory_equal(q, zeros, LENGTH);
}

/* More patterns than are remembered: an old one is made again. */
static void plans_are_remembered_and_forgotten(void **state)
{
    cleanup(erasure_freep) struct erasure *erasure = new_erasure(6, 2);
    struct word word = plain_word(6, 2, 5);

    (void)state;
    for (unsigned round = 0; round < 3; round++)
        for (unsigned a = 0; a < 8; a++)
            for (unsigned b = a + 1; b < 8; b++) {
                uint32_t lost = BIT(a) | BIT(b);
                struct word got = word;
                void *columns[ERASURE_COLUMNS_MAX];

                for (unsigned i = 0; i < 8; i++)
                    columns[i] = got.columns[i];
                memset(got.columns[a], 1, LENGTH);
                memset(got.columns[b], 2, LENGTH);
                assert_int_equal(erasure_decode(erasure, LENGTH, 0xff & ~lost, lost, columns), 0);
                assert_memory_equal(&got, &word, sizeof(word));
            }
}

static void nonsense_is_refused(void **state)
{
    cleanup(erasure_freep) struct erasure *erasure = new_erasure(4, 2);
    struct erasure *none = NULL;
    uint8_t bytes[6][LENGTH] = {0};
    void *columns[] = {bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]};

    (void)state;
    assert_int_equal(erasure_new(0, 2, &none), -EINVAL);
    assert_int_equal(erasure_new(ERASURE_DATA_MAX + 1, 2, &none), -EINVAL);
    assert_int_equal(erasure_new(4, 0, &none), -EINVAL);
    assert_int_equal(erasure_new(4, 3, &none), -EINVAL);
    assert_null(none);
    assert_int_equal(erasure_decode(erasure, LENGTH, 0x07, BIT(3), columns), -EINVAL);
    assert_int_equal(erasure_decode(erasure, LENGTH, 0x0f, BIT(3), columns), -EINVAL);
    assert_int_equal(erasure_decode(erasure, LENGTH, 0x0f, BIT(6), columns), -EINVAL);
    assert_int_equal(erasure_decode(erasure, LENGTH, 0x0f, 0, columns), 0);
}

static void the_library_passes_its_test_here(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++)
        assert_int_equal(erasure_self_test(seed), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoding_is_the_plain_code),
        cmocka_unit_test(any_two_lost_columns_come_back),
        cmocka_unit_test(one_of_two_lost_columns_comes_back_alone),
        cmocka_unit_test(a_delta_is_as_good_as_encoding_again),
        cmocka_unit_test(zeros_have_parity_zero),
        cmocka_unit_test(plans_are_remembered_and_forgotten),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(the_library_passes_its_test_here),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
