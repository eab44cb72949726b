#include "s2d/cluster/raft_types.h"

#define CONFIGURATION_VERSION 1

enum raft_member_role raft_configuration_role(const struct raft_configuration *configuration,
                                              uint64_t id)
{
    for (uint32_t i = 0; i < configuration->count; i++)
        if (configuration->members[i].id == id)
            return configuration->members[i].role;
    return RAFT_NO_MEMBER;
}

int raft_configuration_set(struct raft_configuration *configuration, uint64_t id,
                           enum raft_member_role role)
{
    struct raft_member *members = configuration->members;
    uint32_t at = 0;
    bool known;

    if (id == 0 || role > RAFT_WITNESS)
        return -EINVAL;
    while (at < configuration->count && members[at].id < id)
        at++;
    known = at < configuration->count && members[at].id == id;

    if (role == RAFT_NO_MEMBER) {
        if (!known)
            return 0;
        memmove(&members[at], &members[at + 1],
                (configuration->count - at - 1) * sizeof(members[0]));
        configuration->count--;
        return 0;
    }
    if (!known) {
        if (configuration->count == RAFT_MEMBERS_MAX)
            return -ENOSPC;
        memmove(&members[at + 1], &members[at], (configuration->count - at) * sizeof(members[0]));
        configuration->count++;
    }
    members[at] = (struct raft_member){.id = id, .role = role};
    return 0;
}

static uint32_t configuration_count(const struct raft_configuration *configuration,
                                    enum raft_member_role role)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < configuration->count; i++)
        count += configuration->members[i].role == role;
    return count;
}

uint32_t raft_configuration_votes(const struct raft_configuration *configuration)
{
    return configuration_count(configuration, RAFT_VOTER) +
           configuration_count(configuration, RAFT_WITNESS);
}

int raft_configuration_validate(const struct raft_configuration *configuration)
{
    uint64_t before = 0;

    if (configuration->count > RAFT_MEMBERS_MAX)
        return -EINVAL;
    for (uint32_t i = 0; i < configuration->count; i++) {
        const struct raft_member *member = &configuration->members[i];

        if (member->id <= before)
            return -EINVAL;
        if (member->role < RAFT_VOTER || member->role > RAFT_WITNESS)
            return -EINVAL;
        before = member->id;
    }
    if (configuration_count(configuration, RAFT_VOTER) == 0)
        return -EINVAL;
    if (configuration_count(configuration, RAFT_WITNESS) > 1)
        return -EINVAL;
    return raft_configuration_votes(configuration) > RAFT_VOTERS_MAX ? -EINVAL : 0;
}

size_t raft_configuration_encode(const struct raft_configuration *configuration,
                                 uint8_t bytes[RAFT_CONFIGURATION_BYTES_MAX])
{
    uint8_t *to = bytes;

    assert(configuration->count <= RAFT_MEMBERS_MAX);
    *to++ = CONFIGURATION_VERSION;
    *to++ = (uint8_t)configuration->count;
    for (uint32_t i = 0; i < configuration->count; i++) {
        for (unsigned byte = 0; byte < 8; byte++)
            *to++ = (uint8_t)(configuration->members[i].id >> (8 * byte));
        *to++ = (uint8_t)configuration->members[i].role;
    }
    return (size_t)(to - bytes);
}

int raft_configuration_decode(const void *bytes, size_t size,
                              struct raft_configuration *ret_configuration)
{
    struct raft_configuration configuration = {0};
    const uint8_t *from = bytes;

    if (size < 2 || from[0] != CONFIGURATION_VERSION)
        return -EPROTO;
    configuration.count = from[1];
    if (configuration.count > RAFT_MEMBERS_MAX || size != 2 + (size_t)configuration.count * 9)
        return -EPROTO;
    from += 2;
    for (uint32_t i = 0; i < configuration.count; i++, from += 9) {
        struct raft_member *member = &configuration.members[i];

        for (unsigned byte = 0; byte < 8; byte++)
            member->id |= (uint64_t)from[byte] << (8 * byte);
        if (from[8] > RAFT_WITNESS)
            return -EPROTO;
        member->role = (enum raft_member_role)from[8];
    }
    if (configuration.count > 0 && raft_configuration_validate(&configuration) < 0)
        return -EPROTO;

    *ret_configuration = configuration;
    return 0;
}

struct raft_entry *raft_entry_new(uint64_t index, const struct raft_view *view)
{
    struct raft_entry *entry = malloc(sizeof(*entry) + view->size);

    if (!entry)
        return NULL;
    *entry = (struct raft_entry){
        .index = index,
        .term = view->term,
        .type = view->type,
        .size = view->size,
        .references = 1,
    };
    if (view->size > 0)
        memcpy(entry->data, view->data, view->size);
    return entry;
}

struct raft_entry *raft_entry_get(struct raft_entry *entry)
{
    assert(entry->references > 0);
    entry->references++;
    return entry;
}

void raft_entry_put(struct raft_entry *entry)
{
    if (!entry)
        return;
    assert(entry->references > 0);
    if (--entry->references == 0)
        free(entry);
}
