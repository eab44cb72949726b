#include "tests/fuzz/disk_image.h"

static void co_look(struct io *io, void *arg)
{
    struct disk_image *image = arg;
    struct disk *disk = NULL;

    if (co_disk_open(io, RIG_PATH, NULL, NULL, &disk) < 0)
        abort();
    image->geometry = *disk_geometry(disk);
    image->log = *disk_log(disk);
    disk_close(disk);
}

void disk_image_new(struct disk_image *image, void (*co_populate)(struct io *io, void *arg))
{
    struct sim_options options = sim_default_options(1);

    rig_new_with(&image->rig, &options, IMAGE_DISK_BYTES, IMAGE_LOG_BYTES);
    rig_run(&image->rig, co_look, image);
    if (co_populate)
        rig_run(&image->rig, co_populate, NULL);
    image->bytes = malloc(IMAGE_DISK_BYTES);
    if (!image->bytes ||
        sim_disk_peek(image->rig.sim, 1, RIG_PATH, 0, image->bytes, IMAGE_DISK_BYTES) < 0)
        abort();
}

/* Looking is cheaper than writing, and hardly anything changes in a run. */
void disk_image_restore(struct disk_image *image)
{
    static uint8_t piece[64 * KIB];

    for (uint64_t at = 0; at < IMAGE_DISK_BYTES; at += sizeof(piece)) {
        if (sim_disk_peek(image->rig.sim, 1, RIG_PATH, at, piece, sizeof(piece)) < 0)
            abort();
        if (memcmp(piece, image->bytes + at, sizeof(piece)) != 0)
            disk_image_poke(image, at, image->bytes + at, sizeof(piece));
    }
}

void disk_image_poke(struct disk_image *image, uint64_t offset, const void *bytes, size_t length)
{
    if (sim_disk_poke(image->rig.sim, 1, RIG_PATH, offset, bytes, length) < 0)
        abort();
}
