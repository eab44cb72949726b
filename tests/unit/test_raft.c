/* The Raft core: each promise of raft.h by itself. Two ways to ask: `solo` is one node under a
 * microscope, its peers' messages written by hand; the harness is a whole cluster whose every step
 * is checked (raft_harness.h). */
#include "tests/unit/raft_scenario.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* ---- One node, messages by hand ---- */

#define SOLO_MESSAGES_MAX 256

struct solo {
    struct raft *raft;
    uint64_t now_ns;
    struct raft_message sent[SOLO_MESSAGES_MAX]; /* payload pointers are stale */
    unsigned sent_count;
    bool hold; /* the disk hangs: batches stay in `held` */
    uint64_t held_batch;
    struct raft_persist last_persist; /* values; pointers are stale */
    uint64_t applied;
    struct raft_read reads[8];
    unsigned read_count;
    bool lost;
};

static uint64_t no_spread(void *arg)
{
    (void)arg;
    return 0;
}

static struct raft_configuration voters(unsigned count)
{
    struct raft_configuration configuration = {0};

    for (unsigned id = 1; id <= count; id++)
        assert_int_equal(raft_configuration_set(&configuration, id, RAFT_VOTER), 0);
    return configuration;
}

static struct raft_configuration two_and_witness(void)
{
    struct raft_configuration configuration = voters(2);

    assert_int_equal(raft_configuration_set(&configuration, 3, RAFT_WITNESS), 0);
    return configuration;
}

/* Node 1 of `configuration`, in hard.term, whose log holds entries of these terms from index 2 on.
 */
static void solo_start(struct solo *solo, const struct raft_configuration *configuration,
                       uint64_t term, const uint64_t *terms, unsigned count)
{
    struct raft_options options = {.id = 1, .random = no_spread};

    *solo = (struct solo){.now_ns = 10 * SEC};
    assert_int_equal(raft_bootstrap(configuration, &options.hard_state, &options.base), 0);
    options.hard_state.term = term;
    assert_int_equal(raft_new(&options, &solo->raft), 0);
    for (unsigned i = 0; i < count; i++) {
        struct raft_view view = {.term = terms[i], .type = RAFT_NORMAL, .size = 1, .data = "x"};

        assert_int_equal(raft_restore(solo->raft, 2 + i, &view), 0);
    }
    assert_int_equal(raft_start(solo->raft, solo->now_ns), 0);
}

static void solo_witness(struct solo *solo, struct raft_hard_state hard_state)
{
    struct raft_options options = {
        .id = 1, .witness = true, .random = no_spread, .hard_state = hard_state};

    *solo = (struct solo){.now_ns = 10 * SEC};
    assert_int_equal(raft_new(&options, &solo->raft), 0);
    assert_int_equal(raft_start(solo->raft, solo->now_ns), 0);
}

static void solo_stop(struct solo *solo)
{
    raft_free(solo->raft);
}

static void solo_pump(struct solo *solo)
{
    struct raft_ready ready;

    while (raft_ready(solo->raft, &ready)) {
        for (size_t i = 0; i < ready.message_count; i++) {
            assert_true(solo->sent_count < SOLO_MESSAGES_MAX);
            solo->sent[solo->sent_count++] = *ready.messages[i];
        }
        for (size_t i = 0; i < ready.read_count; i++)
            solo->reads[solo->read_count++] = ready.reads[i];
        solo->applied += ready.apply_count;
        solo->lost |= ready.lost_count > 0;
        if (ready.persist.batch == 0)
            continue;
        solo->last_persist = ready.persist;
        if (solo->hold)
            solo->held_batch = ready.persist.batch;
        else
            raft_persisted(solo->raft, solo->now_ns, ready.persist.batch);
    }
}

static void solo_release(struct solo *solo)
{
    solo->hold = false;
    if (solo->held_batch != 0)
        raft_persisted(solo->raft, solo->now_ns, solo->held_batch);
    solo->held_batch = 0;
    solo_pump(solo);
}

static int solo_receive(struct solo *solo, uint64_t from, struct raft_message message)
{
    int r;

    message.from = from;
    message.to = 1;
    r = raft_receive(solo->raft, solo->now_ns, &message);
    solo_pump(solo);
    return r;
}

static void solo_wait(struct solo *solo, uint64_t duration_ns)
{
    solo->now_ns += duration_ns;
    raft_tick(solo->raft, solo->now_ns);
    solo_pump(solo);
}

/* The newest message of that type, taken out of what was sent before; NULL: none since the last
 * call. */
static const struct raft_message *solo_sent(struct solo *solo, enum raft_message_type type)
{
    const struct raft_message *found = NULL;

    for (unsigned i = 0; i < solo->sent_count; i++)
        if (solo->sent[i].type == type)
            found = &solo->sent[i];
    solo->sent_count = 0;
    return found;
}

static struct raft_status solo_status(struct solo *solo)
{
    struct raft_status status;

    raft_status(solo->raft, &status);
    return status;
}

static struct raft_message vote_of(enum raft_message_type type, uint64_t term, uint64_t last_term,
                                   uint64_t last_index)
{
    return (struct raft_message){
        .type = type, .term = term, .vote = {.last_term = last_term, .last_index = last_index}};
}

static struct raft_message grant(enum raft_message_type type, uint64_t term, uint64_t request_term,
                                 uint64_t silence_ns)
{
    return (struct raft_message){
        .type = type,
        .term = term,
        .vote_answer = {.request_term = request_term, .granted = true, .silence_ns = silence_ns}};
}

static struct raft_message append_of(uint64_t term, uint64_t prev_index, uint64_t prev_term,
                                     uint64_t commit, const struct raft_view *entries,
                                     uint32_t count)
{
    return (struct raft_message){.type = RAFT_APPEND,
                                 .term = term,
                                 .append = {.request = 1,
                                            .prev_index = prev_index,
                                            .prev_term = prev_term,
                                            .commit = commit,
                                            .entry_count = count,
                                            .entries = entries}};
}

static struct raft_message heartbeat_of(uint64_t term, uint64_t round)
{
    return (struct raft_message){
        .type = RAFT_HEARTBEAT, .term = term, .heartbeat = {.round = round}};
}

static struct raft_message confirm(uint64_t term, uint64_t request, uint64_t index)
{
    return (struct raft_message){.type = RAFT_APPEND_ANSWER,
                                 .term = term,
                                 .append_answer = {.request_term = term,
                                                   .request = request,
                                                   .accepted = true,
                                                   .index = index,
                                                   .last_index = index}};
}

static struct raft_message beat_answer(uint64_t term, uint64_t round, uint64_t last_index)
{
    return (struct raft_message){
        .type = RAFT_HEARTBEAT_ANSWER,
        .term = term,
        .heartbeat_answer = {.request_term = term, .round = round, .last_index = last_index}};
}

/* Node 1 becomes the leader of the next term by the vote of node 2 (3 voters), or of 2 and 3 (5).
 */
static void solo_lead(struct solo *solo)
{
    uint64_t term = solo_status(solo).role.term;
    unsigned votes = solo_status(solo).configuration.count / 2;

    solo_wait(solo, 2 * SEC);
    for (unsigned id = 2; id < 2 + votes; id++)
        assert_int_equal(solo_receive(solo, id, grant(RAFT_PRE_VOTE_ANSWER, term, term, SEC)), 0);
    for (unsigned id = 2; id < 2 + votes; id++)
        assert_int_equal(solo_receive(solo, id, grant(RAFT_VOTE_ANSWER, term + 1, term + 1, SEC)),
                         0);
    assert_int_equal(solo_status(solo).role.state, RAFT_LEADER);
}

/* ---- Safety, one rule each ---- */

static void raftbug(void **state)
{
    struct scenario_result result;

    (void)state;
    scenario_raftbug(RAFT_RIGHT, &result);
    assert_string_equal(result.violation, "");
}

static void figure_8(void **state)
{
    struct scenario_result result;

    (void)state;
    scenario_figure_8(RAFT_RIGHT, &result);
    assert_string_equal(result.violation, "");
}

static void two_leaders_do_not_both_change_the_membership(void **state)
{
    struct scenario_result result;

    (void)state;
    scenario_two_changes(RAFT_RIGHT, &result);
    assert_string_equal(result.violation, "");
}

/* Raftbug by hand: an acknowledgement covers prev + n of its own request, whatever else lies in
 * the log. */
static void follower_acknowledges_only_what_was_compared(void **state)
{
    const uint64_t terms[] = {1, 1, 1, 1, 1}; /* 2 … 6, a deposed leader's */
    struct raft_configuration configuration = voters(3);
    const struct raft_message *answer;
    struct solo solo;

    (void)state;
    solo_start(&solo, &configuration, 1, terms, 5);
    assert_int_equal(solo_receive(&solo, 2, append_of(2, 3, 1, 6, NULL, 0)), 0);
    answer = solo_sent(&solo, RAFT_APPEND_ANSWER);
    assert_non_null(answer);
    assert_true(answer->append_answer.accepted);
    assert_int_equal(answer->append_answer.index, 3);
    assert_int_equal(answer->append_answer.request_term, 2);
    assert_int_equal(solo_status(&solo).commit_index, 3); /* not the leader's 6 */
    solo_stop(&solo);
}

static void follower_truncates_what_contradicts(void **state)
{
    const uint64_t terms[] = {1, 1, 1, 1, 1};
    const struct raft_view entry = {.term = 2, .type = RAFT_NORMAL, .size = 3, .data = "new"};
    struct raft_configuration configuration = voters(3);
    const struct raft_message *answer;
    struct solo solo;

    (void)state;
    solo_start(&solo, &configuration, 1, terms, 5);
    assert_int_equal(solo_receive(&solo, 2, append_of(2, 3, 1, 4, &entry, 1)), 0);
    answer = solo_sent(&solo, RAFT_APPEND_ANSWER);
    assert_int_equal(answer->append_answer.index, 4);
    assert_int_equal(solo.last_persist.truncate_from, 4);
    assert_int_equal(solo.last_persist.entry_count, 1);
    assert_int_equal(solo_status(&solo).last_index, 4);
    assert_int_equal(solo_status(&solo).commit_index, 4);

    /* 4 is committed now: no leader can ask for another one there. */
    assert_int_equal(
        solo_receive(&solo, 3,
                     append_of(3, 3, 1, 4, &(struct raft_view){.term = 3, .type = RAFT_NOOP}, 1)),
        -EPROTO);
    assert_int_equal(solo_status(&solo).last_index, 4);
    solo_stop(&solo);
}

/* An entry that is truncated while it is being written must not count as durable when that write
 * returns. */
static void truncation_overtakes_a_write(void **state)
{
    const struct raft_view old = {.term = 2, .type = RAFT_NORMAL, .size = 3, .data = "old"};
    const struct raft_view new = {.term = 3, .type = RAFT_NORMAL, .size = 3, .data = "new"};
    struct raft_configuration configuration = voters(3);
    const struct raft_message *answer;
    struct solo solo;

    (void)state;
    solo_start(&solo, &configuration, 2, NULL, 0);
    solo.hold = true;
    assert_int_equal(solo_receive(&solo, 2, append_of(2, 1, 1, 1, &old, 1)), 0);
    assert_int_equal(solo_receive(&solo, 3, append_of(3, 1, 1, 1, &new, 1)), 0);
    assert_null(solo_sent(&solo, RAFT_APPEND_ANSWER));
    raft_persisted(solo.raft, solo.now_ns, solo.held_batch); /* the old one */
    assert_int_equal(solo_status(&solo).durable_index, 1);
    solo_pump(&solo);
    assert_null(
        solo_sent(&solo, RAFT_APPEND_ANSWER)); /* that of term 2 was dropped with its term */
    assert_int_equal(solo.last_persist.truncate_from, 2);
    solo_release(&solo);
    answer = solo_sent(&solo, RAFT_APPEND_ANSWER);
    assert_non_null(answer);
    assert_int_equal(answer->term, 3);
    assert_int_equal(answer->append_answer.index, 2);
    assert_int_equal(solo_status(&solo).durable_index, 2);
    solo_stop(&solo);
}

static void vote_leaves_when_durable(void **state)
{
    struct raft_configuration configuration = voters(3);
    const struct raft_message *answer;
    struct solo solo;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo.hold = true;
    assert_int_equal(solo_receive(&solo, 2, vote_of(RAFT_VOTE, 2, 1, 1)), 0);
    assert_null(solo_sent(&solo, RAFT_VOTE_ANSWER));
    assert_int_equal(solo.last_persist.hard_state.term, 2);
    assert_int_equal(solo.last_persist.hard_state.vote, 2);
    solo.now_ns += 300 * MS;
    solo_release(&solo);
    answer = solo_sent(&solo, RAFT_VOTE_ANSWER);
    assert_non_null(answer);
    assert_true(answer->vote_answer.granted);
    assert_int_equal(answer->vote_answer.silence_ns, 0); /* as of its start, when it was asked */

    assert_int_equal(solo_receive(&solo, 3, vote_of(RAFT_VOTE, 2, 9, 9)), 0); /* one vote a term */
    assert_false(solo_sent(&solo, RAFT_VOTE_ANSWER)->vote_answer.granted);
    assert_int_equal(solo_receive(&solo, 2, vote_of(RAFT_VOTE, 2, 1, 1)),
                     0); /* but again to the same */
    assert_true(solo_sent(&solo, RAFT_VOTE_ANSWER)->vote_answer.granted);
    solo_stop(&solo);
}

static void vote_needs_a_complete_log(void **state)
{
    const uint64_t terms[] = {1, 2};
    struct raft_configuration configuration = voters(3);
    static const struct {
        uint64_t last_term, last_index;
        bool granted;
    } rows[] = {{1, 9, false}, {2, 2, false}, {2, 3, true}, {3, 2, true}};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct solo solo;

        solo_start(&solo, &configuration, 2, terms, 2);
        assert_int_equal(
            solo_receive(&solo, 2,
                         vote_of(RAFT_PRE_VOTE, 4, rows[i].last_term, rows[i].last_index)),
            0);
        assert_int_equal(solo_sent(&solo, RAFT_PRE_VOTE_ANSWER)->vote_answer.granted,
                         rows[i].granted);
        assert_int_equal(solo_status(&solo).role.term, 2); /* a pre-vote changes nothing */
        assert_int_equal(
            solo_receive(&solo, 2, vote_of(RAFT_VOTE, 5, rows[i].last_term, rows[i].last_index)),
            0);
        assert_int_equal(solo_sent(&solo, RAFT_VOTE_ANSWER)->vote_answer.granted, rows[i].granted);
        assert_int_equal(solo_status(&solo).role.term, 5);
        solo_stop(&solo);
    }
}

/* Figure 8 of the paper: copies of an old term's entry on a majority do not commit it. */
static void commit_counts_only_the_own_term(void **state)
{
    const uint64_t terms[] = {2};
    struct raft_configuration configuration = voters(5);
    struct solo solo;
    uint64_t request;

    (void)state;
    solo_start(&solo, &configuration, 3, terms, 1);
    solo_lead(&solo); /* term 4; its no-op is index 3 */
    request = solo_sent(&solo, RAFT_APPEND)->append.request;
    assert_int_equal(solo_receive(&solo, 2, confirm(4, request, 2)), 0);
    assert_int_equal(solo_receive(&solo, 3, confirm(4, request, 2)), 0);
    assert_int_equal(solo_status(&solo).commit_index, 1);
    assert_false(solo_status(&solo).term_committed);
    assert_int_equal(solo_receive(&solo, 2, confirm(4, request, 3)), 0);
    assert_int_equal(solo_receive(&solo, 3, confirm(4, request, 3)), 0);
    assert_int_equal(solo_status(&solo).commit_index, 3);
    assert_int_equal(solo.applied, 2);
    solo_stop(&solo);
}

static void own_copy_counts_when_durable(void **state)
{
    struct raft_configuration configuration = voters(3);
    struct solo solo;
    uint64_t index;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo);
    solo.hold = true;
    assert_int_equal(raft_propose(solo.raft, solo.now_ns, "x", 1, &index, NULL), 0);
    solo_pump(&solo);
    assert_non_null(solo_sent(&solo, RAFT_APPEND)); /* sent in parallel with our own write */
    assert_int_equal(solo_receive(&solo, 2, confirm(2, 1, index)), 0);
    assert_int_equal(solo_status(&solo).commit_index, index - 1);
    solo_release(&solo);
    assert_int_equal(solo_status(&solo).commit_index, index);
    solo_stop(&solo);
}

/* An answer from an earlier term of the same leader counts for nothing. */
static void answers_of_other_terms_do_not_count(void **state)
{
    struct raft_configuration configuration = voters(3);
    struct raft_message answer;
    struct solo solo;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo);
    answer = confirm(2, 1, 2);
    answer.append_answer.request_term = 1;
    assert_int_equal(solo_receive(&solo, 2, answer), 0);
    assert_int_equal(solo_status(&solo).commit_index, 1);
    solo_stop(&solo);
}

static void heartbeats_do_not_wait_for_the_disk(void **state)
{
    const struct raft_view entry = {.term = 1, .type = RAFT_NORMAL, .size = 1, .data = "x"};
    struct raft_configuration configuration = voters(3);
    struct solo solo;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo.hold = true;
    assert_int_equal(solo_receive(&solo, 2, append_of(1, 1, 1, 1, &entry, 1)), 0);
    assert_null(solo_sent(&solo, RAFT_APPEND_ANSWER));
    assert_int_equal(solo_receive(&solo, 2, heartbeat_of(1, 7)), 0);
    assert_int_equal(solo_sent(&solo, RAFT_HEARTBEAT_ANSWER)->heartbeat_answer.round, 7);
    solo_stop(&solo);
}

/* A leader may promise reads only from a round that a quorum answered after the request. */
static void read_index_waits_for_a_round(void **state)
{
    struct raft_configuration configuration = voters(3);
    struct solo solo;
    uint64_t round;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo);
    assert_int_equal(raft_read_index(solo.raft, solo.now_ns, 5), 0);
    solo_pump(&solo);
    round = solo_sent(&solo, RAFT_HEARTBEAT)->heartbeat.round;
    assert_int_equal(solo_receive(&solo, 2, beat_answer(2, round, 1)), 0);
    assert_int_equal(solo.read_count,
                     0); /* nothing of its own term is committed: it may not know all */

    assert_int_equal(solo_receive(&solo, 2, confirm(2, 1, 2)), 0);
    assert_int_equal(solo.read_count, 0);
    assert_int_equal(solo_receive(&solo, 2, beat_answer(2, round, 2)), 0);
    assert_int_equal(solo.read_count, 0); /* a round from before */
    assert_int_equal(solo_receive(&solo, 2, beat_answer(2, round + 1, 2)), 0);
    assert_int_equal(solo.read_count, 1);
    assert_int_equal(solo.reads[0].context, 5);
    assert_int_equal(solo.reads[0].result, 0);
    assert_int_equal(solo.reads[0].index, 2);
    solo_stop(&solo);
}

/* Leases are counted from the sending time of the last round that a quorum answered; a new
 * leader knows until when its predecessor's may run. */
static void rounds_and_silence_carry_leases(void **state)
{
    struct raft_configuration configuration = voters(3);
    struct solo solo;
    uint64_t sent_ns;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo); /* 2 s after the start; node 2 heard a leader 1 s ago, this node never did */
    assert_int_equal(solo_status(&solo).elected_ns, solo.now_ns);
    assert_int_equal(solo_status(&solo).predecessor_heard_ns, solo.now_ns - SEC);
    assert_int_equal(solo_status(&solo).quorum_round_ns, 0);

    solo_wait(&solo, 200 * MS);
    sent_ns = solo.now_ns;
    solo_wait(&solo, 200 * MS);
    solo.now_ns += 50 * MS;
    assert_int_equal(solo_receive(&solo, 3, beat_answer(2, 2, 2)), 0);
    assert_int_equal(solo_status(&solo).quorum_round_ns, sent_ns);

    solo_wait(&solo, 900 * MS); /* 1150 ms after that round */
    assert_int_equal(solo_status(&solo).role.state, RAFT_LEADER);
    solo_wait(&solo, 60 * MS);
    assert_int_equal(solo_status(&solo).role.state, RAFT_FOLLOWER); /* nobody answers: it stops */
    solo_stop(&solo);
}

static void lost_log_is_told(void **state)
{
    struct raft_configuration configuration = voters(3);
    struct raft_peer_status peer;
    struct solo solo;
    uint64_t index;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo); /* round 1 is out */
    assert_int_equal(solo_receive(&solo, 2, confirm(2, 1, 2)), 0);
    assert_int_equal(solo_receive(&solo, 2, beat_answer(2, 1, 1)), 0); /* from before: no proof */
    assert_false(solo.lost);
    solo_wait(&solo, 200 * MS);
    assert_int_equal(solo_receive(&solo, 2, beat_answer(2, 2, 1)), 0); /* asked after: proof */
    assert_true(solo.lost);
    assert_int_equal(raft_peer_status(solo.raft, 2, &peer), 0);
    assert_true(peer.lost);

    assert_int_equal(raft_propose(solo.raft, solo.now_ns, "x", 1, &index, NULL), 0);
    solo_pump(&solo);
    assert_int_equal(solo_receive(&solo, 2, confirm(2, 1, index)), 0);
    assert_int_equal(solo_status(&solo).commit_index, index - 1); /* its word is worth nothing */
    assert_int_equal(solo_receive(&solo, 3, confirm(2, 1, index)), 0);
    assert_int_equal(solo_status(&solo).commit_index, index);
    solo_stop(&solo);
}

/* ---- The witness, rule by rule (raft_witness.c) ---- */

static struct raft_message vouch_of(uint64_t term, uint64_t index)
{
    return (struct raft_message){.type = RAFT_VOUCH, .term = term, .vouch = {.index = index}};
}

static void witness_vouches_when_durable(void **state)
{
    const struct raft_message *answer;
    struct solo solo;

    (void)state;
    solo_witness(&solo, (struct raft_hard_state){0});
    solo.hold = true;
    assert_int_equal(solo_receive(&solo, 2, vouch_of(2, 7)), 0);
    assert_null(solo_sent(&solo, RAFT_VOUCH_ANSWER));
    assert_int_equal(solo.last_persist.hard_state.term, 2);
    assert_int_equal(solo.last_persist.hard_state.vouched_term, 2);
    assert_int_equal(solo.last_persist.hard_state.vouched_index, 7);
    solo_release(&solo);
    answer = solo_sent(&solo, RAFT_VOUCH_ANSWER);
    assert_int_equal(answer->vouch_answer.index, 7);
    assert_int_equal(answer->vouch_answer.request_term, 2);

    assert_int_equal(solo_receive(&solo, 2, vouch_of(2, 5)), 0); /* late: does not lower it */
    assert_int_equal(solo_sent(&solo, RAFT_VOUCH_ANSWER)->vouch_answer.index, 7);
    assert_int_equal(solo_receive(&solo, 3, vouch_of(1, 9)), 0); /* a deposed leader */
    assert_null(solo_sent(&solo, RAFT_VOUCH_ANSWER));
    assert_int_equal(solo_receive(&solo, 3, vouch_of(3, 4)),
                     0); /* a higher term: whatever the index */
    assert_int_equal(solo_sent(&solo, RAFT_VOUCH_ANSWER)->vouch_answer.index, 4);
    assert_int_equal(solo_receive(&solo, 2, append_of(3, 0, 0, 0, NULL, 0)), -EPROTO);
    solo_stop(&solo);
}

static void witness_votes_for_what_it_vouches_for(void **state)
{
    static const struct {
        uint64_t last_term, last_index;
        bool granted;
    } rows[] = {{2, 6, false}, {1, 99, false}, {2, 7, true}, {3, 1, true}};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct solo solo;

        solo_witness(&solo,
                     (struct raft_hard_state){.term = 3, .vouched_term = 2, .vouched_index = 7});
        assert_int_equal(
            solo_receive(&solo, 2, vote_of(RAFT_VOTE, 4, rows[i].last_term, rows[i].last_index)),
            0);
        assert_int_equal(solo_sent(&solo, RAFT_VOTE_ANSWER)->vote_answer.granted, rows[i].granted);
        assert_int_equal(solo_receive(&solo, 3, vote_of(RAFT_VOTE, 4, 9, 9)), 0);
        assert_int_equal(solo_sent(&solo, RAFT_VOTE_ANSWER)->vote_answer.granted, !rows[i].granted);
        solo_stop(&solo);
    }
}

static void leader_asks_the_witness_only_in_need(void **state)
{
    struct raft_configuration configuration = two_and_witness();
    const struct raft_message *vouch;
    struct solo solo;
    uint64_t index;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo); /* with the other voter's vote: it lives, and has a moment to catch up */
    assert_null(solo_sent(&solo, RAFT_VOUCH));
    solo_wait(&solo, 200 * MS);
    vouch = solo_sent(&solo, RAFT_VOUCH);
    assert_non_null(vouch);
    assert_int_equal(vouch->to, 3);
    assert_int_equal(vouch->vouch.index, 2);
    assert_int_equal(solo_receive(&solo, 2, confirm(2, 1, 2)), 0); /* level: present from here on */
    assert_int_equal(raft_propose(solo.raft, solo.now_ns, "x", 1, &index, NULL), 0);
    solo_pump(&solo);
    assert_null(solo_sent(&solo, RAFT_VOUCH));

    solo_receive(&solo, 3, beat_answer(2, 1, 0));
    assert_int_equal(solo_status(&solo).commit_index, index - 1); /* its life is not its word */

    solo_wait(&solo, 400 * MS); /* silent too long */
    vouch = solo_sent(&solo, RAFT_VOUCH);
    assert_non_null(vouch);
    assert_int_equal(vouch->vouch.index, index);
    assert_int_equal(
        solo_receive(&solo, 3,
                     (struct raft_message){.type = RAFT_VOUCH_ANSWER,
                                           .term = 2,
                                           .vouch_answer = {.request_term = 2, .index = index}}),
        0);
    assert_int_equal(solo_status(&solo).commit_index, index);
    assert_int_equal(solo_status(&solo).committed_copies, 1); /* health says so */

    assert_int_equal(solo_receive(&solo, 2, confirm(2, 1, index)), 0);
    assert_int_equal(solo_status(&solo).committed_copies, 2);
    solo_stop(&solo);
}

static void leader_vouches_only_for_durable_entries(void **state)
{
    struct raft_configuration configuration = two_and_witness();
    struct solo solo;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_wait(&solo, 2 * SEC);
    solo_receive(&solo, 3, grant(RAFT_PRE_VOTE_ANSWER, 1, 1, SEC));
    assert_int_equal(solo_status(&solo).role.state, RAFT_CANDIDATE);
    solo.hold = true; /* the no-op of its term hangs */
    solo_receive(&solo, 3, grant(RAFT_VOTE_ANSWER, 2, 2, SEC));
    assert_int_equal(solo_status(&solo).role.state, RAFT_LEADER);
    assert_null(solo_sent(&solo, RAFT_VOUCH));
    solo_release(&solo);
    assert_non_null(solo_sent(&solo, RAFT_VOUCH));
    solo_stop(&solo);
}

/* ---- Refusals ---- */

static void nonsense_is_refused(void **state)
{
    struct raft_configuration configuration = voters(3);
    struct raft_message message = heartbeat_of(1, 1);
    struct solo solo;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    message.from = 2;
    message.to = 3;
    assert_int_equal(raft_receive(solo.raft, solo.now_ns, &message), -EPROTO); /* not for us */
    message.from = message.to = 1;
    assert_int_equal(raft_receive(solo.raft, solo.now_ns, &message), -EPROTO); /* from ourselves */
    assert_int_equal(solo_receive(&solo, 2, vouch_of(1, 1)), -EPROTO);         /* no witness */
    assert_int_equal(solo_receive(&solo, 2, heartbeat_of(UINT64_MAX, 1)), -EPROTO);
    assert_int_equal(solo_receive(&solo, 2, heartbeat_of(1, 1)), 0);
    assert_int_equal(solo_receive(&solo, 3, heartbeat_of(1, 1)), -EPROTO); /* two leaders */
    assert_int_equal(solo_receive(&solo, 9, confirm(1, 1, 1)), 0);         /* a stranger: ignored */
    solo_stop(&solo);

    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo);
    assert_int_equal(solo_receive(&solo, 2, heartbeat_of(2, 1)), -EPROTO); /* we lead this term */
    assert_int_equal(solo_receive(&solo, 2, confirm(2, 1, 99)), -EPROTO);  /* never had it */
    assert_int_equal(solo_receive(&solo, 2, confirm(2, 99, 2)), -EPROTO);  /* never asked */
    assert_int_equal(solo_receive(&solo, 2, beat_answer(2, 99, 2)), -EPROTO);
    assert_int_equal(solo_status(&solo).commit_index, 1);
    solo_stop(&solo);
}

static void a_store_that_lost_something_does_not_start(void **state)
{
    struct raft_options options = {.id = 1, .random = no_spread};
    struct raft_configuration configuration = voters(3);
    struct raft_view view = {.term = 1, .type = RAFT_NORMAL};
    struct raft *raft = NULL;

    (void)state;
    assert_int_equal(raft_bootstrap(&configuration, &options.hard_state, &options.base), 0);
    options.applied = 3;
    assert_int_equal(raft_new(&options, &raft), 0);
    assert_int_equal(raft_restore(raft, 3, &view), -EBADMSG); /* a gap */
    assert_int_equal(raft_restore(raft, 2, &view), 0);
    view.term = 2;
    assert_int_equal(raft_restore(raft, 3, &view), -EBADMSG); /* beyond the stored term */
    assert_int_equal(raft_start(raft, 0), -EBADMSG);          /* index 3 was applied once */
    raft_free(raft);

    options.hard_state.term = 0; /* the base says term 1 */
    assert_int_equal(raft_new(&options, &raft), -EBADMSG);
    options.id = 0;
    assert_int_equal(raft_new(&options, &raft), -EINVAL);
}

static void proposals_are_bounded(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(freep) void *large = calloc(1, RAFT_ENTRY_BYTES_MAX + 1);
    struct solo solo;
    unsigned taken = 0;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    assert_int_equal(raft_propose(solo.raft, solo.now_ns, "x", 1, NULL, NULL), -ESTALE);
    solo_lead(&solo);
    assert_int_equal(
        raft_propose(solo.raft, solo.now_ns, large, RAFT_ENTRY_BYTES_MAX + 1, NULL, NULL), -EINVAL);
    while (raft_propose(solo.raft, solo.now_ns, "x", 1, NULL, NULL) == 0)
        taken++;
    assert_int_equal(taken, RAFT_UNCOMMITTED_MAX - 1); /* and the no-op */
    assert_int_equal(raft_propose(solo.raft, solo.now_ns, "x", 1, NULL, NULL), -EAGAIN);
    solo_stop(&solo);

    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo);
    for (taken = 0;
         raft_propose(solo.raft, solo.now_ns, large, RAFT_ENTRY_BYTES_MAX, NULL, NULL) == 0;)
        taken++;
    assert_int_equal(taken, RAFT_UNCOMMITTED_BYTES_MAX / RAFT_ENTRY_BYTES_MAX);
    solo_pump(&solo);
    solo_stop(&solo);
}

static void a_lone_voter_leads_at_once(void **state)
{
    struct raft_configuration configuration = voters(1);
    struct solo solo;
    uint64_t index;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_pump(&solo); /* no tick, no waiting */
    assert_int_equal(solo_status(&solo).role.state, RAFT_LEADER);
    assert_int_equal(raft_propose(solo.raft, solo.now_ns, "x", 1, &index, NULL), 0);
    assert_int_equal(raft_read_index(solo.raft, solo.now_ns, 1), 0);
    solo_pump(&solo);
    assert_int_equal(solo_status(&solo).commit_index, index);
    assert_int_equal(solo.read_count, 1);
    assert_int_equal(solo_status(&solo).quorum_round_ns, solo.now_ns);
    solo_wait(&solo, 10 * SEC); /* stopped and woken: still its own quorum */
    solo_stop(&solo);
}

/* ---- The wire ---- */

static struct raft_message samples[13];
static struct raft_view sample_entries[3];

static unsigned make_samples(void)
{
    static uint8_t configuration_bytes[RAFT_CONFIGURATION_BYTES_MAX];
    struct raft_configuration configuration = two_and_witness();
    unsigned count = 0;
    size_t size = raft_configuration_encode(&configuration, configuration_bytes);

    sample_entries[0] = (struct raft_view){.term = 2, .type = RAFT_NOOP};
    sample_entries[1] =
        (struct raft_view){.term = 2, .type = RAFT_NORMAL, .size = 5, .data = "hello"};
    sample_entries[2] = (struct raft_view){
        .term = 3, .type = RAFT_CONFIGURATION, .size = (uint32_t)size, .data = configuration_bytes};
    samples[count++] = vote_of(RAFT_PRE_VOTE, 3, 2, 5);
    samples[count++] = vote_of(RAFT_VOTE, 3, 2, 5);
    samples[count++] = grant(RAFT_PRE_VOTE_ANSWER, 3, 3, 7);
    samples[count++] = grant(RAFT_VOTE_ANSWER, 3, 3, 7);
    samples[count++] = append_of(3, 4, 2, 4, sample_entries, 3);
    samples[count++] = confirm(3, 8, 7);
    samples[count++] = heartbeat_of(3, 9);
    samples[count++] = beat_answer(3, 9, 7);
    samples[count++] = (struct raft_message){
        .type = RAFT_SNAPSHOT,
        .term = 3,
        .snapshot = {.snapshot = {.index = 4, .term = 2, .configuration = configuration},
                     .offset = 10,
                     .done = true,
                     .size = 4,
                     .data = "tail"}};
    samples[count++] = (struct raft_message){
        .type = RAFT_SNAPSHOT_ANSWER,
        .term = 3,
        .snapshot_answer = {.request_term = 3, .index = 4, .next_offset = 14}};
    samples[count++] = vouch_of(3, 9);
    samples[count++] = (struct raft_message){
        .type = RAFT_VOUCH_ANSWER, .term = 3, .vouch_answer = {.request_term = 3, .index = 9}};
    samples[count++] = (struct raft_message){.type = RAFT_TIMEOUT_NOW, .term = 3};
    for (unsigned i = 0; i < count; i++) {
        samples[i].from = 2;
        samples[i].to = UINT64_MAX;
    }
    return count;
}

static void messages_survive_the_wire(void **state)
{
    unsigned count = make_samples();

    (void)state;
    for (unsigned i = 0; i < count; i++) {
        size_t size = raft_message_size(&samples[i]);
        cleanup(freep) uint8_t *bytes = malloc(size);
        cleanup(freep) uint8_t *again = malloc(size);
        struct raft_view entries[RAFT_MESSAGE_ENTRIES_MAX];
        struct raft_message message;

        raft_message_encode(&samples[i], bytes);
        assert_int_equal(raft_message_decode(bytes, size, entries, &message), 0);
        assert_int_equal(raft_message_size(&message), size);
        raft_message_encode(&message, again);
        assert_memory_equal(bytes, again, size);
        if (message.type == RAFT_APPEND) /* not copied: it lies in the buffer */
            assert_true((const uint8_t *)message.append.entries[1].data > bytes &&
                        (const uint8_t *)message.append.entries[1].data < bytes + size);
    }
}

static void broken_messages_are_refused(void **state)
{
    unsigned count = make_samples();
    struct raft_view entries[RAFT_MESSAGE_ENTRIES_MAX];
    struct raft_message message;

    (void)state;
    for (unsigned i = 0; i < count; i++) {
        size_t size = raft_message_size(&samples[i]);
        cleanup(freep) uint8_t *bytes = malloc(size + 1);

        raft_message_encode(&samples[i], bytes);
        for (size_t cut = 0; cut < size; cut++)
            assert_true(raft_message_decode(bytes, cut, entries, &message) < 0);
        bytes[size] = 0;
        assert_int_equal(raft_message_decode(bytes, size + 1, entries, &message), -EPROTO);
        bytes[4]++; /* version */
        assert_int_equal(raft_message_decode(bytes, size, entries, &message), -EBADMSG);
        bytes[4]--;
        bytes[0]++; /* magic */
        assert_int_equal(raft_message_decode(bytes, size, entries, &message), -EBADMSG);
    }
}

static void expect_refused(const struct raft_message *message)
{
    cleanup(freep) uint8_t *bytes = malloc(raft_message_size(message));
    struct raft_view entries[RAFT_MESSAGE_ENTRIES_MAX];
    struct raft_message decoded;

    raft_message_encode(message, bytes);
    assert_int_equal(raft_message_decode(bytes, raft_message_size(message), entries, &decoded),
                     -EPROTO);
}

static void impossible_appends_are_refused(void **state)
{
    struct raft_message append;

    (void)state;
    make_samples();
    append = samples[4];
    append.append.prev_term = 4; /* above the message's term */
    expect_refused(&append);
    append.append.prev_term = 3; /* entries of term 2 after it */
    expect_refused(&append);
    append = samples[4];
    append.term = 2; /* an entry of term 3 */
    expect_refused(&append);
    append = samples[4];
    append.append.prev_index = 0; /* index 0 has term 0 */
    expect_refused(&append);
    append = samples[4];
    sample_entries[2].size--; /* half a configuration */
    expect_refused(&append);
}

/* ---- Clusters ---- */

static struct harness *cluster(unsigned nodes, const struct raft_configuration *configuration,
                               uint64_t witness)
{
    struct harness_options options = {
        .seed = 7, .nodes = nodes, .configuration = *configuration, .witness = witness};

    options.trace = getenv("RAFT_TRACE") != NULL;

    return harness_new(&options);
}

static void expect_progress(struct harness *harness)
{
    uint64_t index = 0;

    assert_int_not_equal(harness_leader(harness), 0);
    assert_int_equal(harness_propose(harness, harness_leader(harness), 77, &index), 0);
    assert_true(harness_run_until(harness, 5 * SEC, harness_applied_everywhere, index));
    assert_null(harness_violation(harness));
}

static uint64_t term_of(struct harness *harness, uint64_t id)
{
    return harness_raft(harness, id)->hard.term;
}

static void a_cluster_elects_one_and_keeps_it(void **state)
{
    struct raft_configuration configuration = voters(5);
    cleanup(harness_freep) struct harness *harness = cluster(5, &configuration, 0);
    uint64_t leader, term;

    (void)state;
    harness_run(harness, 3 * SEC);
    leader = harness_leader(harness);
    assert_int_not_equal(leader, 0);
    term = term_of(harness, leader);
    for (unsigned i = 0; i < 20; i++)
        expect_progress(harness);
    harness_run(harness, 20 * SEC);
    assert_int_equal(harness_leader(harness), leader);
    assert_int_equal(term_of(harness, leader), term);
}

/* Pre-vote and stickiness: whoever was cut off comes back without an election. */
static void a_returning_node_disturbs_nobody(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);
    uint64_t term;

    (void)state;
    assert_true(harness_elect(harness, 1));
    term = term_of(harness, 1);
    harness_isolate(harness, 3, true);
    harness_run(harness, 30 * SEC);
    assert_int_equal(term_of(harness, 3), term);
    harness_heal(harness);
    harness_run(harness, 3 * SEC);
    assert_int_equal(harness_leader(harness), 1);
    assert_int_equal(term_of(harness, 1), term);
    expect_progress(harness);
}

static void a_cut_off_leader_steps_down(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    harness_cut(harness, 2, 1, true); /* it can still send: only answers are lost */
    harness_cut(harness, 3, 1, true);
    harness_run(harness, 1500 * MS);
    assert_int_not_equal(harness_raft(harness, 1)->state, RAFT_LEADER);
    harness_run(harness, 5 * SEC);
    assert_true(harness_leader(harness) == 2 || harness_leader(harness) == 3);
    harness_heal(harness);
    harness_run(harness, 3 * SEC);
    expect_progress(harness);
}

static void dead_leader_is_replaced_at_once_when_known(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    harness_crash(harness, 1, true);
    harness_run(harness, 5 * MS); /* its last messages come in before its connections end */
    harness_peer_down(harness, 2, 1);
    harness_peer_down(harness, 3, 1);
    harness_run(harness, 300 * MS);
    assert_int_not_equal(harness_leader(harness), 0);
    expect_progress(harness);
}

static void leadership_is_handed_over(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);
    uint64_t index;

    (void)state;
    assert_true(harness_elect(harness, 1));
    assert_int_equal(harness_transfer(harness, 1, 1), -EINVAL);
    assert_int_equal(harness_transfer(harness, 2, 3), -ESTALE);
    assert_int_equal(harness_propose(harness, 1, 5, &index), 0);
    assert_int_equal(harness_transfer(harness, 1, 3), 0);
    assert_int_equal(harness_propose(harness, 1, 6, &index), -EAGAIN);
    harness_run(harness, 100 * MS); /* no time-out was waited for */
    assert_int_equal(harness_leader(harness), 3);
    expect_progress(harness);

    harness_isolate(harness, 1, true); /* a target that cannot: the leader goes on */
    assert_int_equal(harness_transfer(harness, 3, 1), 0);
    harness_run(harness, 2 * SEC);
    assert_int_equal(harness_leader(harness), 3);
    assert_int_equal(harness_propose(harness, 3, 7, &index), 0); /* and takes proposals again */
    harness_run(harness, SEC);
    assert_int_equal(harness_value_at(harness, index), 7);
}

static void members_come_and_go(void **state)
{
    struct raft_configuration configuration = voters(1);
    cleanup(harness_freep) struct harness *harness = cluster(4, &configuration, 0);

    (void)state;
    harness_run(harness, SEC);
    assert_int_equal(harness_leader(harness), 1);
    for (uint64_t id = 2; id <= 4; id++) {
        assert_int_equal(harness_change(harness, 1, id, RAFT_LEARNER), 0);
        assert_int_equal(harness_change(harness, 1, id, RAFT_VOTER), -EAGAIN); /* one at a time */
        harness_run(harness, 2 * SEC);
        assert_int_equal(harness_change(harness, 1, id, RAFT_VOTER), 0);
        expect_progress(harness);
    }
    assert_true(harness_snapshots_installed(harness) >= 3); /* joiners have no entry 1 */
    assert_int_equal(harness_change(harness, 1, 2, RAFT_VOTER), -EINVAL);
    assert_int_equal(harness_change(harness, 1, 2, RAFT_WITNESS), -EINVAL);

    assert_int_equal(harness_change(harness, 1, 1, RAFT_NO_MEMBER), 0); /* itself */
    harness_run(harness, 300 * MS);
    assert_int_not_equal(harness_leader(harness), 1);
    assert_int_not_equal(harness_leader(harness), 0); /* somebody was asked to stand */
    expect_progress(harness);
}

static void a_removed_node_disturbs_nobody(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);
    uint64_t term;

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    harness_isolate(harness, 3, true); /* it never hears of its removal */
    assert_int_equal(harness_change(harness, 1, 3, RAFT_NO_MEMBER), 0);
    harness_run(harness, 3 * SEC);
    harness_heal(harness);
    term = term_of(harness, 1);
    harness_run(harness, 20 * SEC);
    assert_int_equal(harness_leader(harness), 1);
    assert_int_equal(term_of(harness, 1), term);
    expect_progress(harness);
}

/* A change that is truncated is undone. */
static void truncated_change_is_undone(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(4, &configuration, 0);

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    harness_isolate(harness, 1, true);
    assert_int_equal(harness_change(harness, 1, 4, RAFT_VOTER), 0);
    assert_int_equal(harness_raft(harness, 1)->configuration.count, 4);
    harness_run(harness, 3 * SEC);
    assert_true(harness_leader(harness) != 1);
    harness_heal(harness);
    harness_run(harness, 3 * SEC);
    assert_int_equal(harness_raft(harness, 1)->configuration.count, 3);
    expect_progress(harness);
}

static void a_long_absence_is_mended_by_a_snapshot(void **state)
{
    struct harness_options options = {
        .seed = 3, .nodes = 3, .configuration = voters(3), .compact_every = 10};
    cleanup(harness_freep) struct harness *harness = harness_new(&options);
    uint64_t index;

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_crash(harness, 3, false);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(harness_propose(harness, 1, i, &index), 0);
        harness_run(harness, 20 * MS);
    }
    assert_true(harness_raft(harness, 1)->log.base.index > 50);
    harness_restart(harness, 3);
    harness_run(harness, 6 * SEC);
    assert_int_equal(harness_snapshots_installed(harness), 1);
    expect_progress(harness);
    harness_crash(harness, 3, false);
    harness_restart(harness, 3); /* and what it installed is there after a restart */
    harness_run(harness, SEC);
    expect_progress(harness);
    assert_int_equal(harness_snapshots_installed(harness), 1);
}

static void a_forgetful_node_is_found_out(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);
    uint64_t index;

    (void)state;
    assert_true(harness_elect(harness, 1));
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(harness_propose(harness, 1, i, &index), 0);
    harness_run(harness, SEC);
    harness_crash(harness, 3, false);
    harness_restart(harness, 3); /* an honest restart raises no alarm */
    harness_run(harness, SEC);
    assert_int_equal(harness_lost_reports(harness, 3), 0);
    harness_crash(harness, 3, false);
    harness_forget(harness, 3, index - 3);
    harness_restart(harness, 3);
    harness_run(harness, SEC);
    assert_int_equal(harness_lost_reports(harness, 3), 1);
    assert_int_equal(harness_change(harness, 1, 3, RAFT_NO_MEMBER), 0);
    harness_run(harness, SEC);
    expect_progress(harness);
}

/* Two nodes and a witness: either may die, at any time when both were level, and the other goes on.
 */
static void the_witness_carries_either_survivor(void **state)
{
    struct raft_configuration configuration = two_and_witness();

    (void)state;
    for (uint64_t dead = 1; dead <= 2; dead++) {
        cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 3);

        assert_true(harness_elect(harness, 1));
        harness_run(harness, SEC);
        expect_progress(harness);
        assert_int_equal(harness_messages(harness, RAFT_VOUCH), 0); /* nobody was away */
        harness_crash(harness, dead, false);
        harness_run(harness, 4 * SEC);
        assert_int_equal(harness_leader(harness), 3 - dead);
        expect_progress(harness);
        assert_true(harness_messages(harness, RAFT_VOUCH) > 0);
        harness_restart(harness, dead);
        harness_run(harness, 3 * SEC);
        harness_crash(harness, 3, false); /* both are back: now the witness may die */
        harness_run(harness, SEC);
        expect_progress(harness);
    }
}

/* What was committed with the witness's word alone waits for the node that has it. */
static void the_witness_refuses_the_stale_survivor(void **state)
{
    struct raft_configuration configuration = two_and_witness();
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 3);
    uint64_t index;

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    harness_crash(harness, 2, false);
    harness_run(harness, SEC);
    assert_int_equal(harness_propose(harness, 1, 55, &index), 0);
    harness_run(harness, SEC);
    assert_int_equal(harness_value_at(harness, index), 55); /* on one disk */
    harness_crash(harness, 1, false);
    harness_restart(harness, 2);
    harness_run(harness, 10 * SEC);
    assert_int_equal(harness_leader(harness), 0); /* it lacks 55 */
    harness_restart(harness, 1);
    harness_run(harness, 5 * SEC);
    expect_progress(harness);
}

static void reads_fail_with_the_leadership(void **state)
{
    struct raft_configuration configuration = voters(3);
    cleanup(harness_freep) struct harness *harness = cluster(3, &configuration, 0);

    (void)state;
    assert_true(harness_elect(harness, 1));
    harness_run(harness, SEC);
    assert_int_equal(harness_read(harness, 2), -ESTALE);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(harness_read(harness, 1), 0);
    harness_run(harness, 100 * MS);
    assert_int_equal(harness_reads_answered(harness), 10);
    harness_isolate(harness, 1, true);
    assert_int_equal(harness_read(harness, 1), 0);
    harness_run(harness, 5 * SEC);
    assert_int_equal(harness_reads_answered(harness), 10);
    assert_null(harness_violation(harness));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raftbug),
        cmocka_unit_test(figure_8),
        cmocka_unit_test(two_leaders_do_not_both_change_the_membership),
        cmocka_unit_test(follower_acknowledges_only_what_was_compared),
        cmocka_unit_test(follower_truncates_what_contradicts),
        cmocka_unit_test(truncation_overtakes_a_write),
        cmocka_unit_test(vote_leaves_when_durable),
        cmocka_unit_test(vote_needs_a_complete_log),
        cmocka_unit_test(commit_counts_only_the_own_term),
        cmocka_unit_test(own_copy_counts_when_durable),
        cmocka_unit_test(answers_of_other_terms_do_not_count),
        cmocka_unit_test(heartbeats_do_not_wait_for_the_disk),
        cmocka_unit_test(read_index_waits_for_a_round),
        cmocka_unit_test(rounds_and_silence_carry_leases),
        cmocka_unit_test(lost_log_is_told),
        cmocka_unit_test(witness_vouches_when_durable),
        cmocka_unit_test(witness_votes_for_what_it_vouches_for),
        cmocka_unit_test(leader_asks_the_witness_only_in_need),
        cmocka_unit_test(leader_vouches_only_for_durable_entries),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(a_store_that_lost_something_does_not_start),
        cmocka_unit_test(proposals_are_bounded),
        cmocka_unit_test(a_lone_voter_leads_at_once),
        cmocka_unit_test(messages_survive_the_wire),
        cmocka_unit_test(broken_messages_are_refused),
        cmocka_unit_test(impossible_appends_are_refused),
        cmocka_unit_test(a_cluster_elects_one_and_keeps_it),
        cmocka_unit_test(a_returning_node_disturbs_nobody),
        cmocka_unit_test(a_cut_off_leader_steps_down),
        cmocka_unit_test(dead_leader_is_replaced_at_once_when_known),
        cmocka_unit_test(leadership_is_handed_over),
        cmocka_unit_test(members_come_and_go),
        cmocka_unit_test(a_removed_node_disturbs_nobody),
        cmocka_unit_test(truncated_change_is_undone),
        cmocka_unit_test(a_long_absence_is_mended_by_a_snapshot),
        cmocka_unit_test(a_forgetful_node_is_found_out),
        cmocka_unit_test(the_witness_carries_either_survivor),
        cmocka_unit_test(the_witness_refuses_the_stale_survivor),
        cmocka_unit_test(reads_fail_with_the_leadership),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
