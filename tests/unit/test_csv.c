/* The file service: the same calls with the same answers on every node, whoever owns the volume,
 * and while the owner changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "csv-export/csv_internal.h"
#include "csv-export/csv_message.h"
#include "csv-export/nbd_files.h"
#include "csv_world.h"

static const struct fs_new new_file = {.mode = S_IFREG | 0644, .uid = 1000, .gid = 100};
static const struct fs_new new_dir = {.mode = S_IFDIR | 0755};

static void fill(uint8_t *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (i * 31 + (i >> 12) * 7 + seed) ^ (i >> 20);
}

static uint8_t *aligned(size_t length)
{
    void *bytes = aligned_alloc(BLOCK_SIZE, ALIGN_UP(length, (size_t)BLOCK_SIZE));

    assert_non_null(bytes);
    return bytes;
}

static struct csv_file *co_make_and_open(struct csv_volume *volume, const char *name)
{
    struct fs_attr attr;
    struct csv_file *file;

    assert_int_equal(co_csv_create(volume, FS_ROOT_INO, name, &new_file, &attr), 0);
    assert_int_equal(co_csv_open(volume, &(struct csv_open){.ino = attr.ino}, &attr, &file), 0);
    return file;
}

/* Closing tells the owner behind our back: wait until it heard. */
static void co_closed(struct csv_world *world)
{
    while (csv_volume_count(world->volume[world->owner]).open_files > 0)
        co_sleep_ns(MS / 10);
}

/* ---- the same from everywhere ---- */

struct listing {
    char names[1024];
    uint64_t cookie;
    unsigned count;
};

static bool list_entry_of(void *arg, const struct fs_dirent *entry)
{
    struct listing *listing = arg;

    if (entry->name[0] != '.' && strlen(listing->names) + 100 < sizeof(listing->names)) {
        strcat(listing->names, entry->name);
        strcat(listing->names, " ");
    }
    listing->count += entry->name[0] != '.';
    listing->cookie = entry->cookie;
    return true;
}

static void names_on(struct csv_volume *volume)
{
    char target[FS_SYMLINK_MAX + 1], long_name[FS_NAME_MAX + 2];
    struct fs_attr dir, file, other, set = {.mode = 0600, .mtime_ns = 12345};
    struct fs_statfs statfs;
    struct listing listing = {0};
    bool end = false;

    assert_int_equal(co_csv_mkdir(volume, FS_ROOT_INO, "dir", &new_dir, &dir), 0);
    assert_true(S_ISDIR(dir.mode));
    assert_int_equal(co_csv_mkdir(volume, FS_ROOT_INO, "dir", &new_dir, &other), -EEXIST);
    assert_int_equal(co_csv_create(volume, dir.ino, "file", &new_file, &file), 0);
    assert_int_equal(file.mode, S_IFREG | 0644);
    assert_int_equal(file.uid, 1000);
    assert_int_equal(co_csv_lookup(volume, dir.ino, "file", &other), 0);
    assert_int_equal(other.ino, file.ino);
    assert_int_equal(co_csv_walk(volume, "dir/file", &other), 0);
    assert_int_equal(other.ino, file.ino);
    assert_int_equal(co_csv_lookup(volume, dir.ino, "none", &other), -ENOENT);
    assert_int_equal(co_csv_getattr(volume, 999999, &other), -ENOENT);
    assert_int_equal(co_csv_setattr(volume, file.ino, &set, FS_SET_MODE | FS_SET_MTIME, &other), 0);
    assert_int_equal(other.mode, S_IFREG | 0600);
    assert_int_equal(other.mtime_ns, 12345);
    assert_int_equal(co_csv_truncate(volume, file.ino, 10000, &other), 0);
    assert_int_equal(other.size, 10000);
    assert_int_equal(co_csv_link(volume, file.ino, dir.ino, "hard", &other), 0);
    assert_int_equal(other.nlink, 2);
    assert_int_equal(co_csv_symlink(volume, dir.ino, "soft", "../dir/file", &new_file, &other), 0);
    assert_int_equal(co_csv_readlink(volume, other.ino, target), 0);
    assert_string_equal(target, "../dir/file");
    assert_int_equal(co_csv_readlink(volume, file.ino, target), -EINVAL);
    assert_int_equal(co_csv_rename(volume, dir.ino, "file", FS_ROOT_INO, "moved", 0), 0);
    assert_int_equal(
        co_csv_rename(volume, dir.ino, "hard", FS_ROOT_INO, "moved", FS_RENAME_NOREPLACE), -EEXIST);
    assert_int_equal(co_csv_clone_file(volume, file.ino, dir.ino, "twin", &other), 0);
    assert_int_equal(other.size, 10000);
    assert_int_equal(co_csv_clone_file(volume, file.ino, dir.ino, "twin", &file), -EEXIST);
    assert_int_equal(co_csv_clone_range(volume, file.ino, 4096, other.ino, 8192, 4096), 0);
    assert_int_equal(co_csv_clone_range(volume, file.ino, 1, other.ino, 0, 4096), -EINVAL);
    assert_int_equal(co_csv_unlink(volume, dir.ino, "twin"), 0);
    assert_int_equal(co_csv_unlink(volume, FS_ROOT_INO, "dir"), -EISDIR);
    assert_int_equal(co_csv_rmdir(volume, FS_ROOT_INO, "dir"), -ENOTEMPTY);
    memset(long_name, 'x', sizeof(long_name));
    long_name[FS_NAME_MAX + 1] = 0;
    assert_int_equal(co_csv_unlink(volume, FS_ROOT_INO, long_name), -ENAMETOOLONG);
    assert_int_equal(co_csv_unlink(volume, FS_ROOT_INO, ""), -EINVAL);
    long_name[FS_NAME_MAX] = 0;
    assert_int_equal(co_csv_create(volume, dir.ino, long_name, &new_file, &other), 0);
    assert_int_equal(co_csv_unlink(volume, dir.ino, long_name), 0);

    while (!end)
        assert_int_equal(
            co_csv_readdir(volume, dir.ino, listing.cookie, list_entry_of, &listing, &end), 0);
    assert_int_equal(listing.count, 2);
    assert_non_null(strstr(listing.names, "hard "));
    assert_non_null(strstr(listing.names, "soft "));
    assert_int_equal(co_csv_unlink(volume, dir.ino, "hard"), 0);
    assert_int_equal(co_csv_unlink(volume, dir.ino, "soft"), 0);
    assert_int_equal(co_csv_rmdir(volume, FS_ROOT_INO, "dir"), 0);
    assert_int_equal(co_csv_unlink(volume, FS_ROOT_INO, "moved"), 0);
    assert_int_equal(co_csv_statfs(volume, &statfs), 0);
    assert_string_equal(statfs.label, "v");
    assert_true(statfs.available_bytes > 0 && statfs.available_bytes < statfs.total_bytes);
}

static void data_on(struct csv_world *world, struct csv_volume *volume)
{
    static const struct {
        uint64_t offset;
        uint32_t length;
    } ranges[] = {{0, 4096},      {100, 10},          {4090, 20},    {8192, 32768},
                  {65536, 32769}, {3 * MIB, MIB + 1}, {512, 3 * MIB}};
    size_t size = 6 * MIB;
    uint8_t *model = calloc(1, size), *data = aligned(size);
    struct csv_file *file = co_make_and_open(volume, "data");
    struct fs_attr attr;
    uint64_t length;
    bool is_data;

    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        fill(data, ranges[i].length, i);
        memcpy(model + ranges[i].offset, data, ranges[i].length);
        assert_int_equal(co_csv_write(file, data, ranges[i].offset, ranges[i].length), 0);
        memset(data, 0x5a, size);
        assert_int_equal(co_csv_read(file, data, 0, size, &length), 0);
        assert_memory_equal(data, model, length);
    }
    assert_int_equal(length, 4 * MIB + 1);
    assert_int_equal(co_csv_punch(file, MIB, 65536), 0);
    assert_int_equal(co_csv_block_status(file, MIB, size, &is_data, &length), 0);
    assert_false(is_data);
    assert_int_equal(length, 65536);
    assert_int_equal(co_csv_zero(file, 2 * MIB, 100), 0);
    assert_int_equal(co_csv_allocate(file, 5 * MIB, 4096, FS_ALLOCATE_KEEP_SIZE), 0);
    memset(model + MIB, 0, 65536);
    memset(model + 2 * MIB, 0, 100);
    assert_int_equal(co_csv_read(file, data, 0, size, &length), 0);
    assert_int_equal(length, 4 * MIB + 1);
    assert_memory_equal(data, model, length);
    assert_int_equal(co_csv_walk(volume, "data", &attr), 0);
    assert_int_equal(co_csv_sync(volume, attr.ino, false), 0);
    csv_file_close(file);
    assert_int_equal(co_csv_unlink(volume, FS_ROOT_INO, "data"), 0);
    co_closed(world);
    free(model);
    free(data);
}

static void from_everywhere(struct csv_world *world)
{
    for (unsigned node = 1; node <= 2; node++) {
        names_on(world->volume[node]);
        data_on(world, world->volume[node]);
    }
}

static void test_from_everywhere(void **state)
{
    (void)state;
    csv_world_run(from_everywhere);
}

/* Behind all that a file can hold: an error, from every node, and no request that no owner takes.
 */
static void far_offsets(struct csv_world *world)
{
    for (unsigned node = 1; node <= 2; node++) {
        struct csv_file *file = co_make_and_open(world->volume[node], node == 1 ? "one" : "two");
        uint64_t length;
        char byte = 1;

        assert_int_equal(co_csv_write(file, &byte, FS_FILE_SIZE_MAX, 1), -EFBIG);
        assert_int_equal(co_csv_write(file, &byte, INT64_MAX - 1, 1), -EFBIG);
        assert_int_equal(co_csv_read(file, &byte, INT64_MAX - 1, 1, &length), -EFBIG);
        assert_int_equal(co_csv_punch(file, INT64_MAX - 1, 1), -EFBIG);
        csv_file_close(file);
        co_closed(world);
    }
}

static void test_far_offsets(void **state)
{
    (void)state;
    csv_world_run(far_offsets);
}

/* The numbers of requests go round after months. */
static void numbers_go_round(struct csv_world *world)
{
    static const uint32_t starts[] = {1u << 30, 1u << 31, 3u << 30, UINT32_MAX - 3};
    struct csv_volume *volume = world->volume[2];
    struct fs_attr attr;

    for (size_t i = 0; i < ARRAY_SIZE(starts); i++) {
        volume->sequences[0] = starts[i];
        for (unsigned round = 0; round < 4; round++) {
            assert_int_equal(co_csv_create(volume, FS_ROOT_INO, "a", &new_file, &attr), 0);
            assert_int_equal(co_csv_unlink(volume, FS_ROOT_INO, "a"), 0);
        }
    }
    assert_true(volume->sequences[0] < 10);
}

static void test_numbers_go_round(void **state)
{
    (void)state;
    csv_world_run(numbers_go_round);
}

/* A directory of many pages, through a redirect. */
static void large_directory(struct csv_world *world)
{
    struct csv_volume *volume = world->volume[2];
    struct listing listing = {0};
    struct fs_attr attr;
    bool end = false;
    char name[128];

    for (unsigned i = 0; i < 2000; i++) {
        snprintf(name, sizeof(name), "a-name-long-enough-to-fill-some-pages-%u", i);
        assert_int_equal(co_csv_create(volume, FS_ROOT_INO, name, &new_file, &attr), 0);
    }
    while (!end)
        assert_int_equal(
            co_csv_readdir(volume, FS_ROOT_INO, listing.cookie, list_entry_of, &listing, &end), 0);
    assert_int_equal(listing.count, 2000);
}

static void test_large_directory(void **state)
{
    (void)state;
    csv_world_run(large_directory);
}

/* ---- while the owner changes ---- */

struct writer {
    struct csv_world *world;
    unsigned node, number, count;
    bool stop;
    struct co_group *group;
};

/* Makes files, each of which exists only once: a repeat that ran again would say -EEXIST, one that
 * was lost would leave none. */
static void co_writer_main(void *arg)
{
    struct writer *writer = arg;
    struct csv_volume *volume = writer->world->volume[writer->node];
    uint8_t *data = aligned(8192);
    char name[64];

    while (!writer->stop) {
        struct csv_file *file;
        uint64_t length;

        snprintf(name, sizeof(name), "%u-%u-%u", writer->node, writer->number, writer->count);
        file = co_make_and_open(volume, name);
        fill(data, 8192, writer->count);
        assert_int_equal(co_csv_write(file, data, 4096, 8192), 0);
        memset(data, 0, 8192);
        assert_int_equal(co_csv_read(file, data, 4096, 8192, &length), 0);
        assert_int_equal(length, 8192);
        csv_file_close(file);
        if (writer->count % 2)
            assert_int_equal(co_csv_unlink(volume, FS_ROOT_INO, name), 0);
        writer->count++;
    }
    free(data);
}

static void co_expect_files(struct csv_world *world, const struct writer *writer)
{
    struct csv_volume *volume = world->volume[1];
    uint8_t *data = aligned(8192), expected[8192];
    char name[64];

    for (unsigned i = 0; i < writer->count; i++) {
        struct csv_file *file;
        struct fs_attr attr;
        uint64_t length;
        int r;

        snprintf(name, sizeof(name), "%u-%u-%u", writer->node, writer->number, i);
        r = co_csv_lookup(volume, FS_ROOT_INO, name, &attr);
        assert_int_equal(r, i % 2 ? -ENOENT : 0);
        if (r < 0)
            continue;
        assert_int_equal(co_csv_open(volume, &(struct csv_open){.ino = attr.ino, .read_only = true},
                                     &attr, &file),
                         0);
        fill(expected, sizeof(expected), i);
        assert_int_equal(co_csv_read(file, data, 4096, 8192, &length), 0);
        assert_int_equal(length, 8192);
        assert_memory_equal(data, expected, sizeof(expected));
        csv_file_close(file);
    }
    free(data);
}

/* Lets every writer finish a file or more. */
static void co_progress(const struct writer *writers, size_t count)
{
    unsigned before[CSV_NODES * 3];

    assert_true(count <= ARRAY_SIZE(before));
    for (size_t i = 0; i < count; i++)
        before[i] = writers[i].count;
    for (size_t i = 0; i < count; i++) {
        while (writers[i].count == before[i])
            co_sleep_ns(MS / 4);
    }
}

/* Moves, deaths and broken connections under load: no error, nothing lost, nothing done twice. */
static void moving(struct csv_world *world)
{
    struct writer writers[CSV_NODES * 3];
    struct co_group group;

    co_group_init(&group);
    for (unsigned i = 0; i < ARRAY_SIZE(writers); i++) {
        writers[i] = (struct writer){.world = world, .node = 1 + i % CSV_NODES, .number = i};
        assert_int_equal(
            co_group_spawn(&group, world->world->io, "writer", co_writer_main, &writers[i]), 0);
    }
    for (unsigned round = 0; round < 24; round++) {
        co_progress(writers, ARRAY_SIZE(writers));
        co_sleep_ns(io_random(world->world->io) % (5 * MS)); /* anywhere in what they do */
        switch (round % 4) {
        case 0: /* a planned move */
            co_csv_world_move(world, 1 + (round / 4 + 1) % CSV_NODES, false);
            break;
        case 1: /* what the disk did is not answered */
            world->vdisk->lose_answer = true;
            co_sleep_ns(2 * MS);
            co_csv_world_move(world, 1 + (round / 4 + 2) % CSV_NODES, true);
            break;
        case 2: /* the same owner, but answers are lost */
            co_csv_world_break(world, world->owner, 1 + world->owner % CSV_NODES);
            break;
        case 3: /* a time without an owner */
            co_csv_world_revoke(world, true);
            co_sleep_ns(15 * MS);
            co_csv_world_give(world, 1 + (round / 4) % CSV_NODES);
            break;
        }
    }
    for (unsigned i = 0; i < ARRAY_SIZE(writers); i++)
        writers[i].stop = true;
    co_group_wait(&group);
    for (unsigned i = 0; i < ARRAY_SIZE(writers); i++) {
        assert_true(writers[i].count >= 24);
        co_expect_files(world, &writers[i]);
    }
    co_closed(world);
}

static void test_moving(void **state)
{
    (void)state;
    csv_world_run(moving);
}

/* A file without a name lives as long as it is open, at each new owner. */
static void open_without_name(struct csv_world *world)
{
    uint8_t *data = aligned(4096), expected[4096];
    struct csv_file *files[CSV_NODES + 1];
    struct fs_statfs statfs;
    uint64_t length;
    char name[16];

    fill(expected, sizeof(expected), 9);
    memcpy(data, expected, sizeof(expected));
    for (unsigned node = 1; node <= CSV_NODES; node++) {
        snprintf(name, sizeof(name), "n%u", node);
        files[node] = co_make_and_open(world->volume[node], name);
        assert_int_equal(co_csv_write(files[node], data, 0, 4096), 0);
        assert_int_equal(co_csv_unlink(world->volume[node], FS_ROOT_INO, name), 0);
    }
    for (unsigned owner = 2; owner <= CSV_NODES; owner++) {
        co_csv_world_move(world, owner, owner % 2);
        while (csv_volume_count(world->volume[owner]).open_files < CSV_NODES)
            co_sleep_ns(MS); /* they are opened again, though nobody uses them */
        assert_int_equal(co_fs_reap_orphans(world->fs), 0);
    }
    for (unsigned node = 1; node <= CSV_NODES; node++) {
        assert_int_equal(co_csv_read(files[node], data, 0, 4096, &length), 0);
        assert_int_equal(length, 4096);
        assert_memory_equal(data, expected, 4096);
        csv_file_close(files[node]);
    }
    co_closed(world);
    assert_int_equal(co_fs_statfs(world->fs, &statfs), 0);
    free(data);
}

static void test_open_without_name(void **state)
{
    (void)state;
    csv_world_run(open_without_name);
}

struct one_write {
    struct csv_file *file;
    uint8_t *data;
    int result;
    bool done;
};

static void co_one_write(void *arg)
{
    struct one_write *write = arg;

    write->result = co_csv_write(write->file, write->data, 0, 4096);
    write->done = true;
}

/* An owner dies with a write under way, and the next one does not know the file: opened again
 * there, the write still has the name that it had, or what it did already could not be told from
 * it. */
static void same_name(struct csv_world *world)
{
    struct one_write write = {.data = aligned(4096)};
    /* opened again one after the other: the write is there before its file */
    struct csv_file *other = co_make_and_open(world->volume[2], "other");
    struct csv_file *file = co_make_and_open(world->volume[2], "file");
    struct client_request first;
    struct co_group group;

    memset(write.data, 0, 4096);
    assert_int_equal(co_csv_write(file, write.data, 0, 4096), 0); /* the next one is in place */
    write.file = file;
    world->vdisk->hold = true;
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, world->world->io, "write", co_one_write, &write), 0);
    while (world->vdisk->held == 0)
        co_cond_wait_always(&world->vdisk->held_one);
    first = world->vdisk->last;
    assert_false(first.is_repeat);
    co_csv_world_move(world, 3, true);
    co_group_wait(&group);
    assert_int_equal(write.result, 0);
    assert_true(world->vdisk->last.is_repeat);
    assert_int_equal(world->vdisk->last.session, first.session);
    assert_int_equal(world->vdisk->last.number, first.number);
    csv_file_close(file);
    csv_file_close(other);
    co_closed(world);
    free(write.data);
}

static void test_same_name(void **state)
{
    (void)state;
    csv_world_run(same_name);
}

/* The connection breaks over a write that the owner has begun. Its repeat waits for it (else the
 * first, which is still on its way, could land on top of a newer write), and so does what comes
 * after. */
static void drain(struct csv_world *world)
{
    struct one_write first = {.data = aligned(4096)};
    struct csv_file *file = co_make_and_open(world->volume[2], "file");
    uint8_t *data = aligned(4096);
    struct co_group group;
    uint64_t length, served;

    memset(data, 0, 4096);
    assert_int_equal(co_csv_write(file, data, 0, 4096), 0);
    memset(first.data, 1, 4096);
    first.file = file;
    world->vdisk->hold = true;
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, world->world->io, "write", co_one_write, &first), 0);
    while (world->vdisk->held == 0)
        co_cond_wait_always(&world->vdisk->held_one);
    assert_int_equal(world->vdisk->held, 1);
    served = csv_world_served(world, 1);

    co_csv_world_break(world, 1, 2);
    while (!nodes_are_connected(&world->world->nodes[1], &world->world->nodes[2]))
        co_sleep_ns(MS);
    co_sleep_ns(30 * MS); /* time enough to do it wrong */
    assert_int_equal(world->vdisk->held, 1);
    assert_int_equal(csv_world_served(world, 1), served); /* the repeat has not even begun */
    assert_false(first.done);
    csv_vdisk_release(world->vdisk);
    co_group_wait(&group);
    assert_int_equal(first.result, 0);
    memset(data, 2, 4096);
    assert_int_equal(co_csv_write(file, data, 0, 4096), 0);
    assert_int_equal(co_csv_read(file, data, 0, 4096, &length), 0);
    assert_int_equal(data[0], 2);
    csv_file_close(file);
    co_closed(world);
    free(first.data);
    free(data);
}

static void test_drain(void **state)
{
    (void)state;
    csv_world_run(drain);
}

struct one_look {
    struct csv_volume *volume;
    struct fs_attr attr;
    int result;
    bool done;
};

static void co_one_look(void *arg)
{
    struct one_look *look = arg;

    look->result = co_csv_walk(look->volume, "file", &look->attr);
    look->done = true;
}

static void no_answer_without_the_lease(struct csv_world *world)
{
    struct one_look here = {.volume = world->volume[1]}, there = {.volume = world->volume[2]};
    struct fs_attr attr;
    struct co_group group;

    csv_file_close(co_make_and_open(world->volume[1], "file"));
    co_closed(world);
    world->lease_lost = true;
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, world->world->io, "look", co_one_look, &here), 0);
    assert_int_equal(co_group_spawn(&group, world->world->io, "look", co_one_look, &there), 0);
    co_sleep_ns(30 * MS);
    assert_false(here.done); /* somebody else may have changed it by now */
    assert_false(there.done);
    world->lease_lost = false;
    co_csv_world_move(world, 3, true);
    assert_int_equal(co_csv_walk(world->volume[3], "file", &attr), 0);
    co_group_wait(&group);
    assert_int_equal(here.result, 0);
    assert_int_equal(there.result, 0);
    assert_int_equal(here.attr.ino, attr.ino);
}

/* What an owner knows by heart may be old once its lease has run out, though nobody has told it. */
static void test_no_answer_without_the_lease(void **state)
{
    (void)state;
    csv_world_run(no_answer_without_the_lease);
}

/* More at once than the window, of the largest kind, from two nodes. */
static void co_large_writer(void *arg)
{
    struct writer *writer = arg;
    struct csv_file *file;
    uint8_t *data = aligned(2 * MIB);
    char name[32];

    snprintf(name, sizeof(name), "large-%u", writer->number);
    file = co_make_and_open(writer->world->volume[writer->node], name);
    fill(data, 2 * MIB, writer->number);
    assert_int_equal(co_csv_write(file, data, 0, 2 * MIB), 0);
    csv_file_close(file);
    free(data);
}

static void window(struct csv_world *world)
{
    struct writer writers[40];
    struct co_group group;

    co_group_init(&group);
    for (unsigned i = 0; i < ARRAY_SIZE(writers); i++) {
        writers[i] = (struct writer){.world = world, .node = 2 + i % 2, .number = i};
        assert_int_equal(
            co_group_spawn(&group, world->world->io, "writer", co_large_writer, &writers[i]), 0);
    }
    co_group_wait(&group);
    co_closed(world);
}

static void test_window(void **state)
{
    (void)state;
    csv_world_run(window);
}

/* ---- VM disks ---- */

static int co_open_as(struct csv_world *world, unsigned node, uint64_t ino, uint64_t incarnation,
                      bool read_only, struct csv_file **ret_file)
{
    struct csv_open open = {
        .ino = ino, .incarnation = incarnation, .read_only = read_only, .path = "disk"};
    struct fs_attr attr;

    return co_csv_open(world->volume[node], &open, &attr, ret_file);
}

static void incarnations(struct csv_world *world)
{
    struct csv_file *before, *first, *second, *reader, *none;
    uint8_t *data = aligned(4096);
    struct fs_attr attr;
    uint64_t length;

    before = co_make_and_open(world->volume[3], "disk");
    assert_int_equal(co_csv_walk(world->volume[1], "disk", &attr), 0);
    world->authorize_result = -EACCES;
    assert_int_equal(co_open_as(world, 2, attr.ino, 5, false, &none), -EACCES);
    assert_string_equal(world->authorized, "v/disk@5");
    world->authorize_result = 0;

    assert_int_equal(co_open_as(world, 2, attr.ino, 5, false, &first), 0);
    assert_int_equal(co_csv_write(first, data, 0, 4096), 0);
    assert_int_equal(co_csv_write(before, data, 0, 4096), -EPERM); /* fenced */
    assert_int_equal(co_csv_read(before, data, 0, 4096, &length), -EPERM);
    assert_int_equal(co_open_as(world, 1, attr.ino, 0, false, &none), -EBUSY);
    assert_int_equal(co_csv_truncate(world->volume[1], attr.ino, 0, &attr), -EBUSY);
    assert_int_equal(co_open_as(world, 3, attr.ino, 4, false, &none), -EPERM);
    assert_int_equal(co_open_as(world, 1, attr.ino, 0, true, &reader), 0);
    assert_int_equal(co_csv_read(reader, data, 0, 4096, &length), 0);
    assert_int_equal(co_csv_write(reader, data, 0, 4096), -EPERM);

    assert_int_equal(co_open_as(world, 3, attr.ino, 6, false, &second), 0);
    assert_int_equal(co_csv_write(first, data, 0, 4096), -EPERM);
    assert_int_equal(co_csv_write(second, data, 0, 4096), 0);
    assert_int_equal(co_csv_read(reader, data, 0, 4096, &length), 0);

    csv_file_close(first);
    csv_file_close(before);
    csv_file_close(second);
    csv_file_close(reader);
    co_closed(world);
    assert_int_equal(co_csv_truncate(world->volume[1], attr.ino, 0, &attr), 0);
    free(data);
}

static void test_incarnations(void **state)
{
    (void)state;
    csv_world_run(incarnations);
}

/* The older incarnation's write, already begun, is done before the newer one is told that it may
 * start. */
static void co_open_next(void *arg)
{
    struct one_write *write = arg;
    struct csv_world *world = (struct csv_world *)write->data;
    struct fs_attr attr;

    assert_int_equal(co_csv_walk(world->volume[3], "disk", &attr), 0);
    write->result = co_open_as(world, 3, attr.ino, 2, false, &write->file);
    write->done = true;
}

static void fence_drains(struct csv_world *world)
{
    struct one_write write = {.data = aligned(4096)}, next = {.data = (uint8_t *)world};
    struct csv_file *maker = co_make_and_open(world->volume[2], "disk");
    struct co_group group;
    struct fs_attr attr;

    memset(write.data, 1, 4096);
    assert_int_equal(co_csv_write(maker, write.data, 0, 4096), 0);
    csv_file_close(maker);
    assert_int_equal(co_csv_walk(world->volume[2], "disk", &attr), 0);
    assert_int_equal(co_open_as(world, 2, attr.ino, 1, false, &write.file), 0);
    world->vdisk->hold = true;
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, world->world->io, "write", co_one_write, &write), 0);
    while (world->vdisk->held == 0)
        co_cond_wait_always(&world->vdisk->held_one);
    assert_int_equal(co_group_spawn(&group, world->world->io, "open", co_open_next, &next), 0);
    co_sleep_ns(20 * MS);
    assert_false(next.done);
    csv_vdisk_release(world->vdisk);
    co_group_wait(&group);
    assert_int_equal(write.result, 0);
    assert_int_equal(next.result, 0);
    csv_file_close(write.file);
    csv_file_close(next.file);
    co_closed(world);
    free(write.data);
}

static void test_fence_drains(void **state)
{
    (void)state;
    csv_world_run(fence_drains);
}

/* ---- names of exports ---- */

static void test_export_names(void **state)
{
    char volume[CSV_VOLUME_NAME_MAX + 1], path[CSV_PATH_MAX + 1], long_name[100];
    uint64_t incarnation;

    (void)state;
    assert_int_equal(nbd_files_parse("v/a/b c.raw", volume, path, &incarnation), 0);
    assert_string_equal(volume, "v");
    assert_string_equal(path, "a/b c.raw");
    assert_int_equal(incarnation, 0);
    assert_int_equal(nbd_files_parse("v/a@b@12", volume, path, &incarnation), 0);
    assert_string_equal(path, "a@b");
    assert_int_equal(incarnation, 12);
    assert_int_equal(nbd_files_parse("v/a@", volume, path, &incarnation), 0);
    assert_string_equal(path, "a@");
    assert_int_equal(nbd_files_parse("v@1/a", volume, path, &incarnation), 0);
    assert_string_equal(volume, "v@1");
    assert_int_equal(incarnation, 0);
    assert_int_equal(nbd_files_parse("", volume, path, &incarnation), -ENOENT);
    assert_int_equal(nbd_files_parse("v", volume, path, &incarnation), -ENOENT);
    assert_int_equal(nbd_files_parse("v/", volume, path, &incarnation), -ENOENT);
    assert_int_equal(nbd_files_parse("/a", volume, path, &incarnation), -ENOENT);
    assert_int_equal(nbd_files_parse("v/@1", volume, path, &incarnation), -ENOENT);
    memset(long_name, 'x', sizeof(long_name));
    memcpy(long_name + CSV_VOLUME_NAME_MAX + 1, "/a", 3);
    assert_int_equal(nbd_files_parse(long_name, volume, path, &incarnation), -ENOENT);
}

struct call {
    struct csv_world *world;
    uint64_t ino;
    struct csv_file *file;
    struct fs_attr attr;
    int result;
};

static void co_take_snapshot(void *arg)
{
    struct call *call = arg;

    call->result = co_csv_snapshot(call->world->volume[1], CSV_SNAPSHOT_CREATE, FS_ROOT_INO, "s");
}

static void co_empty(void *arg)
{
    struct call *call = arg;

    call->result = co_csv_truncate(call->world->volume[2], call->ino, 0, &call->attr);
}

/* The disk a/b/disk of a running VM keeps its path, from every node and also while nobody has it
 * open; other names, and files of the same name elsewhere, do not care. */
static void disks_keep_their_names(struct csv_world *world)
{
    static const struct fs_new folder = {.mode = S_IFDIR | 0755}, file = {.mode = S_IFREG | 0644};
    struct csv_volume *volume = world->volume[2];
    struct fs_attr a, b, made;

    assert_int_equal(co_csv_mkdir(volume, FS_ROOT_INO, "a", &folder, &a), 0);
    assert_int_equal(co_csv_mkdir(volume, a.ino, "b", &folder, &b), 0);
    assert_int_equal(co_csv_create(volume, b.ino, "disk", &file, &made), 0);
    assert_int_equal(co_csv_create(volume, b.ino, "other", &file, &made), 0);
    assert_int_equal(co_csv_create(volume, FS_ROOT_INO, "disk", &file, &made), 0);
    world->vm_disk = "a/b/disk";
    assert_int_equal(co_csv_unlink(volume, b.ino, "disk"), -EBUSY);
    assert_int_equal(co_csv_unlink(world->volume[1], b.ino, "disk"), -EBUSY);
    assert_int_equal(co_csv_rename(volume, b.ino, "disk", b.ino, "else", 0), -EBUSY);
    assert_int_equal(co_csv_rename(volume, b.ino, "other", b.ino, "disk", 0), -EBUSY);
    assert_int_equal(co_csv_rename(volume, a.ino, "b", FS_ROOT_INO, "b", 0), -EBUSY);
    assert_int_equal(co_csv_rename(volume, FS_ROOT_INO, "a", FS_ROOT_INO, "c", 0), -EBUSY);
    assert_int_equal(co_csv_rename(volume, FS_ROOT_INO, "disk", a.ino, "disk", 0), 0);
    assert_int_equal(co_csv_unlink(volume, a.ino, "disk"), 0);
    assert_int_equal(co_csv_unlink(volume, b.ino, "none"), -ENOENT);
    world->vm_disk = "a/b/gone"; /* one that is away may come back by its name */
    assert_int_equal(co_csv_unlink(volume, b.ino, "gone"), -ENOENT);
    assert_int_equal(co_csv_rename(volume, b.ino, "other", b.ino, "gone", 0), 0);
    world->vm_disk = NULL;
    assert_int_equal(co_csv_unlink(volume, b.ino, "gone"), 0);
    assert_int_equal(co_csv_unlink(volume, b.ino, "disk"), 0);
}

static void test_disks_keep_their_names(void **state)
{
    (void)state;
    csv_world_run(disks_keep_their_names);
}

static void co_open_for_vm(void *arg)
{
    struct call *call = arg;
    struct csv_open open = {.ino = call->ino, .incarnation = 5, .path = "disk"};

    call->result = co_csv_open(call->world->volume[3], &open, &call->attr, &call->file);
}

/* A truncation that has been let in, and waits, is done before a VM may start: what it sees of its
 * disk as it starts is what it keeps. Here it waits for a snapshot, which waits for a write. */
static void reshaping_bars_vms(struct csv_world *world)
{
    struct one_write write = {.data = aligned(4096)};
    struct csv_file *maker = co_make_and_open(world->volume[2], "disk");
    struct call snapshot = {.world = world}, empty = {.world = world}, vm = {.world = world};
    struct io *io = world->world->io;
    struct co_group group;
    struct fs_attr attr;

    memset(write.data, 1, 4096);
    assert_int_equal(co_csv_write(maker, write.data, 0, 4096), 0);
    csv_file_close(maker);
    assert_int_equal(co_csv_walk(world->volume[1], "disk", &attr), 0);
    empty.ino = vm.ino = attr.ino;
    write.file = co_make_and_open(world->volume[2], "other");
    world->vdisk->hold = true;
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, io, "write", co_one_write, &write), 0);
    while (world->vdisk->held == 0)
        co_cond_wait_always(&world->vdisk->held_one);
    assert_int_equal(co_group_spawn(&group, io, "snapshot", co_take_snapshot, &snapshot), 0);
    co_sleep_ns(5 * MS);
    assert_int_equal(co_group_spawn(&group, io, "empty", co_empty, &empty), 0);
    co_sleep_ns(5 * MS);
    assert_int_equal(co_group_spawn(&group, io, "vm", co_open_for_vm, &vm), 0);
    co_sleep_ns(20 * MS);
    csv_vdisk_release(world->vdisk);
    co_group_wait(&group);

    assert_int_equal(snapshot.result, 0);
    assert_int_equal(empty.result, 0);
    assert_int_equal(vm.result, 0);
    assert_int_equal(co_csv_getattr(world->volume[1], vm.ino, &attr), 0);
    assert_int_equal(attr.size, vm.attr.size);
    csv_file_close(write.file);
    csv_file_close(vm.file);
    co_closed(world);
    free(write.data);
}

static void test_reshaping_bars_vms(void **state)
{
    (void)state;
    csv_world_run(reshaping_bars_vms);
}

/* Who only asks what an export is shuts nobody out; who may not write reads. */
static void exports_of_files(struct csv_world *world)
{
    struct csv_file *maker = co_make_and_open(world->volume[2], "disk");
    struct nbd_file *vm, *asking, *other;
    struct nbd_backend *backend;
    struct nbd_files *files;
    uint8_t *data = aligned(4096);

    assert_int_equal(co_csv_write(maker, data, 0, 4096), 0);
    csv_file_close(maker);
    assert_int_equal(nbd_files_new(world->csv[2], &files), 0);
    backend = nbd_files_backend(files);
    assert_int_equal(backend->ops->co_open(backend, "v/none", false, &vm), -ENOENT);
    assert_int_equal(backend->ops->co_open(backend, "w/disk", false, &vm), -ENOENT);
    assert_int_equal(backend->ops->co_open(backend, "v/disk@7", false, &vm), 0);
    assert_string_equal(world->authorized, "v/disk@7");
    assert_false(vm->read_only);
    assert_int_equal(vm->size_bytes, 4096);
    assert_int_equal(backend->ops->co_open(backend, "v/disk@8", true, &asking), 0);
    assert_int_equal(backend->ops->co_write(vm, data, 0, 4096), 0);
    assert_int_equal(backend->ops->co_open(backend, "v/disk", false, &other), 0);
    assert_true(other->read_only);
    assert_int_equal(backend->ops->co_read(other, data, 0, 4096), 0);
    backend->ops->co_close(asking);
    backend->ops->co_close(other);
    assert_int_equal(backend->ops->co_open(backend, "v/disk@6", false, &other), -EPERM);
    assert_int_equal(backend->ops->co_open(backend, "v/disk@8", false, &other), 0);
    assert_int_equal(backend->ops->co_write(vm, data, 0, 4096), -EPERM);
    backend->ops->co_close(vm);
    backend->ops->co_close(other);
    nbd_files_free(files);
    co_closed(world);
    free(data);
}

static void test_exports_of_files(void **state)
{
    (void)state;
    csv_world_run(exports_of_files);
}

/* ---- waiting, and its ends ---- */

struct waiting {
    struct csv_volume *volume;
    int result;
};

static void co_getattr_root(void *arg)
{
    struct waiting *waiting = arg;
    struct fs_attr attr;

    waiting->result = co_csv_getattr(waiting->volume, FS_ROOT_INO, &attr);
}

static void ends_of_waiting(struct csv_world *world)
{
    struct waiting one = {.volume = world->volume[1], .result = 1};
    struct waiting two = {.volume = world->volume[2], .result = 1};
    struct waiting three = {.volume = world->volume[3], .result = 1};
    struct io *io = world->world->io;
    struct co_group group;
    struct co *co;

    co_group_init(&group);
    co_csv_world_revoke(world, false);
    co_csv_world_give(world, 0);
    assert_int_equal(co_group_spawn(&group, io, "one", co_getattr_root, &one), 0);
    assert_int_equal(co_spawn_handle(io, "two", co_getattr_root, &two, &co), 0);
    assert_int_equal(co_group_spawn(&group, io, "three", co_getattr_root, &three), 0);
    while (csv_volume_count(world->volume[1]).waiting + csv_volume_count(world->volume[2]).waiting +
               csv_volume_count(world->volume[3]).waiting <
           3)
        co_sleep_ns(MS / 10);
    assert_int_equal(one.result + two.result + three.result, 3);

    co_cancel(co);
    while (two.result == 1)
        co_sleep_ns(MS / 10);
    assert_int_equal(two.result, -ECANCELED);
    csv_stop(world->csv[1]);
    co_csv_remove_volume(world->csv[3], CSV_VOLUME_ID);
    co_group_wait(&group);
    assert_int_equal(one.result, -ESHUTDOWN);
    assert_int_equal(three.result, -ENODEV);
    assert_null(csv_volume_find(world->csv[3], "v"));
}

static void co_make_dir(void *arg)
{
    struct waiting *waiting = arg;
    struct fs_attr attr;

    waiting->result = co_csv_mkdir(waiting->volume, FS_ROOT_INO, "made", &new_dir, &attr);
}

/* A request that the owner has, and does not come to an end with, holds up nobody who leaves: a
 * daemon that stops waits for its administrator's requests. */
static void end_of_an_answer(struct csv_world *world)
{
    struct waiting waiting = {.volume = world->volume[2], .result = 1};
    struct co *co;

    world->vdisk->hold = true;
    assert_int_equal(co_spawn_handle(world->world->io, "waiting", co_make_dir, &waiting, &co), 0);
    while (world->vdisk->held == 0)
        co_sleep_ns(MS / 10);
    co_cancel(co);
    for (unsigned i = 0; i < 1000 && waiting.result == 1; i++)
        co_sleep_ns(MS / 10);
    assert_int_equal(waiting.result, -ECANCELED);
    csv_vdisk_release(world->vdisk);
}

static void test_end_of_an_answer(void **state)
{
    (void)state;
    csv_world_run(end_of_an_answer);
}

static void co_remove_it(void *arg)
{
    co_csv_remove_volume(arg, CSV_VOLUME_ID);
}

/* A volume that is deleted may have requests under way, on a disk that is slow. Its name is free
 * for another one meanwhile. */
static void name_of_a_removed(struct csv_world *world)
{
    struct csv_volume_state state = {.id = CSV_VOLUME_ID + 1, .name = "v", .owner = 2};
    struct csv *csv = world->csv[1];
    struct one_write write = {.data = aligned(4096),
                              .file = co_make_and_open(world->volume[1], "file")};
    struct csv_volume *found;
    struct co_group group;

    memset(write.data, 1, 4096);
    world->vdisk->hold = true;
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, world->world->io, "write", co_one_write, &write), 0);
    while (world->vdisk->held == 0)
        co_cond_wait_always(&world->vdisk->held_one);
    assert_int_equal(co_group_spawn(&group, world->world->io, "remove", co_remove_it, csv), 0);
    co_sleep_ns(MS);
    assert_int_equal(co_csv_set_volume(csv, &state), 0);
    found = csv_volume_find(csv, "v");
    assert_non_null(found);
    assert_int_equal(csv_volume_id(found), CSV_VOLUME_ID + 1);
    csv_volume_put(found);
    found = csv_volume_next(csv, NULL);
    assert_int_equal(csv_volume_id(found), CSV_VOLUME_ID + 1);
    csv_volume_put(found);
    csv_vdisk_release(world->vdisk);
    co_group_wait(&group);
    csv_file_close(write.file);
    co_csv_remove_volume(csv, CSV_VOLUME_ID + 1);
    free(write.data);
}

static void test_name_of_a_removed(void **state)
{
    (void)state;
    csv_world_run(name_of_a_removed);
}

static void test_ends_of_waiting(void **state)
{
    (void)state;
    csv_world_run(ends_of_waiting);
}

/* A node that started again has nothing open, and its old requests are refused. */
static void restarted_client(struct csv_world *world)
{
    struct csv_options options = {.node = 2, .start_counter = 2, .bus = world->world->nodes[2].bus};
    struct csv_volume_state state = {
        .id = CSV_VOLUME_ID, .name = "v", .owner = 1, .session = world->session};
    struct csv_file *file = co_make_and_open(world->volume[2], "file");
    struct fs_attr attr;

    assert_int_equal(csv_volume_count(world->volume[1]).open_files, 1);
    /* It dies without a word. */
    csv_stop(world->csv[2]);
    csv_file_close(file);
    csv_volume_put(world->volume[2]);
    co_csv_close(world->csv[2]);
    assert_int_equal(csv_volume_count(world->volume[1]).open_files, 1);

    assert_int_equal(csv_new(world->world->io, &options, &world->csv[2]), 0);
    assert_int_equal(co_csv_set_volume(world->csv[2], &state), 0);
    world->volume[2] = csv_volume_find(world->csv[2], "v");
    co_csv_world_break(world, 1, 2); /* as its death would */
    assert_int_equal(co_csv_walk(world->volume[2], "file", &attr), 0);
    assert_int_equal(csv_volume_count(world->volume[1]).open_files, 0);

    /* One that never comes back. */
    file = co_make_and_open(world->volume[3], "other");
    assert_int_equal(csv_volume_count(world->volume[1]).open_files, 1);
    co_csv_forget_client(world->csv[1], 3);
    assert_int_equal(csv_volume_count(world->volume[1]).open_files, 0);
    csv_file_close(file);
    co_closed(world);
}

static void test_restarted_client(void **state)
{
    (void)state;
    csv_world_run(restarted_client);
}

/* ---- what a peer may send ---- */

static int co_raw(struct csv_world *world, uint16_t type, const void *header, uint32_t length)
{
    uint8_t reply_bytes[CSV_REPLY_BYTES];
    struct bus_reply reply = {.header = reply_bytes, .header_bytes = sizeof(reply_bytes)};
    struct bus_send send = {
        .to = 1, .channel = BUS_DATA, .type = type, .header = header, .header_bytes = length};

    assert_int_equal(co_bus_call(world->world->nodes[2].bus, &send, SEC, &reply), 0);
    return reply.result;
}

static void bad_messages(struct csv_world *world)
{
    struct csv_attach attach = {
        .volume = CSV_VOLUME_ID, .session = world->session, .client_counter = 9};
    struct csv_request request = {.op = CSV_GETATTR,
                                  .volume = CSV_VOLUME_ID,
                                  .session = world->session,
                                  .client_counter = 9,
                                  .ino = FS_ROOT_INO};
    uint8_t bytes[CSV_REQUEST_MAX];
    int length;

    assert_int_equal(co_raw(world, CSV_MSG_REQUEST, "rubbish", 7), -EPROTO);
    assert_int_equal(co_raw(world, CSV_MSG_ATTACH, "rubbish", 7), -EPROTO);
    length = csv_request_encode(&request, bytes);
    assert_true(length > 0);
    assert_int_equal(co_raw(world, CSV_MSG_REQUEST, bytes, length), -ENOTCONN);
    attach.session++;
    csv_attach_encode(&attach, bytes);
    assert_int_equal(co_raw(world, CSV_MSG_ATTACH, bytes, CSV_ATTACH_BYTES), -ESTALE);
    attach.session--;
    csv_attach_encode(&attach, bytes);
    assert_int_equal(co_raw(world, CSV_MSG_ATTACH, bytes, CSV_ATTACH_BYTES), 0);
    attach.client_counter--;
    csv_attach_encode(&attach, bytes);
    assert_int_equal(co_raw(world, CSV_MSG_ATTACH, bytes, CSV_ATTACH_BYTES), -ESTALE);
    length = csv_request_encode(&request, bytes);
    assert_int_equal(co_raw(world, CSV_MSG_REQUEST, bytes, length), 0);
    /* What was sent to an older owner's session must not run here. */
    request.session--;
    length = csv_request_encode(&request, bytes);
    assert_int_equal(co_raw(world, CSV_MSG_REQUEST, bytes, length), -ESTALE);
    request.session++;
    request.op = CSV_OP_END;
    length = csv_request_encode(&request, bytes);
    assert_int_equal(co_raw(world, CSV_MSG_REQUEST, bytes, length), -EPROTO);
    request.op = CSV_UNLINK; /* without a name to be repeated by */
    request.name = "x";
    length = csv_request_encode(&request, bytes);
    assert_int_equal(co_raw(world, CSV_MSG_REQUEST, bytes, length), -EPROTO);
}

static void test_bad_messages(void **state)
{
    (void)state;
    csv_world_run(bad_messages);
}

/* test_csv [NAME]: those that match, with wildcards. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_from_everywhere),
        cmocka_unit_test(test_far_offsets),
        cmocka_unit_test(test_numbers_go_round),
        cmocka_unit_test(test_large_directory),
        cmocka_unit_test(test_open_without_name),
        cmocka_unit_test(test_same_name),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_no_answer_without_the_lease),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_incarnations),
        cmocka_unit_test(test_disks_keep_their_names),
        cmocka_unit_test(test_fence_drains),
        cmocka_unit_test(test_ends_of_waiting),
        cmocka_unit_test(test_end_of_an_answer),
        cmocka_unit_test(test_name_of_a_removed),
        cmocka_unit_test(test_restarted_client),
        cmocka_unit_test(test_bad_messages),
        cmocka_unit_test(test_moving),
        cmocka_unit_test(test_export_names),
        cmocka_unit_test(test_reshaping_bars_vms),
        cmocka_unit_test(test_exports_of_files),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
