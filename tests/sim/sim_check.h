/* sim_check: what must hold.
 *
 * After every step, of what can be seen from outside (some of the rest is asserted in the code that
 * runs, some only follows from the checks at the end: tests/README.md):
 *   I5  at most one node serves a vdisk: it has mounted it and holds its lease
 *   I3  nodes that show the same epoch of a vdisk show the same owner, session and column states;
 *       on a node epochs only rise; each slab has an in-sync column
 *   the database's own rules (database_check()), after every change of it on every node
 * At the end, see check_end(). A check that does not hold fails the run. */
#ifndef TESTS_SIM_CHECK_H
#define TESTS_SIM_CHECK_H

#include "tests/sim/sim_world.h"

struct invariants;
struct invariants *invariants_new(void);
void invariants_free(struct invariants *invariants);

void check_step(struct world *world);
/* The database of a machine's node has changed. */
void check_changes(struct machine *machine, const struct database_change *changes, size_t count);
/* A new life of a machine's node: its database may be behind what an earlier life had shown. */
void check_node_starts(struct machine *machine);

/* When faults have stopped: everything is up and healthy within HEAL_NS (or what is not was lost,
 * and is called so: sim_health.h; then the following is so of the volumes that were not) and
 * clients get their answers; every node reads every block and name, and the history is
 * linearizable; the file system has no problems and its accounts are exact; all nodes have the same
 * database, which accounts for every extent. Before that or after it all daemons stop in order, one
 * after the other, and start again: each comes to its end, and leaves no coroutine, buffer, timer
 * or file behind (the simulator and the pools assert it). Then, in a quiet moment, all are killed,
 * and the disks are opened once more: all in-sync copies of every slab are the same and match their
 * checksums, the disks' extent tables agree with the database. */
void check_end(struct world *world);

/* The vdisk of a volume that clients use; 0: not yet known. */
uint64_t world_vdisk(struct world *world, unsigned volume);

#endif
