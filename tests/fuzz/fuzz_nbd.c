/* What an NBD client may send: through the decoders, and through a whole server on a socket. The
 * first byte chooses how: bit 0: after a negotiation that went well, so that the input is requests;
 * bit 1: with structured replies; bit 2: and block status; bit 3: exports are not RAM but the files
 * of a volume (nbd_files), which is checked afterwards; bit 4: of a volume that another node owns.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "csv-export/nbd_files.h"
#include "csv-export/nbd_protocol.h"
#include "s2d/base/io.h"
#include "tests/unit/csv_world.h"
#include "tests/unit/nbd_ram.h"

#define MODE_FILES 0x08
#define MODE_REDIRECTED 0x10

struct fuzz {
    struct io *io; /* that of the exports in RAM */
    struct nbd_ram ram;
    struct csv_world *files;
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

static void put_named(int fd, const uint8_t *message, size_t length, uint8_t mode)
{
    uint8_t copy[64];

    assert(length <= sizeof(copy));
    memcpy(copy, message, length);
    if (mode & MODE_FILES) /* the export's name */
        memcpy(memmem(copy, length, "disk", 4), "v/dk", 4);
    put(fd, copy, length);
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
            put_named(fd, context, sizeof(context), mode);
        put_named(fd, go, sizeof(go), mode);
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

static void co_serve(struct fuzz *fuzz, struct io *io, struct nbd_backend *backend)
{
    struct nbd_server_options options = {.address = fuzz->address, .buffer_bytes = 16 * MIB};
    struct nbd_server *server;
    int fd;

    if (co_nbd_server_open(io, backend, &options, &server) < 0)
        abort();
    fd = client_new(fuzz);
    for (unsigned turns = 0; turns < 3 || nbd_server_connections(server) > 0; turns++) {
        assert(turns < 1000000);
        co_sleep_ns(1); /* a turn of the loop: it is accepted, served, and seen to have left */
        drain(fd);
    }
    close(fd);
    co_nbd_server_close(server);
}

static void co_serve_ram(void *arg)
{
    struct fuzz *fuzz = arg;

    co_serve(fuzz, fuzz->io, &fuzz->ram.backend);
    io_stop(fuzz->io);
}

static struct fuzz fuzz;

/* /dk, and /d/e to be listed. */
static void co_make_files(struct csv_volume *volume)
{
    struct fs_new file = {.mode = S_IFREG | 0600}, dir = {.mode = S_IFDIR | 0700};
    struct fs_attr attr;

    if (co_csv_create(volume, FS_ROOT_INO, "dk", &file, &attr) < 0 ||
        co_csv_truncate(volume, attr.ino, 4 * MIB, &attr) < 0 ||
        co_csv_mkdir(volume, FS_ROOT_INO, "d", &dir, &attr) < 0 ||
        co_csv_create(volume, attr.ino, "e", &file, &attr) < 0)
        abort();
}

static void co_serve_files(struct csv_world *world)
{
    unsigned node = fuzz.data[0] & MODE_REDIRECTED ? 2 : 1;
    struct nbd_files *files;

    co_csv_world_format(world);
    co_make_files(world->volume[1]);
    if (nbd_files_new(world->csv[node], &files) < 0)
        abort();
    co_serve(&fuzz, world->world->nodes[node].io, nbd_files_backend(files));
    nbd_files_free(files);
    co_csv_world_check(world);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!fuzz.io) {
        nbd_ram_init(&fuzz.ram);
        nbd_ram_add(&fuzz.ram, "disk", 4 * MIB);
        snprintf(fuzz.address, sizeof(fuzz.address), "unix:/tmp/fuzz_nbd.%d", (int)getpid());
        if (io_uring_new(NULL, &fuzz.io) < 0)
            abort();
        fuzz.files = csv_world_new();
    }
    decode(data, size);
    if (size == 0)
        return 0;
    fuzz.data = data;
    fuzz.size = size;
    if (data[0] & MODE_FILES) {
        csv_world_do(fuzz.files, co_serve_files);
        return 0;
    }
    if (co_spawn(fuzz.io, "fuzz", co_serve_ram, &fuzz) < 0)
        abort();
    io_run(fuzz.io);
    return 0;
}
