/* The index: an entry to each slot of the device, chained from a table of buckets, and in one of
 * two queues. New chunks enter `small`, a tenth of the slots. What was read again while it was
 * there moves to `main` when its turn comes; the rest leaves, and only its name stays a while among
 * the `ghosts`: a chunk that is missed and still remembered goes to `main` at once. In `main` a
 * chunk has as many more rounds as it was read, at most three. Queues are only ever popped at the
 * front and pushed at the back, so an entry needs one link, and a chunk whose blocks were forgotten
 * waits there for its turn (it is likely to be filled again: it was read before).
 *
 * Only a read of a block that is here is a use. Blocks that fill up a chunk are none, or a scan in
 * small steps would look like a hot spot.
 *
 * A fill copies the blocks, so the reader goes on at once. Its blocks count as present when the
 * write is done; those forgotten meanwhile never do. No two fills write one block at a time.
 *
 * Rejected: LRU (a scan flushes it, and each hit moves two links), an index to the block (16 times
 * the RAM), keeping the index on the device (it would have to be right after a crash; warming up
 * takes minutes, and is what the slow disk did before). */
#include "cache-tier/read_cache.h"

#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"

#define NONE UINT32_MAX
#define SMALL_FRACTION 10 /* of the slots: one in so many */
#define USES_MAX 3
#define GHOST_SET 8
#define EVICT_STEPS_MAX 64 /* then whatever comes next goes */
#define FILLS_MAX 32
#define STREAMS_MAX 16
#define STREAM_GAP_BLOCKS 16     /* read-ahead may come a little out of order */
#define STREAM_BYPASS_BLOCKS 128 /* from so many on it is a scan */

enum queue_name { QUEUE_NONE, QUEUE_SMALL, QUEUE_MAIN };

struct entry {
    uint32_t chunk;
    uint32_t hash_next, queue_next;
    uint16_t present; /* a bit to each block */
    uint8_t uses : 2, queue : 2;
    uint8_t fills; /* under way: the slot may not be given away */
};
static_assert(sizeof(struct entry) == 16, "RAM of the index");
static_assert(sizeof(struct entry) + 2 * sizeof(uint32_t) == READ_CACHE_BYTES_PER_CHUNK,
              "a bucket and a ghost to each chunk");
static_assert(FILLS_MAX <= UINT8_MAX, "entry.fills");
static_assert(FILLS_MAX < READ_CACHE_CHUNKS_MIN, "a slot can always be given away");

struct queue {
    uint32_t first, last;
    uint32_t count;
};

struct fill {
    struct io_op op;
    struct list node; /* free or active */
    struct read_cache *cache;
    struct iovec iov;
    uint32_t slot;
    uint16_t writing; /* blocks of the slot that the write covers */
    uint16_t wanted;  /* those of them that were not forgotten since */
    uint8_t *data;
};

struct stream { /* a reader that may be scanning */
    uint64_t next;
    uint64_t used; /* when, in reads */
    uint32_t run;  /* blocks */
};

struct read_cache {
    struct read_cache_options options;
    uint32_t slot_count;
    uint32_t bucket_mask, ghost_sets;
    uint32_t fresh; /* slots from here on were never used */
    struct entry *entries;
    uint32_t *buckets;
    uint32_t *ghosts; /* chunk + 1, GHOST_SET to a set, newest first; 0: none */
    struct queue small, main;
    struct fill fills[FILLS_MAX];
    struct list free, active;
    uint8_t *memory; /* of the fills */
    struct stream streams[STREAMS_MAX];
    uint64_t reads;
    struct co_group under_way;
    unsigned errors_in_a_row;
    bool off;
    struct read_cache_counters counters;
};

/* ---- the table ---- */

static uint32_t hash(uint32_t chunk)
{
    return (chunk * 0x9e3779b97f4a7c15ull) >> 32;
}

static uint32_t chunk_of(uint64_t key)
{
    assert(key / READ_CACHE_CHUNK_BLOCKS < NONE);
    return key / READ_CACHE_CHUNK_BLOCKS;
}

/* Bits of `count` blocks from `first` on. */
static uint16_t block_bits(uint32_t first, uint32_t count)
{
    assert(first + count <= READ_CACHE_CHUNK_BLOCKS);
    return ((1u << count) - 1) << first;
}

static uint32_t find_slot(const struct read_cache *cache, uint32_t chunk)
{
    uint32_t slot = cache->buckets[hash(chunk) & cache->bucket_mask];

    while (slot != NONE && cache->entries[slot].chunk != chunk)
        slot = cache->entries[slot].hash_next;
    return slot;
}

static void hash_in(struct read_cache *cache, uint32_t slot)
{
    uint32_t *bucket = &cache->buckets[hash(cache->entries[slot].chunk) & cache->bucket_mask];

    cache->entries[slot].hash_next = *bucket;
    *bucket = slot;
}

static void unhash(struct read_cache *cache, uint32_t slot)
{
    uint32_t *link = &cache->buckets[hash(cache->entries[slot].chunk) & cache->bucket_mask];

    while (*link != slot)
        link = &cache->entries[*link].hash_next;
    *link = cache->entries[slot].hash_next;
}

/* ---- queues ---- */

static void push(struct read_cache *cache, struct queue *queue, uint32_t slot)
{
    struct entry *entry = &cache->entries[slot];

    assert(entry->queue == QUEUE_NONE);
    entry->queue = queue == &cache->small ? QUEUE_SMALL : QUEUE_MAIN;
    entry->queue_next = NONE;
    if (queue->count++ == 0)
        queue->first = slot;
    else
        cache->entries[queue->last].queue_next = slot;
    queue->last = slot;
}

static uint32_t pop(struct read_cache *cache, struct queue *queue)
{
    uint32_t slot = queue->first;

    assert(queue->count > 0);
    queue->first = cache->entries[slot].queue_next;
    queue->count--;
    cache->entries[slot].queue = QUEUE_NONE;
    return slot;
}

/* ---- ghosts: chunks that left `small` unread ---- */

static uint32_t *ghost_set(struct read_cache *cache, uint32_t chunk)
{
    return &cache->ghosts[(size_t)(hash(chunk) % cache->ghost_sets) * GHOST_SET];
}

static void ghost_add(struct read_cache *cache, uint32_t chunk)
{
    uint32_t *set = ghost_set(cache, chunk);

    memmove(set + 1, set, (GHOST_SET - 1) * sizeof(*set));
    set[0] = chunk + 1;
}

static bool ghost_take(struct read_cache *cache, uint32_t chunk)
{
    uint32_t *set = ghost_set(cache, chunk);

    for (size_t i = 0; i < GHOST_SET; i++) {
        if (set[i] != chunk + 1)
            continue;
        memmove(set + i, set + i + 1, (GHOST_SET - 1 - i) * sizeof(*set));
        set[GHOST_SET - 1] = 0;
        return true;
    }
    return false;
}

/* ---- what goes ---- */

static uint32_t give_away(struct read_cache *cache, uint32_t slot)
{
    unhash(cache, slot);
    return slot;
}

/* The front of `small`: NONE when it stays, in one queue or the other. */
static uint32_t evict_small(struct read_cache *cache, bool hurry)
{
    uint32_t slot = pop(cache, &cache->small);
    struct entry *entry = &cache->entries[slot];

    if (entry->fills > 0) {
        push(cache, &cache->small, slot);
        return NONE;
    }
    if (entry->uses > 0 && !hurry) {
        entry->uses = 0;
        push(cache, &cache->main, slot);
        return NONE;
    }
    ghost_add(cache, entry->chunk);
    return give_away(cache, slot);
}

static uint32_t evict_main(struct read_cache *cache, bool hurry)
{
    uint32_t slot = pop(cache, &cache->main);
    struct entry *entry = &cache->entries[slot];

    if (entry->fills > 0 || (entry->uses > 0 && !hurry)) {
        entry->uses -= entry->uses > 0;
        push(cache, &cache->main, slot);
        return NONE;
    }
    return give_away(cache, slot);
}

/* Whose turn it is. At the end of patience both in turn: all of one may be under way. */
static bool from_small(const struct read_cache *cache, unsigned step)
{
    if (cache->small.count == 0 || cache->main.count == 0)
        return cache->small.count > 0;
    if (step >= EVICT_STEPS_MAX)
        return step % 2 == 0;
    return cache->small.count >= cache->slot_count / SMALL_FRACTION;
}

/* A slot that stands for nothing. There is always one: there are more slots than fills. */
static uint32_t take_slot(struct read_cache *cache)
{
    uint32_t slot = NONE;

    if (cache->fresh < cache->slot_count)
        return cache->fresh++;
    for (unsigned step = 0; slot == NONE; step++) {
        bool hurry = step >= EVICT_STEPS_MAX;

        assert(step < EVICT_STEPS_MAX + 2 * FILLS_MAX + 2);
        slot = from_small(cache, step) ? evict_small(cache, hurry) : evict_main(cache, hurry);
    }
    return slot;
}

static uint32_t add_chunk(struct read_cache *cache, uint32_t chunk)
{
    bool known = ghost_take(cache, chunk);
    uint32_t slot = take_slot(cache);

    cache->entries[slot] = (struct entry){.chunk = chunk};
    hash_in(cache, slot);
    push(cache, known ? &cache->main : &cache->small, slot);
    SOMETIMES_IF(known, "read cache: a chunk comes back that is still remembered");
    return slot;
}

/* ---- reading ---- */

bool read_cache_find(struct read_cache *cache, uint64_t key, uint64_t *ret_offset)
{
    uint32_t block = key % READ_CACHE_CHUNK_BLOCKS, slot;
    struct entry *entry;

    slot = cache->off ? NONE : find_slot(cache, chunk_of(key));
    if (slot == NONE || !(cache->entries[slot].present & block_bits(block, 1))) {
        counter_add(&cache->counters.misses, 1);
        return false;
    }
    entry = &cache->entries[slot];
    if (entry->uses < USES_MAX)
        entry->uses++;
    counter_add(&cache->counters.hits, 1);
    *ret_offset =
        cache->options.offset + (uint64_t)slot * READ_CACHE_CHUNK_BYTES + block * BLOCK_SIZE;
    return true;
}

struct io_file *read_cache_file(const struct read_cache *cache)
{
    return cache->options.file;
}

static void note_result(struct read_cache *cache, int result)
{
    if (result >= 0) {
        cache->errors_in_a_row = 0;
        return;
    }
    if (result == -ECANCELED)
        return;
    counter_add(&cache->counters.errors, 1);
    if (++cache->errors_in_a_row < READ_CACHE_ERRORS_MAX || cache->off)
        return;
    SOMETIMES("read cache: its device fails, and it turns itself off");
    cache->off = true;
}

void read_cache_read_begin(struct read_cache *cache)
{
    co_group_add(&cache->under_way, 1);
}

void read_cache_read_end(struct read_cache *cache, int result)
{
    note_result(cache, result);
    co_group_done(&cache->under_way);
}

void read_cache_mismatch(struct read_cache *cache, uint64_t key)
{
    SOMETIMES("read cache: a block is not what it stands for");
    counter_add(&cache->counters.mismatches, 1);
    read_cache_forget(cache, ALIGN_DOWN(key, READ_CACHE_CHUNK_BLOCKS), READ_CACHE_CHUNK_BLOCKS);
}

/* ---- forgetting ---- */

static void forget_in_chunk(struct read_cache *cache, uint32_t chunk, uint16_t bits)
{
    uint32_t slot = find_slot(cache, chunk);

    if (slot == NONE)
        return;
    cache->entries[slot].present &= ~bits;
    if (cache->entries[slot].fills == 0)
        return;
    SOMETIMES("read cache: a block is forgotten while it is filled");
    list_for_each (node, &cache->active) {
        struct fill *fill = list_entry(node, struct fill, node);

        if (fill->slot == slot)
            fill->wanted &= ~bits;
    }
}

void read_cache_forget(struct read_cache *cache, uint64_t key, uint64_t count)
{
    while (count > 0) {
        uint32_t first = key % READ_CACHE_CHUNK_BLOCKS;
        uint32_t n = MIN(READ_CACHE_CHUNK_BLOCKS - first, count);

        forget_in_chunk(cache, chunk_of(key), block_bits(first, n));
        key += n;
        count -= n;
    }
}

/* ---- filling ---- */

static bool stream_goes_on(const struct stream *stream, uint64_t key)
{
    return stream->run > 0 && key >= stream->next && key - stream->next <= STREAM_GAP_BLOCKS;
}

bool read_cache_note_read(struct read_cache *cache, uint64_t key, uint32_t count)
{
    struct stream *stream = &cache->streams[0];

    for (size_t i = 0; i < STREAMS_MAX; i++) {
        struct stream *other = &cache->streams[i];

        if (stream_goes_on(other, key)) {
            stream = other;
            break;
        }
        if (other->used < stream->used)
            stream = other; /* the one that waits longest makes room for a new one */
    }
    if (!stream_goes_on(stream, key))
        stream->run = 0;
    stream->run = MIN(stream->run + count, STREAM_BYPASS_BLOCKS + 1);
    stream->next = key + count;
    stream->used = ++cache->reads;
    if (stream->run <= STREAM_BYPASS_BLOCKS)
        return true;
    counter_add(&cache->counters.bypassed, count);
    return false;
}

static void fill_done(struct io_op *op, int result)
{
    struct fill *fill = container_of(op, struct fill, op);
    struct read_cache *cache = fill->cache;
    struct entry *entry = &cache->entries[fill->slot];

    note_result(cache, result);
    assert(entry->fills > 0);
    entry->fills--;
    if (result >= 0) {
        entry->present |= fill->wanted;
        counter_add(&cache->counters.filled, fill->iov.iov_len / BLOCK_SIZE);
    }
    list_remove(&fill->node);
    list_push_back(&cache->free, &fill->node);
    co_group_done(&cache->under_way);
}

/* Blocks of the slot that are on their way to it. */
static uint16_t being_written(const struct read_cache *cache, uint32_t slot)
{
    uint16_t bits = 0;

    if (cache->entries[slot].fills == 0)
        return 0;
    list_for_each (node, &cache->active) {
        const struct fill *fill = list_entry(node, struct fill, node);

        if (fill->slot == slot)
            bits |= fill->writing;
    }
    return bits;
}

static void fill_chunk(struct read_cache *cache, uint32_t chunk, uint32_t first, uint32_t count,
                       const void *blocks)
{
    uint16_t bits = block_bits(first, count);
    struct fill *fill;
    uint32_t slot;

    if (list_empty(&cache->free)) {
        SOMETIMES("read cache: no buffer is free to fill from");
        counter_add(&cache->counters.skipped, count);
        return;
    }
    slot = find_slot(cache, chunk);
    if (slot == NONE)
        slot = add_chunk(cache, chunk);
    else if (being_written(cache, slot) & bits)
        return;
    fill = list_entry(list_pop_front(&cache->free), struct fill, node);
    list_push_back(&cache->active, &fill->node);
    fill->slot = slot;
    fill->writing = fill->wanted = bits;
    memcpy(fill->data, blocks, (size_t)count * BLOCK_SIZE);
    fill->iov = (struct iovec){fill->data, (size_t)count * BLOCK_SIZE};
    cache->entries[slot].present &= ~bits; /* what is there is being overwritten */
    if (PLANTED(READ_CACHE_SEEN_EARLY))
        cache->entries[slot].present |= bits;
    cache->entries[slot].fills++;
    co_group_add(&cache->under_way, 1);
    io_file_writev(
        cache->options.file, &fill->op, &fill->iov, 1,
        cache->options.offset + (uint64_t)slot * READ_CACHE_CHUNK_BYTES + first * BLOCK_SIZE, 0);
}

void read_cache_fill(struct read_cache *cache, uint64_t key, uint32_t count, const void *blocks)
{
    const uint8_t *from = blocks;

    while (count > 0 && !cache->off) {
        uint32_t first = key % READ_CACHE_CHUNK_BLOCKS;
        uint32_t n = MIN(READ_CACHE_CHUNK_BLOCKS - first, count);

        fill_chunk(cache, chunk_of(key), first, n, from);
        key += n;
        count -= n;
        from += (size_t)n * BLOCK_SIZE;
    }
}

/* ---- figures ---- */

const struct read_cache_counters *read_cache_counters(const struct read_cache *cache)
{
    return &cache->counters;
}

struct read_cache_stats read_cache_stats(const struct read_cache *cache)
{
    uint64_t buckets = (uint64_t)cache->bucket_mask + 1;
    uint64_t ghosts = (uint64_t)cache->ghost_sets * GHOST_SET;

    return (struct read_cache_stats){
        .bytes = (uint64_t)cache->slot_count * READ_CACHE_CHUNK_BYTES,
        .used_bytes = (uint64_t)cache->fresh * READ_CACHE_CHUNK_BYTES,
        .index_bytes =
            cache->slot_count * sizeof(struct entry) + (buckets + ghosts) * sizeof(uint32_t),
        .off = cache->off,
    };
}

/* ---- life ---- */

static void cache_free(struct read_cache *cache)
{
    if (!cache)
        return;
    free(cache->entries);
    free(cache->buckets);
    free(cache->ghosts);
    free(cache->memory);
    free(cache);
}
DEFINE_CLEANUP(struct read_cache, cache_free)

static void fills_init(struct read_cache *cache)
{
    list_init(&cache->free);
    list_init(&cache->active);
    for (size_t i = 0; i < FILLS_MAX; i++) {
        struct fill *fill = &cache->fills[i];

        fill->cache = cache;
        fill->op.done = fill_done;
        fill->data = cache->memory + i * READ_CACHE_CHUNK_BYTES;
        list_push_back(&cache->free, &fill->node);
    }
}

int read_cache_new(const struct read_cache_options *options, struct read_cache **ret_cache)
{
    cleanup(cache_freep) struct read_cache *cache = NULL;
    uint64_t slots = options->bytes / READ_CACHE_CHUNK_BYTES;
    uint32_t buckets;

    if (slots < READ_CACHE_CHUNKS_MIN || slots >= NONE || options->offset % BLOCK_SIZE != 0)
        return -EINVAL;
    cache = calloc(1, sizeof(*cache));
    if (!cache)
        return -ENOMEM;
    cache->options = *options;
    cache->slot_count = slots;
    buckets = 1u << (31 - __builtin_clz(cache->slot_count)); /* the power of two that fits */
    cache->bucket_mask = buckets - 1;
    cache->ghost_sets = cache->slot_count / GHOST_SET;
    cache->entries = calloc(slots, sizeof(*cache->entries));
    cache->buckets = malloc(buckets * sizeof(*cache->buckets));
    cache->ghosts = calloc((size_t)cache->ghost_sets * GHOST_SET, sizeof(*cache->ghosts));
    cache->memory = aligned_alloc(BLOCK_SIZE, FILLS_MAX * READ_CACHE_CHUNK_BYTES);
    if (!cache->entries || !cache->buckets || !cache->ghosts || !cache->memory)
        return -ENOMEM;
    memset(cache->buckets, 0xff, buckets * sizeof(*cache->buckets));
    static_assert(NONE == UINT32_MAX, "filled bytewise");
    co_group_init(&cache->under_way);
    fills_init(cache);
    *ret_cache = take_ptr(cache);
    return 0;
}

void co_read_cache_free(struct read_cache *cache)
{
    if (!cache)
        return;
    cache->off = true;
    co_group_wait(&cache->under_way);
    cache_free(cache);
}
