/* sim_world: what the parts of the simulator share. Only sim*.c include it. */
#ifndef S2D_BASE_SIM_WORLD_H
#define S2D_BASE_SIM_WORLD_H

#include <stdio.h>

#include "s2d/base/io_backend.h"
#include "s2d/base/log.h"
#include "s2d/base/sim.h"

/* ---- randomness: a stream for each purpose, so that one more draw here does not change what
 * happens there ---- */

struct sim_rng {
    uint64_t state;
};
void sim_rng_init(struct sim_rng *rng, uint64_t seed, uint64_t stream);
uint64_t sim_rng_next(struct sim_rng *rng);
uint64_t sim_rng_between(struct sim_rng *rng, uint64_t min,
                         uint64_t max); /* [min, max); min if empty */
bool sim_rng_chance(struct sim_rng *rng, unsigned percent);

/* ---- events: what happens at a time, in order of time and then of scheduling ---- */

struct sim_event {
    uint64_t at_ns, order;
    size_t heap_index; /* 0: not scheduled */
    io_callback *fire;
    void *arg;
};
void sim_event_init(struct sim_event *event, io_callback *fire, void *arg);
void sim_event_schedule(struct sim *sim, struct sim_event *event,
                        uint64_t at_ns);                         /* moves it too */
void sim_event_cancel(struct sim *sim, struct sim_event *event); /* scheduled or not */

/* ---- the transcript ---- */

enum sim_record {
    RECORD_START,
    RECORD_EXIT,
    RECORD_CRASH,
    RECORD_PAUSE,
    RECORD_RESUME,
    RECORD_CLOCK_RATE,
    RECORD_TURN,
    RECORD_CALL,
    RECORD_OPEN,
    RECORD_READ,
    RECORD_WRITE,
    RECORD_SYNC,
    RECORD_DISCARD,
    RECORD_TRUNCATE,
    RECORD_DISK_FAULT,
    RECORD_LOST,
    RECORD_TORN,
    RECORD_CONNECT,
    RECORD_SEND,
    RECORD_ARRIVE,
    RECORD_END,
    RECORD_RESET,
    RECORD_SPOILED,
    RECORD_LINK,
    RECORD_CUT,
    RECORD_HEAL,
    RECORD_HANG,
    RECORD_JOBS_HANG,
};
/* machine 0: the world. What a and b are is said where the names stand (sim_transcript.c). */
void sim_note(struct sim *sim, enum sim_record what, unsigned machine, uint64_t a, uint64_t b);

/* The `write` of a machine's log: its daemon's lines stand in the transcript. */
void sim_transcript_log(struct log_sink *sink, enum log_level level, const char *line);

struct sim_last_record { /* for the report of a failure */
    uint64_t at_ns, a, b;
    enum sim_record what;
    unsigned machine;
};
#define SIM_LAST_RECORDS 48

/* ---- machines ---- */

struct machine {
    struct io io; /* first: the loop of the running program */
    struct sim *sim;
    unsigned number;
    struct machine *host; /* whose power and clock it shares; NULL: its own (sim_place()) */
    unsigned life;        /* how often it was started */
    unsigned power_cuts;

    bool up;      /* a program runs */
    bool powered; /* its kernel answers: stays when only the process dies */
    bool paused;
    bool dying; /* inside sim_crash() */

    struct sim_rng rng; /* io_random() */
    uint64_t clock_base_ns, clock_base_world_ns, clock_rate_ppm;
    uint64_t clock_jump_ns; /* a dying program's timers run ahead of the world */

    void (*main_fn)(struct io *io, void *arg);
    void *main_arg;
    io_callback *on_crash;
    void *on_crash_arg;

    struct list completions; /* struct io_op that the next turn hands back; result in extra[0] */
    struct list posted;      /* struct io_task */
    struct list sleepers;    /* coroutines in sim_co_pause() */
    uint64_t jobs_hang_until_ns;
    uint64_t in_job_at; /* jobs to go; 0: none is waited for */
    io_callback *in_job;
    void *in_job_arg;

    struct list inodes; /* the disk survives the program */
    struct list open_files;
    struct list disk_ops;
    uint64_t write_count, crash_at_write;
    struct sim_event crash_event;

    struct list listeners;
    struct list streams;
    uint64_t egress_free_ns; /* when its network card has sent what it was given */
    uint16_t last_port;

    struct log_sink log;
    char log_name[16];
};

struct sim {
    struct sim_options options;
    uint64_t now_ns;
    struct sim_rng test_rng, world_rng, disk_rng, net_rng, job_rng;

    struct sim_event **heap; /* from 1 */
    size_t heap_count, heap_size;
    uint64_t event_order;

    struct machine *machines[SIM_MACHINES_MAX + 1]; /* by number; NULL: never named */
    unsigned machine_end;                           /* no higher number was named */
    struct machine *running;                        /* whose code runs now */

    struct list calls;       /* sim_call_at() */
    struct list connections; /* in the order in which they were made */
    bool cut[SIM_MACHINES_MAX + 1][SIM_MACHINES_MAX + 1];
    struct sim_link {
        uint64_t delay_ns;
        unsigned loss_percent;
    } links[SIM_MACHINES_MAX + 1][SIM_MACHINES_MAX + 1];

    uint64_t transcript_hash;
    struct sim_last_record last_records[SIM_LAST_RECORDS]; /* a ring */
    uint64_t record_count;
    FILE *transcript;
};

struct machine *sim_machine(struct sim *sim, unsigned number); /* makes it if need be */
static inline struct machine *machine_of_io(struct io *io)
{
    return container_of(io, struct machine, io);
}

static inline bool machines_share_host(const struct machine *a, const struct machine *b)
{
    return (a->host ?: a) == (b->host ?: b);
}

void *sim_alloc(size_t bytes); /* zeros; a test without memory has nothing to test */
uint64_t machine_clock_ns(const struct machine *machine);
/* The first world time at which the machine's clock shows at least clock_ns. */
uint64_t machine_world_ns(const struct machine *machine, uint64_t clock_ns);
bool machine_has_work(const struct machine *machine);
void machine_turn(struct machine *machine);
/* Hands op back in the machine's next turn. Never calls op->done() itself. */
void machine_complete(struct machine *machine, struct io_op *op, int result);
/* Suspends the running coroutine. Returns 0, or -ECANCELED: the machine died. Not cancellable
 * otherwise. */
must_check int sim_co_pause(struct machine *machine, uint64_t duration_ns);

/* ---- the parts' faces to sim.c and sim_machine.c ---- */

void sim_disk_init(struct machine *machine);
void sim_disk_free(struct machine *machine);
/* Settles what was in flight and cancels the program's operations. */
void sim_disk_crash(struct machine *machine, enum sim_crash_kind kind);
size_t sim_disk_count_open(struct machine *machine); /* and says on stderr which */

int sim_co_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file);
void sim_file_close(struct io_file *file);
void sim_file_readv(struct io_file *file, struct io_op *op, const struct iovec *iov, int iov_count,
                    uint64_t offset);
void sim_file_writev(struct io_file *file, struct io_op *op, const struct iovec *iov, int iov_count,
                     uint64_t offset, unsigned flags);
void sim_file_sync(struct io_file *file, struct io_op *op);
void sim_file_discard(struct io_file *file, struct io_op *op, uint64_t offset, uint64_t length);
int sim_co_truncate(struct io_file *file, uint64_t size_bytes);

void sim_net_init(struct machine *machine);
void sim_net_crash(struct machine *machine, enum sim_crash_kind kind);
void sim_net_powered(struct machine *machine); /* what waited for it to answer may go on */
void sim_net_free(struct sim *sim);
size_t sim_net_count_open(struct machine *machine);

int sim_listen(struct io *io, const char *address, struct io_listener **ret_listener);
int sim_co_accept(struct io_listener *listener, struct io_stream **ret_stream);
void sim_listener_shutdown(struct io_listener *listener);
void sim_listener_close(struct io_listener *listener);
int sim_co_connect(struct io *io, const char *address, uint64_t timeout_ns,
                   struct io_stream **ret_stream);
void sim_stream_recv(struct io_stream *stream, struct io_op *op, void *buffer, size_t length);
void sim_stream_sendv(struct io_stream *stream, struct io_op *op, struct iovec *iov, int iov_count);
void sim_stream_shutdown(struct io_stream *stream);
void sim_stream_close(struct io_stream *stream);

#endif
