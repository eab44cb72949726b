/* s2d file …: names and sizes by the API; the data of import and export too, in pieces of 1 MiB.
 *
 * Why not through the FUSE mount or NBD: the API is there on every node where s2d runs, needs no
 * mount and no other protocol, and tells its errors in words. The daemon never opens a file that a
 * user names: we do. Holes of the source are not sent, and zeros that come back
 * are not written. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli/client.h"
#include "tools/cli/commands.h"

#define PIECE_BYTES MIB

/* "VOL/a/b" as the target "<prefix>/VOL/a/b<rest>". */
static char *file_target(const char *prefix, const char *file, const char *rest)
{
    char *path = cli_target("{/}", file), *target;

    if (asprintf(&target, "%s/%s%s", prefix, path, rest) < 0)
        abort();
    free(path);
    return target;
}

static const struct column entry_columns[] = {
    {"TYPE", "type", COLUMN_TEXT},
    {"SIZE", "size_bytes", COLUMN_SIZE},
    {"ON DISK", "allocated_bytes", COLUMN_SIZE},
    {"MODIFIED", "modified", COLUMN_TIME},
    {"NAME", "name", COLUMN_TEXT},
    {NULL, NULL, 0},
};

/* A long directory comes in pages. */
int run_file_ls(struct cli *cli, const struct cli_arguments *arguments)
{
    json_t *all = json_array();
    uint64_t next = 0;

    do {
        char query[40] = "";
        json_t *page;
        int status;

        if (next > 0)
            snprintf(query, sizeof(query), "?after=%llu", (unsigned long long)next);
        status = cli_call(cli, "GET", file_target("/v1/files", cli_positional(arguments, 0), query),
                          NULL, &page);
        if (status != CLI_DONE) {
            json_decref(all);
            return status;
        }
        json_array_extend(all, json_object_get(page, "entries"));
        next = cli_integer(page, "next");
        json_decref(page);
    } while (next > 0);
    return cli_show_table(cli, all, entry_columns);
}

static int create(struct cli *cli, const char *file, uint64_t size_bytes, bool fixed,
                  json_t **ret_json)
{
    return cli_call_within(
        cli, 600 * 1000, "POST", file_target("/v1/files", file, ""),
        json_pack("{s:I,s:b}", "size_bytes", (json_int_t)size_bytes, "fixed", fixed), ret_json);
}

int run_file_create(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *file = cli_positional(arguments, 0);
    json_t *json;
    int status = create(cli, file, cli_number_or(arguments, "size", 0),
                        cli_given(arguments, "fixed"), &json);

    return status != CLI_DONE ? status : cli_show_done(cli, json, "%s is there", file);
}

int run_file_clone(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *from = cli_positional(arguments, 0), *to = cli_positional(arguments, 1);
    size_t volume = strcspn(from, "/");
    json_t *json;
    int status;

    if (strcspn(to, "/") != volume || strncmp(from, to, volume) != 0)
        return cli_fail("%s and %s are in two volumes, which share nothing: use 's2d file export' "
                        "and 's2d file import'",
                        from, to);
    status = cli_call_within(cli, 600 * 1000, "POST", file_target("/v1/clones", to, ""),
                             json_pack("{s:s}", "from", from + volume), &json);
    return status != CLI_DONE ? status
                              : cli_show_done(cli, json, "%s is there, a clone of %s", to, from);
}

int run_file_rm(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *file = cli_positional(arguments, 0);
    json_t *json;
    int status = cli_call(cli, "DELETE", file_target("/v1/files", file, ""), NULL, &json);

    return status != CLI_DONE ? status : cli_show_done(cli, json, "%s is removed", file);
}

/* ---- copying ---- */

struct copy {
    struct cli *cli;
    const char *file;  /* in the cluster */
    const char *local; /* here */
    int fd;
    uint64_t size_bytes;
    char *piece;
};

static void show_progress(const struct copy *copy, uint64_t done_bytes)
{
    if (copy->cli->err_is_tty && !copy->cli->arguments->json)
        output_progress(stderr, done_bytes, copy->size_bytes, done_bytes == copy->size_bytes);
}

static int read_piece(const struct copy *copy, uint64_t offset, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t r = pread(copy->fd, copy->piece + done, bytes - done, (off_t)(offset + done));

        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return cli_fail("cannot read %s: %s", copy->local,
                            r < 0 ? strerror(errno) : "it became shorter meanwhile");
        done += r;
    }
    return CLI_DONE;
}

static int send_piece(const struct copy *copy, uint64_t offset, size_t bytes)
{
    struct http_answer answer;
    char query[40];
    int status = read_piece(copy, offset, bytes);

    if (status != CLI_DONE)
        return status;
    snprintf(query, sizeof(query), "?offset=%llu", (unsigned long long)offset);
    status = cli_call_data(copy->cli, "PUT", file_target("/v1/data", copy->file, query),
                           copy->piece, bytes, &answer);
    if (status == CLI_DONE)
        http_answer_done(&answer);
    return status;
}

/* The next data at or after offset; size_bytes: only holes are left. */
static uint64_t next_data(const struct copy *copy, uint64_t offset)
{
    off_t data = lseek(copy->fd, (off_t)offset, SEEK_DATA);

    if (data >= 0)
        return (uint64_t)data;
    return errno == ENXIO ? copy->size_bytes : offset; /* a device knows no holes */
}

static int send_all(const struct copy *copy)
{
    uint64_t offset = 0;

    while ((offset = next_data(copy, offset)) < copy->size_bytes) {
        /* Pieces end at multiples of their size, so that they stay aligned. */
        uint64_t end = MIN(ALIGN_DOWN(offset, PIECE_BYTES) + PIECE_BYTES, copy->size_bytes);
        int status = send_piece(copy, offset, end - offset);

        if (status != CLI_DONE)
            return status;
        offset = end;
        show_progress(copy, offset);
    }
    show_progress(copy, copy->size_bytes);
    return CLI_DONE;
}

static int import_open(struct copy *copy)
{
    off_t size;

    copy->fd = open(copy->local, O_RDONLY | O_CLOEXEC);
    if (copy->fd < 0)
        return cli_fail("cannot open %s: %s", copy->local, strerror(errno));
    size = lseek(copy->fd, 0, SEEK_END);
    if (size < 0)
        return cli_fail("%s is neither a file nor a block device", copy->local);
    copy->size_bytes = (uint64_t)size;
    return CLI_DONE;
}

static int import(struct copy *copy)
{
    json_t *json;
    int status = import_open(copy);

    if (status == CLI_DONE)
        status = create(copy->cli, copy->file, copy->size_bytes, false, &json);
    if (status != CLI_DONE)
        return status;
    status = send_all(copy);
    if (status == CLI_DONE)
        return cli_show_done(copy->cli, json, "%s is imported", copy->file);
    json_decref(json);
    /* Half a file looks like a whole one. */
    if (cli_call(copy->cli, "DELETE", file_target("/v1/files", copy->file, ""), NULL, NULL) !=
        CLI_DONE)
        cli_fail("what is there of %s is incomplete: remove it", copy->file);
    return status;
}

static int run_copy(struct copy *copy, int (*function)(struct copy *copy))
{
    int status;

    copy->fd = -1;
    copy->piece = malloc(PIECE_BYTES);
    if (!copy->piece)
        return cli_fail("out of memory");
    status = function(copy);
    free(copy->piece);
    if (copy->fd >= 0)
        close(copy->fd);
    return status;
}

int run_file_import(struct cli *cli, const struct cli_arguments *arguments)
{
    struct copy copy = {
        .cli = cli, .local = cli_positional(arguments, 0), .file = cli_positional(arguments, 1)};

    return run_copy(&copy, import);
}

static bool is_zero(const char *bytes, size_t length)
{
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

static int write_piece(const struct copy *copy, const char *data, size_t bytes, uint64_t offset)
{
    while (bytes > 0) {
        size_t length = MIN(bytes, BLOCK_SIZE);
        ssize_t r =
            is_zero(data, length) ? (ssize_t)length : pwrite(copy->fd, data, length, (off_t)offset);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return cli_fail("cannot write %s: %s", copy->local, strerror(errno));
        data += r;
        bytes -= r;
        offset += r;
    }
    return CLI_DONE;
}

static int receive_all(const struct copy *copy)
{
    for (uint64_t offset = 0; offset < copy->size_bytes;) {
        uint64_t bytes = MIN(PIECE_BYTES, copy->size_bytes - offset);
        struct http_answer answer;
        char query[80];
        int status;

        snprintf(query, sizeof(query), "?offset=%llu&length=%llu", (unsigned long long)offset,
                 (unsigned long long)bytes);
        status = cli_call_data(copy->cli, "GET", file_target("/v1/data", copy->file, query), NULL,
                               0, &answer);
        if (status != CLI_DONE)
            return status;
        status = answer.body_bytes == bytes ? write_piece(copy, answer.body, bytes, offset)
                                            : cli_fail("%s became shorter meanwhile", copy->file);
        http_answer_done(&answer);
        if (status != CLI_DONE)
            return status;
        offset += bytes;
        show_progress(copy, offset);
    }
    return CLI_DONE;
}

static int export_open(struct copy *copy)
{
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (copy->cli->arguments->yes ? O_TRUNC : O_EXCL);

    copy->fd = open(copy->local, flags, 0600);
    if (copy->fd < 0 && errno == EEXIST)
        return cli_fail("%s is there already: remove it, or say --yes", copy->local);
    if (copy->fd < 0)
        return cli_fail("cannot write %s: %s", copy->local, strerror(errno));
    return CLI_DONE;
}

/* One entry: that of the file itself. */
static int export_size(struct copy *copy)
{
    json_t *json;
    const json_t *entry;
    int status =
        cli_call(copy->cli, "GET", file_target("/v1/files", copy->file, "?self"), NULL, &json);

    if (status != CLI_DONE)
        return status;
    entry = json_array_get(json_object_get(json, "entries"), 0);
    copy->size_bytes = cli_integer(entry, "size_bytes");
    if (strcmp(cli_string(entry, "type"), "file") != 0)
        status = cli_fail("%s is no file", copy->file);
    json_decref(json);
    return status;
}

static int export(struct copy *copy)
{
    int status = export_size(copy);

    if (status == CLI_DONE)
        status = export_open(copy);
    if (status != CLI_DONE)
        return status;
    status = receive_all(copy);
    if (status == CLI_DONE &&
        (ftruncate(copy->fd, (off_t)copy->size_bytes) < 0 || fsync(copy->fd) < 0))
        status = cli_fail("cannot write %s: %s", copy->local, strerror(errno));
    if (status == CLI_DONE)
        return cli_show_done(copy->cli, NULL, "%s is exported to %s", copy->file, copy->local);
    unlink(copy->local); /* half a file looks like a whole one */
    return status;
}

int run_file_export(struct cli *cli, const struct cli_arguments *arguments)
{
    struct copy copy = {
        .cli = cli, .file = cli_positional(arguments, 0), .local = cli_positional(arguments, 1)};

    return run_copy(&copy, export);
}
