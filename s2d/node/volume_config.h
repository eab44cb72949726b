/* volume_config: from the database to the configuration that a mirror runs on. Pure. */
#ifndef S2D_NODE_VOLUME_CONFIG_H
#define S2D_NODE_VOLUME_CONFIG_H

#include "resiliency/vdisk_config.h"
#include "s2d/cluster/database.h"

/* What the database says of the vdisk, for a mirror. Returns 0, -ENOMEM. */
must_check int volume_make_config(const struct database *database, const struct vdisk_record *vdisk,
                                  struct vdisk_config **ret_config);

#endif
