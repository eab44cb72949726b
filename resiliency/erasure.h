/* erasure: the Reed–Solomon code of a parity vdisk: k data columns, m parity columns, any k of the
 * k + m give all the others back. A column here is a run of bytes of the same length in each.
 *
 * ISA-L does the arithmetic. Its tables are opaque (their layout changed between releases and with
 * the CPU), so no code but erasure.c touches them, and erasure_self_test() must pass before a
 * daemon trusts them. Pure; nothing suspends; one object is used on one thread at a time. */
#ifndef S2D_RESILIENCY_ERASURE_H
#define S2D_RESILIENCY_ERASURE_H

#include "s2d/base/base.h"

#define ERASURE_DATA_MAX 14 /* columns of data … */
#define ERASURE_PARITY_MAX 2
#define ERASURE_COLUMNS_MAX (ERASURE_DATA_MAX + ERASURE_PARITY_MAX) /* … and of all */

struct erasure;

/* Returns 0, -EINVAL (0 or more than the above), -ENOMEM. */
must_check int erasure_new(unsigned data_count, unsigned parity_count,
                           struct erasure **ret_erasure);
void erasure_free(struct erasure *erasure); /* NULL is fine */
DEFINE_CLEANUP(struct erasure, erasure_free)

/* Fills in parity[0 … m-1] from data[0 … k-1], length bytes each. No pointer may be NULL or overlap
 * another. */
void erasure_encode(const struct erasure *erasure, size_t length, const void *const *data,
                    void *const *parity);

/* What a change of one data column means for the parity: delta is old XOR new of data column
 * `index`; parity[0 … m-1] hold what was there before and are changed in place. */
void erasure_update(const struct erasure *erasure, size_t length, unsigned index, const void *delta,
                    void *const *parity);

/* Computes the columns of the set `want` into columns[i], from those of the set `have`, of which
 * the first k are taken. Both are bits by column: data 0 … k-1, parity k … k+m-1; columns in
 * neither set may be NULL. want may be empty. Returns 0, -EINVAL (fewer than k in have, or a column
 * in both sets), -ENOMEM. */
must_check int erasure_decode(struct erasure *erasure, size_t length, uint32_t have, uint32_t want,
                              void *const *columns);

/* to ^= from; both and length multiples of 8. */
void erasure_xor(void *to, const void *from, size_t length);

/* Encodes random data of every shape up to ERASURE_DATA_MAX + ERASURE_PARITY_MAX, decodes every
 * pattern of lost columns, and makes each change of a column by delta. Takes some milliseconds.
 * Returns 0, -EBADMSG (this library computes nonsense on this CPU: nobody may write with it),
 * -ENOMEM. */
must_check int erasure_self_test(uint64_t seed);

#endif
