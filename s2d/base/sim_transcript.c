/* What happened, by machine and virtual time: as a hash, as the last steps, as text. */
#include <inttypes.h>

#include "s2d/base/checksum.h"
#include "s2d/base/sim_world.h"

static const struct {
    const char *name, *a, *b;
} record_names[] = {
    [RECORD_START] = {"start", "life", ""},
    [RECORD_EXIT] = {"exit", "", ""},
    [RECORD_CRASH] = {"crash", "kind", ""},
    [RECORD_PAUSE] = {"pause", "", ""},
    [RECORD_RESUME] = {"resume", "", ""},
    [RECORD_CLOCK_RATE] = {"clock rate", "ppm", ""},
    [RECORD_TURN] = {"timer", "clock_ns", ""},
    [RECORD_CALL] = {"planned call", "", ""},
    [RECORD_OPEN] = {"open", "result", ""},
    [RECORD_READ] = {"read", "offset", "hash"},
    [RECORD_WRITE] = {"write", "offset", "hash"},
    [RECORD_SYNC] = {"sync", "", ""},
    [RECORD_DISCARD] = {"discard", "offset", "length"},
    [RECORD_TRUNCATE] = {"truncate", "size", ""},
    [RECORD_DISK_FAULT] = {"disk fault", "fault", "slowdown_ppm"},
    [RECORD_LOST] = {"write lost", "offset", "length"},
    [RECORD_TORN] = {"write torn", "offset", "length"},
    [RECORD_CONNECT] = {"connect", "to", "port"},
    [RECORD_SEND] = {"send", "to", "hash"},
    [RECORD_ARRIVE] = {"arrive", "from", "length"},
    [RECORD_END] = {"end arrives", "from", ""},
    [RECORD_RESET] = {"reset arrives", "from", ""},
    [RECORD_SPOILED] = {"write spoiled", "offset", "went to"},
    [RECORD_LINK] = {"link", "to", "delay_ns"},
    [RECORD_CUT] = {"cut", "from", "to"},
    [RECORD_HEAL] = {"heal", "from", "to"},
    [RECORD_HANG] = {"hang", "kinds", ""},
    [RECORD_JOBS_HANG] = {"jobs hang", "until", ""},
};

static void print_value(FILE *file, const char *name, uint64_t value)
{
    if (strcmp(name, "hash") == 0)
        fprintf(file, " hash=%016" PRIx64, value);
    else if (*name)
        fprintf(file, " %s=%" PRId64, name, (int64_t)value);
}

static void print_record(FILE *file, const struct sim_last_record *record)
{
    fprintf(file, "%12.6f ms  m%u %s", (double)record->at_ns / 1e6, record->machine,
            record_names[record->what].name);
    print_value(file, record_names[record->what].a, record->a);
    print_value(file, record_names[record->what].b, record->b);
    fputc('\n', file);
}

void sim_note(struct sim *sim, enum sim_record what, unsigned machine, uint64_t a, uint64_t b)
{
    uint64_t words[] = {sim->transcript_hash, sim->now_ns, what, machine, a, b};
    struct sim_last_record *record = &sim->last_records[sim->record_count++ % SIM_LAST_RECORDS];

    sim->transcript_hash = hash64(words, sizeof(words));
    *record = (struct sim_last_record){sim->now_ns, a, b, what, machine};
    if (sim->transcript)
        print_record(sim->transcript, record);
}

void sim_print_last(const struct sim *sim, void *stdio_file)
{
    uint64_t first = sim->record_count - MIN(sim->record_count, (uint64_t)SIM_LAST_RECORDS);

    for (uint64_t i = first; i < sim->record_count; i++)
        print_record(stdio_file, &sim->last_records[i % SIM_LAST_RECORDS]);
}

uint64_t sim_transcript_hash(const struct sim *sim)
{
    return sim->transcript_hash;
}

void sim_transcript_log(struct log_sink *sink, enum log_level level, const char *line)
{
    struct machine *machine = container_of(sink, struct machine, log);

    (void)level;
    if (machine->sim->transcript)
        fprintf(machine->sim->transcript, "%s\n", line);
}

void sim_set_transcript(struct sim *sim, void *stdio_file)
{
    sim->transcript = stdio_file;
    for (unsigned i = 1; i <= SIM_MACHINES_MAX; i++) {
        struct machine *machine = sim->machines[i];

        /* Without a transcript nothing is even formatted. */
        if (machine && machine->up && (!machine->io.log || machine->io.log == &machine->log))
            machine->io.log = stdio_file ? &machine->log : NULL;
    }
}
