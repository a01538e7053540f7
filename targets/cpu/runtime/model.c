/* An instance of a compiled model, and how it runs: every thread walks the list of launches and does its part of each. */
#define _GNU_SOURCE
#include "runtime.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define LINE 64
#define HUGE_PAGE ((size_t)2 << 20)
#define MAX_THREADS 1024
/* A thread takes its own tiles in this many pieces, so that a thread that is done early can take over some of another's. */
#define PIECES 8

struct burnish_model {
    const burnish_program *program;
    const burnish_launch *launches;     /* what to run: the program's launches, or its setup */
    int launch_count;
    burnish_memory memory;
    char *scratch;
    size_t scratch_stride;
    atomic_int *taken;      /* [thread][launch]: how many tiles of the thread's own share have been handed out */
    size_t taken_stride;
    double *seconds;
    burnish_team *team;     /* null where there is one thread */
    int threads;
    atomic_flag busy;
};

static size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* This thread's part of a launch. The split is the same in every launch, so that a thread mostly reads what it wrote itself. */
static void share(burnish_model *m, const burnish_launch *launch, int n, int thread, void *scratch) {
    for (int k = 0; k < m->threads; k++) {
        int owner = (thread + k) % m->threads;
        int32_t begin = (int32_t)((int64_t)launch->tiles * owner / m->threads);
        int32_t end = (int32_t)((int64_t)launch->tiles * (owner + 1) / m->threads);
        int32_t piece = (end - begin + PIECES - 1) / PIECES;
        atomic_int *taken = &m->taken[(size_t)owner * m->taken_stride + (size_t)n];
        for (;;) {
            int32_t at = begin + atomic_fetch_add_explicit(taken, piece, memory_order_relaxed);
            if (at >= end)
                break;
            launch->run(&m->memory, scratch, at, end - at < piece ? end : at + piece);
        }
    }
}

static void walk(void *context, int thread) {
    burnish_model *m = context;
    /* Of this run: a member may still be behind the last barrier when member 0 begins the next one. */
    const burnish_launch *launches = m->launches;
    int count = m->launch_count;
    void *scratch = m->scratch + (size_t)thread * m->scratch_stride;
    double start = thread == 0 && m->seconds ? now() : 0;
    for (int n = 0; n < count; n++) {
        const burnish_launch *launch = &launches[n];
        int serial = m->threads == 1 || launch->serial;
        if (!serial)
            share(m, launch, n, thread, scratch);
        else if (thread == 0)
            launch->run(&m->memory, scratch, 0, launch->tiles);
        /* Serial launches in a row need no barrier: thread 0 does them all, and it alone returns to a caller. */
        int next_is_shared = n + 1 < count && !launches[n + 1].serial;
        if (m->team && (!serial || next_is_shared))
            burnish_team_barrier(m->team);
        if (thread == 0 && m->seconds) {
            double end = now();
            m->seconds[n] = end - start;
            start = end;
        }
    }
}

static int any_shared(const burnish_launch *launches, int count) {
    for (int n = 0; n < count; n++)
        if (!launches[n].serial)
            return 1;
    return 0;
}

/* With the team, where there is one and it would meet at a barrier. */
static void run_all(burnish_model *m, const burnish_launch *launches, int count, int shared) {
    m->launches = launches;
    m->launch_count = count;
    if (m->team && shared) {
        memset(m->taken, 0, (size_t)m->threads * m->taken_stride * sizeof *m->taken);
        burnish_team_run(m->team);
    } else {
        walk(m, 0);
    }
}

static int any_null(const void *const *pointers, int count) {
    for (int n = 0; n < count; n++)
        if (!pointers[n])
            return 1;
    return 0;
}

int burnish_run(burnish_model *m, const void *const *inputs, void *const *outputs, double *seconds) {
    if (!m)
        return BURNISH_ARGUMENT;
    const burnish_program *p = m->program;
    if ((p->input_count && (!inputs || any_null(inputs, p->input_count)))
        || (p->output_count && (!outputs || any_null((const void *const *)outputs, p->output_count))))
        return BURNISH_ARGUMENT;
    if (atomic_flag_test_and_set_explicit(&m->busy, memory_order_acquire))
        return BURNISH_BUSY;
    m->memory.inputs = (void *const *)inputs;
    m->memory.outputs = outputs;
    m->seconds = seconds;
    run_all(m, p->launches, p->launch_count, 1);
    atomic_flag_clear_explicit(&m->busy, memory_order_release);
    return BURNISH_OK;
}

/* One block holds the instance, its counters, the arena, the scratch of every thread and the prepared constants. */
static burnish_model *allocate(const burnish_program *p, int threads) {
    int count = p->launch_count > p->setup_count ? p->launch_count : p->setup_count;
    size_t taken_stride = round_up((size_t)count, LINE / sizeof(atomic_int));
    size_t scratch_stride = round_up(p->scratch_bytes, LINE);
    size_t taken_at = round_up(sizeof(burnish_model), LINE);
    size_t arena_at = taken_at + (size_t)threads * taken_stride * sizeof(atomic_int);
    size_t scratch_at = arena_at + round_up(p->arena_bytes, LINE);
    size_t prepared_at = scratch_at + (size_t)threads * scratch_stride;
    size_t bytes = prepared_at + p->prepared_bytes;
    size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : LINE;
    char *block = NULL;
    if (posix_memalign((void **)&block, alignment, round_up(bytes, alignment)) != 0)
        return NULL;
#ifdef MADV_HUGEPAGE
    if (alignment == HUGE_PAGE)
        madvise(block, round_up(bytes, alignment), MADV_HUGEPAGE);     /* only advice: fewer TLB misses */
#endif
    burnish_model *m = (burnish_model *)block;
    memset(m, 0, sizeof *m);
    m->program = p;
    m->threads = threads;
    m->taken = (atomic_int *)(block + taken_at);
    m->taken_stride = taken_stride;
    m->memory.arena = block + arena_at;
    m->memory.prepared = block + prepared_at;
    m->scratch = block + scratch_at;
    m->scratch_stride = scratch_stride;
    atomic_flag_clear(&m->busy);
    return m;
}

/* `threads`, or as many as there are CPUs; 1 where nothing is shared out, since a team must meet in every run. */
static int useful_threads(const burnish_program *p, int threads) {
    if (!any_shared(p->launches, p->launch_count))
        return 1;
    return threads ? threads : burnish_cpu_count();
}

int burnish_create(burnish_model **model, const burnish_program *program, const char *weights_path, int threads) {
    if (!model || !weights_path || threads < 0 || threads > MAX_THREADS)
        return BURNISH_ARGUMENT;
    *model = NULL;
    if (!burnish_cpu_has(program->isa))
        return BURNISH_CPU;
    burnish_model *m = allocate(program, useful_threads(program, threads));
    if (!m)
        return BURNISH_MEMORY;
    int error = burnish_weights_open(weights_path, program->weight_bytes, program->weight_id, &m->memory.weights);
    if (!error && m->threads > 1)
        error = burnish_team_create(&m->team, m->threads, walk, m);
    if (error) {
        burnish_destroy(m);
        return error;
    }
    run_all(m, program->setups, program->setup_count, any_shared(program->setups, program->setup_count));
    *model = m;
    return BURNISH_OK;
}

void burnish_destroy(burnish_model *m) {
    if (!m)
        return;
    burnish_team_destroy(m->team);
    burnish_weights_close(m->memory.weights, m->program->weight_bytes);
    free(m);
}

int burnish_threads(const burnish_model *m) { return m ? m->threads : 0; }

const char *burnish_error(int code) {
    switch (code) {
#define ERROR(name, number, text) case number: return text;
#include "errors.def"
#undef ERROR
    default: return "not an error code";
    }
}
