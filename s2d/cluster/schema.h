/* schema: the records of the cluster database, and one table for each that says how a record is
 * written. What the database stores, what the API speaks and what `s2d --json` prints is this JSON:
 * stable names, sizes in bytes, times as nanoseconds since 1970 (the API shows RFC 3339).
 *
 * Pure; nothing suspends. A record read from JSON keeps fields that this version does not know and
 * writes them back, so that an older node in a mixed cluster destroys nothing. */
#ifndef S2D_CLUSTER_SCHEMA_H
#define S2D_CLUSTER_SCHEMA_H

#include "s2d/base/base.h"
#include "s2d/base/json.h"

#define NAME_MAX_BYTES 64 /* names of nodes, volumes, VMs; with the 0 */
#define PATH_MAX_BYTES 512
#define ADDRESS_MAX_BYTES 120
#define MESSAGE_MAX_BYTES 256
#define COLUMNS_MAX 16 /* of a slab */
#define VM_DISKS_MAX 16
#define VOLUMES_MAX 64
#define VMS_MAX 1024
#define JOBS_MAX 1024
#define JOBS_KEPT 100 /* then those that have ended are forgotten */
#define TOKENS_MAX 64
#define NODES_MAX 16
#define NODE_DISKS_MAX 256
#define DISK_EXTENTS_MAX (UINT64_C(1) << 24) /* of one disk */
#define VDISK_SLABS_MAX (UINT64_C(1) << 18)  /* each costs its owner 170 bytes of RAM */

enum node_state { NODE_DOWN, NODE_UP, NODE_DRAINING, NODE_PAUSED };
enum disk_state { DISK_OK, DISK_FAILED, DISK_RETIRING, DISK_RETIRED };
enum disk_role_word { DISK_ROLE_CAPACITY, DISK_ROLE_CACHE };
enum disk_media_word { DISK_MEDIA_SSD, DISK_MEDIA_NVME, DISK_MEDIA_HDD };
enum column_record_state { COLUMN_RECORD_STALE, COLUMN_RECORD_IN_SYNC };
enum resiliency { RESILIENCY_SIMPLE, RESILIENCY_MIRROR2, RESILIENCY_MIRROR3, RESILIENCY_PARITY2 };
enum volume_state { VOLUME_CREATING, VOLUME_ONLINE, VOLUME_DELETING };
enum vm_state { VM_STOPPED, VM_RUNNING };
enum job_state { JOB_RUNNING, JOB_PAUSED, JOB_DONE, JOB_FAILED };
enum severity { SEVERITY_INFORMATION, SEVERITY_WARNING, SEVERITY_ERROR };

/* One record: what is the same for all. Every record struct begins with it. */
struct record_base {
    uint64_t id;     /* of its table, never used again */
    json_t *unknown; /* fields of a newer version; NULL: none */
    uint64_t noted;  /* the database's: the command that changed it last */
};

struct cluster_record { /* the only one: id 1 */
    struct record_base base;
    char name[NAME_MAX_BYTES];
    char uuid[40];
    uint64_t created_ns;
    uint64_t next_id;      /* of nodes, disks, vdisks, volumes, VMs, jobs, events */
    uint64_t extent_bytes; /* 0: there is no pool yet */
    /* Of a hard disk's read cache on its cache disk: at most so much; not limited: what there is */
    bool read_cache_limited;
    uint64_t read_cache_bytes;
    uint64_t vm_restart_delay_ms;
};

struct token_record { /* lets one node join; a secret: no API and no log shows this table */
    struct record_base base;
    char secret[72]; /* 64 hexadecimal digits */
    uint64_t expires_ns;
};

struct node_record {
    struct record_base base;
    char name[NAME_MAX_BYTES];
    char address[ADDRESS_MAX_BYTES]; /* of its bus */
    char site[NAME_MAX_BYTES], rack[NAME_MAX_BYTES], chassis[NAME_MAX_BYTES];
    unsigned state; /* enum node_state */
    uint64_t start_counter;
    uint64_t joined_ns;
};

struct disk_record {
    struct record_base base;
    uint64_t node;
    char name[NAME_MAX_BYTES]; /* unique on its node: the last part of the path */
    char path[PATH_MAX_BYTES];
    char uuid[40];
    unsigned role, media, state;
    uint64_t size_bytes;
    uint64_t extents; /* that can be placed */
    uint64_t log_bytes;
    char reason[MESSAGE_MAX_BYTES]; /* of the state */
};

struct column_record { /* part of a slab */
    uint64_t disk;
    uint64_t extent;
    uint64_t generation;
    unsigned state;         /* enum column_record_state */
    uint64_t stale_epoch;   /* of a stale column: what changed in or after it may be missing; 0:
                               everything */
    uint64_t in_sync_epoch; /* of an in-sync one: the epoch that made it so; 0: since it was placed.
                               What changed before is not all stamped there */
};

struct slab_record { /* its id is made of vdisk and number */
    struct record_base base;
    uint64_t vdisk;
    uint64_t number;
    struct column_record columns[COLUMNS_MAX];
    uint64_t column_count;
};

struct vdisk_record {
    struct record_base base;
    uint64_t volume;
    uint64_t size_bytes;
    uint64_t slab_bytes;
    unsigned resiliency;
    uint64_t data_columns; /* parity2: K of its K+2 columns; else 0 */
    uint64_t epoch;
    uint64_t session; /* the epoch in which the present owner took over */
    uint64_t owner;   /* node; 0: none yet */
    uint64_t preferred_owner;
};

struct volume_record {
    struct record_base base;
    char name[NAME_MAX_BYTES];
    uint64_t vdisk;
    uint64_t size_bytes;
    unsigned resiliency;
    bool thin;
    unsigned state;
    uint64_t created_ns;
};

struct vm_record {
    struct record_base base;
    char name[NAME_MAX_BYTES];
    uint64_t memory_bytes;
    uint64_t vcpus;
    uint64_t generation;                      /* 1: BIOS, 2: UEFI */
    char disks[VM_DISKS_MAX][PATH_MAX_BYTES]; /* "volume/path" */
    uint64_t disk_count;
    char switch_name[NAME_MAX_BYTES];
    unsigned wanted;      /* enum vm_state: what the administrator asked for */
    uint64_t node;        /* where the present incarnation runs or ran; 0: never */
    uint64_t incarnation; /* raised by each start anywhere; 0: never started */
    uint64_t ended; /* all incarnations up to it, of other VMs too; >= incarnation: nothing runs */
    char reason[MESSAGE_MAX_BYTES];
};

struct job_record {
    struct record_base base;
    char kind[NAME_MAX_BYTES];   /* "resync", "rebuild", … */
    char target[NAME_MAX_BYTES]; /* the volume, disk or node it works on */
    unsigned state;
    uint64_t done_bytes, total_bytes;
    uint64_t left_bytes; /* of a rebuild: columns that are not in-sync in their new places */
    char message[MESSAGE_MAX_BYTES];
    uint64_t created_ns, ended_ns;
};

static inline bool job_is_active(const struct job_record *job)
{
    return job->state == JOB_RUNNING || job->state == JOB_PAUSED;
}

struct event_record {
    struct record_base base;
    uint64_t time_ns;
    unsigned severity;
    char code[NAME_MAX_BYTES];    /* "node.down", "heal", …: the table in docs/events.md */
    char subject[NAME_MAX_BYTES]; /* what it is about */
    char text[MESSAGE_MAX_BYTES];
};

enum table {
    TABLE_CLUSTER,
    TABLE_TOKEN,
    TABLE_NODE,
    TABLE_DISK,
    TABLE_VDISK,
    TABLE_SLAB,
    TABLE_VOLUME,
    TABLE_VM,
    TABLE_JOB,
    TABLE_EVENT,
    TABLE_COUNT,
};

const char *table_name(enum table table); /* "node": the API's word too */
int table_by_name(const char *name);      /* enum table, or -ENOENT */
size_t table_record_bytes(enum table table);

/* A record of the table, all zeros but for its id. NULL: no memory. */
void *record_new(enum table table, uint64_t id);
void record_free(void *record);
/* Copies from over to (both of that table). */
void record_assign(enum table table, void *to, const void *from);

/* The record as a JSON object; NULL: no memory. */
json_t *record_to_json(enum table table, const void *record);
/* The same as compact text, for free(). A slab's is made without objects in between: a cluster has
 * hundreds of thousands, and a snapshot writes all of them in one go. */
char *record_to_text(enum table table, const void *record);
/* Fills a record from JSON. Fields that are not there stay; unknown ones are kept. Returns 0,
 * -EINVAL (type or bounds: *ret_field names the field; may be NULL), -ENOMEM. */
must_check int record_from_json(enum table table, const json_t *json, void *record,
                                const char **ret_field);

/* The word for an enum's value in JSON and tables: schema_word(resiliency_words,
 * RESILIENCY_MIRROR3) is "mirror3". */
extern const char *const node_state_words[],
    *const disk_state_words[], *const disk_role_words[],
                                   *const disk_media_words[],
                                       *const column_state_words[],
                                           *const resiliency_words[],
                                               *const volume_state_words[],
                                                   *const vm_state_words[],
                                                       *const job_state_words[],
                                                           *const severity_words[];
int schema_value(const char *const *words, const char *word); /* or -ENOENT */

/* Copies of the data a resiliency keeps: 1, 2, 3; parity2 has none (0). */
unsigned resiliency_copies(enum resiliency resiliency);

/* Columns of a slab that its data fills, and all of them: 1 and the copies of a mirror, K and K+2
 * of parity2. The data needs as many in-sync columns as the first. */
#define PARITY2_COLUMNS 2
#define PARITY2_DATA_COLUMNS_MAX (COLUMNS_MAX - PARITY2_COLUMNS)
unsigned vdisk_data_columns(const struct vdisk_record *vdisk);
unsigned vdisk_columns(const struct vdisk_record *vdisk);

/* Copies a text, cut to size at a character's end: what is stored stays valid UTF-8, and so can be
 * written as JSON. */
void text_set(char *place, size_t size, const char *text);
/* Makes a text valid UTF-8, '?' for each byte that is not: for what programs and devices say. */
void text_make_valid(char *text);
/* The address of a bus, as far as it can be told without using it: HOST:PORT. */
bool address_is_valid(const char *address);

/* A name that people give: 1 to 63 of a-z A-Z 0-9 . _ -, not beginning with a dot or dash. */
bool name_is_valid(const char *name);

#endif
