/* Can the random schedules fail? Each mistake of enum raft_mutation is planted in the core (built
 * with S2D_RAFT_MUTATIONS), and some schedule must find it: as a violated property, or by one of
 * the core's own asserts.
 *
 *     test_raft_mutations               all
 *     test_raft_mutations NUMBER        that one, telling what found it */
#include "tests/unit/raft_scenario.h"
#include "tests/unit/raft_schedule.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SEEDS_MAX 4000

static const char *const names[RAFT_MUTATIONS] = {
    [RAFT_ACK_LAST_STORED] = "acknowledge the last stored index",
    [RAFT_COMMIT_LAST_STORED] = "commit up to the last stored index",
    [RAFT_COUNT_OLD_TERMS] = "count copies of earlier terms",
    [RAFT_COUNT_UNSYNCED] = "count the own copy before it is durable",
    [RAFT_FORGET_VOTE] = "vote before it is durable",
    [RAFT_VOTE_BLINDLY] = "vote without a look at the log",
    [RAFT_WITNESS_TIE_BREAK] = "witness: vote for whoever asks first",
    [RAFT_WITNESS_INDEX_ONLY] = "witness: compare the index only",
    [RAFT_WITNESS_VOLATILE] = "witness: vouch before it is durable",
    [RAFT_WITNESS_LOWER] = "witness: a late request lowers it",
    [RAFT_WITNESS_HEARTBEAT] = "witness: count its heartbeat",
    [RAFT_CHANGE_EARLY] = "change before the term is committed",
    [RAFT_CHANGE_OVERLAP] = "two changes at a time",
    [RAFT_READ_AT_ONCE] = "read without asking",
};

/* The scripted ways first: what needs five coincidences is rare by chance. */
static bool scenario_finds(unsigned mutation, struct scenario_result *ret_result)
{
    if (mutation == RAFT_ACK_LAST_STORED || mutation == RAFT_COMMIT_LAST_STORED)
        scenario_raftbug(mutation, ret_result);
    else if (mutation == RAFT_COUNT_OLD_TERMS)
        scenario_figure_8(mutation, ret_result);
    else if (mutation == RAFT_CHANGE_EARLY)
        scenario_two_changes(mutation, ret_result);
    else
        return false;
    return ret_result->violation[0] != 0;
}

/* What finds it, and how; false: nothing. */
static bool find(unsigned mutation, char *ret_text, size_t size)
{
    struct scenario_result scenario = {0};
    struct schedule_result result;

    if (scenario_finds(mutation, &scenario)) {
        snprintf(ret_text, size, "scenario: %s", scenario.violation);
        return true;
    }
    for (uint64_t seed = 1; seed <= SEEDS_MAX; seed++) {
        schedule_run(seed, mutation, false, &result);
        if (!result.violation[0])
            continue;
        snprintf(ret_text, size, "seed %" PRIu64 " (%s): %s", seed, result.kind, result.violation);
        return true;
    }
    return false;
}

/* In a process of its own: the core may well stop at an assert. */
static bool found(unsigned mutation)
{
    pid_t pid;
    int status;

    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char text[512];
        int nowhere = open("/dev/null", O_WRONLY);

        dup2(nowhere, STDERR_FILENO);
        _exit(find(mutation, text, sizeof(text)) ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) || WEXITSTATUS(status) == 0;
}

static void planted_mistakes_are_found(void **state)
{
    (void)state;
    for (unsigned mutation = 1; mutation < RAFT_MUTATIONS; mutation++)
        if (!found(mutation))
            fail_msg("nobody notices: %s", names[mutation]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(planted_mistakes_are_found)};
    char text[512] = "nobody notices";
    unsigned mutation;
    bool is_found;

    if (argc < 2)
        return cmocka_run_group_tests(tests, NULL, NULL);
    mutation = (unsigned)strtoul(argv[1], NULL, 0);
    if (mutation >= RAFT_MUTATIONS)
        return 2;
    is_found = find(mutation, text, sizeof(text));
    printf("%s: %s\n", names[mutation] ? names[mutation] : "nothing planted", text);
    return is_found ? 0 : 1;
}
