/* One pass from left to right: options may stand anywhere, the first word is the noun, the second
 * the verb (if that noun has verbs), the rest are positionals. Flags of a command are known only
 * once noun and verb were seen, so they stand behind them. */
#include "tools/cli/arguments.h"

#include <stdarg.h>
#include <stdio.h>

#include "tools/cli/size.h"

struct parser {
    const struct cli_command *commands;
    const struct cli_later *later;
    int argc;
    const char *const *argv;
    int next;
    bool options_ended;     /* behind "--" */
    const char *first_word; /* of a verb of two */
    struct cli_arguments *arguments;
    char *message;
    int exit; /* CLI_DONE: nothing is wrong so far */
};

static void complain(struct parser *parser, int status, const char *format, ...) printf_like(3, 4);
static void complain(struct parser *parser, int status, const char *format, ...)
{
    va_list list;

    if (parser->exit != CLI_DONE)
        return; /* the first mistake is the one to tell */
    parser->exit = status;
    va_start(list, format);
    vsnprintf(parser->message, CLI_MESSAGE_MAX, format, list);
    va_end(list);
}

/* ---- the tables ---- */

static const struct cli_command *find_command(const struct cli_command *commands, const char *noun,
                                              const char *verb)
{
    for (; commands->noun; commands++) {
        if (strcmp(commands->noun, noun) == 0 && (!verb || strcmp(commands->verb, verb) == 0))
            return commands;
    }
    return NULL;
}

/* Whether this is promised for later versions; flag NULL: as a verb. */
static bool refuse_later(struct parser *parser, const char *noun, const char *verb,
                         const char *flag)
{
    for (const struct cli_later *later = parser->later; later->noun; later++) {
        if (strcmp(later->noun, noun) != 0 || strcmp(later->verb, verb) != 0 ||
            !later->flag != !flag || (flag && strcmp(later->flag, flag) != 0))
            continue;
        complain(parser, CLI_FAILED, "this version does not %s", later->what);
        return true;
    }
    return false;
}

static int flag_index(const struct cli_command *command, const char *name, size_t length)
{
    for (int i = 0; command->flags && command->flags[i].name; i++) {
        if (strlen(command->flags[i].name) == length &&
            memcmp(command->flags[i].name, name, length) == 0)
            return i;
    }
    return -ENOENT;
}

/* ---- values ---- */

static int seconds_parse(const char *text, uint64_t *ret_ms)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end || !(seconds >= 0 && seconds <= 1e9))
        return -EINVAL;
    *ret_ms = (uint64_t)(seconds * 1000 + 0.5);
    return 0;
}

static int number_parse(const char *text, uint64_t *ret_number)
{
    unsigned long long number;
    char *end;

    if (text[0] < '0' || text[0] > '9')
        return -EINVAL;
    errno = 0;
    number = strtoull(text, &end, 10);
    if (errno != 0 || *end || number > INT64_MAX)
        return -EINVAL;
    *ret_number = number;
    return 0;
}

static void take_text(struct parser *parser, const struct cli_flag *flag, struct cli_value *value,
                      const char *text)
{
    if (flag->type == CLI_TEXTS) {
        if (value->text_count == CLI_TEXTS_MAX)
            complain(parser, CLI_USAGE, "--%s can be given %d times", flag->name, CLI_TEXTS_MAX);
        else
            value->texts[value->text_count++] = text;
    } else if (value->given) {
        complain(parser, CLI_USAGE, "--%s is given twice", flag->name);
    }
    value->text = text;
}

static void take_value(struct parser *parser, const struct cli_flag *flag, struct cli_value *value,
                       const char *text)
{
    take_text(parser, flag, value, text);
    value->given = true;
    switch (flag->type) {
    case CLI_SWITCH:
    case CLI_TEXT:
    case CLI_TEXTS:
        break;
    case CLI_SIZE:
        if (size_parse(text, &value->number) < 0)
            complain(parser, CLI_USAGE, "--%s: '%s' is no size: write 512M, 2G or 1T", flag->name,
                     text);
        break;
    case CLI_NUMBER:
        if (number_parse(text, &value->number) < 0)
            complain(parser, CLI_USAGE, "--%s: '%s' is no whole number", flag->name, text);
        break;
    case CLI_SECONDS:
        if (seconds_parse(text, &value->number) < 0)
            complain(parser, CLI_USAGE, "--%s: '%s' is no number of seconds", flag->name, text);
        break;
    }
}

/* The value of the option at hand: behind '=', or the next word. NULL: there is none. */
static const char *option_value(struct parser *parser, const char *option, const char *equals)
{
    if (equals)
        return equals + 1;
    if (parser->next < parser->argc)
        return parser->argv[parser->next++];
    complain(parser, CLI_USAGE, "%s needs a value", option);
    return NULL;
}

/* ---- options ---- */

/* Of every command. Returns whether it was one. */
static bool take_global(struct parser *parser, const char *option, size_t length,
                        const char *equals)
{
    struct cli_arguments *arguments = parser->arguments;
    const struct {
        const char *name;
        bool *place;
    } switches[] = {
        {"--json", &arguments->json},       {"--yes", &arguments->yes},
        {"--help", &arguments->help},       {"-h", &arguments->help},
        {"--version", &arguments->version}, {"--man", &arguments->man},
    };

    if (length == 6 && memcmp(option, "--node", 6) == 0) {
        arguments->node = option_value(parser, "--node", equals);
        return true;
    }
    for (size_t i = 0; i < ARRAY_SIZE(switches); i++) {
        if (strcmp(option, switches[i].name) != 0)
            continue;
        *switches[i].place = true;
        return true;
    }
    return false;
}

static void take_flag(struct parser *parser, const char *option, size_t length, const char *equals)
{
    const struct cli_command *command = parser->arguments->command;
    int i = command && length > 2 ? flag_index(command, option + 2, length - 2) : -ENOENT;
    struct cli_value *value;
    const char *text;

    if (i < 0) {
        char name[64];

        snprintf(name, sizeof(name), "%.*s", (int)MIN(length, sizeof(name) - 1), option);
        if (command && refuse_later(parser, command->noun, command->verb, name))
            return;
        if (command)
            complain(parser, CLI_USAGE, "'s2d %s%s%s' has no option %s", command->noun,
                     command->verb[0] ? " " : "", command->verb, name);
        else
            complain(parser, CLI_USAGE, "unknown option %s", name);
        return;
    }
    assert(i < CLI_FLAGS_MAX);
    value = &parser->arguments->values[i];
    if (command->flags[i].type == CLI_SWITCH) {
        value->given = true;
        if (equals)
            complain(parser, CLI_USAGE, "--%s takes no value", command->flags[i].name);
        return;
    }
    text = option_value(parser, option, equals);
    if (text)
        take_value(parser, &command->flags[i], value, text);
}

static void take_option(struct parser *parser, const char *option)
{
    const char *equals = strchr(option, '=');
    size_t length = equals ? (size_t)(equals - option) : strlen(option);

    if (strcmp(option, "--") == 0)
        parser->options_ended = true;
    else if (!take_global(parser, option, length, equals))
        take_flag(parser, option, length, equals);
}

/* ---- words ---- */

static void take_noun(struct parser *parser, const char *word)
{
    const struct cli_command *first = find_command(parser->commands, word, NULL);

    if (!first) {
        complain(parser, CLI_USAGE, "there is no '%.60s'; see s2d --help", word);
        return;
    }
    parser->arguments->noun = first->noun;
    if (first->verb[0] == '\0')
        parser->arguments->command = first; /* until a verb follows */
}

/* Verbs of two words: "snapshot create". */
static bool is_first_word(const struct cli_command *commands, const char *noun, const char *word)
{
    size_t length = strlen(word);

    for (; commands->noun; commands++) {
        if (strcmp(commands->noun, noun) == 0 && strncmp(commands->verb, word, length) == 0 &&
            commands->verb[length] == ' ')
            return true;
    }
    return false;
}

/* Returns whether word was the verb, or its first word. */
static bool take_verb(struct parser *parser, const char *word)
{
    struct cli_arguments *arguments = parser->arguments;
    const struct cli_command *command;
    char verb[64];

    snprintf(verb, sizeof(verb), "%s%s%s", parser->first_word ? parser->first_word : "",
             parser->first_word ? " " : "", word);
    command = find_command(parser->commands, arguments->noun, verb);
    if (command) {
        arguments->command = command;
        return true;
    }
    if (arguments->command)
        return false;
    if (is_first_word(parser->commands, arguments->noun, verb)) {
        parser->first_word = word;
        return true;
    }
    if (!refuse_later(parser, arguments->noun, word, NULL))
        complain(parser, CLI_USAGE, "'s2d %s' has no '%.60s'; see s2d %s --help", arguments->noun,
                 verb, arguments->noun);
    return true;
}

static void take_word(struct parser *parser, const char *word)
{
    struct cli_arguments *arguments = parser->arguments;
    const struct cli_command *command = arguments->command;

    if (!arguments->noun) {
        take_noun(parser, word);
        return;
    }
    if ((!command || command->verb[0] == '\0') && arguments->positional_count == 0 &&
        take_verb(parser, word))
        return;
    if (arguments->positional_count == CLI_POSITIONALS_MAX)
        complain(parser, CLI_USAGE, "'%.60s' is too much", word);
    else
        arguments->positionals[arguments->positional_count++] = word;
}

/* ---- what must be there ---- */

static void check_positionals(struct parser *parser)
{
    const struct cli_arguments *arguments = parser->arguments;
    const char *word = arguments->command->positionals;
    size_t count = 0, required = 0;

    while (*word) {
        size_t length = strcspn(word, " ");

        if (*word != '[')
            required++;
        if (count == arguments->positional_count && *word != '[')
            complain(parser, CLI_USAGE, "%.*s is missing", (int)length, word);
        count++;
        word += length;
        word += strspn(word, " ");
    }
    if (arguments->positional_count > count)
        complain(parser, CLI_USAGE, "'%.60s' is too much", arguments->positionals[count]);
    if (arguments->positional_count < required)
        complain(parser, CLI_USAGE, "something is missing");
}

static void check_complete(struct parser *parser)
{
    const struct cli_command *command = parser->arguments->command;

    if (!command) {
        if (parser->arguments->noun)
            complain(parser, CLI_USAGE, "what about the %s? see s2d %s --help",
                     parser->arguments->noun, parser->arguments->noun);
        else
            complain(parser, CLI_USAGE, "nothing to do; see s2d --help");
        return;
    }
    check_positionals(parser);
    for (int i = 0; command->flags && command->flags[i].name; i++) {
        if (command->flags[i].required && !parser->arguments->values[i].given)
            complain(parser, CLI_USAGE, "--%s is missing", command->flags[i].name);
    }
}

int cli_parse(const struct cli_command *commands, const struct cli_later *later, int argc,
              const char *const *argv, struct cli_arguments *ret_arguments,
              char message[CLI_MESSAGE_MAX])
{
    struct parser parser = {.commands = commands,
                            .later = later,
                            .argc = argc,
                            .argv = argv,
                            .arguments = ret_arguments,
                            .message = message,
                            .exit = CLI_DONE};

    *ret_arguments = (struct cli_arguments){0};
    message[0] = '\0';
    while (parser.next < argc && parser.exit == CLI_DONE) {
        const char *word = argv[parser.next++];

        /* "-" alone is a word: standard input or output */
        if (!parser.options_ended && word[0] == '-' && word[1])
            take_option(&parser, word);
        else
            take_word(&parser, word);
    }
    if (!ret_arguments->help && !ret_arguments->version && !ret_arguments->man)
        check_complete(&parser);
    return parser.exit;
}

/* ---- reading ---- */

const struct cli_value *cli_value(const struct cli_arguments *arguments, const char *flag)
{
    int i = flag_index(arguments->command, flag, strlen(flag));

    assert(i >= 0);
    return &arguments->values[i];
}

bool cli_given(const struct cli_arguments *arguments, const char *flag)
{
    return cli_value(arguments, flag)->given;
}

const char *cli_text(const struct cli_arguments *arguments, const char *flag)
{
    return cli_value(arguments, flag)->text;
}

uint64_t cli_number_or(const struct cli_arguments *arguments, const char *flag, uint64_t otherwise)
{
    const struct cli_value *value = cli_value(arguments, flag);

    return value->given ? value->number : otherwise;
}

const char *cli_positional(const struct cli_arguments *arguments, size_t i)
{
    return i < arguments->positional_count ? arguments->positionals[i] : NULL;
}
