/* The table of routes and the page that documents it say the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "s2d/node/api_private.h"

static const struct api_route *const tables[] = {
    api_cluster_routes, api_node_routes, api_disk_routes, api_volume_routes,
    api_file_routes,    api_vm_routes,   api_misc_routes, api_snapshot_routes,
};

static char page[256 * 1024];

static int read_page(void **state)
{
    FILE *file = fopen(S2D_SOURCE "/docs/api.md", "r");

    (void)state;
    if (!file)
        return -1;
    page[fread(page, 1, sizeof(page) - 1, file)] = '\0';
    fclose(file);
    return 0;
}

static void every_route_is_on_the_page(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        for (const struct api_route *route = tables[i]; route->pattern; route++) {
            char row[256];

            snprintf(row, sizeof(row), "| `%s %s` |", api_method_names[route->method],
                     route->pattern);
            if (!strstr(page, row))
                fail_msg("docs/api.md has no row %s", row);
        }
    }
}

static bool is_a_route(const char *text, size_t length)
{
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        for (const struct api_route *route = tables[i]; route->pattern; route++) {
            char row[256];

            snprintf(row, sizeof(row), "%s %s", api_method_names[route->method], route->pattern);
            if (strlen(row) == length && memcmp(row, text, length) == 0)
                return true;
        }
    }
    return false;
}

static void every_row_of_the_page_is_a_route(void **state)
{
    unsigned rows = 0;

    (void)state;
    for (const char *row = page; (row = strstr(row, "\n| `")); rows++) {
        size_t length = strcspn(row += 4, "`");

        if (!is_a_route(row, length))
            fail_msg("docs/api.md has a row for '%.*s'", (int)length, row);
    }
    assert_true(rows > 40);
}

/* What comes from the bus can only be what was made for it. */
static void local_routes_are_apart(void **state)
{
    (void)state;
    for (const struct api_route *route = api_local_routes; route->pattern; route++)
        assert_memory_equal(route->pattern, "/v1/local/", 10);
    assert_null(strstr(page, "/v1/local"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_is_on_the_page),
        cmocka_unit_test(every_row_of_the_page_is_a_route),
        cmocka_unit_test(local_routes_are_apart),
    };

    return cmocka_run_group_tests(tests, read_page, NULL);
}
