/* Reading. What a block is, is decided without suspending, on pages pinned for it; then the device
 * is read. Meanwhile the world may move: a destage may have passed, the log's tail too. So a block
 * that does not match is looked up and read once more before it is called rot. */
#include "cache-tier/store_internal.h"
#include "cache-tier/transfer.h"
#include "s2d/base/checksum.h"

#define READ_DEPTH 16
#define READ_RUNS 32 /* transfers prepared at once */

/* ---- what a block is ---- */

/* The newest pending trim of the block, at or below `at`. */
static const struct pending *pending_zero(const struct store *store, uint32_t extent,
                                          uint32_t block, struct log_position at)
{
    const struct pending *newest = NULL;

    list_for_each (node, &store->extents[extent].zeros) {
        const struct pending *zero = list_entry(node, struct pending, zero_node);

        if (block >= zero->block && block - zero->block < zero->count &&
            log_position_compare(zero->position, at) <= 0 &&
            (!newest || log_position_compare(zero->position, newest->position) > 0))
            newest = zero;
    }
    return newest;
}

/* The newest version at or below bound: a committed one is below any. */
static uint32_t find_version(const struct store *store, uint64_t key, struct log_position bound)
{
    uint32_t at = overlay_find(store->overlay, key), id;

    while (at != OVERLAY_NONE && (id = overlay_record(store->overlay, at)) != 0 &&
           log_position_compare(pending_by_id(&store->streams, id)->position, bound) > 0)
        at = overlay_older(store->overlay, at);
    return at;
}

/* bound NULL: the block as it is. */
static struct lookup lookup_at(const struct store *store, uint32_t extent, uint32_t block,
                               const struct log_position *bound_or_newest)
{
    struct log_position bound = bound_or_newest ? *bound_or_newest : LOG_POSITION_NEWEST;
    uint64_t key = store_key(store, extent, block);
    uint32_t at =
        bound_or_newest ? find_version(store, key, bound) : overlay_find(store->overlay, key);

    if (!list_empty(&store->extents[extent].zeros)) {
        const struct pending *zero = pending_zero(store, extent, block, bound);
        uint32_t id = at == OVERLAY_NONE ? 0 : overlay_record(store->overlay, at);

        if (zero && (id == 0 || log_position_compare(pending_by_id(&store->streams, id)->position,
                                                     zero->position) < 0))
            return (struct lookup){.source = LOOKUP_ZERO};
    }
    if (at != OVERLAY_NONE)
        return (struct lookup){LOOKUP_LOG, at, overlay_sum(store->overlay, at)};
    if (overlay_is_zero(store->overlay, key))
        return (struct lookup){.source = LOOKUP_ZERO};
    return (struct lookup){.source = LOOKUP_PLACE};
}

struct lookup store_lookup(const struct store *store, uint32_t extent, uint32_t block)
{
    return lookup_at(store, extent, block, NULL);
}

/* ---- a range of blocks, looked up ---- */

#define VIEW_PAGES 2
static_assert(RECORD_BLOCKS_MAX <= CHECKSUM_PAGE_ENTRIES, "a read touches two pages at most");

struct view {
    struct store *store;
    struct extent_ref where;
    uint32_t block, count;
    const struct log_position *at;           /* NULL: as they are */
    bool empty;                              /* nothing of that generation is here: all zeros */
    struct log_region log;                   /* where it was when they were looked up */
    struct read_cache *cache;                /* pinned: blocks come from it; NULL: none does */
    int cache_result;                        /* of its device */
    struct lookup blocks[RECORD_BLOCKS_MAX]; /* the first count; left uninitialised: it is 4 KiB */
};

static void view_init(struct view *view, struct store *store, struct extent_ref where,
                      uint32_t block, uint32_t count, const struct log_position *at)
{
    assert(count <= RECORD_BLOCKS_MAX);
    view->store = store;
    view->where = where;
    view->block = block;
    view->count = count;
    view->at = at;
    view->empty = false;
    view->cache = NULL;
    view->cache_result = 0;
}

static bool all_in_log(const struct view *view)
{
    for (uint32_t i = 0; i < view->count; i++)
        if (lookup_at(view->store, view->where.extent, view->block + i, view->at).source ==
            LOOKUP_PLACE)
            return false;
    return true;
}

struct page_pins {
    struct cached_page *pages[VIEW_PAGES]; /* NULL: never written */
    uint32_t first, count;
};

static void unpin(struct store *store, struct page_pins *pins)
{
    for (uint32_t i = 0; i < pins->count; i++)
        if (pins->pages[i])
            page_put(store->pages, pins->pages[i]);
    memset(pins->pages, 0, sizeof(pins->pages));
}

/* Do the pins still show what the row says? */
static bool pins_hold(const struct extent_row *row, const struct page_pins *pins,
                      uint64_t generation)
{
    if (row->generation != generation || row->flags & EXTENT_LOST)
        return false;
    for (uint32_t i = 0; i < pins->count; i++)
        if (extent_row_has_page(row, pins->first + i) != (pins->pages[i] != NULL))
            return false;
    return true;
}

/* Pins the pages of a range. Returns 0, -ESTALE (the extent was given away meanwhile), -ENOMEM,
 * -ECANCELED. */
static int co_pin(struct store *store, struct extent_ref where, uint32_t block, uint32_t count,
                  struct page_pins *pins)
{
    const struct extent_row *row = extent_table_row(store->table, where.extent);

    memset(pins, 0, sizeof(*pins));
    pins->first = block / CHECKSUM_PAGE_ENTRIES;
    pins->count = (block + count - 1) / CHECKSUM_PAGE_ENTRIES - pins->first + 1;
    do {
        unpin(store, pins);
        for (uint32_t i = 0; i < pins->count; i++) {
            uint64_t number = store_page_number(store, where.extent, pins->first + i);
            int r;

            if (!extent_row_has_page(row, pins->first + i))
                continue;
            pins->pages[i] = page_try_get(store->pages, number, where.generation);
            if (pins->pages[i])
                continue;
            r = co_page_get(store->pages, number, where.generation, &pins->pages[i]);
            if (r < 0) {
                unpin(store, pins);
                return r;
            }
            if (row->generation != where.generation || row->flags & EXTENT_LOST) {
                unpin(store, pins);
                return -ESTALE;
            }
        }
    } while (!pins_hold(row, pins, where.generation));
    return 0;
}

static uint64_t pinned_sum(const struct page_pins *pins, uint32_t block)
{
    const struct cached_page *cached = pins->pages[block / CHECKSUM_PAGE_ENTRIES - pins->first];

    return cached ? cached->page->sums[block % CHECKSUM_PAGE_ENTRIES] : 0;
}

/* Fills in view->blocks. Returns 0, -ESTALE, -EINVAL, -ENOMEM, -ECANCELED. */
static int co_view(struct view *view, uint64_t vdisk)
{
    struct store *store = view->store;
    struct page_pins pins = {0};
    int r = store_check_extent(store, vdisk, view->where);

    if (r < 0)
        return r;
    view->empty = r == 1 && !(extent_table_row(store->table, view->where.extent)->flags &
                              (EXTENT_LOST | EXTENT_ADOPTED));
    if (r == 1) {
        for (uint32_t i = 0; i < view->count; i++)
            view->blocks[i] =
                (struct lookup){.source = LOOKUP_PLACE, .sum = view->empty ? 0 : CHECKSUM_LOST};
        return 0;
    }
    if (!all_in_log(view)) {
        r = co_pin(store, view->where, view->block, view->count, &pins);
        if (r < 0)
            return r;
    }
    view->log = store->log_region;
    for (uint32_t i = 0; i < view->count; i++) {
        uint32_t block = view->block + i;

        view->blocks[i] = lookup_at(store, view->where.extent, block, view->at);
        if (view->blocks[i].source == LOOKUP_PLACE)
            view->blocks[i].sum = pinned_sum(&pins, block);
    }
    unpin(store, &pins);
    return 0;
}

static bool is_withheld(const struct view *view)
{
    return view->store->extents[view->where.extent].withheld;
}

/* The cluster was told, but an owner may not know it yet: by its configuration the column is
 * in-sync. Who knows reads another one until this one was compared. The last one is withheld. */
static bool is_unproven(const struct view *view)
{
    const struct extent_row *row = extent_table_row(view->store->table, view->where.extent);
    bool unproven = row->flags & EXTENT_DAMAGED && row->generation == view->where.generation &&
                    !is_withheld(view);

    SOMETIMES_IF(unproven, "store: a damaged column is not read");
    return unproven && !PLANTED(DAMAGED_IS_READ);
}

static bool needs_read(const struct lookup *lookup)
{
    return lookup->source != LOOKUP_ZERO && lookup->sum != 0 && lookup->sum != CHECKSUM_LOST;
}

/* Blocks of the place that the read cache has come from there; until view_release() it stays. */
static void view_ask_cache(struct view *view)
{
    struct read_cache *cache = view->store->read_cache;
    uint64_t key = store_key(view->store, view->where.extent, view->block), offset;

    for (uint32_t i = 0; i < view->count; i++) {
        struct lookup *lookup = &view->blocks[i];

        if (lookup->source != LOOKUP_PLACE || !needs_read(lookup) ||
            !read_cache_find(cache, key + i, &offset))
            continue;
        lookup->source = LOOKUP_CACHE;
        lookup->ring_block = offset / BLOCK_SIZE;
        if (!view->cache)
            read_cache_read_begin(cache);
        view->cache = cache;
    }
}

static void view_release(struct view *view)
{
    if (view->cache)
        read_cache_read_end(take_ptr(view->cache), view->cache_result);
}

/* ---- from there to the device ---- */

static uint64_t source_offset(const struct view *view, uint32_t i)
{
    const struct lookup *lookup = &view->blocks[i];

    if (lookup->source == LOOKUP_LOG)
        return log_region_offset(&view->log, lookup->ring_block);
    if (lookup->source == LOOKUP_CACHE)
        return (uint64_t)lookup->ring_block * BLOCK_SIZE;
    return disk_block_offset(&view->store->geometry, view->where.extent, view->block + i);
}

static struct io_file *source_file(const struct view *view, uint32_t i)
{
    if (view->blocks[i].source == LOOKUP_CACHE)
        return read_cache_file(view->cache);
    return view->blocks[i].source == LOOKUP_LOG ? view->log.file : disk_file(view->store->disk);
}

/* How many blocks from i on lie side by side on one device. */
static uint32_t run_length(const struct view *view, uint32_t i)
{
    uint64_t offset = source_offset(view, i);
    uint32_t n = 1;

    while (i + n < view->count && needs_read(&view->blocks[i + n]) &&
           source_file(view, i + n) == source_file(view, i) &&
           source_offset(view, i + n) == offset + (uint64_t)n * BLOCK_SIZE)
        n++;
    return n;
}

struct run {
    uint32_t first, count;
};

static void verify_run(const struct view *view, const struct run *run, uint64_t vdisk,
                       uint64_t address, const uint8_t *buffer, struct block_set *bad)
{
    for (uint32_t i = run->first; i < run->first + run->count; i++) {
        uint64_t sum = view->blocks[i].sum;

        if (checksum_verify(buffer + (size_t)i * BLOCK_SIZE, 1, vdisk, address + i, &sum) != 1 &&
            !PLANTED(SUMS_NOT_VERIFIED) &&
            !(view->blocks[i].source == LOOKUP_CACHE && PLANTED(READ_CACHE_NOT_VERIFIED)))
            bad->bits[i / 64] |= 1ull << (i % 64);
    }
}

static void set_bad(struct block_set *bad, const struct run *run)
{
    for (uint32_t i = run->first; i < run->first + run->count; i++)
        bad->bits[i / 64] |= 1ull << (i % 64);
}

/* Reads and verifies a few runs. Blocks that failed are in *bad. Returns 0 or -ECANCELED. */
static int co_read_runs(struct view *view, uint64_t vdisk, uint64_t address, uint8_t *buffer,
                        const struct run *runs, size_t count, struct block_set *bad)
{
    struct transfer transfers[READ_RUNS];
    struct iovec iov[READ_RUNS];
    int r;

    for (size_t i = 0; i < count; i++) {
        iov[i].iov_base = buffer + (size_t)runs[i].first * BLOCK_SIZE;
        iov[i].iov_len = (size_t)runs[i].count * BLOCK_SIZE;
        transfers[i] = (struct transfer){.iov = &iov[i],
                                         .iov_count = 1,
                                         .file = source_file(view, runs[i].first),
                                         .offset = source_offset(view, runs[i].first)};
    }
    if (count == 1)
        transfers[0].result =
            co_io_read(transfers[0].file, iov[0].iov_base, iov[0].iov_len, transfers[0].offset);
    else if (co_transfer(NULL, TRANSFER_READ, transfers, count, READ_DEPTH) == -ECANCELED)
        return -ECANCELED;
    for (size_t i = 0; i < count; i++) {
        r = transfers[i].result;
        if (r == -ECANCELED)
            return r;
        if (r < 0 && view->blocks[runs[i].first].source == LOOKUP_CACHE) {
            view->cache_result = r;
            set_bad(bad, &runs[i]);
            continue;
        }
        if (r < 0 && view->blocks[runs[i].first].source == LOOKUP_LOG &&
            view->log.file == view->store->log_region.file)
            log_note_device(view->store->log, r);
        if (r < 0) {
            SOMETIMES("store: the disk fails a read");
            store_report(view->store, r);
            set_bad(bad, &runs[i]);
            continue;
        }
        verify_run(view, &runs[i], vdisk, address, buffer, bad);
    }
    return 0;
}

/* Reads what the view says. Returns 0 or -ECANCELED. */
static int co_read_view(struct view *view, uint64_t vdisk, uint64_t address, uint8_t *buffer,
                        struct block_set *bad)
{
    struct run runs[READ_RUNS];
    size_t count = 0;

    for (uint32_t i = 0; i < view->count;) {
        struct run run = {i, 1};

        if (needs_read(&view->blocks[i])) {
            run.count = run_length(view, i);
            runs[count++] = run;
        } else if (view->blocks[i].sum == CHECKSUM_LOST && view->blocks[i].source == LOOKUP_PLACE) {
            set_bad(bad, &run);
        } else {
            memset(buffer + (size_t)i * BLOCK_SIZE, 0, BLOCK_SIZE);
        }
        i += run.count;
        if (count == READ_RUNS || (i == view->count && count > 0)) {
            int r = co_read_runs(view, vdisk, address, buffer, runs, count, bad);

            if (r < 0)
                return r;
            count = 0;
        }
    }
    return 0;
}

static bool any_bad(const struct block_set *bad)
{
    for (size_t i = 0; i < ARRAY_SIZE(bad->bits); i++)
        if (bad->bits[i] != 0)
            return true;
    return false;
}

/* The blocks that failed, one by one, from where they are now, and not from the read cache. */
static int co_read_again(struct view *first, uint64_t vdisk, uint64_t address, uint8_t *buffer,
                         struct block_set *bad)
{
    struct block_set failed = {0};
    struct view view;
    int r = 0;

    for (uint32_t i = 0; i < first->count && r == 0; i++) {
        struct block_set one = {0};

        if (!(bad->bits[i / 64] >> (i % 64) & 1))
            continue;
        if (first->blocks[i].source == LOOKUP_CACHE) {
            read_cache_mismatch(first->cache,
                                store_key(first->store, first->where.extent, first->block + i));
            if (PLANTED(READ_CACHE_MISS_IS_ROT))
                return 0;
        }
        view_init(&view, first->store, first->where, first->block + i, 1, first->at);
        r = co_view(&view, vdisk);
        if (r == 0)
            r = co_read_view(&view, vdisk, address + i, buffer + (size_t)i * BLOCK_SIZE, &one);
        first->blocks[i] = view.blocks[0];
        if (any_bad(&one))
            failed.bits[i / 64] |= 1ull << (i % 64);
    }
    *bad = failed;
    return r;
}

/* Offers what came from the place to the read cache. */
static void fill_cache(const struct view *view, const uint8_t *buffer, const struct block_set *bad)
{
    struct read_cache *cache = view->store->read_cache;
    uint64_t key = store_key(view->store, view->where.extent, view->block);
    uint32_t first = 0;

    if (!read_cache_note_read(cache, key, view->count))
        return;
    for (uint32_t i = 0; i <= view->count; i++) {
        if (i < view->count && view->blocks[i].source == LOOKUP_PLACE &&
            needs_read(&view->blocks[i]) && !(bad->bits[i / 64] >> (i % 64) & 1))
            continue;
        if (i > first)
            read_cache_fill(cache, key + first, i - first, buffer + (size_t)first * BLOCK_SIZE);
        first = i + 1;
    }
}

static void count_sources(const struct view *view)
{
    struct store_counters *counters = &view->store->counters;

    for (uint32_t i = 0; i < view->count; i++) {
        const struct lookup *lookup = &view->blocks[i];

        if (!needs_read(lookup))
            continue;
        counter_add(lookup->source == LOOKUP_LOG     ? &counters->log_read_blocks
                    : lookup->source == LOOKUP_CACHE ? &counters->cache_read_blocks
                                                     : &counters->place_read_blocks,
                    1);
    }
}

/* What was read, as the store remembers it. */
static void note_rot(const struct view *view, const struct block_set *bad)
{
    uint64_t key = store_key(view->store, view->where.extent, view->block);

    rotten_forget(&view->store->rotten, key, view->count);
    for (uint32_t i = 0; i < view->count; i++)
        if (bad->bits[i / 64] >> (i % 64) & 1)
            rotten_note(&view->store->rotten, key + i);
}

static uint64_t sum_of(const struct lookup *lookup)
{
    return lookup->source == LOOKUP_ZERO || lookup->sum == CHECKSUM_LOST ? 0 : lookup->sum;
}

static int co_read(struct store *store, uint64_t vdisk, struct extent_ref where, uint32_t block,
                   uint32_t count, uint64_t address, const struct log_position *at, void *buffer,
                   uint64_t *ret_sums, struct block_set *ret_bad)
{
    struct block_set bad = {0};
    struct view view;
    int r;

    if (count == 0 || count > RECORD_BLOCKS_MAX || block >= store->geometry.extent_blocks ||
        count > store->geometry.extent_blocks - block)
        return -EINVAL;
    view_init(&view, store, where, block, count, at);
    r = co_view(&view, vdisk);
    if (r == 0 && is_unproven(&view))
        r = -ESTALE;
    if (r == 0 && store->read_cache && (!at || PLANTED(READ_CACHE_HIDES_ROT)))
        view_ask_cache(&view);
    if (r == 0)
        r = co_read_view(&view, vdisk, address, buffer, &bad);
    if (r == 0 && any_bad(&bad)) {
        bool moved = !view.cache;

        r = co_read_again(&view, vdisk, address, buffer, &bad);
        SOMETIMES_IF(r == 0 && moved && !any_bad(&bad),
                     "store: a destage passed while a block was read");
    }
    view_release(&view);
    if (r < 0)
        return r;
    if (is_withheld(&view)) /* may be old, and nobody can tell */
        set_bad(&bad, &(struct run){0, count});
    if (store->read_cache && !at)
        fill_cache(&view, buffer, &bad);
    count_sources(&view);
    for (uint32_t i = 0; ret_sums && i < count; i++)
        ret_sums[i] = sum_of(&view.blocks[i]);
    counter_add(&store->counters.read_blocks, count);
    if (store->rotten.count > 0 || any_bad(&bad))
        note_rot(&view, &bad);
    if (!any_bad(&bad))
        return 0;
    if (ret_bad)
        *ret_bad = bad;
    SOMETIMES("store: a block is rotten");
    counter_add(&store->counters.verify_errors, 1);
    store_report(store, -EBADMSG);
    return -EBADMSG;
}

int co_store_read(struct store *store, uint64_t vdisk, struct extent_ref where, uint32_t block,
                  uint32_t count, uint64_t address, void *buffer, uint64_t *ret_sums,
                  struct block_set *ret_bad)
{
    return co_read(store, vdisk, where, block, count, address, NULL, buffer, ret_sums, ret_bad);
}

int co_store_read_at(struct store *store, uint64_t vdisk, struct extent_ref where, uint32_t block,
                     uint32_t count, uint64_t address, struct log_position at, void *buffer,
                     uint64_t *ret_sums, struct block_set *ret_bad)
{
    return co_read(store, vdisk, where, block, count, address,
                   PLANTED(PARITY_ONE_VERSION) ? NULL : &at, buffer, ret_sums, ret_bad);
}

/* ---- checksums only ---- */

static int co_checksums_piece(struct view *view, uint64_t vdisk, uint64_t *ret_sums,
                              uint64_t *ret_unknown, uint32_t at)
{
    int r = co_view(view, vdisk), result = 0;

    if (r < 0)
        return r;
    for (uint32_t i = 0; i < view->count; i++) {
        ret_sums[at + i] = sum_of(&view->blocks[i]);
        if (is_withheld(view) ||
            (view->blocks[i].source == LOOKUP_PLACE && view->blocks[i].sum == CHECKSUM_LOST)) {
            result = -EBADMSG;
            if (ret_unknown)
                ret_unknown[(at + i) / 64] |= 1ull << ((at + i) % 64);
        }
    }
    return result;
}

int co_store_checksums(struct store *store, uint64_t vdisk, struct extent_ref where, uint32_t block,
                       uint32_t count, uint64_t *ret_sums, uint64_t *ret_unknown)
{
    struct view view;
    int result = 0;

    if (count == 0 || block >= store->geometry.extent_blocks ||
        count > store->geometry.extent_blocks - block)
        return -EINVAL;
    for (uint32_t at = 0; at < count; at += view.count) {
        int r;

        view_init(&view, store, where, block + at, MIN(count - at, RECORD_BLOCKS_MAX), NULL);
        r = co_checksums_piece(&view, vdisk, ret_sums, ret_unknown, at);
        if (r < 0 && r != -EBADMSG)
            return r;
        result = MIN(result, r);
    }
    return result;
}
