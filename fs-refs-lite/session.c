#include "fs-refs-lite/session.h"
#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/fs_internal.h"

int session_table_init(struct session_table *table)
{
    table->sessions = calloc(FS_SESSIONS_MAX, sizeof(*table->sessions));
    return table->sessions ? 0 : -ENOMEM;
}

void session_table_done(struct session_table *table)
{
    free(table->sessions);
    table->sessions = NULL;
}

static struct session *session_find(struct session_table *table, uint64_t id)
{
    if (table->sessions[table->last].id == id)
        return &table->sessions[table->last];
    for (size_t i = 0; i < FS_SESSIONS_MAX; i++) {
        if (table->sessions[i].id == id) {
            table->last = i;
            return &table->sessions[i];
        }
    }
    return NULL;
}

static struct session *session_oldest(struct session_table *table)
{
    struct session *oldest = &table->sessions[0];

    for (size_t i = 1; i < FS_SESSIONS_MAX; i++) {
        if (table->sessions[i].lsn < oldest->lsn)
            oldest = &table->sessions[i];
    }
    return oldest;
}

int session_look_up(struct fs *fs, struct fs_request request, struct txn_result *result)
{
    const struct session *session;
    const struct fs_slot_item *slot;

    if (request.session == 0)
        return 0;
    if (request.slot >= FS_SLOTS_PER_SESSION || request.sequence == 0)
        return -EINVAL;
    session = session_find(&fs->sessions, request.session);
    if (!session)
        return 0;
    slot = &session->slots[request.slot];
    /* The counter goes round: a client that works for months comes by 2^32. */
    if (slot->sequence && (int32_t)(request.sequence - slot->sequence) < 0)
        return -EPROTO;
    if (request.sequence == slot->sequence && !PLANTED(FS_REPEAT_RUNS)) {
        result->is_repeat = true;
        result->lsn = slot->lsn;
        result->ino = slot->ino;
    }
    return 0;
}

static void session_forget(struct txn *txn, const struct session *session)
{
    for (unsigned i = 0; i < FS_SLOTS_PER_SESSION; i++) {
        struct fs_key key = {.object = session->id, .kind = FS_KIND_SLOT, .offset = i};

        if (session->slots[i].sequence)
            txn_delete(txn, FS_TREE_SLOTS, &key);
    }
}

void session_record(struct fs *fs, struct txn *txn, struct fs_request request)
{
    struct fs_key key = {.object = request.session, .kind = FS_KIND_SLOT, .offset = request.slot};
    struct fs_slot_item item = {.lsn = txn->lsn, .ino = txn->ino, .sequence = request.sequence};

    if (!session_find(&fs->sessions, request.session) && !session_find(&fs->sessions, 0))
        session_forget(txn, session_oldest(&fs->sessions));
    txn_put(txn, FS_TREE_SLOTS, &key, &item, sizeof(item));
    txn->is_nothing = false; /* the outcome itself is to be remembered */
}

static void slot_clear(struct session *session, uint64_t slot)
{
    session->slots[slot] = (struct fs_slot_item){0};
    for (unsigned i = 0; i < FS_SLOTS_PER_SESSION; i++) {
        if (session->slots[i].sequence)
            return;
    }
    *session = (struct session){0};
}

void session_changed(struct fs *fs, uint64_t id, uint64_t slot, const void *item)
{
    struct session *session = session_find(&fs->sessions, id);

    if (slot >= FS_SLOTS_PER_SESSION || id == 0)
        return; /* only from a damaged volume */
    if (!item) {
        if (session)
            slot_clear(session, slot);
        return;
    }
    if (!session)
        session = session_find(&fs->sessions, 0);
    if (!session)
        session = session_oldest(&fs->sessions);
    if (session->id != id)
        *session = (struct session){.id = id};
    memcpy(&session->slots[slot], item, sizeof(session->slots[slot]));
    session->lsn = MAX(session->lsn, session->slots[slot].lsn);
}

int co_session_load(struct fs *fs)
{
    struct fs_key key = {0};
    struct tree_item item;

    for (;;) {
        int r = CO_RETRY(fs, tree_next(fs, FS_TREE_SLOTS, &key, &item));

        if (r == -ENOENT)
            return 0;
        if (r == -EBADMSG) { /* a repeat may be run again: costs less than no volume */
            fs_note_damage(fs);
            return 0;
        }
        if (r < 0)
            return r;
        if (item.size == sizeof(struct fs_slot_item))
            session_changed(fs, item.key.object, item.key.offset, item.value);
        key = item.key;
        key.offset++;
    }
}

struct session_end {
    uint64_t id;
};

static int session_end_plan(struct fs *fs, struct txn *txn, void *arg)
{
    const struct session_end *end = arg;
    const struct session *session = session_find(&fs->sessions, end->id);

    if (session)
        session_forget(txn, session);
    else
        txn->is_nothing = true;
    return 0;
}

int co_fs_session_end(struct fs *fs, uint64_t session)
{
    struct session_end end = {.id = session};

    if (session == 0)
        return 0;
    return co_txn_run(fs, TXN_SHRINKS, FS_NO_REQUEST, session_end_plan, &end, NULL);
}
