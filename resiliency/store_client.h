/* store_client: the disks of other nodes, as column stores for the owners of this node. The other
 * end is store_server.h. One client serves all vdisks and all peers of a node.
 *
 * Records go out on the data connection when there is credit, in order; a peer that gives no credit
 * makes them wait here, and nobody else. One reactor. */
#ifndef S2D_RESILIENCY_STORE_CLIENT_H
#define S2D_RESILIENCY_STORE_CLIENT_H

#include "resiliency/column_store.h"

struct bus;
struct io;
struct store_client;

/* Takes the message types that servers send by themselves. bus: borrowed, outlives it. Returns 0 or
 * -ENOMEM. */
must_check int store_client_new(struct io *io, struct bus *bus, struct store_client **ret_client);
/* No mirror uses its columns any more. Suspends until nothing of it is under way. NULL is fine. */
void co_store_client_free(struct store_client *client);

/* The disk of a node: made at the first call, then the same; lives as long as the client.
 * NULL: no memory. */
struct column_store *store_client_column(struct store_client *client, uint64_t node, uint64_t disk);

/* To be called from the bus's on_up() and on_down(), for both channels. */
void store_client_peer_changed(struct store_client *client, uint64_t node);

#endif
