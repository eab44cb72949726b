/* The local store of the cluster database as a disk, or another version, may give it back: a store
 * that the product wrote, changed by the input, is opened by a node that is alone in its simulated
 * world. It is refused as damaged, or it serves: the node can be asked to lead and to take a
 * command, and what was opened once opens again and shows the same records.
 *
 * Input: a byte of choices; then changes, each an enum change, the number of a key (in the
 * product's store, in order), a length, and so many bytes. */
#include <stdio.h>

#include "s2d/base/co.h"
#include "s2d/base/sim.h"
#include "s2d/cluster/consensus.h"
#include "tests/unit/kv_contents.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum choice {
    OTHER_NODE = 0x40,  /* the node that opens it has another id than the one that wrote it */
    EMPTY_STORE = 0x80, /* nothing is there but what the changes put there */
};
enum change {
    REPLACE, /* the value by the bytes */
    PATCH,   /* the value from the offset that the first byte says */
    REMOVE,
    NAME, /* a key of the name that the bytes begin with, up to a 0; the rest is its value */
    CHANGES,
};
#define RUN_NS (3 * SEC) /* an election, and the database is written */
#define LIMIT_NS (60 * SEC)
#define TOKENS 4

struct fuzz {
    struct kv_disk *disk;
    uint64_t node;
    bool unchanged; /* by the input: all must go well */
    struct io *io;
    struct kv *kv;
    struct bus *bus;
    struct consensus *consensus;
    bool done;
};

/* ---- a store: opened, asked, closed ---- */

static int co_open(struct fuzz *fuzz)
{
    static const uint8_t key[BUS_KEY_BYTES];
    struct bus_options bus = {.node = fuzz->node,
                              .start_counter = 1,
                              .key = key,
                              .key_bytes = sizeof(key),
                              .receive_bytes = MIB};
    struct consensus_options options = {.node = fuzz->node, .start_counter = 1};
    int r = bus_new(fuzz->io, &bus, &fuzz->bus);

    assert(r == 0);
    options.bus = fuzz->bus;
    options.kv = fuzz->kv;
    r = co_consensus_open(fuzz->io, &options, &fuzz->consensus);
    assert(r == 0 || r == -EBADMSG); /* a damaged store is called that, by whatever it shows */
    return r;
}

static void co_close(struct fuzz *fuzz)
{
    co_consensus_close(take_ptr(fuzz->consensus));
    co_bus_close(take_ptr(fuzz->bus));
}

static int co_command(struct fuzz *fuzz, json_t *command)
{
    struct command_result result;
    int r;

    assert(command);
    r = co_consensus_propose(fuzz->consensus, command, SEC, &result);
    json_decref(command);
    command_result_done(&result);
    return r;
}

static int co_make_token(struct fuzz *fuzz)
{
    static const char secret[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    return co_command(fuzz,
                      json_pack("{s:s,s:s,s:I,s:I}", "verb", "token.create", "secret", secret,
                                "expires_ns", (json_int_t)(10 * SEC), "time_ns", (json_int_t)SEC));
}

/* All records, as text. */
static char *show(const struct database *database)
{
    const struct record_base *record;
    char *text = NULL;
    size_t bytes;
    FILE *file = open_memstream(&text, &bytes);

    assert(file);
    for (int table = 0; table < TABLE_COUNT; table++) {
        for (size_t i = 0; (record = database_at(database, table, i)); i++) {
            char *line = record_to_text(table, record);

            assert(line);
            fprintf(file, "%s %llx %s\n", table_name(table), (unsigned long long)record->id, line);
            free(line);
        }
    }
    fclose(file);
    return text;
}

/* ---- the store that the product writes ---- */

static void co_write_store(struct io *io, void *arg)
{
    struct fuzz *fuzz = arg;
    int r;

    fuzz->io = io;
    r = consensus_bootstrap(fuzz->kv, fuzz->node);
    assert(r == 0);
    r = co_open(fuzz);
    assert(r == 0);
    r = co_sleep_ns(RUN_NS);
    assert(r == 0);
    r = co_command(fuzz,
                   json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I}", "verb", "cluster.create", "name",
                             "c", "uuid", "00000000-0000-0000-0000-000000000001", "node_name", "n1",
                             "address", "10.83.0.1:7800", "start_counter", (json_int_t)1,
                             "vm_restart_delay_ms", (json_int_t)3000, "time_ns", (json_int_t)SEC));
    assert(r == 0);
    for (int i = 0; i < TOKENS && r == 0; i++)
        r = co_make_token(fuzz);
    assert(r == 0);
    r = consensus_change(fuzz->consensus, 2, RAFT_LEARNER);
    assert(r == 0);
    r = co_sleep_ns(RUN_NS); /* written: what is applied, and how far */
    assert(r == 0);
    r = co_make_token(fuzz); /* not: it is in the log only */
    assert(r == 0);
    co_close(fuzz);
    fuzz->done = true;
    io_stop(io);
}

static void run(struct fuzz *fuzz, void (*program)(struct io *io, void *arg))
{
    struct sim_options options = sim_default_options(1);
    cleanup(sim_freep) struct sim *sim = NULL;
    int r = kv_memory_open(fuzz->disk, &fuzz->kv);

    fuzz->done = false;
    if (r < 0 || sim_new(&options, &sim) < 0 || sim_start(sim, 1, program, fuzz) < 0)
        abort();
    sim_run(sim, LIMIT_NS, NULL, NULL);
    assert(fuzz->done); /* nothing waits for ever */
    kv_close(fuzz->kv);
}

/* Written once, and kept as the batch that makes it. */
static struct kv_batch product;

static void write_product_store(void)
{
    struct fuzz fuzz = {.node = 1};
    struct kv *kv;
    int r = kv_disk_new(&fuzz.disk);

    assert(r == 0);
    run(&fuzz, co_write_store);
    kv_batch_init(&product);
    r = kv_memory_open(fuzz.disk, &kv);
    assert(r == 0);
    r = kv_contents(kv, "", &product);
    assert(r == 0 && product.count > 3 + TOKENS);
    kv_close(kv);
    kv_disk_free(fuzz.disk);
}

/* ---- what happens to it ---- */

static void patch(struct kv_batch *batch, const struct kv_change *old, const uint8_t *bytes,
                  size_t size)
{
    size_t length = MAX(old->bytes, size > 0 ? bytes[0] + size - 1 : 0);
    uint8_t *value = calloc(1, length + 1);

    assert(value);
    memcpy(value, old->value, old->bytes);
    if (size > 0)
        memcpy(value + bytes[0], bytes + 1, size - 1);
    kv_put(batch, old->key, value, length);
    free(value);
}

static void put_named(struct kv_batch *batch, const uint8_t *bytes, size_t size)
{
    char name[256];
    size_t length = strnlen((const char *)bytes, size);

    memcpy(name, bytes, length);
    name[length] = '\0';
    length = MIN(length + 1, size);
    kv_put(batch, name, bytes + length, size - length);
}

static void change(struct kv_batch *batch, const uint8_t *data, size_t size)
{
    while (size >= 3) {
        const struct kv_change *old = &product.changes[data[1] % product.count];
        size_t bytes = MIN((size_t)data[2], size - 3);

        switch ((enum change)(data[0] % CHANGES)) {
        case REPLACE:
            kv_put(batch, old->key, data + 3, bytes);
            break;
        case PATCH:
            patch(batch, old, data + 3, bytes);
            break;
        case REMOVE:
            kv_delete(batch, old->key);
            break;
        case NAME:
            put_named(batch, data + 3, bytes);
            break;
        case CHANGES:
            break;
        }
        data += 3 + bytes;
        size -= 3 + bytes;
    }
}

static void spoil(struct kv_disk *disk, const uint8_t *data, size_t size)
{
    struct kv_batch changes;
    struct kv *kv;
    int r = kv_memory_open(disk, &kv);

    assert(r == 0);
    if (!(data[0] & EMPTY_STORE)) {
        r = kv_write(kv, &product);
        assert(r == 0);
    }
    kv_batch_init(&changes);
    change(&changes, data + 1, size - 1);
    r = kv_write(kv, &changes);
    assert(r == 0);
    kv_batch_done(&changes);
    kv_close(kv);
}

/* ---- a life on it, and another ---- */

static void check_offline(struct fuzz *fuzz)
{
    struct database *database = NULL;
    uint64_t applied;
    int r = consensus_read_database(fuzz->kv, &database, &applied);

    assert(r == 0 || r == -EBADMSG);
    database_free(database);
}

static void co_two_lives(struct io *io, void *arg)
{
    struct fuzz *fuzz = arg;
    char *first, *second;
    int r;

    fuzz->io = io;
    check_offline(fuzz);
    r = co_open(fuzz);
    assert(r == 0 || !fuzz->unchanged);
    if (r == 0) {
        r = co_sleep_ns(RUN_NS);
        assert(r == 0);
        r = co_make_token(fuzz);
        assert(r == 0 || !fuzz->unchanged); /* the database may say no, or nobody leads */
        first = show(consensus_database(fuzz->consensus));
        co_close(fuzz);

        r = co_open(fuzz);
        assert(r == 0);
        r = co_sleep_ns(RUN_NS);
        assert(r == 0);
        second = show(consensus_database(fuzz->consensus));
        assert(strcmp(first, second) == 0);
        free(first);
        free(second);
    }
    co_close(fuzz);
    fuzz->done = true;
    io_stop(io);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz fuzz = {0};
    int r;

    if (size < 1)
        return 0;
    if (product.count == 0)
        write_product_store();
    fuzz.node = data[0] & OTHER_NODE ? 2 : 1;
    fuzz.unchanged = size < 4 && !(data[0] & (OTHER_NODE | EMPTY_STORE));
    r = kv_disk_new(&fuzz.disk);
    assert(r == 0);
    spoil(fuzz.disk, data, size);
    run(&fuzz, co_two_lives);
    kv_disk_free(fuzz.disk);
    return 0;
}
