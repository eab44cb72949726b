/* authorize: who may touch the disks of VMs, from what a database says. Pure. */
#ifndef S2D_NODE_AUTHORIZE_H
#define S2D_NODE_AUTHORIZE_H

#include "s2d/cluster/database.h"

/* As csv_options.authorize: path as the file system walks it. applied: the index up to which the
 * database is known. Returns 0, -EPERM, -EAGAIN (a VM that it does not know yet). */
must_check int authorize_open(const struct database *database, uint64_t applied, const char *volume,
                              const char *path, uint64_t incarnation, bool read_only);
/* As csv_options.disk_with_name. */
const char *authorize_disk_with_name(const struct database *database, const char *volume,
                                     const char *name, unsigned skip);
/* Whether a VM that runs (also if its node is away: it may come back to it) has a disk there. */
bool authorize_vm_runs_from(const struct database *database, const char *volume);

#endif
