/* The API as a client on its socket sees it: a plain HTTP client on the same loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "s2d/api/server.h"
#include "s2d/base/co.h"

struct fixture {
    struct io *io;
    char path[64], address[80];
    struct api_server *server;
    struct api_router router;
    co_fn *test;
    unsigned running, cancelled;
};

/* ---- routes ---- */

/* What arrived, as JSON. */
static void co_echo(void *arg, const struct api_request *request, struct api_response *response)
{
    json_t *json = json_object();

    (void)arg;
    for (size_t i = 0; i < request->parameter_count; i++)
        json_object_set_new(json, request->parameters[i].name,
                            api_json_text(request->parameters[i].value));
    for (size_t i = 0; i < request->query_count; i++)
        json_object_set_new(json, request->query[i].name, api_json_text(request->query[i].value));
    json_object_set(json, "body", request->body);
    api_answer_json(response, json);
}

static void co_refuse(void *arg, const struct api_request *request, struct api_response *response)
{
    (void)arg;
    api_answer_error(response, -EEXIST, "there is a volume '%s' already",
                     api_parameter(request, "name"));
}

static void co_text(void *arg, const struct api_request *request, struct api_response *response)
{
    (void)arg;
    (void)request;
    api_answer_text(response, strdup("s2d_up 1\n"));
}

static void co_raw(void *arg, const struct api_request *request, struct api_response *response)
{
    char *copy = malloc(request->data_bytes + 1);

    (void)arg;
    if (request->data_bytes > 0)
        memcpy(copy, request->data, request->data_bytes);
    api_answer_data(response, copy, request->data_bytes, API_CONTENT_DATA);
}

static void co_sleepy(void *arg, const struct api_request *request, struct api_response *response)
{
    struct fixture *fixture = arg;

    (void)request;
    fixture->running++;
    if (co_sleep_ns(3600 * SEC) == -ECANCELED) {
        fixture->cancelled++;
        api_answer_error(response, -ECANCELED, "stopping");
    }
}

static void co_typed(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"name", "size", "thin", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *name = api_text(&arguments, "name");
    uint64_t size = api_u64(&arguments, "size");
    bool thin = api_bool_or(&arguments, "thin", true);

    (void)arg;
    if (!arguments.refused)
        api_answer_json(response, json_pack("{s:s,s:I,s:b}", "name", name, "size", (json_int_t)size,
                                            "thin", thin));
}

static const struct api_route some[] = {
    {API_GET, "/v1/echo/{name}", co_echo},
    {API_POST, "/v1/echo/{name}", co_echo},
    {API_GET, "/v1/refuse/{name}", co_refuse},
    {API_GET, "/metrics", co_text},
    {API_PUT, "/v1/raw", co_raw},
    {API_GET, "/v1/sleep", co_sleepy},
    {API_POST, "/v1/typed", co_typed},
    {0, NULL, NULL},
};
static const struct api_route more[] = {
    {API_GET, "/v1/files/{volume}/{path*}", co_echo},
    {0, NULL, NULL},
};
static const struct api_route *const tables[] = {some, more, NULL};

/* ---- a client ---- */

#define ANSWER_MAX (2 * MIB)

struct answer {
    unsigned status;
    char head[4096];
    char *body;
    size_t body_bytes;
    json_t *json;
};

static void answer_done(struct answer *answer)
{
    json_decref(answer->json);
    free(answer->body);
}

static size_t head_bytes(const char *text, size_t bytes)
{
    const char *end = memmem(text, bytes, "\r\n\r\n", 4);

    return end ? (size_t)(end - text) + 4 : 0;
}

static void co_receive(struct io_stream *stream, struct answer *ret_answer)
{
    char *text = malloc(ANSWER_MAX + 1);
    size_t bytes = 0, head = 0, length = SIZE_MAX;
    const char *field;

    while (head == 0 || bytes < head + length) {
        int r = co_io_recv(stream, text + bytes, ANSWER_MAX - bytes);

        assert_true(r > 0);
        bytes += r;
        text[bytes] = '\0';
        head = head_bytes(text, bytes);
        field = head ? strstr(text, "Content-Length: ") : NULL;
        if (field)
            length = strtoul(field + 16, NULL, 10);
    }
    *ret_answer = (struct answer){0};
    assert_int_equal(sscanf(text, "HTTP/1.1 %u", &ret_answer->status), 1);
    assert_true(head < sizeof(ret_answer->head));
    memcpy(ret_answer->head, text, head);
    ret_answer->body_bytes = length;
    memmove(text, text + head, length + 1);
    ret_answer->body = text;
    if (strstr(ret_answer->head, API_CONTENT_JSON))
        ret_answer->json = json_loadb(text, length, 0, NULL);
}

static struct io_stream *co_connect(struct fixture *fixture)
{
    struct io_stream *stream;

    assert_int_equal(co_io_connect(fixture->io, fixture->address, SEC, &stream), 0);
    return stream;
}

static void co_send_request(struct io_stream *stream, const char *method, const char *target,
                            const char *type, const char *body, size_t bytes)
{
    char head[1024];
    int length = snprintf(head, sizeof(head),
                          "%s %s HTTP/1.1\r\nHost: s2d\r\nContent-Type: %s\r\n"
                          "Content-Length: %zu\r\n\r\n",
                          method, target, type, bytes);

    assert_int_equal(co_io_send(stream, head, length), 0);
    if (bytes > 0)
        (void)!co_io_send(stream, body, bytes); /* a refusal may come before all is sent */
}

static struct answer co_ask(struct fixture *fixture, const char *method, const char *target,
                            const char *body)
{
    struct io_stream *stream = co_connect(fixture);
    struct answer answer;

    co_send_request(stream, method, target, API_CONTENT_JSON, body, strlen(body));
    co_receive(stream, &answer);
    io_stream_close(stream);
    return answer;
}

static void co_expect(struct fixture *fixture, const char *method, const char *target,
                      const char *body, unsigned status, const char *code)
{
    struct answer answer = co_ask(fixture, method, target, body);
    const json_t *error = json_object_get(answer.json, "error");

    assert_int_equal(answer.status, status);
    assert_string_equal(json_string_value(json_object_get(error, "code")), code);
    assert_true(json_string_length(json_object_get(error, "message")) > 0);
    answer_done(&answer);
}

static const char *field(const struct answer *answer, const char *name)
{
    return json_string_value(json_object_get(answer->json, name));
}

/* ---- a test runs as a coroutine beside an open server ---- */

static void open_server(struct fixture *fixture)
{
    struct api_server_options options = {.path = fixture->path, .router = &fixture->router};

    assert_int_equal(api_server_open(fixture->io, &options, &fixture->server), 0);
}

static void co_run(void *arg)
{
    struct fixture *fixture = arg;

    open_server(fixture);
    fixture->test(fixture);
    co_api_server_close(fixture->server);
    io_stop(fixture->io);
}

static void run(co_fn *test)
{
    struct fixture fixture = {.router = {.tables = tables}, .test = test};

    fixture.router.arg = &fixture;
    snprintf(fixture.path, sizeof(fixture.path), "/tmp/test_api.%d", (int)getpid());
    snprintf(fixture.address, sizeof(fixture.address), "unix:%s", fixture.path);
    assert_int_equal(io_uring_new(NULL, &fixture.io), 0);
    assert_int_equal(co_spawn(fixture.io, "test", co_run, &fixture), 0);
    io_run(fixture.io);
    io_free(fixture.io);
    assert_int_equal(access(fixture.path, F_OK), -1); /* a closed server leaves no socket */
}

static void co_routes(void *arg)
{
    struct fixture *fixture = arg;
    struct answer answer = co_ask(fixture, "GET", "/v1/echo/a%2Fb%20c?after=7&wait&x=%3D", "");

    assert_int_equal(answer.status, 200);
    assert_string_equal(field(&answer, "name"), "a/b c");
    assert_string_equal(field(&answer, "after"), "7");
    assert_string_equal(field(&answer, "wait"), "");
    assert_string_equal(field(&answer, "x"), "=");
    answer_done(&answer);

    answer = co_ask(fixture, "GET", "/v1/files/vol/dir/file%25", "");
    assert_string_equal(field(&answer, "volume"), "vol");
    assert_string_equal(field(&answer, "path"), "dir/file%");
    answer_done(&answer);
    answer = co_ask(fixture, "GET", "/v1/files/vol", "");
    assert_string_equal(field(&answer, "path"), "");
    answer_done(&answer);

    answer = co_ask(fixture, "POST", "/v1/echo/x", "{\"size\": 5}");
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(answer.json, "body"), "size")), 5);
    answer_done(&answer);

    answer = co_ask(fixture, "GET", "/metrics", "");
    assert_int_equal(answer.status, 200);
    assert_non_null(strstr(answer.head, "text/plain"));
    assert_string_equal(answer.body, "s2d_up 1\n");
    answer_done(&answer);
}

static void paths_and_queries_reach_their_handler(void **state)
{
    (void)state;
    run(co_routes);
}

static void co_refusals(void *arg)
{
    struct fixture *fixture = arg;

    co_expect(fixture, "GET", "/v1/refuse/v", "", 409, "EEXIST");
    co_expect(fixture, "GET", "/nothing", "", 404, "ENOENT");
    co_expect(fixture, "GET", "/v1/echo/", "", 404, "ENOENT");
    co_expect(fixture, "DELETE", "/v1/raw", "", 405, "EOPNOTSUPP");
    co_expect(fixture, "PATCH", "/v1/raw", "", 501, "EOPNOTSUPP");
    co_expect(fixture, "GET", "/v1/echo/%zz", "", 400, "EINVAL");
    co_expect(fixture, "GET", "/v1/echo/a%00b", "", 400, "EINVAL");
    co_expect(fixture, "GET", "/v1/echo/a?x=1&x=2", "", 400, "EINVAL");
    co_expect(fixture, "POST", "/v1/echo/a", "{\"a\":", 400, "EINVAL");
    co_expect(fixture, "POST", "/v1/echo/a", "{\"a\":1,\"a\":2}", 400, "EINVAL");
    co_expect(fixture, "POST", "/v1/echo/a", "[1]", 400, "EINVAL");
    co_expect(fixture, "POST", "/v1/typed", "{\"size\":1}", 400, "EINVAL");
    co_expect(fixture, "POST", "/v1/typed", "{\"name\":1,\"size\":1}", 400, "EINVAL");
    co_expect(fixture, "POST", "/v1/typed", "{\"name\":\"v\",\"size\":-1}", 400, "EINVAL");
    co_expect(fixture, "POST", "/v1/typed", "{\"name\":\"v\",\"size\":1,\"thim\":true}", 400,
              "EINVAL");
}

static void what_is_wrong_is_refused_by_name(void **state)
{
    (void)state;
    run(co_refusals);
}

/* Outside bytes never choose how much we allocate, or how deep we recurse. */
static void co_bounds(void *arg)
{
    struct fixture *fixture = arg;
    char *body = malloc(API_JSON_MAX + 64);
    struct io_stream *stream;
    struct answer answer;

    memset(body, '[', JSON_LEVELS_MAX + 1);
    body[JSON_LEVELS_MAX + 1] = '\0';
    co_expect(fixture, "POST", "/v1/echo/a", body, 400, "EINVAL");
    memset(body, ' ', API_JSON_MAX + 1);
    body[API_JSON_MAX + 1] = '\0';
    co_expect(fixture, "POST", "/v1/echo/a", body, 413, "E2BIG");
    free(body);

    stream = co_connect(fixture);
    co_send_request(stream, "PUT", "/v1/raw", API_CONTENT_DATA, "", 0);
    co_receive(stream, &answer);
    assert_int_equal(answer.status, 200);
    answer_done(&answer);
    /* The same connection again; the head alone is enough to be refused. */
    body = "PUT /v1/raw HTTP/1.1\r\nHost: s2d\r\nContent-Length: 1048577\r\n\r\n";
    assert_int_equal(co_io_send(stream, body, strlen(body)), 0);
    co_receive(stream, &answer);
    assert_int_equal(answer.status, 413);
    answer_done(&answer);
    io_stream_close(stream);
}

static void bodies_are_bounded(void **state)
{
    (void)state;
    run(co_bounds);
}

static void co_whole_mebibyte(void *arg)
{
    struct fixture *fixture = arg;
    struct io_stream *stream = co_connect(fixture);
    char *data = malloc(API_BODY_MAX);
    struct answer answer;

    for (size_t i = 0; i < API_BODY_MAX; i++)
        data[i] = (char)(i * 31 >> 3);
    co_send_request(stream, "PUT", "/v1/raw", API_CONTENT_DATA, data, API_BODY_MAX);
    co_receive(stream, &answer);
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.body_bytes, API_BODY_MAX);
    assert_memory_equal(answer.body, data, API_BODY_MAX);
    answer_done(&answer);
    free(data);
    io_stream_close(stream);
}

static void a_piece_of_a_file_travels_whole(void **state)
{
    (void)state;
    run(co_whole_mebibyte);
}

static void co_wait_running(struct fixture *fixture, unsigned count)
{
    while (fixture->running < count)
        co_sleep_ns(MS);
}

/* A handler that waits holds up nobody; one whose client has left ends as any other; closing the
 * server cancels both. */
static void co_waiting(void *arg)
{
    struct fixture *fixture = arg;
    struct io_stream *patient = co_connect(fixture), *gone = co_connect(fixture);
    struct answer answer;

    co_send_request(patient, "GET", "/v1/sleep", API_CONTENT_JSON, "", 0);
    co_send_request(gone, "GET", "/v1/sleep", API_CONTENT_JSON, "", 0);
    co_wait_running(fixture, 2);
    io_stream_close(gone);
    answer = co_ask(fixture, "GET", "/metrics", "");
    assert_int_equal(answer.status, 200);
    answer_done(&answer);

    co_api_server_close(fixture->server);
    assert_int_equal(fixture->cancelled, 2);
    co_receive(patient, &answer);
    assert_int_equal(answer.status, 503);
    answer_done(&answer);
    io_stream_close(patient);
    open_server(fixture);
}

static void closing_ends_what_waits(void **state)
{
    (void)state;
    run(co_waiting);
}

static void co_socket(void *arg)
{
    struct fixture *fixture = arg;
    struct api_server_options options = {.path = fixture->path, .router = &fixture->router};
    struct api_server *second;
    struct stat status;

    assert_int_equal(stat(fixture->path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600); /* who may connect may do everything */
    assert_int_equal(api_server_open(fixture->io, &options, &second), -EADDRINUSE);
    co_expect(fixture, "GET", "/nothing", "", 404, "ENOENT"); /* the first one was not harmed */

    co_api_server_close(fixture->server);
    assert_int_equal(mknod(fixture->path, S_IFSOCK | 0600, 0), 0); /* a dead predecessor's */
    open_server(fixture);
    co_expect(fixture, "GET", "/nothing", "", 404, "ENOENT");
}

static void the_socket_is_its_owners_alone(void **state)
{
    (void)state;
    run(co_socket);
}

static void texts_of_any_bytes_can_be_shown(void **state)
{
    json_t *json = api_json_text("caf\xe9");

    (void)state;
    assert_string_equal(json_string_value(json), "caf\xef\xbf\xbd");
    json_decref(json);
    json = api_json_text("caf\xc3\xa9");
    assert_string_equal(json_string_value(json), "caf\xc3\xa9");
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_and_queries_reach_their_handler),
        cmocka_unit_test(what_is_wrong_is_refused_by_name),
        cmocka_unit_test(bodies_are_bounded),
        cmocka_unit_test(a_piece_of_a_file_travels_whole),
        cmocka_unit_test(closing_ends_what_waits),
        cmocka_unit_test(the_socket_is_its_owners_alone),
        cmocka_unit_test(texts_of_any_bytes_can_be_shown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
