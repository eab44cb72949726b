/* consensus: the cluster database, replicated. It runs the Raft core (raft.h) over the bus and a
 * key-value store, applies what is committed to the database in RAM, and proposes commands for
 * anyone on this node.
 *
 * Storage. RocksDB is journal and snapshot, read at start only. One batch is written at a time, by
 * a worker; it carries Raft's entries and hard state, and also the records that applying changed
 * since the last batch, with the index up to which they were: so state and index never disagree. A
 * store that fails stops the node (on_failure): nothing was promised for what is not durable.
 *
 * One reactor. co_ calls suspend. */
#ifndef S2D_CLUSTER_CONSENSUS_H
#define S2D_CLUSTER_CONSENSUS_H

#include "s2d/bus/bus.h"
#include "s2d/cluster/database.h"
#include "s2d/cluster/kv.h"
#include "s2d/cluster/raft.h"

struct consensus;

struct consensus_options {
    uint64_t node; /* never 0 */
    uint64_t start_counter;
    struct bus *bus; /* borrowed, outlive the consensus */
    struct kv *kv;
    uint64_t log_bytes_max; /* of Raft's log; 0: 256 MiB */
    /* On the loop, must not suspend; any may be NULL. */
    void (*on_applied)(void *arg, const struct database_change *changes,
                       size_t count); /* after each command */
    void (*on_loaded)(void *arg);     /* a snapshot replaced everything */
    void (*on_role)(void *arg, const struct raft_role *role);
    void (*on_lost)(void *arg,
                    uint64_t node); /* leader: the peer came back without its log; remove it */
    void (*on_failure)(void *arg, int error); /* the store failed: the node must stop now */
    void *arg;
};

/* Writes the first store of a new cluster, of which this node is the only member; what an attempt
 * that was interrupted left goes. Blocks. Returns 0 or -EIO. */
must_check int consensus_bootstrap(struct kv *kv, uint64_t node);
/* Puts into batch what makes the store empty: for a node that joins. */
void consensus_erase(struct kv_batch *batch);

/* Loads the database and takes part. An empty store waits for a leader that was told of us. Returns
 * 0, -EBADMSG (the store is damaged, or lost what it had promised: rebuild the node under a new
 * id), -EIO, -ENOMEM. */
must_check int co_consensus_open(struct io *io, const struct consensus_options *options,
                                 struct consensus **ret_consensus);
/* Ends proposals with -ECANCELED, writes what is pending, leaves. NULL is fine. */
void co_consensus_close(struct consensus *consensus);

struct database *consensus_database(struct consensus *consensus);
struct raft *consensus_raft(struct consensus *consensus);
uint64_t
consensus_applied(const struct consensus *consensus); /* index of the last entry applied in RAM */
/* This node leads, and its database is as new as its leadership: it has applied an entry of its own
 * term. */
bool consensus_leads(const struct consensus *consensus);

/* Proposes a command from any node and waits until it was applied *here*: who proposed also sees.
 * The command runs once or not at all, but when the answer is -ETIMEDOUT nobody knows: look before
 * asking again. command: borrowed; ret_result: for command_result_done(). Returns ret_result->code:
 * what the database says, or -EHOSTUNREACH (no leader), -ETIMEDOUT, -ECANCELED. */
int co_consensus_propose(struct consensus *consensus, const json_t *command, uint64_t timeout_ns,
                         struct command_result *ret_result);

/* The same for what only the leader of `term` may say, because it was decided under the leases that
 * it grants: proposed by this node, as that leader, once. -ESTALE: it does not lead in that term
 * (any more), and the command was not run; or what the database says. */
int co_consensus_propose_in(struct consensus *consensus, uint64_t term, const json_t *command,
                            uint64_t timeout_ns, struct command_result *ret_result);
/* The node is stopping: proposals end with -ECANCELED, later ones too; Raft goes on. */
void consensus_end_proposals(struct consensus *consensus);

/* Suspends until everything up to index is applied here. Returns 0, -ETIMEDOUT, -ECANCELED. */
must_check int co_consensus_wait_applied(struct consensus *consensus, uint64_t index,
                                         uint64_t timeout_ns);

/* Leader: makes the node a voter, learner or no member. Returns as raft_change(). */
must_check int consensus_change(struct consensus *consensus, uint64_t node,
                                enum raft_member_role role);
/* Leader: hands over to another voter. Returns as raft_transfer(). */
must_check int consensus_transfer(struct consensus *consensus);
/* Proof that the peer's process is gone. */
void consensus_peer_down(struct consensus *consensus, uint64_t node);

/* The database as a node that is stopped left it, without its consensus. What was committed and not
 * applied yet is not in it. *ret_database: for database_free(). Blocks. Returns 0, -EIO, -EBADMSG,
 * -ENOMEM. */
must_check int consensus_read_database(struct kv *kv, struct database **ret_database,
                                       uint64_t *ret_applied);

#endif
