/* Random schedules of mirrors, and of parity 2+2, on fake stores: breaks, hangs, slow disks,
 * failing media, changes of owner while the old one still believes in itself, commands that void
 * proposals. After each run everything heals, and throughout a block shows the last acknowledged
 * write, or one that was under way and then for good.
 *
 * test_mirror_random [first seed [runs]]; S2D_TEST_LOG=1 shows what the mirrors say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "tests/unit/mirror_world.h"

#define BLOCKS (WORLD_SLABS * WORLD_SLAB_BLOCKS)
#define CLIENTS 6
#define MAYBE_MAX 8

/* What a block may show: the last value known, or one of those whose writes ended without an
 * answer. A reader that saw one of them settles it: the others are gone for good. */
struct expectation {
    uint64_t known;
    uint64_t maybe[MAYBE_MAX];
    unsigned maybe_count;
    bool busy; /* one client at a time */
};

struct play {
    struct world *world;
    struct owner *owner; /* the one that clients turn to */
    struct expectation blocks[BLOCKS];
    uint64_t stamp;
    bool stop;
    unsigned running;
    unsigned writes, reads, moves;
};

static uint64_t draw(struct play *play, uint64_t below)
{
    return io_random(play->world->io) % below;
}

/* ---- clients ---- */

static void fill(char *buffer, uint64_t stamp, uint32_t count)
{
    uint64_t *words = (uint64_t *)buffer;

    for (size_t i = 0; i < (size_t)count * BLOCK_SIZE / 8; i++)
        words[i] = stamp;
}

static uint64_t stamp_of(const char *block)
{
    const uint64_t *words = (const uint64_t *)block;

    for (size_t i = 1; i < BLOCK_SIZE / 8; i++)
        assert_int_equal(words[i], words[0]);
    return words[0];
}

static void saw(struct play *play, uint64_t block, uint64_t stamp)
{
    struct expectation *expect = &play->blocks[block];
    bool allowed = stamp == expect->known;

    for (unsigned i = 0; i < expect->maybe_count; i++)
        allowed = allowed || expect->maybe[i] == stamp;
    if (!allowed)
        print_error("block %llu shows %llu, known %llu, %u maybe\n", (unsigned long long)block,
                    (unsigned long long)stamp, (unsigned long long)expect->known,
                    expect->maybe_count);
    assert_true(allowed);
    expect->known = stamp;
    expect->maybe_count = 0;
}

static void wrote(struct play *play, uint64_t block, uint64_t stamp, int result)
{
    struct expectation *expect = &play->blocks[block];

    if (result == 0) {
        expect->known = stamp;
        expect->maybe_count = 0;
        return;
    }
    assert_true(result == -ESTALE || result == -ENOSPC);
    assert_true(expect->maybe_count < MAYBE_MAX);
    if (result == -ESTALE)
        expect->maybe[expect->maybe_count++] = stamp;
}

static bool take_blocks(struct play *play, uint64_t *ret_block, uint32_t *ret_count)
{
    uint64_t block = draw(play, BLOCKS);
    uint32_t count = draw(play, 4) == 0 ? 1 + (uint32_t)draw(play, 12) : 1;

    count = (uint32_t)MIN(count, BLOCKS - block);
    for (uint32_t i = 0; i < count; i++) {
        if (play->blocks[block + i].busy || play->blocks[block + i].maybe_count >= MAYBE_MAX - 1)
            return false;
    }
    for (uint32_t i = 0; i < count; i++)
        play->blocks[block + i].busy = true;
    *ret_block = block;
    *ret_count = count;
    return true;
}

static int co_request(struct play *play, struct vdisk *vdisk, char *buffer, uint64_t block,
                      uint32_t count)
{
    uint64_t offset = block * BLOCK_SIZE, bytes = (uint64_t)count * BLOCK_SIZE;
    uint64_t stamp = 0, kind = draw(play, 10);
    int r;

    if (kind < 4) {
        r = co_vdisk_read(vdisk, buffer, offset, bytes);
        assert_true(r == 0 || r == -ESTALE);
        for (uint32_t i = 0; r == 0 && i < count; i++)
            saw(play, block + i, stamp_of(buffer + (size_t)i * BLOCK_SIZE));
        play->reads += r == 0;
        return r;
    }
    if (kind < 9) {
        stamp = ++play->stamp;
        fill(buffer, stamp, count);
        r = co_vdisk_write(vdisk, buffer, offset, bytes, (struct client_request){0});
    } else {
        r = co_vdisk_trim(vdisk, offset, bytes, (struct client_request){0});
    }
    for (uint32_t i = 0; i < count; i++)
        wrote(play, block + i, stamp, r);
    play->writes += r == 0;
    return r;
}

static void client_run(void *arg)
{
    struct play *play = arg;
    size_t bytes = 12 * BLOCK_SIZE;
    char *buffer = co_buffer_get(play->world->buffers, bytes);

    while (!play->stop) {
        uint64_t block;
        uint32_t count;

        if (play->owner->mirror && !mirror_stopped(play->owner->mirror) &&
            take_blocks(play, &block, &count)) {
            (void)co_request(play, mirror_vdisk(play->owner->mirror), buffer, block, count);
            for (uint32_t i = 0; i < count; i++)
                play->blocks[block + i].busy = false;
        }
        co_sleep_ns(draw(play, 2 * MS));
    }
    buffer_put(play->world->buffers, buffer, bytes);
    play->running--;
}

/* ---- faults ---- */

static struct fake_column *any_column(struct play *play)
{
    return &play->world->columns[draw(play, play->world->config->width)];
}

static void void_proposals(struct play *play)
{
    world_publish(play->world, world_edit(play->world));
}

/* The old owner hears of it late, or is cut off; its lease ends before the new one serves. */
static void move_owner(struct play *play)
{
    struct world *world = play->world;

    if (world->owner_count == ARRAY_SIZE(world->owners))
        return;
    if (draw(play, 2) == 0)
        play->owner->cut_off = true;
    play->owner->delay_ns = draw(play, 300 * MS);
    play->owner->lease = false;
    play->owner = world_take_over(world, 1 + draw(play, 3));
    play->owner->delay_ns = draw(play, 20 * MS);
    play->moves++;
    /* A node without a lease stops, by and by: at the latest when a client of its asks. */
    for (unsigned i = 0; i + 1 < world->owner_count; i++) {
        if (draw(play, 2) == 0)
            mirror_stop(world->owners[i].mirror);
    }
}

static void replace_column(struct play *play)
{
    struct world *world = play->world;
    struct vdisk_config *config;
    struct column_config *column;
    uint32_t slab = (uint32_t)draw(play, WORLD_SLABS), index = (uint32_t)draw(play, 3);

    config = world_edit(world);
    column = &config->columns[slab * config->width + index % config->width];
    if (column->disk == 0 || column->state != COLUMN_STALE) {
        vdisk_config_put(config);
        return;
    }
    column->where.generation = ++world->raft_index;
    column->stale_epoch = 0;
    world_publish(world, config);
}

static void fault(struct play *play)
{
    struct fake_column *column = any_column(play);

    switch (draw(play, 14)) {
    case 0:
    case 1:
    case 2:
        fake_column_set_reachable(column, false);
        break;
    case 3:
    case 4:
        fake_column_set_reachable(column, true);
        break;
    case 5:
        fake_column_set_hang(column, !column->hang);
        break;
    case 6:
        column->latency_ns = draw(play, 20) == 0 ? 4 * SEC : draw(play, 30 * MS);
        break;
    case 7:
        column->append_error = draw(play, 3) == 0 ? -EIO : 0;
        break;
    case 8:
        void_proposals(play);
        break;
    case 9:
        move_owner(play);
        break;
    case 10:
        replace_column(play);
        break;
    case 11:
        play->world->raft_delay_ns = draw(play, 100 * MS);
        break;
    case 12:
        column->read_ns = draw(play, 20) == 0 ? SEC : draw(play, 50 * MS);
        break;
    case 13:
        column->read_error = draw(play, 3) == 0 ? (draw(play, 2) ? -ESTALE : -ETIMEDOUT) : 0;
        break;
    }
}

static void heal_all(struct play *play)
{
    for (unsigned i = 0; i < WORLD_DISKS; i++) {
        struct fake_column *column = &play->world->columns[i];

        column->append_error = 0;
        column->read_error = 0;
        column->read_ns = 0;
        column->latency_ns = 100 * US;
        fake_column_set_hang(column, false);
        fake_column_set_reachable(column, true);
    }
}

static void tell_line(void *arg, const char *line)
{
    (void)arg;
    print_error("%s\n", line);
}

static void check_rows(struct play *play)
{
    struct mirror_scrub found = {0};

    assert_int_equal(co_mirror_scrub(play->owner->mirror, tell_line, NULL, &found), 0);
    assert_int_equal(found.rotten + found.different + found.unread, 0);
}

static void play_random(struct world *world)
{
    struct play *play = calloc(1, sizeof(*play));
    unsigned faults;

    assert_non_null(play);
    play->world = world;
    play->owner = &world->owners[0];
    for (unsigned i = 0; i < CLIENTS; i++) {
        play->running++;
        assert_int_equal(co_group_spawn(&world->coroutines, world->io, "client", client_run, play),
                         0);
    }
    faults = (unsigned)draw(play, 60);
    for (unsigned i = 0; i < faults; i++) {
        co_sleep_ns(draw(play, draw(play, 4) == 0 ? 2 * SEC : 100 * MS));
        fault(play);
    }
    heal_all(play);
    assert_true(co_world_heal(world));
    co_sleep_ns(2 * SEC);
    play->stop = true;
    for (unsigned i = 0; i < world->owner_count; i++) {
        if (&world->owners[i] != play->owner)
            mirror_stop(world->owners[i].mirror);
    }
    for (int i = 0; i < 10000 && play->running > 0; i++)
        co_sleep_ns(MS);
    assert_int_equal(play->running, 0);
    for (uint64_t block = 0; block < BLOCKS; block++) {
        char *buffer = co_buffer_get(world->buffers, BLOCK_SIZE);

        assert_int_equal(co_vdisk_read(mirror_vdisk(play->owner->mirror), buffer,
                                       block * BLOCK_SIZE, BLOCK_SIZE),
                         0);
        saw(play, block, stamp_of(buffer));
        buffer_put(world->buffers, buffer, BLOCK_SIZE);
    }
    if (world->config->data_columns == 1)
        world_check_copies(world);
    else
        check_rows(play);
    assert_true(play->reads + play->writes > 0);
    if (getenv("S2D_TEST_LOG"))
        print_message("%u reads, %u writes, %u moves, %u faults\n", play->reads, play->writes,
                      play->moves, faults);
    free(play);
}

static uint64_t first_seed = 1, runs = 25;

static void run_seed(uint64_t seed, bool parity)
{
    struct world_options options = {
        .seed = seed,
        .width = parity ? 4 : 1 + (uint32_t)(seed * 7 % 5 + 1) / 2,
        .slabs = (uint32_t)(seed % 4),
        .data_columns = parity ? 2 : 0,
    };

    print_message("seed %llu width %u\n", (unsigned long long)seed, options.width);
    world_run(&options, play_random);
}

static void test_random_schedules(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + runs; seed++)
        run_seed(seed, false);
}

static void test_random_schedules_of_parity(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + runs; seed++)
        run_seed(seed, true);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_schedules),
        cmocka_unit_test(test_random_schedules_of_parity),
    };

    if (argc > 1)
        first_seed = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        runs = strtoull(argv[2], NULL, 0);
    else if (argc > 1)
        runs = 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
