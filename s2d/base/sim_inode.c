#include "s2d/base/sim_inode.h"

#define SECTOR 512u
#define TORN_PIECES_MAX 4096u /* of a write; a larger one is torn into larger pieces */

struct volatile_write {
    struct list node;
    uint64_t order;
    uint64_t offset, length;
    bool durable;
    bool zeros; /* no data */
    char data[];
};

/* ---- life and size ---- */

void inode_grow(struct inode *inode, uint64_t size_bytes)
{
    uint64_t blocks = MAX(inode->dirty_blocks, (uint64_t)256);

    inode->size_bytes = MAX(inode->size_bytes, size_bytes);
    while (blocks < DIV_ROUND_UP(size_bytes, BLOCK_SIZE))
        blocks *= 2;
    if (blocks == inode->dirty_blocks)
        return;
    inode->dirty = realloc(inode->dirty, blocks);
    if (!inode->dirty)
        abort();
    memset(inode->dirty + inode->dirty_blocks, 0, blocks - inode->dirty_blocks);
    inode->dirty_blocks = blocks;
}

struct inode *inode_new(struct machine *machine, const char *path)
{
    struct inode *inode = sim_alloc(sizeof(*inode));

    inode->path = strdup(path);
    if (!inode->path)
        abort();
    inode->slowdown_ppm = SLOWDOWN_ONE;
    list_init(&inode->journal);
    inode_grow(inode, 0);
    list_push_back(&machine->inodes, &inode->node);
    return inode;
}

void inode_free(struct inode *inode)
{
    assert(list_empty(&inode->journal));
    sim_image_done(&inode->view);
    sim_image_done(&inode->medium);
    free(inode->dirty);
    free(inode->path);
    free(inode);
}

/* ---- the journal of what is not durable ---- */

static const char *volatile_data(const struct volatile_write *write)
{
    return write->zeros ? NULL : write->data;
}

static bool journal_overlaps(const struct inode *inode, uint64_t offset, uint64_t length)
{
    uint64_t first = offset / BLOCK_SIZE;
    uint64_t end = DIV_ROUND_UP(offset + length, BLOCK_SIZE);

    return !list_empty(&inode->journal) && end > first &&
           memchr(inode->dirty + first, 1, end - first);
}

static void journal_mark(struct inode *inode, const struct volatile_write *write, uint8_t mark)
{
    uint64_t first = write->offset / BLOCK_SIZE;

    memset(inode->dirty + first, mark,
           DIV_ROUND_UP(write->offset + write->length, BLOCK_SIZE) - first);
}

/* Blocks that the view and the medium had in common are about to differ. */
static void keep_medium(struct inode *inode, uint64_t offset, uint64_t length)
{
    for (uint64_t block = offset / BLOCK_SIZE; block * BLOCK_SIZE < offset + length; block++) {
        if (!inode->dirty[block])
            sim_image_copy(&inode->medium, &inode->view, block * BLOCK_SIZE, BLOCK_SIZE);
    }
}

static void journal_add(struct inode *inode, uint64_t offset, uint64_t length, const char *data,
                        bool durable)
{
    struct volatile_write *write = sim_alloc(sizeof(*write) + (data ? length : 0));

    write->order = ++inode->journal_order;
    write->offset = offset;
    write->length = length;
    write->durable = durable;
    write->zeros = !data;
    if (data)
        memcpy(write->data, data, length);
    list_push_back(&inode->journal, &write->node);
    keep_medium(inode, offset, length);
    journal_mark(inode, write, 1);
}

void inode_put(struct inode *inode, uint64_t offset, uint64_t length, const char *data,
               bool durable)
{
    if (length == 0)
        return;
    inode_grow(inode, offset + length);
    if (!durable || journal_overlaps(inode, offset, length))
        journal_add(inode, offset, length, data, durable);
    sim_image_write(&inode->view, offset, data, length);
}

void inode_sync(struct inode *inode, uint64_t order)
{
    while (!list_empty(&inode->journal)) {
        struct volatile_write *write = list_first(&inode->journal, struct volatile_write, node);

        if (write->order > order)
            break;
        sim_image_write(&inode->medium, write->offset, volatile_data(write), write->length);
        journal_mark(inode, write, 0);
        list_remove(&write->node);
        free(write);
    }
    list_for_each (node, &inode->journal)
        journal_mark(inode, list_entry(node, struct volatile_write, node), 1);
    if (list_empty(&inode->journal))
        sim_image_done(&inode->medium);
}

void inode_set_size(struct inode *inode, uint64_t size_bytes)
{
    uint64_t old_bytes = inode->size_bytes;

    inode_grow(inode, size_bytes);
    inode->size_bytes = size_bytes;
    if (size_bytes >= old_bytes)
        return;
    sim_image_write(&inode->view, size_bytes, NULL, old_bytes - size_bytes);
    sim_image_write(&inode->medium, size_bytes, NULL, old_bytes - size_bytes);
    list_for_each_safe (node, &inode->journal) {
        struct volatile_write *write = list_entry(node, struct volatile_write, node);

        if (write->offset + write->length > size_bytes)
            write->length = size_bytes - MIN(size_bytes, write->offset);
        if (write->length == 0) {
            list_remove(&write->node);
            free(write);
        }
    }
}

/* ---- power cuts ---- */

static void put_torn(const struct cut_plan *plan, struct sim_image *image, uint64_t offset,
                     uint64_t length, const char *data)
{
    uint64_t piece = SECTOR;

    while (length / piece > TORN_PIECES_MAX)
        piece *= 2;
    for (uint64_t at = 0; at < length; at += piece) {
        if (sim_rng_chance(&plan->sim->disk_rng, 50))
            sim_image_write(image, offset + at, data ? data + at : NULL, MIN(piece, length - at));
    }
}

void put_maybe(const struct cut_plan *plan, struct sim_image *image, uint64_t offset,
               uint64_t length, const char *data, unsigned torn_percent)
{
    bool torn = sim_rng_chance(&plan->sim->disk_rng, torn_percent);
    bool kept = sim_rng_chance(&plan->sim->disk_rng, plan->keep_percent);

    if (torn && plan->sim->options.torn_writes) {
        sim_note(plan->sim, RECORD_TORN, plan->machine, offset, length);
        put_torn(plan, image, offset, length, data);
    } else if (kept) {
        sim_image_write(image, offset, data, length);
    } else {
        sim_note(plan->sim, RECORD_LOST, plan->machine, offset, length);
    }
}

void inode_power_cut(struct machine *machine, struct inode *inode)
{
    struct cut_plan plan = {.sim = machine->sim, .machine = machine->number};
    struct list done, *node;

    plan.keep_percent = 25 * (unsigned)sim_rng_between(&machine->sim->disk_rng, 0, 5);
    list_init(&done);
    while ((node = list_pop_front(&inode->journal))) {
        struct volatile_write *write = list_entry(node, struct volatile_write, node);

        if (write->durable)
            sim_image_write(&inode->medium, write->offset, volatile_data(write), write->length);
        else
            put_maybe(&plan, &inode->medium, write->offset, write->length, volatile_data(write),
                      15);
        list_push_back(&done, node);
    }
    while ((node = list_pop_front(&done))) {
        struct volatile_write *write = list_entry(node, struct volatile_write, node);

        sim_image_copy(&inode->view, &inode->medium, write->offset, write->length);
        journal_mark(inode, write, 0);
        free(write);
    }
    sim_image_done(&inode->medium);
}
