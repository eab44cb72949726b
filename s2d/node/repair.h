/* repair: gives the columns of disks that failed, or are to be emptied, new places elsewhere. The
 * new column is stale and empty, and its vdisk's owner copies it like any other (resync.c): from
 * all disks that hold the others to all disks that were chosen. So the job is nothing but this
 * look at the database, which a new leader takes up where the last one stopped.
 *
 * A failed disk's columns move at once; if it comes back, those that have not moved are brought up
 * where they are. A retiring disk's columns leave it while all others of their slab are in-sync:
 * for the time of its copying a slab has one copy less. Columns move in batches, and the next one
 * waits until most of the last are copied: what comes back, or breaks next, meets few half-empty
 * columns.
 *
 * Pure; nothing suspends. */
#ifndef S2D_NODE_REPAIR_H
#define S2D_NODE_REPAIR_H

#include "s2d/cluster/database.h"

#define REPAIR_BATCH 16 /* columns of a vdisk being copied at once */

/* The next command for the vdisk ("vdisk.replace"; the caller's). NULL: nothing is to be moved, or
 * nothing can be now: there is no room on another fault domain, or a batch is being copied. */
json_t *repair_plan(const struct database *database, const struct vdisk_record *vdisk);

/* The job that shows it (jobs.c), a volume's. */
#define REBUILD_JOB "rebuild"

/* Of the vdisk's columns, whole: those that are to move, and those that are new and not in-sync. */
uint64_t repair_left_bytes(const struct database *database, uint64_t vdisk);

/* True when columns are to move, none is being filled, and none can be moved now. */
bool repair_is_stuck(const struct database *database, const struct vdisk_record *vdisk);

struct job_progress {
    uint64_t done_bytes, total_bytes;
};
/* Where the job stands when left_bytes are left, of which filled_bytes are there already.
 * done_bytes never falls, and is short of total_bytes until nothing is left. */
struct job_progress repair_progress(const struct job_record *job, uint64_t left_bytes,
                                    uint64_t filled_bytes);

/* True when the disk's columns are to move: it failed, or is being emptied. */
bool repair_wanted(const struct database *database, const struct disk_record *disk);

#endif
