/* What the two files of the server share: store_server.c (life, attachments, records and what is
 * said about them) and store_calls.c (everything that is asked and answered). */
#ifndef S2D_RESILIENCY_STORE_SERVER_PRIVATE_H
#define S2D_RESILIENCY_STORE_SERVER_PRIVATE_H

#include "resiliency/store_messages.h"
#include "resiliency/store_server.h"
#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/log.h"
#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"
#include "s2d/bus/bus.h"

#define SERVER_CALLS_MAX 4096u        /* of a disk, that wait or run; one more is to try later */
#define SERVER_STREAMS_MAX (1u << 20) /* vdisks × disks of this node */
#define SERVER_SLOTS_AT_START 1024u   /* records under way; more are made when needed */
#define SERVER_RETRY_NS (10 * MS)     /* acknowledgements that found no room in the bus */

struct store_server {
    struct io *io;
    struct bus *bus;
    struct buffer_pool *buffers; /* for answers */
    struct list disks;           /* struct served_disk */

    /* attachments: a handle is an index here, and a number that is never used again */
    struct served_stream **streams;
    uint32_t stream_count;
    uint32_t attachments;

    struct list free_slots;
    unsigned slots_in_use;

    struct list news; /* struct served_stream: durable_seq has grown */
    struct io_task news_task;
    struct io_timer news_timer;
};

struct served_disk {
    struct list node;
    struct store_server *server;
    uint64_t id;
    struct store *store;
    bool removed;        /* freed with its last slot */
    unsigned slots;      /* in use */
    struct list streams; /* struct served_stream */

    struct list waiting; /* struct server_call: for a worker */
    unsigned workers;
    unsigned call_count;
    struct co_group calls; /* until nobody needs their memory */
};

/* A vdisk on a disk: lives as long as the disk is served. At most one owner is attached. */
struct served_stream {
    struct list node;
    struct served_disk *disk;
    uint64_t vdisk;
    uint32_t index;          /* in server->streams */
    struct co_mutex sealing; /* seals take turns: the last to be answered is the one attached */

    uint64_t handle; /* of the attachment; 0: nobody is attached */
    uint64_t peer;
    uint64_t cookie;
    uint64_t durable_seq;
    struct list news_node;
};

/* ---- store_server.c ---- */

struct served_disk *server_find_disk(const struct store_server *server, uint64_t disk);
/* NULL: no memory, or too many. */
struct served_stream *server_stream(struct served_disk *disk, uint64_t vdisk);
/* The stream must have nobody attached. */
void server_attach(struct served_stream *stream, uint64_t peer, uint64_t cookie);
/* Ends the attachment without a word. */
void server_detach(struct served_stream *stream);
/* Ends the attachment and tells its owner why; what it sent before and is not yet judged is
 * dropped from now on. Nobody attached: nothing happens. */
void server_break(struct served_stream *stream, int why);

/* What may be said to another node: that this side closes is no cancellation of the caller. */
static inline int server_wire_result(int result)
{
    return result == -ECANCELED ? -ENODEV : result;
}

/* ---- store_calls.c ---- */

void store_calls_handle(struct store_server *server, bool take); /* the message types */

#endif
