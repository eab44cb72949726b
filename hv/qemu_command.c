#include "hv/qemu_command.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>

/* A lost connection to the disk is a pause for the guest, however long; an error only what the
 * volume answers. */
#define RECONNECT_DELAY_S (7 * 24 * 3600)
#define IDE_DISKS_MAX 4
#define WORDS_MAX 256

static bool name_ok(const char *name)
{
    size_t length = strlen(name);

    return length > 0 && length < HV_NAME_BYTES && name[0] != '.' && name[0] != '-' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") ==
               length;
}

static const char *definition_fault(const struct hv_definition *definition)
{
    if (definition->id == 0 || definition->incarnation == 0)
        return "a VM has an id and an incarnation above 0";
    if (!definition->name || !name_ok(definition->name))
        return "a VM's name is made of letters, digits, '-', '_' and '.'";
    if (definition->memory_bytes < 16 * MIB || definition->memory_bytes % MIB)
        return "a VM has at least 16 MiB of memory, in whole MiB";
    if (definition->vcpus < 1 || definition->vcpus > 255)
        return "a VM has from 1 to 255 virtual CPUs";
    if (definition->generation != 1 && definition->generation != 2)
        return "the generation is 1 (BIOS) or 2 (UEFI)";
    if (definition->disk_count > HV_DISKS_MAX)
        return "a VM has at most 16 disks";
    for (size_t i = 0; i < definition->disk_count; i++) {
        const char *name = definition->disks[i].export_name;

        if (!name || !name[0] || strlen(name) >= HV_EXPORT_BYTES)
            return "a disk has the name of an export";
    }
    if (definition->switch_name && definition->switch_name[0] &&
        (!name_ok(definition->switch_name) || strlen(definition->switch_name) >= QEMU_TAP_BYTES))
        return "a switch is named like a bridge of the node: up to 15 letters, digits, '-', '_', "
               "'.'";
    return NULL;
}

int hv_definition_check(const struct hv_definition *definition, const char **ret_why)
{
    const char *fault = definition_fault(definition);

    if (!fault)
        return 0;
    *ret_why = fault;
    return -EINVAL;
}

void qemu_tap_name(uint64_t vm_id, char name[QEMU_TAP_BYTES])
{
    snprintf(name, QEMU_TAP_BYTES, "s2d%llx", (unsigned long long)(vm_id & 0xffffffffffff));
}

/* ---- words ---- */

struct words {
    char **argv;
    size_t count;
    bool failed;
};

static void put(struct words *words, char *word) /* takes word */
{
    assert(words->count < WORDS_MAX);
    if (word)
        words->argv[words->count++] = word;
    else
        words->failed = true;
}

static void word(struct words *words, const char *format, ...) printf_like(2, 3);
static void word(struct words *words, const char *format, ...)
{
    va_list arguments;
    char *text;

    va_start(arguments, format);
    put(words, vasprintf(&text, format, arguments) < 0 ? NULL : text);
    va_end(arguments);
}

/* As JSON, so that no name can be taken for an option. object: taken. */
static void word_json(struct words *words, json_t *object)
{
    put(words, object ? json_dumps(object, JSON_COMPACT) : NULL);
    json_decref(object);
}

void qemu_command_free(char **argv)
{
    for (size_t i = 0; argv && argv[i]; i++)
        free(argv[i]);
    free(argv);
}

/* ---- the machine ---- */

static void add_machine(struct words *words, const struct hv_definition *definition,
                        const struct qemu_host *host)
{
    unsigned long long memory_mib = definition->memory_bytes / MIB;
    bool kvm = host->accel == HV_ACCEL_KVM;

    word(words, "-nodefaults");
    word(words, "-no-user-config");
    word(words, "-name");
    word(words, "%s", definition->name);
    word(words, "-machine");
    word(words, "%s,memory-backend=ram,usb=off,vmport=off",
         definition->generation == 1 ? "pc-i440fx-7.2" : "pc-q35-7.2");
    word(words, "-accel");
    word(words, "%s", kvm ? "kvm" : "tcg,thread=multi,tb-size=256");
    word(words, "-cpu");
    word(words, "%s", kvm ? "host,migratable=on" : "max");
    word(words, "-smp");
    word(words, "%u", definition->vcpus);
    word(words, "-m");
    word(words, "%llu", memory_mib);
    /* Shared: what a vhost-user back end will need. */
    word(words, "-object");
    word(words, "memory-backend-memfd,id=ram,share=on,size=%lluM", memory_mib);
    word(words, "-rtc");
    word(words, "base=utc,driftfix=slew");
    word(words, "-display");
    word(words, "none");
    word(words, "-device");
    word(words, "VGA");
}

static void add_firmware(struct words *words, const struct qemu_host *host)
{
    word(words, "-blockdev");
    word_json(words, json_pack("{s:s,s:s,s:b,s:{s:s,s:s+}}", "driver", "raw", "node-name", "code",
                               "read-only", 1, "file", "driver", "file", "filename", host->firmware,
                               "/" QEMU_CODE_NAME));
    word(words, "-blockdev");
    word_json(words, json_pack("{s:s,s:s,s:{s:s,s:s}}", "driver", "raw", "node-name", "vars",
                               "file", "driver", "file", "filename", QEMU_VARS_FILE));
    word(words, "-machine");
    word(words, "pflash0=code,pflash1=vars");
}

static void add_channels(struct words *words)
{
    word(words, "-chardev");
    word(words, "socket,id=qmp,path=" QEMU_QMP_SOCKET ",server=on,wait=off");
    word(words, "-mon");
    word(words, "chardev=qmp,mode=control,pretty=off");
    word(words, "-chardev");
    word(words, "socket,id=console,path=" QEMU_CONSOLE_SOCKET
                ",server=on,wait=off,logfile=" QEMU_CONSOLE_LOG ",logappend=on");
    word(words, "-serial");
    word(words, "chardev:console");
    word(words, "-chardev");
    word(words, "socket,id=agent,path=" QEMU_AGENT_SOCKET ",server=on,wait=off");
    word(words, "-device");
    word(words, "virtio-serial-pci");
    word(words, "-device");
    word(words, "virtserialport,chardev=agent,name=org.qemu.guest_agent.0");
}

/* ---- disks and network ---- */

static json_t *disk_device(size_t index, unsigned generation)
{
    json_t *device;

    if (generation == 1 && index < IDE_DISKS_MAX)
        device = json_pack("{s:s,s:o,s:i}", "driver", "ide-hd", "bus",
                           json_sprintf("ide.%zu", index / 2), "unit", (int)(index % 2));
    else
        device = json_pack("{s:s,s:s}", "driver", "virtio-blk-pci", "disable-legacy", "on");
    /* A write that finds no room pauses the VM (vm.c); other errors are the guest's. */
    if (device &&
        json_object_update_new(
            device, json_pack("{s:o,s:o,s:i,s:s,s:s,s:i,s:i}", "id", json_sprintf("disk%zu", index),
                              "drive", json_sprintf("drive%zu", index), "bootindex", (int)index + 1,
                              "werror", "enospc", "rerror", "report", "logical_block_size", 512,
                              "physical_block_size", (int)BLOCK_SIZE)) < 0) {
        json_decref(device);
        return NULL;
    }
    return device;
}

static void add_disk(struct words *words, const struct hv_definition *definition, size_t index,
                     const struct qemu_host *host)
{
    word(words, "-blockdev");
    word_json(words,
              json_pack("{s:s,s:o,s:s,s:i,s:s,s:s,s:{s:b,s:b},s:{s:s,s:s}}", "driver", "nbd",
                        "node-name", json_sprintf("drive%zu", index), "export",
                        definition->disks[index].export_name, "reconnect-delay", RECONNECT_DELAY_S,
                        "discard", "unmap", "detect-zeroes", "off", "cache", "direct", 1,
                        "no-flush", 0, "server", "type", "unix", "path", host->nbd_socket));
    word(words, "-device");
    word_json(words, disk_device(index, definition->generation));
}

/* The address follows from the VM's id: stable, local, and apart from other VMs'. */
static void add_network(struct words *words, const struct hv_definition *definition)
{
    char tap[QEMU_TAP_BYTES];

    if (!definition->switch_name || !definition->switch_name[0])
        return;
    qemu_tap_name(definition->id, tap);
    word(words, "-netdev");
    word(words, "tap,id=net0,ifname=%s,script=no,downscript=no", tap);
    word(words, "-device");
    word(words, "%s,netdev=net0,mac=52:54:%02x:%02x:%02x:%02x",
         definition->generation == 1 ? "e1000" : "virtio-net-pci,disable-legacy=on",
         (unsigned)(definition->id >> 24 & 255), (unsigned)(definition->id >> 16 & 255),
         (unsigned)(definition->id >> 8 & 255), (unsigned)(definition->id & 255));
}

int qemu_command_new(const struct hv_definition *definition, const struct qemu_host *host,
                     char ***ret_argv)
{
    cleanup(qemu_command_freep) char **argv = calloc(WORDS_MAX + 1, sizeof(*argv));
    struct words words = {.argv = argv};

    assert(host->accel != HV_ACCEL_AUTO);
    assert(!definition_fault(definition));
    if (!argv)
        return -ENOMEM;
    word(&words, "%s", host->qemu);
    add_machine(&words, definition, host);
    if (definition->generation == 2)
        add_firmware(&words, host);
    add_channels(&words);
    word(&words, "-object");
    word(&words, "rng-random,id=rng,filename=/dev/urandom");
    word(&words, "-device");
    word(&words, "virtio-rng-pci,rng=rng");
    for (size_t i = 0; i < definition->disk_count; i++)
        add_disk(&words, definition, i, host);
    add_network(&words, definition);
    if (words.failed)
        return -ENOMEM;
    *ret_argv = take_ptr(argv);
    return 0;
}
