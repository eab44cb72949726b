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

static bool watch_says_host_answers(const char *reason)
{
    return strcmp(reason, LIVENESS_DAEMON_DEAD) == 0;
}

/* When a node went down, and whether its host still answers: its keepers and QEMUs may live, and
 * its daemon may come back to them. */
static struct down_node *note_down(struct node *node, uint64_t down, bool host_answers)
{
    struct down_node *free_entry = &node->downs[0];

    for (size_t i = 0; i < WATCH_NODES_MAX; i++) {
        if (node->downs[i].node == down)
            return &node->downs[i];
        if (node->downs[i].node == 0)
            free_entry = &node->downs[i];
    }
    *free_entry = (struct down_node){
        .node = down, .since_ns = io_now_ns(node->io), .host_answers = host_answers};
    return free_entry;
}

static void forget_down(struct node *node, uint64_t up)
{
    for (size_t i = 0; i < WATCH_NODES_MAX; i++) {
        if (node->downs[i].node == up)
            node->downs[i].node = 0;
    }
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
    note_down(node, down, watch_says_host_answers(reason));
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

/* ---- virtual machines ---- */

/* The node that is up and runs the fewest. 0: none is up. */
static uint64_t choose_host(const struct database *database)
{
    const struct node_record *candidate;
    uint64_t best = 0;
    size_t best_count = SIZE_MAX;

    for (size_t i = 0; (candidate = database_at(database, TABLE_NODE, i)); i++) {
        const struct vm_record *vm;
        size_t count = 0;

        if (candidate->state != NODE_UP)
            continue;
        for (size_t j = 0; (vm = database_at(database, TABLE_VM, j)); j++)
            count += vm->node == candidate->base.id && vm->incarnation > vm->ended;
        if (count < best_count) {
            best_count = count;
            best = candidate->base.id;
        }
    }
    return best;
}

/* A dead host's VMs go on elsewhere at once (its lease has run out: the keepers have stopped what
 * may still live there); those of a host whose daemon alone died get some time to be taken up
 * again. */
static bool may_leave(struct node *node, const struct node_record *host)
{
    const struct cluster_record *cluster = database_cluster(consensus_database(node->consensus));
    const struct down_node *down;
    uint64_t delay_ns;

    if (!host)
        return true;
    if (host->state != NODE_DOWN) {
        forget_down(node, host->base.id);
        return false;
    }
    down = note_down(node, host->base.id, true);
    delay_ns = down->host_answers ? cluster->vm_restart_delay_ms * MS : 0;
    if (down->host_answers)
        delay_ns = MAX(delay_ns, LEASE_NS + LEASE_MARGIN_NS);
    return io_now_ns(node->io) >= down->since_ns + delay_ns;
}

static void restart_vm(struct node *node, const struct vm_record *vm, bool force)
{
    uint64_t host = choose_host(consensus_database(node->consensus));

    if (host)
        propose_as_leader(node,
                          json_pack("{s:s,s:I,s:I,s:I,s:b,s:s}", "verb", "vm.start", "vm",
                                    (json_int_t)vm->base.id, "node", (json_int_t)host,
                                    "incarnation", (json_int_t)vm->incarnation, "force", force,
                                    "reason", force ? "its node is down" : "it had failed"),
                          NULL);
}

#define RESTART_FAILED_NS                                                                          \
    (10 * SEC) /* a VM that fails over and over does not take the node with it */

static void find_hosts(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct vm_record *vm;
    bool may_retry = io_now_ns(node->io) >= node->vm_retried_ns + RESTART_FAILED_NS;

    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++) {
        bool runs = vm->incarnation > vm->ended;

        if (vm->wanted != VM_RUNNING || vm->incarnation == 0)
            continue;
        if (runs && may_leave(node, database_find(database, TABLE_NODE, vm->node))) {
            restart_vm(node, vm, true);
        } else if (!runs && may_retry) {
            node->vm_retried_ns = io_now_ns(node->io);
            restart_vm(node, vm, false);
        }
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
    find_hosts(node);
    clean_deleted(node);
}
