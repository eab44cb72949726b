#include "s2d/node/volume_config.h"

static void fill_slab(const struct database *database, const struct slab_record *slab,
                      struct vdisk_config *config)
{
    struct column_config *columns = &config->columns[slab->number * config->width];

    for (uint64_t i = 0; i < slab->column_count && i < config->width; i++) {
        const struct column_record *column = &slab->columns[i];
        const struct disk_record *disk = database_find(database, TABLE_DISK, column->disk);

        columns[i] = (struct column_config){
            .disk = column->disk,
            .node = disk ? disk->node : 0,
            .where = {.extent = column->extent, .generation = column->generation},
            .stale_epoch = column->stale_epoch,
            .in_sync_epoch = column->in_sync_epoch,
            .state = column->state == COLUMN_RECORD_IN_SYNC ? COLUMN_IN_SYNC : COLUMN_STALE,
        };
    }
}

int volume_make_config(const struct database *database, const struct vdisk_record *vdisk,
                       struct vdisk_config **ret_config)
{
    size_t count, first = database_slabs(database, vdisk->base.id, &count);
    struct vdisk_config *config;
    int r;

    r = vdisk_config_new(vdisk->size_bytes / vdisk->slab_bytes, vdisk_columns(vdisk),
                         vdisk->slab_bytes / BLOCK_SIZE, &config);
    if (r < 0)
        return r;
    config->data_columns = vdisk_data_columns(vdisk);
    config->vdisk = vdisk->base.id;
    config->epoch = vdisk->epoch;
    config->session = vdisk->session;
    config->owner = vdisk->owner;
    config->size_bytes = vdisk->size_bytes;
    for (size_t i = first; i < first + count; i++)
        fill_slab(database, database_at(database, TABLE_SLAB, i), config);
    *ret_config = config;
    return 0;
}
