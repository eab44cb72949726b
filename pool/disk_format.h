/* disk_format: what is on a disk, byte by byte; disk.h has the words.
 *
 *   0          superblock A              4 KiB
 *   512 KiB    superblock B              4 KiB, the same contents
 *   1 MiB      extent table              a block to each 63 extents
 *              checksum pages            pages_per_extent blocks to each extent
 *   (1 MiB)    log region                anchors and ring: cache-tier/log_format.h
 *   (1 MiB)    extents                   extent_count * extent_bytes
 *
 * A cache disk has no table, pages or extents: behind 1 MiB lie its regions, which
 * superblock.cache_regions describes: logs, each for one capacity disk of the same node, and read
 * cache.
 *
 * Where the log of a capacity disk is: log_regions[0] is the one on the disk itself, always there.
 * With log_region_count 2 it lies idle, and log_regions[1] is the log: a region of a cache disk,
 * whose own superblock names this disk and the same log UUID. The capacity disk decides: a cache
 * region that its capacity disk does not name is free, whatever it says; a log_regions[1] that the
 * cache disk does not name is a lost log, and so is one with older anchors than were seen (a cache
 * disk that shows an old state of itself). So a binding is made on the cache disk first, and undone
 * on the capacity disk first, and what a crash leaves half-made is told and finished at the next
 * open. A log begins a new life with a new UUID and anchors that bear it: what an older life left
 * in the region is never taken for it.
 *
 * Everything is little-endian and aligned to 4 KiB; each structure has a magic, a version, its own
 * place (so that a misdirected write is seen) and a CRC32C, computed with the crc field as 0 over
 * the whole block. Which pages of an extent were ever written is a bit each in its row of the
 * table: a page whose bit is clear is all "unwritten", so an extent is initialised, or trimmed as a
 * whole, without touching its pages, and a page whose bit is set must be there, in the row's
 * generation, or it is corrupt. */
#ifndef S2D_POOL_DISK_FORMAT_H
#define S2D_POOL_DISK_FORMAT_H

#include "s2d/base/base.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the formats are read and written in place");

#define DISK_FORMAT_VERSION 1

/* ---- superblock ---- */

#define SUPERBLOCK_MAGIC "s2d disk" /* 8 bytes, no 0 */
#define SUPERBLOCK_A_OFFSET 0
#define SUPERBLOCK_B_OFFSET (512 * KIB)
#define DISK_TABLE_OFFSET MIB
#define SUPERBLOCK_LOG_REGIONS 8

enum superblock_state {
    SUPERBLOCK_CLAIMING = 1, /* formatting began; nothing of it may be used */
    SUPERBLOCK_READY = 2,
};

/* Feature bits. Unknown compat: ignored; unknown ro_compat: may be read, not written (we refuse);
 * unknown incompat: refused. */
#define SUPERBLOCK_INCOMPAT_CACHE BIT(0) /* a cache disk, or one that has been bound to one */
#define SUPERBLOCK_RO_COMPAT_KNOWN 0ull
#define SUPERBLOCK_INCOMPAT_KNOWN SUPERBLOCK_INCOMPAT_CACHE

struct superblock_log_region {
    uint8_t device[16]; /* uuid of the disk that it is on: this one, or the cache disk */
    uint8_t log_uuid[16];
    uint64_t offset;
    uint64_t bytes;
    uint64_t begun;   /* its anchors were written before it was named here; 0: as claimed, zeros */
    uint64_t anchors; /* on a cache disk: the generation that its anchors have reached at least */
};
static_assert(sizeof(struct superblock_log_region) == 64, "on disk");

enum superblock_flags {
    /* The log went, with records that were acknowledged: what lies here may be old. Set before the
     * new log is begun, and gone when the extent table says for each extent what that means. */
    SUPERBLOCK_LOG_LOST = BIT(0),
};

#define SUPERBLOCK_CACHE_REGIONS 32
#define CACHE_LOG_REGIONS 8 /* that a claim makes, or fewer on a small disk */
struct superblock_cache_region {
    uint32_t kind; /* enum cache_region_kind of disk.h; 0: none */
    uint32_t reserved0;
    uint64_t offset;
    uint64_t bytes;
    uint8_t disk[16]; /* a log's: of the capacity disk that it is bound to; zeros: free */
    uint8_t log_uuid[16];
    uint64_t reserved;
};
static_assert(sizeof(struct superblock_cache_region) == 64, "on disk");

struct superblock {
    uint8_t magic[8];
    uint32_t version;
    uint32_t crc;
    uint64_t generation; /* the copy with the higher one is the newer */
    uint8_t cluster[16];
    uint8_t disk[16];
    uint64_t disk_id;
    uint32_t state; /* enum superblock_state */
    uint32_t role;
    uint32_t media;
    uint32_t copy; /* 0: A, 1: B */
    uint64_t feature_compat, feature_ro_compat, feature_incompat;
    uint64_t size_bytes, extent_bytes;
    uint32_t extent_count, pages_per_extent;
    uint64_t table_offset, table_blocks;
    uint64_t pages_offset, extents_offset;
    uint64_t claimed_wall_ns;  /* for people */
    uint32_t log_region_count; /* 1 or 2; of a cache disk 0 */
    uint32_t flags;            /* enum superblock_flags */
    struct superblock_log_region log_regions[SUPERBLOCK_LOG_REGIONS];
    struct superblock_cache_region cache_regions[SUPERBLOCK_CACHE_REGIONS];
    uint8_t reserved[BLOCK_SIZE - 688 - 64 * SUPERBLOCK_CACHE_REGIONS];
};
static_assert(sizeof(struct superblock) == BLOCK_SIZE, "on disk");

/* ---- extent table ---- */

#define EXTENT_PAGES_MAX 192 /* bits in a row; 256 MiB need 131 */

enum extent_flags {
    EXTENT_USED = BIT(0),    /* belongs to (vdisk, slab, column); clear: free since `generation` */
    EXTENT_DAMAGED = BIT(1), /* may lack records that were acknowledged: its column is stale, and
                                every block of it is to be compared */
    EXTENT_LOST = BIT(2), /* its row was lost with its table block: nothing here may be believed */
    EXTENT_ADOPTED =
        BIT(3), /* was lost, and took the generation that a caller named: a newer one shows that
                   the caller was behind, so its pages are then judged anew, not emptied */
};

struct extent_row {
    uint64_t vdisk;
    uint64_t generation; /* 0: never used */
    uint32_t slab;
    uint16_t column;
    uint16_t flags;
    uint64_t clear_epoch; /* stamp of the pages whose bit is clear: when they were last emptied */
    uint64_t pages[EXTENT_PAGES_MAX / 64];
    uint64_t reserved;
};
static_assert(sizeof(struct extent_row) == 64, "on disk");

#define EXTENT_TABLE_MAGIC 0x7478655f64327331ull
#define EXTENT_TABLE_ROWS 63
struct extent_table_block {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;
    uint64_t index; /* of this block in the table */
    uint8_t disk[16];
    uint64_t reserved[3];
    struct extent_row rows[EXTENT_TABLE_ROWS];
};
static_assert(sizeof(struct extent_table_block) == BLOCK_SIZE, "on disk");

/* ---- checksum pages ---- */

#define CHECKSUM_PAGE_MAGIC 0x65676170
#define CHECKSUM_PAGE_ENTRIES 504
/* An entry that stands for a block whose checksum was lost with its page: it reads as -EBADMSG
 * until it is written again. A block that truly has this checksum (one in 2^64) is repaired for
 * nothing. */
#define CHECKSUM_LOST UINT64_MAX

struct checksum_page {
    uint32_t magic;
    uint16_t version;
    uint16_t reserved0;
    uint64_t number; /* extent * pages_per_extent + index */
    uint64_t generation;
    uint64_t epoch;        /* stamp: of the message that told of the latest commit in it */
    uint64_t log_sequence; /* of the log's batch that was newest when it was written */
    uint64_t reserved[2];
    uint32_t reserved1;
    uint32_t crc;
    uint64_t sums[CHECKSUM_PAGE_ENTRIES]; /* 0: unwritten */
};
static_assert(sizeof(struct checksum_page) == BLOCK_SIZE, "on disk");
static_assert(offsetof(struct checksum_page, sums) == 64, "on disk");

#endif
