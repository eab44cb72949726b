/* fuzz_disk: a damaged disk under the store. A disk with superblocks, an extent table, checksum
 * pages and a log, written by the store itself, is made once; the input says which of their bytes
 * change, and the checksums are made right again, so that the damage gets behind them. Opening it
 * and all that an owner and a resync ask of a store end, without a crash, and never tell of a block
 * beyond the disk. */
#include "cache-tier/log.h"
#include "pool/disk.h"
#include "pool/superblock.h"
#include "s2d/base/checksum.h"
#include "tests/fuzz/disk_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VDISKS 2
#define PATCH_BYTES 5

static struct disk_image image;
static uint64_t places[512]; /* blocks of metadata, by offset */
static unsigned place_count;
static unsigned log_places; /* from here on they are the log's */
static const uint8_t *input;
static size_t input_size;

/* ---- the disk as it was ---- */

static void co_populate(struct io *io, void *arg)
{
    struct rig_store opened;
    int r = co_rig_open(io, &opened);

    (void)arg;
    assert(r == 0);
    for (unsigned pass = 0; pass < 2; pass++) { /* the second one stays in the log */
        for (uint64_t vdisk = 1; vdisk <= VDISKS; vdisk++) {
            struct rig_owner owner = {.vdisk = vdisk, .generation = vdisk, .commit = true};

            r = co_rig_seal(&owner, opened.store, 5 + pass);
            for (uint32_t extent = (uint32_t)vdisk - 1; r == 0 && extent < 4; extent += VDISKS) {
                r = co_rig_write(&owner, extent, 3 + pass, 4, 100);
                if (r == 0)
                    r = co_rig_zero(&owner, extent, 40, 9);
            }
            assert(r == 0);
        }
        if (pass == 0)
            r = co_store_checkpoint(opened.store);
        assert(r == 0);
    }
    co_rig_close(&opened);
}

static void add_places(uint64_t from, uint64_t to)
{
    static const uint8_t zeros[BLOCK_SIZE];

    for (uint64_t at = from; at < to && place_count < ARRAY_SIZE(places); at += BLOCK_SIZE) {
        if (memcmp(image.bytes + at, zeros, BLOCK_SIZE) != 0)
            places[place_count++] = at;
    }
}

static void setup(void)
{
    const struct disk_geometry *geometry = &image.geometry;

    disk_image_new(&image, co_populate);
    add_places(0, geometry->log_offset);
    log_places = place_count;
    add_places(geometry->log_offset, geometry->log_offset + geometry->log_bytes);
    assert(log_places > 0);
    assert(place_count > log_places);
}

/* ---- damage ---- */

static uint32_t crc_with_zero(const void *block, size_t bytes, size_t field)
{
    uint32_t zero = 0, crc = crc32c(block, field);

    crc = crc32c_more(crc, &zero, sizeof(zero));
    return crc32c_more(crc, (const char *)block + field + 4, bytes - field - 4);
}

static void seal_log(uint8_t *block)
{
    struct log_batch_header *header = (struct log_batch_header *)block;
    struct log_anchor *anchor = (struct log_anchor *)block;

    if (header->magic == LOG_BATCH_MAGIC && header->header_bytes >= sizeof(*header) &&
        header->header_bytes <= BLOCK_SIZE)
        header->crc = log_header_crc(header);
    else if (anchor->magic == LOG_ANCHOR_MAGIC)
        anchor->crc = crc_with_zero(block, BLOCK_SIZE, offsetof(struct log_anchor, crc));
}

static void seal_place(unsigned place, uint8_t *block)
{
    struct superblock *superblock = (struct superblock *)block;
    struct extent_table_block *table = (struct extent_table_block *)block;
    struct checksum_page *page = (struct checksum_page *)block;

    if (place >= log_places) {
        seal_log(block);
    } else if (memcmp(superblock->magic, SUPERBLOCK_MAGIC, sizeof(superblock->magic)) == 0) {
        superblock->crc = crc_with_zero(block, BLOCK_SIZE, offsetof(struct superblock, crc));
    } else if (table->magic == EXTENT_TABLE_MAGIC) {
        table->crc = crc_with_zero(block, BLOCK_SIZE, offsetof(struct extent_table_block, crc));
    } else {
        page->crc = crc32c(page, offsetof(struct checksum_page, crc));
        page->crc = crc32c_more(page->crc, page->sums, sizeof(page->sums));
    }
}

/* A patch: which block (the highest bit: leave its checksum wrong), where, and two bytes for it;
 * superblocks come in pairs, or the sound copy would be taken. */
static void apply_patch(const uint8_t *patch)
{
    unsigned place = (patch[0] & 0x7fu) % place_count, at = (patch[1] | patch[2] << 8) % BLOCK_SIZE;
    unsigned last = places[place] == 0 ? 2 : 1;

    for (unsigned copy = 0; copy < last; copy++) {
        uint64_t offset = copy == 0 ? places[place] : SUPERBLOCK_B_OFFSET;
        uint8_t block[BLOCK_SIZE];

        if (sim_disk_peek(image.rig.sim, 1, RIG_PATH, offset, block, BLOCK_SIZE) < 0)
            abort();
        block[at] = patch[3];
        if (patch[2] & 0x80)
            block[(at + 1) % BLOCK_SIZE] = patch[4];
        if (!(patch[0] & 0x80))
            seal_place(place, block);
        disk_image_poke(&image, offset, block, BLOCK_SIZE);
    }
}

/* ---- use ---- */

static void on_extent(void *arg, const struct store_extent *extent)
{
    unsigned *count = arg;

    assert(extent->where.extent < image.geometry.extent_count);
    (*count)++;
}

static void co_use_extent(struct rig_owner *owner, uint32_t extent)
{
    static uint64_t sums[RIG_EXTENT_BLOCKS], bitmap[RIG_EXTENT_BLOCKS / 64 + 1];
    struct extent_ref where = {extent, owner->generation};
    uint64_t stamp;

    for (uint32_t block = 2; block < 50; block += 7)
        (void)!co_rig_read(owner, extent, block, &stamp);
    (void)!co_store_checksums(owner->store, owner->vdisk, where, 0, RIG_EXTENT_BLOCKS, sums,
                              bitmap);
    (void)!co_store_compare_set(owner->store, owner->vdisk, where, 0, bitmap);
    (void)!co_store_compare_set(owner->store, owner->vdisk, where, 3, bitmap);
    (void)!co_rig_write(owner, extent, 4, 2, 7);
    (void)!co_rig_zero(owner, extent, 0, 60);
}

static void co_use_vdisk(struct store *store, uint64_t vdisk)
{
    struct rig_owner owner = {.vdisk = vdisk, .generation = vdisk, .commit = true};
    struct extent_ref wheres[2] = {{(uint32_t)vdisk - 1, vdisk}, {(uint32_t)vdisk + 1, vdisk}};

    if (co_rig_seal(&owner, store, UINT32_MAX) < 0)
        return;
    (void)!co_store_drop_tail(store, vdisk, UINT32_MAX, wheres, ARRAY_SIZE(wheres));
    for (size_t i = 0; i < ARRAY_SIZE(wheres); i++)
        co_use_extent(&owner, wheres[i].extent);
    (void)!co_store_clear_compare(store, vdisk, UINT32_MAX, wheres, 1);
    (void)!co_store_free_extent(store, wheres[1]);
}

static void co_open(struct io *io, void *arg)
{
    struct rig_store opened;
    unsigned extents = 0;

    (void)arg;
    if (co_rig_open(io, &opened) < 0)
        return;
    assert(disk_geometry(opened.disk)->extents_offset <= IMAGE_DISK_BYTES);
    store_each_extent(opened.store, on_extent, &extents);
    for (uint64_t vdisk = 1; vdisk <= VDISKS; vdisk++)
        co_use_vdisk(opened.store, vdisk);
    if (co_store_checkpoint(opened.store) < 0)
        abort(); /* the medium is sound */
    co_rig_close(&opened);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!image.bytes)
        setup();
    input = data;
    input_size = size;
    disk_image_restore(&image);
    for (size_t at = 0; at + PATCH_BYTES <= input_size; at += PATCH_BYTES)
        apply_patch(input + at);
    rig_run(&image.rig, co_open, NULL);
    rig_run(&image.rig, co_open, NULL); /* what was written meanwhile is read as well */
    return 0;
}
