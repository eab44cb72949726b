/* planted_table: the mistakes of planted.h, by layer. A hunter "open:…" has not caught its mistake
 * within the tests' budget yet: a debt, hunted only by name (tests/sim/planted NAME). */
#ifndef S2D_BASE_PLANTED_TABLE_H
#define S2D_BASE_PLANTED_TABLE_H

/* clang-format off */
#define PLANTED_TABLE(X)                                                                           \
    /* the mirror: I1-I8 */                                                                        \
    X(ACK_EARLY, "mirror", "a write is committed before the last column has it [ACKEARLY]")        \
    X(ACK_BEFORE_STALE, "aimed", "a column proposed stale is no longer waited for [STALEAFTER]")  \
    X(CATCHING_COUNTS, "mirror", "a column that is catching up stands in for one that is in-sync [CATCHCOUNT]") \
    X(TAKEOVER_WRITES_NOTHING, "mirror", "a takeover does not write again [NOAGAIN]")              \
    X(TAKEOVER_WRITES_OLDEST, "aimed", "a takeover writes the oldest record of a block again [AGAINOLDEST]") \
    X(TAKEOVER_KEEPS_NAME, "aimed", "a takeover copies records under their old names, committed where they arrive [KEEPNAME]") \
    X(TAKEOVER_OWN_LOG, "aimed", "a takeover looks at the local log alone [OWNLOG]")              \
    X(AGAIN_SPARED_EARLY, "mirror", "what all in-sync columns but one have is not written again") \
    X(TAKEOVER_SERVES_EARLY, "mirror", "a slab serves before what was written again is committed [SERVEEARLY]") \
    X(MARK_EARLY, "aimed", "watermarks of a session flow before its takeover is done [MARKEARLY]") \
    X(MARK_AHEAD, "aimed", "a watermark covers writes that are in flight [SETMARK]")              \
    X(MARK_COVERS_NOT, "mirror", "a watermark leaves out records of earlier sessions [NOCOVER]")   \
    X(STALE_TAIL_KEPT, "aimed", "a column that returns does not drop its tail [NOTAIL]")          \
    X(STALE_TAKES_MARK, "aimed", "a stale column takes a watermark before it has dropped its tail [STALEMARK]") \
    X(STALE_IS_READ, "mirror", "clients read from a stale column [READSTALE]")                     \
    X(READ_TURNED_STALE, "mirror-test", "what a column shows that turned stale under a read is taken") \
    X(STALE_IS_SOURCE, "mirror", "resync and repair copy from a stale column [STALESRC]")          \
    X(READ_DIRTY, "mirror", "a read does not wait for the write in flight [READDIRTY]")            \
    X(READ_ASKS_TWO, "cluster", "a read that two columns fail does not ask the third")                \
    X(READ_NO_LEASE, "aimed", "an owner reads without its lease [NOLEASE]")                       \
    X(WRITE_NO_LOCK, "mirror", "a write forgets its range lock")                                   \
    X(COPY_NO_LOCK, "mirror", "a resync copy forgets its range lock")                              \
    X(RESYNC_NO_BARRIER, "aimed", "a resync does not wait for the writes that began before it [MISSED]") \
    X(RESYNC_SINCE_LATER, "mirror", "a resync compares only what changed after the stale epoch")   \
    X(SOURCE_LOST_LATE, "mirror-test", "a source that is lost just before in-sync is proposed is believed") \
    X(JOIN_LEFT_OUT, "mirror-test", "what could not be copied is proposed in-sync with the rest")    \
    X(JOIN_UNCOUNTED, "aimed", "a column is proposed in-sync before it is waited for [JOINNOREQ]") \
    X(JOIN_OLD_EPOCH, "aimed", "an in-sync proposal names no epoch: never void [NOCAS]")         \
    X(LAST_GOES_STALE, "mirror", "the last in-sync column is marked stale too")                    \
    X(RESEND_FORGOTTEN, "mirror", "after a reconnect nothing is sent again")                       \
    X(TAKEOVER_SKIPPED, "mirror", "a new session serves at once, without sealing anybody [RESUME]")   \
    X(REPEAT_RUNS, "aimed", "a repeated data request runs again")                                  \
    X(GIVEN_UP_COUNTS, "mirror-test", "the request of a record that a takeover could not read counts as done") \
    X(REQUESTS_NOT_LEARNED, "aimed", "a takeover does not learn which requests were done")         \
    /* parity: I6, I7, I8 of rows */                                                               \
    X(PARITY_ACK_DATA, "parity-aimed", "a write is committed when its data columns have it [DATAACK]")   \
    X(PARITY_NO_LOCK, "parity", "a write of part of a row forgets the row's lock [NOLOCK]")        \
    X(PARITY_DECODE_NO_LOCK, "parity-test", "a read that decodes does not wait for writes to its rows [DECODENOLOCK]") \
    X(PARITY_DELTA_ON_NOTHING, "parity-test", "a delta goes to a parity column whose old block was not read") \
    X(PARITY_OLD_FROM_STALE, "parity-test", "old contents are read from a stale column [STALEOLD]")     \
    X(PARITY_AGAIN_COMMITTED, "parity-aimed", "a takeover writes the committed contents again in any case [BASE]") \
    X(PARITY_AGAIN_GUESSED, "parity-aimed", "a takeover takes the newest version, known or not [GUESS]") \
    X(PARITY_AGAIN_ITS_OWN, "parity-aimed", "columns that only other versions touched are not written again [ONLYITS]") \
    X(PARITY_AGAIN_DATA, "parity-aimed", "data columns alone are written again [DATAONLY]")              \
    X(PARITY_AGAIN_LACKING, "parity-test", "only columns that lack the version are written again [LACK]") \
    X(PARITY_TRIM_UNDONE, "parity-test", "a trim that few columns have is undone, however large")    \
    X(PARITY_SPARED_EARLY, "parity", "a version that one column lacks is not written again")       \
    X(PARITY_AGAIN_RETIRES, "parity-aimed", "what is written again retires older records where it arrives [RETIRE]") \
    X(PARITY_BELOW_COMMITTED, "parity-aimed", "an untouched column counts with its committed contents [BELOWBASE]") \
    X(PARITY_UNTOUCHED_UNKNOWN, "parity", "a column that a version did not touch does not witness it [TOUCHED]") \
    X(PARITY_OWN_MARK, "parity-aimed", "a column's watermark speaks for that column alone [OWNWM]")      \
    X(PARITY_ONE_VERSION, "parity-aimed", "a log knows the newest version of a block alone [ONEVER]")    \
    X(PARITY_ONE_LIST, "parity-aimed", "one in-sync column tells what to compare [ONESRC]")              \
    X(PARITY_SKIPS_TRIMMED, "parity", "rows that only the returning column has are not compared")  \
    X(JOIN_NO_MARK, "parity-test", "a column joins without the watermark [JOINNOWM]")                   \
    X(RELEASE_DOOR_OPEN, "mirror-test", "writes go on into a slab that is being given back")            \
    /* the store: I2, I4, I9, I10 */                                                               \
    X(SEAL_IGNORED, "aimed", "a store takes messages of a lower epoch [NOSEAL]")                  \
    X(GAP_TAKEN, "store-test", "a store takes a record behind a gap in the sequence [NOSEQ]")      \
    X(SEAL_RECORDS_ONLY, "store", "marks and drops of a lower epoch are taken [SEALWRITES]")       \
    X(SEAL_VOLATILE, "store", "a seal is not durable when it is answered [SEALVOL]")               \
    X(TAIL_FORGOTTEN, "store", "a restarted store drops its uncommitted records [SELFDROP]")       \
    X(DESTAGE_EARLY, "aimed", "records count as committed once they are durable [DESTAGE]")       \
    X(STAMP_OF_RECORD, "aimed", "a page's stamp is the record's epoch [STAMPREC]")                \
    X(DROP_UNLISTED, "store", "dropped blocks are not put on the compare list [NOLISTTAIL]")       \
    X(LIST_NOT_CARRIED, "store", "a checkpoint does not carry the compare list on [LISTVOL]")      \
    X(LIST_NOT_VERIFIED, "store-test", "a compare list that rotted in the log is believed")      \
    X(LOG_NOT_SYNCED, "store", "a log batch is written without DSYNC")                             \
    X(PAGES_NOT_SYNCED, "store", "a checkpoint moves the tail before its pages are durable")       \
    X(IMAGE_MISSING, "store", "a checkpoint forgets the image of a checksum page")                 \
    X(MOVE_FORGOTTEN, "store", "a checkpoint does not move uncommitted records out of its way")    \
    X(OVERLAY_EARLY, "store", "overlay entries go before their blocks are in place")               \
    X(ZEROS_FORGOTTEN, "store", "a checkpoint forgets trims")                                      \
    X(TRIMS_OWE_NOTHING, "trims", "a log takes more small trims than it has room to put in their place") \
    X(TRIMS_EARLY, "trims", "a checkpoint takes trims behind its region along with those in it")     \
    X(AGAIN_TAKES_ALL, "pending", "what a takeover writes again may fill a log to its last block")    \
    X(REPLAY_TORN, "store", "a torn batch at the end of the log is replayed")                      \
    X(REPLAY_PAST_HOLE, "store-test", "a hole in the log that a later batch calls durable is passed over in silence") \
    X(REPLAY_PREDECESSOR, "log", "batches of an earlier incarnation are replayed")               \
    X(REPLAY_SHORT, "store", "replay ends before the last batch")                                  \
    X(GENERATION_NOT_CHECKED, "store", "requests for an extent's earlier life are served")              \
    X(GENERATION_NOT_CLEAN, "store", "an extent's new life begins with the old one's records")     \
    X(READ_CACHE_NOT_FORGOTTEN, "read-cache", "a destage leaves old blocks in the read cache")     \
    X(READ_CACHE_NOT_VERIFIED, "read-cache", "blocks from the read cache are believed")            \
    X(READ_CACHE_MISS_IS_ROT, "read-cache", "a mismatch in the read cache is called rot")          \
    X(READ_CACHE_SEEN_EARLY, "read-cache", "blocks count as cached before they are written")       \
    X(READ_CACHE_HIDES_ROT, "read-cache", "a scrub looks at the read cache, not at the medium")    \
    X(SUMS_NOT_VERIFIED, "mirror", "a read does not verify checksums")                             \
    /* logs on cache disks */                                                                     \
    X(CACHE_LOSS_NOT_DAMAGED, "move", "a store whose log was lost goes on as if it held everything") \
    X(CACHE_LOSS_ROWS_KEPT, "move", "an extent that began its life in a lost log reads as zeros") \
    X(CACHE_LOSS_NOT_FENCED, "move", "the fences that a lost log held are not raised again")    \
    X(RESYNC_KEEPS_COMPARED, "mirror-test", "a resync goes on with what was compared with a source that is stale") \
    X(DAMAGED_IS_READ, "move", "a column that lost its log is read by who does not know") \
    X(DAMAGED_SOURCE_TRUSTED, "move", "a column that lost its log says what changed as if it knew") \
    X(HOLE_ROWS_FORGOTTEN, "cluster-cache", "an extent that began behind a hole in a log reads as zeros") \
    X(LOST_ROWS_KEPT, "store-test", "a lost row of the extent table that is no column's stays lost") \
    X(CACHE_OLD_LOG_BELIEVED, "move", "a cache disk that shows an old state of a log is believed") \
    X(CACHE_WIPED_REWRITTEN, "disk-log", "a disk that was overwritten gets its superblock again") \
    X(CACHE_LOST_AT_ONCE, "cluster-cache", "a cache disk that an old database does not know is lost") \
    X(REBIND_RECORDS_EARLY, "move", "a log that is about to be moved to takes records already")     \
    X(REBIND_BEFORE_DESTAGE, "move", "a log moves over before what it holds is in place")       \
    X(REBIND_OLD_LOG_BELIEVED, "move", "a log begins again under the name of its former life")  \
    X(REBIND_STREAMS_FORGOTTEN, "move", "the new log is not told of fences and watermarks")     \
    /* a log that fills up */                                                                     \
    X(THROTTLE_OFF, "destage", "a log takes writes at full speed until it is full")             \
    X(THROTTLE_UNFAIR, "log", "writes wait in one queue, whosever they are")                    \
    /* leases and the database */                                                                  \
    X(LEASE_FROM_ANSWER, "lease", "a lease counts from its answer, not from the sending")        \
    X(LEASE_OLD_DATABASE, "lease", "a new lease is used before the database has caught up [OLDLEASE]") \
    X(LEASE_NOT_AWAITED, "cluster", "a silent node is declared down before its lease has run out") \
    X(ANSWER_NO_LEASE, "csv", "an export answers from memory without the lease")               \
    X(RAFT_CUTS_KNOWN, "raft", "a late append cuts off entries that it has in common")             \
    X(RAFT_VOTE_NOT_WRITTEN, "raft", "what is written of a vote is the term alone")                \
    X(RAFT_ACK_LAST_STORED, "raft", "a follower acknowledges its last index")                      \
    X(RAFT_COMMIT_LAST_STORED, "raft", "a follower commits up to its last index")                  \
    X(RAFT_COUNT_OLD_TERMS, "raft-script", "a leader counts copies of earlier terms")                     \
    X(RAFT_COUNT_UNSYNCED, "raft", "a leader counts its own copy before it is durable")            \
    X(RAFT_FORGET_VOTE, "raft", "a vote leaves before it is durable")                              \
    X(STORE_NOT_AWAITED, "cluster-any", "votes and append answers leave before their batch is in the database's store") \
    X(RAFT_VOTE_BLINDLY, "raft", "a vote does not look at the candidate's log")                    \
    X(RAFT_WITNESS_TIE_BREAK, "raft", "a witness votes for whoever asks first")                    \
    X(RAFT_WITNESS_INDEX_ONLY, "raft", "a witness compares indices without terms")                 \
    X(RAFT_WITNESS_VOLATILE, "raft", "a witness answers before it is durable")                     \
    X(RAFT_WITNESS_LOWER, "raft", "a late request lowers what a witness vouches for")              \
    X(RAFT_WITNESS_HEARTBEAT, "raft", "a witness counts by its heartbeat")                         \
    X(RAFT_CHANGE_EARLY, "raft-script", "membership changes before an entry of the term is committed")    \
    X(RAFT_CHANGE_OVERLAP, "raft", "two membership changes at a time")                             \
    X(RAFT_READ_AT_ONCE, "raft", "a leader answers reads without asking anybody")                  \
    /* the file system */                                                                          \
    X(FS_MAP_BEFORE_DATA, "fs", "the record that maps blocks is written before their data")        \
    X(FS_NOT_AWAITED, "fs", "an operation is answered before its record is durable")               \
    X(FS_FREED_REUSED, "fs", "a freed block is used again before the checkpoint that frees it")    \
    X(FS_TRIM_EARLY, "fs", "freed blocks are trimmed before the root is durable")                  \
    X(FS_LOST_COMES_BACK, "fs-damage", "a change that a node or map could not take is lost, and these come back without it") \
    X(FS_TRIM_NOT_AWAITED, "fs", "freed blocks are used again before their trim is acknowledged")  \
    X(FS_ROOT_BEFORE_NODES, "fs", "a root is written before the nodes it points to")               \
    X(FS_REPLAY_OVER_DATA, "fs", "a mount does not take the blocks of its journal first")          \
    X(FS_BATCH_NOT_CHECKED, "fs", "a journal batch is replayed whatever its checksum")             \
    X(FS_OLD_DATA_SHOWS, "fs", "a partial write into fresh blocks leaves what was there around it") \
    X(FS_NAMED_BEHIND_END, "fs-test", "a write behind the end bears its client's name")             \
    X(FS_REPEAT_RUNS, "csv", "a repeated metadata request runs again")                             \
    /* the exports */                                                                              \
    X(CSV_ANY_SESSION, "csv", "an owner takes requests that were sent to another session")         \
    X(CSV_NO_DRAIN, "csv", "a reconnected client's old requests are not waited for")               \
    X(CSV_NEW_NAME, "csv", "a repeat of a metadata request bears a new name")                      \
    X(CSV_NOT_FENCED, "csv", "an older incarnation of a VM writes on beside a newer one")          \
    /* each aimed at one checker of cluster_sim: sim_invariants.c, sim_check.c, sim_disks.c */        \
    X(EPOCH_KEPT, "cluster", "columns are marked stale in the epoch in which they were in-sync: agree()") \
    X(LEASE_OUTLIVED, "cluster", "a node serves on when its lease has run out: check_step()")      \
    X(COMMAND_SKIPPED, "cluster", "a node misses commands that the others apply: agree()") \
    X(USED_NOT_GIVEN_BACK, "cluster", "an extent of a slab that is gone counts as used: check_databases(), check_extents()") \
    X(TABLE_COLUMN_WRONG, "cluster", "an extent table names another column than the database: check_row()") \
    X(REPAIR_COPIES_NOTHING, "cluster", "a new column is called in-sync without having been copied: the scrub") \
    X(TRIM_LOST_ON_ONE, "cluster", "one copy leaves out trims: the history")                         \
    X(LOST_IS_WARNING, "cluster", "health calls a volume without its data degraded: loss_is_told()") \
    /* virtual machines */                                                                         \
    X(VM_FAILOVER_AT_ONCE, "vms", "a VM is started elsewhere before its dead daemon's lease is over") \
    X(VM_TAKEN_UP_UNJUDGED, "vms", "a VM that waits goes on, whatever the database says") \
    X(VM_RENEWAL_CONTINUES, "vms", "a renewal lets a VM go on whose deadline had passed") \
    X(VM_DEADLINE_LATE, "vms", "VMs run on for a while when the lease is over") \
    X(CSV_NEW_NUMBER, "csv", "a data request bears a new number after its file was opened again")
/* clang-format on */

#endif
