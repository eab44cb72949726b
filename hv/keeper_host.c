/* Keepers and folders of the machine that we run on. */
#include "hv/keeper_host.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/qemu_command.h"
#include "s2d/base/io.h"

#define PATH_BYTES 512
#define LOG_MAX (8 * MIB) /* of each VM's console.log and qemu.log */

/* ---- folders ---- */

static int path_in(const char *folder, const char *name, char path[PATH_BYTES])
{
    return snprintf(path, PATH_BYTES, "%s/%s", folder, name) < PATH_BYTES ? 0 : -ENAMETOOLONG;
}

/* Something lives there, or ended and was not told. Folders stay when their VMs are gone: there may
 * be more of them than a node runs VMs. */
static bool is_in_use(const char *vms, const char *name)
{
    struct keeper_outcome outcome;
    char path[PATH_BYTES];

    return path_in(vms, name, path) == 0 &&
           (keeper_gone(path) != true || keeper_outcome(path, &outcome) == 0);
}

static int linux_list(struct keeper_host *host, const char *dir, char (*ret_names)[HV_NAME_BYTES],
                      size_t max, size_t *ret_count)
{
    char path[PATH_BYTES];
    struct dirent *entry;
    DIR *folder;

    (void)host;
    *ret_count = 0;
    snprintf(path, sizeof(path), "%s/vms", dir);
    folder = opendir(path);
    if (!folder)
        return errno == ENOENT ? 0 : -errno;
    while ((entry = readdir(folder)) && *ret_count < max) {
        if (entry->d_name[0] != '.' && strlen(entry->d_name) < HV_NAME_BYTES &&
            is_in_use(path, entry->d_name))
            strcpy(ret_names[(*ret_count)++], entry->d_name);
    }
    closedir(folder);
    return 0;
}

static int fail(char why[HV_REASON_BYTES], const char *what, const char *path)
{
    int error = errno;

    snprintf(why, HV_REASON_BYTES, "%s %.160s: %s", what, path, strerror(error));
    return error ? -error : -EIO;
}

static int make_folder(const char *path, char why[HV_REASON_BYTES])
{
    return mkdir(path, 0700) < 0 && errno != EEXIST ? fail(why, "cannot create", path) : 0;
}

/* text becomes the whole file, and stays so when the power goes. Returns whether it did. */
static bool write_whole(const char *path, const char *text, size_t length)
{
    FILE *file = fopen(path, "we");
    bool written;

    if (!file)
        return false;
    written =
        fwrite(text, 1, length, file) == length && fflush(file) == 0 && fsync(fileno(file)) == 0;
    return fclose(file) == 0 && written;
}

/* The VM's own UEFI variables: made once on each node, then kept. */
static int copy_variables(const char *folder, const char *firmware, char why[HV_REASON_BYTES])
{
    char from[PATH_BYTES], to[PATH_BYTES], part[PATH_BYTES];
    cleanup(freep) char *buffer = malloc(MIB);
    size_t length = 0;
    FILE *source;

    if (path_in(folder, QEMU_VARS_FILE, to) < 0 || path_in(folder, "vars.new", part) < 0 ||
        path_in(firmware, QEMU_VARS_NAME, from) < 0)
        return -ENAMETOOLONG;
    if (access(to, F_OK) == 0)
        return 0;
    source = fopen(from, "re");
    if (source && buffer)
        length = fread(buffer, 1, MIB, source);
    if (length == 0 || ferror(source)) {
        int r = fail(why, "cannot read", from);

        if (source)
            fclose(source);
        return r;
    }
    fclose(source);
    return write_whole(part, buffer, length) && rename(part, to) == 0
               ? 0
               : fail(why, "cannot write", part);
}

static int make_folders(const char *folder, char why[HV_REASON_BYTES])
{
    const char *slash = strrchr(folder, '/');
    char parent[PATH_BYTES];
    int r;

    snprintf(parent, sizeof(parent), "%.*s", (int)(slash - folder), folder);
    r = make_folder(parent, why);
    return r == 0 ? make_folder(folder, why) : r;
}

/* A folder is of a name: what it keeps is of the VM that was started in it last, whose id is in the
 * file "vm". One without that file is from before there was one, and its VM's own. */
static int take_over(const char *folder, uint64_t vm_id, char why[HV_REASON_BYTES])
{
    static const char *const kept[] = {QEMU_VARS_FILE, QEMU_CONSOLE_LOG};
    char path[PATH_BYTES], part[PATH_BYTES], id[24], text[sizeof(id)] = "";
    FILE *file;

    if (path_in(folder, "vm", path) < 0 || path_in(folder, "vm.new", part) < 0)
        return -ENAMETOOLONG;
    snprintf(id, sizeof(id), "%llu\n", (unsigned long long)vm_id);
    file = fopen(path, "re");
    if (file) {
        bool same = fgets(text, sizeof(text), file) && strcmp(text, id) == 0;

        fclose(file);
        if (same)
            return 0;
        for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
            char old[PATH_BYTES];

            if (path_in(folder, kept[i], old) == 0 && unlink(old) < 0 && errno != ENOENT)
                return fail(why, "cannot remove", old);
        }
    }
    return write_whole(part, id, strlen(id)) && rename(part, path) == 0
               ? 0
               : fail(why, "cannot write", part);
}

static int linux_prepare(struct keeper_host *host, const char *folder, uint64_t vm_id,
                         const char *firmware, char ret_why[HV_REASON_BYTES])
{
    static const char *const sockets[] = {QEMU_QMP_SOCKET, QEMU_CONSOLE_SOCKET, QEMU_AGENT_SOCKET};
    char path[PATH_BYTES];
    int r;

    (void)host;
    r = make_folders(folder, ret_why);
    if (r == 0)
        r = take_over(folder, vm_id, ret_why);
    if (r == 0 && firmware)
        r = copy_variables(folder, firmware, ret_why);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(sockets); i++) {
        r = path_in(folder, sockets[i], path);
        if (r == 0 && unlink(path) < 0 && errno != ENOENT)
            r = fail(ret_why, "cannot remove", path);
    }
    return r;
}

/* It goes into messages, JSON and logs: plain text only. */
static void make_plain(char *text)
{
    for (; *text; text++) {
        if (*text < ' ' || *text > '~')
            *text = '?';
    }
}

static void linux_last_line(struct keeper_host *host, const char *folder,
                            char ret_line[HV_REASON_BYTES])
{
    char path[PATH_BYTES], text[HV_REASON_BYTES];
    FILE *file;

    (void)host;
    ret_line[0] = 0;
    file = path_in(folder, "qemu.log", path) == 0 ? fopen(path, "re") : NULL;
    if (!file)
        return;
    fseek(file, 0, SEEK_END);
    fseek(file, MAX(ftell(file) - (long)sizeof(text), 0l), SEEK_SET);
    while (fgets(text, sizeof(text), file)) {
        text[strcspn(text, "\n")] = 0;
        if (text[0])
            snprintf(ret_line, HV_REASON_BYTES, "%s", text);
    }
    fclose(file);
    make_plain(ret_line);
}

/* Guests may print without end; what is kept of it is bounded. QEMU appends, so it goes on at the
 * new end. */
static void linux_trim_logs(struct keeper_host *host, const char *folder)
{
    static const char *const logs[] = {QEMU_CONSOLE_LOG, "qemu.log"};
    char path[PATH_BYTES];
    struct stat status;

    (void)host;
    for (size_t i = 0; i < ARRAY_SIZE(logs); i++) {
        if (path_in(folder, logs[i], path) == 0 && stat(path, &status) == 0 &&
            status.st_size > (off_t)LOG_MAX && truncate(path, 0) < 0)
            return; /* tried again in a while */
    }
}

/* ---- keepers ---- */

static int linux_start(struct keeper_host *host, const struct keeper_order *order,
                       struct keeper_link **ret_link)
{
    (void)host;
    return keeper_start(order, ret_link);
}

static int linux_adopt(struct keeper_host *host, const char *folder, struct keeper_link **ret_link)
{
    (void)host;
    return keeper_adopt(folder, ret_link);
}

static void linux_terminate(struct keeper_host *host, const char *folder)
{
    (void)host;
    keeper_terminate(folder);
}

static int linux_gone(struct keeper_host *host, const char *folder)
{
    (void)host;
    return keeper_gone(folder);
}

static int linux_outcome(struct keeper_host *host, const char *folder,
                         struct keeper_outcome *ret_outcome)
{
    (void)host;
    return keeper_outcome(folder, ret_outcome);
}

static void linux_forget(struct keeper_host *host, const char *folder)
{
    (void)host;
    keeper_forget(folder);
}

static int linux_co_wait_exit(struct keeper_host *host, struct io *io, struct keeper_link *link)
{
    cleanup(io_poll_freep) struct io_poll *exited = NULL;
    int r = io_poll_new(io, keeper_fd(link), &exited);

    (void)host;
    if (r == 0)
        r = co_io_poll(exited, POLLIN);
    return MIN(r, 0);
}

static const struct keeper_host_ops linux_ops = {
    .list = linux_list,
    .prepare = linux_prepare,
    .last_line = linux_last_line,
    .trim_logs = linux_trim_logs,
    .start = linux_start,
    .adopt = linux_adopt,
    .terminate = linux_terminate,
    .gone = linux_gone,
    .outcome = linux_outcome,
    .forget = linux_forget,
    .co_wait_exit = linux_co_wait_exit,
};

struct keeper_host *keeper_host_linux(void)
{
    static struct keeper_host host = {.ops = &linux_ops};

    return &host;
}
