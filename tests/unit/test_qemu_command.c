/* The command line: what a guest's data and the cluster's promises hang on is there, and no name
 * can become an option. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>
#include <jansson.h>

#include "hv/qemu_command.h"

static const struct hv_disk disks[] = {
    {"v1/boot.raw@4"}, {"v1/b@4"}, {"v1/c@4"}, {"v1/d@4"}, {"v2/e,file=/etc/passwd\"@4"},
};

static struct hv_definition definition(unsigned generation)
{
    return (struct hv_definition){.id = 0x1234,
                                  .incarnation = 4,
                                  .name = "web-1",
                                  .memory_bytes = 512 * MIB,
                                  .vcpus = 2,
                                  .generation = generation,
                                  .disks = disks,
                                  .disk_count = ARRAY_SIZE(disks)};
}

static const struct qemu_host host = {.qemu = "qemu-system-x86_64",
                                      .firmware = "/usr/share/OVMF",
                                      .nbd_socket = "/run/s2d/nbd.sock",
                                      .accel = HV_ACCEL_TCG};

static char **build(const struct hv_definition *vm, const struct qemu_host *on)
{
    char **argv;

    assert_int_equal(qemu_command_new(vm, on, &argv), 0);
    return argv;
}

/* The nth word after an option of that name; NULL: none. */
static const char *value_of(char **argv, const char *option, size_t nth)
{
    for (size_t i = 1; argv[i]; i++) {
        if (strcmp(argv[i], option) == 0 && nth-- == 0)
            return argv[i + 1];
    }
    return NULL;
}

static bool has_text(char **argv, const char *option, const char *text)
{
    const char *value;

    for (size_t n = 0; (value = value_of(argv, option, n)) != NULL; n++) {
        if (strstr(value, text))
            return true;
    }
    return false;
}

/* The JSON value of option whose member is text; the caller's. */
static json_t *object_with(char **argv, const char *option, const char *member, const char *text)
{
    const char *value;

    for (size_t n = 0; (value = value_of(argv, option, n)) != NULL; n++) {
        json_t *object = json_loads(value, 0, NULL);

        if (object && strcmp(json_string_value(json_object_get(object, member)) ?: "", text) == 0)
            return object;
        json_decref(object);
    }
    fail_msg("no %s with %s=%s", option, member, text);
    return NULL;
}

static const char *text_of(const json_t *object, const char *member)
{
    return json_string_value(json_object_get(object, member));
}

static void disks_are_exports_that_reconnect(void **state)
{
    const struct hv_definition vm = definition(2);
    cleanup(qemu_command_freep) char **argv = build(&vm, &host);

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(disks); i++) {
        char name[16];
        json_t *disk;

        snprintf(name, sizeof(name), "drive%zu", i);
        disk = object_with(argv, "-blockdev", "node-name", name);
        assert_string_equal(text_of(disk, "driver"), "nbd");
        assert_string_equal(text_of(disk, "export"), disks[i].export_name);
        assert_string_equal(text_of(json_object_get(disk, "server"), "path"), host.nbd_socket);
        /* An owner's death is a pause for the guest, never an error. */
        assert_true(json_integer_value(json_object_get(disk, "reconnect-delay")) >= 3600);
        /* The guest's flush must mean something, and the host's page cache would lie. */
        assert_true(json_is_true(json_object_get(json_object_get(disk, "cache"), "direct")));
        assert_true(json_is_false(json_object_get(json_object_get(disk, "cache"), "no-flush")));
        assert_string_equal(text_of(disk, "discard"), "unmap");
        json_decref(disk);
    }
}

static void errors_reach_the_guest(void **state)
{
    const struct hv_definition vm = definition(1);
    cleanup(qemu_command_freep) char **argv = build(&vm, &host);
    json_t *device = object_with(argv, "-device", "drive", "drive0");

    (void)state;
    assert_string_equal(text_of(device, "werror"), "enospc");
    assert_string_equal(text_of(device, "rerror"), "report");
    json_decref(device);
}

static void generation_1_boots_from_ide(void **state)
{
    const struct hv_definition vm = definition(1);
    cleanup(qemu_command_freep) char **argv = build(&vm, &host);
    json_t *boot = object_with(argv, "-device", "drive", "drive0");
    json_t *fourth = object_with(argv, "-device", "drive", "drive3");
    json_t *fifth = object_with(argv, "-device", "drive", "drive4");

    (void)state;
    assert_string_equal(text_of(boot, "driver"), "ide-hd");
    assert_string_equal(text_of(boot, "bus"), "ide.0");
    assert_int_equal(json_integer_value(json_object_get(boot, "bootindex")), 1);
    assert_string_equal(text_of(fourth, "bus"), "ide.1");
    assert_int_equal(json_integer_value(json_object_get(fourth, "unit")), 1);
    assert_string_equal(text_of(fifth, "driver"), "virtio-blk-pci");
    assert_true(has_text(argv, "-machine", "pc-i440fx-7.2"));
    assert_false(has_text(argv, "-machine", "pflash"));
    json_decref(boot);
    json_decref(fourth);
    json_decref(fifth);
}

static void generation_2_boots_from_virtio_with_variables_of_its_own(void **state)
{
    const struct hv_definition vm = definition(2);
    cleanup(qemu_command_freep) char **argv = build(&vm, &host);
    json_t *boot = object_with(argv, "-device", "drive", "drive0");
    json_t *code = object_with(argv, "-blockdev", "node-name", "code");
    json_t *variables = object_with(argv, "-blockdev", "node-name", "vars");

    (void)state;
    assert_string_equal(text_of(boot, "driver"), "virtio-blk-pci");
    assert_string_equal(text_of(boot, "disable-legacy"), "on"); /* OVMF hangs otherwise */
    assert_true(json_is_true(json_object_get(code, "read-only")));
    assert_string_equal(text_of(json_object_get(code, "file"), "filename"),
                        "/usr/share/OVMF/OVMF_CODE_4M.fd");
    assert_string_equal(text_of(json_object_get(variables, "file"), "filename"), QEMU_VARS_FILE);
    assert_true(has_text(argv, "-machine", "pc-q35-7.2"));
    json_decref(boot);
    json_decref(code);
    json_decref(variables);
}

/* Nothing of the host's defaults or of a user's configuration gets into a VM. */
static void nothing_comes_from_outside(void **state)
{
    const struct hv_definition vm = definition(2);
    cleanup(qemu_command_freep) char **argv = build(&vm, &host);
    bool nodefaults = false, no_user_config = false;

    (void)state;
    for (size_t i = 0; argv[i]; i++) {
        nodefaults |= strcmp(argv[i], "-nodefaults") == 0;
        no_user_config |= strcmp(argv[i], "-no-user-config") == 0;
        assert_string_not_equal(argv[i], "-netdev");
    }
    assert_true(nodefaults);
    assert_true(no_user_config);
}

static void the_accelerator_is_the_one_given(void **state)
{
    const struct hv_definition vm = definition(2);
    struct qemu_host with_kvm = host;
    cleanup(qemu_command_freep) char **tcg = build(&vm, &host);
    cleanup(qemu_command_freep) char **kvm = NULL;

    (void)state;
    with_kvm.accel = HV_ACCEL_KVM;
    kvm = build(&vm, &with_kvm);
    assert_true(has_text(tcg, "-accel", "tcg"));
    assert_string_equal(value_of(kvm, "-accel", 0), "kvm");
    assert_true(has_text(kvm, "-cpu", "host"));
    assert_null(value_of(kvm, "-accel", 1)); /* no silent second choice */
}

static void a_switch_is_a_tap_with_a_stable_address(void **state)
{
    struct hv_definition vm = definition(2);
    cleanup(qemu_command_freep) char **argv = NULL;

    (void)state;
    vm.switch_name = "br0";
    argv = build(&vm, &host);
    assert_string_equal(value_of(argv, "-netdev", 0),
                        "tap,id=net0,ifname=s2d1234,script=no,downscript=no");
    assert_true(has_text(argv, "-device", "mac=52:54:00:00:12:34"));
}

static void tap_names_fit(void **state)
{
    char name[QEMU_TAP_BYTES];

    (void)state;
    qemu_tap_name(UINT64_MAX, name);
    assert_int_equal(strlen(name), QEMU_TAP_BYTES - 1);
}

static void refuse(struct hv_definition vm)
{
    const char *why = NULL;

    assert_int_equal(hv_definition_check(&vm, &why), -EINVAL);
    assert_non_null(why);
}

static void bad_definitions_are_refused(void **state)
{
    static const char *const names[] = {"", ".", "..", "a/b", "-vnc", "a,b", "a b", "a=b", NULL};
    struct hv_definition vm;
    const char *why;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        vm = definition(1);
        vm.name = names[i];
        refuse(vm);
        vm = definition(1);
        vm.switch_name = names[i];
        if (names[i] && names[i][0])
            refuse(vm);
    }
    vm = definition(3);
    refuse(vm);
    vm = definition(1);
    vm.incarnation = 0;
    refuse(vm);
    vm = definition(1);
    vm.memory_bytes = 512 * MIB + 1;
    refuse(vm);
    vm = definition(1);
    vm.vcpus = 256;
    refuse(vm);
    vm = definition(1);
    vm.disk_count = HV_DISKS_MAX + 1;
    refuse(vm);
    vm = definition(1);
    vm.switch_name = "a-bridge-of-long-name";
    refuse(vm);
    vm = definition(1);
    assert_int_equal(hv_definition_check(&vm, &why), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disks_are_exports_that_reconnect),
        cmocka_unit_test(errors_reach_the_guest),
        cmocka_unit_test(generation_1_boots_from_ide),
        cmocka_unit_test(generation_2_boots_from_virtio_with_variables_of_its_own),
        cmocka_unit_test(nothing_comes_from_outside),
        cmocka_unit_test(the_accelerator_is_the_one_given),
        cmocka_unit_test(a_switch_is_a_tap_with_a_stable_address),
        cmocka_unit_test(tap_names_fit),
        cmocka_unit_test(bad_definitions_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
