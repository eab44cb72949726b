/* Raft messages on the wire: they come back as they went, and nothing else is let in. */
#include "tests/unit/raft_solo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_survive_the_wire),
        cmocka_unit_test(broken_messages_are_refused),
        cmocka_unit_test(impossible_appends_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
