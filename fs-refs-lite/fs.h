/* fs: the volume's file system on one vdisk. Names, inodes, extents; knows `struct vdisk` and
 * nothing below it.
 *
 * One reactor: all calls come from the loop that was given to co_fs_mount(); co_ calls suspend.
 * Nothing here checks permissions or follows symbolic links: that is for whoever exports the
 * volume. Times are nanoseconds since 1970.
 *
 * What an answer means. A mutating call returns 0 once its journal record (and, before it, the
 * data) is durable on the vdisk: there is nothing left to flush. No read answers with what a power
 * cut could take back: it waits for the record. The exception is mtime, ctime and change counter
 * of an overwrite in place, kept in RAM until the next checkpoint or co_fs_sync().
 *
 * Errors, beside those named at each call, of every co_ call on a mounted fs:
 *   -ESTALE   the vdisk lost its ownership. This fs does nothing any more: co_fs_abandon() it, the
 *             new owner mounts.
 *   -EIO      the vdisk failed to write a record: as -ESTALE. Or it failed to read, or to write
 *             data: that is all it costs.
 *   -EBADMSG  a damaged block of metadata: what hangs on it cannot be used, the rest goes on.
 *   -EROFS    of what changes metadata: at mount, damaged allocation maps left no place for a root.
 *             Of what changes anything: the mount is sealed, see co_fs_mount().
 *   -ENOMEM, -ECANCELED (the coroutine was cancelled before anything was done)
 */
#ifndef S2D_FS_FS_H
#define S2D_FS_FS_H

#include "resiliency/vdisk.h"
#include "s2d/base/base.h"

struct io;
struct fs;
struct fs_inode; /* a reference to a file, directory, … in RAM */

#define FS_NAME_MAX 255     /* bytes, without the 0; any but '/' and 0 */
#define FS_SYMLINK_MAX 4095 /* bytes of a target */
#define FS_ROOT_INO 1
#define FS_SNAPSHOTS_INO 2 /* found as FS_SNAPSHOTS_NAME in the root directory, but not listed */
#define FS_SNAPSHOTS_NAME ".snapshots"
#define FS_FILE_SIZE_MAX ((uint64_t)1 << 60) /* beyond: -EFBIG */
#define FS_LINK_MAX 1000000                  /* names of one file: -EMLINK */
#define FS_SLOTS_PER_SESSION 64              /* a request's slot is below; beyond: -EINVAL */
#define FS_SESSIONS_MAX                                                                            \
    256 /* remembered; the one unused for longest is forgotten for a new one                       \
         */
#define FS_VOLUME_BYTES_MIN (16 * MIB)

/* What makes a repeated metadata request the same request (docs/protocol.md, Client
 * sessions). A client gives each slot to one request at a time and raises sequence (from 1, and to
 * 1 again behind UINT32_MAX) with each new one in that slot. The outcome is journalled in the
 * operation's own transaction, so a repeat, also to a new owner, is answered and not run. session
 * 0: no such promise. A request that failed left no trace, and its repeat runs. -EPROTO: a sequence
 * older than the slot's last one. */
struct fs_request {
    uint64_t session;
    uint32_t slot;
    uint32_t sequence;
};
#define FS_NO_REQUEST ((struct fs_request){0})

/* ---- the volume ---- */

struct fs_format_options {
    uint8_t uuid[16];       /* of the volume; all zero: drawn from io */
    char label[64];         /* for people; 0-terminated */
    uint64_t journal_bytes; /* 0: 1/64 of the volume, 1 MiB to 64 MiB; -EINVAL outside of 256 KiB to
                               64 MiB */
    uint32_t group_blocks;  /* of an allocation group; 0: the most there can be, which is best but
                               for tests; else a multiple of 64 from 512 (2 MiB) on */
    uint32_t uid, gid, mode; /* of the root directory; mode 0: 0755 */
};

/* Makes an empty file system; whatever was there is lost. options may be NULL.
 * Returns 0, -EINVAL (options, or vdisk below FS_VOLUME_BYTES_MIN), -ENOSPC, or the vdisk's error.
 */
must_check int co_fs_format(struct io *io, struct vdisk *vdisk,
                            const struct fs_format_options *options);

#define FS_LACKS_MAX 256

/* A block of metadata that a mount met and no copy of the vdisk could give. Private. */
struct fs_lack {
    uint64_t address;
    uint64_t met_ns; /* when an attempt could not read it last */
    uint64_t
        waited_ns;   /* so long attempts have tried in vain, as far as they followed each other */
    uint8_t kind;    /* enum lack_kind */
    bool is_met;     /* by the attempt under way, or the last one */
    bool is_needed;  /* it cannot go on without */
    bool is_changed; /* by the journal */
    bool is_given_up, is_overwritten;
};

/* What the mounts of a volume wait for: from one attempt to the next, so the caller's. All zeros
 * before the first one, and again when attempts do not follow each other. */
struct fs_lacks {
    struct fs_lack blocks[FS_LACKS_MAX];
    unsigned count;
    struct fs_lack others; /* all that find no room there */
    uint64_t sealed_for;   /* the block; 0: not so */
    bool again;            /* what was lacking is settled */
};

struct fs_mount_options {
    uint64_t cache_bytes;  /* RAM for tree nodes and allocation maps; 0: 32 MiB; at least 16 MiB */
    uint64_t bounce_bytes; /* RAM for requests that are not block-aligned; 0: 8 MiB */
    bool salvage;  /* mount although the journal is damaged in the middle: later operations are lost
                    */
    bool gives_up; /* waits for nothing: what would be -EAGAIN is given up at once */
    struct fs_lacks *lacks; /* borrowed during the call; NULL: it waits for ever, unless gives_up */
    uint64_t unreadable_wait_ns; /* with lacks: so long each block is waited for */
};

/* Mounts: newest root, journal replayed, one root written. The time is bounded by the journal, not
 * by the volume. io and vdisk: borrowed, outlive the fs. options may be NULL, copied. Names that
 * are gone but were open (orphans) stay until co_fs_reap_orphans(), so that export nodes can open
 * their handles again first. Returns 0, -EBADMSG (no valid superblock or root, or a journal with a
 * hole), -EPROTONOSUPPORT (format of another version or with an unknown feature), -ENOSPC, or the
 * vdisk's error; -EAGAIN: the vdisk cannot give a node or map now
 * that is needed (-EIO), and that may come back: try again, for as long as that can be.
 *
 * What is given up: leaves and maps that the journal changes are overwritten, and lost for good
 * with these changes. Inner nodes are not, unless salvage: then nothing is (sealed: all that
 * changes anything is -EROFS), what hangs on the node is -EBADMSG, and when it can be read again
 * co_fs_checkpoint() finds out: every call is -ESTALE from there on, the next mount has all of it.
 */
must_check int co_fs_mount(struct io *io, struct vdisk *vdisk,
                           const struct fs_mount_options *options, struct fs **ret_fs);

/* Checkpoints, marks the volume clean and frees fs. All inodes were put, no call is under way. On
 * an error the volume is as after a crash (nothing acknowledged is lost); fs is freed all the same.
 */
int co_fs_unmount(struct fs *fs);

/* Frees fs without another write: for a node that lost the vdisk. Calls still under way return
 * -ESTALE soon and must have returned, inodes must have been put, before this is called. Waits for
 * its own background work. NULL is fine. */
void co_fs_abandon(struct fs *fs);

/* Makes every later call return -ESTALE now, those waiting inside included. Does not suspend. */
void fs_fail(struct fs *fs);
int fs_error(const struct fs *fs);         /* 0, or what every call returns now */
bool fs_is_read_only(const struct fs *fs); /* see -EROFS above */
/* Tests: drops what RAM holds of nodes and maps, but for changes, as if others had needed the room.
 * Does not suspend. */
void fs_forget(struct fs *fs);

/* Writes what changed since the last root, so that mounting is quick and freed space returns. The
 * fs does it by itself when the journal is half full; the caller calls it on a timer (every 5 to 30
 * s). Returns 0 when there is nothing to do. */
int co_fs_checkpoint(struct fs *fs);

/* Frees all orphans that nobody references: call it once, when the exports had time to open their
 * handles again. */
int co_fs_reap_orphans(struct fs *fs);

/* Takes in the space when the vdisk has grown. Returns 0, also when it has not. */
int co_fs_grow(struct fs *fs);

/* Trims all free space: after a crash freed blocks may have missed their trim. A job; ops go on
 * meanwhile. */
int co_fs_trim_free(struct fs *fs);

struct fs_statfs {
    uint64_t total_bytes;
    uint64_t free_bytes;      /* not used by anything, freed and not yet reusable included */
    uint64_t available_bytes; /* for data: free less the reserve that lets metadata and deletes
                                 always work */
    uint64_t inodes;
    uint64_t orphans;
    uint8_t uuid[16];
    char label[64];
};
int co_fs_statfs(struct fs *fs, struct fs_statfs *ret_statfs);

struct fs_counters {
    uint64_t journal_records, journal_writes, journal_bytes;
    uint64_t checkpoints, nodes_written, bitmaps_written, trims;
    uint64_t node_reads, node_hits, extent_cache_hits;
    uint64_t data_reads, data_writes; /* requests to the vdisk */
    uint64_t cloned_extents;          /* pieces of files that were shared */
    uint64_t replaced_blocks;         /* shared ones, by a write */
    uint64_t replayed_records;        /* at mount */
    uint64_t damage;                  /* blocks and items found damaged since mount */
};
const struct fs_counters *fs_counters(const struct fs *fs);

/* ---- inodes ---- */

struct fs_attr {
    uint64_t ino;        /* never used again in this volume */
    uint64_t generation; /* of the inode: for handles that outlive it */
    uint32_t mode;       /* type and permissions, as in stat(2) */
    uint32_t nlink;
    uint32_t uid, gid;
    uint32_t rdev;
    uint64_t size;
    uint64_t allocated_bytes;
    int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
    uint64_t change; /* differs after every change of data or attributes */
};

/* References an inode by number. generation 0: any. A referenced inode lives on when its last name
 * goes, like an open file. Returns 0, -ESTALE (no such inode any more, or another generation).
 * fs_error() tells that -ESTALE from the fs's. */
must_check int co_fs_inode_get(struct fs *fs, uint64_t ino, uint64_t generation,
                               struct fs_inode **ret_inode);
struct fs_inode *fs_inode_ref(struct fs_inode *inode); /* one more reference to the same */
void fs_inode_put(struct fs_inode *inode); /* NULL is fine. The last one of an orphan frees its
                                              space, in the background */
DEFINE_CLEANUP(struct fs_inode, fs_inode_put)
uint64_t fs_inode_number(const struct fs_inode *inode);
uint64_t fs_inode_generation(const struct fs_inode *inode);
uint32_t fs_inode_mode(const struct fs_inode *inode);
uint64_t fs_inode_size(const struct fs_inode *inode); /* now, without waiting */
struct fs *fs_inode_fs(const struct fs_inode *inode);

int co_fs_getattr(struct fs_inode *inode, struct fs_attr *ret_attr);

enum fs_set {
    FS_SET_MODE = BIT(0), /* permission bits; the type stays */
    FS_SET_UID = BIT(1),
    FS_SET_GID = BIT(2),
    FS_SET_ATIME = BIT(3),
    FS_SET_MTIME = BIT(4),
    FS_SET_ATIME_NOW = BIT(5),
    FS_SET_MTIME_NOW = BIT(6),
};
/* Sets what `set` names from attr; ctime becomes now. For the size: co_fs_truncate(). */
int co_fs_setattr(struct fs_inode *inode, const struct fs_attr *attr, unsigned set,
                  struct fs_request request);

/* ---- names. Common errors: -ENOTDIR (dir is none), -ENOENT (no such name, or dir was removed),
 * -ENAMETOOLONG, -EINVAL (an empty name, '/', "." or ".." where a name is made or removed), -ENOSPC
 * ---- */

/* "." and ".." are answered. ret_inode: a reference. */
must_check int co_fs_lookup(struct fs_inode *dir, const char *name, struct fs_inode **ret_inode);

/* Walks "a/b/c" (leading, double and trailing slashes are fine; "" is the root directory). Follows
 * no link: -ELOOP when one is in the middle; "." and ".." are refused with -EINVAL. */
must_check int co_fs_walk(struct fs *fs, const char *path, struct fs_inode **ret_inode);
/* Where `name` is first one of the names of which co_fs_walk() takes path to be made; NULL: it is
 * not. */
const char *fs_path_find(const char *path, const char *name);

struct fs_new {
    uint32_t mode; /* type and permissions: S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK; S_IFDIR
                      for mkdir */
    uint32_t uid, gid;
    uint32_t rdev;
};
/* Makes a file. ret_inode may be NULL. -EEXIST. */
int co_fs_create(struct fs_inode *dir, const char *name, const struct fs_new *new,
                 struct fs_request request, struct fs_inode **ret_inode);
int co_fs_mkdir(struct fs_inode *dir, const char *name, const struct fs_new *new,
                struct fs_request request, struct fs_inode **ret_inode);
int co_fs_symlink(struct fs_inode *dir, const char *name, const char *target,
                  const struct fs_new *new, struct fs_request request, struct fs_inode **ret_inode);
/* target holds FS_SYMLINK_MAX + 1 bytes. -EINVAL: not a symbolic link. */
int co_fs_readlink(struct fs_inode *inode, char *ret_target);
/* -EPERM for a directory, -ENOENT for an orphan, -EMLINK. */
int co_fs_link(struct fs_inode *inode, struct fs_inode *dir, const char *name,
               struct fs_request request);
int co_fs_unlink(struct fs_inode *dir, const char *name, struct fs_request request); /* -EISDIR */
int co_fs_rmdir(struct fs_inode *dir, const char *name, struct fs_request request); /* -ENOTEMPTY */

enum fs_rename_flags {
    FS_RENAME_NOREPLACE = BIT(0), /* -EEXIST when the new name is taken */
    FS_RENAME_EXCHANGE = BIT(1),  /* both names exist and change places */
};
/* As rename(2) and renameat2(2): atomically; -EINVAL: a directory into itself; -ENOTEMPTY, -EISDIR,
 * -ENOTDIR. */
int co_fs_rename(struct fs_inode *from_dir, const char *from, struct fs_inode *to_dir,
                 const char *to, unsigned flags, struct fs_request request);

struct fs_dirent {
    uint64_t ino;
    uint64_t cookie;  /* of this entry: stable while the name exists, > 0, below 2^63 */
    uint32_t type;    /* S_IFMT bits */
    const char *name; /* 0-terminated, valid during the call */
};
/* Gives the entries after `cookie` (0: from the start), "." and ".." included, to emit() until it
 * returns false (that entry was not taken) or the end. emit() does not suspend; what it got is to
 * be told to others only when 0 was returned: then it is durable. Names made or removed meanwhile
 * may be seen or not; others are seen exactly once. */
int co_fs_readdir(struct fs_inode *dir, uint64_t cookie,
                  bool (*emit)(void *arg, const struct fs_dirent *entry), void *arg);

/* ---- data of regular files (-EISDIR, -EINVAL for others) ----
 * Any offset, length and alignment. A request whose offset, length and memory are multiples of
 * BLOCK_SIZE passes its memory straight to the vdisk (whose rule applies: nobody changes it
 * meanwhile); others are read-modify-written through a private buffer under the lock of their
 * range. Reads share, writes exclude each other where they overlap. */

/* Reads up to length bytes; *ret_length is less only at the end of the file. Holes read as zeros.
 */
int co_fs_read(struct fs_inode *inode, void *buffer, uint64_t offset, uint64_t length,
               uint64_t *ret_length);

/* Writes, extends, fills holes. On an error any part may have been written. -ENOSPC, -EFBIG.
 * request goes to the vdisk with what is written in place: blocks that a repeat wrote already are
 * left alone there. What fills holes, or replaces what is shared, runs again. */
int co_fs_write(struct fs_inode *inode, const void *buffer, uint64_t offset, uint64_t length,
                struct client_request request);

/* Sets the size; what was cut off is freed, what is added reads as zeros. */
int co_fs_truncate(struct fs_inode *inode, uint64_t size, struct fs_request request);

enum fs_allocate_flags {
    FS_ALLOCATE_KEEP_SIZE = BIT(0),
};
/* Preallocates: later writes to the range change no metadata and meet no -ENOSPC of the file
 * system. -ENOSPC: some of it may have been allocated. */
int co_fs_allocate(struct fs_inode *inode, uint64_t offset, uint64_t length, unsigned flags);

/* The range reads as zeros and its whole blocks are freed; the size stays. */
int co_fs_punch(struct fs_inode *inode, uint64_t offset, uint64_t length);
/* The range reads as zeros and what is allocated stays so (NBD write-zeroes without hole); extends
 * never, beyond the end it is cut. */
int co_fs_zero(struct fs_inode *inode, uint64_t offset, uint64_t length);

/* Clones: `to` shows at to_offset what `from` shows at from_offset, and both share the blocks until
 * one of them is written. Metadata only: microseconds for each extent. Offsets are multiples of
 * BLOCK_SIZE, and so is length, unless the range ends where `from` ends and at or behind where `to`
 * ends. Extends `to`. It is one moment's contents of `from`; after a crash any first part of it may
 * have been done. Files of one fs; the same file, where the ranges do not overlap.
 * -EINVAL (alignment, overlap, a range beyond from's end), -ENOSPC. */
int co_fs_clone_range(struct fs_inode *from, uint64_t from_offset, struct fs_inode *to,
                      uint64_t to_offset, uint64_t length, struct fs_request request);

/* A new file with the contents, owner and mode of `from`: wholly there or not at all. ret_inode may
 * be NULL. -EEXIST. */
int co_fs_clone_file(struct fs_inode *from, struct fs_inode *dir, const char *name,
                     struct fs_request request, struct fs_inode **ret_inode);

/* The run of blocks at offset that is all data or all hole, as NBD block status and SEEK_DATA ask.
 * *ret_length: bytes from offset, at most `length`; beyond the end of the file all is hole. */
int co_fs_block_status(struct fs_inode *inode, uint64_t offset, uint64_t length, bool *ret_data,
                       uint64_t *ret_length);

/* fsync: data and names are durable already; this makes the times of overwrites so. data_only
 * (fdatasync, guest flush): free. */
int co_fs_sync(struct fs_inode *inode, bool data_only);

/* ---- snapshots: /.snapshots/NAME is what a file or a directory with all below it was at one
 * moment, sharing its blocks. Nobody can change it (-EROFS). While one is taken or restored,
 * changes of this fs wait: some microseconds for each extent and some tens for each inode. One such
 * call runs at a time. Names: as of files, not beginning with a dot (-EINVAL). ---- */

/* -EEXIST, -EROFS (of a snapshot), -ENOSPC. */
int co_fs_snapshot_create(struct fs_inode *from, const char *name, struct fs_request request);
/* -ENOENT. Its space returns in the background. */
int co_fs_snapshot_delete(struct fs *fs, const char *name, struct fs_request request);
/* Makes what it was taken of like the snapshot again: what is there under the same names keeps its
 * inodes, what is not in the snapshot goes. After a crash some of it may have been done: the
 * snapshot is unharmed, call it again. -ENOENT; -ENOTDIR: what it was taken of is gone, or is
 * something else. */
int co_fs_snapshot_restore(struct fs *fs, const char *name, struct fs_request request);

/* ---- client sessions ---- */

/* Forgets the outcomes of a client session that has ended. Returns 0, also when it is unknown. */
int co_fs_session_end(struct fs *fs, uint64_t session);

/* ---- checking ---- */

struct fs_check_result {
    uint64_t inodes, directories, names, extents, nodes;
    uint64_t used_blocks;
    uint64_t problems; /* each was reported */
};
/* Walks everything: trees, names and link counts, orphans, extents and the allocation maps.
 * Mutations wait meanwhile. report(): one line a problem, may be NULL. Returns 0 when it could look
 * (problems or not). */
int co_fs_check(struct fs *fs, void (*report)(void *arg, const char *line), void *arg,
                struct fs_check_result *ret_result);

#endif
