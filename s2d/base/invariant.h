/* invariant: where the code relies on I1 to I10 (docs/protocol.md; which is asserted where:
 * tests/README.md). INVARIANT(I2, …) is an assert() that names its invariant; `grep INVARIANT`
 * finds all of them. Comparisons of what is at hand: they are in every build, on the write path
 * too.
 *
 * A mistake that is made on purpose (planted.h) must be caught by the tests' own checkers, or these
 * would prove nothing; so invariants are silent then, unless the environment's S2D_INVARIANTS is 1:
 * tests/sim/planted shows with it that each of them can fail. */
#ifndef S2D_BASE_INVARIANT_H
#define S2D_BASE_INVARIANT_H

#include <assert.h>

#include "s2d/base/planted.h"

#define INVARIANT(name, condition) assert(#name && ((condition) || PLANTED_SILENT()))

#endif
