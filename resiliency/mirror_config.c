/* What a new configuration means: which feeds there are, which columns count, what became stale
 * or in-sync, which proposals are answered. Nothing suspends, so the mirror never shows half of it.
 */
#include "resiliency/parity_private.h"

/* ---- tables ---- */

static int grow_tables(struct mirror *mirror, const struct vdisk_config *config)
{
    struct mirror_slab *slabs;
    struct feed **feeds;
    size_t count = MAX(config->slab_count, 1);

    slabs = realloc(mirror->slabs, count * sizeof(*slabs));
    if (!slabs)
        return -ENOMEM;
    mirror->slabs = slabs;
    feeds = realloc(mirror->slab_feeds, count * config->width * sizeof(*feeds));
    if (!feeds)
        return -ENOMEM;
    mirror->slab_feeds = feeds;
    for (uint32_t slab = mirror->slab_count; slab < config->slab_count; slab++) {
        mirror->slabs[slab] = (struct mirror_slab){0};
        for (uint32_t i = 0; i < config->width; i++)
            mirror->slab_feeds[(size_t)slab * config->width + i] = NULL;
    }
    mirror->slab_count = config->slab_count;
    return 0;
}

/* ---- columns and feeds ---- */

static struct feed *find_feed(struct mirror *mirror, uint64_t disk)
{
    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);

        if (feed->disk == disk)
            return feed;
    }
    return NULL;
}

static int feed_for(struct mirror *mirror, const struct column_config *column,
                    struct feed **ret_feed)
{
    struct feed *feed = find_feed(mirror, column->disk);
    int r;

    if (!feed) {
        r = feed_new(mirror, column->disk, column->node, &feed);
        if (r < 0)
            return r;
    }
    feed_locate(feed, column->node);
    *ret_feed = feed;
    return 0;
}

/* What one column of the new configuration means for its feed. old: NULL if the slab is new. */
static int apply_column(struct mirror *mirror, size_t index, const struct column_config *old,
                        const struct column_config *new)
{
    struct feed *feed = NULL;
    bool same = old && old->disk == new->disk && old->where.extent == new->where.extent &&
                old->where.generation == new->where.generation;
    int r;

    r = feed_for(mirror, new, &feed);
    if (r < 0)
        return r;
    mirror->slab_feeds[index] = feed;
    if (new->state == COLUMN_IN_SYNC) {
        feed->in_sync_columns++;
        /* Only the owner proposes in-sync (I3), and then it counts the column. */
        return same && old->state == COLUMN_STALE && !feed->counted && !PLANTED(JOIN_UNCOUNTED)
                   ? -EPROTO
                   : 0;
    }
    feed->stale_columns++;
    /* also where it has a new place already: a snapshot of the database skips what came between */
    mirror->sources_lost += old && old->state == COLUMN_IN_SYNC;
    /* Newly stale, or a new column in the place of one that is lost: the feed begins anew, with
     * the tail of its stale columns. */
    if (!same || old->state == COLUMN_IN_SYNC)
        feed->restart = true;
    return 0;
}

/* Only the owner proposes that a slab goes, and then nobody is inside. */
static int drop_slab(struct mirror *mirror, uint32_t slab)
{
    struct mirror_slab *state = &mirror->slabs[slab];

    if (!state->closed && !PLANTED(RELEASE_DOOR_OPEN))
        return -EPROTO;
    assert(state->entered == 0 || PLANTED(RELEASE_DOOR_OPEN));
    assert(state->ready);
    state->ready = false;
    state->maybe_empty = false;
    for (uint32_t i = 0; i < mirror->config->width; i++)
        mirror->slab_feeds[(size_t)slab * mirror->config->width + i] = NULL;
    return 0;
}

static int apply_slab(struct mirror *mirror, const struct vdisk_config *old,
                      const struct vdisk_config *new, uint32_t slab)
{
    bool was = old && vdisk_config_slab_allocated(old, slab);
    int r;

    if (!vdisk_config_slab_allocated(new, slab))
        return was ? drop_slab(mirror, slab) : 0;
    if (!was) {
        SOMETIMES_IF(old, "mirror: a slab is born in a session");
        /* One that is born in our session holds nothing: nobody has written to it. */
        mirror->slabs[slab].ready = old != NULL || PLANTED(TAKEOVER_SKIPPED);
        mirror->slabs_waiting += !mirror->slabs[slab].ready;
        mirror->slabs[slab].maybe_empty = old == NULL; /* who knows what it held last */
    }
    for (uint32_t i = 0; i < new->width; i++) {
        r = apply_column(mirror, (size_t)slab * new->width + i,
                         was ? &vdisk_config_slab(old, slab)[i] : NULL,
                         &vdisk_config_slab(new, slab)[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Some stale columns were proposed, and are stale no more. */
static bool some_have_joined(const struct feed *feed)
{
    for (size_t i = 0; i < feed->proposed_slab_count; i++) {
        const struct column_config *columns = mirror_columns(feed->mirror, feed->proposed_slabs[i]);

        for (uint32_t j = 0; j < feed->mirror->config->width; j++) {
            if (columns[j].disk == feed->disk && columns[j].state == COLUMN_STALE)
                return false;
        }
    }
    return feed->proposed_slab_count > 0;
}

/* A proposal "in-sync" was decided in an older epoch: this configuration is the answer. */
static void apply_answer(struct feed *feed, uint64_t epoch)
{
    if (feed->stale_columns == 0) {
        SOMETIMES_IF(feed->proposed && !feed->up,
                     "mirror: in-sync comes true while its feed is broken");
        feed->proposed = false;
        feed->counted = false; /* by now it counts as in-sync */
        feed->catching = false;
    } else if (feed->proposed && epoch > feed->proposed_epoch) {
        bool joined = some_have_joined(feed);

        SOMETIMES_IF(joined, "mirror: some of a disk's stale columns are in-sync");
        SOMETIMES_IF(!joined, "mirror: a proposal 'in-sync' is void");
        feed->proposed = false;
        feed->counted =
            !joined && feed->counted && feed->up && feed->catching && resync_may_join(feed);
    }
}

/* What the configuration says of all feeds comes first: breaking one looks at writes again, which
 * look at the others. */
static int apply_feeds(struct mirror *mirror)
{
    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);

        apply_answer(feed, mirror->epoch);
        if (feed->restart) {
            feed->proposed = false;
            feed->counted = false;
        }
    }
    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);

        if (feed->restart) {
            SOMETIMES_IF(feed->catching,
                         "mirror: another column of the disk turns stale during its resync");
            feed->restart = false;
            feed_break(feed, 0);
        }
        feed->retired = feed->in_sync_columns + feed->stale_columns == 0;
        feed_drop_unwanted(feed);
        if (mirror->started && !feed->retired && feed_start(feed) < 0)
            return -ENOMEM;
    }
    return 0;
}

int mirror_apply_config(struct mirror *mirror, struct vdisk_config *config)
{
    cleanup(vdisk_config_putp) struct vdisk_config *old = mirror->config;
    int r;

    r = grow_tables(mirror, config);
    if (r < 0) {
        take_ptr(old);
        return r;
    }
    mirror->config = vdisk_config_get(config);
    mirror->epoch = config->epoch;
    mirror->vdisk.size_bytes = config->size_bytes;
    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);

        feed->in_sync_columns = 0;
        feed->stale_columns = 0;
    }
    for (uint32_t slab = 0; slab < config->slab_count; slab++) {
        r = apply_slab(mirror, old, config, slab);
        if (r < 0)
            return r;
    }
    return apply_feeds(mirror);
}

static bool shape_is_known(const struct vdisk_config *config)
{
    uint32_t data_columns = config->data_columns;

    if (data_columns == 1)
        return config->width <= MIRROR_COPIES_MAX;
    return data_columns <= ERASURE_DATA_MAX && config->width == data_columns + PARITY_COLUMNS &&
           vdisk_config_column_blocks(config) % PARITY_UNIT_BLOCKS == 0;
}

int mirror_check_config(const struct mirror *mirror, const struct vdisk_config *config)
{
    if (vdisk_config_check(config) < 0 || !shape_is_known(config))
        return -EINVAL;
    if (config->size_bytes > (uint64_t)config->slab_count * config->slab_blocks * BLOCK_SIZE)
        return -EINVAL; /* addresses must have slabs */
    if (!mirror->config)
        return config->owner == mirror->options.node ? 0 : -EINVAL;
    if (config->vdisk != mirror->vdisk.id || config->width != mirror->config->width ||
        config->data_columns != mirror->config->data_columns ||
        config->slab_blocks != mirror->config->slab_blocks)
        return -EINVAL;
    if (config->epoch < mirror->epoch || config->slab_count < mirror->slab_count)
        return -EINVAL;
    return 0;
}

int mirror_configure(struct mirror *mirror, struct vdisk_config *config)
{
    int r;

    if (mirror->stopped)
        return 0;
    r = mirror_check_config(mirror, config);
    if (r < 0)
        return r;
    if (config->owner != mirror->options.node || config->session != mirror->session) {
        SOMETIMES_IF(mirror->slabs_waiting > 0, "mirror: a takeover is interrupted by the next");
        SOMETIMES_IF(!list_empty(&mirror->in_flight),
                     "mirror: a session ends with writes in flight");
        mirror_stop(mirror);
        return 0;
    }
    r = mirror_apply_config(mirror, config);
    if (r < 0) {
        mirror_stop(mirror); /* half of it is applied */
        return r;
    }
    SOMETIMES_IF(!list_empty(&mirror->in_flight), "mirror: the in-sync set changes under writes");
    list_for_each_safe (node, &mirror->in_flight) {
        write_look_again(list_entry(node, struct mirror_write, node));
    }
    evict_watch(mirror);
    co_cond_broadcast(&mirror->changed);
    return 0;
}
