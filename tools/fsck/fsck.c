/* s2d-fsck (s2d fsck): looks at the disks of nodes that are stopped, without a cluster.
 *
 * Given are the folders of nodes. Their databases say which disks and volumes there are (the one
 * that had applied most is taken); what is on the disks is read by the code of the daemon, on a
 * loop that keeps all writes in RAM, so nothing changes and "checked clean" means "would run". The
 * disks are locked meanwhile: a daemon that runs is told by name.
 *
 * --repair changes what no other copy is needed for: a superblock that has a good twin. All else
 * that can be mended is mended by the daemon, which knows the other copies. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/json.h"
#include "s2d/cluster/consensus.h"
#include "s2d/cluster/kv.h"
#include "tools/fsck/fsck.h"

enum { FSCK_CLEAN = 0, FSCK_PROBLEMS = 1, FSCK_USAGE = 2 };

static const char usage[] =
    "usage: s2d fsck [--repair] NODE-FOLDER…\n"
    "\n"
    "Checks the disks of nodes that are stopped: superblocks, logs, extent tables, checksums, all\n"
    "copies of all volumes, and the file systems on them. Give the folders of as many nodes as "
    "can\n"
    "be reached from here (/var/lib/s2d on a server). Nothing is changed; --repair writes damaged\n"
    "superblocks again from their twins. Exit status 0: nothing is wrong; 1: something is.\n";

void fsck_problem(struct fsck *fsck, const char *what, const char *advice, const char *format, ...)
{
    va_list list;

    fsck->problems++;
    printf("%s: ", what);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("%s%s\n", advice[0] ? "; " : "", advice);
}

void fsck_note(const char *what, const char *format, ...)
{
    va_list list;

    printf("  (%s: ", what);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    puts(")");
}

/* ---- what the nodes' folders say ---- */

static int read_node(void *arg, const char *key, const void *value, size_t bytes)
{
    json_t *json = json_loadb(value, bytes, 0, NULL);

    (void)key;
    *(uint64_t *)arg = (uint64_t)json_integer_value(json_object_get(json, "node"));
    json_decref(json);
    return 0;
}

/* Returns 0, or says why not. */
static int read_folder(struct fsck *fsck, const char *folder, uint64_t *applied)
{
    struct database *database = NULL;
    char path[4096], message[400];
    uint64_t node = 0, at = 0;
    struct kv *kv = NULL;
    int r;

    snprintf(path, sizeof(path), "%s/db", folder);
    r = kv_rocksdb_open_read_only(path, message, sizeof(message), &kv);
    if (r < 0) {
        fsck_problem(fsck, folder, "is it the folder of a node?",
                     "its cluster database cannot be read: %s", message);
        return r;
    }
    r = kv_each(kv, "node/identity", read_node, &node);
    if (r == 0)
        r = consensus_read_database(kv, &database, &at);
    kv_close(kv);
    if (r < 0 || node == 0) {
        fsck_problem(fsck, folder, "evict the node and let it join again",
                     "its cluster database is damaged");
        database_free(database);
        return -EBADMSG;
    }
    fsck->nodes[fsck->node_count++] = node;
    if (!fsck->database || at > *applied) {
        database_free(fsck->database);
        fsck->database = database;
        *applied = at;
    } else {
        database_free(database);
    }
    return 0;
}

static void co_check(void *arg)
{
    struct fsck *fsck = arg;
    const struct volume_record *volume;

    co_fsck_open_disks(fsck);
    for (size_t i = 0; (volume = database_at(fsck->database, TABLE_VOLUME, i)); i++)
        co_fsck_volume(fsck, volume);
    co_fsck_close_disks(fsck);
    io_stop(fsck->io);
}

static void co_mend(void *arg)
{
    struct fsck *fsck = arg;

    co_fsck_mend_disks(fsck);
    io_stop(fsck->io);
}

static int run(struct fsck *fsck, co_fn *fn, bool keeps_writes)
{
    int r = io_uring_new(NULL, &fsck->io);

    if (r == 0 && keeps_writes)
        io_keep_writes(fsck->io);
    if (r == 0)
        r = co_spawn(fsck->io, "fsck", fn, fsck);
    if (r == 0)
        io_run(fsck->io);
    io_free(take_ptr(fsck->io));
    return r;
}

int main(int argc, char **argv)
{
    static struct fsck fsck;
    uint64_t applied = 0;
    int r = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--repair") == 0) {
            fsck.repair = true;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            return FSCK_CLEAN;
        } else if (argv[i][0] == '-' || fsck.node_count == FSCK_NODES_MAX) {
            fputs(usage, stderr);
            return FSCK_USAGE;
        } else if (read_folder(&fsck, argv[i], &applied) < 0) {
            r = -EBADMSG;
        }
    }
    if (argc < 2 || (fsck.node_count == 0 && r == 0)) {
        fputs(usage, stderr);
        return FSCK_USAGE;
    }
    if (fsck.database && fsck.repair)
        r = run(&fsck, co_mend, false);
    if (fsck.database && r == 0)
        r = run(&fsck, co_check, true);
    printf("checked %zu disks and %zu volumes: %llu problems\n", fsck.disk_count, fsck.volumes,
           (unsigned long long)fsck.problems);
    database_free(fsck.database);
    return r < 0 || fsck.problems > 0 ? FSCK_PROBLEMS : FSCK_CLEAN;
}
