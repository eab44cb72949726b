#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "resiliency/parity_layout.h"

#define STRIPES 3

/* Every block has a place of its own, and is found again from there. */
static void blocks_and_places_are_one_to_one(void **state)
{
    (void)state;
    for (uint32_t k = 2; k <= 14; k++) {
        bool taken[14][STRIPES * PARITY_UNIT_BLOCKS] = {0};

        for (uint32_t block = 0; block < STRIPES * k * PARITY_UNIT_BLOCKS; block++) {
            uint32_t column = parity_column(k, block), row = parity_row(k, block);

            assert_in_range(column, 0, k - 1);
            assert_in_range(row, 0, STRIPES * PARITY_UNIT_BLOCKS - 1);
            assert_false(taken[column][row]);
            taken[column][row] = true;
            assert_int_equal(parity_block(k, column, row), block);
        }
    }
}

/* A column's checksum addresses follow its rows; no two blocks of a vdisk share one. */
static void addresses_are_unique(void **state)
{
    const uint32_t rows = 4 * PARITY_UNIT_BLOCKS, slabs = 3;
    cleanup(vdisk_config_putp) struct vdisk_config *config = NULL;
    bool data[3 * 4 * 4 * PARITY_UNIT_BLOCKS] = {0}, parity[3 * 6 * 4 * PARITY_UNIT_BLOCKS] = {0};

    (void)state;
    assert_int_equal(vdisk_config_new(slabs, 6, 4 * rows, &config), 0);
    config->data_columns = 4;
    for (uint32_t slab = 0; slab < slabs; slab++)
        for (uint32_t column = 0; column < 6; column++)
            for (uint32_t row = 0; row < rows; row++) {
                uint64_t address = parity_address(config, slab, column, row);
                uint64_t number = address & ~PARITY_ADDRESS;
                bool *taken = column < 4 ? data : parity;

                assert_int_equal(address >> 63, column >= 4);
                assert_in_range(number, 0,
                                column < 4 ? ARRAY_SIZE(data) - 1 : ARRAY_SIZE(parity) - 1);
                assert_false(taken[number]);
                taken[number] = true;
                assert_int_equal(address, parity_address(config, slab, column, 0) + row);
            }
}

/* The pieces of a request name each of its blocks once, and no other. */
static void pieces_cover_a_request(uint32_t k, uint32_t block, uint32_t count)
{
    uint32_t stripe = k * PARITY_UNIT_BLOCKS, pieces;
    struct parity_piece piece[PARITY_PIECES_MAX];
    unsigned covered[14 * PARITY_UNIT_BLOCKS] = {0};

    pieces = parity_pieces(k, block, count, piece);
    assert_in_range(pieces, 1, PARITY_PIECES_MAX);
    for (uint32_t i = 0; i < pieces; i++) {
        assert_true(piece[i].count > 0);
        for (uint32_t row = piece[i].row; row < piece[i].row + piece[i].count; row++)
            for (uint32_t column = 0; column < k; column++)
                if (piece[i].columns & BIT(column))
                    covered[parity_block(k, column, row) % stripe]++;
    }
    for (uint32_t i = 0; i < stripe; i++)
        assert_int_equal(covered[i], i >= block % stripe && i - block % stripe < count);
}

static void pieces_are_the_request(void **state)
{
    struct parity_piece piece[PARITY_PIECES_MAX];

    (void)state;
    for (uint32_t k = 2; k <= 4; k++) {
        uint32_t stripe = k * PARITY_UNIT_BLOCKS;

        for (uint32_t block = 0; block < stripe; block++)
            for (uint32_t count = 1; count <= stripe - block; count++)
                pieces_cover_a_request(k, 5 * stripe + block, count);
    }
    /* what a whole stripe or one block is, is seen at once */
    assert_int_equal(parity_pieces(4, 64, 64, piece), 1);
    assert_int_equal(piece[0].row, 16);
    assert_int_equal(piece[0].count, 16);
    assert_int_equal(piece[0].columns, 0xf);
    assert_int_equal(parity_pieces(4, 64 + 33, 1, piece), 1);
    assert_int_equal(piece[0].row, 17);
    assert_int_equal(piece[0].columns, BIT(2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_and_places_are_one_to_one),
        cmocka_unit_test(addresses_are_unique),
        cmocka_unit_test(pieces_are_the_request),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
