/* health: what the database and the nodes' own reports add up to, in words that administrators
 * know. Pure functions over what is given; nothing suspends.
 *
 * Three tables say all: states of things, and events. docs/events.md is the same for users
 * (test_health compares them). */
#ifndef S2D_NODE_HEALTH_H
#define S2D_NODE_HEALTH_H

#include "s2d/cluster/database.h"

enum health { HEALTH_HEALTHY, HEALTH_WARNING, HEALTH_UNHEALTHY };
extern const char *const health_words[]; /* "Healthy", "Warning", "Unhealthy" */

struct health_state {
    const char *kind; /* "cluster", "node", "disk", "pool", "volume", "vm" */
    const char *state;
    enum health health;
    const char *meaning; /* a sentence */
    const char *action;  /* what to do; "" if nothing */
};
extern const struct health_state health_states[]; /* kind NULL ends it */

struct health_event {
    const char *code;
    unsigned severity; /* enum severity, the highest it comes with */
    const char *meaning;
    const char *action;
};
extern const struct health_event health_events[]; /* code NULL ends it */

struct health_verdict {
    const struct health_state *state;
    char text[MESSAGE_MAX_BYTES]; /* why; "" when it is healthy */
};

/* What a node reports of its own things; NULL where one is asked for: it did not answer. */
struct health_volume {
    bool serving, read_only;
    const char *waiting; /* for what, in words; NULL: for nothing */
    uint64_t stale_disks, lost_blocks;
    uint64_t detached_slabs; /* that have too few columns to be served, */
    uint64_t detached_disk;  /* for one is here, and cannot be reached */
};
struct health_disk {
    bool open;
    const char *reason;                    /* why not */
    uint64_t rotten_blocks, healed_blocks; /* now; since the daemon started */
    uint64_t withheld_slabs;               /* as in struct node_disk_status */
};
struct health_vm { /* all false: its node does not say so */
    bool running;
    bool no_space; /* paused until a write finds room */
};

struct health_quorum {
    unsigned votes, votes_up;
    bool has_leader;
};

void health_of_quorum(const struct health_quorum *quorum, struct health_verdict *ret_verdict);
void health_of_node(const struct node_record *node, struct health_verdict *ret_verdict);
void health_of_disk(const struct database *database, const struct disk_record *disk,
                    const struct health_disk *report, struct health_verdict *ret_verdict);
void health_of_pool(const struct database *database, struct health_verdict *ret_verdict);
void health_of_volume(const struct database *database, const struct volume_record *volume,
                      const struct health_volume *report, struct health_verdict *ret_verdict);
void health_of_vm(const struct database *database, const struct vm_record *vm,
                  const struct health_vm *report, struct health_verdict *ret_verdict);

/* Space, also for `s2d pool status`. */
struct health_space {
    uint64_t size_bytes, used_bytes,
        promised_bytes; /* promised: with all copies, if written full */
    uint64_t disks, disks_ok;
};
struct health_space health_space_of(const struct database *database);

/* docs/events.md, as this version says it. *ret_text: for free(). Returns 0 or -ENOMEM. */
must_check int health_render(char **ret_text);

#endif
