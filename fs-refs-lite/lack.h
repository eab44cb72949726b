/* lack: what a mount needs and no copy of the vdisk can give now (-EIO), be it for a while or for
 * good. A change of the journal that is left out for it must not be missing when it comes back:
 * blocks in use would be free, and what was acknowledged undone. So
 *
 *   - a mount that meets such a block applies nothing any more, but looks at all of the journal for
 *     what else it lacks. While there is one that was not unreadable for long enough (each has its
 *     own clock, which an attempt that could read it sets back; it runs only while attempts follow
 *     each other) it is -EAGAIN;
 *   - when all of them are given up, which begins with one more look at each, leaves and maps are
 * overwritten, before any root is written that lacks their changes, and the mount begins anew;
 *   - an inner node is never overwritten, for all that hangs on it may be whole; nor can what does
 *     not take a write (of parity, a row that cannot be decoded). Then the mount is sealed: nothing
 *     is written, the journal stays, and a block that comes back finds its changes there.
 *
 * One reactor; co_ calls suspend. */
#ifndef S2D_FS_LACK_H
#define S2D_FS_LACK_H

#include "fs-refs-lite/fs.h"
#include "s2d/base/base.h"

struct node_want;

enum lack_kind {
    LACK_LEAF,  /* of a tree, a map, or any node of refs: overwritten when the journal changes it */
    LACK_INNER, /* seals the mount */
    LACK_SESSIONS, /* inner node of their tree: what hangs on it is forgotten, which harms nobody */
};

/* An attempt begins. is_first: of a call of co_fs_mount(). */
void lacks_begin(struct fs_lacks *lacks, bool is_first);

enum lack_kind lack_kind_of(const struct node_want *want);
/* While mounting: no copy gives this block. It is the last that was, until the next. */
void lack_note(struct fs *fs, uint64_t address, enum lack_kind kind);
/* This attempt met it, and need not ask again. */
bool lack_is_met(const struct fs *fs, uint64_t address);
bool lack_is_given_up(const struct fs *fs, uint64_t address);
/* While mounting: this error is for what lack_note() noted last. */
bool lack_is_why(const struct fs *fs, int error);

/* The mount needs what lack_note() noted last; is_changed: for a change of the journal. Unless that
 * is settled the mount only looks on (fs->is_surveying). */
void lack_need(struct fs *fs, bool is_changed);
/* There is no room: it may be behind what was met. False: nothing that was met may come back. */
bool lack_may_hide_room(struct fs *fs);
uint64_t lack_first(const struct fs *fs); /* that was met; 0: none was */

/* After a survey. Returns -EAGAIN (fs->lacks->again: it was settled, mount anew; else: wait), or
 * the vdisk's error. */
must_check int co_lacks_settle(struct fs *fs);

/* A read-only mount: can what it lacks be read again? Then this fs fails, for the next to have it.
 * Returns fs->error. */
must_check int co_lack_look(struct fs *fs);

#endif
