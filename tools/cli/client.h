/* client: what the verbs share: one connection to a node's API, how its refusals are told, and how
 * answers are shown. */
#ifndef S2D_CLI_CLIENT_H
#define S2D_CLI_CLIENT_H

#include "tools/cli/arguments.h"
#include "tools/cli/http.h"
#include "tools/cli/output.h"

struct cli {
    const struct cli_arguments *arguments;
    struct http http;
    char *path; /* of the API's socket */
    bool out_is_tty, in_is_tty, err_is_tty;
    bool colours;
};

/* Says "s2d: …" on standard error. Returns CLI_FAILED. */
int cli_fail(const char *format, ...) printf_like(1, 2);

/* An escaped target: each "{}" in format takes a text as one segment or value, each "{/}" as a
 * path. For free(); ends the program when there is no memory. */
char *cli_target(const char *format, ...);

/* Calls the API. target: stolen. body: stolen; NULL: none. *ret_json: the caller's; NULL if the
 * answer has none; ret_json may be NULL. What goes wrong is said. Returns an exit status. */
int cli_call(struct cli *cli, const char *method, char *target, json_t *body, json_t **ret_json);
/* The same with a limit for the answer other than CLI_TIMEOUT_MS. */
int cli_call_within(struct cli *cli, unsigned timeout_ms, const char *method, char *target,
                    json_t *body, json_t **ret_json);
#define CLI_TIMEOUT_MS (120 * 1000)
/* Raw data both ways. -> exit status; *ret_answer for http_answer_done(). */
int cli_call_data(struct cli *cli, const char *method, char *target, const void *data, size_t bytes,
                  struct http_answer *ret_answer);

/* Prints an answer: as it is with --json; else as a table or a record. json: stolen. Returns
 * CLI_DONE. */
int cli_show_table(struct cli *cli, json_t *json, const struct column *columns);
int cli_show_record(struct cli *cli, json_t *json, const struct column *columns);
/* Prints json with --json, else the sentence. json: stolen, may be NULL. Returns CLI_DONE. */
int cli_show_done(struct cli *cli, json_t *json, const char *format, ...) printf_like(3, 4);
void cli_print_json(const json_t *json);

/* GET and show. */
int cli_list(struct cli *cli, char *target, const struct column *columns);
int cli_show(struct cli *cli, char *target, const struct column *columns);

const char *cli_string(const json_t *object, const char *field); /* "": not there */
uint64_t cli_integer(const json_t *object, const char *field);   /* 0: not there */

#endif
