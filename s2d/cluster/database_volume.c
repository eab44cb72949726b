/* Verbs of volumes and their slabs. New slabs change nothing that exists: their columns are born
 * in-sync (all zeros), and raise no epoch. One that is born stale (its node is down) does raise it:
 * an "in-sync" for its disk that is under way was decided without it. */
#include <stdio.h>

#include "s2d/cluster/database_internal.h"

#define SLABS_PER_COMMAND 1024
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

bool database_node_of_disk_is_down(const struct database *database, uint64_t id)
{
    const struct disk_record *disk = database_find(database, TABLE_DISK, id);
    const struct node_record *node = disk ? database_find(database, TABLE_NODE, disk->node) : NULL;

    return !node || node->state == NODE_DOWN;
}

void command_check_column(struct command *command, const struct slab_record *slab, uint64_t i,
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
        command_check_column(command, slab, i, i);
        slab->columns[i].generation = command->index; /* I10 */
        slab->columns[i].state =
            database_node_of_disk_is_down(command->database, slab->columns[i].disk)
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

/* {vdisk, slabs: […]}: slabs that exist already are left as they are. */
static void slab_add(struct command *command)
{
    struct vdisk_record *vdisk = command_record(command, "vdisk", TABLE_VDISK);
    const struct volume_record *volume = command_volume_of(command, vdisk);
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
    const struct volume_record *volume = command_volume_of(command, vdisk);

    if (volume && volume->state != VOLUME_DELETING)
        command_refuse(command, -EBUSY, "the volume is in use");
    if (list)
        command_check_slabs(command, list, VDISK_SLABS_MAX);
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

const struct verb volume_verbs[] = {
    {"volume.create", volume_create},   {"volume.online", volume_online},
    {"volume.resize", volume_resize},   {"volume.delete", volume_delete},
    {"volume.removed", volume_removed}, {"slab.add", slab_add},
    {"slab.remove", slab_remove},       {NULL, NULL},
};
