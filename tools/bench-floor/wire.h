/* What the four processes of bench-floor say to each other, and the little they share. Byte order
 * is the machine's: both ends are this program. */
#ifndef BENCH_FLOOR_WIRE_H
#define BENCH_FLOOR_WIRE_H

#include "s2d/base/base.h"
#include <err.h>
#include <time.h>

#define REPLICAS 2u
#define STORES (1 + REPLICAS)
#define DEPTH_MAX 32u
/* Twice the depth: a send may be reported done after its receiver has asked for more. */
#define SLOTS (2 * DEPTH_MAX)
#define RECEIVE_BYTES (256 * KIB)

enum request_type { REQUEST_READ, REQUEST_WRITE };

struct request {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t handle; /* client slot + DEPTH_MAX × its turn */
    uint64_t offset_bytes;
    uint32_t length_bytes;
} __attribute__((packed));
static_assert(sizeof(struct request) == 28, "an NBD request");

struct reply {
    uint32_t magic;
    uint32_t error;
    uint64_t handle;
};
static_assert(sizeof(struct reply) == 16, "an NBD simple reply");

struct record {
    uint64_t seq;
    uint64_t offset_bytes;
    uint64_t hash;
    uint64_t length_bytes;
};

struct ack {
    uint64_t seq; /* everything through it is durable */
};

static inline void die_unless(bool ok, const char *what)
{
    if (!ok)
        err(EXIT_FAILURE, "%s", what);
}

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    die_unless(clock_gettime(clock, &now) == 0, "clock_gettime");
    return (uint64_t)now.tv_sec * SEC + (uint64_t)now.tv_nsec;
}

static inline void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(BLOCK_SIZE, bytes);

    die_unless(memory != NULL, "aligned_alloc");
    memset(memory, 0, bytes);
    return memory;
}

#endif
