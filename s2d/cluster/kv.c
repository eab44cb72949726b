/* Batches, which every kv shares. */
#include "s2d/cluster/kv.h"

void kv_batch_init(struct kv_batch *batch)
{
    *batch = (struct kv_batch){0};
}

void kv_batch_done(struct kv_batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        free(batch->changes[i].key);
        free(batch->changes[i].end_key);
        free(batch->changes[i].value);
    }
    free(batch->changes);
    kv_batch_init(batch);
}

static void *copy_bytes(const void *bytes, size_t count)
{
    void *copy = malloc(count + 1);

    if (!copy)
        abort();
    if (count > 0)
        memcpy(copy, bytes, count);
    ((char *)copy)[count] = '\0';
    return copy;
}

static struct kv_change *next_change(struct kv_batch *batch)
{
    if (batch->count == batch->size) {
        batch->size = MAX(2 * batch->size, 16);
        batch->changes = realloc(batch->changes, batch->size * sizeof(*batch->changes));
        if (!batch->changes)
            abort();
    }
    return &batch->changes[batch->count++];
}

void kv_put(struct kv_batch *batch, const char *key, const void *value, size_t bytes)
{
    *next_change(batch) = (struct kv_change){
        .key = copy_bytes(key, strlen(key)), .value = copy_bytes(value, bytes), .bytes = bytes};
}

void kv_delete(struct kv_batch *batch, const char *key)
{
    *next_change(batch) = (struct kv_change){.key = copy_bytes(key, strlen(key))};
}

void kv_delete_range(struct kv_batch *batch, const char *from, const char *to)
{
    *next_change(batch) = (struct kv_change){.key = copy_bytes(from, strlen(from)),
                                             .end_key = copy_bytes(to, strlen(to))};
}

void kv_batch_append(struct kv_batch *to, struct kv_batch *from)
{
    for (size_t i = 0; i < from->count; i++)
        *next_change(to) = from->changes[i];
    free(from->changes);
    kv_batch_init(from);
}
