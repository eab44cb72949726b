/* One VM: two coroutines look after it. The watcher waits for the keeper's end, then for the
 * folder's lock, and reports; the talker keeps a QMP connection, which may break and come again (a
 * stopped QEMU, a new daemon) without any meaning for whether the VM lives. */
#include <stdio.h>
#include <sys/wait.h>

#include "hv/hv_internal.h"
#include "s2d/base/log.h"
#include "s2d/base/planted.h"

#define GONE_RETRY_NS (10 * MS)
#define TALK_RETRY_NS (200 * MS)
#define STATUS_TIMEOUT_NS (10 * SEC)
#define NO_SPACE_RETRY_NS (5 * SEC)

/* ---- the table's entry ---- */

void vm_path(const struct vm *vm, const char *file, char path[HV_PATH_BYTES])
{
    int length = snprintf(path, HV_PATH_BYTES, "%s/%s", vm->folder, file);

    assert(length < HV_PATH_BYTES); /* vm_new() looked */
}

int vm_new(struct hv *hv, uint64_t id, uint64_t incarnation, const char *name, struct vm **ret_vm)
{
    struct vm *vm;
    int length;

    if (hv_find(hv, id))
        return -EEXIST;
    if (hv->vm_count >= HV_VMS_MAX)
        return -ENOSPC;
    vm = calloc(1, sizeof(*vm));
    if (!vm)
        return -ENOMEM;
    length = snprintf(vm->folder, sizeof(vm->folder), "%s/vms/%s", hv->options.dir, name);
    if (length + strlen("/" QEMU_CONSOLE_SOCKET) > HV_SOCKET_PATH_MAX) {
        free(vm);
        return -ENAMETOOLONG;
    }
    vm->hv = hv;
    vm->id = id;
    vm->incarnation = incarnation;
    snprintf(vm->name, sizeof(vm->name), "%s", name);
    snprintf(vm->qmp_status, sizeof(vm->qmp_status), "unknown");
    co_group_init(&vm->talking);
    list_push_back(&hv->vms, &vm->node);
    hv->vm_count++;
    *ret_vm = vm;
    return 0;
}

void vm_free(struct vm *vm)
{
    assert(!vm->talker);
    list_remove(&vm->node);
    vm->hv->vm_count--;
    co_cond_broadcast(&vm->hv->changed);
    keeper_link_free(vm->keeper);
    free(vm);
}

void vm_kill(struct vm *vm, const char *reason)
{
    if (vm->killed)
        return;
    vm->killed = true;
    snprintf(vm->kill_reason, sizeof(vm->kill_reason), "%s", reason);
    if (vm->keeper)
        keeper_kill(vm->keeper);
    co_cond_broadcast(&vm->hv->changed);
}

bool vm_lapsed(const struct vm *vm, uint64_t now_ns)
{
    enum keeper_state state = keeper_state(vm->keeper);

    return state == KEEPER_STOPPING || state == KEEPER_STOPPED ||
           atomic_load(&keeper_memory(vm->keeper)->deadline_ns) <= now_ns;
}

void vm_judge(struct vm *vm, hv_is_current *is_current, void *arg)
{
    struct hv *hv = vm->hv;

    if (!PLANTED(VM_TAKEN_UP_UNJUDGED) && !is_current(arg, vm->id, vm->incarnation)) {
        vm_kill(vm, "this incarnation is not the VM's present one");
        return;
    }
    log_info(hv->io, "hv", "VM goes on: its incarnation is current", "vm=%s incarnation=%llu",
             vm->name, (unsigned long long)vm->incarnation);
    keeper_continue(vm->keeper, hv->deadline_ns);
    co_cond_broadcast(&hv->changed);
}

void vm_plug_in(struct vm *vm, const char *bridge)
{
    char tap[QEMU_TAP_BYTES];
    int r;

    if (!bridge || !bridge[0])
        return;
    qemu_tap_name(vm->id, tap);
    r = bridge_attach(bridge, tap);
    if (r < 0)
        log_warn(vm->hv->io, "hv", "a VM has no network: its interface could not be attached",
                 "vm=%s bridge=%s error=\"%s\"", vm->name, bridge, strerror(-r));
}

/* ---- the end ---- */

struct gone_job {
    const struct hv *hv;
    const char *folder;
    int result;
};

static void run_gone_job(void *arg)
{
    struct gone_job *job = arg;

    job->result = job->hv->host->ops->gone(job->hv->host, job->folder);
}

int co_wait_gone(const struct hv *hv, const char *folder, uint64_t deadline_ns)
{
    struct gone_job job = {.hv = hv, .folder = folder};
    int r;

    for (;;) {
        co_offload(hv->io, run_gone_job, &job);
        if (job.result != 0)
            return MIN(job.result, 0);
        if (io_now_ns(hv->io) >= deadline_ns)
            return -ETIMEDOUT;
        r = co_sleep_ns(GONE_RETRY_NS);
        if (r < 0)
            return r;
    }
}

bool vm_read_end(const struct hv *hv, const char *folder, const struct keeper_outcome *outcome,
                 enum hv_end_cause *cause, char reason[HV_REASON_BYTES])
{
    int status = outcome->wait_status;
    char line[HV_REASON_BYTES];

    hv->host->ops->last_line(hv->host, folder, line);
    *cause = HV_ENDED_FAILED;
    if (!outcome->known) {
        snprintf(reason, HV_REASON_BYTES, "the VM's keeper died, or the whole node did");
    } else if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
        snprintf(reason, HV_REASON_BYTES, "QEMU failed with status %d: %.200s", WEXITSTATUS(status),
                 line);
    } else if (WIFEXITED(status) && strstr(line, "terminating on signal")) {
        snprintf(reason, HV_REASON_BYTES, "somebody ended QEMU: %.200s", line);
    } else if (WIFEXITED(status)) {
        *cause = HV_ENDED_OFF;
        snprintf(reason, HV_REASON_BYTES, "the guest powered itself off");
    } else if (outcome->killed) {
        *cause = HV_ENDED_KILLED;
        snprintf(reason, HV_REASON_BYTES, "killed");
    } else {
        snprintf(reason, HV_REASON_BYTES, "QEMU was killed by signal %d: %.200s", WTERMSIG(status),
                 line);
    }
    return !outcome->known || WIFSIGNALED(status) || strstr(line, "terminating on signal");
}

static void run_end_job(void *arg)
{
    struct vm *vm = arg;
    struct keeper_outcome outcome;

    if (vm->hv->host->ops->outcome(vm->hv->host, vm->folder, &outcome) < 0 ||
        outcome.vm_id != vm->id || outcome.incarnation != vm->incarnation)
        outcome.known = false;
    vm->was_killed = vm_read_end(vm->hv, vm->folder, &outcome, &vm->cause, vm->reason);
}

static void run_forget_job(void *arg)
{
    struct vm *vm = arg;

    vm->hv->host->ops->forget(vm->hv->host, vm->folder);
}

bool co_tell_end(struct hv *hv, const struct hv_end *end)
{
    return !hv->options.on_ended || hv->options.on_ended(hv->options.arg, end);
}

/* Nothing of it lives any more. */
static void co_vm_end(struct vm *vm)
{
    struct hv *hv = vm->hv;
    bool told;

    co_offload(hv->io, run_end_job, vm);
    if (vm->cause == HV_ENDED_KILLED && vm->killed)
        memcpy(vm->reason, vm->kill_reason, sizeof(vm->reason));
    vm->gone = true;
    told = vm->starting; /* its caller knows */
    if (!told) {
        struct hv_end end = {.vm_id = vm->id,
                             .incarnation = vm->incarnation,
                             .name = vm->name,
                             .cause = vm->cause,
                             .reason = vm->reason};

        log_info(hv->io, "hv", "VM ended", "vm=%s incarnation=%llu reason=\"%s\"", vm->name,
                 (unsigned long long)vm->incarnation, vm->reason);
        told = co_tell_end(hv, &end);
    }
    if (told) /* a crash in between reports twice */
        co_offload(hv->io, run_forget_job, vm);
}

/* ---- the talker ---- */

static void tell_no_space(struct vm *vm, bool no_space)
{
    const struct hv_options *options = &vm->hv->options;

    if (vm->no_space == no_space)
        return;
    vm->no_space = no_space;
    if (no_space)
        log_warn(vm->hv->io, "hv", "a VM is paused: a write found no room", "vm=%s", vm->name);
    else
        log_info(vm->hv->io, "hv", "a VM goes on: its writes find room again", "vm=%s", vm->name);
    if (options->on_no_space)
        options->on_no_space(options->arg, vm->id, vm->name, no_space);
}

static void set_status(struct vm *vm, const char *status)
{
    snprintf(vm->qmp_status, sizeof(vm->qmp_status), "%s", status);
    if (strcmp(status, "io-error") == 0)
        tell_no_space(vm, true);
}

/* With action "stop" (only for want of room: werror=enospc) STOP follows. */
static void on_io_error(struct vm *vm, const json_t *data)
{
    const char *action = json_string_value(json_object_get(data, "action"));

    vm->write_failed = action && strcmp(action, "stop") == 0;
    if (!vm->write_failed)
        log_warn(vm->hv->io, "hv", "the guest was given an I/O error",
                 "vm=%s device=%s operation=%s reason=\"%s\"", vm->name,
                 json_string_value(json_object_get(data, "device")) ?: "?",
                 json_string_value(json_object_get(data, "operation")) ?: "?",
                 json_string_value(json_object_get(data, "reason")) ?: "?");
}

static void vm_on_event(void *arg, const char *event, const json_t *data)
{
    struct vm *vm = arg;
    const char *status = NULL;

    if (strcmp(event, "STOP") == 0)
        status = vm->write_failed ? "io-error" : "paused";
    else if (strcmp(event, "RESUME") == 0)
        status = "running";
    else if (strcmp(event, "SHUTDOWN") == 0)
        status = "shutdown";
    else if (strcmp(event, "GUEST_PANICKED") == 0)
        status = "guest-panicked";
    if (status) {
        set_status(vm, status);
        vm->status_changes++;
        vm->write_failed = false;
    }
    if (strcmp(event, "BLOCK_IO_ERROR") == 0)
        on_io_error(vm, data);
    else if (strcmp(event, "RESET") == 0)
        log_info(vm->hv->io, "hv", "the guest restarted", "vm=%s", vm->name);
}

/* QEMU has made its interface before it answers. */
static void on_known(struct vm *vm)
{
    const struct hv_options *options = &vm->hv->options;

    if (vm->taken_up && options->switch_of)
        vm_plug_in(vm, options->switch_of(options->arg, vm->id));
    vm->taken_up = false;
}

/* Returns whether it is known now. */
static bool co_ask_status(struct vm *vm)
{
    unsigned changes = vm->status_changes;
    const char *status;
    json_t *value = NULL;
    int r = co_qmp_execute(vm->qmp, "query-status", NULL, STATUS_TIMEOUT_NS, &value);

    status = json_string_value(json_object_get(value, "status"));
    if (status && vm->status_changes == changes) /* an event that came meanwhile is newer */
        set_status(vm, status);
    json_decref(value);
    co_cond_broadcast(&vm->hv->changed);
    if (r < 0 && vm->status_changes == changes)
        return false;
    on_known(vm);
    return true;
}

/* What made room is not known here (a file removed, a disk claimed, another volume's trim): the
 * guest is let go on every few seconds, which makes the failed writes again; one that finds no room
 * again pauses it again. It has gone on when it runs one turn later. */
static void co_try_room(struct vm *vm)
{
    if (strcmp(vm->qmp_status, "running") == 0)
        tell_no_space(vm, false);
    else if (strcmp(vm->qmp_status, "io-error") == 0 &&
             co_qmp_execute(vm->qmp, "cont", NULL, STATUS_TIMEOUT_NS, NULL) < 0)
        log_debug(vm->hv->io, "hv", "a VM could not be continued", "vm=%s", vm->name);
}

/* Until the connection has ended; why. A QEMU that hangs on its disks answers late: what happened
 * before we listened, a pause for want of room too, is then asked for again. */
static int co_listen(struct vm *vm)
{
    uint64_t retry_ns = vm->hv->options.no_space_retry_ns ?: NO_SPACE_RETRY_NS;
    bool known = co_ask_status(vm);
    int r;

    while ((r = co_qmp_wait_closed(vm->qmp, io_now_ns(vm->hv->io) + retry_ns)) == -ETIMEDOUT) {
        if (!known)
            known = co_ask_status(vm);
        if (vm->no_space)
            co_try_room(vm);
    }
    return r;
}

static void co_vm_talk(void *arg)
{
    struct vm *vm = arg;
    struct hv *hv = vm->hv;
    char path[HV_PATH_BYTES];
    int r = 0;

    vm_path(vm, QEMU_QMP_SOCKET, path);
    while (r != -ECANCELED) {
        struct qmp *qmp;

        r = co_qmp_connect(hv->io, path, UINT64_MAX, vm_on_event, vm, &qmp);
        if (r == 0) {
            vm->qmp = qmp;
            co_cond_broadcast(&hv->changed);
            r = co_listen(vm);
            vm->qmp = NULL;
            co_qmp_free(qmp);
        }
        if (r != -ECANCELED)
            r = co_sleep_ns(TALK_RETRY_NS);
    }
    vm->talker = NULL;
    co_group_done(&vm->talking);
}

static void co_stop_talker(struct vm *vm)
{
    if (vm->talker)
        co_cancel(vm->talker);
    co_group_wait(&vm->talking);
}

/* ---- the watcher ---- */

static int co_wait_end(struct vm *vm)
{
    struct keeper_host *host = vm->hv->host;
    int r = host->ops->co_wait_exit(host, vm->hv->io, vm->keeper);

    return r < 0 ? r : co_wait_gone(vm->hv, vm->folder, UINT64_MAX);
}

/* What stands in the way of waiting (no memory, no descriptors) passes. Returns 0 or -ECANCELED. */
static int co_see_end(struct vm *vm)
{
    int r = co_wait_end(vm);

    while (r < 0 && r != -ECANCELED) {
        r = co_sleep_ns(GONE_RETRY_NS);
        if (r == 0)
            r = co_wait_end(vm);
    }
    return r;
}

static void co_vm_watch(void *arg)
{
    struct vm *vm = arg;
    struct hv *hv = vm->hv;
    int r;

    r = co_see_end(vm);
    co_stop_talker(vm);
    if (r >= 0) {
        co_vm_end(vm);
        vm->watcher = NULL;
        co_cond_broadcast(&hv->changed);
    }
    if (!vm->starting) /* else co_hv_start() frees it */
        vm_free(vm);
    co_group_done(&hv->watchers);
}

int vm_watch(struct vm *vm)
{
    struct hv *hv = vm->hv;
    int r;

    co_group_add(&vm->talking, 1);
    r = co_spawn_handle(hv->io, "vm-talk", co_vm_talk, vm, &vm->talker);
    if (r < 0) {
        co_group_done(&vm->talking);
        return r;
    }
    co_group_add(&hv->watchers, 1);
    r = co_spawn_handle(hv->io, "vm-watch", co_vm_watch, vm, &vm->watcher);
    if (r < 0) {
        co_group_done(&hv->watchers);
        co_stop_talker(vm);
    }
    return r;
}
