/* nbd_protocol: the bytes of the NBD protocol (newstyle, structured replies), encoded and decoded.
 * Pure: no I/O, nothing suspends, nothing is allocated. Everything on the wire is big-endian.
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 *
 *   server hello   | "NBDMAGIC" | "IHAVEOPT" | u16 handshake flags |        client: | u32 flags |
 *   option         | "IHAVEOPT" | u32 option | u32 length | data…
 *   option reply   | u64 magic | u32 option | u32 reply type | u32 length | data…
 *   request        | u32 magic | u16 flags | u16 command | u64 cookie | u64 offset | u32 length |
 *                    payload of a write…
 *   simple reply   | u32 magic | u32 error | u64 cookie | data of a read…
 *   chunk          | u32 magic | u16 flags | u16 type | u64 cookie | u32 length | payload…
 */
#ifndef S2D_CSV_NBD_PROTOCOL_H
#define S2D_CSV_NBD_PROTOCOL_H

#include "s2d/base/base.h"

#define NBD_NAME_MAX 4096
#define NBD_OPTION_MAX (64 * KIB) /* data of one option; more ends the connection */
#define NBD_LENGTH_MAX (32 * MIB) /* of one read or write */

enum nbd_handshake_flags { NBD_FIXED_NEWSTYLE = BIT(0), NBD_NO_ZEROES = BIT(1) };

enum nbd_option {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

enum nbd_option_reply_type {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERROR(n) ((1u << 31) + (n))
#define NBD_REP_ERR_UNSUP NBD_REP_ERROR(1)
#define NBD_REP_ERR_POLICY NBD_REP_ERROR(2)
#define NBD_REP_ERR_INVALID NBD_REP_ERROR(3)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERROR(6)

enum nbd_info { NBD_INFO_EXPORT = 0, NBD_INFO_NAME = 1, NBD_INFO_BLOCK_SIZE = 3 };

enum nbd_transmission_flags {
    NBD_HAS_FLAGS = BIT(0),
    NBD_READ_ONLY = BIT(1),
    NBD_SEND_FLUSH = BIT(2),
    NBD_SEND_FUA = BIT(3),
    NBD_SEND_TRIM = BIT(5),
    NBD_SEND_WRITE_ZEROES = BIT(6),
    NBD_SEND_DF = BIT(7),
    NBD_CAN_MULTI_CONN = BIT(8),
    NBD_SEND_CACHE = BIT(10),
    NBD_SEND_FAST_ZERO = BIT(11),
};

enum nbd_command {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

enum nbd_command_flags {
    NBD_CMD_FLAG_FUA = BIT(0),
    NBD_CMD_FLAG_NO_HOLE = BIT(1),
    NBD_CMD_FLAG_DF = BIT(2),
    NBD_CMD_FLAG_REQ_ONE = BIT(3),
    NBD_CMD_FLAG_FAST_ZERO = BIT(4),
};

enum nbd_chunk_flags { NBD_CHUNK_DONE = BIT(0) };
enum nbd_chunk_type {
    NBD_CHUNK_NONE = 0,
    NBD_CHUNK_OFFSET_DATA = 1,
    NBD_CHUNK_OFFSET_HOLE = 2,
    NBD_CHUNK_BLOCK_STATUS = 5,
    NBD_CHUNK_ERROR = (1 << 15) + 1,
};

enum nbd_extent_flags { NBD_EXTENT_HOLE = BIT(0), NBD_EXTENT_ZERO = BIT(1) };

#define NBD_CONTEXT_ALLOCATION "base:allocation"
#define NBD_CONTEXT_ALLOCATION_ID 1

/* What an errno is called on the wire: those that NBD does not know become EIO. error <= 0. */
uint32_t nbd_error(int error);

/* ---- handshake ---- */

#define NBD_HELLO_BYTES 18
#define NBD_CLIENT_FLAGS_BYTES 4
void nbd_put_hello(uint8_t bytes[NBD_HELLO_BYTES]);
/* Returns 0, -EPROTO (a flag that we did not offer, or a client that is not fixed-newstyle). */
must_check int nbd_get_client_flags(const uint8_t bytes[NBD_CLIENT_FLAGS_BYTES], bool *ret_zeroes);

#define NBD_OPTION_BYTES 16
struct nbd_option_header {
    uint32_t option, length;
};
/* Returns 0, -EPROTO (magic, or data longer than NBD_OPTION_MAX). */
must_check int nbd_get_option(const uint8_t bytes[NBD_OPTION_BYTES],
                              struct nbd_option_header *ret_header);

#define NBD_OPTION_REPLY_BYTES 20
void nbd_put_option_reply(uint8_t bytes[NBD_OPTION_REPLY_BYTES], uint32_t option, uint32_t type,
                          uint32_t length);

/* The parsed names point into the option's data and are not 0-terminated; they hold no 0 byte. */
struct nbd_string {
    const char *bytes;
    uint32_t length;
};

struct nbd_info_request { /* NBD_OPT_INFO, NBD_OPT_GO */
    struct nbd_string name;
    bool wants_name, wants_block_size;
};
/* Each returns 0, -EINVAL (malformed). */
must_check int nbd_get_info_request(const uint8_t *data, uint32_t length,
                                    struct nbd_info_request *ret_request);

struct nbd_meta_request { /* NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT */
    struct nbd_string name;
    uint32_t queries;
    bool allocation; /* the context base:allocation was asked for, by name or by "base:" */
};
must_check int nbd_get_meta_request(const uint8_t *data, uint32_t length, bool list,
                                    struct nbd_meta_request *ret_request);
must_check int nbd_check_name(const char *bytes, uint32_t length); /* NBD_OPT_EXPORT_NAME */

struct nbd_export_info {
    uint64_t size_bytes;
    uint16_t flags; /* enum nbd_transmission_flags */
    uint32_t block_min, block_preferred, block_max;
};
#define NBD_INFO_EXPORT_BYTES 12
#define NBD_INFO_BLOCK_SIZE_BYTES 14
#define NBD_EXPORT_NAME_BYTES 134 /* the answer to NBD_OPT_EXPORT_NAME, with its zeroes */
#define NBD_EXPORT_NAME_SHORT_BYTES 10
void nbd_put_info_export(uint8_t bytes[NBD_INFO_EXPORT_BYTES], const struct nbd_export_info *info);
void nbd_put_info_block_size(uint8_t bytes[NBD_INFO_BLOCK_SIZE_BYTES],
                             const struct nbd_export_info *info);
void nbd_put_export_name(uint8_t bytes[NBD_EXPORT_NAME_BYTES], const struct nbd_export_info *info);
#define NBD_META_CONTEXT_BYTES (4 + sizeof(NBD_CONTEXT_ALLOCATION) - 1)
void nbd_put_meta_context(uint8_t bytes[NBD_META_CONTEXT_BYTES], uint32_t id);
void nbd_put_u32(uint8_t bytes[4], uint32_t value);

/* ---- transmission ---- */

#define NBD_REQUEST_BYTES 28
struct nbd_request_header {
    uint16_t flags, command;
    uint64_t cookie, offset;
    uint32_t length;
};
/* Returns 0, -EPROTO (magic). */
must_check int nbd_get_request(const uint8_t bytes[NBD_REQUEST_BYTES],
                               struct nbd_request_header *ret_header);

/* Is the request one that this export serves? Returns 0, -EINVAL (unknown command or flag,
 * alignment, length, range), -EPERM (changes a read-only export), -ENOSPC (a write beyond the end),
 * -EOVERFLOW (a read that may not be cut into chunks, but must). structured: replies are. */
must_check int nbd_check_request(const struct nbd_request_header *header,
                                 const struct nbd_export_info *info, bool structured,
                                 bool has_allocation_context);

#define NBD_SIMPLE_REPLY_BYTES 16
#define NBD_CHUNK_BYTES 20
#define NBD_DATA_CHUNK_BYTES 28   /* a chunk's header and the offset of its data */
#define NBD_ERROR_CHUNK_BYTES 26  /* with an empty message */
#define NBD_STATUS_CHUNK_BYTES 24 /* before the descriptors */
#define NBD_REPLY_HEADER_MAX 28
#define NBD_EXTENT_BYTES 8
#define NBD_DATA_CHUNK_MAX                                                                         \
    MIB /* data in one chunk: what a request with NBD_CMD_FLAG_DF may ask                          \
         */

/* Each returns the bytes written. */
size_t nbd_put_simple_reply(uint8_t bytes[NBD_REPLY_HEADER_MAX], uint64_t cookie, int error);
size_t nbd_put_none_chunk(uint8_t bytes[NBD_REPLY_HEADER_MAX], uint64_t cookie);
size_t nbd_put_data_chunk(uint8_t bytes[NBD_REPLY_HEADER_MAX], uint64_t cookie, bool done,
                          uint64_t offset, uint32_t length);
size_t nbd_put_error_chunk(uint8_t bytes[NBD_REPLY_HEADER_MAX], uint64_t cookie, int error);
size_t nbd_put_status_chunk(uint8_t bytes[NBD_REPLY_HEADER_MAX], uint64_t cookie,
                            uint32_t extent_count);
void nbd_put_extent(uint8_t bytes[NBD_EXTENT_BYTES], uint32_t length, uint32_t flags);

#endif
