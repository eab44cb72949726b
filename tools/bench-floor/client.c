#include "tools/bench-floor/client.h"
#include <stdio.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define WARM_UP_NS (200 * MS)

struct client {
    struct cluster *cluster;
    struct job job;
    struct request requests[DEPTH_MAX];
    uint64_t started_ns[DEPTH_MAX];
    uint8_t *blocks; /* what is written, by client slot */
    uint8_t *received;
    size_t received_bytes;
    struct iovec parts[2 * DEPTH_MAX]; /* to be sent at the end of this turn */
    unsigned part_count;
    unsigned in_flight;
    uint64_t random;
    uint32_t *latencies_ns;
    size_t latency_count, latency_capacity;
};

/* xorshift64: offsets need no more. */
static uint64_t client_random(struct client *client)
{
    client->random ^= client->random << 13;
    client->random ^= client->random >> 7;
    client->random ^= client->random << 17;
    return client->random;
}

static unsigned read_percent(const struct job *job)
{
    if (strcmp(job->name, "write") == 0)
        return 0;
    return strcmp(job->name, "read") == 0 ? 100 : 70;
}

static void client_add(struct client *client, void *bytes, size_t size)
{
    client->parts[client->part_count++] = (struct iovec){.iov_base = bytes, .iov_len = size};
}

static void client_issue(struct client *client, unsigned slot, uint64_t now_ns)
{
    struct request *request = &client->requests[slot];
    bool is_read = client_random(client) % 100 < read_percent(&client->job);
    uint64_t blocks = client->cluster->log_bytes / BLOCK_SIZE;

    *request = (struct request){.magic = 0x25609513,
                                .type = is_read ? REQUEST_READ : REQUEST_WRITE,
                                .handle = request->handle + DEPTH_MAX,
                                .offset_bytes = client_random(client) % blocks * BLOCK_SIZE,
                                .length_bytes = BLOCK_SIZE};
    client_add(client, request, sizeof(*request));
    if (!is_read) {
        uint8_t *block = client->blocks + slot * BLOCK_SIZE;

        memcpy(block, &client->random, sizeof(client->random)); /* no two writes are alike */
        client_add(client, block, BLOCK_SIZE);
    }
    client->started_ns[slot] = now_ns;
    client->in_flight++;
}

static void client_send(struct client *client)
{
    struct msghdr message = {.msg_iov = client->parts, .msg_iovlen = client->part_count};
    size_t bytes = 0;

    if (client->part_count == 0)
        return;
    for (unsigned i = 0; i < client->part_count; i++)
        bytes += client->parts[i].iov_len;
    /* Blocks until all is taken; the owner always receives, so it will be. */
    die_unless(sendmsg(client->cluster->client_fd, &message, MSG_NOSIGNAL) == (ssize_t)bytes,
               "client send");
    client->part_count = 0;
}

static void client_note_latency(struct client *client, uint64_t latency_ns)
{
    if (client->latency_count == client->latency_capacity) {
        client->latency_capacity =
            client->latency_capacity ? 2 * client->latency_capacity : 1 << 20;
        client->latencies_ns =
            realloc(client->latencies_ns, client->latency_capacity * sizeof(uint32_t));
        die_unless(client->latencies_ns != NULL, "realloc");
    }
    client->latencies_ns[client->latency_count++] =
        latency_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)latency_ns;
}

/* Takes one reply from the start of `bytes`; asks for the next I/O while `go_on`. */
static size_t client_take_reply(struct client *client, const uint8_t *bytes, size_t size,
                                uint64_t now_ns, bool go_on)
{
    struct reply reply;

    if (size < sizeof(reply))
        return 0;
    memcpy(&reply, bytes, sizeof(reply));
    unsigned slot = reply.handle % DEPTH_MAX;
    if (reply.handle != client->requests[slot].handle || reply.error != 0)
        errx(EXIT_FAILURE, "a reply to nothing that was asked");
    size_t length = sizeof(reply) + (client->requests[slot].type == REQUEST_READ ? BLOCK_SIZE : 0);
    if (size < length)
        return 0;
    client_note_latency(client, now_ns - client->started_ns[slot]);
    client->in_flight--;
    if (go_on)
        client_issue(client, slot, now_ns);
    return length;
}

static void client_turn(struct client *client, uint64_t until_ns)
{
    ssize_t received = recv(client->cluster->client_fd, client->received + client->received_bytes,
                            RECEIVE_BYTES - client->received_bytes, 0);
    uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);
    size_t taken = 0, size;

    die_unless(received >= 0, "client receive");
    if (received == 0)
        errx(EXIT_FAILURE, "the owner has gone");
    client->received_bytes += (size_t)received;
    while ((size = client_take_reply(client, client->received + taken,
                                     client->received_bytes - taken, now_ns, now_ns < until_ns)) >
           0)
        taken += size;
    client->received_bytes -= taken;
    memmove(client->received, client->received + taken, client->received_bytes);
    client_send(client);
}

static void client_run(struct client *client, uint64_t duration_ns)
{
    uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);

    client->latency_count = 0;
    for (unsigned slot = 0; slot < client->job.depth; slot++)
        client_issue(client, slot, now_ns);
    client_send(client);
    while (client->in_flight > 0)
        client_turn(client, now_ns + duration_ns);
}

static int compare_latencies(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

    return (left > right) - (left < right);
}

static void report(struct client *client, const struct usage *before, const struct usage *after)
{
    size_t count = client->latency_count;
    const uint32_t *latencies = client->latencies_ns;
    double ios = (double)count, seconds = (double)(after->time_ns - before->time_ns) / 1e9;

    qsort(client->latencies_ns, count, sizeof(*latencies), compare_latencies);
    printf("{\"job\": \"%s\", \"depth\": %u, \"seconds\": %.3f, \"ios\": %zu, \"iops\": %.0f, "
           "\"p50_us\": %.1f, \"p95_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, "
           "\"daemon_cpu_us\": %.2f, \"machine_cpu_us\": %.2f, \"client_cpu_us\": %.2f, "
           "\"stolen_percent\": %.1f}\n",
           client->job.name, client->job.depth, seconds, count, ios / seconds,
           latencies[count / 2] / 1e3, latencies[count * 95 / 100] / 1e3,
           latencies[count * 99 / 100] / 1e3, latencies[count - 1] / 1e3,
           (double)(after->servers_ns - before->servers_ns) / 1e3 / ios,
           (double)(after->machine_ns - before->machine_ns) / 1e3 / ios,
           (double)(after->client_ns - before->client_ns) / 1e3 / ios,
           (double)(after->stolen_ns - before->stolen_ns) / 1e7 / seconds);
    fflush(stdout);
}

void client_run_job(struct cluster *cluster, const struct job *job, uint64_t duration_ns)
{
    struct client client = {
        .cluster = cluster, .job = *job, .random = clock_ns(CLOCK_MONOTONIC) | 1};

    client.blocks = allocate(DEPTH_MAX * BLOCK_SIZE);
    client.received = allocate(RECEIVE_BYTES);
    for (unsigned slot = 0; slot < DEPTH_MAX; slot++)
        client.requests[slot].handle = slot;
    client_run(&client, WARM_UP_NS);
    struct usage before = cluster_usage(cluster);
    client_run(&client, duration_ns);
    struct usage after = cluster_usage(cluster);
    report(&client, &before, &after);
    free(client.latencies_ns);
    free(client.received);
    free(client.blocks);
}
