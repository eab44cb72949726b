#include "s2d/node/repair.h"

#include "s2d/node/node_internal.h"
#include "s2d/node/place.h"

bool repair_wanted(const struct database *database, const struct disk_record *disk)
{
    return database_disk_is_to_be_empty(disk) && database_used_extents(database, disk->base.id) > 0;
}

static bool leaves(const struct database *database, const struct column_record *column)
{
    const struct disk_record *disk = database_find(database, TABLE_DISK, column->disk);

    return !disk || database_disk_is_to_be_empty(disk);
}

static bool node_is_up(const struct database *database, const struct column_record *column)
{
    const struct disk_record *disk = database_find(database, TABLE_DISK, column->disk);
    const struct node_record *node = disk ? database_find(database, TABLE_NODE, disk->node) : NULL;

    return node && node->state != NODE_DOWN;
}

/* New, and being copied now. */
static bool is_being_filled(const struct database *database, const struct column_record *column)
{
    return column->state == COLUMN_RECORD_STALE && column->stale_epoch == 0 &&
           !leaves(database, column) && node_is_up(database, column);
}

static unsigned in_sync_columns(const struct slab_record *slab)
{
    unsigned count = 0;

    for (uint64_t i = 0; i < slab->column_count; i++)
        count += slab->columns[i].state == COLUMN_RECORD_IN_SYNC;
    return count;
}

/* Whether a column that is in-sync may be taken out, for a new one in its place: only from a slab
 * that lacks nothing. */
static bool can_be_spared(const struct database *database, const struct slab_record *slab)
{
    if (slab->column_count < 2 || in_sync_columns(slab) < slab->column_count)
        return false;
    for (uint64_t i = 0; i < slab->column_count; i++) {
        if (!node_is_up(database, &slab->columns[i]))
            return false;
    }
    return true;
}

/* The column of the slab that is to move now; -1: none. */
static int column_to_move(const struct database *database, const struct slab_record *slab)
{
    for (uint64_t i = 0; i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];

        if (leaves(database, column) &&
            (column->state == COLUMN_RECORD_STALE || can_be_spared(database, slab)))
            return (int)i;
    }
    return -1;
}

struct repair {
    const struct database *database;
    const struct vdisk_record *vdisk;
    struct place *place;
    json_t *columns; /* of the command */
    size_t room;     /* in the batch */
};

/* Adds the slab's column to the batch, if there is a place for it on a node that is up. */
static void add_column(struct repair *repair, const struct slab_record *slab, uint64_t index)
{
    uint64_t taken[COLUMNS_MAX];
    struct placement_request request = {.columns = 1,
                                        .level = repair->place->level,
                                        .prefer_node = repair->vdisk->owner,
                                        .spread = slab->number,
                                        .taken = taken};
    struct place_column chosen;

    for (uint64_t i = 0; i < slab->column_count; i++) {
        if (i != index)
            taken[request.taken_count++] = slab->columns[i].disk;
    }
    if (place_choose(repair->place, &request, &chosen) < 0)
        return;
    if (!node_is_up(repair->database, &(struct column_record){.disk = chosen.disk}))
        return; /* it could not be copied to */
    json_array_append_new(repair->columns,
                          json_pack("{s:I,s:I,s:I,s:I}", "slab", (json_int_t)slab->number, "disk",
                                    (json_int_t)slab->columns[index].disk, "to_disk",
                                    (json_int_t)chosen.disk, "to_extent",
                                    (json_int_t)chosen.extent));
    repair->room--;
}

/* Slabs with one copy left first: the next failure would be their last. */
static void fill_batch(struct repair *repair, bool last_copies)
{
    const struct database *database = repair->database;
    size_t count, first = database_slabs(database, repair->vdisk->base.id, &count);

    for (size_t i = first; i < first + count && repair->room > 0; i++) {
        const struct slab_record *slab = database_at(database, TABLE_SLAB, i);
        int index = column_to_move(database, slab);

        if (index >= 0 &&
            (in_sync_columns(slab) <= vdisk_data_columns(repair->vdisk)) == last_copies)
            add_column(repair, slab, (uint64_t)index);
    }
}

static size_t columns_being_filled(const struct database *database,
                                   const struct vdisk_record *vdisk)
{
    size_t count, first = database_slabs(database, vdisk->base.id, &count), filled = 0;

    for (size_t i = first; i < first + count; i++) {
        const struct slab_record *slab = database_at(database, TABLE_SLAB, i);

        for (uint64_t j = 0; j < slab->column_count; j++)
            filled += is_being_filled(database, &slab->columns[j]);
    }
    return filled;
}

json_t *repair_plan(const struct database *database, const struct vdisk_record *vdisk)
{
    cleanup(place_freep) struct place *place = NULL;
    size_t filled = columns_being_filled(database, vdisk);
    struct repair repair = {.database = database, .vdisk = vdisk, .room = REPAIR_BATCH - filled};

    /* A disk that gets new columns begins its resync anew: not for each one. */
    if (filled > REPAIR_BATCH / 2 || place_new(database, &place) < 0)
        return NULL;
    repair.place = place;
    repair.columns = json_array();
    fill_batch(&repair, true);
    fill_batch(&repair, false);
    if (json_array_size(repair.columns) == 0) {
        json_decref(repair.columns);
        return NULL;
    }
    return json_pack("{s:s,s:I,s:I,s:o}", "verb", "vdisk.replace", "vdisk",
                     (json_int_t)vdisk->base.id, "epoch", (json_int_t)vdisk->epoch, "columns",
                     repair.columns);
}

/* ---- what is left ---- */

uint64_t repair_left_bytes(const struct database *database, uint64_t vdisk)
{
    const struct cluster_record *cluster = database_cluster(database);
    size_t count, first = database_slabs(database, vdisk, &count), left = 0;

    for (size_t i = first; i < first + count; i++) {
        const struct slab_record *slab = database_at(database, TABLE_SLAB, i);

        for (uint64_t j = 0; j < slab->column_count; j++) {
            const struct column_record *column = &slab->columns[j];

            left += leaves(database, column) ||
                    (column->state == COLUMN_RECORD_STALE && column->stale_epoch == 0);
        }
    }
    return cluster ? left * cluster->extent_bytes : 0;
}

bool repair_is_stuck(const struct database *database, const struct vdisk_record *vdisk)
{
    json_t *command;

    if (columns_being_filled(database, vdisk) > 0)
        return false;
    command = repair_plan(database, vdisk);
    json_decref(command);
    return !command && repair_left_bytes(database, vdisk->base.id) > 0;
}

struct job_progress repair_progress(const struct job_record *job, uint64_t left_bytes,
                                    uint64_t filled_bytes)
{
    /* more has failed since */
    uint64_t grown_bytes = left_bytes > job->left_bytes ? left_bytes - job->left_bytes : 0;
    struct job_progress progress = {.total_bytes = job->total_bytes + grown_bytes};

    assert(left_bytes > 0);
    filled_bytes = MIN(filled_bytes, left_bytes - 1);
    if (progress.total_bytes > left_bytes - filled_bytes)
        progress.done_bytes = progress.total_bytes - (left_bytes - filled_bytes);
    progress.done_bytes = MAX(progress.done_bytes, job->done_bytes);
    return progress;
}

/* ---- the leader's pass ---- */

static void repair_vdisk(struct node *node, const struct vdisk_record *vdisk)
{
    json_t *command;

    if (vdisk->owner == 0 || node_task_under_way(node, vdisk->base.id) ||
        node_job_is_paused(node, vdisk))
        return;
    command = repair_plan(consensus_database(node->consensus), vdisk);
    if (!command)
        return;
    log_info(node->io, "repair", "columns get new places", "vdisk=%llu epoch=%llu columns=%zu",
             (unsigned long long)vdisk->base.id, (unsigned long long)vdisk->epoch,
             json_array_size(json_object_get(command, "columns")));
    node_propose_as_leader(node, vdisk->base.id, 0, command);
}

void node_repair_pass(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct vdisk_record *vdisk;
    const struct disk_record *disk;
    bool wanted = false;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        wanted |= repair_wanted(database, disk);
        if (disk->state == DISK_RETIRING && disk->role != DISK_ROLE_CACHE &&
            database_used_extents(database, disk->base.id) == 0 &&
            !node_task_under_way(node, disk->base.id))
            node_propose_as_leader(
                node, disk->base.id, 0,
                json_pack("{s:s,s:I}", "verb", "disk.retire", "disk", (json_int_t)disk->base.id));
    }
    for (size_t i = 0; wanted && (vdisk = database_at(database, TABLE_VDISK, i)); i++)
        repair_vdisk(node, vdisk);
}
