/* What happens to VMs: administrators start, end, move and delete them through the API of some
 * node, processes die, and the node under one of them is lost to the cluster for so long that the
 * VM is started elsewhere, while its keeper and QEMU are still there. Only in worlds that have VMs.
 */
#include "tests/sim/sim_faults_private.h"
#include "tests/sim/sim_vms.h"

static struct sim_vm *vm_of(const struct act *act)
{
    return vm_at(act->machine->world->vms, act->fault.draw[0]);
}

/* NULL (any), or the name of one of the nodes. */
static const char *node_of(const struct act *act)
{
    const struct database *database = node_database(act->machine->node);
    uint64_t count = database_count(database, TABLE_NODE);
    const struct node_record *node =
        act->fault.draw[1] % 3 == 0 || count == 0
            ? NULL
            : database_at(database, TABLE_NODE, act->fault.draw[2] % count);

    return node ? node->name : NULL;
}

static int co_start(struct act *act, struct sim_vm *vm)
{
    char name[NAME_MAX_BYTES];
    const char *node = node_of(act);

    snprintf(name, sizeof(name), "%s", node ?: "");
    return co_vm_start(act->machine, vm, node ? name : NULL);
}

static int co_work(struct act *act, int (*co_do)(struct act *act, struct sim_vm *vm))
{
    struct sim_vm *vm = vm_of(act);
    int r;

    if (!vm_begin_work(vm))
        return -EBUSY;
    r = co_do(act, vm);
    vm_end_work(vm);
    return r;
}

static int co_end(struct act *act, struct sim_vm *vm)
{
    static const char *const verbs[] = {"stop", "shutdown", "kill"};

    return co_vm_end(act->machine, vm, verbs[act->fault.draw[1] % ARRAY_SIZE(verbs)]);
}

static int co_move(struct act *act, struct sim_vm *vm)
{
    int r = co_end(act, vm);

    return r == 0 ? co_start(act, vm) : r;
}

static int co_make_again(struct act *act, struct sim_vm *vm)
{
    int r = co_vm_end(act->machine, vm, "kill");

    if (r == 0 || r == -EALREADY)
        r = co_vm_delete(act->machine, vm);
    if (r == 0)
        r = co_vm_create(act->machine, vm);
    return r == 0 ? co_start(act, vm) : r;
}

static int co_end_it(struct act *act)
{
    return co_work(act, co_end);
}

static int co_start_it(struct act *act)
{
    return co_work(act, co_start);
}

static int co_move_it(struct act *act)
{
    return co_work(act, co_move);
}

static int co_make_it_again(struct act *act)
{
    return co_work(act, co_make_again);
}

static bool vm_ends(struct world *world, struct fault *fault)
{
    return begin_act(member_for(world, fault), fault, co_end_it);
}

static void vm_starts(struct world *world, struct fault *fault)
{
    begin_act(member_for(world, fault), fault, co_start_it);
}

static bool vm_moves(struct world *world, struct fault *fault)
{
    return begin_act(member_for(world, fault), fault, co_move_it);
}

static bool vm_made_again(struct world *world, struct fault *fault)
{
    return begin_act(member_for(world, fault), fault, co_make_it_again);
}

static bool qemu_dies(struct world *world, struct fault *fault)
{
    return keepers_kill(vms_keepers(world->vms), vm_at(world->vms, fault->draw[0]), false);
}

static bool keeper_dies(struct world *world, struct fault *fault)
{
    return keepers_kill(vms_keepers(world->vms), vm_at(world->vms, fault->draw[0]), true);
}

/* ---- the node under a VM ---- */

#define AWAY_NS_MIN                                                                                \
    (3 * SEC) /* a lease (2 s) is over, or a dead daemon's VMs are given up (3 s)                  \
               */
#define AWAY_NS_MORE (4 * SEC)

/* Only then is it known whether the VM stops in time, and whether it stays so when the node is back
 * and the VM runs elsewhere: faults of chance seldom hit this node for so long. */
static bool aim(struct world *world, struct fault *fault)
{
    const struct sim_vm *vm = vm_at(world->vms, fault->draw[0]);
    unsigned number;

    if (keepers_running(vms_keepers(world->vms), vm, &number) == 0)
        return false;
    if (fault->other->number == number)
        fault->other = fault->machine;
    fault->machine = &world->machines[number];
    fault->for_ns = AWAY_NS_MIN + fault->draw[1] % AWAY_NS_MORE;
    return true;
}

static bool its_daemon_dies(struct world *world, struct fault *fault)
{
    return aim(world, fault) && process_dies(world, fault);
}

static bool its_daemon_stands_still(struct world *world, struct fault *fault)
{
    return aim(world, fault) && stands_still(world, fault);
}

static bool its_node_is_cut_off(struct world *world, struct fault *fault)
{
    return aim(world, fault) && cut_off(world, fault);
}

const struct fault_kind vm_faults[] = {
    {"VM ended, started", 4, vm_ends, vm_starts, false},
    {"VM ended and started elsewhere", 4, vm_moves, NULL, false},
    {"VM deleted, made again", 1, vm_made_again, NULL, false},
    {"QEMU dies", 2, qemu_dies, NULL, false},
    {"keeper dies", 1, keeper_dies, NULL, false},
    {"a VM's daemon dies", 2, its_daemon_dies, starts_again, false},
    {"a VM's daemon stands still", 1, its_daemon_stands_still, goes_on, false},
    {"a VM's node is cut off", 2, its_node_is_cut_off, heal_off, false},
    {NULL, 0, NULL, NULL, false},
};
