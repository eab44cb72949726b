/* mirror_world: a vdisk of three columns on fake stores, a database that decides in order, and
 * owners on virtual time. What the tests of the mirror stand on. */
#ifndef S2D_TESTS_MIRROR_WORLD_H
#define S2D_TESTS_MIRROR_WORLD_H

#include "resiliency/mirror.h"
#include "s2d/base/buffer.h"
#include "s2d/base/sim.h"
#include "tests/unit/fake_column.h"

#define WORLD_VDISK 7
#define WORLD_DISKS 4 /* of nodes 1 … 4; the last one is spare */
#define WORLD_SLAB_BLOCKS 96
#define WORLD_SLABS 3

struct world;

struct owner {
    struct world *world;
    struct mirror *mirror;
    uint64_t node;
    bool lease;
    bool cut_off;      /* sees no configuration, and its proposals are lost */
    uint64_t delay_ns; /* until it sees a configuration */
};

struct world {
    struct sim *sim;
    struct io *io;
    struct buffer_pool *buffers;
    struct fake_column columns[WORLD_DISKS]; /* disk i + 1, of node i + 1 */
    struct vdisk_config *config;
    uint64_t raft_index;
    uint64_t raft_delay_ns;
    struct owner owners[64];
    unsigned owner_count;
    bool full; /* no space for slabs */
    bool thin; /* empty slabs go back */
    unsigned release_proposals;
    unsigned stale_proposals, in_sync_proposals, heals;
    struct mirror_limits limits;
    uint64_t grace_until_ns;
    struct co_group coroutines;
    void (*test)(struct world *world);
    bool done;
};

/* Runs test(world) in a coroutine on virtual time. width: columns; slabs: how many are allocated.
 */
struct world_options {
    uint64_t seed;
    uint32_t width, slabs;
    uint32_t size_slabs;                  /* of the vdisk; 0: WORLD_SLABS */
    uint32_t data_columns;                /* 0: a mirror */
    void (*prepare)(struct world *world); /* before the first owner begins; may be NULL */
    bool no_owner;                        /* the test makes the owners */
};
void world_run(const struct world_options *options, void (*test)(struct world *world));

/* A command of the database that makes `node` the owner, and its new mirror. */
struct owner *world_take_over(struct world *world, uint64_t node);
/* A copy of the configuration to change, of the next epoch; then shown to all owners. */
struct vdisk_config *world_edit(struct world *world);
void world_publish(struct world *world, struct vdisk_config *config);
struct column_config *world_column(struct world *world, uint32_t slab, uint32_t column);
bool world_in_sync(struct world *world, uint64_t disk);

/* Ends the owner's mirror. */
void co_owner_end(struct owner *owner);

/* One block, filled with `fill`. */
int co_owner_write(struct owner *owner, uint64_t block, char fill);
/* Returns the fill, or a negative errno; asserts that the block is uniform. */
int co_owner_read(struct owner *owner, uint64_t block);
/* What the copy on a disk holds: the fill, 0 for zeros. */
int world_peek(struct world *world, uint64_t disk, uint64_t block);
/* Waits until every column is in-sync; false: not within 60 s. */
bool co_world_heal(struct world *world);
/* Asserts that all in-sync copies are the same. */
void world_check_copies(struct world *world);

#endif
