/* api_routes: what the management API does, in terms of the node and the cluster database. Every
 * node answers everything: what only another node knows or can do is asked of it over the bus
 * (api_forward.c). docs/api.md lists the paths.
 *
 * One reactor. Handlers are coroutines (s2d/api/api.h). */
#ifndef S2D_NODE_API_ROUTES_H
#define S2D_NODE_API_ROUTES_H

#include "s2d/api/api.h"

struct co;
struct hv;
struct node;
struct vms;

struct api_context { /* the caller's memory; zeros at first */
    struct node *node;
    const char *folder;
    /* The VMs of this node: NULL while they are not open. hv(vms) may be NULL too. */
    struct hv *(*hv)(struct vms *vms);
    struct vms *vms;
    /* Returns when a new volume can be found at its mount here, or not soon. NULL: no mounts. */
    void (*co_await_mount)(void *arg, uint64_t volume);
    void *arg;

    /* private */
    struct api_router router, local_router;
    struct list forwarded; /* requests of other nodes that run here */
    unsigned forwarded_count;
    struct co *stopper; /* who waits for the last of them */
    bool started;
};

/* The routes on context, for api_server_options.router. Good as long as context is. */
const struct api_router *api_routes_router(struct api_context *context);

/* Answers other nodes from now on. Call it when the node has become a member; again: nothing. */
void api_routes_start(struct api_context *context);

/* No answers to other nodes any more; what they asked for is cancelled and waited for. Before hv
 * and node go. Not started: nothing. */
void co_api_routes_stop(struct api_context *context);

#endif
