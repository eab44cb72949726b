#include "fs-refs-lite/checkpoint.h"
#include "fs-refs-lite/btree.h"

#define STAGING_BYTES (256 * KIB)
/* Shorter free runs are not trimmed: the pool cannot use them, and each trim costs as much as a
 * write. They may be used again at once then, for preallocation trims what it takes and all other
 * use writes whole blocks. */
#define TRIM_BLOCKS_MIN 16

void checkpoint_init(struct checkpoint *checkpoint)
{
    *checkpoint = (struct checkpoint){0};
    co_mutex_init(&checkpoint->mutex);
}

void checkpoint_done(struct checkpoint *checkpoint)
{
    free(checkpoint->bitmaps);
    free(checkpoint->bitmap_blocks);
    checkpoint->bitmaps = NULL;
    checkpoint->bitmap_blocks = NULL;
}

/* ---- the gate ---- */

int co_gate_close(struct fs *fs)
{
    int r;

    fs->gate_closed++;
    r = co_journal_wait(fs, fs->journal.appended_lsn);
    if (r < 0)
        gate_open(fs);
    return r;
}

void gate_open(struct fs *fs)
{
    assert(fs->gate_closed > 0);
    if (--fs->gate_closed == 0)
        co_cond_broadcast(&fs->gate);
}

/* ---- snapshot ---- */

static bool checkpoint_has_work(const struct fs *fs)
{
    return fs->nodes.dirty_count || fs->alloc.dirty_count || fs->alloc.touched_count ||
           fs->alloc.freed.count || fs->alloc.waiting.count ||
           fs->journal.head != fs->journal.tail || fs->journal.records || fs->journal.is_writing ||
           !list_empty(&fs->inodes.times_dirty) || fs->alloc.total_blocks != fs->root.total_blocks;
}

static int checkpoint_images_new(struct checkpoint *checkpoint, size_t count)
{
    checkpoint_done(checkpoint);
    checkpoint->bitmap_count = count;
    checkpoint->bitmaps_written = 0;
    if (count == 0)
        return 0;
    checkpoint->bitmaps = aligned_alloc(BLOCK_SIZE, count * BLOCK_SIZE);
    checkpoint->bitmap_blocks = calloc(count, sizeof(*checkpoint->bitmap_blocks));
    return checkpoint->bitmaps && checkpoint->bitmap_blocks ? 0 : -ENOMEM;
}

/* Does not suspend: what the root says is one moment's truth. */
static int checkpoint_snapshot(struct fs *fs, uint32_t flags)
{
    struct checkpoint *checkpoint = &fs->checkpoint;
    struct fs_root *root = &checkpoint->root;
    int r = checkpoint_images_new(checkpoint, fs->alloc.dirty_count);

    if (r == 0)
        r = alloc_reserve_frees(&fs->alloc, fs->alloc.dirty_count);
    if (r < 0)
        return r;
    *root = fs->root;
    root->flags = flags;
    root->free_blocks = alloc_snapshot(fs, checkpoint->bitmaps, checkpoint->bitmap_blocks);
    root->total_blocks = fs->alloc.total_blocks;
    root->inodes = fs->inode_count;
    root->orphans = fs->orphan_count;
    root->next_ino = fs->next_ino;
    root->next_lsn = fs->next_lsn;
    root->data_cursor = fs->alloc.data_cursor;
    root->metadata_cursor = fs->alloc.metadata_cursor;
    memcpy(root->trees, fs->trees, sizeof(root->trees));
    root->header.generation = fs->generation;
    checkpoint->mark = journal_mark(&fs->journal);
    root->journal_at = checkpoint->mark.head;
    root->journal_sequence = checkpoint->mark.sequence;

    node_freeze(fs);
    fs->generation++;
    checkpoint->frozen = true;
    checkpoint->trimming = true;
    return 0;
}

static int co_checkpoint_prepare(struct fs *fs)
{
    int r;

    do {
        r = fs->error ? fs->error : co_alloc_prepare_snapshot(fs);
    } while (r == 0);
    return r < 0 ? r : 0;
}

static int co_checkpoint_begin(struct fs *fs, uint32_t flags)
{
    int r = alloc_look_again(fs);

    if (r == 0)
        r = co_inode_flush_times(fs);
    if (r == 0)
        r = co_checkpoint_prepare(fs); /* most of the loading, while others go on */
    if (r == 0)
        r = co_gate_close(fs);
    if (r < 0)
        return r;
    r = co_checkpoint_prepare(fs);
    if (r == 0)
        r = checkpoint_snapshot(fs, flags);
    gate_open(fs);
    return r;
}

/* ---- writing ---- */

static int node_compare_address(const void *a, const void *b)
{
    const struct node *first = *(struct node *const *)a, *second = *(struct node *const *)b;

    return first->address < second->address ? -1 : first->address > second->address;
}

/* Writes nodes with addresses that follow each other as one request. */
static int co_nodes_write_run(struct fs *fs, struct node **nodes, size_t count, char *staging)
{
    int r;

    for (size_t i = 0; i < count; i++) {
        node_seal(fs, nodes[i]);
        memcpy(staging + i * BLOCK_SIZE, nodes[i]->disk, BLOCK_SIZE);
    }
    r = co_disk_write(fs, staging, nodes[0]->address * BLOCK_SIZE, count * BLOCK_SIZE, NO_CLIENT);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        node_written(fs, nodes[i]);
    fs->counters.nodes_written += count;
    return 0;
}

static int co_nodes_write(struct fs *fs)
{
    size_t count = fs->nodes.frozen_count, filled = 0;
    cleanup(freep) struct node **nodes = calloc(count + 1, sizeof(*nodes));
    cleanup(freep) char *staging = aligned_alloc(BLOCK_SIZE, STAGING_BYTES);

    if (!nodes || !staging)
        return -ENOMEM;
    list_for_each (entry, &fs->nodes.frozen) {
        nodes[filled++] = list_entry(entry, struct node, list);
    }
    assert(filled == count);
    qsort(nodes, count, sizeof(struct node *), node_compare_address);

    for (size_t i = 0, run; i < count; i += run) {
        int r;

        for (run = 1; i + run < count && run < STAGING_BYTES / BLOCK_SIZE; run++) {
            if (nodes[i + run]->address != nodes[i]->address + run)
                break;
        }
        r = co_nodes_write_run(fs, nodes + i, run, staging);
        if (r < 0)
            return r;
    }
    return 0;
}

static int co_bitmaps_write(struct fs *fs)
{
    struct checkpoint *checkpoint = &fs->checkpoint;

    while (checkpoint->bitmaps_written < checkpoint->bitmap_count) {
        size_t i = checkpoint->bitmaps_written;
        uint64_t block = checkpoint->bitmap_blocks[i];
        int r = 0;

        if (block != 0)
            r = co_disk_write(fs, &checkpoint->bitmaps[i], block * BLOCK_SIZE, BLOCK_SIZE,
                              NO_CLIENT);
        if (r < 0)
            return r;
        checkpoint->bitmaps_written++;
        fs->counters.bitmaps_written += block != 0;
    }
    return 0;
}

int co_root_write(struct fs *fs, const struct fs_root *root)
{
    uint64_t generation = root->header.generation, block = FS_ROOT_BLOCK(generation);
    cleanup(freep) struct fs_root *copies =
        aligned_alloc(BLOCK_SIZE, FS_ROOT_COPIES * sizeof(*copies));

    if (!copies)
        return -ENOMEM;
    for (unsigned i = 0; i < FS_ROOT_COPIES; i++) {
        copies[i] = *root;
        block_seal(&copies[i], FS_ROOT_MAGIC, fs->super.header.volume, block + i, generation);
    }
    return co_disk_write(fs, copies, block * BLOCK_SIZE, FS_ROOT_COPIES * BLOCK_SIZE, NO_CLIENT);
}

static int co_checkpoint_write(struct fs *fs)
{
    struct checkpoint *checkpoint = &fs->checkpoint;
    int r;

    r = PLANTED(FS_ROOT_BEFORE_NODES) ? co_root_write(fs, &checkpoint->root) : 0;
    if (r == 0)
        r = co_nodes_write(fs);
    if (r == 0)
        r = co_bitmaps_write(fs);
    if (r == 0)
        r = co_root_write(fs, &checkpoint->root);
    if (r == 0)
        r = fs->error;
    if (r < 0)
        return r;
    alloc_written(fs);
    journal_cut(&fs->journal, &checkpoint->mark);
    fs->root = checkpoint->root;
    checkpoint->frozen = false;
    checkpoint_done(checkpoint);
    fs->counters.checkpoints++;
    return 0;
}

/* Any other error than a lost vdisk leaves the blocks untrimmed, which costs space in the pool and
 * nothing else. */
static int co_checkpoint_trim(struct fs *fs)
{
    const struct run_list *trims = &fs->alloc.trimming;
    size_t count;

    run_list_sort(&fs->alloc.trimming);
    count = trims->count;
    if (PLANTED(FS_TRIM_NOT_AWAITED))
        alloc_trimmed(fs);
    for (size_t i = 0; i < count; i++) {
        uint64_t slots = trims->runs[i].is_group ? FS_GROUP_SLOTS : 0;
        int r;

        if (trims->runs[i].blocks < TRIM_BLOCKS_MIN)
            continue;
        r = co_disk_trim(fs, (trims->runs[i].address - slots) * BLOCK_SIZE,
                         (trims->runs[i].blocks + slots) * BLOCK_SIZE, NO_CLIENT);
        if (r == -ESTALE)
            return r;
        if (fs->error)
            return fs->error;
        fs->counters.trims++;
    }
    alloc_trimmed(fs);
    fs->checkpoint.trimming = false;
    return 0;
}

/* What has been frozen goes to the vdisk; after an error the next call goes on where this one
 * stopped. */
static int co_checkpoint_finish(struct fs *fs)
{
    int r = 0;

    if (fs->error)
        return fs->error;
    if (PLANTED(FS_TRIM_EARLY) && fs->checkpoint.trimming)
        r = co_checkpoint_trim(fs);
    if (r == 0 && fs->checkpoint.frozen)
        r = co_checkpoint_write(fs);
    if (r == 0 && fs->checkpoint.trimming)
        r = co_checkpoint_trim(fs);
    return r;
}

static int co_checkpoint_locked(struct fs *fs, uint32_t flags, bool is_forced)
{
    int r;

    if (fs->is_read_only)
        return fs->is_unmounting ? fs->error : co_lack_look(fs);
    SOMETIMES_IF(fs->checkpoint.frozen, "fs: a checkpoint that failed is finished by the next");
    r = co_checkpoint_finish(fs); /* of an earlier one */
    if (r < 0 || (!is_forced && !checkpoint_has_work(fs)))
        return r;
    r = co_checkpoint_begin(fs, flags);
    if (r < 0)
        return r;
    return co_checkpoint_finish(fs);
}

int co_fs_checkpoint(struct fs *fs)
{
    int r;

    co_mutex_lock(&fs->checkpoint.mutex);
    r = co_checkpoint_locked(fs, 0, false);
    co_mutex_unlock(&fs->checkpoint.mutex);
    return r;
}

int co_checkpoint_force(struct fs *fs, uint32_t flags)
{
    int r;

    co_mutex_lock(&fs->checkpoint.mutex);
    r = co_checkpoint_locked(fs, flags, true);
    co_mutex_unlock(&fs->checkpoint.mutex);
    return r;
}

int co_checkpoint_gated(struct fs *fs)
{
    assert(fs->gate_closed && fs->checkpoint.mutex.locked);
    return co_checkpoint_locked(fs, 0, false);
}

/* ---- when ---- */

/* Of what must not get more than a checkpoint can take, half is there. */
static bool checkpoint_is_half_full(const struct fs *fs)
{
    return fs->nodes.dirty_count >= checkpoint_dirty_max(fs) / 2 ||
           fs->alloc.freed.count >= CHECKPOINT_FREED_MAX / 2 ||
           fs->alloc.dirty_count >= fs->alloc.loaded_max / 2 ||
           alloc_checkpoint_addresses(fs, 0) >= checkpoint_addresses_max(fs) / 2;
}

static bool checkpoint_is_due(const struct fs *fs)
{
    return journal_used_blocks(&fs->journal) >= fs->journal.blocks / 2 ||
           checkpoint_is_half_full(fs);
}

static void co_checkpoint_background(void *arg)
{
    struct fs *fs = arg;

    /* An error stays with the checkpoint; who needs its room tries again and is told. */
    (void)co_fs_checkpoint(fs);
    fs->checkpoint.scheduled = false;
}

void checkpoint_maybe_schedule(struct fs *fs)
{
    if (fs->checkpoint.scheduled || fs->error || !checkpoint_is_due(fs))
        return;
    fs->checkpoint.scheduled = true;
    if (co_group_spawn(&fs->background, fs->io, "fs-checkpoint", co_checkpoint_background, fs) < 0)
        fs->checkpoint.scheduled = false; /* an operation that needs room does it itself */
}

int co_checkpoint_if_full(struct fs *fs)
{
    if (fs->is_surveying)
        return 0; /* nothing is applied, and no root may say so */
    if (fs->is_sealed)
        return fs->nodes.dirty_count < fs->nodes.node_count / 4 ? 0 : -ENOSPC;
    return checkpoint_is_half_full(fs) ? co_fs_checkpoint(fs) : 0;
}
