/* The life of a mirror: making it, showing it configurations, ending it. The protocol is in the
 * other files; mirror_private.h says which. */
#include "resiliency/parity_private.h"

#define COLUMNS_RETRY_NS (100 * MS)

/* ---- shared helpers ---- */

int mirror_spawn(struct mirror *mirror, const char *name, co_fn *fn, void *arg)
{
    return co_group_spawn(&mirror->coroutines, mirror->io, name, fn, arg);
}

int co_mirror_wait(struct mirror *mirror, uint64_t deadline_ns)
{
    int r;

    if (mirror->stopped)
        return -ESTALE;
    r = co_cond_wait_until(&mirror->changed, deadline_ns);
    return mirror->stopped ? -ESTALE : r;
}

int co_wait_for_columns(struct mirror *mirror)
{
    int r = co_mirror_wait(mirror, io_now_ns(mirror->io) + COLUMNS_RETRY_NS);

    return r == -ETIMEDOUT ? 0 : r;
}

int mirror_check_range(const struct mirror *mirror, uint64_t offset, uint64_t length)
{
    if (offset % BLOCK_SIZE != 0 || length % BLOCK_SIZE != 0)
        return -EINVAL;
    if (offset > mirror->vdisk.size_bytes || length > mirror->vdisk.size_bytes - offset)
        return -EINVAL;
    return mirror->stopped ? -ESTALE : 0;
}

struct write_extent mirror_next_extent(const struct mirror *mirror, uint64_t address,
                                       uint64_t blocks, uint32_t limit)
{
    uint32_t slab_blocks = mirror->config->slab_blocks;
    uint32_t block = (uint32_t)(address % slab_blocks);

    return (struct write_extent){
        .slab = (uint32_t)(address / slab_blocks),
        .block = block,
        .count = (uint32_t)MIN(blocks, (uint64_t)MIN(slab_blocks - block, limit)),
    };
}

/* Asks for space, once however many requests wait. Returns 0 (look again) or the error. */
static int co_request_slab(struct mirror *mirror, uint32_t slab)
{
    int r;

    if (mirror->slabs[slab].requesting) {
        SOMETIMES("mirror: a second request waits for the same slab");
        return co_mirror_wait(mirror, UINT64_MAX);
    }
    mirror->slabs[slab].requesting = true;
    r = mirror->options.co_request_slabs(mirror->options.arg, mirror->vdisk.id, mirror->epoch,
                                         &slab, 1);
    mirror->slabs[slab].requesting = false; /* the table may have moved meanwhile, not this index */
    co_cond_broadcast(&mirror->changed);
    if (mirror->stopped)
        return -ESTALE;
    if (r == 0 || r == -ENOSPC || r == -ESTALE || r == -ECANCELED)
        return r;
    r = co_mirror_wait(mirror, io_now_ns(mirror->io) + mirror->limits.retry_ns);
    return r == -ETIMEDOUT ? 0 : r;
}

int co_mirror_enter(struct mirror *mirror, uint32_t slab, bool allocate)
{
    for (;;) {
        bool allocated = vdisk_config_slab_allocated(mirror->config, slab);
        int r;

        if (mirror->stopped)
            return -ESTALE;
        if (!mirror->draining) {
            if (!allocated && !allocate)
                return 0;
            if (allocated && mirror->slabs[slab].ready && !mirror->slabs[slab].closed) {
                INVARIANT(I6, !mirror->slabs[slab].rewriting);
                mirror->slabs[slab].entered++;
                return 1;
            }
        }
        if (allocated || mirror->draining) {
            SOMETIMES_IF(allocated && !mirror->slabs[slab].closed,
                         "mirror: a request waits for a takeover");
            SOMETIMES_IF(mirror->slabs[slab].closed, "mirror: a request waits for a release");
            mirror->slabs[slab].wanted = true;
            evict_watch(mirror);
            r = co_mirror_wait(mirror, UINT64_MAX);
        } else {
            r = co_request_slab(mirror, slab);
        }
        if (r < 0)
            return r;
    }
}

void mirror_leave(struct mirror *mirror, uint32_t slab)
{
    struct mirror_slab *state = &mirror->slabs[slab];

    assert(state->entered > 0);
    if (--state->entered == 0 && state->closed)
        co_cond_broadcast(&mirror->changed);
}

/* ---- telling watermarks when no record does ---- */

static void tell_run(void *arg)
{
    struct feed *feed = arg;

    if (feed->opened)
        (void)co_feed_tell(feed, false); /* the next record, or the next idle moment, tells it */
    feed->marking = false;
}

static void idle_timer_fired(void *arg)
{
    struct mirror *mirror = arg;
    uint64_t now_ns = io_now_ns(mirror->io), seq = mirror_watermark(mirror).seq;
    bool behind = false;

    if (mirror->stopped)
        return;
    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);

        if (!feed->opened || feed->told_seq >= seq)
            continue;
        behind = true;
        if (feed->marking || now_ns - feed->sent_ns < mirror->limits.idle_mark_ns)
            continue;
        feed->marking = mirror_spawn(mirror, "tell", tell_run, feed) == 0;
    }
    if (behind || !list_empty(&mirror->in_flight))
        io_timer_arm(mirror->io, &mirror->idle_timer, now_ns + mirror->limits.idle_mark_ns);
}

/* ---- life ---- */

static struct mirror_limits limits_or_default(struct mirror_limits limits)
{
    return (struct mirror_limits){
        .writes = limits.writes ? limits.writes : 128,
        .slow_ns = limits.slow_ns ? limits.slow_ns : 2500 * MS,
        .unreachable_ns = limits.unreachable_ns ? limits.unreachable_ns : 300 * MS,
        .propose_ns = limits.propose_ns ? limits.propose_ns : 500 * MS,
        .retry_ns = limits.retry_ns ? limits.retry_ns : 50 * MS,
        .idle_mark_ns = limits.idle_mark_ns ? limits.idle_mark_ns : 20 * MS,
        .unsettled_bytes = limits.unsettled_bytes ? limits.unsettled_bytes : 16 * MIB,
        .stripe_bytes = limits.stripe_bytes ? limits.stripe_bytes : 16 * MIB,
        .release_ns = limits.release_ns ? limits.release_ns : 2 * SEC,
        .resync_depth = limits.resync_depth ? limits.resync_depth : 4,
    };
}

static int make_pool(struct mirror *mirror, uint32_t width)
{
    uint32_t count = mirror->limits.writes;

    mirror->writes = calloc(count, sizeof(*mirror->writes));
    mirror->parts = calloc((size_t)count * width, sizeof(*mirror->parts));
    mirror->disks = calloc((size_t)count * width, sizeof(*mirror->disks));
    if (!mirror->writes || !mirror->parts || !mirror->disks)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++) {
        mirror->writes[i].mirror = mirror;
        mirror->writes[i].parts = mirror->parts + (size_t)i * width;
        mirror->writes[i].disks = mirror->disks + (size_t)i * width;
        list_push_back(&mirror->free_writes, &mirror->writes[i].node);
    }
    co_sem_init(&mirror->write_slots, count);
    co_sem_init(&mirror->stripe_room, mirror->limits.stripe_bytes);
    return 0;
}

static const struct vdisk_ops mirror_vdisk_ops = {
    .co_read = co_mirror_read,
    .co_write = co_mirror_write,
    .co_trim = co_mirror_trim,
};

static void mirror_init(struct mirror *mirror, struct io *io, const struct mirror_options *options,
                        const struct vdisk_config *config)
{
    mirror->vdisk = (struct vdisk){
        .ops = config->data_columns == 1 ? &mirror_vdisk_ops : &parity_vdisk_ops,
        .id = config->vdisk,
    };
    mirror->io = io;
    mirror->options = *options;
    mirror->limits = limits_or_default(options->limits);
    mirror->session = config->session;
    list_init(&mirror->feeds);
    list_init(&mirror->in_flight);
    list_init(&mirror->free_writes);
    range_lock_init(&mirror->lock);
    co_cond_init(&mirror->changed);
    co_cond_init(&mirror->progress);
    co_group_init(&mirror->calls);
    co_group_init(&mirror->coroutines);
    io_timer_init(&mirror->idle_timer, idle_timer_fired, mirror);
    io_timer_init(&mirror->watch_timer, evict_timer, mirror);
}

/* Nothing runs any more. */
static void mirror_destroy(struct mirror *mirror)
{
    while (!list_empty(&mirror->feeds))
        feed_free(list_first(&mirror->feeds, struct feed, node));
    vdisk_config_put(mirror->config);
    recent_done(&mirror->recent);
    free(mirror->slab_feeds);
    free(mirror->slabs);
    free(mirror->writes);
    free(mirror->parts);
    free(mirror->disks);
    erasure_free(mirror->erasure);
    free(mirror);
}

static int add_metrics(struct mirror *mirror)
{
    static const struct {
        const char *name, *help;
        size_t offset;
    } counters[] = {
        {"s2d_mirror_reads_total", "reads of a virtual disk", offsetof(struct mirror, reads)},
        {"s2d_mirror_writes_total", "writes and trims", offsetof(struct mirror, writes_done)},
        {"s2d_mirror_read_bytes_total", "bytes read", offsetof(struct mirror, read_bytes)},
        {"s2d_mirror_written_bytes_total", "bytes written or trimmed",
         offsetof(struct mirror, written_bytes)},
        {"s2d_mirror_copied_blocks_total", "blocks copied by resyncs",
         offsetof(struct mirror, copied_blocks)},
        {"s2d_mirror_rewritten_blocks_total", "blocks written again at the takeover",
         offsetof(struct mirror, rewritten_blocks)},
        {"s2d_mirror_healed_blocks_total", "rotten blocks repaired from another copy",
         offsetof(struct mirror, healed_blocks)},
        {"s2d_mirror_lost_blocks_total", "requests for blocks that no copy could give",
         offsetof(struct mirror, lost_blocks)},
        {"s2d_mirror_evictions_total", "proposals to mark a disk's columns stale",
         offsetof(struct mirror, evictions)},
        {"s2d_mirror_released_slabs_total", "empty slabs given back to the pool",
         offsetof(struct mirror, released_slabs)},
    };
    char labels[64];
    int r;

    snprintf(labels, sizeof(labels), "vdisk=\"%llu\"", (unsigned long long)mirror->vdisk.id);
    for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
        mirror->metric[i] = (struct counter *)((char *)mirror + counters[i].offset);
        r = metrics_add_counter(mirror->options.metrics, counters[i].name, counters[i].help, labels,
                                mirror->metric[i]);
        if (r < 0)
            return r;
    }
    return metrics_add_histogram(mirror->options.metrics, "s2d_mirror_write_latency_ns",
                                 "from the request to its answer", labels, &mirror->write_latency);
}

static void remove_metrics(struct mirror *mirror)
{
    for (size_t i = 0; i < ARRAY_SIZE(mirror->metric); i++) {
        if (mirror->metric[i])
            metrics_remove(mirror->options.metrics, mirror->metric[i]);
    }
    metrics_remove(mirror->options.metrics, &mirror->write_latency);
}

int mirror_new(struct io *io, const struct mirror_options *options, struct vdisk_config *config,
               struct mirror **ret_mirror)
{
    struct mirror *mirror = calloc(1, sizeof(*mirror));
    int r;

    if (!mirror)
        return -ENOMEM;
    mirror_init(mirror, io, options, config);
    r = mirror_check_config(mirror, config);
    if (r == 0)
        r = make_pool(mirror, config->width);
    if (r == 0 && config->data_columns > 1)
        r = erasure_new(config->data_columns, config->width - config->data_columns,
                        &mirror->erasure);
    if (r == 0)
        r = mirror_apply_config(mirror, config);
    if (r == 0)
        r = add_metrics(mirror);
    if (r == 0) /* from here on things run; co_mirror_free() is the only way out */
        r = mirror_spawn(mirror, "takeover", co_takeover_run, mirror);
    if (r == 0 && options->propose_release &&
        mirror_spawn(mirror, "release", co_release_run, mirror) < 0)
        log_warn(io, "mirror", "no memory: empty slabs are kept", "vdisk=%llu",
                 (unsigned long long)mirror->vdisk.id);
    if (r < 0) {
        remove_metrics(mirror);
        mirror_destroy(mirror);
        return r;
    }
    *ret_mirror = mirror;
    return 0;
}

void mirror_stop(struct mirror *mirror)
{
    if (mirror->stopped)
        return;
    mirror->stopped = true;
    io_timer_disarm(mirror->io, &mirror->idle_timer);
    io_timer_disarm(mirror->io, &mirror->watch_timer);
    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);

        feed_break(feed, -ESTALE);
        feed_drop_unwanted(feed);
    }
    co_cond_broadcast(&mirror->progress);
    co_cond_broadcast(&mirror->changed);
}

bool mirror_stopped(const struct mirror *mirror)
{
    return mirror->stopped;
}

void co_mirror_free(struct mirror *mirror)
{
    if (!mirror)
        return;
    mirror_stop(mirror);
    co_group_wait(&mirror->calls);
    co_group_wait(&mirror->coroutines);
    assert(list_empty(&mirror->in_flight));
    assert(range_lock_idle(&mirror->lock));
    remove_metrics(mirror);
    mirror_destroy(mirror);
}

struct vdisk *mirror_vdisk(struct mirror *mirror)
{
    return &mirror->vdisk;
}

bool mirror_ready(const struct mirror *mirror)
{
    return mirror->slabs_waiting == 0 && !mirror->stopped;
}

int co_mirror_wait_ready(struct mirror *mirror, uint64_t deadline_ns)
{
    int r = mirror->stopped ? -ESTALE : 0;

    co_group_add(&mirror->calls, 1);
    while (r == 0 && mirror->slabs_waiting > 0)
        r = co_mirror_wait(mirror, deadline_ns);
    co_group_done(&mirror->calls);
    return r;
}

static int co_drain(struct mirror *mirror, uint64_t deadline_ns)
{
    while (mirror->writes_entered > 0 || !list_empty(&mirror->in_flight)) {
        int r = co_cond_wait_until(&mirror->progress, deadline_ns);

        if (mirror->stopped)
            return -ESTALE;
        if (r < 0)
            return r;
        SOMETIMES("mirror: a hand-over waits for writes in flight");
    }
    return 0;
}

int co_mirror_hand_over(struct mirror *mirror, uint64_t deadline_ns)
{
    int r;

    if (mirror->stopped)
        return -ESTALE;
    co_group_add(&mirror->calls, 1);
    mirror->draining = true;
    r = co_drain(mirror, deadline_ns);
    if (r < 0) {
        mirror->draining = false;
        co_cond_broadcast(&mirror->changed);
    }
    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);

        /* If it fails the next owner writes a little again. */
        if (r == 0 && feed->opened && feed->in_sync_columns > 0)
            (void)co_feed_tell(feed, true);
    }
    co_group_done(&mirror->calls);
    return r;
}

void mirror_pause_resync(struct mirror *mirror, bool paused)
{
    if (mirror->resync_paused == paused)
        return;
    mirror->resync_paused = paused;
    co_cond_broadcast(&mirror->changed);
}

void mirror_set_unsettled_bytes(struct mirror *mirror, uint64_t bytes)
{
    assert(bytes > 0);
    mirror->limits.unsettled_bytes = bytes;
    co_cond_broadcast(&mirror->progress);
}

struct mirror_status mirror_status(const struct mirror *mirror)
{
    struct mirror_status status = {
        .slabs_waiting = mirror->slabs_waiting,
        .copied_blocks = mirror->copied_blocks.value,
        .rewritten_blocks = mirror->rewritten_blocks.value,
        .healed_blocks = mirror->healed_blocks.value,
        .lost_blocks = mirror->lost_blocks.value,
        .reads = mirror->reads.value,
        .writes = mirror->writes_done.value,
        .read_bytes = mirror->read_bytes.value,
        .written_bytes = mirror->written_bytes.value,
    };

    list_for_each (node, &mirror->feeds) {
        const struct feed *feed = list_entry(node, struct feed, node);

        status.stale_disks += feed->stale_columns > 0;
        status.catching_disks += feed->catching;
        status.compare_blocks += feed->compare_blocks;
        status.filled_blocks += feed->filled_blocks;
    }
    return status;
}

static bool slab_is_detached(const struct mirror *mirror, uint32_t slab)
{
    const struct column_config *columns = mirror_columns(mirror, slab);
    uint32_t attached = 0;

    for (uint32_t i = 0; i < mirror->config->width; i++)
        attached += columns[i].state == COLUMN_IN_SYNC && mirror_feed(mirror, slab, i)->up;
    return attached < mirror->config->data_columns;
}

uint32_t mirror_detached_slabs(const struct mirror *mirror, uint64_t *ret_disk)
{
    uint32_t count = 0;

    *ret_disk = 0;
    list_for_each (node, &mirror->feeds) {
        const struct feed *feed = list_entry(node, struct feed, node);

        if (feed->in_sync_columns > 0 && !feed->up)
            *ret_disk = feed->disk;
    }
    for (uint32_t slab = 0; *ret_disk != 0 && slab < mirror->slab_count; slab++)
        count += slab_is_detached(mirror, slab);
    return count;
}
