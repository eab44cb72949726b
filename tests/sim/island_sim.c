/* A leader that is cut off together with one node, of five: the two reach each other, and so might
 * go on as if nothing were. The leader is the owner too. From the moment that the others have
 * declared one of the two down it must hold no lease (I5), whatever the clients of all nodes ask
 * meanwhile; the others must serve within WANTED_NS; and when the network is back every answer that
 * anybody got must fit into one history (check_end()).
 *
 *   island_sim [--seed S] [--runs N] [--log] */
#include <getopt.h>

#include "s2d/cluster/liveness.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/sim_faults.h"
#include "tests/sim/sim_world.h"

#define NODES 5
#define LOOK_NS MS            /* between two looks; invariants are looked at after every step */
#define CUT_NS (5 * SEC)      /* how long it lasts */
#define WANTED_NS (3000 * MS) /* within which the others serve */
#define BEFORE_NS (1500 * MS) /* of load, before the cut */
#define FIRST_OWNER 1         /* it made the volume */

struct scene {
    struct world *world;
    uint64_t vdisk;
    bool island[NODES + 1]; /* by machine */
    uint64_t cut_ns, served_ns;
};

static unsigned find_leader(struct world *world)
{
    for (unsigned i = 1; i <= NODES; i++) {
        if (consensus_leads(node_consensus(world->machines[i].node)))
            return i;
    }
    world_fail(world, "nobody leads");
}

static void plug(struct scene *scene, bool cut)
{
    for (unsigned i = 1; i <= NODES; i++) {
        for (unsigned j = 1; j <= NODES; j++) {
            if (scene->island[i] == scene->island[j])
                continue;
            if (cut)
                sim_cut(scene->world->sim, i, j);
            else
                sim_heal(scene->world->sim, i, j);
        }
    }
}

/* What the machine's database says of another machine's node. */
static bool holds_for_down(const struct machine *machine, const struct machine *other)
{
    const struct node_record *record =
        database_find(node_database(machine->node), TABLE_NODE, node_id(other->node));

    return record && record->state == NODE_DOWN;
}

static void look(struct scene *scene)
{
    struct world *world = scene->world;

    for (unsigned i = 1; i <= NODES; i++) {
        struct machine *one = &world->machines[i];

        if (!scene->island[i]) {
            if (!scene->served_ns && node_serves(one->node, scene->vdisk))
                scene->served_ns = world_now_ns(world);
            continue;
        }
        for (unsigned j = 1; j <= NODES; j++) {
            if (!scene->island[j] && holds_for_down(&world->machines[j], one) &&
                liveness_lease_held(node_liveness(one->node)))
                world_fail(world, "I5: node %u is down for node %u, and holds its lease", i, j);
        }
        if (scene->served_ns && node_serves(one->node, scene->vdisk))
            world_fail(world, "I5: node %u serves, and so do the others", i);
    }
}

static void run(uint64_t seed, bool log)
{
    const struct run_options options = {.seed = seed,
                                        .nodes = NODES,
                                        .plain = true,
                                        .faults = "",
                                        .log = log,
                                        .program = "island_sim"};
    struct scene scene = {.world = world_new(&options)};
    struct world *world = scene.world;
    unsigned leader, other;

    world_set_up(world);
    world->faults = faults_plan(world);
    world_run(world, world_now_ns(world) + BEFORE_NS, NULL);
    leader = find_leader(world);
    other = leader == FIRST_OWNER ? 1 + (leader + (unsigned)world_draw(world, NODES - 1)) % NODES
                                  : FIRST_OWNER;
    scene.vdisk = world_vdisk(world, 0);
    scene.island[leader] = scene.island[other] = true;
    plug(&scene, true);
    scene.cut_ns = world_now_ns(world);
    while (world_now_ns(world) < scene.cut_ns + CUT_NS) {
        world_run(world, world_now_ns(world) + LOOK_NS, NULL);
        look(&scene);
        if (!scene.served_ns && world_now_ns(world) > scene.cut_ns + WANTED_NS)
            world_fail(world, "nobody has served for %d ms", (int)(WANTED_NS / MS));
    }
    plug(&scene, false);
    check_end(world);
    printf("seed %llu: nodes %u and %u cut off; the others served after %.3f s\n",
           (unsigned long long)seed, leader, other, (double)(scene.served_ns - scene.cut_ns) / 1e9);
    fflush(stdout);
    world_free(world);
}

static const struct option long_options[] = {
    {"seed", required_argument, NULL, 's'},
    {"runs", required_argument, NULL, 'r'},
    {"log", no_argument, NULL, 'l'},
    {NULL, 0, NULL, 0},
};

int main(int argc, char **argv)
{
    uint64_t seed = 1, runs = 1;
    bool log = false;
    int option;

    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (option == 's') {
            seed = strtoull(optarg, NULL, 10);
        } else if (option == 'r') {
            runs = strtoull(optarg, NULL, 10);
        } else if (option == 'l') {
            log = true;
        } else {
            fprintf(stderr, "usage: island_sim [--seed S] [--runs N] [--log]\n");
            return 2;
        }
    }
    for (uint64_t i = 0; i < runs; i++)
        run(seed + i, log);
    return 0;
}
