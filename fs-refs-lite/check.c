/* The checker looks at everything: each node of each tree, each item, and whether what is in use
 * and the allocation maps agree. It runs on a mounted volume with the gate closed, so nothing but
 * data in place changes meanwhile, and starts with a checkpoint, so nothing is about to be freed.
 *
 * RAM: a table of inodes (32 bytes each), a bit for each block of a window of groups, and what
 * check_refs.h needs for its shared extents; a volume larger than a window is walked once for each.
 * Problems go on being looked for behind a problem.
 */
#include <stdarg.h>
#include <stdio.h>

#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/check_refs.h"
#include "fs-refs-lite/checkpoint.h"
#include "fs-refs-lite/fs_internal.h"
#include "fs-refs-lite/name.h"

#define WINDOW_GROUPS 16384 /* 64 MiB of bits, 2 TiB of volume */

struct seen { /* an inode, by its item, its names, or both */
    uint64_t ino;
    uint64_t parent;   /* of a directory: as its item says */
    uint64_t named_in; /* directory of its last name */
    uint32_t nlink;
    uint32_t names;
    bool has_item, is_dir, is_orphan;
};

struct check {
    struct fs *fs;
    void (*report)(void *arg, const char *line);
    void *arg;
    struct fs_check_result result;
    bool looks_at_items; /* in the first window; later ones only mark blocks */

    struct seen *seen; /* open addressing; ino 0: free */
    size_t seen_count, seen_capacity;

    uint64_t first_group, window_groups;
    uint64_t *used;         /* of the window's blocks */
    struct check_refs refs; /* of the window */

    /* The inode whose items pass by, in key order. */
    uint64_t ino;
    struct fs_inode_item item;
    bool has_item;
    uint64_t blocks, entries, subdirs, extent_end;
};

static void problem(struct check *check, const char *format, ...) printf_like(2, 3);
static void problem(struct check *check, const char *format, ...)
{
    char line[256];
    va_list args;

    check->result.problems++;
    if (!check->report)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    check->report(check->arg, line);
}

/* ---- inodes seen ---- */

static struct seen *seen_slot(struct seen *table, size_t capacity, uint64_t ino)
{
    size_t at = (ino * 0x9e3779b97f4a7c15u >> 20) & (capacity - 1);

    while (table[at].ino && table[at].ino != ino)
        at = (at + 1) & (capacity - 1);
    return &table[at];
}

static int seen_grow(struct check *check)
{
    size_t capacity = MAX(2 * check->seen_capacity, (size_t)1024);
    struct seen *table = calloc(capacity, sizeof(*table));

    if (!table)
        return -ENOMEM;
    for (size_t i = 0; i < check->seen_capacity; i++) {
        if (check->seen[i].ino)
            *seen_slot(table, capacity, check->seen[i].ino) = check->seen[i];
    }
    free(check->seen);
    check->seen = table;
    check->seen_capacity = capacity;
    return 0;
}

static int seen_get(struct check *check, uint64_t ino, struct seen **ret_seen)
{
    int r = check->seen_count * 2 >= check->seen_capacity ? seen_grow(check) : 0;

    if (r < 0)
        return r;
    *ret_seen = seen_slot(check->seen, check->seen_capacity, ino);
    if ((*ret_seen)->ino == 0) {
        (*ret_seen)->ino = ino;
        check->seen_count++;
    }
    return 0;
}

/* ---- blocks ---- */

/* By words: one extent can be millions of blocks. */
static void mark_used(struct check *check, uint64_t address, uint64_t blocks, const char *by)
{
    uint64_t first = alloc_group_first(&check->fs->alloc, check->first_group);
    uint64_t at = MAX(address, first);
    uint64_t end =
        MIN(address + blocks, first + check->window_groups * check->fs->alloc.group_blocks);

    while (at < end) {
        uint64_t bit = at - first, count = MIN(64 - bit % 64, end - at);
        uint64_t mask = UINT64_MAX >> (64 - count) << bit % 64;

        for (uint64_t twice = check->used[bit / 64] & mask; twice; twice &= twice - 1)
            problem(check, "block used twice block=%llu by=%s",
                    (unsigned long long)(at - bit % 64) + (unsigned)__builtin_ctzll(twice), by);
        check->used[bit / 64] |= mask;
        check->result.used_blocks += count;
        at += count;
    }
}

static bool is_used(const struct check *check, uint64_t bit)
{
    return check->used[bit / 64] >> bit % 64 & 1;
}

/* ---- items of the files tree ---- */

static void check_inode_end(struct check *check)
{
    const struct fs_inode_item *item = &check->item;
    unsigned long long ino = check->ino;

    if (!check->has_item) {
        if (check->ino)
            problem(check, "items without an inode ino=%llu", ino);
        return;
    }
    if (item->blocks != check->blocks && !(item->flags & FS_INODE_TRUNCATING))
        problem(check, "wrong number of blocks ino=%llu said=%llu found=%llu", ino,
                (unsigned long long)item->blocks, (unsigned long long)check->blocks);
    if (!S_ISDIR(item->mode)) {
        if (check->entries)
            problem(check, "names in what is no directory ino=%llu", ino);
        return;
    }
    if (item->entries != check->entries)
        problem(check, "wrong number of names ino=%llu said=%llu found=%llu", ino,
                (unsigned long long)item->entries, (unsigned long long)check->entries);
    if (item->nlink && item->nlink != 2 + check->subdirs)
        problem(check, "wrong link count of a directory ino=%llu said=%u found=%llu", ino,
                item->nlink, (unsigned long long)check->subdirs + 2);
}

static void check_inode_begin(struct check *check, uint64_t ino)
{
    check_inode_end(check);
    check->ino = ino;
    check->has_item = false;
    check->blocks = check->entries = check->subdirs = check->extent_end = 0;
}

static int check_inode(struct check *check, const struct tree_item *item)
{
    struct seen *seen;
    int r;

    if (item->size != sizeof(check->item) || item->key.offset != 0) {
        problem(check, "malformed inode ino=%llu", (unsigned long long)item->key.object);
        return 0;
    }
    r = seen_get(check, item->key.object, &seen);
    if (r < 0)
        return r;
    memcpy(&check->item, item->value, sizeof(check->item));
    check->has_item = true;
    check->result.inodes++;
    seen->has_item = true;
    seen->nlink = check->item.nlink;
    seen->parent = check->item.parent;
    seen->is_dir = S_ISDIR(check->item.mode);
    if (seen->is_dir)
        check->result.directories++;
    if (item->key.object >= check->fs->next_ino)
        problem(check, "inode number not yet given ino=%llu", (unsigned long long)item->key.object);
    return 0;
}

static int check_name(struct check *check, const struct tree_item *item)
{
    const struct fs_name_item *value = item->value;
    struct seen *seen;
    int r;

    if (!name_item_is_valid(item->value, item->size) || value->ino == 0) {
        problem(check, "malformed name dir=%llu cookie=%llu", (unsigned long long)item->key.object,
                (unsigned long long)item->key.offset);
        return 0;
    }
    if (!name_fits_cookie(check->fs, value->name, value->length, item->key.offset))
        problem(check, "name in a wrong place dir=%llu name=%.*s",
                (unsigned long long)item->key.object, value->length, value->name);
    r = seen_get(check, value->ino, &seen);
    if (r < 0)
        return r;
    seen->names++;
    seen->named_in = item->key.object;
    check->entries++;
    check->result.names++;
    if (S_ISDIR(value->type))
        check->subdirs++;
    return 0;
}

static bool is_in_window(const struct check *check, uint64_t address)
{
    uint64_t first = alloc_group_first(&check->fs->alloc, check->first_group);

    return address >= first &&
           address - first < check->window_groups * check->fs->alloc.group_blocks;
}

static int check_extent(struct check *check, const struct tree_item *item)
{
    const struct fs_extent_item *extent = item->value;
    unsigned long long ino = item->key.object;
    int r = 0;

    if (item->size != sizeof(*extent) ||
        !alloc_is_valid_run(&check->fs->alloc, extent->address, extent->blocks)) {
        problem(check, "malformed extent ino=%llu block=%llu", ino,
                (unsigned long long)item->key.offset);
        return 0;
    }
    if (!(extent->flags & FS_EXTENT_SHARED))
        mark_used(check, extent->address, extent->blocks, "data");
    else if (is_in_window(check, extent->address))
        r = check_refs_add_extent(&check->refs, extent->address, extent->blocks);
    if (!check->looks_at_items || r < 0)
        return r;
    if (check->has_item && !S_ISREG(check->item.mode))
        problem(check, "extent of what is no file ino=%llu", ino);
    if (item->key.offset < check->extent_end)
        problem(check, "extents overlap ino=%llu block=%llu", ino,
                (unsigned long long)item->key.offset);
    check->extent_end = item->key.offset + extent->blocks;
    check->blocks += extent->blocks;
    check->result.extents++;
    return 0;
}

static int check_orphan(struct check *check, const struct tree_item *item)
{
    struct seen *seen;
    int r = item->key.offset ? seen_get(check, item->key.offset, &seen) : -EINVAL;

    if (r == -EINVAL) {
        problem(check, "malformed orphan");
        return 0;
    }
    if (r == 0)
        seen->is_orphan = true;
    return r;
}

static int check_file_item(struct check *check, const struct tree_item *item)
{
    if (!check->looks_at_items)
        return item->key.kind == FS_KIND_EXTENT ? check_extent(check, item) : 0;
    if (item->key.object != check->ino)
        check_inode_begin(check, item->key.object);
    switch (item->key.kind) {
    case FS_KIND_INODE:
        return check_inode(check, item);
    case FS_KIND_NAME:
        return check_name(check, item);
    case FS_KIND_EXTENT:
        return check_extent(check, item);
    case FS_KIND_ORPHAN:
        return check_orphan(check, item);
    case FS_KIND_SYMLINK:
    case FS_KIND_XATTR:
        return 0;
    default:
        problem(check, "unknown item object=%llu kind=%u", (unsigned long long)item->key.object,
                item->key.kind);
        return 0;
    }
}

/* ---- items of the refs tree ---- */

static int check_ref(struct check *check, const struct tree_item *item)
{
    const struct fs_ref_item *value = item->value;

    if (!ref_item_is_valid(check->fs, &item->key, item->value, item->size)) {
        if (check->looks_at_items)
            problem(check, "malformed reference count block=%llu",
                    (unsigned long long)item->key.object);
        return 0;
    }
    if (!is_in_window(check, item->key.object))
        return 0;
    return check_refs_add_item(&check->refs, item->key.object, value->blocks, value->count);
}

static void check_shared_run(void *arg, uint64_t address, uint64_t blocks, uint64_t found,
                             uint64_t said)
{
    struct check *check = arg;

    if (found > 0)
        mark_used(check, address, blocks, "shared data");
    if (said != (found >= 2 ? found : 0))
        problem(check, "wrong reference count block=%llu blocks=%llu said=%llu found=%llu",
                (unsigned long long)address, (unsigned long long)blocks, (unsigned long long)said,
                (unsigned long long)found);
}

/* ---- trees ---- */

static int check_leaf(struct check *check, const struct fs_node *disk)
{
    for (unsigned i = 0; i < disk->count; i++) {
        struct tree_item item = {.key = fs_item_key(&disk->items[i]),
                                 .value = (const char *)disk + disk->items[i].value_at,
                                 .size = disk->items[i].value_size};
        int r = 0;

        if (disk->tree == FS_TREE_FILES)
            r = check_file_item(check, &item);
        else if (disk->tree == FS_TREE_REFS)
            r = check_ref(check, &item);

        if (r < 0)
            return r;
    }
    return 0;
}

/* A copy of the node: others may push it out of the cache while we look below it. */
static int co_node_copy(struct check *check, const struct node_want *want, struct fs_node *copy)
{
    struct node *node;
    int r = CO_RETRY(check->fs, node_get(check->fs, want, &node));

    if (r == 0)
        memcpy(copy, node->disk, BLOCK_SIZE);
    return r;
}

static int co_check_node(struct check *check, const struct node_want *want)
{
    cleanup(freep) struct fs_node *copy = malloc(BLOCK_SIZE);
    int r = copy ? co_node_copy(check, want, copy) : -ENOMEM;

    if (r == -EBADMSG) {
        if (check->looks_at_items)
            problem(check, "damaged node block=%llu tree=%u level=%u",
                    (unsigned long long)want->address, want->tree, want->level);
        return 0;
    }
    if (r == 0)
        r = co_sleep_ns(1); /* all nodes may be in RAM: a turn of the loop */
    if (r < 0)
        return r;
    mark_used(check, want->address, 1, "node");
    if (check->looks_at_items)
        check->result.nodes++;
    if (want->level == 0)
        return check_leaf(check, copy);
    for (unsigned i = 0; i < copy->count; i++) {
        struct node_want child = tree_child_want(copy, i, want);

        r = co_check_node(check, &child);
        if (r < 0)
            return r;
    }
    return 0;
}

static int co_check_trees(struct check *check)
{
    for (enum fs_tree_id tree = 0; tree < FS_TREES_USED; tree++) {
        struct node_want want = tree_root_want(check->fs, tree);
        int r = want.address ? co_check_node(check, &want) : 0;

        if (r < 0)
            return r;
    }
    if (check->looks_at_items)
        check_inode_end(check);
    check_refs_tell(&check->refs, check_shared_run, check);
    return 0;
}

/* ---- conclusions ---- */

static void check_seen(struct check *check, const struct seen *seen)
{
    unsigned long long ino = seen->ino;

    if (!seen->has_item) {
        problem(check, "%s without an inode ino=%llu", seen->is_orphan ? "orphan" : "name", ino);
        return;
    }
    if (seen->is_orphan != (seen->nlink == 0))
        problem(check, "orphan list disagrees ino=%llu nlink=%u", ino, seen->nlink);
    if (seen->is_dir) {
        bool is_ours = seen->ino == FS_ROOT_INO || seen->ino == FS_SNAPSHOTS_INO;
        uint32_t names = is_ours || seen->is_orphan ? 0 : 1;

        if (seen->names != names)
            problem(check, "directory with %u names ino=%llu", seen->names, ino);
        else if (names && seen->parent != seen->named_in)
            problem(check, "wrong parent ino=%llu said=%llu found=%llu", ino,
                    (unsigned long long)seen->parent, (unsigned long long)seen->named_in);
    } else if (seen->names != seen->nlink) {
        problem(check, "wrong link count ino=%llu said=%u found=%u", ino, seen->nlink, seen->names);
    }
}

static void check_counts(struct check *check)
{
    struct fs *fs = check->fs;
    uint64_t orphans = 0;
    struct seen *root =
        check->seen_capacity ? seen_slot(check->seen, check->seen_capacity, FS_ROOT_INO) : NULL;

    if (!root || !root->has_item || !root->is_dir)
        problem(check, "no root directory");
    for (size_t i = 0; i < check->seen_capacity; i++) {
        if (!check->seen[i].ino)
            continue;
        check_seen(check, &check->seen[i]);
        orphans += check->seen[i].is_orphan;
    }
    if (check->result.inodes != fs->inode_count)
        problem(check, "wrong number of inodes said=%llu found=%llu",
                (unsigned long long)fs->inode_count, (unsigned long long)check->result.inodes);
    if (orphans != fs->orphan_count)
        problem(check, "wrong number of orphans said=%llu found=%llu",
                (unsigned long long)fs->orphan_count, (unsigned long long)orphans);
}

/* Is the block's bit set for an operation under way, or in the pool for nodes? */
static bool is_held(const struct alloc *alloc, uint64_t block)
{
    for (size_t i = 0; i < alloc->pool_count; i++) {
        if (alloc->pool[i] == block)
            return true;
    }
    list_for_each (entry, &alloc->holds) {
        const struct alloc_hold *hold = list_entry(entry, struct alloc_hold, node);

        for (unsigned i = 0; i < hold->count; i++) {
            if (block - hold->runs[i].address < hold->runs[i].blocks)
                return true;
        }
    }
    return false;
}

static void check_map(struct check *check, uint64_t group, const uint64_t *map)
{
    uint64_t first = (group - check->first_group) * check->fs->alloc.group_blocks;
    uint64_t lost = 0, wild = 0;

    for (uint64_t i = FS_GROUP_SLOTS; i < alloc_group_blocks(&check->fs->alloc, group); i++) {
        bool is_marked = map[i / 64] >> i % 64 & 1;

        if (is_marked && !is_used(check, first + i) &&
            !is_held(&check->fs->alloc, alloc_group_first(&check->fs->alloc, group) + i))
            lost++;
        if (!is_marked && is_used(check, first + i))
            wild++;
    }
    if (lost)
        problem(check, "blocks in nobody's use group=%llu blocks=%llu", (unsigned long long)group,
                (unsigned long long)lost);
    if (wild)
        problem(check, "blocks in use are marked free group=%llu blocks=%llu",
                (unsigned long long)group, (unsigned long long)wild);
}

static int co_check_maps(struct check *check)
{
    struct fs *fs = check->fs;
    uint64_t end = check->first_group + check->window_groups;

    for (uint64_t group = check->first_group; group < end; group++) {
        const uint64_t *map;
        int r = co_sleep_ns(1);

        if (r < 0)
            return r;
        r = co_alloc_map(fs, group, &map);
        if (r == -EBADMSG) {
            problem(check, "damaged allocation map group=%llu", (unsigned long long)group);
            continue;
        }
        if (r < 0)
            return r;
        check_map(check, group, map);
    }
    return 0;
}

static int co_check_window(struct check *check, uint64_t first_group)
{
    uint64_t rest = check->fs->alloc.group_count - first_group;
    int r;

    check->first_group = first_group;
    check->window_groups = MIN(rest, (uint64_t)WINDOW_GROUPS);
    check->looks_at_items = first_group == 0;
    check->used = calloc(check->window_groups, FS_BITMAP_BYTES);
    if (!check->used)
        return -ENOMEM;
    r = co_check_trees(check);
    if (r == 0)
        r = co_check_maps(check);
    check_refs_done(&check->refs);
    free(check->used);
    check->used = NULL;
    return r;
}

static int co_check(struct check *check)
{
    struct fs *fs = check->fs;
    int r = co_checkpoint_gated(fs); /* times of files that are written meanwhile stay in RAM */

    for (uint64_t group = 0; r == 0 && group < fs->alloc.group_count; group += WINDOW_GROUPS)
        r = co_check_window(check, group);
    if (r == 0)
        check_counts(check);
    return r;
}

int co_fs_check(struct fs *fs, void (*report)(void *arg, const char *line), void *arg,
                struct fs_check_result *ret_result)
{
    struct check check = {.fs = fs, .report = report, .arg = arg};
    int r = fs->error;

    if (r < 0)
        return r;
    co_mutex_lock(&fs->checkpoint.mutex);
    r = co_gate_close(fs);
    if (r == 0) {
        r = co_check(&check);
        gate_open(fs);
    }
    co_mutex_unlock(&fs->checkpoint.mutex);
    free(check.seen);
    if (r == 0)
        *ret_result = check.result;
    return r;
}
