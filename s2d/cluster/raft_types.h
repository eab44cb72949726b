/* raft_types: the nouns that the Raft core, its messages and the layer above share.
 * Plain memory; nothing here suspends, allocates (but for raft_entry) or knows a clock. */
#ifndef S2D_CLUSTER_RAFT_TYPES_H
#define S2D_CLUSTER_RAFT_TYPES_H

#include "s2d/base/base.h"

/* Bounds. What comes from outside is refused beyond them (-EPROTO), what the caller asks for with
 * -EINVAL. */
#define RAFT_ENTRY_BYTES_MAX (1024 * 1024)   /* payload of one entry */
#define RAFT_CHUNK_BYTES_MAX (256 * 1024)    /* one piece of a snapshot */
#define RAFT_MESSAGE_BYTES_MAX (1024 * 1024) /* payloads in one append message */
#define RAFT_MESSAGE_ENTRIES_MAX 64
#define RAFT_INFLIGHT_MAX 16      /* append messages on their way to one peer */
#define RAFT_UNCOMMITTED_MAX 4096 /* entries proposed and not committed yet */
#define RAFT_UNCOMMITTED_BYTES_MAX (16 * 1024 * 1024)
#define RAFT_READS_MAX 1024 /* read-index requests waiting for their round */
#define RAFT_OUTBOX_MAX                                                                            \
    1024 /* messages waiting to be taken; more are dropped, as a network may                       \
          */
#define RAFT_READY_APPLY_MAX 256 /* committed entries in one struct raft_ready */
#define RAFT_ROUNDS_MAX 256      /* heartbeat rounds whose sending time is remembered */
#define RAFT_MEMBERS_MAX 32
#define RAFT_VOTERS_MAX 7 /* witness included */
#define RAFT_NUMBER_MAX                                                                            \
    (UINT64_MAX / 4) /* terms, indexes and times from outside: room to count on */

enum raft_member_role {
    RAFT_NO_MEMBER = 0,
    RAFT_VOTER = 1,   /* holds the log, votes, may lead */
    RAFT_LEARNER = 2, /* holds the log, neither votes nor leads: a stand-by */
    RAFT_WITNESS = 3, /* votes and vouches, holds no log, never leads; at most one */
};

struct raft_member {
    uint64_t id; /* never 0 */
    enum raft_member_role role;
};

/* Members in ascending order of id. Empty: this node does not know its cluster yet. */
struct raft_configuration {
    uint32_t count;
    struct raft_member members[RAFT_MEMBERS_MAX];
};

enum raft_member_role raft_configuration_role(const struct raft_configuration *configuration,
                                              uint64_t id);
/* Adds the node, changes its role, or removes it (RAFT_NO_MEMBER).
 * Returns 0, -EINVAL (id 0, no such role), -ENOSPC (RAFT_MEMBERS_MAX). */
must_check int raft_configuration_set(struct raft_configuration *configuration, uint64_t id,
                                      enum raft_member_role role);
uint32_t raft_configuration_votes(const struct raft_configuration *configuration); /* witness too */
/* What a configuration in force must be: a full voter, at most one witness, RAFT_VOTERS_MAX,
 * ascending ids, known roles. Returns 0 or -EINVAL. */
must_check int raft_configuration_validate(const struct raft_configuration *configuration);

/* The payload of a RAFT_CONFIGURATION entry: u8 version 1 | u8 count | count x (u64 id | u8 role).
 */
#define RAFT_CONFIGURATION_BYTES_MAX (2 + RAFT_MEMBERS_MAX * 9)
size_t raft_configuration_encode(const struct raft_configuration *configuration,
                                 uint8_t bytes[RAFT_CONFIGURATION_BYTES_MAX]);
/* Takes outside bytes; an empty configuration is fine. Returns 0, -EPROTO. */
must_check int raft_configuration_decode(const void *bytes, size_t size,
                                         struct raft_configuration *ret_configuration);

/* One member of the log, immutable once made. Counted: one reactor, the counter is not atomic. */
enum raft_entry_type {
    RAFT_NORMAL = 1,        /* a proposal */
    RAFT_CONFIGURATION = 2, /* a struct raft_configuration, in force from where it is appended */
    RAFT_NOOP = 3,          /* the first entry of a leader's term; no payload */
};

struct raft_entry {
    uint64_t index;
    uint64_t term;
    enum raft_entry_type type;
    uint32_t size;
    uint32_t references; /* private */
    uint8_t data[];
};

/* An entry as a message or a store shows it: the bytes belong to somebody else. */
struct raft_view {
    uint64_t term;
    enum raft_entry_type type;
    uint32_t size;
    const void *data;
};

struct raft_entry *raft_entry_new(uint64_t index,
                                  const struct raft_view *view); /* NULL: no memory */
struct raft_entry *
raft_entry_get(struct raft_entry *entry);      /* one more reference; gives entry back */
void raft_entry_put(struct raft_entry *entry); /* NULL is fine */

/* What a node must never forget; one record, written in one piece. */
struct raft_hard_state {
    uint64_t term;
    uint64_t vote;         /* in term; 0: none */
    uint64_t vouched_term; /* a witness: the last entry it counted for */
    uint64_t vouched_index;
};

/* Where a log begins, or what a snapshot holds: everything up to and including index. */
struct raft_snapshot {
    uint64_t index;
    uint64_t term;                           /* of the entry at index */
    struct raft_configuration configuration; /* in force at index */
};

#endif
