/* keeper_link: the daemon's end of a keeper (keeper.c): starts one, finds one that runs, gives it
 * orders, learns how it ended. Knows no loop: keeper_start(), keeper_adopt() and those that take a
 * folder block (co_offload()); the others only touch shared memory. folder is a VM's working
 * folder, absolute. */
#ifndef S2D_HV_KEEPER_LINK_H
#define S2D_HV_KEEPER_LINK_H

#include "hv/keeper_format.h"
#include "s2d/base/base.h"

struct keeper_link;

struct keeper_order {
    const char *program; /* s2d-keeper */
    const char *folder;  /* exists */
    const char *name;    /* for `ps` */
    uint64_t vm_id, incarnation;
    uint64_t deadline_ns;
    int nice;          /* QEMU's */
    char *const *argv; /* QEMU's, NULL at the end; it runs in folder and writes its errors to
                          qemu.log there */
};

/* Starts a keeper that starts QEMU; returns when QEMU was started (it may fail right after:
 * keeper_gone()). Returns 0, -EBUSY (somebody holds the folder's lock: something of an earlier
 * incarnation lives), -EIO (the keeper gave up: qemu.log), or why the program could not be run.
 * Blocks for some milliseconds. */
must_check int keeper_start(const struct keeper_order *order, struct keeper_link **ret_link);

/* Takes up a keeper that another daemon started. Returns 0, -ENOENT (nothing lives there), -EAGAIN
 * (something lives there, but no keeper that could be talked to: it is starting or ending), -EPROTO
 * (a keeper of another version). */
must_check int keeper_adopt(const char *folder, struct keeper_link **ret_link);

/* Asks the keeper in folder, of whatever version, to kill its QEMU and end. Nothing happens if
 * there is none. */
void keeper_terminate(const char *folder);

/* A link to a keeper that is no process (the simulator's): memory is the caller's and outlives it,
 * keeper_fd() is -1. NULL: no memory. */
struct keeper_link *keeper_link_to(struct keeper_memory *memory);

/* Lets go of it; keeper and QEMU go on. NULL is fine. */
void keeper_link_free(struct keeper_link *link);
DEFINE_CLEANUP(struct keeper_link, keeper_link_free)

/* A pidfd, the link's own: readable once the keeper has exited. Then wait for keeper_gone(). */
int keeper_fd(const struct keeper_link *link);
const struct keeper_memory *keeper_memory(const struct keeper_link *link);
enum keeper_state keeper_state(const struct keeper_link *link);

/* ---- orders; taken within 50 ms ---- */
void keeper_renew(struct keeper_link *link, uint64_t deadline_ns);
/* The present stop, if there is one, may end; nothing later may. */
void keeper_continue(struct keeper_link *link, uint64_t deadline_ns);
void keeper_kill(struct keeper_link *link);

/* ---- folders ---- */

/* Neither keeper nor QEMU exists: true, false, or a negative errno. */
must_check int keeper_gone(const char *folder);

struct keeper_outcome {
    uint64_t vm_id, incarnation;
    bool known; /* false: the keeper did not live to say how it ended */
    int wait_status;
    bool killed;
};
/* What was kept in the folder last, and how it ended. Valid once keeper_gone(). Returns 0, -ENOENT
 * (nothing, or it was forgotten). */
must_check int keeper_outcome(const char *folder, struct keeper_outcome *ret_outcome);
/* The outcome was reported: there is none any more. */
void keeper_forget(const char *folder);

#endif
