#include "hv/qmp.h"

#include <stdio.h>

#include "s2d/base/co.h"
#include "s2d/base/io.h"

#define RECEIVE_BYTES (8 * KIB)
#define RETRY_NS (20 * MS)
#define HANDSHAKE_SLICE_NS (3600 * SEC) /* "for ever" in pieces that do not overflow */

/* ---- messages ---- */

static int take_text(const json_t *json, char *text, size_t size)
{
    const char *value = json_string_value(json);

    if (!value)
        return -EPROTO;
    snprintf(text, size, "%s", value);
    return 0;
}

/* message->value: a new reference to member, if it is there. */
static void take_value(struct qmp_message *message, const json_t *object, const char *member)
{
    message->value = json_incref(json_object_get(object, member));
}

static int parse_object(const json_t *object, struct qmp_message *message)
{
    const json_t *event = json_object_get(object, "event");
    const json_t *error = json_object_get(object, "error");
    json_int_t id = json_integer_value(json_object_get(object, "id"));

    message->id = id > 0 ? (uint64_t)id : 0;
    if (event) {
        message->kind = QMP_EVENT;
        take_value(message, object, "data");
        return take_text(event, message->event, sizeof(message->event));
    }
    if (error) {
        message->kind = QMP_ERROR;
        return take_text(json_object_get(error, "desc"), message->error, sizeof(message->error));
    }
    if (json_object_get(object, "return")) {
        message->kind = QMP_RETURN;
        take_value(message, object, "return");
        return 0;
    }
    if (json_is_object(json_object_get(object, "QMP"))) {
        message->kind = QMP_GREETING;
        return 0;
    }
    return -EPROTO;
}

int qmp_parse(const char *line, size_t length, struct qmp_message *ret_message)
{
    struct qmp_message message = {0};
    json_t *object;
    int r = json_read(line, length, JSON_REJECT_DUPLICATES, &object);

    if (r < 0)
        return r == -ENOMEM ? r : -EPROTO;
    r = parse_object(object, &message);
    json_decref(object);
    if (r < 0) {
        qmp_message_done(&message);
        return r;
    }
    *ret_message = message;
    return 0;
}

void qmp_message_done(struct qmp_message *message)
{
    json_decref(message->value);
    message->value = NULL;
}

/* ---- the connection ---- */

struct qmp {
    struct io *io;
    struct io_stream *stream;
    qmp_on_event *on_event;
    void *arg;
    struct co_mutex commands; /* one at a time */
    struct co_cond changed;   /* an answer is there, or the connection ended */
    struct co_group users;    /* the reader, and calls under way */
    uint64_t last_id;
    bool greeted;
    bool answered; /* answer is that of last_id */
    struct qmp_message answer;
    int ended; /* 0, or why the connection ended */
    char error[QMP_ERROR_BYTES];
    char *line; /* received, not complete yet */
    size_t line_length, line_size;
};

static void qmp_take(struct qmp *qmp, struct qmp_message *message)
{
    switch (message->kind) {
    case QMP_GREETING:
        qmp->greeted = true;
        co_cond_broadcast(&qmp->changed);
        break;
    case QMP_EVENT:
        if (qmp->on_event)
            qmp->on_event(qmp->arg, message->event, message->value);
        break;
    case QMP_RETURN:
    case QMP_ERROR:
        if (message->id != qmp->last_id || qmp->answered)
            break; /* of a command that nobody waits for any more */
        qmp->answer = *message;
        message->value = NULL;
        qmp->answered = true;
        co_cond_broadcast(&qmp->changed);
        break;
    }
    qmp_message_done(message);
}

static int qmp_take_line(struct qmp *qmp, const char *line, size_t length)
{
    struct qmp_message message;
    int r;

    if (length && line[length - 1] == '\r')
        length--;
    if (length == 0)
        return 0;
    r = qmp_parse(line, length, &message);
    if (r < 0)
        return r;
    qmp_take(qmp, &message);
    return 0;
}

/* Makes room for `more` bytes behind the line that is being received. */
static int qmp_reserve(struct qmp *qmp, size_t more)
{
    size_t size = MAX(qmp->line_size, (size_t)RECEIVE_BYTES);
    char *line;

    while (size < qmp->line_length + more)
        size *= 2;
    if (size == qmp->line_size)
        return 0;
    line = realloc(qmp->line, size);
    if (!line)
        return -ENOMEM;
    qmp->line = line;
    qmp->line_size = size;
    return 0;
}

static int qmp_feed(struct qmp *qmp, size_t received)
{
    size_t start = 0, end = qmp->line_length + received;
    int r;

    for (size_t i = qmp->line_length; i < end; i++) {
        if (qmp->line[i] != '\n')
            continue;
        r = qmp_take_line(qmp, qmp->line + start, i - start);
        if (r < 0)
            return r;
        start = i + 1;
    }
    qmp->line_length = end - start;
    if (qmp->line_length > QMP_LINE_MAX)
        return -EPROTO;
    memmove(qmp->line, qmp->line + start, qmp->line_length);
    return 0;
}

static void qmp_read(void *arg)
{
    struct qmp *qmp = arg;
    int r;

    do {
        r = qmp_reserve(qmp, RECEIVE_BYTES);
        if (r == 0)
            r = co_io_recv(qmp->stream, qmp->line + qmp->line_length, RECEIVE_BYTES);
        if (r == 0)
            r = -ECONNRESET;
        if (r > 0)
            r = qmp_feed(qmp, (size_t)r);
    } while (r == 0);
    qmp->ended = r == -ECANCELED ? -ECONNRESET : r;
    co_cond_broadcast(&qmp->changed);
}

void co_qmp_free(struct qmp *qmp)
{
    if (!qmp)
        return;
    if (qmp->stream)
        io_stream_shutdown(qmp->stream);
    co_group_wait(&qmp->users);
    io_stream_close(qmp->stream);
    qmp_message_done(&qmp->answer);
    free(qmp->line);
    free(qmp);
}

const char *qmp_error(const struct qmp *qmp)
{
    return qmp->error;
}

static int qmp_send(struct qmp *qmp, const char *command, json_t *arguments)
{
    cleanup(freep) char *text = NULL;
    json_t *object = json_pack("{s:s,s:I,s:o*}", "execute", command, "id", (json_int_t)qmp->last_id,
                               "arguments", arguments);

    text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text)
        return -ENOMEM;
    return co_io_send(qmp->stream, text, strlen(text));
}

static int qmp_wait_answer(struct qmp *qmp, uint64_t deadline_ns)
{
    while (!qmp->answered) {
        int r;

        if (qmp->ended)
            return qmp->ended;
        r = co_cond_wait_until(&qmp->changed, deadline_ns);
        if (r < 0)
            return r;
    }
    return 0;
}

static int qmp_take_answer(struct qmp *qmp, json_t **ret_value)
{
    if (qmp->answer.kind == QMP_ERROR) {
        memcpy(qmp->error, qmp->answer.error, sizeof(qmp->error));
        return -EREMOTEIO;
    }
    if (ret_value)
        *ret_value = take_ptr(qmp->answer.value);
    return 0;
}

int co_qmp_execute(struct qmp *qmp, const char *command, json_t *arguments, uint64_t timeout_ns,
                   json_t **ret_value)
{
    int r;

    co_group_add(&qmp->users, 1);
    co_mutex_lock(&qmp->commands);
    qmp->last_id++;
    qmp->answered = false;
    qmp_message_done(&qmp->answer);
    if (qmp->ended) {
        r = qmp->ended;
        json_decref(arguments);
    } else {
        r = qmp_send(qmp, command, arguments);
    }
    if (r == 0)
        r = qmp_wait_answer(qmp, io_now_ns(qmp->io) + timeout_ns);
    if (r == 0)
        r = qmp_take_answer(qmp, ret_value);
    co_mutex_unlock(&qmp->commands);
    co_group_done(&qmp->users);
    return r;
}

int co_qmp_wait_closed(struct qmp *qmp, uint64_t deadline_ns)
{
    int r = 0;

    co_group_add(&qmp->users, 1);
    while (!qmp->ended && r == 0)
        r = co_cond_wait_until(&qmp->changed, deadline_ns);
    co_group_done(&qmp->users);
    return r < 0 ? r : qmp->ended;
}

/* QEMU makes its socket some time after it was started. */
static int connect_stream(struct io *io, const char *path, uint64_t deadline_ns,
                          struct io_stream **ret_stream)
{
    char address[IO_ADDRESS_MAX];
    int r;

    if (snprintf(address, sizeof(address), "unix:%s", path) >= (int)sizeof(address))
        return -EINVAL;
    for (;;) {
        r = co_io_connect(io, address, SEC, ret_stream);
        if (r == 0 || r == -ECANCELED || r == -EINVAL)
            return r;
        if (io_now_ns(io) >= deadline_ns)
            return -ETIMEDOUT;
        r = co_sleep_ns(RETRY_NS);
        if (r < 0)
            return r;
    }
}

static int qmp_negotiate(struct qmp *qmp, uint64_t deadline_ns)
{
    uint64_t now_ns;

    while (!qmp->greeted) {
        int r;

        if (qmp->ended)
            return qmp->ended;
        r = co_cond_wait_until(&qmp->changed, deadline_ns);
        if (r < 0)
            return r;
    }
    now_ns = io_now_ns(qmp->io);
    if (now_ns >= deadline_ns)
        return -ETIMEDOUT;
    return co_qmp_execute(qmp, "qmp_capabilities", NULL,
                          MIN(deadline_ns - now_ns, HANDSHAKE_SLICE_NS), NULL);
}

int co_qmp_connect(struct io *io, const char *path, uint64_t deadline_ns, qmp_on_event *on_event,
                   void *arg, struct qmp **ret_qmp)
{
    struct qmp *qmp = calloc(1, sizeof(*qmp));
    int r;

    if (!qmp)
        return -ENOMEM;
    qmp->io = io;
    qmp->on_event = on_event;
    qmp->arg = arg;
    co_mutex_init(&qmp->commands);
    co_cond_init(&qmp->changed);
    co_group_init(&qmp->users);
    r = connect_stream(io, path, deadline_ns, &qmp->stream);
    if (r == 0)
        r = co_group_spawn(&qmp->users, io, "qmp", qmp_read, qmp);
    if (r == 0)
        r = qmp_negotiate(qmp, deadline_ns);
    if (r < 0) {
        co_qmp_free(qmp);
        return r;
    }
    *ret_qmp = qmp;
    return 0;
}
