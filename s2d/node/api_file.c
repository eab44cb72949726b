/* Files of volumes, through the file service: it finds the owner itself, so nothing is forwarded
 * here. A path that does not begin in a volume of the database never gets further than that. */
#include <stdio.h>
#include <sys/stat.h>

#include "csv-export/csv.h"
#include "s2d/node/api_private.h"

#define ALLOCATE_BYTES GIB /* at once */

struct csv_volume *api_csv_volume(struct api_context *context, const struct api_request *request,
                                  struct api_response *response)
{
    const char *name = api_parameter(request, "volume");
    struct csv *csv = api_database(context, response) ? node_csv(context->node) : NULL;
    struct csv_volume *volume = csv ? csv_volume_find(csv, name) : NULL;

    if (response->error == 0 && !volume)
        api_answer_error(response, -ENOENT, "there is no volume '%.64s': 's2d volume list'", name);
    return volume;
}

static void answer_file_failure(struct api_response *response, int error,
                                const struct api_request *request)
{
    const char *volume = api_parameter(request, "volume"), *path = api_parameter(request, "path");
    const char *why = strerror(-error);

    if (error == -ENOSPC)
        why = "the volume, or the pool behind it, is full: delete something, or claim disks";
    else if (error == -EBUSY || error == -EPERM)
        why = "it is the disk of a running VM: stop the VM first";
    else if (error == -EEXIST)
        why = "it is there already";
    else if (error == -ENOENT)
        why = "there is no such file or directory";
    else if (error == -ENOTEMPTY)
        why = "the directory is not empty";
    else if (error == -EINVAL || error == -ELOOP)
        why = "that is no path within a volume";
    else if (error == -ENODEV)
        why = "the volume was deleted";
    else if (error == -EROFS)
        why = "it is in a snapshot, or the volume is read-only now: 's2d volume show' says why";
    else if (error == -EBADMSG)
        why = "its metadata is damaged: 's2d volume check' says what; restore it from a backup";
    else if (error == -EIO)
        why = "no copy of a block of it could be read: 's2d volume show' says what is away";
    api_answer_error(response, error, "%.64s/%.400s: %s", volume, path, why);
}

/* ---- listing ---- */

static const char *type_word(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "file";
    case S_IFDIR:
        return "directory";
    case S_IFLNK:
        return "link";
    default:
        return "other";
    }
}

static json_t *entry_json(const char *name, const struct fs_attr *attr)
{
    char mode[8];

    snprintf(mode, sizeof(mode), "%04o", attr->mode & 07777);
    return json_pack("{s:o,s:s,s:I,s:I,s:o,s:s}", "name", api_json_text(name), "type",
                     type_word(attr->mode), "size_bytes", (json_int_t)attr->size, "allocated_bytes",
                     (json_int_t)attr->allocated_bytes, "modified",
                     api_time((uint64_t)MAX(attr->mtime_ns, 0)), "mode", mode);
}

struct page { /* what one co_csv_readdir() gives */
    struct page_entry {
        uint64_t ino;
        char *name;
    } * entries;
    size_t count, size;
    uint64_t last_cookie;
    bool failed;
};

static bool take_entry(void *arg, const struct fs_dirent *entry)
{
    struct page *page = arg;

    page->last_cookie = entry->cookie;
    if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0)
        return true;
    if (page->count == page->size) {
        size_t size = MAX(2 * page->size, 64);
        void *entries = realloc(page->entries, size * sizeof(*page->entries));

        page->failed = entries == NULL;
        if (page->failed)
            return false;
        page->entries = entries;
        page->size = size;
    }
    page->entries[page->count].ino = entry->ino;
    page->entries[page->count].name = strdup(entry->name);
    page->failed = page->entries[page->count].name == NULL;
    page->count += !page->failed;
    return !page->failed;
}

static void page_done(struct page *page)
{
    for (size_t i = 0; i < page->count; i++)
        free(page->entries[i].name);
    free(page->entries);
}

/* {"entries": […], "next": cookie or null} */
static int co_list_page(struct csv_volume *volume, uint64_t dir, uint64_t after, json_t **ret_json)
{
    json_t *entries = json_array();
    struct page page = {.failed = false};
    bool end = false;
    int r = co_csv_readdir(volume, dir, after, take_entry, &page, &end);

    if (page.failed)
        r = -ENOMEM;
    for (size_t i = 0; i < page.count && r == 0; i++) {
        struct fs_attr attr;

        r = co_csv_getattr(volume, page.entries[i].ino, &attr);
        if (r == 0)
            json_array_append_new(entries, entry_json(page.entries[i].name, &attr));
        else if (r == -ENOENT)
            r = 0; /* removed meanwhile */
    }
    page_done(&page);
    if (r < 0) {
        json_decref(entries);
        return r;
    }
    *ret_json = json_pack("{s:o,s:o}", "entries", entries, "next",
                          end ? json_null() : json_integer((json_int_t)page.last_cookie));
    return *ret_json ? 0 : -ENOMEM;
}

/* ?self: a directory is shown, not listed; ?after=COOKIE: the next page. */
static void co_list(void *arg, const struct api_request *request, struct api_response *response)
{
    cleanup(csv_volume_putp) struct csv_volume *volume = api_csv_volume(arg, request, response);
    struct api_arguments arguments = {.request = request, .response = response};
    const char *path = api_parameter(request, "path"), *slash;
    uint64_t after = api_query_u64_or(&arguments, "after", 0);
    struct fs_attr attr;
    json_t *json = NULL;
    int r;

    if (!volume || arguments.refused)
        return;
    r = co_csv_walk(volume, path, &attr);
    if (r == 0 && S_ISDIR(attr.mode) && !api_query(request, "self")) {
        r = co_list_page(volume, attr.ino, after, &json);
    } else if (r == 0) {
        slash = strrchr(path, '/');
        json = json_pack("{s:[o],s:n}", "entries", entry_json(slash ? slash + 1 : path, &attr),
                         "next");
    }
    if (r < 0)
        answer_file_failure(response, r, request);
    else
        api_answer_json(response, json);
}

/* ---- names ---- */

struct place { /* of the last name of a path */
    uint64_t dir;
    char name[FS_NAME_MAX + 1];
};

/* Finds the directory that a path's last name is in, and with `make` makes what is missing. */
static int co_find_place(struct csv_volume *volume, const char *path, bool make,
                         struct place *ret_place)
{
    static const struct fs_new folder = {.mode = S_IFDIR | 0755};
    uint64_t dir = FS_ROOT_INO;

    for (;;) {
        size_t length;
        struct fs_attr attr;
        int r;

        path += strspn(path, "/");
        length = strcspn(path, "/");
        if (length == 0)
            return -EINVAL;
        if (length > FS_NAME_MAX)
            return -ENAMETOOLONG;
        memcpy(ret_place->name, path, length);
        ret_place->name[length] = '\0';
        if (strcmp(ret_place->name, ".") == 0 || strcmp(ret_place->name, "..") == 0)
            return -EINVAL;
        path += length;
        if (path[strspn(path, "/")] == '\0') {
            ret_place->dir = dir;
            return 0;
        }
        r = co_csv_lookup(volume, dir, ret_place->name, &attr);
        if (r == -ENOENT && make) {
            r = co_csv_mkdir(volume, dir, ret_place->name, &folder, &attr);
            if (r == -EEXIST) /* somebody else was quicker */
                r = co_csv_lookup(volume, dir, ret_place->name, &attr);
        }
        if (r == 0 && !S_ISDIR(attr.mode))
            r = -ENOTDIR;
        if (r < 0)
            return r;
        dir = attr.ino;
    }
}

static int co_allocate(struct csv_volume *volume, uint64_t ino, uint64_t size_bytes)
{
    struct csv_open open = {.ino = ino};
    struct csv_file *file;
    struct fs_attr attr;
    int r = co_csv_open(volume, &open, &attr, &file);

    if (r < 0)
        return r;
    for (uint64_t offset = 0; offset < size_bytes && r == 0; offset += ALLOCATE_BYTES)
        r = co_csv_allocate(file, offset, MIN(ALLOCATE_BYTES, size_bytes - offset), 0);
    csv_file_close(file);
    return r;
}

/* A file of that size, or none. */
static int co_make_file(struct csv_volume *volume, const struct place *place, uint64_t size_bytes,
                        bool fixed, struct fs_attr *ret_attr)
{
    static const struct fs_new new = {.mode = S_IFREG | 0644};
    int r = co_csv_create(volume, place->dir, place->name, &new, ret_attr);

    if (r < 0)
        return r;
    if (size_bytes > 0)
        r = co_csv_truncate(volume, ret_attr->ino, size_bytes, ret_attr);
    if (r == 0 && fixed)
        r = co_allocate(volume, ret_attr->ino, size_bytes);
    if (r == 0 && fixed)
        r = co_csv_getattr(volume, ret_attr->ino, ret_attr);
    if (r < 0)
        (void)!co_csv_unlink(volume, place->dir, place->name);
    return r;
}

/* {size_bytes, fixed}: with the directories to it. */
static void co_create(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"size_bytes", "fixed", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    uint64_t size_bytes = api_u64(&arguments, "size_bytes");
    bool fixed = api_bool_or(&arguments, "fixed", false);
    cleanup(csv_volume_putp) struct csv_volume *volume =
        arguments.refused ? NULL : api_csv_volume(arg, request, response);
    struct fs_attr attr;
    struct place place;
    int r;

    if (!volume)
        return;
    r = co_find_place(volume, api_parameter(request, "path"), true, &place);
    if (r == 0)
        r = co_make_file(volume, &place, size_bytes, fixed, &attr);
    if (r < 0)
        answer_file_failure(response, r, request);
    else
        api_answer_json(response, entry_json(place.name, &attr));
}

/* {from}: a path in the same volume. With the directories to it. */
static void co_clone(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"from", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *from = api_text(&arguments, "from");
    cleanup(csv_volume_putp) struct csv_volume *volume =
        arguments.refused ? NULL : api_csv_volume(arg, request, response);
    struct fs_attr attr;
    struct place place;
    int r;

    if (!volume)
        return;
    from += strspn(from, "/");
    r = co_csv_walk(volume, from, &attr);
    if (r < 0) {
        api_answer_error(response, r, "%.64s/%.400s: %s", api_parameter(request, "volume"), from,
                         r == -ENOENT ? "there is no such file" : strerror(-r));
        return;
    }
    if (!S_ISREG(attr.mode)) {
        api_answer_error(response, -EINVAL, "%.64s/%.400s is no file: only files are cloned",
                         api_parameter(request, "volume"), from);
        return;
    }
    r = co_find_place(volume, api_parameter(request, "path"), true, &place);
    if (r == 0)
        r = co_csv_clone_file(volume, attr.ino, place.dir, place.name, &attr);
    if (r < 0)
        answer_file_failure(response, r, request);
    else
        api_answer_json(response, entry_json(place.name, &attr));
}

static void co_remove(void *arg, const struct api_request *request, struct api_response *response)
{
    cleanup(csv_volume_putp) struct csv_volume *volume = api_csv_volume(arg, request, response);
    struct fs_attr attr;
    struct place place;
    int r;

    if (!volume)
        return;
    r = co_find_place(volume, api_parameter(request, "path"), false, &place);
    if (r == 0)
        r = co_csv_lookup(volume, place.dir, place.name, &attr);
    if (r == 0)
        r = S_ISDIR(attr.mode) ? co_csv_rmdir(volume, place.dir, place.name)
                               : co_csv_unlink(volume, place.dir, place.name);
    if (r < 0)
        answer_file_failure(response, r, request);
    else
        api_answer_json(response, json_object());
}

/* ---- data ---- */

static int co_open_path(struct csv_volume *volume, const char *path, bool read_only,
                        struct fs_attr *ret_attr, struct csv_file **ret_file)
{
    struct csv_open open = {.read_only = read_only, .path = path};
    int r = co_csv_walk(volume, path, ret_attr);

    if (r == 0 && !S_ISREG(ret_attr->mode))
        r = -EISDIR;
    if (r < 0)
        return r;
    open.ino = ret_attr->ino;
    return co_csv_open(volume, &open, ret_attr, ret_file);
}

static int co_read_piece(struct csv_volume *volume, const char *path, uint64_t offset,
                         uint64_t length, struct api_response *response)
{
    cleanup(csv_file_closep) struct csv_file *file = NULL;
    struct fs_attr attr;
    uint64_t got;
    char *data;
    int r = co_open_path(volume, path, true, &attr, &file);

    if (r < 0)
        return r;
    data = aligned_alloc(BLOCK_SIZE, ALIGN_UP(MAX(length, 1u), BLOCK_SIZE));
    if (!data)
        return -ENOMEM;
    r = co_csv_read(file, data, offset, length, &got);
    if (r < 0)
        free(data);
    else
        api_answer_data(response, data, got, API_CONTENT_DATA);
    return r;
}

/* ?offset=&length=: at most 1 MiB; less at the end of the file. */
static void co_read(void *arg, const struct api_request *request, struct api_response *response)
{
    cleanup(csv_volume_putp) struct csv_volume *volume = api_csv_volume(arg, request, response);
    struct api_arguments arguments = {.request = request, .response = response};
    uint64_t offset = api_query_u64_or(&arguments, "offset", 0);
    uint64_t length = api_query_u64_or(&arguments, "length", API_BODY_MAX);
    int r;

    if (!volume || arguments.refused)
        return;
    r = length > API_BODY_MAX || offset > FS_FILE_SIZE_MAX
            ? -ERANGE
            : co_read_piece(volume, api_parameter(request, "path"), offset, length, response);
    if (r < 0)
        answer_file_failure(response, r, request);
}

static int co_write_piece(struct csv_volume *volume, const char *path, uint64_t offset,
                          const struct api_request *request)
{
    cleanup(csv_file_closep) struct csv_file *file = NULL;
    struct fs_attr attr;
    char *data;
    int r = co_open_path(volume, path, false, &attr, &file);

    if (r < 0 || request->data_bytes == 0)
        return r;
    /* A copy that is aligned: the file system then need not make one. */
    data = aligned_alloc(BLOCK_SIZE, ALIGN_UP(request->data_bytes, BLOCK_SIZE));
    if (!data)
        return -ENOMEM;
    memcpy(data, request->data, request->data_bytes);
    r = co_csv_write(file, data, offset, request->data_bytes);
    free(data);
    return r;
}

/* ?offset=, and the bytes as the body. */
static void co_write(void *arg, const struct api_request *request, struct api_response *response)
{
    cleanup(csv_volume_putp) struct csv_volume *volume = api_csv_volume(arg, request, response);
    struct api_arguments arguments = {.request = request, .response = response};
    uint64_t offset = api_query_u64_or(&arguments, "offset", 0);
    int r;

    if (!volume || arguments.refused)
        return;
    r = offset > FS_FILE_SIZE_MAX
            ? -ERANGE
            : co_write_piece(volume, api_parameter(request, "path"), offset, request);
    if (r < 0)
        answer_file_failure(response, r, request);
    else
        api_answer_json(response, json_object());
}

const struct api_route api_file_routes[] = {
    {API_GET, "/v1/files/{volume}/{path*}", co_list},
    {API_POST, "/v1/files/{volume}/{path*}", co_create},
    {API_DELETE, "/v1/files/{volume}/{path*}", co_remove},
    {API_POST, "/v1/clones/{volume}/{path*}", co_clone},
    {API_GET, "/v1/data/{volume}/{path*}", co_read},
    {API_PUT, "/v1/data/{volume}/{path*}", co_write},
    {0, NULL, NULL},
};
