/* A disk whose log was lost, or had a hole, or which lost rows of its extent table: what that means
 * before the disk is served, and when it is over.
 *
 * The database was told, so a damaged column is stale, or the last one of its slab. A stale one is
 * compared with the others by its vdisk's owner, who then clears it. The owner may be gone in that
 * moment, and the next one sees a column that is in-sync like any other: it would be called stale
 * again at the next start, and perhaps withheld one day as the last of its slab, with nothing wrong
 * about it. So we look ourselves. The last one is withheld. If there are others again, it is one to
 * be compared with them. */
#include "s2d/node/disks_internal.h"

struct damage {
    struct node_disk *disk;
    struct store_extent *columns; /* as the database has them */
    bool *in_sync;
    size_t count;
    struct store_fence *fences;
    size_t fence_count;
    uint64_t index; /* of the database's newest entry */
};

static void damage_done(struct damage *damage)
{
    free(damage->columns);
    free(damage->in_sync);
    free(damage->fences);
}

static void add_slab(struct damage *damage, const struct slab_record *slab)
{
    for (uint64_t i = 0; i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];

        if (column->disk != damage->disk->id)
            continue;
        damage->in_sync[damage->count] = column->state == COLUMN_RECORD_IN_SYNC;
        damage->columns[damage->count++] = (struct store_extent){
            .where = {.extent = (uint32_t)column->extent, .generation = column->generation},
            .vdisk = slab->vdisk,
            .slab = (uint32_t)slab->number,
            .column = (uint16_t)i,
        };
    }
}

void node_forget_taken(struct node_disk *disk)
{
    free(take_ptr(disk->taken));
    disk->taken_count = 0;
}

void node_note_taken(struct node_disk *disk)
{
    const struct database *database = consensus_database(disk->owner_node->consensus);
    const struct vdisk_record *vdisk;

    node_forget_taken(disk);
    disk->taken = calloc(database_count(database, TABLE_VDISK) + 1, sizeof(*disk->taken));
    for (size_t i = 0; disk->taken && (vdisk = database_at(database, TABLE_VDISK, i)); i++) {
        struct store_stream_info info;

        if (store_stream_info(disk->store, vdisk->base.id, &info))
            disk->taken[disk->taken_count++] = (struct store_fence){
                .vdisk = vdisk->base.id, .intact_since = info.durable_epoch + 1};
    }
}

static uint64_t intact_since(const struct node_disk *disk, uint64_t vdisk)
{
    for (size_t i = 0; i < disk->taken_count; i++)
        if (disk->taken[i].vdisk == vdisk)
            return disk->taken[i].intact_since;
    return 0;
}

/* All at one instant of the database. */
static int damage_gather(struct damage *damage, const struct database *database)
{
    size_t extents = disk_geometry(damage->disk->disk)->extent_count, vdisks = 0;
    const struct vdisk_record *vdisk;
    const struct slab_record *slab;

    while (database_at(database, TABLE_VDISK, vdisks))
        vdisks++;
    damage->columns = calloc(extents, sizeof(*damage->columns));
    damage->in_sync = calloc(extents, sizeof(*damage->in_sync));
    damage->fences = calloc(MAX(vdisks, 1u), sizeof(*damage->fences));
    if (!damage->columns || !damage->in_sync || !damage->fences)
        return -ENOMEM;
    for (size_t i = 0; (slab = database_at(database, TABLE_SLAB, i)) && damage->count < extents;
         i++)
        add_slab(damage, slab);
    for (size_t i = 0; (vdisk = database_at(database, TABLE_VDISK, i)); i++)
        damage->fences[damage->fence_count++] =
            (struct store_fence){.vdisk = vdisk->base.id,
                                 .epoch = vdisk->epoch,
                                 .intact_since = intact_since(damage->disk, vdisk->base.id)};
    damage->index = consensus_applied(damage->disk->owner_node->consensus);
    return 0;
}

/* ---- before it is served ---- */

/* A damaged row whose column the database still has in-sync, though it was told: the last one. */
static void withhold_last(void *arg, const struct store_extent *extent)
{
    struct damage *damage = arg;

    for (size_t i = 0; i < damage->count && extent->damaged; i++) {
        if (damage->columns[i].where.extent != extent->where.extent ||
            damage->columns[i].where.generation != extent->where.generation || !damage->in_sync[i])
            continue;
        log_error(damage->disk->owner_node->io, "disks",
                  "the last copy of a slab may lack writes; it is not read any more",
                  "disk=%s vdisk=%llu slab=%u", damage->disk->name,
                  (unsigned long long)extent->vdisk, extent->slab);
        SOMETIMES("node: a damaged column is the last of its slab");
        store_withhold(damage->disk->store, extent->where);
    }
}

int co_node_settle_damage(struct node_disk *disk)
{
    struct node *node = disk->owner_node;
    struct damage damage = {.disk = disk};
    int r = damage_gather(&damage, consensus_database(node->consensus));

    if (r == 0 && disk_log_lost(disk->disk)) {
        SOMETIMES("node: a lost log is settled");
        r = co_store_settle_loss(disk->store, damage.index, damage.columns, damage.count,
                                 damage.fences, damage.fence_count);
    } else if (r == 0) { /* of all that ever wrote here we know: we proposed since */
        r = co_store_free_lost(disk->store, damage.index, damage.columns, damage.count);
    }
    if (r == 0) {
        store_each_extent(disk->store, withhold_last, &damage);
        node_forget_taken(disk);
    }
    damage_done(&damage);
    return r;
}

/* ---- when it is over ---- */

/* What is damaged of a vdisk here, and in-sync all the same, by the database at one instant. */
struct compared {
    struct node_disk *disk;
    const struct vdisk_record *vdisk;
    struct extent_ref *wheres; /* those that are not withheld */
    size_t count;
    uint64_t vdisk_id, epoch;
    uint64_t in_sync_epoch; /* the highest of them */
    bool not_last;          /* a withheld one is not the last any more */
};

const struct column_record *node_column_at(const struct slab_record *slab, uint64_t disk,
                                           struct extent_ref where)
{
    for (uint64_t i = 0; i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];

        if (column->disk == disk && column->extent == where.extent &&
            column->generation == where.generation)
            return column;
    }
    return NULL;
}

static bool is_last(const struct vdisk_record *vdisk, const struct slab_record *slab, uint64_t disk)
{
    unsigned others = 0;

    for (uint64_t i = 0; i < slab->column_count; i++)
        others += slab->columns[i].state == COLUMN_RECORD_IN_SYNC && slab->columns[i].disk != disk;
    return others < vdisk_data_columns(vdisk);
}

static void add_compared(void *arg, const struct store_extent *extent)
{
    struct compared *compared = arg;
    const struct node_disk *disk = compared->disk;
    const struct slab_record *slab;
    const struct column_record *column;

    if (!extent->damaged || extent->vdisk != compared->vdisk->base.id)
        return;
    slab =
        database_slab(consensus_database(disk->owner_node->consensus), extent->vdisk, extent->slab);
    column = slab ? node_column_at(slab, disk->id, extent->where) : NULL;
    if (!column || column->state != COLUMN_RECORD_IN_SYNC)
        return;
    if (extent->withheld) {
        compared->not_last |= !is_last(compared->vdisk, slab, disk->id);
    } else if (column->in_sync_epoch > 0) {
        compared->wheres[compared->count++] = extent->where;
        compared->in_sync_epoch = MAX(compared->in_sync_epoch, column->in_sync_epoch);
    }
}

/* Its owner told the store of the epoch in which they are in-sync, and nobody of a higher one that
 * we do not know yet, in which they may be stale again: so what they have to compare is history. */
static int co_clear_compared(const struct compared *compared)
{
    struct store *store = compared->disk->store;
    struct store_stream_info info;

    if (!store_stream_info(store, compared->vdisk_id, &info) ||
        info.sealed_epoch < compared->in_sync_epoch || info.sealed_epoch > compared->epoch)
        return 0;
    SOMETIMES("node: what was damaged was compared, and its owner did not say so");
    return co_store_clear_compare(store, compared->vdisk_id, info.sealed_epoch, compared->wheres,
                                  compared->count);
}

static void co_call_stale(const struct compared *compared)
{
    const struct node_disk *disk = compared->disk;
    struct node *node = disk->owner_node;
    struct command_result result;

    SOMETIMES("node: a damaged column is not the last of its slab any more");
    log_info(node->io, "disks", "a copy that may lack writes is compared with others",
             "disk=%s vdisk=%llu", disk->name, (unsigned long long)compared->vdisk_id);
    co_node_propose(node,
                    json_pack("{s:s,s:I,s:I,s:[I]}", "verb", "vdisk.stale", "vdisk",
                              (json_int_t)compared->vdisk_id, "epoch", (json_int_t)compared->epoch,
                              "disks", (json_int_t)disk->id),
                    &result);
    command_result_done(&result);
}

static int co_tend_vdisk(struct node_disk *disk, const struct vdisk_record *vdisk)
{
    struct compared compared = {
        .disk = disk, .vdisk = vdisk, .vdisk_id = vdisk->base.id, .epoch = vdisk->epoch};
    int r = 0;

    compared.wheres = calloc(disk_geometry(disk->disk)->extent_count, sizeof(*compared.wheres));
    if (!compared.wheres)
        return -ENOMEM;
    store_each_extent(disk->store, add_compared, &compared);
    compared.vdisk = NULL; /* we may suspend from here on */
    if (compared.count > 0)
        r = co_clear_compared(&compared);
    if (r == 0 && compared.not_last)
        co_call_stale(&compared);
    free(compared.wheres);
    return r;
}

/* Of columns that went before their owners said anything of them. */
static int co_free_lost(struct node_disk *disk)
{
    struct damage damage = {.disk = disk};
    int r;

    if (store_lost_extents(disk->store) == 0)
        return 0;
    r = damage_gather(&damage, consensus_database(disk->owner_node->consensus));
    if (r == 0)
        r = co_store_free_lost(disk->store, damage.index, damage.columns, damage.count);
    damage_done(&damage);
    return r;
}

static void count_withheld(void *arg, const struct store_extent *extent)
{
    uint64_t *count = arg;

    *count += extent->withheld;
}

uint64_t node_withheld_slabs(const struct node_disk *disk)
{
    uint64_t count = 0;

    if (disk->damaged)
        store_each_extent(disk->store, count_withheld, &count);
    return count;
}

static void note_damaged(void *arg, const struct store_extent *extent)
{
    bool *damaged = arg;

    *damaged |= extent->damaged;
}

void co_node_tend_damage(struct node_disk *disk)
{
    const struct database *database = consensus_database(disk->owner_node->consensus);
    const struct vdisk_record *vdisk;
    int r;

    if (!disk->damaged || !disk->served || disk->busy || disk->failed)
        return;
    disk->busy = true;
    r = co_free_lost(disk);
    for (size_t i = 0; r == 0 && (vdisk = database_at(database, TABLE_VDISK, i)); i++)
        r = co_tend_vdisk(disk, vdisk);
    disk->damaged = store_lost_extents(disk->store) > 0;
    store_each_extent(disk->store, note_damaged, &disk->damaged);
    disk->busy = false;
    if (r < 0 && r != -ECANCELED && r != -ESTALE)
        log_debug(disk->owner_node->io, "disks", "a damaged column stays so", "disk=%s error=%s",
                  disk->name, strerror(-r));
}
