/* Which part of a cache disk is read cache for which hard disk. The read cache region of a cache
 * disk is shared out in equal parts to the hard disks whose logs are there, or as much of it as the
 * pool's settings allow; when one comes or goes the parts change, and those that changed begin
 * empty. Flash gets none: a read of it costs no more than one of the cache. */
#include "cache-tier/read_cache.h"
#include "s2d/node/disks_internal.h"

static bool has_part(const struct node_disk *disk, const struct node_disk *cache)
{
    return disk->cache == cache && disk->store && disk_identity(disk->disk)->media == DISK_HDD;
}

static const struct cache_region *read_region(const struct node_disk *cache)
{
    const struct cache_region *regions;
    size_t count = disk_cache_regions(cache->disk, &regions);

    for (size_t i = 0; i < count; i++)
        if (regions[i].kind == CACHE_REGION_READ)
            return &regions[i];
    return NULL;
}

/* The most that a disk may have, by the pool's settings. */
static uint64_t limit_bytes(const struct node *node)
{
    const struct cluster_record *cluster = database_cluster(consensus_database(node->consensus));

    return cluster && cluster->read_cache_limited ? cluster->read_cache_bytes : UINT64_MAX;
}

/* The part that the disk should have now; bytes 0: none. */
static struct read_cache_part part_of(const struct node_disk *disk)
{
    struct node_disk *cache = disk->cache;
    const struct cache_region *region;
    struct read_cache_part part = {0};
    uint64_t parts = 0, mine = 0, bytes;

    if (!cache || cache->failed || node_disk_is_retiring(cache) || !has_part(disk, cache))
        return part;
    region = read_region(cache);
    list_for_each (entry, &disk->owner_node->disks) {
        const struct node_disk *other = list_entry(entry, struct node_disk, node);

        if (other == disk)
            mine = parts;
        parts += has_part(other, cache);
    }
    if (!region || parts == 0)
        return part;
    bytes = MIN(region->bytes / parts, limit_bytes(disk->owner_node));
    bytes = ALIGN_DOWN(bytes, READ_CACHE_CHUNK_BYTES);
    if (bytes < READ_CACHE_CHUNKS_MIN * READ_CACHE_CHUNK_BYTES)
        return part;
    return (struct read_cache_part){cache, region->offset + mine * bytes, bytes};
}

static bool same_part(const struct read_cache_part *a, const struct read_cache_part *b)
{
    return a->cache == b->cache && a->offset == b->offset && a->bytes == b->bytes;
}

static void fit_main(void *arg)
{
    struct node_disk *disk = arg;
    struct node *node = disk->owner_node;
    struct read_cache_part part = part_of(disk);
    struct read_cache_options options = {.offset = part.offset, .bytes = part.bytes};
    int r;

    if (part.cache)
        options.file = disk_file(part.cache->disk);
    r = co_store_set_read_cache(disk->store, &options);
    if (r < 0) /* it works without; asked for again when parts change */
        log_warn(node->io, "disks", "a disk has no read cache", "disk=%s reason=\"%s\"", disk->name,
                 strerror(-r));
    disk->read_cache = part;
    disk->busy = false;
    node_reconcile_soon(node);
}

bool node_has_read_caches(const struct node_disk *cache)
{
    list_for_each (entry, &cache->owner_node->disks)
        if (list_entry(entry, struct node_disk, node)->read_cache.cache == cache)
            return true;
    return false;
}

void node_fit_read_caches(struct node *node)
{
    list_for_each (entry, &node->disks) {
        struct node_disk *disk = list_entry(entry, struct node_disk, node);
        struct read_cache_part part;

        if (node->stopping || disk->failed || !disk->store || disk->busy)
            continue;
        part = part_of(disk);
        if (same_part(&part, &disk->read_cache))
            continue;
        disk->busy = true;
        if (!node_spawn(node, "read-cache", fit_main, disk))
            disk->busy = false;
    }
}
