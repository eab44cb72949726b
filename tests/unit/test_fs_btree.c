/* The trees against a table: records of random puts and deletes, with nodes that are not in RAM and
 * checkpoints that freeze what is being changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/fs_internal.h"
#include "tests/unit/fs_harness.h"

#define TREE FS_TREE_QUOTAS /* nobody else uses it, nor does the checker look at it */
#define KEYS 20000          /* three levels */
#define RECORD_MAX 40
#define RECORDS 300 /* between two mounts */
#define ROUNDS 25
#define ABSENT UINT16_MAX

struct change {
    unsigned key;
    uint16_t size; /* ABSENT: a delete */
    uint8_t fill;
};

struct table {
    struct world *world;
    uint16_t size[KEYS];
    uint8_t fill[KEYS];
    bool is_done;
};

static uint64_t chance(struct world *world, uint64_t below)
{
    return ram_vdisk_random(&world->ram) % below;
}

static struct fs_key key_of(unsigned key)
{
    return (struct fs_key){.object = key / 64, .kind = FS_KIND_EXTENT, .offset = key % 64};
}

/* ---- a record, as txn.c makes one ---- */

static int prepare(struct fs *fs, const struct change *changes, unsigned count)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < count; i++) {
        struct fs_key key = key_of(changes[i].key);

        r = tree_prepare(fs, TREE, &key);
    }
    return r;
}

static void co_prepare(struct fs *fs, const struct change *changes, unsigned count)
{
    for (;;) {
        int r;

        check_int(co_txn_room(fs, TXN_SHRINKS), 0);
        r = prepare(fs, changes, count);
        if (r == 0)
            return;
        check_int(r, -EAGAIN);
        check_int(co_node_load(fs), 0);
    }
}

static void co_record(struct table *table, const struct change *changes, unsigned count)
{
    struct fs *fs = table->world->fs;
    uint8_t value[FS_VALUE_MAX];

    co_prepare(fs, changes, count);
    for (unsigned i = 0; i < count; i++) {
        const struct change *change = &changes[i];
        struct fs_key key = key_of(change->key);

        if (change->size == ABSENT) {
            tree_delete(fs, TREE, &key);
        } else {
            memset(value, change->fill, change->size);
            tree_put(fs, TREE, &key, value, change->size);
        }
        table->size[change->key] = change->size;
        table->fill[change->key] = change->fill;
    }
    for (unsigned i = 0; i < count; i++) {
        struct fs_key key = key_of(changes[i].key);

        if (changes[i].size == ABSENT)
            tree_tidy(fs, TREE, &key);
    }
}

/* ---- chance ---- */

enum mood { MIXED, EMPTIES, LARGE, SMALL, IN_ORDER, IN_AND_OUT, MOODS };

static bool is_delete(struct world *world, enum mood mood)
{
    if (mood == EMPTIES)
        return chance(world, 10) < 9;
    return mood == IN_AND_OUT ? chance(world, 2) : chance(world, 10) < 3;
}

static uint16_t value_size(struct world *world, enum mood mood)
{
    if (mood == LARGE)
        return FS_VALUE_MAX - chance(world, 3);
    if (mood == SMALL)
        return 16;
    return chance(world, 3) ? chance(world, 40) : chance(world, FS_VALUE_MAX + 1);
}

/* Some records on all keys or on a part of them, in changing moods. */
static void co_records(struct table *table)
{
    struct world *world = table->world;
    enum mood mood = chance(world, MOODS);
    unsigned first = chance(world, KEYS),
             span = chance(world, 2) ? KEYS : 300 + chance(world, 3000);
    struct change changes[RECORD_MAX];

    for (unsigned record = 0; record < RECORDS; record++) {
        unsigned count = 1 + chance(world, RECORD_MAX);

        if (record % 50 == 0)
            mood = chance(world, MOODS);
        for (unsigned i = 0; i < count; i++) {
            unsigned at = mood == IN_ORDER ? record * RECORD_MAX + i : chance(world, span);

            changes[i].key = (first + at) % KEYS;
            changes[i].size = is_delete(world, mood) ? ABSENT : value_size(world, mood);
            changes[i].fill = chance(world, 256);
        }
        co_record(table, changes, count);
        if (chance(world, 20) == 0)
            co_yield ();
    }
}

/* ---- comparing ---- */

static void check_item(const struct table *table, unsigned key, const struct tree_item *item)
{
    struct fs_key wanted = key_of(key);

    check_int(fs_key_compare(&item->key, &wanted), 0);
    check_int(item->size, table->size[key]);
    for (size_t i = 0; i < item->size; i++)
        check_int(((const uint8_t *)item->value)[i], table->fill[key]);
}

static void co_compare(const struct table *table)
{
    struct fs *fs = table->world->fs;
    struct fs_key from = {0}, to = key_of(KEYS);
    struct tree_item item;

    for (unsigned key = 0; key < KEYS; key++) {
        if (table->size[key] == ABSENT)
            continue;
        check_int(CO_RETRY(fs, tree_next(fs, TREE, &from, &item)), 0);
        check_item(table, key, &item);
        from = item.key;
        from.offset++;
    }
    check_int(CO_RETRY(fs, tree_next(fs, TREE, &from, &item)), -ENOENT);
    for (unsigned key = KEYS; key-- > 0;) {
        if (table->size[key] == ABSENT)
            continue;
        check_int(CO_RETRY(fs, tree_previous(fs, TREE, &to, &item)), 0);
        check_item(table, key, &item);
        to = key_of(key - 1u);
    }
}

/* ---- the test ---- */

static void co_checkpoints(void *arg)
{
    struct table *table = arg;

    while (!table->is_done) {
        check_int(co_fs_checkpoint(table->world->fs), 0);
        for (unsigned i = 0; i < 20; i++)
            co_yield ();
    }
}

static void co_round(struct table *table)
{
    struct world *world = table->world;
    struct co_group group;

    world->ram.delay_max = 3;
    table->is_done = false;
    co_group_init(&group);
    check_int(co_group_spawn(&group, world->io, "checkpoints", co_checkpoints, table), 0);
    co_records(table);
    table->is_done = true;
    co_group_wait(&group);
    world->ram.delay_max = 0;
}

static void co_delete_all(struct table *table)
{
    struct fs *fs = table->world->fs;

    for (unsigned key = 0; key < KEYS; key++)
        co_record(table, &(struct change){.key = key, .size = ABSENT}, 1);
    check_int(fs->trees[TREE].address, 0);
    check_int(fs->trees[TREE].nodes, 0);
}

static void co_random(struct world *world)
{
    struct table *table = calloc(1, sizeof(*table));

    check(table);
    table->world = world;
    memset(table->size, 0xff, sizeof(table->size));
    co_world_fresh(world);
    for (unsigned round = 0; round < ROUNDS; round++) {
        co_round(table);
        if (round % 5 == 4)
            co_compare(table);
        co_world_remount(world);
    }
    co_compare(table);
    co_delete_all(table);
    free(table);
    co_world_done(world);
}

static void tree_is_the_table(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++)
        world_run(512 * MIB, seed, co_random);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tree_is_the_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
