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

/* How many files are whole. What can be read must be right. */
static unsigned co_count_files(struct world *world)
{
    unsigned whole = 0;
    char path[64];

    for (unsigned i = 0; i < FILES; i++) {
        struct fs_inode *inode;
        uint8_t data[5000];
        uint64_t length;
        int r;

        file_path(path, i);
        r = co_open(world, path, &inode);
        check(r == 0 || r == -EBADMSG);
        if (r < 0)
            continue;
        r = co_fs_read(inode, data, 0, sizeof(data), &length);
        check(r == 0 || r == -EBADMSG);
        fs_inode_put(inode);
        for (unsigned at = 0; r == 0 && at < length; at++)
            check_int(data[at], pattern_byte(i + 1, at));
        whole += r == 0 && length == sizeof(data);
    }
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

/* Of a volume with this seed the vdisk itself cannot read the block. */
#define NO_RIGHT_COPY 2

static void co_each_block(struct world *world)
{
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
        r = co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_block_costs_what_hangs_on_it),
        cmocka_unit_test(copies_are_there_for_this),
        cmocka_unit_test(journal_hole_is_not_a_torn_tail),
        cmocka_unit_test(checker_finds_wrong_counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
