/* Thin slabs go back to the pool when nothing is left in them.
 *
 * What stands above only trims. A slab that saw a trim, or that an earlier session left, is looked
 * at once it has been left alone for a while: if an in-sync column has no block written, its door
 * is closed (co_mirror_enter()), those inside are waited for, and all its data columns are asked
 * again. Now nothing is in flight there and nothing can begin, so "unwritten" is what the slab is,
 * and stays: the database is asked to drop it. Whoever waits at the door then finds a slab that was
 * never allocated, and asks for a new one, of another generation (I10).
 *
 * The door stays closed until a configuration answers: a proposal that seems lost may still come
 * true, and would take with it what was written meanwhile. It names the epoch and raises it, so in
 * any other it is void: repeating it is safe, and so is a copy of it that arrives late, or after
 * the next owner's session has begun. Columns that are stale keep their slab: a resync works on it,
 * and they would be in-sync with something that is gone. */
#include "resiliency/mirror_private.h"

#define LOOK_BLOCKS 2048 /* whose checksums are asked for at once */

static bool all_in_sync(const struct mirror *mirror, uint32_t slab)
{
    return in_sync_set(mirror, slab) == BIT(mirror->config->width) - 1;
}

static bool may_be_released(const struct mirror *mirror, uint32_t slab)
{
    return !mirror->stopped && !mirror->draining && mirror->slabs[slab].ready &&
           vdisk_config_slab_allocated(mirror->config, slab) && all_in_sync(mirror, slab);
}

/* Returns 1, 0 (something is written), or < 0: the column cannot say. */
static int co_column_is_unwritten(struct mirror *mirror, uint32_t slab, uint32_t column)
{
    cleanup(freep) uint64_t *sums = malloc(LOOK_BLOCKS * sizeof(*sums));
    uint32_t blocks = vdisk_config_column_blocks(mirror->config), count;

    if (!sums)
        return -ENOMEM;
    for (uint32_t block = 0; block < blocks; block += count) {
        struct column_store *store = mirror_feed(mirror, slab, column)->store;
        struct extent_ref where = mirror_columns(mirror, slab)[column].where;
        int r;

        if (!store || !store->reachable)
            return -ENOTCONN;
        count = MIN(blocks - block, LOOK_BLOCKS);
        r = co_column_checksums(store, mirror->vdisk.id, where, block, count, sums, NULL);
        /* A turn of the loop: a local store has them in RAM, and there may be many thousand slabs.
         */
        if (r == 0)
            r = co_sleep_ns(1);
        if (r < 0)
            return r;
        for (uint32_t i = 0; i < count; i++) {
            if (sums[i] != 0)
                return 0;
        }
        if (!may_be_released(mirror, slab))
            return -EAGAIN;
    }
    return 1;
}

/* The same of all that hold data, in one epoch: a column that turned stale and in-sync again since
 * may have answered in between, without what its lost log had. A parity block of unwritten data may
 * be written, as zeros. */
static int co_slab_is_unwritten(struct mirror *mirror, uint32_t slab)
{
    uint32_t columns = mirror->erasure ? mirror->config->data_columns : mirror->config->width;
    uint64_t epoch = mirror->epoch;
    int r = may_be_released(mirror, slab) ? 1 : -EAGAIN;

    for (uint32_t i = 0; r > 0 && i < columns; i++)
        r = co_column_is_unwritten(mirror, slab, i);
    SOMETIMES_IF(r > 0 && mirror->epoch != epoch, "release: the epoch changed while it looked");
    return r > 0 && mirror->epoch != epoch ? -EAGAIN : r;
}

/* Waits for a change. Returns 0, -ETIMEDOUT; else the mirror has stopped. */
static int co_wait_at_door(struct mirror *mirror, uint64_t deadline_ns)
{
    int r = co_mirror_wait(mirror, deadline_ns);

    if (r == -ECANCELED)
        mirror_stop(mirror); /* not to open a door behind which a proposal is out */
    return r;
}

/* Asks until the slab is gone, or another epoch has made the question void. */
static void co_propose_release(struct mirror *mirror, uint32_t slab)
{
    uint64_t epoch = mirror->epoch;

    while (!mirror->stopped && mirror->epoch == epoch) {
        uint64_t again_ns = io_now_ns(mirror->io) + mirror->limits.propose_ns;
        int r = 0;

        mirror->options.propose_release(mirror->options.arg, mirror->vdisk.id, epoch, slab);
        while (r == 0 && mirror->epoch == epoch)
            r = co_wait_at_door(mirror, again_ns);
    }
    if (mirror->stopped)
        return;
    if (vdisk_config_slab_allocated(mirror->config, slab)) {
        SOMETIMES("release: a proposal to drop a slab is void");
        return;
    }
    SOMETIMES("release: an empty slab goes back to the pool");
    counter_add(&mirror->released_slabs, 1);
    log_debug(mirror->io, "mirror", "an empty slab was given back", "vdisk=%llu slab=%u",
              (unsigned long long)mirror->vdisk.id, slab);
}

/* Returns 1 (it is gone), 0 (something is written), or < 0: nobody knows yet. */
static int co_empty_slab(struct mirror *mirror, uint32_t slab)
{
    int r;

    mirror->slabs[slab].closed = !PLANTED(RELEASE_DOOR_OPEN);
    while (mirror->slabs[slab].entered > 0 && !mirror->stopped) {
        SOMETIMES("release: a slab that looked empty is still in use");
        (void)!co_wait_at_door(mirror, UINT64_MAX);
    }
    r = co_slab_is_unwritten(mirror, slab);
    if (r > 0) {
        co_propose_release(mirror, slab);
        r = vdisk_config_slab_allocated(mirror->config, slab) ? -EAGAIN : 1;
    }
    mirror->slabs[slab].closed = false;
    co_cond_broadcast(&mirror->changed);
    return r;
}

static void co_look_at(struct mirror *mirror, uint32_t slab)
{
    int r;

    mirror->slabs[slab].maybe_empty = false; /* until the next trim: one may come meanwhile */
    r = co_column_is_unwritten(mirror, slab, 0);
    if (!may_be_released(mirror, slab))
        r = -EAGAIN;
    if (r > 0)
        r = co_empty_slab(mirror, slab);
    if (r < 0)
        mirror->slabs[slab].maybe_empty = true; /* at the next look */
}

void mirror_note_trim(struct mirror *mirror, uint32_t slab)
{
    mirror->slabs[slab].maybe_empty = true;
    mirror->slabs[slab].trimmed_ns = io_now_ns(mirror->io);
}

void co_release_run(void *arg)
{
    struct mirror *mirror = arg;
    uint64_t look_ns = io_now_ns(mirror->io) + mirror->limits.release_ns;

    while (!mirror->stopped) {
        int r = co_mirror_wait(mirror, look_ns);

        if (r == 0)
            continue;
        if (r != -ETIMEDOUT)
            return;
        for (uint32_t slab = 0; slab < mirror->slab_count; slab++) {
            const struct mirror_slab *state = &mirror->slabs[slab];

            if (state->maybe_empty && may_be_released(mirror, slab) &&
                io_now_ns(mirror->io) - state->trimmed_ns >= mirror->limits.release_ns)
                co_look_at(mirror, slab);
        }
        look_ns = io_now_ns(mirror->io) + mirror->limits.release_ns;
    }
}
