/* Events about the pool's space. The leader compares what health says now with what the newest such
 * event says: so a new leader does not repeat the old one, and nothing is remembered. A pool that
 * wavers about a boundary is told of at most twice a minute. */
#include "s2d/node/health.h"
#include "s2d/node/node_internal.h"

#define LOOK_NS SEC
#define ROOM_NS (60 * SEC) /* good news waits so long */
#define SUBJECT UINT64_MAX /* no record's id: of the pool's task */

/* In the order of alarm; code "pool.room" stands for the first. */
static const struct level {
    const char *state, *code, *severity;
} levels[] = {
    {"OK", "pool.room", "information"},
    {"Filling", "pool.filling", "warning"},
    {"Nearly full", "pool.nearly_full", "error"},
    {"No space", "pool.no_space", "error"},
};

/* ARRAY_SIZE(levels): no state of space. */
static size_t level_of_state(const char *state)
{
    size_t level = 0;

    while (level < ARRAY_SIZE(levels) && strcmp(levels[level].state, state) != 0)
        level++;
    return level;
}

/* What was told last, and when (by the clock on the wall): level 0 if nothing was. */
static size_t last_told(const struct database *database, uint64_t *ret_time_ns)
{
    *ret_time_ns = 0;
    for (size_t i = database_count(database, TABLE_EVENT); i > 0; i--) {
        const struct event_record *event = database_at(database, TABLE_EVENT, i - 1);

        for (size_t level = 0; level < ARRAY_SIZE(levels); level++) {
            if (strcmp(event->code, levels[level].code) == 0) {
                *ret_time_ns = event->time_ns;
                return level;
            }
        }
    }
    return 0;
}

void node_tell_space(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct cluster_record *cluster = database_cluster(database);
    struct health_verdict verdict;
    uint64_t told_ns;
    size_t level, told;

    if (!cluster || io_now_ns(node->io) < node->space_looked_ns + LOOK_NS)
        return;
    node->space_looked_ns = io_now_ns(node->io);
    health_of_pool(database, &verdict);
    level = level_of_state(verdict.state->state);
    told = last_told(database, &told_ns);
    if (level == ARRAY_SIZE(levels) || level == told)
        return;
    if (level < told && io_wall_ns(node->io) < told_ns + ROOM_NS)
        return;
    node_propose_as_leader(node, SUBJECT, 0,
                           json_pack("{s:s,s:s,s:s,s:s,s:s}", "verb", "event.add", "severity",
                                     level < told ? "information" : levels[level].severity, "code",
                                     levels[level].code, "subject", cluster->name, "text",
                                     level ? verdict.text : "there is room again"));
}
