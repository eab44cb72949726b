/* What a daemon finds of a VM's keeper: the files in the VM's folder, and the page of memory that
 * the keeper shares. All of it may be of another version, torn, or nonsense; the daemon learns
 * nothing wrong from it and goes on. We are the keeper: this process holds the folder's lock and
 * the memory as descriptor 3.
 *
 * Input: a byte of choices; then up to 160 bytes of the record, of the outcome, and the page. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/keeper_link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum choice { RECORD_RIGHT = 1, LOCKED = 2, PAGE_SHORT = 4, IDS_RIGHT = 8 };

static char folder[64];
static int lock_fd;
static unsigned long long started;

static void read_own_start(void)
{
    char text[1024];
    FILE *file = fopen("/proc/self/stat", "re");
    const char *at = file && fgets(text, sizeof(text), file) ? strrchr(text, ')') : NULL;

    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at || sscanf(at, "%llu", &started) != 1)
        abort();
    fclose(file);
}

static void setup(void)
{
    char path[128];

    /* Nothing else gets this number; put_page() puts another memory in its place each time. */
    if (fcntl(KEEPER_MEMORY_FD, F_GETFD) < 0 &&
        dup2(STDERR_FILENO, KEEPER_MEMORY_FD) != KEEPER_MEMORY_FD)
        abort();
    snprintf(folder, sizeof(folder), "/dev/shm/fuzz_keeper.XXXXXX");
    if (!mkdtemp(folder))
        abort();
    snprintf(path, sizeof(path), "%s/" KEEPER_LOCK_FILE, folder);
    lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock_fd < 0)
        abort();
    read_own_start();
}

static void remove_folder(void)
{
    char path[128];

    keeper_forget(folder);
    snprintf(path, sizeof(path), "%s/" KEEPER_LOCK_FILE, folder);
    unlink(path);
    rmdir(folder);
}

static void put_file(const char *name, const void *bytes, size_t length)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, bytes, length) != (ssize_t)length)
        abort();
    close(fd);
}

/* Any record that names a living process other than us would have us open its memory. */
static void put_record(uint8_t choices, const char *bytes, size_t length)
{
    char text[200];
    int written =
        snprintf(text, sizeof(text), KEEPER_RECORD_FORMAT, (int)getpid(), started, 1ull, 2ull);

    if (choices & RECORD_RIGHT)
        put_file(KEEPER_RECORD_FILE, text, written);
    else
        put_file(KEEPER_RECORD_FILE, bytes, length);
}

static void put_page(uint8_t choices, const uint8_t *bytes, size_t length)
{
    struct keeper_memory page = {0};
    int fd = memfd_create("page", MFD_CLOEXEC);

    memcpy(&page, bytes, MIN(length, sizeof(page)));
    if (choices & IDS_RIGHT) {
        page.magic = KEEPER_MAGIC;
        page.version = KEEPER_VERSION;
        page.vm_id = 1;
        page.incarnation = 2;
    }
    if (fd < 0 || dup2(fd, KEEPER_MEMORY_FD) < 0)
        abort();
    if (fd != KEEPER_MEMORY_FD)
        close(fd);
    if (write(KEEPER_MEMORY_FD, &page,
              choices & PAGE_SHORT ? length % sizeof(page) : sizeof(page)) < 0)
        abort();
}

static void use(struct keeper_link *link)
{
    const struct keeper_memory *memory = keeper_memory(link);

    assert(memory->magic == KEEPER_MAGIC);
    assert(memory->vm_id == 1);
    assert(keeper_state(link) <= KEEPER_ENDED);
    keeper_renew(link, 5);
    keeper_continue(link, 6);
    keeper_kill(link);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct keeper_outcome outcome;
    struct keeper_link *link;
    size_t record, ended;
    uint8_t choices;

    if (!folder[0]) {
        setup();
        atexit(remove_folder);
    }
    if (size < 1)
        return 0;
    choices = data[0];
    data++;
    size--;
    record = MIN(size, (size_t)160);
    ended = MIN(size - record, (size_t)160);
    put_record(choices, (const char *)data, record);
    put_file(KEEPER_ENDED_FILE, data + record, ended);
    put_page(choices, data + record + ended, size - record - ended);

    flock(lock_fd, choices & LOCKED ? LOCK_EX : LOCK_UN);
    (void)!keeper_gone(folder);
    if (keeper_outcome(folder, &outcome) == 0 && choices & RECORD_RIGHT)
        assert(outcome.vm_id == 1 && outcome.incarnation == 2);
    if (keeper_adopt(folder, &link) == 0) {
        assert(choices & LOCKED);
        use(link);
        keeper_link_free(link);
    }
    return 0;
}
