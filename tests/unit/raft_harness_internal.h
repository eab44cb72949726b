/* raft_harness_internal: what the harness is made of. raft_harness.c makes things happen,
 * raft_harness_check.c judges them. */
#ifndef S2D_TESTS_UNIT_RAFT_HARNESS_INTERNAL_H
#define S2D_TESTS_UNIT_RAFT_HARNESS_INTERNAL_H

#include "tests/unit/raft_harness.h"

#include <inttypes.h>

#define PACKETS_MAX 4096
#define LOG_MAX 2048 /* the highest index in a schedule */
#define TERMS_MAX 512
#define READS_MAX 4096
#define CHUNK_BYTES 24 /* small: a snapshot takes several */
#define SNAPSHOT_WORDS 10
#define NEVER UINT64_MAX

/* The replicated state: the last applied index and a hash of all that was applied. */
struct state {
    uint64_t index;
    uint64_t hash;
};

struct stored_entry {
    uint64_t term;
    enum raft_entry_type type;
    uint32_t size;
    uint8_t data[RAFT_CONFIGURATION_BYTES_MAX];
};

struct disk {
    struct raft_hard_state hard;
    struct raft_snapshot base;
    struct state state;
    uint64_t last;
    struct stored_entry *log; /* by index */
};

struct node {
    uint64_t id;
    struct raft *raft; /* NULL: down */
    struct disk disk;
    uint64_t clock_ns; /* its clock minus ours */
    uint64_t disk_latency_ns;
    struct state state;

    struct raft_persist writing; /* batch 0: none */
    struct state writing_state;
    uint64_t writing_done_ns;

    uint8_t staged[SNAPSHOT_WORDS * 8];
    size_t staged_size;
    uint64_t chunk_done_ns; /* NEVER: none */
    bool chunk_last;
    struct state sending; /* the snapshot it sends, if any */
    struct raft_snapshot sending_snapshot;

    /* as of the last check */
    uint64_t seen_last, seen_last_term, seen_base, seen_commit;
    uint64_t led_term, led_last, led_last_term;
};

struct flight {
    uint64_t from, to, deliver_ns;
    size_t size;
    uint8_t *bytes;
};

struct entry_ghost {
    uint64_t index, term; /* term 0: free slot */
    uint64_t before_term;
    uint64_t hash;
};

struct commit_ghost {
    uint64_t term; /* of the entry; 0: not committed */
    uint64_t hash;
    uint64_t value;
    uint64_t in_term; /* the lowest term in which somebody knew */
};

struct harness {
    struct harness_options options;
    struct harness_faults faults;
    uint64_t random;
    uint64_t now_ns;
    uint64_t steps;
    struct node nodes[HARNESS_NODES_MAX + 1];
    bool cut[HARNESS_NODES_MAX + 1][HARNESS_NODES_MAX + 1];
    struct flight packets[PACKETS_MAX];
    unsigned packet_count;

    char violation[256];
    uint64_t term_max; /* that had a leader */
    uint64_t leaders[TERMS_MAX];
    uint64_t predecessor_heard[TERMS_MAX]; /* in our time, by term of the leader */
    uint64_t votes[HARNESS_NODES_MAX + 1][TERMS_MAX];
    struct entry_ghost entries[4 * LOG_MAX];
    struct commit_ghost commits[LOG_MAX];
    uint64_t commit;
    uint64_t state_hash[LOG_MAX]; /* after an index; 0: not known */
    uint64_t reads[READS_MAX];    /* context → what was committed when it was asked */
    uint64_t read_count;

    unsigned lost_reports[HARNESS_NODES_MAX + 1];
    unsigned reads_answered;
    unsigned snapshots_installed;
    unsigned messages[RAFT_TIMEOUT_NOW + 1];
};

static inline uint64_t harness_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t harness_hash(const void *bytes, size_t size);
printf_like(2, 3) void harness_trace(const struct harness *harness, const char *format, ...);
/* Writes the first violation down. */
printf_like(2, 3) void harness_violated(struct harness *harness, const char *format, ...);

/* The node has moved: is everything still as it must be? */
void harness_check_node(struct harness *harness, struct node *node);
/* The node sends this: does its disk hold what it promises? */
void harness_check_promise(struct harness *harness, const struct node *node,
                           const struct raft_message *message);

#endif
