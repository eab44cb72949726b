/* sim_workload: the clients of a run, on every node.
 *
 * Block level (sim_blocks.c): clients of all nodes share one file in each volume, as the exports
 * see a disk image: they write, read, trim and zero runs of its blocks, and flush. Several may
 * write the same block at once; every block of every write carries a stamp of its own.
 *
 * File level (sim_files.c): each client has a directory in which it alone makes, renames and
 * removes files, writes their beginnings and sets their sizes; clients of all nodes look into all
 * of them. A file's owner (uid) is its stamp: it is there from the moment the name is.
 *
 * Copies (sim_copies.c): clients of some nodes make clones and snapshots of the shared file and of
 * each other, use them, put them back and remove them.
 *
 * What was asked and answered goes into the world's history. A client of a node that dies is gone;
 * its successor goes on in the same directory. Errors that nothing excuses fail the run. */
#ifndef TESTS_SIM_WORKLOAD_H
#define TESTS_SIM_WORKLOAD_H

#include "tests/sim/sim_world.h"

struct workload *workload_new(struct world *world);
void workload_free(struct workload *workload);

/* Program, on the first machine: makes the shared files. Returns 0 or an error of csv.h. */
must_check int co_workload_prepare(struct machine *machine);
/* Program: starts this machine's clients as soon as the world is ready. */
void workload_start(struct machine *machine);
/* Clients of a volume that have not yet stopped, on all nodes. */
unsigned workload_running(const struct workload *workload, unsigned volume);
/* Program: reads every block, name, file and directory, once, from this node; of volumes that are
 * lost, nothing. */
void co_workload_read_all(struct machine *machine);

/* ---- shared by the kinds of clients ---- */

struct client {
    struct machine *machine;
    unsigned number;   /* on this machine, from 0; block clients first, then file clients */
    uint64_t since_ns; /* when it began what it is at */
};

uint32_t client_who(const struct client *client); /* its number in reports */
unsigned client_volume(const struct client *client);
/* Among the clients of its kind of all nodes; those of the volumes take turns. */
uint64_t client_place(const struct client *client);
bool client_goes_on(const struct client *client);
/* Waits for some time, as clients do between two requests. False: it is to stop. */
bool co_client_think(struct client *client);

/* A stamp never given before, for a register. */
uint64_t stamp_new(struct workload *workload, uint32_t reg);
/* The register that a stamp was given for; UINT32_MAX: none. */
uint32_t stamp_register(const struct workload *workload, uint64_t stamp);

/* Whether a flush is to come now; true in some runs, now and then. */
bool workload_flushes(struct world *world);
/* As fsync() or fdatasync(). All that was answered is durable already: it is a request like others,
 * that must be answered on every node. Returns 0 or an error of csv.h. */
int co_client_flush(const struct client *client, struct csv_volume *volume, uint64_t ino);

/* Judges an error. True: excused, nobody knows what was done. Fails the run when nothing excuses
 * it.
 */
bool error_is_excused(const struct client *client, int error, bool changes, const char *what);

struct blocks;
struct blocks *blocks_new(struct world *world, unsigned volume);
void blocks_free(struct blocks *blocks);
int co_blocks_prepare(struct machine *machine, const struct blocks *blocks);
void co_block_client(struct client *client);
void co_blocks_read_all(struct machine *machine, struct blocks *blocks);

struct files;
struct files *files_new(struct world *world);
void files_free(struct files *files);
void co_file_client(struct client *client);
void co_files_read_all(struct machine *machine, unsigned volume);

struct copies;
struct copies *copies_new(void);
void copies_free(struct copies *copies);
void co_copy_client(struct client *client);
void co_copies_read_all(struct machine *machine, unsigned volume);

struct blocks *world_blocks(struct world *world, unsigned volume);
struct files *world_files(struct world *world);
struct copies *world_copies(struct world *world);

#endif
