/* A vdisk's slabs, where they are written first. */
#include "s2d/node/place.h"
#include "s2d/node/volumes_internal.h"

#define SLABS_AHEAD 4 /* thin volumes grow by so many at once */

/* An element of slab.add's list. */
static int plan_slab(struct place *place, const struct vdisk_record *vdisk, uint64_t number,
                     json_t *slabs)
{
    struct placement_request request = {.columns = vdisk_columns(vdisk),
                                        .level = place->level,
                                        .prefer_node = vdisk->owner,
                                        .spread = number};
    struct place_column chosen[COLUMNS_MAX];
    json_t *columns;
    int r;

    r = place_choose(place, &request, chosen);
    if (r < 0)
        return r;
    columns = json_array();
    for (unsigned i = 0; i < request.columns; i++)
        json_array_append_new(columns, json_pack("{s:I,s:I}", "disk", (json_int_t)chosen[i].disk,
                                                 "extent", (json_int_t)chosen[i].extent));
    return json_array_append_new(
        slabs, json_pack("{s:I,s:o}", "number", (json_int_t)number, "columns", columns));
}

int co_volume_add_slabs(struct node *node, uint64_t vdisk_id, const uint32_t *wanted, size_t count)
{
    const struct database *database = consensus_database(node->consensus);
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, vdisk_id);
    cleanup(place_freep) struct place *place = NULL;
    struct command_result result;
    json_t *slabs;
    int r;

    if (!vdisk)
        return -ESTALE;
    r = place_new(database, &place);
    if (r < 0)
        return r;
    slabs = json_array();
    for (size_t i = 0; r == 0 && i < count; i++) {
        if (!database_slab(database, vdisk_id, wanted[i]))
            r = plan_slab(place, vdisk, wanted[i], slabs);
    }
    for (uint64_t ahead = 1; r == 0 && count > 0 && ahead < SLABS_AHEAD; ahead++) {
        uint64_t number = (uint64_t)wanted[count - 1] + ahead;

        if (number >= vdisk->size_bytes / vdisk->slab_bytes)
            break;
        if (!database_slab(database, vdisk_id, number) &&
            plan_slab(place, vdisk, number, slabs) < 0)
            break; /* room for what is wanted is enough */
    }
    if (r == 0 && json_array_size(slabs) > 0) {
        r = co_node_propose(node,
                            json_pack("{s:s,s:I,s:O}", "verb", "slab.add", "vdisk",
                                      (json_int_t)vdisk_id, "slabs", slabs),
                            &result);
        command_result_done(&result);
    }
    json_decref(slabs);
    return r;
}

#define FIXED_SLABS_AT_ONCE 64
#define PLACE_TRIES 16 /* others place too: an extent may be taken meanwhile */

int co_volume_add_all_slabs(struct node_volume *volume)
{
    const struct vdisk_record *vdisk = vdisk_record_of(volume);
    uint64_t count = vdisk ? vdisk->size_bytes / vdisk->slab_bytes : 0;
    int r = 0;

    for (uint64_t first = 0; r == 0 && first < count; first += FIXED_SLABS_AT_ONCE) {
        uint32_t wanted[FIXED_SLABS_AT_ONCE];
        size_t n = MIN(FIXED_SLABS_AT_ONCE, count - first);

        for (size_t i = 0; i < n; i++)
            wanted[i] = first + i;
        for (int i = 0; i == 0 || (r == -EAGAIN && i < PLACE_TRIES); i++)
            r = co_volume_add_slabs(volume->owner_node, volume->vdisk, wanted, n);
    }
    return r;
}
