/* What the daemon is started with: the command line, the configuration file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>
#include <stdlib.h>
#include <unistd.h>

#include "s2d/node/options.h"

#define ARGUMENTS_MAX 16

struct outcome {
    enum options_result result;
    struct daemon_options options;
    char message[512];
};

/* words: after the three options that must be given, up to NULL. */
static struct outcome parse(const char *const *words)
{
    const char *arguments[ARGUMENTS_MAX + 1] = {"s2dd", "--dir",    "/d",           "--name",
                                                "n1",   "--listen", "10.0.0.1:7800"};
    struct outcome outcome = {.message = ""};
    FILE *err = fmemopen(outcome.message, sizeof(outcome.message), "w");
    int count = 7;

    while (*words && count < ARGUMENTS_MAX)
        arguments[count++] = *words++;
    outcome.result = options_parse(count, (char **)arguments, err, err, &outcome.options);
    fclose(err);
    return outcome;
}

static struct outcome parse_file(const char *text)
{
    char path[] = "/tmp/test_options.XXXXXX";
    const char *const words[] = {"--config", path, NULL};
    int fd = mkstemp(path);
    struct outcome outcome;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    outcome = parse(words);
    unlink(path);
    return outcome;
}

static void the_command_line_wins(void **state)
{
    const char *const words[] = {"--accel", "tcg", NULL};
    struct outcome outcome = parse_file("# a comment\n\naccel = kvm\n log-level=debug \n");

    (void)state;
    assert_int_equal(outcome.result, OPTIONS_RUN);
    assert_string_equal(outcome.options.accel, "kvm");
    assert_string_equal(outcome.options.log_level, "debug");
    outcome = parse(words);
    assert_string_equal(outcome.options.accel, "tcg");
    assert_string_equal(outcome.options.log_level, "info");
}

/* The table's own list of words is no word of it. */
static void a_choice_is_one_word(void **state)
{
    const char *const wrong[] = {"kvm|tcg", "|", "", "kv", "auto|", NULL};

    (void)state;
    for (const char *const *word = wrong; *word; word++) {
        const char *const words[] = {"--accel", *word, NULL};
        struct outcome outcome = parse(words);

        assert_int_equal(outcome.result, OPTIONS_WRONG);
        assert_non_null(strstr(outcome.message, "auto|kvm|tcg"));
    }
}

/* The rest of a long line would else be read as a line of its own. */
static void a_line_is_not_cut_in_two(void **state)
{
    char text[1200];
    struct outcome outcome;

    (void)state;
    memset(text, ' ', 1023);
    strcpy(text + 1023, "accel = kvm\n");
    outcome = parse_file(text);
    assert_int_equal(outcome.result, OPTIONS_WRONG);
    assert_non_null(strstr(outcome.message, "line 1"));
}

static void numbers_have_bounds(void **state)
{
    const char *const wrong[] = {"0", "600001", "-1", "1 ", "18446744073709551617", "", NULL};

    (void)state;
    for (const char *const *word = wrong; *word; word++) {
        const char *const words[] = {"--cold-start-grace", *word, NULL};

        assert_int_equal(parse(words).result, OPTIONS_WRONG);
    }
}

/* The others are told this address: a daemon that starts with one that cannot be reached would wait
 * for its cluster for ever. */
static void an_address_must_be_one_that_others_can_reach(void **state)
{
    static const char *const good[] = {"127.1.2.3:1", "10.0.0.1:65535", "[fd00::1]:7800"};
    static const char *const bad[] = {"nonsense",  "10.0.0.1:",      "10.0.0.1:0",    "10.0.0.1",
                                      "0.0.0.0:1", "10.0.0.1:65536", "server1.lan:1", "fd00::1:1",
                                      "[::]:1",    "10.0.0.1:1x",    "]:1",           ":1"};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_int_equal(parse((const char *[]){"--listen", good[i], NULL}).result, OPTIONS_RUN);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct outcome outcome = parse((const char *[]){"--listen", bad[i], NULL});

        assert_int_equal(outcome.result, OPTIONS_WRONG);
        assert_non_null(strstr(outcome.message, "--listen"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_command_line_wins),
        cmocka_unit_test(a_choice_is_one_word),
        cmocka_unit_test(a_line_is_not_cut_in_two),
        cmocka_unit_test(numbers_have_bounds),
        cmocka_unit_test(an_address_must_be_one_that_others_can_reach),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
