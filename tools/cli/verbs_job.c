/* s2d job … */
#include <stdio.h>
#include <unistd.h>

#include "tools/cli/client.h"
#include "tools/cli/commands.h"

static const struct column job_columns[] = {
    {"ID", "id", COLUMN_NUMBER},
    {"KIND", "kind", COLUMN_TEXT},
    {"OF", "target", COLUMN_TEXT},
    {"STATE", "state", COLUMN_WORD},
    {"DONE", "done_bytes", COLUMN_SIZE},
    {"TOTAL", "total_bytes", COLUMN_SIZE},
    {"BEGUN", "created", COLUMN_TIME},
    {"MESSAGE", "message", COLUMN_TEXT},
    {NULL, NULL, 0},
};

static const struct column job_fields[] = {
    {"Job", "id", COLUMN_NUMBER},        {"Kind", "kind", COLUMN_TEXT},
    {"Of", "target", COLUMN_TEXT},       {"State", "state", COLUMN_WORD},
    {"Done", "done_bytes", COLUMN_SIZE}, {"Total", "total_bytes", COLUMN_SIZE},
    {"Message", "message", COLUMN_TEXT}, {"Begun", "created", COLUMN_TIME},
    {"Ended", "ended", COLUMN_TIME},     {NULL, NULL, 0},
};

int run_job_list(struct cli *cli, const struct cli_arguments *arguments)
{
    (void)arguments;
    return cli_list(cli, cli_target("/v1/jobs"), job_columns);
}

int run_job_show(struct cli *cli, const struct cli_arguments *arguments)
{
    return cli_show(cli, cli_target("/v1/jobs/{}", cli_positional(arguments, 0)), job_fields);
}

int run_job_watch(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *job = cli_positional(arguments, 0);

    for (;;) {
        json_t *json;
        int status = cli_call(cli, "GET", cli_target("/v1/jobs/{}", job), NULL, &json);
        const char *state = status == CLI_DONE ? cli_string(json, "state") : "";
        bool failed = strcmp(state, "failed") == 0, done = strcmp(state, "done") == 0 || failed;

        if (status != CLI_DONE)
            return status;
        if (cli->err_is_tty)
            output_progress(stderr, cli_integer(json, "done_bytes"),
                            cli_integer(json, "total_bytes"), done);
        if (done) {
            if (failed)
                status = cli_fail("job %s failed: %s", job, cli_string(json, "message"));
            cli_show_record(cli, json, job_fields);
            return status;
        }
        json_decref(json);
        sleep(1);
    }
}

int run_job_pause(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *job = cli_positional(arguments, 0);
    json_t *json;
    int status = cli_call(cli, "POST", cli_target("/v1/jobs/{}/pause", job), NULL, &json);

    return status != CLI_DONE ? status : cli_show_done(cli, json, "job %s is paused", job);
}

int run_job_resume(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *job = cli_positional(arguments, 0);
    json_t *json;
    int status = cli_call(cli, "POST", cli_target("/v1/jobs/{}/resume", job), NULL, &json);

    return status != CLI_DONE ? status : cli_show_done(cli, json, "job %s goes on", job);
}
