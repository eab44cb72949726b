/* check_refs: the checker's count of who maps what, against the refs tree. Pure but for memory: 48
 * bytes for each extent that is marked as shared. */
#ifndef S2D_FS_CHECK_REFS_H
#define S2D_FS_CHECK_REFS_H

#include "s2d/base/base.h"

struct check_refs_step;

struct check_refs {
    struct check_refs_step *steps;
    size_t count, capacity;
};

/* A marked extent, or an item of the refs tree. 0 or -ENOMEM. */
must_check int check_refs_add_extent(struct check_refs *refs, uint64_t address, uint64_t blocks);
must_check int check_refs_add_item(struct check_refs *refs, uint64_t address, uint64_t blocks,
                                   uint64_t count);

/* Tells, from low to high, of each run of blocks with one number of marked extents (found) and one
 * count in the tree (said; 0: in no item). */
void check_refs_tell(struct check_refs *refs,
                     void (*tell)(void *arg, uint64_t address, uint64_t blocks, uint64_t found,
                                  uint64_t said),
                     void *arg);
void check_refs_done(struct check_refs *refs); /* empty again */

#endif
