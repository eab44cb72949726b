/* Help and the man page, from the table of commands. */
#include <ctype.h>

#include "tools/cli/commands.h"

static const struct {
    const char *option, *help;
} globals[] = {
    {"--node API", "the socket of a node's API, or its folder; default: $S2D_NODE, else "
                   "/var/lib/s2d/api.sock"},
    {"--json", "print JSON, for programs: sizes in bytes, times in RFC 3339"},
    {"--yes", "do not ask"},
    {"--help", "say more: s2d NOUN --help, s2d NOUN VERB --help"},
    {"--version", "print the version"},
};

static const struct {
    int status;
    const char *meaning;
} statuses[] = {
    {CLI_DONE, "done"},
    {CLI_FAILED, "refused or failed: one line on standard error says what, why, what to do"},
    {CLI_USAGE, "the command line makes no sense"},
    {CLI_UNREACHABLE, "the node or the cluster cannot be reached, or has no quorum"},
};

static void print_usage(FILE *out, const struct cli_command *command)
{
    fprintf(out, "s2d %s", command->noun);
    if (command->verb[0])
        fprintf(out, " %s", command->verb);
    if (command->positionals[0])
        fprintf(out, " %s", command->positionals);
    for (const struct cli_flag *flag = command->flags; flag && flag->name; flag++) {
        fprintf(out, flag->required ? " --%s" : " [--%s", flag->name);
        if (flag->value)
            fprintf(out, " %s", flag->value);
        fputs(flag->required ? "" : "]", out);
        fputs(flag->type == CLI_TEXTS ? "..." : "", out);
    }
}

static void print_globals(FILE *out)
{
    fputs("\nOptions of every command:\n", out);
    for (size_t i = 0; i < ARRAY_SIZE(globals); i++)
        fprintf(out, "  %-12s %s\n", globals[i].option, globals[i].help);
}

static void print_command(FILE *out, const struct cli_command *command)
{
    fputs("usage: ", out);
    print_usage(out, command);
    fprintf(out, "\n\n%s\n", command->help);
    if (command->flags)
        fputc('\n', out);
    for (const struct cli_flag *flag = command->flags; flag && flag->name; flag++) {
        char option[64];

        snprintf(option, sizeof(option), "--%s%s%s", flag->name, flag->value ? " " : "",
                 flag->value ? flag->value : "");
        fprintf(out, "  %-28s %s\n", option, flag->help);
    }
    if (command->properties & CLI_DESTRUCTIVE)
        fputs("\nIt asks before it does so; without a terminal it wants --yes.\n", out);
    print_globals(out);
}

void cli_print_help(FILE *out, const char *noun, const struct cli_command *command)
{
    const char *last = "";

    if (command) {
        print_command(out, command);
        return;
    }
    fputs("usage: s2d [--node API] [--json] NOUN VERB ...\n\n", out);
    for (const struct cli_command *c = cli_commands; c->noun; c++) {
        char name[64];

        if ((c->properties & CLI_HIDDEN) || (noun && strcmp(noun, c->noun) != 0))
            continue;
        if (last[0] && strcmp(last, c->noun) != 0)
            fputc('\n', out);
        last = c->noun;
        snprintf(name, sizeof(name), "%s %s", c->noun, c->verb);
        fprintf(out, "  %-24s %s\n", name, c->help);
    }
    if (!noun) /* a program of its own (tools/fsck): it asks no node */
        fputs("\n  fsck                     Checks the disks of nodes that are stopped: s2d fsck "
              "--help.\n",
              out);
    print_globals(out);
}

/* ---- the man page ---- */

/* Text of roff: a dash is escaped, so that it can be copied; so is a backslash. */
static void print_roff(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '-' || *text == '\\')
            fputc('\\', out);
        fputc(*text, out);
    }
}

static void print_man_command(FILE *out, const struct cli_command *command)
{
    char *usage = NULL;
    size_t length;
    FILE *text = open_memstream(&usage, &length);

    if (!text)
        abort();
    print_usage(text, command);
    fclose(text);
    fputs(".TP\n.B \"", out);
    print_roff(out, usage);
    fputs("\"\n", out);
    free(usage);
    print_roff(out, command->help);
    fputc('\n', out);
    for (const struct cli_flag *flag = command->flags; flag && flag->name; flag++) {
        fputs(".RS\n.TP\n.B \"", out);
        print_roff(out, "--");
        print_roff(out, flag->name);
        if (flag->value) {
            fputc(' ', out);
            print_roff(out, flag->value);
        }
        fputs("\"\n", out);
        print_roff(out, flag->help);
        fputs("\n.RE\n", out);
    }
}

void cli_print_man(FILE *out)
{
    const char *last = "";

    fputs(".\\\" Made by 's2d --man' from the table of commands (tools/cli/commands.c).\n"
          ".TH S2D 1 \"\" s2d \"s2d manual\"\n"
          ".SH NAME\ns2d \\- manage a cluster that stores and runs virtual machines\n"
          ".SH SYNOPSIS\n.B s2d\n[\\fB\\-\\-node\\fR \\fIAPI\\fR] [\\fB\\-\\-json\\fR] "
          "[\\fB\\-\\-yes\\fR] \\fINOUN VERB\\fR ...\n"
          ".SH DESCRIPTION\nSpeaks to the API of one node, and any node answers for the whole "
          "cluster. Sizes take K, M, G and T, powers of two. Verbs that make something return when "
          "it can be used; verbs that destroy something ask first, and without a terminal want "
          "\\-\\-yes.\n.SH OPTIONS\n",
          out);
    for (size_t i = 0; i < ARRAY_SIZE(globals); i++) {
        fputs(".TP\n.B \"", out);
        print_roff(out, globals[i].option);
        fputs("\"\n", out);
        print_roff(out, globals[i].help);
        fputc('\n', out);
    }
    for (const struct cli_command *command = cli_commands; command->noun; command++) {
        if (command->properties & CLI_HIDDEN)
            continue;
        if (strcmp(last, command->noun) != 0) {
            fputs(".SH ", out);
            for (const char *c = command->noun; *c; c++)
                fputc(toupper((unsigned char)*c), out);
            fputc('\n', out);
        }
        last = command->noun;
        print_man_command(out, command);
    }
    fputs(".SH NODES THAT ARE STOPPED\n.TP\n.B \"s2d fsck [\\-\\-repair] NODE\\-FOLDER ...\"\n"
          "Checks their disks: superblocks, logs, extent tables, checksums, all copies of all "
          "volumes, and the file systems on them. Give the folders of as many nodes as can be "
          "reached (/var/lib/s2d on a server). Nothing is changed; \\-\\-repair writes damaged "
          "superblocks again from their twins, all else is mended by the daemon.\n",
          out);
    fputs(".SH EXIT STATUS\n", out);
    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
        fprintf(out, ".TP\n.B %d\n", statuses[i].status);
        print_roff(out, statuses[i].meaning);
        fputc('\n', out);
    }
    fputs(".SH ENVIRONMENT\n.TP\n.B S2D_NODE\nwhich node to ask, as \\-\\-node.\n"
          ".SH SEE ALSO\n.BR s2dd (1)\n",
          out);
}
