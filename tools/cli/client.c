#include "tools/cli/client.h"

#include <stdarg.h>
#include <unistd.h>

int cli_fail(const char *format, ...)
{
    char message[2048];
    va_list list;

    va_start(list, format);
    vsnprintf(message, sizeof(message), format, list);
    va_end(list);
    output_clean(message);
    fprintf(stderr, "s2d: %s\n", message);
    return CLI_FAILED;
}

static void append_escaped(FILE *out, const char *text, bool keep_slashes)
{
    char *escaped = http_escape(text, keep_slashes);

    if (!escaped)
        abort();
    fputs(escaped, out);
    free(escaped);
}

char *cli_target(const char *format, ...)
{
    char *target = NULL;
    size_t length;
    FILE *out = open_memstream(&target, &length);
    va_list list;

    if (!out)
        abort();
    va_start(list, format);
    for (; *format; format++) {
        bool path = strncmp(format, "{/}", 3) == 0;

        if (!path && strncmp(format, "{}", 2) != 0) {
            fputc(*format, out);
            continue;
        }
        append_escaped(out, va_arg(list, const char *), path);
        format += path ? 2 : 1;
    }
    va_end(list);
    if (fclose(out) != 0)
        abort();
    return target;
}

/* ---- calls ---- */

static int fail_to_reach(struct cli *cli, int error)
{
    const char *why = strerror(-error);

    if (error == -ENOENT || error == -ECONNREFUSED)
        why = "no daemon answers there; start s2dd, or name another node with --node";
    else if (error == -EACCES)
        why = "only root may manage the node: run this with sudo";
    else if (error == -ETIMEDOUT)
        why = "it did not answer in time; whether it was done is not known";
    else if (error == -ECONNRESET)
        why = "the daemon went away; whether it was done is not known";
    cli_fail("cannot reach the node at %s: %s", cli->path, why);
    return CLI_UNREACHABLE;
}

/* Codes by which a node says that the cluster, not the request, is in the way. */
static bool is_unreachable(const char *code)
{
    static const char *const codes[] = {"EHOSTUNREACH", "ETIMEDOUT", "ENOTCONN", "ESHUTDOWN",
                                        "ECONNREFUSED"};

    for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
        if (strcmp(code, codes[i]) == 0)
            return true;
    }
    return false;
}

static int tell_refusal(const struct http_answer *answer)
{
    json_t *json = json_parse(answer->body, answer->body_bytes);
    const json_t *error = json_object_get(json, "error");
    const char *code = cli_string(error, "code"), *message = cli_string(error, "message");
    int status;

    if (message[0])
        cli_fail("%s", message);
    else
        cli_fail("the node answered with HTTP status %u", answer->status);
    status = is_unreachable(code) ? CLI_UNREACHABLE : CLI_FAILED;
    json_decref(json);
    return status;
}

static int call(struct cli *cli, const char *method, char *target, const char *type,
                const void *body, size_t body_bytes, unsigned timeout_ms,
                struct http_answer *ret_answer)
{
    int r = http_call(&cli->http, method, target, type, body, body_bytes, timeout_ms, ret_answer);

    free(target);
    if (r < 0)
        return fail_to_reach(cli, r);
    if (ret_answer->status < 300)
        return CLI_DONE;
    r = tell_refusal(ret_answer);
    http_answer_done(ret_answer);
    return r;
}

int cli_call_within(struct cli *cli, unsigned timeout_ms, const char *method, char *target,
                    json_t *body, json_t **ret_json)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct http_answer answer;
    json_t *json = NULL;
    int status;

    if (body && !text)
        abort();
    json_decref(body);
    status = call(cli, method, target, "application/json", text, text ? strlen(text) : 0,
                  timeout_ms, &answer);
    free(text);
    if (status != CLI_DONE)
        return status;
    if (answer.is_json && json_read(answer.body, answer.body_bytes, JSON_DECODE_ANY, &json) < 0)
        status = cli_fail("the node's answer makes no sense");
    http_answer_done(&answer);
    if (ret_json)
        *ret_json = json;
    else
        json_decref(json);
    return status;
}

int cli_call(struct cli *cli, const char *method, char *target, json_t *body, json_t **ret_json)
{
    return cli_call_within(cli, CLI_TIMEOUT_MS, method, target, body, ret_json);
}

int cli_call_data(struct cli *cli, const char *method, char *target, const void *data, size_t bytes,
                  struct http_answer *ret_answer)
{
    return call(cli, method, target, "application/octet-stream", data, bytes, CLI_TIMEOUT_MS,
                ret_answer);
}

/* ---- showing ---- */

void cli_print_json(const json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    fputc('\n', stdout);
}

int cli_show_table(struct cli *cli, json_t *json, const struct column *columns)
{
    if (cli->arguments->json)
        cli_print_json(json);
    else
        output_table(stdout, cli->colours, json, columns);
    json_decref(json);
    return CLI_DONE;
}

int cli_show_record(struct cli *cli, json_t *json, const struct column *columns)
{
    if (cli->arguments->json)
        cli_print_json(json);
    else
        output_record(stdout, cli->colours, json, columns);
    json_decref(json);
    return CLI_DONE;
}

int cli_show_done(struct cli *cli, json_t *json, const char *format, ...)
{
    va_list list;

    if (cli->arguments->json) {
        json_t *empty = json_object();

        cli_print_json(json ? json : empty);
        json_decref(empty);
    } else {
        va_start(list, format);
        vprintf(format, list);
        va_end(list);
        fputc('\n', stdout);
    }
    json_decref(json);
    return CLI_DONE;
}

int cli_list(struct cli *cli, char *target, const struct column *columns)
{
    json_t *json;
    int status = cli_call(cli, "GET", target, NULL, &json);

    return status == CLI_DONE ? cli_show_table(cli, json, columns) : status;
}

int cli_show(struct cli *cli, char *target, const struct column *columns)
{
    json_t *json;
    int status = cli_call(cli, "GET", target, NULL, &json);

    return status == CLI_DONE ? cli_show_record(cli, json, columns) : status;
}

const char *cli_string(const json_t *object, const char *field)
{
    const char *text = json_string_value(json_object_get(object, field));

    return text ? text : "";
}

uint64_t cli_integer(const json_t *object, const char *field)
{
    return (uint64_t)json_integer_value(json_object_get(object, field));
}
