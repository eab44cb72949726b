/* s2d perf: two looks at every node's metrics, and what happened between them. */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/prometheus.h"

#define NODES_MAX 64

/* What is shown of each kind of thing. The names are the metrics' own; "read" and "write" may be
 * two metrics, or two labels of one. */
struct perf_source {
    const char *reads, *reads_label, *writes, *writes_label;
    const char *read_bytes, *write_bytes;
    const char *read_latency, *write_latency; /* in nanoseconds; NULL: not measured */
};

static const struct perf_source of_node = {
    .reads = "s2d_nbd_requests_total",
    .reads_label = "kind=\"read\"",
    .writes = "s2d_nbd_requests_total",
    .writes_label = "kind=\"write\"",
    .read_bytes = "s2d_nbd_bytes_total",
    .write_bytes = "s2d_nbd_bytes_total",
    .read_latency = "s2d_nbd_latency_ns",
    .write_latency = "s2d_nbd_latency_ns",
};
static const struct perf_source of_volume = {
    .reads = "s2d_mirror_reads_total",
    .writes = "s2d_mirror_writes_total",
    .read_bytes = "s2d_mirror_read_bytes_total",
    .write_bytes = "s2d_mirror_written_bytes_total",
    .write_latency = "s2d_mirror_write_latency_ns",
};

struct look { /* at all nodes, at about the same time */
    double time_s;
    struct samples nodes[NODES_MAX];
    bool answered[NODES_MAX];
};

struct perf {
    struct cli *cli;
    json_t *nodes, *volumes, *disks;
    struct look before, after;
};

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void look_done(struct look *look)
{
    for (size_t i = 0; i < NODES_MAX; i++)
        samples_done(&look->nodes[i]);
    *look = (struct look){0};
}

static bool is_up(const json_t *node)
{
    return strcmp(cli_string(node, "state"), "down") != 0;
}

static int take_look(struct perf *perf, struct look *look)
{
    for (size_t i = 0; i < MIN(json_array_size(perf->nodes), NODES_MAX); i++) {
        const json_t *node = json_array_get(perf->nodes, i);
        struct http_answer answer;
        int status;

        if (!is_up(node))
            continue;
        status = cli_call_data(perf->cli, "GET",
                               cli_target("/v1/nodes/{}/metrics", cli_string(node, "name")), NULL,
                               0, &answer);
        if (status != CLI_DONE)
            return status;
        if (samples_parse(answer.body, &look->nodes[i]) < 0)
            abort();
        look->answered[i] = true;
        http_answer_done(&answer);
    }
    look->time_s = now_s();
    return CLI_DONE;
}

/* The rate of a counter over the nodes from first to before last. A daemon that restarted counts
 * from 0 again. */
static double rate(const struct perf *perf, size_t first, size_t last, const char *name,
                   const char *label)
{
    double sum = 0;

    for (size_t i = first; i < last; i++) {
        double before = samples_sum(&perf->before.nodes[i], name, label);
        double after = samples_sum(&perf->after.nodes[i], name, label);

        if (perf->before.answered[i] && perf->after.answered[i])
            sum += after >= before ? after - before : after;
    }
    return sum / MAX(perf->after.time_s - perf->before.time_s, 1e-3);
}

/* The worst node's: who asks for a volume's latency means that of its owner, and only that has any.
 */
static double percentile(const struct perf *perf, size_t first, size_t last, const char *name,
                         const char *label, double fraction)
{
    double worst = 0;

    for (size_t i = first; i < last && name; i++)
        worst = MAX(worst, samples_percentile(&perf->before.nodes[i], &perf->after.nodes[i], name,
                                              label, fraction));
    return worst / 1e3;
}

static json_t *measure(const struct perf *perf, const char *name, const struct perf_source *source,
                       const char *label, size_t first, size_t last)
{
    const char *reads = source->reads_label ? source->reads_label : label;
    const char *writes = source->writes_label ? source->writes_label : label;
    json_t *row = json_pack("{s:s,s:f,s:f,s:f,s:f}", "name", name, "reads_per_s",
                            rate(perf, first, last, source->reads, reads), "writes_per_s",
                            rate(perf, first, last, source->writes, writes), "read_mib_per_s",
                            rate(perf, first, last, source->read_bytes, reads) / (double)MIB,
                            "write_mib_per_s",
                            rate(perf, first, last, source->write_bytes, writes) / (double)MIB);

    if (!row)
        abort();
    if (source->read_latency) {
        json_object_set_new(
            row, "read_p50_us",
            json_real(percentile(perf, first, last, source->read_latency, reads, 0.5)));
        json_object_set_new(
            row, "read_p99_us",
            json_real(percentile(perf, first, last, source->read_latency, reads, 0.99)));
    }
    json_object_set_new(
        row, "write_p50_us",
        json_real(percentile(perf, first, last, source->write_latency, writes, 0.5)));
    json_object_set_new(
        row, "write_p99_us",
        json_real(percentile(perf, first, last, source->write_latency, writes, 0.99)));
    return row;
}

static json_t *measure_nodes(const struct perf *perf)
{
    json_t *rows = json_array();

    for (size_t i = 0; i < MIN(json_array_size(perf->nodes), NODES_MAX); i++) {
        if (perf->after.answered[i])
            json_array_append_new(rows,
                                  measure(perf, cli_string(json_array_get(perf->nodes, i), "name"),
                                          &of_node, NULL, i, i + 1));
    }
    return rows;
}

static json_t *measure_volumes(const struct perf *perf)
{
    size_t nodes = MIN(json_array_size(perf->nodes), NODES_MAX);
    json_t *rows = json_array();

    for (size_t i = 0; i < json_array_size(perf->volumes); i++) {
        const json_t *volume = json_array_get(perf->volumes, i);
        char label[40];

        snprintf(label, sizeof(label), "vdisk=\"%llu\"",
                 (unsigned long long)cli_integer(volume, "vdisk"));
        json_array_append_new(
            rows, measure(perf, cli_string(volume, "name"), &of_volume, label, 0, nodes));
    }
    return rows;
}

static size_t node_index(const struct perf *perf, const char *name)
{
    size_t i = 0;

    while (i < MIN(json_array_size(perf->nodes), NODES_MAX) &&
           strcmp(cli_string(json_array_get(perf->nodes, i), "name"), name) != 0)
        i++;
    return i;
}

/* A disk does other work than a volume: it logs, and later writes in place. */
static json_t *measure_disk(const struct perf *perf, const json_t *disk, size_t node)
{
    static const char latency[] = "s2d_store_log_write_latency_ns";
    char label[96], name[160];
    json_t *row;

    snprintf(label, sizeof(label), "disk=\"%s\"", cli_string(disk, "name"));
    snprintf(name, sizeof(name), "%s:%s", cli_string(disk, "node"), cli_string(disk, "name"));
    row = json_pack(
        "{s:s,s:f,s:f,s:f,s:f,s:f,s:f}", "name", name, "blocks_read_per_s",
        rate(perf, node, node + 1, "s2d_store_read_blocks_total", label), "records_per_s",
        rate(perf, node, node + 1, "s2d_store_appended_records_total", label), "log_mib_per_s",
        rate(perf, node, node + 1, "s2d_store_appended_bytes_total", label) / (double)MIB,
        "destage_mib_per_s",
        rate(perf, node, node + 1, "s2d_store_destaged_blocks_total", label) * BLOCK_SIZE /
            (double)MIB,
        "log_p50_us", percentile(perf, node, node + 1, latency, label, 0.5), "log_p99_us",
        percentile(perf, node, node + 1, latency, label, 0.99));
    if (!row)
        abort();
    return row;
}

static json_t *measure_disks(const struct perf *perf)
{
    json_t *rows = json_array();

    for (size_t i = 0; i < json_array_size(perf->disks); i++) {
        const json_t *disk = json_array_get(perf->disks, i);
        size_t node = node_index(perf, cli_string(disk, "node"));

        if (node < NODES_MAX && perf->after.answered[node])
            json_array_append_new(rows, measure_disk(perf, disk, node));
    }
    return rows;
}

/* ---- caches ---- */

static double now_of(const struct perf *perf, size_t node, const char *name, const char *label)
{
    return samples_sum(&perf->after.nodes[node], name, label);
}

static double percent(double part, double whole)
{
    return whole > 0 ? part / whole * 100 : 0;
}

/* Write-back log and read cache of a disk; label NULL: of all disks of a node. Held are records
 * that a filling log made wait, and how long on average. Hits are blocks that were read from there
 * in the time measured, of all that were read from anywhere. */
static json_t *measure_cache(const struct perf *perf, const char *name, size_t node,
                             const char *label, double oldest_s)
{
    double from_log = rate(perf, node, node + 1, "s2d_store_log_read_blocks_total", label);
    double from_cache = rate(perf, node, node + 1, "s2d_store_cache_read_blocks_total", label);
    double from_place = rate(perf, node, node + 1, "s2d_store_place_read_blocks_total", label);
    double reads = from_log + from_cache + from_place;
    double held = rate(perf, node, node + 1, "s2d_store_log_wait_latency_ns_count", label);
    double held_ns = rate(perf, node, node + 1, "s2d_store_log_wait_latency_ns_sum", label);
    json_t *row = json_pack(
        "{s:s,s:I,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:I}", "name", name, "dirty_bytes",
        (json_int_t)now_of(perf, node, "s2d_store_dirty_bytes", label), "oldest_dirty_s", oldest_s,
        "log_fill_percent",
        percent(now_of(perf, node, "s2d_store_log_used_bytes", label),
                now_of(perf, node, "s2d_store_log_bytes", label)),
        "destage_mib_per_s",
        rate(perf, node, node + 1, "s2d_store_destaged_blocks_total", label) * BLOCK_SIZE /
            (double)MIB,
        "held_per_s", held, "held_ms", held > 0 ? held_ns / held / 1e6 : 0, "log_hit_percent",
        percent(from_log, reads), "read_cache_hit_percent", percent(from_cache, reads),
        "read_cache_used_bytes",
        (json_int_t)now_of(perf, node, "s2d_store_read_cache_used_bytes", label),
        "read_cache_bytes", (json_int_t)now_of(perf, node, "s2d_store_read_cache_bytes", label));

    if (!row)
        abort();
    return row;
}

/* Appends a row for each disk of the node. Returns the age of the oldest dirty block of them all.
 */
static double measure_disk_caches(const struct perf *perf, size_t node, json_t *rows)
{
    double oldest_s = 0;

    for (size_t i = 0; i < json_array_size(perf->disks); i++) {
        const json_t *disk = json_array_get(perf->disks, i);
        char label[96], name[160];
        double age_s;

        if (node_index(perf, cli_string(disk, "node")) != node)
            continue;
        snprintf(label, sizeof(label), "disk=\"%s\"", cli_string(disk, "name"));
        snprintf(name, sizeof(name), "%s:%s", cli_string(disk, "node"), cli_string(disk, "name"));
        if (now_of(perf, node, "s2d_store_log_bytes", label) == 0)
            continue; /* it is no capacity disk, or not open */
        age_s = now_of(perf, node, "s2d_store_dirty_age_seconds", label);
        oldest_s = MAX(oldest_s, age_s);
        json_array_append_new(rows, measure_cache(perf, name, node, label, age_s));
    }
    return oldest_s;
}

/* A row for each node, and behind it its disks. */
static json_t *measure_caches(const struct perf *perf)
{
    json_t *rows = json_array();

    for (size_t i = 0; i < MIN(json_array_size(perf->nodes), NODES_MAX); i++) {
        const char *name = cli_string(json_array_get(perf->nodes, i), "name");
        size_t at = json_array_size(rows);
        double oldest_s;

        if (!perf->after.answered[i])
            continue;
        oldest_s = measure_disk_caches(perf, i, rows);
        json_array_insert_new(rows, at, measure_cache(perf, name, i, NULL, oldest_s));
    }
    return rows;
}

static const struct column cache_columns[] = {
    {"NAME", "name", COLUMN_TEXT},
    {"DIRTY", "dirty_bytes", COLUMN_SIZE},
    {"OLDEST S", "oldest_dirty_s", COLUMN_NUMBER},
    {"LOG FILL %", "log_fill_percent", COLUMN_NUMBER},
    {"DESTAGE MIB/S", "destage_mib_per_s", COLUMN_NUMBER},
    {"HELD/S", "held_per_s", COLUMN_NUMBER},
    {"MS", "held_ms", COLUMN_NUMBER},
    {"LOG HITS %", "log_hit_percent", COLUMN_NUMBER},
    {"READ CACHE HITS %", "read_cache_hit_percent", COLUMN_NUMBER},
    {"FILLED", "read_cache_used_bytes", COLUMN_SIZE},
    {"OF", "read_cache_bytes", COLUMN_SIZE},
    {NULL, NULL, 0},
};

static const struct column disk_columns[] = {
    {"NAME", "name", COLUMN_TEXT},
    {"BLOCKS READ/S", "blocks_read_per_s", COLUMN_NUMBER},
    {"RECORDS/S", "records_per_s", COLUMN_NUMBER},
    {"LOG MIB/S", "log_mib_per_s", COLUMN_NUMBER},
    {"DESTAGE MIB/S", "destage_mib_per_s", COLUMN_NUMBER},
    {"LOG P50 US", "log_p50_us", COLUMN_NUMBER},
    {"P99", "log_p99_us", COLUMN_NUMBER},
    {NULL, NULL, 0},
};

static const struct column perf_columns[] = {
    {"NAME", "name", COLUMN_TEXT},
    {"READS/S", "reads_per_s", COLUMN_NUMBER},
    {"WRITES/S", "writes_per_s", COLUMN_NUMBER},
    {"READ MIB/S", "read_mib_per_s", COLUMN_NUMBER},
    {"WRITE MIB/S", "write_mib_per_s", COLUMN_NUMBER},
    {"READ P50 US", "read_p50_us", COLUMN_NUMBER},
    {"P99", "read_p99_us", COLUMN_NUMBER},
    {"WRITE P50 US", "write_p50_us", COLUMN_NUMBER},
    {"P99", "write_p99_us", COLUMN_NUMBER},
    {NULL, NULL, 0},
};

static void show(const struct perf *perf)
{
    json_t *result = json_pack("{s:o,s:o,s:o,s:o}", "nodes", measure_nodes(perf), "volumes",
                               measure_volumes(perf), "disks", measure_disks(perf), "caches",
                               measure_caches(perf));

    if (!result)
        abort();
    if (perf->cli->arguments->json) {
        cli_print_json(result);
    } else {
        if (perf->cli->out_is_tty && perf->cli->arguments->command->verb[0])
            fputs("\033[H\033[J", stdout);
        puts("Nodes (what clients of the node's NBD socket see)");
        output_table(stdout, perf->cli->colours, json_object_get(result, "nodes"), perf_columns);
        puts("\nVolumes (at the owner)");
        output_table(stdout, perf->cli->colours, json_object_get(result, "volumes"), perf_columns);
        puts("\nDisks");
        output_table(stdout, perf->cli->colours, json_object_get(result, "disks"), disk_columns);
        puts("\nCaches (write-back log and read cache, by node and disk)");
        output_table(stdout, perf->cli->colours, json_object_get(result, "caches"), cache_columns);
    }
    fflush(stdout);
    json_decref(result);
}

static void sleep_ms(uint64_t ms)
{
    struct timespec time = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000 * 1000000)};

    nanosleep(&time, NULL);
}

static int list_things(struct perf *perf)
{
    int status = cli_call(perf->cli, "GET", cli_target("/v1/nodes"), NULL, &perf->nodes);

    if (status == CLI_DONE)
        status = cli_call(perf->cli, "GET", cli_target("/v1/volumes"), NULL, &perf->volumes);
    if (status == CLI_DONE)
        status = cli_call(perf->cli, "GET", cli_target("/v1/disks"), NULL, &perf->disks);
    return status;
}

static int run(struct cli *cli, uint64_t period_ms, bool again)
{
    struct perf *perf = calloc(1, sizeof(*perf));
    int status;

    if (!perf)
        abort();
    perf->cli = cli;
    status = list_things(perf);
    if (status == CLI_DONE)
        status = take_look(perf, &perf->before);
    while (status == CLI_DONE) {
        sleep_ms(period_ms);
        status = take_look(perf, &perf->after);
        if (status != CLI_DONE)
            break;
        show(perf);
        if (!again || ferror(stdout))
            break;
        look_done(&perf->before);
        perf->before = perf->after;
        perf->after = (struct look){0};
    }
    look_done(&perf->before);
    look_done(&perf->after);
    json_decref(perf->nodes);
    json_decref(perf->volumes);
    json_decref(perf->disks);
    free(perf);
    return status;
}

int run_perf(struct cli *cli, const struct cli_arguments *arguments)
{
    return run(cli, cli_number_or(arguments, "seconds", 1000), false);
}

int run_perf_top(struct cli *cli, const struct cli_arguments *arguments)
{
    return run(cli, cli_number_or(arguments, "seconds", 2000), true);
}
