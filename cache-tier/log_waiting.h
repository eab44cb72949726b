/* log_waiting: the items of a log that have no place yet, for want of room or because the log's
 * pace holds them back. Part of log.c; nothing here decides who may go.
 *
 * LOG_RESERVED and LOG_AGAIN items go in the order in which they came. LOG_NORMAL ones are fair:
 * each flow (a vdisk) has the same share of the blocks, however much of it waits, and within a flow
 * they keep their order. It is start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996): an
 * item's turn is where its flow's last one ended, or now if that is past, and now is the turn of
 * who went last. */
#ifndef S2D_CACHE_TIER_LOG_WAITING_H
#define S2D_CACHE_TIER_LOG_WAITING_H

#include "cache-tier/log.h"

struct log_waiting {
    struct list items[LOG_CLASSES]; /* struct log_item, by enum log_class */
    uint64_t turn;                  /* of the LOG_NORMAL item that went last */
};

void log_waiting_init(struct log_waiting *waiting);
void log_waiting_push(struct log_waiting *waiting, struct log_item *item, enum log_class class);
/* The next one to go; NULL: none waits. */
struct log_item *log_waiting_first(const struct log_waiting *waiting, enum log_class class);
/* A LOG_NORMAL item is out of the list: it went, or it goes without its turn. */
void log_waiting_went(struct log_waiting *waiting, const struct log_item *item);
void log_waiting_gave_up(struct log_item *item);
/* All of them, in the order in which they would go, to the end of `to`. */
void log_waiting_drain(struct log_waiting *waiting, struct list *to);
void log_waiting_hand_over(struct log_waiting *from, struct log_waiting *to);
static inline bool log_waiting_empty(const struct log_waiting *waiting, enum log_class class)
{
    return list_empty(&waiting->items[class]);
}

#endif
