/* options: what the daemon is started with: one table, for the command line, the configuration file
 * and --help. */
#ifndef S2D_NODE_OPTIONS_H
#define S2D_NODE_OPTIONS_H

#include <stdio.h>

#include "s2d/base/base.h"

struct daemon_options {
    char dir[512];
    char name[64];
    char listen[120];
    char log_level[16];
    char accel[16];
    char fuse[8]; /* "yes" or "no" */
    uint64_t cold_start_grace_ms;
    uint64_t rebuild_floor_mib;
    uint64_t vm_restart_delay_ms;
};

enum options_result { OPTIONS_RUN, OPTIONS_DONE, OPTIONS_WRONG };

/* Reads defaults, then the file named by --config (lines "name = value", '#' comments), then the
 * command line. Prints --help and
 * --version to out, and what is wrong to err: what, why, what to do. */
enum options_result options_parse(int argc, char **argv, FILE *out, FILE *err,
                                  struct daemon_options *ret_options);

#endif
