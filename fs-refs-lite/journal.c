#include "fs-refs-lite/journal.h"
#include "fs-refs-lite/checkpoint.h"
#include "fs-refs-lite/fs_internal.h"
#include "s2d/base/checksum.h"

#define RECORD_MAX_BLOCKS (DIV_ROUND_UP(FS_JOURNAL_RECORD_MAX, BLOCK_SIZE) + 1)

int journal_init(struct journal *journal, const struct fs_super *super, const struct fs_root *root)
{
    *journal = (struct journal){.first_block = FS_JOURNAL_BLOCK,
                                .blocks = super->journal_blocks,
                                .head = root->journal_at,
                                .tail = root->journal_at,
                                .sequence = root->journal_sequence};
    co_mutex_init(&journal->lock);
    journal->batch_max = MIN(FS_JOURNAL_BATCH_MAX, journal->blocks / 4 * BLOCK_SIZE);
    journal->gathering = aligned_alloc(BLOCK_SIZE, journal->batch_max);
    journal->writing = aligned_alloc(BLOCK_SIZE, journal->batch_max);
    journal->gathered = sizeof(struct fs_journal_batch);
    return journal->gathering && journal->writing ? 0 : -ENOMEM;
}

void journal_done(struct journal *journal)
{
    free(journal->gathering);
    free(journal->writing);
    journal->gathering = NULL;
    journal->writing = NULL;
}

uint64_t journal_used_blocks(const struct journal *journal)
{
    uint64_t on_disk = (journal->head + journal->blocks - journal->tail) % journal->blocks;

    return on_disk + (journal->records ? DIV_ROUND_UP(journal->gathered, BLOCK_SIZE) : 0);
}

bool journal_can_gather(const struct journal *journal)
{
    return journal->gathered + FS_JOURNAL_RECORD_MAX <= journal->batch_max;
}

bool journal_has_room(const struct journal *journal)
{
    /* Beside what is gathered a batch may be in flight: head moves when it is written. */
    uint64_t in_flight = journal->is_writing ? journal->batch_max / BLOCK_SIZE : 0;

    return journal_used_blocks(journal) + in_flight + RECORD_MAX_BLOCKS < journal->blocks;
}

void journal_append(struct fs *fs, const struct fs_journal_record *record)
{
    struct journal *journal = &fs->journal;

    assert(journal->gathered + record->length <= journal->batch_max);
    assert(record->lsn > journal->appended_lsn);
    memcpy(journal->gathering + journal->gathered, record, record->length);
    journal->gathered += record->length;
    journal->records++;
    journal->appended_lsn = record->lsn;
    fs->counters.journal_records++;
}

/* ---- writing ---- */

static uint32_t batch_crc(const struct fs_journal_batch *batch)
{
    return crc32c(batch->volume, batch->length - offsetof(struct fs_journal_batch, volume));
}

static void batch_seal(struct fs *fs, struct fs_journal_batch *batch, size_t length)
{
    *batch = (struct fs_journal_batch){.magic = FS_JOURNAL_MAGIC,
                                       .version = FS_FORMAT_VERSION,
                                       .epoch = fs->root.epoch,
                                       .sequence = fs->journal.sequence,
                                       .length = length,
                                       .records = fs->journal.records};
    memcpy(batch->volume, fs->super.header.volume, sizeof(batch->volume));
    batch->crc = batch_crc(batch);
}

static int co_ring_write(struct fs *fs, const char *buffer, uint64_t at, uint64_t blocks)
{
    struct journal *journal = &fs->journal;
    uint64_t first = MIN(blocks, journal->blocks - at);
    int r;

    r = co_disk_write(fs, buffer, (journal->first_block + at) * BLOCK_SIZE, first * BLOCK_SIZE,
                      NO_CLIENT);
    SOMETIMES_IF(first < blocks, "fs: a journal batch goes over the ring's end");
    if (r == 0 && first < blocks)
        r = co_disk_write(fs, buffer + first * BLOCK_SIZE, journal->first_block * BLOCK_SIZE,
                          (blocks - first) * BLOCK_SIZE, NO_CLIENT);
    return r;
}

struct ring_write {
    struct fs *fs;
    const char *buffer;
    uint64_t at, blocks;
    struct co *waiter;
    int result;
};

static void ring_write_main(void *arg)
{
    struct ring_write *write = arg;

    write->result = co_ring_write(write->fs, write->buffer, write->at, write->blocks);
    co_wake(write->waiter);
}

/* A batch holds the operations of many. The one that came first writes it for all, and its being
 * cancelled is no reason for the others to fail: a coroutine that nobody cancels writes it again.
 */
static int co_ring_write_for_all(struct fs *fs, const char *buffer, uint64_t at, uint64_t blocks)
{
    struct ring_write write = {
        .fs = fs, .buffer = buffer, .at = at, .blocks = blocks, .waiter = co_self()};
    int r = co_ring_write(fs, buffer, at, blocks);

    if (r != -ECANCELED)
        return r;
    r = co_spawn(fs->io, "fs-journal", ring_write_main, &write);
    if (r < 0)
        return r;
    co_wait();
    return write.result;
}

/* Writes what is gathered. The caller holds the lock. */
static int co_batch_write(struct fs *fs)
{
    struct journal *journal = &fs->journal;
    char *batch = take_ptr(journal->gathering);
    size_t length = journal->gathered, blocks = DIV_ROUND_UP(length, BLOCK_SIZE);
    uint64_t lsn = journal->appended_lsn;
    int r;

    assert(!journal->is_writing && journal->records > 0);
    memset(batch + length, 0, blocks * BLOCK_SIZE - length);
    batch_seal(fs, (struct fs_journal_batch *)batch, length);
    journal->gathering = journal->writing;
    journal->writing = batch;
    journal->gathered = sizeof(struct fs_journal_batch);
    journal->records = 0;
    journal->is_writing = true;

    r = co_ring_write_for_all(fs, batch, journal->head, blocks);
    journal->is_writing = false;
    if (r == 0 && fs->error)
        r = fs->error;
    if (r == 0) {
        journal->head = (journal->head + blocks) % journal->blocks;
        journal->sequence++;
        journal->durable_lsn = lsn;
        fs->counters.journal_writes++;
        fs->counters.journal_bytes += blocks * BLOCK_SIZE;
    } else {
        r = fs_fail_with(fs, r); /* what RAM shows is ahead of the disk from here on */
    }
    return r;
}

/* Whoever gets the lock first writes all that was gathered; the others then find theirs done. */
int co_journal_wait(struct fs *fs, uint64_t lsn)
{
    struct journal *journal = &fs->journal;

    lsn = MIN(lsn, journal->appended_lsn); /* a damaged item may name any */
    while (!journal_is_durable(journal, lsn)) {
        if (fs->error)
            return fs->error;
        co_mutex_lock(&journal->lock);
        if (!journal_is_durable(journal, lsn) && !fs->error)
            (void)co_batch_write(fs);
        co_mutex_unlock(&journal->lock);
    }
    return 0;
}

struct journal_mark journal_mark(const struct journal *journal)
{
    assert(journal->records == 0 && !journal->is_writing);
    return (struct journal_mark){.head = journal->head, .sequence = journal->sequence};
}

void journal_cut(struct journal *journal, const struct journal_mark *mark)
{
    journal->tail = mark->head;
}

/* ---- reading ---- */

const struct fs_journal_entry *journal_entry_first(const struct fs_journal_record *record)
{
    return (const struct fs_journal_entry *)(record + 1);
}

const struct fs_journal_entry *journal_entry_next(const struct fs_journal_entry *entry)
{
    return (const struct fs_journal_entry *)((const char *)(entry + 1) +
                                             ALIGN_UP(entry->value_size, 8u));
}

bool journal_record_is_valid(const struct fs_journal_record *record)
{
    const char *end = (const char *)record + record->length;
    const struct fs_journal_entry *entry = journal_entry_first(record);

    for (uint32_t i = 0; i < record->entries; i++) {
        if (end - (const char *)entry < (ptrdiff_t)sizeof(*entry))
            return false;
        if (end - (const char *)(entry + 1) < (ptrdiff_t)ALIGN_UP(entry->value_size, 8u))
            return false;
        if (entry->value_size > FS_VALUE_MAX || entry->tree >= FS_TREES_USED)
            return false;
        if (entry->action < FS_JOURNAL_PUT || entry->action > FS_JOURNAL_FREE)
            return false;
        entry = journal_entry_next(entry);
    }
    return (const char *)entry == end;
}

static bool batch_header_is_valid(const struct fs *fs, const struct fs_journal_batch *batch,
                                  uint64_t sequence)
{
    return batch->magic == FS_JOURNAL_MAGIC && batch->version == FS_FORMAT_VERSION &&
           batch->epoch == fs->root.epoch && batch->sequence == sequence &&
           memcmp(batch->volume, fs->super.header.volume, sizeof(batch->volume)) == 0 &&
           batch->length >= sizeof(*batch) && batch->length <= fs->journal.batch_max;
}

static int co_ring_read(struct fs *fs, char *buffer, uint64_t at, uint64_t blocks)
{
    struct journal *journal = &fs->journal;
    uint64_t first = MIN(blocks, journal->blocks - at);
    int r;

    r = co_disk_read(fs, buffer, (journal->first_block + at) * BLOCK_SIZE, first * BLOCK_SIZE);
    if (r == 0 && first < blocks)
        r = co_disk_read(fs, buffer + first * BLOCK_SIZE, journal->first_block * BLOCK_SIZE,
                         (blocks - first) * BLOCK_SIZE);
    return r;
}

/* Reads the batch at `at` into journal->writing. Returns 0, -EBADMSG (no such batch), or the
 * vdisk's error. */
static int co_batch_read(struct fs *fs, uint64_t at, uint64_t sequence)
{
    struct journal *journal = &fs->journal;
    struct fs_journal_batch *batch = (struct fs_journal_batch *)journal->writing;
    uint64_t blocks;
    int r;

    r = co_ring_read(fs, journal->writing, at, 1);
    if (r < 0)
        return r;
    if (!batch_header_is_valid(fs, batch, sequence))
        return -EBADMSG;
    blocks = DIV_ROUND_UP(batch->length, BLOCK_SIZE);
    if (blocks > 1) {
        r = co_ring_read(fs, journal->writing + BLOCK_SIZE, (at + 1) % journal->blocks, blocks - 1);
        if (r < 0)
            return r;
    }
    SOMETIMES_IF(batch->crc != batch_crc(batch), "fs: a journal batch is torn");
    return batch->crc == batch_crc(batch) || PLANTED(FS_BATCH_NOT_CHECKED) ? 0 : -EBADMSG;
}

static int co_batch_apply(struct fs *fs,
                          int (*co_apply)(struct fs *fs, const struct fs_journal_record *record))
{
    const struct fs_journal_batch *batch = (const struct fs_journal_batch *)fs->journal.writing;
    size_t at = sizeof(*batch);

    for (unsigned i = 0; i < batch->records; i++) {
        const struct fs_journal_record *record =
            (const struct fs_journal_record *)((const char *)batch + at);
        int r;

        if (batch->length - at < sizeof(*record) || record->length < sizeof(*record) ||
            record->length > batch->length - at || record->length % 8 != 0 ||
            !journal_record_is_valid(record))
            return -EBADMSG;
        r = co_apply(fs, record);
        if (r < 0)
            return r;
        at += record->length;
    }
    return 0;
}

/* Is the next batch anywhere behind? Then the one at `at` was acknowledged, and is damaged now. */
static int co_look_behind(struct fs *fs, uint64_t at, uint64_t sequence)
{
    struct journal *journal = &fs->journal;

    for (uint64_t i = 1; i <= journal->batch_max / BLOCK_SIZE; i++) {
        int r = co_batch_read(fs, (at + i) % journal->blocks, sequence + 1);

        SOMETIMES_IF(r == 0, "fs: a hole in the journal");
        if (r == 0)
            return -EBADMSG;
        if (r != -EBADMSG)
            return r;
    }
    return 0;
}

int co_journal_scan(struct fs *fs, bool is_replay,
                    int (*co_apply)(struct fs *fs, const struct fs_journal_record *record))
{
    struct journal *journal = &fs->journal;
    uint64_t at = journal->tail, sequence = journal->sequence, seen = 0;
    int r;

    for (;;) {
        uint64_t blocks;

        r = co_batch_read(fs, at, sequence);
        if (r < 0)
            break;
        SOMETIMES_IF(is_replay && fs->journal.head != at, "fs: replay goes over the ring's end");
        blocks = DIV_ROUND_UP(((struct fs_journal_batch *)journal->writing)->length, BLOCK_SIZE);
        seen += blocks;
        if (seen >= journal->blocks)
            break; /* more than a ring: cannot be ours */
        r = co_batch_apply(fs, co_apply);
        if (r < 0)
            return r;
        at = (at + blocks) % journal->blocks;
        sequence++;
        if (is_replay) {
            journal->head = at;
            journal->sequence = sequence;
            r = co_checkpoint_if_full(fs);
            if (r < 0)
                return r;
        }
    }
    return r == -EBADMSG ? co_look_behind(fs, at, sequence) : r;
}
