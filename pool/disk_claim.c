/* Claiming: look, refuse or format. The order makes it safe to interrupt: superblock A says
 * "claiming" before anything else is written, and "ready" is said last, by B and then by A. */
#include <stdio.h>

#include "pool/disk_internal.h"
#include "pool/extent_table.h"
#include "s2d/base/io.h"

#define ZERO_PIECE MIB

static int claim_check(const struct disk_claim *claim, struct disk_message *message)
{
    static const struct disk_uuid none;

    if (claim->disk_id == 0 || memcmp(&claim->cluster, &none, sizeof(none)) == 0 ||
        (claim->role != DISK_CAPACITY && claim->role != DISK_CACHE) ||
        (claim->media != DISK_NVME && claim->media != DISK_SSD && claim->media != DISK_HDD)) {
        disk_say(message, "a disk needs a cluster, an id, a role and a media type");
        return -EINVAL;
    }
    return 0;
}

static int refuse_ours(const struct superblock *superblock, const char *path,
                       const struct disk_claim *claim, struct disk_message *message)
{
    struct disk_uuid theirs;
    char text[DISK_UUID_TEXT];

    if (memcmp(superblock->cluster, claim->cluster.bytes, sizeof(superblock->cluster)) != 0) {
        memcpy(theirs.bytes, superblock->cluster, sizeof(theirs.bytes));
        disk_uuid_format(theirs, text);
        disk_say(
            message,
            "%s belongs to another cluster (%s, disk %llu): retire it there, or wipe it if that "
            "cluster is gone",
            path, text, (unsigned long long)superblock->disk_id);
        return -EPERM;
    }
    if (superblock->state == SUPERBLOCK_READY) {
        disk_say(message, "%s is disk %llu of this cluster already", path,
                 (unsigned long long)superblock->disk_id);
        return -EALREADY;
    }
    return 0; /* an earlier claim of ours that was interrupted */
}

/* Returns 0 when the disk may be overwritten. */
static int co_claim_look(struct io_file *file, const char *path, const struct disk_claim *claim,
                         struct disk_message *message)
{
    uint64_t size_bytes = ALIGN_DOWN(io_file_info(file)->size_bytes, BLOCK_SIZE);
    cleanup(freep) uint8_t *head = aligned_alloc(BLOCK_SIZE, DISK_PROBE_HEAD + DISK_PROBE_TAIL);
    uint8_t *tail = head + DISK_PROBE_HEAD;
    const struct superblock *best;
    char text[96];
    bool repair;
    int r;

    if (!head)
        return -ENOMEM;
    if (size_bytes < DISK_PROBE_HEAD + DISK_PROBE_TAIL) {
        disk_say(message, "%s is too small (%llu bytes): use a disk of 1 GiB or more", path,
                 (unsigned long long)size_bytes);
        return -ENOSPC;
    }
    r = co_io_read(file, head, DISK_PROBE_HEAD, 0);
    if (r == 0)
        r = co_io_read(file, tail, DISK_PROBE_TAIL, size_bytes - DISK_PROBE_TAIL);
    if (r < 0) {
        disk_say(message, "%s cannot be read: %s", path, strerror(-r));
        return r;
    }

    r = superblock_choose((const struct superblock *)(head + SUPERBLOCK_A_OFFSET),
                          (const struct superblock *)(head + SUPERBLOCK_B_OFFSET), &best, &repair,
                          NULL);
    if (r == 0)
        return refuse_ours(best, path, claim, message);
    if (r != -ENODEV) {
        disk_say(
            message,
            "%s was a disk of s2d (%s): wipe its first MiB if you are sure that nobody needs it",
            path, r == -EBADMSG ? "damaged" : "of another version");
        return -EEXIST;
    }
    if (disk_probe_foreign(head, DISK_PROBE_HEAD, tail, DISK_PROBE_TAIL, text, sizeof(text))) {
        disk_say(message,
                 "%s holds %s: wipe it first (wipefs -a, or its first MiB) if nobody needs that",
                 path, text);
        return -EEXIST;
    }
    return 0;
}

static void random_uuid(struct io *io, uint8_t bytes[16])
{
    uint64_t words[2] = {io_random(io), io_random(io)};

    memcpy(bytes, words, sizeof(words));
    bytes[6] = (bytes[6] & 0x0f) | 0x40; /* RFC 4122, version 4 */
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
}

static void superblock_fill(struct io *io, const struct disk_claim *claim,
                            const struct disk_geometry *geometry, struct superblock *superblock)
{
    struct superblock_log_region *region = &superblock->log_regions[0];

    memset(superblock, 0, sizeof(*superblock));
    superblock->generation = 1;
    memcpy(superblock->cluster, claim->cluster.bytes, 16);
    random_uuid(io, superblock->disk);
    superblock->disk_id = claim->disk_id;
    superblock->state = SUPERBLOCK_CLAIMING;
    superblock->role = claim->role;
    superblock->media = claim->media;
    superblock->size_bytes = geometry->size_bytes;
    superblock->extent_bytes = geometry->extent_bytes;
    superblock->extent_count = geometry->extent_count;
    superblock->pages_per_extent = geometry->pages_per_extent;
    superblock->table_offset = geometry->table_offset;
    superblock->table_blocks = geometry->table_blocks;
    superblock->pages_offset = geometry->pages_offset;
    superblock->extents_offset = geometry->extents_offset;
    superblock->claimed_wall_ns = io_wall_ns(io);
    if (claim->role == DISK_CACHE) {
        superblock->feature_incompat = SUPERBLOCK_INCOMPAT_CACHE;
        return;
    }
    superblock->log_region_count = 1;
    memcpy(region->device, superblock->disk, 16);
    random_uuid(io, region->log_uuid);
    region->offset = geometry->log_offset;
    region->bytes = geometry->log_bytes;
}

static int co_write_table(struct io_file *file, const struct superblock *superblock,
                          const struct disk_geometry *geometry)
{
    cleanup(freep) struct extent_table_block *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    struct disk_uuid uuid;

    if (!block)
        return -ENOMEM;
    memcpy(uuid.bytes, superblock->disk, sizeof(uuid.bytes));
    for (uint32_t i = 0; i < geometry->table_blocks; i++) {
        int r;

        memset(block, 0, sizeof(*block));
        extent_table_block_finish(block, i, uuid);
        r = co_io_write(file, block, BLOCK_SIZE, geometry->table_offset + (uint64_t)i * BLOCK_SIZE,
                        0);
        if (r < 0)
            return r;
    }
    return 0;
}

static int co_zero(struct io_file *file, uint64_t offset, uint64_t bytes)
{
    cleanup(freep) uint8_t *zeros = aligned_alloc(BLOCK_SIZE, ZERO_PIECE);

    if (!zeros)
        return -ENOMEM;
    memset(zeros, 0, ZERO_PIECE);
    for (uint64_t done = 0; done < bytes; done += ZERO_PIECE) {
        uint64_t length = MIN(ZERO_PIECE, bytes - done);
        int r = co_io_write(file, zeros, length, offset + done, 0);

        if (r < 0)
            return r;
    }
    return 0;
}

/* The logs: what is read there before it is written must not be what somebody left. */
static int co_zero_logs(struct io_file *file, const struct superblock *superblock,
                        const struct disk_geometry *geometry)
{
    if (superblock->role == DISK_CAPACITY)
        return co_zero(file, geometry->log_offset, geometry->log_bytes);
    for (size_t i = 0; i < SUPERBLOCK_CACHE_REGIONS; i++) {
        const struct superblock_cache_region *region = &superblock->cache_regions[i];
        int r = region->kind == CACHE_REGION_LOG ? co_zero(file, region->offset, region->bytes) : 0;

        if (r < 0)
            return r;
    }
    return 0;
}

static int co_claim_write(struct io *io, struct io_file *file, const struct disk_claim *claim,
                          const struct disk_geometry *geometry)
{
    cleanup(freep) struct superblock *superblock = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    int r;

    if (!superblock)
        return -ENOMEM;
    superblock_fill(io, claim, geometry, superblock);
    r = claim->role == DISK_CACHE
            ? superblock_plan_cache(superblock, geometry->size_bytes, claim->log_bytes)
            : 0;
    if (r < 0)
        return r;
    r = co_superblock_write(file, superblock, 0);
    if (r < 0)
        return r;
    r = co_write_table(file, superblock, geometry);
    if (r < 0)
        return r;
    r = co_zero_logs(file, superblock, geometry);
    if (r < 0)
        return r;
    r = co_io_sync(file);
    if (r < 0)
        return r;
    superblock->state = SUPERBLOCK_READY;
    superblock->generation++;
    r = co_superblock_write(file, superblock, 1);
    if (r < 0)
        return r;
    return co_superblock_write(file, superblock, 0);
}

/* What the disk will look like; a cache disk's regions are planned into its superblock. */
static int claim_plan(const struct disk_claim *claim, uint64_t size_bytes,
                      struct disk_geometry *ret_geometry)
{
    struct superblock trial = {0};

    if (claim->role == DISK_CAPACITY)
        return disk_geometry_plan(size_bytes, claim->extent_bytes, claim->log_bytes, ret_geometry);
    *ret_geometry = (struct disk_geometry){.size_bytes = ALIGN_DOWN(size_bytes, BLOCK_SIZE)};
    return superblock_plan_cache(&trial, ret_geometry->size_bytes, claim->log_bytes);
}

int co_disk_claim(struct io *io, const char *path, const struct disk_claim *claim,
                  struct disk_message *message)
{
    cleanup(io_file_closep) struct io_file *file = NULL;
    struct disk_geometry geometry;
    int r;

    if (message)
        message->text[0] = 0;
    r = claim_check(claim, message);
    if (r < 0)
        return r;
    r = co_io_open(io, path, IO_OPEN_DIRECT | IO_OPEN_LOCK, &file);
    if (r == -EBUSY)
        disk_say(message, "%s is in use (mounted, or held by another process): free it first",
                 path);
    else if (r < 0)
        disk_say(message, "%s cannot be opened: %s", path, strerror(-r));
    if (r < 0)
        return r;
    r = co_claim_look(file, path, claim, message);
    if (r < 0)
        return r;
    r = claim_plan(claim, io_file_info(file)->size_bytes, &geometry);
    if (r == -ENOSPC)
        disk_say(message, "%s is too small (%llu bytes) for a log and one extent", path,
                 (unsigned long long)io_file_info(file)->size_bytes);
    else if (r < 0)
        disk_say(message,
                 "extents must be a power of two from 1 MiB to 256 MiB, the log 4 MiB or more");
    if (r < 0)
        return r;
    r = co_claim_write(io, file, claim, &geometry);
    if (r < 0)
        disk_say(message, "%s cannot be written: %s", path, strerror(-r));
    return r;
}
