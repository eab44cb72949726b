/* The volume table, and the loop that runs a request where the volume is owned now. */
#include <stdio.h>

#include "csv-export/csv_internal.h"
#include "s2d/base/log.h"

/* ---- the table ---- */

struct csv_volume *csv_volume_by_id(struct csv *csv, uint64_t id)
{
    list_for_each (node, &csv->volumes) {
        struct csv_volume *volume = list_entry(node, struct csv_volume, node);

        if (volume->id == id)
            return volume;
    }
    return NULL;
}

/* Of those that were removed some may still be on their way out: their names are free. */
static struct csv_volume *by_name(struct csv *csv, const char *name)
{
    list_for_each (node, &csv->volumes) {
        struct csv_volume *volume = list_entry(node, struct csv_volume, node);

        if (!volume->removed && strcmp(volume->name, name) == 0)
            return volume;
    }
    return NULL;
}

struct csv_volume *csv_volume_find(struct csv *csv, const char *name)
{
    struct csv_volume *volume = by_name(csv, name);

    if (volume)
        volume->references++;
    return volume;
}

struct csv_volume *csv_volume_next(struct csv *csv, const char *after)
{
    list_for_each (node, &csv->volumes) {
        struct csv_volume *volume = list_entry(node, struct csv_volume, node);

        if (!volume->removed && (!after || strcmp(volume->name, after) > 0)) {
            volume->references++;
            return volume;
        }
    }
    return NULL;
}

struct csv_volume *csv_volume_ref(struct csv_volume *volume)
{
    volume->references++;
    return volume;
}

void csv_volume_put(struct csv_volume *volume)
{
    if (!volume)
        return;
    assert(volume->references > 0);
    if (--volume->references > 0)
        return;
    assert(volume->removed);
    assert(!volume->fs);
    assert(volume->open_count == 0);
    assert(list_empty(&volume->reshapings));
    assert(list_empty(&volume->files));
    assert(list_empty(&volume->calls));
    csv_attachments_free(volume);
    list_remove(&volume->node);
    free(volume);
}

const char *csv_volume_name(const struct csv_volume *volume)
{
    return volume->name;
}

uint64_t csv_volume_id(const struct csv_volume *volume)
{
    return volume->id;
}

struct csv_volume_counts csv_volume_count(const struct csv_volume *volume)
{
    return (struct csv_volume_counts){
        .open_files = volume->open_count,
        .waiting = volume->waiting,
    };
}

static void insert_by_name(struct csv *csv, struct csv_volume *volume)
{
    struct list *position = &csv->volumes;

    list_for_each (node, &csv->volumes) {
        if (strcmp(list_entry(node, struct csv_volume, node)->name, volume->name) > 0) {
            position = node;
            break;
        }
    }
    list_insert_before(position, &volume->node);
}

static int volume_new(struct csv *csv, const struct csv_volume_state *state,
                      struct csv_volume **ret_volume)
{
    struct csv_volume *volume;

    if (by_name(csv, state->name))
        return -EEXIST;
    volume = calloc(1, sizeof(*volume));
    if (!volume)
        return -ENOMEM;
    volume->csv = csv;
    volume->references = 1; /* the table's */
    volume->id = state->id;
    snprintf(volume->name, sizeof(volume->name), "%s", state->name);
    co_cond_init(&volume->changed);
    co_mutex_init(&volume->change);
    co_cond_init(&volume->idle);
    co_cond_init(&volume->open_idle);
    co_mutex_init(&volume->attaching);
    co_sem_init(&volume->small_window, CSV_SMALL_WINDOW);
    co_sem_init(&volume->large_window, CSV_LARGE_WINDOW);
    co_sem_init(&volume->free_slots, FS_SLOTS_PER_SESSION);
    for (size_t i = 0; i < CSV_OPEN_BUCKETS; i++)
        list_init(&volume->opens[i]);
    list_init(&volume->reshapings);
    list_init(&volume->attachments);
    list_init(&volume->files);
    list_init(&volume->calls);
    insert_by_name(csv, volume);
    *ret_volume = volume;
    return 0;
}

/* ---- who may enter the fs ---- */

bool csv_volume_is_local(const struct csv_volume *volume)
{
    return volume->fs && !volume->draining;
}

void csv_volume_enter(struct csv_volume *volume)
{
    assert(csv_volume_is_local(volume));
    volume->in_flight++;
}

void csv_volume_leave(struct csv_volume *volume)
{
    assert(volume->in_flight > 0);
    if (--volume->in_flight == 0)
        co_cond_broadcast(&volume->idle);
}

/* Takes the fs away: nothing of it is held when this returns. Files without a name that are open
 * must outlive us, so the fs may not see our last reference go: it is told to do nothing any more.
 */
static void co_detach_fs(struct csv_volume *volume)
{
    volume->draining = true;
    SOMETIMES_IF(volume->in_flight > 0, "csv: an owner goes with requests in flight");
    while (volume->in_flight > 0)
        co_cond_wait_always(&volume->idle);
    if (fs_error(volume->fs) == 0 && co_csv_has_nameless(volume)) {
        (void)!co_fs_checkpoint(volume->fs); /* the next mount is quicker; no more depends on it */
        fs_fail(volume->fs);
    }
    co_csv_close_opens(volume, 0, 0);
    csv_attachments_free(volume);
    volume->fs = NULL;
    volume->draining = false;
}

static bool name_is_valid(const char *name)
{
    size_t length = strlen(name);

    return length > 0 && length <= CSV_VOLUME_NAME_MAX && !strchr(name, '/');
}

int co_csv_set_volume(struct csv *csv, const struct csv_volume_state *state)
{
    struct csv_volume *volume;
    bool moved;
    int r;

    if (state->id == 0 || !name_is_valid(state->name) ||
        (state->fs && state->owner != csv->options.node))
        return -EINVAL;
    volume = csv_volume_by_id(csv, state->id);
    if (!volume) {
        r = volume_new(csv, state, &volume);
        if (r < 0)
            return r;
    }
    volume->references++;
    co_mutex_lock(&volume->change);
    moved = volume->owner != state->owner || volume->session != state->session;
    if (moved)
        csv_cancel_calls(volume);
    if (volume->fs && (moved || volume->fs != state->fs))
        co_detach_fs(volume);
    if (!volume->removed) {
        volume->owner = state->owner;
        volume->session = state->session;
        volume->fs = state->fs;
        if (moved)
            csv_assert_files(volume);
    }
    co_cond_broadcast(&volume->changed);
    co_mutex_unlock(&volume->change);
    csv_volume_put(volume);
    return 0;
}

void co_csv_remove_volume(struct csv *csv, uint64_t id)
{
    struct csv_volume *volume = csv_volume_by_id(csv, id);

    if (!volume || volume->removed)
        return;
    volume->removed = true;
    volume->references++;
    co_mutex_lock(&volume->change);
    csv_cancel_calls(volume);
    if (volume->fs)
        co_detach_fs(volume);
    volume->owner = 0;
    list_remove(&volume->node);
    co_cond_broadcast(&volume->changed);
    co_mutex_unlock(&volume->change);
    csv_volume_put(volume); /* ours */
    csv_volume_put(volume); /* the table's */
}

/* ---- running a request ---- */

static unsigned slot_take(struct csv_volume *volume)
{
    unsigned slot = __builtin_ctzll(~volume->used_slots);

    assert(volume->used_slots != UINT64_MAX);
    volume->used_slots |= (uint64_t)1 << slot;
    return slot;
}

static_assert(FS_SLOTS_PER_SESSION <= 64, "a bit to each slot");

/* Never 0, also when it has gone round (struct fs_request). */
static uint32_t next_sequence(struct csv_volume *volume, unsigned slot)
{
    if (++volume->sequences[slot] == 0)
        volume->sequences[slot] = 1;
    return volume->sequences[slot];
}

/* Gives the request its name: the same for all its repeats, also for those after its file had to be
 * opened again (co_run_on_file()). */
static int co_name_request(struct csv_volume *volume, struct csv_request *request)
{
    const struct csv_options *options = &volume->csv->options;
    int r;

    if (csv_op_has_handle(request->op) && (request->number == 0 || PLANTED(CSV_NEW_NUMBER)))
        request->number = ++volume->csv->next_number;
    if (!csv_op_is_named(request->op))
        return 0;
    r = co_sem_take(&volume->free_slots, 1);
    if (r < 0)
        return r;
    request->name_of.session = csv_client_session(options->node, options->start_counter);
    request->name_of.slot = slot_take(volume);
    request->name_of.sequence = next_sequence(volume, request->name_of.slot);
    return 0;
}

static void unname_request(struct csv_volume *volume, const struct csv_request *request)
{
    if (!csv_op_is_named(request->op))
        return;
    volume->used_slots &= ~((uint64_t)1 << request->name_of.slot);
    co_sem_give(&volume->free_slots, 1);
}

static int co_run_local(struct csv_volume *volume, const struct csv_request *request,
                        struct csv_reply *reply)
{
    int r;

    counter_add(&volume->csv->counters.local, 1);
    csv_volume_enter(volume);
    r = co_csv_execute(volume, request, reply);
    csv_volume_leave(volume);
    return r;
}

static int co_run_once(struct csv_volume *volume, struct csv_request *request,
                       struct csv_reply *reply)
{
    request->session = volume->session;
    if (csv_volume_is_local(volume))
        return co_run_local(volume, request, reply);
    if (volume->owner == 0 || volume->owner == volume->csv->options.node ||
        !volume->csv->options.bus)
        return -ESTALE;
    return co_csv_redirect(volume, request, reply);
}

/* Waits for a change of the table, or a while. */
static int co_wait_for_owner(struct csv_volume *volume)
{
    struct csv *csv = volume->csv;
    int r;

    if (csv->stopped)
        return -ESHUTDOWN;
    if (volume->removed)
        return -ENODEV;
    volume->waiting++;
    r = co_cond_wait_until(&volume->changed, io_now_ns(csv->io) + CSV_RETRY_NS);
    volume->waiting--;
    if (csv->stopped)
        return -ESHUTDOWN;
    return r == -ECANCELED ? r : 0;
}

static int co_run_named(struct csv_volume *volume, struct csv_request *request,
                        struct csv_reply *reply)
{
    uint32_t room = reply->bulk_bytes;

    for (;;) {
        int r = volume->csv->stopped ? -ESHUTDOWN : co_run_once(volume, request, reply);

        if (r != -ESTALE && r != -EAGAIN)
            return r;
        r = co_wait_for_owner(volume);
        if (r < 0)
            return r;
        SOMETIMES_IF(csv_op_is_named(request->op), "csv: a metadata request is sent again");
        if (PLANTED(CSV_NEW_NAME) && csv_op_is_named(request->op))
            request->name_of.sequence = ++volume->sequences[request->name_of.slot];
        if (request->op == CSV_WRITE)
            request->flags |= CSV_WRITE_REPEAT;
        counter_add(&volume->csv->counters.resent, 1);
        reply->bulk_bytes = room;
    }
}

int co_csv_run(struct csv_volume *volume, struct csv_request *request, struct csv_reply *reply)
{
    struct csv *csv = volume->csv;
    int r;

    request->volume = volume->id;
    request->client = csv->options.node;
    request->client_counter = csv->options.start_counter;
    co_group_add(&csv->work, 1);
    volume->references++;
    r = co_name_request(volume, request);
    if (r == 0) {
        r = co_run_named(volume, request, reply);
        unname_request(volume, request);
    }
    csv_volume_put(volume);
    co_group_done(&csv->work);
    return r;
}
