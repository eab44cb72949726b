/* What nodes ask each other for a user: any bytes as a request, and as a reply. What is taken can
 * be answered, printed and released, and says what it may. */
#include "s2d/node/api_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void co_echo(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"name", "disks", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);

    (void)arg;
    (void)!api_text(&arguments, "name");
    (void)!api_list(&arguments, "disks");
    if (!arguments.refused)
        api_answer_json(response, json_incref(request->body));
}

static const struct api_route routes[] = {
    {API_GET, "/v1/local/disks/{name}", co_echo},
    {API_POST, "/v1/local/files/{volume}/{path*}", co_echo},
    {0, NULL, NULL},
};
static const struct api_route *const tables[] = {routes, NULL};
static const struct api_router router = {.tables = tables};

/* An answer survives the way to the other node. */
static void send_back(const struct api_response *response)
{
    struct api_message_header header;
    struct api_message_data data = api_message_reply(response, &header);
    struct api_response taken = {0};

    if (api_message_take(&header, data.bytes, data.length, &taken) == 0) {
        assert(taken.status == header.status);
        assert(!response->json || json_equal(response->json, taken.json));
    }
    api_response_done(&taken);
    free(data.owned);
}

static void fuzz_request(const uint8_t *data, size_t size)
{
    struct api_response response = {0};
    struct api_request request;
    json_t *json;

    if (api_message_parse(data, size, &json, &request) < 0)
        return;
    co_api_dispatch(&router, &request, &response);
    send_back(&response);
    api_response_done(&response);
    api_request_done(&request);
    json_decref(json);
}

static void fuzz_reply(const uint8_t *data, size_t size)
{
    struct api_message_header header;
    struct api_response response = {0};

    if (size < sizeof(header))
        return;
    memcpy(&header, data, sizeof(header));
    header.status %= 1000;
    header.kind %= 5;
    if (api_message_take(&header, data + sizeof(header), size - sizeof(header), &response) == 0) {
        assert(response.status >= 200 && response.status < 600);
        assert((response.error < 0) == (response.status >= 300));
        send_back(&response);
    }
    api_response_done(&response);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_request(data, size);
    fuzz_reply(data, size);
    return 0;
}
