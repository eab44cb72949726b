/* s2d disk …, s2d pool …, s2d volume … */
#include <stdio.h>
#include <unistd.h>

#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/size.h"

/* ---- disks ---- */

static const struct column disk_columns[] = {
    {"ID", "id", COLUMN_NUMBER},         {"NODE", "node", COLUMN_TEXT},
    {"NAME", "name", COLUMN_TEXT},       {"ROLE", "role", COLUMN_TEXT},
    {"MEDIA", "media", COLUMN_TEXT},     {"LOG ON", "status.log_on", COLUMN_TEXT},
    {"SIZE", "size_bytes", COLUMN_SIZE}, {"USED", "used_bytes", COLUMN_SIZE},
    {"STATE", "state", COLUMN_WORD},     {"HEALTH", "health", COLUMN_WORD},
    {"WHY", "reason", COLUMN_TEXT},      {NULL, NULL, 0},
};

static const struct column disk_fields[] = {
    {"Disk", "name", COLUMN_TEXT},
    {"Id", "id", COLUMN_NUMBER},
    {"Node", "node", COLUMN_TEXT},
    {"State", "state", COLUMN_WORD},
    {"Health", "health", COLUMN_WORD},
    {"Why", "reason", COLUMN_TEXT},
    {"Path", "path", COLUMN_TEXT},
    {"Role", "role", COLUMN_TEXT},
    {"Media", "media", COLUMN_TEXT},
    {"Size", "size_bytes", COLUMN_SIZE},
    {"Used", "used_bytes", COLUMN_SIZE},
    {"Extents", "extents", COLUMN_NUMBER},
    {"Extents used", "used_extents", COLUMN_NUMBER},
    {"Log", "log_bytes", COLUMN_SIZE},
    {"Log on", "status.log_on", COLUMN_TEXT},
    {"Logs of others", "status.bound", COLUMN_NUMBER},
    {"Log used", "status.log_used_bytes", COLUMN_SIZE},
    {"Blocks to destage", "status.dirty_blocks", COLUMN_NUMBER},
    {"Checksum errors", "status.verify_errors", COLUMN_NUMBER},
    {"Blocks healed", "status.healed_blocks", COLUMN_NUMBER},
    {"Blocks rotten", "status.rotten_blocks", COLUMN_NUMBER},
    {"Slabs withheld", "status.withheld_slabs", COLUMN_NUMBER},
    {"UUID", "uuid", COLUMN_TEXT},
    {NULL, NULL, 0},
};

int run_disk_list(struct cli *cli, const struct cli_arguments *arguments)
{
    (void)arguments;
    return cli_list(cli, cli_target("/v1/disks"), disk_columns);
}

int run_disk_show(struct cli *cli, const struct cli_arguments *arguments)
{
    return cli_show(cli, cli_target("/v1/disks/{}", cli_positional(arguments, 0)), disk_fields);
}

int run_disk_claim(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *given = cli_positional(arguments, 0);
    char *path = realpath(given, NULL); /* the daemon's folder is another one */
    json_t *body = json_pack("{s:s}", "path", path ? path : given), *json;
    int status;

    free(path);
    if (cli_given(arguments, "role"))
        json_object_set_new(body, "role", json_string(cli_text(arguments, "role")));
    if (cli_given(arguments, "on"))
        json_object_set_new(body, "node", json_string(cli_text(arguments, "on")));
    status = cli_call_within(cli, 600 * 1000, "POST", cli_target("/v1/disks"), body, &json);
    return status != CLI_DONE ? status
                              : cli_show_done(cli, json, "disk %llu (%s of node %s) is in the pool",
                                              (unsigned long long)cli_integer(json, "id"),
                                              cli_string(json, "name"), cli_string(json, "node"));
}

/* Until the disk holds nothing any more. */
static int wait_retired(struct cli *cli, const char *disk, json_t **ret_json)
{
    uint64_t total = 0;

    for (;;) {
        int status = cli_call(cli, "GET", cli_target("/v1/disks/{}", disk), NULL, ret_json);
        uint64_t used = status == CLI_DONE ? cli_integer(*ret_json, "used_bytes") : 0;
        bool done = status == CLI_DONE && strcmp(cli_string(*ret_json, "state"), "retired") == 0;

        if (status != CLI_DONE)
            return status;
        total = MAX(total, used);
        if (cli->err_is_tty)
            output_progress(stderr, total - used, total, done);
        if (done)
            return CLI_DONE;
        json_decref(*ret_json);
        sleep(1);
    }
}

int run_disk_retire(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *disk = cli_positional(arguments, 0);
    json_t *json;
    int status = cli_call(cli, "POST", cli_target("/v1/disks/{}/retire", disk), NULL, &json);

    if (status == CLI_DONE && cli_given(arguments, "wait")) {
        json_decref(json);
        status = wait_retired(cli, disk, &json);
    }
    return status != CLI_DONE
               ? status
               : cli_show_done(cli, json, "disk %s is %s", disk, cli_string(json, "state"));
}

/* The new one first: the old one's data needs the room. */
int run_disk_replace(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *old = cli_positional(arguments, 0), *given = cli_positional(arguments, 1);
    char *path = realpath(given, NULL); /* the daemon's folder is another one */
    json_t *json, *body = NULL;
    int status = cli_call(cli, "GET", cli_target("/v1/disks/{}", old), NULL, &json);

    if (status == CLI_DONE) {
        body =
            json_pack("{s:s,s:s}", "path", path ? path : given, "node", cli_string(json, "node"));
        json_decref(json);
        status = cli_call_within(cli, 600 * 1000, "POST", cli_target("/v1/disks"), body, &json);
    }
    free(path);
    if (status != CLI_DONE)
        return status;
    json_decref(json);
    return run_disk_retire(cli, arguments);
}

static int hurt_disk(struct cli *cli, const char *name, char *target, const char *what)
{
    json_t *json;
    int status = cli_call(cli, "POST", target, json_pack("{s:s}", "disk", name), &json);

    return status != CLI_DONE ? status
                              : cli_show_done(cli, json, "disk %s %s from now on", name, what);
}

int run_development_fail_disk(struct cli *cli, const struct cli_arguments *arguments)
{
    return hurt_disk(cli, cli_positional(arguments, 0), cli_target("/v1/development/fail-disk"),
                     "fails");
}

int run_development_slow_disk(struct cli *cli, const struct cli_arguments *arguments)
{
    return hurt_disk(cli, cli_positional(arguments, 0), cli_target("/v1/development/slow-disk"),
                     "is slow");
}

/* ---- the pool ---- */

int run_pool_create(struct cli *cli, const struct cli_arguments *arguments)
{
    json_t *body = json_object(), *json;
    int status;

    if (cli_given(arguments, "extent"))
        json_object_set_new(body, "extent_bytes",
                            json_integer((json_int_t)cli_number_or(arguments, "extent", 0)));
    status = cli_call(cli, "POST", cli_target("/v1/pool"), body, &json);
    return status != CLI_DONE ? status : cli_show_done(cli, json, "the pool is there");
}

int run_pool_set(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *size = cli_text(arguments, "read-cache");
    json_t *body = json_object(), *json;
    uint64_t bytes = 0;
    int status;

    if (strcmp(size, "none") != 0 && strcmp(size, "all") != 0 && size_parse(size, &bytes) < 0) {
        json_decref(body);
        return cli_fail("--read-cache is a size, 'all' or 'none', not '%s'", size);
    }
    if (strcmp(size, "all") != 0)
        json_object_set_new(body, "read_cache_bytes", json_integer((json_int_t)bytes));
    status = cli_call(cli, "POST", cli_target("/v1/pool/settings"), body, &json);
    return status != CLI_DONE ? status : cli_show_done(cli, json, "the pool is set");
}

static const struct column pool_fields[] = {
    {"Health", "health", COLUMN_WORD},
    {"Why", "reason", COLUMN_TEXT},
    {"Size", "size_bytes", COLUMN_SIZE},
    {"Used", "used_bytes", COLUMN_SIZE},
    {"Free", "free_bytes", COLUMN_SIZE},
    {"Promised to volumes", "promised_bytes", COLUMN_SIZE},
    {"Extent", "extent_bytes", COLUMN_SIZE},
    {"Disks", "disks", COLUMN_NUMBER},
    {"Disks OK", "disks_ok", COLUMN_NUMBER},
    {"Read cache", "read_cache", COLUMN_TEXT},
    {"of a disk at most", "read_cache_bytes", COLUMN_SIZE},
    {NULL, NULL, 0},
};

int run_pool_status(struct cli *cli, const struct cli_arguments *arguments)
{
    (void)arguments;
    return cli_show(cli, cli_target("/v1/pool"), pool_fields);
}

/* ---- volumes ---- */

static const struct column volume_columns[] = {
    {"NAME", "name", COLUMN_TEXT},
    {"SIZE", "size_bytes", COLUMN_SIZE},
    {"ON DISKS", "footprint_bytes", COLUMN_SIZE},
    {"RESILIENCY", "resiliency", COLUMN_TEXT},
    {"OWNER", "owner", COLUMN_TEXT},
    {"HEALTH", "health", COLUMN_WORD},
    {"STATE", "operational", COLUMN_WORD},
    {"WHY", "reason", COLUMN_TEXT},
    {NULL, NULL, 0},
};

static const struct column volume_fields[] = {
    {"Volume", "name", COLUMN_TEXT},
    {"Id", "id", COLUMN_NUMBER},
    {"Health", "health", COLUMN_WORD},
    {"State", "operational", COLUMN_WORD},
    {"Why", "reason", COLUMN_TEXT},
    {"Waits for", "status.waiting", COLUMN_TEXT},
    {"Owner", "owner", COLUMN_TEXT},
    {"Preferred owner", "preferred_owner", COLUMN_TEXT},
    {"Size", "size_bytes", COLUMN_SIZE},
    {"Files use", "status.used_bytes", COLUMN_SIZE},
    {"Free for files", "status.free_bytes", COLUMN_SIZE},
    {"On disks", "footprint_bytes", COLUMN_SIZE},
    {"Resiliency", "resiliency", COLUMN_TEXT},
    {"Columns", "columns", COLUMN_TEXT},
    {"Thin", "thin", COLUMN_TEXT},
    {"Slabs", "slabs", COLUMN_NUMBER},
    {"Slabs waiting", "status.slabs_waiting", COLUMN_NUMBER},
    {"Stale columns", "stale_columns", COLUMN_NUMBER},
    {"Disks catching up", "status.catching_disks", COLUMN_NUMBER},
    {"Blocks to compare", "status.compare_blocks", COLUMN_NUMBER},
    {"Blocks copied", "status.copied_blocks", COLUMN_NUMBER},
    {"Blocks healed", "status.healed_blocks", COLUMN_NUMBER},
    {"Blocks lost", "status.lost_blocks", COLUMN_NUMBER},
    {"Epoch", "epoch", COLUMN_NUMBER},
    {"Created", "created", COLUMN_TIME},
    {NULL, NULL, 0},
};

int run_volume_create(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    json_t *body, *json;
    int status;

    if (cli_given(arguments, "thin") && cli_given(arguments, "fixed")) {
        cli_fail("a volume is thin or fixed, not both");
        return CLI_USAGE;
    }
    body = json_pack("{s:s,s:I,s:b}", "name", name, "size_bytes",
                     (json_int_t)cli_number_or(arguments, "size", 0), "thin",
                     !cli_given(arguments, "fixed"));
    if (cli_given(arguments, "resiliency"))
        json_object_set_new(body, "resiliency", json_string(cli_text(arguments, "resiliency")));
    if (cli_given(arguments, "columns"))
        json_object_set_new(body, "columns", json_string(cli_text(arguments, "columns")));
    status = cli_call_within(cli, 600 * 1000, "POST", cli_target("/v1/volumes"), body, &json);
    return status != CLI_DONE ? status
                              : cli_show_done(cli, json, "volume %s is online, owned by %s", name,
                                              cli_string(json, "owner"));
}

int run_volume_list(struct cli *cli, const struct cli_arguments *arguments)
{
    (void)arguments;
    return cli_list(cli, cli_target("/v1/volumes"), volume_columns);
}

int run_volume_show(struct cli *cli, const struct cli_arguments *arguments)
{
    return cli_show(cli, cli_target("/v1/volumes/{}", cli_positional(arguments, 0)), volume_fields);
}

int run_volume_resize(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0), *size = cli_positional(arguments, 1);
    char text[SIZE_TEXT_MAX];
    uint64_t bytes;
    json_t *json;
    int status;

    if (size_parse(size, &bytes) < 0) {
        cli_fail("'%s' is no size: write 512M, 2G or 1T", size);
        return CLI_USAGE;
    }
    status = cli_call(cli, "POST", cli_target("/v1/volumes/{}/resize", name),
                      json_pack("{s:I}", "size_bytes", (json_int_t)bytes), &json);
    return status != CLI_DONE
               ? status
               : cli_show_done(cli, json, "volume %s has %s", name, size_format(bytes, text));
}

int run_volume_move(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0), *to = cli_text(arguments, "to");
    json_t *json;
    int status = cli_call(cli, "POST", cli_target("/v1/volumes/{}/move", name),
                          json_pack("{s:s}", "to", to), &json);

    return status != CLI_DONE ? status
                              : cli_show_done(cli, json, "node %s owns volume %s", to, name);
}

int run_volume_delete(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    json_t *json;
    int status = cli_call(cli, "DELETE", cli_target("/v1/volumes/{}", name), NULL, &json);

    return status != CLI_DONE ? status : cli_show_done(cli, json, "volume %s is deleted", name);
}

static const struct column check_fields[] = {
    {"Problems", "problems", COLUMN_NUMBER},
    {"Files and directories", "inodes", COLUMN_NUMBER},
    {"Directories", "directories", COLUMN_NUMBER},
    {"Names", "names", COLUMN_NUMBER},
    {"Extents", "extents", COLUMN_NUMBER},
    {"Tree nodes", "nodes", COLUMN_NUMBER},
    {"Used", "used_bytes", COLUMN_SIZE},
    {"Copies compared", "compared_bytes", COLUMN_SIZE},
    {"Rotten, repaired", "rotten_bytes", COLUMN_SIZE},
    {"Different", "different_bytes", COLUMN_SIZE},
    {"Stale or away", "unread_bytes", COLUMN_SIZE},
    {NULL, NULL, 0},
};

int run_volume_check(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    const json_t *lines;
    json_t *json;
    uint64_t problems;
    int status = cli_call_within(cli, 3600 * 1000, "POST", cli_target("/v1/volumes/{}/check", name),
                                 NULL, &json);

    if (status != CLI_DONE)
        return status;
    problems = cli_integer(json, "problems");
    lines = json_object_get(json, "lines");
    for (size_t i = 0; !arguments->json && i < json_array_size(lines); i++)
        printf("%s\n", json_string_value(json_array_get(lines, i)));
    cli_show_record(cli, json, check_fields);
    return problems == 0 ? CLI_DONE
                         : cli_fail("volume %s has %llu problems: what hangs on them cannot be "
                                    "used; restore it from a backup",
                                    name, (unsigned long long)problems);
}

/* ---- snapshots ---- */

int run_snapshot_create(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *volume = cli_positional(arguments, 0), *name = cli_positional(arguments, 1);
    json_t *body = json_pack("{s:s}", "name", name), *json;
    int status;

    if (cli_given(arguments, "path"))
        json_object_set_new(body, "path", json_string(cli_text(arguments, "path")));
    status = cli_call_within(cli, 3600 * 1000, "POST",
                             cli_target("/v1/volumes/{}/snapshots", volume), body, &json);
    return status != CLI_DONE ? status
                              : cli_show_done(cli, json, "%s is kept: .snapshots/%s in volume %s",
                                              name, name, volume);
}

static const struct column snapshot_columns[] = {
    {"NAME", "name", COLUMN_TEXT},
    {"TYPE", "type", COLUMN_TEXT},
    {"CREATED", "created", COLUMN_TIME},
    {NULL, NULL, 0},
};

int run_snapshot_list(struct cli *cli, const struct cli_arguments *arguments)
{
    json_t *list;
    int status =
        cli_call(cli, "GET", cli_target("/v1/volumes/{}/snapshots", cli_positional(arguments, 0)),
                 NULL, &list);

    return status != CLI_DONE ? status : cli_show_table(cli, list, snapshot_columns);
}

int run_snapshot_delete(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *volume = cli_positional(arguments, 0), *name = cli_positional(arguments, 1);
    json_t *json;
    int status = cli_call(cli, "DELETE", cli_target("/v1/volumes/{}/snapshots/{}", volume, name),
                          NULL, &json);

    return status != CLI_DONE ? status : cli_show_done(cli, json, "snapshot %s is deleted", name);
}

int run_snapshot_restore(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *volume = cli_positional(arguments, 0), *name = cli_positional(arguments, 1);
    json_t *json;
    int status = cli_call_within(cli, 3600 * 1000, "POST",
                                 cli_target("/v1/volumes/{}/snapshots/{}/restore", volume, name),
                                 NULL, &json);

    return status != CLI_DONE
               ? status
               : cli_show_done(cli, json, "volume %s is as in snapshot %s again", volume, name);
}
