/* The world: events, machines and their clocks, the transcript.
 *
 * A step is either one turn of one machine that has something to do, or the next event in virtual
 * time. Nothing else runs, and nothing asks the real world: order comes from (time, order of
 * scheduling) and machine numbers, chance from streams of one seed. Pointers are never compared or
 * hashed, so a run repeats whatever the allocator does. */
#include "s2d/base/sim.h"

#include <inttypes.h>

#include "s2d/base/checksum.h"
#include "s2d/base/sim_world.h"

#define PPM 1000000u
#define WALL_BASE_NS (1767225600 * SEC) /* 2026-01-01 */
#define UNWIND_ROUNDS_MAX 100000        /* of a dying program that goes on and on */

/* ---- randomness: splitmix64 ---- */

uint64_t sim_rng_next(struct sim_rng *rng)
{
    uint64_t x = rng->state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void sim_rng_init(struct sim_rng *rng, uint64_t seed, uint64_t stream)
{
    rng->state = seed;
    rng->state = sim_rng_next(rng) ^ stream;
    rng->state = sim_rng_next(rng);
}

uint64_t sim_rng_between(struct sim_rng *rng, uint64_t min, uint64_t max)
{
    uint64_t draw = sim_rng_next(rng);

    return min < max ? min + draw % (max - min) : min;
}

bool sim_rng_chance(struct sim_rng *rng, unsigned percent)
{
    return sim_rng_next(rng) % 100 < percent;
}

/* ---- events: a binary heap that starts at 1 ---- */

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void heap_place(struct sim *sim, size_t index, struct sim_event *event)
{
    sim->heap[index] = event;
    event->heap_index = index;
}

static void heap_sift(struct sim *sim, size_t index, struct sim_event *event)
{
    while (index > 1 && event_before(event, sim->heap[index / 2])) {
        heap_place(sim, index, sim->heap[index / 2]);
        index /= 2;
    }
    for (;;) {
        size_t child = 2 * index;

        if (child < sim->heap_count && event_before(sim->heap[child + 1], sim->heap[child]))
            child++;
        if (child > sim->heap_count || !event_before(sim->heap[child], event))
            break;
        heap_place(sim, index, sim->heap[child]);
        index = child;
    }
    heap_place(sim, index, event);
}

void sim_event_init(struct sim_event *event, io_callback *fire, void *arg)
{
    *event = (struct sim_event){.fire = fire, .arg = arg};
}

void sim_event_schedule(struct sim *sim, struct sim_event *event, uint64_t at_ns)
{
    sim_event_cancel(sim, event);
    if (sim->heap_count + 2 > sim->heap_size) {
        sim->heap_size = MAX(2 * sim->heap_size, (size_t)256);
        sim->heap = reallocarray(sim->heap, sim->heap_size, sizeof(struct sim_event *));
        if (!sim->heap)
            abort(); /* a test without memory has nothing to test */
    }
    event->at_ns = MAX(at_ns, sim->now_ns);
    event->order = ++sim->event_order;
    heap_sift(sim, ++sim->heap_count, event);
}

void sim_event_cancel(struct sim *sim, struct sim_event *event)
{
    size_t index = event->heap_index;
    struct sim_event *last;

    if (index == 0)
        return;
    assert(sim->heap[index] == event);
    event->heap_index = 0;
    last = sim->heap[sim->heap_count--];
    if (last != event)
        heap_sift(sim, index, last);
}

/* ---- the transcript ---- */

static const struct {
    const char *name, *a, *b;
} record_names[] = {
    [RECORD_START] = {"start", "life", ""},
    [RECORD_EXIT] = {"exit", "", ""},
    [RECORD_CRASH] = {"crash", "kind", ""},
    [RECORD_PAUSE] = {"pause", "", ""},
    [RECORD_RESUME] = {"resume", "", ""},
    [RECORD_CLOCK_RATE] = {"clock rate", "ppm", ""},
    [RECORD_TURN] = {"timer", "clock_ns", ""},
    [RECORD_CALL] = {"planned call", "", ""},
    [RECORD_OPEN] = {"open", "result", ""},
    [RECORD_READ] = {"read", "offset", "hash"},
    [RECORD_WRITE] = {"write", "offset", "hash"},
    [RECORD_SYNC] = {"sync", "", ""},
    [RECORD_DISCARD] = {"discard", "offset", "length"},
    [RECORD_TRUNCATE] = {"truncate", "size", ""},
    [RECORD_DISK_FAULT] = {"disk fault", "fault", "slowdown_ppm"},
    [RECORD_LOST] = {"write lost", "offset", "length"},
    [RECORD_TORN] = {"write torn", "offset", "length"},
    [RECORD_CONNECT] = {"connect", "to", "port"},
    [RECORD_SEND] = {"send", "to", "hash"},
    [RECORD_ARRIVE] = {"arrive", "from", "length"},
    [RECORD_END] = {"end arrives", "from", ""},
    [RECORD_RESET] = {"reset arrives", "from", ""},
    [RECORD_SPOILED] = {"write spoiled", "offset", "went to"},
    [RECORD_LINK] = {"link", "to", "delay_ns"},
    [RECORD_CUT] = {"cut", "from", "to"},
    [RECORD_HEAL] = {"heal", "from", "to"},
};

static void print_value(FILE *file, const char *name, uint64_t value)
{
    if (strcmp(name, "hash") == 0)
        fprintf(file, " hash=%016" PRIx64, value);
    else if (*name)
        fprintf(file, " %s=%" PRId64, name, (int64_t)value);
}

static void print_record(FILE *file, const struct sim_last_record *record)
{
    fprintf(file, "%12.6f ms  m%u %s", (double)record->at_ns / 1e6, record->machine,
            record_names[record->what].name);
    print_value(file, record_names[record->what].a, record->a);
    print_value(file, record_names[record->what].b, record->b);
    fputc('\n', file);
}

void sim_note(struct sim *sim, enum sim_record what, unsigned machine, uint64_t a, uint64_t b)
{
    uint64_t words[] = {sim->transcript_hash, sim->now_ns, what, machine, a, b};
    struct sim_last_record *record = &sim->last_records[sim->record_count++ % SIM_LAST_RECORDS];

    sim->transcript_hash = hash64(words, sizeof(words));
    *record = (struct sim_last_record){sim->now_ns, a, b, what, machine};
    if (sim->transcript)
        print_record(sim->transcript, record);
}

void sim_print_last(const struct sim *sim, void *stdio_file)
{
    uint64_t first = sim->record_count - MIN(sim->record_count, (uint64_t)SIM_LAST_RECORDS);

    for (uint64_t i = first; i < sim->record_count; i++)
        print_record(stdio_file, &sim->last_records[i % SIM_LAST_RECORDS]);
}

uint64_t sim_transcript_hash(const struct sim *sim)
{
    return sim->transcript_hash;
}

static void machine_log(struct log_sink *sink, enum log_level level, const char *line)
{
    struct machine *machine = container_of(sink, struct machine, log);

    (void)level;
    if (machine->sim->transcript)
        fprintf(machine->sim->transcript, "%s\n", line);
}

void sim_set_transcript(struct sim *sim, void *stdio_file)
{
    sim->transcript = stdio_file;
    for (unsigned i = 1; i <= SIM_MACHINES_MAX; i++) {
        struct machine *machine = sim->machines[i];

        /* Without a transcript nothing is even formatted. */
        if (machine && machine->up && (!machine->io.log || machine->io.log == &machine->log))
            machine->io.log = stdio_file ? &machine->log : NULL;
    }
}

/* ---- clocks ---- */

static uint64_t machine_clock_ns(const struct machine *machine)
{
    uint64_t passed_ns = machine->sim->now_ns - machine->clock_base_world_ns;

    if (machine->clock_rate_ppm == PPM) /* nearly always, and without the long division */
        return machine->clock_base_ns + machine->clock_jump_ns + passed_ns;
    return machine->clock_base_ns + machine->clock_jump_ns +
           (uint64_t)((unsigned __int128)passed_ns * machine->clock_rate_ppm / PPM);
}

/* The first world time at which the machine's clock shows at least clock_ns. */
static uint64_t world_time_of(const struct machine *machine, uint64_t clock_ns)
{
    uint64_t base_ns = machine->clock_base_ns + machine->clock_jump_ns;
    unsigned __int128 ahead;

    if (clock_ns == UINT64_MAX)
        return UINT64_MAX;
    if (clock_ns <= base_ns)
        return machine->clock_base_world_ns;
    if (machine->clock_rate_ppm == PPM)
        ahead = clock_ns - base_ns;
    else
        ahead = ((unsigned __int128)(clock_ns - base_ns) * PPM + machine->clock_rate_ppm - 1) /
                machine->clock_rate_ppm;
    if (ahead >= UINT64_MAX - machine->clock_base_world_ns)
        return UINT64_MAX;
    return machine->clock_base_world_ns + (uint64_t)ahead;
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

static void op_co_offload(struct io *io, io_callback *fn, void *arg)
{
    struct machine *machine = machine_of_io(io);
    struct sim *sim = machine->sim;

    fn(arg);
    /* A machine that dies meanwhile is noticed by the caller's next operation, as after a worker
     * that was just done. */
    if (sim_co_pause(machine, sim_rng_between(&sim->world_rng, sim->options.offload_ns_min,
                                              sim->options.offload_ns_max)) < 0)
        return;
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

    machine = calloc(1, sizeof(*machine));
    if (!machine)
        abort();
    machine->sim = sim;
    machine->number = number;
    machine->clock_rate_ppm = PPM;
    list_init(&machine->completions);
    list_init(&machine->posted);
    list_init(&machine->sleepers);
    sim_event_init(&machine->crash_event, crash_at_write, machine);
    snprintf(machine->log_name, sizeof(machine->log_name), "m%u", number);
    machine->log = (struct log_sink){.name = machine->log_name, .write = machine_log};
    sim_disk_init(machine);
    sim_net_init(machine);
    sim->machines[number] = machine;
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
        machine->powered = true;
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

static bool machine_has_work(const struct machine *machine)
{
    return !list_empty(&machine->completions) || !list_empty(&machine->posted) ||
           loop_has_work(&machine->io);
}

static void machine_turn(struct machine *machine)
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

void sim_crash(struct sim *sim, unsigned number, enum sim_crash_kind kind)
{
    struct machine *machine = sim_machine(sim, number);
    io_callback *on_crash = machine->on_crash;

    assert(!sim->running);
    sim_note(sim, RECORD_CRASH, number, kind, 0);
    sim_event_cancel(sim, &machine->crash_event);
    machine->crash_at_write = 0;
    machine->paused = false;
    if (kind == SIM_HOST_DIES)
        machine->powered = false;
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

void sim_set_clock_rate(struct sim *sim, unsigned number, double rate)
{
    struct machine *machine = sim_machine(sim, number);
    uint64_t ppm = (uint64_t)(rate * PPM + 0.5);

    assert(ppm > 0);
    sim_note(sim, RECORD_CLOCK_RATE, number, ppm, 0);
    machine_set_clock(machine, machine_clock_ns(machine), ppm);
}

/* ---- running ---- */

struct planned_call {
    struct list node;
    struct sim_event event;
    struct sim *sim;
    io_callback *fn;
    void *arg;
};

static void planned_call_fire(void *arg)
{
    struct planned_call call = *(struct planned_call *)arg;

    list_remove(&((struct planned_call *)arg)->node);
    free(arg);
    sim_note(call.sim, RECORD_CALL, 0, 0, 0);
    call.fn(call.arg);
}

int sim_call_at(struct sim *sim, uint64_t at_ns, io_callback *fn, void *arg)
{
    struct planned_call *call = calloc(1, sizeof(*call));

    if (!call)
        return -ENOMEM;
    call->sim = sim;
    call->fn = fn;
    call->arg = arg;
    list_push_back(&sim->calls, &call->node);
    sim_event_init(&call->event, planned_call_fire, call);
    sim_event_schedule(sim, &call->event, at_ns);
    return 0;
}

static bool machine_runs(const struct machine *machine)
{
    return machine && machine->up && !machine->paused;
}

static struct machine *machine_with_work(struct sim *sim)
{
    for (unsigned i = 1; i <= SIM_MACHINES_MAX; i++) {
        if (machine_runs(sim->machines[i]) && machine_has_work(sim->machines[i]))
            return sim->machines[i];
    }
    return NULL;
}

static struct machine *machine_with_first_timer(struct sim *sim, uint64_t *ret_at_ns)
{
    struct machine *first = NULL;

    *ret_at_ns = UINT64_MAX;
    for (unsigned i = 1; i <= SIM_MACHINES_MAX; i++) {
        struct machine *machine = sim->machines[i];
        uint64_t at_ns;

        if (!machine_runs(machine))
            continue;
        at_ns = world_time_of(machine, loop_next_deadline_ns(&machine->io));
        if (at_ns < *ret_at_ns) {
            *ret_at_ns = at_ns;
            first = machine;
        }
    }
    return first;
}

static void fire_first_event(struct sim *sim)
{
    struct sim_event *event = sim->heap[1];

    sim->now_ns = event->at_ns;
    sim_event_cancel(sim, event);
    event->fire(event->arg);
}

/* Returns false when nothing is left to do up to deadline_ns. */
static bool step(struct sim *sim, uint64_t deadline_ns)
{
    struct machine *machine = machine_with_work(sim);
    uint64_t event_ns = sim->heap_count > 0 ? sim->heap[1]->at_ns : UINT64_MAX;
    uint64_t timer_ns;

    if (machine) {
        machine_turn(machine);
        return true;
    }
    machine = machine_with_first_timer(sim, &timer_ns);
    if (MIN(event_ns, timer_ns) > deadline_ns || MIN(event_ns, timer_ns) == UINT64_MAX)
        return false;
    if (event_ns <= timer_ns) {
        fire_first_event(sim);
        return true;
    }
    sim->now_ns = MAX(sim->now_ns, timer_ns); /* a machine that stood still is late */
    sim_note(sim, RECORD_TURN, machine->number, machine_clock_ns(machine), 0);
    machine_turn(machine);
    return true;
}

bool sim_run(struct sim *sim, uint64_t deadline_ns, bool (*done)(void *arg), void *arg)
{
    assert(!sim->running);
    for (;;) {
        if (done && done(arg))
            return true;
        if (!step(sim, deadline_ns))
            break;
    }
    if (deadline_ns != UINT64_MAX)
        sim->now_ns = MAX(sim->now_ns, deadline_ns);
    return false;
}

/* ---- the world's beginning and end ---- */

struct sim_options sim_default_options(uint64_t seed)
{
    return (struct sim_options){
        .seed = seed,
        .net_latency_ns_min = 20 * US,
        .net_latency_ns_max = 200 * US,
        .net_bytes_per_second = 3 * GIB, /* 25 Gbit/s */
        .net_window_bytes = MIB,
        .disk_read_ns_min = 30 * US,
        .disk_read_ns_max = 150 * US,
        .disk_write_ns_min = 15 * US,
        .disk_write_ns_max = 300 * US,
        .disk_sync_ns_min = 50 * US,
        .disk_sync_ns_max = 2 * MS,
        .offload_ns_min = 50 * US,
        .offload_ns_max = 5 * MS,
        .torn_writes = true,
    };
}

int sim_new(const struct sim_options *options, struct sim **ret_sim)
{
    struct sim *sim = calloc(1, sizeof(*sim));

    if (!sim)
        return -ENOMEM;
    sim->options = *options;
    sim_rng_init(&sim->test_rng, options->seed, 't');
    sim_rng_init(&sim->world_rng, options->seed, 'w');
    sim_rng_init(&sim->disk_rng, options->seed, 'd');
    sim_rng_init(&sim->net_rng, options->seed, 'n');
    list_init(&sim->calls);
    list_init(&sim->connections);

    *ret_sim = sim;
    return 0;
}

void sim_free(struct sim *sim)
{
    struct list *node;

    if (!sim)
        return;
    for (unsigned i = 1; i <= SIM_MACHINES_MAX; i++) {
        if (sim->machines[i])
            sim_crash(sim, i, SIM_HOST_DIES);
    }
    sim_net_free(sim);
    for (unsigned i = 1; i <= SIM_MACHINES_MAX; i++) {
        if (sim->machines[i])
            sim_disk_free(sim->machines[i]);
        free(sim->machines[i]);
    }
    while ((node = list_pop_front(&sim->calls))) {
        struct planned_call *call = list_entry(node, struct planned_call, node);

        sim_event_cancel(sim, &call->event);
        free(call);
    }
    assert(sim->heap_count == 0);
    free(sim->heap);
    free(sim);
}

uint64_t sim_now_ns(const struct sim *sim)
{
    return sim->now_ns;
}

uint64_t sim_random(struct sim *sim)
{
    return sim_rng_next(&sim->test_rng);
}
