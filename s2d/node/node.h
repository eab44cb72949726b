/* node: one node of a cluster, from the bus to the volumes: the only place that knows every layer.
 * It runs the same in a daemon and in the simulator: what is given to it (the loop, the key-value
 * store) decides. Processes around it (FUSE, VMs, the API's server) are wired in main.c.
 *
 * A node is first nobody: it answers only the API. `create` makes it the first node of a new
 * cluster, `join` a further one of an existing one; from then on it starts as that node. Everything
 * else follows from the cluster database: a reconciling pass (node.c) looks at what it says after
 * each change and brings disks, vdisks and volumes into line; so every step may be interrupted and
 * repeated.
 *
 * One reactor. co_ calls suspend. */
#ifndef S2D_NODE_NODE_H
#define S2D_NODE_NODE_H

#include "s2d/base/io.h"
#include "s2d/cluster/database.h"

struct consensus;
struct csv;
struct fs_check_result;
struct kv;
struct liveness;
struct metrics;
struct mirror_scrub;
struct node;

struct node_options {
    const char *name;             /* of this node; copied */
    const char *listen;           /* "10.83.0.1:7800" */
    const char *folder;           /* for working files; disks are named by paths of their own */
    struct kv *kv;                /* borrowed: identity, Raft, database */
    uint64_t cold_start_grace_ns; /* nobody is marked stale for being late so long after a start; 0:
                                     30 s */
    uint64_t disk_log_bytes;      /* of disks that are claimed; 0: as disk_claim says. For tests */
    uint32_t group_blocks; /* of file systems that are formatted (fs.h); 0: fs.h's. For tests */
    uint64_t unreadable_wait_ns;  /* a volume waits for metadata that no copy gives; 0: 30 min */
    uint64_t rebuild_floor_bytes; /* copied each second however busy the clients are; 0: pace.h's */
    uint64_t vm_restart_delay_ms; /* of a cluster that this node creates; 0: 30000 */
    /* The node cannot go on (its store failed): stop the process. On the loop. */
    void (*on_fatal)(void *arg, const char *reason);
    /* Something in the database changed; the lease was renewed until then (0: lost). On the loop;
     * may be NULL. */
    void (*on_change)(void *arg, const struct database_change *changes, size_t count);
    void (*on_lease)(void *arg, uint64_t expires_ns);
    void *arg;
};

/* Starts: as nobody, or as the node that the key-value store says. Returns 0, -EADDRINUSE, -EBADMSG
 * (the store is damaged), -EIO, … */
must_check int co_node_start(struct io *io, const struct node_options *options,
                             struct node **ret_node);
/* A clean stop: hands ownership and lease over (bounded by a few seconds), closes the volumes and
 * the disks, leaves. handover false: just unwinds, as after a crash in the simulator. */
void co_node_stop(struct node *node, bool handover);

/* Tests: the file systems of this node forget what is on disk (fs_forget()), and what is changed
 * will be soon. */
void node_forget_metadata(struct node *node);

/* Before a stop that has waited long enough for requests: ends what this node's volumes have under
 * way, and what is sent to other owners. Those that wait for copies that are away would wait on,
 * and hold up whoever serves them; they return -ESTALE (to clients -ESHUTDOWN). A volume is begun
 * anew by itself, so call it again if need be. */
void node_drop_volumes(struct node *node);

bool node_is_member(const struct node *node);
uint64_t node_id(const struct node *node); /* 0: not a member */
const char *node_name(const struct node *node);
const struct node_options *node_options(const struct node *node);

/* For those who stand on the node. NULL while it is not a member. */
struct io *node_io(struct node *node);
struct metrics *node_metrics(struct node *node);
struct consensus *node_consensus(struct node *node);
struct database *node_database(struct node *node);
struct liveness *node_liveness(struct node *node);
struct csv *node_csv(struct node *node);

/* Proposes a command and waits until it was applied here; adds "time_ns". command: stolen.
 * ret_result: for command_result_done(). Returns ret_result->code. */
int co_node_propose(struct node *node, json_t *command, struct command_result *ret_result);

/* ---- what administrators do. On a refusal ret_message says what, why, what to do ---- */

struct node_message {
    char text[512];
};

/* s2d cluster create. */
int co_node_create_cluster(struct node *node, const char *name, struct node_message *ret_message);
/* s2d cluster token: ret_token is handed to the new node's administrator; good once, for an hour.
 */
#define TOKEN_TEXT_MAX 128
int co_node_make_token(struct node *node, char ret_token[TOKEN_TEXT_MAX],
                       struct node_message *ret_message);
/* s2d cluster join. */
int co_node_join(struct node *node, const char *address, const char *token,
                 struct node_message *ret_message);
/* s2d disk claim, on this node. role: NULL: cache when the node has slower disks and none faster,
 * else capacity. ret_disk: its id. */
int co_node_claim_disk(struct node *node, const char *path, const char *role, uint64_t *ret_disk,
                       struct node_message *ret_message);
/* s2d volume create: returns when it is online. owner 0: this node. */
int co_node_create_volume(struct node *node, const char *name, uint64_t size_bytes,
                          const char *resiliency, uint64_t data_columns, bool thin, uint64_t owner,
                          struct node_message *ret_message);
/* s2d volume move. */
int co_node_move_volume(struct node *node, uint64_t volume, uint64_t to,
                        struct node_message *ret_message);

/* ---- what is going on, for the API ---- */

struct node_volume_status {
    bool owned;          /* by this node, in this process */
    bool serving;        /* mounted */
    bool read_only;      /* for metadata that no copy gives */
    const char *waiting; /* what it waits for, in words; NULL: nothing */
    uint32_t slabs_waiting, stale_disks, catching_disks;
    uint32_t detached_slabs; /* that wait for columns, */
    uint64_t detached_disk;  /* one of them here */
    uint64_t compare_blocks, copied_blocks, healed_blocks, lost_blocks;
    uint64_t reads, writes, read_bytes, written_bytes;
    uint64_t free_bytes, total_bytes; /* of the file system; 0 when it is not mounted here */
};
/* Returns 0, -ENOENT. */
int co_node_volume_status(struct node *node, uint64_t volume,
                          struct node_volume_status *ret_status);

/* This node answers for the vdisk right now: its file system is mounted here and the lease is held.
 * For checkers. */
bool node_serves(struct node *node, uint64_t vdisk);

/* s2d volume check: looks through the file system of a volume that this node serves, and then at
 * every copy of every block, while it is in use. report(): one line a problem. Returns 0 when it
 * could look, -ENOENT, -EREMOTE (not served here), -EBUSY (it is being done already), -ESTALE (it
 * moved meanwhile), -ECANCELED. */
int co_node_check_volume(struct node *node, uint64_t volume,
                         void (*report)(void *arg, const char *line), void *arg,
                         struct fs_check_result *ret_result, struct mirror_scrub *ret_scrub);

/* For development clusters: every I/O of this node's disk fails with `error` from now on (0: no
 * more). Returns 0, -ENOENT (no such disk, or it is not open). */
int node_fault_disk(struct node *node, uint64_t disk, int error);
/* For development clusters: the disk, which must be a file, is as slow as a hard disk until the
 * daemon ends. Returns 0, -ENOENT (as above), -EPERM (a device), -EALREADY, -ENOMEM. */
int node_slow_disk(struct node *node, uint64_t disk);

struct node_disk_status {
    bool open;
    bool damaged;                /* its log was lost or damaged, and not all has been compared */
    char reason[256];            /* why not */
    char log_on[NAME_MAX_BYTES]; /* the disk that its log is on; "": it has none */
    unsigned bound;              /* a cache disk's: logs of other disks on it */
    uint64_t log_bytes, log_used_bytes, dirty_blocks;
    uint64_t verify_errors, healed_blocks, rotten_blocks; /* store.h */
    uint64_t withheld_slabs; /* of which it has the last copy, which may lack writes: not read */
};
/* Of a disk of this node. Returns 0, -ENOENT. */
int node_disk_status(struct node *node, uint64_t disk, struct node_disk_status *ret_status);

#endif
