/* A proposal names itself ("by": node, start counter, number). Whoever proposed waits until its own
 * database has applied it. If an entry of a later term than the one it was accepted in comes first,
 * it is lost for certain (the new leader's log did not have it), and it is proposed again. That is
 * why the leader takes a proposal only for the term that the sender has in mind. */
#include <stdio.h>

#include "s2d/base/sometimes.h"
#include "s2d/cluster/consensus_internal.h"

#define PROPOSE_CALL_NS (2 * SEC)
#define RETRY_NS (20 * MS)

struct propose_header {
    uint64_t term; /* the sender believes that we lead in it */
};

void consensus_handle_propose(void *arg, const struct bus_message *message)
{
    struct consensus *consensus = arg;
    struct raft_status status;
    struct bus_send reply = {.channel = BUS_CONTROL};
    struct propose_header header;
    int r = -EPROTO;

    if (message->request == 0)
        return; /* who proposes waits for an answer */
    if (message->header_bytes == sizeof(header) && message->data_bytes > 0) {
        memcpy(&header, message->header, sizeof(header));
        raft_status(consensus->raft, &status);
        r = status.role.state == RAFT_LEADER && status.role.term == header.term
                ? raft_propose(consensus->raft, io_now_ns(consensus->io), message->data,
                               message->data_bytes, NULL, NULL)
                : -ESTALE;
    }
    r = bus_reply(consensus->options.bus, message, r, &reply);
    (void)r; /* a sender that is gone finds its command in the log, or not */
    consensus_drive(consensus);
}

/* Hands the text to the leader. Returns 0: it may be in the log of proposal->term; < 0: it is not,
 * try again. */
static int co_submit(struct consensus *consensus, struct proposal *proposal, const char *text)
{
    struct raft_status status;
    struct propose_header header;
    struct bus_reply reply = {0};
    struct bus_send send = {.channel = BUS_CONTROL,
                            .type = CONSENSUS_TYPE_PROPOSE,
                            .flags = BUS_CHECKSUM,
                            .header = &header,
                            .header_bytes = sizeof(header),
                            .data = text,
                            .data_bytes = strlen(text)};
    int r;

    raft_status(consensus->raft, &status);
    if (proposal->only_term &&
        (status.role.state != RAFT_LEADER || status.role.term != proposal->only_term))
        return -ESTALE;
    proposal->lost = false;
    proposal->unknown = false;
    proposal->term = status.role.term;
    if (status.role.state == RAFT_LEADER) {
        r = raft_propose(consensus->raft, io_now_ns(consensus->io), text, strlen(text), NULL, NULL);
        consensus_drive(consensus);
        return r;
    }
    if (status.role.leader == 0 ||
        !bus_is_up(consensus->options.bus, status.role.leader, BUS_CONTROL))
        return -EHOSTUNREACH;
    send.to = status.role.leader;
    header.term = status.role.term;
    r = co_bus_call(consensus->options.bus, &send, PROPOSE_CALL_NS, &reply);
    SOMETIMES_IF(r == -ENOTCONN, "consensus: the way to the leader breaks under a proposal");
    if (r == -ENOTCONN || r == -ETIMEDOUT)
        return 0; /* it may have arrived */
    return r < 0 ? r : reply.result;
}

/* Waits until the proposal is applied or lost. Returns 0, -EAGAIN (lost), -ETIMEDOUT, -ECANCELED.
 */
static int co_wait_for_proposal(struct consensus *consensus, struct proposal *proposal,
                                uint64_t deadline_ns)
{
    while (!proposal->applied && !proposal->lost) {
        int r;

        if (consensus->ending)
            return -ECANCELED;
        if (proposal->unknown)
            return -ETIMEDOUT;
        r = co_cond_wait_until(&proposal->changed, deadline_ns);
        if (r < 0)
            return proposal->applied ? 0 : r;
    }
    return proposal->applied ? 0 : -EAGAIN;
}

static int co_propose_until(struct consensus *consensus, struct proposal *proposal,
                            const char *text, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t now_ns = io_now_ns(consensus->io);
        int r;

        if (consensus->ending)
            return -ECANCELED;
        if (now_ns >= deadline_ns)
            return -EHOSTUNREACH;
        r = co_submit(consensus, proposal, text);
        if (r == 0)
            r = co_wait_for_proposal(consensus, proposal, deadline_ns);
        else
            proposal->term = 0;
        if (r == 0 || r == -ETIMEDOUT || r == -ECANCELED || r == -EINVAL || r == -EMSGSIZE ||
            (r == -ESTALE && proposal->only_term))
            return r;
        r = co_cond_wait_until(&consensus->progress,
                               MIN(deadline_ns, io_now_ns(consensus->io) + RETRY_NS));
        if (r == -ECANCELED)
            return r;
    }
}

static char *command_text_with_name(struct consensus *consensus, const json_t *command,
                                    uint64_t number)
{
    json_t *named = json_copy((json_t *)command);
    char *text = NULL;

    if (named && json_object_set_new(named, "by",
                                     json_pack("[I,I,I]", (json_int_t)consensus->options.node,
                                               (json_int_t)consensus->options.start_counter,
                                               (json_int_t)number)) == 0)
        text = json_dumps(named, JSON_COMPACT);
    json_decref(named);
    return text;
}

static const char *propose_failure(int code)
{
    switch (code) {
    case -EHOSTUNREACH:
        return "the cluster has no quorum: no leader could be reached in time";
    case -ETIMEDOUT:
        return "no answer in time: it may or may not have been done; look before trying again";
    case -ECANCELED:
        return "this node is stopping";
    case -ESTALE:
        return "this node does not lead any more";
    default:
        return "the command was not accepted";
    }
}

int co_consensus_propose(struct consensus *consensus, const json_t *command, uint64_t timeout_ns,
                         struct command_result *ret_result)
{
    return co_consensus_propose_in(consensus, 0, command, timeout_ns, ret_result);
}

void consensus_end_proposals(struct consensus *consensus)
{
    consensus->ending = true;
    list_for_each (node, &consensus->proposals)
        co_cond_broadcast(&list_entry(node, struct proposal, node)->changed);
    co_cond_broadcast(&consensus->progress);
}

int co_consensus_propose_in(struct consensus *consensus, uint64_t term, const json_t *command,
                            uint64_t timeout_ns, struct command_result *ret_result)
{
    struct proposal proposal = {
        .number = ++consensus->next_number, .only_term = term, .result = ret_result};
    char *text = command_text_with_name(consensus, command, proposal.number);
    int r;

    *ret_result = (struct command_result){0};
    if (!text)
        return ret_result->code = -ENOMEM;
    co_cond_init(&proposal.changed);
    list_push_back(&consensus->proposals, &proposal.node);
    co_group_add(&consensus->group, 1);
    r = co_propose_until(consensus, &proposal, text, io_now_ns(consensus->io) + timeout_ns);
    list_remove(&proposal.node);
    free(text);
    if (r < 0 && !proposal.applied) {
        ret_result->code = r;
        snprintf(ret_result->message, sizeof(ret_result->message), "%s", propose_failure(r));
    }
    co_group_done(&consensus->group);
    return ret_result->code;
}
