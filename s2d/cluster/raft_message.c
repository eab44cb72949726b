/* raft_message: the wire form. One writer that can also only count, so that size and bytes never
 * disagree, and one reader that remembers its first error, so that decoding reads like the drawing
 * in the header. */
#include "s2d/cluster/raft_message.h"

struct writer {
    uint8_t *bytes; /* NULL: only count */
    size_t size;
};

static void put_bytes(struct writer *writer, const void *bytes, size_t size)
{
    if (writer->bytes && size > 0)
        memcpy(writer->bytes + writer->size, bytes, size);
    writer->size += size;
}

static void put_number(struct writer *writer, uint64_t number, unsigned width)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < width; i++)
        bytes[i] = (uint8_t)(number >> (8 * i));
    put_bytes(writer, bytes, width);
}

static void put_u64(struct writer *writer, uint64_t number)
{
    put_number(writer, number, 8);
}

static void put_append(struct writer *writer, const struct raft_message *message)
{
    put_u64(writer, message->append.request);
    put_u64(writer, message->append.prev_index);
    put_u64(writer, message->append.prev_term);
    put_u64(writer, message->append.commit);
    put_number(writer, message->append.entry_count, 2);
    for (uint32_t i = 0; i < message->append.entry_count; i++) {
        put_u64(writer, message->append.entries[i].term);
        put_number(writer, message->append.entries[i].type, 1);
        put_number(writer, message->append.entries[i].size, 4);
    }
    for (uint32_t i = 0; i < message->append.entry_count; i++)
        put_bytes(writer, message->append.entries[i].data, message->append.entries[i].size);
}

static void put_append_answer(struct writer *writer, const struct raft_message *message)
{
    put_u64(writer, message->append_answer.request_term);
    put_u64(writer, message->append_answer.request);
    put_number(writer, message->append_answer.accepted, 1);
    put_u64(writer, message->append_answer.index);
    put_u64(writer, message->append_answer.hint_index);
    put_u64(writer, message->append_answer.hint_term);
    put_u64(writer, message->append_answer.last_index);
    put_u64(writer, message->append_answer.commit);
}

static void put_snapshot(struct writer *writer, const struct raft_message *message)
{
    uint8_t configuration[RAFT_CONFIGURATION_BYTES_MAX];
    size_t size =
        raft_configuration_encode(&message->snapshot.snapshot.configuration, configuration);

    put_u64(writer, message->snapshot.snapshot.index);
    put_u64(writer, message->snapshot.snapshot.term);
    put_number(writer, size, 2);
    put_bytes(writer, configuration, size);
    put_u64(writer, message->snapshot.offset);
    put_number(writer, message->snapshot.done, 1);
    put_number(writer, message->snapshot.size, 4);
    put_bytes(writer, message->snapshot.data, message->snapshot.size);
}

static void put_body(struct writer *writer, const struct raft_message *message)
{
    switch (message->type) {
    case RAFT_PRE_VOTE:
    case RAFT_VOTE:
        put_u64(writer, message->vote.last_index);
        put_u64(writer, message->vote.last_term);
        put_number(writer, message->vote.forced, 1);
        break;
    case RAFT_PRE_VOTE_ANSWER:
    case RAFT_VOTE_ANSWER:
        put_u64(writer, message->vote_answer.request_term);
        put_number(writer, message->vote_answer.granted, 1);
        put_u64(writer, message->vote_answer.silence_ns);
        break;
    case RAFT_APPEND:
        put_append(writer, message);
        break;
    case RAFT_APPEND_ANSWER:
        put_append_answer(writer, message);
        break;
    case RAFT_HEARTBEAT:
        put_u64(writer, message->heartbeat.round);
        break;
    case RAFT_HEARTBEAT_ANSWER:
        put_u64(writer, message->heartbeat_answer.request_term);
        put_u64(writer, message->heartbeat_answer.round);
        put_u64(writer, message->heartbeat_answer.last_index);
        put_u64(writer, message->heartbeat_answer.commit);
        break;
    case RAFT_SNAPSHOT:
        put_snapshot(writer, message);
        break;
    case RAFT_SNAPSHOT_ANSWER:
        put_u64(writer, message->snapshot_answer.request_term);
        put_u64(writer, message->snapshot_answer.index);
        put_u64(writer, message->snapshot_answer.next_offset);
        put_number(writer, message->snapshot_answer.installed, 1);
        break;
    case RAFT_VOUCH:
        put_u64(writer, message->vouch.index);
        break;
    case RAFT_VOUCH_ANSWER:
        put_u64(writer, message->vouch_answer.request_term);
        put_u64(writer, message->vouch_answer.index);
        break;
    case RAFT_TIMEOUT_NOW:
        break;
    }
}

static size_t put_message(uint8_t *bytes, const struct raft_message *message)
{
    struct writer writer = {.bytes = bytes};

    put_number(&writer, RAFT_MESSAGE_MAGIC, 4);
    put_number(&writer, RAFT_MESSAGE_VERSION, 1);
    put_number(&writer, message->type, 1);
    put_number(&writer, 0, 2);
    put_u64(&writer, message->from);
    put_u64(&writer, message->to);
    put_u64(&writer, message->term);
    put_body(&writer, message);
    return writer.size;
}

size_t raft_message_size(const struct raft_message *message)
{
    return put_message(NULL, message);
}

void raft_message_encode(const struct raft_message *message, uint8_t *bytes)
{
    size_t size = put_message(bytes, message);

    assert(size <= RAFT_MESSAGE_SIZE_MAX);
}

struct reader {
    const uint8_t *bytes;
    size_t left;
    int error;
};

/* NULL, and an error that stays, when there are not that many. */
static const void *get_bytes(struct reader *reader, size_t size)
{
    const void *bytes = reader->bytes;

    if (reader->error || size > reader->left) {
        reader->error = -EPROTO;
        return NULL;
    }
    reader->bytes += size;
    reader->left -= size;
    return bytes;
}

static uint64_t get_number(struct reader *reader, unsigned width)
{
    const uint8_t *bytes = get_bytes(reader, width);
    uint64_t number = 0;

    for (unsigned i = 0; bytes && i < width; i++)
        number |= (uint64_t)bytes[i] << (8 * i);
    return number;
}

/* Terms, indexes and the like: nobody counts that far, and we want to add to them without a
 * thought. */
static uint64_t get_u64(struct reader *reader)
{
    uint64_t number = get_number(reader, 8);

    if (number > RAFT_NUMBER_MAX)
        reader->error = -EPROTO;
    return number;
}

static bool get_bool(struct reader *reader)
{
    uint64_t number = get_number(reader, 1);

    if (number > 1)
        reader->error = -EPROTO;
    return number == 1;
}

static void get_entry(struct reader *reader, uint64_t term_max, struct raft_view *ret_view)
{
    uint64_t term = get_u64(reader);
    uint64_t type = get_number(reader, 1);
    uint64_t size = get_number(reader, 4);

    if (term == 0 || term > term_max || size > RAFT_ENTRY_BYTES_MAX)
        reader->error = -EPROTO;
    if (type < RAFT_NORMAL || type > RAFT_NOOP)
        reader->error = -EPROTO;
    *ret_view = (struct raft_view){
        .term = term, .type = (enum raft_entry_type)type, .size = (uint32_t)size};
}

static void get_payload(struct reader *reader, struct raft_view *view)
{
    struct raft_configuration configuration;

    view->data = get_bytes(reader, view->size);
    if (!view->data)
        return;
    if (view->type == RAFT_NOOP && view->size > 0)
        reader->error = -EPROTO;
    if (view->type == RAFT_CONFIGURATION &&
        (raft_configuration_decode(view->data, view->size, &configuration) < 0 ||
         configuration.count == 0))
        reader->error = -EPROTO;
}

static void get_append(struct reader *reader, struct raft_view *entries,
                       struct raft_message *message)
{
    uint64_t term, bytes = 0;

    message->append.request = get_u64(reader);
    message->append.prev_index = get_u64(reader);
    term = message->append.prev_term = get_u64(reader);
    message->append.commit = get_u64(reader);
    message->append.entry_count = (uint32_t)get_number(reader, 2);
    message->append.entries = entries;
    if (message->append.entry_count > RAFT_MESSAGE_ENTRIES_MAX || term > message->term)
        reader->error = -EPROTO;
    if ((message->append.prev_index == 0) != (term == 0))
        reader->error = -EPROTO;

    for (uint32_t i = 0; !reader->error && i < message->append.entry_count; i++) {
        get_entry(reader, message->term, &entries[i]);
        if (entries[i].term < term) /* terms never fall along a log */
            reader->error = -EPROTO;
        term = entries[i].term;
        bytes += entries[i].size;
    }
    if (bytes > RAFT_MESSAGE_BYTES_MAX)
        reader->error = -EPROTO;
    for (uint32_t i = 0; !reader->error && i < message->append.entry_count; i++)
        get_payload(reader, &entries[i]);
}

static void get_append_answer(struct reader *reader, struct raft_message *message)
{
    message->append_answer.request_term = get_u64(reader);
    message->append_answer.request = get_u64(reader);
    message->append_answer.accepted = get_bool(reader);
    message->append_answer.index = get_u64(reader);
    message->append_answer.hint_index = get_u64(reader);
    message->append_answer.hint_term = get_u64(reader);
    message->append_answer.last_index = get_u64(reader);
    message->append_answer.commit = get_u64(reader);
}

static void get_snapshot(struct reader *reader, struct raft_message *message)
{
    struct raft_snapshot *snapshot = &message->snapshot.snapshot;
    const void *configuration;
    size_t size;

    snapshot->index = get_u64(reader);
    snapshot->term = get_u64(reader);
    size = get_number(reader, 2);
    configuration = get_bytes(reader, size);
    if (!configuration ||
        raft_configuration_decode(configuration, size, &snapshot->configuration) < 0)
        reader->error = -EPROTO;
    message->snapshot.offset = get_u64(reader);
    message->snapshot.done = get_bool(reader);
    message->snapshot.size = (uint32_t)get_number(reader, 4);
    message->snapshot.data = get_bytes(reader, message->snapshot.size);

    if (snapshot->index == 0 || snapshot->term == 0 || snapshot->term > message->term)
        reader->error = -EPROTO;
    if (snapshot->configuration.count == 0 || message->snapshot.size > RAFT_CHUNK_BYTES_MAX)
        reader->error = -EPROTO;
}

static void get_body(struct reader *reader, struct raft_view *entries, struct raft_message *message)
{
    switch (message->type) {
    case RAFT_PRE_VOTE:
    case RAFT_VOTE:
        message->vote.last_index = get_u64(reader);
        message->vote.last_term = get_u64(reader);
        message->vote.forced = get_bool(reader);
        break;
    case RAFT_PRE_VOTE_ANSWER:
    case RAFT_VOTE_ANSWER:
        message->vote_answer.request_term = get_u64(reader);
        message->vote_answer.granted = get_bool(reader);
        message->vote_answer.silence_ns = get_u64(reader);
        break;
    case RAFT_APPEND:
        get_append(reader, entries, message);
        break;
    case RAFT_APPEND_ANSWER:
        get_append_answer(reader, message);
        break;
    case RAFT_HEARTBEAT:
        message->heartbeat.round = get_u64(reader);
        break;
    case RAFT_HEARTBEAT_ANSWER:
        message->heartbeat_answer.request_term = get_u64(reader);
        message->heartbeat_answer.round = get_u64(reader);
        message->heartbeat_answer.last_index = get_u64(reader);
        message->heartbeat_answer.commit = get_u64(reader);
        break;
    case RAFT_SNAPSHOT:
        get_snapshot(reader, message);
        break;
    case RAFT_SNAPSHOT_ANSWER:
        message->snapshot_answer.request_term = get_u64(reader);
        message->snapshot_answer.index = get_u64(reader);
        message->snapshot_answer.next_offset = get_u64(reader);
        message->snapshot_answer.installed = get_bool(reader);
        break;
    case RAFT_VOUCH:
        message->vouch.index = get_u64(reader);
        break;
    case RAFT_VOUCH_ANSWER:
        message->vouch_answer.request_term = get_u64(reader);
        message->vouch_answer.index = get_u64(reader);
        break;
    case RAFT_TIMEOUT_NOW:
        break;
    }
}

int raft_message_decode(const void *bytes, size_t size,
                        struct raft_view entries[RAFT_MESSAGE_ENTRIES_MAX],
                        struct raft_message *ret_message)
{
    struct reader reader = {.bytes = bytes, .left = size};
    struct raft_message message = {0};
    uint64_t magic = get_number(&reader, 4);
    uint64_t version = get_number(&reader, 1);
    uint64_t type = get_number(&reader, 1);

    if (reader.error || magic != RAFT_MESSAGE_MAGIC || version != RAFT_MESSAGE_VERSION)
        return -EBADMSG;
    if (type < RAFT_PRE_VOTE || type > RAFT_TIMEOUT_NOW || get_number(&reader, 2) != 0)
        return -EPROTO;
    message.type = (enum raft_message_type)type;
    message.from = get_number(&reader, 8); /* ids may have any value but 0 */
    message.to = get_number(&reader, 8);
    message.term = get_u64(&reader);
    if (reader.error || message.from == 0 || message.to == 0)
        return -EPROTO;
    get_body(&reader, entries, &message);
    if (reader.error || reader.left > 0)
        return -EPROTO;

    *ret_message = message;
    return 0;
}

const char *raft_message_name(enum raft_message_type type)
{
    switch (type) {
    case RAFT_PRE_VOTE:
        return "pre-vote";
    case RAFT_PRE_VOTE_ANSWER:
        return "pre-vote answer";
    case RAFT_VOTE:
        return "vote";
    case RAFT_VOTE_ANSWER:
        return "vote answer";
    case RAFT_APPEND:
        return "append";
    case RAFT_APPEND_ANSWER:
        return "append answer";
    case RAFT_HEARTBEAT:
        return "heartbeat";
    case RAFT_HEARTBEAT_ANSWER:
        return "heartbeat answer";
    case RAFT_SNAPSHOT:
        return "snapshot";
    case RAFT_SNAPSHOT_ANSWER:
        return "snapshot answer";
    case RAFT_VOUCH:
        return "vouch";
    case RAFT_VOUCH_ANSWER:
        return "vouch answer";
    case RAFT_TIMEOUT_NOW:
        return "timeout now";
    }
    return "unknown";
}
