/* Addresses, and how two ends of a connection find each other. */
#include <arpa/inet.h>

#include "s2d/base/sim_net.h"

#define FIRST_EPHEMERAL_PORT 32768

/* ---- addresses ---- */

/* from: whose address this is for; its own names (127.0.0.1, unix:) mean itself. */
static int address_parse(const struct machine *from, const char *text, struct address *ret_address)
{
    char host[IO_ADDRESS_MAX];
    const char *colon = strrchr(text, ':');
    struct in_addr in;
    uint32_t number;
    char *end;
    unsigned long port;

    if (strlen(text) >= IO_ADDRESS_MAX || !colon)
        return -EINVAL;
    *ret_address = (struct address){.machine = from->number};
    if (strncmp(text, "unix:", 5) == 0) {
        ret_address->path = text;
        return text[5] ? 0 : -EINVAL;
    }
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    port = strtoul(colon + 1, &end, 10);
    if (inet_pton(AF_INET, host, &in) != 1 || end == colon + 1 || *end || port > UINT16_MAX)
        return -EINVAL;
    ret_address->port = (uint16_t)port;

    number = ntohl(in.s_addr);
    if (number == INADDR_ANY || number >> 24 == 127)
        return 0;
    if (number >> 8 != ((10u << 16) | (83u << 8)))
        return -EHOSTUNREACH;
    ret_address->machine = number & 0xff;
    return number & 0xff ? 0 : -EINVAL;
}

struct listener *find_listener(struct machine *machine, uint16_t port, const char *path)
{
    list_for_each (node, &machine->listeners) {
        struct listener *listener = list_entry(node, struct listener, node);

        if (listener->shut)
            continue;
        if (path ? strcmp(listener->listener.address, path) == 0
                 : listener->port != 0 && listener->port == port)
            return listener;
    }
    return NULL;
}

/* Who on the same host listens there; itself, when nobody does. */
static unsigned find_unix(const struct machine *from, const char *path)
{
    struct sim *sim = from->sim;

    for (unsigned i = 1; i <= sim->machine_end; i++) {
        struct machine *machine = sim->machines[i];

        if (machine && machine->powered && machines_share_host(machine, from) &&
            find_listener(machine, 0, path))
            return i;
    }
    return (from->host ?: from)->number;
}

static uint16_t next_port(struct machine *machine)
{
    do {
        machine->last_port = machine->last_port < UINT16_MAX
                                 ? MAX(machine->last_port + 1, FIRST_EPHEMERAL_PORT)
                                 : FIRST_EPHEMERAL_PORT;
    } while (find_listener(machine, machine->last_port, NULL));
    return machine->last_port;
}

/* ---- connecting ---- */

void connect_end(struct connect *connect, int result)
{
    if (!connect->end->connect)
        return;
    connect->end->connect = NULL;
    sim_event_cancel(connect->end->machine->sim, &connect->timeout);
    connect->result = result;
    machine_complete(connect->end->machine, &connect->op, result);
}

static void connect_done(struct io_op *op, int result)
{
    (void)result;
    co_wake(container_of(op, struct connect, op)->co);
}

static void connect_time_out(void *arg)
{
    connect_end(arg, -ETIMEDOUT);
}

static void connect_cancel(void *arg)
{
    connect_end(arg, -ECANCELED);
}

int sim_co_connect(struct io *io, const char *address, uint64_t timeout_ns,
                   struct io_stream **ret_stream)
{
    struct machine *machine = machine_of_io(io);
    struct connect connect = {.co = co_self(), .op.done = connect_done};
    struct address to;
    struct end *end;
    int r;

    r = address_parse(machine, address, &to);
    if (r < 0)
        return r;
    if (to.path)
        to.machine = find_unix(machine, to.path);
    if (to.machine > SIM_MACHINES_MAX)
        return -EHOSTUNREACH;
    r = machine->dying ? -ECANCELED : co_set_cancel(connect_cancel, &connect);
    if (r < 0)
        return r;

    end = &sim_connection_new(machine, &to)->ends[0];
    connect.end = end;
    end->connect = &connect;
    snprintf(end->stream.peer, sizeof(end->stream.peer), "%s", address);
    end_attach(end, &machine->streams);
    sim_note(machine->sim, RECORD_CONNECT, machine->number, to.machine, to.port);
    pipe_push_kind(pipe_out(end), SEGMENT_SYN);
    sim_event_init(&connect.timeout, connect_time_out, &connect);
    if (timeout_ns < UINT64_MAX - machine->sim->now_ns)
        sim_event_schedule(machine->sim, &connect.timeout, machine->sim->now_ns + timeout_ns);
    co_wait();
    co_clear_cancel();

    if (connect.result < 0) {
        end_close(end);
        end_detach(end);
        return connect.result;
    }
    *ret_stream = &end->stream;
    return 0;
}

/* ---- listeners ---- */

int sim_listen(struct io *io, const char *text, struct io_listener **ret_listener)
{
    struct machine *machine = machine_of_io(io);
    struct address address;
    struct listener *listener;
    int r;

    if (machine->dying)
        return -ECANCELED;
    r = address_parse(machine, text, &address);
    if (r < 0)
        return r;
    if (address.machine != machine->number)
        return -EADDRNOTAVAIL;
    if ((address.path || address.port) && find_listener(machine, address.port, address.path))
        return -EADDRINUSE;

    listener = calloc(1, sizeof(*listener));
    if (!listener)
        return -ENOMEM;
    listener->listener.io = io;
    listener->machine = machine;
    list_init(&listener->backlog);
    if (address.path) {
        strcpy(listener->listener.address, address.path);
    } else {
        listener->port = address.port ? address.port : next_port(machine);
        snprintf(listener->listener.address, IO_ADDRESS_MAX, "10.83.0.%u:%u", machine->number,
                 listener->port);
    }
    list_push_back(&machine->listeners, &listener->node);

    *ret_listener = &listener->listener;
    return 0;
}

void listener_drop_backlog(struct listener *listener)
{
    struct list *node;

    while ((node = list_pop_front(&listener->backlog))) {
        struct end *end = list_entry(node, struct end, node);

        end_close(end);
        end_detach(end);
    }
    listener->backlog_count = 0;
}

void sim_listener_shutdown(struct io_listener *io_listener)
{
    struct listener *listener = container_of(io_listener, struct listener, listener);

    listener->shut = true;
    if (listener->accept)
        accept_end(listener->accept);
    listener_drop_backlog(listener);
}

void sim_listener_close(struct io_listener *io_listener)
{
    struct listener *listener = container_of(io_listener, struct listener, listener);

    assert(!listener->accept);
    listener_drop_backlog(listener);
    list_remove(&listener->node);
    free(listener);
}

/* ---- accepting ---- */

void accept_end(struct accept *accept)
{
    if (accept->listener->accept != accept)
        return;
    accept->listener->accept = NULL;
    machine_complete(accept->listener->machine, &accept->op, 0);
}

static void accept_done(struct io_op *op, int result)
{
    (void)result;
    co_wake(container_of(op, struct accept, op)->co);
}

static void accept_cancel(void *arg)
{
    accept_end(arg);
}

static int listener_wait(struct listener *listener)
{
    struct accept accept = {.listener = listener, .co = co_self(), .op.done = accept_done};
    int r;

    assert(!listener->accept); /* one coroutine at a time */
    r = co_set_cancel(accept_cancel, &accept);
    if (r < 0)
        return r;
    listener->accept = &accept;
    co_wait();
    co_clear_cancel();
    return co_cancelled() ? -ECANCELED : 0;
}

int sim_co_accept(struct io_listener *io_listener, struct io_stream **ret_stream)
{
    struct listener *listener = container_of(io_listener, struct listener, listener);
    struct end *end;

    for (;;) {
        if (listener->shut || listener->machine->dying || co_cancelled())
            return -ECANCELED;
        if (!list_empty(&listener->backlog))
            break;
        if (listener_wait(listener) < 0)
            return -ECANCELED;
    }
    end = list_entry(list_pop_front(&listener->backlog), struct end, node);
    listener->backlog_count--;
    list_push_back(&listener->machine->streams, &end->node);
    *ret_stream = &end->stream;
    return 0;
}

void name_peer(struct end *end)
{
    struct machine *peer = other_end(end)->machine;

    if (end->connection->path[0])
        snprintf(end->stream.peer, sizeof(end->stream.peer), "unix:");
    else
        snprintf(end->stream.peer, sizeof(end->stream.peer), "10.83.0.%u:%u", peer->number,
                 next_port(peer));
}
