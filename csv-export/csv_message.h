/* csv_message: requests on a volume's files, and what is said between a client and the owner about
 * them: layout, encoding, decoding. Pure: nothing suspends or allocates.
 *
 *   attach   | magic | version | volume | session | client start counter |
 *   request  | fixed part (struct csv_request_wire) | name, 0 | name2, 0 |   bulk: what a write, a
 *              symbolic link's target or an open's path carry
 *   reply    | fixed part (struct csv_reply_wire) |                          bulk: what was read
 *
 * All is little-endian. Every message is sent on the bus's data channel with BUS_CHECKSUM on it,
 * except the bulk of file data, which the vdisk guards.
 */
#ifndef S2D_CSV_CSV_MESSAGE_H
#define S2D_CSV_CSV_MESSAGE_H

#include "csv-export/csv.h"
#include "s2d/bus/message_types.h"

#define CSV_MSG_ATTACH (BUS_TYPE_FILES + 0)
#define CSV_MSG_REQUEST (BUS_TYPE_FILES + 1)

#define CSV_VERSION 2
#define CSV_DATA_MAX MIB /* bulk of one request or reply */

enum csv_op {
    CSV_LOOKUP = 1, /* ino, name → attr */
    CSV_WALK,       /* bulk: path → attr */
    CSV_GETATTR,    /* ino → attr */
    CSV_SETATTR,    /* ino, attr, flags (enum fs_set) → attr */
    CSV_TRUNCATE,   /* ino, length → attr */
    CSV_CREATE,     /* ino, name, attr (mode, uid, gid, rdev) → attr */
    CSV_MKDIR,      /* as CSV_CREATE */
    CSV_SYMLINK,    /* as CSV_CREATE, bulk: target → attr */
    CSV_READLINK,   /* ino → bulk: target */
    CSV_LINK,       /* ino, ino2 (directory), name → attr */
    CSV_UNLINK,     /* ino, name */
    CSV_RMDIR,      /* ino, name */
    CSV_RENAME,     /* ino, name, ino2, name2, flags (enum fs_rename_flags) */
    CSV_READDIR,    /* ino, offset (cookie), length → bulk: entries */
    CSV_STATFS,     /* → statfs */
    CSV_OPEN,       /* ino, handle, flags (enum csv_open_flags), incarnation, bulk: path → attr */
    CSV_CLOSE,      /* handle */
    CSV_READ,       /* handle, offset, length → bulk */
    CSV_WRITE,      /* handle, offset, flags (enum csv_write_flags), bulk */
    CSV_ALLOCATE,   /* handle, offset, length, flags (enum fs_allocate_flags) */
    CSV_PUNCH,      /* handle, offset, length */
    CSV_ZERO,       /* handle, offset, length */
    CSV_STATUS,     /* handle, offset, length → value (length), is_data */
    CSV_SYNC,       /* ino, flags (1: data only) */
    CSV_CLONE_RANGE, /* ino, offset → ino2, offset2; length */
    CSV_CLONE_FILE,  /* ino, ino2 (directory), name → attr */
    CSV_SNAPSHOT,    /* ino (what of), name, flags (enum csv_snapshot_verb) */
    CSV_OP_END,
};

enum csv_open_flags {
    CSV_OPEN_READ_ONLY = BIT(0),
};

enum csv_write_flags {
    CSV_WRITE_REPEAT = BIT(0), /* it was sent before, and not answered */
};

/* What a request says, whichever way it goes. Pointers are borrowed. */
struct csv_request {
    enum csv_op op;
    uint32_t flags;
    uint64_t volume;           /* id */
    uint64_t session;          /* the owner's, that it is meant for */
    uint64_t client;           /* node; the receiver takes it from the connection */
    uint64_t client_counter;   /* its start counter */
    struct fs_request name_of; /* of a change of metadata (session: see csv_client_session()) */
    uint64_t number;           /* of a data request */
    uint64_t ino, ino2, handle, offset, offset2, length, incarnation;
    struct fs_attr attr;
    const char *name, *name2; /* NULL: none; at most FS_NAME_MAX bytes */
    const void *bulk;
    uint32_t bulk_bytes;
};

struct csv_reply {
    int result;
    struct fs_attr attr;
    struct fs_statfs statfs;
    uint64_t value;
    bool is_data;
    void *bulk; /* room for bulk_bytes: in, the room; out, what came */
    uint32_t bulk_bytes;
};

/* The name of a client to the file system: unique among nodes and their starts. Never 0. */
uint64_t csv_client_session(uint64_t node, uint64_t start_counter);

struct csv_attach {
    uint64_t volume, session, client_counter;
};
#define CSV_ATTACH_BYTES 32
void csv_attach_encode(const struct csv_attach *attach, uint8_t bytes[CSV_ATTACH_BYTES]);
must_check int csv_attach_decode(const void *bytes, size_t length, struct csv_attach *ret_attach);

#define CSV_REQUEST_FIXED_BYTES 168
#define CSV_REQUEST_MAX (CSV_REQUEST_FIXED_BYTES + 2 * (FS_NAME_MAX + 1))
/* Without the bulk. Returns the length, or -ENAMETOOLONG. */
must_check int csv_request_encode(const struct csv_request *request,
                                  uint8_t bytes[CSV_REQUEST_MAX]);
/* Names point into bytes; bulk, bulk_bytes and client are the caller's to fill in.
 * Returns 0, -EPROTO (malformed or unknown), -EPROTONOSUPPORT (another version). */
must_check int csv_request_decode(const void *bytes, size_t length,
                                  struct csv_request *ret_request);
/* What any request must obey, wherever it came from: 0 or -EPROTO. bulk_bytes is filled in. */
must_check int csv_request_check(const struct csv_request *request);

#define CSV_REPLY_BYTES 256
void csv_reply_encode(const struct csv_reply *reply, uint8_t bytes[CSV_REPLY_BYTES]);
/* Leaves result, bulk and bulk_bytes alone. Returns 0 or -EPROTO. */
must_check int csv_reply_decode(const void *bytes, size_t length, struct csv_reply *reply);

/* Does a repeat need a name (struct fs_request)? Is it on an open file? How much bulk comes back at
 * most? */
bool csv_op_is_named(enum csv_op op);
bool csv_op_has_handle(enum csv_op op);
uint32_t csv_reply_room(const struct csv_request *request);

/* ---- directory entries in bulk: | ino | cookie | type | name length, 2 | name | ---- */

/* Appends one at bytes + *used. False: no room. */
bool csv_entry_put(void *bytes, size_t room, size_t *used, const struct fs_dirent *entry);
/* Takes the one at bytes + *used; its name is copied to `name`. Returns 1, 0 (end), -EPROTO. */
must_check int csv_entry_get(const void *bytes, size_t length, size_t *used,
                             char name[FS_NAME_MAX + 1], struct fs_dirent *ret_entry);

#endif
