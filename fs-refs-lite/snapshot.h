/* snapshot: who may change what, and when. co_ calls suspend. */
#ifndef S2D_FS_SNAPSHOT_H
#define S2D_FS_SNAPSHOT_H

#include "fs-refs-lite/fs.h"

enum quiet {
    QUIET_NOT,
    QUIET_DATA, /* no change of a file's data begins */
    QUIET_ALL,  /* no operation's record is made */
};

/* Must the running coroutine wait (on fs->gate), if it is at that level? Never the one that takes
 * the snapshot. */
bool fs_must_wait(const struct fs *fs, enum quiet level);

/* Around each change of a file's data. */
must_check int co_change_begin(struct fs *fs);
void change_end(struct fs *fs);

/* Removes what a crash left of snapshots that were being made or deleted. */
must_check int co_snapshots_sweep(struct fs *fs);

#endif
