/* What a handshake needs besides its bytes (handshake.c): a deadline, the dialer's side of the
 * exchange, and a way from its coroutine to the loop, where all is decided. */
#include "s2d/bus/bus_internal.h"

/* ---- running something on the loop, outside of coroutines ---- */

struct loop_call {
    struct io_task task;
    struct co *co;
    io_callback *fn;
    void *arg;
};

static void loop_call_run(void *arg)
{
    struct loop_call *call = arg;

    call->fn(call->arg);
    co_wake(call->co);
}

void co_loop_call(struct io *io, io_callback *fn, void *arg)
{
    struct loop_call call = {.co = co_self(), .fn = fn, .arg = arg};

    io_task_init(&call.task, loop_call_run, &call);
    io_queue(io, &call.task);
    co_wait();
}

/* ---- deadlines ---- */

static void deadline_over(void *arg)
{
    struct deadline *deadline = arg;

    deadline->expired = true;
    deadline->transport->shutdown(deadline->stream);
}

void deadline_start(struct deadline *deadline, struct io *io, const struct transport *transport,
                    struct transport_stream *stream, uint64_t timeout_ns)
{
    *deadline = (struct deadline){.io = io, .transport = transport, .stream = stream};
    io_timer_init(&deadline->timer, deadline_over, deadline);
    io_timer_arm(io, &deadline->timer, io_now_ns(io) + timeout_ns);
}

void deadline_stop(struct deadline *deadline)
{
    io_timer_disarm(deadline->io, &deadline->timer);
}

void nonce_draw(struct io *io, uint8_t nonce[BUS_NONCE_BYTES])
{
    for (size_t i = 0; i < BUS_NONCE_BYTES; i += sizeof(uint64_t)) {
        uint64_t random = io_random(io);

        memcpy(nonce + i, &random, sizeof(random));
    }
}

/* ---- the dialer's side ---- */

enum bus_refusal co_handshake_dial(struct io *io, const struct transport *transport,
                                   struct transport_stream *stream, const uint8_t *key,
                                   struct hello *hello, struct challenge *ret_challenge,
                                   int *ret_error)
{
    struct bus_hello_format hello_format;
    struct bus_challenge_format challenge_format;
    struct bus_proof_format proof_format;
    struct bus_welcome_format welcome_format;
    enum bus_refusal refusal;
    int r;

    nonce_draw(io, hello->nonce);
    hello_encode(hello, &hello_format);
    r = transport->co_send(stream, &hello_format, sizeof(hello_format));
    if (r == 0)
        r = transport->co_recv_all(stream, &challenge_format, sizeof(challenge_format));
    *ret_error = r;
    if (r < 0)
        return REFUSAL_NONE;
    refusal = challenge_decode(&challenge_format, ret_challenge);
    if (refusal == REFUSAL_NONE)
        refusal = ret_challenge->refusal;
    if (refusal != REFUSAL_NONE)
        return refusal;
    if (handshake_version(ret_challenge->version, ret_challenge->version) == 0)
        return REFUSAL_VERSION;
    if (hello->to_node != 0 && ret_challenge->node != hello->to_node)
        return REFUSAL_OTHER_NODE;
    if (!challenge_verify(&challenge_format, &hello_format, key))
        return REFUSAL_KEY;

    proof_encode(&hello_format, &challenge_format, key, &proof_format);
    r = transport->co_send(stream, &proof_format, sizeof(proof_format));
    if (r == 0)
        r = transport->co_recv_all(stream, &welcome_format, sizeof(welcome_format));
    *ret_error = r;
    return r < 0 ? REFUSAL_NONE : welcome_decode(&welcome_format);
}
