/* The VMs of a world: what their incarnations wrote, and what must hold of them. */
#include "tests/sim/sim_vms.h"

#include "s2d/base/checksum.h"
#include "tests/sim/sim_blocks.h"
#include "tests/sim/sim_faults.h"
#include "tests/sim/sim_health.h"

#define DISK_BLOCKS 16
#define MEMORY_BYTES (64 * MIB)
#define STOP_MS 4000
#define AGAIN_NS (200 * MS)

enum vm_wish { VM_WISH_UNKNOWN, VM_WISH_RUNS, VM_WISH_STOPPED };

struct guest_write {
    struct history_op op;
    uint64_t serial;  /* of who wrote it */
    bool ended, shut; /* shut: it had not ended when its incarnation was shut out */
};

struct sim_vm {
    struct world *world;
    unsigned number;
    char name[16], file[32];
    unsigned volume; /* of its disk */
    struct blocks *blocks;
    uint64_t opened; /* the last serial number that has opened its disk */
    uint64_t era;    /* how often it was told to be deleted: its incarnations then begin anew */
    struct guest_write *writes;
    size_t write_count, write_size, write_open; /* all before write_open have ended or are shut */
    enum vm_wish wish;
    bool at_work;
};

struct sim_vms {
    struct keepers *keepers;
    struct sim_vm list[VMS_IN_WORLD_MAX];
    unsigned count;
    struct vm_counts counts;
};

/* ---- the object ---- */

static void vm_init(struct sim_vm *vm, struct world *world, unsigned number)
{
    vm->world = world;
    vm->number = number;
    snprintf(vm->name, sizeof(vm->name), "vm%u", number);
    snprintf(vm->file, sizeof(vm->file), "vm%u.raw", number);
    vm->volume = number % world->shape.volume_count;
    vm->blocks = blocks_make(world, vm->volume, vm->file, DISK_BLOCKS);
    for (uint64_t i = 0; i < DISK_BLOCKS; i++)
        vm->blocks->regs[i] =
            history_register(world->history, "block of a VM's disk", number * 1000 + i);
}

struct sim_vms *vms_of_world_new(struct world *world)
{
    struct sim_vms *vms;

    if (world->shape.vms == 0)
        return NULL;
    vms = calloc(1, sizeof(*vms));
    if (!vms)
        abort();
    vms->keepers = keepers_new(world);
    vms->count = world->shape.vms;
    for (unsigned i = 0; i < vms->count; i++)
        vm_init(&vms->list[i], world, i);
    return vms;
}

void vms_of_world_free(struct sim_vms *vms)
{
    if (!vms)
        return;
    keepers_free(vms->keepers);
    for (unsigned i = 0; i < vms->count; i++) {
        blocks_free(vms->list[i].blocks);
        free(vms->list[i].writes);
    }
    free(vms);
}

struct sim_vm *vm_named(struct sim_vms *vms, const char *name)
{
    for (unsigned i = 0; i < vms->count; i++) {
        if (strcmp(vms->list[i].name, name) == 0)
            return &vms->list[i];
    }
    return NULL;
}

struct sim_vm *vm_at(struct sim_vms *vms, uint64_t draw)
{
    return &vms->list[draw % vms->count];
}

struct keepers *vms_keepers(struct sim_vms *vms)
{
    return vms->keepers;
}

struct vm_counts *vms_counts(struct sim_vms *vms)
{
    return &vms->counts;
}

struct world *vm_world(const struct sim_vm *vm)
{
    return vm->world;
}

struct blocks *vm_blocks(const struct sim_vm *vm)
{
    return vm->blocks;
}

const char *vm_name(const struct sim_vm *vm)
{
    return vm->name;
}

uint64_t vm_serial(const struct sim_vm *vm, uint64_t incarnation)
{
    return vm->era << 32 | incarnation;
}

uint32_t vm_who(const struct sim_vm *vm, uint64_t serial)
{
    return 10000 * (vm->number + 1) + (uint32_t)serial;
}

/* ---- what its incarnations write ---- */

static void shut_out(struct sim_vm *vm, struct guest_write *write)
{
    history_unknown_until(vm->world->history, write->op, world_now_ns(vm->world));
    write->shut = true;
}

void vm_disk_opened(struct sim_vm *vm, uint64_t serial)
{
    if (serial < vm->opened)
        world_fail(vm->world, "VM %s: incarnation %llx opens its disk after %llx has", vm->name,
                   (unsigned long long)serial, (unsigned long long)vm->opened);
    if (serial == vm->opened)
        return;
    vm->opened = serial;
    for (; vm->write_open < vm->write_count; vm->write_open++) {
        struct guest_write *write = &vm->writes[vm->write_open];

        if (!write->ended && !write->shut)
            shut_out(vm, write);
    }
}

size_t vm_write_begins(struct sim_vm *vm, uint64_t serial, uint64_t block, uint64_t stamp)
{
    if (vm->write_count == vm->write_size) {
        vm->write_size = MAX(2 * vm->write_size, (size_t)256);
        vm->writes = reallocarray(vm->writes, vm->write_size, sizeof(*vm->writes));
        if (!vm->writes)
            abort();
    }
    vm->writes[vm->write_count] = (struct guest_write){
        .op = history_begin(vm->world->history, vm->blocks->regs[block], HISTORY_WRITE, stamp,
                            vm_who(vm, serial), world_now_ns(vm->world)),
        .serial = serial};
    return vm->write_count++;
}

void vm_write_ends(struct sim_vm *vm, size_t number)
{
    struct guest_write *write = &vm->writes[number];

    if (write->shut || write->serial < vm->opened)
        world_fail(vm->world,
                   "VM %s: a write of incarnation %llx is acknowledged after %llx has opened the "
                   "disk",
                   vm->name, (unsigned long long)write->serial, (unsigned long long)vm->opened);
    write->ended = true;
    history_end(vm->world->history, write->op, 0, world_now_ns(vm->world));
}

void vm_disk_refuses(struct sim_vm *vm, uint64_t serial, int error, uint64_t since_ns,
                     const char *what)
{
    struct world *world = vm->world;

    if (serial < vm->opened)
        return;
    if ((error == -ENOSPC && lacked_room(world, since_ns)) ||
        ((error == -EIO || error == -EPERM) && world->exposed)) { /* EPERM: read-only */
        world->counts.errors_told++;
        return;
    }
    world_fail(world, "VM %s: incarnation %llx: %s: %s", vm->name, (unsigned long long)serial, what,
               strerror(-error));
}

/* ---- what administrators do ---- */

bool vm_begin_work(struct sim_vm *vm)
{
    bool free = !vm->at_work;

    vm->at_work = true;
    return free;
}

void vm_end_work(struct sim_vm *vm)
{
    vm->at_work = false;
}

static int co_ask(struct machine *machine, const struct sim_vm *vm, enum api_method method,
                  const char *verb, json_t *body)
{
    char target[64];
    int r;

    snprintf(target, sizeof(target), "/v1/vms/%s%s%s", vm->name, verb ? "/" : "", verb ?: "");
    r = co_exports_ask(machine, method, target, body, NULL);
    world_tell(machine->world, "node %u is asked for %s of %s: %s", machine->number,
               verb ?: api_method_names[method], vm->name, r == 0 ? "done" : strerror(-r));
    return r;
}

int co_vm_create(struct machine *machine, struct sim_vm *vm)
{
    char disk[64];

    snprintf(disk, sizeof(disk), "%s/%s", vm->blocks->volume, vm->file);
    vm->wish = VM_WISH_UNKNOWN;
    return co_exports_ask(machine, API_POST, "/v1/vms",
                          json_pack("{s:s,s:I,s:i,s:[s]}", "name", vm->name, "memory_bytes",
                                    (json_int_t)MEMORY_BYTES, "generation", 1, "disks", disk),
                          NULL);
}

int co_vm_delete(struct machine *machine, struct sim_vm *vm)
{
    vm->wish = VM_WISH_UNKNOWN;
    vm->era++;
    return co_ask(machine, vm, API_DELETE, NULL, NULL);
}

int co_vm_start(struct machine *machine, struct sim_vm *vm, const char *node)
{
    int r;

    vm->wish = VM_WISH_UNKNOWN;
    r = co_ask(machine, vm, API_POST, "start", json_pack("{s:s*}", "node", node));
    if (r == 0)
        vm->wish = VM_WISH_RUNS;
    return r;
}

int co_vm_end(struct machine *machine, struct sim_vm *vm, const char *verb)
{
    int r;

    vm->wish = VM_WISH_UNKNOWN;
    r = co_ask(machine, vm, API_POST, verb, json_pack("{s:i}", "timeout_ms", STOP_MS));
    if (r == 0 || (r == -EALREADY && strcmp(verb, "shutdown") != 0))
        vm->wish = VM_WISH_STOPPED;
    return r;
}

bool vms_are_unsure(const struct sim_vms *vms)
{
    for (unsigned i = 0; vms && i < vms->count; i++) {
        if (vms->list[i].wish == VM_WISH_UNKNOWN)
            return true;
    }
    return false;
}

void co_vms_make_sure(struct machine *machine)
{
    struct sim_vms *vms = machine->world->vms;

    for (unsigned i = 0; i < vms->count; i++) {
        struct sim_vm *vm = &vms->list[i];

        if (vm->wish != VM_WISH_UNKNOWN || !vm_begin_work(vm))
            continue;
        /* What was begun may be half done, and still under way on its node: it is ended first. */
        if (!database_find_name(node_database(machine->node), TABLE_VM, vm->name))
            (void)co_vm_create(machine, vm);
        else
            (void)co_vm_end(machine, vm, "kill");
        (void)co_vm_start(machine, vm, NULL);
        vm_end_work(vm);
    }
}

static int co_make_disk(struct machine *machine, const struct sim_vm *vm)
{
    struct csv_volume *volume = csv_volume_find(node_csv(machine->node), vm->blocks->volume);
    struct fs_new new = {.mode = 0100600};
    struct fs_attr attr;
    int r = volume ? co_csv_create(volume, FS_ROOT_INO, vm->file, &new, &attr) : -ENOENT;

    if (r == 0)
        r = co_csv_truncate(volume, attr.ino, DISK_BLOCKS * BLOCK_SIZE, &attr);
    csv_volume_put(volume);
    return r;
}

int co_vms_set_up(struct machine *machine)
{
    struct sim_vms *vms = machine->world->vms;
    int r = 0;

    for (unsigned i = 0; vms && i < vms->count && r == 0; i++) {
        r = co_make_disk(machine, &vms->list[i]);
        if (r == 0)
            r = co_vm_create(machine, &vms->list[i]);
        if (r == 0)
            r = co_vm_start(machine, &vms->list[i], NULL);
    }
    return r;
}

/* ---- at the end ---- */

/* NULL: it is as it should be. */
static const char *fault_of(struct sim_vms *vms, struct sim_vm *vm)
{
    struct world *world = vm->world;
    const struct machine *member = world_any_member(world, 0);
    const struct vm_record *record =
        member ? database_find_name(node_database(member->node), TABLE_VM, vm->name) : NULL;
    unsigned machine = 0, running = keepers_running(vms->keepers, vm, &machine);

    if (!record)
        return "is lost";
    if (vm->wish == VM_WISH_STOPPED)
        return running > 0 ? "runs, and was stopped" : NULL;
    if (record->wanted != VM_RUNNING)
        return "is not wanted to run any more";
    if (running != 1 || record->incarnation <= record->ended)
        return "does not run";
    if (vm->opened != vm_serial(vm, record->incarnation) && !world->exposed)
        return "has not opened its disk";
    return node_id(world->machines[machine].node) == record->node ? NULL : "runs on another node";
}

/* Its disk was: nobody can say how it should be. */
static bool is_lost(struct world *world, const struct sim_vm *vm)
{
    return volume_is_lost(world, vm->volume);
}

static bool all_are_right(void *arg)
{
    struct world *world = arg;

    for (unsigned i = 0; i < world->vms->count; i++) {
        struct sim_vm *vm = &world->vms->list[i];

        if (!is_lost(world, vm) && fault_of(world->vms, vm))
            return false;
    }
    return true;
}

void vms_check_running(struct world *world)
{
    struct sim_vms *vms = world->vms;

    if (!vms || world_run(world, world_now_ns(world) + HEAL_NS, all_are_right))
        return;
    for (unsigned i = 0; i < vms->count; i++) {
        const char *fault = fault_of(vms, &vms->list[i]);

        if (fault && !is_lost(world, &vms->list[i]))
            world_fail(world, "VM %s %s, %d s after all was healthy", vms->list[i].name, fault,
                       (int)(HEAL_NS / SEC));
    }
}

void co_vms_stop_all(struct machine *machine)
{
    struct sim_vms *vms = machine->world->vms;

    for (unsigned i = 0; i < vms->count; i++) {
        /* it was deleted, and could not be made again */
        int r, gone = is_lost(machine->world, &vms->list[i]) ? -ENOENT : 0;

        do {
            r = co_vm_end(machine, &vms->list[i], "stop");
        } while (r < 0 && r != -EALREADY && r != gone && co_sleep_ns(AGAIN_NS) == 0);
    }
    while (keepers_running(vms->keepers, NULL, NULL) > 0 && co_sleep_ns(AGAIN_NS) == 0)
        ;
}

void co_vms_read_all(struct machine *machine)
{
    struct sim_vms *vms = machine->world->vms;

    for (unsigned i = 0; vms && i < vms->count; i++) {
        if (!is_lost(machine->world, &vms->list[i]))
            co_blocks_read_all(machine, vms->list[i].blocks);
    }
}
