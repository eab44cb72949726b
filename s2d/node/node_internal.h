/* What the parts of the node share. Only s2d/node's own files include this.
 *
 *   node.c        life: identity, start, stop, what the layers call back, the reconciling coroutine
 *   membership.c  create, token, join; peers and Raft's members
 *   disks.c       this node's disks and stores; the column stores of everybody's disks
 *   volumes.c     which vdisks this node owns (volumes_internal.h: the rest of it)
 *   failover.c    what only the leader does: nodes down, new owners, members of Raft, deletion */
#ifndef S2D_NODE_NODE_INTERNAL_H
#define S2D_NODE_NODE_INTERNAL_H

#include "resiliency/pace.h"
#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/log.h"
#include "s2d/base/metrics.h"
#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"
#include "s2d/bus/bus.h"
#include "s2d/bus/message_types.h"
#include "s2d/cluster/consensus.h"
#include "s2d/cluster/liveness.h"
#include "s2d/node/node.h"

#define PROPOSE_NS (10 * SEC)
#define RECONCILE_NS SEC /* looked at again so often even if nothing was heard */
#define KEY_BYTES 32

struct node_identity { /* kept in the key-value store */
    uint64_t node;     /* 0: nobody */
    uint64_t start_counter;
    uint8_t cluster[16];
    uint8_t key[KEY_BYTES];
    json_t *peers; /* [{id, address}]: whom to ask before the database has come; may be NULL */
};

struct node_disk;
struct node_volume;
struct store_client;
struct store_server;

struct node {
    struct io *io;
    struct node_options options;
    char name[NAME_MAX_BYTES];
    char listen[ADDRESS_MAX_BYTES];
    char folder[PATH_MAX_BYTES];
    struct node_identity identity;
    struct metrics *metrics;

    /* as a member */
    bool member;
    struct bus *bus;
    struct consensus *consensus;
    struct liveness *liveness;
    struct buffer_pool *owner_buffers;
    struct buffer_pool *store_buffers;
    struct store_server *store_server; /* our disks, to the others */
    struct store_client *store_client; /* their disks, to us */
    struct csv *csv;

    bool becoming; /* create or join is under way */
    bool booted;   /* held a lease once: what the database says then is the state we found */
    uint64_t booted_ns;
    bool heard_leader; /* another node led, in the life of this process: the cluster was up */
    bool leader_cold;  /* we lead a cluster that was down: give the others time to come */
    uint64_t led_ns;   /* since when we lead; 0: we do not */
    bool leaving;      /* ownership is being handed over: no new one is taken on */
    bool stopping;
    struct co_group group;         /* every coroutine of the node, but for */
    struct co_group volumes_group; /* those of the volumes */
    struct co_cond reconcile;      /* something changed */
    bool reconcile_again;
    struct co_cond
        changed; /* broadcast after each reconciling pass, for those who wait for an effect */

    struct pace pace;       /* of the copies that this node's vdisks make */
    struct list disks;      /* struct node_disk: of this node */
    struct list disks_gone; /* those given back: closed, or about to; mirrors know their columns */
    struct list volumes;    /* struct node_volume: one for each vdisk */
    struct list claiming;   /* struct claiming: disks that are being claimed (disks.c) */

    struct down_node { /* what the leader remembers of nodes that are down */
        uint64_t node; /* 0: free */
        uint64_t start_counter;
        uint64_t since_ns;
        bool host_answers;
    } downs[WATCH_NODES_MAX];
    uint64_t vm_retried_ns;
    uint64_t space_looked_ns;
    struct list leader_tasks; /* struct leader_task: what a pass has begun and is not answered */

    uint64_t peers[BUS_NODES_MAX]; /* that the bus was told of; 0: free */
};

void node_reconcile_soon(struct node *node);
/* Spawns fn(arg) in the node's group. A failure (no memory) is logged; the next pass tries again.
 */
bool node_spawn(struct node *node, const char *name, co_fn *fn, void *arg);
void node_fatal(struct node *node, const char *reason);
bool node_lease_held(struct node *node);
const struct node_record *node_record_of(const struct node *node, uint64_t id);
void node_say(struct node_message *message, const char *format, ...) printf_like(2, 3);
/* Fills message from a refused command; returns its code. */
int node_explain(const struct command_result *result, struct node_message *message);

/* As co_node_propose(), by this node as the leader of `term`, or not at all (consensus.h). */
int co_node_propose_in(struct node *node, uint64_t term, json_t *command,
                       struct command_result *ret_result);

/* node.c */
must_check int co_node_save_identity(struct node *node);
/* Ids and counters from outside. False: it is none that this product counts up to. */
bool node_take_number(const json_t *json, uint64_t *ret_number);
must_check int co_node_start_member(struct node *node);

/* membership.c */
void node_reconcile_peers(struct node *node);
int node_find_key(void *arg, const uint8_t key_id[BUS_KEY_ID_BYTES],
                  uint8_t ret_key[BUS_KEY_BYTES]);
void node_membership_start(struct node *node); /* takes the messages of those who join */
int hex_to_bytes(const char *hex, uint8_t *ret_bytes, size_t count);
void bytes_to_hex(const uint8_t *bytes, size_t count, char *ret_hex);

/* disks.c */
must_check int co_node_disks_start(struct node *node);
void co_node_reconcile_disks(struct node *node);
void co_node_disks_stop(struct node *node);
struct column_store *node_column(struct node *node, uint64_t on_node, uint64_t disk);

/* volumes.c */
void node_volumes_applied(struct node *node, const struct database_change *changes, size_t count);
/* Begins to follow vdisks that are new to us, as soon as the database has them: who asks our
 * exports for the volume of one waits then until somebody serves it, and is not told that there is
 * none. */
void node_follow_volumes(struct node *node);
void node_reconcile_volumes(struct node *node); /* also forgets those that are gone */
void node_volumes_boot(struct node *node);      /* the first lease */
void co_node_volumes_stop(struct node *node, bool handover);

/* authorize.c: csv_options.authorize */
int node_authorize(void *arg, const char *volume, const char *path, uint64_t incarnation,
                   bool read_only);
/* authorize.c: csv_options.disk_with_name */
const char *node_disk_with_name(void *arg, const char *volume, const char *name, unsigned skip);

/* failover.c */
void node_lead_pass(struct node *node);
/* One command at a time about a subject (id of a node, disk, vdisk, VM or volume): whether one is
 * on its way; and proposes one. term: in which it may be proposed; 0: any. command: taken. Returns
 * whether it will be proposed; if not, a later pass tries again. */
bool node_task_under_way(const struct node *node, uint64_t subject);
bool node_propose_as_leader(struct node *node, uint64_t subject, uint64_t term, json_t *command);
bool node_declare_down(void *arg, uint64_t down, uint64_t start_counter, const char *reason);

/* repair.c */
void node_repair_pass(struct node *node); /* by the leader */

/* pool_events.c */
void node_tell_space(
    struct node *node); /* by the leader: an event when the pool fills, or empties */

/* jobs.c */
void node_jobs_lead_pass(struct node *node); /* by the leader: begins and ends rebuilds' jobs */
bool node_job_is_paused(const struct node *node, const struct vdisk_record *vdisk);
void node_jobs_pass(struct node *node); /* by everybody, for the vdisks that it owns */

#endif
