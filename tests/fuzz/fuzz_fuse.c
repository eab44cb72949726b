/* What the kernel may ask on /dev/fuse, through the session, libfuse and the file service to a file
 * system in RAM. The kernel is trusted with the form of a request (libfuse takes names and handles
 * as they come), but not with its contents, which are a program's: any node id, offset, size, mode,
 * name and order, many requests at once. Every request is answered, once, and afterwards the
 * file system is sound.
 *
 * The input is a list of requests, each a byte that chooses the operation and what that takes; the
 * harness puts them into the kernel's structures and keeps the handles that it was given. */
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "csv-export/fuse_internal.h"
#include "tests/unit/fs_harness.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VOLUME FS_VOLUME_BYTES_MIN
#define REQUESTS_MAX 48
#define HANDLES_MAX 8
#define NODES_MAX 16
#define DATA_MAX (48 * KIB)
#define HEADER_BYTES sizeof(struct fuse_in_header)

struct fuzz {
    const uint8_t *data;
    size_t size;
    struct io *io;
    struct fs *fs;
    int fd; /* the kernel's end */
    uint64_t unique;
    bool waiting[REQUESTS_MAX + HANDLES_MAX + 2]; /* for the answer, by unique */
    uint32_t opcodes[REQUESTS_MAX + HANDLES_MAX + 2];
    unsigned outstanding;
    uint64_t handles[HANDLES_MAX];
    unsigned handle_count;
    uint64_t nodes[NODES_MAX];
    unsigned node_count;
    uint8_t request[HEADER_BYTES + 256 + DATA_MAX];
    size_t request_bytes;
};

static struct ram_vdisk ram;
static char *template;        /* the volume as it was made */
static uint32_t blocks[1024]; /* of it, those that are not zero */
static unsigned block_count;

/* libfuse keeps an interrupt whose request it does not know (it ended a moment ago, say) until the
 * next request, and forgets to free the last one with the session. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libfuse3";
}

/* ---- the input ---- */

static uint64_t take(struct fuzz *fuzz, size_t bytes)
{
    uint64_t value = 0;

    for (size_t i = 0; i < bytes && fuzz->size > 0; i++, fuzz->size--)
        value |= (uint64_t)*fuzz->data++ << 8 * i;
    return value;
}

/* Offsets and sizes: often near an edge, now and then anything. */
static uint64_t take_offset(struct fuzz *fuzz)
{
    uint8_t kind = (uint8_t)take(fuzz, 1);

    switch (kind % 8) {
    case 0:
        return take(fuzz, 8);
    case 1:
        return INT64_MAX - kind / 8;
    case 2:
        return VOLUME * (kind / 8u) - take(fuzz, 1);
    case 3:
        return take(fuzz, 3);
    default:
        return kind / 8 * 4096u;
    }
}

static uint64_t take_node(struct fuzz *fuzz)
{
    uint8_t kind = (uint8_t)take(fuzz, 1);

    if (kind == 0xff)
        return take(fuzz, 8);
    if (kind >= 0xf0 || fuzz->node_count == 0)
        return kind & 0xf;
    return fuzz->nodes[kind % fuzz->node_count];
}

static bool take_handle(struct fuzz *fuzz, uint64_t *ret_handle)
{
    uint8_t which = (uint8_t)take(fuzz, 1);

    if (fuzz->handle_count == 0)
        return false;
    *ret_handle = fuzz->handles[which % fuzz->handle_count];
    return true;
}

/* ---- the kernel ---- */

static void begin(struct fuzz *fuzz, uint32_t opcode, uint64_t node)
{
    struct fuse_in_header header = {
        .opcode = opcode, .unique = ++fuzz->unique, .nodeid = node, .uid = 1000, .pid = 7};

    assert(fuzz->unique < ARRAY_SIZE(fuzz->waiting));
    memcpy(fuzz->request, &header, sizeof(header));
    fuzz->request_bytes = sizeof(header);
}

static void add(struct fuzz *fuzz, const void *bytes, size_t length)
{
    assert(fuzz->request_bytes + length <= sizeof(fuzz->request));
    memcpy(fuzz->request + fuzz->request_bytes, bytes, length);
    fuzz->request_bytes += length;
}

/* Names as programs give them: the kernel lets no slash, no empty and no longer one through. */
static void add_name(struct fuzz *fuzz)
{
    static const char *const known[] = {"a", "d", "f", "s", "d2", ".", "..", "new"};
    uint8_t kind = (uint8_t)take(fuzz, 1);
    char name[FS_NAME_MAX + 1] = {0};
    size_t length = kind == 0xfe ? FS_NAME_MAX : kind % 8 + 1;

    if (kind < 0xf0) {
        add(fuzz, known[kind % ARRAY_SIZE(known)], strlen(known[kind % ARRAY_SIZE(known)]) + 1);
        return;
    }
    for (size_t i = 0; i < length; i++) {
        name[i] = (char)take(fuzz, 1);
        if (name[i] == 0 || name[i] == '/')
            name[i] = 'x';
    }
    add(fuzz, name, length + 1);
}

static void take_answer(struct fuzz *fuzz, const uint8_t *bytes, size_t length)
{
    const uint8_t *body = bytes + sizeof(struct fuse_out_header);
    struct fuse_out_header header;
    struct fuse_open_out open;
    struct fuse_entry_out entry;
    uint32_t opcode;

    assert(length >= sizeof(header));
    memcpy(&header, bytes, sizeof(header));
    assert(header.len == length);
    assert(header.error <= 0 && header.error > -512);
    assert(header.unique <= fuzz->unique);
    opcode = fuzz->opcodes[header.unique];
    if (opcode == FUSE_INTERRUPT)
        return;
    assert(fuzz->waiting[header.unique]);
    fuzz->waiting[header.unique] = false;
    fuzz->outstanding--;
    if (header.error != 0)
        return;
    if (opcode == FUSE_LOOKUP || opcode == FUSE_MKNOD || opcode == FUSE_MKDIR ||
        opcode == FUSE_SYMLINK || opcode == FUSE_LINK || opcode == FUSE_CREATE) {
        memcpy(&entry, body, sizeof(entry));
        assert(entry.nodeid != 0);
        fuzz->nodes[fuzz->node_count++ % NODES_MAX] = entry.nodeid;
        fuzz->node_count = MIN(fuzz->node_count, (unsigned)NODES_MAX);
        body += sizeof(entry);
    }
    if (opcode == FUSE_OPEN || opcode == FUSE_CREATE) {
        memcpy(&open, body, sizeof(open));
        assert(open.fh != 0 && fuzz->handle_count < HANDLES_MAX);
        fuzz->handles[fuzz->handle_count++] = open.fh;
    }
}

static void co_answers(struct fuzz *fuzz)
{
    static uint8_t answer[FUSE_DATA_MAX + BLOCK_SIZE];
    unsigned turns = 0;

    while (fuzz->outstanding > 0) {
        ssize_t length = recv(fuzz->fd, answer, sizeof(answer), MSG_DONTWAIT);

        if (length > 0) {
            take_answer(fuzz, answer, length);
            continue;
        }
        assert(turns++ < 100000); /* a request that is never answered hangs its program */
        co_sleep_ns(1);
    }
}

static void send_request(struct fuzz *fuzz, bool is_answered)
{
    struct fuse_in_header header;

    memcpy(&header, fuzz->request, sizeof(header));
    header.len = (uint32_t)fuzz->request_bytes;
    memcpy(fuzz->request, &header, sizeof(header));
    fuzz->opcodes[header.unique] = header.opcode;
    fuzz->waiting[header.unique] = is_answered;
    fuzz->outstanding += is_answered;
    if (send(fuzz->fd, fuzz->request, fuzz->request_bytes, 0) != (ssize_t)fuzz->request_bytes)
        abort();
}

/* ---- the operations ---- */

static void co_init(struct fuzz *fuzz)
{
    struct fuse_init_in in = {.major = 7, .minor = 31, .max_readahead = 65536, .flags = UINT32_MAX};

    in.flags &= ~(1u << 30); /* FUSE_INIT_EXT: more than libfuse's minor 31 knows */
    begin(fuzz, FUSE_INIT, 0);
    add(fuzz, &in, 16); /* as long as minor 31 has it */
    send_request(fuzz, true);
    co_answers(fuzz);
}

static void co_release(struct fuzz *fuzz, unsigned which)
{
    struct fuse_release_in in = {.fh = fuzz->handles[which]};

    co_answers(fuzz); /* the kernel lets go of a file when nothing of it is under way */
    fuzz->handles[which] = fuzz->handles[--fuzz->handle_count];
    begin(fuzz, FUSE_RELEASE, FUSE_ROOT_ID);
    add(fuzz, &in, sizeof(in));
    send_request(fuzz, true);
}

static void put_names(struct fuzz *fuzz, uint32_t opcode)
{
    struct fuse_mknod_in mknod = {.mode = (uint32_t)take(fuzz, 2), .rdev = 5};
    struct fuse_mkdir_in mkdir = {.mode = mknod.mode};
    struct fuse_rename2_in rename = {.newdir = take_node(fuzz)};
    struct fuse_link_in link = {.oldnodeid = rename.newdir};

    switch (opcode) {
    case FUSE_MKNOD:
        add(fuzz, &mknod, sizeof(mknod));
        break;
    case FUSE_MKDIR:
        add(fuzz, &mkdir, sizeof(mkdir));
        break;
    case FUSE_LINK:
        add(fuzz, &link, sizeof(link));
        break;
    case FUSE_RENAME2:
        rename.flags = mknod.mode % 5;
        add(fuzz, &rename, sizeof(rename));
        break;
    case FUSE_RENAME:
        add(fuzz, &rename.newdir, sizeof(struct fuse_rename_in));
        break;
    default:
        break;
    }
    add_name(fuzz);
    if (opcode == FUSE_RENAME || opcode == FUSE_RENAME2 || opcode == FUSE_SYMLINK)
        add_name(fuzz);
    send_request(fuzz, true);
}

static void put_setattr(struct fuzz *fuzz)
{
    struct fuse_setattr_in in = {
        .valid = (uint32_t)take(fuzz, 2), .mode = (uint32_t)take(fuzz, 2), .uid = 3, .gid = 4};

    in.size = take_offset(fuzz);
    in.atime = in.mtime = take_offset(fuzz);
    in.mtimensec = (uint32_t)take(fuzz, 4) % SEC;
    in.valid &= ~(uint32_t)FATTR_FH;
    add(fuzz, &in, sizeof(in));
    send_request(fuzz, true);
}

/* read, write, fallocate, lseek: what takes an open file and a place in it */
static void put_file(struct fuzz *fuzz, uint32_t opcode)
{
    static const uint8_t zeros[DATA_MAX];
    struct fuse_read_in read = {.size = (uint32_t)take_offset(fuzz)};
    struct fuse_write_in write = {.size = read.size % DATA_MAX};
    struct fuse_fallocate_in fallocate = {.length = read.size, .mode = (uint32_t)take(fuzz, 1)};
    struct fuse_lseek_in lseek = {.whence = fallocate.mode % 8};

    if (!take_handle(fuzz, &read.fh))
        return;
    write.fh = fallocate.fh = lseek.fh = read.fh;
    read.offset = write.offset = fallocate.offset = lseek.offset = take_offset(fuzz);
    if (fallocate.mode & 0x80) /* a length beyond 32 bits */
        fallocate.length = take_offset(fuzz);
    fallocate.mode &= 0x7f;
    switch (opcode) {
    case FUSE_READ:
        read.size %= FUSE_DATA_MAX + 2 * BLOCK_SIZE;
        add(fuzz, &read, sizeof(read));
        break;
    case FUSE_WRITE:
        add(fuzz, &write, sizeof(write));
        add(fuzz, zeros, write.size);
        if (write.size > 0)
            fuzz->request[fuzz->request_bytes - 1] = (uint8_t)fuzz->unique;
        break;
    case FUSE_FALLOCATE:
        add(fuzz, &fallocate, sizeof(fallocate));
        break;
    default:
        add(fuzz, &lseek, sizeof(lseek));
    }
    send_request(fuzz, true);
}

static void co_open_file(struct fuzz *fuzz, uint32_t opcode)
{
    struct fuse_create_in create = {.flags = (uint32_t)take(fuzz, 1), .mode = S_IFREG | 0600};
    struct fuse_open_in open = {.flags = create.flags};

    if (fuzz->handle_count == HANDLES_MAX)
        return;
    if (opcode == FUSE_CREATE) {
        add(fuzz, &create, sizeof(create));
        add_name(fuzz);
    } else {
        add(fuzz, &open, sizeof(open));
    }
    send_request(fuzz, true);
    co_answers(fuzz);
}

static void put_others(struct fuzz *fuzz, uint32_t opcode)
{
    struct fuse_read_in readdir = {.size = (uint32_t)take(fuzz, 2)};
    struct fuse_interrupt_in interrupt = {.unique = take(fuzz, 1)};
    struct fuse_fsync_in fsync = {.fsync_flags = (uint32_t)take(fuzz, 1)};
    struct fuse_getattr_in getattr = {0};
    struct fuse_forget_in forget = {.nlookup = 1};

    readdir.offset = take_offset(fuzz);
    switch (opcode) {
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        add(fuzz, &readdir, sizeof(readdir));
        break;
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
        add(fuzz, &fsync, sizeof(fsync));
        break;
    case FUSE_GETATTR:
        add(fuzz, &getattr, sizeof(getattr));
        break;
    case FUSE_FORGET:
        add(fuzz, &forget, sizeof(forget));
        break;
    case FUSE_INTERRUPT:
        add(fuzz, &interrupt, sizeof(interrupt));
        break;
    default:
        add(fuzz, &readdir, sizeof(readdir));
        add(fuzz, "x", 2); /* unknown ones: some bytes and a name */
    }
    send_request(fuzz, opcode != FUSE_FORGET && opcode != FUSE_INTERRUPT);
}

static void co_request(struct fuzz *fuzz)
{
    static const uint8_t opcodes[] = {
        FUSE_LOOKUP,   FUSE_MKNOD,   FUSE_MKDIR,    FUSE_SYMLINK,     FUSE_UNLINK,    FUSE_RMDIR,
        FUSE_RENAME,   FUSE_RENAME2, FUSE_LINK,     FUSE_SETATTR,     FUSE_READ,      FUSE_WRITE,
        FUSE_WRITE,    FUSE_READ,    FUSE_LSEEK,    FUSE_FALLOCATE,   FUSE_OPEN,      FUSE_CREATE,
        FUSE_CREATE,   FUSE_RELEASE, FUSE_GETATTR,  FUSE_READLINK,    FUSE_STATFS,    FUSE_READDIR,
        FUSE_FSYNC,    FUSE_FORGET,  FUSE_FSYNCDIR, FUSE_READDIRPLUS, FUSE_INTERRUPT, FUSE_ACCESS,
        FUSE_GETXATTR, FUSE_IOCTL,
    };
    uint8_t choice = (uint8_t)take(fuzz, 1);
    uint32_t opcode = opcodes[choice % ARRAY_SIZE(opcodes)];

    if (opcode == FUSE_RELEASE) {
        if (fuzz->handle_count > 0)
            co_release(fuzz, (unsigned)take(fuzz, 1) % fuzz->handle_count);
        return;
    }
    begin(fuzz, opcode, take_node(fuzz));
    if (opcode == FUSE_LOOKUP || opcode == FUSE_MKNOD || opcode == FUSE_MKDIR ||
        opcode == FUSE_SYMLINK || opcode == FUSE_UNLINK || opcode == FUSE_RMDIR ||
        opcode == FUSE_RENAME || opcode == FUSE_RENAME2 || opcode == FUSE_LINK)
        put_names(fuzz, opcode);
    else if (opcode == FUSE_SETATTR)
        put_setattr(fuzz);
    else if (opcode == FUSE_READ || opcode == FUSE_WRITE || opcode == FUSE_LSEEK ||
             opcode == FUSE_FALLOCATE)
        put_file(fuzz, opcode);
    else if (opcode == FUSE_OPEN || opcode == FUSE_CREATE)
        co_open_file(fuzz, opcode);
    else
        put_others(fuzz, opcode);
    if (!(choice & 0x80)) /* else the next one comes beside it */
        co_answers(fuzz);
}

/* ---- the world ---- */

static void co_make_volume(void *arg)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB};
    struct fuzz *fuzz = arg;
    int r = co_fs_format(fuzz->io, &ram.vdisk, &options);

    assert(r == 0);
    template = malloc(VOLUME);
    memcpy(template, ram.memory, VOLUME);
    for (uint32_t block = 0; block < VOLUME / BLOCK_SIZE; block++) {
        static const char zeros[BLOCK_SIZE];

        if (memcmp(template + (size_t)block * BLOCK_SIZE, zeros, BLOCK_SIZE) != 0) {
            assert(block_count < ARRAY_SIZE(blocks));
            blocks[block_count++] = block;
        }
    }
    io_stop(fuzz->io);
}

static void co_mount_fs(struct fuzz *fuzz)
{
    int r = co_fs_mount(fuzz->io, &ram.vdisk, NULL, &fuzz->fs);

    assert(r == 0);
}

static void co_check_fs(struct fuzz *fuzz)
{
    struct fs_check_result result;
    int r = co_fs_unmount(take_ptr(fuzz->fs));

    assert(r == 0 || r == -ESTALE); /* where a file without a name was open: csv.h */
    co_mount_fs(fuzz);
    r = co_fs_check(fuzz->fs, NULL, NULL, &result);
    assert(r == 0);
    assert(result.problems == 0);
    r = co_fs_unmount(take_ptr(fuzz->fs));
    assert(r == 0);
}

static void co_kernel(struct fuzz *fuzz, struct csv_volume *volume)
{
    static const struct fuse_mount_options options;
    struct fuse_mount *mount;
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        abort();
    fuzz->fd = fds[0];
    for (unsigned i = 0; i < 2; i++) {
        int bytes = 4 * MIB;

        (void)!setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    }
    if (fuse_mount_serve(fuzz->io, volume, &options, fds[1], &mount) < 0)
        abort();
    co_init(fuzz);
    for (unsigned i = 0; i < REQUESTS_MAX && fuzz->size > 0; i++)
        co_request(fuzz);
    while (fuzz->handle_count > 0)
        co_release(fuzz, 0);
    co_answers(fuzz);
    co_fuse_mount_close(mount);
    close(fuzz->fd);
}

static void co_main(void *arg)
{
    struct fuzz *fuzz = arg;
    struct csv_options options = {.node = 1, .start_counter = 1};
    struct csv_volume_state state = {.id = 7, .name = "v", .owner = 1, .session = 1};
    struct csv_volume *volume;
    struct csv *csv;
    int r;

    co_mount_fs(fuzz);
    r = csv_new(fuzz->io, &options, &csv);
    assert(r == 0);
    state.fs = fuzz->fs;
    r = co_csv_set_volume(csv, &state);
    assert(r == 0);
    volume = csv_volume_find(csv, "v");
    co_kernel(fuzz, volume);
    assert(csv_volume_count(volume).waiting == 0);
    csv_volume_put(volume);
    co_csv_close(csv);
    co_check_fs(fuzz);
    io_stop(fuzz->io);
}

static void run(struct fuzz *fuzz, void (*co_fn)(void *arg))
{
    if (co_spawn(fuzz->io, "fuzz", co_fn, fuzz) < 0)
        abort();
    io_run(fuzz->io);
}

static void silent(enum fuse_log_level level, const char *format, va_list list)
{
    (void)level;
    (void)format;
    (void)list;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz fuzz;
    static struct io *io;

    if (!io) {
        fuse_set_log_func(silent);
        if (io_uring_new(NULL, &io) < 0 || ram_vdisk_init(&ram, VOLUME, 1) < 0)
            abort();
        fuzz.io = io;
        run(&fuzz, co_make_volume);
    }
    fuzz = (struct fuzz){.io = io, .data = data, .size = size};
    madvise(ram.memory, VOLUME, MADV_DONTNEED);
    for (unsigned i = 0; i < block_count; i++)
        memcpy(ram.memory + (size_t)blocks[i] * BLOCK_SIZE,
               template + (size_t)blocks[i] * BLOCK_SIZE, BLOCK_SIZE);
    run(&fuzz, co_main);
    return 0;
}
