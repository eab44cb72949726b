/* nbd_files: a volume's files as NBD exports. The name is `<volume>/<path>`, or
 * `<volume>/<path>@<incarnation>` for the disk of a VM, which QEMU opens so: an older incarnation
 * is shut out by that, and anybody else gets the disk read-only while it is open (csv.h). A file
 * whose own name ends in `@` and digits cannot be named without an incarnation (`@0` is none).
 *
 * Only regular files. Their size is taken when they are opened. */
#ifndef S2D_CSV_NBD_FILES_H
#define S2D_CSV_NBD_FILES_H

#include "csv-export/csv.h"
#include "csv-export/nbd_server.h"

struct nbd_files;

/* csv: borrowed. Returns 0 or -ENOMEM. */
must_check int nbd_files_new(struct csv *csv, struct nbd_files **ret_files);
void nbd_files_free(struct nbd_files *files); /* its server is closed; NULL is fine */
DEFINE_CLEANUP(struct nbd_files, nbd_files_free)
struct nbd_backend *nbd_files_backend(struct nbd_files *files);

/* Takes an export's name apart. volume holds CSV_VOLUME_NAME_MAX + 1 bytes, path CSV_PATH_MAX + 1.
 * Returns 0, -ENOENT (it can be no file's). */
must_check int nbd_files_parse(const char *name, char *ret_volume, char *ret_path,
                               uint64_t *ret_incarnation);

#endif
