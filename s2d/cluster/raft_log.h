/* raft_log: the part of a node's log that is in memory: a base and the entries after it.
 * Private to the Raft core. Indexes are dense; terms never fall. Knows nothing of disks or commits.
 */
#ifndef S2D_CLUSTER_RAFT_LOG_H
#define S2D_CLUSTER_RAFT_LOG_H

#include "s2d/cluster/raft_types.h"

struct raft_log {
    struct raft_snapshot base;   /* everything up to here is gone from the log */
    struct raft_entry **entries; /* base.index + 1 is entries[head] */
    size_t head;
    size_t count;
    size_t capacity;
    uint64_t bytes; /* payloads of the entries */
};

void raft_log_done(struct raft_log *log);

static inline uint64_t raft_log_last(const struct raft_log *log)
{
    return log->base.index + log->count;
}

/* The term at index; 0 for an index before the base or after the end. Index 0 has term 0. */
uint64_t raft_log_term(const struct raft_log *log, uint64_t index);
static inline uint64_t raft_log_last_term(const struct raft_log *log)
{
    return raft_log_term(log, raft_log_last(log));
}

/* base.index < index <= last. Borrowed. */
struct raft_entry *raft_log_entry(const struct raft_log *log, uint64_t index);

/* Makes sure that count appends will not fail. Returns 0, -ENOMEM. */
must_check int raft_log_reserve(struct raft_log *log, size_t count);
/* Takes over the caller's reference; room must have been reserved. */
void raft_log_append(struct raft_log *log, struct raft_entry *entry);
void raft_log_truncate(struct raft_log *log,
                       uint64_t from); /* from > base.index; from and after go */
void raft_log_compact(struct raft_log *log, uint64_t index); /* index becomes the base */
void raft_log_reset(struct raft_log *log,
                    const struct raft_snapshot *base); /* nothing but a base */

/* The configuration in force at index, base.index <= index <= last.
 * Returns the index of its entry, or base.index. */
uint64_t raft_log_configuration(const struct raft_log *log, uint64_t index,
                                struct raft_configuration *ret_configuration);
/* The last index <= index whose term is <= term: beyond it a log with (index, term) cannot agree
 * with ours. */
uint64_t raft_log_agreeing(const struct raft_log *log, uint64_t index, uint64_t term);

#endif
