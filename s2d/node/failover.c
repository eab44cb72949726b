/* What only the Raft leader does. Each is a look at the database and one command, repeated until
 * the database is as it should be: so a new leader goes on where the old one stopped. */
#include <stdio.h>

#include "resiliency/mirror.h"
#include "s2d/node/node_internal.h"
#include "s2d/node/voters.h"

/* What a pass has begun; the passes until it is answered leave its subject alone. */
struct leader_task {
    struct list link; /* node->leader_tasks */
    struct node *node;
    uint64_t subject; /* id of the node, vdisk, VM or volume that it is about */
    uint64_t term;    /* in which its command may be proposed; 0: any */
    uint64_t host;    /* that it gives a VM to; 0: none */
    json_t *command;
    bool missed; /* a later pass had something to do about the subject, and left it alone */
};

bool node_task_under_way(const struct node *node, uint64_t subject)
{
    list_for_each (entry, &node->leader_tasks) {
        struct leader_task *task = list_entry(entry, struct leader_task, link);

        if (task->subject == subject) {
            task->missed = true;
            return true;
        }
    }
    return false;
}

/* NULL: something about the subject is under way, or there is no memory; the next pass tries again.
 */
static struct leader_task *begin_task(struct node *node, uint64_t subject, const char *name,
                                      co_fn *fn)
{
    struct leader_task *task = node_task_under_way(node, subject) ? NULL : malloc(sizeof(*task));

    if (!task)
        return NULL;
    *task = (struct leader_task){.node = node, .subject = subject};
    if (!node_spawn(node, name, fn, task)) {
        free(task);
        return NULL;
    }
    list_push_back(&node->leader_tasks, &task->link);
    return task;
}

static void end_task(struct leader_task *task)
{
    list_remove(&task->link);
    /* What it changed has called for a pass already. But if it was void, because something else
     * changed first, that one's pass left the subject to us. */
    if (task->missed)
        node_reconcile_soon(task->node);
    free(task);
}

static void propose_main(void *arg)
{
    struct leader_task *task = arg;
    struct command_result result;

    co_node_propose_in(task->node, task->term, task->command, &result);
    command_result_done(&result);
    end_task(task);
}

bool node_propose_as_leader(struct node *node, uint64_t subject, uint64_t term, json_t *command)
{
    struct leader_task *task = command ? begin_task(node, subject, "leader", propose_main) : NULL;

    if (!task) {
        json_decref(command);
        return false;
    }
    task->term = term;
    task->command = command;
    return true;
}

/* ---- nodes down ---- */

/* After a cold start everybody gets his time to come (I5). Who was here and is gone is not late. */
static bool is_only_late(const struct node *node, uint64_t late)
{
    return node->leader_cold && bus_peer_start_counter(node->bus, late) == 0 &&
           io_now_ns(node->io) < node->led_ns + node->options.cold_start_grace_ns;
}

/* When this process of a node went down, and whether its host still answers: its keepers and QEMUs
 * may live, and its daemon may come back to them. NULL: nothing is known. */
static struct down_node *find_down(struct node *node, uint64_t down)
{
    for (size_t i = 0; i < WATCH_NODES_MAX; i++) {
        if (node->downs[i].node == down)
            return &node->downs[i];
    }
    return NULL;
}

/* Anew each time: what was noted when it went down before says nothing about this time. */
static struct down_node *note_down(struct node *node, uint64_t down, uint64_t start_counter,
                                   bool host_answers)
{
    struct down_node *entry = find_down(node, down);

    if (!entry)
        entry = find_down(node, 0);
    if (!entry) /* of nodes that are long gone */
        entry = &node->downs[down % WATCH_NODES_MAX];
    *entry = (struct down_node){.node = down,
                                .start_counter = start_counter,
                                .since_ns = io_now_ns(node->io),
                                .host_answers = host_answers};
    return entry;
}

/* The command is good in this term only: in a later one another leader may have granted the node a
 * lease. */
bool node_declare_down(void *arg, uint64_t down, uint64_t start_counter, const char *reason)
{
    struct node *node = arg;
    bool host_answers = strcmp(reason, LIVENESS_DAEMON_DEAD) == 0;
    struct raft_status status;

    SOMETIMES_IF(is_only_late(node, down), "failover: nobody is late yet after a cold start");
    if (node->stopping || is_only_late(node, down))
        return false;
    if (node_task_under_way(node, down))
        return true;
    raft_status(consensus_raft(node->consensus), &status);
    if (!node_propose_as_leader(node, down, status.role.term,
                                json_pack("{s:s,s:I,s:I,s:s}", "verb", "node.down", "node",
                                          (json_int_t)down, "start_counter",
                                          (json_int_t)start_counter, "reason", reason)))
        return false;
    note_down(node, down, start_counter, host_answers);
    SOMETIMES_IF(host_answers, "failover: a daemon is dead, its host answers");
    SOMETIMES_IF(!host_answers, "failover: a node is silent");
    log_warn(node->io, "failover", "a node is declared down", "node=%llu reason=\"%s\"",
             (unsigned long long)down, reason);
    return true;
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
static uint64_t choose_owner(const struct node *node, const struct vdisk_record *vdisk)
{
    const struct database *database = consensus_database(node->consensus);
    const struct node_record *candidate;
    uint64_t best = 0;
    size_t best_score = 0;

    for (size_t i = 0; (candidate = database_at(database, TABLE_NODE, i)); i++) {
        size_t score;

        if (candidate->state != NODE_UP ||
            (node->leaving && candidate->base.id == node->identity.node))
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

        if (vdisk->owner != 0 || !volume || volume->state == VOLUME_DELETING ||
            node_task_under_way(node, vdisk->base.id))
            continue;
        owner = choose_owner(node, vdisk);
        if (owner)
            node_propose_as_leader(node, vdisk->base.id, 0,
                                   json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.own", "vdisk",
                                             (json_int_t)vdisk->base.id, "epoch",
                                             (json_int_t)vdisk->epoch, "owner", (json_int_t)owner));
    }
}

/* ---- virtual machines ---- */

/* Also those that the database does not know there yet: a dead host's are given away in one pass.
 */
static size_t count_vms(const struct node *node, uint64_t host)
{
    const struct database *database = consensus_database(node->consensus);
    const struct vm_record *vm;
    size_t count = 0;

    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++)
        count += vm->node == host && vm->incarnation > vm->ended;
    list_for_each (entry, &node->leader_tasks)
        count += list_entry(entry, struct leader_task, link)->host == host;
    return count;
}

/* The node that is up and runs the fewest. 0: none is up. */
static uint64_t choose_host(const struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct node_record *candidate;
    uint64_t best = 0;
    size_t best_count = SIZE_MAX;

    for (size_t i = 0; (candidate = database_at(database, TABLE_NODE, i)); i++) {
        size_t count;

        if (candidate->state != NODE_UP)
            continue;
        count = count_vms(node, candidate->base.id);
        if (count < best_count) {
            best_count = count;
            best = candidate->base.id;
        }
    }
    return best;
}

/* A dead host's VMs go on elsewhere at once (its lease has run out: the keepers have stopped what
 * may still live there); those of a host whose daemon alone died get some time to be taken up
 * again. One that was evicted meanwhile takes up nothing, but its keepers are as they were. */
static bool may_leave(struct node *node, uint64_t id)
{
    const struct database *database = consensus_database(node->consensus);
    const struct node_record *host = database_find(database, TABLE_NODE, id);
    uint64_t start_counter = host ? host->start_counter : 0, delay_ns = 0;
    const struct down_node *down;

    if (host && host->state != NODE_DOWN)
        return false;
    down = find_down(node, id);
    if (PLANTED(VM_FAILOVER_AT_ONCE))
        return true;
    if (!down || down->start_counter != start_counter) /* an earlier leader declared it */
        down = note_down(node, id, start_counter, true);
    if (down->host_answers && host)
        delay_ns = database_cluster(database)->vm_restart_delay_ms * MS;
    if (down->host_answers)
        delay_ns = MAX(delay_ns, LEASE_NS + LEASE_MARGIN_NS);
    return io_now_ns(node->io) >= down->since_ns + delay_ns;
}

static void restart_vm(struct node *node, const struct vm_record *vm, bool force)
{
    const struct database *database = consensus_database(node->consensus);
    const struct node_record *left = database_find(database, TABLE_NODE, vm->node);
    uint64_t host = choose_host(node);

    if (host == 0)
        return;
    if (node_propose_as_leader(
            node, vm->base.id, 0,
            json_pack("{s:s,s:I,s:I,s:I,s:b,s:I,s:b,s:s}", "verb", "vm.start", "vm",
                      (json_int_t)vm->base.id, "node", (json_int_t)host, "incarnation",
                      (json_int_t)vm->incarnation, "force", force, "host_start_counter",
                      (json_int_t)(left ? left->start_counter : 0), "restart", true, "reason",
                      force ? "its node is down" : "it had failed")))
        list_entry(node->leader_tasks.prev, struct leader_task, link)->host = host;
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
        if (runs && may_leave(node, vm->node)) {
            restart_vm(node, vm, true);
        } else if (!runs && may_retry) {
            node->vm_retried_ns = io_now_ns(node->io);
            restart_vm(node, vm, false);
        }
    }
}

/* ---- members of Raft ---- */

#define HEARD_LATELY_NS SEC
#define CAUGHT_UP_ENTRIES 16 /* so many may be on their way */

static struct voter_candidate look_at_member(struct node *node, uint64_t id,
                                             const struct raft_status *status)
{
    const struct database *database = consensus_database(node->consensus);
    const struct node_record *record = database_find(database, TABLE_NODE, id);
    struct voter_candidate candidate = {
        .node = id,
        .role = raft_configuration_role(&status->configuration, id),
        .in_cluster = record || !database_cluster(database),
    };
    struct raft_peer_status peer;
    uint64_t silent_ns;

    if (!record || raft_peer_status(consensus_raft(node->consensus), id, &peer) < 0)
        return candidate;
    silent_ns = io_now_ns(node->io) - peer.heard_ns;
    /* A match of 0 has not answered this leader yet, who counts it as heard when he begins: one who
     * was admitted and never came would get a vote in a young log, and the quorum were gone. */
    candidate.ready = record->state == NODE_UP && silent_ns < HEARD_LATELY_NS && peer.match > 0 &&
                      peer.match + CAUGHT_UP_ENTRIES >= status->commit_index;
    candidate.gone = record->state != NODE_UP && silent_ns >= VOTE_MOVES_NS;
    return candidate;
}

/* Nodes that are no members yet come after the members. */
static size_t look_at_members(struct node *node,
                              struct voter_candidate candidates[RAFT_MEMBERS_MAX])
{
    const struct database *database = consensus_database(node->consensus);
    const struct node_record *record;
    struct raft_status status;
    size_t count = 0;

    raft_status(consensus_raft(node->consensus), &status);
    for (uint32_t i = 0; i < status.configuration.count; i++)
        candidates[count++] = look_at_member(node, status.configuration.members[i].id, &status);
    for (size_t i = 0; (record = database_at(database, TABLE_NODE, i)); i++) {
        uint64_t id = record->base.id;

        if (count < RAFT_MEMBERS_MAX &&
            raft_configuration_role(&status.configuration, id) == RAFT_NO_MEMBER)
            candidates[count++] = look_at_member(node, id, &status);
    }
    return count;
}

/* One change at a time; the next pass makes the next. */
static void adjust_members(struct node *node)
{
    struct voter_candidate candidates[RAFT_MEMBERS_MAX];
    size_t count = look_at_members(node, candidates);
    struct voter_change change;
    int r;

    if (!voters_next_change(candidates, count, &change))
        return;
    r = consensus_change(node->consensus, change.node, change.role);
    if (r < 0 && r != -EAGAIN && r != -ESTALE)
        log_warn(node->io, "failover", "the members of the database cannot be changed",
                 "node=%llu error=%s", (unsigned long long)change.node, strerror(-r));
}

/* ---- deleted volumes ---- */

#define FREE_AT_ONCE 256

/* The stores notice a newer generation when an extent is used again (I10), so nothing needs to be
 * erased; a slab leaves the database, and its extents are free. */
static void free_main(void *arg)
{
    struct leader_task *task = arg;
    struct node *node = task->node;
    const struct volume_record *volume =
        database_find(consensus_database(node->consensus), TABLE_VOLUME, task->subject);
    uint64_t vdisk = volume ? volume->vdisk : 0;
    struct command_result result;
    int r = volume ? 0 : -ENOENT;

    while (r == 0 && !node->stopping) {
        const struct database *database = consensus_database(node->consensus);
        size_t count, first = database_slabs(database, vdisk, &count);
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
                                      (json_int_t)vdisk, "numbers", numbers),
                            &result);
        command_result_done(&result);
    }
    if (r == 0 && !node->stopping) {
        co_node_propose(
            node,
            json_pack("{s:s,s:I}", "verb", "volume.removed", "volume", (json_int_t)task->subject),
            &result);
        command_result_done(&result);
    }
    end_task(task);
}

static void clean_deleted(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct volume_record *volume;

    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++) {
        if (volume->state == VOLUME_DELETING) {
            begin_task(node, volume->base.id, "free-volume", free_main);
            return; /* one at a time; the next pass takes the next */
        }
    }
}

void node_lead_pass(struct node *node)
{
    adjust_members(node);
    find_owners(node);
    find_hosts(node);
    clean_deleted(node);
    node_repair_pass(node);
    node_jobs_lead_pass(node);
    node_tell_space(node);
}
