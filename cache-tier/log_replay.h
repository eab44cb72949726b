/* log_replay: reads a log after a start: finds the tail, follows the chain of batches, and says
 * where it ends and why. A tail that was torn by a crash is cut. A hole that a later batch vouches
 * for is damage: records that were acknowledged are gone, and *ret says so (I9).
 *
 * One reactor; suspends. */
#ifndef S2D_CACHE_TIER_LOG_REPLAY_H
#define S2D_CACHE_TIER_LOG_REPLAY_H

#include "cache-tier/log.h"

struct log_place {     /* of a record */
    uint64_t sequence; /* of its batch */
    uint64_t batch_position;
    uint64_t data_position;
    uint32_t header_offset;
    uint64_t copies_done; /* as the anchors say */
};

struct log_replay_ops {
    /* Called for every record, in the order of the log; record->bytes lie in memory. What is in a
     * record is the reader's to judge; that it does not reach beyond its batch was checked. */
    void (*record)(void *arg, const struct log_record *record, const struct log_place *place);
    /* Called before the records of each batch. */
    void (*batch)(void *arg, uint64_t position, uint32_t blocks);
};

struct log_found {
    struct log_start start; /* anchors on disk say start.incarnation already */
    bool damaged;           /* a hole in the middle; what lies behind it is not read */
    bool torn;              /* the last write was cut short: it was never acknowledged */
    uint64_t batches, records;
};

/* Returns 0, -EBADMSG (no anchor and no batch can be made out), -EIO (the medium refuses even
 * anchors), -ENOMEM, -ECANCELED. */
must_check int co_log_replay(const struct log_region *region, const struct log_replay_ops *ops,
                             void *arg, struct log_found *ret_found);

/* Only what came after the last checkpoint ended; touches nothing on the disk. Returns as above. */
must_check int co_log_replay_recent(const struct log_region *region,
                                    const struct log_replay_ops *ops, void *arg,
                                    struct log_found *ret_found);

/* The records of a batch in memory, for fuzzing as well: calls fn for each; false: malformed, and
 * fn was called for none. */
bool log_batch_each(const struct log_batch_header *header,
                    void (*fn)(void *arg, const struct log_record *record, uint32_t offset,
                               uint32_t data_block),
                    void *arg);
/* Is this block, read at `position` of the ring, the header of a whole batch, as far as one can
 * tell without its data? available: bytes readable from header on. Returns 0, -EBADMSG, -EAGAIN
 * (more bytes are needed: header->header_blocks blocks). */
must_check int log_header_check(const struct log_batch_header *header, size_t available,
                                const uint8_t log_uuid[16], uint64_t position,
                                uint64_t ring_blocks);
/* Does the data of a batch match what its records say? data: header->data_blocks blocks. */
bool log_batch_data_sound(const struct log_batch_header *header, const uint8_t *data);

#endif
