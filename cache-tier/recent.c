#include "cache-tier/recent.h"

struct recent_client {
    uint64_t session;
    struct log_position newest; /* of its pieces */
    uint32_t count;
    uint32_t next; /* the place of the next piece: of the first one, when all are taken */
    bool learned;  /* they are in no order yet */
    struct recent_piece pieces[RECENT_PIECES];
};

void recent_done(struct recent *recent)
{
    for (size_t i = 0; i < RECENT_CLIENTS; i++)
        free(take_ptr(recent->clients[i]));
}

static struct recent_client *client_find(const struct recent *recent, uint64_t session)
{
    for (size_t i = 0; i < RECENT_CLIENTS; i++) {
        struct recent_client *client = recent->clients[i];

        if (client && client->session == session)
            return client;
    }
    return NULL;
}

/* A free place, or that of the client whose last change is the oldest. NULL: that of this piece is
 * older still (others tell in any order), or no memory. */
static struct recent_client *client_add(struct recent *recent, const struct recent_piece *piece)
{
    struct recent_client **place = &recent->clients[0];

    for (size_t i = 0; i < RECENT_CLIENTS && *place; i++) {
        if (!recent->clients[i] ||
            log_position_compare(recent->clients[i]->newest, (*place)->newest) < 0)
            place = &recent->clients[i];
    }
    if (!*place)
        *place = malloc(sizeof(**place));
    else if (log_position_compare((*place)->newest, piece->position) > 0)
        return NULL;
    if (*place)
        **place = (struct recent_client){.session = piece->client_session};
    return *place;
}

static struct recent_client *client_for(struct recent *recent, const struct recent_piece *piece)
{
    struct recent_client *client = client_find(recent, piece->client_session);

    assert(piece->client_session != 0);
    if (!client)
        client = client_add(recent, piece);
    if (client && log_position_compare(piece->position, client->newest) > 0)
        client->newest = piece->position;
    return client;
}

static int compare_pieces(const void *a, const void *b)
{
    const struct recent_piece *left = a, *right = b;

    return log_position_compare(left->position, right->position);
}

/* From here on the first one is again the next to go. */
static void client_sort(struct recent_client *client)
{
    qsort(client->pieces, client->count, sizeof(client->pieces[0]), compare_pieces);
    client->next = client->count % RECENT_PIECES;
    client->learned = false;
}

static void client_put(struct recent_client *client, const struct recent_piece *piece)
{
    if (client->learned)
        client_sort(client);
    client->pieces[client->next] = *piece;
    client->next = (client->next + 1) % RECENT_PIECES;
    client->count = MIN(client->count + 1, RECENT_PIECES);
}

void recent_add(struct recent *recent, const struct recent_piece *piece)
{
    struct recent_client *client = client_for(recent, piece);

    if (client)
        client_put(client, piece);
}

static bool same_piece(const struct recent_piece *a, const struct recent_piece *b)
{
    return a->client_number == b->client_number && a->slab == b->slab && a->block == b->block &&
           a->count == b->count && log_position_compare(a->position, b->position) == 0;
}

void recent_learn(struct recent *recent, const struct recent_piece *piece)
{
    struct recent_client *client = client_for(recent, piece);
    struct recent_piece *oldest;

    if (!client)
        return;
    for (uint32_t i = 0; i < client->count; i++) {
        if (same_piece(&client->pieces[i], piece))
            return;
    }
    client->learned = true;
    if (client->count < RECENT_PIECES) {
        client->pieces[client->count++] = *piece;
        return;
    }
    oldest = &client->pieces[0];
    for (uint32_t i = 1; i < client->count; i++) {
        if (compare_pieces(&client->pieces[i], oldest) < 0)
            oldest = &client->pieces[i];
    }
    if (compare_pieces(oldest, piece) < 0)
        *oldest = *piece;
}

void recent_find(const struct recent *recent, const struct recent_piece *request,
                 struct block_set *ret_done)
{
    const struct recent_client *client = client_find(recent, request->client_session);
    uint32_t end = request->block + request->count;

    assert(request->count <= RECORD_BLOCKS_MAX);
    for (uint32_t i = 0; client && i < client->count; i++) {
        const struct recent_piece *piece = &client->pieces[i];

        if (piece->client_number != request->client_number || piece->slab != request->slab)
            continue;
        for (uint32_t block = MAX(piece->block, request->block);
             block < MIN(piece->block + piece->count, end); block++)
            block_set_add(ret_done, block - request->block);
    }
}

size_t recent_count(const struct recent *recent)
{
    size_t count = 0;

    for (size_t i = 0; i < RECENT_CLIENTS; i++)
        count += recent->clients[i] ? recent->clients[i]->count : 0;
    return count;
}

void recent_list(const struct recent *recent, struct recent_piece *pieces)
{
    size_t count = 0;

    for (size_t i = 0; i < RECENT_CLIENTS; i++) {
        const struct recent_client *client = recent->clients[i];

        for (uint32_t j = 0; client && j < client->count; j++)
            pieces[count++] = client->pieces[j];
    }
    qsort(pieces, count, sizeof(*pieces), compare_pieces);
}
