/* What was written lies in RAM, block by block, and is laid over what is read from the medium. */
#include <uthash.h>

#include "s2d/base/io_backend.h"
#include "s2d/base/scratch.h"

struct scratch_block {
    uint64_t number;
    UT_hash_handle hh;
    char data[BLOCK_SIZE];
};

struct scratch {
    struct io_file *file;
    struct scratch_block *blocks; /* by number */
};

struct scratch_read { /* from the medium, before the blocks are laid over it */
    struct io_op op;
    struct io_op *parent;
    struct scratch *scratch;
    const struct iovec *iov; /* the parent's: valid until it is done */
    int iov_count;
    uint64_t offset;
};

struct scratch *scratch_new(struct io_file *file)
{
    struct scratch *scratch = calloc(1, sizeof(*scratch));

    if (scratch)
        scratch->file = file;
    return scratch;
}

void scratch_free(struct scratch *scratch)
{
    struct scratch_block *block, *next;

    if (!scratch)
        return;
    HASH_ITER(hh, scratch->blocks, block, next)
    {
        HASH_DEL(scratch->blocks, block);
        free(block);
    }
    free(scratch);
}

static struct scratch_block *find_block(struct scratch *scratch, uint64_t number)
{
    struct scratch_block *block;

    HASH_FIND(hh, scratch->blocks, &number, sizeof(number), block);
    return block;
}

/* Calls fn for each block of the vector that lies at offset. */
static int each_block(struct scratch *scratch, const struct iovec *iov, int iov_count,
                      uint64_t offset, int (*fn)(struct scratch *, uint64_t number, char *data))
{
    int r = 0;

    assert(offset % BLOCK_SIZE == 0);
    for (int i = 0; i < iov_count; i++) {
        assert(iov[i].iov_len % BLOCK_SIZE == 0);
        for (size_t at = 0; r == 0 && at < iov[i].iov_len; at += BLOCK_SIZE) {
            r = fn(scratch, offset / BLOCK_SIZE, (char *)iov[i].iov_base + at);
            offset += BLOCK_SIZE;
        }
    }
    return r;
}

static int lay_over(struct scratch *scratch, uint64_t number, char *data)
{
    const struct scratch_block *block = find_block(scratch, number);

    if (block)
        memcpy(data, block->data, BLOCK_SIZE);
    return 0;
}

static int keep(struct scratch *scratch, uint64_t number, char *data)
{
    struct scratch_block *block = find_block(scratch, number);

    if (!block) {
        block = malloc(sizeof(*block));
        if (!block)
            return -ENOMEM;
        block->number = number;
        HASH_ADD(hh, scratch->blocks, number, sizeof(block->number), block);
    }
    memcpy(block->data, data, BLOCK_SIZE);
    return 0;
}

static void read_done(struct io_op *op, int result)
{
    struct scratch_read *read = container_of(op, struct scratch_read, op);
    struct io_op *parent = read->parent;

    if (result >= 0)
        (void)each_block(read->scratch, read->iov, read->iov_count, read->offset, lay_over);
    free(read);
    parent->done(parent, result);
}

/* Never inside the call that began it. */
static void end_later(struct scratch *scratch, struct io_op *op, int result)
{
    op->extra[0] = (uint64_t)(int64_t)result;
    list_push_back(&scratch->file->io->faulted, &op->node);
}

void scratch_readv(struct scratch *scratch, struct io_op *op, const struct iovec *iov,
                   int iov_count, uint64_t offset)
{
    struct scratch_read *read = malloc(sizeof(*read));

    if (!read) {
        end_later(scratch, op, -ENOMEM);
        return;
    }
    *read = (struct scratch_read){.op.done = read_done,
                                  .parent = op,
                                  .scratch = scratch,
                                  .iov = iov,
                                  .iov_count = iov_count,
                                  .offset = offset};
    scratch->file->io->ops->file_readv(scratch->file, &read->op, iov, iov_count, offset);
}

void scratch_writev(struct scratch *scratch, struct io_op *op, const struct iovec *iov,
                    int iov_count, uint64_t offset)
{
    int r = each_block(scratch, iov, iov_count, offset, keep);

    for (int i = 0; r >= 0 && i < iov_count; i++)
        r += (int)iov[i].iov_len;
    end_later(scratch, op, r);
}
