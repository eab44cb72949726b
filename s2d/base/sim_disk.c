/* The simulator's disks: every machine has files by path (sim_inode.h: what of them is durable).
 *
 * Writes in flight have had no effect yet; they take their data when they end. A power cut applies
 * each wholly, torn or not at all. When only the process dies they go on (as the kernel's do), with
 * a copy of their data, and keep the file locked.
 *
 * A disk may also be told to lie (sim_disk_spoil_write()): then a write ends well and has no
 * effect, or has it elsewhere. */
#include "s2d/base/checksum.h"
#include "s2d/base/sim_inode.h"

#define FILE_BYTES_MAX ((uint64_t)1 << 42)

struct open_file {
    struct io_file file;
    struct list node; /* of machine->open_files */
    struct machine *machine;
    struct inode *inode;
    unsigned flags;
    unsigned pending;
};

enum disk_op_kind { DISK_READ, DISK_WRITE, DISK_SYNC, DISK_DISCARD, DISK_TRUNCATE };

struct disk_op {
    struct list node; /* of machine->disk_ops */
    struct sim_event event;
    enum disk_op_kind kind;
    struct machine *machine;
    struct inode *inode;
    struct open_file *file; /* NULL: a ghost */
    struct io_op *op;
    const struct iovec *iov;
    int iov_count;
    char *data; /* a ghost's copy */
    uint64_t offset, length;
    uint64_t journal_order; /* a sync covers the entries up to this one */
    bool durable;
};

/* ---- what operations do when they end ---- */

static char *iov_gather(const struct iovec *iov, int iov_count, uint64_t length)
{
    char *data = sim_alloc(MAX(length, (uint64_t)1));
    char *at = data;

    for (int i = 0; i < iov_count; i++) {
        memcpy(at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    return data;
}

static uint64_t iov_length(const struct iovec *iov, int iov_count)
{
    uint64_t length = 0;

    for (int i = 0; i < iov_count; i++)
        length += iov[i].iov_len;
    return length;
}

static int effect_read(struct disk_op *op)
{
    const struct inode *inode = op->inode;
    uint64_t at = op->offset, hash = 0;

    if (op->offset > inode->size_bytes || op->length > inode->size_bytes - op->offset)
        return -EIO;
    for (int i = 0; i < op->iov_count; i++) {
        sim_image_read(&inode->view, at, op->iov[i].iov_base, op->iov[i].iov_len);
        hash = hash * 31 + hash64(op->iov[i].iov_base, op->iov[i].iov_len);
        at += op->iov[i].iov_len;
    }
    sim_note(op->machine->sim, RECORD_READ, op->machine->number, op->offset, hash);
    return (int)op->length;
}

/* What becomes of a write of this disk: *ret_offset, or UINT64_MAX for nothing. Once. */
static void spoil_write(struct disk_op *op, uint64_t *ret_offset)
{
    struct inode *inode = op->inode;
    uint64_t room = inode->size_bytes - MIN(inode->size_bytes, inode->spoil_from + op->length);

    if (inode->spoil == SIM_WRITE_TRUE || op->offset < inode->spoil_from)
        return;
    *ret_offset = UINT64_MAX;
    if (inode->spoil == SIM_WRITE_MISDIRECTED && room > 0)
        *ret_offset = inode->spoil_from +
                      ALIGN_DOWN(sim_rng_between(&op->machine->sim->disk_rng, 0, room), BLOCK_SIZE);
    inode->spoil = SIM_WRITE_TRUE;
    sim_note(op->machine->sim, RECORD_SPOILED, op->machine->number, op->offset, *ret_offset);
}

static bool is_zero(const char *data, size_t length)
{
    return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

static int effect_write(struct disk_op *op)
{
    const char *data = op->data;
    uint64_t offset = op->offset;

    if (!data && op->iov_count == 1)
        data = op->iov[0].iov_base;
    else if (!data)
        data = op->data = iov_gather(op->iov, op->iov_count, op->length);
    if (op->length > 0 && is_zero(data, op->length))
        data = NULL; /* a log region is written with zeros when it is claimed: a run's most bytes */
    sim_note(op->machine->sim, RECORD_WRITE, op->machine->number, op->offset,
             data ? hash64(data, op->length) : 0);
    spoil_write(op, &offset);
    if (offset != UINT64_MAX)
        inode_put(op->inode, offset, op->length, data, op->durable);
    return (int)op->length;
}

static int effect_sync(struct disk_op *op)
{
    sim_note(op->machine->sim, RECORD_SYNC, op->machine->number, 0, 0);
    inode_sync(op->inode, op->journal_order);
    return 0;
}

static int effect_discard(struct disk_op *op)
{
    uint64_t size_bytes = op->inode->size_bytes;

    sim_note(op->machine->sim, RECORD_DISCARD, op->machine->number, op->offset, op->length);
    if (op->offset < size_bytes)
        inode_put(op->inode, op->offset, MIN(op->length, size_bytes - op->offset), NULL, false);
    return 0;
}

static int effect_truncate(struct disk_op *op)
{
    sim_note(op->machine->sim, RECORD_TRUNCATE, op->machine->number, op->length, 0);
    inode_set_size(op->inode, op->length);
    if (op->file)
        op->file->file.info.size_bytes = op->length;
    return 0;
}

static bool op_fails(const struct disk_op *op)
{
    switch (op->inode->fault) {
    case SIM_DISK_OK:
        return false;
    case SIM_DISK_READ_ERRORS:
        return op->kind == DISK_READ;
    case SIM_DISK_WRITE_ERRORS:
        return op->kind != DISK_READ;
    case SIM_DISK_DEAD:
        return true;
    }
    return true;
}

static int op_effect(struct disk_op *op)
{
    if (op_fails(op))
        return -EIO;
    switch (op->kind) {
    case DISK_READ:
        return effect_read(op);
    case DISK_WRITE:
        return effect_write(op);
    case DISK_SYNC:
        return effect_sync(op);
    case DISK_DISCARD:
        return effect_discard(op);
    case DISK_TRUNCATE:
        return effect_truncate(op);
    }
    return -EINVAL;
}

static void op_end(struct disk_op *op, int result)
{
    list_remove(&op->node);
    sim_event_cancel(op->machine->sim, &op->event);
    if (op->file) {
        op->file->pending--;
        machine_complete(op->machine, op->op, result);
    } else {
        op->inode->ghosts--;
    }
    free(op->data);
    free(op);
}

static bool op_hangs(const struct disk_op *op)
{
    switch (op->kind) {
    case DISK_READ:
        return op->inode->hanging & SIM_HANG_READS;
    case DISK_SYNC:
        return op->inode->hanging & SIM_HANG_SYNCS;
    case DISK_WRITE:
    case DISK_DISCARD:
    case DISK_TRUNCATE:
        return op->inode->hanging & SIM_HANG_WRITES;
    }
    return false;
}

static void op_fire(void *arg)
{
    if (!op_hangs(arg)) /* else sim_disk_hang() lets it fire again */
        op_end(arg, op_effect(arg));
}

/* ---- submitting ---- */

static uint64_t op_latency_ns(struct disk_op *op)
{
    const struct sim_options *options = &op->machine->sim->options;
    struct sim_rng *rng = &op->machine->sim->disk_rng;
    uint64_t latency_ns = 0;

    switch (op->kind) {
    case DISK_READ:
        latency_ns = sim_rng_between(rng, options->disk_read_ns_min, options->disk_read_ns_max);
        break;
    case DISK_WRITE:
    case DISK_DISCARD:
        latency_ns = sim_rng_between(rng, options->disk_write_ns_min, options->disk_write_ns_max);
        break;
    case DISK_SYNC:
    case DISK_TRUNCATE:
        latency_ns = sim_rng_between(rng, options->disk_sync_ns_min, options->disk_sync_ns_max);
        break;
    }
    return (uint64_t)((unsigned __int128)latency_ns * op->inode->slowdown_ppm / SLOWDOWN_ONE);
}

static void count_write(struct machine *machine, uint64_t latency_ns)
{
    struct sim *sim = machine->sim;

    machine->write_count++;
    if (machine->write_count == machine->crash_at_write)
        sim_event_schedule(sim, &machine->crash_event,
                           sim->now_ns + sim_rng_between(&sim->disk_rng, 0, latency_ns));
}

static int submit_check(const struct open_file *file, const struct disk_op *op)
{
    bool changes = op->kind == DISK_WRITE || op->kind == DISK_DISCARD || op->kind == DISK_TRUNCATE;

    if (file->machine->dying)
        return -ECANCELED;
    if (changes && (file->flags & IO_OPEN_READ_ONLY))
        return -EBADF;
    if (op->offset > FILE_BYTES_MAX || op->length > FILE_BYTES_MAX - op->offset)
        return -EFBIG;
    if (!(file->flags & IO_OPEN_DIRECT) || (op->kind != DISK_READ && op->kind != DISK_WRITE))
        return 0;
    if (op->offset % BLOCK_SIZE != 0 || op->length % BLOCK_SIZE != 0)
        return -EINVAL;
    for (int i = 0; i < op->iov_count; i++) {
        if ((uintptr_t)op->iov[i].iov_base % BLOCK_SIZE || op->iov[i].iov_len % BLOCK_SIZE)
            return -EINVAL;
    }
    return 0;
}

/* request: kind and what belongs to it. */
static void submit(struct io_file *io_file, struct io_op *io_op, const struct disk_op *request)
{
    struct open_file *file = container_of(io_file, struct open_file, file);
    struct machine *machine = file->machine;
    struct disk_op *op;
    uint64_t latency_ns;
    int r;

    r = submit_check(file, request);
    if (r < 0) {
        machine_complete(machine, io_op, r);
        return;
    }
    op = sim_alloc(sizeof(*op));
    *op = *request;
    op->machine = machine;
    op->inode = file->inode;
    op->file = file;
    op->op = io_op;
    op->journal_order = file->inode->journal_order;
    file->pending++;
    list_push_back(&machine->disk_ops, &op->node);
    latency_ns = op_latency_ns(op);
    sim_event_init(&op->event, op_fire, op);
    sim_event_schedule(machine->sim, &op->event, machine->sim->now_ns + latency_ns);
    if (op->kind != DISK_READ && op->kind != DISK_SYNC)
        count_write(machine, latency_ns);
}

void sim_file_readv(struct io_file *file, struct io_op *op, const struct iovec *iov, int iov_count,
                    uint64_t offset)
{
    struct disk_op request = {.kind = DISK_READ,
                              .iov = iov,
                              .iov_count = iov_count,
                              .offset = offset,
                              .length = iov_length(iov, iov_count)};

    submit(file, op, &request);
}

void sim_file_writev(struct io_file *file, struct io_op *op, const struct iovec *iov, int iov_count,
                     uint64_t offset, unsigned flags)
{
    struct disk_op request = {.kind = DISK_WRITE,
                              .iov = iov,
                              .iov_count = iov_count,
                              .offset = offset,
                              .length = iov_length(iov, iov_count),
                              .durable = flags & IO_WRITE_DSYNC};

    submit(file, op, &request);
}

void sim_file_sync(struct io_file *file, struct io_op *op)
{
    submit(file, op, &(struct disk_op){.kind = DISK_SYNC});
}

void sim_file_discard(struct io_file *file, struct io_op *op, uint64_t offset, uint64_t length)
{
    submit(file, op, &(struct disk_op){.kind = DISK_DISCARD, .offset = offset, .length = length});
}

struct truncate {
    struct io_op op;
    struct co *co;
    int result;
};

static void truncate_done(struct io_op *op, int result)
{
    struct truncate *truncate = container_of(op, struct truncate, op);

    truncate->result = result;
    co_wake(truncate->co);
}

int sim_co_truncate(struct io_file *file, uint64_t size_bytes)
{
    struct truncate truncate = {.op.done = truncate_done, .co = co_self()};

    submit(file, &truncate.op, &(struct disk_op){.kind = DISK_TRUNCATE, .length = size_bytes});
    co_wait();
    return truncate.result;
}

/* ---- names, opening, closing ---- */

static struct inode *inode_find(struct machine *machine, const char *path)
{
    list_for_each (node, &machine->inodes) {
        struct inode *inode = list_entry(node, struct inode, node);

        if (strcmp(inode->path, path) == 0)
            return inode;
    }
    return NULL;
}

static int open_inode(struct machine *machine, const char *path, unsigned flags,
                      struct inode **ret_inode)
{
    struct inode *inode = inode_find(machine, path);

    if (!inode && !(flags & IO_OPEN_CREATE))
        return -ENOENT;
    if (inode && (flags & IO_OPEN_CREATE) && (flags & IO_OPEN_EXCLUSIVE))
        return -EEXIST;
    if (inode && inode->fault == SIM_DISK_DEAD)
        return -EIO;
    if (inode && (flags & IO_OPEN_LOCK) && (inode->locked || inode->ghosts > 0))
        return -EBUSY;
    *ret_inode = inode ? inode : inode_new(machine, path);
    return 0;
}

int sim_co_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
    struct machine *machine = machine_of_io(io);
    const struct sim_options *options = &machine->sim->options;
    struct open_file *file;
    struct inode *inode = NULL;
    int r;

    r = sim_co_pause(machine, sim_rng_between(&machine->sim->disk_rng, options->offload_ns_min,
                                              options->offload_ns_max));
    if (r == 0)
        r = machine->dying ? -ECANCELED : open_inode(machine, path, flags, &inode);
    sim_note(machine->sim, RECORD_OPEN, machine->number, (uint64_t)(int64_t)r, 0);
    if (r < 0)
        return r;

    file = sim_alloc(sizeof(*file));
    file->file.io = io;
    file->file.info.size_bytes = inode->size_bytes;
    file->machine = machine;
    file->inode = inode;
    file->flags = flags;
    if (flags & IO_OPEN_LOCK)
        inode->locked = true;
    list_push_back(&machine->open_files, &file->node);

    *ret_file = &file->file;
    return 0;
}

void sim_file_close(struct io_file *io_file)
{
    struct open_file *file = container_of(io_file, struct open_file, file);

    assert(file->pending == 0);
    if (file->flags & IO_OPEN_LOCK)
        file->inode->locked = false;
    list_remove(&file->node);
    free(file);
}

size_t sim_disk_count_open(struct machine *machine)
{
    size_t count = 0;

    list_for_each (node, &machine->open_files) {
        fprintf(stderr, "machine %u: left open: %s\n", machine->number,
                list_entry(node, struct open_file, node)->inode->path);
        count++;
    }
    return count;
}

/* ---- crashes ---- */

/* The program gets -ECANCELED; what changes the medium goes on without it. */
static void op_become_ghost(struct disk_op *op)
{
    if (op->kind == DISK_WRITE)
        op->data = iov_gather(op->iov, op->iov_count, op->length);
    op->inode->ghosts++;
    op->file->pending--;
    op->file = NULL;
    machine_complete(op->machine, op->op, -ECANCELED);
    op->op = NULL;
}

/* In flight: it may land behind all that had completed. */
static void op_power_cut(struct disk_op *op)
{
    struct inode *inode = op->inode;
    struct cut_plan plan = {.sim = op->machine->sim, .machine = op->machine->number};

    if (op->kind != DISK_WRITE && op->kind != DISK_DISCARD)
        return;
    if (op->kind == DISK_WRITE && !op->data)
        op->data = iov_gather(op->iov, op->iov_count, op->length);
    if (op->kind == DISK_DISCARD)
        op->length = MIN(op->length, inode->size_bytes - MIN(inode->size_bytes, op->offset));
    if (op_fails(op) || op->length == 0)
        return;
    plan.keep_percent = 50;
    inode_grow(inode, op->offset + op->length);
    put_maybe(&plan, &inode->view, op->offset, op->length, op->data, 50); /* nothing is dirty now */
}

void sim_disk_crash(struct machine *machine, enum sim_crash_kind kind)
{
    if (kind == SIM_HOST_DIES) {
        list_for_each (node, &machine->inodes)
            inode_power_cut(machine, list_entry(node, struct inode, node));
    }
    list_for_each_safe (node, &machine->disk_ops) {
        struct disk_op *op = list_entry(node, struct disk_op, node);

        if (kind == SIM_HOST_DIES) {
            op_power_cut(op);
            op_end(op, -ECANCELED);
        } else if (op->kind == DISK_READ || op->kind == DISK_SYNC) {
            op_end(op, -ECANCELED);
        } else if (op->file) {
            op_become_ghost(op);
        }
    }
}

void sim_crash_at_write(struct sim *sim, unsigned number, uint64_t nth)
{
    struct machine *machine = sim_machine(sim, number);

    machine->crash_at_write = nth ? machine->write_count + nth : 0;
    sim_event_cancel(sim, &machine->crash_event);
}

uint64_t sim_write_count(const struct sim *sim, unsigned number)
{
    return sim->machines[number] ? sim->machines[number]->write_count : 0;
}

/* ---- for tests ---- */

int sim_disk_create(struct sim *sim, unsigned number, const char *path, uint64_t size_bytes)
{
    struct machine *machine = sim_machine(sim, number);

    if (size_bytes > FILE_BYTES_MAX)
        return -EFBIG;
    if (inode_find(machine, path))
        return -EEXIST;
    inode_grow(inode_new(machine, path), size_bytes);
    return 0;
}

static struct inode *inode_named(struct sim *sim, unsigned number, const char *path)
{
    struct inode *inode = inode_find(sim_machine(sim, number), path);

    assert(inode); /* a test's own mistake */
    return inode;
}

void sim_disk_set_fault(struct sim *sim, unsigned number, const char *path,
                        enum sim_disk_fault fault)
{
    struct inode *inode = inode_named(sim, number, path);

    inode->fault = fault;
    sim_note(sim, RECORD_DISK_FAULT, number, fault, inode->slowdown_ppm);
}

void sim_disk_set_slowdown(struct sim *sim, unsigned number, const char *path, double factor)
{
    struct inode *inode = inode_named(sim, number, path);

    inode->slowdown_ppm = (uint64_t)(factor * SLOWDOWN_ONE + 0.5);
    sim_note(sim, RECORD_DISK_FAULT, number, inode->fault, inode->slowdown_ppm);
}

void sim_disk_hang(struct sim *sim, unsigned number, const char *path, unsigned kinds)
{
    struct inode *inode = inode_named(sim, number, path);

    if (inode->hanging == kinds)
        return;
    inode->hanging = kinds;
    sim_note(sim, RECORD_HANG, number, kinds, 0);
    list_for_each (node, &sim_machine(sim, number)->disk_ops) {
        struct disk_op *op = list_entry(node, struct disk_op, node);

        if (op->inode == inode && op->event.heap_index == 0 && !op_hangs(op))
            sim_event_schedule(sim, &op->event, sim->now_ns + op_latency_ns(op));
    }
}

static int find_range(struct sim *sim, unsigned number, const char *path, uint64_t offset,
                      size_t length, struct inode **ret_inode)
{
    struct inode *inode = inode_find(sim_machine(sim, number), path);

    if (!inode)
        return -ENOENT;
    if (offset > inode->size_bytes || length > inode->size_bytes - offset)
        return -EINVAL;
    *ret_inode = inode;
    return 0;
}

int sim_disk_peek(struct sim *sim, unsigned number, const char *path, uint64_t offset, void *buffer,
                  size_t length)
{
    struct inode *inode;
    int r;

    r = find_range(sim, number, path, offset, length, &inode);
    if (r < 0)
        return r;
    sim_image_read(&inode->view, offset, buffer, length);
    return 0;
}

int sim_disk_poke(struct sim *sim, unsigned number, const char *path, uint64_t offset,
                  const void *buffer, size_t length)
{
    struct inode *inode;
    int r;

    r = find_range(sim, number, path, offset, length, &inode);
    if (r < 0)
        return r;
    inode_put(inode, offset, length, buffer, true);
    return 0;
}

void sim_disk_spoil_write(struct sim *sim, unsigned number, const char *path,
                          enum sim_disk_spoil spoil, uint64_t from_offset)
{
    struct inode *inode = inode_named(sim, number, path);

    inode->spoil = spoil;
    inode->spoil_from = from_offset;
}

/* ---- a machine's part ---- */

void sim_disk_init(struct machine *machine)
{
    list_init(&machine->inodes);
    list_init(&machine->open_files);
    list_init(&machine->disk_ops);
}

void sim_disk_free(struct machine *machine)
{
    struct list *node;

    assert(list_empty(&machine->disk_ops));
    while ((node = list_pop_front(&machine->inodes)))
        inode_free(list_entry(node, struct inode, node));
}
