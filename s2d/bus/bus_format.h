/* bus_format: what travels on a connection of the bus. Little-endian, no padding; the sizes are
 * part of the format.
 *
 *   dialer                                   acceptor
 *     hello      ──────────────────────────▶          who, which versions, which cluster and key
 *                ◀──────────────────────────  challenge   chosen version, proof of the key; or
 * refusal proof      ──────────────────────────▶ ◀──────────────────────────  welcome     or
 * refusal then frames in both directions:
 *
 *     | frame 48 | header part 0 … 4096 | data 0 … 1 MiB + 64 KiB | frame 48 | …
 *
 * A proof is HMAC-SHA-256(key, label ‖ hello ‖ challenge without its proof and crc): each side's
 * nonce is in it, so neither a replay nor a reflection passes, and no version can be talked down.
 * The first 16 bytes of a hello stay as they are in all versions, so that any two can refuse each
 * other by name.
 */
#ifndef S2D_BUS_BUS_FORMAT_H
#define S2D_BUS_BUS_FORMAT_H

#include <assert.h>
#include <stdint.h>

#define BUS_VERSION_OLDEST 1
#define BUS_VERSION_NEWEST 1

#define BUS_MAGIC_FRAME 0x46443253u     /* "S2DF" */
#define BUS_MAGIC_HELLO 0x48443253u     /* "S2DH" */
#define BUS_MAGIC_CHALLENGE 0x43443253u /* "S2DC" */
#define BUS_MAGIC_PROOF 0x50443253u     /* "S2DP" */
#define BUS_MAGIC_WELCOME 0x57443253u   /* "S2DW" */

#define BUS_NONCE_BYTES 32
#define BUS_PROOF_BYTES 32

struct bus_frame_format {
    uint32_t magic;
    uint8_t version; /* the one that the hello agreed on */
    uint8_t kind;    /* enum frame_kind */
    uint16_t type;
    uint32_t header_bytes;
    uint32_t data_bytes;
    uint32_t flags;
    int32_t result;   /* replies */
    uint64_t request; /* requests and replies */
    uint64_t granted; /* data connections: bytes of requests that the reader may have sent since the
                         connection began; never falls */
    uint32_t payload_crc; /* CRC32C of header part and data, with BUS_CHECKSUM */
    uint32_t crc;         /* CRC32C of the 44 bytes before */
};
static_assert(sizeof(struct bus_frame_format) == 48, "wire format");

struct bus_hello_format {
    uint32_t magic;
    uint16_t version_oldest, version_newest;
    uint32_t bytes; /* of this hello */
    uint32_t channel;
    uint8_t cluster[16]; /* zeros: a guest that does not know it */
    uint8_t key_id[16];  /* zeros: the cluster key */
    uint64_t node;       /* 0: no member yet */
    uint64_t to_node;    /* 0: whoever answers (guests) */
    uint64_t start_counter;
    uint64_t to_start_counter; /* the acceptor's, as far as the dialer knows; 0: not at all */
    uint64_t attempt;          /* the dialer's, for this peer and channel: counts up */
    uint64_t seen; /* the newest attempt of the acceptor's that the dialer accepted and that has
                      ended */
    uint8_t nonce[BUS_NONCE_BYTES];
    uint32_t reserved;
    uint32_t crc;
};
static_assert(sizeof(struct bus_hello_format) == 136, "wire format");

struct bus_challenge_format {
    uint32_t magic;
    uint16_t version; /* chosen */
    uint16_t refusal; /* enum bus_refusal */
    uint16_t version_oldest, version_newest;
    uint32_t reserved;
    uint8_t cluster[16];
    uint64_t node;
    uint64_t start_counter;
    uint8_t nonce[BUS_NONCE_BYTES];
    uint8_t proof[BUS_PROOF_BYTES];
    uint32_t reserved2;
    uint32_t crc;
};
static_assert(sizeof(struct bus_challenge_format) == 120, "wire format");

struct bus_proof_format {
    uint32_t magic;
    uint32_t reserved;
    uint8_t proof[BUS_PROOF_BYTES];
    uint32_t reserved2;
    uint32_t crc;
};
static_assert(sizeof(struct bus_proof_format) == 48, "wire format");

struct bus_welcome_format {
    uint32_t magic;
    uint32_t refusal;
    uint32_t reserved;
    uint32_t crc;
};
static_assert(sizeof(struct bus_welcome_format) == 16, "wire format");

#endif
