/* buffer: a buddy allocator over one reservation of address space. What it knows of each 4 KiB unit
 * stands in arrays of its own, never in the free memory itself, so memory that was never handed out
 * is never touched. A get or put splits or merges at most BUFFER_ORDERS times.
 *
 * Fairness: while anybody waits, nobody else is served, so all that is out comes back and merges
 * until the first waiter fits, however large it is. That holds because holders do not wait for more
 * (buffer.h). */
#include "s2d/base/buffer.h"

#include <sanitizer/asan_interface.h> /* its macros are empty without the sanitizer */
#include <sys/mman.h>

#include "s2d/base/co.h"

#define BUFFER_ORDERS 11 /* 4 KiB << 10 is BUFFER_MAX_BYTES */
static_assert((uint64_t)BLOCK_SIZE << (BUFFER_ORDERS - 1) == BUFFER_MAX_BYTES, "orders");

enum unit_state { UNIT_INSIDE, UNIT_FREE, UNIT_USED }; /* inside: not the first of its piece */

struct unit {
    struct list node; /* of pool->free[order], while free */
    uint8_t state;
    uint8_t order;
};

struct buffer_pool {
    const char *name;
    char *memory;
    struct unit *units;
    size_t unit_count;
    size_t used_units;
    unsigned order_max; /* of the largest piece that this pool can ever give */
    struct list free[BUFFER_ORDERS];
    struct list waiters;
};

struct waiter {
    struct list node;
    struct co *co;
    unsigned order;
    void *buffer;
};

static unsigned order_of(size_t length)
{
    size_t units = DIV_ROUND_UP(MAX(length, (size_t)1), BLOCK_SIZE);

    return units == 1 ? 0 : 64 - (unsigned)__builtin_clzll(units - 1);
}

static void piece_set_free(struct buffer_pool *pool, size_t index, unsigned order)
{
    struct unit *unit = &pool->units[index];

    unit->state = UNIT_FREE;
    unit->order = (uint8_t)order;
    list_push_front(&pool->free[order],
                    &unit->node); /* the last one used is still in the CPU's cache */
}

/* The reservation as the largest aligned pieces that fit. */
static void carve(struct buffer_pool *pool)
{
    size_t index = 0;

    while (index < pool->unit_count) {
        unsigned order = BUFFER_ORDERS - 1;

        while (index + ((size_t)1 << order) > pool->unit_count)
            order--;
        piece_set_free(pool, index, order);
        pool->order_max = MAX(pool->order_max, order);
        index += (size_t)1 << order;
    }
}

int buffer_pool_new(const char *name, uint64_t total_bytes, struct buffer_pool **ret_pool)
{
    struct buffer_pool *pool;

    if (total_bytes < BLOCK_SIZE)
        return -EINVAL;
    pool = calloc(1, sizeof(*pool));
    if (!pool)
        return -ENOMEM;
    pool->name = name;
    pool->unit_count = total_bytes / BLOCK_SIZE;
    pool->units = calloc(pool->unit_count, sizeof(*pool->units));
    pool->memory = mmap(NULL, pool->unit_count * BLOCK_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool->memory == MAP_FAILED)
        pool->memory = NULL;
    list_init(&pool->waiters);
    for (unsigned order = 0; order < BUFFER_ORDERS; order++)
        list_init(&pool->free[order]);
    if (!pool->units || !pool->memory) {
        buffer_pool_free(pool);
        return -ENOMEM;
    }
    carve(pool);

    *ret_pool = pool;
    return 0;
}

void buffer_pool_free(struct buffer_pool *pool)
{
    if (!pool)
        return;
    assert(pool->used_units == 0);
    assert(list_empty(&pool->waiters));
    if (pool->memory) {
        ASAN_UNPOISON_MEMORY_REGION(pool->memory, pool->unit_count * BLOCK_SIZE);
        munmap(pool->memory, pool->unit_count * BLOCK_SIZE);
    }
    free(pool->units);
    free(pool);
}

/* Takes the smallest free piece that is large enough and gives back its upper halves. NULL: none.
 */
static void *piece_take(struct buffer_pool *pool, unsigned order)
{
    unsigned have = order;
    struct unit *unit;
    size_t index;

    while (have < BUFFER_ORDERS && list_empty(&pool->free[have]))
        have++;
    if (have == BUFFER_ORDERS)
        return NULL;

    unit = list_entry(list_pop_front(&pool->free[have]), struct unit, node);
    assert(unit->state == UNIT_FREE);
    index = (size_t)(unit - pool->units);
    while (have > order) {
        have--;
        piece_set_free(pool, index + ((size_t)1 << have), have);
    }
    unit->state = UNIT_USED;
    unit->order = (uint8_t)order;
    pool->used_units += (size_t)1 << order;
    ASAN_UNPOISON_MEMORY_REGION(pool->memory + index * BLOCK_SIZE, (size_t)BLOCK_SIZE << order);
    return pool->memory + index * BLOCK_SIZE;
}

static void piece_give(struct buffer_pool *pool, size_t index)
{
    unsigned order = pool->units[index].order;

    ASAN_POISON_MEMORY_REGION(pool->memory + index * BLOCK_SIZE, (size_t)BLOCK_SIZE << order);
    pool->used_units -= (size_t)1 << order;
    for (; order < BUFFER_ORDERS - 1; order++) {
        size_t buddy = index ^ ((size_t)1 << order);

        if (buddy + ((size_t)1 << order) > pool->unit_count)
            break; /* the last, incomplete piece of the reservation */
        if (pool->units[buddy].state != UNIT_FREE || pool->units[buddy].order != order)
            break;
        list_remove(&pool->units[buddy].node);
        pool->units[MAX(index, buddy)].state = UNIT_INSIDE;
        index = MIN(index, buddy);
    }
    piece_set_free(pool, index, order);
}

static void serve_waiters(struct buffer_pool *pool)
{
    while (!list_empty(&pool->waiters)) {
        struct waiter *first = list_first(&pool->waiters, struct waiter, node);

        first->buffer = piece_take(pool, first->order);
        if (!first->buffer)
            return;
        list_remove(&first->node);
        co_wake(first->co);
    }
}

void *co_buffer_get(struct buffer_pool *pool, size_t length)
{
    struct waiter waiter = {.co = co_self(), .order = order_of(length)};
    void *buffer = buffer_try_get(pool, length);

    if (buffer)
        return buffer;
    list_push_back(&pool->waiters, &waiter.node);
    co_wait();
    assert(waiter.buffer);
    return waiter.buffer;
}

void *buffer_try_get(struct buffer_pool *pool, size_t length)
{
    unsigned order = order_of(length);

    assert(order <= pool->order_max); /* or it would wait forever */
    return list_empty(&pool->waiters) ? piece_take(pool, order) : NULL;
}

void buffer_put(struct buffer_pool *pool, void *buffer, size_t length)
{
    size_t index;

    if (!buffer)
        return;
    assert((char *)buffer >= pool->memory);
    index = (size_t)((char *)buffer - pool->memory) / BLOCK_SIZE;
    assert(index < pool->unit_count);
    assert(pool->memory + index * BLOCK_SIZE == buffer);
    assert(pool->units[index].state == UNIT_USED);
    assert(pool->units[index].order == order_of(length));
    piece_give(pool, index);
    serve_waiters(pool);
}

uint64_t buffer_pool_used_bytes(const struct buffer_pool *pool)
{
    return (uint64_t)pool->used_units * BLOCK_SIZE;
}
