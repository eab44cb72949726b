/* What a stranger answers who is dialed: the dialer's side of the bus's handshake as a stream, from
 * a node that keeps dialing its peer, or a guest that asks something (what a node does to join). A
 * stranger without the key gets no proof out of us, is nobody, and is not asked again and again in
 * a hurry; with it there is a connection, or an answer; a guest's question ends in its time.
 *
 * Input: a byte of choices, two bits of which say for how many streams the stranger has something
 * to say; then, dealt out in equal parts, what. Further streams are closed as they come. */
#include "s2d/base/checksum.h"
#include "s2d/base/sim.h"
#include "s2d/bus/bus_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum choice {
    STREAMS = 3,          /* 1 … 3 */
    GUEST = 0x10,         /* who dials is a guest, not a member */
    HANGS = 0x20,         /* who has said all stays */
    KNOWS_THE_KEY = 0x40, /* with FORM_RIGHT: its proofs are right */
    FORM_RIGHT = 0x80,    /* challenge, welcome and a guest's reply have form and checksum */
};
#define STREAMS_MAX 3
#define ADDRESS "10.83.0.2:7800"
#define RUN_NS (3 * SEC)
#define CALL_NS (1 * SEC)
#define LIMIT_NS (60 * SEC)
#define DIALS_MAX                                                                                  \
    40 /* in RUN_NS: at most one in REDIAL_NS_MAX on each channel, but for the first */
#define REPLY_MAX 256
#define QUESTION "question"

static const uint8_t key[BUS_KEY_BYTES] = {7}, no_key[BUS_KEY_BYTES];

struct answer {
    const uint8_t *bytes;
    size_t length;
};

struct fuzz {
    uint8_t choices;
    struct answer answers[STREAMS_MAX];
    unsigned count, accepted;
    unsigned proofs; /* that the stranger was given: it was right to */
    unsigned welcomes;
    unsigned ups, messages;
    struct io_listener *listener;
    struct co_group group;
    bool dialed, done;
};

/* ---- the stranger ---- */

static void take(struct answer *answer, void *to, size_t length)
{
    size_t taken = MIN(length, answer->length);

    memset(to, 0, length);
    if (taken > 0)
        memcpy(to, answer->bytes, taken);
    answer->bytes += taken;
    answer->length -= taken;
}

/* The names are few enough to be right at times. */
static void make_challenge(const struct fuzz *fuzz, const struct bus_hello_format *hello,
                           struct bus_challenge_format *format)
{
    struct challenge challenge = {
        .version = format->version % 4 == 3 ? format->version : BUS_VERSION_NEWEST,
        .refusal = format->refusal % 16,
        .version_oldest = format->version_oldest,
        .version_newest = format->version_newest,
        .node = format->node % 4 == 3 ? format->node : 2,
        .start_counter = format->start_counter,
    };

    memcpy(challenge.nonce, format->nonce, sizeof(challenge.nonce));
    memcpy(challenge.cluster, format->cluster, sizeof(challenge.cluster));
    challenge_encode(&challenge, hello, fuzz->choices & KNOWS_THE_KEY ? key : no_key, format);
}

static int co_greet(struct fuzz *fuzz, struct io_stream *stream, struct answer *answer)
{
    struct bus_hello_format hello_format;
    struct bus_challenge_format challenge;
    struct bus_proof_format proof;
    struct bus_welcome_format welcome;
    struct hello hello;
    enum bus_refusal refusal;
    int r;

    r = co_io_recv_all(stream, &hello_format, sizeof(hello_format));
    if (r < 0)
        return r;
    refusal = hello_decode(&hello_format, &hello);
    assert(refusal == REFUSAL_NONE);
    if (answer->length == 0)
        return -ENODATA;
    take(answer, &challenge, sizeof(challenge));
    if (fuzz->choices & FORM_RIGHT)
        make_challenge(fuzz, &hello_format, &challenge);
    r = co_io_send(stream, &challenge, sizeof(challenge));
    if (r == 0)
        r = co_io_recv_all(stream, &proof, sizeof(proof));
    if (r < 0)
        return r;
    assert(challenge_verify(&challenge, &hello_format, key)); /* or it learns what a proof is */
    assert(proof_verify(&proof, &hello_format, &challenge, key));
    fuzz->proofs++;
    take(answer, &welcome, sizeof(welcome));
    if (fuzz->choices & FORM_RIGHT)
        welcome_encode(welcome.refusal % 16, &welcome);
    fuzz->welcomes += welcome_decode(&welcome) == REFUSAL_NONE;
    return co_io_send(stream, &welcome, sizeof(welcome));
}

/* Lengths, flags and the result are the stranger's. */
static void make_reply(struct bus_frame_format *format, const struct answer *answer)
{
    format->magic = BUS_MAGIC_FRAME;
    format->version = BUS_VERSION_NEWEST;
    format->kind = FRAME_REPLY;
    format->request = 1 + (format->request % 4 == 3);
    if (format->flags & BUS_CHECKSUM && format->header_bytes == 0 &&
        format->data_bytes <= answer->length)
        format->payload_crc = frame_payload_crc(NULL, 0, answer->bytes, format->data_bytes);
    format->crc = crc32c(format, offsetof(struct bus_frame_format, crc));
}

static int co_reply(struct fuzz *fuzz, struct io_stream *stream, struct answer *answer)
{
    uint8_t asked[FRAME_BYTES + sizeof(QUESTION)];
    struct bus_frame_format format;
    int r;

    r = co_io_recv_all(stream, asked, sizeof(asked));
    if (r < 0)
        return r;
    assert(memcmp(asked + FRAME_BYTES, QUESTION, sizeof(QUESTION)) == 0);
    if (answer->length == 0)
        return -ENODATA;
    take(answer, &format, sizeof(format));
    if (fuzz->choices & FORM_RIGHT)
        make_reply(&format, answer);
    return co_io_send(stream, &format, sizeof(format));
}

struct visit {
    struct fuzz *fuzz;
    struct io_stream *stream;
    unsigned number;
};

static void visit_main(void *arg)
{
    struct visit visit = *(struct visit *)arg;
    struct fuzz *fuzz = visit.fuzz;
    struct answer *answer = &fuzz->answers[visit.number];
    char heard[4096];
    int r;

    free(arg);
    r = co_greet(fuzz, visit.stream, answer);
    if (r == 0 && fuzz->choices & GUEST)
        r = co_reply(fuzz, visit.stream, answer);
    if (r == 0 && answer->length > 0)
        r = co_io_send(visit.stream, answer->bytes, answer->length);
    if (r == -ENODATA)
        r = 0; /* all is said */
    while (fuzz->choices & HANGS && r >= 0 && co_io_recv(visit.stream, heard, sizeof(heard)) > 0)
        continue;
    io_stream_close(visit.stream);
}

static void stranger_main(struct io *io, void *arg)
{
    struct fuzz *fuzz = arg;
    struct io_stream *stream;
    int r;

    co_group_init(&fuzz->group);
    r = io_listen(io, ADDRESS, &fuzz->listener);
    assert(r == 0);
    while (co_io_accept(fuzz->listener, &stream) == 0) {
        struct visit *visit = malloc(sizeof(*visit));

        if (fuzz->accepted++ >= fuzz->count) {
            free(visit);
            io_stream_close(stream);
            continue;
        }
        *visit = (struct visit){fuzz, stream, fuzz->accepted - 1};
        r = co_group_spawn(&fuzz->group, io, "visit", visit_main, visit);
        assert(r == 0);
    }
    co_group_wait(&fuzz->group);
    io_listener_close(fuzz->listener);
    fuzz->done = true;
    io_stop(io);
}

/* ---- who dials ---- */

static void on_up(void *arg, uint64_t peer, enum bus_channel channel)
{
    (void)channel;
    assert(peer == 2);
    ((struct fuzz *)arg)->ups++;
}

static void on_message(void *arg, const struct bus_message *message)
{
    assert(message->from == 2);
    ((struct fuzz *)arg)->messages++;
}

static void co_member(struct fuzz *fuzz, struct io *io, struct bus_options *options)
{
    struct bus *bus;
    int r;

    options->node = 1;
    r = bus_new(io, options, &bus);
    assert(r == 0);
    bus_handle(bus, 1, on_message, fuzz);
    r = bus_add_peer(bus, 2, ADDRESS);
    assert(r == 0);
    r = co_sleep_ns(RUN_NS);
    assert(r == 0);
    if (fuzz->proofs == 0)
        assert(fuzz->ups == 0 && fuzz->messages == 0 && bus_peer_start_counter(bus, 2) == 0);
    assert(fuzz->ups <= fuzz->welcomes);
    assert(fuzz->accepted <= DIALS_MAX);
    co_bus_close(bus);
}

static void co_guest(struct fuzz *fuzz, struct io *io, struct bus_options *options)
{
    char data[REPLY_MAX];
    struct bus_send send = {
        .type = 1, .flags = BUS_CHECKSUM, .data = QUESTION, .data_bytes = sizeof(QUESTION)};
    struct bus_reply reply = {.data = data, .data_bytes = sizeof(data)};
    uint64_t start_ns = io_now_ns(io);
    int r;

    options->key_id[0] = 1;
    r = co_bus_call_address(io, options, ADDRESS, &send, CALL_NS, &reply);
    assert(r <= 0);
    assert(io_now_ns(io) - start_ns <= CALL_NS + 100 * MS);
    if (r < 0)
        return;
    assert(fuzz->welcomes == 1);
    assert(reply.header_bytes == 0 && reply.data_bytes <= sizeof(data));
    assert(reply.result <= 0 && reply.result >= -4095);
}

static void dialer_main(struct io *io, void *arg)
{
    struct fuzz *fuzz = arg;
    struct bus_options options = {.start_counter = 1,
                                  .key = key,
                                  .key_bytes = sizeof(key),
                                  .receive_bytes = MIB,
                                  .on_up = on_up,
                                  .arg = fuzz};

    (void)!co_sleep_ns(MS); /* the stranger listens */
    if (fuzz->choices & GUEST)
        co_guest(fuzz, io, &options);
    else
        co_member(fuzz, io, &options);
    fuzz->dialed = true;
    io_stop(io);
}

static bool has_dialed(void *arg)
{
    return ((struct fuzz *)arg)->dialed;
}

static bool is_done(void *arg)
{
    return ((struct fuzz *)arg)->done;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sim_options options = sim_default_options(size);
    cleanup(sim_freep) struct sim *sim = NULL;
    struct fuzz fuzz = {0};
    bool ended;

    if (size < 1)
        return 0;
    fuzz.choices = data[0];
    fuzz.count = MIN(1u + (data[0] & STREAMS), STREAMS_MAX);
    for (unsigned i = 0; i < fuzz.count; i++) {
        size_t first = (size - 1) * i / fuzz.count, end = (size - 1) * (i + 1) / fuzz.count;

        fuzz.answers[i] = (struct answer){data + 1 + first, end - first};
    }
    if (sim_new(&options, &sim) < 0 || sim_start(sim, 2, stranger_main, &fuzz) < 0 ||
        sim_start(sim, 1, dialer_main, &fuzz) < 0)
        abort();
    ended = sim_run(sim, LIMIT_NS, has_dialed, &fuzz);
    assert(ended);
    io_listener_shutdown(fuzz.listener);
    ended = sim_run(sim, 2 * LIMIT_NS, is_done, &fuzz);
    assert(ended);
    return 0;
}
