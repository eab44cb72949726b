#include "tools/cli/http.h"

#include <stdio.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

int http_init(struct http *http, const char *path)
{
    *http = (struct http){.fd = -1, .address = {.sun_family = AF_UNIX}};
    if (strlen(path) >= sizeof(http->address.sun_path))
        return -ENAMETOOLONG;
    strcpy(http->address.sun_path, path);
    return 0;
}

void http_done(struct http *http)
{
    if (http->fd >= 0)
        close(http->fd);
    http->fd = -1;
}

void http_answer_done(struct http_answer *answer)
{
    free(answer->body);
    *answer = (struct http_answer){0};
}

char *http_escape(const char *text, bool keep_slashes)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~@:";
    char *escaped = malloc(3 * strlen(text) + 1), *out = escaped;

    for (; escaped && *text; text++) {
        if (strchr(plain, *text) || (keep_slashes && *text == '/'))
            *out++ = *text;
        else
            out += sprintf(out, "%%%02X", (unsigned char)*text);
    }
    if (escaped)
        *out = '\0';
    return escaped;
}

/* ---- the answer's head ---- */

static int parse_length(const char *value, size_t *ret_length)
{
    char *end;
    unsigned long long length;

    if (value[0] < '0' || value[0] > '9')
        return -EPROTO;
    length = strtoull(value, &end, 10);
    if ((*end != '\r' && *end != '\n') || length > HTTP_BODY_MAX)
        return -EPROTO;
    *ret_length = length;
    return 0;
}

static int parse_field(const char *line, bool *found_length, struct http_head *head)
{
    size_t name = strcspn(line, ":\r\n");
    const char *value = line + name + (line[name] == ':');

    value += strspn(value, " \t");
    if (name == 14 && strncasecmp(line, "Content-Length", name) == 0) {
        *found_length = true;
        return parse_length(value, &head->length);
    }
    if (name == 12 && strncasecmp(line, "Content-Type", name) == 0)
        head->is_json = strncasecmp(value, "application/json", 16) == 0;
    if (name == 10 && strncasecmp(line, "Connection", name) == 0)
        head->closes = strncasecmp(value, "close", 5) == 0;
    return 0;
}

int http_parse_head(const char *text, struct http_head *ret_head)
{
    struct http_head head = {0};
    bool found_length = false;
    int minor;

    if (sscanf(text, "HTTP/1.%1d %3u", &minor, &head.status) != 2 || head.status < 100)
        return -EPROTO;
    for (const char *line = strchr(text, '\n'); line; line = strchr(line, '\n')) {
        int r = parse_field(++line, &found_length, &head);

        if (r < 0)
            return r;
    }
    if (!found_length)
        return -EPROTO; /* our server always says */
    *ret_head = head;
    return 0;
}

/* ---- the connection ---- */

static int connect_to(struct http *http)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&http->address, sizeof(http->address)) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    http->fd = fd;
    return 0;
}

static void set_timeout(struct http *http, unsigned timeout_ms)
{
    struct timeval limit = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};

    (void)!setsockopt(http->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    (void)!setsockopt(http->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static int stream_error(void)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return -ETIMEDOUT;
    return errno == EPIPE ? -ECONNRESET : -errno;
}

static int send_all(struct http *http, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t sent = send(http->fd, data, bytes, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return stream_error();
        data += sent;
        bytes -= sent;
    }
    return 0;
}

/* Returns bytes (≥ 1), or an error. */
static ssize_t receive(struct http *http, char *data, size_t bytes)
{
    ssize_t received;

    do
        received = recv(http->fd, data, bytes, 0);
    while (received < 0 && errno == EINTR);
    if (received == 0)
        return -ECONNRESET;
    return received < 0 ? stream_error() : received;
}

/* Receives until the empty line. *ret_bytes: in text, what follows the head included. */
static int receive_head(struct http *http, char text[HTTP_HEAD_MAX + 1], size_t *ret_head_bytes,
                        size_t *ret_bytes)
{
    size_t bytes = 0;

    while (bytes < HTTP_HEAD_MAX) {
        ssize_t received = receive(http, text + bytes, HTTP_HEAD_MAX - bytes);
        const char *end;

        if (received < 0)
            return bytes == 0 ? (int)received : -EPROTO;
        bytes += received;
        text[bytes] = '\0';
        end = memmem(text, bytes, "\r\n\r\n", 4);
        if (end) {
            *ret_head_bytes = end - text + 4;
            *ret_bytes = bytes;
            return 0;
        }
    }
    return -EPROTO;
}

static int receive_answer(struct http *http, struct http_answer *ret_answer)
{
    char text[HTTP_HEAD_MAX + 1];
    struct http_answer answer = {0};
    struct http_head head;
    size_t head_bytes = 0, bytes = 0;
    int r = receive_head(http, text, &head_bytes, &bytes);

    if (r < 0)
        return r;
    assert(head_bytes > 0);
    text[head_bytes - 1] = '\0';
    r = http_parse_head(text, &head);
    if (r < 0 || bytes - head_bytes > head.length)
        return -EPROTO;
    answer.status = head.status;
    answer.is_json = head.is_json;
    answer.body_bytes = head.length;
    answer.body = malloc(head.length + 1);
    if (!answer.body)
        return -ENOMEM;
    bytes -= head_bytes;
    memcpy(answer.body, text + head_bytes, bytes);
    while (bytes < head.length) {
        ssize_t received = receive(http, answer.body + bytes, head.length - bytes);

        if (received < 0) {
            free(answer.body);
            return (int)received;
        }
        bytes += received;
    }
    answer.body[head.length] = '\0';
    if (head.closes)
        http_done(http);
    *ret_answer = answer;
    return 0;
}

static int call_once(struct http *http, const char *head, const void *body, size_t body_bytes,
                     unsigned timeout_ms, struct http_answer *ret_answer)
{
    int r;

    set_timeout(http, timeout_ms);
    r = send_all(http, head, strlen(head));
    if (r == 0)
        r = send_all(http, body, body_bytes);
    /* A refusal may come before all of the body was taken: it is there to be read. */
    if (r == 0 || r == -ECONNRESET)
        r = receive_answer(http, ret_answer);
    if (r < 0)
        http_done(http);
    return r;
}

int http_call(struct http *http, const char *method, const char *target, const char *content_type,
              const void *body, size_t body_bytes, unsigned timeout_ms,
              struct http_answer *ret_answer)
{
    bool repeatable = strcmp(method, "GET") == 0 || strcmp(method, "PUT") == 0, reused;
    char *head;
    int r;

    if (!repeatable)
        http_done(http); /* on a new connection it is clear that nothing has run yet */
    reused = http->fd >= 0;
    r = reused ? 0 : connect_to(http);
    if (r < 0)
        return r;
    if (asprintf(&head,
                 "%s %s HTTP/1.1\r\nHost: s2d\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
                 method, target, content_type, body_bytes) < 0)
        return -ENOMEM;
    r = call_once(http, head, body, body_bytes, timeout_ms, ret_answer);
    if (r == -ECONNRESET && reused) {
        r = connect_to(http);
        if (r == 0)
            r = call_once(http, head, body, body_bytes, timeout_ms, ret_answer);
    }
    free(head);
    return r;
}
