/* api: HTTP and JSON, for whoever manages the node: requests, routes, answers, and a server of them
 * on a Unix socket (server.h). Knows no cluster: what a route does is given to it.
 *
 * A handler runs as a coroutine on the reactor and may suspend; it is cancelled (co_cancel()) when
 * the server closes. Parsing and printing JSON is done by the server's own thread.
 *
 * Errors are JSON too: {"error": {"code": "EEXIST", "message": "what, why, what to do"}}.
 * Memory is allocated: this is no data path. Bounds below; what is beyond is refused. */
#ifndef S2D_API_API_H
#define S2D_API_API_H

#include "s2d/base/io.h"
#include "s2d/base/json.h"

#define API_TARGET_MAX (16 * 1024) /* path and query, as sent */
#define API_BODY_MAX MIB           /* raw data: a piece of a file */
#define API_JSON_MAX (256 * KIB)   /* a JSON body */
#define API_PARAMETERS_MAX 4
#define API_QUERY_MAX 8
#define API_MESSAGE_MAX 1024

/* ---- requests ---- */

enum api_method { API_GET, API_POST, API_PUT, API_DELETE };
extern const char *const api_method_names[]; /* "GET", …, NULL */
int api_method_by_name(const char *name);    /* or -EINVAL */

struct api_pair {
    const char *name, *value; /* decoded */
};

struct api_request {
    enum api_method method;
    const char *target; /* as sent: "/v1/volumes/a%2Fb?x=1" */
    json_t *body;       /* an object; NULL: none */
    const void *data;   /* a body that is not JSON; NULL: none */
    size_t data_bytes;

    struct api_pair query[API_QUERY_MAX];
    size_t query_count;
    struct api_pair parameters[API_PARAMETERS_MAX]; /* what the route's pattern caught */
    size_t parameter_count;
    char *path;    /* private: undecoded, cut off before the query */
    char *scratch; /* private: what query and parameters point into */
    size_t scratch_used;
};

/* Takes a target apart. target: borrowed by *ret_request, which is for api_request_done().
 * Returns 0, -EINVAL (not a path; %00 or half an escape; a name twice or more than API_QUERY_MAX),
 * -ENAMETOOLONG, -ENOMEM. */
must_check int api_request_init(struct api_request *ret_request, enum api_method method,
                                const char *target);
void api_request_done(struct api_request *request); /* the body too; twice is fine */

/* NULL: the pattern or the query has no such name. */
const char *api_parameter(const struct api_request *request, const char *name);
const char *api_query(const struct api_request *request, const char *name);

/* Parses a body. Empty: 0, and *ret_json NULL. *ret_why: a constant for people.
 * Returns 0, -EINVAL (not a JSON object, a name twice, nested deeper than JSON_LEVELS_MAX), -E2BIG,
 * -ENOMEM. */
must_check int api_json_parse(const char *text, size_t bytes, json_t **ret_json,
                              const char **ret_why);

/* A text that may hold any bytes, as JSON: what is no UTF-8 becomes U+FFFD. NULL: no memory. */
json_t *api_json_text(const char *text);

/* ---- answers ---- */

struct api_response {
    unsigned status; /* of HTTP; 0: 200 */
    int error;       /* 0, or the negative errno that was answered */
    json_t *json;    /* NULL: */
    void *data;      /* for free(); NULL: nothing */
    size_t data_bytes;
    const char *content_type; /* of data; a constant */
};

/* Each takes the place of what was answered before. */
void api_answer_json(struct api_response *response, json_t *json); /* stolen; NULL: -ENOMEM */
void api_answer_text(struct api_response *response, char *text);   /* stolen */
/* data: stolen. content_type: a constant */
void api_answer_data(struct api_response *response, void *data, size_t bytes,
                     const char *content_type);
/* error: a negative errno. The message says what, why and what to do. */
void api_answer_error(struct api_response *response, int error, const char *format, ...)
    printf_like(3, 4);
void api_response_done(struct api_response *response);

unsigned api_http_status(int error);     /* of a negative errno */
const char *api_error_name(int error);   /* "EEXIST" */
int api_error_by_name(const char *name); /* its negative errno; -EPROTO: unknown */
#define API_CONTENT_JSON "application/json"
#define API_CONTENT_TEXT "text/plain; charset=utf-8"
#define API_CONTENT_DATA "application/octet-stream"

/* ---- reading a JSON body: the first thing wrong is answered, the rest gives 0, false or NULL ----
 */

struct api_arguments {
    const struct api_request *request;
    struct api_response *response;
    bool refused;
};
/* Every field of the body must be one of `names` (NULL-terminated). */
struct api_arguments api_arguments(const struct api_request *request, struct api_response *response,
                                   const char *const *names);
const char *api_text(struct api_arguments *arguments, const char *name); /* must be there */
const char *api_text_or(struct api_arguments *arguments, const char *name, const char *otherwise);
uint64_t api_u64(struct api_arguments *arguments, const char *name);
uint64_t api_u64_or(struct api_arguments *arguments, const char *name, uint64_t otherwise);
bool api_bool_or(struct api_arguments *arguments, const char *name, bool otherwise);
const json_t *api_list(struct api_arguments *arguments, const char *name); /* of texts */
/* A number in the query. */
uint64_t api_query_u64_or(struct api_arguments *arguments, const char *name, uint64_t otherwise);

/* ---- routes ---- */

typedef void co_api_handler(void *arg, const struct api_request *request,
                            struct api_response *response);

/* pattern: "/v1/volumes/{name}/resize"; a parameter takes one segment, the last one may be written
 * "{path*}" and takes all the rest, slashes and nothing at all included. Literal segments come
 * before parameters in the order of a table. */
struct api_route {
    enum api_method method;
    const char *pattern; /* NULL ends a table */
    co_api_handler *handler;
};

struct api_router {
    const struct api_route *const *tables; /* NULL-terminated */
    void *arg;                             /* of the handlers */
};

/* Finds the route and runs it; answers -ENOENT, or 405, when there is none. */
void co_api_dispatch(const struct api_router *router, struct api_request *request,
                     struct api_response *response);

#endif
