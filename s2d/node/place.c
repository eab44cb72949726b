#include "s2d/node/place.h"

#include <string.h>

#include "s2d/base/checksum.h"

static uint64_t name_number(const char *name)
{
    return hash64(name, strlen(name));
}

static struct placement_disk describe(const struct database *database,
                                      const struct disk_record *disk,
                                      const struct node_record *node)
{
    bool takes = disk->state == DISK_OK && disk->role == DISK_ROLE_CAPACITY;

    return (struct placement_disk){
        .disk = disk->base.id,
        .path = {.node = node->base.id,
                 .chassis = name_number(node->chassis),
                 .rack = name_number(node->rack),
                 .site = name_number(node->site)},
        .extents = takes ? disk->extents : 0,
        .used = takes ? database_used_extents(database, disk->base.id) : 0,
        .away = node->state == NODE_DOWN,
    };
}

int place_new(const struct database *database, struct place **ret_place)
{
    struct place *place = calloc(1, sizeof(*place));
    const struct disk_record *disk;

    if (!place)
        return -ENOMEM;
    place->database = database;
    place->level = database_count(database, TABLE_NODE) == 1 ? FAULT_DISK : FAULT_NODE;
    for (size_t i = 0;
         (disk = database_at(database, TABLE_DISK, i)) && place->count < PLACE_DISKS_MAX; i++) {
        const struct node_record *node = database_find(database, TABLE_NODE, disk->node);

        if (node)
            place->disks[place->count++] = describe(database, disk, node);
    }
    *ret_place = place;
    return 0;
}

void place_free(struct place *place)
{
    free(place);
}

static int take_extent(struct place *place, uint64_t disk, struct place_column *ret_column)
{
    for (size_t i = 0; i < place->count; i++) {
        int64_t extent;

        if (place->disks[i].disk != disk)
            continue;
        extent = database_free_extent(place->database, disk, place->next_extent[i]);
        if (extent < 0)
            return -ENOSPC;
        place->next_extent[i] = (uint64_t)extent + 1;
        place->disks[i].used++;
        *ret_column = (struct place_column){disk, (uint64_t)extent};
        return 0;
    }
    return -ENOSPC;
}

int place_choose(struct place *place, const struct placement_request *request,
                 struct place_column *ret_columns)
{
    uint64_t chosen[COLUMNS_MAX];
    int r;

    assert(request->columns <= COLUMNS_MAX);
    r = placement_choose(place->disks, place->count, request, chosen);
    for (unsigned i = 0; r == 0 && i < request->columns; i++)
        r = take_extent(place, chosen[i], &ret_columns[i]);
    return r;
}
