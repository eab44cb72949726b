#include "fs-refs-lite/name.h"
#include "fs-refs-lite/btree.h"
#include "s2d/base/checksum.h"

#define SYMLINK_PIECE FS_VALUE_MAX

int name_check(const char *name)
{
    size_t length = strlen(name);

    if (length == 0 || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EINVAL;
    return length > FS_NAME_MAX ? -ENAMETOOLONG : 0;
}

static uint64_t name_cookie(const struct fs *fs, const char *name, size_t length)
{
    char seeded[sizeof(uint64_t) + FS_NAME_MAX];
    uint64_t hash;

    assert(length <= FS_NAME_MAX);
    memcpy(seeded, &fs->super.hash_seed, sizeof(uint64_t));
    memcpy(seeded + sizeof(uint64_t), name, length);
    hash = hash64(seeded, sizeof(uint64_t) + length) >> 9;
    return MAX(hash * FS_COOKIE_VARIANTS, (uint64_t)FS_COOKIE_MIN);
}

bool name_fits_cookie(const struct fs *fs, const char *name, size_t length, uint64_t cookie)
{
    uint64_t first = name_cookie(fs, name, length);

    return cookie >= first && cookie < first + FS_COOKIE_VARIANTS;
}

static struct fs_key name_key(uint64_t dir, uint64_t cookie)
{
    return (struct fs_key){.object = dir, .kind = FS_KIND_NAME, .offset = cookie};
}

bool name_item_is_valid(const void *value, size_t size)
{
    const struct fs_name_item *item = value;

    return size > sizeof(*item) && item->length > 0 && size == sizeof(*item) + item->length &&
           !memchr(item->name, 0, item->length) && !memchr(item->name, '/', item->length);
}

/* The first item of the directory at or behind cookie. */
static int name_item_next(struct fs *fs, uint64_t dir, uint64_t cookie, struct tree_item *ret_item)
{
    struct fs_key key = name_key(dir, cookie);
    int r = tree_next(fs, FS_TREE_FILES, &key, ret_item);

    if (r < 0)
        return r;
    if (ret_item->key.object != dir || ret_item->key.kind != FS_KIND_NAME)
        return -ENOENT;
    return name_item_is_valid(ret_item->value, ret_item->size) ? 0 : -EBADMSG;
}

static void name_decode(const struct tree_item *item, struct name *ret_name)
{
    const struct fs_name_item *value = item->value;

    *ret_name =
        (struct name){.cookie = item->key.offset, .ino = value->ino, .type = value->type & S_IFMT};
}

bool name_is_private(const struct fs *fs, uint64_t dir, const char *name)
{
    return dir == FS_SNAPSHOTS_INO && name[0] == '.' && fs->caretaker != co_self();
}

int name_find(struct fs *fs, uint64_t dir, const char *name, struct name *ret_name)
{
    size_t length = strlen(name);
    uint64_t first = name_cookie(fs, name, length), free_cookie = 0;

    if (dir == FS_ROOT_INO && strcmp(name, FS_SNAPSHOTS_NAME) == 0) {
        *ret_name = (struct name){.ino = FS_SNAPSHOTS_INO, .type = S_IFDIR};
        return 0;
    }
    if (name_is_private(fs, dir, name)) {
        *ret_name = (struct name){0};
        return -ENOENT;
    }
    for (uint64_t cookie = first; cookie < first + FS_COOKIE_VARIANTS; cookie++) {
        struct tree_item item;
        const struct fs_name_item *value;
        int r = name_item_next(fs, dir, cookie, &item);

        if (r < 0 && r != -ENOENT)
            return r;
        if (r == -ENOENT || item.key.offset > cookie)
            free_cookie = free_cookie ? free_cookie : cookie;
        if (r == -ENOENT || item.key.offset >= first + FS_COOKIE_VARIANTS)
            break;
        value = item.value;
        if (value->length == length && memcmp(value->name, name, length) == 0) {
            name_decode(&item, ret_name);
            return 0;
        }
        cookie = item.key.offset;
    }
    *ret_name = (struct name){.cookie = free_cookie};
    return -ENOENT;
}

int name_next(struct fs *fs, uint64_t dir, uint64_t cookie, struct name *ret_name, char *ret_text)
{
    struct tree_item item;
    const struct fs_name_item *value;
    int r = name_item_next(fs, dir, cookie + 1, &item);

    if (r < 0)
        return r;
    value = item.value;
    name_decode(&item, ret_name);
    memcpy(ret_text, value->name, value->length);
    ret_text[value->length] = 0;
    return 0;
}

void name_put(struct txn *txn, uint64_t dir, const char *text, const struct name *name)
{
    struct fs_key key = name_key(dir, name->cookie);
    char buffer[sizeof(struct fs_name_item) + FS_NAME_MAX];
    struct fs_name_item *item = (struct fs_name_item *)buffer;
    size_t length = strlen(text);

    assert(length > 0 && length <= FS_NAME_MAX);
    *item = (struct fs_name_item){.ino = name->ino, .type = name->type, .length = length};
    memcpy(item->name, text, length);
    txn_put(txn, FS_TREE_FILES, &key, buffer, sizeof(*item) + length);
}

void name_delete(struct txn *txn, uint64_t dir, uint64_t cookie)
{
    struct fs_key key = name_key(dir, cookie);

    txn_delete(txn, FS_TREE_FILES, &key);
}

/* ---- targets ---- */

static struct fs_key symlink_key(uint64_t ino, uint64_t offset)
{
    return (struct fs_key){.object = ino, .kind = FS_KIND_SYMLINK, .offset = offset};
}

void symlink_put(struct txn *txn, uint64_t ino, const char *target)
{
    size_t length = strlen(target);

    for (size_t at = 0; at < length; at += SYMLINK_PIECE) {
        struct fs_key key = symlink_key(ino, at);

        txn_put(txn, FS_TREE_FILES, &key, target + at, MIN(length - at, SYMLINK_PIECE));
    }
}

int symlink_get(struct fs *fs, uint64_t ino, uint64_t size, char *ret_target)
{
    if (size > FS_SYMLINK_MAX)
        return -EBADMSG;
    for (uint64_t at = 0; at < size; at += SYMLINK_PIECE) {
        struct fs_key key = symlink_key(ino, at);
        struct tree_item item;
        int r = tree_get(fs, FS_TREE_FILES, &key, &item);

        if (r == -ENOENT || (r == 0 && item.size != MIN(size - at, SYMLINK_PIECE)))
            return -EBADMSG;
        if (r < 0)
            return r;
        memcpy(ret_target + at, item.value, item.size);
    }
    ret_target[size] = 0;
    return 0;
}

int symlink_delete(struct fs *fs, struct txn *txn, uint64_t ino)
{
    for (uint64_t at = 0; at <= FS_SYMLINK_MAX; at += SYMLINK_PIECE) {
        struct fs_key key = symlink_key(ino, at);
        struct tree_item item;
        int r = tree_get(fs, FS_TREE_FILES, &key, &item);

        if (r == -ENOENT)
            return 0;
        if (r < 0)
            return r;
        txn_delete(txn, FS_TREE_FILES, &key);
    }
    return 0;
}
