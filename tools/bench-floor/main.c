/* bench-floor: what a replicated 4 KiB write costs on this machine when nothing but the unavoidable
 * is done.
 *
 *   client ==unix==> owner ==tcp==> replica 1, replica 2       four processes, one thread each
 *
 * A write travels as an NBD request (28 bytes and the block). The owner copies it, hashes it, sends
 * it to both replicas, then logs it; each replica copies it out of the stream and logs it. A log
 * has one RWF_DSYNC write in flight: a batch of a header block and the blocks that came meanwhile,
 * appended at once when the log is idle. Acks are cumulative; the owner replies when all three logs
 * hold the write. A read is one O_DIRECT read of the owner's file. No file system, no lookups, no
 * locks, no checks, no destage: that is the product's own cost, and `tools/bench` prints it as a
 * ratio to this program.
 *
 * The files are written before they are measured: a log over unwritten blocks pays for metadata at
 * every sync. One line of JSON to a job; times are in microseconds. Byte order is the machine's:
 * both ends are this program. */
#include "tools/bench-floor/client.h"
#include <getopt.h>
#include <stdio.h>

static const char usage_text[] =
    "usage: bench-floor --dir DIR [--seconds S] [--log-bytes BYTES] [JOB:DEPTH…]\n"
    "JOB: write, read or mix (70 % reads); DEPTH: 1 to 32; default: write:1 read:1 write:32 "
    "read:32 mix:32\n"
    "DIR gets three log files of BYTES (default 256 MiB, whole MiB); they stay for the next run.\n";

static bool parse_job(const char *text, struct job *ret_job)
{
    char end;

    return sscanf(text, "%15[a-z]:%u%c", ret_job->name, &ret_job->depth, &end) == 2 &&
           ret_job->depth >= 1 && ret_job->depth <= DEPTH_MAX &&
           (strcmp(ret_job->name, "write") == 0 || strcmp(ret_job->name, "read") == 0 ||
            strcmp(ret_job->name, "mix") == 0);
}

static void usage_error(void)
{
    fputs(usage_text, stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"dir", required_argument, NULL, 'd'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {"log-bytes", required_argument, NULL, 'l'},
                                            {0}};
    static char *all_jobs[] = {"write:1", "read:1", "write:32", "read:32", "mix:32", NULL};
    const char *folder = NULL;
    double seconds = 5;
    uint64_t log_bytes = 256 * MIB;
    struct cluster cluster;
    struct job job;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'd')
            folder = optarg;
        else if (option == 's')
            seconds = strtod(optarg, NULL);
        else if (option == 'l')
            log_bytes = ALIGN_DOWN(strtoull(optarg, NULL, 10), MIB);
        else
            usage_error();
    }
    char **jobs = optind < argc ? argv + optind : all_jobs;
    if (folder == NULL || !(seconds > 0 && seconds < 3600) || log_bytes < MIB)
        usage_error();
    for (char **text = jobs; *text != NULL; text++)
        if (!parse_job(*text, &job))
            usage_error();

    cluster_start(&cluster, folder, log_bytes);
    for (char **text = jobs; *text != NULL && parse_job(*text, &job); text++)
        client_run_job(&cluster, &job, (uint64_t)(seconds * (double)SEC));
    cluster_stop(&cluster);
    return EXIT_SUCCESS;
}
