/* One simulated machine: its clock, the loop's backend, a program's life and death. */
#include <inttypes.h>

#include "s2d/base/sim_world.h"

#define PPM 1000000u
#define WALL_BASE_NS (1767225600 * SEC) /* 2026-01-01 */
#define UNWIND_ROUNDS_MAX 100000        /* of a dying program that goes on and on */

/* ---- clocks ---- */

static const struct machine *clock_of(const struct machine *machine)
{
    return machine->host ?: machine;
}

/* What the clock showed at its base; a program that dies has run ahead of it. */
static uint64_t clock_base_ns(const struct machine *machine)
{
    return clock_of(machine)->clock_base_ns + machine->clock_jump_ns;
}

uint64_t machine_clock_ns(const struct machine *machine)
{
    const struct machine *clock = clock_of(machine);
    uint64_t passed_ns = machine->sim->now_ns - clock->clock_base_world_ns;

    if (clock->clock_rate_ppm == PPM) /* nearly always, and without the long division */
        return clock_base_ns(machine) + passed_ns;
    return clock_base_ns(machine) +
           (uint64_t)((unsigned __int128)passed_ns * clock->clock_rate_ppm / PPM);
}

uint64_t machine_world_ns(const struct machine *machine, uint64_t clock_ns)
{
    const struct machine *clock = clock_of(machine);
    uint64_t base_ns = clock_base_ns(machine);
    unsigned __int128 ahead;

    if (clock_ns == UINT64_MAX)
        return UINT64_MAX;
    if (clock_ns <= base_ns)
        return clock->clock_base_world_ns;
    if (clock->clock_rate_ppm == PPM)
        ahead = clock_ns - base_ns;
    else
        ahead = ((unsigned __int128)(clock_ns - base_ns) * PPM + clock->clock_rate_ppm - 1) /
                clock->clock_rate_ppm;
    if (ahead >= UINT64_MAX - clock->clock_base_world_ns)
        return UINT64_MAX;
    return clock->clock_base_world_ns + (uint64_t)ahead;
}

static void machine_set_clock(struct machine *machine, uint64_t clock_ns, uint64_t rate_ppm)
{
    machine->clock_base_ns = clock_ns;
    machine->clock_base_world_ns = machine->sim->now_ns;
    machine->clock_rate_ppm = rate_ppm;
    machine->clock_jump_ns = 0;
}

/* Machines were not switched on together. */
static void machine_boot_clock(struct machine *machine)
{
    machine_set_clock(machine, sim_rng_between(&machine->sim->world_rng, SEC, 100000 * SEC),
                      machine->clock_rate_ppm);
}

/* ---- the loop's backend ---- */

static void op_free(struct io *io)
{
    (void)io;
    assert(!"the simulator owns its loops: io_stop() or sim_crash() ends them");
}

static uint64_t op_clock_ns(struct io *io)
{
    return machine_clock_ns(machine_of_io(io));
}

static uint64_t op_wall_ns(struct io *io)
{
    return WALL_BASE_NS + machine_of_io(io)->sim->now_ns;
}

static uint64_t op_random(struct io *io)
{
    return sim_rng_next(&machine_of_io(io)->rng);
}

static bool loop_stopped(void *arg)
{
    return !((struct machine *)arg)->up;
}

/* For code that is written for one loop: the whole world runs until this machine's program has
 * stopped. */
static void op_run(struct io *io)
{
    sim_run(machine_of_io(io)->sim, UINT64_MAX, loop_stopped, machine_of_io(io));
}

static void op_post(struct io *io, struct io_task *task)
{
    list_push_back(&machine_of_io(io)->posted, &task->node);
}

struct sleeper {
    struct list node;
    struct sim_event event;
    struct machine *machine;
    struct io_op op; /* so that a machine that stands still is not woken before its time */
    struct co *co;
    int result;
};

static void sleeper_done(struct io_op *op, int result)
{
    struct sleeper *sleeper = container_of(op, struct sleeper, op);

    sleeper->result = result;
    co_wake(sleeper->co);
}

static void sleeper_end(struct sleeper *sleeper, int result)
{
    list_remove(&sleeper->node);
    sim_event_cancel(sleeper->machine->sim, &sleeper->event);
    machine_complete(sleeper->machine, &sleeper->op, result);
}

static void sleeper_fire(void *arg)
{
    sleeper_end(arg, 0);
}

int sim_co_pause(struct machine *machine, uint64_t duration_ns)
{
    struct sleeper sleeper = {.machine = machine, .co = co_self(), .op.done = sleeper_done};

    if (machine->dying)
        return -ECANCELED;
    list_push_back(&machine->sleepers, &sleeper.node);
    sim_event_init(&sleeper.event, sleeper_fire, &sleeper);
    sim_event_schedule(machine->sim, &sleeper.event, machine->sim->now_ns + duration_ns);
    co_wait();
    return sleeper.result;
}

static void note_job(struct machine *machine)
{
    struct sim *sim = machine->sim;

    if (machine->in_job_at == 0 || --machine->in_job_at > 0)
        return;
    if (sim_call_at(sim,
                    sim->now_ns + sim_rng_between(&sim->job_rng, 0, sim->options.offload_ns_max),
                    machine->in_job, machine->in_job_arg) < 0)
        abort();
}

static void op_co_offload(struct io *io, io_callback *fn, void *arg)
{
    struct machine *machine = machine_of_io(io);
    struct sim *sim = machine->sim;
    bool late = sim_rng_chance(&sim->job_rng, 50);
    int r = 0;

    note_job(machine);
    if (!late)
        fn(arg);
    if (sim->now_ns < machine->jobs_hang_until_ns)
        r = sim_co_pause(machine, machine->jobs_hang_until_ns - sim->now_ns);
    if (r == 0)
        r = sim_co_pause(machine, sim_rng_between(&sim->world_rng, sim->options.offload_ns_min,
                                                  sim->options.offload_ns_max));
    if (late)
        fn(arg);
    (void)r; /* a machine that dies meanwhile is noticed by the caller's next operation */
}

static int op_poll_new(struct io *io, int fd, struct io_poll **ret_poll)
{
    (void)io;
    (void)fd;
    (void)ret_poll;
    return -ENOSYS;
}

static const struct io_backend_ops sim_ops = {
    .free = op_free,
    .clock_ns = op_clock_ns,
    .wall_ns = op_wall_ns,
    .random = op_random,
    .run = op_run,
    .post = op_post,
    .co_offload = op_co_offload,
    .co_open = sim_co_open,
    .file_close = sim_file_close,
    .file_readv = sim_file_readv,
    .file_writev = sim_file_writev,
    .file_sync = sim_file_sync,
    .file_discard = sim_file_discard,
    .co_truncate = sim_co_truncate,
    .listen = sim_listen,
    .co_accept = sim_co_accept,
    .listener_shutdown = sim_listener_shutdown,
    .listener_close = sim_listener_close,
    .co_connect = sim_co_connect,
    .stream_recv = sim_stream_recv,
    .stream_sendv = sim_stream_sendv,
    .stream_shutdown = sim_stream_shutdown,
    .stream_close = sim_stream_close,
    .poll_new = op_poll_new, /* the other calls need an io_poll, and there is none */
};

/* ---- machines ---- */

static void crash_at_write(void *arg)
{
    struct machine *machine = arg;

    sim_crash(machine->sim, machine->number, SIM_HOST_DIES);
}

struct machine *sim_machine(struct sim *sim, unsigned number)
{
    struct machine *machine;

    assert(number >= 1);
    assert(number <= SIM_MACHINES_MAX);
    machine = sim->machines[number];
    if (machine)
        return machine;

    machine = sim_alloc(sizeof(*machine));
    machine->sim = sim;
    machine->number = number;
    machine->clock_rate_ppm = PPM;
    list_init(&machine->completions);
    list_init(&machine->posted);
    list_init(&machine->sleepers);
    sim_event_init(&machine->crash_event, crash_at_write, machine);
    snprintf(machine->log_name, sizeof(machine->log_name), "m%u", number);
    machine->log = (struct log_sink){.name = machine->log_name, .write = sim_transcript_log};
    sim_disk_init(machine);
    sim_net_init(machine);
    sim->machines[number] = machine;
    sim->machine_end = MAX(sim->machine_end, number);
    return machine;
}

void machine_complete(struct machine *machine, struct io_op *op, int result)
{
    op->extra[0] = (uint64_t)(int64_t)result;
    list_push_back(&machine->completions, &op->node);
}

static void machine_main(void *arg)
{
    struct machine *machine = arg;

    machine->main_fn(&machine->io, machine->main_arg);
}

int sim_start(struct sim *sim, unsigned number, void (*main_fn)(struct io *io, void *arg),
              void *arg)
{
    struct machine *machine;
    int r;

    if (number < 1 || number > SIM_MACHINES_MAX)
        return -EINVAL;
    machine = sim_machine(sim, number);
    if (machine->up)
        return -EBUSY;

    memset(&machine->io, 0, sizeof(machine->io));
    loop_init(&machine->io, &sim_ops);
    machine->main_fn = main_fn;
    machine->main_arg = arg;
    r = co_spawn(&machine->io, "main", machine_main, machine);
    if (r < 0) {
        loop_done(&machine->io);
        return r;
    }
    machine->life++;
    machine->up = true;
    sim_rng_init(&machine->rng, sim->options.seed, ((uint64_t)machine->life << 8) | number);
    machine->io.log = sim->transcript ? &machine->log : NULL;
    sim_note(sim, RECORD_START, number, machine->life, 0);
    if (!machine->powered) {
        assert(!machine->host || machine->host->powered);
        machine->powered = true;
        if (!machine->host)
            machine_boot_clock(machine);
        sim_net_powered(machine);
    }
    machine->io.now_ns = machine_clock_ns(machine);
    return 0;
}

struct io *sim_io(struct sim *sim, unsigned number)
{
    return sim_is_up(sim, number) ? &sim->machines[number]->io : NULL;
}

bool sim_is_up(const struct sim *sim, unsigned number)
{
    return number <= SIM_MACHINES_MAX && sim->machines[number] && sim->machines[number]->up;
}

bool sim_is_dying(struct io *io)
{
    return machine_of_io(io)->dying;
}

/* What the kernel would clean up after a program is a leak here: the next layer's daemon runs for
 * years. */
static void machine_check_empty(struct machine *machine)
{
    size_t left = sim_disk_count_open(machine) + sim_net_count_open(machine);

    if (left > 0)
        fprintf(stderr, "machine %u: %zu files, streams or listeners left\n", machine->number,
                left);
    assert(left == 0);
    assert(list_empty(&machine->completions));
    assert(list_empty(&machine->sleepers));
}

static void machine_end(struct machine *machine)
{
    struct list *node;

    while ((node = list_pop_front(&machine->posted)))
        ;
    loop_done(&machine->io);
    machine_check_empty(machine);
    machine->up = false;
    machine->on_crash = NULL;
    sim_event_cancel(machine->sim, &machine->crash_event);
}

bool machine_has_work(const struct machine *machine)
{
    return !list_empty(&machine->completions) || !list_empty(&machine->posted) ||
           loop_has_work(&machine->io);
}

void machine_turn(struct machine *machine)
{
    struct list completions, *node;

    assert(!machine->sim->running);
    machine->sim->running = machine;
    list_init(&completions);
    list_splice(&machine->completions, &completions);
    machine->io.now_ns = machine_clock_ns(machine);
    while ((node = list_pop_front(&completions))) {
        struct io_op *op = list_entry(node, struct io_op, node);

        op->done(op, (int)(int64_t)op->extra[0]);
    }
    while ((node = list_pop_front(&machine->posted)))
        io_queue(&machine->io, list_entry(node, struct io_task, node));
    loop_turn(&machine->io);
    machine->sim->running = NULL;

    if (machine->io.stopping && !machine->dying) {
        sim_note(machine->sim, RECORD_EXIT, machine->number, 0, 0);
        machine_end(machine);
    }
}

/* ---- dying ---- */

static void cancel_sleepers(struct machine *machine)
{
    list_for_each_safe (node, &machine->sleepers)
        sleeper_end(list_entry(node, struct sleeper, node), -ECANCELED);
}

static void cancel_coroutines(struct machine *machine)
{
    list_for_each (node, &machine->io.coroutines)
        co_cancel(co_of_alive(node));
}

static void unwind_failed(struct machine *machine)
{
    fprintf(stderr, "machine %u: its program does not unwind; coroutines left:\n", machine->number);
    list_for_each (node, &machine->io.coroutines)
        fprintf(stderr, "    %s\n", co_alive_name(node));
    assert(!"every coroutine ends when its operations return -ECANCELED");
}

/* Runs the dying program, its operations failing, until its last coroutine has ended. Who waits for
 * nothing but a timer gets it: time does not pass for the others. */
static void machine_unwind(struct machine *machine)
{
    for (unsigned round = 0; machine->io.coroutine_count > 0 || machine_has_work(machine);
         round++) {
        uint64_t deadline_ns = loop_next_deadline_ns(&machine->io);

        cancel_coroutines(machine);
        if (round >= UNWIND_ROUNDS_MAX)
            unwind_failed(machine);
        if (!machine_has_work(machine)) {
            uint64_t clock_ns = machine_clock_ns(machine);

            if (deadline_ns == UINT64_MAX)
                unwind_failed(machine);
            machine->clock_jump_ns += deadline_ns > clock_ns ? deadline_ns - clock_ns : 0;
        }
        machine_turn(machine);
    }
}

/* What was placed on a machine that has lost its power. */
static void crash_placed(struct machine *host)
{
    for (unsigned i = 1; i <= host->sim->machine_end; i++) {
        struct machine *machine = host->sim->machines[i];

        if (machine && machine->host == host && machine->powered)
            sim_crash(host->sim, i, SIM_HOST_DIES);
    }
}

void sim_crash(struct sim *sim, unsigned number, enum sim_crash_kind kind)
{
    struct machine *machine = sim_machine(sim, number);
    io_callback *on_crash = machine->on_crash;

    assert(!sim->running);
    sim_note(sim, RECORD_CRASH, number, kind, 0);
    sim_event_cancel(sim, &machine->crash_event);
    machine->crash_at_write = 0;
    machine->paused = false;
    if (kind == SIM_HOST_DIES) {
        machine->power_cuts += machine->powered;
        machine->powered = false;
    }
    machine->dying = machine->up;
    sim_disk_crash(machine, kind); /* a host may lose power after its program has ended */
    sim_net_crash(machine, kind);
    if (machine->up) {
        machine->on_crash = NULL;
        if (on_crash)
            on_crash(machine->on_crash_arg);
        cancel_sleepers(machine);
        machine_unwind(machine);
        machine_end(machine);
    }
    machine->dying = false;
    machine->clock_jump_ns = 0;
    if (kind == SIM_HOST_DIES)
        crash_placed(machine);
}

void sim_place(struct sim *sim, unsigned number, unsigned host)
{
    struct machine *machine = sim_machine(sim, number);

    assert(!machine->up);
    assert(number != host);
    assert(!sim_machine(sim, host)->host);
    machine->host = sim_machine(sim, host);
}

uint64_t sim_clock_ns(const struct sim *sim, unsigned number)
{
    return machine_clock_ns(sim->machines[number]);
}

unsigned sim_power_cuts(const struct sim *sim, unsigned number)
{
    return sim->machines[number]->power_cuts;
}

void sim_on_crash(struct sim *sim, unsigned number, io_callback *fn, void *arg)
{
    struct machine *machine = sim_machine(sim, number);

    assert(machine->up);
    machine->on_crash = fn;
    machine->on_crash_arg = arg;
}

/* ---- what a test does to a machine ---- */

void sim_pause(struct sim *sim, unsigned number)
{
    assert(sim_is_up(sim, number));
    sim_note(sim, RECORD_PAUSE, number, 0, 0);
    sim_machine(sim, number)->paused = true;
}

void sim_resume(struct sim *sim, unsigned number)
{
    sim_note(sim, RECORD_RESUME, number, 0, 0);
    sim_machine(sim, number)->paused = false;
}

void sim_hang_jobs(struct sim *sim, unsigned number, uint64_t until_ns)
{
    struct machine *machine = sim_machine(sim, number);

    if (machine->jobs_hang_until_ns == until_ns)
        return;
    sim_note(sim, RECORD_JOBS_HANG, number, until_ns, 0);
    machine->jobs_hang_until_ns = until_ns;
}

void sim_in_job(struct sim *sim, unsigned number, uint64_t nth, io_callback *fn, void *arg)
{
    struct machine *machine = sim_machine(sim, number);

    machine->in_job_at = nth;
    machine->in_job = fn;
    machine->in_job_arg = arg;
}

void sim_set_clock_rate(struct sim *sim, unsigned number, double rate)
{
    struct machine *machine = sim_machine(sim, number);
    uint64_t ppm = (uint64_t)(rate * PPM + 0.5);

    assert(ppm > 0);
    sim_note(sim, RECORD_CLOCK_RATE, number, ppm, 0);
    machine_set_clock(machine, machine_clock_ns(machine), ppm);
}
