/* The plan of faults and its agenda. */
#include "s2d/base/checksum.h"
#include "s2d/cluster/liveness.h"
#include "tests/sim/sim_faults_private.h"

#define FAULTS_MAX 1000
#define KINDS_MAX 64
#define TRIES_MAX 30 /* of a fault that waits */
#define TRY_AGAIN_NS (100 * MS)

struct faults {
    const struct fault_kind *kinds[KINDS_MAX];
    unsigned kind_count;
    unsigned happened[KINDS_MAX];
    struct fault *list;
    unsigned count;
    uint64_t start_ns, end_ns;
};

/* ---- the kinds ---- */

static unsigned list_kinds(const struct fault_kind **ret_kinds)
{
    static const struct fault_kind *const tables[] = {machine_faults, disk_faults,  admin_faults,
                                                      replace_faults, cache_faults, vm_faults,
                                                      stall_faults,   pair_faults,  commit_faults};
    unsigned count = 0;

    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        for (const struct fault_kind *kind = tables[i]; kind->name; kind++) {
            assert(count < KINDS_MAX);
            ret_kinds[count++] = kind;
        }
    }
    return count;
}

unsigned fault_kind_count(void)
{
    const struct fault_kind *kinds[KINDS_MAX];

    return list_kinds(kinds);
}

const char *fault_kind_name(unsigned kind)
{
    const struct fault_kind *kinds[KINDS_MAX];

    list_kinds(kinds);
    return kinds[kind]->name;
}

unsigned faults_happened(const struct faults *faults, unsigned kind)
{
    return faults ? faults->happened[kind] : 0;
}

/* ---- the plan ---- */

static bool is_of(const struct fault_kind *table, const struct fault_kind *kind)
{
    while (table->name && table != kind)
        table++;
    return table->name;
}

/* It may be drawn: what it happens to is in this world. */
static bool is_drawn(const struct world *world, const struct fault_kind *kind)
{
    return !(world->shape.caches == 0 && is_of(cache_faults, kind)) &&
           !(world->shape.vms == 0 && is_of(vm_faults, kind)) && !is_of(stall_faults, kind) &&
           !is_of(pair_faults, kind) && !is_of(commit_faults, kind);
}

/* Of each kind, how likely it is in this run. */
static unsigned choose_rates(struct world *world, const struct faults *faults, unsigned *rates)
{
    static const unsigned factors[] = {0, 0, 1, 1, 4};
    unsigned all = 0;

    for (unsigned i = 0; i < faults->kind_count; i++) {
        rates[i] = 0;
        /* not drawn where there are none: such a seed is the run that it was without them */
        if (!is_drawn(world, faults->kinds[i]))
            continue;
        rates[i] = faults->kinds[i]->weight * factors[world_draw(world, 5)];
        all += rates[i];
    }
    return all;
}

static unsigned choose_kind(struct world *world, const unsigned *rates, unsigned all)
{
    uint64_t draw = world_draw(world, all);
    unsigned kind = 0;

    while (draw >= rates[kind])
        draw -= rates[kind++];
    return kind;
}

static uint64_t choose_duration(struct world *world)
{
    return world_draw(world, 3) == 0 ? 50 * MS + world_draw(world, 8 * SEC)
                                     : world_draw(world, 1500 * MS);
}

static void plan_one(struct world *world, struct fault *fault)
{
    unsigned nodes = world->shape.nodes;
    unsigned machine = (unsigned)world_draw(world, nodes);
    unsigned step = nodes > 1 ? 1 + (unsigned)world_draw(world, nodes - 1) : 0;

    fault->machine = &world->machines[1 + machine];
    fault->other = &world->machines[1 + (machine + step) % nodes];
    fault->for_ns = choose_duration(world);
    for (size_t i = 0; i < sizeof(fault->draw) / sizeof(*fault->draw); i++)
        fault->draw[i] = sim_random(world->sim);
}

static bool is_chosen(const char *chosen, unsigned index)
{
    if (!chosen)
        return true;
    while (*chosen) {
        char *end;

        if (strtoul(chosen, &end, 10) == index && end != chosen)
            return true;
        chosen = *end ? end + 1 : end;
    }
    return false;
}

/* One of the faults becomes the one that is too much. */
static void plan_too_much(struct faults *faults)
{
    unsigned kind = 0;

    while (strcmp(faults->kinds[kind]->name, TOO_MUCH) != 0)
        kind++;
    if (faults->count > 0)
        faults->list[faults->count / 2].kind = kind;
}

/* ---- what is planned apart ---- */

/* A stream of draws of its own (any number will do): the seed's other faults are those that it has
 * without. */
struct stream {
    uint64_t seed, number, draws;
};
#define STALL_STREAM 1829356
#define PAIR_STREAM 7151623
#define COMMIT_STREAM 4410029 /* and the next ones */

static uint64_t stream_draw(struct stream *stream)
{
    stream->draws++;
    return hash64(stream, sizeof(*stream));
}

/* The next of the list, after those that were planned before, which keep their numbers. */
static struct fault *plan_next(struct world *world, struct faults *faults, uint64_t at_ns)
{
    struct fault *fault = &faults->list[faults->count];

    fault->index = faults->count++;
    fault->at_ns = faults->start_ns + at_ns;
    if (!is_chosen(world->options.faults, fault->index))
        fault->state = FAULT_OVER;
    return fault;
}

/* In half of the runs, once or twice. */
static void plan_apart(struct world *world, struct faults *faults, const struct fault_kind *kind,
                       uint64_t number)
{
    static const unsigned often[] = {0, 0, 1, 2};
    struct stream stream = {world->options.seed, number, 0};
    unsigned count = often[stream_draw(&stream) % ARRAY_SIZE(often)];

    for (unsigned i = 0; i < count && faults->count < FAULTS_MAX; i++) {
        uint64_t at_ns = stream_draw(&stream) % (world->shape.seconds * SEC);
        struct fault *fault = plan_next(world, faults, at_ns);

        while (faults->kinds[fault->kind] != kind)
            fault->kind++;
        fault->machine = fault->other =
            &world->machines[1 + stream_draw(&stream) % world->shape.nodes];
        fault->for_ns = 100 * MS + stream_draw(&stream) % (4 * SEC);
        for (size_t j = 0; j < ARRAY_SIZE(fault->draw); j++)
            fault->draw[j] = stream_draw(&stream);
    }
}

static void plan_all_apart(struct world *world, struct faults *faults)
{
    if (world->options.plain)
        return;
    if (bears_two(world) && !world->too_much)
        plan_apart(world, faults, &pair_faults[0], PAIR_STREAM);
    for (unsigned i = 0; commit_faults[i].name; i++)
        plan_apart(world, faults, &commit_faults[i], COMMIT_STREAM + i);
}

/* ---- the plan of what hangs ---- */

static unsigned choose_stall_rates(const struct faults *faults, struct stream *stream,
                                   unsigned *rates)
{
    static const unsigned factors[] = {0, 1, 1, 4};
    unsigned all = 0;

    for (unsigned i = 0; i < faults->kind_count; i++) {
        rates[i] = 0;
        if (is_of(stall_faults, faults->kinds[i]))
            rates[i] = faults->kinds[i]->weight * factors[stream_draw(stream) % 4];
        all += rates[i];
    }
    return all;
}

static void plan_stall(struct world *world, struct stream *stream, const unsigned *rates,
                       unsigned all, struct fault *fault)
{
    unsigned nodes = world->shape.nodes, machine = (unsigned)(stream_draw(stream) % nodes);
    uint64_t draw = stream_draw(stream) % all;

    while (draw >= rates[fault->kind])
        draw -= rates[fault->kind++];
    fault->machine = fault->other = &world->machines[1 + machine];
    fault->for_ns = stream_draw(stream) % 3 == 0 ? 12 * SEC : 3 * SEC; /* at most */
    fault->for_ns = 300 * MS + stream_draw(stream) % fault->for_ns;
    for (size_t i = 0; i < ARRAY_SIZE(fault->draw); i++)
        fault->draw[i] = stream_draw(stream);
}

/* Only when they are asked for. */
static void plan_stalls(struct world *world, struct faults *faults)
{
    static const uint64_t intervals[] = {700 * MS, 1500 * MS, 4 * SEC};
    struct stream stream = {world->options.seed, STALL_STREAM, 0};
    unsigned rates[KINDS_MAX], all;
    uint64_t interval_ns, at_ns = 0;

    if (!world->options.stalls)
        return;
    all = choose_stall_rates(faults, &stream, rates);
    interval_ns = intervals[stream_draw(&stream) % ARRAY_SIZE(intervals)];
    while (all > 0 && faults->count < FAULTS_MAX) {
        at_ns += stream_draw(&stream) % (2 * interval_ns);
        if (at_ns >= world->shape.seconds * SEC)
            break;
        plan_stall(world, &stream, rates, all, plan_next(world, faults, at_ns));
    }
}

struct faults *faults_plan(struct world *world)
{
    static const uint64_t intervals[] = {200 * MS, 700 * MS, 1500 * MS, 4 * SEC};
    struct faults *faults = calloc(1, sizeof(*faults));
    unsigned rates[KINDS_MAX], all;
    uint64_t interval_ns, at_ns = 0;

    if (!faults || !(faults->list = calloc(FAULTS_MAX, sizeof(*faults->list))))
        abort();
    faults->kind_count = list_kinds(faults->kinds);
    all = choose_rates(world, faults, rates);
    interval_ns = intervals[world_draw(world, sizeof(intervals) / sizeof(*intervals))];
    faults->start_ns = world_now_ns(world);
    faults->end_ns = faults->start_ns + world->shape.seconds * SEC;
    while (all > 0 && faults->count < FAULTS_MAX) {
        struct fault *fault;

        at_ns += world_draw(world, 2 * interval_ns);
        if (at_ns >= world->shape.seconds * SEC)
            break;
        fault = plan_next(world, faults, at_ns);
        fault->kind = choose_kind(world, rates, all);
        plan_one(world, fault);
    }
    if (world->too_much)
        plan_too_much(faults);
    plan_stalls(world, faults);
    plan_all_apart(world, faults);
    return faults;
}

void faults_free(struct faults *faults)
{
    if (!faults)
        return;
    for (unsigned i = 0; i < faults->count; i++)
        disk_image_free(faults->list[i].image);
    free(faults->list);
    free(faults);
}

/* ---- the agenda ---- */

/* Which machines a fault touches, for whoever asks how long the others' clients wait. */
static void note_hurt(struct world *world, const struct fault *fault, int change)
{
    const char *name = world->faults->kinds[fault->kind]->name;
    bool all = strcmp(name, "all power lost") == 0 || strcmp(name, "partition") == 0 ||
               strcmp(name, "all power lost in a commit") == 0 || strcmp(name, TOO_MUCH) == 0;

    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct machine *machine = &world->machines[i];

        if (!all && machine != fault->machine && machine != fault->other)
            continue;
        machine->hurts += (unsigned)change;
        machine->hurt_ns = world_now_ns(world);
        world->hurts++;
    }
}

static void begin(struct world *world, struct fault *fault)
{
    const struct fault_kind *kind = world->faults->kinds[fault->kind];

    fault->state = FAULT_OVER;
    if (!kind->apply(world, fault)) {
        if (kind->waits && fault->tries++ < TRIES_MAX) {
            fault->state = FAULT_PLANNED;
            fault->at_ns += TRY_AGAIN_NS;
        }
        return;
    }
    fault->takes_room = world->room_taken && world->no_room_ns == world_now_ns(world);
    world->faults->happened[fault->kind]++;
    world_tell(world, "fault %u: %s, node %u (%u), for %.3f s", fault->index, kind->name,
               fault->machine->number, fault->other->number, (double)fault->for_ns / 1e9);
    note_hurt(world, fault, kind->mend ? 1 : 0);
    if (kind->mend)
        fault->state = FAULT_ACTIVE;
}

static void end(struct world *world, struct fault *fault)
{
    const struct fault_kind *kind = world->faults->kinds[fault->kind];

    world_tell(world, "fault %u: %s is over", fault->index, kind->name);
    note_hurt(world, fault, -1);
    fault->state = FAULT_OVER;
    kind->mend(world, fault);
    if (fault->takes_room)
        take_room(world); /* what it did last may not be known yet */
}

bool faults_take_room(const struct faults *faults)
{
    for (unsigned i = 0; faults && i < faults->count; i++) {
        if (faults->list[i].state == FAULT_ACTIVE && faults->list[i].takes_room)
            return true;
    }
    return false;
}

/* What is next to begin or to end. */
static struct fault *next_fault(struct faults *faults, uint64_t *ret_at_ns)
{
    struct fault *next = NULL;

    *ret_at_ns = UINT64_MAX;
    for (unsigned i = 0; i < faults->count; i++) {
        struct fault *fault = &faults->list[i];
        uint64_t at_ns = fault->at_ns + (fault->state == FAULT_ACTIVE ? fault->for_ns : 0);

        if (fault->state != FAULT_OVER && at_ns < *ret_at_ns) {
            next = fault;
            *ret_at_ns = at_ns;
        }
    }
    return next;
}

/* Those that were given time to stop in order. */
static void start_those_that_return(struct world *world)
{
    machines_check_leaving(world);
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        if (world->machines[i].returns)
            start_if_down(&world->machines[i]);
    }
}

void faults_run(struct world *world)
{
    struct faults *faults = world->faults;
    struct fault *fault;
    uint64_t at_ns;

    while ((fault = next_fault(faults, &at_ns)) && at_ns < faults->end_ns) {
        world_run(world, at_ns, NULL);
        start_those_that_return(world);
        if (fault->state == FAULT_PLANNED)
            begin(world, fault);
        else
            end(world, fault);
    }
    world_run(world, faults->end_ns, NULL);
}

/* ---- the end of all faults ---- */

void start_if_down(struct machine *machine)
{
    if (!machine_is_up(machine))
        machine_start(machine);
}

static bool shows_all_in_sync(struct machine *machine)
{
    const struct database *database = node_database(machine->node);
    const struct slab_record *slab;

    for (size_t i = 0; (slab = database_at(database, TABLE_SLAB, i)); i++) {
        for (uint64_t j = 0; j < slab->column_count; j++) {
            if (slab->columns[j].state != COLUMN_RECORD_IN_SYNC)
                return false;
        }
    }
    return true;
}

/* All are asked: a node that is cut off knows of no change. */
bool all_in_sync(struct world *world)
{
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct machine *machine = &world->machines[i];

        if (!machine_is_up(machine) || !machine->node || machine->stopping ||
            !node_is_member(machine->node) || !shows_all_in_sync(machine))
            return false;
    }
    return true;
}

/* Whatever a fault may have left behind, whether its end had its turn or not. */
static void mend_all(struct world *world)
{
    for (unsigned i = 0; i < world->faults->count; i++) {
        if (world->faults->list[i].state == FAULT_ACTIVE)
            end(world, &world->faults->list[i]);
    }
    sim_heal_all(world->sim);
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct machine *machine = &world->machines[i];

        sim_set_clock_rate(world->sim, i, 1.0);
        sim_crash_at_write(world->sim, i, 0);
        start_if_down(machine);
        sim_resume(world->sim, i);
        sim_hang_jobs(world->sim, i, 0);
        for (unsigned disk = 0; disk < MACHINE_DISKS_MAX; disk++) {
            char path[DISK_PATH_MAX];

            disk_path_of(world, disk, path);
            if (machine->disks[disk].exists)
                sim_disk_hang(world->sim, i, path, 0);
            if (!machine->disks[disk].exists || machine->disks[disk].dead)
                continue;
            sim_disk_set_fault(world->sim, i, path, SIM_DISK_OK);
            sim_disk_set_slowdown(world->sim, i, path, 1);
        }
    }
}

/* Stopped in order, and only gone after the end of the faults. */
static void start_those_that_left(struct world *world)
{
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct machine *machine = &world->machines[i];

        if (machine->leaving && !machine_is_up(machine))
            machine_start(machine);
    }
}

bool all_are_members(void *arg)
{
    struct world *world = arg;

    machines_check_leaving(world);
    start_those_that_left(world); /* first: the others may have no quorum without them */
    for (unsigned i = 1; i <= world->shape.nodes; i++) {
        struct machine *machine = &world->machines[i];

        if (!machine_is_up(machine) || machine->stopping || !machine->node ||
            !node_is_member(machine->node) ||
            !liveness_lease_held(node_liveness(machine->node))) /* its database may be behind */
            return false;
    }
    return true;
}

static bool is_tidy(void *arg)
{
    return all_are_members(arg) && admin_tidy_up(arg);
}

bool faults_end(struct world *world)
{
    uint64_t limit_ns = world->exposed ? HEAL_NS / 4 : HEAL_NS;

    mend_all(world);
    if (world_run(world, world_now_ns(world) + limit_ns, is_tidy))
        return true;
    if (!world->exposed)
        world_fail(world, "the administrator is not done %d s after the last fault",
                   (int)(HEAL_NS / SEC));
    /* The databases were not destroyed: not those of a majority. */
    if (!world_run(world, world_now_ns(world) + HEAL_NS, all_are_members))
        world_fail(world, "not all nodes are members with a lease %d s after the last fault",
                   (int)((limit_ns + HEAL_NS) / SEC));
    return false;
}
