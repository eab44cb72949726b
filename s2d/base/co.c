/* Coroutines: stacks, switching, the ready list.
 *
 * A coroutine is a stack of its own with its struct co at the top. The loop resumes it by switching
 * to that stack (co_switch.S); it suspends by switching back. Everything goes through the loop:
 * waking only appends to the ready list, so no caller is ever re-entered by what it wakes, and the
 * order of a run is the order of the wake-ups.
 *
 * Stacks are mapped once and kept in a pool: 64 KiB is plenty for our own code (what calls deep
 * libraries goes through co_offload()), sanitizers need four times that. Only pages that were
 * touched cost memory. */
#include "s2d/base/co.h"

#include <stdio.h>
#include <sys/mman.h>

#include "s2d/base/io_backend.h"

#if defined(__SANITIZE_ADDRESS__)
#define CO_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#define CO_TSAN 1
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(CO_ASAN)
#define CO_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if __has_feature(thread_sanitizer) && !defined(CO_TSAN)
#define CO_TSAN 1
#include <sanitizer/tsan_interface.h>
#endif
#endif

#if defined(CO_ASAN) || defined(CO_TSAN)
#define STACK_BYTES (256 * 1024)
#else
#define STACK_BYTES (64 * 1024)
#endif
#define GUARD_BYTES 4096

struct co {
    struct list node;  /* in io->ready, io->free_stacks, or nothing */
    struct list alive; /* in io->coroutines */
    struct io *io;
    const char *name;
    co_fn *fn;
    void *arg;
    void *stack_pointer; /* while it is suspended */
    char *mapping;       /* guard page, stack; this struct is at its upper end */
    unsigned wakes;      /* given and not yet taken */
    bool waiting;        /* in co_wait() */
    bool cancelled;
    bool ended;
    io_callback *cancel; /* ends the present suspension */
    void *cancel_arg;
#ifdef CO_ASAN
    void *fake_stack;
#endif
#ifdef CO_TSAN
    void *fiber;
#endif
};

void co_switch(void **save_stack_pointer, void *stack_pointer);

static __thread struct co *current;
static __thread void *loop_stack_pointer;
#ifdef CO_ASAN
static __thread const void *loop_stack_bottom;
static __thread size_t loop_stack_size;
#endif
#ifdef CO_TSAN
static __thread void *loop_fiber;
#endif

#ifdef CO_ASAN
static char *stack_bottom(const struct co *co)
{
    return co->mapping + GUARD_BYTES;
}
#endif

/* Back to the loop. The coroutine is suspended, or (ended) never continued. */
static void switch_to_loop(struct co *co)
{
#ifdef CO_TSAN
    __tsan_switch_to_fiber(loop_fiber, 0);
#endif
#ifdef CO_ASAN
    __sanitizer_start_switch_fiber(co->ended ? NULL : &co->fake_stack, loop_stack_bottom,
                                   loop_stack_size);
#endif
    co_switch(&co->stack_pointer, loop_stack_pointer);
#ifdef CO_ASAN
    __sanitizer_finish_switch_fiber(co->fake_stack, &loop_stack_bottom, &loop_stack_size);
#endif
}

static void co_main(void)
{
    struct co *co = current;

#ifdef CO_ASAN
    __sanitizer_finish_switch_fiber(NULL, &loop_stack_bottom, &loop_stack_size);
#endif
    co->fn(co->arg);
    co->ended = true;
    switch_to_loop(co);
    abort(); /* an ended coroutine was resumed */
}

void co_resume(struct co *co)
{
#ifdef CO_ASAN
    void *loop_fake_stack;
#endif

    assert(current == NULL);
    current = co;
#ifdef CO_TSAN
    loop_fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(co->fiber, 0);
#endif
#ifdef CO_ASAN
    __sanitizer_start_switch_fiber(&loop_fake_stack, stack_bottom(co), STACK_BYTES);
#endif
    co_switch(&loop_stack_pointer, co->stack_pointer);
#ifdef CO_ASAN
    __sanitizer_finish_switch_fiber(loop_fake_stack, NULL, NULL);
#endif
    current = NULL;
    if (!co->ended)
        return;

    assert(co->cancel == NULL);
    list_remove(&co->alive);
    co->io->coroutine_count--;
    list_push_front(&co->io->free_stacks, &co->node);
}

static struct co *stack_new(struct io *io)
{
    size_t bytes = GUARD_BYTES + STACK_BYTES;
    struct co *co;
    char *mapping;

    mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (mapping == MAP_FAILED)
        return NULL;
    if (mprotect(mapping, GUARD_BYTES, PROT_NONE) < 0) {
        munmap(mapping, bytes);
        return NULL;
    }
    co = (struct co *)(mapping + bytes - ALIGN_UP(sizeof(*co), 64));
    memset(co, 0, sizeof(*co));
    co->mapping = mapping;
    co->io = io;
    list_init(&co->node);
    list_init(&co->alive);
#ifdef CO_TSAN
    co->fiber = __tsan_create_fiber(0);
#endif
    return co;
}

static void stack_free(struct co *co)
{
#ifdef CO_TSAN
    __tsan_destroy_fiber(co->fiber);
#endif
#ifdef CO_ASAN
    __asan_unpoison_memory_region(stack_bottom(co), STACK_BYTES);
#endif
    munmap(co->mapping, GUARD_BYTES + STACK_BYTES);
}

void co_pool_free(struct io *io)
{
    struct list *node;

    while ((node = list_pop_front(&io->free_stacks)))
        stack_free(list_entry(node, struct co, node));
}

/* The first frame: what co_switch() pops, and then returns into co_main(). */
static void stack_prepare(struct co *co)
{
    uint64_t *top = (uint64_t *)ALIGN_DOWN((uintptr_t)co, 64);

#if defined(__x86_64__)
    uint32_t *control;

    *--top = 0; /* the return address of co_main(): none; keeps the ABI's alignment */
    *--top = (uintptr_t)co_main; /* ret */
    for (int i = 0; i < 6; i++)
        *--top = 0; /* rbp, rbx, r12 … r15 */
    top--;
    control = (uint32_t *)top;
    __asm__ volatile("stmxcsr %0" : "=m"(control[0]));
    __asm__ volatile("fnstcw %0" : "=m"(control[1]));
#else
    top -= 20;
    memset(top, 0, 160);
    top[11] = (uintptr_t)co_main; /* x30 */
#endif
    co->stack_pointer = top;
}

int co_spawn_handle(struct io *io, const char *name, co_fn *fn, void *arg, struct co **ret_co)
{
    struct list *node = list_pop_front(&io->free_stacks);
    struct co *co = node ? list_entry(node, struct co, node) : stack_new(io);

    if (!co)
        return -ENOMEM;
    co->name = name;
    co->fn = fn;
    co->arg = arg;
    co->wakes = 0;
    co->waiting = false;
    co->cancelled = false;
    co->ended = false;
    co->cancel = NULL;
#ifdef CO_ASAN
    co->fake_stack = NULL;
    __asan_unpoison_memory_region(stack_bottom(co), (char *)co - stack_bottom(co));
#endif
    stack_prepare(co);
    list_push_back(&io->coroutines, &co->alive);
    io->coroutine_count++;
    list_push_back(&io->ready, &co->node);
    if (ret_co)
        *ret_co = co;
    return 0;
}

int co_spawn(struct io *io, const char *name, co_fn *fn, void *arg)
{
    return co_spawn_handle(io, name, fn, arg, NULL);
}

struct co *co_self(void)
{
    return current;
}

const char *co_name(const struct co *co)
{
    return co->name;
}

struct co *co_of_node(struct list *node)
{
    return list_entry(node, struct co, node);
}

struct co *co_of_alive(struct list *alive)
{
    return list_entry(alive, struct co, alive);
}

const char *co_alive_name(const struct list *alive)
{
    return list_entry(alive, struct co, alive)->name;
}

struct io *co_io(const struct co *co)
{
    return co->io;
}

void co_wait(void)
{
    struct co *co = current;

    assert(co != NULL);
    if (co->wakes == 0) {
        co->waiting = true;
        switch_to_loop(co);
        assert(!co->waiting);
    }
    assert(co->wakes > 0);
    co->wakes--;
}

void co_wake(struct co *co)
{
    assert(!co->ended);
    co->wakes++;
    if (co->waiting) {
        co->waiting = false;
        list_push_back(&co->io->ready, &co->node);
    }
}

void co_yield (void)
{
    struct co *co = current;

    co->waiting = true;
    co_wake(co);
    switch_to_loop(co);
    co->wakes--;
}

/* ---- cancelling ---- */

bool co_cancelled(void)
{
    return current->cancelled;
}

void co_cancel(struct co *co)
{
    io_callback *cancel = co->cancel;

    assert(!co->ended);
    co->cancelled = true;
    co->cancel = NULL;
    if (cancel)
        cancel(co->cancel_arg);
}

int co_set_cancel(io_callback *cancel, void *arg)
{
    struct co *co = current;

    assert(co->cancel == NULL);
    if (co->cancelled)
        return -ECANCELED;
    co->cancel = cancel;
    co->cancel_arg = arg;
    return 0;
}

void co_clear_cancel(void)
{
    current->cancel = NULL;
}
