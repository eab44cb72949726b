#include <stdio.h>

#include "pool/disk_internal.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/planted.h"

#define LOCK_POLL_NS (50 * MS)

const char *disk_role_name(enum disk_role role)
{
    switch (role) {
    case DISK_CAPACITY:
        return "capacity";
    case DISK_CACHE:
        return "cache";
    }
    return "unknown";
}

const char *disk_media_name(enum disk_media media)
{
    switch (media) {
    case DISK_NVME:
        return "nvme";
    case DISK_SSD:
        return "ssd";
    case DISK_HDD:
        return "hdd";
    }
    return "unknown";
}

void disk_uuid_format(struct disk_uuid uuid, char text[DISK_UUID_TEXT])
{
    const uint8_t *b = uuid.bytes;

    snprintf(text, DISK_UUID_TEXT,
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
             b[15]);
}

const struct disk_identity *disk_identity(const struct disk *disk)
{
    return &disk->identity;
}

const struct disk_geometry *disk_geometry(const struct disk *disk)
{
    return &disk->geometry;
}

const char *disk_path(const struct disk *disk)
{
    return disk->path;
}

struct io *disk_io(const struct disk *disk)
{
    return disk->io;
}

struct io_file *disk_file(const struct disk *disk)
{
    return disk->file;
}

/* ---- geometry ---- */

static uint64_t log_bytes_default(uint64_t size_bytes)
{
    uint64_t quarter = ALIGN_DOWN(size_bytes / 4, MIB);

    return MAX(256 * MIB, MIN(quarter, DISK_LOG_BYTES_MAX));
}

/* Places the regions for a number of extents; returns where the last one ends. */
static uint64_t geometry_place(struct disk_geometry *geometry, uint64_t extent_count)
{
    uint64_t pages = extent_count * geometry->pages_per_extent;

    geometry->extent_count = extent_count;
    geometry->table_offset = DISK_TABLE_OFFSET;
    geometry->table_blocks = DIV_ROUND_UP(extent_count, EXTENT_TABLE_ROWS);
    geometry->pages_offset = geometry->table_offset + (uint64_t)geometry->table_blocks * BLOCK_SIZE;
    geometry->log_offset = ALIGN_UP(geometry->pages_offset + pages * BLOCK_SIZE, MIB);
    geometry->extents_offset = ALIGN_UP(geometry->log_offset + geometry->log_bytes, MIB);
    return geometry->extents_offset + extent_count * geometry->extent_bytes;
}

int disk_geometry_plan(uint64_t size_bytes, uint64_t extent_bytes, uint64_t log_bytes,
                       struct disk_geometry *ret_geometry)
{
    struct disk_geometry geometry = {.size_bytes = ALIGN_DOWN(size_bytes, BLOCK_SIZE)};
    uint64_t count;

    geometry.extent_bytes = extent_bytes ? extent_bytes : DISK_EXTENT_BYTES_DEFAULT;
    geometry.log_bytes = log_bytes ? log_bytes : log_bytes_default(size_bytes);
    if (geometry.extent_bytes < DISK_EXTENT_BYTES_MIN ||
        geometry.extent_bytes > DISK_EXTENT_BYTES_MAX ||
        (geometry.extent_bytes & (geometry.extent_bytes - 1)) != 0 ||
        geometry.log_bytes < DISK_LOG_BYTES_MIN || geometry.log_bytes % BLOCK_SIZE != 0)
        return -EINVAL;

    geometry.extent_blocks = geometry.extent_bytes / BLOCK_SIZE;
    geometry.pages_per_extent = DIV_ROUND_UP(geometry.extent_blocks, CHECKSUM_PAGE_ENTRIES);
    count = MIN(geometry.size_bytes / geometry.extent_bytes, UINT32_MAX - 1);
    while (count > 0 && geometry_place(&geometry, count) > geometry.size_bytes)
        count--;
    if (count == 0)
        return -ENOSPC;
    *ret_geometry = geometry;
    return 0;
}

/* ---- opening ---- */

/* A predecessor that was killed holds its lock until the kernel has ended its writes. */
static int co_open_locked(struct io *io, const char *path, uint64_t wait_ns,
                          struct io_file **ret_file)
{
    uint64_t deadline_ns = io_now_ns(io) + wait_ns;

    for (;;) {
        int r = co_io_open(io, path, IO_OPEN_DIRECT | IO_OPEN_LOCK, ret_file);

        if (r != -EBUSY || io_now_ns(io) >= deadline_ns)
            return r;
        r = co_sleep_ns(LOCK_POLL_NS);
        if (r < 0)
            return r;
    }
}

/* ---- a device that may hang ---- */

/* A device that does not answer (a controller that died, a path that is gone) ends no read, and
 * there is no way to take one back. So the first reads of a disk are waited for only so long, and
 * belong to nobody then: file and memory go when the read ends, if ever. */
struct first_read {
    struct io_op op;
    struct iovec iov;
    struct io_file *file; /* ours once it is given up */
    struct co_cond ended;
    bool done, given_up;
    int result;
};

static void first_read_free(struct first_read *read)
{
    free(read->iov.iov_base);
    free(read);
}

static void first_read_done(struct io_op *op, int result)
{
    struct first_read *read = container_of(op, struct first_read, op);

    if (read->given_up) {
        io_file_close(read->file);
        first_read_free(read);
        return;
    }
    read->result = MIN(result, 0);
    read->done = true;
    co_cond_broadcast(&read->ended);
}

/* Second by second: that a process was stopped, or had no time, is not the device's fault, and what
 * had come by then is found before the next one is over. */
static void co_first_read_wait(struct first_read *read, struct io *io)
{
    unsigned seconds = 0;
    int r = 0;

    while (!read->done && seconds < DISK_ANSWER_WAIT_S && r != -ECANCELED) {
        r = co_cond_wait_until(&read->ended, io_now_ns(io) + SEC);
        seconds += r == -ETIMEDOUT;
    }
    while (!read->done && r == -ECANCELED)
        co_cond_wait_always(&read->ended);
}

/* A block of the file. Returns as co_io_read(), or -ETIMEDOUT: then *file is NULL, and no longer
 * the caller's. */
static int co_first_read(struct io *io, struct io_file **file, void *block, uint64_t offset)
{
    struct first_read *read = calloc(1, sizeof(*read));
    void *buffer = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    int r;

    if (!read || !buffer) {
        free(read);
        free(buffer);
        return -ENOMEM;
    }
    read->op.done = first_read_done;
    read->iov = (struct iovec){buffer, BLOCK_SIZE};
    co_cond_init(&read->ended);
    io_file_readv(*file, &read->op, &read->iov, 1, offset);
    co_first_read_wait(read, io);
    if (!read->done) {
        read->file = take_ptr(*file);
        read->given_up = true;
        return -ETIMEDOUT;
    }
    r = read->result;
    memcpy(block, buffer, BLOCK_SIZE);
    first_read_free(read);
    return r;
}

static int result_of_copies(int of_a, int of_b)
{
    if (of_a == -ECANCELED || of_b == -ECANCELED)
        return -ECANCELED;
    return of_a < 0 && of_b < 0 ? of_a : 0;
}

static int co_first_superblocks(struct disk *disk, struct superblock *copies)
{
    int of_a, of_b;

    memset(copies, 0, 2 * sizeof(*copies));
    of_a = co_first_read(disk->io, &disk->file, &copies[0], SUPERBLOCK_A_OFFSET);
    if (of_a == -ETIMEDOUT)
        return of_a;
    of_b = co_first_read(disk->io, &disk->file, &copies[1], SUPERBLOCK_B_OFFSET);
    return of_b == -ETIMEDOUT ? of_b : result_of_copies(of_a, of_b);
}

/* Reads both copies into a buffer of two blocks. One that the medium cannot read counts as damaged.
 */
static int co_read_superblocks(struct io_file *file, struct superblock *copies)
{
    int of_a, of_b;

    memset(copies, 0, 2 * sizeof(*copies));
    of_a = co_io_read(file, &copies[0], BLOCK_SIZE, SUPERBLOCK_A_OFFSET);
    of_b = co_io_read(file, &copies[1], BLOCK_SIZE, SUPERBLOCK_B_OFFSET);
    return result_of_copies(of_a, of_b);
}

static void explain_foreign(struct io_file *file, const char *path, struct disk_message *message)
{
    cleanup(freep) uint8_t *head = aligned_alloc(BLOCK_SIZE, DISK_PROBE_HEAD);
    char text[96] = "nothing known";

    if (head && io_file_info(file)->size_bytes >= DISK_PROBE_HEAD &&
        co_io_read(file, head, DISK_PROBE_HEAD, 0) == 0)
        disk_probe_foreign(head, DISK_PROBE_HEAD, NULL, 0, text, sizeof(text));
    disk_say(message, "%s is not a disk of s2d: it holds %s; claim it first, or mend the path",
             path, text);
}

static int check_cluster(const struct superblock *superblock, const char *path,
                         const struct disk_uuid *cluster, struct disk_message *message)
{
    struct disk_uuid theirs;
    char text[DISK_UUID_TEXT];

    if (!cluster || memcmp(cluster->bytes, superblock->cluster, sizeof(cluster->bytes)) == 0)
        return 0;
    memcpy(theirs.bytes, superblock->cluster, sizeof(theirs.bytes));
    disk_uuid_format(theirs, text);
    disk_say(
        message,
        "%s belongs to another cluster (%s, disk %llu): take it out of this node, or retire it "
        "there first",
        path, text, (unsigned long long)superblock->disk_id);
    return -EPERM;
}

static uint64_t offset_of_copy(unsigned copy)
{
    return copy == 0 ? SUPERBLOCK_A_OFFSET : SUPERBLOCK_B_OFFSET;
}

int co_superblock_write(struct io_file *file, struct superblock *superblock, unsigned copy)
{
    superblock_finish(superblock, copy);
    return co_io_write(file, superblock, BLOCK_SIZE, offset_of_copy(copy), IO_WRITE_DSYNC);
}

static bool is_of(const struct superblock *superblock, const uint8_t disk[16])
{
    return memcmp(superblock->disk, disk, sizeof(superblock->disk)) == 0;
}

int co_superblock_replace(struct io_file *file, struct superblock *superblock, unsigned copy)
{
    cleanup(freep) struct superblock *other = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    int r = other ? co_superblock_write(file, superblock, copy) : -ENOMEM;
    int of_other;

    if (r < 0 || PLANTED(CACHE_WIPED_REWRITTEN) ||
        co_io_read(file, other, BLOCK_SIZE, offset_of_copy(!copy)) < 0)
        return r; /* what cannot be read was not overwritten */
    of_other = superblock_check(other, !copy, NULL);
    if (of_other == -EBADMSG || (of_other == 0 && is_of(other, superblock->disk)))
        return 0;
    memset(other, 0, BLOCK_SIZE);
    r = co_io_write(file, other, BLOCK_SIZE, offset_of_copy(copy), IO_WRITE_DSYNC);
    return r < 0 ? r : -ENODEV;
}

static int co_repair(struct io_file *file, const struct superblock *best)
{
    cleanup(freep) struct superblock *copy = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);

    if (!copy)
        return -ENOMEM;
    *copy = *best;
    /* the sound copy is left alone: a crash in here must not cost both */
    return co_superblock_replace(file, copy, best->copy == 0);
}

static int disk_fill(struct disk *disk, const struct superblock *superblock,
                     struct disk_message *message)
{
    int r;

    if (superblock->state != SUPERBLOCK_READY) {
        disk_say(message, "%s was being claimed when that was interrupted: claim it again",
                 disk->path);
        return -ENODEV;
    }
    r = superblock_geometry(superblock, &disk->geometry);
    if (r < 0) {
        disk_say(message, "the superblock of %s makes no sense: replace the disk", disk->path);
        return r;
    }
    if (io_file_info(disk->file)->size_bytes < disk->geometry.size_bytes) {
        disk_say(message, "%s has shrunk from %llu to %llu bytes: restore its size", disk->path,
                 (unsigned long long)disk->geometry.size_bytes,
                 (unsigned long long)io_file_info(disk->file)->size_bytes);
        return -EBADMSG;
    }
    r = superblock->role == DISK_CACHE
            ? superblock_cache_regions(superblock, disk->regions, &disk->region_count)
            : superblock_log(superblock, &disk->log);
    if (r < 0) {
        disk_say(message, "what the superblock of %s says of its log makes no sense: replace it",
                 disk->path);
        return r;
    }
    *disk->superblock = *superblock;
    memcpy(disk->identity.cluster.bytes, superblock->cluster, 16);
    memcpy(disk->identity.uuid.bytes, superblock->disk, 16);
    disk->identity.disk_id = superblock->disk_id;
    disk->identity.role = superblock->role;
    disk->identity.media = superblock->media;
    return 0;
}

static int disk_new(struct io *io, const char *path, struct disk **ret_disk)
{
    struct disk *disk = calloc(1, sizeof(*disk));

    if (!disk)
        return -ENOMEM;
    disk->io = io;
    disk->path = strdup(path);
    disk->superblock = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    if (!disk->path || !disk->superblock) {
        disk_close(disk);
        return -ENOMEM;
    }
    *ret_disk = disk;
    return 0;
}

static int co_disk_load(struct disk *disk, const struct disk_uuid *cluster,
                        struct disk_message *message)
{
    cleanup(freep) struct superblock *copies = aligned_alloc(BLOCK_SIZE, 2 * BLOCK_SIZE);
    const struct superblock *best = NULL;
    bool repair = false;
    int r;

    if (!copies)
        return -ENOMEM;
    r = co_first_superblocks(disk, copies);
    if (r == -ETIMEDOUT) {
        disk_say(message,
                 "%s does not answer: a read has not come back for %u s; look at its cabling and "
                 "controller, or replace it, and start this node again",
                 disk->path, DISK_ANSWER_WAIT_S);
        return r;
    }
    if (r < 0) {
        disk_say(message, "%s cannot be read (%s): replace the disk", disk->path, strerror(-r));
        return r;
    }
    r = superblock_choose(&copies[0], &copies[1], &best, &repair, message);
    if (r == -ENODEV)
        explain_foreign(disk->file, disk->path, message);
    if (r < 0)
        return r;
    r = check_cluster(best, disk->path, cluster, message);
    if (r < 0)
        return r;
    r = disk_fill(disk, best, message);
    if (r < 0)
        return r;
    disk->identity.superblock_repaired = repair;
    if (message)
        message->text[0] = 0; /* what was wrong with one copy is mended */
    r = repair ? co_repair(disk->file, best) : 0;
    if (r == -ENODEV)
        disk_say(message, "%s was overwritten while it was opened: claim it anew", disk->path);
    /* one sound copy is enough to go on with */
    return r == -ENODEV || r == -ECANCELED ? r : 0;
}

int co_disk_open(struct io *io, const char *path, const struct disk_uuid *cluster,
                 struct disk_message *message, struct disk **ret_disk)
{
    cleanup(disk_closep) struct disk *disk = NULL;
    int r;

    if (message)
        message->text[0] = 0;
    r = disk_new(io, path, &disk);
    if (r < 0)
        return r;
    r = co_open_locked(io, path, DISK_LOCK_WAIT_NS, &disk->file);
    if (r == -EBUSY)
        disk_say(
            message,
            "%s is in use by another process, and still was after %llu s: stop the other s2dd, or "
            "unmount it",
            path, (unsigned long long)(DISK_LOCK_WAIT_NS / SEC));
    else if (r < 0)
        disk_say(message, "%s cannot be opened: %s", path, strerror(-r));
    if (r < 0)
        return r;
    r = co_disk_load(disk, cluster, message);
    if (r < 0)
        return r;
    *ret_disk = take_ptr(disk);
    return 0;
}

void disk_close(struct disk *disk)
{
    if (!disk)
        return;
    io_file_close(disk->file);
    free(disk->superblock);
    free(disk->path);
    free(disk);
}

int co_disk_best_copy(struct disk *disk)
{
    cleanup(freep) struct superblock *copies = aligned_alloc(BLOCK_SIZE, 2 * BLOCK_SIZE);
    const struct superblock *best = NULL;
    bool repair;
    int r;

    if (!copies)
        return -ENOMEM;
    r = co_read_superblocks(disk->file, copies);
    if (r < 0)
        return r;
    r = superblock_choose(&copies[0], &copies[1], &best, &repair, NULL);
    if (r < 0 || !is_of(best, disk->identity.uuid.bytes))
        return -ENODEV;
    return (int)best->copy;
}

int co_disk_look(struct disk *disk)
{
    int r = co_disk_best_copy(disk);

    return MIN(r, 0);
}

int co_disk_release(struct disk *disk)
{
    cleanup(freep) uint8_t *zeros = aligned_alloc(BLOCK_SIZE, MIB);
    int r = zeros ? co_disk_take_turn(disk) : -ENOMEM;

    if (r < 0)
        return r;
    memset(zeros, 0, MIB);
    /* the extent table's start too, or the next claim finds "data of an unknown kind" */
    r = co_io_write(disk->file, zeros, MIB, SUPERBLOCK_A_OFFSET, IO_WRITE_DSYNC);
    disk->changing = false; /* who waits for its turn finds no superblock to change */
    return r;
}
