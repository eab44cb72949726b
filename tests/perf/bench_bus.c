/* bench_bus [SECONDS]: what a message of the bus costs. Two processes on loopback: one sends 4 KiB
 * data messages and keeps `depth` of them unanswered; the other acknowledges each with a small
 * control message, as a store answers an owner. Prints messages a second, latency, and CPU (both
 * processes, user and system) for each message with its acknowledgement.
 *
 * The design's budget (section 13) is 1.8 us a write for two sends, batched, and their
 * acknowledgements at depth 32; the receives are budgeted with the log. */
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "s2d/base/co.h"
#include "s2d/base/metrics.h"
#include "s2d/bus/bus.h"
#include "s2d/bus/message_types.h"

#define SERVER_ADDRESS "127.0.0.1:17877"
#define DEPTH_MAX 64

enum { BENCH_WRITE = BUS_TYPE_BUS, BENCH_ACK, BENCH_BYE };

struct header { /* about what a record's header is */
    uint64_t number;
    uint8_t rest[56];
};

struct bench {
    struct io *io;
    struct bus *bus;
    unsigned node, peer;
    unsigned depth, outstanding;
    uint64_t next, acked;
    uint64_t sent_at_ns[DEPTH_MAX];
    struct histogram latency;
    bool running;
    struct co_cond changed;
    struct io_task send_task;
    uint8_t data[BLOCK_SIZE] __attribute__((aligned(4096)));
};

static void must(int r)
{
    assert(r >= 0);
}

static struct bus *open_bus(struct bench *bench, const char *listen)
{
    static const uint8_t key[BUS_KEY_BYTES];
    struct bus_options options = {
        .node = bench->node,
        .start_counter = 1,
        .key = key,
        .key_bytes = sizeof(key),
        .listen = listen,
    };
    struct bus *bus;

    must(bus_new(bench->io, &options, &bus));
    return bus;
}

/* ---- the server ---- */

static void write_handler(void *arg, const struct bus_message *message)
{
    struct bench *bench = arg;
    struct bus_send ack = {.to = message->from,
                           .channel = BUS_CONTROL,
                           .type = BENCH_ACK,
                           .header = message->header,
                           .header_bytes = sizeof(uint64_t)};

    must(bus_send(bench->bus, &ack));
}

static void bye_handler(void *arg, const struct bus_message *message)
{
    struct bench *bench = arg;

    (void)message;
    bench->running = false;
    co_cond_broadcast(&bench->changed);
}

static void server_main(void *arg)
{
    struct bench *bench = arg;

    bench->bus = open_bus(bench, SERVER_ADDRESS);
    must(bus_add_peer(bench->bus, bench->peer, "127.0.0.1:9")); /* it dials us */
    bus_handle(bench->bus, BENCH_WRITE, write_handler, bench);
    bus_handle(bench->bus, BENCH_BYE, bye_handler, bench);
    bench->running = true;
    while (bench->running)
        must(co_cond_wait(&bench->changed));
    co_bus_close(bench->bus);
    io_stop(bench->io);
}

/* ---- the client ---- */

static void send_writes(void *arg)
{
    struct bench *bench = arg;

    while (bench->running && bench->outstanding < bench->depth &&
           bus_try_credit(bench->bus, bench->peer, sizeof(bench->data)) == 0) {
        struct header header = {.number = bench->next};
        struct bus_send send = {.to = bench->peer,
                                .channel = BUS_DATA,
                                .type = BENCH_WRITE,
                                .header = &header,
                                .header_bytes = sizeof(header),
                                .data = bench->data,
                                .data_bytes = sizeof(bench->data)};

        must(bus_send(bench->bus, &send));
        bench->sent_at_ns[bench->next++ % DEPTH_MAX] = io_clock_ns(bench->io);
        bench->outstanding++;
    }
}

static void ack_handler(void *arg, const struct bus_message *message)
{
    struct bench *bench = arg;
    uint64_t number;

    memcpy(&number, message->header, sizeof(number));
    assert(number == bench->acked);
    histogram_add(&bench->latency, io_clock_ns(bench->io) - bench->sent_at_ns[number % DEPTH_MAX]);
    bench->acked++;
    bench->outstanding--;
    io_queue(bench->io, &bench->send_task);
    if (bench->outstanding == 0)
        co_cond_broadcast(&bench->changed);
}

static double cpu_seconds(int who)
{
    struct rusage usage;

    getrusage(who, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double process_cpu_seconds(pid_t pid)
{
    char path[64];
    unsigned long user = 0, system = 0;
    FILE *file;
    int fields;

    snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)pid);
    file = fopen(path, "r");
    assert(file);
    fields = fscanf(file, "%lu %lu", &user, &system);
    assert(fields == 2);
    fclose(file);
    return (double)user / 1e9;
}

static void measure(struct bench *bench, unsigned depth, double seconds, pid_t server)
{
    double cpu = cpu_seconds(RUSAGE_SELF), server_cpu = process_cpu_seconds(server);
    uint64_t start_ns = io_clock_ns(bench->io), acked = bench->acked;
    double took, count;

    bench->depth = depth;
    bench->running = true;
    histogram_reset(&bench->latency);
    io_queue(bench->io, &bench->send_task);
    must(co_sleep_ns((uint64_t)(seconds * 1e9)));
    bench->running = false;
    while (bench->outstanding > 0)
        must(co_cond_wait(&bench->changed));

    took = (double)(io_clock_ns(bench->io) - start_ns) / 1e9;
    count = (double)(bench->acked - acked);
    cpu = cpu_seconds(RUSAGE_SELF) - cpu;
    server_cpu = process_cpu_seconds(server) - server_cpu;
    printf("depth %2u: %8.0f messages/s, p50 %5.1f us, p99 %6.1f us, CPU %4.2f + %4.2f us\n", depth,
           count / took, (double)histogram_percentile(&bench->latency, 0.5) / 1e3,
           (double)histogram_percentile(&bench->latency, 0.99) / 1e3, cpu * 1e6 / count,
           server_cpu * 1e6 / count);
}

struct client {
    struct bench *bench;
    double seconds;
    pid_t server;
};

static void client_main(void *arg)
{
    static const unsigned depths[] = {1, 4, 32};
    struct client *client = arg;
    struct bench *bench = client->bench;
    struct bus_send bye = {.to = bench->peer, .channel = BUS_CONTROL, .type = BENCH_BYE};

    bench->bus = open_bus(bench, NULL);
    bus_handle(bench->bus, BENCH_ACK, ack_handler, bench);
    must(bus_add_peer(bench->bus, bench->peer, SERVER_ADDRESS));
    while (!bus_is_up(bench->bus, bench->peer, BUS_DATA))
        must(co_sleep_ns(10 * MS));
    must(co_sleep_ns(100 * MS));
    for (size_t i = 0; i < ARRAY_SIZE(depths); i++)
        measure(bench, depths[i], client->seconds, client->server);
    must(bus_send(bench->bus, &bye));
    must(co_sleep_ns(100 * MS));
    co_bus_close(bench->bus);
    io_stop(bench->io);
}

static void run(unsigned node, co_fn *fn, struct bench *bench, void *arg)
{
    must(io_uring_new(NULL, &bench->io));
    bench->node = node;
    bench->peer = 3 - node;
    co_cond_init(&bench->changed);
    io_task_init(&bench->send_task, send_writes, bench);
    must(co_spawn(bench->io, "bench", fn, arg));
    io_run(bench->io);
    io_free(bench->io);
}

int main(int argc, char **argv)
{
    static struct bench bench;
    struct client client = {.bench = &bench, .seconds = argc > 1 ? atof(argv[1]) : 2};
    int status;

    client.server = fork();
    must(client.server);
    if (client.server == 0) {
        run(1, server_main, &bench, &bench);
        return 0;
    }
    run(2, client_main, &bench, &client);
    must(waitpid(client.server, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
