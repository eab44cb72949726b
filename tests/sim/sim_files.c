/* Clients at file level. A directory to each; in it a register to each name, whose value is the
 * stamp of the file that has the name (its uid), 0 when there is none. A file has one register
 * more, by its stamp: of even ones the size, of odd ones what it begins with.
 *
 * What the successor of a client that died knows of a name is what it reads; until then it is
 * unsure, and so is whether a request of its predecessor still comes through. Elsewhere "exists
 * already" and "no such file" are mistakes of the product: a repeat of what was done must be
 * answered, not run again. */
#include "tests/sim/sim_workload.h"

#define NAMES 5        /* in a directory */
#define HEAD_BYTES 512 /* of a file, that carry its contents' stamp */
#define SIZES 100000   /* are drawn below this */

struct name {
    uint32_t reg;
    uint64_t stamp; /* of the file that the client believes has it; 0: none */
    bool unsure;
};

struct directory {
    const char *volume;
    char name[16];
    bool made;
    struct name names[NAMES];
};

struct stamped { /* a file, by its stamp */
    uint32_t reg;
};

struct files {
    struct directory directories[(MACHINES_MAX + 1) * 2];
    unsigned directory_count;
    struct stamped *stamped;
    uint64_t stamped_count, stamped_size;
};

struct files *files_new(struct world *world)
{
    struct files *files = calloc(1, sizeof(*files));

    if (!files)
        abort();
    files->stamped_count = 1;
    for (unsigned i = 0; i < world->shape.nodes * world->shape.file_clients; i++) {
        struct directory *directory = &files->directories[files->directory_count++];

        directory->volume = world->shape.volumes[i % world->shape.volume_count].name;
        snprintf(directory->name, sizeof(directory->name), "d%u", i);
        for (unsigned j = 0; j < NAMES; j++)
            directory->names[j].reg = history_register(world->history, "name", i * NAMES + j);
    }
    return files;
}

void files_free(struct files *files)
{
    free(files->stamped);
    free(files);
}

static bool is_about_size(uint64_t stamp)
{
    return stamp % 2 == 0;
}

static uint64_t new_file(struct world *world)
{
    struct files *files = world_files(world);
    uint64_t stamp = files->stamped_count;

    if (files->stamped_count >= files->stamped_size) {
        files->stamped_size = MAX(2 * files->stamped_size, (uint64_t)256);
        files->stamped = reallocarray(files->stamped, files->stamped_size, sizeof(*files->stamped));
        if (!files->stamped)
            abort();
    }
    files->stamped[files->stamped_count++].reg = history_register(
        world->history, is_about_size(stamp) ? "size of file" : "contents of file", stamp);
    return stamp;
}

/* ---- a session of one client ---- */

struct visit {
    struct client *client;
    struct world *world;
    struct machine *machine;
    const char *volume_name;
    struct csv_volume *volume;
    struct directory *own; /* NULL: who only looks */
    uint64_t dir;          /* its inode */
    uint8_t *buffer;
};

static struct history_op begin(struct visit *visit, uint32_t reg, enum history_kind kind,
                               uint64_t value)
{
    return history_begin(visit->world->history, reg, kind, value, client_who(visit->client),
                         world_now_ns(visit->world));
}

static void end(struct visit *visit, struct history_op op, uint64_t value)
{
    history_end(visit->world->history, op, value, world_now_ns(visit->world));
    visit->world->counts.file_operations++;
}

static void name_path(const struct directory *directory, unsigned name, char ret_path[32])
{
    snprintf(ret_path, 32, "%s/f%u", directory->name, name);
}

/* Ends a change of a name. refused: an errno that an earlier request of unknown fate excuses. */
static void end_change(struct visit *visit, struct name *name, struct history_op op, int r,
                       uint64_t stamp, const char *what)
{
    if (r == 0) {
        end(visit, op, 0);
        name->stamp = stamp;
    } else if ((r == -EEXIST || r == -ENOENT) && name->unsure) {
        history_drop(visit->world->history, op);
    } else {
        error_is_excused(visit->client, r, true, what);
        history_unknown(visit->world->history, op);
        name->unsure = true;
    }
}

static void co_create(struct visit *visit, unsigned number)
{
    struct name *name = &visit->own->names[number];
    uint64_t stamp = new_file(visit->world);
    struct fs_new new = {.mode = 0100644, .uid = (uint32_t)stamp};
    struct history_op op = begin(visit, name->reg, HISTORY_WRITE, stamp);
    struct fs_attr attr;
    char text[8];
    int r;

    snprintf(text, sizeof(text), "f%u", number);
    r = co_csv_create(visit->volume, visit->dir, text, &new, &attr);
    if (r == 0 && attr.uid != stamp)
        world_fail(visit->world, "node %u: the file created as stamp %llu has stamp %u",
                   visit->machine->number, (unsigned long long)stamp, attr.uid);
    end_change(visit, name, op, r, stamp, "create");
}

static void co_unlink(struct visit *visit, unsigned number)
{
    struct name *name = &visit->own->names[number];
    struct history_op op = begin(visit, name->reg, HISTORY_WRITE, 0);
    char text[8];

    snprintf(text, sizeof(text), "f%u", number);
    end_change(visit, name, op, co_csv_unlink(visit->volume, visit->dir, text), 0, "unlink");
}

/* Over whatever has the new name. */
static void co_rename(struct visit *visit, unsigned from, unsigned to)
{
    struct name *source = &visit->own->names[from], *target = &visit->own->names[to];
    uint64_t stamp = source->stamp;
    struct history_op gone, come;
    char old[8], new[8];
    int r;

    snprintf(old, sizeof(old), "f%u", from);
    snprintf(new, sizeof(new), "f%u", to);
    if (source->unsure)
        return; /* which file that moves nobody could say */
    gone = begin(visit, source->reg, HISTORY_WRITE, 0);
    come = begin(visit, target->reg, HISTORY_WRITE, stamp);
    r = co_csv_rename(visit->volume, visit->dir, old, visit->dir, new, 0);
    end_change(visit, source, gone, r, 0, "rename");
    end_change(visit, target, come, r, stamp, "rename");
}

/* The stamp that a name shows, as read from this node; *ret_attr: of its file. False: unknown. */
static bool co_look_up(struct visit *visit, const struct directory *directory, unsigned number,
                       uint64_t *ret_stamp, struct fs_attr *ret_attr)
{
    struct history_op op = begin(visit, directory->names[number].reg, HISTORY_READ, 0);
    char path[32];
    int r;

    name_path(directory, number, path);
    r = co_csv_walk(visit->volume, path, ret_attr);
    if (r < 0 && r != -ENOENT) {
        error_is_excused(visit->client, r, false, "look up");
        history_drop(visit->world->history, op);
        return false;
    }
    *ret_stamp = r == 0 ? ret_attr->uid : 0;
    if (*ret_stamp >= world_files(visit->world)->stamped_count)
        world_fail(visit->world, "node %u: file %s has stamp %llu, which nobody gave it",
                   visit->machine->number, path, (unsigned long long)*ret_stamp);
    end(visit, op, *ret_stamp);
    return true;
}

/* ---- contents and sizes ---- */

static void fill_head(uint8_t *head, uint64_t file, uint64_t stamp)
{
    uint64_t words[HEAD_BYTES / 8];

    for (size_t i = 0; i < HEAD_BYTES / 8; i++)
        words[i] = (stamp + i) * UINT64_C(0x94d049bb133111eb);
    words[0] = file;
    words[1] = stamp;
    memcpy(head, words, HEAD_BYTES);
}

static uint64_t head_stamp(struct visit *visit, uint64_t file, const uint8_t *head, uint64_t length)
{
    static const uint8_t zeros[HEAD_BYTES];
    uint8_t expected[HEAD_BYTES];
    uint64_t words[2];

    if (length == 0 || (length == HEAD_BYTES && memcmp(head, zeros, HEAD_BYTES) == 0))
        return 0;
    memcpy(words, head, sizeof(words));
    fill_head(expected, file, words[1]);
    if (length != HEAD_BYTES || memcmp(head, expected, HEAD_BYTES) != 0 ||
        stamp_register(visit->world->workload, words[1]) !=
            world_files(visit->world)->stamped[file].reg)
        world_fail(visit->world, "node %u: file %llu begins with what nobody wrote into it",
                   visit->machine->number, (unsigned long long)file);
    return words[1];
}

static int co_open(struct visit *visit, uint64_t ino, struct csv_file **ret_file)
{
    struct csv_open open = {.ino = ino};
    struct fs_attr attr;

    return co_csv_open(visit->volume, &open, &attr, ret_file);
}

static int co_write_head(struct visit *visit, uint64_t file, uint64_t ino, uint64_t stamp)
{
    struct csv_file *open = NULL;
    uint64_t length = HEAD_BYTES + world_draw(visit->world, BLOCK_SIZE);
    int r = co_open(visit, ino, &open);

    memset(visit->buffer, (int)stamp, length);
    fill_head(visit->buffer, file, stamp);
    if (r == 0)
        r = co_csv_write(open, visit->buffer, 0, length);
    csv_file_close(open);
    return r;
}

static void co_change_file(struct visit *visit, uint64_t file, uint64_t ino, bool unsure)
{
    struct world *world = visit->world;
    uint32_t reg = world_files(world)->stamped[file].reg;
    uint64_t value =
        is_about_size(file) ? 1 + world_draw(world, SIZES) : stamp_new(world->workload, reg);
    struct history_op op = begin(visit, reg, HISTORY_WRITE, value);
    struct fs_attr attr;
    int r = is_about_size(file) ? co_csv_truncate(visit->volume, ino, value, &attr)
                                : co_write_head(visit, file, ino, value);

    if (r == 0)
        end(visit, op, 0);
    else
        history_unknown(world->history, op);
    if (r == 0 && workload_flushes(world))
        r = co_client_flush(visit->client, visit->volume, ino);
    if (r < 0 && (r != -ENOENT || !unsure))
        error_is_excused(visit->client, r, true, "change a file");
}

/* By any client: the file may go meanwhile. */
static void co_read_file(struct visit *visit, uint64_t file, uint64_t ino)
{
    uint32_t reg = world_files(visit->world)->stamped[file].reg;
    struct history_op op = begin(visit, reg, HISTORY_READ, 0);
    struct csv_file *open = NULL;
    uint64_t length = 0;
    struct fs_attr attr;
    int r;

    if (is_about_size(file)) {
        r = co_csv_getattr(visit->volume, ino, &attr);
    } else {
        r = co_open(visit, ino, &open);
        if (r == 0)
            r = co_csv_read(open, visit->buffer, 0, HEAD_BYTES, &length);
        csv_file_close(open);
    }
    if (r < 0) {
        if (r != -ENOENT)
            error_is_excused(visit->client, r, false, "read a file");
        history_drop(visit->world->history, op);
        return;
    }
    end(visit, op,
        is_about_size(file) ? attr.size : head_stamp(visit, file, visit->buffer, length));
}

/* ---- clients ---- */

/* Something with a name of the client's own directory. */
static void co_change(struct visit *visit)
{
    unsigned number = (unsigned)world_draw(visit->world, NAMES);
    struct name *name = &visit->own->names[number];
    uint64_t draw = world_draw(visit->world, 10), stamp = name->stamp;
    struct fs_attr attr;

    if (name->unsure && !co_look_up(visit, visit->own, number, &name->stamp, &attr))
        return;
    if (name->stamp == 0)
        co_create(visit, number);
    else if (draw < 2)
        co_unlink(visit, number);
    else if (draw < 4)
        co_rename(visit, number, (number + 1 + (unsigned)draw) % NAMES);
    else if (co_look_up(visit, visit->own, number, &stamp, &attr) && stamp != 0)
        co_change_file(visit, stamp, attr.ino, name->unsure);
}

/* A look into anybody's directory. */
static void co_look(struct visit *visit)
{
    struct files *files = world_files(visit->world);
    const struct directory *directory =
        &files->directories[world_draw(visit->world, files->directory_count)];
    struct fs_attr attr;
    uint64_t stamp;

    if (directory->made && directory->volume == visit->volume_name &&
        co_look_up(visit, directory, (unsigned)world_draw(visit->world, NAMES), &stamp, &attr) &&
        stamp != 0)
        co_read_file(visit, stamp, attr.ino);
}

static bool co_find_volume(struct visit *visit)
{
    while (!(visit->volume = csv_volume_find(node_csv(visit->machine->node), visit->volume_name))) {
        if (visit->machine->stopping || co_sleep_ns(50 * MS) < 0)
            return false;
    }
    /* Where memory lies decides what the file system does with it: it must not be chance. */
    visit->buffer = aligned_alloc(BLOCK_SIZE, 2 * BLOCK_SIZE);
    if (!visit->buffer)
        abort();
    return true;
}

/* An earlier life of this client may have made it, or be about to. */
static bool co_make_directory(struct visit *visit)
{
    struct fs_new new = {.mode = 0755};
    struct fs_attr attr;
    int r = co_csv_mkdir(visit->volume, FS_ROOT_INO, visit->own->name, &new, &attr);

    if (r == -EEXIST)
        r = co_csv_walk(visit->volume, visit->own->name, &attr);
    if (r < 0) {
        error_is_excused(visit->client, r, true, "make a directory");
        return false;
    }
    visit->own->made = true;
    visit->dir = attr.ino;
    return true;
}

static void end_visit(struct visit *visit)
{
    csv_volume_put(visit->volume);
    free(visit->buffer);
}

void co_file_client(struct client *client)
{
    struct world *world = client->machine->world;
    struct visit visit = {.client = client,
                          .world = world,
                          .machine = client->machine,
                          .own = &world_files(world)->directories[client_place(client)]};

    visit.volume_name = visit.own->volume;
    if (!client_goes_on(client) || !co_find_volume(&visit))
        return;
    visit.dir = 0;
    while (co_client_think(client)) {
        if (visit.dir == 0 && !co_make_directory(&visit))
            continue;
        if (world_draw(world, 3) == 0)
            co_look(&visit);
        else
            co_change(&visit);
    }
    end_visit(&visit);
}

/* ---- at the end ---- */

struct listing {
    unsigned seen[NAMES];
    unsigned others;
};

static bool list_entry_of(void *arg, const struct fs_dirent *entry)
{
    struct listing *listing = arg;

    if (entry->name[0] == '.')
        return true;
    if (entry->name[0] == 'f' && entry->name[1] >= '0' && entry->name[1] < '0' + NAMES &&
        entry->name[2] == '\0')
        listing->seen[entry->name[1] - '0']++;
    else
        listing->others++;
    return true;
}

/* Every name that can be looked up is listed once, and no other. */
static void co_check_listing(struct visit *visit, const struct directory *directory,
                             const bool *present)
{
    struct listing listing = {0};
    struct fs_attr attr;
    bool at_end;
    int r = co_csv_walk(visit->volume, directory->name, &attr);

    if (r == 0)
        r = co_csv_readdir(visit->volume, attr.ino, 0, list_entry_of, &listing, &at_end);
    if (r < 0) {
        error_is_excused(visit->client, r, false, "list a directory");
        return;
    }
    for (unsigned i = 0; i < NAMES; i++) {
        if (listing.seen[i] != present[i] || listing.others > 0)
            world_fail(visit->world,
                       "node %u: directory %s lists f%u %u times and %u strange names; it %s",
                       visit->machine->number, directory->name, i, listing.seen[i], listing.others,
                       present[i] ? "is there" : "is not there");
    }
}

static void co_read_directory(struct visit *visit, const struct directory *directory)
{
    bool present[NAMES], known = true;
    struct fs_attr attr;
    uint64_t stamp;

    for (unsigned i = 0; i < NAMES; i++) {
        known = known && co_look_up(visit, directory, i, &stamp, &attr);
        present[i] = known && stamp != 0;
        if (known && stamp != 0)
            co_read_file(visit, stamp, attr.ino);
    }
    if (known)
        co_check_listing(visit, directory, present);
}

static void co_read_volume(struct visit *visit)
{
    struct files *files = world_files(visit->world);

    if (!co_find_volume(visit))
        return;
    for (unsigned i = 0; i < files->directory_count; i++) {
        if (files->directories[i].made && files->directories[i].volume == visit->volume_name)
            co_read_directory(visit, &files->directories[i]);
    }
    end_visit(visit);
}

void co_files_read_all(struct machine *machine, unsigned volume)
{
    struct client reader = {.machine = machine, .number = 99};
    struct visit visit = {.client = &reader, .world = machine->world, .machine = machine};

    visit.volume_name = machine->world->shape.volumes[volume].name;
    co_read_volume(&visit);
}
