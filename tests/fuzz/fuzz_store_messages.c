/* What owners and stores say to each other, from a peer that may say anything: decoding never reads
 * beyond its bytes, what it accepts is within the bounds that store_messages.h names, and takes
 * as many bytes when it is encoded again. The first byte chooses the decoder; the checksum is
 * mended, or hardly anything would get through. */
#include "resiliency/store_messages.h"
#include "s2d/base/checksum.h"
#include "s2d/bus/bus.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static uint8_t part[BUS_HEADER_MAX] __attribute__((aligned(8)));
static uint8_t again[BUS_HEADER_MAX] __attribute__((aligned(8)));

/* Every part begins with a magic and a CRC32C that counts as 0 in itself. */
static void mend(uint32_t length)
{
    uint32_t crc = 0;

    if (length < 8)
        return;
    memcpy(part + 4, &crc, sizeof(crc));
    crc = crc32c(part, length);
    memcpy(part + 4, &crc, sizeof(crc));
}

/* Exactly as long as it is, so that a sanitizer sees a read behind it. */
static void *copy_of(const void *bytes, uint32_t length)
{
    void *copy = malloc(MAX(length, 1u));

    assert(copy);
    memcpy(copy, bytes, length);
    return copy;
}

static void fuzz_record(const void *bytes, uint32_t length)
{
    uint64_t sums[RECORD_BLOCKS_MAX], handle;
    struct store_record_format format;
    struct record record;
    uint32_t data_bytes = 0;

    if (length >= sizeof(format)) {
        memcpy(&format, bytes, sizeof(format));
        data_bytes = format.kind == RECORD_WRITE ? format.count * BLOCK_SIZE : 0;
    }
    if (store_record_decode(bytes, length, data_bytes, &handle, &record, sums) < 0)
        return;
    assert(record.kind == RECORD_ZERO || record.count <= RECORD_BLOCKS_MAX);
    assert(record.count > 0);
    assert(!(record.flags & RECORD_VERIFIED));
    assert(store_record_encode(handle, &record, sums, again) == length);
}

static void fuzz_acks(const void *bytes, uint32_t length)
{
    struct store_ack acks[STORE_ACKS_MAX];
    uint32_t count;

    if (store_acks_decode(bytes, length, acks, &count) < 0)
        return;
    assert(count <= STORE_ACKS_MAX);
    assert(store_acks_encode(acks, count, again) == length);
}

static void fuzz_broken(const void *bytes, uint32_t length)
{
    uint64_t cookie;
    int result;

    if (store_broken_decode(bytes, length, &cookie, &result) < 0)
        return;
    assert(result < 0);
    assert(store_broken_encode(cookie, result, again) == length);
}

static void fuzz_call(uint16_t type, const void *bytes, uint32_t length)
{
    struct store_call call;

    if (store_call_decode(type, bytes, length, &call) < 0)
        return;
    assert(type != STORE_READ || call.count <= RECORD_BLOCKS_MAX);
    assert(type != STORE_CHECKSUMS || call.count <= STORE_SUMS_MAX);
    assert(type != STORE_COMPARE_SET || call.count <= STORE_EXTENT_BLOCKS_MAX);
    assert(store_call_encode(&call, again) == length);
}

static void fuzz_refs(const void *bytes, uint32_t length)
{
    static struct extent_ref refs[STORE_REFS_MAX];
    uint32_t count;

    if (store_refs_decode(bytes, length, refs, &count) == 0)
        assert(count <= STORE_REFS_MAX);
}

static void fuzz_seal_answer(const void *bytes, uint32_t length, uint32_t data_bytes)
{
    struct store_seal_answer answer;

    if (store_seal_answer_decode(bytes, length, data_bytes, &answer) < 0)
        return;
    assert(answer.tail_count <= STORE_TAIL_MAX);
    assert(!answer.more || answer.tail_count > 0);
    assert(store_seal_answer_encode(&answer, again) == length);
}

static void fuzz_tail(const void *bytes, uint32_t length)
{
    struct store_tail_record records[16];
    uint32_t count = MIN(length / (uint32_t)sizeof(struct store_tail_format), 16u);

    if (store_tail_decode(bytes, count, records) < 0)
        return;
    for (uint32_t i = 0; i < count; i++)
        assert(records[i].kind == RECORD_WRITE || records[i].kind == RECORD_ZERO);
}

static void fuzz_read_answer(const void *bytes, uint32_t length)
{
    uint64_t sums[RECORD_BLOCKS_MAX];
    struct store_read_answer answer;

    if (store_read_answer_decode(bytes, length, &answer, sums) < 0)
        return;
    assert(answer.count <= RECORD_BLOCKS_MAX);
    assert(store_read_answer_encode(&answer, sums, again) == length);
}

static void decode(uint8_t choice, const void *bytes, uint32_t length)
{
    switch (choice % 9) {
    case 0:
        fuzz_record(bytes, length);
        break;
    case 1:
        fuzz_acks(bytes, length);
        break;
    case 2:
        fuzz_broken(bytes, length);
        break;
    case 3:
        fuzz_call((uint16_t)(STORE_SEAL + choice / 9 % 7), bytes, length);
        break;
    case 4:
        fuzz_refs(bytes, length);
        break;
    case 5:
        fuzz_seal_answer(bytes, length, choice / 9 * (uint32_t)sizeof(struct store_tail_format));
        break;
    case 6:
        fuzz_tail(bytes, length);
        break;
    case 7:
    case 8:
        fuzz_read_answer(bytes, length);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint32_t length;
    void *copy;

    if (size < 1 || size > BUS_HEADER_MAX)
        return 0;
    length = (uint32_t)size - 1;
    memcpy(part, bytes + 1, length);
    copy = copy_of(part, length);
    decode(bytes[0], copy, length);
    free(copy);

    mend(length);
    copy = copy_of(part, length);
    decode(bytes[0], copy, length);
    free(copy);
    return 0;
}
