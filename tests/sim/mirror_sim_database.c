/* The database of the simulated cluster: one object that applies commands in order, voids those of
 * another epoch, gives leases and names owners. It never loses anything: it stands for Raft. */
#include "s2d/base/planted.h"
#include "tests/sim/mirror_sim.h"

struct vdisk_config *config_now(struct cluster *cluster)
{
    return cluster->configs[cluster->config_count - 1];
}

void config_publish(struct cluster *cluster, struct vdisk_config *config)
{
    check(cluster, vdisk_config_check(config) == 0);
    check(cluster, cluster->config_count < CONFIGS_MAX);
    cluster->published_ns[cluster->config_count] = sim_now_ns(cluster->sim);
    cluster->configs[cluster->config_count++] = config;
}

struct vdisk_config *config_edit(struct cluster *cluster)
{
    struct vdisk_config *now = config_now(cluster), *copy = NULL;

    check(cluster, vdisk_config_copy(now, now->slab_count, &copy) == 0);
    copy->epoch++;
    cluster->raft_index++;
    return copy;
}

void place_slab(struct cluster *cluster, struct vdisk_config *config, uint32_t slab)
{
    for (uint32_t i = 0; i < config->width; i++) {
        uint64_t node = 1 + (slab + i) % cluster->node_count;

        config->columns[slab * config->width + i] = (struct column_config){
            .disk = 10 + node,
            .node = node,
            .where = {.extent = slab, .generation = cluster->raft_index},
            .state = COLUMN_IN_SYNC,
        };
    }
}

static void mark_stale(struct cluster *cluster, const uint64_t *disks, size_t count)
{
    struct vdisk_config *config = config_edit(cluster);
    size_t changed = 0;

    for (size_t i = 0; i < count; i++)
        changed += vdisk_config_mark_stale(config, disks[i], config->epoch);
    if (changed > 0)
        config_publish(cluster, config);
    else
        vdisk_config_put(config);
    cluster->count.stale += changed > 0;
}

static void apply(struct cluster *cluster, const struct command *command)
{
    struct vdisk_config *config;

    if (command->epoch != config_now(cluster)->epoch &&
        !(PLANTED(JOIN_OLD_EPOCH) && command->kind == COMMAND_IN_SYNC))
        return; /* void */
    switch (command->kind) {
    case COMMAND_STALE:
        mark_stale(cluster, command->disks, command->count);
        return;
    case COMMAND_IN_SYNC:
        config = config_edit(cluster);
        if (vdisk_config_mark_in_sync(config, command->disks[0], command->slabs,
                                      command->slab_count, config->epoch) > 0)
            config_publish(cluster, config);
        else
            vdisk_config_put(config);
        cluster->count.in_sync++;
        return;
    case COMMAND_SLAB:
        config = config_edit(cluster);
        if (!vdisk_config_slab_allocated(config, command->slab)) {
            place_slab(cluster, config, command->slab);
            config_publish(cluster, config);
        } else {
            vdisk_config_put(config);
        }
        return;
    }
}

/* A proposal on its way; it may get lost. */
void propose(struct node *node, struct command command)
{
    struct cluster *cluster = node->cluster;

    if (node->raft_cut || draw(cluster, 20) == 0 || cluster->command_count == COMMANDS_MAX)
        return;
    command.due_ns = sim_now_ns(cluster->sim) + draw(cluster, 20 * MS);
    if (draw(cluster, 4) == 0) /* so late that the world has moved on */
        command.due_ns += draw(cluster, SEC);
    cluster->commands[cluster->command_count++] = command;
}

static void apply_due(struct cluster *cluster)
{
    uint64_t now_ns = sim_now_ns(cluster->sim);

    for (size_t i = 0; i < cluster->command_count;) {
        struct command command = cluster->commands[i];

        if (command.due_ns > now_ns) {
            i++;
            continue;
        }
        cluster->commands[i] = cluster->commands[--cluster->command_count];
        apply(cluster, &command);
    }
}

static bool is_healthy(struct node *node)
{
    return node->running && !node->stopping && !node->raft_cut && node->paused_until_ns == 0;
}

static bool owner_is_gone(struct cluster *cluster)
{
    const struct vdisk_config *config = config_now(cluster);
    struct node *owner = &cluster->nodes[config->owner];
    uint64_t now_ns = sim_now_ns(cluster->sim);

    if (owner->serving_session == config->session && now_ns < owner->lease_until_ns)
        return false;
    if (is_healthy(owner) && now_ns < cluster->owner_since_ns + SEC)
        return false; /* it has hardly heard of it */
    return !owner->running || now_ns >= owner->lease_until_ns ||
           owner->serving_session != config->session;
}

/* A lease that is still held must run out first, unless its process is dead. */
static bool lease_is_free(struct cluster *cluster)
{
    struct node *owner = &cluster->nodes[config_now(cluster)->owner];

    return !owner->running || owner->serving_session == 0 ||
           sim_now_ns(cluster->sim) >= owner->lease_until_ns;
}

static void take_over(struct cluster *cluster, unsigned number)
{
    struct vdisk_config *config = config_edit(cluster);

    config->session = config->epoch;
    config->owner = number;
    config_publish(cluster, config);
    cluster->owner_since_ns = sim_now_ns(cluster->sim);
    cluster->count.takeovers++;
}

void lead(struct cluster *cluster)
{
    unsigned candidate = 1 + (unsigned)draw(cluster, cluster->node_count);

    apply_due(cluster);
    if (is_healthy(&cluster->nodes[candidate]) && owner_is_gone(cluster) && lease_is_free(cluster))
        take_over(cluster, candidate);
    for (unsigned i = 1; i <= cluster->node_count; i++) {
        uint64_t disk = 10 + i;

        /* A dead node is one command; the leader notices within a while. */
        if (!cluster->nodes[i].running && draw(cluster, 300) == 0)
            mark_stale(cluster, &disk, 1);
    }
}
