/* Files of the io_uring backend. A transfer that the kernel cuts short goes on where it ended. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "s2d/base/io_uring_private.h"

struct uring_file {
    struct io_file file;
    int fd;
};

static struct uring_file *file_of(struct io_file *file)
{
    return container_of(file, struct uring_file, file);
}

static bool device_is_rotational(dev_t device)
{
    char path[128], value = '0';
    int fd;

    /* a partition's queue is its disk's, one folder up */
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/queue/rotational", major(device),
             minor(device));
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../queue/rotational", major(device),
                 minor(device));
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0)
        return false;
    if (read(fd, &value, 1) != 1)
        value = '0';
    close(fd);
    return value == '1';
}

struct open_job {
    const char *path;
    unsigned flags;
    struct uring_file *file;
    int result;
};

static int file_look(struct uring_file *file)
{
    struct stat status;

    if (fstat(file->fd, &status) < 0)
        return -errno;
    if (S_ISDIR(status.st_mode))
        return -EISDIR;
    file->file.info.size_bytes = status.st_size;
    if (!S_ISBLK(status.st_mode))
        return 0;
    file->file.info.is_block_device = true;
    file->file.info.is_rotational = device_is_rotational(status.st_rdev);
    if (ioctl(file->fd, BLKGETSIZE64, &file->file.info.size_bytes) < 0)
        return -errno;
    return 0;
}

static int open_flags(const struct open_job *job)
{
    int flags = O_CLOEXEC | (job->flags & IO_OPEN_READ_ONLY ? O_RDONLY : O_RDWR);
    struct stat status;

    if (job->flags & IO_OPEN_DIRECT)
        flags |= O_DIRECT;
    if (job->flags & IO_OPEN_CREATE)
        flags |= O_CREAT;
    if (job->flags & IO_OPEN_EXCLUSIVE)
        flags |= O_EXCL;
    if ((job->flags & IO_OPEN_LOCK) && stat(job->path, &status) == 0 && S_ISBLK(status.st_mode))
        flags |= O_EXCL; /* without O_CREAT: only one opener of the device */
    return flags;
}

static int open_blocking(struct open_job *job)
{
    job->file->fd = open(job->path, open_flags(job), 0600);
    if (job->file->fd < 0)
        return -errno;
    if ((job->flags & IO_OPEN_LOCK) && flock(job->file->fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    return file_look(job->file);
}

static void open_job_run(void *arg)
{
    struct open_job *job = arg;

    job->result = open_blocking(job);
}

void uring_file_close(struct io_file *file)
{
    struct uring_file *uring_file = file_of(file);

    if (uring_file->fd >= 0)
        close(uring_file->fd);
    free(uring_file);
}

int uring_co_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
    struct uring_file *file = calloc(1, sizeof(*file));
    struct open_job job = {.path = path, .flags = flags, .file = file};

    if (!file)
        return -ENOMEM;
    file->file.io = io;
    file->fd = -1;
    uring_co_offload(io, open_job_run, &job);
    if (job.result < 0) {
        uring_file_close(&file->file);
        return job.result;
    }
    *ret_file = &file->file;
    return 0;
}

/* Reads and writes remember in the op what the kernel may leave undone: op->extra[0] holds the
 * caller's done(), extra[1] a private copy of the iov once a transfer came back short. */
enum file_op_kind { FILE_READ, FILE_WRITE };

static void file_submit(struct uring *uring, int fd, struct io_op *op)
{
    struct io_uring_sqe *sqe = uring_next_sqe(uring);
    int rw_flags = op->flags & IO_WRITE_DSYNC ? RWF_DSYNC : 0;

    if (op->kind == FILE_READ)
        io_uring_prep_readv(sqe, fd, op->iov, op->iov_count, op->offset);
    else
        io_uring_prep_writev2(sqe, fd, op->iov, op->iov_count, op->offset, rw_flags);
    io_uring_sqe_set_data(sqe, op);
}

static void file_finish(struct io_op *op, int result)
{
    free((void *)(uintptr_t)op->extra[1]);
    op->done = (void (*)(struct io_op *, int))(uintptr_t)op->extra[0];
    op->done(op, result);
}

static size_t iov_bytes(const struct iovec *iov, int count)
{
    size_t bytes = 0;

    for (int i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* Makes op->iov the part after the first `done` bytes. */
static int iov_advance(struct io_op *op, size_t done)
{
    struct iovec *iov = (struct iovec *)(uintptr_t)op->extra[1];

    if (!iov) {
        iov = malloc(op->iov_count * sizeof(*iov));
        if (!iov)
            return -ENOMEM;
        memcpy(iov, op->iov, op->iov_count * sizeof(*iov));
        op->extra[1] = (uintptr_t)iov;
        op->iov = iov;
    }
    iov = (struct iovec *)op->iov;
    while (done >= iov->iov_len) {
        done -= iov->iov_len;
        iov++;
        op->iov_count--;
    }
    iov->iov_base = (char *)iov->iov_base + done;
    iov->iov_len -= done;
    op->iov = iov;
    return 0;
}

static void file_op_done(struct io_op *op, int result)
{
    struct uring_file *file = op->owner;
    size_t wanted = iov_bytes(op->iov, op->iov_count);

    if (result == -EAGAIN || result == -EINTR)
        result = 0; /* nothing moved: try the rest again, which is all */
    else if (result == 0 && wanted > 0)
        result = -EIO; /* the end of the file */
    if (result < 0 || (size_t)result == wanted) {
        file_finish(op, result);
        return;
    }
    if (result > 0) {
        int r = iov_advance(op, result);

        if (r < 0) {
            file_finish(op, r);
            return;
        }
        op->offset += result;
    }
    file_submit(uring_of(file->file.io), file->fd, op);
}

static void file_start(struct io_file *file, struct io_op *op, const struct iovec *iov,
                       int iov_count, uint64_t offset)
{
    op->owner = file_of(file);
    op->iov = iov;
    op->iov_count = iov_count;
    op->offset = offset;
    op->extra[0] = (uintptr_t)op->done;
    op->extra[1] = 0;
    op->done = file_op_done;
    file_submit(uring_of(file->io), file_of(file)->fd, op);
}

void uring_file_readv(struct io_file *file, struct io_op *op, const struct iovec *iov,
                      int iov_count, uint64_t offset)
{
    op->kind = FILE_READ;
    op->flags = 0;
    file_start(file, op, iov, iov_count, offset);
}

void uring_file_writev(struct io_file *file, struct io_op *op, const struct iovec *iov,
                       int iov_count, uint64_t offset, unsigned flags)
{
    op->kind = FILE_WRITE;
    op->flags = flags;
    file_start(file, op, iov, iov_count, offset);
}

void uring_file_sync(struct io_file *file, struct io_op *op)
{
    struct io_uring_sqe *sqe = uring_next_sqe(uring_of(file->io));

    io_uring_prep_fsync(sqe, file_of(file)->fd, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data(sqe, op);
}

void uring_file_discard(struct io_file *file, struct io_op *op, uint64_t offset, uint64_t length)
{
    struct io_uring_sqe *sqe = uring_next_sqe(uring_of(file->io));

    io_uring_prep_fallocate(sqe, file_of(file)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            offset, length);
    io_uring_sqe_set_data(sqe, op);
}

struct truncate_job {
    int fd;
    uint64_t size_bytes;
    int result;
};

static void truncate_job_run(void *arg)
{
    struct truncate_job *job = arg;

    job->result = ftruncate(job->fd, job->size_bytes) < 0 ? -errno : 0;
}

int uring_co_truncate(struct io_file *file, uint64_t size_bytes)
{
    struct truncate_job job = {.fd = file_of(file)->fd, .size_bytes = size_bytes};

    uring_co_offload(file->io, truncate_job_run, &job);
    if (job.result == 0)
        file->info.size_bytes = size_bytes;
    return job.result;
}
