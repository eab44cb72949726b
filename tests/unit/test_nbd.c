/* The NBD server as a client sees it: a plain client, on the same loop, over a Unix socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "csv-export/nbd_protocol.h"
#include "s2d/base/io.h"
#include "tests/unit/nbd_ram.h"

#define DISK_BYTES (40 * MIB)
#define MARKER 0x5a

/* ---- a client ---- */

static uint64_t get_be(const uint8_t *bytes, size_t length)
{
    uint64_t value = 0;

    for (size_t i = 0; i < length; i++)
        value = value << 8 | bytes[i];
    return value;
}

static void put_be(uint8_t *bytes, size_t length, uint64_t value)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = value >> (8 * (length - 1 - i));
}

struct client {
    struct io_stream *stream;
    bool structured;
};

static void co_send(struct client *client, const void *bytes, size_t length)
{
    assert_int_equal(co_io_send(client->stream, bytes, length), 0);
}

static void co_recv(struct client *client, void *bytes, size_t length)
{
    assert_int_equal(co_io_recv_all(client->stream, bytes, length), 0);
}

static void co_client_open(struct client *client, struct io *io, const char *address)
{
    uint8_t hello[NBD_HELLO_BYTES], flags[4] = {0, 0, 0, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES};

    *client = (struct client){0};
    assert_int_equal(co_io_connect(io, address, SEC, &client->stream), 0);
    co_recv(client, hello, sizeof(hello));
    assert_memory_equal(hello, "NBDMAGICIHAVEOPT", 16);
    co_send(client, flags, sizeof(flags));
}

static void co_send_option(struct client *client, uint32_t option, const void *data, size_t length)
{
    uint8_t header[NBD_OPTION_BYTES] = "IHAVEOPT";

    put_be(header + 8, 4, option);
    put_be(header + 12, 4, length);
    co_send(client, header, sizeof(header));
    if (length > 0)
        co_send(client, data, length);
}

struct option_reply {
    uint32_t type, length;
    uint8_t data[4096 + 64];
};

static void co_recv_option_reply(struct client *client, uint32_t option, struct option_reply *reply)
{
    uint8_t header[NBD_OPTION_REPLY_BYTES];

    co_recv(client, header, sizeof(header));
    assert_int_equal(get_be(header, 8), 0x0003e889045565a9);
    assert_int_equal(get_be(header + 8, 4), option);
    reply->type = get_be(header + 12, 4);
    reply->length = get_be(header + 16, 4);
    assert_true(reply->length <= sizeof(reply->data));
    co_recv(client, reply->data, reply->length);
}

static void co_expect_option(struct client *client, uint32_t option, const void *data,
                             size_t length, uint32_t type)
{
    struct option_reply reply;

    co_send_option(client, option, data, length);
    co_recv_option_reply(client, option, &reply);
    assert_int_equal(reply.type, type);
}

static size_t info_request(uint8_t *data, const char *name)
{
    size_t length = strlen(name);

    put_be(data, 4, length);
    memcpy(data + 4, name, length);
    put_be(data + 4 + length, 2, 0);
    return length + 6;
}

static size_t context_request(uint8_t *data, const char *name)
{
    size_t length = strlen(name), context = strlen(NBD_CONTEXT_ALLOCATION);

    put_be(data, 4, length);
    memcpy(data + 4, name, length);
    put_be(data + 4 + length, 4, 1);
    put_be(data + 8 + length, 4, context);
    memcpy(data + 12 + length, NBD_CONTEXT_ALLOCATION, context);
    return 12 + length + context;
}

/* Opens an export; returns the type of the last answer, and what it learnt. */
static uint32_t co_go(struct client *client, uint32_t option, const char *name,
                      struct nbd_export_info *ret_info)
{
    struct option_reply reply;
    uint8_t data[256];

    co_send_option(client, option, data, info_request(data, name));
    for (;;) {
        co_recv_option_reply(client, option, &reply);
        if (reply.type != NBD_REP_INFO)
            return reply.type;
        if (get_be(reply.data, 2) == NBD_INFO_EXPORT) {
            ret_info->size_bytes = get_be(reply.data + 2, 8);
            ret_info->flags = get_be(reply.data + 10, 2);
        } else if (get_be(reply.data, 2) == NBD_INFO_BLOCK_SIZE) {
            ret_info->block_min = get_be(reply.data + 2, 4);
            ret_info->block_preferred = get_be(reply.data + 6, 4);
            ret_info->block_max = get_be(reply.data + 10, 4);
        }
    }
}

static void co_client_connect(struct client *client, struct io *io, const char *address,
                              const char *name, bool structured)
{
    struct nbd_export_info info;
    struct option_reply reply;
    uint8_t data[256];

    co_client_open(client, io, address);
    client->structured = structured;
    if (structured) {
        co_expect_option(client, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
        co_expect_option(client, NBD_OPT_SET_META_CONTEXT, data, context_request(data, name),
                         NBD_REP_META_CONTEXT);
        co_recv_option_reply(client, NBD_OPT_SET_META_CONTEXT, &reply);
        assert_int_equal(reply.type, NBD_REP_ACK);
    }
    assert_int_equal(co_go(client, NBD_OPT_GO, name, &info), NBD_REP_ACK);
}

static void client_close(struct client *client)
{
    io_stream_close(client->stream);
    client->stream = NULL;
}

static void co_send_request(struct client *client, uint16_t command, uint16_t flags,
                            uint64_t cookie, uint64_t offset, uint32_t length)
{
    uint8_t bytes[NBD_REQUEST_BYTES];

    put_be(bytes, 4, 0x25609513);
    put_be(bytes + 4, 2, flags);
    put_be(bytes + 6, 2, command);
    put_be(bytes + 8, 8, cookie);
    put_be(bytes + 16, 8, offset);
    put_be(bytes + 24, 4, length);
    co_send(client, bytes, sizeof(bytes));
}

/* A simple reply: the error, and the data of a read when there is none. */
static uint32_t co_recv_simple(struct client *client, uint64_t *ret_cookie, void *data,
                               size_t length)
{
    uint8_t bytes[NBD_SIMPLE_REPLY_BYTES];
    uint32_t error;

    co_recv(client, bytes, sizeof(bytes));
    assert_int_equal(get_be(bytes, 4), 0x67446698);
    error = get_be(bytes + 4, 4);
    *ret_cookie = get_be(bytes + 8, 8);
    if (error == 0 && length > 0)
        co_recv(client, data, length);
    return error;
}

/* A structured reply up to its end; data chunks land at their offset less `base`. */
static uint32_t co_recv_chunks(struct client *client, uint64_t cookie, uint64_t base, uint8_t *data,
                               size_t length, size_t *ret_got)
{
    uint32_t error = 0;
    bool done = false;

    *ret_got = 0;
    while (!done) {
        uint8_t header[NBD_CHUNK_BYTES], rest[8 + 256];
        uint32_t type, bytes;

        co_recv(client, header, sizeof(header));
        assert_int_equal(get_be(header, 4), 0x668e33ef);
        assert_int_equal(get_be(header + 8, 8), cookie);
        done = get_be(header + 4, 2) & NBD_CHUNK_DONE;
        type = get_be(header + 6, 2);
        bytes = get_be(header + 16, 4);
        if (type == NBD_CHUNK_OFFSET_DATA) {
            uint64_t offset;

            co_recv(client, rest, 8);
            offset = get_be(rest, 8) - base;
            assert_true(offset + bytes - 8 <= length);
            co_recv(client, data + offset, bytes - 8);
            *ret_got += bytes - 8;
        } else if (type == NBD_CHUNK_BLOCK_STATUS) {
            co_recv(client, rest, 4);
            assert_int_equal(get_be(rest, 4), NBD_CONTEXT_ALLOCATION_ID);
            assert_true(bytes - 4 <= length);
            co_recv(client, data, bytes - 4);
            *ret_got = bytes - 4;
        } else {
            assert_true(type == NBD_CHUNK_ERROR || type == NBD_CHUNK_NONE);
            assert_true(bytes <= sizeof(rest));
            co_recv(client, rest, bytes);
            if (type == NBD_CHUNK_ERROR)
                error = get_be(rest, 4);
        }
    }
    return error;
}

static uint32_t co_read(struct client *client, uint64_t offset, void *data, uint32_t length)
{
    uint64_t cookie = offset ^ length;
    uint32_t error;
    size_t got;

    co_send_request(client, NBD_CMD_READ, 0, cookie, offset, length);
    if (client->structured) {
        error = co_recv_chunks(client, cookie, offset, data, length, &got);
        assert_true(error != 0 || got == length);
        return error;
    }
    error = co_recv_simple(client, &cookie, data, length);
    assert_int_equal(cookie, offset ^ length);
    return error;
}

static uint32_t co_write(struct client *client, uint64_t offset, const void *data, uint32_t length)
{
    uint64_t cookie;
    uint32_t error;

    co_send_request(client, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 77, offset, length);
    co_send(client, data, length);
    error = co_recv_simple(client, &cookie, NULL, 0);
    assert_int_equal(cookie, 77);
    return error;
}

static uint32_t co_command(struct client *client, uint16_t command, uint16_t flags, uint64_t offset,
                           uint32_t length)
{
    uint64_t cookie;

    co_send_request(client, command, flags, 5, offset, length);
    return co_recv_simple(client, &cookie, NULL, 0);
}

/* ---- the world of a test ---- */

struct world {
    struct io *io;
    struct nbd_ram ram;
    struct nbd_ram_disk *disk;
    struct nbd_server *server;
    char directory[64], address[128];
    void (*body)(struct world *world);
    struct client client;
};

static void co_world_main(void *arg)
{
    struct world *world = arg;
    struct nbd_server_options options = {.address = world->address};

    assert_int_equal(co_nbd_server_open(world->io, &world->ram.backend, &options, &world->server),
                     0);
    world->body(world);
    co_nbd_server_close(world->server);
    io_stop(world->io);
}

static void run(void (*body)(struct world *world))
{
    struct world *world = calloc(1, sizeof(*world));

    world->body = body;
    strcpy(world->directory, "/tmp/test_nbd.XXXXXX");
    assert_non_null(mkdtemp(world->directory));
    snprintf(world->address, sizeof(world->address), "unix:%s/nbd.sock", world->directory);
    nbd_ram_init(&world->ram);
    world->disk = nbd_ram_add(&world->ram, "v/disk", DISK_BYTES);
    nbd_ram_add(&world->ram, "v/fixed", MIB)->read_only = true;
    nbd_ram_add(&world->ram, "v/busy", MIB)->refused = true;
    nbd_ram_add(&world->ram, "v/odd", 1000001);
    assert_int_equal(io_uring_new(NULL, &world->io), 0);
    assert_int_equal(co_spawn(world->io, "test", co_world_main, world), 0);
    io_run(world->io);
    io_free(world->io);
    nbd_ram_done(&world->ram);
    assert_int_equal(rmdir(world->directory), 0); /* the socket is gone */
    free(world);
}

static void connect_to(struct world *world, const char *name, bool structured)
{
    co_client_connect(&world->client, world->io, world->address, name, structured);
}

static void fill(uint8_t *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (i * 31 + (i >> 12) * 7 + seed) ^ (i >> 20);
}

/* ---- tests ---- */

static void negotiation(struct world *world)
{
    struct nbd_export_info info = {0};
    struct option_reply reply;
    struct client *client = &world->client;
    const char *names[] = {"v/disk", "v/fixed", "v/busy", "v/odd"};

    co_client_open(client, world->io, world->address);
    co_expect_option(client, 5 /* TLS */, NULL, 0, NBD_REP_ERR_UNSUP);
    co_expect_option(client, NBD_OPT_INFO, "xx", 2, NBD_REP_ERR_INVALID);
    co_send_option(client, NBD_OPT_LIST, NULL, 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        co_recv_option_reply(client, NBD_OPT_LIST, &reply);
        assert_int_equal(reply.type, NBD_REP_SERVER);
        assert_int_equal(get_be(reply.data, 4), strlen(names[i]));
        assert_memory_equal(reply.data + 4, names[i], strlen(names[i]));
    }
    co_recv_option_reply(client, NBD_OPT_LIST, &reply);
    assert_int_equal(reply.type, NBD_REP_ACK);

    assert_int_equal(co_go(client, NBD_OPT_GO, "v/none", &info), NBD_REP_ERR_UNKNOWN);
    assert_int_equal(co_go(client, NBD_OPT_GO, "v/busy", &info), NBD_REP_ERR_POLICY);
    assert_int_equal(co_go(client, NBD_OPT_INFO, "v/odd", &info), NBD_REP_ACK);
    assert_int_equal(info.size_bytes, 1000001);
    assert_int_equal(info.block_min, 1);
    assert_int_equal(co_go(client, NBD_OPT_INFO, "v/fixed", &info), NBD_REP_ACK);
    assert_true(info.flags & NBD_READ_ONLY);
    assert_false(info.flags & NBD_SEND_TRIM);
    assert_int_equal(world->disk->open_count, 0);

    assert_int_equal(co_go(client, NBD_OPT_GO, "v/disk", &info), NBD_REP_ACK);
    assert_int_equal(info.size_bytes, DISK_BYTES);
    assert_int_equal(info.block_min, 512);
    assert_int_equal(info.block_preferred, 4096);
    assert_int_equal(info.block_max, 32 * MIB);
    assert_int_equal(info.flags, NBD_HAS_FLAGS | NBD_SEND_FLUSH | NBD_SEND_FUA | NBD_SEND_TRIM |
                                     NBD_SEND_WRITE_ZEROES | NBD_CAN_MULTI_CONN | NBD_SEND_CACHE |
                                     NBD_SEND_FAST_ZERO);
    assert_int_equal(world->disk->open_count, 1);
    client_close(client);
}

static void test_negotiation(void **state)
{
    (void)state;
    run(negotiation);
}

/* Old clients do not know NBD_OPT_GO. */
static void export_name(struct world *world)
{
    struct client *client = &world->client;
    uint8_t reply[NBD_EXPORT_NAME_SHORT_BYTES];

    co_client_open(client, world->io, world->address);
    co_send_option(client, NBD_OPT_EXPORT_NAME, "v/disk", 6);
    co_recv(client, reply, sizeof(reply));
    assert_int_equal(get_be(reply, 8), DISK_BYTES);
    assert_int_equal(co_command(client, NBD_CMD_FLUSH, 0, 0, 0), 0);
    client_close(client);

    co_client_open(client, world->io, world->address);
    co_send_option(client, NBD_OPT_EXPORT_NAME, "v/none", 6);
    assert_int_equal(co_io_recv_all(client->stream, reply, 1), -ECONNRESET);
    client_close(client);
}

static void test_export_name(void **state)
{
    (void)state;
    run(export_name);
}

/* Sizes on both sides of each path's border: copied, received in place, cut into parts. */
static void write_then_read(struct world *world, bool structured)
{
    static const struct {
        uint64_t offset;
        uint32_t length;
    } ranges[] = {{0, 512},
                  {4096 - 512, 1024},
                  {MIB - 512, 4096},
                  {3 * 512, 31 * 1024},
                  {8192, 32 * 1024},
                  {512, 256 * 1024},
                  {MIB + 512, MIB},
                  {5 * MIB - 4096, MIB + 512},
                  {2 * MIB + 512, 32 * MIB},
                  {DISK_BYTES - 512, 512}};
    uint8_t *model = calloc(1, DISK_BYTES), *data = malloc(32 * MIB);

    connect_to(world, "v/disk", structured);
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        fill(data, ranges[i].length, i);
        memcpy(model + ranges[i].offset, data, ranges[i].length);
        assert_int_equal(co_write(&world->client, ranges[i].offset, data, ranges[i].length), 0);
        memset(data, MARKER, ranges[i].length);
        assert_int_equal(co_read(&world->client, ranges[i].offset, data, ranges[i].length), 0);
        assert_memory_equal(data, model + ranges[i].offset, ranges[i].length);
    }
    assert_memory_equal(world->disk->bytes, model, DISK_BYTES);
    client_close(&world->client);
    free(model);
    free(data);
}

static void write_then_read_structured(struct world *world)
{
    write_then_read(world, true);
}

static void write_then_read_simple(struct world *world)
{
    write_then_read(world, false);
}

static void test_write_then_read(void **state)
{
    (void)state;
    run(write_then_read_structured);
    run(write_then_read_simple);
}

/* Every refused request leaves the connection in step: the next one is understood. */
static void refusals(struct world *world)
{
    struct client *client = &world->client;
    static uint8_t data[64 * 1024];

    connect_to(world, "v/disk", false);
    assert_int_equal(co_write(client, DISK_BYTES - 512, data, 1024), 28);
    assert_int_equal(co_write(client, 1, data, 512), 22);
    assert_int_equal(co_write(client, 0, data, sizeof(data) - 1), 22);
    assert_int_equal(co_read(client, DISK_BYTES, data, 512), 22);
    assert_int_equal(co_read(client, UINT64_MAX - 511, data, 512), 22);
    assert_int_equal(co_read(client, 0, data, 33 * MIB), 22);
    assert_int_equal(co_read(client, 0, data, 0), 22);
    assert_int_equal(co_command(client, 99, 0, 0, 512), 22);
    assert_int_equal(co_command(client, NBD_CMD_FLUSH, 1u << 9, 0, 0), 22);
    assert_int_equal(co_command(client, NBD_CMD_BLOCK_STATUS, 0, 0, 512), 22);
    world->ram.fail = -ENOSPC;
    assert_int_equal(co_write(client, 0, data, 512), 28);
    assert_int_equal(co_write(client, 0, data, sizeof(data)), 28);
    world->ram.fail = -EIO;
    assert_int_equal(co_read(client, 0, data, 512), 5);
    assert_int_equal(co_command(client, NBD_CMD_TRIM, 0, 0, 4096), 5);
    world->ram.fail = -EBADMSG; /* has no name in NBD */
    assert_int_equal(co_read(client, 0, data, 512), 5);
    world->ram.fail = 0;
    assert_int_equal(co_write(client, 0, data, 512), 0);
    client_close(client);

    connect_to(world, "v/fixed", true);
    assert_int_equal(co_write(client, 0, data, 512), 1);
    assert_int_equal(co_command(client, NBD_CMD_WRITE_ZEROES, 0, 0, 512), 1);
    world->ram.fail = -EIO;
    assert_int_equal(co_read(client, 0, data, 512), 5);
    world->ram.fail = 0;
    assert_int_equal(co_read(client, 0, data, 512), 0);
    client_close(client);
}

static void test_refusals(void **state)
{
    (void)state;
    run(refusals);
}

/* One part of many fails: the request fails, once, and the connection goes on. */
static void part_fails(struct world *world)
{
    struct client *client = &world->client;
    uint8_t *data = calloc(1, 8 * MIB), reply[1];

    connect_to(world, "v/disk", true);
    world->ram.fail = -EIO;
    world->ram.fail_from = world->ram.requests + 3;
    assert_int_equal(co_write(client, 512, data, 8 * MIB), 5);
    world->ram.fail_from = world->ram.requests + 3;
    assert_int_equal(co_read(client, 512, data, 8 * MIB), 5);
    world->ram.fail = 0;
    assert_int_equal(co_read(client, 512, data, 8 * MIB), 0);
    client_close(client);

    /* A simple reply cannot take back the header it sent: the connection ends. */
    connect_to(world, "v/disk", false);
    world->ram.fail = -EIO;
    world->ram.fail_from = world->ram.requests + 3;
    co_send_request(client, NBD_CMD_READ, 0, 1, 0, 4 * MIB);
    co_recv(client, data, NBD_SIMPLE_REPLY_BYTES + 2 * MIB);
    assert_int_equal(co_io_recv_all(client->stream, reply, 1), -ECONNRESET);
    client_close(client);
    free(data);
}

static void test_part_fails(void **state)
{
    (void)state;
    run(part_fails);
}

static void expect_extents(struct client *client, uint16_t flags, uint64_t offset, uint32_t length,
                           const uint32_t *expected, size_t count)
{
    uint8_t data[4096];
    size_t got;

    co_send_request(client, NBD_CMD_BLOCK_STATUS, flags, 3, offset, length);
    assert_int_equal(co_recv_chunks(client, 3, 0, data, sizeof(data), &got), 0);
    assert_int_equal(got, count * NBD_EXTENT_BYTES);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(get_be(data + 8 * i, 4), expected[2 * i]);
        assert_int_equal(get_be(data + 8 * i + 4, 4), expected[2 * i + 1]);
    }
}

static void zeroes_and_status(struct world *world)
{
    static const uint32_t hole = NBD_EXTENT_HOLE | NBD_EXTENT_ZERO;
    struct client *client = &world->client;
    static uint8_t data[16 * 4096], zeros[16 * 4096];

    connect_to(world, "v/disk", true);
    fill(data, sizeof(data), 1);
    assert_int_equal(co_write(client, 4096, data, sizeof(data)), 0);
    expect_extents(client, 0, 0, MIB, (uint32_t[]){4096, hole, 16 * 4096, 0, MIB - 17 * 4096, hole},
                   3);
    expect_extents(client, NBD_CMD_FLAG_REQ_ONE, 4608, MIB, (uint32_t[]){16 * 4096 - 512, 0}, 1);
    assert_int_equal(co_command(client, NBD_CMD_TRIM, 0, 8192, 8192), 0);
    expect_extents(client, 0, 4096, 4 * 4096, (uint32_t[]){4096, 0, 8192, hole, 4096, 0}, 3);
    assert_int_equal(co_command(client, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 8192, 8192), 0);
    expect_extents(client, 0, 4096, 4 * 4096, (uint32_t[]){4 * 4096, 0}, 1);
    assert_int_equal(
        co_command(client, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 4096, sizeof(data)), 0);
    assert_int_equal(co_command(client, NBD_CMD_WRITE_ZEROES,
                                NBD_CMD_FLAG_FAST_ZERO | NBD_CMD_FLAG_NO_HOLE, 0, 4096),
                     95);
    assert_int_equal(co_read(client, 4096, data, sizeof(data)), 0);
    assert_memory_equal(data, zeros, sizeof(data));
    assert_int_equal(co_command(client, NBD_CMD_CACHE, 0, 0, MIB), 0);
    client_close(client);
}

static void test_zeroes_and_status(void **state)
{
    (void)state;
    run(zeroes_and_status);
}

static void dont_fragment(struct world *world)
{
    struct client *client = &world->client;
    uint8_t *data = malloc(2 * MIB);
    size_t got;

    connect_to(world, "v/disk", true);
    co_send_request(client, NBD_CMD_READ, NBD_CMD_FLAG_DF, 1, 512, MIB);
    assert_int_equal(co_recv_chunks(client, 1, 512, data, MIB, &got), 0);
    assert_int_equal(got, MIB);
    co_send_request(client, NBD_CMD_READ, NBD_CMD_FLAG_DF, 2, 0, MIB + 512);
    assert_int_equal(co_recv_chunks(client, 2, 0, data, 2 * MIB, &got), 75);
    client_close(client);
    free(data);
}

static void test_dont_fragment(void **state)
{
    (void)state;
    run(dont_fragment);
}

/* A request that waits for its backend holds up nobody else. */
static void overtaking(struct world *world)
{
    struct client *client = &world->client;
    static uint8_t data[4096];
    uint64_t cookie;

    connect_to(world, "v/disk", false);
    world->ram.hold = true;
    co_send_request(client, NBD_CMD_WRITE, 0, 1, 0, sizeof(data));
    co_send(client, data, sizeof(data));
    co_send_request(client, NBD_CMD_FLUSH, 0, 2, 0, 0);
    assert_int_equal(co_recv_simple(client, &cookie, NULL, 0), 0);
    assert_int_equal(cookie, 2);
    assert_int_equal(world->ram.waiting, 1);
    nbd_ram_release(&world->ram);
    assert_int_equal(co_recv_simple(client, &cookie, NULL, 0), 0);
    assert_int_equal(cookie, 1);
    client_close(client);
}

static void test_overtaking(void **state)
{
    (void)state;
    run(overtaking);
}

/* Far more requests than slots, sent by one coroutine while nobody reads the answers. */
#define MANY 2000

static void co_send_many(void *arg)
{
    struct world *world = arg;

    for (unsigned i = 0; i < MANY; i++)
        co_send_request(&world->client, NBD_CMD_READ, 0, i, (i % 1000) * 4096, 4096);
}

static void many_requests(struct world *world)
{
    static uint8_t data[4096];
    struct client other;
    struct co_group group;
    bool *seen = calloc(MANY, sizeof(bool));
    uint64_t cookie;

    connect_to(world, "v/disk", false);
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, world->io, "sender", co_send_many, world), 0);

    /* The one that does not read its answers is no harm to another. */
    co_client_connect(&other, world->io, world->address, "v/disk", true);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(co_read(&other, i * 512, data, 4096), 0);
    client_close(&other);

    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(co_recv_simple(&world->client, &cookie, data, sizeof(data)), 0);
        assert_true(cookie < MANY);
        assert_false(seen[cookie]);
        seen[cookie] = true;
    }
    co_group_wait(&group);
    client_close(&world->client);
    free(seen);
}

static void test_many_requests(void **state)
{
    (void)state;
    run(many_requests);
}

/* The server closes under a request: the client sees the end, never an error. */
static void co_close_server(void *arg)
{
    struct world *world = arg;

    co_nbd_server_close(world->server);
    world->server = NULL;
}

static void closing(struct world *world)
{
    static uint8_t data[4096];
    struct co_group group;

    connect_to(world, "v/disk", false);
    world->ram.hold = true;
    co_send_request(&world->client, NBD_CMD_READ, 0, 1, 0, 4096);
    while (world->ram.waiting == 0)
        co_cond_wait_always(&world->ram.held);
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, world->io, "closer", co_close_server, world), 0);
    assert_int_equal(co_io_recv_all(world->client.stream, data, 1), -ECONNRESET);
    assert_non_null(world->server); /* it waits for its backend */
    nbd_ram_release(&world->ram);
    co_group_wait(&group);
    assert_null(world->server);
    client_close(&world->client);
}

static void test_closing(void **state)
{
    (void)state;
    run(closing);
}

/* ---- bad clients ---- */

static void expect_hang_up(struct world *world, const void *bytes, size_t length)
{
    uint8_t rest[1];

    co_send(&world->client, bytes, length);
    assert_true(co_io_recv_all(world->client.stream, rest, 1) < 0);
    client_close(&world->client);
}

static void bad_clients(struct world *world)
{
    uint8_t option[NBD_OPTION_BYTES] = "IHAVEOPT", request[NBD_REQUEST_BYTES] = {0};
    struct client *client = &world->client;
    uint8_t hello[NBD_HELLO_BYTES];
    static uint8_t data[64 * 1024];

    /* flags that we never offered */
    assert_int_equal(co_io_connect(world->io, world->address, SEC, &client->stream), 0);
    co_recv(client, hello, sizeof(hello));
    expect_hang_up(world, "\xff\xff\xff\xff", 4);

    co_client_open(client, world->io, world->address);
    expect_hang_up(world, "0123456789abcdef", 16); /* no option */

    co_client_open(client, world->io, world->address);
    put_be(option + 8, 4, NBD_OPT_GO);
    put_be(option + 12, 4, NBD_OPTION_MAX + 1);
    expect_hang_up(world, option, sizeof(option));

    connect_to(world, "v/disk", true);
    expect_hang_up(world, request, sizeof(request)); /* no request */

    connect_to(world, "v/disk", false);
    put_be(request, 4, 0x25609513);
    put_be(request + 6, 2, NBD_CMD_WRITE);
    put_be(request + 24, 4, UINT32_MAX);
    expect_hang_up(world, request, sizeof(request)); /* 4 GiB of payload */

    /* leaves in the middle of a payload: small, in place, and cut into parts */
    for (uint32_t length = 4096; length <= 4 * MIB; length *= 32) {
        connect_to(world, "v/disk", false);
        co_send_request(client, NBD_CMD_WRITE, 0, 1, 0, length);
        co_send(client, data, MIN(length / 2, (uint32_t)sizeof(data)));
        client_close(client);
    }

    /* leaves without reading its answers */
    connect_to(world, "v/disk", true);
    for (unsigned i = 0; i < 64; i++)
        co_send_request(client, NBD_CMD_READ, 0, i, 0, MIB);
    client_close(client);

    /* and the others are served as ever */
    connect_to(world, "v/disk", true);
    assert_int_equal(co_write(client, 0, data, sizeof(data)), 0);
    client_close(client);
}

static void test_bad_clients(void **state)
{
    (void)state;
    run(bad_clients);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_negotiation),     cmocka_unit_test(test_export_name),
        cmocka_unit_test(test_write_then_read), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_part_fails),      cmocka_unit_test(test_zeroes_and_status),
        cmocka_unit_test(test_dont_fragment),   cmocka_unit_test(test_overtaking),
        cmocka_unit_test(test_many_requests),   cmocka_unit_test(test_closing),
        cmocka_unit_test(test_bad_clients),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
