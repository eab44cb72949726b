/* sim_vms: virtual machines in a run, in those worlds that have some (shape.vms).
 *
 *   sim_exports    what stands around a node that VMs need, as in s2dd: NBD, the node's vms.c, the
 *                  API's routes, through which administrators speak
 *   sim_keepers    keepers and VM folders of simulated machines (hv/keeper_host.h); each keeper
 *                  decides by the real one's code (hv/keeper_turn.h)
 *   sim_guest      QEMU and the guest in it, a process of its own on the machine: QMP, and a disk
 *                  behind the node's NBD server (sim_nbd)
 *   sim_vms        the VMs themselves: what they wrote, what must hold
 *   sim_vm_faults  what administrators do with them, and what happens to their processes
 *
 * What must hold. Always: at most one guest of a VM runs (is not stopped), and none when the lease
 * of its node is over. When incarnation n has
 * opened its disk, no write of an earlier one is acknowledged any more, and none becomes visible:
 * the checker of the history is told so (history_unknown_until()). At the end: every VM that the
 * administrator wants to run runs on the one node that the database names, none is lost. */
#ifndef TESTS_SIM_VMS_H
#define TESTS_SIM_VMS_H

#include "hv/keeper_host.h"
#include "s2d/api/api.h"
#include "tests/sim/sim_workload.h"

#define VMS_IN_WORLD_MAX 3

struct sim_vms;
struct sim_vm;

struct sim_vms *vms_of_world_new(struct world *world); /* NULL: this world has none */
void vms_of_world_free(struct sim_vms *vms);

/* ---- sim_exports.c ---- */

struct exports;
/* Program: opens them; the node is a member. */
must_check int co_exports_open(struct machine *machine, struct exports **ret_exports);
/* Program, in two steps, as s2dd stops: before the node's exports are cut off, and after. */
void co_exports_stop(struct exports *exports);
void co_exports_close(struct exports *exports); /* NULL is fine */
/* In the midst of it, when it takes long: guests lose their connections. NULL is fine. */
void exports_cut_off(struct exports *exports);
void exports_changed(struct exports *exports);
void exports_lease(struct exports *exports, uint64_t expires_ns);
/* Program: a request to the API of this node. body: stolen; NULL: none. Returns 0 or the error
 * that was answered; ret_json: the answer, for json_decref(); may be NULL. */
int co_exports_ask(struct machine *machine, enum api_method method, const char *target,
                   json_t *body, json_t **ret_json);

/* ---- sim_keepers.c ---- */

struct keepers;
struct guest;
struct keepers *keepers_new(struct world *world);
void keepers_free(struct keepers *keepers); /* the simulator has gone before */
struct keeper_host *keepers_host(struct keepers *keepers, unsigned machine);
/* The machine is lost with all that is on it. */
void keepers_forget(struct keepers *keepers, unsigned machine);
/* The processes of a VM die of themselves on some machine: QEMU, or its keeper and QEMU with it.
 * False: it has none. */
bool keepers_kill(struct keepers *keepers, const struct sim_vm *vm, bool keeper_too);
/* How many guests of the VM run, and on which machine the (last) one does; vm NULL: of any. */
unsigned keepers_running(struct keepers *keepers, const struct sim_vm *vm, unsigned *ret_machine);

/* ---- sim_guest.c ---- */

/* Of a VM's incarnation on a machine. folder, export_name: copied. */
struct guest *guest_new(struct machine *machine, struct sim_vm *vm, uint64_t incarnation,
                        const char *folder, const char *export_name);
void guest_free(struct guest *guest);        /* it does not run */
void guest_main(struct io *io, void *guest); /* its program */
/* What QEMU's parent is told once the program has ended by itself: as of waitpid(). */
int guest_wait_status(const struct guest *guest);
struct sim_vm *guest_vm(const struct guest *guest);

/* ---- sim_vms.c ---- */

struct sim_vm *vm_named(struct sim_vms *vms, const char *name); /* NULL: none */
struct keepers *vms_keepers(struct sim_vms *vms);
struct world *vm_world(const struct sim_vm *vm);
struct blocks *vm_blocks(const struct sim_vm *vm);
const char *vm_name(const struct sim_vm *vm);
/* What numbers incarnations in order, also over a deletion, after which they begin at 1 again. */
uint64_t vm_serial(const struct sim_vm *vm, uint64_t incarnation);
uint32_t vm_who(const struct sim_vm *vm, uint64_t serial); /* its number in reports */

/* An incarnation has opened its disk: earlier ones are shut out from now on. */
void vm_disk_opened(struct sim_vm *vm, uint64_t serial);
/* A write of an incarnation begins, and ends well. What never ends may have happened, or not. */
size_t vm_write_begins(struct sim_vm *vm, uint64_t serial, uint64_t block, uint64_t stamp);
void vm_write_ends(struct sim_vm *vm, size_t write);
/* The disk has refused a request of the incarnation. Fails the run when nothing excuses it. */
void vm_disk_refuses(struct sim_vm *vm, uint64_t serial, int error, uint64_t since_ns,
                     const char *what);

/* Program, on the first machine: makes and starts them. */
must_check int co_vms_set_up(struct machine *machine);
/* At the end, between steps: waits until all run that should; the run fails if that takes too long.
 */
void vms_check_running(struct world *world);
/* Program: stops them all, until nothing of them is left. */
void co_vms_stop_all(struct machine *machine);
/* Program: reads every disk from this node. */
void co_vms_read_all(struct machine *machine);
struct vm_counts { /* of one run */
    uint64_t starts, writes, reads, reconnects;
};
struct vm_counts *vms_counts(struct sim_vms *vms);

/* ---- what administrators want ---- */

struct sim_vm *vm_at(struct sim_vms *vms, uint64_t draw); /* one of them */
/* Administrators work on a VM one after another. False: somebody does already. */
bool vm_begin_work(struct sim_vm *vm);
void vm_end_work(struct sim_vm *vm);
/* Program: by the API. verb: "stop", "shutdown", "kill". node: NULL: any. What is wanted of the VM
 * from then on is known once an answer has come; until then anything goes. Return as
 * co_exports_ask(). */
int co_vm_create(struct machine *machine, struct sim_vm *vm);
int co_vm_delete(struct machine *machine, struct sim_vm *vm);
int co_vm_start(struct machine *machine, struct sim_vm *vm, const char *node);
int co_vm_end(struct machine *machine, struct sim_vm *vm, const char *verb);
/* It is not known what is wanted of some VM: an administrator is to make it run. */
bool vms_are_unsure(const struct sim_vms *vms);
void co_vms_make_sure(struct machine *machine);

#endif
