/* What request.c and route.c share. */
#ifndef S2D_API_REQUEST_PRIVATE_H
#define S2D_API_REQUEST_PRIVATE_H

#include "s2d/api/api.h"

#define API_NAME_MAX 32 /* of a parameter in a pattern, with the 0 */

/* A decoded, 0-terminated copy of [text, text + length) in the request's scratch. NULL: half an
 * escape, or %00. The scratch has room for every byte of the target once. */
char *request_decode(struct api_request *request, const char *text, size_t length);

#endif
