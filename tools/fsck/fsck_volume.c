/* A volume: its vdisk is put together by the code that serves it, an owner in a session of its own
 * on the disks that were given. What is missing is taken for away, what is stale stays so. A
 * takeover makes the last writes before the stop the same everywhere, every copy of every block is
 * read, and the file system is mounted and walked. None of what this writes leaves the RAM. */
#include <string.h>

#include "fs-refs-lite/fs.h"
#include "resiliency/mirror.h"
#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/node/volume_config.h"
#include "tools/fsck/fsck.h"

#define BUFFER_BYTES (64 * MIB)
#define TAKEOVER_NS (15 * SEC)
#define EPOCHS_AHEAD (UINT64_C(1) << 32) /* above what any store was shown */

struct volume_fsck {
    struct fsck *fsck;
    const char *name;
    const char *advice;
    struct vdisk_config *config;
    struct mirror *mirror;
    struct co_group commands;
};

static struct column_store *find_column(void *arg, uint64_t node, uint64_t disk)
{
    struct volume_fsck *volume = arg;
    struct fsck_disk *found = fsck_find_disk(volume->fsck, disk);

    (void)node;
    return found ? found->column : NULL;
}

static bool always(void *arg)
{
    (void)arg;
    return true;
}

/* The database's part (vdisk.stale), in RAM. */
struct stale_command {
    struct volume_fsck *volume;
    uint64_t epoch;
    size_t count;
    uint64_t disks[];
};

static void stale_main(void *arg)
{
    struct stale_command *command = arg;
    struct volume_fsck *volume = command->volume;
    struct vdisk_config *next = NULL;
    size_t changed = 0;

    if (command->epoch == volume->config->epoch &&
        vdisk_config_copy(volume->config, volume->config->slab_count, &next) == 0) {
        next->epoch++;
        for (size_t i = 0; i < command->count; i++)
            changed += vdisk_config_mark_stale(next, command->disks[i], next->epoch);
    }
    if (changed > 0 && mirror_configure(volume->mirror, next) == 0) {
        vdisk_config_put(volume->config);
        volume->config = take_ptr(next);
    }
    vdisk_config_put(next);
    free(command);
}

static void propose_stale(void *arg, uint64_t vdisk, uint64_t epoch, const uint64_t *disks,
                          size_t count)
{
    struct volume_fsck *volume = arg;
    struct stale_command *command = malloc(sizeof(*command) + count * sizeof(*disks));

    (void)vdisk;
    if (!command)
        return;
    *command = (struct stale_command){.volume = volume, .epoch = epoch, .count = count};
    memcpy(command->disks, disks, count * sizeof(*disks));
    if (co_group_spawn(&volume->commands, volume->fsck->io, "stale", stale_main, command) < 0)
        free(command);
}

static void propose_in_sync(void *arg, uint64_t vdisk, uint64_t epoch, uint64_t disk,
                            const uint32_t *slabs, size_t count)
{
    (void)arg, (void)vdisk, (void)epoch, (void)disk, (void)slabs,
        (void)count; /* resync is paused */
}

static int co_no_slabs(void *arg, uint64_t vdisk, uint64_t epoch, const uint32_t *slabs,
                       size_t count)
{
    (void)arg, (void)vdisk, (void)epoch, (void)slabs, (void)count;
    return -ENOSPC;
}

static void report(void *arg, const char *line)
{
    struct volume_fsck *volume = arg;

    fsck_problem(volume->fsck, volume->name, volume->advice, "%s", line);
}

/* ---- columns ---- */

static void tell_columns(struct volume_fsck *volume)
{
    const struct vdisk_config *config = volume->config;
    uint64_t stale = 0, absent = 0;

    for (uint32_t slab = 0; slab < config->slab_count; slab++) {
        const struct column_config *columns = vdisk_config_slab(config, slab);

        for (uint32_t i = 0; vdisk_config_slab_allocated(config, slab) && i < config->width; i++) {
            stale += columns[i].state == COLUMN_STALE;
            absent +=
                columns[i].state == COLUMN_IN_SYNC && !find_column(volume, 0, columns[i].disk);
        }
    }
    if (stale > 0)
        fsck_note(volume->name,
                  "%llu columns are stale and were not compared: they are brought up when all runs",
                  (unsigned long long)stale);
    if (absent > 0)
        fsck_note(volume->name, "%llu columns lie on disks that were not given, or cannot be read",
                  (unsigned long long)absent);
}

static int co_take_over(struct volume_fsck *volume, const struct vdisk_record *vdisk,
                        struct buffer_pool *buffers)
{
    struct mirror_options options = {
        .node = vdisk->owner ? vdisk->owner : 1,
        .buffers = buffers,
        .column = find_column,
        .lease_held = always,
        .propose_stale = propose_stale,
        .propose_in_sync = propose_in_sync,
        .co_request_slabs = co_no_slabs,
        .arg = volume,
    };
    int r = volume_make_config(volume->fsck->database, vdisk, &volume->config);

    if (r < 0)
        return r;
    volume->config->owner = options.node;
    volume->config->epoch += EPOCHS_AHEAD;
    volume->config->session = volume->config->epoch;
    tell_columns(volume);
    r = mirror_new(volume->fsck->io, &options, volume->config, &volume->mirror);
    if (r < 0)
        return r;
    mirror_pause_resync(volume->mirror, true);
    return co_mirror_wait_ready(volume->mirror, io_now_ns(volume->fsck->io) + TAKEOVER_NS);
}

/* ---- the file system ---- */

static void co_check_files(struct volume_fsck *volume)
{
    struct fsck *fsck = volume->fsck;
    struct fs_check_result result;
    struct fs_mount_options now = {.gives_up = true}; /* what it writes stays in RAM */
    struct fs *fs = NULL;
    int r = co_fs_mount(fsck->io, mirror_vdisk(volume->mirror), &now, &fs);

    if (r == -EBADMSG) {
        struct fs_mount_options salvage = {.salvage = true, .gives_up = true};

        r = co_fs_mount(fsck->io, mirror_vdisk(volume->mirror), &salvage, &fs);
        fsck_problem(fsck, volume->name,
                     r == 0 ? "what is older can be saved: copy the files from a mount"
                            : "restore the volume from a copy elsewhere",
                     "its file system cannot be mounted as it is: %s",
                     r == 0 ? "its journal has a hole" : "no root of its trees is whole");
    } else if (r < 0) {
        fsck_problem(fsck, volume->name, "give the folders of more nodes",
                     "its file system cannot be mounted: %s", strerror(-r));
    }
    if (r < 0)
        return;
    volume->advice =
        "files below it cannot be read: delete them, or restore them; others are whole";
    r = co_fs_check(fs, report, volume, &result);
    if (r < 0)
        fsck_problem(fsck, volume->name, "", "its file system could not be walked to the end: %s",
                     strerror(-r));
    else
        fsck_note(volume->name, "%llu files, %llu directories, %llu extents, %llu tree nodes",
                  (unsigned long long)(result.inodes - result.directories),
                  (unsigned long long)result.directories, (unsigned long long)result.extents,
                  (unsigned long long)result.nodes);
    co_fs_abandon(fs);
}

static void co_check_vdisk(struct volume_fsck *volume)
{
    struct fsck *fsck = volume->fsck;
    uint32_t waiting = mirror_status(volume->mirror).slabs_waiting;
    struct mirror_scrub scrub = {0};
    int r;

    if (waiting > 0) {
        fsck_problem(fsck, volume->name, "give the folders of all nodes",
                     "%u slabs have too few columns here to be read: nothing else was looked at",
                     waiting);
        return;
    }
    volume->advice =
        "start the node: blocks are repaired as they are read, or by 's2d volume check'";
    r = co_mirror_scrub(volume->mirror, report, volume, &scrub);
    if (r < 0)
        fsck_problem(fsck, volume->name, "", "its copies could not be compared: %s", strerror(-r));
    else
        fsck_note(volume->name, "%llu copies of blocks read, %llu rotten, %llu different",
                  (unsigned long long)scrub.copies, (unsigned long long)scrub.rotten,
                  (unsigned long long)scrub.different);
    co_check_files(volume);
}

void co_fsck_volume(struct fsck *fsck, const struct volume_record *record)
{
    const struct vdisk_record *vdisk = database_find(fsck->database, TABLE_VDISK, record->vdisk);
    cleanup(buffer_pool_freep) struct buffer_pool *buffers = NULL;
    char name[NAME_MAX_BYTES + 16];
    struct volume_fsck volume = {.fsck = fsck, .name = name, .advice = ""};
    int r;

    snprintf(name, sizeof(name), "volume %s", record->name);
    if (!vdisk || record->state != VOLUME_ONLINE)
        return;
    fsck->volumes++;
    co_group_init(&volume.commands);
    r = buffer_pool_new("fsck", BUFFER_BYTES, &buffers);
    if (r == 0)
        r = co_take_over(&volume, vdisk, buffers);
    if (r == 0 || r == -ETIMEDOUT)
        co_check_vdisk(&volume);
    else
        fsck_problem(fsck, name, "", "cannot be put together: %s", strerror(-r));
    if (volume.mirror)
        mirror_stop(volume.mirror);
    co_group_wait(&volume.commands);
    co_mirror_free(volume.mirror);
    vdisk_config_put(volume.config);
}
