/* QEMU's lines. First the parser: any bytes give 0 or an error, and what it gives can be released.
 * Then a whole connection in the simulator, whose streams deliver in pieces of any size: QEMU says
 * the input, and commands end with an answer, a refusal, an error or their time-out. An input that
 * begins with a 0 byte is all that QEMU says; else it comes after a negotiation that went well. */
#include <stdlib.h>

#include "hv/qmp.h"
#include "s2d/base/co.h"
#include "s2d/base/sim.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define COMMANDS 3
#define RUN_NS (60 * SEC)

static const char negotiation[] =
    "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n{\"return\": {}, \"id\": 1}\r\n";

struct fuzz {
    const uint8_t *data;
    size_t size;
    struct io *io;
    struct io_listener *listener;
    unsigned events;
    bool done;
};

static void fuzz_parser(const uint8_t *data, size_t size)
{
    struct qmp_message message;

    if (qmp_parse((const char *)data, size, &message) < 0)
        return;
    assert(strlen(message.event) < QMP_EVENT_BYTES);
    assert(strlen(message.error) < QMP_ERROR_BYTES);
    qmp_message_done(&message);
    assert(!message.value);
}

/* ---- the connection ---- */

static void on_event(void *arg, const char *event, const json_t *data)
{
    struct fuzz *fuzz = arg;

    (void)data;
    assert(strlen(event) < QMP_EVENT_BYTES);
    fuzz->events++;
}

static void co_qemu(void *arg)
{
    struct fuzz *fuzz = arg;
    const uint8_t *says = fuzz->data;
    size_t size = fuzz->size;
    struct io_stream *stream;
    char heard[256];

    if (co_io_accept(fuzz->listener, &stream) < 0)
        return;
    if (size > 0 && says[0] == 0) {
        says++;
        size--;
    } else {
        (void)!co_io_send(stream, negotiation, strlen(negotiation));
    }
    if (size > 0)
        (void)!co_io_send(stream, says, size);
    while (co_io_recv(stream, heard, sizeof(heard)) > 0) /* until the client leaves */
        continue;
    io_stream_close(stream);
}

static void co_commands(struct fuzz *fuzz)
{
    struct qmp *qmp;
    int r = co_qmp_connect(fuzz->io, "/qmp", 2 * SEC, on_event, fuzz, &qmp);

    assert(r <= 0);
    if (r < 0)
        return;
    for (unsigned i = 0; i < COMMANDS; i++) {
        json_t *value = NULL;

        r = co_qmp_execute(qmp, "query-status", NULL, SEC, &value);
        assert(r <= 0);
        assert(r == 0 || !value);
        if (r == -EREMOTEIO)
            assert(strlen(qmp_error(qmp)) < QMP_ERROR_BYTES);
        json_decref(value);
    }
    co_qmp_free(qmp);
}

static void co_main(struct io *io, void *arg)
{
    struct fuzz *fuzz = arg;
    struct co_group group;
    int r;

    fuzz->io = io;
    co_group_init(&group);
    r = io_listen(io, "unix:/qmp", &fuzz->listener);
    assert(r == 0);
    r = co_group_spawn(&group, io, "qemu", co_qemu, fuzz);
    assert(r == 0);
    co_commands(fuzz);
    io_listener_shutdown(fuzz->listener);
    co_group_wait(&group);
    io_listener_close(fuzz->listener);
    fuzz->done = true;
    io_stop(io);
}

static void fuzz_connection(const uint8_t *data, size_t size)
{
    struct sim_options options = sim_default_options(size);
    struct fuzz fuzz = {.data = data, .size = size};
    cleanup(sim_freep) struct sim *sim = NULL;

    if (sim_new(&options, &sim) < 0 || sim_start(sim, 1, co_main, &fuzz) < 0)
        abort();
    sim_run(sim, RUN_NS, NULL, NULL);
    assert(fuzz.done);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_parser(data, size);
    fuzz_connection(data, size);
    return 0;
}
