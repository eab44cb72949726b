/* qmp: a client of QEMU's monitor. One connection, one reactor; all calls from the loop's thread.
 *
 * Commands go one after another; events come in between. What QEMU sends is outside bytes: a line
 * of at most QMP_LINE_MAX, one JSON object each; anything else ends the connection with -EPROTO. A
 * stopped QEMU (SIGSTOP) answers nothing: commands have a time-out, events do not. */
#ifndef S2D_HV_QMP_H
#define S2D_HV_QMP_H

#include "s2d/base/base.h"
#include "s2d/base/json.h"

struct io;
struct qmp;

#define QMP_LINE_MAX (256 * KIB)
#define QMP_EVENT_BYTES 40
#define QMP_ERROR_BYTES 200

/* ---- the messages, pure; a fuzz target of its own ---- */

enum qmp_kind { QMP_GREETING, QMP_RETURN, QMP_ERROR, QMP_EVENT };

struct qmp_message {
    enum qmp_kind kind;
    uint64_t id;                 /* of QMP_RETURN and QMP_ERROR; 0: none */
    char event[QMP_EVENT_BYTES]; /* of QMP_EVENT: its name */
    char error[QMP_ERROR_BYTES]; /* of QMP_ERROR: QEMU's sentence, cut to fit */
    json_t *value; /* what was returned, or the event's data; the receiver's; may be NULL */
};

/* line: without its newline. Returns 0, -EPROTO, -ENOMEM. */
must_check int qmp_parse(const char *line, size_t length, struct qmp_message *ret_message);
void qmp_message_done(struct qmp_message *message);

/* ---- the connection ---- */

/* data: borrowed during the call, may be NULL. Called on the loop; must not suspend, nor free the
 * qmp. */
typedef void qmp_on_event(void *arg, const char *event, const json_t *data);

/* Connects, takes the greeting, negotiates. Waits for a QEMU that has not made its socket yet, or
 * is stopped, until deadline_ns (UINT64_MAX: for ever). Returns 0, -ETIMEDOUT, -ECANCELED, -EPROTO,
 * -ECONNRESET, -ENOMEM. */
must_check int co_qmp_connect(struct io *io, const char *path, uint64_t deadline_ns,
                              qmp_on_event *on_event, void *arg, struct qmp **ret_qmp);

/* Ends the connection, waits for calls under way to return, frees. NULL is fine. */
void co_qmp_free(struct qmp *qmp);

/* Runs a command. arguments: taken, NULL for none. ret_value: the caller's (json_decref()); may be
 * NULL. Returns 0, -EREMOTEIO (QEMU refused: qmp_error()), -ETIMEDOUT, -ECONNRESET, -EPROTO,
 * -ECANCELED, -ENOMEM. */
must_check int co_qmp_execute(struct qmp *qmp, const char *command, json_t *arguments,
                              uint64_t timeout_ns, json_t **ret_value);
const char *qmp_error(const struct qmp *qmp); /* what QEMU said when it refused last */

/* Suspends until the connection has ended. Returns why: -ECONNRESET, -EPROTO; or -ECANCELED,
 * -ETIMEDOUT (it has not by deadline_ns). */
int co_qmp_wait_closed(struct qmp *qmp, uint64_t deadline_ns);

#endif
