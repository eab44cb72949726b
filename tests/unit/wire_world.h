/* wire_world: simulated machines with a bus, a store client and a store server each; machine 1
 * holds a disk with a real store, the others own vdisks on it. What the tests of the way between
 * owners and stores stand on. Faults are done from outside, between runs. */
#ifndef S2D_TESTS_WIRE_WORLD_H
#define S2D_TESTS_WIRE_WORLD_H

#include "pool/disk.h"
#include "resiliency/store_client.h"
#include "resiliency/store_server.h"
#include "s2d/base/buffer.h"
#include "s2d/base/metrics.h"
#include "s2d/base/sim.h"
#include "s2d/bus/bus.h"

#define WIRE_MACHINES 3
#define WIRE_SERVER 1 /* the machine with the disk; the others are owners */
#define WIRE_OWNER 2
#define WIRE_RIVAL 3
#define WIRE_DISK 77 /* its number */
#define WIRE_PATH "/disk"
#define WIRE_VDISK 7
#define WIRE_LIMIT_NS (60 * SEC) /* for what must happen */

struct wire;

struct wire_machine {
    struct wire *wire;
    unsigned number;
    uint64_t start_counter;
    bool running; /* everything is there */
    bool stopping;
    struct co_cond stop;
    struct io *io;
    struct bus *bus;
    struct metrics *metrics;
    struct buffer_pool *buffers;
    struct store_client *client;
    struct store_server *server;
    struct disk *disk; /* of WIRE_SERVER */
    struct store *store;
};

struct wire_options {
    uint64_t seed;
    uint64_t extent_bytes; /* 0: 1 MiB */
    uint64_t disk_bytes;   /* 0: 96 MiB */
    uint64_t log_bytes;    /* 0: 48 MiB */
};

struct wire {
    struct sim *sim;
    struct wire_options options;
    struct wire_machine machines[WIRE_MACHINES + 1]; /* from 1 */
};

/* All machines run and are connected. */
void wire_new(struct wire *wire, const struct wire_options *options);
void wire_free(struct wire *wire);

void wire_start(struct wire *wire, unsigned machine);
void wire_stop(struct wire *wire, unsigned machine);
/* Runs until done(arg); fails if that does not come. */
void wire_until(struct wire *wire, bool (*done)(void *arg), void *arg);
void wire_pass(struct wire *wire, uint64_t duration_ns);
void wire_connected(struct wire *wire, unsigned a, unsigned b);
/* Runs fn(arg) in a coroutine of a machine until it returns. */
void wire_run(struct wire *wire, unsigned machine, co_fn *fn, void *arg);

/* On the server's machine, for wire_run(): arg is the struct wire_machine. */
void co_wire_open_disk(void *arg);
void co_wire_close_disk(void *arg);

/* The column store of the disk, as that machine sees it over the bus. */
struct column_store *wire_column(struct wire *wire, unsigned machine);
/* Messages that a machine has received on the control connections. */
uint64_t wire_control_messages(struct wire *wire, unsigned machine);

/* ---- an owner ---- */

struct wire_write {
    struct column_append append;
    struct wire_owner *owner;
    uint64_t stamp;
    uint64_t *sums;
    uint8_t *data; /* only until done(): nobody may read it later */
    bool done;
    int result;
};

struct wire_owner {
    struct wire *wire;
    unsigned machine;
    struct column_stream stream;
    uint64_t epoch, session, generation;
    uint64_t seq;   /* of the record made last */
    uint64_t chain; /* of the record sent last */
    struct log_position watermark;
    struct wire_write *writes; /* by seq - 1 */
    size_t write_room;
    uint64_t ended_seq; /* done() was called through this one, in order */
    size_t pending;     /* done() was not called yet */
    uint64_t next_seq; /* each done() sends the next one that was made, from here; 0: it does not */
    bool counts; /* its records are all that the store has: none may be told durable before it is */
    uint64_t counted_before; /* records that the store had before */
    /* the last co_wire_seal() */
    int seal_result;
    struct store_seal seal;
};

void wire_owner_init(struct wire_owner *owner, struct wire *wire, unsigned machine, uint64_t epoch,
                     size_t writes_max);
void wire_owner_done(struct wire_owner *owner); /* nothing is pending */

/* co_fn: seals in owner->epoch, owner->session; the result is owner->seal_result. */
void co_wire_seal(void *owner);
/* Outside of coroutines: the same, and it must work. */
void wire_seal(struct wire_owner *owner);

/* Contents of a block with that stamp; 0: zeros. */
void wire_fill(void *block, uint64_t stamp);

/* Makes the next record: count blocks with stamps stamp, stamp + 1, …; stamp 0: zeroes them. */
struct wire_write *wire_make(struct wire_owner *owner, uint32_t extent, uint32_t block,
                             uint32_t count, uint64_t stamp);
/* Hands it to the stream, behind the one that was sent last. On the owner's machine. */
void wire_send(struct wire_write *write);
/* Outside of coroutines: sends all that was made, from that seq on, in one turn. */
void wire_send_from(struct wire_owner *owner, uint64_t seq);
/* The same after a seal, for all that is not known to be durable. */
void wire_resend(struct wire_owner *owner);
void wire_detach(struct wire_owner *owner);
bool wire_idle(void *owner); /* for wire_until(): all done() were called */
/* All that ended before owner->seq was durable, in order, and the rest failed. Returns how many
 * were durable. */
uint64_t wire_check_prefix(const struct wire_owner *owner);

/* Reads through the column store; returns what the read did. stamps: count of them, UINT64_MAX for
 * contents that nobody wrote. */
int wire_read(struct wire_owner *owner, uint32_t extent, uint32_t block, uint32_t count,
              uint64_t *ret_stamps, struct block_set *ret_bad);

#endif
