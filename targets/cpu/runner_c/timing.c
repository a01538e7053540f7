/* Times steps: rounds of two passes, alternatives in turn. schedules/measure.py says what is asked for. */
#define _GNU_SOURCE
#include "runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SHORTEST 50e-6                  /* seconds of a sample of one kernel by itself: the clock's own 20 ns vanish in it */
#define MAX_REPEATS (1u << 20)

typedef struct {
    call call;
    double *samples, best;
    uint64_t count, room;
    uint32_t repeats;       /* calls in one sample */
} alternative;

typedef struct {
    alternative *all;
    uint32_t count, at;     /* at: whose turn it is */
    double best;
} step;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int slow(const step *s, const alternative *a, double give_up) {
    return give_up > 0 && a->count >= 3 && a->best > give_up * s->best;
}

/* One sample. shortest: seconds below which it is taken again with more calls in it. Returns 0 where there is no memory left. */
static int sample(step *s, double shortest) {
    alternative *a = &s->all[s->at];
    double seconds;
    for (;;) {
        double start = now();
        for (uint32_t n = 0; n < a->repeats; n++)
            invoke(&a->call);
        seconds = now() - start;
        if (seconds >= shortest || a->repeats >= MAX_REPEATS)
            break;
        a->repeats *= 2;
    }
    seconds = fmax(seconds, 1e-9) / a->repeats;     /* the clock's step */
    if (a->count == a->room) {
        uint64_t room = a->room ? 2 * a->room : 64;
        double *samples = realloc(a->samples, (size_t)room * sizeof *samples);
        if (!samples)
            return 0;
        a->samples = samples;
        a->room = room;
    }
    a->samples[a->count++] = seconds;
    a->best = fmin(a->best, seconds);
    s->best = fmin(s->best, seconds);
    return 1;
}

static int done(const step *s, uint32_t rounds, double give_up) {
    for (uint32_t n = 0; n < s->count; n++)
        if (s->all[n].count < rounds && !slow(s, &s->all[n], give_up))
            return 0;
    return 1;
}

/* The rounds. Returns 0 where there is no memory left. */
static int measure(step *steps, uint32_t count, uint32_t rounds, double seconds, double give_up) {
    double end = now() + seconds;
    for (int more = 1; more && now() < end;) {
        for (uint32_t n = 0; n < count; n++)
            invoke(&steps[n].all[steps[n].at].call);
        for (uint32_t n = 0; n < count; n++)
            if (!sample(&steps[n], count == 1 ? SHORTEST : 0))
                return 0;
        more = 0;
        for (step *s = steps; s < steps + count; s++) {
            more |= !done(s, rounds, give_up);
            do      /* ends: the best is never slow */
                s->at = (s->at + 1) % s->count;
            while (slow(s, &s->all[s->at], give_up));
        }
    }
    return 1;
}

static const char *read_step(runner *r, reader *body, step *s) {
    uint32_t count;
    if (!take(body, &count, sizeof count) || !holds(body, count, CALL_HEADER))
        return cut_short(r);
    if (count == 0)
        return fail(r, "a step without a call");
    s->all = calloc(count, sizeof *s->all);
    if (!s->all)
        return fail(r, "out of memory");
    s->count = count;
    s->best = INFINITY;
    for (uint32_t n = 0; n < count; n++) {
        s->all[n].repeats = 1;
        s->all[n].best = INFINITY;
        const char *why = read_call(r, body, &s->all[n].call);
        if (why)
            return why;
    }
    return NULL;
}

static void answer_samples(const step *steps, uint32_t count) {
    uint64_t size = 0;
    for (uint32_t n = 0; n < count; n++)
        for (uint32_t k = 0; k < steps[n].count; k++)
            size += 8 + 8 * steps[n].all[k].count;
    answer(0, size);
    for (uint32_t n = 0; n < count; n++)
        for (const alternative *a = steps[n].all; a < steps[n].all + steps[n].count; a++) {
            fwrite(&a->count, 8, 1, stdout);
            if (a->count)
                fwrite(a->samples, 8, (size_t)a->count, stdout);
        }
}

const char *time_steps(runner *r, reader *body) {
    uint32_t count, rounds;
    double seconds, give_up;
    if (!take(body, &count, 4) || !take(body, &rounds, 4) || !take(body, &seconds, 8) || !take(body, &give_up, 8)
        || !holds(body, count, 4))
        return cut_short(r);
    if (!(seconds >= 0) || !(give_up == 0 || give_up >= 1))
        return fail(r, "seconds must be 0 or more, give_up 0 or at least 1; they are %g and %g", seconds, give_up);
    step *steps = calloc((size_t)count + 1, sizeof *steps);
    if (!steps)
        return fail(r, "out of memory");
    const char *why = count ? NULL : fail(r, "no step to time");
    for (uint32_t n = 0; n < count && !why; n++)
        why = read_step(r, body, &steps[n]);
    if (!why && !measure(steps, count, rounds, seconds, give_up))
        why = fail(r, "out of memory");
    running = NULL;
    if (!why)
        answer_samples(steps, count);
    for (step *s = steps; s < steps + count; s++) {
        for (uint32_t k = 0; k < s->count; k++)
            free(s->all[k].samples);
        free(s->all);
    }
    free(steps);
    return why;
}
