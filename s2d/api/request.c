/* What comes from outside: targets, queries, JSON bodies. All of it is bounded before it is
 * looked at, and refused rather than mended. */
#include "s2d/api/request_private.h"

const char *const api_method_names[] = {
    [API_GET] = "GET", [API_POST] = "POST", [API_PUT] = "PUT", [API_DELETE] = "DELETE", NULL};

int api_method_by_name(const char *name)
{
    for (int i = 0; api_method_names[i]; i++) {
        if (strcmp(api_method_names[i], name) == 0)
            return i;
    }
    return -EINVAL;
}

/* ---- percent-encoding ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Decodes in place; the result is never longer. Returns 0, -EINVAL. */
static int percent_decode(char *text)
{
    char *out = text;

    for (const char *in = text; *in; in++) {
        int high, low;

        if (*in != '%') {
            *out++ = *in;
            continue;
        }
        high = hex_digit(in[1]);
        low = high < 0 ? -1 : hex_digit(in[2]);
        if (low < 0 || (high == 0 && low == 0))
            return -EINVAL;
        *out++ = (char)(high << 4 | low);
        in += 2;
    }
    *out = '\0';
    return 0;
}

char *request_decode(struct api_request *request, const char *text, size_t length)
{
    char *copy = request->scratch + request->scratch_used;

    memcpy(copy, text, length);
    copy[length] = '\0';
    if (percent_decode(copy) < 0)
        return NULL;
    request->scratch_used += length + 1;
    return copy;
}

/* One "name=value", or "name" alone, which has the value "". */
static int add_query(struct api_request *request, const char *text, size_t length)
{
    const char *equals = memchr(text, '=', length);
    size_t name_length = equals ? (size_t)(equals - text) : length;
    size_t value_length = equals ? length - name_length - 1 : 0;
    char *name, *value;

    if (request->query_count == API_QUERY_MAX)
        return -EINVAL;
    name = request_decode(request, text, name_length);
    value = name ? request_decode(request, text + length - value_length, value_length) : NULL;
    if (!name || !value || api_query(request, name))
        return -EINVAL;
    request->query[request->query_count++] = (struct api_pair){.name = name, .value = value};
    return 0;
}

static int parse_query(struct api_request *request, const char *query)
{
    while (*query) {
        size_t length = strcspn(query, "&");
        int r = length > 0 ? add_query(request, query, length) : 0;

        if (r < 0)
            return r;
        query += length;
        if (*query == '&')
            query++;
    }
    return 0;
}

int api_request_init(struct api_request *ret_request, enum api_method method, const char *target)
{
    struct api_request request = {.method = method, .target = target};
    size_t length = strnlen(target, API_TARGET_MAX + 1);
    int r;

    if (length > API_TARGET_MAX)
        return -ENAMETOOLONG;
    if (target[0] != '/')
        return -EINVAL;
    request.path = strndup(target, strcspn(target, "?"));
    /* Every byte of the target is copied at most once, and each copy has a 0 more. */
    request.scratch =
        malloc(length + 1 + 2 * API_QUERY_MAX + API_PARAMETERS_MAX * (API_NAME_MAX + 1));
    if (!request.path || !request.scratch) {
        api_request_done(&request);
        return -ENOMEM;
    }
    r = target[strlen(request.path)] == '?'
            ? parse_query(&request, target + strlen(request.path) + 1)
            : 0;
    if (r < 0) {
        api_request_done(&request);
        return r;
    }
    *ret_request = request;
    return 0;
}

void api_request_done(struct api_request *request)
{
    json_decref(request->body);
    request->body = NULL;
    free(request->path);
    request->path = NULL;
    free(request->scratch);
    request->scratch = NULL;
}

static const char *find_pair(const struct api_pair *pairs, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(pairs[i].name, name) == 0)
            return pairs[i].value;
    }
    return NULL;
}

const char *api_parameter(const struct api_request *request, const char *name)
{
    return find_pair(request->parameters, request->parameter_count, name);
}

const char *api_query(const struct api_request *request, const char *name)
{
    return find_pair(request->query, request->query_count, name);
}

/* ---- JSON ---- */

int api_json_parse(const char *text, size_t bytes, json_t **ret_json, const char **ret_why)
{
    int r;

    *ret_json = NULL;
    if (bytes == 0)
        return 0;
    *ret_why = "it is longer than 256 KiB";
    if (bytes > API_JSON_MAX)
        return -E2BIG;
    r = json_read(text, bytes, JSON_REJECT_DUPLICATES, ret_json);
    *ret_why =
        r == -E2BIG ? "it is nested too deep" : "it is not a JSON object, or names a field twice";
    return r == -E2BIG ? -EINVAL : r;
}

json_t *api_json_text(const char *text)
{
    json_t *json = json_string(text);
    char *clean, *out;

    if (json)
        return json;
    clean = malloc(3 * strlen(text) + 1);
    if (!clean)
        return NULL;
    out = clean;
    for (; *text; text++) {
        /* Byte by byte: a name that is no UTF-8 is rare, and only shown. */
        if ((unsigned char)*text < 0x80)
            *out++ = *text;
        else
            out = stpcpy(out, "\xef\xbf\xbd");
    }
    *out = '\0';
    json = json_string(clean);
    free(clean);
    return json;
}

/* ---- arguments ---- */

static const json_t *argument(struct api_arguments *arguments, const char *name, bool required)
{
    const json_t *value = json_object_get(arguments->request->body, name);

    if (!value && required && !arguments->refused) {
        arguments->refused = true;
        api_answer_error(arguments->response, -EINVAL, "the field '%s' is missing", name);
    }
    return value;
}

static void refuse_type(struct api_arguments *arguments, const char *name, const char *type)
{
    if (!arguments->refused)
        api_answer_error(arguments->response, -EINVAL, "the field '%s' must be %s", name, type);
    arguments->refused = true;
}

static bool is_listed(const char *const *names, const char *name)
{
    for (; *names; names++) {
        if (strcmp(*names, name) == 0)
            return true;
    }
    return false;
}

struct api_arguments api_arguments(const struct api_request *request, struct api_response *response,
                                   const char *const *names)
{
    struct api_arguments arguments = {.request = request, .response = response};
    const char *name;
    json_t *value;

    json_object_foreach(request->body, name, value)
    {
        if (is_listed(names, name) || arguments.refused)
            continue;
        arguments.refused = true;
        api_answer_error(response, -EINVAL, "this version knows no field '%s' here", name);
    }
    return arguments;
}

const char *api_text(struct api_arguments *arguments, const char *name)
{
    const json_t *value = argument(arguments, name, true);

    if (value &&
        (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value)))
        refuse_type(arguments, name, "a text");
    return arguments->refused ? NULL : json_string_value(value);
}

const char *api_text_or(struct api_arguments *arguments, const char *name, const char *otherwise)
{
    return argument(arguments, name, false) ? api_text(arguments, name) : otherwise;
}

uint64_t api_u64(struct api_arguments *arguments, const char *name)
{
    const json_t *value = argument(arguments, name, true);

    if (value && (!json_is_integer(value) || json_integer_value(value) < 0))
        refuse_type(arguments, name, "a whole number that is not negative");
    return arguments->refused ? 0 : (uint64_t)json_integer_value(value);
}

uint64_t api_u64_or(struct api_arguments *arguments, const char *name, uint64_t otherwise)
{
    return argument(arguments, name, false) ? api_u64(arguments, name) : otherwise;
}

bool api_bool_or(struct api_arguments *arguments, const char *name, bool otherwise)
{
    const json_t *value = argument(arguments, name, false);

    if (!value)
        return otherwise;
    if (!json_is_boolean(value))
        refuse_type(arguments, name, "true or false");
    return json_is_true(value);
}

const json_t *api_list(struct api_arguments *arguments, const char *name)
{
    const json_t *value = argument(arguments, name, true);

    if (value && !json_is_array(value))
        refuse_type(arguments, name, "a list of texts");
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (!json_is_string(json_array_get(value, i)))
            refuse_type(arguments, name, "a list of texts");
    }
    return arguments->refused ? NULL : value;
}

uint64_t api_query_u64_or(struct api_arguments *arguments, const char *name, uint64_t otherwise)
{
    const char *text = api_query(arguments->request, name);
    unsigned long long value;
    char *end;

    if (!text)
        return otherwise;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno == 0 && *end == '\0' && text[0] >= '0' && text[0] <= '9')
        return value;
    if (!arguments->refused)
        api_answer_error(arguments->response, -EINVAL, "'%s' in the query must be a number", name);
    arguments->refused = true;
    return 0;
}
