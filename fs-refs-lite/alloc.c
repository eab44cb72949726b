/* Where free blocks are found, and for whom. */
#include "fs-refs-lite/alloc_private.h"

#define METADATA_ZONE                                                                              \
    64 /* one group in so many is left to tree nodes while there is other room                     \
        */

/* ---- geometry ---- */

uint64_t alloc_group_first(const struct alloc *alloc, uint64_t group)
{
    return alloc->first_block + group * alloc->group_blocks;
}

uint64_t alloc_group_blocks(const struct alloc *alloc, uint64_t group)
{
    return MIN(alloc->group_blocks, alloc->total_blocks - alloc_group_first(alloc, group));
}

uint64_t group_of(const struct alloc *alloc, uint64_t address)
{
    return (address - alloc->first_block) / alloc->group_blocks;
}

bool alloc_is_valid_run(const struct alloc *alloc, uint64_t address, uint64_t blocks)
{
    uint64_t group, within;

    if (address < alloc->first_block || blocks == 0 || blocks > alloc->group_blocks)
        return false;
    group = group_of(alloc, address);
    if (group >= alloc->group_count)
        return false;
    within = address - alloc_group_first(alloc, group);
    return within >= FS_GROUP_SLOTS && within + blocks <= alloc_group_blocks(alloc, group);
}

uint64_t group_count_of(const struct alloc *alloc, uint64_t total_blocks)
{
    uint64_t blocks = total_blocks > alloc->first_block ? total_blocks - alloc->first_block : 0;

    return blocks / alloc->group_blocks + (blocks % alloc->group_blocks >= FS_GROUP_BLOCKS_MIN);
}

uint64_t alloc_capacity(const struct alloc *alloc)
{
    uint64_t blocks = 0;

    if (alloc->group_count > 0)
        blocks = (alloc->group_count - 1) * alloc->group_blocks +
                 alloc_group_blocks(alloc, alloc->group_count - 1);
    return blocks - alloc->group_count * FS_GROUP_SLOTS;
}

void alloc_geometry(struct alloc *alloc, const struct fs_super *super, uint64_t total_blocks)
{
    alloc->total_blocks = total_blocks;
    alloc->first_block = super->first_group_block;
    alloc->group_blocks = super->group_blocks;
    alloc->group_count = group_count_of(alloc, total_blocks);
}

int alloc_init(struct alloc *alloc, const struct fs_super *super, const struct fs_root *root,
               size_t group_capacity, size_t pool_capacity)
{
    size_t buckets = 64;

    list_init(&alloc->clean);
    list_init(&alloc->dirty);
    list_init(&alloc->writing);
    list_init(&alloc->holds);
    co_mutex_init(&alloc->refill);
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

void group_free(struct alloc *alloc, struct group *group)
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
    run_list_done(&alloc->waiting);
    free(alloc->touched);
    free(alloc->pool);
    free(alloc->free_in_group);
    free(alloc->hash);
    *alloc = (struct alloc){0};
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
    bool is_refused = false; /* by the medium */

    hold->count = 0;
    list_push_back(&alloc->holds, &hold->node); /* a checkpoint may pass while we read a map */
    /* One more than there are groups: the first one is seen again from its beginning. */
    for (uint64_t i = 0; i <= alloc->group_count && held < blocks; i++) {
        uint64_t index = (start + i) % alloc->group_count;
        struct group *group;
        int r;

        if (!group_may_have_room(fs, index))
            continue;
        r = co_group_get(fs, index, &group);
        if (r == -EBADMSG)
            continue;
        if (r == 0)
            r = co_group_back(fs, group);
        if (is_block_error(fs, r))
            is_refused = true;
        if (r == -EBUSY || is_block_error(fs, r))
            continue;
        if (r < 0 && held == 0) {
            list_remove(&hold->node);
            return r;
        }
        if (r < 0)
            break;
        /* Others may have taken the room while we read a map. */
        blocks = MIN(blocks, held + alloc_available(alloc));
        group_hold(fs, group, i == 0 ? from : 0, blocks, hold, &held);
        alloc->data_cursor = index;
        if (hold->count == ALLOC_HOLD_RUNS)
            break;
    }
    if (held == 0) {
        list_remove(&hold->node);
        return is_refused ? -EIO : -ENOSPC;
    }
    *ret_blocks = held;
    return 0;
}

/* A new hold of free runs from block *from of the group on, which moves behind them. False: there
 * are none. */
static bool group_hold_next(struct fs *fs, struct group *group, uint64_t *from, uint64_t blocks,
                            struct alloc_hold *hold)
{
    uint64_t held = 0;

    hold->count = 0;
    list_init(&hold->node);
    group_hold(fs, group, *from, blocks, hold, &held);
    if (held == 0)
        return false;
    list_push_back(&fs->alloc.holds, &hold->node);
    *from = hold->runs[hold->count - 1].address + hold->runs[hold->count - 1].blocks -
            alloc_group_first(&fs->alloc, group->index);
    return true;
}

int co_alloc_hold_free(struct fs *fs, uint64_t index, uint64_t *from, struct alloc_hold *hold)
{
    struct group *group;
    int r = co_group_get(fs, index, &group);

    if (r < 0)
        return r;
    if (group->is_trimmed_whole)
        return -ENOENT;
    return group_hold_next(fs, group, from, alloc_available(&fs->alloc) / 2, hold) ? 0 : -ENOENT;
}

int co_alloc_hold_group(struct fs *fs, uint64_t index, struct alloc_hold *hold)
{
    uint64_t from = 0;
    struct group *group;
    int r = co_group_get(fs, index, &group);

    if (r < 0)
        return r;
    if (!group_needs_slab(group) || group->is_dirty || group->pins > 0 ||
        group->free_blocks != group->blocks - FS_GROUP_SLOTS ||
        alloc_available(&fs->alloc) / 2 < group->free_blocks ||
        !group_hold_next(fs, group, &from, group->free_blocks, hold))
        return -ENOENT;
    group->is_trimmed_whole = true;
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
        group->is_trimmed_whole = false; /* if it was, then under this hold */
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

/* ---- addresses for tree nodes ----
 *
 * A checkpoint that finds no room for a node on a thin vdisk would find none the next time, either,
 * and without one nothing is ever freed. So an address is in the pool only where there is a slab,
 * and it stays: of the addresses of a window, the one that is taken last was written. What was
 * taken before it is on the vdisk when it can be trimmed, for that is after the checkpoint that
 * frees it. (For the same reason an address never comes back: alloc_free() takes those of dropped
 * nodes.) */

/* Slabs begin at multiples of this, and end there. */
#define WINDOW_BLOCKS (MIB / BLOCK_SIZE)

static bool pool_has_window(const struct alloc *alloc, uint64_t window)
{
    for (size_t i = alloc->pool_count; i > 0; i--) {
        if (alloc->pool[i - 1] / WINDOW_BLOCKS == window)
            return true;
    }
    return false;
}

/* A new hold of the group's next free run, from block *from of it on, which moves behind it: no
 * more than `blocks`, all in one window. False: there is none. */
static bool group_hold_in_window(struct fs *fs, struct group *group, uint64_t *from,
                                 uint64_t blocks, struct alloc_hold *hold)
{
    struct run run;
    uint64_t address;

    if (!group_search(group, *from, blocks, &run))
        return false;
    address = alloc_group_first(&fs->alloc, group->index) + run.address;
    *from = run.address;
    blocks = MIN(run.blocks, ALIGN_UP(address + 1, WINDOW_BLOCKS) - address);
    return group_hold_next(fs, group, from, blocks, hold);
}

/* The one run of the hold goes to the pool, so that its lowest address is taken first; or is free
 * again, when there is no slab for it. */
static int co_run_refill(struct fs *fs, struct group *group, struct alloc_hold *hold)
{
    struct alloc *alloc = &fs->alloc;
    const struct run *run = &hold->runs[0];
    uint64_t end = run->address + run->blocks;

    assert(hold->count == 1);
    if (!pool_has_window(alloc, run->address / WINDOW_BLOCKS)) {
        int r = co_block_back(fs, end - 1);

        if (r < 0) {
            alloc_release(fs, hold);
            return r;
        }
    }
    assert(alloc->pool_count + run->blocks <= alloc->pool_capacity);
    for (uint64_t address = end; address-- > run->address;) {
        group->pins++;
        alloc->pool[alloc->pool_count++] = address;
    }
    group->pins--; /* the hold's */
    list_remove(&hold->node);
    return 0;
}

struct refill {
    size_t count;     /* wanted in the pool */
    size_t least;     /* with fewer, groups that need a slab are asked for, whether there are any */
    unsigned refused; /* windows for which there was no slab, or that took no write */
    bool is_failed;   /* some took no write, or their map cannot be read: later they may */
    bool asks_all;    /* window by window */
};

/* Behind a refused window another one of the group may have its slab, which can be as small as a
 * window, or as large as two groups: the next one is asked for, then one at twice the distance, and
 * so on; until a refill has met so many of them. Then a group is given up at the first. Only who
 * would else have too few asks each of them, for the slabs that a predecessor had. */
#define REFUSED_MAX 8
#define ALL_REFUSED_MAX 16384 /* a write each */
#define REFUSED_A_TURN 16     /* a refusal need not suspend */

static int co_let_others_run(struct group *group)
{
    int r;

    group->pins++; /* they may need its memory */
    r = co_sleep_ns(1);
    group->pins--;
    return r;
}

static int co_group_refill(struct fs *fs, struct group *group, struct refill *refill)
{
    struct alloc *alloc = &fs->alloc;
    uint64_t first = alloc_group_first(alloc, group->index), from = 0, distance = WINDOW_BLOCKS;
    bool is_refused = false;
    struct alloc_hold hold;
    int r = co_group_back(fs, group);

    while (r == 0 && alloc->pool_count < refill->count &&
           group_hold_in_window(fs, group, &from, refill->count - alloc->pool_count, &hold)) {
        r = co_run_refill(fs, group, &hold);
        if (is_block_error(fs, r))
            refill->is_failed = true;
        else if (r == -ENOSPC)
            is_refused = true;
        else
            continue;
        if (refill->refused++ >= (refill->asks_all ? ALL_REFUSED_MAX : REFUSED_MAX))
            break;
        if (refill->refused % REFUSED_A_TURN == 0 && (r = co_let_others_run(group)) < 0)
            break;
        from = ALIGN_UP(first + from, WINDOW_BLOCKS) + distance - WINDOW_BLOCKS - first;
        if (!refill->asks_all)
            distance *= 2;
        r = 0;
    }
    if (is_block_error(fs, r)) {
        refill->is_failed = true;
        r = 0;
    }
    return r == 0 && is_refused ? -ENOSPC : r;
}

#define GROUPS_A_TURN 64 /* so many are looked at without letting others run */

/* Returns 0 (also when the pool has fewer), -ENOMEM, or the vdisk's error. */
static int co_refill_pass(struct fs *fs, struct refill *refill)
{
    struct alloc *alloc = &fs->alloc;
    uint64_t start = alloc->metadata_cursor;
    unsigned looked_at = 0;
    bool is_pool_full = false; /* that of slabs: what is empty need not be asked for */

    for (uint64_t i = 0; i < alloc->group_count && alloc->pool_count < refill->count; i++) {
        uint64_t index = (start + i) % alloc->group_count;
        uint64_t free_blocks = alloc->free_in_group[index];
        bool skips_empty = is_pool_full && alloc->pool_count >= refill->least;
        struct group *group;
        int r = 0;

        refill->is_failed |= free_blocks == GROUP_UNREADABLE;
        if (!group_may_have_room(fs, index) ||
            (skips_empty && free_blocks == alloc_group_blocks(alloc, index) - FS_GROUP_SLOTS))
            continue;
        if (++looked_at % GROUPS_A_TURN == 0)
            r = co_sleep_ns(1);
        if (r == 0)
            r = co_group_get(fs, index, &group);
        refill->is_failed |= r == -EBADMSG && alloc->free_in_group[index] == GROUP_UNREADABLE;
        if (r == -EBADMSG || (r == 0 && skips_empty && group_needs_slab(group)))
            continue;
        if (r == 0)
            r = co_group_refill(fs, group, refill);
        SOMETIMES_IF(r == -ENOSPC, "fs: a thin pool has no room for a tree node");
        if (r == 0)
            alloc->metadata_cursor = index;
        else if (r == -ENOSPC)
            is_pool_full = true;
        else if (r != -EBUSY)
            return r;
    }
    return 0;
}

/* What a predecessor that was cut off had in its pool is where blocks look free, and have their
 * slab: in groups that look empty, and behind windows whose slab went. Rather than have too few
 * addresses all of them are asked: once in vain, or while some do not answer as often as these are
 * asked. */
static int co_refill_locked(struct fs *fs, size_t count, size_t least)
{
    struct alloc *alloc = &fs->alloc;
    uint64_t now_ns = io_now_ns(fs->io);
    struct refill refill = {.count = count};
    int r = co_refill_pass(fs, &refill);

    if (r == 0 && alloc->pool_count < least && now_ns >= alloc->all_asked_until_ns) {
        SOMETIMES("fs: addresses for tree nodes are looked for in all empty groups");
        refill = (struct refill){.count = count, .least = least, .asks_all = true};
        r = co_refill_pass(fs, &refill);
        if (r == 0 && alloc->pool_count < least)
            alloc->all_asked_until_ns = refill.is_failed ? now_ns + UNREADABLE_NS : UINT64_MAX;
    }
    return r == 0 && alloc->pool_count < least ? -ENOSPC : r;
}

int co_alloc_refill(struct fs *fs, size_t count, size_t least)
{
    int r;

    assert(least <= count && least <= fs->alloc.pool_capacity);
    co_mutex_lock(&fs->alloc.refill);
    r = co_refill_locked(fs, MIN(count, fs->alloc.pool_capacity), least);
    co_mutex_unlock(&fs->alloc.refill);
    return r;
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
