/* hv: the virtual machines of one node, on QEMU.
 *
 * A VM here is one *incarnation* of it: what one start in the database made. hv knows no cluster:
 * who may run what is told to it by hv_renew() (the node holds its lease until …) and by the
 * caller's is_current() (this incarnation is still the VM's present one).
 *
 * Exactly one copy of a VM rests on three things (README.md):
 *   - each QEMU has a keeper (keeper.c) that stops it (SIGSTOP) once the deadline given by
 * hv_renew() passed;
 *   - a VM whose deadline passed is never renewed, but judged: continued if current, else killed;
 *   - on_ended() comes only when neither QEMU nor its keeper exists any more on this node.
 * Keepers and QEMUs outlive the daemon: co_hv_free() leaves them running, co_hv_recover() takes
 * them up again.
 *
 * One reactor; all calls from the loop's thread, and from coroutines where the name says co_. What
 * blocks (files, spawning) goes through co_offload(). Where folders and keepers are is given
 * (keeper_host.h): so it runs in the simulator too. Time is the loop's clock (CLOCK_BOOTTIME) in
 * nanoseconds. VMs are named by id. */
#ifndef S2D_HV_HV_H
#define S2D_HV_HV_H

#include "s2d/base/base.h"

struct io;
struct hv;
struct keeper_host;

#define HV_DISKS_MAX 16
#define HV_NAME_BYTES 64 /* with the 0, as all sizes here */
#define HV_EXPORT_BYTES 544
#define HV_REASON_BYTES 256
#define HV_VMS_MAX 256 /* on one node */

enum hv_accel {
    HV_ACCEL_AUTO, /* KVM if it really runs guests here (accel.h), else TCG */
    HV_ACCEL_KVM,
    HV_ACCEL_TCG,
};

enum hv_end_cause {
    HV_ENDED_OFF,    /* the guest powered itself off (by itself, or asked by co_hv_shutdown()) */
    HV_ENDED_KILLED, /* by co_hv_stop(), co_hv_kill(), because the incarnation was not current, or
                        its keeper was told to end (the host shuts down) */
    HV_ENDED_FAILED, /* QEMU did not start or died, or its keeper did */
};

struct hv_end {
    uint64_t vm_id;
    uint64_t incarnation;
    const char *name;
    enum hv_end_cause cause;
    const char *reason; /* a sentence for people */
};

struct hv_options {
    const char *dir; /* VM working files: <dir>/vms/<name>/; created; not on a FUSE file system */
    const char *nbd_socket; /* path of the Unix socket that serves the disks */
    const char *keeper;     /* path of s2d-keeper; NULL: beside the running program */
    const char *qemu;       /* NULL: "qemu-system-x86_64", looked up in PATH */
    const char
        *firmware; /* folder with OVMF_CODE_4M.fd and OVMF_VARS_4M.fd; NULL: /usr/share/OVMF */
    enum hv_accel accel;
    struct keeper_host *host; /* borrowed; NULL: this machine */
    /* Called on the loop, from a coroutine, once for each incarnation that was started or
     * recovered, when nothing of it exists any more. May suspend; may not call hv about this VM.
     * False: it could not be told before the daemon stops; the next daemon's hv tells it again. */
    bool (*on_ended)(void *arg, const struct hv_end *end);
    /* A write of the guest found no room (ENOSPC): QEMU has paused it, and it waits; later, that it
     * goes on. A new daemon says so again. Called on the loop; must not suspend. NULL is fine. */
    void (*on_no_space)(void *arg, uint64_t vm_id, const char *name, bool no_space);
    /* The bridge of a VM that an earlier daemon started, which may have died before it plugged it
     * in. NULL or "": no network. Called on the loop; must not suspend. NULL is fine. */
    const char *(*switch_of)(void *arg, uint64_t vm_id);
    uint64_t no_space_retry_ns; /* how often such a write is made again; 0: every 5 s */
    void *arg;
};

struct hv_disk {
    const char *export_name; /* "<volume>/<path>@<incarnation>" */
};

struct hv_definition {
    uint64_t id;
    uint64_t incarnation;        /* > 0 */
    const char *name;            /* letters, digits, '-', '_', '.'; a file name */
    uint64_t memory_bytes;       /* a multiple of 1 MiB */
    unsigned vcpus;              /* 1 to 255 */
    unsigned generation;         /* 1: BIOS, IDE (4 disks, more are virtio); 2: UEFI, virtio */
    const struct hv_disk *disks; /* the first one boots */
    size_t disk_count;
    const char *switch_name; /* a bridge of this node; NULL or "": no network */
};

/* options: copied. Creates nothing yet. Returns 0, -EINVAL, -ENAMETOOLONG (socket paths would not
 * fit), -ENOMEM. */
must_check int hv_new(struct io *io, const struct hv_options *options, struct hv **ret_hv);
/* Lets go of all VMs: they run on until their deadline. No co_ call may be under way. Suspends.
 * NULL is fine. */
void co_hv_free(struct hv *hv);

/* Takes up what an earlier daemon left in dir: VMs whose incarnation is current go on, also if
 * their keeper had stopped them; the others are killed; those that ended meanwhile are reported.
 * Returns when all of that is done, but for the ends of what is killed, which may take long; the
 * accelerator is then probed behind the scenes (up to three seconds; co_hv_start() waits for it).
 * Call it before any other co_ call, when the node's lease is
 * held (hv_renew() has been called) and the database is up to date; go on with hv_renew() and
 * hv_judge() meanwhile, or VMs are stopped that were just taken up. May be repeated after a
 * failure. Returns 0, -ECANCELED, -ENOMEM, or why dir cannot be read. */
typedef bool hv_is_current(void *arg, uint64_t vm_id, uint64_t incarnation);
must_check int co_hv_recover(struct hv *hv, hv_is_current *is_current, void *arg);
enum hv_accel hv_accel(const struct hv *hv); /* the one in use; AUTO: not known yet */

/* The node's lease was renewed: running VMs may run until deadline_ns. A VM whose own deadline has
 * already passed is left alone. Returns how many of those there are: they wait for hv_judge(). Does
 * not suspend, makes no system call but reading the clock. */
unsigned hv_renew(struct hv *hv, uint64_t deadline_ns);

/* Each VM whose deadline had passed goes on if is_current(), else is killed. Call it only with the
 * lease held and the database as new as the lease asks for (I5). Does not suspend. */
void hv_judge(struct hv *hv, hv_is_current *is_current, void *arg);

/* Starts QEMU; returns when it runs and QMP answers. definition: borrowed during the call.
 * Returns 0, -EINVAL (definition), -EEXIST (this VM runs here), -ESTALE (no deadline ahead: no
 * lease), -EBUSY (an earlier incarnation's processes still live and would not go within 5 s:
 * another start may do), -ENODEV (no such bridge), -ENOSPC (HV_VMS_MAX), -EIO (QEMU ended at once:
 * hv_error() says why), -EAGAIN (QEMU or its keeper was killed meanwhile, or did not come up in
 * time: another start may do). After an error nothing of it runs, and on_ended() is not called. */
must_check int co_hv_start(struct hv *hv, const struct hv_definition *definition);
const char *
hv_error(const struct hv *hv); /* what the last failed call says to people; "" if nothing */
/* The daemon stops: what is being started is killed, and the co_hv_start()s return -EAGAIN soon. */
void hv_call_off_starts(struct hv *hv);

/* These end one incarnation, the one that the caller knows of: a request that comes late must not
 * hit the next one. -ENOENT: it is not here, or not any more.
 *
 * Presses the power button. Returns 0 once the VM has ended, -ETIMEDOUT if it has not by then (it
 * runs on), -ENOENT, -ECANCELED. */
must_check int co_hv_shutdown(struct hv *hv, uint64_t vm_id, uint64_t incarnation,
                              uint64_t timeout_ns);
/* The same, then kills. Returns 0 once the VM has ended, -ENOENT. */
must_check int co_hv_stop(struct hv *hv, uint64_t vm_id, uint64_t incarnation, uint64_t timeout_ns);
/* Pulls the plug. Returns 0 once the VM has ended (a QEMU that waits for a dead disk can take
 * long), -ENOENT. */
must_check int co_hv_kill(struct hv *hv, uint64_t vm_id, uint64_t incarnation);

enum hv_state {
    HV_NONE, /* not on this node */
    HV_STARTING,
    HV_RUNNING,
    HV_PAUSED, /* its deadline has passed; it waits for hv_judge() */
    HV_ENDING,
};
enum hv_state hv_state(const struct hv *hv, uint64_t vm_id);
const char *hv_state_name(enum hv_state state); /* "running", … */

struct hv_status {
    uint64_t id, incarnation;
    const char *name;
    enum hv_state state;
    int qemu_pid, keeper_pid;
    uint64_t uptime_ns;
    bool no_space;          /* running, but paused until its write finds room */
    const char *qmp_status; /* QEMU's own word ("running", "paused", "io-error", …); "unknown" */
};
/* Calls fn for each VM; it must not suspend or change hv. */
void hv_list(const struct hv *hv, void (*fn)(void *arg, const struct hv_status *status), void *arg);
/* Returns 0 or -ENOENT. ret_status is valid until the next call that suspends. */
must_check int hv_status(const struct hv *hv, uint64_t vm_id, struct hv_status *ret_status);

/* The guest's first serial port: a Unix stream socket that takes one client, and the log of all it
 * printed. path: of size bytes. Returns 0, -ENOENT, -ENAMETOOLONG. */
must_check int hv_console(const struct hv *hv, uint64_t vm_id, char *path, size_t size);
must_check int hv_console_log(const struct hv *hv, uint64_t vm_id, char *path, size_t size);

#endif
