/* raft_membership: who belongs. A configuration is in force from where it is appended, and again
 * the one before when that entry is truncated. One member's vote changes at a time, so any quorum
 * before and any quorum after share a node; and only after an entry of the leader's own term is
 * committed (R4), or two leaders in turn could each commit a change the other does not know
 * (Ongaro's note of 2015). */
#include "s2d/cluster/raft_internal.h"

void raft_configuration_changed(struct raft *raft)
{
    struct peer peers[RAFT_MEMBERS_MAX];
    uint32_t count = 0;

    raft->configuration_index =
        raft_log_configuration(&raft->log, raft_last(raft), &raft->configuration);
    for (uint32_t i = 0; i < raft->configuration.count; i++) {
        const struct raft_member *member = &raft->configuration.members[i];
        const struct peer *known = raft_peer(raft, member->id);
        struct peer *peer = &peers[count];

        if (member->id == raft->options.id)
            continue;
        count++;
        if (known) {
            *peer = *known;
            peer->away |= known->role != member->role; /* until it has shown that it is level */
            peer->role = member->role;
        } else {
            peer->id = member->id;
            peer->role = member->role;
            raft_peer_reset(raft, peer);
        }
    }
    memcpy(raft->peers, peers, count * sizeof(peers[0]));
    raft->peer_count = count;
}

static bool is_change(const struct raft_configuration *configuration, uint64_t node,
                      enum raft_member_role role)
{
    enum raft_member_role before = raft_configuration_role(configuration, node);

    if (before == role)
        return false;
    /* A witness has no log to go on with, and a log's word is worth more than a witness's. */
    return before == RAFT_NO_MEMBER || role == RAFT_NO_MEMBER ||
           (before != RAFT_WITNESS && role != RAFT_WITNESS);
}

int raft_change(struct raft *raft, uint64_t now_ns, uint64_t node, enum raft_member_role role,
                uint64_t *ret_index)
{
    struct raft_configuration configuration = raft->configuration;
    uint8_t bytes[RAFT_CONFIGURATION_BYTES_MAX];
    int r;

    raft->now_ns = MAX(raft->now_ns, now_ns);
    if (!raft_leads(raft))
        return -ESTALE;
    if (!is_change(&configuration, node, role) ||
        raft_configuration_set(&configuration, node, role) < 0 ||
        raft_configuration_validate(&configuration) < 0)
        return -EINVAL;
    if (raft->transfer_target != 0)
        return -EAGAIN;
    if (!raft_term_committed(raft) && !planted(raft, RAFT_CHANGE_EARLY)) /* R4 */
        return -EAGAIN;
    if (raft->configuration_index > raft->commit && !planted(raft, RAFT_CHANGE_OVERLAP))
        return -EAGAIN;

    r = raft_append_new(raft, RAFT_CONFIGURATION, bytes,
                        raft_configuration_encode(&configuration, bytes));
    if (r < 0)
        return r;
    if (ret_index)
        *ret_index = raft_last(raft);
    return 0;
}
