/* Damage: a block of metadata goes bad, and costs what hangs on it. Never a crash, a hang, or wrong
 * data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "fs-refs-lite/fs_format.h"
#include "tests/unit/fs_harness.h"

#define VOLUME (32 * MIB)
#define FILES 400
#define FILES_OF_ROOT 360 /* the others may be in the journal only, and lost with a node */

static char *block_at(struct world *world, uint64_t block)
{
    return world->ram.memory + block * BLOCK_SIZE;
}

static void flip(struct world *world, uint64_t block, unsigned at)
{
    block_at(world, block)[at] ^= 0x10;
}

static void file_path(char path[64], unsigned number)
{
    snprintf(path, 64, "dir-%u/file-%u", number % 7, number);
}

/* A tree of three levels: directories with files of some bytes. */
static void co_populate(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB};
    char path[64];

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    for (unsigned i = 0; i < 7; i++) {
        snprintf(path, sizeof(path), "dir-%u", i);
        check_int(co_mkdir(world, path), 0);
    }
    for (unsigned i = 0; i < FILES; i++) {
        struct fs_inode *inode;

        file_path(path, i);
        check_int(co_create(world, path), 0);
        check_int(co_open(world, path, &inode), 0);
        check_int(co_write_pattern(inode, 0, 5000, i + 1), 0);
        fs_inode_put(inode);
    }
    co_world_unmount(world);
}

/* Is this file all there? What can be read must be right. */
static bool co_is_whole(struct world *world, unsigned number)
{
    struct fs_inode *inode;
    uint8_t data[5000];
    uint64_t length;
    char path[64];
    int r;

    file_path(path, number);
    r = co_open(world, path, &inode);
    check(r == 0 || r == -EBADMSG || (r == -ENOENT && number > FILES_OF_ROOT));
    if (r < 0)
        return false;
    r = co_fs_read(inode, data, 0, sizeof(data), &length);
    check(r == 0 || r == -EBADMSG);
    fs_inode_put(inode);
    for (unsigned at = 0; r == 0 && at < length; at++)
        check_int(data[at], pattern_byte(number + 1, at));
    return r == 0 && length == sizeof(data);
}

static unsigned co_count_files(struct world *world)
{
    unsigned whole = 0;

    for (unsigned i = 0; i < FILES; i++)
        whole += co_is_whole(world, i);
    return whole;
}

static uint64_t co_count_problems(struct world *world)
{
    struct fs_check_result result;

    check_int(co_fs_check(world->fs, NULL, NULL, &result), 0);
    return result.problems;
}

static uint32_t magic_of(struct world *world, uint64_t block)
{
    uint32_t magic;

    memcpy(&magic, block_at(world, block), sizeof(magic));
    return magic;
}

static const struct fs_root *newest_root(struct world *world)
{
    const struct fs_root *even = (const struct fs_root *)block_at(world, 4);
    const struct fs_root *odd = (const struct fs_root *)block_at(world, 6);

    return odd->header.generation > even->header.generation ? odd : even;
}

/* Of a volume with this seed the vdisk itself cannot read the block. */
#define NO_RIGHT_COPY 2

static void co_each_block(struct world *world)
{
    struct fs_mount_options options = {.gives_up = true};
    uint64_t nodes = 0, bitmaps = 0, lost_most = 0;
    struct fs_check_result healthy;

    co_populate(world);
    co_world_mount(world);
    check_int(co_fs_check(world->fs, NULL, NULL, &healthy), 0);
    check_int(co_count_files(world), FILES);
    co_world_unmount(world);

    for (uint64_t block = 80; block < VOLUME / BLOCK_SIZE; block++) {
        uint32_t magic = magic_of(world, block);
        uint8_t tree = ((const struct fs_node *)block_at(world, block))->tree;
        char *saved;
        int r;

        if (magic != FS_NODE_MAGIC && magic != FS_BITMAP_MAGIC)
            continue;
        world->which = block;
        saved = malloc(world->ram.vdisk.size_bytes);
        memcpy(saved, world->ram.memory, world->ram.vdisk.size_bytes);
        if (world->seed == NO_RIGHT_COPY)
            world->ram.rotten_at = block * BLOCK_SIZE;
        else
            flip(world, block, 64 + (unsigned)(block * 7919 % (BLOCK_SIZE - 64)));
        r = co_fs_mount(world->io, &world->ram.vdisk, &options, &world->fs);
        if (r == 0) {
            unsigned whole = co_count_files(world);
            uint64_t problems = co_count_problems(world);

            if (magic == FS_NODE_MAGIC) {
                nodes += problems > 0;
                lost_most = MAX(lost_most, FILES - whole);
                check(whole == FILES || problems > 0);
            } else {
                check_int(whole, FILES); /* a map costs no file */
                bitmaps += problems > 0;
            }
            r = co_create(world, "new"); /* writing goes on, or is refused; it ends either way */
            check(r == 0 || r == -EBADMSG ||
                  (r == -EROFS && (magic == FS_BITMAP_MAGIC || tree == FS_TREE_GROUPS)));
            (void)co_unlink(world, "dir-1/file-1");
            (void)co_fs_checkpoint(world->fs);
            co_fs_abandon(take_ptr(world->fs));
        } else {
            check_int(r, -EBADMSG);
        }
        world->ram.rotten_at = 0;
        memcpy(world->ram.memory, saved, world->ram.vdisk.size_bytes);
        free(saved);
    }
    check(nodes > 10);
    check_int(bitmaps, 1);
    check(lost_most > 0);
    co_world_mount(world);
    check_int(co_count_problems(world), 0);
    co_world_unmount(world);
}

static void each_block_costs_what_hangs_on_it(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_each_block);
    world_run(VOLUME, NO_RIGHT_COPY, co_each_block);
}

/* ---- what cannot be read, and then can ---- */

/* A volume of many groups whose journal has more files, of which no root tells. */
static void co_populate_journal(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB, .group_blocks = 512};
    struct fs_inode *inode;
    char path[64];

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    for (unsigned i = 0; i < FILES; i++) {
        file_path(path, i);
        if (i < 7) {
            snprintf(path, sizeof(path), "dir-%u", i);
            check_int(co_mkdir(world, path), 0);
            file_path(path, i);
        }
        check_int(co_create(world, path), 0);
        inode = co_must_open(world, path);
        check_int(co_write_pattern(inode, 0, 5000, i + 1), 0);
        fs_inode_put(inode);
        if (i == FILES_OF_ROOT)
            check_int(co_fs_checkpoint(world->fs), 0);
    }
    co_world_crash(world);
}

/* Fills the volume; whoever's blocks seemed free is not whole after it. */
static void co_fill(struct world *world)
{
    struct fs_inode *inode;

    if (co_create(world, "full") < 0)
        return;
    inode = co_must_open(world, "full");
    for (uint64_t at = 0; co_write_pattern(inode, at, 256 * KIB, 999) == 0; at += 256 * KIB)
        ;
    fs_inode_put(inode);
}

/* Others than these may be whole or not; those that can be read are right. */
static void co_goes_on_well(struct world *world, const bool *whole)
{
    co_fill(world);
    for (unsigned i = 0; i < FILES; i++) {
        bool now = co_is_whole(world, i);

        check(now || !whole || !whole[i]);
    }
}

/* Mounts without this block, and then with it again: what was said in between holds. */
static bool co_mount_without(struct world *world, uint64_t block, bool gives_up)
{
    struct fs_mount_options options = {.gives_up = gives_up};
    bool whole[FILES];
    int r;

    world->ram.rotten_at = block * BLOCK_SIZE;
    r = co_fs_mount(world->io, &world->ram.vdisk, &options, &world->fs);
    if (r == 0) {
        for (unsigned i = 0; i < FILES; i++)
            whole[i] = co_is_whole(world, i);
        co_fs_abandon(take_ptr(world->fs));
    } else {
        check(r == -EBADMSG || (r == -EAGAIN && !gives_up));
    }
    world->ram.rotten_at = 0;
    if (co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs) == 0) {
        if (r == -EAGAIN)
            check_int(co_count_files(world), FILES); /* nothing was lost by waiting */
        co_goes_on_well(world, r == 0 ? whole : NULL);
        co_fs_abandon(take_ptr(world->fs));
    }
    return r == -EAGAIN;
}

static void co_comes_back(struct world *world)
{
    unsigned waits = 0;
    char *saved = malloc(VOLUME);

    check(saved);
    co_populate_journal(world);
    memcpy(saved, world->ram.memory, VOLUME);
    for (uint64_t block = 80; block < VOLUME / BLOCK_SIZE; block++) {
        uint32_t magic = magic_of(world, block);

        if (magic != FS_NODE_MAGIC && magic != FS_BITMAP_MAGIC)
            continue;
        world->which = block;
        if (co_mount_without(world, block, false)) {
            waits++;
            memcpy(world->ram.memory, saved, VOLUME);
            (void)co_mount_without(world, block, true);
        }
        memcpy(world->ram.memory, saved, VOLUME);
    }
    check(waits > 3);
    free(saved);
}

/* A node or map that a change in the journal needs and that no copy gives is waited for, or lost
 * for good: it does not come back without the change. */
static void what_comes_back_is_as_it_should_be(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_comes_back);
}

static void co_is_written(struct world *world, const char *path, uint64_t seed)
{
    struct fs_inode *inode = co_must_open(world, path);
    uint8_t data[8 * BLOCK_SIZE];
    uint64_t length;

    check_int(co_fs_read(inode, data, 0, sizeof(data), &length), 0);
    check_int(length, sizeof(data));
    for (unsigned at = 0; at < sizeof(data); at++)
        check_int(data[at], pattern_byte(seed, at));
    fs_inode_put(inode);
}

static void co_write_anew(struct world *world, const char *path, uint64_t seed)
{
    struct fs_inode *inode = co_must_open(world, path);

    check_int(co_write_pattern(inode, 0, 8 * BLOCK_SIZE, seed), 0);
    fs_inode_put(inode);
}

/* A file and its clone are written after the last root, the clone in place. */
static void co_write_both(struct world *world)
{
    struct fs_inode *inode, *root;

    co_world_fresh(world);
    check_int(co_create(world, "file"), 0);
    co_write_anew(world, "file", 1);
    inode = co_must_open(world, "file");
    root = co_must_open(world, "");
    check_int(co_fs_clone_file(inode, root, "clone", FS_NO_REQUEST, NULL), 0);
    fs_inode_put(root);
    fs_inode_put(inode);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_write_anew(world, "file", 2);
    co_write_anew(world, "clone", 3);
    co_world_crash(world);
}

static void co_refs_are_lost(struct world *world)
{
    struct fs_mount_options options = {.gives_up = true};
    uint64_t leaf;

    co_write_both(world);
    leaf = newest_root(world)->trees[FS_TREE_REFS].address;
    if (world->seed == NO_RIGHT_COPY)
        world->ram.rotten_at = leaf * BLOCK_SIZE;
    else
        flip(world, leaf, 100);
    check_int(co_fs_mount(world->io, &world->ram.vdisk, &options, &world->fs), 0);
    co_is_written(world, "file", 2);
    co_is_written(world, "clone", 3);
    check_int(co_unlink(world, "clone"), 0);
    co_fill(world);
    co_is_written(world, "file", 2);
    co_fs_abandon(take_ptr(world->fs));
    world->ram.rotten_at = 0;
    co_world_mount(world); /* was overwritten: does not come back */
    co_fill(world);
    co_is_written(world, "file", 2);
    co_fs_abandon(take_ptr(world->fs));
}

/* A change of a file holds although the replay cannot tell the refs tree of it. */
static void refs_lost_at_a_replay_cost_no_data(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_refs_are_lost);
    world_run(VOLUME, NO_RIGHT_COPY, co_refs_are_lost);
}

static uint64_t co_ino_of(struct world *world, const char *path);
static uint64_t newest_map(struct world *world, uint32_t free_min, uint32_t free_max);

#define WAIT_NS (60 * SEC)

static int co_attempt(struct world *world, struct fs_lacks *lacks)
{
    struct fs_mount_options options = {.lacks = lacks, .unreadable_wait_ns = WAIT_NS};

    return co_fs_mount(world->io, &world->ram.vdisk, &options, &world->fs);
}

/* As an owner does it, for so long. */
static void co_try_in_vain(struct world *world, struct fs_lacks *lacks, uint64_t for_ns)
{
    uint64_t end_ns = io_now_ns(world->io) + for_ns;

    while (io_now_ns(world->io) < end_ns) {
        check_int(co_attempt(world, lacks), -EAGAIN);
        check_int(co_sleep_ns(MIN(5 * SEC, end_ns - io_now_ns(world->io))), 0);
    }
}

/* The next attempt gives up. */
static void co_wait_in_vain(struct world *world, struct fs_lacks *lacks)
{
    co_try_in_vain(world, lacks, WAIT_NS - 1 * SEC);
    check_int(co_sleep_ns(2 * SEC), 0);
}

static void co_room_comes_back(struct world *world)
{
    uint64_t map = 0;

    co_populate(world);
    for (uint64_t block = 80; block < VOLUME / BLOCK_SIZE; block++) {
        const struct fs_block_header *header = (const void *)block_at(world, block);

        if (magic_of(world, block) == FS_BITMAP_MAGIC &&
            (map == 0 ||
             header->generation >
                 ((const struct fs_block_header *)(const void *)block_at(world, map))->generation))
            map = block;
    }
    world->ram.rotten_at = map * BLOCK_SIZE;
    check_int(co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs), -EAGAIN);
    world->ram.rotten_at = 0;
    co_world_mount(world);
    check_int(co_create(world, "new"), 0);
    co_world_done(world);
}

/* The same with changes in the journal, which take no blocks. */
static void co_room_for_a_replay(struct world *world)
{
    struct fs_lacks lacks = {0};

    co_populate(world);
    co_world_mount(world);
    check_int(co_create(world, "in-the-journal"), 0);
    co_world_crash(world);
    world->ram.rotten_at = newest_map(world, 0, UINT32_MAX) * BLOCK_SIZE;
    check_int(co_attempt(world, &lacks), -EAGAIN);
    world->ram.rotten_at = 0;
    check_int(co_attempt(world, &lacks), 0);
    co_ino_of(world, "in-the-journal");
    check_int(co_create(world, "new"), 0);
    co_world_crash(world);

    world->ram.rotten_at = newest_map(world, 0, UINT32_MAX) * BLOCK_SIZE;
    co_wait_in_vain(world, &lacks);
    check_int(co_attempt(world, &lacks), 0); /* to be read, and no more */
    check_int(co_count_files(world), FILES);
    check_int(co_create(world, "newer"), -EROFS);
    world->ram.rotten_at = 0;
    check_int(co_fs_checkpoint(world->fs), -ESTALE);
    co_fs_abandon(take_ptr(world->fs));
    co_world_mount(world);
    co_ino_of(world, "new");
    check_int(co_create(world, "newer"), 0);
    co_world_done(world);
}

/* All room is behind one map: a mount waits for it, and is not read-only for its whole life. */
static void a_map_that_comes_back_has_room(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_room_comes_back);
    world_run(VOLUME, 1, co_room_for_a_replay);
}

static void co_repeat_after_a_wait(struct world *world)
{
    struct fs_request request = {.session = 77, .slot = 3, .sequence = 9};
    struct fs_inode *root;

    co_world_fresh(world);
    check_int(co_create(world, "file"), 0);
    root = co_must_open(world, "");
    check_int(co_fs_unlink(root, "file", request), 0);
    fs_inode_put(root);
    check_int(co_fs_checkpoint(world->fs), 0);
    co_world_crash(world);
    world->ram.rotten_at = newest_root(world)->trees[FS_TREE_SLOTS].address * BLOCK_SIZE;
    check_int(co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs), -EAGAIN);
    world->ram.rotten_at = 0;
    co_world_mount(world);
    root = co_must_open(world, "");
    check_int(co_fs_unlink(root, "file", request), 0); /* was done, and is not looked for again */
    fs_inode_put(root);
    co_world_done(world);
}

static void sessions_are_waited_for(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_repeat_after_a_wait);
}

/* ---- exactly what hangs on it ---- */

/* What a lookup of each file, and a read of it, goes through, found without the code under test. */
struct map {
    const struct fs_root *root;
    uint64_t nodes[1024];
    enum fs_tree_id trees[1024];
    unsigned count;
    uint64_t dirs[7], files[FILES]; /* inode numbers */
};

static void map_tree(struct world *world, struct map *map, enum fs_tree_id tree, uint64_t address)
{
    const struct fs_node *node = (const struct fs_node *)block_at(world, address);

    check(map->count < ARRAY_SIZE(map->nodes));
    map->nodes[map->count] = address;
    map->trees[map->count++] = tree;
    for (unsigned i = 0; node->level > 0 && i < node->count; i++) {
        const struct fs_child *child =
            (const struct fs_child *)((const char *)node + node->items[i].value_at);

        map_tree(world, map, tree, child->address);
    }
}

static uint64_t co_ino_of(struct world *world, const char *path)
{
    struct fs_inode *inode = co_must_open(world, path);
    uint64_t ino = fs_inode_number(inode);

    fs_inode_put(inode);
    return ino;
}

static void co_map(struct world *world, struct map *map)
{
    char path[64];

    for (unsigned i = 0; i < 7; i++) {
        snprintf(path, sizeof(path), "dir-%u", i);
        map->dirs[i] = co_ino_of(world, path);
    }
    for (unsigned i = 0; i < FILES; i++) {
        file_path(path, i);
        map->files[i] = co_ino_of(world, path);
    }
    co_world_unmount(world);
    map->root = newest_root(world);
    for (unsigned tree = 0; tree < FS_TREES_USED; tree++) {
        if (map->root->trees[tree].address)
            map_tree(world, map, tree, map->root->trees[tree].address);
    }
}

/* The file or the directory with that inode number goes: what lies below it, too. */
static void lose_inode(const struct map *map, uint64_t ino, bool lost[FILES])
{
    for (unsigned i = 0; i < FILES; i++)
        lost[i] |= ino == FS_ROOT_INO || ino == map->dirs[i % 7] || ino == map->files[i];
}

/* What hangs on a node of the files tree. */
static void lose_node(struct world *world, const struct map *map, uint64_t address,
                      bool lost[FILES])
{
    const struct fs_node *node = (const struct fs_node *)block_at(world, address);

    for (unsigned i = 0; i < node->count; i++) {
        const struct fs_item *item = &node->items[i];
        const void *value = (const char *)node + item->value_at;

        if (node->level > 0)
            lose_node(world, map, ((const struct fs_child *)value)->address, lost);
        else if (item->kind == FS_KIND_NAME)
            lose_inode(map, ((const struct fs_name_item *)value)->ino, lost);
        else if (item->kind == FS_KIND_INODE || item->kind == FS_KIND_EXTENT)
            lose_inode(map, item->object, lost);
    }
}

static void co_find_lost(struct world *world, bool lost[FILES])
{
    for (unsigned i = 0; i < FILES; i++)
        lost[i] = !co_is_whole(world, i);
}

/* Clones, a snapshot and a repeatable request, so that every tree has nodes. */
static void co_populate_all_trees(struct world *world)
{
    struct fs_inode *from, *root;
    char path[64], name[16];

    co_populate(world);
    co_world_mount(world);
    check_int(co_mkdir(world, "clones"), 0);
    check_int(co_fs_inode_get(world->fs, FS_ROOT_INO, 0, &root), 0);
    for (unsigned i = 0; i < FILES; i += 3) {
        struct fs_inode *dir = co_must_open(world, "clones");

        file_path(path, i);
        snprintf(name, sizeof(name), "clone-%u", i);
        from = co_must_open(world, path);
        check_int(co_fs_clone_file(
                      from, dir, name,
                      (struct fs_request){.session = 1 + i % 9, .slot = i % 5, .sequence = 1 + i},
                      NULL),
                  0);
        fs_inode_put(from);
        fs_inode_put(dir);
    }
    check_int(co_fs_snapshot_create(root, "before", FS_NO_REQUEST), 0);
    fs_inode_put(root);
}

static void co_exactly(struct world *world)
{
    struct map *map = calloc(1, sizeof(*map));
    char *saved = malloc(VOLUME);
    unsigned some = 0, trees = 0;

    check(map && saved);
    co_populate_all_trees(world);
    co_map(world, map);
    memcpy(saved, world->ram.memory, VOLUME);
    for (unsigned i = 0; i < map->count; i++) {
        bool expected[FILES] = {0}, lost[FILES];
        unsigned lost_count = 0;

        world->which = map->nodes[i];
        if (map->trees[i] == FS_TREE_FILES)
            lose_node(world, map, map->nodes[i], expected);
        trees |= 1u << map->trees[i];
        flip(world, map->nodes[i], 64 + i * 7919 % (BLOCK_SIZE - 64));
        check_int(co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs), 0);
        co_find_lost(world, lost);
        for (unsigned file = 0; file < FILES; file++) {
            check_int(lost[file], expected[file]);
            lost_count += lost[file];
        }
        some += lost_count > 0 && lost_count < FILES;
        check(co_count_problems(world) > 0);
        co_fs_abandon(take_ptr(world->fs));
        memcpy(world->ram.memory, saved, VOLUME);
    }
    check_int(trees, (1u << FS_TREES_USED) - 1);
    check(some > 20);
    free(saved);
    free(map);
}

static void a_node_costs_exactly_what_hangs_on_it(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_exactly);
}

static void co_copies(struct world *world)
{
    struct fs_mount_options salvage = {.salvage = true};
    const struct fs_root *root;

    co_populate(world);
    flip(world, 0, 100);
    flip(world, 4, 500);
    flip(world, 7, 500);
    co_world_mount(world); /* every other copy is enough */
    check_int(co_count_files(world), FILES);
    co_world_unmount(world);
    flip(world, 1, 100);
    check_int(co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs), -EBADMSG);
    flip(world, 1, 100);

    /* Both copies of the newest root: the older one is not taken unasked. */
    root = (const struct fs_root *)block_at(world, 4);
    if (root->header.generation > ((const struct fs_root *)block_at(world, 6))->header.generation) {
        flip(world, 4, 500);
        flip(world, 5, 500);
    } else {
        flip(world, 6, 500);
        flip(world, 7, 500);
    }
    check_int(co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs), -EBADMSG);
    check_int(co_fs_mount(world->io, &world->ram.vdisk, &salvage, &world->fs), 0);
    (void)co_count_files(world);
    co_fs_abandon(take_ptr(world->fs));
}

static void copies_are_there_for_this(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_copies);
}

/* Block of the journal batch with the nth lowest sequence of the newest epoch, from 0. */
static uint64_t batch_block(struct world *world, unsigned n)
{
    const struct fs_super *super = (const struct fs_super *)block_at(world, 0);
    uint64_t epoch = 0, lowest = UINT64_MAX;

    for (uint64_t i = 0; i < super->journal_blocks; i++) {
        const struct fs_journal_batch *batch =
            (const struct fs_journal_batch *)block_at(world, FS_JOURNAL_BLOCK + i);

        if (batch->magic == FS_JOURNAL_MAGIC && batch->epoch > epoch) {
            epoch = batch->epoch;
            lowest = UINT64_MAX;
        }
        if (batch->magic == FS_JOURNAL_MAGIC && batch->epoch == epoch)
            lowest = MIN(lowest, batch->sequence);
    }
    for (uint64_t i = 0; i < super->journal_blocks; i++) {
        const struct fs_journal_batch *batch =
            (const struct fs_journal_batch *)block_at(world, FS_JOURNAL_BLOCK + i);

        if (batch->magic == FS_JOURNAL_MAGIC && batch->epoch == epoch &&
            batch->sequence == lowest + n)
            return FS_JOURNAL_BLOCK + i;
    }
    check(false);
    return 0;
}

static void co_journal(struct world *world)
{
    struct fs_mount_options salvage = {.salvage = true};
    struct fs_inode *inode;

    co_populate(world);
    co_world_mount(world);
    for (unsigned i = 0; i < 5; i++) {
        char path[64];

        snprintf(path, sizeof(path), "new-%u", i);
        check_int(co_create(world, path), 0);
    }
    co_world_crash(world);

    flip(world, batch_block(world, 4), 200); /* the last one: torn, as far as anybody can tell */
    co_world_mount(world);
    check_int(co_open(world, "new-3", &inode), 0);
    fs_inode_put(inode);
    check_int(co_open(world, "new-4", &inode), -ENOENT);
    check_int(co_create(world, "new-4"), 0);
    check_int(co_create(world, "new-5"), 0);
    check_int(co_create(world, "new-6"), 0);
    co_world_crash(world);

    flip(world, batch_block(world, 1), 200); /* a later one shows that this one was acknowledged */
    check_int(co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs), -EBADMSG);
    check_int(co_fs_mount(world->io, &world->ram.vdisk, &salvage, &world->fs), 0);
    check_int(co_open(world, "new-4", &inode), 0);
    fs_inode_put(inode);
    check_int(co_open(world, "new-5", &inode), -ENOENT);
    check(co_count_problems(world) == 0);
    co_world_unmount(world);
}

static void journal_hole_is_not_a_torn_tail(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_journal);
}

/* The checker finds what is planted in items, not only in checksums. */
static void co_planted(struct world *world)
{
    co_populate(world);
    for (uint64_t block = 80; block < VOLUME / BLOCK_SIZE; block++) {
        struct fs_node *node = (struct fs_node *)block_at(world, block);
        bool planted = false;

        if (node->header.magic != FS_NODE_MAGIC || node->tree != FS_TREE_FILES || node->level > 0)
            continue;
        world->which = block;
        for (unsigned i = 0; i < node->count && !planted; i++) {
            struct fs_inode_item *item =
                (struct fs_inode_item *)((char *)node + node->items[i].value_at);

            if (node->items[i].kind != FS_KIND_INODE || node->items[i].object == FS_ROOT_INO)
                continue;
            planted = true;
            item->nlink++;
            seal_block(node);
            co_world_mount(world);
            if (co_count_problems(world) > 0) /* else an old node that no root reaches any more */
                world->what = "found";
            co_world_unmount(world);
            break;
        }
    }
    check(world->what);
}

static void checker_finds_wrong_counts(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_planted);
}

/* ---- times that no leaf takes any more do not keep a volume from being unmounted ---- */

#define EXTENTS 16000
#define COPIES 24 /* with so many extents each: more leaves than the cache has room for */

static void co_fill_many_leaves(struct world *world)
{
    struct fs_inode *root = co_must_open(world, ""), *file;
    char name[16];

    check_int(co_create(world, "many"), 0);
    file = co_must_open(world, "many");
    check_int(co_fs_truncate(file, MIB, FS_NO_REQUEST), 0);
    for (uint64_t i = 0; i < EXTENTS; i++)
        check_int(co_write_pattern(file, i * 128 * KIB, BLOCK_SIZE, 1), 0);
    for (unsigned i = 0; i < COPIES; i++) {
        snprintf(name, sizeof(name), "copy-%u", i);
        check_int(co_fs_clone_file(file, root, name, FS_NO_REQUEST, NULL), 0);
    }
    fs_inode_put(file);
    fs_inode_put(root);
}

static void co_look_at_all(struct world *world)
{
    char name[16];

    for (unsigned i = COPIES; i-- > 0;) {
        struct fs_inode *file;
        uint64_t length;
        bool is_data;

        snprintf(name, sizeof(name), "copy-%u", i);
        file = co_must_open(world, name);
        for (uint64_t at = 0; at < EXTENTS * 128 * KIB; at += length)
            check_int(co_fs_block_status(file, at, EXTENTS * 128 * KIB - at, &is_data, &length), 0);
        fs_inode_put(file);
    }
}

/* Every leaf that ever held the inode. */
static void rot_leaves_of(struct world *world, uint64_t ino)
{
    for (uint64_t block = 80; block < world->ram.vdisk.size_bytes / BLOCK_SIZE; block++) {
        const struct fs_node *node = (const struct fs_node *)block_at(world, block);

        if (!world->ram.in_use[block] || node->header.magic != FS_NODE_MAGIC ||
            node->tree != FS_TREE_FILES || node->level > 0)
            continue;
        for (unsigned i = 0; i < node->count; i++) {
            if (node->items[i].object == ino && node->items[i].kind == FS_KIND_INODE) {
                flip(world, block, 100);
                break;
            }
        }
    }
}

/* The block with the inode's item, from this node on; 0: it is not there. */
static uint64_t leaf_of(struct world *world, uint64_t address, uint64_t ino)
{
    const struct fs_node *node = (const struct fs_node *)block_at(world, address);
    uint64_t leaf = 0;

    for (unsigned i = 0; i < node->count && leaf == 0; i++) {
        const struct fs_item *item = &node->items[i];

        if (node->level > 0)
            leaf = leaf_of(
                world, ((const struct fs_child *)((const char *)node + item->value_at))->address,
                ino);
        else if (item->object == ino && item->kind == FS_KIND_INODE)
            leaf = address;
    }
    return leaf;
}

/* Ends with the victim's times in RAM, and its leaf not. */
static struct fs_inode *co_times_without_a_leaf(struct world *world)
{
    struct fs_mount_options options = {.cache_bytes = 16 * MIB};
    struct fs_inode *victim;

    co_world_format(world);
    co_world_mount(world);
    co_fill_many_leaves(world);
    check_int(co_create(world, "victim"), 0);
    victim = co_must_open(world, "victim");
    check_int(co_write_pattern(victim, 0, 10000, 1), 0);
    fs_inode_put(victim);
    co_world_unmount(world);
    check_int(co_fs_mount(world->io, &world->ram.vdisk, &options, &world->fs), 0);

    victim = co_must_open(world, "victim");
    check_int(co_sleep_ns(1 * SEC), 0);
    check_int(co_write_pattern(victim, 0, 5000, 2), 0); /* changes its times, in RAM */
    co_look_at_all(world);                              /* its leaf leaves the cache */
    return victim;
}

static void co_times_of_a_lost_leaf(struct world *world)
{
    struct fs_inode *victim = co_times_without_a_leaf(world);

    rot_leaves_of(world, fs_inode_number(victim));
    fs_inode_put(victim);
    world->ram.cut_after = world->ram.writes + world->ram.trims + 1000; /* not for ever */
    co_world_unmount(world);
}

static void times_of_a_lost_leaf(void **state)
{
    (void)state;
    world_run(2 * GIB, 1, co_times_of_a_lost_leaf);
}

static void co_times_of_an_unreadable_leaf(struct world *world)
{
    struct fs_inode *victim = co_times_without_a_leaf(world);
    struct fs_attr before, after;

    check_int(co_fs_getattr(victim, &before), 0);
    world->ram.rotten_at =
        BLOCK_SIZE *
        leaf_of(world, newest_root(world)->trees[FS_TREE_FILES].address, fs_inode_number(victim));
    check(world->ram.rotten_at > 0);
    check_int(co_fs_checkpoint(world->fs), 0); /* goes on without them */
    world->ram.rotten_at = 0;
    fs_inode_put(victim);
    co_world_remount(world);
    victim = co_must_open(world, "victim");
    check_int(co_fs_getattr(victim, &after), 0);
    check_int(after.mtime_ns, before.mtime_ns);
    check_int(after.change, before.change);
    fs_inode_put(victim);
    co_world_unmount(world);
}

static void times_wait_for_their_leaf(void **state)
{
    (void)state;
    world_run(2 * GIB, 1, co_times_of_an_unreadable_leaf);
}

/* ---- what cannot be read for a moment, in a volume that is mounted ---- */

/* Of the maps with so many free blocks the newest, and of these the last. */
static uint64_t newest_map(struct world *world, uint32_t free_min, uint32_t free_max)
{
    uint64_t newest = 0, generation = 0;

    for (uint64_t block = 80; block < VOLUME / BLOCK_SIZE; block++) {
        const struct fs_bitmap *map = (const void *)block_at(world, block);

        if (map->header.magic == FS_BITMAP_MAGIC && map->free_blocks >= free_min &&
            map->free_blocks <= free_max && map->header.generation >= generation) {
            newest = block;
            generation = map->header.generation;
        }
    }
    check(newest > 0);
    return newest;
}

static void co_format_groups(struct world *world, uint64_t group_blocks)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB, .group_blocks = group_blocks};

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    check_int(co_create(world, "f"), 0);
}

/* The first error of writing 64 KiB at a time from *at on, which moves there. */
static int co_write_on(struct world *world, uint64_t *at)
{
    struct fs_inode *inode = co_must_open(world, "f");
    int r = 0;

    while (r == 0 && *at < VOLUME) {
        r = co_write_pattern(inode, *at, 64 * KIB, 1);
        *at += r == 0 ? 64 * KIB : 0;
    }
    fs_inode_put(inode);
    return r;
}

static void co_map_comes_back(struct world *world)
{
    uint64_t at = 0;
    struct fs_inode *inode;

    co_format_groups(world, 3072);
    check_int(co_write_on(world, &at), -ENOSPC);
    inode = co_must_open(world, "f");
    check_int(co_fs_punch(inode, 1 * MIB, 20 * MIB), 0);
    fs_inode_put(inode);
    co_world_unmount(world);

    world->ram.rotten_at = newest_map(world, 2000, 3072) * BLOCK_SIZE;
    co_world_mount(world);
    at = 1 * MIB;
    check_int(co_write_on(world, &at), -ENOSPC);
    check(at < 15 * MIB); /* the other groups have no more */
    world->ram.rotten_at = 0;
    check_int(co_sleep_ns(11 * SEC), 0);
    (void)co_write_on(world, &at);
    check(at > 20 * MIB);
    check_int(co_count_problems(world), 0);
    co_world_unmount(world);
}

/* The room of a group whose map no copy gave is there again when one does. */
static void a_map_is_looked_at_again(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_map_comes_back);
}

static void co_freed_behind_a_map(struct world *world)
{
    struct fs_statfs before, after;
    struct fs_inode *inode;
    uint64_t map;

    co_format_groups(world, 512);
    check_int(co_fs_statfs(world->fs, &before), 0);
    inode = co_must_open(world, "f");
    check_int(co_write_pattern(inode, 0, 16 * MIB, 1), 0);
    fs_inode_put(inode);
    co_world_remount(world);
    map = newest_map(world, 0, 0);
    check(world->ram.in_use[map + FS_GROUP_SLOTS]);

    world->ram.rotten_at = map * BLOCK_SIZE;
    check_int(co_unlink(world, "f"), 0);
    for (unsigned i = 0; i < 3; i++) {
        check_int(co_sleep_ns(6 * SEC), 0); /* a while, in which it is looked at again */
        check_int(co_fs_checkpoint(world->fs), 0);
        check_int(co_fs_statfs(world->fs, &after), 0);
        check(after.free_bytes < before.free_bytes - 500 * BLOCK_SIZE);
        check(world->ram.in_use[map + FS_GROUP_SLOTS]); /* not trimmed */
    }
    world->ram.rotten_at = 0;
    check_int(co_fs_checkpoint(world->fs), 0);
    check_int(co_fs_statfs(world->fs, &after), 0);
    check(after.free_bytes > before.free_bytes - 64 * BLOCK_SIZE);
    check(!world->ram.in_use[map + FS_GROUP_SLOTS]);
    check_int(co_count_problems(world), 0);
    co_world_remount(world);
    co_world_done(world);
}

/* A checkpoint without a group's map does not give away what was freed there; a later one does. */
static void what_was_freed_waits_for_its_map(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_freed_behind_a_map);
}

static void co_references_come_back(struct world *world)
{
    struct fs_statfs before, after;
    struct fs_inode *inode, *root;

    co_world_fresh(world);
    check_int(co_fs_statfs(world->fs, &before), 0);
    check_int(co_create(world, "f"), 0);
    inode = co_must_open(world, "f");
    check_int(co_write_pattern(inode, 0, 800 * BLOCK_SIZE, 1), 0);
    root = co_must_open(world, "");
    check_int(co_fs_clone_file(inode, root, "g", FS_NO_REQUEST, NULL), 0);
    fs_inode_put(inode);
    fs_inode_put(root);
    co_world_unmount(world);

    world->ram.rotten_at = newest_root(world)->trees[FS_TREE_REFS].address * BLOCK_SIZE;
    co_world_mount(world);
    inode = co_must_open(world, "f");
    check_int(co_fs_punch(inode, 0, BLOCK_SIZE),
              0); /* nobody knows whose it is: one block is lost */
    fs_inode_put(inode);
    world->ram.rotten_at = 0;
    check_int(co_sleep_ns(11 * SEC), 0);
    check_int(co_unlink(world, "f"), 0);
    check_int(co_unlink(world, "g"), 0);
    check_int(co_sleep_ns(1 * SEC), 0);
    check_int(co_fs_statfs(world->fs, &after), 0);
    check(after.free_bytes > before.free_bytes - 16 * BLOCK_SIZE);
    co_world_unmount(world);
}

/* A count of references that no copy gave is there again when one does. */
static void references_are_looked_at_again(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_references_come_back);
}

/* ---- what a mount gives up ---- */

/* The first nodes of the files tree, on this level, without which the journal cannot be replayed;
 * the volume is as it was. Returns how many there are, up to `wanted`. */
static unsigned co_find_needed(struct world *world, uint8_t level, uint64_t *needed,
                               unsigned wanted)
{
    char *saved = malloc(VOLUME);
    unsigned count = 0;

    check(saved);
    memcpy(saved, world->ram.memory, VOLUME);
    for (uint64_t block = 80; block < VOLUME / BLOCK_SIZE && count < wanted; block++) {
        const struct fs_node *node = (const struct fs_node *)block_at(world, block);

        if (magic_of(world, block) != FS_NODE_MAGIC || node->tree != FS_TREE_FILES ||
            node->level != level)
            continue;
        world->ram.rotten_at = block * BLOCK_SIZE;
        if (co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs) == -EAGAIN)
            needed[count++] = block;
        else
            co_fs_abandon(take_ptr(world->fs));
        memcpy(world->ram.memory, saved, VOLUME);
    }
    world->ram.rotten_at = 0;
    free(saved);
    return count;
}

static void co_is_all_there(struct world *world)
{
    world->ram.rotten_at = world->ram.rotten_too = 0;
    co_world_mount(world);
    check_int(co_count_files(world), FILES);
    co_goes_on_well(world, NULL);
    co_fs_abandon(take_ptr(world->fs));
}

static void co_other_block(struct world *world)
{
    struct fs_lacks lacks = {0};
    uint64_t leaves[2];

    co_populate_journal(world);
    check_int(co_find_needed(world, 0, leaves, 2), 2);
    world->ram.rotten_at = leaves[0] * BLOCK_SIZE;
    co_try_in_vain(world, &lacks, WAIT_NS - 1 * SEC);
    world->ram.rotten_at = leaves[1] * BLOCK_SIZE; /* now this one, and no longer the other */
    check_int(co_attempt(world, &lacks), -EAGAIN);
    check_int(co_sleep_ns(2 * SEC), 0);
    check_int(co_attempt(world, &lacks), -EAGAIN);
    world->ram.rotten_at = leaves[0] * BLOCK_SIZE; /* its clock begins anew */
    co_try_in_vain(world, &lacks, WAIT_NS - 1 * SEC);
    world->ram.rotten_too = leaves[1] * BLOCK_SIZE;
    check_int(co_attempt(world, &lacks), -EAGAIN); /* both */
    check_int(co_sleep_ns(2 * SEC), 0);
    check_int(co_attempt(world, &lacks), -EAGAIN); /* that of the first is over */
    co_is_all_there(world);
}

/* A block that could not be read for a second is not given up because another one could not for
 * half an hour. */
static void each_block_has_its_clock(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_other_block);
}

static void co_several(struct world *world)
{
    struct fs_lacks lacks = {0};
    bool whole[FILES];
    uint64_t leaves[2];

    co_populate_journal(world);
    check_int(co_find_needed(world, 0, leaves, 2), 2);
    world->ram.rotten_at = leaves[0] * BLOCK_SIZE;
    world->ram.rotten_too = leaves[1] * BLOCK_SIZE;
    co_wait_in_vain(world, &lacks);
    check_int(co_attempt(world, &lacks), 0);
    check_int(co_create(world, "new"), 0);
    co_find_lost(world, whole);
    for (unsigned i = 0; i < FILES; i++)
        whole[i] = !whole[i];
    co_fs_abandon(take_ptr(world->fs));
    world->ram.rotten_at = world->ram.rotten_too = 0;
    co_world_mount(world);
    co_goes_on_well(world, whole);
    co_fs_abandon(take_ptr(world->fs));
}

/* What was lacking all the time is given up at once, not one half an hour after the other. */
static void several_wait_together(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_several);
}

/* Mounted after the wait: what can be read is, and nothing is written. */
static void co_is_sealed(struct world *world, struct fs_lacks *lacks)
{
    unsigned whole = 0;
    uint64_t writes;
    int refused;

    co_wait_in_vain(world, lacks);
    check_int(co_attempt(world, lacks), 0);
    writes = world->ram.bytes_written + world->ram.trims;
    refused = co_create(world, "new");
    check(refused == -EROFS || refused == -EBADMSG); /* which, is where the name would be */
    for (unsigned i = 0; i < FILES; i++) {
        struct fs_inode *inode;
        char path[64];
        int r;

        file_path(path, i);
        whole += co_is_whole(world, i);
        if (co_open(world, path, &inode) < 0)
            continue;
        r = co_write_pattern(inode, 0, BLOCK_SIZE, 77); /* in place, where it is mapped */
        check(r == -EROFS || r == -EBADMSG);
        fs_inode_put(inode);
    }
    check(whole < FILES);
    check(co_count_problems(world) > 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    check_int(world->ram.bytes_written + world->ram.trims, writes);
    world->ram.rotten_at = 0;
    check_int(co_fs_checkpoint(world->fs), -ESTALE); /* mount it anew */
    co_fs_abandon(take_ptr(world->fs));
    co_is_all_there(world);
}

static void co_inner(struct world *world)
{
    struct fs_mount_options salvage = {.salvage = true, .gives_up = true};
    struct fs_lacks lacks = {0};
    char *saved = malloc(VOLUME);
    uint64_t inner[2];

    check(saved);
    co_populate_journal(world);
    check_int(co_find_needed(world, 1, inner, 1), 1);
    memcpy(saved, world->ram.memory, VOLUME);
    world->ram.rotten_at = inner[0] * BLOCK_SIZE;
    co_is_sealed(world, &lacks);

    memcpy(world->ram.memory, saved, VOLUME);
    world->ram.rotten_at = inner[0] * BLOCK_SIZE;
    check_int(co_fs_mount(world->io, &world->ram.vdisk, &salvage, &world->fs), 0);
    co_fs_abandon(take_ptr(world->fs));
    check_int(magic_of(world, inner[0]), 0);
    free(saved);
}

/* What hangs on an inner node is not thrown away for a change that needs the node. */
static void an_inner_node_is_not_overwritten(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_inner);
}

static void co_row(struct world *world)
{
    struct fs_lacks lacks = {0};
    uint64_t leaf;

    co_populate_journal(world);
    check_int(co_find_needed(world, 0, &leaf, 1), 1);
    world->ram.rotten_at = leaf * BLOCK_SIZE;
    world->ram.rotten_is_a_row = true;
    co_is_sealed(world, &lacks);
}

/* What cannot be overwritten may come back: it must find its changes then. */
static void what_takes_no_write_seals(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_row);
}

/* A read of the attempt waits long for a column; with it comes back what had been lacking. */
struct slow_vdisk {
    struct vdisk_ops ops;
    const struct vdisk_ops *below;
    struct world *world;
    bool has_met, has_waited;
};

static struct slow_vdisk slow;

static int co_slow_read(struct vdisk *vdisk, void *buffer, uint64_t offset, uint64_t length)
{
    int r;

    if (slow.has_met && !slow.has_waited) {
        slow.has_waited = true;
        check_int(co_sleep_ns(2 * WAIT_NS), 0);
        slow.world->ram.rotten_at = 0;
    }
    r = slow.below->co_read(vdisk, buffer, offset, length);
    slow.has_met |= r == -EIO;
    return r;
}

static void co_attempt_is_long(struct world *world)
{
    struct fs_lacks lacks = {0};
    uint64_t leaf;
    int r;

    co_populate_journal(world);
    check_int(co_find_needed(world, 0, &leaf, 1), 1);
    slow = (struct slow_vdisk){
        .ops = *world->ram.vdisk.ops, .below = world->ram.vdisk.ops, .world = world};
    slow.ops.co_read = co_slow_read;
    world->ram.vdisk.ops = &slow.ops;
    world->ram.rotten_at = leaf * BLOCK_SIZE;
    r = co_attempt(world, &lacks);
    world->ram.vdisk.ops = slow.below;
    check(slow.has_waited);
    check_int(magic_of(world, leaf), FS_NODE_MAGIC); /* nobody tried it again in that time */
    if (r == 0)
        co_fs_abandon(take_ptr(world->fs));
    co_is_all_there(world);
}

static void a_long_attempt_gives_nothing_up(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_attempt_is_long);
}

/* Nor does one that comes long after the last: that was no waiting. And what is back in the very
 * moment in which it would be given up is not. */
static void co_attempts_are_far_apart(struct world *world)
{
    struct fs_lacks lacks = {0};
    uint64_t leaf;

    co_populate_journal(world);
    check_int(co_find_needed(world, 0, &leaf, 1), 1);
    world->ram.rotten_at = leaf * BLOCK_SIZE;
    for (unsigned i = 0; i < WAIT_NS / (10 * SEC); i++) {
        check_int(co_attempt(world, &lacks), -EAGAIN);
        check_int(co_sleep_ns(2 * WAIT_NS), 0);
    }
    slow = (struct slow_vdisk){
        .ops = *world->ram.vdisk.ops, .below = world->ram.vdisk.ops, .world = world};
    slow.ops.co_read = co_slow_read;
    world->ram.vdisk.ops = &slow.ops;
    check_int(co_attempt(world, &lacks), -EAGAIN);
    world->ram.vdisk.ops = slow.below;
    check_int(magic_of(world, leaf), FS_NODE_MAGIC);
    check_int(co_attempt(world, &lacks), 0);
    co_fs_abandon(take_ptr(world->fs));
    co_is_all_there(world);
}

static void time_without_attempts_does_not_count(void **state)
{
    (void)state;
    world_run(VOLUME, 1, co_attempts_are_far_apart);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_block_costs_what_hangs_on_it),
        cmocka_unit_test(what_comes_back_is_as_it_should_be),
        cmocka_unit_test(refs_lost_at_a_replay_cost_no_data),
        cmocka_unit_test(a_map_that_comes_back_has_room),
        cmocka_unit_test(sessions_are_waited_for),
        cmocka_unit_test(each_block_has_its_clock),
        cmocka_unit_test(several_wait_together),
        cmocka_unit_test(an_inner_node_is_not_overwritten),
        cmocka_unit_test(what_takes_no_write_seals),
        cmocka_unit_test(a_node_costs_exactly_what_hangs_on_it),
        cmocka_unit_test(copies_are_there_for_this),
        cmocka_unit_test(journal_hole_is_not_a_torn_tail),
        cmocka_unit_test(checker_finds_wrong_counts),
        cmocka_unit_test(times_of_a_lost_leaf),
        cmocka_unit_test(times_wait_for_their_leaf),
        cmocka_unit_test(a_map_is_looked_at_again),
        cmocka_unit_test(what_was_freed_waits_for_its_map),
        cmocka_unit_test(references_are_looked_at_again),
        cmocka_unit_test(a_long_attempt_gives_nothing_up),
        cmocka_unit_test(time_without_attempts_does_not_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
