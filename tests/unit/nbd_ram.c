#include "nbd_ram.h"

#include <stdio.h>
#include <sys/mman.h>

struct ram_file {
    struct nbd_file file;
    struct nbd_ram *ram;
    struct nbd_ram_disk *disk;
};

static struct ram_file *file_of(struct nbd_file *file)
{
    return container_of(file, struct ram_file, file);
}

static int co_ram_open(struct nbd_backend *backend, const char *name, bool info_only,
                       struct nbd_file **ret_file)
{
    struct nbd_ram *ram = container_of(backend, struct nbd_ram, backend);

    (void)info_only;
    for (unsigned i = 0; i < ram->disk_count; i++) {
        struct nbd_ram_disk *disk = &ram->disks[i];
        struct ram_file *file;

        if (strcmp(disk->name, name) != 0)
            continue;
        if (disk->refused)
            return -EPERM;
        file = calloc(1, sizeof(*file));
        assert(file);
        file->ram = ram;
        file->disk = disk;
        file->file.size_bytes = disk->size_bytes;
        file->file.block_min = disk->size_bytes % 512 ? 1 : 512;
        file->file.read_only = disk->read_only;
        disk->open_count++;
        *ret_file = &file->file;
        return 0;
    }
    return -ENOENT;
}

static void co_ram_close(struct nbd_file *file)
{
    file_of(file)->disk->open_count--;
    free(file_of(file));
}

static int co_ram_list(struct nbd_backend *backend, int (*co_emit)(void *arg, const char *name),
                       void *arg)
{
    struct nbd_ram *ram = container_of(backend, struct nbd_ram, backend);
    int r = 0;

    for (unsigned i = 0; i < ram->disk_count && r == 0; i++)
        r = co_emit(arg, ram->disks[i].name);
    return r;
}

/* What every request passes: a place to be held, and to fail. */
static int co_pass(struct ram_file *file)
{
    struct nbd_ram *ram = file->ram;

    ram->requests++;
    while (ram->hold) {
        ram->waiting++;
        co_cond_broadcast(&ram->held);
        co_cond_wait_always(&ram->released);
        ram->waiting--;
    }
    return ram->requests >= ram->fail_from ? ram->fail : 0;
}

static int co_ram_read(struct nbd_file *file, void *buffer, uint64_t offset, uint32_t length)
{
    int r = co_pass(file_of(file));

    assert(offset + length <= file->size_bytes);
    if (r == 0)
        memcpy(buffer, file_of(file)->disk->bytes + offset, length);
    return r;
}

static int co_ram_write(struct nbd_file *file, const void *buffer, uint64_t offset, uint32_t length)
{
    struct nbd_ram_disk *disk = file_of(file)->disk;
    int r = co_pass(file_of(file));

    assert(!disk->read_only);
    assert(offset + length <= file->size_bytes);
    if (r < 0)
        return r;
    memcpy(disk->bytes + offset, buffer, length);
    memset(disk->written + offset / BLOCK_SIZE, 1,
           (offset + length - 1) / BLOCK_SIZE - offset / BLOCK_SIZE + 1);
    return 0;
}

static int co_ram_trim(struct nbd_file *file, uint64_t offset, uint32_t length)
{
    struct nbd_ram_disk *disk = file_of(file)->disk;
    uint64_t start = DIV_ROUND_UP(offset, BLOCK_SIZE), end = (offset + length) / BLOCK_SIZE;
    int r = co_pass(file_of(file));

    if (r < 0)
        return r;
    memset(disk->bytes + offset, 0, length);
    if (start < end)
        memset(disk->written + start, 0, end - start);
    return 0;
}

static int co_ram_zero(struct nbd_file *file, uint64_t offset, uint32_t length, unsigned flags)
{
    struct nbd_ram_disk *disk = file_of(file)->disk;
    int r;

    if (flags & NBD_ZERO_MAY_PUNCH)
        return co_ram_trim(file, offset, length);
    if (flags & NBD_ZERO_FAST)
        return -EOPNOTSUPP;
    r = co_pass(file_of(file));
    if (r < 0)
        return r;
    memset(disk->bytes + offset, 0, length);
    memset(disk->written + offset / BLOCK_SIZE, 1,
           (offset + length - 1) / BLOCK_SIZE - offset / BLOCK_SIZE + 1);
    return 0;
}

static int co_ram_block_status(struct nbd_file *file, uint64_t offset, uint32_t length,
                               bool *ret_data, uint32_t *ret_length)
{
    struct nbd_ram_disk *disk = file_of(file)->disk;
    uint64_t at = offset, end = offset + length;
    uint8_t kind = disk->written[offset / BLOCK_SIZE];
    int r = co_pass(file_of(file));

    if (r < 0)
        return r;
    while (at < end && disk->written[at / BLOCK_SIZE] == kind)
        at = ALIGN_DOWN(at, BLOCK_SIZE) + BLOCK_SIZE;
    *ret_data = kind;
    *ret_length = MIN(at, end) - offset;
    return 0;
}

static const struct nbd_backend_ops ram_ops = {
    .co_open = co_ram_open,
    .co_close = co_ram_close,
    .co_list = co_ram_list,
    .co_read = co_ram_read,
    .co_write = co_ram_write,
    .co_zero = co_ram_zero,
    .co_trim = co_ram_trim,
    .co_block_status = co_ram_block_status,
};

void nbd_ram_init(struct nbd_ram *ram)
{
    memset(ram, 0, sizeof(*ram));
    ram->backend.ops = &ram_ops;
    co_cond_init(&ram->released);
    co_cond_init(&ram->held);
}

struct nbd_ram_disk *nbd_ram_add(struct nbd_ram *ram, const char *name, uint64_t size_bytes)
{
    struct nbd_ram_disk *disk = &ram->disks[ram->disk_count++];

    assert(ram->disk_count <= NBD_RAM_DISKS_MAX);
    snprintf(disk->name, sizeof(disk->name), "%s", name);
    disk->size_bytes = size_bytes;
    disk->bytes = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(disk->bytes != MAP_FAILED);
    disk->written = calloc(size_bytes / BLOCK_SIZE + 1, 1);
    assert(disk->written);
    return disk;
}

void nbd_ram_release(struct nbd_ram *ram)
{
    ram->hold = false;
    co_cond_broadcast(&ram->released);
}

void nbd_ram_done(struct nbd_ram *ram)
{
    for (unsigned i = 0; i < ram->disk_count; i++) {
        assert(ram->disks[i].open_count == 0);
        munmap(ram->disks[i].bytes, ram->disks[i].size_bytes);
        free(ram->disks[i].written);
    }
}
