/* What administrators ask of a volume: create, move, look, check (node.h). */
#include "s2d/node/volumes_internal.h"

static bool is_exported(struct node *node, const char *name)
{
    struct csv_volume *volume = csv_volume_find(node->csv, name);

    csv_volume_put(volume);
    return volume != NULL;
}

int co_node_create_volume(struct node *node, const char *name, uint64_t size_bytes,
                          const char *resiliency, uint64_t data_columns, bool thin, uint64_t owner,
                          struct node_message *ret_message)
{
    uint64_t deadline_ns = io_now_ns(node->io) + 60 * SEC;
    const struct volume_record *volume;
    struct command_result result;
    uint64_t id;
    int r;

    r = co_node_propose(node,
                        json_pack("{s:s,s:s,s:I,s:s,s:I,s:b,s:I}", "verb", "volume.create", "name",
                                  name, "size_bytes", (json_int_t)size_bytes, "resiliency",
                                  resiliency, "data_columns", (json_int_t)data_columns, "thin",
                                  thin, "owner", (json_int_t)(owner ? owner : node->identity.node)),
                        &result);
    id = (uint64_t)json_integer_value(json_object_get(result.reply, "volume"));
    node_explain(&result, ret_message);
    command_result_done(&result);
    if (r < 0)
        return r;
    while (r == 0 && !node->stopping) {
        volume = database_find(consensus_database(node->consensus), TABLE_VOLUME, id);
        if (!volume) {
            node_say(ret_message, "volume %s was deleted again", name);
            return -ENOENT;
        }
        if (volume->state == VOLUME_ONLINE && is_exported(node, name))
            break;
        r = co_cond_wait_until(&node->changed, deadline_ns);
    }
    if (r == -ETIMEDOUT)
        node_say(ret_message,
                 "volume %s was created, but is not online yet: 's2d volume show %s' says why",
                 name, name);
    return r;
}

int co_node_move_volume(struct node *node, uint64_t id, uint64_t to,
                        struct node_message *ret_message)
{
    uint64_t deadline_ns = io_now_ns(node->io) + 2 * HAND_OVER_NS;
    const struct volume_record *record =
        database_find(consensus_database(node->consensus), TABLE_VOLUME, id);
    struct node_volume *volume = record ? node_find_volume(node, record->vdisk) : NULL;
    const struct node_record *target = node_record_of(node, to);
    const struct vdisk_record *vdisk;
    char name[NAME_MAX_BYTES];
    uint64_t vdisk_id;

    if (!record || !volume) {
        node_say(ret_message, "there is no such volume");
        return -ENOENT;
    }
    if (!target || target->state != NODE_UP) {
        node_say(ret_message, "the node to move to is not up");
        return -EHOSTUNREACH;
    }
    if (!volume->fs) {
        node_say(ret_message, "volume %s is not served by this node", record->name);
        return -EREMOTE;
    }
    if (to == node->identity.node)
        return 0;
    text_set(name, sizeof(name), record->name); /* records and volumes go while we wait */
    vdisk_id = volume->vdisk;
    volume->move_to = to;
    co_cond_signal(&volume->changed);
    while ((volume = node_find_volume(node, vdisk_id)) && volume->move_to) {
        int r = co_cond_wait_until(&node->changed, deadline_ns);

        if (r < 0) {
            node_say(ret_message, "the move of volume %s takes longer than expected", name);
            return r;
        }
    }
    vdisk = database_find(consensus_database(node->consensus), TABLE_VDISK, vdisk_id);
    if (!vdisk || vdisk->owner != to) {
        node_say(ret_message,
                 "volume %s could not be moved: requests were under way, or the node "
                 "to move to went down; try again",
                 name);
        return -EAGAIN;
    }
    return 0;
}

bool node_serves(struct node *node, uint64_t vdisk)
{
    const struct node_volume *volume = node->member ? node_find_volume(node, vdisk) : NULL;

    return volume && volume->fs && volume->mirror && !mirror_stopped(volume->mirror) &&
           node_lease_held(node);
}

int co_node_volume_status(struct node *node, uint64_t id, struct node_volume_status *ret_status)
{
    const struct volume_record *record =
        database_find(consensus_database(node->consensus), TABLE_VOLUME, id);
    struct node_volume *volume = record ? node_find_volume(node, record->vdisk) : NULL;
    struct mirror_status mirror;
    struct fs_statfs statfs;

    *ret_status = (struct node_volume_status){0};
    if (!volume)
        return -ENOENT;
    ret_status->owned = volume->mirror != NULL;
    ret_status->serving = volume->fs != NULL;
    ret_status->read_only = volume->fs && fs_is_read_only(volume->fs);
    ret_status->waiting = volume->waiting;
    if (volume->mirror) {
        mirror = mirror_status(volume->mirror);
        ret_status->detached_slabs =
            mirror_detached_slabs(volume->mirror, &ret_status->detached_disk);
        ret_status->slabs_waiting = mirror.slabs_waiting;
        ret_status->stale_disks = mirror.stale_disks;
        ret_status->catching_disks = mirror.catching_disks;
        ret_status->compare_blocks = mirror.compare_blocks;
        ret_status->copied_blocks = mirror.copied_blocks;
        ret_status->healed_blocks = mirror.healed_blocks;
        ret_status->lost_blocks = mirror.lost_blocks;
        ret_status->reads = mirror.reads;
        ret_status->writes = mirror.writes;
        ret_status->read_bytes = mirror.read_bytes;
        ret_status->written_bytes = mirror.written_bytes;
    }
    if (volume->fs && co_fs_statfs(volume->fs, &statfs) == 0) {
        ret_status->free_bytes = statfs.available_bytes;
        ret_status->total_bytes = statfs.total_bytes;
    }
    return 0;
}

int co_node_check_volume(struct node *node, uint64_t id,
                         void (*report)(void *arg, const char *line), void *arg,
                         struct fs_check_result *ret_result, struct mirror_scrub *ret_scrub)
{
    const struct volume_record *record =
        database_find(consensus_database(node->consensus), TABLE_VOLUME, id);
    struct node_volume *volume = record ? node_find_volume(node, record->vdisk) : NULL;
    uint64_t vdisk = volume ? volume->vdisk : 0;
    struct volume_check *check;
    int r = 0;

    if (!volume)
        return -ENOENT;
    if (!volume->fs)
        return -EREMOTE;
    if (volume->check)
        return -EBUSY;
    check = calloc(1, sizeof(*check));
    if (!check)
        return -ENOMEM;
    check->report = report;
    check->arg = arg;
    volume->check = check;
    co_cond_signal(&volume->changed);
    while (!check->done && r != -ECANCELED)
        r = co_cond_wait(&node->changed);
    if (!check->done) {
        check->abandoned = true;
        return -ECANCELED;
    }
    r = check->code;
    *ret_result = check->result;
    free(check);
    volume = node_find_volume(node, vdisk);
    if (r == 0 && (!volume || !volume->mirror))
        r = -ESTALE;
    return r == 0 ? co_mirror_scrub(volume->mirror, report, arg, ret_scrub) : r;
}
