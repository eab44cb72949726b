#include "cache-tier/log_waiting.h"
#include "s2d/base/planted.h"

void log_waiting_init(struct log_waiting *waiting)
{
    for (int class = 0; class < LOG_CLASSES; class ++)
        list_init(&waiting->items[class]);
    waiting->turn = 0;
}

/* An item that was turned away takes no room, but stands behind the others of its flow. */
static uint64_t item_cost(const struct log_item *item)
{
    return item->result == 0 ? item->data_blocks + item->owed_blocks + 1 : 0;
}

static void take_turn(struct log_waiting *waiting, struct log_item *item)
{
    item->turn = waiting->turn;
    if (!item->flow || PLANTED(THROTTLE_UNFAIR))
        return;
    item->turn = MAX(item->turn, item->flow->next_turn);
    item->flow->next_turn = item->turn + item_cost(item);
}

void log_waiting_push(struct log_waiting *waiting, struct log_item *item, enum log_class class)
{
    struct list *items = &waiting->items[class], *behind = items->prev;

    if (class == LOG_NORMAL) {
        take_turn(waiting, item);
        while (behind != items && list_entry(behind, struct log_item, node)->turn > item->turn)
            behind = behind->prev;
    }
    list_insert_before(behind->next, &item->node);
}

struct log_item *log_waiting_first(const struct log_waiting *waiting, enum log_class class)
{
    const struct list *items = &waiting->items[class];

    return list_empty(items) ? NULL : list_first(items, struct log_item, node);
}

void log_waiting_went(struct log_waiting *waiting, const struct log_item *item)
{
    waiting->turn = MAX(waiting->turn, item->turn);
}

void log_waiting_gave_up(struct log_item *item)
{
    if (item->flow)
        item->flow->next_turn = MIN(item->flow->next_turn, item->turn);
}

void log_waiting_drain(struct log_waiting *waiting, struct list *to)
{
    for (int class = LOG_CLASSES - 1; class >= 0; class --)
        list_splice(&waiting->items[class], to);
}

void log_waiting_hand_over(struct log_waiting *from, struct log_waiting *to)
{
    to->turn = MAX(to->turn, from->turn);
    for (int class = 0; class < LOG_CLASSES; class ++)
        list_splice(&from->items[class], &to->items[class]);
}
