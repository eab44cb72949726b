/* raft_schedule: a cluster's bad quarter of a minute, out of one seed: loss, repetition, delay,
 * cuts, crashes that lose what was not durable, slow disks, compaction and snapshots, reads,
 * transfers, membership changes, with and without a witness. Then the faults stop, and it must get
 * going again. Every step is checked by the harness. */
#ifndef S2D_TESTS_UNIT_RAFT_SCHEDULE_H
#define S2D_TESTS_UNIT_RAFT_SCHEDULE_H

#include "tests/unit/raft_harness.h"

struct schedule_result {
    char violation[256]; /* empty: none */
    const char *kind;
    uint64_t steps;
    uint64_t committed;
    uint64_t terms;
    unsigned snapshots;
    unsigned reads;
    unsigned changes; /* proposed */
    unsigned vouched;
};

void schedule_run(uint64_t seed, unsigned mutation, bool trace, struct schedule_result *ret_result);

#endif
