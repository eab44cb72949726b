/* The store keeps the promises of store.h: order, fences, watermarks, reading what was written,
 * destage, columns that return, and errors of the medium. test_store_crash.c has the power cuts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/checksum.h"
#include "tests/unit/store_rig.h"

#define DISK_BYTES (24 * MIB)
#define LOG_BYTES (4 * MIB)

static void with_store(uint64_t seed, void (*fn)(struct io *io, void *arg), void *arg)
{
    struct rig rig;

    rig_new(&rig, seed, DISK_BYTES, LOG_BYTES);
    assert_true(rig_run(&rig, fn, arg));
    rig_done(&rig);
}

static uint64_t must_read(struct rig_owner *owner, uint32_t extent, uint32_t block)
{
    uint64_t stamp;

    assert_int_equal(co_rig_read(owner, extent, block, &stamp), 0);
    return stamp;
}

/* ---- writing and reading ---- */

static void read_back_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    assert_int_equal(must_read(&owner, 0, 5), 0); /* nothing was written: zeros */
    assert_int_equal(co_rig_write(&owner, 0, 5, 3, 100), 0);
    assert_int_equal(co_rig_write(&owner, 0, 6, 1, 200), 0);
    assert_int_equal(must_read(&owner, 0, 5), 100);
    assert_int_equal(must_read(&owner, 0, 6), 200);
    assert_int_equal(must_read(&owner, 0, 7), 102);
    assert_int_equal(must_read(&owner, 0, 8), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(store_stats(rig.store).dirty_blocks, 0);
    assert_int_equal(must_read(&owner, 0, 5), 100);
    assert_int_equal(must_read(&owner, 0, 6), 200);
    assert_int_equal(must_read(&owner, 0, 7), 102);
    assert_int_equal(must_read(&owner, 0, 8), 0);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    owner.store = rig.store;
    assert_int_equal(must_read(&owner, 0, 6), 200);
    assert_int_equal(must_read(&owner, 0, 8), 0);
    co_rig_close(&rig);
}

static void reads_back_what_was_written(void **state)
{
    (void)state;
    with_store(1, read_back_main, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_back_what_was_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
