#include "tests/unit/raft_schedule.h"

#include <stdio.h>

#define ACTIONS 100

static const struct kind {
    const char *name;
    unsigned voters; /* ids 1 … */
    unsigned learners;
    unsigned nodes;
    uint64_t witness; /* id, in the configuration from the start; 0: none */
    bool changes;     /* the membership changes */
} kinds[] = {
    {"three voters", 3, 0, 3, 0, false},
    {"two voters and a witness", 2, 0, 3, 3, false},
    {"five voters", 5, 0, 5, 0, false},
    {"three voters, changes", 3, 0, 6, 0, true},
    {"two voters and a witness, changes", 2, 0, 5, 5, true},
    {"one voter, changes", 1, 0, 4, 0, true},
    {"four voters, changes", 4, 0, 5, 0, true},
    {"four voters and a witness", 4, 0, 5, 5, false},
    {"three voters and a learner", 3, 1, 4, 0, false},
};

struct schedule {
    struct harness *harness;
    const struct kind *kind;
    uint64_t value;
    unsigned changes;
};

static uint64_t draw(struct schedule *schedule, uint64_t below)
{
    return harness_random(schedule->harness, below);
}

static uint64_t any_node(struct schedule *schedule)
{
    return 1 + draw(schedule, schedule->kind->nodes);
}

/* Whoever thinks that it leads, a deposed leader too. */
static uint64_t any_leader(struct schedule *schedule)
{
    uint64_t first = any_node(schedule);

    for (unsigned i = 0; i < schedule->kind->nodes; i++) {
        uint64_t id = 1 + (first + i) % schedule->kind->nodes;
        const struct raft *raft = harness_raft(schedule->harness, id);

        if (raft && raft_leads(raft))
            return id;
    }
    return first;
}

static void new_faults(struct schedule *schedule)
{
    struct harness_faults *faults = harness_faults(schedule->harness);

    faults->loss_permille = draw(schedule, 3) == 0 ? (unsigned)draw(schedule, 300) : 0;
    faults->repeat_permille = draw(schedule, 3) == 0 ? (unsigned)draw(schedule, 300) : 0;
    faults->late_permille = draw(schedule, 3) == 0 ? (unsigned)draw(schedule, 300) : 5;
    faults->late_ns = draw(schedule, 2) == 0 ? 100 * MS : 3 * SEC;
    faults->delay_ns = draw(schedule, 2) == 0 ? 1 * MS : 50 * MS;
    faults->disk_ns = draw(schedule, 2) == 0 ? 1 * MS : 50 * MS;
    faults->slow_disk_permille = draw(schedule, 3) == 0 ? (unsigned)draw(schedule, 200) : 0;
    faults->slow_disk_ns = 3 * SEC;
    faults->snapshot_permille = 50;
}

static void calm_down(struct schedule *schedule)
{
    *harness_faults(schedule->harness) =
        (struct harness_faults){.delay_ns = 1 * MS, .disk_ns = 1 * MS};
    harness_heal(schedule->harness);
    for (unsigned id = 1; id <= schedule->kind->nodes; id++)
        harness_restart(schedule->harness, id);
}

static void propose_some(struct schedule *schedule)
{
    uint64_t id = any_leader(schedule), count = 1 + draw(schedule, 6);

    for (uint64_t i = 0; i < count; i++)
        (void)!harness_propose(schedule->harness, id, ++schedule->value, NULL);
}

static void cut_something(struct schedule *schedule)
{
    uint64_t a = any_node(schedule), b = any_node(schedule);
    uint64_t leader = harness_leader(schedule->harness);

    if (draw(schedule, 2) == 0)
        harness_isolate(schedule->harness, leader ? leader : a, true);
    else if (draw(schedule, 2) == 0)
        harness_isolate(schedule->harness, a, true);
    else
        harness_cut(schedule->harness, a, b, true);
}

static void crash_something(struct schedule *schedule)
{
    uint64_t leader = harness_leader(schedule->harness);
    uint64_t id = leader != 0 && draw(schedule, 3) == 0 ? leader : any_node(schedule);

    harness_crash(schedule->harness, id, draw(schedule, 2) == 0);
    if (draw(schedule, 2) == 0)
        return;
    for (unsigned other = 1; other <= schedule->kind->nodes; other++) /* the bus saw it die */
        if (harness_raft(schedule->harness, other))
            harness_peer_down(schedule->harness, other, id);
}

static void change_something(struct schedule *schedule)
{
    static const enum raft_member_role roles[] = {RAFT_NO_MEMBER, RAFT_VOTER, RAFT_LEARNER};
    uint64_t node = any_node(schedule);
    enum raft_member_role role = roles[draw(schedule, ARRAY_SIZE(roles))];

    if (!schedule->kind->changes)
        return;
    if (node == schedule->kind->witness)
        role = draw(schedule, 2) == 0 ? RAFT_WITNESS : RAFT_NO_MEMBER;
    if (harness_change(schedule->harness, any_leader(schedule), node, role) == 0)
        schedule->changes++;
}

static void act(struct schedule *schedule)
{
    struct harness *harness = schedule->harness;
    uint64_t dice = draw(schedule, 100);

    if (dice < 42)
        propose_some(schedule);
    else if (dice < 50)
        (void)!harness_read(harness, any_leader(schedule));
    else if (dice < 58)
        crash_something(schedule);
    else if (dice < 70)
        harness_restart(harness, any_node(schedule));
    else if (dice < 77)
        cut_something(schedule);
    else if (dice < 82)
        harness_heal(harness);
    else if (dice < 85)
        (void)!harness_transfer(harness, any_leader(schedule),
                                draw(schedule, 2) ? any_node(schedule) : 0);
    else if (dice < 95)
        change_something(schedule);
    else
        new_faults(schedule);
}

static bool has_leader(struct harness *harness, uint64_t arg)
{
    uint64_t leader = harness_leader(harness);

    (void)arg;
    return leader != 0 && raft_term_committed(harness_raft(harness, leader));
}

static bool takes_a_proposal(struct schedule *schedule)
{
    struct harness *harness = schedule->harness;
    uint64_t index = 0, value = ++schedule->value;

    if (harness_propose(harness, harness_leader(harness), value, &index) != 0) {
        harness_run(harness, SEC); /* a transfer may be under way */
        return false;
    }
    return harness_run_until(harness, 5 * SEC, harness_applied_everywhere, index) &&
           harness_value_at(harness, index) == value;
}

/* All nodes are up and the network is whole: then they must agree, and soon. The leader of the
 * moment may be deposed yet, with what it was given. */
static const char *expect_life(struct schedule *schedule)
{
    bool alive = false;

    for (unsigned attempt = 0; !alive && attempt < 4; attempt++) {
        if (!harness_run_until(schedule->harness, 10 * SEC, has_leader, 0))
            return "liveness: no leader";
        alive = takes_a_proposal(schedule);
    }
    if (!alive)
        return "liveness: a proposal is not applied everywhere";
    for (unsigned id = 1; id <= schedule->kind->nodes; id++)
        if (harness_lost_reports(schedule->harness, id) > 0)
            return "lost logs: an honest node is accused";
    return NULL;
}

static struct harness *make_harness(uint64_t seed, const struct kind *kind, unsigned mutation,
                                    bool trace)
{
    struct harness_options options = {
        .seed = seed,
        .nodes = kind->nodes,
        .witness = kind->witness,
        .mutation = mutation,
        .compact_every = seed / ARRAY_SIZE(kinds) % 2 == 0 ? 12 : 0,
        .message_entries = seed / ARRAY_SIZE(kinds) % 3, /* 0: many */
        .trace = trace,
    };
    int r = 0;

    for (unsigned id = 1; id <= kind->voters + kind->learners; id++)
        r |= raft_configuration_set(&options.configuration, id,
                                    id <= kind->voters ? RAFT_VOTER : RAFT_LEARNER);
    if (kind->witness != 0)
        r |= raft_configuration_set(&options.configuration, kind->witness, RAFT_WITNESS);
    assert(r == 0);
    return harness_new(&options);
}

void schedule_run(uint64_t seed, unsigned mutation, bool trace, struct schedule_result *ret_result)
{
    const struct kind *kind = &kinds[seed % ARRAY_SIZE(kinds)];
    cleanup(harness_freep) struct harness *harness = make_harness(seed, kind, mutation, trace);
    struct schedule schedule = {.harness = harness, .kind = kind};
    const char *violation;

    harness_run(harness, 2 * SEC);
    new_faults(&schedule);
    for (unsigned i = 0; i < ACTIONS && !harness_violation(harness); i++) {
        harness_run(harness, draw(&schedule, draw(&schedule, 4) == 0 ? 1 * SEC : 50 * MS));
        act(&schedule);
    }
    calm_down(&schedule);
    violation = expect_life(&schedule);
    if (harness_violation(harness))
        violation = harness_violation(harness);

    *ret_result = (struct schedule_result){
        .kind = kind->name,
        .steps = harness_steps(harness),
        .committed = harness_commit(harness),
        .terms =
            harness_leader(harness) ? harness_raft(harness, harness_leader(harness))->hard.term : 0,
        .snapshots = harness_snapshots_installed(harness),
        .reads = harness_reads_answered(harness),
        .changes = schedule.changes,
        .vouched = harness_messages(harness, RAFT_VOUCH),
    };
    snprintf(ret_result->violation, sizeof(ret_result->violation), "%s",
             violation ? violation : "");
}
