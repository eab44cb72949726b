/* fuzz_fs: mounts and walks a damaged volume, writes to it, checks it. A volume with some of
 * everything is made once; the input says which bytes of its metadata change, and the checksums are
 * made right again, so that the damage gets behind them. Whatever comes back is right, as long as
 * it comes back. */
#include "fs-refs-lite/fs_format.h"
#include "s2d/base/sim.h"
#include "tests/unit/fs_harness.h"

#define VOLUME FS_VOLUME_BYTES_MIN
#define DEPTH_MAX 6
#define ENTRIES_MAX 64

static char *template;                       /* of the whole volume */
static uint32_t blocks[4096];                /* those that are not zero */
static unsigned block_count, metadata_count; /* metadata comes first */
static const uint8_t *input;
static size_t input_size;

/* ---- the volume as it was ---- */

static void co_populate(struct world *world)
{
    struct fs_format_options options = {.journal_bytes = 256 * KIB, .uuid = {1}};
    struct fs_inode *inode, *root;
    struct fs_new new = {.mode = 0777};
    char path[64];

    check_int(co_fs_format(world->io, &world->ram.vdisk, &options), 0);
    co_world_mount(world);
    check_int(co_open(world, "", &root), 0);
    check_int(co_mkdir(world, "d"), 0);
    check_int(co_mkdir(world, "d/e"), 0);
    for (unsigned i = 0; i < 70; i++) {
        snprintf(path, sizeof(path), "%s/f%u", i % 2 ? "d" : "d/e", i);
        check_int(co_create(world, path), 0);
        check_int(co_open(world, path, &inode), 0);
        check_int(co_write_pattern(inode, i % 5 * 10000, 3000 + i, 1), 0);
        fs_inode_put(inode);
    }
    check_int(co_fs_symlink(root, "s", "d/e", &new, FS_NO_REQUEST, NULL), 0);
    check_int(co_fs_create(root, "r", &(struct fs_new){.mode = S_IFREG | 0600},
                           (struct fs_request){.session = 9, .slot = 1, .sequence = 4}, &inode),
              0);
    check_int(co_fs_link(inode, root, "r2", FS_NO_REQUEST), 0);
    check_int(co_fs_allocate(inode, 0, 1 * MIB, 0), 0);
    fs_inode_put(inode);
    check_int(co_create(world, "orphan"), 0);
    check_int(co_open(world, "orphan", &inode), 0);
    check_int(co_fs_checkpoint(world->fs), 0);
    check_int(co_unlink(world, "orphan"), 0); /* these are only in the journal */
    check_int(co_rename(world, "d/f1", "d/e/f0", 0), 0);
    check_int(co_rmdir(world, "d/e"), -ENOTEMPTY);
    check_int(co_unlink(world, "d/f3"), 0);
    check_int(co_create(world, "d/new"), 0);
    fs_fail(world->fs);
    fs_inode_put(inode);
    fs_inode_put(root);
    co_world_crash(world);

    template = malloc(VOLUME);
    memcpy(template, world->ram.memory, VOLUME);
}

static bool is_metadata(const void *block)
{
    const struct fs_block_header *header = block;

    return header->magic == FS_SUPER_MAGIC || header->magic == FS_ROOT_MAGIC ||
           header->magic == FS_NODE_MAGIC || header->magic == FS_BITMAP_MAGIC ||
           header->magic == FS_JOURNAL_MAGIC;
}

static void find_blocks(void)
{
    static const char zeros[BLOCK_SIZE];

    for (unsigned pass = 0; pass < 2; pass++) {
        for (uint32_t block = 0; block < VOLUME / BLOCK_SIZE; block++) {
            const char *data = template + (size_t)block * BLOCK_SIZE;

            if (is_metadata(data) != (pass == 0) || memcmp(data, zeros, BLOCK_SIZE) == 0)
                continue;
            check(block_count < ARRAY_SIZE(blocks));
            blocks[block_count++] = block;
        }
        if (pass == 0)
            metadata_count = block_count;
    }
}

/* ---- damage: six bytes of input change up to two bytes ---- */

static void damage(struct world *world)
{
    static bool damaged[ARRAY_SIZE(blocks)];

    memset(damaged, 0, sizeof(damaged));
    for (size_t at = 0; at + 6 <= input_size; at += 6) {
        const uint8_t *in = input + at;
        unsigned which = (in[0] | in[1] << 8) % metadata_count;
        char *block = world->ram.memory + (size_t)blocks[which] * BLOCK_SIZE;
        unsigned most = in[3] & 0x40 ? 512 : BLOCK_SIZE; /* headers and items more often */
        unsigned place = (in[2] | in[3] << 8) % most;

        damaged[which] = true;
        block[place] = (char)in[4];
        if (in[3] & 0x80)
            block[(place + 1) % BLOCK_SIZE] = (char)in[5];
    }
    for (unsigned i = 0; i < metadata_count; i++) {
        if (damaged[i])
            seal_block(world->ram.memory + (size_t)blocks[i] * BLOCK_SIZE);
    }
}

/* ---- the walk ---- */

struct names {
    char names[ENTRIES_MAX][FS_NAME_MAX + 1];
    unsigned count;
};

static bool collect(void *arg, const struct fs_dirent *entry)
{
    struct names *names = arg;

    check(strlen(entry->name) <= FS_NAME_MAX);
    if (names->count == ENTRIES_MAX)
        return false;
    if (entry->cookie > 2)
        snprintf(names->names[names->count++], FS_NAME_MAX + 1, "%s", entry->name);
    return true;
}

/* Everything that a file can be asked for, by what its number says: an input that meets one
 * operation too many has less left to show of the others. */
static void co_change_file(struct fs_inode *inode)
{
    struct fs_attr attr = {.mode = 0640, .uid = 1, .mtime_ns = 7};

    switch (fs_inode_number(inode) % 7) {
    case 0:
        (void)co_fs_punch(inode, 3000, 20000);
        break;
    case 1:
        (void)co_fs_truncate(inode, 100, FS_NO_REQUEST);
        break;
    case 2:
        (void)co_fs_truncate(inode, 1 * MIB + 1, FS_NO_REQUEST);
        break;
    case 3:
        (void)co_fs_zero(inode, 5000, 100000);
        break;
    case 4:
        (void)co_fs_allocate(inode, 0, 300000, FS_ALLOCATE_KEEP_SIZE);
        break;
    case 5:
        (void)co_fs_setattr(inode, &attr, FS_SET_MODE | FS_SET_UID | FS_SET_MTIME, FS_NO_REQUEST);
        break;
    default:
        (void)co_fs_truncate(inode, 0, FS_NO_REQUEST);
        (void)co_write_pattern(inode, 100000, 9000, 5);
    }
}

static void co_use_file(struct fs_inode *inode)
{
    static char buffer[64 * KIB] __attribute__((aligned(BLOCK_SIZE)));
    char target[FS_SYMLINK_MAX + 1];
    struct fs_attr attr;
    uint64_t length;
    bool is_data;

    (void)co_fs_getattr(inode, &attr);
    (void)co_fs_readlink(inode, target);
    (void)co_fs_read(inode, buffer, 0, sizeof(buffer), &length);
    (void)co_fs_block_status(inode, 0, 16 * MIB, &is_data, &length);
    (void)co_write_pattern(inode, 8000, 300, 3);
    co_change_file(inode);
    (void)co_fs_sync(inode, false);
}

static void co_walk(struct fs_inode *dir, unsigned depth)
{
    struct names *names = calloc(1, sizeof(*names));

    (void)co_fs_readdir(dir, 0, collect, names);
    for (unsigned i = 0; i < names->count; i++) {
        struct fs_inode *inode;

        if (co_fs_lookup(dir, names->names[i], &inode) < 0)
            continue;
        if (S_ISDIR(fs_inode_mode(inode)) && depth < DEPTH_MAX)
            co_walk(inode, depth + 1);
        else
            co_use_file(inode);
        fs_inode_put(inode);
        if (i % 4 == 0)
            (void)co_fs_unlink(dir, names->names[i], FS_NO_REQUEST);
    }
    free(names);
}

/* Names, and inodes by number, as an export node asks for them. */
static void co_names(struct world *world)
{
    struct fs_new new = {.mode = S_IFREG | 0644};
    struct fs_inode *root, *inode;

    if (co_open(world, "", &root) < 0)
        return;
    if (co_fs_create(root, "n", &new, FS_NO_REQUEST, &inode) == 0) {
        (void)co_fs_link(inode, root, "n2", FS_NO_REQUEST);
        (void)co_write_pattern(inode, 0, 200000, 4);
        fs_inode_put(inode);
    }
    (void)co_fs_symlink(root, "s2", "n", &new, FS_NO_REQUEST, NULL);
    (void)co_rmdir(world, "d/e");
    for (uint64_t ino = 0; ino < 80; ino += 3) {
        if (co_fs_inode_get(world->fs, ino, 0, &inode) < 0)
            continue;
        co_use_file(inode);
        fs_inode_put(inode);
    }
    fs_inode_put(root);
}

static void co_fuzz(struct world *world)
{
    struct fs_mount_options options = {.salvage = input_size % 2};
    struct fs_check_result result;
    struct fs_statfs statfs;
    struct fs_inode *root;

    for (unsigned i = 0; i < block_count; i++)
        memcpy(world->ram.memory + (size_t)blocks[i] * BLOCK_SIZE,
               template + (size_t)blocks[i] * BLOCK_SIZE, BLOCK_SIZE);
    damage(world);
    if (co_fs_mount(world->io, &world->ram.vdisk, &options, &world->fs) < 0)
        return;
    (void)co_fs_reap_orphans(world->fs);
    (void)co_fs_check(world->fs, NULL, NULL, &result);
    if (co_open(world, "", &root) == 0) {
        co_walk(root, 0);
        fs_inode_put(root);
    }
    co_names(world);
    (void)co_fs_statfs(world->fs, &statfs);
    (void)co_mkdir(world, "d/e/x");
    (void)co_rename(world, "d/e", "r", FS_RENAME_EXCHANGE);
    (void)co_rename(world, "d", "q", 0);
    (void)co_fs_session_end(world->fs, 9);
    (void)co_fs_checkpoint(world->fs);
    (void)co_fs_trim_free(world->fs);
    (void)co_fs_check(world->fs, NULL, NULL, &result);
    (void)co_fs_unmount(take_ptr(world->fs));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!template) {
        world_run(VOLUME, 1, co_populate);
        find_blocks();
    }
    input = data;
    input_size = size;
    world_run(VOLUME, 1, co_fuzz);
    return 0;
}
