/* Commands to a database alone, as tests build the state that they look at. */
#ifndef S2D_TESTS_DATABASE_COMMANDS_H
#define S2D_TESTS_DATABASE_COMMANDS_H

#include "s2d/cluster/database.h"

/* command: stolen; the next one after *index; must not be refused. Returns the number that the
 * reply has under `name`; 0: no reply. */
static inline uint64_t must_apply(struct database *database, uint64_t *index, json_t *command,
                                  const char *name)
{
    struct command_result result;
    uint64_t number;

    assert_non_null(command);
    database_apply(database, ++*index, command, &result);
    if (result.code < 0)
        fail_msg("%s", result.message);
    number = (uint64_t)json_integer_value(json_object_get(result.reply, name));
    command_result_done(&result);
    json_decref(command);
    return number;
}

#endif
