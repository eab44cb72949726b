/* What the files of the faults share: sim_faults.c (plan and agenda), sim_machine_faults.c
 * (machines, clocks, network), sim_disk_faults.c (disks), sim_rot.c (what goes bad on them),
 * sim_cache_faults.c (cache disks), sim_stall_faults.c (what hangs), sim_admin_faults.c (what
 * administrators do),
 * sim_replace_faults.c (disks and nodes that they exchange). */
#ifndef TESTS_SIM_FAULTS_PRIVATE_H
#define TESTS_SIM_FAULTS_PRIVATE_H

#include "tests/sim/sim_faults.h"

struct fault {
    unsigned index, kind;
    uint64_t at_ns, for_ns;          /* from the start of the faults */
    struct machine *machine, *other; /* two different ones, unless there is but one */
    uint64_t draw[3];                /* for what else is to be chosen */
    unsigned tries;                  /* that it was put off, of a kind that waits */
    bool takes_room;                 /* while it is under way */
    struct disk_image *image;        /* sim_cache_faults.c */
    enum { FAULT_PLANNED, FAULT_ACTIVE, FAULT_OVER } state;
};

/* apply: returns false when it cannot happen now; may aim: choose the machines and the duration
 * anew. mend: NULL: it needs none; may find its place in
 * any state, since others had their turn meanwhile. */
struct fault_kind {
    const char *name;
    unsigned weight;
    bool (*apply)(struct world *world, struct fault *fault);
    void (*mend)(struct world *world, struct fault *fault);
    bool waits; /* when it cannot happen now, it is tried again some times: it needs a moment in
                   which all is well, which others leave seldom */
};

#define TOO_MUCH "more than they bear" /* the name of the kind that a run too_much has once */

/* Each ends with a name of NULL. */
extern const struct fault_kind machine_faults[], disk_faults[], admin_faults[], replace_faults[],
    cache_faults[],                /* only in runs that have cache disks */
    vm_faults[],                   /* only in runs that have VMs */
    stall_faults[], pair_faults[], /* planned apart from the others, by draws of their own */
    commit_faults[];

/* ---- machines (sim_machine_faults.c): what other tables aim ---- */

bool process_dies(struct world *world, struct fault *fault);
void starts_again(struct world *world, struct fault *fault);
bool stands_still(struct world *world, struct fault *fault);
void goes_on(struct world *world, struct fault *fault);
bool cut_off(struct world *world, struct fault *fault);
void heal_off(struct world *world, struct fault *fault);

void disk_image_free(struct disk_image *image); /* NULL is fine */

void start_if_down(struct machine *machine);
/* A mend: its machine, if it is down. */
void starts_again(struct world *world, struct fault *fault);

/* ---- disks (sim_disk_faults.c, sim_rot.c) ---- */

/* The disk that this fault is about; UINT_MAX: none is to be had. */
unsigned choose_disk(const struct fault *fault, const struct machine *machine);
/* Where data may be destroyed: *ret_machine and the disk, or UINT_MAX when not now. */
unsigned choose_victim(struct world *world, const struct fault *fault,
                       struct machine **ret_machine);
/* All volumes of the clients live on when two nodes lose all that they have. */
bool bears_two(const struct world *world);
/* The second node of a fault that destroys data on two at once, the same in the whole run: what
 * either has lost may not be known yet when the next one comes. */
unsigned choose_other_victim(const struct world *world, const struct fault *fault);
bool bits_rot(struct world *world, struct fault *fault); /* a kind */
/* A write of a log on that disk, or of the disk's, was lost, or went astray. False: there is none
 * that may be. */
bool spoil_log_write(struct world *world, const struct fault *fault, struct machine *machine,
                     unsigned disk, enum sim_disk_spoil kind);
/* All nodes are up, and all columns of all slabs are in-sync, as every node says. */
bool all_in_sync(struct world *world);

/* ---- administrators (sim_admin_faults.c) ---- */

struct act { /* a coroutine on some node that gives commands */
    struct machine *machine;
    struct fault fault;
    int (*co_act)(struct act *act);
    struct list node; /* of the machine's, while it runs */
    struct co *co;
};

/* Begins one. machine NULL: nobody can be told. Returns false when it cannot be. */
bool begin_act(struct machine *machine, const struct fault *fault, int (*co_act)(struct act *act));
int co_command(struct node *node, json_t *command); /* command: stolen */
struct machine *member_for(struct world *world, const struct fault *fault);
/* Claims the machine's next disk that exists and is not claimed; 0 when there is none. */
int co_claim_next(struct act *act);
/* Puts an empty disk into a free place of the machine. Returns its number, or -ENOSPC. */
int add_disk(struct machine *machine);
int add_cache_disk(struct machine *machine);

/* sim_replace_faults.c: nodes that are nobody's any more; their disks are retired, and then they
 * are evicted. */
bool has_strangers(const struct machine *machine);
int co_evict_strangers(struct act *act);

/* What remains to be done by an administrator. Returns true when nothing is. */
bool admin_tidy_up(struct world *world);

#endif
