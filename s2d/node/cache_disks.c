/* Which disk's log is on which cache disk: binding, moving, and the death of a cache disk.
 *
 * Each capacity disk that is slower than a cache disk of its node has its log there while that one
 * has room, evenly. A pass looks, and begins at most one move at a time; every move may be given up
 * and is tried again. When a cache disk fails, or is not there at a start, the disks that were
 * bound to it lost their logs: each goes on by itself with a new log on itself, damaged, which the
 * cluster is told before any of it is served (disks.c); later passes bind it again. */
#include "resiliency/column_local.h"
#include "resiliency/store_server.h"
#include "s2d/node/disks_internal.h"

#define MOVE_AGAIN_NS (2 * SEC) /* after a move that could not be made */

/* ---- opening ---- */

/* The cache disk that has the disk's log, of this very life; NULL: nobody has it. */
static struct node_disk *cache_of(struct node_disk *disk)
{
    const struct disk_log *log = disk_log(disk->disk);

    list_for_each (entry, &disk->owner_node->disks) {
        struct node_disk *cache = list_entry(entry, struct node_disk, node);
        const struct cache_region *region;

        if (!cache->disk || cache->role != DISK_CACHE || cache->failed ||
            !disk_uuid_equal(disk_identity(cache->disk)->uuid, log->device))
            continue;
        region = disk_cache_log_of(cache->disk, disk_identity(disk->disk)->uuid);
        if (region && disk_uuid_equal(region->log_uuid, log->uuid) &&
            region->offset == log->offset && region->bytes == log->bytes)
            return cache;
    }
    return NULL;
}

/* The cache disk may be retired meanwhile: it is not given back before we are through. */
static int co_release_region(struct node_disk *cache, struct disk_uuid uuid)
{
    int r;

    cache->region_users++;
    r = co_disk_cache_release(cache->disk, uuid);
    cache->region_users--;
    return r;
}

/* What a cache disk still keeps for the disk, which names another log: a binding that was cut
 * short, or one from before that cache disk was away. An error is the cache disk's, and told by its
 * users.
 */
static void co_release_others(struct node_disk *disk)
{
    list_for_each (entry, &disk->owner_node->disks) {
        struct node_disk *cache = list_entry(entry, struct node_disk, node);

        if (cache->disk && cache->role == DISK_CACHE && !cache->failed && cache != disk->cache &&
            co_release_region(cache, disk_identity(disk->disk)->uuid) < 0)
            cache->look_ns = 0;
    }
}

static int co_open_with(struct node_disk *disk)
{
    struct store_options options = {.metrics = disk->owner_node->metrics, .name = disk->name};

    if (disk->cache)
        options.log_device = disk->cache->disk;
    return co_store_open(disk->owner_node->io, disk->disk, &options, &disk->store);
}

int co_node_open_log(struct node_disk *disk)
{
    struct node *node = disk->owner_node;
    bool own = disk_log_is_own(disk->disk), failed = disk->cache;
    struct disk_log log;
    int r = 0;

    disk->cache = own ? NULL : cache_of(disk);
    /* It may have been claimed just before we stopped, and not be in what our database was then. */
    if (!own && !disk->cache && !failed && !node_lease_held(node) && !PLANTED(CACHE_LOST_AT_ONCE)) {
        SOMETIMES("node: a cache disk is not known before the database is current");
        return -EAGAIN;
    }
    co_release_others(disk);
    if (own || disk->cache)
        r = co_open_with(disk);
    if (r == -ECANCELED || own || (disk->cache && r != -EIO && r != -EBADMSG))
        return r;
    log_error(node->io, "disks", "a log on a cache disk is lost; the disk goes on with its own",
              "disk=%s cache=%s", disk->name, disk->cache ? disk->cache->name : "not there");
    disk->cache = NULL;
    log = disk_own_log(disk->disk);
    r = co_store_begin_log(disk->disk, NULL, &log);
    return r < 0 ? r : co_open_with(disk);
}

/* ---- the death of a cache disk ---- */

void node_cache_failed(struct node_disk *disk, int error)
{
    if (!disk->cache->failed)
        node_disk_fail(disk->cache, "the medium failed", error);
    node_reconcile_soon(disk->owner_node);
}

/* The store goes on with a new log. Its columns are away meanwhile, as if the node were. */
static void reopen_main(void *arg)
{
    struct node_disk *disk = arg;
    struct node *node = disk->owner_node;
    int r;

    co_node_close_store(disk);
    disk->told = false;
    r = co_node_open_log(disk);
    if (r < 0 && r != -ECANCELED)
        node_disk_fail(disk, "its store cannot be opened again", r);
    SOMETIMES_IF(r == 0, "node: a disk goes on after its cache disk died");
    disk->busy = false;
    node_reconcile_soon(node);
}

/* ---- binding ---- */

unsigned node_cache_bound(const struct node_disk *cache)
{
    unsigned count = 0;

    list_for_each (entry, &cache->owner_node->disks)
        count += list_entry(entry, struct node_disk, node)->cache == cache;
    return count;
}

static bool takes_logs(const struct node_disk *cache)
{
    const struct disk_record *record =
        database_find(consensus_database(cache->owner_node->consensus), TABLE_DISK, cache->id);

    return cache->role == DISK_CACHE && cache->disk && !cache->failed && record &&
           record->state == DISK_OK && disk_cache_free_logs(cache->disk) > 0;
}

/* A log does not move to what is as slow as the disk itself, unless somebody said that it is a
 * cache disk all the same: then one as fast will do. */
static bool is_slower(const struct node_disk *disk, const struct node_disk *cache)
{
    return disk_identity(disk->disk)->media >= disk_identity(cache->disk)->media;
}

/* The cache disk with the fewest logs that the disk's could go to. */
static struct node_disk *best_cache(const struct node_disk *disk)
{
    struct node_disk *best = NULL;

    list_for_each (entry, &disk->owner_node->disks) {
        struct node_disk *cache = list_entry(entry, struct node_disk, node);

        if (cache != disk->cache && takes_logs(cache) && is_slower(disk, cache) &&
            (!best || node_cache_bound(cache) < node_cache_bound(best)))
            best = cache;
    }
    return best;
}

static bool is_in_state(const struct node_disk *disk, enum disk_state state)
{
    const struct disk_record *record =
        database_find(consensus_database(disk->owner_node->consensus), TABLE_DISK, disk->id);

    return record && record->state == state;
}

bool node_disk_is_retiring(const struct node_disk *disk)
{
    return is_in_state(disk, DISK_RETIRING) || is_in_state(disk, DISK_RETIRED);
}

struct move {
    struct node_disk *disk;
    struct node_disk *to; /* NULL: onto itself */
};

static int co_move(struct node_disk *disk, struct node_disk *to)
{
    struct disk_uuid uuid = disk_identity(disk->disk)->uuid;
    struct node_disk *from = disk->cache;
    struct disk_log log;
    int r = 0;

    if (to)
        r = co_disk_cache_reserve(to->disk, uuid, &log);
    else
        log = disk_own_log(disk->disk);
    if (r < 0)
        return r;
    r = co_store_move_log(disk->store, to ? to->disk : NULL, &log);
    if (r < 0) {
        /* given back only if it is sure that the disk does not name it: -EIO may have named it */
        int undone = to && r == -EAGAIN ? co_release_region(to, uuid) : 0;

        (void)undone; /* the next reservation for the disk takes it up */
        return r;
    }
    disk->cache = to;
    return from && !from->failed ? co_release_region(from, uuid) : 0;
}

static void move_main(void *arg)
{
    struct move *move = arg;
    struct node_disk *disk = move->disk, *to = move->to;
    struct node *node = disk->owner_node;
    int r = co_move(disk, to);

    if (r == 0)
        log_info(node->io, "disks", "a log has moved", "disk=%s to=%s", disk->name,
                 to ? to->name : disk->name);
    if (r < 0)
        disk->moved_ns = io_now_ns(node->io) + MOVE_AGAIN_NS;
    if (r == -EIO && to && !to->failed && !disk->failed)
        to->look_ns = io_now_ns(node->io);
    disk->busy = false;
    if (to)
        to->busy = false;
    free(move);
    node_reconcile_soon(node);
}

static void begin_move(struct node_disk *disk, struct node_disk *to)
{
    struct move *move = calloc(1, sizeof(*move));

    if (!move)
        return;
    *move = (struct move){disk, to};
    disk->busy = true;
    if (to)
        to->busy = true; /* it is not empty, though nothing is bound to it yet */
    if (!node_spawn(disk->owner_node, "move-log", move_main, move)) {
        disk->busy = false;
        if (to)
            to->busy = false;
        free(move);
    }
}

/* Returns whether it began something. */
static bool bind_disk(struct node_disk *disk)
{
    struct node_disk *best;

    if (disk->cache && disk->cache->failed) {
        disk->busy = true;
        if (!node_spawn(disk->owner_node, "reopen", reopen_main, disk))
            disk->busy = false;
        return true;
    }
    if (!disk->served || io_now_ns(disk->owner_node->io) < disk->moved_ns)
        return false;
    best = best_cache(disk);
    if (disk->cache && node_disk_is_retiring(disk->cache)) {
        begin_move(disk, best);
        return true;
    }
    if (!best || node_disk_is_retiring(disk) ||
        (disk->cache && node_cache_bound(disk->cache) < node_cache_bound(best) + 2))
        return false;
    begin_move(disk, best);
    return true;
}

/* The disk whose log it is, or none: no log, or one whose disk is here. */
static struct disk_uuid orphan_of(const struct node *node, const struct cache_region *region)
{
    static const struct disk_uuid none;

    if (region->kind != CACHE_REGION_LOG)
        return none;
    list_for_each (entry, &node->disks) {
        const struct node_disk *disk = list_entry(entry, struct node_disk, node);

        if (disk->disk && disk_uuid_equal(disk_identity(disk->disk)->uuid, region->disk))
            return none;
    }
    return region->disk;
}

static struct disk_uuid first_orphan(const struct node_disk *cache)
{
    const struct cache_region *regions;
    size_t count = disk_cache_regions(cache->disk, &regions);
    struct disk_uuid orphan = {{0}};

    for (size_t i = 0; i < count && disk_uuid_none(orphan); i++)
        orphan = orphan_of(cache->owner_node, &regions[i]);
    return orphan;
}

static void co_tell_empty(struct node *node, uint64_t id)
{
    struct command_result result;

    co_node_propose(
        node,
        json_pack("{s:s,s:I,s:b}", "verb", "disk.retire", "disk", (json_int_t)id, "empty", true),
        &result);
    command_result_done(&result);
}

static void empty_main(void *arg)
{
    struct node_disk *cache = arg;

    co_tell_empty(cache->owner_node, cache->id);
    cache->busy = false;
}

static void retire_cache(struct node_disk *cache)
{
    if (cache->busy || !is_in_state(cache, DISK_RETIRING) || node_cache_bound(cache) > 0 ||
        node_has_read_caches(cache))
        return;
    if (cache->disk && !cache->failed && !disk_uuid_none(first_orphan(cache))) {
        SOMETIMES("node: a cache disk keeps the log of a disk that is not here");
        return;
    }
    cache->busy = true;
    if (!node_spawn(cache->owner_node, "cache-empty", empty_main, cache))
        cache->busy = false;
}

/* ---- logs of disks that are gone ---- */

/* All capacity disks of the node that have not been retired are open: what is kept for another one
 * is kept for nobody. Decided with a lease: our database may be older than a disk's claim. */
static bool all_are_open(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct disk_record *record;

    for (size_t i = 0; (record = database_at(database, TABLE_DISK, i)); i++) {
        const struct node_disk *disk;

        if (record->node != node->identity.node || record->role != DISK_ROLE_CAPACITY ||
            record->state == DISK_RETIRED || record->extents == 0) /* 0: its claim did not end */
            continue;
        disk = node_find_disk(node, record->base.id);
        if (!disk || !disk->disk)
            return false;
    }
    return node_lease_held(node);
}

static void release_main(void *arg)
{
    struct node_disk *cache = arg;
    struct disk_uuid orphan;
    int r = 0;

    while (r == 0 && all_are_open(cache->owner_node) &&
           !disk_uuid_none(orphan = first_orphan(cache))) {
        SOMETIMES("node: the log of a disk that is gone is given up");
        r = co_release_region(cache, orphan);
    }
    if (r < 0)
        cache->look_ns = 0; /* whether it failed */
    cache->busy = false;
    node_reconcile_soon(cache->owner_node);
}

static void release_orphans(struct node_disk *cache)
{
    if (cache->busy || cache->failed || !cache->disk || disk_uuid_none(first_orphan(cache)) ||
        !all_are_open(cache->owner_node))
        return;
    cache->busy = true;
    if (!node_spawn(cache->owner_node, "cache-release", release_main, cache))
        cache->busy = false;
}

void node_bind_logs(struct node *node)
{
    bool moving = false;

    if (node->stopping)
        return;
    list_for_each (entry, &node->disks) {
        struct node_disk *disk = list_entry(entry, struct node_disk, node);

        if (disk->role == DISK_CACHE) {
            release_orphans(disk);
            retire_cache(disk); /* also one that failed: nothing is on it then */
        }
        moving |= disk->busy && !disk->given_back; /* one change of regions at a time */
    }
    list_for_each (entry, &node->disks) {
        struct node_disk *disk = list_entry(entry, struct node_disk, node);

        if (disk->role == DISK_CAPACITY && disk->store && !disk->failed && !disk->busy &&
            (!moving || (disk->cache && disk->cache->failed)))
            moving |= bind_disk(disk);
    }
}

/* ---- roles ---- */

/* As the database has it, faster ones first. */
static enum disk_media media_of(const struct disk_record *disk)
{
    static const enum disk_media of[] = {
        [DISK_MEDIA_SSD] = DISK_SSD, [DISK_MEDIA_NVME] = DISK_NVME, [DISK_MEDIA_HDD] = DISK_HDD};

    return disk->media < ARRAY_SIZE(of) ? of[disk->media] : DISK_HDD;
}

enum disk_role node_role_for(struct node *node, enum disk_media media)
{
    const struct database *database = consensus_database(node->consensus);
    const struct disk_record *disk;
    bool slower = false, faster = false;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        enum disk_media of = media_of(disk);

        if (disk->node != node->identity.node || disk->state == DISK_RETIRED)
            continue;
        slower |= of > media && disk->role == DISK_ROLE_CAPACITY;
        faster |= of < media;
    }
    return slower && !faster ? DISK_CACHE : DISK_CAPACITY;
}
