/* What a peer may send to a volume's owner, and an owner back: what decodes obeys its bounds, and
 * comes out the same when it is encoded again. */
#include "csv-export/csv_message.h"

static void fuzz_request(const uint8_t *data, size_t size)
{
    uint8_t again[CSV_REQUEST_MAX];
    struct csv_request request;

    if (csv_request_decode(data, size, &request) < 0)
        return;
    assert(strlen(request.name) <= FS_NAME_MAX);
    assert(strlen(request.name2) <= FS_NAME_MAX);
    request.bulk = data;
    request.bulk_bytes = size;
    if (csv_request_check(&request) == 0) {
        assert(csv_reply_room(&request) <= CSV_DATA_MAX);
        if (csv_op_is_named(request.op))
            assert(request.name_of.slot < FS_SLOTS_PER_SESSION);
    }
    assert(csv_request_encode(&request, again) == (int)size);
    assert(memcmp(again, data, size) == 0);
}

static void fuzz_attach(const uint8_t *data, size_t size)
{
    uint8_t again[CSV_ATTACH_BYTES];
    struct csv_attach attach;

    if (csv_attach_decode(data, size, &attach) < 0)
        return;
    csv_attach_encode(&attach, again);
    assert(memcmp(again, data, size) == 0);
}

static void fuzz_reply(const uint8_t *data, size_t size)
{
    struct csv_reply reply = {0}, same = {0};
    uint8_t again[CSV_REPLY_BYTES];

    if (csv_reply_decode(data, size, &reply) < 0)
        return;
    assert(strlen(reply.statfs.label) < sizeof(reply.statfs.label));
    csv_reply_encode(&reply, again);
    assert(csv_reply_decode(again, sizeof(again), &same) == 0);
    assert(memcmp(&same.attr, &reply.attr, sizeof(reply.attr)) == 0);
}

static void fuzz_entries(const uint8_t *data, size_t size)
{
    uint8_t *again = malloc(size + 1);
    char name[FS_NAME_MAX + 1];
    size_t used = 0, used_again = 0;
    struct fs_dirent entry;

    while (csv_entry_get(data, size, &used, name, &entry) == 1) {
        assert(used <= size);
        assert(entry.name[0] != 0);
        assert(csv_entry_put(again, size, &used_again, &entry));
        assert(used_again == used);
    }
    assert(memcmp(again, data, used_again) == 0);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_request(data, size);
    fuzz_attach(data, size);
    fuzz_reply(data, size);
    fuzz_entries(data, size);
    return 0;
}
