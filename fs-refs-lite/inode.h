/* inode: the inodes in RAM, which are those that somebody references or whose times are newer than
 * their item. The item in the tree is what counts; the copy here is equal to it but for times and
 * change counter. */
#ifndef S2D_FS_INODE_H
#define S2D_FS_INODE_H

#include <sys/stat.h>

#include "fs-refs-lite/fs.h"
#include "fs-refs-lite/fs_format.h"
#include "s2d/base/co.h"

struct fs;
struct txn;

struct extent { /* a run of a file's blocks on the vdisk */
    uint64_t file_block;
    uint64_t blocks;
    uint64_t address;
    uint64_t birth;
    bool is_shared; /* perhaps: others may map some of its blocks (refs.h) */
};

struct fs_inode {
    struct fs_inode *hash_next;
    struct list times_node; /* in times_dirty or alone */
    struct fs *fs;
    uint64_t ino;
    unsigned references;
    bool is_reaping; /* an orphan whose space is being freed: nobody may reference it any more */
    uint64_t lsn;    /* of its last change: durable before an answer shows it */
    struct fs_inode_item item;
    struct range_lock lock; /* bytes of the file */
    struct extent
        last; /* where the last I/O went; blocks 0: none. The way around the tree for most I/O */
};

#define INODE_BUCKETS 4096

struct inode_table {
    struct fs_inode **buckets; /* INODE_BUCKETS */
    struct list times_dirty;
    size_t count;
};

must_check int inode_table_init(struct inode_table *table);
void inode_table_done(struct inode_table *table); /* frees what is left */

/* The item as it is now, from RAM or the tree; for plans. 0, -ENOENT, -EAGAIN, -EBADMSG */
must_check int inode_item_get(struct fs *fs, uint64_t ino, struct fs_inode_item *ret_item);
/* Lists the item as changed, its change counter raised. */
void inode_item_put(struct txn *txn, uint64_t ino, struct fs_inode_item *item);
/* Makes the item of a file that of a new, empty one with the same owner, mode and so on. */
void inode_item_renew(const struct txn *txn, struct fs_inode_item *item);
static inline struct fs_key inode_key(uint64_t ino)
{
    return (struct fs_key){.object = ino, .kind = FS_KIND_INODE};
}
static inline struct fs_key orphan_key(uint64_t ino)
{
    return (struct fs_key){.object = 0, .kind = FS_KIND_ORPHAN, .offset = ino};
}

/* An item of an inode was put (NULL: deleted) in the tree by operation lsn. */
void inode_changed(struct fs *fs, uint64_t ino, const struct fs_inode_item *item, uint64_t lsn);

struct fs_inode *inode_find(struct fs *fs, uint64_t ino); /* in RAM, or NULL */
/* Must be called when a plan changed the extents of an inode. */
void inode_forget_extent(struct fs_inode *inode);

/* An overwrite in place: times change in RAM only. */
void inode_touch(struct fs_inode *inode);
/* Brings times into the tree, unjournalled: part of a checkpoint. */
must_check int co_inode_flush_times(struct fs *fs);

/* Waits until what an answer would show is durable. */
must_check int co_inode_settle(struct fs_inode *inode);

/* Lists the freeing of an inode without names, or of the first part of it: then it is listed as an
 * orphan. */
must_check int inode_destroy_step(struct fs *fs, struct txn *txn, uint64_t ino,
                                  struct fs_inode_item *item, bool *ret_done);

/* Frees an orphan in the background if nobody references it. */
void inode_reap_later(struct fs_inode *inode);

#endif
