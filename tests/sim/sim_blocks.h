/* sim_blocks: a file of stamped blocks, and requests to it that are noted in the history. Shared by
 * the clients at block level (sim_blocks.c) and those that make copies (sim_copies.c). Program;
 * the calls that begin with co_ suspend. */
#ifndef TESTS_SIM_BLOCKS_H
#define TESTS_SIM_BLOCKS_H

#include "tests/sim/sim_workload.h"

#define BIG_BLOCKS                                                                                 \
    64 /* of a request at most: a read now and then, so that large ones are met too */

struct blocks { /* of a file */
    const char *volume;
    char path[32];
    const struct blocks *copy_of; /* NULL: it is nobody's. What it shows may bear its stamps */
    bool maybe_short; /* it is being cut and grown again: what is missing reads as zeros */
    uint64_t count;
    uint32_t regs[]; /* of each */
};

/* A new file's: what names its registers. */
struct blocks *blocks_make(struct world *world, unsigned volume, const char *path, uint64_t count);

/* Contents of a block, which tell its stamp and its place; and the stamp of contents that were
 * read. Fails the run if they are nothing that anybody wrote to this block. */
void blocks_fill(uint64_t *words, uint64_t block, uint64_t stamp);
uint64_t blocks_stamp(struct machine *machine, const struct blocks *blocks, const uint64_t *words,
                      uint64_t block);

struct request {
    struct client *client;
    struct blocks *blocks;
    struct csv_file *file; /* NULL: not open */
    uint64_t ino;          /* of what was opened last */
    uint64_t *buffer;
    uint64_t first, count;       /* blocks */
    uint64_t values[BIG_BLOCKS]; /* after a read: the stamps */
    uint64_t hurts;              /* of the world, when it began */
    struct history_op ops[BIG_BLOCKS];
};

/* Opens the file, once. The buffer is made when there is none. Returns 0 or an error of csv.h. */
must_check int co_request_open(struct request *request, bool read_only);
void request_close(struct request *request); /* the file */
void request_done(struct request *request);  /* and the buffer */

/* Of request->first and ->count. Errors that nothing excuses fail the run. Returns 0 or an error.
 */
int co_request_write(struct request *request);
int co_request_trim(struct request *request, bool punch);
int co_request_read(struct request *request);
/* Reads into ->values, and notes nothing. */
int co_request_load(struct request *request);

#endif
