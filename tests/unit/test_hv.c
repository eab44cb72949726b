/* struct hv on real keepers, with fake_qemu for QEMU: at most one copy of a VM, and every end is
 * told once. */
#include <dirent.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "hv/hv.h"
#include "hv/keeper_host.h"
#include "hv/keeper_link.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"

#define PATIENCE_NS (30 * SEC)
#define LONG_NS (1000 * SEC)

struct bench {
    struct io *io;
    struct hv *hv;
    struct keeper_host *host; /* NULL: this machine */
    char dir[32];
    void (*co_test)(struct bench *bench);
    uint64_t current[4]; /* incarnation by VM id */
    struct {
        uint64_t vm_id, incarnation;
        enum hv_end_cause cause;
        char reason[HV_REASON_BYTES];
    } ends[8];
    size_t end_count;
    bool was_full, is_full;   /* VM 1, as told */
    bool stops;               /* the daemon: it can tell nobody any more */
    uint64_t asked_switch_of; /* a VM */
};

static bool is_current(void *arg, uint64_t vm_id, uint64_t incarnation)
{
    const struct bench *bench = arg;

    return bench->current[vm_id] == incarnation;
}

static bool on_ended(void *arg, const struct hv_end *end)
{
    struct bench *bench = arg;

    assert_true(bench->end_count < ARRAY_SIZE(bench->ends));
    bench->ends[bench->end_count].vm_id = end->vm_id;
    bench->ends[bench->end_count].incarnation = end->incarnation;
    bench->ends[bench->end_count].cause = end->cause;
    snprintf(bench->ends[bench->end_count++].reason, HV_REASON_BYTES, "%s", end->reason);
    return !bench->stops;
}

static void on_no_space(void *arg, uint64_t vm_id, const char *name, bool no_space)
{
    struct bench *bench = arg;

    assert_int_equal(vm_id, 1);
    assert_string_equal(name, "full");
    assert_true(bench->is_full != no_space); /* each change is told once */
    bench->is_full = no_space;
    bench->was_full |= no_space;
}

static const char *switch_of(void *arg, uint64_t vm_id)
{
    struct bench *bench = arg;

    bench->asked_switch_of = vm_id;
    return NULL;
}

/* Sleeps in small pieces until condition holds; the bound is only reached by what is broken. */
#define co_wait_until(bench, condition)                                                            \
    do {                                                                                           \
        uint64_t limit_ns_ = io_now_ns((bench)->io) + PATIENCE_NS;                                 \
        while (!(condition)) {                                                                     \
            if (io_now_ns((bench)->io) > limit_ns_)                                                \
                fail_msg("%s did not come true", #condition);                                      \
            assert_int_equal(co_sleep_ns(MS), 0);                                                  \
        }                                                                                          \
    } while (0)

static uint64_t in(const struct bench *bench, uint64_t ns)
{
    return io_clock_ns(bench->io) + ns;
}

static void open_hv(struct bench *bench)
{
    struct hv_options options = {.dir = bench->dir,
                                 .nbd_socket = "/nowhere/nbd.sock",
                                 .keeper = KEEPER_PROGRAM,
                                 .qemu = FAKE_QEMU,
                                 .accel = HV_ACCEL_TCG,
                                 .host = bench->host,
                                 .on_ended = on_ended,
                                 .on_no_space = on_no_space,
                                 .switch_of = switch_of,
                                 .no_space_retry_ns = 20 * MS,
                                 .arg = bench};

    assert_int_equal(hv_new(bench->io, &options, &bench->hv), 0);
}

/* Another daemon comes: the old one let go, or was killed, which is the same to keepers. */
static void co_new_daemon(struct bench *bench)
{
    co_hv_free(bench->hv);
    open_hv(bench);
    hv_renew(bench->hv, in(bench, LONG_NS));
    assert_int_equal(co_hv_recover(bench->hv, is_current, bench), 0);
}

static int co_start(struct bench *bench, uint64_t id, uint64_t incarnation, const char *name)
{
    static const struct hv_disk disk = {"vol/disk@1"};
    struct hv_definition definition = {.id = id,
                                       .incarnation = incarnation,
                                       .name = name,
                                       .memory_bytes = 64 * MIB,
                                       .vcpus = 1,
                                       .generation = 1,
                                       .disks = &disk,
                                       .disk_count = 1};
    int r = co_hv_start(bench->hv, &definition);

    if (r == 0)
        bench->current[id] = incarnation;
    return r;
}

static struct hv_status status(const struct bench *bench, uint64_t id)
{
    struct hv_status status;

    assert_int_equal(hv_status(bench->hv, id, &status), 0);
    return status;
}

static char process_state(int pid)
{
    char path[32], text[256], *at;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    file = fopen(path, "re");
    if (!file)
        return 'Z';
    at = fgets(text, sizeof(text), file) ? strrchr(text, ')') : NULL;
    fclose(file);
    return at ? at[2] : 'Z';
}

static void expect_end(const struct bench *bench, size_t index, uint64_t id, uint64_t incarnation,
                       enum hv_end_cause cause)
{
    assert_true(bench->end_count > index);
    assert_int_equal(bench->ends[index].vm_id, id);
    assert_int_equal(bench->ends[index].incarnation, incarnation);
    assert_int_equal(bench->ends[index].cause, cause);
    assert_true(strlen(bench->ends[index].reason) > 0);
}

/* ---- the frame ---- */

static void kill_one(void *arg, const struct hv_status *status)
{
    (void)arg;
    kill(status->keeper_pid, SIGTERM);
}

static bool none_left(struct bench *bench)
{
    return hv_state(bench->hv, 1) == HV_NONE && hv_state(bench->hv, 2) == HV_NONE &&
           hv_state(bench->hv, 3) == HV_NONE;
}

static void co_main(void *arg)
{
    struct bench *bench = arg;

    open_hv(bench);
    hv_renew(bench->hv, in(bench, LONG_NS));
    assert_int_equal(co_hv_recover(bench->hv, is_current, bench), 0);
    bench->co_test(bench);
    hv_list(bench->hv, kill_one, NULL);
    co_wait_until(bench, none_left(bench));
    co_hv_free(bench->hv);
    io_stop(bench->io);
}

static void run(void (*co_test)(struct bench *bench))
{
    struct bench bench = {.dir = "/tmp/s2d-hv-XXXXXX", .co_test = co_test};
    char command[64];

    assert_non_null(mkdtemp(bench.dir));
    assert_int_equal(io_uring_new(NULL, &bench.io), 0);
    assert_int_equal(co_spawn(bench.io, "main", co_main, &bench), 0);
    io_run(bench.io);
    io_free(bench.io);
    snprintf(command, sizeof(command), "rm -r %s", bench.dir);
    assert_int_equal(system(command), 0);
}

#define HV_TEST(name)                                                                              \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        run(co_##name);                                                                            \
    }

/* ---- life ---- */

static void co_starts_and_shuts_down(struct bench *bench)
{
    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    assert_int_equal(hv_state(bench->hv, 1), HV_RUNNING);
    assert_string_equal(status(bench, 1).qmp_status, "running");
    assert_int_equal(co_start(bench, 1, 1, "plain"), -EEXIST);
    assert_int_equal(co_hv_shutdown(bench->hv, 1, 1, PATIENCE_NS), 0);
    assert_int_equal(hv_state(bench->hv, 1), HV_NONE);
    assert_int_equal(bench->end_count, 1);
    expect_end(bench, 0, 1, 1, HV_ENDED_OFF);
    assert_int_equal(co_hv_shutdown(bench->hv, 1, 1, PATIENCE_NS), -ENOENT);
    assert_int_equal(co_hv_kill(bench->hv, 1, 1), -ENOENT);

    assert_int_equal(co_start(bench, 1, 2, "plain"), 0);
    assert_int_equal(co_hv_kill(bench->hv, 1, 2), 0);
    assert_int_equal(bench->end_count, 2);
    expect_end(bench, 1, 1, 2, HV_ENDED_KILLED);
}
HV_TEST(starts_and_shuts_down)

/* A request for an incarnation that has ended may come when the VM was started again. */
static void co_the_end_of_one_does_not_hit_the_next(struct bench *bench)
{
    assert_int_equal(co_start(bench, 1, 2, "plain"), 0);
    assert_int_equal(co_hv_kill(bench->hv, 1, 1), -ENOENT);
    assert_int_equal(co_hv_shutdown(bench->hv, 1, 1, PATIENCE_NS), -ENOENT);
    assert_int_equal(co_hv_stop(bench->hv, 1, 1, PATIENCE_NS), -ENOENT);
    assert_int_equal(hv_state(bench->hv, 1), HV_RUNNING);
    assert_int_equal(bench->end_count, 0);
    assert_int_equal(co_hv_stop(bench->hv, 1, 2, PATIENCE_NS), 0);
}
HV_TEST(the_end_of_one_does_not_hit_the_next)

static void co_stop_kills_a_guest_that_does_not_listen(struct bench *bench)
{
    assert_int_equal(co_start(bench, 1, 1, "deaf"), 0);
    assert_int_equal(co_hv_shutdown(bench->hv, 1, 1, 50 * MS), -ETIMEDOUT);
    assert_int_equal(hv_state(bench->hv, 1), HV_RUNNING);
    assert_int_equal(co_hv_stop(bench->hv, 1, 1, 50 * MS), 0);
    expect_end(bench, 0, 1, 1, HV_ENDED_KILLED);
}
HV_TEST(stop_kills_a_guest_that_does_not_listen)

/* A start that failed leaves nothing behind and is told to the caller alone, in QEMU's words. */
static void co_a_failed_start_says_why(struct bench *bench)
{
    assert_int_equal(co_start(bench, 1, 1, "broken"), -EIO);
    assert_non_null(strstr(hv_error(bench->hv), "it is broken ?[1m")); /* plain text */
    assert_int_equal(co_start(bench, 1, 2, "late"), -EIO);
    assert_non_null(strstr(hv_error(bench->hv), "changed its mind"));
    assert_int_equal(hv_state(bench->hv, 1), HV_NONE);
    co_new_daemon(bench);
    assert_int_equal(bench->end_count, 0);
}
HV_TEST(a_failed_start_says_why)

static void co_bad_definitions_are_refused(struct bench *bench)
{
    assert_int_equal(co_start(bench, 1, 1, "../etc"), -EINVAL);
    assert_int_equal(co_start(bench, 1, 0, "plain"), -EINVAL);
    assert_int_equal(
        co_start(bench, 1, 1,
                 "plain-but-with-a-name-that-is-much-longer-than-any-name-of-a-virtual-machine"),
        -EINVAL);
    assert_true(strlen(hv_error(bench->hv)) > 0);
}
HV_TEST(bad_definitions_are_refused)

static void co_the_death_of_qemu_is_told(struct bench *bench)
{
    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    kill(status(bench, 1).qemu_pid, SIGKILL);
    co_wait_until(bench, bench->end_count == 1);
    expect_end(bench, 0, 1, 1, HV_ENDED_FAILED);
}
HV_TEST(the_death_of_qemu_is_told)

static void co_the_death_of_the_keeper_is_told(struct bench *bench)
{
    int qemu;

    assert_int_equal(co_start(bench, 1, 1, "large"), 0);
    qemu = status(bench, 1).qemu_pid;
    kill(status(bench, 1).keeper_pid, SIGKILL);
    co_wait_until(bench, bench->end_count == 1);
    assert_int_equal(process_state(qemu), 'Z'); /* told only when it is gone */
    expect_end(bench, 0, 1, 1, HV_ENDED_FAILED);
}
HV_TEST(the_death_of_the_keeper_is_told)

/* A write that finds no room pauses the VM, which is told; it goes on when there is room. */
static void co_a_guest_waits_for_room(struct bench *bench)
{
    char room[64];
    FILE *file;

    assert_int_equal(co_start(bench, 1, 1, "full"), 0);
    co_wait_until(bench, bench->was_full);
    co_wait_until(bench, status(bench, 1).no_space); /* (it may be trying just now) */
    assert_int_equal(hv_state(bench->hv, 1), HV_RUNNING);
    co_wait_until(bench, strcmp(status(bench, 1).qmp_status, "io-error") == 0);

    snprintf(room, sizeof(room), "%s/vms/full/room", bench->dir);
    file = fopen(room, "we");
    assert_non_null(file);
    fclose(file);
    co_wait_until(bench, !status(bench, 1).no_space);
    assert_false(bench->is_full);
    assert_string_equal(status(bench, 1).qmp_status, "running");
    assert_int_equal(co_hv_shutdown(bench->hv, 1, 1, PATIENCE_NS), 0);
}
HV_TEST(a_guest_waits_for_room)

/* What QEMU did not say when it was asked first is asked again on the same connection. */
static void co_the_status_is_asked_for_again(struct bench *bench)
{
    assert_int_equal(co_start(bench, 1, 1, "shy"), 0);
    assert_string_equal(status(bench, 1).qmp_status, "running");
    assert_int_equal(co_hv_shutdown(bench->hv, 1, 1, PATIENCE_NS), 0);
}
HV_TEST(the_status_is_asked_for_again)

/* ---- lease ---- */

static void co_no_start_without_a_lease(struct bench *bench)
{
    hv_renew(bench->hv, 1);
    assert_int_equal(co_start(bench, 1, 1, "plain"), -ESTALE);
    assert_int_equal(hv_state(bench->hv, 1), HV_NONE);
}
HV_TEST(no_start_without_a_lease)

static void lapse(struct bench *bench, uint64_t id)
{
    hv_renew(bench->hv, 1); /* the lease is handed back */
    co_wait_until(bench, process_state(status(bench, id).qemu_pid) == 'T');
    co_wait_until(bench, hv_state(bench->hv, id) == HV_PAUSED);
}

static void co_a_lapsed_vm_waits_for_a_verdict(struct bench *bench)
{
    int qemu;

    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    assert_int_equal(co_start(bench, 2, 1, "deaf"), 0);
    assert_int_equal(hv_renew(bench->hv, in(bench, LONG_NS)), 0);
    qemu = status(bench, 1).qemu_pid;
    lapse(bench, 1);
    lapse(bench, 2);

    bench->current[1] = 9; /* what a database says that is not to be trusted now */
    hv_judge(bench->hv, is_current, bench);
    bench->current[1] = 1;
    assert_int_equal(hv_renew(bench->hv, in(bench, LONG_NS)), 2);
    assert_int_equal(hv_renew(bench->hv, in(bench, LONG_NS)), 2);
    assert_int_equal(co_sleep_ns(150 * MS), 0); /* three turns of the keeper */
    assert_int_equal(process_state(qemu), 'T');

    bench->current[2] = 2; /* started elsewhere */
    hv_judge(bench->hv, is_current, bench);
    co_wait_until(bench, process_state(qemu) != 'T');
    assert_int_equal(status(bench, 1).qemu_pid, qemu);
    co_wait_until(bench, bench->end_count == 1);
    expect_end(bench, 0, 2, 1, HV_ENDED_KILLED);
    co_wait_until(bench, hv_state(bench->hv, 1) == HV_RUNNING);
    assert_int_equal(hv_renew(bench->hv, in(bench, LONG_NS)), 0);
}
HV_TEST(a_lapsed_vm_waits_for_a_verdict)

/* A lease that lapsed and came back between two looks of the keeper, or of ours: the VM may have
 * been started elsewhere in the gap, so renewing must not paper over it. */
static void co_a_gap_is_not_papered_over(struct bench *bench)
{
    uint64_t deadline_ns;

    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    kill(status(bench, 1).keeper_pid, SIGSTOP); /* as if it got no CPU */
    deadline_ns = in(bench, 20 * MS);
    hv_renew(bench->hv, deadline_ns);
    co_wait_until(bench, io_clock_ns(bench->io) > deadline_ns);
    assert_int_equal(hv_renew(bench->hv, in(bench, LONG_NS)), 1);
    kill(status(bench, 1).keeper_pid, SIGCONT);
    co_wait_until(bench, process_state(status(bench, 1).qemu_pid) == 'T');
    hv_judge(bench->hv, is_current, bench);
    co_wait_until(bench, hv_state(bench->hv, 1) == HV_RUNNING);
}
HV_TEST(a_gap_is_not_papered_over)

static void co_a_paused_vm_can_be_killed(struct bench *bench)
{
    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    lapse(bench, 1);
    assert_int_equal(co_hv_kill(bench->hv, 1, 1), 0);
    expect_end(bench, 0, 1, 1, HV_ENDED_KILLED);
}
HV_TEST(a_paused_vm_can_be_killed)

/* ---- another daemon ---- */

static void co_a_new_daemon_takes_up_what_is_current(struct bench *bench)
{
    int first, second;

    assert_int_equal(co_start(bench, 1, 5, "plain"), 0);
    assert_int_equal(co_start(bench, 2, 1, "plain2"), 0);
    first = status(bench, 1).qemu_pid;
    second = status(bench, 2).qemu_pid;
    hv_renew(bench->hv, 1); /* the daemon dies, and its VMs stop */
    co_wait_until(bench, process_state(first) == 'T');
    bench->current[2] = 2;
    co_new_daemon(bench);
    co_wait_until(bench, bench->end_count == 1);
    assert_int_equal(process_state(second), 'Z');
    expect_end(bench, 0, 2, 1, HV_ENDED_KILLED);
    assert_int_equal(status(bench, 1).qemu_pid, first);
    assert_int_equal(status(bench, 1).incarnation, 5);
    co_wait_until(bench, hv_state(bench->hv, 1) == HV_RUNNING);
    co_wait_until(bench, strcmp(status(bench, 1).qmp_status, "running") == 0);
    assert_int_equal(co_hv_shutdown(bench->hv, 1, 5, PATIENCE_NS), 0);
    expect_end(bench, 1, 1, 5, HV_ENDED_OFF);
    co_new_daemon(bench);
    assert_int_equal(bench->end_count, 2); /* nothing is told twice */
}
HV_TEST(a_new_daemon_takes_up_what_is_current)

static void co_without_a_lease_recovery_leaves_the_verdict_open(struct bench *bench)
{
    int qemu;

    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    qemu = status(bench, 1).qemu_pid;
    co_hv_free(bench->hv);
    open_hv(bench);
    bench->current[1] = 9; /* what a database says that is not to be trusted yet */
    assert_int_equal(co_hv_recover(bench->hv, is_current, bench), 0);
    assert_int_not_equal(process_state(qemu), 'Z');
    bench->current[1] = 1;
    hv_renew(bench->hv, in(bench, LONG_NS));
    assert_int_equal(hv_state(bench->hv, 1), HV_RUNNING);
}
HV_TEST(without_a_lease_recovery_leaves_the_verdict_open)

/* Its daemon may have died in the middle of its start. */
static void co_what_is_taken_up_is_plugged_in(struct bench *bench)
{
    assert_int_equal(co_start(bench, 3, 1, "plain"), 0);
    assert_int_equal(bench->asked_switch_of, 0);
    co_new_daemon(bench);
    co_wait_until(bench, bench->asked_switch_of == 3);
    assert_int_equal(co_hv_shutdown(bench->hv, 3, 1, PATIENCE_NS), 0);
}
HV_TEST(what_is_taken_up_is_plugged_in)

static void co_an_end_without_a_daemon_is_told_by_the_next(struct bench *bench)
{
    char folder[64];
    int keeper, qemu;

    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    assert_int_equal(co_start(bench, 2, 4, "plain2"), 0);
    qemu = status(bench, 1).qemu_pid;
    keeper = status(bench, 2).keeper_pid;
    co_hv_free(bench->hv);
    kill(qemu, SIGKILL);
    kill(keeper, SIGKILL);
    snprintf(folder, sizeof(folder), "%s/vms/plain", bench->dir);
    open_hv(bench); /* for co_wait_until() */
    co_wait_until(bench, keeper_gone(folder) == 1);
    co_new_daemon(bench);
    assert_int_equal(bench->end_count, 2);
    expect_end(bench, bench->ends[0].vm_id == 1 ? 0 : 1, 1, 1, HV_ENDED_FAILED);
    expect_end(bench, bench->ends[0].vm_id == 1 ? 1 : 0, 2, 4, HV_ENDED_FAILED);
    co_new_daemon(bench);
    assert_int_equal(bench->end_count, 2);
}
HV_TEST(an_end_without_a_daemon_is_told_by_the_next)

/* A daemon that is stopped without a quorum cannot tell; if the next one did not, a guest that was
 * shut down would be started again. */
static void co_an_end_that_was_not_told_is_told_by_the_next(struct bench *bench)
{
    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    bench->stops = true;
    assert_int_equal(co_hv_shutdown(bench->hv, 1, 1, PATIENCE_NS), 0);
    expect_end(bench, 0, 1, 1, HV_ENDED_OFF);
    co_new_daemon(bench); /* cannot tell either */
    expect_end(bench, 1, 1, 1, HV_ENDED_OFF);
    bench->stops = false;
    co_new_daemon(bench);
    expect_end(bench, 2, 1, 1, HV_ENDED_OFF);
    co_new_daemon(bench);
    assert_int_equal(bench->end_count, 3);
}
HV_TEST(an_end_that_was_not_told_is_told_by_the_next)

/* The folder that a daemon comes to last, of more than there may be VMs. */
static void make_old_folders(const struct bench *bench, char last[HV_NAME_BYTES])
{
    char path[64];
    struct dirent *entry;
    DIR *folder;

    snprintf(path, sizeof(path), "%s/vms", bench->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    for (unsigned i = 0; i <= HV_VMS_MAX; i++) {
        snprintf(path, sizeof(path), "%s/vms/plain%u", bench->dir, i);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(path, sizeof(path), "%s/vms", bench->dir);
    folder = opendir(path);
    assert_non_null(folder);
    while ((entry = readdir(folder))) {
        if (entry->d_name[0] != '.')
            snprintf(last, HV_NAME_BYTES, "%.40s", entry->d_name);
    }
    closedir(folder);
}

/* The folders of VMs that once ran here stay. */
static void co_old_folders_hide_no_vm(struct bench *bench)
{
    char name[HV_NAME_BYTES];

    make_old_folders(bench, name);
    assert_int_equal(co_start(bench, 1, 1, name), 0);
    co_new_daemon(bench);
    assert_int_equal(hv_state(bench->hv, 1), HV_RUNNING);
}
HV_TEST(old_folders_hide_no_vm)

/* UEFI variables that could not be read are no variables: QEMU would refuse them for ever. */
static void co_variables_are_whole_or_not_there(struct bench *bench)
{
    struct keeper_host *host = keeper_host_linux();
    char folder[64], path[96], why[HV_REASON_BYTES] = "";
    struct stat status;
    FILE *file;

    snprintf(folder, sizeof(folder), "%s/vms/plain", bench->dir);
    snprintf(path, sizeof(path), "%s/OVMF_VARS_4M.fd", bench->dir);
    assert_int_equal(mkdir(path, 0700), 0); /* opens, and cannot be read */
    assert_true(host->ops->prepare(host, folder, 1, bench->dir, why) < 0);
    assert_true(strlen(why) > 0);
    assert_int_equal(rmdir(path), 0);
    file = fopen(path, "we");
    assert_non_null(file);
    assert_true(fputs("variables", file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(host->ops->prepare(host, folder, 1, bench->dir, why), 0);
    snprintf(path, sizeof(path), "%s/vars.fd", folder);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_size, strlen("variables"));
}
HV_TEST(variables_are_whole_or_not_there)

static void write_text(const char *dir, const char *name, const char *text)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    file = fopen(path, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static size_t size_of(const char *dir, const char *name)
{
    char path[128];
    struct stat status;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return stat(path, &status) == 0 ? (size_t)status.st_size : SIZE_MAX;
}

/* A folder is of a name; another VM may come to have it. */
static void co_a_vm_inherits_nothing(struct bench *bench)
{
    struct keeper_host *host = keeper_host_linux();
    char folder[64], why[HV_REASON_BYTES] = "";

    snprintf(folder, sizeof(folder), "%s/vms/plain", bench->dir);
    write_text(bench->dir, "OVMF_VARS_4M.fd", "new");
    assert_int_equal(host->ops->prepare(host, folder, 1, bench->dir, why), 0);
    write_text(folder, "vars.fd", "changed");
    write_text(folder, "console.log", "a secret");
    assert_int_equal(host->ops->prepare(host, folder, 1, bench->dir, why), 0);
    assert_int_equal(size_of(folder, "vars.fd"), strlen("changed"));
    assert_int_equal(size_of(folder, "console.log"), strlen("a secret"));
    assert_int_equal(host->ops->prepare(host, folder, 2, bench->dir, why), 0);
    assert_int_equal(size_of(folder, "vars.fd"), strlen("new"));
    assert_int_equal(size_of(folder, "console.log"), SIZE_MAX);
}
HV_TEST(a_vm_inherits_nothing)

/* ---- starts that meet trouble ---- */

struct start_call {
    struct bench *bench;
    uint64_t id;
    const char *name;
    int result;
    bool done;
};

static void co_start_call(void *arg)
{
    struct start_call *call = arg;

    call->result = co_start(call->bench, call->id, 1, call->name);
    call->done = true;
}

static void co_a_start_that_hangs_can_be_killed(struct bench *bench)
{
    struct start_call call = {.bench = bench, .id = 1, .name = "mute"};

    assert_int_equal(co_spawn(bench->io, "start", co_start_call, &call), 0);
    co_wait_until(bench, hv_state(bench->hv, 1) == HV_STARTING && status(bench, 1).qemu_pid > 0);
    assert_int_equal(co_hv_kill(bench->hv, 1, 1), 0);
    co_wait_until(bench, call.done);
    assert_int_equal(call.result, -EAGAIN);
    assert_int_equal(bench->end_count, 0); /* its caller knows */
}
HV_TEST(a_start_that_hangs_can_be_killed)

/* A daemon that stops cannot wait a minute for disks that are not there. */
static void co_a_start_is_called_off(struct bench *bench)
{
    struct start_call call = {.bench = bench, .id = 2, .name = "mute"};

    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    assert_int_equal(co_spawn(bench->io, "start", co_start_call, &call), 0);
    co_wait_until(bench, hv_state(bench->hv, 2) == HV_STARTING);
    hv_call_off_starts(bench->hv);
    co_wait_until(bench, call.done);
    assert_int_equal(call.result, -EAGAIN);
    assert_int_equal(hv_state(bench->hv, 2), HV_NONE);
    assert_int_equal(hv_state(bench->hv, 1), HV_RUNNING);
    assert_int_equal(bench->end_count, 0);
}
HV_TEST(a_start_is_called_off)

/* Whoever killed it (the kernel, for want of memory): what ends by itself would end so again, this
 * need not. */
static void co_a_start_that_dies_may_be_tried_again(struct bench *bench)
{
    struct start_call call = {.bench = bench, .id = 1, .name = "mute"};

    assert_int_equal(co_spawn(bench->io, "start", co_start_call, &call), 0);
    co_wait_until(bench, hv_state(bench->hv, 1) == HV_STARTING && status(bench, 1).qemu_pid > 0);
    kill(status(bench, 1).qemu_pid, SIGKILL);
    co_wait_until(bench, call.done);
    assert_int_equal(call.result, -EAGAIN);
    assert_int_equal(bench->end_count, 0);
}
HV_TEST(a_start_that_dies_may_be_tried_again)

/* This machine, but for a disk that hangs while a folder is forgotten, or a keeper started. */
struct hanging_host {
    struct keeper_host host;
    struct keeper_host_ops ops;
    const char *folder; /* ends so */
    atomic_bool hangs;
    sem_t go_on;
    struct keeper_link *link; /* of what was started */
};

static void hang(struct hanging_host *hanging)
{
    atomic_store(&hanging->hangs, true);
    while (sem_wait(&hanging->go_on) < 0)
        ;
}

static void hanging_forget(struct keeper_host *host, const char *folder)
{
    struct hanging_host *hanging = container_of(host, struct hanging_host, host);

    if (strstr(folder, hanging->folder))
        hang(hanging);
    keeper_host_linux()->ops->forget(keeper_host_linux(), folder);
}

static int hanging_start(struct keeper_host *host, const struct keeper_order *order,
                         struct keeper_link **ret_link)
{
    struct hanging_host *hanging = container_of(host, struct hanging_host, host);
    int r;

    hang(hanging);
    r = keeper_host_linux()->ops->start(keeper_host_linux(), order, ret_link);
    hanging->link = r == 0 ? *ret_link : NULL;
    return r;
}

/* folder: that hangs when it is forgotten; NULL: starts hang. */
static void co_open_hanging(struct bench *bench, struct hanging_host *hanging, const char *folder)
{
    *hanging = (struct hanging_host){.ops = *keeper_host_linux()->ops, .folder = folder};
    hanging->host.ops = &hanging->ops;
    if (folder)
        hanging->ops.forget = hanging_forget;
    else
        hanging->ops.start = hanging_start;
    assert_int_equal(sem_init(&hanging->go_on, 0, 0), 0);
    bench->host = &hanging->host;
    co_new_daemon(bench);
}

static void co_close_hanging(struct bench *bench, struct hanging_host *hanging)
{
    bench->host = NULL;
    co_new_daemon(bench);
    sem_destroy(&hanging->go_on);
}

/* Its watcher still uses the VM while the folder is forgotten; another VM's end wakes the start. */
static void co_a_failed_start_waits_for_the_watcher(struct bench *bench)
{
    struct start_call call = {.bench = bench, .id = 1, .name = "mute"};
    struct hanging_host hanging;

    co_open_hanging(bench, &hanging, "/mute");
    assert_int_equal(co_start(bench, 2, 1, "web"), 0);
    assert_int_equal(co_spawn(bench->io, "start", co_start_call, &call), 0);
    co_wait_until(bench, hv_state(bench->hv, 1) == HV_STARTING && status(bench, 1).qemu_pid > 0);
    kill(status(bench, 1).qemu_pid, SIGKILL);
    co_wait_until(bench, atomic_load(&hanging.hangs));
    assert_int_equal(co_hv_kill(bench->hv, 2, 1), 0);
    assert_false(call.done);
    assert_int_equal(hv_state(bench->hv, 1), HV_ENDING);
    sem_post(&hanging.go_on);
    co_wait_until(bench, call.done);
    assert_int_equal(call.result, -EAGAIN);
    co_close_hanging(bench, &hanging);
}
HV_TEST(a_failed_start_waits_for_the_watcher)

struct kill_call {
    struct bench *bench;
    bool done;
};

static void co_kill_call(void *arg)
{
    struct kill_call *call = arg;

    assert_int_equal(co_hv_kill(call->bench->hv, 1, 1), 0);
    call->done = true;
}

/* A VM that was deleted, and made again under its name, has the same folder: what is forgotten of
 * the old one must not be the record of the new one's keeper, or no later daemon finds that. */
static void co_the_next_of_a_name_starts_when_the_last_is_forgotten(struct bench *bench)
{
    struct start_call call = {.bench = bench, .id = 2, .name = "plain"};
    struct kill_call killing = {.bench = bench};
    struct hanging_host hanging;

    co_open_hanging(bench, &hanging, "/plain");
    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    assert_int_equal(co_spawn(bench->io, "kill", co_kill_call, &killing), 0);
    co_wait_until(bench, atomic_load(&hanging.hangs));
    assert_int_equal(co_spawn(bench->io, "start", co_start_call, &call), 0);
    assert_int_equal(co_sleep_ns(300 * MS), 0); /* what a start takes */
    assert_false(call.done);
    sem_post(&hanging.go_on);
    co_wait_until(bench, killing.done && call.done);
    assert_int_equal(call.result, 0);
    co_close_hanging(bench, &hanging);
    assert_int_equal(hv_state(bench->hv, 2), HV_RUNNING);
}
HV_TEST(the_next_of_a_name_starts_when_the_last_is_forgotten)

/* This machine, but for a QEMU that does not die: it waits in the kernel, in the folder "stuck". */
struct stuck_host {
    struct keeper_host host;
    struct keeper_host_ops ops;
    atomic_bool stuck;
};

static int stuck_gone(struct keeper_host *host, const char *folder)
{
    if (strstr(folder, "/stuck") &&
        atomic_load(&container_of(host, struct stuck_host, host)->stuck))
        return false;
    return keeper_host_linux()->ops->gone(keeper_host_linux(), folder);
}

/* The node's other VMs are taken up, and started, all the same. */
static void co_a_qemu_that_does_not_die_holds_up_no_other(struct bench *bench)
{
    struct stuck_host host = {.ops = *keeper_host_linux()->ops, .stuck = true};

    host.host.ops = &host.ops;
    host.ops.gone = stuck_gone;
    assert_int_equal(co_start(bench, 1, 1, "stuck"), 0);
    assert_int_equal(co_start(bench, 2, 1, "plain"), 0);
    bench->current[1] = 2;
    bench->host = &host.host;
    co_new_daemon(bench);
    assert_int_equal(hv_state(bench->hv, 1), HV_ENDING);
    assert_int_equal(hv_state(bench->hv, 2), HV_RUNNING);
    assert_int_equal(co_start(bench, 3, 1, "plain3"), 0);
    assert_int_equal(bench->end_count, 0);
    atomic_store(&host.stuck, false);
    co_wait_until(bench, bench->end_count == 1);
    expect_end(bench, 0, 1, 1, HV_ENDED_KILLED);
    bench->host = NULL;
    co_new_daemon(bench);
}
HV_TEST(a_qemu_that_does_not_die_holds_up_no_other)

/* This machine, out of descriptors when it first looks whether anything lives in a folder. */
struct short_host {
    struct keeper_host host;
    struct keeper_host_ops ops;
    atomic_bool is_short;
};

static int short_gone(struct keeper_host *host, const char *folder)
{
    if (atomic_exchange(&container_of(host, struct short_host, host)->is_short, false))
        return -EMFILE;
    return keeper_host_linux()->ops->gone(keeper_host_linux(), folder);
}

/* Else nobody is told, and the guest that powered off is started again. */
static void co_an_end_that_cannot_be_seen_is_looked_for_again(struct bench *bench)
{
    struct short_host host = {.ops = *keeper_host_linux()->ops};

    host.host.ops = &host.ops;
    host.ops.gone = short_gone;
    bench->host = &host.host;
    co_new_daemon(bench);
    assert_int_equal(co_start(bench, 1, 1, "plain"), 0);
    atomic_store(&host.is_short, true);
    assert_int_equal(co_hv_shutdown(bench->hv, 1, 1, PATIENCE_NS), 0);
    assert_false(atomic_load(&host.is_short));
    assert_int_equal(bench->end_count, 1);
    expect_end(bench, 0, 1, 1, HV_ENDED_OFF);
    bench->host = NULL;
    co_new_daemon(bench);
}
HV_TEST(an_end_that_cannot_be_seen_is_looked_for_again)

/* A lease that ends while QEMU starts stops it as any other. */
static void co_a_starting_vm_needs_the_lease_too(struct bench *bench)
{
    struct start_call call = {.bench = bench, .id = 1, .name = "mute"};

    assert_int_equal(co_spawn(bench->io, "start", co_start_call, &call), 0);
    co_wait_until(bench, hv_state(bench->hv, 1) == HV_STARTING && status(bench, 1).qemu_pid > 0);
    hv_renew(bench->hv, 1);
    co_wait_until(bench, process_state(status(bench, 1).qemu_pid) == 'T');
    assert_int_equal(co_hv_kill(bench->hv, 1, 1), 0);
    co_wait_until(bench, call.done);
}
HV_TEST(a_starting_vm_needs_the_lease_too)

/* What is renewed while the keeper is being started is for this VM too. */
static void co_a_starting_vm_is_renewed(struct bench *bench)
{
    struct start_call call = {.bench = bench, .id = 1, .name = "mute"};
    struct hanging_host hanging;
    uint64_t deadline_ns;

    co_open_hanging(bench, &hanging, NULL);
    assert_int_equal(co_spawn(bench->io, "start", co_start_call, &call), 0);
    co_wait_until(bench, atomic_load(&hanging.hangs));
    deadline_ns = in(bench, 2 * LONG_NS);
    hv_renew(bench->hv, deadline_ns);
    sem_post(&hanging.go_on);
    co_wait_until(bench, status(bench, 1).qemu_pid > 0);
    assert_true(atomic_load(&keeper_memory(hanging.link)->deadline_ns) == deadline_ns);
    assert_int_equal(co_hv_kill(bench->hv, 1, 1), 0);
    co_wait_until(bench, call.done);
    co_close_hanging(bench, &hanging);
}
HV_TEST(a_starting_vm_is_renewed)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_and_shuts_down),
        cmocka_unit_test(the_end_of_one_does_not_hit_the_next),
        cmocka_unit_test(stop_kills_a_guest_that_does_not_listen),
        cmocka_unit_test(a_failed_start_says_why),
        cmocka_unit_test(bad_definitions_are_refused),
        cmocka_unit_test(the_death_of_qemu_is_told),
        cmocka_unit_test(the_death_of_the_keeper_is_told),
        cmocka_unit_test(a_guest_waits_for_room),
        cmocka_unit_test(the_status_is_asked_for_again),
        cmocka_unit_test(no_start_without_a_lease),
        cmocka_unit_test(a_lapsed_vm_waits_for_a_verdict),
        cmocka_unit_test(a_gap_is_not_papered_over),
        cmocka_unit_test(a_paused_vm_can_be_killed),
        cmocka_unit_test(a_new_daemon_takes_up_what_is_current),
        cmocka_unit_test(without_a_lease_recovery_leaves_the_verdict_open),
        cmocka_unit_test(what_is_taken_up_is_plugged_in),
        cmocka_unit_test(an_end_without_a_daemon_is_told_by_the_next),
        cmocka_unit_test(an_end_that_was_not_told_is_told_by_the_next),
        cmocka_unit_test(old_folders_hide_no_vm),
        cmocka_unit_test(variables_are_whole_or_not_there),
        cmocka_unit_test(a_vm_inherits_nothing),
        cmocka_unit_test(a_start_that_hangs_can_be_killed),
        cmocka_unit_test(a_start_is_called_off),
        cmocka_unit_test(a_start_that_dies_may_be_tried_again),
        cmocka_unit_test(a_failed_start_waits_for_the_watcher),
        cmocka_unit_test(the_next_of_a_name_starts_when_the_last_is_forgotten),
        cmocka_unit_test(a_qemu_that_does_not_die_holds_up_no_other),
        cmocka_unit_test(an_end_that_cannot_be_seen_is_looked_for_again),
        cmocka_unit_test(a_starting_vm_needs_the_lease_too),
        cmocka_unit_test(a_starting_vm_is_renewed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
