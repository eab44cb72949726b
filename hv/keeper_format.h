/* keeper_format: what a daemon and a keeper share. The memory is a memfd: it never waits for a
 * disk, as a page of a file would, and lives as long as either of them; a new daemon opens it
 * through /proc/<keeper>/fd. Both sides may be of different builds (QEMUs outlive an upgrade of the
 * daemon): the layout changes only with VERSION. */
#ifndef S2D_HV_KEEPER_FORMAT_H
#define S2D_HV_KEEPER_FORMAT_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

#define KEEPER_MAGIC 0x505045454b443253ull /* "S2DKEEPP" */
#define KEEPER_VERSION 1
#define KEEPER_MEMORY_FD 3 /* in the keeper */

#define KEEPER_EXIT_LOCKED 75 /* of the keeper: something of another incarnation lives */

/* In the VM's folder, which is the keeper's working directory: */
#define KEEPER_LOCK_FILE "lock"     /* flock()ed by keeper and QEMU: free only when both are gone */
#define KEEPER_RECORD_FILE "keeper" /* who keeps: KEEPER_RECORD_FORMAT */
#define KEEPER_ENDED_FILE "ended"   /* how it ended: KEEPER_ENDED_FORMAT */
#define KEEPER_RECORD_FORMAT "s2d-keeper 1 pid %d start %llu vm %llu incarnation %llu\n"
#define KEEPER_RECORD_PREFIX "s2d-keeper %*d pid %d start %llu" /* the same in all versions */
/* status: as of waitpid(); killed: 1 if the keeper was told to. */
#define KEEPER_ENDED_FORMAT "s2d-ended 1 vm %llu incarnation %llu status %d killed %d\n"

enum keeper_state {
    KEEPER_STARTING = 0,
    KEEPER_RUNNING = 1,
    KEEPER_STOPPING = 2, /* SIGSTOP was sent, not all threads have stopped */
    KEEPER_STOPPED = 3,
    KEEPER_KILLING = 4,
    KEEPER_ENDED = 5,
};

/* Every field has one writer. */
struct keeper_memory {
    /* Written before the keeper starts. */
    uint64_t magic;
    uint64_t version;
    uint64_t vm_id;
    uint64_t incarnation;

    /* The daemon's. CLOCK_BOOTTIME, nanoseconds. */
    _Atomic uint64_t deadline_ns; /* QEMU may run until then */
    _Atomic uint64_t
        continue_stop;     /* the stop with this number may end, if the deadline is ahead */
    _Atomic uint64_t kill; /* not 0: kill QEMU */

    /* The keeper's. */
    _Atomic uint64_t state; /* enum keeper_state */
    _Atomic uint64_t stops; /* how many stops there were; the present one's number */
    _Atomic uint64_t keeper_pid;
    _Atomic uint64_t qemu_pid;    /* 0: not started */
    _Atomic uint64_t started_ns;  /* when QEMU was started */
    _Atomic uint64_t wait_status; /* of QEMU; valid once ENDED */
    _Atomic uint64_t
        killed; /* 1: the keeper killed QEMU because it was told to; valid once ENDED */
};
static_assert(sizeof(struct keeper_memory) == 14 * 8, "shared between builds");
static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "shared between processes");

#endif
