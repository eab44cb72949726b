/* What hangs: answers come after seconds, and in the meantime there is no error that would say so.
 *
 * The database's store: a disk that hangs in fsync. Leadership, votes and proposals wait for it;
 * leases and heartbeats must not. What was being written when the daemon died is there at the next
 * start, or it is not.
 *
 * A disk, in all that it is asked or in one kind of request only. It answers in the end, or the
 * host is switched off and on because of it, or it dies (that destroys data: sim_faults.h). */
#include <limits.h>

#include "tests/sim/sim_faults_private.h"

/* ---- the database ---- */

static bool database_hangs(struct world *world, struct fault *fault)
{
    sim_hang_jobs(world->sim, fault->machine->number, world_now_ns(world) + fault->for_ns);
    return true;
}

static void database_goes_on(struct world *world, struct fault *fault)
{
    sim_hang_jobs(world->sim, fault->machine->number, 0);
}

/* ---- disks ---- */

static void hang(struct world *world, const struct fault *fault, unsigned disk)
{
    static const unsigned kinds[] = {SIM_HANG_ALL,
                                     SIM_HANG_ALL,
                                     SIM_HANG_READS,
                                     SIM_HANG_READS,
                                     SIM_HANG_SYNCS,
                                     SIM_HANG_WRITES,
                                     SIM_HANG_WRITES | SIM_HANG_SYNCS};
    unsigned chosen = kinds[fault->draw[1] % ARRAY_SIZE(kinds)];
    char path[DISK_PATH_MAX];

    disk_path_of(world, disk, path);
    sim_disk_hang(world->sim, fault->machine->number, path, chosen);
    take_room(world); /* nothing is placed on it while it counts as failed */
    world_tell(world, "it is disk %u of node %u:%s%s%s", disk, fault->machine->number,
               chosen & SIM_HANG_READS ? " reads" : "", chosen & SIM_HANG_WRITES ? " writes" : "",
               chosen & SIM_HANG_SYNCS ? " flushes" : "");
}

static bool disk_hangs(struct world *world, struct fault *fault)
{
    unsigned disk = choose_disk(fault, fault->machine);

    if (disk == UINT_MAX)
        return false;
    hang(world, fault, disk);
    return true;
}

static void disks_answer(struct world *world, struct fault *fault)
{
    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
        char path[DISK_PATH_MAX];

        disk_path_of(world, i, path);
        if (fault->machine->disks[i].exists)
            sim_disk_hang(world->sim, fault->machine->number, path, 0);
    }
}

static void host_is_switched_off_and_on(struct world *world, struct fault *fault)
{
    if (machine_is_up(fault->machine))
        machine_crash(fault->machine, SIM_HOST_DIES);
    disks_answer(world, fault);
    start_if_down(fault->machine);
}

static bool disk_hangs_that_dies(struct world *world, struct fault *fault)
{
    unsigned disk = choose_victim(world, fault, &fault->machine);

    if (disk == UINT_MAX)
        return false;
    fault->draw[0] = disk;
    world->damaged = true;
    hang(world, fault, disk);
    return true;
}

static void disk_dies_at_last(struct world *world, struct fault *fault)
{
    unsigned disk = (unsigned)fault->draw[0];
    char path[DISK_PATH_MAX];

    disk_path_of(world, disk, path);
    sim_disk_set_fault(world->sim, fault->machine->number, path, SIM_DISK_DEAD);
    fault->machine->disks[disk].dead = true;
    disks_answer(world, fault);
}

const struct fault_kind stall_faults[] = {
    {"database hangs", 4, database_hangs, database_goes_on, false},
    {"disk hangs", 4, disk_hangs, disks_answer, false},
    {"disk hangs until power is lost", 1, disk_hangs, host_is_switched_off_and_on, false},
    {"disk hangs, dies", 1, disk_hangs_that_dies, disk_dies_at_last, true},
    {NULL, 0, NULL, NULL, false},
};
