#include "fs-refs-lite/run_list.h"

int run_list_reserve(struct run_list *list, size_t more)
{
    size_t capacity = MAX(list->count + more, 2 * list->capacity);
    struct run *runs;

    if (list->capacity - list->count >= more)
        return 0;
    runs = realloc(list->runs, capacity * sizeof(*runs));
    if (!runs)
        return -ENOMEM;
    list->runs = runs;
    list->capacity = capacity;
    return 0;
}

void run_list_add(struct run_list *list, uint64_t address, uint64_t blocks)
{
    struct run *last = list->count ? &list->runs[list->count - 1] : NULL;

    list->blocks += blocks;
    if (last && last->address + last->blocks == address) {
        last->blocks += blocks;
        return;
    }
    assert(list->count < list->capacity);
    list->runs[list->count++] = (struct run){.address = address, .blocks = blocks};
}

void run_list_clear(struct run_list *list)
{
    list->count = 0;
    list->blocks = 0;
}

static int run_compare(const void *a, const void *b)
{
    const struct run *first = a, *second = b;

    return first->address < second->address ? -1 : first->address > second->address;
}

void run_list_sort(struct run_list *list)
{
    size_t kept = 0;

    if (list->count == 0)
        return;
    qsort(list->runs, list->count, sizeof(*list->runs), run_compare);
    for (size_t i = 1; i < list->count; i++) {
        struct run *last = &list->runs[kept];

        if (last->address + last->blocks == list->runs[i].address)
            last->blocks += list->runs[i].blocks;
        else
            list->runs[++kept] = list->runs[i];
    }
    list->count = kept + 1;
}

void run_list_done(struct run_list *list)
{
    free(list->runs);
    *list = (struct run_list){0};
}
