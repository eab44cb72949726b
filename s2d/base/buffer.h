/* buffer: memory for data on its way, aligned to BLOCK_SIZE, from pools sized at start. A pool
 * serves one role (what serves peers is apart from what serves clients: nothing waits in a circle),
 * so each role has its own. One loop. */
#ifndef S2D_BASE_BUFFER_H
#define S2D_BASE_BUFFER_H

#include "s2d/base/base.h"

struct io;
struct buffer_pool;

/* A pool of at most total_bytes. Memory is reserved at once, touched when first used, handed out in
 * powers of two from 4 KiB to BUFFER_MAX_BYTES. Returns 0, -ENOMEM, -EINVAL. */
#define BUFFER_MAX_BYTES (4 * MIB)
must_check int buffer_pool_new(const char *name, uint64_t total_bytes,
                               struct buffer_pool **ret_pool);
void buffer_pool_free(struct buffer_pool *pool); /* everything is back */
DEFINE_CLEANUP(struct buffer_pool, buffer_pool_free)

/* At least length bytes (<= BUFFER_MAX_BYTES), contents undefined. Suspends until there is room,
 * first come, first served. Not cancellable: whoever holds buffers must not wait for more of the
 * same pool. */
void *co_buffer_get(struct buffer_pool *pool, size_t length);
void *buffer_try_get(struct buffer_pool *pool, size_t length); /* NULL: none now, or others wait */
void buffer_put(struct buffer_pool *pool, void *buffer,
                size_t length); /* length as given to get; NULL is fine */
uint64_t buffer_pool_used_bytes(const struct buffer_pool *pool);

#endif
