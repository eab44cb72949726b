/* csv: a volume's files, from every node. A call runs in this node's file system when it owns the
 * volume, and is sent to the owner over the bus when it does not; the volume table, which the
 * node's wiring fills, says which, and is asked again at each call.
 *
 * The caller sees no error when an owner dies or a volume moves: the request waits, and is sent
 * again to the new owner, which answers a repeat of what was done already (docs/protocol.md, Client
 * sessions). So every co_ call may wait for as long as a volume has no owner that can be reached.
 * It ends early only when its coroutine is cancelled (-ECANCELED: done or not is unknown) or when
 * this csv stops (-ESHUTDOWN, the same).
 *
 * Until it returns, what a data call changes may take effect more than once: a request that is sent
 * again may run again, over what others wrote meanwhile; never after its answer. Who is the only
 * one to write a block at a time, by locks or because nobody else has it, sees nothing of that.
 * Known again, and answered, are metadata requests, and writes to blocks of a mirror that are in
 * place (resiliency/README.md, 10).
 *
 * Errors of all calls: those of fs.h, except -ESTALE (a moved volume is our business; an inode that
 * is gone is -ENOENT); -ENODEV: the volume was removed.
 *
 * One reactor. */
#ifndef S2D_CSV_CSV_H
#define S2D_CSV_CSV_H

#include "fs-refs-lite/fs.h"

struct bus;
struct csv;
struct csv_file;
struct csv_volume;
struct io;
struct metrics;

#define CSV_VOLUME_NAME_MAX 63
#define CSV_PATH_MAX 4096

struct csv_options {
    uint64_t node;
    uint64_t start_counter;  /* of this daemon; with node, the name of the client session */
    struct bus *bus;         /* NULL: this node is alone. Borrowed, outlives the csv */
    struct metrics *metrics; /* may be NULL */

    /* Asked on the owner, each time a file is opened by path (VM disks are, through NBD; FUSE opens
     * by inode and is not asked). incarnation: of the VM that opens its disk; 0: anybody else.
     * NULL: everything is allowed. Returns 0, -EAGAIN (asked again in a moment), or the error to
     * refuse with (-EPERM). Must not suspend. */
    int (*authorize)(void *arg, const char *volume, const char *path, uint64_t incarnation,
                     bool read_only);
    /* Asked on the owner, before a name is taken away: the path in the volume of a disk of a VM
     * that runs, or shall run, which has that name in it; the first `skip` of them are passed over.
     * NULL: there is no such (more). Borrowed until the caller suspends. NULL: there are no VMs.
     * Must not suspend. */
    const char *(*disk_with_name)(void *arg, const char *volume, const char *name, unsigned skip);
    /* Asked on the owner right before each answer (I5): true while this node may serve. Many
     * answers come from the file system's memory and never meet the vdisk, which asks too: a hole
     * is read without it. NULL: always. Must not suspend. */
    bool (*may_answer)(void *arg);
    void *arg;
};

must_check int csv_new(struct io *io, const struct csv_options *options, struct csv **ret_csv);

/* Makes every call that waits, and all later ones, return -ESHUTDOWN; requests that run in the file
 * system end as they end. The first step of stopping, when clients have been cut off. */
void csv_stop(struct csv *csv);

/* Stops; waits for all calls to have returned and lets go of every file system. All files are
 * closed, all volumes put. NULL is fine. */
void co_csv_close(struct csv *csv);

/* ---- the volume table: for the node's wiring ---- */

struct csv_volume_state {
    uint64_t id; /* never 0, never used again */
    const char *name;
    uint64_t owner;   /* node; 0: nobody now */
    uint64_t session; /* the epoch in which that owner took over: differs for each time */
    struct fs *fs;    /* mounted here, when this node is the owner and ready to serve; else NULL */
};

/* Puts a volume into the table, or changes it. When it had another fs before, no request enters
 * that one any more, those inside are waited for, and what was open is closed: when this returns,
 * the caller unmounts or abandons it. (Where a file without a name was open, the fs was
 * checkpointed and made to fail, so that the file is still there for the next owner: then
 * co_fs_unmount() says -ESTALE and frees it all the same.) If the vdisk may never answer, call
 * fs_fail() first, or see that it answers -ESTALE. Files stay open for their clients, which open
 * them again at the new owner by themselves: leave them some seconds before co_fs_reap_orphans().
 * Returns 0, -EINVAL (id, name), -EEXIST (the name is another volume's), -ENOMEM. */
int co_csv_set_volume(struct csv *csv, const struct csv_volume_state *state);

/* Takes a deleted volume out: as with another fs above; calls on it return -ENODEV. Unknown: fine.
 */
void co_csv_remove_volume(struct csv *csv, uint64_t id);

/* A node is dead, or started again: what it had open here is closed. (A new start is noticed when
 * it asks for something, too.) */
void co_csv_forget_client(struct csv *csv, uint64_t node);

struct csv_volume_counts {
    unsigned open_files; /* here, by clients of all nodes; 0 when not the owner */
    unsigned waiting;    /* calls of this node that wait for an owner */
};

/* A reference. csv_volume_find(): NULL: no such volume. csv_volume_next(): the one after, by name;
 * NULL first and last. */
struct csv_volume *csv_volume_find(struct csv *csv, const char *name);
struct csv_volume *csv_volume_next(struct csv *csv, const char *after);
struct csv_volume *csv_volume_ref(struct csv_volume *volume);
void csv_volume_put(struct csv_volume *volume); /* NULL is fine */
DEFINE_CLEANUP(struct csv_volume, csv_volume_put)
const char *csv_volume_name(const struct csv_volume *volume);
uint64_t csv_volume_id(const struct csv_volume *volume);
struct csv_volume_counts csv_volume_count(const struct csv_volume *volume);

/* ---- names and attributes: as in fs.h, by inode number (FS_ROOT_INO: the root directory) ----
 * ret_attr: never NULL; of the inode found, made or changed. */

int co_csv_lookup(struct csv_volume *volume, uint64_t dir, const char *name,
                  struct fs_attr *ret_attr);
int co_csv_walk(struct csv_volume *volume, const char *path, struct fs_attr *ret_attr);
int co_csv_getattr(struct csv_volume *volume, uint64_t ino, struct fs_attr *ret_attr);
int co_csv_setattr(struct csv_volume *volume, uint64_t ino, const struct fs_attr *attr,
                   unsigned set, struct fs_attr *ret_attr);
/* -EBUSY: a running VM's disk. */
int co_csv_truncate(struct csv_volume *volume, uint64_t ino, uint64_t size,
                    struct fs_attr *ret_attr);
int co_csv_create(struct csv_volume *volume, uint64_t dir, const char *name,
                  const struct fs_new *new, struct fs_attr *ret_attr);
int co_csv_mkdir(struct csv_volume *volume, uint64_t dir, const char *name,
                 const struct fs_new *new, struct fs_attr *ret_attr);
int co_csv_symlink(struct csv_volume *volume, uint64_t dir, const char *name, const char *target,
                   const struct fs_new *new, struct fs_attr *ret_attr);
int co_csv_readlink(struct csv_volume *volume, uint64_t ino, char ret_target[FS_SYMLINK_MAX + 1]);
int co_csv_link(struct csv_volume *volume, uint64_t ino, uint64_t dir, const char *name,
                struct fs_attr *ret_attr);
int co_csv_unlink(struct csv_volume *volume, uint64_t dir, const char *name);
int co_csv_rmdir(struct csv_volume *volume, uint64_t dir, const char *name);
int co_csv_rename(struct csv_volume *volume, uint64_t from_dir, const char *from, uint64_t to_dir,
                  const char *to, unsigned flags);
/* As co_fs_clone_range() and co_fs_clone_file(). -EBUSY: to_ino is a running VM's disk. */
int co_csv_clone_range(struct csv_volume *volume, uint64_t from_ino, uint64_t from_offset,
                       uint64_t to_ino, uint64_t to_offset, uint64_t length);
int co_csv_clone_file(struct csv_volume *volume, uint64_t ino, uint64_t dir, const char *name,
                      struct fs_attr *ret_attr);
enum csv_snapshot_verb { CSV_SNAPSHOT_CREATE, CSV_SNAPSHOT_DELETE, CSV_SNAPSHOT_RESTORE };
/* As co_fs_snapshot_create(), …. ino: of what it is taken; else FS_SNAPSHOTS_INO. -EBUSY: a restore
 * while a VM runs from a disk in this volume. */
int co_csv_snapshot(struct csv_volume *volume, enum csv_snapshot_verb verb, uint64_t ino,
                    const char *name);
/* Gives entries after cookie to emit() until it returns false, the end, or some 32 KiB of them;
 * *ret_end: it was the end. */
int co_csv_readdir(struct csv_volume *volume, uint64_t dir, uint64_t cookie,
                   bool (*emit)(void *arg, const struct fs_dirent *entry), void *arg,
                   bool *ret_end);
int co_csv_statfs(struct csv_volume *volume, struct fs_statfs *ret_statfs);
int co_csv_sync(struct csv_volume *volume, uint64_t ino, bool data_only);

/* ---- open files: an inode lives on while it is open, here or at a new owner ---- */

struct csv_open {
    uint64_t ino;
    bool read_only;
    /* For a VM's disk, and for whoever must be kept away from one. path: NULL, or what authorize()
     * is asked about, at every owner again. incarnation: opening n closes the file to all writers
     * of lower ones, after what they have under way: they get -EPERM from then on. While it is open
     * for writing so, others can open it only read-only (-EBUSY), and not change its size. */
    const char *path;
    uint64_t incarnation;
};
/* Returns 0, -ENOENT, -EBUSY, -EPERM (a higher incarnation has it), what authorize() said, -ENOMEM.
 */
must_check int co_csv_open(struct csv_volume *volume, const struct csv_open *open,
                           struct fs_attr *ret_attr, struct csv_file **ret_file);
/* No call on it is under way. The owner hears of it later. */
void csv_file_close(struct csv_file *file);
DEFINE_CLEANUP(struct csv_file, csv_file_close)

/* As in fs.h, any offset, length and alignment; best when buffer, offset and length are multiples
 * of BLOCK_SIZE. Nobody changes a buffer meanwhile. More than 1 MiB is done in pieces. */
int co_csv_read(struct csv_file *file, void *buffer, uint64_t offset, uint64_t length,
                uint64_t *ret_length);
int co_csv_write(struct csv_file *file, const void *buffer, uint64_t offset, uint64_t length);
int co_csv_allocate(struct csv_file *file, uint64_t offset, uint64_t length, unsigned flags);
int co_csv_punch(struct csv_file *file, uint64_t offset, uint64_t length);
int co_csv_zero(struct csv_file *file, uint64_t offset, uint64_t length);
int co_csv_block_status(struct csv_file *file, uint64_t offset, uint64_t length, bool *ret_data,
                        uint64_t *ret_length);

#endif
