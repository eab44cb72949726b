/* sim_nbd: a client of NBD as a guest's disk has one: simple replies, one request at a time.
 * Coroutines of one loop; every call suspends. */
#ifndef TESTS_SIM_NBD_H
#define TESTS_SIM_NBD_H

#include "csv-export/nbd_protocol.h"
#include "s2d/base/io.h"

struct sim_nbd {
    struct io_stream *stream; /* NULL: not connected */
    uint64_t size_bytes, cookie;
};

/* Connects and chooses an export. Returns 0, -EPERM (the server refuses it), or why it could not be
 * asked: then the client is not connected. */
must_check int co_sim_nbd_open(struct sim_nbd *nbd, struct io *io, const char *address,
                               const char *export_name);
void sim_nbd_close(struct sim_nbd *nbd); /* connected or not */

/* command: NBD_CMD_READ or NBD_CMD_WRITE, of length bytes of buffer, or NBD_CMD_FLUSH, of none;
 * flags: NBD_CMD_FLAG_FUA or 0. Returns 0; -ECONNRESET: there
 * is no connection any more, and nobody knows what was done; -ECANCELED; any other: what the server
 * answered. */
must_check int co_sim_nbd_request(struct sim_nbd *nbd, enum nbd_command command, uint16_t flags,
                                  uint64_t offset, void *buffer, uint32_t length);

#endif
