#include "tests/unit/raft_scenario.h"

#include <stdio.h>

static struct harness *make(unsigned nodes, unsigned voters, unsigned mutation)
{
    struct harness_options options = {
        .seed = 11, .nodes = nodes, .mutation = mutation, .message_entries = 1};
    int r = 0;

    options.trace = getenv("RAFT_TRACE") != NULL;
    for (unsigned id = 1; id <= voters; id++)
        r |= raft_configuration_set(&options.configuration, id, RAFT_VOTER);
    assert(r == 0);
    return harness_new(&options);
}

static void report(struct harness *harness, bool played, struct scenario_result *ret_result)
{
    const char *violation = harness_violation(harness);

    if (!violation && !played)
        violation = "the scenario did not come about";
    snprintf(ret_result->violation, sizeof(ret_result->violation), "%s",
             violation ? violation : "");
}

static void propose(struct harness *harness, uint64_t id, uint64_t value, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        (void)!harness_propose(harness, id, value + i, NULL);
}

static void end_well(struct harness *harness, struct scenario_result *ret_result)
{
    uint64_t index = 0;
    int r;

    for (unsigned id = 1; id <= HARNESS_NODES_MAX; id++)
        harness_disk(harness, id, 0);
    harness_heal(harness);
    harness_run(harness, 5 * SEC);
    r = harness_propose(harness, harness_leader(harness), 300, &index);
    harness_run(harness, SEC);
    report(harness, r == 0 && harness_applied_everywhere(harness, index), ret_result);
}

void scenario_raftbug(unsigned mutation, struct scenario_result *ret_result)
{
    cleanup(harness_freep) struct harness *harness = make(3, 3, mutation);
    bool played = harness_elect(harness, 1);

    harness_run(harness, SEC);
    harness_isolate(harness, 1, true);
    propose(harness, 1, 100, 10);        /* they never leave node 1 */
    played &= harness_elect(harness, 2); /* with the vote of 3 */
    harness_isolate(harness, 3, true);
    propose(harness, 2, 200, 15);

    harness_cut_both(harness, 1, 2, false); /* 1 can be reached again, 3 cannot; 1's disk hangs */
    harness_disk(harness, 1, 900 * MS);
    harness_run(harness, 1000 * MS);
    harness_crash(harness, 2, false);
    harness_crash(harness, 1, false); /* what it was writing is gone too */
    harness_heal(harness);
    harness_restart(harness, 1);
    harness_run(harness, 4 * SEC);
    harness_restart(harness, 2);
    if (!played)
        report(harness, false, ret_result);
    else
        end_well(harness, ret_result);
}

void scenario_figure_8(unsigned mutation, struct scenario_result *ret_result)
{
    cleanup(harness_freep) struct harness *harness = make(5, 5, mutation);
    bool played = harness_elect(harness, 1);

    harness_run(harness, SEC);
    harness_isolate(harness, 1, true); /* (a) 1 writes an entry that reaches only 2 */
    harness_cut_both(harness, 1, 2, false);
    propose(harness, 1, 100, 1);
    harness_run(harness, 100 * MS);
    harness_crash(harness, 1, false);
    harness_isolate(harness, 2, true);
    harness_restart(harness, 1);
    harness_isolate(harness, 1, true);
    played &= harness_elect(harness, 5); /* (b) with 3 and 4; its entries reach nobody */
    harness_isolate(harness, 5, true);
    propose(harness, 5, 200, 1);
    harness_run(harness, 5 * MS);
    harness_crash(harness, 5, true);

    harness_heal(
        harness); /* (c) 1 leads again, with 2 and 3: its old entry reaches 3, its no-op does not */
    harness_cut_both(harness, 1, 4, true);
    harness_disk(harness, 3, 20 * MS);
    harness_disk(harness, 2, 20 * MS);
    played &= harness_elect(harness, 1);
    harness_run(harness, 30 * MS);
    harness_crash(harness, 1, false);
    harness_crash(harness, 2, false);
    harness_crash(harness, 3, false);
    harness_restart(harness, 3);
    harness_restart(harness, 2);
    harness_isolate(harness, 2, true);
    harness_restart(harness, 5); /* (d) 5 leads with 3 and 4, and undoes it */
    (void)!harness_elect(harness, 5);
    harness_run(harness, SEC);
    harness_restart(harness, 1);
    if (!played)
        report(harness, false, ret_result);
    else
        end_well(harness, ret_result);
}

void scenario_two_changes(unsigned mutation, struct scenario_result *ret_result)
{
    cleanup(harness_freep) struct harness *harness = make(5, 4, mutation);
    bool played = harness_elect(harness, 1);
    int r;

    harness_run(harness, SEC);
    harness_isolate(harness, 1, true); /* 1 adds 5, which nobody hears */
    played &= harness_change(harness, 1, 5, RAFT_VOTER) == 0;
    played &= harness_elect(harness, 2); /* with 3 and 4 … */
    harness_isolate(harness, 4, true);   /* … of whom only 3 hears any more */
    r = harness_change(harness, 2, 1,
                       RAFT_NO_MEMBER); /* three of four have to know the term first */
    if (mutation == RAFT_RIGHT)
        played &= r == -EAGAIN;
    harness_run(harness, 500 * MS); /* or 2 and 3 are a majority of 2, 3, 4 */

    harness_isolate(harness, 2, true);
    harness_isolate(harness, 3, true);
    harness_cut_both(harness, 1, 4, false); /* and 1, 4, 5 one of all five */
    harness_cut_both(harness, 1, 5, false);
    harness_cut_both(harness, 4, 5, false);
    (void)!harness_elect(harness, 1);
    harness_run(harness, 3 * SEC);
    if (!played)
        report(harness, false, ret_result);
    else
        end_well(harness, ret_result);
}
