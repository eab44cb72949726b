/* Rows of a slab, read where they can be read and decoded where not. Columns are asked in parallel;
 * one that fails is left out, and others are asked in its place, until what is wanted is here or
 * fewer than k columns are left. */
#include "resiliency/parity_private.h"

void co_stripe_get(struct stripe *stripe, struct mirror *mirror, uint32_t count)
{
    uint32_t width = mirror->config->width;

    *stripe = (struct stripe){.mirror = mirror};
    stripe->bytes = (size_t)width * count * BLOCK_SIZE;
    stripe->memory = co_buffer_get(mirror->options.buffers, stripe->bytes);
    for (uint32_t i = 0; i < width; i++)
        stripe->blocks[i] = (char *)stripe->memory + (size_t)i * count * BLOCK_SIZE;
}

int co_stripe_get_bounded(struct stripe *stripe, struct mirror *mirror, uint32_t count)
{
    size_t bytes = (size_t)mirror->config->width * count * BLOCK_SIZE;
    int r;

    SOMETIMES_IF(mirror->stripe_room.available < bytes, "parity: a request waits for its share");
    r = co_sem_take(&mirror->stripe_room, bytes);
    if (r < 0)
        return r;
    co_stripe_get(stripe, mirror, count);
    stripe->bounded = true;
    return 0;
}

void stripe_put(struct stripe *stripe)
{
    buffer_put(stripe->mirror->options.buffers, stripe->memory, stripe->bytes);
    if (stripe->bounded)
        co_sem_give(&stripe->mirror->stripe_room, stripe->bytes);
    stripe->memory = NULL;
}

void stripe_begin(struct stripe *stripe, struct write_extent rows)
{
    assert((size_t)rows.count * BLOCK_SIZE * stripe->mirror->config->width <= stripe->bytes);
    stripe->rows = rows;
    stripe->at = (struct log_position){0};
    stripe->sources = in_sync_set(stripe->mirror, rows.slab);
    stripe->have = 0;
    stripe->rotten = 0;
    stripe->away = 0;
}

void co_run_each(struct mirror *mirror, const char *name, co_fn *fn, void *items, size_t size,
                 unsigned count)
{
    struct co_group group;

    co_group_init(&group);
    for (unsigned i = 0; i < count; i++) {
        void *item = (char *)items + i * size;

        if (i + 1 == count || co_group_spawn(&group, mirror->io, name, fn, item) < 0)
            fn(item);
    }
    co_group_wait(&group);
}

/* ---- reading columns ---- */

struct fetch {
    struct stripe *stripe;
    uint32_t column;
    int result;
};

static void fetch_run(void *arg)
{
    struct fetch *fetch = arg;
    struct stripe *stripe = fetch->stripe;

    fetch->result = co_read_column_version(stripe->mirror, fetch->column, stripe->rows, stripe->at,
                                           stripe->blocks[fetch->column]);
}

static void fetch_note(struct stripe *stripe, const struct fetch *fetch)
{
    if (fetch->result == 0)
        stripe->have |= BIT(fetch->column);
    else if (fetch->result == -EBADMSG || fetch->result == -EIO)
        stripe->rotten |= BIT(fetch->column);
    else
        stripe->away |= BIT(fetch->column);
}

static void co_fetch(struct stripe *stripe, uint32_t set)
{
    struct fetch fetches[VDISK_COLUMNS_MAX];
    unsigned count = 0;

    for (uint32_t i = 0; i < stripe->mirror->config->width; i++)
        if (set & BIT(i))
            fetches[count++] = (struct fetch){.stripe = stripe, .column = i};
    co_run_each(stripe->mirror, "fetch", fetch_run, fetches, sizeof(*fetches), count);
    for (unsigned i = 0; i < count; i++)
        fetch_note(stripe, &fetches[i]);
}

/* ---- which ones ---- */

/* The best of the set to decode from: one that is wanted anyway, is up, is here. */
static uint32_t best_source(const struct stripe *stripe, uint32_t set, uint32_t wanted)
{
    uint32_t best = 0;
    int best_merit = -1;

    for (uint32_t i = 0; i < stripe->mirror->config->width; i++) {
        const struct feed *feed = mirror_feed(stripe->mirror, stripe->rows.slab, i);
        int merit = 4 * ((wanted & BIT(i)) != 0) + 2 * feed->up + feed_is_local(feed);

        if (!(set & BIT(i)) || merit <= best_merit)
            continue;
        best = BIT(i);
        best_merit = merit;
    }
    return best;
}

/* What to read next for the columns in missing; 0: it cannot be had. */
static uint32_t choose(const struct stripe *stripe, uint32_t missing)
{
    uint32_t left = stripe->sources & ~(stripe->have | stripe->rotten | stripe->away);
    unsigned needed = stripe->mirror->config->data_columns;
    uint32_t chosen = 0;

    if (!mirror_feed(stripe->mirror, stripe->rows.slab, 0))
        return 0; /* a resync reads, and the slab was given back */
    if ((missing & ~left) == 0)
        return missing;
    if (set_count(stripe->have | left) < needed)
        return 0;
    while (set_count(stripe->have | chosen) < needed)
        chosen |= best_source(stripe, left & ~chosen, missing);
    return chosen;
}

int co_stripe_fill(struct stripe *stripe, uint32_t want)
{
    struct mirror *mirror = stripe->mirror;

    for (;;) {
        uint32_t missing = want & ~stripe->have, chosen;
        int r;

        if (missing == 0)
            return 0;
        if (set_count(stripe->have) >= mirror->config->data_columns) {
            r = erasure_decode(mirror->erasure, (size_t)stripe->rows.count * BLOCK_SIZE,
                               stripe->have, missing, (void *const *)stripe->blocks);
            if (r == 0)
                stripe->have |= missing;
            return r;
        }
        chosen = choose(stripe, missing);
        if (chosen == 0)
            return stripe->away != 0 ? -EHOSTUNREACH : -EIO;
        co_fetch(stripe, chosen);
        if (mirror->stopped)
            return -ESTALE;
    }
}
