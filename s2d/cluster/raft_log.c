#include "s2d/cluster/raft_log.h"

void raft_log_done(struct raft_log *log)
{
    for (size_t i = 0; i < log->count; i++)
        raft_entry_put(log->entries[log->head + i]);
    free(log->entries);
    *log = (struct raft_log){0};
}

uint64_t raft_log_term(const struct raft_log *log, uint64_t index)
{
    if (index < log->base.index || index > raft_log_last(log))
        return 0;
    if (index == log->base.index)
        return log->base.term;
    return raft_log_entry(log, index)->term;
}

struct raft_entry *raft_log_entry(const struct raft_log *log, uint64_t index)
{
    assert(index > log->base.index);
    assert(index <= raft_log_last(log));
    return log->entries[log->head + (index - log->base.index - 1)];
}

int raft_log_reserve(struct raft_log *log, size_t count)
{
    size_t capacity = log->capacity > 0 ? log->capacity : 64;
    struct raft_entry **entries;

    if (log->head + log->count + count <= log->capacity)
        return 0;
    while (capacity < log->count + count)
        capacity *= 2;
    entries = malloc(capacity * sizeof(*entries));
    if (!entries)
        return -ENOMEM;
    if (log->count > 0)
        memcpy(entries, log->entries + log->head, log->count * sizeof(*entries));
    free(log->entries);
    log->entries = entries;
    log->capacity = capacity;
    log->head = 0;
    return 0;
}

void raft_log_append(struct raft_log *log, struct raft_entry *entry)
{
    assert(log->head + log->count < log->capacity);
    assert(entry->index == raft_log_last(log) + 1);
    assert(entry->term >= raft_log_last_term(log));
    log->entries[log->head + log->count++] = entry;
    log->bytes += entry->size;
}

static void drop(struct raft_log *log, struct raft_entry *entry)
{
    assert(log->bytes >= entry->size);
    log->bytes -= entry->size;
    raft_entry_put(entry);
}

void raft_log_truncate(struct raft_log *log, uint64_t from)
{
    assert(from > log->base.index);
    while (raft_log_last(log) >= from) {
        drop(log, log->entries[log->head + log->count - 1]);
        log->count--;
    }
}

void raft_log_compact(struct raft_log *log, uint64_t index)
{
    struct raft_snapshot base = {.index = index, .term = raft_log_term(log, index)};
    size_t gone = index - log->base.index;

    assert(index >= log->base.index);
    assert(index <= raft_log_last(log));
    raft_log_configuration(log, index, &base.configuration);
    for (size_t i = 0; i < gone; i++)
        drop(log, log->entries[log->head + i]);
    log->head += gone;
    log->count -= gone;
    log->base = base;
}

void raft_log_reset(struct raft_log *log, const struct raft_snapshot *base)
{
    raft_log_truncate(log, log->base.index + 1);
    log->head = 0;
    log->base = *base;
}

uint64_t raft_log_configuration(const struct raft_log *log, uint64_t index,
                                struct raft_configuration *ret_configuration)
{
    assert(index >= log->base.index);
    for (; index > log->base.index; index--) {
        const struct raft_entry *entry = raft_log_entry(log, index);
        int r;

        if (entry->type != RAFT_CONFIGURATION)
            continue;
        r = raft_configuration_decode(entry->data, entry->size, ret_configuration);
        assert(r == 0); /* checked before it was appended */
        return index;
    }
    *ret_configuration = log->base.configuration;
    return index;
}

uint64_t raft_log_agreeing(const struct raft_log *log, uint64_t index, uint64_t term)
{
    index = MIN(index, raft_log_last(log));
    while (index > log->base.index && raft_log_term(log, index) > term)
        index--;
    return index;
}
