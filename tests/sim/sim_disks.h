/* sim_disks: the simulated disks, seen from outside: which one a record of the database means,
 * where things lie on it, and what is on it when no daemon runs. */
#ifndef TESTS_SIM_DISKS_H
#define TESTS_SIM_DISKS_H

#include "pool/disk.h"
#include "tests/sim/sim_world.h"

/* The simulated disk of a disk record; NULL: no such record. ret_machine: may be NULL. */
struct machine_disk *machine_disk_of(struct world *world, const struct database *database,
                                     uint64_t disk, struct machine **ret_machine);

/* The superblock of a disk that was claimed. False: it has none that is valid. */
struct superblock;
bool superblock_of(const struct machine *machine, unsigned disk, struct superblock *ret_superblock);

/* Where things are on a disk that was claimed, from its superblock. False: it has none that is
 * valid. */
bool disk_geometry_of(const struct machine *machine, unsigned disk,
                      struct disk_geometry *ret_geometry);

/* Where the columns of all slabs are, copied out of a node's database. */
struct placed;
struct placed *placed_of(struct world *world, struct node *node);
void placed_free(struct placed *placed);

/* With all daemons stopped: opens every disk and its store, reads every in-sync column, and fails
 * the run unless all copies of a slab are the same (of a parity slab: any k columns of a row give
 * the others), match their checksums, and lie where the disk's extent table says. (Rot that
 * nobody has read yet may be left on the disk that rots.) */
void check_disks(struct world *world, struct placed *placed);

#endif
