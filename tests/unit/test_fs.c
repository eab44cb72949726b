/* The file system's promises, one by one, on a vdisk in RAM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "fs-refs-lite/fs_format.h"
#include "fs-refs-lite/fs_internal.h"
#include "tests/unit/fs_harness.h"

#define VOLUME (64 * MIB)

static uint64_t allocated(struct fs_inode *inode)
{
    struct fs_attr attr;

    check_int(co_fs_getattr(inode, &attr), 0);
    return attr.allocated_bytes;
}

static void check_bytes(struct fs_inode *inode, uint64_t offset, uint64_t length, uint64_t seed)
{
    uint8_t *buffer = malloc(length);
    uint64_t got;

    check_int(co_fs_read(inode, buffer, offset, length, &got), 0);
    check_int(got, length);
    for (uint64_t i = 0; i < length; i++)
        check_int(buffer[i], seed ? pattern_byte(seed, offset + i) : 0);
    free(buffer);
}

/* ---- volume ---- */

static void co_format_mounts(struct world *world)
{
    struct fs_format_options options = {.label = "data", .mode = 0700, .uid = 5};
    struct fs_statfs statfs;
    struct fs_attr attr;
    struct fs_inode *root;

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    check_int(co_fs_statfs(world->fs, &statfs), 0);
    check(strcmp(statfs.label, "data") == 0);
    check_int(statfs.inodes, 1);
    check(statfs.available_bytes > VOLUME / 2 && statfs.free_bytes > statfs.available_bytes);
    root = co_must_open(world, "");
    check_int(co_fs_getattr(root, &attr), 0);
    check_int(attr.mode, S_IFDIR | 0700);
    check_int(attr.uid, 5);
    check_int(attr.nlink, 2);
    fs_inode_put(root);
    co_world_done(world);
}

static void format_mounts(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_format_mounts);
}

static void co_foreign_is_refused(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 1};
    struct fs *fs;

    check_int(co_fs_mount(world->io, &world->ram.vdisk, NULL, &fs), -EBADMSG);
    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), -EINVAL);
    world->ram.vdisk.size_bytes = FS_VOLUME_BYTES_MIN - BLOCK_SIZE;
    check_int(co_fs_format(world->io, &world->ram.vdisk, NULL), -EINVAL);
    world->ram.vdisk.size_bytes = VOLUME;
    co_world_format(world);
    world->ram.memory[40] = 99; /* the version, in both copies */
    world->ram.memory[BLOCK_SIZE + 40] = 99;
    check_int(co_fs_mount(world->io, &world->ram.vdisk, NULL, &fs), -EPROTONOSUPPORT);
}

static void foreign_is_refused(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_foreign_is_refused);
}

/* Many small groups, the last one short: all their room is to be had, and comes back. */
static void co_groups_are_small(struct world *world)
{
    struct fs_format_options options = {.group_blocks = 500};
    struct fs_statfs empty, now;
    struct fs_inode *inode;

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), -EINVAL);
    options.group_blocks = FS_GROUP_BLOCKS + 64;
    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), -EINVAL);
    options.group_blocks = 576;
    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    check_int(world->fs->super.group_blocks, 576);
    check_int(co_fs_statfs(world->fs, &empty), 0);
    check_int(co_create(world, "f"), 0);
    inode = co_must_open(world, "f");
    check_int(co_write_pattern(inode, 0, VOLUME * 3 / 4, 1), 0);
    fs_inode_put(inode);
    co_world_remount(world);
    inode = co_must_open(world, "f");
    check_bytes(inode, 0, VOLUME * 3 / 4, 1);
    co_world_check(world);
    check_int(co_fs_truncate(inode, 0, FS_NO_REQUEST), 0);
    fs_inode_put(inode);
    check_int(co_fs_checkpoint(world->fs), 0);
    check_int(co_fs_statfs(world->fs, &now), 0);
    check(now.free_bytes + 16 * BLOCK_SIZE > empty.free_bytes);
    co_world_done(world);
}

static void groups_are_small(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_groups_are_small);
}

static void co_grows(struct world *world)
{
    struct fs_statfs before, after;

    world->ram.vdisk.size_bytes = VOLUME / 4;
    co_world_fresh(world);
    check_int(co_fs_statfs(world->fs, &before), 0);
    world->ram.vdisk.size_bytes = VOLUME;
    check_int(co_fs_grow(world->fs), 0);
    check_int(co_fs_statfs(world->fs, &after), 0);
    check_int(after.total_bytes - before.total_bytes, VOLUME * 3 / 4);
    co_world_done(world);
}

static void grows(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_grows);
}

/* What was written to the new space before a root that tells of it is durable is there after a
 * crash, and in nobody else's way. */
static void co_grows_and_crashes(struct world *world)
{
    struct fs_inode *inode;

    world->ram.vdisk.size_bytes = VOLUME / 4;
    co_world_fresh(world);
    check_int(co_create(world, "full"), 0);
    inode = co_must_open(world, "full");
    check_int(co_write_pattern(inode, 0, VOLUME / 4, 1), -ENOSPC);
    fs_inode_put(inode);
    check_int(co_fs_checkpoint(world->fs), 0);
    world->ram.vdisk.size_bytes = VOLUME;
    world->ram.fail_error = -EIO;
    world->ram.fail_after = 1;
    check_int(co_fs_grow(world->fs), -EIO);
    check_int(co_create(world, "new"), 0);
    inode = co_must_open(world, "new");
    check_int(co_write_pattern(inode, 0, 8 * MIB, 2), 0);
    fs_inode_put(inode);
    co_world_crash(world);
    co_world_mount(world);
    co_world_check(world);
    check_int(co_create(world, "newer"), 0);
    inode = co_must_open(world, "newer");
    check_int(co_write_pattern(inode, 0, 8 * MIB, 3), 0);
    fs_inode_put(inode);
    inode = co_must_open(world, "new");
    check_bytes(inode, 0, 8 * MIB, 2);
    fs_inode_put(inode);
    co_world_done(world);
}

static void grows_and_crashes(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_grows_and_crashes);
}

/* ---- names ---- */

static void co_names(struct world *world)
{
    struct fs_inode *inode;
    struct fs_attr attr;
    char name[FS_NAME_MAX + 2];

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    check_int(co_create(world, "a"), -EEXIST);
    check_int(co_mkdir(world, "d"), 0);
    check_int(co_mkdir(world, "d/e"), 0);
    check_int(co_create(world, "d/e/f"), 0);
    check_int(co_create(world, "nowhere/f"), -ENOENT);
    check_int(co_create(world, "a/f"), -ENOTDIR);
    check_int(co_create(world, "d/."), -EINVAL);
    memset(name, 'x', sizeof(name));
    name[FS_NAME_MAX + 1] = 0;
    check_int(co_create(world, name), -ENAMETOOLONG);
    name[FS_NAME_MAX] = 0;
    check_int(co_create(world, name), 0);
    check_int(co_unlink(world, "d"), -EISDIR);
    check_int(co_rmdir(world, "a"), -ENOTDIR);
    check_int(co_rmdir(world, "d"), -ENOTEMPTY);
    check_int(co_unlink(world, "b"), -ENOENT);

    inode = co_must_open(world, "//d//e/");
    check_int(co_fs_getattr(inode, &attr), 0);
    check_int(attr.nlink, 2);
    fs_inode_put(inode);
    inode = co_must_open(world, "d");
    check_int(co_fs_getattr(inode, &attr), 0);
    check_int(attr.nlink, 3);
    fs_inode_put(inode);

    check_int(co_unlink(world, "d/e/f"), 0);
    check_int(co_rmdir(world, "d/e"), 0);
    check_int(co_rmdir(world, "d"), 0);
    check_int(co_unlink(world, name), 0);
    co_world_done(world);
}

static void names(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_names);
}

static void co_links(struct world *world)
{
    struct fs_inode *root, *a, *dir, *link, *nothing;
    struct fs_new new = {.mode = 0777};
    struct fs_attr attr;
    char target[FS_SYMLINK_MAX + 1], read[FS_SYMLINK_MAX + 1];

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    check_int(co_mkdir(world, "d"), 0);
    root = co_must_open(world, "");
    a = co_must_open(world, "a");
    dir = co_must_open(world, "d");
    check_int(co_fs_link(a, dir, "b", FS_NO_REQUEST), 0);
    check_int(co_fs_link(a, dir, "b", FS_NO_REQUEST), -EEXIST);
    check_int(co_fs_link(dir, root, "c", FS_NO_REQUEST), -EPERM);
    check_int(co_fs_getattr(a, &attr), 0);
    check_int(attr.nlink, 2);
    check_int(co_unlink(world, "a"), 0);
    check_int(co_unlink(world, "d/b"), 0);
    check_int(co_fs_link(a, dir, "b", FS_NO_REQUEST), -ENOENT); /* an orphan stays one */

    memset(target, 't', sizeof(target));
    target[FS_SYMLINK_MAX] = 0;
    check_int(co_fs_symlink(root, "s", target, &new, FS_NO_REQUEST, &link), 0);
    check_int(co_fs_readlink(link, read), 0);
    check(strcmp(read, target) == 0);
    check_int(co_fs_readlink(dir, read), -EINVAL);
    check_int(co_open(world, "s/x", &nothing), -ELOOP);
    fs_inode_put(link);
    fs_inode_put(dir);
    fs_inode_put(a);
    fs_inode_put(root);
    check_int(co_unlink(world, "s"), 0);
    co_world_done(world);
}

static void links(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_links);
}

static void co_renames(struct world *world)
{
    struct fs_inode *inode;
    struct fs_attr attr;

    co_world_fresh(world);
    check_int(co_mkdir(world, "a"), 0);
    check_int(co_mkdir(world, "a/b"), 0);
    check_int(co_mkdir(world, "c"), 0);
    check_int(co_create(world, "f"), 0);
    check_int(co_create(world, "g"), 0);
    check_int(co_rename(world, "a", "a/b/x", 0), -EINVAL);
    check_int(co_rename(world, "a", "a/x", 0), -EINVAL);
    check_int(co_rename(world, "c", "a", 0), -ENOTEMPTY);
    check_int(co_rename(world, "f", "c", 0), -EISDIR);
    check_int(co_rename(world, "c", "f", 0), -ENOTDIR);
    check_int(co_rename(world, "f", "g", FS_RENAME_NOREPLACE), -EEXIST);
    check_int(co_rename(world, "f", "h", FS_RENAME_EXCHANGE), -ENOENT);
    check_int(co_rename(world, "a", "c/x", FS_RENAME_EXCHANGE), -ENOENT);
    check_int(co_rename(world, "f", "g", 0), 0);
    check_int(co_open(world, "f", &inode), -ENOENT);
    check_int(co_rename(world, "a/b", "c/b", 0), 0); /* a directory changes its parent */
    inode = co_must_open(world, "a");
    check_int(co_fs_getattr(inode, &attr), 0);
    check_int(attr.nlink, 2);
    fs_inode_put(inode);
    check_int(co_rename(world, "a", "c/b", 0), 0); /* onto an empty directory */
    check_int(co_rename(world, "g", "c", FS_RENAME_EXCHANGE), 0);
    inode = co_must_open(world, "g/b");
    check(S_ISDIR(fs_inode_mode(inode)));
    fs_inode_put(inode);
    check_int(co_rename(world, "g", "g", 0), 0);
    co_world_done(world);
}

static void renames(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_renames);
}

#define MANY 3000

struct listing {
    uint8_t seen[MANY];
    unsigned count, dots;
    uint64_t cookie;
    unsigned left; /* entries until emit() refuses */
};

static bool see_entry(void *arg, const struct fs_dirent *entry)
{
    struct listing *listing = arg;
    unsigned number;

    if (listing->left == 0)
        return false;
    listing->left--;
    check(entry->cookie > listing->cookie && entry->cookie < INT64_MAX);
    listing->cookie = entry->cookie;
    if (entry->name[0] == '.') {
        listing->dots++;
        return true;
    }
    check(sscanf(entry->name, "file-%u", &number) == 1 && number < MANY);
    check_int(listing->seen[number], 0);
    listing->seen[number] = 1;
    listing->count++;
    return true;
}

/* A directory of many leaves: all are found, listed once across calls that stop early and a
 * remount, and removed. */
static void co_large_directory(struct world *world)
{
    struct listing *listing = calloc(1, sizeof(*listing));
    struct fs_inode *dir;
    char path[64];

    co_world_fresh(world);
    check_int(co_mkdir(world, "d"), 0);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(path, sizeof(path), "d/file-%u", i);
        check_int(co_create(world, path), 0);
    }
    co_world_check(world);
    do {
        if (listing->count == 1000 || listing->count == 1004)
            co_world_remount(world);
        dir = co_must_open(world, "d");
        listing->left = 7;
        check_int(co_fs_readdir(dir, listing->cookie, see_entry, listing), 0);
        fs_inode_put(dir);
    } while (listing->left == 0);
    check_int(listing->count, MANY);
    check_int(listing->dots, 2);
    check_int(co_rmdir(world, "d"), -ENOTEMPTY);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(path, sizeof(path), "d/file-%u", (i * 1009) % MANY);
        check_int(co_unlink(world, path), 0);
    }
    check_int(co_rmdir(world, "d"), 0);
    check(fs_counters(world->fs)->checkpoints > 0);
    free(listing);
    co_world_done(world);
}

static void large_directory(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_large_directory);
}

static void co_attributes(struct world *world)
{
    struct fs_inode *inode, *again;
    struct fs_attr attr, old;
    uint64_t ino, generation;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    check_int(co_fs_getattr(inode, &old), 0);
    attr = (struct fs_attr){.mode = 04711, .uid = 7, .gid = 8, .mtime_ns = 9, .atime_ns = -10};
    check_int(co_fs_setattr(inode, &attr,
                            FS_SET_MODE | FS_SET_UID | FS_SET_GID | FS_SET_MTIME | FS_SET_ATIME,
                            FS_NO_REQUEST),
              0);
    ino = fs_inode_number(inode);
    generation = fs_inode_generation(inode);
    fs_inode_put(inode);
    co_world_crash(world); /* it was durable when it was answered */
    co_world_mount(world);
    check_int(co_fs_inode_get(world->fs, ino, generation + 1, &again), -ESTALE);
    check_int(co_fs_inode_get(world->fs, ino, generation, &again), 0);
    check_int(co_fs_getattr(again, &attr), 0);
    check_int(attr.mode, S_IFREG | 04711);
    check_int(attr.uid, 7);
    check_int(attr.gid, 8);
    check_int(attr.mtime_ns, 9);
    check_int(attr.atime_ns, -10);
    check_int(attr.btime_ns, old.btime_ns);
    check(attr.change > old.change);
    fs_inode_put(again);
    co_world_done(world);
}

static void attributes(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_attributes);
}

/* ---- orphans ---- */

static void co_orphan(struct world *world)
{
    struct fs_inode *inode;
    struct fs_statfs before, statfs;
    uint8_t *buffer = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    uint64_t ino, generation, length;

    co_world_fresh(world);
    check_int(co_fs_statfs(world->fs, &before), 0);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    ino = fs_inode_number(inode);
    generation = fs_inode_generation(inode);
    check_int(co_write_pattern(inode, 0, 1 * MIB, 1), 0);
    check_int(co_unlink(world, "a"), 0);
    check_int(co_write_pattern(inode, 0, 8 * KIB, 2), 0);
    check_int(co_fs_statfs(world->fs, &statfs), 0);
    check_int(statfs.orphans, 1);

    /* The node dies; an export opens its handle again at the new owner before orphans are freed. */
    fs_fail(world->fs);
    fs_inode_put(inode);
    co_world_crash(world);
    co_world_mount(world);
    check_int(co_fs_inode_get(world->fs, ino, generation, &inode), 0);
    check_int(co_fs_reap_orphans(world->fs), 0);
    check_int(co_fs_read(inode, buffer, 4096, 4096, &length), 0);
    check_int(length, 4096);
    check_int(buffer[5], pattern_byte(2, 4096 + 5));
    co_world_check(world);
    fs_inode_put(inode);
    co_world_remount(world); /* waits for the freeing */
    check_int(co_fs_inode_get(world->fs, ino, 0, &inode), -ESTALE);
    check_int(co_fs_statfs(world->fs, &statfs), 0);
    check_int(statfs.orphans, 0);
    check(statfs.free_bytes + 64 * KIB > before.free_bytes);
    free(buffer);
    co_world_done(world);
}

static void orphan_lives_while_open(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_orphan);
}

static void co_orphan_reaped(struct world *world)
{
    struct fs_statfs statfs;
    struct fs_inode *inode;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    check_int(co_unlink(world, "a"), 0);
    fs_fail(world->fs);
    fs_inode_put(inode);
    co_world_crash(world);
    co_world_mount(world);
    check_int(co_fs_reap_orphans(world->fs), 0);
    check_int(co_fs_statfs(world->fs, &statfs), 0);
    check_int(statfs.orphans, 0);
    co_world_done(world);
}

static void orphan_of_a_dead_node_is_freed(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_orphan_reaped);
}

struct reaper {
    struct world *world;
    bool is_done;
};

static void co_reaper(void *arg)
{
    struct reaper *reaper = arg;

    check_int(co_fs_reap_orphans(reaper->world->fs), 0);
    reaper->is_done = true;
}

/* A large one goes in several steps. Who comes between them is told that it is gone; shown a file
 * with holes where data was he never is. */
static void co_orphan_reaped_in_steps(struct world *world)
{
    struct reaper reaper = {.world = world};
    struct fs_inode *inode;
    struct co_group group;
    uint64_t ino;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    ino = fs_inode_number(inode);
    for (uint64_t i = 0; i < 500; i++)
        check_int(co_write_pattern(inode, i * 128 * KIB, BLOCK_SIZE, 1), 0);
    check_int(co_unlink(world, "a"), 0);
    fs_fail(world->fs);
    fs_inode_put(inode);
    co_world_crash(world);
    co_world_mount(world);
    world->ram.delay_max = 20;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "reaper", co_reaper, &reaper), 0);
    for (uint64_t writes = world->ram.writes; writes == world->ram.writes;)
        co_yield (); /* the first step's record */
    check(!reaper.is_done);
    check_int(co_fs_inode_get(world->fs, ino, 0, &inode), -ESTALE);
    co_group_wait(&group);
    co_world_done(world);
}

static void orphan_is_gone_while_it_goes(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_orphan_reaped_in_steps);
}

/* A file that nobody has open stays in RAM while its times are newer than its item, no longer:
 * those that are renamed as soon as they are written would be there for ever. */
static void co_times_go(struct world *world)
{
    struct fs_inode *inode;
    size_t before;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    before = world->fs->inodes.count;
    inode = co_must_open(world, "a");
    check_int(co_write_pattern(inode, 0, BLOCK_SIZE, 1), 0);
    check_int(co_write_pattern(inode, 0, BLOCK_SIZE, 2), 0);
    fs_inode_put(inode);
    check_int(world->fs->inodes.count, before + 1);
    check_int(co_rename(world, "a", "b", 0), 0);
    check_int(world->fs->inodes.count, before);
    co_world_done(world);
}

static void closed_files_leave_ram(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_times_go);
}

/* ---- data ---- */

/* The hot path: no journal record, no metadata, one request to the vdisk with the caller's own
 * memory. */
/* The vdisk answers a repeat of a write that it knows by its client's name without running it
 * again. What is written behind the end counts only with the new size: until then the next owner
 * zeroes over it, and a repeat must run. */
static void co_names_in_place_only(struct world *world)
{
    static const struct client_request request = {.session = 7, .number = 1};
    struct fs_inode *inode;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    check_int(co_fs_write(inode, "abc", 100, 3, request), 0); /* the first block */
    check_int(co_fs_write(inode, "abc", 103, 3, request),
              0); /* it is there, and the end is in it */
    check_int(co_fs_write(inode, "abc", 200, 3, request), 0);
    check_int(world->ram.named_writes, 0);
    check_int(co_fs_write(inode, "abc", 150, 3, request), 0);
    check_int(world->ram.named_writes, 1);
    fs_inode_put(inode);
    co_world_done(world);
}

static void names_in_place_only(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_names_in_place_only);
}

static void co_overwrite_is_cheap(struct world *world)
{
    void *buffer = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    const struct fs_counters *counters;
    uint64_t records, writes, length;
    struct fs_inode *inode;

    co_world_fresh(world);
    memset(buffer, 1, BLOCK_SIZE);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    check_int(co_fs_allocate(inode, 0, 16 * MIB, 0), 0);
    counters = fs_counters(world->fs);
    records = counters->journal_records;
    writes = world->ram.writes;
    for (uint64_t i = 0; i < 1000; i++)
        check_int(co_fs_write(inode, buffer, i * 7 % 4096 * BLOCK_SIZE, BLOCK_SIZE,
                              (struct client_request){0}),
                  0);
    check_int(world->ram.writes - writes, 1000);
    check_int(counters->journal_records, records);
    check_int(co_fs_sync(inode, true), 0);
    check_int(counters->journal_records, records);
    check_int(co_fs_sync(inode, false), 0); /* the times, once */
    check_int(co_fs_sync(inode, false), 0);
    check_int(counters->journal_records, records + 1);
    check_int(co_fs_read(inode, buffer, 0, BLOCK_SIZE, &length), 0);
    check_int(length, BLOCK_SIZE);
    fs_inode_put(inode);
    free(buffer);
    co_world_done(world);
}

static void overwrite_is_cheap(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_overwrite_is_cheap);
}

/* A create is one write of the vdisk, and so is each of the other operations on names. */
static void co_one_write_an_operation(struct world *world)
{
    uint64_t writes;

    co_world_fresh(world);
    writes = world->ram.writes;
    check_int(co_create(world, "a"), 0);
    check_int(co_mkdir(world, "d"), 0);
    check_int(co_rename(world, "a", "d/b", 0), 0);
    check_int(co_unlink(world, "d/b"), 0);
    check_int(world->ram.writes - writes, 4);
    co_world_done(world);
}

static void one_write_an_operation(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_one_write_an_operation);
}

struct creator {
    struct world *world;
    char path[32];
    int result;
};

static void co_creator(void *arg)
{
    struct creator *creator = arg;

    creator->result = co_create(creator->world, creator->path);
}

/* What comes together is written together. */
static void co_group_commit(struct world *world)
{
    struct creator creators[64];
    struct co_group group;
    uint64_t writes;

    co_world_fresh(world);
    world->ram.delay_max = 4;
    writes = world->ram.writes;
    co_group_init(&group);
    for (unsigned i = 0; i < ARRAY_SIZE(creators); i++) {
        creators[i] = (struct creator){.world = world};
        snprintf(creators[i].path, sizeof(creators[i].path), "file-%u", i);
        check_int(co_group_spawn(&group, world->io, "creator", co_creator, &creators[i]), 0);
    }
    co_group_wait(&group);
    for (unsigned i = 0; i < ARRAY_SIZE(creators); i++)
        check_int(creators[i].result, 0);
    check(world->ram.writes - writes <= 3);
    co_world_done(world);
}

static void commits_are_grouped(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_group_commit);
}

/* A name that somebody was shown is there after a power cut, although its maker has no answer yet.
 */
static void co_shown_is_durable(struct world *world)
{
    struct creator creator = {.world = world, .path = "a"};
    struct fs_inode *inode, *root;
    struct co_group group;
    int r;

    co_world_fresh(world);
    root = co_must_open(world, "");
    world->ram.delay_max = 20;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "creator", co_creator, &creator), 0);
    do {
        co_yield ();
        r = co_fs_lookup(root, "a", &inode);
    } while (r == -ENOENT);
    check_int(r, 0);
    world->ram.is_cut = true;
    fs_inode_put(inode);
    co_group_wait(&group);
    fs_inode_put(root);
    co_world_crash(world);
    co_world_mount(world);
    inode = co_must_open(world, "a");
    fs_inode_put(inode);
    co_world_done(world);
}

struct changer {
    struct fs_inode *inode;
    uint32_t mode; /* to set; or what was seen */
    bool is_done;
};

static void co_changer(void *arg)
{
    struct changer *changer = arg;
    struct fs_attr attr = {.mode = changer->mode};

    (void)co_fs_setattr(changer->inode, &attr, FS_SET_MODE, FS_NO_REQUEST);
}

static void co_looker(void *arg)
{
    struct changer *looker = arg;
    struct fs_attr attr;

    check_int(co_fs_getattr(looker->inode, &attr), 0);
    looker->mode = attr.mode;
    world_now->ram.is_cut = true;
    looker->is_done = true;
}

/* Nor is anybody shown attributes that were changed while he waited for those before. */
static void co_shown_attributes(struct world *world)
{
    struct changer first = {.mode = 0640}, looker = {0}, second = {.mode = 0600};
    struct fs_inode *inode;
    struct co_group group;
    struct fs_attr attr;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    first.inode = looker.inode = second.inode = inode = co_must_open(world, "a");
    world->ram.slow_from = BLOCK_SIZE;
    world->ram.slow_turns = 20;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "first", co_changer, &first), 0);
    co_yield ();
    check_int(co_group_spawn(&group, world->io, "looker", co_looker, &looker), 0);
    co_yield ();
    check_int(co_group_spawn(&group, world->io, "second", co_changer, &second), 0);
    co_group_wait(&group);
    check(looker.is_done);
    fs_inode_put(inode);
    world->ram.slow_from = 0;
    co_world_crash(world);
    co_world_mount(world);
    inode = co_must_open(world, "a");
    check_int(co_fs_getattr(inode, &attr), 0);
    check(attr.mode == looker.mode || attr.mode == (S_IFREG | 0600)); /* that, or newer */
    fs_inode_put(inode);
    co_world_done(world);
}

static void shown_attributes_are_durable(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++)
        world_run(VOLUME, seed, co_shown_attributes);
}

struct churner {
    struct world *world;
    unsigned number;
    const bool *stop;
    unsigned rounds;
};

static void co_churner(void *arg)
{
    struct churner *churner = arg;
    char path[32];

    snprintf(path, sizeof(path), "churn-%u", churner->number);
    for (; !*churner->stop && churner->rounds < 1000; churner->rounds++)
        check_int(churner->rounds % 2 ? co_unlink(churner->world, path)
                                      : co_create(churner->world, path),
                  0);
}

static bool count_entry(void *arg, const struct fs_dirent *entry)
{
    unsigned *count = arg;

    *count += strncmp(entry->name, "file", 4) == 0;
    return true;
}

struct puncher {
    struct fs_inode *inode;
    bool is_data; /* what was seen */
};

static void co_puncher(void *arg)
{
    struct puncher *puncher = arg;

    (void)co_fs_punch(puncher->inode, 0, 64 * KIB);
}

static void co_status_looker(void *arg)
{
    struct puncher *looker = arg;
    uint64_t length;

    check_int(co_fs_block_status(looker->inode, 0, 64 * KIB, &looker->is_data, &length), 0);
    world_now->ram.is_cut = true;
}

/* Nor a hole, which reads as zeros, where data may be again after a power cut. */
static void co_shown_holes(struct world *world)
{
    struct changer first = {.mode = 0640};
    struct puncher looker = {0};
    struct fs_inode *inode;
    struct co_group group;
    uint64_t length;
    bool is_data;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    first.inode = looker.inode = inode = co_must_open(world, "a");
    check_int(co_write_pattern(inode, 0, 64 * KIB, 1), 0);
    world->ram.slow_from = BLOCK_SIZE;
    world->ram.slow_turns = 20;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "first", co_changer, &first), 0);
    co_yield ();
    check_int(co_group_spawn(&group, world->io, "looker", co_status_looker, &looker), 0);
    co_yield ();
    check_int(co_group_spawn(&group, world->io, "puncher", co_puncher, &looker), 0);
    co_group_wait(&group);
    fs_inode_put(inode);
    world->ram.slow_from = 0;
    co_world_crash(world);
    co_world_mount(world);
    inode = co_must_open(world, "a");
    check_int(co_fs_block_status(inode, 0, 64 * KIB, &is_data, &length), 0);
    check(looker.is_data || !is_data);
    fs_inode_put(inode);
    co_world_done(world);
}

static void shown_holes_are_durable(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++)
        world_run(VOLUME, seed, co_shown_holes);
}

/* Where some are at work all the time, so that there always is a change on its way to the disk, a
 * directory can be listed all the same. */
static void co_busy_directory(struct world *world)
{
    struct churner churners[4];
    struct co_group group;
    struct fs_inode *root;
    unsigned count = 0;
    bool stop = false;
    char path[32];

    co_world_fresh(world);
    for (unsigned i = 0; i < 50; i++) {
        snprintf(path, sizeof(path), "file-%u", i);
        check_int(co_create(world, path), 0);
    }
    root = co_must_open(world, "");
    world->ram.slow_from = BLOCK_SIZE;
    world->ram.slow_turns = 20;
    co_group_init(&group);
    for (unsigned i = 0; i < ARRAY_SIZE(churners); i++) {
        churners[i] = (struct churner){.world = world, .number = i, .stop = &stop};
        check_int(co_group_spawn(&group, world->io, "churner", co_churner, &churners[i]), 0);
        co_yield (); /* not all in one batch */
    }
    for (unsigned i = 0; i < 100; i++)
        co_yield ();
    check_int(co_fs_readdir(root, 0, count_entry, &count), 0);
    check_int(count, 50);
    for (unsigned i = 0; i < ARRAY_SIZE(churners); i++)
        check(churners[i].rounds < 20);
    stop = true;
    co_group_wait(&group);
    fs_inode_put(root);
    co_world_done(world);
}

static void busy_directory_is_listed(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_busy_directory);
}

struct overwriter {
    struct fs_inode *inode;
    bool stop;
    unsigned count;
};

static void co_overwriter(void *arg)
{
    struct overwriter *writer = arg;

    for (; !writer->stop && writer->count < 3000; writer->count++) {
        check_int(co_write_pattern(writer->inode, 0, BLOCK_SIZE, writer->count), 0);
        check_int(co_sleep_ns(1), 0); /* no disk answers in the same turn of the loop */
    }
}

/* A running VM never ceases to write to its disk: the check, for which all changes of metadata
 * wait, comes to its end. */
static void co_check_while_written(struct world *world)
{
    struct overwriter writer = {0};
    struct co_group group;

    co_world_fresh(world);
    check_int(co_create(world, "disk"), 0);
    writer.inode = co_must_open(world, "disk");
    check_int(co_write_pattern(writer.inode, 0, BLOCK_SIZE, 0), 0);
    world->ram.slow_from = BLOCK_SIZE;
    world->ram.slow_turns = 3;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "writer", co_overwriter, &writer), 0);
    for (unsigned i = 0; i < 100; i++)
        check_int(co_sleep_ns(1), 0);
    check(writer.count > 0);
    co_world_check(world);
    check(writer.count < 1000);
    writer.stop = true;
    co_group_wait(&group);
    fs_inode_put(writer.inode);
    co_world_done(world);
}

struct ticker {
    bool stop;
    unsigned ticks;
};

static void co_ticker(void *arg)
{
    struct ticker *ticker = arg;

    for (; !ticker->stop; ticker->ticks++)
        check_int(co_sleep_ns(1), 0); /* timers fire once in a turn of the loop */
}

/* What is large is looked at in pieces, with everybody's turn between them: a node whose loop
 * stands still for seconds is taken for dead. */
static void co_check_in_pieces(struct world *world)
{
    struct ticker ticker = {0};
    struct fs_inode *inode;
    struct co_group group;

    co_world_fresh(world);
    check_int(co_create(world, "disk"), 0);
    inode = co_must_open(world, "disk");
    check_int(co_fs_allocate(inode, 0, 80 * GIB, 0), 0);
    fs_inode_put(inode);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "ticker", co_ticker, &ticker), 0);
    co_world_check(world);
    check(ticker.ticks > 100 * GIB / (FS_GROUP_BLOCKS * (uint64_t)BLOCK_SIZE));
    ticker.stop = true;
    co_group_wait(&group);
    co_world_done(world);
}

static void check_lets_others_work(void **state)
{
    (void)state;
    world_run(100 * GIB, 1, co_check_in_pieces);
}

static void check_ends_while_files_are_written(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_check_while_written);
}

static void what_was_shown_is_durable(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++)
        world_run(VOLUME, seed, co_shown_is_durable);
}

static void co_sparse(struct world *world)
{
    struct fs_inode *inode;
    uint64_t length;
    bool is_data;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    check_int(co_write_pattern(inode, 10 * MIB + 100, 1000, 1), 0);
    check_int(fs_inode_size(inode), 10 * MIB + 1100);
    check_int(allocated(inode), BLOCK_SIZE);
    check_bytes(inode, 10 * MIB, 100, 0);
    check_bytes(inode, 10 * MIB + 100, 1000, 1);
    check_bytes(inode, 5 * MIB, 3000, 0);
    check_int(co_fs_block_status(inode, 0, 20 * MIB, &is_data, &length), 0);
    check(!is_data);
    check_int(length, 10 * MIB);
    check_int(co_fs_block_status(inode, 10 * MIB, 20 * MIB, &is_data, &length), 0);
    check(is_data);
    check_int(length, BLOCK_SIZE);

    /* A large file is filled by clusters: the neighbours in a cluster need no record of their own.
     */
    check_int(co_write_pattern(inode, 2 * MIB + 5 * BLOCK_SIZE, BLOCK_SIZE, 2), 0);
    check_int(allocated(inode), 64 * KIB + BLOCK_SIZE);
    check_bytes(inode, 2 * MIB, 5 * BLOCK_SIZE, 0);
    check_bytes(inode, 2 * MIB + 5 * BLOCK_SIZE, BLOCK_SIZE, 2);
    check_bytes(inode, 2 * MIB + 6 * BLOCK_SIZE, 10 * BLOCK_SIZE, 0);

    check_int(co_fs_punch(inode, 2 * MIB, 1 * MIB), 0);
    check_int(allocated(inode), BLOCK_SIZE);
    check_bytes(inode, 2 * MIB + 5 * BLOCK_SIZE, BLOCK_SIZE, 0);
    fs_inode_put(inode);
    co_world_done(world);
}

static void sparse_files(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_sparse);
}

/* Space that another file used must not show through, whichever way a file comes to it. */
static void co_no_old_data(struct world *world)
{
    struct fs_inode *inode;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    check_int(co_write_pattern(inode, 0, 40 * MIB, 1), 0);
    fs_inode_put(inode);
    check_int(co_unlink(world, "a"), 0);
    check_int(co_fs_checkpoint(world->fs), 0);

    check_int(co_create(world, "b"), 0);
    inode = co_must_open(world, "b");
    check_int(co_fs_allocate(inode, 0, 30 * MIB, 0), 0);
    check_bytes(inode, 0, 30 * MIB, 0);
    check_int(co_write_pattern(inode, 10000, 1000, 2), 0);
    check_int(co_fs_truncate(inode, 10100, FS_NO_REQUEST), 0);
    check_int(co_fs_truncate(inode, 50000, FS_NO_REQUEST), 0);
    check_bytes(inode, 10000, 100, 2);
    check_bytes(inode, 10100, 39900, 0);
    check_int(co_write_pattern(inode, 60001, 1, 3), 0);
    check_bytes(inode, 50000, 10001, 0);
    check_int(co_fs_zero(inode, 10050, 40000), 0);
    check_bytes(inode, 10000, 50, 2);
    check_bytes(inode, 10050, 40000, 0);
    fs_inode_put(inode);
    co_world_done(world);
}

static void old_data_never_shows(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_no_old_data);
}

static void co_limits(struct world *world)
{
    struct fs_inode *inode, *dir;
    uint64_t length = 1;
    char byte = 1;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    dir = co_must_open(world, "");
    check_int(co_fs_write(inode, &byte, FS_FILE_SIZE_MAX, 1, (struct client_request){0}), -EFBIG);
    check_int(co_fs_truncate(inode, FS_FILE_SIZE_MAX + 1, FS_NO_REQUEST), -EFBIG);
    check_int(co_fs_truncate(inode, FS_FILE_SIZE_MAX, FS_NO_REQUEST), 0);
    check_int(co_write_pattern(inode, FS_FILE_SIZE_MAX - 5, 5, 1), 0);
    check_bytes(inode, FS_FILE_SIZE_MAX - 5, 5, 1);
    check_int(co_fs_read(inode, &byte, FS_FILE_SIZE_MAX - 1, UINT64_MAX, &length), -EFBIG);
    check_int(co_fs_read(inode, &byte, 0, 0, &length), 0);
    check_int(length, 0);
    check_int(co_fs_read(dir, &byte, 0, 1, &length), -EISDIR);
    check_int(co_fs_write(inode, &byte, 5, 0, (struct client_request){0}), 0);
    fs_inode_put(dir);
    fs_inode_put(inode);
    co_world_done(world);
}

static void limits(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_limits);
}

/* A truncation of a badly fragmented file takes many records; its first one decides. */
static void co_long_truncate(struct world *world)
{
    co_world_fresh(world);
    for (unsigned cut = 1; cut < 5; cut++) {
        struct fs_inode *inode;

        world->which = cut;
        check_int(co_create(world, "a"), 0);
        inode = co_must_open(world, "a");
        for (uint64_t i = 500; i-- > 0;)
            check_int(co_write_pattern(inode, i * 128 * KIB, BLOCK_SIZE, 1), 0);
        world->ram.cut_after = world->ram.writes + world->ram.trims + cut;
        check_int(co_fs_truncate(inode, 5000, FS_NO_REQUEST), cut < 3 ? -ESTALE : 0);
        fs_fail(world->fs);
        fs_inode_put(inode);
        co_world_crash(world);
        co_world_mount(world);
        co_world_check(world);
        inode = co_must_open(world, "a");
        check_int(fs_inode_size(inode), 5000);
        check_int(allocated(inode), 2 * BLOCK_SIZE);
        check_int(co_fs_truncate(inode, 50000, FS_NO_REQUEST), 0);
        check_bytes(inode, 5000, 45000, 0);
        fs_inode_put(inode);
        check_int(co_unlink(world, "a"), 0);
    }
    co_world_done(world);
}

static void truncation_is_atomic(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_long_truncate);
}

/* ---- sessions ---- */

static void co_sessions(struct world *world)
{
    struct fs_request request = {.session = 77, .slot = 3, .sequence = 1};
    struct fs_new new = {.mode = S_IFREG | 0600};
    struct fs_inode *root, *first, *second;

    co_world_fresh(world);
    root = co_must_open(world, "");
    check_int(co_fs_create(root, "a", &new, request, &first), 0);
    check_int(co_fs_create(root, "a", &new, request, &second), 0); /* the repeat is answered */
    check(first == second);
    fs_inode_put(first);
    fs_inode_put(second);
    fs_inode_put(root);
    co_world_crash(world);
    co_world_mount(world); /* also by the new owner */
    root = co_must_open(world, "");
    check_int(co_fs_create(root, "a", &new, request, NULL), 0);
    fs_inode_put(root);
    co_world_remount(world);
    root = co_must_open(world, "");
    check_int(co_fs_create(root, "a", &new, request, NULL), 0);

    request.sequence = 2;
    check_int(co_fs_create(root, "a", &new, request, NULL), -EEXIST); /* another request */
    check_int(co_fs_unlink(root, "a", request), 0); /* what failed left no trace */
    check_int(co_fs_unlink(root, "a", request), 0);
    request.sequence = 1;
    check_int(co_fs_unlink(root, "a", request), -EPROTO);
    request.slot = FS_SLOTS_PER_SESSION;
    check_int(co_fs_unlink(root, "a", request), -EINVAL);

    /* Its counter may go round. */
    request = (struct fs_request){.session = 77, .slot = 4, .sequence = UINT32_MAX};
    check_int(co_fs_create(root, "r", &new, request, NULL), 0);
    request.sequence = 1;
    check_int(co_fs_unlink(root, "r", request), 0);
    check_int(co_fs_unlink(root, "r", request), 0);
    request.sequence = UINT32_MAX;
    check_int(co_fs_create(root, "r", &new, request, NULL), -EPROTO);

    check_int(co_fs_session_end(world->fs, 77), 0);
    check_int(co_fs_session_end(world->fs, 78), 0);
    request = (struct fs_request){.session = 77, .slot = 3, .sequence = 2};
    check_int(co_fs_unlink(root, "a", request), -ENOENT);

    /* The table is bounded: the session unused for longest goes. */
    for (uint64_t session = 1000; session < 1000 + 2 * FS_SESSIONS_MAX; session++) {
        request = (struct fs_request){.session = session, .slot = 1, .sequence = 1};
        check_int(co_fs_create(root, "b", &new, request, NULL), 0);
        check_int(co_fs_create(root, "b", &new, request, NULL), 0);
        request.slot = 2;
        check_int(co_fs_unlink(root, "b", request), 0);
    }
    fs_inode_put(root);
    co_world_done(world);
}

static void repeats_are_answered(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_sessions);
}

/* ---- space ---- */

static unsigned co_fill(struct world *world, struct fs_inode *inode, uint64_t *offset)
{
    unsigned writes = 0;

    for (;; writes++) {
        int r = co_write_pattern(inode, *offset, 64 * KIB, 1);

        if (r == -ENOSPC)
            return writes;
        check_int(r, 0);
        *offset += 64 * KIB;
        check(writes < 2 * VOLUME / (64 * KIB));
        (void)world;
    }
}

/* A full volume refuses data and new names, takes deletes, and has its space again after them. */
static void co_full(struct world *world)
{
    struct fs_statfs statfs;
    struct fs_inode *inode;
    unsigned names_made = 0;
    char path[64];

    co_world_fresh(world);
    for (unsigned round = 0; round < 3; round++) {
        uint64_t offset = 0;
        int r = 0;

        check_int(co_create(world, "big"), 0);
        inode = co_must_open(world, "big");
        check(co_fill(world, inode, &offset) > 500);
        check_int(co_fs_statfs(world->fs, &statfs), 0);
        check(statfs.available_bytes < 1 * MIB);
        check_bytes(inode, offset - 64 * KIB, 64 * KIB, 1);
        check_int(co_write_pattern(inode, 4096, 8192, 1), 0); /* overwriting goes on */
        co_world_check(world);
        while (r == 0) {
            snprintf(path, sizeof(path), "name-%u", names_made);
            r = co_create(world, path);
            names_made += r == 0;
        }
        check_int(r, -ENOSPC);
        check(names_made > 1000);
        co_world_check(world);
        if (round == 1) { /* it still starts, and deleting still works */
            fs_inode_put(inode);
            co_world_crash(world);
            co_world_mount(world);
            inode = co_must_open(world, "big");
        }
        if (round == 2)
            check_int(co_fs_truncate(inode, 0, FS_NO_REQUEST), 0);
        fs_inode_put(inode);
        while (names_made > 0) {
            snprintf(path, sizeof(path), "name-%u", --names_made);
            check_int(co_unlink(world, path), 0);
        }
        check_int(co_unlink(world, "big"), 0);
    }
    co_world_done(world);
}

static void full_volume_takes_deletes(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_full);
}

/* A thin pool without room: the write fails, nothing else does, and what was written before is
 * there. */
static void co_thin(struct world *world)
{
    struct fs_inode *inode;
    uint64_t offset = 0;

    world->ram.slabs = 12;
    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    check(co_fill(world, inode, &offset) > 16);
    check_bytes(inode, 0, offset, 1);
    check_int(co_create(world, "b"), 0);
    world->ram.slabs = 40;
    check_int(co_write_pattern(inode, offset, 4 * MIB, 1), 0);
    check_bytes(inode, 0, offset + 4 * MIB, 1);
    fs_inode_put(inode);
    co_world_done(world);
}

static void full_pool_is_clean(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_thin);
}

/* Preallocation writes no data, so it is the maps that a thin pool must have room for: what it has
 * none for is refused, not owed to a checkpoint that fails for ever, and with it every delete and
 * the next mount. */
static void co_thin_preallocates(struct world *world)
{
    struct fs_inode *inode;

    world->ram.slabs = 100;
    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    world->ram.slabs = 2; /* for the maps of some forty groups */
    check_int(co_fs_allocate(inode, 0, 5 * GIB, 0), -ENOSPC);
    check(allocated(inode) > 0);
    check_int(world->ram.slabs, 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    fs_inode_put(inode);
    co_world_crash(world);
    co_world_mount(world);
    check_int(co_unlink(world, "a"), 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_world_done(world);
}

static void full_pool_preallocates_clean(void **state)
{
    (void)state;
    world_run(6 * GIB, 1, co_thin_preallocates);
}

/* ---- what a pool with large slabs has back: a slab of 256 MiB holds the maps of two groups ----
 */

#define POOL_SLAB (256 * MIB)
#define GROUP_BYTES (FS_GROUP_BLOCKS * (uint64_t)BLOCK_SIZE)

static unsigned pool_slabs_in_use(const struct world *world)
{
    uint64_t blocks = POOL_SLAB / BLOCK_SIZE, end = world->ram.vdisk.size_bytes / BLOCK_SIZE;
    unsigned slabs = 0;

    for (uint64_t at = 0; at < end; at += blocks)
        slabs += memchr(world->ram.in_use + at, 1, MIN(blocks, end - at)) != NULL;
    return slabs;
}

/* Of the small ones of the vdisk in RAM: those in which nothing is written are in the pool. */
static void pool_takes_back(struct world *world, uint64_t slabs)
{
    uint64_t blocks = MIB / BLOCK_SIZE;

    for (uint64_t at = 0; at < world->ram.vdisk.size_bytes / BLOCK_SIZE; at += blocks)
        world->ram.slab_there[at / blocks] = memchr(world->ram.in_use + at, 1, blocks) != NULL;
    world->ram.slabs = slabs;
}

static void co_make_large(struct world *world, const char *path, uint64_t bytes, uint64_t seed)
{
    struct fs_inode *inode;

    check_int(co_create(world, path), 0);
    inode = co_must_open(world, path);
    check_int(co_fs_allocate(inode, 0, bytes, 0), 0);
    for (uint64_t at = 0; at < bytes; at += 64 * MIB)
        check_int(co_write_pattern(inode, at, 64 * KIB, seed), 0);
    fs_inode_put(inode);
}

static void co_remove_large(struct world *world, const char *path)
{
    check_int(co_unlink(world, path), 0);
    check_int(co_fs_checkpoint(world->fs), 0);
}

/* Nothing of a deleted file stays in the pool, neither data nor the maps of its groups; and these
 * serve again, before and after a mount. */
static void co_large_goes(struct world *world)
{
    struct fs_statfs before, after;

    co_world_fresh(world);
    co_make_large(world, "kept", 8 * MIB, 1);
    check_int(co_fs_statfs(world->fs, &before), 0);
    for (unsigned round = 0; round < 3; round++) {
        co_make_large(world, "large", 3 * GIB, 2);
        check_int(co_fs_checkpoint(world->fs), 0);
        check(pool_slabs_in_use(world) >= 3 * GIB / POOL_SLAB);
        if (round == 1)
            co_world_remount(world);
        co_remove_large(world, "large");
        check_int(pool_slabs_in_use(world), 1);
        check_int(co_fs_statfs(world->fs, &after), 0);
        check_int(after.free_bytes, before.free_bytes);
        co_world_check(world);
        if (round == 0) {
            co_world_crash(world);
            co_world_mount(world);
        }
    }
    co_world_done(world);
}

static void large_file_leaves_no_slab(void **state)
{
    (void)state;
    world_run(12 * GIB, 1, co_large_goes); /* its nodes have a group of their own */
}

/* A group that was given back asks the pool again before its blocks are given away. */
static void co_given_back_asks_again(struct world *world)
{
    struct fs_inode *inode;

    world->ram.slabs = 10000;
    co_world_fresh(world);
    co_make_large(world, "large", 5 * GIB, 1);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_remove_large(world, "large");
    pool_takes_back(world, 3);
    check_int(co_create(world, "again"), 0);
    inode = co_must_open(world, "again");
    check_int(co_fs_allocate(inode, 0, 5 * GIB, 0), -ENOSPC);
    check(allocated(inode) > GROUP_BYTES);
    fs_inode_put(inode);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_world_crash(world);
    co_world_mount(world);
    co_remove_large(world, "again");
    co_world_done(world);
}

static void given_back_asks_again(void **state)
{
    (void)state;
    world_run(6 * GIB, 1, co_given_back_asks_again);
}

/* While the slots of an empty group are trimmed nobody is given its blocks: their map would have
 * lost its slab. */
static void co_trim_slots(void *arg)
{
    struct world *world = arg;

    check_int(co_fs_checkpoint(world->fs), 0);
}

static void co_given_back_is_wanted(struct world *world)
{
    struct co_group work;
    struct fs_inode *inode;

    world->ram.slabs = 10000;
    co_world_fresh(world);
    co_make_large(world, "large", 760 * MIB, 1); /* all but a bit */
    check_int(co_fs_checkpoint(world->fs), 0);
    check_int(co_unlink(world, "large"), 0);
    check_int(co_create(world, "next"), 0);
    inode = co_must_open(world, "next");
    world->ram.trim_turns = 1000;
    co_group_init(&work);
    check_int(co_group_spawn(&work, world->io, "checkpoint", co_trim_slots, world), 0);
    while (world->fs->checkpoint.frozen || !world->fs->checkpoint.trimming)
        co_yield ();
    check_int(co_fs_allocate(inode, 0, 400 * MIB, 0), 0);
    co_group_wait(&work);
    pool_takes_back(world, 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    fs_inode_put(inode);
    world->ram.slabs = UINT64_MAX;
    co_world_crash(world);
    co_world_mount(world);
    co_world_done(world);
}

static void given_back_is_wanted(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++)
        world_run(900 * MIB, seed, co_given_back_is_wanted);
}

/* An owner that is cut off between the root that frees and the trims leaves them to the next. */
static void co_checkpoint_is_cut(void *arg)
{
    struct world *world = arg;

    check_int(co_fs_checkpoint(world->fs), -ESTALE);
}

static void co_cut_before_trims(struct world *world)
{
    struct co_group work;

    co_world_fresh(world);
    co_make_large(world, "large", 3 * GIB, 1);
    check_int(co_fs_checkpoint(world->fs), 0);
    check_int(co_unlink(world, "large"), 0);
    world->ram.trim_turns = 1000;
    co_group_init(&work);
    check_int(co_group_spawn(&work, world->io, "checkpoint", co_checkpoint_is_cut, world), 0);
    while (world->fs->checkpoint.frozen || !world->fs->checkpoint.trimming)
        co_yield ();
    world->ram.is_cut = true;
    co_group_wait(&work);
    world->ram.trim_turns = 0;
    co_world_crash(world);
    check(pool_slabs_in_use(world) > 3 * GIB / POOL_SLAB - 1);
    co_world_mount(world);
    co_world_check(world);
    for (unsigned i = 0; i < 1000 && pool_slabs_in_use(world) > 1; i++)
        check_int(co_sleep_ns(1 * MS), 0);
    check_int(pool_slabs_in_use(world), 1);
    co_world_check(world);
    co_make_large(world, "again", 3 * GIB, 2);
    co_world_done(world);
}

static void cut_before_trims(void **state)
{
    (void)state;
    world_run(12 * GIB, 1, co_cut_before_trims);
}

/* The power goes at every write while groups empty, serve again and empty again: the volume mounts,
 * is sound, and what was said to be there is there. */
static uint64_t empty_cut; /* 0: never */
static uint64_t empty_total;

static int co_fill_and_empty(struct world *world)
{
    int r = co_unlink(world, "large");

    if (r == 0)
        r = co_fs_checkpoint(world->fs);
    for (unsigned round = 0; r == 0 && round < 2; round++) {
        struct fs_inode *inode = NULL;

        r = co_create(world, "large");
        if (r == 0)
            r = co_open(world, "large", &inode);
        if (r == 0)
            r = co_fs_allocate(inode, 0, 300 * MIB, 0);
        for (uint64_t at = 0; r == 0 && at < 300 * MIB; at += 60 * MIB)
            r = co_write_pattern(inode, at, 64 * KIB, 3);
        if (r == 0 && round == 0)
            r = co_fs_checkpoint(world->fs);
        if (inode)
            fs_inode_put(inode);
        if (r == 0)
            r = co_unlink(world, "large");
        if (r == 0)
            r = co_fs_checkpoint(world->fs);
    }
    return r;
}

static void co_cut_while_emptying(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB};
    struct fs_inode *inode;

    world->which = empty_cut;
    world->ram.random += empty_cut;
    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    co_make_large(world, "kept", MIB, 1);
    co_make_large(world, "large", 400 * MIB, 2);
    check_int(co_fs_checkpoint(world->fs), 0);
    world->ram.delay_max = 3;
    empty_total = world->ram.writes + world->ram.trims;
    if (empty_cut)
        world->ram.cut_after = empty_total + empty_cut - 1;
    check_int(co_fill_and_empty(world), empty_cut ? -ESTALE : 0);
    empty_total = world->ram.writes + world->ram.trims - empty_total;
    co_world_crash_twice(world, 1 + empty_cut % 9);
    check_int(co_fs_reap_orphans(world->fs), 0);
    co_world_check(world);
    inode = co_must_open(world, "kept");
    check_bytes(inode, 0, 64 * KIB, 1);
    fs_inode_put(inode);
    (void)co_unlink(world, "large");
    check_int(co_fs_checkpoint(world->fs), 0);
    co_make_large(world, "again", 400 * MIB, 4);
    co_remove_large(world, "again");
    co_world_done(world);
}

static void power_cut_while_groups_empty(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        empty_cut = 0;
        world_run(600 * MIB, seed, co_cut_while_emptying);
        for (uint64_t n = 1, total = empty_total; n <= total; n++) {
            empty_cut = n;
            world_run(600 * MIB, seed, co_cut_while_emptying);
        }
    }
}

/* Freed blocks are not used before the checkpoint: until then a crash brings the file back, with
 * its data. */
static void co_freed_is_kept(struct world *world)
{
    struct fs_inode *inode;
    uint64_t writes;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    check_int(co_write_pattern(inode, 0, 8 * MIB, 1), 0);
    fs_inode_put(inode);
    check_int(co_fs_checkpoint(world->fs), 0);
    writes = world->ram.writes;
    world->ram.cut_after = writes + world->ram.trims; /* the unlink's own record is lost */
    check_int(co_unlink(world, "a"), -ESTALE);
    co_world_crash(world);
    co_world_mount(world);
    if (co_open(world, "a", &inode) == 0) { /* it was in flight: either is right */
        check_bytes(inode, 0, 8 * MIB, 1);
        fs_inode_put(inode);
    }
    co_world_done(world);
}

static void freed_blocks_wait_for_the_checkpoint(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 5; seed++)
        world_run(VOLUME, seed, co_freed_is_kept);
}

struct many {
    struct world *world;
    unsigned created;
};

static void co_create_many(void *arg)
{
    struct many *many = arg;
    char path[32];

    do {
        snprintf(path, sizeof(path), "file-%u", many->created);
        if (co_create(many->world, path) < 0)
            return;
        many->created++;
    } while (true);
}

static void co_checkpoint(void *arg)
{
    struct world *world = arg;

    check_int(co_fs_checkpoint(world->fs), -ESTALE);
}

/* A checkpoint that takes long: the journal is not written over before the new root is there,
 * whoever waits. */
static void co_slow_checkpoint(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB};
    struct many many = {.world = world};
    struct co_group group;

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    for (; many.created < 25; many.created++) {
        char path[32];

        snprintf(path, sizeof(path), "file-%u", many.created);
        check_int(co_create(world, path), 0);
    }
    world->ram.slow_from = 16 * BLOCK_SIZE + options.journal_bytes;
    world->ram.slow_turns = 10000;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "checkpoint", co_checkpoint, world), 0);
    check_int(co_group_spawn(&group, world->io, "creator", co_create_many, &many), 0);
    for (unsigned turn = 0; turn < 2000; turn++)
        co_yield ();
    check(many.created > 30 && many.created < 64); /* a block of the ring each */
    world->ram.is_cut = true;
    co_group_wait(&group);
    co_world_crash(world);
    co_world_mount(world);
    for (unsigned i = 0; i < many.created; i++) {
        char path[32];

        snprintf(path, sizeof(path), "file-%u", i);
        fs_inode_put(co_must_open(world, path));
    }
    co_world_done(world);
}

static void journal_is_kept_until_the_root(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_slow_checkpoint);
}

/* ---- errors of the vdisk ---- */

static void co_lost_ownership(struct world *world)
{
    struct fs_inode *inode, *other;
    struct fs_attr attr;
    uint64_t length;
    char byte;

    co_world_fresh(world);
    check_int(co_create(world, "a"), 0);
    inode = co_must_open(world, "a");
    world->ram.is_cut = true;
    check_int(co_create(world, "b"), -ESTALE);
    check_int(fs_error(world->fs), -ESTALE);
    world->ram.is_cut = false; /* and stays so, whatever the vdisk says now */
    check_int(co_create(world, "c"), -ESTALE);
    check_int(co_fs_read(inode, &byte, 0, 1, &length), -ESTALE);
    check_int(co_fs_write(inode, &byte, 0, 1, (struct client_request){0}), -ESTALE);
    check_int(co_fs_checkpoint(world->fs), -ESTALE);
    check_int(co_open(world, "a", &other), -ESTALE);
    check_int(co_fs_getattr(inode, &attr), 0); /* what was durable may be told */
    fs_inode_put(inode);
    co_world_crash(world);
    co_world_mount(world);
    co_world_done(world);
}

static void lost_ownership_ends_it(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_lost_ownership);
}

/* Any one write that fails for another reason: it is told to whoever asked, and the volume is right
 * after a remount. */
static void co_failing_write(struct world *world)
{
    for (unsigned n = 1; n < 60; n++) {
        int error = n % 2 ? -EIO : -ENOSPC;
        struct fs_inode *inode;
        bool failed;

        co_world_fresh(world);
        check_int(co_create(world, "a"), 0);
        inode = co_must_open(world, "a");
        check_int(co_write_pattern(inode, 0, 100000, 1), 0);
        world->ram.fail_error = error;
        world->ram.fail_after = n;
        failed = co_write_pattern(inode, 50000, 100000, 1) < 0;
        failed |= co_create(world, "b") < 0;
        failed |= co_fs_checkpoint(world->fs) < 0;
        failed |= co_fs_punch(inode, 70000, 10000) < 0;
        failed |= co_rename(world, "b", "c", 0) < 0;
        failed |= co_fs_checkpoint(world->fs) < 0;
        check(failed || world->ram.fail_after > 0 || n > 10); /* a trim's failure is nobody's */
        fs_inode_put(inode);
        if (!fs_error(world->fs)) { /* what failed on the way is done again */
            world->ram.fail_after = 0;
            check_int(co_fs_checkpoint(world->fs), 0);
            co_world_check(world);
        }
        co_world_crash(world);
        co_world_mount(world);
        co_world_check(world);
        inode = co_must_open(world, "a");
        check_bytes(inode, 0, 50000, 1);
        fs_inode_put(inode);
        co_world_unmount(world);
    }
}

static void failing_writes_are_told(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_failing_write);
}

struct creation {
    struct world *world;
    const char *name;
    struct co_group *group;
    bool is_cancelled;
    int result;
};

static void creation_main(void *arg)
{
    struct creation *creation = arg;

    if (creation->is_cancelled)
        co_cancel(co_self());
    creation->result = co_create(creation->world, creation->name);
    co_group_done(creation->group);
}

/* A batch of the journal is written by whoever comes first, for all. One who is cancelled (an
 * administrator's request, at a stop) must not end the file system for the others. */
static void co_cancelled_writer(struct world *world)
{
    struct co_group group;
    struct creation creations[] = {
        {.world = world, .name = "a", .group = &group, .is_cancelled = true, .result = 1},
        {.world = world, .name = "b", .group = &group, .result = 1},
    };

    co_world_fresh(world);
    check_int(co_create(world, "c"), 0); /* what is looked at is in RAM from here on */
    co_group_init(&group);
    co_group_add(&group, 2);
    check_int(co_spawn(world->io, "a", creation_main, &creations[0]), 0);
    check_int(co_spawn(world->io, "b", creation_main, &creations[1]), 0);
    co_group_wait(&group);
    check_int(fs_error(world->fs), 0);
    check_int(creations[0].result, 0);
    check_int(creations[1].result, 0);
    co_world_done(world);
}

static void a_cancelled_writer_is_no_failure(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_cancelled_writer);
}

/* ---- what is only held when a checkpoint passes is free after a crash, also when the hold has
 * to wait for the map of a second group ---- */

struct held {
    struct world *world;
    struct fs_inode *inode;
};

static void co_allocate_over_two_groups(void *arg)
{
    struct held *held = arg;

    check_int(co_fs_allocate(held->inode, BLOCK_SIZE, 3000 * BLOCK_SIZE, 0), -ESTALE);
}

static void co_holds_are_not_kept(struct world *world)
{
    static const uint64_t group = FS_GROUP_BLOCKS * (uint64_t)BLOCK_SIZE;
    struct held held = {.world = world};
    struct fs_inode *filler;
    struct co_group work;

    co_world_fresh(world);
    check_int(co_create(world, "file"), 0);
    held.inode = co_must_open(world, "file");
    check_int(co_write_pattern(held.inode, 0, BLOCK_SIZE, 1), 0);
    check_int(co_create(world, "filler"), 0);
    filler = co_must_open(world, "filler");
    check_int(co_fs_allocate(filler, 0, group + group / 2, 0), 0);
    check_int(co_fs_punch(filler, MIB, 8 * MIB), 0); /* room in the first group */
    fs_inode_put(filler);
    fs_inode_put(held.inode);
    co_world_remount(world); /* the second one's map is not in RAM now */

    held.inode = co_must_open(world, "file");
    check_int(co_create(world, "another"), 0); /* the first one's has changed */
    world->ram.delay_max = 3;
    world->ram.trim_turns = 1000;
    co_group_init(&work);
    check_int(co_group_spawn(&work, world->io, "hold", co_allocate_over_two_groups, &held), 0);
    co_yield ();
    check_int(co_fs_checkpoint(world->fs), 0);
    world->ram.is_cut = true;
    co_group_wait(&work);
    fs_inode_put(held.inode);
    world->ram.trim_turns = world->ram.delay_max = 0;
    co_world_crash(world);
    co_world_mount(world);
    co_world_done(world);
}

static void holds_are_not_kept(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++)
        world_run(512 * MIB, seed, co_holds_are_not_kept);
}

/* ---- groups come into use until a node of their tree is full to the last item: the checkpoint
 * then says of each block what is true ---- */

static void co_groups_fill_a_node(struct world *world)
{
    static const uint64_t step = (FS_GROUP_BLOCKS - FS_GROUP_SLOTS) * (uint64_t)BLOCK_SIZE;
    struct fs_inode *inode;
    uint64_t size = 0;

    co_world_fresh(world);
    check_int(co_create(world, "file"), 0);
    inode = co_must_open(world, "file");
    /* 100 items to a leaf, 100 leaves below one node: full with the 9,901st group. */
    for (unsigned groups = 0; groups < 9920; groups++) {
        struct fs_statfs before, after;

        check_int(co_fs_allocate(inode, size, step, 0), 0);
        size += step;
        if (groups < 9880)
            continue;
        check_int(co_fs_checkpoint(world->fs), 0);
        check_int(co_fs_statfs(world->fs, &before), 0);
        fs_inode_put(inode);
        co_world_crash(world);
        co_world_mount(world);
        inode = co_must_open(world, "file");
        check_int(co_fs_statfs(world->fs, &after), 0);
        check_int(after.free_bytes, before.free_bytes);
    }
    fs_inode_put(inode);
    co_world_check(world);
    co_world_unmount(world);
}

static void groups_fill_a_node(void **state)
{
    (void)state;
    world_run(10200 * FS_GROUP_BLOCKS * (uint64_t)BLOCK_SIZE, 1, co_groups_fill_a_node);
}

/* ---- the first leaf below an inner node empties, and others take its keys: they split below that
 * node's first key ---- */

#define TRIMMED_EXTENTS 16000 /* two inner nodes above the leaves */

static void co_write_extents(struct fs_inode *inode, uint64_t from, uint64_t to, uint64_t seed)
{
    for (uint64_t i = from; i < to; i++)
        check_int(co_write_pattern(inode, i * 128 * KIB, BLOCK_SIZE, seed), 0);
}

static void co_trim_and_write_again(struct world *world)
{
    static const uint64_t window = 300;
    struct fs_inode *inode;

    co_world_fresh(world);
    check_int(co_create(world, "disk"), 0);
    inode = co_must_open(world, "disk");
    check_int(co_fs_truncate(inode, TRIMMED_EXTENTS * 128 * KIB, FS_NO_REQUEST), 0);
    co_write_extents(inode, 0, TRIMMED_EXTENTS, 1);
    for (uint64_t at = 0; at < TRIMMED_EXTENTS; at += window / 3) {
        uint64_t to = MIN(at + window, (uint64_t)TRIMMED_EXTENTS);

        check_int(co_fs_punch(inode, at * 128 * KIB, (to - at) * 128 * KIB), 0);
        co_write_extents(inode, at, to, at + 2);
    }
    check_int(co_fs_checkpoint(world->fs), 0);
    for (uint64_t i = 0; i < TRIMMED_EXTENTS; i++) {
        uint64_t last = i - i % (window / 3), offset = i * 128 * KIB, length;
        uint8_t byte;

        check_int(co_fs_read(inode, &byte, offset, 1, &length), 0);
        check_int(byte, pattern_byte(last + 2, offset));
    }
    fs_inode_put(inode);
    co_world_done(world);
}

static void trim_and_write_again(void **state)
{
    (void)state;
    world_run(2 * GIB, 1, co_trim_and_write_again);
}

/* ---- the only item of a leaf is replaced by another, and its neighbours are not in RAM ---- */

#define LEAF_EXTENTS 84 /* written one behind the other */
#define ALIGNMENT_STEP (3 * LEAF_EXTENTS + 1)

static void co_cut_the_only_one(struct world *world)
{
    struct fs_inode *inode;

    co_world_fresh(world);
    check_int(co_create(world, "disk"), 0);
    inode = co_must_open(world, "disk");
    check_int(co_fs_truncate(inode, MIB, FS_NO_REQUEST), 0);
    co_write_extents(inode, 0, LEAF_EXTENTS * ALIGNMENT_STEP, 1);
    /* One of these begins where a leaf does. */
    for (uint64_t at = 0; at < LEAF_EXTENTS * ALIGNMENT_STEP; at += ALIGNMENT_STEP) {
        check_int(co_fs_punch(inode, at * 128 * KIB, 42 * 128 * KIB), 0);
        check_int(co_fs_punch(inode, (at + 43) * 128 * KIB, (LEAF_EXTENTS - 43) * 128 * KIB), 0);
    }
    fs_inode_put(inode);
    co_world_remount(world);
    inode = co_must_open(world, "disk");
    for (uint64_t at = 42; at < LEAF_EXTENTS * ALIGNMENT_STEP; at += ALIGNMENT_STEP)
        check_int(co_fs_punch(inode, at * 128 * KIB, 32 * KIB), 0);
    fs_inode_put(inode);
    co_world_done(world);
}

static void cut_the_only_one(void **state)
{
    (void)state;
    world_run(3 * GIB, 1, co_cut_the_only_one);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format_mounts),
        cmocka_unit_test(names_in_place_only),
        cmocka_unit_test(foreign_is_refused),
        cmocka_unit_test(groups_are_small),
        cmocka_unit_test(grows),
        cmocka_unit_test(grows_and_crashes),
        cmocka_unit_test(names),
        cmocka_unit_test(links),
        cmocka_unit_test(renames),
        cmocka_unit_test(large_directory),
        cmocka_unit_test(attributes),
        cmocka_unit_test(orphan_lives_while_open),
        cmocka_unit_test(orphan_of_a_dead_node_is_freed),
        cmocka_unit_test(orphan_is_gone_while_it_goes),
        cmocka_unit_test(closed_files_leave_ram),
        cmocka_unit_test(overwrite_is_cheap),
        cmocka_unit_test(one_write_an_operation),
        cmocka_unit_test(commits_are_grouped),
        cmocka_unit_test(what_was_shown_is_durable),
        cmocka_unit_test(shown_attributes_are_durable),
        cmocka_unit_test(shown_holes_are_durable),
        cmocka_unit_test(busy_directory_is_listed),
        cmocka_unit_test(check_ends_while_files_are_written),
        cmocka_unit_test(check_lets_others_work),
        cmocka_unit_test(sparse_files),
        cmocka_unit_test(old_data_never_shows),
        cmocka_unit_test(limits),
        cmocka_unit_test(truncation_is_atomic),
        cmocka_unit_test(repeats_are_answered),
        cmocka_unit_test(full_volume_takes_deletes),
        cmocka_unit_test(full_pool_is_clean),
        cmocka_unit_test(full_pool_preallocates_clean),
        cmocka_unit_test(large_file_leaves_no_slab),
        cmocka_unit_test(given_back_asks_again),
        cmocka_unit_test(given_back_is_wanted),
        cmocka_unit_test(cut_before_trims),
        cmocka_unit_test(power_cut_while_groups_empty),
        cmocka_unit_test(freed_blocks_wait_for_the_checkpoint),
        cmocka_unit_test(journal_is_kept_until_the_root),
        cmocka_unit_test(lost_ownership_ends_it),
        cmocka_unit_test(failing_writes_are_told),
        cmocka_unit_test(a_cancelled_writer_is_no_failure),
        cmocka_unit_test(holds_are_not_kept),
        cmocka_unit_test(groups_fill_a_node),
        cmocka_unit_test(trim_and_write_again),
        cmocka_unit_test(cut_the_only_one),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
