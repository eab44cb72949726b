/* What the verbs of the database share. Only the database's own files include this. */
#ifndef S2D_CLUSTER_DATABASE_INTERNAL_H
#define S2D_CLUSTER_DATABASE_INTERNAL_H

#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"
#include "s2d/cluster/database.h"

struct table_rows { /* sorted by id */
    struct record_base **rows;
    size_t count, size;
};

struct disk_usage { /* which extents of a disk slabs name; derived from TABLE_SLAB */
    uint64_t disk;
    uint64_t *bits;
    uint64_t extents;
    uint64_t used;
};

struct database {
    struct table_rows tables[TABLE_COUNT];
    struct disk_usage *usage;
    size_t usage_count;
    struct database_change *changes;
    size_t change_count, change_size;
    uint64_t commands; /* applied so far: the number of the present one */
};

/* One verb: reads *all* of its arguments from the command, checks, then changes. A refusal after a
 * change is asserted against: it would end every node of the cluster, again at each start. */
struct command {
    struct database *database;
    uint64_t index;
    const json_t *json;
    struct command_result *result;
};
typedef void command_fn(struct command *command);

/* Refuses the command: what, why, what to do. Nothing may have been changed yet. */
void command_refuse(struct command *command, int code, const char *format, ...) printf_like(3, 4);
bool command_refused(const struct command *command);

/* Arguments. A missing one, or one of the wrong type, refuses the command and gives 0, false or "".
 */
uint64_t command_u64(struct command *command, const char *name);
uint64_t command_u64_or(struct command *command, const char *name, uint64_t otherwise);
bool command_bool_or(struct command *command, const char *name, bool otherwise);
const char *command_text(struct command *command, const char *name);
const char *command_text_or(struct command *command, const char *name, const char *otherwise);
const json_t *command_list(struct command *command,
                           const char *name); /* never NULL unless refused */
/* Refuses a list that is no one to max numbers of slabs. */
void command_check_slabs(struct command *command, const json_t *list, size_t max);
const json_t *command_list_or(struct command *command, const char *name, const json_t *otherwise);
unsigned command_word(struct command *command, const char *name, const char *const *words);
/* The record that argument `name` gives the id of; refuses with -ENOENT. */
void *command_record(struct command *command, const char *name, enum table table);
/* A new name in a table: valid and not taken. */
const char *command_new_name(struct command *command, const char *name, enum table table);

#define VDISK_ID_MAX (UINT64_C(1) << 31) /* slab_id() is below 2^63, which JSON can hold */

#define SET_TEXT(field, text) text_set(field, sizeof(field), text)

/* Changing. A record is changed in place, and then put. */
void *database_find_mutable(struct database *database, enum table table, uint64_t id);
void database_put(struct database *database, enum table table,
                  void *record); /* new, or changed in place; takes over */
void database_remove(struct database *database, enum table table, uint64_t id);
uint64_t database_new_id(struct database *database);
/* The same as database_put() for a slab whose columns changed: keeps the usage right. old: as it
 * was before. */
void database_put_slab(struct database *database, struct slab_record *slab,
                       const struct slab_record *old);
void database_remove_slab(struct database *database, struct slab_record *slab);
void database_add_event(struct command *command, enum severity severity, const char *code,
                        const char *subject, const char *format, ...) printf_like(5, 6);
uint64_t command_time_ns(const struct command *command); /* "time_ns"; 0: it does not say */

/* The volume of a vdisk; NULL for NULL. */
static inline const struct volume_record *command_volume_of(struct command *command,
                                                            const struct vdisk_record *vdisk)
{
    return vdisk ? database_find(command->database, TABLE_VOLUME, vdisk->volume) : NULL;
}
/* Refuses a column of a slab whose place is not free, or is next to one of the first `count` on the
 * same disk (database_volume.c). */
void command_check_column(struct command *command, const struct slab_record *slab, uint64_t i,
                          uint64_t count);
bool database_node_of_disk_is_down(const struct database *database, uint64_t disk);

/* The verbs, by file. NULL-terminated. */
struct verb {
    const char *name;
    command_fn *fn;
};
extern const struct verb cluster_verbs[]; /* database_cluster.c: cluster, token, node, pool, disk */
extern const struct verb volume_verbs[];  /* database_volume.c: volume, slab */
extern const struct verb vdisk_verbs[];   /* database_vdisk.c: vdisk */
extern const struct verb vm_verbs[];      /* database_vm.c: vm, job, event */

/* A disk's or node's vdisks go on without it (database_vdisk.c): every column on the disks becomes
 * stale where another in-sync one is left, one new epoch for each vdisk touched; owned vdisks of
 * `node` (0: none) lose their owner. */
void database_exclude(struct command *command, const uint64_t *disks, size_t count, uint64_t node);
/* Columns on the disk that are stale already may have lost what they were given since: an "in-sync"
 * for them that is under way is of an old epoch from here on. */
void database_void_in_sync(struct command *command, uint64_t disk);

#endif
