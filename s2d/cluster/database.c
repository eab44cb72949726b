/* The database's ground: tables of records sorted by id, arguments of commands, dispatch to the
 * verbs.
 *
 * Sorted arrays of pointers, searched by halving: ids only grow, so a new record is nearly always
 * appended; iteration is in order, the same on every node; slabs, whose id is (vdisk, number), lie
 * together. */
#include <stdarg.h>
#include <stdio.h>

#include "s2d/base/planted.h"
#include "s2d/cluster/database_internal.h"

#define EVENTS_MAX 2000

int database_new(struct database **ret_database)
{
    *ret_database = calloc(1, sizeof(**ret_database));
    return *ret_database ? 0 : -ENOMEM;
}

void database_clear(struct database *database)
{
    for (int table = 0; table < TABLE_COUNT; table++) {
        struct table_rows *rows = &database->tables[table];

        for (size_t i = 0; i < rows->count; i++)
            record_free(rows->rows[i]);
        free(rows->rows);
        *rows = (struct table_rows){0};
    }
    for (size_t i = 0; i < database->usage_count; i++)
        free(database->usage[i].bits);
    free(database->usage);
    database->usage = NULL;
    database->usage_count = 0;
    database->change_count = 0;
}

void database_free(struct database *database)
{
    if (!database)
        return;
    database_clear(database);
    free(database->changes);
    free(database);
}

/* ---- reading ---- */

size_t database_lower_bound(const struct database *database, enum table table, uint64_t id)
{
    const struct table_rows *rows = &database->tables[table];
    size_t low = 0, high = rows->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (rows->rows[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void *database_find_mutable(struct database *database, enum table table, uint64_t id)
{
    size_t i = database_lower_bound(database, table, id);
    struct table_rows *rows = &database->tables[table];

    return i < rows->count && rows->rows[i]->id == id ? rows->rows[i] : NULL;
}

const void *database_find(const struct database *database, enum table table, uint64_t id)
{
    return database_find_mutable((struct database *)database, table, id);
}

const void *database_at(const struct database *database, enum table table, size_t i)
{
    return i < database->tables[table].count ? database->tables[table].rows[i] : NULL;
}

size_t database_count(const struct database *database, enum table table)
{
    return database->tables[table].count;
}

static const char *record_name(enum table table, const void *record)
{
    switch (table) {
    case TABLE_NODE:
        return ((const struct node_record *)record)->name;
    case TABLE_VOLUME:
        return ((const struct volume_record *)record)->name;
    case TABLE_VM:
        return ((const struct vm_record *)record)->name;
    case TABLE_DISK:
        return ((const struct disk_record *)record)->name;
    case TABLE_CLUSTER:
        return ((const struct cluster_record *)record)->name;
    case TABLE_TOKEN:
    case TABLE_VDISK:
    case TABLE_SLAB:
    case TABLE_JOB:
    case TABLE_EVENT:
    case TABLE_COUNT:
        return "";
    }
    return "";
}

const void *database_find_name(const struct database *database, enum table table, const char *name)
{
    const void *record;

    for (size_t i = 0; (record = database_at(database, table, i)); i++) {
        if (strcmp(record_name(table, record), name) == 0)
            return record;
    }
    return NULL;
}

const struct cluster_record *database_cluster(const struct database *database)
{
    return database_find(database, TABLE_CLUSTER, 1);
}

const struct slab_record *database_slab(const struct database *database, uint64_t vdisk,
                                        uint64_t number)
{
    return database_find(database, TABLE_SLAB, slab_id(vdisk, number));
}

size_t database_slabs(const struct database *database, uint64_t vdisk, size_t *ret_count)
{
    size_t first = database_lower_bound(database, TABLE_SLAB, slab_id(vdisk, 0));

    *ret_count = database_lower_bound(database, TABLE_SLAB, slab_id(vdisk + 1, 0)) - first;
    return first;
}

const struct disk_record *database_disk_of(const struct database *database, uint64_t node,
                                           const char *name)
{
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        if (disk->node == node && strcmp(disk->name, name) == 0)
            return disk;
    }
    return NULL;
}

/* ---- extents in use ---- */

static struct disk_usage *find_usage(const struct database *database, uint64_t disk)
{
    for (size_t i = 0; i < database->usage_count; i++) {
        if (database->usage[i].disk == disk)
            return &database->usage[i];
    }
    return NULL;
}

/* The usage of a disk, with room for at least `extents`. */
static struct disk_usage *need_usage(struct database *database, uint64_t disk, uint64_t extents)
{
    struct disk_usage *usage = find_usage(database, disk);
    size_t old_words, words;

    if (!usage) {
        database->usage = realloc(database->usage, (database->usage_count + 1) * sizeof(*usage));
        if (!database->usage)
            abort(); /* a node that cannot hold its database cannot go on */
        usage = &database->usage[database->usage_count++];
        *usage = (struct disk_usage){.disk = disk};
    }
    if (extents <= usage->extents)
        return usage;
    old_words = DIV_ROUND_UP(usage->extents, 64);
    words = DIV_ROUND_UP(extents, 64);
    usage->bits = realloc(usage->bits, words * sizeof(uint64_t));
    if (!usage->bits)
        abort();
    memset(usage->bits + old_words, 0, (words - old_words) * sizeof(uint64_t));
    usage->extents = words * 64;
    return usage;
}

static void usage_count_slab(struct database *database, const struct slab_record *slab, bool used)
{
    for (uint64_t i = 0; i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];
        struct disk_usage *usage = need_usage(database, column->disk, column->extent + 1);
        uint64_t bit = UINT64_C(1) << column->extent % 64;

        assert(!(usage->bits[column->extent / 64] & bit) == used);
        usage->bits[column->extent / 64] ^= bit;
        usage->used += used ? 1 : -!PLANTED(USED_NOT_GIVEN_BACK);
    }
}

uint64_t database_used_extents(const struct database *database, uint64_t disk)
{
    const struct disk_usage *usage = find_usage(database, disk);

    return usage ? usage->used : 0;
}

bool database_extent_is_free(const struct database *database, uint64_t disk, uint64_t extent)
{
    const struct disk_usage *usage = find_usage(database, disk);

    return !usage || extent >= usage->extents ||
           !(usage->bits[extent / 64] & UINT64_C(1) << extent % 64);
}

int64_t database_free_extent(const struct database *database, uint64_t disk, uint64_t from)
{
    const struct disk_record *record = database_find(database, TABLE_DISK, disk);

    for (uint64_t extent = from; record && extent < record->extents; extent++) {
        if (database_extent_is_free(database, disk, extent))
            return (int64_t)extent;
    }
    return -ENOSPC;
}

/* ---- changing ---- */

static void note_change(struct database *database, enum table table, uint64_t id, bool removed)
{
    if (database->change_count == database->change_size) {
        database->change_size = MAX(2 * database->change_size, 64);
        database->changes =
            realloc(database->changes, database->change_size * sizeof(*database->changes));
        if (!database->changes)
            abort();
    }
    database->changes[database->change_count++] =
        (struct database_change){.table = table, .id = id, .removed = removed};
}

static void insert_row(struct table_rows *rows, size_t at, struct record_base *record)
{
    if (rows->count == rows->size) {
        rows->size = MAX(2 * rows->size, 16);
        rows->rows = realloc(rows->rows, rows->size * sizeof(struct record_base *));
        if (!rows->rows)
            abort();
    }
    memmove(rows->rows + at + 1, rows->rows + at, (rows->count - at) * sizeof(*rows->rows));
    rows->rows[at] = record;
    rows->count++;
}

void database_put(struct database *database, enum table table, void *record)
{
    struct record_base *base = record;
    struct table_rows *rows = &database->tables[table];
    size_t at = database_lower_bound(database, table, base->id);

    if (at == rows->count || rows->rows[at]->id != base->id)
        insert_row(rows, at, base);
    assert(rows->rows[at] == base);
    if (base->noted != database->commands)
        note_change(database, table, base->id, false);
    base->noted = database->commands;
}

/* Notes that the record goes; what was noted of it before is void. */
static void note_removal(struct database *database, enum table table,
                         const struct record_base *record)
{
    for (size_t i = database->change_count; record->noted == database->commands && i > 0; i--) {
        struct database_change *change = &database->changes[i - 1];

        if (change->table == table && change->id == record->id) {
            change->removed = true;
            return;
        }
    }
    note_change(database, table, record->id, true);
}

void database_remove(struct database *database, enum table table, uint64_t id)
{
    struct table_rows *rows = &database->tables[table];
    size_t at = database_lower_bound(database, table, id);

    assert(at < rows->count && rows->rows[at]->id == id);
    note_removal(database, table, rows->rows[at]);
    record_free(rows->rows[at]);
    rows->count--;
    memmove(rows->rows + at, rows->rows + at + 1, (rows->count - at) * sizeof(*rows->rows));
}

void database_put_slab(struct database *database, struct slab_record *slab,
                       const struct slab_record *old)
{
    if (old)
        usage_count_slab(database, old, false);
    usage_count_slab(database, slab, true);
    database_put(database, TABLE_SLAB, slab);
}

void database_remove_slab(struct database *database, struct slab_record *slab)
{
    usage_count_slab(database, slab, false);
    database_remove(database, TABLE_SLAB, slab->base.id);
}

uint64_t database_new_id(struct database *database)
{
    struct cluster_record *cluster = database_find_mutable(database, TABLE_CLUSTER, 1);
    uint64_t id = cluster->next_id++;

    database_put(database, TABLE_CLUSTER, cluster);
    return id;
}

void database_add_event(struct command *command, enum severity severity, const char *code,
                        const char *subject, const char *format, ...)
{
    struct database *database = command->database;
    struct event_record *event = record_new(TABLE_EVENT, database_new_id(database));
    va_list list;

    if (!event)
        abort();
    event->time_ns = command_time_ns(command);
    event->severity = severity;
    SET_TEXT(event->code, code);
    SET_TEXT(event->subject, subject);
    va_start(list, format);
    vsnprintf(event->text, sizeof(event->text), format, list);
    va_end(list);
    text_make_valid(event->text);
    database_put(database, TABLE_EVENT, event);
    while (database_count(database, TABLE_EVENT) > EVENTS_MAX)
        database_remove(database, TABLE_EVENT, database->tables[TABLE_EVENT].rows[0]->id);
}

/* ---- commands ---- */

void command_result_done(struct command_result *result)
{
    json_decref(result->reply);
    result->reply = NULL;
}

void command_refuse(struct command *command, int code, const char *format, ...)
{
    va_list list;

    assert(code < 0);
    if (command->result->code < 0)
        return; /* the first reason is the one to tell */
    command->result->code = code;
    va_start(list, format);
    vsnprintf(command->result->message, sizeof(command->result->message), format, list);
    va_end(list);
    text_make_valid(command->result->message);
}

bool command_refused(const struct command *command)
{
    return command->result->code < 0;
}

static const json_t *argument(struct command *command, const char *name)
{
    const json_t *value = json_object_get(command->json, name);

    if (!value)
        command_refuse(command, -EINVAL, "the argument '%s' is missing", name);
    return value;
}

uint64_t command_u64(struct command *command, const char *name)
{
    const json_t *value = argument(command, name);

    if (value && (!json_is_integer(value) || json_integer_value(value) < 0)) {
        command_refuse(command, -EINVAL, "'%s' must be a number that is not negative", name);
        return 0;
    }
    return (uint64_t)json_integer_value(value);
}

uint64_t command_u64_or(struct command *command, const char *name, uint64_t otherwise)
{
    return json_object_get(command->json, name) ? command_u64(command, name) : otherwise;
}

uint64_t command_time_ns(const struct command *command)
{
    return (uint64_t)json_integer_value(json_object_get(command->json, "time_ns"));
}

bool command_bool_or(struct command *command, const char *name, bool otherwise)
{
    const json_t *value = json_object_get(command->json, name);

    if (!value)
        return otherwise;
    if (!json_is_boolean(value))
        command_refuse(command, -EINVAL, "'%s' must be true or false", name);
    return json_is_true(value);
}

const char *command_text(struct command *command, const char *name)
{
    const json_t *value = argument(command, name);

    if (value && !json_is_string(value))
        command_refuse(command, -EINVAL, "'%s' must be a text", name);
    return json_is_string(value) ? json_string_value(value) : "";
}

const char *command_text_or(struct command *command, const char *name, const char *otherwise)
{
    return json_object_get(command->json, name) ? command_text(command, name) : otherwise;
}

const json_t *command_list(struct command *command, const char *name)
{
    const json_t *value = argument(command, name);

    if (value && !json_is_array(value))
        command_refuse(command, -EINVAL, "'%s' must be a list", name);
    return value;
}

const json_t *command_list_or(struct command *command, const char *name, const json_t *otherwise)
{
    return json_object_get(command->json, name) ? command_list(command, name) : otherwise;
}

void command_check_slabs(struct command *command, const json_t *list, size_t max)
{
    size_t count = json_array_size(list);

    if (count == 0 || count > max)
        command_refuse(command, -EINVAL, "from 1 to %zu slabs at once", max);
    for (size_t i = 0; i < count && !command_refused(command); i++) {
        const json_t *number = json_array_get(list, i);

        if (!json_is_integer(number) || json_integer_value(number) < 0 ||
            (uint64_t)json_integer_value(number) >= VDISK_SLABS_MAX)
            command_refuse(command, -EINVAL, "the numbers of slabs must be from 0 to %llu",
                           (unsigned long long)VDISK_SLABS_MAX - 1);
    }
}

static void refuse_word(struct command *command, const char *name, const char *word,
                        const char *const *words)
{
    char list[128] = "";

    for (size_t i = 0; words[i]; i++)
        snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "", words[i]);
    command_refuse(command, -EINVAL, "'%.64s' is not a value that '%s' can have: %s", word, name,
                   list);
}

unsigned command_word(struct command *command, const char *name, const char *const *words)
{
    const char *word = command_text(command, name);
    int value = schema_value(words, word);

    if (value < 0)
        refuse_word(command, name, word, words);
    return value < 0 ? 0 : (unsigned)value;
}

void *command_record(struct command *command, const char *name, enum table table)
{
    uint64_t id = command_u64(command, name);
    void *record = database_find_mutable(command->database, table, id);

    if (!record)
        command_refuse(command, -ENOENT, "there is no %s with the id %llu", table_name(table),
                       (unsigned long long)id);
    return record;
}

const char *command_new_name(struct command *command, const char *name, enum table table)
{
    const char *text = command_text(command, name);

    if (!name_is_valid(text))
        command_refuse(command, -EINVAL,
                       "'%s' cannot name a %s: use 1 to 63 letters, digits, '.', '_' or '-', and "
                       "begin with a letter, a digit or '_'",
                       text, table_name(table));
    else if (database_find_name(command->database, table, text))
        command_refuse(command, -EEXIST, "there is a %s called '%s' already: choose another name",
                       table_name(table), text);
    return text;
}

static command_fn *find_verb(const char *name)
{
    static const struct verb *const all[] = {cluster_verbs, volume_verbs, vdisk_verbs, vm_verbs};

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        for (const struct verb *verb = all[i]; verb->name; verb++) {
            if (strcmp(verb->name, name) == 0)
                return verb->fn;
        }
    }
    return NULL;
}

void database_apply(struct database *database, uint64_t index, const json_t *json,
                    struct command_result *ret_result)
{
    struct command command = {
        .database = database, .index = index, .json = json, .result = ret_result};
    const char *name = json_string_value(json_object_get(json, "verb"));
    command_fn *fn = name ? find_verb(name) : NULL;

    *ret_result = (struct command_result){0};
    database->change_count = 0;
    database->commands++;
    command_u64_or(&command, "time_ns", 0); /* events carry it: refused before anything changes */
    if (command_refused(&command))
        return;
    if (!fn) {
        command_refuse(&command, -EINVAL, "this version knows no command '%s'", name ? name : "");
        return;
    }
    if (!database_cluster(database) && strcmp(name, "cluster.create") != 0) {
        command_refuse(&command, -ENOENT, "there is no cluster yet: 's2d cluster create NAME'");
        return;
    }
    fn(&command);
    assert(!command_refused(&command) || database->change_count == 0);
}

const struct database_change *database_changes(const struct database *database, size_t *ret_count)
{
    *ret_count = database->change_count;
    return database->changes;
}

/* ---- storage ---- */

void database_key(enum table table, uint64_t id, char *ret_key)
{
    snprintf(ret_key, DATABASE_KEY_MAX, "%s/%016llx", table_name(table), (unsigned long long)id);
}

/* Its columns are on disks that are there, on extents that nobody else has. */
static bool slab_fits(const struct database *database, const struct slab_record *slab)
{
    for (uint64_t i = 0; i < slab->column_count; i++) {
        const struct column_record *column = &slab->columns[i];
        const struct disk_record *disk = database_find(database, TABLE_DISK, column->disk);

        if (!disk || column->extent >= disk->extents || disk->extents > DISK_EXTENTS_MAX ||
            !database_extent_is_free(database, column->disk, column->extent))
            return false;
        for (uint64_t j = 0; j < i; j++) {
            if (slab->columns[j].disk == column->disk)
                return false;
        }
    }
    return true;
}

static int load_record(struct database *database, enum table table, uint64_t id, const json_t *json)
{
    void *record;
    int r;

    if (id > INT64_MAX || database_find(database, table, id))
        return -EBADMSG;
    record = record_new(table, id);
    if (!record)
        return -ENOMEM;
    r = record_from_json(table, json, record, NULL);
    if (r == 0 && table == TABLE_SLAB && !slab_fits(database, record))
        r = -EBADMSG;
    if (r < 0 || ((struct record_base *)record)->id != id) {
        record_free(record);
        return r == -ENOMEM ? r : -EBADMSG;
    }
    if (table == TABLE_SLAB)
        database_put_slab(database, record, NULL);
    else
        database_put(database, table, record);
    database->change_count = 0;
    return 0;
}

int database_load(struct database *database, const char *key, const char *json, size_t json_bytes)
{
    char name[DATABASE_KEY_MAX];
    const char *slash = strchr(key, '/');
    json_t *object;
    uint64_t id;
    char *end;
    int table, r;

    if (!slash || (size_t)(slash - key) >= sizeof(name))
        return -EBADMSG;
    memcpy(name, key, slash - key);
    name[slash - key] = '\0';
    table = table_by_name(name);
    id = strtoull(slash + 1, &end, 16);
    if (table < 0 || end != slash + 17 || *end || strspn(slash + 1, "0123456789abcdef") != 16)
        return -EBADMSG;
    object = json_parse(json, json_bytes);
    if (!object)
        return -EBADMSG;
    r = load_record(database, table, id, object);
    json_decref(object);
    return r;
}
