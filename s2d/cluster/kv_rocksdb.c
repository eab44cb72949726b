/* RocksDB through its C interface, as small as it goes: one column family, 4 MiB memtables, 64 open
 * files (26 MiB for a million keys).
 *
 * Write-ahead-log recovery is "tolerate corrupted tail": a torn tail is cut, damage in the middle
 * refuses to open. The default
 * ("point in time") would open silently with half of the data. */
#include <rocksdb/c.h>
#include <stdio.h>
#include <unistd.h>

#include "s2d/cluster/kv.h"

#define WRITE_BUFFER_BYTES (4 * MIB)
#define CACHE_BYTES (8 * MIB)
#define OPEN_FILES 64
#define RECOVERY_TOLERATE_CORRUPTED_TAIL 0

struct kv_rocksdb {
    struct kv kv;
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_writeoptions_t *synced;
    rocksdb_readoptions_t *reading;
    rocksdb_cache_t *cache;
    rocksdb_block_based_table_options_t *blocks;
};

static struct kv_rocksdb *rocksdb_of(struct kv *kv)
{
    return container_of(kv, struct kv_rocksdb, kv);
}

static int take_error(char *error)
{
    if (!error)
        return 0;
    rocksdb_free(error);
    return -EIO;
}

static int rocksdb_kv_write(struct kv *kv, const struct kv_batch *batch)
{
    struct kv_rocksdb *store = rocksdb_of(kv);
    rocksdb_writebatch_t *write = rocksdb_writebatch_create();
    char *error = NULL;

    for (size_t i = 0; i < batch->count; i++) {
        const struct kv_change *change = &batch->changes[i];
        size_t length = strlen(change->key);

        if (change->value)
            rocksdb_writebatch_put(write, change->key, length, change->value, change->bytes);
        else if (change->end_key)
            rocksdb_writebatch_delete_range(write, change->key, length, change->end_key,
                                            strlen(change->end_key));
        else
            rocksdb_writebatch_delete(write, change->key, length);
    }
    rocksdb_write(store->db, store->synced, write, &error);
    rocksdb_writebatch_destroy(write);
    return take_error(error);
}

#define KEY_BYTES_MAX 256

static int rocksdb_kv_each(struct kv *kv, const char *prefix,
                           int (*fn)(void *arg, const char *key, const void *value, size_t bytes),
                           void *arg)
{
    struct kv_rocksdb *store = rocksdb_of(kv);
    rocksdb_iterator_t *cursor = rocksdb_create_iterator(store->db, store->reading);
    size_t prefix_bytes = strlen(prefix);
    char *error = NULL;
    int r = 0;

    for (rocksdb_iter_seek(cursor, prefix, prefix_bytes); r == 0 && rocksdb_iter_valid(cursor);
         rocksdb_iter_next(cursor)) {
        size_t key_bytes, value_bytes;
        const char *key = rocksdb_iter_key(cursor, &key_bytes);
        const char *value = rocksdb_iter_value(cursor, &value_bytes);
        char text[KEY_BYTES_MAX];

        if (key_bytes < prefix_bytes || memcmp(key, prefix, prefix_bytes) != 0)
            break;
        if (key_bytes >= sizeof(text)) {
            r = -EBADMSG;
            break;
        }
        memcpy(text, key, key_bytes);
        text[key_bytes] = '\0';
        r = fn(arg, text, value, value_bytes);
    }
    rocksdb_iter_get_error(cursor, &error);
    rocksdb_iter_destroy(cursor);
    if (take_error(error) < 0 && r == 0)
        r = -EBADMSG;
    return r;
}

static void rocksdb_kv_close(struct kv *kv)
{
    struct kv_rocksdb *store = rocksdb_of(kv);

    if (store->db)
        rocksdb_close(store->db);
    rocksdb_readoptions_destroy(store->reading);
    rocksdb_writeoptions_destroy(store->synced);
    rocksdb_options_destroy(store->options);
    rocksdb_block_based_options_destroy(store->blocks);
    rocksdb_cache_destroy(store->cache);
    free(store);
}

static const struct kv_ops rocksdb_kv_ops = {
    .close = rocksdb_kv_close, .write = rocksdb_kv_write, .each = rocksdb_kv_each};

static void configure(struct kv_rocksdb *store)
{
    store->options = rocksdb_options_create();
    store->synced = rocksdb_writeoptions_create();
    store->reading = rocksdb_readoptions_create();
    store->cache = rocksdb_cache_create_lru(CACHE_BYTES);
    store->blocks = rocksdb_block_based_options_create();
    rocksdb_writeoptions_set_sync(store->synced, 1);
    rocksdb_block_based_options_set_block_cache(store->blocks, store->cache);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(store->blocks, 1);
    rocksdb_options_set_block_based_table_factory(store->options, store->blocks);
    rocksdb_options_set_create_if_missing(store->options, 1);
    rocksdb_options_set_write_buffer_size(store->options, WRITE_BUFFER_BYTES);
    rocksdb_options_set_max_write_buffer_number(store->options, 2);
    rocksdb_options_set_max_open_files(store->options, OPEN_FILES);
    rocksdb_options_set_max_background_jobs(store->options, 2);
    rocksdb_options_set_keep_log_file_num(store->options, 2);
    rocksdb_options_set_compression(store->options, rocksdb_no_compression);
    rocksdb_options_set_wal_recovery_mode(store->options, RECOVERY_TOLERATE_CORRUPTED_TAIL);
}

/* Its words for a damaged block, and paths, have a "lock" in them too. */
static int open_error(const char *error)
{
    if (strstr(error, "While lock file") || strstr(error, "lock hold by"))
        return -EBUSY;
    return strstr(error, "orruption") ? -EBADMSG : -EIO;
}

static int open_store(const char *path, bool read_only, char *ret_message, size_t message_bytes,
                      struct kv **ret_kv)
{
    struct kv_rocksdb *store = calloc(1, sizeof(*store));
    char *error = NULL;
    int r;

    if (!store)
        return -ENOMEM;
    store->kv.ops = &rocksdb_kv_ops;
    configure(store);
    store->db = read_only ? rocksdb_open_for_read_only(store->options, path, 0, &error)
                          : rocksdb_open(store->options, path, &error);
    if (store->db) {
        *ret_kv = &store->kv;
        return 0;
    }
    snprintf(ret_message, message_bytes, "%s", error ? error : "unknown");
    r = error ? open_error(error) : -EIO;
    if (error)
        rocksdb_free(error);
    rocksdb_kv_close(&store->kv);
    return r;
}

int kv_rocksdb_open(const char *path, char *ret_message, size_t message_bytes, struct kv **ret_kv)
{
    return open_store(path, false, ret_message, message_bytes, ret_kv);
}

int kv_rocksdb_open_read_only(const char *path, char *ret_message, size_t message_bytes,
                              struct kv **ret_kv)
{
    if (access(path, F_OK) < 0) { /* RocksDB would make the folder first */
        snprintf(ret_message, message_bytes, "%s: %s", path, strerror(errno));
        return -ENOENT;
    }
    return open_store(path, true, ret_message, message_bytes, ret_kv);
}
