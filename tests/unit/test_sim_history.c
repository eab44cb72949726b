/* The checker of the simulator's histories must be able to say no: each way in which a cluster
 * could lie is one history here, next to one that looks alike and is true. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/sim/sim_history.h"

static struct history *history;
static uint32_t reg;

static int set_up(void **state)
{
    (void)state;
    history = history_new();
    reg = history_register(history, "block", 7);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    history_free(history);
    return 0;
}

static struct history_op begin_write(uint64_t value)
{
    return history_begin(history, reg, HISTORY_WRITE, value, 1, 0);
}

static struct history_op begin_read(void)
{
    return history_begin(history, reg, HISTORY_READ, 0, 2, 0);
}

static void end(struct history_op op, uint64_t value)
{
    history_end(history, op, value, 0);
}

static void write_value(uint64_t value)
{
    end(begin_write(value), 0);
}

static void read_value(uint64_t value)
{
    end(begin_read(), value);
}

static bool is_linearizable(void)
{
    char text[256];

    return history_check(history, text, sizeof(text));
}

static void plain_reads_see_the_last_write(void **state)
{
    (void)state;
    read_value(0);
    write_value(1);
    write_value(2);
    read_value(2);
    assert_true(is_linearizable());
    read_value(1);
    assert_false(is_linearizable());
}

static void an_acknowledged_write_is_not_lost(void **state)
{
    (void)state;
    write_value(1);
    read_value(0);
    assert_false(is_linearizable());
}

/* While a write is under way a read may see either; once one has seen it, it stays. */
static void what_was_seen_stays(void **state)
{
    struct history_op write, read;

    (void)state;
    write_value(1);
    write = begin_write(2);
    read_value(1);
    read = begin_read();
    read_value(2);
    end(read, 1); /* it began before the one that saw 2 */
    assert_true(is_linearizable());
    read_value(1);
    end(write, 0);
    assert_false(is_linearizable());
}

/* A client that died: its write may show up late, once, or never; not come back. */
static void a_write_of_unknown_fate(void **state)
{
    struct history_op write;

    (void)state;
    write_value(1);
    write = begin_write(2);
    history_unknown(history, write);
    read_value(1);
    write_value(3);
    read_value(3);
    assert_true(is_linearizable());
    read_value(2);
    assert_true(is_linearizable());
    read_value(3);
    assert_false(is_linearizable());
}

/* A request that ran, and ran again after another client's write: it was only one write. */
static void a_repeat_that_ran_again_is_found(void **state)
{
    struct history_op write;

    (void)state;
    write = begin_write(1);
    read_value(1);
    write_value(2);
    read_value(2);
    read_value(1);
    end(write, 0);
    assert_false(is_linearizable());
}

/* Unless that is all that was promised: then it may run again until it is answered, */
static void a_repeat_may_run_until_it_is_answered(void **state)
{
    struct history_op write;

    (void)state;
    write = begin_write(1);
    read_value(1);
    write_value(2);
    read_value(2);
    read_value(1);
    write_value(3);
    history_repeats(history, write);
    end(write, 0);
    read_value(1); /* the last time, right before the answer */
    assert_true(is_linearizable());
}

/* and not after that; */
static void a_repeat_after_the_answer_is_found(void **state)
{
    struct history_op write;

    (void)state;
    write = begin_write(1);
    read_value(1);
    history_repeats(history, write);
    end(write, 0);
    write_value(2);
    read_value(2);
    read_value(1);
    assert_false(is_linearizable());
}

/* it must have run once at least, */
static void a_repeat_is_not_lost(void **state)
{
    struct history_op write;

    (void)state;
    write_value(2);
    write = begin_write(1);
    read_value(2);
    history_repeats(history, write);
    end(write, 0);
    read_value(2);
    assert_false(is_linearizable());
}

/* and others' writes are not lost by it. */
static void others_are_not_lost_by_a_repeat(void **state)
{
    struct history_op write;

    (void)state;
    write_value(5);
    write = begin_write(1);
    read_value(1);
    write_value(2);
    read_value(5);
    history_repeats(history, write);
    end(write, 0);
    assert_false(is_linearizable());
}

/* Whose client is gone may run again whenever that is. */
static void a_repeat_of_unknown_fate(void **state)
{
    struct history_op write;

    (void)state;
    write = begin_write(1);
    history_repeats(history, write);
    history_unknown(history, write);
    read_value(1);
    write_value(2);
    read_value(2);
    read_value(1);
    write_value(3);
    read_value(3);
    assert_true(is_linearizable());
    read_value(2);
    assert_false(is_linearizable());
}

/* Writes that are answered by errors, and happen: more than can be open at a time. */
static void many_writes_of_unknown_fate(void **state)
{
    (void)state;
    for (uint64_t i = 1; i <= 200; i++) {
        history_unknown(history, begin_write(i));
        read_value(i);
    }
    assert_true(is_linearizable());
    read_value(7);
    assert_false(is_linearizable());
}

/* Trims that are answered by errors: all write 0, and each may yet happen. */
static void many_trims_of_unknown_fate(void **state)
{
    (void)state;
    for (uint64_t i = 1; i <= 200; i++) {
        history_unknown(history, begin_write(0));
        write_value(i);
        read_value(i);
    }
    read_value(0);
    assert_true(is_linearizable());
    read_value(199); /* 200 was written after it */
    assert_false(is_linearizable());
}

static void a_refused_write_did_nothing(void **state)
{
    struct history_op write;

    (void)state;
    write = begin_write(1);
    history_drop(history, write);
    assert_true(is_linearizable());
    read_value(1);
    assert_false(is_linearizable());
}

static void what_nobody_wrote_is_found(void **state)
{
    (void)state;
    write_value(1);
    read_value(5);
    assert_false(is_linearizable());
}

/* Trims write zeros, which are not told apart. */
static void values_may_come_back_by_being_written_again(void **state)
{
    struct history_op trim;

    (void)state;
    write_value(1);
    trim = begin_write(0);
    history_unknown(history, trim);
    read_value(1);
    read_value(0);
    write_value(2);
    read_value(2);
    assert_true(is_linearizable());
    read_value(0);
    assert_false(is_linearizable());
}

/* Many at once are no trouble: what no read saw does not branch. */
static void many_writes_at_once(void **state)
{
    struct history_op writes[40], reads[3];

    (void)state;
    for (unsigned i = 0; i < 40; i++)
        writes[i] = begin_write(1 + i);
    for (unsigned i = 0; i < 3; i++)
        reads[i] = begin_read();
    for (unsigned i = 0; i < 3; i++)
        end(reads[i], 10 * (i + 1));
    for (unsigned i = 0; i < 40; i++)
        end(writes[i], 0);
    read_value(20);
    assert_true(is_linearizable());
    read_value(30);
    assert_false(is_linearizable());
}

/* Who was shut out may have written before that, and not later: an old copy of a VM. */
static void who_is_shut_out_writes_no_more(void **state)
{
    struct history_op before = begin_write(1), later = begin_write(2);

    (void)state;
    history_unknown_until(history, before, 0);
    history_unknown_until(history, later, 0);
    read_value(1);
    read_value(1);
    assert_true(is_linearizable());
    read_value(2);
    assert_false(is_linearizable());
}

static void who_is_shut_out_need_not_have_written(void **state)
{
    struct history_op op = begin_write(1);

    (void)state;
    history_unknown_until(history, op, 0);
    read_value(0);
    assert_true(is_linearizable());
    read_value(1);
    assert_false(is_linearizable());
}

static void registers_are_apart(void **state)
{
    (void)state;
    write_value(1);
    reg = history_register(history, "block", 8);
    read_value(0);
    assert_true(is_linearizable());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(plain_reads_see_the_last_write, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_acknowledged_write_is_not_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_seen_stays, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_write_of_unknown_fate, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_repeat_that_ran_again_is_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_repeat_may_run_until_it_is_answered, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_repeat_after_the_answer_is_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_repeat_is_not_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(others_are_not_lost_by_a_repeat, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_repeat_of_unknown_fate, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_writes_of_unknown_fate, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_trims_of_unknown_fate, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_refused_write_did_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_nobody_wrote_is_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(values_may_come_back_by_being_written_again, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(many_writes_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_is_shut_out_writes_no_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_is_shut_out_need_not_have_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(registers_are_apart, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
