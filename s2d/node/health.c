/* The worst thing that can be said of something is what is said of it: each function looks from the
 * worst down, and the tables say what its finding means. */
#include "s2d/node/health.h"

#include <stdarg.h>
#include <stdio.h>

#include "s2d/base/planted.h"

#define MEDIA_ERRORS_MANY 100 /* repaired since the daemon started */
#define POOL_WARNING_PERCENT 70
#define POOL_UNHEALTHY_PERCENT 90

const char *const health_words[] = {
    [HEALTH_HEALTHY] = "Healthy",
    [HEALTH_WARNING] = "Warning",
    [HEALTH_UNHEALTHY] = "Unhealthy",
    NULL,
};

const struct health_state health_states[] = {
    {"cluster", "OK", HEALTH_HEALTHY, "Every voting node answers.", ""},
    {"cluster", "Votes missing", HEALTH_WARNING,
     "A voting node is away; there is still a majority.",
     "Bring the node back; the text says how many more may fail before all stops."},
    {"cluster", "No quorum", HEALTH_UNHEALTHY,
     "No majority of the voting nodes answers: nothing can be changed, and volumes wait.",
     "Bring back enough nodes, or mend the network between them."},

    {"node", "OK", HEALTH_HEALTHY, "The node is up.", ""},
    {"node", "Draining", HEALTH_WARNING, "Its volumes are being moved to other nodes.", ""},
    {"node", "Paused", HEALTH_WARNING, "The node is drained: it gets no new work.",
     "'s2d node resume' when the maintenance is over."},
    {"node", "Down", HEALTH_UNHEALTHY, "The node does not answer; others do its work.",
     "Start the host or its s2dd; if it is lost for good, 's2d node evict'."},

    {"disk", "OK", HEALTH_HEALTHY, "The disk is in use.", ""},
    {"disk", "Node down", HEALTH_WARNING, "Its node is down; what the disk holds waits there.",
     "Bring the node back."},
    {"disk", "Being claimed", HEALTH_WARNING, "It is being written for the first time.", ""},
    {"disk", "Retiring", HEALTH_WARNING, "Its data is being moved to other disks.", ""},
    {"disk", "Retired", HEALTH_HEALTHY, "It holds nothing any more.", "Take it out."},
    {"disk", "Media errors", HEALTH_WARNING,
     "Blocks do not match their checksums and are not repaired yet, or a hundred and more were "
     "repaired.",
     "Wait a minute; retire the disk when it stays so."},
    {"disk", "Copies withheld", HEALTH_UNHEALTHY,
     "It lost writes together with its log, and has the last copy of some slabs: these are not "
     "read any more, since what they hold may be old.",
     "Bring back the disks and nodes with the other copies. If they are gone for good, restore the "
     "volumes that cannot be read from a backup."},
    {"disk", "Not open", HEALTH_UNHEALTHY, "Its node cannot use it.",
     "See that the device is there and nobody else uses it."},
    {"disk", "Failed", HEALTH_UNHEALTHY, "The disk failed; its data is copied from elsewhere.",
     "'s2d disk replace', or 's2d disk retire' if there is room without it."},

    {"pool", "OK", HEALTH_HEALTHY, "There is space.", ""},
    {"pool", "No pool", HEALTH_WARNING, "The cluster has no pool yet.", "'s2d pool create'."},
    {"pool", "No disks", HEALTH_WARNING, "No disk of the pool can be used.", "'s2d disk claim'."},
    {"pool", "Filling", HEALTH_WARNING, "More than 70 % of the pool is used.",
     "Claim more disks, or delete what is not needed."},
    {"pool", "Nearly full", HEALTH_UNHEALTHY,
     "More than 90 % of the pool is used; when it is full, writes to thin volumes get \"no "
     "space\".",
     "Claim more disks now."},
    {"pool", "No space", HEALTH_UNHEALTHY,
     "Too few nodes have room for another piece of a thin volume, because disks are full or have "
     "failed: writes to what was never written get \"no space\", and VMs that make them pause. "
     "What "
     "is written already can be overwritten.",
     "Claim or replace disks, or delete what is not needed; VMs then go on by themselves."},

    {"volume", "OK", HEALTH_HEALTHY, "All copies are current.", ""},
    {"volume", "Creating", HEALTH_WARNING, "It is being made.", ""},
    {"volume", "Incomplete", HEALTH_WARNING,
     "Some copies cannot be reached, but nothing was written without them.",
     "Bring back the node or disk that the text names."},
    {"volume", "Degraded", HEALTH_WARNING,
     "Copies are stale: they missed writes. They are brought up as soon as they can be reached.",
     "Bring back the node or disk that the text names; else wait."},
    {"volume", "No redundancy", HEALTH_UNHEALTHY,
     "Only one current copy of some of it is left. It is served, but the next failure stops it.",
     "Bring back the nodes and disks that are away, at once."},
    {"volume", "Data lost", HEALTH_UNHEALTHY,
     "Blocks could not be read from any copy; reading them gives an error.",
     "Restore what is damaged from a backup."},
    {"volume", "Detached", HEALTH_UNHEALTHY,
     "It waits: requests to it are neither served nor failed. The text has the reason.",
     "Bring back what it waits for; it then goes on by itself."},
    {"volume", "Read-only", HEALTH_UNHEALTHY,
     "Metadata that no copy gives keeps it from being written. What can be read is served.",
     "Bring back the nodes and disks that are away: it is then written again by itself. If they "
     "are gone for good, copy what can be read to another volume."},

    {"vm", "OK", HEALTH_HEALTHY, "It runs, or is stopped as wanted.", ""},
    {"vm", "Starting", HEALTH_WARNING, "It is being started.", ""},
    {"vm", "Failed", HEALTH_UNHEALTHY, "It should run, and does not.",
     "The text has the reason; 's2d vm start' tries again."},
    {"vm", "No space", HEALTH_UNHEALTHY,
     "It is paused: a write of its guest found no room in the pool, or on its volume.",
     "Make room (see the pool, and the volume's size); it then goes on by itself, and has lost "
     "nothing."},
    {NULL, NULL, 0, NULL, NULL},
};

const struct health_event health_events[] = {
    {"cluster.created", SEVERITY_INFORMATION, "The cluster was made.", ""},
    {"node.joined", SEVERITY_INFORMATION, "A node became a member.", ""},
    {"node.up", SEVERITY_INFORMATION, "A node that was down takes part again.", ""},
    {"node.down", SEVERITY_ERROR,
     "A node does not answer any more, or its daemon is gone; its copies are stale from now on, "
     "and "
     "others own its volumes.",
     "Look at the node: is it on, is its network, is s2dd running?"},
    {"node.evicted", SEVERITY_WARNING, "A node was removed from the cluster.", ""},
    {"pool.created", SEVERITY_INFORMATION, "The pool was made.", ""},
    {"pool.set", SEVERITY_INFORMATION, "A setting of the pool was changed.", ""},
    {"pool.filling", SEVERITY_WARNING, "More than 70 % of the pool is used.",
     "Claim more disks, or delete what is not needed."},
    {"pool.nearly_full", SEVERITY_ERROR, "More than 90 % of the pool is used.",
     "Claim more disks now."},
    {"pool.no_space", SEVERITY_ERROR,
     "Too few nodes have room for another piece of a thin volume: writes to what was never written "
     "get \"no space\".",
     "Claim or replace disks, or delete what is not needed."},
    {"pool.room", SEVERITY_INFORMATION,
     "Less than 70 % of the pool is used again; told a minute after the alarm at the earliest.",
     ""},
    {"disk.failed", SEVERITY_ERROR,
     "A disk had an I/O error, or what is on it is damaged; its copies are stale from now on.",
     "Replace the disk, if it happens again."},
    {"disk.retired", SEVERITY_INFORMATION,
     "All data was moved off a disk that an administrator retired.", "Take it out."},
    {"heal", SEVERITY_WARNING,
     "Blocks of one copy did not match their checksums, and were repaired from another.",
     "One is bad luck; many on one disk are a disk to replace."},
    {"volume.created", SEVERITY_INFORMATION, "A volume can be used.", ""},
    {"vm.started", SEVERITY_INFORMATION, "A VM was started.", ""},
    {"vm.failover", SEVERITY_WARNING, "A VM was started elsewhere, because its node is down.", ""},
    {"vm.stopped", SEVERITY_INFORMATION, "A VM has ended, with the reason.", ""},
    {"vm.no_space", SEVERITY_ERROR,
     "A VM is paused: a write of its guest found no room in the pool, or on its volume.",
     "Make room: it then goes on by itself."},
    {"vm.resumed", SEVERITY_INFORMATION, "A VM that was paused for want of room goes on.", ""},
    {NULL, 0, NULL, NULL},
};

/* ---- verdicts ---- */

static const struct health_state *find_state(const char *kind, const char *state)
{
    const struct health_state *row = health_states;

    while (row->kind && (strcmp(row->kind, kind) != 0 || strcmp(row->state, state) != 0))
        row++;
    assert(row->kind);
    return row;
}

static void give(struct health_verdict *verdict, const char *kind, const char *state,
                 const char *format, ...) printf_like(4, 5);
static void give(struct health_verdict *verdict, const char *kind, const char *state,
                 const char *format, ...)
{
    va_list list;

    verdict->state = find_state(kind, state);
    va_start(list, format);
    vsnprintf(verdict->text, sizeof(verdict->text), format, list);
    va_end(list);
}

static void give_ok(struct health_verdict *verdict, const char *kind)
{
    give(verdict, kind, "OK", "%s", "");
}

void health_of_quorum(const struct health_quorum *quorum, struct health_verdict *ret_verdict)
{
    unsigned needed = quorum->votes / 2 + 1;

    if (!quorum->has_leader || quorum->votes_up < needed)
        give(ret_verdict, "cluster", "No quorum", "%u of %u voting nodes answer, %u are needed",
             quorum->votes_up, quorum->votes, needed);
    else if (quorum->votes_up < quorum->votes)
        give(ret_verdict, "cluster", "Votes missing",
             "%u of %u voting nodes answer; %u more may fail", quorum->votes_up, quorum->votes,
             quorum->votes_up - needed);
    else
        give_ok(ret_verdict, "cluster");
}

void health_of_node(const struct node_record *node, struct health_verdict *ret_verdict)
{
    switch ((enum node_state)node->state) {
    case NODE_DOWN:
        give(ret_verdict, "node", "Down", "it does not answer");
        return;
    case NODE_DRAINING:
        give(ret_verdict, "node", "Draining", "its volumes are being moved");
        return;
    case NODE_PAUSED:
        give(ret_verdict, "node", "Paused", "it is drained");
        return;
    case NODE_UP:
        give_ok(ret_verdict, "node");
        return;
    }
}

/* ---- disks ---- */

static bool node_is_down(const struct database *database, uint64_t id)
{
    const struct node_record *node = database_find(database, TABLE_NODE, id);

    return !node || node->state == NODE_DOWN;
}

static const char *node_name_of(const struct database *database, uint64_t id)
{
    const struct node_record *node = database_find(database, TABLE_NODE, id);

    return node ? node->name : "?";
}

/* A disk that the database has no complaint about. */
static void judge_report(const struct health_disk *report, struct health_verdict *ret_verdict)
{
    if (report && !report->open)
        give(ret_verdict, "disk", "Not open", "%s", report->reason ? report->reason : "");
    else if (report && report->withheld_slabs > 0)
        give(ret_verdict, "disk", "Copies withheld",
             "its log was lost; it has the last copy of %llu slabs, which may lack writes and is "
             "not read",
             (unsigned long long)report->withheld_slabs);
    else if (report && (report->rotten_blocks > 0 || report->healed_blocks >= MEDIA_ERRORS_MANY))
        give(ret_verdict, "disk", "Media errors",
             "%llu blocks do not match their checksums, %llu were repaired",
             (unsigned long long)report->rotten_blocks, (unsigned long long)report->healed_blocks);
    else
        give_ok(ret_verdict, "disk");
}

static void give_failed(const struct database *database, const struct disk_record *disk,
                        struct health_verdict *ret_verdict)
{
    uint64_t used = database_used_extents(database, disk->base.id);

    if (disk->role == DISK_ROLE_CACHE)
        give(ret_verdict, "disk", "Failed",
             "%s; the logs that were on it are lost, their disks have others and catch up",
             disk->reason);
    else if (used > 0)
        give(ret_verdict, "disk", "Failed",
             "%s; %llu extents have no new place yet, which takes room on other disks of its node "
             "or on further nodes",
             disk->reason, (unsigned long long)used);
    else
        give(ret_verdict, "disk", "Failed", "%s; its data has new places", disk->reason);
}

/* A capacity disk of the node that failed; NULL: none. */
static const struct disk_record *failed_neighbour(const struct database *database,
                                                  const struct disk_record *cache)
{
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        if (disk->node == cache->node && disk->role == DISK_ROLE_CAPACITY &&
            disk->state == DISK_FAILED)
            return disk;
    }
    return NULL;
}

static void give_retiring(const struct database *database, const struct disk_record *disk,
                          struct health_verdict *ret_verdict)
{
    const struct disk_record *failed =
        disk->role == DISK_ROLE_CACHE ? failed_neighbour(database, disk) : NULL;

    if (failed)
        give(ret_verdict, "disk", "Retiring",
             "disk %s of its node failed, and its log may be on this one: retire or replace that "
             "one first",
             failed->name);
    else if (disk->role == DISK_ROLE_CACHE)
        give(ret_verdict, "disk", "Retiring", "the logs on it move to other disks");
    else
        give(ret_verdict, "disk", "Retiring", "%llu extents are still on it",
             (unsigned long long)database_used_extents(database, disk->base.id));
}

void health_of_disk(const struct database *database, const struct disk_record *disk,
                    const struct health_disk *report, struct health_verdict *ret_verdict)
{
    if (disk->state == DISK_FAILED && disk->extents == 0 && disk->log_bytes == 0) {
        give(ret_verdict, "disk", "Being claimed", "%s", disk->reason);
        return;
    }
    if (disk->state == DISK_FAILED) {
        give_failed(database, disk, ret_verdict);
        return;
    }
    if (disk->state == DISK_RETIRED) {
        give(ret_verdict, "disk", "Retired", "it holds nothing any more");
        return;
    }
    if (node_is_down(database, disk->node)) {
        give(ret_verdict, "disk", "Node down", "node %s is down",
             node_name_of(database, disk->node));
        return;
    }
    judge_report(report, ret_verdict);
    if (ret_verdict->state->health == HEALTH_HEALTHY && disk->state == DISK_RETIRING)
        give_retiring(database, disk, ret_verdict);
}

/* ---- the pool ---- */

/* What the volume takes on disks when it is full. */
static uint64_t promised_bytes(const struct database *database, const struct volume_record *volume)
{
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, volume->vdisk);

    return vdisk ? volume->size_bytes / vdisk_data_columns(vdisk) * vdisk_columns(vdisk) : 0;
}

struct health_space health_space_of(const struct database *database)
{
    const struct cluster_record *cluster = database_cluster(database);
    struct health_space space = {0};
    const struct volume_record *volume;
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        uint64_t used = database_used_extents(database, disk->base.id);

        space.disks++;
        space.used_bytes += used * cluster->extent_bytes;
        if (disk->state != DISK_OK) {
            space.size_bytes += used * cluster->extent_bytes; /* nothing new fits there */
            continue;
        }
        space.disks_ok++;
        space.size_bytes += disk->extents * cluster->extent_bytes;
    }
    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++)
        space.promised_bytes += promised_bytes(database, volume);
    return space;
}

/* Where the columns of one more slab can go: nodes, or the disks of the only one. */
static unsigned count_places(const struct database *database)
{
    bool one_node = database_count(database, TABLE_NODE) == 1;
    uint64_t nodes[NODES_MAX];
    const struct disk_record *disk;
    unsigned count = 0;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)) && count < NODES_MAX; i++) {
        unsigned known = 0;

        if (disk->state != DISK_OK || disk->role != DISK_ROLE_CAPACITY ||
            database_used_extents(database, disk->base.id) >= disk->extents)
            continue;
        while (!one_node && known < count && nodes[known] != disk->node)
            known++;
        if (one_node || known == count)
            nodes[count++] = disk->node;
    }
    return count;
}

/* A thin volume that could grow, and cannot. NULL: none. */
static const struct volume_record *volume_without_room(const struct database *database)
{
    unsigned places = count_places(database);
    const struct volume_record *volume;

    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++) {
        const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, volume->vdisk);
        size_t slabs;

        if (volume->state == VOLUME_DELETING || !vdisk || vdisk_columns(vdisk) <= places)
            continue;
        database_slabs(database, volume->vdisk, &slabs);
        if (slabs < vdisk->size_bytes / vdisk->slab_bytes)
            return volume;
    }
    return NULL;
}

void health_of_pool(const struct database *database, struct health_verdict *ret_verdict)
{
    const struct volume_record *volume;
    const struct cluster_record *cluster = database_cluster(database);
    struct health_space space;
    unsigned percent;

    if (!cluster || cluster->extent_bytes == 0) {
        give(ret_verdict, "pool", "No pool", "there is no pool yet");
        return;
    }
    space = health_space_of(database);
    if (space.disks_ok == 0) {
        give(ret_verdict, "pool", "No disks", "none of its %llu disks can be used",
             (unsigned long long)space.disks);
        return;
    }
    percent = (unsigned)((double)space.used_bytes * 100 / (double)MAX(space.size_bytes, 1u));
    volume = volume_without_room(database);
    if (volume)
        give(ret_verdict, "pool", "No space",
             "%u %% are used, and too few nodes have room for more of volume %s", percent,
             volume->name);
    else if (percent >= POOL_UNHEALTHY_PERCENT)
        give(ret_verdict, "pool", "Nearly full", "%u %% are used", percent);
    else if (percent >= POOL_WARNING_PERCENT)
        give(ret_verdict, "pool", "Filling", "%u %% are used", percent);
    else
        give_ok(ret_verdict, "pool");
}

/* ---- volumes ---- */

/* What the slabs of a vdisk look like. */
struct columns {
    uint64_t slabs;
    uint64_t detached;     /* slabs with too few current copies that can be reached */
    uint64_t single;       /* with none to spare, of several */
    uint64_t stale;        /* columns that missed writes */
    uint64_t missing;      /* current columns that cannot be reached */
    uint64_t missing_disk; /* one of those disks; 0: none */
    uint64_t stale_disk;
};

static bool is_reachable(const struct database *database, uint64_t id)
{
    const struct disk_record *disk = database_find(database, TABLE_DISK, id);

    return disk && disk->state != DISK_FAILED && !node_is_down(database, disk->node);
}

/* needed: columns that its data needs. */
static void count_slab(const struct database *database, const struct slab_record *slab,
                       unsigned needed, struct columns *columns)
{
    unsigned current = 0;

    for (uint64_t i = 0; i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];

        if (column->state != COLUMN_RECORD_IN_SYNC) {
            columns->stale++;
            /* The one that keeps it so, rather than one that is just catching up. */
            if (columns->stale_disk == 0 || !is_reachable(database, column->disk))
                columns->stale_disk = column->disk;
        } else if (!is_reachable(database, column->disk)) {
            columns->missing++;
            columns->missing_disk = column->disk;
        } else {
            current++;
        }
    }
    columns->slabs++;
    columns->detached += current < needed;
    columns->single += current == needed && slab->column_count > needed;
}

static struct columns count_columns(const struct database *database, uint64_t id)
{
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, id);
    unsigned needed = vdisk ? vdisk_data_columns(vdisk) : 1;
    size_t count, first = database_slabs(database, id, &count);
    struct columns columns = {0};

    for (size_t i = first; i < first + count; i++)
        count_slab(database, database_at(database, TABLE_SLAB, i), needed, &columns);
    return columns;
}

/* "disk d1 of node n2", and what is the matter with it. */
static const char *describe_disk(const struct database *database, uint64_t id, char text[160])
{
    const struct disk_record *disk = database_find(database, TABLE_DISK, id);
    const char *matter = "";

    if (!disk)
        return "a disk that is gone";
    if (node_is_down(database, disk->node))
        matter = ", which is down";
    else if (disk->state == DISK_FAILED)
        matter = ", which has failed";
    snprintf(text, 160, "disk %.60s of node %.60s%s", disk->name,
             node_name_of(database, disk->node), matter);
    return text;
}

/* Returns whether the volume waits. */
static bool is_detached(const struct database *database, const struct vdisk_record *vdisk,
                        const struct columns *columns, const struct health_volume *report,
                        struct health_verdict *verdict)
{
    char text[160];

    if (columns->detached > 0)
        give(verdict, "volume", PLANTED(LOST_IS_WARNING) ? "Degraded" : "Detached",
             vdisk_data_columns(vdisk) > 1
                 ? "%llu of %llu slabs have too few current columns that can be reached; one is on "
                   "%s"
                 : "%llu of %llu slabs have no current copy that can be reached; one is on %s",
             (unsigned long long)columns->detached, (unsigned long long)columns->slabs,
             columns->missing_disk ? describe_disk(database, columns->missing_disk, text)
                                   : "a disk that is gone");
    else if (vdisk->owner == 0)
        give(verdict, "volume", "Detached", "it has no owner: no node is up that could be");
    else if (!report)
        give(verdict, "volume", "Detached", "its owner %s does not answer",
             node_name_of(database, vdisk->owner));
    else if (report->detached_slabs > 0) /* which its disk's state does not say: it retires */
        give(verdict, "volume", "Detached",
             "%llu of %llu slabs have too few current columns that can be reached; one is on %s",
             (unsigned long long)report->detached_slabs, (unsigned long long)columns->slabs,
             describe_disk(database, report->detached_disk, text));
    else if (!report->serving || report->waiting)
        give(verdict, "volume", "Detached", "%s",
             report->waiting ? report->waiting : "its owner is taking it over");
    else
        return false;
    return true;
}

void health_of_volume(const struct database *database, const struct volume_record *volume,
                      const struct health_volume *report, struct health_verdict *ret_verdict)
{
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, volume->vdisk);
    struct columns columns = count_columns(database, volume->vdisk);
    char text[160];

    if (volume->state == VOLUME_CREATING || !vdisk)
        give(ret_verdict, "volume", "Creating", "%s",
             report && report->waiting ? report->waiting : "it is being made");
    else if (is_detached(database, vdisk, &columns, report, ret_verdict))
        return;
    else if (report->read_only)
        give(ret_verdict, "volume", "Read-only",
             "it cannot be written: no copy gives a block of its metadata");
    else if (report->lost_blocks > 0)
        give(ret_verdict, "volume", "Data lost", "%llu requests met blocks that no copy could give",
             (unsigned long long)report->lost_blocks);
    else if (columns.single > 0)
        give(
            ret_verdict, "volume", "No redundancy",
            vdisk_data_columns(vdisk) > 1
                ? "%llu of %llu slabs have just the current columns they need; another one is on %s"
                : "%llu of %llu slabs have one current copy; another one is on %s",
            (unsigned long long)columns.single, (unsigned long long)columns.slabs,
            describe_disk(database, columns.stale_disk ? columns.stale_disk : columns.missing_disk,
                          text));
    else if (columns.stale > 0)
        give(ret_verdict, "volume", "Degraded", "%llu copies of slabs are stale, some on %s",
             (unsigned long long)columns.stale, describe_disk(database, columns.stale_disk, text));
    else if (columns.missing > 0)
        give(ret_verdict, "volume", "Incomplete", "%llu copies of slabs are missing, some on %s",
             (unsigned long long)columns.missing,
             describe_disk(database, columns.missing_disk, text));
    else
        give_ok(ret_verdict, "volume");
}

/* ---- VMs ---- */

void health_of_vm(const struct database *database, const struct vm_record *vm,
                  const struct health_vm *report, struct health_verdict *ret_verdict)
{
    bool present = vm->incarnation > vm->ended;

    if (present && report->no_space)
        give(ret_verdict, "vm", "No space", "it is paused: a write of its guest found no room");
    else if (vm->wanted != VM_RUNNING || (present && report->running))
        give_ok(ret_verdict, "vm");
    else if (!present)
        give(ret_verdict, "vm", "Failed", "%s", vm->reason);
    else if (node_is_down(database, vm->node))
        give(ret_verdict, "vm", "Failed", "its node %s is down; it is started elsewhere soon",
             node_name_of(database, vm->node));
    else
        give(ret_verdict, "vm", "Starting", "on node %s", node_name_of(database, vm->node));
}

/* ---- the page for users ---- */

static void render_states(FILE *out)
{
    const char *kind = "";

    for (const struct health_state *row = health_states; row->kind; row++) {
        if (strcmp(kind, row->kind) != 0)
            fprintf(out,
                    "\n## States of a %s\n\n| state | health | meaning | what to do |\n"
                    "| --- | --- | --- | --- |\n",
                    strcmp(row->kind, "vm") == 0 ? "VM" : row->kind);
        kind = row->kind;
        fprintf(out, "| %s | %s | %s | %s |\n", row->state, health_words[row->health], row->meaning,
                row->action);
    }
}

int health_render(char **ret_text)
{
    size_t length;
    FILE *out = open_memstream(ret_text, &length);

    if (!out)
        return -ENOMEM;
    fputs("# Health and events\n\n"
          "What `s2d cluster health`, the lists of `s2d` and `s2d cluster events` say, and what to "
          "do about it. The health of a thing is that of its worst state; the cluster's is that of "
          "its worst thing.\n\n"
          "This page is made from the tables in `s2d/node/health.c`; a test compares them.\n",
          out);
    render_states(out);
    fputs("\n## Events\n\n| code | severity | meaning | what to do |\n| --- | --- | --- | --- |\n",
          out);
    for (const struct health_event *row = health_events; row->code; row++)
        fprintf(out, "| `%s` | %s | %s | %s |\n", row->code, severity_words[row->severity],
                row->meaning, row->action);
    if (fclose(out) != 0) {
        free(*ret_text);
        return -ENOMEM;
    }
    return 0;
}
