/* sim_inode: one file of a simulated disk, and what of it a power cut leaves. A file has two
 * images.
 *
 *   view    what a read returns: all completed writes
 *   medium  what a power cut is sure to leave: writes with DSYNC, and those before a sync that has
 *           ended. Kept only for blocks where it may differ from the view (`dirty`)
 *
 * Between the two stands the journal: completed writes that are not durable, oldest first, with
 * their data. A power cut applies any of them to the medium, in that order, so of each sector some
 * version since the last sync survives, and of a write that is torn any of its sectors. A durable
 * write over volatile ones goes through the journal too, or an older write that the cut happens to
 * keep would undo it. Creating a file is durable at once, a change of size when it has ended. */
#ifndef S2D_BASE_SIM_INODE_H
#define S2D_BASE_SIM_INODE_H

#include "s2d/base/sim_image.h"
#include "s2d/base/sim_world.h"

#define SLOWDOWN_ONE 1000000u /* of slowdown_ppm: as fast as it is */

struct inode {
    struct list node; /* of machine->inodes */
    char *path;
    uint64_t size_bytes;
    struct sim_image view, medium;
    uint8_t *dirty;         /* a byte for each block: the journal may hold some of it */
    uint64_t dirty_blocks;  /* that there are bytes for */
    struct list journal;    /* struct volatile_write */
    uint64_t journal_order; /* of the last entry */
    enum sim_disk_fault fault;
    uint64_t slowdown_ppm;
    unsigned hanging;          /* enum sim_disk_hang */
    enum sim_disk_spoil spoil; /* what happens to the next write at or behind spoil_from */
    uint64_t spoil_from;
    bool locked;     /* by the running program */
    unsigned ghosts; /* operations of a dead process that have not ended */
};

struct inode *inode_new(struct machine *machine, const char *path);
void inode_free(struct inode *inode);
/* It has this size at least. */
void inode_grow(struct inode *inode, uint64_t size_bytes);
/* A shorter file has nothing behind its end, neither now nor when it grows again. */
void inode_set_size(struct inode *inode, uint64_t size_bytes);
/* A completed write (data) or discard (NULL). */
void inode_put(struct inode *inode, uint64_t offset, uint64_t length, const char *data,
               bool durable);
/* A sync that covers the entries up to this one has ended. */
void inode_sync(struct inode *inode, uint64_t order);
/* The view becomes what the medium holds, and the journal ends. */
void inode_power_cut(struct machine *machine, struct inode *inode);

/* How this cut treats this file: some keep everything, some nothing, most some of it. */
struct cut_plan {
    struct sim *sim;
    unsigned machine;
    unsigned keep_percent;
};

/* Applies a write of which a cut leaves all, some sectors (in torn_percent of the cases), or
 * nothing. */
void put_maybe(const struct cut_plan *plan, struct sim_image *image, uint64_t offset,
               uint64_t length, const char *data, unsigned torn_percent);

#endif
