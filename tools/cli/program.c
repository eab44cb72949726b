/* The program: parse, ask, run. */
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli/client.h"
#include "tools/cli/commands.h"

#define DEFAULT_NODE "/var/lib/s2d/api.sock"

static int tell_usage(const char *message, int status)
{
    cli_fail("%s", message);
    return status;
}

/* The socket itself, or that of a node's folder. For free(). */
static char *api_path(const char *node)
{
    struct stat status;
    char *path = NULL;

    if (!node)
        node = getenv("S2D_NODE");
    if (!node || !node[0])
        node = DEFAULT_NODE;
    if (stat(node, &status) == 0 && S_ISDIR(status.st_mode)) {
        if (asprintf(&path, "%s/api.sock", node) < 0)
            path = NULL;
        return path;
    }
    return strdup(node);
}

static void print_question(const char *question, const char *name)
{
    const char *place = strstr(question, "%s");

    if (place)
        fprintf(stderr, "%.*s%s%s", (int)(place - question), question, name, place + 2);
    else
        fputs(question, stderr);
    fputs(" [y/N] ", stderr);
}

/* Returns CLI_DONE: go on. */
static int confirm(const struct cli *cli, const struct cli_arguments *arguments)
{
    const struct cli_command *command = arguments->command;
    char answer[16] = "";

    if (!(command->properties & CLI_DESTRUCTIVE) || arguments->yes)
        return CLI_DONE;
    if (!cli->in_is_tty || !cli->err_is_tty)
        return cli_fail("'s2d %s %s' destroys something, and there is no terminal to ask on: "
                        "say --yes",
                        command->noun, command->verb);
    print_question(command->question, cli_positional(arguments, 0));
    if (!fgets(answer, sizeof(answer), stdin) || (answer[0] != 'y' && answer[0] != 'Y'))
        return cli_fail("nothing was done");
    return CLI_DONE;
}

static int run(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *term = getenv("TERM");
    int status;

    cli->arguments = arguments;
    cli->in_is_tty = isatty(STDIN_FILENO);
    cli->out_is_tty = isatty(STDOUT_FILENO);
    cli->err_is_tty = isatty(STDERR_FILENO);
    cli->colours = cli->out_is_tty && !getenv("NO_COLOR") && term && strcmp(term, "dumb") != 0;
    status = confirm(cli, arguments);
    if (status != CLI_DONE)
        return status;
    cli->path = api_path(arguments->node);
    if (!cli->path)
        return cli_fail("out of memory");
    status = http_init(&cli->http, cli->path) < 0
                 ? tell_usage("the path of the node's API is too long for a socket", CLI_USAGE)
                 : arguments->command->run(cli, arguments);
    http_done(&cli->http);
    free(cli->path);
    /* A full disk behind our output is a failure too. */
    if (fflush(stdout) != 0 && status == CLI_DONE)
        return cli_fail("the output could not be written");
    return status;
}

int cli_main(int argc, char **argv)
{
    struct cli_arguments arguments;
    struct cli cli = {0};
    char message[CLI_MESSAGE_MAX];
    int status = cli_parse(cli_commands, cli_later, argc - 1, (const char *const *)argv + 1,
                           &arguments, message);

    if (status != CLI_DONE)
        return tell_usage(message, status);
    if (arguments.version)
        puts("s2d " S2D_VERSION);
    else if (arguments.man)
        cli_print_man(stdout);
    else if (arguments.help)
        cli_print_help(stdout, arguments.noun, arguments.command);
    else
        return run(&cli, &arguments);
    return CLI_DONE;
}
