/* How consensus lies in its store: Raft's state and log, and the database's records, under one
 * prefix each; written together in one batch. */
#include <stdio.h>

#include "s2d/cluster/consensus_internal.h"

#define KEY_HARD "raft/hard"
#define KEY_BASE "raft/base"
#define LOG_PREFIX "raft/log/"

static void log_key(uint64_t index, char *ret_key)
{
    snprintf(ret_key, DATABASE_KEY_MAX, LOG_PREFIX "%016llx", (unsigned long long)index);
}

static void put_hard_state(struct kv_batch *batch, const struct raft_hard_state *hard)
{
    kv_put(batch, KEY_HARD, hard, sizeof(*hard));
}

static void put_base(struct kv_batch *batch, const struct raft_snapshot *base)
{
    uint8_t bytes[16 + RAFT_CONFIGURATION_BYTES_MAX];
    size_t size = raft_configuration_encode(&base->configuration, bytes + 16);

    memcpy(bytes, &base->index, 8);
    memcpy(bytes + 8, &base->term, 8);
    kv_put(batch, KEY_BASE, bytes, 16 + size);
}

static void put_entry(struct kv_batch *batch, const struct raft_entry *entry)
{
    size_t size = 9 + entry->size;
    uint8_t *bytes = malloc(size);
    char key[DATABASE_KEY_MAX];

    if (!bytes)
        abort();
    memcpy(bytes, &entry->term, 8);
    bytes[8] = entry->type;
    memcpy(bytes + 9, entry->data, entry->size);
    log_key(entry->index, key);
    kv_put(batch, key, bytes, size);
    free(bytes);
}

void consensus_erase(struct kv_batch *batch)
{
    kv_delete_range(batch, "raft/", "raft0"); /* '0' follows '/' */
    kv_delete_range(batch, "state/", "state0");
    kv_delete_range(batch, CONSENSUS_STATE_PREFIX, CONSENSUS_STATE_END);
}

int consensus_bootstrap(struct kv *kv, uint64_t node)
{
    struct raft_configuration configuration = {.count = 1,
                                               .members = {{.id = node, .role = RAFT_VOTER}}};
    struct raft_hard_state hard;
    struct raft_snapshot base;
    struct kv_batch batch;
    uint64_t applied;
    int r;

    r = raft_bootstrap(&configuration, &hard, &base);
    if (r < 0)
        return r;
    applied = base.index;
    kv_batch_init(&batch);
    consensus_erase(&batch);
    put_hard_state(&batch, &hard);
    put_base(&batch, &base);
    kv_put(&batch, CONSENSUS_KEY_APPLIED, &applied, sizeof(applied));
    r = kv_write(kv, &batch);
    kv_batch_done(&batch);
    return r;
}

/* ---- loading ---- */

static int load_fixed(void *arg, const char *key, const void *value, size_t bytes)
{
    struct consensus_loader *loader = arg;

    if (strcmp(key, KEY_HARD) == 0) {
        if (bytes != sizeof(loader->raft.hard_state))
            return -EBADMSG;
        memcpy(&loader->raft.hard_state, value, bytes);
    } else if (strcmp(key, KEY_BASE) == 0) {
        if (bytes < 16)
            return -EBADMSG;
        memcpy(&loader->raft.base.index, value, 8);
        memcpy(&loader->raft.base.term, (const char *)value + 8, 8);
        if (raft_configuration_decode((const char *)value + 16, bytes - 16,
                                      &loader->raft.base.configuration) < 0)
            return -EBADMSG;
    } else if (strcmp(key, CONSENSUS_KEY_APPLIED) == 0) {
        if (bytes != sizeof(loader->raft.applied))
            return -EBADMSG;
        memcpy(&loader->raft.applied, value, bytes);
    }
    return 0;
}

static int load_entry(void *arg, const char *key, const void *value, size_t bytes)
{
    struct consensus *consensus = ((struct consensus_loader *)arg)->consensus;
    uint64_t index = strtoull(key + strlen(LOG_PREFIX), NULL, 16);
    char its_key[DATABASE_KEY_MAX];
    struct raft_view view;

    log_key(index, its_key);
    if (strcmp(key, its_key) != 0) /* it would never be deleted */
        return -EBADMSG;
    if (index <= ((struct consensus_loader *)arg)->raft.base.index)
        return 0; /* compacted; its deletion was not written yet */
    if (bytes < 9 || bytes - 9 > RAFT_ENTRY_BYTES_MAX)
        return -EBADMSG;
    memcpy(&view.term, value, 8);
    view.type = ((const uint8_t *)value)[8];
    view.size = bytes - 9;
    view.data = (const char *)value + 9;
    return raft_restore(consensus->raft, index, &view);
}

static int load_record(void *arg, const char *key, const void *value, size_t bytes)
{
    struct consensus *consensus = ((struct consensus_loader *)arg)->consensus;

    return database_load(consensus->database, key + strlen(CONSENSUS_STATE_PREFIX), value, bytes);
}

/* Runs on a worker; nobody else sees the consensus yet. */
void consensus_load(void *arg)
{
    struct consensus_loader *loader = arg;
    struct consensus *consensus = loader->consensus;
    struct kv *kv = consensus->options.kv;

    loader->raft.id = consensus->options.node;
    loader->result = kv_each(kv, "raft/hard", load_fixed, loader);
    if (loader->result == 0)
        loader->result = kv_each(kv, KEY_BASE, load_fixed, loader);
    if (loader->result == 0)
        loader->result = kv_each(kv, CONSENSUS_KEY_APPLIED, load_fixed, loader);
    if (loader->result == 0 && loader->raft.applied < loader->raft.base.index)
        loader->result =
            -EBADMSG; /* also when it is not there: raft_new() would make the best of it */
    if (loader->result == 0)
        loader->result = kv_each(kv, CONSENSUS_STATE_PREFIX, load_record, loader);
    if (loader->result == 0)
        loader->result = database_verify(consensus->database);
    if (loader->result == 0)
        loader->result = raft_new(&loader->raft, &consensus->raft);
    if (loader->result == 0)
        loader->result = kv_each(kv, LOG_PREFIX, load_entry, loader);
}

/* ---- batches ---- */

void consensus_put_raft(struct kv_batch *batch, const struct raft_persist *persist)
{
    char key[DATABASE_KEY_MAX];

    if (persist->install)
        kv_delete_range(batch, LOG_PREFIX, "raft/log0");
    if (persist->base) {
        put_base(batch, persist->base);
        log_key(persist->base->index + 1, key);
        kv_delete_range(batch, LOG_PREFIX, key);
    }
    if (persist->truncate_from) {
        log_key(persist->truncate_from, key);
        kv_delete_range(batch, key, "raft/log0");
    }
    for (size_t i = 0; i < persist->entry_count; i++)
        put_entry(batch, persist->entries[i]);
    put_hard_state(batch, &persist->hard_state);
}

void consensus_put_change(struct consensus *consensus, const struct database_change *change)
{
    char key[sizeof(CONSENSUS_STATE_PREFIX) + DATABASE_KEY_MAX] = CONSENSUS_STATE_PREFIX;
    char *text;

    database_key(change->table, change->id, key + strlen(CONSENSUS_STATE_PREFIX));
    if (change->removed) {
        kv_delete(&consensus->state, key);
        return;
    }
    text = record_to_text(change->table,
                          database_find(consensus->database, change->table, change->id));
    if (!text)
        abort();
    kv_put(&consensus->state, key, text, strlen(text));
    free(text);
}

struct database_reader {
    struct database *database;
    uint64_t applied;
};

static int read_applied(void *arg, const char *key, const void *value, size_t bytes)
{
    struct database_reader *reader = arg;

    (void)key;
    if (bytes != sizeof(reader->applied))
        return -EBADMSG;
    memcpy(&reader->applied, value, bytes);
    return 0;
}

static int read_record(void *arg, const char *key, const void *value, size_t bytes)
{
    return database_load(((struct database_reader *)arg)->database,
                         key + strlen(CONSENSUS_STATE_PREFIX), value, bytes);
}

int consensus_read_database(struct kv *kv, struct database **ret_database, uint64_t *ret_applied)
{
    struct database_reader reader = {0};
    int r = database_new(&reader.database);

    if (r == 0)
        r = kv_each(kv, CONSENSUS_KEY_APPLIED, read_applied, &reader);
    if (r == 0)
        r = kv_each(kv, CONSENSUS_STATE_PREFIX, read_record, &reader);
    if (r == 0)
        r = database_verify(reader.database);
    if (r < 0) {
        database_free(reader.database);
        return r;
    }
    *ret_database = reader.database;
    *ret_applied = reader.applied;
    return 0;
}
