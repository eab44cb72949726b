#include "s2d/cluster/snapshot.h"

#include <stdio.h>

#include "s2d/base/checksum.h"

#define MAGIC 0x4e533253u /* "S2SN" */
#define VERSION 1
#define KEY_BYTES_MAX 128

struct bytes {
    uint8_t *data;
    size_t count, size;
};

struct snapshot_writer {
    struct raft_snapshot at;
    struct bytes bytes;
};

struct snapshot_reader {
    struct bytes bytes;
};

static int bytes_add(struct bytes *bytes, const void *data, size_t count)
{
    if (bytes->count + count > bytes->size) {
        size_t size = MAX(bytes->count + count, 2 * bytes->size);
        uint8_t *larger = realloc(bytes->data, size);

        if (!larger)
            return -ENOMEM;
        bytes->data = larger;
        bytes->size = size;
    }
    if (count > 0)
        memcpy(bytes->data + bytes->count, data, count);
    bytes->count += count;
    return 0;
}

static int add_u32(struct bytes *bytes, uint32_t value)
{
    uint8_t little[4] = {value, value >> 8, value >> 16, value >> 24};

    return bytes_add(bytes, little, sizeof(little));
}

static uint32_t get_u32(const uint8_t *at)
{
    return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
}

static int add_row(struct bytes *bytes, enum table table, const void *record)
{
    char *text = record_to_text(table, record);
    char key[DATABASE_KEY_MAX];
    int r = text ? 0 : -ENOMEM;

    database_key(table, ((const struct record_base *)record)->id, key);
    if (r == 0)
        r = add_u32(bytes, strlen(key));
    if (r == 0)
        r = add_u32(bytes, strlen(text));
    if (r == 0)
        r = bytes_add(bytes, key, strlen(key));
    if (r == 0)
        r = bytes_add(bytes, text, strlen(text));
    free(text);
    return r;
}

static int add_all(struct bytes *bytes, const struct database *database)
{
    int r = add_u32(bytes, MAGIC);

    if (r == 0)
        r = add_u32(bytes, VERSION);
    for (int table = 0; r == 0 && table < TABLE_COUNT; table++) {
        const void *record;

        for (size_t i = 0; r == 0 && (record = database_at(database, table, i)); i++)
            r = add_row(bytes, table, record);
    }
    if (r == 0)
        r = add_u32(bytes, 0);
    return r < 0 ? r : add_u32(bytes, crc32c(bytes->data, bytes->count));
}

int snapshot_writer_new(const struct database *database, const struct raft_snapshot *at,
                        struct snapshot_writer **ret_writer)
{
    struct snapshot_writer *writer = calloc(1, sizeof(*writer));

    if (!writer)
        return -ENOMEM;
    writer->at = *at;
    if (add_all(&writer->bytes, database) < 0) {
        snapshot_writer_free(writer);
        return -ENOMEM;
    }
    *ret_writer = writer;
    return 0;
}

void snapshot_writer_free(struct snapshot_writer *writer)
{
    if (!writer)
        return;
    free(writer->bytes.data);
    free(writer);
}

const struct raft_snapshot *snapshot_writer_at(const struct snapshot_writer *writer)
{
    return &writer->at;
}

uint32_t snapshot_writer_piece(const struct snapshot_writer *writer, uint64_t offset, uint32_t max,
                               const void **ret_data, bool *ret_done)
{
    size_t from = MIN(offset, writer->bytes.count);
    size_t count = MIN(writer->bytes.count - from, max);

    *ret_data = writer->bytes.data + from;
    *ret_done = from + count == writer->bytes.count;
    return count;
}

int snapshot_reader_new(struct snapshot_reader **ret_reader)
{
    *ret_reader = calloc(1, sizeof(**ret_reader));
    return *ret_reader ? 0 : -ENOMEM;
}

void snapshot_reader_free(struct snapshot_reader *reader)
{
    if (!reader)
        return;
    free(reader->bytes.data);
    free(reader);
}

int snapshot_reader_add(struct snapshot_reader *reader, const void *data, size_t bytes)
{
    if (reader->bytes.count + bytes > SNAPSHOT_BYTES_MAX)
        return -EFBIG;
    return bytes_add(&reader->bytes, data, bytes);
}

/* Walks the rows into database and (if not NULL) batch. Returns 0, -EBADMSG, -ENOMEM. */
static int walk(const struct snapshot_reader *reader, struct database *database,
                struct kv_batch *batch, const char *prefix)
{
    const uint8_t *at = reader->bytes.data + 8, *end = reader->bytes.data + reader->bytes.count - 8;
    char key[2 * KEY_BYTES_MAX];
    size_t prefix_bytes = prefix ? strlen(prefix) : 0;

    assert(prefix_bytes < KEY_BYTES_MAX);
    if (prefix)
        memcpy(key, prefix, prefix_bytes);
    while (at < end) {
        uint32_t key_bytes, value_bytes;
        int r;

        if (end - at < 8)
            return -EBADMSG;
        key_bytes = get_u32(at);
        value_bytes = get_u32(at + 4);
        at += 8;
        if (key_bytes == 0 || key_bytes >= KEY_BYTES_MAX ||
            (uint64_t)(end - at) < (uint64_t)key_bytes + value_bytes)
            return -EBADMSG;
        memcpy(key + prefix_bytes, at, key_bytes);
        key[prefix_bytes + key_bytes] = '\0';
        at += key_bytes;
        if (strlen(key + prefix_bytes) != key_bytes)
            return -EBADMSG;
        r = database_load(database, key + prefix_bytes, (const char *)at, value_bytes);
        if (r < 0)
            return r;
        if (batch)
            kv_put(batch, key, at, value_bytes);
        at += value_bytes;
    }
    return 0;
}

int snapshot_reader_check(const struct snapshot_reader *reader)
{
    const struct bytes *bytes = &reader->bytes;
    struct database *scratch;
    int r;

    if (bytes->count < 16 || get_u32(bytes->data) != MAGIC || get_u32(bytes->data + 4) != VERSION ||
        get_u32(bytes->data + bytes->count - 8) != 0 ||
        get_u32(bytes->data + bytes->count - 4) != crc32c(bytes->data, bytes->count - 4))
        return -EBADMSG;
    r = database_new(&scratch);
    if (r < 0)
        return r;
    r = walk(reader, scratch, NULL, NULL);
    if (r == 0)
        r = database_verify(scratch);
    database_free(scratch);
    return r;
}

int snapshot_reader_install(const struct snapshot_reader *reader, struct database *database,
                            struct kv_batch *batch, const char *prefix)
{
    return walk(reader, database, batch, prefix);
}
