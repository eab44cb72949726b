/* store_messages: what an owner and the stores of other nodes say to each other over the bus.
 * Little-endian, no padding, every part with a magic and a version, and checksummed: the header
 * part by its own CRC32C, blocks by their checksums, other bulk data by the bus (BUS_CHECKSUM).
 *
 *   owner                                           server of the disk's node
 *     SEAL (disk, vdisk, epoch, session, cookie)  →                control
 *                                                 ←  handle, watermark, durable, tail
 *     RECORD (handle, record, sums) + blocks      →                data, with credit
 *                                                 ←  ACKS: stream `cookie` is durable through seq
 *                                                 ←  BROKEN: stream `cookie` takes no more: why
 *     MARK, DROP_TAIL, CLEAR_COMPARE, COMPARE_SET →  ← result      control
 *     CHECKSUMS, READ                             →  ← result      data
 *
 * A handle names one attachment: a record with an old one is dropped without a word, because a seal
 * may overtake records on the other connection. A cookie names the owner's end of it.
 *
 * Encoders write into a buffer of BUS_HEADER_MAX and return the length. Decoders take bytes from
 * outside and return 0 or -EPROTO; what they return is within the bounds below. Pure. */
#ifndef S2D_RESILIENCY_STORE_MESSAGES_H
#define S2D_RESILIENCY_STORE_MESSAGES_H

#include "cache-tier/store.h"
#include "s2d/bus/message_types.h"

enum store_message_type {
    STORE_RECORD = BUS_TYPE_STORE,
    STORE_ACKS,
    STORE_BROKEN,
    STORE_SEAL,
    STORE_MARK,
    STORE_DROP_TAIL,
    STORE_CLEAR_COMPARE,
    STORE_COMPARE_SET,
    STORE_CHECKSUMS,
    STORE_READ,
};

#define STORE_MESSAGE_VERSION 2
#define STORE_ACKS_MAX 128  /* in one message */
#define STORE_TAIL_MAX 4096 /* records of a tail in one answer; the rest is asked for */
#define STORE_REFS_MAX 4096 /* columns in one call */
#define STORE_SUMS_MAX 8192 /* checksums in one answer */
#define STORE_EXTENT_BLOCKS_MAX (1u << 22) /* 16 GiB: bounds a compare set */

/* ---- records ---- */

struct store_record_format {
    uint32_t magic, crc; /* of this struct with crc 0, and of the sums behind it */
    uint16_t version, column;
    uint8_t lane, kind;
    uint16_t reserved;
    uint64_t handle, vdisk, generation, session, seq, prev_seq, epoch;
    uint64_t watermark_session, watermark_seq, client_session, client_number, address;
    uint32_t extent, slab, block, count, flags, reserved2;
};
static_assert(sizeof(struct store_record_format) == 136, "wire format");

/* sums: record->count of them for a RECORD_WRITE. */
uint32_t store_record_encode(uint64_t handle, const struct record *record, const uint64_t *sums,
                             void *to);
/* data_bytes: of the message. ret_sums: room for RECORD_BLOCKS_MAX. */
must_check int store_record_decode(const void *bytes, uint32_t length, uint32_t data_bytes,
                                   uint64_t *ret_handle, struct record *ret_record,
                                   uint64_t *ret_sums);

/* ---- what a server says by itself ---- */

struct store_ack {
    uint64_t cookie, seq;
};
uint32_t store_acks_encode(const struct store_ack *acks, uint32_t count, void *to);
must_check int store_acks_decode(const void *bytes, uint32_t length, struct store_ack *ret_acks,
                                 uint32_t *ret_count);

uint32_t store_broken_encode(uint64_t cookie, int result, void *to);
must_check int store_broken_decode(const void *bytes, uint32_t length, uint64_t *ret_cookie,
                                   int *ret_result);

/* ---- calls ---- */

/* All calls share one shape; what a call does not use is 0. */
struct store_call {
    uint64_t disk, vdisk, epoch;
    struct log_position position; /* SEAL: session; MARK: watermark; READ: the version, 0: newest */
    uint64_t cookie;              /* SEAL */
    struct log_position after;    /* SEAL: the tail above this */
    struct extent_ref where;
    uint64_t since_epoch; /* COMPARE_SET */
    uint64_t address;     /* READ */
    uint32_t block, count;
    bool durable;   /* MARK */
    bool want_sums; /* READ */
};
uint32_t store_call_encode(const struct store_call *call, void *to);
/* type: bounds that depend on the call are checked too. */
must_check int store_call_decode(uint16_t type, const void *bytes, uint32_t length,
                                 struct store_call *ret_call);

/* The bulk part of DROP_TAIL and CLEAR_COMPARE: columns. */
struct store_ref_format {
    uint64_t generation;
    uint32_t extent, reserved;
};
static_assert(sizeof(struct store_ref_format) == 16, "wire format");
void store_refs_encode(const struct extent_ref *refs, uint32_t count, struct store_ref_format *to);
/* ret_refs: room for STORE_REFS_MAX. */
must_check int store_refs_decode(const void *data, uint32_t length, struct extent_ref *ret_refs,
                                 uint32_t *ret_count);

/* ---- answers ---- */

struct store_seal_answer {
    uint64_t sealed_epoch, handle;
    struct log_position watermark, durable;
    uint32_t tail_count; /* in this answer */
    bool more;           /* of the tail, above the last one here */
};
uint32_t store_seal_answer_encode(const struct store_seal_answer *answer, void *to);
must_check int store_seal_answer_decode(const void *bytes, uint32_t length, uint32_t data_bytes,
                                        struct store_seal_answer *ret_answer);

struct store_tail_format {
    uint64_t session, seq, generation;
    uint32_t extent, slab, block, count;
    uint16_t column;
    uint8_t kind, reserved;
    uint32_t flags;
    uint64_t client_session, client_number;
};
static_assert(sizeof(struct store_tail_format) == 64, "wire format");
void store_tail_encode(const struct store_tail_record *records, uint32_t count,
                       struct store_tail_format *to);
/* data: as many as store_seal_answer_decode() found. */
must_check int store_tail_decode(const void *data, uint32_t count,
                                 struct store_tail_record *ret_records);

struct store_read_answer {
    uint32_t count;
    bool has_sums;
    struct block_set bad;
};
uint32_t store_read_answer_encode(const struct store_read_answer *answer, const uint64_t *sums,
                                  void *to);
/* ret_sums: room for RECORD_BLOCKS_MAX. */
must_check int store_read_answer_decode(const void *bytes, uint32_t length,
                                        struct store_read_answer *ret_answer, uint64_t *ret_sums);

#endif
