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
#include <stdio.h>

#include "csv-export/csv.h"
#include "fs-refs-lite/fs.h"
#include "pool/placement.h"
#include "resiliency/mirror.h"
#include "s2d/base/checksum.h"
#include "s2d/node/node_internal.h"

#define CHECKPOINT_NS (10 * SEC)  /* of the file system */
#define REAP_ORPHANS_NS (5 * SEC) /* after a mount: exports have opened their handles again */
#define RETRY_NS (200 * MS)
#define HAND_OVER_NS (5 * SEC)
#define SLABS_AHEAD 4  /* thin volumes grow by so many at once */
#define DISKS_MAX 1024 /* of the pool */

struct volume_check { /* asked for by somebody, done by the volume's own coroutine */
    void (*report)(void *arg, const char *line);
    void *arg;
    struct fs_check_result result;
    int code;
    bool done, abandoned; /* nobody waits any more: nothing is reported, whoever is last frees */
};

struct node_volume {
    struct list node;
    struct node *owner_node; /* the struct node that this belongs to */
    uint64_t vdisk;
    uint64_t volume;
    bool running; /* its coroutine */
    struct co_cond changed;

    uint64_t spent_session; /* no session up to this one may be begun */
    struct vdisk_config *config;
    struct mirror *mirror;
    uint64_t mirror_session;
    struct fs *fs;
    uint64_t mounted_ns, checkpoint_ns;
    bool reaped;
    uint64_t move_to; /* hand over to this node; 0: no */
    bool handing_over;
    int mount_error;            /* as last logged */
    struct volume_check *check; /* NULL: nobody asks */
    const char *waiting;
};

/* ---- what the database says ---- */

static const struct vdisk_record *vdisk_record(const struct node_volume *volume)
{
    return database_find(consensus_database(volume->owner_node->consensus), TABLE_VDISK,
                         volume->vdisk);
}

static const struct volume_record *volume_record(const struct node_volume *volume)
{
    return database_find(consensus_database(volume->owner_node->consensus), TABLE_VOLUME,
                         volume->volume);
}

static void fill_slab(const struct database *database, const struct slab_record *slab,
                      struct vdisk_config *config)
{
    struct column_config *columns = &config->columns[slab->number * config->width];

    for (uint64_t i = 0; i < slab->column_count && i < config->width; i++) {
        const struct column_record *column = &slab->columns[i];
        const struct disk_record *disk = database_find(database, TABLE_DISK, column->disk);

        columns[i] = (struct column_config){
            .disk = column->disk,
            .node = disk ? disk->node : 0,
            .where = {.extent = column->extent, .generation = column->generation},
            .stale_epoch = column->stale_epoch,
            .in_sync_epoch = column->in_sync_epoch,
            .state = column->state == COLUMN_RECORD_IN_SYNC ? COLUMN_IN_SYNC : COLUMN_STALE,
        };
    }
}

static int make_config(const struct database *database, const struct vdisk_record *vdisk,
                       struct vdisk_config **ret_config)
{
    size_t count, first = database_slabs(database, vdisk->base.id, &count);
    struct vdisk_config *config;
    int r;

    r = vdisk_config_new(vdisk->size_bytes / vdisk->slab_bytes,
                         resiliency_copies(vdisk->resiliency), vdisk->slab_bytes / BLOCK_SIZE,
                         &config);
    if (r < 0)
        return r;
    config->vdisk = vdisk->base.id;
    config->epoch = vdisk->epoch;
    config->session = vdisk->session;
    config->owner = vdisk->owner;
    config->size_bytes = vdisk->size_bytes;
    for (size_t i = first; i < first + count; i++)
        fill_slab(database, database_at(database, TABLE_SLAB, i), config);
    *ret_config = config;
    return 0;
}

/* ---- what a mirror asks for ---- */

static struct column_store *mirror_column(void *arg, uint64_t on_node, uint64_t disk)
{
    struct node_volume *volume = arg;

    return node_column(volume->owner_node, on_node, disk);
}

static bool mirror_lease_held(void *arg)
{
    struct node_volume *volume = arg;

    return node_lease_held(volume->owner_node);
}

struct proposal_task {
    struct node *node;
    json_t *command;
};

static void propose_main(void *arg)
{
    struct proposal_task *task = arg;
    struct command_result result;

    co_node_propose(task->node, task->command, &result);
    if (result.code < 0 && result.code != -EALREADY && result.code != -ESTALE)
        log_debug(task->node->io, "volumes", "proposal refused", "reason=\"%s\"", result.message);
    command_result_done(&result);
    free(task);
}

/* Proposes without waiting: the database answers through the next configuration. Takes command. */
static void propose(struct node *node, json_t *command)
{
    struct proposal_task *task = malloc(sizeof(*task));

    if (task)
        *task = (struct proposal_task){.node = node, .command = command};
    if (!task || !command || node->stopping || !node_spawn(node, "propose", propose_main, task)) {
        json_decref(command);
        free(task);
    }
}

static void mirror_propose_stale(void *arg, uint64_t vdisk, uint64_t epoch, const uint64_t *disks,
                                 size_t count)
{
    struct node_volume *volume = arg;
    json_t *list = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer((json_int_t)disks[i]));
    log_warn(volume->owner_node->io, "volumes", "columns missed a write, marking them stale",
             "vdisk=%llu epoch=%llu first_disk=%llu disks=%zu", (unsigned long long)vdisk,
             (unsigned long long)epoch, (unsigned long long)(count ? disks[0] : 0), count);
    propose(volume->owner_node,
            json_pack("{s:s,s:I,s:I,s:o}", "verb", "vdisk.stale", "vdisk", (json_int_t)vdisk,
                      "epoch", (json_int_t)epoch, "disks", list));
}

static void mirror_propose_in_sync(void *arg, uint64_t vdisk, uint64_t epoch, uint64_t disk)
{
    struct node_volume *volume = arg;

    log_info(volume->owner_node->io, "volumes", "columns have caught up",
             "vdisk=%llu epoch=%llu disk=%llu", (unsigned long long)vdisk,
             (unsigned long long)epoch, (unsigned long long)disk);
    propose(volume->owner_node,
            json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.in_sync", "vdisk", (json_int_t)vdisk,
                      "epoch", (json_int_t)epoch, "disk", (json_int_t)disk));
}

static void mirror_on_heal(void *arg, const struct mirror_heal *heal)
{
    struct node_volume *volume = arg;
    struct node *node = volume->owner_node;
    const struct disk_record *disk =
        database_find(consensus_database(node->consensus), TABLE_DISK, heal->disk);
    const struct volume_record *record = volume_record(volume);
    char text[MESSAGE_MAX_BYTES];

    snprintf(text, sizeof(text),
             "%u blocks at block %u of slab %u of volume %s were rotten on disk %s, and were "
             "written again from another copy",
             heal->count, heal->block, heal->slab, record ? record->name : "?",
             disk ? disk->name : "?");
    log_warn(node->io, "volumes", "healed", "vdisk=%llu disk=%llu slab=%u block=%u count=%u",
             (unsigned long long)heal->vdisk, (unsigned long long)heal->disk, heal->slab,
             heal->block, heal->count);
    propose(node, json_pack("{s:s,s:s,s:s,s:s,s:s}", "verb", "event.add", "severity", "warning",
                            "code", "heal", "subject", disk ? disk->name : "?", "text", text));
}

/* ---- slabs on demand ---- */

static uint64_t name_number(const char *name)
{
    return hash64(name, strlen(name));
}

/* The disks that new slabs may go to; those of nodes that are down come last, with columns born
 * stale. */
static size_t list_disks(const struct database *database, struct placement_disk *ret_disks)
{
    const struct disk_record *disk;
    size_t count = 0;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)) && count < DISKS_MAX; i++) {
        const struct node_record *node = database_find(database, TABLE_NODE, disk->node);

        if (!node || disk->state != DISK_OK || disk->role != DISK_ROLE_CAPACITY)
            continue;
        ret_disks[count++] = (struct placement_disk){
            .disk = disk->base.id,
            .path = {.node = node->base.id,
                     .chassis = name_number(node->chassis),
                     .rack = name_number(node->rack),
                     .site = name_number(node->site)},
            .extents = disk->extents,
            .used = database_used_extents(database, disk->base.id),
            .away = node->state == NODE_DOWN,
        };
    }
    return count;
}

struct slab_plan {
    const struct database *database;
    struct placement_disk disks[DISKS_MAX];
    uint64_t next_extent[DISKS_MAX]; /* where the search for a free one goes on */
    size_t disk_count;
    json_t *slabs;
};

static int plan_column(struct slab_plan *plan, uint64_t disk, json_t *columns)
{
    for (size_t i = 0; i < plan->disk_count; i++) {
        int64_t extent;

        if (plan->disks[i].disk != disk)
            continue;
        extent = database_free_extent(plan->database, disk, plan->next_extent[i]);
        if (extent < 0)
            return -ENOSPC;
        plan->next_extent[i] = extent + 1;
        plan->disks[i].used++;
        return json_array_append_new(columns, json_pack("{s:I,s:I}", "disk", (json_int_t)disk,
                                                        "extent", (json_int_t)extent));
    }
    return -ENOSPC;
}

static int plan_slab(struct slab_plan *plan, const struct vdisk_record *vdisk, uint64_t number)
{
    bool one_node = database_count(plan->database, TABLE_NODE) == 1;
    struct placement_request request = {.columns = resiliency_copies(vdisk->resiliency),
                                        .level = one_node ? FAULT_DISK : FAULT_NODE,
                                        .prefer_node = vdisk->owner,
                                        .spread = number};
    uint64_t chosen[COLUMNS_MAX];
    json_t *columns;
    int r;

    r = placement_choose(plan->disks, plan->disk_count, &request, chosen);
    if (r < 0)
        return r;
    columns = json_array();
    for (unsigned i = 0; r == 0 && i < request.columns; i++)
        r = plan_column(plan, chosen[i], columns);
    if (r < 0) {
        json_decref(columns);
        return r;
    }
    return json_array_append_new(
        plan->slabs, json_pack("{s:I,s:o}", "number", (json_int_t)number, "columns", columns));
}

/* Adds the slabs (those that exist are skipped) and some ahead. Returns 0 when all of the wanted
 * exist, -ENOSPC, or what the database said. */
static int co_add_slabs(struct node *node, uint64_t vdisk_id, const uint32_t *wanted, size_t count)
{
    const struct database *database = consensus_database(node->consensus);
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, vdisk_id);
    struct slab_plan *plan = calloc(1, sizeof(*plan));
    struct command_result result;
    int r = vdisk && plan ? 0 : -ESTALE;

    if (r < 0) {
        free(plan);
        return r;
    }
    plan->database = database;
    plan->disk_count = list_disks(database, plan->disks);
    plan->slabs = json_array();
    for (size_t i = 0; r == 0 && i < count; i++) {
        if (!database_slab(database, vdisk_id, wanted[i]))
            r = plan_slab(plan, vdisk, wanted[i]);
    }
    for (uint64_t ahead = 1; r == 0 && count > 0 && ahead < SLABS_AHEAD; ahead++) {
        uint64_t number = (uint64_t)wanted[count - 1] + ahead;

        if (number >= vdisk->size_bytes / vdisk->slab_bytes)
            break;
        if (!database_slab(database, vdisk_id, number) && plan_slab(plan, vdisk, number) < 0)
            break; /* room for what is wanted is enough */
    }
    if (r == 0 && json_array_size(plan->slabs) > 0) {
        r = co_node_propose(node,
                            json_pack("{s:s,s:I,s:O}", "verb", "slab.add", "vdisk",
                                      (json_int_t)vdisk_id, "slabs", plan->slabs),
                            &result);
        command_result_done(&result);
    }
    json_decref(plan->slabs);
    free(plan);
    return r;
}

static int mirror_request_slabs(void *arg, uint64_t vdisk, uint64_t epoch, const uint32_t *slabs,
                                size_t count)
{
    struct node_volume *volume = arg;

    (void)epoch; /* new slabs change nothing that exists */
    return co_add_slabs(volume->owner_node, vdisk, slabs, count);
}

#define FIXED_SLABS_AT_ONCE 64
#define PLACE_TRIES 16 /* others place too: an extent may be taken meanwhile */

/* A fixed volume has all of its slabs from the start. */
static int co_add_all_slabs(struct node_volume *volume)
{
    const struct vdisk_record *vdisk = vdisk_record(volume);
    uint64_t count = vdisk ? vdisk->size_bytes / vdisk->slab_bytes : 0;
    int r = 0;

    for (uint64_t first = 0; r == 0 && first < count; first += FIXED_SLABS_AT_ONCE) {
        uint32_t wanted[FIXED_SLABS_AT_ONCE];
        size_t n = MIN(FIXED_SLABS_AT_ONCE, count - first);

        for (size_t i = 0; i < n; i++)
            wanted[i] = first + i;
        for (int i = 0; i == 0 || (r == -EAGAIN && i < PLACE_TRIES); i++)
            r = co_add_slabs(volume->owner_node, volume->vdisk, wanted, n);
    }
    return r;
}

/* ---- exports ---- */

/* Tells this node's exports who serves the volume. May wait for requests inside the file system. */
static void co_tell_exports(struct node_volume *volume, struct fs *fs)
{
    const struct volume_record *record = volume_record(volume);
    const struct vdisk_record *vdisk = vdisk_record(volume);
    struct csv_volume_state state;
    int r;

    if (!record || !vdisk || record->state == VOLUME_DELETING) {
        co_csv_remove_volume(volume->owner_node->csv, volume->volume);
        return;
    }
    if (record->state == VOLUME_CREATING && !fs)
        return; /* nobody's business yet */
    state = (struct csv_volume_state){.id = volume->volume,
                                      .name = record->name,
                                      .owner = vdisk->owner,
                                      .session = vdisk->session,
                                      .fs = fs};
    if (fs) {
        state.owner = volume->owner_node->identity.node;
        state.session = volume->mirror_session;
    }
    r = co_csv_set_volume(volume->owner_node->csv, &state);
    if (r < 0)
        log_error(volume->owner_node->io, "volumes", "volume cannot be exported",
                  "volume=%s error=%s", record->name, strerror(-r));
}

/* ---- owning ---- */

static int co_begin_session(struct node_volume *volume)
{
    struct node *node = volume->owner_node;
    const struct vdisk_record *vdisk = vdisk_record(volume);
    struct command_result result;
    int r;

    volume->waiting = "asks for a new session";
    r = co_node_propose(node,
                        json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.own", "vdisk",
                                  (json_int_t)volume->vdisk, "epoch", (json_int_t)vdisk->epoch,
                                  "owner", (json_int_t)node->identity.node),
                        &result);
    command_result_done(&result);
    return r;
}

static int make_mirror(struct node_volume *volume)
{
    struct node *node = volume->owner_node;
    const struct vdisk_record *vdisk = vdisk_record(volume);
    struct mirror_options options = {
        .node = node->identity.node,
        .buffers = node->owner_buffers,
        .metrics = node->metrics,
        .grace_until_ns = node->booted_ns + node->options.cold_start_grace_ns,
        .column = mirror_column,
        .lease_held = mirror_lease_held,
        .propose_stale = mirror_propose_stale,
        .propose_in_sync = mirror_propose_in_sync,
        .co_request_slabs = mirror_request_slabs,
        .on_heal = mirror_on_heal,
        .arg = volume,
    };
    struct vdisk_config *config;
    int r;

    r = make_config(consensus_database(node->consensus), vdisk, &config);
    if (r < 0)
        return r;
    r = mirror_new(node->io, &options, config, &volume->mirror);
    if (r == 0) {
        volume->mirror_session = config->session;
        volume->spent_session = config->session;
        log_info(node->io, "volumes", "taking over", "vdisk=%llu session=%llu epoch=%llu",
                 (unsigned long long)volume->vdisk, (unsigned long long)config->session,
                 (unsigned long long)config->epoch);
    }
    vdisk_config_put(config);
    return r;
}

static int co_format(struct node_volume *volume)
{
    const struct volume_record *record = volume_record(volume);
    struct fs_format_options options = {.mode = 0755};
    struct command_result result;
    int r = 0;

    volume->waiting = "is being formatted";
    snprintf(options.label, sizeof(options.label), "%s", record->name);
    if (!record->thin)
        r = co_add_all_slabs(volume);
    if (r == 0)
        r = co_fs_format(volume->owner_node->io, mirror_vdisk(volume->mirror), &options);
    if (r < 0)
        return r;
    r = co_node_propose(volume->owner_node,
                        json_pack("{s:s,s:I,s:I}", "verb", "volume.online", "volume",
                                  (json_int_t)volume->volume, "session",
                                  (json_int_t)volume->mirror_session),
                        &result);
    command_result_done(&result);
    return r;
}

static int co_mount(struct node_volume *volume)
{
    struct node *node = volume->owner_node;
    const struct volume_record *record = volume_record(volume);
    int r = 0;

    if (!record || record->state == VOLUME_DELETING)
        return -ESTALE;
    if (record->state == VOLUME_CREATING)
        r = co_format(volume);
    if (r < 0)
        return r;
    volume->waiting = "is being mounted";
    r = co_fs_mount(node->io, mirror_vdisk(volume->mirror), NULL, &volume->fs);
    if (r < 0)
        return r;
    volume->mounted_ns = volume->checkpoint_ns = io_now_ns(node->io);
    volume->reaped = false;
    volume->waiting = NULL;
    co_tell_exports(volume, volume->fs);
    log_info(node->io, "volumes", "serving", "vdisk=%llu session=%llu",
             (unsigned long long)volume->vdisk, (unsigned long long)volume->mirror_session);
    return 0;
}

/* ---- checking ---- */

static void report_problem(void *arg, const char *line)
{
    struct volume_check *check = arg;

    if (!check->abandoned)
        check->report(check->arg, line);
}

static void end_check(struct node_volume *volume, int code)
{
    struct volume_check *check = take_ptr(volume->check);

    if (!check)
        return;
    check->code = code;
    check->done = true;
    if (check->abandoned)
        free(check);
}

/* Ends what this node does as owner. clean: the vdisk is still ours. */
static void co_release(struct node_volume *volume, bool clean)
{
    struct fs *fs = take_ptr(volume->fs);

    end_check(volume, -ESTALE);
    if (fs && !clean)
        fs_fail(fs);
    if (!clean && volume->mirror)
        mirror_stop(volume->mirror);
    if (fs) {
        co_tell_exports(volume, NULL);
        if (clean)
            co_fs_unmount(fs);
        else
            co_fs_abandon(fs);
    }
    volume->waiting = NULL;
}

static void co_drop_mirror(struct node_volume *volume)
{
    struct mirror *mirror = take_ptr(volume->mirror);

    if (!mirror)
        return;
    mirror_stop(mirror);
    co_mirror_free(mirror);
    log_info(volume->owner_node->io, "volumes", "no longer owned", "vdisk=%llu session=%llu",
             (unsigned long long)volume->vdisk, (unsigned long long)volume->mirror_session);
}

/* The vdisk, if this node still owns it in the session of its mirror; NULL: not so. */
static const struct vdisk_record *vdisk_in_our_session(const struct node_volume *volume)
{
    const struct vdisk_record *vdisk = vdisk_record(volume);

    return vdisk && vdisk->owner == volume->owner_node->identity.node &&
                   vdisk->session == volume->mirror_session
               ? vdisk
               : NULL;
}

/* A planned move: everything out, the watermark durable, then the database is told. What was taken
 * from us meanwhile is not ours to give. */
static void co_hand_over(struct node_volume *volume)
{
    struct node *node = volume->owner_node;
    const struct vdisk_record *vdisk;
    struct command_result result;
    uint64_t to = volume->move_to;

    volume->waiting = "moves to another node";
    volume->handing_over = true;
    co_release(volume, true);
    if (co_mirror_hand_over(volume->mirror, io_now_ns(node->io) + HAND_OVER_NS) == 0 &&
        (vdisk = vdisk_in_our_session(volume))) {
        co_node_propose(node,
                        json_pack("{s:s,s:I,s:I,s:I,s:b}", "verb", "vdisk.own", "vdisk",
                                  (json_int_t)volume->vdisk, "epoch", (json_int_t)vdisk->epoch,
                                  "owner", (json_int_t)to, "preferred", !node->leaving),
                        &result);
        command_result_done(&result);
    }
    volume->move_to = 0;
    volume->handing_over = false;
    co_drop_mirror(volume);
}

static void co_maintain(struct node_volume *volume)
{
    uint64_t now_ns = io_now_ns(volume->owner_node->io);
    int r = 0;

    if (!volume->reaped && now_ns - volume->mounted_ns >= REAP_ORPHANS_NS) {
        volume->reaped = true;
        r = co_fs_reap_orphans(volume->fs);
    }
    if (r == 0 && now_ns - volume->checkpoint_ns >= CHECKPOINT_NS) {
        volume->checkpoint_ns = now_ns;
        r = co_fs_grow(volume->fs);
        if (r == 0)
            r = co_fs_checkpoint(volume->fs);
    }
    if (r < 0 && r != -ESTALE)
        log_warn(volume->owner_node->io, "volumes", "file system upkeep failed",
                 "vdisk=%llu error=%s", (unsigned long long)volume->vdisk, strerror(-r));
}

/* By the coroutine that alone mounts and unmounts: the file system stays as long as it takes. */
static void co_run_check(struct node_volume *volume)
{
    struct volume_check *check = volume->check;

    end_check(volume, co_fs_check(volume->fs, report_problem, check, &check->result));
}

/* One step of the owner's way. Returns 0: look again at once; < 0: wait for a change or RETRY_NS.
 */
static int co_own(struct node_volume *volume)
{
    const struct vdisk_record *vdisk = vdisk_record(volume);
    int r;

    if (volume->mirror && mirror_stopped(volume->mirror)) {
        co_release(volume, false);
        co_drop_mirror(volume);
        return 0;
    }
    if (volume->fs && fs_error(volume->fs) != 0) {
        log_error(volume->owner_node->io, "volumes", "the file system gave up; mounting it anew",
                  "vdisk=%llu error=%s", (unsigned long long)volume->vdisk,
                  strerror(-fs_error(volume->fs)));
        co_release(volume, false);
        co_drop_mirror(volume);
        return -EAGAIN; /* not in a circle of sessions without a pause */
    }
    if (volume->move_to && volume->fs) {
        co_hand_over(volume);
        return 0;
    }
    if (volume->fs && volume->check) {
        co_run_check(volume);
        return 0;
    }
    if (volume->fs) {
        co_maintain(volume);
        return -EAGAIN;
    }
    if (!node_lease_held(volume->owner_node)) {
        volume->waiting = "this node has no lease: it cannot reach the cluster's leader";
        return -EAGAIN;
    }
    if (!volume->mirror && vdisk->session <= volume->spent_session)
        return co_begin_session(volume);
    if (!volume->mirror)
        return make_mirror(volume);
    volume->waiting = "waits for a copy of its metadata: no in-sync column can be reached";
    r = co_mount(volume);
    if (r < 0 && r != -ESTALE && r != -ECANCELED && r != volume->mount_error)
        log_warn(volume->owner_node->io, "volumes", "volume cannot be mounted; trying on",
                 "vdisk=%llu error=%s", (unsigned long long)volume->vdisk, strerror(-r));
    volume->mount_error = r;
    return r;
}

static bool is_ours(const struct node_volume *volume)
{
    const struct vdisk_record *vdisk = vdisk_record(volume);

    if (!volume->mirror && volume->owner_node->leaving)
        return false; /* handed over, or on its way to somebody else */
    return vdisk && vdisk->owner == volume->owner_node->identity.node && volume->owner_node->booted;
}

static void volume_main(void *arg)
{
    struct node_volume *volume = arg;
    struct node *node = volume->owner_node;

    while (!node->stopping && !co_cancelled() && vdisk_record(volume)) {
        int r;

        if (is_ours(volume)) {
            r = co_own(volume);
        } else {
            co_release(volume, false);
            co_drop_mirror(volume);
            co_tell_exports(volume, NULL);
            r = -EAGAIN;
        }
        co_cond_broadcast(&node->changed);
        if (r < 0 && !node->stopping &&
            co_cond_wait_until(&volume->changed, io_now_ns(node->io) + RETRY_NS) == -ECANCELED)
            break;
    }
    co_release(volume, false);
    co_drop_mirror(volume);
    if (!node->stopping)
        co_csv_remove_volume(node->csv, volume->volume);
    volume->running = false;
    node_reconcile_soon(node);
}

/* ---- following the database ---- */

static struct node_volume *find_volume(struct node *node, uint64_t vdisk)
{
    list_for_each (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);

        if (volume->vdisk == vdisk)
            return volume;
    }
    return NULL;
}

static void configure(struct node_volume *volume)
{
    const struct vdisk_record *vdisk = vdisk_record(volume);
    struct vdisk_config *config;
    int r;

    co_cond_signal(&volume->changed);
    if (!volume->mirror)
        return;
    if (!vdisk ||
        make_config(consensus_database(volume->owner_node->consensus), vdisk, &config) < 0) {
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

/* changes NULL: everything may be different. */
void node_volumes_applied(struct node *node, const struct database_change *changes, size_t count)
{
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

void node_reconcile_volumes(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = database_at(database, TABLE_VDISK, i)); i++) {
        struct node_volume *volume = find_volume(node, vdisk->base.id);

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
    list_for_each_safe (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);

        if (volume->running)
            continue;
        list_remove(&volume->node);
        free(volume);
    }
}

/* True when every vdisk has its struct node_volume. */
static bool follows_all(struct node *node)
{
    const struct vdisk_record *vdisk;

    for (size_t i = 0; (vdisk = database_at(consensus_database(node->consensus), TABLE_VDISK, i));
         i++) {
        if (!find_volume(node, vdisk->base.id))
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
        const struct vdisk_record *vdisk = vdisk_record(volume);

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

void co_node_volumes_stop(struct node *node, bool handover)
{
    uint64_t deadline_ns = io_now_ns(node->io) + STOP_NS, to = handover ? successor(node) : 0;

    list_for_each (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);

        volume->move_to = to;
        if (!handover && volume->fs)
            fs_fail(volume->fs);
        if (!handover && volume->mirror)
            mirror_stop(volume->mirror);
        co_cond_signal(&volume->changed);
    }
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

/* ---- for administrators ---- */

static bool is_exported(struct node *node, const char *name)
{
    struct csv_volume *volume = csv_volume_find(node->csv, name);

    csv_volume_put(volume);
    return volume != NULL;
}

int co_node_create_volume(struct node *node, const char *name, uint64_t size_bytes,
                          const char *resiliency, bool thin, uint64_t owner,
                          struct node_message *ret_message)
{
    uint64_t deadline_ns = io_now_ns(node->io) + 60 * SEC;
    const struct volume_record *volume;
    struct command_result result;
    uint64_t id;
    int r;

    r = co_node_propose(node,
                        json_pack("{s:s,s:s,s:I,s:s,s:b,s:I}", "verb", "volume.create", "name",
                                  name, "size_bytes", (json_int_t)size_bytes, "resiliency",
                                  resiliency, "thin", thin, "owner",
                                  (json_int_t)(owner ? owner : node->identity.node)),
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
    struct node_volume *volume = record ? find_volume(node, record->vdisk) : NULL;
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
    while ((volume = find_volume(node, vdisk_id)) && volume->move_to) {
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

int co_node_volume_status(struct node *node, uint64_t id, struct node_volume_status *ret_status)
{
    const struct volume_record *record =
        database_find(consensus_database(node->consensus), TABLE_VOLUME, id);
    struct node_volume *volume = record ? find_volume(node, record->vdisk) : NULL;
    struct mirror_status mirror;
    struct fs_statfs statfs;

    *ret_status = (struct node_volume_status){0};
    if (!volume)
        return -ENOENT;
    ret_status->owned = volume->mirror != NULL;
    ret_status->serving = volume->fs != NULL;
    ret_status->waiting = volume->waiting;
    if (volume->mirror) {
        mirror = mirror_status(volume->mirror);
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
                         struct fs_check_result *ret_result)
{
    const struct volume_record *record =
        database_find(consensus_database(node->consensus), TABLE_VOLUME, id);
    struct node_volume *volume = record ? find_volume(node, record->vdisk) : NULL;
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
    return r;
}
