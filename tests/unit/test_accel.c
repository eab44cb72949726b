/* The probe's runner, with programs that behave like a /dev/kvm that works, refuses, or hangs.
 * Where there is no /dev/kvm, only that is tested. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "hv/accel.h"

static int probe_with(const char *script, char why[ACCEL_WHY_BYTES])
{
    char path[] = "/tmp/s2d-probe-XXXXXX";
    int fd = mkstemp(path);
    int r;

    assert_true(fd >= 0);
    dprintf(fd, "#!/bin/sh\n%s\n", script);
    fchmod(fd, 0700);
    close(fd);
    r = accel_probe_kvm(path, why);
    unlink(path);
    return r;
}

static bool no_kvm(void)
{
    return access("/dev/kvm", F_OK) < 0;
}

static void says_what_the_probe_said(void **state)
{
    char why[ACCEL_WHY_BYTES];

    (void)state;
    if (no_kvm()) {
        assert_int_equal(probe_with("exit 0", why), -ENODEV);
        return;
    }
    assert_int_equal(probe_with("exit 0", why), 0);
    assert_int_equal(probe_with("echo KVM_RUN: no such luck; exit 1", why), -EIO);
    assert_string_equal(why, "KVM_RUN: no such luck");
    assert_int_equal(probe_with("kill -9 $$", why), -EIO);
}

static void a_probe_that_hangs_is_a_no(void **state)
{
    char why[ACCEL_WHY_BYTES];

    (void)state;
    if (no_kvm())
        return;
    assert_int_equal(probe_with("exec sleep 1000", why), -ETIMEDOUT);
    assert_non_null(strstr(why, "hangs"));
    assert_int_equal(probe_with("kill -XCPU $$", why), -ETIMEDOUT);
    assert_non_null(strstr(why, "hangs"));
}

static void a_probe_that_is_not_there_is_a_no(void **state)
{
    char why[ACCEL_WHY_BYTES];
    int r = accel_probe_kvm("/nowhere/probe", why);

    (void)state;
    assert_int_equal(r, no_kvm() ? -ENODEV : -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_the_probe_said),
        cmocka_unit_test(a_probe_that_hangs_is_a_no),
        cmocka_unit_test(a_probe_that_is_not_there_is_a_no),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
