/* The generator is a Cauchy matrix: every square part of it is invertible by construction, so any k
 * columns decode for every shape, without a table of which shapes were found safe. (A Vandermonde
 * matrix would make the first parity a plain XOR, but is safe only within tested limits, and costs
 * the same with ISA-L's kernels.)
 *
 * Decoding inverts the rows of the columns at hand. The last few inversions are kept: a column that
 * is gone is gone for many reads. */
#include "resiliency/erasure.h"

#include <isa-l/erasure_code.h>

#define TABLE_BYTES 32 /* of a coefficient, at most: see ec_init_tables() */
#define PLANS 16

struct plan { /* how to get `want` from `have` */
    uint32_t have, want;
    unsigned rows;
    unsigned char *tables; /* NULL: not in use */
};

struct erasure {
    unsigned data_count, parity_count;
    unsigned char matrix[ERASURE_COLUMNS_MAX * ERASURE_DATA_MAX]; /* a row to each column */
    unsigned char *tables;                                        /* of the parity rows */
    struct plan plans[PLANS];
    unsigned next_plan;
};

int erasure_new(unsigned data_count, unsigned parity_count, struct erasure **ret_erasure)
{
    cleanup(erasure_freep) struct erasure *erasure = NULL;

    if (data_count == 0 || data_count > ERASURE_DATA_MAX || parity_count == 0 ||
        parity_count > ERASURE_PARITY_MAX)
        return -EINVAL;
    erasure = calloc(1, sizeof(*erasure));
    if (!erasure)
        return -ENOMEM;
    erasure->data_count = data_count;
    erasure->parity_count = parity_count;
    erasure->tables = calloc(data_count * parity_count, TABLE_BYTES);
    if (!erasure->tables)
        return -ENOMEM;
    gf_gen_cauchy1_matrix(erasure->matrix, (int)(data_count + parity_count), (int)data_count);
    ec_init_tables((int)data_count, (int)parity_count, erasure->matrix + data_count * data_count,
                   erasure->tables);
    *ret_erasure = take_ptr(erasure);
    return 0;
}

void erasure_free(struct erasure *erasure)
{
    if (!erasure)
        return;
    for (size_t i = 0; i < PLANS; i++)
        free(erasure->plans[i].tables);
    free(erasure->tables);
    free(erasure);
}

void erasure_encode(const struct erasure *erasure, size_t length, const void *const *data,
                    void *const *parity)
{
    assert(length <= INT32_MAX);
    /* ISA-L's prototypes lack const; it reads data and tables only */
    ec_encode_data((int)length, (int)erasure->data_count, (int)erasure->parity_count,
                   erasure->tables, (unsigned char **)data, (unsigned char **)parity);
}

void erasure_update(const struct erasure *erasure, size_t length, unsigned index, const void *delta,
                    void *const *parity)
{
    assert(length <= INT32_MAX);
    assert(index < erasure->data_count);
    ec_encode_data_update((int)length, (int)erasure->data_count, (int)erasure->parity_count,
                          (int)index, erasure->tables, (unsigned char *)delta,
                          (unsigned char **)parity);
}

/* ---- decoding ---- */

/* The first k columns of the set. Returns how many there are. */
static unsigned list_sources(const struct erasure *erasure, uint32_t have, unsigned *ret_sources)
{
    unsigned count = 0;

    for (unsigned i = 0; i < ERASURE_COLUMNS_MAX && count < erasure->data_count; i++)
        if (have & BIT(i))
            ret_sources[count++] = i;
    return count;
}

/* The row that makes one lost column from the sources: its own row of the generator times the
 * inverse of the sources' rows. */
static void decode_row(const struct erasure *erasure, const unsigned char *inverse, unsigned column,
                       unsigned char *ret_row)
{
    unsigned k = erasure->data_count;

    for (unsigned j = 0; j < k; j++) {
        unsigned char sum = 0;

        for (unsigned i = 0; i < k; i++)
            sum ^= gf_mul(erasure->matrix[column * k + i], inverse[i * k + j]);
        ret_row[j] = sum;
    }
}

static int plan_make(const struct erasure *erasure, const unsigned *sources, struct plan *plan)
{
    unsigned char rows[ERASURE_DATA_MAX * ERASURE_DATA_MAX], inverse[sizeof(rows)];
    unsigned char wanted[ERASURE_COLUMNS_MAX * ERASURE_DATA_MAX];
    unsigned k = erasure->data_count;

    for (unsigned i = 0; i < k; i++)
        memcpy(rows + i * k, erasure->matrix + sources[i] * k, k);
    if (gf_invert_matrix(rows, inverse, (int)k) < 0)
        return -EINVAL; /* cannot be, with a Cauchy matrix */
    plan->rows = 0;
    for (unsigned i = 0; i < ERASURE_COLUMNS_MAX; i++)
        if (plan->want & BIT(i))
            decode_row(erasure, inverse, i, wanted + plan->rows++ * k);
    plan->tables = calloc(k * plan->rows, TABLE_BYTES);
    if (!plan->tables)
        return -ENOMEM;
    ec_init_tables((int)k, (int)plan->rows, wanted, plan->tables);
    return 0;
}

static int plan_find(struct erasure *erasure, uint32_t have, uint32_t want, const unsigned *sources,
                     const struct plan **ret_plan)
{
    struct plan fresh = {.have = have, .want = want};
    struct plan *place;
    int r;

    for (size_t i = 0; i < PLANS; i++) {
        const struct plan *plan = &erasure->plans[i];

        if (plan->tables && plan->have == have && plan->want == want) {
            *ret_plan = plan;
            return 0;
        }
    }
    r = plan_make(erasure, sources, &fresh);
    if (r < 0)
        return r;
    place = &erasure->plans[erasure->next_plan++ % PLANS];
    free(place->tables);
    *place = fresh;
    *ret_plan = place;
    return 0;
}

int erasure_decode(struct erasure *erasure, size_t length, uint32_t have, uint32_t want,
                   void *const *columns)
{
    unsigned char *from[ERASURE_DATA_MAX], *to[ERASURE_COLUMNS_MAX];
    uint32_t all = BIT(erasure->data_count + erasure->parity_count) - 1, used = 0;
    unsigned sources[ERASURE_DATA_MAX], rows = 0;
    const struct plan *plan;
    int r;

    assert(length <= INT32_MAX);
    if ((have | want) & ~all || have & want ||
        list_sources(erasure, have, sources) < erasure->data_count)
        return -EINVAL;
    if (want == 0)
        return 0;
    for (unsigned i = 0; i < erasure->data_count; i++) {
        used |= BIT(sources[i]);
        from[i] = columns[sources[i]];
    }
    for (unsigned i = 0; i < ERASURE_COLUMNS_MAX; i++)
        if (want & BIT(i))
            to[rows++] = columns[i];
    r = plan_find(erasure, used, want, sources, &plan);
    if (r < 0)
        return r;
    assert(plan->rows == rows);
    ec_encode_data((int)length, (int)erasure->data_count, (int)rows, plan->tables, from, to);
    return 0;
}

void erasure_xor(void *to, const void *from, size_t length)
{
    uint64_t *words = to;
    const uint64_t *more = from;

    assert(length % sizeof(*words) == 0);
    for (size_t i = 0; i < length / sizeof(*words); i++)
        words[i] ^= more[i];
}

/* ---- is the library to be trusted on this machine? ---- */

#define TEST_BYTES 256 /* more than the widest kernel takes at once, and a tail for the others */

struct self_test {
    uint64_t random;
    unsigned char right[ERASURE_COLUMNS_MAX][TEST_BYTES];
    unsigned char got[ERASURE_COLUMNS_MAX][TEST_BYTES];
    unsigned char delta[TEST_BYTES];
};

static void test_fill(struct self_test *test, unsigned char *bytes)
{
    for (size_t i = 0; i < TEST_BYTES; i++) {
        test->random = test->random * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (unsigned char)(test->random >> 56);
    }
}

/* The codeword of the test's data, into test->right. */
static void test_encode(struct erasure *erasure, struct self_test *test)
{
    const void *data[ERASURE_DATA_MAX];
    void *parity[ERASURE_PARITY_MAX];

    for (unsigned i = 0; i < erasure->data_count; i++)
        data[i] = test->right[i];
    for (unsigned i = 0; i < erasure->parity_count; i++)
        parity[i] = test->right[erasure->data_count + i];
    erasure_encode(erasure, TEST_BYTES, data, parity);
}

static int test_pattern(struct erasure *erasure, struct self_test *test, uint32_t lost)
{
    unsigned count = erasure->data_count + erasure->parity_count;
    void *columns[ERASURE_COLUMNS_MAX];
    int r;

    for (unsigned i = 0; i < count; i++) {
        columns[i] = lost & BIT(i) ? test->got[i] : test->right[i];
        memset(test->got[i], 0x5a, TEST_BYTES);
    }
    r = erasure_decode(erasure, TEST_BYTES, (BIT(count) - 1) & ~lost, lost, columns);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < count; i++)
        if (lost & BIT(i) && memcmp(test->got[i], test->right[i], TEST_BYTES) != 0)
            return -EBADMSG;
    return 0;
}

static int test_patterns(struct erasure *erasure, struct self_test *test)
{
    unsigned count = erasure->data_count + erasure->parity_count;

    for (unsigned i = 0; i < count; i++)
        for (unsigned j = i; j < count; j++) {
            uint32_t lost = BIT(i) | BIT(j);
            int r;

            if (i != j && erasure->parity_count < 2)
                continue;
            r = test_pattern(erasure, test, lost);
            if (r < 0)
                return r;
        }
    return 0;
}

/* Changing a column by delta gives what encoding anew gives. */
static int test_updates(struct erasure *erasure, struct self_test *test)
{
    unsigned k = erasure->data_count;
    void *parity[ERASURE_PARITY_MAX];

    for (unsigned index = 0; index < k; index++) {
        for (unsigned i = 0; i < erasure->parity_count; i++) {
            parity[i] = test->got[k + i];
            memcpy(parity[i], test->right[k + i], TEST_BYTES);
        }
        test_fill(test, test->delta);
        erasure_update(erasure, TEST_BYTES, index, test->delta, parity);
        erasure_xor(test->right[index], test->delta, TEST_BYTES);
        test_encode(erasure, test);
        for (unsigned i = 0; i < erasure->parity_count; i++)
            if (memcmp(parity[i], test->right[k + i], TEST_BYTES) != 0)
                return -EBADMSG;
    }
    return 0;
}

static int test_shape(unsigned data_count, unsigned parity_count, struct self_test *test)
{
    cleanup(erasure_freep) struct erasure *erasure = NULL;
    int r;

    r = erasure_new(data_count, parity_count, &erasure);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < data_count; i++)
        test_fill(test, test->right[i]);
    test_encode(erasure, test);
    r = test_patterns(erasure, test);
    if (r == 0)
        r = test_updates(erasure, test);
    if (r == 0)
        r = test_patterns(erasure, test);
    return r == -EINVAL ? -EBADMSG : r; /* a matrix that could not be inverted is nonsense too */
}

int erasure_self_test(uint64_t seed)
{
    cleanup(freep) struct self_test *test = aligned_alloc(64, ALIGN_UP(sizeof(*test), 64));

    if (!test)
        return -ENOMEM;
    test->random = seed;
    for (unsigned data = 1; data <= ERASURE_DATA_MAX; data++)
        for (unsigned parity = 1; parity <= ERASURE_PARITY_MAX; parity++) {
            int r = test_shape(data, parity, test);

            if (r < 0)
                return r;
        }
    return 0;
}
