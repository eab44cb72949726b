/* Clients that make copies: clones of a file and of ranges, and snapshots, of the file that block
 * clients write meanwhile, and of other copies. A copy has registers of its own. Making it reads
 * every block of the source, and writes it into the copy, at one moment between begin and end; what
 * that was is learnt by reading the copy once, before anybody writes to it (history_settle()). From
 * then on a copy is a file like any other: a write on either side that shows on the other is a read
 * that nothing explains.
 *
 * Clones are written, trimmed, cut and grown again, snapshots put back over the clone that they
 * were taken of, and both removed. Only its holder (a client on one node, and its successors)
 * touches a copy until the end, when every node reads those that are left. */
#include "tests/sim/sim_blocks.h"

#define LIVE_MAX 4     /* copies of a holder */
#define COPIES_MAX 400 /* of a run */
#define COPY_BLOCKS_MAX 256

struct copy {
    struct blocks *blocks;
    struct blocks *from;
    char name[16];
    unsigned volume, holder; /* a machine's number */
    bool is_snapshot;
    bool ready; /* made, and its first contents are known */
    bool gone;  /* or about to be, or never quite made */
};

struct copies {
    struct copy list[COPIES_MAX];
    unsigned count;
};

struct copies *copies_new(void)
{
    struct copies *copies = calloc(1, sizeof(*copies));

    if (!copies)
        abort();
    return copies;
}

void copies_free(struct copies *copies)
{
    if (!copies)
        return;
    for (unsigned i = 0; i < copies->count; i++)
        free(copies->list[i].blocks);
    free(copies);
}

/* ---- a session of one client ---- */

struct session {
    struct client *client;
    struct world *world;
    struct machine *machine;
    unsigned volume_number;
    struct csv_volume *volume;
    struct request request; /* its blocks: of the copy at hand */
};

static struct copy *live_copy(struct session *session, unsigned number)
{
    struct copies *copies = world_copies(session->world);

    for (unsigned i = 0; i < copies->count; i++) {
        struct copy *copy = &copies->list[i];

        if (copy->ready && !copy->gone && copy->holder == session->machine->number && number-- == 0)
            return copy;
    }
    return NULL;
}

static unsigned count_live(struct session *session)
{
    unsigned count = 0;

    while (live_copy(session, count))
        count++;
    return count;
}

/* The copy that has these blocks; NULL: none (they are the shared file), or it is gone. */
static struct copy *copy_with(struct session *session, const struct blocks *blocks)
{
    struct copies *copies = world_copies(session->world);

    for (unsigned i = 0; i < copies->count; i++) {
        if (copies->list[i].blocks == blocks && copies->list[i].ready && !copies->list[i].gone)
            return &copies->list[i];
    }
    return NULL;
}

static int co_find(struct session *session, const struct blocks *blocks, uint64_t *ret_ino)
{
    struct fs_attr attr;
    int r = co_csv_walk(session->volume, blocks->path, &attr);

    if (r == 0)
        *ret_ino = attr.ino;
    return r;
}

/* Opens the blocks for requests. */
static int co_open(struct session *session, struct blocks *blocks, bool read_only)
{
    session->request.blocks = blocks;
    return co_request_open(&session->request, read_only);
}

static void take_part(struct session *session)
{
    struct request *request = &session->request;

    request->first = world_draw(session->world, request->blocks->count);
    request->count = 1 + world_draw(session->world, session->world->shape.request_blocks_max);
    request->count = MIN(request->count, request->blocks->count - request->first);
}

/* ---- writes of many blocks in one step, whose values are known ---- */

struct bulk {
    struct blocks *blocks;
    uint64_t first, count;
    struct history_op ops[COPY_BLOCKS_MAX];
};

/* values: NULL: zeros. */
static void bulk_begin(struct session *session, struct bulk *bulk, enum history_kind kind,
                       const uint64_t *values)
{
    assert(bulk->first + bulk->count <= COPY_BLOCKS_MAX);
    for (uint64_t i = bulk->first; i < bulk->first + bulk->count; i++)
        bulk->ops[i] = history_begin(session->world->history, bulk->blocks->regs[i], kind,
                                     values ? values[i] : 0, client_who(session->client),
                                     world_now_ns(session->world));
}

static void bulk_end(struct session *session, struct bulk *bulk, int r)
{
    for (uint64_t i = bulk->first; i < bulk->first + bulk->count; i++) {
        if (r == 0)
            history_end(session->world->history, bulk->ops[i], 0, world_now_ns(session->world));
        else
            history_unknown(session->world->history, bulk->ops[i]);
    }
}

static void bulk_seal(struct session *session, struct bulk *bulk)
{
    for (uint64_t i = bulk->first; i < bulk->first + bulk->count; i++)
        history_seal(session->world->history, bulk->ops[i], world_now_ns(session->world));
}

static void bulk_drop(struct session *session, struct bulk *bulk)
{
    for (uint64_t i = bulk->first; i < bulk->first + bulk->count; i++)
        history_drop(session->world->history, bulk->ops[i]);
}

/* ---- making one ---- */

static int co_make_range(struct session *session, struct copy *copy, uint64_t from_ino,
                         uint64_t first, uint64_t count)
{
    struct fs_new new = {.mode = 0100644};
    struct fs_attr attr;
    uint64_t offset = first * BLOCK_SIZE;
    int r = co_csv_create(session->volume, FS_ROOT_INO, copy->name, &new, &attr);

    if (r == 0)
        r = co_csv_clone_range(session->volume, from_ino, offset, attr.ino, offset,
                               count * BLOCK_SIZE);
    if (r == 0)
        r = co_csv_truncate(session->volume, attr.ino, copy->blocks->count * BLOCK_SIZE, &attr);
    return r;
}

/* The calls that the daemon's own API makes. first, count: the range, if it is not to be all. */
static int co_make(struct session *session, struct copy *copy, uint64_t first, uint64_t count)
{
    struct fs_attr attr;
    uint64_t ino = 0;
    int r = co_find(session, copy->from, &ino);

    if (r < 0)
        return r;
    if (copy->is_snapshot)
        return co_csv_snapshot(session->volume, CSV_SNAPSHOT_CREATE, ino, copy->name);
    if (count < copy->blocks->count)
        return co_make_range(session, copy, ino, first, count);
    return co_csv_clone_file(session->volume, ino, FS_ROOT_INO, copy->name, &attr);
}

/* Reads the new copy, and so learns what was in the source at the moment of the copy. */
static int co_settle(struct session *session, struct bulk *reads, struct bulk *writes)
{
    struct request *request = &session->request;
    uint64_t end = reads->first + reads->count;
    int r = co_open(session, writes->blocks, true);

    for (request->first = reads->first; r == 0 && request->first < end;
         request->first += request->count) {
        request->count = MIN(end - request->first, (uint64_t)BIG_BLOCKS);
        r = co_request_load(request);
        for (uint64_t i = 0; r == 0 && i < request->count; i++) {
            history_settle(session->world->history, reads->ops[request->first + i],
                           request->values[i]);
            history_settle(session->world->history, writes->ops[request->first + i],
                           request->values[i]);
        }
    }
    request_close(request);
    return r;
}

static struct copy *new_copy(struct session *session, struct blocks *from, bool is_snapshot)
{
    struct world *world = session->world;
    struct copies *copies = world_copies(world);
    struct copy *copy = &copies->list[copies->count];
    char path[32];

    *copy = (struct copy){.from = from,
                          .volume = session->volume_number,
                          .holder = session->machine->number,
                          .is_snapshot = is_snapshot};
    snprintf(copy->name, sizeof(copy->name), "%s%u", is_snapshot ? "snapshot" : "clone",
             copies->count);
    snprintf(path, sizeof(path), "%s%s", is_snapshot ? FS_SNAPSHOTS_NAME "/" : "", copy->name);
    copy->blocks = blocks_make(world, copy->volume, path, from->count);
    copy->blocks->copy_of = from;
    copy->blocks->maybe_short = from->maybe_short;
    for (uint64_t i = 0; i < from->count; i++)
        copy->blocks->regs[i] =
            history_register(world->history, is_snapshot ? "block of snapshot" : "block of clone",
                             copies->count * 1000 + i);
    copies->count++;
    return copy;
}

static void co_copy(struct session *session, struct blocks *from)
{
    uint64_t kind = world_draw(session->world, 4);
    const struct copy *source = copy_with(session, from);
    bool may_snapshot = !source || !source->is_snapshot; /* of a snapshot there is none */
    struct copy *copy = new_copy(session, from, kind == 0 && may_snapshot);
    struct bulk reads = {.blocks = from, .count = from->count}, writes;
    int r;

    if (kind == 1 && !from->maybe_short) {
        reads.first = world_draw(session->world, from->count);
        reads.count = 1 + world_draw(session->world, from->count - reads.first);
    }
    writes = reads;
    writes.blocks = copy->blocks;
    bulk_begin(session, &reads, HISTORY_READ, NULL);
    bulk_begin(session, &writes, HISTORY_WRITE, NULL);
    r = co_make(session, copy, reads.first, reads.count);
    if (r < 0) {
        bulk_drop(session, &reads);
        bulk_drop(session, &writes);
        copy->gone = true;
        error_is_excused(session->client, r, true, copy->name);
        return;
    }
    bulk_seal(session, &reads);
    bulk_seal(session, &writes);
    copy->ready = co_settle(session, &reads, &writes) == 0;
    session->world->counts.copies += copy->ready;
}

/* ---- using one ---- */

/* Cut, and grown again: what was behind the cut is zeros. A request of unknown fate may cut it
 * later still. */
static void co_resize(struct session *session, struct copy *copy)
{
    struct blocks *blocks = copy->blocks;
    struct bulk bulk = {.blocks = blocks, .first = world_draw(session->world, blocks->count)};
    bool was_short = blocks->maybe_short;
    struct fs_attr attr;
    uint64_t ino = 0;
    int r = co_find(session, blocks, &ino);

    bulk.count = blocks->count - bulk.first;
    blocks->maybe_short = true;
    bulk_begin(session, &bulk, HISTORY_WRITE, NULL);
    if (r == 0)
        r = co_csv_truncate(session->volume, ino, bulk.first * BLOCK_SIZE, &attr);
    if (r == 0)
        r = co_csv_truncate(session->volume, ino, blocks->count * BLOCK_SIZE, &attr);
    bulk_end(session, &bulk, r);
    if (r < 0)
        error_is_excused(session->client, r, true, "cut and grow");
    else
        blocks->maybe_short = was_short;
}

static void co_change(struct session *session, struct copy *copy)
{
    struct request *request = &session->request;
    int r = co_open(session, copy->blocks, false);

    take_part(session);
    if (r < 0)
        error_is_excused(session->client, r, false, copy->name);
    else if (world_draw(session->world, 5) == 0)
        co_request_trim(request, world_draw(session->world, 2));
    else
        co_request_write(request);
    request_close(request);
}

static void co_read(struct session *session, struct copy *copy)
{
    int r = co_open(session, copy->blocks, true);

    take_part(session);
    if (r < 0)
        error_is_excused(session->client, r, false, copy->name);
    else
        co_request_read(&session->request);
    request_close(&session->request);
}

/* ---- snapshots ---- */

static void co_try_to_write(struct session *session, struct copy *copy)
{
    struct request *request = &session->request;
    int r = co_open(session, copy->blocks, false);

    if (r == 0) { /* the bytes are in the transcript, though nobody keeps them */
        memset(request->buffer, 0, BLOCK_SIZE);
        r = co_csv_write(request->file, request->buffer, 0, BLOCK_SIZE);
    }
    request_close(request);
    if (r == 0)
        world_fail(session->world, "node %u: %s could be written to", session->machine->number,
                   copy->blocks->path);
    if (r != -EROFS)
        error_is_excused(session->client, r, false, copy->name);
}

static int co_read_all(struct session *session, struct blocks *blocks, uint64_t *values)
{
    struct request *request = &session->request;
    int r = co_open(session, blocks, true);

    if (r < 0)
        error_is_excused(session->client, r, false, blocks->path);
    for (request->first = 0; r == 0 && request->first < blocks->count;
         request->first += request->count) {
        request->count = MIN(blocks->count - request->first, (uint64_t)BIG_BLOCKS);
        r = co_request_read(request);
        memcpy(values + request->first, request->values, request->count * sizeof(*request->values));
    }
    request_close(request);
    return r;
}

/* What it was taken of is as it was then: a write of every block, with what the snapshot shows. It
 * is refused while a VM runs from a disk in the volume. */
static void co_restore(struct session *session, struct copy *snapshot)
{
    struct blocks *target = snapshot->from;
    struct bulk bulk = {.blocks = target, .count = target->count};
    uint64_t values[COPY_BLOCKS_MAX] = {0};
    int r;

    if (co_read_all(session, snapshot->blocks, values) < 0)
        return;
    target->maybe_short |= snapshot->blocks->maybe_short;
    bulk_begin(session, &bulk, HISTORY_WRITE, values);
    r = co_csv_snapshot(session->volume, CSV_SNAPSHOT_RESTORE, FS_SNAPSHOTS_INO, snapshot->name);
    if (r == -EBUSY && session->world->vms) {
        bulk_drop(session, &bulk);
        return;
    }
    bulk_end(session, &bulk, r);
    if (r < 0)
        error_is_excused(session->client, r, true, "restore");
    session->world->counts.restores += r == 0;
}

static void co_remove(struct session *session, struct copy *copy)
{
    int r;

    copy->gone = true;
    if (copy->is_snapshot)
        r = co_csv_snapshot(session->volume, CSV_SNAPSHOT_DELETE, FS_SNAPSHOTS_INO, copy->name);
    else
        r = co_csv_unlink(session->volume, FS_ROOT_INO, copy->name);
    if (r < 0)
        error_is_excused(session->client, r, true, "remove a copy");
}

/* ---- clients ---- */

static void co_use(struct session *session, struct copy *copy)
{
    uint64_t draw = world_draw(session->world, 10);
    struct copy *target = copy_with(session, copy->from);

    if (draw == 0)
        co_remove(session, copy);
    else if (draw < 4)
        co_read(session, copy);
    else if (!copy->is_snapshot && draw == 4)
        co_resize(session, copy);
    else if (!copy->is_snapshot)
        co_change(session, copy);
    else if (draw == 4)
        co_try_to_write(session, copy);
    else if (target && target->holder == copy->holder)
        co_restore(session, copy);
}

static void co_step(struct session *session)
{
    struct world *world = session->world;
    unsigned live = count_live(session);
    bool make = live == 0 || (live < LIVE_MAX && world_draw(world, 4) == 0);
    struct copy *copy = live ? live_copy(session, (unsigned)world_draw(world, live)) : NULL;

    if (!make)
        co_use(session, copy);
    else if (world_copies(world)->count < COPIES_MAX)
        co_copy(session, copy && world_draw(world, 2)
                             ? copy->blocks
                             : world_blocks(world, session->volume_number));
}

static bool co_begin(struct session *session, struct client *client, unsigned volume)
{
    const char *name = client->machine->world->shape.volumes[volume].name;

    *session = (struct session){.client = client,
                                .world = client->machine->world,
                                .machine = client->machine,
                                .volume_number = volume,
                                .request = {.client = client}};
    while (!(session->volume = csv_volume_find(node_csv(client->machine->node), name))) {
        if (client->machine->stopping || co_sleep_ns(50 * MS) < 0)
            return false;
    }
    return true;
}

static void end(struct session *session)
{
    request_done(&session->request);
    csv_volume_put(session->volume);
}

void co_copy_client(struct client *client)
{
    struct session session;

    if (!co_begin(&session, client, client_volume(client)))
        return;
    while (co_client_think(client) && co_client_think(client)) /* a step is many requests */
        co_step(&session);
    end(&session);
}

void co_copies_read_all(struct machine *machine, unsigned volume)
{
    struct copies *copies = world_copies(machine->world);
    struct client reader = {.machine = machine, .number = 99};
    uint64_t values[COPY_BLOCKS_MAX];
    struct session session;

    if (!co_begin(&session, &reader, volume))
        return;
    for (unsigned i = 0; i < copies->count; i++) {
        struct copy *copy = &copies->list[i];

        if (copy->volume == volume && copy->ready && !copy->gone)
            co_read_all(&session, copy->blocks, values);
    }
    end(&session);
}
