/* The tables of fields, and the two walks over them. A field is a place in its struct, a type and a
 * name: adding one is one line here and one in schema.h. */
#include "s2d/cluster/schema.h"

enum field_type {
    FIELD_U64,
    FIELD_BOOL,
    FIELD_TEXT,      /* char[size] */
    FIELD_ENUM,      /* unsigned, written as one of words[] */
    FIELD_TEXT_LIST, /* char[max][size], counted by count_offset */
    FIELD_COLUMNS,   /* struct column_record[], counted by count_offset */
};

struct field {
    const char *name;
    enum field_type type;
    size_t offset;
    size_t size; /* of one text */
    size_t max;  /* of a list */
    size_t count_offset;
    const char *const *words;
};

const char *const node_state_words[] = {"down", "up", "draining", "paused", NULL};
const char *const disk_state_words[] = {"ok", "failed", "retiring", "retired", NULL};
const char *const disk_role_words[] = {"capacity", "cache", NULL};
const char *const disk_media_words[] = {"ssd", "nvme", "hdd", NULL};
const char *const column_state_words[] = {"stale", "in-sync", NULL};
const char *const resiliency_words[] = {"simple", "mirror2", "mirror3", "parity2", NULL};
const char *const volume_state_words[] = {"creating", "online", "deleting", NULL};
const char *const vm_state_words[] = {"stopped", "running", NULL};
const char *const job_state_words[] = {"running", "paused", "done", "failed", NULL};
const char *const severity_words[] = {"information", "warning", "error", NULL};

#define U64(type, member)                                                                          \
    {                                                                                              \
#member, FIELD_U64, offsetof(struct type, member), 0, 0, 0, NULL                           \
    }
#define BOOL(type, member)                                                                         \
    {                                                                                              \
#member, FIELD_BOOL, offsetof(struct type, member), 0, 0, 0, NULL                          \
    }
#define TEXT(type, member)                                                                         \
    {                                                                                              \
#member, FIELD_TEXT, offsetof(struct type, member), sizeof(((struct type *)0)->member), 0, \
            0, NULL                                                                                \
    }
#define ENUM(type, member, table)                                                                  \
    {                                                                                              \
#member, FIELD_ENUM, offsetof(struct type, member), 0, 0, 0, table                         \
    }
#define END                                                                                        \
    {                                                                                              \
        NULL, 0, 0, 0, 0, 0, NULL                                                                  \
    }

static const struct field cluster_fields[] = {
    TEXT(cluster_record, name),
    TEXT(cluster_record, uuid),
    U64(cluster_record, created_ns),
    U64(cluster_record, next_id),
    U64(cluster_record, extent_bytes),
    BOOL(cluster_record, read_cache_limited),
    U64(cluster_record, read_cache_bytes),
    U64(cluster_record, vm_restart_delay_ms),
    END,
};

static const struct field token_fields[] = {
    TEXT(token_record, secret),
    U64(token_record, expires_ns),
    END,
};

static const struct field node_fields[] = {
    TEXT(node_record, name),
    TEXT(node_record, address),
    TEXT(node_record, site),
    TEXT(node_record, rack),
    TEXT(node_record, chassis),
    ENUM(node_record, state, node_state_words),
    U64(node_record, start_counter),
    U64(node_record, joined_ns),
    END,
};

static const struct field disk_fields[] = {
    U64(disk_record, node),
    TEXT(disk_record, name),
    TEXT(disk_record, path),
    TEXT(disk_record, uuid),
    ENUM(disk_record, role, disk_role_words),
    ENUM(disk_record, media, disk_media_words),
    ENUM(disk_record, state, disk_state_words),
    U64(disk_record, size_bytes),
    U64(disk_record, extents),
    U64(disk_record, log_bytes),
    TEXT(disk_record, reason),
    END,
};

static const struct field column_fields[] = {
    U64(column_record, disk),
    U64(column_record, extent),
    U64(column_record, generation),
    ENUM(column_record, state, column_state_words),
    U64(column_record, stale_epoch),
    U64(column_record, in_sync_epoch),
    END,
};

static const struct field slab_fields[] = {
    U64(slab_record, vdisk),
    U64(slab_record, number),
    {"columns", FIELD_COLUMNS, offsetof(struct slab_record, columns), 0, COLUMNS_MAX,
     offsetof(struct slab_record, column_count), NULL},
    END,
};

static const struct field vdisk_fields[] = {
    U64(vdisk_record, volume),          U64(vdisk_record, size_bytes),
    U64(vdisk_record, slab_bytes),      ENUM(vdisk_record, resiliency, resiliency_words),
    U64(vdisk_record, data_columns),    U64(vdisk_record, epoch),
    U64(vdisk_record, session),         U64(vdisk_record, owner),
    U64(vdisk_record, preferred_owner), END,
};

static const struct field volume_fields[] = {
    TEXT(volume_record, name),      U64(volume_record, vdisk),
    U64(volume_record, size_bytes), ENUM(volume_record, resiliency, resiliency_words),
    BOOL(volume_record, thin),      ENUM(volume_record, state, volume_state_words),
    U64(volume_record, created_ns), END,
};

static const struct field vm_fields[] = {
    TEXT(vm_record, name),
    U64(vm_record, memory_bytes),
    U64(vm_record, vcpus),
    U64(vm_record, generation),
    {"disks", FIELD_TEXT_LIST, offsetof(struct vm_record, disks), PATH_MAX_BYTES, VM_DISKS_MAX,
     offsetof(struct vm_record, disk_count), NULL},
    TEXT(vm_record, switch_name),
    ENUM(vm_record, wanted, vm_state_words),
    U64(vm_record, node),
    U64(vm_record, incarnation),
    U64(vm_record, ended),
    TEXT(vm_record, reason),
    END,
};

static const struct field job_fields[] = {
    TEXT(job_record, kind),
    TEXT(job_record, target),
    ENUM(job_record, state, job_state_words),
    U64(job_record, done_bytes),
    U64(job_record, total_bytes),
    U64(job_record, left_bytes),
    TEXT(job_record, message),
    U64(job_record, created_ns),
    U64(job_record, ended_ns),
    END,
};

static const struct field event_fields[] = {
    U64(event_record, time_ns), ENUM(event_record, severity, severity_words),
    TEXT(event_record, code),   TEXT(event_record, subject),
    TEXT(event_record, text),   END,
};

static const struct {
    const char *name;
    size_t bytes;
    const struct field *fields;
} tables[TABLE_COUNT] = {
    [TABLE_CLUSTER] = {"cluster", sizeof(struct cluster_record), cluster_fields},
    [TABLE_TOKEN] = {"token", sizeof(struct token_record), token_fields},
    [TABLE_NODE] = {"node", sizeof(struct node_record), node_fields},
    [TABLE_DISK] = {"disk", sizeof(struct disk_record), disk_fields},
    [TABLE_VDISK] = {"vdisk", sizeof(struct vdisk_record), vdisk_fields},
    [TABLE_SLAB] = {"slab", sizeof(struct slab_record), slab_fields},
    [TABLE_VOLUME] = {"volume", sizeof(struct volume_record), volume_fields},
    [TABLE_VM] = {"vm", sizeof(struct vm_record), vm_fields},
    [TABLE_JOB] = {"job", sizeof(struct job_record), job_fields},
    [TABLE_EVENT] = {"event", sizeof(struct event_record), event_fields},
};

const char *table_name(enum table table)
{
    return tables[table].name;
}

int table_by_name(const char *name)
{
    for (int i = 0; i < TABLE_COUNT; i++) {
        if (strcmp(tables[i].name, name) == 0)
            return i;
    }
    return -ENOENT;
}

size_t table_record_bytes(enum table table)
{
    return tables[table].bytes;
}

int schema_value(const char *const *words, const char *word)
{
    for (int i = 0; words[i]; i++) {
        if (strcmp(words[i], word) == 0)
            return i;
    }
    return -ENOENT;
}

unsigned resiliency_copies(enum resiliency resiliency)
{
    switch (resiliency) {
    case RESILIENCY_SIMPLE:
        return 1;
    case RESILIENCY_MIRROR2:
        return 2;
    case RESILIENCY_MIRROR3:
        return 3;
    case RESILIENCY_PARITY2:
        return 0;
    }
    return 0;
}

unsigned vdisk_data_columns(const struct vdisk_record *vdisk)
{
    return vdisk->resiliency == RESILIENCY_PARITY2 ? (unsigned)vdisk->data_columns : 1;
}

unsigned vdisk_columns(const struct vdisk_record *vdisk)
{
    return vdisk->resiliency == RESILIENCY_PARITY2 ? (unsigned)vdisk->data_columns + PARITY2_COLUMNS
                                                   : resiliency_copies(vdisk->resiliency);
}

bool name_is_valid(const char *name)
{
    size_t length = strlen(name);

    if (length == 0 || length >= NAME_MAX_BYTES || name[0] == '.' || name[0] == '-')
        return false;
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
           length;
}

bool address_is_valid(const char *address)
{
    const char *colon = strrchr(address, ':');
    size_t length = strlen(address);

    return colon && colon > address && colon[1] && length < ADDRESS_MAX_BYTES &&
           strspn(address,
                  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/[]%") ==
               length;
}

/* Bytes of the UTF-8 character at text; 0: there is none. */
static size_t character_bytes(const char *text)
{
    const uint8_t *byte = (const uint8_t *)text;
    size_t count = byte[0] < 0x80                      ? 1
                   : byte[0] >= 0xc2 && byte[0] < 0xe0 ? 2
                   : byte[0] >= 0xe0 && byte[0] < 0xf0 ? 3
                   : byte[0] >= 0xf0 && byte[0] < 0xf5 ? 4
                                                       : 0;

    for (size_t i = 1; i < count; i++) {
        if ((byte[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((byte[0] == 0xe0 && byte[1] < 0xa0) || (byte[0] == 0xed && byte[1] >= 0xa0) ||
        (byte[0] == 0xf0 && byte[1] < 0x90) || (byte[0] == 0xf4 && byte[1] >= 0x90))
        return 0; /* too long a form, a surrogate, beyond the last one */
    return count;
}

void text_make_valid(char *text)
{
    while (*text) {
        size_t count = character_bytes(text);

        if (count == 0)
            *text = '?';
        text += MAX(count, 1u);
    }
}

void text_set(char *place, size_t size, const char *text)
{
    size_t length = strlen(text);

    if (length >= size) {
        length = size - 1;
        while (length > 0 && ((uint8_t)text[length] & 0xc0) == 0x80)
            length--; /* the character that is cut begins further ahead */
    }
    memmove(place, text, length); /* a record's own text may be put back */
    memset(place + length, 0, size - length);
    text_make_valid(place);
}

/* ---- records ---- */

void *record_new(enum table table, uint64_t id)
{
    struct record_base *record = calloc(1, tables[table].bytes);

    if (record)
        record->id = id;
    return record;
}

void record_free(void *record)
{
    struct record_base *base = record;

    if (!base)
        return;
    json_decref(base->unknown);
    free(base);
}

void record_assign(enum table table, void *to, const void *from)
{
    struct record_base *base = to;

    json_decref(base->unknown);
    memcpy(to, from, tables[table].bytes);
    json_incref(base->unknown);
}

/* ---- to JSON ---- */

static json_t *fields_to_json(const struct field *fields, const void *record, json_t *object);

/* A list that is short must not pass for whole. */
static json_t *list_failed(json_t *list)
{
    json_decref(list);
    return NULL;
}

static json_t *columns_to_json(const struct column_record *columns, uint64_t count)
{
    json_t *list = json_array();

    for (uint64_t i = 0; i < count; i++) {
        if (json_array_append_new(list, fields_to_json(column_fields, &columns[i], json_object())) <
            0)
            return list_failed(list);
    }
    return list;
}

static json_t *texts_to_json(const char *texts, size_t size, uint64_t count)
{
    json_t *list = json_array();

    for (uint64_t i = 0; i < count; i++) {
        if (json_array_append_new(list, json_string(texts + i * size)) < 0)
            return list_failed(list);
    }
    return list;
}

static json_t *field_to_json(const struct field *field, const char *record)
{
    const char *place = record + field->offset;
    uint64_t count = field->max ? *(const uint64_t *)(record + field->count_offset) : 0;

    switch (field->type) {
    case FIELD_U64:
        return json_integer((json_int_t) * (const uint64_t *)place);
    case FIELD_BOOL:
        return json_boolean(*(const bool *)place);
    case FIELD_TEXT:
        return json_string(place);
    case FIELD_ENUM:
        return json_string(field->words[*(const unsigned *)place]);
    case FIELD_TEXT_LIST:
        return texts_to_json(place, field->size, count);
    case FIELD_COLUMNS:
        return columns_to_json((const struct column_record *)place, count);
    }
    return NULL;
}

static json_t *fields_to_json(const struct field *fields, const void *record, json_t *object)
{
    for (const struct field *field = fields; field->name; field++) {
        if (json_object_set_new(object, field->name, field_to_json(field, record)) < 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

json_t *record_to_json(enum table table, const void *record)
{
    const struct record_base *base = record;
    json_t *object = json_object();

    if (json_object_set_new(object, "id", json_integer((json_int_t)base->id)) < 0) {
        json_decref(object);
        return NULL;
    }
    object = fields_to_json(tables[table].fields, record, object);
    if (object && base->unknown)
        json_object_update_missing(object, base->unknown);
    return object;
}

/* ---- to text ---- */

#define COLUMN_TEXT_MAX 256
#define SLAB_TEXT_MAX (128 + COLUMNS_MAX * COLUMN_TEXT_MAX)

static char *put_u64(char *to, uint64_t value)
{
    char digits[20];
    size_t count = 0;

    if ((json_int_t)value < 0) { /* as JSON has it */
        *to++ = '-';
        value = -value;
    }
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (count > 0)
        *to++ = digits[--count];
    return to;
}

/* Each field of a column, or of a slab but for its columns, with a comma before it. */
static char *put_fields(char *to, const struct field *fields, const void *record)
{
    for (const struct field *field = fields; field->name; field++) {
        const char *place = (const char *)record + field->offset;

        if (field->type == FIELD_COLUMNS)
            continue;
        to = stpcpy(stpcpy(stpcpy(to, ",\""), field->name), "\":");
        if (field->type == FIELD_ENUM) {
            to = stpcpy(stpcpy(to, "\""), field->words[*(const unsigned *)place]);
            *to++ = '"';
        } else {
            assert(field->type == FIELD_U64);
            to = put_u64(to, *(const uint64_t *)place);
        }
    }
    return to;
}

static char *slab_to_text(const struct slab_record *slab)
{
    char *text = malloc(SLAB_TEXT_MAX), *to = text;

    if (!text)
        return NULL;
    to = put_u64(stpcpy(to, "{\"id\":"), slab->base.id);
    to = stpcpy(put_fields(to, slab_fields, slab), ",\"columns\":[");
    for (uint64_t i = 0; i < slab->column_count; i++) {
        char *first = to + (i > 0);

        *to = ',';
        to = put_fields(first, column_fields, &slab->columns[i]);
        *first = '{';
        *to++ = '}';
    }
    to = stpcpy(to, "]}");
    assert(to < text + SLAB_TEXT_MAX);
    return text;
}

char *record_to_text(enum table table, const void *record)
{
    const struct record_base *base = record;
    json_t *json;
    char *text;

    if (table == TABLE_SLAB && !base->unknown)
        return slab_to_text(record);
    json = record_to_json(table, record);
    text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    return text;
}

/* ---- from JSON ---- */

static int fields_from_json(const struct field *fields, const json_t *json, void *record,
                            const char **ret_field);

static int text_from_json(const json_t *value, char *place, size_t size)
{
    const char *text = json_string_value(value);

    if (!text || json_string_length(value) >= size || strlen(text) != json_string_length(value))
        return -EINVAL;
    memset(place, 0, size);
    memcpy(place, text, strlen(text));
    return 0;
}

static int texts_from_json(const struct field *field, const json_t *value, char *place,
                           uint64_t *ret_count)
{
    if (!json_is_array(value) || json_array_size(value) > field->max)
        return -EINVAL;
    for (size_t i = 0; i < json_array_size(value); i++) {
        int r = text_from_json(json_array_get(value, i), place + i * field->size, field->size);

        if (r < 0)
            return r;
    }
    *ret_count = json_array_size(value);
    return 0;
}

static int columns_from_json(const struct field *field, const json_t *value,
                             struct column_record *columns, uint64_t *ret_count)
{
    if (!json_is_array(value) || json_array_size(value) > field->max)
        return -EINVAL;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *column = json_array_get(value, i);
        int r = json_is_object(column) ? fields_from_json(column_fields, column, &columns[i], NULL)
                                       : -EINVAL;

        if (r < 0)
            return r;
    }
    *ret_count = json_array_size(value);
    return 0;
}

static int enum_from_json(const struct field *field, const json_t *value, unsigned *ret_value)
{
    const char *word = json_string_value(value);
    int r = word ? schema_value(field->words, word) : -EINVAL;

    if (r < 0)
        return -EINVAL;
    *ret_value = r;
    return 0;
}

static int field_from_json(const struct field *field, const json_t *value, char *record)
{
    char *place = record + field->offset;
    uint64_t *count = (uint64_t *)(record + field->count_offset);

    switch (field->type) {
    case FIELD_U64:
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return -EINVAL;
        *(uint64_t *)place = (uint64_t)json_integer_value(value);
        return 0;
    case FIELD_BOOL:
        if (!json_is_boolean(value))
            return -EINVAL;
        *(bool *)place = json_is_true(value);
        return 0;
    case FIELD_TEXT:
        return text_from_json(value, place, field->size);
    case FIELD_ENUM:
        return enum_from_json(field, value, (unsigned *)place);
    case FIELD_TEXT_LIST:
        return texts_from_json(field, value, place, count);
    case FIELD_COLUMNS:
        return columns_from_json(field, value, (struct column_record *)place, count);
    }
    return -EINVAL;
}

static int fields_from_json(const struct field *fields, const json_t *json, void *record,
                            const char **ret_field)
{
    for (const struct field *field = fields; field->name; field++) {
        const json_t *value = json_object_get(json, field->name);
        int r = value ? field_from_json(field, value, record) : 0;

        if (r < 0) {
            if (ret_field)
                *ret_field = field->name;
            return r;
        }
    }
    return 0;
}

static bool field_is_known(enum table table, const char *name)
{
    if (strcmp(name, "id") == 0)
        return true;
    for (const struct field *field = tables[table].fields; field->name; field++) {
        if (strcmp(field->name, name) == 0)
            return true;
    }
    return false;
}

static int keep_unknown(enum table table, const json_t *json, struct record_base *base)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)json, name, value)
    {
        if (field_is_known(table, name))
            continue;
        if (!base->unknown)
            base->unknown = json_object();
        if (!base->unknown || json_object_set(base->unknown, name, value) < 0)
            return -ENOMEM;
    }
    return 0;
}

int record_from_json(enum table table, const json_t *json, void *record, const char **ret_field)
{
    struct record_base *base = record;
    const json_t *id = json_object_get(json, "id");

    if (ret_field)
        *ret_field = "";
    if (!json_is_object(json))
        return -EINVAL;
    if (id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return -EINVAL;
        base->id = (uint64_t)json_integer_value(id);
    }
    if (fields_from_json(tables[table].fields, json, record, ret_field) < 0)
        return -EINVAL;
    return keep_unknown(table, json, base);
}
