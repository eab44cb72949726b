/* The world: what happens next, and its beginning and end.
 *
 * A step is either one turn of one machine that has something to do, or the next event in virtual
 * time. Nothing else runs, and nothing asks the real world: order comes from (time, order of
 * scheduling) and machine numbers, chance from streams of one seed. Pointers are never compared or
 * hashed, so a run repeats whatever the allocator does. */
#include "s2d/base/sim.h"

#include "s2d/base/sim_world.h"

void *sim_alloc(size_t bytes)
{
    void *memory = calloc(1, bytes);

    if (!memory)
        abort();
    return memory;
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
    for (unsigned i = 1; i <= sim->machine_end; i++) {
        if (machine_runs(sim->machines[i]) && machine_has_work(sim->machines[i]))
            return sim->machines[i];
    }
    return NULL;
}

static struct machine *machine_with_first_timer(struct sim *sim, uint64_t *ret_at_ns)
{
    struct machine *first = NULL;

    *ret_at_ns = UINT64_MAX;
    for (unsigned i = 1; i <= sim->machine_end; i++) {
        struct machine *machine = sim->machines[i];
        uint64_t at_ns;

        if (!machine_runs(machine))
            continue;
        at_ns = machine_world_ns(machine, loop_next_deadline_ns(&machine->io));
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
    sim_rng_init(&sim->job_rng, options->seed, 'j');
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
    for (unsigned i = 1; i <= sim->machine_end; i++) {
        if (sim->machines[i])
            sim_crash(sim, i, SIM_HOST_DIES);
    }
    sim_net_free(sim);
    for (unsigned i = 1; i <= sim->machine_end; i++) {
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
