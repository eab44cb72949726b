/* The switch of planted.h. Read before main(), so that no program needs to know. */
#include "s2d/base/planted.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct planted_row {
    const char *name, *hunter, *what;
};

#define PLANTED_ROW(name, hunter, what) [PLANTED_##name] = {#name, hunter, what},
static const struct planted_row planted_rows[] = {PLANTED_TABLE(PLANTED_ROW)};
#undef PLANTED_ROW

static enum planted_mistake planted_now;
static uint64_t planted_asked; /* how often the code came by */
static bool planted_silent;    /* a mistake is on, and invariants are not to catch it */

bool planted_is_on(enum planted_mistake mistake)
{
    if (mistake != planted_now)
        return false;
    planted_asked++;
    return true;
}

bool planted_is_silent(void)
{
    return planted_silent;
}

/* As tests/sim/planted writes it: TAIL_FORGOTTEN is tail-forgotten. */
static void print_name(FILE *file, const char *name)
{
    for (; *name; name++)
        fputc(*name == '_' ? '-' : tolower((unsigned char)*name), file);
}

static bool same_name(const char *name, const char *asked)
{
    for (; *name && *asked; name++, asked++) {
        if (*name != (*asked == '-' ? '_' : toupper((unsigned char)*asked)))
            return false;
    }
    return *name == *asked;
}

static void print_table(void)
{
    for (unsigned i = PLANTED_NOTHING + 1; i < PLANTED_COUNT; i++) {
        print_name(stdout, planted_rows[i].name);
        printf("\t%s\t%s\n", planted_rows[i].hunter, planted_rows[i].what);
    }
}

__attribute__((constructor)) static void planted_switch(void)
{
    const char *asked = getenv("S2D_PLANTED");

    if (!asked || !*asked)
        return;
    if (strcmp(asked, "list") == 0) {
        print_table();
        exit(0);
    }
    for (unsigned i = PLANTED_NOTHING + 1; i < PLANTED_COUNT; i++) {
        if (same_name(planted_rows[i].name, asked))
            planted_now = i;
    }
    if (planted_now == PLANTED_NOTHING) {
        fprintf(stderr, "no mistake is called '%s'; S2D_PLANTED=list prints them\n", asked);
        exit(2);
    }
    planted_silent = !getenv("S2D_INVARIANTS");
}

/* A mistake that the run never had occasion to make cannot be caught: tests/sim/planted says so. */
__attribute__((destructor)) static void planted_tell(void)
{
    if (planted_now != PLANTED_NOTHING)
        fprintf(stderr, "planted: made %llu times\n", (unsigned long long)planted_asked);
}
