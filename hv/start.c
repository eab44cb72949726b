/* Starting a VM: its folder, its keeper, and the wait until QMP answers. */
#include <stdio.h>

#include "hv/hv_internal.h"
#include "s2d/base/log.h"

#define START_TIMEOUT_NS (60 * SEC) /* QEMU opens its disks before QMP answers */
#define PREDECESSOR_TIMEOUT_NS (5 * SEC)
#define TCG_NICE 5 /* guests that are computed must not take the daemon's CPU */

/* ---- what blocks ---- */

struct start_job {
    const struct vm *vm;
    const struct hv_definition *definition;
    const struct hv *hv; /* what does not change */
    uint64_t deadline_ns;
    struct keeper_link *link;
    bool was_killed;
    int result;
    char why[HV_REASON_BYTES];
};

static int start_keeper(struct start_job *job)
{
    const struct hv *hv = job->hv;
    struct qemu_host host = {.qemu = hv->options.qemu,
                             .firmware = hv->options.firmware,
                             .nbd_socket = hv->options.nbd_socket,
                             .accel = hv->accel};
    cleanup(qemu_command_freep) char **argv = NULL;
    struct keeper_order order = {.program = hv->options.keeper,
                                 .folder = job->vm->folder,
                                 .name = job->vm->name,
                                 .vm_id = job->vm->id,
                                 .incarnation = job->vm->incarnation,
                                 .deadline_ns = job->deadline_ns,
                                 .nice = hv->accel == HV_ACCEL_TCG ? TCG_NICE : 0};
    int r = qemu_command_new(job->definition, &host, &argv);

    if (r < 0)
        return r;
    order.argv = argv;
    r = hv->host->ops->start(hv->host, &order, &job->link);
    if (r == -EBUSY)
        snprintf(job->why, sizeof(job->why), "an earlier QEMU of this VM still lives");
    else if (r < 0)
        snprintf(job->why, sizeof(job->why), "the keeper %.100s failed (%s): see %.60s/qemu.log",
                 hv->options.keeper, strerror(-r), job->vm->folder);
    return r;
}

static void run_start_job(void *arg)
{
    struct start_job *job = arg;
    struct keeper_host *host = job->hv->host;
    const char *firmware = job->definition->generation == 2 ? job->hv->options.firmware : NULL;

    job->result = host->ops->prepare(host, job->vm->folder, job->vm->id, firmware, job->why);
    if (job->result == 0)
        job->result = start_keeper(job);
}

/* The keeper was started; whatever fails from here on, it has to go. */
static int co_abandon(struct vm *vm, int error)
{
    struct hv *hv = vm->hv;
    int r;

    vm_kill(vm, "its start failed");
    r = co_wait_gone(hv, vm->folder, UINT64_MAX);
    vm_free(vm);
    return r < 0 ? r : error;
}

static void run_failed_job(void *arg)
{
    struct start_job *job = arg;
    struct keeper_host *host = job->hv->host;
    struct keeper_outcome outcome;
    enum hv_end_cause cause;

    if (host->ops->outcome(host, job->vm->folder, &outcome) == 0 && outcome.known)
        job->was_killed = vm_read_end(job->hv, job->vm->folder, &outcome, &cause, job->why);
    host->ops->forget(host, job->vm->folder);
}

/* The keeper was told to kill, if it got so far; QEMU may have been over before we looked, and says
 * why. */
static int co_explain_failure(struct start_job *job)
{
    int r = co_wait_gone(job->hv, job->vm->folder, UINT64_MAX);

    if (r == 0)
        co_offload(job->hv->io, run_failed_job, job);
    if (r < 0)
        return r;
    return job->was_killed ? -EAGAIN : job->result;
}

/* By a VM that was deleted: this one was made again under its name. */
static bool folder_is_used(const struct vm *vm)
{
    list_for_each (node, &vm->hv->vms) {
        const struct vm *other = list_entry(node, struct vm, node);

        if (other != vm && strcmp(other->folder, vm->folder) == 0)
            return true;
    }
    return false;
}

/* Until nothing of an earlier one lives, and nothing of it will be forgotten any more: that would
 * be the record of our keeper. */
static int co_wait_folder(const struct vm *vm)
{
    uint64_t deadline_ns = io_now_ns(vm->hv->io) + PREDECESSOR_TIMEOUT_NS;
    int r = 0;

    while (r == 0 && folder_is_used(vm))
        r = co_cond_wait_until(&vm->hv->changed, deadline_ns);
    return r < 0 ? r : co_wait_gone(vm->hv, vm->folder, deadline_ns);
}

static int co_start_keeper(struct vm *vm, const struct hv_definition *definition)
{
    struct hv *hv = vm->hv;
    struct start_job job = {.vm = vm, .definition = definition, .hv = hv};
    uint64_t lapses;
    int r;

    r = co_wait_folder(vm);
    if (r < 0) {
        hv_set_error(hv, "an earlier QEMU of this VM still lives");
        return r == -ETIMEDOUT ? -EBUSY : r;
    }
    if (hv->deadline_ns <= io_clock_ns(hv->io)) {
        hv_set_error(hv, "the node holds no lease");
        return -ESTALE;
    }
    job.deadline_ns = hv->deadline_ns;
    lapses = hv->lapses;
    co_offload(hv->io, run_start_job, &job);
    if (job.result == -EIO)
        job.result = co_explain_failure(&job);
    if (job.result < 0) {
        hv_set_error(hv, "%s", job.why);
        return job.result;
    }
    vm->keeper = job.link;
    /* The lease may have been renewed while it was started: not if it had lapsed in between. */
    if (hv->lapses == lapses)
        keeper_renew(vm->keeper, hv->deadline_ns);
    if (vm->killed)
        keeper_kill(vm->keeper);
    return 0;
}

/* Until QMP has answered once, or it ended. */
static int co_wait_up(struct vm *vm)
{
    struct hv *hv = vm->hv;
    uint64_t deadline_ns = io_now_ns(hv->io) + START_TIMEOUT_NS;

    while (!vm->gone && !(vm->qmp && strcmp(vm->qmp_status, "unknown") != 0)) {
        int r = co_cond_wait_until(&hv->changed, deadline_ns);

        if (r == -ETIMEDOUT) {
            vm_kill(vm, "QEMU did not come up within a minute: are its disks there?");
            deadline_ns = UINT64_MAX;
        } else if (r < 0) {
            return r;
        }
    }
    if (!vm->gone)
        return 0;
    return vm->was_killed ? -EAGAIN : -EIO;
}

static int check_start(struct hv *hv, const struct hv_definition *definition)
{
    const char *why;
    int r;

    r = hv_definition_check(definition, &why);
    if (r < 0) {
        hv_set_error(hv, "%s", why);
        return r;
    }
    if (definition->switch_name && definition->switch_name[0] &&
        !bridge_exists(definition->switch_name)) {
        hv_set_error(hv, "this node has no bridge called %s", definition->switch_name);
        return -ENODEV;
    }
    return 0;
}

static int enter_table(struct hv *hv, const struct hv_definition *definition, struct vm **ret_vm)
{
    int r = vm_new(hv, definition->id, definition->incarnation, definition->name, ret_vm);

    if (r == -EEXIST)
        hv_set_error(hv, "this VM runs here already");
    else if (r == -ENOSPC)
        hv_set_error(hv, "a node runs at most %d VMs", HV_VMS_MAX);
    else if (r == -ENAMETOOLONG)
        hv_set_error(hv, "the sockets in %.100s/vms/%s would have too long paths", hv->options.dir,
                     definition->name);
    return r;
}

/* co_hv_recover() has begun to find out. */
static int co_wait_accel(struct hv *hv)
{
    int r = 0;

    while (hv->accel == HV_ACCEL_AUTO && r == 0)
        r = co_cond_wait(&hv->changed);
    return r;
}

int co_hv_start(struct hv *hv, const struct hv_definition *definition)
{
    struct vm *vm;
    int r;

    hv->error[0] = 0;
    r = check_start(hv, definition);
    if (r == 0)
        r = co_wait_accel(hv);
    if (r == 0)
        r = enter_table(hv, definition, &vm);
    if (r < 0)
        return r;
    vm->starting = true;
    r = co_start_keeper(vm, definition);
    if (r < 0) {
        vm_free(vm);
        return r;
    }
    r = vm_watch(vm);
    if (r < 0)
        return co_abandon(vm, r);
    r = co_wait_up(vm);
    if (vm->gone) {
        while (vm->watcher) /* it has not done with the VM yet */
            co_cond_wait_always(&hv->changed);
        hv_set_error(hv, "%s", vm->reason);
        vm_free(vm);
        return r;
    }
    vm->starting = false; /* also if we were cancelled: then its end will be reported */
    if (r == 0)
        vm_plug_in(vm, definition->switch_name);
    return r;
}

void hv_call_off_starts(struct hv *hv)
{
    list_for_each (node, &hv->vms) {
        struct vm *vm = list_entry(node, struct vm, node);

        if (vm->starting)
            vm_kill(vm, "the daemon stopped before it was up");
    }
}
