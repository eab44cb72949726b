/* sim_health: whether all is well again after the last fault, and if not, whether the product says
 * why: in the words of `s2d cluster health` (s2d/node/health.h), asked of what it would be asked
 * of. */
#ifndef TESTS_SIM_HEALTH_H
#define TESTS_SIM_HEALTH_H

#include "tests/sim/sim_world.h"

/* Waits until all is well: nodes are up, columns in-sync where they belong, volumes served, disks
 * known for what they are. Where data may have been destroyed (world->exposed) it is enough that
 * the product calls each volume that is not well one that lost data (those are then world->lost),
 * or has no room for the last columns of a node that is gone (world->cramped). Everything else
 * fails the run: nodes that are no members, volumes that are not well and lost nothing, volumes
 * that lost data without a word. */
void health_wait(struct world *world);

/* What health_wait() found out. */
bool vdisk_is_lost(const struct world *world, uint64_t vdisk);
bool volume_is_lost(struct world *world, unsigned number); /* of the clients' volumes */

#endif
