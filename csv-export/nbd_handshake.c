/* Negotiation: options, until NBD_OPT_GO or NBD_OPT_EXPORT_NAME opens an export. */
#include <stdio.h>

#include "csv-export/nbd_connection.h"

/* A client that asks without end would keep its connection for ever. */
#define OPTIONS_MAX 1000

static int co_send_reply(struct nbd_connection *connection, uint32_t option, uint32_t type,
                         const void *data, uint32_t length)
{
    uint8_t header[NBD_OPTION_REPLY_BYTES];
    struct iovec iov[] = {{.iov_base = header, .iov_len = sizeof(header)},
                          {.iov_base = (void *)data, .iov_len = length}};

    nbd_put_option_reply(header, option, type, length);
    return co_io_sendv(connection->stream, iov, length > 0 ? 2 : 1);
}

static int co_send_error(struct nbd_connection *connection, uint32_t option, uint32_t type,
                         const char *message)
{
    return co_send_reply(connection, option, type, message, strlen(message));
}

static int co_refuse_open(struct nbd_connection *connection, uint32_t option, int error)
{
    switch (-error) {
    case EPERM:
    case EACCES:
    case EBUSY:
    case EROFS:
        return co_send_error(connection, option, NBD_REP_ERR_POLICY,
                             "in use by a virtual machine, or not allowed");
    default:
        return co_send_error(connection, option, NBD_REP_ERR_UNKNOWN, "no such export");
    }
}

/* Opens what the client named, and says what it is. */
static int co_open(struct nbd_connection *connection, struct nbd_string string, bool info_only)
{
    struct nbd_backend *backend = connection->server->backend;
    cleanup(freep) char *name = strndup(string.bytes ? string.bytes : "", string.length);
    struct nbd_file *file;
    int r;

    if (!name)
        return -ENOMEM;
    r = backend->ops->co_open(backend, name, info_only, &file);
    if (r < 0)
        return r;
    assert(file->block_min >= 1);
    assert(file->block_min <= BLOCK_SIZE);
    connection->file = file;
    connection->info = (struct nbd_export_info){
        .size_bytes = file->size_bytes,
        .flags = NBD_HAS_FLAGS | NBD_SEND_FLUSH | NBD_SEND_FUA | NBD_SEND_CACHE |
                 NBD_CAN_MULTI_CONN | (connection->structured ? NBD_SEND_DF : 0),
        .block_min = file->block_min,
        .block_preferred = BLOCK_SIZE,
        .block_max = NBD_LENGTH_MAX,
    };
    if (file->read_only)
        connection->info.flags |= NBD_READ_ONLY;
    else
        connection->info.flags |= NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES | NBD_SEND_FAST_ZERO;

    /* A context counts only for the export that it was chosen for. */
    if (!connection->context_name || strcmp(connection->context_name, name) != 0)
        connection->allocation_context = false;
    return 0;
}

static void co_close(struct nbd_connection *connection)
{
    connection->server->backend->ops->co_close(connection->file);
    connection->file = NULL;
}

static int co_send_info(struct nbd_connection *connection, uint32_t option,
                        const struct nbd_info_request *request)
{
    uint8_t export_bytes[NBD_INFO_EXPORT_BYTES], block_size[NBD_INFO_BLOCK_SIZE_BYTES];
    int r;

    if (request->wants_name) {
        uint8_t name[2 + NBD_NAME_MAX] = {0, NBD_INFO_NAME};

        memcpy(name + 2, request->name.bytes, request->name.length);
        r = co_send_reply(connection, option, NBD_REP_INFO, name, 2 + request->name.length);
        if (r < 0)
            return r;
    }
    nbd_put_info_block_size(block_size, &connection->info);
    r = co_send_reply(connection, option, NBD_REP_INFO, block_size, sizeof(block_size));
    if (r < 0)
        return r;
    nbd_put_info_export(export_bytes, &connection->info);
    r = co_send_reply(connection, option, NBD_REP_INFO, export_bytes, sizeof(export_bytes));
    if (r < 0)
        return r;
    return co_send_reply(connection, option, NBD_REP_ACK, NULL, 0);
}

static int co_info_or_go(struct nbd_connection *connection, const struct nbd_option_header *header,
                         const uint8_t *data)
{
    bool info_only = header->option == NBD_OPT_INFO;
    struct nbd_info_request request;
    int r;

    if (nbd_get_info_request(data, header->length, &request) < 0)
        return co_send_error(connection, header->option, NBD_REP_ERR_INVALID, "malformed request");
    r = co_open(connection, request.name, info_only);
    if (r < 0)
        return co_refuse_open(connection, header->option, r);
    r = co_send_info(connection, header->option, &request);
    if (info_only)
        co_close(connection);
    return r;
}

static int co_export_name(struct nbd_connection *connection, const uint8_t *data, uint32_t length,
                          bool zeroes)
{
    struct nbd_string name = {.bytes = (const char *)data, .length = length};
    uint8_t reply[NBD_EXPORT_NAME_BYTES];
    int r;

    /* This option has no way to say no, but to hang up. */
    r = nbd_check_name(name.bytes, name.length);
    if (r < 0)
        return r;
    r = co_open(connection, name, false);
    if (r < 0)
        return r;
    /* Nor to say what block size we insist on: the client may use any, and gets EINVAL. */
    nbd_put_export_name(reply, &connection->info);
    return co_io_send(connection->stream, reply,
                      zeroes ? NBD_EXPORT_NAME_BYTES : NBD_EXPORT_NAME_SHORT_BYTES);
}

static int co_emit_name(void *arg, const char *name)
{
    uint32_t length = strlen(name);
    cleanup(freep) uint8_t *data = malloc(4 + length);

    if (!data)
        return -ENOMEM;
    nbd_put_u32(data, length);
    memcpy(data + 4, name, length);
    return co_send_reply(arg, NBD_OPT_LIST, NBD_REP_SERVER, data, 4 + length);
}

static int co_list(struct nbd_connection *connection, const struct nbd_option_header *header)
{
    struct nbd_backend *backend = connection->server->backend;
    int r;

    if (header->length != 0)
        return co_send_error(connection, header->option, NBD_REP_ERR_INVALID, "unexpected data");
    r = backend->ops->co_list(backend, co_emit_name, connection);
    if (r < 0)
        return r;
    return co_send_reply(connection, header->option, NBD_REP_ACK, NULL, 0);
}

static int co_structured_reply(struct nbd_connection *connection,
                               const struct nbd_option_header *header)
{
    if (header->length != 0)
        return co_send_error(connection, header->option, NBD_REP_ERR_INVALID, "unexpected data");
    connection->structured = true;
    return co_send_reply(connection, header->option, NBD_REP_ACK, NULL, 0);
}

static int set_context(struct nbd_connection *connection, const struct nbd_meta_request *request)
{
    char *name = strndup(request->name.bytes ? request->name.bytes : "", request->name.length);

    if (!name)
        return -ENOMEM;
    free(connection->context_name);
    connection->context_name = name;
    connection->allocation_context = request->allocation;
    return 0;
}

static int co_meta_context(struct nbd_connection *connection,
                           const struct nbd_option_header *header, const uint8_t *data)
{
    bool list = header->option == NBD_OPT_LIST_META_CONTEXT;
    uint8_t context[NBD_META_CONTEXT_BYTES];
    struct nbd_meta_request request;
    int r;

    if (!connection->structured)
        return co_send_error(connection, header->option, NBD_REP_ERR_INVALID,
                             "structured replies come first");
    if (nbd_get_meta_request(data, header->length, list, &request) < 0)
        return co_send_error(connection, header->option, NBD_REP_ERR_INVALID, "malformed request");
    if (!list) {
        r = set_context(connection, &request);
        if (r < 0)
            return r;
    }
    if (request.allocation) {
        nbd_put_meta_context(context, list ? 0 : NBD_CONTEXT_ALLOCATION_ID);
        r = co_send_reply(connection, header->option, NBD_REP_META_CONTEXT, context,
                          sizeof(context));
        if (r < 0)
            return r;
    }
    return co_send_reply(connection, header->option, NBD_REP_ACK, NULL, 0);
}

/* Answers one option whose data is at `data`. -ECONNRESET: the client said good-bye. */
static int co_option(struct nbd_connection *connection, const struct nbd_option_header *header,
                     const uint8_t *data, bool zeroes)
{
    switch (header->option) {
    case NBD_OPT_EXPORT_NAME:
        return co_export_name(connection, data, header->length, zeroes);
    case NBD_OPT_ABORT:
        (void)!co_send_reply(connection, header->option, NBD_REP_ACK, NULL, 0);
        return -ECONNRESET;
    case NBD_OPT_LIST:
        return co_list(connection, header);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return co_info_or_go(connection, header, data);
    case NBD_OPT_STRUCTURED_REPLY:
        return co_structured_reply(connection, header);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return co_meta_context(connection, header, data);
    default:
        return co_send_error(connection, header->option, NBD_REP_ERR_UNSUP, "unknown option");
    }
}

static int co_next_option(struct nbd_connection *connection, bool zeroes)
{
    struct nbd_option_header header;
    const uint8_t *bytes;
    int r;

    r = co_nbd_peek(connection, NBD_OPTION_BYTES, &bytes);
    if (r < 0)
        return r;
    r = nbd_get_option(bytes, &header);
    if (r < 0)
        return r;
    nbd_consume(connection, NBD_OPTION_BYTES);
    r = co_nbd_peek(connection, header.length, &bytes);
    if (r < 0)
        return r;
    r = co_option(connection, &header, bytes, zeroes);
    nbd_consume(connection, header.length);
    return r;
}

int co_nbd_handshake(struct nbd_connection *connection)
{
    uint8_t hello[NBD_HELLO_BYTES];
    const uint8_t *bytes;
    bool zeroes;
    int r;

    nbd_put_hello(hello);
    r = co_io_send(connection->stream, hello, sizeof(hello));
    if (r < 0)
        return r;
    r = co_nbd_peek(connection, NBD_CLIENT_FLAGS_BYTES, &bytes);
    if (r < 0)
        return r;
    r = nbd_get_client_flags(bytes, &zeroes);
    if (r < 0)
        return r;
    nbd_consume(connection, NBD_CLIENT_FLAGS_BYTES);

    for (unsigned i = 0; i < OPTIONS_MAX; i++) {
        r = co_next_option(connection, zeroes);
        if (r < 0)
            return r;
        if (connection->file)
            return 0;
    }
    return -EPROTO;
}
