/* btree: sorted items in copy-on-write nodes. Nothing here suspends (node.h): what is not in RAM is
 * -EAGAIN, and the caller loads and starts again. Values are at most FS_VALUE_MAX bytes. */
#ifndef S2D_FS_BTREE_H
#define S2D_FS_BTREE_H

#include "fs-refs-lite/node.h"
#include "s2d/base/base.h"

struct fs;

struct tree_item {
    struct fs_key key;
    const void *value; /* valid until the next change of a tree, or suspension; aligned to 8 */
    size_t size;
};

/* Each returns 0, -ENOENT, -EAGAIN, -EBADMSG. */
must_check int tree_get(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key,
                        struct tree_item *ret_item);
/* The first item at or behind key. */
must_check int tree_next(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key,
                         struct tree_item *ret_item);
/* The last item at or before key. */
must_check int tree_previous(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key,
                             struct tree_item *ret_item);

/* For walks over all nodes: what the root is said to be (address 0: an empty tree), and the child
 * at index of a node. */
struct node_want tree_root_want(const struct fs *fs, enum fs_tree_id tree);
struct node_want tree_child_want(const struct fs_node *disk, unsigned index,
                                 const struct node_want *parent);

/* Is all in RAM that tree_put() and tree_delete() of key need? Returns 0, -EAGAIN, -EBADMSG. */
must_check int tree_prepare(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key);

/* After tree_prepare() of the key, with no suspension between. They cannot fail. */
void tree_put(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key, const void *value,
              size_t size);
/* There or not. It may leave an empty leaf behind, so that what else was prepared still has its
 * way: when all changes that were prepared together are made, tree_tidy() follows, for each key. */
void tree_delete(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key);
void tree_tidy(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key);
/* Of an item that is there, with a value of that size, in a leaf that is dirty: changes nothing
 * else. (A put may split a node on its way that has become full.) */
void tree_overwrite(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key,
                    const void *value, size_t size);

#endif
