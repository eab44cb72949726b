/* sim_faults: what goes wrong in a run. The table in sim_faults.c names every kind of fault; the
 * seed gives each a rate (many are off in any one run: what a run lacks lets the rest go deeper)
 * and makes a plan of it before anything happens: fault 0, 1, 2, … with a time, a place and a
 * duration. So a run can be repeated with some of them left out (run_options.faults).
 *
 * What the copies bear. Crashes, cuts, pauses and power cuts may hit anybody at any time: they cost
 * availability, never data. What destroys data (disk death, rot, lost and misdirected writes) and
 * disk errors hit the disks of one node of a run, or, where all volumes bear it, of two at the same
 * instant (the same two in the whole run), and only while every copy is in-sync. If later on
 * the only in-sync copy of something is on that node, the world counts as `exposed`, and an error
 * is an honest answer; wrong data never is. */
#ifndef TESTS_SIM_FAULTS_H
#define TESTS_SIM_FAULTS_H

#include "tests/sim/sim_world.h"

struct faults;

/* Makes the plan: of the world's shape and seed. */
struct faults *faults_plan(struct world *world);
void faults_free(struct faults *faults);

/* Lets the planned time pass, faults included. */
void faults_run(struct world *world);

/* Ends every fault, and does what an administrator would: starts what is down, starts nodes again
 * whose disks had failed, repeats claims that were interrupted, removes the volumes that faults
 * made. Returns whether all of that is done. Fails the run when it cannot be done in HEAL_NS, but
 * where data may have been destroyed: then the nodes are members, each with its lease. */
bool faults_end(struct world *world);

/* One that took room from the pool is under way. */
bool faults_take_room(const struct faults *faults);

/* A fault takes room from the pool, or it may be that it does (sim_room.c). Until there is some
 * again, and a little longer, ENOSPC is an honest answer. */
void take_room(struct world *world);
void room_look(struct world *world); /* between steps */
/* To a request that was begun then. */
bool lacked_room(struct world *world, uint64_t since_ns);

/* For world_run(): all nodes are members, each with its lease. Starts those that have left. */
bool all_are_members(void *world);

/* Has a member make a token for a machine that wants to join (world->token). */
void admin_ask_token(struct machine *machine);

/* Ends what administrators have under way on a machine that stops, as s2dd's API server does. */
void admin_cancel(struct machine *machine);

/* Zeros everywhere on a disk. */
void wipe_disk(struct world *world, const struct machine *machine, unsigned disk);

/* Of each kind, how many happened; for figures. */
unsigned fault_kind_count(void);
const char *fault_kind_name(unsigned kind);
unsigned faults_happened(const struct faults *faults, unsigned kind);

#endif
