/* What the erasure code does on one core: encoding, changing by delta and decoding two lost
 * columns, for the shapes that volumes get, at the size of a block and of a stripe's unit. Prints
 * GB of data columns a second ("update": of the changed column), next to ISA-L's own encode.
 *
 *   bench_erasure [milliseconds a line] */
#include <isa-l/erasure_code.h>
#include <stdio.h>
#include <time.h>

#include "resiliency/erasure.h"

#define UNIT (64 * KIB)

struct bench {
    unsigned k;
    size_t length;
    struct erasure *erasure;
    unsigned char matrix[ERASURE_COLUMNS_MAX * ERASURE_DATA_MAX];
    unsigned char tables[32 * ERASURE_DATA_MAX * ERASURE_PARITY_MAX];
    void *columns[ERASURE_COLUMNS_MAX];
};

static void run_isal(struct bench *bench)
{
    ec_encode_data((int)bench->length, (int)bench->k, 2, bench->tables,
                   (unsigned char **)bench->columns, (unsigned char **)&bench->columns[bench->k]);
}

static void run_encode(struct bench *bench)
{
    erasure_encode(bench->erasure, bench->length, (const void *const *)bench->columns,
                   &bench->columns[bench->k]);
}

static void run_update(struct bench *bench)
{
    erasure_update(bench->erasure, bench->length, 0, bench->columns[0], &bench->columns[bench->k]);
}

static void run_decode(struct bench *bench)
{
    uint32_t lost = BIT(0) | BIT(1), all = BIT(bench->k + 2) - 1;

    if (erasure_decode(bench->erasure, bench->length, all & ~lost, lost, bench->columns) < 0)
        abort();
}

static double now_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double rate(struct bench *bench, void (*run)(struct bench *), size_t bytes, double seconds)
{
    double start = now_seconds(), end;
    unsigned long rounds = 0;

    do {
        for (int i = 0; i < 16; i++)
            run(bench);
        rounds += 16;
        end = now_seconds();
    } while (end - start < seconds);
    return (double)rounds * (double)bytes / (end - start) / 1e9;
}

static void bench_shape(unsigned k, size_t length, double seconds)
{
    struct bench bench = {.k = k, .length = length};
    size_t all = k * length;

    for (unsigned i = 0; i < k + 2; i++) {
        bench.columns[i] = aligned_alloc(BLOCK_SIZE, length);
        assert(bench.columns[i]);
        memset(bench.columns[i], (int)(i + 1), length);
    }
    if (erasure_new(k, 2, &bench.erasure) < 0)
        abort();
    gf_gen_cauchy1_matrix(bench.matrix, (int)k + 2, (int)k);
    ec_init_tables((int)k, 2, bench.matrix + k * k, bench.tables);
    printf("%u+2 %3zu KiB: isa-l %.1f, encode %.1f, update %.1f, decode two %.1f GB/s\n", k,
           length / KIB, rate(&bench, run_isal, all, seconds),
           rate(&bench, run_encode, all, seconds), rate(&bench, run_update, length, seconds),
           rate(&bench, run_decode, all, seconds));
    erasure_free(bench.erasure);
    for (unsigned i = 0; i < k + 2; i++)
        free(bench.columns[i]);
}

int main(int argc, char **argv)
{
    double seconds = (argc > 1 ? atof(argv[1]) : 100) / 1000;
    static const unsigned shapes[] = {2, 4, 6};

    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        bench_shape(shapes[i], BLOCK_SIZE, seconds);
        bench_shape(shapes[i], UNIT, seconds);
    }
    return 0;
}
