/* keeper_host: where VM folders and keepers are. hv asks it for everything that lies in a VM's
 * folder or outlives the daemon; so hv itself runs the same on a Linux host (keeper_host_linux():
 * keeper_link.h and files) and in the simulator, whose keepers and QEMUs live on simulated
 * machines.
 *
 * folder: a VM's working folder, absolute. Calls without co_ block: co_offload(). They touch no
 * loop. */
#ifndef S2D_HV_KEEPER_HOST_H
#define S2D_HV_KEEPER_HOST_H

#include "hv/hv.h"
#include "hv/keeper_link.h"

struct io;

struct keeper_host_ops {
    /* The names of the VM folders that are in dir, at most max. Returns 0 or an error. */
    int (*list)(struct keeper_host *host, const char *dir, char (*ret_names)[HV_NAME_BYTES],
                size_t max, size_t *ret_count);
    /* Makes the folder ready for QEMU: it exists, old sockets are gone, as is what another VM of
     * that name left, and there are UEFI variables when firmware (a path) is given. ret_why: a
     * sentence for people, on failure. */
    int (*prepare)(struct keeper_host *host, const char *folder, uint64_t vm_id,
                   const char *firmware, char ret_why[HV_REASON_BYTES]);
    /* The last line that QEMU, or its keeper, printed; "": none. */
    void (*last_line)(struct keeper_host *host, const char *folder, char ret_line[HV_REASON_BYTES]);
    /* Cuts logs that have grown beyond what is kept. */
    void (*trim_logs)(struct keeper_host *host, const char *folder);

    /* As in keeper_link.h. */
    int (*start)(struct keeper_host *host, const struct keeper_order *order,
                 struct keeper_link **ret_link);
    int (*adopt)(struct keeper_host *host, const char *folder, struct keeper_link **ret_link);
    void (*terminate)(struct keeper_host *host, const char *folder);
    int (*gone)(struct keeper_host *host, const char *folder);
    int (*outcome)(struct keeper_host *host, const char *folder,
                   struct keeper_outcome *ret_outcome);
    void (*forget)(struct keeper_host *host, const char *folder);

    /* Suspends until the keeper has exited; then wait for gone(). Returns 0, -ECANCELED, or why it
     * cannot be waited for. */
    int (*co_wait_exit)(struct keeper_host *host, struct io *io, struct keeper_link *link);
};

struct keeper_host {
    const struct keeper_host_ops *ops;
};

/* This machine. Has no state. */
struct keeper_host *keeper_host_linux(void);

#endif
