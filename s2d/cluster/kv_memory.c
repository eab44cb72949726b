/* The key-value store in memory: a sorted array on a "disk" that outlives its opener, as the disk
 * of a crashed machine does. */
#include "s2d/cluster/kv.h"

struct entry {
    char *key;
    void *value;
    size_t bytes;
};

struct kv_disk {
    struct entry *entries;
    size_t count, size;
    bool frozen;
};

struct kv_memory {
    struct kv kv;
    struct kv_disk *disk;
};

int kv_disk_new(struct kv_disk **ret_disk)
{
    *ret_disk = calloc(1, sizeof(**ret_disk));
    return *ret_disk ? 0 : -ENOMEM;
}

void kv_disk_freeze(struct kv_disk *disk)
{
    disk->frozen = true;
}

void kv_disk_free(struct kv_disk *disk)
{
    if (!disk)
        return;
    for (size_t i = 0; i < disk->count; i++) {
        free(disk->entries[i].key);
        free(disk->entries[i].value);
    }
    free(disk->entries);
    free(disk);
}

static size_t lower_bound(const struct kv_disk *disk, const char *key)
{
    size_t low = 0, high = disk->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (strcmp(disk->entries[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void remove_range(struct kv_disk *disk, size_t first, size_t last)
{
    if (first == last)
        return;
    for (size_t i = first; i < last; i++) {
        free(disk->entries[i].key);
        free(disk->entries[i].value);
    }
    memmove(disk->entries + first, disk->entries + last,
            (disk->count - last) * sizeof(*disk->entries));
    disk->count -= last - first;
}

static int put(struct kv_disk *disk, const struct kv_change *change)
{
    size_t at = lower_bound(disk, change->key);
    struct entry entry = {.key = strdup(change->key), .bytes = change->bytes};

    entry.value = malloc(change->bytes + 1);
    if (!entry.key || !entry.value) {
        free(entry.key);
        free(entry.value);
        return -EIO;
    }
    memcpy(entry.value, change->value, change->bytes);
    if (at < disk->count && strcmp(disk->entries[at].key, change->key) == 0)
        remove_range(disk, at, at + 1);
    if (disk->count == disk->size) {
        disk->size = MAX(2 * disk->size, 64);
        disk->entries = realloc(disk->entries, disk->size * sizeof(*disk->entries));
        if (!disk->entries)
            abort();
    }
    memmove(disk->entries + at + 1, disk->entries + at,
            (disk->count - at) * sizeof(*disk->entries));
    disk->entries[at] = entry;
    disk->count++;
    return 0;
}

static int memory_write(struct kv *kv, const struct kv_batch *batch)
{
    struct kv_disk *disk = container_of(kv, struct kv_memory, kv)->disk;

    if (disk->frozen)
        return -EIO;
    for (size_t i = 0; i < batch->count; i++) {
        const struct kv_change *change = &batch->changes[i];
        size_t at = lower_bound(disk, change->key);
        int r = 0;

        if (change->value)
            r = put(disk, change);
        else if (change->end_key)
            remove_range(disk, at, MAX(at, lower_bound(disk, change->end_key)));
        else if (at < disk->count && strcmp(disk->entries[at].key, change->key) == 0)
            remove_range(disk, at, at + 1);
        if (r < 0)
            return r;
    }
    return 0;
}

static int memory_each(struct kv *kv, const char *prefix,
                       int (*fn)(void *arg, const char *key, const void *value, size_t bytes),
                       void *arg)
{
    struct kv_disk *disk = container_of(kv, struct kv_memory, kv)->disk;

    for (size_t i = lower_bound(disk, prefix); i < disk->count; i++) {
        const struct entry *entry = &disk->entries[i];
        int r;

        if (strncmp(entry->key, prefix, strlen(prefix)) != 0)
            break;
        r = fn(arg, entry->key, entry->value, entry->bytes);
        if (r != 0)
            return r;
    }
    return 0;
}

static void memory_close(struct kv *kv)
{
    free(container_of(kv, struct kv_memory, kv));
}

static const struct kv_ops memory_ops = {
    .close = memory_close, .write = memory_write, .each = memory_each};

int kv_memory_open(struct kv_disk *disk, struct kv **ret_kv)
{
    struct kv_memory *memory = calloc(1, sizeof(*memory));

    if (!memory)
        return -ENOMEM;
    memory->kv.ops = &memory_ops;
    memory->disk = disk;
    disk->frozen = false;
    *ret_kv = &memory->kv;
    return 0;
}
