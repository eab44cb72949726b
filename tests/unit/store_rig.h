/* store_rig: a store on a simulated disk, and an owner that writes to it, for the tests of the
 * store. */
#ifndef S2D_TESTS_STORE_RIG_H
#define S2D_TESTS_STORE_RIG_H

#include "cache-tier/store.h"
#include "pool/disk.h"
#include "s2d/base/co.h"
#include "s2d/base/sim.h"

#define RIG_PATH "/disk"
#define RIG_CACHE_PATH "/cache"
#define RIG_VDISK 7
#define RIG_EXTENT_BYTES MIB
#define RIG_EXTENT_BLOCKS (RIG_EXTENT_BYTES / BLOCK_SIZE)

struct rig {
    struct sim *sim;
    unsigned machine;
};

/* A world with one disk of disk_bytes, claimed with a log of log_bytes. */
void rig_new(struct rig *rig, uint64_t seed, uint64_t disk_bytes, uint64_t log_bytes);
/* The same with options of one's own. */
void rig_new_with(struct rig *rig, const struct sim_options *options, uint64_t disk_bytes,
                  uint64_t log_bytes);
/* A cache disk, and on it a log of log_bytes for the disk, which has none to lose yet. */
void rig_put_log_on_cache(struct rig *rig, uint64_t cache_bytes, uint64_t log_bytes);
void rig_done(struct rig *rig);

/* Runs fn(io, arg) as the machine's program until it returns or the machine crashes. True: it
 * returned. */
bool rig_run(struct rig *rig, void (*fn)(struct io *io, void *arg), void *arg);

/* Opens the disk, the cache disk if its log is there, and the store. */
struct rig_store {
    struct disk *disk, *cache;
    struct store *store;
    unsigned errors; /* calls of the error handler */
    int last_error;
};
int co_rig_open(struct io *io, struct rig_store *opened);
void co_rig_close(struct rig_store *opened); /* NULL parts are fine */

/* The owner of one vdisk, as one store sees it. */
struct rig_owner {
    struct store *store;
    uint64_t vdisk;
    uint64_t epoch, session, seq;
    struct log_position watermark;
    uint64_t generation;
    bool commit; /* each record carries the one before it as the watermark */
};
/* Seals in session = epoch and begins. Returns as co_store_seal(). */
int co_rig_seal(struct rig_owner *owner, struct store *store, uint64_t epoch);

/* A record under way. */
struct rig_write {
    struct store_append append;
    struct co *co;
    uint64_t *sums;
    uint8_t *data;
    int result;
    bool done;
};
/* Contents of a block: a function of its place and a stamp; stamp 0 is zeros. */
void rig_fill(void *block, uint64_t stamp);
uint64_t rig_stamp(const void *block); /* UINT64_MAX: not the work of rig_fill() */

/* Prepares a record of `count` blocks with stamps stamp, stamp + 1, …; kind RECORD_ZERO has none.
 */
void rig_prepare(struct rig_owner *owner, struct rig_write *write, uint8_t kind, uint32_t extent,
                 uint32_t block, uint32_t count, uint64_t stamp);
void rig_submit(struct rig_owner *owner, struct rig_write *write);
int co_rig_wait(struct rig_write *write); /* frees its memory */
/* All of that in one. */
int co_rig_write(struct rig_owner *owner, uint32_t extent, uint32_t block, uint32_t count,
                 uint64_t stamp);
int co_rig_zero(struct rig_owner *owner, uint32_t extent, uint32_t block, uint32_t count);
/* Tells the store that all so far is committed. */
int co_rig_commit(struct rig_owner *owner);
/* One block's stamp into *ret_stamp. Returns as co_store_read(). */
int co_rig_read(struct rig_owner *owner, uint32_t extent, uint32_t block, uint64_t *ret_stamp);

#endif
