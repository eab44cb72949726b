/* A member that says anything about leases: heartbeats of processes that are not its own, answers
 * that nobody asked it for, reports that others are dead. Two honest nodes, a leader and one that
 * follows it, run the real bus, consensus and liveness in simulated time.
 *
 * Whatever it says: no lease is longer than one may be, nobody who lives is given up, and both hold
 * their leases some time after it has fallen silent. When then the leader dies, the other loses its
 * lease in time, however often the liar says that it has one (I5).
 *
 * Input: a byte of choices; then messages, said again and again from the first to the last: to whom
 * and which (enum word), a pause, and four values (value_of()). */
#include <stdio.h>

#include "s2d/base/co.h"
#include "s2d/base/sim.h"
#include "s2d/bus/message_types.h"
#include "s2d/cluster/liveness.h"
#include "tests/unit/kv_contents.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MACHINES 3
enum machine_number { LEADER = 1, FOLLOWER = 2, LIAR = 3 };
enum choice { DECIDES_DOWN = 1 }; /* whom the leader gives up is to be declared down */
enum word { TO_FOLLOWER = 1, TYPE = 6, SHORT = 8 };
#define VALUES 4
#define MESSAGES_MAX 32

#define LIES_NS (2 * SEC)
#define HEALED_NS (4 * SEC) /* leases run out at most, and are got again */
#define DEAD_NS (7 * SEC)
#define STEP_NS (50 * MS)
#define SLACK_NS (10 * MS) /* a beat and its timer */

struct message {
    uint8_t word, pause;
    uint64_t values[VALUES];
    uint8_t relative; /* bits: of the values that count from the present heartbeat */
};

struct machine {
    struct world *world;
    unsigned number;
    struct io *io;
    struct kv_disk *disk;
    struct kv *kv;
    struct bus *bus;
    struct consensus *consensus;
    struct liveness *liveness;
    struct co_cond stop;
    bool stopping;
};

struct world {
    struct sim *sim;
    struct machine machines[MACHINES + 1];
    uint8_t choices;
    struct message messages[MESSAGES_MAX];
    size_t message_count;
    bool lies;
};

/* What the product wrote: the stores of leader and follower, and what they call each other. */
static struct kv_batch stores[MACHINES + 1];
static uint64_t ids[MACHINES + 1];

/* ---- an honest node, wired as in s2d/node/node.c ---- */

static void on_role(void *arg, const struct raft_role *role)
{
    struct machine *machine = arg;

    if (machine->liveness)
        liveness_role(machine->liveness, role);
}

static void on_refused(void *arg, uint64_t peer, unsigned times, uint64_t over_ns)
{
    struct machine *machine = arg;

    if (machine->liveness)
        liveness_refused(machine->liveness, peer, times, over_ns);
}

static void on_up(void *arg, uint64_t peer, enum bus_channel channel)
{
    struct machine *machine = arg;

    (void)channel;
    if (machine->liveness)
        liveness_connected(machine->liveness, peer);
}

static bool on_down(void *arg, uint64_t node, uint64_t start_counter, const char *reason)
{
    struct machine *machine = arg;

    (void)start_counter;
    assert(reason);
    assert(machine->number == LEADER);
    assert(node == ids[LIAR]); /* the others live, and answer */
    return machine->world->choices & DECIDES_DOWN;
}

static void open_bus(struct machine *machine)
{
    static const uint8_t key[BUS_KEY_BYTES] = {7};
    char address[IO_ADDRESS_MAX];
    struct bus_options options = {.node = ids[machine->number],
                                  .start_counter = 1,
                                  .key = key,
                                  .key_bytes = sizeof(key),
                                  .listen = address,
                                  .receive_bytes = MIB,
                                  .on_up = on_up,
                                  .on_refused = on_refused,
                                  .arg = machine};
    int r;

    snprintf(address, sizeof(address), "10.83.0.%u:7800", machine->number);
    r = bus_new(machine->io, &options, &machine->bus);
    assert(r == 0);
    for (unsigned peer = 1; peer <= MACHINES; peer++) {
        snprintf(address, sizeof(address), "10.83.0.%u:7800", peer);
        if (peer != machine->number && bus_add_peer(machine->bus, ids[peer], address) < 0)
            abort();
    }
}

static void co_open(struct machine *machine)
{
    struct consensus_options consensus = {.node = ids[machine->number],
                                          .start_counter = 1,
                                          .kv = machine->kv,
                                          .on_role = on_role,
                                          .arg = machine};
    struct liveness_options liveness = {
        .node = ids[machine->number], .start_counter = 1, .on_down = on_down, .arg = machine};
    int r;

    open_bus(machine);
    consensus.bus = liveness.bus = machine->bus;
    r = co_consensus_open(machine->io, &consensus, &machine->consensus);
    assert(r == 0);
    liveness.consensus = machine->consensus;
    r = liveness_new(machine->io, &liveness, &machine->liveness);
    assert(r == 0);
}

static void co_close(struct machine *machine)
{
    if (machine->liveness)
        liveness_give_up(machine->liveness);
    liveness_free(take_ptr(machine->liveness));
    co_consensus_close(take_ptr(machine->consensus));
    co_bus_close(take_ptr(machine->bus));
}

static void stop_machine(void *arg)
{
    struct machine *machine = arg;

    machine->stopping = true;
    co_cond_broadcast(&machine->stop);
}

static void begin(struct machine *machine, struct io *io)
{
    machine->io = io;
    co_cond_init(&machine->stop);
    sim_on_crash(machine->world->sim, machine->number, stop_machine, machine);
}

static void honest_main(struct io *io, void *arg)
{
    struct machine *machine = arg;

    begin(machine, io);
    co_open(machine);
    while (!machine->stopping && co_cond_wait(&machine->stop) == 0)
        continue;
    co_close(machine);
}

/* ---- the liar ---- */

static size_t bytes_of_type(unsigned type)
{
    static const size_t bytes[] = {16, 32, 16, 24}; /* heartbeat, answer, refused; no such type */

    return bytes[type];
}

static void say(struct machine *machine, const struct message *message)
{
    uint64_t beat = sim_now_ns(machine->world->sim) / LEASE_HEARTBEAT_NS, values[VALUES];
    unsigned type = (message->word & TYPE) / 2;
    struct bus_send send = {.to = ids[message->word & TO_FOLLOWER ? FOLLOWER : LEADER],
                            .channel = BUS_CONTROL,
                            .type = (uint16_t)(BUS_TYPE_LEASE + type),
                            .flags = BUS_CHECKSUM,
                            .header = values,
                            .header_bytes = (uint32_t)bytes_of_type(type)};

    for (unsigned i = 0; i < VALUES; i++)
        values[i] = message->values[i] + (message->relative & 1u << i ? beat : 0);
    if (message->word & SHORT)
        send.header_bytes -= 1;
    (void)!bus_send(machine->bus, &send); /* not connected yet: said again */
}

/* The leader grants nothing to a process that the database does not know. */
static void on_answer(void *arg, const struct bus_message *message)
{
    uint64_t values[VALUES];

    (void)arg;
    if (message->from != ids[LEADER])
        return;
    assert(message->header_bytes == sizeof(values));
    memcpy(values, message->header, sizeof(values));
    assert(values[1] == 1 && values[2] > 0 && values[2] <= LEASE_NS);
}

static void liar_main(struct io *io, void *arg)
{
    struct machine *machine = arg;
    struct world *world = machine->world;
    size_t next = 0;
    int r = 0;

    begin(machine, io);
    open_bus(machine);
    bus_handle(machine->bus, BUS_TYPE_LEASE + 1, on_answer, machine);
    while (!machine->stopping && r != -ECANCELED) {
        uint64_t pause_ns = 100 * MS;

        if (world->lies && world->message_count > 0) {
            const struct message *message = &world->messages[next++ % world->message_count];

            say(machine, message);
            pause_ns = (5 + message->pause % 64 * 5) * MS;
        }
        r = co_cond_wait_until(&machine->stop, io_now_ns(io) + pause_ns);
    }
    co_bus_close(take_ptr(machine->bus));
}

/* ---- the stores ---- */

static uint64_t co_command(struct machine *machine, json_t *command, const char *name)
{
    struct command_result result;
    uint64_t number;
    int r;

    assert(command);
    json_object_set_new(command, "time_ns", json_integer(SEC));
    r = co_consensus_propose(machine->consensus, command, SEC, &result);
    assert(r == 0);
    number = (uint64_t)json_integer_value(json_object_get(result.reply, name));
    json_decref(command);
    command_result_done(&result);
    return number;
}

static void co_join(struct machine *machine, unsigned number)
{
    static const char secret[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    char name[8], address[IO_ADDRESS_MAX];
    uint64_t token = co_command(machine,
                                json_pack("{s:s,s:s,s:I}", "verb", "token.create", "secret", secret,
                                          "expires_ns", (json_int_t)(10 * SEC)),
                                "token");

    snprintf(name, sizeof(name), "n%u", number);
    snprintf(address, sizeof(address), "10.83.0.%u:7800", number);
    ids[number] = co_command(machine,
                             json_pack("{s:s,s:I,s:s,s:s,s:I}", "verb", "node.join", "token",
                                       (json_int_t)token, "name", name, "address", address,
                                       "start_counter", (json_int_t)1),
                             "node");
    assert(ids[number] > 1);
}

static void founder_main(struct io *io, void *arg)
{
    struct machine *machine = arg;
    int r;

    begin(machine, io);
    r = consensus_bootstrap(machine->kv, ids[LEADER]);
    assert(r == 0);
    co_open(machine);
    r = co_sleep_ns(SEC);
    assert(r == 0);
    co_command(machine,
               json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:I}", "verb", "cluster.create", "name", "c",
                         "uuid", "00000000-0000-0000-0000-000000000001", "node_name", "n1",
                         "address", "10.83.0.1:7800", "start_counter", (json_int_t)1,
                         "vm_restart_delay_ms", (json_int_t)3000),
               "");
    co_join(machine, FOLLOWER);
    co_join(machine, LIAR);
    r = consensus_change(machine->consensus, ids[FOLLOWER], RAFT_LEARNER);
    assert(r == 0);
    while (!machine->stopping && co_cond_wait(&machine->stop) == 0)
        continue;
    co_close(machine);
}

static void start(struct world *world, unsigned number, void (*program)(struct io *io, void *arg))
{
    struct machine *machine = &world->machines[number];

    *machine = (struct machine){.world = world, .number = number, .disk = machine->disk};
    if (kv_memory_open(machine->disk, &machine->kv) < 0 ||
        sim_start(world->sim, number, program, machine) < 0)
        abort();
}

static void stop(struct world *world, unsigned number)
{
    if (sim_is_up(world->sim, number))
        sim_crash(world->sim, number, SIM_PROCESS_DIES);
    kv_close(take_ptr(world->machines[number].kv));
}

static void world_new(struct world *world, uint64_t seed)
{
    struct sim_options options = sim_default_options(seed);

    if (sim_new(&options, &world->sim) < 0)
        abort();
    for (unsigned i = 1; i <= MACHINES; i++)
        if (kv_disk_new(&world->machines[i].disk) < 0)
            abort();
}

static void world_free(struct world *world)
{
    for (unsigned i = 1; i <= MACHINES; i++)
        stop(world, i);
    sim_free(world->sim);
    for (unsigned i = 1; i <= MACHINES; i++)
        kv_disk_free(world->machines[i].disk);
}

static void write_stores(void)
{
    struct world world = {0};

    world_new(&world, 1);
    ids[LEADER] = 1;
    ids[FOLLOWER] = 1000; /* until the leader has said */
    ids[LIAR] = 1001;
    start(&world, LEADER, founder_main);
    sim_run(world.sim, 2 * SEC, NULL, NULL);
    stop(&world, LEADER);
    start(&world, LEADER, honest_main);
    start(&world, FOLLOWER, honest_main);
    sim_run(world.sim, 4 * SEC, NULL, NULL);
    for (unsigned i = LEADER; i <= FOLLOWER; i++) {
        int r;

        assert(liveness_lease_held(world.machines[i].liveness));
        kv_batch_init(&stores[i]);
        r = kv_contents(world.machines[i].kv, "", &stores[i]);
        assert(r == 0 && stores[i].count > 0);
    }
    world_free(&world);
}

/* ---- what is checked ---- */

static void check_lease(const struct machine *machine)
{
    uint64_t expires_ns;

    if (!machine->liveness)
        return;
    expires_ns = liveness_lease_expires_ns(machine->liveness);
    assert(expires_ns <= io_clock_ns(machine->io) + LEASE_NS);
}

static void pass(struct world *world, uint64_t until_ns)
{
    while (sim_now_ns(world->sim) < until_ns) {
        sim_run(world->sim, MIN(sim_now_ns(world->sim) + STEP_NS, until_ns), NULL, NULL);
        for (unsigned i = LEADER; i <= FOLLOWER; i++)
            check_lease(&world->machines[i]);
    }
}

static void run(struct world *world)
{
    for (unsigned i = LEADER; i <= FOLLOWER; i++) {
        int r;

        start(world, i, honest_main);
        r = kv_write(world->machines[i].kv, &stores[i]);
        assert(r == 0);
    }
    start(world, LIAR, liar_main);
    world->lies = true;
    pass(world, LIES_NS);
    world->lies = false;
    pass(world, LIES_NS + HEALED_NS);
    for (unsigned i = LEADER; i <= FOLLOWER; i++)
        assert(liveness_lease_held(world->machines[i].liveness));

    world->lies = true;
    stop(world, LEADER);
    pass(world, LIES_NS + HEALED_NS + LEASE_NS + SLACK_NS);
    assert(!liveness_lease_held(world->machines[FOLLOWER].liveness));
    pass(world, LIES_NS + DEAD_NS);
    assert(!liveness_lease_held(world->machines[FOLLOWER].liveness));
}

/* ---- the input ---- */

/* Small numbers, numbers near the limits, and the heartbeat that is under way. */
static uint64_t value_of(uint8_t code, bool *ret_relative)
{
    const uint64_t special[] = {
        UINT64_MAX,   UINT64_MAX / 4, LEASE_NS,      LEASE_NS + 1,
        LEASE_NS / 2, ids[LEADER],    ids[FOLLOWER], ids[LIAR],
    };

    *ret_relative = code >= 192;
    if (code >= 192)
        return (uint64_t)(code - 224);
    return code >= 128 ? special[code % ARRAY_SIZE(special)] : code;
}

static void read_messages(struct world *world, const uint8_t *data, size_t size)
{
    while (size >= 2 + VALUES && world->message_count < MESSAGES_MAX) {
        struct message *message = &world->messages[world->message_count++];

        message->word = data[0];
        message->pause = data[1];
        for (unsigned i = 0; i < VALUES; i++) {
            bool relative;

            message->values[i] = value_of(data[2 + i], &relative);
            message->relative |= (uint8_t)(relative << i);
        }
        data += 2 + VALUES;
        size -= 2 + VALUES;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world world = {0};

    if (size < 1)
        return 0;
    if (stores[LEADER].count == 0)
        write_stores();
    world.choices = data[0];
    read_messages(&world, data + 1, size - 1);
    world_new(&world, size);
    run(&world);
    world_free(&world);
    return 0;
}
