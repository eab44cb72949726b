/* Steps 4 to 6 of a checkpoint: what the destaged blocks mean for checksum pages and for the extent
 * table. Pages are changed in RAM while their blocks are still read from the log; they stay pinned
 * until they are in place. */
#include "cache-tier/checkpoint_internal.h"
#include "s2d/base/checksum.h"

/* ---- 4: pages and table ---- */

static uint32_t key_extent(const struct store *store, uint64_t key)
{
    return key >> store->extent_shift;
}

static uint32_t key_block(const struct store *store, uint64_t key)
{
    return key & (store->geometry.extent_blocks - 1);
}

static uint32_t key_page(const struct store *store, uint64_t key)
{
    return key_block(store, key) / CHECKSUM_PAGE_ENTRIES;
}

static int compare_items(const void *a, const void *b)
{
    const struct destage *x = a, *y = b;

    return x->key < y->key ? -1 : x->key > y->key;
}

static bool pinned_last(const struct checkpoint *work, uint64_t number)
{
    return work->page_count > 0 && work->pages[work->page_count - 1]->page->number == number;
}

static int co_pin_page(struct checkpoint *work, uint32_t extent, uint32_t page,
                       struct cached_page **ret_page)
{
    struct store *store = work->store;
    uint64_t number = store_page_number(store, extent, page);
    const struct extent_row *row = extent_table_row(store->table, extent);
    struct cached_page *cached = NULL;
    int r = 0;

    if (pinned_last(work, number)) {
        *ret_page = work->pages[work->page_count - 1];
        return 0;
    }
    if (work->page_count == work->page_size) {
        size_t size = MAX(work->page_size * 2, 1024);
        struct cached_page **pages = realloc(work->pages, size * sizeof(struct cached_page *));

        if (!pages)
            return -ENOMEM;
        work->pages = pages;
        work->page_size = size;
    }
    if (extent_row_has_page(row, page)) {
        cached = page_try_get(store->pages, number, row->generation);
        if (!cached)
            r = co_page_get(store->pages, number, row->generation, &cached);
    } else {
        r = co_page_get_new(store->pages, number, row->generation, &cached);
        if (r == 0) /* the row tells of an emptied page; from now on only this does */
            cached->page->epoch = MAX(cached->page->epoch, row->clear_epoch);
    }
    if (r < 0)
        return r;
    work->pages[work->page_count++] = cached;
    *ret_page = cached;
    return 0;
}

static void page_is_written(struct store *store, uint32_t extent, uint32_t page)
{
    if (!extent_row_has_page(extent_table_row(store->table, extent), page))
        extent_table_change(store->table, extent)->pages[page / 64] |= 1ull << (page % 64);
}

/* The pages of the items from `first` on that must be read, up to some. One by one they would take
 * longer than the data. */
static int co_prefetch(struct checkpoint *work, size_t first)
{
    struct store *store = work->store;
    struct page_name names[PAGE_PREFETCH_MAX];
    uint64_t last = UINT64_MAX;
    size_t count = 0;

    for (size_t i = first; i < work->item_count && count < PAGE_PREFETCH_MAX; i++) {
        uint32_t extent = key_extent(store, work->items[i].key);
        uint32_t page = key_page(store, work->items[i].key);
        const struct extent_row *row = extent_table_row(store->table, extent);
        uint64_t number = store_page_number(store, extent, page);

        if (number == last || extent_forgotten(store, extent) || !extent_row_has_page(row, page))
            continue;
        last = number;
        names[count++] = (struct page_name){number, row->generation};
    }
    return co_page_prefetch(store->pages, names, count);
}

static bool page_missing(const struct checkpoint *work, uint64_t key)
{
    const struct store *store = work->store;
    uint32_t extent = key_extent(store, key), page = key_page(store, key);
    const struct extent_row *row = extent_table_row(store->table, extent);
    uint64_t number = store_page_number(store, extent, page);
    struct cached_page *cached;

    if (pinned_last(work, number) || extent_forgotten(store, extent) ||
        !extent_row_has_page(row, page))
        return false;
    cached = page_try_get(store->pages, number, row->generation);
    if (cached)
        page_put(store->pages, cached);
    return !cached;
}

int co_checkpoint_pages(struct checkpoint *work)
{
    struct store *store = work->store;

    qsort(work->items, work->item_count, sizeof(*work->items), compare_items);
    for (size_t i = 0; i < work->item_count; i++) {
        const struct destage *item = &work->items[i];
        uint32_t extent = key_extent(store, item->key);
        uint32_t block = key_block(store, item->key), page = key_page(store, item->key);
        struct cached_page *cached;
        int r;

        if (page_missing(work, item->key)) {
            r = co_prefetch(work, i);
            if (r < 0)
                return r;
        }
        if (extent_forgotten(store, extent))
            continue;
        r = co_pin_page(work, extent, page, &cached);
        if (r < 0)
            return r;
        if (extent_forgotten(store, extent)) {
            SOMETIMES("checkpoint: an extent is freed while a page of it is read");
            continue; /* while the page was read */
        }
        cached->page->sums[block % CHECKSUM_PAGE_ENTRIES] = item->sum;
        cached->page->epoch = MAX(cached->page->epoch, item->stamp);
        page_mend(cached);
        page_is_written(store, extent, page);
    }
    return 0;
}

/* ---- zeros ---- */

static bool bit_is_set(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

/* i begins a word in front of end, all of whose bits are set? */
static bool is_full_word(const uint64_t *bits, uint32_t i, uint32_t end)
{
    return i % 64 == 0 && end - i >= 64 && bits[i / 64] == UINT64_MAX;
}

static bool any_is_set(const uint64_t *bits, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++)
        if (bit_is_set(bits, i))
            return true;
    return false;
}

static bool is_committed_in_log(const struct store *store, uint64_t key)
{
    uint32_t at = overlay_find(store->overlay, key);

    while (at != OVERLAY_NONE && overlay_record(store->overlay, at) != 0)
        at = overlay_older(store->overlay, at);
    return at != OVERLAY_NONE;
}

/* Nothing of the page is to be read from its place any more: what is not zero was written since,
 * and the log has it. */
static bool page_is_empty(const struct store *store, uint32_t extent, const uint64_t *bits,
                          uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        if (is_full_word(bits, i, end))
            i += 63; /* a large file that is deleted has thousands of such extents */
        else if (!bit_is_set(bits, i) && !is_committed_in_log(store, store_key(store, extent, i)))
            return false;
    }
    return true;
}

/* Among the pages that this checkpoint has changed for its blocks, the first data_pages: those are
 * in the order of their numbers. */
static bool has_data(const struct checkpoint *work, size_t data_pages, uint64_t number)
{
    size_t low = 0, high = data_pages;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (work->pages[middle]->page->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < data_pages && work->pages[low]->page->number == number;
}

static void page_give_up(struct store *store, uint32_t extent, uint32_t page, uint64_t stamp)
{
    struct extent_row *change = extent_table_change(store->table, extent);

    change->pages[page / 64] &= ~(1ull << (page % 64));
    change->clear_epoch = MAX(change->clear_epoch, stamp);
}

static int co_zero_page(struct checkpoint *work, size_t data_pages, uint32_t extent, uint32_t page,
                        const uint64_t *bits, uint64_t stamp)
{
    struct store *store = work->store;
    const struct extent_row *row = extent_table_row(store->table, extent);
    uint32_t first = page * CHECKSUM_PAGE_ENTRIES;
    uint32_t end = MIN(first + CHECKSUM_PAGE_ENTRIES, store->geometry.extent_blocks);
    struct cached_page *cached;
    int r;

    if (!any_is_set(bits, first, end))
        return 0;
    if (!extent_row_has_page(row, page) ||
        (!has_data(work, data_pages, store_page_number(store, extent, page)) &&
         page_is_empty(store, extent, bits, first, end))) {
        SOMETIMES("checkpoint: a page of zeros is given up");
        page_give_up(store, extent, page, stamp); /* no page says it better than one */
        return 0;
    }
    r = co_pin_page(work, extent, page, &cached);
    if (r < 0 || extent_forgotten(store, extent))
        return r;
    for (uint32_t i = first; i < end; i++)
        if (bit_is_set(bits, i))
            cached->page->sums[i - first] = 0;
    cached->page->epoch = MAX(cached->page->epoch, stamp);
    page_mend(cached);
    return 0;
}

int co_checkpoint_zeros(struct checkpoint *work)
{
    struct store *store = work->store;
    size_t data_pages = work->page_count;
    const uint64_t *bits;
    uint64_t stamp;
    uint32_t extent;

    for (uint32_t from = 0;
         (bits = overlay_zero_next(store->overlay, from, &extent, &stamp)) != NULL;
         from = extent + 1) {
        for (uint32_t page = 0; page < store->geometry.pages_per_extent; page++) {
            int r;

            if (extent_forgotten(store, extent))
                break;
            r = co_zero_page(work, data_pages, extent, page, bits, stamp);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* ---- images ---- */

struct image {
    struct control control;
    uint64_t target; /* offset on the disk */
};

static bool image_encode(struct log_item *item, void *to)
{
    struct image *image = container_of(item, struct image, control.item);
    struct log_image_record *record = to;

    record->head.kind = LOG_IMAGE;
    record->head.bytes = sizeof(*record);
    record->head.data_blocks = 1;
    record->target = image->target / BLOCK_SIZE;
    record->hash = hash64(item->data, BLOCK_SIZE);
    return true;
}

static void image_done(struct log_item *item, int result)
{
    control_done(container_of(item, struct control, item), result);
}

static void image_append(struct checkpoint *work, struct control_wait *wait, const void *data,
                         uint64_t target)
{
    static const struct log_item_ops ops = {.encode = image_encode, .done = image_done};
    struct image *image = &work->images[work->image_count++];

    control_init(&image->control, work->store, wait, &ops, sizeof(struct log_image_record));
    image->control.item.data = data;
    image->control.item.data_blocks = 1;
    image->target = target;
    control_append(&image->control);
}

struct compare_copy {
    struct control control;
    struct extent_ref where;
};

static bool compare_encode(struct log_item *item, void *to)
{
    struct compare_copy *copy = container_of(item, struct compare_copy, control.item);
    struct log_extent_record *record = to;

    record->head.kind = LOG_COMPARE;
    record->head.bytes = sizeof(*record);
    record->head.data_blocks = item->data_blocks;
    record->extent = copy->where.extent;
    record->generation = copy->where.generation;
    record->hash = hash64(item->data, (size_t)item->data_blocks * BLOCK_SIZE);
    return true;
}

/* The compare lists live in the log alone: each checkpoint carries them on. */
int co_checkpoint_compares(struct checkpoint *work)
{
    static const struct log_item_ops ops = {.encode = compare_encode, .done = image_done};
    struct store *store = work->store;
    uint32_t blocks = DIV_ROUND_UP(store_bitmap_bytes(store), BLOCK_SIZE);

    for (uint32_t i = 0; i < store->geometry.extent_count; i++) {
        struct control_wait wait = {0};
        struct compare_copy copy;
        int r;

        if (!store->extents[i].compare)
            continue;
        memset(work->window, 0, (size_t)blocks * BLOCK_SIZE);
        memcpy(work->window, store->extents[i].compare, store_bitmap_bytes(store));
        control_init(&copy.control, store, &wait, &ops, sizeof(struct log_extent_record));
        copy.where = (struct extent_ref){i, extent_table_row(store->table, i)->generation};
        copy.control.item.data = work->window;
        copy.control.item.data_blocks = blocks;
        control_append(&copy.control);
        r = co_control_wait(&wait);
        if (r < 0)
            return r;
    }
    return 0;
}

static int compare_pages(const void *a, const void *b)
{
    const struct cached_page *const *x = a, *const *y = b;

    return (*x)->page->number < (*y)->page->number ? -1 : (*x)->page->number > (*y)->page->number;
}

/* A page may have been pinned for its data and again for its zeros. */
void checkpoint_pages_unique(struct checkpoint *work)
{
    size_t kept = 0;

    if (work->page_count > 0)
        qsort(work->pages, work->page_count, sizeof(struct cached_page *), compare_pages);
    for (size_t i = 0; i < work->page_count; i++) {
        if (kept > 0 && work->pages[kept - 1] == work->pages[i])
            page_put(work->store->pages, work->pages[i]);
        else
            work->pages[kept++] = work->pages[i];
    }
    work->page_count = kept;
}

int co_checkpoint_images(struct checkpoint *work)
{
    struct store *store = work->store;
    uint32_t table_count = extent_table_dirty_blocks(store->table), index = 0;
    struct control_wait wait = {0};
    int r;

    work->image_count = 0;
    work->images = calloc(work->page_count + table_count + 1, sizeof(*work->images));
    work->table_blocks = aligned_alloc(BLOCK_SIZE, (size_t)(table_count + 1) * BLOCK_SIZE);
    if (!work->images || !work->table_blocks)
        return -ENOMEM;
    for (size_t i = 0; i < work->page_count; i++) {
        struct checksum_page *page = work->pages[i]->page;

        page->log_sequence = log_last_sequence(store->log);
        checksum_page_finish(page);
        if (PLANTED(IMAGE_MISSING) && i == 0)
            continue;
        image_append(work, &wait, page, disk_page_offset(&store->geometry, page->number));
    }
    /* after the pages: a row must not claim a page whose image is not there */
    for (uint32_t i = 0; i < table_count; i++) {
        uint8_t *block = work->table_blocks + (size_t)i * BLOCK_SIZE;

        index = extent_table_next_dirty(store->table, index);
        extent_table_encode(store->table, index, (struct extent_table_block *)block);
        image_append(work, &wait, block,
                     store->geometry.table_offset + (uint64_t)index * BLOCK_SIZE);
    }
    r = co_control_wait(&wait);
    work->images_done = log_last_sequence(store->log);
    return r;
}

/* ---- 5, 6: in place ---- */

int co_checkpoint_place(struct checkpoint *work)
{
    cleanup(freep) struct transfer *transfers = calloc(work->image_count + 1, sizeof(*transfers));
    cleanup(freep) struct iovec *iov = calloc(work->image_count + 1, sizeof(*iov));
    size_t writes = 0;

    if (!transfers || !iov)
        return -ENOMEM;
    for (size_t i = 0; i < work->image_count; i++) {
        const struct image *image = &work->images[i];
        struct transfer *last = writes > 0 ? &transfers[writes - 1] : NULL;

        iov[i] = (struct iovec){(void *)image->control.item.data, BLOCK_SIZE};
        if (last && last->offset + (uint64_t)last->iov_count * BLOCK_SIZE == image->target &&
            last->iov_count < MERGE_IOVS)
            last->iov_count++;
        else
            transfers[writes++] =
                (struct transfer){.iov = &iov[i], .iov_count = 1, .offset = image->target};
    }
    return co_checkpoint_transfer(work, TRANSFER_WRITE, transfers, writes);
}
