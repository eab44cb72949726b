/* Virtual machines: definitions and wishes are records of the database; what a running VM does is
 * asked of its node. */
#include <stdio.h>
#include <sys/stat.h>

#include "csv-export/csv.h"
#include "hv/hv.h"
#include "s2d/base/co.h"
#include "s2d/cluster/lease.h"
#include "s2d/cluster/liveness.h"
#include "s2d/node/api_private.h"

#define POLL_NS (50 * MS)
#define START_NS (90 * SEC)
#define ENDED_NS (10 * SEC)
#define TIMEOUT_MS 60000
#define WISHES_MAX 5 /* that a stop is tried against starts, and a start against stops */
#define TIMEOUT_MS_MAX (24 * 3600 * 1000)
#define LOG_TAIL_BYTES (128 * KIB)
#define GENERATION_1_DISKS 4 /* on IDE */

static bool vm_runs(const struct vm_record *vm)
{
    return vm->incarnation > vm->ended;
}

/* ---- showing ---- */

static json_t *vm_json(const struct database *database, const void *record,
                       const struct api_reports *reports)
{
    const struct vm_record *vm = record;
    const json_t *status = api_report(reports, vm->node, "vms", vm->base.id);
    json_t *object = api_record_json(TABLE_VM, vm);
    struct health_verdict verdict;

    if (!object)
        return NULL;
    api_vm_health(database, vm, reports, &verdict);
    json_object_set_new(object, "health", json_string(health_words[verdict.state->health]));
    if (verdict.text[0])
        json_object_set_new(object, "reason", api_json_text(verdict.text));
    json_object_set_new(object, "state", json_string(vm_runs(vm) ? "running" : "stopped"));
    json_object_set_new(object, "node", vm->node ? api_node_name(database, vm->node) : json_null());
    if (status && vm_runs(vm)) {
        json_object_set(object, "status", (json_t *)status);
        json_object_set(object, "state", json_object_get(status, "state"));
        if (json_is_true(json_object_get(status, "no_space")))
            json_object_set_new(object, "state", json_string("paused"));
    } else if (vm_runs(vm)) {
        json_object_set_new(object, "state", json_string("starting"));
    }
    return object;
}

static struct hv *hv_of(struct api_context *context)
{
    return context->hv && context->vms ? context->hv(context->vms) : NULL;
}

json_t *api_vm_status(struct api_context *context, uint64_t vm)
{
    struct hv *hv = hv_of(context);
    struct hv_status status;

    if (!hv || hv_status(hv, vm, &status) < 0)
        return NULL;
    return json_pack("{s:s,s:I,s:I,s:I,s:I,s:b,s:s}", "state", hv_state_name(status.state),
                     "incarnation", (json_int_t)status.incarnation, "qemu_pid",
                     (json_int_t)status.qemu_pid, "keeper_pid", (json_int_t)status.keeper_pid,
                     "uptime_seconds", (json_int_t)(status.uptime_ns / SEC), "no_space",
                     status.no_space, "qmp_status", status.qmp_status);
}

static uint64_t vm_reporter(const struct database *database, const void *record)
{
    (void)database;
    return ((const struct vm_record *)record)->node;
}

static const struct api_kind vm_kind = {
    .table = TABLE_VM,
    .noun = "VM",
    .to_json = vm_json,
    .reporter = vm_reporter,
};

static void co_list(void *arg, const struct api_request *request, struct api_response *response)
{
    (void)request;
    co_api_list(arg, &vm_kind, response);
}

static void co_show(void *arg, const struct api_request *request, struct api_response *response)
{
    const struct vm_record *vm = api_record(arg, request, response, TABLE_VM, "vm");

    if (vm)
        co_api_answer(arg, &vm_kind, vm->base.id, response);
}

/* ---- definitions ---- */

/* A file that is there; that it is no other VM's is for the database to say. Returns false and
 * answers. */
static bool co_check_disk(struct api_context *context, const char *disk,
                          struct api_response *response)
{
    const char *slash = strchr(disk, '/');
    cleanup(csv_volume_putp) struct csv_volume *volume = NULL;
    char name[NAME_MAX_BYTES] = "";
    struct fs_attr attr;

    if (slash && (size_t)(slash - disk) < sizeof(name))
        memcpy(name, disk, slash - disk);
    volume = csv_volume_find(node_csv(context->node), name);
    if (!volume) {
        api_answer_error(response, -ENOENT,
                         "%.300s: there is no such volume: a disk is VOLUME/PATH", disk);
        return false;
    }
    if (co_csv_walk(volume, slash + 1, &attr) == 0 && S_ISREG(attr.mode))
        return true;
    api_answer_error(response, -ENOENT,
                     "%.300s: there is no such file: make it with 's2d file create' or 's2d file "
                     "import'",
                     disk);
    return false;
}

/* ---- making ---- */

struct vm_wanted {
    const char *name, *switch_name;
    uint64_t memory_bytes, vcpus, generation;
    json_t *disks;
};

static void co_propose_vm(struct api_context *context, const struct vm_wanted *wanted,
                          struct api_response *response)
{
    json_t *reply = NULL;

    if (co_api_propose(context,
                       json_pack("{s:s,s:s,s:I,s:I,s:I,s:O,s:s}", "verb", "vm.create", "name",
                                 wanted->name, "memory_bytes", (json_int_t)wanted->memory_bytes,
                                 "vcpus", (json_int_t)wanted->vcpus, "generation",
                                 (json_int_t)wanted->generation, "disks", wanted->disks,
                                 "switch_name", wanted->switch_name),
                       response, &reply) == 0)
        co_api_answer(context, &vm_kind, (uint64_t)json_integer_value(json_object_get(reply, "vm")),
                      response);
    json_decref(reply);
}

/* "vms/a/web.raw" of the VM web2's original becomes "vms/a/web2-web.raw". Returns 0 (*ret_disk: for
 * free()), or the error. */
static int co_clone_disk(struct api_context *context, const char *disk, const char *name,
                         char **ret_disk)
{
    cleanup(csv_volume_putp) struct csv_volume *volume = NULL;
    const char *path = strchr(disk, '/'), *base = strrchr(disk, '/');
    char volume_name[NAME_MAX_BYTES] = "", directory[CSV_PATH_MAX] = "", text[FS_NAME_MAX + 1];
    struct fs_attr from, dir, made;
    int r;

    if (!path || (size_t)(path - disk) >= sizeof(volume_name) ||
        (size_t)(base - path) >= sizeof(directory))
        return -EINVAL;
    memcpy(volume_name, disk, path - disk);
    memcpy(directory, path, base - path);
    if ((size_t)snprintf(text, sizeof(text), "%s-%s", name, base + 1) >= sizeof(text))
        return -ENAMETOOLONG;
    volume = csv_volume_find(node_csv(context->node), volume_name);
    if (!volume)
        return -ENOENT;
    r = co_csv_walk(volume, path + 1, &from);
    if (r == 0)
        r = co_csv_walk(volume, directory, &dir);
    if (r == 0)
        r = co_csv_clone_file(volume, from.ino, dir.ino, text, &made);
    if (r == 0 && asprintf(ret_disk, "%s%s/%s", volume_name, directory, text) < 0)
        r = -ENOMEM;
    return r;
}

static void co_remove_disk(struct api_context *context, const char *disk)
{
    cleanup(csv_volume_putp) struct csv_volume *volume = NULL;
    const char *path = strchr(disk, '/'), *base = strrchr(disk, '/');
    char volume_name[NAME_MAX_BYTES] = "", directory[CSV_PATH_MAX] = "";
    struct fs_attr dir;

    memcpy(volume_name, disk, path - disk); /* we put it together ourselves */
    memcpy(directory, path, base - path);
    volume = csv_volume_find(node_csv(context->node), volume_name);
    if (volume && co_csv_walk(volume, directory, &dir) == 0)
        (void)!co_csv_unlink(volume, dir.ino, base + 1);
}

/* disks: of the original; each is cloned as it is now. */
static void co_create_clone(struct api_context *context, struct vm_wanted *wanted,
                            const json_t *disks, struct api_response *response)
{
    bool unknown;

    wanted->disks = json_array();
    for (size_t i = 0; i < json_array_size(disks); i++) {
        const char *disk = json_string_value(json_array_get(disks, i));
        char *made = NULL;
        int r = co_clone_disk(context, disk, wanted->name, &made);

        if (r < 0) {
            api_answer_error(response, r, "%.300s cannot be cloned for VM %.64s: %s", disk,
                             wanted->name,
                             r == -EEXIST ? "a file of the clone's name is there" : strerror(-r));
            break;
        }
        json_array_append_new(wanted->disks, json_string(made));
        free(made);
    }
    if (response->error == 0)
        co_propose_vm(context, wanted, response);
    /* Nobody knows whether there is a VM now that needs them. */
    unknown = response->error == -ETIMEDOUT || response->error == -ECANCELED;
    for (size_t i = 0; response->error && !unknown && i < json_array_size(wanted->disks); i++)
        co_remove_disk(context, json_string_value(json_array_get(wanted->disks, i)));
    json_decref(wanted->disks);
}

static json_t *disks_of(const struct vm_record *vm)
{
    json_t *disks = json_array();

    for (uint64_t i = 0; i < vm->disk_count; i++)
        json_array_append_new(disks, json_string(vm->disks[i]));
    return disks;
}

/* {name, clone_of}: what is not given is as in the original. */
static void co_create_like(struct api_context *context, struct api_arguments *arguments,
                           struct api_response *response)
{
    const char *of = api_text(arguments, "clone_of"), *name = api_text(arguments, "name");
    const struct database *database = api_database(context, response);
    const struct vm_record *vm = NULL;
    struct vm_wanted wanted;
    char switch_name[NAME_MAX_BYTES];
    json_t *disks;

    if (!database || arguments->refused)
        return;
    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++) {
        if (strcmp(vm->name, name) == 0) {
            api_answer_error(response, -EEXIST, "there is a VM %.64s already", name);
            return;
        }
    }
    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++) {
        if (strcmp(vm->name, of) == 0)
            break;
    }
    if (!vm) {
        api_answer_error(response, -ENOENT, "there is no VM %.64s: 's2d vm list'", of);
        return;
    }
    snprintf(switch_name, sizeof(switch_name), "%s",
             api_text_or(arguments, "switch_name", vm->switch_name));
    wanted =
        (struct vm_wanted){.name = name,
                           .switch_name = switch_name,
                           .memory_bytes = api_u64_or(arguments, "memory_bytes", vm->memory_bytes),
                           .vcpus = api_u64_or(arguments, "vcpus", vm->vcpus),
                           .generation = vm->generation};
    disks = disks_of(vm);
    if (!arguments->refused)
        co_create_clone(context, &wanted, disks, response);
    json_decref(disks);
}

static void co_create_new(struct api_context *context, struct api_arguments *arguments,
                          struct api_response *response)
{
    struct vm_wanted wanted = {.name = api_text(arguments, "name"),
                               .switch_name = api_text_or(arguments, "switch_name", ""),
                               .memory_bytes = api_u64(arguments, "memory_bytes"),
                               .vcpus = api_u64_or(arguments, "vcpus", 1),
                               .generation = api_u64_or(arguments, "generation", 2)};
    const json_t *disks = api_list(arguments, "disks");
    size_t disks_max = wanted.generation == 1 ? GENERATION_1_DISKS : HV_DISKS_MAX;

    if (arguments->refused || !api_database(context, response))
        return;
    if (json_array_size(disks) > disks_max) {
        api_answer_error(response, -EINVAL, "a VM of generation %llu has at most %zu disks",
                         (unsigned long long)wanted.generation, disks_max);
        return;
    }
    for (size_t i = 0; i < json_array_size(disks); i++) {
        if (!co_check_disk(context, json_string_value(json_array_get(disks, i)), response))
            return;
    }
    wanted.disks = (json_t *)disks;
    co_propose_vm(context, &wanted, response);
}

static void co_create(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const of_a_new_one[] = {"name",  "memory_bytes", "vcpus", "generation",
                                               "disks", "switch_name",  NULL};
    /* It has the disks and the generation of its original. */
    static const char *const of_a_clone[] = {"name",  "clone_of",    "memory_bytes",
                                             "vcpus", "switch_name", NULL};
    bool is_clone = request->body && json_object_get(request->body, "clone_of");
    struct api_arguments arguments =
        api_arguments(request, response, is_clone ? of_a_clone : of_a_new_one);

    if (is_clone)
        co_create_like(arg, &arguments, response);
    else
        co_create_new(arg, &arguments, response);
}

static void co_delete(void *arg, const struct api_request *request, struct api_response *response)
{
    const struct vm_record *vm = api_record(arg, request, response, TABLE_VM, "vm");

    if (vm && co_api_propose(
                  arg, json_pack("{s:s,s:I}", "verb", "vm.delete", "vm", (json_int_t)vm->base.id),
                  response, NULL) == 0)
        api_answer_json(response, json_object());
}

/* ---- starting ---- */

/* The owner of its first disk's volume, where reads are local; else the node asked; else any. */
static uint64_t choose_node(struct api_context *context, const struct vm_record *vm)
{
    const struct database *database = node_database(context->node);
    const struct node_record *node,
        *self = database_find(database, TABLE_NODE, node_id(context->node));
    char name[NAME_MAX_BYTES];
    const struct volume_record *volume;
    const struct vdisk_record *vdisk;

    snprintf(name, sizeof(name), "%.*s", (int)MIN(strcspn(vm->disks[0], "/"), sizeof(name) - 1),
             vm->disks[0]);
    volume = database_find_name(database, TABLE_VOLUME, name);
    vdisk = volume ? database_find(database, TABLE_VDISK, volume->vdisk) : NULL;
    node = vdisk ? database_find(database, TABLE_NODE, vdisk->owner) : NULL;
    if (node && node->state == NODE_UP)
        return node->base.id;
    if (self && self->state == NODE_UP)
        return self->base.id;
    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        if (node->state == NODE_UP)
            return node->base.id;
    }
    return 0;
}

static bool says_running(const json_t *status, uint64_t incarnation)
{
    const char *state = json_string_value(json_object_get(status, "state"));

    return state && strcmp(state, "running") == 0 &&
           (uint64_t)json_integer_value(json_object_get(status, "incarnation")) == incarnation;
}

/* Until its node says that this incarnation runs. */
static void co_wait_running(struct api_context *context, uint64_t id, uint64_t incarnation,
                            struct api_response *response)
{
    uint64_t deadline_ns = io_now_ns(node_io(context->node)) + START_NS;

    for (;;) {
        const struct vm_record *vm = database_find(node_database(context->node), TABLE_VM, id);
        struct api_reports reports = {NULL};
        bool running;

        if (!vm || vm->ended >= incarnation) {
            api_answer_error(response, -EIO, "the VM has ended at once: %s", vm ? vm->reason : "");
            return;
        }
        co_api_gather_from(context, vm->node, &reports);
        vm = database_find(node_database(context->node), TABLE_VM, id);
        running = vm && says_running(api_report(&reports, vm->node, "vms", id), vm->incarnation);
        api_reports_done(&reports);
        if (running) {
            co_api_answer(context, &vm_kind, id, response);
            return;
        }
        if (io_now_ns(node_io(context->node)) >= deadline_ns || co_sleep_ns(POLL_NS) < 0) {
            api_answer_error(response, -EAGAIN,
                             "the VM is still being started: 's2d vm list' shows how it goes on");
            return;
        }
    }
}

/* Whoever still waits for his start wants it also after a stop that came first, or that this node
 * had not heard of; what nobody asks for again stays void. */
static int co_propose_start(struct api_context *context, uint64_t id, uint64_t to,
                            struct api_response *response, json_t **ret_reply)
{
    int r = -ESTALE;

    for (unsigned i = 0; i < WISHES_MAX && r == -ESTALE; i++) {
        const struct vm_record *vm = database_find(node_database(context->node), TABLE_VM, id);

        json_decref(*ret_reply);
        r = co_api_propose(context,
                           json_pack("{s:s,s:I,s:I,s:I,s:I}", "verb", "vm.start", "vm",
                                     (json_int_t)id, "node", (json_int_t)to, "incarnation",
                                     (json_int_t)(vm ? vm->incarnation : 0), "ended",
                                     (json_int_t)(vm ? vm->ended : 0)),
                           response, ret_reply);
    }
    return r;
}

/* {node}: where; chosen if it is not there. */
static void co_start(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"node", NULL};
    struct api_context *context = arg;
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *name = api_text_or(&arguments, "node", NULL);
    const struct vm_record *vm =
        arguments.refused ? NULL : api_record(arg, request, response, TABLE_VM, "vm");
    const struct node_record *node = vm && name ? api_node_named(context, name, response) : NULL;
    uint64_t id, to;
    json_t *reply = NULL;

    if (!vm || (name && !node))
        return;
    if (node && node->state != NODE_UP) {
        api_answer_error(response, -EAGAIN, "node %s is %s: choose another one", node->name,
                         node_state_words[node->state]);
        return;
    }
    to = node ? node->base.id : choose_node(context, vm);
    id = vm->base.id;
    if (to == 0) {
        api_answer_error(response, -EHOSTUNREACH, "no node is up that could run it");
        return;
    }
    if (co_propose_start(context, id, to, response, &reply) == 0)
        co_wait_running(context, id,
                        (uint64_t)json_integer_value(json_object_get(reply, "incarnation")),
                        response);
    json_decref(reply);
}

/* ---- ending ---- */

/* Until the database knows; its node tells it when nothing of it is left. */
static int co_wait_ended(struct api_context *context, uint64_t id, uint64_t incarnation)
{
    uint64_t deadline_ns = io_now_ns(node_io(context->node)) + ENDED_NS;

    for (;;) {
        const struct vm_record *vm = database_find(node_database(context->node), TABLE_VM, id);

        if (!vm || vm->ended >= incarnation)
            return 0;
        if (io_now_ns(node_io(context->node)) >= deadline_ns || co_sleep_ns(POLL_NS) < 0)
            return -ETIMEDOUT;
    }
}

static bool is_wanted(struct api_context *context, uint64_t id)
{
    const struct vm_record *vm = database_find(node_database(context->node), TABLE_VM, id);

    return vm && vm->wanted == VM_RUNNING;
}

/* A start that came first, or that this node had not heard of, is one more to be stopped. */
static int co_want_stopped(struct api_context *context, uint64_t id, struct api_response *response)
{
    int r = -ESTALE;

    for (unsigned i = 0; i < WISHES_MAX && r == -ESTALE; i++) {
        const struct vm_record *vm = database_find(node_database(context->node), TABLE_VM, id);

        r = co_api_propose(context,
                           json_pack("{s:s,s:I,s:s,s:I}", "verb", "vm.want", "vm", (json_int_t)id,
                                     "wanted", vm_state_words[VM_STOPPED], "incarnation",
                                     (json_int_t)(vm ? vm->incarnation : 0)),
                           response, NULL);
    }
    return r;
}

/* Its node is down: what may still live there is stopped by its keeper when the node's lease is
 * over, and killed when the node comes back and sees that this incarnation has ended. */
static int co_end_on_dead_node(struct api_context *context, uint64_t start_counter, uint64_t id,
                               uint64_t incarnation, struct api_response *response)
{
    if (co_sleep_ns(LEASE_NS + LEASE_MARGIN_NS) < 0) {
        api_answer_error(response, -ESHUTDOWN, "this daemon is stopping: ask another node");
        return -ESHUTDOWN;
    }
    return co_api_propose(context,
                          json_pack("{s:s,s:I,s:I,s:s,s:b,s:b,s:I}", "verb", "vm.ended", "vm",
                                    (json_int_t)id, "incarnation", (json_int_t)incarnation,
                                    "reason", "it was stopped while its node was down",
                                    "stay_stopped", true, "host_is_down", true,
                                    "host_start_counter", (json_int_t)start_counter),
                          response, NULL);
}

static int co_end_on_node(struct api_context *context, uint64_t node, uint64_t id,
                          uint64_t incarnation, const char *verb, uint64_t timeout_ms,
                          struct api_response *response)
{
    char target[64];

    snprintf(target, sizeof(target), "/v1/local/vms/%llu/%s", (unsigned long long)id, verb);
    return co_api_forward(context, node, API_POST, target,
                          json_pack("{s:I,s:I}", "timeout_ms", (json_int_t)timeout_ms,
                                    "incarnation", (json_int_t)incarnation),
                          timeout_ms * MS + API_ACTION_NS, response);
}

/* Whether the guest can be asked to shut down. Nothing is written for that, so what this node knows
 * must do, and without a lease it may be long out of date. Returns false and answers. */
static bool can_be_asked(struct api_context *context, const struct vm_record *vm,
                         struct api_response *response)
{
    const struct node_record *host =
        database_find(node_database(context->node), TABLE_NODE, vm->node);
    struct liveness *liveness = node_liveness(context->node);

    if (!liveness || !liveness_lease_held(liveness))
        api_answer_error(response, -EHOSTUNREACH,
                         "this node holds no lease, and may not know what runs: ask another node");
    else if (!vm_runs(vm))
        api_answer_error(response, -EALREADY, "VM %s does not run", vm->name);
    else if (!host || host->state == NODE_DOWN)
        api_answer_error(
            response, -EHOSTUNREACH,
            "its node is down, and the guest cannot be asked: 's2d vm kill %s' ends it", vm->name);
    else
        return true;
    return false;
}

/* The VM's record, as new as the wish that it shall not run, which came back through the log: what
 * this node knew before may be from before a start. NULL: answered. */
static const struct vm_record *co_want_it_stopped(struct api_context *context, uint64_t id,
                                                  struct api_response *response)
{
    const struct vm_record *vm;

    if (co_want_stopped(context, id, response) < 0)
        return NULL;
    vm = database_find(node_database(context->node), TABLE_VM, id);
    if (!vm)
        api_answer_error(response, -ENOENT, "the VM was deleted meanwhile");
    return vm;
}

/* Of an incarnation that runs, as far as this node knows. */
static void co_end_incarnation(struct api_context *context, const struct vm_record *vm,
                               const char *verb, uint64_t timeout_ms, struct api_response *response)
{
    uint64_t id = vm->base.id, incarnation = vm->incarnation;
    const struct node_record *host =
        database_find(node_database(context->node), TABLE_NODE, vm->node);
    bool asks = strcmp(verb, "shutdown") == 0, down = !host || host->state == NODE_DOWN;
    int r = down ? co_end_on_dead_node(context, host ? host->start_counter : 0, id, incarnation,
                                       response)
                 : co_end_on_node(context, vm->node, id, incarnation, verb, timeout_ms, response);

    if (r == 0 && co_wait_ended(context, id, incarnation) < 0)
        api_answer_error(response, -ETIMEDOUT,
                         "the VM has ended, but the cluster was not told yet: 's2d vm list'");
    else if (r == 0 && asks && is_wanted(context, id))
        api_answer_error(response, -EAGAIN,
                         "the VM failed before its guest had obeyed, or was started meanwhile, and "
                         "runs again soon: 's2d vm stop' ends it and keeps it so");
    else if (r == 0)
        co_api_answer(context, &vm_kind, id, response);
}

/* stop, shutdown, kill. {timeout_ms}. A shutdown asks the guest, and changes no wish until it has
 * obeyed; the others are wishes from the start, so that nobody starts it elsewhere meanwhile. */
static void co_end(struct api_context *context, const struct api_request *request, const char *verb,
                   struct api_response *response)
{
    static const char *const names[] = {"timeout_ms", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    uint64_t timeout_ms =
        MIN(api_u64_or(&arguments, "timeout_ms", TIMEOUT_MS), (uint64_t)TIMEOUT_MS_MAX);
    const struct vm_record *vm =
        arguments.refused ? NULL : api_record(context, request, response, TABLE_VM, "vm");
    bool was_wanted;

    if (!vm)
        return;
    was_wanted = vm->wanted == VM_RUNNING;
    if (strcmp(verb, "shutdown") == 0)
        vm = can_be_asked(context, vm, response) ? vm : NULL;
    else
        vm = co_want_it_stopped(context, vm->base.id, response);
    if (!vm)
        return;
    if (vm_runs(vm))
        co_end_incarnation(context, vm, verb, timeout_ms, response);
    else if (was_wanted) /* it had ended, and waited for its restart */
        co_api_answer(context, &vm_kind, vm->base.id, response);
    else
        api_answer_error(response, -EALREADY, "VM %s does not run", vm->name);
}

static void co_stop(void *arg, const struct api_request *request, struct api_response *response)
{
    co_end(arg, request, "stop", response);
}

static void co_shutdown(void *arg, const struct api_request *request, struct api_response *response)
{
    co_end(arg, request, "shutdown", response);
}

static void co_kill(void *arg, const struct api_request *request, struct api_response *response)
{
    co_end(arg, request, "kill", response);
}

/* ---- the console ---- */

static void co_at_node(struct api_context *context, const struct api_request *request,
                       const char *what, struct api_response *response)
{
    const struct vm_record *vm = api_record(context, request, response, TABLE_VM, "vm");
    char target[64];

    if (!vm)
        return;
    if (!vm_runs(vm)) {
        api_answer_error(response, -EAGAIN, "VM %s does not run: 's2d vm start %s'", vm->name,
                         vm->name);
        return;
    }
    snprintf(target, sizeof(target), "/v1/local/vms/%llu/%s", (unsigned long long)vm->base.id,
             what);
    (void)!co_api_forward(context, vm->node, API_GET, target, NULL, API_STATUS_NS, response);
}

static void co_console(void *arg, const struct api_request *request, struct api_response *response)
{
    co_at_node(arg, request, "console", response);
}

static void co_console_log(void *arg, const struct api_request *request,
                           struct api_response *response)
{
    co_at_node(arg, request, "console-log", response);
}

const struct api_route api_vm_routes[] = {
    {API_GET, "/v1/vms", co_list},
    {API_POST, "/v1/vms", co_create},
    {API_GET, "/v1/vms/{vm}", co_show},
    {API_DELETE, "/v1/vms/{vm}", co_delete},
    {API_POST, "/v1/vms/{vm}/start", co_start},
    {API_POST, "/v1/vms/{vm}/stop", co_stop},
    {API_POST, "/v1/vms/{vm}/shutdown", co_shutdown},
    {API_POST, "/v1/vms/{vm}/kill", co_kill},
    {API_GET, "/v1/vms/{vm}/console", co_console},
    {API_GET, "/v1/vms/{vm}/console-log", co_console_log},
    {0, NULL, NULL},
};
