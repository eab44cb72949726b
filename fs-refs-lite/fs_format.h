/* fs_format: what lies on the vdisk (FS_FORMAT_VERSION). Little-endian; everything is made of
 * 4 KiB blocks, and an address is a block number of the vdisk.
 *
 *   block 0           superblock, copy A                     written at format only
 *   block 1           superblock, copy B
 *   blocks 4, 5       root, even generations, two copies     one write of two blocks
 *   blocks 6, 7       root, odd generations, two copies
 *   blocks 16 …       journal: a ring of journal_blocks
 *   then              groups of fs_super.group_blocks; the last one may be shorter
 *
 * A group begins with two slots for its allocation map: a checkpoint writes the slot that the last
 * root does not use; which slot and generation count is an item of the groups tree. A group without
 * an item, or whose item names no slot, has no map: all is free but the slots.
 *
 * All else is tree nodes and file data, anywhere in the groups. A node is never overwritten while a
 * root reaches it: it is written to a new address, and so are its ancestors, and then the other
 * root. Checks on reading a block: magic, version, volume, its own address, CRC32C; a node's
 * generation, tree and level must be what its parent says.
 *
 * Trees: items sorted by (object, kind, offset):
 *   files     object = inode number. Orphans: object 0. Inode 1 is the root directory, inode 2 the
 *             directory of snapshots, which no name leads to but ".snapshots" in the root
 *   groups    object = group number, kind FS_KIND_GROUP
 *   slots     object = client session, kind FS_KIND_SLOT, offset = slot
 *   refs      object = first block of a run that more than one extent maps, kind FS_KIND_REF
 *   snapshots (to come) roots of the files tree
 *   quotas    (to come) object = quota id
 */
#ifndef S2D_FS_FS_FORMAT_H
#define S2D_FS_FS_FORMAT_H

#include "s2d/base/base.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structures are used as they lie on disk");

#define FS_FORMAT_VERSION 4

#define FS_SUPER_MAGIC 0x50557366u   /* "fsUP" */
#define FS_ROOT_MAGIC 0x54527366u    /* "fsRT" */
#define FS_NODE_MAGIC 0x444e7366u    /* "fsND" */
#define FS_BITMAP_MAGIC 0x4d427366u  /* "fsBM" */
#define FS_JOURNAL_MAGIC 0x4c4a7366u /* "fsJL" */

#define FS_SUPER_BLOCK 0
#define FS_SUPER_COPIES 2
#define FS_ROOT_BLOCK(generation) (4 + ((generation)&1) * 2)
#define FS_ROOT_COPIES 2
#define FS_JOURNAL_BLOCK 16
#define FS_JOURNAL_BYTES_MIN (256 * KIB)
#define FS_JOURNAL_BYTES_MAX (64 * MIB)

/* What every metadata block begins with. crc: CRC32C of the block from `volume` to its end. */
struct fs_block_header {
    uint32_t magic;
    uint32_t crc;
    uint8_t volume[16];
    uint64_t address;
    uint64_t generation; /* of the checkpoint that wrote it */
    uint16_t version;
    uint8_t reserved[6];
};
static_assert(sizeof(struct fs_block_header) == 48, "fs_block_header");

/* Feature bits. compatible: ignore what is unknown; read_only: mount read-only; incompatible:
 * refuse. */
enum fs_features_incompatible {
    FS_FEATURE_REFS = BIT(0),      /* reserved: all volumes may share extents */
    FS_FEATURE_SNAPSHOTS = BIT(1), /* reserved: roots of older files trees */
};
#define FS_FEATURES_KNOWN 0u

struct fs_super {
    struct fs_block_header header;
    uint64_t features_compatible;
    uint64_t features_read_only;
    uint64_t features_incompatible;
    uint64_t hash_seed; /* of directory names, secret enough that nobody can make names collide */
    uint64_t created_ns;
    uint64_t journal_blocks;
    uint64_t first_group_block;
    uint32_t group_blocks;
    uint32_t block_size;
    char label[64];
    uint8_t reserved[BLOCK_SIZE - 176];
};
static_assert(sizeof(struct fs_super) == BLOCK_SIZE, "fs_super");

enum fs_tree_id {
    FS_TREE_FILES,
    FS_TREE_GROUPS,
    FS_TREE_SLOTS,
    FS_TREE_REFS,
    FS_TREE_SNAPSHOTS,
    FS_TREE_QUOTAS,
    FS_TREES = 8,
};
#define FS_TREES_USED 4

struct fs_tree_root {
    uint64_t address; /* 0: the tree is empty */
    uint64_t generation;
    uint64_t nodes;
    uint8_t level; /* of the root node; 0: it is a leaf */
    uint8_t reserved[7];
};
static_assert(sizeof(struct fs_tree_root) == 32, "fs_tree_root");

enum fs_root_flags {
    FS_ROOT_CLEAN = BIT(0), /* written by an unmount: the journal is empty */
};

/* No volume counts so far in its life: a root that says so is damaged. What a journal claims stays
 * below half of it, so that a root still has room for what follows. */
#define FS_COUNTER_MAX (UINT64_MAX / 2)

struct fs_root {
    struct fs_block_header header; /* generation: counts roots */
    uint64_t epoch;                /* counts mounts; batches of another epoch are not replayed */
    uint64_t crashes; /* mounts that found no clean root; part of every change counter */
    uint64_t total_blocks;
    uint64_t free_blocks;
    uint64_t inodes;
    uint64_t orphans;
    uint64_t next_ino;
    uint64_t journal_at;       /* block in the ring where replay starts */
    uint64_t journal_sequence; /* of the batch expected there */
    uint64_t next_lsn;         /* never 0 */
    uint64_t data_cursor;      /* where the allocator goes on looking */
    uint64_t metadata_cursor;
    uint32_t flags;
    uint32_t reserved0;
    struct fs_tree_root trees[FS_TREES];
    uint8_t reserved[BLOCK_SIZE - 408];
};
static_assert(sizeof(struct fs_root) == BLOCK_SIZE, "fs_root");

/* ---- allocation maps ---- */

#define FS_BITMAP_BYTES 4032
#define FS_GROUP_BLOCKS (FS_BITMAP_BYTES * 8) /* at most, and mostly: 32256 blocks, 126 MiB */
#define FS_GROUP_BLOCKS_LEAST 512
#define FS_GROUP_SLOTS 2
#define FS_GROUP_NO_MAP FS_GROUP_SLOTS /* in place of the slot: nothing is used in the group */
#define FS_GROUP_BLOCKS_MIN 64         /* a shorter last group is not used */

static inline bool fs_group_blocks_are_valid(uint32_t blocks)
{
    return blocks >= FS_GROUP_BLOCKS_LEAST && blocks <= FS_GROUP_BLOCKS && blocks % 64 == 0;
}

struct fs_bitmap {
    struct fs_block_header header;
    uint64_t group;
    uint32_t free_blocks;
    uint32_t reserved;
    uint64_t used[FS_BITMAP_BYTES / 8]; /* bit set: not free */
};
static_assert(sizeof(struct fs_bitmap) == BLOCK_SIZE, "fs_bitmap");

struct fs_group_item {
    uint64_t generation; /* of the map that counts */
    uint32_t free_blocks;
    uint8_t slot;
    uint8_t reserved[3];
};
static_assert(sizeof(struct fs_group_item) == 16, "fs_group_item");

/* ---- tree nodes: items from the front, values from the back ---- */

struct fs_key {
    uint64_t object;
    uint64_t offset;
    uint8_t kind;
};

struct fs_item {
    uint64_t object;
    uint64_t offset;
    uint8_t kind;
    uint8_t reserved0;
    uint16_t value_at; /* bytes from the start of the node */
    uint16_t value_size;
    uint16_t reserved1;
};
static_assert(sizeof(struct fs_item) == 24, "fs_item");

struct fs_node {
    struct fs_block_header header;
    uint8_t tree;
    uint8_t level; /* 0: leaf */
    uint16_t count;
    uint16_t values_at; /* lowest value_at in use, or BLOCK_SIZE */
    uint8_t reserved[10];
    struct fs_item items[];
};
static_assert(sizeof(struct fs_node) == 64, "fs_node");
#define FS_NODE_ROOM (BLOCK_SIZE - sizeof(struct fs_node))
#define FS_VALUE_MAX 960 /* so that either half of a split node has room for one more */
#define FS_LEVEL_MAX 10

/* Value of an item in an inner node; its key is the lower bound of what lies below. */
struct fs_child {
    uint64_t address;
    uint64_t generation;
};

/* ---- items of the files tree ---- */

enum fs_kind {
    FS_KIND_CHILD =
        0, /* keys in inner nodes carry the kind of their bound; this is the lowest one */
    FS_KIND_INODE = 1,   /* offset 0 */
    FS_KIND_XATTR = 2,   /* offset: as of names. To come */
    FS_KIND_SYMLINK = 3, /* offset: of this piece of the target, in bytes */
    FS_KIND_NAME =
        4, /* offset: cookie: 55 bits of hash, then 8 bits that tell equal hashes apart */
    FS_KIND_EXTENT = 5, /* offset: block of the file */
    FS_KIND_ORPHAN = 6, /* object 0, offset: inode number; no value */
    FS_KIND_GROUP = 7,
    FS_KIND_SLOT = 8,
    FS_KIND_REF = 9,
};

enum fs_inode_flags {
    FS_INODE_TRUNCATING = BIT(0), /* what lies beyond the size is being freed: finish before use */
    FS_INODE_READ_ONLY = BIT(1),  /* part of a snapshot */
};

struct fs_inode_item {
    uint64_t generation; /* the lsn that made it */
    uint64_t size;
    uint64_t blocks; /* allocated */
    uint64_t change;
    uint64_t parent;  /* of a directory */
    uint64_t entries; /* of a directory, "." and ".." apart */
    int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
    uint32_t mode;
    uint32_t nlink;
    uint32_t uid, gid;
    uint32_t rdev;
    uint32_t flags;
    uint64_t quota;  /* to come: the directory quota it is counted in; 0: none */
    uint64_t origin; /* in a snapshot: the inode that the whole snapshot was taken of */
    uint8_t reserved[8];
};
static_assert(sizeof(struct fs_inode_item) == 128, "fs_inode_item");

struct fs_name_item {
    uint64_t ino;
    uint32_t type; /* S_IFMT bits */
    uint8_t length;
    char name[]; /* not 0-terminated */
} __attribute__((packed));
static_assert(sizeof(struct fs_name_item) == 13, "fs_name_item");

/* Names: cookies 1 and 2 are "." and ".."; below FS_COOKIE_MIN none else. */
#define FS_COOKIE_MIN 256
#define FS_COOKIE_VARIANTS 256

enum fs_extent_flags {
    FS_EXTENT_SHARED = BIT(0), /* perhaps: look in the refs tree before writing in place */
};

struct fs_extent_item {
    uint64_t address;
    uint64_t birth;  /* generation of the checkpoint that it first belongs to (delta query) */
    uint32_t blocks; /* no limit but the group's size */
    uint32_t flags;
};
static_assert(sizeof(struct fs_extent_item) == 24, "fs_extent_item");

/* ---- items of the slots tree ---- */

struct fs_slot_item {
    uint64_t lsn; /* of the operation: also when the session was last heard of */
    uint64_t ino; /* what the operation made, or 0 */
    uint32_t sequence;
    uint32_t reserved;
};
static_assert(sizeof(struct fs_slot_item) == 24, "fs_slot_item");

/* ---- items of the refs tree: runs that two or more extents map, all of which carry
 * FS_EXTENT_SHARED. They do not overlap, and none crosses from one group into the next ---- */

struct fs_ref_item {
    uint64_t count; /* 2 or more */
    uint64_t blocks;
};
static_assert(sizeof(struct fs_ref_item) == 16, "fs_ref_item");

/* ---- journal: a batch is one write (two where the ring wraps) of whole blocks. Only one is in
 * flight, so a batch that follows a bad one proves that the bad one had been acknowledged ---- */

struct fs_journal_batch {
    uint32_t magic;
    uint32_t crc; /* CRC32C from `volume` to the end of the last record */
    uint8_t volume[16];
    uint64_t epoch;
    uint64_t sequence;
    uint32_t length; /* bytes with this header, without padding */
    uint16_t version;
    uint16_t records;
    uint8_t reserved[16];
};
static_assert(sizeof(struct fs_journal_batch) == 64, "fs_journal_batch");
#define FS_JOURNAL_BATCH_MAX (128 * KIB)

/* One operation: what it changes in the trees, absolutely, so that replay may repeat. */
struct fs_journal_record {
    uint64_t lsn;
    uint32_t length; /* with this header, a multiple of 8 */
    uint32_t entries;
};
static_assert(sizeof(struct fs_journal_record) == 16, "fs_journal_record");
#define FS_JOURNAL_RECORD_MAX (32 * KIB)

enum fs_journal_action {
    FS_JOURNAL_PUT = 1,
    FS_JOURNAL_DELETE,
    FS_JOURNAL_ALLOCATE, /* object: first block, offset: blocks, which this operation took */
    FS_JOURNAL_FREE,     /* the same, gave back */
};

struct fs_journal_entry {
    uint64_t object;
    uint64_t offset;
    uint8_t action;
    uint8_t tree;
    uint8_t kind;
    uint8_t reserved0;
    uint16_t value_size; /* the value follows, padded to 8 */
    uint16_t reserved1;
};
static_assert(sizeof(struct fs_journal_entry) == 24, "fs_journal_entry");

#endif
