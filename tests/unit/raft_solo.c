#include "tests/unit/raft_solo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

uint64_t solo_no_spread(void *arg)
{
    (void)arg;
    return 0;
}

struct raft_configuration voters(unsigned count)
{
    struct raft_configuration configuration = {0};

    for (unsigned id = 1; id <= count; id++)
        assert_int_equal(raft_configuration_set(&configuration, id, RAFT_VOTER), 0);
    return configuration;
}

struct raft_configuration two_and_witness(void)
{
    struct raft_configuration configuration = voters(2);

    assert_int_equal(raft_configuration_set(&configuration, 3, RAFT_WITNESS), 0);
    return configuration;
}

void solo_start(struct solo *solo, const struct raft_configuration *configuration, uint64_t term,
                const uint64_t *terms, unsigned count)
{
    struct raft_options options = {.id = 1, .random = solo_no_spread};

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

void solo_witness(struct solo *solo, struct raft_hard_state hard_state)
{
    struct raft_options options = {
        .id = 1, .witness = true, .random = solo_no_spread, .hard_state = hard_state};

    *solo = (struct solo){.now_ns = 10 * SEC};
    assert_int_equal(raft_new(&options, &solo->raft), 0);
    assert_int_equal(raft_start(solo->raft, solo->now_ns), 0);
}

void solo_stop(struct solo *solo)
{
    raft_free(solo->raft);
}

void solo_pump(struct solo *solo)
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
        if (ready.chunk_request_count > 0)
            solo->request = ready.chunk_requests[0];
        if (ready.persist.batch == 0)
            continue;
        solo->last_persist = ready.persist;
        if (solo->hold)
            solo->held_batch = ready.persist.batch;
        else
            raft_persisted(solo->raft, solo->now_ns, ready.persist.batch);
    }
}

void solo_release(struct solo *solo)
{
    solo->hold = false;
    if (solo->held_batch != 0)
        raft_persisted(solo->raft, solo->now_ns, solo->held_batch);
    solo->held_batch = 0;
    solo_pump(solo);
}

int solo_receive(struct solo *solo, uint64_t from, struct raft_message message)
{
    int r;

    message.from = from;
    message.to = 1;
    r = raft_receive(solo->raft, solo->now_ns, &message);
    solo_pump(solo);
    return r;
}

void solo_wait(struct solo *solo, uint64_t duration_ns)
{
    solo->now_ns += duration_ns;
    raft_tick(solo->raft, solo->now_ns);
    solo_pump(solo);
}

const struct raft_message *solo_sent(struct solo *solo, enum raft_message_type type)
{
    const struct raft_message *found = NULL;

    for (unsigned i = 0; i < solo->sent_count; i++)
        if (solo->sent[i].type == type)
            found = &solo->sent[i];
    solo->sent_count = 0;
    return found;
}

struct raft_status solo_status(struct solo *solo)
{
    struct raft_status status;

    raft_status(solo->raft, &status);
    return status;
}

struct raft_message vote_of(enum raft_message_type type, uint64_t term, uint64_t last_term,
                            uint64_t last_index)
{
    return (struct raft_message){
        .type = type, .term = term, .vote = {.last_term = last_term, .last_index = last_index}};
}

struct raft_message grant(enum raft_message_type type, uint64_t term, uint64_t request_term,
                          uint64_t silence_ns)
{
    return (struct raft_message){
        .type = type,
        .term = term,
        .vote_answer = {.request_term = request_term, .granted = true, .silence_ns = silence_ns}};
}

struct raft_message append_of(uint64_t term, uint64_t prev_index, uint64_t prev_term,
                              uint64_t commit, const struct raft_view *entries, uint32_t count)
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

struct raft_message heartbeat_of(uint64_t term, uint64_t round)
{
    return (struct raft_message){
        .type = RAFT_HEARTBEAT, .term = term, .heartbeat = {.round = round}};
}

struct raft_message confirm(uint64_t term, uint64_t request, uint64_t index)
{
    return (struct raft_message){.type = RAFT_APPEND_ANSWER,
                                 .term = term,
                                 .append_answer = {.request_term = term,
                                                   .request = request,
                                                   .accepted = true,
                                                   .index = index,
                                                   .last_index = index}};
}

struct raft_message beat_answer(uint64_t term, uint64_t round, uint64_t last_index)
{
    return (struct raft_message){
        .type = RAFT_HEARTBEAT_ANSWER,
        .term = term,
        .heartbeat_answer = {.request_term = term, .round = round, .last_index = last_index}};
}

void solo_lead(struct solo *solo)
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

struct raft_message vouch_of(uint64_t term, uint64_t index)
{
    return (struct raft_message){.type = RAFT_VOUCH, .term = term, .vouch = {.index = index}};
}
