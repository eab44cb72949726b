#include <stdarg.h>
#include <stdio.h>

#include "pool/superblock.h"
#include "s2d/base/checksum.h"

void disk_say(struct disk_message *message, const char *format, ...)
{
    va_list args;

    if (!message)
        return;
    va_start(args, format);
    vsnprintf(message->text, sizeof(message->text), format, args);
    va_end(args);
}

static uint32_t superblock_crc(const struct superblock *superblock)
{
    size_t before = offsetof(struct superblock, crc);
    size_t after = before + sizeof(superblock->crc);
    static const uint32_t zero;
    uint32_t crc = crc32c(superblock, before);

    crc = crc32c_more(crc, &zero, sizeof(zero));
    return crc32c_more(crc, (const char *)superblock + after, sizeof(*superblock) - after);
}

void superblock_finish(struct superblock *superblock, unsigned copy)
{
    memcpy(superblock->magic, SUPERBLOCK_MAGIC, sizeof(superblock->magic));
    superblock->version = DISK_FORMAT_VERSION;
    superblock->copy = copy;
    superblock->crc = superblock_crc(superblock);
}

int superblock_check(const struct superblock *superblock, unsigned copy,
                     struct disk_message *message)
{
    if (memcmp(superblock->magic, SUPERBLOCK_MAGIC, sizeof(superblock->magic)) != 0)
        return -ENODEV;
    if (superblock->version != DISK_FORMAT_VERSION) {
        disk_say(
            message,
            "its format is version %u and this program knows version %u: use %s version of s2d",
            superblock->version, DISK_FORMAT_VERSION,
            superblock->version > DISK_FORMAT_VERSION ? "a newer" : "an older");
        return -EPROTONOSUPPORT;
    }
    if (superblock->crc != superblock_crc(superblock) || superblock->copy != copy)
        return -EBADMSG;
    if (superblock->feature_incompat & ~SUPERBLOCK_INCOMPAT_KNOWN ||
        superblock->feature_ro_compat & ~SUPERBLOCK_RO_COMPAT_KNOWN) {
        disk_say(message,
                 "it uses features this program does not know (incompat %#llx, ro-compat %#llx): "
                 "use a newer version of s2d",
                 (unsigned long long)superblock->feature_incompat,
                 (unsigned long long)superblock->feature_ro_compat);
        return -EPROTONOSUPPORT;
    }
    return 0;
}

int superblock_choose(const struct superblock *a, const struct superblock *b,
                      const struct superblock **ret_best, bool *ret_repair,
                      struct disk_message *message)
{
    int of_a = superblock_check(a, 0, message), of_b = superblock_check(b, 1, message);

    if (of_a == 0 && of_b == 0) {
        *ret_best = b->generation > a->generation ? b : a;
        *ret_repair = a->generation != b->generation;
        return 0;
    }
    if (of_a == 0 || of_b == 0) {
        *ret_best = of_a == 0 ? a : b;
        *ret_repair = true;
        return 0;
    }
    if (of_a == -EPROTONOSUPPORT || of_b == -EPROTONOSUPPORT)
        return -EPROTONOSUPPORT;
    if (of_a == -EBADMSG || of_b == -EBADMSG) {
        disk_say(message, "both copies of its superblock are damaged: replace the disk, or claim "
                          "it anew after wiping it; its columns will be rebuilt");
        return -EBADMSG;
    }
    return -ENODEV;
}

/* The regions follow each other without overlap and end within the disk. */
static bool geometry_holds(const struct disk_geometry *geometry)
{
    uint64_t pages = (uint64_t)geometry->extent_count * geometry->pages_per_extent;
    uint64_t table_end = geometry->table_offset + (uint64_t)geometry->table_blocks * BLOCK_SIZE;
    uint64_t pages_end = geometry->pages_offset + pages * BLOCK_SIZE;
    uint64_t log_end = geometry->log_offset + geometry->log_bytes;

    return geometry->table_offset == DISK_TABLE_OFFSET && geometry->pages_offset >= table_end &&
           geometry->log_offset >= pages_end && geometry->log_bytes >= DISK_LOG_BYTES_MIN &&
           geometry->extents_offset >= log_end &&
           (geometry->size_bytes - geometry->extents_offset) / geometry->extent_bytes >=
               geometry->extent_count &&
           geometry->extents_offset < geometry->size_bytes &&
           (uint64_t)geometry->table_blocks * EXTENT_TABLE_ROWS >= geometry->extent_count;
}

static int capacity_geometry(const struct superblock *superblock,
                             struct disk_geometry *ret_geometry)
{
    const struct superblock_log_region *region = &superblock->log_regions[0];
    struct disk_geometry geometry = {
        .size_bytes = superblock->size_bytes,
        .extent_bytes = superblock->extent_bytes,
        .extent_count = superblock->extent_count,
        .pages_per_extent = superblock->pages_per_extent,
        .table_offset = superblock->table_offset,
        .table_blocks = superblock->table_blocks,
        .pages_offset = superblock->pages_offset,
        .log_offset = region->offset,
        .log_bytes = region->bytes,
        .extents_offset = superblock->extents_offset,
    };
    uint64_t odd = geometry.table_offset | geometry.pages_offset | geometry.log_offset |
                   geometry.log_bytes | geometry.extents_offset;

    if (superblock->extent_bytes < DISK_EXTENT_BYTES_MIN ||
        superblock->extent_bytes > DISK_EXTENT_BYTES_MAX ||
        (superblock->extent_bytes & (superblock->extent_bytes - 1)) != 0)
        return -EBADMSG;
    geometry.extent_blocks = superblock->extent_bytes / BLOCK_SIZE;
    if (odd % BLOCK_SIZE != 0 || superblock->log_region_count < 1 ||
        superblock->log_region_count > 2 || superblock->extent_count == 0 ||
        superblock->size_bytes > 1ull << 56 ||
        geometry.pages_per_extent != DIV_ROUND_UP(geometry.extent_blocks, CHECKSUM_PAGE_ENTRIES) ||
        memcmp(region->device, superblock->disk, sizeof(region->device)) != 0)
        return -EBADMSG;
    if (geometry.pages_offset > geometry.size_bytes || geometry.log_offset > geometry.size_bytes ||
        geometry.log_bytes > geometry.size_bytes || geometry.extents_offset > geometry.size_bytes)
        return -EBADMSG;
    if (!geometry_holds(&geometry))
        return -EBADMSG;
    *ret_geometry = geometry;
    return 0;
}

/* ---- cache disks ---- */

#define CACHE_OFFSET MIB                  /* of the first region */
#define CACHE_LOG_BYTES_LEAST (256 * MIB) /* but no more than a sixteenth of the disk */
#define CACHE_READ_BYTES_MIN (16 * MIB)   /* less is not worth its index */

/* All logs of a large disk are a sixteenth of it: a log takes 8 MiB of RAM a GiB, read cache less
 * than 0.4 (README.md of cache-tier), and a TB of cache disk shall not take a GiB. */
static uint64_t cache_log_bytes(uint64_t size_bytes, uint64_t asked)
{
    uint64_t least = MIN(CACHE_LOG_BYTES_LEAST, ALIGN_DOWN(size_bytes / 16, MIB));
    uint64_t share = ALIGN_DOWN(size_bytes / 16 / CACHE_LOG_REGIONS, MIB);

    share = MAX(MAX(share, least), DISK_LOG_BYTES_MIN);
    return asked ? asked : MIN(share, DISK_LOG_BYTES_MAX);
}

int superblock_plan_cache(struct superblock *superblock, uint64_t size_bytes, uint64_t log_bytes)
{
    uint64_t bytes = cache_log_bytes(size_bytes, log_bytes), offset = CACHE_OFFSET;
    uint64_t end = ALIGN_DOWN(size_bytes, MIB), logs = size_bytes / 2 / bytes;
    struct superblock_cache_region *region = superblock->cache_regions;

    if (bytes < DISK_LOG_BYTES_MIN || bytes % BLOCK_SIZE != 0)
        return -EINVAL;
    if (end < CACHE_OFFSET + bytes)
        return -ENOSPC;
    logs = MAX(1, MIN(logs, CACHE_LOG_REGIONS));
    for (uint64_t i = 0; i < logs; i++, region++) {
        *region = (struct superblock_cache_region){
            .kind = CACHE_REGION_LOG, .offset = offset, .bytes = bytes};
        offset = ALIGN_UP(offset + bytes, MIB);
    }
    if (end > offset && end - offset >= CACHE_READ_BYTES_MIN)
        *region = (struct superblock_cache_region){
            .kind = CACHE_REGION_READ, .offset = offset, .bytes = end - offset};
    return 0;
}

static int cache_geometry(const struct superblock *superblock, struct disk_geometry *ret_geometry)
{
    if (superblock->log_region_count != 0 || superblock->extent_count != 0 ||
        superblock->size_bytes < CACHE_OFFSET || superblock->size_bytes > 1ull << 56)
        return -EBADMSG;
    *ret_geometry = (struct disk_geometry){.size_bytes = superblock->size_bytes};
    return 0;
}

int superblock_geometry(const struct superblock *superblock, struct disk_geometry *ret_geometry)
{
    switch (superblock->role) {
    case DISK_CAPACITY:
        return capacity_geometry(superblock, ret_geometry);
    case DISK_CACHE:
        return cache_geometry(superblock, ret_geometry);
    }
    return -EBADMSG;
}

int superblock_log(const struct superblock *superblock, struct disk_log *ret_log)
{
    const struct superblock_log_region *region;

    if (superblock->log_region_count < 1 || superblock->log_region_count > 2)
        return -EBADMSG;
    region = &superblock->log_regions[superblock->log_region_count - 1];
    if (region->offset % BLOCK_SIZE != 0 || region->bytes % BLOCK_SIZE != 0 ||
        region->bytes < DISK_LOG_BYTES_MIN || region->offset > 1ull << 56 ||
        region->bytes > 1ull << 56)
        return -EBADMSG;
    *ret_log = (struct disk_log){
        .offset = region->offset,
        .bytes = region->bytes,
        .begun = region->begun != 0,
        .anchors = region->anchors,
    };
    memcpy(ret_log->device.bytes, region->device, sizeof(region->device));
    memcpy(ret_log->uuid.bytes, region->log_uuid, sizeof(region->log_uuid));
    return 0;
}

/* In their order on the disk, without overlap, within it. */
int superblock_cache_regions(const struct superblock *superblock,
                             struct cache_region regions[SUPERBLOCK_CACHE_REGIONS],
                             size_t *ret_count)
{
    uint64_t end = CACHE_OFFSET;
    size_t count = 0;

    while (count < SUPERBLOCK_CACHE_REGIONS && superblock->cache_regions[count].kind != 0) {
        const struct superblock_cache_region *from = &superblock->cache_regions[count];
        struct cache_region *to = &regions[count++];

        if (from->kind > CACHE_REGION_READ || (from->offset | from->bytes) % BLOCK_SIZE != 0 ||
            from->offset < end || from->offset > superblock->size_bytes ||
            from->bytes > superblock->size_bytes - from->offset ||
            (from->kind == CACHE_REGION_LOG && from->bytes < DISK_LOG_BYTES_MIN))
            return -EBADMSG;
        end = from->offset + from->bytes;
        *to =
            (struct cache_region){.kind = from->kind, .offset = from->offset, .bytes = from->bytes};
        memcpy(to->disk.bytes, from->disk, sizeof(from->disk));
        memcpy(to->log_uuid.bytes, from->log_uuid, sizeof(from->log_uuid));
    }
    *ret_count = count;
    return 0;
}
