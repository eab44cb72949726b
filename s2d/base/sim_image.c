/* An array of chunks. They come from malloc(), not from mappings of their own: a campaign makes and
 * drops gigabytes of them, and page faults would be most of what it does. */
#include "s2d/base/sim_image.h"

#define CHUNK ((uint64_t)32 * KIB)

void sim_image_done(struct sim_image *image)
{
    for (size_t i = 0; i < image->count; i++)
        free(image->chunks[i]);
    free(image->chunks);
    *image = (struct sim_image){0};
}

static const char *find_chunk(const struct sim_image *image, uint64_t offset)
{
    size_t index = offset / CHUNK;

    return index < image->count ? image->chunks[index] : NULL;
}

static void grow(struct sim_image *image, size_t count)
{
    size_t size = MAX(image->count, (size_t)64);

    while (size < count)
        size *= 2;
    image->chunks = reallocarray(image->chunks, size, sizeof(*image->chunks));
    if (!image->chunks)
        abort();
    memset(image->chunks + image->count, 0, (size - image->count) * sizeof(*image->chunks));
    image->count = size;
}

/* whole: all of it is about to be written. */
static char *make_chunk(struct sim_image *image, uint64_t offset, bool whole)
{
    size_t index = offset / CHUNK;

    if (index >= image->count)
        grow(image, index + 1);
    if (!image->chunks[index]) {
        image->chunks[index] = malloc(CHUNK);
        if (!image->chunks[index])
            abort();
        if (!whole)
            memset(image->chunks[index], 0, CHUNK);
    }
    return image->chunks[index];
}

static void drop_chunk(struct sim_image *image, uint64_t offset)
{
    size_t index = offset / CHUNK;

    if (index >= image->count)
        return;
    free(image->chunks[index]);
    image->chunks[index] = NULL;
}

/* The part of [offset, offset + length) that lies in offset's chunk. */
static uint64_t part_of(uint64_t offset, uint64_t length)
{
    return MIN(length, CHUNK - offset % CHUNK);
}

void sim_image_read(const struct sim_image *image, uint64_t offset, void *buffer, size_t length)
{
    char *at = buffer;

    while (length > 0) {
        size_t part = part_of(offset, length);
        const char *chunk = find_chunk(image, offset);

        if (chunk)
            memcpy(at, chunk + offset % CHUNK, part);
        else
            memset(at, 0, part);
        at += part;
        offset += part;
        length -= part;
    }
}

void sim_image_write(struct sim_image *image, uint64_t offset, const void *data, uint64_t length)
{
    const char *at = data;

    while (length > 0) {
        uint64_t part = part_of(offset, length);

        if (at) {
            memcpy(make_chunk(image, offset, part == CHUNK) + offset % CHUNK, at, part);
            at += part;
        } else if (part == CHUNK) {
            drop_chunk(image, offset);
        } else if (find_chunk(image, offset)) {
            memset(make_chunk(image, offset, false) + offset % CHUNK, 0, part);
        }
        offset += part;
        length -= part;
    }
}

void sim_image_copy(struct sim_image *to, const struct sim_image *from, uint64_t offset,
                    uint64_t length)
{
    while (length > 0) {
        uint64_t part = part_of(offset, length);
        const char *chunk = find_chunk(from, offset);

        sim_image_write(to, offset, chunk ? chunk + offset % CHUNK : NULL, part);
        offset += part;
        length -= part;
    }
}
