/* Answers, and what an errno is called on the outside. */
#include <stdarg.h>
#include <stdio.h>

#include "s2d/api/api.h"

static const struct {
    int error;
    const char *name;
    unsigned status;
} errors[] = {
    {EINVAL, "EINVAL", 400},
    {ENAMETOOLONG, "ENAMETOOLONG", 400},
    {ERANGE, "ERANGE", 400},
    {EISDIR, "EISDIR", 400},
    {ENOTDIR, "ENOTDIR", 400},
    {EXDEV, "EXDEV", 400},
    {EACCES, "EACCES", 403},
    {EPERM, "EPERM", 403},
    {EROFS, "EROFS", 403},
    {ENOENT, "ENOENT", 404},
    {ENODEV, "ENODEV", 404},
    {EEXIST, "EEXIST", 409},
    {EALREADY, "EALREADY", 409},
    {EBUSY, "EBUSY", 409},
    {ESTALE, "ESTALE", 409},
    {ENOTEMPTY, "ENOTEMPTY", 409},
    {EMSGSIZE, "EMSGSIZE", 413},
    {E2BIG, "E2BIG", 413},
    {EFBIG, "EFBIG", 413},
    {EOPNOTSUPP, "EOPNOTSUPP", 501},
    {EPROTONOSUPPORT, "EPROTONOSUPPORT", 501},
    {EAGAIN, "EAGAIN", 503},
    {EADDRINUSE, "EADDRINUSE", 409},
    {ECONNREFUSED, "ECONNREFUSED", 503},
    {EHOSTUNREACH, "EHOSTUNREACH", 503},
    {ENOTCONN, "ENOTCONN", 503},
    {ESHUTDOWN, "ESHUTDOWN", 503},
    {ECANCELED, "ECANCELED", 503},
    {ETIMEDOUT, "ETIMEDOUT", 504},
    {ENOSPC, "ENOSPC", 507},
    {EREMOTE, "EREMOTE", 409},
    {EIO, "EIO", 500},
    {EBADMSG, "EBADMSG", 500},
    {ENOMEM, "ENOMEM", 500},
    {EPROTO, "EPROTO", 500},
};

unsigned api_http_status(int error)
{
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        if (errors[i].error == -error)
            return errors[i].status;
    }
    return 500;
}

const char *api_error_name(int error)
{
    const char *name;

    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        if (errors[i].error == -error)
            return errors[i].name;
    }
    name = strerrorname_np(-error);
    return name ? name : "EUNKNOWN";
}

int api_error_by_name(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        if (strcmp(errors[i].name, name) == 0)
            return -errors[i].error;
    }
    return -EPROTO;
}

void api_response_done(struct api_response *response)
{
    json_decref(response->json);
    free(response->data);
    *response = (struct api_response){0};
}

void api_answer_json(struct api_response *response, json_t *json)
{
    if (!json) {
        api_answer_error(response, -ENOMEM, "out of memory");
        return;
    }
    api_response_done(response);
    response->json = json;
}

void api_answer_data(struct api_response *response, void *data, size_t bytes,
                     const char *content_type)
{
    api_response_done(response);
    response->data = data;
    response->data_bytes = bytes;
    response->content_type = content_type;
}

void api_answer_text(struct api_response *response, char *text)
{
    api_answer_data(response, text, strlen(text), API_CONTENT_TEXT);
}

void api_answer_error(struct api_response *response, int error, const char *format, ...)
{
    char message[API_MESSAGE_MAX];
    va_list list;

    assert(error < 0);
    va_start(list, format);
    vsnprintf(message, sizeof(message), format, list);
    va_end(list);
    api_response_done(response);
    response->status = api_http_status(error);
    response->error = error;
    response->json = json_pack("{s:{s:s,s:o}}", "error", "code", api_error_name(error), "message",
                               api_json_text(message));
}
