/* fsck: looks at the disks of nodes that are stopped. See fsck.c. */
#ifndef S2D_TOOLS_FSCK_FSCK_H
#define S2D_TOOLS_FSCK_FSCK_H

#include "s2d/base/base.h"
#include "s2d/cluster/database.h"

struct io;
struct disk;
struct store;
struct column_store;

#define FSCK_NODES_MAX 16
#define FSCK_DISKS_MAX 512

struct fsck_disk {
    const struct disk_record *record;
    struct disk *disk;           /* NULL: cannot be opened */
    struct store *store;         /* NULL: a cache disk, or cannot be opened */
    struct column_store *column; /* the store, for a mirror */
};

struct fsck {
    struct io *io;
    bool repair, mending;
    struct database *database;
    uint64_t nodes[FSCK_NODES_MAX]; /* those whose folders were given */
    size_t node_count;
    struct fsck_disk disks[FSCK_DISKS_MAX];
    size_t disk_count;
    size_t volumes; /* looked at */
    uint64_t problems;
};

/* One finding: of what, what, and what to do ("" when that was said). */
void fsck_problem(struct fsck *fsck, const char *what, const char *advice, const char *format, ...)
    printf_like(4, 5);
/* Not a problem, but good to know. */
void fsck_note(const char *what, const char *format, ...) printf_like(2, 3);

/* ---- fsck_disks.c ---- */

/* Opens the disks of the given nodes and tells what is wrong with them. */
void co_fsck_open_disks(struct fsck *fsck);
/* Tells of what showed only while they were read, too. */
void co_fsck_close_disks(struct fsck *fsck);
/* On an io that writes: damaged superblocks become right again. */
void co_fsck_mend_disks(struct fsck *fsck);
struct fsck_disk *fsck_find_disk(struct fsck *fsck, uint64_t id);

/* ---- fsck_volume.c ---- */

/* Puts the vdisk together, compares all copies, and checks the file system on it. */
void co_fsck_volume(struct fsck *fsck, const struct volume_record *volume);

#endif
