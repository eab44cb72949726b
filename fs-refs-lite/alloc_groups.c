/* The maps of the groups: in RAM those that are in use, read when they are wanted. */
#include "fs-refs-lite/alloc_private.h"

struct group *group_find(const struct alloc *alloc, uint64_t index)
{
    struct group *group = alloc->hash[index & alloc->hash_mask];

    while (group && group->index != index)
        group = group->hash_next;
    return group;
}

uint32_t map_used(const struct fs_bitmap *map)
{
    uint32_t used = 0;

    for (size_t i = 0; i < ARRAY_SIZE(map->used); i++)
        used += (uint32_t)__builtin_popcountll(map->used[i]);
    return used;
}

void group_count_free(struct alloc *alloc, struct group *group)
{
    group->free_blocks = group->blocks - map_used(group->map);
    alloc->free_in_group[group->index] = group->free_blocks;
}

/* Sets or clears the bits of a run; returns how many changed. */
uint64_t group_mark(struct alloc *alloc, struct group *group, uint64_t address, uint64_t blocks,
                    bool used)
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

void group_dirty(struct alloc *alloc, struct group *group)
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
void group_touch(struct alloc *alloc, uint64_t index)
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

/* Clean maps leave until fewer than so many are in RAM. */
static void groups_evict(struct alloc *alloc, size_t count)
{
    list_for_each_safe (entry, &alloc->clean) {
        struct group *group = list_entry(entry, struct group, list);

        if (alloc->loaded_count < count)
            return;
        if (group->pins == 0)
            group_free(alloc, group);
    }
}

void alloc_forget(struct alloc *alloc)
{
    groups_evict(alloc, 0);
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

        if (group_of(alloc, run->address) != group->index)
            continue;
        group_mark(alloc, group, run->address, run->blocks, true);
        group->is_trimmed_whole |= run->is_group;
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

struct fs_key group_key(uint64_t index)
{
    return (struct fs_key){.object = index, .kind = FS_KIND_GROUP};
}

/* Of an item without a map: is all free but the slots? The last group may have been shorter when
 * that was written. */
static bool group_item_is_whole(const struct alloc *alloc, uint64_t index,
                                const struct fs_group_item *item)
{
    uint64_t blocks = (uint64_t)item->free_blocks + FS_GROUP_SLOTS;

    return blocks >= FS_GROUP_BLOCKS_MIN && blocks <= alloc_group_blocks(alloc, index);
}

/* Returns 0, -ENOENT (there is no map), -EAGAIN, -EBADMSG. */
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
    if (ret_item->slot == FS_GROUP_NO_MAP)
        return group_item_is_whole(&fs->alloc, index, ret_item) ? -ENOENT : -EBADMSG;
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

/* Returns 0, -EAGAIN, -EBADMSG, -ENODATA (no copy of the map, or of its item's node, can be read
 * now), or another error. */
static int co_group_read(struct fs *fs, struct group *group)
{
    struct fs_group_item item, now;
    uint64_t block;
    int r;

    while ((r = group_item_get(fs, group->index, &item)) == -EAGAIN) {
        uint64_t address = fs->nodes.wanted.address;

        r = co_node_try(fs);
        if (!fs->error && (r == -EIO || (r < 0 && lack_is_met(fs, address))))
            return -ENODATA;
        if (r < 0)
            return r;
    }
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
    r = lack_is_met(fs, block) ? -EIO
                               : co_disk_read(fs, group->map, block * BLOCK_SIZE, BLOCK_SIZE);
    if (is_block_error(fs, r)) {
        lack_note(fs, block, LACK_LEAF);
        return -ENODATA;
    }
    if (r < 0)
        return r;
    if (group_item_get(fs, group->index, &now) < 0 || memcmp(&now, &item, sizeof(now)) != 0)
        return -EAGAIN; /* a checkpoint passed */
    group->slot = item.slot;
    return map_is_valid(fs, group, &item, block) ? 0 : -EBADMSG;
}

bool group_may_have_room(struct fs *fs, uint64_t index)
{
    struct alloc *alloc = &fs->alloc;

    if (alloc->look_again_ns && io_now_ns(fs->io) >= alloc->look_again_ns) {
        for (uint64_t i = 0; i < alloc->group_count; i++) {
            if (alloc->free_in_group[i] == GROUP_UNREADABLE)
                alloc->free_in_group[i] = GROUP_UNKNOWN;
        }
        alloc->look_again_ns = 0;
    }
    return alloc->free_in_group[index] != 0 && alloc->free_in_group[index] != GROUP_UNREADABLE;
}

/* Damage is for good; what cannot be read may be there again when another column is. */
static int group_note_lost(struct fs *fs, uint64_t index, int error)
{
    struct alloc *alloc = &fs->alloc;

    fs_note_damage(fs);
    alloc->free_in_group[index] = error == -ENODATA ? GROUP_UNREADABLE : 0;
    if (error == -ENODATA && alloc->look_again_ns == 0)
        alloc->look_again_ns = io_now_ns(fs->io) + UNREADABLE_NS;
    return -EBADMSG;
}

int co_group_get(struct fs *fs, uint64_t index, struct group **ret_group)
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
        groups_evict(alloc, alloc->loaded_max);
        group = group_new(alloc, index);
        if (!group)
            return -ENOMEM;
        r = co_group_read(fs, group);
        if (r == 0 && !group_find(alloc, index)) {
            group_insert(alloc, group);
            continue;
        }
        free(group->map);
        free(group);
        if (fs->error)
            return fs->error;
        if (group_find(alloc, index))
            continue; /* another one's attempt has brought it meanwhile */
        if (r == -ENODATA || r == -EBADMSG)
            return group_note_lost(fs, index, r);
        if (r < 0 && r != -EAGAIN)
            return r;
    }
}

void group_note_refusing(struct fs *fs, const struct group *group)
{
    struct alloc *alloc = &fs->alloc;

    SOMETIMES("fs: a group with room takes no write");
    alloc->free_in_group[group->index] = GROUP_UNREADABLE;
    if (alloc->look_again_ns == 0)
        alloc->look_again_ns = io_now_ns(fs->io) + UNREADABLE_NS;
}

int co_block_back(struct fs *fs, uint64_t address)
{
    static const _Alignas(BLOCK_SIZE) char zeros[BLOCK_SIZE];

    return co_disk_write(fs, zeros, address * BLOCK_SIZE, BLOCK_SIZE, NO_CLIENT);
}

int co_group_back(struct fs *fs, struct group *group)
{
    uint64_t second = alloc_group_first(&fs->alloc, group->index) + 1; /* the first map goes to 0 */
    int r;

    if (group->is_trimmed_whole)
        return -EBUSY;
    if (!group_needs_slab(group))
        return 0; /* a map was written here, or will be before anything else is */
    group->pins++;
    r = co_block_back(fs, second);
    group->pins--;
    group->is_backed |= r == 0;
    if (is_block_error(fs, r))
        group_note_refusing(fs, group);
    return r;
}

int co_alloc_map(struct fs *fs, uint64_t group, const uint64_t **ret_used)
{
    struct group *found;
    int r = co_group_get(fs, group, &found);

    if (r == 0)
        *ret_used = found->map->used;
    return r;
}
