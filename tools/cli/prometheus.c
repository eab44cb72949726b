#include "tools/cli/prometheus.h"

#include <stdio.h>

#define BUCKETS_MAX 80

/* "name{labels} value" or "name value", in place. */
static bool parse_line(char *line, struct sample *ret_sample)
{
    char *end = line + strcspn(line, "{ "), *value = end, *number_end;

    if (end == line || *end == '\0')
        return false;
    ret_sample->labels = "";
    if (*end == '{') {
        char *close = strrchr(end, '}');

        if (!close || close[1] != ' ')
            return false;
        ret_sample->labels = end + 1;
        *close = '\0';
        value = close + 1;
    }
    *end = '\0';
    ret_sample->name = line;
    ret_sample->value = strtod(value + 1, &number_end);
    return number_end != value + 1;
}

int samples_parse(const char *text, struct samples *ret_samples)
{
    struct samples samples = {.text = strdup(text)};
    size_t size = 0;
    char *save = NULL;

    if (!samples.text)
        return -ENOMEM;
    for (char *line = strtok_r(samples.text, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        if (samples.count == size) {
            struct sample *list = realloc(samples.list, MAX(2 * size, 64) * sizeof(*list));

            if (!list) {
                samples_done(&samples);
                return -ENOMEM;
            }
            samples.list = list;
            size = MAX(2 * size, 64);
        }
        if (line[0] != '#' && parse_line(line, &samples.list[samples.count]))
            samples.count++;
    }
    *ret_samples = samples;
    return 0;
}

void samples_done(struct samples *samples)
{
    free(samples->list);
    free(samples->text);
    *samples = (struct samples){0};
}

/* A label is found whole: between commas. */
static bool has_label(const char *labels, const char *label)
{
    size_t length = label ? strlen(label) : 0;

    if (!label)
        return true;
    for (const char *place = labels; (place = strstr(place, label)); place++) {
        if ((place == labels || place[-1] == ',') && (place[length] == ',' || !place[length]))
            return true;
    }
    return false;
}

double samples_sum(const struct samples *samples, const char *name, const char *label)
{
    double sum = 0;

    for (size_t i = 0; i < samples->count; i++) {
        if (strcmp(samples->list[i].name, name) == 0 && has_label(samples->list[i].labels, label))
            sum += samples->list[i].value;
    }
    return sum;
}

struct bucket {
    double end;   /* inclusive; +Inf: HUGE */
    double count; /* up to it */
};

static double label_number(const char *labels, const char *name)
{
    const char *place = strstr(labels, name);

    return place ? strtod(place + strlen(name), NULL) : -1;
}

/* Adds the histogram's buckets, times sign. Several histograms of the label (of more than one node)
 * add up. A histogram is written only up to its largest value: what it leaves out counts as its
 * last. */
static size_t add_buckets(const struct samples *samples, const char *bucket_name, const char *label,
                          double sign, struct bucket *buckets, size_t count)
{
    for (size_t i = 0; samples && i < samples->count; i++) {
        const struct sample *sample = &samples->list[i];
        double end;
        size_t at;

        if (strcmp(sample->name, bucket_name) != 0 || !has_label(sample->labels, label))
            continue;
        end = label_number(sample->labels, "le=\"");
        for (at = 0; at < count && buckets[at].end < end; at++)
            ;
        if (at == count || buckets[at].end != end) {
            if (count == BUCKETS_MAX)
                continue;
            memmove(&buckets[at + 1], &buckets[at], (count - at) * sizeof(*buckets));
            buckets[at] = (struct bucket){.end = end, .count = 0};
            count++;
        }
        buckets[at].count += sign * sample->value;
    }
    return count;
}

double samples_percentile(const struct samples *before, const struct samples *after,
                          const char *name, const char *label, double fraction)
{
    struct bucket buckets[BUCKETS_MAX];
    char bucket_name[128];
    double wanted, start = 0, below = 0;
    size_t count;

    snprintf(bucket_name, sizeof(bucket_name), "%s_bucket", name);
    count = add_buckets(after, bucket_name, label, 1, buckets, 0);
    count = add_buckets(before, bucket_name, label, -1, buckets, count);
    if (count == 0 || !(buckets[count - 1].count > 0))
        return 0;
    wanted = fraction * buckets[count - 1].count;
    for (size_t i = 0; i < count; i++) {
        double in_bucket = buckets[i].count - below;

        if (buckets[i].count >= wanted && in_bucket > 0) {
            if (i == count - 1) /* no end but infinity */
                return start;
            return start + (buckets[i].end + 1 - start) * (wanted - below) / in_bucket;
        }
        below = MAX(below, buckets[i].count);
        start = buckets[i].end + 1;
    }
    return start;
}
