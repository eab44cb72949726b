/* A whole cluster in one process: the code of the daemon from the exports' lower edge down to the
 * disks, on simulated machines. Clients on every node write and read stamped blocks of one file
 * while machines crash, stand still, lose their power and their network. One seed is one run.
 *
 *   cluster_sim [--seed S] [--runs N] [--seconds V] [--log]
 *
 * What is checked. Each block has one writer, which gives its writes rising versions. A read (from
 * any node) must return a version that is not older than the newest one acknowledged, or read by
 * anybody, before it began, and not newer than the newest one issued before it ended: reads are
 * linearizable, and no acknowledged write is lost. I1-I10 are asserted in the code that runs. When
 * the faults stop, every column must be in-sync again within bounded virtual time, and every block
 * must read the same from every node. */
#include <stdarg.h>
#include <stdio.h>

#include "csv-export/csv.h"
#include "s2d/base/co.h"
#include "s2d/base/sim.h"
#include "s2d/cluster/consensus.h"
#include "s2d/cluster/kv.h"
#include "s2d/node/node.h"

#define MACHINES_MAX 5
#define BLOCKS 96
#define CLIENTS 3              /* on each node */
#define DISK_BYTES (512 * MIB) /* sparse; half of it is the log */
#define EXTENT_BYTES (4 * MIB)
#define VOLUME_BYTES (64 * MIB)
#define FILE_NAME "data"
#define HEAL_NS (180 * SEC)
#define PORT 7800

struct block { /* what is known of it */
    uint64_t issued, acknowledged, seen;
    bool writing;
};

struct machine {
    struct world *world;
    unsigned number;
    struct kv_disk *kv_disk;
    struct node *node;
    struct co_cond stop;
    struct co_group clients;
    bool stopping, fatal;
    bool created; /* the first machine: cluster, pool, volume and file are there */
    bool member;
    uint64_t down_until_ns; /* 0: it is up */
};

struct counts {
    uint64_t writes, reads, crashes, cuts, pauses, power_cuts, slow_disks;
};

struct world {
    struct sim *sim;
    uint64_t seed;
    unsigned nodes;
    struct machine machines[MACHINES_MAX + 1]; /* from 1 */
    struct block blocks[BLOCKS];
    char token[TOKEN_TEXT_MAX];
    unsigned token_for; /* the machine that may use it; 0: none */
    bool volume_ready;
    bool quiet; /* no faults, and clients have stopped */
    struct counts counts;
};

static void fail(struct world *world, const char *format, ...) printf_like(2, 3);
static void fail(struct world *world, const char *format, ...)
{
    va_list list;

    printf("FAILED seed %llu at %.6f s: ", (unsigned long long)world->seed,
           (double)sim_now_ns(world->sim) / 1e9);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("\nrepeat with: cluster_sim --seed %llu --log\n", (unsigned long long)world->seed);
    fflush(stdout);
    abort();
}

/* ---- stamped blocks ---- */

struct stamp {
    uint64_t block, version, writer;
};

static void fill(uint64_t *words, uint64_t block, uint64_t version)
{
    uint64_t x = block * UINT64_C(0x9e3779b97f4a7c15) + version;

    words[0] = block + 1;
    words[1] = version;
    for (size_t i = 2; i < BLOCK_SIZE / 8; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        words[i] = x;
    }
}

/* The version that the contents are; UINT64_MAX: nothing that was ever written to this block. */
static uint64_t version_of(const uint64_t *words, uint64_t block)
{
    static _Thread_local uint64_t expected[BLOCK_SIZE / 8];
    bool zero = true;

    for (size_t i = 0; zero && i < BLOCK_SIZE / 8; i++)
        zero = words[i] == 0;
    if (zero)
        return 0;
    fill(expected, block, words[1]);
    return memcmp(expected, words, BLOCK_SIZE) == 0 ? words[1] : UINT64_MAX;
}

/* ---- clients ---- */

static void client_write(struct machine *machine, struct csv_file *file, uint64_t *buffer,
                         uint64_t index)
{
    struct world *world = machine->world;
    struct block *block = &world->blocks[index];
    uint64_t version;
    int r;

    if (block->writing)
        return;
    block->writing = true;
    version = ++block->issued;
    fill(buffer, index, version);
    r = co_csv_write(file, buffer, index * BLOCK_SIZE, BLOCK_SIZE);
    block->writing = false;
    if (r == 0) {
        block->acknowledged = MAX(block->acknowledged, version);
        world->counts.writes++;
    } else if (r != -ECANCELED && r != -ESHUTDOWN) {
        fail(world, "node %u: write of block %llu: %s", machine->number, (unsigned long long)index,
             strerror(-r));
    }
}

static void client_read(struct machine *machine, struct csv_file *file, uint64_t *buffer,
                        uint64_t index)
{
    struct world *world = machine->world;
    struct block *block = &world->blocks[index];
    uint64_t oldest = MAX(block->acknowledged, block->seen), version, length;
    int r;

    r = co_csv_read(file, buffer, index * BLOCK_SIZE, BLOCK_SIZE, &length);
    if (r == -ECANCELED || r == -ESHUTDOWN)
        return;
    if (r < 0)
        fail(world, "node %u: read of block %llu: %s", machine->number, (unsigned long long)index,
             strerror(-r));
    version = version_of(buffer, index);
    if (version == UINT64_MAX || version < oldest || version > block->issued)
        fail(world,
             "node %u: block %llu reads as version %lld, which is none of [%llu acknowledged or "
             "seen, %llu issued]",
             machine->number, (unsigned long long)index, (long long)version,
             (unsigned long long)oldest, (unsigned long long)block->issued);
    block->seen = MAX(block->seen, version);
    world->counts.reads++;
}

static int co_open_file(struct machine *machine, struct csv_file **ret_file)
{
    struct csv *csv = node_csv(machine->node);
    struct csv_volume *volume = csv ? csv_volume_find(csv, "v") : NULL;
    struct csv_open open = {0};
    struct fs_attr attr;
    int r = volume ? co_csv_walk(volume, FILE_NAME, &attr) : -ENOENT;

    if (r == 0) {
        open.ino = attr.ino;
        r = co_csv_open(volume, &open, &attr, ret_file);
    }
    csv_volume_put(volume);
    return r;
}

static void client_main(void *arg)
{
    struct machine *machine = arg;
    struct world *world = machine->world;
    struct io *io = node_io(machine->node);
    struct csv_file *file = NULL;
    uint64_t *buffer = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);

    while (!machine->stopping && !world->quiet) {
        uint64_t index = sim_random(world->sim) % BLOCKS;

        if (!file && (!world->volume_ready || co_open_file(machine, &file) < 0)) {
            if (co_sleep_ns(50 * MS) < 0)
                break;
            continue;
        }
        if (sim_random(world->sim) % 2 && index % world->nodes + 1 == machine->number)
            client_write(machine, file, buffer, index);
        else
            client_read(machine, file, buffer, index);
        if (co_sleep_ns(sim_random(world->sim) % (4 * MS)) < 0)
            break;
    }
    (void)io;
    csv_file_close(file);
    free(buffer);
    co_group_done(&machine->clients);
}

/* ---- a machine's program ---- */

static void must(struct machine *machine, int r, const char *what,
                 const struct node_message *message)
{
    if (r < 0 && !machine->stopping)
        fail(machine->world, "node %u: %s: %s (%s)", machine->number, what, strerror(-r),
             message->text);
}

static void disk_path(unsigned disk, char ret_path[32])
{
    snprintf(ret_path, 32, "/disks/ssd%u", disk);
}

static void co_claim(struct machine *machine)
{
    struct node_message message = {{0}};
    char path[32];
    uint64_t id;

    disk_path(0, path);
    must(machine, co_node_claim_disk(machine->node, path, NULL, &id, &message), "claim", &message);
}

static void co_create_file(struct machine *machine)
{
    struct csv_volume *volume = csv_volume_find(node_csv(machine->node), "v");
    struct fs_new new = {.mode = 0100644};
    struct fs_attr attr;
    int r;

    if (!volume)
        fail(machine->world, "the new volume is not exported");
    r = co_csv_create(volume, FS_ROOT_INO, FILE_NAME, &new, &attr);
    if (r == 0)
        r = co_csv_truncate(volume, attr.ino, BLOCKS * BLOCK_SIZE, &attr);
    csv_volume_put(volume);
    must(machine, r, "create the file", &(struct node_message){{0}});
}

/* The first machine makes everything, and lets the others in one by one. */
static void co_create_cluster(struct machine *machine)
{
    struct world *world = machine->world;
    struct node_message message = {{0}};
    struct command_result result;

    must(machine, co_node_create_cluster(machine->node, "sim", &message), "create", &message);
    for (unsigned other = 2; other <= world->nodes && !machine->stopping; other++) {
        must(machine, co_node_make_token(machine->node, world->token, &message), "token", &message);
        world->token_for = other;
        while (world->token_for && co_sleep_ns(10 * MS) == 0)
            ;
    }
    co_node_propose(
        machine->node,
        json_pack("{s:s,s:I}", "verb", "pool.create", "extent_bytes", (json_int_t)EXTENT_BYTES),
        &result);
    must(machine, result.code, "pool", &message);
    command_result_done(&result);
    co_claim(machine);
    for (unsigned other = 2; other <= world->nodes && !machine->stopping; other++) {
        while (!world->machines[other].created && co_sleep_ns(10 * MS) == 0)
            ;
    }
    must(machine,
         co_node_create_volume(machine->node, "v", VOLUME_BYTES,
                               world->nodes >= 3 ? "mirror3" : "mirror2", true, 0, &message),
         "volume", &message);
    co_create_file(machine);
    machine->created = true;
    world->volume_ready = true;
}

static void co_join_cluster(struct machine *machine)
{
    struct world *world = machine->world;
    struct node_message message = {{0}};

    while (world->token_for != machine->number && co_sleep_ns(10 * MS) == 0)
        ;
    must(machine, co_node_join(machine->node, "10.83.0.1:7800", world->token, &message), "join",
         &message);
    world->token_for = 0;
    while (!database_cluster(node_database(machine->node))->extent_bytes &&
           co_sleep_ns(10 * MS) == 0)
        ;
    co_claim(machine);
    machine->created = true;
}

static void on_crash(void *arg)
{
    struct machine *machine = arg;

    machine->stopping = true;
    co_cond_broadcast(&machine->stop);
}

static void on_fatal(void *arg, const char *reason)
{
    struct machine *machine = arg;

    if (!machine->stopping)
        fail(machine->world, "node %u cannot go on: %s", machine->number, reason);
}

/* A daemon that cannot take its disks or address yet is started again, as a service manager does.
 */
static int co_start_node(struct machine *machine, struct io *io, struct kv *kv)
{
    char name[16], listen[32];
    struct node_options options = {.name = name,
                                   .listen = listen,
                                   .folder = "/s2d",
                                   .kv = kv,
                                   .cold_start_grace_ns = 5 * SEC,
                                   .on_fatal = on_fatal,
                                   .arg = machine};

    snprintf(name, sizeof(name), "node%u", machine->number);
    snprintf(listen, sizeof(listen), "10.83.0.%u:%d", machine->number, PORT);
    return co_node_start(io, &options, &machine->node);
}

static void machine_main(struct io *io, void *arg)
{
    struct machine *machine = arg;
    struct kv *kv;
    int r;

    r = kv_memory_open(machine->kv_disk, &kv);
    if (r == 0)
        r = co_start_node(machine, io, kv);
    if (r < 0 && !machine->stopping)
        fail(machine->world, "node %u does not start: %s", machine->number, strerror(-r));
    if (r == 0 && !machine->created && machine->number == 1)
        co_create_cluster(machine);
    else if (r == 0 && !machine->created)
        co_join_cluster(machine);
    for (unsigned i = 0; r == 0 && i < CLIENTS && !machine->stopping; i++) {
        co_group_add(&machine->clients, 1);
        if (co_spawn(io, "client", client_main, machine) < 0)
            co_group_done(&machine->clients);
    }
    while (!machine->stopping && co_cond_wait(&machine->stop) == 0)
        ;
    if (machine->node && node_csv(machine->node))
        csv_stop(node_csv(machine->node));
    co_group_wait(&machine->clients);
    co_node_stop(take_ptr(machine->node), false);
    kv_close(kv);
}

/* ---- faults ---- */

static unsigned count_down(const struct world *world)
{
    unsigned down = 0;

    for (unsigned i = 1; i <= world->nodes; i++)
        down += world->machines[i].down_until_ns != 0;
    return down;
}

static void start_machine(struct world *world, unsigned number)
{
    struct machine *machine = &world->machines[number];

    machine->down_until_ns = 0;
    machine->stopping = false;
    machine->node = NULL;
    co_cond_init(&machine->stop);
    co_group_init(&machine->clients);
    if (sim_start(world->sim, number, machine_main, machine) < 0)
        fail(world, "machine %u does not start", number);
    sim_on_crash(world->sim, number, on_crash, machine);
}

static void crash_machine(struct world *world, unsigned number, enum sim_crash_kind kind,
                          uint64_t for_ns)
{
    sim_crash(world->sim, number, kind);
    world->machines[number].down_until_ns = sim_now_ns(world->sim) + for_ns;
    world->counts.crashes++;
}

static void all_power_lost(struct world *world)
{
    uint64_t for_ns = sim_random(world->sim) % (2 * SEC);

    for (unsigned i = 1; i <= world->nodes; i++) {
        if (!world->machines[i].down_until_ns)
            crash_machine(world, i, SIM_HOST_DIES, for_ns + sim_random(world->sim) % SEC);
    }
    world->counts.power_cuts++;
}

static void one_fault(struct world *world)
{
    unsigned number = 1 + sim_random(world->sim) % world->nodes;
    unsigned other = 1 + (number + sim_random(world->sim) % (world->nodes - 1)) % world->nodes;
    uint64_t for_ns = 100 * MS + sim_random(world->sim) % (8 * SEC);
    char path[32];

    if (world->machines[number].down_until_ns)
        return;
    switch (sim_random(world->sim) % 8) {
    case 0:
    case 1:
        if (count_down(world) < 1)
            crash_machine(world, number, SIM_PROCESS_DIES, for_ns);
        break;
    case 2:
        if (count_down(world) < 1)
            crash_machine(world, number, SIM_HOST_DIES, for_ns);
        break;
    case 3:
        sim_cut(world->sim, number, other);
        if (sim_random(world->sim) % 2)
            sim_cut(world->sim, other, number);
        world->counts.cuts++;
        break;
    case 4: /* off from everybody */
        for (unsigned i = 1; i <= world->nodes; i++) {
            if (i != number) {
                sim_cut(world->sim, number, i);
                sim_cut(world->sim, i, number);
            }
        }
        world->counts.cuts++;
        break;
    case 5:
        sim_pause(world->sim, number);
        world->counts.pauses++;
        break;
    case 6:
        disk_path(0, path);
        sim_disk_set_slowdown(world->sim, number, path, 1 + (double)(sim_random(world->sim) % 200));
        world->counts.slow_disks++;
        break;
    case 7:
        if (sim_random(world->sim) % 4 == 0)
            all_power_lost(world);
        else
            sim_break_connections(world->sim, number, other);
        break;
    }
}

static void mend(struct world *world, bool all)
{
    char path[32];

    disk_path(0, path);
    for (unsigned i = 1; i <= world->nodes; i++) {
        struct machine *machine = &world->machines[i];

        if (machine->down_until_ns && (all || sim_now_ns(world->sim) >= machine->down_until_ns))
            start_machine(world, i);
        if (all || sim_random(world->sim) % 4 == 0) {
            if (sim_is_up(world->sim, i))
                sim_resume(world->sim, i);
            sim_disk_set_slowdown(world->sim, i, path, 1);
        }
    }
    if (all || sim_random(world->sim) % 3 == 0)
        sim_heal_all(world->sim);
}

/* ---- the end of a run ---- */

static bool is_healthy(void *arg)
{
    struct world *world = arg;

    for (unsigned i = 1; i <= world->nodes; i++) {
        struct node *node = world->machines[i].node;
        struct database *database = node ? node_database(node) : NULL;
        const struct slab_record *slab;
        const struct node_record *record;

        if (!database || database_count(database, TABLE_SLAB) == 0)
            return false;
        for (size_t j = 0; (record = database_at(database, TABLE_NODE, j)); j++) {
            if (record->state != NODE_UP)
                return false;
        }
        for (size_t j = 0; (slab = database_at(database, TABLE_SLAB, j)); j++) {
            for (uint64_t k = 0; k < slab->column_count; k++) {
                if (slab->columns[k].state != COLUMN_RECORD_IN_SYNC)
                    return false;
            }
        }
    }
    return true;
}

struct reading {
    struct machine *machine;
    bool done;
};

static void read_all_main(void *arg)
{
    struct reading *reading = arg;
    uint64_t *buffer = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    struct csv_file *file = NULL;

    while (co_open_file(reading->machine, &file) < 0) {
        if (co_sleep_ns(50 * MS) < 0)
            break;
    }
    for (uint64_t index = 0; file && index < BLOCKS; index++)
        client_read(reading->machine, file, buffer, index);
    csv_file_close(file);
    free(buffer);
    reading->done = true;
}

static bool reading_done(void *arg)
{
    return ((struct reading *)arg)->done;
}

static void check_end(struct world *world)
{
    mend(world, true);
    if (!sim_run(world->sim, sim_now_ns(world->sim) + HEAL_NS, is_healthy, world))
        fail(world, "not healthy %llu s after the last fault", (unsigned long long)(HEAL_NS / SEC));
    world->quiet = true;
    sim_run(world->sim, sim_now_ns(world->sim) + SEC, NULL, NULL);
    for (unsigned i = 1; i <= world->nodes; i++) {
        struct reading reading = {.machine = &world->machines[i]};

        if (co_spawn(sim_io(world->sim, i), "read-all", read_all_main, &reading) < 0 ||
            !sim_run(world->sim, sim_now_ns(world->sim) + 30 * SEC, reading_done, &reading))
            fail(world, "node %u cannot read everything", i);
    }
}

/* ---- one run ---- */

struct run_options {
    uint64_t seconds;
    bool log;
};

static bool volume_is_ready(void *arg)
{
    return ((struct world *)arg)->volume_ready;
}

static uint64_t run(uint64_t seed, const struct run_options *options, struct counts *counts)
{
    struct sim_options sim_options = sim_default_options(seed);
    struct world *world = calloc(1, sizeof(*world));
    uint64_t end_ns, hash, virtual_ns;
    char path[32];

    sim_options.torn_writes = true;
    world->seed = seed;
    world->nodes = 3;
    if (!world || sim_new(&sim_options, &world->sim) < 0)
        abort();
    if (options->log)
        sim_set_transcript(world->sim, stdout);
    disk_path(0, path);
    for (unsigned i = 1; i <= world->nodes; i++) {
        world->machines[i].world = world;
        world->machines[i].number = i;
        if (kv_disk_new(&world->machines[i].kv_disk) < 0 ||
            sim_disk_create(world->sim, i, path, DISK_BYTES) < 0)
            abort();
        start_machine(world, i);
    }
    if (!sim_run(world->sim, 120 * SEC, volume_is_ready, world))
        fail(world, "the cluster was not set up in 120 s");
    end_ns = sim_now_ns(world->sim) + options->seconds * SEC;
    while (sim_now_ns(world->sim) < end_ns) {
        sim_run(world->sim, sim_now_ns(world->sim) + sim_random(world->sim) % (3 * SEC), NULL,
                NULL);
        mend(world, false);
        one_fault(world);
    }
    check_end(world);
    for (unsigned i = 1; i <= world->nodes; i++)
        sim_crash(world->sim, i, SIM_PROCESS_DIES);
    hash = sim_transcript_hash(world->sim);
    virtual_ns = sim_now_ns(world->sim);
    sim_free(world->sim);
    for (unsigned i = 1; i <= world->nodes; i++)
        kv_disk_free(world->machines[i].kv_disk);
    *counts = world->counts;
    printf("seed %llu: %llu writes, %llu reads; %llu crashes, %llu power cuts, %llu cuts, %llu "
           "pauses, "
           "%llu slow disks; %.0f virtual seconds; transcript %016llx\n",
           (unsigned long long)seed, (unsigned long long)counts->writes,
           (unsigned long long)counts->reads, (unsigned long long)counts->crashes,
           (unsigned long long)counts->power_cuts, (unsigned long long)counts->cuts,
           (unsigned long long)counts->pauses, (unsigned long long)counts->slow_disks,
           (double)virtual_ns / 1e9, (unsigned long long)hash);
    fflush(stdout);
    free(world);
    return hash;
}

int main(int argc, char **argv)
{
    struct run_options options = {.seconds = 60};
    uint64_t seed = 1, runs = 1;
    struct counts counts;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--log") == 0) {
            options.log = true;
            continue;
        }
        if (i + 1 >= argc || strncmp(argv[i], "--", 2) != 0) {
            fprintf(stderr, "usage: cluster_sim [--seed S] [--runs N] [--seconds V] [--log]\n");
            return 2;
        }
        if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--runs") == 0)
            runs = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seconds") == 0)
            options.seconds = strtoull(argv[i + 1], NULL, 10);
        i++;
    }
    for (uint64_t i = 0; i < runs; i++)
        run(seed + i, &options, &counts);
    /* The whole run again: the same seed must give the same transcript, to the byte. */
    if (runs > 1 && run(seed, &options, &counts) != run(seed, &options, &counts)) {
        printf("FAILED: seed %llu gave two different runs\n", (unsigned long long)seed);
        return 1;
    }
    return 0;
}
