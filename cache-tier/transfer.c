#include "cache-tier/transfer.h"
#include "s2d/base/co.h"

struct run;
struct lane {
    struct io_op op;
    struct run *run;
    struct transfer *transfer;
};

struct run { /* on the stack of the coroutine that waits */
    struct io_file *file;
    enum transfer_kind kind;
    struct transfer *next, *end;
    unsigned in_flight;
    int error;
    bool stopped;
    struct co *co;
    struct lane lanes[TRANSFER_DEPTH_MAX];
};

static void lane_start(struct lane *lane)
{
    struct run *run = lane->run;
    struct transfer *transfer = lane->transfer = run->next++;

    struct io_file *file = transfer->file ? transfer->file : run->file;

    run->in_flight++;
    if (run->kind == TRANSFER_READ)
        io_file_readv(file, &lane->op, transfer->iov, transfer->iov_count, transfer->offset);
    else
        io_file_writev(file, &lane->op, transfer->iov, transfer->iov_count, transfer->offset, 0);
}

static void lane_done(struct io_op *op, int result)
{
    struct lane *lane = container_of(op, struct lane, op);
    struct run *run = lane->run;

    run->in_flight--;
    lane->transfer->result = MIN(result, 0);
    if (result < 0 && run->error == 0)
        run->error = result;
    if (result == -ECANCELED)
        run->stopped = true;
    if (run->next < run->end && !run->stopped)
        lane_start(lane);
    else if (run->in_flight == 0)
        co_wake(run->co);
}

int co_transfer(struct io_file *file, enum transfer_kind kind, struct transfer *transfers,
                size_t count, unsigned depth)
{
    struct run run = {.file = file, .kind = kind, .next = transfers, .end = transfers + count};

    assert(depth > 0);
    assert(depth <= TRANSFER_DEPTH_MAX);
    if (count == 0)
        return 0;
    run.co = co_self();
    for (size_t i = 0; i < count; i++)
        transfers[i].result = -ECANCELED;
    for (unsigned i = 0; i < depth && run.next < run.end; i++) {
        run.lanes[i].run = &run;
        run.lanes[i].op.done = lane_done;
        lane_start(&run.lanes[i]);
    }
    co_wait();
    assert(run.in_flight == 0);
    return run.error;
}
