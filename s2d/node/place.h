/* place: where columns go, as the database stands: the placement function of the pool, fed with the
 * cluster's disks, and a free extent for each column that it chose. One object is one look: what it
 * has given away counts as taken in its next answers. Pure; nothing suspends. */
#ifndef S2D_NODE_PLACE_H
#define S2D_NODE_PLACE_H

#include "pool/placement.h"
#include "s2d/cluster/database.h"

#define PLACE_DISKS_MAX 1024 /* of the pool */

struct place {
    const struct database *database;
    enum fault_level level; /* on which columns of a slab are apart: nodes; with one node, disks */
    size_t count;
    struct placement_disk
        disks[PLACE_DISKS_MAX];            /* all of them: one that takes nothing has no room */
    uint64_t next_extent[PLACE_DISKS_MAX]; /* where the search for a free one goes on */
};

struct place_column {
    uint64_t disk, extent;
};

/* database: borrowed, unchanged while the place lives. Returns 0, -ENOMEM. */
must_check int place_new(const struct database *database, struct place **ret_place);
void place_free(struct place *place);
DEFINE_CLEANUP(struct place, place_free)

/* Chooses request->columns disks and a free extent on each (placement.h). Disks of nodes that are
 * down come last. Returns 0, -ENOSPC, -EINVAL. */
must_check int place_choose(struct place *place, const struct placement_request *request,
                            struct place_column *ret_columns);

#endif
