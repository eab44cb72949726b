/* disk: one claimed device (a block device, or a file in a test cluster): who it belongs to and
 * where things are on it. Claiming refuses what somebody else may need; opening refuses what is not
 * ours and says what it is. disk_format.h draws what is on the medium. What happens inside the
 * regions is the business of others: the log and the checksums of cache-tier, the rows of
 * extent_table.h.
 *
 * One reactor. co_ calls suspend. Sizes and offsets are in bytes unless named otherwise. */
#ifndef S2D_POOL_DISK_H
#define S2D_POOL_DISK_H

#include "s2d/base/base.h"

struct io;
struct io_file;
struct disk;

enum disk_role { DISK_CAPACITY = 1, DISK_CACHE = 2 };
enum disk_media { DISK_NVME = 1, DISK_SSD = 2, DISK_HDD = 3 };
const char *disk_role_name(enum disk_role role);    /* "capacity" */
const char *disk_media_name(enum disk_media media); /* "ssd" */

struct disk_uuid {
    uint8_t bytes[16];
};
#define DISK_UUID_TEXT 37
void disk_uuid_format(struct disk_uuid uuid, char text[DISK_UUID_TEXT]);

/* A sentence for people next to an errno: what, why, what to do. Empty when there is nothing to
 * say. */
struct disk_message {
    char text[384];
};

#define DISK_EXTENT_BYTES_DEFAULT (256 * MIB)
#define DISK_EXTENT_BYTES_MIN MIB
#define DISK_EXTENT_BYTES_MAX (256 * MIB)
#define DISK_LOG_BYTES_MIN (4 * MIB) /* asked for by name (tests); what is chosen is larger */
#define DISK_LOG_BYTES_MAX (16 * GIB)
#define DISK_LOCK_WAIT_NS (10 * SEC)
#define DISK_ANSWER_WAIT_S 30 /* a device that ends no read for so long hangs */

struct disk_claim {
    struct disk_uuid cluster;
    uint64_t disk_id; /* the cluster database's number; never 0 */
    enum disk_role role;
    enum disk_media media;
    uint64_t extent_bytes; /* power of two; 0: DISK_EXTENT_BYTES_DEFAULT */
    /* Capacity: its own log; 0: a quarter of the disk, 256 MiB to 16 GiB. Cache: each of up to
     * eight logs on it; 0: a 128th of the disk, so that all are a sixteenth, but 256 MiB at least
     * (on a small disk a sixteenth) and 16 GiB at most. */
    uint64_t log_bytes;
};

/* Formats the disk. Its log region is written with zeros once (unwritten blocks of a file cost
 * double latency later); extents are left as they are: nothing of them can be read before it is
 * written. Interrupted, it can be run again. message: may be NULL. Returns
 *   0
 *   -EEXIST    it holds data of somebody else; the message names what was found
 *   -EBUSY     in use (mounted, or another process holds it)
 *   -ENOSPC    too small for the log and one extent
 *   -EALREADY  it is a disk of this cluster already, or -EPERM of another one
 *   -EINVAL    what is asked for makes no sense
 *   -EIO, -ENOENT, -ECANCELED, … as the medium says. */
must_check int co_disk_claim(struct io *io, const char *path, const struct disk_claim *claim,
                             struct disk_message *message);

/* Opens a claimed disk and holds its lock until disk_close(): the lock is taken before the first
 * read, and waited for up to DISK_LOCK_WAIT_NS (a predecessor's last writes may still land). A
 * corrupt superblock copy is written again from the other. cluster: NULL takes any. message: may be
 * NULL. Returns
 *   0
 *   -EBUSY            another process holds it, and went on holding it
 *   -ENODEV           not a disk of s2d (message: what it is instead)
 *   -EPERM            of another cluster (named)
 *   -EPROTONOSUPPORT  of an older or newer format, or with a feature that this version lacks
 *                    (named)
 *   -EBADMSG          both superblocks are corrupt, or it is shorter than it was
 *   -ETIMEDOUT        the device hangs: a read of a superblock has not come back for
 *                     DISK_ANSWER_WAIT_S. The file stays open, and locked, until it does
 *   -EIO, -ENOENT, -ECANCELED, … as the medium says. */
must_check int co_disk_open(struct io *io, const char *path, const struct disk_uuid *cluster,
                            struct disk_message *message, struct disk **ret_disk);
void disk_close(struct disk *disk); /* no operation may be pending; NULL and half-built are fine */
DEFINE_CLEANUP(struct disk, disk_close)

/* Reads the superblocks again: is this still the disk that was opened? Returns 0, -ENODEV (somebody
 * has overwritten it), -EIO, -ENOMEM, -ECANCELED. */
must_check int co_disk_look(struct disk *disk);

/* Gives the disk back: it is no disk of s2d afterwards. For retired disks. Returns 0, -EIO,
 * -ECANCELED. */
must_check int co_disk_release(struct disk *disk);

/* ---- what it is ---- */

struct disk_identity {
    struct disk_uuid cluster;
    struct disk_uuid uuid;
    uint64_t disk_id;
    enum disk_role role;
    enum disk_media media;
    bool superblock_repaired; /* a copy was corrupt at this open: a reason to distrust the medium */
};
const struct disk_identity *disk_identity(const struct disk *disk);
const char *disk_path(const struct disk *disk);
struct io *disk_io(const struct disk *disk);
struct io_file *disk_file(const struct disk *disk); /* opened O_DIRECT */

/* Where things are. All offsets are multiples of BLOCK_SIZE. Of a cache disk only size_bytes
 * counts: it has no extents, and its regions are told by disk_cache_regions(). */
struct disk_geometry {
    uint64_t size_bytes;
    uint64_t extent_bytes;
    uint32_t extent_count;
    uint32_t extent_blocks;    /* blocks of an extent */
    uint32_t pages_per_extent; /* checksum pages of an extent */
    uint64_t table_offset;     /* extent table */
    uint32_t table_blocks;
    uint64_t pages_offset; /* checksum pages: extent by extent */
    uint64_t log_offset;   /* of the log on the disk itself, idle while disk_log() is elsewhere */
    uint64_t log_bytes;
    uint64_t extents_offset;
};
const struct disk_geometry *disk_geometry(const struct disk *disk);

static inline uint64_t disk_block_offset(const struct disk_geometry *geometry, uint32_t extent,
                                         uint32_t block)
{
    return geometry->extents_offset + extent * geometry->extent_bytes +
           (uint64_t)block * BLOCK_SIZE;
}

/* Where a checksum page is, by its number on the disk: extent * pages_per_extent + index. */
static inline uint64_t disk_page_offset(const struct disk_geometry *geometry, uint64_t page)
{
    return geometry->pages_offset + page * BLOCK_SIZE;
}

/* Works out a geometry (log_uuid apart). log_bytes 0: as the default. Pure. Returns 0, -EINVAL,
 * -ENOSPC. */
must_check int disk_geometry_plan(uint64_t size_bytes, uint64_t extent_bytes, uint64_t log_bytes,
                                  struct disk_geometry *ret_geometry);

/* ---- the log, here or on a cache disk (disk_format.h) ---- */

/* Where the log of a capacity disk is. */
struct disk_log {
    struct disk_uuid device; /* uuid of the disk that it lies on */
    struct disk_uuid uuid;   /* in every header of the log: no other life of it can be mistaken */
    uint64_t offset, bytes;
    bool begun; /* it has anchors: zeros in their place are a loss, and no log as it was claimed */
    uint64_t anchors; /* their generation is this at least, or it is an old state of the log */
};
const struct disk_log *disk_log(const struct disk *disk);
bool disk_log_is_own(const struct disk *disk); /* on the disk itself */
/* The log went, and the extent table does not say so yet. */
bool disk_log_lost(const struct disk *disk);

bool disk_uuid_equal(struct disk_uuid a, struct disk_uuid b);
bool disk_uuid_none(struct disk_uuid uuid); /* all zeros */

enum cache_region_kind { CACHE_REGION_NONE, CACHE_REGION_LOG, CACHE_REGION_READ };
struct cache_region {
    enum cache_region_kind kind;
    uint64_t offset, bytes;
    struct disk_uuid disk;     /* CACHE_REGION_LOG: the capacity disk it is for; none: free */
    struct disk_uuid log_uuid; /* the log's life */
};
/* The regions of a cache disk: its logs first, then at most one CACHE_REGION_READ, which holds
 * nothing that must outlive a process. Valid until the disk is closed or changed. */
size_t disk_cache_regions(const struct disk *disk, const struct cache_region **ret_regions);
/* Of its own log, or of all the logs of a cache disk. */
uint64_t disk_log_bytes(const struct disk *disk);
/* The log region that is bound to a capacity disk, or NULL. */
const struct cache_region *disk_cache_log_of(const struct disk *cache, struct disk_uuid disk);
unsigned disk_cache_free_logs(const struct disk *cache);

/* Takes a free region of a cache disk for the log of `capacity`, with a new log UUID. It is
 * bound when co_disk_set_log() has said so on the capacity disk. Returns 0, -ENOSPC (no region is
 * free), -EIO, -ECANCELED. */
must_check int co_disk_cache_reserve(struct disk *cache, struct disk_uuid capacity,
                                     struct disk_log *ret_log);
/* Gives a region back; the capacity disk does not name it any more. Idempotent. Returns 0, -EIO,
 * -ECANCELED. */
must_check int co_disk_cache_release(struct disk *cache, struct disk_uuid capacity);

/* The log on the disk itself, with a new UUID: for co_disk_set_log(). */
struct disk_log disk_own_log(struct disk *disk);
/* From now on the disk's log is this one, whose anchors are written. lost: what the former one
 * held is gone. Durable, whole or not at all. Returns 0, -ENODEV (somebody has overwritten the
 * disk; nothing is written), -EIO, -ENOMEM, -ECANCELED. */
must_check int co_disk_set_log(struct disk *disk, const struct disk_log *log, bool lost);
/* The anchors of the disk's log, which is on a cache disk, have this generation now, durably: from
 * now on an older state of that disk is told from it. As above. */
must_check int co_disk_note_anchors(struct disk *disk, uint64_t generation);
/* Some of what the disk's log held is gone; or no longer: the extent table says what that meant.
 * As above. */
must_check int co_disk_set_log_lost(struct disk *disk, bool lost);

/* ---- looking without claiming ---- */

/* Names the owner of what lies on a device from its first MiB and its last 128 KiB: "an ext4 file
 * system", "a GPT partition table", "data of an unknown kind at byte 4096"; NULL if all of head is
 * zero and nothing is known at the tail. Pure. text: room for the answer. */
#define DISK_PROBE_HEAD MIB
#define DISK_PROBE_TAIL (128 * KIB)
const char *disk_probe_foreign(const uint8_t *head, size_t head_bytes, const uint8_t *tail,
                               size_t tail_bytes, char *text, size_t text_bytes);

#endif
