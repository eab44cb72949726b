/* planted: mistakes that can be switched on, to show that the tests can fail. In a build with
 * S2D_PLANTED=ON (tests/sim/planted makes it, build/planted) the environment's S2D_PLANTED names
 * the one mistake that the process makes; PLANTED(NAME) is true there, and false, a constant, in
 * every other build. S2D_PLANTED=list prints the table below. The mistakes of lore's protocol model
 * that have a place in the code bear the model's name in brackets.
 *
 * X(NAME, hunter, what it does). The hunter is the program that should catch it, as
 * tests/sim/planted calls it; it may be caught as a wrong result or by an assertion. */
#ifndef S2D_BASE_PLANTED_H
#define S2D_BASE_PLANTED_H

#include <stdbool.h>

#include "s2d/base/planted_table.h"

#define PLANTED_ENUMERATOR(name, hunter, what) PLANTED_##name,
enum planted_mistake { PLANTED_NOTHING, PLANTED_TABLE(PLANTED_ENUMERATOR) PLANTED_COUNT };
#undef PLANTED_ENUMERATOR

#ifdef S2D_PLANTED
bool planted_is_on(enum planted_mistake mistake);
#define PLANTED(name) planted_is_on(PLANTED_##name)
bool planted_is_silent(void); /* invariant.h */
#define PLANTED_SILENT() planted_is_silent()
#else
#define PLANTED(name) ((void)PLANTED_##name, false)
#define PLANTED_SILENT() false
#endif

#endif
