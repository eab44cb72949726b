/* run_list: runs of blocks, in the order they came until they are sorted. Plain memory. */
#ifndef S2D_FS_RUN_LIST_H
#define S2D_FS_RUN_LIST_H

#include "s2d/base/base.h"

struct run {
    uint64_t address;
    uint64_t blocks;
    bool is_group; /* being trimmed: all of a group but its slots, which go with it */
};

struct run_list {
    struct run *runs;
    size_t count, capacity;
    uint64_t blocks; /* of all of them */
};

must_check int run_list_reserve(struct run_list *list, size_t more);
void run_list_add(struct run_list *list, uint64_t address, uint64_t blocks); /* room was reserved */
void run_list_clear(struct run_list *list);
void run_list_sort(struct run_list *list); /* by address, neighbours merged */
void run_list_done(struct run_list *list);

#endif
