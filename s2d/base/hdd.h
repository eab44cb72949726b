/* hdd: makes a file as slow as a hard disk (io_file_make_hdd() in io.h). Only loop.c includes this.
 * Operations wait in order of reach; their results come from the backend. */
#ifndef S2D_BASE_HDD_H
#define S2D_BASE_HDD_H

#include "s2d/base/io.h"

struct hdd;

/* Returns 0, -EINVAL (a disk that does not turn), -ENOMEM. */
must_check int hdd_new(struct io_file *file, const struct io_hdd_model *model,
                       struct hdd **ret_hdd);
void hdd_free(struct hdd *hdd); /* nothing may be pending; NULL is fine */

/* As io_file_readv() and io_file_writev(). */
void hdd_readv(struct hdd *hdd, struct io_op *op, const struct iovec *iov, int iov_count,
               uint64_t offset);
void hdd_writev(struct hdd *hdd, struct io_op *op, const struct iovec *iov, int iov_count,
                uint64_t offset, unsigned flags);

#endif
