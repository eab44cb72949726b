/* What a daemon does when it comes up: takes up the VMs that an earlier one left running, and sees
 * how those that are gone ended. And what it does now and then afterwards. */
#include <stdio.h>

#include "hv/hv_internal.h"
#include "s2d/base/log.h"

#define ADOPT_RETRY_NS (50 * MS)
#define ADOPT_RETRIES 100
#define HOUSEKEEPING_NS (10 * SEC)

struct accel_job {
    struct hv *hv;
    int result;
    char why[ACCEL_WHY_BYTES];
};

static void run_accel_job(void *arg)
{
    struct accel_job *job = arg;

    job->result = accel_probe_kvm(job->hv->probe, job->why);
}

static void co_choose_accel(void *arg)
{
    struct hv *hv = arg;
    struct accel_job job = {.hv = hv};

    co_offload(hv->io, run_accel_job, &job);
    if (job.result < 0)
        log_warn(hv->io, "hv", "KVM cannot be used, VMs run emulated and slow", "reason=\"%s\"",
                 job.why);
    hv->accel = job.result == 0 ? HV_ACCEL_KVM : HV_ACCEL_TCG;
    co_cond_broadcast(&hv->changed);
}

struct folder_job {
    const struct hv *hv;
    char (*names)[HV_NAME_BYTES]; /* HV_VMS_MAX of them */
    size_t count;
    int result;
};

static void run_folder_job(void *arg)
{
    struct folder_job *job = arg;
    const struct hv *hv = job->hv;

    job->result =
        hv->host->ops->list(hv->host, hv->options.dir, job->names, HV_VMS_MAX, &job->count);
}

struct adopt_job {
    const struct hv *hv;
    char folder[HV_PATH_BYTES];
    struct keeper_link *link;
    int result;
    bool terminate;
    struct keeper_outcome outcome; /* if result is -ENOENT */
    bool unreported;
    enum hv_end_cause cause;
    char reason[HV_REASON_BYTES];
};

static void run_adopt_job(void *arg)
{
    struct adopt_job *job = arg;
    struct keeper_host *host = job->hv->host;

    if (job->terminate)
        host->ops->terminate(host, job->folder);
    job->result = host->ops->adopt(host, job->folder, &job->link);
    if (job->result == -ENOENT && host->ops->outcome(host, job->folder, &job->outcome) == 0) {
        job->unreported = true;
        vm_read_end(job->hv, job->folder, &job->outcome, &job->cause, job->reason);
    }
}

static void run_forget_folder(void *arg)
{
    struct adopt_job *job = arg;

    job->hv->host->ops->forget(job->hv->host, job->folder);
}

static void co_report_lost(struct hv *hv, const char *name, struct adopt_job *job)
{
    struct hv_end end = {.vm_id = job->outcome.vm_id,
                         .incarnation = job->outcome.incarnation,
                         .name = name,
                         .cause = job->cause,
                         .reason = job->reason};

    log_info(hv->io, "hv", "VM ended while no daemon ran", "vm=%s incarnation=%llu reason=\"%s\"",
             name, (unsigned long long)end.incarnation, end.reason);
    if (co_tell_end(hv, &end))
        co_offload(hv->io, run_forget_folder, job);
}

/* Without a lease nobody can say what is current: then hv_judge() will. link: taken. */
static int take_up(struct hv *hv, const char *name, struct keeper_link *link,
                   hv_is_current *is_current, void *arg)
{
    const struct keeper_memory *memory = keeper_memory(link);
    const struct vm *known = hv_find(hv, memory->vm_id);
    struct vm *vm;
    int r;

    if (known && known->incarnation == memory->incarnation) {
        keeper_link_free(link); /* ours already: recovery is tried again */
        return 0;
    }
    r = vm_new(hv, memory->vm_id, memory->incarnation, name, &vm);
    if (r < 0) {
        keeper_kill(link);
        keeper_link_free(link);
        return r;
    }
    vm->keeper = link;
    vm->taken_up = true;
    r = vm_watch(vm);
    if (r < 0) {
        keeper_kill(link);
        vm_free(vm);
        return r;
    }
    if (hv->deadline_ns > io_clock_ns(hv->io))
        vm_judge(vm, is_current, arg);
    return 0;
}

/* A keeper may be in the middle of starting or ending: that passes. One that cannot be talked to is
 * ended. */
static int co_recover_one(struct hv *hv, const char *name, hv_is_current *is_current, void *arg)
{
    struct adopt_job job = {.hv = hv, .result = -EAGAIN};
    int r = 0;

    if (snprintf(job.folder, sizeof(job.folder), "%s/vms/%s", hv->options.dir, name) >=
        (int)sizeof(job.folder))
        return -ENAMETOOLONG;
    for (int i = 0; i < ADOPT_RETRIES && r == 0; i++) {
        co_offload(hv->io, run_adopt_job, &job);
        if (job.result == -ENOENT && job.unreported)
            co_report_lost(hv, name, &job);
        if (job.result == -ENOENT)
            return 0;
        if (job.result == 0)
            return take_up(hv, name, job.link, is_current, arg);
        job.terminate = job.result != -EAGAIN || i > ADOPT_RETRIES / 2;
        r = co_sleep_ns(ADOPT_RETRY_NS);
    }
    return r < 0 ? r : job.result;
}

struct trim_job {
    const struct hv *hv;
    char folder[HV_PATH_BYTES];
};

static void run_trim_job(void *arg)
{
    struct trim_job *job = arg;

    job->hv->host->ops->trim_logs(job->hv->host, job->folder);
}

static void co_housekeeping(void *arg)
{
    struct hv *hv = arg;

    while (co_sleep_ns(HOUSEKEEPING_NS) == 0) {
        for (size_t i = 0; i < hv->vm_count; i++) {
            struct list *node = hv->vms.next;
            struct trim_job job = {.hv = hv};

            for (size_t skip = i; skip > 0; skip--)
                node = node->next; /* the table may change while we are suspended */
            memcpy(job.folder, list_entry(node, struct vm, node)->folder, sizeof(job.folder));
            co_offload(hv->io, run_trim_job, &job);
        }
    }
    hv->housekeeper = NULL;
    co_group_done(&hv->watchers);
}

static int start_housekeeping(struct hv *hv)
{
    int r;

    if (hv->housekeeper)
        return 0;
    co_group_add(&hv->watchers, 1);
    r = co_spawn_handle(hv->io, "hv-housekeeping", co_housekeeping, hv, &hv->housekeeper);
    if (r < 0)
        co_group_done(&hv->watchers);
    return r;
}

int co_hv_recover(struct hv *hv, hv_is_current *is_current, void *arg)
{
    cleanup(freep) char(*names)[HV_NAME_BYTES] = calloc(HV_VMS_MAX, HV_NAME_BYTES);
    struct folder_job job = {.hv = hv, .names = names};
    int r;

    if (!names)
        return -ENOMEM;
    co_offload(hv->io, run_folder_job, &job);
    if (job.result < 0)
        return job.result;
    for (size_t i = 0; i < job.count; i++) {
        r = co_recover_one(hv, names[i], is_current, arg);
        if (r == -ECANCELED)
            return r;
        /* Its keeper stops it, or its own death ends it; a start of it here will meet the lock. */
        if (r < 0)
            log_error(hv->io, "hv", "a VM that was left here could not be taken up",
                      "vm=%s error=\"%s\"", names[i], strerror(-r));
    }
    r = start_housekeeping(hv);
    if (r == 0 && hv->accel == HV_ACCEL_AUTO) /* it can take seconds: only starts wait for it */
        r = co_group_spawn(&hv->watchers, hv->io, "hv-accel", co_choose_accel, hv);
    return r;
}
