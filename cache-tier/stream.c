#include "cache-tier/stream.h"

#define PENDING_CHUNK 1024

void streams_init(struct streams *streams)
{
    memset(streams, 0, sizeof(*streams));
    list_init(&streams->free);
}

void streams_done(struct streams *streams)
{
    struct stream *stream, *next;

    HASH_ITER(hh, streams->table, stream, next)
    {
        HASH_DEL(streams->table, stream);
        recent_done(&stream->recent);
        free(stream);
    }
    for (uint32_t i = 0; i < streams->chunk_count; i++)
        free(streams->chunks[i]);
    free(streams->chunks);
}

struct stream *stream_find(const struct streams *streams, uint64_t vdisk)
{
    struct stream *stream;

    HASH_FIND(hh, streams->table, &vdisk, sizeof(vdisk), stream);
    return stream;
}

struct stream *stream_find_or_add(struct streams *streams, uint64_t vdisk)
{
    struct stream *stream = stream_find(streams, vdisk);

    if (stream)
        return stream;
    stream = calloc(1, sizeof(*stream));
    if (!stream)
        return NULL;
    stream->vdisk = vdisk;
    list_init(&stream->pending);
    HASH_ADD(hh, streams->table, vdisk, sizeof(stream->vdisk), stream);
    return stream;
}

/* ---- pending records ---- */

static bool pending_grow(struct streams *streams)
{
    struct pending **chunks, *chunk;

    chunks = realloc(streams->chunks, (streams->chunk_count + 1) * sizeof(*chunks));
    if (!chunks)
        return false;
    streams->chunks = chunks;
    chunk = calloc(PENDING_CHUNK, sizeof(*chunk));
    if (!chunk)
        return false;
    chunks[streams->chunk_count] = chunk;
    for (uint32_t i = 0; i < PENDING_CHUNK; i++) {
        chunk[i].id = streams->chunk_count * PENDING_CHUNK + i;
        if (chunk[i].id > 0) /* 0 means: no record */
            list_push_back(&streams->free, &chunk[i].node);
    }
    streams->chunk_count++;
    return true;
}

struct pending *pending_get(struct streams *streams, const struct record *record)
{
    struct pending *pending;

    if (list_empty(&streams->free) && !pending_grow(streams))
        return NULL;
    pending = list_entry(list_pop_front(&streams->free), struct pending, node);
    list_init(&pending->zero_node);
    pending->moved = false;
    pending->position = record->position;
    pending->where = record->where;
    pending->slab = record->slab;
    pending->column = record->column;
    pending->kind = record->kind;
    pending->flags = record->flags;
    pending->block = record->block;
    pending->count = record->count;
    pending->address = record->address;
    pending->epoch = record->epoch;
    pending->client_session = record->client_session;
    pending->client_number = record->client_number;
    return pending;
}

void pending_put(struct streams *streams, struct pending *pending)
{
    list_remove(&pending->node);
    assert(list_empty(&pending->zero_node));
    pending->stream = NULL;
    list_push_front(&streams->free, &pending->node);
}

struct pending *pending_by_id(const struct streams *streams, uint32_t id)
{
    assert(id > 0);
    assert(id / PENDING_CHUNK < streams->chunk_count);
    return &streams->chunks[id / PENDING_CHUNK][id % PENDING_CHUNK];
}

void stream_add_pending(struct stream *stream, struct pending *pending)
{
    struct list *after = stream->pending.prev;

    while (after != &stream->pending &&
           log_position_compare(list_entry(after, struct pending, node)->position,
                                pending->position) > 0)
        after = after->prev;
    list_insert_before(after->next, &pending->node);
    pending->stream = stream;
    stream->pending_count++;
    stream->older_count += (pending->flags & RECORD_OLDER) != 0;
}

void stream_remove_pending(struct stream *stream, struct pending *pending)
{
    assert(pending->stream == stream);
    list_remove(&pending->node);
    list_remove(&pending->zero_node);
    stream->pending_count--;
    stream->older_count -= (pending->flags & RECORD_OLDER) != 0;
}

struct pending *stream_find_pending(const struct stream *stream, struct log_position position)
{
    list_for_each (node, &stream->pending) {
        struct pending *pending = list_entry(node, struct pending, node);

        if (log_position_compare(pending->position, position) == 0)
            return pending;
    }
    return NULL;
}
