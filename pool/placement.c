/* One column at a time, the best disk that the rules still allow. Greedy is right here: fault
 * domains are disjoint sets of disks, and a slab takes at most one disk of each, so taking the best
 * disk of any domain never makes the rest impossible unless there were too few domains to begin
 * with. */
#include "pool/placement.h"

static bool same_domain(const struct fault_path *a, const struct fault_path *b,
                        enum fault_level level)
{
    switch (level) {
    case FAULT_DISK:
        return false;
    case FAULT_NODE:
        return a->node == b->node;
    case FAULT_CHASSIS:
        return a->site == b->site && a->rack == b->rack && a->chassis == b->chassis;
    case FAULT_RACK:
        return a->site == b->site && a->rack == b->rack;
    case FAULT_SITE:
        return a->site == b->site;
    }
    return false;
}

static const struct placement_disk *find(const struct placement_disk *disks, size_t count,
                                         uint64_t disk)
{
    for (size_t i = 0; i < count; i++) {
        if (disks[i].disk == disk)
            return &disks[i];
    }
    return NULL;
}

static bool clashes(const struct placement_disk *disks, size_t count,
                    const struct placement_disk *candidate, enum fault_level level,
                    const uint64_t *others, size_t other_count)
{
    for (size_t i = 0; i < other_count; i++) {
        const struct placement_disk *other = find(disks, count, others[i]);

        if (others[i] == candidate->disk)
            return true;
        if (other && same_domain(&other->path, &candidate->path, level))
            return true;
    }
    return false;
}

/* A number that differs from slab to slab but is the same on every node. */
static uint64_t tie(uint64_t disk, uint64_t spread)
{
    uint64_t x = disk * UINT64_C(0x9e3779b97f4a7c15) + spread;

    x ^= x >> 31;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    return x ^ x >> 27;
}

/* used/extents as fractions, compared without rounding. */
static bool is_better(const struct placement_disk *a, const struct placement_disk *b,
                      const struct placement_request *request)
{
    bool a_near = a->path.node == request->prefer_node,
         b_near = b->path.node == request->prefer_node;
    unsigned __int128 a_share = (unsigned __int128)a->used * b->extents;
    unsigned __int128 b_share = (unsigned __int128)b->used * a->extents;

    if (a->away != b->away)
        return b->away;
    if (a_near != b_near)
        return a_near;
    if (a_share != b_share)
        return a_share < b_share;
    return tie(a->disk, request->spread) < tie(b->disk, request->spread);
}

int placement_choose(const struct placement_disk *disks, size_t count,
                     const struct placement_request *request, uint64_t *ret_disks)
{
    if (request->columns == 0)
        return -EINVAL;
    for (unsigned column = 0; column < request->columns; column++) {
        const struct placement_disk *best = NULL;

        for (size_t i = 0; i < count; i++) {
            const struct placement_disk *disk = &disks[i];

            if (disk->used >= disk->extents ||
                clashes(disks, count, disk, request->level, ret_disks, column) ||
                clashes(disks, count, disk, request->level, request->taken, request->taken_count))
                continue;
            if (!best || is_better(disk, best, request))
                best = disk;
        }
        if (!best)
            return -ENOSPC;
        ret_disks[column] = best->disk;
    }
    return 0;
}
