/* A snapshot as a peer sends it: whatever the bytes, in whatever pieces, the check refuses them or
 * they can be installed, and then written as a snapshot again. The checksum at the end is put right
 * first, or nothing would get behind it. */
#include "s2d/base/checksum.h"
#include "s2d/cluster/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct snapshot_reader *gather(const uint8_t *bytes, size_t size, size_t piece)
{
    struct snapshot_reader *reader = NULL;
    int r = snapshot_reader_new(&reader);

    assert(r == 0);
    for (size_t at = 0; at < size; at += piece) {
        r = snapshot_reader_add(reader, bytes + at, MIN(piece, size - at));
        assert(r == 0);
    }
    return reader;
}

static void install(const struct snapshot_reader *reader, struct database *database)
{
    struct kv_batch batch;
    size_t rows = 0;
    int r;

    kv_batch_init(&batch);
    r = snapshot_reader_install(reader, database, &batch, "db/");
    assert(r == 0);
    for (int table = 0; table < TABLE_COUNT; table++)
        rows += database_count(database, table);
    assert(batch.count == rows);
    kv_batch_done(&batch);
}

/* What was installed is written, read and checked again. */
static void write_again(const struct database *database)
{
    struct raft_snapshot at = {.index = 1, .term = 1};
    struct snapshot_writer *writer = NULL;
    struct snapshot_reader *reader;
    const void *data;
    uint32_t count;
    bool done;
    int r = snapshot_writer_new(database, &at, &writer);

    assert(r == 0);
    count = snapshot_writer_piece(writer, 0, UINT32_MAX, &data, &done);
    assert(done);
    reader = gather(data, count, 1000);
    r = snapshot_reader_check(reader);
    assert(r == 0);
    snapshot_reader_free(reader);
    snapshot_writer_free(writer);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint8_t *whole = malloc(size + 8);
    struct snapshot_reader *reader;
    struct database *database = NULL;
    uint32_t crc;
    int r = database_new(&database);

    assert(r == 0 && whole);
    if (size > 0)
        memcpy(whole, bytes, size);
    memset(whole + size, 0, 4);
    crc = crc32c(whole, size + 4);
    for (int i = 0; i < 4; i++)
        whole[size + 4 + i] = (uint8_t)(crc >> 8 * i);
    reader = gather(whole, size + 8, size % 7 + 1);
    if (snapshot_reader_check(reader) == 0) {
        install(reader, database);
        write_again(database);
    }
    snapshot_reader_free(reader);
    database_free(database);
    free(whole);
    return 0;
}
