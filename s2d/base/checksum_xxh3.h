/* checksum_xxh3: XXH3-64 compiled for one kind of CPU. Private to checksum*.c. A file that includes
 * this defines CHECKSUM_SUFFIX (and XXH_VECTOR, and is compiled with the flags that it needs) and
 * gets the two functions of struct checksum_code under names of its own. */
#ifndef S2D_BASE_CHECKSUM_XXH3_H
#define S2D_BASE_CHECKSUM_XXH3_H

#include "s2d/base/base.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

struct checksum_code {
    uint64_t (*hash)(const void *data, size_t length);
    uint64_t (*hash_block)(
        const void *block); /* BLOCK_SIZE bytes: the length is known to the compiler */
};

extern const struct checksum_code
    checksum_code_plain; /* what the compiler may assume: SSE2, NEON */
#if defined(__x86_64__)
extern const struct checksum_code checksum_code_avx2;
extern const struct checksum_code checksum_code_avx512;
#endif

#define CHECKSUM_DEFINE_CODE(name)                                                                 \
    static uint64_t hash(const void *data, size_t length)                                          \
    {                                                                                              \
        return XXH3_64bits(data, length);                                                          \
    }                                                                                              \
    static uint64_t hash_block(const void *block)                                                  \
    {                                                                                              \
        return XXH3_64bits(block, BLOCK_SIZE);                                                     \
    }                                                                                              \
    const struct checksum_code name = {hash, hash_block}

#endif
