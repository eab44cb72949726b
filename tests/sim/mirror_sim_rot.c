/* The run of mirror_sim --rot: no fault but rot, and of that as much as dual parity bears. Random
 * bits of one or two columns of every row are flipped where they lie on the disks, twice: the first
 * time clients read everything and must see what was written; the second time a scrub has to find
 * every block that was hit, no more and no less. In the end nothing is rotten and every row is
 * encoded right. */
#include "tests/sim/mirror_sim.h"

/* Every bit may be hit, in the checksummed block and nowhere else. */
static void flip(struct cluster *cluster, const struct column_config *column, uint32_t row)
{
    const struct node *node = &cluster->nodes[column->node];
    uint64_t block = disk_block_offset(&node->geometry, column->where.extent, row);
    char bytes[BLOCK_SIZE];

    check(cluster,
          sim_disk_peek(cluster->sim, node->number, DISK_PATH, block, bytes, sizeof(bytes)) == 0);
    for (uint64_t i = 0; i <= draw(cluster, 8); i++) {
        uint64_t bit = draw(cluster, 8 * BLOCK_SIZE / 8) * 8 + i; /* never the same one twice */

        bytes[bit / 8] ^= (char)BIT(bit % 8);
    }
    check(cluster,
          sim_disk_poke(cluster->sim, node->number, DISK_PATH, block, bytes, sizeof(bytes)) == 0);
    cluster->count.rotten++;
}

static void rot_row(struct cluster *cluster, const struct column_config *columns, uint32_t row)
{
    uint32_t first = (uint32_t)draw(cluster, cluster->width);
    uint32_t other = (uint32_t)draw(cluster, cluster->width);

    flip(cluster, &columns[first], row);
    if (other != first)
        flip(cluster, &columns[other], row);
}

static void rot_everything(struct cluster *cluster)
{
    const struct vdisk_config *config = config_now(cluster);

    for (uint32_t slab = 0; slab < SLABS; slab++)
        for (uint32_t row = 0; row < COLUMN_BLOCKS; row++)
            rot_row(cluster, vdisk_config_slab(config, slab), row);
}

static void mark_rotten(struct cluster *cluster, bool rotten)
{
    for (uint64_t number = 0; number < cluster->block_count; number++)
        cluster->blocks[number].rotten = rotten;
}

/* Rot in a place that the log still covers would hurt nobody. */
static void destage(struct cluster *cluster)
{
    bool all = false;

    run_for(cluster, 2 * SEC); /* the last watermark arrives */
    for (unsigned i = 1; i <= cluster->node_count; i++)
        cluster->nodes[i].destage_wanted = true;
    for (int i = 0; !all && i < 20000; i++) {
        run_for(cluster, STEP_NS);
        all = true;
        for (unsigned number = 1; number <= cluster->node_count; number++)
            all = all && !cluster->nodes[number].destage_wanted;
    }
    check(cluster, all);
}

/* Returns how many rotten blocks it found. */
static uint64_t scrub(struct cluster *cluster)
{
    await_task(cluster, scrub_run);
    check(cluster, cluster->scrub.copies > 0);
    check(cluster, cluster->scrub.different == 0);
    check(cluster, cluster->scrub.unread == 0);
    return cluster->scrub.rotten;
}

void play_rot(struct cluster *cluster)
{
    unsigned before;

    run_for(cluster, 2 * SEC);
    cluster->clients_stop = true;
    while (cluster->clients_at_work > 0)
        run_for(cluster, STEP_NS);
    await_task(cluster, filler_run);
    destage(cluster);

    rot_everything(cluster);
    mark_rotten(cluster, true);
    await_task(cluster, checker_run);
    check(cluster, cluster->count.healed > 0);
    check(cluster, scrub(cluster) > 0); /* nobody reads parity */
    check(cluster, scrub(cluster) == 0);
    destage(cluster);

    before = cluster->count.rotten;
    rot_everything(cluster);
    check(cluster, scrub(cluster) == cluster->count.rotten - before);
    check(cluster, scrub(cluster) == 0);
    mark_rotten(cluster, false); /* from here on nothing is excused */
    check(cluster, cluster->count.lost == 0);
}
