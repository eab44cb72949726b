/* A log region of any bytes, on a disk of the simulator: opening the store ends without a crash,
 * and so do a seal, a read, a write and a checkpoint on what came of it. The input is a list of
 * batches of records whose headers are made right (magic, place, checksum), so that the fuzzer
 * works on what they say. */
#include "cache-tier/log_replay.h"
#include "pool/disk.h"
#include "s2d/base/checksum.h"
#include "s2d/base/io.h"
#include "s2d/base/sim.h"
#include "tests/fuzz/disk_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t size;
    struct disk_geometry geometry;
    struct disk_log log;
};

/* Takes up to `length` bytes of the input; zeros when it has ended. */
static void take(struct input *input, void *to, size_t length)
{
    size_t n = MIN(length, input->size);

    memset(to, 0, length);
    memcpy(to, input->data, n);
    input->data += n;
    input->size -= n;
}

static uint32_t natural_bytes(uint8_t kind, uint32_t count)
{
    switch (kind) {
    case LOG_WRITE:
        return sizeof(struct log_data_record) + count * sizeof(uint64_t);
    case LOG_ZERO:
        return sizeof(struct log_data_record);
    case LOG_STREAM:
        return sizeof(struct log_stream_record);
    case LOG_IMAGE:
        return sizeof(struct log_image_record);
    case LOG_DROP:
        return sizeof(struct log_drop_record);
    default:
        return sizeof(struct log_extent_record);
    }
}

/* Small numbers meet each other; large ones hardly ever do. */
static void tame(struct log_data_record *record)
{
    record->vdisk %= 3;
    record->extent %= 6;
    record->slab %= 2;
    record->generation %= 4;
    record->session %= 4;
    record->seq %= 16;
    record->epoch %= 8;
    record->watermark_session %= 4;
    record->watermark_seq %= 16;
    record->block %= RIG_EXTENT_BLOCKS + 2;
}

static uint32_t make_record(struct input *input, uint8_t *to, uint32_t room, uint32_t *data_left)
{
    struct log_record *record = (struct log_record *)to;
    struct log_data_record body = {0};
    uint32_t bytes;
    uint8_t control[2];

    take(input, control, sizeof(control));
    take(input, &body, sizeof(body));
    if (control[0] & 0x80)
        tame(&body);
    body.head.kind = control[0] % 11;
    body.count = body.head.kind == LOG_WRITE ? 1 + control[1] % 4 : 1 + control[1];
    bytes = natural_bytes(body.head.kind, body.count);
    if (bytes > room)
        return 0;
    memcpy(to, &body, MIN(bytes, sizeof(body)));
    record->bytes = control[0] == 0x7f ? body.head.bytes : bytes;
    record->data_blocks = body.head.kind == LOG_WRITE ? body.count
                          : body.head.kind == LOG_IMAGE || body.head.kind == LOG_COMPARE ? 1
                                                                                         : 0;
    *data_left += record->data_blocks;
    return bytes;
}

static void put_batches(struct sim *sim, struct input *input)
{
    static uint8_t block[BLOCK_SIZE];
    struct log_batch_header *header = (struct log_batch_header *)block;
    uint64_t position = 0, sequence = 1;

    while (input->size > 0 && position < 900) {
        uint8_t records;
        uint32_t used = sizeof(*header), data_blocks = 0, count = 0;

        memset(block, 0, sizeof(block));
        take(input, &records, 1);
        for (uint32_t i = 0; i < records % 8u; i++) {
            uint32_t bytes = make_record(input, block + used, BLOCK_SIZE - used, &data_blocks);

            used += bytes;
            count += bytes > 0;
        }
        *header = (struct log_batch_header){
            .magic = LOG_BATCH_MAGIC,
            .version = LOG_FORMAT_VERSION,
            .sequence = sequence,
            .position = position,
            .durable_through = sequence - 1,
            .tail_sequence = 1,
            .copies_done = records & 0x80 ? position : 0,
            .incarnation = 1,
            .header_bytes = used,
            .header_blocks = 1,
            .data_blocks = data_blocks,
            .record_count = records & 0x40 ? records : count,
        };
        memcpy(header->log_uuid, input->log.uuid.bytes, 16);
        header->crc = log_header_crc(header);
        if (sim_disk_poke(sim, 1, RIG_PATH,
                          input->geometry.log_offset + (LOG_ANCHOR_BLOCKS + position) * BLOCK_SIZE,
                          block, BLOCK_SIZE) < 0)
            abort();
        position += 1 + data_blocks;
        sequence++;
    }
}

static void open_main(struct io *io, void *arg)
{
    struct rig_store rig;
    uint64_t stamp;

    (void)arg;
    if (co_rig_open(io, &rig) < 0)
        return;
    for (uint64_t vdisk = 1; vdisk < 3; vdisk++) {
        struct rig_owner owner = {.vdisk = vdisk, .generation = 2, .commit = true};

        if (co_rig_seal(&owner, rig.store, 100) < 0)
            continue;
        for (uint32_t extent = 0; extent < 3; extent++) {
            int r = co_rig_read(&owner, extent, 1, &stamp);

            if (r == 0)
                r = co_rig_write(&owner, extent, 1, 1, 5);
            (void)r;
        }
    }
    if (co_store_checkpoint(rig.store) < 0)
        abort(); /* the medium is sound */
    co_rig_close(&rig);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct disk_image image; /* as it was claimed */
    struct input input = {.data = data, .size = size};

    if (!image.bytes)
        disk_image_new(&image, NULL);
    disk_image_restore(&image);
    input.geometry = image.geometry;
    input.log = image.log;
    put_batches(image.rig.sim, &input);
    rig_run(&image.rig, open_main, NULL);
    return 0;
}
