/* raft: consensus as a pure step function: events and the time in, a struct raft_ready out.
 *
 * One reactor; nothing suspends, reads a clock, does I/O or keeps a global. now_ns is the caller's
 * monotonic clock (CLOCK_BOOTTIME; a step back counts as no time). Two nodes' clocks are never
 * compared. The caller's loop, after every event (a message, a tick, a proposal, a finished batch):
 *
 *     while (raft_ready(raft, &ready)) {
 *         1. send ready.messages, in any order; losing one is never wrong
 *         2. if (ready.persist.batch), write that batch on a worker, in one synced write,
 *            and call raft_persisted() when it is durable
 *         3. apply ready.apply in order; answer ready.reads; serve ready.chunk and
 *            ready.chunk_requests
 *     }
 *
 * The core itself holds back what depends on a batch (votes, acknowledgements, vouchings, its own
 * share in a commit) and shows it in a later raft_ready(), after raft_persisted(): whatever it
 * shows may be sent at once. One batch is outstanding at a time; meanwhile the next one gathers. A
 * disk that fails: never call raft_persisted(), free the core, stop the node; nothing was promised
 * for what is not durable.
 *
 * Memory. Arguments are copied or left alone; nothing of the caller's is kept after a call returns.
 * ready.messages, .apply, .reads, .chunk_requests, .lost: the core's, until the next raft_ready()
 * or raft_free(). ready.persist: until raft_persisted() of that batch (a worker thread may read it:
 * the core does not touch it). ready.chunk: until raft_chunk_stored(). No call in between frees
 * them. To keep an entry longer: raft_entry_get().
 *
 * Errors of the calls below, unless they say more: -ESTALE this node does not lead (see
 * raft_status().role.leader), -EAGAIN not now (a bound is reached, a transfer or another change is
 * under way), -EINVAL the argument, -ENOMEM. A call that fails has changed nothing, except that
 * raft_receive() may have taken note of the message's term.
 *
 * Safety (asserted in raft_check() and, across nodes, by tests/unit/test_raft_random.c after each
 * step): one leader a term; a leader only appends; equal (index, term) means equal logs up to
 * there; a committed entry is in every later leader's log. raft.c opens with the rules for it. */
#ifndef S2D_CLUSTER_RAFT_H
#define S2D_CLUSTER_RAFT_H

#include "s2d/cluster/raft_message.h"

struct raft;

enum raft_state {
    RAFT_FOLLOWER,
    RAFT_PRE_CANDIDATE, /* asks whether it could win, before it disturbs anybody */
    RAFT_CANDIDATE,
    RAFT_LEADER,
};

struct raft_options {
    uint64_t id;  /* this node; never 0 */
    bool witness; /* this node holds no log: it votes and vouches (see raft_witness.c) */

    /* 0 takes the default in brackets. */
    uint64_t election_timeout_min_ns; /* [600 ms] also how long a heard leader is protected */
    uint64_t election_timeout_max_ns; /* [1200 ms] also how long a leader leads unanswered */
    uint64_t heartbeat_ns;            /* [200 ms] below election_timeout_min_ns / 2 */
    uint64_t away_after_ns;    /* [400 ms] a silent voter is away: the witness is asked instead */
    uint64_t trailing_entries; /* [1024] kept by a compaction: a short absence needs no snapshot */
    uint64_t log_bytes_max;    /* [256 MiB] in the log; above, proposals get -EAGAIN: compact */
    uint32_t message_entries;  /* [RAFT_MESSAGE_ENTRIES_MAX] in one append message, at most */

    uint64_t (*random)(void *arg); /* spreads election time-outs; required */
    void *random_arg;

    /* What this node's store holds; a store that was never written: all zeros. See
     * raft_bootstrap(). */
    struct raft_hard_state hard_state; /* the last one of a finished batch */
    struct raft_snapshot base; /* the last persist.base written: where the stored log begins */
    uint64_t applied;          /* the state machine durably holds this index; 0: base.index */

    /* Tests only: enum raft_mutation. Means nothing unless built with S2D_RAFT_MUTATIONS. */
    unsigned mutation;
};

/* The store of a new cluster's first members: all of them start with this base and log, whatever
 * else they hold being empty. Joiners start with zeros and are sent a snapshot. Sets
 * *ret_hard_state and *ret_base. Returns 0, -EINVAL (raft_configuration_validate()). A witness
 * needs no bootstrap. */
must_check int raft_bootstrap(const struct raft_configuration *configuration,
                              struct raft_hard_state *ret_hard_state,
                              struct raft_snapshot *ret_base);

/* Life: raft_new(), raft_restore() for each stored entry above base, in order; raft_start(); then
 * the rest. ret_raft: the caller's on success, untouched on failure. Returns 0, -EINVAL (options),
 * -EBADMSG (the store contradicts itself), -ENOMEM. */
must_check int raft_new(const struct raft_options *options, struct raft **ret_raft);
void raft_free(struct raft *raft); /* NULL and half-built are fine */
DEFINE_CLEANUP(struct raft, raft_free)
/* Returns 0, -EBADMSG (not the next index, a term that goes back, no such type, bad configuration),
 * -ENOMEM. */
must_check int raft_restore(struct raft *raft, uint64_t index, const struct raft_view *entry);
/* Returns 0, -EBADMSG (applied is beyond the log: this store lost what it had promised, and must be
 * rebuilt under a new id, never started). A lone voter leads at once: see the next raft_ready(). */
must_check int raft_start(struct raft *raft, uint64_t now_ns);

/* A message from a peer, decoded; checked here, never asserted.
 * Returns 0 (also when it is stale and dropped), -EPROTO (nonsense: not for us, contradicts what is
 * committed, second leader in a term), -ENOMEM (dropped, as a network may). */
must_check int raft_receive(struct raft *raft, uint64_t now_ns, const struct raft_message *message);
/* Time has passed. Call at raft_next_tick_ns() or later; earlier is harmless. */
void raft_tick(struct raft *raft, uint64_t now_ns);
/* UINT64_MAX: nothing to wait for (a witness, a learner, a joiner). */
uint64_t raft_next_tick_ns(const struct raft *raft);
/* The batch that raft_ready() showed is durable. Any other number is the caller's bug (asserted).
 */
void raft_persisted(struct raft *raft, uint64_t now_ns, uint64_t batch);
/* Proof that the peer's process is gone (docs/protocol.md, Detection; never a guess). A follower of
 * it stands soon, a leader takes the witness at once. Not needed for safety or progress, only for
 * speed. */
void raft_peer_down(struct raft *raft, uint64_t now_ns, uint64_t peer);

/* Leader: appends one entry. It is committed when raft_ready() hands out an entry with this index
 * and term for applying; another term there, or a snapshot beyond it, means it was lost or is not
 * known. data is copied. ret_index, ret_term: may be NULL. */
must_check int raft_propose(struct raft *raft, uint64_t now_ns, const void *data, size_t size,
                            uint64_t *ret_index, uint64_t *ret_term);
/* Leader: an answer with this context comes in ready.reads: the state at that index (or later) is
 * not older than this call. Requests made before the same raft_ready() share one round of
 * heartbeats. */
must_check int raft_read_index(struct raft *raft, uint64_t now_ns, uint64_t context);
/* Leader: adds the node, changes its role, or removes it (RAFT_NO_MEMBER); one change at a time, in
 * force when appended, final when committed. -EAGAIN until an entry of this leader's own term is
 * committed. -EINVAL: not a configuration (see raft_configuration_validate()), no change, or from
 * or to witness without a removal between. A leader that removes itself leads until that is
 * committed, then asks the best successor to stand. Add a learner first and promote it when
 * raft_peer_status().match is near the commit index: a new voter counts in the quorum from the
 * start. An id belongs to one store: whoever lost his store gets a new id. ret_index: may be NULL.
 */
must_check int raft_change(struct raft *raft, uint64_t now_ns, uint64_t node,
                           enum raft_member_role role, uint64_t *ret_index);
/* Leader: hands over to target (0: the best one). Proposals get -EAGAIN until it is over: another
 * leader is seen in ready.role, or an election time-out has passed. -EINVAL: target is no full
 * voter or is this node. */
must_check int raft_transfer(struct raft *raft, uint64_t now_ns, uint64_t target);

/* The state machine above is durable up to index (<= what was applied): the log may begin later
 * now. The core keeps trailing_entries and what a snapshot under way needs; persist.base tells what
 * became of it. */
void raft_compact(struct raft *raft, uint64_t index);
/* Describes a snapshot of the state at index, base.index <= index <= what was handed out for
 * applying; take it together with the state. Returns 0, -ESTALE (the log begins after index),
 * -EINVAL (not applied yet). */
must_check int raft_snapshot_at(const struct raft *raft, uint64_t index,
                                struct raft_snapshot *ret_snapshot);

/* A snapshot travels in pieces, one at a time for each peer. The core keeps order and repeats; the
 * layer above has the bytes.
 *
 * Sender: ready.chunk_requests names peer, snapshot and offset. snapshot_index 0 (offset 0): choose
 * a snapshot, a new one is fine; otherwise the one begun, or, if that is gone, another from offset
 * 0. An offset may come again, or an earlier one. Answer with raft_send_chunk() now or later; a
 * request that is not answered comes again after an election time-out. data is copied. The last
 * piece (it may be empty) has done set. Returns 0, -ESTALE (nobody waits for this piece any more),
 * -EINVAL (no piece of a snapshot of this log, or the log begins after it by now).
 *
 * Receiver: ready.chunk has the next piece; offset 0 starts over: drop what was gathered before.
 * Store it apart (no sync needed), then raft_chunk_stored(0); or (-errno) to start over. For the
 * done piece, check the whole first: pieces of two senders' runs may have met. A later
 * ready.persist.install says: put it in force. */
struct raft_chunk {
    struct raft_snapshot snapshot;
    uint64_t offset;
    bool done;
    uint32_t size; /* at most RAFT_CHUNK_BYTES_MAX */
    const void *data;
};

struct raft_chunk_request {
    uint64_t peer;
    uint64_t snapshot_index;
    uint64_t offset;
};

must_check int raft_send_chunk(struct raft *raft, uint64_t now_ns, uint64_t peer,
                               const struct raft_chunk *chunk);
void raft_chunk_stored(struct raft *raft, uint64_t now_ns, int result);

/* One batch: all of it in one synced write, or none of it. In this order:
 *
 *     install        the gathered snapshot becomes the state machine's state, applied =
 * base->index, and the stored log is dropped whole base           is written beside the log;
 * entries up to base->index may go now or later truncate_from  stored entries from this index on go
 *     entries        are written
 *     hard_state     is written */
struct raft_persist {
    uint64_t batch; /* 0: there is nothing to persist */
    bool install;
    const struct raft_snapshot *base;  /* NULL: unchanged */
    uint64_t truncate_from;            /* 0: none */
    struct raft_entry *const *entries; /* consecutive indexes */
    size_t entry_count;
    struct raft_hard_state hard_state; /* always valid */
};

struct raft_read {
    uint64_t context;
    int result;     /* 0; -ESTALE: no longer the leader, ask another */
    uint64_t index; /* apply up to here, then read */
};

/* Who leads, as far as this node knows. */
struct raft_role {
    enum raft_state state;
    uint64_t term;
    uint64_t leader; /* 0: unknown */
};

struct raft_ready {
    const struct raft_message *const *messages;
    size_t message_count;
    struct raft_persist persist;
    /* Committed, and durable here; of every type, RAFT_NOOP and RAFT_CONFIGURATION too. */
    struct raft_entry *const *apply;
    size_t apply_count;
    const struct raft_read *reads;
    size_t read_count;
    const struct raft_chunk_request *chunk_requests;
    size_t chunk_request_count;
    const struct raft_chunk *chunk; /* NULL: none */
    uint64_t chunk_from;
    /* Leader: these peers came back without a log that they had acknowledged. Nothing of theirs
     * counts any more: remove each from the configuration, wipe it, let it join under a new id.
     * Told once a term. */
    const uint64_t *lost;
    size_t lost_count;
    bool role_changed;
    struct raft_role role; /* always valid */
};

/* Takes what is to be done. Returns false, with an empty *ret_ready, when there is nothing. */
bool raft_ready(struct raft *raft, struct raft_ready *ret_ready);

struct raft_status {
    uint64_t id;
    struct raft_role role;
    uint64_t last_index;
    uint64_t durable_index; /* own log on own disk */
    uint64_t commit_index;
    uint64_t applied_index; /* handed out for applying */
    uint64_t base_index;
    uint64_t log_bytes;
    uint64_t configuration_index; /* above commit_index: a change is under way */
    struct raft_configuration configuration;

    /* Leader only, else 0. Times in this node's clock. */
    uint64_t quorum_round_ns; /* sending time of the last heartbeat round that a quorum answered:
                               * what leases are counted from; 0: none in this term */
    uint64_t elected_ns;
    /* No voter heard an earlier leader after this: no lease of an earlier leader is based on a
     * later time. A new leader declares nobody down before predecessor_heard_ns + lease + margin.
     * (elected_ns minus it is the smallest silence that the votes named; 0: longer ago than this
     * clock counts.) */
    uint64_t predecessor_heard_ns;
    bool term_committed; /* an entry of its own term is committed: reads and changes are possible */
    /* Full voters, itself included, that hold everything committed. 1 with more than one full
     * voter: the witness stands in for a copy; health says so. */
    uint32_t committed_copies;
};
void raft_status(const struct raft *raft, struct raft_status *ret_status);

struct raft_peer_status {
    enum raft_member_role role;
    uint64_t match;    /* holds the log up to here, durably; a witness: vouches */
    uint64_t heard_ns; /* when its last answer came */
    bool away;         /* a full voter the witness stands in for */
    bool snapshot;     /* is being sent one */
    bool lost;
};
/* Leader: returns 0, -ESTALE, -ENOENT (no such peer). */
must_check int raft_peer_status(const struct raft *raft, uint64_t peer,
                                struct raft_peer_status *ret_status);

/* Mistakes that tests plant, to see that they are found. Never set in the product. */
enum raft_mutation {
    RAFT_RIGHT = 0,
    RAFT_ACK_LAST_STORED,    /* a follower acknowledges its last index (libraft 0.15) */
    RAFT_COMMIT_LAST_STORED, /* … and commits up to it */
    RAFT_COUNT_OLD_TERMS,    /* a leader counts copies of entries of earlier terms (figure 8) */
    RAFT_COUNT_UNSYNCED,     /* a leader counts its own entries before they are durable */
    RAFT_FORGET_VOTE,        /* a vote leaves before it is durable */
    RAFT_VOTE_BLINDLY,       /* a vote does not look at the candidate's log */
    RAFT_WITNESS_TIE_BREAK,  /* a witness votes for whoever asks first */
    RAFT_WITNESS_INDEX_ONLY, /* … compares the index without the term */
    RAFT_WITNESS_VOLATILE,   /* … answers before it is durable */
    RAFT_WITNESS_LOWER,      /* … lets a late request lower what it vouches for */
    RAFT_WITNESS_HEARTBEAT,  /* a leader counts a live witness without its word */
    RAFT_CHANGE_EARLY,   /* a leader changes membership before an entry of its term is committed */
    RAFT_CHANGE_OVERLAP, /* … and while another change is uncommitted */
    RAFT_READ_AT_ONCE,   /* a leader answers reads without asking anybody */
    RAFT_MUTATIONS,
};

#endif
