/* server: the API on a Unix socket (libmicrohttpd). A thread of its own accepts, receives, parses
 * and prints; a complete request is handed to the reactor, runs there as a coroutine
 * (co_api_dispatch()), and its answer is handed back. The socket belongs to its owner alone (mode
 * 0600): who may connect may do everything.
 *
 * Bounds: connections_max connections, each with one request of at most API_BODY_MAX; idle ones are
 * closed after a minute. One reactor. */
#ifndef S2D_API_SERVER_H
#define S2D_API_SERVER_H

#include "s2d/api/api.h"

struct metrics;
struct api_server;

struct api_server_options {
    const char *path;                /* of the socket; a dead predecessor's is replaced */
    const struct api_router *router; /* borrowed */
    unsigned connections_max;        /* 0: 32 */
    struct metrics *metrics;         /* may be NULL; outlives the server */
};

/* Listens. Returns 0, -EADDRINUSE (somebody answers there), -ENAMETOOLONG, -EACCES, -ENOMEM, … */
must_check int api_server_open(struct io *io, const struct api_server_options *options,
                               struct api_server **ret_server);

/* Refuses new requests (503), cancels those that run and waits for them, ends the thread, removes
 * the socket. NULL is fine. */
void co_api_server_close(struct api_server *server);

#endif
