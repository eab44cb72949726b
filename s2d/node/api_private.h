/* What the handlers share. Only api_*.c include this. */
#ifndef S2D_NODE_API_PRIVATE_H
#define S2D_NODE_API_PRIVATE_H

#include "s2d/node/api_routes.h"
#include "s2d/node/health.h"
#include "s2d/node/node.h"

/* The tables of routes, by file. */
extern const struct api_route api_cluster_routes[], api_node_routes[], api_disk_routes[],
    api_volume_routes[], api_file_routes[], api_vm_routes[], api_misc_routes[],
    api_snapshot_routes[];
/* What nodes ask of each other: no path but these is taken from the bus, and none of them asks on.
 */
extern const struct api_route api_local_routes[];

/* ---- asking another node (api_forward.c) ---- */

/* Runs a local route ("/v1/local/…") on a node: here, or over the bus. body: stolen; NULL: none.
 * What goes wrong on the way is answered too (-EHOSTUNREACH, -ETIMEDOUT). Returns response->error.
 */
int co_api_forward(struct api_context *context, uint64_t to, enum api_method method,
                   const char *target, json_t *body, uint64_t timeout_ns,
                   struct api_response *response);
/* Whether there is a connection to the node now; true for this one. */
bool api_node_answers(struct api_context *context, uint64_t id);
#define API_STATUS_NS (3 * SEC)
#define API_ACTION_NS (60 * SEC)

/* ---- what is asked first ---- */

/* The database; NULL, and answered, when this node belongs to no cluster. */
struct database *api_database(struct api_context *context, struct api_response *response);
/* The record that the request's parameter names (a node, volume, VM); NULL and answered. */
const void *api_record(struct api_context *context, const struct api_request *request,
                       struct api_response *response, enum table table, const char *parameter);
const struct disk_record *api_disk(struct api_context *context, const struct api_request *request,
                                   struct api_response *response);
/* The volume that the request names, as the file service sees it, for csv_volume_put(); NULL and
 * answered (api_file.c). */
struct csv_volume *api_csv_volume(struct api_context *context, const struct api_request *request,
                                  struct api_response *response);
/* A node by its name; NULL and answered. */
const struct node_record *api_node_named(struct api_context *context, const char *name,
                                         struct api_response *response);

/* Answers what the node said about a failure, or for want of words what the error means. */
void api_answer_failure(struct api_response *response, int error, const char *message);

/* Proposes a command (stolen). On a refusal it is answered. Returns 0 or the error. ret_reply: the
 * caller's, may be NULL. */
int co_api_propose(struct api_context *context, json_t *command, struct api_response *response,
                   json_t **ret_reply);

/* ---- JSON ---- */

/* "2026-11-21T10:00:00.123Z"; null for 0. */
json_t *api_time(uint64_t time_ns);
/* record_to_json(), with each time "x_ns" as "x" in RFC 3339. */
json_t *api_record_json(enum table table, const void *record);
void api_set_health(json_t *object, const struct health_verdict *verdict);
json_t *api_node_name(const struct database *database, uint64_t id); /* null: none */

/* ---- what the nodes report of their own things ---- */

struct api_reports { /* one object for each node that answered: {"node", "disks", "volumes", "vms"}
                      */
    json_t *nodes;   /* by id, as text */
};
/* Asks every node that is up; suspends. Never fails: who does not answer is not in it. */
void co_api_gather(struct api_context *context, struct api_reports *ret_reports);
void co_api_gather_from(struct api_context *context, uint64_t node,
                        struct api_reports *ret_reports);
void api_reports_done(struct api_reports *reports);
/* Of the thing with that id, in the report of that node. NULL: not in it. */
const json_t *api_report(const struct api_reports *reports, uint64_t node, const char *kind,
                         uint64_t id);

/* How the records of a table are shown (api_show.c). */
struct api_kind {
    enum table table;
    const char *noun;
    json_t *(*to_json)(const struct database *database, const void *record,
                       const struct api_reports *reports);
    uint64_t (*reporter)(const struct database *database, const void *record); /* a node, or 0 */
    bool (*is_hidden)(const void *record); /* from lists; NULL: none is */
};
/* Answer all of them, or one. Suspend; records are found again after that. */
void co_api_list(struct api_context *context, const struct api_kind *kind,
                 struct api_response *response);
void co_api_answer(struct api_context *context, const struct api_kind *kind, uint64_t id,
                   struct api_response *response);

/* Verdicts with what the reports say. */
void api_disk_health(const struct database *database, const struct disk_record *disk,
                     const struct api_reports *reports, struct health_verdict *ret_verdict);
void api_volume_health(const struct database *database, const struct volume_record *volume,
                       const struct api_reports *reports, struct health_verdict *ret_verdict);
void api_vm_health(const struct database *database, const struct vm_record *vm,
                   const struct api_reports *reports, struct health_verdict *ret_verdict);
/* Of the whole cluster: ret_faults: what is not healthy, as a list; may be NULL. Suspends. */
enum health co_api_cluster_health(struct api_context *context, json_t **ret_faults);
/* Moves a volume, and waits until the new owner serves it. Returns 0, or the error answered. */
int co_api_move_volume(struct api_context *context, uint64_t volume, uint64_t to,
                       struct api_response *response);
bool api_has_quorum(struct api_context *context); /* as far as this node can see */
void api_quorum(struct api_context *context, struct health_quorum *ret_quorum);

/* {"disks": {id: …}, "volumes": {…}, "vms": {…}} of this node. Suspends. */
json_t *co_api_local_status(struct api_context *context);
json_t *api_vm_status(struct api_context *context, uint64_t vm); /* NULL: not here */

#endif
