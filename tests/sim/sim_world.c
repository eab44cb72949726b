/* Machines and what their programs do: a node as in the daemon, set up once by commands as an
 * administrator gives them, and the clients of this run on top. A machine that was down starts as a
 * member, from what its disks and its key-value store hold. */
#include "tests/sim/sim_world.h"

#include <stdarg.h>

#include "s2d/base/checksum.h"
#include "s2d/base/io_backend.h"
#include "s2d/cluster/liveness.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/sim_faults.h"
#include "tests/sim/sim_vms.h"
#include "tests/sim/sim_workload.h"

#define PORT 7800
#define ASK_NS (500 * MS) /* between two requests for a token */
#define PATIENCE_NS (5 * SEC)
#define PATIENCE_AGAIN_NS SEC
#define VM_RESTART_DELAY_MS 3000
#define GROUPS_STREAM 1
#define FORGET_STREAM 2
#define FLUSH_STREAM 3

uint64_t world_now_ns(const struct world *world)
{
    return sim_now_ns(world->sim);
}

uint64_t world_draw(struct world *world, uint64_t count)
{
    return sim_random(world->sim) % count;
}

void disk_path_of(const struct world *world, unsigned disk, char ret_path[DISK_PATH_MAX])
{
    const char *media = disk >= MACHINE_CAPACITY_MAX ? "nvme"
                        : world->shape.hard_disks    ? "hdd"
                                                     : "ssd";

    snprintf(ret_path, DISK_PATH_MAX, DISK_FOLDER "%s%u", media, disk);
}

/* ---- what the seed chooses ---- */

static unsigned choose_nodes(struct world *world)
{
    static const unsigned often[] = {3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 5, 2, 1, 6, 6};

    if (world->options.nodes)
        return MIN(world->options.nodes, MACHINES_MAX);
    if (world_draw(world, 100) == 0)
        return 7 + (unsigned)world_draw(world, MACHINES_MAX - 6);
    return often[world_draw(world, sizeof(often) / sizeof(*often))];
}

/* Parity where there are nodes enough: its faults are others than a mirror's. */
static void choose_resiliency(struct world *world, struct volume_shape *volume)
{
    unsigned nodes = world->shape.nodes;

    volume->data_columns = 0;
    if (world->options.plain) {
        volume->resiliency = "mirror3";
        return;
    }
    volume->resiliency = nodes < 3 || world_draw(world, 4) == 0 ? "mirror2" : "mirror3";
    if (nodes >= 4 && world_draw(world, 2) == 0) {
        volume->resiliency = "parity2";
        volume->data_columns = nodes >= 6 && world_draw(world, 2) ? 4 : 2;
    }
}

/* Mostly one; a second one is of its own resiliency and has an owner of its own. */
static void choose_volumes(struct world *world)
{
    static const char *const names[SHAPE_VOLUMES_MAX] = {"v", "w"};
    struct shape *shape = &world->shape;

    shape->volume_count = 1 + (world_draw(world, 4) == 0 && !world->options.plain);
    for (unsigned i = 0; i < shape->volume_count; i++) {
        struct volume_shape *volume = &shape->volumes[i];

        volume->name = names[i];
        volume->bytes = 64 * MIB;
        volume->thin = world_draw(world, 4) != 0 || shape->volume_count > 1;
        choose_resiliency(world, volume);
    }
}

/* In a third of the runs, of these mostly for hard disks, which have a read cache there besides
 * their logs. Not from the world's draws: a seed without them is the run that it was before. */
static void choose_caches(struct world *world)
{
    static const unsigned often[] = {1, 1, 1, 2};
    uint64_t draw = hash64(&world->options.seed, sizeof(world->options.seed));
    struct shape *shape = &world->shape;

    shape->caches = draw % 3 == 0 ? often[draw / 3 % ARRAY_SIZE(often)] : 0;
    if (world->options.plain)
        shape->caches = 0;
    else if (world->options.caches != CACHES_BY_SEED)
        shape->caches = MIN(world->options.caches, CACHES_AT_FIRST_MAX);
    shape->hard_disks = shape->caches > 0 && draw / 12 % 3 > 0;
}

/* In a fifth of the runs. Not from the world's draws either. */
static void choose_vms(struct world *world)
{
    uint64_t draw = hash64(&world->options.seed, sizeof(world->options.seed)) >> 32;
    struct shape *shape = &world->shape;

    shape->vms = draw % 5 == 0 ? 1 + (unsigned)(draw / 5 % VMS_IN_WORLD_MAX) : 0;
    if (world->options.plain)
        shape->vms = 0;
    else if (world->options.vms != VMS_BY_SEED)
        shape->vms = MIN(world->options.vms, (unsigned)VMS_IN_WORLD_MAX);
}

/* In a sixth of the runs without VMs, and not from the world's draws either. */
static void choose_sharing(struct world *world)
{
    uint64_t draw = hash64(&world->options.seed, sizeof(world->options.seed));
    struct shape *shape = &world->shape;

    shape->shared_writes = (draw >> 32) % 6 == 4 && shape->vms == 0 && !world->options.plain;
    shape->shared_writes |= world->options.shared;
    shape->in_place = shape->shared_writes;
    for (unsigned i = 0; i < shape->volume_count; i++)
        shape->in_place = shape->in_place && shape->volumes[i].data_columns == 0;
    if (shape->in_place)
        shape->copy_clients = shape->trim_percent = 0;
}

/* A number of the seed that takes none of the world's draws: a seed's other choices stay. */
static uint64_t draw_apart(const struct world *world, uint64_t stream)
{
    uint64_t words[] = {world->options.seed, stream};

    return hash64(words, sizeof(words));
}

/* In a third of the runs a volume has many groups, as large ones have: of one or two for a slab,
 * and the last is short. Not from the world's draws either. */
static void choose_groups(struct world *world)
{
    static const uint32_t sizes[] = {512, 576, 1024, 4032};
    uint64_t draw = draw_apart(world, GROUPS_STREAM);

    world->shape.group_blocks = 0;
    if (world->options.groups != GROUPS_BY_SEED)
        world->shape.group_blocks = world->options.groups;
    else if (draw % 3 == 0 && !world->options.plain)
        world->shape.group_blocks = sizes[draw / 3 % ARRAY_SIZE(sizes)];
}

/* In a quarter of the runs the RAM for trees and maps is short, as of large volumes: again and
 * again others need it all. */
static void choose_memory(struct world *world)
{
    static const uint64_t pauses_ns[] = {20 * MS, 50 * MS, 300 * MS, 2 * SEC};
    uint64_t draw = draw_apart(world, FORGET_STREAM);

    world->shape.forget_ns = 0;
    if (world->options.forget_ms != FORGET_BY_SEED)
        world->shape.forget_ns = world->options.forget_ms * MS;
    else if (draw % 4 == 0 && !world->options.plain)
        world->shape.forget_ns = pauses_ns[draw / 4 % ARRAY_SIZE(pauses_ns)];
}

/* In half of the runs. Not from the world's draws either. */
static void choose_flushes(struct world *world)
{
    static const unsigned percents[] = {0, 0, 3, 20};

    world->shape.flush_percent = percents[draw_apart(world, FLUSH_STREAM) % ARRAY_SIZE(percents)];
}

static void choose_shape(struct world *world)
{
    struct shape *shape = &world->shape;
    static const uint64_t seconds[] = {3, 4, 5, 6, 8, 10, 15, 25};

    shape->nodes = choose_nodes(world);
    shape->disks = shape->nodes == 1 ? 2 + (unsigned)world_draw(world, 2)
                                     : 1 + (unsigned)world_draw(world, 8) / 5;
    shape->extent_bytes = 4 * MIB << world_draw(world, 2);
    shape->log_bytes = 32 * MIB << world_draw(world, 2);
    shape->disk_bytes = shape->log_bytes + 160 * MIB;
    choose_caches(world);
    choose_volumes(world);
    shape->seconds = seconds[world_draw(world, sizeof(seconds) / sizeof(*seconds))];
    if (world->options.seconds)
        shape->seconds = world->options.seconds;
    shape->block_clients = 1 + (unsigned)world_draw(world, 3);
    shape->file_clients = (unsigned)world_draw(world, 3);
    shape->copy_clients = world_draw(world, 2) ? 1 + (unsigned)world_draw(world, 3) : 0;
    shape->blocks = 8 << world_draw(world, 6);
    shape->request_blocks_max = 1 << world_draw(world, 5);
    shape->think_ns_max = (4 * MS << world_draw(world, 5)) * (shape->nodes > 4 ? 4 : 1);
    shape->write_percent = 20 + (unsigned)world_draw(world, 60);
    shape->trim_percent = world_draw(world, 2) ? (unsigned)world_draw(world, 10) : 0;
    choose_vms(world);
    choose_sharing(world);
    choose_groups(world);
    choose_memory(world);
    choose_flushes(world);
}

/* ---- a machine's program: setting up ---- */

static void must(struct machine *machine, int r, const char *what, const char *message)
{
    if (r < 0 && !machine->stopping)
        world_fail(machine->world, "node %u: %s: %s (%s)", machine->number, what, strerror(-r),
                   message);
}

int co_machine_claim(struct machine *machine, unsigned disk)
{
    struct node_message message = {{0}};
    /* At first a cache disk is told from the others by being faster. Later there may be no other.
     */
    const char *role = disk >= MACHINE_CAPACITY_MAX && machine->created ? "cache" : NULL;
    char path[DISK_PATH_MAX];
    uint64_t id;
    int r;

    disk_path_of(machine->world, disk, path);
    r = co_node_claim_disk(machine->node, path, role, &id, &message);
    if (r == -EEXIST) { /* the power went in the first write of a claim: we are told to wipe it */
        wipe_disk(machine->world, machine, disk);
        r = co_node_claim_disk(machine->node, path, role, &id, &message);
    }
    machine->disks[disk].claimed = r == 0 || r == -EALREADY;
    return r;
}

static void co_claim_all(struct machine *machine)
{
    for (unsigned i = 0; i < machine->world->shape.disks && !machine->stopping; i++)
        must(machine, co_machine_claim(machine, i), "claim", "");
    for (unsigned i = 0; i < machine->world->shape.caches && !machine->stopping; i++)
        must(machine, co_machine_claim(machine, MACHINE_CAPACITY_MAX + i), "claim", "");
    machine->created = true;
}

static void co_create_pool(struct machine *machine)
{
    struct command_result result;

    co_node_propose(machine->node,
                    json_pack("{s:s,s:I}", "verb", "pool.create", "extent_bytes",
                              (json_int_t)machine->world->shape.extent_bytes),
                    &result);
    must(machine, result.code, "pool", result.message);
    command_result_done(&result);
}

static int co_open_exports(struct machine *machine)
{
    if (!machine->world->vms || machine->stopping || !node_is_member(machine->node))
        return 0;
    return co_exports_open(machine, &machine->exports);
}

static void co_wait_for_others(struct machine *machine)
{
    struct world *world = machine->world;

    for (unsigned other = 2; other <= world->shape.nodes && !machine->stopping; other++) {
        while (!world->machines[other].created && co_sleep_ns(10 * MS) == 0)
            ;
    }
}

/* The first machine makes everything, and lets the others in one by one. */
static void co_create_cluster(struct machine *machine)
{
    struct world *world = machine->world;
    struct node_message message = {{0}};

    must(machine, co_node_create_cluster(machine->node, "sim", &message), "create", message.text);
    for (unsigned other = 2; other <= world->shape.nodes && !machine->stopping; other++) {
        must(machine, co_node_make_token(machine->node, world->token, &message), "token",
             message.text);
        world->token_for = other;
        while (world->token_for && co_sleep_ns(10 * MS) == 0)
            ;
    }
    co_create_pool(machine);
    co_claim_all(machine);
    co_wait_for_others(machine);
    for (unsigned i = 0; i < world->shape.volume_count; i++) {
        const struct volume_shape *volume = &world->shape.volumes[i];

        must(machine,
             co_node_create_volume(machine->node, volume->name, volume->bytes, volume->resiliency,
                                   volume->data_columns, volume->thin, 0, &message),
             "volume", message.text);
    }
    must(machine, co_workload_prepare(machine), "create the shared file", "");
    must(machine, co_open_exports(machine), "exports", "");
    must(machine, co_vms_set_up(machine), "make and start the VMs", "");
    world->ready = !machine->stopping;
}

static void co_join_cluster(struct machine *machine)
{
    struct world *world = machine->world;
    struct node_message message = {{0}};

    while (world->token_for != machine->number && co_sleep_ns(10 * MS) == 0)
        ;
    must(machine, co_node_join(machine->node, "10.83.0.1:7800", world->token, &message), "join",
         message.text);
    world->token_for = 0;
    while (!database_cluster(node_database(machine->node))->extent_bytes &&
           co_sleep_ns(10 * MS) == 0)
        ;
    co_claim_all(machine);
}

/* In the place of a node that was lost. Goes on until it is done. A join whose answer was lost has
 * left a node of this name behind: then it tries under another. */
static void co_join_again(struct machine *machine)
{
    struct world *world = machine->world;
    struct node_message message = {{0}};
    uint64_t ask_ns = 0;
    int r = 0;

    while (!machine->stopping && !node_is_member(machine->node) && r != -EEXIST) {
        if (world->token_for == machine->number) {
            r = co_node_join(machine->node, world->token_address, world->token, &message);
            world->token_for = 0;
            world_tell(world, "node %u joins in life %u: %s", machine->number, machine->life,
                       r < 0 ? message.text : "done");
        } else if (world_now_ns(world) >= ask_ns) {
            admin_ask_token(machine);
            ask_ns = world_now_ns(world) + ASK_NS;
        } else if (co_sleep_ns(10 * MS) < 0) {
            return;
        }
    }
    machine->created = node_is_member(machine->node);
    if (!machine->created && !machine->stopping) {
        machine->life++;
        machine_leave(machine);
    }
}

/* ---- a machine's program ---- */

void machine_note_lease(struct machine *machine)
{
    struct liveness *liveness = machine->node ? node_liveness(machine->node) : NULL;

    if (liveness)
        machine->lease_until_ns = MAX(machine->lease_until_ns, liveness_lease_expires_ns(liveness));
}

static void end_program(struct machine *machine)
{
    machine_note_lease(machine);
    machine->stopping = true;
    co_cond_broadcast(&machine->stop);
}

static void on_crash(void *arg)
{
    struct machine *machine = arg;

    kv_disk_freeze(machine->kv_disk); /* a batch that is being written is there already, or never */
    end_program(machine);
}

static void on_fatal(void *arg, const char *reason)
{
    struct machine *machine = arg;

    if (!machine->stopping)
        world_fail(machine->world, "node %u cannot go on: %s", machine->number, reason);
}

static void on_change(void *arg, const struct database_change *changes, size_t count)
{
    struct machine *machine = arg;

    check_changes(machine, changes, count);
    exports_changed(machine->exports);
}

static void on_lease(void *arg, uint64_t expires_ns)
{
    struct machine *machine = arg;

    machine_note_lease(machine);
    exports_lease(machine->exports, expires_ns);
}

void machine_node_name(const struct machine *machine, char ret_name[NODE_TEXT_MAX])
{
    snprintf(ret_name, NODE_TEXT_MAX, "node%u", machine->number);
    if (machine->life > 0)
        snprintf(ret_name, NODE_TEXT_MAX, "node%ux%u", machine->number, machine->life);
}

void machine_address(const struct machine *machine, char ret_address[NODE_TEXT_MAX])
{
    snprintf(ret_address, NODE_TEXT_MAX, "10.83.0.%u:%u", machine->number, PORT + machine->life);
}

static int co_start_node(struct machine *machine, struct io *io, struct kv *kv)
{
    char name[NODE_TEXT_MAX], listen[NODE_TEXT_MAX];
    struct node_options options = {.name = name,
                                   .listen = listen,
                                   .folder = "/s2d",
                                   .kv = kv,
                                   .cold_start_grace_ns = 5 * SEC,
                                   .unreadable_wait_ns = 60 * SEC,
                                   .disk_log_bytes = machine->world->shape.log_bytes,
                                   .group_blocks = machine->world->shape.group_blocks,
                                   .on_fatal = on_fatal,
                                   .vm_restart_delay_ms = VM_RESTART_DELAY_MS,
                                   .on_change = on_change,
                                   .on_lease = on_lease,
                                   .arg = machine};

    machine_node_name(machine, name);
    machine_address(machine, listen);
    return co_node_start(io, &options, &machine->node);
}

static void co_be_a_node(struct machine *machine)
{
    if (!machine->created && machine->life > 0)
        co_join_again(machine);
    else if (!machine->created && machine->number == 1)
        co_create_cluster(machine);
    else if (!machine->created)
        co_join_cluster(machine);
    if (!machine->exports)
        must(machine, co_open_exports(machine), "exports", "");
    workload_start(machine);
    while (!machine->stopping && co_cond_wait(&machine->stop) == 0)
        ;
}

/* As s2dd has it (main.c): what a client here asked for may wait for a node that is away. */
static void lose_patience(void *arg)
{
    struct machine *machine = arg;

    exports_cut_off(machine->exports);
    node_drop_volumes(machine->node);
    io_timer_arm(node_io(machine->node), &machine->patience,
                 io_now_ns(node_io(machine->node)) + PATIENCE_AGAIN_NS);
}

static void co_stop_clients(struct machine *machine, struct io *io)
{
    io_timer_init(&machine->patience, lose_patience, machine);
    admin_cancel(machine);
    if (machine->leaving && machine->node)
        io_timer_arm(io, &machine->patience, io_now_ns(io) + PATIENCE_NS);
    co_exports_stop(machine->exports);
    if (machine->node && node_csv(machine->node))
        csv_stop(node_csv(machine->node));
    co_group_wait(&machine->tasks);
    co_exports_close(take_ptr(machine->exports));
    io_timer_disarm(io, &machine->patience);
}

static void machine_main(struct io *io, void *arg)
{
    struct machine *machine = arg;
    struct kv *kv;
    int r;

    must(machine, kv_memory_open(machine->kv_disk, &kv), "key-value store", "");
    r = co_start_node(machine, io, kv);
    must(machine, r, "start", "");
    if (r == 0)
        co_be_a_node(machine);
    co_stop_clients(machine, io);
    co_node_stop(take_ptr(machine->node), machine->leaving);
    kv_close(kv);
    if (machine->leaving)
        io_stop(io);
}

void machine_start(struct machine *machine)
{
    struct world *world = machine->world;

    assert(!machine_is_up(machine));
    machine->stopping = false;
    machine->leaving = false;
    machine->returns = false;
    machine->tidying = false;
    machine->node = NULL;
    co_cond_init(&machine->stop);
    co_group_init(&machine->tasks);
    list_init(&machine->acts);
    check_node_starts(machine);
    if (sim_start(world->sim, machine->number, machine_main, machine) < 0)
        world_fail(world, "machine %u does not start", machine->number);
    sim_on_crash(world->sim, machine->number, on_crash, machine);
}

void machine_crash(struct machine *machine, enum sim_crash_kind kind)
{
    sim_crash(machine->world->sim, machine->number, kind);
}

void machine_leave(struct machine *machine)
{
    machine->leaving = true;
    machine->leave_ns = world_now_ns(machine->world);
    end_program(machine);
}

/* Names what it waits for. */
static void fail_leaving(struct machine *machine)
{
    char text[400] = "";

    list_for_each (node, &sim_io(machine->world->sim, machine->number)->coroutines) {
        size_t length = strlen(text);

        snprintf(text + length, sizeof(text) - length, " %s", co_alive_name(node));
    }
    world_fail(machine->world, "node %u has not stopped in %d s; its coroutines:%s",
               machine->number, (int)(LEAVE_NS / SEC), text);
}

void machines_check_leaving(struct world *world)
{
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct machine *machine = &world->machines[i];

        if (machine->leaving && machine_is_up(machine) && machine->hurts == 0 &&
            world_now_ns(world) > MAX(machine->leave_ns, machine->hurt_ns) + LEAVE_NS)
            fail_leaving(machine);
    }
}

void machine_replace(struct machine *machine)
{
    char path[DISK_PATH_MAX];

    assert(!machine_is_up(machine));
    assert(!machine->lost_kv_disk); /* once in a run */
    machine->lost_kv_disk = machine->kv_disk;
    if (kv_disk_new(&machine->kv_disk) < 0)
        abort();
    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
        disk_path_of(machine->world, i, path);
        if (machine->disks[i].exists)
            sim_disk_set_fault(machine->world->sim, machine->number, path, SIM_DISK_DEAD);
        machine->disks[i].dead = machine->disks[i].exists;
    }
    if (machine->world->vms)
        keepers_forget(vms_keepers(machine->world->vms), machine->number);
    machine->created = false;
    machine->life++;
}

bool machine_spawn(struct machine *machine, const char *name, co_fn *fn, void *arg)
{
    if (!machine_is_up(machine) || machine->stopping || !machine->node)
        return false;
    return co_group_spawn(&machine->tasks, node_io(machine->node), name, fn, arg) == 0;
}

struct machine *world_any_member(struct world *world, unsigned from)
{
    for (unsigned i = 0; i < world->shape.nodes; i++) {
        struct machine *machine = &world->machines[1 + (from + i) % world->shape.nodes];

        if (machine_is_up(machine) && machine->node && !machine->stopping &&
            node_is_member(machine->node))
            return machine;
    }
    return NULL;
}

/* ---- a world's life ---- */

static void make_machine(struct world *world, unsigned number)
{
    struct machine *machine = &world->machines[number];
    char path[DISK_PATH_MAX];

    machine->world = world;
    machine->number = number;
    if (kv_disk_new(&machine->kv_disk) < 0)
        abort();
    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
        if (i < MACHINE_CAPACITY_MAX ? i >= world->shape.disks
                                     : i - MACHINE_CAPACITY_MAX >= world->shape.caches)
            continue;
        disk_path_of(world, i, path);
        machine->disks[i].exists = true;
        if (sim_disk_create(world->sim, number, path, world->shape.disk_bytes) < 0)
            abort();
    }
}

struct world *world_new(const struct run_options *options)
{
    struct sim_options sim_options = sim_default_options(options->seed);
    struct world *world = calloc(1, sizeof(*world));

    if (!world || sim_new(&sim_options, &world->sim) < 0)
        abort();
    world->options = *options;
    report_for(world);
    if (options->log)
        sim_set_transcript(world->sim, stdout);
    choose_shape(world);
    world->too_much = world->shape.nodes > 1 && world_draw(world, 33) == 0;
    world->rotten = 1 + (unsigned)world_draw(world, world->shape.nodes);
    world->history = history_new();
    world->workload = workload_new(world);
    world->vms = vms_of_world_new(world);
    world->invariants = invariants_new();
    for (unsigned i = 1; i <= world->shape.nodes; i++)
        make_machine(world, i);
    return world;
}

void world_free(struct world *world)
{
    sim_free(world->sim);
    for (unsigned i = 1; i <= world->shape.nodes; i++)
        kv_disk_free(world->machines[i].kv_disk);
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        if (world->machines[i].lost_kv_disk)
            kv_disk_free(world->machines[i].lost_kv_disk);
    }
    faults_free(world->faults);
    invariants_free(world->invariants);
    vms_of_world_free(world->vms);
    workload_free(world->workload);
    history_free(world->history);
    report_for(NULL);
    free(world);
}

static bool is_ready(void *arg)
{
    return ((struct world *)arg)->ready;
}

void world_set_up(struct world *world)
{
    for (unsigned i = 1; i <= world->shape.nodes; i++)
        machine_start(&world->machines[i]);
    if (!world_run(world, world_now_ns(world) + SETUP_NS, is_ready))
        world_fail(world, "the cluster was not set up in %d s", (int)(SETUP_NS / SEC));
}

/* How often it is asked: some answers cost as much as a thousand steps. */
#define DONE_NS (5 * MS)

static void forget(struct world *world)
{
    if (world->shape.forget_ns == 0 || world_now_ns(world) < world->forget_at_ns)
        return;
    world->forget_at_ns = world_now_ns(world) + world->shape.forget_ns;
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        if (world->machines[i].node)
            node_forget_metadata(world->machines[i].node);
    }
}

static bool after_step(void *arg)
{
    check_step(arg);
    room_look(arg);
    forget(arg);
    return false;
}

bool world_run(struct world *world, uint64_t until_ns, bool (*done)(void *world))
{
    for (;;) {
        uint64_t now_ns = world_now_ns(world);

        if (done && done(world))
            return true;
        if (now_ns >= until_ns)
            return false;
        sim_run(world->sim, done ? MIN(now_ns + DONE_NS, until_ns) : until_ns, after_step, world);
    }
}
