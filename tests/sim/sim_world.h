/* sim_world: a cluster of simulated machines that run the node's own code, and what everybody in a
 * run shares. One seed chooses the shape of the cluster, the faults and every choice of the
 * clients.
 *
 * The parts of a run:
 *   sim_world     machines and their programs; setting the cluster up
 *   sim_faults    the table of faults, the plan that the seed makes of it
 *   sim_workload  clients that read and write, at block level and at file level
 *   sim_vms       virtual machines, in some worlds
 *   sim_history   the checker of what the clients saw
 *   sim_check     what must hold after each step, and at the end
 *   sim_report    how a run ends badly, and what the last steps were
 *
 * Everything runs on one thread. Calls marked "program" run on a machine, all others between steps
 * (s2d/base/sim.h). Time is the world's, in nanoseconds, unless it is named otherwise. */
#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

#include <limits.h>
#include <stdio.h>

#include "csv-export/csv.h"
#include "s2d/base/co.h"
#include "s2d/base/sim.h"
#include "s2d/cluster/consensus.h"
#include "s2d/cluster/kv.h"
#include "s2d/node/node.h"
#include "tests/sim/sim_history.h"

#define MACHINES_MAX 16
#define MACHINE_CAPACITY_MAX 6 /* those that a run adds included */
#define CACHES_AT_FIRST_MAX 2u
#define CACHES_BY_SEED UINT_MAX
#define VMS_BY_SEED UINT_MAX
#define GROUPS_BY_SEED UINT32_MAX
#define FORGET_BY_SEED UINT32_MAX
#define MACHINE_CACHES_MAX 4 /* those that a run adds included */
#define MACHINE_DISKS_MAX (MACHINE_CAPACITY_MAX + MACHINE_CACHES_MAX) /* cache disks come last */
#define SHAPE_VOLUMES_MAX 2                                           /* that clients use */
#define SETUP_NS (120 * SEC)
#define HEAL_NS (240 * SEC) /* within which all is well again after the last fault */
#define LEAVE_NS (30 * SEC) /* TimeoutStopSec of s2dd.service */

struct run_options {
    uint64_t seed;
    uint64_t seconds;    /* of faults; 0: the seed chooses */
    unsigned nodes;      /* 0: the seed chooses */
    unsigned caches;     /* cache disks of each node, or CACHES_BY_SEED */
    bool plain;          /* one volume, a three-way mirror, no cache disks */
    unsigned vms;        /* of the world, or VMS_BY_SEED */
    uint32_t groups;     /* blocks of a file system's group (0: most), or GROUPS_BY_SEED */
    uint32_t forget_ms;  /* how often file systems forget (0: never), or FORGET_BY_SEED */
    bool shared;         /* any client writes any block, whatever the seed says */
    bool stalls;         /* databases and disks hang besides; no seed says so by itself */
    bool log;            /* the whole transcript on stdout */
    const char *faults;  /* NULL: all that the seed plans; else "1,4,7": only these of them */
    const char *program; /* that chooses nodes and faults by itself; NULL: cluster_sim */
};

struct volume_shape {
    const char *name; /* no other volume's name begins so */
    const char *resiliency;
    uint64_t data_columns; /* parity2; else 0 */
    bool thin;
    uint64_t bytes;
};

/* What the seed chose. */
struct shape {
    unsigned nodes, disks; /* of each node */
    unsigned caches;       /* disks of each node apart from capacity, at first */
    bool hard_disks;       /* capacity is, and has a read cache on the cache disks */
    uint64_t disk_bytes, log_bytes, extent_bytes;
    uint32_t group_blocks; /* of the file systems; 0: as in a daemon, one group */
    uint64_t forget_ns;    /* so often they forget nodes and maps that are on disk; 0: never */
    struct volume_shape
        volumes[SHAPE_VOLUMES_MAX]; /* the first is everybody's; see sim_workload.h */
    unsigned volume_count;
    uint64_t seconds;
    unsigned block_clients, file_clients; /* on each node */
    unsigned copy_clients;                /* nodes that have one */
    unsigned vms;                         /* see sim_vms.h */
    uint64_t blocks;                      /* of the file that block clients share, in each volume */
    unsigned request_blocks_max;
    uint64_t think_ns_max; /* of a client, between two requests */
    unsigned write_percent, trim_percent;
    unsigned flush_percent; /* after so many changes, and between requests of guests */
    bool shared_writes;     /* of any block by any client: see sim_blocks.c */
    bool in_place;          /* and all of them are, on mirrors */
};

struct exports;

struct machine_disk {
    bool exists, claimed;
    bool dead;    /* for good */
    bool retired; /* taken out again: nothing of it may be looked at */
};

struct machine {
    struct world *world;
    unsigned number;
    unsigned life; /* a node that is lost for good is replaced by one of another name and address */
    struct kv_disk *kv_disk, *lost_kv_disk;
    struct node *node; /* NULL while no program runs */
    struct co_cond stop;
    struct co_group tasks;   /* clients and administrators */
    struct list acts;        /* the latter's */
    struct exports *exports; /* in worlds with VMs, of a member */
    bool stopping;           /* the program ends: it dies, or `leaving` */
    bool retires;            /* an administrator is retiring a disk of it */
    bool leaving;            /* as at SIGTERM */
    uint64_t leave_ns;       /* since then */
    bool returns;            /* it starts again as soon as it has left */
    struct io_timer patience;
    bool created;            /* it is a member and its disks are claimed */
    bool tidying;            /* an administrator is at work on it, at the end */
    uint64_t lease_until_ns; /* of its clock: machine_note_lease() */
    unsigned hurts;          /* faults that touch it, under way */
    uint64_t hurt_ns;        /* when one began or ended last */
    struct machine_disk disks[MACHINE_DISKS_MAX];
};

struct counts { /* of one run, for its line of figures */
    uint64_t block_writes, block_reads, trims, file_operations, errors_told, copies, restores,
        flushes;
    uint64_t longest_wait_ns; /* of a write whose client's node no fault touched meanwhile */
};

struct sim_vms;
struct workload;
struct invariants;
struct faults;

struct world {
    struct sim *sim;
    struct run_options options;
    struct shape shape;
    struct machine machines[MACHINES_MAX + 1]; /* from 1 */
    char token[TOKEN_TEXT_MAX];
    char token_address[32]; /* of who made it */
    unsigned token_for;     /* the machine that may use it; 0: none */
    bool ready;             /* the cluster, its volume and the shared file are there */
    unsigned acts;          /* of administrators, under way */
    uint64_t hurts;         /* so often did a fault begin or end for a machine */
    bool quiet;             /* faults are over, and clients stop */
    bool room_taken;        /* by a fault, of the pool; see sim_room.c */
    uint64_t no_room_ns;    /* when too little was left last: ENOSPC was an honest answer then */
    uint64_t room_look_ns;  /* the next time to look */
    uint64_t spread_not_before_ns;
    uint64_t forget_at_ns; /* the next time that file systems do */
    unsigned rotten;       /* the machine whose disks lie, fail and die in this run */
    unsigned rotten_too;   /* another one that loses disks at the same time; 0: none has */
    bool log_lost_too;     /* it was a cache disk: all that the node had was old then */
    bool damaged;          /* they have done so */
    bool exposed;      /* since then they had the only in-sync copy of something: EIO is an honest
                          answer */
    uint64_t lost[64]; /* vdisks that are not well at the end for that reason, and called so */
    unsigned lost_count;
    bool cramped;  /* nothing was lost, but what is left has no room for all copies */
    bool too_much; /* this run destroys more than its volumes bear */
    struct history *history;
    struct workload *workload;
    struct sim_vms *vms; /* NULL: it has none */
    struct invariants *invariants;
    struct faults *faults;
    struct counts counts;
};

/* ---- a world's life ---- */

struct world *world_new(const struct run_options *options);
void world_free(struct world *world); /* every machine's program has ended */

/* Starts the machines and waits until the cluster can be used; fails the run if that takes too
 * long. */
void world_set_up(struct world *world);

/* Lets time pass. Invariants are looked at after every step. done NULL: until then. Returns true
 * when done(world) was. */
bool world_run(struct world *world, uint64_t until_ns, bool (*done)(void *world));
uint64_t world_now_ns(const struct world *world);

/* A choice in [0, count). */
uint64_t world_draw(struct world *world, uint64_t count);

/* ---- machines ---- */

void machine_start(struct machine *machine); /* it is down */
void machine_crash(struct machine *machine, enum sim_crash_kind kind);
/* Ends its program as SIGTERM does: ownership and lease are handed over. It is down when that is
 * done, with nothing left behind (the simulator and the pools assert it). */
void machine_leave(struct machine *machine);
/* Fails the run if a machine is leaving for longer than a service manager waits, though no fault
 * touches it. */
void machines_check_leaving(struct world *world);
/* The machine, which is down, is lost with all that was on it. What starts in its place is empty
 * and joins as another node. */
void machine_replace(struct machine *machine);
#define NODE_TEXT_MAX 32
void machine_node_name(const struct machine *machine, char ret_name[NODE_TEXT_MAX]);
void machine_address(const struct machine *machine, char ret_address[NODE_TEXT_MAX]);
/* Keeps the longest lease that its daemons have had; whenever one is asked for, and before a daemon
 * ends: a lease is held from the moment on in which the database is new enough, and told later. */
void machine_note_lease(struct machine *machine);
static inline bool machine_is_up(const struct machine *machine)
{
    return sim_is_up(machine->world->sim, machine->number);
}
/* Runs fn(arg) as a coroutine on the machine, which waits for it when it stops. False: not now. */
bool machine_spawn(struct machine *machine, const char *name, co_fn *fn, void *arg);
/* A member that can take commands; NULL: none is up. The first at or after `from` in a circle. */
struct machine *world_any_member(struct world *world, unsigned from);

#define DISK_FOLDER "/disks/"
#define DISK_PATH_MAX 32
void disk_path_of(const struct world *world, unsigned disk, char ret_path[DISK_PATH_MAX]);

/* Program. Opens the pool's doors to a disk that exists. Returns as co_node_claim_disk(). */
int co_machine_claim(struct machine *machine, unsigned disk);

/* ---- how it ends badly (sim_report.c) ---- */

/* Says what failed, the last steps and how to repeat the run, and ends the process with status 1.
 */
_Noreturn void world_fail(struct world *world, const char *format, ...) printf_like(2, 3);
/* Assertions and signals of this process end it the same way, in the name of `world` (NULL:
 * nobody's any more). */
void report_for(struct world *world);
/* A line of what the run does, for --log and the eyes of who looks for a bug. */
void world_tell(struct world *world, const char *format, ...) printf_like(2, 3);

#endif
