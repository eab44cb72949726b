#include "s2d/cluster/watch.h"

#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"

void watch_init(struct watch *watch)
{
    memset(watch, 0, sizeof(*watch));
}

static struct watch_node *find(const struct watch *watch, uint64_t id)
{
    for (size_t i = 0; i < WATCH_NODES_MAX; i++) {
        if (watch->nodes[i].id == id)
            return (struct watch_node *)&watch->nodes[i];
    }
    return NULL;
}

static struct watch_node *need(struct watch *watch, uint64_t id)
{
    struct watch_node *node = find(watch, id);

    if (node)
        return node;
    node = find(watch, 0);
    if (node)
        *node = (struct watch_node){.id = id};
    return node;
}

void watch_lead(struct watch *watch, uint64_t now_ns, uint64_t predecessor_heard_ns)
{
    if (watch->leading)
        return;
    watch->leading = true;
    watch->predecessors_until_ns = predecessor_heard_ns + LEASE_NS;
    watch->led_ns = now_ns;
    /* what was granted in an earlier leadership of ours still counts */
    for (size_t i = 0; i < WATCH_NODES_MAX; i++)
        watch->nodes[i].down_reason = NULL;
}

void watch_unlead(struct watch *watch)
{
    watch->leading = false;
}

uint64_t watch_grant(struct watch *watch, uint64_t now_ns, uint64_t id, uint64_t start_counter,
                     uint64_t quorum_round_ns)
{
    struct watch_node *node = need(watch, id);
    uint64_t until_ns = quorum_round_ns + LEASE_NS;

    if (!node || !watch->leading || start_counter < node->start_counter)
        return 0;
    if (start_counter > node->start_counter)
        node->down_reason = NULL; /* that was said of its predecessor */
    SOMETIMES_IF(node->down_reason, "watch: a node that is being declared down asks for a lease");
    if (node->down_reason)
        return 0;
    node->start_counter = start_counter;
    node->heard_ns = now_ns;
    node->report_count = 0;
    if (quorum_round_ns == 0 || until_ns <= now_ns)
        return 0;
    /* It counts from its own sending, which was before now. */
    node->granted_until_ns = MAX(node->granted_until_ns, until_ns);
    return MIN(until_ns - now_ns, LEASE_NS);
}

void watch_started(struct watch *watch, uint64_t now_ns, uint64_t id, uint64_t start_counter)
{
    struct watch_node *node = find(watch, id);

    if (!node || start_counter <= node->start_counter)
        return;
    node->start_counter = start_counter;
    node->down_reason = NULL;
    node->report_count = 0;
    if (node->heard_ns > watch->led_ns)
        node->heard_ns = now_ns;
}

void watch_decide_down(struct watch *watch, uint64_t id, uint64_t start_counter, const char *reason)
{
    struct watch_node *node = need(watch, id);

    if (!node)
        return;
    node->start_counter = MAX(node->start_counter, start_counter);
    node->down_reason = reason;
}

const char *watch_down_reason(const struct watch *watch, uint64_t id)
{
    const struct watch_node *node = find(watch, id);

    return node ? node->down_reason : NULL;
}

void watch_settle(struct watch *watch, uint64_t now_ns, uint64_t id)
{
    struct watch_node *node = need(watch, id);

    if (!node)
        return;
    node->down_reason = NULL;
    node->heard_ns = now_ns; /* once it is up again, it has the time of a lease to be heard */
    node->report_count = 0;
}

void watch_forget(struct watch *watch, uint64_t id)
{
    struct watch_node *node = find(watch, id);

    if (node)
        *node = (struct watch_node){0};
}

void watch_refused(struct watch *watch, uint64_t now_ns, uint64_t id, uint64_t start_counter,
                   uint64_t reporter)
{
    struct watch_node *node = need(watch, id);
    size_t i = 0;

    SOMETIMES_IF(node && start_counter < node->start_counter,
                 "watch: late news of a process that has a successor");
    if (!node || start_counter < node->start_counter)
        return; /* late news of a process that has a successor */
    while (i < node->report_count && node->reporters[i] != reporter)
        i++;
    if (i == WATCH_NODES_MAX)
        return;
    node->reporters[i] = reporter;
    node->reported_ns[i] = now_ns;
    node->report_count = MAX(node->report_count, i + 1);
}

void watch_alive(struct watch *watch, uint64_t id)
{
    struct watch_node *node = find(watch, id);

    if (node)
        node->report_count = 0;
}

bool watch_proven_dead(const struct watch *watch, uint64_t now_ns, uint64_t id, size_t others)
{
    const struct watch_node *node = find(watch, id);
    size_t fresh = 0;

    for (size_t i = 0; node && i < node->report_count; i++)
        fresh += now_ns - node->reported_ns[i] <= WATCH_PROOF_NS;
    return fresh >= MIN(others, 2) && fresh > 0;
}

/* Safety asks for the leases: what predecessors granted and what we did. That we have not heard it
 * for a while is asked for besides, so that nobody is given up who only was never asked. */
uint64_t watch_down_at_ns(const struct watch *watch, uint64_t id)
{
    const struct watch_node *node = find(watch, id);
    uint64_t until_ns = watch->predecessors_until_ns;

    if (node)
        until_ns = MAX(until_ns, MAX(node->granted_until_ns, node->heard_ns + LEASE_NS));
    return MAX(until_ns + LEASE_MARGIN_NS, watch->led_ns + WATCH_HEAR_NS);
}

bool watch_may_declare_down(const struct watch *watch, uint64_t now_ns, uint64_t id, size_t others)
{
    const struct watch_node *node = find(watch, id);

    if (!watch->leading)
        return false;
    if (watch_proven_dead(watch, now_ns, id, others) || (node && node->down_reason))
        return true;
    if (PLANTED(LEASE_NOT_AWAITED) && node && now_ns - node->heard_ns > 3 * LEASE_HEARTBEAT_NS)
        return true;
    SOMETIMES_IF(now_ns < watch->predecessors_until_ns,
                 "watch: a new leader waits for its predecessor's leases");
    return now_ns >= watch_down_at_ns(watch, id);
}
