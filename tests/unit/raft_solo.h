/* raft_solo: one node under a microscope: its peers' messages are written by hand, what it wants is
 * kept for looking at. */
#ifndef S2D_TESTS_UNIT_RAFT_SOLO_H
#define S2D_TESTS_UNIT_RAFT_SOLO_H

#include "s2d/cluster/raft.h"

#define SOLO_MESSAGES_MAX 256

struct solo {
    struct raft *raft;
    uint64_t now_ns;
    struct raft_message sent[SOLO_MESSAGES_MAX]; /* payload pointers are stale */
    unsigned sent_count;
    bool hold; /* the disk hangs: batches stay in `held` */
    uint64_t held_batch;
    struct raft_persist last_persist; /* values; pointers are stale */
    uint64_t applied;
    struct raft_read reads[8];
    unsigned read_count;
    bool lost;
    struct raft_chunk_request request; /* the last one */
};

uint64_t solo_no_spread(void *arg);
struct raft_configuration voters(unsigned count);
struct raft_configuration two_and_witness(void);
/* Node 1 of `configuration`, in `term`; its log holds entries of these terms from index 2 on. */
void solo_start(struct solo *solo, const struct raft_configuration *configuration, uint64_t term,
                const uint64_t *terms, unsigned count);
void solo_witness(struct solo *solo, struct raft_hard_state hard_state);
void solo_stop(struct solo *solo);
void solo_pump(struct solo *solo); /* the caller's loop of raft.h; solo_receive() calls it */
/* The disk moves again. */
void solo_release(struct solo *solo);
int solo_receive(struct solo *solo, uint64_t from, struct raft_message message);
/* Time passes, then a tick. */
void solo_wait(struct solo *solo, uint64_t duration_ns);
/* The newest message of that type since the last call (which forgets all); NULL: none. */
const struct raft_message *solo_sent(struct solo *solo, enum raft_message_type type);
struct raft_status solo_status(struct solo *solo);

/* What peers say; solo_receive() fills in from and to. */
struct raft_message vote_of(enum raft_message_type type, uint64_t term, uint64_t last_term,
                            uint64_t last_index);
struct raft_message grant(enum raft_message_type type, uint64_t term, uint64_t request_term,
                          uint64_t silence_ns);
struct raft_message append_of(uint64_t term, uint64_t prev_index, uint64_t prev_term,
                              uint64_t commit, const struct raft_view *entries, uint32_t count);
struct raft_message heartbeat_of(uint64_t term, uint64_t round);
struct raft_message confirm(uint64_t term, uint64_t request, uint64_t index);
struct raft_message beat_answer(uint64_t term, uint64_t round, uint64_t last_index);
/* Node 1 becomes the leader of the next term by the vote of 2 (three voters), or 2 and 3 (five). */
void solo_lead(struct solo *solo);
struct raft_message vouch_of(uint64_t term, uint64_t index);

#endif
