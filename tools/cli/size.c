#include "tools/cli/size.h"

#include <ctype.h>
#include <stdio.h>

static const char units[] = "KMGTP";

/* The unit at text ("", "K", "KiB", "KB", "B") as a shift; -EINVAL. */
static int parse_unit(const char *text)
{
    const char *unit = text[0] ? strchr(units, toupper((unsigned char)text[0])) : NULL;
    int shift = unit ? 10 * (int)(unit - units + 1) : 0;

    text += unit != NULL;
    if (unit && text[0] == 'i' && text[1] == 'B')
        text++;
    if (text[0] == 'B')
        text++;
    return text[0] ? -EINVAL : shift;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
    uint64_t whole = 0, fraction = 0, scale = 1;
    size_t digits = strspn(text, "0123456789");
    int shift;

    if (digits == 0)
        return -EINVAL;
    if (digits > 18)
        return -ERANGE;
    for (; digits > 0; digits--)
        whole = 10 * whole + (uint64_t)(*text++ - '0');
    if (*text == '.') {
        digits = strspn(++text, "0123456789");
        if (digits == 0 || digits > 6)
            return -EINVAL;
        for (; digits > 0; digits--, scale *= 10)
            fraction = 10 * fraction + (uint64_t)(*text++ - '0');
    }
    shift = parse_unit(text);
    if (shift < 0 || (shift == 0 && scale > 1))
        return -EINVAL;
    if (whole >= (UINT64_C(1) << 63) >> shift)
        return -ERANGE;
    *ret_bytes = (whole << shift) +
                 (uint64_t)((double)fraction / (double)scale * (double)(UINT64_C(1) << shift));
    return 0;
}

const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX])
{
    double value = (double)bytes;
    int unit = -1;

    while (value >= 1024 && units[unit + 1]) {
        value /= 1024;
        unit++;
    }
    if (unit >= 0 && value >= 1023.95 && units[unit + 1]) { /* would be printed as "1024.0" */
        value /= 1024;
        unit++;
    }
    if (unit < 0)
        snprintf(text, SIZE_TEXT_MAX, "%llu B", (unsigned long long)bytes);
    else if (value == (double)(uint64_t)value)
        snprintf(text, SIZE_TEXT_MAX, "%.0f %ciB", value, units[unit]);
    else
        snprintf(text, SIZE_TEXT_MAX, "%.1f %ciB", value, units[unit]);
    return text;
}
