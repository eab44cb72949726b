#include "cache-tier/rotten.h"

void rotten_note(struct rotten *rotten, uint64_t key)
{
    for (uint32_t i = 0; i < rotten->count; i++)
        if (rotten->keys[i] == key)
            return;
    if (rotten->count < ROTTEN_MAX)
        rotten->keys[rotten->count++] = key;
}

void rotten_forget(struct rotten *rotten, uint64_t key, uint64_t count)
{
    uint32_t left = 0;

    for (uint32_t i = 0; i < rotten->count; i++)
        if (rotten->keys[i] < key || rotten->keys[i] - key >= count)
            rotten->keys[left++] = rotten->keys[i];
    rotten->count = left;
}
