/* The bus keeps its promises over both backends: order, credit, who is refused and why, and what a
 * layer above is told when a peer dies, restarts, is cut off or talks nonsense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "bus_harness.h"
#include "s2d/base/metrics.h"
#include "s2d/bus/bus_format.h"
#include "s2d/bus/message_types.h"

enum test_type {
    TEST_NOTE = BUS_TYPE_BUS,
    TEST_ECHO,
    TEST_HOLD,
    TEST_JOIN,
    TEST_NOBODY,
};

static enum backend backend_of(void **state)
{
    return *(enum backend *)*state;
}

static void fill(uint8_t *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(seed + i * 31 + (i >> 8) * 7);
}

static bool is_filled(const uint8_t *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] != (uint8_t)(seed + i * 31 + (i >> 8) * 7))
            return false;
    }
    return true;
}

/* ---- messages ---- */

struct notes { /* what a node received, as TEST_NOTE */
    unsigned count[2];
    uint64_t next[2]; /* number expected */
    unsigned wanted;
};

static void note_handler(void *arg, const struct bus_message *message)
{
    struct notes *notes = arg;
    uint64_t number;

    assert(co_self() == NULL);
    assert(message->header_bytes == sizeof(number));
    memcpy(&number, message->header, sizeof(number));
    assert(number == notes->next[message->channel]);
    assert(is_filled(message->data, message->data_bytes, (unsigned)number));
    assert((uintptr_t)message->data % BLOCK_SIZE == 0);
    notes->next[message->channel]++;
    notes->count[message->channel]++;
}

static bool notes_are_there(void *arg)
{
    struct notes *notes = arg;

    return notes->count[BUS_CONTROL] + notes->count[BUS_DATA] == notes->wanted;
}

struct sending {
    struct node *from;
    unsigned to;
    enum bus_channel channel;
    unsigned count;
    uint32_t (*size)(unsigned number);
    uint32_t flags;
    unsigned sent; /* sent() calls */
    uint64_t credit_waits;
};

static uint32_t small_sizes(unsigned number)
{
    return number * 37 % 600;
}

static uint32_t all_sizes(unsigned number)
{
    static const uint32_t sizes[] = {
        0,     1,          4096,    4097, 32 * 1024,      32 * 1024 + 1,
        65536, 256 * 1024, MIB - 1, MIB,  BUS_PAYLOAD_MAX};

    return sizes[number % ARRAY_SIZE(sizes)];
}

struct sent_buffer {
    struct sending *sending;
    uint8_t bytes[];
};

static void buffer_sent(void *arg)
{
    struct sent_buffer *buffer = arg;

    buffer->sending->sent++;
    free(buffer);
}

static int co_send_one(struct sending *sending, unsigned i)
{
    uint32_t size = sending->size(i);
    struct sent_buffer *buffer = malloc(sizeof(*buffer) + size);
    uint64_t number = i;
    struct bus_send send = {
        .to = sending->to,
        .channel = sending->channel,
        .type = TEST_NOTE,
        .flags = sending->flags,
        .header = &number,
        .header_bytes = sizeof(number),
        .data = buffer->bytes,
        .data_bytes = size,
        .sent = buffer_sent,
        .sent_arg = buffer,
    };
    int r = 0;

    buffer->sending = sending;
    fill(buffer->bytes, size, i);
    if (sending->channel == BUS_DATA)
        r = co_bus_credit(sending->from->bus, sending->to, size);
    if (r == 0)
        r = bus_send(sending->from->bus, &send);
    if (r < 0)
        free(buffer);
    return r;
}

static void co_send_all(void *arg)
{
    struct sending *sending = arg;

    for (unsigned i = 0; i < sending->count; i++) {
        int r = co_send_one(sending, i);

        while (r == -ENOBUFS) { /* more than the peer reads: as a polite sender does */
            assert(co_sleep_ns(MS) == 0);
            r = co_send_one(sending, i);
        }
        assert(r == 0);
    }
}

/* Everything arrives once, in order, on both channels, with its bytes, aligned. */
static void check_messages(void **state, uint32_t (*size)(unsigned number), unsigned count,
                           uint32_t flags)
{
    struct world *world = world_new(backend_of(state), 1);
    struct notes notes = {.wanted = 2 * count};
    struct sending control = {.from = &world->nodes[1],
                              .to = 2,
                              .channel = BUS_CONTROL,
                              .count = count,
                              .size = size,
                              .flags = flags};
    struct sending data = control;

    data.channel = BUS_DATA;
    world_connect(world, 2);
    bus_handle(world->nodes[2].bus, TEST_NOTE, note_handler, &notes);
    node_run(&world->nodes[1], co_send_all, &control);
    node_run(&world->nodes[1], co_send_all, &data);
    assert_true(world_run(world, WAIT_NS, notes_are_there, &notes));
    assert_int_equal(notes.count[BUS_CONTROL], count);
    world_pass(world, 10 * MS);
    assert_int_equal(control.sent, count);
    assert_int_equal(data.sent, count);
    world_free(world);
}

static void small_messages_arrive_in_order(void **state)
{
    check_messages(state, small_sizes, 1000, 0);
}

static void messages_of_all_sizes_arrive_whole(void **state)
{
    check_messages(state, all_sizes, 44, 0);
}

static void payloads_can_carry_a_checksum(void **state)
{
    check_messages(state, all_sizes, 11, BUS_CHECKSUM);
}

static void too_large_messages_are_refused_here(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    static uint8_t bytes[BUS_HEADER_MAX + 1];
    struct bus_send send = {
        .to = 2, .type = TEST_NOTE, .header = bytes, .header_bytes = sizeof(bytes)};

    world_connect(world, 2);
    assert_int_equal(bus_send(world->nodes[1].bus, &send), -EMSGSIZE);
    assert_int_equal(bus_try_credit(world->nodes[1].bus, 2, BUS_PAYLOAD_MAX + 1), -EMSGSIZE);
    send.header_bytes = 1;
    send.to = 3;
    assert_int_equal(bus_send(world->nodes[1].bus, &send), -ENOTCONN);
    send.to = 2;
    send.connection = bus_connection(world->nodes[1].bus, 2, BUS_CONTROL) + 1000;
    assert_int_equal(bus_send(world->nodes[1].bus, &send), -ENOTCONN);
    world_free(world);
}

/* What operators see is what happened; and nothing stays registered after the close. */
static void counters_are_exported(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct metrics *metrics = NULL;
    char *text = NULL;

    assert_int_equal(metrics_new(&metrics), 0);
    world->nodes[1].options.metrics = metrics;
    world_connect(world, 2);
    assert_int_equal(metrics_render(metrics, &text), 0);
    assert_non_null(strstr(text, "s2d_bus_connects_total{channel=\"control\"} 1"));
    assert_non_null(strstr(text, "s2d_bus_connects_total{channel=\"data\"} 1"));
    free(text);
    world_free(world);
    assert_int_equal(metrics_render(metrics, &text), 0);
    assert_null(strstr(text, "s2d_bus"));
    free(text);
    metrics_free(metrics);
}

/* ---- calls ---- */

/* Answers with the same header and data; result: the first byte of the header, negated. */
static void echo_handler(void *arg, const struct bus_message *message)
{
    struct bus *bus = *(struct bus **)arg;
    struct bus_send send = {
        .flags = message->flags, .header = message->header, .header_bytes = message->header_bytes};
    int r;

    if (message->data_bytes <= BUS_COPY_MAX) {
        send.data = message->data;
        send.data_bytes = message->data_bytes;
    }
    r = bus_reply(bus, message, -*(const uint8_t *)message->header, &send);
    assert(r == 0);
}

static void release_message(void *arg)
{
    bus_message_release(arg);
}

/* The same with large data: sent from the request's own buffer, which goes when it has left. */
static void echo_large_handler(void *arg, const struct bus_message *message)
{
    struct bus *bus = *(struct bus **)arg;
    struct bus_message *kept = bus_message_keep(message);
    struct bus_send send = {.header = kept->header,
                            .header_bytes = kept->header_bytes,
                            .data = kept->data,
                            .data_bytes = kept->data_bytes,
                            .sent = release_message,
                            .sent_arg = kept};

    if (bus_reply(bus, kept, 0, &send) < 0) /* the caller is told by its time-out */
        bus_message_release(kept);
}

struct calling {
    struct node *from;
    unsigned to;
    enum bus_channel channel;
    uint16_t type;
    uint32_t data_bytes, room_bytes;
    uint64_t timeout_ns;
    uint8_t wanted_result;
    uint8_t *data, *room;
    struct bus_reply reply;
    char reply_header[32];
    int result;
    bool done;
};

static struct calling calling_new(struct node *from, unsigned to, enum bus_channel channel,
                                  uint16_t type, uint32_t data_bytes)
{
    struct calling calling = {.from = from,
                              .to = to,
                              .channel = channel,
                              .type = type,
                              .data_bytes = data_bytes,
                              .room_bytes = data_bytes,
                              .timeout_ns = 5 * SEC};

    calling.data = malloc(data_bytes + 1);
    calling.room = malloc(data_bytes + 1);
    fill(calling.data, data_bytes, data_bytes);
    return calling;
}

static void calling_free(struct calling *calling)
{
    free(calling->data);
    free(calling->room);
}

static void co_call(void *arg)
{
    struct calling *calling = arg;
    uint8_t header[4] = {calling->wanted_result, 'a', 'b', 'c'};
    struct bus_send request = {
        .to = calling->to,
        .channel = calling->channel,
        .type = calling->type,
        .header = header,
        .header_bytes = sizeof(header),
        .data = calling->data,
        .data_bytes = calling->data_bytes,
    };

    calling->reply = (struct bus_reply){
        .header = calling->reply_header,
        .header_bytes = sizeof(calling->reply_header),
        .data = calling->room,
        .data_bytes = calling->room_bytes,
    };
    calling->done = false;
    calling->result =
        co_bus_call(calling->from->bus, &request, calling->timeout_ns, &calling->reply);
    calling->done = true;
}

static bool calling_is_done(void *arg)
{
    return ((struct calling *)arg)->done;
}

static void calls_are_answered(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];

    world_connect(world, 2);
    bus_handle(b->bus, TEST_ECHO, echo_handler, &b->bus);
    for (unsigned i = 0; i < 8; i++) {
        struct calling calling = calling_new(a, 2, i % 2, TEST_ECHO, i * 4096);

        calling.wanted_result = (uint8_t)i;
        node_run(a, co_call, &calling);
        assert_int_equal(calling.result, 0);
        assert_int_equal(calling.reply.result, -(int)i);
        assert_int_equal(calling.reply.header_bytes, 4);
        assert_memory_equal(calling.reply_header + 1, "abc", 3);
        assert_int_equal(calling.reply.data_bytes, i * 4096);
        assert_true(is_filled(calling.room, i * 4096, i * 4096));
        calling_free(&calling);
    }
    world_free(world);
}

static void large_replies_land_in_place(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];

    world_connect(world, 2);
    bus_handle(b->bus, TEST_ECHO, echo_large_handler, &b->bus);
    for (unsigned i = 0; i < 22; i++) {
        struct calling calling = calling_new(a, 2, i % 2, TEST_ECHO, all_sizes(i));

        node_run(a, co_call, &calling);
        assert_int_equal(calling.result, 0);
        assert_int_equal(calling.reply.data_bytes, calling.data_bytes);
        assert_true(is_filled(calling.room, calling.data_bytes, calling.data_bytes));
        calling_free(&calling);
    }
    world_free(world);
}

/* A peer that answers more than was asked for must not write past the caller's memory. */
static void a_reply_that_does_not_fit_is_dropped(void **state)
{
    static const uint32_t sizes[] = {4096, 512 * 1024};
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];

    world_connect(world, 2);
    bus_handle(b->bus, TEST_ECHO, echo_large_handler, &b->bus);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct calling calling = calling_new(a, 2, BUS_CONTROL, TEST_ECHO, sizes[i]);

        calling.room_bytes = sizes[i] - 1;
        node_run(a, co_call, &calling);
        assert_int_equal(calling.result, -EPROTO);
        calling.room_bytes = sizes[i];
        node_run(a, co_call, &calling); /* and the connection goes on */
        assert_int_equal(calling.result, 0);
        assert_true(is_filled(calling.room, sizes[i], sizes[i]));
        calling_free(&calling);
    }
    assert_int_equal(a->downs[2][BUS_CONTROL], 0);
    world_free(world);
}

static void unknown_types_are_answered(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct calling calling = calling_new(&world->nodes[1], 2, BUS_DATA, TEST_NOBODY, 4096);

    world_connect(world, 2);
    node_run(&world->nodes[1], co_call, &calling);
    assert_int_equal(calling.result, 0);
    assert_int_equal(calling.reply.result, -EOPNOTSUPP);
    calling_free(&calling);
    world_free(world);
}

/* ---- held messages: time-outs, credit, closing ---- */

struct held {
    struct bus *bus;
    struct bus_message *messages[4096];
    unsigned count;
    unsigned wanted;
};

static void hold_handler(void *arg, const struct bus_message *message)
{
    struct held *held = arg;

    assert(held->count < ARRAY_SIZE(held->messages));
    held->messages[held->count++] = bus_message_keep(message);
}

static bool enough_are_held(void *arg)
{
    struct held *held = arg;

    return held->count >= held->wanted;
}

static void release_all(struct held *held)
{
    while (held->count > 0)
        bus_message_release(held->messages[--held->count]);
}

static void late_answers_are_dropped(void **state)
{
    static const uint32_t sizes[] = {0, 100 * 1024};
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    static struct held held;

    world_connect(world, 2);
    bus_handle(b->bus, TEST_HOLD, hold_handler, &held);
    bus_handle(b->bus, TEST_ECHO, echo_handler, &b->bus);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct calling calling = calling_new(a, 2, BUS_CONTROL, TEST_HOLD, sizes[i]);
        struct calling after = calling_new(a, 2, BUS_CONTROL, TEST_ECHO, 100);
        struct bus_send answer = {.data = calling.data, .data_bytes = sizes[i]};
        uint64_t start_ns = world_now_ns(world);

        calling.timeout_ns = 50 * MS;
        node_run(a, co_call, &calling);
        assert_int_equal(calling.result, -ETIMEDOUT);
        assert_true(world_now_ns(world) - start_ns >= 50 * MS);

        assert_int_equal(held.count, 1);
        answer.sent = release_message;
        answer.sent_arg = held.messages[--held.count];
        assert_int_equal(bus_reply(b->bus, answer.sent_arg, 0, &answer), 0);
        node_run(a, co_call, &after);
        assert_int_equal(after.result, 0);
        calling_free(&calling);
        calling_free(&after);
    }
    world_free(world);
}

/* Credit is what keeps memory bounded and the data connection readable: a receiver that holds its
 * buffers stops the sender, loses nothing, and lets it go on as it releases them. */
static void credit_runs_out_and_comes_back(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    static struct held held;
    unsigned taken = 0;

    world_connect(world, 2);
    bus_handle(b->bus, TEST_NOTE, hold_handler, &held);
    world_pass(world, 10 * MS); /* the first grant */
    for (unsigned round = 0; round < 20; round++) {
        struct bus_send send = {.to = 2, .channel = BUS_DATA, .type = TEST_NOTE};
        static uint8_t block[4096];

        send.data = block;
        send.data_bytes = sizeof(block);
        for (taken = 0; bus_try_credit(a->bus, 2, sizeof(block)) == 0; taken++)
            assert_int_equal(bus_send(a->bus, &send), 0);
        assert_in_range(taken, 1, 64 * MIB / 16 / 4096);
        assert_int_equal(bus_try_credit(a->bus, 2, sizeof(block)), -EAGAIN);
        held.wanted = taken;
        assert_true(world_run(world, WAIT_NS, enough_are_held, &held));
        release_all(&held);
        world_pass(world, 10 * MS);
    }
    assert_in_range(taken, 64 * MIB / 16 / 4096 * 3 / 4, 64 * MIB / 16 / 4096);
    assert_int_equal(a->downs[2][BUS_DATA], 0);
    world_free(world);
}

static void taken_credit_can_be_given_back(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct bus *bus;
    unsigned taken[2] = {0};

    world_connect(world, 2);
    bus = world->nodes[1].bus;
    world_pass(world, 10 * MS);
    for (unsigned round = 0; round < 2; round++) {
        while (bus_try_credit(bus, 2, 65536) == 0)
            taken[round]++;
        bus_put_credit(bus, 2, bus_connection(bus, 2, BUS_DATA) + 1, 65536); /* of another: void */
        assert_int_equal(bus_try_credit(bus, 2, 65536), -EAGAIN);
        for (unsigned i = 0; i < taken[round]; i++)
            bus_put_credit(bus, 2, bus_connection(bus, 2, BUS_DATA), 65536);
    }
    assert_true(taken[0] > 0);
    assert_int_equal(taken[0], taken[1]);
    world_free(world);
}

/* A data request without credit never reaches the wire. */
static void data_needs_credit(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct bus_send send = {.to = 2, .channel = BUS_DATA, .type = TEST_NOTE};

    world_connect(world, 2);
    assert_int_equal(bus_send(world->nodes[1].bus, &send), -EAGAIN);
    world_free(world);
}

static void co_waiting_sender(void *arg)
{
    struct calling *calling = arg;

    calling->result = co_bus_credit(calling->from->bus, calling->to, MIB);
    calling->done = true;
}

/* Waiters for credit are served in order, and told when the connection is gone. */
static void waiting_for_credit_ends_with_the_connection(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1];
    struct calling waiter = {.from = a, .to = 2};
    uint64_t connection;

    world_connect(world, 2);
    world_pass(world, 10 * MS);
    connection = bus_connection(a->bus, 2, BUS_DATA);
    while (bus_try_credit(a->bus, 2, MIB) == 0)
        ;
    assert_int_equal(co_spawn(a->io, "waiter", co_waiting_sender, &waiter), 0);
    world_pass(world, 10 * MS);
    assert_false(waiter.done);
    assert_int_equal(bus_try_credit(a->bus, 2, 4096), -EAGAIN); /* not before the first in line */
    bus_put_credit(a->bus, 2, connection, MIB);
    assert_true(world_run(world, WAIT_NS, calling_is_done, &waiter));
    assert_int_equal(waiter.result, 0);

    waiter.done = false;
    assert_int_equal(co_spawn(a->io, "waiter", co_waiting_sender, &waiter), 0);
    world_pass(world, 10 * MS);
    bus_remove_peer(a->bus, 2);
    assert_true(world_run(world, WAIT_NS, calling_is_done, &waiter));
    assert_int_equal(waiter.result, -ENOTCONN);
    world_free(world);
}

struct cancelled {
    struct calling calling;
    struct co *co;
};

static void co_call_noting_self(void *arg)
{
    struct cancelled *cancelled = arg;

    cancelled->co = co_self();
    co_call(&cancelled->calling);
}

static void a_cancelled_call_ends(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    struct cancelled cancelled = {.calling = calling_new(a, 2, BUS_CONTROL, TEST_HOLD, 4096)};
    static struct held held;

    world_connect(world, 2);
    bus_handle(b->bus, TEST_HOLD, hold_handler, &held);
    assert_int_equal(co_spawn(a->io, "caller", co_call_noting_self, &cancelled), 0);
    held.wanted = 1;
    assert_true(world_run(world, WAIT_NS, enough_are_held, &held));
    co_cancel(cancelled.co);
    assert_true(world_run(world, WAIT_NS, calling_is_done, &cancelled.calling));
    assert_int_equal(cancelled.calling.result, -ECANCELED);
    release_all(&held);
    calling_free(&cancelled.calling);
    world_free(world);
}

static bool bus_is_closed(void *arg)
{
    return ((struct node *)arg)->bus == NULL;
}

/* The store may still be writing from a kept message when the daemon stops. */
static void closing_waits_for_kept_messages(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    struct calling calling = calling_new(a, 2, BUS_DATA, TEST_HOLD, 100 * 1024);
    static struct held held;

    world_connect(world, 2);
    bus_handle(b->bus, TEST_HOLD, hold_handler, &held);
    assert_int_equal(co_spawn(a->io, "caller", co_call, &calling), 0);
    held.wanted = 1;
    assert_true(world_run(world, WAIT_NS, enough_are_held, &held));

    b->stopping = true;
    co_cond_broadcast(&b->stop);
    assert_true(world_run(world, WAIT_NS, calling_is_done, &calling));
    assert_int_equal(calling.result, -ENOTCONN);
    assert_false(world_run(world, 100 * MS, bus_is_closed, b));
    assert_true(is_filled(held.messages[0]->data, 100 * 1024, 100 * 1024));
    release_all(&held);
    assert_true(world_run(world, WAIT_NS, bus_is_closed, b));
    calling_free(&calling);
    world_free(world);
}

static void stop_at_once(void *arg, uint64_t peer, enum bus_channel channel)
{
    struct node *node = arg;

    node->ups[peer][channel]++;
    node->stopping = true;
    co_cond_broadcast(&node->stop);
}

/* A daemon that stops has its last wait ended by the very handshake that is still on its way back
 * to its coroutine: its stream is the connection's by now. */
static void closing_meets_a_handshake_that_has_ended(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    const char *nowhere = world->nodes[3].address;

    b->options.on_up = stop_at_once;
    node_start(a);
    node_start(b);
    assert_int_equal(bus_add_peer(b->bus, a->id, nowhere), 0); /* a dials, b accepts */
    node_add_peer(a, b);
    assert_true(world_run(world, WAIT_NS, bus_is_closed, b));
    assert_int_equal(b->ups[1][BUS_CONTROL], 1);
    world_free(world);
}

/* ---- connections that end and come back ---- */

struct expected {
    struct node *node;
    unsigned peer;
    unsigned downs, ups, refused;
    uint64_t restarted;
};

static bool expected_has_come(void *arg)
{
    struct expected *expected = arg;
    struct node *node = expected->node;

    return node->downs[expected->peer][BUS_CONTROL] >= expected->downs &&
           node->ups[expected->peer][BUS_CONTROL] >= expected->ups &&
           node->refused_times[expected->peer] >= expected->refused &&
           node->restarted[expected->peer] >= expected->restarted;
}

static void a_dead_process_is_noticed_and_refuses(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    struct expected expected = {.node = a, .peer = 2, .downs = 1, .refused = 3};
    uint64_t start_ns;

    world_connect(world, 2);
    assert_int_equal(bus_peer_start_counter(a->bus, 2), 1);
    if (world->sim)
        sim_crash(world->sim, 2, SIM_PROCESS_DIES);
    else
        node_stop(b);
    start_ns = world_now_ns(world);
    while (a->refused_over_ns[2] < 100 * MS) {
        expected.refused = a->refused_times[2] + 1;
        assert_true(world_run(world, WAIT_NS, expected_has_come, &expected));
    }
    assert_true(a->refused_times[2] >= 3);
    assert_true(world_now_ns(world) - start_ns < 400 * MS); /* the budget of a process's death */

    b->options.start_counter = 2;
    node_start(b);
    node_add_peer(b, a);
    wait_connected(a, b);
    assert_int_equal(a->restarted[2], 2);
    assert_int_equal(bus_peer_start_counter(a->bus, 2), 2);
    world_free(world);
}

/* The daemon restarts so fast that its old connections have not ended yet for the other: a cut
 * swallows the resets. The hello with the newer counter is proof enough. */
static void a_restart_is_proof_of_death(void **state)
{
    struct world *world = world_new(ON_SIM, 7);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    struct expected expected = {.node = a, .peer = 2, .restarted = 2};
    uint64_t start_ns;

    (void)state;
    world_connect(world, 2);
    sim_cut(world->sim, 2, 1);
    sim_crash(world->sim, 2, SIM_PROCESS_DIES);
    b->options.start_counter = 2;
    node_start(b);
    node_add_peer(b, a);
    start_ns = world_now_ns(world);
    sim_heal_all(world->sim);
    assert_true(world_run(world, WAIT_NS, expected_has_come, &expected));
    wait_connected(a, b);
    assert_true(world_now_ns(world) - start_ns < SEC);
    world_free(world);
}

static void an_older_start_is_refused(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];

    b->options.start_counter = 5;
    world_connect(world, 2);
    node_stop(b);
    b->options.start_counter = 4;
    node_start(b);
    node_add_peer(b, a);
    world_pass(world, SEC);
    assert_false(bus_is_up(a->bus, 2, BUS_CONTROL));
    assert_int_equal(bus_peer_start_counter(a->bus, 2), 5);
    world_free(world);
}

/* Silence is noticed, by both, within its bound; healing brings both channels back. */
static void a_cut_is_silence(void **state)
{
    struct world *world = world_new(ON_SIM, 3);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    struct expected expected = {.node = a, .peer = 2, .downs = 1};
    uint64_t start_ns;

    (void)state;
    world_connect(world, 2);
    world_pass(world, 30 * SEC); /* idle connections stay */
    assert_int_equal(a->downs[2][BUS_CONTROL] + a->downs[2][BUS_DATA], 0);
    sim_cut(world->sim, 1, 2);
    sim_cut(world->sim, 2, 1);
    start_ns = world_now_ns(world);
    assert_true(world_run(world, WAIT_NS, expected_has_come, &expected));
    assert_in_range(world_now_ns(world) - start_ns, BUS_SILENCE_NS - 500 * MS,
                    BUS_SILENCE_NS + 500 * MS);
    world_pass(world, SEC);
    assert_int_equal(a->downs[2][BUS_DATA], 1);
    assert_int_equal(b->downs[1][BUS_CONTROL], 1);
    assert_int_equal(a->refused_times[2], 0); /* silence is no proof of death */

    sim_heal_all(world->sim);
    start_ns = world_now_ns(world);
    wait_connected(a, b);
    assert_true(world_now_ns(world) - start_ns < 3 * SEC);
    world_free(world);
}

static void count_sent(void *arg)
{
    ++*(unsigned *)arg;
}

/* What is queued for a peer that nobody hears is bounded, and every sent() comes, once. */
static void what_is_queued_is_bounded(void **state)
{
    struct world *world = world_new(ON_SIM, 6);
    struct node *a = &world->nodes[1];
    static uint8_t bytes[BUS_COPY_MAX];
    unsigned queued = 0, sent = 0;
    struct bus_send send = {.to = 2,
                            .type = TEST_NOTE,
                            .data = bytes,
                            .data_bytes = sizeof(bytes),
                            .sent = count_sent,
                            .sent_arg = &sent};
    int r;

    (void)state;
    world_connect(world, 2);
    sim_cut(world->sim, 1, 2);
    for (r = 0; r == 0; queued++) {
        r = bus_send(a->bus, &send);
        if (queued % 16 == 0)
            world_pass(world, MS / 10);
    }
    queued--;
    assert_int_equal(r, -ENOBUFS);
    assert_in_range(queued * sizeof(bytes), 15 * MIB, 24 * MIB); /* the socket takes some */
    world_pass(world, 2 * BUS_SILENCE_NS);
    assert_false(bus_is_up(a->bus, 2, BUS_CONTROL));
    assert_int_equal(sent, queued);
    world_free(world);
}

/* A process that was stopped (SIGSTOP) finds itself without connections, and gets new ones. */
static void a_paused_node_comes_back(void **state)
{
    struct world *world = world_new(ON_SIM, 4);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];

    (void)state;
    world_connect(world, 2);
    sim_pause(world->sim, 2);
    world_pass(world, 10 * SEC);
    assert_int_equal(a->downs[2][BUS_CONTROL], 1);
    sim_resume(world->sim, 2);
    wait_connected(a, b);
    world_free(world);
}

static void broken_connections_come_back_at_once(void **state)
{
    struct world *world = world_new(ON_SIM, 5);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    struct calling calling = calling_new(a, 2, BUS_DATA, TEST_HOLD, 200 * 1024);
    uint64_t start_ns, number;
    static struct held held;

    (void)state;
    world_connect(world, 2);
    world_pass(world, SEC);
    bus_handle(b->bus, TEST_HOLD, hold_handler, &held);
    assert_int_equal(co_spawn(a->io, "caller", co_call, &calling), 0);
    held.wanted = 1;
    assert_true(world_run(world, WAIT_NS, enough_are_held, &held));
    number = bus_connection(a->bus, 2, BUS_DATA);

    start_ns = world_now_ns(world);
    sim_break_connections(world->sim, 1, 2);
    assert_true(world_run(world, WAIT_NS, calling_is_done, &calling));
    assert_int_equal(calling.result, -ENOTCONN);
    wait_connected(a, b);
    assert_true(world_now_ns(world) - start_ns < 50 * MS);
    assert_true(bus_connection(a->bus, 2, BUS_DATA) > number);
    /* an answer to a message of the old connection goes nowhere */
    assert_int_equal(bus_reply(b->bus, held.messages[0], 0, NULL), 0);
    release_all(&held);
    calling_free(&calling);
    world_free(world);
}

/* Both dial at the same moment, in many interleavings: one connection stays, nothing flaps. */
static void crossing_dials_leave_one_connection(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct world *world = world_new(ON_SIM, seed);
        struct node *a = &world->nodes[1], *b = &world->nodes[2];

        node_start(a);
        node_start(b);
        node_add_peer(a, b);
        node_add_peer(b, a);
        wait_connected(a, b);
        world_pass(world, SEC);
        assert_true(nodes_are_connected(a, b));
        assert_int_equal(a->ups[2][BUS_CONTROL], 1);
        assert_int_equal(b->ups[1][BUS_CONTROL], 1);
        assert_int_equal(a->ups[2][BUS_DATA], 1);
        assert_int_equal(b->ups[1][BUS_DATA], 1);
        world_free(world);
    }
}

static void a_removed_peer_stays_away(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];

    world_connect(world, 2);
    bus_remove_peer(a->bus, 2);
    assert_int_equal(a->downs[2][BUS_CONTROL], 1);
    world_pass(world, SEC);
    assert_false(bus_is_up(a->bus, 2, BUS_CONTROL));
    assert_false(bus_is_up(b->bus, 1, BUS_CONTROL));
    node_add_peer(a, b);
    wait_connected(a, b);
    world_free(world);
}

/* ---- who is refused ---- */

static void strangers_are_refused(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *nodes = world->nodes;

    nodes[2].key[0] ^= 1;
    nodes[3].options.cluster[0] ^= 1;
    for (unsigned id = 1; id <= 4; id++)
        node_start(&nodes[id]);
    for (unsigned id = 2; id <= 3; id++) {
        node_add_peer(&nodes[1], &nodes[id]);
        node_add_peer(&nodes[id], &nodes[1]);
    }
    node_add_peer(&nodes[4], &nodes[1]); /* one-sided: 1 does not know 4 */
    assert_int_equal(bus_add_peer(nodes[1].bus, 1, nodes[1].address), -EINVAL);
    world_pass(world, SEC);
    for (unsigned id = 2; id <= 4; id++) {
        assert_int_equal(nodes[1].ups[id][BUS_CONTROL], 0);
        assert_int_equal(nodes[id].ups[1][BUS_CONTROL], 0);
        assert_int_equal(bus_peer_start_counter(nodes[1].bus, id), 0); /* believed nothing */
    }
    world_free(world);
}

/* Address and id disagree: a configuration mistake must not connect the wrong nodes. */
static void a_wrong_address_is_noticed(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];

    node_start(a);
    node_start(b);
    assert_int_equal(bus_add_peer(a->bus, 3, b->address), 0);
    node_add_peer(b, a);
    world_pass(world, SEC);
    assert_false(bus_is_up(a->bus, 3, BUS_CONTROL));
    assert_int_equal(bus_add_peer(a->bus, 2, b->address), 0);
    assert_int_equal(bus_add_peer(a->bus, 2, b->address), 0);
    wait_connected(a, b);
    world_free(world);
}

/* ---- guests ---- */

static const uint8_t token_id[BUS_KEY_ID_BYTES] = "token number 17";
static const uint8_t token_key[BUS_KEY_BYTES] = "the token's thirty-two bytes...";

static int find_token(void *arg, const uint8_t id[BUS_KEY_ID_BYTES], uint8_t ret_key[BUS_KEY_BYTES])
{
    (void)arg;
    if (memcmp(id, token_id, sizeof(token_id)) != 0)
        return -ENOENT;
    memcpy(ret_key, token_key, sizeof(token_key));
    return 0;
}

static void join_handler(void *arg, const struct bus_message *message)
{
    struct bus_send send = {.header = "welcome", .header_bytes = 7, .flags = BUS_CHECKSUM};
    int r;

    assert(message->from == 0);
    assert(memcmp(message->key_id, token_id, sizeof(token_id)) == 0);
    r = bus_reply(*(struct bus **)arg, message, 0, &send);
    assert(r == 0);
}

struct joining {
    struct node *from;
    const char *address;
    struct bus_options options;
    uint16_t type;
    struct bus_reply reply;
    char header[16];
    int result;
};

static void co_join(void *arg)
{
    struct joining *joining = arg;
    struct bus_send request = {.type = joining->type, .header = "let me in", .header_bytes = 9};

    joining->reply = (struct bus_reply){.header = joining->header, .header_bytes = 16};
    joining->result = co_bus_call_address(joining->from->io, &joining->options, joining->address,
                                          &request, 500 * MS, &joining->reply);
}

static void guests_join_with_a_token(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    struct joining joining = {.from = b, .type = TEST_JOIN};
    char address[IO_ADDRESS_MAX];

    a->options.find_key = find_token;
    node_start(a);
    node_start(b);
    bus_handle(a->bus, TEST_JOIN, join_handler, &a->bus);
    bus_allow_guest(a->bus, TEST_JOIN);
    bus_handle(a->bus, TEST_ECHO, echo_handler, &a->bus);
    joining.address = a->address;
    joining.options.key = token_key;
    joining.options.key_bytes = sizeof(token_key);
    memcpy(joining.options.key_id, token_id, sizeof(token_id));

    node_run(b, co_join, &joining);
    assert_int_equal(joining.result, 0);
    assert_int_equal(joining.reply.header_bytes, 7);
    assert_memory_equal(joining.header, "welcome", 7);

    joining.type = TEST_ECHO; /* for members only */
    node_run(b, co_join, &joining);
    assert_int_equal(joining.result, 0);
    assert_int_equal(joining.reply.result, -EOPNOTSUPP);

    joining.options.key = a->key;
    node_run(b, co_join, &joining);
    assert_int_equal(joining.result, -EACCES);
    joining.options.key_id[0] ^= 1;
    node_run(b, co_join, &joining);
    assert_int_equal(joining.result, -EACCES);
    memcpy(joining.options.cluster, "not this one", 12);
    node_run(b, co_join, &joining);
    assert_int_equal(joining.result, -EXDEV);

    snprintf(address, sizeof(address), "%s", a->address);
    joining.address = address;
    node_stop(a);
    node_run(b, co_join, &joining);
    assert_int_equal(joining.result, -ECONNREFUSED);
    world_free(world);
}

/* A join that nobody answers ends when its time is over. */
static void a_guest_call_times_out(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    struct joining joining = {.from = b, .type = TEST_JOIN};
    static struct held held;

    a->options.find_key = find_token;
    node_start(a);
    node_start(b);
    bus_handle(a->bus, TEST_JOIN, hold_handler, &held);
    bus_allow_guest(a->bus, TEST_JOIN);
    joining.address = a->address;
    joining.options.key = token_key;
    joining.options.key_bytes = sizeof(token_key);
    memcpy(joining.options.key_id, token_id, sizeof(token_id));
    node_run(b, co_join, &joining);
    assert_int_equal(joining.result, -ETIMEDOUT);
    release_all(&held);
    world_free(world);
}

/* ---- nonsense ---- */

struct nonsense {
    struct node *from;
    const char *address;
    const void *bytes;
    size_t length;
    uint8_t answer[256];
    int received; /* bytes before the end, or an error */
};

static void co_talk_nonsense(void *arg)
{
    struct nonsense *nonsense = arg;
    struct io_stream *stream;
    int r;

    nonsense->received = 0;
    r = co_io_connect(nonsense->from->io, nonsense->address, SEC, &stream);
    assert(r == 0);
    r = co_io_send(stream, nonsense->bytes, nonsense->length);
    while (r >= 0) {
        r = co_io_recv(stream, nonsense->answer + nonsense->received,
                       sizeof(nonsense->answer) - (size_t)nonsense->received);
        if (r <= 0)
            break;
        nonsense->received += r;
    }
    io_stream_close(stream);
}

static void nonsense_is_refused_and_harms_nobody(void **state)
{
    struct world *world = world_new(backend_of(state), 1);
    struct node *a = &world->nodes[1], *b = &world->nodes[2];
    struct nonsense nonsense = {.from = b};
    struct bus_hello_format future = {.magic = BUS_MAGIC_HELLO,
                                      .version_oldest = BUS_VERSION_NEWEST + 1,
                                      .version_newest = BUS_VERSION_NEWEST + 5,
                                      .bytes = sizeof(future)};
    struct bus_challenge_format refusal;
    uint8_t bytes[300];

    world_connect(world, 2);
    nonsense.address = a->address;
    fill(bytes, sizeof(bytes), 1);
    nonsense.bytes = bytes;
    nonsense.length = sizeof(bytes);
    node_run(b, co_talk_nonsense, &nonsense);
    nonsense.length = 3; /* and then nothing: dropped after the time for handshakes */
    node_run(b, co_talk_nonsense, &nonsense);

    nonsense.bytes = &future; /* a later release asks: it is told our versions */
    nonsense.length = sizeof(future);
    node_run(b, co_talk_nonsense, &nonsense);
    assert_true(nonsense.received >= (int)sizeof(refusal));
    memcpy(&refusal, nonsense.answer, sizeof(refusal));
    assert_int_equal(refusal.refusal, 2);
    assert_int_equal(refusal.version_newest, BUS_VERSION_NEWEST);

    assert_true(nodes_are_connected(a, b));
    assert_int_equal(a->downs[2][BUS_CONTROL] + b->downs[1][BUS_CONTROL], 0);
    world_free(world);
}

/* ---- everything at once ---- */

struct soak {
    struct world *world;
    struct node *node;
    uint64_t sent[NODES_MAX + 1][2];     /* last number sent to */
    uint64_t received[NODES_MAX + 1][2]; /* last number received from */
    uint64_t connection[NODES_MAX + 1][2];
    uint64_t replies, failures;
    struct co_group group;
    bool stop;
};

/* Numbers rise, on a connection without a gap: what a broken one swallowed is lost, never doubled.
 */
static void soak_note(void *arg, const struct bus_message *message)
{
    struct soak *soak = arg;
    uint64_t number;

    memcpy(&number, message->header, sizeof(number));
    assert(is_filled(message->data, message->data_bytes, (unsigned)number));
    assert(number > soak->received[message->from][message->channel]);
    if (message->connection == soak->connection[message->from][message->channel])
        assert(number == soak->received[message->from][message->channel] + 1);
    soak->received[message->from][message->channel] = number;
    soak->connection[message->from][message->channel] = message->connection;
}

static void soak_send(struct soak *soak, unsigned to, enum bus_channel channel, uint32_t size)
{
    struct sent_buffer *buffer = malloc(sizeof(*buffer) + size);
    uint64_t number = soak->sent[to][channel] + 1;
    struct bus_send send = {
        .to = to,
        .channel = channel,
        .type = TEST_NOTE,
        .header = &number,
        .header_bytes = sizeof(number),
        .data = buffer->bytes,
        .data_bytes = size,
        .sent = free,
        .sent_arg = buffer,
    };

    fill(buffer->bytes, size, (unsigned)number);
    if (channel == BUS_DATA && co_bus_credit(soak->node->bus, to, size) < 0) {
        free(buffer);
        return;
    }
    /* others may have sent while we waited for credit */
    number = soak->sent[to][channel] + 1;
    fill(buffer->bytes, size, (unsigned)number);
    if (bus_send(soak->node->bus, &send) < 0) {
        free(buffer);
        return;
    }
    soak->sent[to][channel] = number;
}

static void soak_call(struct soak *soak, unsigned to, enum bus_channel channel, uint32_t size)
{
    struct calling calling = calling_new(soak->node, to, channel, TEST_ECHO, size);

    calling.timeout_ns = 100 * MS;
    co_call(&calling);
    if (calling.result == 0) {
        assert(calling.reply.data_bytes == size && is_filled(calling.room, size, size));
        soak->replies++;
    } else {
        assert(calling.result == -ENOTCONN || calling.result == -ETIMEDOUT ||
               calling.result == -ECANCELED || calling.result == -ENOBUFS);
        soak->failures++;
    }
    calling_free(&calling);
}

static void soak_main(void *arg)
{
    struct soak *soak = arg;
    struct io *io = soak->node->io;

    while (!soak->stop) {
        uint64_t random = io_random(io);
        unsigned to = 1 + random % 3;
        enum bus_channel channel = random >> 8 & 1;
        uint32_t size =
            (random >> 16 & 7) == 0 ? all_sizes(random >> 20 & 15) : random >> 20 & 0x1fff;

        if (to == soak->node->id)
            to = to % 3 + 1;
        if (random >> 40 & 1)
            soak_send(soak, to, channel, size);
        else
            soak_call(soak, to, channel, size);
        if (co_sleep_ns(random >> 40 & 0xffffff) < 0)
            break;
    }
}

static void soak_start(struct soak *soaks, unsigned id, struct world *world)
{
    struct soak *soak = &soaks[id];
    struct node *node = &world->nodes[id];

    for (unsigned other = 1; other <= 3; other++) {
        soak->received[other][0] = soak->received[other][1] = 0;
        soak->connection[other][0] = soak->connection[other][1] = 0;
        if (other != id)
            node_add_peer(node, &world->nodes[other]);
        /* the new process counts from where it is known to be: above what it ever sent */
        soak->sent[other][0] += 1000000;
        soak->sent[other][1] += 1000000;
    }
    soak->node = node;
    soak->stop = false;
    bus_handle(node->bus, TEST_NOTE, soak_note, soak);
    bus_handle(node->bus, TEST_ECHO, echo_large_handler, &node->bus);
    for (unsigned i = 0; i < 4; i++) {
        int r = co_spawn(node->io, "soak", soak_main, soak);

        assert(r == 0);
    }
}

static void soak_fault(struct world *world, struct soak *soaks, uint64_t random)
{
    unsigned a = 1 + random % 3, b = 1 + (random >> 8) % 3;

    switch (random >> 16 & 7) {
    case 0:
    case 1:
        if (a != b)
            sim_break_connections(world->sim, a, b);
        break;
    case 2:
    case 3:
        if (a != b)
            sim_cut(world->sim, a, b);
        break;
    case 4:
        sim_heal_all(world->sim);
        break;
    case 5:
        sim_crash(world->sim, a, random >> 24 & 1 ? SIM_PROCESS_DIES : SIM_HOST_DIES);
        world->nodes[a].options.start_counter++;
        node_start(&world->nodes[a]);
        soak_start(soaks, a, world);
        break;
    case 6:
        sim_pause(world->sim, a);
        world_pass(world, (random >> 24) % (5 * SEC));
        sim_resume(world->sim, a);
        break;
    default:
        break;
    }
}

static void soak_run(uint64_t seed, uint64_t *ret_hash)
{
    struct world *world = world_new(ON_SIM, seed);
    struct soak soaks[NODES_MAX + 1] = {0};
    uint64_t replies[NODES_MAX + 1];

    for (unsigned id = 1; id <= 3; id++)
        node_start(&world->nodes[id]);
    for (unsigned id = 1; id <= 3; id++)
        soak_start(soaks, id, world);
    for (unsigned step = 0; step < 12; step++) {
        world_pass(world, sim_random(world->sim) % (300 * MS));
        soak_fault(world, soaks, sim_random(world->sim));
    }
    /* When the faults end, everything comes back, and soon. */
    sim_heal_all(world->sim);
    for (unsigned id = 1; id <= 3; id++)
        wait_connected(&world->nodes[id], &world->nodes[id % 3 + 1]);
    for (unsigned id = 1; id <= 3; id++)
        replies[id] = soaks[id].replies;
    world_pass(world, SEC);
    for (unsigned id = 1; id <= 3; id++) {
        assert_true(soaks[id].replies > replies[id]);
        soaks[id].stop = true;
    }
    world_pass(world, SEC);
    *ret_hash = sim_transcript_hash(world->sim);
    world_free(world);
}

static void random_faults_lose_no_order_and_leak_nothing(void **state)
{
    uint64_t hash, again;

    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++)
        soak_run(seed, &hash);
    soak_run(8, &again);
    assert_int_equal(hash, again); /* same seed, same run */
}

#define ON_BOTH(test)                                                                              \
    {#test " (io_uring)", test, NULL, NULL, &on_uring},                                            \
    {                                                                                              \
#test " (simulator)", test, NULL, NULL, &on_sim                                            \
    }

int main(void)
{
    static enum backend on_uring = ON_URING, on_sim = ON_SIM;
    const struct CMUnitTest tests[] = {
        ON_BOTH(small_messages_arrive_in_order),
        ON_BOTH(messages_of_all_sizes_arrive_whole),
        ON_BOTH(payloads_can_carry_a_checksum),
        ON_BOTH(too_large_messages_are_refused_here),
        ON_BOTH(counters_are_exported),
        ON_BOTH(calls_are_answered),
        ON_BOTH(large_replies_land_in_place),
        ON_BOTH(a_reply_that_does_not_fit_is_dropped),
        ON_BOTH(unknown_types_are_answered),
        ON_BOTH(late_answers_are_dropped),
        ON_BOTH(credit_runs_out_and_comes_back),
        ON_BOTH(taken_credit_can_be_given_back),
        ON_BOTH(data_needs_credit),
        ON_BOTH(waiting_for_credit_ends_with_the_connection),
        ON_BOTH(a_cancelled_call_ends),
        ON_BOTH(closing_waits_for_kept_messages),
        ON_BOTH(closing_meets_a_handshake_that_has_ended),
        ON_BOTH(a_dead_process_is_noticed_and_refuses),
        cmocka_unit_test(a_restart_is_proof_of_death),
        ON_BOTH(an_older_start_is_refused),
        cmocka_unit_test(a_cut_is_silence),
        cmocka_unit_test(what_is_queued_is_bounded),
        cmocka_unit_test(a_paused_node_comes_back),
        cmocka_unit_test(broken_connections_come_back_at_once),
        cmocka_unit_test(crossing_dials_leave_one_connection),
        ON_BOTH(a_removed_peer_stays_away),
        ON_BOTH(strangers_are_refused),
        ON_BOTH(a_wrong_address_is_noticed),
        ON_BOTH(guests_join_with_a_token),
        ON_BOTH(a_guest_call_times_out),
        ON_BOTH(nonsense_is_refused_and_harms_nobody),
        cmocka_unit_test(random_faults_lose_no_order_and_leak_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
