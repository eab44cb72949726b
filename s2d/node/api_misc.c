/* Events, jobs, metrics. */
#include <stdio.h>

#include "s2d/base/co.h"
#include "s2d/base/metrics.h"
#include "s2d/node/api_private.h"

#define LOOK_NS (200 * MS)
#define WAIT_MS_MAX 30000
#define LAST_MAX 2000

/* ---- events ---- */

static json_t *events_from(const struct database *database, size_t first)
{
    const struct event_record *event;
    json_t *list = json_array();

    for (size_t i = first; (event = database_at(database, TABLE_EVENT, i)); i++)
        json_array_append_new(list, api_record_json(TABLE_EVENT, event));
    return list;
}

/* ?last=N: the last N; or ?after=ID: those with a higher id, of which there may be none yet:
 * &wait_ms= waits for them. */
static void co_events(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    struct api_arguments arguments = {.request = request, .response = response};
    uint64_t after = api_query_u64_or(&arguments, "after", 0);
    uint64_t last = api_query_u64_or(&arguments, "last", LAST_MAX);
    uint64_t wait_ms = MIN(api_query_u64_or(&arguments, "wait_ms", 0), (uint64_t)WAIT_MS_MAX);
    struct database *database = arguments.refused ? NULL : api_database(context, response);
    uint64_t deadline_ns = io_now_ns(node_io(context->node)) + wait_ms * MS;
    size_t count, first;

    if (!database)
        return;
    for (;;) {
        database = node_database(context->node);
        count = database_count(database, TABLE_EVENT);
        first = MAX(database_lower_bound(database, TABLE_EVENT, after + 1),
                    count - MIN(count, (size_t)last));
        if (first < count || io_now_ns(node_io(context->node)) >= deadline_ns ||
            co_sleep_ns(LOOK_NS) < 0)
            break;
    }
    api_answer_json(response, events_from(database, first));
}

/* ---- jobs ---- */

static void co_list_jobs(void *arg, const struct api_request *request,
                         struct api_response *response)
{
    const struct database *database = api_database(arg, response);
    const struct job_record *job;
    json_t *list;

    (void)request;
    if (!database)
        return;
    list = json_array();
    for (size_t i = 0; (job = database_at(database, TABLE_JOB, i)); i++)
        json_array_append_new(list, api_record_json(TABLE_JOB, job));
    api_answer_json(response, list);
}

static void co_show_job(void *arg, const struct api_request *request, struct api_response *response)
{
    const struct database *database = api_database(arg, response);
    const char *text = api_parameter(request, "job");
    const struct job_record *job =
        database ? database_find(database, TABLE_JOB, strtoull(text, NULL, 10)) : NULL;

    if (job)
        api_answer_json(response, api_record_json(TABLE_JOB, job));
    else if (database)
        api_answer_error(response, -ENOENT, "there is no job '%.40s': 's2d job list' names all",
                         text);
}

/* state: as it is to be. One that is so already is fine. */
static void co_set_job_state(struct api_context *context, const struct api_request *request,
                             struct api_response *response, enum job_state state)
{
    struct database *database = api_database(context, response);
    const char *text = api_parameter(request, "job");
    uint64_t id = strtoull(text, NULL, 10);

    if (!database)
        return;
    if (!database_find(database, TABLE_JOB, id))
        co_show_job(context, request, response); /* says so */
    else if (co_api_propose(context,
                            json_pack("{s:s,s:I,s:s}", "verb", "job.update", "job", (json_int_t)id,
                                      "state", job_state_words[state]),
                            response, NULL) == 0)
        co_show_job(context, request, response);
}

static void co_pause_job(void *arg, const struct api_request *request,
                         struct api_response *response)
{
    co_set_job_state(arg, request, response, JOB_PAUSED);
}

static void co_resume_job(void *arg, const struct api_request *request,
                          struct api_response *response)
{
    co_set_job_state(arg, request, response, JOB_RUNNING);
}

/* ---- metrics ---- */

static void answer_metrics(struct api_context *context, struct api_response *response)
{
    struct metrics *metrics = node_metrics(context->node);
    char *text = NULL;

    if (!metrics)
        api_answer_error(response, -EAGAIN, "this node has no metrics yet");
    else if (metrics_render(metrics, &text) < 0)
        api_answer_error(response, -ENOMEM, "out of memory");
    else
        api_answer_data(response, text, strlen(text), "text/plain; version=0.0.4; charset=utf-8");
}

/* For Prometheus: of this node alone, as is usual there. */
static void co_metrics(void *arg, const struct api_request *request, struct api_response *response)
{
    (void)request;
    answer_metrics(arg, response);
}

/* Who is asked, also while it belongs to no cluster. */
static void co_who(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;

    (void)request;
    api_answer_json(response, json_pack("{s:s,s:b,s:I}", "name", node_name(context->node), "member",
                                        node_is_member(context->node), "id",
                                        (json_int_t)node_id(context->node)));
}

const struct api_route api_misc_routes[] = {
    {API_GET, "/v1/events", co_events},
    {API_GET, "/v1/jobs", co_list_jobs},
    {API_GET, "/v1/jobs/{job}", co_show_job},
    {API_POST, "/v1/jobs/{job}/pause", co_pause_job},
    {API_POST, "/v1/jobs/{job}/resume", co_resume_job},
    {API_GET, "/metrics", co_metrics},
    {API_GET, "/v1/self", co_who},
    {0, NULL, NULL},
};
