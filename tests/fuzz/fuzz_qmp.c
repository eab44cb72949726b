/* The parser of QEMU's lines: any bytes give 0 or an error, and what it gives can be released. */
#include "hv/qmp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qmp_message message;

    if (qmp_parse((const char *)data, size, &message) < 0)
        return 0;
    assert(strlen(message.event) < QMP_EVENT_BYTES);
    assert(strlen(message.error) < QMP_ERROR_BYTES);
    qmp_message_done(&message);
    assert(!message.value);
    return 0;
}
