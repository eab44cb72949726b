/* page_cache: checksum pages in RAM, as many as were asked for, least recently used goes first. A
 * page that cannot be read, or is not what it should be, is there all the same: every entry
 * CHECKSUM_LOST, marked corrupt. Nothing here writes pages; the checkpoint changes and writes those
 * it has pinned.
 *
 * One reactor. co_ calls suspend. */
#ifndef S2D_CACHE_TIER_PAGE_CACHE_H
#define S2D_CACHE_TIER_PAGE_CACHE_H

#include "pool/disk_format.h"

struct disk;
struct page_cache;

struct cached_page {
    struct checksum_page *page; /* 4 KiB, aligned */
    bool corrupt;
    /* private */
    bool loading;
    uint32_t pins;
    struct cached_page *hash_next;
    struct list lru;
    uint64_t number;
    int error;
};

struct page_cache_options {
    uint32_t pages_max; /* pinned ones may exceed it for a while */
    /* A page that should have been there was not: on the loop. */
    void (*on_corrupt)(void *arg, uint64_t number, int error);
    void *arg;
};
must_check int page_cache_new(struct disk *disk, const struct page_cache_options *options,
                              struct page_cache **ret_cache);
void page_cache_free(struct page_cache *cache); /* nothing is pinned */
DEFINE_CLEANUP(struct page_cache, page_cache_free)

/* A page that was written before, in that generation; pinned until page_put(). Returns 0 (also for
 * a corrupt one), -ENOMEM, -ECANCELED. */
must_check int co_page_get(struct page_cache *cache, uint64_t number, uint64_t generation,
                           struct cached_page **ret_page);
/* Loads those of the pages that are not in RAM, many at a time; nothing stays pinned. count <=
 * PAGE_PREFETCH_MAX. Returns 0, -ENOMEM, -ECANCELED. */
#define PAGE_PREFETCH_MAX 64
struct page_name {
    uint64_t number, generation;
};
must_check int co_page_prefetch(struct page_cache *cache, const struct page_name *names,
                                size_t count);
/* The same without suspending: NULL when it is not in RAM. */
struct cached_page *page_try_get(struct page_cache *cache, uint64_t number, uint64_t generation);
/* A page that was never written in that generation: all unwritten; pinned. Returns as
 * co_page_get(). */
must_check int co_page_get_new(struct page_cache *cache, uint64_t number, uint64_t generation,
                               struct cached_page **ret_page);
void page_put(struct page_cache *cache, struct cached_page *page);
/* The page is as good as its contents again (it was changed and will be written). */
static inline void page_mend(struct cached_page *page)
{
    page->corrupt = false;
}
uint32_t page_cache_count(const struct page_cache *cache);

/* Magic, version and checksum of a page whose other fields are set. */
void checksum_page_finish(struct checksum_page *page);
must_check int checksum_page_check(const struct checksum_page *page, uint64_t number,
                                   uint64_t generation); /* 0, -EBADMSG */

#endif
