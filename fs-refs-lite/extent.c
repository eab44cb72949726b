#include "fs-refs-lite/extent.h"
#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/fs_internal.h"

static struct fs_key extent_key(uint64_t ino, uint64_t file_block)
{
    return (struct fs_key){.object = ino, .kind = FS_KIND_EXTENT, .offset = file_block};
}

static bool item_is_extent_of(const struct tree_item *item, uint64_t ino)
{
    return item->key.object == ino && item->key.kind == FS_KIND_EXTENT;
}

static int extent_decode(const struct fs *fs, const struct tree_item *item,
                         struct extent *ret_extent)
{
    const struct fs_extent_item *extent = item->value;

    if (item->size != sizeof(*extent) ||
        !alloc_is_valid_run(&fs->alloc, extent->address, extent->blocks) ||
        item->key.offset > (FS_FILE_SIZE_MAX >> BLOCK_SHIFT))
        return -EBADMSG;
    *ret_extent = (struct extent){.file_block = item->key.offset,
                                  .blocks = extent->blocks,
                                  .address = extent->address,
                                  .birth = extent->birth};
    return 0;
}

static bool extent_covers(const struct extent *extent, uint64_t file_block)
{
    return file_block - extent->file_block < extent->blocks; /* wraps when it lies before */
}

/* The part of an extent from file_block on, at most `blocks`. */
static struct extent extent_cut(const struct extent *extent, uint64_t file_block, uint64_t blocks)
{
    uint64_t skip = file_block - extent->file_block;

    assert(skip < extent->blocks);
    return (struct extent){.file_block = file_block,
                           .blocks = MIN(extent->blocks - skip, blocks),
                           .address = extent->address + skip,
                           .birth = extent->birth};
}

/* The extent that covers file_block or lies before it. 0, -ENOENT, -EAGAIN, -EBADMSG */
static int extent_at_or_before(struct fs *fs, uint64_t ino, uint64_t file_block,
                               struct extent *ret_extent)
{
    struct fs_key key = extent_key(ino, file_block);
    struct tree_item item;
    int r = tree_previous(fs, FS_TREE_FILES, &key, &item);

    if (r < 0)
        return r;
    return item_is_extent_of(&item, ino) ? extent_decode(fs, &item, ret_extent) : -ENOENT;
}

/* The first extent at or behind file_block. */
static int extent_at_or_behind(struct fs *fs, uint64_t ino, uint64_t file_block,
                               struct extent *ret_extent)
{
    struct fs_key key = extent_key(ino, file_block);
    struct tree_item item;
    int r = tree_next(fs, FS_TREE_FILES, &key, &item);

    if (r < 0)
        return r;
    return item_is_extent_of(&item, ino) ? extent_decode(fs, &item, ret_extent) : -ENOENT;
}

int extent_find(struct fs_inode *inode, uint64_t file_block, uint64_t blocks,
                struct extent *ret_extent)
{
    struct fs *fs = inode->fs;
    struct extent extent;
    int r;

    if (extent_covers(&inode->last, file_block)) {
        fs->counters.extent_cache_hits++;
        *ret_extent = extent_cut(&inode->last, file_block, blocks);
        return 0;
    }
    r = extent_at_or_before(fs, inode->ino, file_block, &extent);
    if (r == 0 && extent_covers(&extent, file_block)) {
        inode->last = extent;
        *ret_extent = extent_cut(&extent, file_block, blocks);
        return 0;
    }
    if (r < 0 && r != -ENOENT)
        return r;
    r = extent_at_or_behind(fs, inode->ino, file_block, &extent);
    if (r < 0 && r != -ENOENT)
        return r;
    *ret_extent = (struct extent){.file_block = file_block, .blocks = blocks};
    if (r == 0)
        ret_extent->blocks = MIN(blocks, extent.file_block - file_block);
    return -ENOENT;
}

int extent_goal(struct fs_inode *inode, uint64_t file_block, uint64_t *ret_goal)
{
    struct extent extent;
    int r =
        file_block ? extent_at_or_before(inode->fs, inode->ino, file_block - 1, &extent) : -ENOENT;

    *ret_goal = r == 0 ? extent.address + extent.blocks : 0;
    return r == -ENOENT ? 0 : r;
}

/* ---- changes ---- */

static void extent_put(struct txn *txn, uint64_t ino, const struct extent *extent)
{
    struct fs_key key = extent_key(ino, extent->file_block);
    struct fs_extent_item item = {
        .address = extent->address, .birth = extent->birth, .blocks = extent->blocks};

    txn_put(txn, FS_TREE_FILES, &key, &item, sizeof(item));
}

/* Does `next` follow on disk and in the file, and is as young? */
static bool extent_joins(const struct extent *extent, const struct extent *next)
{
    return extent->file_block + extent->blocks == next->file_block &&
           extent->address + extent->blocks == next->address && extent->birth == next->birth;
}

int extent_map(struct fs *fs, struct txn *txn, uint64_t ino, struct fs_inode_item *item,
               uint64_t file_block, struct alloc_hold *hold)
{
    struct extent last = {0};
    int r = file_block ? extent_at_or_before(fs, ino, file_block - 1, &last) : -ENOENT;

    if (r < 0 && r != -ENOENT)
        return r;
    for (unsigned i = 0; i < hold->count; i++) {
        struct extent next = {.file_block = file_block,
                              .blocks = hold->runs[i].blocks,
                              .address = hold->runs[i].address,
                              .birth = fs->generation};

        txn_allocate(txn, next.address, next.blocks);
        file_block += next.blocks;
        item->blocks += next.blocks;
        if (last.blocks && extent_joins(&last, &next)) {
            last.blocks += next.blocks;
        } else {
            if (last.blocks && i > 0)
                extent_put(txn, ino, &last);
            last = next;
        }
    }
    extent_put(txn, ino, &last);
    txn->hold = hold;
    return 0;
}

/* Lists what remains of an extent when [from, to) goes. */
static void extent_unmap_one(struct txn *txn, uint64_t ino, struct fs_inode_item *item,
                             const struct extent *extent, uint64_t from, uint64_t to)
{
    uint64_t end = extent->file_block + extent->blocks;
    uint64_t cut_from = MAX(from, extent->file_block), cut_to = MIN(to, end);
    struct extent gone = extent_cut(extent, cut_from, cut_to - cut_from);

    txn_free(txn, gone.address, gone.blocks);
    item->blocks -= MIN(item->blocks, gone.blocks);
    if (extent->file_block < cut_from) {
        struct extent head = extent_cut(extent, extent->file_block, cut_from - extent->file_block);

        extent_put(txn, ino, &head);
    } else {
        struct fs_key key = extent_key(ino, extent->file_block);

        txn_delete(txn, FS_TREE_FILES, &key);
    }
    if (cut_to < end) {
        struct extent tail = extent_cut(extent, cut_to, end - cut_to);

        extent_put(txn, ino, &tail);
    }
}

int extent_unmap(struct fs *fs, struct txn *txn, uint64_t ino, struct fs_inode_item *item,
                 uint64_t from, uint64_t to, uint64_t *ret_next)
{
    struct extent extent;
    uint64_t at = from;
    int r = extent_at_or_before(fs, ino, from, &extent);

    if (r == -ENOENT || (r == 0 && !extent_covers(&extent, from)))
        r = extent_at_or_behind(fs, ino, from, &extent);
    for (unsigned i = 0; r == 0 && extent.file_block < to && i < EXTENTS_PER_TXN; i++) {
        if (extent.file_block + extent.blocks <= at)
            return -EBADMSG; /* extents that overlap */
        extent_unmap_one(txn, ino, item, &extent, from, to);
        at = MIN(to, extent.file_block + extent.blocks);
        r = at < to ? extent_at_or_behind(fs, ino, at, &extent) : -ENOENT;
    }
    if (r < 0 && r != -ENOENT)
        return r;
    *ret_next = r == -ENOENT || extent.file_block >= to ? to : at;
    return 0;
}
