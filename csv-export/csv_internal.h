/* csv_internal: the file service's state, as its own modules see it.
 *
 *   csv.c           the calls of csv.h: each becomes a struct csv_request
 *   csv_volume.c    the volume table; the loop that asks who owns, and asks again
 *   csv_redirect.c  to another owner: attach, send, wait
 *   csv_serve.c     from other nodes: drain, window, one coroutine to a request
 *   csv_execute.c   on our own fs: what a request does, whoever sent it
 *   csv_names.c     which names it may not take away
 */
#ifndef S2D_CSV_CSV_INTERNAL_H
#define S2D_CSV_CSV_INTERNAL_H

#include "csv-export/csv.h"
#include "csv-export/csv_message.h"
#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/metrics.h"
#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"
#include "s2d/bus/bus.h"

/* What one client may have under way on one volume, in both directions of a request: small requests
 * (up to 32 KiB of data) and large ones. The client keeps to it, the owner has room for twice that:
 * so what was sent is always accepted, also while an earlier reply is still leaving, and the bus's
 * receive buffers, which stores need too, are never held by a request that waits. */
#define CSV_SMALL_BYTES (32 * 1024)
#define CSV_LARGE_BYTES CSV_DATA_MAX
#define CSV_SMALL_WINDOW 128
#define CSV_LARGE_WINDOW 8

#define CSV_RETRY_NS                                                                               \
    (10 * MS) /* how long a call waits before it looks again, if nothing tells it to */

#define CSV_OPEN_BUCKETS 64

struct csv_counters {
    struct counter local, redirected, resent, served, refused;
    uint64_t waiting;
};

struct csv {
    struct io *io;
    struct csv_options options;
    struct list volumes; /* struct csv_volume, by name */
    uint64_t next_handle, next_number;
    bool stopped;
    struct co_group work;     /* calls, served requests, coroutines of our own */
    struct buffer_pool *pool; /* for directory pages and link targets of our own calls */
    struct csv_counters counters;
};

struct csv_volume {
    struct list node; /* csv->volumes */
    struct csv *csv;
    unsigned references;
    uint64_t id;
    char name[CSV_VOLUME_NAME_MAX + 1];
    bool removed;

    uint64_t owner, session;
    struct co_cond changed; /* the line above, or `removed` */
    struct co_mutex change; /* one change at a time */

    /* this node is the owner */
    struct fs *fs;
    bool draining;                       /* no request enters */
    unsigned in_flight;                  /* requests inside */
    struct co_cond idle;                 /* in_flight fell to 0 */
    struct list opens[CSV_OPEN_BUCKETS]; /* struct csv_opened, by handle */
    unsigned open_count;
    struct co_cond open_idle; /* nobody uses one of them any more */
    struct list reshapings;   /* struct reshaping: csv_execute.c */
    struct list attachments;  /* struct csv_attachment */

    /* this node is a client */
    struct list files; /* struct csv_file */
    struct list calls; /* struct csv_call: sent to the owner, not answered */
    uint64_t attached_connection, attached_session; /* requests may be sent on that, to that */
    struct co_mutex attaching;
    struct co_sem small_window, large_window;
    struct co_sem free_slots; /* names of requests: FS_SLOTS_PER_SESSION */
    uint64_t used_slots;      /* a bit each */
    uint32_t sequences[FS_SLOTS_PER_SESSION];
    unsigned waiting;
    bool asserting, assert_again; /* files are being opened again; and must be from the start */
};

struct csv_file {     /* a client's */
    struct list node; /* volume->files */
    struct csv_volume *volume;
    uint64_t handle, ino, incarnation;
    uint32_t flags;
    char *path;

    struct co_group opening; /* at a new owner: close waits for that */
};

struct csv_opened {   /* the owner's: one client's open file */
    struct list node; /* volume->opens */
    uint64_t client, client_counter, handle, ino, incarnation;
    bool read_only;
    bool fenced;
    struct fs_inode *inode; /* NULL while it is being opened */
    unsigned in_flight;     /* it is neither freed nor fenced off before this is 0 */
};

/* ---- csv_volume.c ---- */

struct csv_volume *csv_volume_by_id(struct csv *csv, uint64_t id);
bool csv_volume_is_local(const struct csv_volume *volume);
void csv_volume_enter(struct csv_volume *volume); /* a request goes into the fs */
void csv_volume_leave(struct csv_volume *volume);
/* Runs a request where it belongs, as often as it takes. volume and session are filled in. */
int co_csv_run(struct csv_volume *volume, struct csv_request *request, struct csv_reply *reply);

/* ---- csv_execute.c ---- */

/* On volume->fs, which the caller has entered. reply->bulk has room for csv_reply_room().
 * -ESTALE: the fs no longer owns; -EBADF: no such handle. */
int co_csv_execute(struct csv_volume *volume, const struct csv_request *request,
                   struct csv_reply *reply);
/* Closes what a client (0: all) had open before its start counter was `before_counter`. */
void co_csv_close_opens(struct csv_volume *volume, uint64_t client, uint64_t before_counter);

/* Is a file open whose last name is gone? Nothing else may be under way. */
bool co_csv_has_nameless(struct csv_volume *volume);

/* ---- csv_names.c ---- */

/* On the owner, before dir loses a name, or has it replaced. Returns 0, -EBUSY (a running VM's disk
 * is behind it), or what kept that from being known. */
int co_csv_check_name(struct csv_volume *volume, uint64_t dir, const char *name);

/* ---- csv_redirect.c ---- */

/* Sends a request to volume->owner. -ESTALE: look again; anything may have happened. */
int co_csv_redirect(struct csv_volume *volume, const struct csv_request *request,
                    struct csv_reply *reply);
void csv_cancel_calls(struct csv_volume *volume); /* they return -ESTALE soon */

/* ---- csv_serve.c ---- */

void csv_serve_start(struct csv *csv);
void csv_serve_stop(struct csv *csv);
void csv_attachments_free(struct csv_volume *volume); /* nothing is served any more */

/* ---- csv.c ---- */

void csv_assert_files(struct csv_volume *volume); /* opens them at the new owner */

#endif
