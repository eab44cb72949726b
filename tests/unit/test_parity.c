/* What parity promises beyond a mirror (resiliency/README.md, 6 and 8), on fake stores: two data
 * columns and two of parity, disk i + 1 has column i. Block n of the first unit is in row n of
 * column 0, block PARITY_UNIT_BLOCKS + n beside it in column 1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "resiliency/erasure.h"
#include "resiliency/parity_layout.h"
#include "tests/unit/mirror_world.h"

#define BESIDE(block) (PARITY_UNIT_BLOCKS + (block))

static void count_line(void *arg, const char *line)
{
    (void)arg;
    (void)line;
}

/* Every row is encoded. */
static void check_rows(struct owner *owner)
{
    struct mirror_scrub found = {0};

    assert_int_equal(co_mirror_scrub(owner->mirror, count_line, NULL, &found), 0);
    assert_true(found.copies > 0);
    assert_int_equal(found.rotten + found.different + found.unread, 0);
}

static void run(uint64_t seed, void (*prepare)(struct world *world),
                void (*test)(struct world *world))
{
    world_run(
        &(struct world_options){
            .seed = seed, .width = 4, .slabs = 1, .data_columns = 2, .prepare = prepare},
        test);
}

/* ---- I8: what a stale column holds is nobody's old contents ---- */

static void write_beside_a_stale_column(struct world *world)
{
    struct owner *owner = &world->owners[0];

    assert_int_equal(co_owner_write(owner, 0, 'a'), 0);
    assert_int_equal(co_owner_write(owner, BESIDE(0), 'b'), 0);
    fake_column_set_reachable(&world->columns[1], false);
    assert_int_equal(co_owner_write(owner, BESIDE(0), 'c'), 0); /* disk 2 is left with 'b' */
    mirror_pause_resync(owner->mirror, true);
    fake_column_set_reachable(&world->columns[1], true);
    co_sleep_ns(SEC);
    assert_int_equal(mirror_status(owner->mirror).catching_disks, 1);

    assert_int_equal(co_owner_write(owner, 0, 'd'), 0); /* it would be the nearest to encode with */
    assert_int_equal(co_owner_read(owner, BESIDE(0)), 'c');
    mirror_pause_resync(owner->mirror, false);
    assert_true(co_world_heal(world));
    assert_int_equal(co_owner_read(owner, 0), 'd');
    assert_int_equal(co_owner_read(owner, BESIDE(0)), 'c');
    check_rows(owner);
}

static void a_stale_column_gives_no_old_contents(void **state)
{
    (void)state;
    run(1, NULL, write_beside_a_stale_column);
}

struct slow_write {
    struct owner *owner;
    bool done;
};

static void slow_write_run(void *arg)
{
    struct slow_write *write = arg;

    assert_int_equal(co_owner_write(write->owner, 1, 'd'), 0);
    write->done = true;
}

static void write_while_parity_returns(struct world *world)
{
    struct owner *owner = &world->owners[0];
    struct slow_write write = {owner, false};

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    assert_int_equal(co_owner_write(owner, BESIDE(1), 'b'), 0);
    co_sleep_ns(100 * MS);
    fake_column_set_reachable(&world->columns[1], false);
    fake_column_set_reachable(&world->columns[3], false);
    assert_int_equal(co_owner_write(owner, 0, 'c'), 0);
    assert_int_equal(co_owner_write(owner, BESIDE(0), 'c'), 0);
    assert_false(world_in_sync(world, 2));
    assert_false(world_in_sync(world, 4));

    world->columns[2].read_ns = SEC; /* the old parity, to which the delta is added */
    assert_int_equal(co_group_spawn(&world->coroutines, world->io, "write", slow_write_run, &write),
                     0);
    co_sleep_ns(100 * MS);
    fake_column_set_reachable(&world->columns[3], true);
    while (!write.done)
        co_sleep_ns(MS);
    world->columns[2].read_ns = 0;
    fake_column_set_reachable(&world->columns[1], true);
    assert_true(co_world_heal(world));
    assert_int_equal(co_owner_read(owner, 1), 'd');
    assert_int_equal(co_owner_read(owner, BESIDE(1)), 'b');
    check_rows(owner);
}

/* It gets what is written from now on, and the row may be none of those that it is compared by: so
 * what it gets must be the parity, though nobody read its old one. */
static void parity_that_returns_during_a_write_is_right(void **state)
{
    (void)state;
    run(5, NULL, write_while_parity_returns);
}

/* ---- reading ---- */

struct slow_read {
    struct owner *owner;
    int result;
    bool done;
};

static void slow_read_run(void *arg)
{
    struct slow_read *read = arg;

    read->result = co_owner_read(read->owner, BESIDE(1));
    read->done = true;
}

static void trim_run(void *arg)
{
    struct slow_write *write = arg;

    assert_int_equal(co_vdisk_trim(mirror_vdisk(write->owner->mirror), 0,
                                   BESIDE(PARITY_UNIT_BLOCKS) * BLOCK_SIZE,
                                   (struct client_request){0}),
                     0);
    write->done = true;
}

static void decode_during_a_trim(struct world *world)
{
    struct owner *owner = &world->owners[0];
    struct slow_write trim = {owner, false};
    struct slow_read read = {owner, 0, false};

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    assert_int_equal(co_owner_write(owner, BESIDE(1), 'b'), 0);
    world->columns[1].read_error = -ETIMEDOUT; /* of the column itself, before it is decoded */
    world->columns[1].read_ns = 50 * MS;
    assert_int_equal(co_group_spawn(&world->coroutines, world->io, "read", slow_read_run, &read),
                     0);
    co_sleep_ns(10 * MS);
    fake_column_set_hang(&world->columns[0], true); /* which is behind parity then */
    assert_int_equal(co_group_spawn(&world->coroutines, world->io, "trim", trim_run, &trim), 0);
    co_sleep_ns(500 * MS);
    fake_column_set_hang(&world->columns[0], false);
    while (!trim.done || !read.done)
        co_sleep_ns(MS);
    assert_int_equal(read.result, 0);
}

/* I7: of a row that a change is half-way in, columns do not belong together. */
static void a_decoding_read_waits(void **state)
{
    (void)state;
    run(7, NULL, decode_during_a_trim);
}

static void read_a_damaged_column(struct world *world)
{
    struct owner *owner = &world->owners[0];

    assert_int_equal(co_owner_write(owner, 0, 'a'), 0);
    assert_int_equal(co_owner_write(owner, BESIDE(0), 'b'), 0);
    world->columns[1].read_error = -ESTALE;
    assert_int_equal(co_owner_read(owner, BESIDE(0)), 'b');
}

/* A store refuses what it may have lost before its owner hears that the column is stale: that is
 * not the end of the session. */
static void a_refused_read_is_decoded(void **state)
{
    (void)state;
    run(6, NULL, read_a_damaged_column);
}

/* ---- I6: a takeover ---- */

static void plant(struct world *world, uint32_t column, uint64_t seq, uint32_t touched, char fill)
{
    struct fake_column *fake = &world->columns[column];

    fake_column_plant(fake, world_column(world, 0, column)->where, 0, (uint16_t)column, 0,
                      (struct log_position){4, seq}, fill,
                      parity_address(world->config, 0, column, 0));
    fake_column_touched(fake, touched);
}

/* Parity of blocks that are uniform is uniform. */
static void encode(char first, char second, char *ret_parity)
{
    char data[2] = {first, second};
    const void *from[] = {&data[0], &data[1]};
    void *to[] = {&ret_parity[0], &ret_parity[1]};
    struct erasure *erasure;

    assert_int_equal(erasure_new(2, 2, &erasure), 0);
    erasure_encode(erasure, 1, from, to);
    erasure_free(erasure);
}

/* Row 0: a write of column 0 is complete, and of a later one of the whole row nothing but column
 * 0's record has landed. */
static void plant_torn_row(struct world *world)
{
    char parity[2];

    encode('o', 0, parity);
    plant(world, 0, 8, BIT(0) | BIT(2) | BIT(3), 'o');
    plant(world, 2, 8, BIT(0) | BIT(2) | BIT(3), parity[0]);
    plant(world, 3, 8, BIT(0) | BIT(2) | BIT(3), parity[1]);
    plant(world, 0, 9, BIT(0) | BIT(1) | BIT(2) | BIT(3), 'n');
}

static void torn_row_is_whole_again(struct world *world)
{
    struct owner *owner = &world->owners[0];
    int seen = co_owner_read(owner, 0);

    assert_int_equal(seen, 'o'); /* the later write: a block of two that nobody can decode */
    assert_int_equal(co_owner_read(owner, BESIDE(0)), 0);
    check_rows(owner);
    fake_column_set_reachable(&world->columns[0], false);
    assert_int_equal(co_owner_write(owner, 1, 'x'), 0);
    assert_false(world_in_sync(world, 1));
    assert_int_equal(co_owner_read(owner, 0), seen);
}

/* A column that has the version that is taken may have a later one on top of it, so it is written
 * again like all others. */
static void a_column_that_has_more_is_written_again(void **state)
{
    (void)state;
    run(2, plant_torn_row, torn_row_is_whole_again);
}

#define TRIMMED_ROWS (2 * PARITY_UNIT_BLOCKS)
#define BEHIND_TRIM (2 * TRIMMED_ROWS) /* in column 0's next row */

/* Of a trim of whole rows nothing but one column's record has landed. */
static void trim_is_finished(struct world *world)
{
    struct owner *owner = &world->owners[0];
    struct fake_column *fake = &world->columns[1];

    assert_int_equal(co_owner_write(owner, 0, 'a'), 0);
    assert_int_equal(co_owner_write(owner, BESIDE(1), 'b'), 0);
    assert_int_equal(co_owner_write(owner, BEHIND_TRIM, 'c'), 0);
    co_owner_end(owner);
    fake_column_plant(fake, world_column(world, 0, 1)->where, 0, 1, 0,
                      (struct log_position){fake->session, fake->durable_seq + 1}, 0, 0);
    fake_column_trims(fake, TRIMMED_ROWS);
    fake_column_touched(fake, BIT(0) | BIT(1) | BIT(2) | BIT(3));

    owner = world_take_over(world, 2);
    assert_int_equal(co_owner_read(owner, 0), 0);
    assert_int_equal(co_owner_read(owner, BESIDE(1)), 0);
    assert_int_equal(co_owner_read(owner, BEHIND_TRIM), 'c');
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(world->columns[i].durable_seq, 1); /* however many rows */
    assert_int_equal(mirror_status(owner->mirror).rewritten_blocks, 4 * TRIMMED_ROWS);
    check_rows(owner);
}

/* It says what all of the rows is. Undone, it would be written again as data, a piece at a time and
 * more than a log may hold. */
static void a_trim_of_rows_is_finished(void **state)
{
    (void)state;
    run(4, NULL, trim_is_finished);
}

/* ---- I8: joining ---- */

static void join_slowly(struct world *world)
{
    struct owner *owner = &world->owners[0];
    const struct fake_column *joining = &world->columns[1];
    unsigned proposals = world->in_sync_proposals;

    assert_int_equal(co_owner_write(owner, BESIDE(0), 'a'), 0);
    fake_column_set_reachable(&world->columns[1], false);
    assert_int_equal(co_owner_write(owner, BESIDE(0), 'b'), 0);
    world->raft_delay_ns = SEC;
    fake_column_set_reachable(&world->columns[1], true);
    while (world->in_sync_proposals == proposals)
        co_sleep_ns(MS);
    assert_true(joining->durable_seq > 0); /* the copy */
    assert_int_equal(joining->marked.session, joining->session);
    assert_true(joining->marked.seq >= joining->durable_seq);
    assert_true(co_world_heal(world));
    check_rows(owner);
}

/* A write that was committed while the column was away touched it, and the column has no record of
 * it: not even a copy, where a trim left what was zeros already. For a takeover that does not know
 * it to be committed that is one witness less, and one too few when two others are gone. So the
 * column has the watermark, for good, before anybody counts on it. */
static void a_column_joins_with_the_watermark(void **state)
{
    (void)state;
    run(3, NULL, join_slowly);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stale_column_gives_no_old_contents),
        cmocka_unit_test(parity_that_returns_during_a_write_is_right),
        cmocka_unit_test(a_decoding_read_waits),
        cmocka_unit_test(a_refused_read_is_decoded),
        cmocka_unit_test(a_column_that_has_more_is_written_again),
        cmocka_unit_test(a_trim_of_rows_is_finished),
        cmocka_unit_test(a_column_joins_with_the_watermark),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
