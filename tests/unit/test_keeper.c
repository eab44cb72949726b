/* The keeper, on real processes: /bin/sleep plays QEMU, and once this program itself. What is
 * waited for is polled, with a bound that only a broken keeper reaches. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "hv/keeper_link.h"

#define PATIENCE_NS (20 * SEC)
#define LONG_NS (1000 * SEC)

struct bench {
    char folder[64];
    struct keeper_link *link;
};

static uint64_t now_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_BOOTTIME, &time);
    return (uint64_t)time.tv_sec * SEC + (uint64_t)time.tv_nsec;
}

/* Polls condition, a statement expression's worth of C, until it holds. */
#define wait_until(condition)                                                                      \
    do {                                                                                           \
        uint64_t limit_ns_ = now_ns() + PATIENCE_NS;                                               \
        while (!(condition)) {                                                                     \
            if (now_ns() > limit_ns_)                                                              \
                fail_msg("%s did not come true", #condition);                                      \
            sched_yield();                                                                         \
        }                                                                                          \
    } while (0)

/* The state letter of a process in /proc; 0: there is none. */
static char process_state(int pid)
{
    char path[32], text[256], *at;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    file = fopen(path, "re");
    if (!file)
        return 0;
    at = fgets(text, sizeof(text), file) ? strrchr(text, ')') : NULL;
    fclose(file);
    return at ? at[2] : 0;
}

static bool process_gone(int pid)
{
    char state = process_state(pid);

    return state == 0 || state == 'Z';
}

static int qemu_pid(const struct bench *bench)
{
    return (int)atomic_load(&keeper_memory(bench->link)->qemu_pid);
}

static int keeper_pid(const struct bench *bench)
{
    return (int)atomic_load(&keeper_memory(bench->link)->keeper_pid);
}

static int start(struct bench *bench, uint64_t deadline_ns, char **argv)
{
    struct keeper_order order = {.program = KEEPER_PROGRAM,
                                 .folder = bench->folder,
                                 .name = "test",
                                 .vm_id = 7,
                                 .incarnation = 3,
                                 .deadline_ns = deadline_ns,
                                 .nice = 5,
                                 .argv = argv};

    return keeper_start(&order, &bench->link);
}

static void start_sleep(struct bench *bench, uint64_t deadline_ns)
{
    char *argv[] = {"sleep", "1000", NULL};

    assert_int_equal(start(bench, deadline_ns, argv), 0);
    wait_until(keeper_state(bench->link) >= KEEPER_RUNNING);
}

static int setup(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));

    snprintf(bench->folder, sizeof(bench->folder), "/tmp/s2d-keeper-XXXXXX");
    *state = bench;
    return mkdtemp(bench->folder) ? 0 : -1;
}

static int teardown(void **state)
{
    struct bench *bench = *state;
    char command[128];
    int r;

    if (bench->link)
        keeper_kill(bench->link);
    wait_until(keeper_gone(bench->folder) == 1);
    keeper_link_free(bench->link);
    snprintf(command, sizeof(command), "rm -r %s", bench->folder);
    r = system(command);
    free(bench);
    return r;
}

static struct keeper_outcome outcome(const struct bench *bench)
{
    struct keeper_outcome outcome;

    wait_until(keeper_gone(bench->folder) == 1);
    assert_int_equal(keeper_outcome(bench->folder, &outcome), 0);
    assert_int_equal(outcome.vm_id, 7);
    assert_int_equal(outcome.incarnation, 3);
    return outcome;
}

/* The whole point: without a lease the VM does not run. */
static void stops_at_the_deadline(void **state)
{
    struct bench *bench = *state;

    start_sleep(bench, now_ns() + 100 * MS);
    wait_until(process_state(qemu_pid(bench)) == 'T');
    wait_until(keeper_state(bench->link) == KEEPER_STOPPED);
    assert_true(now_ns() >= atomic_load(&keeper_memory(bench->link)->deadline_ns));
    assert_int_equal(atomic_load(&keeper_memory(bench->link)->stops), 1);
}

/* ---- a QEMU whose main thread cannot take a signal ---- */

#define DEAF_MAIN "deaf-main"

static void *count_on(void *arg)
{
    for (volatile uint64_t *counter = arg;;)
        (*counter)++;
    return NULL;
}

/* As QEMU: one thread counts. The first one waits for a vfork() that does not return: like one that
 * gets no turn on a busy machine, it takes no stop. */
static int deaf_main(void)
{
    int fd = open("counter", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *counter = MAP_FAILED;
    pthread_t thread;
    pid_t self = getpid();

    if (fd >= 0 && ftruncate(fd, sizeof(uint64_t)) == 0)
        counter = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (counter == MAP_FAILED || pthread_create(&thread, NULL, count_on, counter) != 0)
        return 1;
    if (vfork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (getppid() == self)
            pause();
        _exit(0);
    }
    return 0;
}

static uint64_t counted(const struct bench *bench)
{
    char path[96];
    uint64_t counter = 0;
    FILE *file;

    snprintf(path, sizeof(path), "%s/counter", bench->folder);
    file = fopen(path, "re");
    if (file && fread(&counter, sizeof(counter), 1, file) != 1)
        counter = 0;
    if (file)
        fclose(file);
    return counter;
}

static bool stands_still(const struct bench *bench)
{
    uint64_t before = counted(bench), until_ns = now_ns() + 100 * MS;

    while (now_ns() < until_ns)
        sched_yield();
    return counted(bench) == before;
}

/* A stop that one thread has to take for all would let a virtual CPU run on. */
static void stops_each_thread(void **state)
{
    struct bench *bench = *state;
    char *argv[] = {"/proc/self/exe", DEAF_MAIN, NULL}, self[256];
    ssize_t length = readlink(argv[0], self, sizeof(self) - 1);

    assert_true(length > 0);
    self[length] = 0;
    argv[0] = self;
    assert_int_equal(start(bench, now_ns() + LONG_NS, argv), 0);
    wait_until(counted(bench) > 0);
    assert_false(stands_still(bench));
    keeper_renew(bench->link, now_ns());
    wait_until(keeper_state(bench->link) >= KEEPER_STOPPING);
    wait_until(stands_still(bench));
}

static void never_runs_past_a_deadline_that_has_passed(void **state)
{
    struct bench *bench = *state;

    start_sleep(bench, 1);
    wait_until(process_state(qemu_pid(bench)) == 'T');
    wait_until(keeper_state(bench->link) == KEEPER_STOPPED);
}

static void runs_on_while_renewed(void **state)
{
    struct bench *bench = *state;
    uint64_t start_ns = now_ns();

    start_sleep(bench, start_ns + 300 * MS);
    while (now_ns() < start_ns + 900 * MS) {
        keeper_renew(bench->link, now_ns() + 300 * MS);
        assert_int_equal(keeper_state(bench->link), KEEPER_RUNNING);
        assert_int_not_equal(process_state(qemu_pid(bench)), 'T');
    }
    assert_int_equal(atomic_load(&keeper_memory(bench->link)->stops), 0);
}

/* A lease that came back says nothing about whether the VM was started elsewhere meanwhile. */
static void renewal_alone_does_not_continue(void **state)
{
    struct bench *bench = *state;
    uint64_t renewed_ns;

    start_sleep(bench, 1);
    wait_until(keeper_state(bench->link) == KEEPER_STOPPED);
    keeper_renew(bench->link, now_ns() + LONG_NS);
    renewed_ns = now_ns();
    wait_until(now_ns() > renewed_ns + 200 * MS); /* four turns */
    assert_int_equal(process_state(qemu_pid(bench)), 'T');
    assert_int_equal(keeper_state(bench->link), KEEPER_STOPPED);

    keeper_continue(bench->link, now_ns() + LONG_NS);
    wait_until(process_state(qemu_pid(bench)) == 'S');
    assert_int_equal(keeper_state(bench->link), KEEPER_RUNNING);
}

/* An order to go on is for the stop that it was given in: not for the next. */
static void an_old_permission_does_not_end_a_later_stop(void **state)
{
    struct bench *bench = *state;

    start_sleep(bench, 1);
    wait_until(keeper_state(bench->link) == KEEPER_STOPPED);
    keeper_continue(bench->link, now_ns() + LONG_NS);
    wait_until(keeper_state(bench->link) == KEEPER_RUNNING);
    keeper_renew(bench->link, 1);
    wait_until(keeper_state(bench->link) == KEEPER_STOPPED);
    assert_int_equal(atomic_load(&keeper_memory(bench->link)->stops), 2);
    keeper_renew(bench->link, now_ns() + LONG_NS); /* continue_stop still says 1 */
    {
        uint64_t renewed_ns = now_ns();

        wait_until(now_ns() > renewed_ns + 200 * MS);
    }
    assert_int_equal(process_state(qemu_pid(bench)), 'T');
}

/* A permission that is older than the lease's end does nothing either. */
static void does_not_continue_without_a_deadline_ahead(void **state)
{
    struct bench *bench = *state;
    uint64_t continued_ns;

    start_sleep(bench, 1);
    wait_until(keeper_state(bench->link) == KEEPER_STOPPED);
    keeper_continue(bench->link, now_ns() - 1);
    continued_ns = now_ns();
    wait_until(now_ns() > continued_ns + 200 * MS);
    assert_int_equal(process_state(qemu_pid(bench)), 'T');
    assert_int_equal(keeper_state(bench->link), KEEPER_STOPPED);
    assert_int_equal(atomic_load(&keeper_memory(bench->link)->stops), 1); /* not for a moment */
}

static void stops_again_what_somebody_else_continues(void **state)
{
    struct bench *bench = *state;

    start_sleep(bench, 1);
    wait_until(process_state(qemu_pid(bench)) == 'T');
    for (int i = 0; i < 5; i++) {
        kill(qemu_pid(bench), SIGCONT);
        wait_until(process_state(qemu_pid(bench)) == 'T');
    }
}

static void kills_when_told(void **state)
{
    struct bench *bench = *state;
    struct keeper_outcome end;

    start_sleep(bench, now_ns() + LONG_NS);
    keeper_kill(bench->link);
    end = outcome(bench);
    assert_true(end.known);
    assert_true(end.killed);
    assert_true(WIFSIGNALED(end.wait_status));
    assert_int_equal(keeper_state(bench->link), KEEPER_ENDED);
}

static void kills_a_stopped_one_too(void **state)
{
    struct bench *bench = *state;

    start_sleep(bench, 1);
    wait_until(keeper_state(bench->link) == KEEPER_STOPPED);
    keeper_kill(bench->link);
    assert_true(outcome(bench).killed);
}

static void takes_qemu_along_at_sigterm(void **state)
{
    struct bench *bench = *state;
    int pid;

    start_sleep(bench, now_ns() + LONG_NS);
    pid = qemu_pid(bench);
    kill(keeper_pid(bench), SIGTERM);
    assert_true(outcome(bench).killed);
    assert_true(process_gone(pid));
}

/* Nobody would stop a QEMU without a keeper: so there is none. */
static void qemu_dies_with_its_keeper(void **state)
{
    struct bench *bench = *state;
    int pid;

    start_sleep(bench, now_ns() + LONG_NS);
    pid = qemu_pid(bench);
    kill(keeper_pid(bench), SIGKILL);
    wait_until(process_gone(pid));
    assert_false(outcome(bench).known);
}

static void a_stopped_qemu_dies_with_its_keeper(void **state)
{
    struct bench *bench = *state;
    int pid;

    start_sleep(bench, 1);
    wait_until(keeper_state(bench->link) == KEEPER_STOPPED);
    pid = qemu_pid(bench);
    kill(keeper_pid(bench), SIGKILL);
    wait_until(process_gone(pid));
    assert_false(outcome(bench).known);
}

/* The lock says whether anything of the VM lives: QEMU holds it as well as its keeper. */
static void qemu_holds_the_lock(void **state)
{
    struct bench *bench = *state;
    char path[64], target[96];
    bool held = false;

    start_sleep(bench, now_ns() + LONG_NS);
    assert_int_equal(keeper_gone(bench->folder), 0);
    wait_until(process_state(qemu_pid(bench)) == 'S'); /* it has loaded its libraries */
    for (int fd = 0; fd < 16; fd++) {
        ssize_t length;

        snprintf(path, sizeof(path), "/proc/%d/fd/%d", qemu_pid(bench), fd);
        length = readlink(path, target, sizeof(target) - 1);
        if (length < 0)
            continue;
        target[length] = 0;
        held |= strstr(target, "/" KEEPER_LOCK_FILE) != NULL;
        assert_null(strstr(target, "memfd")); /* only the keeper is given orders */
        assert_true(fd <= 2 || strstr(target, "/" KEEPER_LOCK_FILE));
    }
    assert_true(held);
}

static void only_one_to_a_folder(void **state)
{
    struct bench *bench = *state;
    struct bench second = *bench;
    char *argv[] = {"sleep", "1000", NULL};

    start_sleep(bench, now_ns() + LONG_NS);
    assert_int_equal(start(&second, now_ns() + LONG_NS, argv), -EBUSY);
    assert_false(process_gone(qemu_pid(bench)));
}

static void reports_how_qemu_ended(void **state)
{
    struct bench *bench = *state;
    char *argv[] = {"sh", "-c", "exit 3", NULL};
    int r = start(bench, now_ns() + LONG_NS, argv);
    struct keeper_outcome end;

    assert_true(r == 0 || r == -EIO); /* -EIO: it was over before we looked */
    end = outcome(bench);
    assert_true(end.known);
    assert_false(end.killed);
    assert_true(WIFEXITED(end.wait_status));
    assert_int_equal(WEXITSTATUS(end.wait_status), 3);
    keeper_forget(bench->folder);
    assert_int_equal(keeper_outcome(bench->folder, &end), -ENOENT);
}

static void reports_a_program_that_is_not_there(void **state)
{
    struct bench *bench = *state;
    char *argv[] = {"/nowhere/qemu", NULL};
    int r = start(bench, now_ns() + LONG_NS, argv);

    assert_true(r == 0 || r == -EIO);
    assert_int_equal(WEXITSTATUS(outcome(bench).wait_status), 127);
}

static void a_keeper_that_is_not_there(void **state)
{
    struct bench *bench = *state;
    char *argv[] = {"sleep", "1000", NULL};
    struct keeper_order order = {.program = "/nowhere/keeper",
                                 .folder = bench->folder,
                                 .name = "test",
                                 .vm_id = 7,
                                 .incarnation = 3,
                                 .deadline_ns = now_ns() + LONG_NS,
                                 .argv = argv};

    assert_int_equal(keeper_start(&order, &bench->link), -ENOENT);
    assert_int_equal(keeper_gone(bench->folder), 1);
}

/* A daemon starts the VM and is killed; the next one finds it, with the same memory. */
static void outlives_the_daemon(void **state)
{
    struct bench *bench = *state;
    struct keeper_link *adopted;
    int status, qemu;
    pid_t daemon;

    daemon = fork();
    if (daemon == 0) {
        char *argv[] = {"sleep", "1000", NULL};

        if (start(bench, now_ns() + LONG_NS, argv) < 0)
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(daemon, &status, 0), daemon);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(keeper_adopt(bench->folder, &bench->link), 0);
    qemu = qemu_pid(bench);
    assert_false(process_gone(qemu));
    assert_int_equal(keeper_memory(bench->link)->vm_id, 7);
    assert_int_equal(keeper_memory(bench->link)->incarnation, 3);

    /* Both see the same memory, and the adopted one is obeyed. */
    assert_int_equal(keeper_adopt(bench->folder, &adopted), 0);
    keeper_renew(adopted, 1);
    keeper_link_free(adopted);
    wait_until(process_state(qemu) == 'T');
    keeper_continue(bench->link, now_ns() + LONG_NS);
    wait_until(process_state(qemu) == 'S');
}

static void nothing_to_adopt(void **state)
{
    struct bench *bench = *state;
    struct keeper_outcome end;

    assert_int_equal(keeper_adopt(bench->folder, &bench->link), -ENOENT);
    assert_int_equal(keeper_outcome(bench->folder, &end), -ENOENT);
}

/* The record of a keeper that was killed must not lead to a process that got its pid. */
static void a_stale_record_is_not_believed(void **state)
{
    struct bench *bench = *state;
    struct keeper_link *link;
    char path[96];
    FILE *file;

    start_sleep(bench, now_ns() + LONG_NS);
    snprintf(path, sizeof(path), "%s/" KEEPER_RECORD_FILE, bench->folder);
    file = fopen(path, "we");
    assert_non_null(file);
    fprintf(file, KEEPER_RECORD_FORMAT, getpid(), 12345ull, 7ull, 3ull);
    fclose(file);
    assert_int_equal(keeper_adopt(bench->folder, &link), -EAGAIN);
    keeper_terminate(bench->folder); /* would end this test otherwise */
}

static void terminates_by_folder(void **state)
{
    struct bench *bench = *state;

    start_sleep(bench, now_ns() + LONG_NS);
    keeper_terminate(bench->folder);
    assert_true(outcome(bench).killed);
}

#define KEEPER_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        KEEPER_TEST(stops_at_the_deadline),
        KEEPER_TEST(stops_each_thread),
        KEEPER_TEST(never_runs_past_a_deadline_that_has_passed),
        KEEPER_TEST(runs_on_while_renewed),
        KEEPER_TEST(renewal_alone_does_not_continue),
        KEEPER_TEST(an_old_permission_does_not_end_a_later_stop),
        KEEPER_TEST(does_not_continue_without_a_deadline_ahead),
        KEEPER_TEST(stops_again_what_somebody_else_continues),
        KEEPER_TEST(kills_when_told),
        KEEPER_TEST(kills_a_stopped_one_too),
        KEEPER_TEST(takes_qemu_along_at_sigterm),
        KEEPER_TEST(qemu_dies_with_its_keeper),
        KEEPER_TEST(a_stopped_qemu_dies_with_its_keeper),
        KEEPER_TEST(qemu_holds_the_lock),
        KEEPER_TEST(only_one_to_a_folder),
        KEEPER_TEST(reports_how_qemu_ended),
        KEEPER_TEST(reports_a_program_that_is_not_there),
        KEEPER_TEST(a_keeper_that_is_not_there),
        KEEPER_TEST(outlives_the_daemon),
        KEEPER_TEST(nothing_to_adopt),
        KEEPER_TEST(a_stale_record_is_not_believed),
        KEEPER_TEST(terminates_by_folder),
    };

    if (argc == 2 && strcmp(argv[1], DEAF_MAIN) == 0)
        return deaf_main();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
