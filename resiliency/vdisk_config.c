#include "resiliency/vdisk_config.h"
#include "s2d/base/planted.h"

int vdisk_config_new(uint32_t slab_count, uint32_t width, uint32_t slab_blocks,
                     struct vdisk_config **ret_config)
{
    struct vdisk_config *config;

    if (width == 0 || width > VDISK_COLUMNS_MAX || slab_blocks == 0)
        return -EINVAL;
    config = calloc(1, sizeof(*config) + (size_t)slab_count * width * sizeof(config->columns[0]));
    if (!config)
        return -ENOMEM;
    config->references = 1;
    config->slab_count = slab_count;
    config->data_columns = 1;
    config->width = width;
    config->slab_blocks = slab_blocks;
    *ret_config = config;
    return 0;
}

struct vdisk_config *vdisk_config_get(struct vdisk_config *config)
{
    assert(config->references > 0);
    config->references++;
    return config;
}

void vdisk_config_put(struct vdisk_config *config)
{
    if (!config)
        return;
    assert(config->references > 0);
    if (--config->references == 0)
        free(config);
}

int vdisk_config_copy(const struct vdisk_config *config, uint32_t slab_count,
                      struct vdisk_config **ret_config)
{
    struct vdisk_config *copy;
    int r;

    assert(slab_count >= config->slab_count);
    r = vdisk_config_new(slab_count, config->width, config->slab_blocks, &copy);
    if (r < 0)
        return r;
    memcpy(copy->columns, config->columns,
           (size_t)config->slab_count * config->width * sizeof(config->columns[0]));
    copy->data_columns = config->data_columns;
    copy->vdisk = config->vdisk;
    copy->epoch = config->epoch;
    copy->session = config->session;
    copy->owner = config->owner;
    copy->size_bytes = config->size_bytes;
    *ret_config = copy;
    return 0;
}

static unsigned in_sync_columns(const struct column_config *columns, uint32_t width)
{
    unsigned count = 0;

    for (uint32_t i = 0; i < width; i++)
        count += columns[i].state == COLUMN_IN_SYNC;
    return count;
}

static bool slab_makes_sense(const struct column_config *columns, uint32_t width,
                             uint32_t data_columns)
{
    if (columns[0].disk == 0)
        return true; /* not allocated */
    for (uint32_t i = 0; i < width; i++) {
        if (columns[i].disk == 0)
            return false;
        if (columns[i].state != COLUMN_IN_SYNC && columns[i].state != COLUMN_STALE)
            return false;
        for (uint32_t j = 0; j < i; j++) {
            if (columns[i].disk == columns[j].disk)
                return false;
        }
    }
    return in_sync_columns(columns, width) >= data_columns;
}

int vdisk_config_check(const struct vdisk_config *config)
{
    if (config->vdisk == 0 || config->session == 0 || config->epoch < config->session)
        return -EINVAL;
    if (config->data_columns == 0 || config->data_columns > config->width ||
        config->slab_blocks % config->data_columns != 0)
        return -EINVAL;
    for (uint32_t slab = 0; slab < config->slab_count; slab++) {
        if (!slab_makes_sense(vdisk_config_slab(config, slab), config->width, config->data_columns))
            return -EINVAL;
    }
    return 0;
}

static struct column_config *find_column(struct vdisk_config *config, uint32_t slab, uint64_t disk)
{
    struct column_config *columns = &config->columns[(size_t)slab * config->width];

    for (uint32_t i = 0; i < config->width; i++) {
        if (columns[i].disk == disk)
            return &columns[i];
    }
    return NULL;
}

size_t vdisk_config_mark_stale(struct vdisk_config *config, uint64_t disk, uint64_t new_epoch)
{
    size_t changed = 0;

    for (uint32_t slab = 0; slab < config->slab_count; slab++) {
        struct column_config *column = find_column(config, slab, disk);

        if (!column || column->state != COLUMN_IN_SYNC)
            continue;
        if (in_sync_columns(vdisk_config_slab(config, slab), config->width) <=
                config->data_columns &&
            !PLANTED(LAST_GOES_STALE))
            continue; /* the last ones are never marked, by nothing: the slab waits for them */
        column->state = COLUMN_STALE;
        column->stale_epoch = new_epoch;
        changed++;
    }
    return changed;
}

static bool is_named(uint32_t slab, const uint32_t *slabs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (slabs[i] == slab)
            return true;
    }
    return count == 0;
}

size_t vdisk_config_mark_in_sync(struct vdisk_config *config, uint64_t disk, const uint32_t *slabs,
                                 size_t count, uint64_t new_epoch)
{
    size_t changed = 0;

    for (uint32_t slab = 0; slab < config->slab_count; slab++) {
        struct column_config *column = find_column(config, slab, disk);

        if (!column || column->state != COLUMN_STALE || !is_named(slab, slabs, count))
            continue;
        column->state = COLUMN_IN_SYNC;
        column->stale_epoch = 0;
        column->in_sync_epoch = new_epoch;
        changed++;
    }
    return changed;
}
