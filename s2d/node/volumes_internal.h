/* What the files about volumes share. Only s2d/node/volume*.c include this.
 *
 *   volumes.c       which vdisks there are; following the database; stopping
 *   volume_owner.c  a vdisk's coroutine: owned or not, and what its mirror asks for meanwhile
 *   volume_slabs.c  slabs on demand
 *   volume_admin.c  what administrators ask for */
#ifndef S2D_NODE_VOLUMES_INTERNAL_H
#define S2D_NODE_VOLUMES_INTERNAL_H

#include "csv-export/csv.h"
#include "fs-refs-lite/fs.h"
#include "resiliency/mirror.h"
#include "s2d/node/node_internal.h"
#include "s2d/node/volume_config.h"

#define HAND_OVER_NS (5 * SEC)

struct volume_check { /* asked for by somebody, done by the volume's own coroutine */
    void (*report)(void *arg, const char *line);
    void *arg;
    struct fs_check_result result;
    int code;
    bool done, abandoned; /* nobody waits any more: nothing is reported, whoever is last frees */
};

struct node_volume {
    struct list node;
    struct node *owner_node; /* the struct node that this belongs to */
    uint64_t vdisk;
    uint64_t volume;
    bool running; /* its coroutine */
    struct co_cond changed;

    uint64_t spent_session; /* no session up to this one may be begun */
    struct vdisk_config *config;
    struct mirror *mirror;
    uint64_t mirror_session;
    struct fs *fs;
    uint64_t mounted_ns, checkpoint_ns;
    uint64_t pause_ns, paused_until_ns; /* before the next mount */
    const char *pause_reason;
    bool reaped;
    uint64_t move_to; /* hand over to this node; 0: no */
    bool handing_over;
    int mount_error;            /* as last logged */
    struct fs_lacks lacks;      /* while a mount is -EAGAIN each time */
    struct volume_check *check; /* NULL: nobody asks */
    const char *waiting;
    uint64_t job_told_ns; /* the progress of its rebuild */
};

/* ---- volumes.c ---- */

/* The records, or NULL when they are gone; found again after each suspension. */
const struct vdisk_record *vdisk_record_of(const struct node_volume *volume);
const struct volume_record *volume_record_of(const struct node_volume *volume);
struct node_volume *node_find_volume(struct node *node, uint64_t vdisk);
/* What each mirror may have above its watermark. */
uint64_t volume_unsettled_bytes(const struct node *node);

/* ---- volume_owner.c ---- */

/* The coroutine of a struct node_volume: ends when its vdisk is gone or the node stops. */
void volume_main(void *volume);

/* ---- volume_slabs.c ---- */

/* Adds the slabs (those that exist are skipped) and some ahead. Returns 0 when all of the wanted
 * exist, -ENOSPC, or what the database said. */
must_check int co_volume_add_slabs(struct node *node, uint64_t vdisk_id, const uint32_t *wanted,
                                   size_t count);
/* A fixed volume has all of its slabs from the start. */
must_check int co_volume_add_all_slabs(struct node_volume *volume);

#endif
