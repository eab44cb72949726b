/* s2d vm … */
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "tools/cli/client.h"
#include "tools/cli/commands.h"

static void set_number(json_t *body, const struct cli_arguments *arguments, const char *flag,
                       const char *field)
{
    if (cli_given(arguments, flag))
        json_object_set_new(body, field,
                            json_integer((json_int_t)cli_number_or(arguments, flag, 0)));
}

int run_vm_create(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    const struct cli_value *disks = cli_value(arguments, "disk");
    bool is_clone = cli_given(arguments, "clone-of");
    json_t *body, *list, *json;
    int status;

    if (!is_clone && (!cli_given(arguments, "memory") || disks->text_count == 0))
        return cli_fail("a VM needs --memory and --disk, or --clone-of");
    if (is_clone && (disks->text_count > 0 || cli_given(arguments, "generation")))
        return cli_fail("a clone has the disks and the generation of its original");
    body = json_pack("{s:s}", "name", name);
    set_number(body, arguments, "memory", "memory_bytes");
    set_number(body, arguments, "vcpus", "vcpus");
    set_number(body, arguments, "generation", "generation");
    if (is_clone) {
        json_object_set_new(body, "clone_of", json_string(cli_text(arguments, "clone-of")));
    } else {
        list = json_array();
        for (size_t i = 0; i < disks->text_count; i++)
            json_array_append_new(list, json_string(disks->texts[i]));
        json_object_set_new(body, "disks", list);
    }
    if (cli_given(arguments, "switch"))
        json_object_set_new(body, "switch_name", json_string(cli_text(arguments, "switch")));
    status = cli_call(cli, "POST", cli_target("/v1/vms"), body, &json);
    return status != CLI_DONE
               ? status
               : cli_show_done(cli, json, "VM %s is defined; 's2d vm start %s' runs it", name,
                               name);
}

static const struct column vm_columns[] = {
    {"NAME", "name", COLUMN_TEXT},           {"STATE", "state", COLUMN_WORD},
    {"HEALTH", "health", COLUMN_WORD},       {"NODE", "node", COLUMN_TEXT},
    {"MEMORY", "memory_bytes", COLUMN_SIZE}, {"VCPUS", "vcpus", COLUMN_NUMBER},
    {"GEN", "generation", COLUMN_NUMBER},    {"DISKS", "disks", COLUMN_TEXT},
    {"WHY", "reason", COLUMN_TEXT},          {NULL, NULL, 0},
};

static const struct column vm_fields[] = {
    {"VM", "name", COLUMN_TEXT},
    {"Id", "id", COLUMN_NUMBER},
    {"State", "state", COLUMN_WORD},
    {"Wanted", "wanted", COLUMN_TEXT},
    {"Health", "health", COLUMN_WORD},
    {"Why", "reason", COLUMN_TEXT},
    {"Node", "node", COLUMN_TEXT},
    {"Memory", "memory_bytes", COLUMN_SIZE},
    {"Virtual CPUs", "vcpus", COLUMN_NUMBER},
    {"Generation", "generation", COLUMN_NUMBER},
    {"Disks", "disks", COLUMN_TEXT},
    {"Switch", "switch_name", COLUMN_TEXT},
    {"Incarnation", "incarnation", COLUMN_NUMBER},
    {"QEMU process", "status.qemu_pid", COLUMN_NUMBER},
    {"QEMU says", "status.qmp_status", COLUMN_TEXT},
    {"Up for, seconds", "status.uptime_seconds", COLUMN_NUMBER},
    {NULL, NULL, 0},
};

int run_vm_list(struct cli *cli, const struct cli_arguments *arguments)
{
    (void)arguments;
    return cli_list(cli, cli_target("/v1/vms"), vm_columns);
}

int run_vm_show(struct cli *cli, const struct cli_arguments *arguments)
{
    return cli_show(cli, cli_target("/v1/vms/{}", cli_positional(arguments, 0)), vm_fields);
}

int run_vm_start(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    json_t *body = json_object(), *json;
    int status;

    if (cli_given(arguments, "on"))
        json_object_set_new(body, "node", json_string(cli_text(arguments, "on")));
    status = cli_call(cli, "POST", cli_target("/v1/vms/{}/start", name), body, &json);
    return status != CLI_DONE
               ? status
               : cli_show_done(cli, json, "VM %s runs on node %s", name, cli_string(json, "node"));
}

/* stop, shutdown, kill: the answer comes when it has ended. */
static int end_vm(struct cli *cli, const char *name, const char *verb, uint64_t timeout_ms)
{
    char *target;
    json_t *json;
    int status;

    if (asprintf(&target, "/v1/vms/{}/%s", verb) < 0)
        abort();
    status = cli_call_within(cli, (unsigned)MIN(timeout_ms, UINT64_C(86400000)) + CLI_TIMEOUT_MS,
                             "POST", cli_target(target, name),
                             json_pack("{s:I}", "timeout_ms", (json_int_t)timeout_ms), &json);
    free(target);
    return status != CLI_DONE ? status : cli_show_done(cli, json, "VM %s has ended", name);
}

int run_vm_stop(struct cli *cli, const struct cli_arguments *arguments)
{
    return end_vm(cli, cli_positional(arguments, 0), "stop",
                  cli_number_or(arguments, "timeout", 60000));
}

int run_vm_shutdown(struct cli *cli, const struct cli_arguments *arguments)
{
    return end_vm(cli, cli_positional(arguments, 0), "shutdown",
                  cli_number_or(arguments, "timeout", 60000));
}

int run_vm_kill(struct cli *cli, const struct cli_arguments *arguments)
{
    return end_vm(cli, cli_positional(arguments, 0), "kill", 0);
}

int run_vm_delete(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    json_t *json;
    int status = cli_call(cli, "DELETE", cli_target("/v1/vms/{}", name), NULL, &json);

    return status != CLI_DONE ? status : cli_show_done(cli, json, "VM %s is deleted", name);
}

/* ---- the console ---- */

#define ESCAPE_KEY 0x1d /* Ctrl-] */

static int connect_console(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    close(fd);
    return -errno;
}

static bool write_all(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t r = write(fd, data, bytes);

        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return false;
        data += r;
        bytes -= r;
    }
    return true;
}

/* Keys to the guest, up to the escape key. Returns whether to go on. */
static bool pass_keys(int console, bool *input_ended)
{
    char keys[256];
    ssize_t bytes = read(STDIN_FILENO, keys, sizeof(keys));
    const char *escape;

    if (bytes <= 0) {
        *input_ended = true; /* a script: what the guest still says is shown */
        return true;
    }
    escape = memchr(keys, ESCAPE_KEY, bytes);
    return write_all(console, keys, escape ? (size_t)(escape - keys) : (size_t)bytes) && !escape;
}

static void talk(int console)
{
    bool input_ended = false;
    char text[4096];

    for (;;) {
        struct pollfd polls[] = {{.fd = console, .events = POLLIN},
                                 {.fd = input_ended ? -1 : STDIN_FILENO, .events = POLLIN}};

        if (poll(polls, 2, -1) < 0 && errno != EINTR)
            return;
        if (polls[1].revents && !pass_keys(console, &input_ended))
            return;
        if (polls[0].revents) {
            ssize_t bytes = read(console, text, sizeof(text));

            if (bytes <= 0 || !write_all(STDOUT_FILENO, text, bytes))
                return;
        }
    }
}

static void talk_raw(struct cli *cli, int console)
{
    struct termios old, raw;

    if (!cli->in_is_tty || tcgetattr(STDIN_FILENO, &old) < 0) {
        talk(console);
        return;
    }
    raw = old;
    cfmakeraw(&raw);
    fputs("connected; Ctrl-] leaves\n", stderr);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    talk(console);
    tcsetattr(STDIN_FILENO, TCSANOW, &old);
    fputc('\n', stderr);
}

static int print_console_log(struct cli *cli, const char *name)
{
    struct http_answer answer;
    int status =
        cli_call_data(cli, "GET", cli_target("/v1/vms/{}/console-log", name), NULL, 0, &answer);

    if (status != CLI_DONE)
        return status;
    if (!write_all(STDOUT_FILENO, answer.body, answer.body_bytes))
        status = cli_fail("the output could not be written");
    http_answer_done(&answer);
    return status;
}

int run_vm_console(struct cli *cli, const struct cli_arguments *arguments)
{
    const char *name = cli_positional(arguments, 0);
    json_t *json;
    int status, fd;

    if (cli_given(arguments, "log"))
        return print_console_log(cli, name);
    status = cli_call(cli, "GET", cli_target("/v1/vms/{}/console", name), NULL, &json);
    if (status != CLI_DONE || arguments->json)
        return status != CLI_DONE ? status : cli_show_done(cli, json, "%s", "");
    fd = connect_console(cli_string(json, "path"));
    if (fd == -ENOENT || fd == -ENOTDIR)
        status = cli_fail("the VM runs on node %s: run this there", cli_string(json, "node"));
    else if (fd < 0)
        status = cli_fail("cannot connect to %s: %s", cli_string(json, "path"), strerror(-fd));
    json_decref(json);
    if (fd < 0)
        return status;
    talk_raw(cli, fd);
    close(fd);
    return CLI_DONE;
}
