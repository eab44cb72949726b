#include "s2d/node/vms.h"

#include <stdio.h>

#include "s2d/base/co.h"
#include "s2d/base/log.h"
#include "s2d/base/planted.h"
#include "s2d/cluster/consensus.h"
#include "s2d/cluster/liveness.h"

#define LOOK_NS SEC
#define WORKING_MAX 64
#define START_PATIENCE_NS (5 * SEC) /* with starts that are under way when the daemon stops */

struct vms {
    struct node *node;
    struct hv *hv;
    struct co_group group;
    struct co_cond changed;
    bool again, leaving, stopping, recovered;
    uint64_t working[WORKING_MAX]; /* VMs that a coroutine of ours is starting or ending; 0: free */
};

struct hv *vms_hv(struct vms *vms)
{
    return vms->recovered ? vms->hv : NULL;
}

/* ---- what the database wants ---- */

static const struct vm_record *vm_record(struct vms *vms, uint64_t id)
{
    return database_find(node_database(vms->node), TABLE_VM, id);
}

static bool is_current(void *arg, uint64_t id, uint64_t incarnation)
{
    struct vms *vms = arg;
    const struct vm_record *vm = vm_record(vms, id);

    return vm && vm->node == node_id(vms->node) && vm->incarnation == incarnation &&
           vm->ended < incarnation;
}

static bool runs_here(struct vms *vms, const struct vm_record *vm)
{
    return is_current(vms, vm->base.id, vm->incarnation);
}

/* ---- starting and ending, each in a coroutine of its own ---- */

struct work {
    struct vms *vms;
    uint64_t *slot;
    uint64_t vm, incarnation;
};

static uint64_t *find_slot(struct vms *vms, uint64_t id)
{
    for (size_t i = 0; i < WORKING_MAX; i++) {
        if (vms->working[i] == id)
            return &vms->working[i];
    }
    return NULL;
}

static void begin(struct vms *vms, const char *name, co_fn *fn, uint64_t vm, uint64_t incarnation)
{
    struct work *work;
    uint64_t *slot = find_slot(vms, 0);

    if (find_slot(vms, vm) || !slot)
        return;
    work = malloc(sizeof(*work));
    if (!work)
        return;
    *work = (struct work){.vms = vms, .slot = slot, .vm = vm, .incarnation = incarnation};
    if (co_group_spawn(&vms->group, node_io(vms->node), name, fn, work) < 0) {
        free(work);
        return;
    }
    *slot = vm;
}

static void end(struct work *work)
{
    *work->slot = 0;
    work->vms->again = true;
    co_cond_signal(&work->vms->changed);
    free(work);
}

/* stay_stopped: nobody starts it again by himself. False: this daemon stops, and the cluster was
 * not told, or may not have been. */
static bool co_tell_ended(struct vms *vms, uint64_t vm, uint64_t incarnation, bool stay_stopped,
                          const char *reason)
{
    struct command_result result;
    char text[MESSAGE_MAX_BYTES];
    int r;

    text_set(text, sizeof(text), reason); /* what QEMU prints may be no UTF-8 */
    do {
        r = co_node_propose(vms->node,
                            json_pack("{s:s,s:I,s:I,s:s,s:b}", "verb", "vm.ended", "vm",
                                      (json_int_t)vm, "incarnation", (json_int_t)incarnation,
                                      "reason", text, "stay_stopped", stay_stopped),
                            &result);
        command_result_done(&result);
    } while ((r == -EHOSTUNREACH || r == -ETIMEDOUT) && !vms->stopping);
    return r != -EHOSTUNREACH && r != -ETIMEDOUT && r != -ECANCELED;
}

static int co_start(struct vms *vms, const struct vm_record *vm)
{
    char exports[HV_DISKS_MAX][HV_EXPORT_BYTES], name[HV_NAME_BYTES], switch_name[NAME_MAX_BYTES];
    struct hv_disk disks[HV_DISKS_MAX];
    struct hv_definition definition = {
        .id = vm->base.id,
        .incarnation = vm->incarnation,
        .name = name,
        .memory_bytes = vm->memory_bytes,
        .vcpus = (unsigned)vm->vcpus,
        .generation = (unsigned)vm->generation,
        .disks = disks,
        .disk_count = MIN(vm->disk_count, HV_DISKS_MAX),
        .switch_name = switch_name,
    };

    snprintf(name, sizeof(name), "%s", vm->name);
    snprintf(switch_name, sizeof(switch_name), "%s", vm->switch_name);
    for (size_t i = 0; i < definition.disk_count; i++) {
        snprintf(exports[i], sizeof(exports[i]), "%.480s@%llu", vm->disks[i],
                 (unsigned long long)vm->incarnation);
        disks[i].export_name = exports[i];
    }
    return co_hv_start(vms->hv, &definition);
}

/* What was killed, met an earlier QEMU or found the node short of something is started again, as
 * later in its life: a restart after a failure would else be its end when it meets the next one. */
static bool may_pass(int error)
{
    return error == -EAGAIN || error == -EBUSY || error == -ENOMEM || error == -EMFILE ||
           error == -ENFILE;
}

static void start_main(void *arg)
{
    struct work *work = arg;
    struct vms *vms = work->vms;
    const struct vm_record *vm = vm_record(vms, work->vm);
    int r = vm && is_current(vms, work->vm, work->incarnation) ? co_start(vms, vm) : 0;

    if (r < 0 && r != -EEXIST && r != -ESTALE && r != -ECANCELED) {
        char reason[MESSAGE_MAX_BYTES];

        snprintf(reason, sizeof(reason), "it could not be started: %.200s",
                 hv_error(vms->hv)[0] ? hv_error(vms->hv) : strerror(-r));
        log_error(node_io(vms->node), "vms", "a VM could not be started", "vm=%llu reason=\"%s\"",
                  (unsigned long long)work->vm, reason);
        (void)co_tell_ended(vms, work->vm, work->incarnation, !may_pass(r) && !vms->leaving,
                            reason);
    }
    end(work);
}

static void kill_main(void *arg)
{
    struct work *work = arg;
    int r = co_hv_kill(work->vms->hv, work->vm, work->incarnation);

    (void)r; /* -ENOENT: gone already */
    end(work);
}

/* Only a guest that powered itself off stays so. One that was killed may have been by whoever shut
 * its host down; an administrator who kills one has said first that it shall not run. */
static bool on_ended(void *arg, const struct hv_end *ended)
{
    struct vms *vms = arg;
    bool off = ended->cause == HV_ENDED_OFF;

    log_info(node_io(vms->node), "vms", "a VM has ended", "vm=%s incarnation=%llu reason=\"%s\"",
             ended->name, (unsigned long long)ended->incarnation, ended->reason);
    return !is_current(vms, ended->vm_id, ended->incarnation) ||
           co_tell_ended(vms, ended->vm_id, ended->incarnation, off, ended->reason);
}

/* ---- a VM that finds no room ---- */

struct told {
    struct vms *vms;
    json_t *command;
};

static void tell_main(void *arg)
{
    struct told *told = arg;
    struct command_result result;

    if (co_node_propose(told->vms->node, told->command, &result) < 0)
        log_warn(node_io(told->vms->node), "vms", "an event about a VM is lost", "reason=\"%s\"",
                 result.message);
    command_result_done(&result);
    free(told);
}

static void on_no_space(void *arg, uint64_t vm_id, const char *name, bool no_space)
{
    struct vms *vms = arg;
    struct told *told = malloc(sizeof(*told));
    char text[MESSAGE_MAX_BYTES];

    (void)vm_id;
    if (!told)
        return;
    snprintf(text, sizeof(text), "VM %s %s", name,
             no_space ? "is paused: a write found no room in the pool or on its volume"
                      : "goes on: its writes find room again");
    *told = (struct told){.vms = vms,
                          .command = json_pack("{s:s,s:s,s:s,s:s,s:s}", "verb", "event.add",
                                               "severity", no_space ? "error" : "information",
                                               "code", no_space ? "vm.no_space" : "vm.resumed",
                                               "subject", name, "text", text)};
    if (co_group_spawn(&vms->group, node_io(vms->node), "tell", tell_main, told) < 0) {
        json_decref(told->command);
        free(told);
    }
}

/* ---- its network ---- */

static const char *switch_of(void *arg, uint64_t id)
{
    const struct vm_record *vm = vm_record(arg, id);

    return vm ? vm->switch_name : NULL;
}

/* ---- bringing into line ---- */

struct running {
    uint64_t ids[HV_VMS_MAX], incarnations[HV_VMS_MAX];
    size_t count;
};

static void note_running(void *arg, const struct hv_status *status)
{
    struct running *running = arg;

    if (running->count == HV_VMS_MAX)
        return;
    running->ids[running->count] = status->id;
    running->incarnations[running->count++] = status->incarnation;
}

static void look(struct vms *vms)
{
    struct running running = {.count = 0};
    const struct vm_record *vm;

    hv_list(vms->hv, note_running, &running);
    for (size_t i = 0; i < running.count; i++) {
        if (!is_current(vms, running.ids[i], running.incarnations[i]))
            begin(vms, "kill-vm", kill_main, running.ids[i], running.incarnations[i]);
    }
    if (!liveness_lease_held(node_liveness(vms->node)))
        return;
    for (size_t i = 0; (vm = database_at(node_database(vms->node), TABLE_VM, i)); i++) {
        if (runs_here(vms, vm) && hv_state(vms->hv, vm->base.id) == HV_NONE)
            begin(vms, "start-vm", start_main, vm->base.id, vm->incarnation);
    }
}

static void vms_main(void *arg)
{
    struct vms *vms = arg;
    struct io *io = node_io(vms->node);

    while (!vms->stopping) {
        if (!vms->again) {
            int r = co_cond_wait_until(&vms->changed, io_now_ns(io) + LOOK_NS);

            if (r == -ECANCELED)
                break;
        }
        vms->again = false;
        if (vms->stopping || !node_is_member(vms->node) || !node_liveness(vms->node) ||
            !liveness_lease_held(node_liveness(vms->node)))
            continue;
        if (!vms->recovered) {
            int r;

            hv_renew(vms->hv, liveness_lease_expires_ns(node_liveness(vms->node)));
            r = co_hv_recover(vms->hv, is_current, vms);
            if (r < 0)
                log_error(io, "vms", "VMs of an earlier run cannot be taken up", "error=%s",
                          strerror(-r));
            vms->recovered = r == 0;
            continue;
        }
        look(vms);
    }
}

void vms_changed(struct vms *vms)
{
    vms->again = true;
    co_cond_signal(&vms->changed);
}

/* A VM whose deadline passed waits: whether it may go on is for the database to say, which is as
 * new as the lease asks for. */
void vms_lease(struct vms *vms, uint64_t expires_ns)
{
    if (expires_ns == 0 || !vms->hv)
        return;
    if (PLANTED(VM_DEADLINE_LATE))
        expires_ns += 3 * SEC;
    if (hv_renew(vms->hv, expires_ns) > 0)
        hv_judge(vms->hv, is_current, vms);
}

int vms_new(struct node *node, const struct vms_options *options, struct vms **ret_vms)
{
    struct vms *vms = calloc(1, sizeof(*vms));
    struct hv_options hv_options = {
        .dir = options->folder,
        .nbd_socket = options->nbd_socket,
        .accel = options->accel,
        .host = options->host,
        .on_ended = on_ended,
        .on_no_space = on_no_space,
        .switch_of = switch_of,
        .arg = vms,
    };
    int r;

    if (!vms)
        return -ENOMEM;
    vms->node = node;
    co_group_init(&vms->group);
    co_cond_init(&vms->changed);
    r = hv_new(node_io(node), &hv_options, &vms->hv);
    if (r == 0)
        r = co_group_spawn(&vms->group, node_io(node), "vms", vms_main, vms);
    if (r < 0) {
        co_hv_free(vms->hv);
        free(vms);
        return r;
    }
    *ret_vms = vms;
    return 0;
}

static void lose_patience(void *arg)
{
    struct vms *vms = arg;

    hv_call_off_starts(vms->hv);
}

void vms_leave(struct vms *vms)
{
    if (vms)
        vms->leaving = true;
}

void co_vms_free(struct vms *vms)
{
    struct io_timer patience;
    struct io *io;

    if (!vms)
        return;
    io = node_io(vms->node);
    vms_leave(vms);
    vms->stopping = true;
    co_cond_signal(&vms->changed);
    io_timer_init(&patience, lose_patience, vms);
    io_timer_arm(io, &patience, io_now_ns(io) + START_PATIENCE_NS);
    co_group_wait(&vms->group);
    io_timer_disarm(io, &patience);
    co_hv_free(vms->hv);
    vms->hv = NULL;
    co_group_wait(&vms->group); /* what VMs told until then */
    free(vms);
}
