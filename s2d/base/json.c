#include "s2d/base/json.h"

/* Brackets outside of strings are all that nests. Of text that is no JSON this may say anything:
 * the parser will refuse it. */
static bool is_too_deep(const char *text, size_t bytes)
{
    unsigned levels = 0;
    bool in_string = false;

    for (size_t i = 0; i < bytes; i++) {
        if (in_string) {
            if (text[i] == '\\')
                i++; /* what is escaped ends nothing */
            else
                in_string = text[i] != '"';
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == '{' || text[i] == '[') {
            if (++levels > JSON_LEVELS_MAX)
                return true;
        } else if ((text[i] == '}' || text[i] == ']') && levels > 0) {
            levels--;
        }
    }
    return false;
}

int json_read(const void *text, size_t bytes, size_t flags, json_t **ret_json)
{
    json_error_t error;
    json_t *json;

    if (bytes == 0)
        return -EINVAL;
    if (is_too_deep(text, bytes))
        return -E2BIG;
    json = json_loadb(text, bytes, flags, &error);
    if (!json)
        return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EINVAL;
    if (!(flags & JSON_DECODE_ANY) && !json_is_object(json)) {
        json_decref(json);
        return -EINVAL;
    }
    *ret_json = json;
    return 0;
}

json_t *json_parse(const void *text, size_t bytes)
{
    json_t *json;

    return json_read(text, bytes, 0, &json) < 0 ? NULL : json;
}
