/* http: a client for one server on a Unix socket: HTTP/1.1, blocking, bounded. */
#ifndef S2D_CLI_HTTP_H
#define S2D_CLI_HTTP_H

#include <sys/un.h>

#include "s2d/base/base.h"

#define HTTP_HEAD_MAX (16 * 1024)
#define HTTP_BODY_MAX (64 * MIB)

struct http {
    struct sockaddr_un address;
    int fd; /* -1: not connected */
};

struct http_answer {
    unsigned status;
    bool is_json;
    char *body; /* with a 0 behind it; for http_answer_done() */
    size_t body_bytes;
};

/* Connects at the first call. Returns 0, -ENAMETOOLONG. */
must_check int http_init(struct http *http, const char *path);
void http_done(struct http *http);

/* One request and its answer. The connection is kept for later calls; where the server has closed
 * it meanwhile, GET and PUT, which may run twice, are sent again. timeout_ms: for each wait.
 * Returns 0 (whatever the status), -ENOENT, -ECONNREFUSED, -EACCES, … (nobody there),
 * -ETIMEDOUT, -ECONNRESET (gone while it worked), -EPROTO (no HTTP, or beyond the bounds),
 * -ENOMEM. */
must_check int http_call(struct http *http, const char *method, const char *target,
                         const char *content_type, const void *body, size_t body_bytes,
                         unsigned timeout_ms, struct http_answer *ret_answer);
void http_answer_done(struct http_answer *answer);

/* The head of an answer, up to the empty line. Returns 0 or -EPROTO. */
struct http_head {
    unsigned status;
    size_t length; /* of the body */
    bool is_json, closes;
};
must_check int http_parse_head(const char *text, struct http_head *ret_head);

/* Escapes what cannot stand in a path segment or a query value; slashes too unless keep_slashes.
 * Returns a text for free(), NULL: no memory. */
char *http_escape(const char *text, bool keep_slashes);

#endif
