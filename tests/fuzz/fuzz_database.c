/* Commands that somebody proposed, and records that somebody stored: what the database refuses
 * changes nothing, what it takes keeps the rules (database_check() asserts), can be written, and
 * comes back the same. Nothing that is proposed may end a node: the command stays in the log, and
 * would end it at each start.
 *
 * Input: lines. A line that begins with '{' is a command, applied to a small cluster; any other is
 * "KEY VALUE", loaded into a database of its own. */
#include "s2d/cluster/database.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define NODES 3
#define EXTENTS 12
#define COMMANDS_MAX 64

static uint64_t apply(struct database *database, uint64_t *index, json_t *command,
                      const char *reply)
{
    struct command_result result;
    uint64_t id;

    assert(command);
    database_apply(database, ++*index, command, &result);
    assert(result.code == 0);
    id = reply ? (uint64_t)json_integer_value(json_object_get(result.reply, reply)) : 0;
    command_result_done(&result);
    json_decref(command);
    return id;
}

static void add_node(struct database *database, uint64_t *index, const char *name)
{
    uint64_t token = apply(database, index,
                           json_pack("{s:s,s:s,s:I}", "verb", "token.create", "secret",
                                     "00000000000000000000000000000000"
                                     "00000000000000000000000000000000",
                                     "expires_ns", (json_int_t)SEC),
                           "token");

    apply(database, index,
          json_pack("{s:s,s:I,s:s,s:s}", "verb", "node.join", "token", (json_int_t)token, "name",
                    name, "address", "10.0.0.9:1"),
          NULL);
}

static void add_disk(struct database *database, uint64_t *index, uint64_t node)
{
    uint64_t disk =
        apply(database, index,
              json_pack("{s:s,s:I,s:s,s:s,s:s,s:s,s:s,s:I}", "verb", "disk.claim", "node",
                        (json_int_t)node, "name", "ssd0", "path", "/d", "uuid", "u", "role",
                        "capacity", "media", "ssd", "size_bytes", (json_int_t)(64 * MIB)),
              "disk");

    apply(database, index,
          json_pack("{s:s,s:I,s:i,s:i}", "verb", "disk.ready", "disk", (json_int_t)disk, "extents",
                    EXTENTS, "log_bytes", 1),
          NULL);
}

/* Three nodes with a disk each, a volume with a slab, a VM, a token: ids are small numbers. */
static struct database *new_cluster(uint64_t *index)
{
    struct database *database = NULL;
    json_t *columns = json_array();
    uint64_t vdisk;
    int r = database_new(&database);

    assert(r == 0);
    apply(database, index,
          json_pack("{s:s,s:s,s:s,s:s,s:s}", "verb", "cluster.create", "name", "c", "uuid", "u",
                    "node_name", "n1", "address", "10.0.0.1:1"),
          NULL);
    add_node(database, index, "n2");
    add_node(database, index, "n3");
    apply(database, index,
          json_pack("{s:s,s:I}", "verb", "pool.create", "extent_bytes", (json_int_t)(4 * MIB)),
          NULL);
    for (size_t i = 0; i < NODES; i++)
        add_disk(database, index,
                 ((const struct record_base *)database_at(database, TABLE_NODE, i))->id);
    vdisk =
        apply(database, index,
              json_pack("{s:s,s:s,s:I,s:s,s:i}", "verb", "volume.create", "name", "v", "size_bytes",
                        (json_int_t)(64 * MIB), "resiliency", "mirror3", "owner", 1),
              "vdisk");
    for (size_t i = 0; i < NODES; i++)
        json_array_append_new(
            columns,
            json_pack(
                "{s:I,s:i}", "disk",
                (json_int_t)((const struct record_base *)database_at(database, TABLE_DISK, i))->id,
                "extent", 0));
    apply(database, index,
          json_pack("{s:s,s:I,s:[{s:i,s:o}]}", "verb", "slab.add", "vdisk", (json_int_t)vdisk,
                    "slabs", "number", 0, "columns", columns),
          NULL);
    apply(database, index,
          json_pack("{s:s,s:s,s:I,s:i,s:[s]}", "verb", "vm.create", "name", "vm", "memory_bytes",
                    (json_int_t)(64 * MIB), "vcpus", 1, "disks", "v/d"),
          NULL);
    apply(database, index,
          json_pack("{s:s,s:s,s:I}", "verb", "token.create", "secret",
                    "1111111111111111111111111111111111111111111111111111111111111111",
                    "expires_ns", (json_int_t)SEC),
          NULL);
    database_check(database);
    return database;
}

/* Every record can be written, and read again in a database of its own. */
static void check_stored(const struct database *database)
{
    struct database *copy = NULL;
    int r = database_new(&copy);

    assert(r == 0);
    for (int table = 0; table < TABLE_COUNT; table++) {
        const struct record_base *record;

        for (size_t i = 0; (record = database_at(database, table, i)); i++) {
            json_t *json = record_to_json(table, record), *again;
            char *text = json ? json_dumps(json, JSON_COMPACT) : NULL, key[DATABASE_KEY_MAX];

            assert(text);
            database_key(table, record->id, key);
            r = database_load(copy, key, text, strlen(text));
            assert(r == 0);
            again = record_to_json(table, database_find(copy, table, record->id));
            assert(again && json_equal(json, again));
            json_decref(again);
            json_decref(json);
            free(text);
        }
    }
    assert(database_verify(copy) == 0);
    database_free(copy);
}

static void apply_line(struct database *database, uint64_t *index, const char *line, size_t bytes)
{
    json_t *command = json_parse(line, bytes);
    struct command_result result;
    size_t count;

    database_apply(database, ++*index, command, &result);
    database_changes(database, &count);
    assert(result.code == 0 || count == 0);
    assert(result.code == 0 || result.message[0]);
    command_result_done(&result);
    json_decref(command);
    database_check(database);
}

static void load_line(struct database *loaded, const char *line, size_t bytes)
{
    const char *space = memchr(line, ' ', bytes);
    char key[2 * DATABASE_KEY_MAX] = "";

    if (!space || (size_t)(space - line) >= sizeof(key))
        return;
    memcpy(key, line, space - line);
    (void)!database_load(loaded, key, space + 1, bytes - (space + 1 - line));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *line = (const char *)bytes, *end = line + size;
    struct database *database, *loaded = NULL;
    uint64_t index = 0;
    int r = database_new(&loaded);

    assert(r == 0);
    database = new_cluster(&index);
    for (unsigned i = 0; line < end && i < COMMANDS_MAX; i++) {
        const char *stop = memchr(line, '\n', end - line);
        size_t length = (stop ? stop : end) - line;

        if (*line == '{')
            apply_line(database, &index, line, length);
        else
            load_line(loaded, line, length);
        line += length + 1;
    }
    check_stored(database);
    if (database_verify(loaded) == 0)
        check_stored(loaded);
    database_free(loaded);
    database_free(database);
    return 0;
}
