#include "tools/cli/output.h"

#include <ctype.h>

#include "tools/cli/size.h"

#define COLUMNS_MAX 24
#define GAP 2

void output_clean(char *text)
{
    for (; *text; text++) {
        if (iscntrl((unsigned char)*text))
            *text = '?';
    }
}

/* ---- one value ---- */

static const json_t *find_field(const json_t *object, const char *field)
{
    char name[64];
    size_t length = strcspn(field, ".");

    assert(length < sizeof(name));
    memcpy(name, field, length);
    name[length] = '\0';
    object = json_object_get(object, name);
    return object && field[length] ? find_field(object, field + length + 1) : object;
}

static char *join_list(const json_t *list)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    if (!out)
        return NULL;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);

        if (json_is_string(item))
            fprintf(out, "%s%s", i > 0 ? ", " : "", json_string_value(item));
    }
    fclose(out);
    return text;
}

static char *format_size(const json_t *value)
{
    char text[SIZE_TEXT_MAX];

    return strdup(size_format((uint64_t)json_integer_value(value), text));
}

/* "2026-11-21T10:00:00.123Z" */
static char *format_time(const char *text)
{
    char *copy = strndup(text, 19), *middle;

    middle = copy ? strchr(copy, 'T') : NULL;
    if (middle)
        *middle = ' ';
    return copy;
}

static char *format_number(const json_t *value)
{
    char text[40];

    if (json_is_real(value))
        snprintf(text, sizeof(text), "%.1f", json_real_value(value));
    else
        snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
    return strdup(text);
}

/* For free(); "" when there is nothing to show. */
static char *format_value(const json_t *object, const struct column *column)
{
    const json_t *value = find_field(object, column->field);
    char *text;

    if (json_is_number(value))
        text = column->format == COLUMN_SIZE ? format_size(value) : format_number(value);
    else if (json_is_boolean(value))
        text = strdup(json_is_true(value) ? "yes" : "no");
    else if (json_is_array(value))
        text = join_list(value);
    else if (json_is_string(value) && column->format == COLUMN_TIME)
        text = format_time(json_string_value(value));
    else
        text = strdup(json_is_string(value) ? json_string_value(value) : "");
    if (!text)
        abort(); /* nothing can be shown without memory */
    output_clean(text);
    return text;
}

/* ---- colours ---- */

static const char *colour_of(const char *word)
{
    static const struct {
        const char *word, *colour;
    } colours[] = {
        {"Healthy", "\033[32m"},  {"OK", "\033[32m"},        {"up", "\033[32m"},
        {"online", "\033[32m"},   {"running", "\033[32m"},   {"done", "\033[32m"},
        {"ok", "\033[32m"},       {"Warning", "\033[33m"},   {"Incomplete", "\033[33m"},
        {"Degraded", "\033[33m"}, {"draining", "\033[33m"},  {"paused", "\033[33m"},
        {"warning", "\033[33m"},  {"retiring", "\033[33m"},  {"Unhealthy", "\033[31m"},
        {"Detached", "\033[31m"}, {"Read-only", "\033[31m"}, {"No redundancy", "\033[31m"},
        {"down", "\033[31m"},     {"failed", "\033[31m"},    {"error", "\033[31m"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(colours); i++) {
        if (strcmp(word, colours[i].word) == 0)
            return colours[i].colour;
    }
    return NULL;
}

static void print_coloured(FILE *out, bool colours, enum column_format format, const char *text)
{
    const char *colour = colours && format == COLUMN_WORD ? colour_of(text) : NULL;

    if (colour)
        fprintf(out, "%s%s\033[0m", colour, text);
    else
        fputs(text, out);
}

/* ---- tables ---- */

/* Characters of UTF-8; wide ones are rare in names. */
static size_t text_width(const char *text)
{
    size_t width = 0;

    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static bool is_right(enum column_format format)
{
    return format == COLUMN_SIZE || format == COLUMN_NUMBER;
}

static void print_cell(FILE *out, bool colours, const char *text, enum column_format format,
                       size_t width, bool last)
{
    size_t pad = width - MIN(width, text_width(text));

    if (is_right(format))
        fprintf(out, "%*s", (int)pad, "");
    print_coloured(out, colours, format, text);
    if (!is_right(format) && !last)
        fprintf(out, "%*s", (int)pad, "");
    fprintf(out, "%*s", last ? 0 : GAP, "");
}

void output_table(FILE *out, bool colours, const json_t *rows, const struct column *columns)
{
    size_t row_count = json_array_size(rows), width[COLUMNS_MAX], count = 0;
    char **cells;

    if (row_count == 0) {
        fputs("none\n", out);
        return;
    }
    while (columns[count].title)
        count++;
    assert(count > 0);
    assert(count <= COLUMNS_MAX);
    cells = calloc(row_count * count, sizeof(*cells));
    if (!cells)
        abort();
    for (size_t c = 0; c < count; c++) {
        width[c] = text_width(columns[c].title);
        for (size_t r = 0; r < row_count; r++) {
            cells[r * count + c] = format_value(json_array_get(rows, r), &columns[c]);
            width[c] = MAX(width[c], text_width(cells[r * count + c]));
        }
    }
    for (size_t c = 0; c < count; c++)
        print_cell(out, false, columns[c].title,
                   is_right(columns[c].format) ? COLUMN_NUMBER : COLUMN_TEXT, width[c],
                   c == count - 1);
    fputc('\n', out);
    for (size_t i = 0; i < row_count * count; i++) {
        size_t c = i % count;

        print_cell(out, colours, cells[i], columns[c].format, width[c], c == count - 1);
        if (c == count - 1)
            fputc('\n', out);
        free(cells[i]);
    }
    free(cells);
}

void output_record(FILE *out, bool colours, const json_t *object, const struct column *columns)
{
    size_t width = 0;

    for (const struct column *column = columns; column->title; column++)
        width = MAX(width, text_width(column->title));
    for (const struct column *column = columns; column->title; column++) {
        char *text = format_value(object, column);

        if (text[0]) {
            fprintf(out, "%s:%*s", column->title, (int)(width - text_width(column->title) + GAP),
                    "");
            print_coloured(out, colours, column->format, text);
            fputc('\n', out);
        }
        free(text);
    }
}

void output_progress(FILE *out, uint64_t done_bytes, uint64_t total_bytes, bool done)
{
    double share = total_bytes ? MIN(1.0, (double)done_bytes / (double)total_bytes) : (double)done;
    char done_text[SIZE_TEXT_MAX], total_text[SIZE_TEXT_MAX];
    int filled = (int)(share * PROGRESS_WIDTH);

    fprintf(out, "\r[");
    for (int i = 0; i < PROGRESS_WIDTH; i++)
        fputc(i < filled ? '#' : '-', out);
    fprintf(out, "] %3d %%  %s of %s\033[K", (int)(share * 100), size_format(done_bytes, done_text),
            size_format(total_bytes, total_text));
    if (done)
        fputc('\n', out);
    fflush(out);
}
