/* Sockets of the io_uring backend: addresses, streams, listening and connecting, and polling of
 * descriptors that are somebody else's. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "s2d/base/io_uring_private.h"

#define LISTEN_BACKLOG 128

struct uring_listener {
    struct io_listener listener;
    int fd;
    struct io_op *accept; /* pending */
    bool shut;
};

struct uring_stream {
    struct io_stream stream;
    int fd;
    struct msghdr message; /* of the send under way */
};

struct uring_poll {
    struct io_poll poll;
    int fd;
    struct io_op *op; /* pending */
    bool shut;
};

/* ---- addresses ---- */

union socket_address {
    struct sockaddr any;
    struct sockaddr_in ip4;
    struct sockaddr_in6 ip6;
    struct sockaddr_un local;
};

static int parse_unix(const char *path, union socket_address *address, socklen_t *ret_length)
{
    address->local = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (path[0] == '\0' || strlen(path) >= sizeof(address->local.sun_path))
        return -EINVAL;
    strcpy(address->local.sun_path, path);
    *ret_length = sizeof(address->local);
    return 0;
}

static int parse_port(const char *text, uint16_t *ret_port)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);

    if (text[0] < '0' || text[0] > '9' || *end || port > UINT16_MAX)
        return -EINVAL;
    *ret_port = port;
    return 0;
}

static int parse_address(const char *text, union socket_address *address, socklen_t *ret_length)
{
    char host[IO_ADDRESS_MAX];
    const char *colon = strrchr(text, ':');
    uint16_t port;
    size_t length;

    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(text + 5, address, ret_length);
    if (!colon || (size_t)(colon - text) >= sizeof(host) || parse_port(colon + 1, &port) < 0)
        return -EINVAL;
    length = colon - text;
    memcpy(host, text, length);
    host[length] = '\0';

    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, host, &address->ip4.sin_addr) == 1) {
        address->ip4.sin_family = AF_INET;
        address->ip4.sin_port = htons(port);
        *ret_length = sizeof(address->ip4);
        return 0;
    }
    if (length < 2 || host[0] != '[' || host[length - 1] != ']')
        return -EINVAL;
    host[length - 1] = '\0';
    if (inet_pton(AF_INET6, host + 1, &address->ip6.sin6_addr) != 1)
        return -EINVAL;
    address->ip6.sin6_family = AF_INET6;
    address->ip6.sin6_port = htons(port);
    *ret_length = sizeof(address->ip6);
    return 0;
}

static void format_address(const union socket_address *address, char *text)
{
    char host[INET6_ADDRSTRLEN] = "?";

    switch (address->any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &address->ip4.sin_addr, host, sizeof(host));
        snprintf(text, IO_ADDRESS_MAX, "%s:%u", host, ntohs(address->ip4.sin_port));
        break;
    case AF_INET6:
        inet_ntop(AF_INET6, &address->ip6.sin6_addr, host, sizeof(host));
        snprintf(text, IO_ADDRESS_MAX, "[%s]:%u", host, ntohs(address->ip6.sin6_port));
        break;
    default:
        snprintf(text, IO_ADDRESS_MAX, "unix:%s", address->local.sun_path);
    }
}

/* ---- streams ---- */

static struct uring_stream *stream_of(struct io_stream *stream)
{
    return container_of(stream, struct uring_stream, stream);
}

static int stream_new(struct io *io, int fd, const union socket_address *peer,
                      struct io_stream **ret_stream)
{
    struct uring_stream *stream = calloc(1, sizeof(*stream));
    int on = 1;

    if (!stream) {
        close(fd);
        return -ENOMEM;
    }
    if (peer->any.sa_family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    stream->stream.io = io;
    stream->fd = fd;
    format_address(peer, stream->stream.peer);
    *ret_stream = &stream->stream;
    return 0;
}

void uring_stream_recv(struct io_stream *stream, struct io_op *op, void *buffer, size_t length)
{
    struct io_uring_sqe *sqe = uring_next_sqe(uring_of(stream->io));

    io_uring_prep_recv(sqe, stream_of(stream)->fd, buffer, length, 0);
    io_uring_sqe_set_data(sqe, op);
}

static void send_submit(struct uring_stream *stream, struct io_op *op)
{
    struct io_uring_sqe *sqe = uring_next_sqe(uring_of(stream->stream.io));

    stream->message =
        (struct msghdr){.msg_iov = (struct iovec *)op->iov, .msg_iovlen = op->iov_count};
    io_uring_prep_sendmsg(sqe, stream->fd, &stream->message, MSG_NOSIGNAL | MSG_WAITALL);
    io_uring_sqe_set_data(sqe, op);
}

static void send_done(struct io_op *op, int result)
{
    struct uring_stream *stream = op->owner;
    struct iovec *iov = (struct iovec *)op->iov;
    size_t sent = MAX(result, 0);

    if (result == -EAGAIN || result == -EINTR)
        result = 0;
    while (op->iov_count > 0 && sent >= iov->iov_len) {
        sent -= iov->iov_len;
        iov++;
        op->iov_count--;
    }
    if (result < 0 || op->iov_count == 0) {
        op->done = (void (*)(struct io_op *, int))(uintptr_t)op->extra[0];
        op->done(op, MIN(result, 0));
        return;
    }
    iov->iov_base = (char *)iov->iov_base + sent;
    iov->iov_len -= sent;
    op->iov = iov;
    send_submit(stream, op);
}

void uring_stream_sendv(struct io_stream *stream, struct io_op *op, struct iovec *iov,
                        int iov_count)
{
    op->owner = stream_of(stream);
    op->iov = iov;
    op->iov_count = iov_count;
    op->extra[0] = (uintptr_t)op->done;
    op->done = send_done;
    send_submit(stream_of(stream), op);
}

void uring_stream_shutdown(struct io_stream *stream)
{
    shutdown(stream_of(stream)->fd, SHUT_RDWR);
}

void uring_stream_close(struct io_stream *stream)
{
    close(stream_of(stream)->fd);
    free(stream_of(stream));
}

/* ---- listening and connecting ---- */

static struct uring_listener *listener_of(struct io_listener *listener)
{
    return container_of(listener, struct uring_listener, listener);
}

/* A socket file that nobody listens on is a dead predecessor's. */
static bool unix_path_is_dead(const union socket_address *address, socklen_t length)
{
    struct stat status;
    bool dead;
    int fd;

    if (lstat(address->local.sun_path, &status) < 0 || !S_ISSOCK(status.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    dead = connect(fd, &address->any, length) < 0 && errno == ECONNREFUSED;
    close(fd);
    return dead;
}

static int listen_on(int fd, const union socket_address *address, socklen_t length)
{
    int on = 1;

    if (address->any.sa_family == AF_UNIX) {
        if (unix_path_is_dead(address, length))
            unlink(address->local.sun_path);
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    }
    if (bind(fd, &address->any, length) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
        return -errno;
    return 0;
}

int uring_listen(struct io *io, const char *text, struct io_listener **ret_listener)
{
    struct uring_listener *listener;
    union socket_address address;
    socklen_t length;
    int fd, r;

    r = parse_address(text, &address, &length);
    if (r < 0)
        return r;
    fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    r = listen_on(fd, &address, length);
    listener = r < 0 ? NULL : calloc(1, sizeof(*listener));
    if (!listener) {
        close(fd);
        return r < 0 ? r : -ENOMEM;
    }
    length = sizeof(address);
    if (address.any.sa_family != AF_UNIX)
        getsockname(fd, &address.any, &length);
    listener->listener.io = io;
    listener->fd = fd;
    format_address(&address, listener->listener.address);
    *ret_listener = &listener->listener;
    return 0;
}

int uring_co_accept(struct io_listener *listener, struct io_stream **ret_stream)
{
    struct uring_listener *uring_listener = listener_of(listener);
    union socket_address peer = {.any.sa_family = AF_UNIX};
    socklen_t length = sizeof(peer);
    struct io_uring_sqe *sqe;
    struct waiting_op waiting;
    int r;

    if (uring_listener->shut)
        return -ECANCELED;
    waiting_op_init(&waiting, listener->io);
    r = co_set_cancel(uring_waiting_cancel, &waiting);
    if (r < 0)
        return r;
    sqe = uring_next_sqe(uring_of(listener->io));
    io_uring_prep_accept(sqe, uring_listener->fd, &peer.any, &length, SOCK_CLOEXEC);
    io_uring_sqe_set_data(sqe, &waiting.op);
    uring_listener->accept = &waiting.op;
    co_wait();
    uring_listener->accept = NULL;
    co_clear_cancel();
    if (waiting.result < 0)
        return waiting.result;
    return stream_new(listener->io, waiting.result, &peer, ret_stream);
}

void uring_listener_shutdown(struct io_listener *listener)
{
    struct uring_listener *uring_listener = listener_of(listener);

    uring_listener->shut = true;
    if (uring_listener->accept)
        uring_cancel(uring_of(listener->io), uring_listener->accept);
}

void uring_listener_close(struct io_listener *listener)
{
    struct uring_listener *uring_listener = listener_of(listener);

    assert(!uring_listener->accept);
    if (strncmp(listener->address, "unix:", 5) == 0)
        unlink(listener->address + 5);
    close(uring_listener->fd);
    free(uring_listener);
}

struct connect_timeout {
    struct waiting_op waiting;
    bool expired;
};

static void connect_expired(void *arg)
{
    struct connect_timeout *timeout = arg;

    timeout->expired = true;
    uring_waiting_cancel(&timeout->waiting);
}

static int co_connect_fd(struct io *io, int fd, const union socket_address *address,
                         socklen_t length, uint64_t timeout_ns)
{
    struct connect_timeout timeout = {.expired = false};
    struct io_uring_sqe *sqe;
    struct io_timer timer;
    int r;

    waiting_op_init(&timeout.waiting, io);
    r = co_set_cancel(uring_waiting_cancel, &timeout.waiting);
    if (r < 0)
        return r;
    io_timer_init(&timer, connect_expired, &timeout);
    io_timer_arm(io, &timer, deadline_after(io_now_ns(io), timeout_ns));
    sqe = uring_next_sqe(uring_of(io));
    io_uring_prep_connect(sqe, fd, &address->any, length);
    io_uring_sqe_set_data(sqe, &timeout.waiting.op);
    co_wait();
    co_clear_cancel();
    io_timer_disarm(io, &timer);
    if (timeout.waiting.result < 0 && timeout.expired)
        return -ETIMEDOUT;
    return timeout.waiting.result;
}

int uring_co_connect(struct io *io, const char *text, uint64_t timeout_ns,
                     struct io_stream **ret_stream)
{
    union socket_address address;
    socklen_t length;
    int fd, r;

    r = parse_address(text, &address, &length);
    if (r < 0)
        return r;
    fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    r = co_connect_fd(io, fd, &address, length, timeout_ns);
    if (r < 0) {
        close(fd);
        return r;
    }
    return stream_new(io, fd, &address, ret_stream);
}

/* ---- polling ---- */

static struct uring_poll *poll_of(struct io_poll *poll)
{
    return container_of(poll, struct uring_poll, poll);
}

int uring_poll_new(struct io *io, int fd, struct io_poll **ret_poll)
{
    struct uring_poll *poll = calloc(1, sizeof(*poll));

    if (!poll)
        return -ENOMEM;
    poll->poll.io = io;
    poll->fd = fd;
    *ret_poll = &poll->poll;
    return 0;
}

int uring_co_poll(struct io_poll *poll, unsigned events)
{
    struct uring_poll *uring_poll = poll_of(poll);
    struct io_uring_sqe *sqe;
    struct waiting_op waiting;
    int r;

    assert(!uring_poll->op);
    if (uring_poll->shut)
        return -ECANCELED;
    waiting_op_init(&waiting, poll->io);
    r = co_set_cancel(uring_waiting_cancel, &waiting);
    if (r < 0)
        return r;
    sqe = uring_next_sqe(uring_of(poll->io));
    io_uring_prep_poll_add(sqe, uring_poll->fd, events);
    io_uring_sqe_set_data(sqe, &waiting.op);
    uring_poll->op = &waiting.op;
    co_wait();
    uring_poll->op = NULL;
    co_clear_cancel();
    return waiting.result;
}

void uring_poll_shutdown(struct io_poll *poll)
{
    struct uring_poll *uring_poll = poll_of(poll);

    uring_poll->shut = true;
    if (uring_poll->op)
        uring_cancel(uring_of(poll->io), uring_poll->op);
}

void uring_poll_free(struct io_poll *poll)
{
    assert(!poll_of(poll)->op);
    free(poll_of(poll));
}
