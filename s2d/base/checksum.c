/* checksum: a block's sum is hash(contents) XOR mix64(place), so place and contents can be taken
 * apart again: checksum_move() gives the sum of a copy without reading it. CRC32C is ISA-L's. */
#include "s2d/base/checksum.h"

#include <isa-l/crc.h>

#include "s2d/base/checksum_xxh3.h"

static const struct checksum_code *chosen_code; /* NULL until the first call; then constant */

static const struct checksum_code *choose_code(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return &checksum_code_avx512;
    if (__builtin_cpu_supports("avx2"))
        return &checksum_code_avx2;
#endif
    return &checksum_code_plain;
}

/* Threads that race here store the same value. */
static const struct checksum_code *code(void)
{
    const struct checksum_code *now = __atomic_load_n(&chosen_code, __ATOMIC_RELAXED);

    if (!now) {
        now = choose_code();
        __atomic_store_n(&chosen_code, now, __ATOMIC_RELAXED);
    }
    return now;
}

/* The finaliser of splitmix64: each bit of the input moves each bit of the output. */
static uint64_t scramble(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* On disk: never to change. The vdisk is scrambled before the address comes in, so that neighbours
 * in both do not meet. */
static uint64_t mix64(uint64_t vdisk, uint64_t address)
{
    return scramble(scramble(vdisk + 0x9e3779b97f4a7c15u) + address);
}

static uint64_t never_zero(uint64_t sum)
{
    return sum ? sum : 1;
}

uint64_t checksum_block(const void *block, uint64_t vdisk, uint64_t address)
{
    return never_zero(code()->hash_block(block) ^ mix64(vdisk, address));
}

void checksum_blocks(const void *blocks, size_t count, uint64_t vdisk, uint64_t address,
                     uint64_t *ret_sums)
{
    const char *block = blocks;

    for (size_t i = 0; i < count; i++)
        ret_sums[i] = checksum_block(block + i * BLOCK_SIZE, vdisk, address + i);
}

static bool block_is_zero(const void *block)
{
    static const char zeros[BLOCK_SIZE];

    return memcmp(block, zeros, BLOCK_SIZE) == 0;
}

size_t checksum_verify(const void *blocks, size_t count, uint64_t vdisk, uint64_t address,
                       const uint64_t *sums)
{
    const char *block = blocks;

    for (size_t i = 0; i < count; i++, block += BLOCK_SIZE) {
        if (sums[i] == 0 ? !block_is_zero(block)
                         : checksum_block(block, vdisk, address + i) != sums[i])
            return i;
    }
    return count;
}

/* A sum of 1 may stand for a 0 that was replaced; then the result is off by that bit and a reader
 * sees a mismatch where there is none. That is one block in 2^64, and such a mismatch is repaired
 * like any other. */
uint64_t checksum_move(uint64_t sum, uint64_t vdisk, uint64_t address, uint64_t to_vdisk,
                       uint64_t to_address)
{
    if (sum == 0)
        return 0;
    return never_zero(sum ^ mix64(vdisk, address) ^ mix64(to_vdisk, to_address));
}

uint64_t hash64(const void *data, size_t length)
{
    return code()->hash(data, length);
}

uint32_t crc32c(const void *data, size_t length)
{
    return crc32c_more(0, data, length);
}

/* ISA-L works on the bare register: CRC32C begins with all ones and ends inverted. It counts in
 * int. */
uint32_t crc32c_more(uint32_t crc, const void *data, size_t length)
{
    unsigned char *at = (unsigned char *)data; /* not const in its prototype, but only read */
    uint32_t state = ~crc;

    while (length > 0) {
        int piece = (int)MIN(length, (size_t)1 << 30);

        state = crc32_iscsi(at, piece, state);
        at += piece;
        length -= (size_t)piece;
    }
    return ~state;
}
