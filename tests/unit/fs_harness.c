#include "tests/unit/fs_harness.h"
#include "fs-refs-lite/fs_format.h"
#include "s2d/base/checksum.h"
#include "s2d/base/sim.h"

struct world *world_now;

_Noreturn void check_failed(const char *what, const char *file, int line)
{
    fprintf(stderr, "%s:%d: %s is false; seed=%llu what=%s which=%llu\n", file, line, what,
            (unsigned long long)world_now->seed, world_now->what ? world_now->what : "",
            (unsigned long long)world_now->which);
    abort();
}

_Noreturn void check_int_failed(const char *what, long long value, long long expected,
                                const char *file, int line)
{
    fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", file, line, what, value, expected);
    check_failed(what, file, line);
}

struct run {
    struct world *world;
    void (*co_main)(struct world *world);
    bool has_returned;
};

static void co_run(struct io *io, void *arg)
{
    struct run *run = arg;

    run->world->io = io;
    run->co_main(run->world);
    run->has_returned = true;
    io_stop(io);
}

static bool has_returned(void *arg)
{
    const struct run *run = arg;

    return run->has_returned;
}

void world_run(uint64_t size_bytes, uint64_t seed, void (*co_main)(struct world *world))
{
    struct world world = {.seed = seed};
    struct run run = {.world = &world, .co_main = co_main};
    struct sim_options options = sim_default_options(seed);
    struct sim *sim;

    world_now = &world;
    check_int(sim_new(&options, &sim), 0);
    check_int(ram_vdisk_init(&world.ram, size_bytes, seed), 0);
    check_int(sim_start(sim, 1, co_run, &run), 0);
    check(sim_run(sim, UINT64_MAX, has_returned, &run));
    ram_vdisk_done(&world.ram);
    sim_free(sim);
    world_now = NULL;
}

void co_world_format(struct world *world)
{
    check_int(co_fs_format(world->io, &world->ram.vdisk, NULL), 0);
}

void co_world_mount(struct world *world)
{
    check(!world->fs);
    check_int(co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs), 0);
}

void co_world_unmount(struct world *world)
{
    check_int(co_fs_unmount(take_ptr(world->fs)), 0);
}

void co_world_crash(struct world *world)
{
    co_fs_abandon(take_ptr(world->fs));
    ram_vdisk_restart(&world->ram);
}

static void print_problem(void *arg, const char *line)
{
    (void)arg;
    fprintf(stderr, "check: %s\n", line);
}

void co_world_check(struct world *world)
{
    struct fs_check_result result;

    check_int(co_fs_check(world->fs, print_problem, NULL, &result), 0);
    check_int(result.problems, 0);
    check_int(fs_counters(world->fs)->damage, 0);
}

void co_world_remount(struct world *world)
{
    co_world_unmount(world);
    co_world_mount(world);
}

void seal_block(void *block)
{
    struct fs_block_header *header = block;
    struct fs_journal_batch *batch = block;

    switch (header->magic) {
    case FS_SUPER_MAGIC:
    case FS_ROOT_MAGIC:
    case FS_NODE_MAGIC:
    case FS_BITMAP_MAGIC:
        header->crc = crc32c((char *)block + offsetof(struct fs_block_header, volume),
                             BLOCK_SIZE - offsetof(struct fs_block_header, volume));
        break;
    case FS_JOURNAL_MAGIC: /* only batches of one block */
        if (batch->length >= sizeof(*batch) && batch->length <= BLOCK_SIZE)
            batch->crc =
                crc32c(batch->volume, batch->length - offsetof(struct fs_journal_batch, volume));
        break;
    default:
        break;
    }
}

int co_parent(struct world *world, const char *path, struct fs_inode **ret_dir,
              const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    char dir[1024];

    *ret_name = slash ? slash + 1 : path;
    snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) : 0, path);
    return co_fs_walk(world->fs, dir, ret_dir);
}

int co_open(struct world *world, const char *path, struct fs_inode **ret_inode)
{
    return co_fs_walk(world->fs, path, ret_inode);
}

int co_create(struct world *world, const char *path)
{
    cleanup(fs_inode_putp) struct fs_inode *dir = NULL;
    struct fs_new new = {.mode = S_IFREG | 0644};
    const char *name;
    int r = co_parent(world, path, &dir, &name);

    return r < 0 ? r : co_fs_create(dir, name, &new, FS_NO_REQUEST, NULL);
}

int co_mkdir(struct world *world, const char *path)
{
    cleanup(fs_inode_putp) struct fs_inode *dir = NULL;
    struct fs_new new = {.mode = S_IFDIR | 0755};
    const char *name;
    int r = co_parent(world, path, &dir, &name);

    return r < 0 ? r : co_fs_mkdir(dir, name, &new, FS_NO_REQUEST, NULL);
}

int co_unlink(struct world *world, const char *path)
{
    cleanup(fs_inode_putp) struct fs_inode *dir = NULL;
    const char *name;
    int r = co_parent(world, path, &dir, &name);

    return r < 0 ? r : co_fs_unlink(dir, name, FS_NO_REQUEST);
}

int co_rmdir(struct world *world, const char *path)
{
    cleanup(fs_inode_putp) struct fs_inode *dir = NULL;
    const char *name;
    int r = co_parent(world, path, &dir, &name);

    return r < 0 ? r : co_fs_rmdir(dir, name, FS_NO_REQUEST);
}

int co_rename(struct world *world, const char *from, const char *to, unsigned flags)
{
    cleanup(fs_inode_putp) struct fs_inode *from_dir = NULL;
    cleanup(fs_inode_putp) struct fs_inode *to_dir = NULL;
    const char *from_name, *to_name;
    int r = co_parent(world, from, &from_dir, &from_name);

    if (r == 0)
        r = co_parent(world, to, &to_dir, &to_name);
    return r < 0 ? r : co_fs_rename(from_dir, from_name, to_dir, to_name, flags, FS_NO_REQUEST);
}

uint8_t pattern_byte(uint64_t seed, uint64_t offset)
{
    return (uint8_t)(((seed + offset / 512) * 0x9e3779b97f4a7c15u >> 56) + offset) | 1;
}

int co_write_pattern(struct fs_inode *inode, uint64_t offset, uint64_t length, uint64_t seed)
{
    char *buffer = aligned_alloc(BLOCK_SIZE, ALIGN_UP(length, (uint64_t)BLOCK_SIZE) + BLOCK_SIZE);
    char *data = buffer + (seed % 3 == 0 ? 8 : 0); /* memory that is not aligned, too */
    int r;

    check(buffer);
    for (uint64_t i = 0; i < length; i++)
        data[i] = (char)pattern_byte(seed, offset + i);
    r = co_fs_write(inode, data, offset, length, (struct client_request){0});
    free(buffer);
    return r;
}

void co_world_crash_twice(struct world *world, uint64_t writes)
{
    co_world_crash(world);
    world->ram.cut_after = writes;
    if (co_fs_mount(world->io, &world->ram.vdisk, NULL, &world->fs) == 0)
        co_world_crash(world);
    ram_vdisk_restart(&world->ram);
    co_world_mount(world);
}

void co_world_fresh(struct world *world)
{
    co_world_format(world);
    co_world_mount(world);
}

void co_world_done(struct world *world)
{
    co_world_check(world);
    co_world_remount(world);
    co_world_check(world);
    co_world_unmount(world);
}

struct fs_inode *co_must_open(struct world *world, const char *path)
{
    struct fs_inode *inode;

    check_int(co_open(world, path, &inode), 0);
    return inode;
}
