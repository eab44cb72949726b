#include "fs-refs-lite/check_refs.h"

struct check_refs_step { /* from this address on there are so many more, or less */
    uint64_t address;
    int64_t found;
    uint64_t said; /* wraps */
};

static int steps_add(struct check_refs *refs, uint64_t address, uint64_t blocks, int64_t found,
                     uint64_t said)
{
    if (refs->capacity - refs->count < 2) {
        size_t capacity = MAX(2 * refs->capacity, (size_t)1024);
        struct check_refs_step *steps = realloc(refs->steps, capacity * sizeof(*steps));

        if (!steps)
            return -ENOMEM;
        refs->steps = steps;
        refs->capacity = capacity;
    }
    refs->steps[refs->count++] =
        (struct check_refs_step){.address = address, .found = found, .said = said};
    refs->steps[refs->count++] =
        (struct check_refs_step){.address = address + blocks, .found = -found, .said = -said};
    return 0;
}

int check_refs_add_extent(struct check_refs *refs, uint64_t address, uint64_t blocks)
{
    return steps_add(refs, address, blocks, 1, 0);
}

int check_refs_add_item(struct check_refs *refs, uint64_t address, uint64_t blocks, uint64_t count)
{
    return steps_add(refs, address, blocks, 0, count);
}

static int step_compare(const void *a, const void *b)
{
    const struct check_refs_step *first = a, *second = b;

    return first->address < second->address ? -1 : first->address > second->address;
}

void check_refs_tell(struct check_refs *refs,
                     void (*tell)(void *arg, uint64_t address, uint64_t blocks, uint64_t found,
                                  uint64_t said),
                     void *arg)
{
    int64_t found = 0;
    uint64_t said = 0;

    if (refs->count == 0)
        return;
    qsort(refs->steps, refs->count, sizeof(*refs->steps), step_compare);
    for (size_t i = 0; i < refs->count; i++) {
        const struct check_refs_step *step = &refs->steps[i];

        if (i > 0 && step->address > step[-1].address && (found || said))
            tell(arg, step[-1].address, step->address - step[-1].address, (uint64_t)found, said);
        found += step->found;
        said += step->said;
    }
    assert(found == 0);
    assert(said == 0);
}

void check_refs_done(struct check_refs *refs)
{
    free(refs->steps);
    *refs = (struct check_refs){0};
}
