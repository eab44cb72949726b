/* The checker walks one register's begins and ends in order and keeps the set of *worlds* that are
 * still possible. A world is a value, and which of the operations under way have taken effect in
 * it. Nothing takes effect before it must (Lowe, "Testing for linearizability", 2017): when an
 * operation ends, each world in which it has not happened yet is continued by every order of writes
 * under way that makes it happen, and worlds in which it cannot happen are dropped. None left: the
 * history is not linearizable.
 *
 * What keeps the set small (one or two worlds almost always):
 *   - A read is known beforehand: it takes effect as soon as a world holds its value, since that
 *     changes nothing.
 *   - A write of unknown fate that no read ever saw is left out: an order without it explains as
 *     much. Values that no read saw are all the same to us.
 *   - When a write takes effect, others under way that no read saw may do so right before it, and
 *     those of the same value right with it: nobody can tell. So only values that were read branch.
 *
 * A write that repeats may take effect again in a world in which it has, as long as it is under
 * way; so when it ends, each world goes on both as it is and with this write as the last one. */
#include "tests/sim/sim_history.h"

#include <stdio.h>

#define OPEN_MAX 64       /* operations under way on one register: bits of a word */
#define ALIKE_MAX 4       /* writes of one value, and of unknown fate */
#define WORLDS_MAX 400000 /* more: nobody can judge it, and that is said */
#define PLACES (UINT32_C(1) << 20)
#define NO_OP UINT32_MAX
#define PRINTED 24        /* operations of a register that cannot be explained */
#define UNSEEN UINT64_MAX /* in the place of every value that no read saw */

enum op_fate { OP_OPEN, OP_ENDED, OP_UNKNOWN, OP_SHUT, OP_DROPPED };

struct op {
    uint64_t value;
    uint64_t begin_ns, end_ns;
    uint32_t begin, end; /* positions in the run's order of begins and ends */
    uint32_t reg;
    uint32_t next; /* of the same register, by begin */
    uint32_t who;
    uint8_t kind; /* enum history_kind */
    uint8_t fate; /* enum op_fate */
    bool repeats; /* of a write: it may take effect more than once */
    bool seen;    /* of a write, for the checker: a read saw its value */
};

struct reg {
    const char *what;
    uint64_t id;
    uint32_t first, last, count;
};

struct history {
    struct op *ops;
    uint32_t op_count, op_size;
    struct reg *regs;
    uint32_t reg_count, reg_size;
    uint32_t position;
};

static void *grow(void *array, uint32_t count, uint32_t *size, size_t each)
{
    if (count < *size)
        return array;
    *size = MAX(2 * *size, 256u);
    array = reallocarray(array, *size, each);
    if (!array)
        abort();
    return array;
}

struct history *history_new(void)
{
    struct history *history = calloc(1, sizeof(*history));

    if (!history)
        abort();
    return history;
}

void history_free(struct history *history)
{
    if (!history)
        return;
    free(history->ops);
    free(history->regs);
    free(history);
}

uint32_t history_register(struct history *history, const char *what, uint64_t id)
{
    history->regs =
        grow(history->regs, history->reg_count, &history->reg_size, sizeof(*history->regs));
    history->regs[history->reg_count] =
        (struct reg){.what = what, .id = id, .first = NO_OP, .last = NO_OP};
    return history->reg_count++;
}

struct history_op history_begin(struct history *history, uint32_t number, enum history_kind kind,
                                uint64_t value, uint32_t who, uint64_t at_ns)
{
    struct history_op ret = {.index = history->op_count};
    struct reg *reg = &history->regs[number];

    assert(number < history->reg_count);
    history->ops = grow(history->ops, history->op_count, &history->op_size, sizeof(*history->ops));
    history->ops[history->op_count++] = (struct op){.value = value,
                                                    .begin_ns = at_ns,
                                                    .begin = history->position++,
                                                    .end = UINT32_MAX,
                                                    .reg = number,
                                                    .next = NO_OP,
                                                    .who = who,
                                                    .kind = kind,
                                                    .fate = OP_OPEN};
    if (reg->last == NO_OP)
        reg->first = ret.index;
    else
        history->ops[reg->last].next = ret.index;
    reg->last = ret.index;
    reg->count++;
    return ret;
}

static struct op *open_op(struct history *history, struct history_op op)
{
    assert(op.index < history->op_count);
    assert(history->ops[op.index].fate == OP_OPEN);
    return &history->ops[op.index];
}

void history_end(struct history *history, struct history_op handle, uint64_t value, uint64_t at_ns)
{
    struct op *op = open_op(history, handle);

    if (op->kind == HISTORY_WRITE)
        value = op->value;
    history_seal(history, handle, at_ns);
    history_settle(history, handle, value);
}

void history_seal(struct history *history, struct history_op handle, uint64_t at_ns)
{
    struct op *op = open_op(history, handle);

    assert(op->end == UINT32_MAX);
    op->end = history->position++;
    op->end_ns = at_ns;
}

void history_settle(struct history *history, struct history_op handle, uint64_t value)
{
    struct op *op = open_op(history, handle);

    assert(op->end != UINT32_MAX);
    op->value = value;
    op->fate = OP_ENDED;
}

void history_unknown(struct history *history, struct history_op op)
{
    open_op(history, op)->fate = OP_UNKNOWN;
}

void history_unknown_until(struct history *history, struct history_op op, uint64_t at_ns)
{
    history_seal(history, op, at_ns);
    open_op(history, op)->fate = OP_SHUT;
}

void history_repeats(struct history *history, struct history_op op)
{
    open_op(history, op)->repeats = true;
}

void history_drop(struct history *history, struct history_op op)
{
    open_op(history, op)->fate = OP_DROPPED;
}

struct history_counts history_count(const struct history *history)
{
    struct history_counts counts = {.registers = history->reg_count};

    for (uint32_t i = 0; i < history->op_count; i++) {
        const struct op *op = &history->ops[i];

        if (op->fate == OP_ENDED && op->kind == HISTORY_READ)
            counts.reads++;
        else if (op->fate == OP_ENDED)
            counts.writes++;
        else if (op->kind == HISTORY_WRITE && op->fate != OP_DROPPED)
            counts.unknown++;
    }
    return counts;
}

/* ---- the checker ---- */

struct event { /* a begin or an end of one register */
    uint32_t position;
    uint32_t op;
    bool is_end;
};

struct possible { /* a world */
    uint64_t value;
    uint64_t done; /* a bit to each open operation: it has taken effect here */
};

struct place {      /* of a hash table of worlds */
    uint32_t round; /* free unless it is the checker's */
    uint32_t world;
};

struct checker {
    struct history *history;
    uint32_t open[OPEN_MAX]; /* operations under way; NO_OP: free */
    unsigned open_end;       /* free from here on */
    struct possible *now, *next;
    size_t now_count, next_count;
    struct place *places; /* of checker->next */
    uint32_t round;
    bool too_wide;
};

static int compare_events(const void *a, const void *b)
{
    const struct event *x = a, *y = b;

    return x->position < y->position ? -1 : x->position > y->position;
}

static int compare_values(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* The values that some read of the register saw, sorted. */
static size_t collect_seen(const struct history *history, const struct reg *reg, uint64_t *seen)
{
    size_t count = 0;

    for (uint32_t i = reg->first; i != NO_OP; i = history->ops[i].next) {
        if (history->ops[i].kind == HISTORY_READ && history->ops[i].fate == OP_ENDED)
            seen[count++] = history->ops[i].value;
    }
    qsort(seen, count, sizeof(*seen), compare_values);
    return count;
}

/* Whether an operation says anything about the register. */
static bool counts(const struct op *op)
{
    return op->fate == OP_ENDED ||
           (op->kind == HISTORY_WRITE && op->fate != OP_DROPPED && op->seen);
}

static size_t list_events(const struct history *history, const struct reg *reg,
                          struct event *events)
{
    uint64_t *seen = malloc((reg->count + 1) * sizeof(*seen));
    size_t seen_count, count = 0;

    if (!seen)
        abort();
    seen_count = collect_seen(history, reg, seen);
    for (uint32_t i = reg->first; i != NO_OP; i = history->ops[i].next) {
        struct op *op = &history->ops[i];

        op->seen = bsearch(&op->value, seen, seen_count, sizeof(*seen), compare_values) != NULL;
        if (!counts(op))
            continue;
        events[count++] = (struct event){.position = op->begin, .op = i};
        if (op->fate == OP_ENDED || op->fate == OP_SHUT)
            events[count++] = (struct event){.position = op->end, .op = i, .is_end = true};
    }
    free(seen);
    qsort(events, count, sizeof(*events), compare_events);
    return count;
}

static void add_world(struct checker *checker, struct possible world)
{
    uint64_t hash = (world.value * 0x9e3779b97f4a7c15u ^ world.done) * 0xff51afd7ed558ccdu;
    uint32_t at = (uint32_t)(hash >> 44); /* below PLACES */

    for (; checker->places[at].round == checker->round; at = (at + 1) % PLACES) {
        const struct possible *known = &checker->next[checker->places[at].world];

        if (known->value == world.value && known->done == world.done)
            return;
    }
    if (checker->next_count == WORLDS_MAX) {
        checker->too_wide = true;
        return;
    }
    checker->places[at] = (struct place){checker->round, (uint32_t)checker->next_count};
    checker->next[checker->next_count++] = world;
}

static void drop_worlds(struct checker *checker)
{
    checker->next_count = 0;
    checker->round++;
}

static const struct op *open_at(const struct checker *checker, unsigned slot)
{
    return checker->open[slot] == NO_OP ? NULL : &checker->history->ops[checker->open[slot]];
}

static uint64_t value_of(const struct op *op)
{
    return op->seen ? op->value : UNSEEN;
}

/* Reads of the value that the world holds take effect. */
static struct possible absorb_reads(const struct checker *checker, struct possible world)
{
    for (unsigned slot = 0; slot < checker->open_end; slot++) {
        const struct op *op = open_at(checker, slot);

        if (op && op->kind == HISTORY_READ && op->value == world.value)
            world.done |= UINT64_C(1) << slot;
    }
    return world;
}

/* A write of this value takes effect, and with it what nobody could tell apart. */
static struct possible apply(const struct checker *checker, struct possible world, uint64_t value)
{
    for (unsigned slot = 0; slot < checker->open_end; slot++) {
        const struct op *op = open_at(checker, slot);

        if (op && op->kind == HISTORY_WRITE && (!op->seen || op->value == value))
            world.done |= UINT64_C(1) << slot;
    }
    world.value = value;
    return absorb_reads(checker, world);
}

/* Whether a world may go on by this write. */
static bool may_happen(const struct op *op, const struct possible *world, unsigned slot)
{
    return op && op->kind == HISTORY_WRITE && (op->repeats || !(world->done >> slot & 1));
}

/* Every world that follows from those in checker->next by writes under way, until the operation in
 * slot `target` has happened. The list grows while it is walked; worlds on the way are dropped at
 * the end. */
static void expand(struct checker *checker, unsigned target)
{
    size_t count;

    for (size_t i = 0; i < checker->next_count && !checker->too_wide; i++) {
        if (checker->next[i].done >> target & 1)
            continue;
        for (unsigned slot = 0; slot < checker->open_end; slot++) {
            const struct op *op = open_at(checker, slot);

            if (may_happen(op, &checker->next[i], slot))
                add_world(checker, apply(checker, checker->next[i], value_of(op)));
        }
    }
    count = checker->next_count;
    drop_worlds(checker);
    for (size_t i = 0; i < count; i++) { /* none gets a place behind its own */
        if (checker->next[i].done >> target & 1)
            add_world(checker, checker->next[i]);
    }
}

static void swap_worlds(struct checker *checker)
{
    struct possible *old = checker->now;

    checker->now = checker->next;
    checker->now_count = checker->next_count;
    checker->next = old;
    drop_worlds(checker);
}

static void close_slot(struct checker *checker, unsigned slot)
{
    checker->open[slot] = NO_OP;
    while (checker->open_end > 0 && checker->open[checker->open_end - 1] == NO_OP)
        checker->open_end--;
    for (size_t i = 0; i < checker->now_count; i++)
        checker->now[i].done &= ~(UINT64_C(1) << slot);
}

static bool never_ends(const struct op *op)
{
    return op->kind == HISTORY_WRITE && op->fate != OP_ENDED && op->fate != OP_SHUT;
}

/* A write of unknown fate never ends; but once it has happened in every world it explains nothing
 * more. Where writes are answered by errors for a minute there are hundreds. */
static void close_done(struct checker *checker)
{
    uint64_t done = UINT64_MAX;

    for (size_t i = 0; i < checker->now_count; i++)
        done &= checker->now[i].done;
    for (unsigned slot = checker->open_end; slot-- > 0;) {
        const struct op *op = open_at(checker, slot);

        if (op && done >> slot & 1 && never_ends(op) && !op->repeats)
            close_slot(checker, slot);
    }
}

/* Trims write one value, and where they are answered by errors for a minute there are hundreds of
 * unknown fate. The last of ALIKE_MAX under way stands for those that follow: it may happen again.
 */
static bool one_stands_for(struct checker *checker, const struct op *op)
{
    unsigned alike = 0;

    for (unsigned slot = 0; never_ends(op) && slot < checker->open_end; slot++) {
        const struct op *other = open_at(checker, slot);

        if (!other || !never_ends(other) || other->value != op->value || ++alike < ALIKE_MAX)
            continue;
        checker->history->ops[checker->open[slot]].repeats = true;
        return true;
    }
    return false;
}

static bool begin_op(struct checker *checker, uint32_t op)
{
    if (one_stands_for(checker, &checker->history->ops[op]))
        return true;
    for (unsigned slot = 0; slot < OPEN_MAX; slot++) {
        if (checker->open[slot] != NO_OP)
            continue;
        checker->open[slot] = op;
        checker->open_end = MAX(checker->open_end, slot + 1);
        for (size_t i = 0; i < checker->now_count; i++)
            checker->now[i] = absorb_reads(checker, checker->now[i]);
        return true;
    }
    return false;
}

static bool end_op(struct checker *checker, uint32_t op)
{
    bool may_have_failed = checker->history->ops[op].fate == OP_SHUT;
    bool repeats = checker->history->ops[op].repeats;
    unsigned slot = 0;

    while (checker->open[slot] != op)
        slot++;
    for (size_t i = 0; i < checker->now_count; i++)
        add_world(checker, checker->now[i]);
    for (size_t i = 0; repeats && i < checker->now_count; i++) {
        struct possible again = checker->now[i];

        again.done &= ~(UINT64_C(1) << slot);
        add_world(checker, again);
    }
    expand(checker, slot);
    for (size_t i = 0; may_have_failed && i < checker->now_count; i++)
        add_world(checker, checker->now[i]);
    swap_worlds(checker);
    close_slot(checker, slot);
    close_done(checker);
    return checker->now_count > 0;
}

/* What led to it: the register's operations that began last before `op` ended. */
static void print_before(const struct history *history, const struct reg *reg, const struct op *op)
{
    static const char *const fates[] = {"open", "ended", "unknown", "shut out", "dropped"};
    uint32_t skip = 0;

    for (uint32_t i = reg->first; i != NO_OP; i = history->ops[i].next)
        skip += history->ops[i].begin <= op->end;
    skip -= MIN(skip, (uint32_t)PRINTED);
    for (uint32_t i = reg->first; i != NO_OP; i = history->ops[i].next) {
        const struct op *at = &history->ops[i];

        if (skip > 0)
            skip--;
        else if (at->begin <= op->end)
            printf("  %s %llu: %s of %llu by client %u, %.6f to %.6f s, %s\n", reg->what,
                   (unsigned long long)reg->id, at->kind == HISTORY_READ ? "read" : "write",
                   (unsigned long long)at->value, at->who, (double)at->begin_ns / 1e9,
                   (double)at->end_ns / 1e9, fates[at->fate]);
    }
}

static void describe(const struct history *history, const struct reg *reg, const struct op *op,
                     const char *why, char *text, size_t text_bytes)
{
    print_before(history, reg, op);
    if (op->kind == HISTORY_READ)
        snprintf(text, text_bytes,
                 "%s %llu: the read by client %u from %.6f to %.6f s saw stamp %llu, which %s",
                 reg->what, (unsigned long long)reg->id, op->who, (double)op->begin_ns / 1e9,
                 (double)op->end_ns / 1e9, (unsigned long long)op->value, why);
    else
        snprintf(text, text_bytes,
                 "%s %llu: the write of stamp %llu by client %u from %.6f to %.6f s %s", reg->what,
                 (unsigned long long)reg->id, (unsigned long long)op->value, op->who,
                 (double)op->begin_ns / 1e9, (double)op->end_ns / 1e9, why);
    (void)history;
}

static bool check_register(struct checker *checker, const struct reg *reg, char *text,
                           size_t text_bytes)
{
    struct event *events = malloc((2 * (size_t)reg->count + 1) * sizeof(*events));
    size_t count;
    bool good = true;

    if (!events)
        abort();
    count = list_events(checker->history, reg, events);
    for (unsigned slot = 0; slot < OPEN_MAX; slot++)
        checker->open[slot] = NO_OP;
    checker->open_end = 0;
    checker->now[0] = (struct possible){.value = 0};
    checker->now_count = 1;
    drop_worlds(checker);
    for (size_t i = 0; i < count && good; i++) {
        const struct op *op = &checker->history->ops[events[i].op];

        if (!events[i].is_end && !begin_op(checker, events[i].op))
            checker->too_wide = true;
        else if (events[i].is_end && !end_op(checker, events[i].op))
            good = false;
        if (checker->too_wide)
            good = false;
        if (!good)
            describe(checker->history, reg, op,
                     checker->too_wide ? "is one of too many at once to judge"
                                       : "no order of the writes explains",
                     text, text_bytes);
    }
    free(events);
    return good;
}

bool history_check(struct history *history, char *text, size_t text_bytes)
{
    struct checker checker = {.history = history};
    bool good = true;

    checker.now = malloc(WORLDS_MAX * sizeof(*checker.now));
    checker.next = malloc(WORLDS_MAX * sizeof(*checker.next));
    checker.places = calloc(PLACES, sizeof(*checker.places));
    if (!checker.now || !checker.next || !checker.places)
        abort();
    for (uint32_t i = 0; i < history->reg_count && good; i++)
        good = check_register(&checker, &history->regs[i], text, text_bytes);
    free(checker.now);
    free(checker.next);
    free(checker.places);
    return good;
}
