#include "s2d/node/options.h"

#include <arpa/inet.h>
#include <ctype.h>

#include "s2d/cluster/schema.h"

enum option_kind { OPTION_TEXT, OPTION_NUMBER, OPTION_CHOICE };

static const struct option {
    const char *name;
    enum option_kind kind;
    size_t offset, size;
    const char *value;  /* how --help calls it; a choice: the words, with | between */
    const char *normal; /* default; NULL: must be given */
    uint64_t min, max;  /* of a number */
    const char *help;
} table[] = {
    {"dir", OPTION_TEXT, offsetof(struct daemon_options, dir),
     sizeof(((struct daemon_options *)0)->dir), "DIR", NULL, 0, 0,
     "folder of this node: database, sockets, mounts, working files of VMs"},
    {"name", OPTION_TEXT, offsetof(struct daemon_options, name),
     sizeof(((struct daemon_options *)0)->name), "NAME", NULL, 0, 0,
     "name of this node in the cluster"},
    {"listen", OPTION_TEXT, offsetof(struct daemon_options, listen),
     sizeof(((struct daemon_options *)0)->listen), "ADDR:PORT", NULL, 0, 0,
     "address for the other nodes, as they reach it: 10.0.0.1:7800"},
    {"log-level", OPTION_CHOICE, offsetof(struct daemon_options, log_level),
     sizeof(((struct daemon_options *)0)->log_level), "debug|info|warn|error", "info", 0, 0,
     "least severe messages that are logged (to standard error)"},
    {"accel", OPTION_CHOICE, offsetof(struct daemon_options, accel),
     sizeof(((struct daemon_options *)0)->accel), "auto|kvm|tcg", "auto", 0, 0,
     "what runs VMs; auto takes KVM where it works, and emulation otherwise"},
    {"fuse", OPTION_CHOICE, offsetof(struct daemon_options, fuse),
     sizeof(((struct daemon_options *)0)->fuse), "yes|no", "yes", 0, 0,
     "mount every volume at DIR/clusterstorage/VOLUME"},
    {"cold-start-grace", OPTION_NUMBER, offsetof(struct daemon_options, cold_start_grace_ms), 0,
     "MS", "30000", 1, 600000,
     "after a start of the whole cluster, nobody is given up for being late so long"},
    {"rebuild-floor", OPTION_NUMBER, offsetof(struct daemon_options, rebuild_floor_mib), 0, "MIB",
     "8", 1, 4096,
     "resync and rebuild copy at least so much a second; more as long as clients do not notice"},
    {"vm-restart-delay", OPTION_NUMBER, offsetof(struct daemon_options, vm_restart_delay_ms), 0,
     "MS", "30000", 1, 3600000,
     "used by 'cluster create': how long a dead daemon may take to come back to its VMs"},
};

#define VERSION "0.1.0"

static void print_help(FILE *out)
{
    fprintf(out,
            "s2dd: the daemon of one s2d node. 's2d' gives it orders.\n\n"
            "usage: s2dd --dir DIR --name NAME --listen ADDR:PORT [--config FILE] [OPTION]…\n\n"
            "Options; each can also stand in FILE, as a line 'name = value':\n");
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        char left[64];

        snprintf(left, sizeof(left), "--%s %s", table[i].name, table[i].value);
        fprintf(out, "  %-34s %s", left, table[i].help);
        if (table[i].normal)
            fprintf(out, " [%s]", table[i].normal);
        fputc('\n', out);
    }
    fprintf(out, "  %-34s %s\n  %-34s %s\n  %-34s %s\n", "--config FILE",
            "read options from FILE first; the command line wins", "--help", "this text",
            "--version", "the version");
}

static const struct option *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    }
    return NULL;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t length = strcspn(value, "|");

    if (value[length])
        return false;
    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
        if (strncmp(at, value, length) == 0 && (at[length] == '|' || at[length] == '\0') && length)
            return true;
    }
    return false;
}

static int set(struct daemon_options *options, const struct option *option, const char *value,
               FILE *err)
{
    char *place = (char *)options + option->offset, *end;
    unsigned long long number;

    if (option->kind == OPTION_NUMBER) {
        number = strtoull(value, &end, 10);
        if (!isdigit((unsigned char)value[0]) || *end || number < option->min ||
            number > option->max) {
            fprintf(err, "s2dd: --%s is a number from %llu to %llu, not '%s'\n", option->name,
                    (unsigned long long)option->min, (unsigned long long)option->max, value);
            return -EINVAL;
        }
        *(uint64_t *)place = number;
        return 0;
    }
    if (option->kind == OPTION_CHOICE && !is_choice(option->value, value)) {
        fprintf(err, "s2dd: --%s is one of %s, not '%s'\n", option->name, option->value, value);
        return -EINVAL;
    }
    if (strlen(value) >= option->size) {
        fprintf(err, "s2dd: the value of --%s is too long (%zu characters at most)\n", option->name,
                option->size - 1);
        return -EINVAL;
    }
    strcpy(place, value);
    return 0;
}

static char *trim(char *text)
{
    char *end = text + strlen(text);

    while (isspace((unsigned char)*text))
        text++;
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    return text;
}

static int read_line(struct daemon_options *options, char *line, const char *path, unsigned number,
                     FILE *err)
{
    char *text = trim(line), *equals = strchr(text, '=');
    const struct option *option;

    if (text[0] == '\0' || text[0] == '#')
        return 0;
    if (equals)
        *equals = '\0';
    option = equals ? find(trim(text)) : NULL;
    if (!option) {
        fprintf(err, "s2dd: %s, line %u: not 'name = value' with a name that s2dd --help lists\n",
                path, number);
        return -EINVAL;
    }
    return set(options, option, trim(equals + 1), err);
}

static int read_file(struct daemon_options *options, const char *path, FILE *err)
{
    FILE *file = fopen(path, "re");
    unsigned number = 0;
    char line[1024];
    int r = 0;

    if (!file) {
        fprintf(err, "s2dd: %s cannot be read: %s\n", path, strerror(errno));
        return -EINVAL;
    }
    while (r == 0 && fgets(line, sizeof(line), file)) {
        number++;
        if (strlen(line) == sizeof(line) - 1 && line[sizeof(line) - 2] != '\n') {
            fprintf(err, "s2dd: %s, line %u: longer than %zu characters\n", path, number,
                    sizeof(line) - 2);
            r = -EINVAL;
        } else {
            r = read_line(options, line, path, number, err);
        }
    }
    fclose(file);
    return r;
}

static int read_arguments(struct daemon_options *options, int argc, char **argv, FILE *err)
{
    for (int i = 1; i < argc; i += 2) {
        const struct option *option = strncmp(argv[i], "--", 2) == 0 ? find(argv[i] + 2) : NULL;

        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
            continue;
        if (!option || i + 1 >= argc) {
            fprintf(err,
                    option ? "s2dd: %s needs a value; see s2dd --help\n"
                           : "s2dd: there is no option '%s'; see s2dd --help\n",
                    argv[i]);
            return -EINVAL;
        }
        if (set(options, option, argv[i + 1], err) < 0)
            return -EINVAL;
    }
    return 0;
}

/* ADDR:PORT as the other nodes are told: numbers only, and neither "any" address nor port 0. */
static bool is_reachable_address(const char *text)
{
    static const struct in6_addr any6 = IN6ADDR_ANY_INIT;
    char host[sizeof(((struct daemon_options *)0)->listen)], *colon, *end;
    struct in_addr ip4;
    struct in6_addr ip6;
    unsigned long port;

    snprintf(host, sizeof(host), "%s", text);
    colon = strrchr(host, ':');
    if (!colon || !isdigit((unsigned char)colon[1]))
        return false;
    port = strtoul(colon + 1, &end, 10);
    if (*end || port == 0 || port > UINT16_MAX)
        return false;
    *colon = '\0';
    if (inet_pton(AF_INET, host, &ip4) == 1)
        return ip4.s_addr != INADDR_ANY;
    if (host[0] != '[' || colon[-1] != ']')
        return false;
    colon[-1] = '\0';
    return inet_pton(AF_INET6, host + 1, &ip6) == 1 && memcmp(&ip6, &any6, sizeof(ip6)) != 0;
}

static int check(const struct daemon_options *options, FILE *err)
{
    if (!options->dir[0] || !options->name[0] || !options->listen[0]) {
        fprintf(err, "s2dd: --dir, --name and --listen must be given; see s2dd --help\n");
        return -EINVAL;
    }
    if (!name_is_valid(options->name)) {
        fprintf(err,
                "s2dd: '%s' cannot name a node: use 1 to 63 letters, digits, '.', '_' or '-', and "
                "begin with a letter, a digit or '_'\n",
                options->name);
        return -EINVAL;
    }
    if (!is_reachable_address(options->listen)) {
        fprintf(err,
                "s2dd: --listen is the address and port at which the other nodes reach this one, "
                "like 10.0.0.1:7800 or [fd00::1]:7800, not '%s'\n",
                options->listen);
        return -EINVAL;
    }
    return 0;
}

enum options_result options_parse(int argc, char **argv, FILE *out, FILE *err,
                                  struct daemon_options *ret_options)
{
    memset(ret_options, 0, sizeof(*ret_options));
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (table[i].normal && set(ret_options, &table[i], table[i].normal, err) < 0)
            return OPTIONS_WRONG;
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(out);
            return OPTIONS_DONE;
        }
        if (strcmp(argv[i], "--version") == 0) {
            fprintf(out, "s2dd " VERSION "\n");
            return OPTIONS_DONE;
        }
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc &&
            read_file(ret_options, argv[i + 1], err) < 0)
            return OPTIONS_WRONG;
    }
    if (read_arguments(ret_options, argc, argv, err) < 0 || check(ret_options, err) < 0)
        return OPTIONS_WRONG;
    return OPTIONS_RUN;
}
