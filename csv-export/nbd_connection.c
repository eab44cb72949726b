/* Serving one client.
 *
 * One coroutine receives, up to 256 KiB at a time, so that a burst of requests costs one system
 * call. It copies the payload of a small write from there to an aligned buffer, and receives that
 * of a large one straight into it. Each request then runs as a coroutine of its own in a slot of a
 * fixed table; the replies that a turn of the loop has made leave in one gather-send at its end.
 *
 * No request is larger inside than 1 MiB: what is longer becomes parts, each in a slot of its own,
 * cut where the offset is a multiple of 1 MiB. The parts of a read are chunks of a structured
 * reply, in any order; without structured replies they are read and sent one after the other.
 *
 * The receiver waits for a free slot, and for a buffer, while it holds neither of another request:
 * so requests under way can always end. */
#include "csv-export/nbd_connection.h"

#define PART_BYTES NBD_DATA_CHUNK_MAX
#define LAND_IN_PLACE_BYTES (32 * KIB) /* a larger payload is not copied */
#define STATUS_EXTENTS 256             /* in one answer */
static_assert(LAND_IN_PLACE_BYTES <= NBD_IN_BYTES, "a small payload fits the receive buffer");
static_assert(NBD_OPTION_MAX <= NBD_IN_BYTES, "and so does an option");

static void send_done(struct io_op *op, int result);
static void flush(void *arg);

void nbd_connection_init(struct nbd_connection *connection)
{
    list_init(&connection->node);
    list_init(&connection->free_slots);
    list_init(&connection->out);
    list_init(&connection->sending);
    co_cond_init(&connection->slot_freed);
    co_sem_init(&connection->buffer_bytes, NBD_CONNECTION_BYTES);
    io_task_init(&connection->flush, flush, connection);
    connection->send_op.done = send_done;
    for (size_t i = 0; i < NBD_SLOTS; i++) {
        connection->slots[i].connection = connection;
        list_push_back(&connection->free_slots, &connection->slots[i].node);
    }
}

/* ---- receiving ---- */

int co_nbd_peek(struct nbd_connection *connection, size_t need, const uint8_t **ret_bytes)
{
    assert(need <= NBD_IN_BYTES);
    if (connection->in_start + need > NBD_IN_BYTES || connection->in_start == connection->in_end) {
        connection->in_end -= connection->in_start;
        memmove(connection->in, connection->in + connection->in_start, connection->in_end);
        connection->in_start = 0;
    }
    while (connection->in_end - connection->in_start < need) {
        int r = co_io_recv(connection->stream, connection->in + connection->in_end,
                           NBD_IN_BYTES - connection->in_end);

        if (r <= 0)
            return r < 0 ? r : -ECONNRESET;
        connection->in_end += r;
    }
    *ret_bytes = connection->in + connection->in_start;
    return 0;
}

void nbd_consume(struct nbd_connection *connection, size_t length)
{
    assert(length <= connection->in_end - connection->in_start);
    connection->in_start += length;
}

/* Receives length bytes to where they belong: first what is here already. */
static int co_receive_into(struct nbd_connection *connection, void *buffer, uint32_t length)
{
    size_t here = MIN((size_t)length, connection->in_end - connection->in_start);

    memcpy(buffer, connection->in + connection->in_start, here);
    nbd_consume(connection, here);
    if (here == length)
        return 0;
    return co_io_recv_all(connection->stream, (char *)buffer + here, length - here);
}

static int co_receive_payload(struct nbd_connection *connection, void *buffer, uint32_t length)
{
    const uint8_t *bytes;
    int r;

    if (length >= LAND_IN_PLACE_BYTES)
        return co_receive_into(connection, buffer, length);
    r = co_nbd_peek(connection, length, &bytes);
    if (r < 0)
        return r;
    memcpy(buffer, bytes, length);
    nbd_consume(connection, length);
    return 0;
}

static int co_skip(struct nbd_connection *connection, uint32_t length)
{
    while (length > 0) {
        uint32_t step = MIN(length, (uint32_t)NBD_IN_BYTES);
        const uint8_t *bytes;
        int r = co_nbd_peek(connection, step, &bytes);

        if (r < 0)
            return r;
        nbd_consume(connection, step);
        length -= step;
    }
    return 0;
}

/* ---- slots ---- */

static struct nbd_slot *co_slot_get(struct nbd_connection *connection,
                                    const struct nbd_request_header *header)
{
    struct list *node;
    struct nbd_slot *slot;

    while (!(node = list_pop_front(&connection->free_slots)))
        co_cond_wait_always(&connection->slot_freed);
    connection->used_slots++;
    slot = list_entry(node, struct nbd_slot, node);
    slot->header = *header;
    slot->start_ns = io_now_ns(connection->server->io);
    slot->buffer = NULL;
    slot->parent = NULL;
    slot->parts = 0;
    slot->error = 0;
    slot->reply_length = 0;
    slot->data_length = 0;
    slot->sent = NULL;
    return slot;
}

static void slot_put(struct nbd_slot *slot)
{
    struct nbd_connection *connection = slot->connection;

    assert(connection->used_slots > 0);
    if (slot->buffer) {
        buffer_put(connection->server->pool, slot->buffer, slot->buffer_length);
        slot->buffer = NULL;
        co_sem_give(&connection->buffer_bytes, slot->buffer_length);
    }
    connection->used_slots--;
    list_push_front(&connection->free_slots, &slot->node);
    co_cond_signal(&connection->slot_freed);
}

static void co_slot_get_buffer(struct nbd_slot *slot, uint32_t length)
{
    int r = co_sem_take(&slot->connection->buffer_bytes, length);

    assert(r == 0); /* nobody cancels our coroutines */
    slot->buffer_length = length;
    slot->buffer = co_buffer_get(slot->connection->server->pool, length);
}

/* ---- sending ---- */

static void slot_left(struct nbd_slot *slot)
{
    if (slot->sent)
        co_wake(slot->sent);
    else
        slot_put(slot);
}

static void release_all(struct list *slots)
{
    struct list *node;

    while ((node = list_pop_front(slots)))
        slot_left(list_entry(node, struct nbd_slot, node));
}

static int gather(struct nbd_connection *connection)
{
    int count = 0;

    while (count + 2 <= NBD_IOVS && !list_empty(&connection->out)) {
        struct nbd_slot *slot = list_entry(list_pop_front(&connection->out), struct nbd_slot, node);

        if (slot->reply_length > 0)
            connection->iov[count++] =
                (struct iovec){.iov_base = slot->reply, .iov_len = slot->reply_length};
        if (slot->data_length > 0)
            connection->iov[count++] =
                (struct iovec){.iov_base = slot->buffer, .iov_len = slot->data_length};
        list_push_back(&connection->sending, &slot->node);
    }
    return count;
}

static void flush(void *arg)
{
    struct nbd_connection *connection = arg;
    int count;

    if (connection->is_sending)
        return; /* send_done() comes back for the rest */
    if (connection->is_broken) {
        release_all(&connection->out);
        return;
    }
    if (list_empty(&connection->out))
        return;
    count = gather(connection);
    assert(count > 0);
    connection->is_sending = true;
    io_stream_sendv(connection->stream, &connection->send_op, connection->iov, count);
}

static void send_done(struct io_op *op, int result)
{
    struct nbd_connection *connection = container_of(op, struct nbd_connection, send_op);

    connection->is_sending = false;
    if (result < 0)
        connection->is_broken = true; /* the receiver hears of it too */
    release_all(&connection->sending);
    flush(connection);
}

static void slot_queue(struct nbd_slot *slot)
{
    struct nbd_connection *connection = slot->connection;

    assert(slot->reply_length + slot->data_length > 0);
    list_push_back(&connection->out, &slot->node);
    io_defer(connection->server->io, &connection->flush);
}

static void count_request(struct nbd_slot *slot)
{
    struct nbd_counters *counters = &slot->connection->server->counters;
    uint64_t took_ns = io_now_ns(slot->connection->server->io) - slot->start_ns;

    if (slot->error < 0)
        counter_add(&counters->errors, 1);
    if (slot->header.command == NBD_CMD_READ) {
        counter_add(&counters->reads, 1);
        counter_add(&counters->read_bytes, slot->header.length);
        histogram_add(&counters->read_ns, took_ns);
    } else if (slot->header.command == NBD_CMD_WRITE) {
        counter_add(&counters->writes, 1);
        counter_add(&counters->write_bytes, slot->header.length);
        histogram_add(&counters->write_ns, took_ns);
    } else {
        counter_add(&counters->others, 1);
    }
}

/* The last word on a request, whose data (if any) is in the slot's buffer. */
static void slot_reply(struct nbd_slot *slot)
{
    const struct nbd_connection *connection = slot->connection;
    bool chunked = connection->structured && (slot->header.command == NBD_CMD_READ ||
                                              slot->header.command == NBD_CMD_BLOCK_STATUS);
    uint64_t cookie = slot->header.cookie;

    count_request(slot);
    if (slot->error < 0)
        slot->data_length = 0;
    if (!chunked)
        slot->reply_length = nbd_put_simple_reply(slot->reply, cookie, slot->error);
    else if (slot->error < 0)
        slot->reply_length = nbd_put_error_chunk(slot->reply, cookie, slot->error);
    else if (slot->header.command == NBD_CMD_BLOCK_STATUS)
        slot->reply_length =
            nbd_put_status_chunk(slot->reply, cookie, slot->data_length / NBD_EXTENT_BYTES);
    else if (slot->data_length > 0)
        slot->reply_length =
            nbd_put_data_chunk(slot->reply, cookie, true, slot->header.offset, slot->data_length);
    else /* the parts have sent the data */
        slot->reply_length = nbd_put_none_chunk(slot->reply, cookie);
    slot_queue(slot);
}

/* ---- running requests ---- */

static void part_done(struct nbd_slot *parent, int error)
{
    assert(parent->parts > 0);
    if (error < 0 && parent->error == 0)
        parent->error = error;
    if (--parent->parts == 0)
        slot_reply(parent);
}

static void co_run_read_part(struct nbd_slot *slot)
{
    struct nbd_connection *connection = slot->connection;
    struct nbd_slot *parent = slot->parent;

    co_slot_get_buffer(slot, slot->header.length);
    slot->error = connection->server->backend->ops->co_read(
        connection->file, slot->buffer, slot->header.offset, slot->header.length);
    if (slot->error < 0) {
        part_done(parent, slot->error);
        slot_put(slot);
        return;
    }
    slot->data_length = slot->header.length;
    slot->reply_length = nbd_put_data_chunk(slot->reply, slot->header.cookie, false,
                                            slot->header.offset, slot->header.length);
    slot_queue(slot);
    part_done(parent, 0); /* queues the end of the reply behind its last part */
}

/* The next part of a range: up to the next multiple of PART_BYTES. */
static uint32_t part_length(uint64_t offset, uint32_t length)
{
    return MIN((uint64_t)length, PART_BYTES - offset % PART_BYTES);
}

/* A large read for a client without structured replies: in order, one piece at a time. Once the
 * header has left there is no way to report an error but to hang up. */
static void co_run_serial_read(struct nbd_slot *slot)
{
    struct nbd_connection *connection = slot->connection;
    uint64_t offset = slot->header.offset;
    uint32_t left = slot->header.length;

    co_slot_get_buffer(slot, PART_BYTES);
    slot->sent = co_self();
    slot->reply_length = nbd_put_simple_reply(slot->reply, slot->header.cookie, 0);
    while (left > 0 && !connection->is_broken) {
        slot->data_length = part_length(offset, left);
        slot->error = connection->server->backend->ops->co_read(connection->file, slot->buffer,
                                                                offset, slot->data_length);
        if (slot->error < 0)
            break;
        offset += slot->data_length;
        left -= slot->data_length;
        slot_queue(slot);
        co_wait();
        slot->reply_length = 0;
    }
    slot->sent = NULL;
    if (slot->error < 0 && slot->reply_length > 0) {
        slot_reply(slot);
        return;
    }
    if (slot->error < 0)
        io_stream_shutdown(connection->stream);
    count_request(slot);
    slot_put(slot);
}

static void co_run_read(struct nbd_slot *slot)
{
    struct nbd_connection *connection = slot->connection;

    if (slot->parent) {
        co_run_read_part(slot);
        return;
    }
    if (slot->header.length > PART_BYTES) {
        co_run_serial_read(slot);
        return;
    }
    co_slot_get_buffer(slot, slot->header.length);
    slot->data_length = slot->header.length;
    slot->error = connection->server->backend->ops->co_read(
        connection->file, slot->buffer, slot->header.offset, slot->header.length);
    slot_reply(slot);
}

static void co_run_write(struct nbd_slot *slot)
{
    struct nbd_connection *connection = slot->connection;
    struct nbd_slot *parent = slot->parent;

    slot->error = connection->server->backend->ops->co_write(
        connection->file, slot->buffer, slot->header.offset, slot->header.length);
    if (!parent) {
        slot_reply(slot);
        return;
    }
    part_done(parent, slot->error);
    slot_put(slot);
}

static int co_run_zero(struct nbd_slot *slot)
{
    struct nbd_connection *connection = slot->connection;
    unsigned flags = 0;

    if (!(slot->header.flags & NBD_CMD_FLAG_NO_HOLE))
        flags |= NBD_ZERO_MAY_PUNCH;
    if (slot->header.flags & NBD_CMD_FLAG_FAST_ZERO)
        flags |= NBD_ZERO_FAST;
    return connection->server->backend->ops->co_zero(connection->file, slot->header.offset,
                                                     slot->header.length, flags);
}

/* Fills the slot's buffer with extents: neighbours of one kind are one. The answer may be shorter
 * than what was asked for. */
static int co_run_status(struct nbd_slot *slot)
{
    struct nbd_connection *connection = slot->connection;
    unsigned extents_max = slot->header.flags & NBD_CMD_FLAG_REQ_ONE ? 1 : STATUS_EXTENTS;
    uint64_t offset = slot->header.offset, end = offset + slot->header.length;
    uint32_t extent_length = 0, count = 0;
    bool extent_data = false;
    uint8_t *bytes;

    co_slot_get_buffer(slot, STATUS_EXTENTS * NBD_EXTENT_BYTES);
    bytes = slot->buffer;
    while (offset < end) {
        uint32_t length;
        bool data;
        int r = connection->server->backend->ops->co_block_status(connection->file, offset,
                                                                  end - offset, &data, &length);

        if (r < 0)
            return r;
        assert(length > 0);
        assert(length <= end - offset);
        if (extent_length > 0 && data != extent_data) {
            if (count + 1 == extents_max)
                break;
            count++;
            extent_length = 0;
        }
        extent_data = data;
        extent_length += length;
        offset += length;
        nbd_put_extent(bytes + count * NBD_EXTENT_BYTES, extent_length,
                       data ? 0 : NBD_EXTENT_HOLE | NBD_EXTENT_ZERO);
    }
    slot->data_length = (count + 1) * NBD_EXTENT_BYTES;
    return 0;
}

static void slot_main(void *arg)
{
    struct nbd_slot *slot = arg;
    struct nbd_connection *connection = slot->connection;

    switch ((enum nbd_command)slot->header.command) {
    case NBD_CMD_READ:
        co_run_read(slot);
        return;
    case NBD_CMD_WRITE:
        co_run_write(slot);
        return;
    case NBD_CMD_TRIM:
        slot->error = connection->server->backend->ops->co_trim(
            connection->file, slot->header.offset, slot->header.length);
        break;
    case NBD_CMD_WRITE_ZEROES:
        slot->error = co_run_zero(slot);
        break;
    case NBD_CMD_BLOCK_STATUS:
        slot->error = co_run_status(slot);
        break;
    case NBD_CMD_FLUSH: /* what was answered is durable */
    case NBD_CMD_CACHE: /* a hint */
    case NBD_CMD_DISC:
        break;
    }
    slot_reply(slot);
}

static void slot_start(struct nbd_slot *slot)
{
    int r = co_spawn(slot->connection->server->io, "nbd request", slot_main, slot);

    if (r == 0)
        return;
    slot->error = r;
    if (slot->parent) {
        part_done(slot->parent, r);
        slot_put(slot);
    } else {
        slot_reply(slot);
    }
}

/* ---- dispatching ---- */

static int co_start_write(struct nbd_connection *connection,
                          const struct nbd_request_header *header, struct nbd_slot *parent)
{
    struct nbd_slot *slot = co_slot_get(connection, header);
    int r;

    co_slot_get_buffer(slot, header->length);
    r = co_receive_payload(connection, slot->buffer, header->length);
    if (r < 0) {
        slot_put(slot);
        return r;
    }
    slot->parent = parent;
    if (parent)
        parent->parts++;
    slot_start(slot);
    return 0;
}

static int start_read_part(struct nbd_connection *connection,
                           const struct nbd_request_header *header, struct nbd_slot *parent)
{
    struct nbd_slot *slot = co_slot_get(connection, header);

    slot->parent = parent;
    parent->parts++;
    slot_start(slot);
    return 0;
}

/* Cuts a large request into parts. The parent counts one part more until all are made, so that it
 * does not answer before. */
static int co_start_parts(struct nbd_connection *connection,
                          const struct nbd_request_header *header)
{
    struct nbd_slot *parent = co_slot_get(connection, header);
    struct nbd_request_header part = *header;
    uint32_t left = header->length;
    int r = 0;

    parent->parts = 1;
    while (left > 0 && r == 0) {
        part.length = part_length(part.offset, left);
        if (header->command == NBD_CMD_WRITE)
            r = co_start_write(connection, &part, parent);
        else
            r = start_read_part(connection, &part, parent);
        part.offset += part.length;
        left -= part.length;
    }
    part_done(parent, 0);
    return r;
}

static int co_refuse(struct nbd_connection *connection, const struct nbd_request_header *header,
                     int error)
{
    struct nbd_slot *slot;
    int r;

    if (header->command == NBD_CMD_WRITE) {
        if (header->length > NBD_LENGTH_MAX)
            return -EPROTO; /* not worth receiving */
        r = co_skip(connection, header->length);
        if (r < 0)
            return r;
    }
    slot = co_slot_get(connection, header);
    slot->error = error;
    slot_reply(slot);
    return 0;
}

static int co_dispatch(struct nbd_connection *connection, const struct nbd_request_header *header)
{
    int r = nbd_check_request(header, &connection->info, connection->structured,
                              connection->allocation_context);

    if (r == 0 && header->command == NBD_CMD_WRITE && header->length > NBD_LENGTH_MAX)
        r = -EINVAL;
    if (r < 0)
        return co_refuse(connection, header, r);

    if (header->command == NBD_CMD_WRITE) {
        if (header->length > PART_BYTES)
            return co_start_parts(connection, header);
        return co_start_write(connection, header, NULL);
    }
    if (header->command == NBD_CMD_READ && header->length > PART_BYTES && connection->structured)
        return co_start_parts(connection, header);
    slot_start(co_slot_get(connection, header));
    return 0;
}

void co_nbd_transmission(struct nbd_connection *connection)
{
    struct nbd_request_header header;
    const uint8_t *bytes;
    int r;

    do {
        r = co_nbd_peek(connection, NBD_REQUEST_BYTES, &bytes);
        if (r < 0)
            break;
        r = nbd_get_request(bytes, &header);
        if (r < 0)
            break;
        nbd_consume(connection, NBD_REQUEST_BYTES);
        if (header.command == NBD_CMD_DISC)
            break;
        r = co_dispatch(connection, &header);
    } while (r == 0);

    if (r == -EPROTO)
        io_stream_shutdown(connection->stream); /* we no longer know where a request begins */
    while (connection->used_slots > 0)
        co_cond_wait_always(&connection->slot_freed);
    assert(!connection->is_sending);
    assert(list_empty(&connection->out));
    io_task_cancel(&connection->flush);
}
