/* What the files of consensus share: consensus.c (driving the core, applying, writing, life),
 * consensus_store.c (what the store looks like, and reading it), consensus_propose.c. */
#ifndef S2D_CLUSTER_CONSENSUS_INTERNAL_H
#define S2D_CLUSTER_CONSENSUS_INTERNAL_H

#include "s2d/base/co.h"
#include "s2d/bus/message_types.h"
#include "s2d/cluster/consensus.h"
#include "s2d/cluster/snapshot.h"

#define CONSENSUS_TYPE_RAFT (BUS_TYPE_RAFT + 0)
#define CONSENSUS_TYPE_PROPOSE (BUS_TYPE_RAFT + 1)

struct proposal {
    struct list node;
    uint64_t number;
    uint64_t term;      /* it can be in the log of this term's leader only; 0: nowhere yet */
    uint64_t only_term; /* may be proposed in this term only, by us as its leader; 0: any, anyhow */
    bool applied, lost;
    bool unknown; /* a snapshot may hold it or not */
    struct command_result *result;
    struct co_cond changed;
};

struct consensus {
    struct io *io;
    struct consensus_options options;
    struct database *database;
    struct raft *raft;
    struct io_timer tick;
    bool driving, drive_again;
    bool ending; /* no proposals any more */
    bool closing, failed;

    /* applied in RAM, not yet written */
    struct kv_batch state;
    uint64_t applied, applied_term;
    uint64_t durable_applied;
    struct io_timer flush;
    bool flush_due;

    /* the writer */
    struct co_group group;
    struct co_cond write_wanted;
    struct raft_persist persist; /* batch 0: none waits */
    struct kv_batch writing;

    struct list proposals;
    uint64_t next_number;
    struct co_cond progress; /* an entry was applied, or the leader changed */

    struct snapshot_writer *outgoing; /* one snapshot being sent, to all who need one */
    struct snapshot_reader *incoming;
    uint8_t *message; /* room for one encoded message */
};

/* Does what the core wants done, until there is no more. After every event; may be called from
 * callbacks of applying. */
void consensus_drive(struct consensus *consensus);

/* ---- the store (consensus_store.c) ---- */

#define CONSENSUS_STATE_PREFIX "db/"
#define CONSENSUS_STATE_END "db0" /* '0' follows '/' */
#define CONSENSUS_KEY_APPLIED "state/applied"

struct consensus_loader {
    struct consensus *consensus;
    struct raft_options raft;
    int result;
};

/* Job of a worker: reads the whole store into a new consensus that nobody else sees yet. arg: a
 * struct consensus_loader. */
void consensus_load(void *arg);

/* Add to a batch: what the core wants persisted; a changed record. */
void consensus_put_raft(struct kv_batch *batch, const struct raft_persist *persist);
void consensus_put_change(struct consensus *consensus, const struct database_change *change);

/* ---- proposals (consensus_propose.c) ---- */

/* Of a node that takes us for the leader: a struct consensus *. */
void consensus_handle_propose(void *arg, const struct bus_message *message);

#endif
