/* The hard disk that benchmarks and development clusters pretend to have takes as long as one: what
 * is measured on it must not flatter, nor punish what a drive does well. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/co.h"
#include "s2d/base/sim.h"

#define DISK_BYTES (4 * GIB)
#define DEPTH_MAX 64

struct drive {
    struct io *io;
    struct io_file *file;
    uint8_t *data;
};

struct load {
    struct drive *drive;
    struct io_op ops[DEPTH_MAX];
    struct iovec iov;
    unsigned depth, in_flight;
    uint64_t left;
    uint64_t (*next)(struct load *load); /* offset */
    uint64_t at, step;
    bool write;
    struct co *co;
};

static void op_done(struct io_op *op, int result);

static void submit(struct load *load, struct io_op *op)
{
    uint64_t offset = load->next(load);

    load->left--;
    load->in_flight++;
    op->done = op_done;
    op->owner = NULL;
    if (load->write)
        io_file_writev(load->drive->file, op, &load->iov, 1, offset, IO_WRITE_DSYNC);
    else
        io_file_readv(load->drive->file, op, &load->iov, 1, offset);
}

static struct load *the_load; /* op->owner is the backend's: one load at a time */

static void op_done(struct io_op *op, int result)
{
    struct load *load = the_load;

    assert_true(result >= 0);
    load->in_flight--;
    if (load->left > 0)
        submit(load, op);
    else if (load->in_flight == 0)
        co_wake(load->co);
}

/* Operations a second. */
static double co_rate(struct drive *drive, struct load *load, uint64_t count)
{
    uint64_t start_ns = io_now_ns(drive->io);

    load->drive = drive;
    load->iov.iov_base = drive->data;
    if (load->iov.iov_len == 0)
        load->iov.iov_len = BLOCK_SIZE;
    load->left = count;
    load->co = co_self();
    the_load = load;
    for (unsigned i = 0; i < load->depth; i++)
        submit(load, &load->ops[i]);
    co_wait();
    return (double)count * SEC / (double)(io_now_ns(drive->io) - start_ns);
}

static uint64_t anywhere(struct load *load)
{
    return io_random(load->drive->io) % (DISK_BYTES / BLOCK_SIZE) * BLOCK_SIZE;
}

static uint64_t onward(struct load *load)
{
    return load->at += load->step;
}

static uint64_t backward(struct load *load)
{
    return load->at -= load->step;
}

static void drive_main(struct io *io, void *arg)
{
    struct drive drive = {.io = io, .data = aligned_alloc(BLOCK_SIZE, MIB)};
    double random, queued, rate;

    (void)arg;
    memset(drive.data, 0, MIB);
    assert_int_equal(co_io_open(io, "/hdd", IO_OPEN_DIRECT, &drive.file), 0);
    assert_int_equal(io_file_make_hdd(drive.file, &IO_HDD_7200), 0);
    assert_int_equal(io_file_make_hdd(drive.file, &IO_HDD_7200), -EALREADY);

    random = co_rate(&drive, &(struct load){.depth = 1, .next = anywhere, .write = true}, 500);
    assert_in_range((int)random, 75, 100);
    rate = co_rate(&drive, &(struct load){.depth = 1, .next = anywhere}, 500);
    assert_in_range((int)rate, 75, 100);
    /* a queue lets the drive choose: about twice as many, as with NCQ */
    queued = co_rate(&drive, &(struct load){.depth = 32, .next = anywhere, .write = true}, 2000);
    assert_in_range((int)queued, (int)(1.3 * random), (int)(3 * random));

    /* megabytes in a row at the rate of the medium; a block in a row, one at a time, once a turn */
    rate = co_rate(
        &drive, &(struct load){.depth = 4, .next = onward, .step = MIB, .iov.iov_len = MIB}, 500);
    assert_in_range((int)rate, 160, 180);
    rate = co_rate(
        &drive, &(struct load){.depth = 1, .next = onward, .step = BLOCK_SIZE, .write = true}, 200);
    assert_in_range((int)rate, 100, 125);

    /* small gaps, in order, are waited out under the head; against the order each is a seek */
    rate = co_rate(&drive,
                   &(struct load){.depth = 16, .next = onward, .step = 256 * KIB, .write = true},
                   1000);
    assert_in_range((int)rate, 600, 720);
    rate = co_rate(
        &drive,
        &(struct load){
            .depth = 1, .next = backward, .step = 256 * KIB, .at = DISK_BYTES / 2, .write = true},
        200);
    assert_in_range((int)rate, 100, 250);
    print_message("random writes/s: %.0f at depth 1, %.0f at depth 32\n", random, queued);
    io_file_close(drive.file);
    free(drive.data);
    io_stop(io);
}

static bool is_down(void *sim)
{
    return !sim_is_up(sim, 1);
}

static void takes_as_long_as_a_drive(void **state)
{
    struct sim_options options = sim_default_options(1);
    cleanup(sim_freep) struct sim *sim = NULL;

    (void)state;
    options.disk_read_ns_min = options.disk_write_ns_min = options.disk_sync_ns_min = 0;
    options.disk_read_ns_max = options.disk_write_ns_max = options.disk_sync_ns_max = US;
    assert_int_equal(sim_new(&options, &sim), 0);
    assert_int_equal(sim_disk_create(sim, 1, "/hdd", DISK_BYTES), 0);
    assert_int_equal(sim_start(sim, 1, drive_main, NULL), 0);
    assert_true(sim_run(sim, 1000 * SEC, is_down, sim));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_as_long_as_a_drive),
    };

    setenv("CMOCKA_TEST_ABORT", "1", 1); /* it could not jump out of a coroutine */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
