/* database: the replicated state of the cluster, in RAM, as a pure state machine. Commands (JSON
 * objects) come in the order that Raft decided; the same commands give the same state on every
 * node. No clock, no randomness: times, ids and keys that a command needs are in the command.
 * Nothing suspends.
 *
 * I3 lives in database_vdisk.c: every change of an owner or of an in-sync set names the epoch it
 * was decided in, is void in any other, and raises it.
 *
 * Records handed out are the database's: valid until the next database_apply() or database_load().
 */
#ifndef S2D_CLUSTER_DATABASE_H
#define S2D_CLUSTER_DATABASE_H

#include "s2d/cluster/schema.h"

struct database;

must_check int database_new(struct database **ret_database);
void database_free(struct database *database);
DEFINE_CLEANUP(struct database, database_free)

/* ---- reading ---- */

const void *database_find(const struct database *database, enum table table, uint64_t id);
const void *database_find_name(const struct database *database, enum table table, const char *name);
/* Records of a table in the order of their ids: for (i = 0; (r = database_at(d, t, i)); i++). NULL
 * past the last. */
const void *database_at(const struct database *database, enum table table, size_t i);
size_t database_count(const struct database *database, enum table table);
/* The position of the first record with an id of at least `id`. */
size_t database_lower_bound(const struct database *database, enum table table, uint64_t id);

/* NULL before the cluster was created. */
const struct cluster_record *database_cluster(const struct database *database);
const struct slab_record *database_slab(const struct database *database, uint64_t vdisk,
                                        uint64_t number);
/* Slabs of a vdisk follow each other: positions [first, first + count) of TABLE_SLAB. */
size_t database_slabs(const struct database *database, uint64_t vdisk, size_t *ret_count);
static inline uint64_t slab_id(uint64_t vdisk, uint64_t number)
{
    return vdisk << 32 | number;
}
const struct disk_record *database_disk_of(const struct database *database, uint64_t node,
                                           const char *name);
/* It has failed or is being retired: what is on it gets new places. */
bool database_disk_is_to_be_empty(const struct disk_record *disk);
/* Columns there may be called in-sync: the disk has not failed, and its node is not down. */
bool database_disk_may_join(const struct database *database, uint64_t disk);
uint64_t database_used_extents(const struct database *database, uint64_t disk);
bool database_extent_is_free(const struct database *database, uint64_t disk, uint64_t extent);
/* The first free extent of a disk at or after `from`; -ENOSPC. */
int64_t database_free_extent(const struct database *database, uint64_t disk, uint64_t from);

/* ---- commands ---- */

struct command_result {
    int code;                        /* 0, or a negative errno */
    char message[MESSAGE_MAX_BYTES]; /* of a refusal: what, why, what to do */
    json_t *reply;                   /* of a success; NULL: nothing to say */
};
void command_result_done(struct command_result *result);

/* Applies one committed command; index: its place in the Raft log, which is the generation of
 * extents that it allocates (I10). A command that is refused changes nothing. *ret_result: for
 * command_result_done(). */
void database_apply(struct database *database, uint64_t index, const json_t *command,
                    struct command_result *ret_result);

/* The records that the last database_apply() put or removed, in order, each once. */
struct database_change {
    enum table table;
    uint64_t id;
    bool removed;
};
const struct database_change *database_changes(const struct database *database, size_t *ret_count);

/* ---- storage and snapshots ---- */

/* Puts a stored record back: key as made by database_key(); disks before slabs, as keys in their
 * order and the tables in theirs do. Returns 0, -EBADMSG, -ENOMEM. */
must_check int database_load(struct database *database, const char *key, const char *json,
                             size_t json_bytes);
#define DATABASE_KEY_MAX 48
/* "<table>/<id in 16 hexadecimal digits>" */
void database_key(enum table table, uint64_t id, char *ret_key);
/* Forgets everything, before a snapshot is loaded. */
void database_clear(struct database *database);

/* I3 and the agreement of the tables with each other, for what was loaded. Returns 0, -EBADMSG. */
must_check int database_verify(const struct database *database);
/* The same, asserted. Tests and the simulator call it after every command. */
void database_check(const struct database *database);

#endif
