/* raft_message: what Raft nodes say to each other, and its form on the wire.
 *
 * Little-endian, no padding; one message fills its buffer exactly (the bus frames and checksums):
 *
 *     u32 magic 'S2RF' | u8 version | u8 type | u16 zero | u64 from | u64 to | u64 term | body
 *
 *     pre-vote, vote    u64 last_index | u64 last_term | u8 forced
 *     their answers     u64 request_term | u8 granted | u64 silence_ns
 *     append            u64 request | u64 prev_index | u64 prev_term | u64 commit | u16 count |
 *                       count x (u64 term | u8 type | u32 size) | the payloads, in order
 *     append answer     u64 request_term | u64 request | u8 accepted | u64 index |
 *                       u64 hint_index | u64 hint_term | u64 last_index | u64 commit
 *     heartbeat         u64 round
 *     heartbeat answer  u64 request_term | u64 round | u64 last_index | u64 commit
 *     snapshot          u64 index | u64 term | u16 size + configuration | u64 offset | u8 done |
 *                       u32 size | bytes
 *     snapshot answer   u64 request_term | u64 index | u64 next_offset | u8 installed
 *     vouch             u64 index
 *     vouch answer      u64 request_term | u64 index
 *     timeout now       nothing */
#ifndef S2D_CLUSTER_RAFT_MESSAGE_H
#define S2D_CLUSTER_RAFT_MESSAGE_H

#include "s2d/cluster/raft_types.h"

#define RAFT_MESSAGE_MAGIC 0x46523253u /* "S2RF" */
#define RAFT_MESSAGE_VERSION 1
/* The largest encoded message: bodies without payload stay far below 4 KiB. */
#define RAFT_MESSAGE_SIZE_MAX (RAFT_MESSAGE_BYTES_MAX + 4096)

enum raft_message_type {
    RAFT_PRE_VOTE = 1,
    RAFT_PRE_VOTE_ANSWER = 2,
    RAFT_VOTE = 3,
    RAFT_VOTE_ANSWER = 4,
    RAFT_APPEND = 5,
    RAFT_APPEND_ANSWER = 6,
    RAFT_HEARTBEAT = 7,
    RAFT_HEARTBEAT_ANSWER = 8,
    RAFT_SNAPSHOT = 9,
    RAFT_SNAPSHOT_ANSWER = 10,
    RAFT_VOUCH = 11,
    RAFT_VOUCH_ANSWER = 12,
    RAFT_TIMEOUT_NOW = 13,
};

/* term is the sender's own, durable on its disk, in every message (a pre-vote asks about term + 1).
 * Every answer carries request_term, the term of the request it answers: an asker that has moved on
 * to another term does not count it. */
struct raft_message {
    enum raft_message_type type;
    uint64_t from;
    uint64_t to;
    uint64_t term;
    union {
        struct {
            uint64_t last_index; /* the candidate's last entry */
            uint64_t last_term;
            bool forced; /* the leader asked for this election: do not protect it */
        } vote;          /* RAFT_PRE_VOTE, RAFT_VOTE */
        struct {
            uint64_t request_term;
            bool granted;
            uint64_t silence_ns; /* since the voter last heard a leader, or since its start */
        } vote_answer;           /* both answers */
        struct {
            uint64_t request; /* counts the leader's append messages */
            uint64_t prev_index;
            uint64_t prev_term;
            uint64_t commit; /* the leader's */
            uint32_t entry_count;
            const struct raft_view *entries; /* prev_index + 1, … */
        } append;
        struct {
            uint64_t request_term;
            uint64_t request;
            bool accepted;
            uint64_t index; /* accepted: prev_index + entry_count, durable; refused: prev_index */
            uint64_t hint_index; /* refused: the last entry that may agree */
            uint64_t hint_term;
            uint64_t last_index; /* of the follower's log */
            uint64_t commit;     /* the follower's */
        } append_answer;
        struct {
            uint64_t round;
        } heartbeat;
        struct {
            uint64_t request_term;
            uint64_t round;
            uint64_t last_index;
            uint64_t commit;
        } heartbeat_answer;
        struct {
            struct raft_snapshot snapshot;
            uint64_t offset;
            bool done; /* the last piece */
            uint32_t size;
            const void *data;
        } snapshot;
        struct {
            uint64_t request_term;
            uint64_t index;       /* of the snapshot */
            uint64_t next_offset; /* the piece wanted next */
            bool installed;       /* the follower's log durably holds all up to index */
        } snapshot_answer;
        struct {
            uint64_t index;
        } vouch;
        struct {
            uint64_t request_term;
            uint64_t index; /* vouched for in request_term, durable */
        } vouch_answer;
    };
};

/* Bytes that raft_message_encode() will write, at most RAFT_MESSAGE_SIZE_MAX. */
size_t raft_message_size(const struct raft_message *message);
/* bytes: of at least raft_message_size(message). */
void raft_message_encode(const struct raft_message *message, uint8_t *bytes);
/* Takes outside bytes. entries: the caller's, used by an append; it and payloads (which stay in
 * bytes, not copied) must outlive the message. Returns 0, -EBADMSG (no magic, other version),
 * -EPROTO (anything else that is wrong). */
must_check int raft_message_decode(const void *bytes, size_t size,
                                   struct raft_view entries[RAFT_MESSAGE_ENTRIES_MAX],
                                   struct raft_message *ret_message);
const char *raft_message_name(enum raft_message_type type);

#endif
