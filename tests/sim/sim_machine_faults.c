/* Faults of machines: processes, power, clocks, network. */
#include "tests/sim/sim_faults_private.h"

#define NODES_ALL(world, i) (unsigned i = 1; i <= (world)->shape.nodes; i++)

/* ---- machines ---- */

static bool crash(struct machine *machine, enum sim_crash_kind kind)
{
    if (!machine_is_up(machine))
        return false;
    machine_crash(machine, kind);
    return true;
}

bool process_dies(struct world *world, struct fault *fault)
{
    (void)world;
    return crash(fault->machine, SIM_PROCESS_DIES);
}

static bool host_dies(struct world *world, struct fault *fault)
{
    (void)world;
    return crash(fault->machine, SIM_HOST_DIES);
}

void starts_again(struct world *world, struct fault *fault)
{
    (void)world;
    start_if_down(fault->machine);
}

static bool dies_in_write(struct world *world, struct fault *fault)
{
    if (!machine_is_up(fault->machine))
        return false;
    sim_crash_at_write(world->sim, fault->machine->number, 1 + fault->draw[0] % 60);
    return true;
}

static void died_in_write(struct world *world, struct fault *fault)
{
    sim_crash_at_write(world->sim, fault->machine->number, 0);
    start_if_down(fault->machine);
}

static bool stops_cleanly(struct world *world, struct fault *fault)
{
    (void)world;
    if (!machine_is_up(fault->machine) || fault->machine->stopping)
        return false;
    machine_leave(fault->machine);
    return true;
}

/* Half of those that are not done yet are killed; the others are given the time they need. */
static void stopped_cleanly(struct world *world, struct fault *fault)
{
    bool leaves = machine_is_up(fault->machine) && fault->machine->leaving;

    (void)world;
    if (leaves && fault->draw[0] % 2)
        machine_crash(fault->machine, SIM_PROCESS_DIES);
    else if (leaves)
        fault->machine->returns = true;
    start_if_down(fault->machine);
}

static bool all_power_lost(struct world *world, struct fault *fault)
{
    (void)fault;
    for
        NODES_ALL(world, i)
    crash(&world->machines[i], SIM_HOST_DIES);
    return true;
}

/* Not all at the same time. */
static void all_power_back(struct world *world, struct fault *fault)
{
    for
        NODES_ALL(world, i)
        {
            if (fault->draw[0] >> i & 1 || i == fault->machine->number)
                start_if_down(&world->machines[i]);
        }
    world_run(world, world_now_ns(world) + fault->draw[1] % (2 * SEC), NULL);
    for
        NODES_ALL(world, i)
    start_if_down(&world->machines[i]);
}

bool stands_still(struct world *world, struct fault *fault)
{
    if (!machine_is_up(fault->machine))
        return false;
    sim_pause(world->sim, fault->machine->number);
    return true;
}

void goes_on(struct world *world, struct fault *fault)
{
    if (machine_is_up(fault->machine))
        sim_resume(world->sim, fault->machine->number);
}

/* Twice what a bad crystal does, and far below what the lease's margin allows. */
static bool clock_runs_off(struct world *world, struct fault *fault)
{
    sim_set_clock_rate(world->sim, fault->machine->number,
                       0.97 + (double)(fault->draw[0] % 60) / 1000);
    return true;
}

static void clock_runs_true(struct world *world, struct fault *fault)
{
    sim_set_clock_rate(world->sim, fault->machine->number, 1.0);
}

/* ---- while the database's store is written ---- */

static void die_in_commit(void *arg)
{
    struct fault *fault = arg;

    if (fault->state == FAULT_ACTIVE)
        crash(fault->machine, fault->draw[0] % 2 ? SIM_PROCESS_DIES : SIM_HOST_DIES);
}

static void lose_all_power_in_commit(void *arg)
{
    struct fault *fault = arg;

    if (fault->state == FAULT_ACTIVE)
        all_power_lost(fault->machine->world, fault);
}

static bool dies_in_commit(struct world *world, struct fault *fault)
{
    sim_in_job(world->sim, fault->machine->number, 1 + fault->draw[1] % 8, die_in_commit, fault);
    return true;
}

static bool power_lost_in_commit(struct world *world, struct fault *fault)
{
    sim_in_job(world->sim, fault->machine->number, 1 + fault->draw[1] % 8, lose_all_power_in_commit,
               fault);
    return true;
}

static void died_in_commit(struct world *world, struct fault *fault)
{
    sim_in_job(world->sim, fault->machine->number, 0, NULL, NULL);
    start_if_down(fault->machine);
}

static void power_back_after_commit(struct world *world, struct fault *fault)
{
    sim_in_job(world->sim, fault->machine->number, 0, NULL, NULL);
    all_power_back(world, fault);
}

/* ---- network ---- */

static bool cut_one_way(struct world *world, struct fault *fault)
{
    if (fault->machine == fault->other)
        return false;
    sim_cut(world->sim, fault->machine->number, fault->other->number);
    return true;
}

static bool cut_both_ways(struct world *world, struct fault *fault)
{
    if (!cut_one_way(world, fault))
        return false;
    sim_cut(world->sim, fault->other->number, fault->machine->number);
    return true;
}

static void heal_pair(struct world *world, struct fault *fault)
{
    sim_heal(world->sim, fault->machine->number, fault->other->number);
    sim_heal(world->sim, fault->other->number, fault->machine->number);
}

/* The nodes of one side of a partition: a bit each. */
static uint64_t side_of(const struct fault *fault, bool alone)
{
    uint64_t self = UINT64_C(1) << fault->machine->number;

    return alone ? self : (fault->draw[0] | self) & ~(UINT64_C(1) << fault->other->number);
}

static bool part(struct world *world, const struct fault *fault, uint64_t side,
                 void (*change)(struct sim *sim, unsigned from, unsigned to))
{
    if (fault->machine == fault->other)
        return false;
    for
        NODES_ALL(world, i)
        {
        for
            NODES_ALL(world, j)
            {
                if ((side >> i & 1) != (side >> j & 1))
                    change(world->sim, i, j);
            }
        }
    return true;
}

bool cut_off(struct world *world, struct fault *fault)
{
    return part(world, fault, side_of(fault, true), sim_cut);
}

void heal_off(struct world *world, struct fault *fault)
{
    part(world, fault, side_of(fault, true), sim_heal);
}

static bool partition(struct world *world, struct fault *fault)
{
    return part(world, fault, side_of(fault, false), sim_cut);
}

static void heal_partition(struct world *world, struct fault *fault)
{
    part(world, fault, side_of(fault, false), sim_heal);
}

static bool connections_break(struct world *world, struct fault *fault)
{
    if (fault->machine == fault->other)
        return false;
    sim_break_connections(world->sim, fault->machine->number, fault->other->number);
    return true;
}

/* A bad cable: in one direction messages are late, and those that are lost come when TCP sends them
 * again. (TCP delivers once and in order: duplicates do not reach us; what breaks a connection
 * makes us send again.) */
static bool link_gets_bad(struct world *world, struct fault *fault)
{
    if (fault->machine == fault->other)
        return false;
    sim_set_link(world->sim, fault->machine->number, fault->other->number,
                 fault->draw[0] % (20 * MS), (unsigned)(fault->draw[1] % 30));
    return true;
}

static void link_gets_good(struct world *world, struct fault *fault)
{
    sim_set_link(world->sim, fault->machine->number, fault->other->number, 0, 0);
}

const struct fault_kind commit_faults[] = {
    {"dies in a commit", 1, dies_in_commit, died_in_commit, false},
    {"all power lost in a commit", 1, power_lost_in_commit, power_back_after_commit, false},
    {NULL, 0, NULL, NULL, false},
};

const struct fault_kind machine_faults[] = {
    {"process dies", 4, process_dies, starts_again, false},
    {"host dies", 3, host_dies, starts_again, false},
    {"power lost in a write", 3, dies_in_write, died_in_write, false},
    {"clean restart", 2, stops_cleanly, stopped_cleanly, false},
    {"all power lost", 1, all_power_lost, all_power_back, false},
    {"pause", 3, stands_still, goes_on, false},
    {"clock runs off", 1, clock_runs_off, clock_runs_true, false},
    {"cut one way", 2, cut_one_way, heal_pair, false},
    {"cut both ways", 2, cut_both_ways, heal_pair, false},
    {"cut off from all", 2, cut_off, heal_off, false},
    {"partition", 1, partition, heal_partition, false},
    {"connections break", 2, connections_break, NULL, false},
    {"bad link", 2, link_gets_bad, link_gets_good, false},
    {NULL, 0, NULL, NULL, false},
};
