/* Superblocks, table blocks and signatures are bytes from outside: whatever they say, judging them
 * ends, and a geometry that is accepted lies within the disk. The checksum is made right half of
 * the time, or nothing behind it would ever be reached. */
#include "pool/disk.h"
#include "pool/disk_format.h"
#include "pool/extent_table.h"
#include "pool/superblock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_cache_regions(const struct superblock *superblock)
{
    struct cache_region regions[SUPERBLOCK_CACHE_REGIONS];
    uint64_t end = MIB;
    size_t count;

    if (superblock_cache_regions(superblock, regions, &count) < 0)
        return;
    for (size_t i = 0; i < count; i++) {
        assert(regions[i].offset >= end);
        end = regions[i].offset + regions[i].bytes;
        assert(end <= superblock->size_bytes);
    }
}

static void check_geometry(const struct superblock *superblock)
{
    struct disk_geometry geometry;
    struct disk_log log;

    if (superblock_geometry(superblock, &geometry) < 0)
        return;
    assert(superblock->role == DISK_CAPACITY || superblock->role == DISK_CACHE);
    if (superblock->role == DISK_CACHE) {
        check_cache_regions(superblock);
        return;
    }
    if (superblock_log(superblock, &log) == 0)
        assert(log.bytes >= DISK_LOG_BYTES_MIN);
    assert(geometry.log_offset + geometry.log_bytes <= geometry.extents_offset);
    assert(disk_block_offset(&geometry, geometry.extent_count - 1, geometry.extent_blocks - 1) <
           geometry.size_bytes);
    assert(disk_page_offset(&geometry, (uint64_t)geometry.extent_count *
                                           geometry.pages_per_extent) <= geometry.log_offset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct superblock copies[2];
    static struct extent_table_block block;
    const struct superblock *best;
    struct disk_uuid uuid = {{0}};
    struct disk_message message;
    char text[96];
    bool repair;

    if (size < 1)
        return 0;
    memset(copies, 0, sizeof(copies));
    memcpy(copies, data + 1, MIN(size - 1, sizeof(copies)));
    if (data[0] & 1)
        superblock_finish(&copies[0], 0);
    if (data[0] & 2)
        superblock_finish(&copies[1], 1);
    if (superblock_choose(&copies[0], &copies[1], &best, &repair, &message) == 0)
        check_geometry(best);

    memcpy(&block, copies, sizeof(block));
    if (data[0] & 4)
        extent_table_block_finish(&block, data[0], uuid);
    if (extent_table_block_check(&block, data[0], uuid) == 0)
        assert(data[0] & 4 || block.index == data[0]);

    disk_probe_foreign(data, size, data, size, text, sizeof(text));
    return 0;
}
