/* Part of every test program: when it ends in order, the counts of all points that are linked into
 * it (s2d/base/sometimes.h) are appended to the file that S2D_SOMETIMES names, a line to each:
 * count, tab, file, tab, name. One write: programs that run at the same time may share the file.
 * tests/sim/sometimes adds them up. */
#include "s2d/base/sometimes.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* Weak: a program without any point has no such section. */
extern struct sometimes_point *const __start_s2d_sometimes[] __attribute__((weak));
extern struct sometimes_point *const __stop_s2d_sometimes[] __attribute__((weak));

static char *sometimes_text(size_t *ret_bytes)
{
    struct sometimes_point *const *end = __stop_s2d_sometimes;
    char *text = NULL;
    FILE *stream = open_memstream(&text, ret_bytes);

    if (!stream)
        return NULL;
    for (struct sometimes_point *const *at = __start_s2d_sometimes; at && at < end; at++)
        fprintf(stream, "%llu\t%s\t%s\n", (unsigned long long)(*at)->count, (*at)->file,
                (*at)->name);
    fclose(stream);
    return text;
}

__attribute__((destructor)) static void sometimes_save(void)
{
    const char *path = getenv("S2D_SOMETIMES");
    cleanup(freep) char *text = NULL;
    size_t bytes = 0;
    int file;

    if (!path || !*path)
        return;
    text = sometimes_text(&bytes);
    file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (!text || file < 0 || write(file, text, bytes) != (ssize_t)bytes)
        perror(path);
    if (file >= 0)
        close(file);
}
