/* Mounting and what concerns the volume as a whole. Mounting: superblock, newest root, the journal
 * twice (first the blocks that its records took, so that no tree node is put there; then the
 * changes), and a root of a new epoch, so that what a predecessor's last batch left behind can
 * never be taken for ours. */
#include "fs-refs-lite/alloc_private.h"
#include "fs-refs-lite/checkpoint.h"
#include "fs-refs-lite/fs_internal.h"

#define CACHE_BYTES_DEFAULT (32 * MIB)
#define CACHE_BYTES_MIN (16 * MIB)
#define BOUNCE_BYTES_DEFAULT (8 * MIB)
#define BOUNCE_BYTES_MIN (1 * MIB)
#define MAPS_SHARE 8 /* of the cache: one part is for allocation maps */

/* ---- life ---- */

static int fs_new(struct io *io, struct vdisk *vdisk, const struct fs_mount_options *options,
                  struct fs **ret_fs)
{
    struct fs *fs = calloc(1, sizeof(*fs));

    if (!fs)
        return -ENOMEM;
    fs->io = io;
    fs->vdisk = vdisk;
    if (options)
        fs->options = *options;
    if (fs->options.cache_bytes == 0)
        fs->options.cache_bytes = CACHE_BYTES_DEFAULT;
    fs->options.cache_bytes = MAX(fs->options.cache_bytes, CACHE_BYTES_MIN);
    if (fs->options.bounce_bytes == 0)
        fs->options.bounce_bytes = BOUNCE_BYTES_DEFAULT;
    fs->options.bounce_bytes = MAX(fs->options.bounce_bytes, BOUNCE_BYTES_MIN);
    co_cond_init(&fs->gate);
    co_mutex_init(&fs->snapshot_mutex);
    co_group_init(&fs->background);
    checkpoint_init(&fs->checkpoint);
    *ret_fs = fs;
    return 0;
}

static void fs_free(struct fs *fs)
{
    if (!fs)
        return;
    inode_table_done(&fs->inodes);
    session_table_done(&fs->sessions);
    journal_done(&fs->journal);
    alloc_done(&fs->alloc);
    node_cache_done(&fs->nodes);
    checkpoint_done(&fs->checkpoint);
    buffer_pool_free(fs->bounce);
    free(fs->txn.record);
    free(fs);
}
DEFINE_CLEANUP(struct fs, fs_free)

int fs_fail_with(struct fs *fs, int error)
{
    assert(error < 0);
    if (!fs->error)
        fs->error = error;
    co_cond_broadcast(&fs->gate);
    return fs->error;
}

void fs_fail(struct fs *fs)
{
    (void)fs_fail_with(fs, -ESTALE);
}

int fs_error(const struct fs *fs)
{
    return fs->error;
}

bool fs_is_read_only(const struct fs *fs)
{
    return fs->is_read_only;
}

void fs_forget(struct fs *fs)
{
    node_cache_forget(&fs->nodes);
    alloc_forget(&fs->alloc);
}

/* ---- superblock and root ---- */

static bool super_is_valid(const struct fs_super *super, uint64_t size_bytes)
{
    return super->block_size == BLOCK_SIZE && fs_group_blocks_are_valid(super->group_blocks) &&
           super->journal_blocks >= FS_JOURNAL_BYTES_MIN / BLOCK_SIZE &&
           super->journal_blocks <= FS_JOURNAL_BYTES_MAX / BLOCK_SIZE &&
           super->first_group_block == FS_JOURNAL_BLOCK + super->journal_blocks &&
           super->first_group_block + FS_GROUP_BLOCKS_MIN <= size_bytes / BLOCK_SIZE &&
           memchr(super->label, 0, sizeof(super->label));
}

/* Not damaged, only not ours to read? */
static bool super_is_foreign(const struct fs_super *super)
{
    return super->header.magic == FS_SUPER_MAGIC && super->header.version != FS_FORMAT_VERSION;
}

static int co_super_read(struct fs *fs, void *block)
{
    const struct fs_super *super = block;
    bool is_foreign = false;

    for (uint64_t copy = 0; copy < FS_SUPER_COPIES; copy++) {
        int r = co_disk_read(fs, block, (FS_SUPER_BLOCK + copy) * BLOCK_SIZE, BLOCK_SIZE);

        if (r == -EIO) /* the other copy is there for this */
            continue;
        if (r < 0)
            return r;
        is_foreign |= super_is_foreign(super);
        if (!block_is_valid(super, FS_SUPER_MAGIC, NULL, FS_SUPER_BLOCK + copy) ||
            !super_is_valid(super, fs->vdisk->size_bytes))
            continue;
        if (super->features_incompatible & ~(uint64_t)FS_FEATURES_KNOWN ||
            super->features_read_only & ~(uint64_t)FS_FEATURES_KNOWN)
            return -EPROTONOSUPPORT;
        fs->super = *super;
        return 0;
    }
    return is_foreign ? -EPROTONOSUPPORT : -EBADMSG;
}

static bool root_is_valid(const struct fs *fs, const struct fs_root *root)
{
    for (unsigned i = 0; i < FS_TREES; i++) {
        bool is_empty = root->trees[i].address == 0;

        if (root->trees[i].nodes > root->total_blocks || (root->trees[i].nodes == 0 && !is_empty))
            return false; /* so many addresses are kept for a checkpoint */
        if (root->trees[i].level >= FS_LEVEL_MAX ||
            root->trees[i].generation > root->header.generation)
            return false;
    }
    return root->total_blocks <= fs->vdisk->size_bytes / BLOCK_SIZE &&
           root->total_blocks >= fs->super.first_group_block + FS_GROUP_BLOCKS_MIN &&
           root->journal_at < fs->super.journal_blocks && root->next_ino > FS_ROOT_INO &&
           root->next_ino < FS_COUNTER_MAX && root->header.generation < FS_COUNTER_MAX &&
           root->next_lsn > 0 && root->next_lsn < FS_COUNTER_MAX;
}

/* One of the two roots, from either copy. Returns 0, -EBADMSG, or the vdisk's error. */
static int co_root_read(struct fs *fs, uint64_t parity, void *buffer, struct fs_root *ret_root)
{
    const struct fs_root *root = buffer;
    int result = -EBADMSG;

    for (uint64_t copy = 0; copy < FS_ROOT_COPIES; copy++) {
        uint64_t block = FS_ROOT_BLOCK(parity) + copy;
        int r = co_disk_read(fs, buffer, block * BLOCK_SIZE, BLOCK_SIZE);

        if (r == -EIO)
            continue;
        if (r < 0)
            return r;
        if (!block_is_valid(root, FS_ROOT_MAGIC, fs->super.header.volume, block) ||
            root->header.generation % 2 != parity || !root_is_valid(fs, root))
            continue;
        if (result < 0 || root->header.generation > ret_root->header.generation)
            *ret_root = *root;
        result = 0;
    }
    return result;
}

/* The newest root. One that cannot be read might have been the newest: then only salvage takes the
 * other. */
static int co_roots_read(struct fs *fs, void *buffer)
{
    struct fs_root *other = calloc(1, sizeof(*other));
    int even, odd, r = 0;

    if (!other)
        return -ENOMEM;
    even = co_root_read(fs, 0, buffer, &fs->root);
    odd = co_root_read(fs, 1, buffer, other);
    if (odd == 0 && (even < 0 || other->header.generation > fs->root.header.generation))
        fs->root = *other;
    if (even == -EBADMSG || odd == -EBADMSG)
        fs_note_damage(fs);
    if (even < 0 && even != -EBADMSG)
        r = even;
    else if (odd < 0 && odd != -EBADMSG)
        r = odd;
    else if (even < 0 && (odd < 0 || !fs->options.salvage))
        r = even;
    else if (odd < 0 && !fs->options.salvage)
        r = odd;
    free(other);
    return r;
}

/* ---- mounting ---- */

/* Twice what may be dirty between two checkpoints, but no more than an eighth of a small volume. */
static uint64_t reserve_blocks(const struct fs *fs)
{
    uint64_t wanted = 2 * (fs->nodes.node_count / 4) + 1024;

    return MIN(wanted, alloc_capacity(&fs->alloc) / 8);
}

static int fs_start(struct fs *fs)
{
    size_t blocks = fs->options.cache_bytes / BLOCK_SIZE, maps = blocks / MAPS_SHARE;
    size_t nodes = MAX(blocks - maps, (size_t)NODES_MIN);
    int r;

    r = node_cache_init(&fs->nodes, nodes);
    if (r == 0)
        r = alloc_init(&fs->alloc, &fs->super, &fs->root, maps, nodes + POOL_BESIDE_CHECKPOINT);
    /* Before the replay: records may have taken blocks that no root tells of yet. */
    if (r == 0 && fs->vdisk->size_bytes / BLOCK_SIZE > fs->alloc.total_blocks)
        r = alloc_grow(&fs->alloc, fs->vdisk->size_bytes / BLOCK_SIZE);
    if (r == 0)
        r = journal_init(&fs->journal, &fs->super, &fs->root);
    if (r == 0)
        r = inode_table_init(&fs->inodes);
    if (r == 0)
        r = session_table_init(&fs->sessions);
    if (r == 0)
        r = buffer_pool_new("fs-bounce", fs->options.bounce_bytes, &fs->bounce);
    fs->txn.record = malloc(FS_JOURNAL_RECORD_MAX);
    if (r < 0 || !fs->txn.record)
        return r < 0 ? r : -ENOMEM;

    memcpy(fs->trees, fs->root.trees, sizeof(fs->trees));
    fs->generation = fs->root.header.generation + 1;
    fs->inode_count = fs->root.inodes;
    fs->orphan_count = fs->root.orphans;
    fs->next_ino = fs->root.next_ino;
    fs->next_lsn = fs->root.next_lsn;
    fs->alloc.reserve_blocks = reserve_blocks(fs);
    return 0;
}

static int co_replay(struct fs *fs)
{
    int r = PLANTED(FS_REPLAY_OVER_DATA) ? 0 : co_journal_scan(fs, false, co_txn_replay_blocks);

    if (r == 0 || (r == -EBADMSG && fs->options.salvage))
        r = co_journal_scan(fs, true, co_txn_replay);
    if (r == -ENOSPC && lack_may_hide_room(fs))
        r = 0; /* it is settled, or waited for */
    if (r == -ENOSPC && !fs->is_sealed && lack_first(fs) != 0) {
        fs->is_sealed = fs->is_read_only = true;
        fs->awaited = lack_first(fs);
    }
    SOMETIMES_IF(r == -ENOSPC && fs->is_sealed, "fs: a sealed mount shows the journal in part");
    if (r == -ENOSPC && fs->is_sealed)
        r = 0;                               /* what is shown is older, and the journal stays */
    if (r == -ENOSPC && fs->counters.damage) /* the reserve is behind damaged maps */
        r = -EBADMSG;
    if (r == -EBADMSG && fs->options.salvage) {
        fs_note_damage(fs);
        r = 0;
    }
    fs->journal.appended_lsn = fs->journal.durable_lsn = fs->next_lsn - 1;
    return r;
}

static int co_trim_group(struct fs *fs, uint64_t group)
{
    struct alloc_hold hold;
    int r = co_alloc_hold_group(fs, group, &hold);

    if (r < 0)
        return r == -ENOENT || r == -EBADMSG ? 0 : r;
    r = co_disk_trim(fs, (hold.runs[0].address - FS_GROUP_SLOTS) * BLOCK_SIZE,
                     (hold.runs[0].blocks + FS_GROUP_SLOTS) * BLOCK_SIZE, NO_CLIENT);
    alloc_release(fs, &hold);
    return r;
}

/* A predecessor that was cut off may not have trimmed what its last root had freed, which can be
 * many TiB of a thin vdisk. What is there is groups without a map, most of all. */
static void co_trim_groups(void *arg)
{
    struct fs *fs = arg;
    struct fs_key key = group_key(0);
    int r = 0;

    while (r == 0 && !fs->error && !fs->is_unmounting) {
        struct fs_group_item value;
        struct tree_item item;

        r = CO_RETRY(fs, tree_next(fs, FS_TREE_GROUPS, &key, &item));
        if (r < 0 || item.key.object >= fs->alloc.group_count || item.size != sizeof(value))
            return;
        memcpy(&value, item.value, sizeof(value));
        key = group_key(item.key.object + 1);
        if (value.slot == FS_GROUP_NO_MAP)
            r = co_trim_group(fs, key.object - 1);
        if (r == 0)
            r = co_sleep_ns(1); /* all of it may be in RAM, and nothing there to be trimmed */
    }
}

static int co_mount(struct fs *fs, bool *ret_clean)
{
    cleanup(freep) void *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    int r;

    if (!block)
        return -ENOMEM;
    r = co_super_read(fs, block);
    if (r == 0)
        r = co_roots_read(fs, block);
    if (r == 0)
        r = fs_start(fs);
    if (r == 0)
        r = co_session_load(fs);
    if (lack_is_why(fs, r)) {
        lack_need(fs, false);
        r = 0;
    }
    if (r == 0)
        r = co_replay(fs);
    if (r == 0 && fs->is_surveying)
        return co_lacks_settle(fs);
    if (r < 0 || fs->is_sealed)
        return r;
    *ret_clean = fs->root.flags & FS_ROOT_CLEAN;
    if (!*ret_clean)
        fs->root.crashes++;
    fs->root.epoch++;
    r = co_checkpoint_force(fs, 0);
    if (r == 0)
        return co_txn_stock(fs);
    if (r == -ENOSPC && lack_may_hide_room(fs))
        return co_lacks_settle(fs);
    if (r == -ENOSPC && fs->counters.damage) {
        fs->is_read_only = true;
        fs->awaited = lack_first(fs);
        r = 0;
    }
    return r;
}

/* A mount that has nothing to wait for, or what it waits for. */
static int co_mount_once(struct fs *fs, bool *ret_clean)
{
    int r;

    fs->is_mounting = true;
    fs->is_sealed = fs->is_read_only = fs->lacks->sealed_for != 0;
    fs->awaited = fs->lacks->sealed_for;
    r = co_mount(fs, ret_clean);
    if (lack_is_why(fs, r)) {
        lack_need(fs, false);
        if (fs->is_surveying)
            r = co_lacks_settle(fs);
    }
    fs->is_mounting = false;
    SOMETIMES_IF(r == -EAGAIN && !fs->lacks->again, "fs: a mount waits for what it needs");
    return r;
}

int co_fs_mount(struct io *io, struct vdisk *vdisk, const struct fs_mount_options *options,
                struct fs **ret_fs)
{
    cleanup(freep) struct fs_lacks *own = calloc(1, sizeof(*own));
    struct fs_lacks *lacks = options && options->lacks ? options->lacks : own;
    bool is_first = true, is_clean = false;
    int r;

    if (!lacks)
        return -ENOMEM;
    do {
        cleanup(fs_freep) struct fs *fs = NULL;

        r = fs_new(io, vdisk, options, &fs);
        if (r < 0)
            return r;
        lacks_begin(lacks, is_first);
        is_first = false;
        fs->lacks = lacks;
        r = co_mount_once(fs, &is_clean);
        fs->lacks = NULL;
        co_group_wait(&fs->background);
        if (r < 0)
            continue;
        if (!is_clean && !fs->is_read_only && !fs->counters.damage)
            (void)!co_group_spawn(&fs->background, io, "fs-trim", co_trim_groups, fs);
        *ret_fs = take_ptr(fs);
        return 0;
    } while (r == -EAGAIN && lacks->again);
    return r;
}

int co_fs_unmount(struct fs *fs)
{
    const struct list *times = &fs->inodes.times_dirty, *first;
    int r;

    fs->is_unmounting = true;
    co_group_wait(&fs->background);
    do { /* times may be left over when there are very many; or when the pool is full, for good */
        first = times->next;
        r = co_fs_checkpoint(fs);
    } while (r == 0 && !fs->is_read_only && !list_empty(times) && times->next != first);
    if (r == 0)
        r = co_checkpoint_force(fs, FS_ROOT_CLEAN);
    (void)fs_fail_with(fs, -ESTALE);
    fs_free(fs);
    return r;
}

void co_fs_abandon(struct fs *fs)
{
    if (!fs)
        return;
    fs_fail(fs);
    co_group_wait(&fs->background);
    fs_free(fs);
}

/* ---- the volume ---- */

int co_fs_grow(struct fs *fs)
{
    uint64_t total_blocks = fs->vdisk->size_bytes / BLOCK_SIZE;
    int r = fs->error;

    if (r < 0 || total_blocks <= fs->alloc.total_blocks)
        return r;
    r = alloc_grow(&fs->alloc, total_blocks);
    if (r < 0)
        return r;
    fs->alloc.reserve_blocks = reserve_blocks(fs);
    return co_fs_checkpoint(fs);
}

static uint64_t blocks_held(const struct fs *fs)
{
    uint64_t blocks = 0;

    list_for_each (entry, &fs->alloc.holds) {
        const struct alloc_hold *hold = list_entry(entry, struct alloc_hold, node);

        for (unsigned i = 0; i < hold->count; i++)
            blocks += hold->runs[i].blocks;
    }
    return blocks;
}

int co_fs_statfs(struct fs *fs, struct fs_statfs *ret_statfs)
{
    const struct alloc *alloc = &fs->alloc;
    uint64_t coming = alloc->pool_count + alloc->freed.blocks + alloc->trimming.blocks;
    uint64_t free_blocks = alloc->free_blocks + coming + blocks_held(fs);

    if (fs->error)
        return fs->error;
    *ret_statfs = (struct fs_statfs){
        .total_bytes = alloc_capacity(alloc) * BLOCK_SIZE,
        .free_bytes = free_blocks * BLOCK_SIZE,
        .available_bytes =
            (free_blocks > alloc->reserve_blocks ? free_blocks - alloc->reserve_blocks : 0) *
            BLOCK_SIZE,
        .inodes = fs->inode_count - MIN(fs->inode_count, 1u), /* .snapshots is ours */
        .orphans = fs->orphan_count,
    };
    memcpy(ret_statfs->uuid, fs->super.header.volume, sizeof(ret_statfs->uuid));
    strcpy(ret_statfs->label, fs->super.label);
    return 0;
}

const struct fs_counters *fs_counters(const struct fs *fs)
{
    return &fs->counters;
}

/* ---- trimming all that is free: runs are held while they are trimmed, so nobody can write there
 * meanwhile ---- */

int co_fs_trim_free(struct fs *fs)
{
    for (uint64_t group = 0; group < fs->alloc.group_count; group++) {
        uint64_t from = 0;

        for (;;) {
            struct alloc_hold hold;
            int r = fs->error ? fs->error : co_alloc_hold_free(fs, group, &from, &hold);

            if (r == -ENOENT || r == -EBADMSG)
                break;
            if (r < 0)
                return r;
            for (unsigned i = 0; r == 0 && i < hold.count; i++)
                r = co_disk_trim(fs, hold.runs[i].address * BLOCK_SIZE,
                                 hold.runs[i].blocks * BLOCK_SIZE, NO_CLIENT);
            alloc_release(fs, &hold);
            if (r < 0)
                return r;
        }
    }
    return 0;
}
