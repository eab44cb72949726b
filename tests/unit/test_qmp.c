/* QMP against a scripted QEMU in the simulator, whose streams deliver in pieces of any size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "hv/qmp.h"
#include "s2d/base/co.h"
#include "s2d/base/sim.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define RUN_NS (3600 * SEC)

/* ---- messages ---- */

static int parse(const char *line, struct qmp_message *ret_message)
{
    return qmp_parse(line, strlen(line), ret_message);
}

static void messages_are_told_apart(void **state)
{
    struct qmp_message message;

    (void)state;
    assert_int_equal(parse("{\"QMP\": {}}", &message), 0);
    assert_int_equal(message.kind, QMP_GREETING);
    assert_int_equal(parse("{\"return\": {\"status\": \"running\"}, \"id\": 3}", &message), 0);
    assert_int_equal(message.kind, QMP_RETURN);
    assert_int_equal(message.id, 3);
    assert_string_equal(json_string_value(json_object_get(message.value, "status")), "running");
    qmp_message_done(&message);
    assert_int_equal(
        parse("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 4}", &message),
        0);
    assert_int_equal(message.kind, QMP_ERROR);
    assert_string_equal(message.error, "no");
    assert_int_equal(parse("{\"event\": \"STOP\", \"timestamp\": {}}", &message), 0);
    assert_int_equal(message.kind, QMP_EVENT);
    assert_string_equal(message.event, "STOP");
    assert_null(message.value);
}

static void nonsense_is_refused(void **state)
{
    static const char *const lines[] = {
        "",
        "{",
        "[]",
        "7",
        "{}",
        "{\"QMP\": 1}",
        "{\"event\": 1}",
        "{\"error\": \"text\"}",
        "{\"error\": {\"desc\": 5}}",
        "{\"return\": {}, \"return\": {}}",
        "{\"return\": {}} {\"return\": {}}",
    };
    struct qmp_message message;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
        assert_int_equal(parse(lines[i], &message), -EPROTO);
}

/* QEMU is asked by a coroutine, whose stack is small, and the parser recurses. */
static void deep_json_is_refused(void **state)
{
    char line[200] = "{\"return\": ";
    struct qmp_message message;

    (void)state;
    memset(line + strlen(line), '[', 100);
    assert_int_equal(parse(line, &message), -EPROTO);
    memset(strchr(line, '['), '[', JSON_LEVELS_MAX - 1);
    memset(strchr(line, '[') + JSON_LEVELS_MAX - 1, ']', JSON_LEVELS_MAX - 1);
    strcpy(strchr(line, '[') + 2 * (JSON_LEVELS_MAX - 1), "}");
    assert_int_equal(parse(line, &message), 0);
    qmp_message_done(&message);
}

static void long_names_are_cut(void **state)
{
    char line[600];
    struct qmp_message message;

    (void)state;
    snprintf(line, sizeof(line), "{\"event\": \"%0500d\"}", 0);
    assert_int_equal(parse(line, &message), 0);
    assert_int_equal(strlen(message.event), QMP_EVENT_BYTES - 1);
    snprintf(line, sizeof(line), "{\"error\": {\"desc\": \"%0500d\"}}", 0);
    assert_int_equal(parse(line, &message), 0);
    assert_int_equal(strlen(message.error), QMP_ERROR_BYTES - 1);
}

/* ---- the connection ---- */

struct world {
    struct sim *sim;
    struct io *io;
    void (*co_test)(struct world *world);
    const char *after_greeting; /* sent with the answer to qmp_capabilities */
    const char *reply;          /* to each later command; %s: its id; NULL: none */
    uint64_t listen_after_ns;
    bool mute; /* no greeting, as a stopped QEMU */
    bool close_after_command;
    struct io_listener *listener;
    struct co_group group;
    char events[256], received[1024];
    bool done;
};

static void on_event(void *arg, const char *event, const json_t *data)
{
    struct world *world = arg;

    (void)data;
    strncat(world->events, event, sizeof(world->events) - strlen(world->events) - 2);
    strcat(world->events, " ");
}

/* Waits for a whole command; returns its id, 0 at the end of the connection. */
static int co_take_command(struct world *world, struct io_stream *stream)
{
    char text[512] = "";
    size_t length = 0;
    json_t *command = NULL;
    int id;

    while (!(command = json_loadb(text, length, 0, NULL))) {
        int r = co_io_recv(stream, text + length, sizeof(text) - 1 - length);

        if (r <= 0)
            return 0;
        length += (size_t)r;
    }
    id = (int)json_integer_value(json_object_get(command, "id"));
    snprintf(world->received, sizeof(world->received), "%.*s", (int)length, text);
    json_decref(command);
    return id;
}

static void co_say(struct io_stream *stream, const char *text)
{
    int r = co_io_send(stream, text, strlen(text));

    assert_true(r <= 0); /* the client may be gone */
}

static void co_qemu(void *arg)
{
    struct world *world = arg;
    struct io_stream *stream;
    char line[512];
    int id;

    while (co_io_accept(world->listener, &stream) == 0) {
        if (!world->mute)
            co_say(stream, GREETING);
        id = co_take_command(world, stream);
        if (id) {
            snprintf(line, sizeof(line), "{\"return\": {}, \"id\": %d}\r\n", id);
            co_say(stream, line);
            if (world->after_greeting)
                co_say(stream, world->after_greeting);
        }
        while ((id = co_take_command(world, stream)) != 0 && !world->close_after_command) {
            if (world->reply) {
                snprintf(line, sizeof(line), world->reply, id);
                co_say(stream, line);
            }
        }
        io_stream_close(stream);
    }
}

static void co_listen(void *arg)
{
    struct world *world = arg;

    if (world->listen_after_ns)
        assert_int_equal(co_sleep_ns(world->listen_after_ns), 0);
    assert_int_equal(io_listen(world->io, "unix:/qmp", &world->listener), 0);
    co_qemu(world);
}

static void co_main(struct io *io, void *arg)
{
    struct world *world = arg;

    world->io = io;
    co_group_init(&world->group);
    assert_int_equal(co_group_spawn(&world->group, io, "qemu", co_listen, world), 0);
    world->co_test(world);
    if (world->listener)
        io_listener_shutdown(world->listener);
    co_group_wait(&world->group);
    io_listener_close(world->listener);
    world->done = true;
    io_stop(io);
}

static void run(struct world *world)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct sim_options options = sim_default_options(seed);
        struct world fresh = *world;
        cleanup(sim_freep) struct sim *sim = NULL;

        assert_int_equal(sim_new(&options, &sim), 0);
        fresh.sim = sim;
        assert_int_equal(sim_start(sim, 1, co_main, &fresh), 0);
        sim_run(sim, RUN_NS, NULL, NULL);
        assert_true(fresh.done);
    }
}

static struct qmp *co_connect(struct world *world)
{
    struct qmp *qmp = NULL;

    assert_int_equal(co_qmp_connect(world->io, "/qmp", UINT64_MAX, on_event, world, &qmp), 0);
    return qmp;
}

static void co_test_command(struct world *world)
{
    struct qmp *qmp = co_connect(world);
    json_t *value;

    for (int i = 0; i < 3; i++) {
        assert_int_equal(
            co_qmp_execute(qmp, "query-status", json_pack("{s:i}", "x", i), SEC, &value), 0);
        assert_string_equal(json_string_value(json_object_get(value, "status")), "running");
        json_decref(value);
    }
    assert_non_null(strstr(world->received, "query-status"));
    assert_non_null(strstr(world->received, "\"x\":2"));
    assert_string_equal(world->events, "RESET STOP ");
    co_qmp_free(qmp);
}

static void a_command_gets_its_answer(void **state)
{
    struct world world = {.co_test = co_test_command,
                          .after_greeting = "{\"event\": \"RESET\"}\r\n{\"event\": \"STOP\"}\r\n",
                          /* An answer to nobody's command, and one of an earlier number, come
                             before the right one. */
                          .reply = "{\"return\": {}, \"id\": 999}\r\n{\"return\": {}}\r\n"
                                   "{\"return\": {\"status\": \"running\"}, \"id\": %d}\r\n"};

    (void)state;
    run(&world);
}

static void co_test_refusal(struct world *world)
{
    struct qmp *qmp = co_connect(world);

    assert_int_equal(co_qmp_execute(qmp, "cont", NULL, SEC, NULL), -EREMOTEIO);
    assert_string_equal(qmp_error(qmp), "not now");
    co_qmp_free(qmp);
}

static void a_refusal_says_why(void **state)
{
    struct world world = {
        .co_test = co_test_refusal,
        .reply =
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}, \"id\": %d}\r\n"};

    (void)state;
    run(&world);
}

/* The answer that comes too late must not be taken for that of the next command. */
static void co_test_timeout(struct world *world)
{
    struct qmp *qmp = co_connect(world);

    assert_int_equal(co_qmp_execute(qmp, "stop", NULL, SEC, NULL), -ETIMEDOUT);
    assert_int_equal(co_qmp_execute(qmp, "cont", NULL, SEC, NULL), -ETIMEDOUT);
    co_qmp_free(qmp);
}

static void no_answer_is_a_timeout(void **state)
{
    struct world world = {.co_test = co_test_timeout};

    (void)state;
    run(&world);
}

static void co_test_closed(struct world *world)
{
    struct qmp *qmp = co_connect(world);

    assert_int_equal(co_qmp_execute(qmp, "quit", NULL, SEC, NULL), -ECONNRESET);
    assert_int_equal(co_qmp_wait_closed(qmp, UINT64_MAX), -ECONNRESET);
    assert_int_equal(co_qmp_execute(qmp, "quit", NULL, SEC, NULL), -ECONNRESET);
    co_qmp_free(qmp);
}

static void the_end_of_the_connection_ends_commands(void **state)
{
    struct world world = {.co_test = co_test_closed, .close_after_command = true};

    (void)state;
    run(&world);
}

static void co_test_nonsense(struct world *world)
{
    struct qmp *qmp = co_connect(world);

    assert_int_equal(co_qmp_wait_closed(qmp, UINT64_MAX), -EPROTO);
    co_qmp_free(qmp);
}

static void nonsense_ends_the_connection(void **state)
{
    struct world world = {.co_test = co_test_nonsense, .after_greeting = "hello\r\n"};

    (void)state;
    run(&world);
}

static void co_test_late(struct world *world)
{
    struct qmp *qmp = NULL;

    assert_int_equal(
        co_qmp_connect(world->io, "/qmp", io_now_ns(world->io) + SEC, on_event, world, &qmp),
        -ETIMEDOUT);
    qmp = co_connect(world);
    co_qmp_free(qmp);
}

static void waits_for_a_qemu_that_starts(void **state)
{
    struct world world = {.co_test = co_test_late, .listen_after_ns = 10 * SEC};

    (void)state;
    run(&world);
}

static void co_test_mute(struct world *world)
{
    struct qmp *qmp = NULL;

    assert_int_equal(
        co_qmp_connect(world->io, "/qmp", io_now_ns(world->io) + 5 * SEC, on_event, world, &qmp),
        -ETIMEDOUT);
    assert_null(qmp);
}

static void a_stopped_qemu_does_not_hold_us(void **state)
{
    struct world world = {.co_test = co_test_mute, .mute = true};

    (void)state;
    run(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_are_told_apart),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(deep_json_is_refused),
        cmocka_unit_test(long_names_are_cut),
        cmocka_unit_test(a_command_gets_its_answer),
        cmocka_unit_test(a_refusal_says_why),
        cmocka_unit_test(no_answer_is_a_timeout),
        cmocka_unit_test(the_end_of_the_connection_ends_commands),
        cmocka_unit_test(nonsense_ends_the_connection),
        cmocka_unit_test(waits_for_a_qemu_that_starts),
        cmocka_unit_test(a_stopped_qemu_does_not_hold_us),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
