/* The disks: superblocks, log, extent table, checksum pages. What is read here is what a daemon
 * reads when it starts, by the same code; what that code would mend on the way stays in RAM. */
#include <string.h>

#include "cache-tier/store.h"
#include "pool/disk.h"
#include "resiliency/column_local.h"
#include "s2d/base/io.h"
#include "tools/fsck/fsck.h"

#define HEALS_ITSELF "start the node: it is brought up again from the other copies"

struct fsck_disk *fsck_find_disk(struct fsck *fsck, uint64_t id)
{
    for (size_t i = 0; i < fsck->disk_count; i++) {
        if (fsck->disks[i].record->base.id == id)
            return &fsck->disks[i];
    }
    return NULL;
}

static bool is_given(const struct fsck *fsck, uint64_t node)
{
    for (size_t i = 0; i < fsck->node_count; i++) {
        if (fsck->nodes[i] == node)
            return true;
    }
    return false;
}

static const char *name_of(const struct fsck *fsck, const struct disk_record *record,
                           char text[160])
{
    const struct node_record *node = database_find(fsck->database, TABLE_NODE, record->node);

    snprintf(text, 160, "disk %s of %s", record->name, node ? node->name : "?");
    return text;
}

static void co_open_disk(struct fsck *fsck, struct fsck_disk *disk)
{
    struct disk_message message = {{0}};
    char name[160];
    int r = co_disk_open(fsck->io, disk->record->path, NULL, &message, &disk->disk);

    name_of(fsck, disk->record, name);
    if (r == -EBUSY) {
        fsck_problem(fsck, name, "stop the node first", "%s is in use", disk->record->path);
        return;
    }
    if (r < 0) {
        fsck_problem(fsck, name, "s2d disk replace, or retire", "cannot be opened at %s: %s",
                     disk->record->path, message.text[0] ? message.text : strerror(-r));
        return;
    }
    if (disk_identity(disk->disk)->disk_id != disk->record->base.id) {
        fsck_problem(fsck, name, "put the right disk there", "another disk is at %s",
                     disk->record->path);
        disk_close(take_ptr(disk->disk));
        return;
    }
    if (disk_identity(disk->disk)->superblock_repaired)
        fsck_problem(fsck, name,
                     fsck->mending ? "mended now"
                                   : "s2d fsck --repair writes it again, as any start does",
                     "one of its two superblocks is damaged, the other one is good");
    if (disk_log_lost(disk->disk))
        fsck_problem(fsck, name, HEALS_ITSELF, "the cache disk with its log was lost");
}

static struct disk *log_device_of(struct fsck *fsck, const struct fsck_disk *disk)
{
    struct disk_uuid device = disk_log(disk->disk)->device;

    for (size_t i = 0; i < fsck->disk_count; i++) {
        struct disk *other = fsck->disks[i].disk;

        if (other && disk_uuid_equal(disk_identity(other)->uuid, device))
            return other;
    }
    return NULL;
}

static void tell_health(struct fsck *fsck, const struct fsck_disk *disk, const char *name)
{
    const struct store_health *health = store_health(disk->store);

    if (health->log_damaged && health->lost_extents == 0) /* a lost row counts as damage, too */
        fsck_problem(fsck, name, HEALS_ITSELF,
                     "its log has a hole: what its columns held may be incomplete");
    if (health->lost_extents > 0)
        fsck_problem(fsck, name, HEALS_ITSELF, "%llu rows of its extent table cannot be read",
                     (unsigned long long)health->lost_extents);
    if (health->torn_tail)
        fsck_note(name,
                  "its last write was cut short by a crash; nobody was told that it was done");
}

static void co_open_store(struct fsck *fsck, struct fsck_disk *disk)
{
    struct store_options options = {.name = disk->record->name};
    char name[160];
    int r;

    name_of(fsck, disk->record, name);
    if (!disk_log_is_own(disk->disk))
        options.log_device = log_device_of(fsck, disk);
    if (!disk_log_is_own(disk->disk) && !options.log_device) {
        fsck_problem(fsck, name, "bring the cache disk back, or start the node without it",
                     "the cache disk that has its log is missing");
        return;
    }
    r = co_store_open(fsck->io, disk->disk, &options, &disk->store);
    if (r == 0)
        r = column_local_new(disk->store, disk->record->node, disk->record->base.id, &disk->column);
    if (r < 0)
        fsck_problem(fsck, name, "s2d disk replace", "what is on it cannot be read: %s",
                     strerror(-r));
    else
        tell_health(fsck, disk, name);
}

/* ---- the extent table and the database ---- */

struct table_check {
    struct fsck *fsck;
    const struct fsck_disk *disk;
    const char *name;
};

/* What an extent in use says of itself must be what the database says of the column. Extents that
 * the database gave to nobody were freed; a newer generation than the database knows was given
 * after this database. */
static void check_row(void *arg, const struct store_extent *extent)
{
    struct table_check *check = arg;
    const struct slab_record *slab =
        database_slab(check->fsck->database, extent->vdisk, extent->slab);

    for (uint64_t i = 0; slab && i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];

        if (column->disk != check->disk->record->base.id || column->extent != extent->where.extent)
            continue;
        if (column->generation == extent->where.generation && i != extent->column)
            fsck_problem(check->fsck, check->name, "s2d disk replace",
                         "extent %u says that it is column %u of slab %u; it is column %llu",
                         extent->where.extent, extent->column, extent->slab, (unsigned long long)i);
        if (column->generation < extent->where.generation)
            fsck_note(check->name,
                      "extent %u is newer than the database: give the folders of more nodes",
                      extent->where.extent);
        if (extent->damaged)
            fsck_problem(check->fsck, check->name, HEALS_ITSELF,
                         "its column of slab %u may lack acknowledged writes", extent->slab);
    }
}

static void list_disks(struct fsck *fsck)
{
    const struct disk_record *record;

    fsck->disk_count = 0;
    for (size_t i = 0; (record = database_at(fsck->database, TABLE_DISK, i)); i++) {
        if (is_given(fsck, record->node) && record->state != DISK_RETIRED &&
            fsck->disk_count < FSCK_DISKS_MAX)
            fsck->disks[fsck->disk_count++] = (struct fsck_disk){.record = record};
    }
}

void co_fsck_mend_disks(struct fsck *fsck)
{
    uint64_t problems = fsck->problems;

    list_disks(fsck);
    fsck->mending = true; /* opening a disk is what mends its superblock */
    for (size_t i = 0; i < fsck->disk_count; i++)
        co_open_disk(fsck, &fsck->disks[i]);
    fsck->mending = false;
    co_fsck_close_disks(fsck);
    fsck->problems = problems; /* what is left is counted by the check that follows */
}

void co_fsck_open_disks(struct fsck *fsck)
{
    char name[160];

    list_disks(fsck);
    for (size_t i = 0; i < fsck->disk_count; i++)
        co_open_disk(fsck, &fsck->disks[i]);
    for (size_t i = 0; i < fsck->disk_count; i++) {
        struct fsck_disk *disk = &fsck->disks[i];
        struct table_check check = {fsck, disk, name_of(fsck, disk->record, name)};

        if (disk->disk && disk_identity(disk->disk)->role == DISK_CAPACITY)
            co_open_store(fsck, disk);
        if (disk->store)
            store_each_extent(disk->store, check_row, &check);
    }
}

/* They are read with the blocks that they are for: known when the volumes have been looked at. */
static void tell_pages(struct fsck *fsck, const struct fsck_disk *disk)
{
    uint64_t damaged = disk->store ? store_health(disk->store)->corrupt_pages : 0;
    char name[160];

    if (damaged > 0)
        fsck_problem(fsck, name_of(fsck, disk->record, name), HEALS_ITSELF,
                     "%llu of its checksum pages are damaged: their blocks cannot be verified",
                     (unsigned long long)damaged);
}

void co_fsck_close_disks(struct fsck *fsck)
{
    for (size_t i = 0; i < fsck->disk_count; i++)
        tell_pages(fsck, &fsck->disks[i]);
    for (size_t i = 0; i < fsck->disk_count; i++) {
        struct fsck_disk *disk = &fsck->disks[i];

        column_local_free(take_ptr(disk->column));
        if (disk->store)
            co_store_close(take_ptr(disk->store));
    }
    for (size_t i = 0; i < fsck->disk_count; i++) /* a log may lie on another's */
        disk_close(take_ptr(fsck->disks[i].disk));
}
