/* What owners ask. A disk has a few workers (coroutines) that take its requests in their order. The
 * answer's bulk part comes from a pool of its own; a call holds one piece of it, so none waits for
 * another. */
#include "pool/disk.h"
#include "resiliency/store_server_private.h"

struct server_call {
    struct list node; /* disk->waiting */
    struct store_server *server;
    struct served_disk *disk;
    struct bus_message *message;
    struct store_call ask;
    /* the answer */
    uint8_t header[BUS_HEADER_MAX] __attribute__((aligned(8)));
    uint32_t header_bytes;
    void *data; /* from server->buffers */
    uint32_t data_room, data_bytes;
    bool blocks; /* data has checksums of its own */
};

static void co_call_room(struct server_call *call, uint32_t bytes)
{
    assert(!call->data);
    assert(bytes <= BUS_PAYLOAD_MAX);
    call->data = co_buffer_get(call->server->buffers, bytes);
    call->data_room = bytes;
}

/* ---- seals ---- */

/* Would the store take this seal? If not, whoever is attached stays. */
static bool seal_is_news(const struct served_stream *stream, const struct store_call *ask)
{
    struct store_stream_info info;

    if (!store_stream_info(stream->disk->store, stream->vdisk, &info))
        return true;
    return ask->epoch >= info.sealed_epoch && ask->position.session >= info.session;
}

/* Whoever was attached is so no more; the caller himself, asking for more of the tail, knows. */
static void make_way(struct served_stream *stream, const struct server_call *call)
{
    SOMETIMES_IF(stream->handle != 0 && stream->peer != call->message->from,
                 "store-server: a new owner breaks the old one's stream");
    if (stream->peer == call->message->from && stream->cookie == call->ask.cookie)
        server_detach(stream);
    else
        server_break(stream, -ESTALE);
}

/* Both connections of the caller are as they were when he asked. */
static bool caller_is_there(const struct server_call *call)
{
    const struct bus_message *message = call->message;
    struct bus *bus = call->server->bus;

    return bus_connection(bus, message->from, message->channel) == message->connection &&
           bus_is_up(bus, message->from, BUS_DATA);
}

static int co_seal_and_attach(struct server_call *call, struct served_stream *stream,
                              struct store_seal *seal)
{
    int r;

    if (call->disk->removed)
        return -ENODEV;
    if (seal_is_news(stream, &call->ask))
        make_way(stream, call);
    r = co_store_seal(call->disk->store, stream->vdisk, call->ask.epoch, call->ask.position.session,
                      seal);
    if (r < 0)
        return r;
    if (call->disk->removed)
        return -ENODEV;
    if (!caller_is_there(call)) {
        SOMETIMES("store-server: who sealed is gone before the answer");
        return -ENOTCONN; /* nobody hears it */
    }
    server_attach(stream, call->message->from, call->ask.cookie);
    return 0;
}

/* The part of the tail above what the caller has. */
static void co_seal_tail(struct server_call *call, const struct store_seal *seal,
                         struct store_seal_answer *answer)
{
    size_t from = 0;

    while (from < seal->tail_count &&
           log_position_compare(seal->tail[from].position, call->ask.after) <= 0)
        from++;
    answer->tail_count = (uint32_t)MIN(seal->tail_count - from, (size_t)STORE_TAIL_MAX);
    answer->more = seal->tail_count - from > answer->tail_count;
    if (answer->tail_count == 0)
        return;
    call->data_bytes = answer->tail_count * (uint32_t)sizeof(struct store_tail_format);
    co_call_room(call, call->data_bytes);
    store_tail_encode(seal->tail + from, answer->tail_count, call->data);
}

static int call_seal(struct server_call *call)
{
    struct served_stream *stream = server_stream(call->disk, call->ask.vdisk);
    struct store_seal_answer answer = {0};
    struct store_seal seal = {0};
    int r;

    if (!stream)
        return -ENOMEM;
    co_mutex_lock(&stream->sealing);
    r = co_seal_and_attach(call, stream, &seal);
    answer.handle = r == 0 ? stream->handle : 0;
    co_mutex_unlock(&stream->sealing);
    answer.sealed_epoch = seal.sealed_epoch;
    if (r == 0) {
        answer.watermark = seal.watermark;
        answer.durable = seal.durable;
        co_seal_tail(call, &seal, &answer);
    }
    store_seal_done(&seal);
    call->header_bytes = store_seal_answer_encode(&answer, call->header);
    return r;
}

/* ---- small ones ---- */

static int call_mark(struct server_call *call)
{
    const struct store_call *ask = &call->ask;

    return co_store_mark(call->disk->store, ask->vdisk, ask->epoch, ask->position, ask->durable);
}

static int co_call_with_refs(struct server_call *call,
                             int (*co_store_fn)(struct store *store, uint64_t vdisk, uint64_t epoch,
                                                const struct extent_ref *columns, size_t count))
{
    const struct bus_message *message = call->message;
    uint32_t count;
    int r;

    co_call_room(call, STORE_REFS_MAX * sizeof(struct extent_ref));
    r = store_refs_decode(message->data, message->data_bytes, call->data, &count);
    if (r == 0)
        r = co_store_fn(call->disk->store, call->ask.vdisk, call->ask.epoch, call->data, count);
    return r;
}

static int call_drop_tail(struct server_call *call)
{
    return co_call_with_refs(call, co_store_drop_tail);
}

static int call_clear_compare(struct server_call *call)
{
    return co_call_with_refs(call, co_store_clear_compare);
}

/* ---- reading ---- */

static int call_compare_set(struct server_call *call)
{
    const struct store_call *ask = &call->ask;
    uint32_t bytes = (uint32_t)DIV_ROUND_UP(ask->count, 64) * 8;
    int r;

    if (ask->count != disk_geometry(store_disk(call->disk->store))->extent_blocks)
        return -EINVAL; /* the store fills as many bits as its extents have blocks */
    co_call_room(call, bytes);
    memset(call->data, 0, bytes);
    r = co_store_compare_set(call->disk->store, ask->vdisk, ask->where, ask->since_epoch,
                             call->data);
    call->data_bytes = r == 0 ? bytes : 0;
    return r;
}

/* The sums, then a bit to each of them that is not known. */
static int call_checksums(struct server_call *call)
{
    const struct store_call *ask = &call->ask;
    uint32_t bytes = ask->count * 8 + (uint32_t)DIV_ROUND_UP(ask->count, 64) * 8;
    uint64_t *sums;
    int r;

    co_call_room(call, bytes);
    memset(call->data, 0, bytes);
    sums = call->data;
    r = co_store_checksums(call->disk->store, ask->vdisk, ask->where, ask->block, ask->count, sums,
                           sums + ask->count);
    call->data_bytes = r == 0 || r == -EBADMSG ? bytes : 0;
    return r;
}

static int call_read(struct server_call *call)
{
    const struct store_call *ask = &call->ask;
    struct store_read_answer answer = {.count = ask->count, .has_sums = ask->want_sums};
    struct store *store = call->disk->store;
    uint64_t sums[RECORD_BLOCKS_MAX];
    int r;

    co_call_room(call, ask->count * BLOCK_SIZE);
    if (ask->position.session == 0)
        r = co_store_read(store, ask->vdisk, ask->where, ask->block, ask->count, ask->address,
                          call->data, sums, &answer.bad);
    else
        r = co_store_read_at(store, ask->vdisk, ask->where, ask->block, ask->count, ask->address,
                             ask->position, call->data, sums, &answer.bad);
    if (r < 0 && r != -EBADMSG)
        return r;
    call->blocks = true;
    call->data_bytes = ask->count * BLOCK_SIZE;
    call->header_bytes = store_read_answer_encode(&answer, sums, call->header);
    return r;
}

/* ---- running them ---- */

typedef int call_fn(struct server_call *call);

static call_fn *const call_fns[] = {
    [STORE_SEAL - BUS_TYPE_STORE] = call_seal,
    [STORE_MARK - BUS_TYPE_STORE] = call_mark,
    [STORE_DROP_TAIL - BUS_TYPE_STORE] = call_drop_tail,
    [STORE_CLEAR_COMPARE - BUS_TYPE_STORE] = call_clear_compare,
    [STORE_COMPARE_SET - BUS_TYPE_STORE] = call_compare_set,
    [STORE_CHECKSUMS - BUS_TYPE_STORE] = call_checksums,
    [STORE_READ - BUS_TYPE_STORE] = call_read,
};

/* The bus no longer reads the answer. */
static void call_end(void *arg)
{
    struct server_call *call = arg;
    struct served_disk *disk = call->disk;

    buffer_put(call->server->buffers, call->data, call->data_room);
    free(call);
    disk->call_count--;
    co_group_done(&disk->calls);
}

static void call_answer(struct server_call *call, int result)
{
    struct store_server *server = call->server;
    struct bus_send answer = {
        .flags = call->blocks ? 0 : BUS_CHECKSUM,
        .header = call->header,
        .header_bytes = call->header_bytes,
        .data = call->data_bytes > 0 ? call->data : NULL,
        .data_bytes = call->data_bytes,
    };
    struct bus_message *message = call->message;
    bool lent = call->data_bytes > BUS_COPY_MAX;
    int r;

    if (lent) {
        answer.sent = call_end;
        answer.sent_arg = call;
    }
    r = bus_reply(server->bus, message, server_wire_result(result), &answer);
    bus_message_release(message);
    /* Not sent for lack of memory: the caller's time-out tells him. */
    if (!lent || r < 0)
        call_end(call);
}

static void worker_main(void *arg)
{
    struct served_disk *disk = arg;
    struct list *node;

    while ((node = list_pop_front(&disk->waiting))) {
        struct server_call *call = list_entry(node, struct server_call, node);
        call_fn *fn = call_fns[call->message->type - BUS_TYPE_STORE];

        call_answer(call, disk->removed ? -ENODEV : fn(call));
    }
    disk->workers--;
    co_group_done(&disk->calls);
}

static int worker_start(struct served_disk *disk)
{
    int r;

    if (disk->workers == STORE_SERVER_WORKERS)
        return 0;
    r = co_spawn(disk->server->io, "store-worker", worker_main, disk);
    if (r < 0)
        return disk->workers > 0 ? 0 : r;
    disk->workers++;
    co_group_add(&disk->calls, 1);
    return 0;
}

static int call_start(struct store_server *server, const struct bus_message *message)
{
    struct store_call ask;
    struct served_disk *disk;
    struct server_call *call;
    int r;

    r = store_call_decode(message->type, message->header, message->header_bytes, &ask);
    if (r < 0)
        return r;
    disk = server_find_disk(server, ask.disk);
    if (!disk)
        return -ENODEV;
    if (disk->call_count == SERVER_CALLS_MAX)
        return -EAGAIN;
    call = malloc(sizeof(*call));
    r = call ? worker_start(disk) : -ENOMEM;
    if (r < 0) {
        free(call);
        return r;
    }
    *call = (struct server_call){.server = server, .disk = disk, .ask = ask};
    call->message = bus_message_keep(message);
    list_push_back(&disk->waiting, &call->node);
    disk->call_count++;
    co_group_add(&disk->calls, 1);
    return 0;
}

static void handle_call(void *arg, const struct bus_message *message)
{
    struct store_server *server = arg;
    int r;

    if (message->request == 0)
        return; /* nobody waits for it */
    r = call_start(server, message);
    if (r < 0)
        r = bus_reply(server->bus, message, server_wire_result(r), NULL);
    (void)r; /* no memory for the answer: the caller's time-out is one */
}

void store_calls_handle(struct store_server *server, bool take)
{
    for (size_t i = 0; i < ARRAY_SIZE(call_fns); i++)
        if (call_fns[i])
            bus_handle(server->bus, (uint16_t)(BUS_TYPE_STORE + i), take ? handle_call : NULL,
                       server);
}
