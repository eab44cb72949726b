/* recent: the last changes that the requests of each client made to a vdisk, by which an owner
 * knows a repeat (docs/protocol.md, Client sessions). A store keeps those of its records that are
 * committed, and finds them again in its log when it starts; an owner those that it committed, and
 * those that it learned when it took over.
 *
 * Bounded. A client that lost its connection to the owner sends nothing new before its repeats are
 * on their way, so RECENT_PIECES need only cover what it has under way at once (csv_internal.h). A
 * client that is not among the last RECENT_CLIENTS that changed something, or a piece that is not
 * among the last ones, is forgotten; then a repeat runs again. Plain data, nothing suspends. */
#ifndef S2D_CACHE_TIER_RECENT_H
#define S2D_CACHE_TIER_RECENT_H

#include "cache-tier/store.h"

#define RECENT_CLIENTS 20 /* of one vdisk: nodes, and some that started anew */
#define RECENT_PIECES 256 /* of one client */

/* What one record of a request changed. */
struct recent_piece {
    uint64_t client_session, client_number; /* session 0: none */
    struct log_position position;
    uint32_t slab, block, count;
};

struct recent_client;

struct recent {
    struct recent_client *clients[RECENT_CLIENTS];
};

void recent_done(struct recent *recent);

/* Remembers a piece, as it is committed; of too many the first one goes. Without memory it is
 * forgotten. */
void recent_add(struct recent *recent, const struct recent_piece *piece);
/* The same of what others tell, each of the same pieces: what is known already, or older than all
 * that there is room for, changes nothing. */
void recent_learn(struct recent *recent, const struct recent_piece *piece);
/* Puts those blocks of [block, block + count) into *ret_done that the request has changed; count at
 * most RECORD_BLOCKS_MAX. */
void recent_find(const struct recent *recent, const struct recent_piece *request,
                 struct block_set *ret_done);

/* All of them, by position. pieces: room for recent_count(). */
size_t recent_count(const struct recent *recent);
void recent_list(const struct recent *recent, struct recent_piece *pieces);

#endif
