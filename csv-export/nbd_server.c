/* The listener, and the life of a connection: one coroutine that negotiates, then receives; each
 * request runs as a coroutine of its own (nbd_connection.c). */
#include "csv-export/nbd_server.h"

#include "csv-export/nbd_connection.h"
#include "s2d/base/log.h"

#define BUFFER_BYTES (64 * MIB)
#define BUFFER_BYTES_MIN (8 * MIB)
#define CONNECTIONS_MAX 64
#define PREDECESSOR_NS (10 * SEC)

static void connection_free(struct nbd_connection *connection)
{
    if (!connection)
        return;
    io_stream_close(connection->stream);
    free(connection->context_name);
    free(connection->in);
    free(connection);
}
DEFINE_CLEANUP(struct nbd_connection, connection_free)

static int connection_new(struct nbd_server *server, struct nbd_connection **ret_connection)
{
    cleanup(connection_freep) struct nbd_connection *connection = calloc(1, sizeof(*connection));

    if (!connection)
        return -ENOMEM;
    connection->in = malloc(NBD_IN_BYTES);
    if (!connection->in)
        return -ENOMEM;
    connection->server = server;
    nbd_connection_init(connection);
    *ret_connection = take_ptr(connection);
    return 0;
}

static void connection_main(void *arg)
{
    struct nbd_connection *connection = arg;
    struct nbd_server *server = connection->server;
    int r;

    r = co_nbd_handshake(connection);
    if (r < 0)
        log_debug(server->io, "nbd", "client left while it negotiated", "error=%d", r);
    else
        co_nbd_transmission(connection);
    if (connection->file)
        server->backend->ops->co_close(connection->file);
    list_remove(&connection->node);
    server->connection_count--;
    connection_free(connection);
}

/* Takes the stream over. */
static int admit(struct nbd_server *server, struct io_stream *stream)
{
    struct nbd_connection *connection;
    int r;

    if (server->shut)
        r = -ESHUTDOWN; /* it was accepted while we were shut down */
    else if (server->connection_count >= server->connections_max)
        r = -EMFILE;
    else
        r = connection_new(server, &connection);
    if (r < 0) {
        io_stream_close(stream);
        return r;
    }
    connection->stream = stream;
    r = co_group_spawn(&server->coroutines, server->io, "nbd connection", connection_main,
                       connection);
    if (r < 0) {
        connection_free(connection);
        return r;
    }
    list_push_back(&server->connections, &connection->node);
    server->connection_count++;
    counter_add(&server->counters.connections, 1);
    return 0;
}

static void accept_main(void *arg)
{
    struct nbd_server *server = arg;

    for (;;) {
        struct io_stream *stream;
        int r = co_io_accept(server->listener, &stream);

        if (r == -ECANCELED)
            return;
        if (r == 0)
            r = admit(server, stream);
        if (r < 0 && !server->shut) {
            log_warn(server->io, "nbd", "a client was turned away", "error=%d connections=%u", r,
                     server->connection_count);
            co_sleep_ns(10 * MS); /* out of descriptors or memory: do not spin */
        }
    }
}

static int add_metrics(struct nbd_server *server)
{
    struct nbd_counters *counters = &server->counters;
    const struct {
        const char *name, *help, *labels;
        const struct counter *counter;
    } table[] = {
        {"s2d_nbd_requests_total", "NBD requests answered", "kind=\"read\"", &counters->reads},
        {"s2d_nbd_requests_total", "NBD requests answered", "kind=\"write\"", &counters->writes},
        {"s2d_nbd_requests_total", "NBD requests answered", "kind=\"other\"", &counters->others},
        {"s2d_nbd_bytes_total", "Bytes of NBD reads and writes", "kind=\"read\"",
         &counters->read_bytes},
        {"s2d_nbd_bytes_total", "Bytes of NBD reads and writes", "kind=\"write\"",
         &counters->write_bytes},
        {"s2d_nbd_errors_total", "NBD requests answered with an error", "", &counters->errors},
        {"s2d_nbd_connections_total", "NBD connections accepted", "", &counters->connections},
    };
    const char *latency = "From the arrival of an NBD request to its answer";
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        r = metrics_add_counter(server->metrics, table[i].name, table[i].help, table[i].labels,
                                table[i].counter);
        if (r < 0)
            return r;
    }
    r = metrics_add_histogram(server->metrics, "s2d_nbd_latency_ns", latency, "kind=\"read\"",
                              &counters->read_ns);
    if (r < 0)
        return r;
    return metrics_add_histogram(server->metrics, "s2d_nbd_latency_ns", latency, "kind=\"write\"",
                                 &counters->write_ns);
}

static void remove_metrics(struct nbd_server *server)
{
    struct nbd_counters *counters = &server->counters;
    const void *all[] = {&counters->reads,       &counters->writes,      &counters->others,
                         &counters->read_bytes,  &counters->write_bytes, &counters->errors,
                         &counters->connections, &counters->read_ns,     &counters->write_ns};

    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        metrics_remove(server->metrics, all[i]);
}

static void server_free(struct nbd_server *server)
{
    if (!server)
        return;
    remove_metrics(server);
    io_listener_close(server->listener);
    buffer_pool_free(server->pool);
    free(server);
}
DEFINE_CLEANUP(struct nbd_server, server_free)

static int co_listen(struct io *io, const char *address, struct io_listener **ret_listener)
{
    uint64_t deadline_ns = io_now_ns(io) + PREDECESSOR_NS;
    int r;

    do {
        r = io_listen(io, address, ret_listener);
        if (r != -EADDRINUSE)
            return r;
    } while (io_now_ns(io) < deadline_ns && co_sleep_ns(20 * MS) == 0);
    return r;
}

int co_nbd_server_open(struct io *io, struct nbd_backend *backend,
                       const struct nbd_server_options *options, struct nbd_server **ret_server)
{
    uint64_t buffer_bytes = options->buffer_bytes ? options->buffer_bytes : BUFFER_BYTES;
    cleanup(server_freep) struct nbd_server *server = NULL;
    int r;

    if (buffer_bytes < BUFFER_BYTES_MIN)
        return -EINVAL;
    server = calloc(1, sizeof(*server));
    if (!server)
        return -ENOMEM;
    server->io = io;
    server->backend = backend;
    server->metrics = options->metrics;
    server->connections_max = options->connections_max ? options->connections_max : CONNECTIONS_MAX;
    list_init(&server->connections);
    co_group_init(&server->coroutines);

    r = buffer_pool_new("nbd", buffer_bytes, &server->pool);
    if (r < 0)
        return r;
    r = add_metrics(server);
    if (r < 0)
        return r;
    r = co_listen(io, options->address, &server->listener);
    if (r < 0)
        return r;
    r = co_group_spawn(&server->coroutines, io, "nbd accept", accept_main, server);
    if (r < 0)
        return r;

    *ret_server = take_ptr(server);
    return 0;
}

void nbd_server_shutdown(struct nbd_server *server)
{
    if (server->shut)
        return;
    server->shut = true;
    io_listener_shutdown(server->listener);
    list_for_each (node, &server->connections)
        io_stream_shutdown(list_entry(node, struct nbd_connection, node)->stream);
}

void co_nbd_server_close(struct nbd_server *server)
{
    if (!server)
        return;
    nbd_server_shutdown(server);
    co_group_wait(&server->coroutines);
    assert(server->connection_count == 0);
    server_free(server);
}

unsigned nbd_server_connections(const struct nbd_server *server)
{
    return server->connection_count;
}
