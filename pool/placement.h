/* placement: which disks the columns of a new slab go to. A pure function of what it is told, so
 * that it can be simulated for clusters far larger than 16 nodes, and gives the same answer
 * everywhere.
 *
 * Hard rules: a slab's columns lie on distinct disks that have room, and on distinct fault domains
 * of the level asked for; if there are not enough of those, the answer is -ENOSPC, never a worse
 * slab. Wishes, in this order: one column on the owner's node (reads are local there); then the
 * least used disks, by the share of their space, so that disks of different sizes fill together. */
#ifndef S2D_POOL_PLACEMENT_H
#define S2D_POOL_PLACEMENT_H

#include "s2d/base/base.h"

enum fault_level { FAULT_DISK, FAULT_NODE, FAULT_CHASSIS, FAULT_RACK, FAULT_SITE };

/* Where a disk stands: names of its levels, as numbers that are equal when the names are. */
struct fault_path {
    uint64_t node, chassis, rack, site;
};

struct placement_disk {
    uint64_t disk; /* id; the list is sorted by it */
    struct fault_path path;
    uint64_t extents; /* that can hold data */
    uint64_t used;    /* of these; extents named by earlier answers included */
    bool away;        /* its node is down: better than no column at all, worse than any other */
};

struct placement_request {
    unsigned columns;
    enum fault_level level;
    uint64_t prefer_node; /* 0: none */
    uint64_t spread;      /* any number, the slab's for instance: breaks ties between equal disks */
    const uint64_t *taken; /* disks of columns that the slab keeps: their domains are taken */
    size_t taken_count;
};

/* Chooses request->columns disks into ret_disks (ids), the preferred node's first. Returns 0,
 * -ENOSPC, -EINVAL (no columns). */
must_check int placement_choose(const struct placement_disk *disks, size_t count,
                                const struct placement_request *request, uint64_t *ret_disks);

#endif
