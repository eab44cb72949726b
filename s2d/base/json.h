/* json: text from outside becomes JSON here, and nowhere else. jansson parses, prints and frees by
 * recursion, on the small stack of a coroutine: who sent the text may not choose how deep that
 * goes.
 *
 * Pure; a library of its own (s2d_json), for what needs no loop. */
#ifndef S2D_BASE_JSON_H
#define S2D_BASE_JSON_H

#include <jansson.h>

#include "s2d/base/base.h"

#define JSON_LEVELS_MAX 16 /* objects and arrays within each other */

/* text: `bytes` long, any bytes; may be NULL when bytes is 0. flags: jansson's for decoding; unless
 * JSON_DECODE_ANY is among them, only an object is taken. *ret_json: the caller's.
 * Returns 0, -EINVAL (no JSON, or no object), -E2BIG (deeper than JSON_LEVELS_MAX), -ENOMEM. */
must_check int json_read(const void *text, size_t bytes, size_t flags, json_t **ret_json);

/* The same for those who do not ask why, without flags. NULL: refused. */
json_t *json_parse(const void *text, size_t bytes);

#endif
