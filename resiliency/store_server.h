/* store_server: this node's stores, served to the owners on other nodes over the bus. The other end
 * is store_client.h; store_messages.h says what travels.
 *
 * A record's message is kept, and so the owner's credit, until the record is durable; what became
 * durable in a turn is acknowledged in one message to each peer. Calls of a disk are run by at most
 * STORE_SERVER_WORKERS coroutines, first come, first served; a disk that hangs holds up its own
 * calls only. One reactor. */
#ifndef S2D_RESILIENCY_STORE_SERVER_H
#define S2D_RESILIENCY_STORE_SERVER_H

#include "cache-tier/store.h"

struct buffer_pool;
struct bus;
struct io;
struct store_server;

#define STORE_SERVER_WORKERS 32 /* calls of one disk at once */

/* bus and buffers (the store side's, for reads) are borrowed and outlive it. Returns 0 or -ENOMEM.
 */
must_check int store_server_new(struct io *io, struct bus *bus, struct buffer_pool *buffers,
                                struct store_server **ret_server);
/* Every disk was removed, and its store closed. NULL is fine. */
void store_server_free(struct store_server *server);

/* Serves a disk's store: borrowed until co_store_server_remove(). Returns 0, -ENOMEM, -EEXIST. */
must_check int store_server_add(struct store_server *server, uint64_t disk, struct store *store);
/* Ends its streams and suspends until every call has ended. Records that the store took before end
 * by themselves, with its close at the latest: a full log may stay full until then. Calls for the
 * disk are answered with -ENODEV from now on. A disk that is not served: nothing happens. */
void co_store_server_remove(struct store_server *server, uint64_t disk);

/* To be called from the bus's on_down(), for both channels: the peer's streams end. */
void store_server_peer_down(struct store_server *server, uint64_t node);

#endif
