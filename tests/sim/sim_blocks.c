/* Clients at block level. A register to each block of the shared file; its value is the stamp that
 * the block's contents are made of, 0 for zeros. A block is the unit: a request of several is that
 * many operations with the same begin and end.
 *
 * In most runs a block has one client that writes it, and everybody reads it. In a sixth of
 * those without VMs, and with --shared, everybody writes it too. Then what csv.h promises of a
 * request that is sent again shows: until it is answered it may run again, after what another
 * client wrote meanwhile. Where all volumes are mirrors the file is in place from the beginning,
 * and neither trimmed nor copied: there a repeat of what was written before is answered, and not
 * run, unless so many faults came meanwhile that every store that knew of it may have started again
 * (resiliency/README.md). */
#include "tests/sim/sim_blocks.h"

#define FILE_NAME "data"
#define WORDS (BLOCK_SIZE / sizeof(uint64_t))

struct blocks *blocks_make(struct world *world, unsigned volume, const char *path, uint64_t count)
{
    struct blocks *blocks = calloc(1, sizeof(*blocks) + count * sizeof(uint32_t));

    if (!blocks)
        abort();
    blocks->volume = world->shape.volumes[volume].name;
    snprintf(blocks->path, sizeof(blocks->path), "%s", path);
    blocks->count = count;
    return blocks;
}

struct blocks *blocks_new(struct world *world, unsigned volume)
{
    struct blocks *blocks = blocks_make(world, volume, FILE_NAME, world->shape.blocks);

    for (uint64_t i = 0; i < blocks->count; i++)
        blocks->regs[i] = history_register(world->history, volume ? "block of w" : "block", i);
    return blocks;
}

void blocks_free(struct blocks *blocks)
{
    free(blocks);
}

/* ---- contents ---- */

/* Every word tells its stamp and its place. */
void blocks_fill(uint64_t *words, uint64_t block, uint64_t stamp)
{
    uint64_t base = stamp * UINT64_C(0x9e3779b97f4a7c15);

    for (size_t i = 0; i < WORDS; i++)
        words[i] = base + i * UINT64_C(0xbf58476d1ce4e5b9);
    words[0] = block + 1;
    words[1] = stamp;
}

/* The stamp was given for this block, of this file or of one that it is a copy of. */
static bool may_show(struct world *world, const struct blocks *blocks, uint64_t block,
                     uint64_t stamp)
{
    uint32_t reg = stamp_register(world->workload, stamp);

    while (blocks && blocks->regs[block] != reg)
        blocks = blocks->copy_of;
    return blocks != NULL;
}

uint64_t blocks_stamp(struct machine *machine, const struct blocks *blocks, const uint64_t *words,
                      uint64_t block)
{
    struct world *world = machine->world;
    uint64_t expected[WORDS];
    static const uint64_t zeros[WORDS];

    if (memcmp(words, zeros, BLOCK_SIZE) == 0)
        return 0;
    blocks_fill(expected, block, words[1]);
    if (memcmp(expected, words, BLOCK_SIZE) != 0)
        world_fail(world,
                   "node %u: block %llu reads as something that nobody wrote (it begins with "
                   "%016llx %016llx)",
                   machine->number, (unsigned long long)block, (unsigned long long)words[0],
                   (unsigned long long)words[1]);
    if (!may_show(world, blocks, block, words[1]))
        world_fail(
            world, "node %u: %s: block %llu reads as stamp %llu, which was never written to it",
            machine->number, blocks->path, (unsigned long long)block, (unsigned long long)words[1]);
    return words[1];
}

/* ---- requests ---- */

static struct history *history_of(const struct request *request)
{
    return request->client->machine->world->history;
}

static uint64_t now_of(const struct request *request)
{
    return world_now_ns(request->client->machine->world);
}

static void begin_request(struct request *request, enum history_kind kind, bool stamped)
{
    struct world *world = request->client->machine->world;
    const uint32_t *regs = request->blocks->regs;

    request->hurts = world->hurts;
    for (uint64_t i = 0; i < request->count; i++) {
        uint64_t block = request->first + i;
        uint64_t stamp = stamped ? stamp_new(world->workload, regs[block]) : 0;

        if (stamped)
            blocks_fill(request->buffer + i * WORDS, block, stamp);
        request->ops[i] = history_begin(world->history, regs[block], kind, stamp,
                                        client_who(request->client), now_of(request));
    }
}

/* It may have run, and again after what others did meanwhile. Of a mirror two copies know it, and
 * for each of them to have started again since, a fault must have begun and ended. An error is an
 * answer, after which it does not run. */
static bool may_have_repeated(const struct request *request, int r)
{
    const struct world *world = request->client->machine->world;

    if (!world->shape.shared_writes || (r < 0 && r != -ECANCELED && r != -ESHUTDOWN))
        return false;
    return !world->shape.in_place || world->hurts - request->hurts > 2;
}

/* Ends what changed something. */
static void end_change(struct request *request, int r, const char *what)
{
    bool repeats = may_have_repeated(request, r);

    if (r < 0)
        error_is_excused(request->client, r, true, what);
    for (uint64_t i = 0; i < request->count; i++) {
        if (repeats)
            history_repeats(history_of(request), request->ops[i]);
        if (r == 0)
            history_end(history_of(request), request->ops[i], 0, now_of(request));
        else
            history_unknown(history_of(request), request->ops[i]);
    }
}

static void note_wait(const struct request *request, uint64_t since_ns)
{
    const struct machine *machine = request->client->machine;
    struct counts *counts = &machine->world->counts;

    if (machine->hurts == 0 && machine->hurt_ns < since_ns)
        counts->longest_wait_ns = MAX(counts->longest_wait_ns, now_of(request) - since_ns);
}

int co_request_write(struct request *request)
{
    uint64_t since_ns = now_of(request);
    int r;

    begin_request(request, HISTORY_WRITE, true);
    r = co_csv_write(request->file, request->buffer, request->first * BLOCK_SIZE,
                     request->count * BLOCK_SIZE);
    end_change(request, r, "write");
    if (r == 0)
        note_wait(request, since_ns);
    if (r == 0)
        request->client->machine->world->counts.block_writes += request->count;
    return r;
}

int co_request_trim(struct request *request, bool punch)
{
    int r;

    begin_request(request, HISTORY_WRITE, false);
    if (punch)
        r = co_csv_punch(request->file, request->first * BLOCK_SIZE, request->count * BLOCK_SIZE);
    else
        r = co_csv_zero(request->file, request->first * BLOCK_SIZE, request->count * BLOCK_SIZE);
    end_change(request, r, punch ? "trim" : "write zeroes");
    if (r == 0)
        request->client->machine->world->counts.trims++;
    return r;
}

int co_request_load(struct request *request)
{
    struct machine *machine = request->client->machine;
    uint64_t bytes = request->count * BLOCK_SIZE, length;
    int r =
        co_csv_read(request->file, request->buffer, request->first * BLOCK_SIZE, bytes, &length);

    if (r < 0) {
        error_is_excused(request->client, r, false, "read");
        return r;
    }
    if (length < bytes && request->blocks->maybe_short)
        memset((char *)request->buffer + length, 0, bytes - length);
    else if (length != bytes)
        world_fail(machine->world, "node %u: a read of %llu blocks gave %llu bytes",
                   machine->number, (unsigned long long)request->count, (unsigned long long)length);
    for (uint64_t i = 0; i < request->count; i++)
        request->values[i] =
            blocks_stamp(machine, request->blocks, request->buffer + i * WORDS, request->first + i);
    return 0;
}

int co_request_read(struct request *request)
{
    int r;

    begin_request(request, HISTORY_READ, false);
    r = co_request_load(request);
    for (uint64_t i = 0; i < request->count; i++) {
        if (r < 0)
            history_drop(history_of(request), request->ops[i]);
        else
            history_end(history_of(request), request->ops[i], request->values[i], now_of(request));
    }
    if (r == 0)
        request->client->machine->world->counts.block_reads += request->count;
    return r;
}

static void co_request_flush(struct request *request)
{
    struct csv *csv = node_csv(request->client->machine->node);
    struct csv_volume *volume = csv_volume_find(csv, request->blocks->volume);
    int r = volume ? co_client_flush(request->client, volume, request->ino) : 0;

    csv_volume_put(volume);
    if (r < 0)
        error_is_excused(request->client, r, false, "flush");
}

static void choose_range(struct request *request)
{
    struct world *world = request->client->machine->world;
    uint64_t most = world_draw(world, 50) == 0 ? BIG_BLOCKS : world->shape.request_blocks_max;

    request->first = world_draw(world, world->shape.blocks);
    request->count = 1 + world_draw(world, most);
    request->count = MIN(request->count, world->shape.blocks - request->first);
}

/* Runs of blocks are dealt out to all clients of the volume in turn. False: there are not enough
 * for this one. */
static bool choose_own_range(struct request *request)
{
    struct world *world = request->client->machine->world;
    const struct shape *shape = &world->shape;
    uint64_t volumes = shape->volume_count;
    uint64_t clients = DIV_ROUND_UP((uint64_t)shape->nodes * shape->block_clients, volumes);
    uint64_t self = client_place(request->client) / volumes;
    uint64_t run_blocks = shape->request_blocks_max;
    uint64_t runs = DIV_ROUND_UP(shape->blocks, run_blocks), run, end;

    choose_range(request);
    if (shape->shared_writes)
        return true;
    if (self >= runs)
        return false;
    run = self + world_draw(world, DIV_ROUND_UP(runs - self, clients)) * clients;
    end = MIN((run + 1) * run_blocks, shape->blocks);
    request->first = run * run_blocks + world_draw(world, end - run * run_blocks);
    request->count = 1 + world_draw(world, end - request->first);
    return true;
}

static void co_one_request(struct request *request)
{
    struct world *world = request->client->machine->world;
    uint64_t draw = world_draw(world, 100);
    bool change =
        draw < world->shape.trim_percent + world->shape.write_percent && choose_own_range(request);

    if (change && draw < world->shape.trim_percent) {
        co_request_trim(request, draw % 2);
    } else if (change) {
        co_request_write(request);
    } else {
        choose_range(request);
        co_request_read(request);
    }
    if (change && workload_flushes(world))
        co_request_flush(request);
}

/* ---- clients ---- */

int co_request_open(struct request *request, bool read_only)
{
    struct csv *csv = node_csv(request->client->machine->node);
    struct csv_volume *volume = csv ? csv_volume_find(csv, request->blocks->volume) : NULL;
    struct csv_open open = {.read_only = read_only};
    struct fs_attr attr;
    int r = volume ? co_csv_walk(volume, request->blocks->path, &attr) : -ENOENT;

    if (r == 0) {
        request->ino = open.ino = attr.ino;
        r = co_csv_open(volume, &open, &attr, &request->file);
    }
    csv_volume_put(volume);
    /* Where memory lies decides what the file system does with it: it must not be chance. */
    if (!request->buffer && !(request->buffer = aligned_alloc(BLOCK_SIZE, BIG_BLOCKS * BLOCK_SIZE)))
        abort();
    return r;
}

void request_close(struct request *request)
{
    csv_file_close(request->file);
    request->file = NULL;
}

void request_done(struct request *request)
{
    request_close(request);
    free(request->buffer);
    request->buffer = NULL;
}

static bool co_open_surely(struct request *request)
{
    while (co_request_open(request, false) < 0) {
        if (request->client->machine->stopping || co_sleep_ns(50 * MS) < 0)
            return false;
    }
    return true;
}

void co_block_client(struct client *client)
{
    struct world *world = client->machine->world;
    struct request request = {.client = client,
                              .blocks = world_blocks(world, client_volume(client))};

    if (client_goes_on(client) && co_open_surely(&request)) {
        while (co_client_think(client))
            co_one_request(&request);
    }
    request_done(&request);
}

void co_blocks_read_all(struct machine *machine, struct blocks *blocks)
{
    struct client reader = {.machine = machine, .number = 99};
    struct request request = {.client = &reader, .blocks = blocks};
    uint64_t count = blocks->count;

    if (co_open_surely(&request)) {
        for (request.first = 0; request.first < count; request.first += request.count) {
            request.count = MIN(count - request.first, (uint64_t)BIG_BLOCKS);
            co_request_read(&request);
        }
    }
    request_done(&request);
}

static int co_allocate(struct csv_volume *volume, uint64_t ino, uint64_t bytes)
{
    struct csv_open open = {.ino = ino};
    struct csv_file *file;
    struct fs_attr attr;
    int r = co_csv_open(volume, &open, &attr, &file);

    if (r < 0)
        return r;
    r = co_csv_allocate(file, 0, bytes, 0);
    csv_file_close(file);
    return r;
}

int co_blocks_prepare(struct machine *machine, const struct blocks *blocks)
{
    struct csv_volume *volume = csv_volume_find(node_csv(machine->node), blocks->volume);
    struct fs_new new = {.mode = 0100644};
    struct fs_attr attr;
    int r = volume ? co_csv_create(volume, FS_ROOT_INO, FILE_NAME, &new, &attr) : -ENOENT;

    if (r == 0)
        r = co_csv_truncate(volume, attr.ino, blocks->count * BLOCK_SIZE, &attr);
    if (r == 0 && machine->world->shape.in_place)
        r = co_allocate(volume, attr.ino, blocks->count * BLOCK_SIZE);
    csv_volume_put(volume);
    return r;
}
