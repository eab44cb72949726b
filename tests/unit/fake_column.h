/* fake_column: a column store in memory that keeps the promises of store.h and column_store.h, and
 * breaks down when told to. One vdisk. What the store may choose (whether a record that was under
 * way when the connection broke has landed) is chosen by a coin. */
#ifndef S2D_TESTS_FAKE_COLUMN_H
#define S2D_TESTS_FAKE_COLUMN_H

#include "resiliency/column_store.h"
#include "resiliency/vdisk.h"
#include "s2d/base/io.h"

#define FAKE_EXTENTS 16

struct fake_block {
    char *data; /* NULL: unwritten */
    uint64_t sum;
    struct log_position position;
    uint64_t stamp; /* epoch of the message that told it was committed */
    bool compare;
};

struct fake_extent {
    uint64_t generation;
    struct fake_block *blocks;
};

struct fake_column {
    struct column_store base; /* first */
    struct io *io;
    uint64_t vdisk;
    uint32_t extent_blocks;
    /* durable */
    uint64_t sealed_epoch, session, durable_seq;
    struct log_position watermark;
    struct log_position marked; /* the watermark that it was told to make durable */
    struct fake_extent extents[FAKE_EXTENTS];
    struct list log; /* struct fake_record, above the watermark, by position */
    /* under way */
    struct list pending; /* struct fake_record */
    uint64_t accepted_seq;
    struct column_stream *stream; /* attached */
    struct io_timer timer;
    struct io_task ended_task;
    struct io_task turn_task;
    struct list ended; /* struct column_append whose done() is to be called */
    /* knobs */
    uint64_t latency_ns;
    uint64_t read_ns; /* a read takes longer by so much */
    int read_error;   /* of reads, from now on */
    uint32_t garbled; /* the network spoils this block of each read; 0: none */
    bool hang;        /* records are taken and never get durable */
    int append_error; /* of the next records */
    bool sums_in_ram; /* checksums are answered without a suspension, as by a store of this node */
    /* figures */
    unsigned sums_asked, sums_asked_max; /* times in this turn of the loop; in any */
    unsigned seals, resent, drops, clears;
    uint64_t told_before_drop; /* watermarks taken while `stale` was not dropped: must stay 0 */
    bool stale_undropped;
};

void fake_column_init(struct fake_column *fake, struct io *io, uint64_t node, uint64_t disk,
                      bool local, uint64_t vdisk, uint32_t extent_blocks);
void fake_column_done(struct fake_column *fake);

/* The connection breaks, or the node is back. */
void fake_column_set_reachable(struct fake_column *fake, bool reachable);

/* Records are taken and get durable only when it ends. */
void fake_column_set_hang(struct fake_column *fake, bool hang);

/* What a read would show: NULL for zeros. */
const char *fake_column_peek(struct fake_column *fake, struct extent_ref where, uint32_t block);
/* Flips bits of it. */
void fake_column_rot(struct fake_column *fake, struct extent_ref where, uint32_t block);
/* A record that an earlier session left above the watermark. */
void fake_column_plant(struct fake_column *fake, struct extent_ref where, uint32_t slab,
                       uint16_t column, uint32_t block, struct log_position position, char fill,
                       uint64_t address);
/* The record planted last is a trim of so many blocks. */
void fake_column_trims(struct fake_column *fake, uint32_t count);
/* The record planted last is of a write that touched these columns, a bit each. */
void fake_column_touched(struct fake_column *fake, uint32_t touched);
/* The record planted last is of this client. */
void fake_column_sign(struct fake_column *fake, struct client_request request);

#endif
