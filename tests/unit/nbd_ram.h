/* nbd_ram: an NBD backend in RAM, for tests: disks by name, blocks that know whether they were
 * written, errors and delays on demand. */
#ifndef S2D_TESTS_NBD_RAM_H
#define S2D_TESTS_NBD_RAM_H

#include "csv-export/nbd_server.h"
#include "s2d/base/co.h"

#define NBD_RAM_DISKS_MAX 8

struct nbd_ram_disk {
    char name[64];
    uint8_t *bytes;
    uint8_t *written; /* a byte for each block of 4 KiB */
    uint64_t size_bytes;
    bool read_only, refused;
    unsigned open_count;
};

struct nbd_ram {
    struct nbd_backend backend;
    struct nbd_ram_disk disks[NBD_RAM_DISKS_MAX];
    unsigned disk_count;
    int fail; /* what requests answer, from number fail_from on; 0: they work */
    uint64_t fail_from;
    bool hold; /* requests wait until nbd_ram_release() */
    struct co_cond released;
    unsigned waiting;    /* requests held */
    struct co_cond held; /* signalled when there is one more */
    uint64_t requests;
};

void nbd_ram_init(struct nbd_ram *ram);
void nbd_ram_done(struct nbd_ram *ram); /* nothing is open */
struct nbd_ram_disk *nbd_ram_add(struct nbd_ram *ram, const char *name, uint64_t size_bytes);
void nbd_ram_release(struct nbd_ram *ram);

#endif
