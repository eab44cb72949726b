#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/checksum.h"
#include "tests/unit/wire_world.h"

static const struct disk_uuid cluster = {{0x57, 0x49, 0x52, 0x45}};
static const uint8_t key[BUS_KEY_BYTES] = {0x5a};

/* ---- machines ---- */

static void on_up(void *arg, uint64_t peer, enum bus_channel channel)
{
    struct wire_machine *machine = arg;

    (void)channel;
    if (machine->client)
        store_client_peer_changed(machine->client, peer);
}

static void on_down(void *arg, uint64_t peer, enum bus_channel channel)
{
    struct wire_machine *machine = arg;

    (void)channel;
    if (machine->server)
        store_server_peer_down(machine->server, peer);
    if (machine->client)
        store_client_peer_changed(machine->client, peer);
}

static void address_of(unsigned number, char *text)
{
    snprintf(text, IO_ADDRESS_MAX, "10.83.0.%u:7800", number);
}

static int open_bus(struct wire_machine *machine)
{
    char address[IO_ADDRESS_MAX];
    struct bus_options options = {
        .node = machine->number,
        .start_counter = machine->start_counter,
        .key = key,
        .key_bytes = sizeof(key),
        .cluster = "wire",
        .listen = address,
        .metrics = machine->metrics,
        .on_up = on_up,
        .on_down = on_down,
        .arg = machine,
    };

    address_of(machine->number, address);
    return bus_new(machine->io, &options, &machine->bus);
}

void co_wire_open_disk(void *arg)
{
    struct wire_machine *machine = arg;
    struct store_options options = {.name = "wire", .page_cache_pages = 64};

    if (co_disk_open(machine->io, WIRE_PATH, &cluster, NULL, &machine->disk) < 0)
        return; /* the machine dies */
    if (co_store_open(machine->io, machine->disk, &options, &machine->store) < 0)
        return;
    assert_int_equal(store_server_add(machine->server, WIRE_DISK, machine->store), 0);
}

void co_wire_close_disk(void *arg)
{
    struct wire_machine *machine = arg;

    co_store_server_remove(machine->server, WIRE_DISK);
    co_store_close(take_ptr(machine->store));
    disk_close(take_ptr(machine->disk));
}

static void add_peers(struct wire_machine *machine)
{
    char address[IO_ADDRESS_MAX];

    for (unsigned i = 1; i <= WIRE_MACHINES; i++) {
        if (i == machine->number)
            continue;
        address_of(i, address);
        assert_int_equal(bus_add_peer(machine->bus, i, address), 0);
    }
}

static void crashed(void *arg)
{
    struct wire_machine *machine = arg;

    machine->stopping = true;
    co_cond_broadcast(&machine->stop);
}

static void machine_main(struct io *io, void *arg)
{
    struct wire_machine *machine = arg;

    machine->io = io;
    assert_int_equal(metrics_new(&machine->metrics), 0);
    assert_int_equal(buffer_pool_new("store", 16 * MIB, &machine->buffers), 0);
    assert_int_equal(open_bus(machine), 0);
    assert_int_equal(store_server_new(io, machine->bus, machine->buffers, &machine->server), 0);
    assert_int_equal(store_client_new(io, machine->bus, &machine->client), 0);
    if (machine->number == WIRE_SERVER)
        co_wire_open_disk(machine);
    add_peers(machine);
    machine->running = true;
    while (!machine->stopping && co_cond_wait(&machine->stop) == 0)
        ;
    machine->running = false;
    co_wire_close_disk(machine);
    co_store_client_free(take_ptr(machine->client));
    store_server_free(take_ptr(machine->server));
    co_bus_close(take_ptr(machine->bus));
    buffer_pool_free(take_ptr(machine->buffers));
    metrics_free(take_ptr(machine->metrics));
    if (!sim_is_dying(io))
        io_stop(io);
}

static bool is_running(void *arg)
{
    return ((struct wire_machine *)arg)->running;
}

void wire_start(struct wire *wire, unsigned number)
{
    struct wire_machine *machine = &wire->machines[number];

    machine->stopping = false;
    machine->start_counter++;
    co_cond_init(&machine->stop);
    assert_int_equal(sim_start(wire->sim, number, machine_main, machine), 0);
    sim_on_crash(wire->sim, number, crashed, machine);
    wire_until(wire, is_running, machine);
}

static bool is_down(void *arg)
{
    struct wire_machine *machine = arg;

    return !sim_is_up(machine->wire->sim, machine->number);
}

void wire_stop(struct wire *wire, unsigned number)
{
    crashed(&wire->machines[number]);
    wire_until(wire, is_down, &wire->machines[number]);
}

/* ---- the world ---- */

void wire_until(struct wire *wire, bool (*done)(void *arg), void *arg)
{
    if (!sim_run(wire->sim, sim_now_ns(wire->sim) + WIRE_LIMIT_NS, done, arg))
        fail_msg("it does not come");
}

void wire_pass(struct wire *wire, uint64_t duration_ns)
{
    sim_run(wire->sim, sim_now_ns(wire->sim) + duration_ns, NULL, NULL);
}

static bool pair_is_connected(void *arg)
{
    struct wire_machine **pair = arg;

    for (unsigned i = 0; i < 2; i++) {
        struct bus *bus = pair[i]->bus;
        unsigned other = pair[1 - i]->number;

        if (!bus_is_up(bus, other, BUS_CONTROL) || !bus_is_up(bus, other, BUS_DATA))
            return false;
    }
    return true;
}

void wire_connected(struct wire *wire, unsigned a, unsigned b)
{
    struct wire_machine *pair[2] = {&wire->machines[a], &wire->machines[b]};

    wire_until(wire, pair_is_connected, pair);
}

struct running {
    co_fn *fn;
    void *arg;
    bool done;
};

static void running_main(void *arg)
{
    struct running *running = arg;

    running->fn(running->arg);
    running->done = true;
}

static bool running_is_done(void *arg)
{
    return ((struct running *)arg)->done;
}

void wire_run(struct wire *wire, unsigned machine, co_fn *fn, void *arg)
{
    struct running running = {.fn = fn, .arg = arg};

    assert_int_equal(co_spawn(wire->machines[machine].io, "test", running_main, &running), 0);
    wire_until(wire, running_is_done, &running);
}

static void claim_main(struct io *io, void *arg)
{
    const struct wire *wire = arg;
    struct disk_claim claim = {
        .cluster = cluster,
        .disk_id = WIRE_DISK,
        .role = DISK_CAPACITY,
        .media = DISK_SSD,
        .extent_bytes = wire->options.extent_bytes,
        .log_bytes = wire->options.log_bytes,
    };

    assert_int_equal(co_disk_claim(io, WIRE_PATH, &claim, NULL), 0);
    io_stop(io);
}

void wire_new(struct wire *wire, const struct wire_options *options)
{
    struct sim_options sim_options = sim_default_options(options->seed);

    memset(wire, 0, sizeof(*wire));
    wire->options = *options;
    if (wire->options.extent_bytes == 0)
        wire->options.extent_bytes = MIB;
    if (wire->options.disk_bytes == 0)
        wire->options.disk_bytes = 96 * MIB;
    if (wire->options.log_bytes == 0)
        wire->options.log_bytes = 48 * MIB;
    assert_int_equal(sim_new(&sim_options, &wire->sim), 0);
    for (unsigned i = 1; i <= WIRE_MACHINES; i++) {
        wire->machines[i].wire = wire;
        wire->machines[i].number = i;
    }
    assert_int_equal(sim_disk_create(wire->sim, WIRE_SERVER, WIRE_PATH, wire->options.disk_bytes),
                     0);
    assert_int_equal(sim_start(wire->sim, WIRE_SERVER, claim_main, wire), 0);
    wire_until(wire, is_down, &wire->machines[WIRE_SERVER]);
    for (unsigned i = 1; i <= WIRE_MACHINES; i++)
        wire_start(wire, i);
    for (unsigned i = 2; i <= WIRE_MACHINES; i++)
        wire_connected(wire, WIRE_SERVER, i);
}

void wire_free(struct wire *wire)
{
    for (unsigned i = WIRE_MACHINES; i > 0; i--)
        if (sim_is_up(wire->sim, i))
            wire_stop(wire, i);
    sim_free(wire->sim);
}

struct column_store *wire_column(struct wire *wire, unsigned machine)
{
    struct column_store *column =
        store_client_column(wire->machines[machine].client, WIRE_SERVER, WIRE_DISK);

    assert_non_null(column);
    return column;
}

uint64_t wire_control_messages(struct wire *wire, unsigned machine)
{
    static const char name[] = "s2d_bus_messages_received_total{channel=\"control\"} ";
    cleanup(freep) char *text = NULL;
    const char *at;

    assert_int_equal(metrics_render(wire->machines[machine].metrics, &text), 0);
    at = strstr(text, name);
    assert_non_null(at);
    return strtoull(at + strlen(name), NULL, 10);
}

/* ---- an owner ---- */

void wire_owner_init(struct wire_owner *owner, struct wire *wire, unsigned machine, uint64_t epoch,
                     size_t writes_max)
{
    *owner = (struct wire_owner){.wire = wire,
                                 .machine = machine,
                                 .epoch = epoch,
                                 .session = epoch,
                                 .generation = 1,
                                 .write_room = writes_max};
    owner->writes = calloc(writes_max, sizeof(*owner->writes));
    assert_non_null(owner->writes);
    column_stream_init(&owner->stream, wire_column(wire, machine), WIRE_VDISK);
}

void wire_owner_done(struct wire_owner *owner)
{
    assert_int_equal(owner->pending, 0);
    for (size_t i = 0; i < owner->seq; i++) {
        free(owner->writes[i].data);
        free(owner->writes[i].sums);
    }
    free(owner->writes);
    store_seal_done(&owner->seal);
}

void co_wire_seal(void *arg)
{
    struct wire_owner *owner = arg;

    store_seal_done(&owner->seal);
    owner->seal = (struct store_seal){0};
    owner->seal_result = co_column_seal(&owner->stream, owner->epoch, owner->session, &owner->seal);
    owner->chain = owner->seal.durable.seq;
}

void wire_seal(struct wire_owner *owner)
{
    wire_run(owner->wire, owner->machine, co_wire_seal, owner);
    assert_int_equal(owner->seal_result, 0);
    assert_int_equal(owner->seal.sealed_epoch, owner->epoch);
    assert_int_equal(owner->seal.durable.session, owner->session);
}

void wire_fill(void *block, uint64_t stamp)
{
    uint64_t *words = block;

    for (size_t i = 0; i < BLOCK_SIZE / sizeof(*words); i++)
        words[i] = stamp == 0 ? 0 : stamp * 0x9e3779b97f4a7c15ull + i;
    if (stamp != 0)
        words[0] = stamp;
}

static uint64_t stamp_of(const void *block)
{
    uint8_t expected[BLOCK_SIZE];
    uint64_t stamp;

    memcpy(&stamp, block, sizeof(stamp));
    wire_fill(expected, stamp);
    return memcmp(expected, block, BLOCK_SIZE) == 0 ? stamp : UINT64_MAX;
}

static uint64_t address_in(const struct wire_owner *owner, uint32_t extent, uint32_t block)
{
    return extent * (owner->wire->options.extent_bytes / BLOCK_SIZE) + block;
}

/* The promise that every test looks at: results come in the order of the records, and only a
 * prefix succeeds. */
static void write_done(struct store_append *append, int result)
{
    struct wire_write *write = container_of(append, struct wire_write, append.store);
    struct wire_owner *owner = write->owner;
    uint64_t seq = append->record.position.seq;

    assert_false(write->done);
    assert_true(seq > owner->ended_seq);
    assert_true(result != 0 || owner->ended_seq == 0 ||
                owner->writes[owner->ended_seq - 1].result == 0);
    if (owner->counts && result == 0)
        assert_true(store_stats(owner->wire->machines[WIRE_SERVER].store).appended_records >=
                    owner->counted_before + seq);
    owner->ended_seq = seq;
    owner->pending--;
    write->done = true;
    write->result = result;
    free(take_ptr(write->data));
    if (owner->next_seq > 0 && owner->next_seq <= owner->seq)
        wire_send(&owner->writes[owner->next_seq++ - 1]);
}

static void make_data(struct wire_write *write)
{
    const struct record *record = &write->append.store.record;

    write->data = aligned_alloc(BLOCK_SIZE, (size_t)record->count * BLOCK_SIZE);
    if (!write->sums)
        write->sums = malloc(record->count * sizeof(*write->sums));
    assert_non_null(write->data);
    assert_non_null(write->sums);
    for (uint32_t i = 0; i < record->count; i++)
        wire_fill(write->data + (size_t)i * BLOCK_SIZE, write->stamp + i);
    checksum_blocks(write->data, record->count, record->vdisk, record->address, write->sums);
    write->append.store.data = write->data;
    write->append.store.sums = write->sums;
}

struct wire_write *wire_make(struct wire_owner *owner, uint32_t extent, uint32_t block,
                             uint32_t count, uint64_t stamp)
{
    struct wire_write *write = &owner->writes[owner->seq];

    assert_true(owner->seq < owner->write_room);
    owner->seq++;
    *write = (struct wire_write){.owner = owner, .stamp = stamp};
    write->append.store.record = (struct record){
        .vdisk = owner->stream.vdisk,
        .where = {extent, owner->generation},
        .slab = extent,
        .kind = stamp == 0 ? RECORD_ZERO : RECORD_WRITE,
        .block = block,
        .count = count,
        .address = address_in(owner, extent, block),
        .position = {owner->session, owner->seq},
    };
    write->append.store.done = write_done;
    if (stamp != 0)
        make_data(write);
    return write;
}

void wire_send(struct wire_write *write)
{
    struct wire_owner *owner = write->owner;
    struct record *record = &write->append.store.record;

    if (write->stamp != 0 && !write->data)
        make_data(write);
    record->epoch = owner->epoch;
    record->prev_seq = owner->chain;
    record->watermark = owner->watermark;
    owner->chain = record->position.seq;
    owner->pending++;
    write->done = false;
    column_append(&owner->stream, &write->append);
    assert_false(write->done); /* never from inside */
}

struct sending {
    struct wire_owner *owner;
    uint64_t from;
};

static void sending_main(void *arg)
{
    const struct sending *sending = arg;

    for (uint64_t seq = sending->from; seq <= sending->owner->seq; seq++)
        wire_send(&sending->owner->writes[seq - 1]);
}

void wire_send_from(struct wire_owner *owner, uint64_t seq)
{
    struct sending sending = {owner, seq};

    wire_run(owner->wire, owner->machine, sending_main, &sending);
}

void wire_resend(struct wire_owner *owner)
{
    uint64_t durable = owner->seal.durable.seq;

    owner->ended_seq = durable;
    for (uint64_t i = 0; i < durable; i++)
        owner->writes[i].result = 0;
    wire_send_from(owner, durable + 1);
}

static void detach_main(void *arg)
{
    struct wire_owner *owner = arg;

    column_detach(&owner->stream);
    column_detach(&owner->stream); /* idempotent */
}

void wire_detach(struct wire_owner *owner)
{
    wire_run(owner->wire, owner->machine, detach_main, owner);
}

bool wire_idle(void *arg)
{
    return ((struct wire_owner *)arg)->pending == 0;
}

uint64_t wire_check_prefix(const struct wire_owner *owner)
{
    uint64_t durable = 0;

    while (durable < owner->seq && owner->writes[durable].result == 0)
        durable++;
    for (uint64_t i = durable; i < owner->seq; i++)
        assert_true(owner->writes[i].result < 0);
    return durable;
}

struct reading {
    struct wire_owner *owner;
    struct extent_ref where;
    uint32_t block, count;
    uint64_t *stamps;
    struct block_set bad;
    int result;
};

static void reading_main(void *arg)
{
    struct reading *reading = arg;
    cleanup(freep) uint8_t *data = aligned_alloc(BLOCK_SIZE, (size_t)reading->count * BLOCK_SIZE);
    cleanup(freep) uint64_t *sums = calloc(reading->count, sizeof(*sums));
    uint64_t address = address_in(reading->owner, reading->where.extent, reading->block);

    reading->result =
        co_column_read(reading->owner->stream.store, WIRE_VDISK, reading->where, reading->block,
                       reading->count, address, data, sums, &reading->bad);
    if (reading->result < 0 && reading->result != -EBADMSG)
        return;
    for (uint32_t i = 0; i < reading->count; i++) {
        reading->stamps[i] = stamp_of(data + (size_t)i * BLOCK_SIZE);
        if (!(reading->bad.bits[i / 64] >> (i % 64) & 1))
            assert_int_equal(checksum_verify(data + (size_t)i * BLOCK_SIZE, 1, WIRE_VDISK,
                                             address + i, &sums[i]),
                             1);
    }
}

int wire_read(struct wire_owner *owner, uint32_t extent, uint32_t block, uint32_t count,
              uint64_t *ret_stamps, struct block_set *ret_bad)
{
    struct reading reading = {.owner = owner,
                              .where = {extent, owner->generation},
                              .block = block,
                              .count = count,
                              .stamps = ret_stamps};

    wire_run(owner->wire, owner->machine, reading_main, &reading);
    if (ret_bad)
        *ret_bad = reading.bad;
    return reading.result;
}
