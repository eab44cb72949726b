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
                                  .birth = extent->birth,
                                  .is_shared = extent->flags & FS_EXTENT_SHARED};
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
                           .birth = extent->birth,
                           .is_shared = extent->is_shared};
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
    struct fs_extent_item item = {.address = extent->address,
                                  .birth = extent->birth,
                                  .blocks = extent->blocks,
                                  .flags = extent->is_shared ? FS_EXTENT_SHARED : 0};

    txn_put(txn, FS_TREE_FILES, &key, &item, sizeof(item));
}

/* Does `next` follow on disk and in the file, and is as young? */
static bool extent_joins(const struct extent *extent, const struct extent *next)
{
    /* Two groups never touch: a map's slots lie between them. */
    return extent->file_block + extent->blocks == next->file_block &&
           extent->address + extent->blocks == next->address && extent->birth == next->birth &&
           extent->is_shared == next->is_shared;
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

    if (gone.is_shared)
        txn_unshare(txn, gone.address, gone.blocks);
    else
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

/* How far, at most to *end, can a shared extent's blocks be given back in this operation? */
static int extent_unmap_reach(struct fs *fs, struct txn *txn, const struct extent *extent,
                              uint64_t from, uint64_t *end)
{
    uint64_t blocks;
    int r;

    if (!extent->is_shared)
        return 0;
    r = refs_reach(fs, txn, 0, extent->address + (from - extent->file_block), *end - from, &blocks);
    if (r == 0)
        *end = from + blocks;
    return r;
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
        uint64_t end = MIN(to, extent.file_block + extent.blocks);

        if (extent.file_block + extent.blocks <= at)
            return -EBADMSG; /* extents that overlap */
        r = extent_unmap_reach(fs, txn, &extent, MAX(from, extent.file_block), &end);
        if (r < 0)
            return r;
        if (end > MAX(from, extent.file_block))
            extent_unmap_one(txn, ino, item, &extent, from, end);
        at = end;
        if (end < MIN(to, extent.file_block + extent.blocks))
            break;
        r = at < to ? extent_at_or_behind(fs, ino, at, &extent) : -ENOENT;
    }
    if (r < 0 && r != -ENOENT)
        return r;
    *ret_next = r == -ENOENT || extent.file_block >= to ? to : at;
    return 0;
}

/* ---- sharing ---- */

int extent_mark_shared(struct fs *fs, struct txn *txn, uint64_t ino, uint64_t from, uint64_t to,
                       uint64_t *ret_next)
{
    struct extent extent;
    uint64_t at = from;
    unsigned marked = 0;
    int r = extent_at_or_before(fs, ino, from, &extent);

    if (r == -ENOENT || (r == 0 && !extent_covers(&extent, from)))
        r = extent_at_or_behind(fs, ino, from, &extent);
    while (r == 0 && extent.file_block < to && marked < EXTENTS_PER_TXN) {
        if (extent.file_block + extent.blocks <= at)
            return -EBADMSG;
        if (!extent.is_shared) {
            extent.is_shared = true;
            extent_put(txn, ino, &extent);
            marked++;
        }
        at = MIN(to, extent.file_block + extent.blocks);
        r = at < to ? extent_at_or_behind(fs, ino, at, &extent) : -ENOENT;
    }
    if (r < 0 && r != -ENOENT)
        return r;
    txn->is_nothing = marked == 0;
    *ret_next = r == -ENOENT || extent.file_block >= to ? to : at;
    return 0;
}

int extent_claim(struct fs *fs, struct txn *txn, uint64_t ino, uint64_t file_block)
{
    struct extent extent;
    uint64_t blocks;
    bool is_shared = false;
    int r = extent_at_or_before(fs, ino, file_block, &extent);

    if (r < 0 && r != -ENOENT)
        return r;
    txn->is_nothing = true;
    if (r == -ENOENT || !extent_covers(&extent, file_block) || !extent.is_shared)
        return 0;
    r = refs_look_up(fs, extent.address, extent.blocks, &is_shared, &blocks);
    if (r < 0 || is_shared || blocks < extent.blocks)
        return r;
    extent.is_shared = false;
    extent_put(txn, ino, &extent);
    txn->is_nothing = false;
    return 0;
}

/* The extents of [from, from + blocks) in order, holes left out, as far as one operation can share
 * them: until the budget for all but an unmapping of the same length is spent. */
struct pieces {
    unsigned count;
    struct extent extents[REF_BUDGET];
    uint64_t end; /* how far they reach */
};

static int pieces_gather(struct fs *fs, struct txn *txn, uint64_t ino, uint64_t from, uint64_t to,
                         struct pieces *pieces)
{
    pieces->count = 0;
    pieces->end = from;
    while (pieces->end < to) {
        struct extent extent;
        uint64_t at = pieces->end, blocks;
        int r = extent_at_or_before(fs, ino, at, &extent);

        if (r == -ENOENT || (r == 0 && !extent_covers(&extent, at)))
            r = extent_at_or_behind(fs, ino, at, &extent);
        if (r < 0 && r != -ENOENT)
            return r;
        if (r == -ENOENT || extent.file_block >= to) {
            pieces->end = to;
            break;
        }
        at = MAX(at, extent.file_block);
        extent = extent_cut(&extent, at, to - at);
        r = refs_reach(fs, txn, REF_BUDGET / 2, extent.address, extent.blocks, &blocks);
        if (r < 0)
            return r;
        if (blocks == 0) {
            pieces->end = at;
            break;
        }
        pieces->end = at + blocks;
        pieces->extents[pieces->count++] = extent_cut(&extent, at, blocks);
    }
    return 0;
}

int extent_share(struct fs *fs, struct txn *txn, uint64_t from_ino, uint64_t from, uint64_t to,
                 uint64_t ino, struct fs_inode_item *item, uint64_t file_block, uint64_t *ret_next)
{
    struct pieces pieces;
    struct extent last = {0};
    uint64_t reached, end;
    int r = pieces_gather(fs, txn, from_ino, from, to, &pieces);

    if (r == 0)
        r = extent_unmap(fs, txn, ino, item, file_block, file_block + (pieces.end - from),
                         &reached);
    if (r == 0 && file_block)
        r = extent_at_or_before(fs, ino, file_block - 1, &last);
    if (r < 0 && r != -ENOENT)
        return r;
    if (last.blocks) /* what lay behind file_block is unmapped by now */
        last = extent_cut(&last, last.file_block, file_block - last.file_block);
    end = from + (reached - file_block);
    for (unsigned i = 0; i < pieces.count && pieces.extents[i].file_block < end; i++) {
        struct extent next = extent_cut(&pieces.extents[i], pieces.extents[i].file_block,
                                        end - pieces.extents[i].file_block);

        txn_share(txn, next.address, next.blocks);
        fs->counters.cloned_extents++;
        item->blocks += next.blocks;
        next.file_block = file_block + (next.file_block - from);
        next.is_shared = true;
        if (last.blocks && extent_joins(&last, &next)) {
            last.blocks += next.blocks;
            next = last;
        }
        extent_put(txn, ino, &next);
        last = next;
    }
    *ret_next = end;
    return 0;
}
