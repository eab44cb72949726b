/* A whole cluster in one process: the code of the daemon from the exports' lower edge down to the
 * disks, on simulated machines, under faults, with clients whose every answer is judged. One seed
 * is one run. See sim_world.h for the parts, tests/README.md for how to work with it.
 *
 *   cluster_sim [--seed S] [--runs N] [--seconds V] [--nodes N] [--caches N] [--faults LIST]
 * [--vms N] [--groups BLOCKS] [--forget MS] [--shared] [--stalls] [--log]
 *
 * --caches gives each node so many cache disks at first, --vms the world so many virtual machines,
 * --groups the file systems groups of so many blocks (0: as large as in a daemon), --forget has
 * them drop what is on disk from RAM each so many ms (0: never), and --shared all clients write the
 * same blocks, whatever the seed says. --stalls has databases and disks hang
 * besides; no seed does by itself.
 *
 * Exit status 0: every run was as it should be. 1: one was not; its last words begin with
 * "FAILED seed S: ". */
#include <getopt.h>
#include <limits.h>
#include <malloc.h>

#include "tests/sim/sim_check.h"
#include "tests/sim/sim_faults.h"
#include "tests/sim/sim_vms.h"

static void print_figures(const struct world *world, double virtual_seconds, uint64_t hash)
{
    struct history_counts history = history_count(world->history);
    const struct shape *shape = &world->shape;
    unsigned kinds = fault_kind_count();
    struct vm_counts vms = world->vms ? *vms_counts(world->vms) : (struct vm_counts){0};

    printf("seed %llu: %u nodes, %s%s%s%s%s%s%s%s, %.0f virtual seconds, %llu reads, %llu writes, "
           "%llu "
           "unknown, "
           "%llu file operations, %llu copies, %llu restores, %llu flushes, %llu VM starts, %llu "
           "VM writes, "
           "%llu ms longest wait, transcript %016llx; faults:",
           (unsigned long long)world->options.seed, shape->nodes, shape->volumes[0].resiliency,
           shape->volume_count > 1 ? " and " : "",
           shape->volume_count > 1 ? shape->volumes[1].resiliency : "",
           shape->hard_disks   ? " and cached hard disks"
           : shape->caches > 0 ? " and cached flash"
                               : "",
           shape->vms > 0 ? " and VMs" : "", shape->group_blocks > 0 ? " and small groups" : "",
           shape->forget_ns > 0 ? " and little RAM" : "",
           shape->shared_writes ? " and shared blocks" : "", virtual_seconds,
           (unsigned long long)history.reads, (unsigned long long)history.writes,
           (unsigned long long)history.unknown, (unsigned long long)world->counts.file_operations,
           (unsigned long long)world->counts.copies, (unsigned long long)world->counts.restores,
           (unsigned long long)world->counts.flushes, (unsigned long long)vms.starts,
           (unsigned long long)vms.writes,
           (unsigned long long)(world->lost_count ? 0 : world->counts.longest_wait_ns / MS),
           (unsigned long long)hash);
    for (unsigned i = 0; i < kinds; i++) {
        if (faults_happened(world->faults, i))
            printf(" %s=%u;", fault_kind_name(i), faults_happened(world->faults, i));
    }
    printf("%s\n", world->lost_count ? " lost"
                   : world->cramped  ? " cramped"
                   : world->exposed  ? " exposed"
                                     : "");
    fflush(stdout);
}

/* What is told at the end of every run that went well. The place for other tables of a run. */
static void at_run_end(struct world *world, uint64_t hash)
{
    print_figures(world, (double)world_now_ns(world) / 1e9, hash);
}

static void run(const struct run_options *options)
{
    struct world *world = world_new(options);

    world_set_up(world);
    world->faults = faults_plan(world);
    faults_run(world);
    check_end(world);
    at_run_end(world, sim_transcript_hash(world->sim));
    world_free(world);
}

static const struct option long_options[] = {
    {"seed", required_argument, NULL, 's'},
    {"runs", required_argument, NULL, 'r'},
    {"seconds", required_argument, NULL, 'v'},
    {"nodes", required_argument, NULL, 'n'},
    {"caches", required_argument, NULL, 'c'},
    {"faults", required_argument, NULL, 'f'},
    {"vms", required_argument, NULL, 'm'},
    {"shared", no_argument, NULL, 'w'},
    {"groups", required_argument, NULL, 'g'},
    {"forget", required_argument, NULL, 'o'},
    {"stalls", no_argument, NULL, 't'},
    {"log", no_argument, NULL, 'l'},
    {NULL, 0, NULL, 0},
};

static int usage(void)
{
    fprintf(stderr, "usage: cluster_sim [--seed S] [--runs N] [--seconds V] [--nodes N] "
                    "[--caches 0-2] [--vms 0-3] [--groups BLOCKS] [--forget MS] [--faults "
                    "LIST|none] [--shared] "
                    "[--stalls] [--log]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct run_options options = {.seed = 1,
                                  .caches = CACHES_BY_SEED,
                                  .vms = VMS_BY_SEED,
                                  .groups = GROUPS_BY_SEED,
                                  .forget_ms = FORGET_BY_SEED};
    uint64_t runs = 1;
    int option;

    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        switch (option) {
        case 's':
            options.seed = strtoull(optarg, NULL, 10);
            break;
        case 'r':
            runs = strtoull(optarg, NULL, 10);
            break;
        case 'v':
            options.seconds = strtoull(optarg, NULL, 10);
            break;
        case 'w':
            options.shared = true;
            break;
        case 't':
            options.stalls = true;
            break;
        case 'm':
            options.vms = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'g':
            options.groups = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'o':
            options.forget_ms = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'n':
            options.nodes = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'c':
            options.caches = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'f':
            options.faults = strcmp(optarg, "none") == 0 ? "" : optarg;
            break;
        case 'l':
            options.log = true;
            break;
        default:
            return usage();
        }
    }
    if (optind != argc)
        return usage();
    /* A run leaves hundreds of megabytes; the next one takes them up again. */
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024);
    for (uint64_t i = 0; i < runs; i++, options.seed++)
        run(&options);
    return 0;
}
