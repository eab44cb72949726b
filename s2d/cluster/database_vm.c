/* Verbs of virtual machines, jobs and events.
 *
 * A VM's incarnation is raised by the command that starts it anywhere; its disks open only for the
 * present one. The command names the incarnation it was decided on, so that two starts cannot both
 * win. It is the command's index: the disks know no VMs, and one that is made again with a disk of
 * a deleted one must not begin with numbers that the deleted one had, nor let them in before its
 * first start. */
#include <stdio.h>

#include "s2d/cluster/database_internal.h"

#define VM_MEMORY_MIN (16 * MIB)
#define VM_MEMORY_MAX (4096 * GIB)
#define VM_VCPUS_MAX 255
#define DISK_NAME_MAX                                                                              \
    480 /* what an export's name, with the incarnation behind it, has room for                     \
         */

static bool vm_runs(const struct vm_record *vm)
{
    return vm->incarnation > vm->ended;
}

static const struct vm_record *vm_with_disk(const struct database *database, const char *text)
{
    const struct vm_record *vm;

    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++) {
        for (uint64_t j = 0; j < vm->disk_count; j++) {
            if (strcmp(vm->disks[j], text) == 0)
                return vm;
        }
    }
    return NULL;
}

static bool is_named_before(const json_t *disks, size_t index)
{
    const char *text = json_string_value(json_array_get(disks, index));

    for (size_t i = 0; i < index; i++) {
        const char *other = json_string_value(json_array_get(disks, i));

        if (text && other && strcmp(text, other) == 0)
            return true;
    }
    return false;
}

/* A file has one path without empty names in it, and others with them. */
static bool has_empty_name(const char *path)
{
    return path[0] == '/' || strstr(path, "//") || path[strlen(path) - 1] == '/';
}

/* Whether text is VOLUME/PATH, the volume is there, and the disk is no other VM's: two that write
 * to it would spoil it, and a node that looked before it asked may not have known of the other. */
static void check_disk(struct command *command, const char *text)
{
    const struct vm_record *other = text ? vm_with_disk(command->database, text) : NULL;
    const char *slash = text ? strchr(text, '/') : NULL;
    char volume[NAME_MAX_BYTES];

    if (!slash || !slash[1] || (size_t)(slash - text) >= sizeof(volume) || slash == text ||
        strlen(text) > DISK_NAME_MAX || has_empty_name(slash + 1)) {
        command_refuse(command, -EINVAL,
                       "a disk is named VOLUME/PATH, at most %d bytes, with one '/' between names",
                       DISK_NAME_MAX);
        return;
    }
    memcpy(volume, text, slash - text);
    volume[slash - text] = '\0';
    if (!database_find_name(command->database, TABLE_VOLUME, volume))
        command_refuse(command, -ENOENT, "there is no volume called '%s'", volume);
    if (other)
        command_refuse(command, -EBUSY, "%.160s is a disk of VM %s already", text, other->name);
}

/* {name, memory_bytes, vcpus, generation, disks: […], switch_name} */
static void vm_create(struct command *command)
{
    struct database *database = command->database;
    const char *name = command_new_name(command, "name", TABLE_VM);
    uint64_t memory_bytes = command_u64(command, "memory_bytes");
    uint64_t vcpus = command_u64(command, "vcpus");
    uint64_t generation = command_u64_or(command, "generation", 2);
    const json_t *disks = command_list(command, "disks");
    const char *switch_name = command_text_or(command, "switch_name", "");
    struct vm_record *vm;

    if (switch_name[0] && !name_is_valid(switch_name))
        command_refuse(command, -EINVAL, "'%s' cannot name a switch", switch_name);
    if (database_count(database, TABLE_VM) >= VMS_MAX)
        command_refuse(command, -ENOSPC, "a cluster has at most %d VMs", VMS_MAX);
    if (memory_bytes < VM_MEMORY_MIN || memory_bytes > VM_MEMORY_MAX || memory_bytes % MIB)
        command_refuse(command, -EINVAL, "a VM has from 16 MiB to 4 TiB of memory, in whole MiB");
    if (vcpus < 1 || vcpus > VM_VCPUS_MAX)
        command_refuse(command, -EINVAL, "a VM has from 1 to %d virtual CPUs", VM_VCPUS_MAX);
    if (generation != 1 && generation != 2)
        command_refuse(command, -EINVAL, "the generation is 1 (BIOS) or 2 (UEFI)");
    if (json_array_size(disks) > VM_DISKS_MAX || json_array_size(disks) == 0)
        command_refuse(command, -EINVAL, "a VM has from 1 to %d disks", VM_DISKS_MAX);
    for (size_t i = 0; i < json_array_size(disks); i++) {
        check_disk(command, json_string_value(json_array_get(disks, i)));
        if (is_named_before(disks, i))
            command_refuse(command, -EINVAL, "a disk is named twice");
    }
    if (command_refused(command))
        return;
    vm = record_new(TABLE_VM, database_new_id(database));
    if (!vm)
        abort();
    vm->disk_count = json_array_size(disks);
    for (size_t i = 0; i < vm->disk_count; i++)
        SET_TEXT(vm->disks[i], json_string_value(json_array_get(disks, i)));
    SET_TEXT(vm->name, name);
    SET_TEXT(vm->switch_name, switch_name);
    vm->memory_bytes = memory_bytes;
    vm->vcpus = vcpus;
    vm->generation = generation;
    vm->wanted = VM_STOPPED;
    vm->ended = command->index; /* whoever names an incarnation up to here names a deleted VM's */
    database_put(database, TABLE_VM, vm);
    command->result->reply = json_pack("{s:I}", "vm", (json_int_t)vm->base.id);
}

/* {vm} */
static void vm_delete(struct command *command)
{
    struct vm_record *vm = command_record(command, "vm", TABLE_VM);

    if (vm && vm_runs(vm))
        command_refuse(command, -EBUSY, "VM %s runs: stop it first ('s2d vm stop %s')", vm->name,
                       vm->name);
    if (command_refused(command))
        return;
    database_remove(command->database, TABLE_VM, vm->base.id);
}

/* {vm, wanted, incarnation (the last one)}: what the administrator wants; the jobs bring it about.
 * A wish that comes late must not undo a start that was made after it, nor a start that comes late
 * this wish: that it names what had ended before is how vm_start() knows. */
static void vm_want(struct command *command)
{
    struct vm_record *vm = command_record(command, "vm", TABLE_VM);
    unsigned wanted = command_word(command, "wanted", vm_state_words);
    uint64_t incarnation = command_u64_or(command, "incarnation", vm ? vm->incarnation : 0);

    if (vm && vm->incarnation != incarnation)
        command_refuse(command, -ESTALE, "VM %s was started meanwhile", vm->name);
    if (command_refused(command))
        return;
    vm->wanted = wanted;
    if (wanted == VM_STOPPED && !vm_runs(vm))
        vm->ended = command->index;
    database_put(command->database, TABLE_VM, vm);
}

/* True unless the host is down, and the process that went down is the one of that start counter:
 * one that came after it may have taken up its VMs, and hold a lease. */
static bool host_came_back(const struct node_record *host, uint64_t start_counter)
{
    return host && (host->state != NODE_DOWN || host->start_counter != start_counter);
}

/* {vm, node, incarnation (the last one), ended (the last), force, host_start_counter, restart,
 * reason}: it may run on that node, in the next incarnation. While the last one has not ended this
 * takes `force`, and a host that is down: a failover, decided by the leader after the old node's
 * lease. Void when the administrator has stopped it since: an administrator's start names what had
 * ended then, the leader's says restart. */
static void vm_start(struct command *command)
{
    struct vm_record *vm = command_record(command, "vm", TABLE_VM);
    struct node_record *node = command_record(command, "node", TABLE_NODE);
    uint64_t incarnation = command_u64(command, "incarnation");
    uint64_t ended = command_u64_or(command, "ended", vm ? vm->ended : 0);
    bool force = command_bool_or(command, "force", false);
    bool restart = command_bool_or(command, "restart", false);
    const char *reason = command_text_or(command, "reason", "");
    const struct node_record *host =
        vm && vm_runs(vm) ? database_find(command->database, TABLE_NODE, vm->node) : NULL;
    uint64_t start_counter =
        command_u64_or(command, "host_start_counter", host ? host->start_counter : 0);

    if (vm && vm->incarnation != incarnation)
        command_refuse(command, -ESTALE, "VM %s was started elsewhere meanwhile", vm->name);
    if (vm && vm_runs(vm) && !force && vm->wanted != VM_RUNNING)
        command_refuse(command, -EBUSY,
                       "VM %s is being stopped: 's2d vm stop %s' goes on with a stop that was "
                       "interrupted",
                       vm->name, vm->name);
    if (vm && vm_runs(vm) && !force)
        command_refuse(command, -EALREADY, "VM %s runs already", vm->name);
    if (vm && (vm->ended != ended || (restart && vm->wanted != VM_RUNNING)))
        command_refuse(command, -ESTALE, "VM %s was stopped meanwhile", vm->name);
    if (force && host_came_back(host, start_counter))
        command_refuse(command, -ESTALE, "node %s, which runs VM %s, is up", host->name, vm->name);
    if (node && node->state != NODE_UP)
        command_refuse(command, -EAGAIN, "node %s is %s: choose another one", node->name,
                       node_state_words[node->state]);
    if (command_refused(command))
        return;
    vm->incarnation = MAX(vm->incarnation + 1, command->index);
    vm->node = node->base.id;
    vm->wanted = VM_RUNNING;
    SET_TEXT(vm->reason, reason);
    database_put(command->database, TABLE_VM, vm);
    database_add_event(command, force ? SEVERITY_WARNING : SEVERITY_INFORMATION,
                       force ? "vm.failover" : "vm.started", vm->name,
                       "VM %s starts on node %s%s%s", vm->name, node->name, reason[0] ? ": " : "",
                       reason);
    command->result->reply = json_pack("{s:I}", "incarnation", (json_int_t)vm->incarnation);
}

/* {vm, incarnation, reason, stay_stopped}: its node says that it ended. {…, host_is_down,
 * host_start_counter}: somebody else does, after the lease of its node, which is down. Void when
 * the node is back: the VM may go on there. */
static void vm_ended(struct command *command)
{
    struct vm_record *vm = command_record(command, "vm", TABLE_VM);
    uint64_t incarnation = command_u64(command, "incarnation");
    const char *reason = command_text_or(command, "reason", "");
    bool stay_stopped = command_bool_or(command, "stay_stopped", true);
    bool host_is_down = command_bool_or(command, "host_is_down", false);
    uint64_t start_counter = command_u64_or(command, "host_start_counter", 0);

    if (vm && host_is_down &&
        host_came_back(database_find(command->database, TABLE_NODE, vm->node), start_counter))
        command_refuse(command, -ESTALE, "the node of VM %s is up again: repeat this", vm->name);
    if (vm && (incarnation > vm->incarnation || incarnation <= vm->ended))
        command_refuse(command, -ESTALE, "another incarnation of VM %s is the present one",
                       vm->name);
    if (command_refused(command))
        return;
    if (incarnation < vm->incarnation)
        return; /* an earlier one's end is nobody's business any more */
    vm->ended = incarnation;
    SET_TEXT(vm->reason, reason);
    if (stay_stopped)
        vm->wanted = VM_STOPPED;
    database_put(command->database, TABLE_VM, vm);
    database_add_event(command, SEVERITY_INFORMATION, "vm.stopped", vm->name,
                       "VM %s has stopped%s%s", vm->name, reason[0] ? ": " : "", reason);
}

/* ---- jobs and events ---- */

/* Jobs of a kind and target run one after another. */
static bool job_is_there(const struct database *database, const char *kind, const char *target)
{
    const struct job_record *job;

    for (size_t i = 0; (job = database_at(database, TABLE_JOB, i)); i++) {
        if (job_is_active(job) && strcmp(job->kind, kind) == 0 && strcmp(job->target, target) == 0)
            return true;
    }
    return false;
}

static size_t count_active_jobs(const struct database *database)
{
    const struct job_record *job;
    size_t count = 0;

    for (size_t i = 0; (job = database_at(database, TABLE_JOB, i)); i++)
        count += job_is_active(job);
    return count;
}

/* Of jobs that have ended the oldest are forgotten. */
static void make_room_for_job(struct database *database)
{
    const struct job_record *job;

    for (size_t i = 0; database_count(database, TABLE_JOB) >= JOBS_KEPT &&
                       (job = database_at(database, TABLE_JOB, i));) {
        if (job_is_active(job))
            i++;
        else
            database_remove(database, TABLE_JOB, job->base.id);
    }
}

/* {kind, target, total_bytes, left_bytes, time_ns} */
static void job_create(struct command *command)
{
    const char *kind = command_text(command, "kind"), *target = command_text(command, "target");
    uint64_t total_bytes = command_u64_or(command, "total_bytes", 0);
    uint64_t left_bytes = command_u64_or(command, "left_bytes", 0);
    struct job_record *job;

    if (!command_refused(command) && job_is_there(command->database, kind, target))
        command_refuse(command, -EEXIST, "there is a job '%s' of %s already", kind, target);
    if (count_active_jobs(command->database) >= JOBS_MAX)
        command_refuse(command, -ENOSPC, "a cluster has at most %d jobs", JOBS_MAX);
    if (command_refused(command))
        return;
    make_room_for_job(command->database);
    job = record_new(TABLE_JOB, database_new_id(command->database));
    if (!job)
        abort();
    SET_TEXT(job->kind, kind);
    SET_TEXT(job->target, target);
    job->total_bytes = total_bytes;
    job->left_bytes = left_bytes;
    job->created_ns = command_time_ns(command);
    database_put(command->database, TABLE_JOB, job);
    command->result->reply = json_pack("{s:I}", "job", (json_int_t)job->base.id);
}

/* {job, state, done_bytes, total_bytes, left_bytes, message, time_ns} */
static void job_update(struct command *command)
{
    struct job_record *job = command_record(command, "job", TABLE_JOB);
    bool says_state = command_text_or(command, "state", NULL) != NULL;
    unsigned state = says_state ? command_word(command, "state", job_state_words)
                     : job      ? job->state
                                : JOB_RUNNING;
    uint64_t done_bytes = command_u64_or(command, "done_bytes", job ? job->done_bytes : 0);
    uint64_t total_bytes = command_u64_or(command, "total_bytes", job ? job->total_bytes : 0);
    uint64_t left_bytes = command_u64_or(command, "left_bytes", job ? job->left_bytes : 0);
    const char *message = command_text_or(command, "message", job ? job->message : "");

    if (job && !job_is_active(job))
        command_refuse(command, -EALREADY, "job %llu has ended", (unsigned long long)job->base.id);
    if (command_refused(command))
        return;
    job->state = state;
    job->done_bytes = done_bytes;
    job->total_bytes = total_bytes;
    job->left_bytes = left_bytes;
    if (message != job->message)
        SET_TEXT(job->message, message);
    if (state == JOB_DONE || state == JOB_FAILED)
        job->ended_ns = command_time_ns(command);
    database_put(command->database, TABLE_JOB, job);
}

/* {severity, code, subject, text, time_ns} */
static void event_add(struct command *command)
{
    unsigned severity = command_word(command, "severity", severity_words);
    const char *code = command_text(command, "code"), *subject = command_text(command, "subject");
    const char *text = command_text(command, "text");

    if (command_refused(command))
        return;
    database_add_event(command, severity, code, subject, "%s", text);
}

const struct verb vm_verbs[] = {
    {"vm.create", vm_create},   {"vm.delete", vm_delete}, {"vm.want", vm_want},
    {"vm.start", vm_start},     {"vm.ended", vm_ended},   {"job.create", job_create},
    {"job.update", job_update}, {"event.add", event_add}, {NULL, NULL},
};
