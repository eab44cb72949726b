/* A file that is as slow as a hard disk: operations wait here for a head that is where the last one
 * left it, and then go to the backend, which adds little.
 *
 * The model: the medium passes under the head at bytes_per_second, round and round. What lies ahead
 * comes by itself, and if it was just missed, a turn later; anything farther than a turn is, if
 * that is sooner, a seek (settle, and a share of the stroke by the root of the distance) and half a
 * turn. Of the first HDD_QUEUE operations that wait the one goes next that the head reaches first,
 * as a drive with command queueing does it, unless one has waited for HDD_PATIENCE_NS. There is no
 * volatile cache: a write that is done is on the medium, and a sync costs nothing. */
#include "s2d/base/hdd.h"
#include "s2d/base/io_backend.h"

#define HDD_QUEUE 32
#define HDD_PATIENCE_NS (1 * SEC)

enum hdd_op_kind { HDD_READ, HDD_WRITE };

struct hdd {
    struct io_file *file;
    struct io_hdd_model model;
    struct list waiting; /* struct io_op, in the order they came; extra[0]: when */
    struct io_timer timer;
    struct io_op *serving; /* until the timer fires */
    uint64_t head;         /* offset behind the last operation */
    uint64_t free_ns;      /* when it ended, or will */
};

/* ---- the model ---- */

static uint64_t root(uint64_t square)
{
    uint64_t result = 0;

    for (uint64_t bit = 1ull << 31; bit > 0; bit /= 2)
        if ((result + bit) * (result + bit) <= square)
            result += bit;
    return result;
}

static uint64_t transfer_ns(const struct hdd *hdd, uint64_t bytes)
{
    return (uint64_t)((double)bytes * (double)SEC / (double)hdd->model.bytes_per_second);
}

/* Over 1/n of the disk: 1/root(n) of the stroke. */
static uint64_t seek_ns(const struct hdd *hdd, uint64_t offset)
{
    uint64_t size = MAX(hdd->file->info.size_bytes, 1);
    uint64_t distance = offset > hdd->head ? offset - hdd->head : hdd->head - offset;
    uint64_t share = (uint64_t)((double)MIN(distance, size) / (double)size * (double)(1ull << 40));

    return hdd->model.settle_ns + (hdd->model.stroke_ns * root(share) >> 20) +
           hdd->model.turn_ns / 2;
}

/* When the operation's first byte is under the head. */
static uint64_t arrive_ns(const struct hdd *hdd, const struct io_op *op)
{
    uint64_t from_ns = MAX(hdd->free_ns, op->extra[0]);
    uint64_t by_seek = from_ns + seek_ns(hdd, op->offset), by_itself, ahead_ns;

    if (op->offset < hdd->head)
        return by_seek;
    ahead_ns = transfer_ns(hdd, op->offset - hdd->head);
    by_itself = hdd->free_ns + ahead_ns;
    if (by_itself < from_ns)
        by_itself += DIV_ROUND_UP(from_ns - by_itself, hdd->model.turn_ns) * hdd->model.turn_ns;
    return ahead_ns < hdd->model.turn_ns ? by_itself : MIN(by_itself, by_seek);
}

/* ---- the queue ---- */

static struct io_op *pick(const struct hdd *hdd)
{
    struct io_op *best = list_first(&hdd->waiting, struct io_op, node);
    unsigned seen = 0;

    if (best->extra[0] + HDD_PATIENCE_NS < hdd->free_ns)
        return best;
    list_for_each (node, &hdd->waiting) {
        struct io_op *op = list_entry(node, struct io_op, node);

        if (arrive_ns(hdd, op) < arrive_ns(hdd, best))
            best = op;
        if (++seen == HDD_QUEUE)
            break;
    }
    return best;
}

static void serve_next(struct hdd *hdd)
{
    struct io_op *op;
    uint64_t bytes = 0;

    if (hdd->serving || list_empty(&hdd->waiting))
        return;
    op = hdd->serving = pick(hdd);
    list_remove(&op->node);
    for (int i = 0; i < op->iov_count; i++)
        bytes += op->iov[i].iov_len;
    hdd->free_ns = arrive_ns(hdd, op) + transfer_ns(hdd, bytes);
    hdd->head = op->offset + bytes;
    io_timer_arm(hdd->file->io, &hdd->timer, hdd->free_ns);
}

static void served(void *arg)
{
    struct hdd *hdd = arg;
    struct io_op *op = take_ptr(hdd->serving);
    const struct io_backend_ops *ops = hdd->file->io->ops;

    if (op->kind == HDD_READ)
        ops->file_readv(hdd->file, op, op->iov, op->iov_count, op->offset);
    else
        ops->file_writev(hdd->file, op, op->iov, op->iov_count, op->offset, op->flags);
    serve_next(hdd);
}

static void enqueue(struct hdd *hdd, struct io_op *op, enum hdd_op_kind kind,
                    const struct iovec *iov, int iov_count, uint64_t offset)
{
    op->kind = kind;
    op->iov = iov;
    op->iov_count = iov_count;
    op->offset = offset;
    op->extra[0] = io_now_ns(hdd->file->io);
    list_push_back(&hdd->waiting, &op->node);
    serve_next(hdd);
}

void hdd_readv(struct hdd *hdd, struct io_op *op, const struct iovec *iov, int iov_count,
               uint64_t offset)
{
    op->flags = 0;
    enqueue(hdd, op, HDD_READ, iov, iov_count, offset);
}

void hdd_writev(struct hdd *hdd, struct io_op *op, const struct iovec *iov, int iov_count,
                uint64_t offset, unsigned flags)
{
    op->flags = flags;
    enqueue(hdd, op, HDD_WRITE, iov, iov_count, offset);
}

/* ---- life ---- */

int hdd_new(struct io_file *file, const struct io_hdd_model *model, struct hdd **ret_hdd)
{
    struct hdd *hdd;

    if (model->bytes_per_second == 0 || model->turn_ns == 0)
        return -EINVAL;
    hdd = calloc(1, sizeof(*hdd));
    if (!hdd)
        return -ENOMEM;
    hdd->file = file;
    hdd->model = *model;
    hdd->free_ns = io_now_ns(file->io);
    list_init(&hdd->waiting);
    io_timer_init(&hdd->timer, served, hdd);
    *ret_hdd = hdd;
    return 0;
}

void hdd_free(struct hdd *hdd)
{
    if (!hdd)
        return;
    assert(!hdd->serving);
    assert(list_empty(&hdd->waiting));
    free(hdd);
}
