/* sim_history: what clients asked for and what they were told, and whether that can be true.
 *
 * A history is a set of registers (a block, a name in a directory, a file's size), each with the
 * operations on it in the order in which they began and ended. history_check() decides, register by
 * register and over the whole run, whether there is an order of the operations that keeps each
 * between its begin and its end and in which every read sees the write before it: that is
 * linearizability, and it contains "no acknowledged write is lost". A write whose client died with
 * its node may have happened or not, and may still happen later.
 *
 * Pure: no simulator, no I/O, nothing suspends. A value is the caller's stamp; 0 is what a register
 * holds at first. */
#ifndef TESTS_SIM_HISTORY_H
#define TESTS_SIM_HISTORY_H

#include "s2d/base/base.h"

struct history;

struct history *history_new(void);
void history_free(struct history *history); /* NULL is fine */

/* A new register; its number. what and id name it in reports: "block 17". what: a literal. */
uint32_t history_register(struct history *history, const char *what, uint64_t id);

enum history_kind { HISTORY_READ, HISTORY_WRITE };

struct history_op { /* the caller's note of an operation under way */
    uint32_t index;
};

/* An operation begins. value: what a write writes; not used for a read. who: a client's number, at:
 * the virtual time, both for reports. */
struct history_op history_begin(struct history *history, uint32_t reg, enum history_kind kind,
                                uint64_t value, uint32_t who, uint64_t at_ns);
/* It ended well. value: what a read saw; not used for a write. */
void history_end(struct history *history, struct history_op op, uint64_t value, uint64_t at_ns);
/* The same in two steps, where what it was about is learnt only later: first it ended, then this
 * was its value (of a write, too). A read that is never settled says nothing; a write counts as of
 * unknown fate. */
void history_seal(struct history *history, struct history_op op, uint64_t at_ns);
void history_settle(struct history *history, struct history_op op, uint64_t value);
/* Nobody knows: a write may have happened, or may yet; a read says nothing. What is neither ended
 * nor dropped counts so. */
void history_unknown(struct history *history, struct history_op op);
/* The same, but from now on it cannot happen any more: who wrote it was shut out. */
void history_unknown_until(struct history *history, struct history_op op, uint64_t at_ns);
/* Before any of these: as long as it is under way a write may have happened more than once, another
 * time after others were seen; and one of unknown fate is under way for good. */
void history_repeats(struct history *history, struct history_op op);
/* It certainly did nothing (it was refused). */
void history_drop(struct history *history, struct history_op op);

struct history_counts {
    uint64_t registers, reads, writes, unknown;
};
struct history_counts history_count(const struct history *history);

/* Returns true when every register is linearizable. If not, text says which operation of which
 * register cannot be explained, and what came before it is printed on stdout. */
bool history_check(struct history *history, char *text, size_t text_bytes);

#endif
