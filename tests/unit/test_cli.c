/* The command line: what is understood, what is refused and how, and what people see. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/prometheus.h"
#include "tools/cli/size.h"

/* ---- parsing ---- */

#define WORDS_MAX 24

struct parsed {
    char line[512];
    const char *words[WORDS_MAX];
    struct cli_arguments arguments;
    char message[CLI_MESSAGE_MAX];
};

static int parse(struct parsed *parsed, const char *line)
{
    char *save = NULL;
    int count = 0;

    snprintf(parsed->line, sizeof(parsed->line), "%s", line);
    for (char *word = strtok_r(parsed->line, " ", &save); word; word = strtok_r(NULL, " ", &save))
        parsed->words[count++] = word;
    return cli_parse(cli_commands, cli_later, count, parsed->words, &parsed->arguments,
                     parsed->message);
}

static void what_the_contract_lists_is_understood(void **state)
{
    static const char *const lines[] = {
        "cluster create prod",
        "cluster join 10.0.0.1:7800 --token 1.abc",
        "cluster token",
        "cluster status",
        "cluster health",
        "cluster events",
        "cluster events --follow",
        "cluster quorum",
        "node list",
        "node show n1",
        "node drain n1",
        "node resume n1",
        "node evict n1 --yes",
        "disk list",
        "disk show 4",
        "disk claim /dev/sdb --role cache",
        "disk retire n1:sdb --yes",
        "disk replace n1:sdb /dev/sdc --wait --yes",
        "pool create --extent 16M",
        "pool set --read-cache 4G",
        "pool status",
        "volume create v --size 1G --resiliency mirror3 --thin",
        "volume create v --size 1G --fixed",
        "volume list",
        "volume show v",
        "volume resize v 2G",
        "volume move v --to n2",
        "volume delete v --yes",
        "volume check v",
        "volume snapshot create v monday --path dir/file",
        "volume snapshot list v",
        "volume snapshot delete v monday --yes",
        "volume snapshot restore v monday --yes",
        "file ls v",
        "file ls v/dir",
        "file create v/disk --size 1G",
        "file clone v/disk v/copy",
        "file rm v/disk --yes",
        "file import disk.img v/disk",
        "file export v/disk disk.img",
        "vm create web --memory 1G --vcpus 2 --disk v/a --disk v/b --generation 1 --switch br0",
        "vm create web2 --clone-of web",
        "vm list",
        "vm show web",
        "vm start web",
        "vm start web --on n2",
        "vm stop web",
        "vm shutdown web",
        "vm kill web --yes",
        "vm console web",
        "vm delete web --yes",
        "job list",
        "job show 7",
        "job watch 7",
        "job pause 7",
        "job resume 7",
        "perf",
        "perf top",
        "--node /run/n1 --json volume list",
        "volume --json list --node=/run/n1",
    };
    struct parsed parsed;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        if (parse(&parsed, lines[i]) != CLI_DONE)
            fail_msg("'%s': %s", lines[i], parsed.message);
        assert_non_null(parsed.arguments.command->run);
    }
}

static void values_arrive(void **state)
{
    struct parsed parsed;
    const struct cli_value *disks;

    (void)state;
    assert_int_equal(parse(&parsed, "vm create web --memory=1536M --vcpus 2 --disk v/a --disk v/b"),
                     CLI_DONE);
    assert_string_equal(cli_positional(&parsed.arguments, 0), "web");
    assert_null(cli_positional(&parsed.arguments, 1));
    assert_int_equal(cli_number_or(&parsed.arguments, "memory", 0), 1536 * MIB);
    assert_int_equal(cli_number_or(&parsed.arguments, "generation", 2), 2);
    disks = cli_value(&parsed.arguments, "disk");
    assert_int_equal(disks->text_count, 2);
    assert_string_equal(disks->texts[1], "v/b");

    assert_int_equal(parse(&parsed, "vm stop web --timeout 1.5"), CLI_DONE);
    assert_int_equal(cli_number_or(&parsed.arguments, "timeout", 0), 1500);
    assert_int_equal(parse(&parsed, "file rm --yes -- -odd"), CLI_DONE);
    assert_string_equal(cli_positional(&parsed.arguments, 0), "-odd");
}

/* Exit status 2, and a message that names what is wrong. */
static void nonsense_is_usage(void **state)
{
    static const struct {
        const char *line, *names;
    } cases[] = {
        {"", "--help"},
        {"volume", "volume --help"},
        {"volum list", "volum"},
        {"volume lst", "lst"},
        {"volume list extra", "extra"},
        {"volume create", "NAME"},
        {"volume create v", "--size"},
        {"volume create v --size", "--size"},
        {"volume create v --size much", "much"},
        {"volume create v --size 1G --size 2G", "twice"},
        {"volume create v --size 1G --fat", "--fat"},
        {"volume create v --size 1G --fixed=yes", "--fixed"},
        {"volume resize v", "SIZE"},
        {"file import disk.img", "VOL/PATH"},
        {"vm create w --memory 1G --vcpus two --disk v/a", "two"},
        {"cluster events --last -1", "-1"},
        {"--frobnicate", "--frobnicate"},
        {"perf --seconds soon", "soon"},
        {"perf bottom", "bottom"},
    };
    struct parsed parsed;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int status = parse(&parsed, cases[i].line);

        if (status != CLI_USAGE || !strstr(parsed.message, cases[i].names))
            fail_msg("'%s': %d, %s", cases[i].line, status, parsed.message);
    }
}

/* What the contract names and this version lacks is refused in words, not misunderstood. */
static void later_versions_are_named(void **state)
{
    static const char *const lines[] = {
        "cluster witness set none", "disk locate 1",        "pool optimize",
        "volume repair v",          "vm migrate w --to n2", "vm checkpoint w",
    };
    struct parsed parsed;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        if (parse(&parsed, lines[i]) != CLI_FAILED ||
            strncmp(parsed.message, "this version does not ", 22) != 0)
            fail_msg("'%s': %s", lines[i], parsed.message);
    }
}

static void help_needs_nothing_else(void **state)
{
    struct parsed parsed;

    (void)state;
    assert_int_equal(parse(&parsed, "volume create --help"), CLI_DONE);
    assert_true(parsed.arguments.help);
    assert_string_equal(parsed.arguments.command->verb, "create");
    assert_int_equal(parse(&parsed, "volume --help"), CLI_DONE);
    assert_string_equal(parsed.arguments.noun, "volume");
    assert_int_equal(parse(&parsed, "--help"), CLI_DONE);
}

/* The table itself: a destructive verb can ask, and nothing is offered that has no help. */
static void the_table_is_sound(void **state)
{
    (void)state;
    for (const struct cli_command *command = cli_commands; command->noun; command++) {
        size_t flags = 0;

        assert_non_null(command->help);
        assert_non_null(command->run);
        assert_int_equal(command->properties & CLI_DESTRUCTIVE ? 1 : 0, command->question != NULL);
        while (command->flags && command->flags[flags].name)
            flags++;
        assert_true(flags <= CLI_FLAGS_MAX);
        for (const struct cli_later *later = cli_later; later->noun; later++)
            assert_false(!later->flag && strcmp(later->noun, command->noun) == 0 &&
                         strcmp(later->verb, command->verb) == 0);
    }
}

/* ---- sizes ---- */

static void sizes_are_powers_of_two(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {{"0", 0},         {"4096", 4096},     {"1K", KIB},          {"16M", 16 * MIB},
                 {"2g", 2 * GIB},  {"1T", 1024 * GIB}, {"1.5G", 1536 * MIB}, {"10GiB", 10 * GIB},
                 {"3KB", 3 * KIB}, {"7B", 7}};
    static const char *const wrong[] = {"",    "G",   "-1",  "1.5", "1GG", "1 G",
                                        "1e3", "0x1", "1.G", "1iB", "M1"};
    uint64_t bytes;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(size_parse(cases[i].text, &bytes), 0);
        assert_int_equal(bytes, cases[i].bytes);
    }
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_int_equal(size_parse(wrong[i], &bytes), -EINVAL);
    assert_int_equal(size_parse("9223372036854775808", &bytes), -ERANGE);
    assert_int_equal(size_parse("8192P", &bytes), -ERANGE);
    assert_int_equal(size_parse("8191P", &bytes), 0);
}

static void sizes_are_shown_in_three_digits(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {{0, "0 B"},
                 {1023, "1023 B"},
                 {1024, "1 KiB"},
                 {1536, "1.5 KiB"},
                 {16 * MIB, "16 MiB"},
                 {GIB - 1, "1.0 GiB"},
                 {5 * GIB / 2, "2.5 GiB"},
                 {3 * 1024 * GIB, "3 TiB"}};
    char text[SIZE_TEXT_MAX];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_string_equal(size_format(cases[i].bytes, text), cases[i].text);
}

/* ---- tables ---- */

static const struct column columns[] = {
    {"NAME", "name", COLUMN_TEXT},       {"SIZE", "size_bytes", COLUMN_SIZE},
    {"HEALTH", "health", COLUMN_WORD},   {"WAITS", "status.waiting", COLUMN_TEXT},
    {"CREATED", "created", COLUMN_TIME}, {NULL, NULL, 0},
};

static char *print_table(const char *json_text, bool colours, bool record)
{
    json_t *json = json_loads(json_text, 0, NULL);
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    assert_non_null(json);
    if (record)
        output_record(out, colours, json, columns);
    else
        output_table(out, colours, json, columns);
    fclose(out);
    json_decref(json);
    return text;
}

static void tables_are_aligned(void **state)
{
    char *text =
        print_table("[{\"name\": \"a\", \"size_bytes\": 1073741824, \"health\": \"Healthy\","
                    "  \"created\": \"2026-11-21T10:00:00.123Z\"},"
                    " {\"name\": \"caf\xc3\xa9-long\", \"size_bytes\": 1536,"
                    "  \"status\": {\"waiting\": \"for\\u001b[2J a copy\"}}]",
                    false, false);

    (void)state;
    assert_string_equal(text, "NAME          SIZE  HEALTH   WAITS           CREATED\n"
                              "a            1 GiB  Healthy                  2026-11-21 10:00:00\n"
                              "caf\xc3\xa9-long  1.5 KiB           for?[2J a copy  \n");
    free(text);
    text = print_table("[]", false, false);
    assert_string_equal(text, "none\n");
    free(text);
}

static void records_leave_out_what_is_not_there(void **state)
{
    char *text =
        print_table("{\"name\": \"a\", \"size_bytes\": null, \"health\": \"Warning\"}", true, true);

    (void)state;
    assert_string_equal(text, "NAME:     a\nHEALTH:   \033[33mWarning\033[0m\n");
    free(text);
}

/* ---- the client's own parser ---- */

static void targets_are_escaped(void **state)
{
    char *target = cli_target("/v1/volumes/{}/x?to={}", "a/b", "caf\xe9 &");

    (void)state;
    assert_string_equal(target, "/v1/volumes/a%2Fb/x?to=caf%E9%20%26");
    free(target);
    target = cli_target("/v1/files/{/}", "v/a b/%");
    assert_string_equal(target, "/v1/files/v/a%20b/%25");
    free(target);
}

static void heads_are_checked(void **state)
{
    static const char *const wrong[] = {
        "",
        "HTTP/2 200\r\nContent-Length: 1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n",
    };
    struct http_head head;

    (void)state;
    assert_int_equal(http_parse_head("HTTP/1.1 409 Conflict\r\nconnection: close\r\n"
                                     "Content-Type: application/json\r\nContent-Length: 17\r\n",
                                     &head),
                     0);
    assert_int_equal(head.status, 409);
    assert_int_equal(head.length, 17);
    assert_true(head.is_json);
    assert_true(head.closes);
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_int_equal(http_parse_head(wrong[i], &head), -EPROTO);
}

/* ---- metrics ---- */

static void rates_and_percentiles_are_of_the_time_between(void **state)
{
    struct samples before, after;

    (void)state;
    assert_int_equal(samples_parse("# HELP x y\nreads_total{vdisk=\"1\"} 10\n"
                                   "lat_bucket{vdisk=\"1\",le=\"1023\"} 5\n"
                                   "lat_bucket{vdisk=\"1\",le=\"+Inf\"} 5\n",
                                   &before),
                     0);
    assert_int_equal(samples_parse("reads_total{vdisk=\"1\"} 30\nreads_total{vdisk=\"11\"} 7\n"
                                   "garbage\nlat{ 1\nup 1\n"
                                   "lat_bucket{vdisk=\"1\",le=\"1023\"} 5\n"
                                   "lat_bucket{vdisk=\"1\",le=\"2047\"} 105\n"
                                   "lat_bucket{vdisk=\"1\",le=\"+Inf\"} 105\n",
                                   &after),
                     0);
    assert_true(samples_sum(&before, "reads_total", "vdisk=\"1\"") == 10);
    assert_true(samples_sum(&after, "reads_total", "vdisk=\"1\"") == 30); /* not that of 11 */
    assert_true(samples_sum(&after, "reads_total", NULL) == 37);
    assert_true(samples_sum(&after, "up", NULL) == 1);
    /* All hundred new ones lie between 1024 and 2047. */
    assert_in_range((uint64_t)samples_percentile(&before, &after, "lat", "vdisk=\"1\"", 0.5), 1500,
                    1600);
    assert_true(samples_percentile(&after, &after, "lat", "vdisk=\"1\"", 0.5) == 0);
    samples_done(&before);
    samples_done(&after);
}

/* ---- the man page ---- */

/* docs/man/s2d.1 is what `s2d --man` prints. */
static void the_man_page_is_up_to_date(void **state)
{
    char *made = NULL, *kept;
    size_t length, kept_length;
    FILE *out = open_memstream(&made, &length), *file = fopen(S2D_SOURCE "/docs/man/s2d.1", "r");

    (void)state;
    cli_print_man(out);
    fclose(out);
    assert_non_null(file);
    kept = calloc(1, length + 2);
    kept_length = fread(kept, 1, length + 1, file);
    fclose(file);
    if (kept_length != length || strcmp(made, kept) != 0)
        fail_msg("docs/man/s2d.1 is not what 's2d --man' prints: make it anew");
    free(made);
    free(kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_contract_lists_is_understood),
        cmocka_unit_test(values_arrive),
        cmocka_unit_test(nonsense_is_usage),
        cmocka_unit_test(later_versions_are_named),
        cmocka_unit_test(help_needs_nothing_else),
        cmocka_unit_test(the_table_is_sound),
        cmocka_unit_test(sizes_are_powers_of_two),
        cmocka_unit_test(sizes_are_shown_in_three_digits),
        cmocka_unit_test(tables_are_aligned),
        cmocka_unit_test(records_leave_out_what_is_not_there),
        cmocka_unit_test(targets_are_escaped),
        cmocka_unit_test(heads_are_checked),
        cmocka_unit_test(rates_and_percentiles_are_of_the_time_between),
        cmocka_unit_test(the_man_page_is_up_to_date),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
