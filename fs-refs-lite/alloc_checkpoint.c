/* What a checkpoint writes of the maps, and what becomes free by it. */
#include "fs-refs-lite/alloc_private.h"
#include "fs-refs-lite/checkpoint.h"

/* What was freed where the map cannot be read now is left to a later checkpoint: one that does not
 * write the map must neither trim it nor count it as free. (With too many of them it goes the way
 * of what was freed behind a damaged map: the space is lost.) */
static int freed_wait(struct alloc *alloc)
{
    struct run_list *freed = &alloc->freed;
    size_t kept = 0;
    int r;

    if (alloc->waiting.count >= CHECKPOINT_FREED_MAX)
        return 0;
    r = run_list_reserve(&alloc->waiting, freed->count);
    if (r < 0)
        return r;
    for (size_t i = 0; i < freed->count; i++) {
        const struct run *run = &freed->runs[i];

        if (alloc->free_in_group[group_of(alloc, run->address)] == GROUP_UNREADABLE) {
            freed->blocks -= run->blocks;
            run_list_add(&alloc->waiting, run->address, run->blocks);
        } else {
            freed->runs[kept++] = *run;
        }
    }
    freed->count = kept;
    return 0;
}

int alloc_look_again(struct fs *fs)
{
    struct run_list *waiting = &fs->alloc.waiting;
    int r = alloc_reserve_frees(&fs->alloc, waiting->count);

    if (r < 0)
        return r;
    run_list_sort(waiting);
    for (size_t i = 0; i < waiting->count; i++)
        alloc_free(fs, waiting->runs[i].address, waiting->runs[i].blocks);
    run_list_clear(waiting);
    return 0;
}

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
        else if (alloc->free_in_group[index] == GROUP_UNREADABLE)
            r = freed_wait(alloc);
        if (r == -ENOMEM)
            return r;
        /* Others may have added behind it meanwhile. */
        for (size_t i = alloc->touched_count; i-- > 0;) {
            if (alloc->touched[i] == index)
                alloc->touched[i] = alloc->touched[--alloc->touched_count];
        }
    }
    return 0;
}

#define ITEM_ADDRESSES 32 /* more than one item takes, and frees */
static_assert(ITEM_ADDRESSES > 2 * FS_LEVEL_MAX, "a copy and a split on each level, a new root");

/* A placeholder: the map is in RAM, so nobody reads the item before the snapshot. */
static void item_put(struct fs *fs, const struct fs_key *key, const struct fs_group_item *item)
{
    struct alloc *alloc = &fs->alloc;
    uint64_t nodes = fs->trees[FS_TREE_GROUPS].nodes;
    size_t addresses = alloc->pool_count;

    tree_put(fs, FS_TREE_GROUPS, key, item, sizeof(*item));
    alloc->prepared_addresses += addresses - alloc->pool_count;
    alloc->prepared_nodes += fs->trees[FS_TREE_GROUPS].nodes - nodes;
}

/* Makes the nodes with the items of all dirty groups dirty too. Returns -EAGAIN when one is not in
 * RAM, -ENOSPC when there are too few addresses to go on, -ENOMEM. */
static int group_items_prepare(struct fs *fs)
{
    list_for_each (entry, &fs->alloc.dirty) {
        struct group *group = list_entry(entry, struct group, list);
        struct fs_key key = group_key(group->index);
        struct fs_group_item item = {.generation = fs->generation, .slot = group->slot};
        int r;

        if (group->item_generation == fs->generation)
            continue;
        r = alloc_reserve_frees(&fs->alloc, ITEM_ADDRESSES);
        if (r == 0 && fs->alloc.pool_count < ITEM_ADDRESSES)
            r = -ENOSPC; /* the tree is larger than its root says, say */
        if (r == 0)
            r = tree_prepare(fs, FS_TREE_GROUPS, &key);
        if (r < 0)
            return r;
        item_put(fs, &key, &item);
        group->item_generation = fs->generation;
        fs->alloc.prepared_count++;
    }
    return 0;
}

/* An item may cost a leaf and what is above it, but all of them no more than there is: copies of
 * all nodes, as many by splitting them, and new leaves. What was paid already is left out: in a
 * full pool nobody gets it a second time. */
size_t alloc_checkpoint_addresses(const struct fs *fs, size_t more)
{
    const struct alloc *alloc = &fs->alloc;
    size_t groups = alloc->dirty_count - alloc->prepared_count + alloc->touched_count + more;
    size_t nodes = fs->trees[FS_TREE_GROUPS].nodes - alloc->prepared_nodes, all;

    assert(alloc->prepared_count <= alloc->dirty_count);
    groups = MIN(groups, alloc->group_count); /* some were touched twice */
    all = nodes * 2 + MIN(groups + alloc->prepared_count, alloc->group_count) / 8;
    return MIN(groups * 4, all - MIN(all, alloc->prepared_addresses)) + 64;
}

int co_alloc_prepare_snapshot(struct fs *fs)
{
    struct alloc *alloc = &fs->alloc;
    size_t needed = MIN(alloc_checkpoint_addresses(fs, 0), alloc->pool_capacity);
    int r;

    if (alloc->touched_count > 0)
        return co_touched_load(fs);
    if (alloc->pool_count < needed)
        return co_alloc_refill(fs, 2 * needed, needed);
    r = group_items_prepare(fs);
    if (r == -ENOSPC)
        return 0; /* with fewer items to come */
    if (r == -EAGAIN)
        return co_node_load(fs);
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

/* A group of which the new root uses nothing has no map: on a thin vdisk the maps would keep every
 * slab. When that root is durable all of the group is trimmed, its slots too, and until then nobody
 * is given anything there. */
static void group_retire(struct alloc *alloc, struct group *group)
{
    uint64_t first = alloc_group_first(alloc, group->index) + FS_GROUP_SLOTS;

    SOMETIMES("fs: a group of which nothing is used is without a map again");
    alloc->free_blocks -= group_mark(alloc, group, first, group->blocks - FS_GROUP_SLOTS, true);
    group->slot = FS_GROUP_NO_MAP;
    group->is_fresh = true;
    group->is_backed = false;
    group->is_trimmed_whole = true;
}

/* *ret_block: where the map is to be written; 0: nowhere. */
static void group_snapshot(struct fs *fs, struct group *group, uint64_t *ret_block)
{
    struct fs_bitmap *image = group->image;
    struct fs_key key = group_key(group->index);
    struct fs_group_item item = {.generation = fs->generation};

    image->group = group->index;
    image->free_blocks = group->blocks - map_used(image);
    if (image->free_blocks == group->blocks - FS_GROUP_SLOTS && group->pins == 0) {
        group_retire(&fs->alloc, group);
        *ret_block = 0;
    } else {
        group->slot = group->is_fresh ? 0 : group->slot ^ 1;
        group->is_fresh = false;
        *ret_block = alloc_group_first(&fs->alloc, group->index) + group->slot;
        block_seal(image, FS_BITMAP_MAGIC, fs->super.header.volume, *ret_block, fs->generation);
    }

    item.slot = group->slot;
    item.free_blocks = image->free_blocks;
    tree_overwrite(fs, FS_TREE_GROUPS, &key, &item, sizeof(item)); /* no address may be taken now */
    group->image = NULL;
    group->is_dirty = false;
}

/* Of a group that was retired, one run is trimmed instead of those that were freed. */
static void trimming_gather(struct alloc *alloc)
{
    struct run_list *trimming = &alloc->trimming;
    size_t kept = 0;

    for (size_t i = 0; i < trimming->count; i++) {
        const struct group *group = group_find(alloc, group_of(alloc, trimming->runs[i].address));

        if (group && group->slot == FS_GROUP_NO_MAP)
            trimming->blocks -= trimming->runs[i].blocks;
        else
            trimming->runs[kept++] = trimming->runs[i];
    }
    trimming->count = kept;
    list_for_each (entry, &alloc->writing) {
        const struct group *group = list_entry(entry, struct group, list);

        if (group->slot != FS_GROUP_NO_MAP)
            continue;
        run_list_add(trimming, alloc_group_first(alloc, group->index) + FS_GROUP_SLOTS,
                     group->blocks - FS_GROUP_SLOTS);
        trimming->runs[trimming->count - 1].is_group = true;
    }
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
    alloc->dirty_count = alloc->prepared_count = 0;
    alloc->prepared_addresses = alloc->prepared_nodes = 0;

    alloc->trimming = alloc->freed;
    run_list_clear(&empty);
    alloc->freed = empty;
    trimming_gather(alloc);
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

        if (run->is_group) /* its slab may be there for a neighbour */
            alloc->all_asked_until_ns = 0;
        if (group) {
            group->is_trimmed_whole &= !run->is_group;
            alloc->free_blocks += group_mark(alloc, group, run->address, run->blocks, false);
        } else {
            alloc->free_blocks += run->blocks;
            if (alloc->free_in_group[index] < GROUP_UNREADABLE)
                alloc->free_in_group[index] += run->blocks;
        }
    }
    run_list_clear(&alloc->trimming);
    alloc->metadata_cursor = 0;
}

int alloc_grow(struct alloc *alloc, uint64_t total_blocks)
{
    uint64_t before = alloc_capacity(alloc), old_count = alloc->group_count;
    uint64_t count = group_count_of(alloc, total_blocks);
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
