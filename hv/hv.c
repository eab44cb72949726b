#include "hv/hv.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/hv_internal.h"
#include "s2d/base/log.h"

#define START_TIMEOUT_NS (60 * SEC) /* QEMU opens its disks before QMP answers */
#define PREDECESSOR_TIMEOUT_NS (5 * SEC)
#define ADOPT_RETRY_NS (50 * MS)
#define ADOPT_RETRIES 100
#define POWER_BUTTON_NS (10 * SEC) /* a guest that boots does not notice: it is pressed again */
#define QMP_TIMEOUT_NS (10 * SEC)
#define HOUSEKEEPING_NS (10 * SEC)
#define TCG_NICE 5 /* guests that are computed must not take the daemon's CPU */

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
        if (vm_lapsed(vm, now_ns))
            waiting++;
        else
            keeper_renew(vm->keeper, deadline_ns);
    }
    return waiting;
}

static void judge(struct vm *vm, hv_is_current *is_current, void *arg)
{
    struct hv *hv = vm->hv;

    if (!is_current(arg, vm->id, vm->incarnation)) {
        vm_kill(vm, "this incarnation is not the VM's present one");
        return;
    }
    log_info(hv->io, "hv", "VM goes on: its incarnation is current", "vm=%s incarnation=%llu",
             vm->name, (unsigned long long)vm->incarnation);
    keeper_continue(vm->keeper, hv->deadline_ns);
    co_cond_broadcast(&hv->changed);
}

void hv_judge(struct hv *hv, hv_is_current *is_current, void *arg)
{
    uint64_t now_ns = io_clock_ns(hv->io);

    if (hv->deadline_ns <= now_ns)
        return; /* no lease: nothing may go on, and who is current is not known */
    list_for_each (node, &hv->vms) {
        struct vm *vm = list_entry(node, struct vm, node);

        if (vm->keeper && !vm->gone && !vm->killed && vm_lapsed(vm, now_ns))
            judge(vm, is_current, arg);
    }
}

/* ---- start ---- */

struct start_job {
    const struct vm *vm;
    const struct hv_definition *definition;
    const struct hv *hv;
    struct keeper_link *link;
    int result;
    char why[HV_REASON_BYTES];
};

static int fail_job(struct start_job *job, const char *what, const char *path)
{
    int error = errno;

    snprintf(job->why, sizeof(job->why), "%s %.160s: %s", what, path, strerror(error));
    return error ? -error : -EIO;
}

static int make_folder(struct start_job *job, const char *path)
{
    return mkdir(path, 0700) < 0 && errno != EEXIST ? fail_job(job, "cannot create", path) : 0;
}

/* The VM's own UEFI variables: made once on each node, then kept. */
static int copy_variables(struct start_job *job)
{
    char from[HV_PATH_BYTES], to[HV_PATH_BYTES], part[HV_PATH_BYTES];
    cleanup(freep) char *buffer = malloc(MIB);
    FILE *source, *target;
    size_t length;
    bool copied;

    vm_path(job->vm, QEMU_VARS_FILE, to);
    vm_path(job->vm, "vars.new", part);
    snprintf(from, sizeof(from), "%s/" QEMU_VARS_NAME, job->hv->options.firmware);
    if (access(to, F_OK) == 0)
        return 0;
    source = fopen(from, "re");
    if (!source || !buffer)
        return fail_job(job, "cannot read", from);
    length = fread(buffer, 1, MIB, source);
    fclose(source);
    target = fopen(part, "we");
    if (!target)
        return fail_job(job, "cannot create", part);
    copied = fwrite(buffer, 1, length, target) == length;
    if (fclose(target) != 0 || !copied || rename(part, to) < 0)
        return fail_job(job, "cannot write", part);
    return 0;
}

static int prepare_folder(struct start_job *job)
{
    static const char *const sockets[] = {QEMU_QMP_SOCKET, QEMU_CONSOLE_SOCKET, QEMU_AGENT_SOCKET};
    char path[HV_PATH_BYTES];
    int r;

    snprintf(path, sizeof(path), "%s/vms", job->hv->options.dir);
    r = make_folder(job, path);
    if (r == 0)
        r = make_folder(job, job->vm->folder);
    if (r == 0 && job->definition->generation == 2)
        r = copy_variables(job);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(sockets); i++) {
        vm_path(job->vm, sockets[i], path);
        if (unlink(path) < 0 && errno != ENOENT)
            r = fail_job(job, "cannot remove", path);
    }
    return r;
}

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
                                 .deadline_ns = hv->deadline_ns,
                                 .nice = hv->accel == HV_ACCEL_TCG ? TCG_NICE : 0};
    int r = qemu_command_new(job->definition, &host, &argv);

    if (r < 0)
        return r;
    order.argv = argv;
    r = keeper_start(&order, &job->link);
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

    job->result = prepare_folder(job);
    if (job->result == 0)
        job->result = start_keeper(job);
}

/* The keeper was started; whatever fails from here on, it has to go. */
static int co_abandon(struct vm *vm, int error)
{
    struct hv *hv = vm->hv;
    int r;

    vm_kill(vm, "its start failed");
    r = co_wait_gone(hv->io, vm->folder, UINT64_MAX);
    vm_free(vm);
    return r < 0 ? r : error;
}

static int co_start_keeper(struct vm *vm, const struct hv_definition *definition)
{
    struct hv *hv = vm->hv;
    struct start_job job = {.vm = vm, .definition = definition, .hv = hv};
    uint64_t lapses = hv->lapses;
    int r;

    r = co_wait_gone(hv->io, vm->folder, io_now_ns(hv->io) + PREDECESSOR_TIMEOUT_NS);
    if (r < 0) {
        hv_set_error(hv, "an earlier QEMU of this VM still lives");
        return r == -ETIMEDOUT ? -EBUSY : r;
    }
    if (hv->deadline_ns <= io_clock_ns(hv->io)) {
        hv_set_error(hv, "the node holds no lease");
        return -ESTALE;
    }
    co_offload(hv->io, run_start_job, &job);
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
    return vm->gone ? -EIO : 0;
}

static int check_start(struct hv *hv, const struct hv_definition *definition)
{
    const char *why;
    int r;

    assert(hv->accel != HV_ACCEL_AUTO); /* co_hv_recover() comes first */
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

static void plug_in(struct vm *vm, const char *bridge)
{
    char tap[QEMU_TAP_BYTES];
    int r;

    qemu_tap_name(vm->id, tap);
    r = bridge_attach(bridge, tap);
    if (r < 0)
        log_warn(vm->hv->io, "hv", "a VM has no network: its interface could not be attached",
                 "vm=%s bridge=%s error=\"%s\"", vm->name, bridge, strerror(-r));
}

int co_hv_start(struct hv *hv, const struct hv_definition *definition)
{
    struct vm *vm;
    int r;

    hv->error[0] = 0;
    r = check_start(hv, definition);
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
    if (r == -EIO) {
        hv_set_error(hv, "%s", vm->reason);
        vm_free(vm);
        return r;
    }
    vm->starting = false; /* also if we were cancelled: then its end will be reported */
    if (r == 0 && definition->switch_name && definition->switch_name[0])
        plug_in(vm, definition->switch_name);
    return r;
}

/* ---- stop ---- */

/* Suspends until the incarnation is not in the table any more. */
static int co_wait_ended(struct hv *hv, uint64_t vm_id, uint64_t incarnation, uint64_t deadline_ns)
{
    for (;;) {
        const struct vm *vm = hv_find(hv, vm_id);
        int r;

        if (!vm || vm->incarnation != incarnation)
            return 0;
        r = co_cond_wait_until(&hv->changed, deadline_ns);
        if (r < 0)
            return r;
    }
}

int co_hv_kill(struct hv *hv, uint64_t vm_id)
{
    struct vm *vm = hv_find(hv, vm_id);

    if (!vm)
        return -ENOENT;
    vm_kill(vm, "killed by the administrator");
    return co_wait_ended(hv, vm_id, vm->incarnation, UINT64_MAX);
}

int co_hv_shutdown(struct hv *hv, uint64_t vm_id, uint64_t timeout_ns)
{
    struct vm *vm = hv_find(hv, vm_id);
    uint64_t deadline_ns = io_now_ns(hv->io) + timeout_ns;
    uint64_t incarnation;
    int r = -ETIMEDOUT;

    if (!vm)
        return -ENOENT;
    incarnation = vm->incarnation;
    while (r == -ETIMEDOUT) {
        if (vm->qmp && co_qmp_execute(vm->qmp, "system_powerdown", NULL, QMP_TIMEOUT_NS, NULL) < 0)
            log_debug(hv->io, "hv", "the power button was not pressed: QMP does not answer",
                      "vm=%llu", (unsigned long long)vm_id);
        r = co_wait_ended(hv, vm_id, incarnation,
                          MIN(deadline_ns, io_now_ns(hv->io) + POWER_BUTTON_NS));
        if (io_now_ns(hv->io) >= deadline_ns)
            break;
        vm = hv_find(hv, vm_id);
        assert(r != -ETIMEDOUT || vm);
    }
    return r;
}

int co_hv_stop(struct hv *hv, uint64_t vm_id, uint64_t timeout_ns)
{
    const struct vm *vm = hv_find(hv, vm_id);
    uint64_t incarnation = vm ? vm->incarnation : 0;
    int r = co_hv_shutdown(hv, vm_id, timeout_ns);

    if (r != -ETIMEDOUT)
        return r;
    vm = hv_find(hv, vm_id);
    if (!vm || vm->incarnation != incarnation)
        return 0;
    return co_hv_kill(hv, vm_id);
}

/* ---- recovery ---- */

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

static void co_choose_accel(struct hv *hv)
{
    struct accel_job job = {.hv = hv};

    hv->accel = hv->options.accel;
    if (hv->accel != HV_ACCEL_AUTO)
        return;
    co_offload(hv->io, run_accel_job, &job);
    hv->accel = job.result == 0 ? HV_ACCEL_KVM : HV_ACCEL_TCG;
    if (job.result < 0)
        log_warn(hv->io, "hv", "KVM cannot be used, VMs run emulated and slow", "reason=\"%s\"",
                 job.why);
}

struct folder_job {
    const char *dir;
    char (*names)[HV_NAME_BYTES]; /* HV_VMS_MAX of them */
    size_t count;
    int result;
};

static void run_folder_job(void *arg)
{
    struct folder_job *job = arg;
    char path[HV_PATH_BYTES];
    struct dirent *entry;
    DIR *folder;

    snprintf(path, sizeof(path), "%s/vms", job->dir);
    folder = opendir(path);
    if (!folder) {
        job->result = errno == ENOENT ? 0 : -errno;
        return;
    }
    while ((entry = readdir(folder)) && job->count < HV_VMS_MAX) {
        if (entry->d_name[0] != '.' && strlen(entry->d_name) < HV_NAME_BYTES)
            strcpy(job->names[job->count++], entry->d_name);
    }
    closedir(folder);
}

struct adopt_job {
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

    if (job->terminate)
        keeper_terminate(job->folder);
    job->result = keeper_adopt(job->folder, &job->link);
    if (job->result == -ENOENT && keeper_outcome(job->folder, &job->outcome) == 0) {
        job->unreported = true;
        vm_read_end(job->folder, &job->outcome, &job->cause, job->reason);
    }
}

static void run_forget_folder(void *arg)
{
    keeper_forget(arg);
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
    if (hv->options.on_ended)
        hv->options.on_ended(hv->options.arg, &end);
    co_offload(hv->io, run_forget_folder, job->folder);
}

static int take_up(struct hv *hv, const char *name, struct keeper_link *link,
                   hv_is_current *is_current, void *arg)
{
    const struct keeper_memory *memory = keeper_memory(link);
    struct vm *vm;
    int r = vm_new(hv, memory->vm_id, memory->incarnation, name, &vm);

    if (r < 0) {
        keeper_kill(link);
        keeper_link_free(link);
        return r;
    }
    vm->keeper = link;
    r = vm_watch(vm);
    if (r < 0) {
        keeper_kill(link);
        vm_free(vm);
        return r;
    }
    judge(vm, is_current, arg);
    return 0;
}

/* A keeper may be in the middle of starting or ending: that passes. One that cannot be talked to is
 * ended. */
static int co_recover_one(struct hv *hv, const char *name, hv_is_current *is_current, void *arg)
{
    struct adopt_job job = {.result = -EAGAIN};
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

/* Guests may print without end; what is kept of it is bounded. QEMU appends, so it goes on at the
 * new end. */
static void run_trim_job(void *arg)
{
    const char *path = arg;
    struct stat status;

    if (stat(path, &status) == 0 && status.st_size > (off_t)CONSOLE_LOG_MAX &&
        truncate(path, 0) < 0)
        return;
}

static void co_housekeeping(void *arg)
{
    struct hv *hv = arg;

    while (co_sleep_ns(HOUSEKEEPING_NS) == 0) {
        for (size_t i = 0; i < hv->vm_count; i++) {
            struct list *node = hv->vms.next;
            char path[HV_PATH_BYTES];

            for (size_t skip = i; skip > 0; skip--)
                node = node->next; /* the table may change while we are suspended */
            vm_path(list_entry(node, struct vm, node), QEMU_CONSOLE_LOG, path);
            co_offload(hv->io, run_trim_job, path);
        }
    }
    hv->housekeeper = NULL;
    co_group_done(&hv->watchers);
}

static bool any_killed(const struct hv *hv)
{
    list_for_each (node, &hv->vms) {
        if (list_entry(node, struct vm, node)->killed)
            return true;
    }
    return false;
}

int co_hv_recover(struct hv *hv, hv_is_current *is_current, void *arg)
{
    cleanup(freep) char(*names)[HV_NAME_BYTES] = calloc(HV_VMS_MAX, HV_NAME_BYTES);
    struct folder_job job = {.dir = hv->options.dir, .names = names};
    int result = 0, r;

    if (!names)
        return -ENOMEM;
    co_choose_accel(hv);
    co_offload(hv->io, run_folder_job, &job);
    if (job.result < 0)
        return job.result;
    for (size_t i = 0; i < job.count; i++) {
        r = co_recover_one(hv, names[i], is_current, arg);
        if (r == -ECANCELED)
            return r;
        if (r < 0) {
            log_error(hv->io, "hv", "a VM that was left here could not be taken up",
                      "vm=%s error=\"%s\"", names[i], strerror(-r));
            result = r;
        }
    }
    while (any_killed(hv)) {
        r = co_cond_wait(&hv->changed);
        if (r < 0)
            return r;
    }
    co_group_add(&hv->watchers, 1);
    r = co_spawn_handle(hv->io, "hv-housekeeping", co_housekeeping, hv, &hv->housekeeper);
    if (r < 0) {
        co_group_done(&hv->watchers);
        return r;
    }
    return result;
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
    return HV_ENDING; /* a keeper that writes nonsense is as good as gone */
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
