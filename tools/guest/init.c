/* init: the only process of the tiny guest that tests and the demo boot. It proves that a VM's disk
 * keeps what was acknowledged, and that one copy of the VM writes to it. tools/guest-image says how
 * to talk to it.
 *
 * The disk's second partition is a ring of 4 KiB slots. Count n is written to slot n mod slots
 * (O_DIRECT | O_DSYNC) and only then told on the console: so whoever holds the console's log knows
 * what must be there. A slot holds its count, which boot wrote it and a random word of that boot,
 * and a pattern that follows from these. Before n + 1 is written, slot n is read back: had another
 * copy of the VM written since, its boot would be there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <linux/module.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define SLOT_SIZE 4096u
#define SLOT_WORDS (SLOT_SIZE / 8)
#define SLOT_MAGIC 0x544f4c5344325332ull /* "2S2DSLOT" */
#define MBR_SIGNATURE 0x47443253u        /* "S2DG", the disk's identifier at byte 440 of the MBR */
#define INPUTS_MAX 8

struct slot {
    uint64_t magic, count, boot, nonce;
    uint64_t pattern[SLOT_WORDS - 5];
    uint64_t checksum; /* of all before it */
};
_Static_assert(sizeof(struct slot) == SLOT_SIZE, "a slot is one block");

struct guest {
    int disk; /* the second partition */
    uint64_t slots;
    uint64_t count; /* the newest that was acknowledged */
    uint64_t boot, nonce;
    int tick_ms; /* 0: no ticks */
    int inputs[INPUTS_MAX];
    int input_count;
    char line[128];
    size_t line_length;
    struct slot *buffer; /* aligned for O_DIRECT */
};

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char line[256];
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(line, sizeof(line) - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof(line) - 2)
        length = sizeof(line) - 2;
    line[length++] = '\n';
    if (write(1, line, (size_t)length) < 0)
        return; /* nobody to tell */
}

static _Noreturn void leave(int how)
{
    sync();
    reboot(how);
    for (;;)
        pause();
}

static uint64_t now_ms(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* ---- the machine ---- */

static void load_modules(void)
{
    char name[128];
    FILE *order = fopen("/modules/order", "r");

    while (order && fgets(name, sizeof(name), order)) {
        int fd;

        name[strcspn(name, "\n")] = 0;
        fd = open(name, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
            say("GUEST note: module %s: %s", name, strerror(errno));
        close(fd);
    }
    if (order)
        fclose(order);
}

static void open_inputs(struct guest *guest)
{
    for (int i = 0; i < INPUTS_MAX; i++) {
        char path[32];
        int fd;

        snprintf(path, sizeof(path), "/dev/input/event%d", i);
        fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0)
            guest->inputs[guest->input_count++] = fd;
    }
}

static void raw_console(void)
{
    struct termios terminal;

    if (tcgetattr(0, &terminal) == 0) {
        terminal.c_lflag &= ~(unsigned)(ECHO | ISIG);
        terminal.c_oflag &= ~(unsigned)OPOST;
        tcsetattr(0, TCSANOW, &terminal);
    }
}

static bool is_our_disk(const char *name)
{
    uint8_t sector[512];
    uint32_t signature;
    char path[64];
    bool ours;
    int fd;

    snprintf(path, sizeof(path), "/dev/%.32s", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ours = read(fd, sector, sizeof(sector)) == sizeof(sector);
    close(fd);
    memcpy(&signature, sector + 440, sizeof(signature));
    return ours && signature == MBR_SIGNATURE;
}

/* Drivers find disks in their own time. */
static bool find_disk(char *partition, size_t size)
{
    for (int i = 0; i < 600; i++) {
        DIR *folder = opendir("/sys/block");
        struct dirent *entry;

        while (folder && (entry = readdir(folder))) {
            if (strncmp(entry->d_name, "vd", 2) && strncmp(entry->d_name, "sd", 2))
                continue;
            if (is_our_disk(entry->d_name)) {
                snprintf(partition, size, "/dev/%.32s2", entry->d_name);
                closedir(folder);
                return true;
            }
        }
        if (folder)
            closedir(folder);
        usleep(100 * 1000);
    }
    return false;
}

/* ---- the ring ---- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t slot_checksum(const struct slot *slot)
{
    const uint64_t *words = (const uint64_t *)slot;
    uint64_t sum = SLOT_MAGIC;

    for (size_t i = 0; i < SLOT_WORDS - 1; i++)
        sum = mix(sum + words[i]);
    return sum;
}

static void slot_fill(struct slot *slot, uint64_t count, uint64_t boot, uint64_t nonce)
{
    *slot = (struct slot){.magic = SLOT_MAGIC, .count = count, .boot = boot, .nonce = nonce};
    for (size_t i = 0; i < SLOT_WORDS - 5; i++)
        slot->pattern[i] = mix(count * SLOT_WORDS + i);
    slot->checksum = slot_checksum(slot);
}

enum slot_kind { SLOT_ERROR, SLOT_EMPTY, SLOT_BROKEN, SLOT_GOOD };

static enum slot_kind slot_read(struct guest *guest, uint64_t index)
{
    struct slot *slot = guest->buffer;

    if (pread(guest->disk, slot, SLOT_SIZE, (off_t)(index * SLOT_SIZE)) != SLOT_SIZE)
        return SLOT_ERROR;
    if (slot->magic == SLOT_MAGIC && slot->checksum == slot_checksum(slot) &&
        slot->count % guest->slots == index)
        return SLOT_GOOD;
    for (size_t i = 0; i < SLOT_WORDS; i++) {
        if (((uint64_t *)slot)[i])
            return SLOT_BROKEN;
    }
    return SLOT_EMPTY;
}

/* Finds the newest count and its boot; says what cannot be read. Returns false then. */
static bool scan(struct guest *guest, uint64_t *ret_count, uint64_t *ret_boot)
{
    uint64_t count = 0, boot = 0;

    for (uint64_t i = 0; i < guest->slots; i++) {
        enum slot_kind kind = slot_read(guest, i);

        if (kind == SLOT_ERROR) {
            say("ERROR read slot %llu: %s", (unsigned long long)i, strerror(errno));
            return false;
        }
        if (kind != SLOT_GOOD)
            continue; /* verify() judges: it may be the one that was being written */
        if (guest->buffer->count > count)
            count = guest->buffer->count;
        if (guest->buffer->boot > boot)
            boot = guest->buffer->boot;
    }
    *ret_count = count;
    *ret_boot = boot;
    return true;
}

/* All counts that the ring should hold are there and whole. The slot after the newest may hold
 * anything: it was never acknowledged. */
static bool verify(struct guest *guest, uint64_t count)
{
    uint64_t oldest = count >= guest->slots ? count - guest->slots + 2 : 1;
    uint64_t bad = 0;

    for (uint64_t n = oldest; n <= count; n++) {
        enum slot_kind kind = slot_read(guest, n % guest->slots);

        if (kind == SLOT_GOOD && guest->buffer->count == n)
            continue;
        if (bad++ < 5)
            say("ERROR verify: count %llu is %s", (unsigned long long)n,
                kind == SLOT_ERROR    ? "unreadable"
                : kind == SLOT_EMPTY  ? "missing"
                : kind == SLOT_BROKEN ? "damaged"
                                      : "overwritten by another count");
    }
    if (bad)
        say("ERROR verify: %llu of %llu counts are wrong", (unsigned long long)bad,
            (unsigned long long)(count - oldest + 1));
    return bad == 0;
}

/* What lies in the newest slot is what this boot wrote there. */
static bool still_alone(struct guest *guest)
{
    const struct slot *slot = guest->buffer;
    enum slot_kind kind;

    kind = slot_read(guest, guest->count % guest->slots);
    if (kind != SLOT_GOOD || slot->count != guest->count || slot->nonce != guest->nonce) {
        say("ERROR alone: count %llu of boot %llu is not what is on the disk (count %llu, boot "
            "%llu)",
            (unsigned long long)guest->count, (unsigned long long)guest->boot,
            (unsigned long long)slot->count, (unsigned long long)slot->boot);
        return false;
    }
    return true;
}

static bool put(struct guest *guest, uint64_t n)
{
    slot_fill(guest->buffer, n, guest->boot, guest->nonce);
    if (pwrite(guest->disk, guest->buffer, SLOT_SIZE, (off_t)(n % guest->slots * SLOT_SIZE)) !=
        SLOT_SIZE) {
        say("ERROR write %llu: %s", (unsigned long long)n, strerror(errno));
        return false;
    }
    return true;
}

static bool advance(struct guest *guest)
{
    if (!still_alone(guest) || !put(guest, guest->count + 1))
        return false;
    guest->count++;
    return true;
}

static void tick(struct guest *guest)
{
    uint64_t start_ms = now_ms();

    if (advance(guest))
        say("TICK %llu %llu", (unsigned long long)guest->count,
            (unsigned long long)(now_ms() - start_ms));
}

/* ---- commands ---- */

static void run_command(struct guest *guest, const char *line)
{
    unsigned long long number;

    if (sscanf(line, "write %llu", &number) == 1) {
        for (unsigned long long i = 0; i < number; i++) {
            if (!advance(guest))
                return;
        }
        say("OK write %llu", (unsigned long long)guest->count);
    } else if (strcmp(line, "verify") == 0) {
        if (verify(guest, guest->count))
            say("OK verify %llu", (unsigned long long)guest->count);
    } else if (strcmp(line, "count") == 0) {
        say("OK count %llu", (unsigned long long)guest->count);
    } else if (sscanf(line, "rate %llu", &number) == 1 && number <= 60000) {
        guest->tick_ms = (int)number;
        say("OK rate %llu", number);
    } else if (strcmp(line, "poweroff") == 0) {
        say("OK poweroff %llu", (unsigned long long)guest->count);
        leave(RB_POWER_OFF);
    } else if (strcmp(line, "reboot") == 0) {
        say("OK reboot %llu", (unsigned long long)guest->count);
        leave(RB_AUTOBOOT);
    } else {
        say("ERROR unknown command");
    }
}

static void read_console(struct guest *guest)
{
    char text[64];
    ssize_t length = read(0, text, sizeof(text));

    for (ssize_t i = 0; i < length; i++) {
        if (text[i] != '\n' && text[i] != '\r') {
            if (guest->line_length < sizeof(guest->line) - 1)
                guest->line[guest->line_length++] = text[i];
            continue;
        }
        guest->line[guest->line_length] = 0;
        if (guest->line_length)
            run_command(guest, guest->line);
        guest->line_length = 0;
    }
}

static void read_input(int fd)
{
    struct input_event event;

    while (read(fd, &event, sizeof(event)) == sizeof(event)) {
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
            say("GUEST power button");
            leave(RB_POWER_OFF);
        }
    }
}

static void serve(struct guest *guest)
{
    uint64_t next_ms = now_ms();

    for (;;) {
        struct pollfd polled[1 + INPUTS_MAX] = {{.fd = 0, .events = POLLIN}};
        uint64_t time_ms = now_ms();
        int wait_ms = -1;

        if (guest->tick_ms)
            wait_ms = next_ms > time_ms ? (int)(next_ms - time_ms) : 0;
        for (int i = 0; i < guest->input_count; i++)
            polled[1 + i] = (struct pollfd){.fd = guest->inputs[i], .events = POLLIN};
        poll(polled, 1 + (nfds_t)guest->input_count, wait_ms);
        if (polled[0].revents & POLLIN)
            read_console(guest);
        for (int i = 0; i < guest->input_count; i++) {
            if (polled[1 + i].revents & POLLIN)
                read_input(guest->inputs[i]);
        }
        if (guest->tick_ms && now_ms() >= next_ms) {
            tick(guest);
            next_ms = now_ms() + (uint64_t)guest->tick_ms;
        }
    }
}

/* A guest that cannot go on says why and stays, so that the console can be read. */
static _Noreturn void give_up(const char *why)
{
    say("ERROR guest gives up: %s: %s", why, strerror(errno));
    for (;;)
        pause();
}

int main(void)
{
    static struct guest guest = {.tick_ms = 100};
    char partition[64];
    uint64_t boot;

    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    klogctl(8, NULL, 2); /* the kernel says only what is critical */
    raw_console();
    load_modules();
    open_inputs(&guest);

    if (!find_disk(partition, sizeof(partition)))
        give_up("no disk of ours");
    guest.disk = open(partition, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
    if (guest.disk < 0)
        give_up(partition);
    guest.slots = (uint64_t)lseek(guest.disk, 0, SEEK_END) / SLOT_SIZE;
    if (guest.slots < 2 || posix_memalign((void **)&guest.buffer, SLOT_SIZE, SLOT_SIZE))
        give_up("partition 2");
    if (getrandom(&guest.nonce, sizeof(guest.nonce), GRND_NONBLOCK) < 0)
        guest.nonce = mix((uint64_t)time(NULL) ^ __builtin_ia32_rdtsc());
    if (!scan(&guest, &guest.count, &boot) || !verify(&guest, guest.count))
        give_up("verify");
    guest.boot = boot + 1;
    say("GUEST up boot=%llu count=%llu disk=%s firmware=%s", (unsigned long long)guest.boot,
        (unsigned long long)guest.count, partition,
        access("/sys/firmware/efi", F_OK) == 0 ? "uefi" : "bios");
    /* Nobody wrote between the scan and this, or it would be noticed from the next count on. */
    if (!put(&guest, guest.count + 1))
        give_up("write");
    guest.count++;
    serve(&guest);
}
