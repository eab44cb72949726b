/* What is remembered of clients' requests (cache-tier/recent.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "cache-tier/recent.h"

static struct recent_piece piece_of(uint64_t session, uint64_t number, uint64_t seq, uint32_t block,
                                    uint32_t count)
{
    return (struct recent_piece){
        .client_session = session,
        .client_number = number,
        .position = {.session = 1, .seq = seq},
        .slab = 2,
        .block = block,
        .count = count,
    };
}

static void add(struct recent *recent, uint64_t session, uint64_t number, uint64_t seq)
{
    struct recent_piece piece = piece_of(session, number, seq, 10, 4);

    recent_add(recent, &piece);
}

/* How many of blocks 8 to 17 the request has changed. */
static unsigned known(const struct recent *recent, uint64_t session, uint64_t number)
{
    struct recent_piece request = piece_of(session, number, 0, 8, 10);
    struct block_set done = {0};
    unsigned count = 0;

    recent_find(recent, &request, &done);
    for (uint32_t i = 0; i < 10; i++)
        count += block_set_has(&done, i);
    return count;
}

/* A repeat may be cut into other pieces than the first run was. */
static void blocks_are_known_one_by_one(void **state)
{
    struct recent_piece first = piece_of(7, 1, 1, 5, 6), second = piece_of(7, 1, 2, 14, 100);
    struct recent_piece request = piece_of(7, 1, 0, 8, 10);
    struct recent recent = {0};
    struct block_set done = {0};

    (void)state;
    recent_add(&recent, &first);
    recent_add(&recent, &second);
    recent_find(&recent, &request, &done); /* 8 … 17: of them 8 … 10 and 14 … 17 */
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(block_set_has(&done, i), i < 3 || i >= 6);
    request.slab = 3;
    done = (struct block_set){0};
    recent_find(&recent, &request, &done);
    assert_false(block_set_has(&done, 0));
    recent_done(&recent);
}

static void requests_are_told_apart(void **state)
{
    struct recent recent = {0};

    (void)state;
    add(&recent, 7, 1, 1);
    assert_int_equal(known(&recent, 7, 1), 4);
    assert_int_equal(known(&recent, 7, 2), 0);
    assert_int_equal(known(&recent, 8, 1), 0);
    recent_done(&recent);
}

/* Of a client the last pieces stay, whatever others do. */
static void last_pieces_stay(void **state)
{
    struct recent recent = {0};

    (void)state;
    add(&recent, 8, 1, 1);
    for (uint64_t i = 1; i <= RECENT_PIECES + 3; i++)
        add(&recent, 7, i, 1 + i);
    assert_int_equal(known(&recent, 7, 3), 0);
    assert_int_equal(known(&recent, 7, 4), 4);
    assert_int_equal(known(&recent, 7, RECENT_PIECES + 3), 4);
    assert_int_equal(known(&recent, 8, 1), 4);
    assert_int_equal(recent_count(&recent), RECENT_PIECES + 1);
    recent_done(&recent);
}

static void longest_unused_client_goes(void **state)
{
    struct recent recent = {0};

    (void)state;
    for (uint64_t session = 1; session <= RECENT_CLIENTS; session++)
        add(&recent, session, 1, session);
    add(&recent, 1, 2, 100);
    add(&recent, 1000, 1, 101);
    assert_int_equal(known(&recent, 1, 1), 4);
    assert_int_equal(known(&recent, 2, 1), 0);
    assert_int_equal(known(&recent, 3, 1), 4);
    assert_int_equal(known(&recent, 1000, 1), 4);
    recent_done(&recent);
}

/* Each column tells the same: that must not push out what one of them knows alone. */
static void learning_twice_changes_nothing(void **state)
{
    struct recent recent = {0}, other = {0};
    static struct recent_piece pieces[RECENT_PIECES];
    struct recent_piece older = piece_of(7, 1, 1, 10, 4);

    (void)state;
    for (uint64_t i = 0; i < RECENT_PIECES; i++)
        add(&recent, 7, 10 + i, 10 + i);
    recent_list(&recent, pieces);
    for (int column = 0; column < 3; column++) {
        for (size_t i = 0; i < RECENT_PIECES; i++)
            recent_learn(&other, &pieces[i]);
    }
    assert_int_equal(recent_count(&other), RECENT_PIECES);
    assert_int_equal(known(&other, 7, 10), 4);
    recent_learn(&other, &older); /* there is no room for it */
    assert_int_equal(known(&other, 7, 10), 4);
    assert_int_equal(known(&other, 7, 1), 0);
    recent_done(&recent);
    recent_done(&other);
}

static void pieces_are_listed_in_order(void **state)
{
    struct recent_piece pieces[6];
    struct recent recent = {0};

    (void)state;
    for (uint64_t i = 1; i <= 6; i++)
        add(&recent, 7 + i % 2, i, 7 - i);
    assert_int_equal(recent_count(&recent), 6);
    recent_list(&recent, pieces);
    for (uint64_t i = 0; i < 6; i++)
        assert_int_equal(pieces[i].position.seq, 1 + i);
    recent_done(&recent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_known_one_by_one),
        cmocka_unit_test(requests_are_told_apart),
        cmocka_unit_test(last_pieces_stay),
        cmocka_unit_test(longest_unused_client_goes),
        cmocka_unit_test(learning_twice_changes_nothing),
        cmocka_unit_test(pieces_are_listed_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
