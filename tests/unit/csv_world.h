/* csv_world: nodes with a bus and a file service each, on one loop, and one volume in RAM that any
 * of them can own. */
#ifndef S2D_TESTS_CSV_WORLD_H
#define S2D_TESTS_CSV_WORLD_H

#include "csv-export/csv.h"
#include "tests/unit/bus_harness.h"

#define CSV_NODES 3
#define CSV_VOLUME_ID 7

/* One owner's view of the volume's disk. */
struct csv_vdisk {
    struct vdisk vdisk;
    uint8_t *bytes;   /* shared by all owners */
    bool revoked;     /* answers -ESTALE from now on */
    bool hold;        /* writes wait, before they have happened */
    bool lose_answer; /* the next writes happen, then the disk is revoked and says -ESTALE */
    unsigned held;
    struct client_request last; /* of the writes that said whose they are */
    struct co_cond held_one, released;
};

struct csv_world {
    struct world *world;
    struct csv *csv[CSV_NODES + 1];
    struct csv_volume *volume[CSV_NODES + 1]; /* by node, from 1 */
    struct metrics *metrics[CSV_NODES + 1];
    uint8_t *bytes;
    uint64_t size_bytes;
    struct csv_vdisk *vdisk; /* the present owner's */
    struct fs *fs;
    unsigned owner; /* 0: nobody */
    uint64_t session;
    bool lease_lost; /* of whoever owns it */
    int authorize_result;
    char authorized[256]; /* the last question */
    const char *vm_disk;  /* of a VM that runs; NULL: none */
    void (*body)(struct csv_world *world);
};

/* Runs body in a coroutine of a new world, whose volume node 1 owns; then checks the file system
 * and that nothing is left. */
void csv_world_run(void (*body)(struct csv_world *world));

/* The same in pieces. Freeing checks. */
struct csv_world *csv_world_new(void);
void csv_world_do(struct csv_world *world, void (*body)(struct csv_world *world));
void csv_world_free(struct csv_world *world);

/* Is the file system sound, and nothing open? */
void co_csv_world_check(struct csv_world *world);
/* An empty volume again, which node 1 owns. */
void co_csv_world_format(struct csv_world *world);

/* The volume is taken from its owner (abruptly: its disk answers no more), and given to another
 * (node 0: to nobody). */
void co_csv_world_revoke(struct csv_world *world, bool abruptly);
void co_csv_world_give(struct csv_world *world, unsigned node);
void co_csv_world_move(struct csv_world *world, unsigned node, bool abruptly);

/* The connections between two nodes end, and come back. */
void co_csv_world_break(struct csv_world *world, unsigned a, unsigned b);

void csv_vdisk_release(struct csv_vdisk *vdisk);

/* How many requests of others a node has begun to serve. */
uint64_t csv_world_served(const struct csv_world *world, unsigned node);

#endif
