/* kv: the small key-value store below the cluster database: RocksDB in a daemon (kv_rocksdb.c), its
 * twin in memory in tests and the simulator (kv_memory.c). A batch is written whole or not at all,
 * and is durable when kv_write() returns.
 *
 * These calls block: a coroutine goes through co_offload(). One caller at a time. Keys are texts,
 * values bytes. */
#ifndef S2D_CLUSTER_KV_H
#define S2D_CLUSTER_KV_H

#include "s2d/base/base.h"

struct kv;
struct kv_batch;

struct kv_ops {
    void (*close)(struct kv *kv);
    int (*write)(struct kv *kv, const struct kv_batch *batch);
    int (*each)(struct kv *kv, const char *prefix,
                int (*fn)(void *arg, const char *key, const void *value, size_t bytes), void *arg);
};
struct kv {
    const struct kv_ops *ops;
};

/* Opens or creates the database in folder `path`. ret_message: why not, in words; PATH_MAX is
 * plenty. Returns 0, -EBUSY (another process has it), -EBADMSG (corrupt: rebuild the node), -EIO.
 */
must_check int kv_rocksdb_open(const char *path, char *ret_message, size_t message_bytes,
                               struct kv **ret_kv);

/* Only to be read; whoever else has it goes on. What a log that was not closed holds is read too.
 * As above, and -ENOENT: there is none, and none is made.
 */
must_check int kv_rocksdb_open_read_only(const char *path, char *ret_message, size_t message_bytes,
                                         struct kv **ret_kv);

/* The twin in memory. Its contents live in a struct kv_disk, which outlives it: what was written
 * before a crash is there at the next open. */
struct kv_disk;
must_check int kv_disk_new(struct kv_disk **ret_disk);
void kv_disk_free(struct kv_disk *disk);
must_check int kv_memory_open(struct kv_disk *disk, struct kv **ret_kv);
/* What is written to it from now on is not kept (-EIO), until it is opened again: its process, or
 * its host, died. */
void kv_disk_freeze(struct kv_disk *disk);

static inline void kv_close(struct kv *kv)
{
    if (kv)
        kv->ops->close(kv);
}

/* Returns 0 or -EIO: then nobody knows whether it is there, and the node must stop. */
must_check static inline int kv_write(struct kv *kv, const struct kv_batch *batch)
{
    return kv->ops->write(kv, batch);
}

/* Calls fn for every key that begins with prefix, in order, until it returns other than 0. Returns
 * that, 0, -EIO or -EBADMSG. value is valid during the call. */
must_check static inline int
kv_each(struct kv *kv, const char *prefix,
        int (*fn)(void *arg, const char *key, const void *value, size_t bytes), void *arg)
{
    return kv->ops->each(kv, prefix, fn, arg);
}

/* ---- batches ---- */

struct kv_change {
    char *key;
    void *value; /* NULL: delete; with end_key: delete [key, end_key) */
    char *end_key;
    size_t bytes;
};
struct kv_batch {
    struct kv_change *changes;
    size_t count, size;
};

/* Copies what they are given; later changes win over earlier ones of the same key. Out of memory
 * aborts: a node that cannot remember must not go on. */
void kv_batch_init(struct kv_batch *batch);
void kv_batch_done(struct kv_batch *batch);
void kv_put(struct kv_batch *batch, const char *key, const void *value, size_t bytes);
void kv_delete(struct kv_batch *batch, const char *key);
void kv_delete_range(struct kv_batch *batch, const char *from, const char *to); /* [from, to) */
/* Moves all changes of from to the end of to. */
void kv_batch_append(struct kv_batch *to, struct kv_batch *from);

#endif
