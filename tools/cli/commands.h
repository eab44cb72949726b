/* commands: the one table of what s2d does; help, man page and parser follow it. */
#ifndef S2D_CLI_COMMANDS_H
#define S2D_CLI_COMMANDS_H

#include <stdio.h>

#include "tools/cli/arguments.h"

extern const struct cli_command cli_commands[];
extern const struct cli_later cli_later[];

/* noun NULL: everything; command NULL: all verbs of the noun. */
void cli_print_help(FILE *out, const char *noun, const struct cli_command *command);
/* s2d.1, in the man page format. */
void cli_print_man(FILE *out);

/* The program. argv: with its name. Returns the exit status. */
int cli_main(int argc, char **argv);

typedef int cli_run(struct cli *cli, const struct cli_arguments *arguments);
/* verbs_cluster.c */
cli_run run_cluster_create, run_cluster_join, run_cluster_token, run_cluster_status,
    run_cluster_health, run_cluster_events, run_cluster_quorum;
cli_run run_node_list, run_node_show, run_node_drain, run_node_resume, run_node_evict;
/* verbs_storage.c */
cli_run run_disk_list, run_disk_show, run_disk_claim, run_disk_retire, run_disk_replace,
    run_development_fail_disk, run_development_slow_disk;
cli_run run_pool_create, run_pool_set, run_pool_status;
cli_run run_volume_create, run_volume_list, run_volume_show, run_volume_resize, run_volume_move,
    run_volume_delete, run_volume_check, run_snapshot_create, run_snapshot_list,
    run_snapshot_delete, run_snapshot_restore;
/* verbs_file.c */
cli_run run_file_ls, run_file_create, run_file_clone, run_file_rm, run_file_import, run_file_export;
/* verbs_vm.c */
cli_run run_vm_create, run_vm_list, run_vm_show, run_vm_start, run_vm_stop, run_vm_shutdown,
    run_vm_kill, run_vm_console, run_vm_delete;
/* verbs_job.c */
cli_run run_job_list, run_job_show, run_job_watch, run_job_pause, run_job_resume;
/* verbs_perf.c */
cli_run run_perf, run_perf_top;

#endif
