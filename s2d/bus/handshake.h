/* handshake: the four messages before the first frame, to bytes and back, and the proofs in them
 * (bus_format.h draws the exchange). Pure: no state, no I/O; who sends what when is dial.c's and
 * accept.c's. */
#ifndef S2D_BUS_HANDSHAKE_H
#define S2D_BUS_HANDSHAKE_H

#include "s2d/base/base.h"
#include "s2d/bus/bus_format.h"

/* Why a connection is refused; the numbers are part of the wire format. */
enum bus_refusal {
    REFUSAL_NONE = 0,
    REFUSAL_NONSENSE = 1,     /* not understood at all */
    REFUSAL_VERSION = 2,      /* no protocol version in common */
    REFUSAL_CLUSTER = 3,      /* of another cluster */
    REFUSAL_KEY = 4,          /* the key is unknown, or not the same */
    REFUSAL_OTHER_NODE = 5,   /* not the node that was dialed */
    REFUSAL_UNKNOWN_NODE = 6, /* the dialer is no peer */
    REFUSAL_OLD_START = 7,    /* a newer process of that node was heard of */
    REFUSAL_CROSSING = 8,     /* another connection of the two stands already, or is about to */
    REFUSAL_BUSY = 9,         /* too many connections, or closing */
};
const char *refusal_text(enum bus_refusal refusal);
int refusal_errno(enum bus_refusal refusal); /* negative; 0 for NONE */

enum hello_channel { HELLO_CONTROL = 0, HELLO_DATA = 1, HELLO_GUEST = 2 };

struct hello {
    uint16_t version_oldest, version_newest;
    enum hello_channel channel;
    uint8_t cluster[16];
    uint8_t key_id[16];
    uint64_t node, to_node;
    uint64_t start_counter, to_start_counter;
    uint64_t attempt, seen;
    uint8_t nonce[BUS_NONCE_BYTES];
};

struct challenge {
    uint16_t version;
    enum bus_refusal refusal;
    uint16_t version_oldest, version_newest;
    uint8_t cluster[16];
    uint64_t node;
    uint64_t start_counter;
    uint8_t nonce[BUS_NONCE_BYTES];
    uint8_t proof[BUS_PROOF_BYTES];
};

void hello_encode(const struct hello *hello, struct bus_hello_format *ret_format);
/* Returns NONE, NONSENSE, or VERSION (then only the versions are valid). */
must_check enum bus_refusal hello_decode(const struct bus_hello_format *format,
                                         struct hello *ret_hello);

/* The newest version that both speak; 0: none. */
uint16_t handshake_version(uint16_t oldest, uint16_t newest);

/* With proof, made with key over the hello as sent; key NULL: a refusal, without. */
void challenge_encode(const struct challenge *challenge, const struct bus_hello_format *hello,
                      const uint8_t *key, struct bus_challenge_format *ret_format);
/* Returns NONE or NONSENSE; what it says is unproven until challenge_verify(). */
must_check enum bus_refusal challenge_decode(const struct bus_challenge_format *format,
                                             struct challenge *ret_challenge);
must_check bool challenge_verify(const struct bus_challenge_format *format,
                                 const struct bus_hello_format *hello, const uint8_t *key);

/* The dialer's proof, of the hello and the challenge as they travelled. */
void proof_encode(const struct bus_hello_format *hello,
                  const struct bus_challenge_format *challenge, const uint8_t *key,
                  struct bus_proof_format *ret_format);
must_check bool proof_verify(const struct bus_proof_format *format,
                             const struct bus_hello_format *hello,
                             const struct bus_challenge_format *challenge, const uint8_t *key);

void welcome_encode(enum bus_refusal refusal, struct bus_welcome_format *ret_format);
must_check enum bus_refusal welcome_decode(const struct bus_welcome_format *format);

#endif
