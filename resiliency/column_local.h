/* column_local: a store of this very node, as an owner here sees it: direct calls. */
#ifndef S2D_RESILIENCY_COLUMN_LOCAL_H
#define S2D_RESILIENCY_COLUMN_LOCAL_H

#include "resiliency/column_store.h"

/* store: borrowed, outlives it. Returns 0 or -ENOMEM. */
must_check int column_local_new(struct store *store, uint64_t node, uint64_t disk,
                                struct column_store **ret_column);
/* The store is to be closed, and another one may come in its place: what is asked of the column
 * meanwhile is -ENODEV. Suspends until no call is in the store; appends that it has end when it is
 * closed. */
void co_column_local_leave(struct column_store *column);
void column_local_return(struct column_store *column, struct store *store);
void column_local_free(struct column_store *column); /* nobody uses it; NULL is fine */

#endif
