/* Takeover of a parity slab (I6; takeover.c has what is common to all vdisks).
 *
 * C is the highest watermark that an in-sync column of the slab reports: what lies at or below it
 * is committed. Of every row with records above it, the newest version that k in-sync columns
 * determine is written again. A column determines a version when it holds its record, or was not
 * touched by it: then it counts with its newest record below. (It counts with that and not with its
 * committed contents: below lie acknowledged writes whose watermark was not told yet.) Which
 * columns a version touched, every record of it says. If no version is determined, it is the
 * contents at C. A trim of whole rows is always determined, by whichever column has it: it says
 * what all of the row is. It may be larger than a log, and what it replaced must not be written
 * again.
 *
 * Written are absolute bytes of every data column that any record above C touched, those of
 * versions not taken too, and all parity: a column then holds nothing of a row that the others do
 * not know.
 *
 * Rows whose newest version is on all those columns, as far as in-sync, already are what writing
 * again would make of them: they are left alone (takeover.c says why).
 *
 * Rows with the same versions are done together, a few runs at a time. One that was interrupted is
 * done again from the same tails, whatever has been written again meanwhile: that lies above all
 * versions that are read here. */
#include "resiliency/parity_private.h"

struct seen { /* one record above C, on one column */
    struct log_position position;
    uint32_t touched, column;
    uint32_t block, count;
    uint8_t kind;
};

struct version {
    struct log_position position;
    uint32_t touched; /* columns */
    uint32_t holders; /* in-sync ones that have its record */
    uint8_t kind;     /* of any of them */
};

struct rewrite {
    struct mirror *mirror;
    uint32_t slab;
    struct log_position committed; /* C */
    struct seen *seen;
    size_t seen_count, seen_room;
    uint32_t next_row;
    int error;
    struct co_group workers;
};

struct run { /* rows with the same versions */
    struct write_extent rows;
    struct version *versions; /* newest first */
    size_t count;
    uint32_t touched; /* by any of them */
};

/* ---- what the tails say ---- */

static void see(void *arg, uint32_t column, const struct store_tail_record *record)
{
    struct rewrite *rewrite = arg;

    if (log_position_compare(record->position, rewrite->committed) <= 0)
        return;
    assert(rewrite->seen_count < rewrite->seen_room);
    rewrite->seen[rewrite->seen_count++] = (struct seen){
        .position = record->position,
        .touched = record_touched(record->flags),
        .column = column,
        .block = record->block,
        .count = record->count,
        .kind = record->kind,
    };
}

static int collect(struct rewrite *rewrite)
{
    struct mirror *mirror = rewrite->mirror;
    uint32_t in_sync = in_sync_set(mirror, rewrite->slab);

    /* session 0 would mean the newest to whoever reads; no record is at or below this */
    rewrite->committed = (struct log_position){.session = 1};
    for (uint32_t i = 0; i < mirror->config->width; i++) {
        const struct store_seal *seal = &mirror_feed(mirror, rewrite->slab, i)->seal;

        if (!(in_sync & BIT(i)))
            continue;
        rewrite->seen_room += seal->tail_count;
        if (log_position_compare(seal->watermark, rewrite->committed) > 0 &&
            !PLANTED(PARITY_OWN_MARK))
            rewrite->committed = seal->watermark;
    }
    rewrite->seen = calloc(MAX(rewrite->seen_room, (size_t)1), sizeof(*rewrite->seen));
    if (!rewrite->seen)
        return -ENOMEM;
    for (uint32_t i = 0; i < mirror->config->width; i++)
        if (in_sync & BIT(i))
            takeover_each_record(mirror, rewrite->slab, i, see, rewrite);
    return 0;
}

static bool covers(const struct seen *seen, uint32_t row)
{
    return row >= seen->block && row - seen->block < seen->count;
}

/* The next rows, at or after next_row, that the same records cover; false: there are none. */
static bool next_rows(struct rewrite *rewrite, struct write_extent *ret_rows)
{
    uint32_t start = UINT32_MAX, end = UINT32_MAX;

    for (size_t i = 0; i < rewrite->seen_count; i++) {
        const struct seen *seen = &rewrite->seen[i];

        if (seen->block + seen->count > rewrite->next_row)
            start = MIN(start, MAX(seen->block, rewrite->next_row));
    }
    if (start == UINT32_MAX)
        return false;
    for (size_t i = 0; i < rewrite->seen_count; i++) {
        const struct seen *seen = &rewrite->seen[i];

        if (seen->block > start)
            end = MIN(end, seen->block);
        else if (covers(seen, start))
            end = MIN(end, seen->block + seen->count);
    }
    *ret_rows = (struct write_extent){rewrite->slab, start, end - start};
    return true;
}

static int compare_newest_first(const void *a, const void *b)
{
    const struct version *x = a, *y = b;

    return log_position_compare(y->position, x->position);
}

/* Several columns' records of one version become one. */
static void merge_versions(struct run *run)
{
    size_t count = 0;

    qsort(run->versions, run->count, sizeof(*run->versions), compare_newest_first);
    for (size_t i = 0; i < run->count; i++) {
        struct version *last = count > 0 ? &run->versions[count - 1] : NULL;

        if (last && log_position_compare(last->position, run->versions[i].position) == 0) {
            last->holders |= run->versions[i].holders;
            last->touched |= run->versions[i].touched;
        } else {
            run->versions[count++] = run->versions[i];
        }
    }
    run->count = count;
}

static int fill_run(const struct rewrite *rewrite, struct run *run)
{
    size_t count = 0;

    for (size_t i = 0; i < rewrite->seen_count; i++)
        count += covers(&rewrite->seen[i], run->rows.block);
    run->versions = calloc(count, sizeof(*run->versions));
    if (!run->versions)
        return -ENOMEM;
    for (size_t i = 0; i < rewrite->seen_count; i++) {
        const struct seen *seen = &rewrite->seen[i];

        if (!covers(seen, run->rows.block))
            continue;
        run->touched |= seen->touched;
        run->versions[run->count++] = (struct version){
            .position = seen->position,
            .touched = seen->touched,
            .holders = BIT(seen->column),
            .kind = seen->kind,
        };
    }
    merge_versions(run);
    return 0;
}

/* ---- which version ---- */

/* The in-sync columns whose contents at the version are known; 0: not enough of them. */
static uint32_t known_columns(const struct mirror *mirror, uint32_t in_sync,
                              const struct version *version)
{
    uint32_t known = in_sync & (version->holders | ~version->touched);

    if (PLANTED(PARITY_AGAIN_COMMITTED))
        return 0;
    if (PLANTED(PARITY_UNTOUCHED_UNKNOWN))
        known = in_sync & version->holders;
    if (PLANTED(PARITY_AGAIN_GUESSED))
        return known;
    return set_count(known) >= mirror->config->data_columns ? known : 0;
}

/* What is written again. */
struct choice {
    const struct version *version; /* NULL: the committed contents */
    bool lost;                     /* the rows stay as they are */
};

static bool is_trim_of_rows(const struct mirror *mirror, const struct version *version)
{
    return version->kind == RECORD_ZERO &&
           (version->touched & data_set(mirror)) == data_set(mirror);
}

/* Whole rows that were trimmed: nothing is to be read for them, however many they are. */
static bool become_zeros(const struct rewrite *rewrite, const struct run *run,
                         struct choice *ret_choice)
{
    struct mirror *mirror = rewrite->mirror;
    uint32_t in_sync = in_sync_set(mirror, run->rows.slab);

    for (size_t i = 0; i < run->count; i++) {
        const struct version *version = &run->versions[i];
        bool known = known_columns(mirror, in_sync, version) != 0;

        if (!known && (!is_trim_of_rows(mirror, version) || PLANTED(PARITY_TRIM_UNDONE)))
            continue;
        SOMETIMES_IF(!known, "parity: a trim in flight that few columns have is finished");
        *ret_choice = (struct choice){.version = version};
        return is_trim_of_rows(mirror, version);
    }
    return false;
}

static int co_read_committed(const struct rewrite *rewrite, struct write_extent rows,
                             struct stripe *stripe)
{
    stripe_begin(stripe, rows);
    stripe->at = rewrite->committed;
    return co_stripe_fill(stripe, data_set(stripe->mirror));
}

/* The data columns of the rows as of a version, into the stripe. */
static int co_read_version(const struct rewrite *rewrite, struct write_extent rows,
                           const struct version *version, uint32_t known, struct stripe *stripe)
{
    uint32_t data = data_set(stripe->mirror);

    stripe_begin(stripe, rows);
    stripe->sources &= known;
    stripe->at = rewrite->committed;
    if (PLANTED(PARITY_BELOW_COMMITTED) &&
        co_stripe_fill(stripe, known & data & ~version->touched) < 0)
        return -EIO;
    stripe->at = version->position;
    if (PLANTED(PARITY_AGAIN_GUESSED) && set_count(known) < stripe->mirror->config->data_columns) {
        if (co_stripe_fill(stripe, known & data) < 0)
            return -EIO;
        stripe->at = rewrite->committed;
        stripe->sources = in_sync_set(stripe->mirror, rows.slab);
    }
    return co_stripe_fill(stripe, data);
}

/* The contents that the rows shall have, into the stripe. They are lost, and stay as they are, if
 * the newest version is rotten on too many columns, and no in-sync column lacks it: it may have
 * been acknowledged. */
static int co_choose(const struct rewrite *rewrite, const struct run *run, struct write_extent rows,
                     struct stripe *stripe, struct choice *ret_choice)
{
    struct mirror *mirror = rewrite->mirror;
    uint32_t in_sync = in_sync_set(mirror, rows.slab);

    *ret_choice = (struct choice){0};
    for (size_t i = 0; i < run->count; i++) {
        const struct version *version = &run->versions[i];
        uint32_t known = known_columns(mirror, in_sync, version);
        int r;

        if (known == 0) {
            SOMETIMES("parity: a version in flight is not determined");
            continue;
        }
        SOMETIMES_IF(known != in_sync, "parity: a version in flight is decoded at a takeover");
        r = co_read_version(rewrite, rows, version, known, stripe);
        if (r != -EIO) {
            ret_choice->version = version;
            return r;
        }
        if ((in_sync & version->touched & ~version->holders) == 0) {
            ret_choice->lost = true;
            return 0;
        }
    }
    SOMETIMES("parity: a takeover writes the committed contents again");
    return co_read_committed(rewrite, rows, stripe);
}

/* ---- writing again ---- */

/* To every data column that any version touched, and all parity; only mistakes choose fewer. */
static uint32_t columns_again(const struct mirror *mirror, const struct run *run,
                              const struct choice *choice)
{
    uint32_t data = run->touched & data_set(mirror);

    if (PLANTED(PARITY_AGAIN_DATA))
        return data;
    if (PLANTED(PARITY_AGAIN_ITS_OWN) && choice->version)
        data &= choice->version->touched;
    if (PLANTED(PARITY_AGAIN_LACKING) && choice->version)
        return (data | parity_set(mirror)) & ~choice->version->holders;
    return data | parity_set(mirror);
}

/* stripe NULL: zeros. */
static int co_write_again(struct rewrite *rewrite, const struct run *run, struct write_extent rows,
                          const struct choice *choice, struct stripe *stripe)
{
    struct mirror *mirror = rewrite->mirror;
    uint32_t data_columns = mirror->config->data_columns;
    struct column_write what = {
        .rows = rows,
        .columns = columns_again(mirror, run, choice),
        .flags = RECORD_REWRITE,
    };
    struct mirror_write *write;
    int r;

    if (what.columns == 0) /* never, but by mistake */
        return 0;
    write = co_write_get(mirror);
    if (!write)
        return -ECANCELED;
    if (stripe) {
        erasure_encode(mirror->erasure, (size_t)rows.count * BLOCK_SIZE,
                       (const void *const *)stripe->blocks,
                       (void *const *)&stripe->blocks[data_columns]);
        for (uint32_t i = 0; i < mirror->config->width; i++)
            what.data[i] = what.columns & BIT(i) ? stripe->blocks[i] : NULL;
    }
    co_range_lock(&mirror->lock, &write->hold, slab_address(mirror, rows.slab, rows.block),
                  rows.count, true);
    r = co_write_commit_columns(write, &what);
    range_unlock(&mirror->lock, &write->hold);
    write_put(write);
    if (r == 0)
        counter_add(&mirror->rewritten_blocks, (uint64_t)rows.count * set_count(what.columns));
    return r;
}

static void report_lost(struct mirror *mirror, struct write_extent row)
{
    SOMETIMES("parity: a row in flight is lost on too many columns");
    counter_add(&mirror->lost_blocks, 1);
    log_error(mirror->io, "parity", "a row that was in flight is rotten on too many columns",
              "vdisk=%llu slab=%u row=%u", (unsigned long long)mirror->vdisk.id, row.slab,
              row.block);
}

/* As many rows as the stripe's memory can take. */
static int co_rewrite_rows(struct rewrite *rewrite, const struct run *run, struct write_extent rows,
                           struct stripe *stripe)
{
    struct choice choice;
    int r = co_choose(rewrite, run, rows, stripe, &choice);

    if (rows.count > 1 && (r == -EIO || (r == 0 && choice.lost))) {
        for (uint32_t i = 0; i < rows.count; i++) { /* perhaps not all of them */
            struct write_extent one = {rows.slab, rows.block + i, 1};

            r = co_rewrite_rows(rewrite, run, one, stripe);
            if (r < 0)
                return r;
        }
        return 0;
    }
    if (r == 0 && !choice.lost)
        return co_write_again(rewrite, run, rows, &choice, stripe);
    if (r == 0)
        report_lost(rewrite->mirror, rows);
    return r;
}

/* The newest version is on every column that would be written again: it is committed, and no column
 * holds anything of the rows that the others do not know. */
static bool is_committed(const struct rewrite *rewrite, const struct run *run)
{
    struct mirror *mirror = rewrite->mirror;
    uint32_t needed = (run->touched & data_set(mirror)) | parity_set(mirror);
    uint32_t lacking = in_sync_set(mirror, run->rows.slab) & needed & ~run->versions[0].holders;

    if (PLANTED(PARITY_SPARED_EARLY))
        lacking &= lacking - 1; /* one may lack it */
    SOMETIMES_IF(lacking == 0, "parity: a version that all columns have is not written again");
    return lacking == 0;
}

static int co_rewrite_run(struct rewrite *rewrite, const struct run *run, struct stripe *stripe)
{
    struct write_extent left = run->rows;
    struct choice choice;

    if (is_committed(rewrite, run))
        return 0;
    if (become_zeros(rewrite, run, &choice))
        return co_write_again(rewrite, run, run->rows, &choice, NULL);
    while (left.count > 0) {
        struct write_extent rows = left;
        int r;

        rows.count = MIN(rows.count, (uint32_t)PARITY_UNIT_BLOCKS);
        r = co_rewrite_rows(rewrite, run, rows, stripe);
        if (r < 0)
            return r;
        left.block += rows.count;
        left.count -= rows.count;
    }
    return 0;
}

static int co_rewrite_next(struct rewrite *rewrite, struct write_extent rows, struct stripe *stripe)
{
    struct run run = {.rows = rows};
    int r = fill_run(rewrite, &run);

    if (r == 0)
        r = co_rewrite_run(rewrite, &run, stripe);
    free(run.versions);
    return r;
}

static void rewrite_worker(void *arg)
{
    struct rewrite *rewrite = arg;
    struct write_extent rows;
    struct stripe stripe;

    co_stripe_get(&stripe, rewrite->mirror, PARITY_UNIT_BLOCKS);
    while (rewrite->error == 0 && next_rows(rewrite, &rows)) {
        int r;

        rewrite->next_row = rows.block + rows.count;
        r = co_rewrite_next(rewrite, rows, &stripe);
        if (r < 0)
            rewrite->error = r;
    }
    stripe_put(&stripe);
}

int co_parity_rewrite_slab(struct mirror *mirror, uint32_t slab)
{
    struct rewrite rewrite = {.mirror = mirror, .slab = slab};
    int r = collect(&rewrite);

    if (r < 0)
        return r;
    co_group_init(&rewrite.workers);
    for (int i = 0; i < REWRITE_DEPTH; i++)
        if (co_group_spawn(&rewrite.workers, mirror->io, "rewrite", rewrite_worker, &rewrite) < 0)
            break;
    co_group_wait(&rewrite.workers);
    if (rewrite.error == 0 && next_rows(&rewrite, &(struct write_extent){0}))
        rewrite.error = -ENOMEM; /* no worker could be started */
    free(rewrite.seen);
    return rewrite.error;
}
