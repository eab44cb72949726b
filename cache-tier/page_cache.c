#include "cache-tier/page_cache.h"
#include "cache-tier/transfer.h"
#include "pool/disk.h"
#include "s2d/base/checksum.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/sometimes.h"

struct page_cache {
    struct disk *disk;
    struct page_cache_options options;
    uint32_t count;
    uint32_t bucket_count; /* a power of two */
    struct cached_page **buckets;
    struct list lru; /* not pinned; the first is the oldest */
    struct co_cond loaded;
};

/* ---- the format ---- */

static uint32_t page_crc(const struct checksum_page *page)
{
    uint32_t crc = crc32c(page, offsetof(struct checksum_page, crc));

    return crc32c_more(crc, page->sums, sizeof(page->sums));
}

void checksum_page_finish(struct checksum_page *page)
{
    page->magic = CHECKSUM_PAGE_MAGIC;
    page->version = DISK_FORMAT_VERSION;
    page->crc = page_crc(page);
}

int checksum_page_check(const struct checksum_page *page, uint64_t number, uint64_t generation)
{
    if (page->magic != CHECKSUM_PAGE_MAGIC || page->version != DISK_FORMAT_VERSION ||
        page->number != number || page->generation != generation || page->crc != page_crc(page))
        return -EBADMSG;
    return 0;
}

static void page_clear(struct cached_page *cached, uint64_t generation, uint8_t fill)
{
    memset(cached->page, 0, sizeof(*cached->page));
    cached->page->number = cached->number;
    cached->page->generation = generation;
    memset(cached->page->sums, fill, sizeof(cached->page->sums));
    static_assert(CHECKSUM_LOST == UINT64_MAX, "filled bytewise");
}

/* ---- the table ---- */

static struct cached_page **bucket_of(const struct page_cache *cache, uint64_t number)
{
    return &cache->buckets[number * 0x9e3779b97f4a7c15ull >> 32 & (cache->bucket_count - 1)];
}

static struct cached_page *lookup(const struct page_cache *cache, uint64_t number)
{
    struct cached_page *cached = *bucket_of(cache, number);

    while (cached && cached->number != number)
        cached = cached->hash_next;
    return cached;
}

static void unhash(struct page_cache *cache, struct cached_page *cached)
{
    struct cached_page **link = bucket_of(cache, cached->number);

    while (*link != cached)
        link = &(*link)->hash_next;
    *link = cached->hash_next;
}

static void page_free(struct page_cache *cache, struct cached_page *cached)
{
    list_remove(&cached->lru);
    unhash(cache, cached);
    cache->count--;
    free(cached->page);
    free(cached);
}

static struct cached_page *frame_new(void)
{
    struct cached_page *cached = calloc(1, sizeof(*cached));

    if (!cached)
        return NULL;
    list_init(&cached->lru);
    cached->page = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    if (!cached->page) {
        free(cached);
        return NULL;
    }
    return cached;
}

/* A frame for a page that is not there yet: the oldest one once the cache has its size. Pinned. */
static struct cached_page *page_add(struct page_cache *cache, uint64_t number)
{
    struct cached_page *cached, **bucket = bucket_of(cache, number);

    if (cache->count >= cache->options.pages_max && !list_empty(&cache->lru)) {
        cached = list_first(&cache->lru, struct cached_page, lru);
        list_remove(&cached->lru);
        unhash(cache, cached);
    } else {
        cached = frame_new();
        if (!cached)
            return NULL;
        cache->count++;
    }
    cached->number = number;
    cached->corrupt = false;
    cached->loading = false;
    cached->error = 0;
    cached->pins = 1;
    cached->hash_next = *bucket;
    *bucket = cached;
    return cached;
}

static void page_pin(struct cached_page *cached)
{
    if (cached->pins++ == 0)
        list_remove(&cached->lru);
}

void page_put(struct page_cache *cache, struct cached_page *cached)
{
    assert(cached->pins > 0);
    if (--cached->pins > 0)
        return;
    if (cached->error != 0 || cache->count > cache->options.pages_max)
        page_free(cache, cached);
    else
        list_push_back(&cache->lru, &cached->lru);
}

uint32_t page_cache_count(const struct page_cache *cache)
{
    return cache->count;
}

/* ---- getting ---- */

/* The page was read with result r. */
static int page_loaded(struct page_cache *cache, struct cached_page *cached, uint64_t generation,
                       int r)
{
    cached->loading = false;
    if (r == 0)
        r = checksum_page_check(cached->page, cached->number, generation);
    if (r == -ECANCELED)
        cached->error = r; /* whoever waits for it gets the same */
    if (r < 0 && r != -ECANCELED) {
        SOMETIMES("pages: a checksum page is corrupt");
        page_clear(cached, generation, 0xff);
        cached->corrupt = true;
        if (cache->options.on_corrupt)
            cache->options.on_corrupt(cache->options.arg, cached->number, r);
    }
    co_cond_broadcast(&cache->loaded);
    return cached->error;
}

static uint64_t page_offset(const struct page_cache *cache, const struct cached_page *cached)
{
    return disk_page_offset(disk_geometry(cache->disk), cached->number);
}

static int co_load(struct page_cache *cache, struct cached_page *cached, uint64_t generation)
{
    int r;

    cached->loading = true;
    r = co_io_read(disk_file(cache->disk), cached->page, BLOCK_SIZE, page_offset(cache, cached));
    return page_loaded(cache, cached, generation, r);
}

int co_page_prefetch(struct page_cache *cache, const struct page_name *names, size_t count)
{
    struct cached_page *loading[PAGE_PREFETCH_MAX];
    struct transfer transfers[PAGE_PREFETCH_MAX];
    struct iovec iov[PAGE_PREFETCH_MAX];
    uint64_t generations[PAGE_PREFETCH_MAX];
    size_t started = 0;
    int r = 0;

    assert(count <= PAGE_PREFETCH_MAX);
    for (size_t i = 0; i < count && r == 0; i++) {
        struct cached_page *cached;

        if (lookup(cache, names[i].number))
            continue;
        cached = page_add(cache, names[i].number);
        if (!cached) {
            r = -ENOMEM;
            continue;
        }
        cached->loading = true;
        loading[started] = cached;
        generations[started] = names[i].generation;
        iov[started] = (struct iovec){cached->page, BLOCK_SIZE};
        transfers[started] = (struct transfer){
            .iov = &iov[started], .iov_count = 1, .offset = page_offset(cache, cached)};
        started++;
    }
    if (co_transfer(disk_file(cache->disk), TRANSFER_READ, transfers, started,
                    TRANSFER_DEPTH_MAX) == -ECANCELED)
        r = -ECANCELED;
    for (size_t i = 0; i < started; i++) {
        page_loaded(cache, loading[i], generations[i], transfers[i].result);
        page_put(cache, loading[i]);
    }
    return r;
}

struct cached_page *page_try_get(struct page_cache *cache, uint64_t number, uint64_t generation)
{
    struct cached_page *cached = lookup(cache, number);

    if (!cached || cached->loading || cached->error != 0 || cached->page->generation != generation)
        return NULL;
    page_pin(cached);
    return cached;
}

/* Waits until nobody loads it. The pin keeps it. */
static int co_loaded(struct page_cache *cache, struct cached_page *cached)
{
    while (cached->loading) {
        int r = co_cond_wait(&cache->loaded);

        if (r < 0)
            return r;
    }
    return cached->error;
}

int co_page_get(struct page_cache *cache, uint64_t number, uint64_t generation,
                struct cached_page **ret_page)
{
    struct cached_page *cached = lookup(cache, number);
    int r;

    if (cached) {
        page_pin(cached);
        r = co_loaded(cache, cached);
        SOMETIMES_IF(r == 0 && cached->page->generation != generation,
                     "pages: a stale page of an extent's earlier life is in the cache");
        /* one of an extent's earlier life */
        if (r == 0 && cached->page->generation != generation)
            r = co_load(cache, cached, generation);
    } else {
        cached = page_add(cache, number);
        if (!cached)
            return -ENOMEM;
        r = co_load(cache, cached, generation);
    }
    if (r < 0) {
        page_put(cache, cached);
        return r;
    }
    *ret_page = cached;
    return 0;
}

int co_page_get_new(struct page_cache *cache, uint64_t number, uint64_t generation,
                    struct cached_page **ret_page)
{
    struct cached_page *cached = lookup(cache, number);
    int r = 0;

    if (cached) {
        page_pin(cached);
        r = co_loaded(cache, cached); /* somebody reads the extent's earlier life */
    } else {
        cached = page_add(cache, number);
        if (!cached)
            return -ENOMEM;
    }
    if (r < 0) {
        page_put(cache, cached);
        return r;
    }
    cached->corrupt = false;
    page_clear(cached, generation, 0);
    *ret_page = cached;
    return 0;
}

/* ---- life ---- */

int page_cache_new(struct disk *disk, const struct page_cache_options *options,
                   struct page_cache **ret_cache)
{
    struct page_cache *cache = calloc(1, sizeof(*cache));

    if (!cache)
        return -ENOMEM;
    cache->disk = disk;
    cache->options = *options;
    list_init(&cache->lru);
    co_cond_init(&cache->loaded);
    cache->bucket_count = 64;
    while (cache->bucket_count < options->pages_max)
        cache->bucket_count *= 2;
    cache->buckets = calloc(cache->bucket_count, sizeof(*cache->buckets));
    if (!cache->buckets) {
        free(cache);
        return -ENOMEM;
    }
    *ret_cache = cache;
    return 0;
}

void page_cache_free(struct page_cache *cache)
{
    if (!cache)
        return;
    while (!list_empty(&cache->lru))
        page_free(cache, list_first(&cache->lru, struct cached_page, lru));
    assert(cache->count == 0);
    free(cache->buckets);
    free(cache);
}
