/* fs_internal: the mounted file system, as its own modules see it. */
#ifndef S2D_FS_FS_INTERNAL_H
#define S2D_FS_FS_INTERNAL_H

#include "fs-refs-lite/alloc.h"
#include "fs-refs-lite/fs.h"
#include "fs-refs-lite/fs_format.h"
#include "fs-refs-lite/inode.h"
#include "fs-refs-lite/journal.h"
#include "fs-refs-lite/lack.h"
#include "fs-refs-lite/node.h"
#include "fs-refs-lite/session.h"
#include "fs-refs-lite/snapshot.h"
#include "fs-refs-lite/txn.h"
#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"

/* A checkpoint between its snapshot and its end. It survives an error of the vdisk: the next call
 * goes on. */
struct checkpoint {
    struct co_mutex mutex;     /* one at a time */
    bool frozen;               /* snapshot taken, root not yet durable */
    bool trimming;             /* root durable, freed blocks not yet usable */
    bool scheduled;            /* a coroutine of our own will do it */
    struct fs_root root;       /* the image to write */
    struct fs_bitmap *bitmaps; /* images, as many as bitmap_count */
    uint64_t *bitmap_blocks;
    size_t bitmap_count;
    size_t bitmaps_written;
    struct run_list trims;
    struct journal_mark mark; /* where the journal stood */
};

struct fs {
    struct io *io;
    struct vdisk *vdisk;
    struct fs_mount_options options;
    struct fs_super super;
    struct fs_root root; /* as last written; `trees` and counters below are newer */
    int error;           /* what every call returns now */
    bool is_mounting;
    struct fs_lacks *lacks; /* while mounting */
    uint64_t unreadable;    /* the node or map that was -EIO last, while mounting; 0: none */
    bool is_surveying;      /* a mount that lacks something: applies nothing, looks on (lack.h) */
    bool is_read_only;      /* damage left no place to write a root: mutations are -EROFS */
    bool is_sealed;         /* read-only, and nothing else is written, either (lack.h) */
    uint64_t awaited;       /* read-only until this block can be read; 0: for good */

    uint64_t generation; /* of the root that the next checkpoint writes */
    struct fs_tree_root trees[FS_TREES];
    uint64_t inode_count;
    uint64_t orphan_count;
    uint64_t next_ino;
    uint64_t next_lsn;

    struct node_cache nodes;
    struct alloc alloc;
    struct journal journal;
    struct txn txn; /* the one being built: that never suspends */
    struct inode_table inodes;
    struct session_table sessions;
    struct checkpoint checkpoint;
    unsigned gate_closed;       /* > 0: no mutation starts */
    enum quiet quiet;           /* while a snapshot is taken */
    unsigned changes_under_way; /* of files' data */
    struct co *caretaker;       /* who makes or removes snapshots; holds snapshot_mutex */
    struct co_mutex snapshot_mutex;
    bool is_unmounting; /* background work that can be left over is */
    struct co_cond gate;
    struct co_group background;
    struct buffer_pool *bounce;
    struct fs_counters counters;
};

/* -EROFS: part of a snapshot, and the running coroutine is not its caretaker. */
must_check static inline int fs_may_change(const struct fs *fs, const struct fs_inode_item *item)
{
    return item->flags & FS_INODE_READ_ONLY && fs->caretaker != co_self() ? -EROFS : 0;
}

/* Records what makes the fs unusable, once, and wakes whoever waits. Returns error. */
int fs_fail_with(struct fs *fs, int error);

#define NO_CLIENT ((struct client_request){0})

/* While it is mounted it asks for slabs, where nothing is. */
static inline bool fs_is_sealed(const struct fs *fs)
{
    return fs->is_sealed && !fs->is_mounting;
}

/* The vdisk, for a mounted fs: once it has lost its ownership the fs does nothing any more. */
must_check static inline int co_disk_read(struct fs *fs, void *buffer, uint64_t offset,
                                          uint64_t length)
{
    int r = co_vdisk_read(fs->vdisk, buffer, offset, length);

    return r == -ESTALE ? fs_fail_with(fs, r) : r;
}

must_check static inline int co_disk_write(struct fs *fs, const void *buffer, uint64_t offset,
                                           uint64_t length, struct client_request request)
{
    int r = fs_is_sealed(fs) ? -EROFS : co_vdisk_write(fs->vdisk, buffer, offset, length, request);

    return r == -ESTALE ? fs_fail_with(fs, r) : r;
}

must_check static inline int co_disk_trim(struct fs *fs, uint64_t offset, uint64_t length,
                                          struct client_request request)
{
    int r = fs_is_sealed(fs) ? -EROFS : co_vdisk_trim(fs->vdisk, offset, length, request);

    return r == -ESTALE ? fs_fail_with(fs, r) : r;
}

/* No copy of what was read, or none could be written there: the rest of the vdisk may be whole. */
static inline bool is_block_error(const struct fs *fs, int error)
{
    return error == -EIO && !fs->error;
}

static inline void fs_note_damage(struct fs *fs)
{
    fs->counters.damage++;
}

/* Runs a statement that may miss nodes until it has all it needs: r = CO_RETRY(fs, tree_get(…)). */
#define CO_RETRY(fs, call)                                                                         \
    ({                                                                                             \
        int retry_r_;                                                                              \
        while ((retry_r_ = (call)) == -EAGAIN) {                                                   \
            retry_r_ = co_node_load(fs);                                                           \
            if (retry_r_ < 0)                                                                      \
                break;                                                                             \
        }                                                                                          \
        retry_r_;                                                                                  \
    })

#endif
