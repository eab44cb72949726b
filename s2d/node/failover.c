/* What only the Raft leader does. Each is a look at the database and one command, repeated until
 * the database is as it should be: so a new leader goes on where the old one stopped. */
#include <stdio.h>

#include "resiliency/mirror.h"
#include "s2d/node/node_internal.h"

#define VOTERS_MAX 5

struct leader_task {
    struct node *node;
    json_t *command;
    uint64_t *under_way; /* cleared when it is answered; may be NULL */
};

static void leader_task_main(void *arg)
{
    struct leader_task *task = arg;
    struct command_result result;

    co_node_propose(task->node, task->command, &result);
    command_result_done(&result);
    if (task->under_way)
        *task->under_way = 0;
    node_reconcile_soon(task->node);
    free(task);
}

/* Takes command. */
static void propose_as_leader(struct node *node, json_t *command, uint64_t *under_way)
{
    struct leader_task *task = malloc(sizeof(*task));

    if (task)
        *task = (struct leader_task){.node = node, .command = command, .under_way = under_way};
    if (!task || !command || !node_spawn(node, "leader", leader_task_main, task)) {
        if (under_way)
            *under_way = 0;
        json_decref(command);
        free(task);
    }
}

/* ---- nodes down ---- */

/* After a cold start everybody gets his time to come (I5). */
static bool is_in_grace(const struct node *node)
{
    return node->leader_cold &&
           io_now_ns(node->io) < node->led_ns + node->options.cold_start_grace_ns;
}

void node_declare_down(void *arg, uint64_t down, uint64_t start_counter, const char *reason)
{
    struct node *node = arg;
    size_t slot = 0;

    if (is_in_grace(node) || node->stopping)
        return;
    for (size_t i = 0; i < WATCH_NODES_MAX; i++) {
        if (node->downs_under_way[i] == down)
            return;
        if (node->downs_under_way[i] == 0)
            slot = i;
    }
    node->downs_under_way[slot] = down;
    log_warn(node->io, "failover", "a node is declared down", "node=%llu reason=\"%s\"",
             (unsigned long long)down, reason);
    propose_as_leader(node,
                      json_pack("{s:s,s:I,s:I,s:s}", "verb", "node.down", "node", (json_int_t)down,
                                "start_counter", (json_int_t)start_counter, "reason", reason),
                      &node->downs_under_way[slot]);
}

/* ---- owners ---- */

static size_t in_sync_columns_on(const struct database *database, uint64_t vdisk, uint64_t on_node)
{
    size_t count, first = database_slabs(database, vdisk, &count), found = 0;

    for (size_t i = first; i < first + count; i++) {
        const struct slab_record *slab = database_at(database, TABLE_SLAB, i);

        for (uint64_t j = 0; j < slab->column_count; j++) {
            const struct disk_record *disk =
                database_find(database, TABLE_DISK, slab->columns[j].disk);

            found +=
                slab->columns[j].state == COLUMN_RECORD_IN_SYNC && disk && disk->node == on_node;
        }
    }
    return found;
}

/* The node that is up and holds the most of it; the preferred one among equals. 0: none is up. */
static uint64_t choose_owner(const struct database *database, const struct vdisk_record *vdisk)
{
    const struct node_record *candidate;
    uint64_t best = 0;
    size_t best_score = 0;

    for (size_t i = 0; (candidate = database_at(database, TABLE_NODE, i)); i++) {
        size_t score;

        if (candidate->state != NODE_UP)
            continue;
        score = 2 + 2 * in_sync_columns_on(database, vdisk->base.id, candidate->base.id) +
                (candidate->base.id == vdisk->preferred_owner);
        if (score > best_score) {
            best_score = score;
            best = candidate->base.id;
        }
    }
    return best;
}

static void find_owners(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = database_at(database, TABLE_VDISK, i)); i++) {
        const struct volume_record *volume = database_find(database, TABLE_VOLUME, vdisk->volume);
        uint64_t owner;

        if (vdisk->owner != 0 || !volume || volume->state == VOLUME_DELETING)
            continue;
        owner = choose_owner(database, vdisk);
        if (owner)
            propose_as_leader(node,
                              json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.own", "vdisk",
                                        (json_int_t)vdisk->base.id, "epoch",
                                        (json_int_t)vdisk->epoch, "owner", (json_int_t)owner),
                              NULL);
    }
}

/* ---- members of Raft ---- */

static void change_member(struct node *node, uint64_t member, enum raft_member_role role)
{
    int r = consensus_change(node->consensus, member, role);

    if (r < 0 && r != -EAGAIN && r != -ESTALE)
        log_warn(node->io, "failover", "the members of the database cannot be changed",
                 "node=%llu error=%s", (unsigned long long)member, strerror(-r));
}

/* True when a learner holds nearly all of the log: it may vote. */
static bool has_caught_up(struct node *node, uint64_t member, uint64_t commit)
{
    struct raft_peer_status status;

    return raft_peer_status(consensus_raft(node->consensus), member, &status) == 0 &&
           status.match + 16 >= commit;
}

/* One change at a time; the next pass makes the next. */
static void adjust_members(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct node_record *record;
    struct raft_status status;

    raft_status(consensus_raft(node->consensus), &status);
    for (size_t i = 0; (record = database_at(database, TABLE_NODE, i)); i++) {
        switch (raft_configuration_role(&status.configuration, record->base.id)) {
        case RAFT_NO_MEMBER:
            change_member(node, record->base.id, RAFT_LEARNER);
            return;
        case RAFT_LEARNER:
            if (raft_configuration_votes(&status.configuration) < VOTERS_MAX &&
                has_caught_up(node, record->base.id, status.commit_index)) {
                change_member(node, record->base.id, RAFT_VOTER);
                return;
            }
            break;
        case RAFT_VOTER:
        case RAFT_WITNESS:
            break;
        }
    }
    for (uint32_t i = 0; i < status.configuration.count; i++) {
        uint64_t member = status.configuration.members[i].id;

        if (!database_find(database, TABLE_NODE, member) && database_cluster(database)) {
            change_member(node, member, RAFT_NO_MEMBER);
            return;
        }
    }
}

/* ---- deleted volumes ---- */

#define FREE_AT_ONCE 256

struct free_task {
    struct node *node;
    uint64_t vdisk, volume;
};

/* The stores notice a newer generation when an extent is used again (I10), so nothing needs to be
 * erased; a slab leaves the database, and its extents are free. */
static void free_main(void *arg)
{
    struct free_task *task = arg;
    struct node *node = task->node;
    struct command_result result;
    int r = 0;

    while (r == 0 && !node->stopping) {
        const struct database *database = consensus_database(node->consensus);
        size_t count, first = database_slabs(database, task->vdisk, &count);
        json_t *numbers;

        if (count == 0)
            break;
        numbers = json_array();
        for (size_t i = first; i < first + MIN(count, FREE_AT_ONCE); i++) {
            const struct slab_record *slab = database_at(database, TABLE_SLAB, i);

            json_array_append_new(numbers, json_integer((json_int_t)slab->number));
        }
        r = co_node_propose(node,
                            json_pack("{s:s,s:I,s:o}", "verb", "slab.remove", "vdisk",
                                      (json_int_t)task->vdisk, "numbers", numbers),
                            &result);
        command_result_done(&result);
    }
    if (r == 0 && !node->stopping) {
        co_node_propose(
            node,
            json_pack("{s:s,s:I}", "verb", "volume.removed", "volume", (json_int_t)task->volume),
            &result);
        command_result_done(&result);
    }
    free(task);
}

static void clean_deleted(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct volume_record *volume;

    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++) {
        struct free_task *task;

        if (volume->state != VOLUME_DELETING)
            continue;
        task = malloc(sizeof(*task));
        if (!task)
            return;
        *task = (struct free_task){.node = node, .vdisk = volume->vdisk, .volume = volume->base.id};
        if (!node_spawn(node, "free-volume", free_main, task))
            free(task);
        return; /* one at a time; the next pass takes the next */
    }
}

void node_lead_pass(struct node *node)
{
    adjust_members(node);
    find_owners(node);
    clean_deleted(node);
}
