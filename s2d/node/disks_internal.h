/* What disks.c, cache_disks.c, damage.c and read_caches.c share. */
#ifndef S2D_NODE_DISKS_INTERNAL_H
#define S2D_NODE_DISKS_INTERNAL_H

#include "cache-tier/store.h"
#include "pool/disk.h"
#include "s2d/node/node_internal.h"

struct read_cache_part { /* of a cache disk's region */
    struct node_disk *cache;
    uint64_t offset, bytes;
};

struct node_disk { /* of this node */
    struct list node;
    struct node *owner_node;
    uint64_t id;
    char name[NAME_MAX_BYTES];
    char reason[256]; /* why it is not open; "" when it is */
    struct disk *disk;
    enum disk_role role; /* once it is open */
    struct store *store; /* NULL: a cache disk, or not open */
    struct column_store *column;
    struct node_disk *cache;           /* where its log is; NULL: on itself */
    struct read_cache_part read_cache; /* that its store has; cache NULL: none */
    bool failed;  /* the medium failed: it is told to the cluster, and not opened again in this life
                   */
    bool told;    /* of the failure */
    bool served;  /* to peers, and to mirrors of this node; a cache disk: open */
    bool damaged; /* some of its columns were not compared yet (damage.c) */
    struct store_fence *taken; /* how far the store went that was closed last; NULL: unknown */
    size_t taken_count;
    bool given_back;       /* retired: it is served no more, and closed step by step */
    unsigned region_users; /* of a cache disk: who changes its regions */
    bool looking;          /* co_disk_look() is under way */
    uint64_t look_ns;      /* when it is next */
    bool busy;             /* its log moves, or the store is closed or opened anew */
    uint64_t moved_ns;     /* its log is not moved again before */
};

/* disks.c */
struct node_disk *node_find_disk(struct node *node, uint64_t id); /* NULL: not ours */
void node_disk_fail(struct node_disk *disk, const char *what, int error);
/* The disk is neither served nor written to any more; its column is away, as if the node were.
 * Suspends until nothing is under way in the store. */
void co_node_close_store(struct node_disk *disk);

/* cache_disks.c */

/* Opens the store with the log that the disk names; if that is lost, with a new one on the disk
 * itself, and the loss is on it. Returns as co_store_open(). */
must_check int co_node_open_log(struct node_disk *disk);
/* The disk's log failed with its cache disk: that one has failed, for all. Does not suspend. */
void node_cache_failed(struct node_disk *disk, int error);
/* A look at who is bound to what: begins what is to change, one disk at a time. */
void node_bind_logs(struct node *node);
unsigned node_cache_bound(const struct node_disk *cache);
bool node_disk_is_retiring(const struct node_disk *disk); /* or retired */
/* What a disk that is claimed without a role is for: cache, when the node has slower ones and none
 * that is faster. */
enum disk_role node_role_for(struct node *node, enum disk_media media);

/* damage.c */

/* The column that has the extent on the disk; NULL: none. */
const struct column_record *node_column_at(const struct slab_record *slab, uint64_t disk,
                                           struct extent_ref where);

/* Before a store is closed whose log may be lost, when nobody uses it any more: how far it went. */
void node_note_taken(struct node_disk *disk);
void node_forget_taken(struct node_disk *disk);
/* Before a damaged disk is served, and after the database was told of it: what a lost log meant,
 * and which columns are the last of their slabs. */
must_check int co_node_settle_damage(struct node_disk *disk);
/* Of a damaged disk that is served: forgets the damage of what was compared since, and has that
 * compared which was withheld. To be repeated while disk->damaged. */
void co_node_tend_damage(struct node_disk *disk);
/* Of a disk with a store. */
uint64_t node_withheld_slabs(const struct node_disk *disk);

/* read_caches.c */

/* A look at who has which part of the read caches: begins what is to change. */
void node_fit_read_caches(struct node *node);
bool node_has_read_caches(const struct node_disk *cache); /* a store reads from it */

#endif
