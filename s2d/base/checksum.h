/* checksum: the two sums that s2d uses. Pure; the code for this CPU is chosen at the first call.
 * Block checksum (docs/protocol.md): XXH3-64(block) XOR mix64(vdisk, address), 0 replaced by 1;
 * 0 means "unwritten". Structures on disk and messages carry CRC32C. */
#ifndef S2D_BASE_CHECKSUM_H
#define S2D_BASE_CHECKSUM_H

#include "s2d/base/base.h"

/* address: in blocks of the vdisk; parity blocks have a name of their own with the top bit set. */
uint64_t checksum_block(const void *block, uint64_t vdisk, uint64_t address);

/* ret_sums[i] for count blocks that follow each other in memory and in address. */
void checksum_blocks(const void *blocks, size_t count, uint64_t vdisk, uint64_t address,
                     uint64_t *ret_sums);

/* Index of the first of count blocks whose sum is not sums[i]; count if all match. A sum of 0
 * matches zeros only. */
size_t checksum_verify(const void *blocks, size_t count, uint64_t vdisk, uint64_t address,
                       const uint64_t *sums);

/* The sum that the same contents have at another place; no pass over the data. 0 stays 0. */
uint64_t checksum_move(uint64_t sum, uint64_t vdisk, uint64_t address, uint64_t to_vdisk,
                       uint64_t to_address);

/* XXH3-64 of any bytes. */
uint64_t hash64(const void *data, size_t length);

uint32_t crc32c(const void *data, size_t length);
uint32_t crc32c_more(uint32_t crc, const void *data,
                     size_t length); /* crc32c(a+b) from crc32c(a) */

#endif
