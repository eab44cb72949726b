/* session: outcomes of client requests, so that a repeat is answered and not run (fs.h, struct
 * fs_request). All of them are in RAM too: the table is bounded and small. Nothing suspends but
 * loading. */
#ifndef S2D_FS_SESSION_H
#define S2D_FS_SESSION_H

#include "fs-refs-lite/fs.h"
#include "fs-refs-lite/fs_format.h"

struct txn;
struct txn_result;

struct session {
    uint64_t id;                                     /* 0: unused */
    uint64_t lsn;                                    /* of its last operation */
    struct fs_slot_item slots[FS_SLOTS_PER_SESSION]; /* sequence 0: never used */
};

struct session_table {
    struct session *sessions; /* FS_SESSIONS_MAX */
    size_t last;              /* where the last look-up ended */
};

must_check int session_table_init(struct session_table *table);
void session_table_done(struct session_table *table);
must_check int co_session_load(struct fs *fs); /* at mount, before replay */

/* Was this request answered? Sets is_repeat, lsn and ino then. Returns 0, -EINVAL, -EPROTO (older
 * than the last one). */
must_check int session_look_up(struct fs *fs, struct fs_request request, struct txn_result *result);
/* Adds the outcome to the operation's changes. */
void session_record(struct fs *fs, struct txn *txn, struct fs_request request);
/* An item of the slots tree was put, or deleted (NULL). item: as in the tree. */
void session_changed(struct fs *fs, uint64_t id, uint64_t slot, const void *item);

#endif
