/* sim: the simulator backend of the loop. A struct sim is a world of machines: virtual time, disks
 * that lose what was not synced, an in-process network, and one seed from which every random choice
 * comes: the same seed gives the same run. Each machine has a loop (struct io) of its own, so that
 * it can crash, stand still or have a clock that runs fast.
 *
 * One thread. sim_run() steps from event to event; nothing else moves time. */
#ifndef S2D_BASE_SIM_H
#define S2D_BASE_SIM_H

#include "s2d/base/io.h"

struct sim;

struct sim_options {
    uint64_t seed;
    /* latencies are drawn from [min, max); bandwidth 0: unlimited */
    uint64_t net_latency_ns_min, net_latency_ns_max;
    uint64_t net_bytes_per_second;
    uint64_t disk_read_ns_min, disk_read_ns_max;
    uint64_t disk_write_ns_min, disk_write_ns_max;
    uint64_t disk_sync_ns_min, disk_sync_ns_max;
    bool torn_writes; /* a crash in the middle of a write leaves any subset of its 512-byte sectors
                       */
};

struct sim_options sim_default_options(uint64_t seed);
must_check int sim_new(const struct sim_options *options, struct sim **ret_sim);
void sim_free(struct sim *sim); /* every machine is down */
DEFINE_CLEANUP(struct sim, sim_free)

uint64_t sim_now_ns(const struct sim *sim);
uint64_t sim_random(struct sim *sim); /* the world's own stream, for tests and fault plans */

/* Runs until virtual time deadline_ns, or until done(arg) is true (asked after every event; NULL:
 * never), or until nothing can happen any more. Returns true when done(arg) was. */
bool sim_run(struct sim *sim, uint64_t deadline_ns, bool (*done)(void *arg), void *arg);

/* A line in the transcript: hash of everything that happened so far, for "same seed, same
 * transcript". */
uint64_t sim_transcript_hash(const struct sim *sim);
/* Every event is also printed to file (NULL: off). */
void sim_set_transcript(struct sim *sim, void *stdio_file);

/* ---- machines: numbered from 1, with the network address "10.83.0.<number>" ---- */

/* Powers a machine on. Its files and disks are as a crash left them. main_fn(io, arg) is its first
 * coroutine. */
must_check int sim_start(struct sim *sim, unsigned machine,
                         void (*main_fn)(struct io *io, void *arg), void *arg);
struct io *sim_io(struct sim *sim, unsigned machine); /* NULL while it is down */
bool sim_is_up(const struct sim *sim, unsigned machine);

/* Power is cut: writes that were not durable are lost, wholly or (torn_writes) in part; connections
 * end as seen from the others (reset: the host is still there and refuses; silent: nothing is heard
 * of it any more). Every suspended operation on the machine returns -ECANCELED and has no effect,
 * so that its coroutines unwind; sim_crash() returns when the last has ended and fn returned. A
 * machine whose program does not unwind trips an assertion that names the coroutines left. */
enum sim_crash_kind { SIM_PROCESS_DIES, SIM_HOST_DIES };
void sim_crash(struct sim *sim, unsigned machine, enum sim_crash_kind kind);
/* What the program of the machine is told at sim_crash() before its operations are cancelled:
 * called once. */
void sim_on_crash(struct sim *sim, unsigned machine, io_callback *fn, void *arg);

void sim_pause(struct sim *sim, unsigned machine); /* as SIGSTOP: time goes on without it */
void sim_resume(struct sim *sim, unsigned machine);
void sim_set_clock_rate(struct sim *sim, unsigned machine, double rate); /* 1.0: true */

/* One direction of the network: messages wait (no reset) until healed; both with two calls. */
void sim_cut(struct sim *sim, unsigned from, unsigned to);
void sim_heal(struct sim *sim, unsigned from, unsigned to);
void sim_heal_all(struct sim *sim);
void sim_break_connections(struct sim *sim, unsigned a,
                           unsigned b); /* resets what is open between them */

/* ---- disks: files of a machine, by path ---- */

must_check int sim_disk_create(struct sim *sim, unsigned machine, const char *path,
                               uint64_t size_bytes);
enum sim_disk_fault { SIM_DISK_OK, SIM_DISK_READ_ERRORS, SIM_DISK_WRITE_ERRORS, SIM_DISK_DEAD };
void sim_disk_set_fault(struct sim *sim, unsigned machine, const char *path,
                        enum sim_disk_fault fault);
void sim_disk_set_slowdown(struct sim *sim, unsigned machine, const char *path, double factor);
/* What is on the medium and in its volatile cache, as a read would see it; for checkers and planted
 * rot. -ENOENT, -EINVAL. */
must_check int sim_disk_peek(struct sim *sim, unsigned machine, const char *path, uint64_t offset,
                             void *buffer, size_t length);
must_check int sim_disk_poke(struct sim *sim, unsigned machine, const char *path, uint64_t offset,
                             const void *buffer, size_t length);
/* Cuts the machine's power (SIM_HOST_DIES) at its nth write from now, in the middle of it. 0: off.
 */
void sim_crash_at_write(struct sim *sim, unsigned machine, uint64_t nth);
uint64_t sim_write_count(const struct sim *sim, unsigned machine);

#endif
