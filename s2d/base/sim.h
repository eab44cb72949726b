/* sim: the simulator backend of the loop. A struct sim is a world of machines: virtual time, disks
 * that lose what was not synced, an in-process network, and one seed from which every random choice
 * comes: the same seed gives the same run. Each machine has a loop (struct io) of its own, so that
 * it can crash, stand still or have a clock that runs fast.
 *
 * One thread. sim_run() steps from event to event; nothing else moves time. The calls below are for
 * the test, between steps: from outside of sim_run(), from its done(), or from sim_call_at(); never
 * from code that runs on a machine, but for sim_on_crash(), sim_call_at(), sim_is_dying() and what
 * only asks.
 *
 * What a program sees: io_now_ns() counts from a random start at each power-on of its machine, as
 * CLOCK_BOOTTIME does (never compare it with another machine's or with sim_now_ns()); a stream's
 * data arrives in pieces of any size; operations on a disk overtake each other; a job of
 * co_offload() takes time, and runs when that begins or when it ends, so that a crash meanwhile
 * finds it done or not; io_stop() ends the machine's program; co_io_poll() is -ENOSYS. */
#ifndef S2D_BASE_SIM_H
#define S2D_BASE_SIM_H

#include "s2d/base/io.h"

struct sim;

#define SIM_MACHINES_MAX 64

struct sim_options {
    uint64_t seed;
    /* latencies are drawn from [min, max); bandwidth 0: unlimited */
    uint64_t net_latency_ns_min, net_latency_ns_max;
    uint64_t net_bytes_per_second; /* that a machine can send */
    uint64_t net_window_bytes;     /* sent and not yet received; what is more waits in the sender */
    uint64_t disk_read_ns_min, disk_read_ns_max;
    uint64_t disk_write_ns_min, disk_write_ns_max;
    uint64_t disk_sync_ns_min, disk_sync_ns_max;
    uint64_t offload_ns_min, offload_ns_max; /* co_offload(); opening files */
    bool torn_writes; /* a crash in the middle of a write leaves any subset of its 512-byte sectors
                       */
};

struct sim_options sim_default_options(uint64_t seed);
must_check int sim_new(const struct sim_options *options, struct sim **ret_sim);
void sim_free(struct sim *sim); /* crashes what is up first: programs must unwind */
DEFINE_CLEANUP(struct sim, sim_free)

uint64_t sim_now_ns(const struct sim *sim);
uint64_t sim_random(struct sim *sim); /* a stream of its own, for tests and fault plans */

/* Runs until virtual time deadline_ns, or until done(arg) is true (asked after every event; NULL:
 * never), or until nothing can happen any more. Returns true when done(arg) was. */
bool sim_run(struct sim *sim, uint64_t deadline_ns, bool (*done)(void *arg), void *arg);

/* Calls fn(arg) at that time, for plans of faults. Returns 0 or -ENOMEM. */
must_check int sim_call_at(struct sim *sim, uint64_t at_ns, io_callback *fn, void *arg);

/* The hash of everything that happened so far, for "same seed, same transcript". */
uint64_t sim_transcript_hash(const struct sim *sim);
/* Every event is also printed to file, and so are the log lines of machines that were given no
 * other sink (NULL: off). */
void sim_set_transcript(struct sim *sim, void *stdio_file);

/* Prints the last events, for the report of a failure. */
void sim_print_last(const struct sim *sim, void *stdio_file);

/* ---- machines: numbered from 1, with the network address "10.83.0.<number>" ---- */

/* Powers a machine on. Its files and disks are as a crash left them. main_fn(io, arg) is its first
 * coroutine. A program that has called io_stop() ends with that turn, leaving nothing open or
 * pending; then the machine may be started again.
 * Returns 0, -EBUSY (it is up), -EINVAL (number), -ENOMEM. */
must_check int sim_start(struct sim *sim, unsigned machine,
                         void (*main_fn)(struct io *io, void *arg), void *arg);
struct io *sim_io(struct sim *sim, unsigned machine); /* NULL while it is down */
bool sim_is_up(const struct sim *sim, unsigned machine);

/* From its next start on this machine is a further process on `host`, which has power and is none
 * itself: it shares the host's power, clock and Unix addresses, and is reached by no other. It
 * lives on when the host's program dies, and dies with the host. It is down. */
void sim_place(struct sim *sim, unsigned machine, unsigned host);
/* What the machine's clock shows, whether a program runs there or not. */
uint64_t sim_clock_ns(const struct sim *sim, unsigned machine);
/* How often its power was cut. */
unsigned sim_power_cuts(const struct sim *sim, unsigned machine);

/* Ends a machine's program at once.
 * SIM_HOST_DIES: power is cut. Completed writes that were not durable are kept or lost at random,
 * and so are those in flight, wholly or (torn_writes) in part. The others hear nothing any more:
 * what they send waits, connecting times out; once the machine is back, an old connection is reset
 * when something is sent to it. SIM_PROCESS_DIES: SIGKILL. Completed writes stay in the page cache;
 * those in flight land a little later, and until then IO_OPEN_LOCK gives -EBUSY. Connections end or
 * are reset; connecting is refused. Every pending operation, and each later one, returns -ECANCELED
 * and has no (other) effect; all coroutines are cancelled; when nothing else can go on, the dying
 * program's timers fire ahead of time. sim_crash() returns when the last coroutine has ended. A
 * program that does not unwind, or leaves a file, stream, listener, timer or task behind, trips an
 * assertion that names it. */
enum sim_crash_kind { SIM_PROCESS_DIES, SIM_HOST_DIES };
void sim_crash(struct sim *sim, unsigned machine, enum sim_crash_kind kind);
/* What the program of the machine is told at sim_crash() before its operations are cancelled:
 * called once, then forgotten. For what no coroutine owns. A program may set it for itself. */
void sim_on_crash(struct sim *sim, unsigned machine, io_callback *fn, void *arg);
/* True inside sim_crash() of io's machine. A twin of something that keeps data elsewhere than in
 * io.h's files must not keep anything more (the database's: kv_disk_freeze()). */
bool sim_is_dying(struct io *io);

void sim_pause(struct sim *sim, unsigned machine); /* as SIGSTOP: time goes on without it */
void sim_resume(struct sim *sim, unsigned machine);
void sim_set_clock_rate(struct sim *sim, unsigned machine, double rate); /* 1.0: true */
/* Jobs of co_offload() that begin before until_ns end then, or when the machine's program dies:
 * whatever they write to hangs. A time that is over: no more begin so. */
void sim_hang_jobs(struct sim *sim, unsigned machine, uint64_t until_ns);

/* Calls fn(arg) once, soon after the nth job of co_offload() from now has begun there: it may be
 * under way still. 0: never. */
void sim_in_job(struct sim *sim, unsigned machine, uint64_t nth, io_callback *fn, void *arg);

/* One direction of the network: messages wait (no reset) until healed; both with two calls. A
 * machine always reaches itself. */
void sim_cut(struct sim *sim, unsigned from, unsigned to);
void sim_heal(struct sim *sim, unsigned from, unsigned to);
void sim_heal_all(struct sim *sim);
/* A bad cable, in one direction: every message is late by up to delay_ns, and so many of a hundred
 * are lost and come when the sender's TCP tries again (from 200 ms on). 0, 0: a good one. */
void sim_set_link(struct sim *sim, unsigned from, unsigned to, uint64_t delay_ns,
                  unsigned loss_percent);
/* Resets what is open between them; what was on its way is lost. */
void sim_break_connections(struct sim *sim, unsigned a, unsigned b);

/* ---- disks: files of a machine, by path. co_io_open(IO_OPEN_CREATE) makes more of them ---- */

/* A file of that size, all zeros. Returns 0, -EEXIST, -EFBIG. */
must_check int sim_disk_create(struct sim *sim, unsigned machine, const char *path,
                               uint64_t size_bytes);
/* WRITE_ERRORS: of writes, discards and syncs. DEAD: of everything. -EIO, decided when the
 * operation would end; a failed write has no effect. */
enum sim_disk_fault { SIM_DISK_OK, SIM_DISK_READ_ERRORS, SIM_DISK_WRITE_ERRORS, SIM_DISK_DEAD };
void sim_disk_set_fault(struct sim *sim, unsigned machine, const char *path,
                        enum sim_disk_fault fault);
void sim_disk_set_slowdown(struct sim *sim, unsigned machine, const char *path, double factor);
/* Operations of these kinds do not end (and have no effect) until it is called again without them;
 * then they do, in any order. SIM_HANG_WRITES: discards and changes of size too. What a killed
 * process has written hangs on, and keeps the file locked. 0: none hang. */
enum sim_disk_hang {
    SIM_HANG_READS = 1,
    SIM_HANG_WRITES = 2,
    SIM_HANG_SYNCS = 4,
    SIM_HANG_ALL = SIM_HANG_READS | SIM_HANG_WRITES | SIM_HANG_SYNCS,
};
void sim_disk_hang(struct sim *sim, unsigned machine, const char *path, unsigned kinds);
/* The next write at or behind from_offset ends well, but is not there, or is somewhere else behind
 * from_offset. TRUE: none is. */
enum sim_disk_spoil { SIM_WRITE_TRUE, SIM_WRITE_LOST, SIM_WRITE_MISDIRECTED };
void sim_disk_spoil_write(struct sim *sim, unsigned machine, const char *path,
                          enum sim_disk_spoil spoil, uint64_t from_offset);
/* What is on the medium and in its volatile cache, as a read would see it, for checkers; and
 * planted rot, which is durable. Returns 0, -ENOENT, -EINVAL (behind the end). */
must_check int sim_disk_peek(struct sim *sim, unsigned machine, const char *path, uint64_t offset,
                             void *buffer, size_t length);
must_check int sim_disk_poke(struct sim *sim, unsigned machine, const char *path, uint64_t offset,
                             const void *buffer, size_t length);
/* Cuts the machine's power (SIM_HOST_DIES) at its nth write from now, in the middle of it: between
 * its start and the time at which it would have ended. Discards and changes of size count. 0: off.
 */
void sim_crash_at_write(struct sim *sim, unsigned machine, uint64_t nth);
uint64_t sim_write_count(const struct sim *sim, unsigned machine); /* over all its lives */

#endif
