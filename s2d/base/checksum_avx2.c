/* XXH3-64 for x86-64 with AVX2; compiled with -mavx2, called only where the CPU has it. */
#if defined(__x86_64__)

#define XXH_VECTOR XXH_AVX2
#include "s2d/base/checksum_xxh3.h"

CHECKSUM_DEFINE_CODE(checksum_code_avx2);

#endif
