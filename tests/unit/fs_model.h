/* fs_model: what a file system should be, in the simplest way: files as arrays, directories as
 * lists. And random operations that run on both, with a comparison of the two. */
#ifndef S2D_TESTS_FS_MODEL_H
#define S2D_TESTS_FS_MODEL_H

#include "tests/unit/fs_harness.h"

#define MODEL_FILE_MAX (1400 * KIB)
#define MODEL_HANDLES 3
#define MODEL_SNAPSHOTS 2 /* of the whole model; handle % 2 says which */

enum op_kind {
    OP_CREATE,
    OP_MKDIR,
    OP_SYMLINK,
    OP_LINK,
    OP_UNLINK,
    OP_RMDIR,
    OP_RENAME,
    OP_WRITE,
    OP_WRITE_HELD, /* through a handle, perhaps of an orphan */
    OP_TRUNCATE,
    OP_ALLOCATE,
    OP_PUNCH,
    OP_ZERO,
    OP_CLONE,       /* of a whole file to a new name */
    OP_CLONE_RANGE, /* from offset of `path` to to_offset of `to` */
    OP_CHMOD,
    OP_HOLD, /* opens a handle */
    OP_DROP, /* compares what it shows and closes it */
    OP_CHECKPOINT,
    OP_SNAPSHOT,
    OP_UNSNAPSHOT,
    OP_RESTORE, /* drops the handles first: which files keep their inodes is not modelled */
    OP_SYNC,    /* of a file; with seed % 2 of its data only */
    OP_GROW,    /* the vdisk, as long as its RAM reaches, and the file system on it */
    OP_TRIM,    /* all that is free is given back */
    OP_KINDS,
};

struct op {
    enum op_kind kind;
    char path[64], to[64];
    uint64_t offset, length, seed, to_offset;
    unsigned flags;
    unsigned handle;
};

struct model;    /* one directory and what lies below it */
struct modelled; /* one file, directory or link */

struct model *model_new(void);
struct model *model_copy(const struct model *model); /* without handles */
void model_free(struct model *model);
DEFINE_CLEANUP(struct model, model_free)

/* What the operation should return; the model changes accordingly. */
int model_apply(struct model *model, const struct op *op);
uint64_t model_target(struct model *model,
                      const struct op *op); /* id of the file that a data operation changes, or 0 */

/* A write to the file with that id, if it still has a name. */
void model_write_id(struct model *model, uint64_t id, const struct op *op);

struct op op_random(uint64_t (*random)(void *arg), void *arg);
const char *op_name(enum op_kind kind);

/* The same on the file system, below the directory `base`. handles: the worker's, MODEL_HANDLES of
 * them. */
int co_op_run(struct world *world, const char *base, const struct op *op, struct fs_inode **handles,
              struct model *model);

/* Makes a snapshot what the directory is, again: after a crash that is allowed at any time. */
int co_op_restore(struct world *world, const char *base, const struct op *op);

/* Is what lies at `base`, and in its snapshots, the model? loose_id: a file that may be, block by
 * block and in size, as in `other` (0: none). Returns NULL or what differs. */
const char *co_model_compare(struct world *world, const char *base, const struct model *model,
                             const struct model *other, uint64_t loose_id);

#endif
