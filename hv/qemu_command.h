/* qemu_command: the words of a QEMU command line for a VM. Pure: looks at no file, nothing
 * suspends.
 *
 * Sockets and logs are named relative to the VM's folder, where QEMU is started:
 *   qmp.sock  QMP, for the daemon     console.sock, console.log  first serial port     agent.sock
 * guest agent channel vars.fd   generation 2's UEFI variables (the caller copies them there)
 * Machine types are versioned: a VM that is moved later meets the machine that it booted on. */
#ifndef S2D_HV_QEMU_COMMAND_H
#define S2D_HV_QEMU_COMMAND_H

#include "hv/hv.h"

#define QEMU_QMP_SOCKET "qmp.sock"
#define QEMU_CONSOLE_SOCKET "console.sock"
#define QEMU_CONSOLE_LOG "console.log"
#define QEMU_AGENT_SOCKET "agent.sock"
#define QEMU_VARS_FILE "vars.fd"
#define QEMU_CODE_NAME "OVMF_CODE_4M.fd" /* in the firmware folder */
#define QEMU_VARS_NAME "OVMF_VARS_4M.fd"
#define QEMU_TAP_BYTES 16 /* IFNAMSIZ */

struct qemu_host {
    const char *qemu;       /* the program */
    const char *firmware;   /* folder */
    const char *nbd_socket; /* absolute */
    enum hv_accel accel;    /* not AUTO */
};

/* Whether definition is one that can be built. ret_why: a sentence for people, constant. Returns 0
 * or -EINVAL. */
must_check int hv_definition_check(const struct hv_definition *definition, const char **ret_why);

/* ret_argv: ends with NULL; the caller's, for qemu_command_free(). definition must pass the check.
 * Returns 0 or -ENOMEM. */
must_check int qemu_command_new(const struct hv_definition *definition,
                                const struct qemu_host *host, char ***ret_argv);
void qemu_command_free(char **argv); /* NULL is fine */
DEFINE_CLEANUP(char *, qemu_command_free)

/* The host's network interface behind the VM's network card. */
void qemu_tap_name(uint64_t vm_id, char name[QEMU_TAP_BYTES]);

#endif
