/* The edits of an operation are kept as steps: at an address the sum of all that holds from there
 * on changes. Sorted, they cut the address space into runs with one sum each, and these are laid
 * over the items of the tree in one pass from low to high, which lists the items that go, and the
 * runs that come. So an operation that takes a reference and gives another one to the same blocks
 * leaves them as they are. */
#include "fs-refs-lite/refs.h"
#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/fs_internal.h"

struct ref_run {
    uint64_t address;
    uint64_t blocks; /* 0: none */
    uint64_t count;
};

static struct fs_key ref_key(uint64_t address)
{
    return (struct fs_key){.object = address, .kind = FS_KIND_REF};
}

static uint64_t run_end(const struct ref_run *run)
{
    return run->address + run->blocks;
}

bool ref_item_is_valid(const struct fs *fs, const struct fs_key *key, const void *value,
                       size_t size)
{
    const struct fs_ref_item *item = value;

    return size == sizeof(*item) && key->kind == FS_KIND_REF && key->offset == 0 &&
           item->count >= 2 && item->count < UINT64_MAX / 2 &&
           alloc_is_valid_run(&fs->alloc, key->object, item->blocks);
}

static int ref_decode(const struct fs *fs, const struct tree_item *item, struct ref_run *ret_run)
{
    const struct fs_ref_item *value = item->value;

    if (!ref_item_is_valid(fs, &item->key, item->value, item->size))
        return -EBADMSG;
    *ret_run = (struct ref_run){
        .address = item->key.object, .blocks = value->blocks, .count = value->count};
    return 0;
}

/* The run that holds address, or else the first one behind it. 0, -ENOENT, -EAGAIN, -EBADMSG */
static int ref_at_or_behind(struct fs *fs, uint64_t address, struct ref_run *ret_run)
{
    struct fs_key key = ref_key(address);
    struct tree_item item;
    int r = tree_previous(fs, FS_TREE_REFS, &key, &item);

    if (r == 0)
        r = ref_decode(fs, &item, ret_run);
    if (r == 0 && run_end(ret_run) > address)
        return 0;
    if (r < 0 && r != -ENOENT)
        return r;
    r = tree_next(fs, FS_TREE_REFS, &key, &item);
    return r < 0 ? r : ref_decode(fs, &item, ret_run);
}

int refs_look_up(struct fs *fs, uint64_t address, uint64_t blocks, bool *ret_shared,
                 uint64_t *ret_blocks)
{
    struct ref_run run;
    int r = ref_at_or_behind(fs, address, &run);

    if (r == -EAGAIN)
        return r;
    *ret_blocks = blocks;
    *ret_shared = r == -EBADMSG || (r == 0 && run.address <= address);
    if (r == -EBADMSG)
        fs_note_damage(fs);
    if (r == 0)
        *ret_blocks = MIN(blocks, *ret_shared ? run_end(&run) - address : run.address - address);
    return 0;
}

int refs_reach(struct fs *fs, struct txn *txn, unsigned leave, uint64_t address, uint64_t blocks,
               uint64_t *ret_blocks)
{
    struct ref_edits *edits = &txn->refs;
    uint64_t at = address, end = address + blocks;

    assert(leave < REF_BUDGET);
    while (at < end && edits->spent + leave < REF_BUDGET) {
        struct ref_run run;
        int r = ref_at_or_behind(fs, at, &run);

        if (r == -EBADMSG) /* refs_resolve() says what becomes of them */
            r = -ENOENT;
        if (r < 0 && r != -ENOENT)
            return r;
        edits->spent++;
        at = r == -ENOENT || run.address >= end ? end : MIN(end, run_end(&run));
    }
    *ret_blocks = at - address;
    return 0;
}

/* ---- listing ---- */

static void edit_add(struct txn *txn, uint64_t address, uint64_t blocks, int64_t delta)
{
    struct ref_edits *edits = &txn->refs;

    assert(blocks > 0);
    assert(edits->count + 2 <= REF_EDITS_MAX);
    edits->edits[edits->count++] = (struct ref_edit){.address = address, .delta = delta};
    edits->edits[edits->count++] = (struct ref_edit){.address = address + blocks, .delta = -delta};
}

void txn_share(struct txn *txn, uint64_t address, uint64_t blocks)
{
    edit_add(txn, address, blocks, 1);
}

void txn_unshare(struct txn *txn, uint64_t address, uint64_t blocks)
{
    edit_add(txn, address, blocks, -1);
}

/* ---- resolving ---- */

static int edit_compare(const void *a, const void *b)
{
    const struct ref_edit *first = a, *second = b;

    return first->address < second->address ? -1 : first->address > second->address;
}

struct resolve {
    struct fs *fs;
    struct txn *txn;
    unsigned next;       /* edit */
    int64_t sum;         /* of the edits before it: what holds at `at` */
    uint64_t at;         /* all before it is listed */
    struct ref_run item; /* the last one met; `at` may lie in it */
    struct ref_run out;  /* being put together */
};

static void resolve_put_out(struct resolve *resolve)
{
    struct fs_key key = ref_key(resolve->out.address);
    struct fs_ref_item item = {.count = resolve->out.count, .blocks = resolve->out.blocks};

    if (resolve->out.blocks)
        txn_put(resolve->txn, FS_TREE_REFS, &key, &item, sizeof(item));
    resolve->out.blocks = 0;
}

/* Runs of at least two become an item, joined with the one before where that goes. */
static int resolve_emit(struct resolve *resolve, uint64_t address, uint64_t blocks, uint64_t count)
{
    struct ref_run *out = &resolve->out;

    if (count > UINT64_MAX / 2)
        return -EBADMSG; /* more was taken away than there was */
    if (count == 0)
        txn_free(resolve->txn, address, blocks);
    if (count < 2)
        return 0;
    if (out->blocks && run_end(out) == address && out->count == count &&
        alloc_is_valid_run(&resolve->fs->alloc, out->address, out->blocks + blocks)) {
        out->blocks += blocks;
        return 0;
    }
    resolve_put_out(resolve);
    *out = (struct ref_run){.address = address, .blocks = blocks, .count = count};
    return 0;
}

/* Takes all edits that lie at `at`; how far do they hold? */
static uint64_t resolve_sum(struct resolve *resolve)
{
    const struct ref_edits *edits = &resolve->txn->refs;

    while (resolve->next < edits->count && edits->edits[resolve->next].address == resolve->at)
        resolve->sum += edits->edits[resolve->next++].delta;
    return resolve->next < edits->count ? edits->edits[resolve->next].address : UINT64_MAX;
}

/* Meets the item that holds `at` or lies behind it; one that is changed goes first. */
static int resolve_item(struct resolve *resolve, uint64_t *ret_end)
{
    struct ref_run *item = &resolve->item, found;
    struct fs_key key;
    int r;

    if (item->blocks && run_end(item) > resolve->at)
        return 0;
    r = ref_at_or_behind(resolve->fs, resolve->at, &found);
    if (r < 0 && r != -ENOENT)
        return r;
    item->blocks = 0;
    if (r == -ENOENT || found.address > resolve->at) {
        *ret_end = MIN(*ret_end, r == -ENOENT ? UINT64_MAX : found.address);
        return 0;
    }
    *item = found;
    key = ref_key(found.address);
    txn_delete(resolve->txn, FS_TREE_REFS, &key);
    if (found.address < resolve->at)
        return resolve_emit(resolve, found.address, resolve->at - found.address, found.count);
    return 0;
}

/* One run with one sum, in one item or in none. */
static int resolve_step(struct resolve *resolve)
{
    uint64_t end = resolve_sum(resolve), count = 1;
    const struct ref_run *item = &resolve->item;
    bool is_in_item = item->blocks && run_end(item) > resolve->at;
    int r;

    if (resolve->sum == 0 && !is_in_item) {
        resolve->at = end;
        return 0;
    }
    r = resolve_item(resolve, &end);
    if (r < 0)
        return r;
    if (item->blocks && run_end(item) > resolve->at) {
        end = MIN(end, run_end(item));
        count = item->count;
    }
    r = resolve_emit(resolve, resolve->at, end - resolve->at, count + (uint64_t)resolve->sum);
    resolve->at = end;
    return r;
}

static int resolve_all(struct fs *fs, struct txn *txn)
{
    struct ref_edits *edits = &txn->refs;
    struct resolve resolve = {.fs = fs, .txn = txn, .at = edits->edits[0].address};

    while (resolve.at != UINT64_MAX) {
        int r = resolve_step(&resolve);

        if (r < 0)
            return r;
    }
    assert(resolve.sum == 0);
    resolve_put_out(&resolve);
    return 0;
}

int refs_resolve(struct fs *fs, struct txn *txn)
{
    struct ref_edits *edits = &txn->refs;
    struct fs_journal_record before = *txn->record;
    bool adds = false;
    int r;

    if (edits->count == 0)
        return 0;
    for (unsigned i = 0; i < edits->count; i += 2)
        adds |= edits->edits[i].delta > 0;
    qsort(edits->edits, edits->count, sizeof(edits->edits[0]), edit_compare);
    r = resolve_all(fs, txn);
    if (r == -EBADMSG) {
        fs_note_damage(fs);
        *txn->record = before;
        r = adds ? r : 0;
    }
    return r;
}
