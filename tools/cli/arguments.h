/* arguments: the command line taken apart by the table of commands (commands.h). Pure: it reads
 * nothing but its arguments, and prints nothing. */
#ifndef S2D_CLI_ARGUMENTS_H
#define S2D_CLI_ARGUMENTS_H

#include "s2d/base/base.h"

#define CLI_POSITIONALS_MAX 4
#define CLI_FLAGS_MAX 10
#define CLI_TEXTS_MAX 16 /* of a flag that may be given several times */

struct cli;
struct cli_arguments;

enum cli_flag_type {
    CLI_SWITCH,  /* takes no value */
    CLI_TEXT,    /* any */
    CLI_TEXTS,   /* any, several times */
    CLI_SIZE,    /* bytes: 512M, 2G */
    CLI_NUMBER,  /* not negative */
    CLI_SECONDS, /* 30, 0.5 */
};

struct cli_flag {
    const char *name; /* "size"; NULL ends the list */
    enum cli_flag_type type;
    const char *value; /* for the help: "SIZE", "mirror2|mirror3" */
    const char *help;
    bool required;
};

enum cli_property {
    CLI_DESTRUCTIVE = BIT(0), /* asks, or wants --yes */
    CLI_HIDDEN = BIT(1),      /* for development clusters: not in the help */
};

struct cli_command {
    const char *noun, *verb; /* verb "": the noun alone. noun NULL ends the table */
    const char *positionals; /* "NAME [PATH]": in brackets: optional, and last */
    const struct cli_flag *flags;
    unsigned properties;
    const char *question; /* of a destructive one, with %s for the first positional */
    const char *help;     /* one sentence */
    int (*run)(struct cli *cli, const struct cli_arguments *arguments); /* exit status */
};

/* What the table names but this version does not do. */
struct cli_later {
    const char *noun, *verb; /* noun NULL ends the table */
    const char *flag;        /* NULL: the verb as a whole */
    const char *what;        /* "this version does not …" */
};

struct cli_value {
    bool given;
    const char *text;
    uint64_t number; /* a size in bytes, a number, seconds in milliseconds */
    const char *texts[CLI_TEXTS_MAX];
    size_t text_count;
};

struct cli_arguments {
    const struct cli_command *command; /* NULL: none was named */
    const char *noun;                  /* known, also if the verb is missing; or NULL */
    const char *positionals[CLI_POSITIONALS_MAX];
    size_t positional_count;
    struct cli_value values[CLI_FLAGS_MAX]; /* as command->flags */
    const char *node;                       /* --node; NULL: not given */
    bool json, yes, help, version, man;
};

enum cli_exit { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_UNREACHABLE = 3 };

/* argv: without the program's name; its texts are borrowed. message: what is wrong, for people.
 * Returns CLI_DONE, CLI_USAGE, or CLI_FAILED (a thing of later versions). With help or version set,
 * what is missing is no error. */
#define CLI_MESSAGE_MAX 256
int cli_parse(const struct cli_command *commands, const struct cli_later *later, int argc,
              const char *const *argv, struct cli_arguments *ret_arguments,
              char message[CLI_MESSAGE_MAX]);

/* Of a flag of the command; asking for one that it does not have is our own mistake. */
bool cli_given(const struct cli_arguments *arguments, const char *flag);
const char *cli_text(const struct cli_arguments *arguments, const char *flag); /* NULL: not given */
uint64_t cli_number_or(const struct cli_arguments *arguments, const char *flag, uint64_t otherwise);
const struct cli_value *cli_value(const struct cli_arguments *arguments, const char *flag);
/* NULL: not given. */
const char *cli_positional(const struct cli_arguments *arguments, size_t i);

#endif
