/* node: the cache of tree nodes. One reactor. Memory is sized at mount; what is changed stays until
 * a checkpoint has written it, the rest leaves least recently used first.
 *
 * The rule that keeps the file system simple: nobody holds a node across a suspension. An operation
 * looks at nodes without suspending; where one is missing it gets -EAGAIN, co_node_load() fetches
 * what was missed, and the operation starts again from its beginning. So what an operation saw is
 * true until it suspends, and no node needs a lock. */
#ifndef S2D_FS_NODE_H
#define S2D_FS_NODE_H

#include "fs-refs-lite/fs_format.h"
#include "s2d/base/base.h"
#include "s2d/base/co.h"

struct fs;

enum node_state {
    NODE_UNUSED,
    NODE_LOADING,
    NODE_CLEAN,
    NODE_DIRTY,    /* of the generation being built: may be changed in place */
    NODE_FROZEN,   /* a checkpoint is writing it: a change makes a copy */
    NODE_OBSOLETE, /* frozen, and no longer part of the tree: goes when it was written */
};

struct node {
    struct list list; /* unused, least recently used, dirty or frozen */
    struct node *hash_next;
    uint64_t address;
    uint16_t used_bytes; /* items and values */
    uint8_t state;
    struct fs_node *disk; /* BLOCK_SIZE, laid out as on disk */
};

/* What a parent says about a child. */
struct node_want {
    uint64_t address;
    uint64_t generation;
    struct fs_key low, high; /* keys below it are in [low, high) */
    bool has_high;
    bool is_root;
    uint8_t tree;
    uint8_t level;
};

#define NODES_DAMAGED 64
/* So long a node or map that the vdisk could not read (-EIO: the column that has it may be away) is
 * not asked for again. */
#define UNREADABLE_NS (10 * SEC)

struct node_cache {
    struct node *nodes;
    void *memory; /* mmap()ed */
    size_t node_count;
    struct node **hash;
    size_t hash_mask;
    struct list unused, clean, dirty, frozen;
    size_t clean_count, dirty_count, frozen_count;
    struct node_want wanted; /* by the last -EAGAIN */
    struct co_sem loads;
    struct list loading; /* who loads, so that none loads twice */
    struct co_cond loaded;
    /* Of the refs tree: addresses, the latest that were met. */
    uint64_t damaged[NODES_DAMAGED];
    unsigned damaged_next;
    uint64_t unreadable[NODES_DAMAGED]; /* no copy could be read; all are forgotten then: */
    unsigned unreadable_next;
    uint64_t unreadable_until_ns;
};

#define NODES_MIN                                                                                  \
    2048 /* what replay of one batch can dirty, and an operation's working set many times over */

must_check int node_cache_init(struct node_cache *cache, size_t node_count);
void node_cache_done(struct node_cache *cache);

/* Is this block a node that fits `want` and is safe to use? Pure. volume: 16 bytes. generation_max:
 * of the last root. */
bool node_is_valid(const struct fs_node *disk, const struct node_want *want, const uint8_t *volume);

/* Returns 0, -EAGAIN (not in RAM; noted as wanted), -EBADMSG (the cached one is not what the parent
 * says; or a node of the refs tree that was found damaged). */
must_check int node_get(struct fs *fs, const struct node_want *want, struct node **ret_node);

/* Clean nodes leave. */
void node_cache_forget(struct node_cache *cache);

/* Only if it is in RAM; counts as no use of it. */
struct node *node_peek(struct fs *fs, uint64_t address);

/* Brings in what the last -EAGAIN wanted; call it right after. Returns 0 (look again), -EBADMSG, or
 * the vdisk's error. A damaged node of the refs tree is 0 too: whoever looks again meets -EBADMSG
 * there, and can do without. One that no copy gives now is taken for damaged, for UNREADABLE_NS;
 * for a mount that did not give it up it is -EIO. */
must_check int co_node_load(struct fs *fs);
/* The same for those who come back later: that no copy can be read now is -EIO (of another tree
 * than that of refs). */
must_check int co_node_try(struct fs *fs);

/* The calls below cannot fail: co_txn_room() has seen to memory and addresses. */
struct node *node_new(struct fs *fs, uint8_t tree, uint8_t level);
/* The node, or its copy at a new address, that may be changed now; the parent must be told of the
 * new address. */
struct node *node_writable(struct fs *fs, struct node *node);
void node_drop(struct fs *fs, struct node *node); /* no longer in its tree */

/* Checkpoint: dirty nodes become frozen; frozen ones become clean once written. */
void node_freeze(struct fs *fs);
void node_seal(struct fs *fs, struct node *node);    /* header checksum, right before writing */
void node_written(struct fs *fs, struct node *node); /* a frozen one: it is on the vdisk */

/* Header of any metadata block. */
void block_seal(void *block, uint32_t magic, const uint8_t *volume, uint64_t address,
                uint64_t generation);
bool block_is_valid(const void *block, uint32_t magic, const uint8_t *volume, uint64_t address);

static inline int fs_key_compare(const struct fs_key *a, const struct fs_key *b)
{
    if (a->object != b->object)
        return a->object < b->object ? -1 : 1;
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return 0;
}

static inline struct fs_key fs_item_key(const struct fs_item *item)
{
    return (struct fs_key){.object = item->object, .offset = item->offset, .kind = item->kind};
}

#endif
