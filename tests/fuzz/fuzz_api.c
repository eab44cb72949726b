/* What an API client may send: the first line is a method and a target, the rest a body. Every
 * route is tried, and every field is read as every type. */
#include "s2d/api/api.h"

static void co_read_all(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"name", "size_bytes", "thin", "disks", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);

    (void)arg;
    (void)!api_text(&arguments, "name");
    (void)!api_text_or(&arguments, "name", "");
    (void)!api_u64_or(&arguments, "size_bytes", 0);
    (void)!api_bool_or(&arguments, "thin", false);
    (void)!api_list(&arguments, "disks");
    (void)!api_query_u64_or(&arguments, "after", 0);
    for (size_t i = 0; i < request->parameter_count; i++) {
        assert(strlen(request->parameters[i].value) <= strlen(request->target));
        json_decref(api_json_text(request->parameters[i].value));
    }
    if (!arguments.refused)
        api_answer_json(response, json_object());
}

static const struct api_route routes[] = {
    {API_GET, "/v1/volumes", co_read_all},
    {API_GET, "/v1/volumes/{name}", co_read_all},
    {API_POST, "/v1/volumes/{name}/resize", co_read_all},
    {API_PUT, "/v1/files/{volume}/{path*}", co_read_all},
    {API_DELETE, "/v1/{a}/{b}/{c}/{d*}", co_read_all},
    {0, NULL, NULL},
};
static const struct api_route *const tables[] = {routes, NULL};
static const struct api_router router = {.tables = tables};

static void dispatch(enum api_method method, const char *target, const char *body, size_t bytes)
{
    struct api_response response = {0};
    struct api_request request;
    const char *why;

    if (api_request_init(&request, method, target) < 0)
        return;
    if (api_json_parse(body, bytes, &request.body, &why) == 0) {
        co_api_dispatch(&router, &request, &response);
        if (response.json)
            free(json_dumps(response.json, 0));
    }
    api_response_done(&response);
    api_request_done(&request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, '\n', size);
    size_t line = end ? (size_t)(end - data) : size;
    char *target;

    if (line == 0)
        return 0;
    target = strndup((const char *)data + 1, line - 1);
    if (!target)
        abort();
    dispatch((enum api_method)(data[0] % 4), target, (const char *)data + line + (end ? 1 : 0),
             size - line - (end ? 1 : 0));
    free(target);
    return 0;
}
