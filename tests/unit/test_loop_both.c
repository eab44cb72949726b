/* One program, run over both backends of the loop: what holds in the simulator must hold on a
 * kernel, or its verdicts are worth nothing. The same assertions, line by line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/co.h"
#include "s2d/base/sim.h"

#define ECHO_MAX (600 * 1024)

struct program {
    struct io *io;
    const char *folder; /* for files and sockets */
    bool done;
};

static bool program_done(void *arg)
{
    return ((struct program *)arg)->done;
}

/* ---- streams ---- */

struct server {
    struct io *io;
    struct io_listener *listener;
    struct co_group group;
    unsigned served;
};

static void echo(void *arg)
{
    cleanup(io_stream_closep) struct io_stream *stream = arg;
    char buffer[16 * 1024];
    int r;

    while ((r = co_io_recv(stream, buffer, sizeof(buffer))) > 0) {
        if (co_io_send(stream, buffer, (size_t)r) < 0)
            break;
    }
}

static void serve(void *arg)
{
    struct server *server = arg;
    struct io_stream *stream;
    int r;

    while ((r = co_io_accept(server->listener, &stream)) == 0) {
        server->served++;
        assert_int_equal(co_group_spawn(&server->group, server->io, "echo", echo, stream), 0);
    }
    assert_int_equal(r, -ECANCELED);
}

struct reader {
    struct io_stream *stream;
    char *buffer;
    size_t length;
};

static void read_all(void *arg)
{
    struct reader *reader = arg;

    assert_int_equal(co_io_recv_all(reader->stream, reader->buffer, reader->length), 0);
}

/* Reads while it sends: the echo would fill both windows otherwise. */
static void echo_once(struct io *io, struct io_stream *stream, size_t length)
{
    cleanup(freep) char *sent = malloc(length);
    cleanup(freep) char *got = calloc(1, length);
    struct reader reader = {.stream = stream, .buffer = got, .length = length};
    struct iovec iov[3];
    struct co_group group;

    for (size_t i = 0; i < length; i++)
        sent[i] = (char)(i * 31 + length);
    iov[0] = (struct iovec){sent, length / 3};
    iov[1] = (struct iovec){sent + length / 3, 0};
    iov[2] = (struct iovec){sent + length / 3, length - length / 3};
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, io, "reader", read_all, &reader), 0);
    assert_int_equal(co_io_sendv(stream, iov, 3), 0);
    co_group_wait(&group);
    assert_memory_equal(sent, got, length);
}

static void recv_after_shutdown(void *arg)
{
    struct io_stream *stream = arg;
    char byte;

    assert_true(co_io_recv(stream, &byte, 1) <= 0);
}

static void use_streams(struct program *program, const char *address)
{
    struct server server = {.io = program->io};
    struct io_stream *stream, *other;
    struct co_group group;
    char bound[IO_ADDRESS_MAX], byte;
    struct io_listener *twin;

    co_group_init(&server.group);
    assert_int_equal(io_listen(program->io, address, &server.listener), 0);
    strcpy(bound, io_listener_address(server.listener));
    assert_int_equal(io_listen(program->io, bound, &twin), -EADDRINUSE);
    assert_int_equal(co_group_spawn(&server.group, program->io, "server", serve, &server), 0);

    assert_int_equal(co_io_connect(program->io, bound, SEC, &stream), 0);
    for (size_t length = 1; length <= ECHO_MAX; length = length * 5 + 1)
        echo_once(program->io, stream, length);
    assert_int_equal(co_io_connect(program->io, bound, SEC, &other), 0);
    echo_once(program->io, other, 100);
    assert_true(strlen(io_stream_peer(other)) > 0);
    io_stream_close(other);

    /* a receive that is pending ends when its stream is shut down */
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, program->io, "recv", recv_after_shutdown, stream), 0);
    co_yield ();
    io_stream_shutdown(stream);
    io_stream_shutdown(stream);
    co_group_wait(&group);
    recv_after_shutdown(stream);
    assert_true(co_io_send(stream, &byte, 1) < 0);
    io_stream_close(stream);

    io_listener_shutdown(server.listener);
    co_group_wait(&server.group);
    assert_in_range(server.served, 2,
                    3); /* the twin may have knocked: is the socket's owner dead? */
    io_listener_close(server.listener);
    if (strncmp(address, "unix:", 5) != 0)
        assert_int_equal(co_io_connect(program->io, bound, SEC, &stream), -ECONNREFUSED);
}

static void sip(void *arg)
{
    struct io_stream *stream = *(struct io_stream **)arg;
    char bytes[10];

    assert_int_equal(co_io_recv_all(stream, bytes, 10), -ECONNRESET); /* five, and the end */
}

static void end_early(struct program *program)
{
    struct io_listener *listener;
    struct io_stream *client, *server;
    struct co_group group;
    char byte;

    assert_int_equal(io_listen(program->io, "127.0.0.1:0", &listener), 0);
    assert_int_equal(co_io_connect(program->io, io_listener_address(listener), SEC, &client), 0);
    assert_int_equal(co_io_accept(listener, &server), 0);
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, program->io, "sip", sip, &server), 0);
    assert_int_equal(co_io_send(client, "12345", 5), 0);
    io_stream_close(client);
    co_group_wait(&group);
    assert_int_equal(co_io_recv(server, &byte, 1), 0); /* and again the end */
    io_stream_close(server);
    io_listener_close(listener);
    assert_int_equal(co_io_connect(program->io, "nonsense", SEC, &client), -EINVAL);
    assert_int_equal(co_io_connect(program->io, "127.0.0.1:99999", SEC, &client), -EINVAL);
}

/* ---- files ---- */

static void use_file(struct program *program)
{
    static char block[4][BLOCK_SIZE] __attribute__((aligned(BLOCK_SIZE)));
    static char back[4][BLOCK_SIZE] __attribute__((aligned(BLOCK_SIZE)));
    struct iovec iov[2] = {{block[0], 2 * BLOCK_SIZE}, {block[2], 2 * BLOCK_SIZE}};
    struct io_file *file, *second;
    char path[200];

    memset(block, 0, sizeof(block));
    snprintf(path, sizeof(path), "%s/file", program->folder);
    assert_int_equal(co_io_open(program->io, path, 0, &file), -ENOENT);
    assert_int_equal(
        co_io_open(program->io, path, IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE | IO_OPEN_LOCK, &file), 0);
    assert_int_equal(co_io_open(program->io, path, IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE, &second),
                     -EEXIST);
    assert_int_equal(co_io_open(program->io, path, IO_OPEN_LOCK, &second), -EBUSY);
    assert_int_equal(io_file_info(file)->size_bytes, 0);
    assert_ptr_equal(io_file_io(file), program->io);

    assert_int_equal(co_io_truncate(file, 16 * BLOCK_SIZE), 0);
    assert_int_equal(io_file_info(file)->size_bytes, 16 * BLOCK_SIZE);
    assert_int_equal(co_io_read(file, back, sizeof(back), 12 * BLOCK_SIZE), 0);
    assert_memory_equal(back, block, sizeof(back));                                /* zeros */
    assert_int_equal(co_io_read(file, back, sizeof(back), 13 * BLOCK_SIZE), -EIO); /* the end */

    memset(block, 'x', sizeof(block));
    memset(block[3], 'y', BLOCK_SIZE);
    assert_int_equal(co_io_writev(file, iov, 2, BLOCK_SIZE, IO_WRITE_DSYNC), 0);
    assert_int_equal(co_io_write(file, "end", 3, 16 * BLOCK_SIZE, 0), 0); /* makes it longer */
    assert_int_equal(co_io_sync(file), 0);
    io_file_close(file);

    assert_int_equal(co_io_open(program->io, path, IO_OPEN_READ_ONLY | IO_OPEN_LOCK, &file), 0);
    assert_int_equal(io_file_info(file)->size_bytes, 16 * BLOCK_SIZE + 3);
    assert_int_equal(co_io_read(file, back, sizeof(back), BLOCK_SIZE), 0);
    assert_memory_equal(back, block, sizeof(back));
    assert_int_equal(co_io_write(file, "no", 2, 0, 0), -EBADF);
    io_file_close(file);

    assert_int_equal(co_io_open(program->io, path, IO_OPEN_DIRECT, &file), 0);
    assert_int_equal(co_io_discard(file, 2 * BLOCK_SIZE, 2 * BLOCK_SIZE), 0);
    iov[0] = (struct iovec){back[0], BLOCK_SIZE};
    iov[1] = (struct iovec){back[1], 3 * BLOCK_SIZE};
    assert_int_equal(co_io_readv(file, iov, 2, BLOCK_SIZE), 0);
    memset(block[1], 0, 2 * BLOCK_SIZE);
    assert_memory_equal(back, block, sizeof(back));
    assert_int_equal(co_io_write(file, block[0] + 1, BLOCK_SIZE, 0, 0), -EINVAL);
    assert_int_equal(co_io_write(file, block, BLOCK_SIZE, 512 + 1, 0), -EINVAL);
    io_file_close(file);
}

/* ---- timers, tasks, coroutines ---- */

struct trace {
    struct io *io;
    char text[32];
    unsigned length;
    struct io_task queued, deferred, posted;
    struct io_timer timers[3];
    struct co *waiter;
    struct co_cond cond;
};

static void trace_add(struct trace *trace, char letter)
{
    assert_true(trace->length < sizeof(trace->text) - 1);
    trace->text[trace->length++] = letter;
}

static void on_queued(void *arg)
{
    trace_add(arg, 'q');
}

static void on_deferred(void *arg)
{
    trace_add(arg, 'd');
}

static void on_posted(void *arg)
{
    struct trace *trace = arg;

    trace_add(trace, 'p');
    co_cond_signal(&trace->cond);
}

static void on_first(void *arg)
{
    trace_add(arg, '1');
}

static void on_second(void *arg)
{
    trace_add(arg, '2');
}

static void on_third(void *arg)
{
    struct trace *trace = arg;

    trace_add(trace, '3');
    co_wake(trace->waiter);
}

static void coroutine_in_turn(void *arg)
{
    trace_add(arg, 'c');
}

/* Ready coroutines, then queued tasks, then what was deferred: modules gather a turn's work by it.
 */
static void turn_has_its_order(struct io *io)
{
    struct trace trace = {.io = io};

    io_task_init(&trace.queued, on_queued, &trace);
    io_task_init(&trace.deferred, on_deferred, &trace);
    io_defer(io, &trace.deferred);
    io_defer(io, &trace.deferred); /* once */
    io_queue(io, &trace.queued);
    assert_int_equal(co_spawn(io, "in turn", coroutine_in_turn, &trace), 0);
    assert_int_equal(co_sleep_ns(MS), 0);
    assert_string_equal(trace.text, "cqd");
    io_defer(io, &trace.deferred);
    io_task_cancel(&trace.deferred);
    assert_int_equal(co_sleep_ns(MS), 0);
    assert_string_equal(trace.text, "cqd");
}

static void timers_fire_in_order(struct io *io)
{
    struct trace trace = {.io = io, .waiter = co_self()};
    uint64_t start_ns = io_now_ns(io);
    io_callback *const fns[] = {on_third, on_first, on_second};
    uint64_t delays_ns[] = {9 * MS, 3 * MS, 6 * MS};

    for (int i = 0; i < 3; i++) {
        io_timer_init(&trace.timers[i], fns[i], &trace);
        assert_false(io_timer_armed(&trace.timers[i]));
        io_timer_arm(io, &trace.timers[i], start_ns + SEC);
        io_timer_arm(io, &trace.timers[i], start_ns + delays_ns[i]); /* moves it */
    }
    io_timer_disarm(io, &trace.timers[2]);
    co_wait();
    assert_string_equal(trace.text, "13");
    assert_true(io_now_ns(io) >= start_ns + 9 * MS);
    assert_true(io_clock_ns(io) >= io_now_ns(io));
    assert_false(io_timer_armed(&trace.timers[0]));
}

struct alarm {
    struct io_timer timer;
    unsigned number;
    unsigned *next;
};

static void on_alarm(void *arg)
{
    struct alarm *alarm = arg;

    assert_int_equal(alarm->number, (*alarm->next)++);
}

/* Of the same deadline: in the order of arming. */
static void equal_timers_take_turns(struct io *io)
{
    struct alarm alarms[50];
    uint64_t deadline_ns = io_now_ns(io) + 2 * MS;
    unsigned next = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(alarms); i++) {
        alarms[i].next = &next;
        io_timer_init(&alarms[i].timer, on_alarm, &alarms[i]);
        io_timer_arm(io, &alarms[i].timer, deadline_ns);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(alarms); i++) {
        alarms[(i * 7) % ARRAY_SIZE(alarms)].number = i;
        io_timer_arm(io, &alarms[(i * 7) % ARRAY_SIZE(alarms)].timer, deadline_ns);
    }
    assert_int_equal(co_sleep_ns(3 * MS), 0);
    assert_int_equal(next, ARRAY_SIZE(alarms));
}

static void post_from_worker(void *arg)
{
    struct trace *trace = arg;

    io_post(trace->io, &trace->posted);
}

static void worker_posts(struct io *io)
{
    struct trace trace = {.io = io};

    co_cond_init(&trace.cond);
    io_task_init(&trace.posted, on_posted, &trace);
    co_offload(io, post_from_worker, &trace);
    while (trace.length == 0)
        assert_int_equal(co_cond_wait(&trace.cond), 0);
    assert_string_equal(trace.text, "p");
}

struct sleeper {
    struct io_listener *listener;
    int results[3];
};

static void sleep_accept_wait(void *arg)
{
    struct sleeper *sleeper = arg;
    struct io_stream *stream;
    struct co_cond never;

    sleeper->results[0] = co_io_accept(sleeper->listener, &stream);
    sleeper->results[1] = co_sleep_ns(1000 * SEC);
    co_cond_init(&never);
    sleeper->results[2] = co_cond_wait(&never);
}

static void cancelled_coroutine_unwinds(struct io *io)
{
    struct sleeper sleeper = {0};
    struct co *co;

    assert_int_equal(io_listen(io, "127.0.0.1:0", &sleeper.listener), 0);
    assert_int_equal(co_spawn_handle(io, "sleeper", sleep_accept_wait, &sleeper, &co), 0);
    assert_int_equal(co_sleep_ns(2 * MS), 0);
    co_cancel(co);
    assert_int_equal(co_sleep_ns(2 * MS), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(sleeper.results[i], -ECANCELED);
    io_listener_close(sleeper.listener);
}

/* ---- the program, and its two homes ---- */

static void program_main(struct io *io, void *arg)
{
    struct program *program = arg;
    char address[IO_ADDRESS_MAX];

    program->io = io;
    turn_has_its_order(io);
    timers_fire_in_order(io);
    equal_timers_take_turns(io);
    worker_posts(io);
    cancelled_coroutine_unwinds(io);
    use_streams(program, "127.0.0.1:0");
    snprintf(address, sizeof(address), "unix:%s/socket", program->folder);
    use_streams(program, address);
    end_early(program);
    use_file(program);
    program->done = true;
    io_stop(io);
}

static void program_co(void *arg)
{
    struct program *program = arg;

    program_main(program->io, program);
}

static void over_io_uring(void **state)
{
    cleanup(io_freep) struct io *io = NULL;
    char folder[] = "loop_both.XXXXXX";
    struct program program = {.folder = mkdtemp(folder)};
    char path[200];

    (void)state;
    assert_non_null(program.folder);
    assert_int_equal(io_uring_new(NULL, &io), 0);
    program.io = io;
    assert_int_equal(co_spawn(io, "main", program_co, &program), 0);
    io_run(io);
    assert_true(program.done);
    snprintf(path, sizeof(path), "%s/file", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0); /* the socket is gone by itself */
}

static void over_the_simulator(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct sim_options options = sim_default_options(seed);
        struct program program = {.folder = "/run"};
        cleanup(sim_freep) struct sim *sim = NULL;

        assert_int_equal(sim_new(&options, &sim), 0);
        assert_int_equal(sim_start(sim, 1, program_main, &program), 0);
        assert_true(sim_run(sim, 10 * SEC, program_done, &program));
        sim_run(sim, sim_now_ns(sim) + SEC, NULL, NULL);
        assert_false(sim_is_up(sim, 1));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(over_the_simulator),
        cmocka_unit_test(over_io_uring),
    };

    setenv("CMOCKA_TEST_ABORT", "1", 1); /* it could not jump out of a coroutine */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
