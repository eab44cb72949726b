/* How a run ends badly: a check of the world's, an assertion of the code that runs, a signal. All
 * say the same things: what, at which virtual time, the last steps, the line that repeats it.
 *
 * S2D_SIM_ABORT=1 in the environment leaves the process to a debugger instead. */
#include <signal.h>
#include <stdarg.h>
#include <unistd.h>

#include "sim_commit.h" /* made by the build: S2D_COMMIT */
#include "tests/sim/sim_world.h"

/* Signals and assertions know of nobody: whose run it is stands here. */
static struct world *reported;

/* The command that repeats the run. */
static void print_repeat(const struct run_options *options)
{
    printf("repeat with: %s --seed %llu", options->program ? options->program : "cluster_sim",
           (unsigned long long)options->seed);
    if (options->seconds)
        printf(" --seconds %llu", (unsigned long long)options->seconds);
    if (options->shared)
        printf(" --shared");
    if (options->stalls)
        printf(" --stalls");
    if (options->nodes && !options->program)
        printf(" --nodes %u", options->nodes);
    if (options->caches != CACHES_BY_SEED && !options->plain)
        printf(" --caches %u", options->caches);
    if (options->vms != VMS_BY_SEED && !options->plain)
        printf(" --vms %u", options->vms);
    if (options->groups != GROUPS_BY_SEED && !options->plain)
        printf(" --groups %u", options->groups);
    if (options->forget_ms != FORGET_BY_SEED && !options->plain)
        printf(" --forget %u", options->forget_ms);
    if (options->faults && !options->program)
        printf(" --faults %s", *options->faults ? options->faults : "none");
    printf(" --log\n");
}

static void print_end(struct world *world, const char *reason)
{
    const struct run_options *options = &world->options;

    fflush(NULL);
    printf("FAILED seed %llu: %s\n", (unsigned long long)options->seed, reason);
    printf("at %.6f s, commit %s; the last steps:\n", (double)world_now_ns(world) / 1e9,
           S2D_COMMIT);
    sim_print_last(world->sim, stdout);
    print_repeat(options);
    fflush(stdout);
}

_Noreturn static void end(struct world *world, const char *reason)
{
    reported = NULL;
    if (world)
        print_end(world, reason);
    else
        fprintf(stderr, "FAILED outside of a run: %s\n", reason);
    if (getenv("S2D_SIM_ABORT"))
        abort();
    _exit(1);
}

void world_fail(struct world *world, const char *format, ...)
{
    char reason[1024];
    va_list list;

    va_start(list, format);
    vsnprintf(reason, sizeof(reason), format, list);
    va_end(list);
    end(world, reason);
}

/* In the place of the C library's: the code under test asserts, and the run is to be named. */
void __assert_fail(const char *expression, const char *file, unsigned line, const char *function)
{
    char reason[1024];

    snprintf(reason, sizeof(reason), "assertion %s, %s:%u (%s)", expression, file, line, function);
    end(reported, reason);
}

static void on_signal(int signal)
{
    char reason[64];

    snprintf(reason, sizeof(reason), "signal %d (%s)", signal, strsignal(signal));
    end(reported, reason);
}

void report_for(struct world *world)
{
    static char stack[64 * 1024]; /* a coroutine's own may be what overflowed */
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESETHAND};

    reported = world;
#if !defined(__SANITIZE_ADDRESS__)
    sigaltstack(&alternative, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
#else
    (void)alternative; /* the sanitizer says more */
#endif
    sigaction(SIGABRT, &action, NULL);
}

void world_tell(struct world *world, const char *format, ...)
{
    va_list list;

    if (!world->options.log)
        return;
    printf("%12.6f ms  ", (double)world_now_ns(world) / 1e6);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    putchar('\n');
}
