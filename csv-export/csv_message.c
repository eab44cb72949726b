#include "csv-export/csv_message.h"

#include <endian.h>

#define ATTACH_MAGIC 0x48435441u  /* "ATCH" */
#define REQUEST_MAGIC 0x51455246u /* "FREQ" */
#define REPLY_MAGIC 0x50455246u   /* "FREP" */

/* ---- a cursor over fixed fields, for both directions ---- */

struct cursor {
    uint8_t *at;
};

static void put(struct cursor *cursor, uint64_t value, size_t bytes)
{
    uint64_t little = htole64(value);

    memcpy(cursor->at, &little, bytes);
    cursor->at += bytes;
}

static uint64_t get(struct cursor *cursor, size_t bytes)
{
    uint64_t little = 0;

    memcpy(&little, cursor->at, bytes);
    cursor->at += bytes;
    return le64toh(little);
}

uint64_t csv_client_session(uint64_t node, uint64_t start_counter)
{
    return node << 48 | (start_counter & (((uint64_t)1 << 48) - 1));
}

/* ---- attach ---- */

void csv_attach_encode(const struct csv_attach *attach, uint8_t bytes[CSV_ATTACH_BYTES])
{
    struct cursor cursor = {bytes};

    put(&cursor, ATTACH_MAGIC, 4);
    put(&cursor, CSV_VERSION, 4);
    put(&cursor, attach->volume, 8);
    put(&cursor, attach->session, 8);
    put(&cursor, attach->client_counter, 8);
    assert(cursor.at == bytes + CSV_ATTACH_BYTES);
}

int csv_attach_decode(const void *bytes, size_t length, struct csv_attach *ret_attach)
{
    struct cursor cursor = {(uint8_t *)bytes};

    if (length != CSV_ATTACH_BYTES || get(&cursor, 4) != ATTACH_MAGIC)
        return -EPROTO;
    if (get(&cursor, 4) != CSV_VERSION)
        return -EPROTONOSUPPORT;
    ret_attach->volume = get(&cursor, 8);
    ret_attach->session = get(&cursor, 8);
    ret_attach->client_counter = get(&cursor, 8);
    return 0;
}

/* ---- requests ---- */

static void put_attr(struct cursor *cursor, const struct fs_attr *attr)
{
    put(cursor, attr->mode, 4);
    put(cursor, attr->uid, 4);
    put(cursor, attr->gid, 4);
    put(cursor, attr->rdev, 4);
    put(cursor, (uint64_t)attr->atime_ns, 8);
    put(cursor, (uint64_t)attr->mtime_ns, 8);
}

static void get_attr(struct cursor *cursor, struct fs_attr *attr)
{
    attr->mode = get(cursor, 4);
    attr->uid = get(cursor, 4);
    attr->gid = get(cursor, 4);
    attr->rdev = get(cursor, 4);
    attr->atime_ns = (int64_t)get(cursor, 8);
    attr->mtime_ns = (int64_t)get(cursor, 8);
}

static size_t name_length(const char *name)
{
    return name ? strlen(name) : 0;
}

int csv_request_encode(const struct csv_request *request, uint8_t bytes[CSV_REQUEST_MAX])
{
    size_t length = name_length(request->name), length2 = name_length(request->name2);
    struct cursor cursor = {bytes};

    if (length > FS_NAME_MAX || length2 > FS_NAME_MAX)
        return -ENAMETOOLONG;
    put(&cursor, REQUEST_MAGIC, 4);
    put(&cursor, CSV_VERSION, 2);
    put(&cursor, request->op, 2);
    put(&cursor, request->flags, 4);
    put(&cursor, length, 2);
    put(&cursor, length2, 2);
    put(&cursor, request->volume, 8);
    put(&cursor, request->session, 8);
    put(&cursor, request->client_counter, 8);
    put(&cursor, request->name_of.session, 8);
    put(&cursor, request->name_of.slot, 4);
    put(&cursor, request->name_of.sequence, 4);
    put(&cursor, request->number, 8);
    put(&cursor, request->ino, 8);
    put(&cursor, request->ino2, 8);
    put(&cursor, request->handle, 8);
    put(&cursor, request->offset, 8);
    put(&cursor, request->length, 8);
    put(&cursor, request->incarnation, 8);
    put_attr(&cursor, &request->attr);
    put(&cursor, request->offset2, 8);
    put(&cursor, 0, 8);
    put(&cursor, 0, 8);
    assert(cursor.at == bytes + CSV_REQUEST_FIXED_BYTES);
    if (length > 0)
        memcpy(cursor.at, request->name, length);
    cursor.at[length] = 0;
    cursor.at += length + 1;
    if (length2 > 0)
        memcpy(cursor.at, request->name2, length2);
    cursor.at[length2] = 0;
    cursor.at += length2 + 1;
    return (int)(cursor.at - bytes);
}

/* One of the names behind the fixed part: 0-terminated and without another 0. */
static const char *take_name(struct cursor *cursor, size_t length)
{
    const char *name = (const char *)cursor->at;

    cursor->at += length + 1;
    return strnlen(name, length + 1) == length ? name : NULL;
}

int csv_request_decode(const void *bytes, size_t length, struct csv_request *ret_request)
{
    struct cursor cursor = {(uint8_t *)bytes};
    struct csv_request request = {0};
    size_t name_bytes, name2_bytes;

    if (length < CSV_REQUEST_FIXED_BYTES || get(&cursor, 4) != REQUEST_MAGIC)
        return -EPROTO;
    if (get(&cursor, 2) != CSV_VERSION)
        return -EPROTONOSUPPORT;
    request.op = get(&cursor, 2);
    request.flags = get(&cursor, 4);
    name_bytes = get(&cursor, 2);
    name2_bytes = get(&cursor, 2);
    request.volume = get(&cursor, 8);
    request.session = get(&cursor, 8);
    request.client_counter = get(&cursor, 8);
    request.name_of.session = get(&cursor, 8);
    request.name_of.slot = get(&cursor, 4);
    request.name_of.sequence = get(&cursor, 4);
    request.number = get(&cursor, 8);
    request.ino = get(&cursor, 8);
    request.ino2 = get(&cursor, 8);
    request.handle = get(&cursor, 8);
    request.offset = get(&cursor, 8);
    request.length = get(&cursor, 8);
    request.incarnation = get(&cursor, 8);
    get_attr(&cursor, &request.attr);
    request.offset2 = get(&cursor, 8);
    if (get(&cursor, 8) != 0 || get(&cursor, 8) != 0)
        return -EPROTO; /* room for later versions */

    if (name_bytes > FS_NAME_MAX || name2_bytes > FS_NAME_MAX ||
        length != CSV_REQUEST_FIXED_BYTES + name_bytes + name2_bytes + 2)
        return -EPROTO;
    request.name = take_name(&cursor, name_bytes);
    request.name2 = take_name(&cursor, name2_bytes);
    if (!request.name || !request.name2)
        return -EPROTO;
    *ret_request = request;
    return 0;
}

struct op_rule {
    bool is_named, has_handle, ranged;
    uint32_t bulk_max; /* that the request may carry */
};

static const struct op_rule op_rules[CSV_OP_END] = {
    [CSV_LOOKUP] = {0},
    [CSV_WALK] = {.bulk_max = 4096},
    [CSV_GETATTR] = {0},
    [CSV_SETATTR] = {.is_named = true},
    [CSV_TRUNCATE] = {.is_named = true},
    [CSV_CREATE] = {.is_named = true},
    [CSV_MKDIR] = {.is_named = true},
    [CSV_SYMLINK] = {.is_named = true, .bulk_max = FS_SYMLINK_MAX},
    [CSV_READLINK] = {0},
    [CSV_LINK] = {.is_named = true},
    [CSV_UNLINK] = {.is_named = true},
    [CSV_RMDIR] = {.is_named = true},
    [CSV_RENAME] = {.is_named = true},
    [CSV_READDIR] = {0},
    [CSV_STATFS] = {0},
    [CSV_OPEN] = {.bulk_max = 4096},
    [CSV_CLOSE] = {0},
    [CSV_READ] = {.has_handle = true, .ranged = true},
    [CSV_WRITE] = {.has_handle = true, .bulk_max = CSV_DATA_MAX},
    [CSV_ALLOCATE] = {.has_handle = true, .ranged = true},
    [CSV_PUNCH] = {.has_handle = true, .ranged = true},
    [CSV_ZERO] = {.has_handle = true, .ranged = true},
    [CSV_STATUS] = {.has_handle = true, .ranged = true},
    [CSV_SYNC] = {0},
    [CSV_CLONE_RANGE] = {.is_named = true, .ranged = true},
    [CSV_CLONE_FILE] = {.is_named = true},
    [CSV_SNAPSHOT] = {.is_named = true},
};

bool csv_op_is_named(enum csv_op op)
{
    return op_rules[op].is_named;
}

bool csv_op_has_handle(enum csv_op op)
{
    return op_rules[op].has_handle;
}

uint32_t csv_reply_room(const struct csv_request *request)
{
    if (request->op == CSV_READ || request->op == CSV_READDIR)
        return request->length;
    return request->op == CSV_READLINK ? FS_SYMLINK_MAX : 0;
}

int csv_request_check(const struct csv_request *request)
{
    const struct op_rule *rule;

    if (request->op < CSV_LOOKUP || request->op >= CSV_OP_END)
        return -EPROTO;
    rule = &op_rules[request->op];
    if (request->bulk_bytes > rule->bulk_max)
        return -EPROTO;
    if (rule->bulk_max > 0 && rule->bulk_max < CSV_DATA_MAX && request->bulk_bytes > 0 &&
        memchr(request->bulk, 0, request->bulk_bytes))
        return -EPROTO; /* a path or target */
    if (rule->is_named &&
        (request->name_of.session == 0 || request->name_of.slot >= FS_SLOTS_PER_SESSION))
        return -EPROTO;
    if (rule->ranged && request->length > FS_FILE_SIZE_MAX)
        return -EPROTO;
    if ((rule->ranged || request->op == CSV_WRITE) &&
        MAX(request->offset, request->offset2) > FS_FILE_SIZE_MAX)
        return -EPROTO;
    if ((request->op == CSV_READ || request->op == CSV_READDIR) && request->length > CSV_DATA_MAX)
        return -EPROTO;
    return 0;
}

/* ---- replies ---- */

void csv_reply_encode(const struct csv_reply *reply, uint8_t bytes[CSV_REPLY_BYTES])
{
    const struct fs_attr *attr = &reply->attr;
    const struct fs_statfs *statfs = &reply->statfs;
    struct cursor cursor = {bytes};

    memset(bytes, 0, CSV_REPLY_BYTES);
    put(&cursor, REPLY_MAGIC, 4);
    put(&cursor, reply->is_data, 4);
    put(&cursor, reply->value, 8);
    put_attr(&cursor, attr);
    put(&cursor, attr->ino, 8);
    put(&cursor, attr->generation, 8);
    put(&cursor, attr->nlink, 8);
    put(&cursor, attr->size, 8);
    put(&cursor, attr->allocated_bytes, 8);
    put(&cursor, (uint64_t)attr->ctime_ns, 8);
    put(&cursor, (uint64_t)attr->btime_ns, 8);
    put(&cursor, attr->change, 8);
    put(&cursor, statfs->total_bytes, 8);
    put(&cursor, statfs->free_bytes, 8);
    put(&cursor, statfs->available_bytes, 8);
    put(&cursor, statfs->inodes, 8);
    put(&cursor, statfs->orphans, 8);
    memcpy(cursor.at, statfs->uuid, 16);
    cursor.at += 16;
    memcpy(cursor.at, statfs->label, 64);
    cursor.at += 64;
    assert(cursor.at <= bytes + CSV_REPLY_BYTES);
}

int csv_reply_decode(const void *bytes, size_t length, struct csv_reply *reply)
{
    struct cursor cursor = {(uint8_t *)bytes};
    struct fs_statfs *statfs = &reply->statfs;
    struct fs_attr *attr = &reply->attr;

    if (length != CSV_REPLY_BYTES || get(&cursor, 4) != REPLY_MAGIC)
        return -EPROTO;
    reply->is_data = get(&cursor, 4);
    reply->value = get(&cursor, 8);
    get_attr(&cursor, attr);
    attr->ino = get(&cursor, 8);
    attr->generation = get(&cursor, 8);
    attr->nlink = get(&cursor, 8);
    attr->size = get(&cursor, 8);
    attr->allocated_bytes = get(&cursor, 8);
    attr->ctime_ns = (int64_t)get(&cursor, 8);
    attr->btime_ns = (int64_t)get(&cursor, 8);
    attr->change = get(&cursor, 8);
    statfs->total_bytes = get(&cursor, 8);
    statfs->free_bytes = get(&cursor, 8);
    statfs->available_bytes = get(&cursor, 8);
    statfs->inodes = get(&cursor, 8);
    statfs->orphans = get(&cursor, 8);
    memcpy(statfs->uuid, cursor.at, 16);
    cursor.at += 16;
    memcpy(statfs->label, cursor.at, 64);
    statfs->label[63] = 0;
    return 0;
}

/* ---- directory entries ---- */

#define ENTRY_BYTES 22

bool csv_entry_put(void *bytes, size_t room, size_t *used, const struct fs_dirent *entry)
{
    size_t length = strlen(entry->name);
    struct cursor cursor = {(uint8_t *)bytes + *used};

    assert(length <= FS_NAME_MAX);
    if (room - *used < ENTRY_BYTES + length)
        return false;
    put(&cursor, entry->ino, 8);
    put(&cursor, entry->cookie, 8);
    put(&cursor, entry->type, 4);
    put(&cursor, length, 2);
    memcpy(cursor.at, entry->name, length);
    *used += ENTRY_BYTES + length;
    return true;
}

int csv_entry_get(const void *bytes, size_t length, size_t *used, char name[FS_NAME_MAX + 1],
                  struct fs_dirent *ret_entry)
{
    struct cursor cursor = {(uint8_t *)bytes + *used};
    size_t name_bytes;

    if (*used == length)
        return 0;
    if (length - *used < ENTRY_BYTES)
        return -EPROTO;
    ret_entry->ino = get(&cursor, 8);
    ret_entry->cookie = get(&cursor, 8);
    ret_entry->type = get(&cursor, 4);
    name_bytes = get(&cursor, 2);
    if (name_bytes == 0 || name_bytes > FS_NAME_MAX || length - *used < ENTRY_BYTES + name_bytes ||
        memchr(cursor.at, 0, name_bytes))
        return -EPROTO;
    memcpy(name, cursor.at, name_bytes);
    name[name_bytes] = 0;
    ret_entry->name = name;
    *used += ENTRY_BYTES + name_bytes;
    return 1;
}
