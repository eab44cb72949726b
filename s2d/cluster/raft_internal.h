/* raft_internal: the core's one object, and what its files call of each other. For nobody else.
 *
 *     raft.c              life, dispatch of messages, time, state changes, local calls
 *     raft_election.c     pre-vote, vote, leadership won and lost, transfer
 *     raft_replication.c  the leader: appends, answers, rounds, commit, lost logs
 *     raft_follower.c     the follower: appends, heartbeats
 *     raft_snapshot.c     snapshots in pieces, both sides; compaction
 *     raft_witness.c      vouching, both sides
 *     raft_membership.c   changes of the configuration
 *     raft_ready.c        outbox, persist batches, struct raft_ready
 *     raft_log.c          the log in memory */
#ifndef S2D_CLUSTER_RAFT_INTERNAL_H
#define S2D_CLUSTER_RAFT_INTERNAL_H

#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"
#include "s2d/cluster/raft.h"
#include "s2d/cluster/raft_log.h"

enum peer_mode {
    PEER_PROBE,     /* where do the logs agree? one message at a time */
    PEER_REPLICATE, /* they agree at match: a window of messages */
    PEER_SNAPSHOT,  /* what it needs is gone from our log */
};

/* Another member, as a candidate (granted) or a leader (the rest) sees it. */
struct peer {
    uint64_t id;
    enum raft_member_role role;
    bool granted;

    enum peer_mode mode;
    uint64_t match; /* what it confirmed in this term; a witness: what it vouched for */
    uint64_t next;
    uint64_t commit_sent; /* it will have learnt this commit index when all sent has arrived */
    uint64_t
        mode_request; /* append messages up to this number were sent in an earlier mode: stale */
    /* Messages numbered above these were sent after match was confirmed: an answer to one of
     * them that shows less than match is a log that got shorter. */
    uint64_t request_before_match;
    uint64_t round_before_match;
    bool probing; /* PEER_PROBE: the one message is out */
    uint64_t
        sent_ns; /* a probe, or the oldest in the window without progress; a witness: the request */
    uint64_t
        inflight[RAFT_INFLIGHT_MAX]; /* PEER_REPLICATE: last index of each message, oldest first */
    uint32_t inflight_count;

    uint64_t answered_round;
    uint64_t heard_ns;
    uint64_t level_ns; /* when it last made progress or had nothing to catch up */
    bool down;         /* its process is known to be gone, since it was heard */
    bool away;         /* raft_witness.c */
    bool lost;

    uint64_t snapshot_index; /* PEER_SNAPSHOT: the one under way; 0: none chosen */
    uint64_t snapshot_offset;
    uint64_t snapshot_end; /* how far it was sent */
    bool chunk_wanted;     /* to be shown in ready.chunk_requests */
    bool chunk_awaited;    /* shown, not answered by raft_send_chunk() */
    uint64_t chunk_ns;     /* when it was shown or sent */
};

struct pending_read {
    uint64_t context;
    uint64_t index;
    uint64_t round; /* answered by a quorum: done. 0: no entry of this term committed yet, or round
                       not begun */
};

/* A message on its way out, with what its pointers point to. */
struct packet {
    struct raft_message message;
    uint64_t batch; /* may leave when this one is durable; 0: at once */
    uint32_t entry_count;
    struct raft_entry **entries; /* references that keep the views' bytes */
    void *data;                  /* of a snapshot */
    struct raft_view views[];
};

/* The batch that is being written. */
struct writing {
    uint64_t batch; /* 0: none */
    struct raft_hard_state hard_state;
    uint64_t
        last; /* the log is durable up to here when it is done; a truncation meanwhile lowers it */
    bool install;
    struct raft_snapshot base;
    struct raft_entry **entries;
    size_t entry_count;
};

struct raft {
    struct raft_options options;
    bool started;
    uint64_t now_ns;

    struct raft_hard_state hard;         /* as it should be … */
    struct raft_hard_state hard_durable; /* … and as it is on disk */
    enum raft_state state;
    uint64_t leader;
    uint64_t heard_ns; /* when a leader was last heard (or was this node), or the start */
    uint64_t election_deadline_ns;
    bool forced; /* this election was asked for by the leader */

    struct raft_log log;
    uint64_t commit;
    uint64_t applied; /* handed out */
    uint64_t handed;  /* the log up to here was put in a batch */
    uint64_t durable; /* … and that batch is durable. Below base.index only until an install is
                         durable */
    uint64_t truncate_from; /* to be told to the disk; 0: nothing */
    bool base_changed;      /* likewise */
    bool install;           /* likewise: the gathered snapshot becomes the state */

    uint64_t configuration_index;
    struct raft_configuration configuration; /* in force */
    struct peer peers[RAFT_MEMBERS_MAX];     /* its members but this node */
    uint32_t peer_count;

    /* Leader */
    uint64_t term_start; /* index of this term's first entry */
    uint64_t elected_ns;
    uint64_t predecessor_heard_ns; /* candidates gather it */
    uint64_t heartbeat_due_ns;
    uint64_t request; /* number of the last append message, to whomever */
    uint64_t round;   /* the last heartbeat round begun; restarts with the term */
    bool round_wanted;
    uint64_t round_ns[RAFT_ROUNDS_MAX];
    uint64_t quorum_round;
    uint64_t quorum_round_ns;
    uint64_t asked;     /* the highest index that the witness was asked to vouch for in this term */
    uint64_t commit_ns; /* when the commit index last rose, or the term began */
    uint64_t uncommitted_bytes;
    uint64_t transfer_target;
    bool transfer_sent;
    uint64_t transfer_deadline_ns;
    struct pending_read reads[RAFT_READS_MAX];
    uint32_t read_count;
    uint64_t lost[RAFT_MEMBERS_MAX]; /* to be told */
    uint32_t lost_count;

    /* The snapshot that is coming in */
    struct {
        uint64_t from; /* 0: none */
        uint64_t term;
        struct raft_snapshot snapshot;
        uint64_t next_offset;
        bool pending; /* chunk is with the layer above */
        bool shown;
        struct raft_chunk chunk;
        void *data;
    } incoming;

    /* Out */
    uint64_t last_batch;
    struct writing writing;
    struct packet *outbox[RAFT_OUTBOX_MAX];
    uint32_t outbox_count;
    struct packet *shown[RAFT_OUTBOX_MAX]; /* in the last raft_ready() */
    uint32_t shown_count;
    const struct raft_message *shown_messages[RAFT_OUTBOX_MAX];
    struct raft_entry *shown_apply[RAFT_READY_APPLY_MAX];
    uint32_t shown_apply_count;
    struct raft_read done_reads[2 * RAFT_READS_MAX]; /* answered, not shown */
    uint32_t done_read_count;
    struct raft_read shown_reads[2 * RAFT_READS_MAX];
    struct raft_chunk_request shown_chunk_requests[RAFT_MEMBERS_MAX];
    uint64_t shown_lost[RAFT_MEMBERS_MAX];
    struct raft_role shown_role;
};

/* False in the product. test_raft_mutations has a core of its own, in which each node may make a
 * mistake of enum raft_mutation; tests/sim/planted plants the same ones as any other. */
#ifdef S2D_RAFT_MUTATIONS
#define planted(raft, mistake) ((raft)->options.mutation == (unsigned)(mistake))
#else
#define planted(raft, mistake) ((void)(raft), PLANTED(mistake))
#endif

static inline uint64_t raft_last(const struct raft *raft)
{
    return raft_log_last(&raft->log);
}

static inline bool raft_leads(const struct raft *raft)
{
    return raft->state == RAFT_LEADER;
}

/* Ready for reads and membership changes: what earlier terms committed is known to be. */
static inline bool raft_term_committed(const struct raft *raft)
{
    return raft_leads(raft) && raft->commit >= raft->term_start;
}

static inline bool peer_votes(const struct peer *peer)
{
    return peer->role == RAFT_VOTER || peer->role == RAFT_WITNESS;
}

static inline bool raft_votes(const struct raft *raft) /* a full voter itself */
{
    return raft_configuration_role(&raft->configuration, raft->options.id) == RAFT_VOTER;
}

static inline uint32_t raft_quorum(const struct raft *raft)
{
    return raft_configuration_votes(&raft->configuration) / 2 + 1;
}

/* raft.c */
void raft_check(const struct raft *raft);               /* asserts the invariants of one node */
struct peer *raft_peer(struct raft *raft, uint64_t id); /* NULL: no such member */
/* Goes to term (not below the present one) as a follower of leader, 0 if unknown. */
void raft_follow(struct raft *raft, uint64_t term, uint64_t leader);
void raft_restart_election_timer(struct raft *raft);
void raft_truncate(struct raft *raft, uint64_t from); /* log and its shadows on disk */
/* Appends at the end of the log; takes over the reference. Room must have been reserved. */
void raft_append(struct raft *raft, struct raft_entry *entry);
/* Makes and appends one entry of the present term. Returns 0, -ENOMEM. */
must_check int raft_append_new(struct raft *raft, enum raft_entry_type type, const void *data,
                               size_t size);
void raft_commit_to(struct raft *raft, uint64_t index); /* never goes back */
/* The q-th largest of what the voters have, q a quorum. own: this node's, if it is a full voter. */
uint64_t raft_quorum_value(const struct raft *raft, uint64_t own,
                           uint64_t (*value)(const struct raft *raft, const struct peer *peer));

/* raft_election.c */
void raft_stand(struct raft *raft, bool forced); /* forced: no pre-vote */
void raft_election_persisted(struct raft *raft);
int raft_on_pre_vote(struct raft *raft, const struct raft_message *message);
int raft_on_vote(struct raft *raft, const struct raft_message *message);
int raft_on_vote_answer(struct raft *raft, const struct raft_message *message);
bool raft_may_stand(const struct raft *raft);
bool raft_protects_leader(const struct raft *raft);
void raft_transfer_advance(struct raft *raft); /* sends TIMEOUT_NOW when the target is level */
void raft_hand_over(struct raft *raft);        /* asks the best successor to stand; no waiting */

/* raft_replication.c */
void raft_lead(struct raft *raft); /* the first steps of a new leader */
void raft_leader_tick(struct raft *raft);
void raft_leader_flush(struct raft *raft); /* everything that is due to the peers */
void raft_leader_commit(struct raft *raft);
void raft_leader_rounds(struct raft *raft); /* looks again which round a quorum answered */
void raft_leader_fail_reads(struct raft *raft);
void raft_peer_reset(struct raft *raft, struct peer *peer);
/* It durably holds the log up to index. located: and so the window may open there. */
void raft_peer_confirmed(struct raft *raft, struct peer *peer, uint64_t index, bool located);
void raft_peer_probe(struct raft *raft, struct peer *peer, uint64_t next);
int raft_on_append_answer(struct raft *raft, struct peer *peer, const struct raft_message *message);
int raft_on_heartbeat_answer(struct raft *raft, struct peer *peer,
                             const struct raft_message *message);

/* raft_follower.c */
int raft_on_append(struct raft *raft, const struct raft_message *message);
int raft_on_heartbeat(struct raft *raft, const struct raft_message *message);

/* raft_snapshot.c */
int raft_on_snapshot(struct raft *raft, const struct raft_message *message);
int raft_on_snapshot_answer(struct raft *raft, struct peer *peer,
                            const struct raft_message *message);
void raft_peer_snapshot(struct raft *raft, struct peer *peer); /* it needs one */
void raft_snapshot_tick(struct raft *raft, struct peer *peer);
void raft_incoming_drop(struct raft *raft);

/* raft_witness.c */
int raft_on_vouch(struct raft *raft, const struct raft_message *message);
int raft_on_vouch_answer(struct raft *raft, struct peer *peer, const struct raft_message *message);
void raft_witness_presence(struct raft *raft, struct peer *peer); /* is this full voter away? */
void raft_witness_ask(struct raft *raft);

/* raft_membership.c */
void raft_configuration_changed(struct raft *raft); /* the log's newest configuration is another */

/* raft_ready.c */
/* Puts message (type and body set; from, to, term are filled in) in the outbox, to leave when batch
 * is durable (0: at once; raised if the present term is not durable). Entries: views into the log
 * from `first` on. */
void raft_send(struct raft *raft, uint64_t to, const struct raft_message *message, uint64_t batch);
void raft_drop_held(struct raft *raft); /* what waits for a batch; the term has changed */
void raft_outbox_done(struct raft *raft);
uint64_t raft_batch_of_hard_state(const struct raft *raft); /* makes … durable; 0: is */
uint64_t raft_batch_of_index(const struct raft *raft, uint64_t index);
uint64_t raft_batch_of_all(const struct raft *raft);

#endif
