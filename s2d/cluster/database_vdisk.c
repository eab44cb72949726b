/* Verbs of vdisks: who owns, which columns are in-sync, and where they are (I3).
 *
 * Every verb that changes an owner or an in-sync set names the epoch it was decided in, is void in
 * any other (-ESTALE), and raises the epoch by one. The last in-sync column of a slab is never
 * marked stale. */
#include "s2d/cluster/database_internal.h"

/* The vdisk, if the command was decided in its present epoch; else refused. */
static struct vdisk_record *vdisk_at_epoch(struct command *command)
{
    struct vdisk_record *vdisk = command_record(command, "vdisk", TABLE_VDISK);
    uint64_t epoch = command_u64(command, "epoch");

    SOMETIMES_IF(vdisk && vdisk->epoch != epoch, "database: a command of another epoch is void");
    if (vdisk && !command_refused(command) && vdisk->epoch != epoch)
        command_refuse(command, -ESTALE, "void: decided in epoch %llu, it is %llu now",
                       (unsigned long long)epoch, (unsigned long long)vdisk->epoch);
    return vdisk;
}

/* {vdisk, epoch, owner}: a new owner, a new session. */
static void vdisk_own(struct command *command)
{
    struct vdisk_record *vdisk = vdisk_at_epoch(command);
    struct node_record *owner = command_record(command, "owner", TABLE_NODE);
    const struct volume_record *volume = command_volume_of(command, vdisk);
    bool preferred = command_bool_or(command, "preferred", false);

    if (volume && volume->state == VOLUME_DELETING)
        command_refuse(command, -ESTALE, "the volume is being deleted");
    if (owner && owner->state == NODE_DOWN)
        command_refuse(command, -EAGAIN, "node %s is down", owner->name);
    if (command_refused(command))
        return;
    vdisk->epoch++;
    vdisk->session = vdisk->epoch;
    vdisk->owner = owner->base.id;
    if (preferred)
        vdisk->preferred_owner = owner->base.id;
    database_put(command->database, TABLE_VDISK, vdisk);
}

static bool contains(const uint64_t *list, size_t count, uint64_t value)
{
    for (size_t i = 0; i < count; i++) {
        if (list[i] == value)
            return true;
    }
    return false;
}

/* In-sync columns elsewhere are enough for the slab's data (I3). */
static bool has_other_in_sync(const struct vdisk_record *vdisk, const struct slab_record *slab,
                              const uint64_t *disks, size_t count)
{
    unsigned others = 0;

    for (uint64_t i = 0; i < slab->column_count; i++)
        others += slab->columns[i].state == COLUMN_RECORD_IN_SYNC &&
                  !contains(disks, count, slab->columns[i].disk);
    return others >= vdisk_data_columns(vdisk);
}

/* Whether marking the slab's columns on these disks stale changes anything. With too few in-sync
 * columns left elsewhere the slab keeps all it has: it waits, offline, for one of them. */
static bool slab_would_change(const struct vdisk_record *vdisk, const struct slab_record *slab,
                              const uint64_t *disks, size_t count)
{
    if (!has_other_in_sync(vdisk, slab, disks, count))
        return false;
    for (uint64_t i = 0; i < slab->column_count; i++) {
        if (slab->columns[i].state == COLUMN_RECORD_IN_SYNC &&
            contains(disks, count, slab->columns[i].disk))
            return true;
    }
    return false;
}

static void mark_slab_stale(struct database *database, struct slab_record *slab,
                            const uint64_t *disks, size_t count, uint64_t epoch)
{
    for (uint64_t i = 0; i < slab->column_count; i++) {
        struct column_record *column = &slab->columns[i];

        if (column->state == COLUMN_RECORD_IN_SYNC && contains(disks, count, column->disk)) {
            column->state = COLUMN_RECORD_STALE;
            column->stale_epoch = epoch;
        }
    }
    database_put(database, TABLE_SLAB, slab);
}

/* Marks the vdisk's columns on the disks stale in the epoch that comes next. Returns whether any
 * changed. */
static bool mark_stale(struct database *database, struct vdisk_record *vdisk, const uint64_t *disks,
                       size_t disk_count)
{
    size_t count, first = database_slabs(database, vdisk->base.id, &count);
    bool changed = false;

    for (size_t i = first; i < first + count; i++) {
        struct slab_record *slab = (struct slab_record *)database_at(database, TABLE_SLAB, i);

        if (!slab_would_change(vdisk, slab, disks, disk_count))
            continue;
        mark_slab_stale(database, slab, disks, disk_count, vdisk->epoch + 1);
        changed = true;
    }
    return changed;
}

#define STALE_DISKS_MAX 64

/* {vdisk, epoch, disks: […]} */
static void vdisk_stale(struct command *command)
{
    struct vdisk_record *vdisk = vdisk_at_epoch(command);
    const json_t *list = command_list(command, "disks");
    uint64_t disks[STALE_DISKS_MAX];
    size_t count = list ? json_array_size(list) : 0;

    if (count > STALE_DISKS_MAX)
        command_refuse(command, -EINVAL, "at most %d disks at once", STALE_DISKS_MAX);
    if (command_refused(command))
        return;
    for (size_t i = 0; i < count; i++)
        disks[i] = (uint64_t)json_integer_value(json_array_get(list, i));
    if (!mark_stale(command->database, vdisk, disks, count)) {
        command_refuse(command, -EALREADY,
                       "nothing to mark: no column there is in-sync, or it is "
                       "the last of its slab");
        return;
    }
    vdisk->epoch += !PLANTED(EPOCH_KEPT);
    database_put(command->database, TABLE_VDISK, vdisk);
}

void database_exclude(struct command *command, const uint64_t *disks, size_t count, uint64_t node)
{
    struct database *database = command->database;
    struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = (struct vdisk_record *)database_at(database, TABLE_VDISK, i));
         i++) {
        bool loses_owner = node != 0 && vdisk->owner == node;

        if (loses_owner)
            vdisk->owner = 0;
        if (!mark_stale(database, vdisk, disks, count) && !loses_owner)
            continue;
        vdisk->epoch++;
        database_put(database, TABLE_VDISK, vdisk);
    }
}

static bool has_stale_column(const struct database *database, const struct vdisk_record *vdisk,
                             uint64_t disk)
{
    size_t count, first = database_slabs(database, vdisk->base.id, &count);

    for (size_t i = first; i < first + count; i++) {
        const struct slab_record *slab = database_at(database, TABLE_SLAB, i);

        for (uint64_t j = 0; j < slab->column_count; j++)
            if (slab->columns[j].disk == disk && slab->columns[j].state == COLUMN_RECORD_STALE)
                return true;
    }
    return false;
}

void database_void_in_sync(struct command *command, uint64_t disk)
{
    struct database *database = command->database;
    struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = (struct vdisk_record *)database_at(database, TABLE_VDISK, i));
         i++) {
        if (!has_stale_column(database, vdisk, disk))
            continue;
        vdisk->epoch++;
        database_put(database, TABLE_VDISK, vdisk);
    }
}

static bool mark_slab_in_sync(struct database *database, struct slab_record *slab, uint64_t disk,
                              uint64_t epoch)
{
    bool changed = false;

    for (uint64_t j = 0; j < slab->column_count; j++) {
        struct column_record *column = &slab->columns[j];

        if (column->disk != disk || column->state == COLUMN_RECORD_IN_SYNC)
            continue;
        column->state = COLUMN_RECORD_IN_SYNC;
        column->stale_epoch = 0;
        column->in_sync_epoch = epoch;
        database_put(database, TABLE_SLAB, slab);
        changed = true;
    }
    return changed;
}

/* Marks the vdisk's columns on the disk in-sync in the epoch that comes next; slabs: of these;
 * NULL: of all. Returns whether any changed. */
static bool mark_in_sync(struct database *database, const struct vdisk_record *vdisk, uint64_t disk,
                         const json_t *slabs)
{
    size_t count, first = database_slabs(database, vdisk->base.id, &count);
    bool changed = false;

    for (size_t i = 0; slabs && i < json_array_size(slabs); i++) {
        uint64_t number = (uint64_t)json_integer_value(json_array_get(slabs, i));
        struct slab_record *slab =
            database_find_mutable(database, TABLE_SLAB, slab_id(vdisk->base.id, number));

        changed |= slab && mark_slab_in_sync(database, slab, disk, vdisk->epoch + 1);
    }
    for (size_t i = first; !slabs && i < first + count; i++)
        changed |=
            mark_slab_in_sync(database, (struct slab_record *)database_at(database, TABLE_SLAB, i),
                              disk, vdisk->epoch + 1);
    return changed;
}

bool database_disk_may_join(const struct database *database, uint64_t id)
{
    const struct disk_record *disk = database_find(database, TABLE_DISK, id);

    return disk && disk->state != DISK_FAILED && !database_node_of_disk_is_down(database, id);
}

#define IN_SYNC_SLABS_MAX 1024

/* {vdisk, epoch, disk, slabs?: […]}: what is stale on the disk has caught up. Proposed by the owner
 * only, who makes writes wait for the disk until it is answered: so the epoch rises too when the
 * answer is no. */
static void vdisk_in_sync(struct command *command)
{
    struct vdisk_record *vdisk = PLANTED(JOIN_OLD_EPOCH)
                                     ? command_record(command, "vdisk", TABLE_VDISK)
                                     : vdisk_at_epoch(command);
    struct disk_record *disk = command_record(command, "disk", TABLE_DISK);
    const json_t *slabs = command_list_or(command, "slabs", NULL);
    struct database *database = command->database;

    if (slabs)
        command_check_slabs(command, slabs, IN_SYNC_SLABS_MAX);
    if (command_refused(command))
        return;
    if (!database_disk_may_join(database, disk->base.id)) {
        SOMETIMES("database: a disk that is gone is not called in-sync");
    } else if (!mark_in_sync(database, vdisk, disk->base.id, slabs)) {
        command_refuse(command, -EALREADY, "nothing to mark: no column there is stale");
        return;
    }
    vdisk->epoch++;
    database_put(database, TABLE_VDISK, vdisk);
}

bool database_disk_is_to_be_empty(const struct disk_record *disk)
{
    return disk->state == DISK_FAILED || disk->state == DISK_RETIRING;
}

/* A column on `disk` of the slab that may leave it: a stale one; one that is in-sync only where
 * another one is too (I3), and its disk is to be empty (a failed one has such a column when it was
 * the last one, and others caught up since). NULL: refused. */
static const struct column_record *column_to_replace(struct command *command,
                                                     const struct vdisk_record *vdisk,
                                                     const struct slab_record *slab, uint64_t disk)
{
    const struct disk_record *from = database_find(command->database, TABLE_DISK, disk);

    for (uint64_t i = 0; i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];

        if (column->disk != disk)
            continue;
        if (column->state == COLUMN_RECORD_STALE || (from && database_disk_is_to_be_empty(from) &&
                                                     has_other_in_sync(vdisk, slab, &disk, 1)))
            return column;
    }
    command_refuse(command, -ESTALE, "the column is not there, or is in-sync and needed");
    return NULL;
}

struct replacement {
    struct slab_record *slab; /* the database's */
    size_t index;             /* of the column */
    struct column_record place;
};

/* One element of vdisk.replace's list: {slab, disk, to_disk, to_extent}. */
static void parse_replacement(struct command *command, const struct vdisk_record *vdisk,
                              const json_t *json, struct replacement *ret_replacement)
{
    uint64_t number = (uint64_t)json_integer_value(json_object_get(json, "slab"));
    uint64_t disk = (uint64_t)json_integer_value(json_object_get(json, "disk"));
    struct slab_record *slab =
        number < VDISK_SLABS_MAX
            ? database_find_mutable(command->database, TABLE_SLAB, slab_id(vdisk->base.id, number))
            : NULL;
    const struct column_record *column;
    struct slab_record next;

    if (!slab) {
        command_refuse(command, -ENOENT, "there is no such slab");
        return;
    }
    column = column_to_replace(command, vdisk, slab, disk);
    if (!column)
        return;
    *ret_replacement = (struct replacement){
        .slab = slab,
        .index = (size_t)(column - slab->columns),
        .place = {.disk = (uint64_t)json_integer_value(json_object_get(json, "to_disk")),
                  .extent = (uint64_t)json_integer_value(json_object_get(json, "to_extent")),
                  .generation = command->index,  /* I10 */
                  .state = COLUMN_RECORD_STALE}, /* since epoch 0: all of it is to be copied */
    };
    next = *slab;
    next.columns[ret_replacement->index] = ret_replacement->place;
    command_check_column(command, &next, ret_replacement->index, next.column_count);
}

static bool clash(const struct replacement *a, const struct replacement *b)
{
    return a->slab == b->slab ||
           (a->place.disk == b->place.disk && a->place.extent == b->place.extent);
}

#define REPLACEMENTS_MAX 64

/* {vdisk, epoch, columns: [{slab, disk, to_disk, to_extent}]}: columns get new places, one a slab,
 * where they are to be copied whole. All of it or nothing. */
static void vdisk_replace(struct command *command)
{
    struct database *database = command->database;
    struct vdisk_record *vdisk = vdisk_at_epoch(command);
    const json_t *list = command_list(command, "columns");
    struct replacement replacements[REPLACEMENTS_MAX];
    size_t count = list ? json_array_size(list) : 0;

    if (count == 0 || count > REPLACEMENTS_MAX)
        command_refuse(command, -EINVAL, "from 1 to %d columns at once", REPLACEMENTS_MAX);
    for (size_t i = 0; !command_refused(command) && i < count; i++) {
        parse_replacement(command, vdisk, json_array_get(list, i), &replacements[i]);
        for (size_t j = 0; !command_refused(command) && j < i; j++) {
            if (clash(&replacements[i], &replacements[j]))
                command_refuse(command, -EINVAL, "two columns of a slab, or in one place");
        }
    }
    if (command_refused(command))
        return;
    for (size_t i = 0; i < count; i++) {
        struct slab_record old = *replacements[i].slab;

        replacements[i].slab->columns[replacements[i].index] = replacements[i].place;
        database_put_slab(database, replacements[i].slab, &old);
    }
    vdisk->epoch++;
    database_put(database, TABLE_VDISK, vdisk);
}

/* {vdisk, epoch, number}: the owner says that nothing is written in the slab and waits for this
 * epoch to end, so in its epoch the command is never refused. Raising it keeps a copy of the
 * command that comes late from dropping the slab's successor. */
static void slab_release(struct command *command)
{
    struct vdisk_record *vdisk = vdisk_at_epoch(command);
    uint64_t number = command_u64(command, "number");
    struct slab_record *slab;

    if (command_refused(command))
        return;
    slab = number <= UINT32_MAX ? database_find_mutable(command->database, TABLE_SLAB,
                                                        slab_id(vdisk->base.id, number))
                                : NULL;
    if (slab)
        database_remove_slab(command->database, slab);
    vdisk->epoch++;
    database_put(command->database, TABLE_VDISK, vdisk);
}

const struct verb vdisk_verbs[] = {
    {"vdisk.own", vdisk_own},         {"slab.release", slab_release},
    {"vdisk.stale", vdisk_stale},     {"vdisk.in_sync", vdisk_in_sync},
    {"vdisk.replace", vdisk_replace}, {NULL, NULL},
};
