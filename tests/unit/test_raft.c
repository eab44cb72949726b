/* The Raft core: each promise of raft.h by itself, on one node whose peers are written by hand
 * (raft_solo.h); before that, the famous ways to lose what was committed, on a whole cluster
 * (raft_scenario.h). */
#include "tests/unit/raft_scenario.h"
#include "tests/unit/raft_solo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

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

/* Its removal is in its own log alone: nobody else can win, so it must, or the cluster stands
 * still. */
static void a_node_whose_removal_is_open_may_stand(void **state)
{
    struct raft_options options = {.id = 1, .random = solo_no_spread};
    struct raft_configuration configuration = voters(3);
    uint8_t bytes[RAFT_CONFIGURATION_BYTES_MAX];
    struct raft_view view = {.term = 1, .type = RAFT_CONFIGURATION, .data = bytes};
    struct solo solo = {.now_ns = 10 * SEC};

    (void)state;
    assert_int_equal(raft_bootstrap(&configuration, &options.hard_state, &options.base), 0);
    assert_int_equal(raft_configuration_set(&configuration, 1, RAFT_NO_MEMBER), 0);
    view.size = (uint32_t)raft_configuration_encode(&configuration, bytes);
    for (options.applied = 1; options.applied <= 2; options.applied++) {
        assert_int_equal(raft_new(&options, &solo.raft), 0);
        assert_int_equal(raft_restore(solo.raft, 2, &view), 0);
        assert_int_equal(raft_start(solo.raft, solo.now_ns), 0);
        solo_wait(&solo, 2 * SEC);
        if (options.applied == 2) { /* it knows that it is out */
            assert_null(solo_sent(&solo, RAFT_PRE_VOTE));
        } else {
            assert_non_null(solo_sent(&solo, RAFT_PRE_VOTE));
            solo_receive(&solo, 2, grant(RAFT_PRE_VOTE_ANSWER, 1, 1, SEC));
            assert_int_equal(solo_status(&solo).role.state, RAFT_PRE_CANDIDATE);
            solo_receive(&solo, 3, grant(RAFT_PRE_VOTE_ANSWER, 1, 1, SEC)); /* two others */
            assert_int_equal(solo_status(&solo).role.state, RAFT_CANDIDATE);
        }
        solo_stop(&solo);
    }
}

/* A leader on its way out has no vote: what only it holds, nobody could win with. */
static void witness_is_not_asked_for_what_no_voter_holds(void **state)
{
    struct raft_configuration configuration = two_and_witness();
    struct solo solo;
    uint64_t index;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo);
    assert_int_equal(solo_receive(&solo, 2, confirm(2, 1, 2)), 0);
    assert_int_equal(raft_change(solo.raft, solo.now_ns, 1, RAFT_NO_MEMBER, &index), 0);
    solo_wait(&solo, 200 * MS);
    assert_null(solo_sent(&solo, RAFT_VOUCH));
    assert_int_equal(solo_receive(&solo, 2, confirm(2, 2, index)), 0);
    assert_int_equal(solo_sent(&solo, RAFT_VOUCH)->vouch.index, index);
    solo_stop(&solo);
}

/* Loss and disorder must not multiply traffic: of a window's refusals one is acted upon. */
static void one_refusal_reopens_one_window(void **state)
{
    struct raft_configuration configuration = voters(3);
    struct raft_message refusal = confirm(2, 0, 0);
    struct solo solo;
    uint64_t first;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo);
    assert_int_equal(solo_receive(&solo, 2, confirm(2, 1, 2)), 0);
    solo_sent(&solo, RAFT_APPEND);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(raft_propose(solo.raft, solo.now_ns, "x", 1, NULL, NULL), 0);
        solo_pump(&solo);
    }
    first = solo_sent(&solo, RAFT_APPEND)->append.request - 9;
    refusal.append_answer.accepted = false;
    refusal.append_answer.hint_index = refusal.append_answer.last_index = 2;
    refusal.append_answer.hint_term = 2;
    for (unsigned i = 1; i < 10; i++) { /* the first message was lost */
        refusal.append_answer.request = first + i;
        refusal.append_answer.index = 2 + i;
        assert_int_equal(solo_receive(&solo, 2, refusal), 0);
    }
    assert_int_equal(solo.sent_count, 1);
    assert_int_equal(solo.sent[0].append.prev_index, 2);
    assert_int_equal(solo.sent[0].append.entry_count, 10);
    solo_stop(&solo);
}

/* The receiver names the piece it wants: forward, again, or back to where it had to start over. */
static void snapshot_pieces_follow_the_receiver(void **state)
{
    static const uint64_t wanted[] = {4, 8, 4, 0, 4};
    struct raft_configuration configuration = voters(3);
    struct raft_message answer = {.type = RAFT_SNAPSHOT_ANSWER, .term = 2};
    struct raft_message refusal = confirm(2, 1, 1);
    struct raft_chunk chunk = {.size = 4, .data = "four"};
    struct solo solo;

    (void)state;
    solo_start(&solo, &configuration, 1, NULL, 0);
    solo_lead(&solo);
    refusal.append_answer.accepted = false;
    refusal.append_answer.last_index = 0; /* a joiner: it has not even the base */
    assert_int_equal(solo_receive(&solo, 3, refusal), 0);
    assert_int_equal(solo.request.peer, 3);
    assert_int_equal(solo.request.offset, 0);
    assert_int_equal(raft_snapshot_at(solo.raft, 1, &chunk.snapshot), 0);
    assert_int_equal(raft_send_chunk(solo.raft, solo.now_ns, 3, &chunk), 0);
    assert_int_equal(raft_send_chunk(solo.raft, solo.now_ns, 3, &chunk),
                     -ESTALE); /* one at a time */
    answer.snapshot_answer.request_term = 2;
    answer.snapshot_answer.index = 1;
    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
        answer.snapshot_answer.next_offset = 99; /* was never sent */
        assert_int_equal(solo_receive(&solo, 3, answer), 0);
        answer.snapshot_answer.next_offset = wanted[i];
        assert_int_equal(solo_receive(&solo, 3, answer), 0);
        assert_int_equal(solo.request.offset, wanted[i]);
        assert_int_equal(solo.request.snapshot_index, 1);
        chunk.offset = wanted[i];
        assert_int_equal(raft_send_chunk(solo.raft, solo.now_ns, 3, &chunk), 0);
    }
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
    struct raft_options options = {.id = 1, .random = solo_no_spread};
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
        cmocka_unit_test(a_node_whose_removal_is_open_may_stand),
        cmocka_unit_test(witness_is_not_asked_for_what_no_voter_holds),
        cmocka_unit_test(one_refusal_reopens_one_window),
        cmocka_unit_test(snapshot_pieces_follow_the_receiver),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(a_store_that_lost_something_does_not_start),
        cmocka_unit_test(proposals_are_bounded),
        cmocka_unit_test(a_lone_voter_leads_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
