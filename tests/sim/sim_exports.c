/* What stands around a node in s2dd, as far as VMs need it: s2dd's open and close, without the
 * server of HTTP, whose place administrators take, and without mounts. */
#include "csv-export/nbd_files.h"
#include "csv-export/nbd_server.h"
#include "s2d/node/api_routes.h"
#include "s2d/node/vms.h"
#include "tests/sim/sim_vms.h"

#define FOLDER "/s2d"
#define NBD_SOCKET FOLDER "/nbd.sock"
#define NBD_BUFFER_BYTES (8 * MIB)

struct ask { /* a request to the API, under way */
    struct list node;
    struct co *co;
};

struct exports {
    struct io *io;
    struct nbd_files *nbd_files;
    struct nbd_server *nbd_server;
    struct vms *vms;
    struct api_context api;
    struct list asks;
    struct co_cond asks_changed;
    bool stopping;
};

static int co_open_nbd(struct exports *exports, struct node *node)
{
    struct nbd_server_options options = {.address = "unix:" NBD_SOCKET,
                                         .buffer_bytes = NBD_BUFFER_BYTES,
                                         .metrics = node_metrics(node)};
    int r = nbd_files_new(node_csv(node), &exports->nbd_files);

    if (r < 0)
        return r;
    return co_nbd_server_open(exports->io, nbd_files_backend(exports->nbd_files), &options,
                              &exports->nbd_server);
}

static int open_vms(struct exports *exports, struct machine *machine)
{
    struct vms_options options = {
        .folder = FOLDER,
        .nbd_socket = NBD_SOCKET,
        .accel = HV_ACCEL_TCG,
        .host = keepers_host(vms_keepers(machine->world->vms), machine->number)};

    return vms_new(machine->node, &options, &exports->vms);
}

int co_exports_open(struct machine *machine, struct exports **ret_exports)
{
    struct exports *exports = calloc(1, sizeof(*exports));
    int r;

    if (!exports)
        abort();
    exports->io = node_io(machine->node);
    list_init(&exports->asks);
    co_cond_init(&exports->asks_changed);
    *ret_exports = exports; /* the node tells it of changes from now on */
    r = co_open_nbd(exports, machine->node);
    if (r == 0)
        r = open_vms(exports, machine);
    if (r < 0)
        return r;
    exports->api = (struct api_context){
        .node = machine->node, .folder = FOLDER, .hv = vms_hv, .vms = exports->vms};
    (void)api_routes_router(&exports->api);
    api_routes_start(&exports->api);
    return 0;
}

void co_exports_stop(struct exports *exports)
{
    if (!exports)
        return;
    exports->stopping = true;
    list_for_each (node, &exports->asks)
        co_cancel(list_entry(node, struct ask, node)->co);
    while (!list_empty(&exports->asks))
        co_cond_wait_always(&exports->asks_changed);
    co_api_routes_stop(&exports->api);
    co_vms_free(exports->vms);
    exports->vms = NULL;
    if (exports->nbd_server)
        nbd_server_shutdown(exports->nbd_server);
}

void exports_cut_off(struct exports *exports)
{
    if (exports && exports->nbd_server)
        nbd_server_shutdown(exports->nbd_server);
}

void co_exports_close(struct exports *exports)
{
    if (!exports)
        return;
    co_nbd_server_close(exports->nbd_server);
    nbd_files_free(exports->nbd_files);
    free(exports);
}

void exports_changed(struct exports *exports)
{
    if (exports && exports->vms)
        vms_changed(exports->vms);
}

void exports_lease(struct exports *exports, uint64_t expires_ns)
{
    if (exports && exports->vms)
        vms_lease(exports->vms, expires_ns);
}

/* ---- the API ---- */

static int co_dispatch(struct exports *exports, struct api_request *request, json_t **ret_json)
{
    struct api_response response = {0};
    struct ask ask = {.co = co_self()};
    int r;

    list_push_back(&exports->asks, &ask.node);
    co_api_dispatch(api_routes_router(&exports->api), request, &response);
    list_remove(&ask.node);
    co_cond_broadcast(&exports->asks_changed);
    r = response.error;
    if (ret_json && r == 0)
        *ret_json = json_incref(response.json);
    api_response_done(&response);
    return r;
}

int co_exports_ask(struct machine *machine, enum api_method method, const char *target,
                   json_t *body, json_t **ret_json)
{
    struct exports *exports = machine->exports;
    struct api_request request = {0};
    int r;

    if (ret_json)
        *ret_json = NULL;
    if (!exports || !exports->vms || exports->stopping) {
        json_decref(body);
        return -EAGAIN;
    }
    r = api_request_init(&request, method, target);
    if (r < 0)
        abort();
    request.body = body;
    r = co_dispatch(exports, &request, ret_json);
    api_request_done(&request);
    return r;
}
