/* Snapshots of volumes, through the file service: it finds the owner itself. */
#include <stdio.h>
#include <sys/stat.h>

#include "csv-export/csv.h"
#include "s2d/node/api_private.h"
#include "s2d/node/authorize.h"

static void answer_failure(struct api_response *response, int error, const char *volume,
                           const char *name)
{
    const char *why = strerror(-error);

    if (error == -ENOSPC)
        why = "the volume, or the pool behind it, is full: delete something, or claim disks";
    else if (error == -EEXIST)
        why = "there is one of that name";
    else if (error == -ENOENT)
        why = "there is no such snapshot: 's2d volume snapshot list'";
    else if (error == -EINVAL || error == -ENAMETOOLONG)
        why = "that is no name for a snapshot";
    else if (error == -EROFS)
        why = "it is in a snapshot, or the volume is read-only now: 's2d volume show' says why";
    else if (error == -EBUSY)
        why = "VMs run from disks in this volume: stop them first";
    else if (error == -ENOTDIR)
        why = "what it was taken of is gone: copy it out of .snapshots instead";
    api_answer_error(response, error, "snapshot %.255s of volume %.64s: %s", name, volume, why);
}

/* ---- listing ---- */

struct page {
    json_t *names;
    uint64_t last_cookie;
};

static bool take_entry(void *arg, const struct fs_dirent *entry)
{
    struct page *page = arg;

    page->last_cookie = entry->cookie;
    if (entry->name[0] != '.')
        json_array_append_new(page->names,
                              json_pack("{s:o,s:I}", "name", api_json_text(entry->name), "ino",
                                        (json_int_t)entry->ino));
    return true;
}

static json_t *snapshot_json(const char *name, const struct fs_attr *attr)
{
    return json_pack("{s:s,s:s,s:I,s:o}", "name", name, "type",
                     S_ISDIR(attr->mode) ? "directory" : "file", "size_bytes",
                     (json_int_t)attr->size, "created", api_time((uint64_t)attr->btime_ns));
}

static int co_list_all(struct csv_volume *volume, json_t *list)
{
    struct page page = {.names = json_array()};
    bool end = false;
    int r = 0;

    while (r == 0 && !end)
        r = co_csv_readdir(volume, FS_SNAPSHOTS_INO, page.last_cookie, take_entry, &page, &end);
    for (size_t i = 0; r == 0 && i < json_array_size(page.names); i++) {
        const json_t *entry = json_array_get(page.names, i);
        struct fs_attr attr;

        r = co_csv_getattr(volume, (uint64_t)json_integer_value(json_object_get(entry, "ino")),
                           &attr);
        if (r == 0)
            json_array_append_new(
                list, snapshot_json(json_string_value(json_object_get(entry, "name")), &attr));
        else if (r == -ENOENT)
            r = 0; /* deleted meanwhile */
    }
    json_decref(page.names);
    return r;
}

static void co_list(void *arg, const struct api_request *request, struct api_response *response)
{
    cleanup(csv_volume_putp) struct csv_volume *volume = api_csv_volume(arg, request, response);
    json_t *list;
    int r;

    if (!volume)
        return;
    list = json_array();
    r = co_list_all(volume, list);
    if (r == 0) {
        api_answer_json(response, list);
        return;
    }
    json_decref(list);
    api_answer_error(response, r, "the snapshots of volume %.64s cannot be listed: %s",
                     csv_volume_name(volume), strerror(-r));
}

/* ---- changes ---- */

/* {name, path}: of the whole volume when there is no path. */
static void co_create(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"name", "path", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *name = api_text(&arguments, "name");
    const char *path = api_text_or(&arguments, "path", "");
    cleanup(csv_volume_putp) struct csv_volume *volume =
        arguments.refused ? NULL : api_csv_volume(arg, request, response);
    struct fs_attr attr;
    int r;

    if (!volume)
        return;
    r = co_csv_walk(volume, path, &attr);
    if (r < 0) {
        api_answer_error(response, r, "%.64s/%.400s: there is no such file or directory",
                         csv_volume_name(volume), path);
        return;
    }
    r = co_csv_snapshot(volume, CSV_SNAPSHOT_CREATE, attr.ino, name);
    if (r < 0)
        answer_failure(response, r, csv_volume_name(volume), name);
    else
        api_answer_json(response, json_pack("{s:s,s:s}", "name", name, "path", path));
}

static void co_change(void *arg, const struct api_request *request, struct api_response *response,
                      enum csv_snapshot_verb verb)
{
    cleanup(csv_volume_putp) struct csv_volume *volume = api_csv_volume(arg, request, response);
    const char *name = api_parameter(request, "name");
    int r;

    if (!volume)
        return;
    /* The volume's owner refuses it while a VM has a disk open; one whose daemon is away for a
     * moment has not, and goes on as it was when that is back. */
    if (verb == CSV_SNAPSHOT_RESTORE &&
        authorize_vm_runs_from(node_database(((struct api_context *)arg)->node),
                               csv_volume_name(volume)))
        r = -EBUSY;
    else
        r = co_csv_snapshot(volume, verb, FS_SNAPSHOTS_INO, name);
    if (r < 0)
        answer_failure(response, r, csv_volume_name(volume), name);
    else
        api_answer_json(response, json_object());
}

static void co_delete(void *arg, const struct api_request *request, struct api_response *response)
{
    co_change(arg, request, response, CSV_SNAPSHOT_DELETE);
}

static void co_restore(void *arg, const struct api_request *request, struct api_response *response)
{
    co_change(arg, request, response, CSV_SNAPSHOT_RESTORE);
}

const struct api_route api_snapshot_routes[] = {
    {API_GET, "/v1/volumes/{volume}/snapshots", co_list},
    {API_POST, "/v1/volumes/{volume}/snapshots", co_create},
    {API_DELETE, "/v1/volumes/{volume}/snapshots/{name}", co_delete},
    {API_POST, "/v1/volumes/{volume}/snapshots/{name}/restore", co_restore},
    {0, NULL, NULL},
};
