/* accel: which accelerator QEMU gets on this node. Blocks for up to ACCEL_PROBE_TIMEOUT_MS:
 * co_offload(). */
#ifndef S2D_HV_ACCEL_H
#define S2D_HV_ACCEL_H

#include "hv/hv.h"

/* The probe needs 20 to 50 ms of CPU where KVM works; where it does not it never ends, or not
 * before the kernel has taken its CPU away after a second. */
#define ACCEL_PROBE_TIMEOUT_MS 3000
#define ACCEL_WHY_BYTES 160

/* Runs the program probe (s2d-kvm-probe). Returns 0 (KVM runs guests), -ENODEV (there is no
 * /dev/kvm), -ETIMEDOUT, -EIO (it said why not), or why the probe could not be run. ret_why: a
 * sentence for people, also on 0. */
must_check int accel_probe_kvm(const char *probe, char ret_why[ACCEL_WHY_BYTES]);

#endif
