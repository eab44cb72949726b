/* What must always hold in a database, whatever commands it took. */
#include "s2d/cluster/database_internal.h"

static bool slab_is_sound(const struct database *database, const struct slab_record *slab)
{
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, slab->vdisk);
    unsigned in_sync = 0;

    if (!vdisk || slab->number >= vdisk->size_bytes / vdisk->slab_bytes ||
        slab->base.id != slab_id(slab->vdisk, slab->number) ||
        slab->column_count != vdisk_columns(vdisk))
        return false;
    for (uint64_t i = 0; i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];

        in_sync += column->state == COLUMN_RECORD_IN_SYNC;
        if (column->stale_epoch > vdisk->epoch || column->in_sync_epoch > vdisk->epoch ||
            database_extent_is_free(database, column->disk, column->extent))
            return false;
    }
    return in_sync >= vdisk_data_columns(vdisk); /* I3: the last ones are never marked stale */
}

static bool vdisk_is_sound(const struct database *database, const struct vdisk_record *vdisk)
{
    const struct volume_record *volume = database_find(database, TABLE_VOLUME, vdisk->volume);

    if (vdisk->resiliency == RESILIENCY_PARITY2
            ? vdisk->data_columns < 2 || vdisk->data_columns > PARITY2_DATA_COLUMNS_MAX
            : vdisk->data_columns != 0)
        return false;
    return volume && volume->vdisk == vdisk->base.id && vdisk->session <= vdisk->epoch &&
           vdisk->slab_bytes ==
               database_cluster(database)->extent_bytes * vdisk_data_columns(vdisk) &&
           vdisk->size_bytes % vdisk->slab_bytes == 0 && vdisk->base.id < VDISK_ID_MAX &&
           vdisk->size_bytes / vdisk->slab_bytes <= VDISK_SLABS_MAX &&
           (vdisk->owner == 0 || database_find(database, TABLE_NODE, vdisk->owner));
}

static bool volumes_are_sound(const struct database *database)
{
    const struct volume_record *volume;
    const struct vdisk_record *vdisk;
    const struct slab_record *slab;

    for (size_t i = 0; (vdisk = database_at(database, TABLE_VDISK, i)); i++) {
        if (!vdisk_is_sound(database, vdisk))
            return false;
    }
    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++) {
        vdisk = database_find(database, TABLE_VDISK, volume->vdisk);
        if (!vdisk || vdisk->volume != volume->base.id)
            return false;
    }
    for (size_t i = 0; (slab = database_at(database, TABLE_SLAB, i)); i++) {
        if (!slab_is_sound(database, slab))
            return false;
    }
    return true;
}

/* Ids were given out by the cluster record, which is there if anything is. */
static bool ids_are_sound(const struct database *database)
{
    const struct cluster_record *cluster = database_cluster(database);

    for (int table = 0; table < TABLE_COUNT; table++) {
        size_t count = database_count(database, table);
        const struct record_base *last = count ? database_at(database, table, count - 1) : NULL;

        if (last && !cluster)
            return false;
        if (last && table != TABLE_CLUSTER && table != TABLE_SLAB && last->id >= cluster->next_id)
            return false;
    }
    return database_count(database, TABLE_CLUSTER) <= 1;
}

static bool disks_are_sound(const struct database *database)
{
    const struct cluster_record *cluster = database_cluster(database);
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        if (!database_find(database, TABLE_NODE, disk->node) || disk->extents > DISK_EXTENTS_MAX)
            return false;
    }
    return database_count(database, TABLE_DISK) + database_count(database, TABLE_VDISK) == 0 ||
           cluster->extent_bytes != 0;
}

int database_verify(const struct database *database)
{
    return ids_are_sound(database) && disks_are_sound(database) && volumes_are_sound(database)
               ? 0
               : -EBADMSG;
}

void database_check(const struct database *database)
{
    int r = database_verify(database);

    assert(r == 0);
}
