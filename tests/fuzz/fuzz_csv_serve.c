/* What a peer may ask of a volume's owner (message types 400 and 401): over the bus, through the
 * owner's slots and the file service, to a file system in RAM. The peer has the cluster's key and
 * says anything: other sessions, handles and inodes that do not exist, many requests at once,
 * messages of which bytes were changed. Each is answered; the file system stays sound, and when the
 * peer has started again nothing of it is left open.
 *
 * The input is a list of messages, each a byte that chooses how it is made and what that takes. */
#include <stdlib.h>

#include "csv-export/csv_message.h"
#include "tests/unit/csv_world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OWNER 1
#define PEER 3
#define MESSAGES_MAX 32
#define BULK_MAX (96 * KIB)
#define CHOOSE_RAW 0xc0  /* both bits: header and data are the input's */
#define CHOOSE_WAIT 0x80 /* only this one: until what is under way has been answered */
#define CHOOSE_FLIP 0x40 /* only this one: a byte of the header is changed */
#define ANSWER_NS (60 * SEC)

struct message {
    struct fuzz *fuzz;
    uint16_t type;
    uint8_t header[CSV_REQUEST_MAX];
    uint32_t header_bytes, bulk_bytes;
    uint8_t *bulk;
};

struct fuzz {
    const uint8_t *data;
    size_t size;
    struct csv_world *world;
    uint64_t counter; /* the peer's starts */
    struct co_group calls;
    struct message messages[MESSAGES_MAX];
};

static struct fuzz fuzz;

/* ---- the input ---- */

static uint64_t take(size_t bytes)
{
    uint64_t value = 0;

    for (size_t i = 0; i < bytes && fuzz.size > 0; i++, fuzz.size--)
        value |= (uint64_t)*fuzz.data++ << 8 * i;
    return value;
}

/* Often small or near an edge, now and then anything. */
static uint64_t take_number(void)
{
    uint8_t kind = (uint8_t)take(1);

    if (kind < 0xc0)
        return kind & 0x0f;
    if (kind < 0xe0)
        return (kind & 0x1fu) * BLOCK_SIZE;
    if (kind < 0xf0)
        return fuzz.world->size_bytes - (kind & 0x0fu) * BLOCK_SIZE;
    return kind == 0xff ? UINT64_MAX : take(8);
}

static void take_name(char name[FS_NAME_MAX + 1])
{
    static const char *const names[] = {"a", "b", "c", ".", "..", ".snapshots", "a/b"};
    uint8_t kind = (uint8_t)take(1);
    size_t length = MIN(kind, (size_t)FS_NAME_MAX);

    memset(name, 0, FS_NAME_MAX + 1);
    if (kind < 0xc0)
        strcpy(name, names[kind % ARRAY_SIZE(names)]);
    else
        memset(name, 'n', length);
}

static uint32_t take_bulk(struct message *message)
{
    uint64_t bytes = take_number();

    bytes = MIN(bytes, (uint64_t)BULK_MAX);
    if (bytes == 0)
        return 0;
    message->bulk = aligned_alloc(BLOCK_SIZE, ALIGN_UP(bytes, (uint64_t)BLOCK_SIZE));
    assert(message->bulk);
    memset(message->bulk, 'a', bytes);
    for (size_t i = 0; i < MIN(bytes, 8u); i++)
        message->bulk[i] = (uint8_t)take(1);
    return (uint32_t)bytes;
}

/* ---- messages ---- */

static void make_raw(struct message *message)
{
    message->type = take(1) % 2 ? CSV_MSG_REQUEST : CSV_MSG_ATTACH;
    message->header_bytes = (uint32_t)take(2) % (sizeof(message->header) + 1);
    for (uint32_t i = 0; i < message->header_bytes; i++)
        message->header[i] = (uint8_t)take(1);
    message->bulk_bytes = take_bulk(message);
}

static void make_request(struct message *message, uint8_t op, bool flips)
{
    char name[FS_NAME_MAX + 1], name2[FS_NAME_MAX + 1];
    uint8_t odd = (uint8_t)take(1);
    struct csv_request request = {
        .op = 1 + op % (CSV_OP_END - 1),
        .flags = (uint32_t)take(1) % 8,
        .volume = CSV_VOLUME_ID + (odd == 1),
        .session = fuzz.world->session - (odd == 2),
        .client_counter = fuzz.counter - (odd == 3),
        .name_of = {.session = csv_client_session(PEER, fuzz.counter - (odd == 4)),
                    .slot = (uint32_t)take(1) % FS_SLOTS_PER_SESSION,
                    .sequence = (uint32_t)take(1)},
        .number = take(1),
        .name = name,
        .name2 = name2,
    };

    message->type = CSV_MSG_REQUEST;
    request.ino = take_number();
    request.ino2 = take_number();
    request.handle = take_number();
    request.offset = take_number();
    request.offset2 = take_number();
    request.length = take_number();
    request.incarnation = take(1) % 4;
    request.attr = (struct fs_attr){.mode = (uint32_t)take(2), .uid = 1, .gid = 1};
    take_name(name);
    take_name(name2);
    message->bulk_bytes = take_bulk(message);
    message->header_bytes = (uint32_t)csv_request_encode(&request, message->header);
    if (flips)
        message->header[take(2) % message->header_bytes] ^= (uint8_t)take(1);
}

static void co_ask(void *arg)
{
    struct message *message = arg;
    struct bus *bus = message->fuzz->world->world->nodes[PEER].bus;
    struct bus_send send = {.to = OWNER,
                            .channel = BUS_DATA,
                            .type = message->type,
                            .flags = BUS_CHECKSUM,
                            .header = message->header,
                            .header_bytes = message->header_bytes,
                            .data = message->bulk,
                            .data_bytes = message->bulk_bytes};
    uint8_t header[CSV_REPLY_BYTES];
    struct csv_reply reply = {0};
    struct bus_reply answer = {.header = header, .header_bytes = sizeof(header)};
    int r;

    answer.data = aligned_alloc(BLOCK_SIZE, CSV_DATA_MAX);
    answer.data_bytes = CSV_DATA_MAX;
    r = co_bus_call(bus, &send, ANSWER_NS, &answer);
    assert(r == 0);
    assert(answer.result <= 0);
    if (answer.header_bytes > 0) { /* else it was refused */
        r = csv_reply_decode(header, answer.header_bytes, &reply);
        assert(r == 0);
    }
    free(answer.data);
    free(take_ptr(message->bulk));
}

static void ask(struct message *message)
{
    int r = co_group_spawn(&fuzz.calls, fuzz.world->world->io, "ask", co_ask, message);

    assert(r == 0);
}

/* As a client does first; it also ends what the peer's former start had open. */
static void co_attach(struct csv_world *world)
{
    struct csv_attach attach = {CSV_VOLUME_ID, world->session, ++fuzz.counter};
    struct message message = {
        .fuzz = &fuzz, .type = CSV_MSG_ATTACH, .header_bytes = CSV_ATTACH_BYTES};

    csv_attach_encode(&attach, message.header);
    co_ask(&message);
}

static void co_input(struct csv_world *world)
{
    co_csv_world_format(world);
    co_attach(world);
    for (unsigned i = 0; i < MESSAGES_MAX && fuzz.size > 0; i++) {
        struct message *message = &fuzz.messages[i];
        uint8_t choice = (uint8_t)take(1);

        *message = (struct message){.fuzz = &fuzz};
        if ((choice & CHOOSE_RAW) == CHOOSE_RAW)
            make_raw(message);
        else
            make_request(message, choice & 0x3f, choice & CHOOSE_FLIP);
        ask(message);
        if ((choice & CHOOSE_RAW) == CHOOSE_WAIT)
            co_group_wait(&fuzz.calls);
    }
    co_group_wait(&fuzz.calls);
    co_attach(world);
    co_csv_world_check(world);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!fuzz.world) {
        fuzz.world = csv_world_new();
        co_group_init(&fuzz.calls);
    }
    fuzz.data = data;
    fuzz.size = size;
    csv_world_do(fuzz.world, co_input);
    return 0;
}
