/* superblock: making and judging the first words of a disk (disk_format.h). Nothing here does I/O.
 */
#ifndef S2D_POOL_SUPERBLOCK_H
#define S2D_POOL_SUPERBLOCK_H

#include "pool/disk.h"
#include "pool/disk_format.h"

/* Fills in magic, version, copy and checksum of a superblock whose other fields are set. copy: 0 A,
 * 1 B. */
void superblock_finish(struct superblock *superblock, unsigned copy);

/* Judges one copy as read from the medium. Returns 0, -ENODEV (no magic of ours), -EPROTONOSUPPORT
 * (another format or an unknown feature: message says which), -EBADMSG (ours, but damaged). */
must_check int superblock_check(const struct superblock *superblock, unsigned copy,
                                struct disk_message *message);

/* Chooses between the two copies. Returns 0 with *ret_best, and *ret_repair when one copy must be
 * written again from the other; or as superblock_check() says of what is there: an unreadable
 * format before damage, damage before "not ours". */
must_check int superblock_choose(const struct superblock *a, const struct superblock *b,
                                 const struct superblock **ret_best, bool *ret_repair,
                                 struct disk_message *message);

/* The geometry a (checked) superblock describes. Returns 0, -EBADMSG (regions overlap or lie
 * outside; a role that there is not). */
must_check int superblock_geometry(const struct superblock *superblock,
                                   struct disk_geometry *ret_geometry);

/* Room behind the superblocks of a cache disk of size_bytes: fills in its regions, logs of
 * log_bytes (0: as disk.h says) in at most half of it, and read cache. Returns 0, -EINVAL,
 * -ENOSPC.
 */
must_check int superblock_plan_cache(struct superblock *superblock, uint64_t size_bytes,
                                     uint64_t log_bytes);
/* Of a (checked) superblock: 0, -EBADMSG. */
must_check int superblock_log(const struct superblock *superblock, struct disk_log *ret_log);
must_check int superblock_cache_regions(const struct superblock *superblock,
                                        struct cache_region regions[SUPERBLOCK_CACHE_REGIONS],
                                        size_t *ret_count);

/* Sets a message; message may be NULL. */
void disk_say(struct disk_message *message, const char *format, ...) printf_like(2, 3);

#endif
