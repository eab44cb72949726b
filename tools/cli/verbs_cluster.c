/* s2d cluster …, s2d node … */
#include <stdio.h>
#include <unistd.h>

#include "tools/cli/client.h"
#include "tools/cli/commands.h"

int run_cluster_create(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    json_t *json;
    int status =
        cli_call(cli, "POST", cli_target("/v1/cluster"), json_pack("{s:s}", "name", name), &json);

    return status != CLI_DONE ? status
                              : cli_show_done(cli, json, "cluster %s created on node %s", name,
                                              cli_string(json, "node"));
}

int run_cluster_join(struct cli *cli, const struct cli_arguments *arguments)
{
    json_t *body = json_pack("{s:s,s:s}", "address", cli_positional(arguments, 0), "token",
                             cli_text(arguments, "token"));
    json_t *json;
    int status = cli_call(cli, "POST", cli_target("/v1/cluster/join"), body, &json);

    return status != CLI_DONE ? status
                              : cli_show_done(cli, json, "node %s joined cluster %s",
                                              cli_string(json, "node"), cli_string(json, "name"));
}

int run_cluster_token(struct cli *cli, const struct cli_arguments *arguments)
{
    json_t *json;
    int status = cli_call(cli, "POST", cli_target("/v1/cluster/token"), NULL, &json);

    (void)arguments;
    /* The token alone: made for $(…). */
    return status != CLI_DONE ? status : cli_show_done(cli, json, "%s", cli_string(json, "token"));
}

static const struct column cluster_columns[] = {
    {"Cluster", "name", COLUMN_TEXT},
    {"Health", "health", COLUMN_WORD},
    {"Nodes", "nodes", COLUMN_NUMBER},
    {"Nodes up", "nodes_up", COLUMN_NUMBER},
    {"Leader", "leader", COLUMN_TEXT},
    {"Disks", "disks", COLUMN_NUMBER},
    {"Pool", "pool_bytes", COLUMN_SIZE},
    {"Pool used", "pool_used_bytes", COLUMN_SIZE},
    {"Volumes", "volumes", COLUMN_NUMBER},
    {"VMs", "vms", COLUMN_NUMBER},
    {"VMs running", "vms_running", COLUMN_NUMBER},
    {"Created", "created", COLUMN_TIME},
    {"UUID", "uuid", COLUMN_TEXT},
    {"Answered by", "answered_by", COLUMN_TEXT},
    {NULL, NULL, 0},
};

/* What was shown is what one node knows: without a quorum that is told, and is no success. */
static int quorum_status(const json_t *json)
{
    if (json_is_true(json_object_get(json, "has_quorum")))
        return CLI_DONE;
    cli_fail(
        "the cluster has no quorum: bring back enough nodes, or mend the network between them");
    return CLI_UNREACHABLE;
}

int run_cluster_status(struct cli *cli, const struct cli_arguments *arguments)
{
    json_t *json;
    int status = cli_call(cli, "GET", cli_target("/v1/cluster"), NULL, &json);

    (void)arguments;
    if (status != CLI_DONE)
        return status;
    status = quorum_status(json);
    cli_show_record(cli, json, cluster_columns);
    return status;
}

static const struct column fault_columns[] = {
    {"HEALTH", "health", COLUMN_WORD},
    {"WHAT", "kind", COLUMN_TEXT},
    {"NAME", "subject", COLUMN_TEXT},
    {"STATE", "state", COLUMN_WORD},
    {"WHY", "text", COLUMN_TEXT},
    {"WHAT TO DO", "action", COLUMN_TEXT},
    {NULL, NULL, 0},
};

int run_cluster_health(struct cli *cli, const struct cli_arguments *arguments)
{
    static const struct column head[] = {{"Cluster", "health", COLUMN_WORD}, {NULL, NULL, 0}};
    const json_t *faults;
    json_t *json;
    int status = cli_call(cli, "GET", cli_target("/v1/cluster/health"), NULL, &json);

    if (status != CLI_DONE)
        return status;
    status = quorum_status(json);
    faults = json_object_get(json, "faults");
    if (arguments->json) {
        cli_print_json(json);
    } else {
        output_record(stdout, cli->colours, json, head);
        if (json_array_size(faults) > 0) {
            fputc('\n', stdout);
            output_table(stdout, cli->colours, faults, fault_columns);
        }
    }
    json_decref(json);
    return status;
}

/* ---- events ---- */

static const struct column event_columns[] = {
    {"TIME", "time", COLUMN_TIME},
    {"SEVERITY", "severity", COLUMN_WORD},
    {"CODE", "code", COLUMN_TEXT},
    {"TEXT", "text", COLUMN_TEXT},
    {NULL, NULL, 0},
};

static uint64_t last_id(const json_t *events, uint64_t otherwise)
{
    size_t count = json_array_size(events);

    return count ? cli_integer(json_array_get(events, count - 1), "id") : otherwise;
}

/* One line an event; with --json one object a line. */
static void print_event(struct cli *cli, const json_t *event)
{
    char line[1024];

    if (cli->arguments->json) {
        json_dumpf(event, stdout, JSON_COMPACT);
    } else {
        snprintf(line, sizeof(line), "%.19s  %-11s  %-16s  %s", cli_string(event, "time"),
                 cli_string(event, "severity"), cli_string(event, "code"),
                 cli_string(event, "text"));
        output_clean(line);
        fputs(line, stdout);
    }
    fputc('\n', stdout);
}

#define FOLLOW_MS "20000" /* the node keeps the question for so long */

static int follow_events(struct cli *cli, json_t *events)
{
    uint64_t id = 0;
    int status = CLI_DONE;

    while (status == CLI_DONE) {
        char after[24];

        for (size_t i = 0; i < json_array_size(events); i++)
            print_event(cli, json_array_get(events, i));
        fflush(stdout);
        id = last_id(events, id);
        json_decref(events);
        events = NULL;
        if (ferror(stdout))
            return CLI_FAILED; /* nobody reads any more */
        snprintf(after, sizeof(after), "%llu", (unsigned long long)id);
        status = cli_call(cli, "GET", cli_target("/v1/events?after={}&wait_ms=" FOLLOW_MS, after),
                          NULL, &events);
    }
    return status;
}

int run_cluster_events(struct cli *cli, const struct cli_arguments *arguments)
{
    char last[24];
    json_t *events;
    int status;

    snprintf(last, sizeof(last), "%llu", (unsigned long long)cli_number_or(arguments, "last", 20));
    status = cli_call(cli, "GET", cli_target("/v1/events?last={}", last), NULL, &events);
    if (status != CLI_DONE)
        return status;
    return cli_given(arguments, "follow") ? follow_events(cli, events)
                                          : cli_show_table(cli, events, event_columns);
}

static const struct column quorum_columns[] = {
    {"Leader", "leader", COLUMN_TEXT},           {"Term", "term", COLUMN_NUMBER},
    {"Votes", "votes", COLUMN_NUMBER},           {"Needed", "needed", COLUMN_NUMBER},
    {"Answering", "votes_up", COLUMN_NUMBER},    {"Committed", "commit_index", COLUMN_NUMBER},
    {"Answered by", "answered_by", COLUMN_TEXT}, {NULL, NULL, 0},
};

static const struct column member_columns[] = {
    {"NODE", "node", COLUMN_TEXT},   {"ROLE", "role", COLUMN_TEXT},
    {"STATE", "state", COLUMN_WORD}, {"ANSWERS", "answers", COLUMN_TEXT},
    {"LEADS", "leads", COLUMN_TEXT}, {NULL, NULL, 0},
};

int run_cluster_quorum(struct cli *cli, const struct cli_arguments *arguments)
{
    json_t *json;
    int status = cli_call(cli, "GET", cli_target("/v1/cluster/quorum"), NULL, &json);

    if (status != CLI_DONE)
        return status;
    status = quorum_status(json);
    if (arguments->json) {
        cli_print_json(json);
    } else {
        output_record(stdout, cli->colours, json, quorum_columns);
        fputc('\n', stdout);
        output_table(stdout, cli->colours, json_object_get(json, "members"), member_columns);
    }
    json_decref(json);
    return status;
}

/* ---- nodes ---- */

static const struct column node_columns[] = {
    {"NAME", "name", COLUMN_TEXT},
    {"STATE", "state", COLUMN_WORD},
    {"HEALTH", "health", COLUMN_WORD},
    {"ADDRESS", "address", COLUMN_TEXT},
    {"VOTE", "vote", COLUMN_TEXT},
    {"DISKS", "disks", COLUMN_NUMBER},
    {"VOLUMES", "volumes", COLUMN_NUMBER},
    {"VMS", "vms", COLUMN_NUMBER},
    {NULL, NULL, 0},
};

static const struct column node_fields[] = {
    {"Node", "name", COLUMN_TEXT},
    {"Id", "id", COLUMN_NUMBER},
    {"State", "state", COLUMN_WORD},
    {"Health", "health", COLUMN_WORD},
    {"Why", "reason", COLUMN_TEXT},
    {"Address", "address", COLUMN_TEXT},
    {"Vote", "vote", COLUMN_TEXT},
    {"Site", "site", COLUMN_TEXT},
    {"Rack", "rack", COLUMN_TEXT},
    {"Chassis", "chassis", COLUMN_TEXT},
    {"Disks", "disks", COLUMN_NUMBER},
    {"Volumes owned", "volume_names", COLUMN_TEXT},
    {"VMs", "vm_names", COLUMN_TEXT},
    {"Joined", "joined", COLUMN_TIME},
    {NULL, NULL, 0},
};

int run_node_list(struct cli *cli, const struct cli_arguments *arguments)
{
    (void)arguments;
    return cli_list(cli, cli_target("/v1/nodes"), node_columns);
}

int run_node_show(struct cli *cli, const struct cli_arguments *arguments)
{
    return cli_show(cli, cli_target("/v1/nodes/{}", cli_positional(arguments, 0)), node_fields);
}

int run_node_drain(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    json_t *json;
    int status = cli_call(cli, "POST", cli_target("/v1/nodes/{}/drain", name), NULL, &json);

    return status != CLI_DONE
               ? status
               : cli_show_done(cli, json, "node %s is drained; 's2d node resume %s' ends it", name,
                               name);
}

int run_node_resume(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    json_t *json;
    int status = cli_call(cli, "POST", cli_target("/v1/nodes/{}/resume", name), NULL, &json);

    return status != CLI_DONE ? status : cli_show_done(cli, json, "node %s takes part again", name);
}

int run_node_evict(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    json_t *json;
    int status = cli_call(cli, "DELETE", cli_target("/v1/nodes/{}", name), NULL, &json);

    return status != CLI_DONE ? status : cli_show_done(cli, json, "node %s is evicted", name);
}
