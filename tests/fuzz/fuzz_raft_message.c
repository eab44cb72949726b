/* Raft messages from a peer that may send anything: decoding never reads beyond its bytes, what it
 * accepts encodes to the same bytes again, and a node that receives it stays sound (raft_check()
 * asserts). */
#include "s2d/cluster/raft.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static uint64_t no_spread(void *arg)
{
    (void)arg;
    return 0;
}

static struct raft *new_node(bool witness)
{
    struct raft_options options = {.id = 1, .random = no_spread, .witness = witness};
    struct raft_configuration configuration = {.count = 3,
                                               .members = {{.id = 1, .role = RAFT_VOTER},
                                                           {.id = 2, .role = RAFT_VOTER},
                                                           {.id = 3, .role = RAFT_WITNESS}}};
    struct raft *raft = NULL;
    int r = 0;

    if (!witness)
        r = raft_bootstrap(&configuration, &options.hard_state, &options.base);
    assert(r == 0);
    r = raft_new(&options, &raft);
    assert(r == 0);
    r = raft_start(raft, 1 * SEC);
    assert(r == 0);
    return raft;
}

static void pump(struct raft *raft, uint64_t now_ns)
{
    struct raft_ready ready;

    while (raft_ready(raft, &ready)) {
        if (ready.persist.batch != 0)
            raft_persisted(raft, now_ns, ready.persist.batch);
        if (ready.chunk)
            raft_chunk_stored(raft, now_ns, 0);
    }
}

/* A follower, a witness, and one that became a leader with node 2's votes. */
static void receive(const struct raft_message *message, bool witness, bool lead)
{
    cleanup(raft_freep) struct raft *raft = new_node(witness);
    uint64_t now_ns = 5 * SEC;
    struct raft_message vote = {
        .type = RAFT_PRE_VOTE_ANSWER,
        .from = 2,
        .to = 1,
        .term = 1,
        .vote_answer = {.request_term = 1, .granted = true},
    };
    int r = 0;

    if (lead) {
        raft_tick(raft, now_ns);
        pump(raft, now_ns);
        r = raft_receive(raft, now_ns, &vote);
        pump(raft, now_ns);
        vote.type = RAFT_VOTE_ANSWER;
        vote.term = vote.vote_answer.request_term = 2;
        r |= raft_receive(raft, now_ns, &vote);
        pump(raft, now_ns);
    }
    assert(r == 0);
    for (unsigned i = 0; i < 2; i++) {
        (void)!raft_receive(raft, now_ns, message);
        pump(raft, now_ns);
    }
    raft_tick(raft, now_ns + 300 * MS);
    pump(raft, now_ns + 300 * MS);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct raft_view entries[RAFT_MESSAGE_ENTRIES_MAX];
    struct raft_message message;
    uint8_t *again;

    if (raft_message_decode(bytes, size, entries, &message) < 0)
        return 0;
    assert(raft_message_size(&message) == size);
    again = malloc(size);
    assert(again);
    raft_message_encode(&message, again);
    assert(memcmp(again, bytes, size) == 0);
    free(again);

    message.to = 1; /* let it reach the logic */
    message.from = message.from % 4;
    receive(&message, false, false);
    receive(&message, false, true);
    receive(&message, true, false);
    return 0;
}
