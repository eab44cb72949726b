/* fake_qemu: what struct hv sees of QEMU, without a machine behind it: the QMP socket and how it
 * ends. The VM's name says how it behaves: "plain…" powers off at the power button, "deaf…" does
 * not, "mute…" never answers QMP, "broken…" fails at once, "late…" fails once QMP was asked for,
 * "large…" has memory that takes a while to be freed when it dies, "full…" writes once it was asked
 * how it is, and stops for want of space until there is a file "room" in its folder, "shy…" says
 * how it is when it is asked for the second time. */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LARGE_BYTES (400u << 20)

static const char *name_of(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "-name") == 0)
            return argv[i + 1];
    }
    return "";
}

static bool is(const char *name, const char *kind)
{
    return strncmp(name, kind, strlen(kind)) == 0;
}

static int listen_on(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4) < 0) {
        perror("fake_qemu: socket");
        exit(1);
    }
    return fd;
}

static void say(int fd, const char *text)
{
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        return; /* the daemon is gone */
}

/* What QEMU says when a write fails with ENOSPC. */
static void write_something(int fd)
{
    if (access("room", F_OK) == 0)
        return;
    say(fd,
        "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"device\": \"\", \"operation\": \"write\", "
        "\"action\": \"stop\", \"nospace\": true, \"reason\": \"No space left on device\"}}\r\n"
        "{\"event\": \"STOP\"}\r\n");
}

/* Answers the commands in text, which holds whole ones. */
static void answer(int fd, const char *name, const char *text)
{
    static bool asked;
    const char *command = text;

    while ((command = strstr(command, "\"execute\":\"")) != NULL) {
        const char *id = strstr(command, "\"id\":");
        char line[128];

        command += strlen("\"execute\":\"");
        if (is(name, "shy") && is(command, "query-status") && !asked) {
            asked = true;
            snprintf(
                line, sizeof(line),
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"busy\"}, \"id\": %d}\r\n",
                id ? atoi(id + 5) : 0);
            say(fd, line);
            continue;
        }
        snprintf(line, sizeof(line), "{\"return\": %s, \"id\": %d}\r\n",
                 is(command, "query-status") ? "{\"status\": \"running\"}" : "{}",
                 id ? atoi(id + 5) : 0);
        say(fd, line);
        if (is(command, "system_powerdown") && !is(name, "deaf"))
            exit(0);
        if (is(command, "cont"))
            say(fd, "{\"event\": \"RESUME\"}\r\n");
        if (is(name, "full") && (is(command, "cont") || is(command, "query-status")))
            write_something(fd);
    }
}

static void serve(int listener, const char *name)
{
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        char text[4096];
        ssize_t length;

        say(fd, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
        if (is(name, "late")) {
            fprintf(stderr, "fake_qemu: changed its mind\n");
            exit(1);
        }
        while ((length = read(fd, text, sizeof(text) - 1)) > 0) {
            text[length] = 0;
            answer(fd, name, text);
        }
        close(fd);
    }
}

int main(int argc, char **argv)
{
    const char *name = name_of(argc, argv);

    if (is(name, "broken")) {
        fprintf(stderr, "fake_qemu: it is broken \033[1m\n");
        return 1;
    }
    if (is(name, "mute"))
        pause();
    if (is(name, "large"))
        memset(malloc(LARGE_BYTES), 1, LARGE_BYTES);
    serve(listen_on("qmp.sock"), name);
}
