/* Who may open a VM's disk (docs/protocol.md): asked on the owner of the volume, each time a
 * file is opened by path.
 *
 * While a VM runs, its disks open for writing only under its present incarnation; anybody else may
 * look at them read-only. An incarnation that is newer than this node's database is right: only a
 * member can name one, and it was read from a database that is ahead of ours; if ours knows no VM
 * with the disk, that is waited for. One of a deleted VM, whose node still writes, is older than
 * the making of any VM that has the disk now. */
#include "s2d/node/authorize.h"

#include "fs-refs-lite/fs.h"
#include "s2d/node/node_internal.h"

/* The file system walks them alike: slashes only stand between names. */
static bool is_same_path(const char *a, const char *b)
{
    size_t length;

    do {
        a += strspn(a, "/");
        b += strspn(b, "/");
        length = strcspn(a, "/");
        if (length != strcspn(b, "/") || memcmp(a, b, length) != 0)
            return false;
        a += length;
        b += length;
    } while (length > 0);
    return true;
}

/* path: NULL: any. */
static bool has_disk(const struct vm_record *vm, const char *volume, const char *path)
{
    size_t length = strlen(volume);

    for (uint64_t i = 0; i < vm->disk_count; i++) {
        const char *disk = vm->disks[i];

        if (strncmp(disk, volume, length) == 0 && disk[length] == '/' &&
            (!path || is_same_path(disk + length, path)))
            return true;
    }
    return false;
}

static bool vm_runs(const struct vm_record *vm)
{
    return vm->incarnation > vm->ended;
}

int authorize_open(const struct database *database, uint64_t applied, const char *volume,
                   const char *path, uint64_t incarnation, bool read_only)
{
    const struct vm_record *vm;

    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++) {
        if (!has_disk(vm, volume, path))
            continue;
        if (incarnation >= vm->incarnation && incarnation > vm->ended)
            return 0;
        if (incarnation == 0 && (read_only || !vm_runs(vm)))
            return 0;
        return -EPERM;
    }
    if (incarnation > applied)
        return -EAGAIN;
    return incarnation == 0 ? 0 : -EPERM;
}

bool authorize_vm_runs_from(const struct database *database, const char *volume)
{
    const struct vm_record *vm;

    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++) {
        if (vm_runs(vm) && has_disk(vm, volume, NULL))
            return true;
    }
    return false;
}

const char *authorize_disk_with_name(const struct database *database, const char *volume,
                                     const char *name, unsigned skip)
{
    size_t length = strlen(volume);
    const struct vm_record *vm;

    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++) {
        if (!vm_runs(vm) && vm->wanted != VM_RUNNING)
            continue;
        for (uint64_t j = 0; j < vm->disk_count; j++) {
            const char *disk = vm->disks[j];

            if (strncmp(disk, volume, length) == 0 && disk[length] == '/' &&
                fs_path_find(disk + length, name) && skip-- == 0)
                return disk + length + 1;
        }
    }
    return NULL;
}

const char *node_disk_with_name(void *arg, const char *volume, const char *name, unsigned skip)
{
    struct node *node = arg;

    return authorize_disk_with_name(consensus_database(node->consensus), volume, name, skip);
}

int node_authorize(void *arg, const char *volume, const char *path, uint64_t incarnation,
                   bool read_only)
{
    struct node *node = arg;

    return authorize_open(consensus_database(node->consensus), consensus_applied(node->consensus),
                          volume, path, incarnation, read_only);
}
