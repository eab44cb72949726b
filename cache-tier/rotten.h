/* rotten: the blocks of a store that were found not to match their checksums, and have been neither
 * written nor read well since. In RAM: after a restart nothing is known until it is read again.
 *
 * Almost always empty, and then every call is one comparison. Blocks are named by store_key().
 * Nothing suspends. */
#ifndef S2D_CACHE_TIER_ROTTEN_H
#define S2D_CACHE_TIER_ROTTEN_H

#include "s2d/base/base.h"

#define ROTTEN_MAX 1024 /* a disk with more is past counting: further ones are not remembered */

struct rotten {
    uint32_t count;
    uint64_t keys[ROTTEN_MAX];
};

void rotten_note(struct rotten *rotten, uint64_t key);
/* [key, key + count) is as it should be, or nobody's any more. */
void rotten_forget(struct rotten *rotten, uint64_t key, uint64_t count);

#endif
