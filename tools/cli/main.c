#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli/commands.h"

/* The offline check needs all of the daemon's layers: a program of its own, next to this one. */
static int run_fsck(char **argv)
{
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - sizeof("-fsck"));

    if (length > 0) {
        strcpy(path + length, "-fsck");
        execv(path, argv);
    }
    fprintf(stderr, "s2d: s2d-fsck, which belongs next to s2d, cannot be run: %s\n",
            strerror(errno));
    return CLI_FAILED;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "fsck") == 0)
        return run_fsck(argv + 1);
    return cli_main(argc, argv);
}
