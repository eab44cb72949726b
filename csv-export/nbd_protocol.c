#include "csv-export/nbd_protocol.h"

#include <endian.h>

#define HELLO_MAGIC UINT64_C(0x4e42444d41474943)  /* "NBDMAGIC" */
#define OPTION_MAGIC UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define OPTION_REPLY_MAGIC UINT64_C(0x0003e889045565a9)
#define REQUEST_MAGIC 0x25609513u
#define SIMPLE_REPLY_MAGIC 0x67446698u
#define CHUNK_MAGIC 0x668e33efu

static void put_u16(uint8_t *bytes, uint16_t value)
{
    value = htobe16(value);
    memcpy(bytes, &value, sizeof(value));
}

void nbd_put_u32(uint8_t bytes[4], uint32_t value)
{
    value = htobe32(value);
    memcpy(bytes, &value, sizeof(value));
}

static void put_u64(uint8_t *bytes, uint64_t value)
{
    value = htobe64(value);
    memcpy(bytes, &value, sizeof(value));
}

static uint16_t get_u16(const uint8_t *bytes)
{
    uint16_t value;

    memcpy(&value, bytes, sizeof(value));
    return be16toh(value);
}

static uint32_t get_u32(const uint8_t *bytes)
{
    uint32_t value;

    memcpy(&value, bytes, sizeof(value));
    return be32toh(value);
}

static uint64_t get_u64(const uint8_t *bytes)
{
    uint64_t value;

    memcpy(&value, bytes, sizeof(value));
    return be64toh(value);
}

uint32_t nbd_error(int error)
{
    assert(error <= 0);
    switch (-error) {
    case 0:
        return 0;
    case EPERM:
    case EACCES:
    case EROFS:
    case EBUSY:
        return 1; /* EPERM */
    case ENOMEM:
        return 12;
    case EINVAL:
        return 22;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return 28; /* ENOSPC */
    case EOVERFLOW:
        return 75;
    case EOPNOTSUPP:
        return 95; /* ENOTSUP */
    case ESHUTDOWN:
    case ECANCELED:
        return 108; /* ESHUTDOWN */
    default:
        return 5; /* EIO */
    }
}

/* ---- handshake ---- */

void nbd_put_hello(uint8_t bytes[NBD_HELLO_BYTES])
{
    put_u64(bytes, HELLO_MAGIC);
    put_u64(bytes + 8, OPTION_MAGIC);
    put_u16(bytes + 16, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
}

int nbd_get_client_flags(const uint8_t bytes[NBD_CLIENT_FLAGS_BYTES], bool *ret_zeroes)
{
    uint32_t flags = get_u32(bytes);

    if (flags & ~(uint32_t)(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES))
        return -EPROTO;
    if (!(flags & NBD_FIXED_NEWSTYLE))
        return -EPROTO;
    *ret_zeroes = !(flags & NBD_NO_ZEROES);
    return 0;
}

int nbd_get_option(const uint8_t bytes[NBD_OPTION_BYTES], struct nbd_option_header *ret_header)
{
    uint32_t length = get_u32(bytes + 12);

    if (get_u64(bytes) != OPTION_MAGIC || length > NBD_OPTION_MAX)
        return -EPROTO;
    ret_header->option = get_u32(bytes + 8);
    ret_header->length = length;
    return 0;
}

void nbd_put_option_reply(uint8_t bytes[NBD_OPTION_REPLY_BYTES], uint32_t option, uint32_t type,
                          uint32_t length)
{
    put_u64(bytes, OPTION_REPLY_MAGIC);
    nbd_put_u32(bytes + 8, option);
    nbd_put_u32(bytes + 12, type);
    nbd_put_u32(bytes + 16, length);
}

/* What is left of an option's data; a read beyond the end leaves it in error. */
struct reader {
    const uint8_t *at, *end;
    bool short_data;
};

static const uint8_t *take(struct reader *reader, uint32_t length)
{
    const uint8_t *at = reader->at;

    if (reader->short_data || length > (size_t)(reader->end - at)) {
        reader->short_data = true;
        return NULL;
    }
    reader->at += length;
    return at;
}

static uint32_t take_u32(struct reader *reader)
{
    const uint8_t *at = take(reader, 4);

    return at ? get_u32(at) : 0;
}

static uint16_t take_u16(struct reader *reader)
{
    const uint8_t *at = take(reader, 2);

    return at ? get_u16(at) : 0;
}

static struct nbd_string take_string(struct reader *reader)
{
    uint32_t length = take_u32(reader);
    const uint8_t *at = take(reader, length);

    return (struct nbd_string){.bytes = (const char *)at, .length = at ? length : 0};
}

int nbd_check_name(const char *bytes, uint32_t length)
{
    if (length > NBD_NAME_MAX || (length > 0 && memchr(bytes, 0, length)))
        return -EINVAL;
    return 0;
}

int nbd_get_info_request(const uint8_t *data, uint32_t length, struct nbd_info_request *ret_request)
{
    struct reader reader = {.at = data, .end = data + length};
    struct nbd_info_request request = {.name = take_string(&reader)};
    uint16_t count = take_u16(&reader);

    for (uint16_t i = 0; i < count && !reader.short_data; i++) {
        uint16_t info = take_u16(&reader);

        request.wants_name |= info == NBD_INFO_NAME;
        request.wants_block_size |= info == NBD_INFO_BLOCK_SIZE;
    }
    if (reader.short_data || reader.at != reader.end)
        return -EINVAL;
    if (nbd_check_name(request.name.bytes, request.name.length) < 0)
        return -EINVAL;
    *ret_request = request;
    return 0;
}

static bool string_is(struct nbd_string string, const char *text)
{
    return string.length == strlen(text) && memcmp(string.bytes, text, string.length) == 0;
}

int nbd_get_meta_request(const uint8_t *data, uint32_t length, bool list,
                         struct nbd_meta_request *ret_request)
{
    struct reader reader = {.at = data, .end = data + length};
    struct nbd_meta_request request = {.name = take_string(&reader)};

    request.queries = take_u32(&reader);
    request.allocation = list && request.queries == 0; /* all that there are */
    for (uint32_t i = 0; i < request.queries && !reader.short_data; i++) {
        struct nbd_string query = take_string(&reader);

        if (reader.short_data)
            break;
        request.allocation |=
            string_is(query, NBD_CONTEXT_ALLOCATION) || (list && string_is(query, "base:"));
    }
    if (reader.short_data || reader.at != reader.end)
        return -EINVAL;
    if (nbd_check_name(request.name.bytes, request.name.length) < 0)
        return -EINVAL;
    *ret_request = request;
    return 0;
}

void nbd_put_info_export(uint8_t bytes[NBD_INFO_EXPORT_BYTES], const struct nbd_export_info *info)
{
    put_u16(bytes, NBD_INFO_EXPORT);
    put_u64(bytes + 2, info->size_bytes);
    put_u16(bytes + 10, info->flags);
}

void nbd_put_info_block_size(uint8_t bytes[NBD_INFO_BLOCK_SIZE_BYTES],
                             const struct nbd_export_info *info)
{
    put_u16(bytes, NBD_INFO_BLOCK_SIZE);
    nbd_put_u32(bytes + 2, info->block_min);
    nbd_put_u32(bytes + 6, info->block_preferred);
    nbd_put_u32(bytes + 10, info->block_max);
}

void nbd_put_export_name(uint8_t bytes[NBD_EXPORT_NAME_BYTES], const struct nbd_export_info *info)
{
    memset(bytes, 0, NBD_EXPORT_NAME_BYTES);
    put_u64(bytes, info->size_bytes);
    put_u16(bytes + 8, info->flags);
}

void nbd_put_meta_context(uint8_t bytes[NBD_META_CONTEXT_BYTES], uint32_t id)
{
    nbd_put_u32(bytes, id);
    memcpy(bytes + 4, NBD_CONTEXT_ALLOCATION, sizeof(NBD_CONTEXT_ALLOCATION) - 1);
}

/* ---- transmission ---- */

int nbd_get_request(const uint8_t bytes[NBD_REQUEST_BYTES], struct nbd_request_header *ret_header)
{
    if (get_u32(bytes) != REQUEST_MAGIC)
        return -EPROTO;
    *ret_header = (struct nbd_request_header){
        .flags = get_u16(bytes + 4),
        .command = get_u16(bytes + 6),
        .cookie = get_u64(bytes + 8),
        .offset = get_u64(bytes + 16),
        .length = get_u32(bytes + 24),
    };
    return 0;
}

struct command_rule {
    uint16_t flags; /* that it may carry */
    bool known, ranged, changes;
};

static const struct command_rule command_rules[] = {
    [NBD_CMD_READ] = {.known = true, .ranged = true, .flags = NBD_CMD_FLAG_DF},
    [NBD_CMD_WRITE] = {.known = true, .ranged = true, .changes = true},
    [NBD_CMD_DISC] = {.known = true},
    [NBD_CMD_FLUSH] = {.known = true},
    [NBD_CMD_TRIM] = {.known = true, .ranged = true, .changes = true},
    [NBD_CMD_CACHE] = {.known = true, .ranged = true},
    [NBD_CMD_WRITE_ZEROES] = {.known = true,
                              .ranged = true,
                              .changes = true,
                              .flags = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO},
    [NBD_CMD_BLOCK_STATUS] = {.known = true, .ranged = true, .flags = NBD_CMD_FLAG_REQ_ONE},
};

static int check_range(const struct nbd_request_header *header, const struct nbd_export_info *info)
{
    bool is_write = header->command == NBD_CMD_WRITE || header->command == NBD_CMD_WRITE_ZEROES;

    if (header->length == 0)
        return -EINVAL;
    if (header->offset % info->block_min || header->length % info->block_min)
        return -EINVAL;
    if (header->offset > info->size_bytes || header->length > info->size_bytes - header->offset)
        return is_write ? -ENOSPC : -EINVAL;
    return 0;
}

int nbd_check_request(const struct nbd_request_header *header, const struct nbd_export_info *info,
                      bool structured, bool has_allocation_context)
{
    const struct command_rule *rule;

    if (header->command >= ARRAY_SIZE(command_rules))
        return -EINVAL;
    rule = &command_rules[header->command];
    /* FUA is legal on every command: those it means nothing to ignore it. */
    if (!rule->known || (header->flags & ~(rule->flags | NBD_CMD_FLAG_FUA)))
        return -EINVAL;
    if ((header->flags & NBD_CMD_FLAG_DF) && !structured)
        return -EINVAL;
    if (header->command == NBD_CMD_BLOCK_STATUS && !has_allocation_context)
        return -EINVAL;
    if (rule->changes && (info->flags & NBD_READ_ONLY))
        return -EPERM;
    if (header->command == NBD_CMD_READ && header->length > NBD_LENGTH_MAX)
        return -EINVAL;
    if ((header->flags & NBD_CMD_FLAG_DF) && header->length > NBD_DATA_CHUNK_MAX)
        return -EOVERFLOW;
    return rule->ranged ? check_range(header, info) : 0;
}

size_t nbd_put_simple_reply(uint8_t bytes[NBD_REPLY_HEADER_MAX], uint64_t cookie, int error)
{
    nbd_put_u32(bytes, SIMPLE_REPLY_MAGIC);
    nbd_put_u32(bytes + 4, nbd_error(error));
    put_u64(bytes + 8, cookie);
    return NBD_SIMPLE_REPLY_BYTES;
}

static void put_chunk(uint8_t *bytes, uint64_t cookie, bool done, uint16_t type, uint32_t length)
{
    nbd_put_u32(bytes, CHUNK_MAGIC);
    put_u16(bytes + 4, done ? NBD_CHUNK_DONE : 0);
    put_u16(bytes + 6, type);
    put_u64(bytes + 8, cookie);
    nbd_put_u32(bytes + 16, length);
}

size_t nbd_put_none_chunk(uint8_t bytes[NBD_REPLY_HEADER_MAX], uint64_t cookie)
{
    put_chunk(bytes, cookie, true, NBD_CHUNK_NONE, 0);
    return NBD_CHUNK_BYTES;
}

size_t nbd_put_data_chunk(uint8_t bytes[NBD_REPLY_HEADER_MAX], uint64_t cookie, bool done,
                          uint64_t offset, uint32_t length)
{
    put_chunk(bytes, cookie, done, NBD_CHUNK_OFFSET_DATA, length + 8);
    put_u64(bytes + NBD_CHUNK_BYTES, offset);
    return NBD_DATA_CHUNK_BYTES;
}

size_t nbd_put_error_chunk(uint8_t bytes[NBD_REPLY_HEADER_MAX], uint64_t cookie, int error)
{
    put_chunk(bytes, cookie, true, NBD_CHUNK_ERROR, 6);
    nbd_put_u32(bytes + NBD_CHUNK_BYTES, nbd_error(error));
    put_u16(bytes + NBD_CHUNK_BYTES + 4, 0);
    return NBD_ERROR_CHUNK_BYTES;
}

size_t nbd_put_status_chunk(uint8_t bytes[NBD_REPLY_HEADER_MAX], uint64_t cookie,
                            uint32_t extent_count)
{
    put_chunk(bytes, cookie, true, NBD_CHUNK_BLOCK_STATUS, 4 + extent_count * NBD_EXTENT_BYTES);
    nbd_put_u32(bytes + NBD_CHUNK_BYTES, NBD_CONTEXT_ALLOCATION_ID);
    return NBD_STATUS_CHUNK_BYTES;
}

void nbd_put_extent(uint8_t bytes[NBD_EXTENT_BYTES], uint32_t length, uint32_t flags)
{
    nbd_put_u32(bytes, length);
    nbd_put_u32(bytes + 4, flags);
}
