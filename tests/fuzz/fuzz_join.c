/* How a node joins, with somebody in the middle who changes what is said: a member and a node that
 * wants to be one, both the whole node in simulated time, and between them a stranger with a token,
 * who takes the request, hands it on changed, and answers with the changed reply. At last the
 * joiner's record of who it is is changed too (a damaged store), and both start again.
 *
 * Whatever is said: the member goes on, with a database that is sound, and starts again; the joiner
 * is a member, or told why not; on what it wrote down it starts, or says that it is damaged.
 *
 * Input: changes, each an enum part, the number of a field, an enum value, a length, and so many
 * bytes. */
#include <stdio.h>

#include "s2d/base/co.h"
#include "s2d/base/sim.h"
#include "s2d/bus/bus.h"
#include "s2d/bus/message_types.h"
#include "s2d/cluster/consensus.h"
#include "s2d/cluster/kv.h"
#include "s2d/cluster/liveness.h"
#include "s2d/node/node.h"
#include "tests/unit/kv_contents.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum machine_number { MEMBER = 1, JOINER = 2, MIDDLE = 3, MACHINES = 3 };
enum part { REQUEST, REPLY, IDENTITY, TOKEN, PARTS };
enum value { GONE, NUMBER, TEXT, JSON, RAW /* in the place of the whole */, VALUES };
#define TYPE_JOIN (BUS_TYPE_NODE + 0)
#define IDENTITY_KEY "node/identity"
#define MIDDLE_ADDRESS "10.83.0.3:7800"
#define MEMBER_ADDRESS "10.83.0.1:7800"
#define REPLY_MAX (16 * 1024)
#define TEXT_MAX (REPLY_MAX + 4096)
#define LIMIT_NS (200 * SEC)
#define LIFE_NS (3 * SEC)

static const char *const fields[] = {"name", "address", "start_counter", "node",
                                     "key",  "cluster", "peers",         "message"};

struct machine {
    struct world *world;
    unsigned number;
    struct io *io;
    struct kv_disk *disk;
    struct node *node;
    int started; /* of co_node_start() */
    bool fatal, stopping, up;
    struct co_cond stop;
};

struct world {
    struct sim *sim;
    struct machine machines[MACHINES + 1];
    const uint8_t *data;
    size_t size;
    char token[TOKEN_TEXT_MAX];
    uint8_t secret[BUS_KEY_BYTES], key_id[BUS_KEY_ID_BYTES];
    struct bus *bus; /* of the middle */
    struct co_group group;
    bool joined;     /* or was told why not */
    bool voter_gone; /* it was a member, and may not be one any more */
};

/* What the product wrote: the store of a node that has made a cluster. */
static struct kv_batch store;

/* ---- changes ---- */

static json_t *value_of(enum value kind, const uint8_t *bytes, size_t size)
{
    uint64_t number = 0;

    switch (kind) {
    case NUMBER:
        memcpy(&number, bytes, MIN(size, sizeof(number)));
        return json_integer((json_int_t)number);
    case TEXT:
        return json_stringn((const char *)bytes, size); /* NULL: no UTF-8 */
    case JSON:
        return json_loadb((const char *)bytes, size, JSON_DECODE_ANY, NULL);
    case GONE:
    case RAW:
    case VALUES:
        break;
    }
    return NULL;
}

/* text: what is really said. Returns what is said instead, for free(). */
static char *change(const struct world *world, enum part part, const char *text, size_t *length)
{
    const uint8_t *data = world->data;
    json_t *json = json_loadb(text, *length, 0, NULL);
    size_t size = world->size;
    char *changed = NULL;

    while (size >= 4) {
        size_t bytes = MIN((size_t)data[3], size - 4);
        const char *field = fields[data[1] % ARRAY_SIZE(fields)];
        enum value kind = data[2] % VALUES;

        if (data[0] % PARTS == part && kind == RAW) {
            json_decref(json);
            *length = bytes;
            return memcpy(malloc(bytes + 1), data + 4, bytes);
        }
        if (data[0] % PARTS == part && kind == GONE)
            json_object_del(json, field);
        else if (data[0] % PARTS == part)
            json_object_set_new(json, field, value_of(kind, data + 4, bytes));
        data += 4 + bytes;
        size -= 4 + bytes;
    }
    if (json)
        changed = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    if (!changed)
        changed = strndup(text, *length);
    *length = strlen(changed);
    return changed;
}

/* ---- nodes ---- */

static void stop_machine(void *arg)
{
    struct machine *machine = arg;

    machine->stopping = true;
    co_cond_broadcast(&machine->stop);
}

static void on_fatal(void *arg, const char *reason)
{
    struct machine *machine = arg;

    assert(reason && machine->number == JOINER); /* the member never stops for it */
    machine->fatal = true;
}

static void co_start(struct machine *machine, struct io *io, struct kv **ret_kv)
{
    char name[16], listen[32];
    struct node_options options = {
        .name = name, .listen = listen, .folder = "/s2d", .on_fatal = on_fatal, .arg = machine};

    snprintf(name, sizeof(name), "n%u", machine->number);
    snprintf(listen, sizeof(listen), "10.83.0.%u:7800", machine->number);
    machine->io = io;
    co_cond_init(&machine->stop);
    sim_on_crash(machine->world->sim, machine->number, stop_machine, machine);
    if (kv_memory_open(machine->disk, ret_kv) < 0)
        abort();
    options.kv = *ret_kv;
    machine->started = co_node_start(io, &options, &machine->node);
    machine->up = true;
}

static void co_end(struct machine *machine, struct kv *kv)
{
    co_node_stop(take_ptr(machine->node), false);
    kv_close(kv);
    machine->up = false;
    io_stop(machine->io);
}

static void co_make_token(struct machine *machine)
{
    struct node_message message = {{0}};
    int r = co_node_make_token(machine->node, machine->world->token, &message);

    assert(r == 0);
}

static void co_live(struct machine *machine)
{
    while (!machine->stopping && co_cond_wait(&machine->stop) == 0)
        continue;
}

static void founder_main(struct io *io, void *arg)
{
    struct machine *machine = arg;
    struct node_message message = {{0}};
    struct kv *kv;
    int r;

    co_start(machine, io, &kv);
    assert(machine->started == 0);
    r = co_node_create_cluster(machine->node, "c", &message);
    assert(r == 0);
    (void)!co_sleep_ns(LIFE_NS); /* all is written */
    co_end(machine, kv);
}

static void member_main(struct io *io, void *arg)
{
    struct machine *machine = arg;
    struct kv *kv;

    co_start(machine, io, &kv);
    assert(machine->started == 0);
    (void)!co_sleep_ns(SEC);
    co_make_token(machine);
    co_live(machine);
    co_end(machine, kv);
}

static void joiner_main(struct io *io, void *arg)
{
    struct machine *machine = arg;
    struct world *world = machine->world;
    struct node_message message = {{0}};
    size_t length = strlen(world->token);
    char *token, *text = change(world, TOKEN, world->token, &length);
    struct kv *kv;
    int r;

    token = strndup(text, length);
    free(text);
    co_start(machine, io, &kv);
    assert(machine->started == 0 && token);
    r = co_node_join(machine->node, MIDDLE_ADDRESS, token, &message);
    assert(r <= 0);
    assert((r < 0) == (message.text[0] != 0)); /* why not */
    assert(r < 0 || node_is_member(machine->node));
    assert(node_id(machine->node) <= RAFT_NUMBER_MAX);
    assert(r == 0 || machine->fatal || r == -ETIMEDOUT || !node_is_member(machine->node));
    assert(memchr(message.text, 0, sizeof(message.text)));
    free(token);
    world->joined = true;
    world->voter_gone = r == 0;
    co_live(machine);
    co_end(machine, kv);
}

static void again_main(struct io *io, void *arg)
{
    struct machine *machine = arg;
    struct kv *kv;

    co_start(machine, io, &kv);
    assert(machine->started == 0 || machine->started == -EBADMSG);
    if (machine->started == 0) {
        assert(node_id(machine->node) <= RAFT_NUMBER_MAX);
        co_live(machine);
    }
    co_end(machine, kv);
}

/* ---- the middle ---- */

static int hex_digit(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* As the joiner does with a token that nobody changed. */
static void read_token(struct world *world)
{
    const char *dot = strchr(world->token, '.');
    uint64_t id = strtoull(world->token, NULL, 10);

    assert(dot && strlen(dot + 1) == 2 * sizeof(world->secret));
    for (size_t i = 0; i < sizeof(world->secret); i++)
        world->secret[i] = (uint8_t)(hex_digit(dot[1 + 2 * i]) << 4 | hex_digit(dot[2 + 2 * i]));
    memcpy(world->key_id, "token\0\0", 8);
    memcpy(world->key_id + 8, &id, 8);
}

static int find_key(void *arg, const uint8_t key_id[BUS_KEY_ID_BYTES],
                    uint8_t ret_key[BUS_KEY_BYTES])
{
    (void)key_id;
    memcpy(ret_key, ((struct world *)arg)->secret, BUS_KEY_BYTES);
    return 0;
}

struct asked {
    struct world *world;
    struct bus_message *message;
};

static void hand_on_main(void *arg)
{
    struct asked asked = *(struct asked *)arg;
    struct world *world = asked.world;
    struct bus_options options = {
        .start_counter = 1, .key = world->secret, .key_bytes = sizeof(world->secret)};
    struct bus_send send = {.type = TYPE_JOIN, .flags = BUS_CHECKSUM};
    char data[REPLY_MAX], *request, *said;
    struct bus_reply reply = {.data = data, .data_bytes = sizeof(data)};
    size_t length = asked.message->data_bytes;
    int r;

    free(arg);
    memcpy(options.key_id, world->key_id, sizeof(options.key_id));
    request = change(world, REQUEST, asked.message->data, &length);
    send.data = request;
    send.data_bytes = (uint32_t)length;
    r = co_bus_call_address(world->machines[MIDDLE].io, &options, MEMBER_ADDRESS, &send, 12 * SEC,
                            &reply);
    length = r == 0 ? reply.data_bytes : 0;
    said = change(world, REPLY, data, &length);
    send = (struct bus_send){.channel = BUS_CONTROL,
                             .flags = BUS_CHECKSUM,
                             .data = said,
                             .data_bytes = (uint32_t)length};
    r = bus_reply(world->bus, asked.message, r == 0 ? reply.result : r, &send);
    (void)r; /* it is gone */
    bus_message_release(asked.message);
    free(request);
    free(said);
}

static void on_join(void *arg, const struct bus_message *message)
{
    struct world *world = arg;
    struct asked *asked = malloc(sizeof(*asked));
    int r;

    assert(message->request != 0);
    *asked = (struct asked){world, bus_message_keep(message)};
    r = co_group_spawn(&world->group, world->machines[MIDDLE].io, "hand on", hand_on_main, asked);
    assert(r == 0);
}

static void middle_main(struct io *io, void *arg)
{
    struct machine *machine = arg;
    struct world *world = machine->world;
    static const uint8_t key[BUS_KEY_BYTES];
    struct bus_options options = {.node = 9,
                                  .start_counter = 1,
                                  .key = key,
                                  .key_bytes = sizeof(key),
                                  .listen = MIDDLE_ADDRESS,
                                  .receive_bytes = MIB,
                                  .find_key = find_key,
                                  .arg = world};
    int r;

    machine->io = io;
    co_cond_init(&machine->stop);
    co_group_init(&world->group);
    sim_on_crash(world->sim, MIDDLE, stop_machine, machine);
    r = bus_new(io, &options, &world->bus);
    assert(r == 0);
    bus_allow_guest(world->bus, TYPE_JOIN);
    bus_handle(world->bus, TYPE_JOIN, on_join, world);
    co_live(machine);
    co_group_wait(&world->group);
    co_bus_close(take_ptr(world->bus));
    io_stop(io);
}

/* ---- a world ---- */

static void start(struct world *world, unsigned number, void (*program)(struct io *io, void *arg))
{
    struct machine *machine = &world->machines[number];

    *machine = (struct machine){.world = world, .number = number, .disk = machine->disk};
    if (sim_start(world->sim, number, program, machine) < 0)
        abort();
}

static void pass(struct world *world, uint64_t duration_ns)
{
    sim_run(world->sim, sim_now_ns(world->sim) + duration_ns, NULL, NULL);
}

static void end(struct world *world, unsigned number)
{
    if (sim_is_up(world->sim, number))
        sim_crash(world->sim, number, SIM_PROCESS_DIES);
    assert(!world->machines[number].up);
}

static void world_new(struct world *world)
{
    struct sim_options options = sim_default_options(world->size);

    if (sim_new(&options, &world->sim) < 0)
        abort();
    for (unsigned i = 1; i <= MACHINES; i++)
        if (kv_disk_new(&world->machines[i].disk) < 0)
            abort();
}

static void world_free(struct world *world)
{
    for (unsigned i = 1; i <= MACHINES; i++)
        end(world, i);
    sim_free(world->sim);
    for (unsigned i = 1; i <= MACHINES; i++)
        kv_disk_free(world->machines[i].disk);
}

static void each_of(struct kv_disk *disk, const char *prefix, struct kv_batch *ret_batch)
{
    struct kv *kv;
    int r = kv_memory_open(disk, &kv);

    assert(r == 0);
    kv_batch_init(ret_batch);
    r = kv_contents(kv, prefix, ret_batch);
    assert(r == 0);
    kv_close(kv);
}

static void write_to(struct kv_disk *disk, struct kv_batch *batch)
{
    struct kv *kv;
    int r = kv_memory_open(disk, &kv);

    assert(r == 0);
    r = kv_write(kv, batch);
    assert(r == 0);
    kv_close(kv);
}

static void write_store(void)
{
    struct world world = {0};

    world_new(&world);
    start(&world, MEMBER, founder_main);
    pass(&world, 10 * SEC);
    each_of(world.machines[MEMBER].disk, "", &store);
    assert(store.count > 3);
    world_free(&world);
}

static void spoil_identity(struct world *world)
{
    struct kv_disk *disk = world->machines[JOINER].disk;
    struct kv_batch was, is;
    size_t length;
    char *text;

    each_of(disk, IDENTITY_KEY, &was);
    assert(was.count == 1);
    length = was.changes[0].bytes;
    text = change(world, IDENTITY, was.changes[0].value, &length);
    kv_batch_init(&is);
    kv_put(&is, IDENTITY_KEY, text, length);
    write_to(disk, &is);
    free(text);
    kv_batch_done(&is);
    kv_batch_done(&was);
}

static bool has_token(void *arg)
{
    return ((struct world *)arg)->token[0] != 0;
}

static bool has_joined(void *arg)
{
    return ((struct world *)arg)->joined;
}

/* A joiner that became one votes: it is missed. Whoever never came is not. */
static void check_member(struct world *world)
{
    struct node *node = world->machines[MEMBER].node;

    assert(world->voter_gone || liveness_lease_held(node_liveness(node)));
    assert(database_verify(node_database(node)) == 0);
}

static void run(struct world *world)
{
    bool reached;

    write_to(world->machines[MEMBER].disk, &store);
    start(world, MEMBER, member_main);
    reached = sim_run(world->sim, LIMIT_NS, has_token, world);
    assert(reached);
    read_token(world);
    start(world, MIDDLE, middle_main);
    start(world, JOINER, joiner_main);
    reached = sim_run(world->sim, LIMIT_NS, has_joined, world);
    assert(reached);
    pass(world, LIFE_NS);
    assert(liveness_lease_held(node_liveness(world->machines[MEMBER].node)));
    check_member(world);

    end(world, JOINER);
    spoil_identity(world);
    start(world, JOINER, again_main);
    pass(world, LIFE_NS);
    check_member(world);
    end(world, MEMBER);
    start(world, MEMBER, again_main);
    pass(world, LIFE_NS);
    assert(world->machines[MEMBER].started == 0);
    check_member(world);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world world = {.data = data, .size = size};

    if (store.count == 0)
        write_store();
    world_new(&world);
    run(&world);
    world_free(&world);
    return 0;
}
