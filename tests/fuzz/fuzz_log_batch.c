/* One batch of the log as it is read from a disk: what is called sound lies within its bytes, and
 * so does every record that is handed out. Pure, so that millions of inputs get where the few that
 * fuzz_log_replay can try do not. The first byte: bit 0, the header is made right first, bit 1, so
 * is its length. */
#include "cache-tier/log_replay.h"
#include "s2d/base/checksum.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RING_BLOCKS 1022
#define BATCH_BYTES_MAX (24 * BLOCK_SIZE)

static const uint8_t uuid[16] = {1, 2, 3};

struct seen {
    const uint8_t *start, *end;
    unsigned records;
    uint64_t data_blocks;
};

static void on_record(void *arg, const struct log_record *record, uint32_t offset,
                      uint32_t data_block)
{
    struct seen *seen = arg;

    assert((const uint8_t *)record == seen->start + offset);
    assert((const uint8_t *)record + record->bytes <= seen->end);
    assert(record->bytes >= sizeof(*record));
    assert(data_block == seen->data_blocks);
    seen->data_blocks += record->data_blocks;
    seen->records++;
}

static void make_right(struct log_batch_header *header, uint8_t how, size_t bytes)
{
    header->magic = LOG_BATCH_MAGIC;
    header->version = LOG_FORMAT_VERSION;
    memcpy(header->log_uuid, uuid, sizeof(uuid));
    header->position %= RING_BLOCKS;
    if (how & 2) {
        header->header_bytes = sizeof(*header) + header->header_bytes % (2 * BLOCK_SIZE);
        header->header_blocks = (uint32_t)DIV_ROUND_UP(header->header_bytes, BLOCK_SIZE);
        header->data_blocks %= 4;
        header->flags &= LOG_BATCH_PAD;
    }
    if (header->header_bytes >= sizeof(*header) && header->header_bytes <= bytes)
        header->crc = log_header_crc(header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct log_batch_header *header;
    struct seen seen = {0};
    size_t bytes;

    if (size < 1 + sizeof(*header) || size > BATCH_BYTES_MAX)
        return 0;
    bytes = ALIGN_UP(size - 1, BLOCK_SIZE);
    header = calloc(1, bytes); /* as long as it is, so that a sanitizer sees a read behind it */
    if (!header)
        abort();
    memcpy(header, data + 1, size - 1);
    if (data[0] & 1)
        make_right(header, data[0], bytes);
    if (log_header_check(header, bytes, uuid, header->position, RING_BLOCKS) == 0) {
        seen.start = (const uint8_t *)header;
        seen.end = seen.start + header->header_bytes;
        if (log_batch_each(header, on_record, &seen)) {
            assert(seen.records == header->record_count);
            assert(seen.data_blocks <= header->data_blocks);
        } else {
            assert(seen.records == 0);
        }
        if ((size_t)(header->header_blocks + header->data_blocks) * BLOCK_SIZE <= bytes)
            (void)log_batch_data_sound(header,
                                       seen.start + (size_t)header->header_blocks * BLOCK_SIZE);
    }
    free(header);
    return 0;
}
