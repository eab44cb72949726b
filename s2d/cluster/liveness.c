#include "s2d/cluster/liveness.h"

#include "s2d/base/log.h"
#include "s2d/bus/message_types.h"

#define TYPE_HEARTBEAT (BUS_TYPE_LEASE + 0)
#define TYPE_ANSWER (BUS_TYPE_LEASE + 1)
#define TYPE_REFUSED (BUS_TYPE_LEASE + 2)

#define REFUSED_TIMES 3
#define REFUSED_OVER_NS (100 * MS)

struct heartbeat {
    uint64_t seq;
    uint64_t start_counter;
};

struct answer {
    uint64_t seq;
    uint64_t start_counter; /* of the heartbeat: its successor counts from 1 again */
    uint64_t remaining_ns;
    uint64_t index;
};

struct refused {
    uint64_t node;
    uint64_t start_counter; /* of the process that the reporter knew */
};

struct liveness {
    struct io *io;
    struct liveness_options options;
    struct lease lease;
    struct {
        uint64_t seq, node;
    } asked[LEASE_SENT_MAX]; /* whom the last heartbeats went to: nobody else can answer them */
    struct watch watch;
    struct io_timer beat;
    struct io_timer verdict; /* somebody's time is up before the next beat */
    bool held;               /* as last told */
    bool given_up;
};

bool liveness_lease_held(struct liveness *liveness)
{
    return lease_held(&liveness->lease, io_clock_ns(liveness->io),
                      consensus_applied(liveness->options.consensus));
}

uint64_t liveness_lease_expires_ns(struct liveness *liveness)
{
    return liveness_lease_held(liveness) ? lease_expires_ns(&liveness->lease) : 0;
}

static void tell_lease(struct liveness *liveness)
{
    bool held = liveness_lease_held(liveness);

    if (held != liveness->held) {
        liveness->held = held;
        log_info(liveness->io, "liveness", held ? "lease held" : "lease lost", "expires_ns=%llu",
                 (unsigned long long)lease_expires_ns(&liveness->lease));
        if (liveness->options.on_lease)
            liveness->options.on_lease(liveness->options.arg, held);
    }
    if (held && liveness->options.on_renewed)
        liveness->options.on_renewed(liveness->options.arg, lease_expires_ns(&liveness->lease));
}

static void send_to(struct liveness *liveness, uint64_t to, uint16_t type, const void *header,
                    uint32_t bytes)
{
    struct bus_send send = {.to = to,
                            .channel = BUS_CONTROL,
                            .type = type,
                            .flags = BUS_CHECKSUM,
                            .header = header,
                            .header_bytes = bytes};
    int r = bus_send(liveness->options.bus, &send);

    (void)r; /* comes again with the next beat */
}

/* ---- the lease of this node ---- */

/* Only for the process that the database knows to run there: a node that is down, was evicted, or
 * has started again since, is first to be told of (node.started). So a node.down that names this
 * process never meets a lease that came after it was decided. */
static uint64_t grant(struct liveness *liveness, uint64_t node, uint64_t start_counter,
                      uint64_t *ret_index)
{
    const struct node_record *record =
        database_find(consensus_database(liveness->options.consensus), TABLE_NODE, node);
    struct raft_status status;

    raft_status(consensus_raft(liveness->options.consensus), &status);
    *ret_index = status.commit_index;
    if (!consensus_leads(liveness->options.consensus) || !record || record->state == NODE_DOWN ||
        record->start_counter != start_counter)
        return 0;
    return watch_grant(&liveness->watch, io_clock_ns(liveness->io), node, start_counter,
                       status.quorum_round_ns);
}

static bool somebody_else_was_asked(const struct liveness *liveness, uint64_t seq, uint64_t node)
{
    size_t i = seq % LEASE_SENT_MAX;

    return liveness->asked[i].seq == seq && liveness->asked[i].node != node;
}

static void take_answer(struct liveness *liveness, const struct answer *answer, uint64_t from)
{
    int r;

    if (answer->start_counter != liveness->options.start_counter || liveness->given_up)
        return;
    r = somebody_else_was_asked(liveness, answer->seq, from)
            ? -EPROTO
            : lease_on_answer(&liveness->lease, io_clock_ns(liveness->io), answer->seq,
                              answer->remaining_ns, answer->index);
    if (r == -EPROTO)
        log_warn(liveness->io, "liveness", "a lease was granted that is none: refused",
                 "from=%llu seq=%llu remaining_ns=%llu index=%llu", (unsigned long long)from,
                 (unsigned long long)answer->seq, (unsigned long long)answer->remaining_ns,
                 (unsigned long long)answer->index);
    tell_lease(liveness);
}

static void send_heartbeat(struct liveness *liveness)
{
    struct heartbeat heartbeat = {.start_counter = liveness->options.start_counter};
    struct answer answer = {.start_counter = liveness->options.start_counter};
    struct raft_status status;

    raft_status(consensus_raft(liveness->options.consensus), &status);
    if (status.role.leader == 0)
        return;
    heartbeat.seq = lease_send(&liveness->lease, io_clock_ns(liveness->io));
    liveness->asked[heartbeat.seq % LEASE_SENT_MAX].seq = heartbeat.seq;
    liveness->asked[heartbeat.seq % LEASE_SENT_MAX].node = status.role.leader;
    if (status.role.leader != liveness->options.node) {
        send_to(liveness, status.role.leader, TYPE_HEARTBEAT, &heartbeat, sizeof(heartbeat));
        return;
    }
    answer.seq = heartbeat.seq;
    answer.remaining_ns =
        grant(liveness, liveness->options.node, liveness->options.start_counter, &answer.index);
    if (answer.remaining_ns > 0)
        take_answer(liveness, &answer, liveness->options.node);
}

static void handle_heartbeat(void *arg, const struct bus_message *message)
{
    struct liveness *liveness = arg;
    struct heartbeat heartbeat;
    struct answer answer;

    if (message->header_bytes != sizeof(heartbeat))
        return;
    memcpy(&heartbeat, message->header, sizeof(heartbeat));
    answer.seq = heartbeat.seq;
    answer.start_counter = heartbeat.start_counter;
    answer.remaining_ns = grant(liveness, message->from, heartbeat.start_counter, &answer.index);
    if (answer.remaining_ns > 0)
        send_to(liveness, message->from, TYPE_ANSWER, &answer, sizeof(answer));
}

static void handle_answer(void *arg, const struct bus_message *message)
{
    struct answer answer;

    if (message->header_bytes != sizeof(answer))
        return;
    memcpy(&answer, message->header, sizeof(answer));
    take_answer(arg, &answer, message->from);
}

/* ---- the watch over the others ---- */

static size_t nodes_up_besides(struct liveness *liveness, uint64_t besides)
{
    const struct database *database = consensus_database(liveness->options.consensus);
    const struct node_record *node;
    size_t count = 0;

    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++)
        count += node->state != NODE_DOWN && node->base.id != besides;
    return count;
}

/* Whatever this node now knows of `id` being dead is acted on. */
static void judge(struct liveness *liveness, uint64_t id)
{
    const struct node_record *node =
        database_find(consensus_database(liveness->options.consensus), TABLE_NODE, id);
    uint64_t now_ns = io_clock_ns(liveness->io), start_counter;
    size_t others = nodes_up_besides(liveness, id);
    const char *reason;
    bool dead;

    if (!node || id == liveness->options.node)
        return;
    if (node->state == NODE_DOWN) {
        watch_settle(&liveness->watch, now_ns, id);
        return;
    }
    start_counter = node->start_counter; /* what comes next may change the database */
    watch_started(&liveness->watch, now_ns, id, start_counter);
    reason = watch_down_reason(&liveness->watch, id);
    dead = watch_proven_dead(&liveness->watch, now_ns, id, others);
    if (dead)
        consensus_peer_down(liveness->options.consensus, id);
    if (!consensus_leads(liveness->options.consensus) ||
        !watch_may_declare_down(&liveness->watch, now_ns, id, others))
        return;
    if (!reason) /* what was decided first stays: proof goes stale */
        reason = dead ? LIVENESS_DAEMON_DEAD : LIVENESS_SILENT;
    if (liveness->options.on_down(liveness->options.arg, id, start_counter, reason))
        watch_decide_down(&liveness->watch, id, start_counter, reason);
}

void liveness_node_down(struct liveness *liveness, uint64_t node)
{
    watch_settle(&liveness->watch, io_clock_ns(liveness->io), node);
}

static void judge_all(struct liveness *liveness)
{
    const struct database *database = consensus_database(liveness->options.consensus);
    const struct node_record *node;

    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++)
        judge(liveness, node->base.id);
    for (size_t i = 0; i < WATCH_NODES_MAX; i++) {
        uint64_t id = liveness->watch.nodes[i].id;

        if (id != 0 && !database_find(database, TABLE_NODE, id))
            watch_forget(&liveness->watch, id);
    }
}

/* A report of a process before the one that the database knows proves nothing of that one. */
static void take_report(struct liveness *liveness, const struct refused *refused, uint64_t reporter)
{
    const struct node_record *record =
        database_find(consensus_database(liveness->options.consensus), TABLE_NODE, refused->node);

    if (!record || refused->start_counter < record->start_counter || reporter == refused->node)
        return;
    watch_refused(&liveness->watch, io_clock_ns(liveness->io), refused->node,
                  refused->start_counter, reporter);
    judge(liveness, refused->node);
}

static void handle_refused(void *arg, const struct bus_message *message)
{
    struct refused refused;

    if (message->header_bytes != sizeof(refused))
        return;
    memcpy(&refused, message->header, sizeof(refused));
    take_report(arg, &refused, message->from);
}

/* Who has never spoken with a process of that node cannot say which one is dead: it tells nobody,
 * and silence decides. */
void liveness_refused(struct liveness *liveness, uint64_t node, unsigned times, uint64_t over_ns)
{
    const struct database *database = consensus_database(liveness->options.consensus);
    struct refused refused = {.node = node,
                              .start_counter = bus_peer_start_counter(liveness->options.bus, node)};
    const struct node_record *peer;

    if (times < REFUSED_TIMES || over_ns < REFUSED_OVER_NS || refused.start_counter == 0)
        return;
    for (size_t i = 0; (peer = database_at(database, TABLE_NODE, i)); i++) {
        if (peer->base.id != node && peer->base.id != liveness->options.node)
            send_to(liveness, peer->base.id, TYPE_REFUSED, &refused, sizeof(refused));
    }
    take_report(liveness, &refused, liveness->options.node);
}

void liveness_connected(struct liveness *liveness, uint64_t node)
{
    watch_alive(&liveness->watch, node);
}

void liveness_role(struct liveness *liveness, const struct raft_role *role)
{
    struct raft_status status;

    if (role->state != RAFT_LEADER) {
        watch_unlead(&liveness->watch);
        return;
    }
    raft_status(consensus_raft(liveness->options.consensus), &status);
    watch_lead(&liveness->watch, io_clock_ns(liveness->io), status.predecessor_heard_ns);
}

/* ---- the beat ---- */

/* A silent node is given up when its time is up, not at some beat after: clients wait for it. */
static void arm_verdict(struct liveness *liveness)
{
    const struct database *database = consensus_database(liveness->options.consensus);
    uint64_t now_ns = io_clock_ns(liveness->io), next_beat_ns = now_ns + LEASE_HEARTBEAT_NS;
    uint64_t first_ns = next_beat_ns;
    const struct node_record *node;

    if (!consensus_leads(liveness->options.consensus))
        return;
    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        uint64_t at_ns = watch_down_at_ns(&liveness->watch, node->base.id);

        if (node->state != NODE_DOWN && node->base.id != liveness->options.node && at_ns > now_ns)
            first_ns = MIN(first_ns, at_ns);
    }
    if (first_ns < next_beat_ns)
        io_timer_arm(liveness->io, &liveness->verdict,
                     io_now_ns(liveness->io) + (first_ns - now_ns));
}

static void verdict(void *arg)
{
    judge_all(arg);
}

static void beat(void *arg)
{
    struct liveness *liveness = arg;

    if (liveness->given_up)
        return;
    io_timer_arm(liveness->io, &liveness->beat, io_now_ns(liveness->io) + LEASE_HEARTBEAT_NS);
    tell_lease(liveness);
    send_heartbeat(liveness);
    judge_all(liveness);
    arm_verdict(liveness);
}

void liveness_give_up(struct liveness *liveness)
{
    liveness->given_up = true;
    io_timer_disarm(liveness->io, &liveness->beat);
    io_timer_disarm(liveness->io, &liveness->verdict);
    lease_give_up(&liveness->lease);
    tell_lease(liveness);
}

int liveness_new(struct io *io, const struct liveness_options *options,
                 struct liveness **ret_liveness)
{
    struct liveness *liveness = calloc(1, sizeof(*liveness));
    struct raft_status status;

    if (!liveness)
        return -ENOMEM;
    liveness->io = io;
    liveness->options = *options;
    lease_init(&liveness->lease);
    watch_init(&liveness->watch);
    io_timer_init(&liveness->beat, beat, liveness);
    io_timer_init(&liveness->verdict, verdict, liveness);
    bus_handle(options->bus, TYPE_HEARTBEAT, handle_heartbeat, liveness);
    bus_handle(options->bus, TYPE_ANSWER, handle_answer, liveness);
    bus_handle(options->bus, TYPE_REFUSED, handle_refused, liveness);
    raft_status(consensus_raft(options->consensus), &status);
    liveness_role(liveness, &status.role);            /* it may lead already */
    io_timer_arm(io, &liveness->beat, io_now_ns(io)); /* callbacks come when the caller has it */
    *ret_liveness = liveness;
    return 0;
}

void liveness_free(struct liveness *liveness)
{
    if (!liveness)
        return;
    io_timer_disarm(liveness->io, &liveness->beat);
    io_timer_disarm(liveness->io, &liveness->verdict);
    bus_handle(liveness->options.bus, TYPE_HEARTBEAT, NULL, NULL);
    bus_handle(liveness->options.bus, TYPE_ANSWER, NULL, NULL);
    bus_handle(liveness->options.bus, TYPE_REFUSED, NULL, NULL);
    free(liveness);
}
