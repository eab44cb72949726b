/* hv_driver DIR NBD_SOCKET KEEPER [CURRENT]: a node's VMs without a cluster, for scripts. Commands
 * come on standard input, one a line; each prints one line, "ok …" or "failed …", and ends print
 * "ended …" when they happen. It holds a lease of two seconds for itself, unless told not to.
 * CURRENT ("ID:INCARNATION,…") is what is current when it starts.
 *
 *   start ID INCARNATION NAME GENERATION MIB EXPORT [BRIDGE]     shutdown ID SECONDS     stop ID
 * SECONDS kill ID lease on|off     current ID:INCARNATION,…     state ID     quit (leaves VMs
 * running)
 */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "hv/hv.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/log.h"

#define LEASE_NS (2 * SEC)
#define RENEW_NS (200 * MS)

struct driver {
    struct io *io;
    struct hv *hv;
    bool lease, quit;
    char current[256];
    char input[4096];
    size_t input_length;
    int argc;
    char **argv;
    struct co_group running;
};

static bool is_current(void *arg, uint64_t vm_id, uint64_t incarnation)
{
    const struct driver *driver = arg;
    char wanted[64], list[300];

    snprintf(wanted, sizeof(wanted), ",%" PRIu64 ":%" PRIu64 ",", vm_id, incarnation);
    snprintf(list, sizeof(list), ",%s,", driver->current);
    return strstr(list, wanted) != NULL;
}

static bool on_ended(void *arg, const struct hv_end *end)
{
    static const char *const causes[] = {
        [HV_ENDED_OFF] = "off", [HV_ENDED_KILLED] = "killed", [HV_ENDED_FAILED] = "failed"};

    (void)arg;
    printf("ended %" PRIu64 " %" PRIu64 " %s: %s\n", end->vm_id, end->incarnation,
           causes[end->cause], end->reason);
    return true;
}

static void co_renew(void *arg)
{
    struct driver *driver = arg;

    while (!driver->quit) {
        if (driver->lease && hv_renew(driver->hv, io_clock_ns(driver->io) + LEASE_NS) > 0)
            hv_judge(driver->hv, is_current, driver);
        if (co_sleep_ns(RENEW_NS) < 0)
            return;
    }
}

static void answer(struct driver *driver, const char *what, int r)
{
    if (r == 0)
        printf("ok %s\n", what);
    else
        printf("failed %s: %s: %s\n", what, strerror(-r), hv_error(driver->hv));
}

static void co_start(struct driver *driver, const char *line)
{
    struct hv_disk disk;
    struct hv_definition definition = {.vcpus = 1, .disks = &disk, .disk_count = 1};
    char name[64], export_name[256], bridge[64] = "";
    uint64_t memory_mib;

    if (sscanf(line, "start %" SCNu64 " %" SCNu64 " %63s %u %" SCNu64 " %255s %63s", &definition.id,
               &definition.incarnation, name, &definition.generation, &memory_mib, export_name,
               bridge) < 6) {
        printf("failed start: usage\n");
        return;
    }
    definition.name = name;
    definition.switch_name = bridge;
    definition.memory_bytes = memory_mib * MIB;
    disk.export_name = export_name;
    answer(driver, "start", co_hv_start(driver->hv, &definition));
}

/* The one that is here; 0: none. */
static uint64_t incarnation(const struct driver *driver, uint64_t id)
{
    struct hv_status status;

    return hv_status(driver->hv, id, &status) == 0 ? status.incarnation : 0;
}

static void co_command(struct driver *driver, const char *line)
{
    struct hv_status status;
    uint64_t id, seconds;
    char word[256];

    if (strncmp(line, "start ", 6) == 0)
        co_start(driver, line);
    else if (sscanf(line, "shutdown %" SCNu64 " %" SCNu64, &id, &seconds) == 2)
        answer(driver, "shutdown",
               co_hv_shutdown(driver->hv, id, incarnation(driver, id), seconds * SEC));
    else if (sscanf(line, "stop %" SCNu64 " %" SCNu64, &id, &seconds) == 2)
        answer(driver, "stop", co_hv_stop(driver->hv, id, incarnation(driver, id), seconds * SEC));
    else if (sscanf(line, "kill %" SCNu64, &id) == 1)
        answer(driver, "kill", co_hv_kill(driver->hv, id, incarnation(driver, id)));
    else if (sscanf(line, "lease %255s", word) == 1) {
        driver->lease = strcmp(word, "on") == 0;
        printf("ok lease\n");
    } else if (sscanf(line, "current %255s", word) == 1) {
        snprintf(driver->current, sizeof(driver->current), "%s", word);
        printf("ok current\n");
    } else if (sscanf(line, "state %" SCNu64, &id) == 1) {
        if (hv_status(driver->hv, id, &status) < 0)
            printf("ok state off\n");
        else
            printf("ok state %s qmp=%s qemu=%d keeper=%d up_ms=%" PRIu64 "\n",
                   hv_state_name(status.state), status.qmp_status, status.qemu_pid,
                   status.keeper_pid, status.uptime_ns / MS);
    } else if (strcmp(line, "quit") == 0)
        driver->quit = true;
    else
        printf("failed: unknown command %s\n", line);
}

/* Runs all complete lines of the input. */
static void co_take_lines(struct driver *driver)
{
    char *newline;

    while (!driver->quit && (newline = memchr(driver->input, '\n', driver->input_length)) != NULL) {
        size_t used = (size_t)(newline - driver->input) + 1;

        *newline = 0;
        co_command(driver, driver->input);
        driver->input_length -= used;
        memmove(driver->input, driver->input + used, driver->input_length);
    }
}

static void co_read_commands(struct driver *driver)
{
    struct io_poll *poll;
    int r = io_poll_new(driver->io, 0, &poll);

    assert(r == 0);
    while (!driver->quit && co_io_poll(poll, POLLIN) >= 0) {
        ssize_t length = read(0, driver->input + driver->input_length,
                              sizeof(driver->input) - driver->input_length);

        if (length <= 0)
            break;
        driver->input_length += (size_t)length;
        co_take_lines(driver);
    }
    driver->quit = true;
    io_poll_free(poll);
}

static void co_main(void *arg)
{
    struct driver *driver = arg;
    struct hv_options options = {.dir = driver->argv[1],
                                 .nbd_socket = driver->argv[2],
                                 .keeper = driver->argv[3],
                                 .accel = HV_ACCEL_AUTO,
                                 .on_ended = on_ended,
                                 .arg = driver};
    int r = hv_new(driver->io, &options, &driver->hv);

    if (r < 0) {
        answer(driver, "hv_new", r);
        io_stop(driver->io);
        return;
    }
    co_group_init(&driver->running);
    r = co_group_spawn(&driver->running, driver->io, "renew", co_renew, driver);
    assert(r == 0);
    co_yield (); /* the first renewal */
    answer(driver, "recover", co_hv_recover(driver->hv, is_current, driver));
    co_read_commands(driver);
    co_group_wait(&driver->running);
    co_hv_free(driver->hv);
    io_stop(driver->io);
}

int main(int argc, char **argv)
{
    struct driver driver = {.argc = argc, .argv = argv, .lease = true};
    struct log_sink *sink;

    if (argc < 4) {
        fprintf(stderr, "usage: hv_driver DIR NBD_SOCKET KEEPER [CURRENT]\n");
        return 2;
    }
    if (argc > 4)
        snprintf(driver.current, sizeof(driver.current), "%s", argv[4]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (io_uring_new(NULL, &driver.io) < 0 ||
        log_file_sink_new(stderr, "driver", LOG_INFO, &sink) < 0 ||
        co_spawn(driver.io, "main", co_main, &driver) < 0) {
        fprintf(stderr, "hv_driver: no io_uring\n");
        return 1;
    }
    io_set_log_sink(driver.io, sink);
    io_run(driver.io);
    io_free(driver.io);
    log_file_sink_free(sink);
    return 0;
}
