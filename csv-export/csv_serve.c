/* The owner's side of redirected requests.
 *
 * An attachment is one client's way to one of our volumes: the connection that it attached on, and
 * slots for what it may have under way (twice its window, see csv_internal.h). A handler finds the
 * slot, copies what came out of the bus's buffers, and spawns; so the bus never waits for the file
 * system.
 *
 * Refused, by a reply without a header: what is for another session of ours (-ESTALE), what came on
 * a connection that is not attached (-ENOTCONN), what exceeds the window (-EAGAIN), and nonsense
 * (-EPROTO). */
#include "csv-export/csv_internal.h"
#include "s2d/base/log.h"

struct served {       /* a slot: one request, until its reply has left */
    struct list node; /* attachment->free_small, free_large */
    struct csv_attachment *attachment;
    void *buffer; /* CSV_SMALL_BYTES or CSV_LARGE_BYTES; made when first needed, then kept */
    bool large;

    struct bus_message message; /* whom to answer; its data is gone */
    uint8_t header[CSV_REQUEST_MAX];
    struct csv_request request;
    struct co *sent;
};

#define SMALL_SLOTS (2 * CSV_SMALL_WINDOW)
#define LARGE_SLOTS (2 * CSV_LARGE_WINDOW)

struct csv_attachment {
    struct list node; /* volume->attachments */
    struct csv_volume *volume;
    uint64_t client, client_counter;
    uint64_t connection; /* attached; 0: not yet */
    uint64_t attaching;  /* the newest that asked to be */
    unsigned in_flight;
    struct co_cond idle;
    struct list free_small, free_large;
    struct served slots[SMALL_SLOTS + LARGE_SLOTS];
};

static struct csv_attachment *find_attachment(struct csv_volume *volume, uint64_t client)
{
    list_for_each (node, &volume->attachments) {
        struct csv_attachment *attachment = list_entry(node, struct csv_attachment, node);

        if (attachment->client == client)
            return attachment;
    }
    return NULL;
}

static struct csv_attachment *attachment_new(struct csv_volume *volume, uint64_t client)
{
    struct csv_attachment *attachment = calloc(1, sizeof(*attachment));

    if (!attachment)
        return NULL;
    attachment->volume = volume;
    attachment->client = client;
    co_cond_init(&attachment->idle);
    list_init(&attachment->free_small);
    list_init(&attachment->free_large);
    for (size_t i = 0; i < SMALL_SLOTS + LARGE_SLOTS; i++) {
        struct served *served = &attachment->slots[i];

        served->attachment = attachment;
        served->large = i >= SMALL_SLOTS;
        list_push_back(served->large ? &attachment->free_large : &attachment->free_small,
                       &served->node);
    }
    list_push_back(&volume->attachments, &attachment->node);
    return attachment;
}

void csv_attachments_free(struct csv_volume *volume)
{
    list_for_each_safe (node, &volume->attachments) {
        struct csv_attachment *attachment = list_entry(node, struct csv_attachment, node);

        assert(attachment->in_flight == 0);
        for (size_t i = 0; i < SMALL_SLOTS + LARGE_SLOTS; i++)
            free(attachment->slots[i].buffer);
        list_remove(&attachment->node);
        free(attachment);
    }
}

/* The volume, if we own it in just that session and let requests in. */
static struct csv_volume *volume_in_session(struct csv *csv, uint64_t id, uint64_t session)
{
    struct csv_volume *volume = csv_volume_by_id(csv, id);

    if (!volume || csv->stopped || !csv_volume_is_local(volume))
        return NULL;
    if (volume->session != session && !PLANTED(CSV_ANY_SESSION)) {
        SOMETIMES("csv: a request for another session is refused");
        return NULL;
    }
    return volume;
}

/* An answer is never lost while its connection lives, or the client would wait for ever: when the
 * bus has too much queued for that peer, it is tried again. -ECANCELED: the daemon ends, and its
 * connections with it. */
static int co_answer(struct csv *csv, const struct bus_message *message, int result,
                     const struct bus_send *send)
{
    while (bus_reply(csv->options.bus, message, result, send) < 0) {
        SOMETIMES("csv: an answer waits for the bus");
        if (co_sleep_ns(CSV_RETRY_NS) < 0)
            return -ECANCELED;
    }
    return 0;
}

struct refusal {
    struct csv *csv;
    struct bus_message message;
    int error;
};

static void refusal_main(void *arg)
{
    struct refusal *refusal = arg;

    (void)co_answer(refusal->csv, &refusal->message, refusal->error, NULL);
    co_group_done(&refusal->csv->work);
    free(refusal);
}

static void refuse(struct csv *csv, const struct bus_message *message, int error)
{
    struct refusal *refusal;

    counter_add(&csv->counters.refused, 1);
    if (message->request == 0 || bus_reply(csv->options.bus, message, error, NULL) == 0)
        return;
    refusal = malloc(sizeof(*refusal));
    if (!refusal)
        return;
    *refusal = (struct refusal){.csv = csv, .message = *message, .error = error};
    if (co_spawn(csv->io, "csv refusal", refusal_main, refusal) == 0)
        co_group_add(&csv->work, 1);
    else
        free(refusal);
}

/* ---- attaching ---- */

struct attaching {
    struct csv *csv;
    struct csv_attachment *attachment;
    struct bus_message message;
    uint64_t client_counter;
};

/* Waits until nothing runs that came on an older connection. */
static int co_drain(struct attaching *attaching)
{
    struct csv_attachment *attachment = attaching->attachment;

    attachment->connection = 0;
    SOMETIMES_IF(attachment->in_flight > 0, "csv: a client's old requests are waited for");
    while (attachment->in_flight > 0 && !PLANTED(CSV_NO_DRAIN))
        co_cond_wait_always(&attachment->idle);
    SOMETIMES_IF(attachment->attaching != attaching->message.connection,
                 "csv: a client attaches again before it is attached");
    if (attachment->attaching != attaching->message.connection)
        return -ENOTCONN; /* a still newer one asked meanwhile */
    if (attaching->client_counter > attachment->client_counter)
        co_csv_close_opens(attachment->volume, attachment->client, attaching->client_counter);
    attachment->client_counter = attaching->client_counter;
    attachment->connection = attaching->message.connection;
    return 0;
}

static void attach_main(void *arg)
{
    struct attaching *attaching = arg;
    struct csv_volume *volume = attaching->attachment->volume;
    struct csv *csv = attaching->csv;
    int r = co_drain(attaching);

    (void)co_answer(csv, &attaching->message, r, NULL);
    free(attaching);
    csv_volume_leave(volume);
    co_group_done(&csv->work);
}

static int start_attaching(struct csv *csv, struct csv_volume *volume,
                           const struct csv_attach *attach, const struct bus_message *message)
{
    struct csv_attachment *attachment = find_attachment(volume, message->from);
    struct attaching *attaching;
    int r;

    if (!attachment)
        attachment = attachment_new(volume, message->from);
    if (!attachment)
        return -ENOMEM;
    if (attach->client_counter < attachment->client_counter ||
        message->connection < attachment->attaching)
        return -ESTALE; /* from before its last start */
    attaching = calloc(1, sizeof(*attaching));
    if (!attaching)
        return -ENOMEM;
    attaching->csv = csv;
    attaching->attachment = attachment;
    attaching->message = *message;
    attaching->client_counter = attach->client_counter;
    r = co_spawn(csv->io, "csv attach", attach_main, attaching);
    if (r < 0) {
        free(attaching);
        return r;
    }
    attachment->attaching = message->connection;
    csv_volume_enter(volume);
    co_group_add(&csv->work, 1);
    return 0;
}

static void on_attach(void *arg, const struct bus_message *message)
{
    struct csv *csv = arg;
    struct csv_attach attach;
    struct csv_volume *volume;
    int r;

    r = csv_attach_decode(message->header, message->header_bytes, &attach);
    if (r == 0 && message->request == 0)
        r = -EPROTO;
    if (r == 0) {
        volume = volume_in_session(csv, attach.volume, attach.session);
        r = volume ? start_attaching(csv, volume, &attach, message) : -ESTALE;
    }
    if (r < 0)
        refuse(csv, message, r);
}

/* ---- requests ---- */

static void served_put(struct served *served)
{
    struct csv_attachment *attachment = served->attachment;

    list_push_front(served->large ? &attachment->free_large : &attachment->free_small,
                    &served->node);
    assert(attachment->in_flight > 0);
    if (--attachment->in_flight == 0)
        co_cond_broadcast(&attachment->idle);
}

static struct served *served_get(struct csv_attachment *attachment, bool large)
{
    struct list *node = list_pop_front(large ? &attachment->free_large : &attachment->free_small);
    struct served *served;

    if (!node)
        return NULL;
    served = list_entry(node, struct served, node);
    attachment->in_flight++;
    if (!served->buffer)
        served->buffer = aligned_alloc(BLOCK_SIZE, large ? CSV_LARGE_BYTES : CSV_SMALL_BYTES);
    if (!served->buffer) {
        served_put(served);
        return NULL;
    }
    return served;
}

static void reply_sent(void *arg)
{
    co_wake(arg);
}

static void co_reply(struct csv *csv, struct served *served, const struct csv_reply *reply)
{
    uint8_t header[CSV_REPLY_BYTES];
    struct bus_send send = {
        .flags = BUS_CHECKSUM,
        .header = header,
        .header_bytes = sizeof(header),
        .data = reply->bulk,
        .data_bytes = reply->bulk_bytes,
        .sent = reply_sent,
        .sent_arg = co_self(),
    };

    csv_reply_encode(reply, header);
    if (co_answer(csv, &served->message, reply->result, &send) == 0)
        co_wait(); /* the bus has done with the buffer */
}

static void served_main(void *arg)
{
    struct served *served = arg;
    struct csv_volume *volume = served->attachment->volume;
    struct csv *csv = volume->csv;
    struct csv_reply reply = {
        .bulk = served->buffer,
        .bulk_bytes = served->large ? CSV_LARGE_BYTES : CSV_SMALL_BYTES,
    };

    reply.result = co_csv_execute(volume, &served->request, &reply);
    co_reply(csv, served, &reply);
    served_put(served);
    csv_volume_leave(volume);
    co_group_done(&csv->work);
}

/* Takes the request out of the message, which is the bus's. */
static int take_request(struct served *served, const struct bus_message *message,
                        const struct csv_request *request)
{
    int r;

    served->message = *message;
    memcpy(served->header, message->header, message->header_bytes);
    r = csv_request_decode(served->header, message->header_bytes, &served->request);
    assert(r == 0); /* it was a moment ago */
    served->request.client = message->from;
    served->request.bulk = served->buffer;
    served->request.bulk_bytes = request->bulk_bytes;
    if (request->bulk_bytes > 0)
        memcpy(served->buffer, message->data, request->bulk_bytes);
    return r;
}

static int start_request(struct csv *csv, struct csv_request *request,
                         const struct bus_message *message)
{
    struct csv_volume *volume = volume_in_session(csv, request->volume, request->session);
    struct csv_attachment *attachment;
    struct served *served;
    int r;

    if (!volume)
        return -ESTALE;
    attachment = find_attachment(volume, message->from);
    if (!attachment || attachment->connection != message->connection ||
        attachment->client_counter != request->client_counter)
        return -ENOTCONN;
    served =
        served_get(attachment, MAX(request->bulk_bytes, csv_reply_room(request)) > CSV_SMALL_BYTES);
    if (!served)
        return -EAGAIN;
    r = take_request(served, message, request);
    if (r == 0)
        r = co_spawn(csv->io, "csv request", served_main, served);
    if (r < 0) {
        served_put(served);
        return r;
    }
    csv_volume_enter(volume);
    co_group_add(&csv->work, 1);
    counter_add(&csv->counters.served, 1);
    return 0;
}

static void on_request(void *arg, const struct bus_message *message)
{
    struct csv *csv = arg;
    struct csv_request request;
    int r;

    r = csv_request_decode(message->header, message->header_bytes, &request);
    if (r == 0) {
        request.bulk = message->data;
        request.bulk_bytes = message->data_bytes;
        r = message->request == 0 ? -EPROTO : csv_request_check(&request);
    }
    if (r == 0)
        r = start_request(csv, &request, message);
    if (r < 0)
        refuse(csv, message, r);
}

void csv_serve_start(struct csv *csv)
{
    if (!csv->options.bus)
        return;
    bus_handle(csv->options.bus, CSV_MSG_ATTACH, on_attach, csv);
    bus_handle(csv->options.bus, CSV_MSG_REQUEST, on_request, csv);
}

void csv_serve_stop(struct csv *csv)
{
    if (!csv->options.bus)
        return;
    bus_handle(csv->options.bus, CSV_MSG_ATTACH, NULL, NULL);
    bus_handle(csv->options.bus, CSV_MSG_REQUEST, NULL, NULL);
}
