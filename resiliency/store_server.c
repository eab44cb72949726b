/* Attachments, records, acknowledgements.
 *
 * A seal attaches its sender to the stream (vdisk, disk) under a new handle. Each record names the
 * handle; one with another handle is dropped, so what an earlier attachment left on the way is
 * never taken. The store judges order and epochs; here it is only known who is to hear of it.
 *
 * The first failure of a record ends the attachment: the owner hears through which record the
 * stream is durable (ACKS), then why it ended (BROKEN), in this order on one connection. */
#include "resiliency/store_server_private.h"

/* One record under way. */
struct append_slot {
    struct store_append append;
    struct list node; /* server->free_slots */
    struct store_server *server;
    struct served_stream *stream;
    uint64_t handle;             /* that it came under */
    struct bus_message *message; /* holds its data */
    uint64_t sums[RECORD_BLOCKS_MAX];
};

/* ---- disks and streams ---- */

struct served_disk *server_find_disk(const struct store_server *server, uint64_t id)
{
    list_for_each (node, &server->disks) {
        struct served_disk *disk = list_entry(node, struct served_disk, node);

        if (disk->id == id)
            return disk;
    }
    return NULL;
}

static bool index_take(struct store_server *server, struct served_stream *stream)
{
    struct served_stream **streams;
    uint32_t index = 0, count = 2 * server->stream_count + 16;

    while (index < server->stream_count && server->streams[index])
        index++;
    if (index == server->stream_count) {
        if (count > SERVER_STREAMS_MAX)
            return false;
        streams = realloc(server->streams, count * sizeof(*streams));
        if (!streams)
            return false;
        memset(streams + index, 0, (count - index) * sizeof(*streams));
        server->streams = streams;
        server->stream_count = count;
    }
    server->streams[index] = stream;
    stream->index = index;
    return true;
}

struct served_stream *server_stream(struct served_disk *disk, uint64_t vdisk)
{
    struct served_stream *stream;

    list_for_each (node, &disk->streams) {
        stream = list_entry(node, struct served_stream, node);
        if (stream->vdisk == vdisk)
            return stream;
    }
    stream = calloc(1, sizeof(*stream));
    if (!stream || !index_take(disk->server, stream)) {
        free(stream);
        return NULL;
    }
    stream->disk = disk;
    stream->vdisk = vdisk;
    co_mutex_init(&stream->sealing);
    list_init(&stream->news_node);
    list_push_back(&disk->streams, &stream->node);
    return stream;
}

static void disk_free(struct served_disk *disk)
{
    struct list *node;

    assert(disk->removed);
    assert(disk->slots == 0);
    while ((node = list_pop_front(&disk->streams)))
        free(list_entry(node, struct served_stream, node));
    free(disk);
}

/* ---- telling owners ---- */

static int send_control(struct store_server *server, uint64_t peer, uint16_t type,
                        const void *bytes, uint32_t length)
{
    struct bus_send send = {
        .to = peer,
        .channel = BUS_CONTROL,
        .type = type,
        .header = bytes,
        .header_bytes = length,
    };

    return bus_send(server->bus, &send);
}

/* Takes what is new of one peer out of the list. */
static uint32_t gather_news(struct store_server *server, uint64_t peer, struct list *ret_told,
                            struct store_ack *acks)
{
    uint32_t count = 0;

    list_for_each_safe (node, &server->news) {
        struct served_stream *stream = list_entry(node, struct served_stream, news_node);

        if (stream->peer != peer || count == STORE_ACKS_MAX)
            continue;
        list_remove(node);
        list_push_back(ret_told, node);
        acks[count++] = (struct store_ack){.cookie = stream->cookie, .seq = stream->durable_seq};
    }
    return count;
}

/* Tells one peer. False: the bus has no room now. */
static bool tell_peer(struct store_server *server, uint64_t peer)
{
    uint8_t bytes[BUS_HEADER_MAX] __attribute__((aligned(8)));
    struct store_ack acks[STORE_ACKS_MAX];
    struct list told;
    uint32_t count;
    int r;

    list_init(&told);
    count = gather_news(server, peer, &told, acks);
    r = send_control(server, peer, STORE_ACKS, bytes, store_acks_encode(acks, count, bytes));
    if (r == -ENOBUFS || r == -ENOMEM) {
        SOMETIMES("store-server: an acknowledgement waits for the bus");
        list_splice(&told, &server->news);
        return false;
    }
    while (list_pop_front(&told)) /* away: its owner breaks the stream by itself */
        ;
    return true;
}

static void tell_news(void *arg)
{
    struct store_server *server = arg;

    while (!list_empty(&server->news)) {
        const struct served_stream *first =
            list_first(&server->news, struct served_stream, news_node);

        if (!tell_peer(server, first->peer)) {
            io_timer_arm(server->io, &server->news_timer, io_now_ns(server->io) + SERVER_RETRY_NS);
            return;
        }
    }
}

static void add_news(struct served_stream *stream)
{
    struct store_server *server = stream->disk->server;

    if (!list_empty(&stream->news_node))
        return;
    list_push_back(&server->news, &stream->news_node);
    io_defer(server->io, &server->news_task);
}

/* ---- attachments ---- */

void server_attach(struct served_stream *stream, uint64_t peer, uint64_t cookie)
{
    struct store_server *server = stream->disk->server;

    assert(stream->handle == 0);
    assert(list_empty(&stream->news_node));
    stream->handle = (uint64_t)++server->attachments << 32 | stream->index;
    stream->peer = peer;
    stream->cookie = cookie;
    stream->durable_seq = 0;
}

void server_detach(struct served_stream *stream)
{
    stream->handle = 0;
    list_remove(&stream->news_node);
}

/* An owner that does not hear of it (the bus has no memory, or he is away) sees a stream that makes
 * no progress, and seals again. */
void server_break(struct served_stream *stream, int why)
{
    struct store_server *server = stream->disk->server;
    uint8_t bytes[BUS_HEADER_MAX] __attribute__((aligned(8)));
    int r;

    if (stream->handle == 0)
        return;
    if (!list_empty(&stream->news_node) && !tell_peer(server, stream->peer))
        log_debug(server->io, "store-server", "no room to say what is durable", "peer=%llu",
                  (unsigned long long)stream->peer);
    server_detach(stream);
    r = send_control(server, stream->peer, STORE_BROKEN, bytes,
                     store_broken_encode(stream->cookie, server_wire_result(why), bytes));
    log_debug(server->io, "store-server", "a stream broke",
              "peer=%llu disk=%llu vdisk=%llu why=%d told=%d", (unsigned long long)stream->peer,
              (unsigned long long)stream->disk->id, (unsigned long long)stream->vdisk, why, r);
}

static struct served_stream *attached_stream(const struct store_server *server, uint64_t peer,
                                             uint64_t handle)
{
    uint32_t index = (uint32_t)handle;
    struct served_stream *stream = index < server->stream_count ? server->streams[index] : NULL;

    return stream && handle != 0 && stream->handle == handle && stream->peer == peer ? stream
                                                                                     : NULL;
}

void store_server_peer_down(struct store_server *server, uint64_t peer)
{
    for (uint32_t i = 0; i < server->stream_count; i++) {
        struct served_stream *stream = server->streams[i];

        if (stream && stream->handle != 0 && stream->peer == peer)
            server_detach(stream);
    }
}

/* ---- records ---- */

static bool slots_grow(struct store_server *server)
{
    struct append_slot *slot = malloc(sizeof(*slot));

    if (!slot)
        return false;
    slot->server = server;
    list_push_front(&server->free_slots, &slot->node);
    return true;
}

static struct append_slot *slot_get(struct store_server *server)
{
    if (list_empty(&server->free_slots) && !slots_grow(server))
        return NULL;
    return list_entry(list_pop_front(&server->free_slots), struct append_slot, node);
}

static void slot_put(struct append_slot *slot)
{
    list_push_front(&slot->server->free_slots, &slot->node);
}

static void slot_done(struct store_append *append, int result)
{
    struct append_slot *slot = container_of(append, struct append_slot, append);
    struct served_stream *stream = slot->stream;
    struct served_disk *disk = stream->disk;

    bus_message_release(slot->message);
    if (slot->handle == stream->handle) {
        if (result == 0) {
            stream->durable_seq = append->record.position.seq;
            add_news(stream);
        } else {
            server_break(stream, result);
        }
    }
    slot_put(slot);
    slot->server->slots_in_use--;
    assert(disk->slots > 0);
    if (--disk->slots == 0 && disk->removed)
        disk_free(disk);
}

static void slot_submit(struct append_slot *slot, struct served_stream *stream,
                        const struct bus_message *message)
{
    struct store_server *server = slot->server;
    bool has_data = slot->append.record.kind == RECORD_WRITE;

    slot->stream = stream;
    slot->handle = stream->handle;
    slot->message = bus_message_keep(message);
    slot->append.sums = has_data ? slot->sums : NULL;
    slot->append.data = has_data ? slot->message->data : NULL;
    slot->append.done = slot_done;
    stream->disk->slots++;
    server->slots_in_use++;
    store_append(stream->disk->store, &slot->append);
}

/* The handle in a record that may be nonsense otherwise. */
static uint64_t handle_in(const struct bus_message *message)
{
    struct store_record_format format;

    if (message->header_bytes < sizeof(format))
        return 0;
    memcpy(&format, message->header, sizeof(format));
    return format.handle;
}

static void handle_record(void *arg, const struct bus_message *message)
{
    struct store_server *server = arg;
    struct served_stream *stream = attached_stream(server, message->from, handle_in(message));
    struct append_slot *slot;
    uint64_t handle;
    int r = -EPROTO;

    if (!stream) { /* of an earlier attachment */
        SOMETIMES("store-server: a record of an earlier attachment is dropped");
        return;
    }
    slot = slot_get(server);
    if (slot && message->channel == BUS_DATA)
        r = store_record_decode(message->header, message->header_bytes, message->data_bytes,
                                &handle, &slot->append.record, slot->sums);
    if (r == 0 && slot->append.record.vdisk == stream->vdisk) {
        slot_submit(slot, stream, message);
        return;
    }
    server_break(stream, slot ? -EPROTO : -ENOMEM);
    if (slot)
        slot_put(slot);
}

/* ---- disks come and go ---- */

int store_server_add(struct store_server *server, uint64_t id, struct store *store)
{
    struct served_disk *disk;

    if (server_find_disk(server, id))
        return -EEXIST;
    disk = calloc(1, sizeof(*disk));
    if (!disk)
        return -ENOMEM;
    disk->server = server;
    disk->id = id;
    disk->store = store;
    list_init(&disk->streams);
    list_init(&disk->waiting);
    co_group_init(&disk->calls);
    list_push_back(&server->disks, &disk->node);
    return 0;
}

void co_store_server_remove(struct store_server *server, uint64_t id)
{
    struct served_disk *disk = server_find_disk(server, id);

    if (!disk)
        return;
    disk->removed = true; /* who suspends looks at it before he attaches */
    list_remove(&disk->node);
    list_for_each (node, &disk->streams) {
        struct served_stream *stream = list_entry(node, struct served_stream, node);

        server_break(stream, -ENODEV);
        server->streams[stream->index] = NULL;
    }
    disk->slots++; /* keeps it while we wait */
    co_group_wait(&disk->calls);
    if (--disk->slots == 0)
        disk_free(disk);
}

/* ---- life ---- */

void store_server_free(struct store_server *server)
{
    struct list *node;

    if (!server)
        return;
    assert(list_empty(&server->disks));
    assert(server->slots_in_use == 0);
    bus_handle(server->bus, STORE_RECORD, NULL, NULL);
    store_calls_handle(server, false);
    io_timer_disarm(server->io, &server->news_timer);
    io_task_cancel(&server->news_task);
    while ((node = list_pop_front(&server->free_slots)))
        free(list_entry(node, struct append_slot, node));
    free(server->streams);
    free(server);
}
DEFINE_CLEANUP(struct store_server, store_server_free)

int store_server_new(struct io *io, struct bus *bus, struct buffer_pool *buffers,
                     struct store_server **ret_server)
{
    cleanup(store_server_freep) struct store_server *server = calloc(1, sizeof(*server));

    if (!server)
        return -ENOMEM;
    server->io = io;
    server->bus = bus;
    server->buffers = buffers;
    list_init(&server->disks);
    list_init(&server->free_slots);
    list_init(&server->news);
    io_task_init(&server->news_task, tell_news, server);
    io_timer_init(&server->news_timer, tell_news, server);
    bus_handle(bus, STORE_RECORD, handle_record, server);
    store_calls_handle(server, true);
    for (unsigned i = 0; i < SERVER_SLOTS_AT_START; i++)
        if (!slots_grow(server))
            return -ENOMEM;
    *ret_server = take_ptr(server);
    return 0;
}
