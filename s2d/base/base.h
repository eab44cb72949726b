/* base: the few words every other file uses. No state, nothing suspends. */
#ifndef S2D_BASE_BASE_H
#define S2D_BASE_BASE_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <linux/fs.h> /* first: it has a BLOCK_SIZE of its own */

#define must_check __attribute__((warn_unused_result))
#define cleanup(function) __attribute__((cleanup(function)))
#define printf_like(string, first) __attribute__((format(printf, string, first)))

/* DEFINE_CLEANUP(struct foo, foo_free) makes foo_freep() for cleanup(foo_freep); foo_free() takes
 * NULL. */
#define DEFINE_CLEANUP(type, function)                                                             \
    static inline void function##p(type **pointer)                                                 \
    {                                                                                              \
        function(*pointer);                                                                        \
    }

static inline void freep(void *pointer)
{
    free(*(void **)pointer);
}

/* Hands on what a cleanup variable owns: the value, and NULL stays behind. */
#define take_ptr(pointer)                                                                          \
    ({                                                                                             \
        __typeof__(pointer) taken_ = (pointer);                                                    \
        (pointer) = NULL;                                                                          \
        taken_;                                                                                    \
    })

#define BIT(n) (1u << (n))
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define ALIGN_DOWN(n, to) ((n) / (to) * (to))
#define ALIGN_UP(n, to) (((n) + (to)-1) / (to) * (to))
#define DIV_ROUND_UP(n, by) (((n) + (by)-1) / (by))
#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

#define KIB ((uint64_t)1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define US ((uint64_t)1000) /* nanoseconds in a microsecond */
#define MS (1000 * US)
#define SEC (1000 * MS)

/* The unit of checksums, range locks and on-disk structures. */
#undef BLOCK_SIZE
#define BLOCK_SIZE 4096u
#define BLOCK_SHIFT 12

/* A deadline that far from now; "for ever" (UINT64_MAX) stays so. */
static inline uint64_t deadline_after(uint64_t now_ns, uint64_t duration_ns)
{
    return duration_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + duration_ns;
}

/* A doubly linked list through a member of its elements; an empty head points to itself. */
struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *list)
{
    list->next = list;
    list->prev = list;
}

static inline bool list_empty(const struct list *list)
{
    return list->next == list;
}

static inline void list_insert_before(struct list *position, struct list *node)
{
    node->next = position;
    node->prev = position->prev;
    position->prev->next = node;
    position->prev = node;
}

/* Appends: the list's head stands behind its last element. */
static inline void list_push_back(struct list *list, struct list *node)
{
    list_insert_before(list, node);
}

static inline void list_push_front(struct list *list, struct list *node)
{
    list_insert_before(list->next, node);
}

/* Takes node out of its list and leaves it as an empty one, so that a second call does nothing. */
static inline void list_remove(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

static inline struct list *list_pop_front(struct list *list)
{
    struct list *first = list->next;

    if (first == list)
        return NULL;
    list_remove(first);
    return first;
}

/* Moves all of from to the end of to. */
static inline void list_splice(struct list *from, struct list *to)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#define list_entry(node, type, member) container_of(node, type, member)
#define list_first(list, type, member) list_entry((list)->next, type, member)
#define list_for_each(node, head)                                                                  \
    for (struct list *node = (head)->next; node != (head); node = node->next)
#define list_for_each_safe(node, head)                                                             \
    for (struct list *node = (head)->next, *next_##node = node->next; node != (head);              \
         node = next_##node, next_##node = node->next)

#endif
