/* Owners and stores across the wire: column_store.h's promises hold when the disk is in another
 * node, whatever happens to the connections, the processes and the power. A real store on a
 * simulated disk, real buses on a simulated network. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "resiliency/store_messages.h"
#include "s2d/base/checksum.h"
#include "tests/unit/wire_world.h"

/* Machines, and an owner in epoch 5 that has sealed and makes up to writes_max records. */
static void begin(struct wire *wire, struct wire_owner *owner, uint64_t seed, size_t writes_max)
{
    wire_new(wire, &(struct wire_options){.seed = seed});
    wire_owner_init(owner, wire, WIRE_OWNER, 5, writes_max);
    wire_seal(owner);
}

static void end(struct wire *wire, struct wire_owner *owner)
{
    wire_owner_done(owner);
    wire_free(wire);
}

static uint32_t extent_blocks(const struct wire *wire)
{
    return (uint32_t)(wire->options.extent_bytes / BLOCK_SIZE);
}

/* `count` records of one block each, one after the other over the disk, stamps from `stamp`. */
static void make_small(struct wire_owner *owner, uint32_t count, uint64_t stamp)
{
    uint32_t blocks = extent_blocks(owner->wire);

    for (uint32_t i = 0; i < count; i++)
        (void)wire_make(owner, i / blocks, i % blocks, 1, stamp + i);
}

static void expect_stamps(struct wire_owner *owner, uint32_t extent, uint32_t block, uint32_t count,
                          uint64_t stamp)
{
    uint64_t stamps[RECORD_BLOCKS_MAX];

    assert_int_equal(wire_read(owner, extent, block, count, stamps, NULL), 0);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(stamps[i], stamp == 0 ? 0 : stamp + i);
}

/* What make_small() made, through record `count`. */
static void expect_small(struct wire_owner *owner, uint32_t count, uint64_t stamp)
{
    uint32_t blocks = MIN(extent_blocks(owner->wire), (uint32_t)RECORD_BLOCKS_MAX);

    for (uint32_t i = 0; i < count; i += blocks)
        expect_stamps(owner, i / blocks, 0, MIN(blocks, count - i), stamp + i);
}

/* ---- records ---- */

/* Small data is copied by the bus, larger data is sent from its place, a zero has none. */
static void records_of_all_sizes_arrive(void **state)
{
    struct wire wire;
    struct wire_owner owner;

    (void)state;
    begin(&wire, &owner, 1, 16);
    assert_int_equal(owner.seal.durable.seq, 0);
    assert_int_equal(owner.seal.tail_count, 0);
    (void)wire_make(&owner, 0, 7, 1, 100);
    (void)wire_make(&owner, 0, 8, 8, 200);
    (void)wire_make(&owner, 0, 16, 9, 300);
    (void)wire_make(&owner, 1, 0, 256, 1000);
    (void)wire_make(&owner, 1, 17, 3, 0);
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(wire_check_prefix(&owner), 5);

    expect_stamps(&owner, 0, 7, 1, 100);
    expect_stamps(&owner, 0, 8, 8, 200);
    expect_stamps(&owner, 0, 16, 9, 300);
    expect_stamps(&owner, 1, 0, 17, 1000);
    expect_stamps(&owner, 1, 17, 3, 0);
    expect_stamps(&owner, 1, 20, 236, 1020);
    end(&wire, &owner);
}

/* What a turn made durable is told in one message: without that, acknowledgements cost as much as
 * the records. */
static void acknowledgements_are_cumulative(void **state)
{
    struct wire wire;
    struct wire_owner owner;
    uint64_t before;

    (void)state;
    begin(&wire, &owner, 2, 400);
    before = wire_control_messages(&wire, WIRE_OWNER);
    make_small(&owner, 400, 1000);
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(wire_check_prefix(&owner), 400);
    assert_true(wire_control_messages(&wire, WIRE_OWNER) - before <= 40);
    expect_small(&owner, 400, 1000);
    end(&wire, &owner);
}

/* More than the server's buffers hold: the rest waits on the owner's side, in order. Sizes differ,
 * so that what waits first is not always what fits first. */
static void credit_bounds_what_is_under_way(void **state)
{
    struct wire wire;
    struct wire_owner owner;

    (void)state;
    begin(&wire, &owner, 3, 3100);
    make_small(&owner, 3000, 1000);
    for (uint32_t i = 0; i < 40; i++)
        (void)wire_make(&owner, 20, i, i % 3 == 0 ? 200 : 1, 100000 + 1000 * i);
    wire_send_from(&owner, 1);
    assert_true(bus_try_credit(wire.machines[WIRE_OWNER].bus, WIRE_SERVER, BLOCK_SIZE) == -EAGAIN);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(wire_check_prefix(&owner), 3040);
    expect_small(&owner, 3000, 1000);
    expect_stamps(&owner, 20, 39, 200, 139000);
    end(&wire, &owner);
}

/* Records that are sent as others end do not pass those that wait for credit. */
static void nobody_passes_who_waits_for_credit(void **state)
{
    (void)state;
    for (uint64_t seed = 20; seed < 26; seed++) {
        struct wire wire;
        struct wire_owner owner;

        begin(&wire, &owner, seed, 4000);
        make_small(&owner, 1200, 1000);
        wire_send_from(&owner, 1);
        owner.next_seq = owner.seq + 1;
        make_small(&owner, 2800, 5000);
        wire_until(&wire, wire_idle, &owner);
        assert_int_equal(wire_check_prefix(&owner), 4000);
        expect_small(&owner, 2800, 5000);
        end(&wire, &owner);
    }
}

/* Detached while most of it waits for credit, and large ones are being sent from their place: all
 * comes back, in order, none before the bus lets go of it, and the way is free for the next
 * attachment. */
static void detaching_gives_everything_back(void **state)
{
    struct wire wire;
    struct wire_owner owner;

    (void)state;
    begin(&wire, &owner, 4, 3000);
    (void)wire_make(&owner, 20, 0, 256, 10000);
    (void)wire_make(&owner, 21, 0, 256, 20000);
    make_small(&owner, 2998, 1000);
    wire_send_from(&owner, 1);
    wire_detach(&owner);
    wire_until(&wire, wire_idle, &owner);
    for (uint32_t i = 0; i < 3000; i++)
        assert_true(owner.writes[i].result == 0 || owner.writes[i].result == -ECANCELED);
    wire_seal(&owner);
    wire_resend(&owner);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(wire_check_prefix(&owner), 3000);
    expect_small(&owner, 2998, 1000);
    expect_stamps(&owner, 20, 0, 256, 10000);
    end(&wire, &owner);
}

/* ---- attachments ---- */

struct raw_record {
    struct wire_machine *machine;
    struct wire_write *write;
    uint64_t handle;
};

/* Sends a record past the client: as it may come late out of a slow connection. */
static void send_raw(void *arg)
{
    const struct raw_record *raw = arg;
    uint8_t header[BUS_HEADER_MAX] __attribute__((aligned(8)));
    struct bus_send send = {
        .to = WIRE_SERVER,
        .channel = BUS_DATA,
        .type = STORE_RECORD,
        .header = header,
        .data = raw->write->data,
        .data_bytes = BLOCK_SIZE,
    };

    send.header_bytes = store_record_encode(raw->handle, &raw->write->append.store.record,
                                            raw->write->sums, header);
    assert_int_equal(co_bus_credit(raw->machine->bus, WIRE_SERVER, BLOCK_SIZE), 0);
    assert_int_equal(bus_send(raw->machine->bus, &send), 0);
}

/* A seal overtakes records on the other connection: what an earlier attachment sent is not taken
 * once a later one was answered, or it would stand before what the owner resends. */
static void late_records_are_not_taken(void **state)
{
    struct wire wire;
    struct wire_owner owner;
    struct raw_record raw;
    struct wire_write *late, *good;

    (void)state;
    begin(&wire, &owner, 5, 8);
    raw = (struct raw_record){.machine = &wire.machines[WIRE_OWNER], .handle = owner.stream.handle};
    late = raw.write = wire_make(&owner, 0, 0, 1, 666);
    late->append.store.record.epoch = 5;
    wire_detach(&owner);
    wire_seal(&owner);
    assert_int_not_equal(owner.stream.handle, raw.handle);

    wire_run(&wire, WIRE_OWNER, send_raw, &raw); /* an old handle */
    raw.machine = &wire.machines[WIRE_RIVAL];
    raw.handle = owner.stream.handle;
    wire_run(&wire, WIRE_RIVAL, send_raw, &raw); /* of somebody else's stream */
    wire_pass(&wire, 50 * MS);
    expect_stamps(&owner, 0, 0, 1, 0);

    raw.machine = &wire.machines[WIRE_OWNER];
    late->result = -ECANCELED;
    good = wire_make(&owner, 0, 0, 1, 100);
    good->append.store.record.position.seq = 1; /* in the place of the late one */
    wire_send_from(&owner, 2);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(good->result, 0);
    expect_stamps(&owner, 0, 0, 1, 100);
    end(&wire, &owner);
}

/* A record that is nonsense ends the stream by name; silence would stall it. */
static void nonsense_breaks_the_stream(void **state)
{
    struct wire wire;
    struct wire_owner owner;
    struct raw_record raw;

    (void)state;
    begin(&wire, &owner, 6, 4);
    raw = (struct raw_record){.machine = &wire.machines[WIRE_OWNER],
                              .write = wire_make(&owner, 0, 0, 1, 100),
                              .handle = owner.stream.handle};
    raw.write->append.store.record.vdisk = WIRE_VDISK + 1;
    wire_run(&wire, WIRE_OWNER, send_raw, &raw);
    wire_pass(&wire, 50 * MS);
    raw.write->append.store.record.vdisk = WIRE_VDISK;
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);
    assert_true(owner.writes[0].result < 0);
    assert_false(owner.stream.attached);
    wire_detach(&owner);
    wire_seal(&owner);
    wire_resend(&owner);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(wire_check_prefix(&owner), 1);
    end(&wire, &owner);
}

/* Data that does not match its sums is refused by the store that it came to: never trusted from the
 * wire, whatever the flags say. */
static void wrong_data_is_refused(void **state)
{
    struct wire wire;
    struct wire_owner owner;

    (void)state;
    begin(&wire, &owner, 7, 4);
    (void)wire_make(&owner, 0, 0, 1, 100);
    (void)wire_make(&owner, 0, 1, 1, 200);
    owner.writes[1].data[17] ^= 1;
    owner.writes[1].append.store.record.flags = RECORD_VERIFIED;
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(owner.writes[0].result, 0);
    assert_int_equal(owner.writes[1].result, -EBADMSG);
    expect_stamps(&owner, 0, 1, 1, 0);
    end(&wire, &owner);
}

/* ---- fences ---- */

/* A new owner's seal ends the old one's stream, and tells him; then he is fenced, and hears by
 * what. */
static void a_new_owner_fences_the_old(void **state)
{
    struct wire wire;
    struct wire_owner owner, rival;

    (void)state;
    wire_new(&wire, &(struct wire_options){.seed = 8});
    wire_owner_init(&owner, &wire, WIRE_OWNER, 5, 8);
    wire_owner_init(&rival, &wire, WIRE_RIVAL, 6, 8);
    wire_seal(&owner);
    (void)wire_make(&owner, 0, 0, 1, 100);
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);

    wire_seal(&rival);
    assert_int_equal(rival.seal.tail_count, 1);
    assert_int_equal(rival.seal.tail[0].position.session, 5);
    wire_pass(&wire, 50 * MS);
    assert_false(owner.stream.attached); /* without having sent anything */
    (void)wire_make(&owner, 0, 0, 1, 101);
    wire_send_from(&owner, 2);
    wire_until(&wire, wire_idle, &owner);
    assert_true(owner.writes[1].result < 0);
    wire_detach(&owner);
    wire_run(&wire, WIRE_OWNER, co_wire_seal, &owner);
    assert_int_equal(owner.seal_result, -ESTALE);
    assert_int_equal(owner.seal.sealed_epoch, 6);

    /* and the old one's attempt has not disturbed the new one */
    (void)wire_make(&rival, 0, 0, 1, 102);
    wire_send_from(&rival, 1);
    wire_until(&wire, wire_idle, &rival);
    assert_int_equal(rival.writes[0].result, 0);
    expect_stamps(&rival, 0, 0, 1, 102);
    wire_owner_done(&owner);
    wire_owner_done(&rival);
    wire_free(&wire);
}

/* Two seals of the same right at once (one was given up by who sent it): the one that is answered
 * last stands, or nobody could write. */
struct sealing {
    struct wire_owner *owners[2];
    struct co_group group;
};

static void seal_both(void *arg)
{
    struct sealing *sealing = arg;
    struct io *io = sealing->owners[0]->wire->machines[WIRE_OWNER].io;

    co_group_init(&sealing->group);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(
            co_group_spawn(&sealing->group, io, "seal", co_wire_seal, sealing->owners[i]), 0);
    co_group_wait(&sealing->group);
}

static void the_last_seal_stands(void **state)
{
    struct wire wire;
    struct wire_owner first, second;
    struct sealing sealing = {.owners = {&first, &second}};

    (void)state;
    wire_new(&wire, &(struct wire_options){.seed = 18});
    wire_owner_init(&first, &wire, WIRE_OWNER, 5, 8);
    wire_owner_init(&second, &wire, WIRE_OWNER, 5, 8);
    wire_run(&wire, WIRE_OWNER, seal_both, &sealing);
    assert_int_equal(second.seal_result, 0);
    wire_pass(&wire, 50 * MS);
    assert_false(first.stream.attached);
    (void)wire_make(&second, 0, 0, 1, 100);
    wire_send_from(&second, 1);
    wire_until(&wire, wire_idle, &second);
    assert_int_equal(second.writes[0].result, 0);
    wire_detach(&first);
    wire_detach(&second);
    wire_pass(&wire, MS);
    wire_owner_done(&first);
    wire_owner_done(&second);
    wire_free(&wire);
}

static void old_generations_are_stale(void **state)
{
    struct wire wire;
    struct wire_owner owner;
    uint64_t stamp;

    (void)state;
    begin(&wire, &owner, 9, 8);
    owner.generation = 9;
    (void)wire_make(&owner, 0, 0, 1, 100);
    owner.generation = 8;
    (void)wire_make(&owner, 0, 0, 1, 101);
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(owner.writes[0].result, 0);
    assert_int_equal(owner.writes[1].result, -ESTALE);
    assert_int_equal(wire_read(&owner, 0, 0, 1, &stamp, NULL), -ESTALE);
    end(&wire, &owner);
}

/* ---- calls ---- */

struct marking {
    struct wire_owner *owner;
    struct log_position watermark;
    uint64_t epoch;
    int result;
};

static void mark_main(void *arg)
{
    struct marking *marking = arg;

    marking->result = co_column_mark(marking->owner->stream.store, WIRE_VDISK, marking->epoch,
                                     marking->watermark, true);
}

static int mark(struct wire_owner *owner, uint64_t epoch, uint64_t seq)
{
    struct marking marking = {owner, {owner->session, seq}, epoch, 0};

    wire_run(owner->wire, owner->machine, mark_main, &marking);
    return marking.result;
}

static void checkpoint_main(void *arg)
{
    const struct wire_machine *machine = arg;

    assert_int_equal(co_store_checkpoint(machine->store), 0);
}

/* Which blocks are rotten is told bit by bit, and the others are right. */
static void rot_is_told_by_the_block(void **state)
{
    struct wire wire;
    struct wire_owner owner;
    const struct disk_geometry *geometry;
    uint64_t stamps[RECORD_BLOCKS_MAX];
    struct block_set bad;

    (void)state;
    begin(&wire, &owner, 10, 8);
    (void)wire_make(&owner, 0, 0, 200, 1000);
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(mark(&owner, 5, 1), 0);
    wire_run(&wire, WIRE_SERVER, checkpoint_main, &wire.machines[WIRE_SERVER]);
    geometry = disk_geometry(wire.machines[WIRE_SERVER].disk);
    assert_int_equal(sim_disk_poke(wire.sim, WIRE_SERVER, WIRE_PATH,
                                   disk_block_offset(geometry, 0, 130) + 9, "rot", 3),
                     0);

    assert_int_equal(wire_read(&owner, 0, 10, 190, stamps, &bad), -EBADMSG);
    for (uint32_t i = 0; i < 190; i++) {
        assert_int_equal(bad.bits[i / 64] >> (i % 64) & 1, i == 120);
        if (i != 120)
            assert_int_equal(stamps[i], 1010 + i);
    }
    end(&wire, &owner);
}

static void marks_are_fenced(void **state)
{
    struct wire wire;
    struct wire_owner owner;
    struct store_stream_info info;

    (void)state;
    begin(&wire, &owner, 11, 8);
    make_small(&owner, 3, 100);
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(mark(&owner, 5, 2), 0);
    assert_true(store_stream_info(wire.machines[WIRE_SERVER].store, WIRE_VDISK, &info));
    assert_int_equal(info.watermark.seq, 2);
    assert_int_equal(info.pending_records, 1);
    assert_int_equal(mark(&owner, 4, 3), -ESTALE);
    end(&wire, &owner);
}

struct comparing {
    struct wire_owner *owner;
    struct extent_ref where;
    uint32_t blocks;
    uint64_t since_epoch;
    uint64_t *sums, *bits;
    int result;
};

static void checksums_main(void *arg)
{
    struct comparing *comparing = arg;

    comparing->result =
        co_column_checksums(comparing->owner->stream.store, WIRE_VDISK, comparing->where, 0,
                            comparing->blocks, comparing->sums, comparing->bits);
}

/* More blocks than one answer holds. */
static void checksums_of_a_large_extent(void **state)
{
    struct wire wire;
    struct wire_owner owner;
    struct comparing comparing;
    uint32_t blocks;

    (void)state;
    wire_new(&wire, &(struct wire_options){.seed = 12,
                                           .extent_bytes = 64 * MIB,
                                           .disk_bytes = 160 * MIB,
                                           .log_bytes = 16 * MIB});
    blocks = extent_blocks(&wire);
    assert_true(blocks > STORE_SUMS_MAX);
    wire_owner_init(&owner, &wire, WIRE_OWNER, 5, 8);
    wire_seal(&owner);
    (void)wire_make(&owner, 0, 3, 1, 100);
    (void)wire_make(&owner, 0, STORE_SUMS_MAX - 1, 2, 200);
    (void)wire_make(&owner, 0, blocks - 1, 1, 300);
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);
    comparing = (struct comparing){.owner = &owner, .where = {0, 1}, .blocks = blocks};
    comparing.sums = calloc(blocks, sizeof(uint64_t));
    comparing.bits = calloc(blocks / 64, sizeof(uint64_t));
    wire_run(&wire, WIRE_OWNER, checksums_main, &comparing);
    assert_int_equal(comparing.result, 0);
    for (uint32_t i = 0; i < blocks; i++) {
        if (i == 3)
            assert_int_equal(comparing.sums[i], owner.writes[0].sums[0]);
        else if (i == STORE_SUMS_MAX - 1 || i == STORE_SUMS_MAX)
            assert_int_equal(comparing.sums[i], owner.writes[1].sums[i - (STORE_SUMS_MAX - 1)]);
        else if (i == blocks - 1)
            assert_int_equal(comparing.sums[i], owner.writes[2].sums[0]);
        else
            assert_int_equal(comparing.sums[i], 0);
    }
    free(comparing.sums);
    free(comparing.bits);
    end(&wire, &owner);
}

static void compare_main(void *arg)
{
    struct comparing *comparing = arg;

    comparing->result =
        co_column_compare_set(comparing->owner->stream.store, WIRE_VDISK, comparing->where,
                              comparing->since_epoch, comparing->blocks, comparing->bits);
}

static void expect_compare_set(struct wire_owner *owner, uint64_t since_epoch, uint32_t block,
                               uint32_t count)
{
    uint32_t blocks = extent_blocks(owner->wire);
    cleanup(freep) uint64_t *bits = calloc(blocks / 64, sizeof(*bits));
    struct comparing comparing = {.owner = owner,
                                  .where = {0, 1},
                                  .blocks = blocks,
                                  .since_epoch = since_epoch,
                                  .bits = bits};

    wire_run(owner->wire, owner->machine, compare_main, &comparing);
    assert_int_equal(comparing.result, 0);
    for (uint32_t i = 0; i < blocks; i++)
        assert_int_equal(bits[i / 64] >> (i % 64) & 1, i >= block && i < block + count);
}

static void drop_main(void *arg)
{
    struct comparing *comparing = arg;

    comparing->result = co_column_drop_tail(comparing->owner->stream.store, WIRE_VDISK,
                                            comparing->owner->epoch, &comparing->where, 1);
}

static void clear_main(void *arg)
{
    struct comparing *comparing = arg;

    comparing->result = co_column_clear_compare(comparing->owner->stream.store, WIRE_VDISK,
                                                comparing->owner->epoch, &comparing->where, 1);
}

/* A stale column's way back: its tail goes, what it named is compared, then the list goes. */
static void a_stale_column_comes_back(void **state)
{
    struct wire wire;
    struct wire_owner owner;
    struct comparing comparing = {.owner = &owner, .where = {0, 1}};

    (void)state;
    begin(&wire, &owner, 13, 8);
    (void)wire_make(&owner, 0, 40, 5, 100);
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);
    expect_compare_set(&owner, 5, 40, 5); /* as the source: it is in the log */
    wire_run(&wire, WIRE_OWNER, drop_main, &comparing);
    assert_int_equal(comparing.result, 0);
    expect_stamps(&owner, 0, 40, 5, 0);
    expect_compare_set(&owner, 0, 40, 5);
    wire_run(&wire, WIRE_OWNER, clear_main, &comparing);
    assert_int_equal(comparing.result, 0);
    expect_compare_set(&owner, 0, 0, 0);
    end(&wire, &owner);
}

/* A takeover needs the whole tail, however many answers it takes. */
static void long_tails_come_whole(void **state)
{
    struct wire wire;
    struct wire_owner owner, rival;
    uint32_t count = STORE_TAIL_MAX + 500;

    (void)state;
    wire_new(&wire, &(struct wire_options){.seed = 14});
    wire_owner_init(&owner, &wire, WIRE_OWNER, 5, count);
    wire_owner_init(&rival, &wire, WIRE_RIVAL, 6, 8);
    wire_seal(&owner);
    make_small(&owner, count, 1000);
    wire_send_from(&owner, 1);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(wire_check_prefix(&owner), count);

    wire_seal(&rival);
    assert_int_equal(rival.seal.tail_count, count);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(rival.seal.tail[i].position.seq, i + 1);
        assert_int_equal(rival.seal.tail[i].where.extent, i / extent_blocks(&wire));
        assert_int_equal(rival.seal.tail[i].block, i % extent_blocks(&wire));
    }
    (void)wire_make(&rival, 0, 0, 1, 7);
    wire_send_from(&rival, 1);
    wire_until(&wire, wire_idle, &rival);
    assert_int_equal(rival.writes[0].result, 0);
    wire_owner_done(&owner);
    wire_owner_done(&rival);
    wire_free(&wire);
}

/* ---- faults ---- */

static bool is_reachable(void *arg)
{
    return ((struct wire_owner *)arg)->stream.store->reachable;
}

/* After a fault: seals again as soon as it can, and resends what the store does not have. */
static void recover(struct wire_owner *owner)
{
    uint64_t acknowledged;

    wire_detach(owner);
    wire_until(owner->wire, wire_idle, owner);
    acknowledged = wire_check_prefix(owner);
    do {
        wire_until(owner->wire, is_reachable, owner);
        wire_run(owner->wire, owner->machine, co_wire_seal, owner);
        if (owner->seal_result != 0)
            wire_pass(owner->wire, 10 * MS);
    } while (owner->seal_result != 0);
    assert_int_equal(owner->seal.durable.session, owner->session);
    assert_true(owner->seal.durable.seq >= acknowledged);
    wire_resend(owner);
}

/* Whenever the connections break, the owner resends from `durable`, and nothing is lost, doubled or
 * out of order. */
static void broken_connections_lose_nothing(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 24; round++) {
        struct wire wire;
        struct wire_owner owner;
        uint64_t acknowledged;

        begin(&wire, &owner, 100 + round, 600);
        make_small(&owner, 560, 1000);
        for (uint32_t i = 0; i < 40; i++)
            (void)wire_make(&owner, 5, i, 20, 100000 + 100 * i);
        wire_send_from(&owner, 1);
        wire_pass(&wire, round * round * 20 * US);
        sim_break_connections(wire.sim, WIRE_OWNER, WIRE_SERVER);
        wire_until(&wire, wire_idle, &owner);
        acknowledged = wire_check_prefix(&owner);
        assert_true(acknowledged == 600 || !owner.stream.attached);
        recover(&owner);
        wire_until(&wire, wire_idle, &owner);
        assert_int_equal(wire_check_prefix(&owner), 600);
        expect_small(&owner, 560, 1000);
        expect_stamps(&owner, 5, 39, 20, 103900);
        end(&wire, &owner);
    }
}

/* The daemon with the disk is killed, or its host loses power: what was acknowledged is there when
 * it is back. */
static void a_dying_server_keeps_what_it_acknowledged(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 12; round++) {
        enum sim_crash_kind kind = round % 2 ? SIM_HOST_DIES : SIM_PROCESS_DIES;
        struct wire wire;
        struct wire_owner owner;
        uint64_t acknowledged;

        begin(&wire, &owner, 200 + round, 600);
        make_small(&owner, 600, 1000);
        wire_send_from(&owner, 1);
        wire_pass(&wire, round * 400 * US);
        sim_crash(wire.sim, WIRE_SERVER, kind);
        wire_until(&wire, wire_idle, &owner); /* a dead host is noticed by its silence */
        acknowledged = wire_check_prefix(&owner);
        if (acknowledged < 600)
            assert_false(owner.stream.attached);
        wire_start(&wire, WIRE_SERVER);
        recover(&owner);
        wire_until(&wire, wire_idle, &owner);
        assert_int_equal(wire_check_prefix(&owner), 600);
        expect_small(&owner, 600, 1000);
        end(&wire, &owner);
    }
}

/* Nothing comes and nothing is refused: what is under way ends by itself, and so does a call. */
static void silence_ends_what_is_under_way(void **state)
{
    struct wire wire;
    struct wire_owner owner;
    uint64_t cut_ns, stamp;

    (void)state;
    begin(&wire, &owner, 15, 64);
    make_small(&owner, 64, 1000);
    sim_cut(wire.sim, WIRE_OWNER, WIRE_SERVER);
    sim_cut(wire.sim, WIRE_SERVER, WIRE_OWNER);
    cut_ns = sim_now_ns(wire.sim);
    wire_send_from(&owner, 1);
    assert_true(wire_read(&owner, 0, 0, 1, &stamp, NULL) < 0);
    wire_until(&wire, wire_idle, &owner);
    assert_true(sim_now_ns(wire.sim) - cut_ns < BUS_SILENCE_NS + SEC);
    assert_int_equal(wire_check_prefix(&owner), 0);
    assert_false(owner.stream.store->reachable);
    sim_heal_all(wire.sim);
    recover(&owner);
    wire_until(&wire, wire_idle, &owner);
    assert_int_equal(wire_check_prefix(&owner), 64);
    expect_small(&owner, 64, 1000);
    end(&wire, &owner);
}

/* A disk goes away under its owners: they hear of it at once, and its store can be closed. */
static void a_disk_is_removed_under_way(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 10; round++) {
        struct wire wire;
        struct wire_owner owner;
        uint64_t before_ns, stamp;

        begin(&wire, &owner, 300 + round, 2000);
        make_small(&owner, 2000, 1000);
        wire_send_from(&owner, 1);
        wire_pass(&wire, round * 300 * US);
        before_ns = sim_now_ns(wire.sim);
        wire_run(&wire, WIRE_SERVER, co_wire_close_disk, &wire.machines[WIRE_SERVER]);
        wire_until(&wire, wire_idle, &owner);
        assert_true(sim_now_ns(wire.sim) - before_ns < SEC); /* told, not timed out */
        assert_int_equal(wire_read(&owner, 0, 0, 1, &stamp, NULL), -ENODEV);
        wire_detach(&owner);
        wire_run(&wire, WIRE_OWNER, co_wire_seal, &owner);
        assert_int_equal(owner.seal_result, -ENODEV);
        assert_true(owner.stream.store->reachable);

        wire_run(&wire, WIRE_SERVER, co_wire_open_disk, &wire.machines[WIRE_SERVER]);
        recover(&owner);
        wire_until(&wire, wire_idle, &owner);
        assert_int_equal(wire_check_prefix(&owner), 2000);
        expect_small(&owner, 2000, 1000);
        end(&wire, &owner);
    }
}

/* The owner's process dies with records on the way: the server forgets him, and the next owner
 * finds a prefix of them. */
static void a_dying_owner_leaves_a_prefix(void **state)
{
    struct wire wire;
    struct wire_owner owner, rival;

    (void)state;
    wire_new(&wire, &(struct wire_options){.seed = 16});
    wire_owner_init(&owner, &wire, WIRE_OWNER, 5, 2000);
    wire_owner_init(&rival, &wire, WIRE_RIVAL, 6, 8);
    wire_seal(&owner);
    make_small(&owner, 2000, 1000);
    wire_send_from(&owner, 1);
    wire_pass(&wire, 2 * MS);
    wire_detach(&owner); /* its memory is ours: the test's process lives on */
    wire_until(&wire, wire_idle, &owner);
    sim_crash(wire.sim, WIRE_OWNER, SIM_PROCESS_DIES);
    wire_seal(&rival);
    for (size_t i = 0; i < rival.seal.tail_count; i++)
        assert_int_equal(rival.seal.tail[i].position.seq, i + 1);
    (void)wire_make(&rival, 0, 0, 1, 7);
    wire_send_from(&rival, 1);
    wire_until(&wire, wire_idle, &rival);
    assert_int_equal(rival.writes[0].result, 0);
    wire_owner_done(&owner);
    wire_owner_done(&rival);
    wire_free(&wire);
}

/* A daemon that starts again gives its streams the same names: what the server has to say of the
 * old ones' records, which still land, is not taken for the new ones'. */
static void a_new_life_hears_nothing_of_the_old(void **state)
{
    struct wire wire;
    struct wire_owner old, new;

    (void)state;
    wire_new(&wire, &(struct wire_options){.seed = 19});
    wire_owner_init(&old, &wire, WIRE_OWNER, 5, 800);
    wire_seal(&old);
    make_small(&old, 800, 1000);
    wire_send_from(&old, 1);
    sim_disk_set_slowdown(wire.sim, WIRE_SERVER, WIRE_PATH, 2000);
    wire_pass(&wire, 5 * MS); /* they have come, and land slowly */
    wire_detach(&old);
    wire_until(&wire, wire_idle, &old);
    assert_true(store_stats(wire.machines[WIRE_SERVER].store).appended_records < 800);
    sim_crash(wire.sim, WIRE_OWNER, SIM_PROCESS_DIES);
    wire_start(&wire, WIRE_OWNER);
    wire_connected(&wire, WIRE_OWNER, WIRE_SERVER);

    wire_owner_init(&new, &wire, WIRE_OWNER, 5, 400);
    new.stream.vdisk = WIRE_VDISK + 1;
    new.counts = true;
    new.counted_before = 800;
    wire_seal(&new);
    sim_disk_set_slowdown(wire.sim, WIRE_SERVER, WIRE_PATH, 1);
    for (uint32_t i = 0; i < 400; i++)
        (void)wire_make(&new, 20, i % 256, 1, 1000 + i);
    wire_send_from(&new, 1);
    wire_until(&wire, wire_idle, &new);
    assert_int_equal(wire_check_prefix(&new), 400);
    wire_owner_done(&old);
    wire_owner_done(&new);
    wire_free(&wire);
}

/* A medium that fails: the first failure is told as what it is, and breaks the stream. */
static void a_failing_disk_is_told(void **state)
{
    struct wire wire;
    struct wire_owner owner;
    uint64_t durable;

    (void)state;
    begin(&wire, &owner, 17, 200);
    make_small(&owner, 200, 1000);
    wire_send_from(&owner, 1);
    sim_disk_set_fault(wire.sim, WIRE_SERVER, WIRE_PATH, SIM_DISK_WRITE_ERRORS);
    wire_until(&wire, wire_idle, &owner);
    durable = wire_check_prefix(&owner);
    assert_true(durable < 200);
    assert_int_equal(owner.writes[durable].result, -EIO);
    wire_detach(&owner);
    wire_run(&wire, WIRE_OWNER, co_wire_seal, &owner);
    assert_int_equal(owner.seal_result, -EIO);
    end(&wire, &owner);
}

/* ---- everything at once ---- */

static void random_fault(struct wire *wire)
{
    wire_pass(wire, sim_random(wire->sim) % (4 * MS));
    switch (sim_random(wire->sim) % 6) {
    case 0:
    case 1:
        sim_break_connections(wire->sim, WIRE_OWNER, WIRE_SERVER);
        break;
    case 2:
        sim_crash(wire->sim, WIRE_SERVER, SIM_PROCESS_DIES);
        wire_start(wire, WIRE_SERVER);
        break;
    case 3:
        sim_crash(wire->sim, WIRE_SERVER, SIM_HOST_DIES);
        wire_start(wire, WIRE_SERVER);
        break;
    case 4: /* one direction: acknowledgements, or records, are late */
        sim_cut(wire->sim, WIRE_OWNER, WIRE_SERVER);
        wire_pass(wire, sim_random(wire->sim) % (4 * SEC));
        sim_heal_all(wire->sim);
        break;
    case 5:
        sim_cut(wire->sim, WIRE_SERVER, WIRE_OWNER);
        wire_pass(wire, sim_random(wire->sim) % (4 * SEC));
        sim_heal_all(wire->sim);
        break;
    }
}

#define MODEL_EXTENTS 16
#define MODEL_BLOCKS 80

/* Every block holds what the last record of it says. */
static void expect_all(struct wire_owner *owner)
{
    uint64_t model[MODEL_EXTENTS][MODEL_BLOCKS] = {{0}}, stamps[MODEL_BLOCKS];

    for (uint64_t seq = 1; seq <= owner->seq; seq++) {
        const struct record *record = &owner->writes[seq - 1].append.store.record;

        for (uint32_t i = 0; i < record->count; i++)
            model[record->where.extent][record->block + i] =
                record->kind == RECORD_ZERO ? 0 : 1000 * seq + i;
    }
    for (uint32_t extent = 0; extent < MODEL_EXTENTS; extent++) {
        assert_int_equal(wire_read(owner, extent, 0, MODEL_BLOCKS, stamps, NULL), 0);
        assert_memory_equal(stamps, model[extent], sizeof(stamps));
    }
}

/* What was acknowledged stays, in every order of faults; what is resent lands once, in order. */
static void random_faults_lose_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct wire wire;
        struct wire_owner owner;

        begin(&wire, &owner, seed, 900);
        for (unsigned round = 0; round < 6; round++) {
            uint64_t from = owner.seq + 1;

            for (unsigned i = 0; i < 150; i++) {
                uint64_t seq = owner.seq + 1, random = sim_random(wire.sim);

                (void)wire_make(&owner, (uint32_t)(random % MODEL_EXTENTS),
                                (uint32_t)(random >> 8) % 64, 1 + (uint32_t)(random >> 32) % 12,
                                random >> 60 == 0 ? 0 : 1000 * seq);
            }
            wire_send_from(&owner, from);
            random_fault(&wire);
            recover(&owner);
        }
        wire_until(&wire, wire_idle, &owner);
        while (wire_check_prefix(&owner) < owner.seq) { /* the last connection was not the last */
            recover(&owner);
            wire_until(&wire, wire_idle, &owner);
        }
        expect_all(&owner);
        end(&wire, &owner);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_of_all_sizes_arrive),
        cmocka_unit_test(acknowledgements_are_cumulative),
        cmocka_unit_test(credit_bounds_what_is_under_way),
        cmocka_unit_test(nobody_passes_who_waits_for_credit),
        cmocka_unit_test(detaching_gives_everything_back),
        cmocka_unit_test(late_records_are_not_taken),
        cmocka_unit_test(nonsense_breaks_the_stream),
        cmocka_unit_test(wrong_data_is_refused),
        cmocka_unit_test(a_new_owner_fences_the_old),
        cmocka_unit_test(the_last_seal_stands),
        cmocka_unit_test(old_generations_are_stale),
        cmocka_unit_test(rot_is_told_by_the_block),
        cmocka_unit_test(marks_are_fenced),
        cmocka_unit_test(checksums_of_a_large_extent),
        cmocka_unit_test(a_stale_column_comes_back),
        cmocka_unit_test(long_tails_come_whole),
        cmocka_unit_test(broken_connections_lose_nothing),
        cmocka_unit_test(a_dying_server_keeps_what_it_acknowledged),
        cmocka_unit_test(silence_ends_what_is_under_way),
        cmocka_unit_test(a_disk_is_removed_under_way),
        cmocka_unit_test(a_dying_owner_leaves_a_prefix),
        cmocka_unit_test(a_new_life_hears_nothing_of_the_old),
        cmocka_unit_test(a_failing_disk_is_told),
        cmocka_unit_test(random_faults_lose_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
