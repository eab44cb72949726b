/* Where the log of a capacity disk lies, and what a cache disk has for whom. Each change is one new
 * generation of the superblock: the other copy stays sound while one is written, so it is made
 * whole or not at all. */
#include "pool/disk_internal.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/planted.h"

#define CHANGING_POLL_NS MS

bool disk_uuid_equal(struct disk_uuid a, struct disk_uuid b)
{
    return memcmp(a.bytes, b.bytes, sizeof(a.bytes)) == 0;
}

bool disk_uuid_none(struct disk_uuid uuid)
{
    return disk_uuid_equal(uuid, (struct disk_uuid){{0}});
}

const struct disk_log *disk_log(const struct disk *disk)
{
    assert(disk->identity.role == DISK_CAPACITY);
    return &disk->log;
}

bool disk_log_is_own(const struct disk *disk)
{
    return disk_uuid_equal(disk->log.device, disk->identity.uuid);
}

bool disk_log_lost(const struct disk *disk)
{
    return disk->superblock->flags & SUPERBLOCK_LOG_LOST;
}

size_t disk_cache_regions(const struct disk *disk, const struct cache_region **ret_regions)
{
    *ret_regions = disk->regions;
    return disk->region_count;
}

static struct cache_region *region_of(const struct disk *cache, struct disk_uuid disk)
{
    for (size_t i = 0; i < cache->region_count; i++) {
        const struct cache_region *region = &cache->regions[i];

        if (region->kind == CACHE_REGION_LOG && disk_uuid_equal(region->disk, disk))
            return (struct cache_region *)region;
    }
    return NULL;
}

const struct cache_region *disk_cache_log_of(const struct disk *cache, struct disk_uuid disk)
{
    assert(!disk_uuid_none(disk));
    return region_of(cache, disk);
}

uint64_t disk_log_bytes(const struct disk *disk)
{
    uint64_t bytes = disk->geometry.log_bytes;

    for (size_t i = 0; i < disk->region_count; i++)
        bytes += disk->regions[i].kind == CACHE_REGION_LOG ? disk->regions[i].bytes : 0;
    return bytes;
}

unsigned disk_cache_free_logs(const struct disk *cache)
{
    unsigned count = 0;

    for (size_t i = 0; i < cache->region_count; i++)
        count +=
            cache->regions[i].kind == CACHE_REGION_LOG && disk_uuid_none(cache->regions[i].disk);
    return count;
}

/* ---- changing it ---- */

static struct disk_uuid new_uuid(struct io *io)
{
    uint64_t words[2] = {io_random(io), io_random(io)};
    struct disk_uuid uuid;

    memcpy(uuid.bytes, words, sizeof(words));
    uuid.bytes[6] = (uuid.bytes[6] & 0x0f) | 0x40; /* RFC 4122, version 4 */
    uuid.bytes[8] = (uuid.bytes[8] & 0x3f) | 0x80;
    return uuid;
}

/* Writes `next` to both copies, the best one last. In memory it counts once both are durable. */
static int co_write_both(struct disk *disk, struct superblock *next)
{
    int r;

    next->generation++;
    r = co_superblock_replace(disk->file, next, disk->first_copy);
    return r < 0 ? r : co_superblock_replace(disk->file, next, !disk->first_copy);
}

int co_disk_take_turn(struct disk *disk)
{
    int r = 0;

    while (r == 0 && disk->changing)
        r = co_sleep_ns(CHANGING_POLL_NS);
    disk->changing |= r == 0;
    return r;
}

/* In turns: a change is made of what is there now. A disk that somebody has overwritten gets no
 * superblock again, or nobody would notice that it is empty. */
static int co_change_begin(struct disk *disk, struct superblock **ret_next)
{
    cleanup(freep) struct superblock *next = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    int r = next ? co_disk_take_turn(disk) : -ENOMEM;

    if (r < 0)
        return r;
    r = PLANTED(CACHE_WIPED_REWRITTEN) ? 0 : co_disk_best_copy(disk);
    if (r < 0) {
        disk->changing = false;
        return r;
    }
    disk->first_copy = !r;
    *next = *disk->superblock;
    next->feature_incompat |= SUPERBLOCK_INCOMPAT_CACHE;
    *ret_next = take_ptr(next);
    return 0;
}

static int co_change_end(struct disk *disk, struct superblock *next)
{
    int r = co_write_both(disk, next);

    if (r == 0)
        *disk->superblock = *next;
    disk->changing = false;
    return r;
}

/* The region as it shall be. Here it is so before it is written: others look without a turn. */
static void set_region(struct disk *cache, struct superblock *next, struct cache_region *region,
                       struct disk_uuid disk, struct disk_uuid log_uuid)
{
    struct superblock_cache_region *to = &next->cache_regions[region - cache->regions];

    memcpy(to->disk, disk.bytes, sizeof(to->disk));
    memcpy(to->log_uuid, log_uuid.bytes, sizeof(to->log_uuid));
    region->disk = disk;
    region->log_uuid = log_uuid;
}

int co_disk_cache_reserve(struct disk *cache, struct disk_uuid capacity, struct disk_log *ret_log)
{
    cleanup(freep) struct superblock *next = NULL;
    struct cache_region *region;
    int r;

    assert(cache->identity.role == DISK_CACHE);
    r = co_change_begin(cache, &next);
    if (r < 0)
        return r;
    region = region_of(cache, capacity); /* chosen in its turn: nobody else chooses it too */
    if (!region)
        region = region_of(cache, (struct disk_uuid){{0}});
    if (!region) {
        cache->changing = false;
        return -ENOSPC;
    }
    set_region(cache, next, region, capacity,
               PLANTED(REBIND_OLD_LOG_BELIEVED) ? cache->identity.uuid : new_uuid(cache->io));
    *ret_log = (struct disk_log){.device = cache->identity.uuid,
                                 .uuid = region->log_uuid,
                                 .offset = region->offset,
                                 .bytes = region->bytes};
    return co_change_end(cache, next);
}

int co_disk_cache_release(struct disk *cache, struct disk_uuid capacity)
{
    static const struct disk_uuid none;
    cleanup(freep) struct superblock *next = NULL;
    struct cache_region *region;
    int r;

    if (!region_of(cache, capacity))
        return 0;
    r = co_change_begin(cache, &next);
    if (r < 0)
        return r;
    region = region_of(cache, capacity);
    if (!region) { /* somebody was quicker */
        cache->changing = false;
        return 0;
    }
    set_region(cache, next, region, none, none);
    return co_change_end(cache, next);
}

struct disk_log disk_own_log(struct disk *disk)
{
    return (struct disk_log){.device = disk->identity.uuid,
                             .uuid = new_uuid(disk->io),
                             .offset = disk->geometry.log_offset,
                             .bytes = disk->geometry.log_bytes};
}

int co_disk_set_log(struct disk *disk, const struct disk_log *log, bool lost)
{
    bool own = disk_uuid_equal(log->device, disk->identity.uuid);
    cleanup(freep) struct superblock *next = NULL;
    struct superblock_log_region *region;
    int r = co_change_begin(disk, &next);

    if (r < 0)
        return r;
    next->log_region_count = own ? 1 : 2;
    if (lost)
        next->flags |= SUPERBLOCK_LOG_LOST;
    region = &next->log_regions[next->log_region_count - 1];
    assert(!own || (log->offset == region->offset && log->bytes == region->bytes));
    memcpy(region->device, log->device.bytes, sizeof(region->device));
    memcpy(region->log_uuid, log->uuid.bytes, sizeof(region->log_uuid));
    region->offset = log->offset;
    region->bytes = log->bytes;
    region->begun = 1;
    region->anchors = 0;
    r = co_change_end(disk, next);
    return r < 0 ? r : superblock_log(disk->superblock, &disk->log);
}

int co_disk_note_anchors(struct disk *disk, uint64_t generation)
{
    cleanup(freep) struct superblock *next = NULL;
    int r = co_change_begin(disk, &next);

    if (r < 0)
        return r;
    assert(next->log_region_count == 2);
    next->log_regions[1].anchors = generation;
    r = co_change_end(disk, next);
    return r < 0 ? r : superblock_log(disk->superblock, &disk->log);
}

int co_disk_set_log_lost(struct disk *disk, bool lost)
{
    cleanup(freep) struct superblock *next = NULL;
    int r = co_change_begin(disk, &next);

    if (r < 0)
        return r;
    next->flags &= ~SUPERBLOCK_LOG_LOST;
    if (lost)
        next->flags |= SUPERBLOCK_LOG_LOST;
    return co_change_end(disk, next);
}
