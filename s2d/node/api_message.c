#include "s2d/node/api_message.h"

char *api_message_text(enum api_method method, const char *target, json_t *body)
{
    json_t *json = json_pack("{s:s,s:s,s:o?}", "method", api_method_names[method], "target", target,
                             "body", body);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

    json_decref(json);
    return text;
}

int api_message_parse(const void *data, size_t bytes, json_t **ret_json,
                      struct api_request *ret_request)
{
    const char *target, *method, *why;
    json_t *json, *body;
    int r = api_json_parse(data, bytes, &json, &why);

    if (r < 0 || !json)
        return r == -ENOMEM ? r : -EPROTO;
    target = json_string_value(json_object_get(json, "target"));
    method = json_string_value(json_object_get(json, "method"));
    body = json_object_get(json, "body");
    r = target && method ? api_method_by_name(method) : -EPROTO;
    if (r >= 0)
        r = api_request_init(ret_request, (enum api_method)r, target);
    if (r < 0) {
        json_decref(json);
        return r == -ENOMEM ? r : -EPROTO;
    }
    if (json_is_object(body))
        ret_request->body = json_incref(body);
    *ret_json = json;
    return 0;
}

struct api_message_data api_message_reply(const struct api_response *response,
                                          struct api_message_header *ret_header)
{
    struct api_message_data data = {0};

    *ret_header = (struct api_message_header){.status = response->status ? response->status : 200};
    if (response->json) {
        data.bytes = data.owned = json_dumps(response->json, JSON_COMPACT);
        data.length = data.owned ? strlen(data.owned) : 0;
        ret_header->kind = API_MESSAGE_JSON;
    } else if (response->data) {
        data.bytes = response->data;
        data.length = response->data_bytes;
        ret_header->kind = strcmp(response->content_type, API_CONTENT_TEXT) == 0 ? API_MESSAGE_TEXT
                                                                                 : API_MESSAGE_DATA;
    }
    return data;
}

/* A reply whose status is an error has the errno's name in its JSON. */
static int error_of(const struct api_message_header *header, const json_t *json)
{
    const char *code = json_string_value(json_object_get(json_object_get(json, "error"), "code"));

    return header->status < 300 ? 0 : code ? api_error_by_name(code) : -EPROTO;
}

static int take_data(const struct api_message_header *header, const void *data, size_t bytes,
                     struct api_response *response)
{
    char *copy = malloc(bytes + 1);

    if (!copy)
        return -ENOMEM;
    if (bytes > 0)
        memcpy(copy, data, bytes);
    api_answer_data(response, copy, bytes,
                    header->kind == API_MESSAGE_TEXT ? API_CONTENT_TEXT : API_CONTENT_DATA);
    return 0;
}

int api_message_take(const struct api_message_header *header, const void *data, size_t bytes,
                     struct api_response *response)
{
    json_t *json;
    int r = 0;

    /* It is passed on to an HTTP client. */
    if (header->status < 200 || header->status >= 600)
        return -EPROTO;
    switch (header->kind) {
    case API_MESSAGE_NOTHING:
        r = bytes == 0 ? 0 : -EPROTO;
        break;
    case API_MESSAGE_JSON:
        r = json_read(data, bytes, 0, &json);
        if (r == 0)
            api_answer_json(response, json);
        break;
    case API_MESSAGE_TEXT:
    case API_MESSAGE_DATA:
        r = take_data(header, data, bytes, response);
        break;
    default:
        r = -EPROTO;
    }
    if (r < 0)
        return r == -ENOMEM ? r : -EPROTO;
    response->status = header->status;
    response->error = error_of(header, response->json);
    return 0;
}
