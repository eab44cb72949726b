/* raft_scenario: famous ways to lose what was committed, scripted. The right core comes through;
 * one with the mistake planted (enum raft_mutation) must not. Each reports what was violated. */
#ifndef S2D_TESTS_UNIT_RAFT_SCENARIO_H
#define S2D_TESTS_UNIT_RAFT_SCENARIO_H

#include "tests/unit/raft_harness.h"

struct scenario_result {
    char violation[256]; /* empty: none */
};

/* As libraft 0.15 did: a follower with a leftover suffix acknowledges its last
 * index. Mistakes: RAFT_ACK_LAST_STORED, RAFT_COMMIT_LAST_STORED. */
void scenario_raftbug(unsigned mutation, struct scenario_result *ret_result);
/* Figure 8 of the paper: an old term's entry is on a majority, and still undone. Mistake:
 * RAFT_COUNT_OLD_TERMS. */
void scenario_figure_8(unsigned mutation, struct scenario_result *ret_result);
/* Two leaders in turn change the membership, each on its own (Ongaro, raft-dev, July 2015).
 * Mistake: RAFT_CHANGE_EARLY. */
void scenario_two_changes(unsigned mutation, struct scenario_result *ret_result);

#endif
