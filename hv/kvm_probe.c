/* s2d-kvm-probe: does /dev/kvm run guests here? Exit status 0: it does. 1: it does not, and the one
 * line printed says why. It may hang, in the kernel even: who runs it does so with a time-out
 * (accel.h).
 *
 * A /dev/kvm that opens proves little. Inside other virtual machines one meets such that hang in
 * KVM_RUN, and such that interpret guest code instruction by instruction (measured on kvm-pvm: 0.4
 * us each; one HLT passes, firmware crawls, an ordinary kernel never comes up). So two guests are
 * run: a real-mode one of one instruction, and a 64-bit one that counts and touches memory for as
 * long as takes some 20 ms at a processor's own speed, and minutes when interpreted. After a second
 * of CPU the kernel ends us (SIGXCPU), and we ask for no more of it than anybody: the daemon that
 * starts us has a higher priority, which is for storage. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define GUEST_BYTES 0x10000u
#define CODE 0x0000u
#define TABLES 0x1000u /* three pages: PML4, PDPT, PD */
#define DATA 0x8000u
#define LOOPS 20000000u

static _Noreturn void fail(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static int must(int result, const char *what)
{
    if (result < 0)
        fail(what);
    return result;
}

struct guest {
    int cpu;
    uint8_t *memory;
    struct kvm_run *run;
};

static struct guest new_guest(int kvm)
{
    struct kvm_userspace_memory_region region = {.memory_size = GUEST_BYTES};
    struct guest guest;
    int vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    int run_bytes = must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");

    guest.memory =
        mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guest.memory == MAP_FAILED)
        fail("mmap");
    region.userspace_addr = (uintptr_t)guest.memory;
    must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    guest.cpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    guest.run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, guest.cpu, 0);
    if (guest.run == MAP_FAILED)
        fail("mmap of the virtual CPU");
    return guest;
}

static void run_to_halt(struct guest *guest, const char *what)
{
    if (ioctl(guest->cpu, KVM_RUN, 0) < 0)
        fail(what);
    if (guest->run->exit_reason != KVM_EXIT_HLT) {
        printf("%s: the guest left with reason %u\n", what, guest->run->exit_reason);
        exit(1);
    }
}

static void run_real_mode(int kvm)
{
    struct guest guest = new_guest(kvm);
    struct kvm_regs registers = {.rip = CODE, .rflags = 2};
    struct kvm_sregs special;

    guest.memory[CODE] = 0xf4; /* hlt */
    must(ioctl(guest.cpu, KVM_GET_SREGS, &special), "KVM_GET_SREGS");
    special.cs.base = 0;
    special.cs.selector = 0;
    must(ioctl(guest.cpu, KVM_SET_SREGS, &special), "KVM_SET_SREGS");
    must(ioctl(guest.cpu, KVM_SET_REGS, &registers), "KVM_SET_REGS");
    run_to_halt(&guest, "a real-mode guest");
}

/* 64-bit mode, the lowest 2 MiB mapped to themselves. */
static void enter_long_mode(struct guest *guest)
{
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    uint64_t *tables = (uint64_t *)(guest->memory + TABLES);
    struct kvm_sregs special;

    tables[0] = (TABLES + 0x1000) | 3;
    tables[512] = (TABLES + 0x2000) | 3;
    tables[1024] = 0x83; /* one page of 2 MiB */
    must(ioctl(guest->cpu, KVM_GET_SREGS, &special), "KVM_GET_SREGS");
    special.cr3 = TABLES;
    special.cr4 = 1 << 5;                /* PAE */
    special.cr0 = 0x80050033;            /* paging, protection, numeric errors, write protection */
    special.efer = (1 << 8) | (1 << 10); /* long mode enabled and active */
    special.cs = code;
    special.ds = special.es = special.fs = special.gs = special.ss = data;
    must(ioctl(guest->cpu, KVM_SET_SREGS, &special), "KVM_SET_SREGS");
}

static void run_long_mode(int kvm)
{
    static const uint8_t program[] = {
        0x48, 0xff, 0x03, /* again: inc qword [rbx] */
        0x48, 0xff, 0xc9, /* dec rcx */
        0x75, 0xf8,       /* jnz again */
        0xf4,             /* hlt */
    };
    struct guest guest = new_guest(kvm);
    struct kvm_regs registers = {.rip = CODE, .rflags = 2, .rbx = DATA, .rcx = LOOPS, .rsp = DATA};
    uint64_t counted;

    memcpy(guest.memory + CODE, program, sizeof(program));
    enter_long_mode(&guest);
    must(ioctl(guest.cpu, KVM_SET_REGS, &registers), "KVM_SET_REGS");
    run_to_halt(&guest, "a 64-bit guest");
    memcpy(&counted, guest.memory + DATA, sizeof(counted));
    if (counted != LOOPS) {
        printf("a 64-bit guest counted wrong\n");
        exit(1);
    }
}

int main(void)
{
    static const struct rlimit cpu = {.rlim_cur = 1, .rlim_max = 2}; /* seconds */
    int kvm;

    if (getpriority(PRIO_PROCESS, 0) < 0)
        must(setpriority(PRIO_PROCESS, 0, 0), "setpriority");
    must(setrlimit(RLIMIT_CPU, &cpu), "setrlimit");
    kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");

    if (must(ioctl(kvm, KVM_GET_API_VERSION, 0), "KVM_GET_API_VERSION") != KVM_API_VERSION) {
        printf("/dev/kvm has another API\n");
        return 1;
    }
    run_real_mode(kvm);
    run_long_mode(kvm);
    return 0;
}
