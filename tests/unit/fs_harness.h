/* fs_harness: a simulated machine, a RAM vdisk and a file system on it, for tests. check(…) works
 * outside of cmocka's longjmp(), which must not leave a coroutine: a failure prints where it is and
 * ends the program. */
#ifndef S2D_TESTS_FS_HARNESS_H
#define S2D_TESTS_FS_HARNESS_H

#include <stdio.h>
#include <sys/stat.h>

#include "fs-refs-lite/fs.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "tests/unit/ram_vdisk.h"

struct world {
    struct io *io;
    struct ram_vdisk ram;
    struct fs *fs;
    uint64_t seed;
    const char *what; /* printed when a check fails */
    uint64_t which;
};

extern struct world *world_now; /* for messages */

#define check(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            check_failed(#condition, __FILE__, __LINE__);                                          \
    } while (0)
#define check_int(value, expected)                                                                 \
    do {                                                                                           \
        long long value_ = (long long)(value), expected_ = (long long)(expected);                  \
        if (value_ != expected_)                                                                   \
            check_int_failed(#value, value_, expected_, __FILE__, __LINE__);                       \
    } while (0)
_Noreturn void check_failed(const char *what, const char *file, int line);
_Noreturn void check_int_failed(const char *what, long long value, long long expected,
                                const char *file, int line);

/* Runs co_main(world) on a machine of the simulator, with a vdisk of that size, until it returns.
 * The seed repeats all. */
void world_run(uint64_t size_bytes, uint64_t seed, void (*co_main)(struct world *world));

void co_world_format(struct world *world);
void co_world_mount(struct world *world);
void co_world_unmount(struct world *world);
void co_world_crash(struct world *world); /* abandons, the power comes back */
/* Crashes, and after so many writes of the next mount again, if it gets so far; mounts. */
void co_world_crash_twice(struct world *world, uint64_t writes);
void co_world_check(struct world *world); /* co_fs_check() finds nothing */
void co_world_remount(struct world *world);
/* Begins a test: formatted and mounted. Ends it: sound, also after a remount, and unmounted. */
void co_world_fresh(struct world *world);
void co_world_done(struct world *world);

/* Makes the checksum of a metadata block right again after it was changed; leaves other blocks
 * alone. */
void seal_block(void *block);

/* Shorthands by path, relative to the root. */
int co_create(struct world *world, const char *path);
int co_mkdir(struct world *world, const char *path);
int co_unlink(struct world *world, const char *path);
int co_rmdir(struct world *world, const char *path);
int co_rename(struct world *world, const char *from, const char *to, unsigned flags);
int co_open(struct world *world, const char *path, struct fs_inode **ret_inode);
struct fs_inode *co_must_open(struct world *world, const char *path); /* for fs_inode_put() */
/* The directory of path, and its last component. */
int co_parent(struct world *world, const char *path, struct fs_inode **ret_dir,
              const char **ret_name);
/* Writes a pattern that depends on seed and place. */
int co_write_pattern(struct fs_inode *inode, uint64_t offset, uint64_t length, uint64_t seed);
uint8_t pattern_byte(uint64_t seed, uint64_t offset);

#endif
