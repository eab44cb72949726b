#include "s2d/bus/handshake.h"

#include <endian.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "s2d/base/checksum.h"
#include "s2d/bus/bus.h"

#define LABEL_BYTES 16
/* Two labels: what one side proved cannot be thrown back at it. */
static const char acceptor_label[LABEL_BYTES] = "s2d acceptor";
static const char dialer_label[LABEL_BYTES] = "s2d dialer";

static const struct {
    const char *text;
    int error;
} refusals[] = {
    [REFUSAL_NONE] = {"none", 0},
    [REFUSAL_NONSENSE] = {"handshake not understood", -EPROTO},
    [REFUSAL_VERSION] = {"no protocol version in common", -EPROTONOSUPPORT},
    [REFUSAL_CLUSTER] = {"another cluster", -EXDEV},
    [REFUSAL_KEY] = {"wrong key", -EACCES},
    [REFUSAL_OTHER_NODE] = {"the address belongs to another node", -ENXIO},
    [REFUSAL_UNKNOWN_NODE] = {"the node is not a peer", -ENOENT},
    [REFUSAL_OLD_START] = {"a newer process of the node is known", -ESTALE},
    [REFUSAL_CROSSING] = {"another connection takes its place", -EALREADY},
    [REFUSAL_BUSY] = {"too many connections", -EAGAIN},
};

const char *refusal_text(enum bus_refusal refusal)
{
    return refusal < ARRAY_SIZE(refusals) ? refusals[refusal].text : "unknown refusal";
}

int refusal_errno(enum bus_refusal refusal)
{
    return refusal < ARRAY_SIZE(refusals) ? refusals[refusal].error : -EPROTO;
}

/* Every message of the handshake ends with the CRC32C of what stands before it. */
#define SEAL(format)                                                                               \
    ((format)->crc = htole32(crc32c((format), sizeof(*(format)) - sizeof(uint32_t))))
#define SEALED(format)                                                                             \
    ((format)->crc == htole32(crc32c((format), sizeof(*(format)) - sizeof(uint32_t))))

uint16_t handshake_version(uint16_t oldest, uint16_t newest)
{
    uint16_t version = MIN(newest, BUS_VERSION_NEWEST);

    return version >= MAX(oldest, BUS_VERSION_OLDEST) ? version : 0;
}

void hello_encode(const struct hello *hello, struct bus_hello_format *ret_format)
{
    *ret_format = (struct bus_hello_format){
        .magic = htole32(BUS_MAGIC_HELLO),
        .version_oldest = htole16(hello->version_oldest),
        .version_newest = htole16(hello->version_newest),
        .bytes = htole32(sizeof(*ret_format)),
        .channel = htole32(hello->channel),
        .node = htole64(hello->node),
        .to_node = htole64(hello->to_node),
        .start_counter = htole64(hello->start_counter),
        .to_start_counter = htole64(hello->to_start_counter),
        .attempt = htole64(hello->attempt),
        .seen = htole64(hello->seen),
    };
    memcpy(ret_format->cluster, hello->cluster, sizeof(hello->cluster));
    memcpy(ret_format->key_id, hello->key_id, sizeof(hello->key_id));
    memcpy(ret_format->nonce, hello->nonce, sizeof(hello->nonce));
    SEAL(ret_format);
}

enum bus_refusal hello_decode(const struct bus_hello_format *format, struct hello *ret_hello)
{
    if (le32toh(format->magic) != BUS_MAGIC_HELLO)
        return REFUSAL_NONSENSE;
    *ret_hello = (struct hello){
        .version_oldest = le16toh(format->version_oldest),
        .version_newest = le16toh(format->version_newest),
    };
    if (handshake_version(ret_hello->version_oldest, ret_hello->version_newest) == 0)
        return REFUSAL_VERSION;
    if (le32toh(format->bytes) != sizeof(*format) || !SEALED(format))
        return REFUSAL_NONSENSE;
    if (le32toh(format->channel) > HELLO_GUEST)
        return REFUSAL_NONSENSE;

    ret_hello->channel = le32toh(format->channel);
    ret_hello->node = le64toh(format->node);
    ret_hello->to_node = le64toh(format->to_node);
    ret_hello->start_counter = le64toh(format->start_counter);
    ret_hello->to_start_counter = le64toh(format->to_start_counter);
    ret_hello->attempt = le64toh(format->attempt);
    ret_hello->seen = le64toh(format->seen);
    memcpy(ret_hello->cluster, format->cluster, sizeof(ret_hello->cluster));
    memcpy(ret_hello->key_id, format->key_id, sizeof(ret_hello->key_id));
    memcpy(ret_hello->nonce, format->nonce, sizeof(ret_hello->nonce));
    return REFUSAL_NONE;
}

/* ---- proofs ---- */

static void prove(const char label[LABEL_BYTES], const struct bus_hello_format *hello,
                  const struct bus_challenge_format *challenge, const uint8_t *key,
                  uint8_t ret_proof[BUS_PROOF_BYTES])
{
    enum { CHALLENGE_BYTES = offsetof(struct bus_challenge_format, proof) };
    uint8_t transcript[LABEL_BYTES + sizeof(*hello) + CHALLENGE_BYTES];
    unsigned length = 0;
    uint8_t *done;

    memcpy(transcript, label, LABEL_BYTES);
    memcpy(transcript + LABEL_BYTES, hello, sizeof(*hello));
    memcpy(transcript + LABEL_BYTES + sizeof(*hello), challenge, CHALLENGE_BYTES);
    done =
        HMAC(EVP_sha256(), key, BUS_KEY_BYTES, transcript, sizeof(transcript), ret_proof, &length);
    assert(done && length == BUS_PROOF_BYTES); /* SHA-256 is always there */
}

static bool proofs_equal(const uint8_t a[BUS_PROOF_BYTES], const uint8_t b[BUS_PROOF_BYTES])
{
    return CRYPTO_memcmp(a, b, BUS_PROOF_BYTES) == 0; /* takes the same time wherever they differ */
}

void challenge_encode(const struct challenge *challenge, const struct bus_hello_format *hello,
                      const uint8_t *key, struct bus_challenge_format *ret_format)
{
    *ret_format = (struct bus_challenge_format){
        .magic = htole32(BUS_MAGIC_CHALLENGE),
        .version = htole16(challenge->version),
        .refusal = htole16((uint16_t)challenge->refusal),
        .version_oldest = htole16(challenge->version_oldest),
        .version_newest = htole16(challenge->version_newest),
        .node = htole64(challenge->node),
        .start_counter = htole64(challenge->start_counter),
    };
    memcpy(ret_format->cluster, challenge->cluster, sizeof(challenge->cluster));
    memcpy(ret_format->nonce, challenge->nonce, sizeof(challenge->nonce));
    if (key)
        prove(acceptor_label, hello, ret_format, key, ret_format->proof);
    SEAL(ret_format);
}

enum bus_refusal challenge_decode(const struct bus_challenge_format *format,
                                  struct challenge *ret_challenge)
{
    if (le32toh(format->magic) != BUS_MAGIC_CHALLENGE || !SEALED(format))
        return REFUSAL_NONSENSE;
    *ret_challenge = (struct challenge){
        .version = le16toh(format->version),
        .refusal = le16toh(format->refusal),
        .version_oldest = le16toh(format->version_oldest),
        .version_newest = le16toh(format->version_newest),
        .node = le64toh(format->node),
        .start_counter = le64toh(format->start_counter),
    };
    memcpy(ret_challenge->cluster, format->cluster, sizeof(ret_challenge->cluster));
    memcpy(ret_challenge->nonce, format->nonce, sizeof(ret_challenge->nonce));
    memcpy(ret_challenge->proof, format->proof, sizeof(ret_challenge->proof));
    return REFUSAL_NONE;
}

bool challenge_verify(const struct bus_challenge_format *format,
                      const struct bus_hello_format *hello, const uint8_t *key)
{
    uint8_t expected[BUS_PROOF_BYTES];

    prove(acceptor_label, hello, format, key, expected);
    return proofs_equal(expected, format->proof);
}

void proof_encode(const struct bus_hello_format *hello,
                  const struct bus_challenge_format *challenge, const uint8_t *key,
                  struct bus_proof_format *ret_format)
{
    *ret_format = (struct bus_proof_format){.magic = htole32(BUS_MAGIC_PROOF)};
    prove(dialer_label, hello, challenge, key, ret_format->proof);
    SEAL(ret_format);
}

bool proof_verify(const struct bus_proof_format *format, const struct bus_hello_format *hello,
                  const struct bus_challenge_format *challenge, const uint8_t *key)
{
    uint8_t expected[BUS_PROOF_BYTES];

    if (le32toh(format->magic) != BUS_MAGIC_PROOF || !SEALED(format))
        return false;
    prove(dialer_label, hello, challenge, key, expected);
    return proofs_equal(expected, format->proof);
}

/* ---- welcome ---- */

void welcome_encode(enum bus_refusal refusal, struct bus_welcome_format *ret_format)
{
    *ret_format = (struct bus_welcome_format){
        .magic = htole32(BUS_MAGIC_WELCOME),
        .refusal = htole32(refusal),
    };
    SEAL(ret_format);
}

enum bus_refusal welcome_decode(const struct bus_welcome_format *format)
{
    if (le32toh(format->magic) != BUS_MAGIC_WELCOME || !SEALED(format))
        return REFUSAL_NONSENSE;
    return le32toh(format->refusal);
}
