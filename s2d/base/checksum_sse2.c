/* XXH3-64 for any CPU of this architecture: SSE2 on x86-64, NEON on AArch64. */
#include "s2d/base/checksum_xxh3.h"

CHECKSUM_DEFINE_CODE(checksum_code_plain);
