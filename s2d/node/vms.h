/* vms: the VMs of this node follow the database. A VM runs here when its record names this node and
 * an incarnation that has not ended; anything else that runs here is killed. hv.h keeps the
 * processes; this says which.
 *
 * In a daemon and in the simulator, which gives it a host of its own. One reactor. */
#ifndef S2D_NODE_VMS_H
#define S2D_NODE_VMS_H

#include "hv/hv.h"
#include "s2d/node/node.h"

struct vms;

struct vms_options {
    const char *folder;     /* for working files */
    const char *nbd_socket; /* that serves the disks */
    enum hv_accel accel;
    struct keeper_host *host; /* hv_options */
};

must_check int vms_new(struct node *node, const struct vms_options *options, struct vms **ret_vms);
/* The daemon begins to stop. What is cut off under a start that is under way says nothing of the
 * VM: it is started again. NULL is fine. */
void vms_leave(struct vms *vms);
/* The VMs go on running until their deadline; it may be renewed until this returns. What is being
 * started has 5 s to come up. */
void co_vms_free(struct vms *vms);

/* What the node tells (node_options). */
void vms_changed(struct vms *vms);
void vms_lease(struct vms *vms, uint64_t expires_ns);

struct hv *vms_hv(struct vms *vms);

#endif
