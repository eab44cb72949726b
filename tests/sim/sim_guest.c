/* QEMU and its guest. QEMU opens its disk before it does anything else, and ends when it cannot;
 * later it keeps a request until the disk's server answers, as with `reconnect-delay`: on a new
 * connection it sends it again. It answers QMP as far as the daemon asks.
 *
 * The guest reads all of its disk, and then reads and writes, in several threads, each with blocks
 * of its own, until it is asked to power off, or has an error from its disk. */
#include "s2d/base/json.h"
#include "tests/sim/sim_blocks.h"
#include "tests/sim/sim_nbd.h"
#include "tests/sim/sim_vms.h"

#define NBD_ADDRESS "unix:/s2d/nbd.sock"
#define THREADS 2
#define REQUEST_BLOCKS_MAX 4
#define THINK_NS_MAX (150 * MS)
#define RECONNECT_NS (100 * MS)
#define QMP_TEXT_MAX 1024
#define WORDS (BLOCK_SIZE / sizeof(uint64_t))
#define EXITED(status) ((status) << 8) /* as of waitpid() */

struct thread {
    struct guest *guest;
    unsigned number;
    struct sim_nbd nbd;
    uint64_t *buffer;
};

struct guest {
    struct machine *machine; /* that it runs on */
    struct sim_vm *vm;
    uint64_t serial;
    char qmp_address[IO_ADDRESS_MAX];
    char export_name[HV_EXPORT_BYTES];
    struct io *io;
    int wait_status;
    struct io_listener *qmp;
    struct io_stream *monitor; /* who speaks QMP; NULL: nobody */
    struct co_group threads, monitors;
    bool power_off; /* asked for */
    bool halted;    /* its disk has failed it */
};

struct guest *guest_new(struct machine *machine, struct sim_vm *vm, uint64_t incarnation,
                        const char *folder, const char *export_name)
{
    struct guest *guest = calloc(1, sizeof(*guest));

    if (!guest || !vm)
        abort();
    guest->machine = machine;
    guest->vm = vm;
    guest->serial = vm_serial(vm, incarnation);
    snprintf(guest->qmp_address, sizeof(guest->qmp_address), "unix:%s/qmp.sock", folder);
    snprintf(guest->export_name, sizeof(guest->export_name), "%s", export_name);
    return guest;
}

void guest_free(struct guest *guest)
{
    free(guest);
}

int guest_wait_status(const struct guest *guest)
{
    return guest->wait_status;
}

struct sim_vm *guest_vm(const struct guest *guest)
{
    return guest->vm;
}

/* ---- its disk ---- */

static int co_connect(struct thread *thread)
{
    struct guest *guest = thread->guest;
    int r = co_sim_nbd_open(&thread->nbd, guest->io, NBD_ADDRESS, guest->export_name);

    if (r == 0)
        vm_disk_opened(guest->vm, guest->serial);
    return r;
}

/* As often as there is a new connection. Returns 0, -ECANCELED, or what the disk answered. */
static int co_request(struct thread *thread, enum nbd_command command, uint64_t first,
                      uint64_t count)
{
    struct world *world = vm_world(thread->guest->vm);
    struct vm_counts *counts = vms_counts(world->vms);
    bool fua = command == NBD_CMD_WRITE && workload_flushes(world);
    int r;

    for (;;) {
        r = thread->nbd.stream ? 0 : co_connect(thread);
        if (r == 0)
            r = co_sim_nbd_request(&thread->nbd, command, fua ? NBD_CMD_FLAG_FUA : 0,
                                   first * BLOCK_SIZE, thread->buffer,
                                   (uint32_t)(count * BLOCK_SIZE));
        if (thread->nbd.stream || r == -ECANCELED || co_cancelled())
            return co_cancelled() ? -ECANCELED : r;
        counts->reconnects++;
        if (co_sleep_ns(RECONNECT_NS) < 0)
            return -ECANCELED;
    }
}

static void note_refusal(struct thread *thread, int error, uint64_t since_ns, const char *what)
{
    if (error == 0 || error == -ECANCELED)
        return;
    vm_disk_refuses(thread->guest->vm, thread->guest->serial, error, since_ns, what);
    thread->guest->halted = true;
}

static int co_read_blocks(struct thread *thread, uint64_t first, uint64_t count)
{
    struct sim_vm *vm = thread->guest->vm;
    struct world *world = vm_world(vm);
    struct history_op ops[REQUEST_BLOCKS_MAX];
    uint64_t since_ns = world_now_ns(world);
    int r;

    for (uint64_t i = 0; i < count; i++)
        ops[i] = history_begin(world->history, vm_blocks(vm)->regs[first + i], HISTORY_READ, 0,
                               vm_who(vm, thread->guest->serial), world_now_ns(world));
    r = co_request(thread, NBD_CMD_READ, first, count);
    for (uint64_t i = 0; i < count; i++) {
        if (r == 0)
            history_end(world->history, ops[i],
                        blocks_stamp(thread->guest->machine, vm_blocks(vm),
                                     thread->buffer + i * WORDS, first + i),
                        world_now_ns(world));
        else
            history_drop(world->history, ops[i]);
    }
    note_refusal(thread, r, since_ns, "read");
    vms_counts(world->vms)->reads += r == 0 ? count : 0;
    return r;
}

static int co_write_blocks(struct thread *thread, uint64_t first, uint64_t count)
{
    struct sim_vm *vm = thread->guest->vm;
    struct world *world = vm_world(vm);
    size_t writes[REQUEST_BLOCKS_MAX];
    uint64_t since_ns = world_now_ns(world);
    int r;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t stamp = stamp_new(world->workload, vm_blocks(vm)->regs[first + i]);

        blocks_fill(thread->buffer + i * WORDS, first + i, stamp);
        writes[i] = vm_write_begins(vm, thread->guest->serial, first + i, stamp);
    }
    r = co_request(thread, NBD_CMD_WRITE, first, count);
    for (uint64_t i = 0; r == 0 && i < count; i++)
        vm_write_ends(vm, writes[i]);
    note_refusal(thread, r, since_ns, "write");
    vms_counts(world->vms)->writes += r == 0 ? count : 0;
    return r;
}

static int co_flush(struct thread *thread)
{
    struct world *world = vm_world(thread->guest->vm);
    uint64_t since_ns = world_now_ns(world);
    int r = co_request(thread, NBD_CMD_FLUSH, 0, 0);

    note_refusal(thread, r, since_ns, "flush");
    world->counts.flushes += r == 0;
    return r;
}

/* ---- the guest's threads ---- */

static bool goes_on(const struct thread *thread)
{
    return !thread->guest->power_off && !thread->guest->halted && !co_cancelled();
}

static void co_be_busy(struct thread *thread, uint64_t first, uint64_t end)
{
    struct world *world = vm_world(thread->guest->vm);

    while (co_sleep_ns(world_draw(world, THINK_NS_MAX)) == 0 && goes_on(thread)) {
        uint64_t at = first + world_draw(world, end - first);
        uint64_t most = MIN(end - at, (uint64_t)REQUEST_BLOCKS_MAX);
        uint64_t count = 1 + world_draw(world, most);
        bool writes = world_draw(world, 100) < 60;
        int r = writes ? co_write_blocks(thread, at, count) : co_read_blocks(thread, at, count);

        if (r == 0 && workload_flushes(world))
            r = co_flush(thread);
        if (r < 0)
            return;
    }
}

static void thread_main(void *arg)
{
    struct thread *thread = arg;
    uint64_t count = vm_blocks(thread->guest->vm)->count;
    uint64_t first = thread->number * count / THREADS, end = (thread->number + 1) * count / THREADS;
    int r = 0;

    /* Where memory lies decides what the file system does with it: it must not be chance. */
    thread->buffer = aligned_alloc(BLOCK_SIZE, REQUEST_BLOCKS_MAX * BLOCK_SIZE);
    if (!thread->buffer)
        abort();
    for (uint64_t at = first; at < end && r == 0 && goes_on(thread); at += REQUEST_BLOCKS_MAX)
        r = co_read_blocks(thread, at, MIN(end - at, (uint64_t)REQUEST_BLOCKS_MAX));
    if (r == 0)
        co_be_busy(thread, first, end);
    free(thread->buffer);
}

/* A guest that has halted stands there until somebody ends it. */
static void co_run_guest(struct guest *guest, struct thread *threads)
{
    for (unsigned i = 0; i < THREADS; i++) {
        if (co_group_spawn(&guest->threads, guest->io, "guest", thread_main, &threads[i]) < 0)
            abort();
    }
    co_group_wait(&guest->threads);
    while (!guest->power_off && co_sleep_ns(100 * MS) == 0)
        ;
}

/* ---- QMP ---- */

static int co_say(struct guest *guest, json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT);
    char line[QMP_TEXT_MAX];
    int length = snprintf(line, sizeof(line), "%s\r\n", text);

    free(text);
    json_decref(object);
    return co_io_send(guest->monitor, line, (size_t)length);
}

static int co_answer(struct guest *guest, json_t *request)
{
    const char *command = json_string_value(json_object_get(request, "execute"));
    json_int_t id = json_integer_value(json_object_get(request, "id"));
    bool asks_status = command && strcmp(command, "query-status") == 0;

    if (command && strcmp(command, "system_powerdown") == 0)
        guest->power_off = true;
    json_decref(request);
    return co_say(guest, asks_status
                             ? json_pack("{s:{s:s},s:I}", "return", "status", "running", "id", id)
                             : json_pack("{s:{},s:I}", "return", "id", id));
}

/* Answers the first of the commands in text. Returns its length; 0: it is not whole yet. */
static size_t co_take_command(struct guest *guest, const char *text, int *ret_result)
{
    json_error_t error;
    json_t *request = json_loads(text, JSON_DISABLE_EOF_CHECK, &error);

    if (!request)
        return 0;
    *ret_result = co_answer(guest, request);
    return (size_t)error.position;
}

static void co_talk(struct guest *guest)
{
    char text[QMP_TEXT_MAX + 1];
    size_t length = 0, taken;
    int r = co_say(guest, json_pack("{s:{s:{},s:[]}}", "QMP", "version", "capabilities"));

    while (r == 0 && length < QMP_TEXT_MAX) {
        r = co_io_recv(guest->monitor, text + length, QMP_TEXT_MAX - length);
        if (r <= 0)
            return;
        length += (size_t)r;
        text[length] = '\0';
        r = 0;
        while (r == 0 && (taken = co_take_command(guest, text, &r)) > 0) {
            length -= taken;
            memmove(text, text + taken, length + 1);
        }
    }
}

static void monitor_main(void *arg)
{
    struct guest *guest = arg;

    while (co_io_accept(guest->qmp, &guest->monitor) == 0) {
        co_talk(guest);
        io_stream_close(guest->monitor);
        guest->monitor = NULL;
    }
}

static int open_monitor(struct guest *guest)
{
    int r = io_listen(guest->io, guest->qmp_address, &guest->qmp);

    return r == 0 ? co_group_spawn(&guest->monitors, guest->io, "qmp", monitor_main, guest) : r;
}

static void co_close_monitor(struct guest *guest)
{
    if (!guest->qmp)
        return;
    io_listener_shutdown(guest->qmp);
    if (guest->monitor)
        io_stream_shutdown(guest->monitor);
    co_group_wait(&guest->monitors);
    io_listener_close(guest->qmp);
}

/* ---- the program ---- */

void guest_main(struct io *io, void *arg)
{
    struct guest *guest = arg;
    struct thread threads[THREADS] = {0};
    int r;

    guest->io = io;
    guest->wait_status = EXITED(1);
    co_group_init(&guest->threads);
    co_group_init(&guest->monitors);
    for (unsigned i = 0; i < THREADS; i++)
        threads[i] = (struct thread){.guest = guest, .number = i};
    r = co_connect(&threads[0]);
    if (r == 0)
        r = open_monitor(guest);
    if (r == 0) {
        co_run_guest(guest, threads);
        guest->wait_status = EXITED(0);
    } else {
        world_tell(vm_world(guest->vm), "VM %s: QEMU does not come up: %s", vm_name(guest->vm),
                   strerror(-r));
    }
    for (unsigned i = 0; i < THREADS; i++)
        sim_nbd_close(&threads[i].nbd);
    co_close_monitor(guest);
    if (!sim_is_dying(io))
        io_stop(io);
}
