/* sometimes: points of the code that tests must have reached, sometimes. A campaign of random
 * faults is worth what it meets: SOMETIMES("a stale writer is refused by a seal") stands where that
 * happens, counts, and tests/sim/sometimes tells which points a campaign never reached.
 *
 * The points are in every build, the daemon's too: what is tested is then what runs, and a point
 * costs one increment in memory. They stand at rare turns, not in loops over blocks. The counters
 * lie in a section of their own (each program's test part reads them, tests/sim/sometimes_save.c);
 * two points may bear one name, and count as one. Any thread; nothing suspends. */
#ifndef S2D_BASE_SOMETIMES_H
#define S2D_BASE_SOMETIMES_H

#include "s2d/base/base.h"

struct sometimes_point {
    const char *name, *file;
    uint64_t count;
};

/* text: a constant that says what happens here. The section holds pointers: the compiler may pad
 * structures, but not those. A lost count (two threads) is no harm. */
#define SOMETIMES(text)                                                                            \
    do {                                                                                           \
        static struct sometimes_point sometimes_point_ = {.name = (text), .file = __FILE__};       \
        static struct sometimes_point *const sometimes_entry_                                      \
            __attribute__((used, section("s2d_sometimes"))) = &sometimes_point_;                   \
        uint64_t sometimes_count_ = __atomic_load_n(&sometimes_point_.count, __ATOMIC_RELAXED);    \
                                                                                                   \
        __atomic_store_n(&sometimes_point_.count, sometimes_count_ + 1, __ATOMIC_RELAXED);         \
    } while (0)

#define SOMETIMES_IF(condition, text)                                                              \
    do {                                                                                           \
        if (condition)                                                                             \
            SOMETIMES(text);                                                                       \
    } while (0)

#endif
