#include "hv/hv.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "hv/hv_internal.h"
#include "s2d/base/log.h"
#include "s2d/base/planted.h"

#define POWER_BUTTON_NS (10 * SEC) /* a guest that boots does not notice: it is pressed again */
#define QMP_TIMEOUT_NS (10 * SEC)

/* ---- the object ---- */

void hv_set_error(struct hv *hv, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(hv->error, sizeof(hv->error), format, arguments);
    va_end(arguments);
}

const char *hv_error(const struct hv *hv)
{
    return hv->error;
}

enum hv_accel hv_accel(const struct hv *hv)
{
    return hv->accel;
}

static void hv_delete(struct hv *hv)
{
    free((char *)hv->options.dir);
    free((char *)hv->options.nbd_socket);
    free((char *)hv->options.keeper);
    free((char *)hv->options.qemu);
    free((char *)hv->options.firmware);
    free(hv->probe);
    free(hv);
}

/* path of a program in the same folder as `beside` (NULL: as the running program). */
static char *program_beside(const char *beside, const char *name)
{
    char self[HV_PATH_BYTES];
    const char *slash;
    char *path;

    if (!beside) {
        ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

        self[MAX(length, 0)] = 0;
        beside = self;
    }
    slash = strrchr(beside, '/');
    if (asprintf(&path, "%.*s%s", slash ? (int)(slash - beside) + 1 : 0, beside, name) < 0)
        return NULL;
    return path;
}

static int copy_options(struct hv *hv, const struct hv_options *options)
{
    hv->options = *options;
    hv->options.dir = strdup(options->dir);
    hv->options.nbd_socket = strdup(options->nbd_socket);
    hv->options.keeper =
        options->keeper ? strdup(options->keeper) : program_beside(NULL, "s2d-keeper");
    hv->options.qemu = strdup(options->qemu ?: "qemu-system-x86_64");
    hv->options.firmware = strdup(options->firmware ?: "/usr/share/OVMF");
    if (!hv->options.dir || !hv->options.nbd_socket || !hv->options.keeper || !hv->options.qemu ||
        !hv->options.firmware)
        return -ENOMEM;
    hv->probe = program_beside(hv->options.keeper, "s2d-kvm-probe");
    return hv->probe ? 0 : -ENOMEM;
}

int hv_new(struct io *io, const struct hv_options *options, struct hv **ret_hv)
{
    struct hv *hv;
    int r;

    if (!options->dir || options->dir[0] != '/' || !options->nbd_socket ||
        options->nbd_socket[0] != '/')
        return -EINVAL;
    if (strlen(options->nbd_socket) > HV_SOCKET_PATH_MAX)
        return -ENAMETOOLONG;
    hv = calloc(1, sizeof(*hv));
    if (!hv)
        return -ENOMEM;
    hv->io = io;
    list_init(&hv->vms);
    co_cond_init(&hv->changed);
    co_group_init(&hv->watchers);
    hv->accel = options->accel;
    hv->host = options->host ?: keeper_host_linux();
    r = copy_options(hv, options);
    if (r < 0) {
        hv_delete(hv);
        return r;
    }
    *ret_hv = hv;
    return 0;
}

void co_hv_free(struct hv *hv)
{
    if (!hv)
        return;
    if (hv->housekeeper)
        co_cancel(hv->housekeeper);
    list_for_each (node, &hv->vms)
        co_cancel(list_entry(node, struct vm, node)->watcher);
    co_group_wait(&hv->watchers);
    assert(list_empty(&hv->vms));
    hv_delete(hv);
}

struct vm *hv_find(const struct hv *hv, uint64_t vm_id)
{
    list_for_each (node, &hv->vms) {
        struct vm *vm = list_entry(node, struct vm, node);

        if (vm->id == vm_id)
            return vm;
    }
    return NULL;
}

/* ---- lease ---- */

unsigned hv_renew(struct hv *hv, uint64_t deadline_ns)
{
    uint64_t now_ns = io_clock_ns(hv->io);
    unsigned waiting = 0;

    if (hv->deadline_ns <= now_ns)
        hv->lapses++;
    hv->deadline_ns = deadline_ns;
    list_for_each (node, &hv->vms) {
        struct vm *vm = list_entry(node, struct vm, node);

        if (!vm->keeper || vm->gone)
            continue;
        if (PLANTED(VM_RENEWAL_CONTINUES))
            keeper_continue(vm->keeper, deadline_ns);
        else if (vm_lapsed(vm, now_ns))
            waiting++;
        else
            keeper_renew(vm->keeper, deadline_ns);
    }
    return waiting;
}

void hv_judge(struct hv *hv, hv_is_current *is_current, void *arg)
{
    uint64_t now_ns = io_clock_ns(hv->io);

    if (hv->deadline_ns <= now_ns)
        return; /* no lease: nothing may go on, and who is current is not known */
    list_for_each (node, &hv->vms) {
        struct vm *vm = list_entry(node, struct vm, node);

        if (vm->keeper && !vm->gone && !vm->killed && vm_lapsed(vm, now_ns))
            vm_judge(vm, is_current, arg);
    }
}

/* ---- stop ---- */

/* NULL: it is not here; another incarnation of the VM may be. */
static struct vm *find_incarnation(const struct hv *hv, uint64_t vm_id, uint64_t incarnation)
{
    struct vm *vm = hv_find(hv, vm_id);

    return vm && vm->incarnation == incarnation ? vm : NULL;
}

/* Suspends until the incarnation is not in the table any more. */
static int co_wait_ended(struct hv *hv, uint64_t vm_id, uint64_t incarnation, uint64_t deadline_ns)
{
    while (find_incarnation(hv, vm_id, incarnation)) {
        int r = co_cond_wait_until(&hv->changed, deadline_ns);

        if (r < 0)
            return r;
    }
    return 0;
}

int co_hv_kill(struct hv *hv, uint64_t vm_id, uint64_t incarnation)
{
    struct vm *vm = find_incarnation(hv, vm_id, incarnation);

    if (!vm)
        return -ENOENT;
    vm_kill(vm, "killed by the administrator");
    return co_wait_ended(hv, vm_id, incarnation, UINT64_MAX);
}

int co_hv_shutdown(struct hv *hv, uint64_t vm_id, uint64_t incarnation, uint64_t timeout_ns)
{
    struct vm *vm = find_incarnation(hv, vm_id, incarnation);
    uint64_t deadline_ns = io_now_ns(hv->io) + timeout_ns;
    int r = -ETIMEDOUT;

    if (!vm)
        return -ENOENT;
    while (r == -ETIMEDOUT) {
        if (vm->qmp && co_qmp_execute(vm->qmp, "system_powerdown", NULL, QMP_TIMEOUT_NS, NULL) < 0)
            log_debug(hv->io, "hv", "the power button was not pressed: QMP does not answer",
                      "vm=%llu", (unsigned long long)vm_id);
        r = co_wait_ended(hv, vm_id, incarnation,
                          MIN(deadline_ns, io_now_ns(hv->io) + POWER_BUTTON_NS));
        if (io_now_ns(hv->io) >= deadline_ns)
            break;
        vm = find_incarnation(hv, vm_id, incarnation);
        if (r == -ETIMEDOUT && !vm)
            return 0; /* it ended as the time did */
    }
    return r;
}

int co_hv_stop(struct hv *hv, uint64_t vm_id, uint64_t incarnation, uint64_t timeout_ns)
{
    int r = co_hv_shutdown(hv, vm_id, incarnation, timeout_ns);

    if (r != -ETIMEDOUT)
        return r;
    r = co_hv_kill(hv, vm_id, incarnation);
    return r == -ENOENT ? 0 : r; /* it ended as the time did */
}

/* ---- what is there ---- */

static enum hv_state vm_state(const struct vm *vm)
{
    if (vm->gone || vm->killed)
        return HV_ENDING;
    if (!vm->keeper || vm->starting)
        return HV_STARTING;
    switch (keeper_state(vm->keeper)) {
    case KEEPER_STARTING:
        return HV_STARTING;
    case KEEPER_RUNNING:
        return HV_RUNNING;
    case KEEPER_STOPPING:
    case KEEPER_STOPPED:
        return HV_PAUSED;
    case KEEPER_KILLING:
    case KEEPER_ENDED:
        return HV_ENDING;
    }
    return HV_ENDING;
}

enum hv_state hv_state(const struct hv *hv, uint64_t vm_id)
{
    const struct vm *vm = hv_find(hv, vm_id);

    return vm ? vm_state(vm) : HV_NONE;
}

const char *hv_state_name(enum hv_state state)
{
    static const char *const names[] = {
        [HV_NONE] = "off",      [HV_STARTING] = "starting", [HV_RUNNING] = "running",
        [HV_PAUSED] = "paused", [HV_ENDING] = "ending",
    };

    return names[state];
}

static struct hv_status vm_status(const struct vm *vm)
{
    struct hv_status status = {.id = vm->id,
                               .incarnation = vm->incarnation,
                               .name = vm->name,
                               .state = vm_state(vm),
                               .no_space = vm->no_space,
                               .qmp_status = vm->qmp ? vm->qmp_status : "unknown"};
    const struct keeper_memory *memory;

    if (!vm->keeper)
        return status;
    memory = keeper_memory(vm->keeper);
    status.keeper_pid = (int)atomic_load(&memory->keeper_pid);
    status.qemu_pid = (int)atomic_load(&memory->qemu_pid);
    status.uptime_ns =
        io_now_ns(vm->hv->io) - MIN(atomic_load(&memory->started_ns), io_now_ns(vm->hv->io));
    return status;
}

void hv_list(const struct hv *hv, void (*fn)(void *arg, const struct hv_status *status), void *arg)
{
    list_for_each (node, &hv->vms) {
        struct hv_status status = vm_status(list_entry(node, struct vm, node));

        fn(arg, &status);
    }
}

int hv_status(const struct hv *hv, uint64_t vm_id, struct hv_status *ret_status)
{
    const struct vm *vm = hv_find(hv, vm_id);

    if (!vm)
        return -ENOENT;
    *ret_status = vm_status(vm);
    return 0;
}

static int file_of(const struct hv *hv, uint64_t vm_id, const char *file, char *path, size_t size)
{
    const struct vm *vm = hv_find(hv, vm_id);

    if (!vm)
        return -ENOENT;
    return snprintf(path, size, "%s/%s", vm->folder, file) < (int)size ? 0 : -ENAMETOOLONG;
}

int hv_console(const struct hv *hv, uint64_t vm_id, char *path, size_t size)
{
    return file_of(hv, vm_id, QEMU_CONSOLE_SOCKET, path, size);
}

int hv_console_log(const struct hv *hv, uint64_t vm_id, char *path, size_t size)
{
    return file_of(hv, vm_id, QEMU_CONSOLE_LOG, path, size);
}
