/* journal: what was promised since the last root. One reactor. Records gather in RAM while a batch
 * is being written, so what comes together is written together, and one batch is in flight at a
 * time: see fs_format.h for why that matters. */
#ifndef S2D_FS_JOURNAL_H
#define S2D_FS_JOURNAL_H

#include "fs-refs-lite/fs_format.h"
#include "s2d/base/base.h"
#include "s2d/base/co.h"

struct fs;

struct journal_mark {
    uint64_t head;
    uint64_t sequence;
};

struct journal {
    uint64_t first_block;
    uint64_t blocks;
    uint64_t head, tail;       /* blocks in the ring; equal: empty, for it never gets full */
    uint64_t sequence;         /* of the next batch */
    size_t batch_max;          /* bytes */
    char *gathering, *writing; /* batch_max each, aligned */
    size_t gathered;           /* bytes, header included */
    unsigned records;
    uint64_t appended_lsn, durable_lsn;
    bool is_writing;
    struct co_mutex lock; /* its holder writes */
};

/* All zero but for memory; the ring comes from the superblock and the root. */
must_check int journal_init(struct journal *journal, const struct fs_super *super,
                            const struct fs_root *root);
void journal_done(struct journal *journal);

/* Can a record of any size be appended now? If not: wait for what is gathered, or checkpoint. */
bool journal_can_gather(const struct journal *journal);
bool journal_has_room(const struct journal *journal);
uint64_t journal_used_blocks(const struct journal *journal);

/* Appends a record whose lsn is above all before. */
void journal_append(struct fs *fs, const struct fs_journal_record *record);

/* Suspends until all up to lsn is durable. Returns 0 or fs->error. */
must_check int co_journal_wait(struct fs *fs, uint64_t lsn);
static inline bool journal_is_durable(const struct journal *journal, uint64_t lsn)
{
    return lsn <= journal->durable_lsn;
}

/* Nothing gathered, nothing in flight: where replay from here would start. */
struct journal_mark journal_mark(const struct journal *journal);
void journal_cut(struct journal *journal,
                 const struct journal_mark *mark); /* the root has it all */

/* Gives each record from the tail on to co_apply(), in order. is_replay: what was applied is behind
 * us, the head follows, and a checkpoint is taken between two batches when RAM is full of changes.
 * Returns 0, -EBADMSG (a hole: a later batch shows that one is damaged), or what co_apply() or the
 * vdisk said. */
must_check int co_journal_scan(struct fs *fs, bool is_replay,
                               int (*co_apply)(struct fs *fs,
                                               const struct fs_journal_record *record));

/* The entries of a record, which journal_record_is_valid() has seen. */
bool journal_record_is_valid(const struct fs_journal_record *record);
const struct fs_journal_entry *journal_entry_first(const struct fs_journal_record *record);
const struct fs_journal_entry *journal_entry_next(const struct fs_journal_entry *entry);
static inline const void *journal_entry_value(const struct fs_journal_entry *entry)
{
    return entry + 1;
}
static inline struct fs_key journal_entry_key(const struct fs_journal_entry *entry)
{
    return (struct fs_key){.object = entry->object, .offset = entry->offset, .kind = entry->kind};
}

#endif
