/* Names that must stay: those on the way to the disks of running VMs. Who runs is known by path,
 * what is taken away by directory and name, so only a path with that name in it is walked. */
#include <stdio.h>

#include "csv-export/csv_internal.h"

/* Is `name` in dir the entry that begins at `at` in path, and there? Returns 0 (no), -EBUSY, or
 * what kept it from being known. */
static int co_check_step(struct fs *fs, char *path, size_t at, uint64_t dir, const char *name)
{
    cleanup(fs_inode_putp) struct fs_inode *parent = NULL, *entry = NULL;
    char first = path[at];
    int r;

    path[at] = 0;
    r = co_fs_walk(fs, path, &parent);
    path[at] = first;
    if (r == 0 && fs_inode_number(parent) != dir)
        return 0;
    if (r == 0)
        r = co_fs_lookup(parent, name, &entry);
    if (r == 0)
        return -EBUSY;
    return r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -EINVAL ? 0 : r;
}

/* A name on the way to the disk of a running VM stays, also while its node's daemon or the owner is
 * new and the file not open: the VM could not be started again. */
int co_csv_check_name(struct csv_volume *volume, uint64_t dir, const char *name)
{
    const struct csv_options *options = &volume->csv->options;
    char path[CSV_PATH_MAX + 1];
    const char *disk;

    if (!options->disk_with_name)
        return 0;
    for (unsigned i = 0; (disk = options->disk_with_name(options->arg, volume->name, name, i));
         i++) {
        const char *at;

        snprintf(path, sizeof(path), "%s", disk);
        for (at = fs_path_find(path, name); at; at = fs_path_find(at + strlen(name), name)) {
            int r = co_check_step(volume->fs, path, at - path, dir, name);

            if (r < 0)
                return r;
        }
    }
    return 0;
}
