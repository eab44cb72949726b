/* What may stand on the command line, and what may come from a daemon: words through the parser,
 * the same bytes as the head of an answer, as metrics, and as JSON in a table. */
#include <stdio.h>

#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/prometheus.h"
#include "tools/cli/size.h"

#define WORDS_MAX 32

static void parse_words(char *text)
{
    const char *words[WORDS_MAX];
    struct cli_arguments arguments;
    char message[CLI_MESSAGE_MAX], *save = NULL;
    int count = 0, status;

    for (char *word = strtok_r(text, "\n", &save); word && count < WORDS_MAX;
         word = strtok_r(NULL, "\n", &save))
        words[count++] = word;
    status = cli_parse(cli_commands, cli_later, count, words, &arguments, message);
    assert((status == CLI_DONE) == (message[0] == '\0'));
    if (status != CLI_DONE || arguments.help || arguments.version || arguments.man)
        return;
    assert(arguments.command);
    for (const struct cli_flag *flag = arguments.command->flags; flag && flag->name; flag++)
        assert(!flag->required || cli_given(&arguments, flag->name));
}

static void parse_answers(const char *text)
{
    struct samples samples;
    struct http_head head;
    uint64_t bytes;

    if (http_parse_head(text, &head) == 0)
        assert(head.length <= HTTP_BODY_MAX);
    if (size_parse(text, &bytes) == 0)
        assert(bytes < UINT64_C(1) << 63);
    if (samples_parse(text, &samples) < 0)
        abort();
    (void)!samples_sum(&samples, "a_total", "kind=\"read\"");
    (void)!samples_percentile(NULL, &samples, "a", "kind=\"read\"", 0.99);
    samples_done(&samples);
}

static void print_json(const char *text)
{
    static const struct column columns[] = {{"A", "a", COLUMN_TEXT},   {"B", "b", COLUMN_SIZE},
                                            {"C", "c", COLUMN_TIME},   {"D", "a.b", COLUMN_WORD},
                                            {"E", "b", COLUMN_NUMBER}, {NULL, NULL, 0}};
    json_t *json = json_loads(text, 0, NULL);
    FILE *out = json ? fopen("/dev/null", "w") : NULL;

    if (out) {
        output_table(out, true, json, columns);
        output_record(out, true, json, columns);
        fclose(out);
    }
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = strndup((const char *)data, size);

    if (!text)
        abort();
    parse_answers(text);
    print_json(text);
    parse_words(text);
    free(text);
    return 0;
}
