#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/io_backend.h"
#include "s2d/base/log.h"

static uint64_t fake_wall_ns(struct io *io)
{
    (void)io;
    return 1795255200123456789; /* 2026-11-21T10:00:00.123456789Z */
}

static const struct io_backend_ops fake_ops = {.wall_ns = fake_wall_ns};

struct fake_sink {
    struct log_sink sink;
    unsigned count;
    char line[4096];
};

static void fake_write(struct log_sink *sink, enum log_level level, const char *line)
{
    struct fake_sink *fake = container_of(sink, struct fake_sink, sink);

    (void)level;
    fake->count++;
    snprintf(fake->line, sizeof(fake->line), "%s", line);
}

static void line_has_the_promised_form(void **state)
{
    struct fake_sink fake = {.sink = {.threshold = LOG_INFO, .write = fake_write, .name = "n1"}};
    struct io io = {.ops = &fake_ops, .log = &fake.sink};

    (void)state;
    log_warn(&io, "pool", "disk left the pool", "disk=%s errors=%d", "d1", 3);
    assert_string_equal(
        fake.line,
        "2026-11-21T10:00:00.123456Z WARN node=n1 pool: disk left the pool disk=d1 errors=3");
    fake.sink.name = NULL;
    log_info(&io, "node", "started", "%s", "");
    assert_string_equal(fake.line, "2026-11-21T10:00:00.123456Z INFO node: started ");
    assert_int_equal(fake.count, 2);
}

static void below_the_threshold_nothing_is_written(void **state)
{
    struct fake_sink fake = {.sink = {.threshold = LOG_WARN, .write = fake_write}};
    struct io io = {.ops = &fake_ops, .log = &fake.sink};
    struct io quiet = {.ops = &fake_ops};

    (void)state;
    log_debug(&io, "m", "what", "a=%d", 1);
    log_info(&io, "m", "what", "a=%d", 1);
    assert_int_equal(fake.count, 0);
    log_error(&io, "m", "what", "a=%d", 1);
    assert_int_equal(fake.count, 1);
    log_error(&quiet, "m", "what", "a=%d", 1);
    log_error(NULL, "m", "what", "a=%d", 1);
}

/* A file's or a guest's name must not forge a line or steer the reader's terminal. */
static void control_characters_do_not_pass(void **state)
{
    struct fake_sink fake = {.sink = {.write = fake_write}};
    struct io io = {.ops = &fake_ops, .log = &fake.sink};

    (void)state;
    log_info(&io, "m", "what", "name=%s", "a\nb\x1b[2Jc\x7f");
    assert_non_null(strstr(fake.line, "name=a?b?[2Jc?"));
}

static void long_lines_are_cut_and_say_so(void **state)
{
    struct fake_sink fake = {.sink = {.write = fake_write}};
    struct io io = {.ops = &fake_ops, .log = &fake.sink};
    char value[5000];

    (void)state;
    memset(value, 'x', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    log_info(&io, "m", "what", "value=%s", value);
    assert_in_range(strlen(fake.line), 1000, 2048);
    assert_string_equal(fake.line + strlen(fake.line) - 4, "x...");
}

static void file_sink_writes_lines(void **state)
{
    char text[1000] = "";
    FILE *file = fmemopen(text, sizeof(text), "w");
    struct io io = {.ops = &fake_ops};
    struct log_sink *sink;

    (void)state;
    assert_non_null(file);
    assert_int_equal(log_file_sink_new(file, "n2", LOG_INFO, &sink), 0);
    io.log = sink;
    log_info(&io, "a", "one", "k=%d", 1);
    log_debug(&io, "a", "two", "k=%d", 2);
    log_error(&io, "a", "three", "k=%d", 3);
    assert_string_equal(text, "2026-11-21T10:00:00.123456Z INFO node=n2 a: one k=1\n"
                              "2026-11-21T10:00:00.123456Z ERROR node=n2 a: three k=3\n");
    log_file_sink_free(sink);
    log_file_sink_free(NULL);
    fclose(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(line_has_the_promised_form),
        cmocka_unit_test(below_the_threshold_nothing_is_written),
        cmocka_unit_test(control_characters_do_not_pass),
        cmocka_unit_test(long_lines_are_cut_and_say_so),
        cmocka_unit_test(file_sink_writes_lines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
