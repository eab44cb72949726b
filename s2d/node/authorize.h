/* authorize: who may touch the disks of VMs, from what a database says. Pure. */
#ifndef S2D_NODE_AUTHORIZE_H
#define S2D_NODE_AUTHORIZE_H

#include "s2d/cluster/database.h"

/* As csv_options.authorize: path as the file system walks it. Returns 0 or -EPERM. */
must_check int authorize_open(const struct database *database, const char *volume, const char *path,
                              uint64_t incarnation, bool read_only);
/* Whether a VM that runs (also if its node is away: it may come back to it) has a disk there. */
bool authorize_vm_runs_from(const struct database *database, const char *volume);

#endif
