#include "tests/sim/sim_nbd.h"

#define REQUEST_MAGIC 0x25609513
#define SIMPLE_REPLY_MAGIC 0x67446698
#define INFO_MAX 512

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
        bytes[i] = (uint8_t)(value >> (8 * (length - 1 - i)));
}

/* ---- the handshake ---- */

static int co_greet(struct sim_nbd *nbd)
{
    uint8_t hello[NBD_HELLO_BYTES], flags[4] = {0, 0, 0, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES};
    int r = co_io_recv_all(nbd->stream, hello, sizeof(hello));

    if (r == 0 && memcmp(hello, "NBDMAGICIHAVEOPT", 16) != 0)
        r = -EPROTO;
    return r == 0 ? co_io_send(nbd->stream, flags, sizeof(flags)) : r;
}

static int co_send_go(struct sim_nbd *nbd, const char *export_name)
{
    uint8_t option[NBD_OPTION_BYTES + NBD_NAME_MAX + 6] = "IHAVEOPT";
    size_t length = strlen(export_name);

    if (length > NBD_NAME_MAX)
        return -EINVAL;
    put_be(option + 8, 4, NBD_OPT_GO);
    put_be(option + 12, 4, length + 6);
    put_be(option + 16, 4, length);
    memcpy(option + 20, export_name, length);
    put_be(option + 20 + length, 2, 0);
    return co_io_send(nbd->stream, option, NBD_OPTION_BYTES + length + 6);
}

/* Returns 0 when the export is chosen, 1 when there is more to come. */
static int co_take_go_reply(struct sim_nbd *nbd)
{
    uint8_t header[NBD_OPTION_REPLY_BYTES], data[INFO_MAX];
    uint64_t type, length;
    int r = co_io_recv_all(nbd->stream, header, sizeof(header));

    if (r < 0)
        return r;
    type = get_be(header + 12, 4);
    length = get_be(header + 16, 4);
    if (length > sizeof(data))
        return -EPROTO;
    r = length > 0 ? co_io_recv_all(nbd->stream, data, length) : 0;
    if (r < 0 || type == NBD_REP_ACK)
        return r;
    if (type != NBD_REP_INFO)
        return -EPERM;
    if (get_be(data, 2) == NBD_INFO_EXPORT)
        nbd->size_bytes = get_be(data + 2, 8);
    return 1;
}

int co_sim_nbd_open(struct sim_nbd *nbd, struct io *io, const char *address,
                    const char *export_name)
{
    int r;

    assert(!nbd->stream);
    r = co_io_connect(io, address, SEC, &nbd->stream);
    if (r < 0)
        return r;
    r = co_greet(nbd);
    if (r == 0)
        r = co_send_go(nbd, export_name);
    if (r == 0) {
        do {
            r = co_take_go_reply(nbd);
        } while (r == 1);
    }
    if (r < 0)
        sim_nbd_close(nbd);
    return r;
}

void sim_nbd_close(struct sim_nbd *nbd)
{
    io_stream_close(nbd->stream);
    nbd->stream = NULL;
}

/* ---- requests ---- */

static int co_send_request(struct sim_nbd *nbd, enum nbd_command command, uint16_t flags,
                           uint64_t offset, const void *buffer, uint32_t length)
{
    uint8_t header[NBD_REQUEST_BYTES];
    int r;

    put_be(header, 4, REQUEST_MAGIC);
    put_be(header + 4, 2, flags);
    put_be(header + 6, 2, command);
    put_be(header + 8, 8, ++nbd->cookie);
    put_be(header + 16, 8, offset);
    put_be(header + 24, 4, length);
    r = co_io_send(nbd->stream, header, sizeof(header));
    return r == 0 && command == NBD_CMD_WRITE ? co_io_send(nbd->stream, buffer, length) : r;
}

/* Returns 0 or a negative errno of the connection; *ret_error: what was answered. */
static int co_take_reply(struct sim_nbd *nbd, void *read_buffer, uint32_t length, int *ret_error)
{
    uint8_t header[NBD_SIMPLE_REPLY_BYTES];
    int r = co_io_recv_all(nbd->stream, header, sizeof(header));

    if (r < 0)
        return r;
    if (get_be(header, 4) != SIMPLE_REPLY_MAGIC || get_be(header + 8, 8) != nbd->cookie)
        return -EPROTO;
    *ret_error = -(int)get_be(header + 4, 4); /* NBD's numbers are Linux's */
    return *ret_error == 0 && read_buffer ? co_io_recv_all(nbd->stream, read_buffer, length) : 0;
}

int co_sim_nbd_request(struct sim_nbd *nbd, enum nbd_command command, uint16_t flags,
                       uint64_t offset, void *buffer, uint32_t length)
{
    int error = 0;
    int r = co_send_request(nbd, command, flags, offset, buffer, length);

    if (r == 0)
        r = co_take_reply(nbd, command == NBD_CMD_READ ? buffer : NULL, length, &error);
    if (r < 0)
        sim_nbd_close(nbd);
    if (r < 0)
        return r == -ECANCELED ? r : -ECONNRESET;
    return error;
}
