/* Snapshots: a tree as it was, whatever happens to it later. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "tests/unit/fs_harness.h"

#define VOLUME (64 * MIB)

static void write_file(struct world *world, const char *path, uint64_t length, uint64_t seed)
{
    struct fs_inode *inode;

    (void)!co_create(world, path);
    inode = co_must_open(world, path);
    check_int(co_fs_truncate(inode, 0, FS_NO_REQUEST), 0);
    check_int(co_write_pattern(inode, 0, length, seed), 0);
    fs_inode_put(inode);
}

static void check_file(struct world *world, const char *path, uint64_t length, uint64_t seed)
{
    struct fs_inode *inode = co_must_open(world, path);
    uint8_t *data = malloc(length + 1);
    uint64_t got;

    check(data);
    check_int(co_fs_read(inode, data, 0, length + 1, &got), 0);
    check_int(got, length);
    for (uint64_t i = 0; i < length; i++)
        check_int(data[i], pattern_byte(seed, i));
    free(data);
    fs_inode_put(inode);
}

static bool is_there(struct world *world, const char *path)
{
    struct fs_inode *inode;
    int r = co_open(world, path, &inode);

    if (r == 0)
        fs_inode_put(inode);
    else
        check_int(r, -ENOENT);
    return r == 0;
}

static void make_tree(struct world *world)
{
    struct fs_new new = {.mode = 0777};
    struct fs_inode *dir, *file;

    check_int(co_mkdir(world, "d"), 0);
    check_int(co_mkdir(world, "d/e"), 0);
    check_int(co_mkdir(world, "d/empty"), 0);
    write_file(world, "top", 3 * MIB, 1);
    write_file(world, "d/file", 10000, 2);
    write_file(world, "d/e/deep", 70000, 3);
    dir = co_must_open(world, "d");
    file = co_must_open(world, "d/file");
    check_int(co_fs_link(file, dir, "hard", FS_NO_REQUEST), 0);
    check_int(co_fs_symlink(dir, "soft", "e/deep", &new, FS_NO_REQUEST, NULL), 0);
    fs_inode_put(dir);
    fs_inode_put(file);
}

static void check_tree(struct world *world, const char *base)
{
    static const char *const files[] = {"top", "d/file", "d/hard", "d/e/deep"};
    static const uint64_t lengths[] = {3 * MIB, 10000, 10000, 70000}, seeds[] = {1, 2, 2, 3};
    char path[64], target[FS_SYMLINK_MAX + 1];
    struct fs_attr attr;
    struct fs_inode *inode;

    for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", base, files[i]);
        check_file(world, path, lengths[i], seeds[i]);
    }
    snprintf(path, sizeof(path), "%s/d/hard", base);
    inode = co_must_open(world, path);
    check_int(co_fs_getattr(inode, &attr), 0);
    check_int(attr.nlink, 2);
    fs_inode_put(inode);
    snprintf(path, sizeof(path), "%s/d/soft", base);
    inode = co_must_open(world, path);
    check_int(co_fs_readlink(inode, target), 0);
    check(strcmp(target, "e/deep") == 0);
    fs_inode_put(inode);
    snprintf(path, sizeof(path), "%s/d/empty", base);
    check(is_there(world, path));
}

static void take(struct world *world, const char *path, const char *name)
{
    struct fs_inode *inode = co_must_open(world, path);

    check_int(co_fs_snapshot_create(inode, name, FS_NO_REQUEST), 0);
    fs_inode_put(inode);
}

/* ---- a snapshot stays, nobody changes it, and it can be had back ---- */

static void change_all(struct world *world)
{
    check_int(co_unlink(world, "d/e/deep"), 0);
    check_int(co_mkdir(world, "d/e/deep"), 0); /* something else under its name */
    write_file(world, "d/e/deep/new", 5000, 9);
    write_file(world, "top", MIB, 9);
    check_int(co_unlink(world, "d/hard"), 0);
    write_file(world, "d/hard", 20000, 9);
    check_int(co_rmdir(world, "d/empty"), 0);
    check_int(co_mkdir(world, "more"), 0);
    write_file(world, "more/file", 100, 9);
}

static void co_stays(struct world *world)
{
    struct fs_inode *root;

    co_world_fresh(world);
    make_tree(world);
    take(world, "", "s");
    check_tree(world, ".snapshots/s");
    change_all(world);
    check_tree(world, ".snapshots/s");
    co_world_crash(world);
    co_world_mount(world);
    check_tree(world, ".snapshots/s");
    co_world_check(world);

    root = co_must_open(world, "");
    check_int(co_fs_snapshot_create(root, "s", FS_NO_REQUEST), -EEXIST);
    check_int(co_fs_snapshot_create(root, ".s", FS_NO_REQUEST), -EINVAL);
    check_int(co_fs_snapshot_restore(world->fs, "none", FS_NO_REQUEST), -ENOENT);
    check_int(co_fs_snapshot_restore(world->fs, "s", FS_NO_REQUEST), 0);
    check_tree(world, "");
    check(!is_there(world, "more"));
    check_tree(world, ".snapshots/s");
    fs_inode_put(root);
    co_world_done(world);
}

static void snapshot_stays(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_stays);
}

static bool no_private(void *arg, const struct fs_dirent *entry)
{
    check(entry->name[0] != '.' || entry->cookie < 3);
    ++*(unsigned *)arg;
    return true;
}

static void co_read_only(struct world *world)
{
    struct fs_new new = {.mode = S_IFREG | 0644};
    struct fs_inode *root, *dir, *file, *snapshots;
    unsigned entries = 0;

    co_world_fresh(world);
    make_tree(world);
    take(world, "", "s");
    root = co_must_open(world, "");
    snapshots = co_must_open(world, ".snapshots");
    dir = co_must_open(world, ".snapshots/s/d");
    file = co_must_open(world, ".snapshots/s/d/file");
    check_int(co_write_pattern(file, 0, 10, 9), -EROFS);
    check_int(co_fs_truncate(file, 0, FS_NO_REQUEST), -EROFS);
    check_int(co_fs_punch(file, 0, 4096), -EROFS);
    check_int(co_fs_zero(file, 0, 4096), -EROFS);
    check_int(co_fs_allocate(file, 0, 50000, 0), -EROFS);
    check_int(co_fs_clone_range(file, 0, file, 8192, 4096, FS_NO_REQUEST), -EROFS);
    check_int(co_fs_setattr(file, &(struct fs_attr){0}, FS_SET_MODE, FS_NO_REQUEST), -EROFS);
    check_int(co_fs_create(dir, "x", &new, FS_NO_REQUEST, NULL), -EROFS);
    check_int(co_fs_link(file, root, "x", FS_NO_REQUEST), -EROFS);
    check_int(co_fs_unlink(dir, "file", FS_NO_REQUEST), -EROFS);
    check_int(co_fs_rename(dir, "file", root, "x", 0, FS_NO_REQUEST), -EROFS);
    check_int(co_fs_rename(root, "top", dir, "x", 0, FS_NO_REQUEST), -EROFS);
    check_int(co_fs_rename(snapshots, "s", snapshots, "t", 0, FS_NO_REQUEST), -EROFS);
    check_int(co_fs_rmdir(root, ".snapshots", FS_NO_REQUEST), -EROFS);
    check_int(co_fs_mkdir(root, ".snapshots", &new, FS_NO_REQUEST, NULL), -EEXIST);
    check_int(co_fs_mkdir(snapshots, "t", &new, FS_NO_REQUEST, NULL), -EROFS);
    check_int(co_fs_snapshot_create(dir, "t", FS_NO_REQUEST), -EROFS);
    check_int(co_fs_clone_file(file, root, "clone", FS_NO_REQUEST, NULL), 0); /* ours again */
    write_file(world, "clone", 500, 4);
    check_tree(world, ".snapshots/s");
    check_int(co_fs_readdir(root, 0, no_private, &entries), 0);
    check_int(entries, 5); /* "." ".." clone d top */
    fs_inode_put(root);
    fs_inode_put(snapshots);
    fs_inode_put(dir);
    fs_inode_put(file);
    co_world_done(world);
}

static void snapshot_is_read_only(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_read_only);
}

/* ---- of a file, and of what is gone; deleting gives the space back ---- */

static void co_files_and_space(struct world *world)
{
    struct fs_request request = {.session = 3, .slot = 0, .sequence = 1};
    struct fs_statfs before, after;

    co_world_fresh(world);
    make_tree(world);
    take(world, "top", "f");
    write_file(world, "top", 2 * MIB, 5);
    check_file(world, ".snapshots/f", 3 * MIB, 1);
    check_int(co_fs_snapshot_restore(world->fs, "f", FS_NO_REQUEST), 0);
    check_file(world, "top", 3 * MIB, 1);
    check_int(co_unlink(world, "top"), 0);
    check_int(co_fs_snapshot_restore(world->fs, "f", FS_NO_REQUEST), -ENOTDIR);
    take(world, "d", "d");
    co_world_remount(world);
    check_int(co_fs_statfs(world->fs, &before), 0);
    check_int(co_fs_snapshot_delete(world->fs, "f", request), 0);
    check_int(co_fs_snapshot_delete(world->fs, "f", request), 0); /* answered, not run */
    check_int(co_fs_snapshot_delete(world->fs, "f", FS_NO_REQUEST), -ENOENT);
    check_int(co_fs_snapshot_delete(world->fs, "d", FS_NO_REQUEST), 0);
    check(!is_there(world, ".snapshots/d"));
    co_world_remount(world);
    check_int(co_fs_reap_orphans(world->fs), 0); /* an unmount may leave a rest */
    co_world_remount(world);
    check_int(co_fs_statfs(world->fs, &after), 0);
    check(after.free_bytes >= before.free_bytes + 3 * MIB);
    check_int(after.inodes + 7, before.inodes); /* f, and d with what is in it */
    co_world_done(world);
}

static void files_and_space(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_files_and_space);
}

/* ---- one moment: who writes two files in turn is never seen with the second ahead ---- */

struct writer {
    struct world *world;
    bool stop;
    uint64_t rounds;
};

static void co_write_in_turn(void *arg)
{
    struct writer *writer = arg;
    struct fs_inode *first = co_must_open(writer->world, "first");
    struct fs_inode *second = co_must_open(writer->world, "second");

    while (!writer->stop) {
        writer->rounds++;
        check_int(co_write_pattern(first, 0, 64, writer->rounds), 0);
        check_int(co_write_pattern(second, 0, 64, writer->rounds), 0);
    }
    fs_inode_put(first);
    fs_inode_put(second);
}

static uint64_t round_of(struct world *world, const char *path, uint64_t max)
{
    struct fs_inode *inode = co_must_open(world, path);
    uint8_t data[64];
    uint64_t got, round;

    check_int(co_fs_read(inode, data, 0, sizeof(data), &got), 0);
    for (round = 0; round <= max; round++) {
        bool same = true;

        for (unsigned i = 0; same && i < sizeof(data); i++)
            same = data[i] == pattern_byte(round, i);
        if (same)
            break;
    }
    check(round <= max);
    fs_inode_put(inode);
    return round;
}

static void co_one_moment(struct world *world)
{
    struct writer writer = {.world = world};
    struct co_group group;

    world->ram.delay_max = 3;
    co_world_fresh(world);
    write_file(world, "first", 64, 0);
    write_file(world, "second", 64, 0);
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "writer", co_write_in_turn, &writer), 0);
    for (unsigned i = 0; i < 20; i++) {
        char name[8], path[32];
        uint64_t first, second;

        for (uint64_t turns = ram_vdisk_random(&world->ram) % 20; turns > 0; turns--)
            co_yield ();
        snprintf(name, sizeof(name), "s%u", i);
        take(world, "", name);
        snprintf(path, sizeof(path), ".snapshots/%s/first", name);
        first = round_of(world, path, writer.rounds);
        snprintf(path, sizeof(path), ".snapshots/%s/second", name);
        second = round_of(world, path, writer.rounds);
        check(second == first || second + 1 == first);
    }
    writer.stop = true;
    co_group_wait(&group);
    check(writer.rounds > 20);
    co_world_done(world);
}

static void snapshot_is_one_moment(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++)
        world_run(VOLUME, seed, co_one_moment);
}

/* ---- power cut at every write of taking, restoring and deleting ---- */

static uint64_t cut_total;

static void co_life(struct world *world)
{
    struct fs_inode *root;

    if (co_fs_inode_get(world->fs, FS_ROOT_INO, 0, &root) < 0)
        return;
    if (co_fs_snapshot_create(root, "s", FS_NO_REQUEST) == 0 && co_unlink(world, "d/file") == 0 &&
        co_unlink(world, "top") == 0 && co_fs_snapshot_restore(world->fs, "s", FS_NO_REQUEST) == 0)
        (void)co_fs_snapshot_delete(world->fs, "s", FS_NO_REQUEST);
    fs_inode_put(root);
}

static void co_cut_life(struct world *world)
{
    co_world_fresh(world);
    make_tree(world);
    if (world->which)
        world->ram.cut_after = world->ram.writes + world->ram.trims + world->which - 1;
    cut_total = world->ram.writes + world->ram.trims;
    co_life(world);
    co_fs_abandon(take_ptr(world->fs));
    cut_total = world->ram.writes + world->ram.trims - cut_total;
    ram_vdisk_restart(&world->ram);
    co_world_mount(world);
    co_world_check(world);
    if (is_there(world, ".snapshots/s")) {
        check_tree(world, ".snapshots/s");
        check_int(co_fs_snapshot_restore(world->fs, "s", FS_NO_REQUEST), 0);
    }
    check_tree(world, "");
    check_int(co_fs_reap_orphans(world->fs), 0);
    co_world_check(world);
    co_world_done(world);
}

static uint64_t cut_at;

static void co_cut_run(struct world *world)
{
    world->which = cut_at;
    co_cut_life(world);
}

static void power_cut_at_every_write(void **state)
{
    (void)state;
    cut_at = 0;
    world_run(VOLUME, 1, co_cut_run);
    for (uint64_t n = 1, total = cut_total; n <= total + 1; n++) {
        cut_at = n;
        world_run(VOLUME, 1, co_cut_run);
    }
}

struct both {
    struct fs_inode *file, *root;
    struct fs_request request;
    struct co_group *group;
};

static void co_clone_again(void *arg)
{
    struct both *both = arg;
    struct fs_inode *made;

    check_int(co_fs_clone_file(both->file, both->root, "made", both->request, &made), 0);
    fs_inode_put(made);
    co_group_done(both->group);
}

/* A file of many extents, a clone of it by a named request, and a truncation of the clone that a
 * crash has cut short. */
static struct fs_request co_half_truncated(struct world *world)
{
    struct fs_request request = {.session = 7, .slot = 1, .sequence = 1};
    struct fs_inode *root, *file, *made;

    check_int(co_create(world, "file"), 0);
    root = co_must_open(world, "");
    file = co_must_open(world, "file");
    for (uint64_t i = 0; i < 500; i++)
        check_int(co_write_pattern(file, 2 * i * BLOCK_SIZE, BLOCK_SIZE, 1), 0);
    check_int(co_fs_clone_file(file, root, "made", request, &made), 0);
    world->ram.cut_after = world->ram.writes + world->ram.trims + 1;
    check_int(co_fs_truncate(made, 0, FS_NO_REQUEST), -ESTALE);
    fs_inode_put(made);
    fs_inode_put(file);
    fs_inode_put(root);
    co_world_crash(world);
    co_world_mount(world);
    co_world_remount(world); /* nothing of it is in RAM now */
    return request;
}

/* The clone's repeat meets a truncation to finish, just as a snapshot waits for the clone to end:
 * neither waits for the other. */
static void co_clone_meets_snapshot(struct world *world)
{
    struct both both = {0};
    struct co_group group;

    co_world_fresh(world);
    both.request = co_half_truncated(world);
    both.root = co_must_open(world, "");
    both.file = co_must_open(world, "file");
    both.group = &group;
    world->ram.delay_max = 20;
    co_group_init(&group);
    co_group_add(&group, 1);
    check_int(co_spawn(world->io, "clone", co_clone_again, &both), 0);
    co_yield ();
    check_int(co_fs_snapshot_create(both.root, "s", FS_NO_REQUEST), 0);
    co_group_wait(&group);
    fs_inode_put(both.file);
    fs_inode_put(both.root);
    co_world_done(world);
}

static void a_clone_and_a_snapshot_do_not_wait_for_each_other(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++)
        world_run(VOLUME, seed, co_clone_meets_snapshot);
}

/* ---- a repeat is answered when the first one's promise holds, not before ---- */

struct repeat {
    struct world *world;
    struct fs_inode *root;
    int result;
};

static void co_ask(void *arg)
{
    struct repeat *repeat = arg;

    repeat->result = co_fs_snapshot_create(
        repeat->root, "s", (struct fs_request){.session = 7, .slot = 1, .sequence = 1});
    if (repeat->result == 0)
        repeat->world->ram.is_cut = true; /* at the first answer */
}

static void co_repeat_is_durable(struct world *world)
{
    struct repeat first = {.world = world}, second = {.world = world};
    struct co_group group;
    bool was_promised;

    co_world_fresh(world);
    write_file(world, "top", 10000, 1);
    first.root = second.root = co_must_open(world, "");
    world->ram.delay_max = 10;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "first", co_ask, &first), 0);
    check_int(co_group_spawn(&group, world->io, "repeat", co_ask, &second), 0);
    co_group_wait(&group);
    was_promised = first.result == 0 || second.result == 0;
    check(was_promised);
    fs_inode_put(first.root);
    co_world_crash(world);
    world->ram.delay_max = 0;
    co_world_mount(world);
    check_file(world, ".snapshots/s/top", 10000, 1);
    co_world_done(world);
}

static void repeat_is_durable(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++)
        world_run(VOLUME, seed, co_repeat_is_durable);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snapshot_stays),
        cmocka_unit_test(snapshot_is_read_only),
        cmocka_unit_test(files_and_space),
        cmocka_unit_test(snapshot_is_one_moment),
        cmocka_unit_test(power_cut_at_every_write),
        cmocka_unit_test(a_clone_and_a_snapshot_do_not_wait_for_each_other),
        cmocka_unit_test(repeat_is_durable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
