/* Which handler a path belongs to. Patterns are matched segment by segment against the undecoded
 * path, so that an escaped slash stays within its segment. */
#include "s2d/api/request_private.h"

/* name: of the pattern, up to '*' or '}'. Returns 0, -EINVAL (an escape that makes no sense). */
static int catch_parameter(struct api_request *request, const char *name, const char *value,
                           size_t length)
{
    struct api_pair *pair = &request->parameters[request->parameter_count];
    size_t name_length = strcspn(name, "*}");
    char *copy = request->scratch + request->scratch_used;

    assert(request->parameter_count < API_PARAMETERS_MAX);
    assert(name_length < API_NAME_MAX);
    memcpy(copy, name, name_length);
    copy[name_length] = '\0';
    request->scratch_used += name_length + 1;
    pair->name = copy;
    pair->value = request_decode(request, value, length);
    if (!pair->value)
        return -EINVAL;
    request->parameter_count++;
    return 0;
}

/* Returns 1 (fits), 0 (does not), -EINVAL. */
static int match(struct api_request *request, const char *pattern)
{
    const char *path = request->path;

    while (*pattern == '/' && *path == '/') {
        size_t wanted = strcspn(++pattern, "/"), length = strcspn(++path, "/");

        if (*pattern != '{') {
            if (wanted != length || memcmp(pattern, path, length) != 0)
                return 0;
        } else {
            bool rest = pattern[wanted - 2] == '*';

            if (rest)
                length = strlen(path);
            else if (length == 0)
                return 0;
            if (catch_parameter(request, pattern + 1, path, length) < 0)
                return -EINVAL;
        }
        pattern += wanted;
        path += length;
    }
    /* "/v1/files/{volume}/{path*}" takes "/v1/files/v" too. */
    if (*path == '\0' && strncmp(pattern, "/{", 2) == 0 && pattern[strlen(pattern) - 2] == '*')
        return catch_parameter(request, pattern + 2, "", 0) < 0 ? -EINVAL : 1;
    return *pattern == '\0' && *path == '\0';
}

static int match_afresh(struct api_request *request, const char *pattern, size_t scratch_used)
{
    request->parameter_count = 0;
    request->scratch_used = scratch_used;
    return match(request, pattern);
}

/* Returns 0; -ENOENT (no such path), -EOPNOTSUPP (not by this method), -EINVAL. */
static int find_route(const struct api_router *router, struct api_request *request,
                      const struct api_route **ret_route)
{
    size_t scratch_used = request->scratch_used;
    int found = -ENOENT;

    for (const struct api_route *const *table = router->tables; *table; table++) {
        for (const struct api_route *route = *table; route->pattern; route++) {
            int r = match_afresh(request, route->pattern, scratch_used);

            if (r < 0)
                return r;
            if (r == 0)
                continue;
            if (route->method == request->method) {
                *ret_route = route;
                return 0;
            }
            found = -EOPNOTSUPP;
        }
    }
    return found;
}

void co_api_dispatch(const struct api_router *router, struct api_request *request,
                     struct api_response *response)
{
    const struct api_route *route;
    int r = find_route(router, request, &route);

    if (r == 0) {
        route->handler(router->arg, request, response);
        return;
    }
    if (r == -EINVAL) {
        api_answer_error(response, r, "the path %s has an escape that makes no sense",
                         request->path);
        return;
    }
    api_answer_error(response, r, "this version has nothing at %s %s",
                     api_method_names[request->method], request->path);
    if (r == -EOPNOTSUPP)
        response->status = 405;
}
