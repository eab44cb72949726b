/* txn: one operation's changes, all or nothing. A plan looks at the trees, without suspending, and
 * lists what is to change; when all nodes for that are in RAM the list goes to the journal and is
 * applied, in the same breath. So operations need no locks against each other: each sees the trees
 * before or after another one, never between. */
#ifndef S2D_FS_TXN_H
#define S2D_FS_TXN_H

#include "fs-refs-lite/alloc.h"
#include "fs-refs-lite/fs.h"
#include "fs-refs-lite/fs_format.h"
#include "fs-refs-lite/refs.h"

struct txn {
    struct fs_journal_record *record; /* FS_JOURNAL_RECORD_MAX bytes */
    struct alloc_hold *hold;          /* of the plan: taken when the record is in the journal */
    uint64_t lsn;                     /* of this operation */
    uint64_t now_ns;
    uint64_t ino;          /* what it made: kept for a repeat of the request */
    bool is_nothing;       /* the plan found that nothing is to be done */
    struct ref_edits refs; /* resolved when the plan is done */
};

enum txn_need {
    TXN_GROWS,   /* makes names or maps blocks: -ENOSPC when half of the reserve is gone */
    TXN_SHRINKS, /* works always */
};

/* Lists changes with the calls below. May run several times, from the beginning; does not suspend.
 * Returns 0, -EAGAIN (a node was missing), or the operation's error, which leaves no trace. */
typedef int txn_plan(struct fs *fs, struct txn *txn, void *arg);

struct txn_result {
    uint64_t lsn; /* 0: there was nothing to do */
    uint64_t ino;
    bool is_repeat; /* answered from the journal, not run */
};

/* Runs plan and applies it; then waits until it is durable, unless the caller is the caretaker of
 * snapshots, who does that once for all. ret_result may be NULL.
 * Returns 0, plan's error, -ENOSPC, -EPROTO or -EINVAL (request), -EBADMSG, fs->error. */
must_check int co_txn_run(struct fs *fs, enum txn_need need, struct fs_request request,
                          txn_plan *plan, void *arg, struct txn_result *ret_result);
/* The same without the wait: for one of several steps, the last of which waits for all. */
must_check int co_txn_step(struct fs *fs, enum txn_need need, txn_plan *plan, void *arg,
                           struct txn_result *ret_result);

#define TXN_ENTRIES_BYTES_MAX (FS_JOURNAL_RECORD_MAX - sizeof(struct fs_journal_record))
void txn_put(struct txn *txn, enum fs_tree_id tree, const struct fs_key *key, const void *value,
             size_t size);
void txn_delete(struct txn *txn, enum fs_tree_id tree, const struct fs_key *key);
void txn_allocate(struct txn *txn, uint64_t address, uint64_t blocks);
void txn_free(struct txn *txn, uint64_t address, uint64_t blocks);
size_t txn_room(const struct txn *txn); /* bytes left for entries and their values */

/* Is there room to work: journal, nodes, addresses? Checkpoints when not. For those who change
 * trees themselves. */
must_check int co_txn_room(struct fs *fs, enum txn_need need);

/* Asks for the addresses that operations will need while the pool of a thin vdisk may have room.
 * Returns 0 (also when it has none), -ENOMEM, or the vdisk's error. */
must_check int co_txn_stock(struct fs *fs);

/* Replay, pass 1: what a record took must not be given to nodes. Pass 2: its changes again. */
must_check int co_txn_replay_blocks(struct fs *fs, const struct fs_journal_record *record);
must_check int co_txn_replay(struct fs *fs, const struct fs_journal_record *record);

#endif
