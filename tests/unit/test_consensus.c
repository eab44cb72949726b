/* The replicated database on three simulated machines: real bus, real Raft, the key-value store's
 * twin in memory. Machines crash and come back; what was acknowledged is there, once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "s2d/base/co.h"
#include "s2d/base/sim.h"
#include "s2d/cluster/consensus.h"
#include "tests/unit/kv_contents.h"

#define NODES 3
#define PORT 7800
#define LOG_BYTES_MAX (4 * MIB)

struct machine {
    struct world *world;
    uint64_t id;
    struct kv_disk *disk;
    struct kv *kv;
    struct bus *bus;
    struct consensus *consensus;
    struct co_cond stop;
    bool stopping, up;
    uint64_t starts;
    int opens; /* what co_consensus_open() is to return */
};

struct world {
    struct sim *sim;
    struct machine machines[NODES + 1]; /* from 1 */
};

static void stop_machine(void *arg)
{
    struct machine *machine = arg;

    machine->stopping = true;
    co_cond_broadcast(&machine->stop);
}

static void open_all(struct machine *machine, struct io *io)
{
    static const uint8_t key[BUS_KEY_BYTES] = "a key that all of them know....";
    char listen[64], address[64];
    struct bus_options bus = {.node = machine->id,
                              .start_counter = machine->starts,
                              .key = key,
                              .key_bytes = sizeof(key),
                              .cluster = "one cluster....",
                              .listen = listen};
    struct consensus_options options = {
        .node = machine->id, .start_counter = machine->starts, .log_bytes_max = LOG_BYTES_MAX};

    snprintf(listen, sizeof(listen), "10.83.0.%u:%d", (unsigned)machine->id, PORT);
    assert_int_equal(bus_new(io, &bus, &machine->bus), 0);
    for (uint64_t peer = 1; peer <= NODES; peer++) {
        snprintf(address, sizeof(address), "10.83.0.%u:%d", (unsigned)peer, PORT);
        if (peer != machine->id)
            assert_int_equal(bus_add_peer(machine->bus, peer, address), 0);
    }
    assert_int_equal(kv_memory_open(machine->disk, &machine->kv), 0);
    if (machine->starts == 1 && machine->id == 1)
        assert_int_equal(consensus_bootstrap(machine->kv, 1), 0);
    options.bus = machine->bus;
    options.kv = machine->kv;
    assert_int_equal(co_consensus_open(io, &options, &machine->consensus), machine->opens);
}

/* Node 1 makes the others members, one after the other, as failover.c does. */
static void keep_members(struct machine *machine)
{
    struct raft_status status;

    if (!consensus_leads(machine->consensus))
        return;
    raft_status(consensus_raft(machine->consensus), &status);
    for (uint64_t id = 1; id <= NODES; id++) {
        enum raft_member_role role = raft_configuration_role(&status.configuration, id);

        if (role != RAFT_VOTER) {
            int r = consensus_change(machine->consensus, id,
                                     role == RAFT_NO_MEMBER ? RAFT_LEARNER : RAFT_VOTER);

            (void)r; /* next time */
            return;
        }
    }
}

static void machine_main(struct io *io, void *arg)
{
    struct machine *machine = arg;

    machine->starts++;
    machine->stopping = false;
    co_cond_init(&machine->stop);
    sim_on_crash(machine->world->sim, (unsigned)machine->id, stop_machine, machine);
    open_all(machine, io);
    machine->up = true;
    while (!machine->stopping && machine->consensus) {
        keep_members(machine);
        if (co_cond_wait_until(&machine->stop, io_now_ns(io) + 100 * MS) == -ECANCELED)
            break;
    }
    machine->up = false;
    co_consensus_close(take_ptr(machine->consensus));
    co_bus_close(take_ptr(machine->bus));
    kv_close(take_ptr(machine->kv));
}

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    struct sim_options options = sim_default_options(7);

    assert_int_equal(sim_new(&options, &world->sim), 0);
    for (unsigned id = 1; id <= NODES; id++) {
        world->machines[id].world = world;
        world->machines[id].id = id;
        assert_int_equal(kv_disk_new(&world->machines[id].disk), 0);
    }
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;

    sim_free(world->sim);
    for (unsigned id = 1; id <= NODES; id++)
        kv_disk_free(world->machines[id].disk);
    free(world);
    return 0;
}

static void start(struct world *world, unsigned id)
{
    assert_int_equal(sim_start(world->sim, id, machine_main, &world->machines[id]), 0);
}

static void run_for(struct world *world, uint64_t duration_ns)
{
    sim_run(world->sim, sim_now_ns(world->sim) + duration_ns, NULL, NULL);
}

/* ---- proposing from a test ---- */

struct asking {
    struct machine *machine;
    json_t *command;
    uint64_t term; /* to be proposed in it only; 0: any */
    struct command_result result;
    bool done;
};

static void ask_main(void *arg)
{
    struct asking *asking = arg;

    co_consensus_propose_in(asking->machine->consensus, asking->term, asking->command, 20 * SEC,
                            &asking->result);
    json_decref(asking->command);
    asking->done = true;
}

static void ask(struct world *world, unsigned id, json_t *command, struct asking *ret_asking)
{
    *ret_asking = (struct asking){.machine = &world->machines[id], .command = command};
    assert_non_null(command);
    assert_int_equal(co_spawn(sim_io(world->sim, id), "ask", ask_main, ret_asking), 0);
}

static bool is_done(void *arg)
{
    return ((struct asking *)arg)->done;
}

static int ask_and_wait(struct world *world, unsigned id, json_t *command)
{
    struct asking asking;

    ask(world, id, command, &asking);
    assert_true(sim_run(world->sim, sim_now_ns(world->sim) + 60 * SEC, is_done, &asking));
    command_result_done(&asking.result);
    return asking.result.code;
}

static json_t *create_command(void)
{
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "verb", "cluster.create", "name", "test", "uuid",
                     "u", "key", "k", "node_name", "node1", "address", "10.83.0.1:7800");
}

static json_t *event_command(unsigned number)
{
    char text[32];

    snprintf(text, sizeof(text), "event %u", number);
    return json_pack("{s:s,s:s,s:s,s:s,s:s}", "verb", "event.add", "severity", "information",
                     "code", "test", "subject", "s", "text", text);
}

static unsigned count_event(const struct machine *machine, unsigned number)
{
    const struct event_record *event;
    unsigned found = 0;
    char text[32];

    snprintf(text, sizeof(text), "event %u", number);
    for (size_t i = 0;
         (event = database_at(consensus_database(machine->consensus), TABLE_EVENT, i)); i++)
        found += strcmp(event->text, text) == 0;
    return found;
}

static unsigned leader_of(const struct world *world)
{
    for (unsigned id = 1; id <= NODES; id++) {
        if (world->machines[id].up && consensus_leads(world->machines[id].consensus))
            return id;
    }
    return 0;
}

static void start_cluster(struct world *world)
{
    for (unsigned id = 1; id <= NODES; id++)
        start(world, id);
    run_for(world, 3 * SEC);
    assert_int_equal(ask_and_wait(world, 1, create_command()), 0);
    run_for(world, 3 * SEC);
}

/* Who proposed also sees, wherever it proposed; the others see soon. */
static void a_command_from_any_node_is_applied_on_all(void **state)
{
    struct world *world = *state;

    start_cluster(world);
    for (unsigned id = 1; id <= NODES; id++) {
        assert_int_equal(ask_and_wait(world, id, event_command(id)), 0);
        assert_int_equal(count_event(&world->machines[id], id), 1);
    }
    run_for(world, SEC);
    for (unsigned id = 1; id <= NODES; id++) {
        for (unsigned number = 1; number <= NODES; number++)
            assert_int_equal(count_event(&world->machines[id], number), 1);
    }
}

/* A refusal is an answer, with its reason; it is not tried again. */
static void a_refused_command_says_why(void **state)
{
    struct world *world = *state;

    start_cluster(world);
    assert_int_equal(ask_and_wait(world, 2, create_command()), -EEXIST);
}

/* The leader dies again and again under proposals from another node: each of them is in the
 * database exactly once when it was acknowledged, and at most once when it was not. */
static void proposals_survive_leaders(void **state)
{
    struct world *world = *state;

    start_cluster(world);
    for (unsigned round = 0; round < 8; round++) {
        unsigned leader = leader_of(world), proposer;
        struct asking asking;
        unsigned number = 100 + round;

        assert_int_not_equal(leader, 0);
        proposer = leader % NODES + 1;
        ask(world, proposer, event_command(number), &asking);
        run_for(world, round * 30 * US); /* the crash comes at another step each time */
        sim_crash(world->sim, leader, round % 2 ? SIM_HOST_DIES : SIM_PROCESS_DIES);
        assert_true(sim_run(world->sim, sim_now_ns(world->sim) + 60 * SEC, is_done, &asking));
        command_result_done(&asking.result);
        assert_int_equal(asking.result.code, 0);
        assert_int_equal(count_event(&world->machines[proposer], number), 1);
        start(world, leader);
        run_for(world, 5 * SEC);
        for (unsigned id = 1; id <= NODES; id++)
            assert_int_equal(count_event(&world->machines[id], number), 1);
    }
}

/* All power lost: what was acknowledged is read from the store again. */
static void the_database_survives_all_power_lost(void **state)
{
    struct world *world = *state;

    start_cluster(world);
    for (unsigned number = 1; number <= 20; number++)
        assert_int_equal(ask_and_wait(world, number % NODES + 1, event_command(number)), 0);
    for (unsigned id = 1; id <= NODES; id++)
        sim_crash(world->sim, id, SIM_HOST_DIES);
    for (unsigned id = 1; id <= NODES; id++)
        start(world, id);
    run_for(world, 5 * SEC);
    for (unsigned id = 1; id <= NODES; id++) {
        for (unsigned number = 1; number <= 20; number++)
            assert_int_equal(count_event(&world->machines[id], number), 1);
    }
}

struct damage {
    const char *key;
    const char *value; /* NULL: it is gone */
    size_t bytes;
};

/* Writes to the store of a node that is down. Returns what undoes it. */
static struct kv_batch damage_store(struct kv_disk *disk, const struct damage *damage)
{
    struct kv_batch before, change;
    struct kv *kv;

    kv_batch_init(&before);
    kv_batch_init(&change);
    assert_int_equal(kv_memory_open(disk, &kv), 0);
    kv_delete_range(&before, "a", "z");
    assert_int_equal(kv_contents(kv, "", &before), 0);
    if (damage->value)
        kv_put(&change, damage->key, damage->value, damage->bytes);
    else
        kv_delete(&change, damage->key);
    assert_int_equal(kv_write(kv, &change), 0);
    kv_batch_done(&change);
    kv_close(kv);
    return before;
}

static void undo(struct kv_disk *disk, struct kv_batch *before)
{
    struct kv *kv;

    assert_int_equal(kv_memory_open(disk, &kv), 0);
    assert_int_equal(kv_write(kv, before), 0);
    kv_batch_done(before);
    kv_close(kv);
}

/* What no version writes is refused, and not made the best of: a store without the index applied
 * would have its commands run again over what they have done. */
static void a_damaged_store_is_refused(void **state)
{
#define BYTES(text) text, sizeof(text) - 1
    static const struct damage damages[] = {
        {"state/applied", NULL, 0},
        {"state/applied", BYTES("\1\0\0")},
        {"raft/hard", NULL, 0},
        {"raft/hard", BYTES("\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0"
                            "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")},
        {"raft/base", NULL, 0},
        {"raft/base", BYTES("\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0")},
        {"raft/log/0000000000000002", NULL, 0},
        {"raft/log/0000000000000003", BYTES("\1\0\0\0\0\0\0\0")},
        {"raft/log/0000000000000003x", BYTES("\1\0\0\0\0\0\0\0\3")},
        {"raft/log/1", BYTES("\1\0\0\0\0\0\0\0\3")},
        {"db/event/1", BYTES("{}")},
    };
    struct world *world = *state;
    struct machine *machine = &world->machines[1];

    start_cluster(world);
    assert_int_equal(ask_and_wait(world, 1, event_command(1)), 0);
    run_for(world, 3 * SEC);
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        struct kv_batch before;

        sim_crash(world->sim, 1, SIM_PROCESS_DIES);
        before = damage_store(machine->disk, &damages[i]);
        machine->opens = -EBADMSG;
        start(world, 1);
        run_for(world, SEC);
        sim_crash(world->sim, 1, SIM_PROCESS_DIES);
        undo(machine->disk, &before);
        machine->opens = 0;
        start(world, 1);
        run_for(world, SEC);
        assert_int_equal(count_event(machine, 1), 1);
    }
}

#define MANY 6000 /* more than the log keeps behind a compaction */

/* A node that was away for longer than the log reaches back gets the database whole. */
static void a_late_node_is_sent_a_snapshot(void **state)
{
    struct world *world = *state;
    struct raft_status status;

    start_cluster(world);
    sim_crash(world->sim, 3, SIM_PROCESS_DIES);
    for (unsigned number = 0; number < MANY; number++)
        assert_int_equal(ask_and_wait(world, 1, event_command(number)), 0);
    raft_status(consensus_raft(world->machines[1].consensus), &status);
    assert_true(status.base_index > 100);
    start(world, 3);
    run_for(world, 20 * SEC);
    assert_int_equal(count_event(&world->machines[3], MANY - 1), 1);
    assert_int_equal(ask_and_wait(world, 3, event_command(MANY)), 0);
    assert_int_equal(database_count(consensus_database(world->machines[3].consensus), TABLE_EVENT),
                     database_count(consensus_database(world->machines[1].consensus), TABLE_EVENT));
}

/* A command of 64 KiB; what the verb does not know is carried along. */
static json_t *large_command(unsigned number)
{
    json_t *command = event_command(number);
    char *text = calloc(1, 64 * KIB + 1);

    assert_non_null(text);
    memset(text, 'x', 64 * KIB);
    assert_int_equal(json_object_set_new(command, "padding", json_string(text)), 0);
    free(text);
    return command;
}

/* A log of few large commands is cut as well, or it would take no more one day, for ever. */
static void large_commands_do_not_fill_the_log(void **state)
{
    struct world *world = *state;
    struct raft_status status;

    start_cluster(world);
    for (unsigned number = 0; number < 3 * LOG_BYTES_MAX / (64 * KIB); number++)
        assert_int_equal(ask_and_wait(world, 1, large_command(number)), 0);
    raft_status(consensus_raft(world->machines[1].consensus), &status);
    assert_true(status.log_bytes < LOG_BYTES_MAX);
}

static bool is_sent_a_snapshot(void *arg)
{
    struct raft_peer_status peer;
    struct world *world = arg;

    return raft_peer_status(consensus_raft(world->machines[1].consensus), 3, &peer) == 0 &&
           peer.snapshot;
}

/* The log was cut behind a snapshot that was being sent, when it grew too large: the one who waits
 * for it is sent another. */
static void a_snapshot_older_than_the_log_is_begun_anew(void **state)
{
    struct world *world = *state;

    start_cluster(world);
    assert_int_equal(leader_of(world), 1);
    sim_crash(world->sim, 3, SIM_PROCESS_DIES);
    for (unsigned number = 0; number < MANY; number++)
        assert_int_equal(ask_and_wait(world, 1, event_command(number)), 0);
    start(world, 3);
    assert_true(sim_run(world->sim, sim_now_ns(world->sim) + 20 * SEC, is_sent_a_snapshot, world));
    sim_crash(world->sim, 3, SIM_PROCESS_DIES);
    for (unsigned number = 0; number < 2 * LOG_BYTES_MAX / (64 * KIB); number++)
        assert_int_equal(ask_and_wait(world, 1, large_command(MANY + number)), 0);
    assert_true(is_sent_a_snapshot(world));
    start(world, 3);
    run_for(world, 20 * SEC);
    assert_int_equal(count_event(&world->machines[3], MANY), 1);
}

/* Without a quorum nothing is acknowledged, and the answer says so in time. */
static void no_quorum_is_an_answer(void **state)
{
    struct world *world = *state;

    start_cluster(world);
    sim_crash(world->sim, 2, SIM_HOST_DIES);
    sim_crash(world->sim, 3, SIM_HOST_DIES);
    run_for(world, 5 * SEC);
    assert_int_equal(ask_and_wait(world, 1, event_command(1)), -EHOSTUNREACH);
    assert_int_equal(count_event(&world->machines[1], 1), 0);
}

/* While applied state is being written by itself, half a second after the last command, the next
 * command comes: its batch waits for that write, and is not forgotten with it. */
static void a_command_during_a_flush_is_written(void **state)
{
    struct world *world = *state;
    struct asking asking;

    start_cluster(world);
    for (unsigned step = 0; step < 60; step++) {
        unsigned leader = leader_of(world);

        assert_int_not_equal(leader, 0);
        assert_int_equal(ask_and_wait(world, leader, event_command(step)), 0);
        run_for(world, 490 * MS + step * 250 * US);
        ask(world, leader, event_command(100 + step), &asking);
        assert_true(sim_run(world->sim, sim_now_ns(world->sim) + 200 * MS, is_done, &asking));
        assert_int_equal(asking.result.code, 0);
        command_result_done(&asking.result);
    }
}

static uint64_t term_of(struct machine *machine)
{
    struct raft_status status;

    raft_status(consensus_raft(machine->consensus), &status);
    return status.role.term;
}

/* What a leader decided under the leases that it grants is not said by its successor, who may have
 * granted others: the command is done in that term, or never (I5). */
static void a_leaders_word_is_good_in_its_term(void **state)
{
    struct world *world = *state;
    struct asking asking;
    unsigned leader, number = 1;

    start_cluster(world);
    for (unsigned round = 0; round < 6; round++, number++) {
        leader = leader_of(world);
        assert_int_not_equal(leader, 0);
        ask(world, leader, event_command(number), &asking);
        asking.term = term_of(&world->machines[leader]);
        if (round > 0) { /* it is cut off at another step each time, and another leads */
            run_for(world, (round - 1) * 300 * US);
            for (unsigned id = 1; id <= NODES; id++) {
                sim_cut(world->sim, leader, id);
                sim_cut(world->sim, id, leader);
            }
            run_for(world, 5 * SEC);
            sim_heal_all(world->sim);
        }
        assert_true(sim_run(world->sim, sim_now_ns(world->sim) + 60 * SEC, is_done, &asking));
        command_result_done(&asking.result);
        run_for(world, 3 * SEC);
        assert_true(asking.result.code == 0 || asking.result.code == -ESTALE);
        for (unsigned id = 1; id <= NODES; id++)
            assert_int_equal(count_event(&world->machines[id], number), asking.result.code == 0);
    }
    leader = leader_of(world);
    ask(world, leader, event_command(number), &asking);
    asking.term = term_of(&world->machines[leader]) - 1;
    assert_true(sim_run(world->sim, sim_now_ns(world->sim) + 60 * SEC, is_done, &asking));
    assert_int_equal(asking.result.code, -ESTALE);
    command_result_done(&asking.result);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_command_from_any_node_is_applied_on_all),
        TEST(a_refused_command_says_why),
        TEST(proposals_survive_leaders),
        TEST(the_database_survives_all_power_lost),
        TEST(a_damaged_store_is_refused),
        TEST(a_late_node_is_sent_a_snapshot),
        TEST(large_commands_do_not_fill_the_log),
        TEST(a_snapshot_older_than_the_log_is_begun_anew),
        TEST(no_quorum_is_an_answer),
        TEST(a_command_during_a_flush_is_written),
        TEST(a_leaders_word_is_good_in_its_term),
    };

    setenv("CMOCKA_TEST_ABORT", "1", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
