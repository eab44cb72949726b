/* kv_contents: what a key-value store holds, as a batch that would write it again. */
#ifndef TESTS_UNIT_KV_CONTENTS_H
#define TESTS_UNIT_KV_CONTENTS_H

#include "s2d/cluster/kv.h"

static inline int kv_contents_put(void *arg, const char *key, const void *value, size_t bytes)
{
    kv_put(arg, key, value, bytes);
    return 0;
}

/* Adds all keys that begin with prefix. */
must_check static inline int kv_contents(struct kv *kv, const char *prefix, struct kv_batch *batch)
{
    return kv_each(kv, prefix, kv_contents_put, batch);
}

#endif
