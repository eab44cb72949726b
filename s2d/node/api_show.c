/* Showing records of the database next to what the nodes report of them: a list, or one. */
#include "s2d/node/api_private.h"

void co_api_list(struct api_context *context, const struct api_kind *kind,
                 struct api_response *response)
{
    const struct database *database = api_database(context, response);
    const void *record;
    struct api_reports reports;
    json_t *list;

    if (!database)
        return;
    co_api_gather(context, &reports);
    database = node_database(context->node); /* another one, if a snapshot came meanwhile */
    list = json_array();
    for (size_t i = 0; (record = database_at(database, kind->table, i)); i++) {
        if (!kind->is_hidden || !kind->is_hidden(record))
            json_array_append_new(list, kind->to_json(database, record, &reports));
    }
    api_reports_done(&reports);
    api_answer_json(response, list);
}

void co_api_answer(struct api_context *context, const struct api_kind *kind, uint64_t id,
                   struct api_response *response)
{
    const struct database *database = node_database(context->node);
    const void *record = database_find(database, kind->table, id);
    struct api_reports reports = {NULL};

    co_api_gather_from(context, record ? kind->reporter(database, record) : 0, &reports);
    database = node_database(context->node);
    record = database_find(database, kind->table, id);
    if (record) {
        api_answer_json(response, kind->to_json(database, record, &reports));
    } else {
        api_answer_error(response, -ENOENT, "the %s is gone", kind->noun);
    }
    api_reports_done(&reports);
}
