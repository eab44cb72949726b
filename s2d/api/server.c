/* libmicrohttpd on one side, the reactor on the other. An exchange is one request and its answer.
 *
 *   MHD's thread: exchange_new → headers → body… → parse → suspend the connection → io_post()
 *   reactor:      coroutine: co_api_dispatch() → resume the connection
 *   MHD's thread: print → send → exchange_free
 *
 * An exchange has one holder at a time: posting and resuming hand it over, and a suspended
 * connection is not looked at, so that a client that leaves early is noticed after the answer. So
 * the reactor always ends first, and MHD_stop_daemon() finds no connection suspended. That call
 * cuts what is not sent yet, so answers are counted until they are. The only things both sides
 * touch are `closing` and the two counts, under a mutex. */
#include "s2d/api/server.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "s2d/base/co.h"
#include "s2d/base/log.h"
#include "s2d/base/metrics.h"

#define CONNECTIONS_MAX 32
#define CONNECTION_BYTES (2 * API_TARGET_MAX) /* MHD's buffer: target and headers */
#define IDLE_SECONDS 60
#define BACKLOG 64
#define LAST_ANSWERS_SECONDS 1 /* a server that closes waits so long for clients to take theirs */

enum exchange_state {
    EXCHANGE_NEW,
    EXCHANGE_BODY,     /* being received */
    EXCHANGE_RUNNING,  /* the reactor has it */
    EXCHANGE_ANSWERED, /* or refused before the reactor saw it */
};

struct exchange {
    struct api_server *server;
    struct MHD_Connection *connection;
    enum exchange_state state;
    char *target;
    char *body;
    size_t body_bytes, body_size;
    bool too_large;
    bool owed; /* counted in server->owed */
    struct api_request request;
    struct api_response response;
    struct io_task task;
    struct list node; /* in server->running */
    struct co *co;
};

struct api_server {
    struct io *io;
    const struct api_router *router;
    struct metrics *metrics;
    struct sockaddr_un address;
    int fd;
    struct MHD_Daemon *mhd;
    pthread_mutex_t mutex;
    bool closing;         /* under mutex; set by the reactor */
    unsigned handed_over; /* under mutex: exchanges that the reactor has, or is about to get */
    unsigned owed;        /* under mutex: answers that are not sent yet */
    pthread_cond_t paid;  /* owed is 0 */
    struct co *closer;    /* from here on: the reactor's. Who waits for handed_over to be 0 */
    struct list running;
    struct counter requests, errors;
};

/* ---- on the reactor ---- */

static void hand_back(struct exchange *exchange)
{
    struct api_server *server = exchange->server;
    bool last;

    exchange->state = EXCHANGE_ANSWERED;
    pthread_mutex_lock(&server->mutex);
    MHD_resume_connection(exchange->connection); /* exchange is not ours any more */
    last = --server->handed_over == 0;
    pthread_mutex_unlock(&server->mutex);
    if (last && server->closer)
        co_wake(take_ptr(server->closer));
}

static void co_exchange(void *arg)
{
    struct exchange *exchange = arg;
    struct api_server *server = exchange->server;

    co_api_dispatch(server->router, &exchange->request, &exchange->response);
    counter_add(&server->requests, 1);
    if (exchange->response.error)
        counter_add(&server->errors, 1);
    list_remove(&exchange->node);
    hand_back(exchange);
}

static void exchange_begin(void *arg)
{
    struct exchange *exchange = arg;
    struct api_server *server = exchange->server;

    list_push_back(&server->running, &exchange->node);
    if (co_spawn_handle(server->io, "api", co_exchange, exchange, &exchange->co) < 0) {
        list_remove(&exchange->node);
        api_answer_error(&exchange->response, -ENOMEM, "out of memory");
        hand_back(exchange);
        return;
    }
    if (server->closing) /* it was on its way when we began to close */
        co_cancel(exchange->co);
}

/* ---- on MHD's thread ---- */

static void exchange_free(struct exchange *exchange)
{
    if (!exchange)
        return;
    api_request_done(&exchange->request);
    api_response_done(&exchange->response);
    free(exchange->body);
    free(exchange->target);
    free(exchange);
}

/* The first that MHD tells of a request: its target, undecoded. */
static void *on_target(void *arg, const char *target, struct MHD_Connection *connection)
{
    struct exchange *exchange = calloc(1, sizeof(*exchange));

    if (!exchange)
        return NULL;
    exchange->server = arg;
    exchange->connection = connection;
    exchange->target = strdup(target);
    list_init(&exchange->node);
    if (!exchange->target) {
        free(exchange);
        return NULL;
    }
    return exchange;
}

/* Under the mutex: this exchange gets an answer. */
static void owe_answer(struct exchange *exchange)
{
    exchange->server->owed += !exchange->owed;
    exchange->owed = true;
}

/* Sent, or nobody is there to take it. */
static void pay_answer(struct exchange *exchange)
{
    struct api_server *server = exchange->server;

    pthread_mutex_lock(&server->mutex);
    if (--server->owed == 0)
        pthread_cond_signal(&server->paid);
    pthread_mutex_unlock(&server->mutex);
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    struct exchange *exchange = *con_cls;

    (void)arg;
    (void)connection;
    (void)code;
    if (exchange && exchange->owed)
        pay_answer(exchange);
    exchange_free(exchange);
    *con_cls = NULL;
}

static struct MHD_Response *print_response(struct api_response *response)
{
    const char *type = response->content_type;
    struct MHD_Response *mhd;
    void *data = response->data;
    size_t bytes = response->data_bytes;

    if (response->json) {
        data = json_dumps(response->json, JSON_COMPACT);
        bytes = data ? strlen(data) : 0;
        type = API_CONTENT_JSON;
    }
    response->data = NULL;
    mhd = MHD_create_response_from_buffer(bytes, data ? data : "",
                                          data ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!mhd) {
        free(data);
        return NULL;
    }
    if (type)
        (void)!MHD_add_response_header(mhd, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    return mhd;
}

static enum MHD_Result answer(struct exchange *exchange)
{
    struct api_response *response = &exchange->response;
    struct MHD_Response *mhd = print_response(response);
    enum MHD_Result result;

    if (!mhd)
        return MHD_NO; /* the connection ends */
    result =
        MHD_queue_response(exchange->connection, response->status ? response->status : 200, mhd);
    MHD_destroy_response(mhd);
    return result;
}

static enum MHD_Result refuse(struct exchange *exchange, int error, const char *message)
{
    api_answer_error(&exchange->response, error, "%s", message);
    exchange->state = EXCHANGE_ANSWERED;
    pthread_mutex_lock(&exchange->server->mutex);
    owe_answer(exchange);
    pthread_mutex_unlock(&exchange->server->mutex);
    return answer(exchange);
}

static const char *header(struct exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

/* The headers are here: refuse what can be refused before a body is sent. */
static enum MHD_Result on_headers(struct exchange *exchange, const char *method)
{
    const char *length = header(exchange, MHD_HTTP_HEADER_CONTENT_LENGTH);
    int m = api_method_by_name(method), r;

    if (m < 0)
        return refuse(exchange, -EOPNOTSUPP, "methods are GET, POST, PUT and DELETE");
    if (length && strtoull(length, NULL, 10) > API_BODY_MAX)
        return refuse(exchange, -E2BIG, "a body has at most 1 MiB");
    r = api_request_init(&exchange->request, (enum api_method)m, exchange->target);
    if (r < 0)
        return refuse(exchange, r, "the path or its query makes no sense, or is too long");
    exchange->state = EXCHANGE_BODY;
    return MHD_YES;
}

static int append_body(struct exchange *exchange, const char *data, size_t bytes)
{
    size_t wanted = exchange->body_bytes + bytes;

    if (wanted > API_BODY_MAX)
        return -E2BIG;
    if (wanted > exchange->body_size) {
        size_t size = MIN(MAX(wanted, 2 * exchange->body_size), API_BODY_MAX);
        char *body = realloc(exchange->body, size);

        if (!body)
            return -ENOMEM;
        exchange->body = body;
        exchange->body_size = size;
    }
    memcpy(exchange->body + exchange->body_bytes, data, bytes);
    exchange->body_bytes = wanted;
    return 0;
}

/* Returns 0, or the error answered. */
static int parse_body(struct exchange *exchange)
{
    const char *type = header(exchange, MHD_HTTP_HEADER_CONTENT_TYPE), *why = "";
    struct api_request *request = &exchange->request;
    int r;

    if (type && strcmp(type, API_CONTENT_DATA) == 0) {
        request->data = exchange->body;
        request->data_bytes = exchange->body_bytes;
        return 0;
    }
    r = api_json_parse(exchange->body, exchange->body_bytes, &request->body, &why);
    if (r < 0)
        api_answer_error(&exchange->response, r, "the body cannot be read: %s", why);
    return r;
}

static enum MHD_Result hand_over(struct exchange *exchange)
{
    struct api_server *server = exchange->server;

    pthread_mutex_lock(&server->mutex);
    if (server->closing) {
        pthread_mutex_unlock(&server->mutex);
        return refuse(exchange, -ESHUTDOWN, "this daemon is stopping: ask another node");
    }
    server->handed_over++;
    owe_answer(exchange);
    exchange->state = EXCHANGE_RUNNING;
    MHD_suspend_connection(exchange->connection); /* before it can be resumed */
    io_task_init(&exchange->task, exchange_begin, exchange);
    io_post(server->io, &exchange->task);
    pthread_mutex_unlock(&server->mutex);
    return MHD_YES;
}

static enum MHD_Result on_body_end(struct exchange *exchange)
{
    if (exchange->too_large)
        return refuse(exchange, -E2BIG, "a body has at most 1 MiB");
    if (parse_body(exchange) < 0) {
        exchange->state = EXCHANGE_ANSWERED;
        return answer(exchange);
    }
    return hand_over(exchange);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_bytes, void **con_cls)
{
    struct exchange *exchange = *con_cls;

    (void)arg;
    (void)connection;
    (void)url;
    (void)version;
    if (!exchange)
        return MHD_NO; /* no memory for it */
    switch (exchange->state) {
    case EXCHANGE_NEW:
        return on_headers(exchange, method);
    case EXCHANGE_BODY:
        if (*data_bytes == 0)
            return on_body_end(exchange);
        if (append_body(exchange, data, *data_bytes) < 0)
            exchange->too_large = true; /* the rest is read and forgotten */
        *data_bytes = 0;
        return MHD_YES;
    case EXCHANGE_ANSWERED:
        *data_bytes = 0;
        return answer(exchange);
    case EXCHANGE_RUNNING:
        break;
    }
    return MHD_NO;
}

/* ---- life ---- */

/* Does anybody listen there? */
static bool is_answered(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool answered = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0;

    if (fd >= 0)
        close(fd);
    return answered;
}

static int bind_socket(int fd, const struct sockaddr_un *address)
{
    /* Linux gives the path the mode of the socket: nobody else can connect, not even before a
     * chmod(). */
    if (fchmod(fd, 0600) < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
        return 0;
    if (errno != EADDRINUSE)
        return -errno;
    if (is_answered(address))
        return -EADDRINUSE;
    if (unlink(address->sun_path) < 0)
        return -errno;
    return bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ? 0 : -errno;
}

static int listen_at(struct api_server *server, const char *path)
{
    int r;

    if (strlen(path) >= sizeof(server->address.sun_path))
        return -ENAMETOOLONG;
    server->address.sun_family = AF_UNIX;
    strcpy(server->address.sun_path, path);
    server->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->fd < 0)
        return -errno;
    r = bind_socket(server->fd, &server->address);
    if (r == 0 && listen(server->fd, BACKLOG) < 0)
        r = -errno;
    if (r < 0) {
        close(server->fd);
        server->fd = -1;
    }
    return r;
}

static int start_thread(struct api_server *server, unsigned connections_max)
{
    sigset_t all, old;

    /* Signals are for the daemon's own thread. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    server->mhd = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, server,
        MHD_OPTION_LISTEN_SOCKET, server->fd, MHD_OPTION_CONNECTION_LIMIT,
        connections_max ? connections_max : CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
        MHD_OPTION_URI_LOG_CALLBACK, on_target, server, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        server, MHD_OPTION_END);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (server->mhd)
        return 0;
    unlink(server->address.sun_path);
    server->fd = -1; /* MHD may have closed it, or not: rather leak it than close another's */
    return -ENOMEM;
}

static int add_metrics(struct api_server *server)
{
    int r = metrics_add_counter(server->metrics, "s2d_api_requests_total",
                                "Management requests answered.", "", &server->requests);

    return r < 0
               ? r
               : metrics_add_counter(server->metrics, "s2d_api_errors_total",
                                     "Management requests refused or failed.", "", &server->errors);
}

static void server_free(struct api_server *server)
{
    metrics_remove(server->metrics, &server->requests);
    metrics_remove(server->metrics, &server->errors);
    if (server->fd >= 0)
        close(server->fd);
    pthread_cond_destroy(&server->paid);
    pthread_mutex_destroy(&server->mutex);
    free(server);
}

int api_server_open(struct io *io, const struct api_server_options *options,
                    struct api_server **ret_server)
{
    struct api_server *server = calloc(1, sizeof(*server));
    int r;

    if (!server)
        return -ENOMEM;
    server->io = io;
    server->router = options->router;
    server->metrics = options->metrics;
    server->fd = -1;
    pthread_mutex_init(&server->mutex, NULL);
    pthread_cond_init(&server->paid, NULL);
    list_init(&server->running);
    r = listen_at(server, options->path);
    if (r == 0)
        r = add_metrics(server);
    if (r == 0)
        r = start_thread(server, options->connections_max);
    if (r < 0) {
        server_free(server);
        return r;
    }
    *ret_server = server;
    return 0;
}

static void stop_thread(void *arg)
{
    struct api_server *server = arg;
    struct timespec deadline;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += LAST_ANSWERS_SECONDS;
    pthread_mutex_lock(&server->mutex);
    while (server->owed > 0 &&
           pthread_cond_timedwait(&server->paid, &server->mutex, &deadline) == 0)
        ;
    pthread_mutex_unlock(&server->mutex);
    MHD_stop_daemon(server->mhd);
}

void co_api_server_close(struct api_server *server)
{
    bool idle;

    if (!server)
        return;
    unlink(server->address.sun_path);
    (void)!MHD_quiesce_daemon(server->mhd); /* the socket is ours again: not MHD's to close */
    pthread_mutex_lock(&server->mutex);
    server->closing = true;
    idle = server->handed_over == 0;
    pthread_mutex_unlock(&server->mutex);
    list_for_each (node, &server->running) {
        co_cancel(list_entry(node, struct exchange, node)->co);
    }
    if (!idle) {
        server->closer = co_self();
        co_wait();
    }
    co_offload(server->io, stop_thread, server);
    server_free(server);
}
