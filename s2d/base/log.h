/* log: structured messages for people and for `s2d cluster events`. One line a message:
 *   2026-11-21T10:00:00.123456Z WARN node=n1 layer: message key=value key=value
 * Every loop carries its own sink, so that the nodes of a simulated cluster do not share one.
 * Nothing suspends. */
#ifndef S2D_BASE_LOG_H
#define S2D_BASE_LOG_H

#include <stdio.h>

#include "s2d/base/base.h"

struct io;

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_sink {
    enum log_level threshold; /* what is below is not even formatted */
    const char *name;         /* the node's, for "node="; NULL: left out */
    /* line: without a newline, valid during the call */
    void (*write)(struct log_sink *sink, enum log_level level, const char *line);
};

/* A sink that writes lines to a stdio stream, unbuffered. name: the node's, copied; file: borrowed.
 */
must_check int log_file_sink_new(FILE *file, const char *name, enum log_level threshold,
                                 struct log_sink **ret_sink);
void log_file_sink_free(struct log_sink *sink);
DEFINE_CLEANUP(struct log_sink, log_file_sink_free)

/* io: NULL, or one without a sink, is fine: nothing is written. what: a short constant sentence
 * ("disk left the pool"); format: "key=value …" pairs, "" for none.
 */
void log_write(struct io *io, enum log_level level, const char *module, const char *what,
               const char *format, ...) printf_like(5, 6);

#define log_debug(io, module, what, ...) log_write(io, LOG_DEBUG, module, what, __VA_ARGS__)
#define log_info(io, module, what, ...) log_write(io, LOG_INFO, module, what, __VA_ARGS__)
#define log_warn(io, module, what, ...) log_write(io, LOG_WARN, module, what, __VA_ARGS__)
#define log_error(io, module, what, ...) log_write(io, LOG_ERROR, module, what, __VA_ARGS__)

#endif
