#include "csv_world.h"

#include <stdio.h>
#include <sys/mman.h>

#include "s2d/base/metrics.h"

#define SIZE_BYTES (GIB)

/* ---- the disk ---- */

static struct csv_vdisk *vdisk_of(struct vdisk *vdisk)
{
    return container_of(vdisk, struct csv_vdisk, vdisk);
}

static int co_vread(struct vdisk *vdisk, void *buffer, uint64_t offset, uint64_t length)
{
    struct csv_vdisk *disk = vdisk_of(vdisk);

    assert(offset % BLOCK_SIZE == 0 && length % BLOCK_SIZE == 0);
    assert(offset + length <= vdisk->size_bytes);
    if (disk->revoked)
        return -ESTALE;
    memcpy(buffer, disk->bytes + offset, length);
    return 0;
}

static int co_pass(struct csv_vdisk *disk)
{
    co_sleep_ns(20 * US); /* a disk takes time: else one coroutine has the loop to itself */
    while (disk->hold && !disk->revoked) {
        disk->held++;
        co_cond_broadcast(&disk->held_one);
        co_cond_wait_always(&disk->released);
        disk->held--;
    }
    return disk->revoked ? -ESTALE : 0;
}

static int lost(struct csv_vdisk *disk)
{
    if (!disk->lose_answer)
        return 0;
    disk->revoked = true;
    return -ESTALE;
}

static int co_vwrite(struct vdisk *vdisk, const void *buffer, uint64_t offset, uint64_t length,
                     struct client_request request)
{
    struct csv_vdisk *disk = vdisk_of(vdisk);
    int r;

    if (request.session != 0)
        disk->last = request;
    r = co_pass(disk);
    assert(offset % BLOCK_SIZE == 0 && length % BLOCK_SIZE == 0);
    assert((uintptr_t)buffer % BLOCK_SIZE == 0);
    assert(offset + length <= vdisk->size_bytes);
    if (r < 0)
        return r;
    memcpy(disk->bytes + offset, buffer, length);
    return lost(disk);
}

static int co_vtrim(struct vdisk *vdisk, uint64_t offset, uint64_t length,
                    struct client_request request)
{
    struct csv_vdisk *disk = vdisk_of(vdisk);
    int r = co_pass(disk);

    (void)request;
    if (r < 0)
        return r;
    r = madvise(disk->bytes + offset, length, MADV_DONTNEED); /* zeros, and no memory */
    assert(r == 0);
    return lost(disk);
}

static const struct vdisk_ops vdisk_ops = {
    .co_read = co_vread, .co_write = co_vwrite, .co_trim = co_vtrim};

static struct csv_vdisk *vdisk_new(struct csv_world *world)
{
    struct csv_vdisk *disk = calloc(1, sizeof(*disk));

    assert(disk);
    disk->vdisk =
        (struct vdisk){.ops = &vdisk_ops, .id = CSV_VOLUME_ID, .size_bytes = world->size_bytes};
    disk->bytes = world->bytes;
    co_cond_init(&disk->held_one);
    co_cond_init(&disk->released);
    return disk;
}

void csv_vdisk_release(struct csv_vdisk *vdisk)
{
    vdisk->hold = false;
    co_cond_broadcast(&vdisk->released);
}

/* ---- who owns ---- */

/* The table of one node, as the cluster database would fill it. */
static void co_tell(struct csv_world *world, unsigned node)
{
    struct csv_volume_state state = {
        .id = CSV_VOLUME_ID,
        .name = "v",
        .owner = world->owner,
        .session = world->session,
        .fs = node == world->owner ? world->fs : NULL,
    };
    int r = co_csv_set_volume(world->csv[node], &state);

    assert(r == 0);
}

void co_csv_world_revoke(struct csv_world *world, bool abruptly)
{
    unsigned node = world->owner;

    if (node == 0)
        return;
    if (abruptly) {
        world->vdisk->revoked = true;
        co_cond_broadcast(&world->vdisk->released);
        fs_fail(world->fs);
    }
    world->owner = 0;
    co_tell(world, node);
    if (abruptly || fs_error(world->fs) < 0) {
        co_fs_abandon(world->fs);
    } else {
        int r = co_fs_unmount(world->fs);

        assert(r == 0 || world->vdisk->revoked);
    }
    world->fs = NULL;
    free(world->vdisk);
    world->vdisk = NULL;
}

void co_csv_world_give(struct csv_world *world, unsigned node)
{
    int r;

    assert(world->owner == 0);
    if (node != 0) {
        world->vdisk = vdisk_new(world);
        r = co_fs_mount(world->world->nodes[node].io, &world->vdisk->vdisk, NULL, &world->fs);
        assert(r == 0);
    }
    world->owner = node;
    world->session++;
    for (unsigned i = 1; i <= CSV_NODES; i++)
        co_tell(world, i);
}

void co_csv_world_move(struct csv_world *world, unsigned node, bool abruptly)
{
    co_csv_world_revoke(world, abruptly);
    co_csv_world_give(world, node);
}

void co_csv_world_break(struct csv_world *world, unsigned a, unsigned b)
{
    struct node *first = &world->world->nodes[a], *second = &world->world->nodes[b];

    bus_remove_peer(first->bus, b);
    node_add_peer(first, second);
}

/* ---- life ---- */

static int authorize(void *arg, const char *volume, const char *path, uint64_t incarnation,
                     bool read_only)
{
    struct csv_world *world = arg;

    snprintf(world->authorized, sizeof(world->authorized), "%s/%s@%llu%s", volume, path,
             (unsigned long long)incarnation, read_only ? " read-only" : "");
    return world->authorize_result;
}

static const char *disk_with_name(void *arg, const char *volume, const char *name, unsigned skip)
{
    const char *disk = ((struct csv_world *)arg)->vm_disk;

    (void)volume;
    return disk && skip == 0 && strstr(disk, name) ? disk : NULL;
}

static bool may_answer(void *arg)
{
    return !((struct csv_world *)arg)->lease_lost;
}

static void co_format(struct csv_world *world)
{
    struct fs_format_options format = {.label = "v"};
    struct csv_vdisk *disk = vdisk_new(world);
    int r = co_fs_format(world->world->nodes[1].io, &disk->vdisk, &format);

    assert(r == 0);
    free(disk);
}

void co_csv_world_format(struct csv_world *world)
{
    int r;

    co_csv_world_revoke(world, true);
    r = madvise(world->bytes, world->size_bytes, MADV_DONTNEED);
    assert(r == 0);
    co_format(world);
    co_csv_world_give(world, 1);
}

static void co_setup(struct csv_world *world)
{
    int r;

    co_format(world);
    for (unsigned node = 1; node <= CSV_NODES; node++) {
        struct csv_options options = {
            .node = node,
            .start_counter = 1,
            .bus = world->world->nodes[node].bus,
            .authorize = authorize,
            .disk_with_name = disk_with_name,
            .may_answer = may_answer,
            .arg = world,
        };

        r = metrics_new(&world->metrics[node]);
        assert(r == 0);
        options.metrics = world->metrics[node];
        r = csv_new(world->world->nodes[node].io, &options, &world->csv[node]);
        assert(r == 0);
        co_tell(world, node);
        world->volume[node] = csv_volume_find(world->csv[node], "v");
        assert(world->volume[node]);
    }
    co_csv_world_give(world, 1);
}

uint64_t csv_world_served(const struct csv_world *world, unsigned node)
{
    static const char name[] = "\ns2d_csv_served_total ";
    cleanup(freep) char *text = NULL;
    const char *at;

    if (metrics_render(world->metrics[node], &text) < 0)
        abort();
    at = strstr(text, name);
    assert(at);
    return strtoull(at + strlen(name), NULL, 10);
}

static void report(void *arg, const char *line)
{
    (void)arg;
    fprintf(stderr, "check: %s\n", line);
}

void co_csv_world_check(struct csv_world *world)
{
    struct fs_check_result result;
    int r;

    r = co_fs_check(world->fs, report, NULL, &result);
    assert(r == 0);
    assert(result.problems == 0);
    assert(csv_volume_count(world->volume[world->owner]).open_files == 0);
}

static void co_teardown(struct csv_world *world)
{
    if (world->fs)
        co_csv_world_check(world);
    for (unsigned node = 1; node <= CSV_NODES; node++)
        csv_volume_put(world->volume[node]);
    co_csv_world_revoke(world, false);
    for (unsigned node = 1; node <= CSV_NODES; node++) {
        co_csv_close(world->csv[node]);
        metrics_free(world->metrics[node]);
    }
}

static void co_world_main(void *arg)
{
    struct csv_world *world = arg;

    world->body(world);
    io_stop(world->world->io);
}

void csv_world_do(struct csv_world *world, void (*body)(struct csv_world *world))
{
    int r;

    world->body = body;
    r = co_spawn(world->world->io, "test", co_world_main, world);
    assert(r == 0);
    io_run(world->world->io);
}

struct csv_world *csv_world_new(void)
{
    struct csv_world *world = calloc(1, sizeof(*world));

    assert(world);
    world->size_bytes = SIZE_BYTES;
    world->bytes = mmap(NULL, SIZE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(world->bytes != MAP_FAILED);
    world->world = world_new(ON_URING, 1);
    world_connect(world->world, CSV_NODES);
    csv_world_do(world, co_setup);
    return world;
}

void csv_world_free(struct csv_world *world)
{
    csv_world_do(world, co_teardown);
    world_free(world->world);
    munmap(world->bytes, SIZE_BYTES);
    free(world);
}

void csv_world_run(void (*body)(struct csv_world *world))
{
    struct csv_world *world = csv_world_new();

    csv_world_do(world, body);
    csv_world_free(world);
}
