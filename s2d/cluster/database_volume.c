/* Verbs of volumes, slabs and vdisks: who owns, which columns are in-sync (I3).
 *
 * Every verb that changes an owner or an in-sync set names the epoch it was decided in, is void in
 * any other (-ESTALE), and raises the epoch by one. The last in-sync column of a slab is never
 * marked stale. New slabs change nothing that exists: their columns are born in-sync (all zeros),
 * and raise no epoch. One that is born stale (its node is down) does raise it: an "in-sync" for its
 * disk that is under way was decided without it. */
#include <stdio.h>

#include "s2d/cluster/database_internal.h"

#define SLABS_PER_COMMAND 1024
#define VDISK_ID_MAX (UINT64_C(1) << 31) /* slab_id() is below 2^63, which JSON can hold */
#define VOLUME_BYTES_MIN (64 * MIB)
#define VOLUME_BYTES_MAX (UINT64_C(1) << 47)

/* ---- volumes ---- */

static void check_size(struct command *command, uint64_t size_bytes)
{
    uint64_t extent_bytes = database_cluster(command->database)->extent_bytes;

    if (size_bytes < VOLUME_BYTES_MIN || size_bytes > VOLUME_BYTES_MAX || size_bytes % MIB)
        command_refuse(command, -EINVAL, "a volume has from 64 MiB to 128 TiB, in whole MiB");
    else if (size_bytes > VDISK_SLABS_MAX * extent_bytes)
        command_refuse(command, -EINVAL,
                       "with extents of %llu MiB a volume has at most %llu GiB: make several",
                       (unsigned long long)(extent_bytes / MIB),
                       (unsigned long long)(VDISK_SLABS_MAX * extent_bytes / GIB));
}

/* Places for copies: nodes with a disk that can be placed on; in a cluster of one node its disks.
 */
static size_t count_places(const struct database *database)
{
    bool one_node = database_count(database, TABLE_NODE) == 1;
    uint64_t nodes[NODES_MAX];
    const struct disk_record *disk;
    size_t disks = 0, count = 0;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        size_t j = 0;

        if (disk->state != DISK_OK || disk->role != DISK_ROLE_CAPACITY)
            continue;
        disks++;
        while (j < count && nodes[j] != disk->node)
            j++;
        if (j == count && count < NODES_MAX)
            nodes[count++] = disk->node;
    }
    return one_node ? disks : count;
}

/* The shape of parity2 where none is asked for: as wide as leaves a place to rebuild on, from 7. */
static uint64_t default_data_columns(size_t places)
{
    return places >= 8 ? 6 : places >= 7 ? 4 : 2;
}

/* Returns the data columns: 0 for a mirror. asked: 0 is the default. */
static uint64_t check_parity(struct command *command, unsigned resiliency, uint64_t asked)
{
    size_t places = count_places(command->database);
    uint64_t data_columns = asked ? asked : default_data_columns(places);

    if (resiliency != RESILIENCY_PARITY2) {
        if (asked)
            command_refuse(command, -EINVAL, "only parity2 has columns of data and parity");
        return 0;
    }
    if (data_columns < 2 || data_columns > PARITY2_DATA_COLUMNS_MAX)
        command_refuse(command, -EINVAL, "parity2 has from 2+2 to %d+2 columns",
                       PARITY2_DATA_COLUMNS_MAX);
    else if (places < data_columns + PARITY2_COLUMNS)
        command_refuse(
            command, -ENOSPC,
            "parity2 with %llu+2 columns needs disks on %llu nodes, there are %zu: claim "
            "more, or choose another resiliency",
            (unsigned long long)data_columns, (unsigned long long)data_columns + PARITY2_COLUMNS,
            places);
    return data_columns;
}

static void check_places(struct command *command, unsigned resiliency)
{
    size_t places = count_places(command->database);

    if (places < resiliency_copies(resiliency))
        command_refuse(command, -ENOSPC,
                       "%s needs disks on %u nodes (or %u disks in a cluster of one node), there "
                       "are %zu: claim more, or choose another resiliency",
                       resiliency_words[resiliency], resiliency_copies(resiliency),
                       resiliency_copies(resiliency), places);
}

/* Volumes that are not being deleted. */
static size_t count_volumes(const struct database *database)
{
    const struct volume_record *volume;
    size_t count = 0;

    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++)
        count += volume->state != VOLUME_DELETING;
    return count;
}

/* {name, size_bytes, resiliency, data_columns, thin, owner, time_ns}: its slabs and its file system
 * come next; then volume.online. */
static void volume_create(struct command *command)
{
    struct database *database = command->database;
    const char *name = command_new_name(command, "name", TABLE_VOLUME);
    uint64_t size_bytes = command_u64(command, "size_bytes");
    unsigned resiliency = command_word(command, "resiliency", resiliency_words);
    uint64_t data_columns = command_u64_or(command, "data_columns", 0);
    bool thin = command_bool_or(command, "thin", true);
    struct node_record *owner = command_record(command, "owner", TABLE_NODE);
    const struct cluster_record *cluster = database_cluster(database);
    struct volume_record *volume;
    struct vdisk_record *vdisk;

    if (!cluster->extent_bytes)
        command_refuse(command, -ENOENT, "there is no pool yet: 's2d pool create'");
    check_size(command, size_bytes);
    check_places(command, resiliency);
    data_columns = check_parity(command, resiliency, data_columns);
    if (owner && owner->state == NODE_DOWN)
        command_refuse(command, -EAGAIN, "node %s is down: choose another owner", owner->name);
    if (count_volumes(database) >= VOLUMES_MAX)
        command_refuse(command, -ENOSPC, "a cluster has at most %d volumes", VOLUMES_MAX);
    if (cluster->next_id >= VDISK_ID_MAX)
        command_refuse(command, -ENOSPC, "this cluster has used up its numbers");
    if (command_refused(command))
        return;
    volume = record_new(TABLE_VOLUME, database_new_id(database));
    vdisk = record_new(TABLE_VDISK, database_new_id(database));
    if (!volume || !vdisk)
        abort();
    SET_TEXT(volume->name, name);
    volume->vdisk = vdisk->base.id;
    volume->size_bytes = size_bytes;
    volume->resiliency = resiliency;
    volume->thin = thin;
    volume->state = VOLUME_CREATING;
    volume->created_ns = command_time_ns(command);
    vdisk->volume = volume->base.id;
    vdisk->resiliency = resiliency;
    vdisk->data_columns = data_columns;
    vdisk->slab_bytes = cluster->extent_bytes * vdisk_data_columns(vdisk);
    vdisk->size_bytes = ALIGN_UP(size_bytes, vdisk->slab_bytes);
    vdisk->epoch = 1;
    vdisk->session = 1;
    vdisk->owner = owner->base.id;
    vdisk->preferred_owner = owner->base.id;
    database_put(database, TABLE_VOLUME, volume);
    database_put(database, TABLE_VDISK, vdisk);
    command->result->reply = json_pack("{s:I,s:I}", "volume", (json_int_t)volume->base.id, "vdisk",
                                       (json_int_t)vdisk->base.id);
}

/* {volume, session}: formatted by its owner, in that session: a later owner may have begun to
 * format it again. */
static void volume_online(struct command *command)
{
    struct volume_record *volume = command_record(command, "volume", TABLE_VOLUME);
    uint64_t session = command_u64(command, "session");
    const struct vdisk_record *vdisk =
        volume ? database_find(command->database, TABLE_VDISK, volume->vdisk) : NULL;

    if (volume && volume->state == VOLUME_DELETING)
        command_refuse(command, -ESTALE, "the volume is being deleted");
    if (vdisk && (vdisk->session != session || vdisk->owner == 0))
        command_refuse(command, -ESTALE, "void: volume %s has another owner by now", volume->name);
    if (command_refused(command) || volume->state == VOLUME_ONLINE)
        return;
    volume->state = VOLUME_ONLINE;
    database_put(command->database, TABLE_VOLUME, volume);
    database_add_event(command, SEVERITY_INFORMATION, "volume.created", volume->name,
                       "volume %s is online", volume->name);
}

/* {volume, size_bytes}: larger only. */
static void volume_resize(struct command *command)
{
    struct volume_record *volume = command_record(command, "volume", TABLE_VOLUME);
    uint64_t size_bytes = command_u64(command, "size_bytes");
    struct vdisk_record *vdisk;

    check_size(command, size_bytes);
    if (volume && volume->state == VOLUME_DELETING)
        command_refuse(command, -ESTALE, "the volume is being deleted");
    if (volume && size_bytes < volume->size_bytes)
        command_refuse(command, -EINVAL, "volume %s cannot shrink: it has %llu bytes", volume->name,
                       (unsigned long long)volume->size_bytes);
    if (command_refused(command))
        return;
    vdisk = database_find_mutable(command->database, TABLE_VDISK, volume->vdisk);
    volume->size_bytes = size_bytes;
    vdisk->size_bytes = ALIGN_UP(size_bytes, vdisk->slab_bytes);
    database_put(command->database, TABLE_VOLUME, volume);
    database_put(command->database, TABLE_VDISK, vdisk);
}

static bool volume_has_vms(const struct database *database, const char *name, const char **ret_vm)
{
    const struct vm_record *vm;
    size_t length = strlen(name);

    if (length == 0)
        return false; /* deleted already */
    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++) {
        for (uint64_t disk = 0; disk < vm->disk_count; disk++) {
            if (strncmp(vm->disks[disk], name, length) == 0 && vm->disks[disk][length] == '/') {
                *ret_vm = vm->name;
                return true;
            }
        }
    }
    return false;
}

/* {volume}: gone for its users now; slabs are freed by a job (slab.remove), the last of which
 * removes the records. */
static void volume_delete(struct command *command)
{
    struct database *database = command->database;
    struct volume_record *volume = command_record(command, "volume", TABLE_VOLUME);
    struct vdisk_record *vdisk;
    const char *vm;

    if (volume && volume->state == VOLUME_DELETING)
        command_refuse(command, -EALREADY, "the volume is being deleted");
    if (volume && volume_has_vms(database, volume->name, &vm))
        command_refuse(command, -EBUSY, "the VM %s has a disk on volume %s: delete the VM first",
                       vm, volume->name);
    if (command_refused(command))
        return;
    vdisk = database_find_mutable(database, TABLE_VDISK, volume->vdisk);
    volume->state = VOLUME_DELETING;
    SET_TEXT(volume->name, ""); /* the name is free again */
    vdisk->owner = 0;
    vdisk->epoch++;
    database_put(database, TABLE_VOLUME, volume);
    database_put(database, TABLE_VDISK, vdisk);
}

/* {volume}: a deleted volume whose last slab is gone. */
static void volume_removed(struct command *command)
{
    struct database *database = command->database;
    struct volume_record *volume = command_record(command, "volume", TABLE_VOLUME);
    size_t slabs;

    if (command_refused(command))
        return;
    database_slabs(database, volume->vdisk, &slabs);
    if (volume->state != VOLUME_DELETING || slabs > 0) {
        command_refuse(command, -EBUSY, "the volume still has slabs");
        return;
    }
    database_remove(database, TABLE_VDISK, volume->vdisk);
    database_remove(database, TABLE_VOLUME, volume->base.id);
}

/* ---- slabs ---- */

/* Whether column i may be placed as it says, next to the first `count` of its slab. */
static void check_new_column(struct command *command, const struct slab_record *slab, uint64_t i,
                             uint64_t count)
{
    const struct column_record *column = &slab->columns[i];
    const struct disk_record *disk = database_find(command->database, TABLE_DISK, column->disk);

    if (!disk || disk->state != DISK_OK || column->extent >= disk->extents)
        command_refuse(command, -EAGAIN, "a disk of the placement is not there any more");
    if (!database_extent_is_free(command->database, column->disk, column->extent))
        command_refuse(command, -EAGAIN, "an extent of the placement is taken");
    for (uint64_t other = 0; other < count; other++) {
        if (other != i && slab->columns[other].disk == column->disk)
            command_refuse(command, -EINVAL, "two columns of a slab on one disk");
    }
}

static bool node_of_disk_is_down(const struct database *database, uint64_t id)
{
    const struct disk_record *disk = database_find(database, TABLE_DISK, id);
    const struct node_record *node = disk ? database_find(database, TABLE_NODE, disk->node) : NULL;

    return !node || node->state == NODE_DOWN;
}

/* One element of slab.add's list: {number, columns: [{disk, extent}]}. NULL: refused. */
static struct slab_record *parse_slab(struct command *command, const struct vdisk_record *vdisk,
                                      const json_t *json)
{
    uint64_t number = (uint64_t)json_integer_value(json_object_get(json, "number"));
    struct slab_record *slab = record_new(TABLE_SLAB, slab_id(vdisk->base.id, number));
    unsigned in_sync = 0;

    if (!slab)
        abort();
    if (record_from_json(TABLE_SLAB, json, slab, NULL) < 0 ||
        number >= vdisk->size_bytes / vdisk->slab_bytes ||
        slab->column_count != vdisk_columns(vdisk)) {
        command_refuse(command, -EINVAL, "slab %llu is not one of this vdisk",
                       (unsigned long long)number);
        record_free(slab);
        return NULL;
    }
    slab->vdisk = vdisk->base.id;
    slab->base.id = slab_id(vdisk->base.id, number);
    for (uint64_t i = 0; i < slab->column_count; i++) {
        check_new_column(command, slab, i, i);
        slab->columns[i].generation = command->index; /* I10 */
        slab->columns[i].state = node_of_disk_is_down(command->database, slab->columns[i].disk)
                                     ? COLUMN_RECORD_STALE
                                     : COLUMN_RECORD_IN_SYNC;
        slab->columns[i].in_sync_epoch = 0;
        slab->columns[i].stale_epoch = 0; /* a stale one is new: all of it is to be copied */
        in_sync += slab->columns[i].state == COLUMN_RECORD_IN_SYNC;
    }
    if (in_sync < vdisk_data_columns(vdisk))
        command_refuse(command, -EAGAIN, "too many nodes of the placement are down");
    return slab;
}

static bool has_stale(const struct slab_record *slab)
{
    for (uint64_t i = 0; i < slab->column_count; i++) {
        if (slab->columns[i].state == COLUMN_RECORD_STALE)
            return true;
    }
    return false;
}

static bool shares_extent(const struct slab_record *a, const struct slab_record *b)
{
    for (uint64_t i = 0; i < a->column_count; i++) {
        for (uint64_t j = 0; j < b->column_count; j++) {
            if (a->columns[i].disk == b->columns[j].disk &&
                a->columns[i].extent == b->columns[j].extent)
                return true;
        }
    }
    return false;
}

static const struct volume_record *volume_of(struct command *command,
                                             const struct vdisk_record *vdisk)
{
    return vdisk ? database_find(command->database, TABLE_VOLUME, vdisk->volume) : NULL;
}

/* {vdisk, slabs: […]}: slabs that exist already are left as they are. */
static void slab_add(struct command *command)
{
    struct vdisk_record *vdisk = command_record(command, "vdisk", TABLE_VDISK);
    const struct volume_record *volume = volume_of(command, vdisk);
    const json_t *list = command_list(command, "slabs");
    struct slab_record *slabs[SLABS_PER_COMMAND];
    bool born_stale = false;
    size_t count = 0;

    if (list && json_array_size(list) > SLABS_PER_COMMAND)
        command_refuse(command, -EINVAL, "at most %d slabs at once", SLABS_PER_COMMAND);
    if (vdisk && (!volume || volume->state == VOLUME_DELETING))
        command_refuse(command, -ESTALE, "the volume is being deleted");
    for (size_t i = 0; !command_refused(command) && i < json_array_size(list); i++) {
        const json_t *json = json_array_get(list, i);
        uint64_t number = (uint64_t)json_integer_value(json_object_get(json, "number"));

        if (database_slab(command->database, vdisk->base.id, number))
            continue;
        slabs[count] = parse_slab(command, vdisk, json);
        count += slabs[count] != NULL;
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (slabs[i]->number == slabs[j]->number || shares_extent(slabs[i], slabs[j]))
                command_refuse(command, -EINVAL, "two slabs in one place");
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (command_refused(command)) {
            record_free(slabs[i]);
            continue;
        }
        born_stale |= has_stale(slabs[i]);
        database_put_slab(command->database, slabs[i], NULL);
    }
    if (born_stale) {
        vdisk->epoch++;
        database_put(command->database, TABLE_VDISK, vdisk);
    }
}

/* {vdisk, numbers: […]}: of a deleted volume, once the stores have freed the extents (or are gone).
 */
static void slab_remove(struct command *command)
{
    struct database *database = command->database;
    struct vdisk_record *vdisk = command_record(command, "vdisk", TABLE_VDISK);
    const json_t *list = command_list(command, "numbers");
    const struct volume_record *volume = volume_of(command, vdisk);

    if (volume && volume->state != VOLUME_DELETING)
        command_refuse(command, -EBUSY, "the volume is in use");
    if (command_refused(command))
        return;
    for (size_t i = 0; i < json_array_size(list); i++) {
        uint64_t number = (uint64_t)json_integer_value(json_array_get(list, i));
        struct slab_record *slab =
            database_find_mutable(database, TABLE_SLAB, slab_id(vdisk->base.id, number));

        if (slab)
            database_remove_slab(database, slab);
    }
}

/* ---- owner and in-sync set ---- */

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
    const struct volume_record *volume = volume_of(command, vdisk);
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
    vdisk->epoch++;
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

/* Marks the vdisk's columns on the disk in-sync in the epoch that comes next. Returns whether any
 * changed. */
static bool mark_in_sync(struct database *database, const struct vdisk_record *vdisk, uint64_t disk)
{
    size_t count, first = database_slabs(database, vdisk->base.id, &count);
    bool changed = false;

    for (size_t i = first; i < first + count; i++) {
        struct slab_record *slab = (struct slab_record *)database_at(database, TABLE_SLAB, i);

        for (uint64_t j = 0; j < slab->column_count; j++) {
            struct column_record *column = &slab->columns[j];

            if (column->disk != disk || column->state == COLUMN_RECORD_IN_SYNC)
                continue;
            column->state = COLUMN_RECORD_IN_SYNC;
            column->stale_epoch = 0;
            column->in_sync_epoch = vdisk->epoch + 1;
            database_put(database, TABLE_SLAB, slab);
            changed = true;
        }
    }
    return changed;
}

/* {vdisk, epoch, disk}: what is stale on the disk has caught up. Proposed by the owner only. */
static void vdisk_in_sync(struct command *command)
{
    struct vdisk_record *vdisk = PLANTED(JOIN_OLD_EPOCH)
                                     ? command_record(command, "vdisk", TABLE_VDISK)
                                     : vdisk_at_epoch(command);
    struct disk_record *disk = command_record(command, "disk", TABLE_DISK);
    struct database *database = command->database;

    if (disk && disk->state == DISK_FAILED)
        command_refuse(command, -ESTALE, "disk %s has failed", disk->name);
    if (disk && node_of_disk_is_down(database, disk->base.id))
        command_refuse(command, -ESTALE, "the node of disk %s is down", disk->name);
    if (command_refused(command))
        return;
    if (!mark_in_sync(database, vdisk, disk->base.id)) {
        command_refuse(command, -EALREADY, "nothing to mark: no column there is stale");
        return;
    }
    vdisk->epoch++;
    database_put(database, TABLE_VDISK, vdisk);
}

/* A column on `disk` of the slab that may leave it: a stale one; one that is in-sync only where
 * another one is too (I3), and its disk is being emptied. NULL: refused. */
static const struct column_record *column_to_replace(struct command *command,
                                                     const struct vdisk_record *vdisk,
                                                     const struct slab_record *slab, uint64_t disk)
{
    const struct disk_record *from = database_find(command->database, TABLE_DISK, disk);

    for (uint64_t i = 0; i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];

        if (column->disk != disk)
            continue;
        if (column->state == COLUMN_RECORD_STALE ||
            (from && from->state == DISK_RETIRING && has_other_in_sync(vdisk, slab, &disk, 1)))
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
    check_new_column(command, &next, ret_replacement->index, next.column_count);
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

/* ---- what must always hold ---- */

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

const struct verb volume_verbs[] = {
    {"volume.create", volume_create},   {"volume.online", volume_online},
    {"volume.resize", volume_resize},   {"volume.delete", volume_delete},
    {"volume.removed", volume_removed}, {"slab.add", slab_add},
    {"slab.remove", slab_remove},       {"vdisk.own", vdisk_own},
    {"vdisk.stale", vdisk_stale},       {"vdisk.in_sync", vdisk_in_sync},
    {"vdisk.replace", vdisk_replace},   {NULL, NULL},
};
