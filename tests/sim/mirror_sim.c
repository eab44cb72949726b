/* The mirror over real stores and the real bus, on simulated machines, with a database that is one
 * object: it applies commands in order and shows each node its state with a delay, or not at all.
 * Clients on the owner's node write stamped blocks while machines lose their processes or their
 * power, stand still, are cut off, and disks get slow.
 *
 *   mirror_sim [--seed S] [--runs N] [--data K] [--aimed] [--rot] [--log] [--transcript]
 *
 * --data K: parity, K+2, on as many nodes, or one more. --rot: mirror_sim_rot.c. --aimed: not any
 * faults, but schedules that are aimed: mirror_sim_aimed.c.
 *
 * One disk of a run may rot, while all copies are whole; and a column may be replaced by a new one.
 *
 * Checked throughout: no acknowledged write is lost, every column that counts holds it, and a block
 * that shows the last write or an unanswered one shows it from then on. Checked at the end:
 * everything heals in bounded virtual time, and all copies are the same. What the code that runs
 * asserts of I1-I10, and what follows from these checks only: tests/README.md, "What is asserted
 * where". */
#include "tests/sim/mirror_sim.h"

#include <getopt.h>

void sim_fail(struct cluster *cluster, const char *what, const char *file, int line)
{
    fprintf(stderr, "mirror_sim: seed %llu at %.6f s, %s:%d: %s\n",
            (unsigned long long)cluster->seed, (double)sim_now_ns(cluster->sim) / 1e9, file, line,
            what);
    abort();
}

/* ---- faults ---- */

static void start_node(struct node *node)
{
    node->down_until_ns = 0;
    node->disk_fails = false;
    node->hand_over = false;
    sim_disk_set_fault(node->cluster->sim, node->number, DISK_PATH, SIM_DISK_OK);
    node->delay_ns = draw(node->cluster, 10 * MS);
    check(node->cluster, sim_start(node->cluster->sim, node->number, node_main, node) == 0);
}

void crash_node(struct node *node, enum sim_crash_kind kind, uint64_t down_ns)
{
    struct cluster *cluster = node->cluster;

    if (node->paused_until_ns > 0) {
        node->paused_until_ns = 0;
        sim_resume(cluster->sim, node->number);
    }
    sim_crash(cluster->sim, node->number, kind);
    node->down_until_ns = sim_now_ns(cluster->sim) + down_ns;
    cluster->count.crashes++;
}

static void crash_all(struct cluster *cluster)
{
    for (unsigned i = 1; i <= cluster->node_count; i++) {
        if (sim_is_up(cluster->sim, i))
            crash_node(&cluster->nodes[i], SIM_HOST_DIES, draw(cluster, 2 * SEC));
    }
}

static uint64_t some_time(struct cluster *cluster)
{
    return draw(cluster, 3) == 0 ? draw(cluster, 8 * SEC) : draw(cluster, 600 * MS);
}

static bool is_whole(struct cluster *cluster);

/* Flips a bit in the place of a block, on the one disk of this run that rots, while every column is
 * in-sync. */
static void rot(struct cluster *cluster)
{
    struct node *node = &cluster->nodes[1 + cluster->seed % cluster->node_count];
    const struct vdisk_config *config = config_now(cluster);
    uint64_t number = draw(cluster, cluster->block_count), offset;
    const struct column_config *columns = vdisk_config_slab(config, number / cluster->slab_blocks);
    uint32_t row = row_of(cluster, number);
    uint8_t byte;

    if (!is_whole(cluster) || !node->claimed)
        return;
    for (uint32_t i = 0; i < config->width; i++) {
        if (columns[i].node != node->number)
            continue;
        offset = disk_block_offset(&node->geometry, columns[i].where.extent, row) +
                 draw(cluster, BLOCK_SIZE);
        check(cluster, sim_disk_peek(cluster->sim, node->number, DISK_PATH, offset, &byte, 1) == 0);
        byte ^= (uint8_t)(1u << draw(cluster, 8));
        check(cluster, sim_disk_poke(cluster->sim, node->number, DISK_PATH, offset, &byte, 1) == 0);
        for (uint32_t column = 0; column < cluster->data_columns; column++)
            cluster->blocks[block_at(cluster, number, column)].rotten = true;
        cluster->count.rotten++;
    }
}

static uint64_t node_without(const struct cluster *cluster, const struct column_config *columns)
{
    for (unsigned number = 1; number <= cluster->node_count; number++) {
        bool here = false;

        for (uint32_t i = 0; i < cluster->width; i++)
            here = here || columns[i].node == number;
        if (!here)
            return number;
    }
    return 0;
}

/* A stale column gets a new extent: on the node that has none of the slab's if there is one, else
 * where it is. */
static void replace_column(struct cluster *cluster)
{
    struct vdisk_config *config = config_edit(cluster);
    uint32_t slab = (uint32_t)draw(cluster, SLABS), index = (uint32_t)draw(cluster, config->width);
    struct column_config *columns = &config->columns[slab * config->width];
    uint64_t number = node_without(cluster, columns);

    if (columns[0].disk == 0 || columns[index].state != COLUMN_STALE) {
        vdisk_config_put(config);
        return;
    }
    if (number == 0)
        number = columns[index].node;
    columns[index] = (struct column_config){
        .disk = 10 + number,
        .node = number,
        .where = {.extent = slab, .generation = cluster->raft_index},
        .state = COLUMN_STALE,
    };
    config_publish(cluster, config);
    cluster->count.replaced++;
}

static void fault(struct cluster *cluster)
{
    struct node *node = &cluster->nodes[1 + draw(cluster, cluster->node_count)];
    unsigned other = 1 + (unsigned)draw(cluster, cluster->node_count);
    struct sim *sim = cluster->sim;
    bool up = sim_is_up(sim, node->number);

    switch (draw(cluster, 20)) {
    case 0:
    case 1:
        if (up)
            crash_node(node, SIM_PROCESS_DIES, some_time(cluster));
        break;
    case 2:
    case 3:
        if (up)
            crash_node(node, SIM_HOST_DIES, some_time(cluster));
        break;
    case 4:
        if (up && node->paused_until_ns == 0) {
            sim_pause(sim, node->number);
            node->paused_until_ns = sim_now_ns(sim) + 1 + some_time(cluster);
        }
        break;
    case 5:
        sim_cut(sim, node->number, other);
        break;
    case 6:
        for (unsigned i = 1; i <= cluster->node_count; i++) {
            sim_cut(sim, node->number, i);
            sim_cut(sim, i, node->number);
        }
        node->raft_cut = true;
        break;
    case 7:
        node->raft_cut = !node->raft_cut;
        break;
    case 8:
    case 9:
        sim_heal_all(sim);
        node->raft_cut = false;
        break;
    case 10:
        sim_disk_set_slowdown(sim, node->number, DISK_PATH, 1 + (double)draw(cluster, 300));
        break;
    case 11:
        sim_disk_set_slowdown(sim, node->number, DISK_PATH, 1);
        break;
    case 12: /* in a row: what was under way is sent again, and that is lost too */
        for (uint64_t i = 0; other != node->number && i <= draw(cluster, 8); i++) {
            sim_break_connections(sim, node->number, other);
            run_for(cluster, draw(cluster, 20 * MS));
        }
        break;
    case 13:
        if (draw(cluster, 4) == 0)
            crash_all(cluster);
        else if (up && node->paused_until_ns == 0)
            sim_crash_at_write(sim, node->number, 1 + draw(cluster, 50));
        break;
    case 14:
        if (up) {
            sim_disk_set_fault(sim, node->number, DISK_PATH, SIM_DISK_WRITE_ERRORS);
            node->disk_fails = true;
        }
        break;
    case 15:
    case 16:
        cluster->nodes[config_now(cluster)->owner].hand_over = true;
        break;
    case 17:
        replace_column(cluster);
        break;
    case 18:
    case 19:
        for (unsigned i = 0; cluster->seed % 2 == 0 && i < 20; i++)
            rot(cluster);
        break;
    }
}

void heal(struct cluster *cluster)
{
    sim_heal_all(cluster->sim);
    for (unsigned i = 1; i <= cluster->node_count; i++) {
        struct node *node = &cluster->nodes[i];

        sim_disk_set_slowdown(cluster->sim, i, DISK_PATH, 1);
        sim_crash_at_write(cluster->sim, i, 0);
        node->raft_cut = false;
        node->paused_until_ns = MIN(node->paused_until_ns, 1u);
        node->down_until_ns = MIN(node->down_until_ns, 1u);
        if (node->disk_fails && sim_is_up(cluster->sim, i)) /* a store does not forgive its disk */
            crash_node(node, SIM_PROCESS_DIES, 0);
    }
}

/* One step of virtual time, and what happens between steps. */
static void step(struct cluster *cluster)
{
    uint64_t now_ns = sim_now_ns(cluster->sim);

    for (unsigned i = 1; i <= cluster->node_count; i++) {
        struct node *node = &cluster->nodes[i];

        if (node->paused_until_ns > 0 && now_ns >= node->paused_until_ns) {
            node->paused_until_ns = 0;
            if (sim_is_up(cluster->sim, i))
                sim_resume(cluster->sim, i);
        }
        if (!sim_is_up(cluster->sim, i) && now_ns >= node->down_until_ns)
            start_node(node);
    }
    lead(cluster);
    sim_run(cluster->sim, now_ns + STEP_NS, NULL, NULL);
}

void run_for(struct cluster *cluster, uint64_t duration_ns)
{
    uint64_t until_ns = sim_now_ns(cluster->sim) + duration_ns;

    while (sim_now_ns(cluster->sim) < until_ns)
        step(cluster);
}

static bool is_whole(struct cluster *cluster)
{
    const struct vdisk_config *config = config_now(cluster);
    struct node *owner = &cluster->nodes[config->owner];

    for (size_t i = 0; i < (size_t)SLABS * config->width; i++) {
        if (config->columns[i].disk != 0 && config->columns[i].state != COLUMN_IN_SYNC)
            return false;
    }
    return owner->mirror && owner->serving_session == config->session &&
           mirror_ready(owner->mirror);
}

/* Nobody can bring a column up from a copy that has lost a block; in parity, two columns more. */
static bool is_lost(struct cluster *cluster)
{
    const struct vdisk_config *config = config_now(cluster);

    for (uint64_t number = 0; number < cluster->block_count; number++) {
        const struct column_config *columns =
            vdisk_config_slab(config, number / cluster->slab_blocks);
        uint32_t stale = 0;

        for (uint32_t i = 0; cluster->blocks[number].rotten && i < config->width; i++)
            stale += columns[i].state == COLUMN_STALE;
        if (stale >= (cluster->data_columns == 1 ? 1 : PARITY_COLUMNS))
            return true;
    }
    return false;
}

static void await_whole(struct cluster *cluster)
{
    uint64_t until_ns = sim_now_ns(cluster->sim) + HEAL_NS;

    while (!is_whole(cluster)) {
        if (sim_now_ns(cluster->sim) >= until_ns && is_lost(cluster))
            return;
        check(cluster, sim_now_ns(cluster->sim) < until_ns);
        step(cluster);
    }
}

/* ---- a run ---- */

static void begin(struct cluster *cluster)
{
    struct vdisk_config *config = NULL;

    check(cluster, vdisk_config_new(SLABS, cluster->width, cluster->slab_blocks, &config) == 0);
    config->data_columns = cluster->data_columns;
    config->vdisk = VDISK;
    config->epoch = 1;
    config->session = 1;
    config->owner = 1;
    config->size_bytes = (uint64_t)cluster->block_count * BLOCK_SIZE;
    cluster->raft_index = 1;
    for (uint32_t slab = 0; slab < cluster->seed % (SLABS + 1); slab++)
        place_slab(cluster, config, slab);
    config_publish(cluster, config);
    for (uint64_t block = 0; block < cluster->block_count; block++)
        cluster->blocks[block].known.zero = true;
    for (unsigned i = 1; i <= cluster->node_count; i++) {
        cluster->nodes[i] = (struct node){.cluster = cluster, .number = i};
        check(cluster, sim_disk_create(cluster->sim, i, DISK_PATH, DISK_BYTES) == 0);
    }
}

void await_task(struct cluster *cluster, void (*task)(struct node *owner))
{
    cluster->task = task;
    cluster->task_done = false;
    for (int i = 0; i < 20000 && !cluster->task_done; i++)
        step(cluster);
    check(cluster, cluster->task_done);
}

void look_at_everything(struct cluster *cluster)
{
    uint64_t until_ns = sim_now_ns(cluster->sim) + HEAL_NS;

    cluster->clients_stop = true;
    while (cluster->clients_at_work > 0) {
        check(cluster, sim_now_ns(cluster->sim) < until_ns); /* every request is answered */
        step(cluster);
    }
    await_whole(cluster);
    await_task(cluster, checker_run);
    cluster->clients_stop = false;
}

static void finish(struct cluster *cluster)
{
    look_at_everything(cluster);
    for (unsigned i = 1; i <= cluster->node_count; i++)
        sim_crash(cluster->sim, i, SIM_HOST_DIES);
}

static void play(struct cluster *cluster)
{
    unsigned faults = (unsigned)draw(cluster, 40);

    run_for(cluster, 2 * SEC);
    for (unsigned i = 0; i < faults; i++) {
        fault(cluster);
        run_for(cluster, draw(cluster, 4) == 0 ? draw(cluster, 4 * SEC) : draw(cluster, 300 * MS));
    }
    heal(cluster);
    await_whole(cluster);
    run_for(cluster, 2 * SEC);
    check(cluster, cluster->count.writes > 0);
    await_whole(cluster);
}

/* data_columns 1: a mirror on three nodes; else parity, with a node to spare in every other run. */
static void choose_shape(struct cluster *cluster, uint32_t data_columns)
{
    cluster->data_columns = data_columns;
    cluster->slab_blocks = data_columns * COLUMN_BLOCKS;
    cluster->block_count = SLABS * cluster->slab_blocks;
    cluster->width = data_columns + PARITY_COLUMNS;
    cluster->node_count = cluster->width + cluster->seed % 2;
    cluster->request_blocks = 2 * data_columns * PARITY_UNIT_BLOCKS + PARITY_UNIT_BLOCKS;
    cluster->pause_ns = 16 * MS;
    cluster->stride = 1;
    /* half of the runs meet in a few rows again and again */
    cluster->used =
        cluster->seed % 4 < 2 ? cluster->slab_blocks : 2 * data_columns * PARITY_UNIT_BLOCKS;
    if (data_columns == 1) {
        cluster->width = cluster->seed % 3 == 0 ? 2 : 3;
        cluster->node_count = 3;
        cluster->request_blocks = 16;
        cluster->pause_ns = 4 * MS;
        cluster->stride = cluster->seed % 4 < 2 ? 1 : 32;
        cluster->used = cluster->slab_blocks;
    }
}

static void run(uint64_t seed, uint32_t data_columns, void (*play_it)(struct cluster *cluster),
                bool log, bool transcript)
{
    struct sim_options options = sim_default_options(seed);
    struct cluster *cluster = calloc(1, sizeof(*cluster));

    assert(cluster);
    options.torn_writes = true;
    cluster->seed = seed;
    cluster->show_log = log;
    cluster->repeating = play_it == play_aimed && data_columns == 1;
    choose_shape(cluster, data_columns);
    check(cluster, sim_new(&options, &cluster->sim) == 0);
    if (transcript)
        sim_set_transcript(cluster->sim, stderr);
    begin(cluster);
    play_it(cluster);
    finish(cluster);
    printf("seed %llu: %.1f s, %u writes, %u reads, %u unanswered, %u repeated, %u crashes, %u "
           "takeovers, %u "
           "stale, %u in-sync, %u rewritten, %u moved, %u replaced, %u rotten, %u healed, %u lost, "
           "transcript %016llx\n",
           (unsigned long long)seed, (double)sim_now_ns(cluster->sim) / 1e9, cluster->count.writes,
           cluster->count.reads, cluster->count.unanswered, cluster->count.repeats,
           cluster->count.crashes, cluster->count.takeovers, cluster->count.stale,
           cluster->count.in_sync, cluster->count.rewritten, cluster->count.handed_over,
           cluster->count.replaced, cluster->count.rotten, cluster->count.healed,
           cluster->count.lost, (unsigned long long)sim_transcript_hash(cluster->sim));
    fflush(stdout);
    sim_free(cluster->sim);
    for (uint64_t i = 0; i < cluster->config_count; i++)
        vdisk_config_put(cluster->configs[i]);
    free(cluster);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'}, {"runs", required_argument, NULL, 'r'},
        {"data", required_argument, NULL, 'd'}, {"aimed", no_argument, NULL, 'a'},
        {"log", no_argument, NULL, 'l'},        {"transcript", no_argument, NULL, 't'},
        {"rot", no_argument, NULL, 'o'},        {0}};
    void (*play_it)(struct cluster * cluster) = play;
    uint64_t seed = 1, runs = 1, data_columns = 1;
    bool transcript = false, log = false;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            seed = strtoull(optarg, NULL, 0);
            break;
        case 'r':
            runs = strtoull(optarg, NULL, 0);
            break;
        case 'd':
            data_columns = strtoull(optarg, NULL, 0);
            break;
        case 'a':
            play_it = play_aimed;
            break;
        case 'o':
            play_it = play_rot;
            break;
        case 'l':
            log = true;
            break;
        case 't':
            transcript = true;
            break;
        default:
            fprintf(stderr, "usage: mirror_sim [--seed S] [--runs N] [--data K] [--aimed] [--rot] "
                            "[--log] [--transcript]\n");
            return 2;
        }
    }
    if (data_columns < 1 || data_columns > DATA_COLUMNS_MAX) {
        fprintf(stderr, "mirror_sim: --data takes 1 to %d\n", DATA_COLUMNS_MAX);
        return 2;
    }
    if (play_it == play_rot && data_columns == 1) {
        fprintf(stderr, "mirror_sim: --rot is of parity, it needs --data\n");
        return 2;
    }
    for (uint64_t i = 0; i < runs; i++)
        run(seed + i, (uint32_t)data_columns, play_it, log, transcript);
    return 0;
}
