/* Aimed schedules: the shortest histories in which a mistake of the protocol does harm, taken from
 * the counterexamples of its model, with dice for what the model left open. Random faults meet most
 * of them too, but once in thousands of runs; here each run plays a few, and after each of them
 * everything must heal and all copies be the same.
 *
 * Clients work on one slab for a while (cluster->focus), then on another: what is not overwritten
 * shows later what was done to it, and its pages keep their stamps. */
#include "cache-tier/store.h"
#include "tests/sim/mirror_sim.h"

#define SERVES_NS (3 * SEC)

static struct node *owner_now(struct cluster *cluster)
{
    return &cluster->nodes[config_now(cluster)->owner];
}

static bool is_up(const struct node *node)
{
    return sim_is_up(node->cluster->sim, node->number);
}

/* A node that is neither. */
static struct node *other_node(struct cluster *cluster, const struct node *a, const struct node *b)
{
    struct node *other;

    do
        other = &cluster->nodes[1 + draw(cluster, cluster->node_count)];
    while (other == a || other == b);
    return other;
}

static void cut_both(struct cluster *cluster, const struct node *a, const struct node *b)
{
    sim_cut(cluster->sim, a->number, b->number);
    sim_cut(cluster->sim, b->number, a->number);
}

static void cut_off(struct cluster *cluster, const struct node *node)
{
    for (unsigned i = 1; i <= cluster->node_count; i++)
        cut_both(cluster, node, &cluster->nodes[i]);
}

static void crash(struct node *node, uint64_t down_ns)
{
    if (is_up(node))
        crash_node(node, SIM_PROCESS_DIES, down_ns);
}

static uint32_t some_slab(struct cluster *cluster)
{
    return 1 + (uint32_t)draw(cluster, SLABS);
}

/* Until the present owner serves every slab; false: it does not in time. */
static bool await_serving(struct cluster *cluster)
{
    uint64_t until_ns = sim_now_ns(cluster->sim) + SERVES_NS;

    while (sim_now_ns(cluster->sim) < until_ns) {
        struct node *owner = owner_now(cluster);

        if (owner->mirror && owner->serving_session == config_now(cluster)->session &&
            mirror_ready(owner->mirror))
            return true;
        run_for(cluster, STEP_NS);
    }
    return false;
}

/* Raft shows a column of the node as stale. */
static bool await_stale(struct cluster *cluster, const struct node *node)
{
    uint64_t until_ns = sim_now_ns(cluster->sim) + SERVES_NS;

    while (sim_now_ns(cluster->sim) < until_ns) {
        const struct vdisk_config *config = config_now(cluster);

        for (size_t i = 0; i < (size_t)SLABS * config->width; i++) {
            if (config->columns[i].node == node->number && config->columns[i].state == COLUMN_STALE)
                return true;
        }
        run_for(cluster, STEP_NS);
    }
    return false;
}

/* No request is under way, and every store has heard the last watermark. */
static void quiet(struct cluster *cluster)
{
    uint64_t until_ns = sim_now_ns(cluster->sim) + SERVES_NS;

    cluster->clients_stop = true;
    while (cluster->clients_at_work > 0 && sim_now_ns(cluster->sim) < until_ns)
        run_for(cluster, STEP_NS);
    run_for(cluster, 100 * MS);
    cluster->clients_stop = false;
}

/* ---- the schedules ---- */

/* An owner dies when what it sent has not reached everybody; whoever takes over misses a column for
 * a while, and dies as well, somewhere between its first seal and its last record. */
static void torn_write(struct cluster *cluster)
{
    for (uint64_t rounds = 1 + draw(cluster, 4); rounds > 0; rounds--) {
        struct node *owner = owner_now(cluster);
        struct node *deaf = other_node(cluster, owner, owner);

        sim_cut(cluster->sim, owner->number, deaf->number);
        run_for(cluster, draw(cluster, 40 * MS));
        if (draw(cluster, 2) == 0)
            cut_both(cluster, deaf, other_node(cluster, owner, deaf));
        crash(owner, draw(cluster, 30 * MS));
        cluster->focus = draw(cluster, 2) == 0 ? some_slab(cluster) : cluster->focus;
        run_for(cluster, draw(cluster, draw(cluster, 2) == 0 ? 30 * MS : 280 * MS));
        if (draw(cluster, 2) == 0)
            sim_heal_all(cluster->sim);
    }
    sim_heal_all(cluster->sim);
    run_for(cluster, draw(cluster, 300 * MS));
}

/* A takeover that waits for a column is given up: what the other columns told it they must tell the
 * next one too. */
static void given_up_takeover(struct cluster *cluster)
{
    struct node *owner = owner_now(cluster), *heard = other_node(cluster, owner, owner);
    struct node *deaf = other_node(cluster, owner, heard);

    cluster->focus = some_slab(cluster);
    sim_cut(cluster->sim, owner->number, deaf->number);
    run_for(cluster, 5 * MS + draw(cluster, 20 * MS));
    cut_both(cluster, heard, deaf);
    deaf->raft_cut = true; /* so it is `heard` who takes over */
    cluster->focus = 1 + cluster->focus % SLABS;
    crash(owner, draw(cluster, 20 * MS));
    run_for(cluster, 50 * MS + draw(cluster, 150 * MS));
    owner_now(cluster)->hand_over = true;
    run_for(cluster, 20 * MS);
    deaf->raft_cut = false;
    sim_heal_all(cluster->sim);
    run_for(cluster, draw(cluster, 300 * MS));
}

/* An owner that hears nothing of the database, and minds its lease only where it must: it reads, it
 * writes, and sometimes reaches the stores. */
static void deposed_owner(struct cluster *cluster)
{
    struct node *owner = owner_now(cluster);

    owner->zombie = true;
    owner->raft_cut = true;
    if (draw(cluster, 2) == 0)
        cut_off(cluster, owner);
    run_for(cluster, LEASE_NS + 300 * MS + draw(cluster, SEC));
    sim_heal_all(cluster->sim); /* what it had sent arrives, if it was cut off */
    run_for(cluster, draw(cluster, 300 * MS));
    owner->raft_cut = false;
    run_for(cluster, 300 * MS);
}

/* The same by a process that stood still. */
static void paused_owner(struct cluster *cluster)
{
    struct node *owner = owner_now(cluster);

    if (!is_up(owner) || owner->paused_until_ns > 0)
        return;
    owner->zombie = true;
    sim_pause(cluster->sim, owner->number);
    owner->paused_until_ns = sim_now_ns(cluster->sim) + LEASE_NS + draw(cluster, SEC);
    run_for(cluster, LEASE_NS + SEC + draw(cluster, 300 * MS));
}

/* A proposal that is on its way; NULL: none was made in time. */
static struct command *await_command(struct cluster *cluster, int kind)
{
    uint64_t until_ns = sim_now_ns(cluster->sim) + SERVES_NS;

    while (sim_now_ns(cluster->sim) < until_ns) {
        for (size_t i = 0; i < cluster->command_count; i++) {
            if ((int)cluster->commands[i].kind == kind)
                return &cluster->commands[i];
        }
        run_for(cluster, STEP_NS);
    }
    return NULL;
}

/* A column is away, and the command that says so is late: until it is there a write waits. */
static void late_eviction(struct cluster *cluster)
{
    struct node *owner = owner_now(cluster), *away = other_node(cluster, owner, owner);
    struct command *command;

    cut_both(cluster, owner, away);
    sim_break_connections(cluster->sim, owner->number, away->number);
    command = await_command(cluster, COMMAND_STALE);
    if (command)
        command->due_ns += SEC;
    run_for(cluster, 50 * MS + draw(cluster, 200 * MS));
    cluster->focus = draw(cluster, 2) == 0 ? some_slab(cluster) : cluster->focus;
    sim_heal_all(cluster->sim);
    run_for(cluster, 100 * MS + draw(cluster, 300 * MS));
}

/* A column comes back, and while "in-sync" is on its way, late, the column or the owner goes. */
static void late_join(struct cluster *cluster)
{
    struct node *owner = owner_now(cluster), *joining = other_node(cluster, owner, owner);
    struct command *command;

    crash(joining, 400 * MS + draw(cluster, 300 * MS));
    command = await_command(cluster, COMMAND_IN_SYNC);
    if (!command)
        return;
    command->due_ns += draw(cluster, 400 * MS);
    switch (draw(cluster, 3)) {
    case 0:
        cut_off(cluster, joining);
        break;
    case 1:
        crash(joining, draw(cluster, 300 * MS));
        break;
    case 2:
        crash(owner_now(cluster), draw(cluster, 300 * MS));
        break;
    }
    if (draw(cluster, 2) == 0) /* something else changes: the proposal is void */
        config_publish(cluster, config_edit(cluster));
    run_for(cluster, draw(cluster, 500 * MS));
    sim_heal_all(cluster->sim);
    run_for(cluster, draw(cluster, 300 * MS));
}

/* A column comes back while writes that know nothing of it are slow to end. */
static void slow_writes_around_a_resync(struct cluster *cluster)
{
    struct node *back = other_node(cluster, owner_now(cluster), NULL);
    double slowdown = 200 + (double)draw(cluster, 1500);

    crash(back, 400 * MS);
    if (!await_stale(cluster, back))
        return;
    for (unsigned i = 1; i <= cluster->node_count; i++) {
        if (i != back->number)
            sim_disk_set_slowdown(cluster->sim, i, DISK_PATH, slowdown);
    }
    while (!is_up(back))
        run_for(cluster, STEP_NS);
    run_for(cluster, 50 * MS + draw(cluster, 500 * MS));
    for (unsigned i = 1; i <= cluster->node_count; i++)
        sim_disk_set_slowdown(cluster->sim, i, DISK_PATH, 1);
    run_for(cluster, 300 * MS);
}

/* Two columns of three hold what the third never got, and go; the third goes on alone, is told
 * nothing of it, and brings them up slowly: their logs go round before they are compared. */
static void forgotten_tails(struct cluster *cluster)
{
    struct node *owner = owner_now(cluster), *survivor = other_node(cluster, owner, owner);
    struct node *third = other_node(cluster, owner, survivor);

    quiet(cluster);
    cluster->focus = some_slab(cluster);
    sim_cut(cluster->sim, owner->number, survivor->number);
    run_for(cluster, 5 * MS + draw(cluster, 20 * MS));
    crash(owner, 700 * MS + draw(cluster, 400 * MS));
    crash(third, 700 * MS + draw(cluster, 400 * MS));
    sim_heal_all(cluster->sim);
    memset(cluster->repeats, 0, sizeof(cluster->repeats)); /* their clients are gone too */
    cluster->focus = 1 + cluster->focus % SLABS;
    if (!await_serving(cluster) || owner_now(cluster) != survivor)
        return;
    mirror_pause_resync(survivor->mirror, true);
    run_for(cluster, SEC + draw(cluster, 500 * MS));
    for (int i = 0; i < 3; i++) { /* begun anew, from what their stores say now */
        sim_break_connections(cluster->sim, survivor->number, owner->number);
        sim_break_connections(cluster->sim, survivor->number, third->number);
        run_for(cluster, 10 * MS);
    }
    if (survivor->mirror)
        mirror_pause_resync(survivor->mirror, false);
    run_for(cluster, 300 * MS);
}

/* A column misses writes that began before it went stale and committed after; nothing else happens
 * to their slab, and the others' logs go round. */
static void old_writes_committed_late(struct cluster *cluster)
{
    struct node *away = other_node(cluster, owner_now(cluster), NULL);

    cluster->focus = some_slab(cluster);
    run_for(cluster, 50 * MS);
    crash(away, 700 * MS + draw(cluster, 500 * MS));
    run_for(cluster, 20 * MS); /* every client is at a write that waits for it */
    cluster->focus = 1 + cluster->focus % SLABS;
    if (await_stale(cluster, away))
        run_for(cluster, SEC);
}

/* A session that has not served yet. */
static bool await_takeover(struct cluster *cluster, uint64_t last_session)
{
    uint64_t until_ns = sim_now_ns(cluster->sim) + SERVES_NS;

    while (sim_now_ns(cluster->sim) < until_ns) {
        const struct node *owner = owner_now(cluster);

        if (config_now(cluster)->session != last_session && owner->mirror)
            return true;
        run_for(cluster, STEP_NS);
    }
    return false;
}

/* Takeovers that are given up again and again, each when some columns have a part of what it writes
 * again, and one has not: that must not fill the logs. */
static void interrupted_takeovers(struct cluster *cluster)
{
    for (uint64_t rounds = 20 + draw(cluster, 20); rounds > 0; rounds--) {
        struct node *owner = owner_now(cluster);
        struct node *deaf = other_node(cluster, owner, owner);
        uint64_t session = config_now(cluster)->session;

        sim_cut(cluster->sim, owner->number, deaf->number);
        run_for(cluster, 5 * MS + draw(cluster, 20 * MS));
        crash(owner, draw(cluster, 20 * MS));
        sim_heal_all(cluster->sim);
        if (!await_takeover(cluster, session))
            return;
        run_for(cluster, draw(cluster, 12 * MS)); /* it seals, and begins to write */
    }
    run_for(cluster, draw(cluster, 300 * MS));
}

static void (*const schedules[])(struct cluster *cluster) = {
    torn_write,
    torn_write,
    given_up_takeover,
    deposed_owner,
    paused_owner,
    late_join,
    late_join,
    late_eviction,
    slow_writes_around_a_resync,
    forgotten_tails,
    old_writes_committed_late,
    interrupted_takeovers,
};

/* A slab none of whose columns is the owner's, on which writes have room; 0: there is none. */
static uint32_t slab_elsewhere(struct cluster *cluster)
{
    const struct vdisk_config *config = config_now(cluster);

    for (uint32_t slab = 0; slab < SLABS; slab++) {
        const struct column_config *columns = vdisk_config_slab(config, slab);
        bool here = columns[0].disk == 0;

        for (uint32_t i = 0; i < config->width; i++)
            here = here || columns[i].node == config->owner;
        if (!here)
            return slab + 1;
    }
    return 0;
}

/* Records that the node's store does not know to be committed. */
static uint64_t pending_records(const struct node *node)
{
    struct store_stream_info info;

    return node->running && store_stream_info(node->store, VDISK, &info) ? info.pending_records : 0;
}

static void await_pending(struct cluster *cluster, const struct node *node, uint64_t count)
{
    for (int i = 0; i < 200 && pending_records(node) < count; i++)
        run_for(cluster, STEP_NS);
}

/* Rows in which a write of one data column is complete, and a later one of the whole row has
 * reached another data column alone; the column of the first is stale, so nobody can tell what the
 * later one was. A write elsewhere that is stuck has kept both from being told committed. */
static void torn_row(struct cluster *cluster)
{
    struct node *owner = owner_now(cluster);
    uint32_t slab = slab_elsewhere(cluster), used = cluster->used;
    uint32_t first = (uint32_t)draw(cluster, cluster->data_columns);
    uint32_t second = (first + 1) % cluster->data_columns;
    const struct column_config *columns;
    struct node *gone, *torn;

    if (slab == 0)
        return;
    columns = vdisk_config_slab(config_now(cluster), slab - 1);
    gone = &cluster->nodes[columns[first].node];
    torn = &cluster->nodes[columns[second].node];
    crash(gone, SEC + draw(cluster, SEC));
    if (!await_stale(cluster, gone))
        return;
    run_for(cluster, 30 * MS);

    cut_both(cluster, owner, torn);
    sim_break_connections(cluster->sim, owner->number, torn->number); /* nobody reads there */
    cluster->focus = slab;
    cluster->used = cluster->slab_blocks;
    cluster->only_column = second + 1; /* these are stuck, mostly in other rows */
    run_for(cluster, 4 * MS + draw(cluster, 3 * MS));
    cluster->used = 2 * cluster->data_columns * PARITY_UNIT_BLOCKS;
    cluster->only_column = first + 1; /* these are not */
    run_for(cluster, 20 * MS + draw(cluster, 40 * MS));
    cluster->only_column = 0;
    cluster->whole_stripes = true;
    for (unsigned i = 1; i <= cluster->node_count; i++)
        if (i != owner->number)
            sim_cut(cluster->sim, owner->number, i);
    run_for(cluster, 10 * MS + draw(cluster, 20 * MS));
    sim_heal(cluster->sim, owner->number, torn->number);
    sim_heal(cluster->sim, torn->number, owner->number);
    await_pending(cluster, torn, pending_records(torn) + 2);
    run_for(cluster, draw(cluster, 8 * MS));
    if (is_up(owner)) /* what it has sent is lost with it */
        crash_node(owner, SIM_HOST_DIES, draw(cluster, 100 * MS));
    cluster->whole_stripes = false;
    cluster->used = used;
    run_for(cluster, 10 * MS);
    sim_heal_all(cluster->sim);
    run_for(cluster, draw(cluster, 300 * MS));
}

static void (*const parity_schedules[])(struct cluster *cluster) = {
    torn_row, interrupted_takeovers, torn_row, torn_write,
    torn_row, given_up_takeover,     torn_row, late_eviction,
};

void play_aimed(struct cluster *cluster)
{
    run_for(cluster, 200 * MS);
    for (uint64_t i = 2 + draw(cluster, 4); i > 0; i--) {
        cluster->focus = draw(cluster, 2) == 0 ? some_slab(cluster) : 0;
        run_for(cluster, draw(cluster, 100 * MS));
        if (cluster->data_columns == 1)
            schedules[(cluster->seed + i) % ARRAY_SIZE(schedules)](cluster);
        else
            parity_schedules[(cluster->seed + i) % ARRAY_SIZE(parity_schedules)](cluster);
        heal(cluster);
        look_at_everything(cluster);
    }
    check(cluster, cluster->count.writes > 0);
}
