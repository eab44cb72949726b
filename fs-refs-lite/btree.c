/* A node splits on the way down, before it is entered, so a put is one pass. What deletes have left
 * is tidied afterwards: an empty node is dropped, a poor one merged with a neighbour only if that
 * one is in RAM: a poor node costs little, a read could fail.
 *
 * Bounds: the key of an inner item is the lower bound of what lies below; but a first child takes
 * all that its parent may hold below the second one's key, so that nothing has to be rewritten when
 * its left neighbour goes. Every node is checked against its bounds and its level, so a damaged
 * pointer can neither make a loop nor lead elsewhere. */
#include "fs-refs-lite/btree.h"
#include "fs-refs-lite/fs_internal.h"

#define POOR_BYTES (FS_NODE_ROOM / 4)
#define MERGED_BYTES_MAX (FS_NODE_ROOM * 3 / 4)
#define CHILD_BYTES (sizeof(struct fs_item) + sizeof(struct fs_child))

/* ---- items of a node ---- */

static void *item_value(const struct node *node, unsigned index)
{
    return (char *)node->disk + node->disk->items[index].value_at;
}

static void item_set_key(struct node *node, unsigned index, struct fs_key key)
{
    struct fs_item *item = &node->disk->items[index];

    item->object = key.object;
    item->kind = key.kind;
    item->offset = key.offset;
}

/* Index of the first item that is not below key. */
static unsigned node_search(const struct node *node, const struct fs_key *key, bool *ret_exact)
{
    unsigned low = 0, high = node->disk->count;

    *ret_exact = false;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        struct fs_key found = fs_item_key(&node->disk->items[middle]);
        int order = fs_key_compare(&found, key);

        if (order == 0) {
            *ret_exact = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The child of an inner node in whose range key lies. */
static unsigned node_child_index(const struct node *node, const struct fs_key *key)
{
    bool exact;
    unsigned index = node_search(node, key, &exact);

    if (exact)
        return index;
    return index > 0 ? index - 1 : 0;
}

static bool node_fits(const struct node *node, size_t bytes)
{
    return node->used_bytes + bytes <= FS_NODE_ROOM;
}

/* An empty value lies at the end, so that it stays in place whatever moves. */
static unsigned value_place(size_t size, unsigned at)
{
    return size ? at : BLOCK_SIZE;
}

/* Moves all values to the end again, so that the free room is in one piece. */
static void node_compact(struct node *node)
{
    char copy[BLOCK_SIZE];
    struct fs_node *disk = node->disk;
    unsigned at = BLOCK_SIZE;

    memcpy(copy, disk, BLOCK_SIZE);
    for (unsigned i = 0; i < disk->count; i++) {
        struct fs_item *item = &disk->items[i];

        at -= ALIGN_UP(item->value_size, 8u);
        memcpy((char *)disk + at, copy + item->value_at, item->value_size);
        item->value_at = value_place(item->value_size, at);
    }
    disk->values_at = at;
}

static void node_insert(struct node *node, unsigned index, const struct fs_key *key,
                        const void *value, size_t size)
{
    struct fs_node *disk = node->disk;
    size_t room = ALIGN_UP(size, 8);
    size_t items_end = sizeof(*disk) + (disk->count + 1u) * sizeof(struct fs_item);

    assert(index <= disk->count);
    assert(node_fits(node, sizeof(struct fs_item) + room));
    if (items_end + room > disk->values_at)
        node_compact(node);
    memmove(&disk->items[index + 1], &disk->items[index],
            (disk->count - index) * sizeof(struct fs_item));
    disk->values_at -= room;
    disk->items[index] = (struct fs_item){.object = key->object,
                                          .offset = key->offset,
                                          .kind = key->kind,
                                          .value_at = value_place(size, disk->values_at),
                                          .value_size = size};
    memset((char *)disk + disk->values_at, 0, room);
    if (size)
        memcpy((char *)disk + disk->values_at, value, size);
    disk->count++;
    node->used_bytes += sizeof(struct fs_item) + room;
}

static void node_remove(struct node *node, unsigned index)
{
    struct fs_node *disk = node->disk;

    assert(index < disk->count);
    node->used_bytes -= sizeof(struct fs_item) + ALIGN_UP(disk->items[index].value_size, 8u);
    if (disk->items[index].value_at == disk->values_at)
        disk->values_at += ALIGN_UP(disk->items[index].value_size, 8u);
    disk->count--;
    memmove(&disk->items[index], &disk->items[index + 1],
            (disk->count - index) * sizeof(struct fs_item));
    if (disk->count == 0)
        disk->values_at = BLOCK_SIZE;
}

static void node_append_from(struct node *to, const struct node *from, unsigned first)
{
    for (unsigned i = first; i < from->disk->count; i++) {
        struct fs_key key = fs_item_key(&from->disk->items[i]);

        node_insert(to, to->disk->count, &key, item_value(from, i),
                    from->disk->items[i].value_size);
    }
}

static void node_cut(struct node *node, unsigned count)
{
    while (node->disk->count > count)
        node_remove(node, node->disk->count - 1u);
}

/* ---- going down ---- */

struct node_want tree_root_want(const struct fs *fs, enum fs_tree_id tree)
{
    const struct fs_tree_root *root = &fs->trees[tree];

    return (struct node_want){.address = root->address,
                              .generation = root->generation,
                              .is_root = true,
                              .tree = tree,
                              .level = root->level};
}

struct node_want tree_child_want(const struct fs_node *disk, unsigned index,
                                 const struct node_want *parent)
{
    const struct fs_child *child =
        (const struct fs_child *)((const char *)disk + disk->items[index].value_at);
    struct node_want want = {.address = child->address,
                             .generation = child->generation,
                             .low = index ? fs_item_key(&disk->items[index]) : parent->low,
                             .high = parent->high,
                             .has_high = parent->has_high,
                             .tree = parent->tree,
                             .level = parent->level - 1};

    if (index + 1u < disk->count) {
        want.high = fs_item_key(&disk->items[index + 1]);
        want.has_high = true;
    }
    return want;
}

struct path {
    unsigned depth; /* nodes in it; the last one is a leaf */
    struct node_want want[FS_LEVEL_MAX];
    struct node *node[FS_LEVEL_MAX];
    unsigned index[FS_LEVEL_MAX]; /* of the child taken */
};

/* key NULL: along the right edge, from the path's last node down. */
static int path_descend(struct fs *fs, struct path *path, struct node_want want,
                        const struct fs_key *key)
{
    int r;

    for (;;) {
        struct node *node;
        unsigned index;

        assert(path->depth < FS_LEVEL_MAX);
        r = node_get(fs, &want, &node);
        if (r < 0)
            return r;
        path->node[path->depth] = node;
        path->want[path->depth] = want;
        path->depth++;
        if (want.level == 0)
            return 0;
        index = key ? node_child_index(node, key) : node->disk->count - 1u;
        path->index[path->depth - 1] = index;
        want = tree_child_want(node->disk, index, &want);
    }
}

static int path_find(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key,
                     struct path *path)
{
    path->depth = 0;
    if (fs->trees[tree].address == 0)
        return -ENOENT;
    return path_descend(fs, path, tree_root_want(fs, tree), key);
}

static struct node *path_leaf(const struct path *path)
{
    return path->node[path->depth - 1];
}

static void item_out(const struct node *leaf, unsigned index, struct tree_item *ret_item)
{
    ret_item->key = fs_item_key(&leaf->disk->items[index]);
    ret_item->value = item_value(leaf, index);
    ret_item->size = leaf->disk->items[index].value_size;
}

int tree_get(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key,
             struct tree_item *ret_item)
{
    struct node_want want = tree_root_want(fs, tree);
    struct node *node;
    unsigned index;
    bool exact;
    int r;

    if (want.address == 0)
        return -ENOENT;
    for (;;) {
        r = node_get(fs, &want, &node);
        if (r < 0)
            return r;
        if (want.level == 0)
            break;
        want = tree_child_want(node->disk, node_child_index(node, key), &want);
    }
    index = node_search(node, key, &exact);
    if (!exact)
        return -ENOENT;
    item_out(node, index, ret_item);
    return 0;
}

int tree_next(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key,
              struct tree_item *ret_item)
{
    struct fs_key from = *key;

    for (;;) {
        struct path path;
        const struct node_want *want;
        unsigned index;
        bool exact;
        int r = path_find(fs, tree, &from, &path);

        if (r < 0)
            return r;
        index = node_search(path_leaf(&path), &from, &exact);
        if (index < path_leaf(&path)->disk->count) {
            item_out(path_leaf(&path), index, ret_item);
            return 0;
        }
        want = &path.want[path.depth - 1];
        if (!want->has_high)
            return -ENOENT;
        from = want->high; /* the next leaf begins there */
    }
}

int tree_previous(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key,
                  struct tree_item *ret_item)
{
    struct path path;
    unsigned index;
    bool exact;
    int r = path_find(fs, tree, key, &path);

    if (r < 0)
        return r;
    index = node_search(path_leaf(&path), key, &exact);
    if (!exact && index == 0) {
        /* Up to where there is something to the left, and down its right edge. */
        unsigned depth = path.depth - 1;

        while (depth > 0 && path.index[depth - 1] == 0)
            depth--;
        if (depth == 0)
            return -ENOENT;
        path.index[depth - 1]--;
        path.depth = depth;
        r = path_descend(fs, &path,
                         tree_child_want(path.node[depth - 1]->disk, path.index[depth - 1],
                                         &path.want[depth - 1]),
                         NULL);
        if (r < 0)
            return r;
        index = path_leaf(&path)->disk->count;
        if (index == 0)
            return -EBADMSG;
        exact = false;
    }
    item_out(path_leaf(&path), exact ? index : index - 1, ret_item);
    return 0;
}

int tree_prepare(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key)
{
    struct path path;
    int r = path_find(fs, tree, key, &path);

    return r == -ENOENT ? 0 : r;
}

/* ---- changing ---- */

static struct node *child_get(struct fs *fs, const struct node *parent, unsigned index)
{
    struct node *node = node_peek(fs, ((struct fs_child *)item_value(parent, index))->address);

    assert(node); /* tree_prepare() saw it */
    return node;
}

static void child_set(struct node *parent, unsigned index, const struct node *child)
{
    *(struct fs_child *)item_value(parent, index) =
        (struct fs_child){.address = child->address, .generation = child->disk->header.generation};
}

static struct node *child_writable(struct fs *fs, struct node *parent, unsigned index)
{
    struct node *child = node_writable(fs, child_get(fs, parent, index));

    child_set(parent, index, child);
    return child;
}

static void root_set(struct fs *fs, enum fs_tree_id tree, const struct node *node)
{
    fs->trees[tree].address = node->address;
    fs->trees[tree].generation = node->disk->header.generation;
    fs->trees[tree].level = node->disk->level;
}

static struct node *root_writable(struct fs *fs, enum fs_tree_id tree)
{
    struct node *node;

    if (fs->trees[tree].address == 0) {
        node = node_new(fs, tree, 0);
    } else {
        node = node_peek(fs, fs->trees[tree].address);
        assert(node);
        node = node_writable(fs, node);
    }
    root_set(fs, tree, node);
    return node;
}

/* Where to cut a node that key is about to enter: in the middle by bytes; but at the end when key
 * goes there, for what grows at its end then leaves full nodes behind. */
static unsigned split_point(const struct node *node, const struct fs_key *key)
{
    unsigned count = node->disk->count;
    struct fs_key last = fs_item_key(&node->disk->items[count - 1]);
    unsigned bytes = 0;

    if (fs_key_compare(key, &last) > 0)
        return node->disk->level == 0 ? count : count - 1;
    for (unsigned i = 0; i < count; i++) {
        bytes += sizeof(struct fs_item) + ALIGN_UP(node->disk->items[i].value_size, 8u);
        if (bytes > node->used_bytes / 2u)
            return MAX(i, 1u);
    }
    return count - 1;
}

/* Splits parent's child at index; parent has room for one more. */
static void child_split(struct fs *fs, struct node *parent, unsigned index,
                        const struct fs_key *key)
{
    struct node *left = child_get(fs, parent, index);
    struct node *right = node_new(fs, left->disk->tree, left->disk->level);
    unsigned at = split_point(left, key);
    struct fs_key bound = at < left->disk->count ? fs_item_key(&left->disk->items[at]) : *key;
    struct fs_child child = {.address = right->address,
                             .generation = right->disk->header.generation};

    assert(left->state == NODE_DIRTY);
    node_append_from(right, left, at);
    node_cut(left, at);
    if (index == 0) /* it may hold keys below its own, and the bound may be one of them */
        item_set_key(parent, 0, fs_item_key(&left->disk->items[0]));
    node_insert(parent, index + 1, &bound, &child, sizeof(child));
}

/* A new root above the old one. */
static struct node *root_raise(struct fs *fs, enum fs_tree_id tree, const struct node *old)
{
    struct node *root = node_new(fs, tree, old->disk->level + 1);
    struct fs_child child = {.address = old->address, .generation = old->disk->header.generation};

    assert(root->disk->level < FS_LEVEL_MAX);
    node_insert(root, 0, &(struct fs_key){0}, &child, sizeof(child));
    root_set(fs, tree, root);
    return root;
}

/* Is there room for what may come: in a leaf the item itself, in an inner node one more child? */
static bool node_has_room(const struct node *node, const struct fs_key *key, size_t size)
{
    bool exact;
    unsigned index;
    size_t old = 0;

    if (node->disk->level > 0)
        return node_fits(node, CHILD_BYTES);
    index = node_search(node, key, &exact);
    if (exact)
        old = sizeof(struct fs_item) + ALIGN_UP(node->disk->items[index].value_size, 8u);
    return node->used_bytes - old + sizeof(struct fs_item) + ALIGN_UP(size, 8) <= FS_NODE_ROOM;
}

static void leaf_put(struct node *leaf, const struct fs_key *key, const void *value, size_t size)
{
    bool exact;
    unsigned index = node_search(leaf, key, &exact);

    if (exact && leaf->disk->items[index].value_size == size) {
        if (size)
            memcpy(item_value(leaf, index), value, size);
        return;
    }
    if (exact)
        node_remove(leaf, index);
    node_insert(leaf, index, key, value, size);
}

void tree_put(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key, const void *value,
              size_t size)
{
    struct node *node = root_writable(fs, tree);

    assert(size <= FS_VALUE_MAX);
    if (!node_has_room(node, key, size)) {
        node = root_raise(fs, tree, node);
        child_split(fs, node, 0, key);
    }
    while (node->disk->level > 0) {
        unsigned index = node_child_index(node, key);
        struct node *child = child_writable(fs, node, index);

        if (!node_has_room(child, key, size)) {
            child_split(fs, node, index, key);
            child = child_writable(fs, node, node_child_index(node, key));
        }
        node = child;
    }
    leaf_put(node, key, value, size);
}

void tree_overwrite(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key,
                    const void *value, size_t size)
{
    struct path path;
    bool exact;
    unsigned index;
    int r = path_find(fs, tree, key, &path);

    assert(r == 0);
    assert(path_leaf(&path)->state == NODE_DIRTY);
    index = node_search(path_leaf(&path), key, &exact);
    assert(exact);
    assert(path_leaf(&path)->disk->items[index].value_size == size);
    memcpy(item_value(path_leaf(&path), index), value, size);
}

/* Puts the children at index and index + 1 into one, if both are in RAM and it leaves room. */
static bool children_merge(struct fs *fs, struct node *parent, unsigned index)
{
    struct node *left, *right;
    struct fs_key bound;
    unsigned joint;

    if (index + 1u >= parent->disk->count)
        return false;
    left = node_peek(fs, ((struct fs_child *)item_value(parent, index))->address);
    right = node_peek(fs, ((struct fs_child *)item_value(parent, index + 1))->address);
    if (!left || !right || left->disk->level != right->disk->level ||
        left->disk->tree != right->disk->tree || left == right ||
        left->used_bytes + right->used_bytes > (int)MERGED_BYTES_MAX)
        return false;
    bound = fs_item_key(&parent->disk->items[index + 1]);
    left = child_writable(fs, parent, index);
    joint = left->disk->count;
    node_append_from(left, right, 0);
    if (left->disk->level > 0) /* the first child's range begins at the bound, not at its key */
        item_set_key(left, joint, bound);
    node_drop(fs, right);
    node_remove(parent, index + 1);
    return true;
}

static void root_lower(struct fs *fs, enum fs_tree_id tree, struct node *root)
{
    while (root->disk->level > 0 && root->disk->count == 1) {
        struct fs_child child = *(struct fs_child *)item_value(root, 0);
        struct node *next = node_peek(fs, child.address);

        if (!next)
            return; /* a tall tree costs little: another time */
        node_drop(fs, root);
        root = next;
        root_set(fs, tree, root);
    }
    if (root->disk->count == 0) {
        node_drop(fs, root);
        fs->trees[tree].address = 0;
        fs->trees[tree].generation = 0;
        fs->trees[tree].level = 0;
    }
}

/* The leaf in whose range key lies. All on the way is in RAM: tree_prepare() saw it, and until
 * tree_tidy() no node goes. NULL: the tree is empty. */
static struct node *leaf_peek(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key)
{
    struct node *node;

    if (fs->trees[tree].address == 0)
        return NULL;
    node = node_peek(fs, fs->trees[tree].address);
    assert(node);
    while (node->disk->level > 0)
        node = child_get(fs, node, node_child_index(node, key));
    return node;
}

void tree_delete(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key)
{
    struct node *node = leaf_peek(fs, tree, key);
    unsigned index = 0;
    bool exact = false;

    if (node)
        index = node_search(node, key, &exact);
    if (!exact)
        return;
    node = root_writable(fs, tree);
    while (node->disk->level > 0)
        node = child_writable(fs, node, node_child_index(node, key));
    node_remove(node, index);
}

/* The way to key's leaf, as far as it is dirty, and so perhaps empty or poor since. False: what was
 * there has gone, and what it was joined to was not changed. */
static bool path_to_dirty(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key,
                          struct path *path)
{
    struct node *node = node_peek(fs, fs->trees[tree].address);

    path->depth = 0;
    while (node && node->state == NODE_DIRTY && path->depth < FS_LEVEL_MAX) {
        path->node[path->depth++] = node;
        if (node->disk->level == 0)
            return true;
        path->index[path->depth - 1] = node_child_index(node, key);
        node = node_peek(
            fs, ((struct fs_child *)item_value(node, path->index[path->depth - 1]))->address);
    }
    return false;
}

void tree_tidy(struct fs *fs, enum fs_tree_id tree, const struct fs_key *key)
{
    struct path path;

    if (fs->trees[tree].address == 0 || !path_to_dirty(fs, tree, key, &path))
        return;
    for (unsigned depth = path.depth - 1; depth > 0; depth--) {
        struct node *parent = path.node[depth - 1], *node = path.node[depth];
        unsigned index = path.index[depth - 1];

        if (node->disk->count == 0) {
            node_drop(fs, node);
            node_remove(parent, index);
        } else if (node->used_bytes >= POOR_BYTES ||
                   (!children_merge(fs, parent, index) &&
                    !(index > 0 && children_merge(fs, parent, index - 1)))) {
            break;
        }
    }
    root_lower(fs, tree, path.node[0]);
}
