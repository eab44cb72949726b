/* What the files of the faults share: sim_faults.c (plan and agenda), sim_machine_faults.c
 * (machines, clocks, network), sim_disk_faults.c (disks), sim_admin_faults.c (what administrators
 * do). */
#ifndef TESTS_SIM_FAULTS_PRIVATE_H
#define TESTS_SIM_FAULTS_PRIVATE_H

#include "tests/sim/sim_faults.h"

struct fault {
    unsigned index, kind;
    uint64_t at_ns, for_ns;          /* from the start of the faults */
    struct machine *machine, *other; /* two different ones, unless there is but one */
    uint64_t draw[3];                /* for what else is to be chosen */
    enum { FAULT_PLANNED, FAULT_ACTIVE, FAULT_OVER } state;
};

/* apply: returns false when it cannot happen now. mend: NULL: it needs none; may find its place in
 * any state, since others had their turn meanwhile. */
struct fault_kind {
    const char *name;
    unsigned weight;
    bool (*apply)(struct world *world, struct fault *fault);
    void (*mend)(struct world *world, struct fault *fault);
};

extern const struct fault_kind machine_faults[], disk_faults[], admin_faults[]; /* end: name NULL */

void start_if_down(struct machine *machine);
/* All nodes are up, and all columns of all slabs are in-sync, as every node says. */
bool all_in_sync(struct world *world);

/* sim_admin_faults.c: what remains to be done by an administrator. Returns true when nothing is. */
bool admin_tidy_up(struct world *world);

#endif
