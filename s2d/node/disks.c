/* This node's disks, from claim to store, and the column stores of everybody's disks: local ones by
 * direct call, others over the bus. */
#include <stdio.h>

#include "cache-tier/store.h"
#include "pool/disk.h"
#include "resiliency/column_local.h"
#include "resiliency/store_client.h"
#include "resiliency/store_server.h"
#include "s2d/node/disks_internal.h"

struct node_disk *node_find_disk(struct node *node, uint64_t id)
{
    list_for_each (entry, &node->disks) {
        struct node_disk *disk = list_entry(entry, struct node_disk, node);

        if (disk->id == id)
            return disk;
    }
    return NULL;
}

/* ---- column stores for the mirrors ---- */

struct column_store *node_column(struct node *node, uint64_t on_node, uint64_t id)
{
    struct node_disk *disk;

    if (on_node == 0)
        return NULL;
    if (on_node != node->identity.node)
        return store_client_column(node->store_client, on_node, id);
    disk = node_find_disk(node, id);
    return disk && disk->served && !disk->failed ? disk->column : NULL;
}

/* ---- failures ---- */

#define LOOK_NS (10 * SEC)       /* between two looks whether a disk is still ours */
#define LOOK_AT_ROT_NS (1 * SEC) /* after rot was seen */
#define LOOK_AT_DAMAGE_NS (1 * SEC)

/* It is told to the cluster by the next reconciling pass. */
void node_disk_fail(struct node_disk *disk, const char *what, int error)
{
    disk->failed = true;
    disk->told = false; /* that its log was damaged may be: this is another matter */
    snprintf(disk->reason, sizeof(disk->reason), "%s: %s", what, strerror(-error));
    log_error(disk->owner_node->io, "disks", "a disk failed; its columns are given up",
              "disk=%s reason=\"%s\"", disk->name, disk->reason);
    node_reconcile_soon(disk->owner_node);
}

/* On the loop: an event, never an abort. */
static void disk_error(void *arg, int error)
{
    struct node_disk *disk = arg;

    if (disk->failed || error == -ECANCELED)
        return;
    if (error == -EBADMSG) {
        /* For the owner to repair from another copy, and counted (node_disk_status()). It may be
         * all of the disk, though. */
        disk->look_ns = MIN(disk->look_ns, io_now_ns(disk->owner_node->io) + LOOK_AT_ROT_NS);
        return;
    }
    /* a log on a cache disk: it is that one which failed */
    if (disk->cache && store_log_device_failed(disk->store))
        node_cache_failed(disk, error);
    else
        node_disk_fail(disk, "the medium failed", error);
}

/* Its extent may have been given to another column, which has not written there yet. */
static bool column_is_gone(void *arg, const struct store_extent *extent)
{
    const struct node_disk *disk = arg;
    const struct node *node = disk->owner_node;
    const struct slab_record *slab =
        database_slab(consensus_database(node->consensus), extent->vdisk, extent->slab);

    /* a younger one may be in what we have not applied yet */
    return extent->where.generation <= consensus_applied(node->consensus) &&
           !(slab && node_column_at(slab, disk->id, extent->where));
}

/* As of a volume that was deleted in the middle of a write. */
static void co_drop_gone(struct node_disk *disk)
{
    int r;

    if (!disk->store || !disk->served || disk->busy || disk->failed)
        return;
    disk->busy = true;
    r = co_store_drop_gone(disk->store, column_is_gone, disk);
    if (r == 0)
        r = co_store_free_damaged(disk->store, column_is_gone, disk);
    disk->busy = false;
    if (r < 0 && r != -ECANCELED)
        log_debug(disk->owner_node->io, "disks", "what is left of a deleted column stays",
                  "disk=%s error=%s", disk->name, strerror(-r));
}

static void look_main(void *arg)
{
    struct node_disk *disk = arg;
    int r = co_disk_look(disk->disk);

    if (!disk->failed) {
        if (r == -ENODEV)
            node_disk_fail(disk, "somebody has overwritten it", r);
        else if (r == -EIO) /* it may be idle: nothing else would tell */
            node_disk_fail(disk, "its superblocks cannot be read", r);
    }
    co_drop_gone(disk);
    co_node_tend_damage(disk);
    disk->looking = false;
    disk->look_ns = io_now_ns(disk->owner_node->io) + (disk->damaged ? LOOK_AT_DAMAGE_NS : LOOK_NS);
}

/* A disk that is overwritten, or exchanged, under a running node says so by its superblocks: what
 * is not read for long would tell too late. In a coroutine of its own: a device that hangs holds up
 * nobody else. */
static void look_at_disk(struct node *node, struct node_disk *disk)
{
    if (disk->looking || disk->failed || io_now_ns(node->io) < disk->look_ns)
        return;
    disk->looking = true;
    if (!node_spawn(node, "look", look_main, disk))
        disk->looking = false;
}

static void co_tell_failed(struct node *node, struct node_disk *disk, bool keeps_serving)
{
    struct command_result result;

    text_make_valid(disk->reason); /* a path that was cut may end in half a character */
    if (co_node_propose(node,
                        json_pack("{s:s,s:I,s:s,s:b}", "verb", "disk.failed", "disk",
                                  (json_int_t)disk->id, "reason", disk->reason, "keeps_serving",
                                  keeps_serving),
                        &result) == 0)
        disk->told = true;
    command_result_done(&result);
}

/* It had failed in an earlier life of this daemon, and works again: its columns may be brought up.
 */
static void co_tell_back(struct node *node, const struct node_disk *disk)
{
    struct command_result result;

    co_node_propose(node,
                    json_pack("{s:s,s:I,s:I,s:I}", "verb", "disk.ready", "disk",
                              (json_int_t)disk->id, "extents",
                              (json_int_t)disk_geometry(disk->disk)->extent_count, "log_bytes",
                              (json_int_t)disk_log_bytes(disk->disk)),
                    &result);
    command_result_done(&result);
}

/* ---- opening ---- */

#define ABSENT_POLL_NS (100 * MS)

/* A device may appear later than we do: it is waited for until then. */
static int co_open_when_there(struct node *node, struct node_disk *disk, const char *path,
                              uint64_t absent_until_ns, struct disk_message *message)
{
    struct disk_uuid cluster;

    memcpy(cluster.bytes, node->identity.cluster, sizeof(cluster.bytes));
    for (;;) {
        int r = co_disk_open(node->io, path, &cluster, message, &disk->disk);
        bool absent = r == -ENOENT || r == -ENXIO;

        SOMETIMES_IF(absent && io_now_ns(node->io) < absent_until_ns,
                     "node: a cache disk is waited for at a start");
        if (!absent || io_now_ns(node->io) >= absent_until_ns)
            return r;
        r = co_sleep_ns(ABSENT_POLL_NS);
        if (r < 0)
            return r;
    }
}

static int co_open_store(struct node *node, struct node_disk *disk, const char *path,
                         uint64_t absent_until_ns)
{
    struct disk_message message = {{0}};
    int r = co_open_when_there(node, disk, path, absent_until_ns, &message);

    if (r < 0) {
        snprintf(disk->reason, sizeof(disk->reason), "%.255s",
                 message.text[0] ? message.text : strerror(-r));
        return r;
    }
    if (disk_identity(disk->disk)->disk_id != disk->id ||
        disk_identity(disk->disk)->role != disk->role) {
        snprintf(disk->reason, sizeof(disk->reason), "another disk of this cluster is at %.200s",
                 path);
        return -ENODEV;
    }
    if (disk->role == DISK_CACHE)
        return 0;
    r = co_node_open_log(disk);
    if (r == 0)
        r = column_local_new(disk->store, node->identity.node, disk->id, &disk->column);
    if (r < 0)
        snprintf(disk->reason, sizeof(disk->reason), "its store cannot be opened: %s",
                 strerror(-r));
    return r;
}

static void co_close_disk(struct node *node, struct node_disk *disk)
{
    if (disk->store)
        co_store_server_remove(node->store_server, disk->id);
    column_local_free(take_ptr(disk->column));
    if (disk->store) {
        store_set_error_handler(disk->store, NULL, NULL); /* it could not be told any more */
        co_store_close(take_ptr(disk->store));
    }
    disk_close(take_ptr(disk->disk));
    node_forget_taken(disk);
}

void co_node_close_store(struct node_disk *disk)
{
    disk->served = false;
    if (!disk->store)
        return;
    store_set_error_handler(disk->store, NULL, NULL); /* we know */
    co_store_server_remove(disk->owner_node->store_server, disk->id);
    if (disk->column)
        co_column_local_leave(disk->column);
    node_note_taken(disk);
    co_store_close(take_ptr(disk->store));
    disk->read_cache = (struct read_cache_part){0};
}

static bool is_damaged(const struct store *store)
{
    return store_health(store)->log_damaged || store_health(store)->lost_extents > 0;
}

/* A damaged log means that writes that were acknowledged may be gone from here: nobody may read
 * this disk as a source before its columns are stale in the database (I9). */
static int co_serve_disk(struct node *node, struct node_disk *disk)
{
    int r;

    if (is_damaged(disk->store) && !disk->told) {
        snprintf(disk->reason, sizeof(disk->reason),
                 "its log was lost or damaged; what it holds is checked against the other copies");
        co_tell_failed(node, disk, true);
        if (!disk->told)
            return -EAGAIN;
    }
    disk->damaged = is_damaged(disk->store);
    r = disk->damaged ? co_node_settle_damage(disk) : 0;
    if (r == -EIO || r == -ENODEV) /* nobody else watches it before it is served */
        disk_error(disk, r);
    if (r < 0)
        return r;
    disk->reason[0] = '\0';
    disk->look_ns = io_now_ns(node->io) + (disk->damaged ? LOOK_AT_DAMAGE_NS : LOOK_NS);
    store_set_error_handler(disk->store, disk_error, disk);
    disk->served = store_server_add(node->store_server, disk->id, disk->store) == 0;
    if (disk->served && !disk->column->reachable)
        column_local_return(disk->column, disk->store);
    return disk->served ? 0 : -ENOMEM;
}

/* NULL: later, when we have a lease (co_node_open_log()), or memory. */
static struct node_disk *co_open_disk(struct node *node, const struct disk_record *record,
                                      uint64_t absent_until_ns)
{
    struct node_disk *disk = calloc(1, sizeof(*disk));
    char path[PATH_MAX_BYTES];
    int r;

    if (!disk)
        return NULL;
    disk->owner_node = node;
    disk->id = record->base.id;
    disk->role = record->role == DISK_ROLE_CACHE ? DISK_CACHE : DISK_CAPACITY;
    snprintf(disk->name, sizeof(disk->name), "%s", record->name);
    snprintf(path, sizeof(path), "%s", record->path); /* the record may change while we suspend */
    r = co_open_store(node, disk, path, absent_until_ns);
    if (r == -EAGAIN) {
        co_close_disk(node, disk);
        free(disk);
        return NULL;
    }
    if (r < 0) {
        co_close_disk(node, disk);
        log_error(node->io, "disks", "a disk cannot be opened", "disk=%s path=%s reason=\"%s\"",
                  disk->name, path, disk->reason);
        disk->failed = r != -ECANCELED;
    }
    list_push_back(&node->disks, &disk->node);
    if (disk->disk && disk->role == DISK_CACHE) {
        disk->look_ns = io_now_ns(node->io) + LOOK_NS;
        disk->served = true;
    }
    return disk;
}

static bool is_to_be_open(const struct node *node, const struct disk_record *disk)
{
    return disk->node == node->identity.node && (disk->extents > 0 || disk->log_bytes > 0) &&
           disk->state != DISK_RETIRED;
}

/* Without its cache disk a disk lost its log, and is compared with the other copies, all of it: so
 * one that was sound is waited for at a start, as long as a cluster is that comes up at once. */
#define CACHE_GRACE_NS (10 * SEC)

static uint64_t grace_of(const struct disk_record *disk, uint64_t start_ns)
{
    bool was_sound =
        disk->role == DISK_ROLE_CACHE && (disk->state == DISK_OK || disk->state == DISK_RETIRING);

    return was_sound && start_ns != 0 ? start_ns + CACHE_GRACE_NS : 0;
}

/* start_ns: of the node; 0: it has long been up, and waits for nobody. */
static int co_open_role(struct node *node, unsigned role, uint64_t start_ns)
{
    const struct disk_record *record;

    for (size_t i = 0; (record = database_at(consensus_database(node->consensus), TABLE_DISK, i));
         i++) {
        struct node_disk *disk;

        if (node->stopping)
            return 0;
        if (record->role != role || !is_to_be_open(node, record) ||
            node_find_disk(node, record->base.id))
            continue;
        disk = co_open_disk(node, record, grace_of(record, start_ns));
        if (disk && disk->store && !is_damaged(disk->store) && co_serve_disk(node, disk) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int co_open_disks(struct node *node, uint64_t start_ns)
{
    int r = co_open_role(node, DISK_ROLE_CACHE, start_ns); /* the others' logs are on them */

    return r < 0 ? r : co_open_role(node, DISK_ROLE_CAPACITY, start_ns);
}

int co_node_disks_start(struct node *node)
{
    return co_open_disks(node, io_now_ns(node->io));
}

/* ---- giving back ---- */

static void close_retired_main(void *arg)
{
    struct node_disk *disk = arg;

    co_node_close_store(disk); /* before another disk's log takes the place of its own */
    disk->cache = NULL;
    disk->busy = false;
    node_reconcile_soon(disk->owner_node);
}

static void give_back_main(void *arg)
{
    struct node_disk *disk = arg;
    struct node *node = disk->owner_node;
    int r = 0;

    if (disk->disk && !disk->failed)
        r = co_disk_release(disk->disk);
    disk_close(take_ptr(disk->disk)); /* also if it is dead: somebody may want to exchange it */
    log_info(node->io, "disks", "a retired disk is given back", "disk=%s error=%d", disk->name, r);
    node_reconcile_soon(node);
}

static bool is_used(const struct node_disk *disk)
{
    return disk->busy || disk->looking || disk->region_users > 0 || node_cache_bound(disk) > 0 ||
           node_has_read_caches(disk);
}

/* The cluster has moved everything off it. The store goes first, while others still see whose log
 * it has on a cache disk; then nobody finds the disk any more, and it is closed. A step that cannot
 * be begun now is begun by a later pass. */
static void give_back(struct node *node, struct node_disk *disk)
{
    if (is_used(disk))
        return;
    disk->given_back = true;
    disk->served = false;
    if (disk->store) {
        disk->busy = node_spawn(node, "close-retired", close_retired_main, disk);
        return;
    }
    list_remove(&disk->node);
    if (node_spawn(node, "give-back", give_back_main, disk))
        list_push_back(&node->disks_gone, &disk->node);
    else
        list_push_back(&node->disks, &disk->node);
}

/* was_failed: so the database says. Its record may go while we suspend. */
static void co_reconcile_disk(struct node *node, struct node_disk *disk, bool was_failed)
{
    if (disk->failed && !disk->told)
        co_tell_failed(node, disk, false);
    else if (disk->store && !disk->failed && !disk->served && !disk->busy &&
             co_serve_disk(node, disk) < 0)
        log_warn(node->io, "disks", "a disk is not served yet", "disk=%s", disk->name);
    else if (disk->served && !disk->failed && was_failed)
        co_tell_back(node, disk);
    if (disk->served)
        look_at_disk(node, disk);
}

void co_node_reconcile_disks(struct node *node)
{
    const struct disk_record *record;

    if (co_open_disks(node, 0) < 0)
        log_warn(node->io, "disks", "a disk is not served yet", "error=memory");
    for (size_t i = 0; (record = database_at(consensus_database(node->consensus), TABLE_DISK, i));
         i++) {
        struct node_disk *disk = node_find_disk(node, record->base.id);

        if (node->stopping)
            return;
        if (disk && record->state == DISK_RETIRED)
            give_back(node, disk);
        if (!disk || !is_to_be_open(node, record))
            continue;
        co_reconcile_disk(node, disk, record->state == DISK_FAILED);
    }
    node_bind_logs(node);
    node_fit_read_caches(node);
}

void co_node_disks_stop(struct node *node)
{
    struct list *entry;

    /* stores first: their logs may be on other disks */
    list_for_each (at, &node->disks) {
        struct node_disk *disk = list_entry(at, struct node_disk, node);

        if (disk->role != DISK_CACHE)
            co_close_disk(node, disk);
    }
    while ((entry = list_pop_front(&node->disks)) || (entry = list_pop_front(&node->disks_gone))) {
        struct node_disk *disk = list_entry(entry, struct node_disk, node);

        co_close_disk(node, disk);
        free(disk);
    }
}

/* ---- claiming ---- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* What kind of disk is at path. */
static int co_look(struct node *node, const char *path, uint64_t *ret_size,
                   enum disk_media *ret_media)
{
    struct io_file *file;
    const struct io_file_info *info;
    int r;

    r = co_io_open(node->io, path, IO_OPEN_READ_ONLY, &file);
    if (r < 0)
        return r;
    info = io_file_info(file);
    *ret_size = info->size_bytes;
    *ret_media = info->is_rotational ? DISK_HDD : DISK_SSD;
    /* files of a development cluster tell by their names what they stand for */
    if (!info->is_block_device && strncmp(base_name(path), "hdd", 3) == 0)
        *ret_media = DISK_HDD;
    if (strncmp(base_name(path), "nvme", 4) == 0)
        *ret_media = DISK_NVME;
    io_file_close(file);
    return 0;
}

static void random_uuid(struct io *io, char text[DISK_UUID_TEXT])
{
    struct disk_uuid uuid;

    for (size_t i = 0; i < sizeof(uuid.bytes); i++)
        uuid.bytes[i] = io_random(io);
    uuid.bytes[6] = (uuid.bytes[6] & 0x0f) | 0x40;
    uuid.bytes[8] = (uuid.bytes[8] & 0x3f) | 0x80;
    disk_uuid_format(uuid, text);
}

/* A disk of that name that was retired, and is not closed yet. */
static bool is_being_given_back(struct node *node, const char *name)
{
    const struct disk_record *record =
        database_disk_of(consensus_database(node->consensus), node->identity.node, name);

    list_for_each (entry, &node->disks_gone) {
        const struct node_disk *disk = list_entry(entry, struct node_disk, node);

        if (disk->disk && strcmp(disk->name, name) == 0)
            return true;
    }
    return record && record->state == DISK_RETIRED && node_find_disk(node, record->base.id);
}

/* The record of a disk stays as long as we have it open: a claim by its name takes the record's
 * place. */
static int co_await_given_back(struct node *node, const char *name, struct node_message *message)
{
    uint64_t deadline_ns = io_now_ns(node->io) + DISK_LOCK_WAIT_NS;
    int r = 0;

    node_reconcile_soon(node); /* once: each pass wakes us */
    while (r == 0 && is_being_given_back(node, name)) {
        SOMETIMES("node: a claim waits until the disk of that name is given back");
        r = co_cond_wait_until(&node->changed, deadline_ns);
    }
    if (r == -ETIMEDOUT) {
        node_say(message,
                 "disk %s was retired, and is still in use here: try again later, or start "
                 "this node again",
                 name);
        r = -EBUSY;
    }
    return r;
}

/* A place in the database for it: an id, or that of a claim that was interrupted. */
static int co_reserve(struct node *node, const char *path, const char *role, uint64_t size_bytes,
                      enum disk_media media, uint64_t *ret_id, struct node_message *message)
{
    const struct disk_record *old =
        database_disk_of(consensus_database(node->consensus), node->identity.node, base_name(path));
    struct command_result result;
    char uuid[DISK_UUID_TEXT];
    int r;

    if (old && old->state == DISK_RETIRED)
        old = NULL;
    if (old && (old->extents > 0 || old->log_bytes > 0)) {
        node_say(message, "disk %s of this node is in the pool already", old->name);
        return -EALREADY;
    }
    random_uuid(node->io, uuid);
    r = co_node_propose(node,
                        json_pack("{s:s,s:I,s:s,s:s,s:s,s:s,s:s,s:I}", "verb", "disk.claim", "node",
                                  (json_int_t)node->identity.node, "name", base_name(path), "path",
                                  path, "uuid", old ? old->uuid : uuid, "role", role, "media",
                                  disk_media_name(media), "size_bytes", (json_int_t)size_bytes),
                        &result);
    *ret_id = (uint64_t)json_integer_value(json_object_get(result.reply, "disk"));
    node_explain(&result, message);
    command_result_done(&result);
    return r;
}

/* The place goes again: a disk that was refused is none of the cluster's. If the database cannot be
 * reached the record stays, and the next claim by that name takes it up. */
static void co_unreserve(struct node *node, uint64_t id)
{
    struct command_result result;

    co_node_propose(node, json_pack("{s:s,s:I}", "verb", "disk.unclaim", "disk", (json_int_t)id),
                    &result);
    command_result_done(&result);
}

static bool is_nobodys(const struct node *node, uint64_t id)
{
    const struct disk_record *record =
        database_find(consensus_database(node->consensus), TABLE_DISK, id);

    return !record || record->state == DISK_RETIRED;
}

/* There is a disk of this cluster at path already. It may be the one that an interrupted claim of
 * ours has formatted; or one that was retired while it could not be given back: then it is now, and
 * formatted. The database knows all that were claimed, for it has just answered us. */
static int co_claim_again(struct node *node, const char *path, const struct disk_claim *claim,
                          struct disk_message *message)
{
    struct disk *disk;
    uint64_t id;
    int r;

    if (co_disk_open(node->io, path, &claim->cluster, NULL, &disk) < 0)
        return -EALREADY;
    id = disk_identity(disk)->disk_id;
    r = id == claim->disk_id ? 0 : -EALREADY;
    if (r < 0 && is_nobodys(node, id)) {
        SOMETIMES("node: a disk that was retired, and never given back, is claimed again");
        r = co_disk_release(disk);
    }
    disk_close(disk);
    return r < 0 || id == claim->disk_id ? r : co_disk_claim(node->io, path, claim, message);
}

static int co_ready(struct node *node, uint64_t id, const char *path, struct node_message *message)
{
    struct disk_message disk_message = {{0}};
    struct disk_uuid cluster;
    struct command_result result;
    struct disk *disk;
    int r;

    memcpy(cluster.bytes, node->identity.cluster, sizeof(cluster.bytes));
    r = co_disk_open(node->io, path, &cluster, &disk_message, &disk);
    if (r < 0) {
        node_say(message, "%s", disk_message.text);
        return r;
    }
    r = co_node_propose(node,
                        json_pack("{s:s,s:I,s:I,s:I}", "verb", "disk.ready", "disk", (json_int_t)id,
                                  "extents", (json_int_t)disk_geometry(disk)->extent_count,
                                  "log_bytes", (json_int_t)disk_log_bytes(disk)),
                        &result);
    disk_close(disk); /* the reconciling pass opens it for good */
    node_explain(&result, message);
    command_result_done(&result);
    return r;
}

static int co_claim(struct node *node, const char *path, const char *role, uint64_t *ret_disk,
                    struct node_message *ret_message)
{
    const struct cluster_record *cluster =
        node->member ? database_cluster(node_database(node)) : NULL;
    struct disk_message disk_message = {{0}};
    struct disk_claim claim = {.role = DISK_CAPACITY};
    uint64_t size_bytes, deadline_ns;
    struct node_disk *disk;
    int r;

    if (!cluster || !cluster->extent_bytes) {
        node_say(ret_message, "there is no pool yet: 's2d pool create' makes it");
        return -ENOENT;
    }
    if (role && strcmp(role, "capacity") != 0 && strcmp(role, "cache") != 0) {
        node_say(ret_message, "a disk is for 'cache' or for 'capacity', not for '%.32s'", role);
        return -EINVAL;
    }
    claim.log_bytes = node->options.disk_log_bytes;
    claim.extent_bytes = cluster->extent_bytes; /* the record may go while we suspend */
    r = co_await_given_back(node, base_name(path), ret_message);
    if (r < 0)
        return r;
    r = co_look(node, path, &size_bytes, &claim.media);
    if (r < 0) {
        node_say(ret_message, "%s cannot be opened: %s", path, strerror(-r));
        return r;
    }
    claim.role = role ? (strcmp(role, "cache") == 0 ? DISK_CACHE : DISK_CAPACITY)
                      : node_role_for(node, claim.media);
    r = co_reserve(node, path, disk_role_name(claim.role), size_bytes, claim.media, &claim.disk_id,
                   ret_message);
    if (r < 0)
        return r;
    memcpy(claim.cluster.bytes, node->identity.cluster, sizeof(claim.cluster.bytes));
    r = co_disk_claim(node->io, path, &claim, &disk_message);
    if (r == -EALREADY)
        r = co_claim_again(node, path, &claim, &disk_message);
    if (r < 0) {
        node_say(ret_message, "%s", disk_message.text[0] ? disk_message.text : strerror(-r));
        co_unreserve(node, claim.disk_id);
        return r;
    }
    r = co_ready(node, claim.disk_id, path, ret_message);
    deadline_ns = io_now_ns(node->io) + 30 * SEC;
    node_reconcile_soon(node); /* once: each pass wakes us */
    while (r == 0) {
        disk = node_find_disk(node, claim.disk_id);
        if (disk && disk->served)
            break;
        if (disk && disk->failed) {
            node_say(ret_message, "%s", disk->reason);
            return -EIO;
        }
        r = co_cond_wait_until(&node->changed, deadline_ns);
    }
    *ret_disk = claim.disk_id;
    return r;
}

/* On the stack of who claims it. */
struct claiming {
    struct list node; /* in node->claiming */
    const char *name;
};

static bool is_being_claimed(const struct node *node, const char *name)
{
    list_for_each (at, &node->claiming) {
        if (strcmp(list_entry(at, struct claiming, node)->name, name) == 0)
            return true;
    }
    return false;
}

/* One at a time: what a claim has written so far is somebody's data to another one, whose
 * administrator would be told to wipe it. */
int co_node_claim_disk(struct node *node, const char *path, const char *role, uint64_t *ret_disk,
                       struct node_message *ret_message)
{
    struct claiming claiming = {.name = base_name(path)};
    int r;

    if (is_being_claimed(node, claiming.name)) {
        SOMETIMES("node: a disk is claimed twice at once");
        node_say(ret_message, "disk %s of this node is being claimed just now", claiming.name);
        return -EBUSY;
    }
    list_push_back(&node->claiming, &claiming.node);
    r = co_claim(node, path, role, ret_disk, ret_message);
    list_remove(&claiming.node);
    return r;
}

int node_disk_status(struct node *node, uint64_t id, struct node_disk_status *ret_status)
{
    struct node_disk *disk = node_find_disk(node, id);
    struct store_stats stats;

    *ret_status = (struct node_disk_status){0};
    if (!disk)
        return -ENOENT;
    ret_status->open = disk->disk != NULL && !disk->failed;
    ret_status->damaged =
        disk->damaged || (disk->store && !disk->served && is_damaged(disk->store));
    ret_status->bound = disk->role == DISK_CACHE ? node_cache_bound(disk) : 0;
    snprintf(ret_status->log_on, sizeof(ret_status->log_on), "%s",
             disk->cache   ? disk->cache->name
             : disk->store ? disk->name
                           : "");
    snprintf(ret_status->reason, sizeof(ret_status->reason), "%s", disk->reason);
    if (disk->store) {
        stats = store_stats(disk->store);
        ret_status->log_bytes = stats.log_bytes;
        ret_status->log_used_bytes = stats.log_used_bytes;
        ret_status->dirty_blocks = stats.dirty_blocks;
        ret_status->verify_errors = stats.verify_errors;
        ret_status->healed_blocks = stats.healed_blocks;
        ret_status->rotten_blocks = stats.rotten_blocks;
        ret_status->withheld_slabs = node_withheld_slabs(disk);
    }
    return 0;
}

int node_fault_disk(struct node *node, uint64_t id, int error)
{
    struct node_disk *disk = node_find_disk(node, id);

    if (!disk || !disk->disk)
        return -ENOENT;
    log_warn(node->io, "disks", "a fault was asked for", "disk=%s error=%s", disk->name,
             strerror(-error));
    io_file_set_fault(disk_file(disk->disk), error);
    return 0;
}

int node_slow_disk(struct node *node, uint64_t id)
{
    struct node_disk *disk = node_find_disk(node, id);

    if (!disk || !disk->disk)
        return -ENOENT;
    if (io_file_info(disk_file(disk->disk))->is_block_device)
        return -EPERM; /* somebody may want to use it */
    log_warn(node->io, "disks", "a disk was asked to be slow", "disk=%s", disk->name);
    return io_file_make_hdd(disk_file(disk->disk), &IO_HDD_7200);
}
