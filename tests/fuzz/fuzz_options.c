/* What the daemon is started with: the input's first part, up to an empty line, is the
 * configuration file, the rest is the command line, a word to a line. What is accepted keeps to
 * what the table says. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "s2d/node/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define WORDS_MAX 32

static void check_accepted(const struct daemon_options *options)
{
    static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
    static const char *const accels[] = {"auto", "kvm", "tcg", NULL};
    static const char *const answers[] = {"yes", "no", NULL};
    const struct {
        const char *value;
        const char *const *words;
    } choices[] = {
        {options->log_level, levels}, {options->accel, accels}, {options->fuse, answers}};

    assert(options->dir[0]);
    assert(options->listen[0]);
    assert(strlen(options->name) < sizeof(options->name));
    assert(options->cold_start_grace_ms >= 1 && options->cold_start_grace_ms <= 600000);
    assert(options->vm_restart_delay_ms >= 1);
    for (size_t i = 0; i < ARRAY_SIZE(choices); i++) {
        const char *const *word = choices[i].words;

        while (*word && strcmp(*word, choices[i].value) != 0)
            word++;
        assert(*word);
    }
}

/* A file in memory that has a path. */
static void write_file(const char *bytes, size_t length, char *path, size_t path_size)
{
    static int fd = -1;

    if (fd < 0)
        fd = memfd_create("options", 0);
    if (ftruncate(fd, 0) < 0 || pwrite(fd, bytes, length, 0) != (ssize_t)length)
        abort();
    snprintf(path, path_size, "/proc/self/fd/%d", fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static FILE *null;
    const uint8_t *gap = size > 0 ? memmem(data, size, "\n\n", 2) : NULL;
    size_t file_bytes = gap ? (size_t)(gap - data) : 0;
    char *words[WORDS_MAX + 3] = {(char *)"s2dd"}, path[64], *text, *save = NULL;
    struct daemon_options options;
    int count = 1;

    if (!null)
        null = fopen("/dev/null", "w");
    if (gap) {
        write_file((const char *)data, file_bytes, path, sizeof(path));
        words[count++] = (char *)"--config";
        words[count++] = path;
        file_bytes += 2;
    }
    text = strndup((const char *)data + file_bytes, size - file_bytes);
    for (char *word = strtok_r(text, "\n", &save); word && count < WORDS_MAX;
         word = strtok_r(NULL, "\n", &save)) {
        /* A path of the fuzzer's could be a pipe that never ends. */
        bool is_path = count > 1 && strcmp(words[count - 1], "--config") == 0;

        words[count++] = is_path ? (char *)"/dev/null" : word;
    }
    if (options_parse(count, words, null, null, &options) == OPTIONS_RUN)
        check_accepted(&options);
    free(text);
    return 0;
}
