/* raft_harness: a whole Raft cluster in one process, in virtual time, out of one seed. It is the
 * layer above (state machine, snapshots), the disk (atomic batches that take their time, lost when
 * power goes) and the network (every message through its wire form; delayed, reordered, repeated,
 * lost, cut). After each event it checks, on the node that moved,
 *
 *   election safety       one leader a term; one vote a node and term, judged by what went over the
 * wire leader append-only    a leader's log only grows log matching          an (index, term) has
 * one payload and one predecessor, everywhere and for ever leader completeness   a leader's log
 * holds whatever was committed in an earlier term state machine safety  an index has one committed
 * entry; the state after an index is the same everywhere durability            no message shows a
 * term, an entry or a vouching that its sender's disk does not hold reads                 a read
 * index is not below what was committed when the read was asked for leases                no
 * leader's quorum-answered round is later than its successor's predecessor_heard_ns witness a full
 * voter that counts as present could win with the witness's vote
 *
 * and writes the first violation down, after which the cluster stands still. */
#ifndef S2D_TESTS_UNIT_RAFT_HARNESS_H
#define S2D_TESTS_UNIT_RAFT_HARNESS_H

#include "s2d/cluster/raft_internal.h"

#define HARNESS_NODES_MAX 8 /* ids 1 … 8 */

struct harness_faults {
    unsigned loss_permille;
    unsigned repeat_permille;
    unsigned late_permille; /* messages that take up to late_ns */
    uint64_t late_ns;
    uint64_t delay_ns;           /* the rest: up to this */
    uint64_t disk_ns;            /* a batch takes up to this */
    unsigned slow_disk_permille; /* … or, this often, up to slow_disk_ns */
    uint64_t slow_disk_ns;
    unsigned
        snapshot_permille; /* a snapshot is gone, its sender is busy, a piece cannot be stored */
};

struct harness;

/* configuration: ids below HARNESS_NODES_MAX + 1; nodes: how many exist, members or not; witness:
 * the id of the one that has no log, 0 for none. */
struct harness_options {
    uint64_t seed;
    unsigned nodes;
    uint64_t witness;
    struct raft_configuration configuration;
    unsigned mutation;
    uint32_t message_entries;  /* 0: the usual */
    uint64_t trailing_entries; /* 0: 5 */
    uint64_t compact_every;    /* applied entries; 0: never */
    bool trace;                /* print each event */
};

struct harness *harness_new(const struct harness_options *options);
void harness_free(struct harness *harness);
DEFINE_CLEANUP(struct harness, harness_free)

const char *harness_violation(const struct harness *harness); /* NULL: none */
struct harness_faults *harness_faults(struct harness *harness);
uint64_t harness_random(struct harness *harness, uint64_t below);
uint64_t harness_now(const struct harness *harness);
uint64_t harness_steps(const struct harness *harness);

struct raft *harness_raft(struct harness *harness, uint64_t id); /* NULL while it is down */
/* The leader of the highest term among nodes that are up; 0: none. */
uint64_t harness_leader(struct harness *harness);
uint64_t harness_commit(const struct harness *harness); /* the highest index committed anywhere */

void harness_run(struct harness *harness, uint64_t duration_ns);
/* Runs until condition(harness, arg) or the time is over; returns what it says then. */
bool harness_run_until(struct harness *harness, uint64_t duration_ns,
                       bool (*condition)(struct harness *harness, uint64_t arg), uint64_t arg);
bool harness_elect(struct harness *harness,
                   uint64_t id); /* makes id stand first; false: it did not win */
bool harness_applied_everywhere(struct harness *harness, uint64_t index); /* members that are up */

void harness_cut(struct harness *harness, uint64_t from, uint64_t to, bool cut); /* one direction */
void harness_cut_both(struct harness *harness, uint64_t a, uint64_t b, bool cut);
void harness_isolate(struct harness *harness, uint64_t id, bool cut);
void harness_heal(struct harness *harness);
void harness_disk(struct harness *harness, uint64_t id, uint64_t latency_ns); /* 0: by the faults */
void harness_crash(struct harness *harness, uint64_t id, bool write_survives);
void harness_restart(struct harness *harness, uint64_t id);
/* The disk forgets all entries from index on: what a lost journal does. The node must be down. */
void harness_forget(struct harness *harness, uint64_t id, uint64_t index);

int harness_propose(struct harness *harness, uint64_t id, uint64_t value, uint64_t *ret_index);
int harness_read(struct harness *harness, uint64_t id);
int harness_change(struct harness *harness, uint64_t id, uint64_t node, enum raft_member_role role);
int harness_transfer(struct harness *harness, uint64_t id, uint64_t target);
void harness_peer_down(struct harness *harness, uint64_t id, uint64_t peer);
uint64_t harness_value_at(const struct harness *harness,
                          uint64_t index); /* committed there; 0: none */
unsigned harness_lost_reports(const struct harness *harness, uint64_t about);
unsigned harness_reads_answered(const struct harness *harness);
unsigned harness_snapshots_installed(const struct harness *harness);
unsigned harness_messages(const struct harness *harness,
                          enum raft_message_type type); /* delivered */

#endif
