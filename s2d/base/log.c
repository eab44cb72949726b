#include "s2d/base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <time.h>

#include "s2d/base/io.h"

#define LOG_LINE_MAX 2048 /* what is longer ends in "..." */

static const char *const level_names[] = {
    [LOG_DEBUG] = "DEBUG",
    [LOG_INFO] = "INFO",
    [LOG_WARN] = "WARN",
    [LOG_ERROR] = "ERROR",
};

/* ---- a line ---- */

struct line {
    char text[LOG_LINE_MAX];
    size_t length;
};

static void line_vadd(struct line *line, const char *format, va_list args)
{
    size_t room = sizeof(line->text) - line->length;
    int r = vsnprintf(line->text + line->length, room, format, args);

    if (r > 0)
        line->length += MIN((size_t)r, room - 1);
}

static void printf_like(2, 3) line_add(struct line *line, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    line_vadd(line, format, args);
    va_end(args);
}

static void line_add_time(struct line *line, uint64_t wall_ns)
{
    time_t seconds = (time_t)(wall_ns / SEC);
    struct tm tm;

    gmtime_r(&seconds, &tm);
    line_add(line, "%04d-%02d-%02dT%02d:%02d:%02d.%06" PRIu64 "Z", tm.tm_year + 1900, tm.tm_mon + 1,
             tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, wall_ns % SEC / US);
}

/* Values come from outside too: nobody gets to forge a second line or to steer a terminal. */
static void line_finish(struct line *line)
{
    for (char *at = line->text; *at; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    }
    if (line->length == sizeof(line->text) - 1)
        memcpy(line->text + line->length - 3, "...", 3);
}

void log_write(struct io *io, enum log_level level, const char *module, const char *what,
               const char *format, ...)
{
    struct log_sink *sink = io ? io_log_sink(io) : NULL;
    struct line line;
    va_list args;

    if (!sink || level < sink->threshold)
        return;

    line.length = 0;
    line_add_time(&line, io_wall_ns(io));
    line_add(&line, " %s", level_names[level]);
    if (sink->name)
        line_add(&line, " node=%s", sink->name);
    line_add(&line, " %s: %s%s", module, what, *format ? " " : "");
    va_start(args, format);
    line_vadd(&line, format, args);
    va_end(args);
    line_finish(&line);
    sink->write(sink, level, line.text);
}

/* ---- a sink that is a file ---- */

struct file_sink {
    struct log_sink sink;
    FILE *file;
    char *name;
};

/* A log that cannot be written is no reason to stop serving: errors are ignored. */
static void file_sink_write(struct log_sink *sink, enum log_level level, const char *line)
{
    struct file_sink *self = container_of(sink, struct file_sink, sink);

    (void)level;
    fprintf(self->file, "%s\n", line);
    fflush(self->file);
}

int log_file_sink_new(FILE *file, const char *name, enum log_level threshold,
                      struct log_sink **ret_sink)
{
    struct file_sink *self = calloc(1, sizeof(*self));

    if (!self)
        return -ENOMEM;
    self->name = strdup(name);
    if (!self->name) {
        free(self);
        return -ENOMEM;
    }
    self->file = file;
    self->sink.name = self->name;
    self->sink.threshold = threshold;
    self->sink.write = file_sink_write;

    *ret_sink = &self->sink;
    return 0;
}

void log_file_sink_free(struct log_sink *sink)
{
    if (!sink)
        return;

    struct file_sink *self = container_of(sink, struct file_sink, sink);

    free(self->name);
    free(self);
}
