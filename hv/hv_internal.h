/* hv_internal: what hv.c (the node's VMs) and vm.c (one VM) share. */
#ifndef S2D_HV_HV_INTERNAL_H
#define S2D_HV_HV_INTERNAL_H

#include "hv/accel.h"
#include "hv/hv.h"
#include "hv/keeper_host.h"
#include "hv/qemu_command.h"
#include "hv/qmp.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"

#define HV_PATH_BYTES 512
#define HV_SOCKET_PATH_MAX 107 /* of the kernel */

struct hv {
    struct io *io;
    struct keeper_host *host;
    struct hv_options options; /* its strings are ours */
    char *probe;               /* path of s2d-kvm-probe */
    enum hv_accel accel;       /* AUTO: not probed yet */
    struct list vms;           /* of struct vm */
    size_t vm_count;
    struct co_cond changed;   /* a VM's state may have changed */
    struct co_group watchers; /* and the housekeeper */
    struct co *housekeeper;   /* NULL: not running */
    uint64_t deadline_ns;     /* the last that hv_renew() gave */
    uint64_t lapses;          /* how often that had passed when hv_renew() came again */
    char error[HV_REASON_BYTES];
};

struct vm {
    struct list node;
    struct hv *hv;
    uint64_t id, incarnation;
    char name[HV_NAME_BYTES];
    char folder[HV_PATH_BYTES];
    struct keeper_link *keeper; /* NULL while it is being started */
    struct co *watcher;
    struct co *talker; /* NULL when it has returned */
    struct co_group talking;
    struct qmp *qmp; /* NULL while QMP does not answer */
    char qmp_status[24];
    unsigned status_changes; /* that events told of */
    bool write_failed;       /* QEMU said that it stops because of a write; its STOP comes next */
    bool no_space;           /* as last told */
    bool starting;           /* co_hv_start() waits: it reports a failure, not on_ended() */
    bool taken_up;           /* from an earlier daemon, and not asked yet how it is */
    bool gone;               /* neither keeper nor QEMU exists */
    bool killed;             /* we told the keeper to kill */
    char kill_reason[HV_REASON_BYTES];
    enum hv_end_cause cause; /* once gone */
    bool was_killed;         /* by whomever; did not end by itself */
    char reason[HV_REASON_BYTES];
};

void hv_set_error(struct hv *hv, const char *format, ...) printf_like(2, 3);
struct vm *hv_find(const struct hv *hv, uint64_t vm_id);

/* Enters a VM into hv's table. Returns 0, -EEXIST, -ENOSPC, -ENOMEM, -ENAMETOOLONG. */
must_check int vm_new(struct hv *hv, uint64_t id, uint64_t incarnation, const char *name,
                      struct vm **ret_vm);
void vm_free(struct vm *vm); /* neither watcher nor talker runs */

/* Starts the coroutines that watch it. vm->keeper is there. Returns 0, -ENOMEM. */
must_check int vm_watch(struct vm *vm);
/* Tells the keeper to kill. reason: for people. Any number of times; the first reason counts. */
void vm_kill(struct vm *vm, const char *reason);
/* bridge: NULL or "": it has no network. A VM that is plugged in already stays so. */
void vm_plug_in(struct vm *vm, const char *bridge);
/* With the lease held: it goes on if it is current, else it is killed. */
void vm_judge(struct vm *vm, hv_is_current *is_current, void *arg);
/* Its deadline has passed, or its keeper has stopped it. */
bool vm_lapsed(const struct vm *vm, uint64_t now_ns);
void vm_path(const struct vm *vm, const char *file, char path[HV_PATH_BYTES]);

/* What the files in folder say about how it ended. Blocks. Fills cause and reason. Returns whether
 * it was killed, and did not end by itself. */
bool vm_read_end(const struct hv *hv, const char *folder, const struct keeper_outcome *outcome,
                 enum hv_end_cause *cause, char reason[HV_REASON_BYTES]);
/* By on_ended(). False: it was not told, and must not be forgotten. */
bool co_tell_end(struct hv *hv, const struct hv_end *end);
/* Keeper and QEMU are gone. Returns 0, -ETIMEDOUT, -ECANCELED, or why it cannot be known. */
must_check int co_wait_gone(const struct hv *hv, const char *folder, uint64_t deadline_ns);

/* Connects the VM's network interface to the bridge. Blocks briefly. Returns 0, -ENODEV, … */
must_check int bridge_attach(const char *bridge, const char *interface);
bool bridge_exists(const char *bridge);

#endif
