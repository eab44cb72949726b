#include "s2d/cluster/lease.h"

#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"
#include "s2d/cluster/raft_types.h"

void lease_init(struct lease *lease)
{
    *lease = (struct lease){0};
}

uint64_t lease_send(struct lease *lease, uint64_t now_ns)
{
    lease->seq++;
    lease->sent_ns[lease->seq % LEASE_SENT_MAX] = now_ns;
    return lease->seq;
}

static bool ran_out(const struct lease *lease, uint64_t now_ns)
{
    return now_ns >= lease->expires_ns + (PLANTED(LEASE_OUTLIVED) ? 10 * SEC : 0);
}

int lease_on_answer(struct lease *lease, uint64_t now_ns, uint64_t seq, uint64_t remaining_ns,
                    uint64_t index)
{
    uint64_t expires_ns;

    /* From outside: refused, not asserted, or a peer could stop this node. */
    if (remaining_ns > LEASE_NS || index > RAFT_NUMBER_MAX)
        return -EPROTO;
    if (seq == 0 || seq > lease->seq || seq + LEASE_SENT_MAX <= lease->seq)
        return -ESTALE;
    expires_ns = lease->sent_ns[seq % LEASE_SENT_MAX] + remaining_ns;
    if (PLANTED(LEASE_FROM_ANSWER))
        expires_ns = now_ns + remaining_ns;
    if (now_ns >= expires_ns) {
        SOMETIMES("lease: an answer comes when it is worth nothing any more");
        return -ESTALE;
    }
    if (ran_out(lease, now_ns))
        lease->wait_index = index;
    lease->expires_ns = MAX(lease->expires_ns, expires_ns);
    return 0;
}

bool lease_held(struct lease *lease, uint64_t now_ns, uint64_t applied)
{
    if (ran_out(lease, now_ns))
        return false;
    if (applied < lease->wait_index && !PLANTED(LEASE_OLD_DATABASE)) {
        SOMETIMES("lease: a new one waits for the database to catch up");
        return false;
    }
    lease->wait_index = 0;
    return true;
}

uint64_t lease_expires_ns(const struct lease *lease)
{
    return lease->wait_index ? 0 : lease->expires_ns;
}

void lease_give_up(struct lease *lease)
{
    lease->expires_ns = 0;
    memset(lease->sent_ns, 0, sizeof(lease->sent_ns)); /* late answers find an expired sending */
}
