/* The vdisks of this node: each one that the database knows has a struct node_volume here, with a
 * coroutine that walks it between two states: owned by this node (mirror taken over, file system
 * mounted, exported) and not.
 *
 * A session is begun once (I5): an owner that restarted, or whose mirror stopped, asks the database
 * for a new session first, and so takes over in a new epoch like anyone else. What the database
 * says when this node gets its first lease is what an earlier process left: those sessions count as
 * spent.
 *
 * Configurations reach a mirror at once, in the order of the log, from node_volumes_applied(); the
 * coroutine only begins and ends things. */
#include "s2d/node/volumes_internal.h"

const struct vdisk_record *vdisk_record_of(const struct node_volume *volume)
{
    return database_find(consensus_database(volume->owner_node->consensus), TABLE_VDISK,
                         volume->vdisk);
}

const struct volume_record *volume_record_of(const struct node_volume *volume)
{
    return database_find(consensus_database(volume->owner_node->consensus), TABLE_VOLUME,
                         volume->volume);
}

struct node_volume *node_find_volume(struct node *node, uint64_t vdisk)
{
    list_for_each (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);

        if (volume->vdisk == vdisk)
            return volume;
    }
    return NULL;
}

void node_forget_metadata(struct node *node)
{
    list_for_each (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);

        if (!volume->fs)
            continue;
        fs_forget(volume->fs);
        volume->checkpoint_ns = 0; /* soon: what is changed can leave then, too */
    }
}

static void configure(struct node_volume *volume)
{
    const struct vdisk_record *vdisk = vdisk_record_of(volume);
    struct vdisk_config *config;
    int r;

    co_cond_signal(&volume->changed);
    if (!volume->mirror)
        return;
    if (!vdisk ||
        volume_make_config(consensus_database(volume->owner_node->consensus), vdisk, &config) < 0) {
        mirror_stop(volume->mirror);
        return;
    }
    r = mirror_configure(volume->mirror, config);
    if (r == -ENOMEM)
        log_error(volume->owner_node->io, "volumes", "no memory for a configuration", "vdisk=%llu",
                  (unsigned long long)volume->vdisk);
    vdisk_config_put(config);
}

static uint64_t vdisk_of_change(const struct database_change *change)
{
    switch (change->table) {
    case TABLE_VDISK:
        return change->id;
    case TABLE_SLAB:
        return change->id >> 32;
    case TABLE_CLUSTER:
    case TABLE_TOKEN:
    case TABLE_NODE:
    case TABLE_DISK:
    case TABLE_VOLUME:
    case TABLE_VM:
    case TABLE_JOB:
    case TABLE_EVENT:
    case TABLE_COUNT:
        return 0;
    }
    return 0;
}

static bool concerns_vdisks(const struct database_change *changes, size_t count)
{
    bool concerned = changes == NULL;

    for (size_t i = 0; i < count && !concerned; i++)
        concerned = changes[i].table == TABLE_VDISK;
    return concerned;
}

/* changes NULL: everything may be different. */
void node_volumes_applied(struct node *node, const struct database_change *changes, size_t count)
{
    if (node->member && !node->stopping && concerns_vdisks(changes, count))
        node_follow_volumes(node);
    list_for_each (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);
        bool touched = changes == NULL;

        for (size_t i = 0; i < count && !touched; i++)
            touched = vdisk_of_change(&changes[i]) == volume->vdisk ||
                      (changes[i].table == TABLE_VOLUME && changes[i].id == volume->volume);
        if (touched)
            configure(volume);
    }
}

/* Above their watermarks all vdisks together must leave room in the smallest log (256 MiB) for a
 * takeover of each of them to write all of it again, and to be interrupted and begin anew a few
 * times. */
#define UNSETTLED_BYTES (24 * MIB)
#define UNSETTLED_BYTES_MAX (16 * MIB)
#define UNSETTLED_BYTES_MIN MIB

uint64_t volume_unsettled_bytes(const struct node *node)
{
    uint64_t count = database_count(consensus_database(node->consensus), TABLE_VDISK);

    return MAX(UNSETTLED_BYTES_MIN, MIN(UNSETTLED_BYTES / MAX(count, 1), UNSETTLED_BYTES_MAX));
}

static void share_logs(struct node *node)
{
    list_for_each (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);

        if (volume->mirror)
            mirror_set_unsettled_bytes(volume->mirror, volume_unsettled_bytes(node));
    }
}

void node_follow_volumes(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = database_at(database, TABLE_VDISK, i)); i++) {
        struct node_volume *volume = node_find_volume(node, vdisk->base.id);

        if (volume)
            continue;
        volume = calloc(1, sizeof(*volume));
        if (!volume)
            return;
        volume->owner_node = node;
        volume->vdisk = vdisk->base.id;
        volume->volume = vdisk->volume;
        volume->running = true;
        co_cond_init(&volume->changed);
        if (co_group_spawn(&node->volumes_group, node->io, "volume", volume_main, volume) < 0) {
            free(volume);
            return;
        }
        list_push_back(&node->volumes, &volume->node);
    }
}

void node_reconcile_volumes(struct node *node)
{
    node_follow_volumes(node);
    list_for_each_safe (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);

        if (volume->running)
            continue;
        list_remove(&volume->node);
        free(volume);
    }
    share_logs(node);
}

/* True when every vdisk has its struct node_volume. */
static bool follows_all(struct node *node)
{
    const struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = database_at(consensus_database(node->consensus), TABLE_VDISK, i));
         i++) {
        if (!node_find_volume(node, vdisk->base.id))
            return false;
    }
    return true;
}

void node_volumes_boot(struct node *node)
{
    node_reconcile_volumes(node);
    if (!follows_all(node)) { /* a session that was spent could be begun again */
        node_fatal(node, "no memory for the volumes");
        return;
    }
    list_for_each (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);
        const struct vdisk_record *vdisk = vdisk_record_of(volume);

        if (vdisk && vdisk->owner == node->identity.node)
            volume->spent_session = vdisk->session;
        co_cond_signal(&volume->changed);
    }
}

/* Another node that is up, for a volume that this one leaves; 0: none. */
static uint64_t successor(struct node *node)
{
    const struct node_record *record;

    for (size_t i = 0; (record = database_at(consensus_database(node->consensus), TABLE_NODE, i));
         i++) {
        if (record->base.id != node->identity.node && record->state == NODE_UP &&
            bus_is_up(node->bus, record->base.id, BUS_CONTROL))
            return record->base.id;
    }
    return 0;
}

static bool serves_any(const struct node *node)
{
    list_for_each (entry, &node->volumes) {
        const struct node_volume *volume = list_entry(entry, struct node_volume, node);

        if ((volume->fs && volume->move_to) || volume->handing_over)
            return true; /* until the database has been told */
    }
    return false;
}

#define STOP_NS (5 * SEC)

static void drop_volume(struct node_volume *volume)
{
    if (volume->fs)
        fs_fail(volume->fs);
    if (volume->mirror)
        mirror_stop(volume->mirror);
    co_cond_signal(&volume->changed);
}

void node_drop_volumes(struct node *node)
{
    if (node->csv)
        csv_stop(node->csv);
    list_for_each (entry, &node->volumes)
        drop_volume(list_entry(entry, struct node_volume, node));
}

void co_node_volumes_stop(struct node *node, bool handover)
{
    uint64_t deadline_ns = io_now_ns(node->io) + STOP_NS, to = handover ? successor(node) : 0;

    list_for_each (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);

        volume->move_to = to;
        co_cond_signal(&volume->changed);
    }
    if (!handover)
        node_drop_volumes(node);
    while (handover && to && serves_any(node)) {
        if (co_cond_wait_until(&node->changed, deadline_ns) < 0)
            break;
    }
    if (handover)
        return;
    csv_stop(node->csv);
    co_group_wait(&node->volumes_group);
    while (!list_empty(&node->volumes)) {
        struct node_volume *volume = list_first(&node->volumes, struct node_volume, node);

        list_remove(&volume->node);
        free(volume);
    }
}
