/* The log gathers, keeps order, keeps an eighth for those who make room, and tells a torn tail from
 * a hole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "cache-tier/log_replay.h"
#include "pool/disk.h"
#include "s2d/base/checksum.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "tests/unit/store_rig.h"

#define DISK_BYTES (16 * MIB)
#define LOG_BYTES (4 * MIB)

struct item {
    struct log_item item;
    uint64_t tag; /* goes as the hash of an image record: any number */
    uint8_t *data;
    bool done;
    int result;
    unsigned order; /* among those done */
    bool withdraw;
};

static unsigned done_count;

static bool item_encode(struct log_item *item, void *to)
{
    struct item *mine = container_of(item, struct item, item);
    struct log_image_record *record = to;

    if (mine->withdraw)
        return false;
    record->head.kind = LOG_IMAGE;
    record->head.bytes = sizeof(*record);
    record->head.data_blocks = 1;
    record->target = mine->tag;
    record->hash = hash64(item->data, BLOCK_SIZE);
    return true;
}

static void item_done(struct log_item *item, int result)
{
    struct item *mine = container_of(item, struct item, item);

    assert_false(mine->done);
    mine->done = true;
    mine->result = result;
    mine->order = done_count++;
}

static void item_init(struct item *item, uint64_t tag)
{
    static const struct log_item_ops ops = {.encode = item_encode, .done = item_done};

    memset(item, 0, sizeof(*item));
    item->tag = tag;
    item->data = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    memset(item->data, (int)tag, BLOCK_SIZE);
    item->item.ops = &ops;
    item->item.header_bytes = sizeof(struct log_image_record);
    item->item.data = item->data;
    item->item.data_blocks = 1;
}

/* ---- what is read back ---- */

struct seen {
    uint64_t tags[1400]; /* small: it lives on coroutines' stacks */
    size_t count;
    uint64_t last_position, blocks;
    bool contiguous;
};

static void see_record(void *arg, const struct log_record *record, const struct log_place *place)
{
    struct seen *seen = arg;

    (void)place;
    assert_int_equal(record->kind, LOG_IMAGE);
    assert_true(seen->count < ARRAY_SIZE(seen->tags));
    seen->tags[seen->count++] = ((const struct log_image_record *)record)->target;
}

static void see_batch(void *arg, uint64_t position, uint32_t blocks)
{
    struct seen *seen = arg;

    (void)position;
    seen->blocks += blocks;
}

static const struct log_replay_ops see_ops = {.record = see_record, .batch = see_batch};

static struct log *co_open_log(struct disk *disk, struct seen *seen, struct log_found *found)
{
    struct log_region region = log_region_of(disk, NULL);
    struct log *log;

    memset(seen, 0, sizeof(*seen));
    assert_int_equal(co_log_replay(&region, &see_ops, seen, found), 0);
    assert_int_equal(log_new(&region, &found->start, &log), 0);
    return log;
}

static struct disk *co_open_disk(struct io *io)
{
    struct disk *disk = NULL;

    assert_int_equal(co_disk_open(io, RIG_PATH, NULL, NULL, &disk), 0);
    return disk;
}

static void with_disk(void (*fn)(struct io *io, void *arg), void *arg)
{
    struct rig rig;

    done_count = 0;
    rig_new(&rig, 1, DISK_BYTES, LOG_BYTES);
    assert_true(rig_run(&rig, fn, arg));
    rig_done(&rig);
}

/* ---- gathering ---- */

static void gather_main(struct io *io, void *arg)
{
    struct disk *disk = co_open_disk(io);
    struct item items[40];
    struct seen seen;
    struct log_found found;
    struct log *log = co_open_log(disk, &seen, &found);

    (void)arg;
    assert_int_equal(found.records, 0);
    for (size_t i = 0; i < ARRAY_SIZE(items); i++)
        item_init(&items[i], 100 + i);
    log_append(log, &items[0].item, LOG_NORMAL);
    assert_false(items[0].done);
    co_yield ();
    co_yield (); /* the first has left at the turn's end; these come while it is under way */
    assert_int_equal(co_sleep_ns(1), 0);
    for (size_t i = 1; i < ARRAY_SIZE(items); i++)
        log_append(log, &items[i].item, LOG_NORMAL);
    co_log_drain(log);
    assert_int_equal(log_figures(log).batches, 2);
    for (size_t i = 0; i < ARRAY_SIZE(items); i++) {
        assert_int_equal(items[i].result, 0);
        assert_int_equal(items[i].order, i);
        free(items[i].data);
    }
    log_free(log);

    log = co_open_log(disk, &seen, &found);
    assert_int_equal(seen.count, ARRAY_SIZE(items));
    for (size_t i = 0; i < seen.count; i++)
        assert_int_equal(seen.tags[i], 100 + i);
    assert_false(found.torn);
    assert_false(found.damaged);
    log_free(log);
    disk_close(disk);
}

/* Commit at once when idle, else gather what came meanwhile: no timer decides. */
static void what_comes_meanwhile_is_gathered(void **state)
{
    (void)state;
    with_disk(gather_main, NULL);
}

static void refuse_main(struct io *io, void *arg)
{
    struct disk *disk = co_open_disk(io);
    struct item first, refused, withdrawn, last;
    struct seen seen;
    struct log_found found;
    struct log *log = co_open_log(disk, &seen, &found);

    (void)arg;
    item_init(&first, 1);
    item_init(&refused, 2);
    item_init(&withdrawn, 3);
    item_init(&last, 4);
    withdrawn.withdraw = true;
    log_append(log, &first.item, LOG_NORMAL);
    log_reject(log, &refused.item, -ESTALE);
    log_append(log, &withdrawn.item, LOG_RESERVED);
    log_append(log, &last.item, LOG_NORMAL);
    co_log_drain(log);
    assert_int_equal(first.result, 0);
    assert_int_equal(refused.result, -ESTALE);
    assert_int_equal(withdrawn.result, -ECANCELED);
    assert_int_equal(last.result, 0);
    assert_true(first.order < refused.order);
    assert_true(refused.order < last.order);
    log_fail(log, -EIO);
    first.done = false;
    log_append(log, &first.item, LOG_NORMAL);
    assert_false(first.done); /* never from inside, failed or not */
    co_log_drain(log);
    assert_int_equal(first.result, -EIO);
    log_free(log);
    log = co_open_log(disk, &seen, &found);
    assert_int_equal(seen.count, 2);
    log_free(log);
    free(first.data);
    free(refused.data);
    free(withdrawn.data);
    free(last.data);
    disk_close(disk);
}

static void refusals_keep_their_place_in_the_order(void **state)
{
    (void)state;
    with_disk(refuse_main, NULL);
}

/* ---- room ---- */

static void room_main(struct io *io, void *arg)
{
    struct disk *disk = co_open_disk(io);
    struct item *items = calloc(1200, sizeof(*items)), reserved;
    struct seen seen;
    struct log_found found;
    struct log *log = co_open_log(disk, &seen, &found);
    struct log_cut cut = {0};
    uint32_t done = 0;

    (void)arg;
    for (uint32_t i = 0; i < 1200; i++) {
        item_init(&items[i], i);
        log_append(log, &items[i].item, LOG_NORMAL);
    }
    assert_int_equal(co_sleep_ns(SEC), 0);
    while (done < 1200 && items[done].done)
        done++;
    assert_true(log_is_full(log));
    assert_true(log_used_blocks(log) <= log_ring_blocks(log) - log_ring_blocks(log) / 8);
    assert_true(log_used_blocks(log) > log_ring_blocks(log) - log_ring_blocks(log) / 8 - 80);

    item_init(&reserved, 5000); /* what makes room passes those who wait for it */
    log_append(log, &reserved.item, LOG_RESERVED);
    assert_int_equal(co_sleep_ns(SEC), 0);
    assert_true(reserved.done);
    assert_false(items[done].done);

    while (!items[1199].done) { /* laps, with pads at the ring's end */
        cut.position = log_tail(log);
        for (cut.batches = 0; cut.batches < 3 && cut.position < log_head(log); cut.batches++)
            cut.position += log_batch_blocks(log, cut.position);
        assert_int_equal(co_log_move_tail(log, &cut), 0);
        assert_int_equal(co_sleep_ns(10 * MS), 0);
    }
    for (uint32_t i = 0; i < 1200; i++) {
        assert_int_equal(items[i].result, 0);
        free(items[i].data);
    }
    co_log_drain(log);
    assert_true(log_head(log) > log_ring_blocks(log)); /* it went round */
    log_free(log);

    log = co_open_log(disk, &seen, &found);
    assert_false(found.damaged);
    assert_int_equal(seen.tags[seen.count - 1], 1199);
    assert_int_equal(log_used_blocks(log), seen.blocks);
    log_free(log);
    free(reserved.data);
    free(items);
    disk_close(disk);
}

static void a_full_log_keeps_room_for_those_who_make_room(void **state)
{
    (void)state;
    with_disk(room_main, NULL);
}

/* ---- a pace ---- */

struct slow { /* one item in ten milliseconds */
    struct io *io;
    uint64_t next_ns, room;
};

static uint64_t slow_pace(void *arg, uint64_t room, uint32_t blocks)
{
    struct slow *slow = arg;

    assert_in_range(blocks, 1, 2); /* with the header, if it opens a batch */
    slow->room = room;
    if (io_now_ns(slow->io) < slow->next_ns)
        return slow->next_ns;
    slow->next_ns = io_now_ns(slow->io) + 10 * MS;
    return 0;
}

/* One vdisk has a hundred writes waiting, another has one at a time: it gets every second turn. And
 * nothing holds back what makes room. */
static void pace_main(struct io *io, void *arg)
{
    struct disk *disk = co_open_disk(io);
    struct item *many = calloc(100, sizeof(*many)), one, reserved;
    struct log_flow flows[2] = {{0}, {0}};
    struct slow slow = {.io = io};
    struct seen seen;
    struct log_found found;
    struct log *log = co_open_log(disk, &seen, &found);
    uint64_t start_ns;

    (void)arg;
    log_set_pace(log, slow_pace, &slow);
    for (uint32_t i = 0; i < 100; i++) {
        item_init(&many[i], i);
        many[i].item.flow = &flows[0];
        log_append(log, &many[i].item, LOG_NORMAL);
    }
    assert_int_equal(co_sleep_ns(95 * MS), 0);
    for (uint32_t i = 0; i < 10; i++) {
        start_ns = io_now_ns(io);
        item_init(&one, 200 + i);
        one.item.flow = &flows[1];
        log_append(log, &one.item, LOG_NORMAL);
        while (!one.done)
            assert_int_equal(co_sleep_ns(MS), 0);
        assert_in_range(io_now_ns(io) - start_ns, 0, 25 * MS);
        free(one.data);
    }
    item_init(&reserved, 300);
    log_append(log, &reserved.item, LOG_RESERVED);
    assert_int_equal(co_sleep_ns(5 * MS), 0);
    assert_true(reserved.done);
    co_log_drain(log);
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(many[i].result, 0);
        assert_true(i == 0 || many[i].order > many[i - 1].order);
        free(many[i].data);
    }
    assert_in_range(slow.room, 1, log_ring_blocks(log) - log_ring_blocks(log) / 8);
    log_free(log);
    free(reserved.data);
    free(many);
    disk_close(disk);
}

static void a_pace_is_shared_out_fairly(void **state)
{
    (void)state;
    with_disk(pace_main, NULL);
}

/* ---- ends and holes ---- */

#define BATCHES 12

/* Twelve batches of one header and one data block each. */
static void co_write_batches(struct disk *disk, uint64_t first_tag, uint32_t count)
{
    struct seen seen;
    struct log_found found;
    struct log *log = co_open_log(disk, &seen, &found);
    struct item item;

    for (uint32_t i = 0; i < count; i++) {
        item_init(&item, first_tag + i);
        log_append(log, &item.item, LOG_NORMAL);
        co_log_drain(log);
        assert_int_equal(item.result, 0);
        free(item.data);
    }
    log_free(log);
}

static void co_flip_ring(struct disk *disk, uint32_t block, uint32_t byte)
{
    cleanup(freep) uint8_t *data = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    uint64_t offset =
        disk_geometry(disk)->log_offset + (LOG_ANCHOR_BLOCKS + (uint64_t)block) * BLOCK_SIZE;

    assert_int_equal(co_io_read(disk_file(disk), data, BLOCK_SIZE, offset), 0);
    data[byte] ^= 1;
    assert_int_equal(co_io_write(disk_file(disk), data, BLOCK_SIZE, offset, IO_WRITE_DSYNC), 0);
}

static void holes_main(struct io *io, void *arg)
{
    struct disk *disk = co_open_disk(io);
    struct seen seen;
    struct log_found found;

    (void)arg;
    co_write_batches(disk, 1, BATCHES);
    for (uint32_t block = 0; block < 2 * BATCHES; block++) {
        bool header = block % 2 == 0, last = block / 2 == BATCHES - 1;

        co_flip_ring(disk, block, header ? 40 : 77);
        log_free(co_open_log(disk, &seen, &found));
        /* data in the middle is for the reader to find; only the chain's links are looked at here
         */
        assert_int_equal(found.damaged, header && !last);
        assert_int_equal(found.torn, !header && last);
        assert_int_equal(seen.count, header || last ? block / 2 : BATCHES);
        co_flip_ring(disk, block, header ? 40 : 77);
    }
    log_free(co_open_log(disk, &seen, &found));
    assert_int_equal(seen.count, BATCHES);
    disk_close(disk);
}

static void a_torn_tail_is_told_from_a_hole(void **state)
{
    (void)state;
    with_disk(holes_main, NULL);
}

static void behind_main(struct io *io, void *arg)
{
    struct disk *disk = co_open_disk(io);
    struct seen seen;
    struct log_found found;

    (void)arg;
    co_write_batches(disk, 1, BATCHES);
    co_flip_ring(disk, 8, 40); /* the fifth batch */
    co_write_batches(disk, 101,
                     1); /* goes on there: same size, so the sixth would follow in place */
    log_free(co_open_log(disk, &seen, &found));
    assert_int_equal(seen.count, 5);
    assert_int_equal(seen.tags[4], 101);
    assert_false(
        found.damaged); /* it was said at that open; what is behind belongs to another life */
    disk_close(disk);
}

/* What an earlier open left behind a hole fits in sequence and place, and still is no continuation.
 */
static void an_earlier_life_does_not_continue(void **state)
{
    (void)state;
    with_disk(behind_main, NULL);
}

static void recent_main(struct io *io, void *arg)
{
    struct disk *disk = co_open_disk(io);
    struct log_region region = log_region_of(disk, NULL);
    struct log_cut cut = {0};
    struct seen seen;
    struct log_found found;
    struct log *log;

    (void)arg;
    co_write_batches(disk, 1, BATCHES);
    co_flip_ring(disk, 8, 40); /* the fifth batch */
    co_write_batches(disk, 101, 1);
    log = co_open_log(disk, &seen, &found);
    assert_int_equal(seen.count, 5);
    assert_int_equal(co_log_move_tail(log, &cut), 0); /* says that it goes on where the sixth is */
    log_free(log);

    memset(&seen, 0, sizeof(seen));
    assert_int_equal(co_log_replay_recent(&region, &see_ops, &seen, &found), 0);
    assert_int_equal(seen.count, 0);
    disk_close(disk);
}

/* Nor for who reads only what came after the last checkpoint: an old image would be put in place.
 */
static void an_earlier_life_is_not_recent(void **state)
{
    (void)state;
    with_disk(recent_main, NULL);
}

static void regress_main(struct io *io, void *arg)
{
    struct disk *disk = co_open_disk(io);
    struct log_cut cut = {.position = 2, .batches = 1, .images_done = 10, .copies_done = 20};
    struct seen seen;
    struct log_found found;
    struct log *log;

    (void)arg;
    co_write_batches(disk, 1, BATCHES);
    log = co_open_log(disk, &seen, &found);
    log_note_batch(log, 0, 2);
    assert_int_equal(co_log_move_tail(log, &cut), 0);
    log_free(log);
    log = co_open_log(disk, &seen, &found);
    assert_int_equal(found.start.images_done, 10);
    assert_int_equal(found.start.copies_done, 20);
    log_free(log);

    co_flip_ring(disk, 8, 40); /* the fifth batch: the next one written is the fifth again */
    log_free(co_open_log(disk, &seen, &found));
    assert_true(found.damaged);
    assert_int_equal(found.start.head_sequence, 5);
    assert_int_equal(found.start.images_done, 4);
    assert_int_equal(found.start.copies_done, 8);
    disk_close(disk);
}

/* What a checkpoint says of images and copies "up to here" is not said of those that will be
 * written there again after a hole: they would be passed over by the next replay. */
static void a_hole_takes_back_what_was_said_of_what_follows(void **state)
{
    (void)state;
    with_disk(regress_main, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_comes_meanwhile_is_gathered),
        cmocka_unit_test(refusals_keep_their_place_in_the_order),
        cmocka_unit_test(a_full_log_keeps_room_for_those_who_make_room),
        cmocka_unit_test(a_pace_is_shared_out_fairly),
        cmocka_unit_test(a_torn_tail_is_told_from_a_hole),
        cmocka_unit_test(an_earlier_life_does_not_continue),
        cmocka_unit_test(an_earlier_life_is_not_recent),
        cmocka_unit_test(a_hole_takes_back_what_was_said_of_what_follows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
