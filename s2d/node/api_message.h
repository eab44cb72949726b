/* api_message: what nodes ask each other on behalf of a user, as bytes. Either side may send
 * anything: what is taken from it is bounded and checked.
 *
 *   request  data: {"method": "GET", "target": "/v1/local/…", "body": {…}}
 *   reply    header: struct api_message_header; data: JSON or text
 *
 * Pure; nothing suspends. */
#ifndef S2D_NODE_API_MESSAGE_H
#define S2D_NODE_API_MESSAGE_H

#include "s2d/api/api.h"

enum api_message_kind { API_MESSAGE_NOTHING, API_MESSAGE_JSON, API_MESSAGE_TEXT, API_MESSAGE_DATA };

struct api_message_header { /* little-endian, as all of our hosts are */
    uint32_t status;        /* of HTTP */
    uint32_t kind;          /* of what follows */
};
static_assert(sizeof(struct api_message_header) == 8, "part of the wire format");

/* A request for free(). body: taken over; may be NULL. NULL: no memory. */
char *api_message_text(enum api_method method, const char *target, json_t *body);

/* *ret_request borrows from *ret_json: api_request_done(), then json_decref().
 * Returns 0, -EPROTO, -ENOMEM. */
must_check int api_message_parse(const void *data, size_t bytes, json_t **ret_json,
                                 struct api_request *ret_request);

/* The reply to a request: what belongs behind the header. */
struct api_message_data {
    const void *bytes; /* the response's own, or: */
    char *owned;       /* for free() */
    size_t length;
};
struct api_message_data api_message_reply(const struct api_response *response,
                                          struct api_message_header *ret_header);

/* Fills an empty response with a reply. Returns 0, -EPROTO, -ENOMEM. */
must_check int api_message_take(const struct api_message_header *header, const void *data,
                                size_t bytes, struct api_response *response);

#endif
