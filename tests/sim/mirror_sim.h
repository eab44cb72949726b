/* What the files of mirror_sim share: mirror_sim.c (faults, runs), mirror_sim_aimed.c and
 * mirror_sim_rot.c (runs of --aimed and --rot), mirror_sim_database.c, mirror_sim_node.c (a node's
 * process), mirror_sim_clients.c (requests, and what they may show). */
#ifndef S2D_TESTS_MIRROR_SIM_H
#define S2D_TESTS_MIRROR_SIM_H

#include <stdio.h>

#include "pool/disk.h"
#include "resiliency/column_store.h"
#include "resiliency/mirror.h"
#include "resiliency/pace.h"
#include "resiliency/parity_layout.h"
#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/sim.h"

#define NODES_MAX 9
#define DATA_COLUMNS_MAX 6
#define SLABS 4
#define COLUMN_BLOCKS 256 /* of an extent; and of a slab, in a mirror */
#define BLOCKS_MAX (SLABS * COLUMN_BLOCKS * DATA_COLUMNS_MAX)
#define VDISK 5
#define CLIENTS 12 /* on each node; only the owner's are at work */
#define MAYBE_MAX 16
#define STEP_NS MS
#define LEASE_NS (2 * SEC)
#define HEAL_NS (120 * SEC)
#define DISK_PATH "/disk"
#define DISK_BYTES (48 * MIB)
#define LOG_BYTES (4 * MIB)
#define PORT 7800

/* What a write made of a block: a version, and whether it was zeros. */
struct value {
    uint64_t version;
    bool zero;
};

struct block {
    struct value known; /* acknowledged, or seen */
    struct value maybe[MAYBE_MAX];
    unsigned maybe_count;
    bool busy;            /* one request of a client at a time; peekers do not ask */
    struct value writing; /* under way; version 0: none */
    uint64_t seen;        /* the highest version that a peeker saw */
    uint64_t changes;     /* requests that began or ended */
    bool rotten;          /* on one disk, perhaps: it may be lost when the others are */
};

#define REPEATS_MAX 64
#define REPEAT_BLOCKS_MAX 32
/* Who waited for longer is gone: once every store has started again, what had left their logs is
 * forgotten. */
#define REPEAT_TAKEOVERS_MAX 2

/* A write that was not answered: its client asks again, sooner or later. */
struct repeat {
    uint64_t block;
    uint32_t count; /* 0: none */
    struct value value;
    struct client_request request;
    unsigned takeovers;               /* that there had been when it was asked first */
    bool happened[REPEAT_BLOCKS_MAX]; /* somebody saw it: it must not happen again */
};

struct cluster;

struct node {
    struct cluster *cluster;
    unsigned number;
    bool claimed;

    /* while it is up */
    struct io *io;
    struct disk *disk;
    struct store *store;
    struct bus *bus;
    struct buffer_pool *client_buffers, *owner_buffers, *store_buffers;
    struct store_client *client;
    struct store_server *server;
    struct column_store *local;
    struct mirror *mirror;
    struct pace pace;
    struct co_group coroutines;
    bool running, stopping;
    uint64_t starts;

    /* its view of the database */
    bool raft_cut;
    uint64_t delay_ns, seen;  /* configurations */
    uint64_t lease_until_ns;  /* on the world's clock */
    uint64_t serving_session; /* 0: none */
    uint64_t last_session;    /* that this process served: never again */
    uint64_t down_until_ns, paused_until_ns;
    bool zombie;    /* does not mind its lease: the stores must hold it off (I4) */
    bool hand_over; /* the ownership is wanted elsewhere */
    bool disk_fails;
    bool destage_wanted; /* all of it, now */
    struct disk_geometry geometry;
};

struct command {
    uint64_t due_ns, epoch, disks[NODES_MAX];
    size_t count, slab_count;
    uint32_t slab, slabs[SLABS];
    enum { COMMAND_STALE, COMMAND_IN_SYNC, COMMAND_SLAB } kind;
};

#define COMMANDS_MAX 256
#define CONFIGS_MAX 4096

struct cluster {
    struct sim *sim;
    uint64_t seed;
    uint32_t data_columns; /* 1: a mirror */
    uint32_t width;
    uint32_t slab_blocks, request_blocks; /* of the largest request */
    uint64_t block_count;
    uint64_t pause_ns; /* of a client between two requests, at most */
    uint32_t stride;   /* clients use one block in so many */
    uint32_t used;     /* of each slab, the first so many blocks */
    bool show_log;
    bool repeating; /* clients ask again for what was not answered */
    uint32_t focus; /* the slab that clients work on, from 1; 0: all */
    /* parity: the rows that they work on have one data column, from 1 (0: all), or they ask for
     * whole stripes */
    uint32_t only_column;
    bool whole_stripes;
    unsigned node_count;
    struct node nodes[NODES_MAX + 1]; /* from 1 */
    struct vdisk_config *configs[CONFIGS_MAX];
    uint64_t published_ns[CONFIGS_MAX];
    uint64_t config_count;
    uint64_t raft_index;
    struct command commands[COMMANDS_MAX];
    size_t command_count;
    uint64_t owner_since_ns;

    struct block blocks[BLOCKS_MAX];
    uint64_t version;
    uint64_t requests; /* the number of the last one */
    struct repeat repeats[REPEATS_MAX];
    bool clients_stop;
    unsigned clients_at_work;
    void (*task)(struct node *owner); /* that the owner shall do, in a coroutine; NULL: none */
    bool task_done;
    struct mirror_scrub scrub; /* what the last one found */
    struct {
        unsigned reads, writes, unanswered, repeats, takeovers, stale, in_sync, crashes, rewritten,
            healed, rotten, lost, replaced, handed_over;
    } count;
};

static inline uint64_t draw(struct cluster *cluster, uint64_t below)
{
    return sim_random(cluster->sim) % below;
}

#define check(cluster, condition)                                                                  \
    do {                                                                                           \
        if (!(condition))                                                                          \
            sim_fail(cluster, #condition, __FILE__, __LINE__);                                     \
    } while (0)
void sim_fail(struct cluster *cluster, const char *what, const char *file, int line);

/* ---- faults and time ---- */

void run_for(struct cluster *cluster, uint64_t duration_ns);
void crash_node(struct node *node, enum sim_crash_kind kind, uint64_t down_ns);
void heal(struct cluster *cluster); /* no fault is left */
/* Clients rest, everything heals, every block and every copy is looked at; then they go on. */
void look_at_everything(struct cluster *cluster);

void play_aimed(struct cluster *cluster);

/* ---- the database ---- */

struct vdisk_config *config_now(struct cluster *cluster);
/* A copy to change, of the next epoch; then config_publish() it. */
struct vdisk_config *config_edit(struct cluster *cluster);
void config_publish(struct cluster *cluster, struct vdisk_config *config);
void place_slab(struct cluster *cluster, struct vdisk_config *config, uint32_t slab);
/* A proposal on its way from a node; it may get lost. */
void propose(struct node *node, struct command command);
/* What the leader does between two steps. */
void lead(struct cluster *cluster);

/* ---- a run ---- */

void run_for(struct cluster *cluster, uint64_t duration_ns);
/* Has the owner do it, and waits. */
void await_task(struct cluster *cluster, void (*task)(struct node *owner));
void play_rot(struct cluster *cluster);

/* ---- a node ---- */

void node_main(struct io *io, void *node);
struct column_store *node_column(void *node, uint64_t number, uint64_t disk);
void node_end_mirror(struct node *node);

/* The row of a block; in a mirror its place in the slab. */
static inline uint32_t row_of(const struct cluster *cluster, uint64_t number)
{
    return parity_row(cluster->data_columns, (uint32_t)(number % cluster->slab_blocks));
}

/* The block of another data column in the row of block `number`. */
static inline uint64_t block_at(const struct cluster *cluster, uint64_t number, uint32_t column)
{
    return number - number % cluster->slab_blocks +
           parity_block(cluster->data_columns, column, row_of(cluster, number));
}

/* ---- clients ---- */

void client_run(void *node);
void checker_run(struct node *node); /* the last look: reads all, encodes all rows again */
void filler_run(struct node *node);  /* writes every block */
void scrub_run(struct node *node);
void reader_run(void *node);    /* reads what nobody writes */
void repeater_run(void *node);  /* asks again what was not answered */
void peeker_run(void *node);    /* reads what others are just writing */
void watcher_run(void *node);   /* does what the run asks for: tasks, planned moves */
void inspector_run(void *node); /* looks into its own store */

#endif
