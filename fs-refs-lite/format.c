/* Making a volume: superblocks last, so that a format that was cut off leaves none. */
#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/fs_internal.h"
#include "s2d/base/checksum.h"

#define JOURNAL_SHARE 64 /* of the volume, when not told */
/* A thin vdisk finds room when a slab is first written: the journal's is found now, not when it is
 * full. */
#define TOUCH_BYTES (1 * MIB)

struct format {
    struct io *io;
    struct vdisk *vdisk;
    struct fs_super super;
    struct fs_root root;
    char *block; /* BLOCK_SIZE, aligned */
};

static int co_block_write(struct format *format, const void *data, uint64_t block)
{
    memcpy(format->block, data, BLOCK_SIZE);
    return co_vdisk_write(format->vdisk, format->block, block * BLOCK_SIZE, BLOCK_SIZE, NO_CLIENT);
}

static uint64_t journal_bytes(const struct fs_format_options *options, uint64_t size_bytes)
{
    uint64_t bytes = options->journal_bytes;

    if (bytes == 0)
        bytes = MIN(MAX(size_bytes / JOURNAL_SHARE, 1 * MIB), FS_JOURNAL_BYTES_MAX);
    return ALIGN_DOWN(bytes, BLOCK_SIZE);
}

static int format_super(struct format *format, const struct fs_format_options *options)
{
    static const uint8_t zeros[16];
    struct fs_super *super = &format->super;
    uint64_t bytes = journal_bytes(options, format->vdisk->size_bytes);
    uint32_t group_blocks = options->group_blocks ? options->group_blocks : FS_GROUP_BLOCKS;

    if (format->vdisk->size_bytes < FS_VOLUME_BYTES_MIN || bytes < FS_JOURNAL_BYTES_MIN ||
        bytes > FS_JOURNAL_BYTES_MAX || bytes > format->vdisk->size_bytes / 4 ||
        !fs_group_blocks_are_valid(group_blocks) ||
        !memchr(options->label, 0, sizeof(options->label)))
        return -EINVAL;
    *super = (struct fs_super){.hash_seed = io_random(format->io),
                               .created_ns = io_wall_ns(format->io),
                               .journal_blocks = bytes / BLOCK_SIZE,
                               .first_group_block = FS_JOURNAL_BLOCK + bytes / BLOCK_SIZE,
                               .group_blocks = group_blocks,
                               .block_size = BLOCK_SIZE};
    memcpy(super->header.volume, options->uuid, sizeof(zeros));
    if (memcmp(options->uuid, zeros, sizeof(zeros)) == 0) {
        uint64_t random[2] = {io_random(format->io), io_random(format->io)};

        memcpy(super->header.volume, random, sizeof(random));
    }
    strcpy(super->label, options->label);
    return 0;
}

/* The old volume, if there was one, must not come back when we are cut off. */
static int co_format_erase(struct format *format)
{
    uint64_t journal_end = FS_JOURNAL_BLOCK + format->super.journal_blocks;
    int r;

    r = co_vdisk_trim(format->vdisk, 0, format->vdisk->size_bytes, NO_CLIENT);
    if (r < 0)
        return r;
    memset(format->block, 0, BLOCK_SIZE);
    for (uint64_t block = 0; r == 0 && block < journal_end; block += TOUCH_BYTES / BLOCK_SIZE)
        r = co_vdisk_write(format->vdisk, format->block, block * BLOCK_SIZE, BLOCK_SIZE, NO_CLIENT);
    return r;
}

static void format_inode(struct fs_node *node, uint64_t ino, const struct fs_inode_item *inode)
{
    node->values_at -= sizeof(*inode);
    node->items[node->count++] = (struct fs_item){.object = ino,
                                                  .kind = FS_KIND_INODE,
                                                  .value_at = node->values_at,
                                                  .value_size = sizeof(*inode)};
    memcpy((char *)node + node->values_at, inode, sizeof(*inode));
}

/* A leaf with the root directory and that of snapshots, at the first block behind the slots of
 * group 0, and the map that shows it. */
static int co_format_tree(struct format *format, const struct fs_format_options *options)
{
    const uint8_t *volume = format->super.header.volume;
    uint64_t first = format->super.first_group_block, address = first + FS_GROUP_SLOTS;
    int64_t now_ns = (int64_t)format->super.created_ns;
    struct fs_inode_item inode = {.generation = 1,
                                  .atime_ns = now_ns,
                                  .mtime_ns = now_ns,
                                  .ctime_ns = now_ns,
                                  .btime_ns = now_ns,
                                  .parent = FS_ROOT_INO,
                                  .mode = S_IFDIR | (options->mode ? options->mode & 07777 : 0755),
                                  .nlink = 2,
                                  .uid = options->uid,
                                  .gid = options->gid};
    struct fs_inode_item snapshots = inode;
    struct fs_node *node = (struct fs_node *)format->block;

    memset(node, 0, BLOCK_SIZE);
    *node = (struct fs_node){.tree = FS_TREE_FILES, .values_at = BLOCK_SIZE};
    snapshots.mode = S_IFDIR | 0755;
    snapshots.flags = FS_INODE_READ_ONLY;
    format_inode(node, FS_ROOT_INO, &inode);
    format_inode(node, FS_SNAPSHOTS_INO, &snapshots);
    block_seal(node, FS_NODE_MAGIC, volume, address, 1);
    format->root.trees[FS_TREE_FILES] =
        (struct fs_tree_root){.address = address, .generation = 1, .nodes = 1};
    return co_vdisk_write(format->vdisk, node, address * BLOCK_SIZE, BLOCK_SIZE, NO_CLIENT);
}

/* The groups tree: one leaf with group 0, behind the files' leaf; and its map. */
static int co_format_groups(struct format *format)
{
    const uint8_t *volume = format->super.header.volume;
    uint64_t first = format->super.first_group_block, address = first + FS_GROUP_SLOTS + 1;
    uint64_t blocks = MIN((uint64_t)format->super.group_blocks, format->root.total_blocks - first);
    struct fs_group_item item = {.generation = 1, .free_blocks = blocks - FS_GROUP_SLOTS - 2};
    struct fs_node *node = (struct fs_node *)format->block;
    struct fs_bitmap *map = (struct fs_bitmap *)format->block;
    int r;

    memset(node, 0, BLOCK_SIZE);
    *node = (struct fs_node){
        .tree = FS_TREE_GROUPS, .count = 1, .values_at = BLOCK_SIZE - sizeof(item)};
    node->items[0] = (struct fs_item){
        .kind = FS_KIND_GROUP, .value_at = node->values_at, .value_size = sizeof(item)};
    memcpy(format->block + node->values_at, &item, sizeof(item));
    block_seal(node, FS_NODE_MAGIC, volume, address, 1);
    format->root.trees[FS_TREE_GROUPS] =
        (struct fs_tree_root){.address = address, .generation = 1, .nodes = 1};
    r = co_vdisk_write(format->vdisk, node, address * BLOCK_SIZE, BLOCK_SIZE, NO_CLIENT);
    if (r < 0)
        return r;

    memset(map, 0, BLOCK_SIZE);
    map->free_blocks = item.free_blocks;
    map->used[0] = 0xf; /* slots and both leaves */
    block_seal(map, FS_BITMAP_MAGIC, volume, first, 1);
    return co_vdisk_write(format->vdisk, map, first * BLOCK_SIZE, BLOCK_SIZE, NO_CLIENT);
}

static void format_root(struct format *format)
{
    struct alloc geometry = {0};

    format->root = (struct fs_root){.total_blocks = format->vdisk->size_bytes / BLOCK_SIZE,
                                    .inodes = 2,
                                    .next_ino = FS_SNAPSHOTS_INO + 1,
                                    .journal_sequence = 1,
                                    .next_lsn = 2,
                                    .flags = FS_ROOT_CLEAN};
    alloc_geometry(&geometry, &format->super, format->root.total_blocks);
    format->root.free_blocks = alloc_capacity(&geometry) - 2;
}

/* Both slots get a root, so that later a slot without one always tells of damage. */
static int co_format_roots(struct format *format)
{
    int r = 0;

    for (uint64_t generation = 1; r == 0 && generation <= 2; generation++) {
        for (unsigned copy = 0; r == 0 && copy < FS_ROOT_COPIES; copy++) {
            uint64_t block = FS_ROOT_BLOCK(generation) + copy;

            block_seal(&format->root, FS_ROOT_MAGIC, format->super.header.volume, block,
                       generation);
            r = co_block_write(format, &format->root, block);
        }
    }
    return r;
}

static int co_format_supers(struct format *format)
{
    int r = 0;

    for (uint64_t copy = 0; r == 0 && copy < FS_SUPER_COPIES; copy++) {
        block_seal(&format->super, FS_SUPER_MAGIC, format->super.header.volume,
                   FS_SUPER_BLOCK + copy, 1);
        r = co_block_write(format, &format->super, FS_SUPER_BLOCK + copy);
    }
    return r;
}

int co_fs_format(struct io *io, struct vdisk *vdisk, const struct fs_format_options *options)
{
    static const struct fs_format_options none;
    cleanup(freep) struct format *format = calloc(1, sizeof(*format));
    cleanup(freep) char *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    int r;

    if (!format || !block)
        return -ENOMEM;
    if (!options)
        options = &none;
    format->io = io;
    format->vdisk = vdisk;
    format->block = block;
    r = format_super(format, options);
    if (r < 0)
        return r;
    r = co_format_erase(format);
    if (r < 0)
        return r;
    format_root(format);
    r = co_format_tree(format, options);
    if (r == 0)
        r = co_format_groups(format);
    if (r == 0)
        r = co_format_roots(format);
    return r == 0 ? co_format_supers(format) : r;
}
