/* The way of one vdisk on this node between owned and not: a session is begun, its mirror takes
 * over, the file system is mounted and exported; and back. */
#include <stdio.h>

#include "s2d/node/volumes_internal.h"

#define CHECKPOINT_NS (10 * SEC)  /* of the file system */
#define REAP_ORPHANS_NS (5 * SEC) /* after a mount: exports have opened their handles again */
#define RETRY_NS (200 * MS)
#define PAUSE_MAX_NS (5 * SEC)
#define GAVE_UP_SOON_NS (30 * SEC) /* after it was mounted: what was wrong still is */
/* So long what cannot be read when a volume is mounted may come back, with a host that starts again
 * or a disk that is brought up, before it is given up. */
#define UNREADABLE_WAIT_NS (30 * 60 * SEC)

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

static void mirror_propose_in_sync(void *arg, uint64_t vdisk, uint64_t epoch, uint64_t disk,
                                   const uint32_t *slabs, size_t count)
{
    struct node_volume *volume = arg;
    json_t *command =
        json_pack("{s:s,s:I,s:I,s:I}", "verb", "vdisk.in_sync", "vdisk", (json_int_t)vdisk, "epoch",
                  (json_int_t)epoch, "disk", (json_int_t)disk);
    json_t *list = count > 0 ? json_array() : NULL;

    log_info(volume->owner_node->io, "volumes", "columns have caught up",
             "vdisk=%llu epoch=%llu disk=%llu slabs=%zu", (unsigned long long)vdisk,
             (unsigned long long)epoch, (unsigned long long)disk, count);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer((json_int_t)slabs[i]));
    if (count > 0 && json_object_set_new(command, "slabs", list) < 0)
        json_decref(take_ptr(command)); /* no memory: without it all would be called in-sync */
    propose(volume->owner_node, command);
}

static bool mirror_may_join(void *arg, uint64_t disk)
{
    struct node_volume *volume = arg;

    return database_disk_may_join(consensus_database(volume->owner_node->consensus), disk);
}

static void mirror_propose_release(void *arg, uint64_t vdisk, uint64_t epoch, uint32_t slab)
{
    struct node_volume *volume = arg;

    propose(volume->owner_node,
            json_pack("{s:s,s:I,s:I,s:I}", "verb", "slab.release", "vdisk", (json_int_t)vdisk,
                      "epoch", (json_int_t)epoch, "number", (json_int_t)slab));
}

static void mirror_on_heal(void *arg, const struct mirror_heal *heal)
{
    struct node_volume *volume = arg;
    struct node *node = volume->owner_node;
    const struct disk_record *disk =
        database_find(consensus_database(node->consensus), TABLE_DISK, heal->disk);
    const struct volume_record *record = volume_record_of(volume);
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
static int mirror_request_slabs(void *arg, uint64_t vdisk, uint64_t epoch, const uint32_t *slabs,
                                size_t count)
{
    struct node_volume *volume = arg;

    (void)epoch; /* new slabs change nothing that exists */
    return co_volume_add_slabs(volume->owner_node, vdisk, slabs, count);
}

/* ---- exports ---- */

/* Tells this node's exports who serves the volume. May wait for requests inside the file system. */
static void co_tell_exports(struct node_volume *volume, struct fs *fs)
{
    const struct volume_record *record = volume_record_of(volume);
    const struct vdisk_record *vdisk = vdisk_record_of(volume);
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
    const struct vdisk_record *vdisk = vdisk_record_of(volume);
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
    const struct volume_record *record = volume_record_of(volume);
    const struct vdisk_record *vdisk = vdisk_record_of(volume);
    struct mirror_options options = {
        .node = node->identity.node,
        .limits = {.unsettled_bytes = volume_unsettled_bytes(node)},
        .buffers = node->owner_buffers,
        .metrics = node->metrics,
        .pace = &node->pace,
        .grace_until_ns = node->booted_ns + node->options.cold_start_grace_ns,
        .column = mirror_column,
        .lease_held = mirror_lease_held,
        .propose_stale = mirror_propose_stale,
        .propose_in_sync = mirror_propose_in_sync,
        .may_join = mirror_may_join,
        .co_request_slabs = mirror_request_slabs,
        .propose_release = record && record->thin ? mirror_propose_release : NULL,
        .on_heal = mirror_on_heal,
        .arg = volume,
    };
    struct vdisk_config *config;
    int r;

    r = volume_make_config(consensus_database(node->consensus), vdisk, &config);
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
    const struct volume_record *record = volume_record_of(volume);
    struct fs_format_options options = {.group_blocks = volume->owner_node->options.group_blocks,
                                        .mode = 0755};
    struct command_result result;
    int r = 0;

    volume->waiting = "is being formatted";
    snprintf(options.label, sizeof(options.label), "%s", record->name);
    if (!record->thin)
        r = co_volume_add_all_slabs(volume);
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

/* Before the next mount; again: the one before was in vain, too. Meanwhile the mirror goes on: it
 * may be what mends it. */
static void pause_mounting(struct node_volume *volume, bool again, const char *reason)
{
    volume->pause_ns =
        again && volume->pause_ns > 0 ? MIN(2 * volume->pause_ns, PAUSE_MAX_NS) : RETRY_NS;
    volume->paused_until_ns = io_now_ns(volume->owner_node->io) + volume->pause_ns;
    volume->pause_reason = reason;
}

/* Where a block that it must write stays out of reach the next mount gives up as soon as this one
 * did: each time those who use the volume open their files anew, for nothing. */
static void pause_after_giving_up(struct node_volume *volume)
{
    uint64_t now_ns = io_now_ns(volume->owner_node->io);

    pause_mounting(volume, now_ns - volume->mounted_ns < GAVE_UP_SOON_NS,
                   "its file system could not write, and is mounted anew in a moment");
}

/* NULL: that passes by itself, or it is mounted. */
static const char *why_not_mounted(int error)
{
    switch (error) {
    case -EAGAIN:
        return "waits for a block of its metadata that no copy gives now";
    case -EIO: /* of those without which nothing can be mounted */
        return "cannot be mounted: blocks of its metadata that no copy gives";
    case -EBADMSG:
        return "cannot be mounted: its metadata is damaged";
    }
    return NULL;
}

static int co_mount(struct node_volume *volume)
{
    struct node *node = volume->owner_node;
    const struct volume_record *record = volume_record_of(volume);
    struct fs_mount_options options = {0};
    const char *why;
    int r = 0;

    if (!record || record->state == VOLUME_DELETING)
        return -ESTALE;
    if (record->state == VOLUME_CREATING)
        r = co_format(volume);
    if (r < 0)
        return r;
    options.lacks = &volume->lacks;
    options.unreadable_wait_ns = node->options.unreadable_wait_ns;
    if (options.unreadable_wait_ns == 0)
        options.unreadable_wait_ns = UNREADABLE_WAIT_NS;
    volume->waiting = "is being mounted";
    r = co_fs_mount(node->io, mirror_vdisk(volume->mirror), &options, &volume->fs);
    if (r != -EAGAIN)
        volume->lacks = (struct fs_lacks){0};
    why = why_not_mounted(r);
    if (why) { /* each attempt reads all that it needs */
        volume->waiting = why;
        pause_mounting(volume, volume->mount_error == r, why);
    }
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

    volume->lacks = (struct fs_lacks){0};
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
    const struct vdisk_record *vdisk = vdisk_record_of(volume);

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
    const struct vdisk_record *vdisk = vdisk_record_of(volume);
    int r, gave_up;

    if (volume->mirror && mirror_stopped(volume->mirror)) {
        co_release(volume, false);
        co_drop_mirror(volume);
        return 0;
    }
    if (volume->fs && fs_error(volume->fs) != 0) {
        SOMETIMES("volume: the file system gave up and is mounted anew");
        gave_up = fs_error(volume->fs);
        /* -ESTALE: the lease lapsed, or the mirror ended: nothing is wrong with it. */
        log_write(volume->owner_node->io, gave_up == -ESTALE ? LOG_INFO : LOG_ERROR, "volumes",
                  "the file system gave up; mounting it anew", "vdisk=%llu error=%s",
                  (unsigned long long)volume->vdisk, strerror(-gave_up));
        co_release(volume, false);
        co_drop_mirror(volume);
        if (gave_up != -ESTALE)
            pause_after_giving_up(volume);
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
        SOMETIMES("volume: an owner waits for a lease");
        volume->waiting = "this node has no lease: it cannot reach the cluster's leader";
        return -EAGAIN;
    }
    SOMETIMES_IF(!volume->mirror && vdisk->session <= volume->spent_session,
                 "volume: an owner asks for a new session of its own");
    if (!volume->mirror && vdisk->session <= volume->spent_session)
        return co_begin_session(volume);
    if (!volume->mirror)
        return make_mirror(volume);
    if (io_now_ns(volume->owner_node->io) < volume->paused_until_ns) {
        volume->waiting = volume->pause_reason;
        return -EAGAIN;
    }
    volume->waiting = "waits for a copy of its metadata: no in-sync column can be reached";
    r = co_mount(volume);
    SOMETIMES_IF(r == -ESTALE, "volume: lost while it was being mounted");
    if (r < 0 && r != -ESTALE && r != -ECANCELED && r != volume->mount_error)
        log_warn(volume->owner_node->io, "volumes", "volume cannot be mounted; trying on",
                 "vdisk=%llu error=\"%s\"", (unsigned long long)volume->vdisk,
                 r == -EAGAIN ? volume->waiting : strerror(-r));
    volume->mount_error = r;
    return r;
}

static bool is_ours(const struct node_volume *volume)
{
    const struct vdisk_record *vdisk = vdisk_record_of(volume);

    if (!volume->mirror && volume->owner_node->leaving)
        return false; /* handed over, or on its way to somebody else */
    return vdisk && vdisk->owner == volume->owner_node->identity.node && volume->owner_node->booted;
}

void volume_main(void *arg)
{
    struct node_volume *volume = arg;
    struct node *node = volume->owner_node;

    /* Whoever comes before it is served waits, also when that is for this node to do: a VM that is
     * started after an outage of all nodes would else find no disk, and be stopped for good. */
    co_tell_exports(volume, NULL);
    while (!node->stopping && !co_cancelled() && vdisk_record_of(volume)) {
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
