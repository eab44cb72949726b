#include <sys/mman.h>

#include "s2d/base/co.h"
#include "tests/unit/ram_vdisk.h"

#define SLAB_BYTES (1 * MIB)

uint64_t ram_vdisk_random(struct ram_vdisk *ram)
{
    uint64_t z = (ram->random += 0x9e3779b97f4a7c15u); /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static struct ram_vdisk *ram_of(struct vdisk *vdisk)
{
    return container_of(vdisk, struct ram_vdisk, vdisk);
}

static bool is_request(const struct vdisk *vdisk, uint64_t offset, uint64_t length)
{
    return offset % BLOCK_SIZE == 0 && length % BLOCK_SIZE == 0 && length > 0 &&
           offset <= vdisk->size_bytes && length <= vdisk->size_bytes - offset;
}

/* turns: 0: as many as chance says. */
static void co_delay(struct ram_vdisk *ram, unsigned turns)
{
    if (ram->delay_max && turns == 0)
        turns = (unsigned)(ram_vdisk_random(ram) % (ram->delay_max + 1));
    for (; turns > 0; turns--)
        co_yield ();
}

static bool is_rotten(const struct ram_vdisk *ram, uint64_t offset, uint64_t length)
{
    uint64_t bytes = MAX(ram->rotten_bytes, (uint64_t)BLOCK_SIZE), end = offset + length;

    return (ram->rotten_at && ram->rotten_at < end && ram->rotten_at + bytes > offset) ||
           (ram->rotten_too && ram->rotten_too < end && ram->rotten_too >= offset);
}

static int ram_co_read(struct vdisk *vdisk, void *buffer, uint64_t offset, uint64_t length)
{
    struct ram_vdisk *ram = ram_of(vdisk);

    if (!is_request(vdisk, offset, length))
        return -EINVAL;
    assert((uintptr_t)buffer % BLOCK_SIZE == 0);
    ram->reads++;
    if (co_cancelled())
        return -ECANCELED;
    co_delay(ram, 0);
    if (ram->is_cut)
        return -ESTALE;
    if (ram->fail_reads_after && --ram->fail_reads_after == 0)
        return ram->fail_error;
    if (is_rotten(ram, offset, length))
        return -EIO;
    memcpy(buffer, ram->memory + offset, length);
    return 0;
}

static void change(struct ram_vdisk *ram, const char *buffer, uint64_t offset, uint64_t length)
{
    if (buffer)
        memcpy(ram->memory + offset, buffer, length);
    else if (madvise(ram->memory + offset, length, MADV_DONTNEED) < 0)
        memset(ram->memory + offset, 0, length);
    memset(ram->in_use + offset / BLOCK_SIZE, buffer != NULL, length / BLOCK_SIZE);
}

/* Power went while the request was in flight. */
static void change_in_part(struct ram_vdisk *ram, const char *buffer, uint64_t offset,
                           uint64_t length)
{
    for (uint64_t at = 0; at < length; at += BLOCK_SIZE) {
        if (ram_vdisk_random(ram) % 2)
            change(ram, buffer ? buffer + at : NULL, offset + at, BLOCK_SIZE);
    }
}

static void slabs_return(struct ram_vdisk *ram, uint64_t offset, uint64_t length)
{
    uint64_t blocks = SLAB_BYTES / BLOCK_SIZE;

    for (uint64_t slab = offset / SLAB_BYTES; slab <= (offset + length - 1) / SLAB_BYTES; slab++) {
        if (!ram->slab_there[slab] || memchr(ram->in_use + slab * blocks, 1, blocks))
            continue;
        ram->slab_there[slab] = 0;
        ram->slabs += ram->slabs != UINT64_MAX;
    }
}

static bool has_slabs(struct ram_vdisk *ram, uint64_t offset, uint64_t length)
{
    for (uint64_t slab = offset / SLAB_BYTES; slab <= (offset + length - 1) / SLAB_BYTES; slab++) {
        if (ram->slab_there[slab])
            continue;
        if (ram->slabs == 0)
            return false;
        ram->slabs -= ram->slabs != UINT64_MAX;
        ram->slab_there[slab] = 1;
    }
    return true;
}

static int co_change(struct ram_vdisk *ram, const char *buffer, uint64_t offset, uint64_t length)
{
    unsigned turns = ram->slow_from && offset >= ram->slow_from ? ram->slow_turns : 0;

    if (!is_request(&ram->vdisk, offset, length))
        return -EINVAL;
    assert((uintptr_t)buffer % BLOCK_SIZE == 0);
    if (ram->is_cut)
        return -ESTALE;
    if (co_cancelled())
        return -ECANCELED; /* as a mirror's write, that has not begun */
    if (ram->fail_after && --ram->fail_after == 0)
        return ram->fail_error;
    if (buffer && ram->rotten_is_a_row && is_rotten(ram, offset, length))
        return -EIO;
    if (buffer && !has_slabs(ram, offset, length))
        return -ENOSPC;
    if (ram->writes + ram->trims > ram->cut_after)
        ram->is_cut = true; /* in the middle of this one */
    co_delay(ram, !buffer && ram->trim_turns ? ram->trim_turns : turns);
    if (ram->is_cut) {
        change_in_part(ram, buffer, offset, length);
        return -ESTALE;
    }
    change(ram, buffer, offset, length);
    if (!buffer && ram->gives_back)
        slabs_return(ram, offset, length);
    return 0;
}

static int ram_co_write(struct vdisk *vdisk, const void *buffer, uint64_t offset, uint64_t length,
                        struct client_request request)
{
    struct ram_vdisk *ram = ram_of(vdisk);

    ram->writes++;
    ram->named_writes += request.session != 0;
    ram->bytes_written += length;
    return co_change(ram, buffer, offset, length);
}

static int ram_co_trim(struct vdisk *vdisk, uint64_t offset, uint64_t length,
                       struct client_request request)
{
    struct ram_vdisk *ram = ram_of(vdisk);

    (void)request;
    ram->trims++;
    return co_change(ram, NULL, offset, length);
}

static const struct vdisk_ops ram_ops = {
    .co_read = ram_co_read, .co_write = ram_co_write, .co_trim = ram_co_trim};

int ram_vdisk_init(struct ram_vdisk *ram, uint64_t size_bytes, uint64_t seed)
{
    *ram = (struct ram_vdisk){.vdisk = {.ops = &ram_ops, .id = 1, .size_bytes = size_bytes},
                              .random = seed,
                              .room_bytes = size_bytes,
                              .cut_after = UINT64_MAX,
                              .slabs = UINT64_MAX};
    ram->memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ram->slab_there = calloc(size_bytes / SLAB_BYTES + 1, 1);
    if (ram->memory == MAP_FAILED)
        ram->memory = NULL;
    ram->in_use = calloc(size_bytes / BLOCK_SIZE, 1);
    return ram->memory && ram->slab_there && ram->in_use ? 0 : -ENOMEM;
}

void ram_vdisk_done(struct ram_vdisk *ram)
{
    if (ram->memory)
        munmap(ram->memory, ram->room_bytes);
    free(ram->slab_there);
    free(ram->in_use);
    *ram = (struct ram_vdisk){0};
}

void ram_vdisk_restart(struct ram_vdisk *ram)
{
    ram->is_cut = false;
    ram->cut_after = UINT64_MAX;
    ram->fail_after = ram->fail_reads_after = 0;
    ram->writes = ram->trims = ram->reads = 0;
}

void ram_vdisk_grow(struct ram_vdisk *ram, uint64_t bytes)
{
    ram->vdisk.size_bytes = MIN(ram->vdisk.size_bytes + bytes, ram->room_bytes);
}

uint64_t ram_vdisk_blocks_in_use(const struct ram_vdisk *ram)
{
    uint64_t blocks = 0;

    for (uint64_t i = 0; i < ram->room_bytes / BLOCK_SIZE; i++)
        blocks += ram->in_use[i];
    return blocks;
}
