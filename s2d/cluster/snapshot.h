/* snapshot: the whole database as bytes, for a node that is too far behind the log.
 *
 *     'S2SN' | u32 version | rows: u32 key bytes | u32 value bytes | key | value … | u32 0 | u32
 * CRC32C of all before it
 *
 * Little-endian. Keys and values are those of the store (database_key(), JSON). Pure; nothing
 * suspends. What is received is outside bytes: checked whole before anything of it is used. */
#ifndef S2D_CLUSTER_SNAPSHOT_H
#define S2D_CLUSTER_SNAPSHOT_H

#include "s2d/cluster/database.h"
#include "s2d/cluster/kv.h"
#include "s2d/cluster/raft_types.h"

#define SNAPSHOT_BYTES_MAX (1024 * MIB)

struct snapshot_writer;
/* The database as it is now, which is at `at`. Returns 0, -ENOMEM. */
must_check int snapshot_writer_new(const struct database *database, const struct raft_snapshot *at,
                                   struct snapshot_writer **ret_writer);
void snapshot_writer_free(struct snapshot_writer *writer);
const struct raft_snapshot *snapshot_writer_at(const struct snapshot_writer *writer);
/* At most max bytes from offset: their number, where they are, and whether they are the last. */
uint32_t snapshot_writer_piece(const struct snapshot_writer *writer, uint64_t offset, uint32_t max,
                               const void **ret_data, bool *ret_done);

struct snapshot_reader;
must_check int snapshot_reader_new(struct snapshot_reader **ret_reader);
void snapshot_reader_free(struct snapshot_reader *reader);
/* Returns 0, -ENOMEM, -EFBIG. */
must_check int snapshot_reader_add(struct snapshot_reader *reader, const void *data, size_t bytes);
/* Everything is here: is it right? Returns 0, -EBADMSG, -ENOMEM. */
must_check int snapshot_reader_check(const struct snapshot_reader *reader);
/* Fills an empty database, and puts every row under prefix + key into batch. After a check this can
 * only fail with -ENOMEM. */
must_check int snapshot_reader_install(const struct snapshot_reader *reader,
                                       struct database *database, struct kv_batch *batch,
                                       const char *prefix);

#endif
