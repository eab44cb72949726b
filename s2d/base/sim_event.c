/* Chance and time of a simulated world: streams of random numbers, and the heap of events. */
#include "s2d/base/sim_world.h"

/* ---- randomness: splitmix64 ---- */

uint64_t sim_rng_next(struct sim_rng *rng)
{
    uint64_t x = rng->state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void sim_rng_init(struct sim_rng *rng, uint64_t seed, uint64_t stream)
{
    rng->state = seed;
    rng->state = sim_rng_next(rng) ^ stream;
    rng->state = sim_rng_next(rng);
}

uint64_t sim_rng_between(struct sim_rng *rng, uint64_t min, uint64_t max)
{
    uint64_t draw = sim_rng_next(rng);

    return min < max ? min + draw % (max - min) : min;
}

bool sim_rng_chance(struct sim_rng *rng, unsigned percent)
{
    return sim_rng_next(rng) % 100 < percent;
}

/* ---- events: a binary heap that starts at 1 ---- */

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void heap_place(struct sim *sim, size_t index, struct sim_event *event)
{
    sim->heap[index] = event;
    event->heap_index = index;
}

static void heap_sift(struct sim *sim, size_t index, struct sim_event *event)
{
    while (index > 1 && event_before(event, sim->heap[index / 2])) {
        heap_place(sim, index, sim->heap[index / 2]);
        index /= 2;
    }
    for (;;) {
        size_t child = 2 * index;

        if (child < sim->heap_count && event_before(sim->heap[child + 1], sim->heap[child]))
            child++;
        if (child > sim->heap_count || !event_before(sim->heap[child], event))
            break;
        heap_place(sim, index, sim->heap[child]);
        index = child;
    }
    heap_place(sim, index, event);
}

void sim_event_init(struct sim_event *event, io_callback *fire, void *arg)
{
    *event = (struct sim_event){.fire = fire, .arg = arg};
}

void sim_event_schedule(struct sim *sim, struct sim_event *event, uint64_t at_ns)
{
    sim_event_cancel(sim, event);
    if (sim->heap_count + 2 > sim->heap_size) {
        sim->heap_size = MAX(2 * sim->heap_size, (size_t)256);
        sim->heap = reallocarray(sim->heap, sim->heap_size, sizeof(struct sim_event *));
        if (!sim->heap)
            abort(); /* a test without memory has nothing to test */
    }
    event->at_ns = MAX(at_ns, sim->now_ns);
    event->order = ++sim->event_order;
    heap_sift(sim, ++sim->heap_count, event);
}

void sim_event_cancel(struct sim *sim, struct sim_event *event)
{
    size_t index = event->heap_index;
    struct sim_event *last;

    if (index == 0)
        return;
    assert(sim->heap[index] == event);
    event->heap_index = 0;
    last = sim->heap[sim->heap_count--];
    if (last != event)
        heap_sift(sim, index, last);
}
