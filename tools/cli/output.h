/* output: what people see: tables, records, sizes, health in colour. JSON in, text out. */
#ifndef S2D_CLI_OUTPUT_H
#define S2D_CLI_OUTPUT_H

#include <stdio.h>

#include "s2d/base/json.h"

enum column_format {
    COLUMN_TEXT,   /* also numbers, true and false, lists of texts */
    COLUMN_SIZE,   /* bytes as "1.5 GiB" */
    COLUMN_NUMBER, /* to the right */
    COLUMN_WORD,   /* a state or health: coloured */
    COLUMN_TIME,   /* RFC 3339 as "2026-11-21 10:00:00" UTC */
};

struct column {
    const char *title;
    const char *field; /* "status.free_bytes": within objects. NULL ends the list */
    enum column_format format;
};

/* One line a row, aligned; "none" on an empty list. rows: an array of objects. */
void output_table(FILE *out, bool colours, const json_t *rows, const struct column *columns);

/* One line a field: "Title:  value"; fields that are not there, null or empty are left out. */
void output_record(FILE *out, bool colours, const json_t *object, const struct column *columns);

/* Text for a terminal: control characters, which could act on it, become '?'. In place. */
void output_clean(char *text);

#define PROGRESS_WIDTH 30
/* "[#####-----]  50 %  1.0 GiB of 2.0 GiB", over the line before it; done ends the line. */
void output_progress(FILE *out, uint64_t done_bytes, uint64_t total_bytes, bool done);

#endif
