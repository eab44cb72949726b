#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/metrics.h"

static void expect_within(uint64_t got, uint64_t exact)
{
    assert_in_range(got, exact, exact + exact / 16);
}

/* A percentile is never too low, and at most a sixteenth too high. */
static void percentiles_are_close(void **state)
{
    static struct histogram histogram;

    (void)state;
    for (uint64_t i = 1; i <= 100000; i++)
        histogram_add(&histogram, i * 1000);
    expect_within(histogram_percentile(&histogram, 0.5), 50000000);
    expect_within(histogram_percentile(&histogram, 0.99), 99000000);
    expect_within(histogram_percentile(&histogram, 0.001), 100000);
    assert_int_equal(histogram_percentile(&histogram, 1.0), 100000000);
    assert_int_equal(histogram.count, 100000);
    assert_int_equal(histogram.max, 100000000);
}

static void each_value_alone_is_found_again(void **state)
{
    static struct histogram histogram;

    (void)state;
    for (uint64_t value = 0; value < UINT64_MAX / 3; value = value * 3 / 2 + 1) {
        histogram_reset(&histogram);
        histogram_add(&histogram, value);
        histogram_add(&histogram, UINT64_MAX); /* so that the maximum is no help */
        if (value < UINT64_C(1) << 42)
            expect_within(histogram_percentile(&histogram, 0.5), value);
        assert_int_equal(histogram_percentile(&histogram, 1.0), UINT64_MAX);
    }
}

static void empty_histogram_is_zero(void **state)
{
    static struct histogram histogram;

    (void)state;
    assert_int_equal(histogram_percentile(&histogram, 0.5), 0);
    histogram_add(&histogram, 0);
    assert_int_equal(histogram_percentile(&histogram, 0.5), 0);
    histogram_add(&histogram, 9);
    histogram_reset(&histogram);
    assert_int_equal(histogram.max, 0);
    assert_int_equal(histogram_percentile(&histogram, 1.0), 0);
}

static double read_seven(void *arg)
{
    return *(double *)arg;
}

static void text_is_what_prometheus_reads(void **state)
{
    static struct histogram histogram;
    struct counter first = {0}, second = {0};
    double level = 0.25;
    cleanup(metrics_freep) struct metrics *metrics = NULL;
    cleanup(freep) char *text = NULL;

    (void)state;
    assert_int_equal(metrics_new(&metrics), 0);
    assert_int_equal(metrics_add_counter(metrics, "s2d_b_total", "B.", "disk=\"d1\"", &first), 0);
    assert_int_equal(metrics_add_histogram(metrics, "s2d_c_ns", "C.", "", &histogram), 0);
    assert_int_equal(metrics_add_gauge(metrics, "s2d_a", "A.", "", read_seven, &level), 0);
    assert_int_equal(metrics_add_counter(metrics, "s2d_b_total", "B.", "disk=\"d2\"", &second), 0);
    counter_add(&first, 3);
    counter_add(&second, 1ull << 60);
    histogram_add(&histogram, 5);
    histogram_add(&histogram, 40);

    assert_int_equal(metrics_render(metrics, &text), 0);
    assert_string_equal(text, "# HELP s2d_a A.\n"
                              "# TYPE s2d_a gauge\n"
                              "s2d_a 0.25\n"
                              "# HELP s2d_b_total B.\n"
                              "# TYPE s2d_b_total counter\n"
                              "s2d_b_total{disk=\"d1\"} 3\n"
                              "s2d_b_total{disk=\"d2\"} 1152921504606846976\n"
                              "# HELP s2d_c_ns C.\n"
                              "# TYPE s2d_c_ns histogram\n"
                              "s2d_c_ns_bucket{le=\"15\"} 1\n"
                              "s2d_c_ns_bucket{le=\"31\"} 1\n"
                              "s2d_c_ns_bucket{le=\"63\"} 2\n"
                              "s2d_c_ns_bucket{le=\"+Inf\"} 2\n"
                              "s2d_c_ns_sum 45\n"
                              "s2d_c_ns_count 2\n");
}

/* A volume that is gone must not be read from when somebody asks for metrics. */
static void removed_metrics_are_gone(void **state)
{
    struct counter counter = {0};
    static struct histogram histogram;
    cleanup(metrics_freep) struct metrics *metrics = NULL;
    cleanup(freep) char *text = NULL;

    (void)state;
    assert_int_equal(metrics_new(&metrics), 0);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(metrics_add_counter(metrics, "s2d_x_total", "X.", "", &counter), 0);
        assert_int_equal(metrics_add_histogram(metrics, "s2d_y_ns", "Y.", "a=\"b\"", &histogram),
                         0);
    }
    metrics_remove(metrics, &counter);
    metrics_remove(metrics, &histogram);
    assert_int_equal(metrics_render(metrics, &text), 0);
    assert_string_equal(text, "");
}

static void no_registry_is_fine(void **state)
{
    struct counter counter = {0};

    (void)state;
    assert_int_equal(metrics_add_counter(NULL, "s2d_x_total", "X.", "", &counter), 0);
    metrics_remove(NULL, &counter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles_are_close),
        cmocka_unit_test(each_value_alone_is_found_again),
        cmocka_unit_test(empty_histogram_is_zero),
        cmocka_unit_test(text_is_what_prometheus_reads),
        cmocka_unit_test(removed_metrics_are_gone),
        cmocka_unit_test(no_registry_is_fine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
