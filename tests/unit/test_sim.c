/* The simulator keeps its promises: what it does to disks and connections is what the rest of the
 * tests rely on, and a run can be repeated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/co.h"
#include "s2d/base/log.h"
#include "s2d/base/sim.h"

#define DISK "/disk"
#define DISK_BYTES (4 * MIB)

static struct sim *new_sim(uint64_t seed)
{
    struct sim_options options = sim_default_options(seed);
    struct sim *sim = NULL;

    assert_int_equal(sim_new(&options, &sim), 0);
    return sim;
}

static bool is_set(void *flag)
{
    return *(bool *)flag;
}

static struct io_file *must_open(struct io *io, unsigned flags)
{
    struct io_file *file = NULL;

    assert_int_equal(co_io_open(io, DISK, flags, &file), 0);
    return file;
}

static void fill(uint8_t *block, uint64_t stamp)
{
    for (size_t i = 0; i < BLOCK_SIZE / sizeof(stamp); i++)
        memcpy(block + i * sizeof(stamp), &stamp, sizeof(stamp));
}

/* The stamp that the whole block carries; UINT64_MAX if it is a mixture. */
static uint64_t stamp_of(struct sim *sim, uint64_t block_number)
{
    uint64_t stamps[BLOCK_SIZE / 8];

    assert_int_equal(sim_disk_peek(sim, 1, DISK, block_number * BLOCK_SIZE, stamps, sizeof(stamps)),
                     0);
    for (size_t i = 1; i < ARRAY_SIZE(stamps); i++) {
        if (stamps[i] != stamps[0])
            return UINT64_MAX;
    }
    return stamps[0];
}

/* ---- repeating a run ---- */

struct chatter {
    struct sim *sim;
    unsigned rounds;
    bool done;
};

static void talk(struct io *io, struct io_stream *stream)
{
    char buffer[100] = {0}; /* what is sent is part of the transcript */

    for (int i = 0; i < 20; i++) {
        if (co_io_send(stream, buffer, 1 + io_random(io) % sizeof(buffer)) < 0)
            return;
        co_sleep_ns(io_random(io) % MS);
        if (co_io_recv(stream, buffer, sizeof(buffer)) <= 0)
            return;
    }
}

static void chatter_server(struct io *io, void *arg)
{
    cleanup(io_listener_closep) struct io_listener *listener = NULL;
    cleanup(io_stream_closep) struct io_stream *stream = NULL;

    (void)arg;
    assert_int_equal(io_listen(io, "10.83.0.1:7800", &listener), 0);
    if (co_io_accept(listener, &stream) == 0)
        talk(io, stream);
}

static void chatter_client(struct io *io, void *arg)
{
    cleanup(io_stream_closep) struct io_stream *stream = NULL;
    cleanup(io_file_closep) struct io_file *file = NULL;
    struct chatter *chatter = arg;
    uint8_t block[BLOCK_SIZE];

    if (co_io_connect(io, "10.83.0.1:7800", SEC, &stream) == 0) {
        log_info(io, "chatter", "connected", "peer=%s", io_stream_peer(stream));
        talk(io, stream);
    }
    if (co_io_open(io, DISK, IO_OPEN_CREATE, &file) == 0) {
        fill(block, io_random(io));
        for (unsigned i = 0; i < 20; i++)
            assert_int_equal(co_io_write(file, block, sizeof(block), io_random(io) % MIB, 0), 0);
    }
    chatter->done = true;
}

static uint64_t hash_of_run(uint64_t seed, FILE *transcript)
{
    cleanup(sim_freep) struct sim *sim = new_sim(seed);
    struct chatter chatter = {.sim = sim};

    sim_set_transcript(sim, transcript);
    assert_int_equal(sim_start(sim, 1, chatter_server, &chatter), 0);
    assert_int_equal(sim_start(sim, 2, chatter_client, &chatter), 0);
    assert_true(sim_run(sim, SEC, is_set, &chatter.done));
    sim_crash(sim, 2, SIM_HOST_DIES);
    return sim_transcript_hash(sim);
}

/* Without this no failing run could be looked at twice. */
static void same_seed_same_transcript(void **state)
{
    uint64_t first = hash_of_run(7, NULL);
    void *noise = malloc(12345); /* a different heap must not matter */

    (void)state;
    assert_int_equal(hash_of_run(7, NULL), first);
    assert_int_not_equal(hash_of_run(8, NULL), first);
    free(noise);
}

/* Looking at a run must not change it; and what is printed repeats to the byte. */
static void transcript_only_looks(void **state)
{
    uint64_t first = hash_of_run(7, NULL);
    char *text[2] = {NULL, NULL};
    size_t length[2];

    (void)state;
    for (int i = 0; i < 2; i++) {
        FILE *transcript = open_memstream(&text[i], &length[i]);

        assert_non_null(transcript);
        assert_int_equal(hash_of_run(7, transcript), first);
        fclose(transcript);
    }
    assert_true(length[0] > 1000);
    assert_string_equal(text[0], text[1]);
    assert_non_null(strstr(text[0], "m2 connect to=1 port=7800\n"));
    assert_non_null(strstr(text[0], "INFO node=m2 chatter: connected peer=10.83.0.1:7800\n"));
    free(text[0]);
    free(text[1]);
}

/* ---- disks ---- */

#define BLOCKS 32

struct writer {
    struct sim *sim;
    unsigned flags;
    bool sync;
    bool done;
};

static void write_blocks(struct io *io, void *arg)
{
    cleanup(io_file_closep) struct io_file *file = must_open(io, IO_OPEN_LOCK);
    struct writer *writer = arg;
    uint8_t block[BLOCK_SIZE];

    for (uint64_t i = 0; i < BLOCKS; i++) {
        fill(block, i + 1);
        if (co_io_write(file, block, sizeof(block), i * BLOCK_SIZE, writer->flags) < 0)
            return;
    }
    if (writer->sync)
        assert_int_equal(co_io_sync(file), 0);
    writer->done = true;
}

/* Writes, cuts the power, counts what is left; *ret_torn: blocks that are neither old nor new. */
static unsigned blocks_after_crash(uint64_t seed, struct writer *writer, enum sim_crash_kind kind,
                                   unsigned *ret_torn)
{
    cleanup(sim_freep) struct sim *sim = new_sim(seed);
    unsigned kept = 0;

    *ret_torn = 0;
    writer->sim = sim;
    assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
    assert_int_equal(sim_start(sim, 1, write_blocks, writer), 0);
    assert_true(sim_run(sim, SEC, is_set, &writer->done));
    sim_crash(sim, 1, kind);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        uint64_t stamp = stamp_of(sim, i);

        assert_true(stamp == 0 || stamp == i + 1 || stamp == UINT64_MAX);
        kept += stamp == i + 1;
        *ret_torn += stamp == UINT64_MAX;
    }
    return kept;
}

/* I1 rests on it: what was durable stays, what was not may go, some of it and in pieces. */
static void crash_loses_only_what_was_not_durable(void **state)
{
    unsigned kept_some = 0, lost_some = 0, torn_some = 0, torn;

    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct writer synced = {.sync = true};
        struct writer durable = {.flags = IO_WRITE_DSYNC};
        struct writer plain = {.flags = 0};
        struct writer killed = {.flags = 0};
        unsigned kept;

        assert_int_equal(blocks_after_crash(seed, &synced, SIM_HOST_DIES, &torn), BLOCKS);
        assert_int_equal(blocks_after_crash(seed, &durable, SIM_HOST_DIES, &torn), BLOCKS);
        assert_int_equal(blocks_after_crash(seed, &killed, SIM_PROCESS_DIES, &torn), BLOCKS);
        kept = blocks_after_crash(seed, &plain, SIM_HOST_DIES, &torn);
        kept_some += kept > 0;
        lost_some += kept < BLOCKS;
        torn_some += torn > 0;
    }
    assert_in_range(kept_some, 20, 40);
    assert_in_range(lost_some, 20, 40);
    assert_in_range(torn_some, 5, 40);
}

struct late_write {
    struct io_file *file;
    bool write_done, sync_done;
};

static void write_late(void *arg)
{
    struct late_write *late = arg;
    uint8_t block[BLOCK_SIZE];

    fill(block, 1);
    assert_int_equal(co_io_write(late->file, block, sizeof(block), 0, 0), 0);
    assert_false(late->sync_done);
    late->write_done = true;
}

static void sync_meanwhile(struct io *io, void *arg)
{
    struct late_write *late = arg;

    late->file = must_open(io, 0);
    assert_int_equal(co_spawn(io, "write", write_late, late), 0);
    co_yield (); /* the write is in flight */
    assert_int_equal(co_io_sync(late->file), 0);
    late->sync_done = true;
    io_file_close(late->file);
}

/* A checkpoint that syncs before its writes have ended has synced nothing. */
static void sync_covers_only_what_had_ended(void **state)
{
    unsigned lost = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct sim_options options = sim_default_options(seed);
        struct late_write late = {0};
        cleanup(sim_freep) struct sim *sim = NULL;

        options.disk_sync_ns_min = options.disk_write_ns_max; /* so the write ends first */
        assert_int_equal(sim_new(&options, &sim), 0);
        assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
        assert_int_equal(sim_start(sim, 1, sync_meanwhile, &late), 0);
        assert_true(sim_run(sim, SEC, is_set, &late.sync_done));
        assert_true(late.write_done);
        sim_crash(sim, 1, SIM_HOST_DIES);
        lost += stamp_of(sim, 0) != 1;
    }
    assert_in_range(lost, 5, 19);
}

static void overwrite(struct io *io, void *arg)
{
    cleanup(io_file_closep) struct io_file *file = must_open(io, 0);
    bool *done = arg;
    uint8_t block[BLOCK_SIZE];

    fill(block, 1);
    assert_int_equal(co_io_write(file, block, sizeof(block), 0, 0), 0);
    fill(block, 2);
    assert_int_equal(co_io_write(file, block, sizeof(block), 0, IO_WRITE_DSYNC), 0);
    *done = true;
}

/* A cache that keeps an old write and forgets a newer durable one would be no disk at all. */
static void durable_write_survives_an_older_volatile_one(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        cleanup(sim_freep) struct sim *sim = new_sim(seed);
        bool done = false;

        assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
        assert_int_equal(sim_start(sim, 1, overwrite, &done), 0);
        assert_true(sim_run(sim, SEC, is_set, &done));
        sim_crash(sim, 1, SIM_HOST_DIES);
        assert_int_equal(stamp_of(sim, 0), 2);
    }
}

static void overwrite_durable(struct io *io, void *arg)
{
    cleanup(io_file_closep) struct io_file *file = must_open(io, 0);
    bool *done = arg;
    uint8_t block[BLOCK_SIZE];

    fill(block, 1);
    assert_int_equal(co_io_write(file, block, sizeof(block), 0, IO_WRITE_DSYNC), 0);
    fill(block, 2);
    assert_int_equal(co_io_write(file, block, sizeof(block), 0, 0), 0);
    *done = true;
}

/* Each sector holds the durable version or the one after it. */
static void lost_overwrite_leaves_the_durable_version(void **state)
{
    unsigned seen[3] = {0};

    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        cleanup(sim_freep) struct sim *sim = new_sim(seed);
        uint64_t stamps[BLOCK_SIZE / 8];
        bool done = false;

        assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
        assert_int_equal(sim_start(sim, 1, overwrite_durable, &done), 0);
        assert_true(sim_run(sim, SEC, is_set, &done));
        sim_crash(sim, 1, SIM_HOST_DIES);
        assert_int_equal(sim_disk_peek(sim, 1, DISK, 0, stamps, sizeof(stamps)), 0);
        for (size_t i = 0; i < ARRAY_SIZE(stamps); i++) {
            assert_in_range(stamps[i], 1, 2);
            seen[stamps[i]]++;
        }
    }
    assert_true(seen[1] > 0);
    assert_true(seen[2] > 0);
}

/* The tool of every "power cut at every nth write" test: earlier writes are there, later ones are
 * not. */
static void crash_at_nth_write_is_in_the_middle_of_it(void **state)
{
    unsigned outcomes[3] = {0}; /* of the nth write: lost, whole, torn */

    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        cleanup(sim_freep) struct sim *sim = new_sim(seed);
        struct writer writer = {.sim = sim, .flags = IO_WRITE_DSYNC};
        uint64_t nth = seed % BLOCKS + 1, stamp;

        assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
        assert_int_equal(sim_start(sim, 1, write_blocks, &writer), 0);
        sim_crash_at_write(sim, 1, nth);
        assert_false(sim_run(sim, SEC, is_set, &writer.done));
        assert_false(sim_is_up(sim, 1));
        assert_int_equal(sim_write_count(sim, 1), nth);
        for (uint64_t i = 0; i + 1 < nth; i++)
            assert_int_equal(stamp_of(sim, i), i + 1);
        stamp = stamp_of(sim, nth - 1);
        assert_true(stamp == 0 || stamp == nth || stamp == UINT64_MAX);
        outcomes[stamp == 0 ? 0 : stamp == nth ? 1 : 2]++;
        for (uint64_t i = nth; i < BLOCKS; i++)
            assert_int_equal(stamp_of(sim, i), 0);
    }
    for (int i = 0; i < 3; i++)
        assert_true(outcomes[i] > 0);
}

static void write_forever(struct io *io, void *arg)
{
    cleanup(io_file_closep) struct io_file *file = must_open(io, IO_OPEN_LOCK);
    uint8_t block[BLOCK_SIZE];
    uint64_t *writes = arg;

    for (uint64_t i = 0;; i++) {
        fill(block, i + 1);
        if (co_io_write(file, block, sizeof(block), i * BLOCK_SIZE, IO_WRITE_DSYNC) < 0)
            return;
        *writes = i + 1;
    }
}

struct reopener {
    int first_result;
    bool done;
};

static void reopen(struct io *io, void *arg)
{
    cleanup(io_file_closep) struct io_file *file = NULL;
    struct reopener *reopener = arg;
    int r;

    reopener->first_result = co_io_open(io, DISK, IO_OPEN_LOCK, &file);
    r = reopener->first_result;
    while (r == -EBUSY) {
        assert_int_equal(co_sleep_ns(MS), 0);
        r = co_io_open(io, DISK, IO_OPEN_LOCK, &file);
    }
    assert_int_equal(r, 0);
    reopener->done = true;
}

/* A killed process's writes land after it is gone; its successor must wait for the lock. */
static void lock_outlives_a_killed_process(void **state)
{
    unsigned refused = 0, landed = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        cleanup(sim_freep) struct sim *sim = new_sim(seed);
        struct reopener reopener = {0};
        uint64_t writes = 0;

        assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
        sim_disk_set_slowdown(sim, 1, DISK, 30);
        assert_int_equal(sim_start(sim, 1, write_forever, &writes), 0);
        sim_run(sim, 50 * MS + seed * 100 * US, NULL, NULL);
        sim_crash(sim, 1, SIM_PROCESS_DIES);
        assert_int_equal(stamp_of(sim, writes), 0); /* the one in flight */

        assert_int_equal(sim_start(sim, 1, reopen, &reopener), 0);
        assert_true(sim_run(sim, SEC, is_set, &reopener.done));
        refused += reopener.first_result == -EBUSY;
        landed += stamp_of(sim, writes) == writes + 1;
        sim_crash(sim, 1, SIM_PROCESS_DIES);
    }
    assert_true(refused > 0);
    assert_int_equal(landed, 30);
}

struct hung_op {
    struct io_file *file;
    bool is_read, done;
    int result;
};

static void hung_op_main(void *arg)
{
    struct hung_op *op = arg;
    uint8_t block[BLOCK_SIZE];

    fill(block, 7);
    if (op->is_read)
        op->result = co_io_read(op->file, block, sizeof(block), 0);
    else
        op->result = co_io_write(op->file, block, sizeof(block), 0, 0);
    op->done = true;
}

struct hung {
    struct hung_op read, write;
    bool sync_done;
};

static void hung_main(struct io *io, void *arg)
{
    struct hung *hung = arg;
    struct io_file *file = must_open(io, IO_OPEN_LOCK);
    struct co_group group;

    co_group_init(&group);
    hung->read = (struct hung_op){.file = file, .is_read = true};
    hung->write = (struct hung_op){.file = file};
    assert_int_equal(co_group_spawn(&group, io, "read", hung_op_main, &hung->read), 0);
    assert_int_equal(co_group_spawn(&group, io, "write", hung_op_main, &hung->write), 0);
    hung->sync_done = co_io_sync(file) == 0;
    co_group_wait(&group);
    io_file_close(file);
}

/* What hangs has no effect and no end until it is let go, each kind by itself. */
static void hung_disk_answers_when_it_is_let_go(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(5);
    struct hung hung = {0};

    (void)state;
    assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
    sim_disk_hang(sim, 1, DISK, SIM_HANG_READS | SIM_HANG_WRITES);
    assert_int_equal(sim_start(sim, 1, hung_main, &hung), 0);
    sim_run(sim, 10 * SEC, NULL, NULL);
    assert_true(hung.sync_done);
    assert_false(hung.read.done);
    assert_false(hung.write.done);
    assert_int_equal(stamp_of(sim, 0), 0);

    sim_disk_hang(sim, 1, DISK, SIM_HANG_READS);
    sim_run(sim, 11 * SEC, NULL, NULL);
    assert_true(hung.write.done);
    assert_int_equal(hung.write.result, 0);
    assert_int_equal(stamp_of(sim, 0), 7);
    assert_false(hung.read.done);

    sim_disk_hang(sim, 1, DISK, 0);
    sim_run(sim, 12 * SEC, NULL, NULL);
    assert_true(hung.read.done);
    assert_int_equal(hung.read.result, 0);
}

/* As a device does that its kernel waits for: the lock stays, and the write may come late. */
static void hung_write_outlives_a_killed_process(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(6);
    struct reopener reopener = {0};
    struct hung hung = {0};

    (void)state;
    assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
    sim_disk_hang(sim, 1, DISK, SIM_HANG_ALL);
    assert_int_equal(sim_start(sim, 1, hung_main, &hung), 0);
    sim_run(sim, SEC, NULL, NULL);
    sim_crash(sim, 1, SIM_PROCESS_DIES);
    assert_int_equal(hung.read.result, -ECANCELED);
    assert_int_equal(hung.write.result, -ECANCELED);

    assert_int_equal(sim_start(sim, 1, reopen, &reopener), 0);
    sim_run(sim, 5 * SEC, NULL, NULL);
    assert_int_equal(reopener.first_result, -EBUSY);
    assert_false(reopener.done);
    assert_int_equal(stamp_of(sim, 0), 0);
    sim_disk_hang(sim, 1, DISK, 0);
    assert_true(sim_run(sim, 6 * SEC, is_set, &reopener.done));
    assert_int_equal(stamp_of(sim, 0), 7);
    sim_crash(sim, 1, SIM_HOST_DIES);
}

struct hung_job {
    struct sim *sim;
    bool ran;
    uint64_t ran_ns, ended_ns;
};

static void note_run(void *arg)
{
    struct hung_job *job = arg;

    job->ran = true;
    job->ran_ns = sim_now_ns(job->sim);
}

static void offload_one(struct io *io, void *arg)
{
    struct hung_job *job = arg;

    co_offload(io, note_run, job);
    job->ended_ns = sim_now_ns(job->sim);
}

/* Returns whether it had run when its process died, 2 s before it would have ended. */
static bool hung_job_runs(uint64_t seed)
{
    cleanup(sim_freep) struct sim *sim = new_sim(seed);
    struct hung_job job = {.sim = sim}, killed = {.sim = sim};
    bool had_run;

    sim_hang_jobs(sim, 1, 3 * SEC);
    assert_int_equal(sim_start(sim, 1, offload_one, &job), 0);
    sim_run(sim, 2 * SEC, NULL, NULL);
    assert_true(!job.ran || job.ran_ns == 0);
    assert_int_equal(job.ended_ns, 0);
    sim_run(sim, 4 * SEC, NULL, NULL);
    assert_true(job.ran);
    assert_true(job.ran_ns == 0 || job.ran_ns == job.ended_ns);
    assert_in_range(job.ended_ns, 3 * SEC, 3 * SEC + 10 * MS);
    sim_crash(sim, 1, SIM_PROCESS_DIES);

    sim_hang_jobs(sim, 1, 9 * SEC);
    assert_int_equal(sim_start(sim, 1, offload_one, &killed), 0);
    sim_run(sim, 7 * SEC, NULL, NULL);
    had_run = killed.ran;
    sim_crash(sim, 1, SIM_PROCESS_DIES);
    assert_true(killed.ran);
    assert_int_equal(killed.ran_ns, had_run ? 4 * SEC : 7 * SEC);
    return had_run;
}

/* A job runs when its time begins, or when it ends or its process dies: what it writes to something
 * that hangs may be there after a crash, or not. */
static void hung_job_runs_at_either_end(void **state)
{
    unsigned had_run = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++)
        had_run += hung_job_runs(seed);
    assert_in_range(had_run, 1, 19);
}

static void meet_faults(struct io *io, void *arg)
{
    cleanup(io_file_closep) struct io_file *file = must_open(io, 0);
    static uint8_t block[BLOCK_SIZE] __attribute__((aligned(BLOCK_SIZE)));
    cleanup(io_file_closep) struct io_file *direct = must_open(io, IO_OPEN_DIRECT);
    struct writer *writer = arg;
    struct sim *sim = writer->sim;

    fill(block, 1);
    sim_disk_set_fault(sim, 1, DISK, SIM_DISK_WRITE_ERRORS);
    assert_int_equal(co_io_write(file, block, sizeof(block), 0, 0), -EIO);
    assert_int_equal(co_io_sync(file), -EIO);
    assert_int_equal(co_io_read(file, block, sizeof(block), 0), 0);
    assert_int_equal(block[0], 0);
    sim_disk_set_fault(sim, 1, DISK, SIM_DISK_READ_ERRORS);
    assert_int_equal(co_io_write(file, block, sizeof(block), 0, 0), 0);
    assert_int_equal(co_io_read(file, block, sizeof(block), 0), -EIO);
    sim_disk_set_fault(sim, 1, DISK, SIM_DISK_OK);

    assert_int_equal(co_io_read(file, block, sizeof(block), DISK_BYTES - 512), -EIO);
    assert_int_equal(co_io_read(direct, block, 512, 0), -EINVAL);
    assert_int_equal(co_io_read(direct, block + 512, 512, 0), -EINVAL);
    assert_int_equal(co_io_read(direct, block, sizeof(block), BLOCK_SIZE), 0);
    writer->done = true;
}

static void faults_and_misuse_are_errors(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(1);
    struct writer writer = {.sim = sim};

    (void)state;
    assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
    assert_int_equal(sim_start(sim, 1, meet_faults, &writer), 0);
    assert_true(sim_run(sim, SEC, is_set, &writer.done));
}

static void shrink_and_grow(struct io *io, void *arg)
{
    struct io_file *file = must_open(io, 0);
    uint8_t block[BLOCK_SIZE];

    fill(block, 1);
    assert_int_equal(co_io_write(file, block, sizeof(block), 3 * BLOCK_SIZE, 0), 0);
    assert_int_equal(co_io_write(file, block, sizeof(block), 5 * BLOCK_SIZE, 0), 0);
    assert_int_equal(co_io_discard(file, 3 * BLOCK_SIZE, BLOCK_SIZE), 0);
    assert_int_equal(co_io_read(file, block, sizeof(block), 3 * BLOCK_SIZE), 0);
    assert_int_equal(block[0], 0);
    assert_int_equal(co_io_truncate(file, 4 * BLOCK_SIZE), 0);
    assert_int_equal(co_io_read(file, block, sizeof(block), 5 * BLOCK_SIZE), -EIO);
    assert_int_equal(co_io_truncate(file, 8 * BLOCK_SIZE), 0);
    assert_int_equal(io_file_info(file)->size_bytes, 8 * BLOCK_SIZE);
    *(bool *)arg = true;
    io_file_close(file);
    io_stop(io);
}

/* A write behind the new end must not come back with a power cut. */
static void truncated_data_is_gone(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        cleanup(sim_freep) struct sim *sim = new_sim(seed);
        bool done = false;

        assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
        assert_int_equal(sim_start(sim, 1, shrink_and_grow, &done), 0);
        sim_run(sim, SEC, NULL, NULL);
        assert_true(done);
        assert_false(sim_is_up(sim, 1)); /* it stopped */
        sim_crash(sim, 1, SIM_HOST_DIES);
        assert_int_equal(stamp_of(sim, 5), 0);
    }
}

/* ---- network ---- */

#define ADDRESS "10.83.0.1:7800"

struct peers {
    struct sim *sim;
    uint64_t received; /* bytes, at machine 1 */
    int server_result; /* that ended its receiving */
    uint64_t sent;
    int client_result;
    uint64_t pause_ns; /* of the client, between two sends */
    uint64_t send_count;
    bool server_done, client_done;
};

static void sink(struct io *io, void *arg)
{
    cleanup(io_listener_closep) struct io_listener *listener = NULL;
    cleanup(io_stream_closep) struct io_stream *stream = NULL;
    struct peers *peers = arg;
    uint8_t buffer[4096];

    assert_int_equal(io_listen(io, ADDRESS, &listener), 0);
    if (co_io_accept(listener, &stream) < 0)
        return;
    for (;;) {
        int r = co_io_recv(stream, buffer, sizeof(buffer));

        if (r <= 0) {
            peers->server_result = r;
            peers->server_done = true;
            return;
        }
        for (int i = 0; i < r; i++)
            assert_int_equal(buffer[i], (uint8_t)(peers->received + (uint64_t)i));
        peers->received += (uint64_t)r;
    }
}

static void source(struct io *io, void *arg)
{
    cleanup(io_stream_closep) struct io_stream *stream = NULL;
    struct peers *peers = arg;
    uint8_t bytes[1000];
    int r;

    r = co_io_connect(io, ADDRESS, SEC, &stream);
    while (r == 0 && peers->sent < peers->send_count * sizeof(bytes)) {
        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)(peers->sent + i);
        r = co_io_send(stream, bytes, sizeof(bytes));
        if (r == 0)
            peers->sent += sizeof(bytes);
        if (r == 0 && peers->pause_ns)
            r = co_sleep_ns(peers->pause_ns);
    }
    peers->client_result = r;
    peers->client_done = true;
}

static void start_peers(struct sim *sim, struct peers *peers)
{
    peers->sim = sim;
    assert_int_equal(sim_start(sim, 1, sink, peers), 0);
    sim_run(sim, sim_now_ns(sim) + MS, NULL, NULL);
    assert_int_equal(sim_start(sim, 2, source, peers), 0);
}

static void stream_is_in_order_and_ends(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(3);
    struct peers peers = {.send_count = 500};

    (void)state;
    start_peers(sim, &peers);
    assert_true(sim_run(sim, 10 * SEC, is_set, &peers.server_done));
    assert_int_equal(peers.client_result, 0);
    assert_int_equal(peers.server_result, 0);
    assert_int_equal(peers.received, 500 * 1000);
}

/* A partition delays, and nothing is lost when it heals. */
static void cut_waits_and_heals(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(4);
    struct peers peers = {.send_count = 200, .pause_ns = MS};
    uint64_t before;

    (void)state;
    start_peers(sim, &peers);
    sim_run(sim, 50 * MS, NULL, NULL);
    before = peers.received;
    assert_true(before > 0);
    sim_cut(sim, 2, 1);
    sim_run(sim, 150 * MS, NULL, NULL);
    assert_int_equal(peers.received, before);
    assert_true(peers.sent > before + 50000); /* the sender does not notice */
    sim_heal(sim, 2, 1);
    assert_true(sim_run(sim, SEC, is_set, &peers.server_done));
    assert_int_equal(peers.received, 200 * 1000);
    assert_int_equal(peers.server_result, 0);
}

static void window_holds_the_sender(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(4);
    struct peers peers = {.send_count = 5000};

    (void)state;
    start_peers(sim, &peers);
    sim_cut(sim, 2, 1); /* even the SYN */
    sim_run(sim, 100 * MS, NULL, NULL);
    assert_int_equal(peers.sent, 0);
    sim_heal_all(sim);
    sim_run(sim, 101 * MS, NULL, NULL);
    sim_cut(sim, 2, 1);
    sim_run(sim, 300 * MS, NULL, NULL);
    assert_in_range(peers.sent - peers.received, MIB, MIB + 1000);
    sim_heal_all(sim);
    assert_true(sim_run(sim, SEC, is_set, &peers.server_done));
    assert_int_equal(peers.received, 5000 * 1000);
}

static void connect_once(struct io *io, void *arg)
{
    cleanup(io_stream_closep) struct io_stream *stream = NULL;
    struct peers *peers = arg;

    peers->client_result = co_io_connect(io, ADDRESS, 100 * MS, &stream);
    peers->client_done = true;
}

static int connect_result(struct sim *sim)
{
    struct peers peers = {.client_result = 1};

    if (sim_is_up(sim, 2))
        sim_crash(sim, 2, SIM_PROCESS_DIES);
    assert_int_equal(sim_start(sim, 2, connect_once, &peers), 0);
    assert_true(sim_run(sim, sim_now_ns(sim) + SEC, is_set, &peers.client_done));
    sim_crash(sim, 2, SIM_PROCESS_DIES);
    return peers.client_result;
}

/* Detection hangs on it: a refusal proves that a process is gone, silence proves nothing. */
static void refused_is_not_silence(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(5);
    struct peers peers = {0};

    (void)state;
    assert_int_equal(connect_result(sim), -ETIMEDOUT); /* never switched on */
    assert_int_equal(sim_start(sim, 1, sink, &peers), 0);
    sim_run(sim, sim_now_ns(sim) + MS, NULL, NULL);
    assert_int_equal(connect_result(sim), 0);
    sim_cut(sim, 1, 2); /* the answer does not come back */
    assert_int_equal(connect_result(sim), -ETIMEDOUT);
    sim_heal_all(sim);
    sim_crash(sim, 1, SIM_PROCESS_DIES);
    assert_int_equal(connect_result(sim), -ECONNREFUSED);
    sim_crash(sim, 1, SIM_HOST_DIES);
    assert_int_equal(connect_result(sim), -ETIMEDOUT);
}

static void killed_process_ends_its_connections(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(6);
    struct peers peers = {.send_count = 1000, .pause_ns = MS};

    (void)state;
    start_peers(sim, &peers);
    sim_run(sim, 20 * MS, NULL, NULL);
    sim_crash(sim, 1, SIM_PROCESS_DIES);
    assert_int_equal(peers.server_result, -ECANCELED); /* what its own program saw */
    assert_true(sim_run(sim, sim_now_ns(sim) + 10 * MS, is_set, &peers.client_done));
    assert_int_equal(peers.client_result, -ECONNRESET);
}

/* Nothing is heard of a dead host; once it is back it knows nothing of the connection. */
static void dead_host_is_silent_until_it_is_back(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(7);
    struct peers peers = {.send_count = 1000000, .pause_ns = MS};

    (void)state;
    start_peers(sim, &peers);
    sim_run(sim, 20 * MS, NULL, NULL);
    sim_crash(sim, 1, SIM_HOST_DIES);
    assert_false(sim_run(sim, 500 * MS, is_set, &peers.client_done));
    assert_int_equal(sim_start(sim, 1, sink, &peers), 0);
    assert_true(sim_run(sim, 510 * MS, is_set, &peers.client_done));
    assert_int_equal(peers.client_result, -ECONNRESET);
}

static void silent_reader_holds_its_half(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(8);
    struct peers peers = {.send_count = 1000000, .pause_ns = MS};

    (void)state;
    start_peers(sim, &peers);
    sim_run(sim, 20 * MS, NULL, NULL);
    peers.server_result = 1;
    sim_crash(sim, 2, SIM_HOST_DIES);
    sim_run(sim, 100 * SEC, NULL, NULL);
    assert_false(peers.server_done);
    sim_break_connections(sim, 1, 2);
    sim_run(sim, 101 * SEC, NULL, NULL);
    assert_int_equal(peers.server_result, -ECONNRESET);
}

/* ---- machines ---- */

struct ticker {
    struct sim *sim;
    uint64_t ticks, last_ns, longest_ns;
    int result;
};

static void tick(struct io *io, void *arg)
{
    struct ticker *ticker = arg;

    ticker->last_ns = io_now_ns(io);
    while ((ticker->result = co_sleep_ns(10 * MS)) == 0) {
        ticker->longest_ns = MAX(ticker->longest_ns, io_now_ns(io) - ticker->last_ns);
        ticker->last_ns = io_now_ns(io);
        ticker->ticks++;
    }
}

/* A stopped process sees, when it wakes, that time has passed: leases rest on it. */
static void paused_machine_wakes_late(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(9);
    struct ticker ticker = {0};

    (void)state;
    assert_int_equal(sim_start(sim, 1, tick, &ticker), 0);
    sim_run(sim, 105 * MS, NULL, NULL);
    assert_int_equal(ticker.ticks, 10);
    sim_pause(sim, 1);
    sim_run(sim, 5 * SEC, NULL, NULL);
    assert_int_equal(ticker.ticks, 10);
    sim_resume(sim, 1);
    sim_run(sim, 5 * SEC + MS, NULL, NULL);
    assert_int_equal(ticker.ticks, 11);
    assert_int_equal(ticker.longest_ns, 4900 * MS);
}

static void paused_disk_goes_on(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(9);
    uint64_t writes = 0;

    (void)state;
    assert_int_equal(sim_disk_create(sim, 1, DISK, DISK_BYTES), 0);
    assert_int_equal(sim_start(sim, 1, write_forever, &writes), 0);
    sim_run(sim, 20 * MS, NULL, NULL);
    sim_pause(sim, 1);
    sim_run(sim, 30 * MS, NULL, NULL);
    assert_int_equal(stamp_of(sim, writes), writes + 1); /* it does not know yet */
    assert_int_equal(stamp_of(sim, writes + 1), 0);
}

static void clock_rate_is_the_machines_own(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(9);
    struct ticker fast = {0}, slow = {0};

    (void)state;
    assert_int_equal(sim_start(sim, 1, tick, &fast), 0);
    assert_int_equal(sim_start(sim, 2, tick, &slow), 0);
    sim_set_clock_rate(sim, 1, 1.1);
    sim_set_clock_rate(sim, 2, 0.9);
    sim_run(sim, SEC + US, NULL, NULL);
    assert_int_equal(fast.ticks, 110);
    assert_int_equal(slow.ticks, 90);
}

/* A process that is no part of the daemon: what dies with whom, and whose clock it has. */
static void placed_machine_lives_on_its_host(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(9);
    struct ticker daemon = {0}, process = {0};

    (void)state;
    assert_int_equal(sim_start(sim, 1, tick, &daemon), 0);
    sim_place(sim, 2, 1);
    assert_int_equal(sim_start(sim, 2, tick, &process), 0);
    sim_set_clock_rate(sim, 1, 1.1);
    sim_run(sim, SEC + US, NULL, NULL);
    assert_int_equal(process.ticks, 110);
    assert_int_equal(sim_clock_ns(sim, 1), sim_clock_ns(sim, 2));

    sim_crash(sim, 1, SIM_PROCESS_DIES);
    sim_run(sim, 2 * SEC + US, NULL, NULL);
    assert_int_equal(process.ticks, 220);
    assert_int_equal(sim_power_cuts(sim, 1), 0);
    sim_crash(sim, 1, SIM_HOST_DIES);
    assert_int_equal(process.result, -ECANCELED);
    assert_false(sim_is_up(sim, 2));
    assert_int_equal(sim_power_cuts(sim, 1), 1);
}

struct unix_peer {
    int result;
};

static void serve_unix(struct io *io, void *arg)
{
    cleanup(io_listener_closep) struct io_listener *listener = NULL;
    cleanup(io_stream_closep) struct io_stream *stream = NULL;

    (void)arg;
    assert_int_equal(io_listen(io, "unix:/run/socket", &listener), 0);
    (void)!co_io_accept(listener, &stream);
}

static void dial_unix(struct io *io, void *arg)
{
    cleanup(io_stream_closep) struct io_stream *stream = NULL;
    struct unix_peer *peer = arg;

    peer->result = co_io_connect(io, "unix:/run/socket", SEC, &stream);
}

static void unix_sockets_are_the_hosts(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(9);
    struct unix_peer near = {1}, far = {1};

    (void)state;
    assert_int_equal(sim_start(sim, 1, serve_unix, NULL), 0);
    assert_int_equal(sim_start(sim, 3, dial_unix, &far), 0);
    sim_place(sim, 2, 1);
    assert_int_equal(sim_start(sim, 2, dial_unix, &near), 0);
    sim_run(sim, SEC, NULL, NULL);
    assert_int_equal(near.result, 0);
    assert_int_equal(far.result, -ECONNREFUSED);
}

struct unwinding {
    struct co_mutex mutex;
    struct co_cond cond;
    struct co_group group;
    bool told, main_ended;
    unsigned cancelled, offloaded;
};

static void crash_told(void *arg)
{
    struct unwinding *unwinding = arg;

    assert_false(unwinding->main_ended);
    unwinding->told = true;
}

static void hold_mutex_and_sleep(void *arg)
{
    struct unwinding *unwinding = arg;

    co_mutex_lock(&unwinding->mutex);
    unwinding->cancelled += co_sleep_ns(1000 * SEC) == -ECANCELED;
    co_mutex_unlock(&unwinding->mutex);
}

static void wait_for_cond(void *arg)
{
    struct unwinding *unwinding = arg;

    unwinding->cancelled += co_cond_wait(&unwinding->cond) == -ECANCELED;
}

static void listen_on(void *arg)
{
    struct unwinding *unwinding = arg;
    cleanup(io_listener_closep) struct io_listener *listener = NULL;
    struct io_stream *stream;

    assert_int_equal(io_listen(co_io(co_self()), "unix:/run/s", &listener), 0);
    unwinding->cancelled += co_io_accept(listener, &stream) == -ECANCELED;
}

static void talk_to_nobody(void *arg)
{
    struct unwinding *unwinding = arg;
    struct io_stream *stream;

    unwinding->cancelled +=
        co_io_connect(co_io(co_self()), "10.83.0.9:1", 1000 * SEC, &stream) == -ECANCELED;
}

/* Waits for a callback, which nothing can cancel: its timer has to come. */
static void wake_me(void *co)
{
    co_wake(co);
}

static void wait_for_timer(void *arg)
{
    struct unwinding *unwinding = arg;
    struct io *io = co_io(co_self());
    struct io_timer timer;

    io_timer_init(&timer, wake_me, co_self());
    io_timer_arm(io, &timer, io_now_ns(io) + 2000 * SEC);
    co_wait();
    unwinding->cancelled += co_cancelled();
}

static void count_offload(void *arg)
{
    ((struct unwinding *)arg)->offloaded++;
}

static void unwind_main(struct io *io, void *arg)
{
    static co_fn *const fns[] = {hold_mutex_and_sleep, hold_mutex_and_sleep,
                                 wait_for_cond,        listen_on,
                                 talk_to_nobody,       wait_for_timer};
    struct unwinding *unwinding = arg;
    struct io_file *file;

    co_mutex_init(&unwinding->mutex);
    co_cond_init(&unwinding->cond);
    co_group_init(&unwinding->group);
    for (size_t i = 0; i < ARRAY_SIZE(fns); i++)
        assert_int_equal(co_group_spawn(&unwinding->group, io, "waiter", fns[i], arg), 0);
    co_group_wait(&unwinding->group);
    assert_true(sim_is_dying(io));
    assert_int_equal(co_io_open(io, DISK, IO_OPEN_CREATE, &file), -ECANCELED);
    assert_int_equal(io_listen(io, "10.83.0.1:1", &(struct io_listener *){NULL}), -ECANCELED);
    co_offload(io, count_offload, unwinding);
    unwinding->main_ended = true;
}

/* A crash takes a program apart through its own cleanups: a leak there is a leak in the daemon. */
static void crash_unwinds_every_coroutine(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(10);
    struct unwinding unwinding = {0};

    (void)state;
    assert_int_equal(sim_start(sim, 1, unwind_main, &unwinding), 0);
    sim_on_crash(sim, 1, crash_told, &unwinding);
    sim_run(sim, SEC, NULL, NULL);
    assert_int_equal(unwinding.cancelled, 0);
    sim_crash(sim, 1, SIM_HOST_DIES);
    assert_true(unwinding.told);
    assert_true(unwinding.main_ended);
    assert_int_equal(unwinding.cancelled, 6);
    assert_int_equal(unwinding.offloaded, 1);
    assert_int_equal(sim_now_ns(sim), SEC); /* for the others no time has passed */
}

struct plan {
    struct sim *sim;
    struct ticker ticker;
};

static void plan_crash(void *arg)
{
    struct plan *plan = arg;

    sim_crash(plan->sim, 1, SIM_HOST_DIES);
}

static void plan_restart(void *arg)
{
    struct plan *plan = arg;

    assert_int_equal(sim_start(plan->sim, 1, tick, &plan->ticker), 0);
}

static void planned_calls_come_on_time(void **state)
{
    cleanup(sim_freep) struct sim *sim = new_sim(11);
    struct plan plan = {.sim = sim};

    (void)state;
    assert_int_equal(sim_start(sim, 1, tick, &plan.ticker), 0);
    assert_int_equal(sim_call_at(sim, 105 * MS, plan_crash, &plan), 0);
    assert_int_equal(sim_call_at(sim, 200 * MS, plan_restart, &plan), 0);
    assert_int_equal(sim_call_at(sim, 900 * SEC, plan_restart, &plan), 0); /* left over is fine */
    sim_run(sim, 150 * MS, NULL, NULL);
    assert_false(sim_is_up(sim, 1));
    assert_null(sim_io(sim, 1));
    assert_int_equal(plan.ticker.ticks, 10);
    sim_run(sim, 255 * MS, NULL, NULL);
    assert_int_equal(plan.ticker.ticks, 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_seed_same_transcript),
        cmocka_unit_test(transcript_only_looks),
        cmocka_unit_test(crash_loses_only_what_was_not_durable),
        cmocka_unit_test(sync_covers_only_what_had_ended),
        cmocka_unit_test(durable_write_survives_an_older_volatile_one),
        cmocka_unit_test(lost_overwrite_leaves_the_durable_version),
        cmocka_unit_test(crash_at_nth_write_is_in_the_middle_of_it),
        cmocka_unit_test(lock_outlives_a_killed_process),
        cmocka_unit_test(hung_disk_answers_when_it_is_let_go),
        cmocka_unit_test(hung_write_outlives_a_killed_process),
        cmocka_unit_test(hung_job_runs_at_either_end),
        cmocka_unit_test(faults_and_misuse_are_errors),
        cmocka_unit_test(truncated_data_is_gone),
        cmocka_unit_test(stream_is_in_order_and_ends),
        cmocka_unit_test(cut_waits_and_heals),
        cmocka_unit_test(window_holds_the_sender),
        cmocka_unit_test(refused_is_not_silence),
        cmocka_unit_test(killed_process_ends_its_connections),
        cmocka_unit_test(dead_host_is_silent_until_it_is_back),
        cmocka_unit_test(silent_reader_holds_its_half),
        cmocka_unit_test(paused_machine_wakes_late),
        cmocka_unit_test(paused_disk_goes_on),
        cmocka_unit_test(clock_rate_is_the_machines_own),
        cmocka_unit_test(placed_machine_lives_on_its_host),
        cmocka_unit_test(unix_sockets_are_the_hosts),
        cmocka_unit_test(crash_unwinds_every_coroutine),
        cmocka_unit_test(planned_calls_come_on_time),
    };

    setenv("CMOCKA_TEST_ABORT", "1", 1); /* it could not jump out of a coroutine */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
