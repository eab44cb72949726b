/* What administrators exchange: a disk emptied (`s2d disk retire`), a disk replaced by a new one
 * (`s2d disk replace`). */
#include "tests/sim/sim_faults_private.h"

#include "tests/sim/sim_disks.h"

/* ---- disks ---- */

/* The record of a disk of the act's node, of the fault's choice; dead ones too: those above all are
 * exchanged. 0: none. */
static uint64_t choose_disk_record(const struct act *act)
{
    const struct database *database = node_database(act->machine->node);
    uint64_t own = node_id(act->machine->node), chosen = 0;
    const struct disk_record *disk;
    uint64_t skip = act->fault.draw[0] % MACHINE_DISKS_MAX;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        if (disk->node != own || disk->state == DISK_RETIRED || disk->state == DISK_RETIRING)
            continue;
        if (disk->state == DISK_FAILED)
            return disk->base.id;
        if (chosen == 0 || skip-- > 0)
            chosen = disk->base.id;
    }
    return chosen;
}

static int co_retire_disk(struct act *act, uint64_t disk)
{
    return disk ? co_command(act->machine->node, json_pack("{s:s,s:I}", "verb", "disk.retire",
                                                           "disk", (json_int_t)disk))
                : -ENOENT;
}

static int co_retire(struct act *act)
{
    return co_retire_disk(act, choose_disk_record(act));
}

/* Only where another disk is left. */
static bool disk_retired(struct world *world, struct fault *fault)
{
    unsigned disks = 0;

    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++)
        disks += fault->machine->disks[i].claimed && !fault->machine->disks[i].dead;
    if (disks < 2 || !begin_act(fault->machine, fault, co_retire))
        return false;
    world->pool_full = true;
    return true;
}

/* The new one first, as the command does: the old one's data needs the room. */
static int co_replace(struct act *act)
{
    uint64_t disk = choose_disk_record(act);
    int r = co_claim_next(act);

    return r < 0 ? r : co_retire_disk(act, disk);
}

static bool disk_replaced(struct world *world, struct fault *fault)
{
    if (!machine_is_up(fault->machine) || fault->machine->stopping || add_disk(fault->machine) < 0)
        return false;
    world->pool_full = true;
    begin_act(fault->machine, fault, co_replace);
    return true;
}

const struct fault_kind replace_faults[] = {
    {"disk retired", 1, disk_retired, NULL, false},
    {"disk replaced", 1, disk_replaced, NULL, false},
    {NULL, 0, NULL, NULL, false},
};
