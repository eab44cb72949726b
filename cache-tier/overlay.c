/* The index is an array with an entry to each ring block, chained into hash buckets by 32-bit
 * numbers. The versions of a key keep their order within the bucket's chain, newest first, with
 * other keys between them; so "older" is a walk on from where one stands, and no second link is
 * needed. */
#include "cache-tier/overlay.h"
#include "s2d/base/planted.h"

#define COMMITTED 0x80000000u /* state: this | stamp; else the number of the pending record */
#define STAMP_MAX 0x7fffffffu

struct entry {
    uint64_t sum;
    uint64_t key;
    uint32_t next;
    uint32_t state; /* 0: not in use */
};
static_assert(sizeof(struct entry) + 2 * sizeof(uint32_t) == OVERLAY_BYTES_PER_BLOCK,
              "with its bucket and batch length");

struct extent_zeros {
    uint64_t *bits;      /* NULL: none */
    uint64_t *set_aside; /* being destaged */
    uint64_t *positions; /* with bits: of the oldest record of each run; UINT64_MAX: none */
    uint64_t stamp, set_aside_stamp;
};

struct overlay {
    struct overlay_options options;
    uint32_t extent_shift;
    uint32_t bitmap_words;
    uint32_t run_blocks, run_count; /* of zeros, in an extent */
    uint64_t count;
    struct entry *entries;
    uint32_t *buckets; /* as many as entries */
    uint32_t *extent_counts;
    struct extent_zeros *zeros; /* by extent */
    uint32_t zero_extents;      /* with bits or bits set aside: 0 makes lookups cheap */
};

static uint32_t bucket_of(const struct overlay *overlay, uint64_t key)
{
    uint64_t hash = key * 0x9e3779b97f4a7c15ull;

    return (hash >> 32) * overlay->options.ring_blocks >> 32;
}

static uint32_t key_extent(const struct overlay *overlay, uint64_t key)
{
    return key >> overlay->extent_shift;
}

static uint32_t key_block(const struct overlay *overlay, uint64_t key)
{
    return key & (overlay->options.extent_blocks - 1);
}

static struct entry *entry_at(const struct overlay *overlay, uint32_t at)
{
    assert(at < overlay->options.ring_blocks);
    return &overlay->entries[at];
}

static struct entry *entry_in_use(const struct overlay *overlay, uint32_t at)
{
    struct entry *entry = entry_at(overlay, at);

    assert(entry->state != 0);
    return entry;
}

/* ---- chains ---- */

/* First entry of key from number `at` on. */
static uint32_t chain_find(const struct overlay *overlay, uint32_t at, uint64_t key)
{
    while (at != OVERLAY_NONE && overlay->entries[at].key != key)
        at = overlay->entries[at].next;
    return at;
}

/* The link that points at `at`. */
static uint32_t *chain_link(const struct overlay *overlay, uint32_t at)
{
    uint32_t *link = &overlay->buckets[bucket_of(overlay, overlay->entries[at].key)];

    while (*link != at) {
        assert(*link != OVERLAY_NONE);
        link = &overlay->entries[*link].next;
    }
    return link;
}

static void entry_unlink(struct overlay *overlay, uint32_t *link)
{
    struct entry *entry = &overlay->entries[*link];

    *link = entry->next;
    entry->state = 0;
    overlay->count--;
    overlay->extent_counts[key_extent(overlay, entry->key)]--;
}

static void entry_link(struct overlay *overlay, uint32_t *link, uint32_t at, uint64_t key,
                       uint64_t sum, uint32_t state)
{
    struct entry *entry = entry_at(overlay, at);

    assert(entry->state == 0);
    assert(key_extent(overlay, key) < overlay->options.extent_count);
    *entry = (struct entry){.sum = sum, .key = key, .next = *link, .state = state};
    *link = at;
    overlay->count++;
    overlay->extent_counts[key_extent(overlay, key)]++;
}

uint32_t overlay_find(const struct overlay *overlay, uint64_t key)
{
    return chain_find(overlay, overlay->buckets[bucket_of(overlay, key)], key);
}

uint32_t overlay_older(const struct overlay *overlay, uint32_t at)
{
    struct entry *entry = entry_in_use(overlay, at);

    return chain_find(overlay, entry->next, entry->key);
}

void overlay_insert(struct overlay *overlay, uint32_t at, uint64_t key, uint64_t sum,
                    uint32_t record)
{
    assert(record > 0 && record < COMMITTED);
    entry_link(overlay, &overlay->buckets[bucket_of(overlay, key)], at, key, sum, record);
}

void overlay_insert_below(struct overlay *overlay, uint32_t above, uint32_t at, uint64_t key,
                          uint64_t sum, uint32_t record)
{
    struct entry *newer = entry_in_use(overlay, above);

    assert(record > 0 && record < COMMITTED);
    assert(newer->key == key);
    entry_link(overlay, &newer->next, at, key, sum, record);
}

static void remove_older(struct overlay *overlay, uint32_t at)
{
    uint64_t key = overlay->entries[at].key;
    uint32_t *link = &overlay->entries[at].next;

    while (*link != OVERLAY_NONE) {
        if (overlay->entries[*link].key == key)
            entry_unlink(overlay, link);
        else
            link = &overlay->entries[*link].next;
    }
}

static void zero_bit_clear(struct overlay *overlay, uint64_t key)
{
    struct extent_zeros *zeros = &overlay->zeros[key_extent(overlay, key)];
    uint32_t block = key_block(overlay, key);

    if (zeros->bits)
        zeros->bits[block / 64] &= ~(1ull << (block % 64));
    if (zeros->set_aside)
        zeros->set_aside[block / 64] &= ~(1ull << (block % 64));
}

void overlay_commit(struct overlay *overlay, uint32_t at, uint64_t stamp)
{
    struct entry *entry = entry_in_use(overlay, at);

    assert(!(entry->state & COMMITTED));
    entry->state = COMMITTED | MIN(stamp, STAMP_MAX);
    remove_older(overlay, at);
    if (overlay->zero_extents > 0)
        zero_bit_clear(overlay, entry->key);
}

void overlay_remove(struct overlay *overlay, uint32_t at)
{
    entry_in_use(overlay, at);
    entry_unlink(overlay, chain_link(overlay, at));
}

void overlay_move(struct overlay *overlay, uint32_t from, uint32_t to)
{
    struct entry *old = entry_in_use(overlay, from), *new = entry_at(overlay, to);

    assert(new->state == 0);
    *chain_link(overlay, from) = to;
    *new = *old;
    old->state = 0;
}

bool overlay_in_use(const struct overlay *overlay, uint32_t at)
{
    return entry_at(overlay, at)->state != 0;
}

uint64_t overlay_key(const struct overlay *overlay, uint32_t at)
{
    return entry_in_use(overlay, at)->key;
}

uint64_t overlay_sum(const struct overlay *overlay, uint32_t at)
{
    return entry_in_use(overlay, at)->sum;
}

uint32_t overlay_record(const struct overlay *overlay, uint32_t at)
{
    struct entry *entry = entry_in_use(overlay, at);

    return entry->state & COMMITTED ? 0 : entry->state;
}

uint64_t overlay_stamp(const struct overlay *overlay, uint32_t at)
{
    struct entry *entry = entry_in_use(overlay, at);
    uint32_t stamp = entry->state & ~COMMITTED;

    assert(entry->state & COMMITTED);
    return stamp == STAMP_MAX ? UINT64_MAX : stamp; /* too large to keep: newer than anything */
}

uint64_t overlay_count(const struct overlay *overlay)
{
    return overlay->count;
}

uint32_t overlay_extent_count(const struct overlay *overlay, uint32_t extent)
{
    return overlay->extent_counts[extent];
}

/* ---- zeros ---- */

static bool bit_get(const uint64_t *bits, uint32_t n)
{
    return bits && bits[n / 64] >> (n % 64) & 1;
}

/* The bits of [first, end) that lie in a word of a bitmap. */
static uint64_t word_bits(uint32_t word, uint32_t first, uint32_t end)
{
    uint32_t low = word * 64;
    uint64_t bits = UINT64_MAX;

    if (first > low)
        bits &= UINT64_MAX << (first - low);
    if (end - low < 64)
        bits &= UINT64_MAX >> (64 - (end - low));
    return bits;
}

static bool zeros_any(const struct extent_zeros *zeros)
{
    return zeros->bits || zeros->set_aside;
}

bool overlay_is_zero(const struct overlay *overlay, uint64_t key)
{
    const struct extent_zeros *zeros;

    if (overlay->zero_extents == 0)
        return false;
    zeros = &overlay->zeros[key_extent(overlay, key)];
    return bit_get(zeros->bits, key_block(overlay, key)) ||
           bit_get(zeros->set_aside, key_block(overlay, key));
}

static void remove_committed(struct overlay *overlay, uint64_t key)
{
    uint32_t at = overlay_find(overlay, key);

    while (at != OVERLAY_NONE && !(overlay->entries[at].state & COMMITTED))
        at = overlay_older(overlay, at);
    if (at != OVERLAY_NONE)
        overlay_remove(overlay, at);
}

static void zeros_begin(const struct overlay *overlay, struct extent_zeros *zeros)
{
    zeros->bits = calloc(overlay->bitmap_words, sizeof(uint64_t));
    zeros->positions = malloc(overlay->run_count * sizeof(uint64_t));
    assert(zeros->bits); /* a few KiB for an extent that was trimmed */
    assert(zeros->positions);
    for (uint32_t run = 0; run < overlay->run_count; run++)
        zeros->positions[run] = UINT64_MAX;
    zeros->stamp = 0;
}

static void zeros_free_bits(struct extent_zeros *zeros)
{
    free(take_ptr(zeros->bits));
    free(take_ptr(zeros->positions));
}

void overlay_zero_commit(struct overlay *overlay, uint32_t extent, uint32_t block, uint32_t count,
                         uint64_t position, uint64_t stamp)
{
    struct extent_zeros *zeros = &overlay->zeros[extent];
    uint64_t key = ((uint64_t)extent << overlay->extent_shift) + block;
    uint32_t last_run = (block + count - 1) / overlay->run_blocks;

    assert(block + count <= overlay->options.extent_blocks);
    if (!zeros_any(zeros))
        overlay->zero_extents++;
    if (!zeros->bits)
        zeros_begin(overlay, zeros);
    for (uint32_t run = block / overlay->run_blocks; run <= last_run; run++)
        zeros->positions[run] = MIN(zeros->positions[run], position);
    zeros->stamp = MAX(zeros->stamp, stamp);
    for (uint32_t i = 0; i < count && overlay->extent_counts[extent] > 0; i++)
        remove_committed(overlay, key + i);
    for (uint32_t word = block / 64; word <= (block + count - 1) / 64; word++)
        zeros->bits[word] |= word_bits(word, block, block + count);
}

void overlay_zero_forget(struct overlay *overlay, uint32_t extent, uint32_t block, uint32_t count)
{
    uint64_t key = ((uint64_t)extent << overlay->extent_shift) + block;

    for (uint32_t i = 0; i < count; i++)
        zero_bit_clear(overlay, key + i);
}

static void zero_run_set_aside(const struct overlay *overlay, struct extent_zeros *zeros,
                               uint32_t run)
{
    uint32_t first = run * overlay->run_blocks;
    uint32_t end = MIN(first + overlay->run_blocks, overlay->options.extent_blocks);

    if (!zeros->set_aside) {
        zeros->set_aside = calloc(overlay->bitmap_words, sizeof(uint64_t));
        assert(zeros->set_aside);
        zeros->set_aside_stamp = zeros->stamp;
    }
    for (uint32_t word = first / 64; word <= (end - 1) / 64; word++) {
        uint64_t moved = zeros->bits[word] & word_bits(word, first, end);

        zeros->set_aside[word] |= moved;
        zeros->bits[word] &= ~moved;
    }
    zeros->positions[run] = UINT64_MAX;
}

static void zeros_set_aside(const struct overlay *overlay, struct extent_zeros *zeros,
                            uint64_t position)
{
    bool any_left = false;

    for (uint32_t run = 0; run < overlay->run_count; run++) {
        if (zeros->positions[run] < position || PLANTED(TRIMS_EARLY))
            zero_run_set_aside(overlay, zeros, run);
        any_left |= zeros->positions[run] != UINT64_MAX;
    }
    if (!any_left)
        zeros_free_bits(zeros);
}

void overlay_zero_begin(struct overlay *overlay, uint64_t position)
{
    for (uint32_t i = 0; i < overlay->options.extent_count && overlay->zero_extents > 0; i++) {
        struct extent_zeros *zeros = &overlay->zeros[i];

        assert(!zeros->set_aside);
        if (zeros->bits)
            zeros_set_aside(overlay, zeros, position);
    }
}

const uint64_t *overlay_zero_next(const struct overlay *overlay, uint32_t from,
                                  uint32_t *ret_extent, uint64_t *ret_stamp)
{
    for (uint32_t i = from; i < overlay->options.extent_count && overlay->zero_extents > 0; i++) {
        if (!overlay->zeros[i].set_aside)
            continue;
        *ret_extent = i;
        *ret_stamp = overlay->zeros[i].set_aside_stamp;
        return overlay->zeros[i].set_aside;
    }
    return NULL;
}

static void zeros_free_set_aside(struct overlay *overlay, struct extent_zeros *zeros)
{
    if (!zeros->set_aside)
        return;
    free(take_ptr(zeros->set_aside));
    if (!zeros_any(zeros))
        overlay->zero_extents--;
}

void overlay_zero_end(struct overlay *overlay)
{
    for (uint32_t i = 0; i < overlay->options.extent_count && overlay->zero_extents > 0; i++)
        zeros_free_set_aside(overlay, &overlay->zeros[i]);
}

uint32_t overlay_zero_extents(const struct overlay *overlay)
{
    return overlay->zero_extents;
}

/* ---- whole extents ---- */

void overlay_drop_extent(struct overlay *overlay, uint32_t extent)
{
    struct extent_zeros *zeros = &overlay->zeros[extent];
    uint64_t key = (uint64_t)extent << overlay->extent_shift;

    for (uint32_t i = 0; i < overlay->options.extent_blocks; i++) {
        uint32_t at;

        if (overlay->extent_counts[extent] == 0)
            break;
        while ((at = overlay_find(overlay, key + i)) != OVERLAY_NONE)
            overlay_remove(overlay, at);
    }
    if (zeros_any(zeros)) {
        zeros_free_bits(zeros);
        free(take_ptr(zeros->set_aside));
        overlay->zero_extents--;
    }
}

void overlay_collect(const struct overlay *overlay, uint32_t extent, uint64_t *bitmap)
{
    const struct extent_zeros *zeros = &overlay->zeros[extent];
    uint64_t key = (uint64_t)extent << overlay->extent_shift;
    uint32_t left = overlay->extent_counts[extent];

    for (uint32_t i = 0; i < overlay->options.extent_blocks && left > 0; i++) {
        uint32_t at = overlay_find(overlay, key + i);

        if (at != OVERLAY_NONE)
            bitmap[i / 64] |= 1ull << (i % 64);
        for (; at != OVERLAY_NONE; at = overlay_older(overlay, at))
            left--;
    }
    for (uint32_t i = 0; i < overlay->bitmap_words; i++) {
        if (zeros->bits)
            bitmap[i] |= zeros->bits[i];
        if (zeros->set_aside)
            bitmap[i] |= zeros->set_aside[i];
    }
}

/* ---- life ---- */

int overlay_new(const struct overlay_options *options, struct overlay **ret_overlay)
{
    cleanup(overlay_freep) struct overlay *overlay = calloc(1, sizeof(*overlay));

    assert(options->ring_blocks < COMMITTED);
    assert((options->extent_blocks & (options->extent_blocks - 1)) == 0);
    if (!overlay)
        return -ENOMEM;
    overlay->options = *options;
    overlay->extent_shift = __builtin_ctz(options->extent_blocks);
    overlay->bitmap_words = DIV_ROUND_UP(options->extent_blocks, 64);
    overlay->entries = calloc(options->ring_blocks, sizeof(*overlay->entries));
    overlay->buckets = malloc((size_t)options->ring_blocks * sizeof(*overlay->buckets));
    overlay->extent_counts = calloc(options->extent_count, sizeof(*overlay->extent_counts));
    overlay->run_blocks =
        options->zero_run_blocks > 0 ? options->zero_run_blocks : options->extent_blocks;
    overlay->run_count = DIV_ROUND_UP(options->extent_blocks, overlay->run_blocks);
    overlay->zeros = calloc(options->extent_count, sizeof(*overlay->zeros));
    if (!overlay->entries || !overlay->buckets || !overlay->extent_counts || !overlay->zeros)
        return -ENOMEM;
    memset(overlay->buckets, 0xff, (size_t)options->ring_blocks * sizeof(*overlay->buckets));
    *ret_overlay = take_ptr(overlay);
    return 0;
}

void overlay_free(struct overlay *overlay)
{
    if (!overlay)
        return;
    for (uint32_t i = 0; overlay->zeros && i < overlay->options.extent_count; i++) {
        zeros_free_bits(&overlay->zeros[i]);
        free(overlay->zeros[i].set_aside);
    }
    free(overlay->zeros);
    free(overlay->extent_counts);
    free(overlay->buckets);
    free(overlay->entries);
    free(overlay);
}
