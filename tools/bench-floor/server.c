#include "tools/bench-floor/server.h"
#include "tools/bench-floor/wire.h"
#include <fcntl.h>
#include <liburing.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* chooses the instruction set at run time */
#else
#include <xxhash.h>
#endif

/* A few per stream, SLOTS reads, one log write. */
#define RING_ENTRIES 256u

/* A completion's user_data: what completed, and of which stream or read. */
enum event { EVENT_RECEIVE, EVENT_SEND, EVENT_LOG, EVENT_READ };
#define EVENT_TAG(event, index) ((uint64_t)(event) << 32 | (index))

struct gather {
    struct iovec parts[2 * SLOTS];
    unsigned count;
    size_t bytes;
};

/* A connection: one receive and one gathered send in flight. What is to be sent next collects in
 * gathers[filling] while the other one is under way. */
struct stream {
    int fd;
    uint8_t *received;
    size_t received_bytes;
    bool receiving;
    bool sending;
    struct gather gathers[2];
    unsigned filling;
    struct msghdr message;
};

/* A log: a file written round and round, one batch in flight. */
struct log {
    int fd;
    uint64_t size_bytes;
    uint64_t tail_bytes;
    uint64_t batched_seq; /* handed to the kernel */
    uint64_t durable_seq;
    bool writing;
    uint8_t *header;
    struct iovec parts[3];
};

struct slot {
    struct record record;
    struct reply reply;
    struct ack ack;
};

struct server {
    struct io_uring ring;
    struct log log;
    struct stream
        streams[1 + REPLICAS]; /* 0: towards the client; the others: the owner's replicas */
    unsigned stream_count;
    struct slot slots[SLOTS]; /* of write seq: [seq % SLOTS] */
    uint8_t *blocks;          /* their data */
    uint64_t newest_seq;
    uint64_t answered_seq;
    uint64_t acked_seq[1 + REPLICAS]; /* by stream; [0] unused */
    struct reply read_replies[SLOTS]; /* of a read: [handle % SLOTS] */
    uint8_t *read_blocks;
    bool done;
};

static struct slot *slot_of(struct server *server, uint64_t seq)
{
    return &server->slots[seq % SLOTS];
}

static uint8_t *block_of(struct server *server, uint64_t seq)
{
    return server->blocks + seq % SLOTS * BLOCK_SIZE;
}

static struct io_uring_sqe *next_sqe(struct server *server)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&server->ring);

    assert(sqe != NULL);
    return sqe;
}

static void stream_add(struct stream *stream, void *bytes, size_t size)
{
    struct gather *gather = &stream->gathers[stream->filling];

    assert(gather->count < 2 * SLOTS);
    gather->parts[gather->count++] = (struct iovec){.iov_base = bytes, .iov_len = size};
    gather->bytes += size;
}

static void stream_send(struct server *server, unsigned index)
{
    struct stream *stream = &server->streams[index];
    struct gather *gather = &stream->gathers[stream->filling];

    if (stream->sending || gather->count == 0)
        return;
    stream->message = (struct msghdr){.msg_iov = gather->parts, .msg_iovlen = gather->count};
    struct io_uring_sqe *sqe = next_sqe(server);
    io_uring_prep_sendmsg(sqe, stream->fd, &stream->message, MSG_WAITALL | MSG_NOSIGNAL);
    sqe->user_data = EVENT_TAG(EVENT_SEND, index);
    stream->sending = true;
    stream->filling ^= 1;
}

static void stream_on_sent(struct stream *stream, int result)
{
    struct gather *sent = &stream->gathers[stream->filling ^ 1];

    if (result != (int)sent->bytes)
        errx(EXIT_FAILURE, "send: %s", result < 0 ? strerror(-result) : "short");
    sent->count = 0;
    sent->bytes = 0;
    stream->sending = false;
}

static void stream_receive(struct server *server, unsigned index)
{
    struct stream *stream = &server->streams[index];

    if (stream->receiving)
        return;
    struct io_uring_sqe *sqe = next_sqe(server);
    io_uring_prep_recv(sqe, stream->fd, stream->received + stream->received_bytes,
                       RECEIVE_BYTES - stream->received_bytes, 0);
    sqe->user_data = EVENT_TAG(EVENT_RECEIVE, index);
    stream->receiving = true;
}

/* Takes in a write: a private copy in the slot of the next seq. */
static void take_write(struct server *server, const struct record *record, const uint8_t *block)
{
    uint64_t seq = ++server->newest_seq;

    assert(seq - server->answered_seq <= SLOTS);
    slot_of(server, seq)->record = *record;
    slot_of(server, seq)->record.seq = seq;
    memcpy(block_of(server, seq), block, BLOCK_SIZE);
}

static void owner_write(struct server *server, const struct request *request, const uint8_t *block)
{
    struct record record = {.offset_bytes = request->offset_bytes, .length_bytes = BLOCK_SIZE};

    take_write(server, &record, block);
    struct slot *slot = slot_of(server, server->newest_seq);
    uint8_t *copy = block_of(server, server->newest_seq);
    slot->record.hash = XXH3_64bits(copy, BLOCK_SIZE);
    slot->reply = (struct reply){.magic = request->magic, .handle = request->handle};
    for (unsigned i = 1; i <= REPLICAS; i++) {
        stream_add(&server->streams[i], &slot->record, sizeof(slot->record));
        stream_add(&server->streams[i], copy, BLOCK_SIZE);
    }
}

static void owner_read(struct server *server, const struct request *request)
{
    unsigned index = request->handle % SLOTS;
    struct io_uring_sqe *sqe = next_sqe(server);

    server->read_replies[index] =
        (struct reply){.magic = request->magic, .handle = request->handle};
    io_uring_prep_read(sqe, server->log.fd, server->read_blocks + index * BLOCK_SIZE, BLOCK_SIZE,
                       request->offset_bytes);
    sqe->user_data = EVENT_TAG(EVENT_READ, index);
}

static void owner_on_read(struct server *server, unsigned index, int result)
{
    if (result != (int)BLOCK_SIZE)
        errx(EXIT_FAILURE, "read: %s", result < 0 ? strerror(-result) : "short");
    stream_add(&server->streams[0], &server->read_replies[index], sizeof(struct reply));
    stream_add(&server->streams[0], server->read_blocks + index * BLOCK_SIZE, BLOCK_SIZE);
}

/* The take_ functions return the bytes of the message at the start of `bytes`, 0 when it is not all
 * here yet. */
static size_t take_request(struct server *server, const uint8_t *bytes, size_t size)
{
    struct request request;

    if (size < sizeof(request))
        return 0;
    memcpy(&request, bytes, sizeof(request));
    if (request.type == REQUEST_READ) {
        owner_read(server, &request);
        return sizeof(request);
    }
    if (size < sizeof(request) + BLOCK_SIZE)
        return 0;
    owner_write(server, &request, bytes + sizeof(request));
    return sizeof(request) + BLOCK_SIZE;
}

static size_t take_ack(struct server *server, unsigned index, const uint8_t *bytes, size_t size)
{
    struct ack ack;

    if (size < sizeof(ack))
        return 0;
    memcpy(&ack, bytes, sizeof(ack));
    server->acked_seq[index] = ack.seq;
    return sizeof(ack);
}

static size_t take_record(struct server *server, const uint8_t *bytes, size_t size)
{
    struct record record;

    if (size < sizeof(record) + BLOCK_SIZE)
        return 0;
    memcpy(&record, bytes, sizeof(record));
    take_write(server, &record, bytes + sizeof(record));
    return sizeof(record) + BLOCK_SIZE;
}

static bool is_owner(const struct server *server)
{
    return server->stream_count > 1;
}

static size_t take_message(struct server *server, unsigned index, const uint8_t *bytes, size_t size)
{
    if (index > 0)
        return take_ack(server, index, bytes, size);
    return is_owner(server) ? take_request(server, bytes, size) : take_record(server, bytes, size);
}

static void stream_on_received(struct server *server, unsigned index, int result)
{
    struct stream *stream = &server->streams[index];
    size_t taken = 0, size;

    if (result < 0)
        errx(EXIT_FAILURE, "receive: %s", strerror(-result));
    if (result == 0)
        server->done = true; /* the client has gone, then the owner */
    stream->receiving = false;
    stream->received_bytes += (size_t)result;
    while ((size = take_message(server, index, stream->received + taken,
                                stream->received_bytes - taken)) > 0)
        taken += size;
    stream->received_bytes -= taken;
    memmove(stream->received, stream->received + taken, stream->received_bytes);
}

/* Appends all that is not batched yet. The slots of a batch are neighbours, so it has at most three
 * parts. */
static void log_write(struct server *server)
{
    struct log *log = &server->log;
    uint64_t first = log->batched_seq + 1;
    unsigned count = (unsigned)(server->newest_seq - log->batched_seq), parts = 1;
    struct record *records = (struct record *)log->header;

    if (log->writing || count == 0)
        return;
    assert(count * sizeof(struct record) <= BLOCK_SIZE);
    for (unsigned i = 0; i < count; i++)
        records[i] = slot_of(server, first + i)->record;
    log->parts[0] = (struct iovec){.iov_base = log->header, .iov_len = BLOCK_SIZE};
    for (unsigned i = 0, run; i < count; i += run) {
        unsigned to_end = SLOTS - (unsigned)((first + i) % SLOTS);

        run = MIN(count - i, to_end);
        log->parts[parts++] = (struct iovec){.iov_base = block_of(server, first + i),
                                             .iov_len = (size_t)run * BLOCK_SIZE};
    }

    uint64_t bytes = (uint64_t)(1 + count) * BLOCK_SIZE;
    if (log->tail_bytes + bytes > log->size_bytes)
        log->tail_bytes = 0;
    struct io_uring_sqe *sqe = next_sqe(server);
    io_uring_prep_writev2(sqe, log->fd, log->parts, parts, log->tail_bytes, RWF_DSYNC);
    sqe->user_data = EVENT_TAG(EVENT_LOG, count);
    log->tail_bytes += bytes;
    log->batched_seq = server->newest_seq;
    log->writing = true;
}

static void log_on_written(struct log *log, unsigned count, int result)
{
    if (result != (int)((1 + count) * BLOCK_SIZE))
        errx(EXIT_FAILURE, "log write: %s", result < 0 ? strerror(-result) : "short");
    log->writing = false;
    log->durable_seq = log->batched_seq;
}

static void owner_answer(struct server *server)
{
    uint64_t committed = server->log.durable_seq;

    for (unsigned i = 1; i <= REPLICAS; i++)
        committed = MIN(committed, server->acked_seq[i]);
    while (server->answered_seq < committed) {
        struct slot *slot = slot_of(server, ++server->answered_seq);

        stream_add(&server->streams[0], &slot->reply, sizeof(slot->reply));
    }
}

static void replica_answer(struct server *server)
{
    struct slot *slot = slot_of(server, server->log.durable_seq);

    if (server->answered_seq == server->log.durable_seq)
        return;
    slot->ack.seq = server->log.durable_seq;
    stream_add(&server->streams[0], &slot->ack, sizeof(slot->ack));
    server->answered_seq = server->log.durable_seq;
}

static void server_on_event(struct server *server, uint64_t tag, int result)
{
    unsigned index = (unsigned)tag;

    switch ((enum event)(tag >> 32)) {
    case EVENT_RECEIVE:
        stream_on_received(server, index, result);
        break;
    case EVENT_SEND:
        stream_on_sent(&server->streams[index], result);
        break;
    case EVENT_LOG:
        log_on_written(&server->log, index, result);
        break;
    case EVENT_READ:
        owner_on_read(server, index, result);
        break;
    }
}

/* One turn: all completions, then what follows from them; peers are sent to before the local log
 * write. */
static void server_turn(struct server *server)
{
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;

    io_uring_for_each_cqe(&server->ring, head, cqe)
    {
        server_on_event(server, cqe->user_data, cqe->res);
        count++;
    }
    io_uring_cq_advance(&server->ring, count);

    if (is_owner(server))
        owner_answer(server);
    else
        replica_answer(server);
    for (unsigned i = server->stream_count; i-- > 0;)
        stream_send(server, i);
    log_write(server);
    for (unsigned i = 0; i < server->stream_count; i++)
        stream_receive(server, i);
}

void server_run(const char *log_path, const int *fds, unsigned fd_count)
{
    struct server *server = allocate(ALIGN_UP(sizeof(*server), BLOCK_SIZE));
    struct io_uring_params params = {.flags =
                                         IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    struct stat status;
    int r;

    server->log.fd = open(log_path, O_RDWR | O_DIRECT | O_CLOEXEC);
    die_unless(server->log.fd >= 0 && fstat(server->log.fd, &status) == 0, log_path);
    server->log.size_bytes = (uint64_t)status.st_size;
    server->log.header = allocate(BLOCK_SIZE);
    server->blocks = allocate(SLOTS * BLOCK_SIZE);
    server->read_blocks = allocate(SLOTS * BLOCK_SIZE);
    server->stream_count = fd_count;
    for (unsigned i = 0; i < fd_count; i++) {
        server->streams[i].fd = fds[i];
        server->streams[i].received = allocate(RECEIVE_BYTES);
    }
    r = io_uring_queue_init_params(RING_ENTRIES, &server->ring, &params);
    if (r < 0)
        errx(EXIT_FAILURE, "io_uring_setup: %s", strerror(-r));

    while (!server->done) {
        server_turn(server);
        r = io_uring_submit_and_wait(&server->ring, 1);
        if (r < 0 && r != -EINTR)
            errx(EXIT_FAILURE, "io_uring_enter: %s", strerror(-r));
    }
    exit(EXIT_SUCCESS);
}
