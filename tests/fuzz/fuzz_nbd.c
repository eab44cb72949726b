/* What an NBD client may send: through the decoders, and through a whole server on a socket. The
 * first byte chooses how: bit 0: after a negotiation that went well, so that the input is requests;
 * bit 1: with structured replies; bit 2: and block status. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "csv-export/nbd_protocol.h"
#include "s2d/base/io.h"
#include "tests/unit/nbd_ram.h"

struct fuzz {
    struct io *io;
    struct nbd_ram ram;
    char address[64];
    const uint8_t *data;
    size_t size;
};

static const uint8_t greeting[] = {0, 0, 0, 3};
static const uint8_t structured[] = {'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T',
                                     0,   0,   0,   8,   0,   0,   0,   0};
static const uint8_t go[] = {'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0,   0,   0,   7, 0,
                             0,   0,   10,  0,   0,   0,   4,   'd', 'i', 's', 'k', 0, 0};

static const uint8_t context[] = {'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0,   0,   0,   10,
                                  0,   0,   0,   28,  0,   0,   0,   4,   'd', 'i', 's', 'k',
                                  0,   0,   0,   1,   0,   0,   0,   15,  'b', 'a', 's', 'e',
                                  ':', 'a', 'l', 'l', 'o', 'c', 'a', 't', 'i', 'o', 'n'};

static void decode(const uint8_t *data, size_t size)
{
    struct nbd_export_info info = {.size_bytes = MIB, .block_min = 512};
    struct nbd_info_request info_request;
    struct nbd_meta_request meta_request;
    struct nbd_request_header request;
    struct nbd_option_header option;
    bool zeroes;

    if (nbd_get_info_request(data, size, &info_request) == 0)
        assert(info_request.name.length <= size);
    if (nbd_get_meta_request(data, size, size & 1, &meta_request) == 0)
        assert(meta_request.name.length <= size);
    if (size >= NBD_CLIENT_FLAGS_BYTES)
        (void)!nbd_get_client_flags(data, &zeroes);
    if (size >= NBD_OPTION_BYTES && nbd_get_option(data, &option) == 0)
        assert(option.length <= NBD_OPTION_MAX);
    if (size < NBD_REQUEST_BYTES || nbd_get_request(data, &request) < 0)
        return;
    if (nbd_check_request(&request, &info, size & 1, size & 2) == 0 &&
        request.command != NBD_CMD_FLUSH && request.command != NBD_CMD_DISC) {
        assert(request.offset + request.length <= info.size_bytes);
        assert(request.length > 0);
    }
}

static void put(int fd, const void *bytes, size_t length)
{
    (void)!send(fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL); /* what does not fit is lost */
}

/* A client that has said all that it will ever say, and listens: if it left, the first answer that
 * could not be sent would end the connection, and nothing behind the negotiation were reached. */
static int client_new(const struct fuzz *fuzz)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    uint8_t mode = fuzz->data[0];

    strcpy(address.sun_path, fuzz->address + strlen("unix:"));
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        abort();
    if (mode & 1) {
        put(fd, greeting, sizeof(greeting));
        if (mode & 2)
            put(fd, structured, sizeof(structured));
        if ((mode & 6) == 6)
            put(fd, context, sizeof(context));
        put(fd, go, sizeof(go));
    }
    put(fd, fuzz->data + 1, fuzz->size - 1);
    shutdown(fd, SHUT_WR);
    return fd;
}

static void drain(int fd)
{
    static uint8_t buffer[256 * KIB];

    while (recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
        continue;
}

static void co_main(void *arg)
{
    struct fuzz *fuzz = arg;
    struct nbd_server_options options = {.address = fuzz->address, .buffer_bytes = 16 * MIB};
    struct nbd_server *server;
    int fd;

    if (co_nbd_server_open(fuzz->io, &fuzz->ram.backend, &options, &server) < 0)
        abort();
    fd = client_new(fuzz);
    for (unsigned turns = 0; turns < 3 || nbd_server_connections(server) > 0; turns++) {
        assert(turns < 1000000);
        co_sleep_ns(1); /* a turn of the loop: it is accepted, served, and seen to have left */
        drain(fd);
    }
    close(fd);
    co_nbd_server_close(server);
    io_stop(fuzz->io);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz fuzz;

    if (!fuzz.io) {
        nbd_ram_init(&fuzz.ram);
        nbd_ram_add(&fuzz.ram, "disk", 4 * MIB);
        snprintf(fuzz.address, sizeof(fuzz.address), "unix:/tmp/fuzz_nbd.%d", (int)getpid());
        if (io_uring_new(NULL, &fuzz.io) < 0)
            abort();
    }
    decode(data, size);
    if (size == 0)
        return 0;
    fuzz.data = data;
    fuzz.size = size;
    if (co_spawn(fuzz.io, "fuzz", co_main, &fuzz) < 0)
        abort();
    io_run(fuzz.io);
    return 0;
}
