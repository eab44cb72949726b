/* Keepers, the folders that they and the daemon share, and QEMUs, of all machines. They are no part
 * of any daemon's program: a keeper takes its turns as planned calls of the world, on its machine's
 * clock, and its QEMU is a process placed on the machine (sim_place()). So they live on when a
 * daemon dies or stands still, and die with their host.
 *
 * A folder outlives the host's power, with its record of who kept; the end that a keeper writes
 * down does not come when the power went first. */
#include "s2d/base/json.h"
#include "tests/sim/sim_vms.h"

#include "hv/keeper_turn.h"
#include "s2d/base/sometimes.h"

#define SIGNAL_KILL 9
#define SIGNAL_FAULT 11
#define EXIT_LOOK_NS (20 * MS) /* a daemon's, at a keeper's pidfd */

struct folder {
    struct list node; /* keepers->folders */
    unsigned machine;
    char path[128];
    struct keeper *last; /* who kept here last; NULL: nobody */
    bool recorded;       /* its record is there */
};

struct keeper {
    struct list node; /* keepers->all */
    struct keepers *keepers;
    struct folder *folder;
    struct keeper_memory memory;
    struct guest *guest;
    unsigned power_cuts; /* of its machine, when it was started */
    unsigned place;      /* its QEMU's machine number; 0: not started yet */
    bool alive, terminated, stopped, killed;
    bool ended_known; /* it wrote down how QEMU ended */
    int wait_status;
};

struct host {
    struct keeper_host host;
    struct keepers *keepers;
    unsigned machine;
};

struct keepers {
    struct world *world;
    struct list folders, all;
    struct host hosts[MACHINES_MAX + 1];
};

/* ---- keepers ---- */

static bool is_alive(const struct keeper *keeper)
{
    return keeper->alive && keeper->power_cuts == sim_power_cuts(keeper->keepers->world->sim,
                                                                 keeper->folder->machine);
}

static bool guest_runs(const struct keeper *keeper)
{
    return is_alive(keeper) && keeper->place && !keeper->stopped &&
           sim_is_up(keeper->keepers->world->sim, keeper->place);
}

unsigned keepers_running(struct keepers *keepers, const struct sim_vm *vm, unsigned *ret_machine)
{
    unsigned count = 0;

    list_for_each (node, &keepers->all) {
        struct keeper *keeper = list_entry(node, struct keeper, node);

        if ((vm && guest_vm(keeper->guest) != vm) || !guest_runs(keeper))
            continue;
        count++;
        if (ret_machine)
            *ret_machine = keeper->folder->machine;
    }
    return count;
}

/* Whenever one begins to run, or goes on: in between their number only falls. */
static void check_one_copy(const struct keeper *keeper)
{
    struct sim_vm *vm = guest_vm(keeper->guest);

    if (keepers_running(keeper->keepers, vm, NULL) > 1)
        world_fail(keeper->keepers->world,
                   "two copies of VM %s run: incarnation %llu on node %u is not the only one",
                   vm_name(vm), (unsigned long long)keeper->memory.incarnation,
                   keeper->folder->machine);
}

static bool is_taken(struct keepers *keepers, unsigned place)
{
    list_for_each (node, &keepers->all) {
        struct keeper *keeper = list_entry(node, struct keeper, node);

        if (keeper->place == place && is_alive(keeper))
            return true;
    }
    return sim_is_up(keepers->world->sim, place);
}

static unsigned free_place(struct keepers *keepers)
{
    unsigned place = MACHINES_MAX + 1;

    while (place <= SIM_MACHINES_MAX && is_taken(keepers, place))
        place++;
    assert(place <= SIM_MACHINES_MAX);
    return place;
}

static void start_qemu(struct keeper *keeper)
{
    struct world *world = keeper->keepers->world;

    keeper->place = free_place(keeper->keepers);
    sim_place(world->sim, keeper->place, keeper->folder->machine);
    if (sim_start(world->sim, keeper->place, guest_main, keeper->guest) < 0)
        world_fail(world, "QEMU %u does not start", keeper->place);
    world_tell(world, "VM %s: incarnation %llu starts on node %u as m%u",
               vm_name(guest_vm(keeper->guest)), (unsigned long long)keeper->memory.incarnation,
               keeper->folder->machine, keeper->place);
    vms_counts(world->vms)->starts++;
    check_one_copy(keeper);
}

static void finish(struct keeper *keeper, int wait_status)
{
    world_tell(keeper->keepers->world, "VM %s: incarnation %llu has ended on node %u: %x%s",
               vm_name(guest_vm(keeper->guest)), (unsigned long long)keeper->memory.incarnation,
               keeper->folder->machine, (unsigned)wait_status, keeper->killed ? ", killed" : "");
    keeper->wait_status = wait_status;
    keeper->ended_known = true;
    keeper->alive = false;
    atomic_store(&keeper->memory.wait_status, (uint64_t)wait_status);
    atomic_store(&keeper->memory.killed, keeper->killed);
    atomic_store(&keeper->memory.state, KEEPER_ENDED);
}

static void stop_guest(struct keeper *keeper)
{
    struct world *world = keeper->keepers->world;

    atomic_store(&keeper->memory.state, KEEPER_STOPPED);
    if (keeper->stopped)
        return;
    keeper->stopped = true;
    world_tell(world, "VM %s: incarnation %llu is stopped on node %u",
               vm_name(guest_vm(keeper->guest)), (unsigned long long)keeper->memory.incarnation,
               keeper->folder->machine);
    sim_pause(world->sim, keeper->place);
}

static void continue_guest(struct keeper *keeper)
{
    struct world *world = keeper->keepers->world;

    keeper->stopped = false;
    SOMETIMES("vms: a guest that was stopped goes on");
    world_tell(world, "VM %s: incarnation %llu goes on on node %u",
               vm_name(guest_vm(keeper->guest)), (unsigned long long)keeper->memory.incarnation,
               keeper->folder->machine);
    sim_resume(world->sim, keeper->place);
    check_one_copy(keeper);
}

static void obey(struct keeper *keeper)
{
    struct sim *sim = keeper->keepers->world->sim;

    switch (keeper_turn(&keeper->memory, sim_clock_ns(sim, keeper->folder->machine),
                        keeper->terminated)) {
    case KEEPER_NO_SIGNAL:
        break;
    case KEEPER_STOP:
        stop_guest(keeper);
        break;
    case KEEPER_CONTINUE:
        continue_guest(keeper);
        break;
    case KEEPER_KILL:
        keeper->killed = true;
        sim_crash(sim, keeper->place, SIM_PROCESS_DIES);
        finish(keeper, SIGNAL_KILL);
        break;
    }
}

/* No daemon says how long a VM may run but by its lease, which the others know of. */
static void check_deadline(const struct keeper *keeper)
{
    struct world *world = keeper->keepers->world;
    unsigned machine = keeper->folder->machine;

    machine_note_lease(&world->machines[machine]);
    if (guest_runs(keeper) &&
        sim_clock_ns(world->sim, machine) >= world->machines[machine].lease_until_ns)
        world_fail(world, "VM %s: incarnation %llu runs on node %u, whose lease is over",
                   vm_name(guest_vm(keeper->guest)), (unsigned long long)keeper->memory.incarnation,
                   machine);
}

/* Between steps. */
static void take_turn(void *arg)
{
    struct keeper *keeper = arg;
    struct sim *sim = keeper->keepers->world->sim;

    if (!is_alive(keeper))
        return;
    if (keeper->place == 0)
        start_qemu(keeper);
    if (sim_is_up(sim, keeper->place))
        obey(keeper);
    else
        finish(keeper, guest_wait_status(keeper->guest));
    check_deadline(keeper);
    if (keeper->alive &&
        sim_call_at(sim,
                    sim_now_ns(sim) + 1 +
                        keeper_wait_ns(&keeper->memory, sim_clock_ns(sim, keeper->folder->machine)),
                    take_turn, keeper) < 0)
        abort();
}

bool keepers_kill(struct keepers *keepers, const struct sim_vm *vm, bool keeper_too)
{
    list_for_each (node, &keepers->all) {
        struct keeper *keeper = list_entry(node, struct keeper, node);

        if (guest_vm(keeper->guest) != vm || !is_alive(keeper) || !keeper->place ||
            !sim_is_up(keepers->world->sim, keeper->place))
            continue;
        sim_crash(keepers->world->sim, keeper->place, SIM_PROCESS_DIES);
        if (keeper_too)
            keeper->alive = false; /* QEMU has asked to die with it */
        else
            finish(keeper, SIGNAL_FAULT);
        return true;
    }
    return false;
}

/* ---- what the daemon asks of its machine ---- */

static struct host *host_of(struct keeper_host *host)
{
    return container_of(host, struct host, host);
}

static struct folder *find_folder(struct host *host, const char *path)
{
    list_for_each (node, &host->keepers->folders) {
        struct folder *folder = list_entry(node, struct folder, node);

        if (folder->machine == host->machine && strcmp(folder->path, path) == 0)
            return folder;
    }
    return NULL;
}

static int host_list(struct keeper_host *keeper_host, const char *dir,
                     char (*ret_names)[HV_NAME_BYTES], size_t max, size_t *ret_count)
{
    struct host *host = host_of(keeper_host);

    (void)dir;
    *ret_count = 0;
    list_for_each (node, &host->keepers->folders) {
        struct folder *folder = list_entry(node, struct folder, node);

        if (folder->machine == host->machine && *ret_count < max)
            snprintf(ret_names[(*ret_count)++], HV_NAME_BYTES, "%s",
                     strrchr(folder->path, '/') + 1);
    }
    return 0;
}

static int host_prepare(struct keeper_host *keeper_host, const char *path, uint64_t vm_id,
                        const char *firmware, char ret_why[HV_REASON_BYTES])
{
    struct host *host = host_of(keeper_host);
    struct folder *folder = find_folder(host, path);

    (void)vm_id;
    (void)firmware;
    (void)ret_why;
    if (folder)
        return 0;
    folder = calloc(1, sizeof(*folder));
    if (!folder)
        abort();
    folder->machine = host->machine;
    snprintf(folder->path, sizeof(folder->path), "%s", path);
    list_push_back(&host->keepers->folders, &folder->node);
    return 0;
}

static void host_last_line(struct keeper_host *host, const char *folder,
                           char ret_line[HV_REASON_BYTES])
{
    (void)host;
    (void)folder;
    ret_line[0] = '\0';
}

static void host_trim_logs(struct keeper_host *host, const char *folder)
{
    (void)host;
    (void)folder;
}

/* The first NBD export of QEMU's command line. */
static void export_of(char *const *argv, char ret_export[HV_EXPORT_BYTES])
{
    ret_export[0] = '\0';
    for (size_t i = 0; argv[i] && !ret_export[0]; i++) {
        json_t *object = argv[i][0] == '{' ? json_loads(argv[i], 0, NULL) : NULL;
        const char *name = json_string_value(json_object_get(object, "export"));

        if (name)
            snprintf(ret_export, HV_EXPORT_BYTES, "%s", name);
        json_decref(object);
    }
}

static struct keeper *keeper_new(struct folder *folder, struct keepers *keepers,
                                 const struct keeper_order *order)
{
    struct keeper *keeper = calloc(1, sizeof(*keeper));
    char export_name[HV_EXPORT_BYTES];

    if (!keeper)
        abort();
    export_of(order->argv, export_name);
    keeper->keepers = keepers;
    keeper->folder = folder;
    keeper->memory = (struct keeper_memory){.magic = KEEPER_MAGIC,
                                            .version = KEEPER_VERSION,
                                            .vm_id = order->vm_id,
                                            .incarnation = order->incarnation,
                                            .deadline_ns = order->deadline_ns,
                                            .state = KEEPER_RUNNING};
    keeper->memory.started_ns = sim_clock_ns(keepers->world->sim, folder->machine);
    keeper->power_cuts = sim_power_cuts(keepers->world->sim, folder->machine);
    keeper->alive = true;
    keeper->guest = guest_new(&keepers->world->machines[folder->machine],
                              vm_named(keepers->world->vms, order->name), order->incarnation,
                              folder->path, export_name);
    list_push_back(&keepers->all, &keeper->node);
    return keeper;
}

static int host_start(struct keeper_host *keeper_host, const struct keeper_order *order,
                      struct keeper_link **ret_link)
{
    struct host *host = host_of(keeper_host);
    struct folder *folder = find_folder(host, order->folder);
    struct world *world = host->keepers->world;
    struct node *node = world->machines[host->machine].node;
    struct sim *sim = world->sim;

    if (!node || sim_is_dying(node_io(node))) /* its coroutines end; the real one is gone */
        return -ECANCELED;
    if (folder->last && is_alive(folder->last))
        return -EBUSY;
    folder->last = keeper_new(folder, host->keepers, order);
    folder->recorded = true;
    *ret_link = keeper_link_to(&folder->last->memory);
    if (!*ret_link || sim_call_at(sim, sim_now_ns(sim), take_turn, folder->last) < 0)
        abort();
    return 0;
}

static int host_gone(struct keeper_host *keeper_host, const char *path)
{
    const struct folder *folder = find_folder(host_of(keeper_host), path);

    return !folder || !folder->last || !is_alive(folder->last);
}

static int host_adopt(struct keeper_host *keeper_host, const char *path,
                      struct keeper_link **ret_link)
{
    const struct folder *folder = find_folder(host_of(keeper_host), path);

    if (host_gone(keeper_host, path))
        return -ENOENT;
    SOMETIMES("vms: a new daemon takes up a guest");
    *ret_link = keeper_link_to(&folder->last->memory);
    return *ret_link ? 0 : -ENOMEM;
}

static void host_terminate(struct keeper_host *keeper_host, const char *path)
{
    const struct folder *folder = find_folder(host_of(keeper_host), path);

    if (folder && folder->last)
        folder->last->terminated = true;
}

static int host_outcome(struct keeper_host *keeper_host, const char *path,
                        struct keeper_outcome *ret_outcome)
{
    const struct folder *folder = find_folder(host_of(keeper_host), path);

    if (!folder || !folder->recorded)
        return -ENOENT;
    *ret_outcome = (struct keeper_outcome){.vm_id = folder->last->memory.vm_id,
                                           .incarnation = folder->last->memory.incarnation,
                                           .known = folder->last->ended_known,
                                           .wait_status = folder->last->wait_status,
                                           .killed = folder->last->killed};
    return 0;
}

static void host_forget(struct keeper_host *keeper_host, const char *path)
{
    struct folder *folder = find_folder(host_of(keeper_host), path);

    if (folder)
        folder->recorded = false;
}

static int host_co_wait_exit(struct keeper_host *host, struct io *io, struct keeper_link *link)
{
    struct keeper *keeper =
        container_of((struct keeper_memory *)keeper_memory(link), struct keeper, memory);
    int r = 0;

    (void)host;
    (void)io;
    while (is_alive(keeper) && r == 0)
        r = co_sleep_ns(EXIT_LOOK_NS);
    return r;
}

static const struct keeper_host_ops host_ops = {
    .list = host_list,
    .prepare = host_prepare,
    .last_line = host_last_line,
    .trim_logs = host_trim_logs,
    .start = host_start,
    .adopt = host_adopt,
    .terminate = host_terminate,
    .gone = host_gone,
    .outcome = host_outcome,
    .forget = host_forget,
    .co_wait_exit = host_co_wait_exit,
};

/* ---- the world's ---- */

struct keeper_host *keepers_host(struct keepers *keepers, unsigned machine)
{
    return &keepers->hosts[machine].host;
}

void keepers_forget(struct keepers *keepers, unsigned machine)
{
    list_for_each (node, &keepers->folders) {
        struct folder *folder = list_entry(node, struct folder, node);

        if (folder->machine != machine)
            continue;
        if (folder->last && is_alive(folder->last) && folder->last->place &&
            sim_is_up(keepers->world->sim, folder->last->place))
            sim_crash(keepers->world->sim, folder->last->place, SIM_HOST_DIES);
        if (folder->last)
            folder->last->alive = false;
        folder->last = NULL;
        folder->recorded = false;
    }
}

struct keepers *keepers_new(struct world *world)
{
    struct keepers *keepers = calloc(1, sizeof(*keepers));

    if (!keepers)
        abort();
    keepers->world = world;
    list_init(&keepers->folders);
    list_init(&keepers->all);
    for (unsigned i = 0; i <= MACHINES_MAX; i++)
        keepers->hosts[i] =
            (struct host){.host = {.ops = &host_ops}, .keepers = keepers, .machine = i};
    return keepers;
}

void keepers_free(struct keepers *keepers)
{
    struct list *node;

    if (!keepers)
        return;
    while ((node = list_pop_front(&keepers->all))) {
        struct keeper *keeper = list_entry(node, struct keeper, node);

        guest_free(keeper->guest);
        free(keeper);
    }
    while ((node = list_pop_front(&keepers->folders)))
        free(list_entry(node, struct folder, node));
    free(keepers);
}
