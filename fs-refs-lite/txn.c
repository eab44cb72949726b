#include "fs-refs-lite/txn.h"
#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/checkpoint.h"
#include "fs-refs-lite/extent.h"
#include "fs-refs-lite/fs_internal.h"

#define POOL_MIN 192 /* more than any operation's new and copied nodes */
#define POOL_AHEAD 128
#define FREES_MAX 2048 /* runs that one operation may free, nodes included */
#define TOUCHES_MAX (EXTENTS_PER_TXN + POOL_MIN) /* groups: of what it frees */
static_assert(2 * POOL_MIN + POOL_AHEAD <= POOL_BESIDE_CHECKPOINT, "needed is never out of reach");

/* ---- the list ---- */

static void *txn_end(struct txn *txn)
{
    return (char *)txn->record + txn->record->length;
}

size_t txn_room(const struct txn *txn)
{
    return FS_JOURNAL_RECORD_MAX - txn->record->length;
}

static void txn_add(struct txn *txn, const struct fs_journal_entry *entry, const void *value)
{
    size_t room = ALIGN_UP(entry->value_size, 8u);
    char *at = txn_end(txn);

    assert(sizeof(*entry) + room <= txn_room(txn));
    memcpy(at, entry, sizeof(*entry));
    memset(at + sizeof(*entry), 0, room);
    if (entry->value_size)
        memcpy(at + sizeof(*entry), value, entry->value_size);
    txn->record->length += sizeof(*entry) + room;
    txn->record->entries++;
}

void txn_put(struct txn *txn, enum fs_tree_id tree, const struct fs_key *key, const void *value,
             size_t size)
{
    assert(size <= FS_VALUE_MAX);
    txn_add(txn,
            &(struct fs_journal_entry){.action = FS_JOURNAL_PUT,
                                       .tree = tree,
                                       .object = key->object,
                                       .offset = key->offset,
                                       .kind = key->kind,
                                       .value_size = size},
            value);
}

void txn_delete(struct txn *txn, enum fs_tree_id tree, const struct fs_key *key)
{
    txn_add(txn,
            &(struct fs_journal_entry){.action = FS_JOURNAL_DELETE,
                                       .tree = tree,
                                       .object = key->object,
                                       .offset = key->offset,
                                       .kind = key->kind},
            NULL);
}

void txn_allocate(struct txn *txn, uint64_t address, uint64_t blocks)
{
    txn_add(txn,
            &(struct fs_journal_entry){
                .action = FS_JOURNAL_ALLOCATE, .object = address, .offset = blocks},
            NULL);
}

void txn_free(struct txn *txn, uint64_t address, uint64_t blocks)
{
    txn_add(
        txn,
        &(struct fs_journal_entry){.action = FS_JOURNAL_FREE, .object = address, .offset = blocks},
        NULL);
}

/* ---- applying ---- */

static bool entry_changes_tree(const struct fs_journal_entry *entry)
{
    return entry->action == FS_JOURNAL_PUT || entry->action == FS_JOURNAL_DELETE;
}

/* Is all in RAM that the record's changes need? Else *ret_entry is the first that lacks something.
 */
static int record_prepare(struct fs *fs, const struct fs_journal_record *record,
                          const struct fs_journal_entry **ret_entry)
{
    const struct fs_journal_entry *entry = journal_entry_first(record);

    for (uint32_t i = 0; i < record->entries; i++, entry = journal_entry_next(entry)) {
        struct fs_key key = journal_entry_key(entry);
        int r = entry_changes_tree(entry) ? tree_prepare(fs, entry->tree, &key) : 0;

        *ret_entry = entry;
        if (r < 0)
            return r;
    }
    return 0;
}

static void count_change(struct fs *fs, const struct fs_journal_entry *entry)
{
    struct fs_key key = journal_entry_key(entry);
    bool is_put = entry->action == FS_JOURNAL_PUT;
    uint64_t *count = entry->kind == FS_KIND_INODE ? &fs->inode_count : &fs->orphan_count;
    struct tree_item item;
    bool was_there = tree_get(fs, entry->tree, &key, &item) == 0;

    if (is_put && !was_there)
        ++*count;
    if (!is_put && was_there && *count > 0)
        --*count;
}

static void entry_apply(struct fs *fs, const struct fs_journal_entry *entry, uint64_t lsn)
{
    struct fs_key key = journal_entry_key(entry);
    const void *value = journal_entry_value(entry);

    if (entry->action == FS_JOURNAL_FREE)
        alloc_free(fs, entry->object, entry->offset);
    if (!entry_changes_tree(entry))
        return;
    if (entry->kind == FS_KIND_INODE || entry->kind == FS_KIND_ORPHAN)
        count_change(fs, entry);
    if (entry->action == FS_JOURNAL_PUT)
        tree_put(fs, entry->tree, &key, value, entry->value_size);
    else
        tree_delete(fs, entry->tree, &key);
    if (entry->kind == FS_KIND_INODE)
        inode_changed(fs, entry->object, entry->action == FS_JOURNAL_PUT ? value : NULL, lsn);
    if (entry->kind == FS_KIND_EXTENT && inode_find(fs, entry->object))
        inode_forget_extent(inode_find(fs, entry->object));
    if (entry->kind == FS_KIND_SLOT)
        session_changed(fs, entry->object, entry->offset,
                        entry->action == FS_JOURNAL_PUT ? value : NULL);
}

/* After record_prepare() returned 0, with no suspension between: cannot fail. Nodes go when all is
 * done: with the last item of a leaf its range would come to a neighbour, which need not be in RAM,
 * and the record may have more for it. */
static void record_apply(struct fs *fs, const struct fs_journal_record *record)
{
    const struct fs_journal_entry *entry = journal_entry_first(record);

    for (uint32_t i = 0; i < record->entries; i++, entry = journal_entry_next(entry))
        entry_apply(fs, entry, record->lsn);
    entry = journal_entry_first(record);
    for (uint32_t i = 0; i < record->entries; i++, entry = journal_entry_next(entry)) {
        struct fs_key key = journal_entry_key(entry);

        if (entry->action == FS_JOURNAL_DELETE)
            tree_tidy(fs, entry->tree, &key);
    }
}

/* ---- room ---- */

static bool txn_must_checkpoint(const struct fs *fs)
{
    return !journal_has_room(&fs->journal) || fs->nodes.dirty_count >= checkpoint_dirty_max(fs) ||
           fs->alloc.dirty_count >= fs->alloc.loaded_max ||
           alloc_checkpoint_addresses(fs, TOUCHES_MAX) > checkpoint_addresses_max(fs) ||
           fs->alloc.freed.count >= CHECKPOINT_FREED_MAX;
}

/* Space that only waits for a checkpoint? Then -ENOSPC is not yet true. */
static bool space_is_coming(const struct fs *fs)
{
    return fs->alloc.freed.blocks > 0 || fs->alloc.trimming.blocks > 0;
}

static bool txn_lacks_space(const struct fs *fs, enum txn_need need)
{
    uint64_t half = fs->alloc.reserve_blocks / 2;

    return need == TXN_GROWS && fs->alloc.free_blocks + fs->alloc.pool_count < half;
}

/* The operation's own, and those of the checkpoint behind it: with none left for that nothing would
 * ever be freed. What makes names leaves as many to what frees space. The pool can hold so many,
 * unless txn_must_checkpoint(). */
static size_t addresses_needed(const struct fs *fs, enum txn_need need)
{
    return alloc_checkpoint_addresses(fs, TOUCHES_MAX) + (need == TXN_GROWS ? 2 : 1) * POOL_MIN;
}

/* needed: with fewer it is -ENOSPC. */
static int co_txn_addresses(struct fs *fs, size_t needed)
{
    size_t least = MIN(needed, addresses_needed(fs, TXN_SHRINKS));
    int r = co_alloc_refill(fs, addresses_needed(fs, TXN_GROWS) + POOL_AHEAD, least);

    return r == 0 && fs->alloc.pool_count < needed ? -ENOSPC : r;
}

int co_txn_stock(struct fs *fs)
{
    return co_txn_addresses(fs, 0);
}

static int co_txn_space(struct fs *fs, enum txn_need need)
{
    size_t needed = addresses_needed(fs, need);

    assert(needed <= fs->alloc.pool_capacity); /* or what follows would be done for ever */
    if (fs->alloc.pool_count < needed) {
        int r = co_txn_addresses(fs, needed);

        if (r == -ENOSPC && space_is_coming(fs))
            r = co_fs_checkpoint(fs);
        return r < 0 ? r : -EAGAIN;
    }
    if (txn_lacks_space(fs, need)) {
        SOMETIMES("fs: the volume is full");
        if (!space_is_coming(fs))
            return -ENOSPC;
        int r = co_fs_checkpoint(fs);

        return r < 0 ? r : -EAGAIN;
    }
    return 0;
}

int co_txn_room(struct fs *fs, enum txn_need need)
{
    int r;

    for (;;) {
        if (fs->error)
            return fs->error;
        if (fs->is_read_only)
            return -EROFS;
        SOMETIMES_IF(fs->gate_closed, "fs: an operation waits for a snapshot");
        if (fs->gate_closed || fs_must_wait(fs, QUIET_ALL))
            r = co_cond_wait(&fs->gate);
        else if (!journal_can_gather(&fs->journal))
            r = co_journal_wait(fs, fs->journal.appended_lsn);
        else if (txn_must_checkpoint(fs)) {
            SOMETIMES("fs: an operation waits for a checkpoint");
            r = co_fs_checkpoint(fs);
        } else {
            r = co_txn_space(fs, need);
            if (r == 0)
                return alloc_reserve_frees(&fs->alloc, FREES_MAX);
            if (r == -EAGAIN)
                r = 0;
        }
        if (r < 0)
            return r;
    }
}

/* ---- running ---- */

static int txn_plan_once(struct fs *fs, struct fs_request request, txn_plan *plan, void *arg)
{
    const struct fs_journal_entry *lacking;
    struct txn *txn = &fs->txn;
    int r;

    *txn->record = (struct fs_journal_record){.lsn = fs->next_lsn, .length = sizeof(*txn->record)};
    txn->lsn = fs->next_lsn;
    txn->now_ns = io_wall_ns(fs->io);
    txn->hold = NULL;
    txn->ino = 0;
    txn->is_nothing = false;
    txn->refs.count = txn->refs.spent = 0;
    r = plan(fs, txn, arg);
    if (r == 0)
        r = refs_resolve(fs, txn);
    if (r < 0)
        return r;
    if (request.session)
        session_record(fs, txn, request);
    return record_prepare(fs, txn->record, &lacking);
}

static void txn_commit(struct fs *fs)
{
    struct txn *txn = &fs->txn;

    journal_append(fs, txn->record);
    fs->next_lsn++;
    record_apply(fs, txn->record);
    if (txn->hold)
        alloc_take(fs, txn->hold);
    checkpoint_maybe_schedule(fs);
}

/* All but the wait. */
static int co_txn_do(struct fs *fs, enum txn_need need, struct fs_request request, txn_plan *plan,
                     void *arg, struct txn_result *ret_result)
{
    struct txn_result result = {0};
    int r;

    for (;;) {
        r = co_txn_room(fs, need);
        if (r < 0)
            return r;
        r = session_look_up(fs, request, &result);
        if (r < 0)
            return r;
        SOMETIMES_IF(result.is_repeat, "fs: a metadata repeat is answered from the journal");
        if (result.is_repeat)
            break;
        r = txn_plan_once(fs, request, plan, arg);
        if (r == 0)
            break;
        if (r != -EAGAIN)
            return r;
        r = co_node_load(fs);
        if (r < 0)
            return r;
    }
    if (!result.is_repeat && !fs->txn.is_nothing) {
        result.lsn = fs->txn.lsn;
        result.ino = fs->txn.ino;
        txn_commit(fs);
    }
    *ret_result = result;
    return 0;
}

int co_txn_run(struct fs *fs, enum txn_need need, struct fs_request request, txn_plan *plan,
               void *arg, struct txn_result *ret_result)
{
    struct txn_result result;
    int r = co_txn_do(fs, need, request, plan, arg, &result);

    if (r < 0)
        return r;
    if (ret_result)
        *ret_result = result;
    if (PLANTED(FS_NOT_AWAITED) || fs->caretaker == co_self())
        return 0;
    return co_journal_wait(fs, result.lsn);
}

int co_txn_step(struct fs *fs, enum txn_need need, txn_plan *plan, void *arg,
                struct txn_result *ret_result)
{
    struct txn_result result;
    int r = co_txn_do(fs, need, FS_NO_REQUEST, plan, arg, &result);

    if (r == 0 && ret_result)
        *ret_result = result;
    return r;
}

/* ---- replay ---- */

/* A change is lost with the damaged node or map that it belongs to. If that only cannot be read now
 * the change must not be missing when it can (lack.h). */
static void change_is_lost(struct fs *fs)
{
    fs_note_damage(fs);
    if (fs->unreadable != 0)
        lack_need(fs, true);
}

int co_txn_replay_blocks(struct fs *fs, const struct fs_journal_record *record)
{
    const struct fs_journal_entry *entry = journal_entry_first(record);

    for (uint32_t i = 0; i < record->entries; i++, entry = journal_entry_next(entry)) {
        int r = 0;

        fs->unreadable = 0;
        if (entry->action == FS_JOURNAL_ALLOCATE)
            r = co_alloc_retake(fs, entry->object, entry->offset);
        if (r == -EBADMSG) /* nothing is allocated from a damaged map: these blocks are safe */
            change_is_lost(fs);
        else if (r < 0)
            return r;
    }
    return 0;
}

/* Has no effect any more when it is applied. */
static void entry_leave_out(const struct fs_journal_entry *entry)
{
    ((struct fs_journal_entry *)entry)->action = 0; /* the record is in the replay's own buffer */
}

/* Makes all ready that the record needs. Without its node in the refs tree or the sessions' an
 * entry is left out: blocks stay taken for shared, or a repeat runs again. Without one in any other
 * it is -EBADMSG, for the whole record; what else it needs is looked at all the same. */
static int co_record_ready(struct fs *fs, const struct fs_journal_record *record)
{
    int result = 0;

    for (;;) {
        const struct fs_journal_entry *failed = NULL;
        int r;

        fs->unreadable = 0;
        r = CO_RETRY(fs, record_prepare(fs, record, &failed));
        if (lack_is_why(fs, r))
            r = -EBADMSG;
        if (r != -EBADMSG)
            return r < 0 ? r : result;
        change_is_lost(fs);
        if (failed->tree != FS_TREE_REFS && failed->tree != FS_TREE_SLOTS)
            result = -EBADMSG;
        SOMETIMES_IF(
            result == 0,
            "fs: a change is replayed without what it told the refs tree, or the sessions");
        entry_leave_out(failed);
    }
}

int co_txn_replay(struct fs *fs, const struct fs_journal_record *record)
{
    int r;

    if (record->lsn < fs->next_lsn || record->lsn > FS_COUNTER_MAX / 2) {
        fs_note_damage(fs);
        return 0;
    }
    if (fs->alloc.pool_count < POOL_MIN && !fs->is_surveying) {
        r = co_txn_addresses(fs, POOL_MIN);
        if (r < 0)
            return r;
    }
    r = alloc_reserve_frees(&fs->alloc, FREES_MAX);
    if (r == 0)
        r = co_record_ready(fs, record);
    if (r == -EBADMSG || (r == 0 && fs->is_surveying))
        return 0; /* the rest goes on */
    if (r < 0)
        return r;
    record_apply(fs, record);
    fs->next_lsn = MAX(fs->next_lsn, record->lsn + 1);
    SOMETIMES("fs: a journal record is replayed at a mount");
    fs->counters.replayed_records++;
    return 0;
}
