/* name: entries of directories, and targets of symbolic links, as items of the files tree. Nothing
 * here suspends (node.h).
 *
 * A name's key is its cookie: 55 bits of a seeded hash of the name, then 8 bits that tell names of
 * equal hash apart. So look-up is one descent, readdir goes in the order of cookies, and a cookie
 * stays good whatever else comes and goes. */
#ifndef S2D_FS_NAME_H
#define S2D_FS_NAME_H

#include "fs-refs-lite/fs_internal.h"

struct name {
    uint64_t cookie;
    uint64_t ino;
    uint32_t type;
};

/* 0, -EINVAL, -ENAMETOOLONG: may such a name be made? */
must_check int name_check(const char *name);

/* A snapshot that is being made or removed: nobody but its caretaker sees it. */
bool name_is_private(const struct fs *fs, uint64_t dir, const char *name);
/* Returns 0, -ENOENT (ret_name->cookie: where it would go; 0: nowhere, too many hash alike),
 * -EAGAIN, -EBADMSG. */
must_check int name_find(struct fs *fs, uint64_t dir, const char *name, struct name *ret_name);
/* The first one behind cookie; text: FS_NAME_MAX + 1 bytes. -ENOENT: no more. */
must_check int name_next(struct fs *fs, uint64_t dir, uint64_t cookie, struct name *ret_name,
                         char *ret_text);
/* Checker: may this name have this cookie? */
bool name_fits_cookie(const struct fs *fs, const char *name, size_t length, uint64_t cookie);
bool name_item_is_valid(const void *value, size_t size);

void name_put(struct txn *txn, uint64_t dir, const char *text, const struct name *name);
void name_delete(struct txn *txn, uint64_t dir, uint64_t cookie);

/* dir.c: one name of an inode goes. item: as it was before; put or deleted here. *ret_later: not 0
 * when co_abandoned() must free the rest of it after the operation. */
must_check int inode_unname(struct fs *fs, struct txn *txn, uint64_t ino,
                            struct fs_inode_item *item, uint64_t *ret_later);
void co_abandoned(struct fs *fs, uint64_t ino);
/* Lists a new name of an inode that is no directory. -EEXIST, and what looking said. */
must_check int dir_enter(struct fs *fs, struct txn *txn, uint64_t dir, const char *text,
                         uint64_t ino, uint32_t mode);
/* Is the name free now? 0, -EEXIST, -ENOSPC, … */
must_check int co_dir_check_free(struct fs_inode *dir, const char *text);

void symlink_put(struct txn *txn, uint64_t ino, const char *target);
/* target: FS_SYMLINK_MAX + 1 bytes. */
must_check int symlink_get(struct fs *fs, uint64_t ino, uint64_t size, char *ret_target);
must_check int symlink_delete(struct fs *fs, struct txn *txn,
                              uint64_t ino); /* also of what is none */

#endif
