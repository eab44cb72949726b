#include <sys/mman.h>

#include "fs-refs-lite/fs_internal.h"
#include "s2d/base/checksum.h"

#define LOADS_AT_ONCE 64

struct load { /* on the loading coroutine's stack */
    struct list list;
    uint64_t address;
};

static void list_node_init(struct node *node)
{
    list_init(&node->list);
    node->hash_next = NULL;
    node->state = NODE_UNUSED;
}

int node_cache_init(struct node_cache *cache, size_t node_count)
{
    size_t buckets = 1;

    assert(node_count >= NODES_MIN);
    list_init(&cache->unused);
    list_init(&cache->clean);
    list_init(&cache->dirty);
    list_init(&cache->frozen);
    list_init(&cache->loading);
    co_cond_init(&cache->loaded);
    co_sem_init(&cache->loads, LOADS_AT_ONCE);

    while (buckets < node_count)
        buckets *= 2;
    cache->hash_mask = buckets - 1;
    cache->node_count = node_count;
    cache->hash = calloc(buckets, sizeof(*cache->hash));
    cache->nodes = calloc(node_count, sizeof(*cache->nodes));
    cache->memory = mmap(NULL, node_count * BLOCK_SIZE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (cache->memory == MAP_FAILED)
        cache->memory = NULL;
    if (!cache->hash || !cache->nodes || !cache->memory)
        return -ENOMEM;

    for (size_t i = 0; i < node_count; i++) {
        struct node *node = &cache->nodes[i];

        list_node_init(node);
        node->disk = (struct fs_node *)((char *)cache->memory + i * BLOCK_SIZE);
        list_push_back(&cache->unused, &node->list);
    }
    return 0;
}

void node_cache_done(struct node_cache *cache)
{
    if (cache->memory)
        munmap(cache->memory, cache->node_count * BLOCK_SIZE);
    free(cache->nodes);
    free(cache->hash);
    *cache = (struct node_cache){0};
}

/* ---- hash of addresses ---- */

static struct node **node_bucket(struct node_cache *cache, uint64_t address)
{
    return &cache->hash[(address * 0x9e3779b97f4a7c15u >> 20) & cache->hash_mask];
}

static void node_hash(struct node_cache *cache, struct node *node)
{
    struct node **bucket = node_bucket(cache, node->address);

    node->hash_next = *bucket;
    *bucket = node;
}

static void node_unhash(struct node_cache *cache, struct node *node)
{
    struct node **link = node_bucket(cache, node->address);

    while (*link != node)
        link = &(*link)->hash_next;
    *link = node->hash_next;
    node->hash_next = NULL;
}

struct node *node_peek(struct fs *fs, uint64_t address)
{
    struct node *node = *node_bucket(&fs->nodes, address);

    while (node && node->address != address)
        node = node->hash_next;
    return node;
}

/* ---- taking and giving back ---- */

static void node_release(struct node_cache *cache, struct node *node)
{
    list_remove(&node->list);
    node->state = NODE_UNUSED;
    list_push_back(&cache->unused, &node->list);
}

/* A node of ours to fill. There always is one: dirty and frozen nodes are at most half of the
 * cache. */
static struct node *node_take(struct node_cache *cache)
{
    struct node *node;

    if (list_empty(&cache->unused)) {
        assert(!list_empty(&cache->clean));
        node = list_first(&cache->clean, struct node, list);
        assert(node->state == NODE_CLEAN);
        node_unhash(cache, node);
        cache->clean_count--;
    } else {
        node = list_first(&cache->unused, struct node, list);
    }
    list_remove(&node->list);
    return node;
}

void node_cache_forget(struct node_cache *cache)
{
    while (!list_empty(&cache->clean)) {
        struct node *node = list_first(&cache->clean, struct node, list);

        node_unhash(cache, node);
        cache->clean_count--;
        node_release(cache, node);
    }
}

static void node_make_clean(struct node_cache *cache, struct node *node)
{
    node->state = NODE_CLEAN;
    list_push_back(&cache->clean, &node->list);
    cache->clean_count++;
}

static void node_make_dirty(struct fs *fs, struct node *node)
{
    node->address = alloc_take_metadata(fs);
    node->disk->header.address = node->address;
    node->disk->header.generation = fs->generation;
    node->state = NODE_DIRTY;
    node_hash(&fs->nodes, node);
    list_push_back(&fs->nodes.dirty, &node->list);
    fs->nodes.dirty_count++;
}

/* ---- checking and loading ---- */

void block_seal(void *block, uint32_t magic, const uint8_t *volume, uint64_t address,
                uint64_t generation)
{
    struct fs_block_header *header = block;

    header->magic = magic;
    header->version = FS_FORMAT_VERSION;
    memcpy(header->volume, volume, sizeof(header->volume));
    header->address = address;
    header->generation = generation;
    header->crc = crc32c((char *)block + offsetof(struct fs_block_header, volume),
                         BLOCK_SIZE - offsetof(struct fs_block_header, volume));
}

bool block_is_valid(const void *block, uint32_t magic, const uint8_t *volume, uint64_t address)
{
    const struct fs_block_header *header = block;

    return header->magic == magic && header->version == FS_FORMAT_VERSION &&
           header->address == address &&
           (!volume || memcmp(header->volume, volume, sizeof(header->volume)) == 0) &&
           header->crc == crc32c((const char *)block + offsetof(struct fs_block_header, volume),
                                 BLOCK_SIZE - offsetof(struct fs_block_header, volume));
}

/* Takes the room of a value, a bit to each 8 bytes of the block. False: it overlaps another, and
 * what is done to one would damage both. An empty one lies at the end (btree.c). */
static bool value_is_apart(uint64_t taken[BLOCK_SIZE / 8 / 64], const struct fs_item *item)
{
    if (item->value_size == 0)
        return item->value_at == BLOCK_SIZE;
    for (unsigned cell = item->value_at / 8u; cell * 8u < item->value_at + item->value_size;
         cell++) {
        uint64_t bit = UINT64_C(1) << cell % 64;

        if (taken[cell / 64] & bit)
            return false;
        taken[cell / 64] |= bit;
    }
    return true;
}

/* Sorted, inside of the parent's bounds, values inside of the block and apart: then no later code
 * can stray. */
static bool node_items_valid(const struct fs_node *disk, const struct node_want *want)
{
    size_t items_end = sizeof(*disk) + disk->count * sizeof(struct fs_item);
    size_t used_bytes = disk->count * sizeof(struct fs_item);
    struct fs_key previous = want->low;
    uint64_t taken[BLOCK_SIZE / 8 / 64] = {0};

    if (items_end > disk->values_at || disk->values_at > BLOCK_SIZE || disk->values_at % 8 != 0)
        return false;
    for (unsigned i = 0; i < disk->count; i++) {
        const struct fs_item *item = &disk->items[i];
        struct fs_key key = fs_item_key(item);
        int order = fs_key_compare(&previous, &key);

        if (i == 0 ? order > 0 : order >= 0)
            return false;
        if (item->value_at < disk->values_at || item->value_size > FS_VALUE_MAX ||
            item->value_at + item->value_size > BLOCK_SIZE || item->value_at % 8 != 0 ||
            !value_is_apart(taken, item))
            return false;
        if (disk->level > 0 && item->value_size != sizeof(struct fs_child))
            return false;
        previous = key;
        used_bytes += ALIGN_UP(item->value_size, 8);
    }
    if (want->has_high && disk->count > 0 && fs_key_compare(&previous, &want->high) >= 0)
        return false;
    return used_bytes <= FS_NODE_ROOM;
}

bool node_is_valid(const struct fs_node *disk, const struct node_want *want, const uint8_t *volume)
{
    if (!block_is_valid(disk, FS_NODE_MAGIC, volume, want->address))
        return false;
    if (disk->header.generation != want->generation || disk->tree != want->tree ||
        disk->level != want->level)
        return false;
    if (disk->count == 0 && (disk->level > 0 || !want->is_root))
        return false;
    return node_items_valid(disk, want);
}

static bool node_want_possible(const struct fs *fs, const struct node_want *want)
{
    return alloc_is_valid_run(&fs->alloc, want->address, 1) && want->generation < fs->generation;
}

/* Two parents that claim one child, or a block that changed its role, are damage. */
static bool node_is_wanted(const struct node *node, const struct node_want *want)
{
    const struct fs_node *disk = node->disk;
    struct fs_key first, last;

    if (disk->header.generation != want->generation || disk->tree != want->tree ||
        disk->level != want->level)
        return false;
    if (disk->count == 0)
        return want->is_root;
    first = fs_item_key(&disk->items[0]);
    last = fs_item_key(&disk->items[disk->count - 1]);
    return fs_key_compare(&want->low, &first) <= 0 &&
           (!want->has_high || fs_key_compare(&last, &want->high) < 0);
}

static bool is_known_damaged(const struct fs *fs, uint64_t address)
{
    const struct node_cache *cache = &fs->nodes;

    for (unsigned i = 0; i < NODES_DAMAGED; i++) {
        if (cache->damaged[i] == address)
            return true;
        if (cache->unreadable[i] == address && io_now_ns(fs->io) < cache->unreadable_until_ns)
            return true;
    }
    return false;
}

int node_get(struct fs *fs, const struct node_want *want, struct node **ret_node)
{
    struct node *node = node_peek(fs, want->address);

    if (!node) {
        if (want->tree == FS_TREE_REFS && is_known_damaged(fs, want->address))
            return -EBADMSG;
        fs->nodes.wanted = *want;
        return -EAGAIN;
    }
    if (!node_is_wanted(node, want))
        return -EBADMSG;
    if (node->state == NODE_CLEAN) {
        list_remove(&node->list);
        list_push_back(&fs->nodes.clean, &node->list);
    }
    fs->counters.node_hits++;
    *ret_node = node;
    return 0;
}

static unsigned node_sum(const struct fs_node *disk)
{
    unsigned used_bytes = disk->count * sizeof(struct fs_item);

    for (unsigned i = 0; i < disk->count; i++)
        used_bytes += ALIGN_UP(disk->items[i].value_size, 8);
    return used_bytes;
}

static int node_note_damaged(struct node_cache *cache, const struct node_want *want)
{
    if (want->tree != FS_TREE_REFS)
        return -EBADMSG;
    cache->damaged[cache->damaged_next++ % NODES_DAMAGED] = want->address;
    return 0;
}

/* All of them for as long as new ones are met: an operation that needs several gets through. */
static int node_note_unreadable(struct fs *fs, const struct node_want *want)
{
    struct node_cache *cache = &fs->nodes;
    uint64_t now_ns = io_now_ns(fs->io);

    if (want->tree != FS_TREE_REFS)
        return -EIO;
    if (now_ns >= cache->unreadable_until_ns)
        memset(cache->unreadable, 0, sizeof(cache->unreadable));
    cache->unreadable[cache->unreadable_next++ % NODES_DAMAGED] = want->address;
    cache->unreadable_until_ns = now_ns + UNREADABLE_NS;
    return 0;
}

/* A mount waits for what cannot be read (lack.h). What it gave up is damage for as long as it
 * lasts. */
static int node_note_lost(struct fs *fs, const struct node_want *want, int error)
{
    if (error == -EIO)
        lack_note(fs, want->address, lack_kind_of(want));
    if (error == -EIO && fs->is_mounting && !lack_is_given_up(fs, want->address))
        return error;
    fs_note_damage(fs);
    return error == -EIO && !fs->is_mounting ? node_note_unreadable(fs, want)
                                             : node_note_damaged(&fs->nodes, want);
}

static int co_node_read(struct fs *fs, const struct node_want *want)
{
    struct node *node = node_take(&fs->nodes);
    int r;

    node->state = NODE_LOADING;
    fs->counters.node_reads++;
    r = lack_is_met(fs, want->address)
            ? -EIO
            : co_disk_read(fs, node->disk, want->address * BLOCK_SIZE, BLOCK_SIZE);
    if (fs->error)
        r = fs->error;
    else if (r == 0 && !node_is_valid(node->disk, want, fs->super.header.volume))
        r = -EBADMSG;
    if (r < 0) {
        node_release(&fs->nodes, node);
        return !fs->error && (r == -EIO || r == -EBADMSG) ? node_note_lost(fs, want, r) : r;
    }
    node->address = want->address;
    node->used_bytes = node_sum(node->disk);
    node_hash(&fs->nodes, node);
    node_make_clean(&fs->nodes, node);
    return 0;
}

int co_node_try(struct fs *fs)
{
    struct node_want want = fs->nodes.wanted;
    struct load load = {.address = want.address};
    int r = 0;

    if (fs->error)
        return fs->error;
    if (!node_want_possible(fs, &want)) {
        fs_note_damage(fs);
        return node_note_damaged(&fs->nodes, &want);
    }
    list_for_each (entry, &fs->nodes.loading) {
        if (list_entry(entry, struct load, list)->address == want.address)
            return co_cond_wait(&fs->nodes.loaded); /* then look again */
    }

    list_push_back(&fs->nodes.loading, &load.list);
    r = co_sem_take(&fs->nodes.loads, 1);
    if (r == 0) {
        /* While we waited, the address may have been freed and taken into use by a new node. */
        if (!node_peek(fs, want.address))
            r = co_node_read(fs, &want);
        co_sem_give(&fs->nodes.loads, 1);
    }
    list_remove(&load.list);
    co_cond_broadcast(&fs->nodes.loaded);
    return r;
}

int co_node_load(struct fs *fs)
{
    int r = co_node_try(fs);

    return is_block_error(fs, r) && !fs->is_mounting ? -EBADMSG : r;
}

/* ---- changing ---- */

struct node *node_new(struct fs *fs, uint8_t tree, uint8_t level)
{
    struct node *node = node_take(&fs->nodes);

    *node->disk = (struct fs_node){.tree = tree, .level = level, .values_at = BLOCK_SIZE};
    node->used_bytes = 0;
    node_make_dirty(fs, node);
    fs->trees[tree].nodes++;
    return node;
}

struct node *node_writable(struct fs *fs, struct node *node)
{
    struct node *copy;

    if (node->state == NODE_DIRTY)
        return node;

    alloc_free(fs, node->address, 1);
    if (node->state == NODE_FROZEN) {
        copy = node_take(&fs->nodes);
        memcpy(copy->disk, node->disk, BLOCK_SIZE);
        copy->used_bytes = node->used_bytes;
        SOMETIMES("fs: a node changes while a checkpoint writes it");
        node->state = NODE_OBSOLETE;
        node = copy;
    } else {
        assert(node->state == NODE_CLEAN);
        node_unhash(&fs->nodes, node);
        list_remove(&node->list);
        fs->nodes.clean_count--;
    }
    node_make_dirty(fs, node);
    return node;
}

void node_drop(struct fs *fs, struct node *node)
{
    fs->trees[node->disk->tree].nodes--;
    switch ((enum node_state)node->state) {
    case NODE_DIRTY: /* no root knows it; but see the pool of addresses in alloc.c */
        alloc_free(fs, node->address, 1);
        node_unhash(&fs->nodes, node);
        fs->nodes.dirty_count--;
        node_release(&fs->nodes, node);
        break;
    case NODE_FROZEN:
        alloc_free(fs, node->address, 1);
        node->state = NODE_OBSOLETE;
        break;
    case NODE_CLEAN:
        alloc_free(fs, node->address, 1);
        node_unhash(&fs->nodes, node);
        fs->nodes.clean_count--;
        node_release(&fs->nodes, node);
        break;
    case NODE_UNUSED:
    case NODE_LOADING:
    case NODE_OBSOLETE:
        assert(!"in no tree");
    }
}

/* ---- checkpoint ---- */

void node_freeze(struct fs *fs)
{
    assert(list_empty(&fs->nodes.frozen));
    list_for_each (entry, &fs->nodes.dirty) {
        list_entry(entry, struct node, list)->state = NODE_FROZEN;
    }
    list_splice(&fs->nodes.dirty, &fs->nodes.frozen);
    fs->nodes.frozen_count = fs->nodes.dirty_count;
    fs->nodes.dirty_count = 0;
}

void node_seal(struct fs *fs, struct node *node)
{
    static const struct node_want any;

    assert(node->state == NODE_FROZEN || node->state == NODE_OBSOLETE);
    assert(
        node_items_valid(node->disk, &any)); /* what we could not read back must not be written */
    block_seal(node->disk, FS_NODE_MAGIC, fs->super.header.volume, node->address,
               node->disk->header.generation);
}

void node_written(struct fs *fs, struct node *node)
{
    fs->nodes.frozen_count--;
    if (node->state == NODE_OBSOLETE) {
        node_unhash(&fs->nodes, node);
        node_release(&fs->nodes, node);
        return;
    }
    list_remove(&node->list);
    node_make_clean(&fs->nodes, node);
}
