#include "fs-refs-lite/lack.h"
#include "fs-refs-lite/alloc_private.h"
#include "fs-refs-lite/fs_internal.h"
#include "s2d/base/log.h"

static struct fs_lack *lack_find(struct fs_lacks *lacks, uint64_t address)
{
    for (unsigned i = 0; i < lacks->count; i++) {
        if (lacks->blocks[i].address == address)
            return &lacks->blocks[i];
    }
    return NULL;
}

void lacks_begin(struct fs_lacks *lacks, bool is_first)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < lacks->count; i++) {
        struct fs_lack lack = lacks->blocks[i];

        if (!lack.is_met) /* it was read since, or there was no need of it */
            continue;
        lack.is_met = lack.is_needed = lack.is_changed = false;
        if (is_first)
            lack.is_given_up = lack.is_overwritten = false;
        lacks->blocks[kept++] = lack;
    }
    lacks->count = kept;
    if (!lacks->others.is_met)
        lacks->others.waited_ns = lacks->others.met_ns = 0;
    lacks->others.is_met = lacks->others.is_needed = lacks->others.is_changed = false;
    lacks->again = false;
    if (is_first) {
        lacks->others.is_given_up = false;
        lacks->sealed_for = 0;
    }
}

enum lack_kind lack_kind_of(const struct node_want *want)
{
    bool is_all = want->is_root && (want->tree == FS_TREE_FILES || want->tree == FS_TREE_GROUPS);

    if (want->tree == FS_TREE_REFS) /* what hangs on it is space, no data */
        return LACK_LEAF;
    if (want->level > 0 && want->tree == FS_TREE_SLOTS)
        return LACK_SESSIONS;
    return want->level > 0 || is_all ? LACK_INNER : LACK_LEAF;
}

/* Between two attempts to read a block, at most, as far as its clock goes: when nobody tried for an
 * hour (a read of another block waited so long, or the owner had no lease), that was no waiting. */
#define ATTEMPTS_APART_NS (10 * SEC)

void lack_note(struct fs *fs, uint64_t address, enum lack_kind kind)
{
    uint64_t now_ns = io_now_ns(fs->io);
    struct fs_lacks *lacks = fs->lacks;
    struct fs_lack *lack;

    if (!fs->is_mounting)
        return;
    fs->unreadable = address;
    lack = lack_find(lacks, address);
    if (!lack && lacks->count < FS_LACKS_MAX) {
        lack = &lacks->blocks[lacks->count++];
        *lack = (struct fs_lack){.address = address};
    }
    if (!lack) { /* so much is lost that nothing more of it is overwritten */
        lack = &lacks->others;
        lack->address = address;
        kind = LACK_INNER;
    }
    if (!lack->is_met && lack->met_ns != 0)
        lack->waited_ns += MIN(now_ns - lack->met_ns, ATTEMPTS_APART_NS);
    lack->met_ns = now_ns;
    lack->kind = kind;
    lack->is_met = true;
}

static struct fs_lack *lack_of(const struct fs *fs, uint64_t address)
{
    struct fs_lack *lack = lack_find(fs->lacks, address);

    return lack ? lack : &fs->lacks->others;
}

bool lack_is_met(const struct fs *fs, uint64_t address)
{
    const struct fs_lack *lack = fs->is_mounting ? lack_find(fs->lacks, address) : NULL;

    return lack && lack->is_met;
}

bool lack_is_why(const struct fs *fs, int error)
{
    return is_block_error(fs, error) && fs->unreadable != 0;
}

bool lack_is_given_up(const struct fs *fs, uint64_t address)
{
    return fs->is_mounting && lack_of(fs, address)->is_given_up;
}

static bool lack_is_settled(const struct fs_lacks *lacks, const struct fs_lack *lack)
{
    return lack->is_given_up && (!lack->is_changed || lack->kind == LACK_SESSIONS ||
                                 lack->is_overwritten || lacks->sealed_for != 0);
}

void lack_need(struct fs *fs, bool is_changed)
{
    struct fs_lack *lack = lack_of(fs, fs->unreadable);

    assert(fs->is_mounting && fs->unreadable != 0);
    lack->is_needed = true;
    lack->is_changed |= is_changed;
    fs->is_surveying |= !lack_is_settled(fs->lacks, lack);
}

static void lack_hides_room(struct fs *fs, struct fs_lack *lack)
{
    if (!lack->is_met || lack->is_given_up)
        return;
    lack->is_needed = true;
    fs->is_surveying = true;
}

bool lack_may_hide_room(struct fs *fs)
{
    for (unsigned i = 0; i < fs->lacks->count; i++)
        lack_hides_room(fs, &fs->lacks->blocks[i]);
    lack_hides_room(fs, &fs->lacks->others);
    return fs->is_surveying;
}

uint64_t lack_first(const struct fs *fs)
{
    for (unsigned i = 0; i < fs->lacks->count; i++) {
        if (fs->lacks->blocks[i].is_met)
            return fs->lacks->blocks[i].address;
    }
    return 0;
}

/* ---- giving up ---- */

static bool lack_must_wait(const struct fs *fs, const struct fs_lack *lack)
{
    if (!lack->is_needed || lack->is_given_up || fs->options.gives_up ||
        PLANTED(FS_LOST_COMES_BACK))
        return false;
    return !fs->options.lacks || lack->waited_ns < fs->options.unreadable_wait_ns;
}

static bool lacks_must_wait(const struct fs *fs)
{
    for (unsigned i = 0; i < fs->lacks->count; i++) {
        if (lack_must_wait(fs, &fs->lacks->blocks[i]))
            return true;
    }
    return lack_must_wait(fs, &fs->lacks->others);
}

static void lacks_seal(struct fs *fs, uint64_t address, const char *why)
{
    fs->lacks->sealed_for = address;
    SOMETIMES("fs: a mount is sealed for what it lacks");
    log_error(fs->io, "fs", "mounting read-only until a block of metadata can be read again",
              "block=%llu reason=\"%s\"", (unsigned long long)address, why);
}

static void lack_give_up(struct fs *fs, struct fs_lack *lack)
{
    if (!lack->is_needed)
        return;
    lack->is_given_up = true;
    if (lack->is_changed && lack->kind == LACK_INNER && !fs->options.salvage &&
        fs->lacks->sealed_for == 0 && !PLANTED(FS_LOST_COMES_BACK))
        lacks_seal(fs, lack->address, "others hang on it, and the journal changes them");
}

static int co_lack_overwrite(struct fs *fs, struct fs_lack *lack)
{
    int r;

    if (!lack->is_changed || lack->is_overwritten || lack->kind == LACK_SESSIONS ||
        fs->lacks->sealed_for != 0)
        return 0;
    lack->is_overwritten = true;
    if (PLANTED(FS_LOST_COMES_BACK))
        return 0;
    r = co_block_back(fs, lack->address);
    log_error(fs->io, "fs", "a block of metadata is given up: no copy of it could be read",
              "block=%llu error=%s", (unsigned long long)lack->address,
              r < 0 ? strerror(-r) : "none");
    SOMETIMES("fs: what cannot be read is lost for good");
    if (r != -EIO)
        return r;
    lack->is_overwritten = false;
    lacks_seal(fs, lack->address, "it takes no write");
    return 0;
}

static int co_try_to_read(struct fs *fs, uint64_t address)
{
    cleanup(freep) void *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);

    return block ? co_disk_read(fs, block, address * BLOCK_SIZE, BLOCK_SIZE) : -ENOMEM;
}

/* Before anything is given up for good: what can be read by now is not lacking. */
static int co_lacks_look_again(struct fs *fs, bool *ret_is_back)
{
    int r = 0;

    for (unsigned i = 0; i < fs->lacks->count && (r == 0 || r == -EIO) && !fs->error; i++) {
        struct fs_lack *lack = &fs->lacks->blocks[i];

        if (!lack->is_needed || lack->is_overwritten)
            continue;
        r = co_try_to_read(fs, lack->address);
        if (r == 0) {
            SOMETIMES("fs: what was to be given up is there again");
            lack->is_met = false;
            *ret_is_back = true;
        }
    }
    return fs->error ? fs->error : r == -EIO ? 0 : r;
}

int co_lacks_settle(struct fs *fs)
{
    struct fs_lacks *lacks = fs->lacks;
    bool is_back = false;
    int r;

    assert(fs->is_surveying);
    if (lacks_must_wait(fs))
        return -EAGAIN;
    r = co_lacks_look_again(fs, &is_back);
    if (r < 0)
        return r;
    if (is_back) { /* the next attempt reads it; else it waits anew */
        lacks->again = fs->options.gives_up;
        return -EAGAIN;
    }
    lack_give_up(fs, &lacks->others);
    for (unsigned i = 0; i < lacks->count; i++)
        lack_give_up(fs, &lacks->blocks[i]);
    for (unsigned i = 0; i < lacks->count && r == 0; i++)
        r = co_lack_overwrite(fs, &lacks->blocks[i]);
    if (r == 0 && lacks->others.is_changed)
        r = co_lack_overwrite(fs, &lacks->others); /* to be saved: else it has sealed the mount */
    lacks->again = r == 0;
    return r < 0 ? r : -EAGAIN;
}

int co_lack_look(struct fs *fs)
{
    if (!fs->error && fs->awaited != 0 && co_try_to_read(fs, fs->awaited) == 0) {
        SOMETIMES("fs: what a read-only mount lacked is there again");
        fs_fail(fs);
    }
    return fs->error;
}
