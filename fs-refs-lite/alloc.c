#include "fs-refs-lite/alloc.h"
#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/fs_internal.h"

#define GROUP_UNKNOWN UINT16_MAX
#define METADATA_ZONE                                                                              \
    64 /* one group in so many is left to tree nodes while there is other room                     \
        */
static_assert(FS_GROUP_BLOCKS < GROUP_UNKNOWN, "free_in_group");

struct group {
    struct list list; /* clean, dirty or writing */
    struct group *hash_next;
    uint64_t index;
    uint32_t blocks;
    uint32_t free_blocks;
    unsigned pins; /* held runs and pool addresses: their bits are nowhere else */
    bool is_dirty;
    bool is_fresh;            /* no item yet */
    uint8_t slot;             /* of the map that the last snapshot or root named */
    uint64_t item_generation; /* of the snapshot for which its item's node is dirty */
    struct fs_bitmap *map;
    struct fs_bitmap *image; /* during alloc_snapshot() */
};

/* ---- lists of runs ---- */

int run_list_reserve(struct run_list *list, size_t more)
{
    size_t capacity = MAX(list->count + more, 2 * list->capacity);
    struct run *runs;

    if (list->capacity - list->count >= more)
        return 0;
    runs = realloc(list->runs, capacity * sizeof(*runs));
    if (!runs)
        return -ENOMEM;
    list->runs = runs;
    list->capacity = capacity;
    return 0;
}

void run_list_add(struct run_list *list, uint64_t address, uint64_t blocks)
{
    struct run *last = list->count ? &list->runs[list->count - 1] : NULL;

    list->blocks += blocks;
    if (last && last->address + last->blocks == address) {
        last->blocks += blocks;
        return;
    }
    assert(list->count < list->capacity);
    list->runs[list->count++] = (struct run){.address = address, .blocks = blocks};
}

void run_list_clear(struct run_list *list)
{
    list->count = 0;
    list->blocks = 0;
}

static int run_compare(const void *a, const void *b)
{
    const struct run *first = a, *second = b;

    return first->address < second->address ? -1 : first->address > second->address;
}

void run_list_sort(struct run_list *list)
{
    size_t kept = 0;

    if (list->count == 0)
        return;
    qsort(list->runs, list->count, sizeof(*list->runs), run_compare);
    for (size_t i = 1; i < list->count; i++) {
        struct run *last = &list->runs[kept];

        if (last->address + last->blocks == list->runs[i].address)
            last->blocks += list->runs[i].blocks;
        else
            list->runs[++kept] = list->runs[i];
    }
    list->count = kept + 1;
}

void run_list_done(struct run_list *list)
{
    free(list->runs);
    *list = (struct run_list){0};
}

/* ---- geometry ---- */

uint64_t alloc_group_first(const struct alloc *alloc, uint64_t group)
{
    return alloc->first_block + group * FS_GROUP_BLOCKS;
}

uint64_t alloc_group_blocks(const struct alloc *alloc, uint64_t group)
{
    return MIN((uint64_t)FS_GROUP_BLOCKS, alloc->total_blocks - alloc_group_first(alloc, group));
}

static uint64_t group_of(const struct alloc *alloc, uint64_t address)
{
    return (address - alloc->first_block) / FS_GROUP_BLOCKS;
}

bool alloc_is_valid_run(const struct alloc *alloc, uint64_t address, uint64_t blocks)
{
    uint64_t group, within;

    if (address < alloc->first_block || blocks == 0 || blocks > FS_GROUP_BLOCKS)
        return false;
    group = group_of(alloc, address);
    if (group >= alloc->group_count)
        return false;
    within = address - alloc_group_first(alloc, group);
    return within >= FS_GROUP_SLOTS && within + blocks <= alloc_group_blocks(alloc, group);
}

static uint64_t group_count_of(uint64_t total_blocks, uint64_t first_block)
{
    uint64_t blocks = total_blocks > first_block ? total_blocks - first_block : 0;

    return blocks / FS_GROUP_BLOCKS + (blocks % FS_GROUP_BLOCKS >= FS_GROUP_BLOCKS_MIN);
}

uint64_t alloc_capacity(const struct alloc *alloc)
{
    uint64_t blocks = 0;

    if (alloc->group_count > 0)
        blocks = (alloc->group_count - 1) * FS_GROUP_BLOCKS +
                 alloc_group_blocks(alloc, alloc->group_count - 1);
    return blocks - alloc->group_count * FS_GROUP_SLOTS;
}

void alloc_geometry(struct alloc *alloc, const struct fs_super *super, uint64_t total_blocks)
{
    alloc->total_blocks = total_blocks;
    alloc->first_block = super->first_group_block;
    alloc->group_count = group_count_of(total_blocks, super->first_group_block);
}

int alloc_init(struct alloc *alloc, const struct fs_super *super, const struct fs_root *root,
               size_t group_capacity, size_t pool_capacity)
{
    size_t buckets = 64;

    list_init(&alloc->clean);
    list_init(&alloc->dirty);
    list_init(&alloc->writing);
    list_init(&alloc->holds);
    while (buckets < group_capacity)
        buckets *= 2;
    alloc->hash_mask = buckets - 1;
    alloc->loaded_max = group_capacity;
    alloc->pool_capacity = pool_capacity;
    alloc_geometry(alloc, super, root->total_blocks);
    alloc->free_blocks = MIN(root->free_blocks, alloc_capacity(alloc));
    alloc->data_cursor = MAX(root->data_cursor, alloc->group_count / METADATA_ZONE);
    alloc->metadata_cursor = 0;

    alloc->hash = calloc(buckets, sizeof(struct group *));
    alloc->pool = calloc(pool_capacity, sizeof(*alloc->pool));
    alloc->free_in_group = malloc(alloc->group_count * sizeof(uint16_t));
    if (!alloc->hash || !alloc->pool || !alloc->free_in_group)
        return -ENOMEM;
    memset(alloc->free_in_group, 0xff, alloc->group_count * sizeof(uint16_t));
    return 0;
}

static void group_free(struct alloc *alloc, struct group *group)
{
    struct group **link = &alloc->hash[group->index & alloc->hash_mask];

    while (*link != group)
        link = &(*link)->hash_next;
    *link = group->hash_next;
    list_remove(&group->list);
    alloc->loaded_count--;
    free(group->map);
    free(group);
}

void alloc_done(struct alloc *alloc)
{
    for (size_t i = 0; alloc->hash && i <= alloc->hash_mask; i++) {
        while (alloc->hash[i])
            group_free(alloc, alloc->hash[i]);
    }
    run_list_done(&alloc->freed);
    run_list_done(&alloc->trimming);
    free(alloc->touched);
    free(alloc->pool);
    free(alloc->free_in_group);
    free(alloc->hash);
    *alloc = (struct alloc){0};
}

/* ---- maps in RAM ---- */

static struct group *group_find(const struct alloc *alloc, uint64_t index)
{
    struct group *group = alloc->hash[index & alloc->hash_mask];

    while (group && group->index != index)
        group = group->hash_next;
    return group;
}

static bool bit_test(const uint64_t *bits, uint64_t bit)
{
    return bits[bit / 64] >> bit % 64 & 1;
}

static void bit_set(uint64_t *bits, uint64_t bit)
{
    bits[bit / 64] |= (uint64_t)1 << bit % 64;
}

static void bit_clear(uint64_t *bits, uint64_t bit)
{
    bits[bit / 64] &= ~((uint64_t)1 << bit % 64);
}

static uint32_t map_used(const struct fs_bitmap *map)
{
    uint32_t used = 0;

    for (size_t i = 0; i < ARRAY_SIZE(map->used); i++)
        used += (uint32_t)__builtin_popcountll(map->used[i]);
    return used;
}

static void group_count_free(struct alloc *alloc, struct group *group)
{
    group->free_blocks = group->blocks - map_used(group->map);
    alloc->free_in_group[group->index] = group->free_blocks;
}

/* Sets or clears the bits of a run; returns how many changed. */
static uint64_t group_mark(struct alloc *alloc, struct group *group, uint64_t address,
                           uint64_t blocks, bool used)
{
    uint64_t at = address - alloc_group_first(alloc, group->index), changed = 0;

    assert(at + blocks <= group->blocks);
    for (uint64_t bit = at; bit < at + blocks; bit++) {
        if (bit_test(group->map->used, bit) == used)
            continue;
        if (used)
            bit_set(group->map->used, bit);
        else
            bit_clear(group->map->used, bit);
        changed++;
    }
    group->free_blocks += used ? -changed : changed;
    alloc->free_in_group[group->index] = group->free_blocks;
    return changed;
}

static void group_dirty(struct alloc *alloc, struct group *group)
{
    if (group->is_dirty)
        return;
    group->is_dirty = true;
    list_remove(&group->list);
    list_push_back(&alloc->dirty, &group->list);
    alloc->dirty_count++;
}

/* The group's map differs from what is on disk: the next checkpoint writes it. Room in `touched`
 * was reserved. */
static void group_touch(struct alloc *alloc, uint64_t index)
{
    struct group *group = group_find(alloc, index);

    if (group) {
        group_dirty(alloc, group);
        return;
    }
    if (alloc->touched_count && alloc->touched[alloc->touched_count - 1] == index)
        return;
    assert(alloc->touched_count < alloc->touched_capacity);
    alloc->touched[alloc->touched_count++] = index;
}

static int touched_reserve(struct alloc *alloc, size_t more)
{
    size_t capacity = MAX(alloc->touched_count + more, 2 * alloc->touched_capacity);
    uint64_t *touched;

    if (alloc->touched_capacity - alloc->touched_count >= more)
        return 0;
    touched = realloc(alloc->touched, capacity * sizeof(*touched));
    if (!touched)
        return -ENOMEM;
    alloc->touched = touched;
    alloc->touched_capacity = capacity;
    return 0;
}

int alloc_reserve_frees(struct alloc *alloc, size_t runs)
{
    int r = run_list_reserve(&alloc->freed, runs);

    return r < 0 ? r : touched_reserve(alloc, runs);
}

static void groups_evict(struct alloc *alloc)
{
    list_for_each_safe (entry, &alloc->clean) {
        struct group *group = list_entry(entry, struct group, list);

        if (alloc->loaded_count < alloc->loaded_max)
            return;
        if (group->pins == 0)
            group_free(alloc, group);
    }
}

static struct group *group_new(const struct alloc *alloc, uint64_t index)
{
    struct group *group = calloc(1, sizeof(*group));

    if (!group)
        return NULL;
    group->map = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    if (!group->map) {
        free(group);
        return NULL;
    }
    list_init(&group->list);
    group->index = index;
    group->blocks = alloc_group_blocks(alloc, index);
    return group;
}

/* What is trimmed right now is free on disk, but not yet for us. */
static void group_overlay(struct alloc *alloc, struct group *group)
{
    for (size_t i = 0; i < alloc->trimming.count; i++) {
        const struct run *run = &alloc->trimming.runs[i];

        if (group_of(alloc, run->address) == group->index)
            group_mark(alloc, group, run->address, run->blocks, true);
    }
}

static void group_insert(struct alloc *alloc, struct group *group)
{
    struct group **bucket = &alloc->hash[group->index & alloc->hash_mask];

    group_count_free(alloc, group);
    group_overlay(alloc, group);
    group->hash_next = *bucket;
    *bucket = group;
    list_push_back(&alloc->clean, &group->list);
    alloc->loaded_count++;
}

static struct fs_key group_key(uint64_t index)
{
    return (struct fs_key){.object = index, .kind = FS_KIND_GROUP};
}

/* Returns 0, -ENOENT (a fresh group), -EAGAIN, -EBADMSG. */
static int group_item_get(struct fs *fs, uint64_t index, struct fs_group_item *ret_item)
{
    struct fs_key key = group_key(index);
    struct tree_item item;
    int r = tree_get(fs, FS_TREE_GROUPS, &key, &item);

    if (r < 0)
        return r;
    if (item.size != sizeof(*ret_item))
        return -EBADMSG;
    memcpy(ret_item, item.value, sizeof(*ret_item));
    return ret_item->slot < FS_GROUP_SLOTS ? 0 : -EBADMSG;
}

static bool map_is_valid(const struct fs *fs, const struct group *group,
                         const struct fs_group_item *item, uint64_t block)
{
    const struct fs_bitmap *map = group->map;

    if (!block_is_valid(map, FS_BITMAP_MAGIC, fs->super.header.volume, block) ||
        map->group != group->index || map->header.generation != item->generation)
        return false;
    for (uint64_t bit = group->blocks; bit < FS_GROUP_BLOCKS; bit++) {
        if (bit_test(map->used, bit))
            return false;
    }
    return bit_test(map->used, 0) && bit_test(map->used, 1);
}

static int co_group_read(struct fs *fs, struct group *group)
{
    struct fs_group_item item, now;
    uint64_t block;
    int r = CO_RETRY(fs, group_item_get(fs, group->index, &item));

    memset(group->map, 0, sizeof(*group->map));
    if (r == -ENOENT) {
        group->is_fresh = true;
        bit_set(group->map->used, 0);
        bit_set(group->map->used, 1);
        return 0;
    }
    if (r < 0)
        return r;
    block = alloc_group_first(&fs->alloc, group->index) + item.slot;
    r = co_disk_read(fs, group->map, block * BLOCK_SIZE, BLOCK_SIZE);
    if (r < 0)
        return r == -EIO && !fs->error ? -EBADMSG : r; /* no copy of it is right any more */
    if (group_item_get(fs, group->index, &now) < 0 || memcmp(&now, &item, sizeof(now)) != 0)
        return -EAGAIN; /* a checkpoint passed */
    group->slot = item.slot;
    return map_is_valid(fs, group, &item, block) ? 0 : -EBADMSG;
}

/* Returns 0, -EBADMSG (nothing is allocated from this group any more), -ENOMEM, or the vdisk's
 * error. */
static int co_group_get(struct fs *fs, uint64_t index, struct group **ret_group)
{
    struct alloc *alloc = &fs->alloc;

    assert(index < alloc->group_count);
    for (;;) {
        struct group *group = group_find(alloc, index);
        int r;

        if (group) {
            *ret_group = group;
            return 0;
        }
        groups_evict(alloc);
        group = group_new(alloc, index);
        if (!group)
            return -ENOMEM;
        r = co_group_read(fs, group);
        if (r == -EBADMSG) {
            fs_note_damage(fs);
            alloc->free_in_group[index] = 0;
        }
        if (r == 0 && !group_find(alloc, index)) {
            group_insert(alloc, group);
            continue;
        }
        free(group->map);
        free(group);
        if (r < 0 && r != -EAGAIN)
            return r;
    }
}

int co_alloc_map(struct fs *fs, uint64_t group, const uint64_t **ret_used)
{
    struct group *found;
    int r = co_group_get(fs, group, &found);

    if (r == 0)
        *ret_used = found->map->used;
    return r;
}

/* ---- searching ---- */

/* The first run of free blocks at or behind `from`, at most `blocks` long. False: none. */
static bool group_search(const struct group *group, uint64_t from, uint64_t blocks,
                         struct run *ret_run)
{
    const uint64_t *used = group->map->used;
    uint64_t bit = from, end;

    while (bit < group->blocks && bit_test(used, bit)) {
        if (bit % 64 == 0 && used[bit / 64] == UINT64_MAX)
            bit += 64;
        else
            bit++;
    }
    if (bit >= group->blocks)
        return false;
    end = bit + 1;
    while (end < group->blocks && end - bit < blocks && !bit_test(used, end))
        end++;
    *ret_run = (struct run){.address = bit, .blocks = end - bit};
    return true;
}

/* Takes free runs of the group from `from` on into the hold, until it has `blocks` or no room. */
static void group_hold(struct fs *fs, struct group *group, uint64_t from, uint64_t blocks,
                       struct alloc_hold *hold, uint64_t *held)
{
    struct alloc *alloc = &fs->alloc;
    struct run run;

    while (*held < blocks && hold->count < ALLOC_HOLD_RUNS &&
           group_search(group, from, blocks - *held, &run)) {
        from = run.address + run.blocks;
        run.address += alloc_group_first(alloc, group->index);
        alloc->free_blocks -= group_mark(alloc, group, run.address, run.blocks, true);
        group->pins++;
        hold->runs[hold->count++] = run;
        *held += run.blocks;
    }
}

uint64_t alloc_available(const struct alloc *alloc)
{
    uint64_t blocks = alloc->free_blocks + alloc->pool_count; /* the pool is part of the reserve */

    return blocks > alloc->reserve_blocks ? MIN(blocks - alloc->reserve_blocks, alloc->free_blocks)
                                          : 0;
}

int co_alloc_hold(struct fs *fs, uint64_t goal, uint64_t blocks, struct alloc_hold *hold,
                  uint64_t *ret_blocks)
{
    struct alloc *alloc = &fs->alloc;
    bool has_goal = goal && alloc_is_valid_run(alloc, goal, 1);
    uint64_t start = has_goal ? group_of(alloc, goal) : alloc->data_cursor % alloc->group_count;
    uint64_t from = has_goal ? goal - alloc_group_first(alloc, start) : 0;
    uint64_t held = 0;

    hold->count = 0;
    list_init(&hold->node);
    /* One more than there are groups: the first one is seen again from its beginning. */
    for (uint64_t i = 0; i <= alloc->group_count && held < blocks; i++) {
        uint64_t index = (start + i) % alloc->group_count;
        struct group *group;
        int r;

        if (alloc->free_in_group[index] == 0)
            continue;
        r = co_group_get(fs, index, &group);
        if (r == -EBADMSG)
            continue;
        if (r < 0 && held == 0)
            return r;
        if (r < 0)
            break;
        /* Others may have taken the room while we read a map. */
        blocks = MIN(blocks, held + alloc_available(alloc));
        group_hold(fs, group, i == 0 ? from : 0, blocks, hold, &held);
        alloc->data_cursor = index;
        if (hold->count == ALLOC_HOLD_RUNS)
            break;
    }
    if (held == 0)
        return -ENOSPC;
    list_push_back(&alloc->holds, &hold->node);
    *ret_blocks = held;
    return 0;
}

int co_alloc_hold_free(struct fs *fs, uint64_t index, uint64_t *from, struct alloc_hold *hold)
{
    struct alloc *alloc = &fs->alloc;
    uint64_t held = 0;
    struct group *group;
    int r = co_group_get(fs, index, &group);

    if (r < 0)
        return r;
    hold->count = 0;
    list_init(&hold->node);
    group_hold(fs, group, *from, alloc_available(alloc) / 2, hold, &held);
    if (held == 0)
        return -ENOENT;
    list_push_back(&alloc->holds, &hold->node);
    *from = hold->runs[hold->count - 1].address + hold->runs[hold->count - 1].blocks -
            alloc_group_first(alloc, index);
    return 0;
}

static void hold_unpin(struct alloc *alloc, const struct run *run, struct group **ret_group)
{
    struct group *group = group_find(alloc, group_of(alloc, run->address));

    assert(group && group->pins > 0);
    group->pins--;
    *ret_group = group;
}

void alloc_release(struct fs *fs, struct alloc_hold *hold)
{
    struct alloc *alloc = &fs->alloc;

    for (unsigned i = 0; i < hold->count; i++) {
        struct group *group;

        hold_unpin(alloc, &hold->runs[i], &group);
        alloc->free_blocks +=
            group_mark(alloc, group, hold->runs[i].address, hold->runs[i].blocks, false);
    }
    hold->count = 0;
    list_remove(&hold->node);
}

void alloc_take(struct fs *fs, struct alloc_hold *hold)
{
    for (unsigned i = 0; i < hold->count; i++) {
        struct group *group;

        hold_unpin(&fs->alloc, &hold->runs[i], &group);
        group_dirty(&fs->alloc, group);
    }
    hold->count = 0;
    list_remove(&hold->node);
}

void alloc_free(struct fs *fs, uint64_t address, uint64_t blocks)
{
    if (!alloc_is_valid_run(&fs->alloc, address, blocks)) {
        fs_note_damage(fs);
        return;
    }
    run_list_add(&fs->alloc.freed, address, blocks);
    group_touch(&fs->alloc, group_of(&fs->alloc, address));
    if (PLANTED(FS_FREED_REUSED) && group_find(&fs->alloc, group_of(&fs->alloc, address)))
        (void)group_mark(&fs->alloc, group_find(&fs->alloc, group_of(&fs->alloc, address)), address,
                         blocks, false);
}

int co_alloc_retake(struct fs *fs, uint64_t address, uint64_t blocks)
{
    struct alloc *alloc = &fs->alloc;
    struct group *group;
    uint64_t changed;
    int r;

    if (!alloc_is_valid_run(alloc, address, blocks))
        return -EBADMSG;
    r = co_group_get(fs, group_of(alloc, address), &group);
    if (r < 0)
        return r;
    changed = group_mark(alloc, group, address, blocks, true);
    SOMETIMES_IF(changed < blocks, "fs: a mount that was cut off had taken these blocks before");
    alloc->free_blocks -= MIN(changed, alloc->free_blocks);
    group_dirty(alloc, group);
    return 0; /* set already: a mount that replayed this record was cut off behind a checkpoint of
                 its own */
}

/* ---- addresses for tree nodes ---- */

/* From one group into the pool, so that the lowest address is taken first. */
static void group_refill(struct fs *fs, struct group *group, size_t count)
{
    struct alloc *alloc = &fs->alloc;
    size_t first = alloc->pool_count;
    uint64_t from = 0;
    struct run run;

    while (alloc->pool_count < count &&
           group_search(group, from, count - alloc->pool_count, &run)) {
        from = run.address + run.blocks;
        run.address += alloc_group_first(alloc, group->index);
        alloc->free_blocks -= group_mark(alloc, group, run.address, run.blocks, true);
        for (uint64_t i = 0; i < run.blocks; i++) {
            group->pins++;
            alloc->pool[alloc->pool_count++] = run.address + i;
        }
    }
    for (size_t low = first, high = alloc->pool_count; low + 1 < high; low++, high--) {
        uint64_t swap = alloc->pool[low];

        alloc->pool[low] = alloc->pool[high - 1];
        alloc->pool[high - 1] = swap;
    }
}

int co_alloc_refill(struct fs *fs, size_t count)
{
    struct alloc *alloc = &fs->alloc;

    assert(count <= alloc->pool_capacity);
    for (uint64_t i = 0; i < alloc->group_count && alloc->pool_count < count; i++) {
        uint64_t index = (alloc->metadata_cursor + i) % alloc->group_count;
        struct group *group;
        int r;

        if (alloc->free_in_group[index] == 0)
            continue;
        r = co_group_get(fs, index, &group);
        if (r == -EBADMSG)
            continue;
        if (r < 0)
            return r;
        group_refill(fs, group, count);
        alloc->metadata_cursor = index;
    }
    return alloc->pool_count >= count ? 0 : -ENOSPC;
}

uint64_t alloc_take_metadata(struct fs *fs)
{
    struct alloc *alloc = &fs->alloc;

    for (;;) {
        struct group *group;
        struct run run = {.blocks = 1};

        assert(alloc->pool_count > 0);
        run.address = alloc->pool[--alloc->pool_count];
        hold_unpin(alloc, &run, &group);
        group_dirty(alloc, group);
        if (!node_peek(fs, run.address))
            return run.address;
        SOMETIMES("fs: a map says that a node in use is free");
        fs_note_damage(fs); /* a map said that a node in use was free: leave it */
    }
}

void alloc_give_metadata(struct fs *fs, uint64_t address)
{
    struct alloc *alloc = &fs->alloc;
    struct group *group = group_find(alloc, group_of(alloc, address));

    assert(group); /* it was taken since the last snapshot: the map is dirty, so it is here */
    if (alloc->pool_count < alloc->pool_capacity) {
        group->pins++;
        alloc->pool[alloc->pool_count++] = address;
    } else {
        alloc->free_blocks += group_mark(alloc, group, address, 1, false);
    }
}

/* ---- checkpoint ---- */

static int co_touched_load(struct fs *fs)
{
    struct alloc *alloc = &fs->alloc;

    while (alloc->touched_count > 0) {
        uint64_t index = alloc->touched[alloc->touched_count - 1];
        struct group *group;
        int r = co_group_get(fs, index, &group);

        if (r < 0 && r != -EBADMSG)
            return r;
        if (r == 0)
            group_dirty(alloc, group);
        /* Others may have added behind it meanwhile. */
        for (size_t i = alloc->touched_count; i-- > 0;) {
            if (alloc->touched[i] == index)
                alloc->touched[i] = alloc->touched[--alloc->touched_count];
        }
    }
    return 0;
}

/* Makes the nodes with the items of all dirty groups dirty too. Returns -EAGAIN when one is not in
 * RAM. */
static int group_items_prepare(struct fs *fs)
{
    list_for_each (entry, &fs->alloc.dirty) {
        struct group *group = list_entry(entry, struct group, list);
        struct fs_key key = group_key(group->index);
        struct fs_group_item item = {.generation = fs->generation, .slot = group->slot};
        int r;

        if (group->item_generation == fs->generation)
            continue;
        r = tree_prepare(fs, FS_TREE_GROUPS, &key);
        if (r < 0)
            return r;
        /* A placeholder: the map is in RAM, so nobody reads the item before the snapshot. */
        tree_put(fs, FS_TREE_GROUPS, &key, &item, sizeof(item));
        group->item_generation = fs->generation;
    }
    return 0;
}

int co_alloc_prepare_snapshot(struct fs *fs)
{
    struct alloc *alloc = &fs->alloc;
    size_t addresses = MIN(alloc->dirty_count * 4 + 64, alloc->pool_capacity);
    bool ready = alloc->touched_count == 0 && alloc->pool_count >= addresses;
    int r;

    if (!ready) {
        r = co_touched_load(fs);
        if (r == 0)
            r = co_alloc_refill(fs, MIN(alloc->dirty_count * 8 + 128, alloc->pool_capacity));
        if (r == 0)
            r = alloc_reserve_frees(alloc, alloc->dirty_count * 8 + 128);
        return r;
    }
    r = group_items_prepare(fs);
    if (r == -EAGAIN) {
        r = co_node_load(fs);
        return r;
    }
    if (r < 0)
        return r;
    list_for_each (entry, &alloc->dirty) {
        if (list_entry(entry, struct group, list)->item_generation != fs->generation)
            return 0;
    }
    return alloc->touched_count == 0;
}

static void image_clear(struct alloc *alloc, uint64_t address, uint64_t blocks)
{
    struct group *group = group_find(alloc, group_of(alloc, address));
    uint64_t at;

    if (!group || !group->image)
        return;
    at = address - alloc_group_first(alloc, group->index);
    for (uint64_t bit = at; bit < at + blocks; bit++)
        bit_clear(group->image->used, bit);
}

static void images_clear_free(struct fs *fs)
{
    struct alloc *alloc = &fs->alloc;

    for (size_t i = 0; i < alloc->freed.count; i++)
        image_clear(alloc, alloc->freed.runs[i].address, alloc->freed.runs[i].blocks);
    for (size_t i = 0; i < alloc->pool_count; i++)
        image_clear(alloc, alloc->pool[i], 1);
    list_for_each (entry, &alloc->holds) {
        const struct alloc_hold *hold = list_entry(entry, struct alloc_hold, node);

        for (unsigned i = 0; i < hold->count; i++)
            image_clear(alloc, hold->runs[i].address, hold->runs[i].blocks);
    }
}

static void group_snapshot(struct fs *fs, struct group *group, uint64_t *ret_block)
{
    struct fs_bitmap *image = group->image;
    struct fs_key key = group_key(group->index);
    struct fs_group_item item = {.generation = fs->generation};

    group->slot = group->is_fresh ? 0 : group->slot ^ 1;
    group->is_fresh = false;
    image->group = group->index;
    image->free_blocks = group->blocks - map_used(image);
    *ret_block = alloc_group_first(&fs->alloc, group->index) + group->slot;
    block_seal(image, FS_BITMAP_MAGIC, fs->super.header.volume, *ret_block, fs->generation);

    item.slot = group->slot;
    item.free_blocks = image->free_blocks;
    tree_put(fs, FS_TREE_GROUPS, &key, &item, sizeof(item)); /* in place: its node is dirty */
    group->image = NULL;
    group->is_dirty = false;
}

uint64_t alloc_snapshot(struct fs *fs, struct fs_bitmap *images, uint64_t *image_blocks)
{
    struct alloc *alloc = &fs->alloc;
    uint64_t free_blocks = alloc->free_blocks + alloc->pool_count + alloc->freed.blocks;
    struct run_list empty = alloc->trimming;
    size_t count = 0;

    assert(alloc->touched_count == 0);
    assert(alloc->trimming.count == 0);
    list_for_each (entry, &alloc->holds) {
        const struct alloc_hold *hold = list_entry(entry, struct alloc_hold, node);

        for (unsigned i = 0; i < hold->count; i++)
            free_blocks += hold->runs[i].blocks;
    }
    list_for_each (entry, &alloc->dirty) {
        struct group *group = list_entry(entry, struct group, list);

        group->image = &images[count++];
        memcpy(group->image, group->map, sizeof(*group->map));
    }
    images_clear_free(fs);
    count = 0;
    list_for_each (entry, &alloc->dirty) {
        group_snapshot(fs, list_entry(entry, struct group, list), &image_blocks[count++]);
    }
    assert(count == alloc->dirty_count && alloc->touched_count == 0);
    list_splice(&alloc->dirty, &alloc->writing);
    alloc->dirty_count = 0;

    alloc->trimming = alloc->freed;
    run_list_clear(&empty);
    alloc->freed = empty;
    return free_blocks;
}

void alloc_written(struct fs *fs)
{
    list_splice(&fs->alloc.writing, &fs->alloc.clean);
}

void alloc_trimmed(struct fs *fs)
{
    struct alloc *alloc = &fs->alloc;

    for (size_t i = 0; i < alloc->trimming.count; i++) {
        const struct run *run = &alloc->trimming.runs[i];
        uint64_t index = group_of(alloc, run->address);
        struct group *group = group_find(alloc, index);

        if (group)
            alloc->free_blocks += group_mark(alloc, group, run->address, run->blocks, false);
        else {
            alloc->free_blocks += run->blocks;
            if (alloc->free_in_group[index] != GROUP_UNKNOWN)
                alloc->free_in_group[index] += run->blocks;
        }
    }
    run_list_clear(&alloc->trimming);
    alloc->metadata_cursor = 0;
}

int alloc_grow(struct alloc *alloc, uint64_t total_blocks)
{
    uint64_t before = alloc_capacity(alloc), old_count = alloc->group_count;
    uint64_t count = group_count_of(total_blocks, alloc->first_block);
    uint16_t *free_in_group = realloc(alloc->free_in_group, count * sizeof(*free_in_group));

    assert(total_blocks >= alloc->total_blocks);
    if (!free_in_group)
        return -ENOMEM;
    alloc->free_in_group = free_in_group;
    memset(free_in_group + old_count, 0xff, (count - old_count) * sizeof(*free_in_group));
    alloc->total_blocks = total_blocks;
    alloc->group_count = count;
    if (old_count > 0) {
        struct group *last = group_find(alloc, old_count - 1);

        if (last) {
            last->blocks = alloc_group_blocks(alloc, last->index);
            group_count_free(alloc, last);
        } else {
            free_in_group[old_count - 1] = GROUP_UNKNOWN;
        }
    }
    alloc->free_blocks += alloc_capacity(alloc) - before;
    return 0;
}
